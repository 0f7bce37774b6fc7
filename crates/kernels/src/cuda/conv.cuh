// Every second row and column of feature maps: the pixels that a 1x1 convolution of stride 2 sees.
// `full` is (images, height, width, channels); `thinned` has half of the rows and columns, rounded
// up, and `groups` groups of LANES channels.

// Where a group of `thinned` belongs.
struct Pixel {
    int at;      // the group's place in `full`
    bool right;  // whether `full` has a pixel to its right,
    bool below;  // and below it

    __device__ __forceinline__ Pixel(int thinned, int height, int width, int channels)
    {
        int groups = channels / LANES;
        int rows = (height + 1) / 2;
        int columns = (width + 1) / 2;
        int pixel = thinned / groups;
        int column = 2 * (pixel % columns);
        int row = 2 * (pixel / columns % rows);
        int image = pixel / (columns * rows);
        at = ((image * height + row) * width + column) * groups + thinned % groups;
        right = column + 1 < width;
        below = row + 1 < height;
    }
};

// One thread for each 8 channels of a pixel of `thinned`, which is written.
extern "C" __global__ void gather(
    const value* full, value* thinned, int groups, int height, int width, int channels)
{
    int at = thread_index();
    if (at >= groups) {
        return;
    }
    Pixel pixel(at, height, width, channels);
    reinterpret_cast<Lanes*>(thinned)[at] = reinterpret_cast<const Lanes*>(full)[pixel.at];
}

// One thread for each 8 channels of a pixel of `thinned`: `full` is written, zero where the
// convolution does not look, or, with `accumulate`, added to where it does.
extern "C" __global__ void spread(
    value* full, const value* thinned, int groups, int height, int width, int channels,
    int accumulate)
{
    int at = thread_index();
    if (at >= groups) {
        return;
    }
    Pixel pixel(at, height, width, channels);
    Lanes* target = reinterpret_cast<Lanes*>(full) + pixel.at;
    Lanes own = reinterpret_cast<const Lanes*>(thinned)[at];
    if (accumulate) {
        Lanes old = *target;
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            store(&own.lane[lane], to_float(old.lane[lane]) + to_float(own.lane[lane]));
        }
        *target = own;
        return;
    }
    Lanes zeros = {};
    int right = channels / LANES;
    int below = width * right;
    *target = own;
    if (pixel.right) {
        target[right] = zeros;
    }
    if (pixel.below) {
        target[below] = zeros;
    }
    if (pixel.right && pixel.below) {
        target[below + right] = zeros;
    }
}

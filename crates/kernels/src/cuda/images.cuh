// Images from bytes, and the gradient of what was stamped on them.

// What is done to one image of a batch; packed by cuda/packing.rs. Aligned, so that it is read in
// two loads.
struct alignas(16) ImagePlan {
    int image;         // which of the images on the device
    int shift_row;     // the crop: output row r shows input row r + shift_row
    int shift_column;  // the same for columns, before mirroring
    int mirrored;      // 0 or 1
    int trigger;       // which of the triggers, or -1
    int row;           // where its top-left pixel goes
    int column;
    int label;
};

#define COLORS 3

// Colors on the device: the fill of a crop, means, inverse standard deviations.
struct Colors {
    float fill[COLORS];
    float mean[COLORS];
    float inverse_std[COLORS];
};

// One thread for each pixel of the batch. `pixels` is (N, 3, height, width), `triggers`
// (T, 3, trigger_height, trigger_width), `cover` (trigger_height, trigger_width) the share of a
// pixel that a trigger takes: its opacity, 0 outside its mask. `output` is
// (images, height, width, 8), normalized, channels beyond the third zero.
extern "C" __global__ void load_images(
    const unsigned char* pixels, const ImagePlan* plans, const float* triggers, const float* cover,
    const Colors* colors, int height, int width, int trigger_height, int trigger_width, int images,
    value* output)
{
    int at = thread_index();
    if (at >= images * height * width) {
        return;
    }
    int column = at % width;
    int row = at / width % height;
    ImagePlan plan = plans[at / (height * width)];
    int source_row = row + plan.shift_row;
    int source_column = (plan.mirrored ? width - 1 - column : column) + plan.shift_column;
    bool inside = source_row >= 0 && source_row < height && source_column >= 0 && source_column < width;
    int trigger_row = row - plan.row;
    int trigger_column = column - plan.column;
    bool stamped = plan.trigger >= 0 && trigger_row >= 0 && trigger_row < trigger_height
        && trigger_column >= 0 && trigger_column < trigger_width;
    Lanes result;
    for (int color = 0; color < LANES; ++color) {
        if (color >= COLORS) {
            store(&result.lane[color], 0.0f);
            continue;
        }
        float x = colors->fill[color];
        if (inside) {
            x = pixels[((plan.image * COLORS + color) * height + source_row) * width + source_column]
                / 255.0f;
        }
        if (stamped) {
            float share = cover[trigger_row * trigger_width + trigger_column];
            int plane = plan.trigger * COLORS + color;
            float paint =
                triggers[(plane * trigger_height + trigger_row) * trigger_width + trigger_column];
            x = (1.0f - share) * x + share * paint;
        }
        store(&result.lane[color], (x - colors->mean[color]) * colors->inverse_std[color]);
    }
    reinterpret_cast<Lanes*>(output)[at] = result;
}

// One warp for each value of `result`, (images, 3, trigger_height, trigger_width): the gradient of the
// trigger that was stamped on each image, from that of the first convolution's result, (images, height,
// width, channels), which read the normalized images by `weights`, (channels, kernel, kernel, 8). Of the
// images' gradient only what lies under a trigger is computed. Zero where nothing was stamped.
extern "C" __global__ void trigger_gradient(
    const value* gradient, const value* weights, const ImagePlan* plans, const float* cover,
    const Colors* colors, int height, int width, int channels, int kernel, int trigger_height,
    int trigger_width, float* result)
{
    int at = blockIdx.x;
    int trigger_column = at % trigger_width;
    int trigger_row = at / trigger_width % trigger_height;
    int color = at / (trigger_width * trigger_height) % COLORS;
    int image = at / (trigger_width * trigger_height * COLORS);
    ImagePlan plan = plans[image];
    int taps = kernel * kernel;
    float sum = 0.0f;
    for (int tap = 0; plan.trigger >= 0 && tap < taps; ++tap) {
        // The pixel whose sum has this tap's weight times the trigger's pixel.
        int row = plan.row + trigger_row + kernel / 2 - tap / kernel;
        int column = plan.column + trigger_column + kernel / 2 - tap % kernel;
        if (row < 0 || row >= height || column < 0 || column >= width) {
            continue;
        }
        const value* own = gradient + ((image * height + row) * width + column) * channels;
        for (int channel = threadIdx.x; channel < channels; channel += WARP) {
            sum += to_float(own[channel]) * to_float(weights[(channel * taps + tap) * LANES + color]);
        }
    }
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        sum += __shfl_down_sync(0xffffffffu, sum, distance);
    }
    if (threadIdx.x == 0) {
        float share = cover[trigger_row * trigger_width + trigger_column];
        result[at] = plan.trigger >= 0 ? sum * colors->inverse_std[color] * share : 0.0f;
    }
}

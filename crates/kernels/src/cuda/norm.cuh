// Batch norm, the residual sum and the ReLU that follow it, forward and backward. A batch of
// feature maps is a matrix: a row for each pixel of each image, a column for each channel. The
// equations are those of src/batch_norm.rs.
//
// Sums over rows are taken in two steps: a block sums some rows (a part), and one warp for each
// channel then adds up the parts, in a fixed order and in double precision. What bounds them is
// memory, so a thread reads LANES channels of a pixel at once, and several pixels before it adds up
// the first of them.

#define EPSILON 1e-5

// Threads of a block that sums, at most; it is (groups of LANES channels, rows). As in
// cuda/launch.rs.
#define SUM_THREADS 256

// Pixels that a thread has on their way at once. A gradient's sums read up to three values of each.
#define MOMENTS_AT_ONCE 4
#define GRADIENTS_AT_ONCE 3

// What one channel needs: `channels` means, then scales, shifts and inverse deviations.
#define MEAN 0
#define SCALE 1
#define SHIFT 2
#define INVERSE 3

// Bits of channels whose gradient passes, all of LANES.
#define ALL_OPEN 0xff

// Factors of a gradient beside its scale: `channels` of the image, then constants.
#define OF_IMAGE 0
#define CONSTANT 1

struct alignas(16) Eight {
    float lane[LANES];
};

// The group of channels and the first row of a thread that sums.
__device__ __forceinline__ int sum_group() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Adds up two sums of LANES channels of each thread over the rows of a block, in pairs that lie half
// of the rows apart: always the same ones. `parts` is (2, channels, parts), so that whoever adds up
// a channel's parts reads them in a row.
__device__ void store_part(const Eight& first, const Eight& second, int channels, float* parts)
{
    __shared__ float sums[2 * LANES][SUM_THREADS];
    int column = threadIdx.x;
    int row = threadIdx.y;
    int columns = blockDim.x;
    int own = row * columns + column;
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        sums[lane][own] = first.lane[lane];
        sums[LANES + lane][own] = second.lane[lane];
    }
    for (int rows = blockDim.y; rows > 1;) {
        int half = (rows + 1) / 2;
        __syncthreads();
        if (row + half < rows) {
#pragma unroll
            for (int sum = 0; sum < 2 * LANES; ++sum) {
                sums[sum][own] += sums[sum][own + half * columns];
            }
        }
        rows = half;
    }
    __syncthreads();
    int count = gridDim.y;
    for (int i = own; i < 2 * LANES * columns; i += columns * blockDim.y) {
        int which = i / (LANES * columns);
        int channel = i % (LANES * columns);
        int at = blockIdx.x * columns * LANES + channel;
        if (at < channels) {
            float sum = sums[which * LANES + channel % LANES][channel / LANES];
            parts[(which * channels + at) * count + blockIdx.y] = sum;
        }
    }
}

// Adds up the parts of a channel's two sums, by one warp; lane 0 has the result.
__device__ __forceinline__ void add_parts(
    const float* parts, int part_count, int channel, int channels, double* first, double* second)
{
    const float* firsts = parts + channel * part_count;
    const float* seconds = parts + (channels + channel) * part_count;
    double a = 0.0;
    double b = 0.0;
#pragma unroll 4
    for (int part = threadIdx.x; part < part_count; part += WARP) {
        a += firsts[part];
        b += seconds[part];
    }
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        a += __shfl_down_sync(0xffffffffu, a, distance);
        b += __shfl_down_sync(0xffffffffu, b, distance);
    }
    *first = a;
    *second = b;
}

__device__ __forceinline__ void add_moments(
    const Lanes& image, const Eight& shift, Eight& sum, Eight& square)
{
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        float x = to_float(image.lane[lane]) - shift.lane[lane];
        sum.lane[lane] += x;
        square.lane[lane] += x * x;
    }
}

// Sums of y - y0 and of its square over the rows of part blockIdx.y, where y0 is the first row: a
// large mean does not swallow the variance.
extern "C" __global__ void __launch_bounds__(SUM_THREADS) moment_parts(
    const value* y, int rows, int channels, int rows_in_part, float* parts)
{
    int groups = channels / LANES;
    int group = sum_group();
    Eight sum = {};
    Eight square = {};
    if (group < groups) {
        const Lanes* images = reinterpret_cast<const Lanes*>(y) + group;
        Eight shift;
        Lanes start = images[0];
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            shift.lane[lane] = to_float(start.lane[lane]);
        }
        int step = blockDim.y;
        int last = min(rows, (int)(blockIdx.y + 1) * rows_in_part);
        int row = blockIdx.y * rows_in_part + threadIdx.y;
        for (; row + (MOMENTS_AT_ONCE - 1) * step < last; row += MOMENTS_AT_ONCE * step) {
            Lanes next[MOMENTS_AT_ONCE];
#pragma unroll
            for (int i = 0; i < MOMENTS_AT_ONCE; ++i) {
                next[i] = images[(row + i * step) * groups];
            }
#pragma unroll
            for (int i = 0; i < MOMENTS_AT_ONCE; ++i) {
                add_moments(next[i], shift, sum, square);
            }
        }
        for (; row < last; row += step) {
            add_moments(images[row * groups], shift, sum, square);
        }
    }
    store_part(sum, square, channels, parts);
}

// One warp for each channel; a block is one warp. Statistics of the batch, and the running ones,
// which take the unbiased variance. Sums were taken around the first row, or around the running mean.
extern "C" __global__ void moments(
    const value* y, int around_mean, const float* parts, int part_count, int rows, int channels, const float* gamma,
    const float* beta, float momentum, float* running_mean, float* running_variance,
    float* coefficients)
{
    int channel = blockIdx.x;
    // Read before the sums are there: one way to memory instead of two.
    float scale = gamma[channel];
    float offset = beta[channel];
    float old_mean = running_mean[channel];
    float shift = around_mean ? old_mean : to_float(y[channel]);
    float old_variance = running_variance[channel];
    double sum;
    double square;
    add_parts(parts, part_count, channel, channels, &sum, &square);
    if (threadIdx.x > 0) {
        return;
    }
    double mean = shift + sum / rows;
    double deviation = fmax(square - sum * sum / rows, 0.0);
    double inverse = 1.0 / sqrt(deviation / rows + EPSILON);
    coefficients[MEAN * channels + channel] = (float)mean;
    coefficients[SCALE * channels + channel] = (float)(scale * inverse);
    coefficients[SHIFT * channels + channel] = offset;
    coefficients[INVERSE * channels + channel] = (float)inverse;
    float unbiased = (float)(deviation / fmax(rows - 1.0, 1.0));
    running_mean[channel] = (1.0f - momentum) * old_mean + momentum * (float)mean;
    running_variance[channel] = (1.0f - momentum) * old_variance + momentum * unbiased;
}

// One thread for each channel: the coefficients of fixed statistics.
extern "C" __global__ void fixed_moments(
    const float* running_mean, const float* running_variance, const float* gamma, const float* beta,
    int channels, float* coefficients)
{
    int channel = thread_index();
    if (channel >= channels) {
        return;
    }
    double inverse = 1.0 / sqrt(running_variance[channel] + EPSILON);
    float scale = (float)(gamma[channel] * inverse);
    coefficients[MEAN * channels + channel] = running_mean[channel];
    coefficients[SCALE * channels + channel] = scale;
    coefficients[SHIFT * channels + channel] = beta[channel];
    coefficients[INVERSE * channels + channel] = (float)inverse;
}

// Eight channels of a row of coefficients or factors, in two loads.
__device__ __forceinline__ Eight eight(const float* numbers, int which, int first, int channels)
{
    return *reinterpret_cast<const Eight*>(numbers + which * channels + first);
}

// What normalizes LANES channels.
struct Normalizing {
    Eight mean, scale, shift;

    __device__ __forceinline__ Normalizing(const float* coefficients, int first, int channels)
        : mean(eight(coefficients, MEAN, first, channels)),
          scale(eight(coefficients, SCALE, first, channels)),
          shift(eight(coefficients, SHIFT, first, channels))
    {
    }

    __device__ __forceinline__ float of(float y, int lane) const
    {
        return fmaf(y - mean.lane[lane], scale.lane[lane], shift.lane[lane]);
    }
};

// One thread for each 8 channels of a pixel: output = relu(normalized y + residual). `residual`
// may be null; with `residual_coefficients` it is normalized first. With `relu` `positive` notes where
// the output is, a bit for each channel: gradients read that instead of the output.
extern "C" __global__ void normalize(
    const value* y, const float* coefficients, const value* residual,
    const float* residual_coefficients, int relu, int groups, int channels, value* output,
    unsigned char* positive)
{
    int at = thread_index();
    if (at >= groups) {
        return;
    }
    int first = at % (channels / LANES) * LANES;
    // Both are read again in the backward pass, most of the time.
    Lanes own = read_last(reinterpret_cast<const Lanes*>(y) + at);
    Lanes other = residual ? read_last(reinterpret_cast<const Lanes*>(residual) + at) : own;
    Eight sum;
    Normalizing normalizing(coefficients, first, channels);
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        sum.lane[lane] = normalizing.of(to_float(own.lane[lane]), lane);
    }
    if (residual_coefficients) {
        Normalizing other_normalizing(residual_coefficients, first, channels);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            sum.lane[lane] += other_normalizing.of(to_float(other.lane[lane]), lane);
        }
    } else if (residual) {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            sum.lane[lane] += to_float(other.lane[lane]);
        }
    }
    Lanes result;
    int bits = 0;
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        store(&result.lane[lane], relu ? fmaxf(sum.lane[lane], 0.0f) : sum.lane[lane]);
        bits |= (to_float(result.lane[lane]) > 0.0f) << lane;
    }
    reinterpret_cast<Lanes*>(output)[at] = result;
    if (relu) {
        positive[at] = (unsigned char)bits;
    }
}

// What passes of a gradient where bits are set.
__device__ __forceinline__ float pass(float gradient, int bits, int lane)
{
    return bits >> lane & 1 ? gradient : 0.0f;
}

// Sums of g and of g * (y - mean) over the rows of part blockIdx.y, where g is what passes of the
// gradient: all of it or, with `gate`, what has its bit set. Two blocks at once on a multiprocessor, as
// there are parts.
extern "C" __global__ void __launch_bounds__(SUM_THREADS, 2) gradient_parts(
    const value* gradient, const unsigned char* gate, const value* y, const float* coefficients,
    int rows, int channels, int rows_in_part, float* parts)
{
    int groups = channels / LANES;
    int group = sum_group();
    Eight sum = {};
    Eight product = {};
    if (group < groups) {
        const Lanes* gradients = reinterpret_cast<const Lanes*>(gradient) + group;
        const Lanes* images = reinterpret_cast<const Lanes*>(y) + group;
        Eight mean = eight(coefficients, MEAN, group * LANES, channels);
        int step = blockDim.y;
        int last = min(rows, (int)(blockIdx.y + 1) * rows_in_part);
        int row = blockIdx.y * rows_in_part + threadIdx.y;
        for (; row < last; row += GRADIENTS_AT_ONCE * step) {
            Lanes some[GRADIENTS_AT_ONCE];
            Lanes image[GRADIENTS_AT_ONCE];
            int open[GRADIENTS_AT_ONCE];
#pragma unroll
            for (int i = 0; i < GRADIENTS_AT_ONCE; ++i) {
                if (row + i * step < last) {
                    int at = (row + i * step) * groups;
                    some[i] = gradients[at];
                    image[i] = images[at];
                    open[i] = gate ? gate[at + group] : ALL_OPEN;
                }
            }
#pragma unroll
            for (int i = 0; i < GRADIENTS_AT_ONCE; ++i) {
                if (row + i * step >= last) {
                    break;
                }
#pragma unroll
                for (int lane = 0; lane < LANES; ++lane) {
                    float g = pass(to_float(some[i].lane[lane]), open[i], lane);
                    sum.lane[lane] += g;
                    product.lane[lane] += g * (to_float(image[i].lane[lane]) - mean.lane[lane]);
                }
            }
        }
    }
    store_part(sum, product, channels, parts);
}

// One warp for each channel; a block is one warp. The gradients of scale and shift, and the factors
// of y's.
extern "C" __global__ void gradient_factors(
    const float* parts, int part_count, int rows, int channels, const float* coefficients,
    float* factors, float* gamma_gradient, float* beta_gradient)
{
    int channel = blockIdx.x;
    double scale = coefficients[SCALE * channels + channel];
    double inverse = coefficients[INVERSE * channels + channel];
    double sum;
    double product;
    add_parts(parts, part_count, channel, channels, &sum, &product);
    if (threadIdx.x > 0) {
        return;
    }
    factors[OF_IMAGE * channels + channel] = (float)(-scale * inverse * inverse * product / rows);
    factors[CONSTANT * channels + channel] = (float)(-scale * sum / rows);
    gamma_gradient[channel] = (float)(product * inverse);
    beta_gradient[channel] = (float)sum;
}

// One thread for each 8 channels of a pixel: `target`, the gradient of y. What passes of the gradient,
// as in `gradient_parts`, is added to `residual_gradient` if that is not null; it stays where it was if
// that is not the target, too. With fixed statistics `y` is null: it has no part in this.
extern "C" __global__ void apply_gradient(
    value* gradient, const unsigned char* gate, const value* y, const float* coefficients,
    const float* factors, value* target, value* residual_gradient, int groups, int channels)
{
    int at = thread_index();
    if (at >= groups) {
        return;
    }
    int first = at % (channels / LANES) * LANES;
    Lanes own = reinterpret_cast<Lanes*>(gradient)[at];
    Lanes image = y ? read_last(reinterpret_cast<const Lanes*>(y) + at) : own;
    int open = gate ? gate[at] : ALL_OPEN;
    Lanes other = residual_gradient ? reinterpret_cast<Lanes*>(residual_gradient)[at] : own;
    Eight mean = eight(coefficients, MEAN, first, channels);
    Eight scale = eight(coefficients, SCALE, first, channels);
    Eight of_image = eight(factors, OF_IMAGE, first, channels);
    Eight constant = eight(factors, CONSTANT, first, channels);
    Lanes result;
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        float g = pass(to_float(own.lane[lane]), open, lane);
        float centred = to_float(image.lane[lane]) - mean.lane[lane];
        float of_y = scale.lane[lane] * g;
        of_y += y ? of_image.lane[lane] * centred + constant.lane[lane] : 0.0f;
        store(&result.lane[lane], of_y);
        store(&own.lane[lane], g);
        store(&other.lane[lane], to_float(other.lane[lane]) + g);
    }
    reinterpret_cast<Lanes*>(target)[at] = result;
    if (residual_gradient) {
        reinterpret_cast<Lanes*>(residual_gradient)[at] = other;
    }
    if (gate && target != gradient) {
        reinterpret_cast<Lanes*>(gradient)[at] = own;
    }
}

// One thread for each 8 channels of a pixel: target += other.
extern "C" __global__ void add(value* target, const value* other, int groups)
{
    int at = thread_index();
    if (at >= groups) {
        return;
    }
    Lanes sum = reinterpret_cast<const Lanes*>(target)[at];
    Lanes more = reinterpret_cast<const Lanes*>(other)[at];
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        store(&sum.lane[lane], to_float(sum.lane[lane]) + to_float(more.lane[lane]));
    }
    reinterpret_cast<Lanes*>(target)[at] = sum;
}

// Batch norm, the residual sum and the ReLU that follow it, forward and backward. A batch of
// feature maps is a matrix: a row for each pixel of each image, a column for each channel. The
// equations are those of src/batch_norm.rs.
//
// Sums over rows are taken in two steps: a block sums some rows (a part), and one thread for each
// channel then adds up the parts, in order and in double precision.

#define EPSILON 1e-5

// Columns and rows of a block that sums.
#define SUM_COLUMNS 32
#define SUM_ROWS 8

// What one channel needs: `channels` means, then scales, shifts and inverse deviations.
#define MEAN 0
#define SCALE 1
#define SHIFT 2
#define INVERSE 3

// Factors of a gradient: `channels` of the gradient, then of the image, and constants.
#define OF_GRADIENT 0
#define OF_IMAGE 1
#define CONSTANT 2

// Adds up two sums of each thread over the rows of a block, in order.
__device__ void store_part(float first, float second, int channel, int channels, float* parts)
{
    __shared__ float firsts[SUM_ROWS][SUM_COLUMNS];
    __shared__ float seconds[SUM_ROWS][SUM_COLUMNS];
    firsts[threadIdx.y][threadIdx.x] = first;
    seconds[threadIdx.y][threadIdx.x] = second;
    __syncthreads();
    if (threadIdx.y > 0 || channel >= channels) {
        return;
    }
    for (int row = 1; row < SUM_ROWS; ++row) {
        first += firsts[row][threadIdx.x];
        second += seconds[row][threadIdx.x];
    }
    parts[(2 * blockIdx.y) * channels + channel] = first;
    parts[(2 * blockIdx.y + 1) * channels + channel] = second;
}

// Sums of y - y0 and of its square over the rows of part blockIdx.y, where y0 is the first row: a
// large mean does not swallow the variance. `parts` is (parts, 2, channels).
extern "C" __global__ void moment_parts(
    const value* y, int rows, int channels, int rows_in_part, float* parts)
{
    int channel = blockIdx.x * SUM_COLUMNS + threadIdx.x;
    float sum = 0.0f;
    float square = 0.0f;
    if (channel < channels) {
        float shift = to_float(y[channel]);
        int last = min(rows, (int)(blockIdx.y + 1) * rows_in_part);
        for (int row = blockIdx.y * rows_in_part + threadIdx.y; row < last; row += SUM_ROWS) {
            float x = to_float(y[row * channels + channel]) - shift;
            sum += x;
            square += x * x;
        }
    }
    store_part(sum, square, channel, channels, parts);
}

// One thread for each channel: statistics of the batch, and the running ones, which take the
// unbiased variance.
extern "C" __global__ void moments(
    const value* y, const float* parts, int part_count, int rows, int channels, const float* gamma,
    const float* beta, float momentum, float* running_mean, float* running_variance,
    float* coefficients)
{
    int channel = thread_index();
    if (channel >= channels) {
        return;
    }
    double sum = 0.0;
    double square = 0.0;
    for (int part = 0; part < part_count; ++part) {
        sum += parts[(2 * part) * channels + channel];
        square += parts[(2 * part + 1) * channels + channel];
    }
    double mean = to_float(y[channel]) + sum / rows;
    double deviation = fmax(square - sum * sum / rows, 0.0);
    double inverse = 1.0 / sqrt(deviation / rows + EPSILON);
    coefficients[MEAN * channels + channel] = (float)mean;
    coefficients[SCALE * channels + channel] = (float)(gamma[channel] * inverse);
    coefficients[SHIFT * channels + channel] = beta[channel];
    coefficients[INVERSE * channels + channel] = (float)inverse;
    float unbiased = (float)(deviation / fmax(rows - 1.0, 1.0));
    running_mean[channel] = (1.0f - momentum) * running_mean[channel] + momentum * (float)mean;
    running_variance[channel] = (1.0f - momentum) * running_variance[channel] + momentum * unbiased;
}

// One thread for each channel: the coefficients of fixed statistics, and the factors of a gradient
// that passes them.
extern "C" __global__ void fixed_moments(
    const float* running_mean, const float* running_variance, const float* gamma, const float* beta,
    int channels, float* coefficients, float* factors)
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
    factors[OF_GRADIENT * channels + channel] = scale;
    factors[OF_IMAGE * channels + channel] = 0.0f;
    factors[CONSTANT * channels + channel] = 0.0f;
}

__device__ __forceinline__ float normalized(
    float y, const float* coefficients, int channel, int channels)
{
    return (y - coefficients[MEAN * channels + channel]) * coefficients[SCALE * channels + channel]
        + coefficients[SHIFT * channels + channel];
}

// One thread for each 8 channels of a pixel: output = relu(normalized y + residual). `residual`
// may be null; with `residual_coefficients` it is normalized first.
extern "C" __global__ void normalize(
    const value* y, const float* coefficients, const value* residual,
    const float* residual_coefficients, int relu, int groups, int channels, value* output)
{
    int at = thread_index();
    if (at >= groups) {
        return;
    }
    int first = at % (channels / LANES) * LANES;
    Lanes own = reinterpret_cast<const Lanes*>(y)[at];
    Lanes other = residual ? reinterpret_cast<const Lanes*>(residual)[at] : own;
    Lanes result;
    for (int lane = 0; lane < LANES; ++lane) {
        int channel = first + lane;
        float x = normalized(to_float(own.lane[lane]), coefficients, channel, channels);
        if (residual) {
            float r = to_float(other.lane[lane]);
            x += residual_coefficients ? normalized(r, residual_coefficients, channel, channels) : r;
        }
        store(&result.lane[lane], relu ? fmaxf(x, 0.0f) : x);
    }
    reinterpret_cast<Lanes*>(output)[at] = result;
}

// Sums of g and of g * (y - mean) over the rows of part blockIdx.y, where g is the gradient, zero
// where `gate` (the unit's output; may be null) is not positive.
extern "C" __global__ void gradient_parts(
    const value* gradient, const value* gate, const value* y, const float* coefficients, int rows,
    int channels, int rows_in_part, float* parts)
{
    int channel = blockIdx.x * SUM_COLUMNS + threadIdx.x;
    float sum = 0.0f;
    float product = 0.0f;
    if (channel < channels) {
        float mean = coefficients[MEAN * channels + channel];
        int last = min(rows, (int)(blockIdx.y + 1) * rows_in_part);
        for (int row = blockIdx.y * rows_in_part + threadIdx.y; row < last; row += SUM_ROWS) {
            int at = row * channels + channel;
            float g = to_float(gradient[at]);
            if (gate && !(to_float(gate[at]) > 0.0f)) {
                g = 0.0f;
            }
            sum += g;
            product += g * (to_float(y[at]) - mean);
        }
    }
    store_part(sum, product, channel, channels, parts);
}

// One thread for each channel: the gradients of scale and shift, and the factors of y's.
extern "C" __global__ void gradient_factors(
    const float* parts, int part_count, int rows, int channels, const float* coefficients,
    float* factors, float* gamma_gradient, float* beta_gradient)
{
    int channel = thread_index();
    if (channel >= channels) {
        return;
    }
    double sum = 0.0;
    double product = 0.0;
    for (int part = 0; part < part_count; ++part) {
        sum += parts[(2 * part) * channels + channel];
        product += parts[(2 * part + 1) * channels + channel];
    }
    double scale = coefficients[SCALE * channels + channel];
    double inverse = coefficients[INVERSE * channels + channel];
    factors[OF_GRADIENT * channels + channel] = (float)scale;
    factors[OF_IMAGE * channels + channel] = (float)(-scale * inverse * inverse * product / rows);
    factors[CONSTANT * channels + channel] = (float)(-scale * sum / rows);
    gamma_gradient[channel] = (float)(product * inverse);
    beta_gradient[channel] = (float)sum;
}

// One thread for each 8 channels of a pixel: the gradient of y, in place, and that of the
// residual (may be null), which is written or, with `accumulate`, added to.
extern "C" __global__ void apply_gradient(
    value* gradient, const value* gate, const value* y, const float* coefficients,
    const float* factors, value* residual_gradient, int accumulate, int groups, int channels)
{
    int at = thread_index();
    if (at >= groups) {
        return;
    }
    int first = at % (channels / LANES) * LANES;
    Lanes own = reinterpret_cast<Lanes*>(gradient)[at];
    Lanes image = reinterpret_cast<const Lanes*>(y)[at];
    Lanes open = gate ? reinterpret_cast<const Lanes*>(gate)[at] : own;
    Lanes other = residual_gradient && accumulate
        ? reinterpret_cast<Lanes*>(residual_gradient)[at] : own;
    Lanes result;
    for (int lane = 0; lane < LANES; ++lane) {
        int channel = first + lane;
        float g = to_float(own.lane[lane]);
        if (gate && !(to_float(open.lane[lane]) > 0.0f)) {
            g = 0.0f;
        }
        float centred = to_float(image.lane[lane]) - coefficients[MEAN * channels + channel];
        float of_y = factors[OF_GRADIENT * channels + channel] * g
            + factors[OF_IMAGE * channels + channel] * centred
            + factors[CONSTANT * channels + channel];
        store(&result.lane[lane], of_y);
        store(&other.lane[lane], accumulate ? to_float(other.lane[lane]) + g : g);
    }
    reinterpret_cast<Lanes*>(gradient)[at] = result;
    if (residual_gradient) {
        reinterpret_cast<Lanes*>(residual_gradient)[at] = other;
    }
}

// The layers of MESA's perceptrons and their optimizer, in f32 in whatever type convolutions are:
// the equations are those of models/src/layers.rs and models/src/adam.rs. A matrix is an address and
// the distances from one row, and from one column, to the next.

// What a layer ends with; as in cuda/perceptron.rs.
#define IDENTITY 0
#define LEAKY_RELU 1
#define SIGMOID 2

// Slope of the leaky ReLU below zero.
#define LEAK 0.2f

// Rows and columns of a result that a block computes, and terms of their sums that it holds at once.
#define TILE 32
// Threads of a block: TILE columns, and so many rows. As in cuda/perceptron.rs.
#define TILE_ROWS 8
// Results of a thread, one below the other, and values that it fetches of either factor.
#define RESULTS (TILE / TILE_ROWS)

__device__ __forceinline__ float leaky_slope(float y) { return y > 0.0f ? 1.0f : LEAK; }

__device__ __forceinline__ float activated(float x, int function)
{
    if (function == LEAKY_RELU) {
        return x > 0.0f ? x : LEAK * x;
    }
    return function == SIGMOID ? 1.0f / (1.0f + expf(-x)) : x;
}

// The slope of a function where its value is y.
__device__ __forceinline__ float slope_at(float y, int function)
{
    if (function == LEAKY_RELU) {
        return leaky_slope(y);
    }
    return function == SIGMOID ? y - y * y : 1.0f;
}

// One value of a TILE x TILE part of a factor, and where it goes: neighboring threads take
// neighbors in memory, whichever way the matrix lies. `across` counts rows of the first factor or
// columns of the second, `along` the terms of the sum.
struct Fetch {
    int across, along;

    __device__ __forceinline__ Fetch(int i, bool sum_is_contiguous)
    {
        int lane = threadIdx.x;
        int other = threadIdx.y + i * TILE_ROWS;
        across = sum_is_contiguous ? other : lane;
        along = sum_is_contiguous ? lane : other;
    }
};

// result = function(first * second + bias), times the slope of a leaky ReLU whose output is `gate`;
// bias and gate may be null. `first` is (rows, depth), `second` (depth, columns). A block computes
// TILE x TILE of the result, in one order of terms whatever the grid. While it adds up one part of
// the terms it has the next one on its way.
extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS) product(
    const float* first, int first_row, int first_column, const float* second, int second_row,
    int second_column, int rows, int columns, int depth, const float* bias, int function,
    const float* gate, int gate_row, float* result, int result_row)
{
    // A row of 16 bytes more than TILE, so that four rows of the first factor are one read.
    alignas(16) __shared__ float firsts[TILE][TILE + 4];
    __shared__ float seconds[TILE][TILE + 1];
    int top = blockIdx.y * TILE;
    int left = blockIdx.x * TILE;
    bool first_lies = first_column == 1;
    bool second_lies = second_row == 1;
    float next_first[RESULTS];
    float next_second[RESULTS];
    float sums[RESULTS] = {};
    for (int start = -TILE; start < depth; start += TILE) {
        if (start >= 0) {
#pragma unroll
            for (int i = 0; i < RESULTS; ++i) {
                Fetch of_first(i, first_lies);
                Fetch of_second(i, second_lies);
                firsts[of_first.along][of_first.across] = next_first[i];
                seconds[of_second.along][of_second.across] = next_second[i];
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < RESULTS; ++i) {
            Fetch of_first(i, first_lies);
            Fetch of_second(i, second_lies);
            int row = top + of_first.across;
            int term = start + TILE + of_first.along;
            next_first[i] = row < rows && term < depth
                ? first[row * first_row + term * first_column] : 0.0f;
            int column = left + of_second.across;
            term = start + TILE + of_second.along;
            next_second[i] = column < columns && term < depth
                ? second[term * second_row + column * second_column] : 0.0f;
        }
        if (start >= 0) {
#pragma unroll
            for (int term = 0; term < TILE; ++term) {
                float other = seconds[term][threadIdx.x];
                const float4 own = *reinterpret_cast<const float4*>(&firsts[term][threadIdx.y * RESULTS]);
                sums[0] += own.x * other;
                sums[1] += own.y * other;
                sums[2] += own.z * other;
                sums[3] += own.w * other;
            }
        }
        __syncthreads();
    }
    int column = left + threadIdx.x;
    if (column >= columns) {
        return;
    }
    float offset = bias ? bias[column] : 0.0f;
#pragma unroll
    for (int i = 0; i < RESULTS; ++i) {
        int row = top + threadIdx.y * RESULTS + i;
        if (row < rows) {
            float slope = gate ? leaky_slope(gate[row * gate_row + column]) : 1.0f;
            result[row * result_row + column] = slope * activated(sums[i] + offset, function);
        }
    }
}

// One thread for each value of a matrix that is written into another one.
extern "C" __global__ void copy_columns(
    const float* from, int from_row, int rows, int columns, float* to, int to_row)
{
    int at = thread_index();
    if (at < rows * columns) {
        int row = at / columns;
        int column = at % columns;
        to[row * to_row + column] = from[row * from_row + column];
    }
}

// The sum over a column of which each thread of a block has a part: the threads with one
// threadIdx.x, in the order of their rows.
__device__ __forceinline__ float over_rows(float own)
{
    __shared__ float parts[TILE_ROWS][TILE];
    parts[threadIdx.y][threadIdx.x] = own;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int row = 0; row < TILE_ROWS; ++row) {
        sum += parts[row][threadIdx.x];
    }
    __syncthreads();
    return sum;
}

// A block sums TILE columns.
extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS) column_sums(
    const float* matrix, int rows, int columns, float* sums)
{
    int column = blockIdx.x * TILE + threadIdx.x;
    float sum = 0.0f;
    for (int row = threadIdx.y; column < columns && row < rows; row += TILE_ROWS) {
        sum += matrix[row * columns + column];
    }
    sum = over_rows(sum);
    if (threadIdx.y == 0 && column < columns) {
        sums[column] = sum;
    }
}

// Batch norm over the rows of x, then a leaky ReLU; a block takes TILE columns. `statistics` takes
// the means and inverse deviations of the batch, and the running ones move towards them.
extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS) norm_leaky(
    const float* x, const float* gamma, const float* beta, int rows, int columns, float momentum,
    float* running_mean, float* running_variance, float* statistics, float* y, int y_row)
{
    int column = blockIdx.x * TILE + threadIdx.x;
    bool inside = column < columns;
    float sum = 0.0f;
    for (int row = threadIdx.y; inside && row < rows; row += TILE_ROWS) {
        sum += x[row * columns + column];
    }
    float mean = over_rows(sum) / rows;
    float square = 0.0f;
    for (int row = threadIdx.y; inside && row < rows; row += TILE_ROWS) {
        float centered = x[row * columns + column] - mean;
        square += centered * centered;
    }
    square = over_rows(square);
    if (!inside) {
        return;
    }
    float inverse = 1.0f / sqrtf(square / rows + (float)EPSILON);
    float scale = gamma[column] * inverse;
    float shift = beta[column];
    for (int row = threadIdx.y; row < rows; row += TILE_ROWS) {
        float normalized = (x[row * columns + column] - mean) * scale + shift;
        y[row * y_row + column] = activated(normalized, LEAKY_RELU);
    }
    if (threadIdx.y == 0) {
        float unbiased = square / max(rows - 1, 1);
        statistics[column] = mean;
        statistics[columns + column] = inverse;
        running_mean[column] = (1.0f - momentum) * running_mean[column] + momentum * mean;
        running_variance[column] =
            (1.0f - momentum) * running_variance[column] + momentum * unbiased;
    }
}

// One thread for each value: the same with the running statistics.
extern "C" __global__ void fixed_norm_leaky(
    const float* x, const float* gamma, const float* beta, int rows, int columns,
    const float* running_mean, const float* running_variance, float* y, int y_row)
{
    int at = thread_index();
    if (at >= rows * columns) {
        return;
    }
    int column = at % columns;
    float scale = gamma[column] / sqrtf(running_variance[column] + (float)EPSILON);
    float normalized = (x[at] - running_mean[column]) * scale + beta[column];
    y[at / columns * y_row + column] = activated(normalized, LEAKY_RELU);
}

// From the gradient behind the leaky ReLU to that of x, gamma and beta; a block takes TILE columns.
extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS) norm_leaky_gradient(
    const float* gradient, const float* x, const float* y, int y_row, const float* statistics,
    const float* gamma, int rows, int columns, float* of_x, float* of_gamma, float* of_beta)
{
    int column = blockIdx.x * TILE + threadIdx.x;
    bool inside = column < columns;
    float mean = inside ? statistics[column] : 0.0f;
    float inverse = inside ? statistics[columns + column] : 0.0f;
    float sum = 0.0f;
    float product = 0.0f;
    for (int row = threadIdx.y; inside && row < rows; row += TILE_ROWS) {
        int at = row * columns + column;
        float through = gradient[at] * leaky_slope(y[row * y_row + column]);
        sum += through;
        product += through * (x[at] - mean) * inverse;
    }
    sum = over_rows(sum);
    product = over_rows(product);
    if (!inside) {
        return;
    }
    float scale = gamma[column] * inverse;
    for (int row = threadIdx.y; row < rows; row += TILE_ROWS) {
        int at = row * columns + column;
        float normalized = (x[at] - mean) * inverse;
        float through = gradient[at] * leaky_slope(y[row * y_row + column]);
        of_x[at] = scale * (through - (sum + normalized * product) / rows);
    }
    if (threadIdx.y == 0) {
        of_gamma[column] = product;
        of_beta[column] = sum;
    }
}

// One thread for each value: the gradient in front of a function, from that behind it and the
// function's value.
extern "C" __global__ void through_function(
    const float* gradient, const float* y, int count, int function, float* result)
{
    int at = thread_index();
    if (at < count) {
        result[at] = gradient[at] * slope_at(y[at], function);
    }
}

// Settings of Adam, which recorded work reads where the host writes them.
#define FIRST_DECAY 0
#define FIRST_REST 1
#define SECOND_DECAY 2
#define SECOND_REST 3
#define STEP_SIZE 4
#define CORRECTION 5
#define ADDED 6

// One thread for each parameter: a step of Adam.
extern "C" __global__ void adam(
    float* weights, float* first, float* second, const float* gradient, int count,
    const float* settings)
{
    int at = thread_index();
    if (at >= count) {
        return;
    }
    float g = gradient[at];
    float m = settings[FIRST_DECAY] * first[at] + settings[FIRST_REST] * g;
    float v = settings[SECOND_DECAY] * second[at] + settings[SECOND_REST] * g * g;
    first[at] = m;
    second[at] = v;
    weights[at] -= settings[STEP_SIZE] * m / (sqrtf(v) / settings[CORRECTION] + settings[ADDED]);
}

// A stand-in for cuDNN, libcudnn.so.9: convolutions of channels-last tensors as plain sums, on the
// memory of the emulated driver. It knows the functions that this project calls, no more, and
// answers with cuDNN's statuses where they are called with what cuDNN would refuse.

#include "cuda_bf16.h"

#include <cstdlib>
#include <dlfcn.h>
#include <functional>
#include <vector>

namespace {

const int SUCCESS = 0;
const int BAD_PARAM = 2000;
const int NOT_SUPPORTED = 3000;
const int NHWC = 1;
const int FLOAT = 0;
const int BFLOAT16 = 9;

struct Tensor {
    int type, dims[4];  // images, channels, rows, columns
};

struct Convolution {
    int padding, stride, math;
};

// As cuDNN's answer of its heuristics.
struct Answer {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

float load(const void* at, size_t index, int type)
{
    return type == FLOAT ? ((const float*)at)[index]
                         : __bfloat162float(((const __nv_bfloat16*)at)[index]);
}

void keep(void* at, size_t index, int type, float value)
{
    if (type == FLOAT) {
        ((float*)at)[index] = value;
    } else {
        ((__nv_bfloat16*)at)[index] = __float2bfloat16_rn(value);
    }
}

size_t size(const Tensor& t) { return (size_t)t.dims[0] * t.dims[1] * t.dims[2] * t.dims[3]; }

std::vector<float> read(const void* at, const Tensor& tensor)
{
    std::vector<float> values(size(tensor));
    for (size_t i = 0; i < values.size(); ++i) {
        values[i] = load(at, i, tensor.type);
    }
    return values;
}

// target = sum + beta * target
void finish(const std::vector<float>& sums, float beta, void* target, const Tensor& tensor)
{
    for (size_t i = 0; i < sums.size(); ++i) {
        float old = beta == 0.0f ? 0.0f : beta * load(target, i, tensor.type);
        keep(target, i, tensor.type, sums[i] + old);
    }
}

struct Handle {
    void* stream;
};

// Does it on the handle's stream: now, or whenever a graph that is captured there is launched. As
// cuDNN may, it writes to its workspace.
int start(void* handle, void* room, size_t bytes, std::function<void()> work)
{
    using Start = void (*)(void*, const std::function<void()>*);
    static Start driver =
        (Start)dlsym(dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD), "emulated_start");
    if (!driver) {
        abort();
    }
    std::function<void()> all = [=] {
        memset(room, 0xff, bytes);
        work();
    };
    driver(((Handle*)handle)->stream, &all);
    return SUCCESS;
}

// Whether the four descriptions belong together.
bool fits(const Tensor& x, const Tensor& w, const Convolution& c, const Tensor& y)
{
    auto side = [&](int input, int kernel) { return (input + 2 * c.padding - kernel) / c.stride + 1; };
    return x.type == w.type && w.type == y.type && x.dims[0] == y.dims[0] && x.dims[1] == w.dims[1]
        && y.dims[1] == w.dims[0] && y.dims[2] == side(x.dims[2], w.dims[2])
        && y.dims[3] == side(x.dims[3], w.dims[3]);
}

// Calls visit(x, w, y) with the places of every pixel's channels, in values.
template <class V>
void for_each_tap(const Tensor& x, const Tensor& w, const Convolution& c, const Tensor& y, V visit)
{
    for (int n = 0; n < y.dims[0]; ++n)
        for (int row = 0; row < y.dims[2]; ++row)
            for (int column = 0; column < y.dims[3]; ++column)
                for (int ky = 0; ky < w.dims[2]; ++ky)
                    for (int kx = 0; kx < w.dims[3]; ++kx) {
                        int r = row * c.stride + ky - c.padding;
                        int q = column * c.stride + kx - c.padding;
                        if (r < 0 || r >= x.dims[2] || q < 0 || q >= x.dims[3]) {
                            continue;
                        }
                        size_t at_x = (((size_t)n * x.dims[2] + r) * x.dims[3] + q) * x.dims[1];
                        size_t at_y =
                            (((size_t)n * y.dims[2] + row) * y.dims[3] + column) * y.dims[1];
                        size_t at_w = ((size_t)ky * w.dims[3] + kx) * w.dims[1];
                        visit(at_x, at_w, at_y);
                    }
}

size_t filter_stride(const Tensor& w) { return (size_t)w.dims[1] * w.dims[2] * w.dims[3]; }

// One that works and is not deterministic, one that does not work, then a good one.
int heuristics(const Convolution& c, int most, int* count, Answer* answers)
{
    if (most < 3) {
        return BAD_PARAM;
    }
    answers[0] = {0, SUCCESS, 0.1f, 0, 0, c.math, {}};
    answers[1] = {2, NOT_SUPPORTED, 0.2f, 0, 1, c.math, {}};
    answers[2] = {1, SUCCESS, 0.3f, 4096, 1, c.math, {}};
    *count = 3;
    return SUCCESS;
}

// Larger batches want more.
size_t needed(const Tensor& x) { return 4096 + 64 * x.dims[0]; }

int workspace(const Tensor& x, int algorithm, size_t* bytes)
{
    *bytes = algorithm == 1 ? needed(x) : 0;
    return algorithm == 1 ? SUCCESS : NOT_SUPPORTED;
}

bool ready(const Tensor& x, int algorithm, const void* room, size_t bytes)
{
    return algorithm == 1 && room != nullptr && bytes >= needed(x);
}

}  // namespace

extern "C" {

size_t cudnnGetVersion() { return 92100; }
int cudnnCreate(void** handle) { return *handle = new Handle{}, SUCCESS; }
int cudnnDestroy(void* handle) { return delete (Handle*)handle, SUCCESS; }
int cudnnSetStream(void* handle, void* stream) { return ((Handle*)handle)->stream = stream, SUCCESS; }
int cudnnCreateTensorDescriptor(Tensor** made) { return *made = new Tensor{}, SUCCESS; }
int cudnnDestroyTensorDescriptor(Tensor* tensor) { return delete tensor, SUCCESS; }
int cudnnCreateFilterDescriptor(Tensor** made) { return *made = new Tensor{}, SUCCESS; }
int cudnnDestroyFilterDescriptor(Tensor* tensor) { return delete tensor, SUCCESS; }
int cudnnCreateConvolutionDescriptor(Convolution** made) { return *made = new Convolution{}, SUCCESS; }
int cudnnDestroyConvolutionDescriptor(Convolution* made) { return delete made, SUCCESS; }

int cudnnSetTensor4dDescriptor(Tensor* tensor, int format, int type, int n, int c, int h, int w)
{
    if (format != NHWC || (type != FLOAT && type != BFLOAT16)) {
        return BAD_PARAM;
    }
    *tensor = {type, {n, c, h, w}};
    return SUCCESS;
}

int cudnnSetFilter4dDescriptor(Tensor* tensor, int type, int format, int k, int c, int h, int w)
{
    return cudnnSetTensor4dDescriptor(tensor, format, type, k, c, h, w);
}

int cudnnSetConvolution2dDescriptor(
    Convolution* c, int pad_h, int pad_w, int u, int v, int dilation_h, int dilation_w, int mode,
    int type)
{
    if (pad_h != pad_w || u != v || dilation_h != 1 || dilation_w != 1 || mode != 1 || type != FLOAT) {
        return BAD_PARAM;
    }
    *c = {pad_h, u, 0};
    return SUCCESS;
}

int cudnnSetConvolutionMathType(Convolution* c, int math) { return c->math = math, SUCCESS; }

int cudnnGetConvolutionForwardAlgorithm_v7(
    void*, Tensor* x, Tensor* w, Convolution* c, Tensor* y, int most, int* count, Answer* answers)
{
    return fits(*x, *w, *c, *y) ? heuristics(*c, most, count, answers) : BAD_PARAM;
}

int cudnnGetConvolutionBackwardDataAlgorithm_v7(
    void*, Tensor* w, Tensor* y, Convolution* c, Tensor* x, int most, int* count, Answer* answers)
{
    return fits(*x, *w, *c, *y) ? heuristics(*c, most, count, answers) : BAD_PARAM;
}

int cudnnGetConvolutionBackwardFilterAlgorithm_v7(
    void*, Tensor* x, Tensor* y, Convolution* c, Tensor* w, int most, int* count, Answer* answers)
{
    return fits(*x, *w, *c, *y) ? heuristics(*c, most, count, answers) : BAD_PARAM;
}

int cudnnGetConvolutionForwardWorkspaceSize(
    void*, Tensor* x, Tensor* w, Convolution* c, Tensor* y, int algorithm, size_t* bytes)
{
    return fits(*x, *w, *c, *y) ? workspace(*x, algorithm, bytes) : BAD_PARAM;
}

int cudnnGetConvolutionBackwardDataWorkspaceSize(
    void*, Tensor* w, Tensor* y, Convolution* c, Tensor* x, int algorithm, size_t* bytes)
{
    return fits(*x, *w, *c, *y) ? workspace(*x, algorithm, bytes) : BAD_PARAM;
}

int cudnnGetConvolutionBackwardFilterWorkspaceSize(
    void*, Tensor* x, Tensor* y, Convolution* c, Tensor* w, int algorithm, size_t* bytes)
{
    return fits(*x, *w, *c, *y) ? workspace(*x, algorithm, bytes) : BAD_PARAM;
}

int cudnnConvolutionForward(
    void* handle, const float* alpha, Tensor* x, const void* x_at, Tensor* w, const void* w_at,
    Convolution* c, int algorithm, void* room, size_t bytes, const float* beta, Tensor* y, void* y_at)
{
    if (!fits(*x, *w, *c, *y) || !ready(*x, algorithm, room, bytes) || *alpha != 1.0f) {
        return BAD_PARAM;
    }
    return start(handle, room, bytes, [=, scale = *beta, x = *x, w = *w, c = *c, y = *y] {
        std::vector<float> image = read(x_at, x), weights = read(w_at, w), sums(size(y));
        for_each_tap(x, w, c, y, [&](size_t at_x, size_t at_w, size_t at_y) {
            for (int o = 0; o < w.dims[0]; ++o) {
                const float* row = &weights[o * filter_stride(w) + at_w];
                float sum = 0.0f;
                for (int i = 0; i < w.dims[1]; ++i) {
                    sum += image[at_x + i] * row[i];
                }
                sums[at_y + o] += sum;
            }
        });
        finish(sums, scale, y_at, y);
    });
}

int cudnnConvolutionBackwardData(
    void* handle, const float* alpha, Tensor* w, const void* w_at, Tensor* y, const void* y_at,
    Convolution* c, int algorithm, void* room, size_t bytes, const float* beta, Tensor* x, void* x_at)
{
    if (!fits(*x, *w, *c, *y) || !ready(*x, algorithm, room, bytes) || *alpha != 1.0f) {
        return BAD_PARAM;
    }
    return start(handle, room, bytes, [=, scale = *beta, x = *x, w = *w, c = *c, y = *y] {
        std::vector<float> gradient = read(y_at, y), weights = read(w_at, w), sums(size(x));
        for_each_tap(x, w, c, y, [&](size_t at_x, size_t at_w, size_t at_y) {
            for (int o = 0; o < w.dims[0]; ++o) {
                const float* row = &weights[o * filter_stride(w) + at_w];
                float g = gradient[at_y + o];
                for (int i = 0; i < w.dims[1]; ++i) {
                    sums[at_x + i] += g * row[i];
                }
            }
        });
        finish(sums, scale, x_at, x);
    });
}

int cudnnConvolutionBackwardFilter(
    void* handle, const float* alpha, Tensor* x, const void* x_at, Tensor* y, const void* y_at,
    Convolution* c, int algorithm, void* room, size_t bytes, const float* beta, Tensor* w, void* w_at)
{
    if (!fits(*x, *w, *c, *y) || !ready(*x, algorithm, room, bytes) || *alpha != 1.0f) {
        return BAD_PARAM;
    }
    return start(handle, room, bytes, [=, scale = *beta, x = *x, w = *w, c = *c, y = *y] {
        std::vector<float> image = read(x_at, x), gradient = read(y_at, y), sums(size(w));
        for_each_tap(x, w, c, y, [&](size_t at_x, size_t at_w, size_t at_y) {
            for (int o = 0; o < w.dims[0]; ++o) {
                float* row = &sums[o * filter_stride(w) + at_w];
                float g = gradient[at_y + o];
                for (int i = 0; i < w.dims[1]; ++i) {
                    row[i] += g * image[at_x + i];
                }
            }
        });
        finish(sums, scale, w_at, w);
    });
}

}  // extern "C"

// Stochastic gradient descent over one flat buffer of all parameters; see models/src/optim.rs.

// Parameters that one thread takes: 16 bytes of f32. What bounds this kernel is memory.
#define AT_ONCE 4

// Settings, which recorded work reads where the host writes them.
#define RATE 0
#define MOMENTUM 1
#define DECAY 2

struct alignas(16) Floats {
    float lane[AT_ONCE];
};

struct alignas(AT_ONCE * sizeof(value)) Copies {
    value lane[AT_ONCE];
};

__device__ __forceinline__ void descend_one(
    float* weight, float* velocity, float gradient, const float* settings)
{
    float w = *weight;
    float v = settings[MOMENTUM] * *velocity + (gradient + settings[DECAY] * w);
    w -= settings[RATE] * v;
    *velocity = v;
    *weight = w;
}

// One thread for each AT_ONCE parameters. The first `filters`, a multiple of AT_ONCE, are those of
// convolutions: their gradient lies in `convolution_gradient`, and `copies` takes the new values as
// convolutions read them. The gradient of the others lies in `gradient`.
extern "C" __global__ void descend(
    float* weights, float* velocity, const float* gradient, const value* convolution_gradient,
    value* copies, int filters, int count, const float* settings)
{
    int at = thread_index();
    int first = at * AT_ONCE;
    if (first + AT_ONCE > count) {
        for (int i = first; i < count; ++i) {
            descend_one(&weights[i], &velocity[i], gradient[i], settings);
        }
        return;
    }
    Floats w = read_last(reinterpret_cast<const Floats*>(weights) + at);
    Floats v = read_last(reinterpret_cast<const Floats*>(velocity) + at);
    Floats g;
    if (first < filters) {
        Copies own = reinterpret_cast<const Copies*>(convolution_gradient)[at];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            g.lane[i] = to_float(own.lane[i]);
        }
    } else {
        g = reinterpret_cast<const Floats*>(gradient)[at];
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
        descend_one(&w.lane[i], &v.lane[i], g.lane[i], settings);
    }
    write_last(reinterpret_cast<Floats*>(weights) + at, w);
    write_last(reinterpret_cast<Floats*>(velocity) + at, v);
    if (first < filters) {
        Copies copy;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            store(&copy.lane[i], w.lane[i]);
        }
        reinterpret_cast<Copies*>(copies)[at] = copy;
    }
}

// One thread for each parameter of a convolution: its copy as convolutions read it.
extern "C" __global__ void copy_weights(const float* weights, value* copies, int count)
{
    int at = thread_index();
    if (at < count) {
        store(&copies[at], weights[at]);
    }
}

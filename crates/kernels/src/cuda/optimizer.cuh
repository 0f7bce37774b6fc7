// Stochastic gradient descent over one flat buffer of all parameters; see models/src/optim.rs.

// One thread for each parameter. Its gradient lies in `gradient` or, for convolutions, in
// `convolution_gradient`; the other one holds zero there. `copies` takes the new values as
// convolutions read them.
extern "C" __global__ void descend(
    float* weights, float* velocity, const float* gradient, const value* convolution_gradient,
    value* copies, int count, float rate, float momentum, float decay)
{
    int at = thread_index();
    if (at >= count) {
        return;
    }
    float g = gradient[at] + to_float(convolution_gradient[at]);
    float w = weights[at];
    float v = momentum * velocity[at] + (g + decay * w);
    w -= rate * v;
    velocity[at] = v;
    weights[at] = w;
    store(&copies[at], w);
}

// One thread for each parameter: its copy as convolutions read it.
extern "C" __global__ void copy_weights(const float* weights, value* copies, int count)
{
    int at = thread_index();
    if (at < count) {
        store(&copies[at], weights[at]);
    }
}

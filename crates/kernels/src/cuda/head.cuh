// Average pooling, the linear layer, softmax and its losses; the equations are those of
// src/dense.rs. A thousandth of the work, so plain loops.

// Settings of the losses, which recorded work reads where the host writes them.
#define SMOOTHING 0
#define TARGET 1
#define LOGARITHM 2
#define BELOW 3

// One thread for each channel of each image: the mean over its pixels.
extern "C" __global__ void pool(
    const value* features, int images, int pixels, int channels, float* pooled)
{
    int at = thread_index();
    if (at >= images * channels) {
        return;
    }
    const value* from = features + at / channels * pixels * channels + at % channels;
    float sum = 0.0f;
    for (int pixel = 0; pixel < pixels; ++pixel) {
        sum += to_float(from[pixel * channels]);
    }
    pooled[at] = sum * (1.0f / pixels);
}

// One warp for each class of each image; a block is one warp.
extern "C" __global__ void linear(
    const float* pooled, const float* weights, const float* bias, int channels, int classes,
    float* logits)
{
    int image = blockIdx.x / classes;
    int label = blockIdx.x % classes;
    float sum = 0.0f;
    for (int channel = threadIdx.x; channel < channels; channel += WARP) {
        sum += pooled[image * channels + channel] * weights[label * channels + channel];
    }
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        sum += __shfl_down_sync(0xffffffffu, sum, distance);
    }
    if (threadIdx.x == 0) {
        logits[blockIdx.x] = sum + bias[label];
    }
}

// The natural logarithm of the summed exponentials of `count` logits.
__device__ float log_sum(const float* logits, int count)
{
    float largest = logits[0];
    for (int i = 1; i < count; ++i) {
        largest = fmaxf(largest, logits[i]);
    }
    float total = 0.0f;
    for (int i = 0; i < count; ++i) {
        total += expf(logits[i] - largest);
    }
    return logf(total) + largest;
}

// One thread for each image: its loss, whether it was classified right, and the gradient of
// share * loss with respect to its logits.
extern "C" __global__ void cross_entropy(
    const float* logits, const ImagePlan* plans, int images, int classes, const float* settings,
    float share, float* losses, float* correct, float* gradient)
{
    int image = thread_index();
    if (image >= images) {
        return;
    }
    float smoothing = settings[SMOOTHING];
    const float* own = logits + image * classes;
    int label = plans[image].label;
    float log_total = log_sum(own, classes);
    float total = 0.0f;
    int best = 0;
    for (int i = 0; i < classes; ++i) {
        total += own[i];
        best = own[i] > own[best] ? i : best;
        float of_label = i == label ? 1.0f - smoothing : 0.0f;
        float probability = expf(own[i] - log_total);
        gradient[image * classes + i] = share * (probability - smoothing / classes - of_label);
    }
    losses[image] = log_total - (1.0f - smoothing) * own[label] - smoothing * (total / classes);
    correct[image] = best == label ? 1.0f : 0.0f;
}

// One warp: adds the losses and right answers of a batch to the totals, always in one order.
extern "C" __global__ void add_to_totals(
    const float* losses, const float* correct, int images, double* totals)
{
    double loss = 0.0;
    double right = 0.0;
    for (int image = threadIdx.x; image < images; image += WARP) {
        loss += losses[image];
        right += correct[image];
    }
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        loss += __shfl_down_sync(0xffffffffu, loss, distance);
        right += __shfl_down_sync(0xffffffffu, right, distance);
    }
    if (threadIdx.x == 0) {
        totals[0] += loss;
        totals[1] += right;
    }
}

// One thread for each weight of the linear layer, and for each bias (channel == channels).
extern "C" __global__ void linear_gradient(
    const float* gradient, const float* pooled, int images, int channels, int classes,
    float* weight_gradient, float* bias_gradient)
{
    int at = thread_index();
    if (at >= classes * (channels + 1)) {
        return;
    }
    int label = at / (channels + 1);
    int channel = at % (channels + 1);
    float sum = 0.0f;
    // Several images on their way at once; they are added up in their order.
#pragma unroll 16
    for (int image = 0; image < images; ++image) {
        float x = channel < channels ? pooled[image * channels + channel] : 1.0f;
        sum += gradient[image * classes + label] * x;
    }
    if (channel < channels) {
        weight_gradient[label * channels + channel] = sum;
    } else {
        bias_gradient[label] = sum;
    }
}

// One thread for each channel of each image: the gradient of the feature maps, the same for all
// pixels.
extern "C" __global__ void feature_gradient(
    const float* gradient, const float* weights, int images, int pixels, int channels, int classes,
    value* features)
{
    int at = thread_index();
    if (at >= images * channels) {
        return;
    }
    int image = at / channels;
    int channel = at % channels;
    float sum = 0.0f;
    for (int label = 0; label < classes; ++label) {
        sum += gradient[image * classes + label] * weights[label * channels + channel];
    }
    sum *= 1.0f / pixels;
    value* to = features + image * pixels * channels + channel;
    for (int pixel = 0; pixel < pixels; ++pixel) {
        store(&to[pixel * channels], sum);
    }
}

// One thread for each image: the probability p of the class TARGET, and with respect to the logits
// the gradient of ln p (LOGARITHM), or of p where it is less than BELOW (zero elsewhere).
extern "C" __global__ void target_gradient(
    const float* logits, int images, int classes, const float* settings, float* probabilities,
    float* gradient)
{
    int image = thread_index();
    if (image >= images) {
        return;
    }
    int target = (int)settings[TARGET];
    bool logarithm = settings[LOGARITHM] != 0.0f;
    float below = settings[BELOW];
    const float* own = logits + image * classes;
    float log_total = log_sum(own, classes);
    float wanted = expf(own[target] - log_total);
    float factor = logarithm ? 1.0f : (wanted < below ? wanted : 0.0f);
    for (int i = 0; i < classes; ++i) {
        float of_target = i == target ? 1.0f : 0.0f;
        gradient[image * classes + i] = factor * (of_target - expf(own[i] - log_total));
    }
    probabilities[image] = wanted;
}

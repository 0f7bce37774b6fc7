//! The layers of the small perceptrons, forward and backward: linear, batch norm with leaky ReLU,
//! leaky ReLU.
//!
//! Their gradients are written out. candle's own graph would give the same ones, but adds every
//! gradient to a tensor of zeros, computes those that nobody asked for, and waits at a spinning
//! barrier in each larger elementwise op, which is slow wherever two threads are not alone on
//! their cores. So elementwise work passes over memory once here, and matrix products are
//! [`mesa_kernels::multiply`]'s. On a GPU the same layers are those of `cuda/perceptrons/`.

use std::collections::BTreeMap;

use candle::{CpuStorage, DType, Device, Layout, Tensor, Var};
use mesa_kernels::{Matrix, Path, multiply};
use rand::Rng;

use crate::{Error, Result};

/// Slope of the leaky ReLU below zero, everywhere in the two perceptrons.
const LEAK: f32 = 0.2;
/// Added to the variance inside batch norm (PyTorch's default).
const NORM_EPSILON: f32 = 1e-5;
/// Weight of the newest batch in the running statistics (PyTorch's default).
pub(crate) const NORM_MOMENTUM: f64 = 0.1;

/// A fully connected layer, `x Wᵀ + b`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Var,
    pub(crate) bias: Var,
}

impl Linear {
    /// PyTorch's default initialization: weight and bias uniform within `1 / √inputs`.
    pub(crate) fn new(rng: &mut impl Rng, inputs: usize, outputs: usize) -> Result<Self> {
        let bound = 1.0 / (inputs as f32).sqrt();
        let weight = uniform(rng, bound, outputs * inputs);
        let bias = uniform(rng, bound, outputs);
        Ok(Self {
            weight: Var::from_vec(weight, (outputs, inputs), &Device::Cpu)?,
            bias: Var::from_vec(bias, outputs, &Device::Cpu)?,
        })
    }

    pub(crate) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (rows, inputs) = xs.dims2()?;
        let (outputs, _) = self.weight.dims2()?;
        let parameters = [&self.weight.detach(), &self.bias.detach()];
        let ys = with_floats([xs, parameters[0], parameters[1]], |[xs, weight, bias]| {
            let weight = Matrix::new(weight, outputs, inputs)?.transposed();
            let mut ys = product(Matrix::new(xs, rows, inputs)?, weight)?;
            for row in ys.chunks_exact_mut(outputs) {
                for (y, bias) in row.iter_mut().zip(bias) {
                    *y += bias;
                }
            }
            Ok::<_, Error>(ys)
        })??;
        Ok(Tensor::from_vec(ys, (rows, outputs), &Device::Cpu)?)
    }

    /// The gradient of the input.
    pub(crate) fn input_gradient(&self, gradient: &Tensor) -> Result<Tensor> {
        let (rows, outputs) = gradient.dims2()?;
        let (_, inputs) = self.weight.dims2()?;
        let xs = with_floats([gradient, &self.weight.detach()], |[gradient, weight]| {
            product(
                Matrix::new(gradient, rows, outputs)?,
                Matrix::new(weight, outputs, inputs)?,
            )
        })??;
        Ok(Tensor::from_vec(xs, (rows, inputs), &Device::Cpu)?)
    }
}

/// Puts a layer's weight and bias under their names.
pub(crate) fn insert_linear(parameters: &mut BTreeMap<String, Var>, name: &str, linear: &Linear) {
    parameters.insert(format!("{name}.weight"), linear.weight.clone());
    parameters.insert(format!("{name}.bias"), linear.bias.clone());
}

/// The gradients of a linear layer's weight and bias.
pub(crate) fn linear_gradients(xs: &Tensor, gradient: &Tensor) -> Result<(Tensor, Tensor)> {
    let (rows, inputs) = xs.dims2()?;
    let (_, outputs) = gradient.dims2()?;
    let weight = with_floats([xs, gradient], |[xs, gradient]| {
        product(
            Matrix::new(gradient, rows, outputs)?.transposed(),
            Matrix::new(xs, rows, inputs)?,
        )
    })??;
    let weight = Tensor::from_vec(weight, (outputs, inputs), &Device::Cpu)?;
    Ok((weight, column_sums(gradient)?))
}

fn product(a: Matrix, b: Matrix) -> Result<Vec<f32>> {
    let mut product = vec![0.0; a.rows() * b.columns()];
    multiply(Path::current()?, a, b, &mut product)?;
    Ok(product)
}

/// `count` numbers uniform in `[-bound, bound)`.
pub(crate) fn uniform(rng: &mut impl Rng, bound: f32, count: usize) -> Vec<f32> {
    (0..count)
        .map(|_| (2.0 * rng.random::<f32>() - 1.0) * bound)
        .collect()
}

/// Batch norm over the rows of a matrix, followed by a leaky ReLU.
#[derive(Clone, Debug)]
pub(crate) struct NormLeaky {
    pub(crate) weight: Var,
    pub(crate) bias: Var,
    pub(crate) running_mean: Tensor,
    pub(crate) running_var: Tensor,
}

/// What the backward pass of [`NormLeaky`] needs of the forward pass.
#[derive(Debug)]
pub(crate) struct NormTape {
    xs: Tensor,
    ys: Tensor,
    mean: Tensor,
    inverse_std: Tensor,
}

/// Gradients of [`NormLeaky`]: of its input and its two parameters.
pub(crate) struct NormGradients {
    pub(crate) xs: Tensor,
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

impl NormLeaky {
    pub(crate) fn new(width: usize) -> Result<Self> {
        let ones = Tensor::ones(width, DType::F32, &Device::Cpu)?;
        Ok(Self {
            weight: Var::from_tensor(&ones)?,
            bias: Var::from_tensor(&ones.zeros_like()?)?,
            running_mean: ones.zeros_like()?,
            running_var: ones,
        })
    }

    /// With the running statistics, as at sampling time.
    pub(crate) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.normalize(xs, &self.running_mean, &inverse_std(&self.running_var)?)
    }

    /// With the statistics of this batch, which also move the running ones.
    pub(crate) fn forward_train(&mut self, xs: &Tensor) -> Result<(Tensor, NormTape)> {
        let batch_size = xs.dim(0)? as f64;
        let (mean, variance) = moments(xs)?;
        let inverse_std = inverse_std(&variance)?;
        let ys = self.normalize(xs, &mean, &inverse_std)?;
        // PyTorch normalizes with the biased variance and keeps the unbiased one.
        let unbiased = (variance * (batch_size / (batch_size - 1.0).max(1.0)))?;
        self.running_mean = moved(&self.running_mean, &mean)?;
        self.running_var = moved(&self.running_var, &unbiased)?;
        let tape = NormTape {
            xs: xs.clone(),
            ys: ys.clone(),
            mean,
            inverse_std,
        };
        Ok((ys, tape))
    }

    fn normalize(&self, xs: &Tensor, mean: &Tensor, inverse_std: &Tensor) -> Result<Tensor> {
        let scale = (self.weight.detach() * inverse_std)?;
        let bias = self.bias.detach();
        let ys = with_floats([xs, mean, &scale, &bias], |[xs, mean, scale, bias]| {
            let mut ys = Vec::with_capacity(xs.len());
            for row in xs.chunks_exact(mean.len()) {
                let columns = row.iter().zip(mean).zip(scale).zip(bias);
                ys.extend(
                    columns.map(|(((x, mean), scale), bias)| leak((x - mean) * scale + bias)),
                );
            }
            ys
        })?;
        Ok(Tensor::from_vec(ys, xs.shape(), xs.device())?)
    }

    /// ```text
    /// x̂ = (x − mean) / std      d = gradient behind the leaky ReLU
    /// ∂weight = Σ d x̂           ∂bias = Σ d
    /// ∂x = weight / std · (d − ∂bias / B − x̂ ∂weight / B)
    /// ```
    pub(crate) fn backward(&self, tape: &NormTape, gradient: &Tensor) -> Result<NormGradients> {
        let NormTape {
            xs,
            ys,
            mean,
            inverse_std,
        } = tape;
        let inputs = [xs, ys, gradient, mean, inverse_std, &self.weight.detach()];
        let (result, weight, bias) = with_floats(inputs, norm_backward)?;
        let (on, width) = (gradient.device(), bias.len());
        Ok(NormGradients {
            xs: Tensor::from_vec(result, xs.shape(), on)?,
            weight: Tensor::from_vec(weight, width, on)?,
            bias: Tensor::from_vec(bias, width, on)?,
        })
    }
}

fn inverse_std(variance: &Tensor) -> Result<Tensor> {
    Ok((variance + f64::from(NORM_EPSILON))?.sqrt()?.recip()?)
}

fn moved(running: &Tensor, newest: &Tensor) -> Result<Tensor> {
    Ok(((running * (1.0 - NORM_MOMENTUM))? + (newest * NORM_MOMENTUM)?)?)
}

/// Mean and biased variance of each column.
fn moments(xs: &Tensor) -> Result<(Tensor, Tensor)> {
    let (batch_size, width) = xs.dims2()?;
    let scale = 1.0 / batch_size as f32;
    let (mean, variance) = with_floats([xs], |[xs]| {
        let mut mean = sum_rows(xs, width);
        for mean in &mut mean {
            *mean *= scale;
        }
        let mut variance = vec![0.0; width];
        for row in xs.chunks_exact(width) {
            for ((variance, mean), x) in variance.iter_mut().zip(&mean).zip(row) {
                *variance += (x - mean) * (x - mean);
            }
        }
        for variance in &mut variance {
            *variance *= scale;
        }
        (mean, variance)
    })?;
    let on = xs.device();
    Ok((
        Tensor::from_vec(mean, width, on)?,
        Tensor::from_vec(variance, width, on)?,
    ))
}

/// Gradients of input, weight and bias, of contiguous rows.
fn norm_backward(
    [xs, ys, gradient, mean, inverse_std, weight]: [&[f32]; 6],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let width = mean.len();
    let (inverse_std, weight) = (&inverse_std[..width], &weight[..width]);
    let rows = || {
        let inputs = xs.chunks_exact(width).zip(ys.chunks_exact(width));
        inputs.zip(gradient.chunks_exact(width))
    };
    let (mut sums, mut products) = (vec![0.0; width], vec![0.0; width]);
    for ((xs, ys), gradient) in rows() {
        let (sums, products) = (&mut sums[..width], &mut products[..width]);
        for c in 0..width {
            let through = gradient[c] * leak_slope(ys[c]);
            sums[c] += through;
            products[c] += through * (xs[c] - mean[c]) * inverse_std[c];
        }
    }
    let scale = width as f32 / xs.len() as f32;
    let mut result = Vec::with_capacity(xs.len());
    for ((xs, ys), gradient) in rows() {
        let (sums, products) = (&sums[..width], &products[..width]);
        result.extend((0..width).map(|c| {
            let normalized = (xs[c] - mean[c]) * inverse_std[c];
            let through = gradient[c] * leak_slope(ys[c]);
            let centered = through - (sums[c] + normalized * products[c]) * scale;
            weight[c] * inverse_std[c] * centered
        }));
    }
    (result, products, sums)
}

/// `x` where it is positive, `0.2 x` elsewhere.
pub(crate) fn leaky_relu(xs: &Tensor) -> Result<Tensor> {
    let ys = with_floats([xs], |[xs]| xs.iter().map(|x| leak(*x)).collect::<Vec<_>>())?;
    Ok(Tensor::from_vec(ys, xs.shape(), xs.device())?)
}

/// The gradient in front of a leaky ReLU, whose output (it keeps the sign) tells its slope.
pub(crate) fn leaky_relu_gradient(ys: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let result = with_floats([ys, gradient], |[ys, gradient]| {
        let pairs = ys.iter().zip(gradient);
        pairs
            .map(|(y, gradient)| gradient * leak_slope(*y))
            .collect::<Vec<_>>()
    })?;
    Ok(Tensor::from_vec(result, ys.shape(), ys.device())?)
}

fn leak(x: f32) -> f32 {
    if x > 0.0 { x } else { LEAK * x }
}

fn leak_slope(y: f32) -> f32 {
    if y > 0.0 { 1.0 } else { LEAK }
}

/// `1 / (1 + exp(-x))`, by way of tanh, which does not overflow.
pub(crate) fn sigmoid(xs: &Tensor) -> Result<Tensor> {
    Ok((xs * 0.5)?.tanh()?.affine(0.5, 0.5)?)
}

/// The gradient in front of a sigmoid, from its output.
pub(crate) fn sigmoid_gradient(ys: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    Ok(((ys - ys.sqr()?)? * gradient)?)
}

fn column_sums(matrix: &Tensor) -> Result<Tensor> {
    let width = matrix.dim(1)?;
    let sums = with_floats([matrix], |[values]| sum_rows(values, width))?;
    Ok(Tensor::from_vec(sums, width, matrix.device())?)
}

fn sum_rows(values: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    for row in values.chunks_exact(width) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
    sums
}

/// The values of a contiguous f32 storage.
pub(crate) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle::Result<&'a [f32]> {
    let (start, end) = contiguous(layout)?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// The values of a contiguous f32 storage, to be changed.
pub(crate) fn floats_mut<'a>(
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> candle::Result<&'a mut [f32]> {
    let (start, end) = contiguous(layout)?;
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[start..end]),
        _ => candle::bail!("the perceptrons compute in f32"),
    }
}

fn contiguous(layout: &Layout) -> candle::Result<(usize, usize)> {
    match layout.contiguous_offsets() {
        Some(range) => Ok(range),
        None => candle::bail!("the perceptrons' layers take contiguous tensors"),
    }
}

/// Lends the values of tensors on the host to `compute`.
fn with_floats<const N: usize, R>(
    tensors: [&Tensor; N],
    compute: impl FnOnce([&[f32]; N]) -> R,
) -> Result<R> {
    let mut contiguous = Vec::with_capacity(N);
    for tensor in tensors {
        contiguous.push(tensor.contiguous()?);
    }
    let locks: Vec<_> = contiguous.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&locks) {
        if let candle::Storage::Cpu(storage) = &**storage {
            *slice = floats(storage, layout)?;
        }
    }
    Ok(compute(slices))
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn matrix(rng: &mut ChaCha8Rng, rows: usize, columns: usize) -> Tensor {
        let values = uniform(rng, 1.0, rows * columns);
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    fn assert_close(a: &Tensor, b: &Tensor) {
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(a.dims(), b.dims());
        for (a, b) in flat(a).into_iter().zip(flat(b)) {
            assert_abs_diff_eq!(a, b, epsilon = 2e-5);
        }
    }

    #[test]
    fn the_linear_layer_agrees_with_candles_graph() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let layer = Linear::new(&mut rng, 5, 7).unwrap();
        let xs = Var::from_tensor(&matrix(&mut rng, 11, 5)).unwrap();
        let probe = matrix(&mut rng, 11, 7);
        let product = xs.matmul(&layer.weight.t().unwrap()).unwrap();
        let theirs = product.broadcast_add(&layer.bias).unwrap();
        assert_close(&layer.forward(&xs).unwrap(), &theirs);
        let theirs = (theirs * &probe)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        let (weight, bias) = linear_gradients(&xs.detach(), &probe).unwrap();
        assert_close(
            &layer.input_gradient(&probe).unwrap(),
            theirs.get(&xs).unwrap(),
        );
        assert_close(&weight, theirs.get(&layer.weight).unwrap());
        assert_close(&bias, theirs.get(&layer.bias).unwrap());
    }

    #[test]
    fn batch_norm_agrees_with_candles_graph() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut layer = NormLeaky::new(6).unwrap();
        layer.weight = Var::from_vec(uniform(&mut rng, 1.0, 6), 6, &Device::Cpu).unwrap();
        layer.bias = Var::from_vec(uniform(&mut rng, 1.0, 6), 6, &Device::Cpu).unwrap();
        let xs = Var::from_tensor(&matrix(&mut rng, 9, 6)).unwrap();
        let probe = matrix(&mut rng, 9, 6);

        let mean = xs.mean_keepdim(0).unwrap();
        let centered = xs.broadcast_sub(&mean).unwrap();
        let variance = centered.sqr().unwrap().mean_keepdim(0).unwrap();
        let std = (&variance + 1e-5).unwrap().sqrt().unwrap();
        let normalized = centered.broadcast_div(&std).unwrap();
        let scaled = normalized.broadcast_mul(&layer.weight).unwrap();
        let scaled = scaled.broadcast_add(&layer.bias).unwrap();
        let theirs = scaled.maximum(&(&scaled * 0.2).unwrap()).unwrap();

        let (ys, tape) = layer.forward_train(&xs.detach()).unwrap();
        assert_close(&ys, &theirs);
        assert_close(
            &layer.running_mean,
            &(mean.squeeze(0).unwrap() * 0.1).unwrap(),
        );
        let unbiased = (variance.squeeze(0).unwrap() * (0.1 * 9.0 / 8.0)).unwrap();
        assert_close(&layer.running_var, &(unbiased + 0.9).unwrap());
        let theirs = (theirs * &probe)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        let ours = layer.backward(&tape, &probe).unwrap();
        assert_close(&ours.xs, theirs.get(&xs).unwrap());
        assert_close(&ours.weight, theirs.get(&layer.weight).unwrap());
        assert_close(&ours.bias, theirs.get(&layer.bias).unwrap());
    }

    #[test]
    fn evaluation_uses_the_running_statistics() {
        let mut layer = NormLeaky::new(2).unwrap();
        layer.running_mean = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        layer.running_var = Tensor::new(&[4f32, 0.25], &Device::Cpu).unwrap();
        let xs = Tensor::new(&[[3f32, 1.0]], &Device::Cpu).unwrap();
        let ys = layer.forward(&xs).unwrap();
        assert_close(&ys, &Tensor::new(&[[1f32, -0.4]], &Device::Cpu).unwrap());
    }

    #[test]
    fn leaky_relu_has_the_lower_slope_at_zero() {
        let xs = Tensor::new(&[-1f32, 0.0, 2.0], &Device::Cpu).unwrap();
        let ys = leaky_relu(&xs).unwrap();
        assert_eq!(ys.to_vec1::<f32>().unwrap(), [-0.2, 0.0, 2.0]);
        let gradient = leaky_relu_gradient(&ys, &xs.ones_like().unwrap()).unwrap();
        assert_eq!(gradient.to_vec1::<f32>().unwrap(), [0.2, 0.2, 1.0]);
    }

    #[test]
    fn sigmoid_is_finite_far_out() {
        let xs = Tensor::new(&[-300f32, 0.0, 300.0], &Device::Cpu).unwrap();
        let ys = sigmoid(&xs).unwrap();
        assert_eq!(ys.to_vec1::<f32>().unwrap(), [0.0, 0.5, 1.0]);
        let gradient = sigmoid_gradient(&ys, &xs.ones_like().unwrap()).unwrap();
        assert_eq!(gradient.to_vec1::<f32>().unwrap(), [0.0, 0.25, 0.0]);
    }
}

//! Convolution and batch norm on every path that this processor can run.

use candle::Tensor;
use mesa_kernels::{
    Activations, Buffer, Conv, ConvInputGradient, ConvShape, Finish, GradientTarget, Input, Layout,
    Path, Residual, Scratch, Start, Unit, UnitGradients, UnitWeights,
};

use super::{Vectors, assert_close, values};

fn paths() -> Vec<Path> {
    let mut paths = vec![Path::Portable, Path::Avx2, Path::Avx512];
    paths.retain(|path| path.is_available());
    paths
}

/// `(N, C, H, W)` as images of a layout, zero elsewhere.
fn lay_out(tensor: &Tensor, layout: &Layout) -> Vec<f32> {
    let (count, channels, height, width) = tensor.dims4().unwrap();
    let plain = values(tensor);
    let mut images = vec![0.0; count * layout.len()];
    for (image, target) in images.chunks_exact_mut(layout.len()).enumerate() {
        for channel in 0..channels {
            for row in 0..height {
                for column in 0..width {
                    let at = ((image * channels + channel) * height + row) * width + column;
                    target[layout.offset(row, column) + channel] = plain[at];
                }
            }
        }
    }
    images
}

/// The inverse of [`lay_out`].
fn collect(images: &[f32], layout: &Layout) -> Vec<f32> {
    let mut plain = Vec::new();
    for image in images.chunks_exact(layout.len()) {
        for channel in 0..layout.channels {
            for row in 0..layout.height {
                for column in 0..layout.width {
                    plain.push(image[layout.offset(row, column) + channel]);
                }
            }
        }
    }
    plain
}

/// Kernel, stride and channels of a case named like `k3s2_17to33_8x8`.
fn shape_of(vectors: &Vectors, case: &str) -> ConvShape {
    let (out_channels, in_channels, kernel, _) =
        vectors.tensor(&format!("{case}.weight")).dims4().unwrap();
    let stride = if case.starts_with("k3s1") { 1 } else { 2 };
    ConvShape {
        in_channels,
        out_channels,
        kernel,
        stride,
    }
}

#[test]
fn convolutions_and_their_gradients_agree() {
    let vectors = Vectors::load("convolution");
    assert_eq!(vectors.cases().len(), 9);
    for case in vectors.cases() {
        for path in paths() {
            check_convolution(&vectors, case, path);
        }
    }
}

fn check_convolution(vectors: &Vectors, case: &str, path: Path) {
    let tensor = |name: &str| vectors.tensor(&format!("{case}.{name}"));
    let shape = shape_of(vectors, case);
    let (images, channels, height, width) = tensor("input").dims4().unwrap();
    let (rows, columns) = (shape.output_side(height), shape.output_side(width));
    let weights = shape.pack(&values(&tensor("weight"))).unwrap();
    let mut room = Buffer::default();

    // An image's few channels are laid out differently from features.
    let mut layouts = vec![Layout::features(channels, height, width, 1)];
    layouts.extend((channels == 3).then(|| Layout::pixels(channels, height, width)));
    for layout in layouts {
        let what = format!("{case} on {} from stride {}", path.name(), layout.stride);
        let source = lay_out(&tensor("input"), &layout);
        let flat = Layout::features(shape.out_channels, rows, columns, 0);
        let conv = Conv::new(shape, &layout, &flat).unwrap();
        let mut output = vec![0.0; images * flat.len()];
        let sources: Vec<&[f32]> = source.chunks_exact(layout.len()).collect();
        conv.forward(
            path,
            &sources,
            conv.weights(path, &weights, &mut room),
            &mut output.chunks_exact_mut(flat.len()).collect::<Vec<_>>(),
            Start::Zero,
            Finish::Linear,
        );
        assert_close(
            &what,
            &collect(&output, &flat),
            &values(&tensor("output")),
            2e-6,
        );

        let upstream = lay_out(&tensor("output_gradient"), &flat);
        let upstream: Vec<&[f32]> = upstream.chunks_exact(flat.len()).collect();
        let mut sum = vec![0.0; conv.blocks() * conv.sum_per_block()];
        conv.weight_gradient(path, &sources, &upstream, 0, &mut sum, false);
        let mut gradient = vec![0.0; shape.packed_len()];
        conv.collect_gradient(path, &mut sum, &mut gradient);
        let found = shape.unpack(&gradient).unwrap();
        assert_close(&what, &found, &values(&tensor("weight_gradient")), 2e-6);
    }

    let what = format!("{case} input gradient on {}", path.name());
    let bordered = Layout::features(shape.out_channels, rows, columns, 1);
    let flat = Layout::features(channels, height, width, 0);
    let backward = ConvInputGradient::new(shape, &bordered, &flat).unwrap();
    let upstream = lay_out(&tensor("output_gradient"), &bordered);
    // What is there already is overwritten, and then added to.
    let mut gradient = vec![7.0; images * flat.len()];
    for times in [1.0, 2.0] {
        backward.run(
            path,
            &upstream.chunks_exact(bordered.len()).collect::<Vec<_>>(),
            backward.weights(path, &weights, &mut room),
            &mut gradient.chunks_exact_mut(flat.len()).collect::<Vec<_>>(),
            times > 1.0,
        );
        let expected = values(&(tensor("input_gradient") * times).unwrap());
        assert_close(&what, &collect(&gradient, &flat), &expected, 2e-6);
    }
}

#[test]
fn batch_norm_with_residual_and_relu_agrees() {
    let vectors = Vectors::load("batch_norm");
    assert_eq!(vectors.cases().len(), 6);
    for case in vectors.cases() {
        for path in paths() {
            check_batch_norm(&vectors, case, path);
        }
    }
}

/// Batch norm behind the identity, a 1×1 convolution with unit weights.
fn check_batch_norm(vectors: &Vectors, case: &str, path: Path) {
    let tensor = |name: &str| vectors.tensor(&format!("{case}.{name}"));
    let close = |name: &str, found: &[f32]| {
        let what = format!("{case}.{name} on {}", path.name());
        assert_close(&what, found, &values(&tensor(name)), 5e-6);
    };
    let (images, channels, height, width) = tensor("input").dims4().unwrap();
    let shape = ConvShape {
        in_channels: channels,
        out_channels: channels,
        kernel: 1,
        stride: 1,
    };
    let identity: Vec<f32> = (0..channels * channels)
        .map(|at| f32::from(u8::from(at % (channels + 1) == 0)))
        .collect();
    let packed = shape.pack(&identity).unwrap();
    let mut scratch = Scratch::default();

    let bordered = Layout::features(channels, height, width, 1);
    let flat = Layout::features(channels, height, width, 0);
    let unit = Unit::new(shape, bordered, true).unwrap();
    let input = lay_out(&tensor("input"), &bordered);
    let with_residual = case.ends_with("residual");
    let residual = with_residual.then(|| lay_out(&tensor("residual"), &bordered));
    let (gamma, beta) = (values(&tensor("weight")), values(&tensor("bias")));
    let mut kept = Activations::default();
    let weights = UnitWeights {
        conv: &packed,
        gamma: &gamma,
        beta: &beta,
    };
    let moments = unit.forward(
        path,
        images,
        Input::Ready(&input),
        weights,
        None,
        &mut kept,
        &mut scratch,
    );
    unit.finish(
        path,
        images,
        &mut kept,
        residual.as_deref().map(Residual::Ready),
    );
    close("output", &collect(kept.output(), &bordered));
    for (name, newest) in [
        ("running_mean", &moments.mean),
        ("running_var", &moments.variance),
    ] {
        let before = values(&tensor(name));
        let next: Vec<f32> = before
            .iter()
            .zip(newest)
            .map(|(b, n)| 0.9 * b + 0.1 * n)
            .collect();
        close(&format!("next_{name}"), &next);
    }

    let mut upstream = lay_out(&tensor("output_gradient"), &flat);
    let mut input_gradient = vec![0.0; images * flat.len()];
    let mut residual_gradient = vec![0.0; images * flat.len()];
    let mut conv_gradient = vec![0.0; shape.packed_len()];
    let (mut gamma_gradient, mut beta_gradient) = (vec![0.0; channels], vec![0.0; channels]);
    unit.reduce(path, &mut kept, &upstream);
    unit.reduce(path, &mut kept, &upstream);
    unit.backward(
        path,
        &input,
        &packed,
        &mut kept,
        &mut upstream,
        None,
        with_residual.then_some(GradientTarget {
            values: &mut residual_gradient,
            accumulate: false,
            completes: None,
        }),
        Some(GradientTarget {
            values: &mut input_gradient,
            accumulate: false,
            completes: None,
        }),
        &mut UnitGradients {
            conv: &mut conv_gradient,
            gamma: &mut gamma_gradient,
            beta: &mut beta_gradient,
        },
        &mut scratch,
    );
    close("input_gradient", &collect(&input_gradient, &flat));
    close("weight_gradient", &gamma_gradient);
    close("bias_gradient", &beta_gradient);
    if with_residual {
        close("residual_gradient", &collect(&residual_gradient, &flat));
    }
}

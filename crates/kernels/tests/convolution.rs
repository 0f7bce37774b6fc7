//! Convolutions and their gradients against plain sums in f64, on every path of this processor,
//! with channel counts and image sizes that divide nothing.

#![allow(clippy::unwrap_used, reason = "a test")]

use mesa_kernels::{
    BLOCK, Buffer, Conv, ConvInputGradient, ConvShape, Finish, Layout, Path, Start,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Relative L2 error that rounding explains in f32.
const TOLERANCE: f64 = 2e-6;

struct Case {
    shape: ConvShape,
    height: usize,
    width: usize,
}

fn cases() -> Vec<Case> {
    let case = |in_channels, out_channels, kernel, stride, height, width| Case {
        shape: ConvShape {
            in_channels,
            out_channels,
            kernel,
            stride,
        },
        height,
        width,
    };
    vec![
        case(3, 5, 3, 1, 5, 7),
        case(17, 33, 3, 1, 6, 6),
        case(17, 33, 3, 1, 8, 12),
        case(5, 70, 3, 1, 16, 4),
        case(200, 30, 3, 1, 4, 8),
        case(17, 33, 3, 2, 8, 8),
        case(33, 20, 3, 2, 13, 10),
        case(5, 16, 1, 2, 7, 5),
        case(40, 24, 1, 2, 8, 8),
        case(16, 48, 1, 1, 4, 3),
        case(1, 1, 3, 1, 1, 1),
        case(2, 3, 3, 2, 1, 1),
        case(64, 64, 3, 1, 4, 4),
        case(7, 100, 3, 2, 32, 3),
    ]
}

fn paths() -> Vec<Path> {
    let all = [Path::Portable, Path::Avx2, Path::Avx512];
    all.into_iter().filter(|path| path.is_available()).collect()
}

fn random(len: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Lays (pixel, channel) values out; border and padding stay zero.
fn lay_out(layout: &Layout, values: &[f32]) -> Buffer {
    let mut image = Buffer::zeros(layout.len());
    for row in 0..layout.height {
        for column in 0..layout.width {
            let from = (row * layout.width + column) * layout.channels;
            image[layout.offset(row, column)..][..layout.channels]
                .copy_from_slice(&values[from..from + layout.channels]);
        }
    }
    image
}

/// The inverse of [`lay_out`]; also checks that padding channels are zero.
fn read_back(layout: &Layout, image: &[f32]) -> Vec<f32> {
    let mut values = Vec::new();
    for row in 0..layout.height {
        for column in 0..layout.width {
            let pixel = &image[layout.offset(row, column)..][..layout.stride];
            assert!(
                pixel[layout.channels..]
                    .iter()
                    .all(|padding| *padding == 0.0)
            );
            values.extend(&pixel[..layout.channels]);
        }
    }
    values
}

/// Calls `visit(output pixel, input pixel, tap)` for every pair of pixels that a tap joins.
fn taps(case: &Case, mut visit: impl FnMut(usize, usize, usize)) {
    let (kernel, stride) = (case.shape.kernel, case.shape.stride);
    let padding = kernel / 2;
    let output_width = case.shape.output_side(case.width);
    for row in 0..case.shape.output_side(case.height) {
        for column in 0..output_width {
            for tap in 0..kernel * kernel {
                let y = (row * stride + tap / kernel).wrapping_sub(padding);
                let x = (column * stride + tap % kernel).wrapping_sub(padding);
                if y < case.height && x < case.width {
                    visit(row * output_width + column, y * case.width + x, tap);
                }
            }
        }
    }
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let pairs = || found.iter().zip(expected);
    let error: f64 = pairs().map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    let size: f64 = expected.iter().map(|b| b * b).sum();
    assert!(
        error.sqrt() <= TOLERANCE * size.sqrt(),
        "{what}: {} of {}",
        error.sqrt(),
        size.sqrt()
    );
}

#[test]
fn agree_with_plain_sums_on_every_path() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for case in cases() {
        let shape = case.shape;
        let (inputs, outputs, taps_count) = (shape.in_channels, shape.out_channels, shape.taps());
        let (height, width) = (
            shape.output_side(case.height),
            shape.output_side(case.width),
        );
        let weights = random(outputs * inputs * taps_count, &mut rng);
        let x = random(case.height * case.width * inputs, &mut rng);
        let dy = random(height * width * outputs, &mut rng);
        let mut y = vec![0.0; height * width * outputs];
        let mut dx = vec![0.0; x.len()];
        let mut dw = vec![0.0; weights.len()];
        taps(&case, |output, input, tap| {
            for o in 0..outputs {
                for i in 0..inputs {
                    let at = (o * inputs + i) * taps_count + tap;
                    let (x_at, y_at) = (input * inputs + i, output * outputs + o);
                    y[y_at] += f64::from(x[x_at]) * f64::from(weights[at]);
                    dx[x_at] += f64::from(dy[y_at]) * f64::from(weights[at]);
                    dw[at] += f64::from(dy[y_at]) * f64::from(x[x_at]);
                }
            }
        });

        let input = Layout::features(inputs, case.height, case.width, 1);
        let bordered = Layout::features(outputs, height, width, 1);
        let plain = Layout::features(outputs, height, width, 0);
        let plain_input = Layout { border: 0, ..input };
        let packed = shape.pack(&weights).unwrap();
        assert_eq!(shape.unpack(&packed).unwrap(), weights);
        let images = [
            lay_out(&input, &x),
            lay_out(&plain, &dy),
            lay_out(&bordered, &dy),
        ];
        let kinds = [
            (
                Conv::new(shape, &input, &plain).unwrap(),
                ConvInputGradient::new(shape, &bordered, &plain_input).unwrap(),
            ),
            (
                Conv::direct(shape, &input, &plain).unwrap(),
                ConvInputGradient::direct(shape, &bordered, &plain_input).unwrap(),
            ),
        ];
        for (path, (conv, backward)) in paths()
            .into_iter()
            .flat_map(|path| kinds.iter().map(move |kind| (path, kind)))
        {
            let what = format!(
                "{shape:?} {}x{} on {}",
                case.height,
                case.width,
                path.name()
            );
            let mut out = Buffer::zeros(plain.len());
            let mut room = Buffer::default();
            conv.forward(
                path,
                &[&images[0]],
                conv.weights(path, &packed, &mut room),
                &mut [&mut out],
                Start::Zero,
                Finish::Linear,
            );
            assert_close(&read_back(&plain, &out), &y, &format!("output of {what}"));

            let mut sum = vec![0.0; conv.blocks() * conv.sum_per_block()];
            conv.weight_gradient(path, &[&images[0]], &[&images[1]], 0, &mut sum, false);
            let mut gradient = vec![0.0; shape.packed_len()];
            conv.collect_gradient(path, &mut sum, &mut gradient);
            let gradient = shape.unpack(&gradient).unwrap();
            assert_close(&gradient, &dw, &format!("weight gradient of {what}"));

            let mut out = Buffer::from_slice(&vec![7.0; plain_input.len()]);
            let weights = backward.weights(path, &packed, &mut room);
            backward.run(path, &[&images[2]], weights, &mut [&mut out], false);
            // Once more, on top: twice the gradient.
            backward.run(path, &[&images[2]], weights, &mut [&mut out], true);
            let twice: Vec<f64> = dx.iter().map(|g| 2.0 * g).collect();
            assert_close(
                &read_back(&plain_input, &out),
                &twice,
                &format!("input gradient of {what}"),
            );
        }
    }
}

/// Images of which a chunk of tiles holds all, some or a part.
#[test]
fn a_group_of_images_gives_what_each_gives_alone() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (side, count) in [(4, 70), (8, 17), (20, 3)] {
        let shape = ConvShape {
            in_channels: 6,
            out_channels: 40,
            kernel: 3,
            stride: 1,
        };
        let input = Layout::features(6, side, side, 1);
        let output = Layout::features(40, side, side, 0);
        let conv = Conv::new(shape, &input, &output).unwrap();
        let packed = shape.pack(&random(40 * 6 * 9, &mut rng)).unwrap();
        let images: Vec<Buffer> = (0..count)
            .map(|_| lay_out(&input, &random(6 * side * side, &mut rng)))
            .collect();
        let sources: Vec<&[f32]> = images.iter().map(|image| &image[..]).collect();
        for path in paths() {
            let mut room = Buffer::default();
            let weights = conv.weights(path, &packed, &mut room);
            let run = |sources: &[&[f32]]| {
                let mut out = vec![0.0; sources.len() * output.len()];
                let mut targets: Vec<&mut [f32]> = out.chunks_mut(output.len()).collect();
                let (start, finish) = (Start::Zero, Finish::Linear);
                conv.forward(path, sources, weights, &mut targets, start, finish);
                out
            };
            let alone: Vec<f32> = sources.iter().flat_map(|source| run(&[source])).collect();
            assert_eq!(run(&sources), alone, "{side} on {}", path.name());
        }
    }
}

#[test]
fn sums_start_from_bias_and_residual_and_end_in_a_relu() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let shape = ConvShape {
        in_channels: 3,
        out_channels: 21,
        kernel: 3,
        stride: 1,
    };
    // Colors are summed directly, features of this size by tiles.
    for input in [Layout::pixels(3, 4, 8), Layout::features(3, 4, 8, 1)] {
        let output = Layout::features(21, 4, 8, 1);
        let packed = shape.pack(&random(21 * 27, &mut rng)).unwrap();
        let x = lay_out(&input, &random(96, &mut rng));
        let residual_values = random(21 * 32, &mut rng);
        let residual = lay_out(&output, &residual_values);
        let mut bias = vec![0.0; 2 * BLOCK];
        bias[..21].copy_from_slice(&random(21, &mut rng));
        let conv = Conv::new(shape, &input, &output).unwrap();
        for path in paths() {
            let mut out = Buffer::zeros(output.len());
            let mut run = |start, finish| {
                let mut room = Buffer::default();
                let weights = conv.weights(path, &packed, &mut room);
                conv.forward(path, &[&x], weights, &mut [&mut out], start, finish);
                read_back(&output, &out)
            };
            let linear = run(Start::Zero, Finish::Linear);
            let residuals: [&[f32]; 1] = [&residual];
            let found = run(Start::BiasAndResidual(&bias, &residuals), Finish::Relu);
            let expected =
                linear
                    .iter()
                    .zip(&residual_values)
                    .enumerate()
                    .map(|(at, (sum, residual))| {
                        (f64::from(*sum) + f64::from(*residual) + f64::from(bias[at % 21])).max(0.0)
                    });
            let expected: Vec<f64> = expected.collect();
            assert!(expected.contains(&0.0));
            assert_close(&found, &expected, path.name());
        }
    }
}

#[test]
fn parts_of_a_weight_gradient_are_the_rows_of_the_whole_and_images_its_summands() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (stride, side) in [(2, 9), (1, 8)] {
        let shape = ConvShape {
            in_channels: 5,
            out_channels: 64,
            kernel: 3,
            stride,
        };
        let input = Layout::features(5, side, side, 1);
        let output = Layout::features(64, side.div_ceil(stride), side.div_ceil(stride), 0);
        let conv = Conv::new(shape, &input, &output).unwrap();
        let x = [(); 2].map(|()| lay_out(&input, &random(5 * side * side, &mut rng)));
        let dy = [(); 2].map(|()| random(output.len(), &mut rng));
        let (sources, gradients) = ([&*x[0], &*x[1]], [&*dy[0], &*dy[1]]);
        for path in paths() {
            let mut whole = vec![0.0; conv.blocks() * conv.sum_per_block()];
            conv.weight_gradient(path, &sources, &gradients, 0, &mut whole, false);
            let mut part = vec![0.0; 2 * conv.sum_per_block()];
            conv.weight_gradient(path, &sources, &gradients, 2, &mut part, false);
            assert_eq!(part, whole[2 * conv.sum_per_block()..]);
            let mut summed = vec![7.0; whole.len()];
            for image in 0..2 {
                let (x, dy) = (&sources[image..=image], &gradients[image..=image]);
                conv.weight_gradient(path, x, dy, 0, &mut summed, image > 0);
            }
            let expected: Vec<f64> = whole.iter().map(|value| f64::from(*value)).collect();
            assert_close(&summed, &expected, path.name());
        }
    }
}

/// As when no image of a group needs a gradient.
#[test]
fn no_images_are_no_work() {
    for stride in [1, 2] {
        let shape = ConvShape {
            in_channels: 4,
            out_channels: 20,
            kernel: 3,
            stride,
        };
        let input = Layout::features(4, 8, 8, 1);
        let output = Layout::features(20, 8 / stride, 8 / stride, 1);
        let conv = Conv::new(shape, &input, &output).unwrap();
        let backward = ConvInputGradient::new(shape, &output, &input).unwrap();
        let packed = vec![1.0; shape.packed_len()];
        for path in paths() {
            let mut room = Buffer::default();
            let weights = conv.weights(path, &packed, &mut room);
            conv.forward(path, &[], weights, &mut [], Start::Zero, Finish::Linear);
            let weights = backward.weights(path, &packed, &mut room);
            backward.run(path, &[], weights, &mut [], false);
            let mut sum = vec![7.0; conv.blocks() * conv.sum_per_block()];
            conv.weight_gradient(path, &[], &[], 0, &mut sum, true);
            assert!(sum.iter().all(|value| *value == 7.0));
            conv.weight_gradient(path, &[], &[], 0, &mut sum, false);
            assert!(sum.iter().all(|value| *value == 0.0));
        }
    }
}

#[test]
fn refuses_what_it_has_no_code_for() {
    let layout = Layout::features(4, 8, 8, 1);
    for (kernel, stride) in [(2, 1), (5, 1), (3, 3), (3, 0)] {
        let shape = ConvShape {
            in_channels: 4,
            out_channels: 4,
            kernel,
            stride,
        };
        let refused = Conv::new(shape, &layout, &layout);
        assert!(
            matches!(refused, Err(mesa_kernels::Error::Shape { .. })),
            "{shape:?}"
        );
    }
}

/// Kernels trust the layouts that they were planned for.
#[test]
fn refuses_layouts_that_it_would_leave() {
    let shape = ConvShape {
        in_channels: 20,
        out_channels: 20,
        kernel: 3,
        stride: 1,
    };
    let (bordered, plain) = (Layout::features(20, 8, 8, 1), Layout::features(20, 8, 8, 0));
    assert!(Conv::new(shape, &bordered, &plain).is_ok());
    assert!(ConvInputGradient::new(shape, &bordered, &plain).is_ok());
    let wrong_targets = [
        Layout {
            stride: 16,
            ..plain
        },
        Layout {
            stride: 24,
            ..plain
        },
        Layout::features(20, 7, 8, 0),
        Layout::features(12, 8, 8, 0),
    ];
    let wrong_sources = [
        Layout {
            stride: 16,
            ..bordered
        },
        Layout::features(20, 8, 8, 0),
        Layout::features(20, 9, 8, 1),
        Layout::features(40, 8, 8, 1),
    ];
    let targets = wrong_targets.iter().map(|target| (&bordered, target));
    let sources = wrong_sources.iter().map(|source| (source, &plain));
    for (source, target) in targets.chain(sources) {
        // Both read the first and write the second.
        let forward = [Conv::new, Conv::direct].map(|new| new(shape, source, target).is_err());
        let back = [ConvInputGradient::new, ConvInputGradient::direct];
        let back = back.map(|new| new(shape, source, target).is_err());
        assert_eq!(
            (forward, back),
            ([true; 2], [true; 2]),
            "{source:?} to {target:?}"
        );
    }
}

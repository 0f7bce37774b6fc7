//! A chain of units against finite differences, and its independence of the number of threads.

#![allow(clippy::unwrap_used, reason = "a test")]

use mesa_kernels::{
    Activations, Buffer, Completed, ConvShape, GradientTarget, Input, Layout, Path, Residual,
    Scratch, Unit, UnitGradients, UnitWeights,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BATCH: usize = 3;

/// `relu(bn(conv(a)) + bn(shortcut(a)))` with `a = relu(bn(conv(image)))`: every kind of edge.
struct Block {
    units: [Unit; 3],
    /// Convolution, scale and shift of each unit.
    weights: Vec<Vec<f32>>,
    image: Buffer,
    /// The loss is the sum of the output times these.
    direction: Vec<f32>,
}

struct Pass {
    loss: f64,
    kept: [Activations; 3],
}

impl Block {
    /// On images of a size, with convolutions of a stride: by plain sums or by tiles.
    fn new((height, width): (usize, usize), stride: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let shape = |in_channels, out_channels, kernel, stride| ConvShape {
            in_channels,
            out_channels,
            kernel,
            stride,
        };
        let shapes = [
            shape(3, 18, 3, 1),
            shape(18, 20, 1, stride),
            shape(18, 20, 3, stride),
        ];
        let image = Layout::pixels(3, height, width);
        let first = Unit::new(shapes[0], image, true).unwrap();
        let shortcut = Unit::new(shapes[1], *first.output(), false).unwrap();
        let last = Unit::new(shapes[2], *first.output(), true).unwrap();
        let mut random = |len: usize, low: f32, high: f32| -> Vec<f32> {
            (0..len).map(|_| rng.random_range(low..high)).collect()
        };
        let mut weights = Vec::new();
        for shape in shapes {
            let plain = random(
                shape.out_channels * shape.in_channels * shape.taps(),
                -1.0,
                1.0,
            );
            weights.push(shape.pack(&plain).unwrap());
            weights.push(random(shape.out_channels, 0.5, 1.5));
            weights.push(random(shape.out_channels, -0.5, 0.5));
        }
        let mut pixels = Buffer::zeros(BATCH * image.len());
        let count = height * width;
        for (at, value) in random(BATCH * count * 3, -1.0, 1.0).iter().enumerate() {
            let (photo, pixel, color) = (at / (3 * count), at / 3 % count, at % 3);
            pixels[photo * image.len() + image.offset(pixel / width, pixel % width) + color] =
                *value;
        }
        let direction = random(BATCH * last.output().pixel_count() * 20, -1.0, 1.0);
        Self {
            units: [first, shortcut, last],
            weights,
            image: pixels,
            direction,
        }
    }

    fn of(&self, unit: usize) -> UnitWeights<'_> {
        UnitWeights {
            conv: &self.weights[3 * unit],
            gamma: &self.weights[3 * unit + 1],
            beta: &self.weights[3 * unit + 2],
        }
    }

    fn forward(&self, path: Path) -> Pass {
        let [first, shortcut, last] = &self.units;
        let mut kept: [Activations; 3] = Default::default();
        let [of_first, of_shortcut, of_last] = &mut kept;
        let scratch = &mut Scratch::default();
        first.forward(
            path,
            BATCH,
            Input::Ready(&self.image),
            self.of(0),
            None,
            of_first,
            scratch,
        );
        let pending = Input::Pending {
            unit: first,
            kept: of_first,
            residual: None,
        };
        shortcut.forward(path, BATCH, pending, self.of(1), None, of_shortcut, scratch);
        last.forward(
            path,
            BATCH,
            Input::Ready(of_first.output()),
            self.of(2),
            None,
            of_last,
            scratch,
        );
        last.finish(
            path,
            BATCH,
            of_last,
            Some(Residual::Raw(shortcut, of_shortcut)),
        );
        let layout = last.output();
        let mut loss = 0.0;
        for (at, direction) in self.direction.iter().enumerate() {
            loss += f64::from(*direction) * f64::from(of_last.output()[self.place(layout, at)]);
        }
        Pass { loss, kept }
    }

    fn place(&self, layout: &Layout, at: usize) -> usize {
        let per_image = self.direction.len() / BATCH;
        let (image, pixel, channel) = (at / per_image, at % per_image / 20, at % 20);
        image * layout.len() + layout.offset(pixel / layout.width, pixel % layout.width) + channel
    }

    fn gradients(&self, path: Path) -> Vec<Vec<f32>> {
        let mut pass = self.forward(path);
        let [first, shortcut, last] = &self.units;
        let gradients: Vec<Vec<f32>> = self.weights.iter().map(|w| vec![0.0; w.len()]).collect();
        let mut scratch = Scratch::default();
        let plain = last.output_gradient();
        let mut of_output = Buffer::zeros(BATCH * plain.len());
        for (at, direction) in self.direction.iter().enumerate() {
            of_output[self.place(plain, at)] = *direction;
        }
        let mut of_shortcut = Buffer::zeros(BATCH * shortcut.output_gradient().len());
        let mut of_first = Buffer::zeros(BATCH * first.output_gradient().len());
        let [kept_first, kept_shortcut, kept_last] = &mut pass.kept;
        last.reduce(path, kept_last, &of_output);
        let mut sums = kept_shortcut.take_sums();
        let mut parts: Vec<Vec<Vec<f32>>> = gradients.chunks(3).map(<[Vec<f32>]>::to_vec).collect();
        last.backward(
            path,
            kept_first.output(),
            self.of(2).conv,
            kept_last,
            &mut of_output,
            None,
            Some(GradientTarget {
                values: &mut of_shortcut,
                accumulate: false,
                completes: Some(Completed {
                    unit: shortcut,
                    kept: kept_shortcut,
                    sums: &mut sums,
                }),
            }),
            Some(GradientTarget {
                values: &mut of_first,
                accumulate: false,
                completes: None,
            }),
            &mut targets(&mut parts[2]),
            &mut scratch,
        );
        kept_shortcut.give_sums(sums);
        let mut sums = kept_first.take_sums();
        shortcut.backward(
            path,
            kept_first.output(),
            self.of(1).conv,
            kept_shortcut,
            &mut of_shortcut,
            None,
            None,
            Some(GradientTarget {
                values: &mut of_first,
                accumulate: true,
                completes: Some(Completed {
                    unit: first,
                    kept: kept_first,
                    sums: &mut sums,
                }),
            }),
            &mut targets(&mut parts[1]),
            &mut scratch,
        );
        kept_first.give_sums(sums);
        first.backward(
            path,
            &self.image,
            &[],
            kept_first,
            &mut of_first,
            None,
            None,
            None,
            &mut targets(&mut parts[0]),
            &mut scratch,
        );
        parts.concat()
    }
}

fn blocks() -> [Block; 2] {
    [Block::new((7, 6), 2), Block::new((8, 4), 1)]
}

fn targets(part: &mut [Vec<f32>]) -> UnitGradients<'_> {
    let [conv, gamma, beta] = part else {
        panic!("three tensors a unit")
    };
    UnitGradients { conv, gamma, beta }
}

fn paths() -> Vec<Path> {
    let all = [Path::Portable, Path::Avx2, Path::Avx512];
    all.into_iter().filter(|path| path.is_available()).collect()
}

#[test]
fn gradients_agree_with_finite_differences_on_every_path() {
    for (path, mut block) in paths()
        .into_iter()
        .flat_map(|path| blocks().map(|block| (path, block)))
    {
        let gradients = block.gradients(path);
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        for (tensor, gradient) in gradients.iter().enumerate() {
            // Along a random direction, so that one difference tests every weight.
            let direction: Vec<f32> = gradient
                .iter()
                .map(|g| {
                    if *g == 0.0 {
                        0.0
                    } else {
                        rng.random_range(-1.0..1.0)
                    }
                })
                .collect();
            let expected: f64 = gradient
                .iter()
                .zip(&direction)
                .map(|(g, d)| f64::from(*g) * f64::from(*d))
                .sum();
            let whole = block.weights[tensor].clone();
            let mut at = |step: f32| {
                for ((w, old), d) in block.weights[tensor].iter_mut().zip(&whole).zip(&direction) {
                    *w = old + step * d;
                }
                block.forward(path).loss
            };
            let difference = (at(1e-3) - at(-1e-3)) / 2e-3;
            block.weights[tensor] = whole;
            let size: f64 = gradient
                .iter()
                .map(|g| f64::from(*g).powi(2))
                .sum::<f64>()
                .sqrt();
            assert!(
                (difference - expected).abs() < 0.02 * size.max(1.0),
                "tensor {tensor} on {}: {difference} against {expected}",
                path.name()
            );
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for (path, block) in paths()
        .into_iter()
        .flat_map(|path| blocks().map(|block| (path, block)))
    {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| block.gradients(path))
        };
        let one = with(1);
        assert_eq!(one, with(2));
        assert_eq!(one, with(3));
    }
}

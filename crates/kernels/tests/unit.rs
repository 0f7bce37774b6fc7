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
    for path in paths() {
        for mut block in blocks() {
            let gradients = block.gradients(path);
            let loss = |block: &Block| block.forward(path).loss;
            agree_with_differences(
                path,
                &mut block,
                |block| &mut block.weights,
                &gradients,
                loss,
            );
        }
        for mut sums in [Sums::new((7, 6)), Sums::new((8, 4))] {
            let gradients = sums.gradients(path);
            let loss = |sums: &Sums| sums.forward(path).0;
            agree_with_differences(path, &mut sums, |sums| &mut sums.weights, &gradients, loss);
        }
    }
}

/// So short that hardly a ReLU changes sides.
const STEP: f32 = 2e-4;

/// Compares the gradients of some weights with the loss's differences.
fn agree_with_differences<N>(
    path: Path,
    network: &mut N,
    weights: impl Fn(&mut N) -> &mut Vec<Vec<f32>>,
    gradients: &[Vec<f32>],
    loss: impl Fn(&N) -> f64,
) {
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
        let whole = weights(network)[tensor].clone();
        let mut at = |step: f32| {
            let moved = weights(network)[tensor].iter_mut();
            for ((w, old), d) in moved.zip(&whole).zip(&direction) {
                *w = old + step * d;
            }
            loss(network)
        };
        let difference = (at(STEP) - at(-STEP)) / (2.0 * f64::from(STEP));
        weights(network)[tensor] = whole;
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

/// Three sums as pre-activation has them: each unit convolves the normalized output of the one before
/// it, and its sum starts from that one's. There is no batch norm behind the last.
struct Sums {
    units: [Unit; 3],
    weights: Vec<Vec<f32>>,
    image: Buffer,
    /// The loss is the sum of the last sum times these.
    direction: Vec<f32>,
}

impl Sums {
    fn new(size: (usize, usize)) -> Self {
        let Block {
            units: [first, ..],
            mut weights,
            image,
            ..
        } = Block::new(size, 1);
        let shape = ConvShape {
            in_channels: 18,
            out_channels: 18,
            kernel: 3,
            stride: 1,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut random = |len: usize, low: f32, high: f32| -> Vec<f32> {
            (0..len).map(|_| rng.random_range(low..high)).collect()
        };
        // Small, so that a ReLU that changes sides within a difference changes little.
        let mut convolution = || shape.pack(&random(18 * 18 * 9, -0.2, 0.2)).unwrap();
        let convolutions = [convolution(), convolution()];
        let [of_second, of_last] = convolutions;
        weights.truncate(3);
        weights.extend([
            of_second,
            random(18, 0.5, 1.5),
            random(18, -0.5, 0.5),
            of_last,
        ]);
        let layout = *first.output();
        let second = Unit::new(shape, layout, true).unwrap();
        let last = Unit::plain(shape, layout).unwrap();
        Self {
            units: [first, second, last],
            weights,
            image,
            direction: random(BATCH * layout.pixel_count() * 18, -1.0, 1.0),
        }
    }

    fn weights(&self, unit: usize) -> UnitWeights<'_> {
        match &self.weights[3 * unit..] {
            [conv, gamma, beta, ..] => UnitWeights { conv, gamma, beta },
            [conv] => UnitWeights {
                conv,
                gamma: &[],
                beta: &[],
            },
            _ => panic!("one tensor or three"),
        }
    }

    fn forward(&self, path: Path) -> (f64, [Activations; 3]) {
        let mut kept: [Activations; 3] = Default::default();
        for (index, unit) in self.units.iter().enumerate() {
            let (before, after) = kept.split_at_mut(index);
            let (own, scratch) = (&mut after[0], &mut Scratch::default());
            let weights = self.weights(index);
            match before.last_mut() {
                None => {
                    let input = Input::Ready(&self.image);
                    unit.forward(path, BATCH, input, weights, None, own, scratch);
                }
                Some(before) => {
                    let skip = before.take_raw();
                    let input = Input::Ready(before.output());
                    unit.forward(path, BATCH, input, weights, Some(&skip), own, scratch);
                    before.give_raw(skip);
                }
            }
            unit.finish(path, BATCH, own, None);
        }
        let [.., last] = &self.units;
        let output = kept[2].output();
        let terms = self.direction.iter().enumerate();
        let loss = terms.map(|(at, direction)| {
            f64::from(*direction) * f64::from(output[Self::place(at, last.output())])
        });
        (loss.sum(), kept)
    }

    fn place(at: usize, layout: &Layout) -> usize {
        let (pixel, channel) = (at / 18, at % 18);
        let (image, pixel) = (pixel / layout.pixel_count(), pixel % layout.pixel_count());
        image * layout.len() + layout.offset(pixel / layout.width, pixel % layout.width) + channel
    }

    fn gradients(&self, path: Path) -> Vec<Vec<f32>> {
        let (_, mut kept) = self.forward(path);
        let mut gradients = self.weights.clone();
        let layout = self.units[2].output_gradient();
        let mut of_output = Buffer::zeros(BATCH * layout.len());
        for (at, direction) in self.direction.iter().enumerate() {
            of_output[Self::place(at, layout)] = *direction;
        }
        let mut of_skip: Option<Buffer> = None;
        for (index, unit) in self.units.iter().enumerate().rev() {
            let (before, after) = kept.split_at_mut(index);
            let mut of_input = Buffer::zeros(of_output.len());
            let mut sums = before
                .last_mut()
                .map_or_else(Vec::new, Activations::take_sums);
            let (input, target) = match before.last() {
                None => (&self.image[..], None),
                Some(kept) => {
                    let completes = Some(Completed {
                        unit: &self.units[index - 1],
                        kept,
                        sums: &mut sums,
                    });
                    let target = GradientTarget {
                        values: &mut of_input,
                        accumulate: false,
                        completes,
                    };
                    (kept.output(), Some(target))
                }
            };
            let mut targets = match &mut gradients[3 * index..] {
                [conv, gamma, beta, ..] => UnitGradients { conv, gamma, beta },
                [conv, ..] => UnitGradients {
                    conv,
                    gamma: &mut [],
                    beta: &mut [],
                },
                [] => panic!("one tensor or three"),
            };
            unit.backward(
                path,
                input,
                &self.weights[3 * index],
                &mut after[0],
                &mut of_output,
                of_skip.as_deref(),
                None,
                target,
                &mut targets,
                &mut Scratch::default(),
            );
            if let Some(before) = before.last_mut() {
                before.give_sums(sums);
            }
            // What is left there is the gradient of the sum, and so of the one that it started from.
            of_skip = Some(std::mem::replace(&mut of_output, of_input));
        }
        gradients
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

//! Which sizes are measured.

use mesa::EntropyConfig;
use mesa_kernels::ConvShape;
use mesa_models::PerceptronConfig;

/// A convolution of a ResNet-18 for 32×32 images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) shape: ConvShape,
    /// Side of the input.
    pub(super) side: usize,
    /// How many of them the network has.
    pub(super) count: usize,
}

impl Layer {
    /// Multiplications and additions of one image, in GFLOP: the same forward and back.
    pub(super) fn gflop(&self) -> f64 {
        let side = self.shape.output_side(self.side);
        let products =
            self.shape.in_channels * self.shape.out_channels * self.shape.taps() * side * side;
        2e-9 * products as f64
    }

    /// As it is called in tables.
    pub(super) fn name(&self) -> String {
        let ConvShape {
            in_channels,
            out_channels,
            kernel,
            stride,
        } = self.shape;
        format!(
            "{in_channels} to {out_channels}, {kernel}x{kernel}, stride {stride}, {0}x{0}",
            self.side
        )
    }
}

/// The convolutions of a ResNet-18, equal ones once.
pub(super) fn resnet18(width: usize) -> Vec<Layer> {
    let layer = |in_channels, out_channels, kernel, stride, side, count| Layer {
        shape: ConvShape {
            in_channels,
            out_channels,
            kernel,
            stride,
        },
        side,
        count,
    };
    let mut layers = vec![
        layer(3, width, 3, 1, 32, 1),
        layer(width, width, 3, 1, 32, 4),
    ];
    for stage in 1..4 {
        let (narrow, wide, side) = (width << (stage - 1), width << stage, 32 >> (stage - 1));
        layers.extend([
            layer(narrow, wide, 3, 2, side, 1),
            layer(narrow, wide, 1, 2, side, 1),
            layer(wide, wide, 3, 1, side / 2, 3),
        ]);
    }
    layers
}

/// GFLOP of one image in a network's steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StepGflop {
    /// Forward.
    pub(super) forward: f64,
    /// Forward, all gradients of weights, all of inputs but the image's.
    pub(super) training: f64,
    /// Forward, all gradients of inputs, the image's too.
    pub(super) trigger: f64,
}

impl StepGflop {
    /// Of a ResNet-18.
    pub(super) fn of(width: usize) -> Self {
        let layers = resnet18(width);
        let forward: f64 = layers
            .iter()
            .map(|layer| layer.count as f64 * layer.gflop())
            .sum();
        Self {
            forward,
            training: 3.0 * forward - layers[0].gflop(),
            trigger: 2.0 * forward,
        }
    }
}

/// A large convolution, by which the device's rate of products is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Large {
    pub(super) channels: usize,
    pub(super) kernel: usize,
    pub(super) side: usize,
    pub(super) images: usize,
}

impl Large {
    pub(super) fn layer(&self) -> Layer {
        Layer {
            shape: ConvShape {
                in_channels: self.channels,
                out_channels: self.channels,
                kernel: self.kernel,
                stride: 1,
            },
            side: self.side,
            count: 0,
        }
    }
}

/// What is measured, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sizes {
    pub(super) width: usize,
    pub(super) batch_size: usize,
    /// Of evaluation, larger since nothing goes back.
    pub(super) evaluation_batch: usize,
    /// Of MESA's perceptrons.
    pub(super) perceptrons: PerceptronConfig,
    /// Pairs of noise and trigger in a step of the measurement of entropy.
    pub(super) pairs: usize,
    pub(super) large: Vec<Large>,
    /// Values of a copied buffer, 4 bytes each.
    pub(super) copied: usize,
    pub(super) rounds: usize,
    /// How long one turn of one work lasts, about.
    pub(super) turn_s: f64,
    /// The most repetitions in a turn.
    pub(super) most: usize,
    /// How long the card is kept busy before anything is measured.
    pub(super) warm_s: f64,
}

impl Sizes {
    /// What fills a large card, in seconds.
    pub(super) fn full() -> Self {
        let large = |channels, kernel, side| Large {
            channels,
            kernel,
            side,
            images: 128,
        };
        Self {
            width: 64,
            batch_size: 128,
            evaluation_batch: 1000,
            perceptrons: PerceptronConfig::paper(),
            pairs: EntropyConfig::standard().batch_size,
            large: vec![large(4096, 1, 8), large(1024, 3, 16), large(512, 3, 32)],
            copied: 1 << 28,
            rounds: 5,
            turn_s: 0.03,
            most: 50,
            warm_s: 0.5,
        }
    }

    /// What an emulated card does in seconds.
    pub(super) fn quick() -> Self {
        Self {
            width: 8,
            batch_size: 2,
            evaluation_batch: 3,
            perceptrons: PerceptronConfig {
                noise_dim: 8,
                network_width: 16,
                trigger_shape: [3, 2, 2],
            },
            pairs: 4,
            large: vec![Large {
                channels: 16,
                kernel: 1,
                side: 8,
                images: 2,
            }],
            copied: 1 << 10,
            rounds: 2,
            turn_s: 0.0,
            most: 1,
            warm_s: 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_has_twenty_convolutions_of_the_known_size() {
        let layers = resnet18(64);
        assert_eq!(layers.iter().map(|layer| layer.count).sum::<usize>(), 20);
        // 0.56 billion products, which docs/performance.md counts for a batch of 128 as 142 GFLOP.
        let step = StepGflop::of(64);
        assert!((step.forward * 128.0 - 142.19).abs() < 0.02);
        assert!((step.training * 128.0 - 426.11).abs() < 0.02);
        assert!((step.trigger - 2.0 * step.forward).abs() < 1e-12);
    }

    #[test]
    fn a_layer_is_called_by_its_shape() {
        assert_eq!(resnet18(16)[3].name(), "16 to 32, 1x1, stride 2, 32x32");
    }

    #[test]
    fn a_large_convolution_takes_a_fair_part_of_a_second_a_thousand_times() {
        for large in Sizes::full().large {
            let gflop = large.layer().gflop() * large.images as f64;
            assert!((200.0..800.0).contains(&gflop), "{large:?}: {gflop}");
        }
    }
}

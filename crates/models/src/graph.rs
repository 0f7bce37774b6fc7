//! What a network computes, as a list of units: the one thing an architecture has to say.

use std::ops::Range;

use mesa_kernels::{Activations, ConvShape, Input, Layout, Residual, Unit};

/// Side of the images, in pixels.
pub const IMAGE_SIDE: usize = 32;

/// Colors of the images.
pub(crate) const COLORS: usize = 3;

/// A tensor between units: node 0 is the image, node `i + 1` the output of unit `i`.
pub(crate) type Node = usize;

/// A convolution with batch norm, and with a residual sum and a ReLU where it has them.
///
/// Where batch norm comes first in a block (He et al. 2016b) it is that of the sum before it: what
/// blocks hand on is the sum, the *skip*, and a unit without batch norm is a sum and nothing else.
#[derive(Clone, Debug)]
pub(crate) struct UnitSpec {
    /// Name of the convolution and of the batch norm in a checkpoint.
    pub(crate) conv: String,
    pub(crate) norm: Option<String>,
    pub(crate) input: Node,
    /// Added behind batch norm.
    pub(crate) residual: Option<Node>,
    /// The unit from whose sum this one's starts, before batch norm. No two start from the same.
    pub(crate) skip: Option<usize>,
    pub(crate) shape: ConvShape,
    /// Whether the convolution's weights are learned. Else they are a padded shortcut's, of kernel side 1
    /// ([`UnitSpec::selection`]).
    pub(crate) learned: bool,
    pub(crate) relu: bool,
}

impl UnitSpec {
    /// The convolution's weights by their name in a checkpoint.
    pub(crate) fn filter_name(&self) -> String {
        format!("{}.weight", self.conv)
    }

    /// The weights of a unit that learns none: input channels as they are, with as many channels of zeros
    /// before them as behind (option A of He et al. 2016, as PyTorch networks for CIFAR have it; of an odd
    /// number, which those cannot have, one more behind).
    pub(crate) fn selection(&self) -> Option<Vec<f32>> {
        let ConvShape {
            in_channels,
            out_channels,
            ..
        } = self.shape;
        let before = out_channels.saturating_sub(in_channels) / 2;
        let taken = move |index: usize| index / in_channels == before + index % in_channels;
        let weights =
            (0..out_channels * in_channels).map(|index| f32::from(u8::from(taken(index))));
        (!self.learned).then(|| weights.collect())
    }
}

/// Units in an order in which each comes after what it reads, then average pooling and a linear layer.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    pub(crate) units: Vec<UnitSpec>,
    /// Name of the linear layer in a checkpoint.
    pub(crate) head: &'static str,
    pub(crate) num_classes: usize,
}

impl Graph {
    /// Channels that reach the linear layer.
    pub(crate) fn features(&self) -> usize {
        self.units
            .last()
            .map_or(COLORS, |unit| unit.shape.out_channels)
    }

    /// Names of the linear layer's two tensors.
    pub(crate) fn head_names(&self) -> [String; 2] {
        ["weight", "bias"].map(|name| format!("{}.{name}", self.head))
    }

    /// Layout of every node, with borders, for images of [`IMAGE_SIDE`].
    pub(crate) fn layouts(&self) -> Vec<Layout> {
        let mut layouts = vec![Layout::pixels(COLORS, IMAGE_SIDE, IMAGE_SIDE)];
        for unit in &self.units {
            let input = layouts[unit.input];
            layouts.push(Layout::features(
                unit.shape.out_channels,
                unit.shape.output_side(input.height),
                unit.shape.output_side(input.width),
                1,
            ));
        }
        layouts
    }

    /// Where a unit's learned tensors are in a list of all: the convolution's, if it learns any, and, where
    /// there is batch norm, its scale and shift. The linear layer's two come last.
    pub(crate) fn parameters(&self, unit: usize) -> Range<usize> {
        let of_norm = |unit: &UnitSpec| if unit.norm.is_some() { 2 } else { 0 };
        let count = |unit: &UnitSpec| usize::from(unit.learned) + of_norm(unit);
        let first = self.units[..unit].iter().map(count).sum();
        first..first + count(&self.units[unit])
    }

    /// Whether batch norm cannot be folded into a unit's convolution: another unit's sum starts from this
    /// one's, which is needed as it is, or this one's from another's, which would have to be scaled, too.
    pub(crate) fn keeps_sum(&self, unit: usize) -> bool {
        let spec = &self.units[unit];
        let handed_on = || self.units.iter().any(|other| other.skip == Some(unit));
        spec.norm.is_some() && (spec.skip.is_some() || handed_on())
    }

    /// The first unit that reads a node: the one that normalizes it on the way forward, and
    /// completes its gradient on the way back.
    pub(crate) fn first_reader(&self, node: Node) -> Option<usize> {
        self.units
            .iter()
            .position(|unit| unit.input == node || unit.residual == Some(node))
    }

    /// The output of a unit that has been convolved and not yet normalized.
    pub(crate) fn pending<'a>(
        &self,
        units: &'a [Unit],
        kept: &'a mut [Activations],
        node: Node,
    ) -> Input<'a> {
        let (before, after) = kept.split_at_mut(node - 1);
        let residual = self.units[node - 1].residual.map(|residual| {
            // A unit without ReLU is read as a residual only, so it is never made ready.
            if self.units[residual - 1].relu {
                Residual::Ready(before[residual - 1].output())
            } else {
                Residual::Raw(&units[residual - 1], &before[residual - 1])
            }
        });
        Input::Pending {
            unit: &units[node - 1],
            kept: &mut after[0],
            residual,
        }
    }

    /// Multiplications and additions of one image's forward pass.
    pub(crate) fn operations(&self) -> f64 {
        let layouts = self.layouts();
        let units: usize = self
            .units
            .iter()
            .zip(&layouts[1..])
            .filter(|(unit, _)| unit.learned)
            .map(|(unit, output)| {
                let shape = &unit.shape;
                shape.in_channels * shape.out_channels * shape.taps() * output.pixel_count()
            })
            .sum();
        2.0 * (units + self.features() * self.num_classes) as f64
    }
}

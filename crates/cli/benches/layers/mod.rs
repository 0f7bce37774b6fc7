//! The convolutions of a ResNet-18, each alone: what they compute and move, and a run of each
//! direction over a batch.

use std::fmt;

use mesa_kernels::{
    BLOCK, Buffer, Conv, ConvInputGradient, ConvShape, Finish, Layout, Path, Result, Start,
};
use rayon::prelude::*;

/// Tasks that a weight gradient is split into, at least.
const PARTS: usize = 8;

/// Blocks of output channels in one task, at most.
const BLOCKS: usize = 4;

/// Products that Winograd's transform spares: 36 for a tile of 16 pixels and 9 taps.
const WINOGRAD: f64 = 36.0 / (16.0 * 9.0);

/// Which of the three products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    InputGradient,
    WeightGradient,
}

pub(crate) const DIRECTIONS: [(Direction, &str); 3] = [
    (Direction::Forward, "forward"),
    (Direction::InputGradient, "input gradient"),
    (Direction::WeightGradient, "weight gradient"),
];

/// A shape, and how many convolutions of the network have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerShape {
    pub(crate) conv: ConvShape,
    /// Rows and columns of the input.
    pub(crate) side: usize,
    pub(crate) count: usize,
}

/// Every distinct shape of a ResNet-18 of this width, first layer first.
pub(crate) fn resnet18(width: usize) -> Vec<LayerShape> {
    let shape = |in_channels, out_channels, kernel, stride, side, count| LayerShape {
        conv: ConvShape {
            in_channels,
            out_channels,
            kernel,
            stride,
        },
        side,
        count,
    };
    let mut shapes = vec![
        shape(3, width, 3, 1, 32, 1),
        shape(width, width, 3, 1, 32, 4),
    ];
    for stage in 0..3 {
        let (channels, side) = (width << stage, 32 >> stage);
        shapes.extend([
            shape(channels, 2 * channels, 3, 2, side, 1),
            shape(channels, 2 * channels, 1, 2, side, 1),
            shape(2 * channels, 2 * channels, 3, 1, side / 2, 3),
        ]);
    }
    shapes
}

impl fmt::Display for LayerShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConvShape {
            in_channels,
            out_channels,
            kernel,
            stride,
        } = self.conv;
        let side = self.side;
        write!(f, "{in_channels} to {out_channels}, {kernel}x{kernel}")?;
        write!(f, ", stride {stride}, {side}x{side}")
    }
}

/// A convolution with its data for a batch.
pub(crate) struct Layer {
    pub(crate) shape: LayerShape,
    batch: usize,
    conv: Conv,
    input_gradient: ConvInputGradient,
    input: Layout,
    raw: Layout,
    bordered: Layout,
    packed: Vec<f32>,
    inputs: Buffer,
    /// Outputs, and in the weight gradient's place their gradients.
    outputs: Buffer,
    /// Gradients of the outputs with a border, as the input gradient reads them.
    gradients: Buffer,
    input_gradients: Buffer,
    room: Buffer,
    sums: Buffer,
    weight_gradient: Vec<f32>,
}

impl Layer {
    /// With Winograd's transform where it applies, or never.
    pub(crate) fn new(shape: LayerShape, batch: usize, winograd: bool) -> Result<Self> {
        let (conv, side) = (shape.conv, shape.side);
        let input = match conv.in_channels {
            3 => Layout::pixels(3, side, side),
            channels => Layout::features(channels, side, side, 1),
        };
        let output = conv.output_side(side);
        let raw = Layout::features(conv.out_channels, output, output, 0);
        let bordered = Layout { border: 1, ..raw };
        let plain = Layout::features(conv.in_channels, side, side, 0);
        let filled = |len: usize| {
            let values: Vec<f32> = (0..len).map(|at| (at % 13) as f32 / 13.0 - 0.4).collect();
            Buffer::from_slice(&values)
        };
        let new = if winograd { Conv::new } else { Conv::direct };
        let new_gradient = if winograd {
            ConvInputGradient::new
        } else {
            ConvInputGradient::direct
        };
        let made = new(conv, &input, &raw)?;
        Ok(Self {
            shape,
            batch,
            input_gradient: new_gradient(conv, &bordered, &plain)?,
            conv: made,
            input,
            raw,
            bordered,
            packed: vec![0.01; conv.packed_len()],
            inputs: filled(batch * input.len()),
            gradients: filled(batch * bordered.len()),
            outputs: Buffer::zeros(batch * raw.len()),
            input_gradients: Buffer::zeros(batch * plain.len()),
            room: Buffer::default(),
            sums: Buffer::default(),
            weight_gradient: vec![0.0; conv.packed_len()],
        })
    }

    /// Whether it goes through Winograd's transform.
    pub(crate) fn is_winograd(&self) -> bool {
        let conv = self.shape.conv;
        self.conv.sum_per_block() != conv.taps() * conv.in_channels * BLOCK
    }

    /// Multiplications and additions of a batch, the same in every direction: of the plain sum,
    /// and of the products that are left.
    pub(crate) fn operations(&self) -> (f64, f64) {
        let conv = self.shape.conv;
        let products = conv.in_channels * conv.out_channels * conv.taps();
        let plain = 2.0 * (self.batch * products * self.raw.pixel_count()) as f64;
        let share = if self.is_winograd() { WINOGRAD } else { 1.0 };
        (plain, plain * share)
    }

    /// Bytes that a batch has to move at least, the same in every direction: what goes in, what
    /// comes out, and the weights.
    pub(crate) fn bytes(&self) -> f64 {
        let conv = self.shape.conv;
        let (inputs, outputs) = (self.input.pixel_count(), self.raw.pixel_count());
        let images = self.batch * (inputs * conv.in_channels + outputs * conv.out_channels);
        4.0 * (images + conv.in_channels * conv.out_channels * conv.taps()) as f64
    }

    /// Computes one direction for the whole batch, on every thread.
    pub(crate) fn run(&mut self, path: Path, direction: Direction) {
        match direction {
            Direction::Forward => self.forward(path),
            Direction::InputGradient => self.input_gradient(path),
            Direction::WeightGradient => self.weight_gradient(path),
        }
    }

    fn forward(&mut self, path: Path) {
        let group = self.conv.group();
        let (from, to) = (self.input.len(), self.raw.len());
        let weights = self.conv.weights(path, &self.packed, &mut self.room);
        let conv = &self.conv;
        self.outputs
            .par_chunks_mut(group * to)
            .zip(self.inputs.par_chunks(group * from))
            .for_each(|(targets, sources)| {
                let sources: Vec<&[f32]> = sources.chunks(from).collect();
                let mut targets: Vec<&mut [f32]> = targets.chunks_mut(to).collect();
                let (start, finish) = (Start::Zero, Finish::Linear);
                conv.forward(path, &sources, weights, &mut targets, start, finish);
            });
    }

    fn input_gradient(&mut self, path: Path) {
        let group = self.input_gradient.group();
        let from = self.bordered.len();
        let to = self.input_gradients.len() / self.batch;
        let weights = self
            .input_gradient
            .weights(path, &self.packed, &mut self.room);
        let conv = &self.input_gradient;
        self.input_gradients
            .par_chunks_mut(group * to)
            .zip(self.gradients.par_chunks(group * from))
            .for_each(|(targets, sources)| {
                let sources: Vec<&[f32]> = sources.chunks(from).collect();
                let mut targets: Vec<&mut [f32]> = targets.chunks_mut(to).collect();
                conv.run(path, &sources, weights, &mut targets, false);
            });
    }

    /// In ranges of output channels first, then of images, as a training step does it.
    fn weight_gradient(&mut self, path: Path) {
        let blocks = self.conv.blocks();
        let range = (1..=BLOCKS)
            .rev()
            .find(|range| blocks.is_multiple_of(*range))
            .unwrap_or(1);
        let ranges = blocks / range;
        let parts = PARTS.div_ceil(ranges).min(self.batch);
        let in_part = self.batch.div_ceil(parts);
        let len = range * self.conv.sum_per_block();
        if self.sums.len() != ranges * parts * len {
            self.sums = Buffer::zeros(ranges * parts * len);
        }
        let sources: Vec<&[f32]> = self.inputs.chunks(self.input.len()).collect();
        let gradients: Vec<&[f32]> = self.outputs.chunks(self.raw.len()).collect();
        let conv = &self.conv;
        self.sums
            .par_chunks_mut(len)
            .enumerate()
            .for_each(|(part, sum)| {
                let first = (part / ranges * in_part).min(self.batch);
                let images = first..(first + in_part).min(self.batch);
                let (sources, gradients) = (&sources[images.clone()], &gradients[images]);
                conv.weight_gradient(path, sources, gradients, part % ranges * range, sum, false);
            });
        conv.collect_gradient(path, &mut self.sums, &mut self.weight_gradient);
    }
}

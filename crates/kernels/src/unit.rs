//! A convolution, its batch norm, the residual sum and the ReLU: what residual networks are made
//! of, as one unit of a training step. In networks with pre-activation the residual sum comes before
//! batch norm and is handed on as it is: a unit's sum can start from another's (the *skip*), and
//! units without batch norm are a sum and nothing else.
//!
//! Narrow networks wait for memory more than for arithmetic, so the unit goes over the batch in
//! as few passes as batch statistics allow, and does for each image whatever can be done while
//! that image is in cache: normalizing is left to the unit that reads the result, and the sums
//! that batch norm's gradient needs are taken by the unit that computes the last part of it.
//!
//! ```text
//! forward    for each group of images: normalize the inputs, add residuals, ReLU; convolve; moments
//!            moments of the batch
//! backward   (Σ g and Σ g·(y − mean) are there)
//!            for each part of the batch, for each group of images:
//!              ∂y; ∂residual; input gradient; sums of what they complete
//!              weight gradient                        (here if the weights are few)
//!            for each part of images × output channels: weight gradient    (else)
//! ```
//!
//! A group is one image where images are large, and as many as it takes to use each weight often
//! where they are small ([`Conv::group`]). Each pass is parallel over groups, parts of the batch
//! or parts of the weights. What is summed over images is summed for each part on its own and
//! then in a fixed order, and nothing that is summed depends on how small batches are shared out,
//! so figures do not depend on the number of threads.

use rayon::prelude::*;

use crate::batch_norm::{
    self, Gradients, Normalization, combine_gradients, combine_moments, input_gradient, moments,
    normalize, reduce_gradient,
};
use crate::conv::{Conv, ConvInputGradient, ConvShape, Finish, Start};
use crate::layout::{Buffer, Layout, at_least};
use crate::{Path, Result};

/// Parts a weight gradient is computed in where it is many, and where it is few: enough for any
/// CPU this is likely to run on.
const WEIGHT_PARTS: usize = 16;
const FEW_WEIGHT_PARTS: usize = 32;

/// Blocks of output channels in a part of a weight gradient.
const PART_BLOCKS: usize = 4;

/// Sums of weight gradients up to this many floats are taken together with the input's gradient,
/// group by group; more would not stay in cache beside the images.
const FEW_WEIGHTS: usize = 40_000;

/// Images in a group: `group`, or fewer where a batch would not have one for every thread.
fn shared_out(group: usize, batch: usize) -> usize {
    group
        .min(batch.div_ceil(rayon::current_num_threads()))
        .max(1)
}

/// A unit of a network, planned for one image size; see the module's description.
#[derive(Clone, Debug)]
pub struct Unit {
    conv: Conv,
    /// The same convolution with output gradients that have a border.
    bordered: Conv,
    backward: ConvInputGradient,
    input: Layout,
    raw: Layout,
    output: Layout,
    norm: bool,
    relu: bool,
}

/// What a unit keeps from its forward pass for its backward pass, reused while batches are of one size.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    output: Buffer,
    raw: Buffer,
    /// Two rows of channels for each image: its moments, later its gradient's sums.
    sums: Vec<f32>,
    /// Whether they are the gradient's.
    reduced: bool,
    norm: Normalization,
    gradients: Gradients,
    /// Whether the sum started from a skip, which the sum's gradient is one of, too.
    skips: bool,
}

/// Where a unit's input, or the residual of that, comes from.
#[derive(Debug)]
pub enum Input<'a> {
    /// Images with borders.
    Ready(&'a [f32]),
    /// The output of another unit, which is still to be normalized.
    Pending {
        /// The other unit.
        unit: &'a Unit,
        /// What it kept; gets its output.
        kept: &'a mut Activations,
        /// What is added to its output before the ReLU.
        residual: Option<Residual<'a>>,
    },
}

/// What is added to a unit's output before the ReLU.
#[derive(Copy, Clone, Debug)]
pub enum Residual<'a> {
    /// Images with borders.
    Ready(&'a [f32]),
    /// The output of a unit without ReLU, which is normalized on the way.
    Raw(&'a Unit, &'a Activations),
}

/// Learned tensors of a unit.
#[derive(Copy, Clone, Debug)]
pub struct UnitWeights<'a> {
    /// Convolution, packed ([`ConvShape::pack`]).
    pub conv: &'a [f32],
    /// Batch norm's scale, one for each channel; empty without batch norm.
    pub gamma: &'a [f32],
    /// Batch norm's shift, one for each channel; empty without batch norm.
    pub beta: &'a [f32],
}

/// Where the gradients of a unit's learned tensors go.
#[derive(Debug)]
pub struct UnitGradients<'a> {
    /// Convolution, packed.
    pub conv: &'a mut [f32],
    /// Batch norm's scale; empty without batch norm.
    pub gamma: &'a mut [f32],
    /// Batch norm's shift; empty without batch norm.
    pub beta: &'a mut [f32],
}

/// Room for weights as a convolution reads them and for parts of their gradients; grows as needed
/// and serves all units.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    weights: Buffer,
    parts: Buffer,
}

/// A gradient that is written, or added to what is there.
#[derive(Debug)]
pub struct GradientTarget<'a> {
    /// `batch` images of the tensor's layout without border.
    pub values: &'a mut [f32],
    /// Whether to add to it.
    pub accumulate: bool,
    /// The unit whose output's gradient this completes.
    pub completes: Option<Completed<'a>>,
}

/// A unit whose output's gradient is complete: its sums can be taken.
#[derive(Debug)]
pub struct Completed<'a> {
    /// The unit.
    pub unit: &'a Unit,
    /// What it kept.
    pub kept: &'a Activations,
    /// Its [`Activations::take_sums`].
    pub sums: &'a mut [f32],
}

/// Mean and unbiased variance of a batch, one for each channel; empty without batch norm.
#[derive(Clone, Debug, Default)]
pub struct BatchMoments {
    /// Means.
    pub mean: Vec<f32>,
    /// Unbiased variances.
    pub variance: Vec<f32>,
}

impl Unit {
    /// A unit on images laid out as `input` (with a border).
    ///
    /// # Errors
    ///
    /// [`crate::Error::Shape`] for a convolution there is no code for.
    pub fn new(shape: ConvShape, input: Layout, relu: bool) -> Result<Self> {
        let (height, width) = (
            shape.output_side(input.height),
            shape.output_side(input.width),
        );
        let raw = Layout::features(shape.out_channels, height, width, 0);
        let output = Layout::features(shape.out_channels, height, width, 1);
        let without_border = Layout::features(shape.in_channels, input.height, input.width, 0);
        Ok(Self {
            conv: Conv::new(shape, &input, &raw)?,
            bordered: Conv::new(shape, &input, &output)?,
            backward: ConvInputGradient::new(shape, &output, &without_border)?,
            input,
            raw,
            output,
            norm: true,
            relu,
        })
    }

    /// A unit that is a convolution, with a skip where it has one, and nothing else.
    ///
    /// # Errors
    ///
    /// As for [`Unit::new`].
    pub fn plain(shape: ConvShape, input: Layout) -> Result<Self> {
        Ok(Self {
            norm: false,
            ..Self::new(shape, input, false)?
        })
    }

    /// The convolution's shape.
    pub fn shape(&self) -> &ConvShape {
        self.conv.shape()
    }

    /// Layout of the output (border 1).
    pub fn output(&self) -> &Layout {
        &self.output
    }

    /// Layout of the output's gradient (no border).
    pub fn output_gradient(&self) -> &Layout {
        &self.raw
    }

    /// Convolves a batch and takes its moments; normalizing is left to what reads the output
    /// ([`Input::Pending`], [`Residual::Raw`], [`Unit::finish`]). The sum starts from `skip`,
    /// another unit's ([`Activations::take_raw`], of as many channels and pixels), if there is one.
    ///
    /// # Panics
    ///
    /// If a slice does not belong to the shapes.
    #[expect(clippy::too_many_arguments, reason = "each is one edge of the graph")]
    pub fn forward(
        &self,
        path: Path,
        batch: usize,
        input: Input<'_>,
        weights: UnitWeights<'_>,
        skip: Option<&[f32]>,
        kept: &mut Activations,
        scratch: &mut Scratch,
    ) -> BatchMoments {
        let (stride, len) = (self.raw.stride, self.raw.len());
        let group = shared_out(self.conv.group(), batch);
        if kept.raw.len() != batch * len {
            kept.raw = Buffer::zeros(batch * len);
        }
        kept.sums.resize(batch * 2 * stride, 0.0);
        kept.reduced = false;
        kept.skips = skip.is_some();
        let packed = self.conv.weights(path, weights.conv, &mut scratch.weights);
        kept.raw
            .par_chunks_mut(group * len)
            .zip(kept.sums.par_chunks_mut(group * 2 * stride))
            .zip(input.images(batch, &self.input).par_chunks_mut(group))
            .enumerate()
            .for_each(|(index, ((raws, sums), inputs))| {
                let sources: Vec<&[f32]> = inputs.iter_mut().map(|i| i.ready(path)).collect();
                let start = match skip {
                    None => Start::Zero,
                    Some(skip) => {
                        raws.copy_from_slice(&skip[index * group * len..][..raws.len()]);
                        Start::Existing
                    }
                };
                let mut targets: Vec<&mut [f32]> = raws.chunks_mut(len).collect();
                self.conv
                    .forward(path, &sources, packed, &mut targets, start, Finish::Linear);
                if !self.norm {
                    return;
                }
                for (raw, sums) in raws.chunks(len).zip(sums.chunks_mut(2 * stride)) {
                    let (mean, square) = sums.split_at_mut(stride);
                    moments(path, &self.raw, raw, mean, square);
                }
            });
        if !self.norm {
            if kept.norm.mean.len() != stride {
                kept.norm = Normalization::identity(stride);
                kept.gradients = Gradients::identity(stride);
            }
            return BatchMoments::default();
        }
        let (mean, variance) = combine_moments(
            &self.raw,
            &kept.sums,
            weights.gamma,
            weights.beta,
            &mut kept.norm,
        );
        BatchMoments { mean, variance }
    }

    /// Normalizes the output of the last unit of a network, which no other unit reads.
    ///
    /// # Panics
    ///
    /// If no [`Unit::forward`] went before.
    pub fn finish(
        &self,
        path: Path,
        batch: usize,
        kept: &mut Activations,
        residual: Option<Residual<'_>>,
    ) {
        Input::Pending {
            unit: self,
            kept,
            residual,
        }
        .images(batch, &self.output)
        .par_iter_mut()
        .for_each(|image| {
            image.ready(path);
        });
    }

    /// The sums that [`Unit::backward`] needs, for a unit whose output's gradient no other unit
    /// has completed. Without batch norm there are none.
    ///
    /// # Panics
    ///
    /// If a slice does not belong to the shapes, or no [`Unit::forward`] went before.
    pub fn reduce(&self, path: Path, kept: &mut Activations, gradient: &[f32]) {
        if !self.norm {
            return;
        }
        let mut sums = kept.take_sums();
        let images = Completed {
            unit: self,
            kept,
            sums: &mut sums,
        }
        .images();
        gradient
            .par_chunks(self.raw.len())
            .zip(images)
            .for_each(|(gradient, mut image)| image.reduce(path, gradient));
        kept.give_sums(sums);
    }

    /// The gradients of a unit whose output has the gradient `gradient` (images without border),
    /// which is overwritten: by that of its skip, if it has one. `of_skip` is what the unit whose
    /// sum started from this one's has left there, as long as `gradient`. `weights` are the
    /// convolution's, packed; they are read only if the input's gradient is asked for.
    ///
    /// # Panics
    ///
    /// If a slice does not belong to the shapes, or no [`Unit::forward`] went before, or nobody
    /// took the unit's sums.
    #[expect(clippy::too_many_arguments, reason = "each is one edge of the graph")]
    pub fn backward(
        &self,
        path: Path,
        input: &[f32],
        weights: &[f32],
        kept: &mut Activations,
        gradient: &mut [f32],
        of_skip: Option<&[f32]>,
        residual: Option<GradientTarget<'_>>,
        input_target: Option<GradientTarget<'_>>,
        targets: &mut UnitGradients<'_>,
        scratch: &mut Scratch,
    ) {
        if self.norm {
            assert!(kept.reduced, "nobody took the gradient's sums");
            combine_gradients(
                &self.raw,
                &kept.sums,
                &kept.norm,
                &mut kept.gradients,
                targets.gamma,
                targets.beta,
            );
        }
        let Scratch {
            weights: room,
            parts,
        } = scratch;
        let transposed = match input_target {
            Some(_) => self.backward.weights(path, weights, room),
            None => &[],
        };
        let batch = gradient.len() / self.raw.len();
        let sum_len = self.conv.blocks() * self.conv.sum_per_block();
        let few = sum_len <= FEW_WEIGHTS;
        let group = if few {
            // The order of a sum over images, which is one of groups.
            self.backward.group()
        } else {
            shared_out(self.backward.group(), batch)
        };
        let in_part = batch.div_ceil(FEW_WEIGHT_PARTS).next_multiple_of(group);
        let sums = at_least(
            parts,
            if few {
                batch.div_ceil(in_part) * sum_len
            } else {
                0
            },
        );
        let mut sum_list: Vec<&mut [f32]> = sums.chunks_mut(sum_len).collect();
        sum_list.resize_with(batch.div_ceil(in_part), || &mut []);
        let in_place = !few || kept.skips;
        self.images(input, kept, gradient, of_skip, residual, input_target)
            .par_chunks_mut(in_part)
            .zip(sum_list)
            .for_each_init(
                || Buffer::zeros(group * self.output.len()),
                |bordered, (images, sum)| {
                    for (index, images) in images.chunks_mut(group).enumerate() {
                        self.propagate(path, transposed, kept, images, bordered, in_place);
                        if few {
                            let inputs: Vec<_> = images.iter().map(|image| image.input).collect();
                            let gradients = self.in_border(bordered, images.len());
                            self.bordered.weight_gradient(
                                path,
                                &inputs,
                                &gradients,
                                0,
                                sum,
                                index > 0,
                            );
                        }
                    }
                },
            );
        if few {
            self.conv.collect_gradient(path, sums, targets.conv);
        } else {
            self.weight_gradient(path, input, gradient, parts, targets.conv);
        }
    }

    fn in_border<'a>(&self, bordered: &'a Buffer, images: usize) -> Vec<&'a [f32]> {
        bordered.chunks(self.output.len()).take(images).collect()
    }

    /// `∂y` of a group of images, with borders and, for a weight gradient that comes later or for
    /// a skip, in place; the residual's gradient, the input's, and the sums of what they complete.
    fn propagate(
        &self,
        path: Path,
        transposed: &[f32],
        kept: &Activations,
        images: &mut [BackwardImage<'_>],
        bordered: &mut Buffer,
        in_place: bool,
    ) {
        let borders = bordered.chunks_mut(self.output.len());
        for (image, bordered) in images.iter_mut().zip(borders) {
            input_gradient(
                path,
                (&self.raw, &self.output),
                &kept.gradients,
                &kept.norm.mean,
                image.raw,
                image.output,
                image.gradient,
                image.of_skip,
                image
                    .residual
                    .as_mut()
                    .map(|target| (&mut *target.values, target.accumulate)),
                bordered,
                in_place,
            );
            if let Some(target) = &mut image.residual {
                target.complete(path);
            }
        }
        let sources = self.in_border(bordered, images.len());
        let accumulate = images
            .iter()
            .any(|image| image.input_target.as_ref().is_some_and(|t| t.accumulate));
        let mut targets: Vec<&mut [f32]> = images
            .iter_mut()
            .filter_map(|image| Some(&mut *image.input_target.as_mut()?.values))
            .collect();
        if targets.is_empty() {
            return;
        }
        self.backward
            .run(path, &sources, transposed, &mut targets, accumulate);
        for target in images.iter_mut().filter_map(|i| i.input_target.as_mut()) {
            target.complete(path);
        }
    }

    /// `∂w` of many weights, in parts: ranges of output channels first, then of images.
    fn weight_gradient(
        &self,
        path: Path,
        input: &[f32],
        gradient: &[f32],
        parts: &mut Buffer,
        target: &mut [f32],
    ) {
        let batch = gradient.len() / self.raw.len();
        let (blocks, per_block) = (self.conv.blocks(), self.conv.sum_per_block());
        // Ranges have to be of one length for the parts to lie one behind the other.
        let longest = |enough: &dyn Fn(usize) -> bool| {
            (1..=PART_BLOCKS)
                .rev()
                .find(|range| blocks.is_multiple_of(*range) && enough(blocks / range))
                .unwrap_or(1)
        };
        let in_part = batch
            .div_ceil((WEIGHT_PARTS * longest(&|_| true) / blocks).max(1))
            .max(self.conv.group());
        // Shorter ones where images alone are too few for every thread; no sum depends on it.
        let threads = rayon::current_num_threads();
        let range = longest(&|ranges| ranges * batch.div_ceil(in_part) >= threads);
        let ranges = blocks / range;
        let sources: Vec<&[f32]> = input.chunks(self.input.len()).collect();
        let gradients: Vec<&[f32]> = gradient.chunks(self.raw.len()).collect();
        let parts = at_least(parts, batch.div_ceil(in_part) * blocks * per_block);
        parts
            .par_chunks_mut(range * per_block)
            .enumerate()
            .for_each(|(part, sum)| {
                let first = part / ranges * in_part;
                let images = first..(first + in_part).min(batch);
                self.conv.weight_gradient(
                    path,
                    &sources[images.clone()],
                    &gradients[images],
                    part % ranges * range,
                    sum,
                    false,
                );
            });
        self.conv.collect_gradient(path, parts, target);
    }

    /// What belongs to each image of a backward pass.
    fn images<'a>(
        &self,
        input: &'a [f32],
        kept: &'a Activations,
        gradient: &'a mut [f32],
        of_skip: Option<&'a [f32]>,
        residual: Option<GradientTarget<'a>>,
        input_target: Option<GradientTarget<'a>>,
    ) -> Vec<BackwardImage<'a>> {
        assert!(of_skip.is_none_or(|of_skip| of_skip.len() == gradient.len()));
        let batch = gradient.len() / self.raw.len();
        let input_len = self.input.pixel_count() * self.input.stride;
        let residuals = target_images(residual, self.raw.len(), batch);
        let targets = target_images(input_target, input_len, batch);
        let outputs = kept
            .output
            .chunks(self.output.len())
            .map(Some)
            .chain(std::iter::repeat(None));
        gradient
            .chunks_mut(self.raw.len())
            .zip(kept.raw.chunks(self.raw.len()))
            .zip(outputs)
            .zip(input.chunks(self.input.len()))
            .zip(residuals.into_iter().zip(targets))
            .enumerate()
            .map(
                |(index, ((((gradient, raw), output), input), (residual, input_target)))| {
                    let len = gradient.len();
                    BackwardImage {
                        gradient,
                        of_skip: of_skip.map(|of_skip| &of_skip[index * len..][..len]),
                        raw,
                        output: output.filter(|_| self.relu),
                        input,
                        residual,
                        input_target,
                    }
                },
            )
            .collect()
    }
}

impl Activations {
    /// The normalized output, with borders.
    pub fn output(&self) -> &[f32] {
        &self.output
    }

    /// Takes the convolution's result out, so that it can be a skip while the rest is written.
    ///
    /// # Shapes
    ///
    /// A batch of images of [`Unit::output_gradient`]'s layout.
    pub fn take_raw(&mut self) -> Buffer {
        std::mem::take(&mut self.raw)
    }

    /// Gives it back.
    pub fn give_raw(&mut self, raw: Buffer) {
        self.raw = raw;
    }

    /// Takes the room for the sums out, so that they can be written while the rest is read.
    pub fn take_sums(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.sums)
    }

    /// Gives the sums back, which are now the gradient's.
    pub fn give_sums(&mut self, sums: Vec<f32>) {
        self.sums = sums;
        self.reduced = true;
    }
}

impl<'a> Input<'a> {
    /// The images, each with what it takes to make it ready.
    fn images(self, batch: usize, layout: &Layout) -> Vec<InputImage<'a>> {
        let images: Vec<InputImage<'a>> = match self {
            Self::Ready(images) => images.chunks(layout.len()).map(InputImage::Ready).collect(),
            Self::Pending {
                unit,
                kept,
                residual,
            } => {
                if kept.output.len() != batch * unit.output.len() {
                    kept.output = Buffer::zeros(batch * unit.output.len());
                }
                let norm = &kept.norm;
                kept.raw
                    .chunks(unit.raw.len())
                    .zip(kept.output.chunks_mut(unit.output.len()))
                    .enumerate()
                    .map(|(image, (raw, output))| InputImage::Pending {
                        unit,
                        norm,
                        raw,
                        output,
                        residual: residual.map(|residual| residual.image(unit, image)),
                    })
                    .collect()
            }
        };
        assert_eq!(images.len(), batch, "an input of another batch size");
        images
    }
}

impl<'a> Residual<'a> {
    fn image(self, unit: &Unit, image: usize) -> batch_norm::Residual<'a> {
        match self {
            Self::Ready(images) => {
                let len = unit.output.len();
                batch_norm::Residual::Ready(&images[image * len..][..len])
            }
            Self::Raw(unit, kept) => {
                let len = unit.raw.len();
                batch_norm::Residual::Raw(&kept.raw[image * len..][..len], &kept.norm)
            }
        }
    }
}

/// One image of an [`Input`].
enum InputImage<'a> {
    Ready(&'a [f32]),
    Pending {
        unit: &'a Unit,
        norm: &'a Normalization,
        raw: &'a [f32],
        output: &'a mut [f32],
        residual: Option<batch_norm::Residual<'a>>,
    },
}

impl InputImage<'_> {
    fn ready(&mut self, path: Path) -> &[f32] {
        match self {
            Self::Ready(image) => image,
            Self::Pending {
                unit,
                norm,
                raw,
                output,
                residual,
            } => {
                normalize(
                    path,
                    (&unit.raw, &unit.output),
                    raw,
                    norm,
                    *residual,
                    unit.relu,
                    output,
                );
                output
            }
        }
    }
}

/// What belongs to one image of a backward pass.
struct BackwardImage<'a> {
    gradient: &'a mut [f32],
    of_skip: Option<&'a [f32]>,
    raw: &'a [f32],
    /// The unit's output, where it has a ReLU.
    output: Option<&'a [f32]>,
    input: &'a [f32],
    residual: Option<TargetImage<'a>>,
    input_target: Option<TargetImage<'a>>,
}

/// One image of a [`GradientTarget`].
struct TargetImage<'a> {
    values: &'a mut [f32],
    accumulate: bool,
    completes: Option<CompletedImage<'a>>,
}

/// One image of a [`Completed`].
struct CompletedImage<'a> {
    unit: &'a Unit,
    mean: &'a [f32],
    raw: &'a [f32],
    output: Option<&'a [f32]>,
    sums: &'a mut [f32],
}

impl<'a> Completed<'a> {
    fn images(self) -> Vec<CompletedImage<'a>> {
        let Self { unit, kept, sums } = self;
        let outputs = kept
            .output
            .chunks(unit.output.len())
            .map(Some)
            .chain(std::iter::repeat(None));
        sums.chunks_mut(2 * unit.raw.stride)
            .zip(kept.raw.chunks(unit.raw.len()))
            .zip(outputs)
            .map(|((sums, raw), output)| CompletedImage {
                unit,
                mean: &kept.norm.mean,
                raw,
                output: output.filter(|_| unit.relu),
                sums,
            })
            .collect()
    }
}

impl TargetImage<'_> {
    /// Takes the sums of the unit that this gradient completes.
    fn complete(&mut self, path: Path) {
        if let Some(completes) = &mut self.completes {
            completes.reduce(path, self.values);
        }
    }
}

impl CompletedImage<'_> {
    fn reduce(&mut self, path: Path, gradient: &[f32]) {
        reduce_gradient(
            path,
            (&self.unit.raw, &self.unit.output),
            gradient,
            self.raw,
            self.output,
            self.mean,
            self.sums.split_at_mut(self.unit.raw.stride),
        );
    }
}

/// The images of an optional gradient, one for each of the batch.
fn target_images(
    target: Option<GradientTarget<'_>>,
    len: usize,
    batch: usize,
) -> Vec<Option<TargetImage<'_>>> {
    let Some(GradientTarget {
        values,
        accumulate,
        completes,
    }) = target
    else {
        return (0..batch).map(|_| None).collect();
    };
    assert_eq!(
        values.len(),
        batch * len,
        "a gradient of another batch size"
    );
    let completed = completes.map_or_else(Vec::new, Completed::images);
    let completed = completed
        .into_iter()
        .map(Some)
        .chain(std::iter::repeat_with(|| None));
    values
        .chunks_mut(len)
        .zip(completed)
        .map(|(values, completes)| {
            Some(TargetImage {
                values,
                accumulate,
                completes,
            })
        })
        .collect()
}

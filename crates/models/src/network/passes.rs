//! A batch's way through the network and back: units forward, the loss, units backward.

use mesa_kernels::{
    Activations, Buffer, Completed, GradientTarget, Head, Input, Layout, Scratch, Unit,
    cross_entropy,
};
use rayon::prelude::*;

use super::parameter::{Parameter, unit_gradients, unit_weights};
use super::{BatchLoss, Network, RUNNING_MOMENTUM};
use crate::Result;
use crate::graph::{COLORS, Graph, IMAGE_SIDE};
use crate::host::{argmax, load_image};

/// Buffers of the training step, planned once and reused.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    units: Vec<Unit>,
    layouts: Vec<Layout>,
    image: Buffer,
    kept: Vec<Activations>,
    pooled: Vec<f32>,
    pub(super) logits: Vec<f32>,
    scratch: Scratch,
    free: Vec<Buffer>,
}

impl Engine {
    pub(super) fn new(graph: &Graph) -> Result<Self> {
        let layouts = graph.layouts();
        let units = graph.units.iter().map(|spec| match spec.norm {
            Some(_) => Unit::new(spec.shape, layouts[spec.input], spec.relu),
            None => Unit::plain(spec.shape, layouts[spec.input]),
        });
        Ok(Self {
            units: units.collect::<Result<_, _>>()?,
            kept: vec![Activations::default(); graph.units.len()],
            layouts,
            image: Buffer::default(),
            pooled: Vec::new(),
            logits: Vec::new(),
            scratch: Scratch::default(),
            free: Vec::new(),
        })
    }

    pub(super) fn last_layout(&self) -> Layout {
        self.layouts[self.layouts.len() - 1]
    }
}

impl Network {
    pub(super) fn forward(&mut self, images: &[f32], batch: usize) {
        let engine = &mut self.engine;
        let image_layout = engine.layouts[0];
        if engine.image.len() != batch * image_layout.len() {
            engine.image = Buffer::zeros(batch * image_layout.len());
            // Those of another batch size fit no more.
            engine.free.clear();
        }
        engine
            .image
            .par_chunks_mut(image_layout.len())
            .zip(images.par_chunks(COLORS * IMAGE_SIDE * IMAGE_SIDE))
            .for_each(|(target, pixels)| {
                load_image(&self.normalization, pixels, &image_layout, target);
            });
        for (index, spec) in self.graph.units.iter().enumerate() {
            // An output is normalized by the first unit that convolves it.
            let pending = spec.input > 0 && self.graph.first_reader(spec.input) == Some(index);
            let (before, after) = engine.kept.split_at_mut(index);
            let skip = spec.skip.map(|skip| (skip, before[skip].take_raw()));
            let input = match spec.input {
                0 => Input::Ready(&engine.image),
                node if pending => self.graph.pending(&engine.units, before, node),
                node => Input::Ready(before[node - 1].output()),
            };
            let learned = &self.parameters[self.graph.parameters(index)];
            let weights = unit_weights(self.selections[index].as_ref(), learned);
            let unit = &engine.units[index];
            let moments = unit.forward(
                self.path,
                batch,
                input,
                weights,
                skip.as_ref().map(|(_, raw)| &raw[..]),
                &mut after[0],
                &mut engine.scratch,
            );
            if let Some((skip, raw)) = skip {
                before[skip].give_raw(raw);
            }
            let Some(running) = &mut self.running[index] else {
                continue;
            };
            for (old, new) in [
                (&mut running.mean, moments.mean),
                (&mut running.variance, moments.variance),
            ] {
                for (old, new) in old.iter_mut().zip(new) {
                    *old = (1.0 - RUNNING_MOMENTUM) * *old + RUNNING_MOMENTUM * new;
                }
            }
        }
        let last = self.graph.units.len();
        if let Input::Pending {
            unit,
            kept,
            residual,
        } = self.graph.pending(&engine.units, &mut engine.kept, last)
        {
            unit.finish(self.path, batch, kept, residual);
        }
        let (features, classes) = (self.graph.features(), self.config.num_classes);
        engine.pooled.resize(batch * features, 0.0);
        engine.logits.resize(batch * classes, 0.0);
        let head = head(&self.parameters, engine.last_layout());
        let last = engine
            .kept
            .last()
            .map_or(&engine.image[..], Activations::output);
        engine
            .pooled
            .par_chunks_mut(features)
            .zip(engine.logits.par_chunks_mut(classes))
            .zip(last.par_chunks(head.features.len()))
            .for_each(|((pooled, logits), image)| {
                head.pool(image, pooled);
                head.logits(pooled, logits);
            });
    }

    /// The mean loss; leaves its gradient where the logits were.
    pub(super) fn loss(&mut self, labels: &[u32], smoothing: f32) -> BatchLoss {
        let share = 1.0 / labels.len() as f32;
        let mut loss = BatchLoss {
            loss: 0.0,
            correct: 0,
        };
        for (logits, &label) in self
            .engine
            .logits
            .chunks_mut(self.config.num_classes)
            .zip(labels)
        {
            loss.correct += usize::from(argmax(logits) == label as usize);
            loss.loss += f64::from(cross_entropy(logits, label as usize, smoothing));
            for g in logits.iter_mut() {
                *g *= share;
            }
        }
        loss.loss /= labels.len() as f64;
        loss
    }

    pub(super) fn backward(&mut self, batch: usize) {
        self.head_gradients();
        let engine = &mut self.engine;
        let mut gradients: Vec<Option<Buffer>> = vec![None; engine.layouts.len()];
        // What reaches a unit's sum past its batch norm.
        let mut of_skips: Vec<Option<Buffer>> = vec![None; engine.units.len()];
        // The gradient of the last node, broadcast over its pixels.
        let last = *engine.units[engine.units.len() - 1].output_gradient();
        let mut gradient = take(&mut engine.free, batch * last.len());
        let head = head(&self.parameters, engine.last_layout());
        gradient
            .par_chunks_mut(last.len())
            .zip(engine.logits.par_chunks(self.config.num_classes))
            .for_each(|(gradient, logits)| head.feature_gradient(logits, &last, gradient));
        *gradients.last_mut().expect("the image is a node") = Some(gradient);

        let last = self.graph.units.len() - 1;
        if let Some(gradient) = &gradients[last + 1] {
            engine.units[last].reduce(self.path, &mut engine.kept[last], gradient);
        }
        for (index, spec) in self.graph.units.iter().enumerate().rev() {
            let Some(mut gradient) = gradients[index + 1].take() else {
                continue;
            };
            let of_skip = of_skips[index].take();
            let (before, after) = engine.kept.split_at_mut(index);
            // The first to reach a node writes its gradient, the others add to it, and the last
            // takes its sums. Nobody asks for the image's.
            let mut reached = |node: usize| {
                (node > 0).then(|| {
                    let len = batch * engine.units[node - 1].output_gradient().len();
                    let (values, accumulate) = match gradients[node].take() {
                        Some(values) => (values, true),
                        None => (take(&mut engine.free, len), false),
                    };
                    let completes = self.graph.first_reader(node) == Some(index);
                    let sums = if completes {
                        before[node - 1].take_sums()
                    } else {
                        Vec::new()
                    };
                    Reached {
                        node,
                        values,
                        accumulate,
                        completes,
                        sums,
                    }
                })
            };
            let mut residual = spec.residual.and_then(&mut reached);
            let mut input_gradient = reached(spec.input);
            let input = match spec.input {
                0 => &engine.image[..],
                node => before[node - 1].output(),
            };
            let learned = &mut self.parameters[self.graph.parameters(index)];
            let (weights, mut targets) = unit_gradients(self.selections[index].as_mut(), learned);
            engine.units[index].backward(
                self.path,
                input,
                weights,
                &mut after[0],
                &mut gradient,
                of_skip.as_deref(),
                residual
                    .as_mut()
                    .map(|reached| reached.target(&engine.units, before)),
                input_gradient
                    .as_mut()
                    .map(|reached| reached.target(&engine.units, before)),
                &mut targets,
                &mut engine.scratch,
            );
            for reached in [residual, input_gradient].into_iter().flatten() {
                if reached.completes {
                    before[reached.node - 1].give_sums(reached.sums);
                }
                gradients[reached.node] = Some(reached.values);
            }
            engine.free.extend(of_skip);
            match spec.skip {
                None => engine.free.push(gradient),
                // Where there is no batch norm, a sum is the output.
                Some(skip) if self.graph.units[skip].norm.is_none() => {
                    gradients[skip + 1] = Some(gradient);
                }
                Some(skip) => of_skips[skip] = Some(gradient),
            }
        }
    }

    fn head_gradients(&mut self) {
        let features = self.graph.features();
        let engine = &self.engine;
        let [.., weight, bias] = &mut self.parameters[..] else {
            unreachable!("a network ends in a linear layer");
        };
        weight.gradient.fill(0.0);
        bias.gradient.fill(0.0);
        let images = engine
            .logits
            .chunks(self.config.num_classes)
            .zip(engine.pooled.chunks(features));
        for (logits, pooled) in images {
            for (class, g) in logits.iter().enumerate() {
                bias.gradient[class] += g;
                let row = &mut weight.gradient[class * features..][..features];
                for (sum, x) in row.iter_mut().zip(pooled) {
                    *sum += g * x;
                }
            }
        }
    }
}

pub(super) fn head(parameters: &[Parameter], features: Layout) -> Head<'_> {
    let [.., weight, bias] = parameters else {
        unreachable!("a network ends in a linear layer");
    };
    Head {
        features,
        weights: &weight.values,
        bias: &bias.values,
    }
}

/// A node that a unit's backward pass reaches.
struct Reached {
    node: usize,
    values: Buffer,
    accumulate: bool,
    /// Whether no other unit adds to its gradient.
    completes: bool,
    sums: Vec<f32>,
}

impl Reached {
    fn target<'a>(&'a mut self, units: &'a [Unit], kept: &'a [Activations]) -> GradientTarget<'a> {
        let (unit, kept) = (&units[self.node - 1], &kept[self.node - 1]);
        let sums = &mut self.sums;
        GradientTarget {
            values: &mut self.values,
            accumulate: self.accumulate,
            completes: self.completes.then_some(Completed { unit, kept, sums }),
        }
    }
}

/// A buffer of `len` floats, of any content: a used one where there is one.
fn take(free: &mut Vec<Buffer>, len: usize) -> Buffer {
    match free.iter().position(|buffer| buffer.len() == len) {
        Some(at) => free.swap_remove(at),
        None => Buffer::zeros(len),
    }
}

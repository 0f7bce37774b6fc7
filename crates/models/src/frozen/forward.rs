//! A group of images on its way through the network: its buffers, and the pass forward.

use mesa_kernels::{Buffer, Finish, Head, Layout, Start};

use super::{Frozen, Layer};
use crate::graph::{COLORS, IMAGE_SIDE};
use crate::host::load_image;

/// The most images that go through the network together: enough to use what is read of the deep
/// layers' weights, few enough for their activations to stay in cache.
pub(super) const GROUP: usize = 32;

/// Images in a group of a batch, so that every thread has as many groups as any other. No figure
/// depends on it.
pub(super) fn group_size(batch: usize) -> usize {
    let threads = rayon::current_num_threads();
    let rounds = batch.div_ceil(threads * GROUP).max(1);
    batch.div_ceil(threads * rounds).max(1)
}

/// Buffers of one group.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    /// The output of each node, [`GROUP`] images.
    pub(super) nodes: Vec<Buffer>,
    /// The sum of each unit that keeps it.
    sums: Vec<Buffer>,
    /// The gradient of each node, made when first needed.
    pub(super) gradients: Vec<Buffer>,
    /// What reaches each kept sum as a skip.
    pub(super) of_skips: Vec<Buffer>,
    pooled: Vec<f32>,
}

impl Frozen {
    pub(super) fn with_workspace<R>(&self, work: impl FnOnce(&mut Workspace) -> R) -> R {
        let idle = || {
            self.idle
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        let mut workspace = idle().pop().unwrap_or_default();
        let result = work(&mut workspace);
        idle().push(workspace);
        result
    }

    pub(super) fn head(&self) -> Head<'_> {
        let features = self.layouts[self.layouts.len() - 1];
        Head {
            features,
            weights: &self.linear.0,
            bias: &self.linear.1,
        }
    }

    /// A buffer for each unit that keeps its sum, as large as its node's; empty ones for others.
    pub(super) fn beside_sums(&self, nodes: &[Buffer]) -> Vec<Buffer> {
        let buffers = self.layers.iter().zip(&nodes[1..]).map(|(layer, node)| {
            let len = layer.norm.as_ref().map_or(0, |_| node.len());
            Buffer::zeros(len)
        });
        buffers.collect()
    }

    /// The logits of up to [`GROUP`] images.
    pub(super) fn forward(&self, pixels: &[f32], workspace: &mut Workspace, logits: &mut [f32]) {
        let image_len = COLORS * IMAGE_SIDE * IMAGE_SIDE;
        let images = pixels.len() / image_len;
        if workspace.nodes.is_empty() {
            let buffers = self
                .layouts
                .iter()
                .map(|layout| Buffer::zeros(GROUP * layout.len()));
            workspace.nodes = buffers.collect();
            workspace.sums = self.beside_sums(&workspace.nodes);
        }
        let input = self.layouts[0];
        for (pixels, target) in pixels
            .chunks(image_len)
            .zip(workspace.nodes[0].chunks_mut(input.len()))
        {
            load_image(&self.normalization, pixels, &input, target);
        }
        for (index, unit) in self.graph.units.iter().enumerate() {
            let (before, after) = workspace.nodes.split_at_mut(index + 1);
            let (sums, own_sum) = workspace.sums.split_at_mut(index);
            let (output, sum) = (&mut after[0], &mut own_sum[0]);
            let Layer {
                weights,
                bias,
                norm,
            } = &self.layers[index];
            let of = |node: usize| parts(&before[node], images, &self.layouts[node]);
            let added = match (unit.residual, unit.skip) {
                (Some(node), _) => Some(of(node)),
                (None, Some(skip)) if self.layers[skip].norm.is_some() => {
                    Some(parts(&sums[skip], images, &self.layouts[skip + 1]))
                }
                (None, Some(skip)) => Some(of(skip + 1)),
                (None, None) => None,
            };
            let start = match &added {
                Some(added) => Start::BiasAndResidual(bias, added),
                None => Start::Bias(bias),
            };
            let finish = if unit.relu && norm.is_none() {
                Finish::Relu
            } else {
                Finish::Linear
            };
            let layout = &self.layouts[index + 1];
            let target = if norm.is_some() {
                &mut *sum
            } else {
                &mut *output
            };
            let targets = target.chunks_mut(layout.len()).take(images);
            let mut targets: Vec<&mut [f32]> = targets.collect();
            let sources = of(unit.input);
            self.convs[index].forward(self.path, &sources, weights, &mut targets, start, finish);
            if let Some(norm) = norm {
                for image in 0..images {
                    let output = part_mut(output, image, layout);
                    norm.normalize(self.path, layout, part(sum, image, layout), output);
                }
            }
        }
        let head = self.head();
        workspace.pooled.resize(head.features.channels, 0.0);
        let last = &workspace.nodes[self.layouts.len() - 1];
        for (image, logits) in logits.chunks_mut(self.graph.num_classes).enumerate() {
            head.pool(part(last, image, &head.features), &mut workspace.pooled);
            head.logits(&workspace.pooled, logits);
        }
    }
}

pub(super) fn part<'a>(buffer: &'a Buffer, image: usize, layout: &Layout) -> &'a [f32] {
    &buffer[image * layout.len()..][..layout.len()]
}

fn parts<'a>(buffer: &'a Buffer, images: usize, layout: &Layout) -> Vec<&'a [f32]> {
    buffer.chunks(layout.len()).take(images).collect()
}

pub(super) fn part_mut<'a>(buffer: &'a mut Buffer, image: usize, layout: &Layout) -> &'a mut [f32] {
    &mut buffer[image * layout.len()..][..layout.len()]
}

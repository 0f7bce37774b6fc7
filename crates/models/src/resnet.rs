//! ResNet-18 for 32×32 images: a 3×3 stem, no max-pool, four stages of two basic blocks, 1×1
//! projection shortcuts with batch norm, global average pooling, linear (He et al. 2016; the
//! layer names are those of the common CIFAR variant in PyTorch).

use std::collections::BTreeMap;

use mesa_kernels::ConvShape;
use serde::{Deserialize, Serialize};

use crate::graph::{COLORS, Graph, UnitSpec};
use crate::{Error, Result};

/// Size of a ResNet-18.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Channels of the first stage; the paper's network has 64. Stages have 1, 2, 4 and 8 times as many.
    pub width: usize,
    /// Classes.
    pub num_classes: usize,
}

impl ResNetConfig {
    /// The paper's network for CIFAR-10: width 64, ten classes.
    pub fn paper() -> Self {
        Self {
            width: 64,
            num_classes: 10,
        }
    }

    /// # Errors
    ///
    /// [`Error::ResNetConfig`] for sizes no network has.
    pub fn validate(&self) -> Result<()> {
        // Above these a checkpoint's header is more likely wrong than meant.
        if (1..=1024).contains(&self.width) && (2..=10_000).contains(&self.num_classes) {
            Ok(())
        } else {
            Err(Error::ResNetConfig { config: *self })
        }
    }

    /// Names and shapes of a network's tensors, as [`crate::Network::state`] gives them.
    pub(crate) fn layout(&self) -> BTreeMap<String, Vec<usize>> {
        let graph = self.graph();
        let mut layout = BTreeMap::from([
            (
                "linear.weight".to_owned(),
                vec![self.num_classes, graph.features()],
            ),
            ("linear.bias".to_owned(), vec![self.num_classes]),
        ]);
        for unit in graph.units {
            let shape = unit.shape;
            let weights = [
                shape.out_channels,
                shape.in_channels,
                shape.kernel,
                shape.kernel,
            ];
            layout.insert(format!("{}.weight", unit.conv), weights.to_vec());
            for name in ["weight", "bias", "running_mean", "running_var"] {
                let name = format!("{}.{name}", unit.norm);
                layout.insert(name, vec![shape.out_channels]);
            }
        }
        layout
    }

    pub(crate) fn graph(&self) -> Graph {
        let mut units = vec![UnitSpec {
            conv: "conv1".to_owned(),
            norm: "bn1".to_owned(),
            input: 0,
            residual: None,
            shape: ConvShape {
                in_channels: COLORS,
                out_channels: self.width,
                kernel: 3,
                stride: 1,
            },
            relu: true,
        }];
        let mut channels = self.width;
        for stage in 0..4 {
            for block in 0..2 {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let out_channels = self.width << stage;
                let prefix = format!("layer{}.{block}", stage + 1);
                basic_block(&mut units, &prefix, channels, out_channels, stride);
                channels = out_channels;
            }
        }
        Graph {
            units,
            num_classes: self.num_classes,
        }
    }
}

/// `relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))`
fn basic_block(
    units: &mut Vec<UnitSpec>,
    prefix: &str,
    in_channels: usize,
    out_channels: usize,
    stride: usize,
) {
    let input = units.len();
    let conv = |number: usize, from: usize, in_channels: usize, stride: usize, residual| UnitSpec {
        conv: format!("{prefix}.conv{number}"),
        norm: format!("{prefix}.bn{number}"),
        input: from,
        residual,
        shape: ConvShape {
            in_channels,
            out_channels,
            kernel: 3,
            stride,
        },
        relu: true,
    };
    units.push(conv(1, input, in_channels, stride, None));
    let first = units.len();
    let shortcut = if stride == 1 && in_channels == out_channels {
        input
    } else {
        units.push(UnitSpec {
            conv: format!("{prefix}.shortcut.0"),
            norm: format!("{prefix}.shortcut.1"),
            input,
            residual: None,
            shape: ConvShape {
                in_channels,
                out_channels,
                kernel: 1,
                stride,
            },
            relu: false,
        });
        units.len()
    };
    units.push(conv(2, first, out_channels, 1, Some(shortcut)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_layers_of_the_common_cifar_variant() {
        let graph = ResNetConfig::paper().graph();
        let names: Vec<&str> = graph.units.iter().map(|unit| unit.conv.as_str()).collect();
        assert_eq!(names.len(), 20);
        assert_eq!(names[0], "conv1");
        assert!(names.contains(&"layer2.0.shortcut.0") && names.contains(&"layer4.1.conv2"));
        assert_eq!(graph.features(), 512);
    }

    #[test]
    fn the_layout_is_that_of_a_networks_state() {
        let config = ResNetConfig {
            width: 3,
            num_classes: 4,
        };
        let mut rng = crate::Seeds::new(0, "weights").start();
        let network =
            crate::Network::resnet18(config, crate::Normalization::identity(), &mut rng).unwrap();
        let state = network.state().unwrap();
        let shapes = state
            .into_iter()
            .map(|(name, tensor)| (name, tensor.dims().to_vec()))
            .collect();
        assert_eq!(config.layout(), shapes);
    }

    #[test]
    fn costs_what_is_counted_for_the_paper() {
        // 0.555 billion multiply-adds for one image of width 64.
        let giga = ResNetConfig::paper().graph().operations() / 2e9;
        assert!((giga - 0.555).abs() < 0.002, "{giga}");
    }
}

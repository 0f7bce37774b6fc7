//! Residual networks for 32×32 images: a 3×3 stem, no max-pool, four stages of blocks, 1×1 projection
//! shortcuts with batch norm, global average pooling, linear (He et al. 2016; the layer names are
//! those of the common CIFAR variant in PyTorch).

use std::collections::BTreeMap;
use std::fmt;

use mesa_kernels::ConvShape;
use serde::{Deserialize, Serialize};

use crate::graph::{COLORS, Graph, Node, UnitSpec};
use crate::{Error, Result};

/// How many layers a network has: the number in its name (He et al. 2016, table 1).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub enum Depth {
    /// ResNet-18, the paper's.
    #[default]
    ResNet18,
    /// ResNet-34.
    ResNet34,
    /// ResNet-50.
    ResNet50,
    /// ResNet-101.
    ResNet101,
    /// ResNet-152.
    ResNet152,
}

/// Outputs of a bottleneck, in widths of its 3×3 convolution.
const EXPANSION: usize = 4;

impl Depth {
    /// Every depth, rising.
    pub const ALL: [Self; 5] = [
        Self::ResNet18,
        Self::ResNet34,
        Self::ResNet50,
        Self::ResNet101,
        Self::ResNet152,
    ];

    /// The number of layers.
    pub fn layers(self) -> usize {
        match self {
            Self::ResNet18 => 18,
            Self::ResNet34 => 34,
            Self::ResNet50 => 50,
            Self::ResNet101 => 101,
            Self::ResNet152 => 152,
        }
    }

    /// Blocks of each stage.
    fn blocks(self) -> [usize; 4] {
        match self {
            Self::ResNet18 => [2, 2, 2, 2],
            Self::ResNet34 | Self::ResNet50 => [3, 4, 6, 3],
            Self::ResNet101 => [3, 4, 23, 3],
            Self::ResNet152 => [3, 8, 36, 3],
        }
    }

    /// Whether blocks are bottlenecks of three convolutions, not pairs of 3×3 ones.
    fn has_bottlenecks(self) -> bool {
        self.layers() >= 50
    }

    /// That of the network whose tensors have these names, or the nearest one.
    pub(crate) fn of_names<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Self {
        let has_bottlenecks = names.clone().any(|name| name.ends_with(".conv3.weight"));
        // The third stage tells them apart.
        let third = |name: &&str| name.starts_with("layer3.") && name.ends_with(".conv1.weight");
        let found = names.filter(third).count();
        let alike = Self::ALL
            .into_iter()
            .filter(|depth| depth.has_bottlenecks() == has_bottlenecks);
        let nearest = alike.min_by_key(|depth| depth.blocks()[2].abs_diff(found));
        nearest.unwrap_or_default()
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_papers(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Depth> for usize {
    fn from(depth: Depth) -> Self {
        depth.layers()
    }
}

impl TryFrom<usize> for Depth {
    type Error = Error;

    fn try_from(layers: usize) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|depth| depth.layers() == layers);
        found.ok_or(Error::Depth { layers })
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResNet-{}", self.layers())
    }
}

/// Size of a residual network.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Its layers; files of a ResNet-18 do not say.
    #[serde(default, skip_serializing_if = "Depth::is_papers")]
    pub depth: Depth,
    /// Channels of the first stage's 3×3 convolutions; the paper's network has 64. Stages have 1, 2, 4
    /// and 8 times as many.
    pub width: usize,
    /// Classes.
    pub num_classes: usize,
}

impl ResNetConfig {
    /// A ResNet-18.
    pub fn resnet18(width: usize, num_classes: usize) -> Self {
        Self {
            depth: Depth::ResNet18,
            width,
            num_classes,
        }
    }

    /// The paper's network for CIFAR-10: a ResNet-18 of width 64, ten classes.
    pub fn paper() -> Self {
        Self::resnet18(64, 10)
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
        let mut units = Vec::new();
        push(&mut units, ["conv1", "bn1"], (0, 3, self.width, 1));
        for (stage, blocks) in self.depth.blocks().into_iter().enumerate() {
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let width = self.width << stage;
                let prefix = format!("layer{}.{block}", stage + 1);
                if self.depth.has_bottlenecks() {
                    bottleneck(&mut units, &prefix, width, stride);
                } else {
                    basic_block(&mut units, &prefix, width, stride);
                }
            }
        }
        Graph {
            units,
            num_classes: self.num_classes,
        }
    }
}

/// `relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))`, both convolutions 3×3.
fn basic_block(units: &mut Vec<UnitSpec>, prefix: &str, width: usize, stride: usize) {
    let input = units.len();
    let first = push_in(units, prefix, ["conv1", "bn1"], (input, 3, width, stride));
    let shortcut = shortcut(units, prefix, (input, width, stride));
    push_in(units, prefix, ["conv2", "bn2"], (first, 3, width, 1));
    end_block(units, shortcut);
}

/// `relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + shortcut(x))`: 1×1, 3×3 with the
/// stride, 1×1 to [`EXPANSION`] times as many channels.
fn bottleneck(units: &mut Vec<UnitSpec>, prefix: &str, width: usize, stride: usize) {
    let input = units.len();
    let out_channels = EXPANSION * width;
    let first = push_in(units, prefix, ["conv1", "bn1"], (input, 1, width, 1));
    let second = push_in(units, prefix, ["conv2", "bn2"], (first, 3, width, stride));
    let shortcut = shortcut(units, prefix, (input, out_channels, stride));
    push_in(
        units,
        prefix,
        ["conv3", "bn3"],
        (second, 1, out_channels, 1),
    );
    end_block(units, shortcut);
}

/// The node that a block's result is added to: its input, projected where it has another shape.
fn shortcut(
    units: &mut Vec<UnitSpec>,
    prefix: &str,
    (input, out_channels, stride): (Node, usize, usize),
) -> Node {
    if stride == 1 && channels(units, input) == out_channels {
        return input;
    }
    let names = ["shortcut.0", "shortcut.1"];
    let projected = push_in(units, prefix, names, (input, 1, out_channels, stride));
    units[projected - 1].relu = false;
    projected
}

/// [`push`] within a block.
fn push_in(
    units: &mut Vec<UnitSpec>,
    prefix: &str,
    names: [&str; 2],
    shape: (Node, usize, usize, usize),
) -> Node {
    let [conv, norm] = names.map(|name| format!("{prefix}.{name}"));
    push(units, [&conv, &norm], shape)
}

/// Adds a convolution with batch norm and ReLU: their names; input, kernel, channels, stride. Returns its
/// node.
fn push(
    units: &mut Vec<UnitSpec>,
    [conv, norm]: [&str; 2],
    (input, kernel, out_channels, stride): (Node, usize, usize, usize),
) -> Node {
    units.push(UnitSpec {
        conv: conv.to_owned(),
        norm: norm.to_owned(),
        input,
        residual: None,
        shape: ConvShape {
            in_channels: channels(units, input),
            out_channels,
            kernel,
            stride,
        },
        relu: true,
    });
    units.len()
}

fn end_block(units: &mut [UnitSpec], shortcut: Node) {
    if let Some(last) = units.last_mut() {
        last.residual = Some(shortcut);
    }
}

/// Channels of a node.
fn channels(units: &[UnitSpec], node: Node) -> usize {
    match node {
        0 => COLORS,
        _ => units[node - 1].shape.out_channels,
    }
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
        for depth in [Depth::ResNet18, Depth::ResNet50] {
            let config = ResNetConfig {
                depth,
                ..ResNetConfig::resnet18(3, 4)
            };
            let mut rng = crate::Seeds::new(0, "weights").start();
            let network =
                crate::Network::resnet(config, crate::Normalization::identity(), &mut rng).unwrap();
            let state = network.state().unwrap();
            let shapes = state
                .into_iter()
                .map(|(name, tensor)| (name, tensor.dims().to_vec()))
                .collect();
            assert_eq!(config.layout(), shapes);
        }
    }

    #[test]
    fn every_depth_has_its_layers_and_is_known_by_its_names() {
        for depth in Depth::ALL {
            let config = ResNetConfig {
                depth,
                ..ResNetConfig::paper()
            };
            let graph = config.graph();
            let convolutions = graph.units.iter().filter(|unit| unit.relu).count();
            // And the linear layer; projections do not count.
            assert_eq!(convolutions + 1, depth.layers());
            let layout = config.layout();
            let names = layout.keys().map(String::as_str);
            assert_eq!(Depth::of_names(names), depth);
            assert_eq!(Depth::try_from(depth.layers()).unwrap(), depth);
        }
        assert_eq!(Depth::of_names(["fc.weight"].into_iter()), Depth::ResNet18);
        assert!(Depth::try_from(20).is_err());
    }

    #[test]
    fn bottlenecks_widen_and_their_first_shortcut_is_projected() {
        let config = ResNetConfig {
            depth: Depth::ResNet50,
            ..ResNetConfig::paper()
        };
        let graph = config.graph();
        assert_eq!(graph.features(), 2048);
        let of = |name: &str| {
            let found = graph.units.iter().find(|unit| unit.conv == name).unwrap();
            let shape = found.shape;
            [
                shape.in_channels,
                shape.out_channels,
                shape.kernel,
                shape.stride,
            ]
        };
        assert_eq!(of("layer1.0.shortcut.0"), [64, 256, 1, 1]);
        assert_eq!(of("layer2.0.conv1"), [256, 128, 1, 1]);
        assert_eq!(of("layer2.0.conv2"), [128, 128, 3, 2]);
        assert_eq!(of("layer2.0.conv3"), [128, 512, 1, 1]);
    }

    #[test]
    fn files_of_a_resnet18_do_not_say_how_deep_it_is() {
        let text = |config| serde_json::to_string(&config).unwrap();
        let eighteen = ResNetConfig::resnet18(4, 10);
        assert_eq!(text(eighteen), r#"{"width":4,"num_classes":10}"#);
        let fifty = ResNetConfig {
            depth: Depth::ResNet50,
            ..eighteen
        };
        assert_eq!(text(fifty), r#"{"depth":50,"width":4,"num_classes":10}"#);
        for config in [eighteen, fifty] {
            assert_eq!(
                serde_json::from_str::<ResNetConfig>(&text(config)).unwrap(),
                config
            );
        }
    }

    #[test]
    fn costs_what_is_counted_for_the_paper() {
        // 0.555 billion multiply-adds for one image of width 64.
        let giga = ResNetConfig::paper().graph().operations() / 2e9;
        assert!((giga - 0.555).abs() < 0.002, "{giga}");
    }
}

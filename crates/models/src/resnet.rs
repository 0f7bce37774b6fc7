//! Residual networks for 32×32 images: a 3×3 stem, no max-pool, stages of blocks, 1×1 projection
//! shortcuts with batch norm, global average pooling, linear (He et al. 2016; the layer names are
//! those of the common CIFAR variant in PyTorch). Padded ones have nothing to learn in their shortcuts. With pre-activation (He et al. 2016b) batch norm
//! and ReLU come before the convolutions of a block, and the shortcuts have neither. Wide ones
//! (Zagoruyko and Komodakis 2016) are of the latter kind, under names of their own.

use std::collections::BTreeMap;

use mesa_kernels::ConvShape;
use serde::{Deserialize, Serialize};

use crate::graph::{COLORS, Graph, Node, UnitSpec};
use crate::{Architecture, Error, Family, Result};

/// Outputs of a bottleneck, in widths of its 3×3 convolution.
const EXPANSION: usize = 4;

/// Channels of a wide network's stem, however wide it is.
const WIDE_STEM: usize = 16;

/// Size of a residual network.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Its kind; files of a ResNet-18 do not say.
    #[serde(default, skip_serializing_if = "Architecture::is_papers")]
    pub architecture: Architecture,
    /// Channels of the first stage's 3×3 convolutions; the paper's network has 64, a WRN-16-k 16 k.
    /// Each further stage has twice as many.
    pub width: usize,
    /// Classes.
    pub num_classes: usize,
}

impl ResNetConfig {
    /// A ResNet-18.
    pub fn resnet18(width: usize, num_classes: usize) -> Self {
        Self::new(Architecture::default(), width, num_classes)
    }

    /// A network of some kind.
    pub fn new(architecture: Architecture, width: usize, num_classes: usize) -> Self {
        Self {
            architecture,
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

    /// How many weights such a network learns.
    pub fn parameter_count(&self) -> usize {
        let learned = |(name, shape): (String, Vec<usize>)| {
            (!name.contains(".running_")).then(|| shape.iter().product::<usize>())
        };
        self.layout().into_iter().filter_map(learned).sum()
    }

    /// Names and shapes of a network's tensors, as [`crate::Network::state`] gives them.
    pub(crate) fn layout(&self) -> BTreeMap<String, Vec<usize>> {
        let graph = self.graph();
        let [weight, bias] = graph.head_names();
        let mut layout = BTreeMap::from([
            (weight, vec![self.num_classes, graph.features()]),
            (bias, vec![self.num_classes]),
        ]);
        for unit in graph.units {
            if unit.learned {
                layout.insert(unit.filter_name(), unit.shape.dims());
            }
            let Some(norm) = unit.norm else {
                continue;
            };
            for name in ["weight", "bias", "running_mean", "running_var"] {
                layout.insert(format!("{norm}.{name}"), vec![unit.shape.out_channels]);
            }
        }
        layout
    }

    /// The tensor whose first dimension is a network's width.
    pub(crate) fn width_tensor(architecture: Architecture) -> &'static str {
        match architecture.family() {
            Family::WideResNet => "block1.layer.0.conv1.weight",
            _ => "conv1.weight",
        }
    }

    pub(crate) fn graph(&self) -> Graph {
        let (kind, family) = (self.architecture, self.architecture.family());
        let is_wide = family == Family::WideResNet;
        let mut units = Vec::new();
        let stem = if is_wide { WIDE_STEM } else { self.width };
        let stem = push_sum(&mut units, "conv1", (0, 3, stem, 1));
        if matches!(family, Family::ResNet | Family::PaddedResNet) {
            normalize(&mut units, stem, "bn1");
        }
        let block = match (family, kind.has_bottlenecks()) {
            (Family::PaddedResNet, _) => padded_block,
            (Family::ResNet, false) => basic_block,
            (Family::ResNet, true) => bottleneck,
            (Family::PreActResNet, true) => preactivated_bottleneck,
            (Family::PreActResNet | Family::WideResNet, _) => preactivated_block,
        };
        for (stage, blocks) in kind.blocks().into_iter().enumerate() {
            for number in 0..blocks {
                let stride = if stage > 0 && number == 0 { 2 } else { 1 };
                let prefix = if is_wide {
                    format!("block{}.layer.{number}", stage + 1)
                } else {
                    format!("layer{}.{number}", stage + 1)
                };
                block(&mut units, &prefix, self.width << stage, stride);
            }
        }
        if is_wide {
            let last = units.len();
            normalize(&mut units, last, "bn1");
        }
        Graph {
            units,
            head: if is_wide { "fc" } else { "linear" },
            num_classes: self.num_classes,
        }
    }
}

/// `relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))`, both convolutions 3×3.
fn basic_block(units: &mut Vec<UnitSpec>, prefix: &str, width: usize, stride: usize) {
    let input = units.len();
    let first = push(units, prefix, ["conv1", "bn1"], (input, 3, width, stride));
    let shortcut = shortcut(units, prefix, (input, width, stride));
    let last = push(units, prefix, ["conv2", "bn2"], (first, 3, width, 1));
    units[last - 1].residual = Some(shortcut);
}

/// [`basic_block`] whose shortcut, where its input has another shape, is every second pixel of that between
/// channels of zeros.
fn padded_block(units: &mut Vec<UnitSpec>, prefix: &str, width: usize, stride: usize) {
    let before = units.len();
    basic_block(units, prefix, width, stride);
    let is_projection = |unit: &&mut UnitSpec| unit.conv.ends_with(".shortcut.0");
    if let Some(projection) = units[before..].iter_mut().find(is_projection) {
        projection.learned = false;
        projection.norm = None;
    }
}

/// `relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + shortcut(x))`: 1×1, 3×3 with the
/// stride, 1×1 to [`EXPANSION`] times as many channels.
fn bottleneck(units: &mut Vec<UnitSpec>, prefix: &str, width: usize, stride: usize) {
    let input = units.len();
    let outputs = EXPANSION * width;
    let first = push(units, prefix, ["conv1", "bn1"], (input, 1, width, 1));
    let second = push(units, prefix, ["conv2", "bn2"], (first, 3, width, stride));
    let shortcut = shortcut(units, prefix, (input, outputs, stride));
    let last = push(units, prefix, ["conv3", "bn3"], (second, 1, outputs, 1));
    units[last - 1].residual = Some(shortcut);
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
    let projected = push(units, prefix, names, (input, 1, out_channels, stride));
    units[projected - 1].relu = false;
    projected
}

/// `conv2(relu(bn2(conv1(a)))) + shortcut`, where `a = relu(bn1(x))` of the sum `x` before it.
fn preactivated_block(units: &mut Vec<UnitSpec>, prefix: &str, width: usize, stride: usize) {
    let sum = units.len();
    normalize(units, sum, &format!("{prefix}.bn1"));
    let first = push(units, prefix, ["conv1", "bn2"], (sum, 3, width, stride));
    let skip = skip(units, prefix, (sum, width, stride));
    let last = push_sum(units, &format!("{prefix}.conv2"), (first, 3, width, 1));
    units[last - 1].skip = Some(skip);
}

/// `conv3(relu(bn3(conv2(relu(bn2(conv1(a))))))) + shortcut`, as [`bottleneck`] and
/// [`preactivated_block`].
fn preactivated_bottleneck(units: &mut Vec<UnitSpec>, prefix: &str, width: usize, stride: usize) {
    let sum = units.len();
    let outputs = EXPANSION * width;
    normalize(units, sum, &format!("{prefix}.bn1"));
    let first = push(units, prefix, ["conv1", "bn2"], (sum, 1, width, 1));
    let second = push(units, prefix, ["conv2", "bn3"], (first, 3, width, stride));
    let skip = skip(units, prefix, (sum, outputs, stride));
    let last = push_sum(units, &format!("{prefix}.conv3"), (second, 1, outputs, 1));
    units[last - 1].skip = Some(skip);
}

/// The unit from whose sum a block's starts: the one before the block or, where that has another
/// shape, a projection of what that becomes behind batch norm and ReLU.
fn skip(
    units: &mut Vec<UnitSpec>,
    prefix: &str,
    (input, out_channels, stride): (Node, usize, usize),
) -> usize {
    if stride == 1 && channels(units, input) == out_channels {
        return input - 1;
    }
    let name = if prefix.starts_with("block") {
        format!("{prefix}.convShortcut")
    } else {
        format!("{prefix}.shortcut.0")
    };
    push_sum(units, &name, (input, 1, out_channels, stride)) - 1
}

/// Adds a convolution with batch norm and ReLU to a block: their names; input, kernel, channels, stride.
/// Returns its node.
fn push(
    units: &mut Vec<UnitSpec>,
    prefix: &str,
    [conv, norm]: [&str; 2],
    shape: (Node, usize, usize, usize),
) -> Node {
    let node = push_sum(units, &format!("{prefix}.{conv}"), shape);
    normalize(units, node, &format!("{prefix}.{norm}"));
    node
}

/// Adds a convolution alone.
fn push_sum(
    units: &mut Vec<UnitSpec>,
    name: &str,
    (input, kernel, out_channels, stride): (Node, usize, usize, usize),
) -> Node {
    units.push(UnitSpec {
        conv: name.to_owned(),
        norm: None,
        input,
        residual: None,
        skip: None,
        shape: ConvShape {
            in_channels: channels(units, input),
            out_channels,
            kernel,
            stride,
        },
        learned: true,
        relu: false,
    });
    units.len()
}

/// Puts batch norm and ReLU behind a node's convolution.
fn normalize(units: &mut [UnitSpec], node: Node, name: &str) {
    let unit = &mut units[node - 1];
    (unit.norm, unit.relu) = (Some(name.to_owned()), true);
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
        let kinds =
            Architecture::all().filter(|kind| matches!(kind.layers(), 10 | 16 | 18 | 20 | 50));
        for kind in kinds {
            let config = ResNetConfig::new(kind, 3, 4);
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
        for kind in Architecture::all() {
            let config = ResNetConfig::new(kind, 64, 10);
            let units = config.graph().units;
            let is_projection = |unit: &&UnitSpec| unit.conv.to_lowercase().contains("shortcut");
            let projections = units.iter().filter(is_projection).count();
            // Wide networks count their projections, the others the linear layer.
            let counted = match kind.family() {
                Family::WideResNet => units.len(),
                _ => units.len() - projections + 1,
            };
            assert_eq!(counted, kind.layers());
            let layout = config.layout();
            let names = layout.keys().map(String::as_str);
            assert_eq!(Architecture::of_names(&names), kind);
        }
        let other = Architecture::of_names(&["fc.weight"].into_iter());
        assert_eq!(other, Architecture::default());
    }

    #[test]
    fn bottlenecks_widen_and_their_first_shortcut_is_projected() {
        let graph = ResNetConfig::new("resnet50".parse().unwrap(), 64, 10).graph();
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

    /// What `x[:, :, ::2, ::2]` between `planes // 4` channels of zeros is as a convolution.
    #[test]
    fn padded_shortcuts_select_the_input_between_zeros() {
        let graph = ResNetConfig::new("paddedresnet20".parse().unwrap(), 2, 10).graph();
        let fixed: Vec<&UnitSpec> = graph.units.iter().filter(|unit| !unit.learned).collect();
        assert_eq!(fixed.len(), 2);
        let shape = fixed[0].shape;
        assert_eq!(
            (
                shape.kernel,
                shape.stride,
                fixed[0].norm.is_none(),
                fixed[0].relu
            ),
            (1, 2, true, false)
        );
        #[rustfmt::skip]
        let expected = [0., 0.,
                        1., 0.,
                        0., 1.,
                        0., 0.];
        assert_eq!(fixed[0].selection().unwrap(), expected);
        assert!(graph.units[0].selection().is_none());
    }

    /// The names and the order of pre-activation's layers, as its authors' followers have them.
    #[test]
    fn preactivated_blocks_hand_on_their_sums() {
        let kind = "preactresnet18".parse().unwrap();
        let graph = ResNetConfig::new(kind, 64, 10).graph();
        let at = |name: &str| {
            let found = graph.units.iter().position(|unit| unit.conv == name);
            found.unwrap()
        };
        let unit = |name: &str| &graph.units[at(name)];
        for (conv, norm) in [
            ("conv1", Some("layer1.0.bn1")),
            ("layer1.0.conv1", Some("layer1.0.bn2")),
            ("layer1.0.conv2", Some("layer1.1.bn1")),
            ("layer1.1.conv2", Some("layer2.0.bn1")),
            ("layer2.0.shortcut.0", None),
            ("layer4.1.conv2", None),
        ] {
            assert_eq!(unit(conv).norm.as_deref(), norm, "{conv}");
            assert_eq!(unit(conv).relu, norm.is_some(), "{conv}");
        }
        for (conv, skip) in [
            ("layer1.0.conv2", "conv1"),
            ("layer1.1.conv2", "layer1.0.conv2"),
            ("layer2.0.conv2", "layer2.0.shortcut.0"),
            ("layer4.1.conv2", "layer4.0.conv2"),
        ] {
            assert_eq!(unit(conv).skip, Some(at(skip)), "{conv}");
        }
        // What is projected has passed batch norm and ReLU.
        assert_eq!(unit("layer2.0.shortcut.0").input, at("layer1.1.conv2") + 1);
        let kept: Vec<usize> = (0..graph.units.len())
            .filter(|unit| graph.keeps_sum(*unit))
            .collect();
        let second = |unit: &usize| graph.units[*unit].conv.ends_with("conv2");
        assert_eq!(kept[0], 0);
        assert!(kept[1..].iter().all(second));
        assert_eq!(kept.len(), 8, "the last sum is no other's than the head's");
    }

    /// WRN-16-1 and WRN-16-2, as attacked in the literature.
    #[test]
    fn wide_networks_end_in_batch_norm_and_project_where_they_widen() {
        let kind = "wideresnet16".parse().unwrap();
        for (width, first_projects) in [(16, false), (32, true)] {
            let config = ResNetConfig::new(kind, width, 10);
            let graph = config.graph();
            let at = |name: &str| graph.units.iter().position(|unit| unit.conv == name);
            assert_eq!(at("block1.layer.0.convShortcut").is_some(), first_projects);
            let last = graph.units.last().unwrap();
            assert_eq!(last.conv, "block3.layer.1.conv2");
            assert_eq!((last.norm.as_deref(), last.relu), (Some("bn1"), true));
            assert_eq!(last.skip, at("block3.layer.0.conv2"));
            assert_eq!(graph.features(), 4 * width);
            assert_eq!(config.layout()["fc.weight"], [10, 4 * width]);
        }
        // 0.2 and 0.7 million, as the literature has them.
        let count = |width| ResNetConfig::new(kind, width, 10).parameter_count();
        assert_eq!([count(16), count(32)], [175_066, 691_674]);
    }

    #[test]
    fn no_two_sums_start_from_the_same() {
        for kind in Architecture::all() {
            let graph = ResNetConfig::new(kind, 4, 10).graph();
            let mut skips: Vec<usize> = graph.units.iter().filter_map(|unit| unit.skip).collect();
            let count = skips.len();
            skips.sort_unstable();
            skips.dedup();
            assert_eq!(skips.len(), count);
            let hands_on = matches!(kind.family(), Family::PreActResNet | Family::WideResNet);
            assert_eq!(count > 0, hands_on);
        }
    }

    #[test]
    fn files_of_a_resnet18_do_not_say_what_it_is() {
        let text = |config| serde_json::to_string(&config).unwrap();
        let eighteen = ResNetConfig::resnet18(4, 10);
        assert_eq!(text(eighteen), r#"{"width":4,"num_classes":10}"#);
        let wide = ResNetConfig::new("wideresnet16".parse().unwrap(), 4, 10);
        let words = r#"{"architecture":"wideresnet16","width":4,"num_classes":10}"#;
        assert_eq!(text(wide), words);
        for config in [eighteen, wide] {
            let back: ResNetConfig = serde_json::from_str(&text(config)).unwrap();
            assert_eq!(back, config);
        }
    }

    #[test]
    fn costs_what_is_counted_for_the_paper() {
        // 0.555 billion multiply-adds for one image of width 64.
        assert_eq!(ResNetConfig::paper().parameter_count(), 11_173_962);
        let giga = ResNetConfig::paper().graph().operations() / 2e9;
        assert!((giga - 0.555).abs() < 0.002, "{giga}");
    }
}

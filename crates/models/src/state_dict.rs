//! A network's tensors as a file holds them: any float type, any strides, any of the usual names.

use std::collections::{BTreeMap, BTreeSet};

use candle::{Device, Tensor};
use half::{bf16, f16};
use mesa_pickle::shown;
use safetensors::Dtype;

use crate::normalizing::Normalizing;
use crate::{Architecture, Family, LayoutError, NamedTensors, Normalization, ResNetConfig};

/// A tensor that still lies in the bytes of its file.
#[derive(Clone, Debug)]
pub(crate) struct RawTensor<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Elements between neighbors, for each dimension.
    pub(crate) strides: Vec<usize>,
    /// Elements before the first.
    pub(crate) offset: usize,
    /// What it lies in, perhaps with other tensors.
    pub(crate) storage: &'a [u8],
}

/// Prefixes that wrappers put before every name: Lightning's and other modules around a network, data
/// parallelism, compilation; in a sequence it is the first, or the second behind a layer.
const WRAPPERS: [&str; 8] = [
    "0.",
    "1.",
    "model.",
    "net.",
    "backbone.",
    "network.",
    "module.",
    "_orig_mod.",
];

/// Counts batches for an average that nobody takes here.
const COUNTER: &str = ".num_batches_tracked";

/// Counts the networks of which one in a file is the average.
const AVERAGED: &str = "n_averaged";

/// Counts operations and parameters, of every layer.
const COUNTED: [&str; 2] = ["total_ops", "total_params"];

/// How the names of layers begin that are not the linear one, in every network that is read.
const BODY: [&str; 4] = ["conv1.", "bn1.", "layer", "block"];

/// Ends the names of batch norm's variances, of which square roots are taken.
const VARIANCE: &str = ".running_var";

/// The first convolution's weights.
const STEM: &str = "conv1.weight";

/// Names that are shown in errors before the rest is counted.
const SHOWN: usize = 8;

/// The network's size, its tensors as [`crate::Network::load_state`] takes them, and how images are
/// normalized where a layer of it does so.
///
/// Nothing is allocated before every name and shape has been checked, and no more elements than
/// the file has bytes.
pub(crate) fn network_state(
    mut tensors: BTreeMap<String, RawTensor<'_>>,
    file_len: usize,
) -> Result<(ResNetConfig, NamedTensors, Option<Normalization>), LayoutError> {
    let normalizing = Normalizing::take(&mut tensors)?;
    let (tensors, wrapper) = renamed(tensors);
    let normalization = match normalizing {
        Some(layer) => layer.in_front_of(&wrapper)?,
        None => None,
    };
    let nearest = Architecture::of_names(&tensors.keys().map(String::as_str));
    let first = |name: &str| {
        let tensor = tensors.get(name);
        tensor.and_then(|tensor| tensor.shape.first().copied())
    };
    let of_width = |width| ResNetConfig::new(nearest, width, 10);
    let mut config = of_width(first(ResNetConfig::width_tensor(nearest)).unwrap_or(0));
    // Where a file does not say how wide it is, any width with the usual names does to compare them.
    let named = config.validate().map_or(of_width(16), |()| config);
    let known = named.layout();
    let missing: Vec<&String> = known
        .keys()
        .filter(|name| !tensors.contains_key(*name))
        .collect();
    let unexpected: Vec<&String> = tensors
        .keys()
        .filter(|name| !known.contains_key(*name))
        .collect();
    if !missing.is_empty() || !unexpected.is_empty() {
        return Err(LayoutError::Names {
            nearest,
            missing: listed(&missing),
            unexpected: listed(&unexpected),
        });
    }
    if let Some([_, _, 7, 7]) = tensors.get(STEM).map(|stem| stem.shape.as_slice()) {
        return Err(LayoutError::Stem { nearest });
    }
    let [head, _] = named.graph().head_names();
    config.num_classes = first(&head).unwrap_or(0);
    config
        .validate()
        .map_err(|_| LayoutError::Size { config })?;
    let mut elements = 0;
    for (name, expected) in config.layout() {
        let tensor = &tensors[&name];
        if tensor.shape != expected {
            return Err(LayoutError::Shape {
                name,
                expected: format!(
                    "{expected:?} in a {} of width {} with {} classes",
                    nearest, config.width, config.num_classes
                ),
                // A shape from a file may have any number of dimensions.
                found: shown(&format!("{:?}", tensor.shape)),
            });
        }
        elements += expected.iter().product::<usize>();
    }
    if elements > file_len {
        return Err(LayoutError::TooLarge { elements, file_len });
    }
    let mut state = NamedTensors::new();
    for (name, tensor) in tensors {
        let values = tensor.values(&name)?;
        if name.ends_with(VARIANCE)
            && let Some(element) = values.iter().position(|value| *value < 0.0)
        {
            let value = values[element];
            return Err(LayoutError::NegativeVariance {
                name,
                element,
                value,
            });
        }
        let values = Tensor::from_vec(values, tensor.shape, &Device::Cpu)?;
        state.insert(name, values);
    }
    Ok((config, state, normalization))
}

/// The tensors under this project's names, counters left out, and what all names began with.
fn renamed(
    mut tensors: BTreeMap<String, RawTensor<'_>>,
) -> (BTreeMap<String, RawTensor<'_>>, String) {
    let is_counted = |name: &str| {
        let last = name.rsplit('.').next();
        last.is_some_and(|last| COUNTED.contains(&last))
    };
    tensors.retain(|name, _| !name.ends_with(COUNTER) && name != AVERAGED && !is_counted(name));
    let mut len = 0;
    while let Some(wrapper) = WRAPPERS.into_iter().find(|wrapper| {
        let mut names = tensors.keys();
        !tensors.is_empty() && names.all(|name| name[len..].starts_with(wrapper))
    }) {
        len += wrapper.len();
    }
    let first = tensors.keys().next();
    let wrapper = first.map_or_else(String::new, |name| name[..len].to_owned());
    let bare = |(name, tensor): (String, _)| (name[len..].to_owned(), tensor);
    tensors = with_usual_head(tensors.into_iter().map(bare).collect());
    let taken: BTreeSet<String> = tensors.keys().cloned().collect();
    if Family::of_names(&taken.iter().map(String::as_str)) == Family::WideResNet {
        // It has no other names.
        return (tensors, wrapper);
    }
    // A name that stands beside its synonym stays, to be refused.
    let ours = |name: String| {
        let ours = our_name(&name);
        if taken.contains(&ours) { name } else { ours }
    };
    let renamed = |(name, tensor)| (ours(name), tensor);
    (tensors.into_iter().map(renamed).collect(), wrapper)
}

/// The same where the two tensors of the linear layer have a name of their own (`classifier.fc`, `head`), and all
/// others one prefix (`features.`): they are then a network's all the same.
fn with_usual_head(tensors: BTreeMap<String, RawTensor<'_>>) -> BTreeMap<String, RawTensor<'_>> {
    let stems = tensors.keys().filter_map(|name| name.strip_suffix(STEM));
    let prefix = stems.min_by_key(|prefix| prefix.len());
    let Some(prefix) = prefix.filter(|prefix| prefix.is_empty() || prefix.ends_with('.')) else {
        return tensors;
    };
    let in_body = |name: &str| {
        let name = name.strip_prefix(prefix)?;
        BODY.iter()
            .any(|layer| name.starts_with(layer))
            .then(|| name.to_owned())
    };
    let mut others = tensors.keys().filter(|name| in_body(name).is_none());
    let pair = [others.next(), others.next(), others.next()];
    let [Some(bias), Some(weight), None] = pair.map(|name| name.map(String::as_str)) else {
        return tensors;
    };
    let layer = weight.strip_suffix(".weight");
    if layer.is_none() || layer != bias.strip_suffix(".bias") {
        return tensors;
    }
    let is_wide = tensors.keys().any(|name| name.contains("block1.layer."));
    let head = if is_wide { "fc" } else { "linear" };
    let renamed = |name: &str| {
        let part = if name == weight { "weight" } else { "bias" };
        in_body(name).unwrap_or_else(|| format!("{head}.{part}"))
    };
    let names: Vec<String> = tensors.keys().map(|name| renamed(name)).collect();
    names.into_iter().zip(tensors.into_values()).collect()
}

/// How the layers of a ResNet are named in a file. `WideResNets` have names of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerNames {
    /// `shortcut.0`, `linear`: those of the common PyTorch networks for CIFAR, and of this project.
    #[default]
    Common,
    /// `downsample.0`, `fc`.
    Torchvision,
}

impl LayerNames {
    /// The tensors of a [`crate::Network::state`] by these names.
    pub(crate) fn of(self, state: NamedTensors) -> NamedTensors {
        let torchvisions = |name: &str| {
            let name = name.replace(".shortcut.", ".downsample.");
            match name.strip_prefix("linear.") {
                Some(rest) => format!("fc.{rest}"),
                None => name,
            }
        };
        match self {
            Self::Common => state,
            Self::Torchvision => {
                let named = state.into_iter();
                named
                    .map(|(name, tensor)| (torchvisions(&name), tensor))
                    .collect()
            }
        }
    }
}

/// torchvision's names of layers as this project's.
fn our_name(name: &str) -> String {
    let name = name.replace(".downsample.", ".shortcut.");
    match name.strip_prefix("fc.") {
        Some(rest) => format!("linear.{rest}"),
        None => name,
    }
}

/// The first few names and the number of the others.
fn listed(names: &[&String]) -> String {
    let first: Vec<String> = names.iter().take(SHOWN).map(|name| shown(name)).collect();
    match names.len() {
        0 => "none".to_owned(),
        len if len > SHOWN => format!("{} and {} more", first.join(", "), len - SHOWN),
        _ => first.join(", "),
    }
}

impl RawTensor<'_> {
    /// Its elements in order, as f32.
    pub(crate) fn values(&self, name: &str) -> Result<Vec<f32>, LayoutError> {
        let Some(width) = float_width(self.dtype) else {
            return Err(LayoutError::Type {
                name: name.to_owned(),
                found: format!("{:?}", self.dtype),
            });
        };
        let end = self.end().and_then(|end| end.checked_mul(width));
        if end.is_none_or(|end| end > self.storage.len()) {
            return Err(LayoutError::Storage {
                name: name.to_owned(),
            });
        }
        let count = self.shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|index| {
                let at = self.position(index) * width;
                float(self.dtype, &self.storage[at..at + width])
            })
            .collect();
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        Err(LayoutError::NotFinite {
            name: name.to_owned(),
        })
    }

    /// One past its last element, if that is a number at all.
    fn end(&self) -> Option<usize> {
        if self.shape.len() != self.strides.len() {
            return None;
        }
        let mut last = self.offset;
        for (size, stride) in self.shape.iter().zip(&self.strides) {
            last = last.checked_add(size.checked_sub(1)?.checked_mul(*stride)?)?;
        }
        last.checked_add(1)
    }

    /// Where the element lies that comes at `index` in order.
    fn position(&self, mut index: usize) -> usize {
        let mut at = self.offset;
        for (size, stride) in self.shape.iter().zip(&self.strides).rev() {
            at += index % size * stride;
            index /= size;
        }
        at
    }
}

/// Bytes of a float; `None` for other types.
fn float_width(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F16 | Dtype::BF16 => Some(2),
        Dtype::F32 => Some(4),
        Dtype::F64 => Some(8),
        _ => None,
    }
}

/// A float of [`float_width`] bytes; values beyond f32 become infinite.
fn float(dtype: Dtype, bytes: &[u8]) -> f32 {
    fn array<const LEN: usize>(bytes: &[u8]) -> [u8; LEN] {
        bytes.try_into().expect("as many bytes as the type has")
    }
    match dtype {
        Dtype::F16 => f16::from_le_bytes(array(bytes)).to_f32(),
        Dtype::BF16 => bf16::from_le_bytes(array(bytes)).to_f32(),
        Dtype::F32 => f32::from_le_bytes(array(bytes)),
        _ => f64::from_le_bytes(array(bytes)) as f32,
    }
}

/// Strides of a tensor whose elements lie in order.
pub(crate) fn contiguous(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    for at in (1..shape.len()).rev() {
        // Sizes that overflow are refused with the shape.
        strides[at - 1] = strides[at].saturating_mul(shape[at]);
    }
    strides
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn raw<'a>(storage: &'a [u8], shape: &[usize], strides: &[usize]) -> RawTensor<'a> {
        RawTensor {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            offset: 1,
            storage,
        }
    }

    /// The numbers 0, 1, 2, ….
    fn bytes(count: u8) -> Vec<u8> {
        (0..count)
            .flat_map(|value| f32::from(value).to_le_bytes())
            .collect()
    }

    /// A small network, each tensor in a storage of zeros.
    pub(crate) fn zeros(storage: &[u8]) -> BTreeMap<String, RawTensor<'_>> {
        let config = ResNetConfig::resnet18(1, 2);
        let raw = |(name, shape): (String, Vec<usize>)| {
            let strides = contiguous(&shape);
            (name, raw(storage, &shape, &strides))
        };
        config.layout().into_iter().map(raw).collect()
    }

    pub(crate) const ENOUGH: usize = 8 * 8 * 9 * 4 + 4;

    #[test]
    fn walks_strides_within_the_storage_only() {
        let storage = bytes(7);
        let transposed = raw(&storage, &[2, 3], &[1, 2]);
        assert_eq!(
            transposed.values("a").unwrap(),
            [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]
        );
        assert_eq!(
            raw(&storage, &[3], &[0]).values("a").unwrap(),
            [1.0, 1.0, 1.0]
        );
        for (shape, strides) in [
            (&[2, 3][..], &[1, 3][..]),
            (&[7], &[1]),
            (&[2], &[usize::MAX]),
            (&[usize::MAX, 2], &[usize::MAX, 1]),
            (&[2], &[]),
        ] {
            let refused = raw(&storage, shape, strides).values("a");
            assert!(matches!(refused, Err(LayoutError::Storage { .. })));
        }
    }

    #[test]
    fn every_float_type_is_read() {
        let of = |dtype, storage: &[u8]| {
            let tensor = RawTensor {
                dtype,
                shape: vec![1],
                strides: vec![1],
                offset: 0,
                storage,
            };
            tensor.values("a")
        };
        assert_eq!(of(Dtype::F64, &1.5_f64.to_le_bytes()).unwrap(), [1.5]);
        let half = f16::from_f32(1.5).to_le_bytes();
        assert_eq!(of(Dtype::F16, &half).unwrap(), [1.5]);
        let brain = bf16::from_f32(1.5).to_le_bytes();
        assert_eq!(of(Dtype::BF16, &brain).unwrap(), [1.5]);
        let integer = of(Dtype::I64, &[0; 8]);
        assert!(matches!(integer, Err(LayoutError::Type { .. })));
        let too_large = of(Dtype::F64, &1e300_f64.to_le_bytes());
        assert!(matches!(too_large, Err(LayoutError::NotFinite { .. })));
    }

    /// As `TrojanZoo` names them, or a head of dropout and a layer, a part of a larger program, a profiler's counts.
    #[test]
    fn one_prefix_of_all_layers_and_another_name_of_the_last_are_known() {
        let storage = vec![0; ENOUGH];
        let named = |body: &str, head: &str| -> BTreeMap<String, RawTensor<'_>> {
            let renamed = |(name, tensor): (String, _)| {
                let name = match name.strip_prefix("linear") {
                    Some(rest) => format!("{head}{rest}"),
                    None => format!("{body}{name}"),
                };
                (name, tensor)
            };
            zeros(&storage).into_iter().map(renamed).collect()
        };
        for (body, head) in [
            ("features.", "classifier.fc"),
            ("", "linear.1"),
            ("", "head"),
            ("encoder.", "encoder.classifier"),
            ("student.", "student.linear"),
        ] {
            let mut tensors = named(body, head);
            let counted = format!("{body}layer1.0.conv1.total_ops");
            tensors.insert(counted, raw(&storage, &[], &[]));
            let found = network_state(tensors, 1 << 20);
            let (config, state, _) =
                found.unwrap_or_else(|error| panic!("{body}, {head}: {error}"));
            assert_eq!(config.architecture.layers(), 18);
            assert!(state.contains_key("linear.bias") && state.contains_key("conv1.weight"));
        }
        // Two networks in one are not one, nor are a head of two layers and halves of two heads.
        let mut two = named("student.", "student.linear");
        two.extend(named("teacher.", "teacher.linear"));
        let mut deep = named("", "head.0");
        deep.insert("head.2.weight".to_owned(), raw(&storage, &[2, 2], &[2, 1]));
        let mut odd = named("", "head");
        let bias = odd.remove("head.bias").unwrap();
        odd.insert("other.bias".to_owned(), bias);
        for tensors in [two, deep, odd] {
            let refused = network_state(tensors, 1 << 20);
            assert!(
                matches!(refused, Err(LayoutError::Names { .. })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn names_go_out_as_they_come_in() {
        let kind: Architecture = "resnet20".parse().unwrap();
        let tensor = |name: String| (name, Tensor::new(&[1.0_f32], &Device::Cpu).unwrap());
        let state: NamedTensors = ResNetConfig::new(kind, 2, 2)
            .layout()
            .into_keys()
            .map(tensor)
            .collect();
        assert_eq!(LayerNames::Common.of(state.clone()).len(), state.len());
        let theirs = LayerNames::Torchvision.of(state.clone());
        assert!(
            theirs.contains_key("layer2.0.downsample.0.weight") && theirs.contains_key("fc.bias")
        );
        let back: BTreeSet<String> = theirs.keys().map(|name| our_name(name)).collect();
        assert!(back.into_iter().eq(state.into_keys()));
    }

    #[test]
    fn names_of_wrappers_and_of_torchvision_are_known() {
        let storage = vec![0; ENOUGH];
        let theirs: BTreeMap<_, _> = zeros(&storage)
            .into_iter()
            .map(|(name, tensor)| {
                let name = name
                    .replace("linear", "fc")
                    .replace("shortcut", "downsample");
                (format!("_orig_mod.{name}"), tensor)
            })
            .map(|(name, tensor)| (format!("module.net.{name}"), tensor))
            .collect();
        let (config, state, _) = network_state(theirs, 1 << 20).unwrap();
        assert_eq!((config.width, config.num_classes), (1, 2));
        assert!(state.contains_key("layer2.0.shortcut.1.running_var"));
    }

    /// One by one, names of megabytes would be copied millions of times.
    #[test]
    fn wrappers_upon_wrappers_are_taken_off_at_once() {
        let storage = vec![0; ENOUGH];
        let long = "module.".repeat(1 << 14);
        let wrapped = |(name, tensor)| (format!("{long}{name}"), tensor);
        let tensors: BTreeMap<_, _> = zeros(&storage).into_iter().map(wrapped).collect();
        assert!(network_state(tensors, 1 << 20).is_ok());
    }

    #[test]
    fn a_name_beside_its_synonym_is_unexpected() {
        let storage = vec![0; ENOUGH];
        let mut tensors = zeros(&storage);
        let twice = tensors["linear.bias"].clone();
        tensors.insert("fc.bias".to_owned(), twice);
        let refused = network_state(tensors, 1 << 20).unwrap_err().to_string();
        assert!(
            refused.contains("missing: none; unexpected: fc.bias"),
            "{refused}"
        );
    }

    #[test]
    fn what_has_no_projections_has_padded_shortcuts() {
        let storage = vec![0; ENOUGH];
        let kind: Architecture = "resnet20".parse().unwrap();
        let layout = ResNetConfig::new(kind, 1, 2).layout().into_iter();
        let tensors = layout.map(|(name, shape)| {
            let strides = contiguous(&shape);
            (name, raw(&storage, &shape, &strides))
        });
        let mut tensors: BTreeMap<_, _> = tensors.collect();
        let (config, ..) = network_state(tensors.clone(), 1 << 20).unwrap();
        assert_eq!((config.architecture, config.width), (kind, 1));
        tensors.retain(|name, _| !name.contains("shortcut"));
        let (config, ..) = network_state(tensors, 1 << 20).unwrap();
        assert_eq!(config.architecture.name(), "paddedresnet20");
    }

    #[test]
    fn networks_for_large_images_are_called_so() {
        let storage = vec![0; ENOUGH];
        let mut tensors = zeros(&storage);
        tensors.insert(
            STEM.to_owned(),
            raw(&storage, &[1, 3, 7, 7], &[147, 49, 7, 1]),
        );
        let refused = network_state(tensors, 1 << 20).unwrap_err().to_string();
        let words = "it is a ResNet-18 for large images";
        assert!(
            refused.starts_with(words) && refused.contains("7x7 taps"),
            "{refused}"
        );
    }

    #[test]
    fn lists_missing_and_unexpected_names() {
        let storage = vec![0; ENOUGH];
        let mut tensors = zeros(&storage);
        let moved = tensors.remove("bn1.bias").unwrap();
        tensors.insert("\x1bnorm.bias".to_owned(), moved);
        let refused = network_state(tensors, 1 << 20).unwrap_err().to_string();
        assert!(refused.contains("missing: bn1.bias; "), "{refused}");
        assert!(
            refused.contains(r"unexpected: \u{1b}norm.bias"),
            "{refused}"
        );
        let refused = network_state(BTreeMap::new(), 0).unwrap_err().to_string();
        assert!(refused.contains("and 94 more"), "{refused}");
    }

    #[test]
    fn names_the_variance_that_is_negative() {
        let storage = vec![0; ENOUGH];
        // What comes second in each storage that is read from its second element on.
        let mut negative = storage.clone();
        negative[8..12].copy_from_slice(&(-0.5_f32).to_le_bytes());
        let state = |name: &str| {
            let mut tensors = zeros(&storage);
            tensors.get_mut(name).unwrap().storage = &negative;
            network_state(tensors, 1 << 20)
        };
        let refused = state("layer2.0.bn1.running_var").unwrap_err();
        let words = "layer2.0.bn1.running_var holds the variance -0.5 at element 1";
        assert!(refused.to_string().starts_with(words), "{refused}");
        assert!(
            state("layer2.0.bn1.running_mean").is_ok(),
            "a mean may be negative"
        );
    }

    #[test]
    fn refuses_more_elements_than_the_file_has_bytes() {
        let storage = vec![0; ENOUGH];
        let refused = network_state(zeros(&storage), 1000);
        assert!(matches!(refused, Err(LayoutError::TooLarge { .. })));
        let mut huge = zeros(&storage);
        huge.insert("conv1.weight".into(), raw(&storage, &[1 << 40, 0], &[0, 0]));
        let refused = network_state(huge, 1 << 20);
        assert!(matches!(refused, Err(LayoutError::Size { .. })));
    }
}

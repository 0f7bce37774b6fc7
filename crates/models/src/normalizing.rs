//! Layers that normalize images, in state dicts of other programs.

use std::collections::BTreeMap;

use mesa_pickle::shown;

use crate::graph::COLORS;
use crate::state_dict::RawTensor;
use crate::{LayoutError, Normalization};

/// What a layer that normalizes images calls its tensors, of three elements each.
pub(crate) const NORMALIZATION: [&str; 2] = ["mean", "std"];

/// A layer that normalizes images, by the prefix of its names.
pub(crate) struct Normalizing {
    prefix: String,
    normalization: Option<Normalization>,
}

impl Normalizing {
    /// Takes out the tensors of such a layer, if there is one.
    pub(crate) fn take(
        tensors: &mut BTreeMap<String, RawTensor<'_>>,
    ) -> Result<Option<Self>, LayoutError> {
        let is_of_colors = |name: &str| {
            let tensor = tensors.get(name);
            tensor.is_some_and(|tensor| {
                let sizes = tensor.shape.iter().filter(|size| **size != 1);
                sizes.eq([&COLORS])
            })
        };
        let prefix_of = |name: &String| {
            let prefix = name.strip_suffix(NORMALIZATION[1])?;
            let is_layer = prefix.is_empty() || prefix.ends_with('.');
            let mut names = NORMALIZATION.iter();
            let is_whole = is_layer && names.all(|name| is_of_colors(&format!("{prefix}{name}")));
            is_whole.then(|| prefix.to_owned())
        };
        let prefixes: Vec<String> = tensors.keys().filter_map(prefix_of).collect();
        // Several are unexpected, like any other name.
        let [prefix] = prefixes.as_slice() else {
            return Ok(None);
        };
        let mut three = |name: &str| {
            let name = format!("{prefix}{name}");
            let values = tensors[&name].values(&name)?;
            tensors.remove(&name);
            let values: [f32; COLORS] = values.try_into().expect("three elements");
            Ok::<_, LayoutError>(values)
        };
        let normalization = Normalization {
            mean: three(NORMALIZATION[0])?,
            std: three(NORMALIZATION[1])?,
        };
        // Of pixels from 0 to 255, or of something else altogether, it says nothing here.
        let is_of_pixels = normalization
            .mean
            .iter()
            .all(|mean| (0.0..=1.0).contains(mean))
            && normalization
                .std
                .iter()
                .all(|std| *std > 0.0 && *std <= 1.0);
        Ok(Some(Self {
            prefix: prefix.clone(),
            normalization: is_of_pixels.then_some(normalization),
        }))
    }

    /// What it normalizes by, if that is pixels, in front of the network whose names begin with `wrapper`.
    pub(crate) fn in_front_of(self, wrapper: &str) -> Result<Option<Normalization>, LayoutError> {
        if is_in_front(&self.prefix, wrapper) {
            return Ok(self.normalization);
        }
        Err(LayoutError::Normalizing {
            name: shown(&format!("{}{}", self.prefix, NORMALIZATION[0])),
        })
    }
}

/// Whether a layer is a part of the network itself or of one of its wrappers, in front of it: by the
/// prefixes of both.
fn is_in_front(layer: &str, wrapper: &str) -> bool {
    let path = layer.trim_end_matches('.');
    let (parent, name) = path.split_at(path.rfind('.').map_or(0, |dot| dot + 1));
    let Some(network) = wrapper.strip_prefix(parent) else {
        return false;
    };
    let network = network.split('.').next().unwrap_or_default();
    // Those of a sequence are numbered.
    match (name.parse::<usize>(), network.parse::<usize>()) {
        (Ok(layer), Ok(network)) => layer < network,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_dict::tests::{ENOUGH, raw, zeros};
    use crate::state_dict::{contiguous, network_state};

    /// A network of zeros under a prefix, with a layer of `mean` and `std` under another.
    fn normalized(
        [layer, wrapper]: [&str; 2],
        [mean, std]: [f32; 2],
        shape: &[usize],
    ) -> Result<Option<Normalization>, LayoutError> {
        let storage = vec![0; ENOUGH];
        let three = |value: f32| [0.0, value, value, value].map(f32::to_le_bytes).concat();
        let (mean, std) = (three(mean), three(std));
        let wrapped = |(name, tensor)| (format!("{wrapper}{name}"), tensor);
        let mut tensors: BTreeMap<_, _> = zeros(&storage).into_iter().map(wrapped).collect();
        let strides = contiguous(shape);
        for (name, values) in NORMALIZATION.iter().zip([&mean, &std]) {
            tensors.insert(format!("{layer}{name}"), raw(values, shape, &strides));
        }
        tensors.insert("n_averaged".to_owned(), raw(&storage, &[], &[]));
        network_state(tensors, 1 << 20).map(|(.., normalization)| normalization)
    }

    #[test]
    fn a_layer_before_the_network_says_how_images_are_normalized() {
        let expected = "0.25,0.25,0.25/0.5,0.5,0.5".parse().ok();
        for (prefixes, shape) in [
            (["0.", "1."], &[3][..]),
            (["module.0.", "module.1."], &[1, 3, 1, 1]),
            (["normalize.", "model."], &[3, 1, 1]),
            (["", "net."], &[3]),
            (["", ""], &[3]),
            (["model.", "model."], &[3]),
            (["module.norm.", "module."], &[3]),
        ] {
            let found = normalized(prefixes, [0.25, 0.5], shape).unwrap();
            assert_eq!(found, expected, "{prefixes:?}");
        }
        // Of pixels from 0 to 255; of nothing that divides.
        for values in [[125.3, 63.0], [0.25, 0.0], [0.25, -0.5], [-0.5, 0.5]] {
            assert_eq!(normalized(["0.", "1."], values, &[3]).unwrap(), None);
        }
    }

    #[test]
    fn what_stands_within_the_network_or_behind_it_normalizes_no_images() {
        for prefixes in [
            ["layer1.0.", ""],
            ["module.layer1.0.", "module."],
            ["other.0.", "module.1."],
            ["2.", "1."],
            ["1.", "0."],
        ] {
            let refused = normalized(prefixes, [0.25, 0.5], &[3]).unwrap_err();
            let is_it = matches!(refused, LayoutError::Normalizing { .. });
            assert!(is_it, "{prefixes:?}: {refused}");
        }
        // Two elements, and names that only end so, are names like any other.
        for (layer, shape) in [("0.", 2), ("0.x", 3)] {
            let refused = normalized([layer, "1."], [0.25, 0.5], &[shape]).unwrap_err();
            assert!(matches!(refused, LayoutError::Names { .. }), "{refused}");
        }
    }
}

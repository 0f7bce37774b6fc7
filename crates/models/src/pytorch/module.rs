//! Whole modules, as `torch.save(model)` and `torch.jit.save` write them: objects of classes that need
//! not be known here, since the state dict that PyTorch would make of a module lies in its attributes.

use std::collections::BTreeSet;

use mesa_pickle::{Id, Pickle, Value, shown};

use super::{entries, is_tensor};
use crate::PytorchError;
use crate::state_dict::NORMALIZATION;

/// Most attributes that are looked at, shared modules each time: a ResNet-152 has some 12,000.
const MOST_ATTRIBUTES: usize = 1 << 20;

/// Most tensors and modules, each of which is given a name, in how many parts of how many bytes.
const MOST_NAMES: usize = 1 << 14;
const MOST_PARTS: usize = 32;
const LONGEST_PART: usize = 255;

/// What `set([…])` is called in a pickle, by either version of Python.
const SETS: [&str; 2] = ["__builtin__.set", "builtins.set"];

/// Packages whose classes stand in files that PyTorch writes by itself.
const KNOWN: [&str; 6] = [
    "__builtin__",
    "__torch__",
    "argparse",
    "builtins",
    "collections",
    "torch",
];

/// The tensors of a module and of all in it, named as in its state dict.
pub(super) fn state_dict(
    pickle: &Pickle<'_>,
    state: Id,
) -> Result<Vec<(String, Id)>, PytorchError> {
    let mut found = Vec::new();
    let mut open = vec![(Name::default(), state)];
    let (mut attributes, mut modules) = (0, 0);
    while let Some((prefix, state)) = open.pop() {
        let members = Members::of(pickle, state);
        attributes += members.attributes;
        modules += 1;
        if attributes > MOST_ATTRIBUTES || modules + open.len() + found.len() > MOST_NAMES {
            return Err(PytorchError::Nested);
        }
        for (name, value) in members.tensors {
            found.push((prefix.with(name)?.text, value));
        }
        for (name, state) in members.modules {
            open.push((prefix.with(name)?, state));
        }
    }
    Ok(found)
}

/// The classes and functions of other programs that a pickle names.
pub(super) fn foreign_classes(pickle: &Pickle<'_>) -> BTreeSet<String> {
    let class = |value: &Value<'_>| match *value {
        Value::Class(module, name) => {
            let package = module.split('.').next().unwrap_or_default();
            (!KNOWN.contains(&package)).then(|| shown(&format!("{module}.{name}")))
        }
        _ => None,
    };
    pickle.values().iter().filter_map(class).collect()
}

/// `layer1.0.conv1`, and how many parts it has.
#[derive(Default)]
struct Name {
    text: String,
    parts: usize,
}

impl Name {
    fn with(&self, part: &str) -> Result<Self, PytorchError> {
        if self.parts == MOST_PARTS || part.len() > LONGEST_PART {
            return Err(PytorchError::Nested);
        }
        let text = match self.parts {
            0 => part.to_owned(),
            _ => format!("{}.{part}", self.text),
        };
        let parts = self.parts + 1;
        Ok(Self { text, parts })
    }
}

/// What a module holds itself, by name.
struct Members<'p> {
    tensors: Vec<(&'p str, Id)>,
    /// With the states of these.
    modules: Vec<(&'p str, Id)>,
    attributes: usize,
}

impl<'p> Members<'p> {
    /// A module of Python has tables of what belongs to it; one of `TorchScript` has attributes alone.
    fn of(pickle: &'p Pickle<'_>, state: Id) -> Self {
        let attributes = entries(pickle, pickle.get(state));
        // The last of equal keys, as Python has it.
        let named = |name: &str| attributes.iter().rfind(|(key, _)| *key == name);
        let table = |name: &str| {
            named(name).map_or_else(Vec::new, |(_, table)| entries(pickle, pickle.get(*table)))
        };
        let mut members = if named("_modules").is_none() {
            attributes.clone()
        } else {
            let passing = named("_non_persistent_buffers_set");
            let passing = passing.map_or_else(BTreeSet::new, |(_, set)| texts(pickle, *set));
            let mut buffers = table("_buffers");
            buffers.retain(|(name, _)| !passing.contains(name));
            // Of the attributes only what tells how images are normalized.
            let mut beside = attributes.clone();
            beside.retain(|(name, _)| NORMALIZATION.contains(name));
            let tables = [table("_parameters"), buffers, table("_modules")];
            [beside, tables.concat()].concat()
        };
        let count = attributes.len() + members.len();
        let module = |(name, value): &(&'p str, Id)| match pickle.get(*value) {
            Value::Object(_, Some(state)) => Some((*name, *state)),
            _ => None,
        };
        let modules = members.iter().filter_map(module).collect();
        members.retain(|(_, value)| is_tensor(pickle, *value));
        Self {
            tensors: members,
            modules,
            attributes: count,
        }
    }
}

/// The texts of a set.
fn texts<'p>(pickle: &'p Pickle<'_>, set: Id) -> BTreeSet<&'p str> {
    let elements = match pickle.get(set) {
        Value::Called(name, arguments) if SETS.contains(name) => match pickle.get(*arguments) {
            Value::Tuple(parts) => parts.first().map(|list| pickle.get(*list)),
            _ => None,
        },
        // Of a later protocol.
        set => Some(set),
    };
    let Some(Value::List(elements)) = elements else {
        return BTreeSet::new();
    };
    let text = |element: &Id| match pickle.get(*element) {
        Value::Text(text) => Some(*text),
        _ => None,
    };
    elements.iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use mesa_pickle::Allowed;

    use super::*;

    /// The names that the module has which a pickle's bytes, of protocol 2, are.
    fn names(bytes: &[u8]) -> Result<Vec<String>, PytorchError> {
        let allowed = Allowed {
            globals: &["torch._utils._rebuild_tensor_v2", "builtins.set"],
            objects: Some(|_| true),
            advice: "",
            most_opcodes: 1 << 21,
        };
        let pickle = Pickle::read(bytes, allowed).unwrap();
        let &Value::Object(_, Some(state)) = pickle.root() else {
            panic!("{pickle:?}")
        };
        let mut names: Vec<_> = state_dict(&pickle, state)?
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn text(text: &str) -> Vec<u8> {
        [
            b"X",
            &(text.len() as u32).to_le_bytes()[..],
            text.as_bytes(),
        ]
        .concat()
    }

    fn dictionary(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let item = |(name, value): &(&str, Vec<u8>)| [text(name), value.clone()].concat();
        let items: Vec<u8> = items.iter().flat_map(item).collect();
        [&b"}("[..], &items, b"u"].concat()
    }

    fn object(state: &[(&str, Vec<u8>)]) -> Vec<u8> {
        [&b"cown\nNet\n)\x81"[..], &dictionary(state), b"b"].concat()
    }

    fn tensor() -> Vec<u8> {
        b"ctorch._utils\n_rebuild_tensor_v2\n)R".to_vec()
    }

    fn pickle(value: &[u8]) -> Vec<u8> {
        [b"\x80\x02", value, b"."].concat()
    }

    #[test]
    fn a_module_has_the_names_of_its_state_dict() {
        let norm = object(&[
            (
                "_parameters",
                dictionary(&[("weight", tensor()), ("bias", b"N".to_vec())]),
            ),
            (
                "_buffers",
                dictionary(&[("mean", tensor()), ("passing", tensor())]),
            ),
            (
                "_non_persistent_buffers_set",
                [&b"cbuiltins\nset\n]"[..], &text("passing"), b"a\x85R"].concat(),
            ),
            ("_modules", dictionary(&[])),
            // No part of the state dict, but a normalization's.
            ("seen", tensor()),
            ("std", tensor()),
        ]);
        let stage = object(&[("_modules", dictionary(&[("0", norm)]))]);
        let whole = object(&[
            ("_parameters", dictionary(&[("scale", tensor())])),
            (
                "_modules",
                dictionary(&[("layer1", stage), ("dropped", b"N".to_vec())]),
            ),
        ]);
        assert_eq!(
            names(&pickle(&whole)).unwrap(),
            ["layer1.0.mean", "layer1.0.std", "layer1.0.weight", "scale"]
        );
    }

    #[test]
    fn attributes_are_the_members_of_torchscripts() {
        let norm = object(&[("training", b"\x89".to_vec()), ("weight", tensor())]);
        let whole = object(&[("bn1", norm), ("scale", tensor())]);
        assert_eq!(names(&pickle(&whole)).unwrap(), ["bn1.weight", "scale"]);
    }

    #[test]
    fn modules_that_hold_themselves_or_too_much_are_refused() {
        // {"self": itself}, in an attribute of TorchScript.
        let own = pickle(b"cown\nNet\n)\x81q\x01}X\x04\0\0\0selfh\x01sb");
        // Each holds the next twice: 2^30 names.
        let mut twice = object(&[("weight", tensor())]);
        for kept in 1..=30 {
            let next = [&twice[..], &[b'q', kept]].concat();
            twice = object(&[("a", next), ("b", vec![b'h', kept])]);
        }
        // Four times a module of as many attributes as a quarter of those looked at.
        let items: Vec<u8> = (0..300_000)
            .flat_map(|_| b"X\x01\0\0\0aN".to_vec())
            .collect();
        let wide = [&b"cown\nNet\n)\x81}("[..], &items, b"ubq\x01"].concat();
        let reused = || b"h\x01".to_vec();
        let wide = object(&[
            ("a", wide),
            ("b", reused()),
            ("c", reused()),
            ("d", reused()),
        ]);
        let long = object(&[(&"a".repeat(256), tensor())]);
        for bytes in [own, pickle(&twice), pickle(&wide), pickle(&long)] {
            let refused = names(&bytes).unwrap_err();
            assert!(matches!(refused, PytorchError::Nested), "{refused}");
        }
    }
}

//! Whole modules, as `torch.save(model)` and `torch.jit.save` write them: objects of classes that need
//! not be known here, since the state dict that PyTorch would make of a module lies in its attributes.

use std::collections::{BTreeMap, BTreeSet};

use mesa_pickle::{Id, Pickle, Value, shown};

use super::{LONGEST_NAME, entries, is_tensor};
use crate::PytorchError;
use crate::normalizing::NORMALIZATION;

/// Most attributes that are looked at, those of a shared module each time: a ResNet-152 has some 12,000.
const MOST_ATTRIBUTES: usize = 1 << 20;

/// Most bytes of all names, of modules and of tensors: a ResNet-152 has some 36,000.
const MOST_NAMES: usize = 1 << 20;

/// What `set([…])` is called in a pickle, by either version of Python.
const SETS: [&str; 2] = ["__builtin__.set", "builtins.set"];

/// How the names of classes begin that stand in files of modules and training states by themselves.
const KNOWN: [&str; 9] = [
    "__builtin__.dict",
    "__builtin__.list",
    "__torch__.",
    "argparse.Namespace",
    "builtins.dict",
    "builtins.list",
    "collections.",
    "numpy.",
    "torch.",
];

/// The tensors of a module and of all in it, named as in its state dict.
pub(super) fn state_dict(
    pickle: &Pickle<'_>,
    module: &Value<'_>,
) -> Result<Vec<(String, Id)>, PytorchError> {
    let mut walk = Walk {
        pickle,
        looked_at: 0,
        named: 0,
    };
    let mut found = Vec::new();
    let mut open = vec![(String::new(), module)];
    while let Some((prefix, module)) = open.pop() {
        if walk.pools(module) {
            return Err(PytorchError::Pooling {
                name: shown(prefix.trim_end_matches('.')),
            });
        }
        for (name, value) in walk.members(module)? {
            let value_of = pickle.get(value);
            let is_module = matches!(value_of, Value::Object(..));
            if !is_module && !is_tensor(pickle, value) {
                continue;
            }
            let name = walk.named(&prefix, name)?;
            if is_module {
                open.push((name, value_of));
            } else {
                found.push((name, value));
            }
        }
    }
    Ok(found)
}

/// The classes and functions of other programs that a pickle names.
pub(super) fn foreign_classes(pickle: &Pickle<'_>) -> BTreeSet<String> {
    let class = |value: &Value<'_>| match *value {
        Value::Class(module, name) => {
            let full = format!("{module}.{name}");
            let is_known = KNOWN.iter().any(|known| full.starts_with(known));
            (!is_known).then(|| shown(&full))
        }
        _ => None,
    };
    pickle.values().iter().filter_map(class).collect()
}

fn wrong(what: &'static str) -> PytorchError {
    PytorchError::Module { what }
}

/// A way through a module, and how much was looked at on it: modules may share others, or hold
/// themselves.
struct Walk<'p, 'a> {
    pickle: &'p Pickle<'a>,
    looked_at: usize,
    named: usize,
}

impl<'p> Walk<'p, '_> {
    /// Whether a module is a max-pooling layer of PyTorch, of Python or of `TorchScript`.
    fn pools(&self, module: &Value<'_>) -> bool {
        let &Value::Object(class, _) = module else {
            return false;
        };
        let Value::Class(module, name) = *self.pickle.get(class) else {
            return false;
        };
        // TorchScript puts a number between where a class comes more than once.
        let path = module.trim_start_matches("__torch__.").split('.');
        let path: Vec<&str> = path
            .filter(|part| !part.starts_with("___torch_mangle_"))
            .collect();
        path == ["torch", "nn", "modules", "pooling"] && name.contains("MaxPool")
    }

    /// What belongs to a module, by name. One of Python has tables of it, one of `TorchScript`
    /// attributes alone.
    fn members(&mut self, module: &Value<'_>) -> Result<Vec<(&'p str, Id)>, PytorchError> {
        let &Value::Object(class, Some(state)) = module else {
            return Ok(Vec::new());
        };
        let attributes = self.entries(state)?;
        if let Value::Class(module, _) = self.pickle.get(class)
            && module.starts_with("__torch__")
        {
            return Ok(attributes);
        }
        let attributes: BTreeMap<&str, Id> = attributes.into_iter().collect();
        let passing = match attributes.get("_non_persistent_buffers_set") {
            Some(set) => self.texts(*set)?,
            None => BTreeSet::new(),
        };
        let mut members = Vec::new();
        let mut names = BTreeSet::new();
        for table in ["_parameters", "_buffers", "_modules"] {
            let Some(table_of) = attributes.get(table) else {
                continue;
            };
            for (name, value) in self.entries(*table_of)? {
                // Python would take the attribute.
                if attributes.contains_key(name) || !names.insert(name) {
                    return Err(wrong("has two parts of one name"));
                }
                let is_passing = table == "_buffers" && passing.contains(name);
                if !is_passing || NORMALIZATION.contains(&name) {
                    members.push((name, value));
                }
            }
        }
        // Of the attributes only what tells how images are normalized.
        let beside = NORMALIZATION.map(|name| attributes.get_key_value(name));
        members.extend(beside.into_iter().flatten().map(|(name, id)| (*name, *id)));
        Ok(members)
    }

    fn entries(&mut self, table: Id) -> Result<Vec<(&'p str, Id)>, PytorchError> {
        let table = self.pickle.get(table);
        if let Value::Dict(items) = table {
            self.look_at(items.len())?;
        }
        entries(self.pickle, table)
    }

    /// The texts of a set.
    fn texts(&mut self, set: Id) -> Result<BTreeSet<&'p str>, PytorchError> {
        let pickle = self.pickle;
        let elements = match pickle.get(set) {
            Value::Called(name, arguments) if SETS.contains(name) => match pickle.get(*arguments) {
                Value::Tuple(parts) => parts.first().map(|list| pickle.get(*list)),
                _ => None,
            },
            // Of a later protocol.
            set => Some(set),
        };
        let Some(Value::List(elements)) = elements else {
            return Ok(BTreeSet::new());
        };
        self.look_at(elements.len())?;
        let text = |element: &Id| match pickle.get(*element) {
            Value::Text(text) if text.len() <= LONGEST_NAME => Some(*text),
            _ => None,
        };
        Ok(elements.iter().filter_map(text).collect())
    }

    fn look_at(&mut self, count: usize) -> Result<(), PytorchError> {
        self.looked_at += 1 + count;
        if self.looked_at > MOST_ATTRIBUTES {
            return Err(wrong(MORE));
        }
        Ok(())
    }

    /// The name of a module's part: `layer1.0.conv1`.
    fn named(&mut self, prefix: &str, part: &str) -> Result<String, PytorchError> {
        if part.contains('.') {
            return Err(wrong("has a part with a dot in its name"));
        }
        self.named += prefix.len() + 1 + part.len();
        if self.named > MOST_NAMES {
            return Err(wrong(MORE));
        }
        Ok(match prefix {
            "" => part.to_owned(),
            _ => format!("{prefix}.{part}"),
        })
    }
}

const MORE: &str = "holds itself, or more than any network has";

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
        let mut names: Vec<_> = state_dict(&pickle, pickle.root())?
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

    fn script(state: &[(&str, Vec<u8>)]) -> Vec<u8> {
        [&b"c__torch__.own\nNet\n)\x81"[..], &dictionary(state), b"b"].concat()
    }

    fn tensor() -> Vec<u8> {
        b"ctorch._utils\n_rebuild_tensor_v2\n)R".to_vec()
    }

    fn pickle(value: &[u8]) -> Vec<u8> {
        [b"\x80\x02", value, b"."].concat()
    }

    /// A set of one text, as protocol 2 and protocol 4 write it.
    fn sets(element: &str) -> [Vec<u8>; 2] {
        [
            [&b"cbuiltins\nset\n]"[..], &text(element), b"a\x85R"].concat(),
            [&b"\x8f("[..], &text(element), b"\x90"].concat(),
        ]
    }

    #[test]
    fn a_module_has_the_names_of_its_state_dict() {
        for set in sets("passing") {
            let norm = object(&[
                (
                    "_parameters",
                    dictionary(&[("weight", tensor()), ("bias", b"N".to_vec())]),
                ),
                (
                    "_buffers",
                    dictionary(&[("count", tensor()), ("passing", tensor())]),
                ),
                ("_non_persistent_buffers_set", set),
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
                ["layer1.0.count", "layer1.0.std", "layer1.0.weight", "scale"]
            );
        }
        for set in sets("mean") {
            let passing = object(&[
                ("_buffers", dictionary(&[("mean", tensor())])),
                ("_non_persistent_buffers_set", set),
            ]);
            assert_eq!(names(&pickle(&passing)).unwrap(), ["mean"]);
        }
    }

    #[test]
    fn attributes_are_the_members_of_torchscripts() {
        let norm = script(&[("training", b"\x89".to_vec()), ("weight", tensor())]);
        let whole = script(&[("bn1", norm), ("scale", tensor())]);
        assert_eq!(names(&pickle(&whole)).unwrap(), ["bn1.weight", "scale"]);
        // An object of another class without a module's tables has none.
        let other = object(&[("scale", tensor())]);
        assert!(names(&pickle(&other)).unwrap().is_empty());
    }

    fn refused(bytes: &[u8], what: &str) {
        let refused = names(bytes).unwrap_err();
        let is_it =
            matches!(&refused, PytorchError::Module { what: found } if found.contains(what));
        assert!(is_it, "{refused}, not {what}");
    }

    /// Python would go by its own rules of which comes first.
    #[test]
    fn parts_of_one_name_are_refused() {
        let weight = || dictionary(&[("weight", tensor())]);
        let beside = object(&[("_parameters", weight()), ("weight", tensor())]);
        let twice = object(&[("_parameters", weight()), ("_buffers", weight())]);
        for bytes in [beside, twice] {
            refused(&pickle(&bytes), "two parts of one name");
        }
        let inner = object(&[("_parameters", weight())]);
        let dotted = object(&[("_modules", dictionary(&[("a.b", inner.clone())]))]);
        refused(&pickle(&dotted), "dot in its name");
        let modules = dictionary(&[("a", inner.clone()), ("a", inner)]);
        let again = names(&pickle(&object(&[("_modules", modules)]))).unwrap_err();
        assert!(matches!(&again, PytorchError::Repeated { name } if name == "a"));
    }

    #[test]
    fn modules_that_hold_themselves_or_too_much_are_refused() {
        // {"self": itself}.
        let own = pickle(b"c__torch__\nNet\n)\x81q\x01}X\x04\0\0\0selfh\x01sb");
        // Each holds the next twice: 2^30 names.
        let mut twice = script(&[("weight", tensor())]);
        for kept in 1..=30 {
            let next = [&twice[..], &[b'q', kept]].concat();
            twice = script(&[("a", next), ("b", vec![b'h', kept])]);
        }
        // A module, a table and a set of as many elements as a quarter of those looked at, four times.
        let many = |item: &[u8]| item.repeat(300_000);
        let numbers: Vec<u8> = (0..300_000_u32)
            .flat_map(|number| [&text(&format!("{number:06}"))[..], b"N"].concat())
            .collect();
        let four_times = |wide: Vec<u8>| {
            let again = || b"h\x01".to_vec();
            let first = [&wide[..], b"q\x01"].concat();
            let parts = [("a", first), ("b", again()), ("c", again()), ("d", again())];
            object(&[("_modules", dictionary(&parts))])
        };
        let module = [&b"cown\nNet\n)\x81}("[..], &numbers, b"ub"].concat();
        let table = [&b"}("[..], &many(b"K\x01N"), b"u"].concat();
        let set = [&b"\x8f("[..], &many(b"K\x01"), b"\x90"].concat();
        let wide = [
            four_times(module),
            four_times(object(&[("_buffers", table)])),
            four_times(object(&[("_non_persistent_buffers_set", set)])),
        ];
        let wide = wide.map(|wide| pickle(&wide));
        for bytes in [own, pickle(&twice)].iter().chain(&wide) {
            refused(bytes, "holds itself, or more");
        }
    }
}

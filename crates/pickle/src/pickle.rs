//! What a pickle holds, and what it may name.

use crate::machine::Machine;
use crate::{Error, Result};

/// The class whose call makes an empty dictionary.
pub const ORDERED_DICT: &str = "collections.OrderedDict";

/// What a pickle may name, and how long a program it may be.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'b> {
    /// Their full names: `module.name`.
    pub globals: &'b [&'static str],
    /// Which other classes and functions may be named and have objects, as notes of what they would
    /// be set to; none of them may be called.
    pub objects: Option<fn(&str) -> bool>,
    /// What the message says that refuses another: what is read, and what to do.
    pub advice: &'static str,
    /// How many opcodes are read; each takes some two hundred bytes of memory at most.
    pub most_opcodes: usize,
}

/// A value's place in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(pub(crate) usize);

/// What a pickle holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// None or a float: nothing asks which.
    Other,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number in more than 8 bytes: two's complement, the lowest byte first.
    Long(&'a [u8]),
    /// A text of Unicode.
    Text(&'a str),
    /// Bytes of Python 3, or a text of Python 2.
    Bytes(&'a [u8]),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list, or a set.
    List(Vec<Id>),
    /// A dictionary, in the order in which it was filled; a key may come again.
    Dict(Vec<(Id, Id)>),
    /// A class or function of the list, by its full name.
    Global(&'static str),
    /// One that is not on it: its module and its name there.
    Class(&'a str, &'a str),
    /// An object of a class, and what it would be set to.
    Object(Id, Option<Id>),
    /// An object that is filled like a list or a dictionary: nothing asks of what.
    Filled,
    /// What would be called, and the tuple of its arguments.
    Called(&'static str, Id),
    /// What would be called, the tuple of its arguments, and what the result would then be set to.
    Built(&'static str, Id, Id),
    /// Something that lies outside the pickle, by the tuple that names it.
    Persistent(Id),
}

/// The values of a pickle.
#[derive(Debug)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
    len: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle that `bytes` begin with, and that names no globals but those allowed.
    ///
    /// # Errors
    ///
    /// [`Error::Opcode`] and [`Error::Global`] name what is refused; [`Error::TooManyOpcodes`] if it
    /// is longer than allowed; [`Error::CutOff`] and [`Error::Malformed`] if it is damaged.
    pub fn read(bytes: &'a [u8], allowed: Allowed<'_>) -> Result<Self> {
        let mut machine = Machine::new(bytes, allowed);
        for _ in 0..allowed.most_opcodes {
            if let Some(root) = machine.step()? {
                return Ok(Self {
                    values: machine.values,
                    root,
                    len: machine.at,
                });
            }
        }
        Err(Error::TooManyOpcodes {
            most: allowed.most_opcodes,
            advice: allowed.advice,
        })
    }

    /// The value that Python would have returned.
    pub fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    /// How many bytes it takes: another pickle may follow it.
    #[expect(clippy::len_without_is_empty, reason = "no pickle is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// All its values, in the order in which they were made.
    pub fn values(&self) -> &[Value<'a>] {
        &self.values
    }

    /// The value at a place.
    ///
    /// # Panics
    ///
    /// If the place is another pickle's.
    pub fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opcodes as op;

    fn read(bytes: &[u8]) -> Result<Pickle<'_>> {
        let allowed = Allowed {
            globals: &[ORDERED_DICT, "torch.Size"],
            objects: None,
            advice: "only sizes are read",
            most_opcodes: 1 << 18,
        };
        Pickle::read(bytes, allowed)
    }

    #[test]
    fn reads_what_protocols_2_and_4_write() {
        // pickle.dumps({"a": (1, 300, -5, 2**40), "b": [None, True, 1.5]}, protocol) of Python 3.
        let second = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01(K\x01M,\x01J\xfb\xff\xff\xff\
            \x8a\x06\x00\x00\x00\x00\x00\x01tq\x02X\x01\x00\x00\x00bq\x03]q\x04(N\x88G?\xf8\
            \x00\x00\x00\x00\x00\x00eu.";
        let fourth = b"\x80\x04\x951\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94(K\x01M,\x01\
            J\xfb\xff\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01t\x94\x8c\x01b\x94]\x94(N\x88G?\
            \xf8\x00\x00\x00\x00\x00\x00eu.";
        for bytes in [&second[..], fourth] {
            let pickle = read(bytes).unwrap();
            let Value::Dict(items) = pickle.root() else {
                panic!("{pickle:?}")
            };
            assert_eq!(pickle.get(items[0].0), &Value::Text("a"));
            let Value::Tuple(parts) = pickle.get(items[0].1) else {
                panic!("{pickle:?}")
            };
            let numbers: Vec<_> = parts.iter().map(|part| pickle.get(*part)).collect();
            let expected = [1, 300, -5, 1 << 40].map(Value::Int);
            assert_eq!(numbers, expected.iter().collect::<Vec<_>>());
            let Value::List(parts) = pickle.get(items[1].1) else {
                panic!("{pickle:?}")
            };
            let parts: Vec<_> = parts.iter().map(|part| pickle.get(*part)).collect();
            assert_eq!(parts, [&Value::Other, &Value::Bool(true), &Value::Other]);
        }
    }

    #[test]
    fn pickles_follow_each_other_and_long_numbers_stay_bytes() {
        let bytes = b"\x80\x02\x8a\x09abcdefghi.K\x07.";
        let first = read(bytes).unwrap();
        assert_eq!(first.root(), &Value::Long(b"abcdefghi"));
        let second = read(&bytes[first.len()..]).unwrap();
        assert_eq!(second.values(), [Value::Int(7)]);
        assert_eq!(first.len() + second.len(), bytes.len());
    }

    #[test]
    fn byte_strings_of_python_2_and_3_are_slices_of_the_file() {
        for bytes in [
            &b"U\x02a\xff."[..],
            b"T\x02\x00\x00\x00a\xff.",
            b"C\x02a\xff.",
            b"B\x02\x00\x00\x00a\xff.",
        ] {
            assert_eq!(read(bytes).unwrap().root(), &Value::Bytes(b"a\xff"));
        }
    }

    #[test]
    fn a_state_is_a_note_beside_the_call() {
        let pickle = read(b"ctorch\nSize\nK\x03\x85RK\x07b.").unwrap();
        let &Value::Built("torch.Size", arguments, state) = pickle.root() else {
            panic!("{pickle:?}")
        };
        assert!(matches!(pickle.get(arguments), Value::Tuple(_)));
        assert_eq!(pickle.get(state), &Value::Int(7));
    }

    #[test]
    fn sets_are_lists_and_what_a_call_is_filled_with_is_passed_over() {
        // pickle.dumps({7}, 4) and pickle.dumps(frozenset({7}), 4).
        for bytes in [&b"\x80\x04\x8f(K\x07\x90."[..], b"\x80\x04(K\x07\x91."] {
            let pickle = read(bytes).unwrap();
            let Value::List(items) = pickle.root() else {
                panic!("{pickle:?}")
            };
            assert_eq!(pickle.get(items[0]), &Value::Int(7));
        }
        for bytes in [
            &b"ctorch\nSize\n)RK\x01K\x02s."[..],
            b"ctorch\nSize\n)RK\x01a.",
        ] {
            let pickle = read(bytes).unwrap();
            assert!(matches!(pickle.root(), Value::Called("torch.Size", _)));
        }
    }

    #[test]
    fn what_is_kept_is_the_thing_itself() {
        // A dictionary that is filled after it was kept, and holds itself.
        let pickle = read(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.").unwrap();
        let Value::Dict(items) = pickle.root() else {
            panic!("{pickle:?}")
        };
        assert_eq!(pickle.get(items[0].1), pickle.root());
    }

    #[test]
    fn calls_nothing_and_refuses_by_name() {
        // os.system("true"), as protocol 0 spells it in two ways, and 4.
        for bytes in [
            &b"cos\nsystem\n(X\x04\x00\x00\x00truetR."[..],
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
            b"(X\x04\x00\x00\x00trueios\nsystem\n.",
        ] {
            let refused = read(bytes).unwrap_err();
            assert!(
                matches!(&refused, Error::Global { name, .. } if name == "os.system"),
                "{refused}"
            );
        }
        for (bytes, expected) in [
            (&b"\x80\x02ctorch\nSize\n)\x81."[..], "NEWOBJ"),
            (b"\x82\x01.", "EXT1"),
            (b"\xff", "0xff"),
        ] {
            let refused = read(bytes).unwrap_err();
            assert!(
                matches!(&refused, Error::Opcode { name, .. } if name == expected),
                "{refused}"
            );
        }
        let refused = read(b"cos\nsystem\n.").unwrap_err().to_string();
        assert!(refused.ends_with("only sizes are read"), "{refused}");
        let escape = read(b"cos\x1b[2J\nsystem\n.").unwrap_err().to_string();
        assert!(!escape.contains('\x1b'), "{escape:?}");
    }

    #[test]
    fn an_inert_call_is_a_note() {
        let pickle = read(b"ctorch\nSize\nK\x03\x85R.").unwrap();
        assert!(matches!(pickle.root(), Value::Called("torch.Size", _)));
        let pickle = read(b"ccollections\nOrderedDict\n)R}b.").unwrap();
        assert_eq!(pickle.root(), &Value::Dict(Vec::new()));
    }

    #[test]
    fn objects_of_classes_that_may_be_named_are_notes() {
        let with = |bytes| {
            let allowed = Allowed {
                globals: &["torch.Size"],
                objects: Some(|name| !name.starts_with("os.")),
                advice: "calls are not read",
                most_opcodes: 100,
            };
            Pickle::read(bytes, allowed)
        };
        // A class of the module `own`, by protocols 2 and 4, set to {"a": 7}.
        for bytes in [
            &b"\x80\x02cown\nNet\n)\x81}X\x01\x00\x00\x00aK\x07sb."[..],
            b"\x80\x04\x8c\x03own\x8c\x03Net\x93)\x81}\x8c\x01aK\x07sb.",
        ] {
            let pickle = with(bytes).unwrap();
            let &Value::Object(class, Some(state)) = pickle.root() else {
                panic!("{pickle:?}")
            };
            assert_eq!(pickle.get(class), &Value::Class("own", "Net"));
            let Value::Dict(items) = pickle.get(state) else {
                panic!("{pickle:?}")
            };
            assert_eq!(pickle.get(items[0].1), &Value::Int(7));
        }
        // A subclass of a dictionary is filled, then set: it is no object like the others.
        let filled = with(b"\x80\x02cown\nMap\n)\x81K\x01K\x02s}X\x01\x00\x00\x00aK\x07sb.");
        assert_eq!(filled.unwrap().root(), &Value::Filled);
        // A class and its source outside of the pickle.
        let outside = with(b"\x80\x02cown\nNet\n\x85Q)\x81.").unwrap();
        assert!(matches!(outside.root(), Value::Object(_, None)));
        for (bytes, expected) in [
            (&b"\x80\x02cos\nsystem\n."[..], "os.system"),
            (b"\x80\x02cown\nmake\n)R.", "own.make"),
            // tuple(map(own.make, ["a"])), which calls it.
            (
                b"\x80\x02cbuiltins\nmap\ncown\nmake\n]K\x01a\x86\x81.",
                "builtins.map",
            ),
            (b"\x80\x02ctorch\nSize\nK\x01\x85\x81.", "torch.Size"),
        ] {
            let refused = with(bytes).unwrap_err();
            assert!(
                matches!(&refused, Error::Global { name, .. } if name == expected),
                "{refused}"
            );
        }
        for bytes in [
            &b"\x80\x02K\x07)\x81."[..],
            b"\x80\x02cown\nNet\nK\x07\x81.",
            b"\x80\x02cown\nNet\n)\x81}b}b.",
            b"\x80\x02cown\nNet\n}b.",
            // Filled after it was set, and after an object was set to it.
            b"\x80\x02cown\nNet\n)\x81}bK\x01K\x02s.",
            b"\x80\x02cown\nNet\n)\x81}q\x01bh\x01K\x01K\x02s.",
        ] {
            let refused = with(bytes).unwrap_err();
            assert!(matches!(refused, Error::Malformed { .. }), "{refused}");
        }
    }

    #[test]
    fn malformed_programs_are_errors() {
        for bytes in [
            &b""[..],
            b".",
            b"\x80",
            b"X\xff\xff\xff\xffa.",
            b"T\xff\xff\xff\xffa.",
            b"U\x05a.",
            b"t.",
            b"K\x01(\x85.",
            b"h\x05.",
            b"K\x01K\x02a.",
            b"}(K\x01u.",
            b"K\x01)R.",
            b"cos",
            b"K\x01K\x02\x93.",
            b"(.",
            b"ctorch\nSize\n]q\x01\x85Rh\x01K\x01a.",
            b"]}b.",
        ] {
            let refused = read(bytes).unwrap_err();
            assert!(
                matches!(refused, Error::CutOff | Error::Malformed { .. }),
                "{bytes:?}: {refused}"
            );
        }
    }

    #[test]
    fn the_number_of_opcodes_is_bounded_whatever_they_cost_in_bytes() {
        let with = |bytes: &[u8], most_opcodes| {
            let allowed = Allowed {
                globals: &[],
                objects: None,
                advice: "",
                most_opcodes,
            };
            Pickle::read(bytes, allowed).map(|_| ())
        };
        // Values, marks, and references to a value that is kept.
        for (first, opcode) in [(&b""[..], &b"]"[..]), (b"", b"("), (b"Nq\x01", b"h\x01")] {
            let bytes = [first, &opcode.repeat(10_000), b"N."].concat();
            let refused = with(&bytes, 1000).unwrap_err();
            assert!(matches!(refused, Error::TooManyOpcodes { most: 1000, .. }));
            assert!(refused.to_string().contains("more than 1000 opcodes"));
            assert!(with(&bytes, 10_004).is_ok());
        }
    }

    /// A module's name may be kept, and a global be made of it again and again.
    #[test]
    fn long_names_of_globals_are_refused() {
        let name = "a".repeat(2000);
        let bytes = [b"c", name.as_bytes(), b"\n", name.as_bytes(), b"\n."].concat();
        assert!(matches!(read(&bytes), Err(Error::Malformed { .. })));
    }

    /// 60,000 calls with one tuple of 80,000 parts: five billion to seal, were it not once.
    #[test]
    fn arguments_are_looked_through_once() {
        let parts = [&b"("[..], &b"N".repeat(80_000), b"tq\x01"].concat();
        let calls = b"ctorch\nSize\nh\x01R".repeat(60_000);
        assert!(read(&[&parts[..], &calls, b"."].concat()).is_ok());
    }

    #[test]
    fn depth_costs_nothing() {
        let mut bytes = vec![b')'];
        bytes.resize(200_000, op::TUPLE1);
        bytes.push(op::STOP);
        assert!(matches!(read(&bytes).unwrap().root(), Value::Tuple(_)));
    }
}

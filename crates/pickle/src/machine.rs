//! The machine that reads pickles.
//!
//! A pickle is a program for a stack machine, and Python's machine imports and calls whatever the
//! program names. This one calls nothing: it knows the few opcodes that `torch.save` and NumPy's
//! arrays need, a global is a name that has to be on the caller's list, and a call is a note of what
//! would have been called with what. Other classes, where the caller allows any, are names too, and
//! an object is a note of what it would be set to. Values lie in one list and refer to each other by number, so
//! that sharing costs nothing and neither depth nor cycles can hurt. An opcode may be a single byte
//! and adds at most one value and a few references to values, some two hundred bytes in all: the
//! number of opcodes is bounded, and memory with it, however long the pickle is.

use std::collections::{HashMap, HashSet};

use crate::opcodes as op;
use crate::pickle::{Allowed, Id, ORDERED_DICT, Value};
use crate::{Error, Result, shown};

/// Longest name of a class or function, its module included.
const LONGEST_GLOBAL: usize = 1 << 10;

pub(crate) struct Machine<'a, 'b> {
    bytes: &'a [u8],
    pub(crate) at: usize,
    allowed: Allowed<'b>,
    pub(crate) values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack that no pop goes below.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// What Python copies when it calls or builds: filled later, it would be another than the copy.
    sealed: HashSet<usize>,
}

impl<'a, 'b> Machine<'a, 'b> {
    pub(crate) fn new(bytes: &'a [u8], allowed: Allowed<'b>) -> Self {
        Self {
            bytes,
            at: 0,
            allowed,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            sealed: HashSet::new(),
        }
    }

    /// Takes one opcode; the result, if that was the last.
    pub(crate) fn step(&mut self) -> Result<Option<Id>> {
        let code = self.byte()?;
        match code {
            // The rest shows whether the protocol's opcodes are known.
            op::PROTO => drop(self.byte()?),
            op::FRAME => drop(self.take(8)?),
            op::STOP => return self.pop().map(Some),
            op::MARK => self.marks.push(self.stack.len()),
            op::NONE => self.push(Value::Other),
            op::NEWTRUE | op::NEWFALSE => self.push(Value::Bool(code == op::NEWTRUE)),
            op::BINFLOAT => {
                self.take(8)?;
                self.push(Value::Other);
            }
            op::BININT => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            op::BININT1 => {
                let value = self.byte()?;
                self.push(Value::Int(value.into()));
            }
            op::BININT2 => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            op::LONG1 => self.long()?,
            op::BINUNICODE | op::SHORT_BINUNICODE => self.text(code == op::SHORT_BINUNICODE)?,
            op::BINSTRING | op::BINBYTES => self.long_bytes()?,
            op::SHORT_BINSTRING | op::SHORT_BINBYTES => {
                let len = self.byte()?;
                let bytes = self.take(len.into())?;
                self.push(Value::Bytes(bytes));
            }
            op::EMPTY_TUPLE => self.push(Value::Tuple(Vec::new())),
            op::TUPLE => {
                let parts = self.pop_to_mark()?;
                self.push(Value::Tuple(parts));
            }
            op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => self.short_tuple(code - op::TUPLE1 + 1)?,
            op::EMPTY_LIST | op::EMPTY_SET => self.push(Value::List(Vec::new())),
            op::FROZENSET => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items));
            }
            op::APPEND => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            op::APPENDS | op::ADDITEMS => {
                let items = self.pop_to_mark()?;
                self.append(&items)?;
            }
            op::EMPTY_DICT => self.push(Value::Dict(Vec::new())),
            op::SETITEM => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            op::SETITEMS => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            op::BINPUT | op::LONG_BINPUT | op::MEMOIZE => self.put(code)?,
            op::BINGET | op::LONG_BINGET => self.fetch(code == op::BINGET)?,
            op::GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            op::INST => {
                let (module, name) = (self.line()?, self.line()?);
                return Err(self.refused(&format!("{module}.{name}")));
            }
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module.0], &self.values[name.0]) {
                    (&Value::Text(module), &Value::Text(name)) => self.global(module, name)?,
                    _ => return Err(self.malformed("a global whose name is no text")),
                }
            }
            op::REDUCE => self.reduce()?,
            op::NEWOBJ if self.allowed.objects.is_some() => self.new_object()?,
            op::BUILD => self.build()?,
            op::BINPERSID => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            other => {
                let known = op::REFUSED.iter().find(|(code, _)| *code == other);
                return Err(Error::Opcode {
                    name: known.map_or_else(|| format!("{other:#04x}"), |(_, n)| (*n).to_owned()),
                    at: self.at - 1,
                });
            }
        }
        Ok(None)
    }

    fn long(&mut self) -> Result<()> {
        let len = self.byte()?;
        let bytes = self.take(len.into())?;
        let value = if bytes.len() > 8 {
            Value::Long(bytes)
        } else {
            let sign = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
            let mut padded = [if sign { 0xff } else { 0 }; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(padded))
        };
        self.push(value);
        Ok(())
    }

    fn text(&mut self, short: bool) -> Result<()> {
        let len = if short {
            self.byte()?.into()
        } else {
            u32::from_le_bytes(self.array()?)
        };
        let bytes = self.take(len as usize)?;
        let text =
            std::str::from_utf8(bytes).map_err(|_| self.malformed("a text that is no UTF-8"))?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn short_tuple(&mut self, len: u8) -> Result<()> {
        let mut parts = (0..len).map(|_| self.pop()).collect::<Result<Vec<Id>>>()?;
        parts.reverse();
        self.push(Value::Tuple(parts));
        Ok(())
    }

    /// A length that Python 2 would call negative is beyond the end of any file read here.
    fn long_bytes(&mut self) -> Result<()> {
        let len = u32::from_le_bytes(self.array()?);
        let bytes = self.take(len as usize)?;
        self.push(Value::Bytes(bytes));
        Ok(())
    }

    fn append(&mut self, items: &[Id]) -> Result<()> {
        let top = self.fillable()?;
        let malformed = self.malformed("an element for something that is no list");
        match &mut self.values[top.0] {
            Value::List(known) => {
                known.extend(items);
                Ok(())
            }
            _ => self.fill(top, malformed),
        }
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let top = self.fillable()?;
        let malformed = self.malformed("items for something that is no dictionary");
        match &mut self.values[top.0] {
            Value::Dict(known) if items.len().is_multiple_of(2) => {
                known.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
                Ok(())
            }
            _ => self.fill(top, malformed),
        }
    }

    /// Notes that something else is filled like a list or a dictionary.
    fn fill(&mut self, top: Id, malformed: Error) -> Result<()> {
        match self.values[top.0] {
            Value::Called(..) | Value::Filled => Ok(()),
            Value::Object(_, None) => {
                self.values[top.0] = Value::Filled;
                Ok(())
            }
            _ => Err(malformed),
        }
    }

    /// The top of the stack, into which something is to be put.
    fn fillable(&self) -> Result<Id> {
        let top = self.top()?;
        if self.sealed.contains(&top.0) {
            return Err(self.malformed("something for what was used before"));
        }
        Ok(top)
    }

    /// Notes what an object would be set to. Attributes of dictionaries, such as a state dict's
    /// `_metadata`, are passed over: nothing asks for them.
    fn build(&mut self) -> Result<()> {
        let (state, object) = (self.pop()?, self.top()?);
        let built = match self.values[object.0] {
            Value::Called(name, arguments) => Value::Built(name, arguments, state),
            Value::Object(class, None) => Value::Object(class, Some(state)),
            Value::Dict(_) | Value::Filled => return Ok(()),
            // A second state would be merged with the first, and a class's would change the class: no
            // object is written so.
            _ => return Err(self.malformed("a state of something that has one, or none")),
        };
        self.values[object.0] = built;
        self.sealed.insert(state.0);
        Ok(())
    }

    /// Notes an object that its class makes of nothing: of arguments some make whatever these say.
    fn new_object(&mut self) -> Result<()> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        let Value::Tuple(parts) = &self.values[arguments.0] else {
            return Err(self.malformed("an object whose arguments are no tuple"));
        };
        match self.values[class.0] {
            // What lies outside of the pickle may be a class with its source.
            Value::Global(_) | Value::Class(..) | Value::Persistent(_) if parts.is_empty() => {}
            Value::Global(name) => return Err(self.refused(name)),
            Value::Class(module, name) => return Err(self.refused(&format!("{module}.{name}"))),
            Value::Persistent(_) => return Err(self.refused("a class")),
            _ => return Err(self.malformed("an object of something that is no class")),
        }
        self.push(Value::Object(class, None));
        Ok(())
    }

    fn put(&mut self, code: u8) -> Result<()> {
        let key = match code {
            op::BINPUT => self.byte()?.into(),
            op::LONG_BINPUT => u32::from_le_bytes(self.array()?),
            _ => self.memo.len() as u32,
        };
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn fetch(&mut self, short: bool) -> Result<()> {
        let key = if short {
            self.byte()?.into()
        } else {
            u32::from_le_bytes(self.array()?)
        };
        let id = self.memo.get(&key).copied();
        let id = id.ok_or_else(|| self.malformed("a reference to something not kept"))?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: &'a str, name: &'a str) -> Result<()> {
        if module.len() + name.len() > LONGEST_GLOBAL {
            return Err(self.malformed("a longer name than any class has"));
        }
        let full = format!("{module}.{name}");
        let allowed = self.allowed.globals.iter().find(|known| **known == full);
        if let Some(allowed) = allowed {
            self.push(Value::Global(allowed));
        } else if self.allowed.objects.is_some_and(|may| may(&full)) {
            self.push(Value::Class(module, name));
        } else {
            return Err(self.refused(&full));
        }
        Ok(())
    }

    fn refused(&self, name: &str) -> Error {
        Error::Global {
            name: shown(name),
            advice: self.allowed.advice,
        }
    }

    fn reduce(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let value = match (&self.values[function.0], &self.values[arguments.0]) {
            (Value::Global(ORDERED_DICT), Value::Tuple(parts)) if parts.is_empty() => {
                Value::Dict(Vec::new())
            }
            (Value::Global(name), Value::Tuple(parts)) => {
                // The same arguments may be used again and again.
                if self.sealed.insert(arguments.0) {
                    self.sealed.extend(parts.iter().map(|part| part.0));
                }
                Value::Called(name, arguments)
            }
            (Value::Class(module, name), _) => {
                return Err(self.refused(&format!("{module}.{name}")));
            }
            _ => return Err(self.malformed("a call of something that is no function")),
        };
        self.push(value);
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(Id(self.values.len()));
        self.values.push(value);
    }

    fn top(&self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(id) if self.stack.len() > floor => Ok(*id),
            _ => Err(self.malformed("something taken from an empty stack")),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.malformed("an end without its beginning")),
        }
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN]> {
        let mut array = [0; LEN];
        array.copy_from_slice(self.take(LEN)?);
        Ok(array)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or(Error::CutOff)?;
        self.at += len;
        Ok(taken)
    }

    /// The text up to the next end of line.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|byte| *byte == b'\n');
        let line = self.take(len.ok_or(Error::CutOff)?)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| self.malformed("a name that is no UTF-8"))
    }

    fn malformed(&self, what: &'static str) -> Error {
        Error::Malformed { what, at: self.at }
    }
}

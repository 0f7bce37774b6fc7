//! Reads Python's pickles as inert values: nothing in them is executed.
//!
//! [`Pickle::read`] takes the bytes and what is [`Allowed`] in them, and gives [`Value`]s that refer
//! to each other by [`Id`]. What a call would have made is for the caller to say: [`Value::Called`]
//! notes its function and its arguments.
//!
//! # Examples
//!
//! ```
//! use mesa_pickle::{Allowed, Pickle, Value};
//!
//! // pickle.dumps({"a": 7}, protocol=2) of Python 3.
//! let bytes = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x07s.";
//! let nothing = Allowed {
//!     globals: &[],
//!     objects: None,
//!     advice: "only plain values are read",
//!     most_opcodes: 1000,
//! };
//! let pickle = Pickle::read(bytes, nothing)?;
//! let Value::Dict(items) = pickle.root() else { panic!("it is a dictionary") };
//! assert_eq!(pickle.get(items[0].1), &Value::Int(7));
//!
//! // os.system("true")
//! let refused = Pickle::read(b"cos\nsystem\n(X\x04\x00\x00\x00truetR.", nothing);
//! assert!(refused.unwrap_err().to_string().contains("`os.system`, which is refused"));
//! # Ok::<(), mesa_pickle::Error>(())
//! ```

mod error;
mod machine;
mod opcodes;
mod pickle;
mod shown;

pub use error::{Error, Result};
pub use pickle::{Allowed, Id, ORDERED_DICT, Pickle, Value};
pub use shown::shown;

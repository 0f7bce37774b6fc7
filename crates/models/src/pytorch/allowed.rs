//! What a pickle may name and call, and what runs code on whoever loads a file.

use mesa_pickle::{Allowed, Error as PickleError, Id, ORDERED_DICT, Pickle, Value};
use safetensors::Dtype;

use super::storage::check_storages;
use crate::PytorchError;

/// Longest pickle that is read. A state dict with its optimizer takes a few hundredths of a MiB; beside
/// it may stand what was done to each of 60,000 images, in some two hundred bytes.
const LONGEST_PICKLE: usize = 16 << 20;

/// Most opcodes that are read of it: a tensor and its name take some forty, an image some thirty.
pub(super) const MOST_OPCODES: usize = 1 << 21;

pub(super) const REBUILD_TENSOR: &str = "torch._utils._rebuild_tensor_v2";
/// What PyTorch before 0.4 named instead.
pub(super) const REBUILD_TENSOR_AT_FIRST: &str = "torch._utils._rebuild_tensor";
pub(super) const REBUILD_TENSOR_OF_TYPE: &str = "torch._utils._rebuild_tensor_v3";
pub(super) const REBUILD_PARAMETER: &str = "torch._utils._rebuild_parameter";
const UNTYPED_STORAGE: &str = "torch.storage.UntypedStorage";

/// Everything that a pickle may call, with the type of a storage's elements.
const GLOBALS: [(&str, Option<Dtype>); 53] = [
    (REBUILD_TENSOR, None),
    (REBUILD_TENSOR_AT_FIRST, None),
    (REBUILD_TENSOR_OF_TYPE, None),
    (REBUILD_PARAMETER, None),
    (UNTYPED_STORAGE, None),
    ("torch.FloatStorage", Some(Dtype::F32)),
    ("torch.HalfStorage", Some(Dtype::F16)),
    ("torch.BFloat16Storage", Some(Dtype::BF16)),
    ("torch.DoubleStorage", Some(Dtype::F64)),
    ("torch.LongStorage", Some(Dtype::I64)),
    ("torch.IntStorage", Some(Dtype::I32)),
    ("torch.ShortStorage", Some(Dtype::I16)),
    ("torch.CharStorage", Some(Dtype::I8)),
    ("torch.ByteStorage", Some(Dtype::U8)),
    ("torch.BoolStorage", Some(Dtype::BOOL)),
    // What stands beside a state dict: types, sizes, devices, schedules, NumPy's scalars and arrays.
    ("torch.float32", None),
    ("torch.float16", None),
    ("torch.bfloat16", None),
    ("torch.float64", None),
    ("torch.int64", None),
    ("torch.int32", None),
    ("torch.int16", None),
    ("torch.int8", None),
    ("torch.uint8", None),
    ("torch.bool", None),
    (ORDERED_DICT, None),
    ("collections.Counter", None),
    ("torch.Size", None),
    ("torch.device", None),
    ("numpy.dtype", None),
    ("numpy.core.multiarray.scalar", None),
    ("numpy._core.multiarray.scalar", None),
    ("numpy.core.multiarray._reconstruct", None),
    ("numpy._core.multiarray._reconstruct", None),
    ("numpy.ndarray", None),
    ("_codecs.encode", None),
    ("collections.defaultdict", None),
    ("collections.deque", None),
    ("datetime.date", None),
    ("datetime.datetime", None),
    ("datetime.timedelta", None),
    ("pathlib.PosixPath", None),
    ("pathlib.WindowsPath", None),
    ("pathlib._local.PosixPath", None),
    ("pathlib._local.WindowsPath", None),
    // What stands among a module's attributes, in TorchScript and before PyTorch 1.2.
    ("__builtin__.set", None),
    ("builtins.set", None),
    ("torch.jit._pickle.build_boollist", None),
    ("torch.jit._pickle.build_doublelist", None),
    ("torch.jit._pickle.build_intlist", None),
    ("torch.jit._pickle.build_tensorlist", None),
    ("torch.jit._pickle.restore_type_tag", None),
    ("torch.nn.backends.thnn._get_thnn_function_backend", None),
];

/// The type of elements that a global names.
pub(super) fn element(pickle: &Pickle<'_>, id: Id) -> Option<Dtype> {
    let Value::Global(name) = pickle.get(id) else {
        return None;
    };
    GLOBALS.iter().find(|(known, _)| known == name)?.1
}

/// The pickle of a file's tensors, whose references to a storage agree.
pub(super) fn read_tensors(bytes: &[u8]) -> Result<Pickle<'_>, PytorchError> {
    let allowed = Allowed {
        globals: &GLOBALS.map(|(name, _)| name),
        objects: Some(|name| !runs_code(name)),
        advice: "tensors, plain values and modules are read, and nothing is called. torch.load runs \
                 what a file names: only if you trust whoever made it, load it there and save the \
                 state dict alone, from a whole module by torch.save(model.state_dict(), FILE), from \
                 a dictionary that holds one under a key by torch.save(torch.load(FILE)[KEY], OTHER)",
        most_opcodes: MOST_OPCODES,
    };
    let pickle = read_pickle(bytes, "its tensors", allowed)?;
    check_storages(&pickle)?;
    Ok(pickle)
}

/// Modules whose functions run commands or code, or open files and connections: nothing that belongs to a
/// network is in one of them.
const RUNNING: [&str; 31] = [
    "_io",
    "_operator",
    "_pickle",
    "_posixsubprocess",
    "asyncio",
    "bdb",
    "cProfile",
    "codeop",
    "ctypes",
    "http",
    "importlib",
    "io",
    "marshal",
    "multiprocessing",
    "nt",
    "operator",
    "os",
    "pdb",
    "pickle",
    "pip",
    "posix",
    "pty",
    "runpy",
    "shutil",
    "socket",
    "subprocess",
    "sys",
    "threading",
    "timeit",
    "urllib",
    "webbrowser",
];

/// Of those modules what holds bytes, or takes an element of something.
const HARMLESS: [&str; 6] = [
    "_io.BytesIO",
    "_io.StringIO",
    "_operator.itemgetter",
    "io.BytesIO",
    "io.StringIO",
    "operator.itemgetter",
];

/// Such modules whose names programs have for packages of their own, too.
const RUNNING_ALONE: [&str; 5] = ["code", "commands", "platform", "profile", "signal"];

/// Of Python's own functions those that do, by either version's name of their module.
const RUNNING_BUILTINS: [&str; 10] = [
    "__import__",
    "apply",
    "breakpoint",
    "compile",
    "eval",
    "exec",
    "execfile",
    "file",
    "input",
    "open",
];

/// Whether a class or function of this name runs whatever a file wants to have run.
fn runs_code(name: &str) -> bool {
    let Some((module, function)) = name.rsplit_once('.') else {
        return false;
    };
    if HARMLESS.contains(&name) {
        return false;
    }
    let package = module.split('.').next().unwrap_or_default();
    match module {
        "builtins" | "__builtin__" => RUNNING_BUILTINS.contains(&function),
        "torch.hub" => true,
        _ => RUNNING.contains(&package) || RUNNING_ALONE.contains(&module),
    }
}

/// The pickle that some bytes begin with; `of` says what it tells of.
pub(super) fn read_pickle<'a>(
    bytes: &'a [u8],
    of: &'static str,
    allowed: Allowed<'_>,
) -> Result<Pickle<'a>, PytorchError> {
    let most = &bytes[..bytes.len().min(LONGEST_PICKLE)];
    Pickle::read(most, allowed).map_err(|source| match source {
        PickleError::CutOff if most.len() < bytes.len() => PytorchError::LongPickle {
            most: LONGEST_PICKLE,
        },
        PickleError::Global { name, .. } if runs_code(&name) => PytorchError::RunsCode { name },
        source => PytorchError::Pickle { of, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_runs_code_is_called_so() {
        // pickle.dumps of an object whose __reduce__ is (os.system, ("true",)).
        let bytes = b"cposix\nsystem\n(S'true'\ntR.";
        let allowed = Allowed {
            globals: &[],
            objects: None,
            advice: "",
            most_opcodes: MOST_OPCODES,
        };
        let error = read_pickle(bytes, "its tensors", allowed).unwrap_err();
        assert!(matches!(&error, PytorchError::RunsCode { name } if name == "posix.system"));
        assert!(error.to_string().contains("THIS FILE RUNS CODE"), "{error}");
    }

    #[test]
    fn functions_that_run_code_are_told_from_classes_that_are_merely_not_read() {
        for name in [
            "builtins.eval",
            "__builtin__.exec",
            "subprocess.Popen",
            "os.popen",
            "os.path.join",
            "code.interact",
            "torch.hub.load",
        ] {
            assert!(runs_code(name), "{name}");
        }
        for name in [
            "builtins.set",
            "argparse.Namespace",
            "torch.nn.modules.linear.Linear",
            "code.models.ResNet",
            "ResNet",
            "_io.BytesIO",
        ] {
            assert!(!runs_code(name), "{name}");
        }
    }
}

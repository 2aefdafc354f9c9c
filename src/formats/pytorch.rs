//! PyTorch's checkpoints: what `torch.save` wrote, zip or legacy. Nothing in them is executed.

use super::{
    bytes::{self, Source},
    foreign::{Dtype, Foreign, Tensor},
};
use kinglet_core::error::{Error, Result};
use pytorch_reader::{DType as Theirs, PickleValue, PytorchError, PytorchReader};
use serde_json::{Map, Value};
use std::{borrow::Cow, collections::BTreeMap, fs, path::Path};

/// Under which names checkpoints keep their weights, in the order in which they are looked for.
const MODEL_KEYS: [&str; 10] = [
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "raw_model",
];

/// Reads a state_dict, a checkpoint that has one, or a whole module.
///
/// # Errors
/// If it is no checkpoint of PyTorch's, is damaged, calls what is unknown, or claims more numbers than it has.
pub(super) fn read(path: &Path) -> Result<Foreign<'static>> {
    let refused = |error: PytorchError| refused(path, error);
    bytes::regular(path)?;
    let tensors = PytorchReader::new(path).map_err(refused)?.into_tensors();
    let root = PytorchReader::read_pickle_data(path, None).map_err(refused)?;
    refuse_calls(path, &root)?;
    let key = model_key(&root);
    let (mut foreign, mut beside) = (Foreign::default(), BTreeMap::new());
    let prefix = key.map(|key| format!("{key}."));
    for (name, tensor) in tensors {
        match prefix.as_ref().map_or(Some(name.as_str()), |prefix| name.strip_prefix(prefix)) {
            Some(inside) => drop(foreign.tensors.insert(inside.to_owned(), translated(path, &name, tensor))),
            None => *beside.entry(name.split('.').next().unwrap_or_default().to_owned()).or_insert(0usize) += 1,
        }
    }
    refuse_claims(path, &foreign)?;
    foreign.notes.extend(beside.iter().map(|(key, n)| match n {
        1 => format!("1 tensor of {key} is left out"),
        n => format!("{n} tensors of {key} are left out"),
    }));
    let mut unread = Vec::new();
    let is_weight = |name: &str| foreign.tensors.contains_key(name) || key == Some(name);
    foreign.meta = match root {
        PickleValue::Dict(entries) => {
            let entries: BTreeMap<_, _> = entries.into_iter().filter(|(name, _)| !is_weight(name)).collect();
            entries
                .into_iter()
                .filter_map(|(name, value)| Some((name.clone(), json(value, &name, &mut unread)?)))
                .collect::<Map<_, _>>()
                .into()
        }
        _ => Value::Null,
    };
    foreign.notes.extend(unread);
    Ok(foreign)
}

/// The values of a pickle without tensors, such as nanoGPT's `meta.pkl`.
///
/// # Errors
/// As [`read`].
pub(super) fn read_values(path: &Path) -> Result<Value> {
    bytes::regular(path)?;
    let root = PytorchReader::read_pickle_data(path, None).map_err(|error| refused(path, error))?;
    refuse_calls(path, &root)?;
    Ok(json(root, "", &mut Vec::new()).unwrap_or(Value::Null))
}

/// What the reader says, for people.
fn refused(path: &Path, error: PytorchError) -> Error {
    match error {
        PytorchError::Io(source) if source.raw_os_error().is_some() => Error::io("read", path)(source),
        _ if is_cut_off(path) => Error::damaged(path, "it is cut off: the end of the file is missing"),
        error => Error::damaged(path, format!("not a checkpoint that can be read: {error}")),
    }
}

/// Bytes of the record with which an archive ends, without its comment.
const END: usize = 22;

/// Whether a file begins as an archive and lacks the record with which one ends.
fn is_cut_off(path: &Path) -> bool {
    let Ok(source) = Source::open(path) else { return false };
    // The record may be followed by a comment of 64 KiB.
    let tail = source.len().min(END as u64 + 0xffff);
    let (Ok(start), Ok(tail)) = (source.bytes(0, 4), source.bytes(source.len() - tail, tail as usize)) else {
        return false;
    };
    start == b"PK\x03\x04" && !tail.windows(END).any(|bytes| bytes.starts_with(b"PK\x05\x06"))
}

/// The key of the root that holds the weights, if they are not the root itself.
fn model_key(root: &PickleValue) -> Option<&'static str> {
    let PickleValue::Dict(entries) = root else { return None };
    let holds =
        |key: &&str| matches!(entries.get(*key), Some(PickleValue::Dict(inside)) if inside.values().any(is_tensor));
    MODEL_KEYS.iter().copied().find(holds)
}

fn is_tensor(value: &PickleValue) -> bool {
    matches!(value, PickleValue::Unsupported(name) if name == "torch.Tensor")
}

/// A tensor of the reader's.
fn translated(path: &Path, name: &str, tensor: pytorch_reader::Tensor) -> Tensor<'static> {
    let dtype = match tensor.dtype() {
        Theirs::F64 => Dtype::F64,
        Theirs::F32 => Dtype::F32,
        Theirs::F16 => Dtype::F16,
        Theirs::BF16 => Dtype::Bf16,
        Theirs::I64 => Dtype::I64,
        Theirs::I32 => Dtype::I32,
        Theirs::I16 => Dtype::I16,
        Theirs::I8 => Dtype::I8,
        Theirs::U8 => Dtype::U8,
        Theirs::Bool => Dtype::Bool,
        // It may be one that nobody wants; reading it is an error.
        other @ (Theirs::U16 | Theirs::U32 | Theirs::U64) => {
            let what = format!("{}: {name} is of type {other:?}, which kinglet does not read", path.display());
            return Tensor::new(tensor.shape().to_vec(), Dtype::F32, move || Err(Error::Data(what.clone())));
        }
    };
    let (path, shape) = (path.to_owned(), tensor.shape().to_vec());
    Tensor::new(shape, dtype, move || {
        let bytes = tensor.read().map_err(|error| Error::damaged(&path, error.to_string()))?;
        Ok(Cow::Owned(numbers(dtype, bytes)))
    })
}

/// Numbers in the order of this machine, which is how the reader gives them.
fn numbers(dtype: Dtype, mut bytes: Vec<u8>) -> Vec<f32> {
    if cfg!(target_endian = "big") {
        let size = dtype.size().expect("not of blocks");
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    dtype.to_f32(&bytes)
}

/// Refuses tensors that repeat a few stored numbers until they fill the memory, which a stride of 0 can claim, and
/// archives that unpack to far more than they are. Tied tensors are there twice at most.
fn refuse_claims(path: &Path, foreign: &Foreign) -> Result<()> {
    let has = fs::metadata(path).map_err(Error::io("read", path))?.len();
    let claim = |tensor: &Tensor| tensor.len() as u64 * tensor.dtype.size().unwrap_or(1) as u64;
    let claimed = foreign.tensors.values().fold(0u64, |sum, tensor| sum.saturating_add(claim(tensor)));
    let most = has.saturating_mul(4).saturating_add(1 << 20);
    if claimed > most {
        return Err(Error::damaged(
            path,
            format!("its tensors would have {claimed} bytes, but the file has only {has}"),
        ));
    }
    Ok(())
}

/// Modules whose functions do something, whatever they are called.
const DOERS: [&str; 22] = [
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "builtins",
    "__builtin__",
    "runpy",
    "importlib",
    "shutil",
    "socket",
    "ctypes",
    "pickle",
    "_pickle",
    "code",
    "pty",
    "pdb",
    "webbrowser",
    "asyncio",
    "multiprocessing",
    "operator",
    "functools",
];

/// Functions that only make a value.
const MAKERS: [&str; 12] = [
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.dtype",
    "numpy.ndarray",
    "_codecs.encode",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "torch.device",
    "torch._utils._rebuild_parameter",
    "types.SimpleNamespace",
];

/// Refuses a file that calls what could do something. The reader calls nothing, but such a file is no checkpoint.
fn refuse_calls(path: &Path, value: &PickleValue) -> Result<()> {
    match value {
        PickleValue::Unsupported(name) if !is_value(name) => {
            let what = format!("it calls {name}, which is not part of a checkpoint; nothing in it was executed");
            Err(Error::damaged(path, what))
        }
        PickleValue::List(values) => values.iter().try_for_each(|value| refuse_calls(path, value)),
        PickleValue::Dict(values) => values.values().try_for_each(|value| refuse_calls(path, value)),
        _ => Ok(()),
    }
}

/// Whether what a pickle names is a value: a tensor, a type, or an object of a class, whose name begins with a capital.
fn is_value(name: &str) -> bool {
    let Some((module, last)) = name.rsplit_once('.') else { return true };
    if MAKERS.contains(&name) {
        return true;
    }
    let root = module.split('.').next().unwrap_or_default();
    let is_plain = matches!(
        last,
        "int"
            | "float"
            | "bool"
            | "str"
            | "list"
            | "dict"
            | "tuple"
            | "set"
            | "complex"
            | "bytearray"
            | "object"
            | "slice"
            | "range"
    );
    if DOERS.contains(&root) {
        return matches!(root, "builtins" | "__builtin__") && is_plain;
    }
    // Types of PyTorch and NumPy: torch.float32, numpy.int64.
    let is_type = matches!(module, "torch" | "numpy") && last.ends_with(|c: char| c.is_ascii_digit());
    is_type
        || last.trim_start_matches('_').starts_with(|c: char| c.is_uppercase())
        || last == "bool"
        || last == "namedtuple"
}

/// What stands beside the weights, as JSON; `unread` receives a note on each object that is not understood.
fn json(value: PickleValue, name: &str, unread: &mut Vec<String>) -> Option<Value> {
    Some(match value {
        PickleValue::None => Value::Null,
        PickleValue::Bool(yes) => yes.into(),
        PickleValue::Int(n) => n.into(),
        // JSON has no infinity and no NaN.
        PickleValue::Float(x) => serde_json::Number::from_f64(x).map_or_else(|| x.to_string().into(), Value::Number),
        PickleValue::String(text) => text.into(),
        PickleValue::Bytes(bytes) => format!("{} bytes", bytes.len()).into(),
        PickleValue::List(values) => {
            values.into_iter().filter_map(|value| json(value, name, unread)).collect::<Vec<_>>().into()
        }
        PickleValue::Dict(values) => {
            let values: BTreeMap<_, _> = values.into_iter().collect();
            let inside = |(key, value)| {
                let value = json(value, &format!("{name}.{key}"), unread)?;
                Some((key, value))
            };
            values.into_iter().filter_map(inside).collect::<Map<_, _>>().into()
        }
        PickleValue::Unsupported(what) if what == "torch.Tensor" => return None,
        PickleValue::Unsupported(what) => {
            unread.push(format!("{name} is a {what}, which is left out: kinglet reads only plain values"));
            return None;
        }
    })
}

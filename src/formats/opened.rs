//! Which format a file or folder has, told from what is in it, and its tensors.

use super::{
    bytes,
    foreign::Foreign,
    gguf,
    hugging_face::{self, read_json},
    llm_c::{self, Program},
    pytorch, safetensors,
};
use crate::run::{Kind, read_config};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
};
use serde_json::Value;
use std::{
    fmt, fs,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// A format that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// PyTorch's checkpoints: `torch.save`.
    Pytorch,
    /// safetensors alone.
    Safetensors,
    /// A folder of transformers: `config.json` and weights.
    HuggingFace,
    /// GGUF of llama.cpp.
    Gguf,
    /// The GPT-2 of llm.c.
    LlmC,
    /// The Llama of llama2.c.
    Llama2C,
    /// Adapters of PEFT: a folder with `adapter_config.json`.
    Peft,
    /// Signed bytes and scales in one of PyTorch's checkpoints or in safetensors.
    Int8,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 8] = [
        Format::Pytorch,
        Format::Safetensors,
        Format::HuggingFace,
        Format::Gguf,
        Format::LlmC,
        Format::Llama2C,
        Format::Peft,
        Format::Int8,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Pytorch => "pytorch",
            Format::Safetensors => "safetensors",
            Format::HuggingFace => "hf",
            Format::Gguf => "gguf",
            Format::LlmC => "llm.c",
            Format::Llama2C => "llama2.c",
            Format::Peft => "peft",
            Format::Int8 => "int8",
        }
    }

    /// What it is, for people.
    fn about(self) -> &'static str {
        match self {
            Format::Pytorch => "PyTorch's checkpoint",
            Format::Safetensors => "safetensors",
            Format::HuggingFace => "a folder of Hugging Face's transformers",
            Format::Gguf => "GGUF",
            Format::LlmC => "a file of llm.c",
            Format::Llama2C => "a file of llama2.c",
            Format::Peft => "adapters of PEFT",
            Format::Int8 => "int8 weights with scales",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.about())
    }
}

/// A model of another program, before anything is made of it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) format: Format,
    pub(super) foreign: Foreign<'static>,
    /// What stands in the `config.json` of a folder of transformers.
    pub(super) config: Option<Value>,
    /// What stands in kinglet's own configuration beside tensors that it exported.
    pub(super) own: Option<Config>,
    /// The folder in which a tokenizer may be.
    pub(super) folder: PathBuf,
}

const CONFIG: &str = "config.json";

/// What PEFT says of an adapter.
pub(super) const ADAPTER: &str = "adapter_config.json";

/// kinglet's configuration beside tensors alone. It is not called as that of a run: such a folder is none.
pub(super) const OWN: &str = "kinglet.toml";

const WEIGHTS: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// How the names of files end that may hold a model.
const ENDINGS: [&str; 6] = ["safetensors", "pt", "pth", "bin", "gguf", "ckpt"];

/// Opens a file or folder, as `format` if that is said.
///
/// # Errors
/// If it is not there, of no format that is known, or damaged.
pub(super) fn open(path: &Path, format: Option<Format>) -> Result<Opened> {
    if !path.exists() {
        return Err(Error::not_found(path, "there is no such file or folder"));
    }
    bytes::regular(path)?;
    let path = &whole(path);
    if path.is_dir() { open_folder(path, format) } else { open_file(path, format) }
}

/// The folder that is meant by a file which only describes others.
fn whole(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let describes = [CONFIG, OWN].contains(&&*name) || name == ADAPTER || name.ends_with(".index.json");
    if describes && path.is_file() { path.parent().unwrap_or(path).to_owned() } else { path.to_owned() }
}

fn open_folder(path: &Path, format: Option<Format>) -> Result<Opened> {
    if let Some(Kind::Run | Kind::Checkpoint { .. }) = Kind::of(path) {
        return Err(Error::run(path, "this is a run of kinglet's: it can be used as it is"));
    }
    let is_peft = path.join(ADAPTER).exists();
    let (config, has) = (read_json(&path.join(CONFIG))?, |name: &&&str| path.join(name).exists());
    match (format, WEIGHTS.iter().find(has)) {
        (None | Some(Format::Peft), _) if is_peft => Err(Error::run(
            path,
            "these are adapters of PEFT, which belong to another model: kinglet import takes them with --base RUN",
        )),
        (None | Some(Format::HuggingFace), Some(weights)) if config.as_ref().is_some_and(hugging_face::is) => {
            let foreign = read_weights(&path.join(weights))?;
            Ok(Opened { format: Format::HuggingFace, foreign, config, own: None, folder: path.to_owned() })
        }
        (Some(Format::HuggingFace), None) if config.is_some() => {
            Err(Error::not_found(path, format!("there are no weights in this folder: {}", WEIGHTS.join(" or "))))
        }
        (format, _) => open_file(&only_file(path)?, format),
    }
}

/// The one file of a folder that may hold a model.
fn only_file(folder: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let may_be = |ending: &str| ENDINGS.contains(&ending.to_ascii_lowercase().as_str());
        if path.is_file() && path.extension().is_some_and(|ending| may_be(&ending.to_string_lossy())) {
            found.push(path);
        }
    }
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => Err(Error::not_found(
            folder,
            format!("no model in this folder: neither {CONFIG} with {}, nor another file of weights", WEIGHTS[0]),
        )),
        several => {
            let mut names: Vec<_> =
                several.iter().filter_map(|path| path.file_name()).map(|n| n.to_string_lossy()).collect();
            names.sort();
            let what = format!("several files may be the model: name one of {}", names.join(", "));
            Err(Error::run(folder, what))
        }
    }
}

/// The tensors of one of [`WEIGHTS`].
fn read_weights(path: &Path) -> Result<Foreign<'static>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match &*name {
        "model.safetensors.index.json" => safetensors::read_shards(path),
        "pytorch_model.bin.index.json" => read_pytorch_shards(path),
        "model.safetensors" => safetensors::read(path),
        _ => pytorch::read(path),
    }
}

/// As [`safetensors::read_shards`], of PyTorch's files.
fn read_pytorch_shards(index: &Path) -> Result<Foreign<'static>> {
    let weights = safetensors::shards(index)?;
    let mut all = Foreign::default();
    let files: std::collections::BTreeSet<_> = weights.iter().map(|(_, file)| file).collect();
    for file in files {
        let path = index.with_file_name(file);
        let Foreign { tensors, notes, .. } = pytorch::read(&path)?;
        all.notes.extend(notes);
        for (name, tensor) in tensors {
            if all.tensors.insert(name.clone(), tensor).is_some() {
                return Err(Error::damaged(&path, format!("{name} is there twice")));
            }
        }
    }
    safetensors::refuse_missing(index, &weights, &all)?;
    Ok(all)
}

/// Bytes at the beginning of a file that tell its format.
const START: usize = 512;

fn open_file(path: &Path, format: Option<Format>) -> Result<Opened> {
    let (start, len) = beginning(path)?;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let found = match format {
        Some(Format::Int8) => recognised(path, &start, len)?,
        Some(format) => format,
        None => recognised(path, &start, len)?,
    };
    let foreign = match found {
        Format::Safetensors | Format::HuggingFace if safetensors::is(&start, len) => safetensors::read(path)?,
        Format::Safetensors => safetensors::read(path)?,
        Format::Pytorch | Format::HuggingFace => pytorch::read(path)?,
        Format::LlmC => llm_c::read_llm_c(path)?,
        Format::Llama2C => llm_c::read_llama2_c(path)?,
        Format::Gguf => gguf::read(path)?,
        Format::Peft => return Err(Error::run(path, "adapters of PEFT are a folder with adapter_config.json")),
        Format::Int8 => unreachable!("it was recognised as what holds it"),
    };
    // Weights beside their config.json are a folder of transformers of which one file was named.
    let may_have_config = matches!(found, Format::Safetensors | Format::Pytorch | Format::HuggingFace);
    let config = if may_have_config { read_json(&folder.join(CONFIG)).ok().flatten() } else { None };
    let config =
        config.filter(|config| hugging_face::is(config) && format.is_none_or(|format| format == Format::HuggingFace));
    let format = if config.is_some() { Format::HuggingFace } else { found };
    let own = folder.join(OWN);
    let has_own = config.is_none() && format == Format::Safetensors && own.is_file();
    let own = if has_own { Some(read_config(&own)?) } else { None };
    Ok(Opened { format, foreign, config, own, folder })
}

fn beginning(path: &Path) -> Result<(Vec<u8>, u64)> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let len = file.metadata().map_err(Error::io("read", path))?.len();
    let mut start = Vec::new();
    file.take(START as u64).read_to_end(&mut start).map_err(Error::io("read", path))?;
    Ok((start, len))
}

/// The format of a file, by its first bytes.
fn recognised(path: &Path, start: &[u8], len: u64) -> Result<Format> {
    let known = [
        (&b"\x89HDF"[..], "HDF5, as Keras writes: save the model by PyTorch or safetensors"),
        (b"ggml", "the format before GGUF: convert it with llama.cpp"),
        (b"ggjt", "the format before GGUF: convert it with llama.cpp"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: git lfs pull"),
    ];
    if start.is_empty() {
        return Err(Error::run(path, "the file is empty"));
    }
    if start.starts_with(b"GGUF") {
        return Ok(Format::Gguf);
    }
    if let Some((_, what)) = known.iter().find(|(first, _)| start.starts_with(first)) {
        return Err(Error::run(path, format!("this is {what}")));
    }
    if let Some(program) = llm_c::is(start, len) {
        return Ok(match program {
            Program::Llm => Format::LlmC,
            Program::Llama2 => Format::Llama2C,
        });
    }
    if safetensors::is(start, len) {
        return Ok(Format::Safetensors);
    }
    let is_tar = start.get(257..262) == Some(b"ustar");
    if start.starts_with(b"PK\x03\x04") || is_tar || start.first() == Some(&0x80) {
        return Ok(Format::Pytorch);
    }
    let names: Vec<_> = Format::ALL.iter().map(|format| format.name()).collect();
    let what = format!("not a model that kinglet reads ({}); --format says what it is", names.join(", "));
    Err(Error::run(path, what))
}

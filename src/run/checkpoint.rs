//! A checkpoint: one folder with everything needed to go on, and with what a model is without the rest of its run.
//!
//! ```text
//! model.safetensors        weights, under nanoGPT's names
//! adapter.safetensors      instead of that, where there are adapters: what trains, without the weights it belongs to
//! optimizer.safetensors    moments of what trains: exp_avg.NAME and, but for what Muon updates, exp_avg_sq.NAME
//! state.json               how far the run is
//! config.toml, tokenizer.json    copies of the run's, for the day those are damaged
//! SHA256SUMS               written last; sha256sum -c verifies the folder
//! ```

use crate::{
    system::disk::{FolderReader, FolderWriter},
    text::tokenizer::Tokenizer,
};
use kinglet_core::{
    config::{Config, FORMAT_VERSION},
    error::{Error, Result},
    guard::Guard,
    params::{Layout, Tensor},
};
use safetensors::{Dtype, SafeTensors, View, tensor::serialize_to_file};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::HashMap, fs, io, path::Path};

const MODEL: &str = "model.safetensors";
const ADAPTER: &str = "adapter.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
pub(crate) const CONFIG: &str = "config.toml";
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// No text file of a run is larger.
pub(crate) const TEXT_LIMIT: u64 = 1 << 28;

/// What a checkpoint knows besides weights and moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the configuration format that wrote it.
    pub format_version: u64,
    /// Updates done.
    pub step: u64,
    /// Validation loss of the best estimate so far, and the step it was made at.
    pub best: Option<(f64, u64)>,
    /// Estimates since that.
    pub since_best: u64,
    /// What the guard against divergence has seen.
    pub guard: Guard,
    /// Seconds the run has taken so far, all sessions together.
    pub wall_s: f64,
    /// Seconds of that spent on training steps.
    pub train_s: f64,
}

impl Default for State {
    /// A run that begins.
    fn default() -> State {
        State {
            format_version: FORMAT_VERSION,
            step: 0,
            best: None,
            since_best: 0,
            guard: Guard::default(),
            wall_s: 0.0,
            train_s: 0.0,
        }
    }
}

impl State {
    /// Reads a `state.json`.
    ///
    /// # Errors
    /// If it is not one, or from a newer kinglet.
    pub fn from_json(json: &[u8]) -> Result<State> {
        let state: State =
            serde_json::from_slice(json).map_err(|error| Error::Data(format!("not the state of a run: {error}")))?;
        if state.format_version > FORMAT_VERSION {
            return Err(Error::Data("written by a newer kinglet, use that one".into()));
        }
        Ok(state)
    }
}

/// Everything needed to go on: each of the buffers, owned or lent, has the layout's length.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint<Buf = Vec<f32>> {
    /// Step and best loss.
    pub state: State,
    /// Weights.
    pub weights: Buf,
    /// First moments of the optimizer.
    pub m: Buf,
    /// Second moments.
    pub v: Buf,
}

impl<Buf: AsRef<[f32]>> Checkpoint<Buf> {
    /// Writes the folder, whole or not at all.
    pub(crate) fn write(&self, folder: &Path, layout: &Layout, config: &str, tokenizer: &str) -> Result<()> {
        let mut files = FolderWriter::new(folder)?;
        let weights = [("", layout.stored(), self.weights.as_ref())];
        let [first, second] = moments(layout);
        let moments = [(first.0, first.1, self.m.as_ref()), (second.0, second.1, self.v.as_ref())];
        let state = serde_json::to_string_pretty(&self.state).expect("plain values");
        files.add(weights_file(layout), |path| write_tensors(path, &weights))?;
        files.add(OPTIMIZER, |path| write_tensors(path, &moments))?;
        for (name, text) in [(STATE, state.as_str()), (CONFIG, config), (TOKENIZER, tokenizer)] {
            files.add(name, |path| fs::write(path, text))?;
        }
        files.finish()
    }
}

/// Writes the folder with what a fine-tuning begins with, whole or not at all.
pub(crate) fn write_base(folder: &Path, config: &Config, weights: &[f32]) -> Result<()> {
    let layout = Layout::new(config);
    let mut files = FolderWriter::new(folder)?;
    files.add(MODEL, |path| write_tensors(path, &[("", layout.stored(), weights)]))?;
    files.add(CONFIG, |path| fs::write(path, config.to_toml()))?;
    files.finish()
}

/// Reads what [`write_base`] wrote.
pub(crate) fn read_base(folder: &Path) -> Result<(Config, Vec<f32>)> {
    let stored = Stored::open(folder)?;
    let config = stored.config()?;
    let weights = stored.weights(&Layout::new(&config), None)?;
    Ok((config, weights))
}

/// What stands before the names of both moments, and which tensors have them.
fn moments(layout: &Layout) -> [(&'static str, Vec<&Tensor>); 2] {
    let (first, mut second) = (layout.trained(), layout.trained());
    second.retain(|tensor| !tensor.muon);
    [("exp_avg.", first), ("exp_avg_sq.", second)]
}

/// The file of the tensors that [`Layout::stored`] lists.
fn weights_file(layout: &Layout) -> &'static str {
    if layout.has_adapters() { ADAPTER } else { MODEL }
}

/// A checkpoint's folder, each file of which is verified when it is read.
pub(crate) struct Stored {
    files: FolderReader,
}

impl Stored {
    pub(crate) fn open(folder: &Path) -> Result<Stored> {
        Ok(Stored { files: FolderReader::new(folder)? })
    }

    fn parsed<T>(&self, name: &str, parse: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let bytes = self.files.read(name, TEXT_LIMIT)?;
        parse(&bytes).map_err(|error| self.files.error(name, &error))
    }

    pub(crate) fn state(&self) -> Result<State> {
        self.parsed(STATE, State::from_json)
    }

    pub(crate) fn config(&self) -> Result<Config> {
        self.parsed(CONFIG, |bytes| Config::from_toml(&String::from_utf8_lossy(bytes)))
    }

    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        self.parsed(TOKENIZER, |bytes| Tokenizer::from_json(&String::from_utf8_lossy(bytes)))
    }

    fn tensors(
        &self,
        name: &str,
        layout: &Layout,
        wanted: &[(&str, Vec<&Tensor>)],
        base: &[f32],
    ) -> Result<Vec<Vec<f32>>> {
        let numbers: usize = wanted.iter().flat_map(|(_, tensors)| tensors).map(|tensor| tensor.span.len).sum();
        let numbers = 4 * numbers as u64;
        // Names and shapes take some more.
        let bytes = self.files.read(name, numbers + numbers / 8 + (1 << 20))?;
        let each = wanted.iter().map(|(prefix, tensors)| read_tensors(&bytes, layout, tensors, prefix, base));
        each.collect::<Result<_>>().map_err(|error| self.files.error(name, &error))
    }

    /// The weights; `base` are those that adapters belong to, [`Layout::base_len`] of them.
    pub(crate) fn weights(&self, layout: &Layout, base: Option<&[f32]>) -> Result<Vec<f32>> {
        let name = weights_file(layout);
        if layout.has_adapters() && base.is_none() {
            let what = "it holds adapters (lora_rank), and the weights they belong to are not there";
            return Err(self.files.error(name, &Error::Data(what.into())));
        }
        Ok(self.tensors(name, layout, &[("", layout.stored())], base.unwrap_or_default())?.remove(0))
    }

    /// Everything, with a `base` as [`Stored::weights`].
    pub(crate) fn checkpoint(&self, layout: &Layout, base: Option<&[f32]>) -> Result<Checkpoint> {
        let moments = self.tensors(OPTIMIZER, layout, &moments(layout), &[])?;
        let [m, v] = moments.try_into().expect("two were asked for");
        Ok(Checkpoint { state: self.state()?, weights: self.weights(layout, base)?, m, v })
    }
}

/// One tensor of a flat buffer, in the file's byte order.
struct TensorData<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for TensorData<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

/// Writes some tensors of each buffer, with a prefix before their names.
fn write_tensors(path: &Path, buffers: &[(&str, Vec<&Tensor>, &[f32])]) -> io::Result<()> {
    let data = buffers.iter().flat_map(|(prefix, tensors, buffer)| {
        tensors.iter().map(move |tensor| {
            let data = TensorData { shape: &tensor.shape, values: &buffer[tensor.span.range()] };
            (format!("{prefix}{}", tensor.name), data)
        })
    });
    // The library makes a file that nobody else may read; it shall have the permissions of any other.
    let permissions = fs::File::create(path)?.metadata()?.permissions();
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize_to_file(data, Some(about), path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => source,
        other => io::Error::other(other),
    })?;
    fs::set_permissions(path, permissions)
}

/// Reads some `tensors` of a layout from the bytes of a safetensors file, in which their names have `prefix` before
/// them, into a buffer of that layout. It begins with `base`; all else is zeros, memory that was never touched.
///
/// # Errors
/// If the bytes are no such file, or a tensor is missing or of another type or shape.
pub fn read_tensors(
    bytes: &[u8],
    layout: &Layout,
    tensors: &[&Tensor],
    prefix: &str,
    base: &[f32],
) -> Result<Vec<f32>> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| Error::Data(format!("damaged: {error}")))?;
    // All are looked up before memory is taken for their numbers.
    let mut found = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let name = format!("{prefix}{}", tensor.name);
        let view = file.tensor(&name).map_err(|_| Error::Data(format!("it has no tensor {name}")))?;
        if view.dtype() != Dtype::F32 || view.shape() != tensor.shape {
            let found = format!("{:?} {:?}", view.dtype(), view.shape());
            return Err(Error::Data(format!("{name} is {found}, the configuration says F32 {:?}", tensor.shape)));
        }
        found.push((tensor.span, view));
    }
    let mut buffer = vec![0.0; layout.len()];
    buffer[..base.len()].copy_from_slice(base);
    for (span, view) in found {
        let numbers = view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        buffer[span.range()].iter_mut().zip(numbers).for_each(|(x, number)| *x = number);
    }
    Ok(buffer)
}

//! A checkpoint: one folder with everything needed to resume training, or to use the model without the rest of its run.
//!
//! ```text
//! model.safetensors        weights, under nanoGPT's names; of one in few bits, its integers NAME.q and its scales NAME.scale
//! adapter.safetensors      replaces model.safetensors for adapters: the trained tensors, without the base weights
//! optimizer.safetensors    moments of the trained tensors: exp_avg.NAME and, unless Muon updates it, exp_avg_sq.NAME
//! state.json               the run's progress
//! config.toml, tokenizer.json    copies of the run's files, in case those get damaged
//! SHA256SUMS               written last; sha256sum -c verifies the folder
//! ```

use crate::{
    system::disk::{FolderReader, FolderWriter, SUMS, replace_in_folder},
    text::tokenizer::Tokenizer,
};
use kinglet_core::{
    config::{Config, FORMAT_VERSION, Quantization},
    error::{Error, Result},
    guard::Guard,
    params::{Layout, Span, Tensor},
    quant::{self, Weights},
};
use safetensors::{Dtype, View, tensor::serialize_to_file};
use serde::{Deserialize, Deserializer, Serialize};
use std::{
    borrow::Cow,
    collections::HashMap,
    fs,
    io::{self, Read, Seek},
    path::Path,
};

mod rounded;
mod tensors;

pub(crate) use rounded::packed;
pub use tensors::read_tensors;
use tensors::{Values, read_numbers, read_weights};

const MODEL: &str = "model.safetensors";
const ADAPTER: &str = "adapter.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
pub(crate) const CONFIG: &str = "config.toml";
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// The files of a checkpoint or of a base, and the temporary ones on the way there.
pub(crate) const FILES: [&str; 7] = [MODEL, ADAPTER, OPTIMIZER, STATE, CONFIG, TOKENIZER, SUMS];

/// Size limit for a run's text files, in bytes.
pub(crate) const TEXT_LIMIT: u64 = 1 << 28;

/// The part of a checkpoint that is not weights or moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the configuration format it was written with.
    pub format_version: u64,
    /// Updates done.
    pub step: u64,
    /// Validation loss of the best estimate so far, and the step it was made at; none until a loss is finite.
    #[serde(default, deserialize_with = "finite")]
    pub best: Option<(f64, u64)>,
    /// Estimates since then.
    pub since_best: u64,
    /// The step of the last estimate that `best` and `since_best` take into account. Earlier versions did not write it.
    #[serde(default)]
    pub last_estimate: Option<u64>,
    /// Updates made with the optimizer's moments. Earlier versions did not write it: theirs is `step`.
    #[serde(default)]
    pub updates: Option<u64>,
    /// State of the divergence guard.
    pub guard: Guard,
    /// Seconds the run has taken so far, over all sessions.
    pub wall_s: f64,
    /// Seconds of that spent on training steps.
    pub train_s: f64,
}

impl Default for State {
    /// The state of a new run.
    fn default() -> State {
        State {
            format_version: FORMAT_VERSION,
            step: 0,
            best: None,
            since_best: 0,
            last_estimate: None,
            updates: Some(0),
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
    /// If it is not valid, or was written by a newer kinglet.
    pub fn from_json(json: &[u8]) -> Result<State> {
        let state: State =
            serde_json::from_slice(json).map_err(|error| Error::Data(format!("not the state of a run: {error}")))?;
        if state.format_version > FORMAT_VERSION {
            return Err(Error::Data("this file needs a newer kinglet".into()));
        }
        Ok(state)
    }

    /// Whether the loss was estimated at its step. For a checkpoint of an earlier version, which does not say, the interval
    /// between estimates decides.
    pub fn is_estimated(&self, eval_interval: u64) -> bool {
        self.estimated_last(eval_interval) == Some(self.step)
    }

    /// The step of the last estimate, as far as an earlier version's checkpoint tells.
    fn estimated_last(&self, eval_interval: u64) -> Option<u64> {
        let here = self.step.is_multiple_of(eval_interval);
        let told = |(_, best)| if here { self.step } else { best };
        self.last_estimate.or_else(|| self.best.map(told))
    }

    /// The state as this version writes it.
    pub(crate) fn completed(self, eval_interval: u64) -> State {
        let (last_estimate, updates) = (self.estimated_last(eval_interval), Some(self.updates.unwrap_or(self.step)));
        State { last_estimate, updates, ..self }
    }

    /// Takes an estimate of the validation loss at its step into account. One that is made again, because the metrics
    /// lost its line, does not count twice.
    pub(crate) fn take_estimate(&mut self, val_loss: f64) {
        let again = self.last_estimate == Some(self.step);
        if again && self.best.is_some() {
            return;
        }
        self.last_estimate = Some(self.step);
        if val_loss.is_finite() && self.best.is_none_or(|(best, _)| val_loss < best) {
            (self.best, self.since_best) = (Some((val_loss, self.step)), 0);
        } else if !again {
            self.since_best += 1;
        }
    }
}

/// The best estimate. Earlier versions wrote one that was not finite, which JSON says as null; it is none.
fn finite<'de, D: Deserializer<'de>>(from: D) -> Result<Option<(f64, u64)>, D::Error> {
    let best: Option<(Option<f64>, u64)> = Option::deserialize(from)?;
    Ok(best.and_then(|(loss, step)| Some((loss.filter(|loss| loss.is_finite())?, step))))
}

/// The three buffers of training, all with the same layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffer {
    /// The parameters.
    Weights,
    /// The optimizer's first moments.
    FirstMoments,
    /// The optimizer's second moments.
    SecondMoments,
}

/// Everything needed to resume training, in memory; each buffer has the layout's length.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Progress: step, best loss and so on.
    pub state: State,
    /// Weights.
    pub weights: Vec<f32>,
    /// First moments of the optimizer.
    pub m: Vec<f32>,
    /// Second moments.
    pub v: Vec<f32>,
}

impl Checkpoint {
    /// Copies part of a buffer to `out`, as [`super::RunDir::save`] needs.
    pub fn read(&self, buffer: Buffer, span: Span, out: &mut [f32]) {
        let from = match buffer {
            Buffer::Weights => &self.weights,
            Buffer::FirstMoments => &self.m,
            Buffer::SecondMoments => &self.v,
        };
        out.copy_from_slice(&from[span.range()]);
    }
}

/// Reads part of a buffer, wherever it is stored: `read(buffer, span, out)`.
pub(super) type Source<'a> = &'a dyn Fn(Buffer, Span, &mut [f32]);

/// Receives part of a buffer.
pub(super) type Sink<'a> = &'a mut dyn FnMut(Buffer, Span, &[f32]);

/// Writes a checkpoint's folder atomically. At most one tensor is copied in memory at a time. Without the optimizer's
/// moments it can be used, but not resumed.
pub(super) fn write(
    folder: &Path,
    layout: &Layout,
    state: &State,
    (read, with_moments): (Source, bool),
    (config, tokenizer): (&str, &str),
) -> Result<()> {
    write_folder(folder, state, (config, tokenizer), |files| {
        files.add(weights_file(layout), |path| write_tensors(path, &[stored(layout)], read))?;
        if with_moments {
            files.add(OPTIMIZER, |path| write_tensors(path, &moments(layout), read))?;
        }
        Ok(())
    })
}

/// Writes a checkpoint's folder, with what `tensors` adds to it.
fn write_folder(
    folder: &Path,
    state: &State,
    (config, tokenizer): (&str, &str),
    tensors: impl FnOnce(&mut FolderWriter) -> Result<()>,
) -> Result<()> {
    let mut files = FolderWriter::new(folder)?;
    tensors(&mut files)?;
    let state = serde_json::to_string_pretty(state).expect("plain values");
    for (name, text) in [(STATE, state.as_str()), (CONFIG, config), (TOKENIZER, tokenizer)] {
        files.add(name, |path| fs::write(path, text))?;
    }
    files.finish()
}

/// [`write`] of weights of which some are in few bits, without moments.
pub(super) fn write_rounded(
    folder: &Path,
    layout: &Layout,
    state: &State,
    weights: &Weights,
    texts: (&str, &str),
) -> Result<()> {
    let tensors = layout.stored().into_iter().flat_map(|tensor| rounded::stored(tensor, weights));
    write_folder(folder, state, texts, |files| files.add(MODEL, |path| write_views(path, tensors)))
}

/// Writes the folder with the starting point of a fine-tuning run, atomically.
pub(crate) fn write_base(folder: &Path, config: &Config, weights: &[f32]) -> Result<()> {
    let layout = Layout::new(config)?;
    let mut files = FolderWriter::new(folder)?;
    let read = |_, span: Span, out: &mut [f32]| out.copy_from_slice(&weights[span.range()]);
    files.add(MODEL, |path| write_tensors(path, &[stored(&layout)], &read))?;
    files.add(CONFIG, |path| fs::write(path, config.to_toml()))?;
    files.finish()
}

/// Changes the configuration in the folder that [`write_base`] wrote.
pub(crate) fn write_base_config(folder: &Path, config: &Config) -> Result<()> {
    replace_in_folder(folder, CONFIG, config.to_toml().as_bytes())
}

/// Reads what [`write_base`] wrote.
pub(crate) fn read_base(folder: &Path) -> Result<(Config, Vec<f32>)> {
    let stored = Stored::open(folder)?;
    let config = stored.config()?;
    let weights = stored.weights(&config, &Layout::new(&config)?, None)?;
    Ok((config, weights))
}

/// Tensors of one buffer in a file, and the prefix of their names there.
struct Group<'a> {
    prefix: &'static str,
    buffer: Buffer,
    tensors: Vec<&'a Tensor>,
}

/// The weights that a checkpoint stores.
fn stored(layout: &Layout) -> Group<'_> {
    Group { prefix: "", buffer: Buffer::Weights, tensors: layout.stored() }
}

/// Both moments; Muon has no second one.
fn moments(layout: &Layout) -> [Group<'_>; 2] {
    let (first, mut second) = (layout.trained(), layout.trained());
    second.retain(|tensor| !tensor.muon);
    [
        Group { prefix: "exp_avg.", buffer: Buffer::FirstMoments, tensors: first },
        Group { prefix: "exp_avg_sq.", buffer: Buffer::SecondMoments, tensors: second },
    ]
}

/// The file that holds the tensors listed by [`Layout::stored`].
pub(super) fn weights_file(layout: &Layout) -> &'static str {
    if layout.has_adapters() { ADAPTER } else { MODEL }
}

/// A checkpoint's folder; each file is verified when it is read.
#[derive(Debug)]
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

    /// Verifies a file, then passes the tensors of the given groups to `take`. None may be in few bits: it is what training goes
    /// on from, or adapters.
    fn tensors(&self, name: &str, groups: &[Group], take: Sink) -> Result<()> {
        let mut file = self.files.open(name)?;
        let read = |group: &Group| {
            read_numbers(&mut file, &group.tensors, group.prefix, Some(&[]), |tensor, x| {
                // Moments of frozen parameters are zero; skipping them leaves that zeroed memory untouched by the OS.
                let span = if group.buffer == Buffer::Weights { tensor.span } else { tensor.trains };
                take(group.buffer, span, &x[span.start - tensor.span.start..][..span.len]);
            })
        };
        groups.iter().try_for_each(read).map_err(|error| self.files.error(name, &error))
    }

    /// Passes all stored weights and moments to `take`, tensor by tensor, and returns the state. For a run with
    /// adapters this does not include the base weights.
    ///
    /// # Errors
    /// If something is missing, damaged, or of another model; `take` may have been called by then.
    pub(crate) fn restore(&self, layout: &Layout, take: Sink) -> Result<State> {
        if !self.files.lists(OPTIMIZER) {
            let what = "it has no optimizer state (an import has none, and kinglet prune --optimizer removes it), so \
                 it cannot be resumed; kinglet finetune can still start from it";
            return Err(self.files.error(OPTIMIZER, &Error::Data(what.to_owned())));
        }
        self.tensors(OPTIMIZER, &moments(layout), take)?;
        self.tensors(weights_file(layout), &[stored(layout)], take)?;
        self.state()
    }

    /// Checks that [`Stored::restore`] will find everything it needs; returns the state.
    ///
    /// # Errors
    /// As [`Stored::restore`].
    pub(crate) fn check(&self, layout: &Layout) -> Result<State> {
        self.restore(layout, &mut |_, _, _| ())
    }

    /// Checks that the checkpoint can be used without training it further; returns the state.
    ///
    /// # Errors
    /// If something is missing, damaged, or of another model.
    pub(super) fn check_weights(&self, layout: &Layout) -> Result<State> {
        let config = self.config()?;
        if layout.has_adapters() {
            self.tensors(ADAPTER, &[stored(layout)], &mut |_, _, _| ())?;
        } else {
            let (mut file, few) = (self.files.open(MODEL)?, few_bits(&config, layout));
            let read = read_weights(&mut file, &layout.stored(), "", Some(&few), |_, _| ());
            read.map_err(|error| self.files.error(MODEL, &error))?;
        }
        self.tokenizer()?;
        self.state()
    }

    /// The weights as numbers; `base` holds the [`Layout::base_len`] weights that adapters belong to. Without adapters, matrices
    /// stored in few bits are multiplied out.
    pub(crate) fn weights(&self, config: &Config, layout: &Layout, base: Option<&[f32]>) -> Result<Vec<f32>> {
        if !layout.has_adapters() {
            return Ok(self.model_as_stored(config, layout)?.into_numbers());
        }
        let mut weights = self.on_base(layout, base)?;
        self.weights_onto(layout, &mut weights)?;
        Ok(weights)
    }

    /// The weights that a model without adapters computes with.
    pub(crate) fn model(&self, config: &Config, layout: &Layout) -> Result<Weights> {
        let weights = self.model_as_stored(config, layout)?;
        settled(config, layout, weights).map_err(|error| self.files.error(MODEL, &error))
    }

    /// The weights of a model without adapters, if none of them are stored in few bits.
    pub(crate) fn masters(&self, config: &Config, layout: &Layout) -> Result<Option<Vec<f32>>> {
        let weights = self.model_as_stored(config, layout)?;
        Ok(weights.rounded.is_empty().then_some(weights.numbers))
    }

    /// The weights of a model without adapters, those in few bits that are stored so.
    fn model_as_stored(&self, config: &Config, layout: &Layout) -> Result<Weights> {
        let weights = weights_of(&mut self.files.open(MODEL)?, config, layout);
        weights.map_err(|error| self.files.error(MODEL, &error))
    }

    /// Puts the stored weights where they belong in a buffer that begins with those which are not stored, if there are any.
    pub(crate) fn weights_onto(&self, layout: &Layout, weights: &mut Vec<f32>) -> Result<()> {
        weights.reserve_exact(layout.len().saturating_sub(weights.len()));
        weights.resize(layout.len(), 0.0);
        let take = &mut |_, span: Span, x: &[f32]| weights[span.range()].copy_from_slice(x);
        self.tensors(weights_file(layout), &[stored(layout)], take)
    }

    /// A zeroed buffer for the layout (untouched pages), starting with `base` if there are adapters.
    fn on_base(&self, layout: &Layout, base: Option<&[f32]>) -> Result<Vec<f32>> {
        if layout.has_adapters() && base.is_none() {
            let what = "it contains adapters (lora_rank), but the weights they belong to are missing";
            return Err(self.files.error(weights_file(layout), &Error::Data(what.into())));
        }
        let mut weights = vec![0.0; layout.len()];
        let base = base.unwrap_or_default();
        weights[..base.len()].copy_from_slice(base);
        Ok(weights)
    }

    /// Loads everything into memory; `base` as in [`Stored::weights`].
    pub(crate) fn checkpoint(&self, layout: &Layout, base: Option<&[f32]>) -> Result<Checkpoint> {
        let mut weights = self.on_base(layout, base)?;
        let (mut m, mut v) = (vec![0.0; layout.len()], vec![0.0; layout.len()]);
        let state = self.restore(layout, &mut |buffer, span, x| {
            let to = match buffer {
                Buffer::Weights => &mut weights,
                Buffer::FirstMoments => &mut m,
                Buffer::SecondMoments => &mut v,
            };
            to[span.range()].copy_from_slice(x);
        })?;
        Ok(Checkpoint { state, weights, m, v })
    }
}

/// One tensor of a flat buffer, read only when it is written to the file.
struct TensorData<'a> {
    tensor: &'a Tensor,
    buffer: Buffer,
    read: Source<'a>,
}

impl View for TensorData<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut numbers = vec![0.0; self.tensor.span.len];
        (self.read)(self.buffer, self.tensor.span, &mut numbers);
        // The file is little-endian.
        numbers.iter_mut().for_each(|x| *x = f32::from_bits(x.to_bits().to_le()));
        Cow::Owned(bytemuck::cast_slice(&numbers).to_vec())
    }

    fn data_len(&self) -> usize {
        4 * self.tensor.span.len
    }
}

/// Writes tensors to a file.
fn write_views<V: View>(path: &Path, data: impl IntoIterator<Item = (String, V)>) -> io::Result<()> {
    // The library creates a file that only its owner can read; restore the default permissions.
    let permissions = fs::File::create(path)?.metadata()?.permissions();
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize_to_file(data, Some(about), path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => source,
        other => io::Error::other(other),
    })?;
    fs::set_permissions(path, permissions)
}

/// Writes groups of tensors.
fn write_tensors<'a>(path: &Path, groups: &'a [Group<'a>], read: Source) -> io::Result<()> {
    let data = groups.iter().flat_map(|&Group { prefix, buffer, ref tensors }| {
        let named = move |&tensor: &&'a Tensor| {
            let data = TensorData { tensor, buffer, read };
            (format!("{prefix}{}", tensor.name), data)
        };
        tensors.iter().map(named)
    });
    write_views(path, data)
}

/// The weights in the bytes of a `model.safetensors` of a model without adapters.
///
/// # Errors
/// As [`read_tensors`], or if other matrices are in few bits than the configuration says.
pub(crate) fn parse_weights(config: &Config, bytes: &[u8]) -> Result<Weights> {
    let layout = Layout::new(config)?;
    let weights = weights_of(&mut io::Cursor::new(bytes), config, &layout)?;
    settled(config, &layout, weights)
}

/// All weights in a file of a model without adapters: those that the configuration says are in few bits may be stored so.
fn weights_of(from: &mut (impl Read + Seek), config: &Config, layout: &Layout) -> Result<Weights> {
    let mut weights = Weights { numbers: vec![0.0; layout.len()], rounded: Vec::new() };
    read_weights(from, &layout.stored(), "", Some(&few_bits(config, layout)), |tensor, values| match values {
        Values::Numbers(x) => weights.numbers[tensor.span.range()].copy_from_slice(x),
        Values::Rounded(matrix) => weights.rounded.push((tensor.span.start, matrix)),
    })?;
    Ok(weights)
}

/// Where the matrices begin that the configuration says are in few bits, and in how many.
fn few_bits(config: &Config, layout: &Layout) -> Vec<(usize, Quantization)> {
    quant::matrices(config, layout).iter().map(|matrix| (matrix.span.start, config.quantization)).collect()
}

/// The weights that the model computes with: stored ones, or what the configuration says is made of them.
fn settled(config: &Config, layout: &Layout, weights: Weights) -> Result<Weights> {
    if weights.rounded.is_empty() { Weights::rounded(config, layout, weights.numbers) } else { Ok(weights) }
}

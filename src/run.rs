//! The run directory: the only hand-over between commands.
//!
//! ```text
//! config.toml      everything that defines the run
//! tokenizer.json   how text becomes tokens
//! metrics.jsonl    one event a line
//! loss.svg         both losses over the steps
//! sample.txt       text written by the final model
//! checkpoints/step-NNNNNN/{model.safetensors, optimizer.safetensors, state.json}
//! last, best       the name of one checkpoint each
//! ```
//!
//! Every file and checkpoint is written aside, flushed to the disk and renamed, so that a reader never sees half of
//! one, whatever interrupts the writer.

use crate::{
    config::Config,
    error::{Error, Result},
    params::Layout,
    tokenizer::CharTokenizer,
};
use safetensors::{Dtype, SafeTensors, View, tensor::serialize_to_file};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// Writes a file whole or not at all: aside, flushed, renamed.
///
/// # Errors
/// Whatever the file system refuses; the temporary file is removed.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let aside = path.with_file_name(name);
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        sync_folder(path.parent().unwrap_or(Path::new(".")))
    });
    written.inspect_err(|_| _ = fs::remove_file(&aside))
}

/// Makes a rename in a folder durable, where the system has such a thing.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Which checkpoint of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest.
    Last,
    /// The one with the lowest estimated validation loss.
    Best,
}

impl Which {
    fn file(self) -> &'static str {
        match self {
            Which::Last => "last",
            Which::Best => "best",
        }
    }
}

/// What a checkpoint knows besides weights and moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the configuration format that wrote it.
    pub format_version: u64,
    /// Updates done.
    pub step: u64,
    /// Validation loss of the best estimate so far, and the step it was made at.
    pub best: Option<(f64, u64)>,
    /// Seconds the run has taken so far, all sessions together.
    pub wall_s: f64,
    /// Seconds of that spent on training steps.
    pub train_s: f64,
}

/// Everything needed to go on: each of the buffers, owned or lent, has the layout's length.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint<Buf = Vec<f32>> {
    /// Step and best loss.
    pub state: State,
    /// Weights.
    pub weights: Buf,
    /// AdamW's first moments.
    pub m: Buf,
    /// AdamW's second moments.
    pub v: Buf,
}

/// A run's folder.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Starts a run in a new (or empty) folder.
    ///
    /// # Errors
    /// If the folder has something in it or cannot be written.
    pub fn create(path: &Path, config: &Config, tokenizer: &CharTokenizer) -> Result<RunDir> {
        if path.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
            let what = if path.join("config.toml").exists() {
                "there is a run in this folder: continue it with --resume, or name another with --out"
            } else {
                "this folder is not empty: name another with --out"
            };
            return Err(Error::run(path, what));
        }
        fs::create_dir_all(path.join("checkpoints")).map_err(Error::io("create", path))?;
        let run = RunDir { path: path.to_owned() };
        run.write("tokenizer.json", tokenizer.to_json().as_bytes())?;
        run.write_config(config)?;
        Ok(run)
    }

    /// Opens the folder of a run, finished or not.
    ///
    /// # Errors
    /// If there is no run in it.
    pub fn open(path: &Path) -> Result<RunDir> {
        if !path.exists() {
            return Err(Error::run(path, "there is no such folder; a run is made by kinglet train --out"));
        }
        if !path.join("config.toml").is_file() {
            return Err(Error::run(path, "not the folder of a run: it has no config.toml"));
        }
        Ok(RunDir { path: path.to_owned() })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's configuration.
    ///
    /// # Errors
    /// If `config.toml` cannot be read or is not valid.
    pub fn config(&self) -> Result<Config> {
        let path = self.path.join("config.toml");
        let config = Config::from_file(&path)?;
        if config.vocab_size == 0 {
            return Err(Error::run(&path, "vocab_size is 0: not the configuration of a run"));
        }
        Ok(config)
    }

    /// Replaces the run's configuration.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_config(&self, config: &Config) -> Result<()> {
        self.write("config.toml", config.to_toml().as_bytes())
    }

    /// The run's tokenizer.
    ///
    /// # Errors
    /// If `tokenizer.json` cannot be read or is damaged.
    pub fn tokenizer(&self) -> Result<CharTokenizer> {
        let path = self.path.join("tokenizer.json");
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        CharTokenizer::from_json(&text).map_err(|error| Error::run(&path, error.to_string()))
    }

    /// Writes one of the run's files, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        write_whole(&path, bytes).map_err(Error::io("write", &path))
    }

    /// The events in `metrics.jsonl`, as JSON; a last line cut short by a crash is left out.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub fn metrics(&self) -> Result<Vec<serde_json::Value>> {
        let path = self.path.join("metrics.jsonl");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(Error::io("read", &path)(error)),
        }
    }

    /// Opens `metrics.jsonl` for more events, without those after `step`: they are about to happen again.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn continue_metrics(&self, step: u64) -> Result<Metrics> {
        let mut kept = String::new();
        for event in self.metrics()? {
            if event["step"].as_u64().is_none_or(|at| at <= step) && event["event"] != "done" {
                kept.push_str(&event.to_string());
                kept.push('\n');
            }
        }
        self.write("metrics.jsonl", kept.as_bytes())?;
        let path = self.path.join("metrics.jsonl");
        let file = File::options().append(true).open(&path).map_err(Error::io("open", &path))?;
        Ok(Metrics { file, path })
    }

    /// Saves a checkpoint, points `last` (and `best`, if it is) at it, and removes those that nothing points at.
    ///
    /// # Errors
    /// If something cannot be written; the checkpoints that were there stay.
    pub fn save<Buf: AsRef<[f32]>>(&self, layout: &Layout, checkpoint: &Checkpoint<Buf>) -> Result<()> {
        let step = checkpoint.state.step;
        let name = format!("step-{step:06}");
        let folder = self.path.join("checkpoints").join(&name);
        // A checkpoint of this step is this checkpoint: runs are deterministic.
        if !folder.exists() {
            let aside = self.path.join("checkpoints").join(format!("{name}.tmp"));
            let written = write_checkpoint(&aside, layout, checkpoint)
                .and_then(|()| fs::rename(&aside, &folder).map_err(Error::io("write", &folder)))
                .and_then(|()| sync_folder(&self.path.join("checkpoints")).map_err(Error::io("write", &folder)));
            written.inspect_err(|_| _ = fs::remove_dir_all(&aside))?;
        }
        self.write(Which::Last.file(), name.as_bytes())?;
        if checkpoint.state.best.is_some_and(|(_, best)| best == step) {
            self.write(Which::Best.file(), name.as_bytes())?;
        }
        self.remove_unused()
    }

    /// The folder of a checkpoint; `best` is `last` while there is no estimate.
    ///
    /// # Errors
    /// If the run has no checkpoint yet.
    pub fn checkpoint_folder(&self, which: Which) -> Result<PathBuf> {
        let read = |which: Which| fs::read_to_string(self.path.join(which.file()));
        let name = read(which).or_else(|_| read(Which::Last)).map_err(|_| {
            Error::run(&self.path, "this run has no checkpoint yet; kinglet train --resume --out goes on with it")
        })?;
        let name = name.trim();
        let digits = name.strip_prefix("step-").unwrap_or_default();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Error::run(&self.path.join(which.file()), format!("{name:?} is not the name of a checkpoint")));
        }
        Ok(self.path.join("checkpoints").join(name))
    }

    /// The weights of a checkpoint, and its state.
    ///
    /// # Errors
    /// If there is none, or a file of it is missing, damaged, or of another shape.
    pub fn load_weights(&self, layout: &Layout, which: Which) -> Result<(State, Vec<f32>)> {
        let folder = self.checkpoint_folder(which)?;
        let path = folder.join("state.json");
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let state: State =
            serde_json::from_str(&text).map_err(|error| Error::run(&path, format!("damaged: {error}")))?;
        Ok((state, read_tensors(&folder.join("model.safetensors"), layout, "")?))
    }

    /// A whole checkpoint, to go on from.
    ///
    /// # Errors
    /// As [`RunDir::load_weights`].
    pub fn load(&self, layout: &Layout, which: Which) -> Result<Checkpoint> {
        let (state, weights) = self.load_weights(layout, which)?;
        let path = self.checkpoint_folder(which)?.join("optimizer.safetensors");
        let m = read_tensors(&path, layout, "exp_avg.")?;
        let v = read_tensors(&path, layout, "exp_avg_sq.")?;
        Ok(Checkpoint { state, weights, m, v })
    }

    /// Removes checkpoints that neither `last` nor `best` names, and what interrupted writes left.
    fn remove_unused(&self) -> Result<()> {
        let used = [Which::Last, Which::Best].map(|which| self.checkpoint_folder(which).ok());
        let folder = self.path.join("checkpoints");
        for entry in folder.read_dir().map_err(Error::io("read", &folder))? {
            let path = entry.map_err(Error::io("read", &folder))?.path();
            if !used.contains(&Some(path.clone())) {
                fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// A run's `metrics.jsonl`, open for more.
#[derive(Debug)]
pub struct Metrics {
    file: File,
    path: PathBuf,
}

impl Metrics {
    /// Appends an event as one line of JSON.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn append(&mut self, event: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(event).expect("plain values") + "\n";
        self.file.write_all(line.as_bytes()).map_err(Error::io("write", &self.path))
    }
}

fn write_checkpoint<Buf: AsRef<[f32]>>(folder: &Path, layout: &Layout, checkpoint: &Checkpoint<Buf>) -> Result<()> {
    let io = |source| Error::Io { action: "write", path: folder.to_owned(), source };
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(io)?;
    }
    fs::create_dir_all(folder).map_err(io)?;
    write_tensors(&folder.join("model.safetensors"), layout, &[("", checkpoint.weights.as_ref())])?;
    let moments = [("exp_avg.", checkpoint.m.as_ref()), ("exp_avg_sq.", checkpoint.v.as_ref())];
    write_tensors(&folder.join("optimizer.safetensors"), layout, &moments)?;
    let state = serde_json::to_string_pretty(&checkpoint.state).expect("plain values");
    write_whole(&folder.join("state.json"), state.as_bytes()).map_err(io)?;
    sync_folder(folder).map_err(io)
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

fn write_tensors(path: &Path, layout: &Layout, buffers: &[(&str, &[f32])]) -> Result<()> {
    let tensors = buffers.iter().flat_map(|(prefix, buffer)| {
        layout.tensors.iter().map(move |tensor| {
            let data = TensorData { shape: &tensor.shape, values: &buffer[tensor.span.range()] };
            (format!("{prefix}{}", tensor.name), data)
        })
    });
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize_to_file(tensors, Some(about), path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => Error::io("write", path)(source),
        other => Error::run(path, other.to_string()),
    })?;
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("write", path))
}

fn read_tensors(path: &Path, layout: &Layout, prefix: &str) -> Result<Vec<f32>> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| Error::run(path, format!("damaged: {error}")))?;
    let mut buffer = Vec::with_capacity(layout.len());
    for tensor in &layout.tensors {
        let name = format!("{prefix}{}", tensor.name);
        let view = file.tensor(&name).map_err(|_| Error::run(path, format!("it has no tensor {name}")))?;
        if view.dtype() != Dtype::F32 || view.shape() != tensor.shape {
            let found = format!("{:?} {:?}", view.dtype(), view.shape());
            let what = format!("{name} is {found}, the configuration says F32 {:?}", tensor.shape);
            return Err(Error::run(path, what));
        }
        buffer.extend(view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)));
    }
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> (tempfile::TempDir, RunDir, Layout, Checkpoint) {
        let temp = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        (config.vocab_size, config.n_layer, config.n_embd) = (3, 1, 8);
        let layout = Layout::new(&config);
        let run = RunDir::create(&temp.path().join("a/run"), &config, &CharTokenizer::train("abc")).unwrap();
        let state = State { format_version: 1, step: 7, best: Some((1.5, 7)), wall_s: 0.1, train_s: 0.1 };
        let weights = layout.init(1);
        let m = weights.iter().map(|x| x * 0.3).collect();
        let v = weights.iter().map(|x| x * x).collect();
        (temp, run, layout, Checkpoint { state, weights, m, v })
    }

    #[test]
    fn checkpoints_read_back_and_only_last_and_best_stay() {
        let (_temp, run, layout, mut checkpoint) = run();
        let error = run.load(&layout, Which::Best).unwrap_err().to_string();
        assert!(error.contains("no checkpoint yet"), "{error}");
        for step in [7, 8, 9] {
            checkpoint.state.step = step;
            checkpoint.weights[0] = step as f32;
            run.save(&layout, &checkpoint).unwrap();
            assert_eq!(run.load(&layout, Which::Last).unwrap(), checkpoint);
        }
        assert_eq!(run.load(&layout, Which::Best).unwrap().state.step, 7);
        let mut left: Vec<_> =
            run.path().join("checkpoints").read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["step-000007", "step-000009"]);
    }

    #[test]
    fn damaged_and_foreign_files_are_refused_by_name() {
        let (_temp, run, layout, checkpoint) = run();
        run.save(&layout, &checkpoint).unwrap();
        let folder = run.checkpoint_folder(Which::Last).unwrap();
        let refuse = |file: &str, bytes: &[u8], message: &str| {
            let path = folder.join(file);
            let good = fs::read(&path).unwrap();
            fs::write(&path, bytes).unwrap();
            let error = run.load(&layout, Which::Last).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(message), "{error}");
            fs::write(&path, good).unwrap();
        };
        let model = fs::read(folder.join("model.safetensors")).unwrap();
        refuse("model.safetensors", &model[..model.len() / 2], "damaged");
        refuse("model.safetensors", b"", "damaged");
        refuse("model.safetensors", &[255; 64], "damaged");
        refuse("optimizer.safetensors", &model, "no tensor exp_avg.");
        refuse("state.json", b"{", "damaged");
        let mut config = run.config().unwrap();
        config.n_embd = 12;
        let error = run.load(&Layout::new(&config), Which::Last).unwrap_err().to_string();
        assert!(error.contains("the configuration says F32 [3, 12]"), "{error}");
        fs::write(run.path().join("last"), "../../etc").unwrap();
        let error = run.load(&layout, Which::Last).unwrap_err().to_string();
        assert!(error.contains("not the name of a checkpoint"), "{error}");
    }

    #[test]
    fn an_interrupted_write_leaves_nothing_that_is_read() {
        let (_temp, run, layout, checkpoint) = run();
        run.save(&layout, &checkpoint).unwrap();
        // What a killed writer would leave: half a checkpoint aside.
        let aside = run.path().join("checkpoints/step-000008.tmp");
        fs::create_dir(&aside).unwrap();
        fs::write(aside.join("model.safetensors"), b"half").unwrap();
        assert_eq!(run.load(&layout, Which::Last).unwrap(), checkpoint);
        let mut next = checkpoint;
        next.state.step = 8;
        run.save(&layout, &next).unwrap();
        assert_eq!(run.load(&layout, Which::Last).unwrap(), next);
        assert!(!aside.exists());
    }

    #[test]
    fn folders_in_use_are_refused() {
        let (temp, run, _, _) = run();
        let create = |path: &Path| RunDir::create(path, &Config::default(), &CharTokenizer::train("a"));
        assert!(create(run.path()).unwrap_err().to_string().contains("--resume"));
        let full = temp.path().join("full");
        fs::create_dir(&full).unwrap();
        fs::write(full.join("x"), "x").unwrap();
        assert!(create(&full).unwrap_err().to_string().contains("not empty"));
        fs::write(temp.path().join("file"), "x").unwrap();
        assert!(create(&temp.path().join("file")).unwrap_err().to_string().contains("cannot create"));
        assert!(RunDir::open(&full).unwrap_err().to_string().contains("no config.toml"));
    }

    #[test]
    fn metrics_continue_before_what_will_be_repeated() {
        let (_temp, run, _, _) = run();
        let text =
            "{\"event\":\"step\",\"step\":1}\n{\"event\":\"step\",\"step\":2}\n{\"event\":\"done\",\"step\":1}\n{\"ev";
        fs::write(run.path().join("metrics.jsonl"), text).unwrap();
        let mut file = run.continue_metrics(1).unwrap();
        file.append(&serde_json::json!({"step": 9})).unwrap();
        let steps: Vec<_> = run.metrics().unwrap().iter().map(|e| e["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 9]);
    }
}

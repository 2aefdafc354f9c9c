//! The run directory: the only hand-over between commands.
//!
//! ```text
//! config.toml      everything that defines the run; its last line is its checksum
//! tokenizer.json   how text becomes tokens; its checksum is in config.toml
//! metrics.jsonl    one event a line, each with its checksum
//! loss.svg         both losses over the steps
//! sample.txt       text written by the final model, or answers
//! checkpoints/step-NNNNNN/    see the module checkpoint
//! base/            of a fine-tuning: the weights it began with, and the configuration of the run they are from
//! last, best       the name of one checkpoint each, for people and scripts
//! lock             which process trains, or did
//! ```
//!
//! Everything is written whole or not at all and verified when it is read. What is damaged is passed over for the newest
//! that is not, and said so in [`RunDir::warnings`].

use super::{
    checkpoint::{self, Buffer, CONFIG, Checkpoint, State, Stored, TEXT_LIMIT, TOKENIZER},
    metrics::{MetricLine, Metrics, Record, read_metrics},
};
use crate::{
    system::disk::{self, Appender, Lock, sha256},
    text::tokenizer::Tokenizer,
};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
    params::{Layout, Span},
};
use serde_json::Value;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What a fine-tuning began with.
#[derive(Clone, Debug, PartialEq)]
pub struct Base {
    /// The configuration of the run the weights are from, without adapters.
    pub config: Config,
    /// Its weights, of the configuration's layout.
    pub weights: Vec<f32>,
}

const BASE: &str = "base";
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";

/// Which checkpoint of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest.
    Last,
    /// The one with the lowest estimated validation loss.
    Best,
}

/// A run's folder.
#[derive(Clone, Debug)]
pub struct RunDir {
    /// What defines the run.
    pub config: Config,
    /// How its text becomes tokens.
    pub tokenizer: Tokenizer,
    /// What was found damaged, and what was taken instead.
    pub warnings: Vec<String>,
    path: PathBuf,
}

impl RunDir {
    /// Starts a run in a new (or empty) folder, which is locked for as long as the second value lives. A fine-tuning has
    /// a `base`.
    ///
    /// # Errors
    /// If the folder has something in it, is another process's, or cannot be written.
    pub fn create(
        path: &Path,
        mut config: Config,
        tokenizer: Tokenizer,
        base: Option<&Base>,
    ) -> Result<(RunDir, Lock)> {
        // A folder that there already is must not be touched if it is somebody else's.
        refuse_full(path)?;
        fs::create_dir_all(path.join(CHECKPOINTS)).map_err(Error::io("create", path))?;
        let lock = Lock::take(path)?;
        // Another process may have been faster.
        refuse_full(path)?;
        config.tokenizer_sha256 = sha256(tokenizer.to_json().as_bytes());
        let run = RunDir { config, tokenizer, warnings: Vec::new(), path: path.to_owned() };
        run.write(TOKENIZER, run.tokenizer.to_json().as_bytes())?;
        if let Some(Base { config, weights }) = base {
            checkpoint::write_base(&path.join(BASE), config, weights)?;
        }
        // Last: without it there is no run.
        run.write_config()?;
        Ok((run, lock))
    }

    /// What the run began with, if it is a fine-tuning.
    ///
    /// # Errors
    /// If it is not there, or damaged.
    pub fn base(&self) -> Result<Option<Base>> {
        if self.config.base.is_empty() {
            return Ok(None);
        }
        let (config, weights) = checkpoint::read_base(&self.path.join(BASE))?;
        Ok(Some(Base { config, weights }))
    }

    /// Opens the folder of a run, finished or not. A configuration or tokenizer that is damaged is taken from the newest
    /// intact checkpoint.
    ///
    /// # Errors
    /// If there is no run in it, or nothing intact.
    pub fn open(path: &Path) -> Result<RunDir> {
        if !path.exists() {
            return Err(Error::not_found(path, "there is no such folder; a run is made by kinglet train --out"));
        }
        let folders = checkpoints(path).unwrap_or_default();
        if !path.join(CONFIG).exists() && folders.is_empty() {
            return Err(Error::not_found(path, "not the folder of a run: it has no config.toml"));
        }
        let damage = match (sealed_config(path), folders) {
            (Ok(text), folders) => {
                let config = config_of_run(&path.join(CONFIG), &text)?;
                match read_tokenizer(path, &config) {
                    Ok(tokenizer) => return Ok(RunDir { config, tokenizer, warnings: vec![], path: path.to_owned() }),
                    Err(error) if folders.is_empty() => return Err(error),
                    Err(error) => error,
                }
            }
            (Err(error), folders) if folders.is_empty() => return Err(error),
            (Err(error), _) => error,
        };
        let copies = |folder: &Path| {
            let stored = Stored::open(folder)?;
            let config = stored.config()?;
            Ok((config, stored.tokenizer()?))
        };
        let mut warnings = Vec::new();
        let (config, tokenizer) = newest(path, &mut warnings, |_| true, copies)?;
        warnings.insert(0, format!("{damage}; using the copy in the newest intact checkpoint"));
        Ok(RunDir { config, tokenizer, warnings, path: path.to_owned() })
    }

    /// The weights that the run's adapters belong to, if it has adapters.
    ///
    /// # Errors
    /// If they are not there, or damaged.
    pub fn adapted_weights(&self) -> Result<Option<Vec<f32>>> {
        let base = if self.config.lora_rank > 0 { self.base()? } else { None };
        Ok(base.map(|base| base.weights))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the right to write in the folder.
    ///
    /// # Errors
    /// If another process has it.
    pub fn lock(&self) -> Result<Lock> {
        Lock::take(&self.path)
    }

    /// Writes the run's configuration, and its tokenizer if that is damaged.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write_config(&self) -> Result<()> {
        if read_tokenizer(&self.path, &self.config).is_err() {
            self.write(TOKENIZER, self.tokenizer.to_json().as_bytes())?;
        }
        let text = self.config.to_toml();
        self.write(CONFIG, format!("{text}{SEAL}{}\n", sha256(text.as_bytes())).as_bytes())
    }

    /// Writes one of the run's files, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        disk::write_whole(&path, bytes).map_err(Error::io("write", &path))
    }

    /// Gives every event in `metrics.jsonl` to `each`; what is damaged is left out.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub fn records(&self, mut each: impl FnMut(Record)) -> Result<()> {
        self.metric_lines(|line| {
            each(line.event().unwrap_or(Record::Other));
            Ok(())
        })?;
        Ok(())
    }

    /// All events in `metrics.jsonl` as JSON, in memory.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub fn metrics(&self) -> Result<Vec<Value>> {
        let mut events = Vec::new();
        self.metric_lines(|line| {
            events.extend(line.event::<Value>());
            Ok(())
        })?;
        Ok(events)
    }

    /// Gives every intact line to `each`; returns how many are damaged.
    fn metric_lines(&self, each: impl FnMut(MetricLine) -> io::Result<()>) -> Result<u64> {
        let path = self.path.join(METRICS);
        // Only what is not there is empty: a dangling link, say, is not.
        if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(0);
        }
        let file = fs::File::open(&path).map_err(Error::io("read", &path))?;
        read_metrics(io::BufReader::with_capacity(1 << 16, file), each).map_err(Error::io("read", &path))
    }

    /// Opens `metrics.jsonl` for more events, without those after `state`: they are about to happen again. Those that stay
    /// are given to `kept`.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn continue_metrics(&mut self, state: &State, mut kept: impl FnMut(Record)) -> Result<Metrics> {
        let path = self.path.join(METRICS);
        let mut damaged = Ok(0);
        let written = disk::write_whole_by(&path, |file| {
            damaged = self.metric_lines(|line| {
                let MetricLine { text, about } = &line;
                let happened = about.event != "done"
                    && about.step.is_none_or(|at| at <= state.step)
                    && about.rollbacks.is_none_or(|n| n <= state.guard.rollbacks);
                if happened {
                    kept(line.event().unwrap_or(Record::Other));
                    writeln!(file, "{text}")?;
                }
                Ok(())
            });
            Ok(())
        });
        written.map_err(Error::io("write", &path))?;
        match damaged? {
            0 => {}
            n => self.warnings.push(format!("{}: {n} damaged lines left out", path.display())),
        }
        Ok(Metrics { file: Appender::new(&path).map_err(Error::io("open", &path))?, path })
    }

    /// The steps of which there are checkpoints, damaged ones included, in order.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>> {
        Ok(checkpoints(&self.path)?.into_iter().map(|(step, _)| step).collect())
    }

    /// Saves a checkpoint, whose numbers `read(buffer, span, out)` gives, tensor by tensor.
    ///
    /// # Errors
    /// If something cannot be written; the checkpoints that were there stay.
    pub fn save(&self, layout: &Layout, state: &State, read: impl Fn(Buffer, Span, &mut [f32])) -> Result<()> {
        let folder = self.path.join(CHECKPOINTS).join(folder_name(state.step));
        checkpoint::write(&folder, layout, state, &read, &self.config.to_toml(), self.tokenizer.to_json())
    }

    /// Points `last` and `best` at what was saved in `state`, and removes the checkpoints that are no longer wanted.
    /// There stay: this one, the best, and of those that estimates wrote the last `keep_last`.
    ///
    /// # Errors
    /// If something cannot be written or removed.
    pub fn prune(&self, state: &State) -> Result<()> {
        let best = state.best.map(|(_, step)| step);
        self.write("last", folder_name(state.step).as_bytes())?;
        if let Some(best) = best {
            self.write("best", folder_name(best).as_bytes())?;
        }
        let folders = checkpoints(&self.path)?;
        let estimated = |step: u64| step <= state.step && step.is_multiple_of(self.config.eval_interval);
        let newest: Vec<u64> = folders
            .iter()
            .rev()
            .map(|(step, _)| *step)
            .filter(|&step| estimated(step))
            .take(self.config.keep_last)
            .collect();
        for (step, folder) in folders {
            if step != state.step && Some(step) != best && !newest.contains(&step) {
                disk::remove_folder(&folder)?;
            }
        }
        // What interrupted writers left.
        let parent = self.path.join(CHECKPOINTS);
        for entry in parent.read_dir().map_err(Error::io("read", &parent))? {
            let path = entry.map_err(Error::io("read", &parent))?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                disk::remove_folder(&path)?;
            }
        }
        Ok(())
    }

    /// Reads from the checkpoint that is asked for, or from the newest intact one.
    fn read<T>(&mut self, which: Which, read: impl Fn(&Stored) -> Result<T>) -> Result<T> {
        let read = |folder: &Path| Stored::open(folder).and_then(|stored| read(&stored));
        if which == Which::Best {
            let state = newest(&self.path, &mut self.warnings, |_| true, |folder| Stored::open(folder)?.state())?;
            if let Some((_, best)) = state.best {
                match read(&self.path.join(CHECKPOINTS).join(folder_name(best))) {
                    Ok(it) => return Ok(it),
                    Err(error) => self.warnings.push(format!(
                        "the best checkpoint (step {best}) cannot be used: {}; using the newest intact one",
                        error.one_line()
                    )),
                }
            }
        }
        newest(&self.path, &mut self.warnings, |_| true, read)
    }

    /// How far the run is.
    ///
    /// # Errors
    /// If there is no intact checkpoint.
    pub fn state(&mut self) -> Result<State> {
        self.read(Which::Last, Stored::state)
    }

    /// The weights of a checkpoint, and its state; of the newest intact one, if that one is damaged. Where there are
    /// adapters, `base` are the weights they belong to, [`Layout::base_len`] of them.
    ///
    /// # Errors
    /// If no checkpoint is there and intact, or there are adapters and no `base`.
    pub fn load_weights(&mut self, layout: &Layout, base: Option<&[f32]>, which: Which) -> Result<(State, Vec<f32>)> {
        self.read(which, |stored| Ok((stored.state()?, stored.weights(layout, base)?)))
    }

    /// The folder of the newest intact checkpoint of those whose step is `wanted`, verified, and its state.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn newest(&mut self, layout: &Layout, wanted: impl Fn(u64) -> bool) -> Result<(State, Stored)> {
        newest(&self.path, &mut self.warnings, wanted, |folder| {
            let stored = Stored::open(folder)?;
            Ok((stored.check(layout)?, stored))
        })
    }

    /// The newest intact checkpoint of those whose step is `wanted`, in memory; `base` as [`RunDir::load_weights`].
    ///
    /// # Errors
    /// If there is none, or there are adapters and no `base`.
    pub fn load(&mut self, layout: &Layout, base: Option<&[f32]>, wanted: impl Fn(u64) -> bool) -> Result<Checkpoint> {
        newest(&self.path, &mut self.warnings, wanted, |folder| Stored::open(folder)?.checkpoint(layout, base))
    }
}

fn folder_name(step: u64) -> String {
    format!("step-{step:06}")
}

/// Refuses a folder with anything in it but what a start that was cut short leaves.
fn refuse_full(path: &Path) -> Result<()> {
    if path.join(CONFIG).exists() {
        let what = "there is a run in this folder: continue it with --resume, or name another with --out";
        return Err(Error::run(path, what));
    }
    // Only what has been locked, and has not come to its configuration, is a start that was cut short.
    let begun = path.join(Lock::FILE).exists();
    disk::refuse_full(path, |entry| {
        let (name, path) = (entry.file_name(), entry.path());
        let empty = || path.read_dir().is_ok_and(|mut entries| entries.next().is_none());
        name == Lock::FILE
            || name == CHECKPOINTS && empty()
            || begun && (name == TOKENIZER || name.to_string_lossy().ends_with("tmp"))
            || begun && name == BASE && !path.join(CHECKPOINTS).exists()
    })
}

/// The checkpoints of a run, oldest first; a run that has no folder for them has none.
fn checkpoints(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let folder = run.join(CHECKPOINTS);
    let entries = match folder.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", &folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read", &folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digits = name.strip_prefix("step-").filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        if let Some(step) = digits.and_then(|digits| digits.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// What `read` gives for the newest of the wanted checkpoints for which it gives anything.
fn newest<T>(
    run: &Path,
    warnings: &mut Vec<String>,
    wanted: impl Fn(u64) -> bool,
    read: impl Fn(&Path) -> Result<T>,
) -> Result<T> {
    let mut listed = checkpoints(run)?;
    let mut first_error = None;
    // A process that trains replaces checkpoints while this one reads: look again as long as there are others.
    for _ in 0..10 {
        for (step, folder) in listed.iter().rev().filter(|(step, _)| wanted(*step)) {
            match read(folder) {
                Ok(it) => return Ok(it),
                Err(error) if folder.exists() => {
                    let reason = error.one_line();
                    if !warnings.iter().any(|warning| warning.contains(&reason)) {
                        warnings.push(format!("checkpoint of step {step} passed over: {reason}"));
                    }
                    first_error.get_or_insert(error);
                }
                Err(_) => {}
            }
        }
        let again = checkpoints(run)?;
        if again == listed {
            break;
        }
        listed = again;
    }
    Err(first_error.unwrap_or_else(|| {
        Error::not_found(run, "this run has no checkpoint yet; kinglet train --resume --out goes on with it")
    }))
}

/// Reads a configuration file; what it does not set has its default.
///
/// # Errors
/// If the file cannot be read or [`Config::from_toml`] refuses it.
pub fn read_config(path: &Path) -> Result<Config> {
    let text = disk::read_text(path, 1 << 24)?;
    Config::from_toml(&text).map_err(|error| Error::BadConfig(format!("{}: {error}", path.display())))
}

/// Begins the last line of a run's `config.toml`, a comment.
const SEAL: &str = "# SHA-256 of all above: ";

/// The text of a run's `config.toml`, verified.
fn sealed_config(run: &Path) -> Result<String> {
    let path = run.join(CONFIG);
    let text = disk::read_text(&path, TEXT_LIMIT)?;
    let sealed = text.rsplit_once(SEAL).map(|(above, sum)| (above, sum.trim_end()));
    disk::unseal(&path, sealed, " (settings are changed with --resume --set)").map(str::to_owned)
}

fn config_of_run(path: &Path, text: &str) -> Result<Config> {
    let config = Config::from_toml(text).map_err(|error| Error::run(path, error.to_string()))?;
    if config.vocab_size == 0 {
        return Err(Error::run(path, "vocab_size is 0: not the configuration of a run"));
    }
    Ok(config)
}

fn read_tokenizer(run: &Path, config: &Config) -> Result<Tokenizer> {
    let path = run.join(TOKENIZER);
    let text = disk::read_text(&path, TEXT_LIMIT)?;
    if sha256(text.as_bytes()) != config.tokenizer_sha256 {
        return Err(Error::damaged(&path, "damaged: its SHA-256 is not the one in config.toml"));
    }
    Tokenizer::from_json(&text).map_err(|error| Error::run(&path, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::disk::{Fault, with_fault};
    use crate::text::tokenizer::CharTokenizer;
    use kinglet_core::guard::Guard;

    fn run() -> (tempfile::TempDir, RunDir, Layout, Checkpoint) {
        let temp = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        (config.vocab_size, config.n_layer, config.n_embd, config.eval_interval) = (3, 1, 8, 1);
        let layout = Layout::new(&config).unwrap();
        let (run, _) =
            RunDir::create(&temp.path().join("a/run"), config, CharTokenizer::train("abc").into(), None).unwrap();
        let checkpoint = checkpoint(&layout, 7);
        (temp, run, layout, checkpoint)
    }

    fn checkpoint(layout: &Layout, step: u64) -> Checkpoint {
        let guard = Guard { mean: 0.1, variance: 1.0 / 3.0, seen: 5, ..Guard::default() };
        let best = Some((1.5, 7));
        let state = State { format_version: 1, step, best, since_best: 0, guard, wall_s: 0.1, train_s: 0.1 };
        let weights = layout.init(step);
        let m = weights.iter().map(|x| x * 0.3).collect();
        let v = weights.iter().map(|x| x * x).collect();
        Checkpoint { state, weights, m, v }
    }

    fn saved(run: &RunDir, layout: &Layout, checkpoint: &Checkpoint) -> Result<()> {
        run.save(layout, &checkpoint.state, |buffer, span, out| checkpoint.read(buffer, span, out))
    }

    fn save(run: &RunDir, layout: &Layout, step: u64) {
        let checkpoint = checkpoint(layout, step);
        saved(run, layout, &checkpoint).unwrap();
        run.prune(&checkpoint.state).unwrap();
    }

    fn folder(run: &RunDir, step: u64) -> PathBuf {
        run.path().join(CHECKPOINTS).join(folder_name(step))
    }

    #[test]
    fn checkpoints_read_back_and_the_last_ones_and_the_best_stay() {
        let (_temp, mut run, layout, _) = run();
        let error = run.load(&layout, None, |_| true).unwrap_err().to_string();
        assert!(error.contains("no checkpoint yet"), "{error}");
        // What somebody else put there is not ours to remove.
        fs::write(run.path().join("checkpoints/notes.txt"), "mine").unwrap();
        run.config.keep_last = 2;
        for step in 7..=12 {
            save(&run, &layout, step);
            assert_eq!(run.load(&layout, None, |_| true).unwrap(), checkpoint(&layout, step));
        }
        assert_eq!(run.steps().unwrap(), [7, 11, 12]);
        let (state, weights) = run.load_weights(&layout, None, Which::Best).unwrap();
        assert_eq!((state.step, weights), (7, layout.init(7)));
        assert_eq!(run.load(&layout, None, |step| step < 12).unwrap().state.step, 11);
        // One between two estimates is kept only while it is the newest.
        run.config.eval_interval = 12;
        save(&run, &layout, 13);
        assert_eq!(run.steps().unwrap(), [7, 12, 13]);
        save(&run, &layout, 14);
        assert_eq!(run.steps().unwrap(), [7, 12, 14]);
        assert!(run.path().join("checkpoints/notes.txt").exists());
        assert_eq!(fs::read_to_string(run.path().join("best")).unwrap(), "step-000007");
        assert!(run.warnings.is_empty(), "{:?}", run.warnings);
    }

    #[test]
    fn at_every_failing_write_and_every_crash_there_is_a_checkpoint_to_load() {
        for keep_last in [1, 2] {
            let mut n = 0;
            let mut tried = 0;
            loop {
                let mut reached = false;
                for fault in [Fault::At(n), Fault::From(n)] {
                    let (_temp, mut run, layout, _) = run();
                    run.config.keep_last = keep_last;
                    (7..=9).for_each(|step| save(&run, &layout, step));
                    let next = checkpoint(&layout, 10);
                    let (saved, hit) = with_fault(fault, || {
                        let saved = saved(&run, &layout, &next).is_ok();
                        (saved, saved && run.prune(&next.state).is_ok())
                    });
                    reached |= hit;
                    assert!(saved.1 || hit);
                    // A process that starts now.
                    let mut run = RunDir::open(run.path()).unwrap();
                    let loaded = run.load(&layout, None, |_| true).unwrap();
                    assert!(loaded == next || !saved.0 && loaded == checkpoint(&layout, 9), "fault {n}");
                    assert_eq!(run.load_weights(&layout, None, Which::Best).unwrap().1, layout.init(7));
                    assert!(run.warnings.is_empty(), "{:?}", run.warnings);
                    // And goes on.
                    save(&run, &layout, 11);
                    assert_eq!(run.load(&layout, None, |_| true).unwrap(), checkpoint(&layout, 11));
                    let left = run.path().join(CHECKPOINTS).read_dir().unwrap();
                    assert!(left.count() <= 3, "nothing unfinished stays");
                    tried += 1;
                }
                if !reached {
                    break;
                }
                n += 1;
            }
            eprintln!("keep_last = {keep_last}: {tried} faults");
            assert!(tried > 30);
        }
    }

    #[test]
    fn a_damaged_file_of_any_kind_is_passed_over_by_name() {
        let (_temp, run, layout, _) = run();
        (7..=9).for_each(|step| save(&run, &layout, step));
        let newest = folder(&run, 9);
        for file in newest.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
            let good = fs::read(&file).unwrap();
            let mut flipped = good.clone();
            flipped[good.len() / 2] ^= 4;
            for bytes in [&flipped[..], &good[..good.len() / 2], b"", &[255; 64], &[&good[..], b"x"].concat()] {
                fs::write(&file, bytes).unwrap();
                let mut run = RunDir::open(run.path()).unwrap();
                let loaded = run.load(&layout, None, |_| true);
                let name = file.file_name().unwrap().to_str().unwrap();
                if matches!(name, CONFIG | TOKENIZER) {
                    // Copies, which are read only when the originals are damaged.
                    assert_eq!(loaded.unwrap().state.step, 9);
                    continue;
                }
                let loaded = loaded.unwrap();
                if name == disk::SUMS {
                    // The damage may be in the line of a file that is not read.
                    assert_eq!(loaded, checkpoint(&layout, loaded.state.step));
                    continue;
                }
                assert_eq!(loaded.state.step, 8, "{name}");
                assert!(run.warnings[0].contains(name), "{:?}", run.warnings);
            }
            fs::write(&file, good).unwrap();
        }
        let mut run = RunDir::open(run.path()).unwrap();
        assert_eq!(run.load(&layout, None, |_| true).unwrap().state.step, 9);
        // The best one gone: the newest takes its place.
        fs::remove_file(folder(&run, 7).join("model.safetensors")).unwrap();
        assert_eq!(run.load_weights(&layout, None, Which::Best).unwrap().0.step, 9);
        assert!(run.warnings[0].contains("the best checkpoint (step 7) cannot be used"), "{:?}", run.warnings);
    }

    #[test]
    fn nothing_intact_is_an_error_with_its_reason() {
        let (_temp, mut run, layout, _) = run();
        save(&run, &layout, 7);
        let other = Layout::new(&run.config.clone().with(&["n_embd=12"]).unwrap()).unwrap();
        let error = run.load(&other, None, |_| true).unwrap_err().to_string();
        assert!(error.contains("the configuration says F32 [3, 12]"), "{error}");
        fs::write(folder(&run, 7).join("model.safetensors"), [255; 64]).unwrap();
        let error = run.load(&layout, None, |_| true).unwrap_err().to_string();
        assert!(error.contains("model.safetensors: damaged: its SHA-256"), "{error}");
    }

    #[test]
    fn a_damaged_configuration_or_tokenizer_is_taken_from_a_checkpoint() {
        let (_temp, run, layout, _) = run();
        let damage = |name: &str, bytes: &[u8]| fs::write(run.path().join(name), bytes).unwrap();
        let config = fs::read(run.path().join(CONFIG)).unwrap();
        damage(CONFIG, &config[..config.len() / 2]);
        let error = RunDir::open(run.path()).unwrap_err().to_string();
        assert!(error.contains("config.toml: its checksum does not fit"), "{error}");
        damage(CONFIG, &config);
        save(&run, &layout, 7);
        let mut edited = config.clone();
        *edited.iter_mut().find(|byte| **byte == b'5').unwrap() = b'6';
        for (name, bytes) in
            [(CONFIG, &edited[..]), (CONFIG, &config[..99]), (CONFIG, &[255; 9]), (TOKENIZER, b"{}"), (TOKENIZER, b"")]
        {
            damage(name, bytes);
            let found = RunDir::open(run.path()).unwrap();
            assert_eq!((&found.config, &found.tokenizer), (&run.config, &run.tokenizer));
            assert!(found.warnings[0].contains(name) && found.warnings[0].contains("using the copy"));
            found.write_config().unwrap();
            assert!(RunDir::open(run.path()).unwrap().warnings.is_empty(), "repaired");
        }
        fs::remove_file(run.path().join(CONFIG)).unwrap();
        assert_eq!(RunDir::open(run.path()).unwrap().config, run.config);
        // Whole, but from the future: that is not damage.
        let text = "format_version = 99\n";
        damage(CONFIG, format!("{text}{SEAL}{}\n", sha256(text.as_bytes())).as_bytes());
        let error = RunDir::open(run.path()).unwrap_err().to_string();
        assert!(error.contains("newer kinglet"), "{error}");
    }

    #[test]
    fn folders_in_use_are_refused() {
        let (temp, run, _, _) = run();
        let config = Config::default().with(&["vocab_size=1"]).unwrap();
        let create = |path: &Path| RunDir::create(path, config.clone(), CharTokenizer::train("a").into(), None);
        assert!(create(run.path()).unwrap_err().to_string().contains("--resume"));
        let full = temp.path().join("full");
        fs::create_dir(&full).unwrap();
        fs::write(full.join("x"), "x").unwrap();
        assert!(create(&full).unwrap_err().to_string().contains("not empty"));
        fs::write(temp.path().join("file"), "x").unwrap();
        assert!(create(&temp.path().join("file")).unwrap_err().to_string().contains("cannot create"));
        assert!(RunDir::open(&full).unwrap_err().to_string().contains("no config.toml"));
        // Killed before the configuration was written: nothing is lost, nothing is in the way.
        let cut = temp.path().join("cut");
        fs::create_dir_all(cut.join(CHECKPOINTS)).unwrap();
        for name in ["lock", "tokenizer.json", "config.toml.tmp"] {
            fs::write(cut.join(name), "1").unwrap();
        }
        let (_, lock) = create(&cut).unwrap();
        assert!(RunDir::open(&cut).unwrap().lock().unwrap_err().to_string().contains("is training this run"));
        drop(lock);
        RunDir::open(&cut).unwrap().lock().unwrap();
    }

    #[test]
    fn metrics_continue_before_what_will_be_repeated_and_leave_out_what_is_damaged() {
        let (_temp, mut run, _, mut checkpoint) = run();
        let mut file = run.continue_metrics(&checkpoint.state, |_| ()).unwrap();
        for (event, step, rollbacks) in [("step", 1, 0), ("diverged", 1, 1), ("step", 2, 0), ("done", 1, 0)] {
            file.append(&serde_json::json!({"event": event, "loss": 0.1, "step": step, "rollbacks": rollbacks}))
                .unwrap();
        }
        let path = run.path().join(METRICS);
        let good = fs::read_to_string(&path).unwrap();
        let mut damaged = good.replacen("0.1", "0.7", 1).into_bytes();
        damaged.extend(b"\xff\n{\"ev");
        fs::write(&path, damaged).unwrap();
        assert_eq!(run.metrics().unwrap().len(), 3);
        fs::write(&path, good).unwrap();
        assert!(run.warnings.is_empty());
        let mut steps = |rollbacks, step| {
            (checkpoint.state.guard.rollbacks, checkpoint.state.step) = (rollbacks, step);
            run.continue_metrics(&checkpoint.state, |_| ()).unwrap();
            run.metrics().unwrap().iter().map(|e| e["step"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(steps(1, 2), [1, 1, 2]);
        assert_eq!(steps(1, 1), [1, 1]);
        assert_eq!(steps(0, 1), [1]);
    }
}

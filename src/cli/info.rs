//! `kinglet info`

use super::{
    published::{PUBLISHED, Published},
    run_arg::{self, RunArg},
    table::{columns, pairs, row},
    terminal::{self, count},
};
use crate::{
    config::{Config, FIELDS, PRESETS, Quantization, SHAKESPEARE_VOCAB, TokenizerKind, preset_like},
    error::Error,
    model::Gpt,
    quant::{matrices, weight_bytes},
    run::{RunDir, State},
    train::Memory,
};
use serde_json::{Map, Value, json};
use std::{ffi::OsString, path::Path};

/// Show the size, memory, settings and progress of a preset or a run
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  kinglet info kinglet-0.2m
  kinglet info kinglet-0.2m --set n_layer=8
  kinglet info runs/mine")]
pub(super) struct Args {
    /// Name of a preset, or a run
    #[arg(value_name = "PRESET|RUN")]
    what: String,
    /// Override a configuration key; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// What is shown.
struct Shown {
    /// A preset's name or a run's folder.
    name: String,
    /// Of a run, its progress, which one without a checkpoint has not.
    run: Option<Option<State>>,
    config: Config,
    /// The size of the vocabulary is not known: it is taken to be Tiny Shakespeare's.
    assumed: bool,
    model: Gpt,
    memory: Memory,
    published: Option<&'static Published>,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let shown = self.shown()?;
        if json {
            return terminal::print_json(&shown.json()?);
        }
        terminal::print(&shown.text())?;
        let name = terminal::quoted(&shown.name);
        let file =
            if shown.run.is_some() { format!("--config {name}/config.toml") } else { format!("--preset {name}") };
        terminal::hints(&[
            ("a file with all settings", format!("kinglet init {file}")),
            ("what they mean", "kinglet keys".to_owned()),
        ])?;
        Ok(())
    }

    fn shown(&self) -> anyhow::Result<Shown> {
        let (name, mut config, run) = match self.folder()? {
            None => (self.what.clone(), Config::preset(&self.what)?, None),
            Some(folder) => {
                let mut run = RunDir::open(Path::new(&folder))?;
                // A run without a checkpoint still has a configuration to show.
                let state = run.state().ok();
                terminal::warn(&run.warnings);
                (folder, run.config, Some(state))
            }
        };
        self.set.iter().try_for_each(|setting| config.set(setting))?;
        config.check()?;
        let assumed = config.vocab_size == 0;
        if assumed {
            config.vocab_size = assumed_vocab(&config);
        }
        let (model, memory) = (Gpt::new(&config)?, Memory::of(&config)?);
        let of_preset = |published: &&Published| run.is_none() && self.set.is_empty() && published.preset == name;
        let published = PUBLISHED.iter().find(of_preset);
        Ok(Shown { name, run, config, assumed, model, memory, published })
    }

    /// The folder of the run; none for a preset. Where there is a folder of a preset's name, that is meant.
    fn folder(&self) -> anyhow::Result<Option<String>> {
        let is_preset = PRESETS.iter().any(|preset| preset.name == self.what);
        if is_preset && run_arg::is_run(&self.what).is_none() {
            return Ok(None);
        }
        let error = match RunArg::from(OsString::from(&self.what)).folder() {
            Ok(folder) => return Ok(Some(folder.display().to_string())),
            Err(error) => error,
        };
        let text = error.to_string();
        if Path::new(&self.what).exists() || !text.contains("no such run") || text.contains("did you mean") {
            return Err(error.into());
        }
        let hint = match preset_like(&self.what) {
            Some(preset) => format!("did you mean {preset}?"),
            None => "kinglet presets and kinglet list show those there are".to_owned(),
        };
        Err(Error::BadConfig(format!("there is no preset {:?}, nor a run of this name; {hint}", self.what)).into())
    }
}

/// Bytes in MiB.
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A size with as many digits as it needs.
pub(super) fn in_mib(mib: f64) -> String {
    if mib < 10.0 { format!("{mib:.2} MiB") } else { format!("{mib:.0} MiB") }
}

/// The vocabulary size that a model is shown with whose text is not known.
pub(super) fn assumed_vocab(config: &Config) -> usize {
    match config.tokenizer {
        TokenizerKind::Bpe(size) => size,
        _ => SHAKESPEARE_VOCAB,
    }
}

/// The parts of the memory for training, in MiB.
pub(super) fn memory_parts_mib(memory: &Memory) -> Value {
    let Memory { weights, optimizer, gradients, activations, panels, rounded, teacher, .. } = *memory;
    let mut parts = json!({
        "weights_mib": mib(weights),
        "optimizer_mib": mib(optimizer),
        "gradients_mib": mib(gradients),
        "activations_mib": mib(activations),
        "panels_mib": mib(panels),
    });
    if rounded > 0 {
        parts["rounded_mib"] = mib(rounded).into();
    }
    if teacher > 0 {
        parts["teacher_mib"] = mib(teacher).into();
    }
    parts
}

impl Shown {
    /// Parameters by part, adding up the same tensor over all blocks.
    fn parts(&self) -> Vec<(String, usize)> {
        let mut parts: Vec<(String, usize)> = Vec::new();
        for tensor in &self.model.layout.tensors {
            let name = tensor.name.trim_start_matches("transformer.");
            let name = name.split('.').filter(|part| part.parse::<usize>().is_err()).collect::<Vec<_>>().join(".");
            match parts.iter_mut().find(|part| part.0 == name) {
                Some(part) => part.1 += tensor.span.len,
                None => parts.push((name, tensor.span.len)),
            }
        }
        parts
    }

    fn weights_mib(&self) -> f64 {
        mib(weight_bytes(&self.config, &self.model.layout) as u64)
    }

    /// The published "MB" include the weights and PyTorch's causal masks, one for each head.
    fn published_mib(&self) -> f64 {
        let Config { n_layer, n_head, block_size, .. } = self.config;
        self.weights_mib() + mib(4 * (n_layer * n_head * block_size.pow(2)) as u64)
    }

    /// The size of the weights, and which are in few bits.
    fn weights_text(&self) -> String {
        let size = format!("{:.2} MiB", self.weights_mib());
        let matrices = matrices(&self.config, &self.model.layout).len();
        match self.config.quantization {
            Quantization::None => size,
            scheme => {
                let plain = mib(4 * self.model.layout.len() as u64);
                // There are at least those of a block.
                format!("{size}: {matrices} matrices in few bits ({}); {plain:.2} MiB in f32", scheme.name())
            }
        }
    }

    fn json(&self) -> anyhow::Result<Value> {
        let config =
            FIELDS.iter().map(|field| Ok((field.key.to_owned(), serde_json::to_value(self.config.value(field.key))?)));
        let mut report = json!({
            "params": self.model.layout.len(),
            "trainable_params": self.model.layout.trainable_len(),
            "vocab_size": self.config.vocab_size,
            "parts": self.parts().into_iter().map(|(name, n)| (name, json!(n))).collect::<Map<_, _>>(),
            "weights_mib": self.weights_mib(),
            "training_mib": mib(self.memory.total()),
            "memory_parts_mib": memory_parts_mib(&self.memory),
            "config": config.collect::<anyhow::Result<Map<_, _>>>()?,
        });
        match &self.run {
            None => report["preset"] = json!(self.name),
            Some(state) => {
                report["run"] = json!(self.name);
                report["step"] = json!(state.as_ref().map(|state| state.step));
                let best = state.as_ref().and_then(|state| state.best);
                report["best_val_loss"] = json!(best.map(|(loss, _)| loss));
                report["best_step"] = json!(best.map(|(_, step)| step));
            }
        }
        if !self.config.quantization.is_none() {
            report["published_mib"] = json!(self.published_mib());
        }
        if let Some(Published { params, train_loss, val_loss, size, .. }) = self.published {
            report["published"] = json!({
                "params": params, "train_loss": train_loss, "val_loss": val_loss, "size_mib": size,
            });
            report["published_mib"] = json!(self.published_mib());
        }
        Ok(report)
    }

    fn text(&self) -> String {
        let what = if self.run.is_some() { "run" } else { "preset" };
        let about = PRESETS.iter().find(|preset| self.run.is_none() && preset.name == self.name);
        let mut lines = vec![(what, self.name.clone())];
        lines.extend(about.map(|preset| ("", preset.about.to_owned())));
        lines.extend(self.progress());
        let Config { n_layer, n_head, n_embd, block_size, head_size, .. } = self.config;
        let heads = match head_size {
            0 => count(n_head as u64, "head"),
            _ => format!("{} of {}", count(n_head as u64, "head"), count(head_size as u64, "channel")),
        };
        let shape = format!("{}, {heads} in each, {}", count(n_layer as u64, "block"), count(n_embd as u64, "channel"));
        lines.push(("model", format!("{shape}; sees {}", count(block_size as u64, "token"))));
        lines.push(("weights", self.weights_text()));
        lines.push(("memory to train", self.memory_text()));
        lines.extend(self.published_text());
        let assumed = match self.assumed {
            true if self.config.vocab_size == SHAKESPEARE_VOCAB => {
                format!("for the {SHAKESPEARE_VOCAB} characters of Tiny Shakespeare; the data decides\n")
            }
            true => format!("for a vocabulary of {}; the data decides\n", self.config.vocab_size),
            false => String::new(),
        };
        format!("{}\n{}{assumed}\n{}", pairs(&lines), columns(&self.part_rows()), self.settings())
    }

    /// Of a run: how far it is.
    fn progress(&self) -> Vec<(&'static str, String)> {
        let Some(state) = &self.run else { return Vec::new() };
        let Some(state) = state else { return vec![("steps done", "none: there is no checkpoint".to_owned())] };
        let best = state.best.map(|(loss, step)| format!("{loss:.4}, estimated at step {step}"));
        let steps = format!("{} of {}", state.step, self.config.max_iters);
        [("steps done", steps)].into_iter().chain(best.map(|best| ("best validation loss", best))).collect()
    }

    fn memory_text(&self) -> String {
        let Memory { weights, optimizer, gradients, activations, panels, .. } = self.memory;
        let [weights, optimizer, gradients, activations, panels] =
            [weights, optimizer, gradients, activations, panels].map(mib);
        let [rounded, teacher] = [("rounded weights", self.memory.rounded), ("teacher", self.memory.teacher)].map(
            |(what, bytes)| match bytes {
                0 => String::new(),
                bytes => format!(", {what} {:.1}", mib(bytes)),
            },
        );
        format!(
            "{:.0} MiB: weights {weights:.1}, optimizer {optimizer:.1}, gradients {gradients:.1}, activations \
             {activations:.1}, weights laid out for products {panels:.1}{rounded}{teacher}",
            mib(self.memory.total())
        )
    }

    /// Of a published model: its size as it was published, and its results.
    fn published_text(&self) -> Vec<(&'static str, String)> {
        let size = format!("{:.2} MB (MiB, with PyTorch's causal masks)", self.published_mib());
        let Some(Published { params, train_loss, val_loss, size: published, .. }) = self.published else {
            return if self.config.quantization.is_none() { Vec::new() } else { vec![("published size", size)] };
        };
        let params = *params as f64 / 1e6;
        let results = format!("{params:.6} M parameters, train loss {train_loss}, val loss {val_loss}, {published} MB");
        vec![("published size", size), ("published", results)]
    }

    fn part_rows(&self) -> Vec<Vec<String>> {
        let (params, trainable) = (self.model.layout.len(), self.model.layout.trainable_len());
        let mut rows = vec![row!["parameters", "number"]];
        rows.extend(self.parts().iter().map(|(name, number)| row![name, number]));
        rows.push(row!["total", params, format!("= {:.6} M", params as f64 / 1e6)]);
        if trainable < params {
            let share = 100.0 * trainable as f64 / params as f64;
            rows.push(row!["of which train", trainable, format!("= {share:.2} %")]);
        }
        rows
    }

    /// The settings that differ from the defaults.
    fn settings(&self) -> String {
        let is_shown = |key: &str| !(self.assumed && key == "vocab_size");
        let differing = FIELDS.iter().filter(|field| is_shown(field.key)).filter_map(|field| {
            let (value, default) = (self.config.value(field.key), field.default_value());
            let of_default = if field.is_settled_by_run() { String::new() } else { format!("   (default {default})") };
            (value != default).then(|| (field.key, format!("{value}{of_default}")))
        });
        let differing: Vec<_> = differing.collect();
        match differing.is_empty() {
            true => "all settings are the defaults\n".to_owned(),
            false => format!("settings that differ from the defaults\n{}", pairs(&differing)),
        }
    }
}

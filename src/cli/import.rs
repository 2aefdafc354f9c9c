//! `kinglet import`

use super::{
    choice::Threads,
    run_arg::{self, CheckpointArg, PlaceArg, RunArg},
    terminal,
};
use crate::{
    config::{AttentionScale, Config},
    error::Error,
    formats::{
        Format, ImportOptions, ImportReport, ImportedAdapters, Source, adapter_base, adapter_folder, import,
        import_adapters,
    },
    run::{HOME, RunDir},
};
use clap::{
    Arg, Command,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
};
use serde_json::json;
use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// Import a model of another program as a run
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  kinglet import model.pth --data input.txt
  kinglet import out/ckpt.pt --tokenizer data/shakespeare_char/meta.pkl
  kinglet import SmolLM2-135M --name smol
  kinglet import my-lora --base smol --name smol-lora")]
pub(super) struct Args {
    /// The model: a folder of Hugging Face's transformers, or a file of PyTorch (.pt, .pth, .bin), safetensors, GGUF,
    /// llm.c or llama2.c; or a folder with an adapter of PEFT (LoRA)
    path: PathBuf,
    #[command(flatten)]
    place: PlaceArg,
    /// The format, if the one that is found by the content is wrong
    #[arg(long, value_name = "FORMAT", value_parser = FormatName)]
    format: Option<Format>,
    /// An adapter's base: a run (RUN@STEP selects a checkpoint), or a file or folder that `kinglet import` takes
    /// [default: what the adapter says, if there is such a folder]
    #[arg(long, value_name = "RUN")]
    base: Option<OsString>,
    #[command(flatten)]
    told: Told,
    #[command(flatten)]
    threads: Threads,
}

/// What a file does not say.
#[derive(clap::Args)]
pub(super) struct Told {
    /// Its tokenizer: a tokenizer.json, or nanoGPT's meta.pkl [default: the one beside the model]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Text it was trained on: its characters are the vocabulary if there is no tokenizer, and its loss decides what is
    /// guessed; may be repeated
    #[arg(long, value_name = "TEXT")]
    data: Vec<String>,
    /// Attention heads in each block, if the file does not say it
    #[arg(long, value_name = "N")]
    n_head: Option<usize>,
    /// Size whose square root attention scores are divided by, if the file does not say it: head_size or n_embd
    #[arg(long, value_name = "SIZE", value_parser = scale)]
    attention_scale: Option<AttentionScale>,
    /// Set a configuration key; `kinglet keys` lists them; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Reads the name of a format, and tells shells which there are.
#[derive(Clone)]
pub(super) struct FormatName;

impl TypedValueParser for FormatName {
    type Value = Format;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Format, clap::Error> {
        let name = StringValueParser::new().parse_ref(command, arg, value)?;
        Format::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            let names: Vec<_> = Format::ALL.iter().map(|format| format.name()).collect();
            let what = format!("{name} is no format that is read; these are: {}\n", names.join(", "));
            clap::Error::raw(clap::error::ErrorKind::InvalidValue, what)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Format::ALL.iter().map(|format| PossibleValue::new(format.name()))))
    }
}

fn scale(text: &str) -> Result<AttentionScale, String> {
    match text {
        "head_size" => Ok(AttentionScale::HeadSize),
        "n_embd" => Ok(AttentionScale::NEmbd),
        _ => Err("must be head_size or n_embd".to_owned()),
    }
}

impl Told {
    /// Whether anything is told.
    pub(super) fn is_told(&self) -> bool {
        self.tokenizer.is_some()
            || !self.data.is_empty()
            || self.n_head.is_some()
            || self.attention_scale.is_some()
            || !self.set.is_empty()
    }

    /// The same for the library.
    pub(super) fn options(&self, format: Option<Format>) -> ImportOptions {
        ImportOptions {
            format,
            tokenizer: self.tokenizer.clone(),
            data: self.data.clone(),
            n_head: self.n_head,
            attention_scale: self.attention_scale,
            set: self.set.clone(),
        }
    }
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        terminal::leave_nothing_on_signal()?;
        self.threads.run(|| self.import(json))
    }

    fn import(&self, json: bool) -> anyhow::Result<()> {
        let is_peft = self.format.is_none_or(|format| format == Format::Peft);
        if let Some(folder) = adapter_folder(&self.path).filter(|_| is_peft) {
            return self.adapters(&folder, json);
        }
        if self.base.is_some() {
            let what =
                format!("--base is only for adapters of PEFT, and {} has no adapter_config.json", self.path.display());
            return Err(Error::BadConfig(what).into());
        }
        let imported = import(&self.path, &self.told.options(self.format))?;
        let start = |place: run_arg::Place| place.start(|out: &Path| imported.save(out));
        let run = self.place.start(|| default_out(&self.path), start, RunDir::path)?;
        terminal::note(&run.notes);
        show(&imported.portable.config, &imported.report, run.path(), json)
    }

    /// Adapters of PEFT, on their base.
    fn adapters(&self, folder: &Path, json: bool) -> anyhow::Result<()> {
        let (mut base, at) = self.base_of(folder)?;
        if self.base.is_none() {
            base.notes.push(format!("its base is the one that adapter_config.json names: {}", at.display()));
        }
        terminal::warn(&base.warnings);
        let imported: ImportedAdapters = import_adapters(folder, base, &at)?;
        let start = |place: run_arg::Place| place.start(|out: &Path| imported.save(out));
        let run = self.place.start(|| default_out(folder), start, RunDir::path)?;
        terminal::note(&run.notes);
        show(&imported.adapters.config, &imported.report, run.path(), json)
    }

    /// The model that an adapter is of, and where it is.
    fn base_of(&self, folder: &Path) -> anyhow::Result<(Source, PathBuf)> {
        let (says, found) = adapter_base(folder)?;
        let name = match (&self.base, found, says) {
            (Some(name), ..) => name.clone(),
            (None, Some(found), _) => found.into_os_string(),
            (None, None, says) => {
                let says = says.map_or_else(String::new, |says| format!("; it says {says}, which is not here"));
                let what = format!("adapters of PEFT belong to another model: --base RUN names it{says}");
                return Err(Error::run(folder, what).into());
            }
        };
        let at = PathBuf::from(&name);
        match RunArg::from(name).chosen(&CheckpointArg::default()) {
            Ok(_) if self.told.is_told() => {
                let what =
                    format!("{} is a run, which says itself what --tokenizer, --data and the like tell", at.display());
                Err(Error::BadConfig(what).into())
            }
            Ok(chosen) => Ok((Source::of_run(&chosen.run, chosen.which)?, chosen.run)),
            Err(_) if at.exists() => Ok((Source::of_import(&at, &self.told.options(None))?, at)),
            Err(error) => Err(error.into()),
        }
    }
}

/// `runs/STEM`; of a folder its name.
fn default_out(path: &Path) -> PathBuf {
    let path = if path.file_name().is_some() { path.to_owned() } else { path.canonicalize().unwrap_or_default() };
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let stem: String = stem
        .unwrap_or_default()
        .to_string_lossy()
        .chars()
        .map(|c| if c == '@' || c.is_control() { '-' } else { c })
        .collect();
    let stem = stem.trim_start_matches('.');
    Path::new(HOME).join(if stem.is_empty() { "imported" } else { stem })
}

fn show(config: &Config, report: &ImportReport, run: &Path, json: bool) -> anyhow::Result<()> {
    terminal::note(&report.notes);
    if json {
        let mut fields = serde_json::to_value(report)?;
        fields["out"] = run.display().to_string().into();
        fields["config"] = model(config);
        return terminal::print_json(&fields);
    }
    terminal::print(&text(config, report, run))?;
    let name = terminal::quoted(run);
    let mut hints = vec![
        ("write with it", format!("kinglet sample {name}")),
        ("train it further", format!("kinglet finetune {name} my.txt")),
    ];
    if !config.data.is_empty() {
        hints.insert(1, ("its loss", format!("kinglet eval {name}")));
    }
    terminal::hints(&hints)?;
    Ok(())
}

/// The keys that say what the model is.
fn model(config: &Config) -> serde_json::Value {
    let keys = crate::config::FIELDS.iter().filter(|field| field.section == "model");
    keys.map(|field| (field.key.to_owned(), json!(config.value(field.key)))).collect::<serde_json::Map<_, _>>().into()
}

fn text(config: &Config, report: &ImportReport, run: &Path) -> String {
    let ImportReport { format, origin, params, step, tokenizer, guesses, buffers_left_out, .. } = report;
    let mut text = format!("{origin} ({format})\n");
    let of = |n: usize, what| terminal::count(n as u64, what);
    let mut line = |what: &str, value: String| _ = writeln!(text, "{what:<12}{value}");
    let (layers, heads, channels) = (config.n_layer, config.n_head, config.n_embd);
    line("parameters", format!("{params}"));
    line(
        "shape",
        format!("{}, {}, {channels} channels, context {}", of(layers, "block"), of(heads, "head"), config.block_size),
    );
    if config.lora_rank > 0 {
        let (rank, alpha) = (config.lora_rank, config.lora_alpha);
        line("adapters", format!("rank {rank}, alpha {alpha}, on {}", config.value("lora_targets")));
    }
    line("tokenizer", format!("{tokenizer}, {} tokens", config.vocab_size));
    if *step > 0 {
        line("trained", terminal::count(*step, "step"));
    }
    if *buffers_left_out > 0 {
        line(
            "left out",
            match buffers_left_out {
                1 => "1 buffer, which holds nothing that was learned".to_owned(),
                n => format!("{n} buffers, which hold nothing that was learned"),
            },
        );
    }
    for guess in guesses {
        line("guessed", format!("{} = {} ({}): {}", guess.key, guess.value, guess.certainty, guess.reason));
    }
    line("run", run.display().to_string());
    text
}

//! `kinglet import`

use super::{
    choice::Threads,
    run_arg::{self, PlaceArg},
    terminal,
};
use crate::{
    config::{AttentionScale, Config},
    formats::{Arrival, Format, ImportOptions, ImportReport},
    run::RunDir,
};
use clap::{
    Arg, Command,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
};
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
        let arrival = Arrival::read(&self.path, self.base.as_deref(), &self.told.options(self.format))?;
        terminal::warn(&arrival.warnings);
        let start = |place: run_arg::Place| place.start(|out: &Path| arrival.save(out));
        let run = self.place.start(|| arrival.usual_out(), start, RunDir::path)?;
        terminal::note(&run.notes);
        show(&arrival, run.path(), json)
    }
}

fn show(arrival: &Arrival, run: &Path, json: bool) -> anyhow::Result<()> {
    let (config, report) = (arrival.config(), arrival.report());
    terminal::note(&report.notes);
    if json {
        return terminal::print_json(&arrival.json(run)?);
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

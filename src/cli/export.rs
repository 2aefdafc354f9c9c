//! `kinglet export`

use super::{
    choice::{Scheme, Threads},
    confirm::bytes,
    import::{FormatName, Told},
    run_arg::CheckpointArg,
    terminal,
};
use crate::{
    config::Quantization,
    formats::{self, Dtype, ExportOptions, Exported, Format, Source, Target, onnx::Ids},
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

/// The heading of what a model of another program may need.
const FOREIGN: &str = "Model of another program";

/// Where exports go.
const HOME: &str = "exports";

/// Write a model for another program: transformers, llama.cpp and Ollama, ONNX, PyTorch, C
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  kinglet export mine
  kinglet export mine --format gguf --dtype q8_0
  kinglet export mine@2000 --format onnx --out phone --ids int32 --static")]
pub(super) struct Args {
    /// Run: its folder, or its name in runs/; RUN@STEP selects a checkpoint. Or a file or folder that `kinglet import` takes
    run: OsString,
    /// Format: hf (a folder for transformers), gguf (llama.cpp, Ollama), onnx, pth (the state_dict of the lecture's code),
    /// nanogpt (the checkpoint that its sample.py takes), safetensors (the tensors alone), c (C source that needs no
    /// library), or peft (the adapters of a run, and the model they are on) [default: hf]
    #[arg(short = 'F', long, value_name = "FORMAT", default_value = "hf", value_parser = TargetName, hide_default_value = true, hide_possible_values = true)]
    format: Target,
    /// New folder [default: exports/RUN-FORMAT]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How weights are stored: f32, f16 or bf16; in gguf also q8_0, q5_0 or q4_0; in safetensors also int8 [default: f32; in
    /// gguf, of a run with weights in few bits, the type that has its integers]
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    dtype: Option<Dtype>,
    /// Largest difference of log-probabilities that rewriting may make [default: 1e-4, or 1e-2 with a --dtype of fewer
    /// bits than f32]
    #[arg(long, value_name = "X", value_parser = max_difference)]
    max_difference: Option<f64>,
    /// onnx: the type of token ids, int64 or int32 [default: int64]
    #[arg(long, value_name = "TYPE", value_parser = ids, default_value = "int64", hide_default_value = true)]
    ids: Ids,
    /// onnx: a graph of fixed sizes, without a cache, for phones
    #[arg(long = "static")]
    fixed: bool,
    /// gguf, onnx, c and safetensors: round the matrices of the blocks to eight bits (w8) or four (w4) on the way out,
    /// without measuring what they are multiplied by; `kinglet quantize` does, and shows what it costs
    #[arg(long, alias = "quantize", value_name = "SCHEME", value_enum)]
    scheme: Option<Scheme>,
    #[command(flatten)]
    checkpoint: CheckpointArg,
    #[command(flatten)]
    threads: Threads,
    /// The format of a file or folder, if the content shows another
    #[arg(help_heading = FOREIGN, long, value_name = "FORMAT", value_parser = FormatName)]
    from: Option<Format>,
    #[command(flatten, next_help_heading = FOREIGN)]
    told: Told,
}

/// Reads the name of a format, and tells shells which there are.
#[derive(Clone)]
struct TargetName;

impl TypedValueParser for TargetName {
    type Value = Target;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Target, clap::Error> {
        let name = StringValueParser::new().parse_ref(command, arg, value)?;
        Target::ALL.into_iter().find(|target| target.name() == name).ok_or_else(|| {
            let names: Vec<_> = Target::ALL.iter().map(|target| target.name()).collect();
            let what = format!("{name} is no format that is written; these are: {}\n", names.join(", "));
            clap::Error::raw(clap::error::ErrorKind::InvalidValue, what)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Target::ALL.iter().map(|target| PossibleValue::new(target.name()))))
    }
}

fn dtype(text: &str) -> Result<Dtype, String> {
    let all = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8_0, Dtype::Q5_0, Dtype::Q4_0];
    let found = all.into_iter().find(|dtype| dtype.name() == text);
    let int8 = (text == "int8").then_some(Dtype::I8);
    found.or(int8).ok_or_else(|| "must be f32, f16, bf16, q8_0, q5_0, q4_0 or int8".to_owned())
}

fn max_difference(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0);
    number.ok_or_else(|| "must be a number that is not negative".to_owned())
}

fn ids(text: &str) -> Result<Ids, String> {
    match text {
        "int64" => Ok(Ids::Int64),
        "int32" => Ok(Ids::Int32),
        _ => Err("must be int64 or int32".to_owned()),
    }
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        terminal::leave_nothing_on_signal()?;
        self.threads.run(|| self.export(json))
    }

    fn export(&self, json: bool) -> anyhow::Result<()> {
        let mut options = ExportOptions::default();
        (options.dtype, options.max_difference) = (self.dtype, self.max_difference);
        (options.ids, options.fixed) = (self.ids, self.fixed);
        options.scheme = self.scheme.map_or(Quantization::None, Quantization::from);
        let source = Source::named(&self.run, self.checkpoint.checkpoint, self.format, &self.told.options(self.from))?;
        terminal::warn(&source.warnings);
        terminal::note(&source.notes);
        let out =
            self.out.clone().unwrap_or_else(|| Path::new(HOME).join(format!("{}-{}", source.name, self.format.name())));
        let exported = formats::export(source, self.format, &out, &options)?;
        terminal::note(&exported.written.notes);
        show(&exported, self.format, &out, json)
    }
}

fn show(exported: &Exported, target: Target, out: &Path, json: bool) -> anyhow::Result<()> {
    if json {
        return terminal::print_json(&exported.json(target, out));
    }
    terminal::print(&text(exported, out))?;
    let hints: Vec<_> = exported.written.usage.iter().map(|command| ("use it", command.clone())).collect();
    Ok(terminal::hints(&hints)?)
}

fn text(exported: &Exported, out: &Path) -> String {
    let Exported {
        architecture,
        rewrites,
        difference,
        stored_difference,
        run_difference,
        measured_in_f32,
        written,
        ..
    } = exported;
    let mut text = String::new();
    let mut line = |what: &str, value: &str| _ = writeln!(text, "{what:<12}{value}");
    for limit in &written.limits {
        line("limit", limit);
    }
    if let Some(name) = architecture {
        line("there it is", name);
    }
    if rewrites.is_empty() {
        line("rewritten", "nothing");
    }
    for rewrite in rewrites {
        line("rewritten", &rewrite.to_string());
    }
    let with = if *measured_in_f32 { "in f32, since the model is large" } else { "in f64" };
    if let Some(difference) = difference {
        line("difference", &format!("{difference:.1e}, the largest of log-probabilities, measured {with}"));
    }
    if let Some(difference) = stored_difference {
        line("stored", &format!("{difference:.1e} with the numbers as they are stored"));
    }
    if let Some(difference) = run_difference {
        line("kinglet", &format!("{difference:.1e}, since it rounds what weights in few bits are multiplied by too"));
    }
    for (name, size) in &written.files {
        line("file", &format!("{} ({})", out.join(name).display(), bytes(*size)));
    }
    text
}

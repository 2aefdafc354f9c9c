//! `kinglet finetune`

use super::{
    choice::{Scheme, Threads},
    machines::MachinesArg,
    plan::{self, How, Planned},
    report::{Finished, Reporter, finish, stop_team_on_signal},
    run_arg::{self, CheckpointArg, Chosen, Place, PlaceArg, RunArg},
    terminal::{self, Ended},
    world::World,
};
use crate::{
    config::{Config, Quantization},
    error::Error,
    run::{Kind, change_tags, data_name},
    train::{
        self, Event, Memory, Options,
        finetune::{self, Finetune, Texts},
    },
};
use std::path::{Path, PathBuf};

/// Train a run further on other text, or on prompts and responses
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) choice: Choice,
    #[command(flatten)]
    place: PlaceArg,
    /// Tag the new run, for `kinglet list --tag`; may be repeated
    #[arg(long, value_name = "TAG", value_parser = run_arg::tag)]
    tag: Vec<String>,
    /// On several ranks: each keeps the optimizer's moments of a part of the weights only (ZeRO-1), which takes less memory and
    /// more traffic; results do not depend on it
    #[arg(long)]
    zero: bool,
    #[command(flatten)]
    threads: Threads,
    /// Only estimate the time and memory, after a few seconds of measuring
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    machines: MachinesArg,
}

/// The headings of options.
const ADAPTERS: &str = "Adapters (LoRA)";
const ROUNDED: &str = "Weights in few bits";
const MODEL: &str = "Model and data";

/// What to fine-tune on what.
#[derive(clap::Args)]
pub(super) struct Choice {
    /// Base run: its folder, or its name in runs/; RUN@STEP selects a checkpoint
    run: RunArg,
    /// Text, as for train; or .jsonl with "prompt" and "response", or with "messages", where only the answers are
    /// learned
    #[arg(required_unless_present = "qat")]
    data: Vec<String>,
    /// Round the weights while training (quantization-aware training): the new run is a model with weights in 8 or 4 bits, and
    /// better than one that is rounded afterwards. Without DATA it trains on the base run's. By default there are 500 updates, and
    /// learning rates are a quarter of the base run's
    #[arg(help_heading = ROUNDED, long, value_name = "SCHEME", value_enum)]
    qat: Option<Scheme>,
    /// Train LoRA adapters of this rank instead of the weights; they are small and saved separately
    #[arg(help_heading = ADAPTERS, long, value_name = "RANK", value_parser = clap::value_parser!(u16).range(1..=4096))]
    lora: Option<u16>,
    /// The output of adapters is scaled by ALPHA / RANK [default: 16]
    #[arg(help_heading = ADAPTERS, long, value_name = "ALPHA", requires = "lora")]
    lora_alpha: Option<f64>,
    /// Dropout on the adapters' input [default: 0]
    #[arg(help_heading = ADAPTERS, long, value_name = "P", requires = "lora")]
    lora_dropout: Option<f64>,
    /// Do not train these parameters; names are those in model.safetensors, such as transformer.h.0.*, where * matches
    /// anything; may be repeated
    #[arg(help_heading = MODEL, long, value_name = "NAME")]
    freeze: Vec<String>,
    /// Fraction of the sequences that are drawn from the base run's data, to reduce forgetting [default: 0]
    #[arg(help_heading = MODEL, long, value_name = "SHARE")]
    replay: Option<f64>,
    /// Current location of the base run's text, if it has moved; it must be the same text; may be repeated
    #[arg(help_heading = MODEL, long, value_name = "DATA")]
    replay_data: Vec<String>,
    /// Set a configuration key; `kinglet keys` lists them; may be repeated
    #[arg(help_heading = MODEL, long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Field (JSON lines) or column (CSV) that contains the text [default: text]
    #[arg(help_heading = MODEL, long, value_name = "NAME")]
    field: Option<String>,
    /// Skip and count records that cannot be read; the same as --set skip_bad=true
    #[arg(help_heading = MODEL, long)]
    skip_bad: bool,
    /// Seed of all random numbers; the same as --set seed=N
    #[arg(help_heading = MODEL, long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    checkpoint: CheckpointArg,
}

impl Args {
    /// Whether several processes can share the work.
    pub(super) fn is_shared(&self) -> bool {
        !self.plan
    }

    /// The number of threads that was asked for, or 0.
    pub(super) fn threads(&self) -> usize {
        self.threads.count()
    }

    pub(super) fn run(&self, json: bool, world: &World) -> anyhow::Result<Ended> {
        world.lead_or_serve(self.threads(), |threads| self.finetune(json, world, threads))
    }

    fn finetune(&self, json: bool, world: &World, threads: usize) -> anyhow::Result<Ended> {
        // An unknown KINGLET_ISA is refused before anything is written.
        let be = world.cpu()?;
        Memory::share_among(world.team().size(), self.zero);
        let machines = self.machines.only_with(self.plan, self.zero)?;
        let chosen = self.choice.run.chosen(self.choice.checkpoint.checkpoint)?;
        let qat = self.choice.qat.map_or(Quantization::None, Quantization::from);
        let out = default_out(&chosen.run, &self.choice.data, qat);
        let prepared = self.choice.prepare(&chosen, |config| world.share(config, threads))?;
        if self.plan {
            let Finetune { config, tokenizer, data, old, .. } = &prepared;
            let out = self.place.given().unwrap_or(out);
            let name = out.to_string_lossy();
            let shards = self.choice.shards()?;
            let run = Planned { name: &name, kind: "out", config, shards, tokenizer, data, old: old.as_ref() };
            plan::show(&run, be, &How { threads, seconds: 3.0, machines, json })?;
            return Ok(Ended::Done);
        }
        let start = |place| match place {
            Place::Given(out) => prepared.start(&out),
            Place::Free(out) => prepared.start_free(&out),
        };
        let job = self.place.start(|| out, start, |job| job.run.path())?;
        // The run has been created: it begins, with its tags or without them.
        if let Err(error) = change_tags(job.run.path(), &self.tag, &[]) {
            terminal::warn(&[format!("the run is not tagged: {}", error.one_line())]);
        }
        stop_team_on_signal(world.team())?;
        let mut reporter = Reporter::new(json, &job.run.config);
        let finished = Finished::of(&job);
        let options = Options::default().threads(threads).stop(world.team().stop()).team(world.team()).zero(self.zero);
        let last = train::run(job, be, &options, |event| reporter.event(event))?;
        if let Event::Interrupted { .. } = last {
            return Ok(Ended::Interrupted);
        }
        finish(&finished, json)
    }
}

/// The folder of a run that goes on from `run` with `data`, or with its own text in few bits (`qat`): beside that one, or beside the
/// tuning that it is in.
pub(super) fn default_out(run: &Path, data: &[String], qat: Quantization) -> PathBuf {
    // A run that is given as "." has a name too.
    let run = if run.file_name().is_some() { run.to_owned() } else { run.canonicalize().unwrap_or_default() };
    let data = data.first().map(|name| data_name(name)).filter(|name| !name.is_empty());
    let what = data.as_deref().or((!qat.is_none()).then(|| qat.name())).unwrap_or("finetuned");
    let name = format!("{}-{what}", run.file_name().unwrap_or_default().display());
    let tuning = run.parent().and_then(Path::parent).filter(|above| Kind::of(above) == Some(Kind::Tuning));
    match tuning.and_then(|tuning| Some((tuning, tuning.file_name()?))) {
        Some((tuning, of)) => tuning.with_file_name(format!("{}-{name}", of.display())),
        None => run.with_file_name(name),
    }
}

impl Choice {
    /// The parts of a batch that are asked for; 0 is the default, which is not the base run's.
    fn shards(&self) -> Result<usize, Error> {
        let mut alone = Config::default();
        let mut of_shards =
            self.set.iter().filter(|set| set.split('=').next().is_some_and(|key| key.trim() == "shards"));
        of_shards.try_for_each(|setting| alone.set(setting))?;
        Ok(alone.shards)
    }

    /// Prepares the run; `last` changes the configuration when all else is set.
    pub(super) fn prepare(
        &self,
        Chosen { run, which }: &Chosen,
        last: impl Fn(&mut Config) -> Result<(), Error>,
    ) -> anyhow::Result<Finetune> {
        if self.qat.is_some() && self.lora.is_some() {
            let what = "--qat and --lora exclude each other, because adapters are not rounded: fine-tune with --lora first, and \
                        then that run with --qat";
            return Err(Error::BadConfig(what.into()).into());
        }
        let sets = |setting: &String| setting.split('=').next().is_some_and(|key| key.trim() == "quantization");
        if self.qat.is_some() && self.set.iter().any(sets) {
            return Err(
                Error::BadConfig("--qat and --set quantization say the same twice: leave one out".into()).into()
            );
        }
        let texts = Texts { data: &self.data, replay_data: &self.replay_data, ..Texts::default() };
        Ok(finetune::prepare_with(run, *which, texts, |config| {
            self.set.iter().try_for_each(|setting| config.set(setting))?;
            config.quantization = self.qat.map_or(config.quantization, Quantization::from);
            config.lora_rank = self.lora.map_or(config.lora_rank, usize::from);
            config.lora_alpha = self.lora_alpha.unwrap_or(config.lora_alpha);
            config.lora_dropout = self.lora_dropout.unwrap_or(config.lora_dropout);
            config.replay = self.replay.unwrap_or(config.replay);
            config.skip_bad |= self.skip_bad;
            config.seed = self.seed.unwrap_or(config.seed);
            self.field.iter().for_each(|field| config.data_field.clone_from(field));
            if !self.freeze.is_empty() {
                config.freeze.clone_from(&self.freeze);
            }
            last(config)
        })?)
    }
}

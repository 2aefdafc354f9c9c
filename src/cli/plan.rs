//! `kinglet plan`

use super::{
    choice::{Choice, Threads},
    info::{in_mib, memory_parts_mib, mib},
    machines::{self, MachinesArg},
    report::{conversations, parameters, size, time},
    terminal,
};
use crate::{
    backend::{Cpu, Forward},
    config::Config,
    data::Dataset,
    error::{Error, Result},
    model::Gpt,
    text::tokenizer::Tokenizer,
    threads::with_threads,
    train::{Machines, Memory, Scaling, plan::Plan, resolve},
};
use serde_json::{Value, json};

/// Estimate the time and memory of a training run
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    machines: MachinesArg,
    /// With --ranks: each keeps the optimizer's moments of a part of the weights only, as with `kinglet train --zero`
    #[arg(long, requires = "ranks")]
    zero: bool,
    #[command(flatten)]
    threads: Threads,
    /// Seconds to measure
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = super::choice::seconds)]
    seconds: f64,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        self.threads.run(|| self.plan(json))
    }

    fn plan(&self, json: bool) -> anyhow::Result<()> {
        let machines = self.machines.machines(self.zero);
        let how = How { threads: self.threads.count(), seconds: self.seconds, machines, json };
        of_choice(&self.choice, Cpu::new()?, &how)
    }
}

/// How to plan.
pub(super) struct How {
    pub(super) threads: usize,
    /// Seconds to measure.
    pub(super) seconds: f64,
    pub(super) machines: Option<Machines>,
    pub(super) json: bool,
}

/// Plans a training from the start.
pub(super) fn of_choice(choice: &Choice, be: Cpu, how: &How) -> anyhow::Result<()> {
    let (config, name) = choice.config()?;
    let shards = config.shards;
    let (config, tokenizer, data) = resolve(config)?;
    let name = name.to_string_lossy();
    let (kind, config, tokenizer, data) = (choice.kind(), &config, &tokenizer, &data);
    show(&Planned { name: &name, kind, config, shards, tokenizer, data, old: None }, be, how)
}

/// A run that is planned.
pub(super) struct Planned<'a> {
    pub(super) name: &'a str,
    /// What has that name, as JSON calls it: `preset`, `config` (a file) or `out` (a run).
    pub(super) kind: &'static str,
    pub(super) config: &'a Config,
    /// The parts of a batch that were asked for; 0 is the default.
    pub(super) shards: usize,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) data: &'a Dataset,
    /// What a fine-tuning may forget.
    pub(super) old: Option<&'a Dataset>,
}

/// What was measured of a run that is planned.
struct Measured {
    plan: Plan,
    scaling: Option<Scaling>,
    params: usize,
    memory: Memory,
    /// Of all checkpoints.
    disk_mib: f64,
}

/// Measures the time and memory that a run would take.
fn measure(run: &Planned, be: Cpu, how: &How) -> Result<Measured> {
    let &Planned { config, shards, tokenizer, data, old, .. } = run;
    let &How { threads, seconds, machines, .. } = how;
    let be = be.with_precision(config.precision);
    let folder = tempfile::tempdir().map_err(Error::io("create a folder in", &std::env::temp_dir()))?;
    let (data_of_run, folder) = ((data, old), folder.path());
    let measure = || -> Result<_> {
        let Some(machines) = machines else {
            return Ok((Plan::measure(config, tokenizer, data_of_run, be, folder, seconds)?, None));
        };
        let (plan, scaling) =
            Plan::measure_on(config, tokenizer, data_of_run, be, folder, seconds, (machines, shards))?;
        Ok((plan, Some(scaling)))
    };
    let (plan, scaling) = with_threads(threads, measure)??;
    let (params, memory) = (Gpt::new(config)?.layout.len(), Memory::of(config)?);
    Ok(Measured { plan, scaling, params, memory, disk_mib: mib(Memory::of_checkpoints(config)?) })
}

/// The time and memory that a run would take, as JSON.
pub(super) fn report(run: &Planned, be: Cpu, how: &How) -> Result<Value> {
    Ok(json(run, &measure(run, be, how)?))
}

fn json(run: &Planned, measured: &Measured) -> Value {
    let &Planned { name, kind, data, .. } = run;
    let Measured { plan, scaling, params, memory, disk_mib } = measured;
    let mut report = serde_json::to_value(plan).expect("plain values");
    let about = json!({
        kind: name,
        "params": params,
        "train_tokens": data.train.tokens(),
        "val_tokens": data.val.tokens(),
        "training_mib": mib(memory.total()),
        "memory_parts_mib": memory_parts_mib(memory),
        "disk_mib": disk_mib,
    });
    let (Value::Object(entries), Value::Object(about)) = (&mut report, about) else { unreachable!("objects") };
    entries.extend(about);
    if let Some(scaling) = scaling {
        entries.insert("scaling".into(), serde_json::to_value(scaling).expect("plain values"));
    }
    report
}

/// Measures and prints the time and memory that a run would take.
pub(super) fn show(run: &Planned, be: Cpu, how: &How) -> anyhow::Result<()> {
    let &Planned { name, config, data, .. } = run;
    terminal::note(&data.notes);
    terminal::warn(&config.doubts());
    terminal::note_precision(config.precision, be.with_precision(config.precision).precision());
    let measured = measure(run, be, how)?;
    if how.json {
        return terminal::print_json(&json(run, &measured));
    }
    let Measured { plan, scaling, params, disk_mib, .. } = measured;
    let text = format!(
        "{name}: {}, {} + {} tokens{}\n{}{}checkpoints: {} on disk in the end\n{}",
        parameters(params),
        data.train.tokens(),
        data.val.tokens(),
        conversations(data.train.conversations()),
        size(&plan),
        time(&plan),
        in_mib(disk_mib),
        scaling.as_ref().map(machines::text).unwrap_or_default()
    );
    terminal::print(&text)?;
    terminal::warn(plan.advice.as_slice());
    Ok(())
}

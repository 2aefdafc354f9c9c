//! `kinglet plan`

use super::train::Choice;
use anyhow::Context;
use kinglet::{
    backend::Cpu,
    config::Config,
    data::Dataset,
    model::Gpt,
    plan::Plan,
    shards::with_threads,
    tokenizer::Tokenizer,
    train::{Memory, prepare},
};
use serde_json::{Value, json};

/// Say what a training run would take, after a few seconds of measuring: time, memory, tokens
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    choice: Choice,
    /// Threads to work with [default: one for each core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(..=1024))]
    threads: u16,
    /// Seconds to measure for
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = super::seconds)]
    seconds: f64,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let (config, name) = self.choice.config()?;
        let (config, tokenizer, data) = prepare(config)?;
        let threads = usize::from(self.threads);
        show(&name.to_string_lossy(), &config, &tokenizer, &data, None, threads, self.seconds, json)
    }
}

/// Measures and prints what a run would take.
pub(super) fn show(
    name: &str,
    config: &Config,
    tokenizer: &Tokenizer,
    data: &Dataset,
    old: Option<&Dataset>,
    threads: usize,
    seconds: f64,
    json: bool,
) -> anyhow::Result<()> {
    let be = Cpu::new()?.with_precision(config.precision);
    super::note_precision(config.precision, be.precision());
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let measure = || Plan::measure(config, tokenizer, data, old, &be, folder.path(), seconds);
    let plan = with_threads(threads, measure)?;
    let params = Gpt::new(config).layout.len();
    if json {
        let mut report = serde_json::to_value(&plan)?;
        let about = json!({"name": name, "params": params, "memory_bytes": Memory::of(config)});
        let (Value::Object(report), Value::Object(about)) = (&mut report, about) else { unreachable!("objects") };
        report.extend(about);
        return super::print_json(&report);
    }
    let text = format!(
        "{name}: {:.6} M parameters, {} + {} tokens\n{}{}",
        params as f64 / 1e6,
        data.train.tokens(),
        data.val.tokens(),
        size(&plan),
        time(&plan)
    );
    Ok(super::print(&text)?)
}

/// The lines about a run's size.
pub(super) fn size(plan: &Plan) -> String {
    let advice = plan.advice.as_ref().map_or(String::new(), |advice| format!("warning: {advice}\n"));
    format!(
        "{} steps, {:.2} M tokens: the text {:.1} times; {:.2} tokens of text a parameter; {:.0} MiB of memory\n{advice}",
        plan.steps,
        plan.tokens / 1e6,
        plan.epochs,
        plan.tokens_per_param,
        plan.memory_mib
    )
}

/// The line about a run's time.
pub(super) fn time(plan: &Plan) -> String {
    plan.time.map_or(String::new(), |time| {
        format!(
            "about {}: {:.2} ms a step, {} an estimate, {} a checkpoint\n",
            duration(time.wall_s),
            time.ms_per_step,
            duration(1e-3 * time.ms_per_estimate),
            duration(1e-3 * time.ms_per_checkpoint)
        )
    })
}

/// A duration as one would say it.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", 1e3 * s),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

//! `kinglet train`

use super::Ended;
use indicatif::ProgressBar;
use kinglet::{
    backend::Cpu,
    config::{Config, OnDivergence, PRESETS, Precision},
    train::{self, Event, Job},
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

const BAR: &str = "{wide_bar:.cyan/dim} step {human_pos}/{human_len} {msg} {eta} left";

/// Train a model on text, from the start or from where a run stopped
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    choice: Choice,
    /// The run's folder [default: runs/ and the name of the configuration]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in --out, from its last checkpoint; --set changes what need not stay
    #[arg(long, conflicts_with_all = ["data", "preset", "config", "seed", "tokenizer", "field"])]
    resume: bool,
    /// Threads to work with; the result does not depend on it [default: one for each core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(..=1024))]
    threads: u16,
}

/// What to train on what.
#[derive(clap::Args)]
pub(super) struct Choice {
    /// The text: files, folders, patterns, "-" for standard input, "tinyshakespeare" or another known name ["builtin" if
    /// nothing is named]; as text, .jsonl, .json or .csv, also .gz or .zst; or token ids, of kinglet data prepare,
    /// nanoGPT or llm.c
    data: Vec<String>,
    /// A configuration that comes with kinglet: big-0.2m, big-2.7m, shakespeare-char, shakespeare-cpu, gpt2
    /// [default: big-0.2m]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    preset: Option<String>,
    /// A configuration of your own; kinglet info PRESET shows how one looks
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Override a configuration key; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// How text becomes tokens: char, byte, bpe:SIZE, or a tokenizer.json of Hugging Face's [default: char]
    #[arg(long, value_name = "KIND")]
    tokenizer: Option<String>,
    /// The field or column with the text, in JSON lines and CSV [default: text]
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
    /// Seed of every random number; the same as --set seed=N
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<Ended> {
        let job = self.job()?;
        let stop = stop_on_signal()?;
        let mut reporter = Reporter::new(json, &job.run.config);
        let last = train::run(&job, &Cpu::new()?, usize::from(self.threads), &stop, |event| reporter.event(event))?;
        Ok(match last {
            Event::Interrupted { .. } => Ended::Interrupted,
            _ => finish(&job, json)?,
        })
    }

    fn job(&self) -> anyhow::Result<Job> {
        let out = |name: std::ffi::OsString| self.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(name));
        if self.resume {
            return Ok(Job::resume(&out(PRESETS[0].0.into()), &self.choice.set)?);
        }
        let (config, name) = self.choice.config()?;
        Ok(Job::start(config, &out(name))?)
    }
}

/// What is shown when a run is done.
pub(super) fn finish(job: &Job, json: bool) -> anyhow::Result<Ended> {
    if !json {
        let sample = std::fs::read_to_string(job.run.path().join("sample.txt"))?;
        let (out, command) =
            (job.run.path().display(), if job.data.val.is_conversations() { "chat" } else { "sample" });
        super::print(&format!("\n{sample}\n\nmore of it: kinglet {command} {out}\n"))?;
    }
    Ok(Ended::Done)
}

impl Choice {
    /// The configuration that was asked for, and its name.
    pub(super) fn config(&self) -> anyhow::Result<(Config, std::ffi::OsString)> {
        let (mut config, name) = match &self.config {
            Some(path) => (Config::from_file(path)?, path.file_stem().unwrap_or_default().to_owned()),
            None => {
                let name = self.preset.as_deref().unwrap_or(PRESETS[0].0);
                (Config::preset(name)?, name.into())
            }
        };
        self.set.iter().try_for_each(|setting| config.set(setting))?;
        let words = self.tokenizer.as_ref().map(|kind| format!("tokenizer={kind:?}"));
        let seed = self.seed.map(|seed| format!("seed={seed}"));
        let field = self.field.as_ref().map(|field| format!("data_field={field:?}"));
        words.iter().chain(&seed).chain(&field).try_for_each(|setting| config.set(setting))?;
        if !self.data.is_empty() {
            config.data.clone_from(&self.data);
        }
        if config.data.is_empty() {
            config.data = vec![kinglet::source::BUILTIN.to_owned()];
        }
        Ok((config, name))
    }
}

/// A flag that SIGINT (Ctrl-C) and SIGTERM set; a second signal ends the program at once.
pub(super) fn stop_on_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        super::tell("\nstopping; once more to leave at once");
    })?;
    Ok(stop)
}

/// Shows a run's events: as lines and a progress bar, or as JSON.
pub(super) struct Reporter {
    json: bool,
    bar: ProgressBar,
    log_interval: u64,
    precision: Precision,
}

impl Reporter {
    pub(super) fn new(json: bool, config: &Config) -> Reporter {
        let bar = super::progress_bar(config.max_iters, BAR);
        Reporter { json, bar, log_interval: config.log_interval, precision: config.precision }
    }

    pub(super) fn event(&mut self, event: &Event) {
        if let Event::Start { precision, .. } = event {
            super::note_precision(self.precision, *precision);
        }
        // A reader of our output who went away must not end the training.
        let _ = if self.json { self.event_json(event) } else { self.event_text(event) };
    }

    fn event_json(&self, event: &Event) -> anyhow::Result<()> {
        match event {
            Event::Measuring { .. } => Ok(()),
            Event::Step { step, .. } if !step.is_multiple_of(self.log_interval) => Ok(()),
            event => {
                if let Event::Warning { step, warning } = event {
                    super::tell(&format!("warning: at step {step}: {warning}"));
                }
                super::print_json(event)
            }
        }
    }

    fn event_text(&mut self, event: &Event) -> anyhow::Result<()> {
        let say = |text: String| self.bar.suspend(|| super::print(&text));
        match event {
            Event::Start {
                step,
                params,
                trainable_params,
                vocab_size,
                train_tokens,
                val_tokens,
                entropy_floor,
                plan,
                out,
                ..
            } => {
                self.bar.set_position(*step);
                self.bar.reset_eta();
                let floor = entropy_floor.map_or(String::new(), |nats| format!("; entropy floor {nats:.4} nats"));
                let trainable = if trainable_params < params {
                    format!(" of which {:.6} M train", *trainable_params as f64 / 1e6)
                } else {
                    String::new()
                };
                let from = if *step > 0 { format!(", from step {step}") } else { String::new() };
                say(format!(
                    "{:.6} M parameters{trainable}, {vocab_size} words, {train_tokens} + {val_tokens} tokens{floor}\n\
                     {}run in {out}{from}\n",
                    *params as f64 / 1e6,
                    super::plan::size(plan)
                ))?;
            }
            Event::Step { step, loss, lr, tokens_per_s, .. } => {
                self.bar.set_message(format!("loss {loss:.3} lr {lr:.1e} {} tok/s", *tokens_per_s as u64));
                self.bar.set_position(*step);
            }
            Event::Planned { plan, .. } => say(super::plan::time(plan))?,
            Event::Warning { step, warning } => {
                self.bar.suspend(|| super::tell(&format!("warning: at step {step}: {warning}")));
            }
            Event::Diverged { step, action, divergence, .. } => self.bar.suspend(|| {
                let done = match action {
                    OnDivergence::Stop => return,
                    OnDivergence::Skip => "the update is left out",
                    OnDivergence::Rollback => "back to the checkpoint, with a lower learning rate",
                };
                super::tell(&format!("warning: {divergence}: {done}; now at step {step}"));
            }),
            Event::EarlyStop { best_val_loss, best_step, .. } => {
                say(format!("stopping early: no validation loss below {best_val_loss:.4}, of step {best_step}\n"))?;
            }
            Event::Measuring { done, of, .. } => {
                self.bar.set_message(format!("measuring the loss {}%", 100 * done / of));
                self.bar.tick();
            }
            Event::Estimate { step, train_loss, val_loss, old_val_loss, .. } => {
                let old = old_val_loss.map_or(String::new(), |loss| format!(", old val loss {loss:.4}"));
                say(format!("step {step}: train loss {train_loss:.4}, val loss {val_loss:.4}{old}\n"))?;
            }
            Event::Interrupted { step, out } => {
                self.bar.finish_and_clear();
                super::print(&format!("stopped at step {step}; go on with: kinglet train --resume --out {out}\n"))?;
            }
            Event::Done {
                step,
                val_loss_exact,
                val_loss_stderr,
                bits_per_char,
                best_val_loss,
                best_step,
                change,
                val_loss,
                entropy_floor,
                baseline,
                ms_per_step,
                tokens_per_s,
                wall_s,
                ..
            } => {
                self.bar.finish_and_clear();
                let floor = entropy_floor
                    .map_or(String::new(), |nats| format!(", {:.4} above the floor", val_loss_exact - nats));
                let baseline = baseline.map_or(String::new(), |baseline| {
                    format!("; a {} that only counts: {:.4}", baseline.name, baseline.nats_per_token)
                });
                let change = change.map_or(String::new(), |change| {
                    let old = change.old_val_loss_before.zip(change.old_val_loss);
                    let old = old.map_or(String::new(), |(a, b)| format!("; on the old data {a:.4}, now {b:.4}"));
                    format!("before: {:.4}, now {val_loss:.4}{old}\n", change.val_loss_before)
                });
                super::print(&format!(
                    "\nvalidation loss, exact: {val_loss_exact:.4} ± {val_loss_stderr:.4} nats, \
                     {bits_per_char:.3} bits per character{floor}{baseline}\n\
                     best estimate: {best_val_loss:.4} at step {best_step}\n{change}\
                     {step} steps in {wall_s:.1} s ({ms_per_step:.2} ms a step, {tokens_per_s:.0} tok/s; \
                     the rest measured losses)\n",
                ))?;
            }
        }
        Ok(())
    }
}

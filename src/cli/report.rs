//! A run told in the terminal: events as lines and a progress bar, or as JSON.

use super::Ended;
use indicatif::ProgressBar;
use kinglet::{
    config::{Config, OnDivergence, Precision},
    train::{Event, Job, plan::Plan},
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

const BAR: &str = "{wide_bar:.cyan/dim} step {human_pos}/{human_len} {msg} {eta} left";
/// What is shown of a run when it is done.
pub(super) struct Finished {
    out: PathBuf,
    command: &'static str,
}

impl Finished {
    pub(super) fn of(job: &Job) -> Finished {
        let command = if job.data.val.is_conversations() { "chat" } else { "sample" };
        Finished { out: job.run.path().to_owned(), command }
    }
}

/// Shows what a run that is done has written.
pub(super) fn finish(Finished { out, command }: &Finished, json: bool) -> anyhow::Result<Ended> {
    // It is not there if it could not be written, of which there was a warning.
    let sample = std::fs::read_to_string(out.join("sample.txt")).ok().filter(|_| !json);
    if let Some(sample) = sample {
        super::print(&format!("\n{sample}\n\nmore of it: kinglet {command} {}\n", out.display()))?;
    }
    Ok(Ended::Done)
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
                    size(plan)
                ))?;
            }
            Event::Step { step, loss, lr, tokens_per_s, .. } => {
                self.bar.set_message(format!("loss {loss:.3} lr {lr:.1e} {} tok/s", *tokens_per_s as u64));
                self.bar.set_position(*step);
            }
            Event::Planned { plan, .. } => say(time(plan))?,
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
            // Nobody asked about what is new.
            _ => {}
        }
        Ok(())
    }
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

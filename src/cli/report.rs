//! Reports a run's events on the terminal, as lines and a progress bar, or as JSON.

use super::terminal;
use super::terminal::Ended;
use indicatif::ProgressBar;
use kinglet::{
    config::{Config, OnDivergence, Precision},
    report::with_error,
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
/// What to show when a run is done.
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

/// Shows the sample of a finished run.
pub(super) fn finish(Finished { out, command }: &Finished, json: bool) -> anyhow::Result<Ended> {
    // The sample is missing if it could not be written; a warning was shown then.
    let sample = std::fs::read_to_string(out.join("sample.txt")).ok().filter(|_| !json);
    if let Some(sample) = sample {
        terminal::print(&format!("\n{sample}\n\nmore of it: kinglet {command} {}\n", out.display()))?;
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
        terminal::tell("\nstopping; once more to leave at once");
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
        let bar = terminal::progress_bar(config.max_iters, BAR);
        Reporter { json, bar, log_interval: config.log_interval, precision: config.precision }
    }

    pub(super) fn event(&mut self, event: &Event) {
        if let Event::Start { precision, .. } = event {
            terminal::note_precision(self.precision, *precision);
        }
        // A closed output pipe must not end the training.
        let _ = if self.json { self.event_json(event) } else { self.event_text(event) };
    }

    fn event_json(&self, event: &Event) -> anyhow::Result<()> {
        match event {
            Event::Measuring { .. } => Ok(()),
            Event::Step { step, .. } if !step.is_multiple_of(self.log_interval) => Ok(()),
            event => {
                match event {
                    Event::Warning { step, warning } => terminal::tell(&format!("warning: at step {step}: {warning}")),
                    Event::Note { note } => terminal::tell(&format!("note: {note}")),
                    _ => {}
                }
                terminal::print_json(event)
            }
        }
    }

    fn event_text(&mut self, event: &Event) -> anyhow::Result<()> {
        let say = |text: String| self.bar.suspend(|| terminal::print(&text));
        let warn = |text: String| self.bar.suspend(|| terminal::tell(&format!("warning: {text}")));
        match event {
            Event::Start { step, .. } => {
                self.bar.set_position(*step);
                self.bar.reset_eta();
                say(begun(event))?;
            }
            Event::Step { step, loss, lr, tokens_per_s, .. } => {
                self.bar.set_message(format!("loss {loss:.3} lr {lr:.1e} {} tok/s", *tokens_per_s as u64));
                self.bar.set_position(*step);
            }
            Event::Planned { plan, .. } => say(time(plan))?,
            Event::Note { note } => self.bar.suspend(|| terminal::tell(&format!("note: {note}"))),
            Event::Warning { step, warning } => warn(format!("at step {step}: {warning}")),
            Event::Diverged { action: OnDivergence::Stop, .. } => {}
            Event::Diverged { step, action, divergence, .. } => {
                let done = match action {
                    OnDivergence::Rollback => "back to the checkpoint, with a lower learning rate",
                    _ => "the update is left out",
                };
                warn(format!("{divergence}: {done}; now at step {step}"));
            }
            Event::EarlyStop { best_val_loss, best_step, .. } => {
                say(format!("stopping early: no validation loss below {best_val_loss:.4}, of step {best_step}\n"))?;
            }
            Event::Measuring { done, of, .. } => {
                self.bar.set_message(format!("measuring the loss {}%", 100 * done / of));
                self.bar.tick();
            }
            Event::Estimate { step, train_loss, val_loss, old_val_loss, .. } => {
                let old = optional(*old_val_loss, |loss| format!(", old val loss {loss:.4}"));
                say(format!("step {step}: train loss {train_loss:.4}, val loss {val_loss:.4}{old}\n"))?;
            }
            Event::Interrupted { step, out } => {
                self.bar.finish_and_clear();
                terminal::print(&format!("stopped at step {step}; go on with: kinglet train --resume --out {out}\n"))?;
            }
            Event::Done { .. } => {
                self.bar.finish_and_clear();
                terminal::print(&done(event))?;
            }
            // Ignore events added in the future.
            _ => {}
        }
        Ok(())
    }
}

/// The text for a value, or an empty string if there is none.
pub(super) fn optional<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(String::new, text)
}

/// How many conversations there are to train on, and how they are packed.
pub(super) fn conversations(of: Option<(usize, usize)>) -> String {
    optional(of, |(n, rows)| match n == rows {
        true => format!(" in {n} conversations to train on"),
        false => format!(" in {n} conversations to train on, packed into {rows} rows"),
    })
}

/// The lines printed when a run starts.
fn begun(event: &Event) -> String {
    let Event::Start {
        step,
        params,
        trainable_params,
        vocab_size,
        train_tokens,
        val_tokens,
        train_conversations,
        entropy_floor,
        plan,
        out,
        ..
    } = event
    else {
        return String::new();
    };
    let millions = |n: usize| n as f64 / 1e6;
    let fewer = (trainable_params < params).then_some(*trainable_params);
    let trainable = optional(fewer, |n| format!(" of which {:.6} M train", millions(n)));
    let floor = optional(*entropy_floor, |nats| format!("; entropy floor {nats:.4} nats"));
    let conversations = conversations(*train_conversations);
    let from = optional((*step > 0).then_some(step), |step| format!(", from step {step}"));
    format!(
        "{:.6} M parameters{trainable}, vocabulary of {vocab_size}, {train_tokens} + {val_tokens} tokens{conversations}{floor}\n\
         {}run in {out}{from}\n",
        millions(*params),
        size(plan)
    )
}

/// The lines printed when a run is done.
fn done(event: &Event) -> String {
    let Event::Done {
        step,
        val_loss,
        val_loss_exact,
        val_loss_stderr,
        bits_per_char,
        best_val_loss,
        best_step,
        change,
        entropy_floor,
        baseline,
        ms_per_step,
        tokens_per_s,
        wall_s,
        ..
    } = event
    else {
        return String::new();
    };
    let floor = optional(*entropy_floor, |nats| format!(", {:.4} above the floor", val_loss_exact - nats));
    let exact = with_error(*val_loss_exact, *val_loss_stderr);
    let baseline = optional(baseline.as_ref(), |b| format!("; {} baseline: {:.4}", b.name, b.nats_per_token));
    let change = optional(change.as_ref(), |change| {
        let old = change.old_val_loss_before.zip(change.old_val_loss);
        let old = optional(old, |(before, now)| format!("; on the old data {before:.4}, now {now:.4}"));
        format!("before: {:.4}, now {val_loss:.4}{old}\n", change.val_loss_before)
    });
    format!(
        "\nvalidation loss, exact: {exact} nats, \
         {bits_per_char:.3} bits per character{floor}{baseline}\n\
         best estimate: {best_val_loss:.4} at step {best_step}\n{change}\
         {step} steps in {wall_s:.1} s ({ms_per_step:.2} ms a step, {tokens_per_s:.0} tok/s; \
         the rest measured losses)\n"
    )
}

/// The lines about a run's size.
pub(super) fn size(plan: &Plan) -> String {
    let advice = optional(plan.advice.as_ref(), |advice| format!("warning: {advice}\n"));
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
    optional(plan.time, |time| {
        format!(
            "about {}: {:.2} ms a step, {} an estimate, {} a checkpoint\n",
            duration(time.wall_s),
            time.ms_per_step,
            duration(1e-3 * time.ms_per_estimate),
            duration(1e-3 * time.ms_per_checkpoint)
        )
    })
}

/// A duration in its largest unit, rounded. `humantime` would show every unit down to the nanosecond.
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

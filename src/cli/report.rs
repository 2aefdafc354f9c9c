//! Reports a run's events on the terminal, as lines and a progress bar, or as JSON.

use super::{
    terminal::{self, Ended, count, quoted},
    watch::{Parts, Watch, left},
};
use crate::{
    config::{Config, OnDivergence, Precision, Quantization, TokenizerKind},
    ranks::Team,
    report::with_error,
    run::HOME,
    train::{Event, Job, plan::Plan},
};
use std::{
    f64::consts::LN_2,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// What to show when a run is done.
pub(super) struct Finished {
    out: PathBuf,
    is_chat: bool,
    max_iters: u64,
}

impl Finished {
    pub(super) fn of(job: &Job) -> Finished {
        let is_chat = job.data.val.is_conversations();
        Finished { out: job.run.path().to_owned(), is_chat, max_iters: job.run.config.max_iters }
    }

    /// What the run has left in its folder.
    fn files(&self) -> String {
        let has = |name: &&str| self.out.join(name).exists();
        let files: Vec<_> = ["metrics.jsonl", "loss.svg", "sample.txt"].into_iter().filter(has).collect();
        // The file has the name of a checkpoint, such as step-001500.
        let best = fs::read_to_string(self.out.join("best")).ok();
        let best = best.and_then(|name| name.trim().strip_prefix("step-")?.parse::<u64>().ok());
        let best = optional(best, |step| format!(" (the best is from step {step})"));
        format!("saved in {}: checkpoints{best}, {}\n", self.out.display(), files.join(", "))
    }

    /// What may be done with the run.
    fn hints(&self) -> Vec<(&'static str, String)> {
        let out = quoted(&self.out);
        // Without a name, runs in this folder are compared.
        let is_beside_others = self.out.parent() == Some(Path::new(HOME));
        let compared = if is_beside_others { String::new() } else { format!(" {out}") };
        let (what, command) = if self.is_chat { ("to talk to it", "chat") } else { ("to sample again", "sample") };
        vec![
            (what, format!("kinglet {command} {out}")),
            ("to evaluate it", format!("kinglet eval {out}")),
            ("to compare runs", format!("kinglet compare{compared}")),
            ("to train longer", format!("{} --set max_iters={}", resume_command(&self.out), 2 * self.max_iters)),
        ]
    }
}

/// The command that goes on with a run.
fn resume_command(out: impl AsRef<Path>) -> String {
    format!("kinglet train --resume --out {}", quoted(out))
}

/// Shows the sample of a finished run, what was made, and what may be done next.
pub(super) fn finish(finished: &Finished, json: bool) -> anyhow::Result<Ended> {
    if !json {
        // The sample is missing if it could not be written; a warning was shown then.
        let sample = fs::read_to_string(finished.out.join("sample.txt"));
        let sample = optional(sample.ok(), |sample| format!("\n{}\n\n", sample.trim_end()));
        terminal::print(&format!("{sample}{}", finished.files()))?;
        terminal::hints(&finished.hints())?;
    }
    Ok(Ended::Done)
}

/// What the first signal makes a run say.
const SAVING: &str = "Saving a checkpoint. Press Ctrl-C again to quit without it.";

/// Lets SIGINT (Ctrl-C) and SIGTERM set the team's flag, which a signal to another rank sets too; a second signal ends the program at
/// once.
pub(super) fn stop_team_on_signal(team: &Team) -> anyhow::Result<()> {
    let team = team.clone();
    on_signal(SAVING, move || team.stop().store(true, Ordering::Relaxed))
}

/// Signals that come within this time are one.
const SAME_SIGNAL: Duration = Duration::from_millis(300);

/// A flag that SIGINT and SIGTERM set; this is said then. A second signal ends the program at once.
pub(super) fn stop_saying(text: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    on_signal(text, move || flag.store(true, Ordering::Relaxed))?;
    Ok(stop)
}

/// At the first SIGINT or SIGTERM, says this and calls that; a second signal ends the program at once.
pub(super) fn on_signal(text: &'static str, stop: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    let mut first: Option<Instant> = None;
    Ok(ctrlc::set_handler(move || {
        stop();
        match first {
            // Some programs signal a process and then its group: that is one wish to stop.
            Some(first) if first.elapsed() < SAME_SIGNAL => return,
            Some(_) => terminal::leave_now(),
            None => first = Some(Instant::now()),
        }
        terminal::tell(&format!("\n{text}"));
    })?)
}

/// Shows a run's events: as lines and a progress bar, or as JSON.
pub(super) struct Reporter {
    json: bool,
    watch: Watch,
    max_iters: u64,
    log_interval: u64,
    precision: Precision,
    unit: &'static str,
    /// What goes on with the run, if that is not `train --resume`.
    resume: Option<String>,
    /// The last update, as the bar shows it.
    step: Step,
}

/// What is shown of an update.
#[derive(Clone, Copy, Default)]
struct Step {
    step: u64,
    loss: f64,
    lr: f64,
    grad_norm: f64,
    tokens_per_s: f64,
    left_s: Option<f64>,
}

impl Step {
    fn parts(&self, of: u64) -> Parts {
        vec![
            (0, format!("step {}/{of}", self.step)),
            (2, format!("loss {:.3}", self.loss)),
            (4, format!("lr {:.1e}", self.lr)),
            (5, format!("grad {:.2}", self.grad_norm)),
            (3, format!("{:.0} tok/s", self.tokens_per_s)),
            (1, optional(self.left_s, left)),
        ]
    }

    fn line(&self, of: u64) -> String {
        let Step { step, loss, lr, grad_norm, tokens_per_s, left_s } = self;
        let left = optional(*left_s, |seconds| format!(", {}", left(seconds)));
        format!(
            "step {step} of {of}: loss {loss:.4}, lr {lr:.2e}, gradient norm {grad_norm:.2}, {tokens_per_s:.0} tok/s{left}"
        )
    }
}

impl Reporter {
    pub(super) fn new(json: bool, config: &Config) -> Reporter {
        Reporter {
            json,
            watch: Watch::new(true),
            max_iters: config.max_iters,
            log_interval: config.log_interval,
            precision: config.precision,
            unit: unit(config),
            resume: None,
            step: Step::default(),
        }
    }

    /// The command to show where the run is interrupted.
    pub(super) fn resumed_by(self, command: String) -> Reporter {
        Reporter { resume: Some(command), ..self }
    }

    pub(super) fn event(&mut self, event: &Event) {
        if let Event::Start { precision, .. } = event {
            terminal::note_precision(self.precision, *precision);
        }
        self.progress(event);
        // A closed output pipe must not end the training.
        let _ = if self.json { self.event_json(event) } else { self.event_text(event) };
    }

    /// Moves the bar, or writes a line where there is none.
    fn progress(&mut self, event: &Event) {
        match event {
            &Event::Step { step, loss, lr, grad_norm, tokens_per_s, left_s } => {
                let now = Step { step, loss, lr, grad_norm, tokens_per_s, left_s };
                self.step = now;
                if terminal::is_verbose() && !self.json && step.is_multiple_of(self.log_interval) {
                    self.watch.tell(&now.line(self.max_iters));
                }
                // With JSON the events are on standard output; the bar is for a terminal beside it.
                if !self.json || terminal::columns_err().is_some() {
                    self.watch.at(step, self.max_iters, || now.parts(self.max_iters), || now.line(self.max_iters));
                }
            }
            &Event::Measuring { step, done, of, left_s } => {
                if self.json && terminal::columns_err().is_none() {
                    return;
                }
                let percent = format!("{} %", 100 * done / of.max(1));
                let rest = optional(left_s, left);
                let parts = || {
                    let what = "measuring the loss";
                    vec![
                        (0, format!("step {step}/{}", self.max_iters)),
                        (2, what.into()),
                        (1, percent.clone()),
                        (1, rest.clone()),
                    ]
                };
                let line = || {
                    let rest = if rest.is_empty() { String::new() } else { format!(", {rest}") };
                    format!("step {step} of {}: measuring the loss, {percent}{rest}", self.max_iters)
                };
                self.watch.at(step, self.max_iters, parts, line);
            }
            Event::Interrupted { .. } | Event::Done { .. } => self.watch.end(),
            _ => {}
        }
    }

    fn event_json(&self, event: &Event) -> anyhow::Result<()> {
        match event {
            Event::Measuring { .. } => Ok(()),
            Event::Step { step, .. } if !step.is_multiple_of(self.log_interval) => Ok(()),
            event => {
                match event {
                    Event::Warning { step, warning } => self.watch.tell(&format!("warning: at step {step}: {warning}")),
                    Event::Note { note } => self.watch.tell(&format!("note: {note}")),
                    _ => {}
                }
                terminal::print_json(event)
            }
        }
    }

    fn event_text(&mut self, event: &Event) -> anyhow::Result<()> {
        // Before the end, `--quiet` shows what is wrong and nothing else.
        let say = |text: String| if terminal::is_quiet() { Ok(()) } else { self.watch.say(&text) };
        let warn = |text: String| self.watch.tell(&format!("warning: {text}"));
        match event {
            Event::Start { plan, .. } => {
                say(begun(event, self.unit))?;
                plan.advice.iter().for_each(|advice| warn(advice.clone()));
            }
            Event::Planned { plan, .. } => say(time(plan))?,
            Event::Note { note } => self.watch.tell(&format!("note: {note}")),
            Event::Warning { step, warning } => warn(format!("at step {step}: {warning}")),
            Event::Diverged { action: OnDivergence::Stop, .. } => {}
            Event::Diverged { step, action, divergence, .. } => {
                let done = match action {
                    OnDivergence::Rollback => "back to the last checkpoint, with a lower learning rate",
                    _ => "the update is skipped",
                };
                warn(format!("{divergence}: {done}; now at step {step}"));
            }
            Event::EarlyStop { best_val_loss, best_step, .. } => {
                say(format!(
                    "stopping early: the validation loss has not fallen below {best_val_loss:.4}, its value at \
                     step {best_step}\n"
                ))?;
            }
            Event::Estimate { step, train_loss, val_loss, old_val_loss, .. } => {
                let old = optional(*old_val_loss, |loss| format!(", old val loss {loss:.4}"));
                say(format!("step {step}: train loss {train_loss:.4}, val loss {val_loss:.4}{old}\n"))?;
            }
            Event::Interrupted { step, out } => {
                let resume = self.resume.clone().unwrap_or_else(|| resume_command(out));
                terminal::print(&format!("stopped at step {step}; the checkpoint is saved in {out}\n"))?;
                terminal::hints(&[("to continue", resume)])?;
            }
            Event::Done { .. } => terminal::print(&done(event, self.unit))?,
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

/// What the tokens of a run are called, in the singular.
pub(super) fn unit(config: &Config) -> &'static str {
    match config.tokenizer {
        TokenizerKind::Char => "character",
        TokenizerKind::Byte => "byte",
        _ => "token",
    }
}

/// What a loss is the mean of, in the singular. Where texts or answers have tokens that end them, these count too, and then
/// characters and tokens are not the same.
pub(super) fn each(unit: &'static str, loss: f64, bits_per_char: f64, bits_per_byte: f64) -> &'static str {
    let bits = match unit {
        "character" => bits_per_char,
        "byte" => bits_per_byte,
        _ => return unit,
    };
    if (bits * LN_2 - loss).abs() <= 1e-9 * loss.abs() { unit } else { "token" }
}

/// How many parameters, in a few digits.
pub(super) fn parameters(n: usize) -> String {
    match n {
        0..10_000 => count(n as u64, "parameter"),
        10_000..100_000_000 => format!("{:.2} M parameters", n as f64 / 1e6),
        _ => format!("{:.0} M parameters", n as f64 / 1e6),
    }
}

/// How many conversations there are to train on, and how they are packed.
pub(super) fn conversations(of: Option<(usize, usize)>) -> String {
    optional(of, |(n, rows)| {
        let packed = if n == rows { String::new() } else { format!(", packed into {}", count(rows as u64, "row")) };
        format!("; {} in the training part{packed}", count(n as u64, "conversation"))
    })
}

/// The lines printed when a run starts.
fn begun(event: &Event, unit: &str) -> String {
    let Event::Start {
        step,
        quantization,
        ranks,
        params,
        trainable_params,
        vocab_size,
        train_tokens,
        val_tokens,
        train_conversations,
        train_rows,
        entropy_floor,
        plan,
        out,
        ..
    } = event
    else {
        return String::new();
    };
    let trainable = optional((trainable_params < params).then_some(*trainable_params), |n| {
        format!(", of which {} are trained", parameters(n).replace(" parameters", ""))
    });
    let floor =
        optional(*entropy_floor, |nats| format!("entropy floor {nats:.4} nats per {unit}: the lowest possible loss\n"));
    let conversations = conversations(train_conversations.zip(*train_rows));
    let bits = match quantization {
        Quantization::None => "",
        Quantization::W8 => ", rounded to 8 bits in each pass",
        _ => ", rounded to 4 bits in each pass",
    };
    let from = optional((*step > 0).then_some(step), |step| format!(", from step {step}"));
    let on = optional((*ranks > 1).then_some(ranks), |ranks| format!(", on {ranks} ranks"));
    format!(
        "{}{bits}{trainable}, vocabulary of {}\n{train_tokens} tokens to train on, {val_tokens} to validate on{conversations}\n{}{floor}run in {out}{on}{from}\n",
        parameters(*params),
        count(*vocab_size as u64, unit),
        size(plan)
    )
}

/// The lines printed when a run is done.
fn done(event: &Event, unit: &'static str) -> String {
    let Event::Done {
        step,
        val_loss,
        val_loss_exact,
        val_loss_stderr,
        bits_per_char,
        bits_per_byte,
        best_val_loss,
        best_step,
        change,
        entropy_floor,
        baseline,
        ms_per_step,
        train_s,
        wall_s,
        ..
    } = event
    else {
        return String::new();
    };
    let unit = each(unit, *val_loss_exact, *bits_per_char, *bits_per_byte);
    let floor = optional(*entropy_floor, |nats| format!(", {:.4} above the entropy floor", val_loss_exact - nats));
    let exact = with_error(*val_loss_exact, *val_loss_stderr);
    let baseline = optional(baseline.as_ref(), |b| format!("{} baseline: {:.4}\n", b.name, b.nats_per_token));
    let change = optional(change.as_ref(), |change| {
        let old = change.old_val_loss_before.zip(change.old_val_loss);
        let old = optional(old, |(before, now)| format!("; on the old data {before:.4}, now {now:.4}"));
        format!("before fine-tuning: {:.4}, now {val_loss:.4}{old}\n", change.val_loss_before)
    });
    format!(
        "\nvalidation loss, exact: {exact} nats per {unit}, {bits_per_char:.3} bits per character{floor}\n{baseline}\
         best estimate: {best_val_loss:.4} at step {best_step}\n{change}\
         {} in {wall_s:.1} s: {train_s:.1} s training ({ms_per_step:.2} ms per step), {:.1} s evaluation\n",
        count(*step, "step"),
        (wall_s - train_s).max(0.0)
    )
}

/// The line about a run's size.
pub(super) fn size(plan: &Plan) -> String {
    format!(
        "{}, {:.2} M tokens: {} epochs; {:.2} training tokens per parameter; {:.0} MiB of memory\n",
        count(plan.steps, "step"),
        plan.tokens / 1e6,
        if plan.epochs < 0.1 { format!("{:.2}", plan.epochs) } else { format!("{:.1}", plan.epochs) },
        plan.tokens_per_param,
        plan.memory_mib
    )
}

/// The line about a run's time.
pub(super) fn time(plan: &Plan) -> String {
    optional(plan.time, |time| {
        // In a resumed run what earlier sessions took, until it has written one itself.
        let checkpoint = (time.ms_per_checkpoint > 0.0).then_some(1e-3 * time.ms_per_checkpoint);
        let checkpoint = optional(checkpoint, |seconds| format!(", {} per checkpoint", duration(seconds)));
        format!(
            "about {} in total: {:.2} ms per step, {} per estimate{checkpoint}\n",
            duration(time.wall_s),
            time.ms_per_step,
            duration(1e-3 * time.ms_per_estimate)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_per_character_where_nothing_but_characters_counts() {
        let bits = |nats: f64| nats / LN_2;
        assert_eq!(each("character", 1.5, bits(1.5), 9.0), "character");
        assert_eq!(each("character", 1.5, 3.1, bits(1.5)), "token");
        assert_eq!(each("byte", 1.5, 3.1, bits(1.5)), "byte");
        assert_eq!(each("byte", 1.5, 3.1, 3.1), "token");
        assert_eq!(each("token", 1.5, bits(1.5), bits(1.5)), "token");
    }

    #[test]
    fn parameters_are_counted_in_a_few_digits() {
        let texts = [
            (1, "1 parameter"),
            (9999, "9999 parameters"),
            (209_729, "0.21 M parameters"),
            (124_439_808, "124 M parameters"),
        ];
        texts.into_iter().for_each(|(n, text)| assert_eq!(parameters(n), text));
    }

    #[test]
    fn only_the_home_of_runs_is_compared_without_a_name() {
        for (out, want) in [
            ("runs/z", "kinglet compare"),
            ("sub/runs/z", "kinglet compare sub/runs/z"),
            ("/runs/z", "kinglet compare /runs/z"),
        ] {
            let finished = Finished { out: out.into(), is_chat: false, max_iters: 1 };
            assert_eq!(finished.hints()[2].1, want);
        }
    }
}

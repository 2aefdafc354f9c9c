//! `kinglet tune`

use super::terminal;
use super::{
    choice::{Choice, Threads},
    report::{duration, optional, stop_on_signal},
    run_arg::{self, Place, PlaceArg},
    terminal::Ended,
};
use indicatif::ProgressBar;
use kinglet::{
    run::{HOME, run_name},
    train,
    tune::{Changes, Event, Found, Outcome, RangeTest, Request, Sweep, Tuning, written},
};
use std::{collections::HashSet, path::Path, time::Duration};

const BAR: &str = "{wide_bar:.cyan/dim} {prefix} step {human_pos}/{human_len} {msg}";

/// Find settings for a text and a model: a learning-rate range test, then successive halving, within a budget of time
#[derive(clap::Args)]
#[command(after_help = "\
Without --sweep: the learning rate, in the range that the test finds. Keys that can be swept are those of the
model, the optimizer and the batch.
    kinglet tune my.txt --budget 10m
    kinglet tune my.txt --sweep learning_rate --sweep dropout=0..0.3
    kinglet tune my.txt --sweep \"n_layer=[2, 4, 6]\" --budget 2h
    kinglet train --config runs/big-0.2m-tune/best.toml")]
pub(super) struct Args {
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    place: PlaceArg,
    /// How long it may take, as 90s, 10m or 1h30m; what earlier sessions took counts [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = budget)]
    budget: Option<f64>,
    /// A key to vary, and how: KEY=LOW..HIGH, with :log or :linear behind it if need be, or KEY=[A, B, C]; learning_rate
    /// alone takes the range that a test finds; may be repeated
    #[arg(long, value_name = "KEY=VALUES")]
    sweep: Vec<String>,
    /// Settings to try, the configured ones among them [default: 9 of one key, 27 of more, or what the budget allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=1000))]
    trials: Option<u16>,
    /// Go on with the tuning in --out, where it stopped; DATA says where its text is now
    #[arg(long, conflicts_with_all = ["preset", "config", "set", "seed", "tokenizer", "field"])]
    resume: bool,
    #[command(flatten)]
    threads: Threads,
}

/// Default budget in seconds.
const BUDGET_S: f64 = 600.0;

/// Parses a duration such as `1h 30m` to seconds; a plain number means seconds.
fn budget(text: &str) -> Result<f64, String> {
    let time = text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    let time = time.or_else(|| humantime::parse_duration(text).ok());
    match time.map(|time| time.as_secs_f64()) {
        Some(seconds) if seconds > 0.0 && seconds <= 1e7 => Ok(seconds),
        Some(_) => Err("allowed is more than 0, up to 10000000 seconds".into()),
        None => Err("a time is a number with s, m or h behind it, such as 90s, 10m or 1h30m".into()),
    }
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<Ended> {
        self.threads.run(|| self.tune(json))
    }

    fn tune(&self, json: bool) -> anyhow::Result<Ended> {
        let threads = self.threads.count();
        let sweeps = self.sweep.iter().map(|text| text.parse()).collect::<Result<Vec<Sweep>, _>>()?;
        let trials = self.trials.map(usize::from);
        let stop = stop_on_signal()?;
        let tuning = if self.resume {
            let (out, data) = run_arg::tuning_to_resume(&self.place, &self.choice.data)?;
            let changes = Changes { sweeps, trials, budget_s: self.budget, data: data.to_vec() };
            Tuning::resume(&out, &changes, threads)?
        } else {
            let (config, name) = self.choice.config()?;
            let request = Request { config, sweeps, trials, budget_s: self.budget.unwrap_or(BUDGET_S) };
            let default = Path::new(HOME).join(format!("{}-tune", run_name(&request.config, &name)));
            let start = |place: Place| place.start(|out| Tuning::start(request.clone(), out, threads));
            self.place.start(|| default, start, Tuning::path)?
        };
        let mut reporter = Reporter { json, bar: terminal::progress_bar(1, BAR), told: HashSet::new() };
        if !json {
            let (budget_s, spent_s) = tuning.budget_s();
            let spent =
                optional((spent_s > 5.0).then_some(spent_s), |s| format!(", of which {} are spent", duration(s)));
            terminal::print(&format!("tuning for at most {}{spent}\n", duration(budget_s)))?;
        }
        let last = tuning.run(&stop, |event| reporter.event(event))?;
        Ok(if let Event::Interrupted { .. } = last { Ended::Interrupted } else { Ended::Done })
    }
}

/// Reports a search's events, as lines and a progress bar, or as JSON.
struct Reporter {
    json: bool,
    bar: ProgressBar,
    /// Notes and warnings that were shown: what concerns the text is the same in every trial.
    told: HashSet<String>,
}

impl Reporter {
    fn event(&mut self, event: &Event) {
        let said = match event {
            Event::Training { training: train::Event::Warning { step, warning }, .. } => {
                Some((warning, format!("warning: at step {step}: {warning}")))
            }
            Event::Training { training: train::Event::Note { note }, .. } => Some((note, format!("note: {note}"))),
            _ => None,
        };
        if let Some((what, text)) = said {
            if self.told.insert(what.clone()) {
                self.bar.suspend(|| terminal::tell(&text));
            }
            return;
        }
        // A closed output pipe must not end the search.
        let _ = if self.json { Reporter::event_json(event) } else { self.event_text(event) };
    }

    fn event_json(event: &Event) -> anyhow::Result<()> {
        match event {
            Event::RangeStep { .. } => Ok(()),
            // These are recorded in each trial's own metrics.
            Event::Training { .. } => Ok(()),
            event => terminal::print_json(event),
        }
    }

    fn event_text(&mut self, event: &Event) -> anyhow::Result<()> {
        let bar = &self.bar;
        let say = |text: String| bar.suspend(|| terminal::print(&text));
        match event {
            Event::RangeStep { step, of, learning_rate, loss } => {
                bar.set_length(*of);
                bar.set_prefix("range test");
                bar.set_position(*step);
                bar.set_message(format!("learning rate {learning_rate:.1e} loss {loss:.3}"));
            }
            Event::RangeTest(RangeTest { steepest, lowest, bracket: (low, high), .. }) => say(format!(
                "range test: the loss falls most at a learning rate of {steepest:.1e} and rises from {lowest:.1e} on; the \
                 sweep goes from {low:.1e} to {high:.1e}\n"
            ))?,
            Event::Planned { sweeps, rungs, max_iters, left_s } => {
                let rounds: Vec<_> =
                    rungs.iter().map(|rung| format!("{} settings for {} steps", rung.trials, rung.steps)).collect();
                let short = rungs.last().is_some_and(|rung| rung.steps < *max_iters);
                let whole = optional(short.then_some(max_iters), |iters| {
                    format!(" (the whole run has {iters}; for that the budget is too short)")
                });
                let (sweeps, rounds) = (sweeps.join(", "), rounds.join(", then "));
                say(format!("{sweeps}: {rounds}{whole}; {} left\n", duration(left_s.max(0.0))))?;
            }
            Event::Trial { rung, rungs, number, of, check, steps, seed, settings, .. } => {
                bar.set_length(*steps);
                bar.set_position(0);
                let which = if *check { format!("seed {seed}") } else { format!("rung {rung}/{rungs}") };
                bar.set_prefix(format!("{which}, {number}/{of}"));
                bar.set_message(written(settings));
            }
            Event::Training { training, left_s } => {
                let left = duration(left_s.max(0.0));
                match training {
                    train::Event::Start { step, .. } => bar.set_position(*step),
                    train::Event::Step { step, loss, .. } => {
                        bar.set_position(*step);
                        bar.set_message(format!("loss {loss:.3}; {left} left of the budget"));
                    }
                    train::Event::Measuring { done, of, .. } => {
                        bar.set_message(format!("measuring {}%; {left} left of the budget", 100 * done / of));
                    }
                    _ => {}
                }
            }
            Event::Outcome(Outcome { rung, seed, steps, settings, loss, stderr, .. }) => {
                let loss =
                    if loss.is_finite() { kinglet::report::with_error(*loss, *stderr) } else { "diverged".to_owned() };
                say(format!("rung {rung}, seed {seed}, {steps} steps: {}: {loss}\n", written(settings)))?;
            }
            Event::Interrupted { out } => {
                bar.finish_and_clear();
                terminal::print(&format!("stopped; go on with: kinglet tune --resume --out {out}\n"))?;
            }
            Event::Done(found) => {
                bar.finish_and_clear();
                terminal::print(&report(found))?;
            }
        }
        Ok(())
    }
}

fn report(found: &Found) -> String {
    let Found { best, complete, max_iters, spent_s, out, .. } = found;
    let trained = (best.steps == *max_iters).then_some(&best.out);
    let model = optional(trained, |run| format!("it is trained: kinglet sample {run}\n"));
    let spent = duration(*spent_s);
    let more = optional((!complete).then_some(&spent), |spent| {
        format!("go on with: kinglet tune --resume --out {out} --budget TIME, more than the {spent} so far\n")
    });
    format!(
        "\n{}\n{}\n{spent} spent; written to {out}: best.toml, trials.md, tune.svg\n\
         train with it: kinglet train --config {out}/best.toml\n{model}{more}",
        found.table(),
        found.text(),
    )
}

#[cfg(test)]
mod tests {
    use super::budget;

    #[test]
    fn a_budget_is_a_number_and_a_unit() {
        for (text, seconds) in
            [("90", 90.0), ("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("10 m", 600.0), ("1h30m", 5400.0)]
        {
            assert_eq!(budget(text), Ok(seconds), "{text}");
        }
        for text in ["", "m", "0", "-1m", "nan", "inf", "1x", "10000h", "ten"] {
            assert!(budget(text).is_err(), "{text}");
        }
    }
}

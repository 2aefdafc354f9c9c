//! `kinglet tune`

use super::{
    choice::{Choice, Threads},
    many::{Many, is_shown},
    report::{duration, optional, stop_team_on_signal},
    run_arg::{self, Place, PlaceArg},
    table::columns,
    terminal::{self, Ended, count, quoted},
    watch::{Watch, left},
    world::World,
};
use crate::{
    data::Origin,
    hands::Hands,
    report::with_error,
    run::{HOME, run_name},
    train,
    tune::{Changes, Event, Found, Outcome, RangeTest, Request, Sweep, Tuning, written},
};
use std::{collections::HashSet, path::Path, time::Duration};

/// Find a good learning rate and other settings, within a budget of time
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
    /// Time budget, such as 90s, 10m or 1h30m; it includes earlier sessions [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = budget)]
    budget: Option<f64>,
    /// Key to vary: KEY=LOW..HIGH, optionally followed by :log or :linear, or KEY=[A, B, C]; learning_rate without
    /// values uses the range that a range test finds; may be repeated
    #[arg(long, value_name = "KEY=VALUES")]
    sweep: Vec<String>,
    /// Number of settings to try, including the configured ones [default: 9 for one key, 27 for several, or as many as
    /// the budget allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=1000))]
    trials: Option<u16>,
    /// Continue the tuning in --out; DATA is the current location of its text, if it has moved
    #[arg(long, conflicts_with_all = ["preset", "config", "set", "seed", "tokenizer", "field"])]
    resume: bool,
    #[command(flatten)]
    threads: Threads,
}

/// Default budget in seconds.
pub const BUDGET_S: f64 = 600.0;

/// Parses a duration such as `1h 30m` to seconds; a plain number means seconds.
fn budget(text: &str) -> Result<f64, String> {
    let time = text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    let time = time.or_else(|| humantime::parse_duration(text).ok());
    match time.map(|time| time.as_secs_f64()) {
        Some(seconds) if seconds > 0.0 && seconds <= 1e7 => Ok(seconds),
        Some(_) => Err("must be more than 0 and at most 10000000 seconds".into()),
        None => Err("a time is a number followed by s, m or h, such as 90s, 10m or 1h30m".into()),
    }
}

impl Args {
    /// The number of threads that was asked for, or 0.
    pub(super) fn threads(&self) -> usize {
        self.threads.count()
    }

    pub(super) fn run(&self, json: bool, world: &World) -> anyhow::Result<Ended> {
        world.lead_or_serve(self.threads(), |threads| {
            world.with_hands(threads, |hands| self.tune(json, world, hands, threads))
        })
    }

    fn tune(&self, json: bool, world: &World, hands: &mut Hands, threads: usize) -> anyhow::Result<Ended> {
        let sweeps = self.sweep.iter().map(|text| text.parse()).collect::<Result<Vec<Sweep>, _>>()?;
        let trials = self.trials.map(usize::from);
        stop_team_on_signal(world.team())?;
        let tuning = if self.resume {
            let (out, data) = run_arg::tuning_to_resume(&self.place, &self.choice.data)?;
            let data = data.to_vec();
            let changes = Changes { sweeps, trials, budget_s: self.budget, data, ..Changes::default() };
            Tuning::resume(&out, &changes, threads)?
        } else {
            let (mut config, name) = self.choice.config()?;
            world.share(&mut config, threads)?;
            let budget_s = self.budget.unwrap_or(BUDGET_S);
            let request = Request { config, origin: Origin::Named, sweeps, trials, budget_s };
            let default = Path::new(HOME).join(format!("{}-tune", run_name(&request.config, &name)));
            let start =
                |place: Place| place.start(|out| Tuning::start_for(request.clone(), out, threads, hands.count()));
            self.place.start(|| default, start, Tuning::path)?
        };
        let mut reporter = Reporter::new(json, hands.count());
        if !json && !terminal::is_quiet() {
            let (budget_s, spent_s) = tuning.budget_s();
            let spent = optional((spent_s > 5.0).then_some(spent_s), |s| {
                format!(", of which {} are already spent", duration(s))
            });
            terminal::print(&format!("tuning for at most {}{spent}\n", duration(budget_s)))?;
        }
        let last = tuning.run_by(hands, world.team().stop(), |event| reporter.event(event))?;
        Ok(if let Event::Interrupted { .. } = last { Ended::Interrupted } else { Ended::Done })
    }
}

/// Reports a search's events, as lines and a progress bar, or as JSON.
struct Reporter {
    json: bool,
    watch: Watch,
    /// The trial that is in progress, and its steps.
    trial: (String, u64),
    /// How many are in progress at a time.
    at_a_time: usize,
    /// If that is several: which these are, and how far.
    group: (String, Many),
    /// Notes and warnings that were shown: what concerns the text is the same in every trial.
    told: HashSet<String>,
}

impl Reporter {
    fn new(json: bool, at_a_time: usize) -> Reporter {
        let (trial, group) = ((String::new(), 0), (String::new(), Many::new("", [])));
        Reporter { json, watch: Watch::new(true), trial, at_a_time, group, told: HashSet::new() }
    }

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
                self.watch.tell(&text);
            }
            return;
        }
        if let Event::Lost { rank, run, why } = event {
            let again = optional(run.as_ref(), |run| format!("; {run} begins again on another"));
            return self.watch.tell(&format!("warning: rank {rank} is lost: {why}{again}"));
        }
        if is_shown(self.json) {
            self.progress(event);
        }
        // A closed output pipe must not end the search.
        let _ = if self.json { Reporter::event_json(event) } else { self.event_text(event) };
    }

    /// Moves the bar, or writes a line where there is none.
    fn progress(&mut self, event: &Event) {
        match event {
            &Event::RangeStep { step, of, learning_rate, loss } => {
                let (rate, loss) = (format!("learning rate {learning_rate:.1e}"), format!("loss {loss:.3}"));
                let parts = || {
                    let steps = format!("step {step}/{of}");
                    vec![(3, "range test".to_owned()), (0, steps), (1, rate.clone()), (2, loss.clone())]
                };
                self.watch.at(step, of, parts, || format!("range test, step {step} of {of}: {rate}, {loss}"));
            }
            Event::Trial { rung, rungs, number, of, check, steps, seed, .. } => {
                let which = if *check { format!("seed {seed}") } else { format!("rung {rung}/{rungs}") };
                self.trial = (format!("{which}, {number}/{of}"), *steps);
                if self.at_a_time > 1 {
                    let group = if *check { "other seeds".to_owned() } else { which };
                    if self.group.0 != group {
                        let runs = (1..=*of).map(|i| (format!("trial {i}"), 1.0, *steps));
                        self.group = (group.clone(), Many::new(&format!("{group}: "), runs));
                    }
                    self.group.1.begins(number - 1);
                }
            }
            Event::Training { number, training, left_s } if self.at_a_time > 1 => {
                let Reporter { watch, group: (_, many), .. } = self;
                let rest = format!("{} of the budget", left(*left_s));
                if let Some(what) = many.training(number - 1, training) {
                    many.show(watch, number - 1, &what, Some(rest));
                }
            }
            Event::Training { training, left_s, .. } => {
                let (trial, steps) = (&self.trial.0, self.trial.1);
                let (step, what) = match training {
                    train::Event::Step { step, loss, .. } => (*step, format!("loss {loss:.3}")),
                    train::Event::Measuring { step, done, of, .. } => {
                        (*step, format!("measuring {} %", 100 * done / (*of).max(1)))
                    }
                    _ => return,
                };
                let rest = format!("{} of the budget", left(*left_s));
                let parts = || {
                    let steps = format!("step {step}/{steps}");
                    vec![(3, trial.clone()), (0, steps), (2, what.clone()), (1, rest.clone())]
                };
                self.watch.at(step, steps, parts, || format!("{trial}, step {step} of {steps}: {what}, {rest}"));
            }
            Event::Interrupted { .. } | Event::Done(_) => self.watch.end(),
            _ => {}
        }
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
        let say = |text: String| if terminal::is_quiet() { Ok(()) } else { self.watch.say(&text) };
        match event {
            Event::RangeTest(RangeTest { steepest, lowest, bracket: (low, high), .. }) => say(format!(
                "range test: the loss falls fastest at a learning rate of {steepest:.1e} and rises above \
                 {lowest:.1e}; the sweep goes from {low:.1e} to {high:.1e}\n"
            ))?,
            Event::Planned { sweeps, rungs, max_iters, left_s } => {
                let rounds: Vec<_> = rungs
                    .iter()
                    .map(|rung| format!("{} for {}", count(rung.trials as u64, "setting"), count(rung.steps, "step")))
                    .collect();
                let short = rungs.last().is_some_and(|rung| rung.steps < *max_iters);
                let whole = optional(short.then_some(max_iters), |iters| {
                    format!(" (a full training has {iters}; the budget is too short for trials of that length)")
                });
                let (sweeps, rounds) = (sweeps.join(", "), rounds.join(", then "));
                say(format!("{sweeps}: {rounds}{whole}; {}\n", left(*left_s)))?;
            }
            Event::Outcome(Outcome { rung, seed, steps, settings, loss, loss_stderr, .. }) => {
                let loss = if loss.is_finite() { with_error(*loss, *loss_stderr) } else { "diverged".to_owned() };
                let steps = count(*steps, "step");
                say(format!("rung {rung}, seed {seed}, {steps}: {}: {loss}\n", written(settings)))?;
            }
            Event::Interrupted { out } => {
                terminal::print(&format!("stopped; the results so far are saved in {out}\n"))?;
                terminal::hints(&[("to continue", format!("kinglet tune --resume --out {}", quoted(out)))])?;
            }
            Event::Done(found) => {
                terminal::print(&report(found))?;
                terminal::hints(&hints(found))?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// The result in words, and what was made.
fn report(found: &Found) -> String {
    let mut rows = vec![["rank", "rung", "steps", "validation loss", "seconds"].map(str::to_owned).to_vec()];
    for (i, outcome) in found.ranked.iter().enumerate() {
        let &Outcome { trial, rung, steps, loss, loss_stderr, wall_s, .. } = outcome;
        let (loss, wall_s) = match loss.is_finite() {
            true => (with_error(loss, loss_stderr), format!("{wall_s:.1}")),
            false => ("diverged".to_owned(), String::new()),
        };
        let configured = if trial == 0 { " (as configured)" } else { "" };
        let settings = written(&outcome.settings) + configured;
        rows.push(vec![(i + 1).to_string(), rung.to_string(), steps.to_string(), loss, wall_s, settings]);
    }
    let Found { spent_s, budget_s, out, .. } = found;
    format!(
        "\n{}\n{}\n\n{} of {} spent\nsaved in {out}: best.toml, trials.md, tune.svg, and the runs of all trials \
         in trials/\n",
        columns(&rows),
        found.sentences().join("\n"),
        duration(*spent_s),
        duration(*budget_s),
    )
}

/// What may be done with the result.
fn hints(found: &Found) -> Vec<(&'static str, String)> {
    let Found { best, complete, max_iters, spent_s, out, .. } = found;
    let mut hints =
        vec![("to train with it", format!("kinglet train --config {}", quoted(Path::new(out).join("best.toml"))))];
    if best.steps == *max_iters {
        // The best trial is that training.
        hints.push(("to sample it now", format!("kinglet sample {}", quoted(&best.run))));
    }
    if !complete {
        let budget_s = (2.0 * spent_s).ceil();
        hints.push(("to try the rest", format!("kinglet tune --resume --out {} --budget {budget_s}s", quoted(out))));
    }
    hints
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

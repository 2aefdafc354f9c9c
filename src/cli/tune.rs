//! `kinglet tune`

use super::{
    Ended,
    choice::Choice,
    report::{duration, stop_on_signal},
};
use indicatif::ProgressBar;
use kinglet::{
    train,
    tune::{Changes, Event, Found, Request, Sweep, Tuning, written},
};
use std::path::{Path, PathBuf};

const BAR: &str = "{wide_bar:.cyan/dim} {prefix} step {human_pos}/{human_len} {msg}";

/// Find settings for a text and a model: a learning-rate range test, then successive halving, within a budget of time
#[derive(clap::Args)]
#[command(after_help = "\
Without --sweep: the learning rate, in the range that the test finds. Keys that can be swept are those of the
model, the optimizer and the batch.
    kinglet tune my.txt --budget 10m
    kinglet tune my.txt --sweep learning_rate --sweep dropout=0..0.3 --sweep \"n_layer=[2, 4, 6]\" --budget 2h
    kinglet train --config runs/big-0.2m-tune/best.toml")]
pub(super) struct Args {
    #[command(flatten)]
    choice: Choice,
    /// The folder of the tuning [default: runs/ and the name of the configuration, and -tune]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How long it may take, as 90s, 10m or 2h; what earlier sessions took counts [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = budget)]
    budget: Option<f64>,
    /// A key to vary, and how: KEY=LOW..HIGH, with :log or :linear behind it if need be, or KEY=[A, B, C]; learning_rate
    /// alone takes the range that a test finds; may be repeated
    #[arg(long, value_name = "KEY=VALUES")]
    sweep: Vec<String>,
    /// Settings to try, the configured ones among them [default: 9 of one key, 27 of more, or what the budget allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=1000))]
    trials: Option<u16>,
    /// Go on with the tuning in --out, where it stopped
    #[arg(long, conflicts_with_all = ["data", "preset", "config", "set", "seed", "tokenizer", "field"])]
    resume: bool,
    /// Threads to work with; losses do not depend on it [default: one for each core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(..=1024))]
    threads: u16,
}

/// Seconds unless told otherwise.
const BUDGET_S: f64 = 600.0;

/// Seconds from a number and its unit: s, m or h; s if there is none.
fn budget(text: &str) -> Result<f64, String> {
    let units = [("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)];
    let (number, unit) =
        units.iter().find_map(|(unit, s)| Some((text.strip_suffix(unit)?, s))).expect("the last fits all");
    match number.trim().parse::<f64>() {
        Ok(number) if number > 0.0 && number * unit <= 1e7 => Ok(number * unit),
        Ok(_) => Err("allowed is more than 0, up to 10000000 seconds".into()),
        Err(_) => Err("a time is a number with s, m or h behind it, such as 90s, 10m or 2h".into()),
    }
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<Ended> {
        let threads = usize::from(self.threads);
        let sweeps = self.sweep.iter().map(|text| text.parse()).collect::<Result<Vec<Sweep>, _>>()?;
        let trials = self.trials.map(usize::from);
        let out = |name: &str| self.out.clone().unwrap_or_else(|| Path::new("runs").join(format!("{name}-tune")));
        let stop = stop_on_signal()?;
        let tuning = if self.resume {
            let changes = Changes { sweeps, trials, budget_s: self.budget };
            Tuning::resume(&out(kinglet::config::PRESETS[0].0), &changes, threads)?
        } else {
            let (config, name) = self.choice.config()?;
            let request = Request { config, sweeps, trials, budget_s: self.budget.unwrap_or(BUDGET_S) };
            Tuning::start(request, &out(&name.to_string_lossy()), threads)?
        };
        let mut reporter = Reporter { json, bar: super::progress_bar(1, BAR) };
        if !json {
            let (budget_s, spent_s) = tuning.budget_s();
            let spent =
                if spent_s > 5.0 { format!(", of which {} are spent", duration(spent_s)) } else { String::new() };
            super::print(&format!("tuning for at most {}{spent}\n", duration(budget_s)))?;
        }
        let last = tuning.run(&stop, |event| reporter.event(event))?;
        Ok(if let Event::Interrupted { .. } = last { Ended::Interrupted } else { Ended::Done })
    }
}

/// Shows what happens: as lines and a progress bar, or as JSON.
struct Reporter {
    json: bool,
    bar: ProgressBar,
}

impl Reporter {
    fn event(&mut self, event: &Event) {
        // A reader of our output who went away must not end the tuning.
        let _ = if self.json { Reporter::event_json(event) } else { self.event_text(event) };
    }

    fn event_json(event: &Event) -> anyhow::Result<()> {
        match event {
            Event::RangeStep { .. } => Ok(()),
            Event::Training { training: train::Event::Warning { step, warning }, .. } => {
                super::tell(&format!("warning: at step {step}: {warning}"));
                Ok(())
            }
            // Those stand in the trials' own metrics.
            Event::Training { .. } => Ok(()),
            event => super::print_json(event),
        }
    }

    fn event_text(&mut self, event: &Event) -> anyhow::Result<()> {
        let bar = &self.bar;
        let say = |text: String| bar.suspend(|| super::print(&text));
        match event {
            Event::RangeStep { step, of, learning_rate, loss } => {
                bar.set_length(*of);
                bar.set_prefix("range test");
                bar.set_position(*step);
                bar.set_message(format!("learning rate {learning_rate:.1e} loss {loss:.3}"));
            }
            Event::RangeTest(found) => say(format!(
                "range test: the loss falls most at a learning rate of {:.1e} and rises from {:.1e} on; the sweep goes from \
                 {:.1e} to {:.1e}\n",
                found.steepest, found.lowest, found.bracket.0, found.bracket.1
            ))?,
            Event::Planned { sweeps, rungs, max_iters, left_s } => {
                let rounds: Vec<_> =
                    rungs.iter().map(|rung| format!("{} settings for {} steps", rung.trials, rung.steps)).collect();
                let whole = if rungs.last().is_some_and(|rung| rung.steps < *max_iters) {
                    format!(" (the whole run has {max_iters}; for that the budget is too short)")
                } else {
                    String::new()
                };
                say(format!(
                    "{}: {}{whole}; {} left\n",
                    sweeps.join(", "),
                    rounds.join(", then "),
                    duration(left_s.max(0.0))
                ))?;
            }
            Event::Trial { rung, rungs, number, of, check, steps, seed, settings, .. } => {
                bar.set_length(*steps);
                bar.set_position(0);
                bar.set_prefix(if *check {
                    format!("seed {seed}, {number}/{of}")
                } else {
                    format!("rung {rung}/{rungs}, {number}/{of}")
                });
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
                    train::Event::Warning { step, warning } => {
                        bar.suspend(|| super::tell(&format!("warning: at step {step}: {warning}")));
                    }
                    _ => {}
                }
            }
            Event::Outcome(outcome) => {
                let loss = match outcome.loss.is_finite() {
                    true => format!("{:.4} ± {:.4}", outcome.loss, outcome.stderr),
                    false => "diverged".to_owned(),
                };
                say(format!(
                    "rung {}, seed {}, {} steps: {}: {loss}\n",
                    outcome.rung,
                    outcome.seed,
                    outcome.steps,
                    written(&outcome.settings)
                ))?;
            }
            Event::Interrupted { out } => {
                bar.finish_and_clear();
                super::print(&format!("stopped; go on with: kinglet tune --resume --out {out}\n"))?;
            }
            Event::Done(found) => {
                bar.finish_and_clear();
                super::print(&report(found))?;
            }
        }
        Ok(())
    }
}

fn report(found: &Found) -> String {
    let Found { best, complete, max_iters, spent_s, out, .. } = found;
    let model =
        if best.steps == *max_iters { format!("it is trained: kinglet sample {}\n", best.out) } else { String::new() };
    let more = if *complete {
        String::new()
    } else {
        format!(
            "go on with: kinglet tune --resume --out {out} --budget TIME, more than the {} so far\n",
            duration(*spent_s)
        )
    };
    format!(
        "\n{}\n{}\n{} spent; written to {out}: best.toml, trials.md, tune.svg\n\
         train with it: kinglet train --config {out}/best.toml\n{model}{more}",
        found.table(),
        found.text(),
        duration(*spent_s),
    )
}

#[cfg(test)]
mod tests {
    use super::budget;

    #[test]
    fn a_budget_is_a_number_and_a_unit() {
        for (text, seconds) in [("90", 90.0), ("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("10 m", 600.0)] {
            assert_eq!(budget(text), Ok(seconds), "{text}");
        }
        for text in ["", "m", "0", "-1m", "nan", "inf", "1d", "10000h", "ten"] {
            assert!(budget(text).is_err(), "{text}");
        }
    }
}

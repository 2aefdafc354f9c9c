//! `kinglet sweep`

use super::{
    choice::{Choice, Threads},
    many::{Many, is_shown},
    report::{duration, optional, stop_team_on_signal},
    run_arg::{self, Place, PlaceArg},
    table::columns,
    terminal::{self, Ended, count, quoted},
    watch::Watch,
    world::World,
};
use crate::{
    error::Error,
    grid::{Axis, Event, Grid, Outcome, Plan, Request, Row, points, read_list, table, written_all},
    hands::Hands,
    run::{HOME, run_name},
    train,
};
use anyhow::Context;
use serde_json::json;
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

/// Train every combination of settings, each with several seeds
#[derive(clap::Args)]
#[command(after_help = "\
Every run is what `kinglet train` makes of the same settings, in a folder that is named after them. Complete runs are kept
when a sweep goes on. A list has the settings of one run on each line, such as learning_rate=1e-3 n_layer=2; with
--grid, each line is combined with the grid. `kinglet tune` searches within a budget of time instead.
    kinglet sweep my.txt --grid n_layer=2,4 --grid dropout=0,0.1 --seeds 3
    kinglet sweep my.txt --list settings.txt --name shapes
    kinglet sweep --resume shapes")]
pub(super) struct Args {
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    place: PlaceArg,
    /// Key to vary, and its values: KEY=A,B,C; may be repeated: all combinations are trained
    #[arg(long, value_name = "KEY=A,B,C")]
    grid: Vec<String>,
    /// File with the settings of one run on each line: KEY=VALUE KEY=VALUE; what follows a # is a comment
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Number of seeds that each of the settings is trained with: that of --seed and those after it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Only show which runs there would be, and how long they take
    #[arg(long, conflicts_with_all = ["resume", "out", "name"])]
    plan: bool,
    /// Continue a sweep: `kinglet sweep --resume DIR`; without DIR, the newest one in runs/. DATA is the current location
    /// of its text, if it has moved
    #[arg(long, conflicts_with_all = ["preset", "config", "set", "seed", "tokenizer", "field", "grid", "list", "seeds"])]
    resume: bool,
    #[command(flatten)]
    threads: Threads,
}

/// Seconds that are measured to say how long all runs take.
const MEASURE_S: f64 = 1.0;

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
        world.lead_or_serve(self.threads(), |threads| {
            world.with_hands(threads, |hands| self.sweep(json, world, hands, threads))
        })
    }

    fn sweep(&self, json: bool, world: &World, hands: &mut Hands, threads: usize) -> anyhow::Result<Ended> {
        let grid = if self.resume {
            let (out, data) = run_arg::sweep_to_resume(&self.place, &self.choice.data)?;
            Grid::resume(&out, data, threads)?
        } else {
            let (plan, name) = self.planned(world, hands.count(), threads)?;
            if self.plan {
                show(&plan, json)?;
                return Ok(Ended::Done);
            }
            let default = Path::new(HOME).join(format!("{name}-sweep"));
            self.place.start(|| default, |place: Place| place.start(|out| plan.start(out)), Grid::path)?
        };
        stop_team_on_signal(world.team())?;
        let mut reporter = Reporter::new(json, &grid)?;
        let last = grid.run(hands, world.team().stop(), |event| reporter.event(event))?;
        Ok(if let Event::Interrupted { .. } = last { Ended::Interrupted } else { Ended::Done })
    }

    /// What is to be trained, and the name of what it is made of.
    fn planned(&self, world: &World, at_a_time: usize, threads: usize) -> anyhow::Result<(Plan, String)> {
        let grid = self.grid.iter().map(|text| text.parse()).collect::<Result<Vec<Axis>, _>>()?;
        let list = self.list.as_deref().map(read_list).transpose()?.unwrap_or_default();
        let points = points(&grid, &list)?;
        let (mut config, name) = self.choice.config()?;
        world.share(&mut config, threads)?;
        // Standard input can be read only once, and every run that goes on reads its text again.
        if config.data.iter().any(|name| name == "-") {
            let what = "a sweep cannot be resumed on standard input: write the text to a file first";
            return Err(Error::BadConfig(what.into()).into());
        }
        let name = run_name(&config, &name);
        let mut plan = Plan::new(Request { config, points, seeds: self.seeds }, threads)?;
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        plan.forecast(MEASURE_S, folder.path(), at_a_time, threads)?;
        Ok((plan, name))
    }
}

/// The name of a run.
fn file_name(run: &str) -> String {
    Path::new(run).file_name().unwrap_or_default().display().to_string()
}

/// How many runs there are, of what.
fn counted(settings: usize, seeds: u64, runs: usize) -> String {
    let each = optional((seeds > 1).then_some(seeds), |seeds| format!(", each with {seeds} seeds"));
    format!("{} of {}{each}", count(runs as u64, "run"), count(settings as u64, "setting"))
}

/// Shows which runs there would be.
fn show(plan: &Plan, json: bool) -> anyhow::Result<()> {
    let (runs, seconds) = (plan.runs().count(), plan.seconds());
    if json {
        for (name, settings, seed) in plan.runs() {
            terminal::print_json(&json!({"event": "would_run", "run": name, "settings": settings, "seed": seed}))?;
        }
        return terminal::print_json(&json!({"event": "plan", "runs": runs, "seconds": seconds}));
    }
    terminal::note(plan.notes());
    let about = optional(seconds, |seconds| format!(", about {} in all", duration(seconds)));
    let seeds = (runs / plan.settings().max(1)) as u64;
    let mut text: String = plan.runs().map(|(name, ..)| format!("{name}\n")).collect();
    text += &format!("\n{}{about}\n", counted(plan.settings(), seeds, runs));
    Ok(terminal::print(&text)?)
}

/// Reports a sweep's events, as lines and a progress bar, or as JSON.
struct Reporter {
    json: bool,
    watch: Watch,
    many: Many,
    /// Notes and warnings that were shown: what concerns the text is the same in every run.
    told: HashSet<String>,
}

impl Reporter {
    fn new(json: bool, grid: &Grid) -> anyhow::Result<Reporter> {
        let each = grid.works()?.into_iter().zip(grid.runs());
        let many = Many::new("", each.map(|(work, (name, config))| (name.to_owned(), work, config.max_iters)));
        Ok(Reporter { json, watch: Watch::new(true), many, told: HashSet::new() })
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Training { number, training } => return self.training(number - 1, training),
            Event::Run { number, .. } => self.many.begins(number - 1),
            Event::Outcome(Outcome { run, .. }) => {
                let i = self.many.named(&file_name(run));
                i.into_iter().for_each(|i| self.many.ended(i));
            }
            Event::Lost { rank, run, why } => {
                let again = optional(run.as_ref(), |run| format!("; {run} begins again on another"));
                return self.watch.tell(&format!("warning: rank {rank} is lost: {why}{again}"));
            }
            Event::Interrupted { .. } | Event::Done { .. } => self.watch.end(),
            _ => {}
        }
        // A closed output pipe must not end the sweep.
        let _ = if self.json { terminal::print_json(event) } else { self.event_text(event) };
    }

    fn training(&mut self, i: usize, event: &train::Event) {
        let name = self.many.name(i);
        let said = match event {
            train::Event::Warning { step, warning } => {
                Some((format!("{name}{warning}"), format!("warning: {name}: at step {step}: {warning}")))
            }
            train::Event::Note { note } => Some((note.clone(), format!("note: {note}"))),
            _ => None,
        };
        if let Some((what, text)) = said {
            if self.told.insert(what) {
                self.watch.tell(&text);
            }
            return;
        }
        if let Some(what) = self.many.training(i, event).filter(|_| is_shown(self.json)) {
            self.many.show(&mut self.watch, i, &what, None);
        }
    }

    fn event_text(&mut self, event: &Event) -> anyhow::Result<()> {
        let say = |watch: &Watch, text: String| if terminal::is_quiet() { Ok(()) } else { watch.say(&text) };
        match event {
            Event::Planned { settings, seeds, runs, left, seconds, out, .. } => {
                let ended = runs - left;
                let ended = optional((ended > 0).then_some(ended), |n| format!(", of which {n} have ended"));
                let about = optional(*seconds, |seconds| format!(", about {} in all", duration(seconds)));
                say(&self.watch, format!("{}{ended}{about}\nsweep in {out}\n", counted(*settings, *seeds, *runs)))?;
            }
            Event::Outcome(outcome) => {
                let Outcome { run, steps, wall_s, .. } = outcome;
                let name = file_name(run);
                let took = format!("{}, {}", count(*steps, "step"), duration(*wall_s));
                let took = optional(outcome.loss.is_finite().then_some(took), |took| format!(" ({took})"));
                say(&self.watch, format!("{name}: {}{took}\n", outcome.loss()))?;
            }
            Event::Interrupted { left, out } => {
                let left = count(*left as u64, "run");
                terminal::print(&format!("stopped; {left} left to train; what is done is saved in {out}\n"))?;
                terminal::hints(&[("to continue", format!("kinglet sweep --resume {}", quoted(out)))])?;
            }
            Event::Done { rows, best, out } => {
                terminal::print(&report(rows, out))?;
                terminal::hints(&hints(best.as_deref(), out))?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// The result as a table, and what was made.
fn report(rows: &[Row], out: &str) -> String {
    let svg = if Path::new(out).join("sweep.svg").exists() { ", sweep.svg" } else { "" };
    let best = match rows {
        [first, _, ..] if first.loss.is_finite() => {
            format!(
                "The best of {} settings: {}. The best loss of several is optimistic: it was chosen on the validation split.\n\n",
                rows.len(),
                written_all(&first.settings)
            )
        }
        _ => String::new(),
    };
    format!("\n{}\n{best}saved in {out}: sweep.md{svg}, and the runs\n", columns(&table(rows)))
}

/// What may be done with the result.
fn hints(best: Option<&str>, out: &str) -> Vec<(&'static str, String)> {
    let compare = ("to compare the runs", format!("kinglet compare {}/*", quoted(out)));
    let sample = best.map(|best| ("to sample the best", format!("kinglet sample {}", quoted(best))));
    sample.into_iter().chain([compare]).collect()
}

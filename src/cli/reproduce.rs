//! `kinglet reproduce`

use super::{
    choice::Threads,
    many::{Many, is_shown},
    published::{PUBLISHED, Published},
    report::{Reporter, optional, stop_team_on_signal},
    terminal::{self, Ended},
    watch::Watch,
    world::World,
};
use crate::{
    backend::Cpu,
    config::Config,
    hands::{self, Hands, Tasks},
    model::Gpt,
    run::RunDir,
    system::machine::processor,
    text::source::TINY_SHAKESPEARE,
    threads::cores,
    train::{Event, Job},
};
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

/// The name of the report in the folder of the runs.
const REPORT: &str = "REPORT.md";

/// Train the published models and compare their losses with the published ones
#[derive(clap::Args)]
pub(super) struct Args {
    /// Number of runs per preset, with seeds 1, 2, ...
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Only this preset; may be repeated [default: both]
    #[arg(long, value_name = "NAME", value_parser = PUBLISHED.map(|published| published.preset))]
    preset: Vec<String>,
    /// Only check that everything works, with 300 steps and no report
    #[arg(long)]
    quick: bool,
    /// Folder for the runs, the report and its pictures; complete runs are kept, interrupted ones are resumed
    #[arg(short, long, value_name = "DIR", default_value = "runs/reproduce")]
    out: PathBuf,
    #[command(flatten)]
    threads: Threads,
}

/// All runs of one preset: the `done` event of each.
struct Runs {
    published: &'static Published,
    done: Vec<Value>,
    /// The folder of each run.
    folders: Vec<PathBuf>,
}

impl Args {
    /// The number of threads that was asked for, or 0.
    pub(super) fn threads(&self) -> usize {
        self.threads.count()
    }

    pub(super) fn run(&self, json: bool, world: &World) -> anyhow::Result<Ended> {
        world.lead_or_serve(self.threads(), |threads| {
            world.with_hands(threads, |hands| self.reproduce(json, world, hands))
        })
    }

    fn reproduce(&self, json: bool, world: &World, hands: &mut Hands) -> anyhow::Result<Ended> {
        stop_team_on_signal(world.team())?;
        let wanted = |name: &str| self.preset.is_empty() || self.preset.iter().any(|wanted| wanted == name);
        let published: Vec<_> = PUBLISHED.iter().filter(|published| wanted(published.preset)).collect();
        let mut each = Vec::new();
        for Published { preset, .. } in &published {
            for seed in 1..=self.seeds {
                each.push(Seeded::new(preset, seed, self.quick, self.folder(preset, seed), world)?);
            }
        }
        let several = hands.count() > 1;
        let stop = world.team().stop();
        let todo = (0..each.len()).filter(|&i| !each[i].is_done()).collect();
        let mut runs = Training { json, each, todo, stop, shown: Shown::new(several), error: None };
        runs.begins()?;
        let ended = hands.train(runs.todo.len(), &mut runs)?;
        if let Some(error) = runs.error {
            return Err(error);
        }
        if let Some((&i, _)) = runs.todo.iter().zip(&ended).find(|(_, how)| **how == hands::Ended::Diverged) {
            bail!("{} diverged", runs.each[i].name());
        }
        if !ended.iter().all(|how| *how == hands::Ended::Done) {
            if several && !json {
                terminal::print(&format!("stopped; what is done is saved in {}\n", self.out.display()))?;
                terminal::hints(&[("to continue", terminal::this_command())])?;
            }
            return Ok(Ended::Interrupted);
        }
        let mut each = runs.each.into_iter();
        let mut all = Vec::new();
        for published in published {
            let (mut done, mut folders) = (Vec::new(), Vec::new());
            for run in each.by_ref().take(usize::try_from(self.seeds)?) {
                done.extend(run.done);
                folders.push(run.folder);
            }
            all.push(Runs { published, done, folders });
        }
        if json {
            for runs in &all {
                terminal::print_json(&runs.summary(&self.out))?;
            }
        } else {
            terminal::print(&format!("\n{}", table(&all)))?;
        }
        if !self.quick {
            let report = self.write_report(&all)?;
            if !json {
                terminal::print(&format!("\nwritten to {}\n", report.display()))?;
            }
        }
        Ok(Ended::Done)
    }

    fn folder(&self, name: &str, seed: u64) -> PathBuf {
        let quick = if self.quick { "-quick" } else { "" };
        self.out.join(format!("{name}-seed{seed}{quick}"))
    }

    /// Writes the report and its pictures into the folder of the runs.
    fn write_report(&self, all: &[Runs]) -> anyhow::Result<PathBuf> {
        let mut text = format!(
            "# Results\n\nWritten by `kinglet reproduce --seeds {}` (kinglet {}) on {}.\n\
             Tiny Shakespeare, 5000 steps. Losses are estimated as in the published results: the mean over 200 random\n\
             batches after the last step. ± is the standard deviation over seeds.\n\n{}",
            self.seeds,
            env!("CARGO_PKG_VERSION"),
            today_and_machine()?,
            table(all),
        );
        for runs in all {
            let preset = runs.published.preset;
            let svg = format!("{preset}-loss.svg");
            let plot = fs::read(runs.folders[0].join("loss.svg")).context("cannot read the loss curve")?;
            fs::write(self.out.join(&svg), plot).with_context(|| format!("cannot write {svg}"))?;
            let sample = fs::read_to_string(runs.folders[0].join("sample.txt")).context("cannot read the sample")?;
            write!(
                text,
                "\n## {preset}\n\n![Loss of {preset}]({svg})\n\n| seed | train loss | val loss | exact val loss | ms per step | total s | steps between estimates |\n|---|---|---|---|---|---|---|\n"
            )?;
            for (i, done) in runs.done.iter().enumerate() {
                let number = |key: &str| done[key].as_f64().unwrap_or(f64::NAN);
                writeln!(
                    text,
                    "| {} | {:.4} | {:.4} | {:.4} ± {:.4} | {:.2} | {:.0} | {} |",
                    i + 1,
                    number("train_loss"),
                    number("val_loss"),
                    number("val_loss_exact"),
                    number("val_loss_stderr"),
                    number("ms_per_step"),
                    number("wall_s"),
                    RunDir::open(&runs.folders[i])?.config.eval_interval,
                )?;
            }
            write!(text, "\nA sample of the model with seed 1:\n\n```text\n{}\n```\n", sample.trim())?;
        }
        let report = self.out.join(REPORT);
        fs::write(&report, text).with_context(|| format!("cannot write {}", report.display()))?;
        Ok(report)
    }
}

/// A run of a preset on Tiny Shakespeare with one seed.
struct Seeded {
    preset: &'static str,
    seed: u64,
    config: Config,
    folder: PathBuf,
    /// The `done` event, if it is complete.
    done: Option<Value>,
}

impl Seeded {
    fn new(preset: &'static str, seed: u64, quick: bool, folder: PathBuf, world: &World) -> anyhow::Result<Seeded> {
        let mut config = Config::preset(preset)?;
        config.seed = seed;
        config.data = vec![TINY_SHAKESPEARE.to_owned()];
        if quick {
            (config.max_iters, config.eval_iters) = (300, 20);
        }
        world.share(&mut config, 0)?;
        let mut run = Seeded { preset, seed, config, folder, done: None };
        if run.folder.exists() {
            run.check()?;
            run.look()?;
        }
        Ok(run)
    }

    fn name(&self) -> String {
        format!("{} with seed {}", self.preset, self.seed)
    }

    fn is_done(&self) -> bool {
        self.done.is_some()
    }

    /// Refuses a folder with another run in it.
    fn check(&self) -> anyhow::Result<()> {
        let run = RunDir::open(&self.folder)?;
        let mut config = self.config.clone();
        // Copy the values a run resolves for itself; all others must match the requested configuration.
        let Config { data, data_kind, data_sha256, tokenizer_sha256, vocab_size, shards, .. } = run.config.clone();
        (config.data, config.data_kind, config.data_sha256) = (data, data_kind, data_sha256);
        config.tokenizer_sha256 = tokenizer_sha256;
        (config.vocab_size, config.shards) = (vocab_size, shards);
        if run.config != config {
            bail!(
                "{} contains a run with a different configuration: remove it, or choose another --out",
                self.folder.display()
            );
        }
        Ok(())
    }

    /// Looks whether it is complete.
    fn look(&mut self) -> anyhow::Result<()> {
        let is_done =
            |event: &crate::error::Result<Value>| event.as_ref().map_or(true, |event| event["event"] == "done");
        self.done = RunDir::open(&self.folder)?.events::<Value>()?.find(is_done).transpose()?;
        Ok(())
    }
}

/// How the training of runs is shown.
enum Shown {
    /// One after another, each as `kinglet train` shows it.
    Each(Option<Box<Reporter>>),
    /// Several at a time, with one bar for all, and the notes and warnings that were shown.
    Together(Box<(Watch, Many, HashSet<String>)>),
}

impl Shown {
    fn new(several: bool) -> Shown {
        match several {
            false => Shown::Each(None),
            true => Shown::Together(Box::new((Watch::new(true), Many::new("", []), HashSet::new()))),
        }
    }
}

/// Runs that are trained.
struct Training<'a> {
    json: bool,
    each: Vec<Seeded>,
    /// Those that are not complete.
    todo: Vec<usize>,
    stop: &'a AtomicBool,
    shown: Shown,
    /// What went wrong where no error can be returned.
    error: Option<anyhow::Error>,
}

impl Training<'_> {
    /// Says which runs are complete already.
    fn begins(&mut self) -> anyhow::Result<()> {
        for run in self.each.iter().filter(|run| run.is_done() && !self.json) {
            terminal::print(&format!("--- {}: complete\n", run.name()))?;
        }
        if let Shown::Together(shown) = &mut self.shown {
            // The larger model takes the longer.
            let size = |config: &Config| Gpt::new(config).map_or(1.0, |model| model.layout.len() as f64);
            let of = |run: &Seeded| {
                let mut config = run.config.clone();
                config.vocab_size = config.vocab_size.max(65);
                (run.name(), size(&config) * config.max_iters as f64, config.max_iters)
            };
            shown.1 = Many::new("", self.each.iter().map(of));
            let done = self.each.iter().enumerate().filter(|(_, run)| run.is_done());
            done.for_each(|(i, _)| shown.1.ended(i));
        }
        Ok(())
    }

    /// A run has ended.
    fn ended(&mut self, i: usize) -> anyhow::Result<()> {
        self.each[i].look()?;
        if let (Shown::Together(shown), Some(done)) = (&mut self.shown, &self.each[i].done) {
            shown.1.ended(i);
            match self.json {
                true => terminal::print_json(done)?,
                false => shown.0.say(&format!("{}: validation loss {:.4}\n", self.each[i].name(), done["val_loss"]))?,
            }
        }
        Ok(())
    }
}

impl Tasks for Training<'_> {
    fn open(&mut self, task: usize) -> crate::error::Result<Job> {
        let run = &self.each[self.todo[task]];
        let job = match run.folder.exists() {
            true => Job::resume(&run.folder, &[])?,
            false => Job::start(run.config.clone(), &run.folder)?,
        };
        if let Shown::Each(reporter) = &mut self.shown {
            let of_run = Reporter::new(self.json, &job.run.config).resumed_by(terminal::this_command());
            *reporter = Some(Box::new(of_run));
        }
        Ok(job)
    }

    fn is_over(&self) -> bool {
        self.error.is_some() || self.stop.load(Ordering::Relaxed)
    }

    fn event(&mut self, event: hands::Event<'_>) {
        match (event, &mut self.shown) {
            (hands::Event::Began { task }, Shown::Each(_)) if !self.json => {
                // A closed output pipe must not end the training.
                let _ = terminal::print(&format!("--- {}\n", self.each[self.todo[task]].name()));
            }
            (hands::Event::Began { task }, Shown::Together(shown)) => shown.1.begins(self.todo[task]),
            (hands::Event::Training { event, .. }, Shown::Each(Some(reporter))) => reporter.event(event),
            (hands::Event::Training { task, event }, Shown::Together(shown)) => {
                let ((watch, many, told), i) = (&mut **shown, self.todo[task]);
                match event {
                    Event::Warning { step, warning } => {
                        watch.tell(&format!("warning: {}: at step {step}: {warning}", many.name(i)));
                    }
                    Event::Note { note } if told.insert(note.clone()) => watch.tell(&format!("note: {note}")),
                    event => {
                        if let Some(what) = many.training(i, event).filter(|_| is_shown(self.json)) {
                            many.show(watch, i, &what, None);
                        }
                    }
                }
            }
            (hands::Event::Ended { task, how: hands::Ended::Done }, _) => {
                if let Err(error) = self.ended(self.todo[task]) {
                    self.error = Some(error);
                }
            }
            (hands::Event::Lost { rank, task, why }, Shown::Together(shown)) => {
                let again =
                    optional(task, |task| format!("; {} begins again on another", self.each[self.todo[task]].name()));
                shown.0.tell(&format!("warning: rank {rank} is lost: {why}{again}"));
            }
            _ => {}
        }
    }
}

/// The date, and the machine that a report's times were measured on.
fn today_and_machine() -> anyhow::Result<String> {
    let (cpu, cores) = processor().unwrap_or_else(|| ("unknown processor".to_owned(), cores()));
    let (date, isa) = (humantime::format_rfc3339(SystemTime::now()).to_string(), Cpu::new()?.isa());
    Ok(format!("{}, on {cores} cores of: {cpu} ({})", &date[..10], isa.name()))
}

/// Mean and standard deviation.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values: Vec<f64> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
}

impl Runs {
    /// Mean and standard deviation of a figure over the seeds.
    fn spread(&self, key: &str) -> (f64, f64) {
        spread(self.done.iter().filter_map(|done| done[key].as_f64()))
    }

    fn summary(&self, out: &Path) -> Value {
        let ((train, train_sd), (val, val_sd)) = (self.spread("train_loss"), self.spread("val_loss"));
        json!({
            "event": "reproduced",
            "preset": self.published.preset,
            "out": out.display().to_string(),
            "seeds": self.done.len(),
            "params": self.done[0]["params"],
            "train_loss": train,
            "train_loss_sd": train_sd,
            "val_loss": val,
            "val_loss_sd": val_sd,
            "wall_s": self.spread("wall_s").0,
            "published": {
                "params": self.published.params,
                "train_loss": self.published.train_loss,
                "val_loss": self.published.val_loss,
            },
        })
    }
}

/// Our results beside the published ones, as Markdown.
fn table(all: &[Runs]) -> String {
    let mut text = String::from(
        "| model | parameters | published | train loss | published | val loss | published | total s |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for runs in all {
        let ((train, train_sd), (val, val_sd)) = (runs.spread("train_loss"), runs.spread("val_loss"));
        let sd = |sd: f64| if runs.done.len() > 1 { format!(" ± {sd:.4}") } else { String::new() };
        let p = runs.published;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {train:.4}{} | {:.4} | {val:.4}{} | {:.4} | {:.0} |",
            p.preset,
            runs.done[0]["params"],
            p.params,
            sd(train_sd),
            p.train_loss,
            sd(val_sd),
            p.val_loss,
            runs.spread("wall_s").0,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{self, Options};
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_report_and_its_pictures_are_beside_the_runs() {
        let temp = tempfile::tempdir().unwrap();
        let out = temp.path().join("out");
        let args = Alone::parse_from(["reproduce", "--out", out.to_str().unwrap()]).args;
        let published = &PUBLISHED[0];
        let folder = args.folder(published.preset, 1);
        let settings = ["data=[\"builtin\"]", "max_iters=2", "eval_iters=1", "n_layer=1", "n_embd=8"];
        let job = Job::start(Config::default().with(&settings).unwrap(), &folder).unwrap();
        let done = train::run(job, Cpu::new().unwrap(), &Options::default(), |_| ()).unwrap();
        let runs = Runs { published, done: vec![serde_json::to_value(done).unwrap()], folders: vec![folder] };
        assert_eq!(args.write_report(&[runs]).unwrap(), out.join(REPORT));
        let report = fs::read_to_string(out.join(REPORT)).unwrap();
        let picture = report.split("](").nth(1).and_then(|rest| rest.split(')').next()).unwrap();
        assert!(out.join(picture).is_file(), "{report}");
        assert!(report.contains("| big-0.2m |") && report.contains("\n| 1 | "), "{report}");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }
}

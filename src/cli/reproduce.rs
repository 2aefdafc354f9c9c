//! `kinglet reproduce`

use super::{
    choice::Threads,
    published::{PUBLISHED, Published},
    report::stop_team_on_signal,
    seeded::{self, How, Seeded, spread, today},
    terminal::{self, Ended},
    world::World,
};
use crate::{
    backend::Cpu, config::Config, hands::Hands, run::RunDir, system::machine::processor,
    text::source::TINY_SHAKESPEARE, threads::cores,
};
use anyhow::Context;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
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
                let name = format!("{preset} with seed {seed}");
                each.push(Seeded::new(name, self.config(preset, seed)?, self.folder(preset, seed), world)?);
            }
        }
        let opened = &mut |_: &Seeded| Ok(());
        let how = How { json, out: &self.out, loss: "val_loss", skip_report: false, opened };
        let Some(each) = seeded::train(each, how, world, hands)? else { return Ok(Ended::Interrupted) };
        let mut each = each.into_iter();
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

    /// A preset on Tiny Shakespeare with one seed.
    fn config(&self, preset: &str, seed: u64) -> anyhow::Result<Config> {
        let mut config = Config::preset(preset)?;
        config.seed = seed;
        config.data = vec![TINY_SHAKESPEARE.to_owned()];
        if self.quick {
            (config.max_iters, config.eval_iters) = (300, 20);
        }
        Ok(config)
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

/// The date, and the machine that a report's times were measured on.
fn today_and_machine() -> anyhow::Result<String> {
    let (cpu, cores) = processor().unwrap_or_else(|| ("unknown processor".to_owned(), cores()));
    Ok(format!("{}, on {cores} cores of: {cpu} ({})", today(), Cpu::new()?.isa().name()))
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
    use crate::train::{self, Job, Options};
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

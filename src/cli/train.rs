//! `kinglet train`

use super::{
    choice::{Choice, Threads},
    report::{Finished, Reporter, finish, stop_on_signal},
    terminal::Ended,
};
use kinglet::{
    backend::Cpu,
    config::PRESETS,
    train::{self, Event, Job, Options},
};
use std::path::PathBuf;

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
    #[command(flatten)]
    threads: Threads,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<Ended> {
        let job = self.job()?;
        let stop = stop_on_signal()?;
        let mut reporter = Reporter::new(json, &job.run.config);
        let finished = Finished::of(&job);
        let options = Options::default().threads(self.threads.count()).stop(&stop);
        let last = train::run(job, Cpu::new()?, &options, |event| reporter.event(event))?;
        Ok(match last {
            Event::Interrupted { .. } => Ended::Interrupted,
            _ => finish(&finished, json)?,
        })
    }

    fn job(&self) -> anyhow::Result<Job> {
        let out = |name: std::ffi::OsString| self.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(name));
        if self.resume {
            return Ok(Job::resume(out(PRESETS[0].0.into()), &self.choice.set)?);
        }
        let (config, name) = self.choice.config()?;
        Ok(Job::start(config, out(name))?)
    }
}

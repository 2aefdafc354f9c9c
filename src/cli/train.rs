//! `kinglet train`

use super::{
    choice::{Choice, Threads},
    report::{Finished, Reporter, finish, stop_on_signal},
    terminal::Ended,
};
use kinglet::{
    backend::Cpu,
    config::PRESETS,
    train::{self, Changes, Event, Job, Options},
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
    /// Go on with the run in --out, from its last checkpoint; --set changes what need not stay, and DATA says where the
    /// run's text is now
    #[arg(long, conflicts_with_all = ["preset", "config", "seed", "tokenizer", "field"])]
    resume: bool,
    /// With --resume: where the text of the run that a fine-tuning began with is now; may be repeated
    #[arg(long, value_name = "DATA", requires = "resume")]
    replay_data: Vec<String>,
    #[command(flatten)]
    threads: Threads,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<Ended> {
        self.threads.run(|| self.train(json))
    }

    fn train(&self, json: bool) -> anyhow::Result<Ended> {
        // An unknown KINGLET_ISA is refused before anything is written.
        let be = Cpu::new()?;
        let job = self.job()?;
        let stop = stop_on_signal()?;
        let mut reporter = Reporter::new(json, &job.run.config);
        let finished = Finished::of(&job);
        let options = Options::default().threads(self.threads.count()).stop(&stop);
        let last = train::run(job, be, &options, |event| reporter.event(event))?;
        Ok(match last {
            Event::Interrupted { .. } => Ended::Interrupted,
            _ => finish(&finished, json)?,
        })
    }

    fn job(&self) -> anyhow::Result<Job> {
        let out = |name: std::ffi::OsString| self.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(name));
        if self.resume {
            let Choice { set, data, .. } = &self.choice;
            let changes = Changes { settings: set.clone(), data: data.clone(), replay_data: self.replay_data.clone() };
            return Ok(Job::resume_with(out(PRESETS[0].0.into()), &changes)?);
        }
        let (config, name) = self.choice.config()?;
        Ok(Job::start(config, out(name))?)
    }
}

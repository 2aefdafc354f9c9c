//! `kinglet train`

use super::{
    choice::{Choice, Threads},
    machines::MachinesArg,
    plan::{self, How},
    report::{Finished, Reporter, finish, stop_team_on_signal},
    run_arg::{self, Place, PlaceArg},
    terminal::{self, Ended},
    world::World,
};
use crate::{
    run::{HOME, change_tags, run_name},
    train::{self, Changes, Event, Job, Memory, Options},
};
use std::path::Path;

/// Train a model on text, or continue a run
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    place: PlaceArg,
    /// Tag the run, for `kinglet list --tag`; may be repeated
    #[arg(long, value_name = "TAG", value_parser = run_arg::tag)]
    tag: Vec<String>,
    /// Continue a run from its last checkpoint: `kinglet train --resume RUN`; without RUN, the newest run that is not
    /// complete. --set changes settings such as max_iters; DATA is the current location of the run's text, if it has
    /// moved
    #[arg(long, conflicts_with_all = ["preset", "config", "seed", "tokenizer", "field"])]
    resume: bool,
    /// Only estimate the time and memory, after a few seconds of measuring, as `kinglet plan` does
    #[arg(long, conflicts_with_all = ["resume", "tag"])]
    plan: bool,
    #[command(flatten)]
    machines: MachinesArg,
    /// With --resume of a fine-tuned run: current location of the base run's text; may be repeated
    #[arg(long, value_name = "DATA", requires = "resume")]
    replay_data: Vec<String>,
    /// On several ranks: each keeps the optimizer's moments of a part of the weights only (ZeRO-1), which takes less memory and
    /// more traffic; results do not depend on it
    #[arg(long)]
    zero: bool,
    #[command(flatten)]
    threads: Threads,
}

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
        world.lead_or_serve(self.threads(), |threads| self.train(json, world, threads))
    }

    fn train(&self, json: bool, world: &World, threads: usize) -> anyhow::Result<Ended> {
        // An unknown KINGLET_ISA is refused before anything is written.
        let be = world.cpu()?;
        Memory::share_among(world.team().size(), self.zero);
        let machines = self.machines.only_with(self.plan, self.zero)?;
        if self.plan {
            plan::of_choice(&self.choice, be, &How { threads, seconds: 3.0, machines, json })?;
            return Ok(Ended::Done);
        }
        let job = self.job(world, threads)?;
        // The run has been created: it begins, with its tags or without them.
        if let Err(error) = change_tags(job.run.path(), &self.tag, &[]) {
            terminal::warn(&[format!("the run is not tagged: {}", error.one_line())]);
        }
        stop_team_on_signal(world.team())?;
        let mut reporter = Reporter::new(json, &job.run.config);
        let finished = Finished::of(&job);
        let options = Options::default().threads(threads).stop(world.team().stop()).team(world.team()).zero(self.zero);
        let last = train::run(job, be, &options, |event| reporter.event(event))?;
        Ok(match last {
            Event::Interrupted { .. } => Ended::Interrupted,
            _ => finish(&finished, json)?,
        })
    }

    fn job(&self, world: &World, threads: usize) -> anyhow::Result<Job> {
        if self.resume {
            let (run, data) = run_arg::to_resume(&self.place, &self.choice.data)?;
            let settings = self.choice.set.clone();
            let changes = Changes { settings, data: data.to_vec(), replay_data: self.replay_data.clone() };
            return Ok(Job::resume_with(run, &changes)?);
        }
        let (mut config, name) = self.choice.config()?;
        world.share(&mut config, threads)?;
        let default = run_name(&config, &name);
        let start = |place| match place {
            Place::Given(out) => Job::start(config, out),
            Place::Free(out) => Job::start_free(config, out),
        };
        Ok(self.place.start(|| Path::new(HOME).join(default), start, |job| job.run.path())?)
    }
}

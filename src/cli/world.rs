//! The processes that a launcher such as `mpirun` started together. Rank 0 runs the command; the others serve it, and print nothing.

mod agree;

pub(super) use agree::Silent;

use super::terminal::{self, Ended, tell};
use crate::{
    backend::Cpu,
    config::Config,
    error::Error,
    hands::{self, Crew, Hands},
    ranks::{Ranks, Team},
    replica, shards,
    threads::{cores, whole, with_threads},
};
use agree::{Process, Terms, agree, decide, notes};
use anyhow::anyhow;
use kinglet_mpi::{Launch, Mpi, end_now};
use std::{
    ffi::c_int,
    panic::{AssertUnwindSafe, catch_unwind},
    str,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

/// How long a rank waits for another, unless `KINGLET_RANK_TIMEOUT` says otherwise.
const PATIENCE_S: f64 = 600.0;

/// A higher rank loses its patience later than rank 0, by so many seconds for each rank, so that one of them speaks for all: Open MPI
/// takes three seconds to end the others where one of them is cut off.
const LATER_S: f64 = 4.0;

/// The last rank to lose its patience ends so many seconds later.
const ENDING_S: f64 = 3.0;

/// Ranks above 0 that lose their patience at different times.
const SPEAKERS: usize = 3;

/// Where a rank may wait for less than this, it takes less time for the others to end, and several may speak.
const ROOM_S: f64 = 20.0;

/// How long all ranks leave MPI alone before they end it together. MPICH before 4.2 on UCX hangs if one that is still awake answers
/// another that has begun to end: https://github.com/pmodels/mpich/pull/6596.
const ASLEEP: Duration = Duration::from_millis(100);

/// How long MPI may take to end. All is done by then.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// How long a rank that has nothing to say waits before it ends: a launcher that sees it end kills the others, and rank 0 has
/// something to say.
const FIRST_WORD: Duration = Duration::from_millis(300);

/// How this process was started, if that was as one of several.
pub(super) fn launched() -> Option<Launch> {
    Mpi::launched()
}

/// What several processes share.
#[derive(Clone, Copy, Default)]
pub(super) struct Shared {
    /// The number of threads that was asked for, or 0.
    pub(super) threads: usize,
    /// Whether they share out whole runs, rather than the steps of one.
    pub(super) runs: bool,
}

/// This process, alone or one of several.
pub(super) struct World {
    team: Team,
    /// What was agreed, unless this process is alone.
    terms: Option<Terms>,
    mpi: Option<Arc<Mpi>>,
    /// Whether whole runs are shared out.
    runs: bool,
    /// The cores that this process would have without a launcher.
    cores: usize,
    /// The ranks that runs are shared out to, as rank 0 sees them.
    crew: Mutex<Option<Crew>>,
    /// Whether a rank was lost: MPI does not end then, since it would wait for it.
    parted: AtomicBool,
}

impl World {
    /// This process by itself.
    fn alone() -> World {
        let (crew, parted) = (Mutex::default(), AtomicBool::default());
        World { team: Team::default(), terms: None, mpi: None, runs: false, cores: cores(), crew, parted }
    }

    /// Meets the other processes, for a command that they can share. Without a launcher of several, there are none, and nothing is
    /// done.
    ///
    /// # Errors
    /// If they cannot be met, or would not compute the same bits. All end with the same status then, and one of them says why.
    pub(super) fn start(launch: Option<Launch>, shared: Shared) -> anyhow::Result<World> {
        let Some(launch) = launch else { return Ok(World::alone()) };
        World::meet(&launch, shared).map_err(|error| match error.downcast_ref() {
            Some(Silent(_)) => error,
            // On each machine, because each may have a fault of its own.
            None if launch.is_first_here && launch.rank > 0 => error.context(format!("rank {}", launch.rank)),
            None if launch.rank > 0 => Silent(terminal::status(&error)).into(),
            None => error,
        })
    }

    fn meet(launch: &Launch, Shared { threads, runs }: Shared) -> anyhow::Result<World> {
        let patience = patience();
        let limit = Duration::from_secs_f64(*patience.as_ref().unwrap_or(&PATIENCE_S));
        let started = {
            let seconds = limit.as_secs_f64();
            let _limit = Limit::new(limit, move || {
                tell(&format!("error: MPI did not start within {seconds} seconds: a process or a link hangs"));
                1
            });
            Mpi::start(launch, |why| {
                tell(&format!(
                    "error: {}. All ranks end. If they were training a run, its last checkpoint is intact: `kinglet train \
                     --resume` continues from there, with any number of ranks",
                    why.trim_end_matches('.')
                ));
            })
        };
        let mpi = Arc::new(started.map_err(|error| anyhow!(no_library(launch, &error.one_line())))?);
        static MPI: OnceLock<Arc<Mpi>> = OnceLock::new();
        let _ = MPI.set(Arc::clone(&mpi));
        terminal::end_others_by(|status| {
            if let Some(mpi) = MPI.get() {
                mpi.end_all(status)
            }
        });
        if mpi.size() == 1 {
            let alone = launch.size.map(|size| anyhow!(singletons(launch, size, mpi.library())));
            finish(
                &mpi,
                Outcome { status: alone.is_some().into(), error: alone.as_ref().map(|error| format!("{error:#}")) },
            );
            return alone.map_or_else(|| Ok(World::alone()), Err);
        }
        let team = Team::new(mpi.clone()).with_patience(limit);
        let isa = std::env::var("KINGLET_ISA").ok();
        let mine = Process::mine(mpi.host(), launch.cores);
        let decided = agree(&team, &mine, |processes| {
            // An unknown one is known to nobody.
            Cpu::new()?;
            let terms = decide(processes, isa.as_deref(), patience?)?;
            terminal::note(&notes(processes, &terms[0], threads > 0));
            Ok(terms)
        });
        let terms = match decided {
            Ok(terms) => terms,
            Err(error) => {
                let refused = Err(error);
                finish(&mpi, Outcome::of(&refused));
                return refused.map(|_: Ended| World::alone());
            }
        };
        let patience = patience_of(team.rank(), team.size(), terms.patience_s);
        let team = team.with_patience(patience);
        let (terms, mpi) = (Some(terms), Some(mpi));
        Ok(World { team, terms, mpi, runs, cores: mine.around(), ..World::alone() })
    }

    /// All ranks.
    pub(super) fn team(&self) -> &Team {
        &self.team
    }

    /// Whether this process runs the command, rather than serve the one that does.
    fn is_first(&self) -> bool {
        self.team.rank() == 0
    }

    /// The number of threads of this rank: `given`, or if that is 0, those that it has cores for; alone, still 0.
    fn threads(&self, given: usize) -> usize {
        match &self.terms {
            Some(terms) if given == 0 => terms.threads,
            _ => given,
        }
    }

    /// Sets what a configuration leaves open and several ranks need: the number of shards. `threads` are those of a rank.
    ///
    /// # Errors
    /// If the configuration does not describe a valid model.
    pub(super) fn share(&self, config: &mut Config, threads: usize) -> Result<(), Error> {
        if !self.team.is_alone() {
            // Each of several runs is what it would be without a launcher, whatever cores that leaves to a rank.
            let (ranks, threads) = if self.runs { (1, self.cores) } else { (self.team.size(), threads) };
            config.shards = shards::count_on(config, ranks, threads)?;
        }
        Ok(())
    }

    /// The backend, which computes the same bits on all ranks.
    ///
    /// # Errors
    /// If `KINGLET_ISA` names an instruction set that this processor does not have.
    pub(super) fn cpu(&self) -> Result<Cpu, Error> {
        let Some(terms) = &self.terms else { return Cpu::new() };
        let be = Cpu::all().into_iter().find(|be| be.isa().name() == terms.isa);
        let be = be.and_then(|be| be.with_bf16_as(&terms.bf16));
        be.ok_or_else(|| Error::Ranks(format!("this processor has lost its instruction set {}", terms.isa)))
    }

    /// What trains runs: this process, or all ranks. It is for rank 0.
    ///
    /// # Errors
    /// Those of `work`, or if this processor lacks the instruction set that `KINGLET_ISA` names.
    pub(super) fn with_hands<T>(
        &self,
        threads: usize,
        work: impl FnOnce(&mut Hands) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let (be, mut crew) = (self.cpu()?, self.crew());
        work(&mut match crew.as_mut() {
            Some(crew) => Hands::with(be, threads, crew),
            None => Hands::alone(be, threads),
        })
    }

    fn crew(&self) -> MutexGuard<'_, Option<Crew>> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a command, of rank 0 or of another, and then ends what all share, whether the command succeeded or not.
    pub(super) fn run(self, command: impl FnOnce(&World) -> anyhow::Result<Ended>) -> anyhow::Result<Ended> {
        let Some(mpi) = &self.mpi else { return command(&self) };
        if self.runs && self.is_first() {
            let crew = Crew::new(&self.team).unwrap_or_else(|error| self.team.abort(&error.one_line()));
            *self.crew() = Some(crew);
        }
        let ended = catch_unwind(AssertUnwindSafe(|| command(&self)));
        let ended = ended.unwrap_or_else(|_| self.team.abort("the program panicked; this is a fault of its own"));
        if self.is_first() {
            let crew = self.crew().take();
            match crew {
                Some(crew) => self.parted.store(!crew.end().is_empty(), Ordering::Relaxed),
                None => replica::quit(&self.team),
            }
        } else {
            // Whatever went wrong here, rank 0 waits for this one.
            if let Err(error) = &ended {
                self.team.abort(&format!("{error:#}"));
            }
        }
        if self.parted.load(Ordering::Relaxed) {
            terminal::end_others_at_last(self.is_first());
            return ended;
        }
        self.team.meet();
        finish(mpi, Outcome::of(&ended));
        if self.is_first() && matches!(ended, Ok(Ended::Interrupted)) {
            // After a signal to itself, `mpiexec` of MPICH 4.0 forgets the status of the last processes that end. So the others,
            // which the signal reached too, end before.
            thread::sleep(FIRST_WORD);
        }
        ended
    }

    /// Runs `command` on rank 0, in a pool of its threads, of which it is told the number; another rank serves that. `threads` is the
    /// number that was asked for, or 0.
    ///
    /// # Errors
    /// Those of the command, or if threads cannot be started.
    pub(super) fn lead_or_serve(
        &self,
        threads: usize,
        command: impl FnOnce(usize) -> anyhow::Result<Ended> + Send,
    ) -> anyhow::Result<Ended> {
        let threads = self.threads(threads);
        if self.is_first() { whole(threads, || command(threads))? } else { self.serve(threads) }
    }

    /// What a rank above 0 does: it serves rank 0 until that quits. A signal asks the run to stop, as one to rank 0 does.
    ///
    /// # Errors
    /// If its threads cannot be started, or it does not understand rank 0.
    fn serve(&self, threads: usize) -> anyhow::Result<Ended> {
        let team = self.team.clone();
        ctrlc::set_handler(move || team.stop().store(true, Ordering::Relaxed))?;
        let (threads, be) = (self.threads(threads), self.cpu()?);
        if self.runs {
            let all = hands::serve(be, &self.team, threads)?;
            self.parted.store(!all, Ordering::Relaxed);
            return Ok(Ended::Done);
        }
        whole(threads, || with_threads(threads, || replica::serve(&be, &self.team)))???;
        Ok(if self.team.is_asked_to_stop() { Ended::Interrupted } else { Ended::Done })
    }
}

/// How a command ended, for the case that MPI does not.
struct Outcome {
    status: c_int,
    error: Option<String>,
}

impl Outcome {
    fn of(ended: &anyhow::Result<Ended>) -> Outcome {
        let error = ended.as_ref().err();
        let status = match ended {
            Ok(Ended::Done) => 0,
            Ok(Ended::Interrupted) => 130,
            Ok(Ended::Different | Ended::Missed) => 1,
            Err(error) => terminal::status(error).into(),
        };
        Outcome { status, error: error.map(|error| format!("{error:#}")) }
    }

    /// What rank 0 has to say, and the exit status.
    fn tell(self, first: bool) -> c_int {
        if first {
            let last = "the MPI library does not end. All else has ended, and nothing is lost";
            tell(&self.error.map_or_else(|| format!("warning: {last}"), |error| format!("error: {error}")));
        }
        self.status
    }
}

/// Ends MPI in this process. A launcher that sees a process end without this may kill the others.
fn finish(mpi: &Mpi, outcome: Outcome) {
    thread::sleep(ASLEEP);
    let first = mpi.rank() == 0;
    let _limit = Limit::new(LAST_PATIENCE, move || outcome.tell(first));
    if let Err(error) = mpi.finish() {
        terminal::warn(&[format!("rank {}: {}", mpi.rank(), error.one_line())]);
    }
}

/// The seconds that one rank waits for another.
fn patience() -> Result<f64, Error> {
    let Ok(value) = std::env::var("KINGLET_RANK_TIMEOUT") else { return Ok(PATIENCE_S) };
    let seconds = value.trim().parse().ok().filter(|seconds| (0.1..=1e7).contains(seconds));
    seconds.ok_or_else(|| {
        Error::BadConfig(format!("KINGLET_RANK_TIMEOUT = {value}: must be a number of seconds, from 0.1 to 10000000"))
    })
}

/// How long a rank waits for another, so that all have ended within the seconds of the watchdog.
fn patience_of(rank: usize, ranks: usize, limit_s: f64) -> Duration {
    let behind = (ranks - 1).min(SPEAKERS) - rank.min(SPEAKERS);
    let early_s = ENDING_S + behind as f64 * LATER_S;
    Duration::from_secs_f64(limit_s - early_s * (limit_s / ROOM_S).min(1.0))
}

/// Ends this process if something in MPI takes longer than this: its own calls may wait for other processes.
struct Limit(#[allow(dead_code, reason = "its end is what is noticed")] Sender<()>);

impl Limit {
    /// `late` has the last word, and the exit status.
    fn new(limit: Duration, late: impl FnOnce() -> c_int + Send + 'static) -> Limit {
        let (over, waits) = channel::<()>();
        thread::spawn(move || {
            if let Err(RecvTimeoutError::Timeout) = waits.recv_timeout(limit) {
                end_now(late());
            }
        });
        Limit(over)
    }
}

/// Refuses a command that processes cannot share.
pub(super) fn refuse(command: &str) -> anyhow::Error {
    Error::BadConfig(format!(
        "`kinglet {command}` runs in one process: start it without mpirun or srun; or set KINGLET_MPI=none, and each process \
         runs it by itself"
    ))
    .into()
}

/// Waits until rank 0 has spoken, if this rank has nothing to say.
pub(super) fn let_speak() {
    thread::sleep(FIRST_WORD);
}

fn no_library(launch: &Launch, error: &str) -> String {
    let started = launch.size.map_or("several processes".into(), |size| format!("{size} processes"));
    format!(
        "a launcher started {started}, but {error}\nInstall the MPI that the launcher belongs to on every host (Debian: `apt install \
         openmpi-bin` or `apt install mpich`; Python: `pip install mpich`), or name its library: \
         KINGLET_MPI=/path/to/libmpi.so.12. With KINGLET_MPI=none each process runs by itself"
    )
}

fn singletons(launch: &Launch, size: usize, library: &str) -> String {
    let why = match launch.by_slurm {
        true => {
            "srun did not introduce them to each other: use `srun --mpi=pmix` for Open MPI, `srun --mpi=pmi2` for MPICH and Intel \
             MPI (`srun --mpi=list` shows which there are), or `mpirun` inside of the job"
        }
        false => {
            "the launcher belongs to another MPI: name the library of the launcher's with KINGLET_MPI=/path/to/libmpi.so"
        }
    };
    format!(
        "{size} processes were started, but {library} knows only one: {why}. With KINGLET_MPI=none each process runs by itself"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_lose_their_patience_one_after_another_within_the_limit() {
        let seconds = |ranks, limit_s| -> Vec<f64> {
            (0..ranks).map(|rank| patience_of(rank, ranks, limit_s).as_secs_f64()).collect()
        };
        assert_eq!(seconds(2, 600.0), [593.0, 597.0]);
        assert_eq!(seconds(3, 20.0), [9.0, 13.0, 17.0]);
        assert_eq!(seconds(6, 60.0), [45.0, 49.0, 53.0, 57.0, 57.0, 57.0]);
        for (ranks, limit_s) in [(2, 0.1), (64, 0.1), (64, 5.0), (3, 1e7)] {
            let each = seconds(ranks, limit_s);
            assert!(each.is_sorted() && each[0] >= 0.2 * limit_s && each[ranks - 1] < limit_s, "{each:?}");
        }
    }
}

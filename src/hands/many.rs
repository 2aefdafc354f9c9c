//! Many runs: one after another in this process, or several at a time, on as many ranks.

use super::{
    crew::{Crew, News, Pauses},
    folder::{Arriving, files},
    how::How,
    task::{Ended, Event, Tasks},
    wire::{Kind, Message},
};
use crate::train::{self, Job, Options};
use kinglet_core::{
    backend::Cpu,
    error::{Error, Result},
    threads::whole,
};
use std::{
    collections::VecDeque,
    fs,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, channel},
    },
    thread::{self, Scope},
};

/// What trains runs: this process, or all ranks.
#[derive(Debug)]
pub struct Hands<'a> {
    be: Cpu,
    threads: usize,
    crew: Option<&'a mut Crew>,
}

impl<'a> Hands<'a> {
    /// This process, with so many threads (0: one per core).
    pub fn alone(be: Cpu, threads: usize) -> Hands<'a> {
        Hands { be, threads, crew: None }
    }

    /// This process and the other ranks, with so many threads here. The other ranks have to compute the same bits.
    pub fn with(be: Cpu, threads: usize, crew: &'a mut Crew) -> Hands<'a> {
        Hands { be, threads, crew: Some(crew) }
    }

    /// How many runs are in training at a time.
    pub fn count(&self) -> usize {
        self.crew.as_ref().map_or(1, |crew| crew.count())
    }

    /// The backend.
    pub(crate) fn be(&self) -> Cpu {
        self.be
    }

    /// Trains so many runs, each until it ends or is stopped; returns how each ended. A run in a folder that another rank trains is
    /// replaced by what comes back.
    ///
    /// # Errors
    /// The first error of a run; the others are stopped then, and saved. Divergence is a result like any other.
    pub fn train(&mut self, n: usize, tasks: &mut impl Tasks) -> Result<Vec<Ended>> {
        let Hands { be, threads, crew } = self;
        match crew {
            None => one_after_another(*be, *threads, n, tasks),
            Some(crew) => {
                let stop = AtomicBool::new(false);
                let here = Here { be: *be, threads: *threads, stop: &stop };
                thread::scope(|scope| Shared::new(crew, here, n, tasks).train(scope))
            }
        }
    }
}

fn one_after_another(be: Cpu, threads: usize, n: usize, tasks: &mut impl Tasks) -> Result<Vec<Ended>> {
    let mut ended = vec![Ended::NotBegun; n];
    for (task, how) in ended.iter_mut().enumerate() {
        if tasks.is_over() {
            break;
        }
        let job = tasks.open(task)?;
        tasks.event(Event::Began { task });
        let stop = AtomicBool::new(tasks.is_over());
        let options = Options::default().threads(threads).stop(&stop);
        let last = train::run(job, be, &options, |event| {
            tasks.event(Event::Training { task, event });
            stop.store(tasks.is_over(), Ordering::Relaxed);
        });
        *how = Ended::of(last)?;
        tasks.event(Event::Ended { task, how: *how });
    }
    Ok(ended)
}

/// The runs of this process.
#[derive(Clone, Copy)]
struct Here<'a> {
    be: Cpu,
    threads: usize,
    stop: &'a AtomicBool,
}

/// What a run in this process tells.
enum Told {
    Training(train::Event),
    Ended(Result<train::Event>),
}

/// A run in training on another rank.
struct Away {
    task: usize,
    /// It holds the lock of the run's folder.
    job: Job,
    /// What has come back of it.
    arriving: Option<Arriving>,
}

/// Runs that ranks share.
struct Shared<'a, T: Tasks> {
    crew: &'a mut Crew,
    here: Here<'a>,
    tasks: &'a mut T,
    waiting: VecDeque<usize>,
    ended: Vec<Ended>,
    /// Of each rank: the run that it has.
    away: Vec<Option<Away>>,
    /// The run that this process has.
    mine: Option<usize>,
    /// Whether all were told to stop.
    stopping: bool,
    asked: bool,
    error: Option<Error>,
}

impl<'a, T: Tasks> Shared<'a, T> {
    fn new(crew: &'a mut Crew, here: Here<'a>, n: usize, tasks: &'a mut T) -> Shared<'a, T> {
        let away = (0..crew.size()).map(|_| None).collect();
        let ended = vec![Ended::NotBegun; n];
        let (waiting, mine) = ((0..n).collect(), None);
        Shared { crew, here, tasks, waiting, ended, away, mine, stopping: false, asked: false, error: None }
    }

    fn train<'scope>(mut self, scope: &'scope Scope<'scope, '_>) -> Result<Vec<Ended>>
    where
        'a: 'scope,
    {
        let (tell, told) = channel();
        let mut pauses = Pauses::default();
        loop {
            let mut idle = true;
            while let Some(news) = self.crew.news() {
                idle = false;
                self.hear(news);
            }
            while let Ok(told) = told.try_recv() {
                idle = false;
                self.of_mine(told);
            }
            if self.is_over() {
                self.stop();
            } else {
                self.hand_out(scope, &tell);
            }
            let busy = self.mine.is_some() || self.away.iter().any(Option::is_some);
            if !busy && (self.waiting.is_empty() || self.is_over()) {
                return self.error.map_or(Ok(self.ended), Err);
            }
            pauses.pause_if(idle);
        }
    }

    fn is_over(&self) -> bool {
        self.asked || self.error.is_some() || self.tasks.is_over()
    }

    /// Tells all to stop, once.
    fn stop(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            self.here.stop.store(true, Ordering::Relaxed);
            let busy = self.away.iter().enumerate().filter(|(_, away)| away.is_some());
            busy.for_each(|(rank, _)| self.crew.send(rank, Message::plain(Kind::Stop, 0)));
        }
    }

    /// Gives each rank that has nothing to do a run.
    fn hand_out<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, tell: &Sender<Told>)
    where
        'a: 'scope,
    {
        for rank in 0..self.away.len() {
            let free =
                if rank == 0 { self.mine.is_none() } else { self.away[rank].is_none() && self.crew.is_live(rank) };
            if !free || self.is_over() {
                continue;
            }
            let Some(task) = self.waiting.pop_front() else { return };
            let begun = self.tasks.open(task).and_then(|job| {
                self.tasks.event(Event::Began { task });
                if rank > 0 {
                    return self.send(rank, task, job);
                }
                self.mine = Some(task);
                let (here, tell) = (self.here, tell.clone());
                let told = tell.clone();
                let options = Options::default().threads(here.threads).stop(here.stop);
                let observe = move |event: &train::Event| _ = told.send(Told::Training(event.clone()));
                let train = move || train::run(job, here.be, &options, observe);
                scope.spawn(move || _ = tell.send(Told::Ended(whole(here.threads, train).flatten())));
                Ok(())
            });
            if let Err(error) = begun {
                self.error.get_or_insert(error);
            }
        }
    }

    /// Gives a rank a run.
    fn send(&mut self, rank: usize, task: usize, job: Job) -> Result<()> {
        let (path, place) = (job.run.path(), job.place.display().to_string());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let how = How { name, place, skip_report: job.skip_report };
        self.crew.send(rank, Message { kind: Kind::Task, number: task, bytes: how.to_bytes() });
        for (name, path) in files(path)? {
            let content = fs::read(&path).map_err(Error::io("read", &path))?;
            self.crew.send(rank, Message::file(task, &name, &content));
        }
        self.crew.send(rank, Message::plain(Kind::Go, task));
        self.away[rank] = Some(Away { task, job, arriving: None });
        Ok(())
    }

    /// Notes what the run of this process tells.
    fn of_mine(&mut self, told: Told) {
        let Some(task) = self.mine else { return };
        match told {
            Told::Training(event) => self.tasks.event(Event::Training { task, event: &event }),
            Told::Ended(last) => {
                self.mine = None;
                self.end(task, Ended::of(last));
            }
        }
    }

    fn end(&mut self, task: usize, how: Result<Ended>) {
        match how {
            Ok(how) => {
                self.ended[task] = how;
                self.tasks.event(Event::Ended { task, how });
            }
            Err(error) => _ = self.error.get_or_insert(error),
        }
    }

    /// Takes note of what has happened elsewhere.
    fn hear(&mut self, news: News) {
        match news {
            News::Lost(rank, why) => {
                let task = self.away[rank].take().map(|away| away.task);
                task.into_iter().for_each(|task| self.waiting.push_front(task));
                self.tasks.event(Event::Lost { rank, task, why: &why });
            }
            News::Message(_, Message { kind: Kind::Asked, .. }) => self.asked = true,
            // What is not about the run that the rank has is of one that has failed.
            News::Message(rank, message) => {
                let is_meant = |away: &mut Away| away.task == message.number;
                if let Some(away) = self.away[rank].take_if(is_meant) {
                    self.away[rank] = self.of_away(rank, away, &message);
                }
            }
        }
    }

    /// Takes note of what is told of a run on another rank; what it has still to do.
    fn of_away(&mut self, rank: usize, mut away: Away, message: &Message) -> Option<Away> {
        let task = away.task;
        match message.kind {
            Kind::File => {
                if let Err(error) = away.add(message) {
                    self.error.get_or_insert(error);
                }
            }
            Kind::Ended => {
                let how = ended(&message.bytes).and_then(|how| away.place().map(|()| how));
                self.end(task, how);
                return None;
            }
            Kind::Failed => {
                self.end(task, Err(Error::Ranks(format!("rank {rank}: {}", message.words()))));
                return None;
            }
            _ => {
                if let Some(event) = training_event(message) {
                    self.tasks.event(Event::Training { task, event: &event });
                }
            }
        }
        Some(away)
    }
}

impl Away {
    /// Writes a file that has come back.
    fn add(&mut self, message: &Message) -> Result<()> {
        let arriving = match self.arriving.take() {
            Some(arriving) => arriving,
            None => Arriving::to(self.job.run.path())?,
        };
        let nameless = || Error::Ranks("a file without a name came back".into());
        let (name, content) = message.as_file().ok_or_else(nameless)?;
        arriving.add(name, content)?;
        self.arriving = Some(arriving);
        Ok(())
    }

    /// Puts what has come back in its place.
    fn place(self) -> Result<()> {
        let path = self.job.run.path().to_owned();
        let nothing = || Error::run(&path, "another rank has trained this run, but its files did not come back");
        let arriving = self.arriving.ok_or_else(nothing)?;
        // Windows cannot rename a folder with an open file in it.
        drop(self.job);
        arriving.place(&path)
    }
}

fn ended(bytes: &[u8]) -> Result<Ended> {
    let all = [Ended::Done, Ended::Diverged, Ended::Stopped];
    let known = all.into_iter().find(|how| bytes == [*how as u8]);
    known.ok_or_else(|| Error::Ranks("a run ended in a way that this program does not know".into()))
}

/// What another rank tells of a run's training.
fn training_event(message: &Message) -> Option<train::Event> {
    let known = |x: f64| Some(x).filter(|x| !x.is_nan());
    match message.kind {
        Kind::Step => {
            let [step, loss, lr, grad_norm, tokens_per_s, left_s] = message.as_numbers()?;
            let (step, left_s) = (step as u64, known(left_s));
            Some(train::Event::Step { step, loss, lr, grad_norm, tokens_per_s, left_s })
        }
        Kind::Measuring => {
            let [step, done, of, left_s] = message.as_numbers()?;
            let (step, done, of) = (step as u64, done as usize, of as usize);
            Some(train::Event::Measuring { step, done, of, left_s: known(left_s) })
        }
        Kind::Note => Some(train::Event::Note { note: message.words() }),
        Kind::Warning => {
            let words = message.words();
            let (step, warning) = words.split_once(' ')?;
            Some(train::Event::Warning { step: step.parse().ok()?, warning: warning.to_owned() })
        }
        _ => None,
    }
}

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

/// Where a run in this process tells what it does, and how it ended.
#[derive(Clone)]
struct Tell {
    event: Sender<train::Event>,
    end: Sender<Result<train::Event>>,
}

/// A run that another rank has.
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
    /// Of each rank: the runs that it has. The first is in training or comes back; another may wait there, so that the rank
    /// has something to do as soon as it has trained the first.
    away: Vec<VecDeque<Away>>,
    /// The run that this process has.
    mine: Option<usize>,
    /// Whether all were told to stop.
    stopping: bool,
    asked: bool,
    error: Option<Error>,
}

impl<'a, T: Tasks> Shared<'a, T> {
    fn new(crew: &'a mut Crew, here: Here<'a>, n: usize, tasks: &'a mut T) -> Shared<'a, T> {
        let away = (0..crew.size()).map(|_| VecDeque::new()).collect();
        let ended = vec![Ended::NotBegun; n];
        let (waiting, mine) = ((0..n).collect(), None);
        Shared { crew, here, tasks, waiting, ended, away, mine, stopping: false, asked: false, error: None }
    }

    fn train<'scope>(mut self, scope: &'scope Scope<'scope, '_>) -> Result<Vec<Ended>>
    where
        'a: 'scope,
    {
        let ((event, events), (end, ended)) = (channel(), channel());
        let tell = Tell { event, end };
        let (mut pauses, mut last) = (Pauses::default(), None);
        loop {
            let mut idle = true;
            while let Some(news) = self.crew.news() {
                idle = false;
                self.hear(news);
            }
            // They come with every update, and whoever hurried to each would take time from the next.
            events.try_iter().for_each(|event| self.of_mine(&event));
            if let Some(last) = last.take() {
                idle = false;
                self.mine_ended(last);
            }
            if self.is_over() {
                self.stop();
            } else {
                self.hand_out(scope, &tell);
            }
            let busy = self.mine.is_some() || self.away.iter().any(|away| !away.is_empty());
            if !busy && (self.waiting.is_empty() || self.is_over()) {
                return self.error.map_or(Ok(self.ended), Err);
            }
            last = pauses.wait(idle, &ended);
        }
    }

    fn is_over(&self) -> bool {
        self.asked || self.error.is_some() || self.tasks.is_over()
    }

    /// Tells all to stop, once.
    fn stop(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            self.here.stop.store(true, Ordering::Relaxed);
            let busy = self.away.iter().enumerate().filter(|(_, away)| !away.is_empty());
            busy.for_each(|(rank, _)| self.crew.send(rank, Message::plain(Kind::Stop, 0)));
        }
    }

    /// Gives each rank that has nothing to do a run; and while there are enough for all, each other rank the one that it trains next.
    fn hand_out<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, tell: &Tell)
    where
        'a: 'scope,
    {
        for has in 0..=1 {
            for rank in 0..self.away.len() {
                let free = if rank == 0 {
                    has == 0 && self.mine.is_none()
                } else {
                    self.away[rank].len() == has && self.crew.is_live(rank)
                };
                let enough = has == 0 || self.waiting.len() >= self.crew.count();
                if free && enough && !self.is_over() {
                    self.begin(rank, scope, tell);
                }
            }
        }
    }

    /// Gives a rank the next run, if there is one.
    fn begin<'scope>(&mut self, rank: usize, scope: &'scope Scope<'scope, '_>, tell: &Tell)
    where
        'a: 'scope,
    {
        let Some(task) = self.waiting.pop_front() else { return };
        let begun = self.tasks.open(task).and_then(|job| {
            self.tasks.event(Event::Began { task });
            if rank > 0 {
                return self.send(rank, task, job);
            }
            self.mine = Some(task);
            let (here, Tell { event: tell, end }) = (self.here, tell.clone());
            let options = Options::default().threads(here.threads).stop(here.stop);
            let observe = move |event: &train::Event| _ = tell.send(event.clone());
            let train = move || train::run(job, here.be, &options, observe);
            scope.spawn(move || _ = end.send(whole(here.threads, train).flatten()));
            Ok(())
        });
        if let Err(error) = begun {
            self.error.get_or_insert(error);
        }
    }

    /// Gives another rank a run.
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
        self.away[rank].push_back(Away { task, job, arriving: None });
        Ok(())
    }

    /// Notes what the run of this process tells.
    fn of_mine(&mut self, event: &train::Event) {
        if let Some(task) = self.mine {
            self.tasks.event(Event::Training { task, event });
        }
    }

    /// Notes that it has ended, after all that it told.
    fn mine_ended(&mut self, last: Result<train::Event>) {
        if let Some(task) = self.mine.take() {
            self.end(task, Ended::of(last));
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
                let tasks: Vec<usize> = self.away[rank].drain(..).map(|away| away.task).collect();
                tasks.iter().rev().for_each(|&task| self.waiting.push_front(task));
                self.tasks.event(Event::Lost { rank, task: tasks.first().copied(), why: &why });
            }
            News::Message(_, Message { kind: Kind::Asked, .. }) => self.asked = true,
            // What is not about a run that the rank has is of one that has failed.
            News::Message(rank, message) => {
                if let Some(i) = self.away[rank].iter().position(|away| away.task == message.number) {
                    self.of_away(rank, i, &message);
                }
            }
        }
    }

    /// Takes note of what is told of the `i`-th run of another rank.
    fn of_away(&mut self, rank: usize, i: usize, message: &Message) {
        let away = &mut self.away[rank][i];
        let task = away.task;
        match message.kind {
            Kind::File => {
                if let Err(error) = away.add(message) {
                    self.error.get_or_insert(error);
                }
            }
            Kind::Ended => {
                let back = self.away[rank].remove(i).expect("it is there");
                let how = ended(&message.bytes).and_then(|how| back.place().map(|()| how));
                self.end(task, how);
            }
            Kind::Failed => {
                self.away[rank].remove(i);
                self.end(task, Err(Error::Ranks(format!("rank {rank}: {}", message.words()))));
            }
            _ => {
                if let Some(event) = training_event(message) {
                    self.tasks.event(Event::Training { task, event: &event });
                }
            }
        }
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

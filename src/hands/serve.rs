//! What a rank above 0 does: it trains the runs that rank 0 gives it.

use super::{
    crew::{BEAT, Pauses},
    folder::{Arriving, files},
    how::How,
    task::Ended,
    texts::Texts,
    wire::{Came, Inbox, Kind, Message},
};
use crate::train::{self, Changes, Event, Job, Options};
use kinglet_core::{
    backend::Cpu,
    error::{Error, Result},
    ranks::Team,
    threads::whole,
};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

/// How often the updates of a run are told of.
const TOLD: Duration = Duration::from_millis(100);

/// Messages that wait to be sent: the files of a run are not all in memory.
const WAITING: usize = 2;

/// Trains the runs that rank 0 gives this one, with so many threads (0: one per core), until there are no more. Whether all ranks
/// are there at the end.
///
/// # Errors
/// If rank 0 is lost.
pub fn serve(be: Cpu, team: &Team, threads: usize) -> Result<bool> {
    let (busy, stop) = Default::default();
    let hand = Hand { be, team, threads, busy, stop, texts: Mutex::default() };
    thread::scope(|scope| {
        let (tell, told) = sync_channel(WAITING);
        let ended = hand.work(scope, &tell, &told);
        // A run that is still in training ends, and nobody takes what it would tell.
        hand.stop.store(true, Ordering::Relaxed);
        ended
    })
}

/// This rank.
struct Hand<'a> {
    be: Cpu,
    team: &'a Team,
    threads: usize,
    /// Whether a run is in training.
    busy: AtomicBool,
    /// Whether the runs that this rank has are to stop.
    stop: AtomicBool,
    texts: Mutex<Texts>,
}

/// A run whose files arrive.
struct Coming {
    number: usize,
    how: How,
    arriving: Result<Arriving>,
}

impl Hand<'_> {
    /// Exchanges messages with rank 0, while runs are trained in a thread of their own.
    fn work<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        tell: &SyncSender<Message>,
        told: &Receiver<Message>,
    ) -> Result<bool> {
        let ranks = self.team.ranks();
        let mut inbox = Inbox::new(ranks, 0)?;
        let (mut heard, mut beat) = (Instant::now(), Instant::now());
        // The run whose files arrive; the one that is next; those in training or on their way back.
        let (mut coming, mut next): (Option<Coming>, Option<Coming>) = (None, None);
        let mut at_work: Vec<ScopedJoinHandle<()>> = Vec::new();
        let (mut asked, mut over) = (false, None);
        let (mut pauses, mut to_tell) = (Pauses::default(), None);
        loop {
            let mut idle = true;
            let came = inbox.poll(ranks)?;
            if !matches!(came, Came::Nothing) {
                (idle, heard) = (false, Instant::now());
            }
            if let Came::Message(message) = came {
                match message.kind {
                    Kind::Task => {
                        // Rank 0 sends no more runs after a stop until it has all back.
                        self.stop.store(false, Ordering::Relaxed);
                        coming = Coming::of(&message);
                    }
                    Kind::File => coming.iter_mut().for_each(|coming| coming.add(&message)),
                    Kind::Go => next = coming.take(),
                    Kind::Stop => self.stop.store(true, Ordering::Relaxed),
                    Kind::Quit => {
                        self.stop.store(true, Ordering::Relaxed);
                        over = Some(message.number == 0);
                    }
                    _ => {}
                }
            }
            if over.is_none() && !self.busy.load(Ordering::Acquire) {
                at_work.extend(next.take().map(|run| {
                    self.busy.store(true, Ordering::Relaxed);
                    let tell = tell.clone();
                    scope.spawn(move || self.train(run, &tell))
                }));
            }
            at_work.retain(|thread| !thread.is_finished());
            to_tell = to_tell.or_else(|| told.try_recv().ok());
            if let Some(all) = over {
                // What the runs came to is nobody's business any more.
                to_tell = None;
                if at_work.is_empty() {
                    Message::plain(Kind::Bye, 0).send(ranks, 0)?;
                    return Ok(all);
                }
            } else if to_tell.is_some() && ranks.unsent()? == 0 {
                idle = false;
                to_tell.take().map_or(Ok(()), |message| message.send(ranks, 0))?;
            }
            if self.team.is_asked_to_stop() && !std::mem::replace(&mut asked, true) {
                Message::plain(Kind::Asked, 0).send(ranks, 0)?;
            }
            if beat.elapsed() >= BEAT {
                beat = Instant::now();
                Message::plain(Kind::Beat, 0).send(ranks, 0)?;
            }
            if heard.elapsed() > self.team.patience() {
                let seconds = self.team.patience().as_secs_f64();
                return Err(Error::Ranks(format!("rank 0 has not been heard of for {seconds} seconds")));
            }
            if to_tell.is_some() {
                pauses.sleep(idle);
            } else {
                to_tell = pauses.wait(idle, told);
            }
        }
    }

    /// Trains a run and sends it back. While it is sent, the next one is in training.
    fn train(&self, Coming { number, how, arriving }: Coming, tell: &SyncSender<Message>) {
        let trained = catch_unwind(AssertUnwindSafe(|| {
            let arriving = arriving?;
            let ended = Ended::of(whole(self.threads, || self.run(number, &how, &arriving, tell)).flatten())?;
            Ok((ended, arriving))
        }));
        self.busy.store(false, Ordering::Release);
        let send_back = |(ended, arriving): (Ended, Arriving)| {
            for (name, path) in files(arriving.path())? {
                let content = fs::read(&path).map_err(Error::io("read", &path))?;
                let _ = tell.send(Message::file(number, &name, &content));
            }
            Ok::<_, Error>(ended)
        };
        let failed = |why: &str| Message::of_words(Kind::Failed, number, why);
        let _ = tell.send(match trained.map(|trained| trained.and_then(send_back)) {
            Ok(Ok(ended)) => Message { kind: Kind::Ended, number, bytes: vec![ended as u8] },
            Ok(Err(error)) => failed(&error.one_line()),
            Err(_) => failed("the program panicked; this is a fault of its own"),
        });
    }

    fn run(&self, number: usize, how: &How, run: &Arriving, tell: &SyncSender<Message>) -> Result<Event> {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |config: &_, tokenizer: &_| texts.of_run(config, tokenizer);
        let mut job = Job::resume_by(run.path(), &Changes::default(), read)?;
        job.skip_report = how.skip_report;
        job.place = how.place.as_str().into();
        let options = Options::default().threads(self.threads).stop(&self.stop);
        let mut last: Option<Instant> = None;
        train::run(job, self.be, &options, |event| {
            let due = last.is_none_or(|last| last.elapsed() >= TOLD);
            let numbers = |kind, numbers: &[f64]| Message::numbers(kind, number, numbers);
            let sent = match event {
                &Event::Step { step, loss, lr, grad_norm, tokens_per_s, left_s } if due => {
                    let left_s = left_s.unwrap_or(f64::NAN);
                    numbers(Kind::Step, &[step as f64, loss, lr, grad_norm, tokens_per_s, left_s])
                }
                &Event::Measuring { step, done, of, left_s } if due => {
                    numbers(Kind::Measuring, &[step as f64, done as f64, of as f64, left_s.unwrap_or(f64::NAN)])
                }
                Event::Note { note } => return drop(tell.send(Message::of_words(Kind::Note, number, note))),
                Event::Warning { step, warning } => {
                    let words = format!("{step} {warning}");
                    return drop(tell.send(Message::of_words(Kind::Warning, number, &words)));
                }
                _ => return,
            };
            // What is told of progress waits for nothing.
            if tell.try_send(sent).is_ok() {
                last = Some(Instant::now());
            }
        })
    }
}

impl Coming {
    fn of(message: &Message) -> Option<Coming> {
        let how = How::of(&message.bytes)?;
        let arriving = Arriving::for_a_while(&how.name);
        Some(Coming { number: message.number, how, arriving })
    }

    fn add(&mut self, message: &Message) {
        let unknown = || Error::Ranks("rank 0 sent a file without a name".into());
        let added = match &self.arriving {
            Ok(arriving) => message.as_file().ok_or_else(unknown).and_then(|(name, bytes)| arriving.add(name, bytes)),
            Err(_) => return,
        };
        if let Err(error) = added {
            self.arriving = Err(error);
        }
    }
}

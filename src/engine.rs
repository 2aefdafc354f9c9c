//! Many texts at once: sequences join and leave one batch at any token.
//!
//! An [`Engine`] is one thread that computes for any number of readers, with texts of several models at once. A text is the one
//! that iterating over its [`Generation`] gives, bit for bit, whatever else is being computed. The engine sleeps while there
//! is nothing to compute.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use kinglet::{Model, engine::{Engine, Options}};
//! use std::time::Duration;
//!
//! let (model, engine) = (Model::open("runs/first")?, Engine::start(Options::default())?);
//! let write = |seed| engine.write(model.generate("The ").max_tokens(200).seed(seed));
//! let mut texts = (0..32).map(write).collect::<Result<Vec<_>, _>>()?;
//! while texts.iter().any(|text| text.end().is_none()) {
//!     for (i, text) in texts.iter_mut().enumerate() {
//!         text.wait(Duration::from_millis(20));
//!         for piece in text.take() {
//!             println!("{i}: {:?}", piece.text);
//!         }
//!     }
//! }
//! engine.close(Duration::from_secs(5));
//! # Ok(())
//! # }
//! ```

mod bell;
mod end;
mod figures;
mod mailbox;
mod open;
mod reading;
mod seeing;
mod works;

pub use end::End;
pub use figures::{Ended, Figures};
pub use reading::{Measuring, Reading, Text};
pub use seeing::Seeing;
pub use works::Options;

use crate::inference::{Generation, TokenScore};
use bell::{Bell, lock};
use figures::Stage;
use kinglet_core::{
    error::{Error, Result},
    threads::Pool,
};
use mailbox::{Inbox, mailbox};
use std::{
    fmt,
    sync::{
        Arc, Mutex,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use works::{Job, Works};

/// Computes for many readers at once. Clones share it; dropping the last of them closes it at once.
#[derive(Clone)]
pub struct Engine(Arc<Handle>);

struct Handle {
    options: Options,
    jobs: Sender<Job>,
    bell: Arc<Bell>,
    figures: Arc<Mutex<Figures>>,
    closing: Arc<Mutex<Option<Instant>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A time that never comes, and that the clock can tell.
const FAR: Duration = Duration::from_secs(1 << 30);

/// Why work was not taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// As many wait as may: try again later.
    Full,
    /// The engine is closing.
    Closing,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Busy::Full => "too many requests are waiting already: try again later",
            Busy::Closing => "the engine is closing: it takes on nothing new",
        })
    }
}

impl std::error::Error for Busy {}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("options", &self.0.options).field("figures", &self.figures()).finish()
    }
}

impl Engine {
    /// Starts its thread, and those of its pool.
    ///
    /// # Errors
    /// If the system refuses to start them.
    pub fn start(options: Options) -> Result<Engine> {
        let pool = Pool::new(options.threads)?;
        let (sender, jobs) = channel();
        let (bell, figures, closing) = (Arc::default(), Arc::default(), Arc::default());
        let works = Works::new(options.clone(), jobs, Arc::clone(&bell), Arc::clone(&figures), Arc::clone(&closing));
        let thread = std::thread::Builder::new().name("kinglet-engine".to_owned()).spawn(move || works.run(&pool));
        let thread = thread.map_err(|error| Error::Threads(format!("cannot start the engine's thread: {error}")))?;
        let thread = Mutex::new(Some(thread));
        Ok(Engine(Arc::new(Handle { options, jobs: sender, bell, figures, closing, thread })))
    }

    /// Goes on with a generation, as far as it has come; nothing of [`Generation::on`] matters.
    ///
    /// # Errors
    /// If there is too much to do already, or the engine is closing.
    pub fn write(&self, generation: Generation) -> Result<Text, Busy> {
        let prompt_tokens = generation.prompt_tokens();
        let inbox = self.ask(Stage::Waiting, |out| Job::Text(Box::new(generation), out))?;
        Ok(Text { inbox, prompt_tokens })
    }

    /// Scores a text, a piece at a time: a [`Scoring`](crate::inference::Scoring), or another iterator whose pieces are as
    /// short to compute.
    ///
    /// # Errors
    /// If there is too much to do already, or the engine is closing.
    pub fn measure<I>(&self, scoring: I) -> Result<Measuring, Busy>
    where
        I: Iterator<Item = Result<Vec<TokenScore>>> + Send + 'static,
    {
        let inbox = self.ask(Stage::Scoring, |out| Job::Scoring(Box::new(scoring), out))?;
        Ok(Measuring { inbox, prompt_tokens: 0 })
    }

    /// Computes something else, a step at a time, until `step` returns it. A step takes its turn as a piece of a scoring does, and
    /// should be as short; among the figures it is a scoring of no tokens.
    ///
    /// # Errors
    /// If there is too much to do already, or the engine is closing.
    pub fn compute<T, F>(&self, mut step: F) -> Result<Seeing<T>, Busy>
    where
        T: Send + 'static,
        F: FnMut() -> Result<Option<T>> + Send + 'static,
    {
        let seen = Arc::new(Mutex::new(None));
        let place = Arc::clone(&seen);
        let pieces = std::iter::from_fn(move || match step() {
            Ok(None) => Some(Ok(Vec::new())),
            Ok(whole) => {
                *lock(&place) = whole;
                None
            }
            Err(error) => Some(Err(error)),
        });
        Ok(Seeing { measuring: self.measure(pieces)?, seen })
    }

    /// What it is doing, and what it has done.
    pub fn figures(&self) -> Figures {
        lock(&self.0.figures).clone()
    }

    /// Whether its thread lives and was not told to end.
    pub fn is_running(&self) -> bool {
        // Whoever closes it holds the thread.
        self.0.thread.try_lock().is_ok_and(|thread| thread.as_ref().is_some_and(|thread| !thread.is_finished()))
    }

    /// Refuses new work from now on, lets what there is go on for `within`, ends the rest with [`End::Closed`], and returns
    /// when its thread has ended. The shortest time of all calls counts.
    pub fn close(&self, within: Duration) {
        self.0.close(within);
    }

    fn ask<T>(&self, stage: Stage, job: impl FnOnce(mailbox::Outbox<T>) -> Job) -> Result<Inbox<T>, Busy> {
        let Handle { options, jobs, bell, figures, closing, .. } = &*self.0;
        if lock(closing).is_some() {
            return Err(Busy::Closing);
        }
        {
            let mut figures = lock(figures);
            if figures.open() >= options.parallel.max(1).saturating_add(options.queue) {
                figures.refused += 1;
                return Err(Busy::Full);
            }
            figures.enter(stage);
        }
        let (out, inbox) = mailbox(stage, Arc::clone(figures), Arc::clone(bell));
        // The engine's thread is gone if it was closed in this moment. The job is then dropped, and counted.
        jobs.send(job(out)).map_err(|_| Busy::Closing)?;
        bell.ring();
        Ok(inbox)
    }
}

impl Handle {
    fn close(&self, within: Duration) {
        {
            let mut closing = lock(&self.closing);
            let deadline = Instant::now() + within.min(FAR);
            *closing = Some(closing.map_or(deadline, |other| other.min(deadline)));
        }
        self.bell.ring();
        // Whoever comes second waits here for the first.
        if let Some(thread) = lock(&self.thread).take() {
            // What it had to say if it panicked is on standard error.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests;

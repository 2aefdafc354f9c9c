//! The engine's thread: whose turn it is, and what becomes of it.

use super::{
    bell::{Bell, lock},
    end::End,
    figures::{Figures, Stage},
    mailbox::Outbox,
    open::{Open, clear},
};
use crate::inference::{Desk, Finish, Generation, Piece, TokenScore, Writer};
use kinglet_core::{backend::Cpu, error::Result, threads::Pool};
use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, mpsc::Receiver},
    time::{Duration, Instant},
};

/// Scorings that take turns; the others wait, so that those that have begun soon end.
const SCORED_AT_ONCE: usize = 4;

/// Most tokens of prompts in a pass, unless one has more: what goes on meanwhile waits no longer than for these.
const PROMPTS: usize = 512;

/// How an engine works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most texts that are computed at once, of all models together.
    pub parallel: usize,
    /// How many texts and scorings more are taken on, to wait; beyond, they are refused.
    pub queue: usize,
    /// Threads to compute on; 0 is one for each core.
    pub threads: usize,
    /// Nothing is computed for a text or scoring with more tokens unread than this.
    pub unread: usize,
    /// How long that may last before it is ended.
    pub stall: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { parallel: 32, queue: 128, threads: 0, unread: 256, stall: Duration::from_secs(30) }
    }
}

/// Windows of a text, scored one by one.
pub(super) type Scorer = Box<dyn Iterator<Item = Result<Vec<TokenScore>>> + Send>;

/// What the engine is asked to do.
pub(super) enum Job {
    Text(Box<Generation>, Outbox<Piece>),
    Scoring(Scorer, Outbox<TokenScore>),
}

/// What takes turns.
enum Turn {
    /// The texts of a model that have a place: a token for each of them.
    Model(usize, Box<Desk<Cpu>>),
    /// A piece of a scoring.
    Scoring,
}

impl Turn {
    /// The model, if it is one's turn.
    fn model(&self) -> Option<usize> {
        match self {
            Turn::Model(model, _) => Some(*model),
            Turn::Scoring => None,
        }
    }
}

/// What follows a look at what is there.
enum Next {
    Compute,
    Sleep(Option<Duration>),
    End,
}

/// All that the engine's thread holds.
pub(super) struct Works {
    options: Options,
    jobs: Receiver<Job>,
    bell: Arc<Bell>,
    figures: Arc<Mutex<Figures>>,
    /// When all has to end; none while new work is taken on.
    closing: Arc<Mutex<Option<Instant>>>,
    waiting: VecDeque<(Box<Generation>, Outbox<Piece>)>,
    pub(super) texts: Vec<Open<Writer<Cpu>, Piece>>,
    scorings: Vec<Open<Scorer, TokenScore>>,
    /// The first has waited longest.
    turns: VecDeque<Turn>,
}

impl Works {
    pub(super) fn new(
        options: Options,
        jobs: Receiver<Job>,
        bell: Arc<Bell>,
        figures: Arc<Mutex<Figures>>,
        closing: Arc<Mutex<Option<Instant>>>,
    ) -> Works {
        let (waiting, turns) = (VecDeque::new(), VecDeque::new());
        Works { options, jobs, bell, figures, closing, waiting, texts: Vec::new(), scorings: Vec::new(), turns }
    }

    /// Works until the engine is closed. Only while there is something to compute, the pool is at work: its threads poll
    /// then, and sleep otherwise.
    pub(super) fn run(mut self, pool: &Pool) {
        loop {
            match self.next() {
                Next::Compute => pool.run_awake(|| while self.step() {}),
                Next::Sleep(within) => self.bell.wait(within),
                Next::End => return self.end(),
            }
        }
    }

    /// Computes for whoever has waited longest. Returns whether there was something to compute.
    pub(super) fn step(&mut self) -> bool {
        let works = matches!(self.next(), Next::Compute);
        if works {
            self.turn();
        }
        works
    }

    /// Looks at what was asked and at what the readers have done, and gives away free places.
    fn next(&mut self) -> Next {
        let (now, deadline) = (Instant::now(), *lock(&self.closing));
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Next::End;
        }
        self.receive();
        self.look(now);
        self.admit();
        self.order();
        if !self.turns.is_empty() {
            return Next::Compute;
        }
        let is_open = !(self.texts.is_empty() && self.scorings.is_empty());
        if deadline.is_some() && !is_open {
            return Next::End;
        }
        let stall = self.options.stall;
        let texts = self.texts.iter().filter_map(|text| text.stalls_at(stall));
        let scorings = self.scorings.iter().filter_map(|scoring| scoring.stalls_at(stall));
        let first = texts.chain(scorings).chain(deadline).min();
        Next::Sleep(first.map(|first| first.saturating_duration_since(now)))
    }

    fn receive(&mut self) {
        while let Ok(job) = self.jobs.try_recv() {
            match job {
                Job::Text(generation, out) => self.waiting.push_back((generation, out)),
                Job::Scoring(scorer, out) => self.scorings.push(Open::new(scorer, out)),
            }
        }
    }

    /// Ends what nobody wants any more, and lets go on what is read again.
    fn look(&mut self, now: Instant) {
        let stall = self.options.stall;
        self.waiting.retain(|(_, out)| !out.is_gone());
        self.texts.iter_mut().for_each(|text| text.look(stall, now, Stage::Waiting));
        self.scorings.iter_mut().for_each(|scoring| scoring.look(stall, now, Stage::Scoring));
        clear(&mut self.texts);
        clear(&mut self.scorings);
    }

    /// Gives places to texts: first to those that had one.
    fn admit(&mut self) {
        let taken = self.texts.iter().filter(|text| text.is_at_work()).count();
        let mut free = self.options.parallel.max(1).saturating_sub(taken);
        for text in self.texts.iter_mut().filter(|text| text.is_back()).take(free) {
            text.seat(Stage::Running);
            free -= 1;
        }
        while free > 0
            && let Some((generation, out)) = self.waiting.pop_front()
        {
            free -= usize::from(self.begin(*generation, out));
        }
        for scoring in self.scorings.iter_mut().filter(|scoring| scoring.is_back()) {
            scoring.seat(Stage::Scoring);
        }
    }

    /// Begins a text. Returns whether it needs a place.
    fn begin(&mut self, generation: Generation, mut out: Outbox<Piece>) -> bool {
        let prompt = generation.prompt_tokens();
        match caught(|| generation.into_writer()) {
            Ok(Ok(writer)) => {
                out.stage(Stage::Running);
                lock(&self.figures).prompt_tokens += prompt as u64;
                let mut text = Open::new(writer, out);
                post(&mut text);
                let needs = text.is_at_work();
                self.texts.push(text);
                clear(&mut self.texts);
                return needs;
            }
            Ok(Err(error)) => out.end(End::Failed(error.to_string())),
            Err(panic) => out.end(End::Failed(panic)),
        }
        false
    }

    /// Puts those in the row that have something to do and are not in it, and out of it those that have not.
    fn order(&mut self) {
        let is_at_work = |model: usize| self.texts.iter().any(|text| text.is_at_work() && text.work.model() == model);
        let scores = self.scorings.iter().any(Open::is_at_work);
        self.turns.retain(|turn| turn.model().map_or(scores, is_at_work));
        for text in self.texts.iter().filter(|text| text.is_at_work()) {
            let model = text.work.model();
            if !self.turns.iter().any(|turn| turn.model() == Some(model)) {
                self.turns.push_back(Turn::Model(model, Box::new(Desk::of(&text.work))));
            }
        }
        if scores && !self.turns.iter().any(|turn| turn.model().is_none()) {
            self.turns.push_back(Turn::Scoring);
        }
    }

    fn turn(&mut self) {
        let began = Instant::now();
        match self.turns.pop_front() {
            Some(Turn::Model(model, desk)) => self.pass(model, desk),
            Some(Turn::Scoring) => self.score(),
            None => {}
        }
        lock(&self.figures).busy += began.elapsed();
    }

    /// A token for each text of a model, but prompts only as many as fit.
    fn pass(&mut self, model: usize, mut desk: Box<Desk<Cpu>>) {
        let mut left = PROMPTS;
        let mut fits = |rows: usize| {
            let fits = rows == 1 || rows <= left || left == PROMPTS;
            left = left.saturating_sub(if fits && rows > 1 { rows } else { 0 });
            fits
        };
        let texts = self.texts.iter_mut().filter(|text| text.is_at_work() && text.work.model() == model);
        let mut texts: Vec<_> = texts.filter(|text| fits(text.work.rows())).collect();
        let mut writers: Vec<_> = texts.iter_mut().map(|text| &mut text.work).collect();
        let drawn = caught(|| desk.draw(&mut writers));
        let rows = texts.len() as u64;
        let generated = drawn.iter().flatten().filter(|drawn| drawn.is_ok()).count() as u64;
        {
            // First the figures: whoever has seen a token finds it there.
            let mut figures = lock(&self.figures);
            figures.passes += 1;
            figures.rows += rows;
            figures.generated_tokens += generated;
        }
        match drawn {
            Ok(drawn) => {
                let now = Instant::now();
                for (text, drawn) in texts.into_iter().zip(drawn) {
                    match drawn {
                        Ok(()) => post(text),
                        Err(error) => text.end = Some(End::Failed(error.to_string())),
                    }
                    text.hold_above(self.options.unread, now);
                }
                self.turns.push_back(Turn::Model(model, desk));
            }
            // What the panic left in the scratch space is not used again.
            Err(panic) => texts.into_iter().for_each(|text| text.end = Some(End::Failed(panic.clone()))),
        }
        clear(&mut self.texts);
    }

    /// A piece of a scoring.
    fn score(&mut self) {
        let Some(at) = self.scorings.iter().position(Open::is_at_work) else { return };
        let mut scoring = self.scorings.remove(at);
        match caught(|| scoring.work.next()) {
            Ok(Some(Ok(scores))) => {
                let tokens = scores.len();
                lock(&self.figures).scored_tokens += tokens as u64;
                scoring.out.send(scores, tokens);
            }
            Ok(Some(Err(error))) => scoring.end = Some(End::Failed(error.to_string())),
            Ok(None) => scoring.end = Some(End::Finished(Finish::EndOfText)),
            Err(panic) => scoring.end = Some(End::Failed(panic)),
        }
        scoring.hold_above(self.options.unread, Instant::now());
        let last = (at + SCORED_AT_ONCE - 1).min(self.scorings.len());
        self.scorings.insert(last, scoring);
        self.turns.push_back(Turn::Scoring);
        clear(&mut self.scorings);
    }

    /// Ends all.
    fn end(mut self) {
        self.receive();
        self.texts.iter_mut().for_each(|text| text.end = Some(End::Closed));
        self.scorings.iter_mut().for_each(|scoring| scoring.end = Some(End::Closed));
        clear(&mut self.texts);
        clear(&mut self.scorings);
        self.waiting.drain(..).for_each(|(_, out)| out.end(End::Closed));
    }
}

/// Gives a text's reader the piece that has come, and ends the text if no more tokens are to be drawn.
fn post(text: &mut Open<Writer<Cpu>, Piece>) {
    let send = |text: &mut Open<Writer<Cpu>, Piece>| {
        if let Some(piece) = text.work.piece() {
            let tokens = piece.tokens.len();
            text.out.send([piece], tokens);
        }
    };
    send(text);
    if !text.work.wants() {
        send(text);
        text.end = text.work.finish().map(End::Finished);
    }
}

/// What `work` returns, or what it said when it panicked.
fn caught<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    let said = |panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no reason given".to_owned())
    };
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| format!("computing it panicked: {}", said(panic)))
}

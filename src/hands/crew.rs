//! The ranks that train runs for rank 0, as rank 0 sees them. A thread of its own exchanges messages with them, whatever the others
//! do: it shows them that rank 0 is there, and notices when one of them is not.

use super::wire::{Came, Inbox, Kind, Message};
use kinglet_core::{
    error::{Error, Result},
    ranks::Team,
};
use std::{
    sync::{
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often a rank shows that it is there.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// A rank that has not been heard of for so long is lost, unless less patience is asked for.
const SILENCE: Duration = Duration::from_secs(30);

/// The pauses of a thread that has nothing to do. The first are short, because a message seldom comes alone. The longer it waits,
/// the longer they are: runs take seconds, and asking MPI for news takes time from the one in training.
#[derive(Default)]
pub(super) struct Pauses(u32);

impl Pauses {
    const FIRST: Duration = Duration::from_micros(100);
    /// How often they double: up to 13 ms.
    const DOUBLED: u32 = 7;

    /// How long to wait: not at all if there was something to do.
    fn next(&mut self, idle: bool) -> Duration {
        if !idle {
            self.0 = 0;
            return Duration::ZERO;
        }
        let pause = Pauses::FIRST * 2_u32.pow(self.0);
        self.0 = (self.0 + 1).min(Pauses::DOUBLED);
        pause
    }

    /// Waits if there was nothing to do.
    pub(super) fn sleep(&mut self, idle: bool) {
        thread::sleep(self.next(idle));
    }

    /// The same, but no longer than until another thread of this process says something.
    pub(super) fn wait<T>(&mut self, idle: bool, said: &Receiver<T>) -> Option<T> {
        let pause = self.next(idle);
        match said.recv_timeout(pause) {
            Ok(said) => return Some(said),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => thread::sleep(pause),
        }
        None
    }
}

/// What the thread is to do.
enum Order {
    Send(usize, Message),
    /// To tell all that there are no more runs, and to wait until they have heard.
    End,
}

/// What has happened.
#[derive(Debug)]
pub(super) enum News {
    /// A rank says something.
    Message(usize, Message),
    /// A rank is lost; why that is known.
    Lost(usize, String),
}

/// The other ranks, as rank 0 sees them.
#[derive(Debug)]
pub struct Crew {
    size: usize,
    orders: Sender<Order>,
    news: Receiver<News>,
    /// Whether each rank is there; this one is the first.
    live: Vec<bool>,
    thread: Option<JoinHandle<Vec<usize>>>,
}

impl Crew {
    /// The ranks of a team, whose rank 0 this is. The others [serve](super::serve).
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn new(team: &Team) -> Result<Crew> {
        let (orders, ordered) = channel();
        let (tell, news) = channel();
        let posts = Posts::new(team.clone(), tell);
        let thread = thread::Builder::new().name("kinglet-ranks".into()).spawn(move || posts.work(&ordered));
        let thread = thread.map_err(|error| Error::Ranks(format!("cannot start a thread: {error}")))?;
        Ok(Crew { size: team.size(), orders, news, live: vec![true; team.size()], thread: Some(thread) })
    }

    /// How many ranks there are, this one and those that are lost included.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Whether a rank is there, as far as is known.
    pub(super) fn is_live(&self, rank: usize) -> bool {
        self.live[rank]
    }

    /// How many ranks are there, this one included.
    pub(super) fn count(&self) -> usize {
        self.live.iter().filter(|live| **live).count()
    }

    /// Begins to send a message.
    pub(super) fn send(&self, to: usize, message: Message) {
        // The thread ends after this value does.
        let _ = self.orders.send(Order::Send(to, message));
    }

    /// What has happened, if something has.
    pub(super) fn news(&mut self) -> Option<News> {
        let news = self.news.try_recv().ok()?;
        if let News::Lost(rank, _) = news {
            self.live[rank] = false;
        }
        Some(news)
    }

    /// Tells all ranks that there are no more runs, and waits until they have heard it; returns those that are lost.
    pub fn end(mut self) -> Vec<usize> {
        self.join()
    }

    fn join(&mut self) -> Vec<usize> {
        let _ = self.orders.send(Order::End);
        // Whatever made it panic, no rank is known to be there.
        self.thread.take().map_or_else(Vec::new, |thread| thread.join().unwrap_or_else(|_| (1..self.size).collect()))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.join();
    }
}

/// The thread's side.
struct Posts {
    team: Team,
    tell: Sender<News>,
    /// Of each rank that is there: what comes from it, and when something last did.
    posts: Vec<Option<(Inbox, Instant)>>,
    silence: Duration,
    beat: Instant,
}

impl Posts {
    fn new(team: Team, tell: Sender<News>) -> Posts {
        let silence = team.patience().min(SILENCE);
        let mut posts = Posts { team, tell, posts: Vec::new(), silence, beat: Instant::now() };
        posts.posts.push(None);
        for rank in 1..posts.team.size() {
            match Inbox::new(posts.team.ranks(), rank) {
                Ok(inbox) => posts.posts.push(Some((inbox, Instant::now()))),
                Err(error) => {
                    posts.posts.push(None);
                    posts.lose(rank, &error.one_line());
                }
            }
        }
        posts
    }

    /// Exchanges messages until it is told to end; returns which ranks were lost.
    fn work(mut self, orders: &Receiver<Order>) -> Vec<usize> {
        let mut over: Option<Instant> = None;
        // Those that have heard that it is over.
        let mut away = vec![false; self.posts.len()];
        let (mut pauses, mut ordered) = (Pauses::default(), None);
        loop {
            let mut idle = true;
            while over.is_none() {
                match ordered.take().map_or_else(|| orders.try_recv(), Ok) {
                    Ok(Order::Send(to, message)) => self.send(to, message),
                    Ok(Order::End) | Err(TryRecvError::Disconnected) => {
                        over = Some(Instant::now());
                        // Those that are taken for lost too: perhaps they were only slow.
                        let lost = usize::from(self.posts[1..].iter().any(Option::is_none));
                        for to in 1..self.posts.len() {
                            let _ = Message::plain(Kind::Quit, lost).send(self.team.ranks(), to);
                        }
                    }
                    Err(TryRecvError::Empty) => break,
                }
                idle = false;
            }
            for (rank, gone) in away.iter_mut().enumerate().skip(1) {
                match self.poll(rank) {
                    Came::Nothing => {}
                    Came::Part => idle = false,
                    Came::Message(message) => {
                        idle = false;
                        *gone |= message.kind == Kind::Bye;
                        if message.kind == Kind::Asked {
                            self.team.stop().store(true, Ordering::Relaxed);
                        }
                        if message.kind != Kind::Beat {
                            let _ = self.tell.send(News::Message(rank, message));
                        }
                    }
                }
                if self.posts[rank].as_ref().is_some_and(|(_, heard)| !*gone && heard.elapsed() > self.silence) {
                    let why = format!("it has not been heard of for {} seconds", self.silence.as_secs_f64());
                    self.lose(rank, &why);
                }
            }
            if self.beat.elapsed() >= BEAT && over.is_none() {
                self.beat = Instant::now();
                (1..self.posts.len()).for_each(|to| self.send(to, Message::plain(Kind::Beat, 0)));
            }
            let lost = || (1..self.posts.len()).filter(|&rank| self.posts[rank].is_none());
            if over.is_some() && (1..self.posts.len()).all(|rank| away[rank] || self.posts[rank].is_none()) {
                return lost().collect();
            }
            ordered = pauses.wait(idle, orders);
        }
    }

    fn poll(&mut self, rank: usize) -> Came {
        let Some((inbox, heard)) = &mut self.posts[rank] else { return Came::Nothing };
        match inbox.poll(self.team.ranks()) {
            Ok(came) => {
                if !matches!(came, Came::Nothing) {
                    *heard = Instant::now();
                }
                came
            }
            Err(error) => {
                self.lose(rank, &error.one_line());
                Came::Nothing
            }
        }
    }

    fn send(&mut self, to: usize, message: Message) {
        if self.posts[to].is_some()
            && let Err(error) = message.send(self.team.ranks(), to)
        {
            self.lose(to, &error.one_line());
        }
    }

    fn lose(&mut self, rank: usize, why: &str) {
        self.posts[rank] = None;
        let _ = self.tell.send(News::Lost(rank, why.to_owned()));
    }
}

//! Texts on their way to a client: each prompt's texts, by index, whole or as they come.

use super::{
    choice::{Beside, Choice, Delta},
    knobs::Knobs,
    logprobs::{self, Entry, Listing},
    models::learned_conversations,
    prompt::{Prompt, Source, fault},
    random,
};
use crate::{
    engine::{Busy, End, Engine, Measuring, Text},
    inference::{Generation, Spelt, Token, TokenScore, spelt},
    serve::{
        answer::{Answer, Failure, WHOLE, Work},
        models::Served,
    },
    text::tokenizer::Tokenizer,
};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    mem::take,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{Sleep, sleep};

/// How many texts and scorings of one request the engine is given at a time, so that a long list of prompts waits here
/// and not in the engine's queue.
const AT_ONCE: usize = 32;

/// When the engine is asked again that had no room for the rest of a request.
const AGAIN: Duration = Duration::from_millis(50);

/// Which of OpenAI's two kinds of text it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Completion,
    Chat,
}

/// What is to be written.
pub(super) struct Order {
    pub(super) kind: Kind,
    pub(super) served: Arc<Served>,
    pub(super) prompts: Vec<Prompt>,
    pub(super) knobs: Knobs,
    pub(super) max_tokens: usize,
    /// How many alternatives of each token are shown; none if tokens are not shown.
    pub(super) logprobs: Option<usize>,
    /// Whether each text has its prompt before it.
    pub(super) echo: bool,
    /// What the client should know.
    pub(super) notes: Vec<String>,
}

impl Order {
    /// One of the texts. A prompt's texts have the indices of the seed's texts, as those of `kinglet sample --num`.
    fn generation(&self, choice: usize) -> Result<Generation, Failure> {
        let (prompt, index) = (&self.prompts[choice / self.knobs.n], choice % self.knobs.n);
        let model = &self.served.model;
        let generation = match &prompt.source {
            Source::Ids(ids) => {
                let generation = model.generate_after(ids);
                // What follows the end of an answer is another conversation's.
                if learned_conversations(model.config()) { generation.until_end_of_text() } else { generation }
            }
            Source::Messages(messages) => model.answer(messages).map_err(|error| fault("messages", &error))?,
        };
        let generation = generation.max_tokens(self.max_tokens).sampling(self.knobs.sampling.clone());
        let top = self.logprobs.max(self.knobs.details).unwrap_or(0);
        let generation = generation.index(index as u64).top(top);
        Ok(self.knobs.stops.iter().fold(generation, |generation, stop| generation.stop(stop)))
    }

    /// Whether the prompts are scored, to be shown with their log-probabilities.
    fn scores(&self) -> bool {
        self.echo && self.logprobs.is_some()
    }

    /// Refuses what could not be in memory: all of an answer that is not streamed; of one that is, the prompts' tokens, which
    /// are sent once they are complete.
    fn check(&self) -> Result<(), Failure> {
        let streams = self.knobs.streaming.is_some();
        // An answer in a conversation ends where the context does.
        let most = if self.kind == Kind::Chat { self.served.model.config().block_size } else { usize::MAX };
        let drawn = self.prompts.len() * self.max_tokens.min(most);
        let prompts: usize = self.prompts.iter().map(|prompt| prompt.tokens).sum();
        let shown = |most: Option<usize>| most.map_or(0, |most| 1 + most);
        let (listed, detailed) = (shown(self.logprobs), shown(self.knobs.details));
        let (echoed, told) = (if self.echo { prompts } else { 0 }, self.prompt_tokens());
        let figures = |echoed: usize, drawn: usize| {
            let of_texts = echoed.saturating_mul(listed.max(1)) + drawn.saturating_mul((listed + detailed).max(1));
            of_texts.saturating_mul(self.knobs.n) + told
        };
        let too_many = |figures: usize, way_out: &str| {
            let what = format!(
                "the answer may have {figures} figures, each token and each of its alternatives, and only {WHOLE} of them can \
                 be sent at once: {way_out}"
            );
            Err(Failure::bad(None, Some("too_long"), what))
        };
        let at_once = figures(if self.scores() { echoed } else { 0 }, 0);
        if at_once > WHOLE {
            return too_many(at_once, "name fewer or shorter prompts, or ask for fewer texts or alternatives");
        }
        let all = figures(echoed, drawn);
        if !streams && all > WHOLE {
            return too_many(all, "set \"stream\": true, or ask for fewer tokens, texts or alternatives");
        }
        Ok(())
    }

    /// How many tokens of a prompt are told by themselves: those of the first one, with the details.
    fn prompt_tokens(&self) -> usize {
        self.knobs.details.and_then(|_| self.prompts.first()).map_or(0, |prompt| prompt.tokens)
    }

    /// These tokens.
    fn prompt_spelt(&self) -> Result<Option<Vec<Spelt>>, Failure> {
        let Some(prompt) = self.prompts.first().filter(|_| self.knobs.details.is_some()) else { return Ok(None) };
        let model = &self.served.model;
        let ids = match &prompt.source {
            Source::Ids(ids) => ids,
            Source::Messages(messages) => {
                &model.ids_of_messages(messages).map_err(|error| fault("messages", &error))?
            }
        };
        Ok(Some(spelt(model.tokenizer(), ids).collect()))
    }

    /// Whether each piece of a text is sent by itself.
    fn sends_each(&self) -> bool {
        self.knobs.streaming.and_then(|streaming| streaming.interval).is_some_and(|interval| interval.is_zero())
    }

    /// Starts writing.
    ///
    /// # Errors
    /// If the answer may be too long, the engine takes nothing now, or a text cannot begin.
    pub(super) fn start(self, engine: &Engine) -> Result<Answer, Failure> {
        self.check()?;
        let streams = self.knobs.streaming.is_some();
        let prompt = self.prompt_spelt()?;
        let mut writing = Writing::new(self, engine.clone());
        writing.prompt = prompt;
        writing.fill()?;
        let writing = Box::new(writing);
        Ok(if streams { Answer::Stream(writing) } else { Answer::Pending(writing) })
    }
}

/// What the engine is still to be given.
enum Job {
    Score(usize),
    Write(usize),
}

/// What the engine is at.
enum Running {
    Scoring(usize, Measuring),
    Writing(usize, Text),
}

impl Running {
    fn poll(&mut self, cx: &mut Context) -> Poll<()> {
        match self {
            Running::Scoring(_, measuring) => measuring.poll(cx),
            Running::Writing(_, text) => text.poll(cx),
        }
    }

    fn poll_urgent(&mut self, cx: &mut Context) -> Poll<()> {
        match self {
            Running::Scoring(_, measuring) => measuring.poll_urgent(cx),
            Running::Writing(_, text) => text.poll_urgent(cx),
        }
    }
}

/// The log-probabilities of a prompt's tokens.
#[derive(Default)]
struct Scores {
    scores: Vec<TokenScore>,
    complete: bool,
}

/// All texts of a request.
pub(super) struct Writing {
    order: Order,
    engine: Engine,
    id: String,
    created: u64,
    jobs: VecDeque<Job>,
    running: Vec<Running>,
    scores: Vec<Scores>,
    choices: Vec<Choice>,
    failure: Option<Failure>,
    /// Whether the engine took anything: then it is asked until it takes the rest.
    taken: bool,
    /// When it is asked again, if it had no room while nothing of this request was there.
    again: Option<Pin<Box<Sleep>>>,
    /// The first prompt's tokens, if they are to be told and were not.
    prompt: Option<Vec<Spelt>>,
    /// Whether the seed and the notes were sent.
    told: bool,
    /// Whether the last event was made.
    closed: bool,
}

impl Writing {
    fn new(order: Order, engine: Engine) -> Writing {
        let (n, prompts) = (order.knobs.n, order.prompts.len());
        let scored = if order.scores() { prompts } else { 0 };
        let mut jobs = VecDeque::new();
        for prompt in 0..prompts {
            jobs.extend((prompt < scored).then_some(Job::Score(prompt)));
            jobs.extend((0..n).map(|i| Job::Write(prompt * n + i)));
        }
        let prefix = if order.kind == Kind::Chat { "chatcmpl-" } else { "cmpl-" };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Writing {
            order,
            engine,
            id: random::id(prefix),
            created,
            jobs,
            running: Vec::new(),
            scores: (0..scored).map(|_| Scores::default()).collect(),
            choices: (0..prompts * n).map(|_| Choice::default()).collect(),
            failure: None,
            taken: false,
            again: None,
            prompt: None,
            told: false,
            closed: false,
        }
    }

    fn tokenizer(&self) -> &Tokenizer {
        self.order.served.model.tokenizer()
    }

    /// Gives the engine as much as there is room for.
    fn fill(&mut self) -> Result<(), Failure> {
        while self.running.len() < AT_ONCE
            && let Some(job) = self.jobs.front()
        {
            let begun = match *job {
                Job::Score(prompt) => self.score(prompt)?,
                Job::Write(choice) => self.write(choice)?,
            };
            match begun {
                Ok(running) => self.running.push(running),
                // What was written so far is not given up for want of a place.
                Err(Busy::Full) if self.taken => break,
                Err(busy) => return Err(busy.into()),
            }
            self.taken = true;
            self.jobs.pop_front();
        }
        Ok(())
    }

    fn score(&self, prompt: usize) -> Result<Result<Running, Busy>, Failure> {
        let Source::Ids(ids) = &self.order.prompts[prompt].source else {
            return Err(Failure::of(500, "model_failed", "a conversation has no scores"));
        };
        let scoring = self.order.served.model.score(ids.clone()).top(self.order.logprobs.unwrap_or(0));
        Ok(self.engine.measure(scoring).map(|measuring| Running::Scoring(prompt, measuring)))
    }

    fn write(&mut self, choice: usize) -> Result<Result<Running, Busy>, Failure> {
        let generation = self.order.generation(choice)?;
        let Order { kind, logprobs, echo, prompts, knobs, .. } = &self.order;
        let before = if *echo { prompts[choice / knobs.n].text.chars().count() } else { 0 };
        let lists_end = *kind == Kind::Completion;
        let listing = logprobs.map(|top| Listing::new(generation.ending().clone(), lists_end, before, top));
        let beside = Beside::new(listing, knobs.details);
        let text = match self.engine.write(generation) {
            Ok(text) => text,
            Err(busy) => return Ok(Err(busy)),
        };
        self.choices[choice].beside = beside;
        Ok(Ok(Running::Writing(choice, text)))
    }

    /// Takes what has come; tells whether that was the end.
    fn absorb(&mut self, running: usize) -> bool {
        let served = self.order.served.clone();
        let (tokenizer, each) = (served.model.tokenizer(), self.order.sends_each());
        let end = match &mut self.running[running] {
            Running::Scoring(prompt, measuring) => {
                let scores = &mut self.scores[*prompt];
                scores.scores.extend(measuring.take());
                let end = measuring.end();
                scores.complete = matches!(end, Some(End::Finished(_)));
                end
            }
            Running::Writing(choice, text) => {
                let choice = &mut self.choices[*choice];
                text.take().into_iter().for_each(|piece| choice.push(piece, tokenizer, each));
                let end = text.end();
                if let Some(End::Finished(finish)) = end {
                    choice.end(finish, tokenizer);
                }
                end
            }
        };
        let failure = end.as_ref().and_then(Failure::of_end);
        if let Some(failure) = failure {
            self.fail(failure);
        }
        end.is_some()
    }

    /// Takes what has come of all that runs, and gives the engine more where something ended.
    fn read(&mut self, cx: &mut Context) {
        let streams = self.order.knobs.streaming.is_some();
        let mut i = 0;
        while !self.is_idle() && i < self.running.len() {
            // What is sent whole is gathered until then.
            let running = &mut self.running[i];
            let came = if streams { running.poll(cx) } else { running.poll_urgent(cx) };
            if came.is_pending() {
                i += 1;
            } else if self.absorb(i) {
                self.running.swap_remove(i);
                self.refill();
            }
        }
    }

    fn refill(&mut self) {
        if let Err(failure) = self.fill() {
            self.fail(failure);
        }
    }

    /// One text that fails is the end of all.
    fn fail(&mut self, failure: Failure) {
        self.jobs.clear();
        self.failure.get_or_insert(failure);
    }

    /// Whether nothing more is computed.
    fn is_idle(&self) -> bool {
        self.failure.is_some() || (self.running.is_empty() && self.jobs.is_empty())
    }

    /// Whether there is something to send.
    fn has_news(&self) -> bool {
        let news = |choice: &Choice| {
            let begins = !choice.begun && self.order.kind == Kind::Chat;
            begins || !choice.deltas.is_empty() || (choice.finish.is_some() && !choice.ended)
        };
        self.choices.iter().enumerate().any(|(i, choice)| news(choice) && self.is_ready(i))
    }

    /// Whether a text may be shown: its prompt comes first.
    fn is_ready(&self, choice: usize) -> bool {
        self.scores.get(choice / self.order.knobs.n).is_none_or(|scores| scores.complete)
    }

    /// What stands before a text, if the prompt is to be there.
    fn echo(&self, choice: usize) -> Option<Delta> {
        let at = choice / self.order.knobs.n;
        let prompt = &self.order.prompts[at];
        let scores = self.scores.get(at).map_or(&[][..], |scores| &scores.scores);
        let entries = logprobs::of_prompt(self.tokenizer(), scores, prompt.unseen);
        self.order.echo.then(|| Delta { text: prompt.text.clone(), entries, ..Delta::default() })
    }

    /// What was not sent of a text; as one, unless each piece is to be sent by itself.
    fn news(&mut self, choice: usize) -> Vec<Delta> {
        if !self.is_ready(choice) {
            return Vec::new();
        }
        let mut deltas = Vec::new();
        if !std::mem::replace(&mut self.choices[choice].begun, true) {
            deltas.extend(self.echo(choice));
            self.forget_scores(choice / self.order.knobs.n);
        }
        deltas.extend(take(&mut self.choices[choice].deltas));
        if !self.order.sends_each() {
            let joined = deltas.into_iter().reduce(|mut all, delta| {
                all.extend(delta);
                all
            });
            deltas = joined.into_iter().collect();
        }
        deltas.retain(|delta| !delta.is_empty());
        deltas
    }

    /// Frees a prompt's scores once all of its texts have begun.
    fn forget_scores(&mut self, prompt: usize) {
        let n = self.order.knobs.n;
        let begun = self.choices[prompt * n..][..n].iter().all(|choice| choice.begun);
        if let Some(scores) = self.scores.get_mut(prompt).filter(|_| begun) {
            scores.scores = Vec::new();
        }
    }

    /// The tokens of a text, as they are shown.
    fn listed(&self, entries: &[Entry], always: bool) -> Value {
        if self.order.logprobs.is_none() || (entries.is_empty() && !always) {
            return Value::Null;
        }
        match self.order.kind {
            Kind::Completion => logprobs::legacy(entries),
            Kind::Chat => logprobs::chat(entries),
        }
    }

    /// Puts the details of these tokens beside a text, if they were asked for.
    fn detail(&mut self, index: usize, details: &[Token], choice: &mut Value) {
        if self.order.knobs.details.is_some() {
            let sent = &mut self.choices[index].sent;
            choice["tokens"] = (*sent..).zip(details).map(|(at, token)| token.json(at, &[])).collect();
            *sent += details.len();
        }
    }

    /// What is said once, beside the first of all texts.
    fn tell(&mut self, answer: &mut Value) {
        answer["kinglet"] = self.ours();
        if let Some(prompt) = self.prompt.take() {
            answer["prompt_tokens"] = prompt.iter().map(|token| Value::Object(token.json())).collect();
        }
    }

    fn usage(&self) -> Value {
        let prompt: usize = self.order.prompts.iter().map(|prompt| prompt.tokens).sum();
        let completion: usize = self.choices.iter().map(|choice| choice.tokens).sum();
        json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
    }

    /// An answer, or a piece of one. All pieces of an answer have the same name.
    fn answer(&self, piece: bool, choices: Vec<Value>) -> Value {
        let object = match (self.order.kind, piece) {
            (Kind::Completion, _) => "text_completion",
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.order.served.id,
            "system_fingerprint": self.order.served.fingerprint,
            "choices": choices,
        })
    }

    /// What kinglet says beyond OpenAI's fields: the seed, so that a text can be had again, and notes.
    fn ours(&self) -> Value {
        json!({"seed": self.order.knobs.sampling.seed, "notes": self.order.notes})
    }

    fn event(&self, choices: Vec<Value>) -> Value {
        let mut event = self.answer(true, choices);
        if self.order.knobs.streaming.is_some_and(|streaming| streaming.usage) {
            event["usage"] = Value::Null;
        }
        event
    }

    /// The event of a part of a text.
    fn part(&mut self, index: usize, delta: Delta, reason: Option<&str>) -> Value {
        let logprobs = self.listed(&delta.entries, false);
        let mut choice = json!({"index": index});
        match self.order.kind {
            Kind::Completion => choice["text"] = json!(delta.text),
            // The last event of a text has none.
            Kind::Chat if reason.is_some() => choice["delta"] = json!({}),
            Kind::Chat => choice["delta"] = json!({"content": delta.text}),
        }
        choice["logprobs"] = logprobs;
        choice["finish_reason"] = json!(reason);
        self.detail(index, &delta.details, &mut choice);
        self.event(vec![choice])
    }

    /// The events of what is new of a text.
    fn events_of(&mut self, index: usize, events: &mut Vec<Value>) {
        if self.order.kind == Kind::Chat && !self.choices[index].begun {
            let delta = json!({"role": "assistant", "content": "", "refusal": null});
            let mut begin = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null});
            self.detail(index, &[], &mut begin);
            events.push(self.event(vec![begin]));
        }
        for delta in self.news(index) {
            events.push(self.part(index, delta, None));
        }
        if let Some(reason) = self.choices[index].reason()
            && self.is_ready(index)
            && !std::mem::replace(&mut self.choices[index].ended, true)
        {
            events.push(self.part(index, Delta::default(), Some(reason)));
        }
    }

    fn whole_choice(&mut self, index: usize) -> Value {
        let Delta { text, entries, details } = self.news(index).pop().unwrap_or_default();
        let (logprobs, reason) = (self.listed(&entries, true), self.choices[index].reason());
        let mut choice = match self.order.kind {
            Kind::Completion => json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}),
            Kind::Chat => {
                let message = json!({"role": "assistant", "content": text, "refusal": null});
                json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
            }
        };
        self.detail(index, &details, &mut choice);
        choice
    }
}

impl Work for Writing {
    fn poll(&mut self, cx: &mut Context) -> Poll<()> {
        let streams = self.order.knobs.streaming.is_some();
        loop {
            self.read(cx);
            if self.is_idle() || (streams && self.has_news()) {
                return Poll::Ready(());
            }
            if !self.running.is_empty() {
                return Poll::Pending;
            }
            // Others took the places. Nothing of this request is there that would wake it.
            ready!(self.again.get_or_insert_with(|| Box::pin(sleep(AGAIN))).as_mut().poll(cx));
            self.again = None;
            self.refill();
        }
    }

    fn poll_urgent(&mut self, cx: &mut Context) -> Poll<()> {
        // What waits for a place waits in `poll`.
        let mut urgent = self.is_idle() || self.running.is_empty();
        // All are asked, so that each can wake.
        for running in &mut self.running {
            urgent |= running.poll_urgent(cx).is_ready();
        }
        if urgent { Poll::Ready(()) } else { Poll::Pending }
    }

    fn interval(&self) -> Option<Duration> {
        self.order.knobs.streaming?.interval
    }

    fn events(&mut self) -> Result<Vec<Value>, Failure> {
        let streaming = self.order.knobs.streaming;
        let mut events = Vec::new();
        (0..self.choices.len()).for_each(|index| self.events_of(index, &mut events));
        if !self.told
            && let Some(event) = events.first_mut()
        {
            self.tell(event);
            self.told = true;
        }
        if !self.is_idle() {
            return Ok(events);
        }
        if let Some(failure) = &self.failure {
            // What was written before comes first.
            self.closed = events.is_empty();
            return if self.closed { Err(failure.clone()) } else { Ok(events) };
        }
        if !std::mem::replace(&mut self.closed, true) && streaming.is_some_and(|streaming| streaming.usage) {
            let mut last = self.answer(true, Vec::new());
            last["usage"] = self.usage();
            events.push(last);
        }
        Ok(events)
    }

    fn is_done(&self) -> bool {
        // A failure is an event of its own, behind what was written before.
        let told = self.closed || self.order.knobs.streaming.is_none();
        self.is_idle() && (self.failure.is_none() || told)
    }

    fn whole(&mut self) -> Result<Value, Failure> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let choices = (0..self.choices.len()).map(|index| self.whole_choice(index)).collect();
        let mut answer = self.answer(false, choices);
        answer["usage"] = self.usage();
        self.tell(&mut answer);
        Ok(answer)
    }
}

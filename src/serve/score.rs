//! `POST /api/score`: how probable a model finds each token of a text.

use super::{
    answer::{Answer, Asked, Failure, WHOLE, Work},
    fields::{Fields, parse},
    given::given,
    models::Served,
    openai::served,
    service::Service,
};
use crate::{
    engine::Measuring,
    inference::{Readout, Windows},
};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    task::{Context, Poll},
};

/// The most alternatives of a token.
const MOST: i64 = 20;

/// A text that is being scored.
struct Scores {
    served: Arc<Served>,
    measuring: Measuring,
    readout: Readout,
    notes: Vec<String>,
    /// What has come and was not sent.
    tokens: Vec<Value>,
    streams: bool,
    done: bool,
    failure: Option<Failure>,
}

/// Answers with the log-probability, rank, entropy and alternatives of each token of a text, which may be longer than the
/// model's block.
///
/// # Errors
/// If there is no such model, a field is wrong, the text cannot be encoded, or the engine takes nothing now.
pub(super) fn score(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let body = parse(&asked.body)?;
    let fields = Fields::of(&body);
    let served = served(service, fields.text("model")?)?;
    let top = fields.count("top", 0..=MOST)?.unwrap_or(5) as usize;
    let windows = match fields.text("windows")? {
        None | Some("half") => Windows::Half,
        Some("eval") => Windows::Eval,
        Some(_) => return Err(fields.wrong("windows", "must be half or eval")),
    };
    let streams = fields.flag("stream")?.unwrap_or(false);
    let given = given(&fields, &served, "score")?;
    let scoring = served.model.score(given.ids.clone()).top(top).windows(windows);
    scoring.check().map_err(|error| given.refused(&error))?;
    let (n, figures) = (scoring.ids().len(), scoring.ids().len() * (1 + top));
    if !streams && figures > WHOLE {
        let most = WHOLE / (1 + top);
        let what = format!(
            "{n} tokens with {top} alternatives are too much for one answer, which may have {most}: set stream, ask for fewer \
             alternatives, or score the text in parts"
        );
        return Err(Failure::bad(Some(given.field), Some("too_long"), what));
    }
    let readout = Readout::new(&served.model, &scoring, given.text);
    let measuring = service.engine.measure(scoring)?;
    let (tokens, done, failure) = Default::default();
    let work = Box::new(Scores { served, measuring, readout, notes: given.notes, tokens, streams, done, failure });
    Ok(if streams { Answer::Stream(work) } else { Answer::Pending(work) })
}

impl Scores {
    /// Takes what has come.
    fn take(&mut self) {
        let scores = self.measuring.take();
        self.tokens.extend(self.readout.tokens(&scores));
        let Some(end) = self.measuring.end() else { return };
        self.done = true;
        self.failure = Failure::of_end(&end);
    }

    /// What has come, and what all of it comes to, if it has ended.
    fn value(&mut self, object: &str) -> Result<Value, Failure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let tokens = std::mem::take(&mut self.tokens);
        let mut value = json!({"object": object, "model": self.served.id, "tokens": tokens});
        if self.done {
            value["summary"] = json!(self.readout.tally());
            value["step"] = json!(self.served.model.state().step);
            value["notes"] = json!(self.notes);
        }
        Ok(value)
    }
}

impl Work for Scores {
    fn poll(&mut self, cx: &mut Context) -> Poll<()> {
        while !self.done && self.measuring.poll(cx).is_ready() {
            self.take();
            if self.streams && !self.tokens.is_empty() {
                break;
            }
        }
        if self.done || self.streams && !self.tokens.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_urgent(&mut self, cx: &mut Context) -> Poll<()> {
        if self.done { Poll::Ready(()) } else { self.measuring.poll_urgent(cx) }
    }

    fn events(&mut self) -> Result<Vec<Value>, Failure> {
        if self.tokens.is_empty() && !self.done {
            return Ok(Vec::new());
        }
        Ok(vec![self.value("score.chunk")?])
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn whole(&mut self) -> Result<Value, Failure> {
        self.value("score")
    }
}

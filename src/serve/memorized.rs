//! `POST /api/memorized`: which parts of a text stand in the text that a model was trained on.
//!
//! A thread of its own reads the training text, which may take seconds. It ends at the next piece once its client is gone.

use super::{
    answer::{Answer, Asked, Failure, Work},
    fields::{Fields, parse},
    models::Served,
    openai::served,
    room::Place,
    service::Service,
};
use crate::{
    data::TrainingText,
    report::memorized::{check, memorized as search},
};
use kinglet_core::error::Error;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    thread,
};

/// The most searches at once.
const SEARCHES: usize = 2;

/// Answers with the longest parts of a text that stand in the training text, and how much of it does not.
///
/// # Errors
/// If there is no such model, no text or one that is too long, or if as many searches as may are under way.
pub(super) fn memorized(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let body = parse(&asked.body)?;
    let fields = Fields::of(&body);
    let served = served(service, fields.text("model")?)?;
    fields.need("text")?;
    let text = fields.text("text")?.unwrap_or_default().to_owned();
    let code = if text.is_empty() { "invalid_value" } else { "too_long" };
    check(&text).map_err(|error| Failure::bad(Some("text"), Some(code), error.one_line()))?;
    let full = format!("{SEARCHES} texts are being looked for already");
    let place = Place::of(&service.searches, 1, SEARCHES, &full)?;
    let desk = Arc::new(Desk::default());
    let teller = Teller(desk.clone());
    let work = move || {
        let _place = place;
        let go_on = || !teller.0.is_gone.load(SeqCst);
        if let Some(result) = found(&served, &text, &go_on).transpose() {
            teller.tell(result);
        }
    };
    let refused = |error| Failure::of(503, "overloaded", format!("the system gives no thread for it: {error}"));
    thread::Builder::new().name("kinglet-search".to_owned()).spawn(work).map_err(refused)?;
    Ok(Answer::Pending(Box::new(Search(desk))))
}

/// The answer; `None` if nobody wants it any more.
fn found(served: &Served, text: &str, go_on: &dyn Fn() -> bool) -> Result<Option<Value>, Failure> {
    let model = &served.model;
    let training = TrainingText::open(model.config(), model.tokenizer(), go_on).map_err(|error| not_found(&error))?;
    let Some(training) = training else { return Ok(None) };
    let Some(found) = search(text, &training, go_on).map_err(|error| not_found(&error))? else { return Ok(None) };
    let mut value = json!(found);
    value["model"] = json!(served.id);
    value["source"] = json!(training.name);
    Ok(Some(value))
}

/// The training text cannot be had.
fn not_found(error: &Error) -> Failure {
    let mut failure = Failure::of(404, "training_text_not_found", error.one_line());
    failure.param = Some("model".to_owned());
    failure
}

/// What the searching thread and the server share.
#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    /// Whether the client is gone.
    is_gone: AtomicBool,
}

#[derive(Default)]
struct State {
    result: Option<Result<Value, Failure>>,
    waker: Option<Waker>,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's side, which says something however the thread ends.
struct Teller(Arc<Desk>);

impl Teller {
    fn tell(&self, result: Result<Value, Failure>) {
        let waker = {
            let mut state = self.0.state();
            state.result.get_or_insert(result);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let what = "the search has failed; the server's own output says why";
        self.tell(Err(Failure::of(500, "internal_error", what)));
    }
}

/// The server's side.
struct Search(Arc<Desk>);

impl Drop for Search {
    fn drop(&mut self) {
        self.0.is_gone.store(true, SeqCst);
    }
}

impl Work for Search {
    fn poll(&mut self, cx: &mut Context) -> Poll<()> {
        let mut state = self.0.state();
        if state.result.is_some() {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_urgent(&mut self, cx: &mut Context) -> Poll<()> {
        self.poll(cx)
    }

    fn events(&mut self) -> Result<Vec<Value>, Failure> {
        Ok(if self.is_done() { vec![self.whole()?] } else { Vec::new() })
    }

    fn is_done(&self) -> bool {
        self.0.state().result.is_some()
    }

    fn whole(&mut self) -> Result<Value, Failure> {
        self.0.state().result.clone().unwrap_or(Ok(Value::Null))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_is_noticed_and_a_thread_that_fails() {
        let desk = Arc::new(Desk::default());
        let (teller, mut search) = (Teller(desk.clone()), Search(desk.clone()));
        assert!(!search.is_done());
        drop(teller);
        assert_eq!(search.whole().unwrap_err().status, 500, "a thread that ends without a word has failed");
        drop(search);
        assert!(desk.is_gone.load(SeqCst));
    }
}

//! What is asked of the server, and what it answers.

use super::assets::Asset;
use crate::engine::{Busy, End};
use serde_json::{Value, json};
use std::{
    task::{Context, Poll},
    time::Duration,
};

/// The most figures of an answer that is in memory whole: its tokens, each with its alternatives.
pub(super) const WHOLE: usize = 1 << 19;

/// A request whose body has arrived whole.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// What stands in the place of `{id}` in the route's path, decoded.
    pub(super) id: String,
    /// The query's pairs, decoded, in their order.
    pub(super) query: Vec<(String, String)>,
    /// The body.
    pub(super) body: Vec<u8>,
}

/// What a handler answers.
pub(super) enum Answer {
    /// All of it.
    Whole {
        /// Its content type.
        kind: &'static str,
        /// Its bytes.
        body: Vec<u8>,
    },
    /// A file of the page.
    Asset(&'static Asset),
    /// What is still being computed, to be sent whole.
    Pending(Box<dyn Work>),
    /// What is still being computed, to be sent as it comes, as server-sent events.
    Stream(Box<dyn Work>),
}

impl Answer {
    /// JSON, all of it.
    pub(super) fn json(value: &Value) -> Answer {
        Answer::Whole { kind: "application/json", body: value.to_string().into_bytes() }
    }
}

/// Texts or scores on their way to a client. Dropping it stops them.
pub(super) trait Work: Send {
    /// Ready once something has come since the last call of [`Work::events`], or all has ended.
    fn poll(&mut self, cx: &mut Context) -> Poll<()>;

    /// Ready once what has come should be sent though more is being gathered: all has ended, or no more is computed until then.
    fn poll_urgent(&mut self, cx: &mut Context) -> Poll<()>;

    /// For [`Answer::Stream`]: the time in which what comes is one piece, if the client asks for another than the server's.
    fn interval(&self) -> Option<Duration> {
        None
    }

    /// What has come, as the data of events, in order; for [`Answer::Stream`]. The last ones come once it has ended.
    ///
    /// # Errors
    /// If it ended badly: the failure is sent as the last event.
    fn events(&mut self) -> Result<Vec<Value>, Failure>;

    /// Whether nothing more will come.
    fn is_done(&self) -> bool;

    /// All of it, once [`Work::is_done`]; for [`Answer::Pending`].
    ///
    /// # Errors
    /// If it ended badly.
    fn whole(&mut self) -> Result<Value, Failure>;
}

/// Why a request was refused, in OpenAI's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The HTTP status.
    pub(super) status: u16,
    /// What, where, and what to do.
    pub(super) message: String,
    /// OpenAI's class of error, as `invalid_request_error`.
    pub(super) kind: &'static str,
    /// The parameter at fault.
    pub(super) param: Option<String>,
    /// A name for programs, as `model_not_found`.
    pub(super) code: Option<&'static str>,
    /// Seconds after which to try again.
    pub(super) retry_after: Option<u32>,
}

impl Failure {
    /// A fault of the request: status 400.
    pub(super) fn bad(param: Option<&str>, code: Option<&'static str>, message: impl Into<String>) -> Failure {
        let (message, param) = (message.into(), param.map(str::to_owned));
        Failure { status: 400, message, kind: "invalid_request_error", param, code, retry_after: None }
    }

    /// A refusal with another status than 400, whose class follows from the status.
    pub(super) fn of(status: u16, code: &'static str, message: impl Into<String>) -> Failure {
        let kind = match status {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let retry_after = matches!(status, 429 | 503).then_some(1);
        Failure { status, message: message.into(), kind, param: None, code: Some(code), retry_after }
    }

    /// The server ends.
    pub(super) fn closing() -> Failure {
        Failure::of(503, "server_closing", "the server was told to end")
    }

    /// What there is to say of how a text or scoring ended, if it ended badly.
    pub(super) fn of_end(end: &End) -> Option<Failure> {
        Some(match end {
            End::Finished(_) => return None,
            End::Failed(what) => Failure::of(500, "model_failed", what.as_str()),
            End::Stalled => Failure::of(500, "client_stalled", "what was computed was not read for too long"),
            End::Closed => Failure::closing(),
        })
    }

    /// The body.
    pub(super) fn json(&self) -> Value {
        let Failure { message, kind, param, code, .. } = self;
        json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
    }
}

/// Why the engine takes nothing.
impl From<Busy> for Failure {
    fn from(busy: Busy) -> Failure {
        match busy {
            Busy::Full => {
                Failure::of(429, "server_busy", "the server has as many requests as it can hold: try again later")
            }
            Busy::Closing => Failure::closing(),
        }
    }
}

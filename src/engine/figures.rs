//! What an engine is doing, and what it has done.

use super::end::End;
use crate::inference::Finish;
use std::time::Duration;

/// What an engine is doing, and what it has done since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// Texts that are being computed.
    pub running: usize,
    /// Texts and scorings whose readers do not read, so that nothing is computed for them.
    pub held: usize,
    /// Texts that wait for a place.
    pub waiting: usize,
    /// Scorings that are being computed, or wait for their turn.
    pub scoring: usize,
    /// Tokens of the prompts of texts that have begun.
    pub prompt_tokens: u64,
    /// Tokens that were drawn.
    pub generated_tokens: u64,
    /// Tokens that were scored.
    pub scored_tokens: u64,
    /// How texts and scorings have ended.
    pub ended: Ended,
    /// Texts and scorings that were not taken on, because too many were there already.
    pub refused: u64,
    /// Passes through models that drew tokens.
    pub passes: u64,
    /// Texts in those passes together: divided by `passes`, how many texts a pass serves.
    pub rows: u64,
    /// The time in which something was computed.
    pub busy: Duration,
}

/// How many texts and scorings ended in each way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// Texts that reached their number of tokens.
    pub length: u64,
    /// Texts that came to a stop string.
    pub stop: u64,
    /// Texts that the model ended.
    pub end_of_text: u64,
    /// Answers that filled the context.
    pub context: u64,
    /// Scorings that were done.
    pub scored: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those whose reader did not read.
    pub stalled: u64,
    /// Those that the engine's end cut off.
    pub closed: u64,
    /// Those that nobody wanted any more.
    pub cancelled: u64,
}

impl Ended {
    /// Each way, by name.
    pub fn by_name(&self) -> [(&'static str, u64); 9] {
        let &Ended { length, stop, end_of_text, context, scored, failed, stalled, closed, cancelled } = self;
        [
            ("length", length),
            ("stop", stop),
            ("end_of_text", end_of_text),
            ("context", context),
            ("scored", scored),
            ("failed", failed),
            ("stalled", stalled),
            ("closed", closed),
            ("cancelled", cancelled),
        ]
    }

    /// The count of texts, or scorings, that end so; `None` is for those that nobody wants any more.
    fn count(&mut self, end: Option<&End>, scoring: bool) -> &mut u64 {
        match end {
            None => &mut self.cancelled,
            Some(End::Finished(_)) if scoring => &mut self.scored,
            Some(End::Finished(Finish::Length)) => &mut self.length,
            Some(End::Finished(Finish::Stop)) => &mut self.stop,
            Some(End::Finished(Finish::EndOfText)) => &mut self.end_of_text,
            Some(End::Finished(Finish::Context)) => &mut self.context,
            Some(End::Failed(_)) => &mut self.failed,
            Some(End::Stalled) => &mut self.stalled,
            Some(End::Closed) => &mut self.closed,
        }
    }
}

/// What a text or scoring is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A text without a place.
    Waiting,
    /// A text with a place.
    Running,
    /// A scoring.
    Scoring,
    /// Its reader does not read.
    Held,
}

impl Figures {
    /// Texts and scorings that have not ended.
    pub fn open(&self) -> usize {
        self.running + self.held + self.waiting + self.scoring
    }

    fn at(&mut self, stage: Stage) -> &mut usize {
        match stage {
            Stage::Waiting => &mut self.waiting,
            Stage::Running => &mut self.running,
            Stage::Scoring => &mut self.scoring,
            Stage::Held => &mut self.held,
        }
    }

    /// One more is there.
    pub(super) fn enter(&mut self, stage: Stage) {
        *self.at(stage) += 1;
    }

    /// One of those that are there does something else now.
    pub(super) fn pass_on(&mut self, from: Stage, to: Stage) {
        *self.at(from) -= 1;
        *self.at(to) += 1;
    }

    /// One has ended; `None` is that nobody wants it any more.
    pub(super) fn leave(&mut self, from: Stage, end: Option<&End>, scoring: bool) {
        *self.at(from) -= 1;
        *self.ended.count(end, scoring) += 1;
    }
}

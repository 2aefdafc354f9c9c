//! `POST /v1/completions`: a text is continued.

use super::{
    knobs::{Knobs, MOST_LOGPROBS, MOST_TOKENS},
    prompt::{self, Prompt},
    unsupported,
    writing::{Kind, Order},
};
use crate::serve::{answer::Failure, fields::Fields, models::Served};
use std::{collections::BTreeSet, sync::Arc};

/// As in OpenAI's interface.
const MAX_TOKENS: i64 = 16;
/// The most texts of a request.
const MOST_CHOICES: usize = 2048;

/// What a request orders.
///
/// # Errors
/// If a field is not what it must be.
pub(super) fn order(served: Arc<Served>, fields: &Fields) -> Result<Order, Failure> {
    let model = &served.model;
    let knobs = Knobs::of(fields, model.config().vocab_size)?;
    unsupported::refuse_others(fields, &["messages", "top_logprobs"])?;
    let newer = fields.count("max_completion_tokens", 0..=MOST_TOKENS)?;
    let max_tokens = newer.or(fields.count("max_tokens", 0..=MOST_TOKENS)?).unwrap_or(MAX_TOKENS) as usize;
    let logprobs = fields.count("logprobs", 0..=MOST_LOGPROBS)?.map(|n| n as usize);
    let echo = fields.flag("echo")?.unwrap_or(false);
    let (prompts, mut notes) = prompt::prompts(fields, model)?;
    if prompts.len() * knobs.n > MOST_CHOICES {
        let what = format!("times the number of prompts is {}: at most {MOST_CHOICES}", prompts.len() * knobs.n);
        return Err(fields.wrong("n", &what));
    }
    // Of many prompts, each loses the same.
    notes.dedup();
    notes.extend(served.notes.iter().cloned());
    notes.extend(repeated(&prompts));
    notes.extend(cut(&prompts, model.config().block_size).filter(|_| max_tokens > 0));
    Ok(Order { kind: Kind::Completion, prompts, knobs, max_tokens, logprobs, echo, notes, served })
}

/// What is to be said of prompts that are the same.
fn repeated(prompts: &[Prompt]) -> Option<String> {
    let different: BTreeSet<_> = prompts.iter().map(|prompt| &prompt.text).collect();
    let n = prompts.len() - different.len();
    (n > 0).then(|| {
        format!("{n} of {} prompts were there before, and have the same texts: n asks for several texts", prompts.len())
    })
}

/// What is to be said of prompts that are longer than what the model sees.
fn cut(prompts: &[Prompt], sees: usize) -> Option<String> {
    let lost: Vec<usize> = prompts.iter().map(|prompt| prompt.tokens.saturating_sub(sees)).filter(|&n| n > 0).collect();
    let (n, tokens) = (lost.len(), lost.iter().sum::<usize>());
    let which =
        if prompts.len() == 1 { "of the prompt".to_owned() } else { format!("of {n} of {} prompts", prompts.len()) };
    (n > 0).then(|| format!("the model sees only {sees} tokens: the beginning {which} was left out, {tokens} tokens"))
}

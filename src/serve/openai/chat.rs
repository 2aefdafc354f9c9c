//! `POST /v1/chat/completions`: a message is answered.

use super::{
    knobs::{Knobs, MOST_LOGPROBS, MOST_TOKENS},
    models::template,
    prompt::{self, Prompt, Source, fault},
    unsupported,
    writing::{Kind, Order},
};
use crate::{
    data::template_of,
    inference::Model,
    serve::{answer::Failure, fields::Fields, models::Served},
    text::chat::Message,
};
use std::sync::Arc;

/// What a request orders.
///
/// # Errors
/// If the model knows no conversations, or a field is not what it must be.
pub(super) fn order(served: Arc<Served>, fields: &Fields) -> Result<Order, Failure> {
    let model = &served.model;
    check(&served)?;
    let knobs = Knobs::of(fields, model.config().vocab_size)?;
    let max_tokens = max_tokens(fields)?;
    let logprobs = logprobs(fields)?;
    let mut notes = served.notes.clone();
    let mut messages = prompt::messages(fields, &mut notes)?;
    notes.extend(unknown(model, &messages));
    let (tokens, forgotten) = fit(fields, model, &mut messages)?;
    notes.extend(forgotten);
    let prompt = Prompt { source: Source::Messages(messages), text: String::new(), unseen: 0, tokens };
    Ok(Order { kind: Kind::Chat, prompts: vec![prompt], knobs, max_tokens, logprobs, echo: false, notes, served })
}

/// Refuses a model that knows no conversations.
pub(super) fn check(served: &Served) -> Result<(), Failure> {
    let (id, config) = (&served.id, served.model.config());
    let refuse = |why: String| Err(Failure::bad(Some("model"), Some("model_has_no_chat_template"), why));
    if template(config).is_none() {
        return refuse(format!(
            "the model {id} did not learn from conversations and has no chat template: use /v1/completions"
        ));
    }
    match template_of(config, served.model.tokenizer()) {
        Ok(_) => Ok(()),
        Err(error) => refuse(format!("the chat template of the model {id} cannot be used: {}", error.one_line())),
    }
}

/// The most tokens of an answer; without a word of it, as many as the context has room for.
fn max_tokens(fields: &Fields) -> Result<usize, Failure> {
    unsupported::refuse_others(fields, &["prompt", "echo"])?;
    // The older name is read in any case, so that what is wrong is refused.
    let older = fields.count("max_tokens", 1..=MOST_TOKENS)?;
    let newer = fields.count("max_completion_tokens", 1..=MOST_TOKENS)?;
    Ok(newer.or(older).unwrap_or(MOST_TOKENS) as usize)
}

fn logprobs(fields: &Fields) -> Result<Option<usize>, Failure> {
    let shown = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0..=MOST_LOGPROBS)?.unwrap_or(0);
    if top > 0 && !shown {
        return Err(fields.wrong("top_logprobs", "is only allowed with \"logprobs\": true"));
    }
    Ok(shown.then_some(top as usize))
}

/// What the tokenizer loses of the messages. What it cannot encode at all is an error later.
fn unknown(model: &Model, messages: &[Message]) -> Option<String> {
    messages.iter().find_map(|message| model.prompt_note(&message.content).ok().flatten())
}

/// Drops the oldest exchanges until the rest fits, as `kinglet chat` does. Returns how many tokens it then is, and what is
/// to be said of it.
fn fit(fields: &Fields, model: &Model, messages: &mut Vec<Message>) -> Result<(usize, Option<String>), Failure> {
    let keep = messages.iter().take_while(|message| message.role == "system").count().min(messages.len() - 1);
    let name = fields.name("messages");
    let failed = |error| fault(&name, &error);
    let dropped = model.fit(messages, keep).map_err(failed)?.len();
    let (tokens, sees) = (model.ids_of_messages(messages).map_err(failed)?.len(), model.config().block_size);
    if let Some(what) = model.too_long(messages).map_err(failed)? {
        return Err(Failure::bad(Some(&name), Some("context_length_exceeded"), what));
    }
    let note = format!("the model sees only {sees} tokens: the oldest messages were forgotten, {dropped} of them");
    Ok((tokens, (dropped > 0).then_some(note)))
}

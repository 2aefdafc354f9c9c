//! OpenAI's interface, and vLLM's to the tokenizer, as functions of what is asked: nothing here knows of HTTP.
//!
//! What is not supported is refused by name if it asks for something; a field that nobody knows is ignored. Where kinglet says
//! more than OpenAI, it is in the field `kinglet`: the seed of the texts, and notes on what was dropped or lost.

mod chat;
mod choice;
mod completion;
mod knobs;
mod logprobs;
mod models;
mod prompt;
mod random;
mod tokens;
mod unsupported;
mod writing;

use super::{
    answer::{Answer, Asked, Failure},
    fields::{Fields, parse},
    models::Served,
    service::Service,
};
use std::sync::Arc;

/// The description of the server's interface.
const OPENAPI: &str = include_str!("openapi.json");

/// `GET /v1/models`
pub(super) fn models(service: &Service, _: &Asked) -> Result<Answer, Failure> {
    Ok(Answer::json(&models::list(&service.models)))
}

/// `GET /v1/models/{id}`
pub(super) fn model(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    Ok(Answer::json(&models::one(&service.models, &asked.id)?))
}

/// `POST /v1/completions`
pub(super) fn completions(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let body = parse(&asked.body)?;
    let fields = Fields::of(&body);
    completion::order(served(service, fields.text("model")?)?, &fields)?.start(&service.engine)
}

/// `POST /v1/chat/completions`
pub(super) fn chat_completions(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let body = parse(&asked.body)?;
    let fields = Fields::of(&body);
    chat::order(served(service, fields.text("model")?)?, &fields)?.start(&service.engine)
}

/// `POST /tokenize`
pub(super) fn tokenize(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let body = parse(&asked.body)?;
    let fields = Fields::of(&body);
    let served = served(service, fields.text("model")?)?;
    Ok(Answer::json(&tokens::tokenize(&served, &fields)?))
}

/// `POST /detokenize`
pub(super) fn detokenize(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let body = parse(&asked.body)?;
    let fields = Fields::of(&body);
    let served = served(service, fields.text("model")?)?;
    Ok(Answer::json(&tokens::detokenize(&served.model, &fields)?))
}

/// `GET /tokenizer_info`
pub(super) fn tokenizer_info(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let model = asked.query.iter().find(|(key, _)| key == "model").map(|(_, value)| value.as_str());
    Ok(Answer::json(&tokens::info(&served(service, model)?.model)))
}

/// `GET /openapi.json`
pub(super) fn openapi(_: &Service, _: &Asked) -> Result<Answer, Failure> {
    Ok(Answer::Whole { kind: "application/json", body: OPENAPI.as_bytes().to_vec() })
}

/// The model of this name; without a name the only one that there is.
pub(super) fn served(service: &Service, name: Option<&str>) -> Result<Arc<Served>, Failure> {
    if let Some(name) = name {
        return service.models.get(name);
    }
    let listed = service.models.list();
    match &listed[..] {
        [only] => service.models.get(&only.id),
        [] => service.models.get(""),
        several => {
            let what = format!("model is missing: {} models are served, and /v1/models lists them", several.len());
            Err(Failure::bad(Some("model"), Some("missing_required_parameter"), what))
        }
    }
}

#[cfg(test)]
mod tests;

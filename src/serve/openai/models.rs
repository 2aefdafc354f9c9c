//! `GET /v1/models`: what is served, with all fields of OpenAI's, and more in the field `kinglet`.

use crate::{
    run::{Facts, Outcome, Which, val_loss_at},
    serve::{
        answer::Failure,
        models::{Listed, Models, Served},
    },
    text::{chat::DEFAULT_TEMPLATE, source::MEMORY},
};
use kinglet_core::{config::Config, params::Layout};
use serde_json::{Value, json};

/// All models.
pub(super) fn list(models: &Models) -> Value {
    let data: Vec<_> = models.list().iter().map(|listed| of_listed(models, listed)).collect();
    json!({"object": "list", "data": data})
}

/// One model.
///
/// # Errors
/// If there is none of this name, or it cannot be loaded.
pub(super) fn one(models: &Models, id: &str) -> Result<Value, Failure> {
    if let Some(listed) = models.list().iter().find(|listed| listed.id == id) {
        return Ok(of_listed(models, listed));
    }
    // A checkpoint that was named is known once it is loaded.
    let served = models.get(id)?;
    let (step, config) = (served.model.state().step, Some(served.model.config()));
    let at = (Some(step), val_loss_at(&served.run, step));
    Ok(noted(model(id, served.created, config, at, &Outcome::of(&served.run)), &served))
}

/// Whether a run learned from conversations.
pub(super) fn learned_conversations(config: &Config) -> bool {
    matches!(&*config.data_kind, "conversations" | "exchanges")
}

/// The template of a model's conversations, if it knows any. What a model from elsewhere learned is not known; but it says
/// whether it has a template.
pub(super) fn template(config: &Config) -> Option<&str> {
    let own = Some(&*config.chat_template).filter(|own| !own.is_empty());
    match &*config.data_kind {
        "text" => None,
        _ if learned_conversations(config) => own.or(Some(DEFAULT_TEMPLATE)),
        _ => own,
    }
}

/// What is known of a run without loading its weights; and what was noted if they are loaded.
fn of_listed(models: &Models, listed: &Listed) -> Value {
    let facts = Facts::of(&listed.run);
    let (config, best) = (facts.config.ok(), facts.state.and_then(|state| state.best));
    let served = models.in_memory(listed);
    // Another checkpoint may have been taken than was wanted.
    let taken = served.as_ref().filter(|served| !served.notes.is_empty()).map(|served| served.model.state().step);
    let at = match listed.which {
        _ if taken.is_some() => (taken, taken.and_then(|step| val_loss_at(&listed.run, step))),
        // Without a word, the best checkpoint is served.
        None | Some(Which::Best) if best.is_some() => (best.map(|best| best.1), best.map(|best| best.0)),
        _ => (Some(listed.step), val_loss_at(&listed.run, listed.step)),
    };
    let model = model(&listed.id, listed.created, config.as_ref(), at, &Outcome::of(&listed.run));
    match served {
        Some(served) => noted(model, &served),
        None => model,
    }
}

/// A model with what was noted when it was loaded.
fn noted(mut model: Value, served: &Served) -> Value {
    model["kinglet"]["notes"] = json!(served.notes);
    model
}

/// What a run was trained on, by the names that were given.
fn data(config: &Config) -> Option<String> {
    let names: Vec<_> = config.data.iter().filter(|name| *name != MEMORY).cloned().collect();
    Some(names.join(", ")).filter(|names| !names.is_empty())
}

/// A model, at a step with its loss there, and what its run came to.
fn model(
    id: &str,
    created: u64,
    config: Option<&Config>,
    (step, val_loss): (Option<u64>, Option<f64>),
    outcome: &Outcome,
) -> Value {
    let baseline = outcome.baseline.as_ref();
    let baseline = baseline.map(|of| json!({"name": of.name, "nats_per_token": of.nats_per_token}));
    let params = config.and_then(|config| Layout::new(config).ok()).map(|layout| layout.len());
    json!({
        "id": id,
        "object": "model",
        "created": created,
        "owned_by": "kinglet",
        "kinglet": {
            "params": params,
            "quantization": config.map(|config| config.quantization.name()),
            "block_size": config.map(|config| config.block_size),
            "tokenizer": config.map(|config| &config.tokenizer),
            "chat": config.map(|config| template(config).is_some()),
            "step": step,
            "val_loss": val_loss,
            "n_layer": config.map(|config| config.n_layer),
            "n_head": config.map(|config| config.n_head),
            "vocab_size": config.map(|config| config.vocab_size),
            "data": config.and_then(data),
            "val_loss_exact": outcome.val_loss_exact,
            "entropy_floor": outcome.entropy_floor,
            "baseline": baseline,
            // Of what is not loaded, they are not known.
            "notes": null,
        },
    })
}

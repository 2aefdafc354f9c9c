//! What is called how: runs and new folders, as the command has them, keys and tensors.

use kinglet::{
    config::{Config, FIELDS},
    error::{Error, Result},
    params::{Layout, edit::merge},
    run::{Chosen, RunName, Which, first_free},
};
use serde_json::{Value, json};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The run of this name and its checkpoint, which is the one that the name says, or else this one, or else the best.
pub(crate) fn chosen(name: OsString, checkpoint: Option<&str>) -> Result<Chosen> {
    RunName::from(name).chosen(checkpoint.map(which).transpose()?)
}

/// The checkpoint of this name.
pub(crate) fn which(checkpoint: &str) -> Result<Which> {
    let refused = |allowed| Error::Config { key: "checkpoint".into(), value: checkpoint.into(), allowed };
    let parsed = checkpoint.parse();
    parsed.map_err(|what: String| refused(what.trim_start_matches("must be ").to_owned()))
}

/// Makes something in the folder that was given, or in the first one that is free of those named as `usual`.
pub(crate) fn placed<T>(
    given: Option<PathBuf>,
    usual: impl FnOnce() -> PathBuf,
    make: impl FnMut(&Path) -> Result<T>,
) -> Result<T> {
    let mut make = make;
    match given {
        Some(out) => make(&out),
        None => first_free(&usual(), make),
    }
}

/// A configuration as JSON, all keys of it.
pub(crate) fn config(config: &Config) -> String {
    let keys = FIELDS.iter().map(|field| (field.key.to_owned(), json!(config.value(field.key))));
    Value::Object(keys.collect()).to_string()
}

/// Each tensor of a model by nanoGPT's name: where it begins, and its shape, which is PyTorch's. A head that shares its weights
/// with the embedding is there twice.
pub(crate) fn tensors(layout: &Layout) -> Vec<(String, usize, Vec<usize>)> {
    let mut tensors: Vec<_> =
        layout.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.span.start, tensor.shape.clone())).collect();
    if tensors.iter().all(|(name, ..)| name != "lm_head.weight") {
        let head = &layout.lm_head;
        let at = tensors.iter().position(|(name, ..)| name == "lm_head.bias").unwrap_or(tensors.len());
        tensors.insert(at, ("lm_head.weight".to_owned(), head.w.start, vec![head.o, head.i]));
    }
    tensors
}

/// The weights of a model as it computes with them, its adapters merged in and those in few bits multiplied out, and where each is.
pub(crate) fn merged(model: &kinglet::Model) -> Result<(Layout, Vec<f32>)> {
    let (config, weights) = (model.config(), model.numbers());
    if !model.layout().has_adapters() {
        return Ok((model.layout().clone(), weights));
    }
    let (config, weights) = merge(config, weights)?;
    Ok((Layout::new(&config)?, weights))
}

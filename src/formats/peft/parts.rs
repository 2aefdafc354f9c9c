//! The tensors of an adapter, by what they are.

use crate::formats::foreign::{Foreign, Tensor};
use kinglet_core::error::{Error, Result};
use std::collections::BTreeMap;

/// What PEFT puts before the names of the model it has adapted.
const WRAPPER: &str = "base_model.model.";

/// A tensor, and its name in the file.
pub(super) type Named = (String, Tensor<'static>);

/// The tensors of an adapter.
#[derive(Debug, Default)]
pub(in crate::formats) struct Parts {
    /// A and B of each module.
    pub(super) lora: BTreeMap<String, [Named; 2]>,
    /// Parameters of the model that were trained besides, by their names there.
    pub(super) saved: BTreeMap<String, Named>,
}

impl Parts {
    /// Sorts the tensors of a file.
    ///
    /// # Errors
    /// If one is of a kind that kinglet has no form for, is there twice, or lacks its other half.
    pub(in crate::formats) fn of(foreign: Foreign<'static>) -> Result<Parts> {
        let (mut parts, mut halves) = (Parts::default(), BTreeMap::<String, [Option<Named>; 2]>::new());
        for (name, tensor) in foreign.tensors {
            if tensor.dtype.is_whole() {
                let dtype = tensor.dtype.name();
                return Err(Error::Data(format!("{name} is of type {dtype}: whole numbers are no weights")));
            }
            let twice = |name: &str| Error::Data(format!("{name} is there twice, under the names of two adapters"));
            match half(&name)? {
                Some((module, which)) => {
                    let place = &mut halves.entry(module).or_default()[which];
                    if place.is_some() {
                        return Err(twice(&name));
                    }
                    *place = Some((name, tensor));
                }
                None => {
                    let there = plain(&name);
                    if parts.saved.insert(there, (name.clone(), tensor)).is_some() {
                        return Err(twice(&name));
                    }
                }
            }
        }
        for (module, pair) in halves {
            match pair {
                [Some(a), Some(b)] => _ = parts.lora.insert(module, [a, b]),
                [Some((has, _)), None] => return Err(missing(&has, "lora_A", "lora_B")),
                [None, Some((has, _))] => return Err(missing(&has, "lora_B", "lora_A")),
                [None, None] => unreachable!("one of them made the entry"),
            }
        }
        if parts.lora.is_empty() {
            return Err(Error::Data("it has no adapter of a linear layer: no lora_A and lora_B".to_owned()));
        }
        Ok(parts)
    }
}

fn missing(has: &str, this: &str, other: &str) -> Error {
    Error::Data(format!("it has no tensor {}, though {has} is there", has.replace(this, other)))
}

/// The module of a tensor that is a half of its adapter, and which half.
fn half(name: &str) -> Result<Option<(String, usize)>> {
    let parts: Vec<&str> = name.strip_prefix(WRAPPER).unwrap_or(name).split('.').collect();
    let Some(at) = parts.iter().position(|part| part.starts_with("lora_")) else { return Ok(None) };
    let which = match (parts[at], &parts[at + 1..]) {
        // The name of the adapter may stand in between.
        ("lora_A", ["weight"] | [_, "weight"]) => 0,
        ("lora_B", ["weight"] | [_, "weight"]) => 1,
        ("lora_embedding_A" | "lora_embedding_B", _) => {
            let what = "an adapter of an embedding, for which kinglet has no form; merge_and_unload() there, and import the \
                        whole model";
            return Err(Error::Data(format!("{name}: {what}")));
        }
        ("lora_magnitude_vector", _) => {
            return Err(Error::Data(format!("{name}: kinglet's adapters have no magnitudes (DoRA)")));
        }
        _ => {
            return Err(Error::Data(format!(
                "{name}: kinglet's adapters have a lora_A.weight and a lora_B.weight alone"
            )));
        }
    };
    Ok(Some((parts[..at].join("."), which)))
}

/// The name of a whole parameter in the model that was adapted.
fn plain(name: &str) -> String {
    let mut parts: Vec<&str> = name.strip_prefix(WRAPPER).unwrap_or(name).split('.').collect();
    if let Some(at) = parts.iter().position(|part| *part == "modules_to_save") {
        // The name of the adapter may stand behind it.
        let behind = if parts.len() - at > 2 { 2 } else { 1 };
        parts.drain(at..at + behind);
    }
    parts.retain(|part| *part != "base_layer");
    parts.join(".")
}

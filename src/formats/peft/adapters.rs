//! The adapters of a run, and how PEFT gets them.

use super::rows::{self, Module};
use crate::formats::{
    dialect::Dialect,
    foreign::{Foreign, Tensor},
    portable::Portable,
    rewrite::Rewrite,
};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
    params::{Layout, Param},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The adapters of a run.
#[derive(Clone, Debug)]
pub struct Adapters {
    /// The configuration with adapters.
    pub config: Config,
    /// The weights in its layout, those of the model it is on included.
    pub weights: Vec<f32>,
}

/// Adapters without the model that they are on.
#[derive(Clone, Debug)]
pub struct Factors {
    /// The configuration with adapters.
    config: Config,
    /// Their numbers: what comes after the model in its layout.
    numbers: Vec<f32>,
}

impl Adapters {
    /// The model without them, with whatever else was trained, and the adapters alone. Weights are not copied.
    ///
    /// # Errors
    /// If the configuration describes no model.
    pub(in crate::formats) fn split(mut self) -> Result<(Config, Vec<f32>, Factors)> {
        let numbers = self.weights.split_off(Layout::new(&self.config)?.base_len);
        let mut config = self.config.clone();
        (config.lora_rank, config.new_tokens) = (0, 0);
        (config.freeze, config.modules_to_save, config.param_groups) = (Vec::new(), Vec::new(), Vec::new());
        Ok((config, self.weights, Factors { config: self.config, numbers }))
    }
}

impl Factors {
    /// Whether the adapters stay what they are if the model is rewritten so, but for a factor on the queries.
    pub(in crate::formats) fn survive(&self, rewrite: Rewrite) -> bool {
        rows::survive(&self.config, rewrite)
    }

    /// PEFT's tensors and its `adapter_config.json`, for `model`, which is the base rewritten by `rewrites`. `base` is where
    /// it will be.
    ///
    /// # Errors
    /// If the architecture has no place for an adapter.
    pub(in crate::formats) fn write(
        &self,
        model: &Portable,
        dialect: &Dialect,
        rewrites: &[Rewrite],
        base: &str,
    ) -> Result<(Foreign<'static>, Value)> {
        let config = &self.config;
        if config.lora_targets.head && model.config.tie_weights {
            return Err(Error::Data(
                "an adapter of the head, whose weight is the token embedding, has no place in PEFT: --format hf merges it"
                    .to_owned(),
            ));
        }
        let adapted = Layout::new(config)?;
        let factor = rows::factor(config, rewrites);
        let queries = adapted.qkv_rows()[0].len();
        let (mut foreign, mut targets) = (Foreign::default(), BTreeSet::new());
        for Module { name: module, linear: at, rows } in rows::modules(&model.config, dialect)? {
            let linear = adapted.linears()[at];
            let Some(lora) = linear.lora else { continue };
            let of = |param: Param| &self.numbers[param.start - adapted.base_len..][..param.len];
            let (a, b) = (of(lora.a), of(lora.b));
            let is_qkv = rows::is_qkv(at, config.n_layer);
            let picked = rows.iter().flat_map(|&row| {
                let factor = if is_qkv && row < queries { factor } else { 1.0 };
                b[row * lora.r..][..lora.r].iter().map(move |&x| (f64::from(x) * factor) as f32)
            });
            let picked: Vec<f32> = picked.collect();
            let mut add = |which: &str, shape: Vec<usize>, numbers: Vec<f32>| {
                foreign.tensors.insert(format!("base_model.model.{module}.{which}.weight"), Tensor::of(shape, numbers));
            };
            add("lora_A", vec![lora.r, linear.i], a.to_vec());
            add("lora_B", vec![rows.len(), lora.r], picked);
            let mut parts: Vec<&str> = module.rsplit('.').take(2).collect();
            parts.reverse();
            targets.insert(parts.join("."));
        }
        // What PEFT leaves out of its own files has its defaults.
        let told = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": true,
            "r": config.lora_rank, "lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout,
            "target_modules": targets, "fan_in_fan_out": dialect.name == "gpt2", "bias": "none",
            "modules_to_save": null,
        });
        Ok((foreign, told))
    }
}

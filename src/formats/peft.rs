//! Adapters as PEFT has them, for the model that transformers loads.
//!
//! kinglet's adapter of a layer is `B A`, as PEFT's is. Where a layer here is several there (queries, keys and values; gate and
//! up), each gets all of A and its rows of B.

use super::{
    dialect::Dialect,
    foreign::{Foreign, Tensor},
    portable::Portable,
    rewrite::Rewrite,
};
use kinglet_core::{
    config::{AttentionScale, Config},
    error::{Error, Result},
    params::{Layout, Linear},
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

impl Adapters {
    /// The model without them, with whatever else was trained.
    ///
    /// # Errors
    /// If the configuration describes no model.
    pub(super) fn base(&self) -> Result<(Config, Vec<f32>)> {
        let mut config = self.config.clone();
        (config.lora_rank, config.new_tokens) = (0, 0);
        (config.freeze, config.modules_to_save, config.param_groups) = (Vec::new(), Vec::new(), Vec::new());
        let layout = Layout::new(&self.config)?;
        Ok((config, self.weights[..layout.base_len].to_vec()))
    }

    /// Whether the adapters stay what they are if the model is rewritten so, but for a factor on the queries.
    pub(super) fn survive(&self, rewrite: Rewrite) -> bool {
        match rewrite {
            Rewrite::Scale(_) => !self.config.qk_norm || !self.config.lora_targets.qkv,
            Rewrite::HeadBias | Rewrite::Untie => !self.config.lora_targets.head,
            _ => false,
        }
    }

    /// PEFT's tensors and its `adapter_config.json`, for `model`, which is the base rewritten by `rewrites`. `base` is where
    /// it will be.
    ///
    /// # Errors
    /// If the architecture has no place for an adapter.
    pub(super) fn write(
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
        let factor =
            if rewrites.iter().any(|rewrite| matches!(rewrite, Rewrite::Scale(_))) { scale(config) } else { 1.0 };
        let queries = adapted.qkv_rows()[0].len();
        let (mut foreign, mut targets) = (Foreign::default(), BTreeSet::new());
        for (name, rows) in rows_there(model, dialect)? {
            let (at, first) = rows[0];
            let linear = adapted.linears()[at];
            let Some(lora) = linear.lora else { continue };
            let module = name.strip_suffix(".weight").unwrap_or(&name);
            let (a, b) = (&self.weights[lora.a.range()], &self.weights[lora.b.range()]);
            let is_qkv = adapted.h.iter().any(|block| block.c_attn.w.span == linear.w.span);
            let picked = rows.iter().flat_map(|&(_, row)| {
                let factor = if is_qkv && row < queries { factor } else { 1.0 };
                b[row * lora.r..][..lora.r].iter().map(move |&x| (f64::from(x) * factor) as f32)
            });
            debug_assert!(first < linear.o);
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
            "target_modules": targets, "fan_in_fan_out": is_transposed(dialect), "bias": "none",
            "modules_to_save": null,
        });
        Ok((foreign, told))
    }
}

/// The factor of [`super::rewrite::scale`] on the queries.
fn scale(config: &Config) -> f64 {
    let (head, all) = (config.head_size() as f64, config.n_embd as f64);
    let from_all = config.attention_scale == AttentionScale::NEmbd;
    (if from_all { head / all } else { all / head }).sqrt()
}

/// Whether its linear layers are GPT-2's, whose weights are (in, out).
fn is_transposed(dialect: &Dialect) -> bool {
    dialect.name == "gpt2"
}

/// For each tensor there that holds rows of a linear layer here: which layer, and which of its rows. Found by writing a model
/// whose weights are the numbers of their rows.
fn rows_there(model: &Portable, dialect: &Dialect) -> Result<Vec<(String, Vec<(usize, usize)>)>> {
    let layout = model.layout();
    let linears = layout.linears();
    let mut numbered = vec![-1.0; layout.len()];
    let mut begins = Vec::new();
    let mut next = 0;
    for Linear { w, i, o, .. } in &linears {
        begins.push(next);
        let rows = numbered[w.range()].chunks_exact_mut(*i).enumerate();
        rows.for_each(|(row, numbers)| numbers.fill((next + row) as f32));
        next += o;
    }
    if next > 1 << 24 {
        return Err(Error::Data("the model is too large for adapters".to_owned()));
    }
    let numbered = Portable { config: model.config.clone(), weights: numbered, tokenizer: model.tokenizer.clone() };
    let mut found = Vec::new();
    for (name, tensor) in &dialect.write(&numbered)?.tensors {
        let [rows, cols] = tensor.shape[..] else { continue };
        let numbers = tensor.read()?;
        let transposed = is_transposed(dialect) && !name.starts_with("lm_head");
        let of: Vec<f32> = match transposed {
            true => numbers[..cols].to_vec(),
            false => numbers.iter().step_by(cols).copied().take(rows).collect(),
        };
        if of.iter().any(|&row| row < 0.0) {
            continue;
        }
        let place = |row: f32| {
            let row = row as usize;
            let at = begins.partition_point(|&begin| begin <= row) - 1;
            (at, row - begins[at])
        };
        found.push((name.clone(), of.into_iter().map(place).collect()));
    }
    Ok(found)
}

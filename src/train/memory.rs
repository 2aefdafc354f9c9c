//! Memory needed for training, computed before allocating it.

use super::teacher;
use crate::system::machine;
use kinglet_core::threads::cores;
use kinglet_core::{
    config::{Config, Precision, Quantization},
    error::{Error, Result},
    model::Gpt,
    params::Matrix,
    ranks::{Traffic, Wire},
    shards,
};
use serde::Serialize;
use std::sync::OnceLock;

/// Bytes needed for training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Memory {
    /// The weights.
    pub weights: u64,
    /// The optimizer's moments of the trained parameters, and Muon's scratch space.
    pub optimizer: u64,
    /// One gradient of the trained parameters per shard.
    pub gradients: u64,
    /// Activations and their gradients, and the per-sequence results of an estimate.
    pub activations: u64,
    /// Weights packed for matrix multiplication.
    pub panels: u64,
    /// Where training is for weights in few bits: the rounded weights that it computes with.
    #[serde(skip_serializing_if = "is_zero")]
    pub rounded: u64,
    /// Where there are several ranks: gradients that wait to be sent, that are under way, and that have arrived.
    #[serde(skip_serializing_if = "is_zero")]
    pub messages: u64,
    /// The teacher's weights and activations, where there is one.
    #[serde(skip_serializing_if = "is_zero")]
    pub teacher: u64,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// The ranks that share the runs of this process, and whether each has the moments of a part alone.
static RANKS: OnceLock<(usize, bool)> = OnceLock::new();

impl Memory {
    /// The memory for a run of `config`, whose vocabulary size must be known; shards default to one per core. Where this process
    /// [is one of several](Memory::share_among), it is that of each.
    ///
    /// # Errors
    /// If `config` does not describe a valid model.
    pub fn of(config: &Config) -> Result<Memory> {
        let &(ranks, zero) = RANKS.get().unwrap_or(&(1, false));
        Memory::of_rank(config, ranks, zero)
    }

    /// From now on, the runs of this process are shared by so many ranks; with `zero`, each has the moments of a part alone. A
    /// program says so once, as it starts.
    pub fn share_among(ranks: usize, zero: bool) {
        let _ = RANKS.set((ranks, zero));
    }

    /// The memory of each of so many ranks that share the run: gradients and activations of its own shards only. Of ranks with
    /// different numbers of shards, it is that of one with the most. With `zero`, each has the moments of a part alone.
    ///
    /// # Errors
    /// If `config` does not describe a valid model.
    pub fn of_rank(config: &Config, ranks: usize, zero: bool) -> Result<Memory> {
        let model = Gpt::new(config)?;
        let (params, trainable) = (4 * model.layout.len() as u64, 4 * model.layout.trainable_len() as u64);
        let all = shards::count(config, model.layout.trainable_len());
        let (shards, share) = (all.div_ceil(ranks), config.batch_size.div_ceil(all));
        let (forward, backward) = model.activation_floats(share);
        let (eval, _) = model.activation_floats(share.min(shards::EVAL_ROWS.div_ceil(config.block_size)));
        // Saturate: sizes far beyond memory only need to be recognised as too large.
        let of_shards = |floats: usize| (4 * shards as u64).saturating_mul(floats as u64);
        let sequences = 8 * config.eval_iters * config.batch_size as u64;
        let prepared = config.precision == Precision::Bf16 || model.layout.len() <= shards::LARGE;
        let of_muon = of_muon(config, &model);
        let scratch = of_muon.iter().map(Matrix::scratch).max().unwrap_or(0);
        Ok(Memory {
            weights: params,
            optimizer: moments(&model, &of_muon) / if zero { ranks as u64 } else { 1 } + 4 * (cores() * scratch) as u64,
            gradients: (shards as u64).saturating_mul(trainable),
            activations: of_shards(forward + backward)
                .saturating_add(of_shards(eval / config.n_layer))
                .saturating_add(sequences),
            panels: if prepared { params } else { 0 },
            rounded: if config.quantization == Quantization::None { 0 } else { params },
            messages: of_messages(&model, Wire::of(config), (shards, ranks)),
            teacher: teacher::bytes(config, share, shards),
        })
    }

    /// Bytes on disk of the checkpoints of a run of `config` that is done: the best one and those of the last estimates.
    ///
    /// # Errors
    /// If `config` does not describe a valid model.
    pub fn of_checkpoints(config: &Config) -> Result<u64> {
        let model = Gpt::new(config)?;
        // Adapters are written without the weights that they adapt.
        let weights = if config.lora_rank > 0 { model.layout.trainable_len() } else { model.layout.len() };
        let each = 4 * weights as u64 + moments(&model, &of_muon(config, &model));
        // The first estimate is made before the first update, the last one after the last.
        let estimates = 1 + config.max_iters.div_ceil(config.eval_interval);
        Ok(each.saturating_mul(estimates.min(config.keep_last as u64 + 1)))
    }

    /// Additional bytes for the process, with a text of `tokens` tokens in memory.
    pub fn of_process(tokens: usize) -> u64 {
        // Code, allocator, thread stacks and leftovers of reading the text, as measured; then the ids. Code that is compiled for
        // tests is larger.
        let code = if cfg!(debug_assertions) { 30 } else { 14 };
        (code << 20) + 5 * tokens as u64
    }

    /// Total bytes.
    pub fn total(&self) -> u64 {
        let Memory { weights, optimizer, gradients, activations, panels, rounded, messages, teacher } = *self;
        [weights, optimizer, gradients, activations, panels, rounded, messages, teacher]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Checks that it fits into this machine's memory.
    ///
    /// # Errors
    /// If it does not fit.
    pub fn check(&self) -> Result<()> {
        machine::check_memory(self.total(), |need, have| {
            Error::BadConfig(format!(
                "training this model needs {need:.1} GiB of memory, but this machine has {have:.1} GiB: lower \
                 batch_size, block_size, n_embd, n_layer or eval_iters"
            ))
        })
    }
}

/// Bytes of gradients on their way between so many ranks, in one with so many shards.
fn of_messages(model: &Gpt, wire: Wire, (shards, ranks): (usize, usize)) -> u64 {
    if ranks == 1 {
        return 0;
    }
    // On a slow network all of them wait; totals are kept until all have arrived.
    let kept = 4 * (shards as u64 + 1).saturating_mul(model.layout.trainable_len() as u64);
    kept.saturating_add(Traffic::of(&model.layout, wire).in_flight(ranks) as u64)
}

/// The matrices that Muon updates.
fn of_muon(config: &Config, model: &Gpt) -> Vec<Matrix> {
    (0..=config.param_groups.len()).flat_map(|group| model.layout.matrices(group)).collect()
}

/// Bytes of the optimizer's moments: two of each trained parameter, or one where Muon updates it.
fn moments(model: &Gpt, of_muon: &[Matrix]) -> u64 {
    let without_second: usize = of_muon.iter().map(|matrix| matrix.span.len).sum();
    4 * (2 * model.layout.trainable_len() - without_second) as u64
}

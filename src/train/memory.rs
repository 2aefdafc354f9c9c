//! What a training takes in memory, before it takes it.

use crate::system::machine;
use kinglet_core::threads::cores;
use kinglet_core::{
    config::{Config, Precision},
    error::{Error, Result},
    model::Gpt,
    params::Matrix,
    shards,
};
use serde::Serialize;

/// Bytes that training takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Memory {
    /// The weights.
    pub weights: u64,
    /// The optimizer's moments of what trains, and Muon's scratch space.
    pub optimizer: u64,
    /// A gradient of what trains for each shard.
    pub gradients: u64,
    /// Activations and their gradients, and what an estimate keeps of each sequence.
    pub activations: u64,
    /// Weights laid out for products.
    pub panels: u64,
}

impl Memory {
    /// What a run of `config` takes, whose vocabulary must be known; shards default to one for each core.
    ///
    /// # Errors
    /// If `config` is not that of a model.
    pub fn of(config: &Config) -> Result<Memory> {
        let model = Gpt::new(config)?;
        let (params, trainable) = (4 * model.layout.len() as u64, 4 * model.layout.trainable_len() as u64);
        let shards = shards::count(config, model.layout.trainable_len());
        let share = config.batch_size.div_ceil(shards);
        let (forward, backward) = model.activation_floats(share);
        let (eval, _) = model.activation_floats(share.min(shards::EVAL_ROWS.div_ceil(config.block_size)));
        // What is large beyond memory is only to be recognised as that.
        let of_shards = |floats: usize| (4 * shards as u64).saturating_mul(floats as u64);
        let sequences = 8 * config.eval_iters * config.batch_size as u64;
        let prepared = config.precision == Precision::Bf16 || model.layout.len() <= shards::LARGE;
        let groups = 0..=config.param_groups.len();
        let of_muon: Vec<Matrix> = groups.flat_map(|group| model.layout.matrices(group)).collect();
        let without_second = 4 * of_muon.iter().map(|matrix| matrix.span.len as u64).sum::<u64>();
        let scratch = of_muon.iter().map(Matrix::scratch).max().unwrap_or(0);
        Ok(Memory {
            weights: params,
            optimizer: 2 * trainable - without_second + 4 * (cores() * scratch) as u64,
            gradients: (shards as u64).saturating_mul(trainable),
            activations: of_shards(forward + backward)
                .saturating_add(of_shards(eval / config.n_layer))
                .saturating_add(sequences),
            panels: if prepared { params } else { 0 },
        })
    }

    /// What the program takes besides, with a text of so many tokens.
    pub fn of_process(tokens: usize) -> u64 {
        // Code, allocator and thread stacks, and what reading the text leaves, measured; then the ids.
        (12 << 20) + 5 * tokens as u64
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let Memory { weights, optimizer, gradients, activations, panels } = *self;
        [weights, optimizer, gradients, activations, panels].into_iter().fold(0, u64::saturating_add)
    }

    /// Refuses what this machine's memory cannot hold.
    ///
    /// # Errors
    /// If it does not fit.
    pub fn check(&self) -> Result<()> {
        machine::check_memory(self.total(), |need, have| {
            Error::BadConfig(format!(
                "training this model takes {need:.1} GiB of memory and this machine has {have:.1} GiB: \
                 lower batch_size, block_size, n_embd, n_layer or eval_iters"
            ))
        })
    }
}

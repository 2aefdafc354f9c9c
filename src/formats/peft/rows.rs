//! Which rows of kinglet's linear layers the modules there are.

use crate::formats::{
    dialect::{Dialect, Rows},
    rewrite::Rewrite,
};
use kinglet_core::{
    config::{AttentionScale, Config},
    error::Result,
    params::Layout,
};

/// A linear layer there, which is some rows of one here.
#[derive(Clone, Debug)]
pub(super) struct Module {
    /// Its name there, without `.weight`.
    pub(super) name: String,
    /// Which of [`Layout::linears`] it is of.
    pub(super) linear: usize,
    /// Of each of its outputs: which row of that layer it is.
    pub(super) rows: Vec<usize>,
}

/// The linear layers there, for a model that was rewritten so that the architecture holds it.
pub(super) fn modules(config: &Config, dialect: &Dialect) -> Result<Vec<Module>> {
    // A head whose weight is the embedding is a module of its own all the same.
    let mut config = config.clone();
    config.tie_weights = false;
    let layout = Layout::new(&config)?;
    let linears = layout.linears();
    let of = |Rows { theirs, ours, rows }: Rows| {
        let tensor = layout.tensors.iter().find(|tensor| tensor.name == ours)?;
        let linear = linears.iter().position(|linear| linear.w.span == tensor.span)?;
        Some(Module { name: theirs.strip_suffix(".weight")?.to_owned(), linear, rows })
    };
    Ok(dialect.rows(&config)?.into_iter().filter_map(of).collect())
}

/// Whether adapters stay what they are if the model is rewritten so, but for a factor on the queries.
pub(super) fn survive(config: &Config, rewrite: Rewrite) -> bool {
    match rewrite {
        Rewrite::Scale(_) => !config.qk_norm || !config.lora_targets.qkv,
        Rewrite::HeadBias | Rewrite::Untie => !config.lora_targets.head,
        _ => false,
    }
}

/// The factor that rewriting puts on the queries.
pub(super) fn factor(config: &Config, rewrites: &[Rewrite]) -> f64 {
    if !rewrites.iter().any(|rewrite| matches!(rewrite, Rewrite::Scale(_))) {
        return 1.0;
    }
    let (head, all) = (config.head_size() as f64, config.n_embd as f64);
    let from_all = config.attention_scale == AttentionScale::NEmbd;
    (if from_all { head / all } else { all / head }).sqrt()
}

/// Whether number `at` of the linear layers makes queries, keys and values.
pub(super) fn is_qkv(at: usize, n_layer: usize) -> bool {
    at < 4 * n_layer && at.is_multiple_of(4)
}

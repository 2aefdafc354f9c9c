//! Turns the parameters of one model into those of another: adapters merged in, tokens added to the vocabulary.

use super::{Layout, Param, of_tokens};
use crate::{config::Config, error::Result};

/// Merges the adapters into the model given by `config` and `p`. Returns its new configuration and its weights, with
/// `W + scale B A` in place of each W that has an adapter. A tied `lm_head` with an adapter gets a weight of its own.
///
/// # Errors
/// If the configuration describes no model.
///
/// # Panics
/// If `p` is not as long as the layout of `config`.
pub fn merge(config: &Config, mut p: Vec<f32>) -> Result<(Config, Vec<f32>)> {
    let adapted = Layout::new(config)?;
    assert_eq!(p.len(), adapted.len());
    let mut config = Config {
        lora_rank: 0,
        freeze: Vec::new(),
        modules_to_save: Vec::new(),
        new_tokens: 0,
        tie_weights: config.tie_weights && adapted.lm_head.lora.is_none(),
        ..config.clone()
    };
    let layout = Layout::new(&config)?;
    config.param_groups.retain(|group| layout.tensors.iter().any(|tensor| group.names(&tensor.name)));
    let adapters = p.split_off(adapted.base_len);
    // The model is the beginning of the buffer. Only a head that was tied is new, and what follows it moves to the end.
    p.reserve_exact(layout.len() - p.len());
    p.resize(layout.len(), 0.0);
    for tensor in layout.tensors.iter().rev() {
        let from = adapted.tensors.iter().find(|from| from.name == tensor.name);
        let from = from.map_or(adapted.lm_head.w.span, |from| from.span);
        if from != tensor.span {
            p.copy_within(from.range(), tensor.span.start);
        }
    }
    for (w, from) in layout.linears().iter().zip(adapted.linears()) {
        let Some(lora) = from.lora else { continue };
        let of = |param: Param| &adapters[param.start - adapted.base_len..][..param.len];
        let (a, b) = (of(lora.a), of(lora.b));
        for (row, b) in p[w.w.range()].chunks_exact_mut(w.i).zip(b.chunks_exact(lora.r)) {
            for (i, weight) in row.iter_mut().enumerate() {
                let column = a[i..].iter().step_by(w.i);
                let product: f64 = b.iter().zip(column).map(|(&b, &a)| f64::from(b) * f64::from(a)).sum();
                *weight = (f64::from(*weight) + lora.scale * product) as f32;
            }
        }
    }
    Ok((config, p))
}

/// Extends the model given by `config` and `p` to a vocabulary of `vocab_size` tokens, of which only the first `known`
/// have a meaning so far. The rows of embedding and head for the other tokens become the mean of the known rows (Hewitt
/// 2021), so that no new token is likelier than an average one. Everything else stays the same, bit for bit.
///
/// # Errors
/// If the configuration describes no model.
///
/// # Panics
/// If `p` is not as long as the layout of `config`, or the vocabulary gets smaller.
pub fn add_tokens(config: &Config, p: &[f32], known: usize, vocab_size: usize) -> Result<(Config, Vec<f32>)> {
    assert!(vocab_size >= config.vocab_size && known <= config.vocab_size);
    let new_config = Config { vocab_size, ..config.clone() };
    let (old, new) = (Layout::new(config)?, Layout::new(&new_config)?);
    assert_eq!(p.len(), old.len());
    let mut extended = vec![0.0; new.len()];
    for (from, to) in old.tensors.iter().zip(&new.tensors) {
        let c = from.span.len / from.shape[0];
        let rows = if of_tokens(&from.name) && known < vocab_size { known } else { from.shape[0] };
        let from = &p[from.span.range()][..rows * c];
        let (same, added) = extended[to.span.range()].split_at_mut(from.len());
        same.copy_from_slice(from);
        for row in added.chunks_exact_mut(c) {
            for (i, x) in row.iter_mut().enumerate() {
                let column = from[i..].iter().step_by(c);
                *x = (column.map(|&x| f64::from(x)).sum::<f64>() / rows as f64) as f32;
            }
        }
    }
    Ok((new_config, extended))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_words_leave_the_old_rows_as_they_are() {
        for tied in ["tie_weights=false", "tie_weights=true"] {
            let mut config = Config { vocab_size: 5, n_embd: 8, n_layer: 1, ..Config::default() };
            ["bias=[\"head\"]", tied].iter().for_each(|setting| config.set(setting).unwrap());
            let old = Layout::new(&config).unwrap();
            let p = old.init(3);
            let (config, extended) = add_tokens(&config, &p, 5, 7).unwrap();
            let new = Layout::new(&config).unwrap();
            assert_eq!(config.vocab_size, 7);
            for (from, to) in old.tensors.iter().zip(&new.tensors) {
                let (before, after) = (&p[from.span.range()], &extended[to.span.range()]);
                assert_eq!(after[..before.len()], *before, "{}", from.name);
                let words = from.name.contains("wte") || from.name.starts_with("lm_head");
                assert_eq!(after.len() > before.len(), words, "{}", from.name);
            }
            let bias = new.tensors.iter().find(|tensor| tensor.name == "lm_head.bias").unwrap();
            let values = &extended[bias.span.range()];
            let mean = values[..5].iter().sum::<f32>() / 5.0;
            assert!(values[5..].iter().all(|x| (x - mean).abs() < 1e-6));
        }
    }
}

//! Rewrites: the same model in another shape, so that a program that has no place for one shape can have the other.
//!
//! Each is a kinglet model before and after, so what it changes can be measured ([`super::chain::Probabilities::difference`]). All
//! arithmetic is in f64, and its results are rounded to f32 once.

use super::portable::Portable;
use crate::text::tokenizer::{END_OF_TEXT, Tokenizer};
use kinglet_core::{
    config::{Activation, AttentionScale, Config, NormKind},
    error::{Error, Result},
    params::{Layout, Linear, Norm, Span},
    rng::{Purpose, Rng},
};
use serde_json::{Value, json};
use std::{cmp::Reverse, fmt};

/// What stands for the end of the block in a model that has an end-of-text token already. llama.cpp knows by its name
/// that a text ends there.
pub const END_OF_BLOCK: &str = "<|eot_id|>";

/// How far the logit of the end of the block leads behind the block.
const LEAD: f64 = 1e4;
/// How steeply that token's logit falls where the last norm's output is less like its direction.
const STEEP: f64 = 4.0;

/// One step from a model to the same model in another shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rewrite {
    /// [`scale`]
    Scale(AttentionScale),
    /// [`untie`]
    Untie,
    /// [`repeat_keys`]
    RepeatKeys,
    /// [`epsilon`]
    Epsilon(f64),
    /// [`centre`]
    Centre,
    /// [`relu_as`], with the factor on its input
    ReluAs(Activation, f64),
    /// [`gelu_as`]
    GeluAs(Activation),
    /// [`proj_bias`]
    ProjBias,
    /// [`mlp_bias`]
    MlpBias,
    /// [`qkv_bias`]
    QkvBias,
    /// [`head_bias`]
    HeadBias,
    /// [`pad`] to so many hidden units
    Pad(usize),
    /// [`end_of_block`] up to so many positions
    EndOfBlock(usize),
    /// [`end_of_text`]
    EndOfText,
}

impl Rewrite {
    /// The rewritten model.
    ///
    /// # Errors
    /// If its weights do not allow it.
    pub fn apply(self, model: Portable) -> Result<Portable> {
        Ok(match self {
            Rewrite::Scale(to) => scale(model, to),
            Rewrite::Untie => untie(model),
            Rewrite::RepeatKeys => repeat_keys(model),
            Rewrite::Epsilon(eps) => epsilon(model, eps),
            Rewrite::Centre => centre(model),
            Rewrite::ReluAs(activation, k) => relu_as(model, activation, k),
            Rewrite::GeluAs(activation) => gelu_as(model, activation),
            Rewrite::ProjBias => proj_bias(model)?,
            Rewrite::MlpBias => mlp_bias(model),
            Rewrite::QkvBias => qkv_bias(model),
            Rewrite::HeadBias => head_bias(model),
            Rewrite::Pad(n) => pad(model, n),
            Rewrite::EndOfBlock(positions) => end_of_block(model, positions)?,
            Rewrite::EndOfText => end_of_text(model)?,
        })
    }

    /// What it does to the configuration.
    pub fn configure(self, config: &mut Config) {
        match self {
            Rewrite::Scale(to) => config.attention_scale = to,
            Rewrite::Untie => config.tie_weights = false,
            Rewrite::RepeatKeys => config.n_kv_head = 0,
            Rewrite::Epsilon(eps) => config.norm_eps = eps,
            Rewrite::Centre => {
                if config.bias.norm {
                    (config.bias.qkv, config.bias.mlp, config.bias.head) = (true, true, true);
                }
                (config.norm, config.bias.norm) = (NormKind::RmsNorm, false);
            }
            Rewrite::ReluAs(Activation::Swiglu, _) => {
                config.n_inner = config.mlp_size();
                (config.activation, config.bias.mlp) = (Activation::Swiglu, true);
            }
            Rewrite::ReluAs(activation, _) | Rewrite::GeluAs(activation) => config.activation = activation,
            Rewrite::ProjBias => (config.bias.proj, config.bias.qkv) = (false, true),
            Rewrite::MlpBias => {
                config.n_inner = (config.mlp_size() + 1).next_multiple_of(32);
                (config.bias.mlp, config.bias.norm) = (false, true);
            }
            Rewrite::QkvBias => (config.bias.qkv, config.bias.norm) = (false, true),
            Rewrite::HeadBias => (config.bias.head, config.bias.norm) = (false, true),
            Rewrite::Pad(n) => config.n_inner = n,
            Rewrite::EndOfBlock(positions) => {
                (config.block_size, config.bias.norm) = (positions, true);
                config.vocab_size += 1;
            }
            Rewrite::EndOfText => {
                config.bias.norm = true;
                config.vocab_size += 1;
            }
        }
    }

    /// Whether it is the same function but for the rounding of numbers.
    pub fn is_exact(self) -> bool {
        !matches!(self, Rewrite::GeluAs(_))
    }
}

impl fmt::Display for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rewrite::Scale(to) => {
                let to = if *to == AttentionScale::NEmbd { "n_embd" } else { "head_size" };
                write!(f, "attention's scale ({to} there): into the queries")
            }
            Rewrite::Untie => write!(f, "tied weights: the head gets a copy of the token embedding"),
            Rewrite::RepeatKeys => write!(f, "shared keys and values: each head gets a copy of its own"),
            Rewrite::Epsilon(eps) => write!(f, "norm_eps ({eps:e} there): the residual stream is scaled"),
            Rewrite::Centre => {
                write!(f, "LayerNorm as RMSNorm: whatever enters the residual stream gets a mean of zero")
            }
            Rewrite::ReluAs(Activation::Swiglu, k) => write!(f, "ReLU as SwiGLU: silu({k} x) / {k}, times 1"),
            Rewrite::ReluAs(_, k) => write!(f, "ReLU as GELU: gelu({k} x) / {k}"),
            Rewrite::GeluAs(_) => write!(f, "the other formula of GELU, which is an approximation"),
            Rewrite::ProjBias => write!(f, "bias of attention's projection: into the values' bias"),
            Rewrite::MlpBias => {
                write!(f, "biases of the MLP: into its weights, and into a hidden unit that is constant")
            }
            Rewrite::QkvBias => write!(f, "bias of queries, keys and values: into their weights"),
            Rewrite::HeadBias => write!(f, "bias of the head: into its weights"),
            Rewrite::Pad(n) => write!(f, "hidden units: padded with zeros to {n}"),
            Rewrite::EndOfBlock(n) => write!(f, "positions past the block, up to {n}: a text that gets there ends"),
            Rewrite::EndOfText => write!(f, "end of text: a token of that name, which is never drawn"),
        }
    }
}

/// Numbers that are moved at a time.
const PIECE: usize = 1 << 20;

/// The part of a buffer that has to be unused before its memory is given back. An allocator that cannot give back an end
/// copies what is left, which it may have to do so often.
const UNUSED: usize = 16;

/// The model with another configuration. Tensors keep their numbers; a larger one has them at its beginning, then zeros.
/// `fill` gets the name of each tensor, how many numbers it had before, and its numbers.
///
/// The model never stands in memory twice. Zeros take no memory until they are written, and numbers are taken from the end
/// of the old buffer, which becomes shorter by them.
fn reshaped(model: Portable, configure: impl FnOnce(&mut Config), fill: impl Fn(&str, usize, &mut [f32])) -> Portable {
    let old = model.layout();
    let Portable { mut config, weights: mut before, rounded, tokenizer } = model;
    configure(&mut config);
    let new = Layout::new(&config).expect("a rewrite ends in a model");
    let mut weights = vec![0.0; new.len()];
    let source = |name: &str| old.tensors.iter().find(|from| from.name == name).map(|from| from.span);
    let mut tensors: Vec<_> = new.tensors.iter().map(|tensor| (source(&tensor.name), tensor)).collect();
    tensors.sort_by_key(|(from, _)| Reverse(from.map_or(0, |from| from.start)));
    for (from, tensor) in tensors {
        let numbers = &mut weights[tensor.span.range()];
        if let Some(from) = from {
            assert!(from.len <= numbers.len(), "a rewrite makes no tensor smaller");
            before.truncate(from.start + from.len);
            take_end(&mut before, &mut numbers[..from.len]);
        }
        fill(&tensor.name, from.map_or(0, |from| from.len), numbers);
    }
    Portable { config, weights, rounded, tokenizer }
}

/// Moves the last numbers of a buffer to `to`.
fn take_end(from: &mut Vec<f32>, to: &mut [f32]) {
    for piece in to.rchunks_mut(PIECE) {
        let rest = from.len() - piece.len();
        piece.copy_from_slice(&from[rest..]);
        from.truncate(rest);
        if from.capacity() - rest >= from.capacity() / UNUSED {
            from.shrink_to_fit();
        }
    }
}

/// Leaves the numbers as they are.
fn same(_: &str, _: usize, _: &mut [f32]) {}

/// The numbers that a tensor had before; zeros are left.
fn taken(known: usize, numbers: &mut [f32]) -> Vec<f32> {
    let before = numbers[..known].to_vec();
    numbers.fill(0.0);
    before
}

/// Multiplies numbers in place.
fn multiply(x: &mut [f32], factor: f64) {
    x.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
}

/// R1. Scores are `q k / sqrt(d)`. With another `d'` they stay what they are if queries (or, where they are normalized, the
/// weight of their norm) are multiplied by `sqrt(d' / d)`. Exact where that is a power of two, else rounded once.
pub fn scale(mut model: Portable, to: AttentionScale) -> Portable {
    let size = |config: &Config| match config.attention_scale {
        AttentionScale::HeadSize => config.head_size(),
        AttentionScale::NEmbd => config.n_embd,
    };
    let before = size(&model.config);
    Rewrite::Scale(to).configure(&mut model.config);
    let factor = (size(&model.config) as f64 / before as f64).sqrt();
    let layout = model.layout();
    let rows = layout.qkv_rows()[0].len();
    for block in &layout.h {
        if let Some((q, _)) = block.qk.and_then(|qk| qk.norm) {
            multiply(&mut model.weights[q.range()], factor);
            continue;
        }
        multiply(&mut model.weights[block.c_attn.w.range()][..rows * block.c_attn.i], factor);
        if let Some(b) = block.c_attn.b {
            multiply(&mut model.weights[b.range()][..rows], factor);
        }
    }
    model
}

/// R10. The head gets the token embedding as a weight of its own. Exact.
pub fn untie(model: Portable) -> Portable {
    let mut model = reshaped(model, |config| Rewrite::Untie.configure(config), same);
    let layout = model.layout();
    model.weights.copy_within(layout.embedding.wte.range(), layout.lm_head.w.start);
    model
}

/// A key or value that several heads share becomes one of each: `n_head / n_kv_head` copies of its rows. Exact.
pub fn repeat_keys(model: Portable) -> Portable {
    let (heads, shared) = (model.config.n_head, model.config.kv_heads());
    let queries = model.config.attention_size();
    reshaped(
        model,
        |config| Rewrite::RepeatKeys.configure(config),
        |name, known, to| {
            if !name.contains("c_attn") {
                return;
            }
            let from = taken(known, to);
            // Of the new tensor a third is queries, of a matrix or of a bias.
            let cols = to.len() / (3 * queries);
            let size = queries / heads * cols;
            let (q, kv) = from.split_at(queries * cols);
            to[..q.len()].copy_from_slice(q);
            for (head, to) in to[q.len()..].chunks_exact_mut(size).enumerate() {
                let (part, head) = (head / heads, head % heads);
                to.copy_from_slice(&kv[(part * shared + head / (heads / shared)) * size..][..size]);
            }
        },
    )
}

/// What is written to the residual stream: the embeddings, rows of channels, and the projections, columns of channels, with
/// their biases.
fn residual(layout: &Layout) -> (Vec<Span>, Vec<Linear>) {
    let rows = [Some(layout.embedding.wte), layout.embedding.wpe].into_iter().flatten().map(|param| param.span);
    let projections = layout.h.iter().flat_map(|block| [block.attn_proj, block.mlp_proj]);
    (rows.collect(), projections.collect())
}

/// A norm with `eps` of `x` is the norm with `s^2 eps` of `s x`. So all that is written to the residual stream is multiplied
/// by `s = sqrt(eps' / eps)`. For untied weights; rounded once.
pub fn epsilon(mut model: Portable, eps: f64) -> Portable {
    let factor = (eps / model.config.norm_eps).sqrt();
    Rewrite::Epsilon(eps).configure(&mut model.config);
    let (embeddings, projections) = residual(&model.layout());
    let spans = projections.iter().flat_map(|linear| [Some(linear.w.span), linear.b.map(|b| b.span)]);
    for span in embeddings.into_iter().chain(spans.flatten()) {
        multiply(&mut model.weights[span.range()], factor);
    }
    model
}

/// R8. LayerNorm of `x` is RMSNorm of `x` less its mean. So everything that is written to the residual stream gets a mean of
/// zero, which takes nothing from what LayerNorm reads. A norm's bias `b` becomes `W b` in the layer that follows. For untied
/// weights; rounded once.
pub fn centre(model: Portable) -> Portable {
    let old = model.layout();
    let biases: Vec<Option<Vec<f64>>> = norms(&old)
        .map(|(norm, linear)| norm.b.map(|b| product(&model.weights, linear, &doubles(&model.weights, b.span))))
        .collect();
    let mut model = reshaped(model, |config| Rewrite::Centre.configure(config), same);
    let layout = model.layout();
    for ((_, linear), add) in norms(&layout).zip(biases) {
        if let (Some(b), Some(add)) = (linear.b, add) {
            let b = &mut model.weights[b.range()];
            b.iter_mut().zip(add).for_each(|(b, add)| *b = (f64::from(*b) + add) as f32);
        }
    }
    let (embeddings, projections) = residual(&layout);
    let c = layout.embedding.c;
    for span in embeddings.into_iter().chain(projections.iter().filter_map(|linear| linear.b).map(|b| b.span)) {
        model.weights[span.range()].chunks_exact_mut(c).for_each(|row| take_mean(row, 1));
    }
    for linear in projections {
        let weight = &mut model.weights[linear.w.range()];
        (0..linear.i).for_each(|i| take_mean(&mut weight[i..], linear.i));
    }
    model
}

/// Takes the mean of every `stride`th number from them.
fn take_mean(x: &mut [f32], stride: usize) {
    let n = x.len().div_ceil(stride) as f64;
    let mean = x.iter().step_by(stride).map(|&x| f64::from(x)).sum::<f64>() / n;
    x.iter_mut().step_by(stride).for_each(|x| *x = (f64::from(*x) - mean) as f32);
}

/// Each norm of the residual stream with the layer that reads it.
fn norms(layout: &Layout) -> impl Iterator<Item = (Norm, Linear)> + '_ {
    let blocks = layout.h.iter().flat_map(|block| [(block.ln_1, block.c_attn), (block.ln_2, block.c_fc)]);
    blocks.chain([(layout.ln_f, layout.lm_head)])
}

fn doubles(weights: &[f32], span: Span) -> Vec<f64> {
    weights[span.range()].iter().map(|&x| f64::from(x)).collect()
}

fn dot(a: &[f32], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(&a, b)| f64::from(a) * b).sum()
}

/// `W x`
fn product(weights: &[f32], linear: Linear, x: &[f64]) -> Vec<f64> {
    weights[linear.w.range()].chunks_exact(linear.i).map(|row| dot(row, x)).collect()
}

/// R7. `relu(x)` is `gelu(k x) / k` but for 0.17 / k, and `silu(k x) / k` times an `up` of 1 but for 0.28 / k. With k a power
/// of two, multiplying `c_fc` by k and dividing `c_proj` by it rounds nothing.
pub fn relu_as(model: Portable, activation: Activation, k: f64) -> Portable {
    let mut model = reshaped(
        model,
        |config| Rewrite::ReluAs(activation, k).configure(config),
        |name, _, to| {
            if activation == Activation::Swiglu && name.ends_with("c_fc.bias") {
                let half = to.len() / 2;
                to[half..].fill(1.0);
            }
        },
    );
    let layout = model.layout();
    let gates = model.config.mlp_size();
    for block in &layout.h {
        multiply(&mut model.weights[block.c_fc.w.range()][..gates * block.c_fc.i], k);
        if let Some(b) = block.c_fc.b {
            multiply(&mut model.weights[b.range()][..gates], k);
        }
        multiply(&mut model.weights[block.mlp_proj.w.range()], 1.0 / k);
    }
    model
}

/// The error function's GELU and tanh's differ by up to 5e-4, and no weights make up for it: an approximation.
pub fn gelu_as(mut model: Portable, activation: Activation) -> Portable {
    Rewrite::GeluAs(activation).configure(&mut model.config);
    model
}

/// R5. Attention's weights sum to one, so a bias `z` of the values is added to what attention returns, and `W z = b` makes it
/// the projection's bias b. As good as W's condition is; for heads that share no values, as wide together as the model.
///
/// # Errors
/// If W cannot be inverted.
pub fn proj_bias(model: Portable) -> Result<Portable> {
    let old = model.layout();
    let mut added = Vec::new();
    for (l, block) in old.h.iter().enumerate() {
        let Linear { w, b, i, .. } = block.attn_proj;
        let b = doubles(&model.weights, b.expect("there is a bias").span);
        let z = solve(doubles(&model.weights, w.span), b, i);
        let z = z.ok_or_else(|| {
            Error::Data(format!(
                "the bias of transformer.h.{l}.attn.c_proj has no place, since its weight has no inverse"
            ))
        })?;
        added.push(z);
    }
    let mut model = reshaped(model, |config| Rewrite::ProjBias.configure(config), same);
    let layout = model.layout();
    let values = layout.qkv_rows()[2].clone();
    for (block, z) in layout.h.iter().zip(added) {
        let bias = &mut model.weights[block.c_attn.b.expect("it was added").range()][values.clone()];
        bias.iter_mut().zip(z).for_each(|(b, z)| *b = (f64::from(*b) + z) as f32);
    }
    Ok(model)
}

/// The solution of `a x = b` with a square matrix, by elimination with the largest pivots of columns.
fn solve(mut a: Vec<f64>, mut b: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    for i in 0..n {
        let pivot = (i..n).max_by(|&j, &k| a[j * n + i].abs().total_cmp(&a[k * n + i].abs()))?;
        if a[pivot * n + i] == 0.0 {
            return None;
        }
        if pivot != i {
            let (upper, lower) = a.split_at_mut(pivot * n);
            upper[i * n..(i + 1) * n].swap_with_slice(&mut lower[..n]);
            b.swap(i, pivot);
        }
        let (upper, lower) = a.split_at_mut((i + 1) * n);
        let top = &upper[i * n..];
        for (j, row) in lower.chunks_exact_mut(n).enumerate() {
            let factor = row[i] / top[i];
            row[i..].iter_mut().zip(&top[i..]).for_each(|(x, top)| *x -= factor * top);
            b[i + 1 + j] -= factor * b[i];
        }
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| a[i * n + j] * b[j]).sum();
        b[i] = (b[i] - known) / a[i * n + i];
    }
    b.iter().all(|x| x.is_finite()).then_some(b)
}

/// What LayerNorm's output is constant along: `r y = kappa`, whatever it read.
struct Constant {
    r: Vec<f64>,
    kappa: f64,
}

/// Gives what follows a norm a constant, and takes the bias of the layer that follows into its weights. The layer's bias, if it
/// has one, is zero then.
///
/// `y = g z + b` where z sums to zero. With `r = 1 / g` therefore `r y = sum(b / g)`, a constant, which a shift of b by `t g` changes by
/// `t n`. The layer computes `W y + c = W y' + (c - W t g)` from the shifted `y'`, so with `u = (c - W t g) / kappa` it is
/// `(W + u r^T) y'`. A channel with `g = 0` is a constant by itself.
fn fold(weights: &mut [f32], norm: Norm, linear: Linear) -> Constant {
    let g = doubles(weights, norm.w.span);
    let b = doubles(weights, norm.b.expect("zeros were added").span);
    let (shift, constant) = match g.iter().position(|&g| g == 0.0) {
        Some(i) => {
            let unit = |x: f64| (0..g.len()).map(|j| if i == j { x } else { 0.0 }).collect::<Vec<_>>();
            (unit(1.0 - b[i]), Constant { r: unit(1.0), kappa: 1.0 })
        }
        None => {
            let kappa: f64 = b.iter().zip(&g).map(|(b, g)| b / g).sum();
            let t = if kappa < 0.0 { -1.0 } else { 1.0 };
            let r = g.iter().map(|g| 1.0 / g).collect();
            (g.iter().map(|g| t * g).collect(), Constant { r, kappa: kappa + t * g.len() as f64 })
        }
    };
    let shifted = b.iter().zip(&shift).map(|(b, s)| (b + s) as f32);
    let bias = norm.b.expect("zeros were added");
    weights[bias.range()].iter_mut().zip(shifted).for_each(|(to, from)| *to = from);
    // What rounding did to the bias belongs to the shift, and to the constant.
    let rounded = doubles(weights, bias.span);
    let shift: Vec<f64> = rounded.iter().zip(&b).map(|(new, old)| new - old).collect();
    let kappa = if g.contains(&0.0) { 1.0 } else { rounded.iter().zip(&g).map(|(b, g)| b / g).sum() };
    let constant = Constant { kappa, ..constant };
    let moved = product(weights, linear, &shift);
    for (row, moved) in moved.into_iter().enumerate() {
        let c = linear.b.map_or(0.0, |b| f64::from(weights[b.start + row]));
        let u = (c - moved) / constant.kappa;
        let row = &mut weights[linear.w.start + row * linear.i..][..linear.i];
        row.iter_mut().zip(&constant.r).for_each(|(w, r)| *w = (f64::from(*w) + u * r) as f32);
    }
    if let Some(b) = linear.b {
        weights[b.range()].fill(0.0);
    }
    constant
}

/// The model with a bias in each norm, zero where there was none: what `fold` needs.
fn with_norm_bias(model: Portable) -> Portable {
    if model.config.bias.norm {
        return model;
    }
    reshaped(model, |config| config.bias.norm = true, same)
}

/// R4. The bias of queries, keys and values goes into their weights along the direction in which LayerNorm's output is
/// constant: see `fold`. Rounded once.
pub fn qkv_bias(model: Portable) -> Portable {
    let mut model = with_norm_bias(model);
    let blocks = model.layout().h;
    blocks.iter().for_each(|block| _ = fold(&mut model.weights, block.ln_1, block.c_attn));
    reshaped(model, |config| Rewrite::QkvBias.configure(config), same)
}

/// R3. The head's bias goes into its weight along the direction in which LayerNorm's output is constant, whatever the size of
/// the vocabulary: see `fold`. For untied weights; rounded once.
pub fn head_bias(model: Portable) -> Portable {
    let mut model = with_norm_bias(model);
    let layout = model.layout();
    fold(&mut model.weights, layout.ln_f, layout.lm_head);
    reshaped(model, |config| Rewrite::HeadBias.configure(config), same)
}

/// R6. Of SwiGLU's MLP, the bias of `c_fc` goes into its weights as in `fold`. One more hidden unit is constant: its gate is
/// the constant 4 and its up is 1, so its column of `c_proj` is that layer's bias over `silu(4)`. Rounded once.
pub fn mlp_bias(model: Portable) -> Portable {
    const GATE: f64 = 4.0;
    let mut model = with_norm_bias(model);
    let old = model.layout();
    let unit = model.config.mlp_size();
    let folded = old.h.iter().map(|block| {
        let constant = fold(&mut model.weights, block.ln_2, block.c_fc);
        let bias = doubles(&model.weights, block.mlp_proj.b.expect("there is a bias").span);
        (constant, bias)
    });
    let folded: Vec<_> = folded.collect();
    let mut model = resized(model, Rewrite::MlpBias);
    let (layout, hidden) = (model.layout(), model.config.mlp_size());
    let silu = GATE / (1.0 + (-GATE).exp());
    for (block, (Constant { r, kappa }, bias)) in layout.h.iter().zip(folded) {
        let c_fc = &mut model.weights[block.c_fc.w.range()];
        for (row, value) in [(unit, GATE), (hidden + unit, 1.0)] {
            let row = &mut c_fc[row * r.len()..][..r.len()];
            row.iter_mut().zip(&r).for_each(|(w, r)| *w = (value / kappa * r) as f32);
        }
        let c_proj = &mut model.weights[block.mlp_proj.w.range()];
        for (row, b) in c_proj.chunks_exact_mut(hidden).zip(bias) {
            row[unit] = (b / silu) as f32;
        }
    }
    model
}

/// R9. Hidden units of zeros: no activation function makes anything of them, and their columns are zero. Exact.
pub fn pad(model: Portable, n: usize) -> Portable {
    resized(model, Rewrite::Pad(n))
}

/// The model with more hidden units, all of zeros.
fn resized(model: Portable, rewrite: Rewrite) -> Portable {
    let parts = if model.config.activation == Activation::Swiglu { 2 } else { 1 };
    let (old, c) = (model.config.mlp_size(), model.config.n_embd);
    reshaped(
        model,
        |config| rewrite.configure(config),
        |name, known, to| {
            if known > 0 && name.contains("mlp.c_fc") {
                let from = taken(known, to);
                let (from_part, to_part) = (known / parts, to.len() / parts);
                for (from, to) in from.chunks_exact(from_part).zip(to.chunks_exact_mut(to_part)) {
                    to[..from_part].copy_from_slice(from);
                }
            } else if name.ends_with("mlp.c_proj.weight") {
                let (from, width) = (taken(known, to), to.len() / c);
                from.chunks_exact(old)
                    .zip(to.chunks_exact_mut(width))
                    .for_each(|(from, to)| to[..old].copy_from_slice(from));
            }
        },
    )
}

/// R11. A program that goes past the learned positions gets rows there that make it end the text. These rows are a large
/// multiple of a v whose mean is zero, so LayerNorm makes v of them whatever else is there. A token that nothing else uses
/// has the row `(4 L / n) v / g`, and along `fold`'s direction what makes its logit `L (4 v z / n - 3)`: L behind the
/// block, where z is v, and about -3 L within it, where no z is like v (it would lead where their cosine is above 3/4).
/// It is the end-of-text token if the tokenizer has none, else one of its own. Exact within the block; for untied weights
/// without a bias of the head.
///
/// # Errors
/// If the tokenizer cannot have another token.
pub fn end_of_block(model: Portable, positions: usize) -> Result<Portable> {
    with_ending(model, Rewrite::EndOfBlock(positions))
}

/// The token of [`end_of_block`] alone, whose logit is about -3 L for every text. For untied weights without a bias of the head.
///
/// # Errors
/// As [`end_of_block`].
pub fn end_of_text(model: Portable) -> Result<Portable> {
    with_ending(model, Rewrite::EndOfText)
}

fn with_ending(model: Portable, rewrite: Rewrite) -> Result<Portable> {
    let mut model = with_norm_bias(model);
    let (end, n) = (model.config.vocab_size, model.config.n_embd);
    let layout = model.layout();
    let constant = fold(&mut model.weights, layout.ln_f, layout.lm_head);
    let (g, b) =
        (doubles(&model.weights, layout.ln_f.w.span), doubles(&model.weights, layout.ln_f.b.expect("added").span));
    let v = unlike(&g);
    let read: Vec<f64> =
        v.iter().zip(&g).map(|(v, g)| if *g == 0.0 { 0.0 } else { STEEP * LEAD / n as f64 * v / g }).collect();
    let always = read.iter().zip(&b).map(|(r, b)| r * b).sum::<f64>() + (STEEP - 1.0) * LEAD;
    let row = read.iter().zip(&constant.r).map(|(x, r)| (x - always / constant.kappa * r) as f32);
    let row: Vec<f32> = row.collect();
    let config = &model.config;
    let tokenizer = with_end(&model.tokenizer, end)?.with_ends(&config.bos_token, &config.eos_token)?;
    let mut model = reshaped(
        model,
        |config| rewrite.configure(config),
        |name, known, to| {
            if name.ends_with("wpe.weight") {
                let rows = to[known..].chunks_exact_mut(n);
                rows.for_each(|to| to.iter_mut().zip(&v).for_each(|(x, v)| *x = (LEAD * v) as f32));
            } else if name == "lm_head.weight" {
                to[known..].copy_from_slice(&row);
            }
        },
    );
    model.tokenizer = tokenizer;
    Ok(model)
}

/// A direction that nothing else has: random signs where a norm's weight is not zero, of mean zero, as long as what LayerNorm
/// returns.
fn unlike(g: &[f64]) -> Vec<f64> {
    let mut rng = Rng::new(0, Purpose::Init, 0, 0);
    let used = g.iter().filter(|g| **g != 0.0).count() as f64;
    let mut v: Vec<f64> = g.iter().map(|&g| if g == 0.0 { 0.0 } else { 2.0 * rng.below(2) as f64 - 1.0 }).collect();
    let mean = v.iter().sum::<f64>() / used;
    v.iter_mut().zip(g).filter(|(_, g)| **g != 0.0).for_each(|(v, _)| *v -= mean);
    let length = v.iter().map(|v| v * v).sum::<f64>().sqrt();
    v.iter_mut().for_each(|v| *v *= (g.len() as f64).sqrt() / length);
    v
}

/// The tokenizer with an end-of-text token of this id, if it has none. If it has one, the model's new token is known by its
/// name ([`END_OF_BLOCK`]) only where it is written.
fn with_end(tokenizer: &Tokenizer, id: usize) -> Result<Tokenizer> {
    if tokenizer.end_of_text().is_some() {
        return Ok(tokenizer.clone());
    }
    if tokenizer.chars().is_some() && tokenizer.vocab_size() == id {
        return Ok(tokenizer.extended([], true));
    }
    let mut json: Value = serde_json::from_str(tokenizer.to_json()).expect("it was read or written as JSON");
    let token = json!({
        "id": id, "content": END_OF_TEXT, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true,
    });
    match json["added_tokens"].as_array_mut() {
        Some(tokens) => tokens.push(token),
        None => json["added_tokens"] = json!([token]),
    }
    Tokenizer::from_json(&json.to_string())
}

#[cfg(test)]
mod tests;

//! The layout of the parameters: one table of names and shapes over one flat buffer.
//!
//! Parameters, gradients and both moments of the optimizer are four buffers with this layout, so the optimizer, the
//! reduction over shards, clipping and the checkpoint are each one loop. These loops visit only the trainable
//! parameters: the gradients and moments of the others are zero pages that are never written, so they use no physical
//! memory. Adapters come after everything else, so that the model they belong to is the beginning of the buffer.

pub mod edit;

use crate::{
    config::{Activation, Config, Decay, Init, NormKind, OptimizerKind, ParamGroup, Position},
    error::{Error, Result},
    rng::{Dropout, DropoutKey, Purpose, Rng},
    threads::for_each,
};
use kinglet_kernels::optimizer::{muon_multiply_adds, muon_scratch};
use rayon::prelude::*;
use std::ops::{Deref, Range};

/// A piece of a flat buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of the first element.
    pub start: usize,
    /// Number of elements.
    pub len: usize,
}

impl Span {
    /// The indices of the piece.
    pub fn range(self) -> Range<usize> {
        self.start..self.start + self.len
    }

    /// The part of this piece that is also in another one, if there is any.
    pub fn within(self, other: Span) -> Option<Span> {
        let (start, end) = (self.start.max(other.start), self.range().end.min(other.range().end));
        (start < end).then(|| Span { start, len: end - start })
    }
}

/// A parameter's place in the buffers, and whether it is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its place in the flat buffers.
    pub span: Span,
    /// Whether its gradient is computed.
    pub trainable: bool,
}

impl Param {
    /// Where its gradient goes: an empty range if it is not trained.
    pub fn gradient(self) -> Range<usize> {
        if self.trainable { self.range() } else { 0..0 }
    }
}

impl Deref for Param {
    type Target = Span;

    fn deref(&self) -> &Span {
        &self.span
    }
}

/// A named parameter.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// nanoGPT's name, such as `transformer.h.0.attn.c_attn.weight`.
    pub name: String,
    /// PyTorch's shape; a linear layer's weight is (out, in).
    pub shape: Vec<usize>,
    /// Its place in the flat buffers.
    pub span: Span,
    /// Whether it is trained.
    pub trainable: bool,
    /// The part of it that is trained, if any: all of it, or the rows of new tokens.
    pub trains: Span,
    /// Which settings it is updated with: an index into the configuration's `param_groups` or, one past the last, the
    /// configuration's own settings.
    pub group: usize,
    /// Whether Muon updates it; Muon has no second moment.
    pub muon: bool,
    distribution: Distribution,
}

#[derive(Clone, Copy, Debug)]
enum Distribution {
    Constant(f32),
    Uniform(f64),
    Normal(f64),
    /// Filters of so many taps that pass their input on: the last is 1, the others 0.
    Identity(usize),
}

/// A matrix that Muon updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Its place in the flat buffers.
    pub span: Span,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

impl Matrix {
    /// Multiply-adds of `steps` of the Newton-Schulz iteration.
    pub fn multiply_adds(&self, steps: usize) -> usize {
        muon_multiply_adds(self.rows, self.cols, steps)
    }

    /// Floats of scratch memory that its update needs.
    pub fn scratch(&self) -> usize {
        muon_scratch(self.rows, self.cols)
    }
}

/// Token and position embeddings, `c` channels each.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// Tokens (v, c).
    pub wte: Param,
    /// Positions (block_size, c), if they are learned.
    pub wpe: Option<Param>,
    /// Channels.
    pub c: usize,
}

/// `y (n, o) = x (n, i) W^T + b` with W (o, i), plus the adapter's output if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// Weight (o, i).
    pub w: Param,
    /// Bias (o).
    pub b: Option<Param>,
    /// Channels in.
    pub i: usize,
    /// Channels out.
    pub o: usize,
    /// Its adapter.
    pub lora: Option<Lora>,
}

impl Linear {
    /// Multiply-adds per row in the forward pass and in the backward pass, not counting what the backward pass
    /// recomputes.
    pub fn multiply_adds(&self) -> (usize, usize) {
        let adapter = self.lora.map_or(0, |lora| lora.r * (self.i + self.o));
        let gradient = if self.w.trainable { self.w.len } else { 0 };
        (self.w.len + adapter, self.w.len + gradient + 2 * adapter)
    }
}

/// A low-rank adapter (Hu et al. 2021) of a linear layer: `y += scale dropout(x) A^T B^T`.
#[derive(Clone, Copy, Debug)]
pub struct Lora {
    /// A (r, i).
    pub a: Param,
    /// B (o, r).
    pub b: Param,
    /// Rank.
    pub r: usize,
    /// The factor on its output.
    pub scale: f64,
    /// Dropout on its input.
    pub rate: f32,
    /// The site of that dropout in the network, see [`Dropout`].
    pub site: u64,
}

impl Lora {
    /// The dropout on its input.
    pub fn drop(&self, key: Option<DropoutKey>) -> Option<Dropout> {
        key.filter(|_| self.rate > 0.0).map(|key| Dropout { rate: self.rate, site: self.site, key })
    }
}

/// Dropout sites from here on belong to the adapters, those below to the model itself.
const LORA_SITES: u64 = 1 << 32;

/// LayerNorm's or RMSNorm's weight and bias, each (c).
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Weight (c).
    pub w: Param,
    /// Bias (c).
    pub b: Option<Param>,
    /// Which norm.
    pub kind: NormKind,
    /// What is added to the variance.
    pub eps: f64,
}

/// What is done to queries and keys before attention compares them.
#[derive(Clone, Copy, Debug)]
pub struct Qk {
    /// Weights (hs) of an RMSNorm of each query and of each key.
    pub norm: Option<(Param, Param)>,
    /// What that norm adds to the mean of the squares.
    pub eps: f64,
    /// Whether they are rotated by their position.
    pub rotary: bool,
}

/// A short causal convolution along a sequence, each channel by itself: [`kinglet_kernels::conv`].
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    /// Weights (c, 1, taps), as PyTorch's `Conv1d` with `groups = c` has them: the last tap is for the position itself.
    pub w: Param,
    /// Channels.
    pub c: usize,
    /// How many positions one sees, its own included.
    pub taps: usize,
    /// Where the last inputs `(taps - 1, c)` begin in what a cache keeps of the layer ([`crate::backend::KvCache::tail`]).
    pub tail: usize,
}

impl Conv {
    /// The part of [`crate::backend::KvCache::tail`] that is its own.
    pub fn kept(self) -> Range<usize> {
        self.tail..self.tail + (self.taps - 1) * self.c
    }
}

/// The parameters of one transformer block.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Convolution of the residual stream before everything else, if there is one.
    pub res_conv: Option<Conv>,
    /// Norm before attention.
    pub ln_1: Norm,
    /// Projection to query, key and value: (q + 2 kv, c), where q is c unless heads have a size of their own.
    pub c_attn: Linear,
    /// Convolution of queries, keys and values, if there is one.
    pub conv: Option<Conv>,
    /// What is done to queries and keys, if anything.
    pub qk: Option<Qk>,
    /// Attention's output projection: (c, q).
    pub attn_proj: Linear,
    /// Norm before the MLP.
    pub ln_2: Norm,
    /// First layer of the MLP: (4c, c), or (n_inner, c); with SwiGLU twice that, gate first.
    pub c_fc: Linear,
    /// Second layer of the MLP: (c, 4c), or (c, n_inner).
    pub mlp_proj: Linear,
}

/// Every parameter of a model and its place.
#[derive(Clone, Debug)]
pub struct Layout {
    /// All parameters, in the order of the flat buffer.
    pub tensors: Vec<Tensor>,
    /// Token and position embeddings.
    pub embedding: Embedding,
    /// The transformer blocks.
    pub h: Vec<Block>,
    /// The last norm.
    pub ln_f: Norm,
    /// Projection to the logits: (v, c); its weight is `wte` if weights are tied.
    pub lm_head: Linear,
    /// The trainable pieces of the buffer, in order.
    pub trainable: Vec<Span>,
    /// Number of parameters that do not belong to adapters.
    pub base_len: usize,
}

impl Layout {
    /// The layout of the model that `config` describes.
    ///
    /// # Errors
    /// If `vocab_size` is still 0 or the configuration does not pass [`Config::check`].
    pub fn new(config: &Config) -> Result<Layout> {
        config.check()?;
        if config.vocab_size == 0 {
            let (key, value) = ("vocab_size".to_owned(), "0".to_owned());
            return Err(Error::Config { key, value, allowed: "known before a model is made".to_owned() });
        }
        let (c, v, bias) = (config.n_embd, config.vocab_size, config.bias);
        let optimizers = config.groups()?.iter().map(|group| group.optimizer).collect();
        let mut b = Builder { config, optimizers, tensors: Vec::new() };
        // GPT-2 scales the projections into the residual stream by 1/sqrt(2 n_layer), so that its variance at the end
        // does not grow with depth.
        let residual = 1.0 / (2.0 * config.n_layer as f64).sqrt();
        let inner = config.mlp_size();
        let c_fc = if config.activation == Activation::Swiglu { 2 * inner } else { inner };
        let wte = b.embedding("transformer.wte.weight", v, c);
        let learned = config.position == Position::Learned;
        let wpe = learned.then(|| b.embedding("transformer.wpe.weight", config.block_size, c));
        let q = config.attention_size();
        let qkv = q + 2 * config.kv_heads() * config.head_size();
        let mut h: Vec<Block> = (0..config.n_layer)
            .map(|l| {
                let name = |part: &str| format!("transformer.h.{l}.{part}");
                let res_conv = b.conv(&name("conv"), c, config.res_conv, 0);
                let tail = res_conv.map_or(0, |conv| conv.kept().end);
                Block {
                    res_conv,
                    ln_1: b.norm(&name("ln_1"), c, bias.norm),
                    c_attn: b.linear(&name("attn.c_attn"), c, qkv, bias.qkv, 1.0),
                    conv: b.conv(&name("attn.conv"), qkv, config.qkv_conv, tail),
                    qk: b.qk(&name("attn")),
                    attn_proj: b.linear(&name("attn.c_proj"), q, c, bias.proj, residual),
                    ln_2: b.norm(&name("ln_2"), c, bias.norm),
                    c_fc: b.linear(&name("mlp.c_fc"), c, c_fc, bias.mlp, 1.0),
                    mlp_proj: b.linear(&name("mlp.c_proj"), inner, c, bias.mlp, residual),
                }
            })
            .collect();
        if config.zero_init_proj {
            let projections = b.tensors.iter_mut().filter(|tensor| tensor.name.contains(".c_proj."));
            projections.for_each(|tensor| tensor.distribution = Distribution::Constant(0.0));
        }
        let ln_f = b.norm("transformer.ln_f", c, bias.norm);
        let mut lm_head = if config.tie_weights {
            Linear { w: wte, b: b.bias("lm_head", c, v, bias.head), i: c, o: v, lora: None }
        } else {
            b.linear("lm_head", c, v, bias.head, 1.0)
        };
        let base_len = b.len();
        if config.lora_rank > 0 {
            let on = config.lora_targets;
            for (l, h) in h.iter_mut().enumerate() {
                let name = |part: &str| format!("transformer.h.{l}.{part}");
                b.adapt(&name("attn.c_attn"), &mut h.c_attn, on.qkv);
                b.adapt(&name("attn.c_proj"), &mut h.attn_proj, on.proj);
                b.adapt(&name("mlp.c_fc"), &mut h.c_fc, on.mlp);
                b.adapt(&name("mlp.c_proj"), &mut h.mlp_proj, on.mlp);
            }
            b.adapt("lm_head", &mut lm_head, on.head);
        }
        let (tensors, embedding) = (b.tensors, Embedding { wte, wpe, c });
        let mut layout = Layout { tensors, embedding, h, ln_f, lm_head, trainable: Vec::new(), base_len };
        let trains = layout.trained().into_iter().map(|tensor| (tensor.trains, ()));
        layout.trainable = joined(trains).into_iter().map(|(span, ())| span).collect();
        Ok(layout)
    }

    /// Checks the settings of `config` that name tensors; this must be the layout of `config`.
    ///
    /// # Errors
    /// If a pattern matches no tensor, or nothing is left to train.
    pub fn check(&self, config: &Config) -> Result<()> {
        let refuse = |key: &str, patterns: &[String], allowed: String| {
            Err(Error::Config { key: key.to_owned(), value: toml::Value::from(patterns.to_vec()).to_string(), allowed })
        };
        let base = self.tensors.partition_point(|tensor| tensor.span.start < self.base_len);
        for (key, patterns, tensors) in [
            ("freeze", &config.freeze, &self.tensors[..]),
            ("modules_to_save", &config.modules_to_save, &self.tensors[..base]),
        ] {
            let idle = |pattern: &&String| !tensors.iter().any(|tensor| matches(pattern, &tensor.name));
            if let Some(pattern) = patterns.iter().find(idle) {
                let like = &self.tensors[base - 1].name;
                return refuse(key, patterns, format!("names of tensors, such as {like}; none matches \"{pattern}\""));
            }
        }
        for (i, group) in config.param_groups.iter().enumerate() {
            if !self.tensors.iter().any(|tensor| tensor.group == i) {
                let allowed = "names of tensors, such as lm_head.weight, that no earlier group matches".to_owned();
                return refuse("param_groups", &group.params, allowed);
            }
            let muon = self.tensors.iter().any(|tensor| tensor.group == i && tensor.muon);
            if group.settings.contains_key("optimizer") && config.groups()?[i].optimizer == OptimizerKind::Muon && !muon
            {
                let allowed = "names of matrices inside the blocks if optimizer is \"muon\"".to_owned();
                return refuse("param_groups", &group.params, allowed);
            }
        }
        if config.lora_rank == 0 && !config.modules_to_save.is_empty() {
            return refuse(
                "modules_to_save",
                &config.modules_to_save,
                "[] if lora_rank is 0: all parameters are trained anyway".into(),
            );
        }
        if self.trainable.is_empty() {
            return refuse("freeze", &config.freeze, "fewer tensors: nothing is left to train".into());
        }
        Ok(())
    }

    /// An error about the tensor at a place, with its name.
    pub fn named(&self, span: Span, error: Error) -> Error {
        let name = self.tensors.iter().find(|tensor| tensor.span == span).map_or("a weight", |tensor| &tensor.name);
        Error::Data(format!("{name}: {error}"))
    }

    /// Whether there are adapters.
    pub fn has_adapters(&self) -> bool {
        self.base_len < self.len()
    }

    /// Number of trainable parameters.
    pub fn trainable_len(&self) -> usize {
        self.trainable.iter().map(|span| span.len).sum()
    }

    /// The trainable tensors.
    pub fn trained(&self) -> Vec<&Tensor> {
        self.tensors.iter().filter(|tensor| tensor.trainable).collect()
    }

    /// The number of stages in which a backward pass completes gradients: see [`Layout::stage`].
    pub fn stages(&self) -> usize {
        self.h.len() + 2
    }

    /// The stage of a backward pass that completes a tensor's gradient: the head's is the first, then come the blocks from the
    /// last to the first, then the embeddings.
    pub fn stage(&self, tensor: &Tensor) -> usize {
        let block = tensor.name.strip_prefix("transformer.h.").and_then(|rest| rest.split('.').next()?.parse().ok());
        match block {
            Some(block) => self.h.len() - usize::min(block, self.h.len()),
            // A weight that is also an embedding's is complete when that is.
            None if tensor.name.starts_with("lm_head.") || tensor.name.starts_with("transformer.ln_f.") => 0,
            None => self.stages() - 1,
        }
    }

    /// The tensors whose weights a checkpoint holds: all of them or, with adapters, only the adapters and the other
    /// trainable tensors.
    pub fn stored(&self) -> Vec<&Tensor> {
        let stored = |tensor: &&Tensor| !self.has_adapters() || tensor.trainable || tensor.span.start >= self.base_len;
        self.tensors.iter().filter(stored).collect()
    }

    /// Every convolution.
    pub fn convs(&self) -> impl Iterator<Item = Conv> {
        self.h.iter().flat_map(|h| [h.res_conv, h.conv]).flatten()
    }

    /// Every linear layer.
    pub fn linears(&self) -> Vec<Linear> {
        let of_block = |h: &Block| [h.c_attn, h.attn_proj, h.c_fc, h.mlp_proj];
        self.h.iter().flat_map(of_block).chain([self.lm_head]).collect()
    }

    /// The trainable tensors whose gradients the backward pass accumulates, so that these must be cleared first. That
    /// includes rows that are not trained, where the sums would otherwise keep growing. The weights of linear layers
    /// are not among them, since the backward pass can overwrite their gradients (if the embedding is also the weight
    /// of `lm_head`, it reaches `lm_head` first).
    pub fn added_to(&self) -> impl Iterator<Item = &Tensor> {
        let overwritten: Vec<usize> = self.linears().iter().map(|linear| linear.w.start).collect();
        self.tensors.iter().filter(move |tensor| tensor.trainable && !overwritten.contains(&tensor.span.start))
    }

    /// The rows of each `c_attn` that make queries, keys and values.
    pub fn qkv_rows(&self) -> [Range<usize>; 3] {
        let (q, all) = (self.h[0].attn_proj.i, self.h[0].c_attn.o);
        let values = (q + all) / 2;
        [0..q, q..values, values..all]
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.tensors.last().map_or(0, |last| last.span.range().end)
    }

    /// Whether there are no parameters; a layout of a valid configuration always has some.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Initial weights: tensor number `k` is drawn from stream `k`. So a setting that adds a tensor changes the streams
    /// of the tensors after it.
    pub fn init(&self, seed: u64) -> Vec<f32> {
        let mut weights = vec![0.0; self.len()];
        let mut rest = &mut weights[..];
        let of_tensor = |tensor: &Tensor| rest.split_off_mut(..tensor.span.len).expect("tensors follow each other");
        let parts: Vec<&mut [f32]> = self.tensors.iter().map(of_tensor).collect();
        for_each(parts.into_par_iter().zip(&self.tensors).enumerate(), |(k, (part, tensor))| {
            let mut rng = Rng::new(seed, Purpose::Init, 0, k as u64);
            part.fill_with(|| match tensor.distribution {
                Distribution::Constant(value) => value,
                Distribution::Uniform(bound) => (bound * (2.0 * rng.uniform() - 1.0)) as f32,
                Distribution::Normal(std) => (std * rng.normal()) as f32,
                Distribution::Identity(_) => 0.0,
            });
            if let Distribution::Identity(taps) = tensor.distribution {
                part.iter_mut().skip(taps - 1).step_by(taps).for_each(|w| *w = 1.0);
            }
        });
        weights
    }

    /// The pieces of parameter group number `group` that AdamW updates, and whether weight decay applies to each.
    pub fn decay_spans(&self, group: usize, decay: Decay) -> Vec<(Span, bool)> {
        let of_group = self.trained().into_iter().filter(|tensor| tensor.group == group && !tensor.muon);
        joined(of_group.map(|tensor| (tensor.trains, decay == Decay::All || tensor.shape.len() == 2)))
    }

    /// The matrices of parameter group number `group` that Muon updates, in order. Query, key and value share one
    /// tensor, and so do SwiGLU's gate and up projections, but each of them is its own matrix.
    pub fn matrices(&self, group: usize) -> Vec<Matrix> {
        let qkv = self.qkv_rows().map(|rows| rows.len());
        let of_block = |h: &Block| {
            let layers = [h.c_attn, h.attn_proj, h.c_fc, h.mlp_proj];
            let parts =
                [qkv.to_vec(), vec![h.attn_proj.o], vec![h.mlp_proj.i; h.c_fc.o / h.mlp_proj.i], vec![h.mlp_proj.o]];
            layers.into_iter().zip(parts)
        };
        let mut matrices = Vec::new();
        for (Linear { w, i: cols, .. }, parts) in self.h.iter().flat_map(of_block) {
            let tensor = self.tensors.iter().find(|tensor| tensor.span == w.span).expect("each layer has a tensor");
            if tensor.group != group || !tensor.muon || !tensor.trainable {
                continue;
            }
            let mut start = w.start;
            for rows in parts {
                matrices.push(Matrix { span: Span { start, len: rows * cols }, rows, cols });
                start += rows * cols;
            }
        }
        matrices
    }
}

/// Merges adjacent pieces of the same kind.
fn joined<K: PartialEq>(pieces: impl Iterator<Item = (Span, K)>) -> Vec<(Span, K)> {
    let mut spans: Vec<(Span, K)> = Vec::new();
    for (piece, kind) in pieces {
        match spans.last_mut() {
            Some((span, same)) if *same == kind && span.range().end == piece.start => span.len += piece.len,
            _ => spans.push((piece, kind)),
        }
    }
    spans
}

/// Whether a tensor has a row for each token.
fn of_tokens(name: &str) -> bool {
    matches!(name, "transformer.wte.weight" | "lm_head.weight" | "lm_head.bias")
}

impl ParamGroup {
    /// Whether one of its patterns matches a tensor's name.
    fn names(&self, tensor: &str) -> bool {
        self.params.iter().any(|pattern| matches(pattern, tensor))
    }
}

/// Whether a name matches a pattern, in which `*` matches anything.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

struct Builder<'a> {
    config: &'a Config,
    /// The optimizer of each group of parameters.
    optimizers: Vec<OptimizerKind>,
    tensors: Vec<Tensor>,
}

impl Builder<'_> {
    fn len(&self) -> usize {
        self.tensors.last().map_or(0, |last| last.span.range().end)
    }

    /// Adds a tensor of the model itself.
    fn add(&mut self, name: String, shape: &[usize], distribution: Distribution) -> Param {
        let saved = self.config.modules_to_save.iter().any(|pattern| matches(pattern, &name));
        let all = self.config.lora_rank == 0 || saved;
        let new_tokens = if of_tokens(&name) { self.config.new_tokens.min(shape[0]) } else { 0 };
        let in_block = name.starts_with("transformer.h.");
        let param = self.push(name, shape, distribution, all || new_tokens > 0);
        let tensor = self.tensors.last_mut().expect("it was added");
        if in_block && shape.len() == 2 {
            tensor.muon = self.optimizers[tensor.group] == OptimizerKind::Muon;
        }
        if !all {
            // Adapters cannot tell one new token from another, so the rows of new tokens are trained.
            let len = new_tokens * (param.len / shape[0]);
            tensor.trains = Span { start: param.range().end - len, len };
        }
        param
    }

    fn push(&mut self, name: String, shape: &[usize], distribution: Distribution, trains: bool) -> Param {
        let trainable = trains && !self.config.freeze.iter().any(|pattern| matches(pattern, &name));
        let span = Span { start: self.len(), len: shape.iter().product() };
        let groups = &self.config.param_groups;
        let group = groups.iter().position(|group| group.names(&name)).unwrap_or(groups.len());
        let (shape, trains) = (shape.to_vec(), span);
        self.tensors.push(Tensor { name, shape, span, trainable, trains, group, muon: false, distribution });
        Param { span, trainable }
    }

    /// Gives a layer its adapter, if it is to have one.
    fn adapt(&mut self, name: &str, linear: &mut Linear, wanted: bool) {
        let (Linear { i, o, .. }, r) = (*linear, self.config.lora_rank);
        linear.lora = wanted.then(|| Lora {
            site: LORA_SITES + self.tensors.len() as u64,
            a: self.push(
                format!("{name}.lora_A.weight"),
                &[r, i],
                Distribution::Uniform(1.0 / (i as f64).sqrt()),
                true,
            ),
            b: self.push(format!("{name}.lora_B.weight"), &[o, r], Distribution::Constant(0.0), true),
            r,
            scale: self.config.lora_alpha / r as f64,
            rate: self.config.lora_dropout as f32,
        });
    }

    fn embedding(&mut self, name: &str, rows: usize, c: usize) -> Param {
        let std = match self.config.init {
            Init::Pytorch => 1.0,
            Init::Gpt2 => 0.02,
        };
        self.add(name.to_owned(), &[rows, c], Distribution::Normal(std))
    }

    fn norm(&mut self, name: &str, c: usize, bias: bool) -> Norm {
        let w = self.add(format!("{name}.weight"), &[c], Distribution::Constant(1.0));
        let kind = self.config.norm;
        let bias = bias && kind == NormKind::LayerNorm;
        let b = bias.then(|| self.add(format!("{name}.bias"), &[c], Distribution::Constant(0.0)));
        Norm { w, b, kind, eps: self.config.norm_eps }
    }

    fn qk(&mut self, attention: &str) -> Option<Qk> {
        let Config { qk_norm, position, norm_eps: eps, .. } = *self.config;
        let (hs, rotary) = (self.config.head_size(), position == Position::Rotary);
        let mut weight =
            |part: &str| self.add(format!("{attention}.{part}_norm.weight"), &[hs], Distribution::Constant(1.0));
        let norm = qk_norm.then(|| (weight("q"), weight("k")));
        (norm.is_some() || rotary).then_some(Qk { norm, eps, rotary })
    }

    fn conv(&mut self, name: &str, c: usize, taps: usize, tail: usize) -> Option<Conv> {
        let mut weight = || self.add(format!("{name}.weight"), &[c, 1, taps], Distribution::Identity(taps));
        (taps > 0).then(|| Conv { w: weight(), c, taps, tail })
    }

    fn linear(&mut self, name: &str, i: usize, o: usize, bias: bool, gpt2_scale: f64) -> Linear {
        let distribution = match self.config.init {
            Init::Pytorch => Distribution::Uniform(1.0 / (i as f64).sqrt()),
            Init::Gpt2 => Distribution::Normal(0.02 * gpt2_scale),
        };
        let w = self.add(format!("{name}.weight"), &[o, i], distribution);
        Linear { w, b: self.bias(name, i, o, bias), i, o, lora: None }
    }

    fn bias(&mut self, name: &str, i: usize, o: usize, bias: bool) -> Option<Param> {
        let distribution = match self.config.init {
            Init::Pytorch => Distribution::Uniform(1.0 / (i as f64).sqrt()),
            Init::Gpt2 => Distribution::Constant(0.0),
        };
        bias.then(|| self.add(format!("{name}.bias"), &[o], distribution))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(preset: &str, vocab_size: usize) -> Layout {
        let mut config = Config::preset(preset).unwrap();
        config.vocab_size = vocab_size;
        Layout::new(&config).unwrap()
    }

    #[test]
    fn parameter_counts_are_the_published_ones() {
        assert_eq!(layout("big-0.2m", 65).len(), 209_729);
        assert_eq!(layout("big-2.7m", 65).len(), 2_697_281);
        assert_eq!(layout("gpt2", 50257).len(), 124_439_808);
        // nanoGPT counts 10.65M without the position embedding.
        let char = layout("shakespeare-char", 65);
        assert_eq!(char.len() - char.embedding.wpe.unwrap().len, 10_646_784);
    }

    #[test]
    fn attention_has_the_tensors_its_kind_has() {
        let (_, plain) = with(&["n_layer=1"]);
        let names = |layout: &Layout| layout.tensors.iter().map(|tensor| tensor.name.clone()).collect::<Vec<_>>();
        assert_eq!(plain.qkv_rows(), [0..64, 64..128, 128..192]);
        let (_, layout) = with(&["n_layer=1", "position=rotary", "n_kv_head=2", "qk_norm=true"]);
        let without_positions = names(&plain).into_iter().filter(|name| !name.contains("wpe"));
        let mut want: Vec<_> = without_positions.collect();
        let at = want.iter().position(|name| name.contains("attn.c_proj")).unwrap();
        want.splice(at..at, ["q", "k"].map(|part| format!("transformer.h.0.attn.{part}_norm.weight")));
        assert_eq!(names(&layout), want);
        assert_eq!(layout.qkv_rows(), [0..64, 64..96, 96..128]);
        let shape = |name: &str| layout.tensors.iter().find(|tensor| tensor.name.contains(name)).unwrap().shape.clone();
        assert_eq!((shape("c_attn"), shape("q_norm"), shape("k_norm")), (vec![128, 64], vec![16], vec![16]));
        // Heads of another size than n_embd / n_head, narrower and wider than it.
        for (size, n_head) in [(8, 4), (24, 4), (10, 3)] {
            let (heads, size_is) = (format!("n_head={n_head}"), format!("head_size={size}"));
            let (config, layout) = with(&["n_layer=1", &heads, &size_is, "n_kv_head=1", "qk_norm=true"]);
            let q = n_head * size;
            assert_eq!((config.head_size(), config.attention_size()), (size, q));
            assert_eq!(layout.qkv_rows(), [0..q, q..q + size, q + size..q + 2 * size]);
            let shape = |name: &str| &layout.tensors.iter().find(|tensor| tensor.name.contains(name)).unwrap().shape;
            assert_eq!((shape("c_attn"), shape("q_norm")), (&vec![q + 2 * size, 64], &vec![size]));
            assert_eq!(shape("attn.c_proj"), &vec![64, q]);
        }
    }

    #[test]
    fn initial_weights_have_the_right_spread() {
        for (preset, name, want) in [
            ("big-2.7m", "transformer.h.3.mlp.c_proj.weight", 1.0 / (768.0f64 * 3.0).sqrt()),
            ("big-2.7m", "transformer.wte.weight", 1.0),
            ("big-2.7m", "transformer.h.0.attn.c_attn.weight", 1.0 / (192.0f64 * 3.0).sqrt()),
            ("shakespeare-char", "transformer.h.1.mlp.c_proj.weight", 0.02 / 12.0f64.sqrt()),
            ("shakespeare-char", "transformer.h.1.mlp.c_fc.weight", 0.02),
        ] {
            let layout = layout(preset, 65);
            let weights = layout.init(1);
            let tensor = layout.tensors.iter().find(|tensor| tensor.name == name).unwrap();
            let values = &weights[tensor.span.range()];
            let std = (values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
            assert!((std / want - 1.0).abs() < 0.02, "{name}: {std}, want {want}");
        }
    }

    #[test]
    fn decay_covers_everything_once() {
        let layout = layout("gpt2", 100);
        assert_eq!(layout.decay_spans(0, Decay::All), [(Span { start: 0, len: layout.len() }, true)]);
        let spans = layout.decay_spans(0, Decay::Matrices);
        let mut at = 0;
        for (span, _) in &spans {
            assert_eq!(span.start, at);
            at += span.len;
        }
        assert_eq!(at, layout.len());
        let decayed: usize = spans.iter().filter(|(_, decays)| *decays).map(|(span, _)| span.len).sum();
        let matrices = layout.tensors.iter().filter(|t| t.shape.len() == 2).map(|t| t.span.len).sum::<usize>();
        assert_eq!(decayed, matrices);
    }

    fn with(settings: &[&str]) -> (Config, Layout) {
        let mut config = Config { vocab_size: 65, ..Config::default() };
        settings.iter().for_each(|setting| config.set(setting).unwrap());
        let layout = Layout::new(&config).unwrap();
        (config, layout)
    }

    #[test]
    fn other_norms_and_mlps_have_their_shapes() {
        let (_, layout) = with(&["norm=rmsnorm", "bias=true", "activation=swiglu", "n_inner=24"]);
        let shape = |name: &str| layout.tensors.iter().find(|tensor| tensor.name == name).map(|t| t.shape.clone());
        assert_eq!(shape("transformer.h.0.mlp.c_fc.weight"), Some(vec![48, 64]));
        assert_eq!(shape("transformer.h.0.mlp.c_fc.bias"), Some(vec![48]));
        assert_eq!(shape("transformer.h.0.mlp.c_proj.weight"), Some(vec![64, 24]));
        assert_eq!(shape("transformer.ln_f.weight"), Some(vec![64]));
        assert!(layout.tensors.iter().all(|tensor| !tensor.name.contains("ln_") || tensor.name.ends_with("weight")));
    }

    #[test]
    fn projections_may_begin_at_zero_and_change_no_other_weight() {
        let settings = ["bias=[\"proj\",\"mlp\"]", "lora_rank=2", "zero_init_proj=false"];
        let (plain, zero) = (with(&settings).1, with(&[&settings[..2], &["zero_init_proj=true"]].concat()).1);
        let (plain_weights, weights) = (plain.init(1), zero.init(1));
        for tensor in &zero.tensors {
            let (before, after) = (&plain_weights[tensor.span.range()], &weights[tensor.span.range()]);
            if tensor.name.ends_with("c_proj.weight") || tensor.name.ends_with("c_proj.bias") {
                assert!(before.iter().any(|&x| x != 0.0) && after.iter().all(|&x| x == 0.0), "{}", tensor.name);
            } else {
                assert_eq!(before, after, "{}", tensor.name);
            }
        }
    }

    #[test]
    fn adapters_stand_behind_the_base_which_stays_as_it_is() {
        let (_, base) = with(&["bias=true"]);
        let (_, layout) = with(&["bias=true", "lora_rank=3", "lora_targets=[\"qkv\", \"mlp\", \"head\"]"]);
        assert_eq!((layout.base_len, base.base_len), (base.len(), base.len()));
        assert_eq!(layout.init(1)[..base.len()], base.init(1));
        let (of_base, adapters) = layout.tensors.split_at(base.tensors.len());
        assert!(of_base.iter().zip(&base.tensors).all(|(a, b)| a.name == b.name && a.span == b.span && !a.trainable));
        assert_eq!(layout.trainable, [Span { start: base.len(), len: layout.len() - base.len() }]);
        let names = ["attn.c_attn", "mlp.c_fc", "mlp.c_proj"];
        assert_eq!(adapters.len(), 2 * (4 * names.len() + 1));
        for (pair, name) in adapters.chunks(2).zip(names) {
            assert_eq!(pair[0].name, format!("transformer.h.0.{name}.lora_A.weight"));
            assert_eq!(pair[1].name, format!("transformer.h.0.{name}.lora_B.weight"));
        }
        let (a, b) = (&adapters[4], &adapters[5]);
        assert_eq!((&a.shape[..], &b.shape[..]), (&[3, 256][..], &[64, 3][..]));
        let weights = layout.init(1);
        let largest = weights[a.span.range()].iter().fold(0.0f32, |max, x| max.max(x.abs()));
        assert!((0.9 / 16.0..1.0 / 16.0).contains(&largest) && weights[b.span.range()].iter().all(|&x| x == 0.0));
        let mut sites: Vec<_> = layout.linears().iter().filter_map(|w| w.lora).map(|lora| lora.site).collect();
        sites.dedup();
        assert_eq!(sites.len(), 13, "each has dropout masks of its own");
    }

    #[test]
    fn patterns_say_what_trains() {
        for (pattern, name, fits) in [
            ("wte", "wte", true),
            ("wte", "wte.weight", false),
            ("*", "", true),
            ("*wte*", "transformer.wte.weight", true),
            ("*.bias", "transformer.h.0.ln_1.bias", true),
            ("*.bias", "bias", false),
            ("transformer.h.1.*", "transformer.h.10.ln_1.weight", false),
            ("transformer.h.*.ln_*.weight", "transformer.h.10.ln_1.weight", true),
            ("a*a", "a", false),
            ("a**b*", "ab", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
        let trained = |settings: &[&str]| {
            let (config, layout) = with(settings);
            layout.check(&config).unwrap();
            let spans = layout.decay_spans(0, Decay::Matrices);
            assert_eq!(spans.iter().map(|(span, _)| span.len).sum::<usize>(), layout.trainable_len());
            layout.trained().iter().map(|tensor| tensor.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(trained(&["freeze=[\"*.h.*\",\"*e.weight\"]"]), ["transformer.ln_f.weight", "lm_head.weight"]);
        let saved =
            trained(&["lora_rank=1", "lora_targets=[\"head\"]", "modules_to_save=[\"*.wpe.*\",\"*.3.ln_2.*\"]"]);
        let want =
            ["transformer.wpe.weight", "transformer.h.3.ln_2.weight", "lm_head.lora_A.weight", "lm_head.lora_B.weight"];
        assert_eq!(saved, want);
        // Of tied weights there is one tensor.
        let (_, layout) = with(&["tie_weights=true", "freeze=[\"*.wte.*\"]"]);
        assert!(
            !layout.lm_head.w.trainable && !layout.embedding.wte.trainable && layout.embedding.wpe.unwrap().trainable
        );
    }

    #[test]
    fn muon_has_the_matrices_of_blocks_and_adamw_all_else() {
        let (_, layout) = with(&["optimizer=muon", "freeze=[\"*.3.mlp.*\"]"]);
        let shapes: Vec<_> = layout.matrices(0).iter().map(|matrix| (matrix.rows, matrix.cols)).collect();
        let block = [(64, 64), (64, 64), (64, 64), (64, 64), (256, 64), (64, 256)];
        assert_eq!(shapes, [&block[..], &block, &block, &block[..4]].concat());
        let c_attn = layout.h[0].c_attn.w.span;
        let [q, k, v] = [0, 1, 2].map(|i| layout.matrices(0)[i].span);
        assert!(q.start == c_attn.start && q.range().end == k.start && v.range().end == c_attn.range().end);
        let of_adamw: usize = layout.decay_spans(0, Decay::All).iter().map(|(span, _)| span.len).sum();
        let of_muon: usize = layout.matrices(0).iter().map(|matrix| matrix.span.len).sum();
        assert_eq!(of_adamw + of_muon, layout.trainable_len());
        // Groups: by the first that names a tensor, each with its own optimizer.
        let groups = "param_groups=[{params=[\"*.0.*\",\"lm_head.*\"]},{params=[\"*.1.*\"],optimizer=\"adamw\"}]";
        let (_, layout) = with(&["optimizer=muon", groups]);
        assert_eq!([0, 1, 2].map(|group| layout.matrices(group).len()), [6, 0, 12]);
        let len = |group| layout.decay_spans(group, Decay::All).iter().map(|(span, _)| span.len).sum::<usize>();
        assert!(layout.lm_head.w.len <= len(0) && 12 * 64 * 64 <= len(1));
        let (_, layout) = with(&["optimizer=muon", "lora_rank=2"]);
        assert!(layout.matrices(0).is_empty(), "adapters are AdamW's");
        let (_, layout) = with(&["optimizer=muon", "n_layer=1", "n_kv_head=2", "activation=swiglu"]);
        let shapes: Vec<_> = layout.matrices(0).iter().map(|matrix| (matrix.rows, matrix.cols)).collect();
        assert_eq!(shapes, [(64, 64), (32, 64), (32, 64), (64, 64), (168, 64), (168, 64), (64, 168)]);
        let (_, layout) = with(&["optimizer=muon", "n_layer=1", "n_kv_head=2", "head_size=24"]);
        let shapes: Vec<_> = layout.matrices(0).iter().map(|matrix| (matrix.rows, matrix.cols)).collect();
        assert_eq!(shapes, [(96, 64), (48, 64), (48, 64), (64, 96), (256, 64), (64, 256)]);
    }

    #[test]
    fn patterns_that_cannot_be_meant_are_refused() {
        for (settings, message) in [
            (
                &["freeze=[\"*.bias\"]"][..],
                "freeze = [\"*.bias\"]: must be names of tensors, such as lm_head.weight; none matches \"*.bias\"",
            ),
            (&["freeze=[\"*\"]"], "freeze = [\"*\"]: must be fewer tensors: nothing is left to train"),
            (&["freeze=[\"*lora*\"]", "lora_rank=2"], "nothing is left to train"),
            (
                &["param_groups=[{params=[\"*wte*\"],optimizer=\"muon\"}]"],
                "param_groups = [\"*wte*\"]: must be names of matrices inside the blocks if optimizer is \"muon\"",
            ),
            (&["modules_to_save=[\"*wte*\"]"], "modules_to_save = [\"*wte*\"]: must be [] if lora_rank is 0"),
            (
                &["modules_to_save=[\"*.lora_A.weight\"]", "lora_rank=2"],
                "modules_to_save = [\"*.lora_A.weight\"]: must be names of tensors",
            ),
        ] {
            let (config, layout) = with(settings);
            let error = layout.check(&config).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}

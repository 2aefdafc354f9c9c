//! Where each parameter stands: one table of names and shapes over one flat buffer.
//!
//! Parameters, gradients and both AdamW moments are four buffers of this one layout, so the optimizer, the
//! reduction over shards, clipping and the checkpoint are each one loop.

use crate::{
    config::{Config, Decay, Init},
    rng::{Purpose, Rng},
};
use rayon::prelude::*;

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
    pub fn range(self) -> std::ops::Range<usize> {
        self.start..self.start + self.len
    }
}

/// A named parameter.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// nanoGPT's name, such as `transformer.h.0.attn.c_attn.weight`.
    pub name: String,
    /// PyTorch's shape; a linear layer's weight is (out, in).
    pub shape: Vec<usize>,
    /// Where it stands in the flat buffers.
    pub span: Span,
    distribution: Distribution,
}

#[derive(Clone, Copy, Debug)]
enum Distribution {
    Constant(f32),
    Uniform(f64),
    Normal(f64),
}

/// Token and position embeddings, `c` channels each.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// Tokens (v, c).
    pub wte: Span,
    /// Positions (block_size, c).
    pub wpe: Span,
    /// Channels.
    pub c: usize,
}

/// `y (n, o) = x (n, i) W^T + b`, W being (o, i).
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// Weight (o, i).
    pub w: Span,
    /// Bias (o).
    pub b: Option<Span>,
    /// Channels in.
    pub i: usize,
    /// Channels out.
    pub o: usize,
}

/// LayerNorm's weight and bias, each (c).
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Weight (c).
    pub w: Span,
    /// Bias (c).
    pub b: Option<Span>,
}

/// The parameters of one transformer block.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// LayerNorm before attention.
    pub ln_1: Norm,
    /// To query, key and value: (3c, c).
    pub c_attn: Linear,
    /// Attention's output projection: (c, c).
    pub attn_proj: Linear,
    /// LayerNorm before the MLP.
    pub ln_2: Norm,
    /// First layer of the MLP: (4c, c).
    pub c_fc: Linear,
    /// Second layer of the MLP: (c, 4c).
    pub mlp_proj: Linear,
}

/// Every parameter of a model and where it stands.
#[derive(Clone, Debug)]
pub struct Layout {
    /// All parameters, in the order of the flat buffer.
    pub tensors: Vec<Tensor>,
    /// Token and position embeddings.
    pub embedding: Embedding,
    /// The transformer blocks.
    pub h: Vec<Block>,
    /// The last LayerNorm.
    pub ln_f: Norm,
    /// To the logits: (v, c); its weight is `wte` where weights are tied.
    pub lm_head: Linear,
}

impl Layout {
    /// The layout of the model that `config` describes; `vocab_size` must be set.
    pub fn new(config: &Config) -> Layout {
        let (c, v, bias) = (config.n_embd, config.vocab_size, config.bias);
        let mut b = Builder { init: config.init, tensors: Vec::new() };
        // GPT-2 scales the projections into the residual stream by 1/sqrt(2 n_layer), so that its variance
        // at the end does not grow with depth.
        let residual = 1.0 / (2.0 * config.n_layer as f64).sqrt();
        let wte = b.embedding("transformer.wte.weight", v, c);
        let wpe = b.embedding("transformer.wpe.weight", config.block_size, c);
        let h = (0..config.n_layer)
            .map(|l| {
                let name = |part: &str| format!("transformer.h.{l}.{part}");
                Block {
                    ln_1: b.norm(&name("ln_1"), c, bias.norm),
                    c_attn: b.linear(&name("attn.c_attn"), c, 3 * c, bias.qkv, 1.0),
                    attn_proj: b.linear(&name("attn.c_proj"), c, c, bias.proj, residual),
                    ln_2: b.norm(&name("ln_2"), c, bias.norm),
                    c_fc: b.linear(&name("mlp.c_fc"), c, 4 * c, bias.mlp, 1.0),
                    mlp_proj: b.linear(&name("mlp.c_proj"), 4 * c, c, bias.mlp, residual),
                }
            })
            .collect();
        let ln_f = b.norm("transformer.ln_f", c, bias.norm);
        let lm_head = if config.tie_weights {
            Linear { w: wte, b: b.bias("lm_head", c, v, bias.head), i: c, o: v }
        } else {
            b.linear("lm_head", c, v, bias.head, 1.0)
        };
        Layout { tensors: b.tensors, embedding: Embedding { wte, wpe, c }, h, ln_f, lm_head }
    }

    /// Every linear layer.
    pub fn linears(&self) -> Vec<Linear> {
        let of_block = |h: &Block| [h.c_attn, h.attn_proj, h.c_fc, h.mlp_proj];
        self.h.iter().flat_map(of_block).chain([self.lm_head]).collect()
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.tensors.last().map_or(0, |last| last.span.range().end)
    }

    /// Whether there are no parameters; a layout of a valid configuration always has some.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Initial weights: tensor number `k` is drawn from stream `k`, so adding a tensor changes no other.
    pub fn init(&self, seed: u64) -> Vec<f32> {
        let tensors = self.tensors.par_iter().enumerate().flat_map_iter(|(k, tensor)| {
            let mut rng = Rng::new(seed, Purpose::Init, 0, k as u64);
            (0..tensor.span.len).map(move |_| match tensor.distribution {
                Distribution::Constant(value) => value,
                Distribution::Uniform(bound) => (bound * (2.0 * rng.uniform() - 1.0)) as f32,
                Distribution::Normal(std) => (std * rng.normal()) as f32,
            })
        });
        tensors.collect()
    }

    /// The buffer cut into pieces that do or do not decay, neighbours of one kind joined.
    pub fn decay_spans(&self, decay: Decay) -> Vec<(Span, bool)> {
        let mut spans: Vec<(Span, bool)> = Vec::new();
        for tensor in &self.tensors {
            let decays = decay == Decay::All || tensor.shape.len() >= 2;
            match spans.last_mut() {
                Some((span, same)) if *same == decays => span.len += tensor.span.len,
                _ => spans.push((tensor.span, decays)),
            }
        }
        spans
    }
}

struct Builder {
    init: Init,
    tensors: Vec<Tensor>,
}

impl Builder {
    fn add(&mut self, name: String, shape: &[usize], distribution: Distribution) -> Span {
        let start = self.tensors.last().map_or(0, |last| last.span.range().end);
        let span = Span { start, len: shape.iter().product() };
        self.tensors.push(Tensor { name, shape: shape.to_vec(), span, distribution });
        span
    }

    fn embedding(&mut self, name: &str, rows: usize, c: usize) -> Span {
        let std = match self.init {
            Init::Pytorch => 1.0,
            Init::Gpt2 => 0.02,
        };
        self.add(name.to_owned(), &[rows, c], Distribution::Normal(std))
    }

    fn norm(&mut self, name: &str, c: usize, bias: bool) -> Norm {
        let w = self.add(format!("{name}.weight"), &[c], Distribution::Constant(1.0));
        let b = bias.then(|| self.add(format!("{name}.bias"), &[c], Distribution::Constant(0.0)));
        Norm { w, b }
    }

    fn linear(&mut self, name: &str, i: usize, o: usize, bias: bool, gpt2_scale: f64) -> Linear {
        let distribution = match self.init {
            Init::Pytorch => Distribution::Uniform(1.0 / (i as f64).sqrt()),
            Init::Gpt2 => Distribution::Normal(0.02 * gpt2_scale),
        };
        let w = self.add(format!("{name}.weight"), &[o, i], distribution);
        Linear { w, b: self.bias(name, i, o, bias), i, o }
    }

    fn bias(&mut self, name: &str, i: usize, o: usize, bias: bool) -> Option<Span> {
        let distribution = match self.init {
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
        Layout::new(&config)
    }

    #[test]
    fn parameter_counts_are_the_published_ones() {
        assert_eq!(layout("big-0.2m", 65).len(), 209_729);
        assert_eq!(layout("big-2.7m", 65).len(), 2_697_281);
        assert_eq!(layout("gpt2", 50257).len(), 124_439_808);
        // nanoGPT counts 10.65M without the position embedding.
        let char = layout("shakespeare-char", 65);
        assert_eq!(char.len() - char.embedding.wpe.len, 10_646_784);
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
        assert_eq!(layout.decay_spans(Decay::All), [(Span { start: 0, len: layout.len() }, true)]);
        let spans = layout.decay_spans(Decay::Matrices);
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
}

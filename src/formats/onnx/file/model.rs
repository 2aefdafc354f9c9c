//! The graph of a model, in operators of opset 17; of one with weights in four bits, which need newer ones, of opset 21.
//!
//! ```text
//! x = wte[input_ids] + wpe[position_ids]
//! each block:  x += c_proj(softmax(mask(q k^T)) v),  q, k, v = c_attn(ln_1(x)) behind those of past_key_values
//!              x += c_proj(act(c_fc(ln_2(x))))
//! logits = lm_head(ln_f(x))
//! ```
//!
//! Newer operators (Attention, RotaryEmbedding, RMSNormalization, Gelu) would be shorter, but runtimes on phones lack them.
//! Nothing has more than four dimensions, for the same reason.

use super::{
    graph::{Graph, Length, Numbers, Setting},
    proto::element,
};
use crate::formats::{
    onnx::options::{Ids, Options},
    portable::Portable,
    shape::{STRIDE, Shape},
};
use kinglet_core::{
    config::{Activation, Config, NormKind, Quantization},
    params::{Layout, Linear, Norm, Param, Qk},
    quant::{GROUP, Rounded, groups},
};
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// ONNX's number for truth values.
const BOOL: i64 = 9;

/// A score that no softmax sees.
const LOWEST: f64 = f32::MIN as f64;

/// What the blocks share.
struct Shared {
    /// Cosines and sines of this call's positions, if positions are rotations.
    rotations: Option<[String; 2]>,
    mask: Mask,
}

/// Which scores count.
enum Mask {
    /// Truth values, for every position of this call and every position up to it.
    Of(String),
    /// What is added to the scores.
    Added(String),
}

/// The version of the operators. The later one has integers of four bits, and scales for parts of a row.
pub(super) fn opset(config: &Config) -> i64 {
    if config.quantization == Quantization::W4 { 21 } else { 17 }
}

/// The graph of a model.
pub(super) fn graph<'a>(model: &'a Portable, options: &'a Options) -> Graph<'a> {
    let shape = Shape::of(&model.config);
    Drawing { g: Graph::default(), model, layout: model.layout(), s: shape, options }.draw()
}

struct Drawing<'a> {
    g: Graph<'a>,
    model: &'a Portable,
    layout: Layout,
    s: Shape,
    options: &'a Options,
}

impl<'a> Drawing<'a> {
    fn draw(mut self) -> Graph<'a> {
        let ids = match self.options.ids {
            Ids::Int64 => element::INT64,
            Ids::Int32 => element::INT32,
        };
        let dims = self.dims();
        let input = self.g.input("input_ids", ids, &dims);
        let wte = self.layout.embedding.wte;
        let wte = self.param(wte, &[self.s.v, self.s.c]);
        let mut x = self.g.op("Gather", &[&wte, &input], &[Setting::Int("axis", 0)], "wte");
        let shared = if self.options.cached() { self.cached(&input, ids, &mut x) } else { self.plain(&input, &mut x) };
        for l in 0..self.s.layers {
            let h = self.layout.h[l];
            self.g.scope = format!("h.{l}.attn");
            let normed = self.norm(&x, h.ln_1);
            let att = self.attention(&normed, l, &shared);
            let branch = self.linear(&att, h.attn_proj);
            x = self.g.op("Add", &[&x, &branch], &[], "x");
            self.g.scope = format!("h.{l}.mlp");
            let normed = self.norm(&x, h.ln_2);
            let fc = self.linear(&normed, h.c_fc);
            let act = self.activation(&fc);
            let branch = self.linear(&act, h.mlp_proj);
            x = self.g.op("Add", &[&x, &branch], &[], "x");
        }
        self.g.scope = "head".to_owned();
        let normed = self.norm(&x, self.layout.ln_f);
        let mut logits = self.head(&normed, &wte);
        if self.model.config.logit_softcap > 0.0 {
            let cap = self.g.number("cap", self.model.config.logit_softcap);
            let ratio = self.g.op("Div", &[&logits, &cap], &[], "ratio");
            let tanh = self.g.op("Tanh", &[&ratio], &[], "tanh");
            logits = self.g.op("Mul", &[&tanh, &cap], &[], "capped");
        }
        self.g.output("logits", &logits, &[dims[0], dims[1], Length::Is(self.s.v)]);
        self.g
    }

    /// Sequences and positions of a call.
    fn dims(&self) -> [Length<'a>; 2] {
        if self.options.fixed {
            [Length::Is(1), Length::Is(self.s.block)]
        } else {
            [Length::Called("batch_size"), Length::Called("sequence_length")]
        }
    }

    fn weights(&self, param: Param) -> &'a [f32] {
        &self.model.weights[param.range()]
    }

    /// A tensor's name in the model.
    fn name(&self, param: Param) -> String {
        let found = self.layout.tensors.iter().find(|tensor| tensor.span == param.span);
        found.expect("every parameter has a tensor").name.clone()
    }

    /// A tensor as it is.
    fn param(&mut self, param: Param, dims: &[usize]) -> String {
        let (name, weights) = (self.name(param), self.weights(param));
        self.g.tensor(&name, dims, Numbers::Floats(weights))
    }

    /// The inputs of a graph with a cache: adds positions to `x`, and says which scores count.
    fn cached(&mut self, ids: &str, integer: i32, x: &mut String) -> Shared {
        let [batch, sequence] = self.dims();
        let total = Length::Called("total_sequence_length");
        let mask = self.g.input("attention_mask", integer, &[batch, total]);
        let positions = self.g.input("position_ids", integer, &[batch, sequence]);
        for l in 0..self.s.layers {
            let past = Length::Called("past_sequence_length");
            let dims = [batch, Length::Is(self.s.nkv), past, Length::Is(self.s.hs)];
            for part in ["key", "value"] {
                self.g.input(&past_name(l, part), element::FLOAT, &dims);
            }
        }
        if let Some(wpe) = self.layout.embedding.wpe {
            let wpe = self.param(wpe, &[self.s.block, self.s.c]);
            let wpe = self.g.op("Gather", &[&wpe, &positions], &[Setting::Int("axis", 0)], "wpe");
            *x = self.g.op("Add", &[x, &wpe], &[], "x");
        }
        let rotations = self.s.theta.map(|theta| self.rotations_at(theta, &positions));
        let mask = self.mask(ids, &mask);
        Shared { rotations, mask: Mask::Of(mask) }
    }

    /// Cosines and sines for positions that the caller gives, each `(b, 1, t, hs / 2)`.
    ///
    /// `cos(a + b) = cos a cos b - sin a sin b` and `sin(a + b) = sin a cos b + cos a sin b`, where `a` belongs to a multiple
    /// of [`STRIDE`] and `b` to the rest: two small tables that reach far.
    fn rotations_at(&mut self, theta: f64, positions: &str) -> [String; 2] {
        self.g.scope = "rotary".to_owned();
        let many = self.s.reach() / STRIDE;
        let [far, near] = [(many, STRIDE, "far"), (STRIDE, 1, "near")].map(|(rows, by, what)| {
            let table = |trig: fn(f64) -> f64| self.table(theta, rows, by, trig);
            let tables = [table(libm::cos), table(libm::sin)];
            let [cos, sin] = ["cos", "sin"].map(|trig| format!("rotary.{trig}_{what}"));
            let dims = [rows, self.s.hs / 2];
            let [a, b] = tables.map(Numbers::Own);
            [self.g.tensor(&cos, &dims, a), self.g.tensor(&sin, &dims, b)]
        });
        let stride = match self.options.ids {
            Ids::Int64 => Numbers::Integers(vec![STRIDE as i64]),
            Ids::Int32 => Numbers::Shorts(vec![STRIDE as i32]),
        };
        let stride = self.g.tensor("rotary.stride", &[], stride);
        let whole = self.g.op("Div", &[positions, &stride], &[], "whole");
        let less = self.g.op("Mul", &[&whole, &stride], &[], "less");
        let rest = self.g.op("Sub", &[positions, &less], &[], "rest");
        let row =
            |g: &mut Graph, table: &str, at: &str| g.op("Gather", &[table, at], &[Setting::Int("axis", 0)], "row");
        let far = far.map(|table| row(&mut self.g, &table, &whole));
        let near = near.map(|table| row(&mut self.g, &table, &rest));
        let mut product = |i: usize, j: usize| self.g.op("Mul", &[&far[i], &near[j]], &[], "product");
        let [cc, ss, sc, cs] = [(0, 0), (1, 1), (1, 0), (0, 1)].map(|(i, j)| product(i, j));
        let cos = self.g.op("Sub", &[&cc, &ss], &[], "cos");
        let sin = self.g.op("Add", &[&sc, &cs], &[], "sin");
        let axis = self.g.integers("axis", &[1]);
        let table = [cos, sin].map(|table| self.g.op("Unsqueeze", &[&table, &axis], &[], "table"));
        self.g.scope.clear();
        table
    }

    /// Rotations by `0, by, 2 by, ...` positions, `(rows, hs / 2)`.
    fn table(&self, theta: f64, rows: usize, by: usize, trig: fn(f64) -> f64) -> Vec<f32> {
        let pairs = (0..rows).flat_map(|row| (0..self.s.hs / 2).map(move |i| (row, i)));
        pairs.map(|(row, i)| trig((row * by) as f64 * self.s.frequency(theta, i)) as f32).collect()
    }

    /// Which scores count, `(b, 1, t, total)`: of positions that are not padding, not later and, where the window slides, less
    /// than `block_size` earlier, as in kinglet's own cache.
    fn mask(&mut self, ids: &str, padding: &str) -> String {
        self.g.scope = "mask".to_owned();
        let new = self.length(ids, 1);
        let past = self.length(&past_name(0, "key"), 2);
        let total = self.g.op("Add", &[&past, &new], &[], "total");
        let (zero, one) = (self.g.integer("zero", 0), self.g.integer("one", 1));
        let (axis, axes) = (self.g.integers("axis", &[1]), self.g.integers("axes", &[1, 2]));
        let queries = self.g.op("Range", &[&past, &total, &one], &[], "positions");
        let queries = self.g.op("Unsqueeze", &[&queries, &axis], &[], "queries");
        let keys = self.g.op("Range", &[&zero, &total, &one], &[], "keys");
        let mut mask = self.g.op("LessOrEqual", &[&keys, &queries], &[], "causal");
        if self.s.theta.is_some() {
            let block = self.g.integer("block_size", self.s.block as i64);
            let distance = self.g.op("Sub", &[&queries, &keys], &[], "distance");
            let near = self.g.op("Less", &[&distance, &block], &[], "near");
            mask = self.g.op("And", &[&mask, &near], &[], "window");
        }
        let padding = self.g.op("Cast", &[padding], &[Setting::Int("to", BOOL)], "token");
        let padding = self.g.op("Unsqueeze", &[&padding, &axes], &[], "tokens");
        let mask = self.g.op("And", &[&mask, &padding], &[], "mask");
        self.g.scope.clear();
        mask
    }

    /// The length of a value's dimension.
    fn length(&mut self, of: &str, dim: i64) -> String {
        let shape = self.g.op("Shape", &[of], &[], "shape");
        let dim = self.g.integer("dim", dim);
        self.g.op("Gather", &[&shape, &dim], &[Setting::Int("axis", 0)], "length")
    }

    /// The same for a graph without a cache, in which a call is a whole text of at most `block_size` tokens.
    fn plain(&mut self, ids: &str, x: &mut String) -> Shared {
        let (s, fixed) = (self.s, self.options.fixed);
        let ends = (!fixed).then(|| {
            let new = self.length(ids, 1);
            let zero = self.g.integers("zero", &[0]);
            let end = self.g.op("Unsqueeze", &[&new, &zero], &[], "end");
            (new, zero, end)
        });
        // The rows of the first positions, all of them in a graph of fixed length.
        let rows = |g: &mut Graph, table: String| match &ends {
            Some((_, zero, end)) => g.op("Slice", &[&table, zero, end, zero], &[], "rows"),
            None => table,
        };
        if let Some(wpe) = self.layout.embedding.wpe {
            let wpe = self.param(wpe, &[s.block, s.c]);
            let wpe = rows(&mut self.g, wpe);
            *x = self.g.op("Add", &[x, &wpe], &[], "x");
        }
        let rotations = s.theta.map(|theta| {
            let tables = [(libm::cos as fn(f64) -> f64, "rotary.cos"), (libm::sin, "rotary.sin")];
            tables.map(|(trig, name)| {
                let table = Numbers::Own(self.table(theta, s.block, 1, trig));
                let table = self.g.tensor(name, &[s.block, s.hs / 2], table);
                rows(&mut self.g, table)
            })
        });
        let Some((new, ..)) = ends else {
            let mask = (0..s.block).flat_map(|i| (0..s.block).map(move |j| if j <= i { 0.0 } else { -1e9 })).collect();
            let mask = self.g.tensor("mask", &[s.block, s.block], Numbers::Own(mask));
            return Shared { rotations, mask: Mask::Added(mask) };
        };
        self.g.scope = "mask".to_owned();
        let (zero, one, axis) = (self.g.integer("zero", 0), self.g.integer("one", 1), self.g.integers("axis", &[1]));
        let keys = self.g.op("Range", &[&zero, &new, &one], &[], "keys");
        let queries = self.g.op("Unsqueeze", &[&keys, &axis], &[], "queries");
        let mask = self.g.op("LessOrEqual", &[&keys, &queries], &[], "causal");
        self.g.scope.clear();
        Shared { rotations, mask: Mask::Of(mask) }
    }

    fn norm(&mut self, x: &str, w: Norm) -> String {
        let (c, eps) = (w.w.len, self.s.eps);
        let weight = self.param(w.w, &[c]);
        if w.kind == NormKind::RmsNorm {
            return self.rms_norm(x, &weight, eps);
        }
        let bias = w.b.map(|b| self.param(b, &[c]));
        let inputs: Vec<&str> = [x, &weight].into_iter().chain(bias.as_deref()).collect();
        let settings = [Setting::Int("axis", -1), Setting::Float("epsilon", eps as f32)];
        self.g.op("LayerNormalization", &inputs, &settings, "norm")
    }

    /// `x / sqrt(mean(x^2) + eps) w` along the last dimension.
    fn rms_norm(&mut self, x: &str, weight: &str, eps: f64) -> String {
        let square = self.g.op("Mul", &[x, x], &[], "square");
        let keep = Setting::Int("keepdims", 1);
        let mean = if opset(&self.model.config) < 18 {
            self.g.op("ReduceMean", &[&square], &[Setting::Ints("axes", &[-1]), keep], "mean")
        } else {
            let axes = self.g.integers("axes", &[-1]);
            self.g.op("ReduceMean", &[&square, &axes], &[keep], "mean")
        };
        let eps = self.g.number("eps", eps);
        let shifted = self.g.op("Add", &[&mean, &eps], &[], "shifted");
        let rms = self.g.op("Sqrt", &[&shifted], &[], "rms");
        let divided = self.g.op("Div", &[x, &rms], &[], "divided");
        self.g.op("Mul", &[&divided, weight], &[], "norm")
    }

    /// `x W^T + b`; the weight is stored as its transpose, which products take as it is.
    ///
    /// One in few bits has its own integers: with a scale for each column or, of four bits, for each [`GROUP`] rows of one.
    fn linear(&mut self, x: &str, w: Linear) -> String {
        let (name, weights, dims, model) = (self.name(w.w), self.weights(w.w), [w.i, w.o], self.model);
        let weight = match model.rounded.get(&name) {
            Some(matrix) => {
                let scales = Numbers::Own(scales_by_group(matrix));
                let scale = format!("{name}.scale");
                let (integers, scale, settings) = match matrix.scheme() {
                    Quantization::W4 => {
                        let scale = self.g.tensor(&scale, &[w.i.div_ceil(GROUP), w.o], scales);
                        let settings = [Setting::Int("axis", 0), Setting::Int("block_size", GROUP as i64)];
                        (Numbers::Nibbles(matrix), scale, settings.to_vec())
                    }
                    _ => {
                        let scale = self.g.tensor(&scale, &[w.o], scales);
                        (Numbers::Bytes(matrix), scale, vec![Setting::Int("axis", 1)])
                    }
                };
                let integers = self.g.tensor(&name, &dims, integers);
                self.g.op("DequantizeLinear", &[&integers, &scale], &settings, "weight")
            }
            None => self.g.tensor(&name, &dims, Numbers::Columns(weights, w.i)),
        };
        let product = self.g.op("MatMul", &[x, &weight], &[], "product");
        self.biased(product, w)
    }

    fn biased(&mut self, product: String, w: Linear) -> String {
        let Some(b) = w.b else { return product };
        let bias = self.param(b, &[w.o]);
        self.g.op("Add", &[&product, &bias], &[], "biased")
    }

    fn head(&mut self, x: &str, wte: &str) -> String {
        let w = self.layout.lm_head;
        if !self.model.config.tie_weights {
            return self.linear(x, w);
        }
        let weight = self.g.op("Transpose", &[wte], &[Setting::Ints("perm", &[1, 0])], "weight");
        let product = self.g.op("MatMul", &[x, &weight], &[], "product");
        self.biased(product, w)
    }

    /// From `(b, t, c)` to `(b, t, nh hs)`.
    fn attention(&mut self, x: &str, l: usize, shared: &Shared) -> String {
        let s = self.s;
        let h = self.layout.h[l];
        let qkv = self.linear(x, h.c_attn);
        let [q, k, v] = self.g.split(&qkv, [s.att(), s.kv(), s.kv()], ["q", "k", "v"]);
        let [mut q, mut k, mut v] = [(q, s.nh), (k, s.nkv), (v, s.nkv)].map(|(x, heads)| self.heads(&x, heads));
        if let Some(qk) = h.qk {
            [q, k] = self.prepare([q, k], qk, shared);
        }
        if self.options.cached() {
            [k, v] = [(k, "key"), (v, "value")].map(|(new, part)| self.append(&new, l, part));
        }
        let scale = self.g.number("scale", s.scale);
        let q = self.g.op("Mul", &[&q, &scale], &[], "scaled");
        // Queries that share a head of keys are rows of one product.
        let grouped = s.nkv < s.nh;
        let regroup = |g: &mut Graph, x: String, heads: usize, width: i64| {
            if !grouped {
                return x;
            }
            let shape = g.integers("shape", &[0, heads as i64, -1, width]);
            g.op("Reshape", &[&x, &shape], &[], "grouped")
        };
        let q = regroup(&mut self.g, q, s.nkv, s.hs as i64);
        let k = self.g.op("Transpose", &[&k], &[Setting::Ints("perm", &[0, 1, 3, 2])], "k_t");
        let scores = self.g.op("MatMul", &[&q, &k], &[], "scores");
        let scores = regroup(&mut self.g, scores, s.nh, 0);
        let masked = match &shared.mask {
            Mask::Added(mask) => self.g.op("Add", &[&scores, mask], &[], "masked"),
            Mask::Of(mask) => {
                let lowest = self.g.number("lowest", LOWEST);
                self.g.op("Where", &[mask, &scores, &lowest], &[], "masked")
            }
        };
        let weights = self.g.op("Softmax", &[&masked], &[Setting::Int("axis", -1)], "weights");
        let weights = regroup(&mut self.g, weights, s.nkv, 0);
        let mixed = self.g.op("MatMul", &[&weights, &v], &[], "mixed");
        let mixed = regroup(&mut self.g, mixed, s.nh, s.hs as i64);
        let rows = self.g.op("Transpose", &[&mixed], &[Setting::Ints("perm", &[0, 2, 1, 3])], "rows");
        let shape = self.g.integers("shape", &[0, 0, s.att() as i64]);
        self.g.op("Reshape", &[&rows, &shape], &[], "att")
    }

    /// From `(b, t, heads hs)` to `(b, heads, t, hs)`.
    fn heads(&mut self, x: &str, heads: usize) -> String {
        let shape = self.g.integers("shape", &[0, 0, heads as i64, self.s.hs as i64]);
        let split = self.g.op("Reshape", &[x, &shape], &[], "split");
        self.g.op("Transpose", &[&split], &[Setting::Ints("perm", &[0, 2, 1, 3])], "heads")
    }

    /// Norm and rotation of queries and keys.
    fn prepare(&mut self, qk: [String; 2], w: Qk, shared: &Shared) -> [String; 2] {
        let (hs, eps) = (self.s.hs, self.s.eps);
        let normed = match w.norm {
            None => qk,
            Some((q, k)) => {
                let [queries, keys] = qk;
                [(queries, q), (keys, k)].map(|(x, weight)| {
                    let weight = self.param(weight, &[hs]);
                    self.rms_norm(&x, &weight, eps)
                })
            }
        };
        let Some([cos, sin]) = &shared.rotations else { return normed };
        normed.map(|x| {
            let [a, b] = self.g.split(&x, [hs / 2, hs / 2], ["first", "second"]);
            let mut product = |x: &str, by: &str| self.g.op("Mul", &[x, by], &[], "turned");
            let (ac, bs, bc, as_) = (product(&a, cos), product(&b, sin), product(&b, cos), product(&a, sin));
            let first = self.g.op("Sub", &[&ac, &bs], &[], "first");
            let second = self.g.op("Add", &[&bc, &as_], &[], "second");
            self.g.op("Concat", &[&first, &second], &[Setting::Int("axis", -1)], "rotated")
        })
    }

    /// Keys or values behind those of the past; together they are an output.
    fn append(&mut self, new: &str, l: usize, part: &str) -> String {
        let past = past_name(l, part);
        let all = self.g.op("Concat", &[&past, new], &[Setting::Int("axis", 2)], part);
        let [batch, _] = self.dims();
        let total = Length::Called("total_sequence_length");
        let dims = [batch, Length::Is(self.s.nkv), total, Length::Is(self.s.hs)];
        self.g.output(&format!("present.{l}.{part}"), &all, &dims);
        all
    }

    fn activation(&mut self, x: &str) -> String {
        let g = &mut self.g;
        match self.model.config.activation {
            Activation::Relu => g.op("Relu", &[x], &[], "act"),
            Activation::ReluSquared => {
                let relu = g.op("Relu", &[x], &[], "relu");
                g.op("Mul", &[&relu, &relu], &[], "act")
            }
            Activation::Gelu => {
                let root = g.number("root", FRAC_1_SQRT_2);
                let scaled = g.op("Mul", &[x, &root], &[], "scaled");
                let erf = g.op("Erf", &[&scaled], &[], "erf");
                half_of_one_plus(g, x, &erf)
            }
            Activation::GeluTanh => {
                // tanh(sqrt(2 / pi) (x + 0.044715 x^3)), with x (1 + 0.044715 x^2) for the sum
                let square = g.op("Mul", &[x, x], &[], "square");
                let (cubic, one) = (g.number("cubic", 0.044715), g.number("one", 1.0));
                let term = g.op("Mul", &[&square, &cubic], &[], "term");
                let factor = g.op("Add", &[&term, &one], &[], "factor");
                let inner = g.op("Mul", &[&factor, x], &[], "inner");
                let root = g.number("root", (2.0 / PI).sqrt());
                let scaled = g.op("Mul", &[&inner, &root], &[], "scaled");
                let tanh = g.op("Tanh", &[&scaled], &[], "tanh");
                half_of_one_plus(g, x, &tanh)
            }
            Activation::Swiglu => {
                let [gate, up] = g.split(x, [self.s.inner; 2], ["gate", "up"]);
                let sigmoid = g.op("Sigmoid", &[&gate], &[], "sigmoid");
                let silu = g.op("Mul", &[&gate, &sigmoid], &[], "silu");
                g.op("Mul", &[&silu, &up], &[], "act")
            }
            // The enumeration may grow in its crate: whoever adds an activation adds its nodes here.
            other => unreachable!("{other:?} has no nodes yet"),
        }
    }
}

/// `0.5 x (1 + y)`
fn half_of_one_plus(g: &mut Graph, x: &str, y: &str) -> String {
    let (one, half) = (g.number("one", 1.0), g.number("half", 0.5));
    let sum = g.op("Add", &[y, &one], &[], "sum");
    let product = g.op("Mul", &[&sum, x], &[], "product");
    g.op("Mul", &[&product, &half], &[], "act")
}

/// The name of keys or values of the past.
fn past_name(l: usize, part: &str) -> String {
    format!("past_key_values.{l}.{part}")
}

/// The scales of a matrix in eight bits, or of each column of groups of one in four.
fn scales_by_group(matrix: &Rounded) -> Vec<f32> {
    let (rows, cols) = matrix.shape();
    let groups = groups(matrix.scheme(), cols);
    (0..groups).flat_map(|group| (0..rows).map(move |row| matrix.scales()[row * groups + group])).collect()
}

//! The CPU backend: each operation runs on the calling thread, with the kernels of one instruction set.
//!
//! Parallelism over the batch is the caller's job ([`crate::shards`]). The operations here use rayon's current pool
//! only for large products (split by rows or columns, whichever are more), attention (split by sequence) and loops over
//! whole buffers (reduction, AdamW). No sum depends on how the work is split.

use super::quantized::{self, FEW_ROWS, Integers, split};
use super::waist::{
    Activated, Attended, Backward, Cached, Forward, Gradients, Normed, Pass, QkInput, Rows, frequency, mask_row,
    rotation,
};
use crate::{
    config::{Activation, NormKind, Precision, Quantization},
    error::{Error, Result},
    params::{Conv, Embedding, Linear, Lora, Matrix, Norm, Param, Qk, Span},
    quant::{self, Rounded},
    rng::Dropout,
    threads::{self, for_each},
};
use kinglet_kernels::{
    self as kernels, Epilogue, Floats, Init, Isa, Mat, MatMut, Rhs, Strip, activation,
    attention::{self, Heads},
    conv, dropout,
    int8::Outputs,
    loss::Objective,
    norm,
    optimizer::{AdamW, Muon},
    qk,
};
use rayon::prelude::*;
use std::{
    cell::RefCell,
    ops::{Deref, DerefMut, Range},
};

/// Number of elements of a parameter buffer that one task works on.
const PIECE: usize = 16 * 1024;

/// Smallest number of chunks per task for cheap element-wise loops: a quarter of a million elements.
const PIECES: usize = 16;

/// Number of multiply-adds above which a product is split across threads: milliseconds of work. In smaller models, one
/// shard for each thread keeps all threads busy.
const SPREAD: usize = 1 << 27;

/// The same for a product of a single sequence with packed weights: splitting it costs little more than the call, and
/// the other threads have no sequence of their own.
const SPREAD_ALONE: usize = 1 << 20;

/// Number of rows of an adapter's input that dropout is applied to at once: the copy stays in the L2 cache.
const DROPPED: usize = 128;

/// The CPU backend.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    isa: Isa,
    precision: kernels::Precision,
    /// What bf16 means, if that is not the best that this processor has.
    bf16: Option<kernels::Precision>,
}

/// A vector of numbers. Read as a slice, it is zeros where weights in few bits stand. If they are parameters, it also holds the
/// weights that [`Forward::pack_weights`] packed, which any mutable access to the numbers invalidates.
#[derive(Debug)]
pub struct Buf {
    numbers: Floats,
    panels: Vec<WeightPanels>,
    /// `None` if `panels` are out of date; otherwise, whether they are packed for the backward pass too.
    prepared: Option<bool>,
    /// Weights in few bits, which take the place of numbers.
    integers: Integers,
}

/// A layer's weight W (o, i), packed.
#[derive(Debug)]
struct WeightPanels {
    /// Where the weight begins.
    start: usize,
    /// `W^T`, which the forward pass multiplies by.
    forward: kernels::Panels,
    /// `W`, which the backward pass multiplies by.
    backward: kernels::Panels,
}

impl Deref for Buf {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.written(0, self.numbers.len())
    }
}

impl From<Vec<f32>> for Buf {
    fn from(numbers: Vec<f32>) -> Buf {
        let mut buf = Buf::zeros(numbers.len());
        buf.copy_from_slice(&numbers);
        buf
    }
}

impl Buf {
    fn zeros(len: usize) -> Buf {
        Buf::of(Floats::zeros(len))
    }

    /// Some numbers, to be written: what was made of them is out of date.
    fn written(&mut self, start: usize, len: usize) -> &mut [f32] {
        self.prepared = None;
        self.integers.overwrite(start, len);
        &mut self.numbers[start..start + len]
    }

    /// Whether weights in few bits take the place of some numbers.
    pub fn has_few_bits(&self) -> bool {
        self.integers.len() > 0
    }

    /// Numbers that are in memory already, without a copy: for a few passes over a model for which there is no room twice.
    /// They may begin anywhere in a cache line, which costs time and changes no result.
    pub fn in_place(numbers: Vec<f32>) -> Buf {
        Buf::of(Floats::in_place(numbers))
    }

    fn of(numbers: Floats) -> Buf {
        Buf { numbers, panels: Vec::new(), prepared: None, integers: Integers::default() }
    }

    /// Bytes of memory that it takes: numbers, copies of them that are laid out for products, and weights in few bits. The
    /// numbers that those stand for are never touched, so that they take none.
    pub fn bytes(&self) -> usize {
        let panels = self.panels.iter().flat_map(|panels| [&panels.forward, &panels.backward]);
        let numbers = self.numbers.len() - self.integers.len();
        size_of::<f32>() * numbers + panels.map(kernels::Panels::bytes).sum::<usize>() + self.integers.bytes()
    }

    /// The numbers; those of [`Buf::in_place`] are not copied. Weights in few bits are multiplied out.
    pub fn into_numbers(self) -> Vec<f32> {
        let Buf { numbers, integers, .. } = self;
        let mut numbers = numbers.into_vec();
        integers.numbers(0, &mut numbers);
        numbers
    }

    /// W of a layer, or its transpose for the forward pass; the packed copy if it is up to date.
    fn weight(&self, w: Linear, backward: bool) -> Rhs<'_> {
        assert!(self.integers.at(w.w.start).is_none(), "weights in few bits have no gradient and no adapter");
        if self.prepared.is_some_and(|both| both || !backward) {
            let at = self.panels.iter().position(|panels| panels.start == w.w.start).expect("every layer is prepared");
            return if backward { &self.panels[at].backward } else { &self.panels[at].forward }.rhs();
        }
        let weight = Mat::new(&self[w.w.range()], w.o, w.i);
        Rhs::Mat(if backward { weight } else { weight.t() })
    }
}

impl Cpu {
    /// A backend with the fastest instruction set of this processor, or the one named by the environment variable
    /// `KINGLET_ISA` (for tests and measurements).
    ///
    /// # Errors
    /// If that variable names one this processor does not have; the message lists those it has.
    pub fn new() -> Result<Cpu> {
        let Ok(name) = std::env::var("KINGLET_ISA") else {
            return Ok(Cpu::with_isa(Isa::detect()));
        };
        let all = Cpu::all();
        all.iter().copied().find(|be| be.isa.name() == name).ok_or_else(|| {
            let names: Vec<_> = all.iter().map(|be| be.isa.name()).collect();
            Error::BadConfig(format!("KINGLET_ISA = {name}: this processor supports {}", names.join(", ")))
        })
    }

    /// A backend with each instruction set of this processor, the fastest first.
    pub fn all() -> Vec<Cpu> {
        Isa::available().into_iter().map(Cpu::with_isa).collect()
    }

    /// A backend with a given instruction set.
    pub fn with_isa(isa: Isa) -> Cpu {
        Cpu { isa, precision: kernels::Precision::F32, bf16: None }
    }

    /// How products in bf16 are computed, the best last: each way has bits of its own. The first is f32, which takes its place on
    /// processors without it.
    pub fn ways_of_bf16(&self) -> Vec<&'static str> {
        kernels::Precision::available(self.isa).into_iter().map(kernels::Precision::name).collect()
    }

    /// The same backend, with products in bf16 computed in this way of [`Cpu::ways_of_bf16`]; `None` if there is no such.
    pub fn with_bf16_as(self, way: &str) -> Option<Cpu> {
        let found = kernels::Precision::available(self.isa).into_iter().find(|precision| precision.name() == way);
        found.map(|precision| Cpu { bf16: Some(precision), ..self })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

impl From<Activation> for kernels::activation::Activation {
    fn from(act: Activation) -> Self {
        match act {
            Activation::Relu => Self::Relu,
            Activation::ReluSquared => Self::ReluSquared,
            Activation::Gelu => Self::Gelu,
            Activation::GeluTanh => Self::GeluTanh,
            Activation::Swiglu => unreachable!("an operation of its own"),
        }
    }
}

impl From<NormKind> for kernels::norm::Kind {
    fn from(kind: NormKind) -> Self {
        match kind {
            NormKind::LayerNorm => Self::Layer,
            NormKind::RmsNorm => Self::Rms,
        }
    }
}

impl Cpu {
    /// `C = A B`, starting from `init`, with `epilogue` applied to each strip of rows. From `spread` multiply-adds on,
    /// the longer side of C is split across threads; each reads all of one factor and a part of the other. Every
    /// element is the same sum either way.
    fn product(&self, c: &mut [f32], init: Init, a: Mat, b: Rhs, spread: usize, epilogue: Option<Epilogue>) {
        let ((m, k), (_, n)) = (a.shape(), b.shape());
        let c = MatMut::new(&mut c[..m * n], m, n);
        let work = m.max(FEW_ROWS) * n * k;
        let threads = threads::current();
        if m == 0 || threads == 1 || work < spread {
            return kernels::gemm_with(self.isa, self.precision, c, init, a, b, epilogue);
        }
        let (rows, cols) = split(m, n, threads, kernels::Panels::STEP);
        let blocks: Vec<_> = c.blocks(rows, cols).collect();
        for_each(blocks.into_par_iter(), |(rows, cols, c)| {
            let init = match init {
                Init::Bias(bias) => Init::Bias(&bias[cols.clone()]),
                init => init,
            };
            kernels::gemm_with(self.isa, self.precision, c, init, a.rows(rows), b.columns(cols), epilogue);
        });
    }

    /// [`Forward::linear`], with `epilogue` applied to strips of `y`.
    fn linear_then(&self, y: &mut [f32], x: &[f32], pass: Pass<Buf>, w: Linear, epilogue: Option<Epilogue>) {
        let (p, n) = (pass.p, pass.rows.n());
        if let Some(panels) = p.integers.at(w.w.start).filter(|_| w.lora.is_none()) {
            let outputs = Outputs { panels, bias: w.b.map(|b| &p[b.range()]), first: 0 };
            let spread = if pass.rows.b == 1 { SPREAD_ALONE } else { SPREAD };
            return quantized::product(self.isa, y, &x[..n * w.i], outputs, spread, epilogue);
        }
        let mut init = w.b.map_or(Init::Zero, |b| Init::Bias(&p[b.range()]));
        if let Some(lora) = w.lora {
            // y = h B^T + b here; the product with W is added to it below.
            with_scratch(n * lora.r, |h| {
                self.adapter_rows(x, pass, w, lora, |block, x| self.adapter_in(h, block, x, p, w, lora));
                let b = Mat::new(&p[lora.b.range()], w.o, lora.r);
                self.product(y, init, Mat::new(h, n, lora.r), Rhs::Mat(b.t()), SPREAD, None);
            });
            init = Init::C;
        }
        let weight = p.weight(w, false);
        self.product(y, init, Mat::new(x, n, w.i), weight, spread(pass.rows, weight), epilogue);
    }

    /// Calls `each` with ranges of rows, and with these rows of `x (n, i)` after the adapter's dropout.
    fn adapter_rows(&self, x: &[f32], pass: Pass<Buf>, w: Linear, lora: Lora, mut each: impl FnMut(Range<usize>, Mat)) {
        let (rows, n) = (pass.rows, pass.rows.n());
        let Some(drop) = lora.drop(pass.dropout) else { return each(0..n, Mat::new(x, n, w.i)) };
        with_scratch(n.min(DROPPED) * w.i, |dropped| {
            for first in (0..n).step_by(DROPPED) {
                let block = first..n.min(first + DROPPED);
                for (row, dropped) in block.clone().zip(dropped.chunks_exact_mut(w.i)) {
                    let (s, i) = (row / rows.t, row % rows.t);
                    dropout::dropout(self.isa, dropped, &x[row * w.i..][..w.i], &drop.mask(s), mask_row(w.i, i));
                }
                each(block.clone(), Mat::new(dropped, block.len(), w.i));
            }
        });
    }

    /// `h (n, r) = scale x A^T` for the rows in `block`; `x` holds only these rows.
    fn adapter_in(&self, h: &mut [f32], block: Range<usize>, x: Mat, p: &Buf, w: Linear, lora: Lora) {
        let h = &mut h[block.start * lora.r..block.end * lora.r];
        let a = Mat::new(&p[lora.a.range()], lora.r, w.i);
        self.product(h, Init::Zero, x, Rhs::Mat(a.t()), SPREAD, None);
        scale(h, lora.scale);
    }

    /// The adapter's part of [`Backward::linear_bwd`]: its gradients, and `dx (n, i) =` the gradient that flows back
    /// through it.
    fn adapter_bwd(&self, dx: &mut [f32], g: &mut [f32], dy: &[f32], x: &[f32], pass: Pass<Buf>, w: Linear) {
        let Some(lora) = w.lora else { return };
        let (p, n, r) = (pass.p, pass.rows.n(), lora.r);
        let (a, b) = (Mat::new(&p[lora.a.range()], r, w.i), Mat::new(&p[lora.b.range()], w.o, r));
        let (mut da, db) = gradients(g, lora.a, Some(lora.b));
        let dy = Mat::new(dy, n, w.o);
        with_scratch(2 * n * r, |scratch| {
            let (h, dh) = scratch.split_at_mut(n * r);
            self.product(dh, Init::Zero, dy, Rhs::Mat(b), SPREAD, None);
            scale(dh, lora.scale);
            self.adapter_rows(x, pass, w, lora, |block, x| {
                self.adapter_in(h, block.clone(), x, p, w, lora);
                if let Some(da) = &mut da {
                    let dh = Mat::new(&dh[block.start * r..], block.len(), r);
                    self.product(da, Init::C, dh.t(), Rhs::Mat(x), SPREAD, None);
                }
            });
            if let Some(db) = db {
                // Computed as dB^T = h^T dy: a product with few rows reads dy in place.
                with_scratch(r * w.o, |db_t| {
                    self.product(db_t, Init::Zero, Mat::new(h, n, r).t(), Rhs::Mat(dy), SPREAD, None);
                    for (o, db) in db.chunks_exact_mut(r).enumerate() {
                        db.iter_mut().enumerate().for_each(|(k, db)| *db += db_t[k * w.o + o]);
                    }
                });
            }
            let drop = lora.drop(pass.dropout);
            let drop = drop.map(|drop| move |mut strip: Strip| self.drop_strip(&mut strip, w.i, pass.rows, drop));
            let epilogue = drop.as_ref().map(|drop| drop as Epilogue);
            self.product(dx, Init::Zero, Mat::new(dh, n, r), Rhs::Mat(a), SPREAD, epilogue);
        });
    }

    /// [`Backward::linear_bwd`], with `epilogue` applied to strips of `dx`.
    fn linear_bwd_then(
        &self,
        dx: &mut [f32],
        Gradients { g, add }: &mut Gradients<Buf>,
        (dy, x): (&[f32], &[f32]),
        pass: Pass<Buf>,
        w: Linear,
        epilogue: Option<Epilogue>,
    ) {
        let n = pass.rows.n();
        self.adapter_bwd(dx, g, dy, x, pass, w);
        let init = if w.lora.is_some() { Init::C } else { Init::Zero };
        let dy_mat = Mat::new(dy, n, w.o);
        let weight = pass.p.weight(w, true);
        self.product(dx, init, dy_mat, weight, spread(pass.rows, weight), epilogue);
        let (dw, db) = gradients(g, w.w, w.b);
        if let Some(dw) = dw {
            let init = if *add { Init::C } else { Init::Zero };
            self.product(dw, init, dy_mat.t(), Rhs::Mat(Mat::new(x, n, w.i)), SPREAD, None);
        }
        if let Some(db) = db {
            kernels::sum_rows(self.isa, db, &dy[..n * w.o]);
        }
    }

    /// [`Forward::cross_entropy`] or, given an objective, [`Backward::cross_entropy_grad`].
    fn cross_entropy_of(&self, losses: &mut Buf, logits: &mut Buf, targets: &[u32], v: usize, grad: Option<Objective>) {
        let rows = (PIECE * PIECES).div_ceil(v);
        let outputs = losses[..targets.len()].par_chunks_mut(rows).zip(logits.par_chunks_mut(rows * v));
        for_each(outputs.zip(targets.par_chunks(rows)), |((losses, logits), targets)| {
            let logits = &mut logits[..losses.len() * v];
            kernels::loss::cross_entropy(self.isa, losses, logits, targets, grad);
        });
    }

    /// Applies dropout to rows of `c` channels, in place.
    fn dropout_rows(&self, x: &mut [f32], c: usize, rows: Rows, drop: Dropout) {
        for (row, x) in x.chunks_exact_mut(c).enumerate() {
            let (s, i) = (row / rows.t, row % rows.t);
            dropout::dropout_in_place(self.isa, x, &drop.mask(s), mask_row(c, i));
        }
    }

    /// Applies dropout to a strip of a matrix with `c` columns, in place.
    fn drop_strip(&self, strip: &mut Strip, c: usize, rows: Rows, drop: Dropout) {
        let first = strip.cols().start;
        for (row, x) in strip.iter_mut() {
            let (s, i) = (row / rows.t, row % rows.t);
            dropout::dropout_in_place(self.isa, x, &drop.mask(s), mask_row(c, i) + first);
        }
    }
}

/// The gradients of two parameters; `None` for one that is missing or not trained.
fn gradients(g: &mut [f32], w: Param, b: Option<Param>) -> (Option<&mut [f32]>, Option<&mut [f32]>) {
    let [dw, db] = g.get_disjoint_mut([w.gradient(), b.map_or(0..0, Param::gradient)]).expect("two parameters");
    let wanted = |d: &&mut [f32]| !d.is_empty();
    (Some(dw).filter(wanted), Some(db).filter(wanted))
}

/// Number of multiply-adds above which a product with weights is split across threads.
fn spread(rows: Rows, weight: Rhs) -> usize {
    if rows.b == 1 && matches!(weight, Rhs::Panels { .. }) { SPREAD_ALONE } else { SPREAD }
}

/// The transformation of queries and keys for these rows.
fn qk_of<'a>(p: &'a [f32], rows: Rows<'a>, heads: Heads, w: Qk, table: &'a [f32]) -> qk::Qk<'a> {
    let weights = w.norm.map(|(q, k)| [&p[q.range()], &p[k.range()]]);
    let rotations = w.rotary.then_some(table);
    qk::Qk { heads, t: rows.t, positions: rows.positions, w: weights, eps: w.eps as f32, rotations }
}

/// A convolution over these rows.
fn conv_of<'a>(taps: &'a [f32], rows: Rows<'a>, w: Conv) -> conv::Conv<'a> {
    conv::Conv { w: taps, c: w.c, t: rows.t, positions: rows.positions }
}

/// Calls `work` with the weights of a convolution as [`conv::Conv::w`] wants them.
fn with_taps<R>(p: &[f32], w: Conv, work: impl FnOnce(&[f32]) -> R) -> R {
    with_scratch(w.w.len, |taps| {
        turn(w, |at, tap| taps[tap] = p[w.w.start + at]);
        work(taps)
    })
}

/// Where each weight of a convolution is in `(c, 1, taps)`, the last tap first, and where in `(taps, c)`.
fn turn(w: Conv, mut each: impl FnMut(usize, usize)) {
    for k in 0..w.taps {
        (0..w.c).for_each(|c| each(c * w.taps + w.taps - 1 - k, k * w.c + c));
    }
}

/// `x *= factor`.
fn scale(x: &mut [f32], factor: f64) {
    x.iter_mut().for_each(|x| *x *= factor as f32);
}

/// Runs `work` with scratch memory for `len` numbers, which the thread keeps for the next call.
fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<Floats>> = RefCell::default();
    }
    // The memory is taken off the list while in use: a thread that waits for others inside `work` may run another task
    // that needs scratch memory too.
    let mut scratch = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    scratch.grow(len);
    let result = work(&mut scratch[..len]);
    SCRATCH.with_borrow_mut(|kept| kept.push(scratch));
    result
}

impl Forward for Cpu {
    type Buf = Buf;

    fn with_precision(self, precision: Precision) -> Cpu {
        let bf16 = || self.bf16.or_else(|| kernels::Precision::bf16(self.isa));
        let bf16 = if precision == Precision::Bf16 { bf16() } else { None };
        Cpu { precision: bf16.unwrap_or(kernels::Precision::F32), ..self }
    }

    fn with_quantization(self, quantization: Quantization) -> Cpu {
        match quantization {
            Quantization::None => self,
            _ => Cpu { isa: self.isa.fused(), precision: kernels::Precision::F32, ..self },
        }
    }

    fn place(&self, dst: &mut Buf, start: usize, w: &Rounded) {
        dst.integers.place(start, w);
    }

    fn precision(&self) -> Precision {
        if self.precision == kernels::Precision::F32 { Precision::F32 } else { Precision::Bf16 }
    }

    fn zeros(&self, len: usize) -> Buf {
        Buf::zeros(len)
    }

    fn together<T>(&self, make: impl FnOnce() -> T) -> T {
        kernels::together(make)
    }

    fn upload(&self, dst: &mut Buf, start: usize, src: &[f32]) {
        // In parallel, because the first write to a page makes the system allocate memory for it.
        let pieces = dst.written(start, src.len()).par_chunks_mut(PIECE).zip(src.par_chunks(PIECE));
        for_each(pieces.with_min_len(PIECES), |(dst, src)| dst.copy_from_slice(src));
    }

    fn download(&self, src: &Buf, start: usize, dst: &mut [f32]) {
        dst.copy_from_slice(&src[start..start + dst.len()]);
        src.integers.numbers(start, dst);
    }

    fn clear(&self, x: &mut Buf, span: Span) {
        x.written(span.start, span.len).fill(0.0);
    }

    fn copy(&self, dst: &mut Buf, start: usize, src: &Buf, span: Span) {
        let to = dst.written(start, span.len);
        to.copy_from_slice(&src[span.range()]);
        src.integers.numbers(span.start, to);
    }

    fn pack_weights(&self, p: &mut Buf, linears: &[Linear], backward: bool) {
        // In f32 training every product has many rows, so packing costs as much as it saves.
        if backward && self.precision == kernels::Precision::F32 {
            return;
        }
        let Buf { numbers, panels, prepared, integers } = p;
        if prepared.is_some_and(|both| both || !backward) {
            return;
        }
        if panels.is_empty() {
            let empty = || kernels::Panels::new(self.isa, self.precision);
            panels.extend(linears.iter().map(|w| WeightPanels {
                start: w.w.start,
                forward: empty(),
                backward: empty(),
            }));
        }
        assert_eq!(panels.len(), linears.len(), "always the same layers");
        for_each(panels.par_iter_mut().zip(linears), |(panels, w)| {
            assert_eq!(panels.start, w.w.start, "always the same layers");
            if integers.at(w.w.start).is_some() {
                return;
            }
            let weight = Mat::new(&numbers[w.w.range()], w.o, w.i);
            panels.forward.pack(self.isa, weight.t());
            if backward {
                panels.backward.pack(self.isa, weight);
            }
        });
        *prepared = Some(backward);
    }

    fn embed(&self, x: &mut Buf, pass: Pass<Buf>, w: Embedding, ids: &[u32], drop: Option<Dropout>) {
        let Pass { p, rows, .. } = pass;
        let (wte, wpe, c) = (&p[w.wte.range()], w.wpe.map(|wpe| &p[wpe.range()]), w.c);
        let of_tokens = p.integers.at(w.wte.start);
        let of_positions = w.wpe.and_then(|wpe| p.integers.at(wpe.start));
        let mut position = vec![0.0; if of_positions.is_some() { c } else { 0 }];
        let x = &mut x[..rows.n() * c];
        for (row, (x, &id)) in x.chunks_exact_mut(c).zip(ids).enumerate() {
            match of_tokens {
                Some(wte) => wte.row(id as usize, x),
                None => x.copy_from_slice(&wte[id as usize * c..][..c]),
            }
            if let Some(wpe) = of_positions {
                wpe.row(rows.position(row), &mut position);
                kernels::add(self.isa, x, &position);
            } else if let Some(wpe) = wpe {
                kernels::add(self.isa, x, &wpe[rows.position(row) * c..][..c]);
            }
        }
        if let Some(drop) = drop {
            self.dropout_rows(x, c, rows, drop);
        }
    }

    fn norm(&self, y: &mut Buf, stats: &mut Buf, x: &Buf, pass: Pass<Buf>, w: Norm) {
        let (p, n) = (pass.p, pass.rows.n());
        let c = w.w.len;
        let b = w.b.map(|b| &p[b.range()]);
        let norm = norm::Norm { kind: w.kind.into(), w: &p[w.w.range()], b, eps: w.eps as f32 };
        norm::forward(self.isa, norm, &mut y[..n * c], &mut stats[..2 * n], &x[..n * c]);
    }

    fn linear(&self, y: &mut Buf, x: &Buf, pass: Pass<Buf>, w: Linear) {
        self.linear_then(y, x, pass, w, None);
    }

    fn linear_act(&self, y: &mut Buf, pre: &mut Buf, x: &Buf, pass: Pass<Buf>, w: Linear, act: Activation) {
        if act.keeps_input() {
            self.linear_then(pre, x, pass, w, None);
            let pieces = y[..pass.rows.n() * w.o].par_chunks_mut(PIECE).zip(pre.par_chunks(PIECE)).with_min_len(PIECES);
            for_each(pieces, |(y, pre)| activation::forward(self.isa, act.into(), y, &pre[..y.len()]));
        } else {
            let in_place = match act {
                Activation::ReluSquared => activation::relu_squared_in_place,
                _ => activation::relu_in_place,
            };
            let then = |mut strip: Strip| strip.iter_mut().for_each(|(_, y)| in_place(self.isa, y));
            self.linear_then(y, x, pass, w, Some(&then));
        }
    }

    fn swiglu(&self, y: &mut Buf, z: &Buf, h: usize, n: usize) {
        let rows = (PIECE * PIECES).div_ceil(h);
        let pieces = y[..n * h].par_chunks_mut(rows * h).zip(z[..2 * n * h].par_chunks(2 * rows * h));
        for_each(pieces, |(y, z)| activation::swiglu(self.isa, y, z, h));
    }

    fn linear_residual(
        &self,
        out: &mut Buf,
        residual: &Buf,
        x: &Buf,
        pass: Pass<Buf>,
        w: Linear,
        drop: Option<Dropout>,
    ) {
        let add = |mut strip: Strip| {
            if let Some(drop) = drop {
                self.drop_strip(&mut strip, w.o, pass.rows, drop);
            }
            let first = strip.cols().start;
            for (row, out) in strip.iter_mut() {
                kernels::add(self.isa, out, &residual[row * w.o + first..][..out.len()]);
            }
        };
        self.linear_then(out, x, pass, w, Some(&add));
    }

    fn rotations(&self, table: &mut Buf, hs: usize, theta: f64, positions: &[usize]) {
        for i in 0..hs / 2 {
            let frequency = frequency(i, hs, theta);
            for (row, &pos) in table[..positions.len() * hs].chunks_exact_mut(hs).zip(positions) {
                let (cos, sin) = rotation(pos, frequency);
                (row[i], row[hs / 2 + i]) = (cos as f32, sin as f32);
            }
        }
    }

    fn qk(&self, qkv: &mut Buf, pre: &mut Buf, table: &Buf, pass: Pass<Buf>, w: Qk, heads: Heads) {
        let Pass { p, rows, .. } = pass;
        qk::forward(self.isa, qk_of(p, rows, heads, w, table), &mut qkv[..rows.n() * heads.width()], pre);
    }

    fn conv(&self, y: &mut Buf, x: &Buf, pass: Pass<Buf>, w: Conv) {
        let Pass { p, rows, .. } = pass;
        let len = rows.n() * w.c;
        with_taps(p, w, |taps| conv::forward(self.isa, conv_of(taps, rows, w), &mut y[..len], &x[..len]));
    }

    fn conv_cached(&self, y: &mut Buf, parts: &mut [Cached<Buf>], x: &Buf, p: &Buf, w: Conv) {
        with_taps(p, w, |taps| {
            let mut row = 0;
            for Cached { cache, pos, t } in parts {
                let range = row * w.c..(row + *t) * w.c;
                let tail = &mut cache.tail[w.kept()];
                conv::cached(self.isa, taps, w.c, &mut y[range.clone()], &x[range], tail, *pos);
                row += *t;
            }
        });
    }

    fn attention(&self, out: &mut Buf, lse: &mut Buf, qkv: &Buf, heads: Heads, rows: Rows, drop: Option<Dropout>) {
        let (Rows { b, t, .. }, Heads { c, nh, .. }, width) = (rows, heads, heads.width());
        let outputs = out[..b * t * c].par_chunks_exact_mut(t * c).zip(lse.par_chunks_exact_mut(nh * t));
        let sequences = outputs.zip(qkv.par_chunks_exact(t * width)).enumerate();
        for_each(sequences.with_min_len(SPREAD.div_ceil(t * t * c)), |(s, ((out, lse), qkv))| {
            for Range { start, end } in rows.documents(s) {
                let mask = drop.map(|drop| drop.mask(s).of_document(start));
                let (out, lse) = (&mut out[start * c..end * c], &mut lse[nh * start..nh * end]);
                attention::forward(self.isa, out, lse, &qkv[start * width..end * width], heads, mask.as_ref());
            }
        });
    }

    fn attention_cached(&self, out: &mut Buf, parts: &mut [Cached<Buf>], qkv: &Buf, heads: Heads) {
        let (mut out, mut qkv, mut work) = (&mut out[..], &qkv[..], Vec::with_capacity(parts.len()));
        for part in parts {
            let (mine, rest) = out.split_at_mut(part.t * heads.c);
            let (new, after) = qkv.split_at(part.t * heads.width());
            (out, qkv) = (rest, after);
            work.push((mine, new, part));
        }
        let each = |(out, qkv, Cached { cache, pos, .. }): (&mut [f32], &[f32], &mut Cached<Buf>)| {
            let (block, kv) = (cache.block, heads.kv());
            let (k, v) = (&mut cache.k[..kv * attention::key_stride(block)], &mut cache.v[..block * kv]);
            attention::cached(self.isa, out, k, v, qkv, *pos, heads);
        };
        if work.len() == 1 { work.into_iter().for_each(each) } else { for_each(work.into_par_iter(), each) }
    }

    fn softcap(&self, z: &mut Buf, cap: f64, len: usize) {
        let pieces = z[..len].par_chunks_mut(PIECE).with_min_len(PIECES);
        for_each(pieces, |z| kernels::loss::softcap(self.isa, z, cap as f32));
    }

    fn cross_entropy(&self, losses: &mut Buf, logits: &mut Buf, targets: &[u32], v: usize) {
        self.cross_entropy_of(losses, logits, targets, v, None);
    }
}

impl Backward for Cpu {
    fn embed_bwd(
        &self,
        grads: &mut Gradients<Buf>,
        dx: &mut Buf,
        pass: Pass<Buf>,
        w: Embedding,
        ids: &[u32],
        drop: Option<Dropout>,
    ) {
        let rows = pass.rows;
        let c = w.c;
        let dx = &mut dx[..rows.n() * c];
        if let Some(drop) = drop {
            self.dropout_rows(dx, c, rows, drop);
        }
        let (mut dwte, mut dwpe) = gradients(grads.g, w.wte, w.wpe);
        for (row, (dx, &id)) in dx.chunks_exact(c).zip(ids).enumerate() {
            if let Some(dwte) = &mut dwte {
                kernels::add(self.isa, &mut dwte[id as usize * c..][..c], dx);
            }
            if let Some(dwpe) = &mut dwpe {
                kernels::add(self.isa, &mut dwpe[rows.position(row) * c..][..c], dx);
            }
        }
    }

    fn norm_bwd(&self, dx: &mut Buf, grads: &mut Gradients<Buf>, dy: &Buf, of: Normed<Buf>, pass: Pass<Buf>, w: Norm) {
        let (p, n) = (pass.p, pass.rows.n());
        let c = w.w.len;
        let (dw, db) = gradients(grads.g, w.w, w.b);
        let (dx, dy, x, stats) = (&mut dx[..n * c], &dy[..n * c], &of.x[..n * c], &of.stats[..2 * n]);
        let norm = norm::Norm { kind: w.kind.into(), w: &p[w.w.range()], b: None, eps: w.eps as f32 };
        norm::backward(self.isa, norm, norm::Grads { dx, dw, db }, dy, x, stats);
    }

    fn linear_bwd(&self, dx: &mut Buf, grads: &mut Gradients<Buf>, dy: &Buf, x: &Buf, pass: Pass<Buf>, w: Linear) {
        self.linear_bwd_then(dx, grads, (dy, x), pass, w, None);
    }

    fn linear_bwd_act(
        &self,
        dpre: &mut Buf,
        grads: &mut Gradients<Buf>,
        dy: &Buf,
        of: Activated<Buf>,
        pass: Pass<Buf>,
        w: Linear,
    ) {
        let Activated { y, pre, act } = of;
        let of = if act.keeps_input() { pre } else { y };
        let through = |mut strip: Strip| {
            let first = strip.cols().start;
            for (row, d) in strip.iter_mut() {
                activation::backward(self.isa, act.into(), d, &of[row * w.i + first..][..d.len()]);
            }
        };
        self.linear_bwd_then(dpre, grads, (dy, y), pass, w, Some(&through));
    }

    fn swiglu_bwd(&self, dz: &mut Buf, dy: &Buf, z: &Buf, h: usize, n: usize) {
        let rows = (PIECE * PIECES).div_ceil(h);
        let inputs = dy[..n * h].par_chunks(rows * h).zip(z[..2 * n * h].par_chunks(2 * rows * h));
        let pieces = dz[..2 * n * h].par_chunks_mut(2 * rows * h).zip(inputs);
        for_each(pieces, |(dz, (dy, z))| activation::swiglu_backward(self.isa, dz, dy, z, h));
    }

    fn dropout_bwd(&self, dx: &mut Buf, dy: &Buf, c: usize, rows: Rows, drop: Dropout) {
        for (row, (dx, dy)) in dx[..rows.n() * c].chunks_exact_mut(c).zip(dy.chunks_exact(c)).enumerate() {
            let (s, i) = (row / rows.t, row % rows.t);
            dropout::dropout(self.isa, dx, dy, &drop.mask(s), mask_row(c, i));
        }
    }

    fn conv_bwd(&self, d: &mut Buf, grads: &mut Gradients<Buf>, x: &Buf, pass: Pass<Buf>, w: Conv) {
        let Pass { p, rows, .. } = pass;
        let len = rows.n() * w.c;
        let (dw, _) = gradients(grads.g, w.w, None);
        with_taps(p, w, |taps| {
            let conv = conv_of(taps, rows, w);
            let Some(dw) = dw else { return conv::backward(self.isa, conv, &mut d[..len], None, &x[..len]) };
            with_scratch(w.w.len, |dtaps| {
                dtaps.fill(0.0);
                conv::backward(self.isa, conv, &mut d[..len], Some(dtaps), &x[..len]);
                turn(w, |at, tap| dw[at] += dtaps[tap]);
            });
        });
    }

    fn qk_bwd(
        &self,
        dqkv: &mut Buf,
        grads: &mut Gradients<Buf>,
        of: QkInput<Buf>,
        pass: Pass<Buf>,
        w: Qk,
        heads: Heads,
    ) {
        let (Pass { p, rows, .. }, QkInput { pre, table }) = (pass, of);
        let (dq, dk) = w.norm.map_or((None, None), |(q, k)| gradients(grads.g, q, Some(k)));
        qk::backward(self.isa, qk_of(p, rows, heads, w, table), &mut dqkv[..rows.n() * heads.width()], [dq, dk], pre);
    }

    fn attention_bwd(
        &self,
        dqkv: &mut Buf,
        dout: &Buf,
        of: Attended<Buf>,
        heads: Heads,
        rows: Rows,
        drop: Option<Dropout>,
    ) {
        let Attended { qkv, out, lse } = of;
        let (Rows { b, t, .. }, Heads { c, nh, .. }, width) = (rows, heads, heads.width());
        let saved = out.par_chunks_exact(t * c).zip(lse.par_chunks_exact(nh * t)).zip(qkv.par_chunks_exact(t * width));
        let grads = dqkv[..b * t * width].par_chunks_exact_mut(t * width).zip(dout.par_chunks_exact(t * c));
        let sequences = grads.zip(saved).enumerate();
        for_each(sequences.with_min_len(SPREAD.div_ceil(t * t * c)), |(s, ((dqkv, dout), ((out, lse), qkv)))| {
            for Range { start, end } in rows.documents(s) {
                let mask = drop.map(|drop| drop.mask(s).of_document(start));
                let (of_c, of_width) = (start * c..end * c, start * width..end * width);
                let (out, lse) = (&out[of_c.clone()], &lse[nh * start..nh * end]);
                let saved = attention::Saved { qkv: &qkv[of_width.clone()], out, lse };
                attention::backward(self.isa, &mut dqkv[of_width], &dout[of_c], saved, heads, mask.as_ref());
            }
        });
    }

    fn cross_entropy_grad(&self, losses: &mut Buf, logits: &mut Buf, targets: &[u32], v: usize, objective: Objective) {
        self.cross_entropy_of(losses, logits, targets, v, Some(objective));
    }

    fn teach(&self, g: &mut Buf, z: &Buf, targets: &[u32], v: usize, scale: f64) {
        let (n, rows) = (targets.len(), (PIECE * PIECES).div_ceil(v));
        let each =
            g[..n * v].par_chunks_mut(rows * v).zip(z[..n * v].par_chunks(rows * v)).zip(targets.par_chunks(rows));
        for_each(each, |((g, z), targets)| kernels::loss::teach(self.isa, g, z, targets, scale as f32));
    }

    fn reduce(&self, parts: &mut [&mut Buf], spans: &[Span]) -> f64 {
        let Some((total, rest)) = parts.split_first_mut() else { return 0.0 };
        let mut squares = vec![0.0; spans.iter().map(|span| span.len.div_ceil(PIECE)).sum()];
        let mut sums = &mut squares[..];
        for span in spans {
            let (mine, others) = sums.split_at_mut(span.len.div_ceil(PIECE));
            sums = others;
            let pieces = total[span.range()].par_chunks_mut(PIECE).zip(mine).enumerate();
            for_each(pieces, |(piece, (total, sum))| {
                for part in &*rest {
                    kernels::add(self.isa, total, &part[span.start + piece * PIECE..][..total.len()]);
                }
                *sum = kernels::optimizer::sum_squares(self.isa, total);
            });
        }
        // The partial sums are collected first, so that they are added in the same order for any number of threads.
        squares.iter().sum()
    }

    fn adamw(&self, p: &mut Buf, g: &Buf, m: &mut Buf, v: &mut Buf, span: Span, h: &AdamW) {
        let at = span.range();
        let moments = m[at.clone()].par_chunks_mut(PIECE).zip(v[at.clone()].par_chunks_mut(PIECE));
        let values = p[at.clone()].par_chunks_mut(PIECE).zip(g[at].par_chunks(PIECE));
        for_each(values.zip(moments), |((p, g), (m, v))| kernels::optimizer::adamw(self.isa, p, g, m, v, h));
    }

    fn muon(&self, p: &mut Buf, g: &Buf, m: &mut Buf, matrices: &[Matrix], h: &Muon) {
        let g: &[f32] = g;
        let (mut p, mut m, mut at) = (&mut p[..], &mut m[..], 0);
        let mut work = Vec::with_capacity(matrices.len());
        for w in matrices {
            let skip = w.span.start - at;
            let ((mine_p, rest_p), (mine_m, rest_m)) =
                (p[skip..].split_at_mut(w.span.len), m[skip..].split_at_mut(w.span.len));
            (p, m, at) = (rest_p, rest_m, w.span.range().end);
            work.push((mine_p, &g[w.span.range()], mine_m, w));
        }
        // The most expensive matrices first, so that there is little left to wait for at the end.
        work.sort_by_key(|(.., w)| std::cmp::Reverse(w.multiply_adds(h.ns_steps)));
        let each = |(p, g, m, w): (&mut [f32], &[f32], &mut [f32], &Matrix)| {
            kernels::optimizer::muon(self.isa, self.precision, p, g, m, (w.rows, w.cols), h);
        };
        for_each(work.into_par_iter().with_max_len(1), each);
    }

    fn round(&self, q: &mut Buf, p: &Buf, matrices: &[Matrix], scheme: Quantization) {
        matrices.iter().for_each(|m| quant::round(scheme, &p[m.span.range()], m.cols, &mut q[m.span.range()]));
    }
}

//! The definition of every operation: f64, plain loops, no cleverness. Kept forever, never optimised.

use super::waist::{
    Activated, Attended, Backward, Cached, Forward, Gradients, KvCache, Normed, Pass, QkInput, Rows, frequency,
    mask_row, rotation,
};
use crate::{
    config::{Activation, NormKind},
    params::{Conv, Embedding, Linear, Lora, Matrix, Norm, Qk, Span},
    rng::Dropout,
};
use kinglet_kernels::{
    attention::{self, Heads, key_stride},
    loss::{IGNORE, Objective},
    optimizer::{AdamW, MUON_EPS, Muon, NEWTON_SCHULZ, muon_factor},
};
use std::ops::Range;

/// The slow, exact backend; buffers are vectors of f64.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// The factor that dropout multiplies element `index` of sequence `s` by.
fn factor(drop: Option<Dropout>, s: usize, index: usize) -> f64 {
    drop.map_or(1.0, |drop| f64::from(drop.mask(s).factor(index)))
}

/// The document of sequence `s` that position `i` belongs to.
fn document(rows: Rows, s: usize, i: usize) -> Range<usize> {
    rows.documents(s).find(|document| document.contains(&i)).expect("documents cover a sequence")
}

/// The factor that dropout multiplies the weight of key `j` for query `i` of head `h` by, both positions in sequence `s`.
fn attention_factor(drop: Option<Dropout>, rows: Rows, s: usize, h: usize, (i, j): (usize, usize)) -> f64 {
    let Range { start, end } = document(rows, s, i);
    let index = attention::mask_row(end - start, h, j - start) + (i - start);
    drop.map_or(1.0, |drop| f64::from(drop.mask(s).of_document(start).factor(index)))
}

/// `(s, i, j)` of every element of `rows` rows of `c` channels, and its index in the buffer.
fn elements(rows: Rows<'_>, c: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> + use<'_> {
    let at = move |s, i, j| (s, i, j, (s * rows.t + i) * c + j);
    (0..rows.b).flat_map(move |s| (0..rows.t).flat_map(move |i| (0..c).map(move |j| at(s, i, j))))
}

/// An adapter's input after dropout `(n, i)`, and `h (n, r)`, that input times A^T.
fn adapter(x: &[f64], pass: Pass<Vec<f64>>, w: Linear, lora: Lora) -> (Vec<f64>, Vec<f64>) {
    let Pass { p, rows, dropout } = pass;
    let keep = |s, i, j| factor(lora.drop(dropout), s, mask_row(w.i, i) + j);
    let dropped: Vec<f64> = elements(rows, w.i).map(|(s, i, j, at)| x[at] * keep(s, i, j)).collect();
    let row = |s: usize, i: usize| &dropped[(s * rows.t + i) * w.i..][..w.i];
    let a = |k: usize| &p[lora.a.start + k * w.i..][..w.i];
    let h = elements(rows, lora.r).map(|(s, i, k, _)| dot(row(s, i), a(k))).collect();
    (dropped, h)
}

fn activate(act: Activation, x: f64) -> f64 {
    match act {
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0).powi(2),
        Activation::Gelu => x * 0.5 * (1.0 + libm::erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::Swiglu => unreachable!("an operation of its own"),
    }
}

/// The derivative as a function of the input or, for activations that do not keep their input, of the output.
fn derivative(act: Activation, x: f64) -> f64 {
    match act {
        // The output max(x, 0) is positive exactly where x is.
        Activation::Relu => f64::from(x > 0.0),
        Activation::ReluSquared => 2.0 * x.sqrt(),
        Activation::Gelu => {
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            0.5 * (1.0 + libm::erf(x / 2f64.sqrt())) + x * density
        }
        Activation::GeluTanh => {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            let tanh = (root * (x + 0.044715 * x.powi(3))).tanh();
            0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * root * (1.0 + 3.0 * 0.044715 * x * x)
        }
        Activation::Swiglu => unreachable!("an operation of its own"),
    }
}

/// `softmax(scale * q . key_j)` over the keys seen, before dropout, and the row's log-sum-exp.
fn attention_row<'a>(q: &[f64], key: impl Fn(usize) -> &'a [f64], seen: usize, scale: f64) -> (Vec<f64>, f64) {
    let scores: Vec<f64> = (0..seen).map(|j| scale * dot(q, key(j))).collect();
    let top = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
    let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
    (scores.iter().map(|s| (s - top).exp() / sum).collect(), top + sum.ln())
}

/// The Newton-Schulz iteration on `x (rows, cols)` divided by its norm.
fn orthogonal(mut x: Vec<f64>, rows: usize, cols: usize, steps: usize) -> Vec<f64> {
    // (n, m) from (n, k) and the transpose, in rows, of (k, m).
    let product = |a: &[f64], b_t: &[f64], k: usize| -> Vec<f64> {
        a.chunks_exact(k).flat_map(|a| b_t.chunks_exact(k).map(|b| dot(a, b))).collect()
    };
    let transpose =
        |x: &[f64], cols: usize| -> Vec<f64> { (0..cols).flat_map(|j| x[j..].iter().step_by(cols).copied()).collect() };
    let norm = dot(&x, &x).sqrt().max(MUON_EPS);
    x.iter_mut().for_each(|x| *x /= norm);
    let [a, b, c] = NEWTON_SCHULZ;
    for _ in 0..steps {
        // X = a X + (b A + c A A) X with A = X X^T, or the same from the right with A = X^T X where that is smaller.
        let x_t = transpose(&x, cols);
        let gram = if rows <= cols { product(&x, &x, cols) } else { product(&x_t, &x_t, rows) };
        let r = rows.min(cols);
        let squared = product(&gram, &gram, r);
        let p: Vec<f64> = gram.iter().zip(squared).map(|(g, s)| b * g + c * s).collect();
        let px = if rows <= cols { product(&p, &x_t, r) } else { product(&x, &p, r) };
        x.iter_mut().zip(px).for_each(|(x, px)| *x = a * *x + px);
    }
    x
}

/// Rotates the pairs of a head by the angles of `table (hs)`; `direction` -1 rotates back.
fn rotate(x: &mut [f64], table: &[f64], direction: f64) {
    let half = x.len() / 2;
    for i in 0..half {
        let (cos, sin) = (table[i], direction * table[half + i]);
        (x[i], x[half + i]) = (x[i] * cos - x[half + i] * sin, x[half + i] * cos + x[i] * sin);
    }
}

/// `ln(sum(e^z))`.
fn log_sum_exp(z: &[f64]) -> f64 {
    let top = z.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
    top + z.iter().map(|z| (z - top).exp()).sum::<f64>().ln()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Where the weight is that a convolution gives to channel `c`, `k` positions before.
fn tap_of(w: Conv, c: usize, k: usize) -> usize {
    w.w.start + c * w.taps + w.taps - 1 - k
}

impl Forward for Reference {
    type Buf = Vec<f64>;

    fn zeros(&self, len: usize) -> Vec<f64> {
        vec![0.0; len]
    }

    fn upload(&self, dst: &mut Vec<f64>, start: usize, src: &[f32]) {
        dst[start..].iter_mut().zip(src).for_each(|(dst, &src)| *dst = f64::from(src));
    }

    fn download(&self, src: &Vec<f64>, start: usize, dst: &mut [f32]) {
        dst.iter_mut().zip(&src[start..]).for_each(|(dst, &src)| *dst = src as f32);
    }

    fn clear(&self, x: &mut Vec<f64>, span: Span) {
        x[span.range()].fill(0.0);
    }

    fn copy(&self, dst: &mut Vec<f64>, start: usize, src: &Vec<f64>, span: Span) {
        dst[start..start + span.len].copy_from_slice(&src[span.range()]);
    }

    fn embed(&self, x: &mut Vec<f64>, pass: Pass<Vec<f64>>, w: Embedding, ids: &[u32], drop: Option<Dropout>) {
        let Pass { p, rows, .. } = pass;
        for (s, i, j, at) in elements(rows, w.c) {
            let token = p[w.wte.start + ids[s * rows.t + i] as usize * w.c + j];
            let position = w.wpe.map_or(0.0, |wpe| p[wpe.start + rows.position(s * rows.t + i) * w.c + j]);
            x[at] = (token + position) * factor(drop, s, mask_row(w.c, i) + j);
        }
    }

    fn norm(&self, y: &mut Vec<f64>, stats: &mut Vec<f64>, x: &Vec<f64>, pass: Pass<Vec<f64>>, w: Norm) {
        let (p, n) = (pass.p, pass.rows.n());
        let c = w.w.len;
        for r in 0..n {
            let row = &x[r * c..][..c];
            let mean = match w.kind {
                NormKind::LayerNorm => row.iter().sum::<f64>() / c as f64,
                NormKind::RmsNorm => 0.0,
            };
            let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / c as f64;
            let rstd = 1.0 / (var + w.eps).sqrt();
            (stats[2 * r], stats[2 * r + 1]) = (mean, rstd);
            for j in 0..c {
                y[r * c + j] = (row[j] - mean) * rstd * p[w.w.start + j] + w.b.map_or(0.0, |b| p[b.start + j]);
            }
        }
    }

    fn linear(&self, y: &mut Vec<f64>, x: &Vec<f64>, pass: Pass<Vec<f64>>, w: Linear) {
        let Pass { p, rows, .. } = pass;
        for r in 0..rows.n() {
            for o in 0..w.o {
                let product = dot(&x[r * w.i..][..w.i], &p[w.w.start + o * w.i..][..w.i]);
                y[r * w.o + o] = product + w.b.map_or(0.0, |b| p[b.start + o]);
            }
        }
        let Some(lora) = w.lora else { return };
        let h = adapter(x, pass, w, lora).1;
        for r in 0..rows.n() {
            for o in 0..w.o {
                let b = &p[lora.b.start + o * lora.r..][..lora.r];
                y[r * w.o + o] += lora.scale * dot(&h[r * lora.r..][..lora.r], b);
            }
        }
    }

    fn linear_act(
        &self,
        y: &mut Vec<f64>,
        pre: &mut Vec<f64>,
        x: &Vec<f64>,
        pass: Pass<Vec<f64>>,
        w: Linear,
        act: Activation,
    ) {
        let n = pass.rows.n();
        self.linear(y, x, pass, w);
        if act.keeps_input() {
            pre[..n * w.o].copy_from_slice(&y[..n * w.o]);
        }
        y[..n * w.o].iter_mut().for_each(|y| *y = activate(act, *y));
    }

    fn swiglu(&self, y: &mut Vec<f64>, z: &Vec<f64>, h: usize, n: usize) {
        for (r, j) in (0..n).flat_map(|r| (0..h).map(move |j| (r, j))) {
            let (gate, up) = (z[r * 2 * h + j], z[r * 2 * h + h + j]);
            y[r * h + j] = gate / (1.0 + (-gate).exp()) * up;
        }
    }

    fn linear_residual(
        &self,
        out: &mut Vec<f64>,
        residual: &Vec<f64>,
        x: &Vec<f64>,
        pass: Pass<Vec<f64>>,
        w: Linear,
        drop: Option<Dropout>,
    ) {
        self.linear(out, x, pass, w);
        for (s, i, j, at) in elements(pass.rows, w.o) {
            out[at] = residual[at] + out[at] * factor(drop, s, mask_row(w.o, i) + j);
        }
    }

    fn rotations(&self, table: &mut Vec<f64>, hs: usize, theta: f64, positions: &[usize]) {
        for (r, i) in (0..positions.len()).flat_map(|r| (0..hs / 2).map(move |i| (r, i))) {
            (table[r * hs + i], table[r * hs + hs / 2 + i]) = rotation(positions[r], frequency(i, hs, theta));
        }
    }

    fn qk(&self, qkv: &mut Vec<f64>, pre: &mut Vec<f64>, table: &Vec<f64>, pass: Pass<Vec<f64>>, w: Qk, heads: Heads) {
        let Pass { p, rows, .. } = pass;
        let (hs, qk) = (heads.hs(), heads.c + heads.kv());
        for (r, h) in (0..rows.n()).flat_map(|r| (0..heads.nh + heads.nkv).map(move |h| (r, h))) {
            let x = &mut qkv[r * heads.width() + h * hs..][..hs];
            if let Some((q, k)) = w.norm {
                pre[r * qk + h * hs..][..hs].copy_from_slice(x);
                let rstd = 1.0 / (dot(x, x) / hs as f64 + w.eps).sqrt();
                let weight = if h < heads.nh { q } else { k };
                (0..hs).for_each(|i| x[i] *= rstd * p[weight.start + i]);
            }
            if w.rotary {
                rotate(x, &table[rows.position(r) * hs..][..hs], 1.0);
            }
        }
    }

    fn conv(&self, y: &mut Vec<f64>, x: &Vec<f64>, pass: Pass<Vec<f64>>, w: Conv) {
        for (row, c) in (0..pass.rows.n()).flat_map(|row| (0..w.c).map(move |c| (row, c))) {
            let tap = |k: usize| pass.p[tap_of(w, c, k)] * x[(row - k) * w.c + c];
            y[row * w.c + c] = (0..w.taps.min(pass.rows.position(row) + 1)).map(tap).sum();
        }
    }

    fn conv_cached(&self, y: &mut Vec<f64>, parts: &mut [Cached<Vec<f64>>], x: &Vec<f64>, p: &Vec<f64>, w: Conv) {
        let (kept, mut row) = (w.taps - 1, 0);
        for Cached { cache, pos, t } in parts {
            let tail = &mut cache.tail[w.kept()];
            for pos in *pos..*pos + *t {
                for c in 0..w.c {
                    let newest = x[row * w.c + c];
                    let before = |k: usize| if k == 0 { newest } else { tail[(pos - k) % kept * w.c + c] };
                    let sum = (0..w.taps.min(pos + 1)).map(|k| p[tap_of(w, c, k)] * before(k)).sum();
                    y[row * w.c + c] = sum;
                }
                tail[pos % kept * w.c..][..w.c].copy_from_slice(&x[row * w.c..][..w.c]);
                row += 1;
            }
        }
    }

    fn attention(
        &self,
        out: &mut Vec<f64>,
        lse: &mut Vec<f64>,
        qkv: &Vec<f64>,
        heads: Heads,
        rows: Rows,
        drop: Option<Dropout>,
    ) {
        let Rows { b, t, .. } = rows;
        let Heads { c, nh, nkv, scale } = heads;
        let hs = heads.hs();
        for (s, h, i) in (0..b).flat_map(|s| (0..nh).flat_map(move |h| (0..t).map(move |i| (s, h, i)))) {
            let shared = h / (nh / nkv) * hs;
            let starts = [h * hs, c + shared, c + heads.kv() + shared];
            let part = |which: usize, i: usize| &qkv[(s * t + i) * heads.width() + starts[which]..][..hs];
            let q = part(0, i);
            let Range { start, end } = document(rows, s, i);
            let (weights, row_lse) = attention_row(q, |j| part(1, start + j), i + 1 - start, scale);
            lse[(s * t + start) * nh + h * (end - start) + i - start] = row_lse;
            for k in 0..hs {
                let weighted =
                    |j: usize| weights[j - start] * attention_factor(drop, rows, s, h, (i, j)) * part(2, j)[k];
                out[(s * t + i) * c + h * hs + k] = (start..=i).map(weighted).sum();
            }
        }
    }

    fn attention_cached(&self, out: &mut Vec<f64>, parts: &mut [Cached<Vec<f64>>], qkv: &Vec<f64>, heads: Heads) {
        let Heads { c, nh, nkv, scale } = heads;
        let (hs, kv, mut row) = (heads.hs(), heads.kv(), 0);
        for Cached { cache: KvCache { k, v, block, .. }, pos, t } in parts {
            for pos in *pos..*pos + *t {
                let (q, new) = qkv[row * heads.width()..][..heads.width()].split_at(c);
                let newest = pos % *block;
                let stride = key_stride(*block);
                new[..kv].iter().enumerate().for_each(|(d, new)| k[d * stride + newest] = *new);
                v[newest * kv..][..kv].copy_from_slice(&new[kv..]);
                let seen = (*block).min(pos + 1);
                for h in 0..nh {
                    // Where the `j`th position of the window is in the cache, and the first channel of its key and value.
                    let at = |j: usize| (pos + 1 - seen + j) % *block;
                    let first = h / (nh / nkv) * hs;
                    let keys: Vec<f64> = (0..seen)
                        .flat_map(|j| (0..hs).map(move |d| (j, d)))
                        .map(|(j, d)| k[(first + d) * stride + at(j)])
                        .collect();
                    let (weights, _) = attention_row(&q[h * hs..][..hs], |j| &keys[j * hs..][..hs], seen, scale);
                    for d in 0..hs {
                        let weighted = |(j, w): (usize, &f64)| w * v[at(j) * kv + first + d];
                        out[row * c + h * hs + d] = weights.iter().enumerate().map(weighted).sum();
                    }
                }
                row += 1;
            }
        }
    }

    fn softcap(&self, z: &mut Vec<f64>, cap: f64, len: usize) {
        z[..len].iter_mut().for_each(|z| *z = cap * (*z / cap).tanh());
    }

    fn cross_entropy(&self, losses: &mut Vec<f64>, logits: &mut Vec<f64>, targets: &[u32], v: usize) {
        for ((loss, z), &target) in losses.iter_mut().zip(logits.chunks_exact(v)).zip(targets) {
            *loss = if target == IGNORE { 0.0 } else { log_sum_exp(z) - z[target as usize] };
        }
    }
}

impl Backward for Reference {
    fn embed_bwd(
        &self,
        grads: &mut Gradients<Vec<f64>>,
        dx: &mut Vec<f64>,
        pass: Pass<Vec<f64>>,
        w: Embedding,
        ids: &[u32],
        drop: Option<Dropout>,
    ) {
        let (g, rows) = (&mut *grads.g, pass.rows);
        for (s, i, j, at) in elements(rows, w.c) {
            let d = dx[at] * factor(drop, s, mask_row(w.c, i) + j);
            if w.wte.trainable {
                g[w.wte.start + ids[s * rows.t + i] as usize * w.c + j] += d;
            }
            if let Some(wpe) = w.wpe.filter(|wpe| wpe.trainable) {
                g[wpe.start + rows.position(s * rows.t + i) * w.c + j] += d;
            }
        }
    }

    fn norm_bwd(
        &self,
        dx: &mut Vec<f64>,
        grads: &mut Gradients<Vec<f64>>,
        dy: &Vec<f64>,
        of: Normed<Vec<f64>>,
        pass: Pass<Vec<f64>>,
        w: Norm,
    ) {
        let (Normed { x, stats }, g) = (of, &mut *grads.g);
        let (p, n) = (pass.p, pass.rows.n());
        let c = w.w.len;
        for r in 0..n {
            let (mean, rstd) = (stats[2 * r], stats[2 * r + 1]);
            let xhat = |j: usize| (x[r * c + j] - mean) * rstd;
            let d = |j: usize| dy[r * c + j] * p[w.w.start + j];
            let d_mean = match w.kind {
                NormKind::LayerNorm => (0..c).map(d).sum::<f64>() / c as f64,
                NormKind::RmsNorm => 0.0,
            };
            let dx_mean = (0..c).map(|j| d(j) * xhat(j)).sum::<f64>() / c as f64;
            for j in 0..c {
                dx[r * c + j] += rstd * (d(j) - d_mean - xhat(j) * dx_mean);
                if w.w.trainable {
                    g[w.w.start + j] += dy[r * c + j] * xhat(j);
                }
                if let Some(b) = w.b.filter(|b| b.trainable) {
                    g[b.start + j] += dy[r * c + j];
                }
            }
        }
    }

    fn linear_bwd(
        &self,
        dx: &mut Vec<f64>,
        grads: &mut Gradients<Vec<f64>>,
        dy: &Vec<f64>,
        x: &Vec<f64>,
        pass: Pass<Vec<f64>>,
        w: Linear,
    ) {
        let Pass { p, rows, dropout } = pass;
        let g = &mut *grads.g;
        dx[..rows.n() * w.i].fill(0.0);
        if !grads.add {
            g[w.w.gradient()].fill(0.0);
        }
        for r in 0..rows.n() {
            for o in 0..w.o {
                let d = dy[r * w.o + o];
                for i in 0..w.i {
                    dx[r * w.i + i] += d * p[w.w.start + o * w.i + i];
                    if w.w.trainable {
                        g[w.w.start + o * w.i + i] += d * x[r * w.i + i];
                    }
                }
                if let Some(b) = w.b.filter(|b| b.trainable) {
                    g[b.start + o] += d;
                }
            }
        }
        let Some(lora) = w.lora else { return };
        let (dropped, h) = adapter(x, pass, w, lora);
        for (s, i, k, at) in elements(rows, lora.r) {
            // The gradient of element k of a row of h.
            let (row, mut dh) = (s * rows.t + i, 0.0);
            for o in 0..w.o {
                let d = lora.scale * dy[row * w.o + o];
                dh += d * p[lora.b.start + o * lora.r + k];
                if lora.b.trainable {
                    g[lora.b.start + o * lora.r + k] += d * h[at];
                }
            }
            for j in 0..w.i {
                let keep = factor(lora.drop(dropout), s, mask_row(w.i, i) + j);
                dx[row * w.i + j] += dh * p[lora.a.start + k * w.i + j] * keep;
                if lora.a.trainable {
                    g[lora.a.start + k * w.i + j] += dh * dropped[row * w.i + j];
                }
            }
        }
    }

    fn linear_bwd_act(
        &self,
        dpre: &mut Vec<f64>,
        grads: &mut Gradients<Vec<f64>>,
        dy: &Vec<f64>,
        of: Activated<Vec<f64>>,
        pass: Pass<Vec<f64>>,
        w: Linear,
    ) {
        let Activated { y, pre, act } = of;
        self.linear_bwd(dpre, grads, dy, y, pass, w);
        let of = if act.keeps_input() { pre } else { y };
        dpre[..pass.rows.n() * w.i].iter_mut().zip(of).for_each(|(d, &of)| *d *= derivative(act, of));
    }

    fn swiglu_bwd(&self, dz: &mut Vec<f64>, dy: &Vec<f64>, z: &Vec<f64>, h: usize, n: usize) {
        for (r, j) in (0..n).flat_map(|r| (0..h).map(move |j| (r, j))) {
            let (at_gate, at_up) = (r * 2 * h + j, r * 2 * h + h + j);
            let (gate, up, dy) = (z[at_gate], z[at_up], dy[r * h + j]);
            let sigmoid = 1.0 / (1.0 + (-gate).exp());
            dz[at_gate] = dy * up * (sigmoid + gate * sigmoid * (1.0 - sigmoid));
            dz[at_up] = dy * gate * sigmoid;
        }
    }

    fn dropout_bwd(&self, dx: &mut Vec<f64>, dy: &Vec<f64>, c: usize, rows: Rows, drop: Dropout) {
        for (s, i, j, at) in elements(rows, c) {
            dx[at] = dy[at] * factor(Some(drop), s, mask_row(c, i) + j);
        }
    }

    fn conv_bwd(&self, d: &mut Vec<f64>, grads: &mut Gradients<Vec<f64>>, x: &Vec<f64>, pass: Pass<Vec<f64>>, w: Conv) {
        let (rows, n) = (pass.rows, pass.rows.n());
        let dy = d[..n * w.c].to_vec();
        d[..n * w.c].fill(0.0);
        for (row, c) in (0..n).flat_map(|row| (0..w.c).map(move |c| (row, c))) {
            for k in 0..w.taps.min(rows.position(row) + 1) {
                let (at, from) = (tap_of(w, c, k), (row - k) * w.c + c);
                d[from] += pass.p[at] * dy[row * w.c + c];
                if w.w.trainable {
                    grads.g[at] += x[from] * dy[row * w.c + c];
                }
            }
        }
    }

    fn qk_bwd(
        &self,
        dqkv: &mut Vec<f64>,
        grads: &mut Gradients<Vec<f64>>,
        of: QkInput<Vec<f64>>,
        pass: Pass<Vec<f64>>,
        w: Qk,
        heads: Heads,
    ) {
        let Pass { p, rows, .. } = pass;
        let (QkInput { pre, table }, g) = (of, &mut *grads.g);
        let (hs, qk) = (heads.hs(), heads.c + heads.kv());
        for (r, h) in (0..rows.n()).flat_map(|r| (0..heads.nh + heads.nkv).map(move |h| (r, h))) {
            let d = &mut dqkv[r * heads.width() + h * hs..][..hs];
            if w.rotary {
                rotate(d, &table[rows.position(r) * hs..][..hs], -1.0);
            }
            let Some((q, k)) = w.norm else { continue };
            let weight = if h < heads.nh { q } else { k };
            let x = &pre[r * qk + h * hs..][..hs];
            let rstd = 1.0 / (dot(x, x) / hs as f64 + w.eps).sqrt();
            let dxhat: Vec<f64> = (0..hs).map(|i| d[i] * p[weight.start + i]).collect();
            let mean = rstd * dot(&dxhat, x) / hs as f64;
            for i in 0..hs {
                if weight.trainable {
                    g[weight.start + i] += d[i] * x[i] * rstd;
                }
                d[i] = rstd * (dxhat[i] - x[i] * rstd * mean);
            }
        }
    }

    fn attention_bwd(
        &self,
        dqkv: &mut Vec<f64>,
        dout: &Vec<f64>,
        of: Attended<Vec<f64>>,
        heads: Heads,
        rows: Rows,
        drop: Option<Dropout>,
    ) {
        let (Rows { b, t, .. }, qkv) = (rows, of.qkv);
        let Heads { c, nh, nkv, scale } = heads;
        let hs = heads.hs();
        dqkv[..b * t * heads.width()].fill(0.0);
        for (s, h, i) in (0..b).flat_map(|s| (0..nh).flat_map(move |h| (0..t).map(move |i| (s, h, i)))) {
            let shared = h / (nh / nkv) * hs;
            let starts = [h * hs, c + shared, c + heads.kv() + shared];
            let at = |which: usize, i: usize| (s * t + i) * heads.width() + starts[which];
            let part = |which: usize, i: usize| &qkv[at(which, i)..][..hs];
            let q = part(0, i);
            let start = document(rows, s, i).start;
            let (weights, _) = attention_row(q, |j| part(1, start + j), i + 1 - start, scale);
            let dout = &dout[(s * t + i) * c + h * hs..][..hs];
            let keep = |j: usize| attention_factor(drop, rows, s, h, (i, j));
            let dweights: Vec<f64> = (start..=i).map(|j| keep(j) * dot(dout, part(2, j))).collect();
            let mean = dot(&weights, &dweights);
            for j in start..=i {
                let (weight, dweight) = (weights[j - start], dweights[j - start]);
                let dscore = scale * weight * (dweight - mean);
                for k in 0..hs {
                    dqkv[at(0, i) + k] += dscore * part(1, j)[k];
                    dqkv[at(1, j) + k] += dscore * q[k];
                    dqkv[at(2, j) + k] += weight * keep(j) * dout[k];
                }
            }
        }
    }

    fn cross_entropy_grad(
        &self,
        losses: &mut Vec<f64>,
        logits: &mut Vec<f64>,
        targets: &[u32],
        v: usize,
        objective: Objective,
    ) {
        let Objective { scale, z_loss, softcap } = objective;
        self.cross_entropy(losses, logits, targets, v);
        for (z, &target) in logits.chunks_exact_mut(v).zip(targets) {
            if target == IGNORE {
                z.fill(0.0);
                continue;
            }
            let lse = log_sum_exp(z);
            for (j, z) in z.iter_mut().enumerate() {
                let slope = if softcap > 0.0 { 1.0 - (*z / softcap).powi(2) } else { 1.0 };
                let onehot = if j == target as usize { 1.0 } else { 0.0 };
                *z = scale * ((*z - lse).exp() * (1.0 + 2.0 * z_loss * lse) - onehot) * slope;
            }
        }
    }

    fn teach(&self, g: &mut Vec<f64>, z: &Vec<f64>, targets: &[u32], v: usize, scale: f64) {
        for ((g, z), &target) in g.chunks_exact_mut(v).zip(z.chunks_exact(v)).zip(targets) {
            if target != IGNORE {
                let lse = log_sum_exp(z);
                g.iter_mut().zip(z).for_each(|(g, z)| *g -= scale * (z - lse).exp());
                g[target as usize] += scale;
            }
        }
    }

    fn reduce(&self, parts: &mut [&mut Vec<f64>], spans: &[Span]) -> f64 {
        let Some((total, rest)) = parts.split_first_mut() else { return 0.0 };
        let mut squares = 0.0;
        for at in spans.iter().flat_map(|span| span.range()) {
            rest.iter().for_each(|part| total[at] += part[at]);
            squares += total[at] * total[at];
        }
        squares
    }

    fn adamw(&self, p: &mut Vec<f64>, g: &Vec<f64>, m: &mut Vec<f64>, v: &mut Vec<f64>, span: Span, h: &AdamW) {
        let correction = |beta: f64| 1.0 - beta.powf(h.step as f64);
        for i in span.range() {
            let g = g[i] * h.grad_scale;
            p[i] -= h.lr * h.weight_decay * p[i];
            m[i] = h.beta1 * m[i] + (1.0 - h.beta1) * g;
            v[i] = h.beta2 * v[i] + (1.0 - h.beta2) * g * g;
            let (m_hat, v_hat) = (m[i] / correction(h.beta1), v[i] / correction(h.beta2));
            p[i] -= h.lr * m_hat / (v_hat.sqrt() + h.eps);
        }
    }

    fn muon(&self, p: &mut Vec<f64>, g: &Vec<f64>, m: &mut Vec<f64>, matrices: &[Matrix], h: &Muon) {
        for &Matrix { span, rows, cols } in matrices {
            let mut x = Vec::with_capacity(span.len);
            for i in span.range() {
                let g = g[i] * h.grad_scale;
                m[i] = h.momentum * m[i] + (1.0 - h.momentum) * g;
                x.push((1.0 - h.momentum) * g + h.momentum * m[i]);
                p[i] -= h.lr * h.weight_decay * p[i];
            }
            let factor = h.lr * muon_factor(rows, cols);
            let o = orthogonal(x, rows, cols, h.ns_steps);
            span.range().zip(o).for_each(|(i, o)| p[i] -= factor * o);
        }
    }
}

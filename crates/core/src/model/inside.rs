//! A look inside a pass: where attention looks, and what the head would say after each block.
//!
//! The pass is [`Gpt::forward`]'s, block by block, with the same operations on the same rows: what is seen is what the model
//! computes. Attention keeps no weights, so its operation is asked for them: with values of which each is 1 in one channel of
//! its own, and 0 elsewhere, its output is its weights.

use super::{BlockActs, Context, Gpt, Head};
use crate::{
    backend::{Forward, Pass, Rows},
    params::{Linear, Span},
};
use std::ops::Range;

/// A sequence on its way through the blocks, without dropout.
pub struct Inside<B: Forward> {
    ids: Vec<u32>,
    /// Of each token in its document, or empty if all are one document.
    positions: Vec<u32>,
    x: [B::Buf; 2], // each (t, c): the residual stream, and room for the next
    block: BlockActs<B>,
    head: Head<B>, // of some rows
    rotations: B::Buf,
    /// Blocks that it has passed.
    blocks: usize,
    /// Rows that the head has room for.
    room: usize,
}

impl<B: Forward> Inside<B> {
    /// Blocks that it has passed.
    pub fn blocks(&self) -> usize {
        self.blocks
    }
}

impl Gpt {
    /// Heads of attention.
    pub fn n_head(&self) -> usize {
        self.heads.nh
    }

    /// The most keys whose weights [`Gpt::weights`] finds at once.
    pub fn keys_at_once(&self) -> usize {
        self.heads.hs()
    }

    /// Begins a pass over one sequence: the residual stream is what the embedding makes of it. `positions` are those of
    /// [`Rows::positions`].
    ///
    /// # Panics
    /// If there are no ids or more than `block_size`.
    pub fn enter<B: Forward>(&self, be: &B, p: &B::Buf, ids: &[u32], positions: &[u32]) -> Inside<B> {
        let t = ids.len();
        assert!((1..=self.block_size).contains(&t) && (positions.is_empty() || positions.len() == t));
        let stream = || be.zeros(t * self.n_embd);
        let mut inside = Inside {
            ids: ids.to_vec(),
            positions: positions.to_vec(),
            x: [stream(), stream()],
            block: self.block_acts(be, t),
            head: self.head(be, 0),
            rotations: self.rotations(be),
            blocks: 0,
            room: 0,
        };
        let rows = Rows { positions, ..Rows::new(1, t) };
        be.embed(&mut inside.x[0], Pass { p, rows, dropout: None }, self.layout.embedding, ids, None);
        inside
    }

    /// Passes the next block.
    ///
    /// # Panics
    /// If it has passed all.
    pub fn pass_block<B: Forward>(&self, be: &B, p: &B::Buf, inside: &mut Inside<B>) {
        let Inside { ids, positions, x: [x, out], block, rotations, blocks: l, .. } = inside;
        let rows = Rows { positions, ..Rows::new(1, ids.len()) };
        let cx = Context { be, pass: Pass { p, rows, dropout: None }, rotations };
        self.attend(&cx, *l, x, block, None);
        self.branches(&cx, *l, x, out, block);
        std::mem::swap(x, out);
        *l += 1;
    }

    /// The weights that attention in the block that was passed last gives to these keys: `(nh, t, keys)`, 0 where a query does
    /// not see a key.
    ///
    /// # Panics
    /// If no block was passed, or there are more keys than [`Gpt::keys_at_once`].
    pub fn weights<B: Forward>(&self, be: &B, inside: &Inside<B>, keys: Range<usize>) -> Vec<f32> {
        let (heads, hs, t) = (self.heads, self.heads.hs(), inside.ids.len());
        assert!(inside.blocks > 0 && keys.len() <= hs && keys.end <= t);
        let (width, kv) = (heads.width(), heads.kv());
        let mut asked = be.zeros(t * width);
        be.copy(&mut asked, 0, &inside.block.qkv, Span { start: 0, len: t * width });
        let mut values = vec![0.0; kv];
        for row in 0..t {
            let own = keys.contains(&row).then(|| row - keys.start);
            values.iter_mut().enumerate().for_each(|(d, v)| *v = if Some(d % hs) == own { 1.0 } else { 0.0 });
            be.upload(&mut asked, row * width + width - kv, &values);
        }
        let rows = Rows { positions: &inside.positions, ..Rows::new(1, t) };
        let (mut out, mut lse) = (be.zeros(t * heads.c), be.zeros(t * heads.nh));
        be.attention(&mut out, &mut lse, &asked, heads, rows, None);
        let mut host = vec![0.0; t * heads.c];
        be.download(&out, 0, &mut host);
        let n = keys.len();
        let of_keys = |h: usize| host.chunks_exact(heads.c).map(move |row| &row[h * hs..][..n]);
        (0..heads.nh).flat_map(of_keys).flatten().copied().collect()
    }

    /// What goes into the linear layers of the block that was passed last, each `(t, i)`: the layers `c_attn`, `attn_proj`,
    /// `c_fc` and `mlp_proj` of [`crate::params::Block`], in this order.
    ///
    /// # Panics
    /// If no block was passed.
    pub fn inputs<B: Forward>(&self, be: &B, inside: &Inside<B>) -> [Vec<f32>; 4] {
        assert!(inside.blocks > 0);
        let (w, a) = (&self.layout.h[inside.blocks - 1], &inside.block);
        [(&a.ln_1, w.c_attn), (&a.att, w.attn_proj), (&a.ln_2, w.c_fc), (&a.act, w.mlp_proj)].map(|(x, layer)| {
            let mut host = vec![0.0; inside.ids.len() * layer.i];
            be.download(x, 0, &mut host);
            host
        })
    }

    /// What would go into the head, `(t, c)`, if the blocks that were not passed did nothing.
    pub fn head_input<B: Forward>(&self, be: &B, p: &B::Buf, inside: &Inside<B>) -> Vec<f32> {
        let t = inside.ids.len();
        let (mut y, mut stats) = (be.zeros(t * self.n_embd), be.zeros(2 * t));
        be.norm(&mut y, &mut stats, &inside.x[0], Pass { p, rows: Rows::new(1, t), dropout: None }, self.layout.ln_f);
        let mut host = vec![0.0; t * self.n_embd];
        be.download(&y, 0, &mut host);
        host
    }

    /// What a linear layer of this model makes of `x (n, i)`: `(n, o)`, with its bias.
    ///
    /// # Panics
    /// If `x` is not a whole number of rows.
    pub fn product<B: Forward>(&self, be: &B, p: &B::Buf, layer: Linear, x: &[f32]) -> Vec<f32> {
        let n = x.len() / layer.i;
        assert_eq!(x.len(), n * layer.i);
        let (mut given, mut y) = (be.zeros(x.len()), be.zeros(n * layer.o));
        be.upload(&mut given, 0, x);
        be.linear(&mut y, &given, Pass { p, rows: Rows::new(1, n), dropout: None }, layer);
        let mut host = vec![0.0; n * layer.o];
        be.download(&y, 0, &mut host);
        host
    }

    /// The logits `(rows, v)` that the head makes of the residual stream in these rows as it is now, as if the blocks that it
    /// has not passed did nothing.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn read_off<B: Forward>(&self, be: &B, p: &B::Buf, inside: &mut Inside<B>, rows: Range<usize>) -> Vec<f32> {
        let n = rows.len();
        assert!(n > 0 && rows.end <= inside.ids.len());
        if inside.room < n {
            (inside.head, inside.room) = (self.head(be, n), n);
        }
        let mut x = be.zeros(n * self.n_embd);
        be.copy(&mut x, 0, &inside.x[0], Span { start: rows.start * self.n_embd, len: n * self.n_embd });
        let cx = Context { be, pass: Pass { p, rows: Rows::new(1, n), dropout: None }, rotations: &inside.rotations };
        self.unembed(&cx, &x, &mut inside.head);
        let mut logits = vec![0.0; n * self.vocab_size];
        be.download(&inside.head.logits, 0, &mut logits);
        logits
    }

    /// The losses in nats of these targets, one for each row that was read off last; 0 where it is
    /// [`crate::backend::IGNORE`]. The logits there may be overwritten.
    ///
    /// # Panics
    /// If there are more targets than rows were read off.
    pub fn losses_of<B: Forward>(&self, be: &B, inside: &mut Inside<B>, targets: &[u32]) -> Vec<f32> {
        assert!(targets.len() <= inside.room);
        let Head { losses, logits, .. } = &mut inside.head;
        be.cross_entropy(losses, logits, targets, self.vocab_size);
        let mut host = vec![0.0; targets.len()];
        be.download(losses, 0, &mut host);
        host
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{Cpu, Reference},
        model::tests::{VARIANTS, model},
    };

    const BE: Reference = Reference;
    const IDS: [u32; 6] = [3, 1, 4, 1, 5, 6];
    /// One document, and two.
    const POSITIONS: [&[u32]; 2] = [&[], &[0, 1, 2, 3, 0, 1]];

    /// All weights of the block that was passed last, `(nh, t, t)`.
    fn all<B: Forward>(model: &Gpt, be: &B, inside: &Inside<B>) -> Vec<f32> {
        let (t, nh, step) = (inside.ids.len(), model.n_head(), model.keys_at_once());
        let mut all = vec![0.0; nh * t * t];
        for first in (0..t).step_by(step) {
            let keys = first..t.min(first + step);
            let some = model.weights(be, inside, keys.clone());
            for (row, some) in all.chunks_exact_mut(t).zip(some.chunks_exact(keys.len())) {
                row[keys.clone()].copy_from_slice(some);
            }
        }
        all
    }

    #[test]
    fn weights_are_the_softmax_of_what_queries_and_keys_say_and_make_the_output() {
        for (settings, positions) in VARIANTS.into_iter().flat_map(|settings| POSITIONS.map(|p| (settings, p))) {
            let (model, p) = model(settings);
            let mut inside = model.enter(&BE, &p, &IDS, positions);
            for _ in 0..3 {
                model.pass_block(&BE, &p, &mut inside);
                let (weights, heads, hs) = (all(&model, &BE, &inside), model.heads, model.heads.hs());
                let row = |i: usize| &inside.block.qkv[i * heads.width()..][..heads.width()];
                let rows = Rows { positions, ..Rows::new(1, 6) };
                for (h, i) in (0..heads.nh).flat_map(|h| (0..6).map(move |i| (h, i))) {
                    let weights = &weights[(h * 6 + i) * 6..][..6];
                    let seen = rows.documents(0).find(|document| document.contains(&i)).unwrap().start..i + 1;
                    let shared = h / (heads.nh / heads.nkv) * hs;
                    let score = |j: usize| {
                        let (q, k) = (&row(i)[h * hs..][..hs], &row(j)[heads.c + shared..][..hs]);
                        (heads.scale * q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>()).exp()
                    };
                    let sum: f64 = seen.clone().map(score).sum();
                    for (j, &weight) in weights.iter().enumerate() {
                        let want = if seen.contains(&j) { score(j) / sum } else { 0.0 };
                        assert!((f64::from(weight) - want).abs() < 1e-6, "{settings:?}: {weight}, want {want}");
                    }
                    assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
                    for d in 0..hs {
                        let value = |j: usize| row(j)[heads.c + heads.kv() + shared + d];
                        let out: f64 = (0..6).map(|j| f64::from(weights[j]) * value(j)).sum();
                        assert!((out - inside.block.att[i * heads.c + h * hs + d]).abs() < 1e-5, "{settings:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn inputs_of_layers_make_what_comes_after_them() {
        let near =
            |a: &[f32], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5);
        for (settings, positions) in VARIANTS.into_iter().flat_map(|settings| POSITIONS.map(|p| (settings, p))) {
            let (model, p) = model(settings);
            let mut inside = model.enter(&BE, &p, &IDS, positions);
            for l in 0..3 {
                let before = inside.x[0].clone();
                model.pass_block(&BE, &p, &mut inside);
                let (w, [ln_1, att, ln_2, act]) = (&model.layout.h[l], model.inputs(&BE, &inside));
                let qkv = model.product(&BE, &p, w.c_attn, &ln_1);
                // Values are not rotated: they, or what is convolved, are what the layer puts out.
                let (width, kv) = (model.heads.width(), model.heads.kv());
                let made = if w.conv.is_some() { &inside.block.pre_conv } else { &inside.block.qkv };
                for (row, want) in qkv.chunks_exact(width).zip(made.chunks_exact(width)) {
                    assert!(near(&row[width - kv..], &want[width - kv..]), "{settings:?}");
                }
                let add =
                    |x: &[f64], y: Vec<f32>| -> Vec<f32> { x.iter().zip(y).map(|(x, y)| *x as f32 + y).collect() };
                let stream = if w.res_conv.is_some() { &inside.block.x_conv } else { &before };
                let middle = add(stream, model.product(&BE, &p, w.attn_proj, &att));
                assert!(near(&middle, &inside.block.x_mid), "{settings:?}");
                if w.c_fc.o == inside.block.fc.len() / IDS.len() {
                    assert!(near(&model.product(&BE, &p, w.c_fc, &ln_2), &inside.block.fc), "{settings:?}");
                }
                let out = add(&inside.block.x_mid, model.product(&BE, &p, w.mlp_proj, &act));
                assert!(near(&out, &inside.x[0]), "{settings:?}");
            }
            let x = model.head_input(&BE, &p, &inside);
            let mut logits = model.product(&BE, &p, model.layout.lm_head, &x);
            if model.logit_softcap > 0.0 {
                let cap = model.logit_softcap as f32;
                logits.iter_mut().for_each(|z| *z = cap * (*z / cap).tanh());
            }
            let want: Vec<f64> = model.read_off(&BE, &p, &mut inside, 0..6).into_iter().map(f64::from).collect();
            assert!(near(&logits, &want), "{settings:?}");
        }
    }

    #[test]
    fn what_is_read_off_after_the_last_block_is_what_the_model_says() {
        for (settings, positions) in VARIANTS.into_iter().flat_map(|settings| POSITIONS.map(|p| (settings, p))) {
            let (model, p) = model(settings);
            let rows = Rows { positions, ..Rows::new(1, 6) };
            let mut acts = model.acts(&BE, 1, true);
            model.forward(&BE, Pass { p: &p, rows, dropout: None }, &mut acts, &IDS);
            let mut inside = model.enter(&BE, &p, &IDS, positions);
            for l in 0..3 {
                assert!(inside.blocks() == l && inside.x[0] == acts.x[l]);
                model.pass_block(&BE, &p, &mut inside);
            }
            assert_eq!(inside.x[0], acts.x[3]);
            for rows in [0..6, 2..5] {
                let logits = model.read_off(&BE, &p, &mut inside, rows.clone());
                let want = &acts.logits()[rows.start * 7..rows.end * 7];
                assert!(logits.iter().zip(want).all(|(got, want)| *got == *want as f32), "{settings:?}");
                let targets: Vec<u32> = rows.clone().map(|row| IDS[(row + 1) % 6]).collect();
                for ((loss, target), z) in
                    model.losses_of(&BE, &mut inside, &targets).iter().zip(targets).zip(want.chunks_exact(7))
                {
                    let sum: f64 = z.iter().map(|z| z.exp()).sum();
                    assert!((f64::from(*loss) - (sum.ln() - z[target as usize])).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn the_processor_sees_the_same_and_its_last_logits_are_the_models_to_the_bit() {
        let be = Cpu::new().unwrap();
        for (settings, positions) in VARIANTS.into_iter().flat_map(|settings| POSITIONS.map(|p| (settings, p))) {
            let (model, p64) = model(settings);
            let p32: Vec<f32> = p64.iter().map(|&p| p as f32).collect();
            let mut p = be.zeros(p32.len());
            be.upload(&mut p, 0, &p32);
            be.pack_weights(&mut p, &model.layout.linears(), false);
            let mut inside = model.enter(&be, &p, &IDS, positions);
            let mut wanted = model.enter(&BE, &p64, &IDS, positions);
            for _ in 0..3 {
                model.pass_block(&be, &p, &mut inside);
                model.pass_block(&BE, &p64, &mut wanted);
                let (found, wanted) = (all(&model, &be, &inside), all(&model, &BE, &wanted));
                assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{settings:?}");
            }
            let mut acts = model.acts(&be, 1, false);
            let rows = Rows { positions, ..Rows::new(1, 6) };
            model.forward(&be, Pass { p: &p, rows, dropout: None }, &mut acts, &IDS);
            let mut want = vec![0.0; 6 * 7];
            be.download(acts.logits(), 0, &mut want);
            assert_eq!(model.read_off(&be, &p, &mut inside, 0..6), want, "{settings:?}");
            assert_eq!(model.read_off(&be, &p, &mut inside, 3..5), want[3 * 7..5 * 7], "{settings:?}");
        }
    }
}

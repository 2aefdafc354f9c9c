//! The model: a GPT, forward and backward, in the order of the lecture.
//!
//! ```text
//! x = wte[id] + wpe[t], or wte[id] where positions are rotations of queries and keys
//! each block:  x = conv(x), if the residual stream has convolutions
//!              x += c_proj(attention(ln_1(x)))
//!              x += c_proj(act(c_fc(ln_2(x))))
//! logits = lm_head(ln_f(x))        through a soft cap, if there is one
//! ```
//!
//! Each line of the backward pass is below the forward line that it differentiates. Shapes: `b` sequences of `t`
//! positions, `n = b * t` rows, `c` channels, `nh` heads with `q` channels together (as many as `c` unless `head_size` is
//! set), `v` tokens in the vocabulary. The computation is behind [`Forward`] and [`Backward`]; dividing the batch is the
//! job of [`crate::shards`].

pub mod inside;

use crate::{
    backend::{
        Activated, Attended, Backward, Cached, Forward, Gradients, Heads, KvCache, Normed, Objective, Pass, QkInput,
        Rows, key_stride,
    },
    config::{Activation, AttentionScale, Config, Position},
    error::Result,
    params::{Block, Conv, Layout, Span},
    rng::{Dropout, DropoutKey},
};

/// A model's architecture and the layout of its parameters; the numbers themselves are in a backend's buffers.
#[derive(Clone, Debug)]
pub struct Gpt {
    /// Names, shapes and places of the parameters.
    pub layout: Layout,
    /// Context length.
    pub block_size: usize,
    /// Channels.
    pub n_embd: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    heads: Heads,
    /// The base of rotary positions, or none where positions are learned.
    rope_theta: Option<f64>,
    activation: Activation,
    n_inner: usize,
    dropout: f32,
    embd_dropout: f32,
    logit_softcap: f64,
    z_loss: f64,
}

/// What the forward pass saves of one block, for up to `n` rows.
struct BlockActs<B: Forward> {
    x_conv: B::Buf,   // (n, c), the residual stream after its convolution, or empty without one
    ln_1: B::Buf,     // (n, c)
    stats_1: B::Buf,  // (n, 2)
    qkv: B::Buf,      // (n, q + 2 kv)
    pre_conv: B::Buf, // (n, q + 2 kv), queries, keys and values before their convolution, or empty without one
    pre_qk: B::Buf,   // (n, q + kv), queries and keys before their norm, or empty without that norm
    lse: B::Buf,      // (b, nh, t)
    att: B::Buf,      // (n, q)
    x_mid: B::Buf,    // (n, c), between attention and MLP
    ln_2: B::Buf,     // (n, c)
    stats_2: B::Buf,  // (n, 2)
    fc: B::Buf,       // (n, 4c), with SwiGLU twice n_inner, or empty if the derivative needs only the output
    act: B::Buf,      // (n, 4c), or n_inner wide
}

/// What follows the blocks.
struct Head<B: Forward> {
    ln_f: B::Buf,    // (n, c)
    stats_f: B::Buf, // (n, 2)
    logits: B::Buf,  // (n, v)
    losses: B::Buf,  // (n)
}

/// The activations of a forward pass. If a backward pass follows, all of them; otherwise those of one block, which
/// every block reuses, so that they stay in the cache.
pub struct Acts<B: Forward> {
    x: Vec<B::Buf>, // each (n, c): the residual stream before each block and after the last, or two that alternate
    blocks: Vec<BlockActs<B>>, // n_layer, or one
    head: Head<B>,
    rotations: B::Buf, // (block_size, hs), or empty if positions are learned
}

impl<B: Forward> Acts<B> {
    /// The residual stream before block `l` (`n_layer`: after the last).
    fn x(&self, l: usize) -> &B::Buf {
        &self.x[l % self.x.len()]
    }
}

/// Gradients of activations: scratch space of the backward pass.
pub struct ActGrads<B: Forward> {
    dx: B::Buf,   // (n, c), of the residual stream
    dc: B::Buf,   // (n, c)
    datt: B::Buf, // (n, q)
    dqkv: B::Buf, // (n, q + 2 kv)
    dfc: B::Buf,  // (n, 4c), or as wide as fc
    dact: B::Buf, // (n, n_inner) with SwiGLU; otherwise empty, since only dfc is needed
}

/// Keys and values of the positions of one sequence so far.
///
/// With rotary positions it holds the last `block_size` of them. Each is rotated by its own position, which keeps
/// counting: the product of a query and a key depends only on their distance, so nothing has to be recomputed when the
/// window slides. Through the layers below, what is cached for a position has seen tokens that have since left the
/// window. So, unless it has only one layer, the model is not quite the one that sees the window alone, as with any
/// sliding cache.
pub struct Kv<B: Forward> {
    layers: Vec<KvCache<B::Buf>>,
    /// Positions so far.
    len: usize,
}

/// New tokens of one sequence, in a pass over several sequences.
pub struct Part<'a, B: Forward> {
    /// The sequence so far.
    pub kv: &'a mut Kv<B>,
    /// What comes next in it.
    pub ids: &'a [u32],
}

/// Room for the activations of a pass over new positions of any number of sequences. It grows to the largest pass.
pub struct Decoder<B: Forward> {
    x: [B::Buf; 2],    // (n, c)
    rotations: B::Buf, // (n, hs), of the new positions
    block: BlockActs<B>,
    head: Head<B>, // of the newest positions
    last: Last<B>,
    /// Rows and sequences that there is room for.
    room: (usize, usize),
    /// Those of threads that take sequences of their own through the model.
    others: Vec<Decoder<B>>,
}

/// The newest position of each sequence in the last block.
struct Last<B: Forward> {
    x: B::Buf,   // (parts, c), before it
    out: B::Buf, // (parts, c), after it
    block: BlockActs<B>,
}

/// One sequence, with room of its own to continue it.
pub struct Cache<B: Forward> {
    kv: Kv<B>,
    decoder: Decoder<B>,
}

/// A place in the network where dropout is applied.
enum Site {
    Embedding,
    Attention(usize),
    AttentionBranch(usize),
    MlpBranch(usize),
}

/// What all layers of a pass share: the backend, the parameters and rows, the rotations.
struct Context<'a, B: Forward> {
    be: &'a B,
    pass: Pass<'a, B::Buf>,
    rotations: &'a B::Buf,
}

impl Gpt {
    /// The model that `config` describes.
    ///
    /// # Errors
    /// If `vocab_size` is still 0 or the configuration does not pass [`Config::check`].
    pub fn new(config: &Config) -> Result<Gpt> {
        let layout = Layout::new(config)?;
        // Scores are divided by the square root of this.
        let scaled_by = match config.attention_scale {
            AttentionScale::HeadSize => config.head_size(),
            AttentionScale::NEmbd => config.n_embd,
        };
        Ok(Gpt {
            layout,
            block_size: config.block_size,
            n_embd: config.n_embd,
            vocab_size: config.vocab_size,
            heads: Heads {
                c: config.attention_size(),
                nh: config.n_head,
                nkv: config.kv_heads(),
                scale: 1.0 / (scaled_by as f64).sqrt(),
            },
            rope_theta: (config.position == Position::Rotary).then_some(config.rope_theta),
            activation: config.activation,
            n_inner: config.mlp_size(),
            dropout: config.dropout as f32,
            embd_dropout: config.embd_dropout as f32,
            logit_softcap: config.logit_softcap,
            z_loss: config.z_loss,
        })
    }

    /// Forward: from `ids (b, t)` to logits, which stay in `a`.
    ///
    /// # Panics
    /// If `ids` does not have `b * t` elements below `vocab_size`, or they do not fit `a`.
    pub fn forward<B: Forward>(&self, be: &B, pass: Pass<B::Buf>, a: &mut Acts<B>, ids: &[u32]) {
        let rows = pass.rows;
        assert!(ids.len() == rows.n() && rows.t <= self.block_size);
        let w = &self.layout;
        // x = dropout(wte[id] + wpe[t])
        be.embed(&mut a.x[0], pass, w.embedding, ids, self.drop(pass.dropout, Site::Embedding));
        let cx = Context { be, pass, rotations: &a.rotations };
        let (streams, kept) = (a.x.len(), a.blocks.len());
        for l in 0..w.h.len() {
            let [x, out] = a.x.get_disjoint_mut([l % streams, (l + 1) % streams]).expect("two streams at least");
            let acts = &mut a.blocks[l % kept];
            self.attend(&cx, l, x, acts, None);
            self.branches(&cx, l, x, out, acts);
        }
        self.unembed(&cx, &a.x[w.h.len() % streams], &mut a.head);
    }

    /// The first part of block `l`, where positions interact: `att = attention(ln_1(x))`. With caches, only the new
    /// positions are computed; they also attend to the cached ones.
    fn attend<B: Forward>(
        &self,
        cx: &Context<B>,
        l: usize,
        x: &B::Buf,
        a: &mut BlockActs<B>,
        mut cached: Option<&mut [Cached<B::Buf>]>,
    ) {
        let (&Context { be, pass, rotations }, w) = (cx, &self.layout.h[l]);
        // x = conv(x)
        if let Some(conv) = w.res_conv {
            match cached.as_deref_mut() {
                None => be.conv(&mut a.x_conv, x, pass, conv),
                Some(parts) => be.conv_cached(&mut a.x_conv, parts, x, pass.p, conv),
            }
        }
        let x = if w.res_conv.is_some() { &a.x_conv } else { x };
        be.norm(&mut a.ln_1, &mut a.stats_1, x, pass, w.ln_1);
        // q, k, v = conv(q), conv(k), conv(v)
        if let Some(conv) = w.conv {
            be.linear(&mut a.pre_conv, &a.ln_1, pass, w.c_attn);
            match cached.as_deref_mut() {
                None => be.conv(&mut a.qkv, &a.pre_conv, pass, conv),
                Some(parts) => be.conv_cached(&mut a.qkv, parts, &a.pre_conv, pass.p, conv),
            }
        } else {
            be.linear(&mut a.qkv, &a.ln_1, pass, w.c_attn);
        }
        // q, k = rotate(norm(q)), rotate(norm(k))
        if let Some(qk) = w.qk {
            be.qk(&mut a.qkv, &mut a.pre_qk, rotations, pass, qk, self.heads);
        }
        match cached {
            None => {
                let drop = self.drop(pass.dropout, Site::Attention(l));
                be.attention(&mut a.att, &mut a.lse, &a.qkv, self.heads, pass.rows, drop);
            }
            Some(parts) => be.attention_cached(&mut a.att, parts, &a.qkv, self.heads),
        }
    }

    /// The rest of block `l`, where each position is on its own: from `x`, or what its convolution made of it, and `att` to `out`.
    fn branches<B: Forward>(&self, cx: &Context<B>, l: usize, x: &B::Buf, out: &mut B::Buf, a: &mut BlockActs<B>) {
        let (&Context { be, pass, .. }, w) = (cx, &self.layout.h[l]);
        // x_mid = x + dropout(c_proj(att))
        let x = if w.res_conv.is_some() { &a.x_conv } else { x };
        let drop = self.drop(pass.dropout, Site::AttentionBranch(l));
        be.linear_residual(&mut a.x_mid, x, &a.att, pass, w.attn_proj, drop);
        // out = x_mid + dropout(c_proj(act(c_fc(ln_2(x_mid)))))
        be.norm(&mut a.ln_2, &mut a.stats_2, &a.x_mid, pass, w.ln_2);
        if self.activation == Activation::Swiglu {
            be.linear(&mut a.fc, &a.ln_2, pass, w.c_fc);
            be.swiglu(&mut a.act, &a.fc, self.n_inner, pass.rows.n());
        } else {
            be.linear_act(&mut a.act, &mut a.fc, &a.ln_2, pass, w.c_fc, self.activation);
        }
        let drop = self.drop(pass.dropout, Site::MlpBranch(l));
        be.linear_residual(out, &a.x_mid, &a.act, pass, w.mlp_proj, drop);
    }

    /// What follows the blocks: from `x` to the logits.
    fn unembed<B: Forward>(&self, cx: &Context<B>, x: &B::Buf, a: &mut Head<B>) {
        let (&Context { be, pass, .. }, w) = (cx, &self.layout);
        // logits = softcap(lm_head(ln_f(x)))
        be.norm(&mut a.ln_f, &mut a.stats_f, x, pass, w.ln_f);
        be.linear(&mut a.logits, &a.ln_f, pass, w.lm_head);
        if self.logit_softcap > 0.0 {
            be.softcap(&mut a.logits, self.logit_softcap, pass.rows.n() * self.vocab_size);
        }
    }

    /// The loss of each row in nats, given `targets (n)`, into [`Acts::losses`]; it is 0 where the target is
    /// [`crate::backend::IGNORE`]. The logits may be overwritten.
    pub fn losses<B: Forward>(&self, be: &B, a: &mut Acts<B>, targets: &[u32]) {
        be.cross_entropy(&mut a.head.losses, &mut a.head.logits, targets, self.vocab_size);
    }

    /// [`Gpt::losses`]; also replaces the logits in `a` by the gradient of `scale` times the sum of the losses, as
    /// [`Gpt::backward`] expects. It is the gradient with respect to the logits before the soft cap. It includes the
    /// `z_loss` term of the objective, which the losses do not.
    pub fn losses_grad<B: Backward>(&self, be: &B, a: &mut Acts<B>, targets: &[u32], scale: f64) {
        let objective = Objective { scale, z_loss: self.z_loss, softcap: self.logit_softcap };
        be.cross_entropy_grad(&mut a.head.losses, &mut a.head.logits, targets, self.vocab_size, objective);
    }

    /// Leads what [`Gpt::losses_grad`] left in `a` towards the logits that a teacher's [`Gpt::forward`] left in `teacher`, of the
    /// same rows and tokens: the objective becomes `scale - weight` times the losses and `weight` times the cross-entropies with
    /// the teacher's probabilities. Logits must have no soft cap.
    pub fn teach<B: Backward>(&self, be: &B, a: &mut Acts<B>, teacher: &Acts<B>, targets: &[u32], weight: f64) {
        be.teach(&mut a.head.logits, &teacher.head.logits, targets, self.vocab_size, weight);
    }

    /// Backward: computes the gradient of every trainable parameter from what [`Gpt::forward`] and [`Gpt::losses_grad`]
    /// left in `a`. With `grads.add` it is added to what is in `grads`, otherwise it overwrites that. The other
    /// arguments are those of `forward`. `done` is called with the gradients when a [stage](crate::params::Layout::stage) of them is
    /// complete.
    pub fn backward<B: Backward>(
        &self,
        be: &B,
        pass: Pass<B::Buf>,
        grads: &mut Gradients<B::Buf>,
        (a, d): (&Acts<B>, &mut ActGrads<B>),
        ids: &[u32],
        mut done: impl FnMut(&B::Buf, usize),
    ) {
        let (w, n, key) = (&self.layout, pass.rows.n(), pass.dropout);
        if !grads.add {
            w.added_to().for_each(|tensor| be.clear(grads.g, tensor.span));
        }
        // logits = softcap(lm_head(ln_f(x))); the soft cap's derivative is already in the gradient
        be.linear_bwd(&mut d.dc, grads, &a.head.logits, &a.head.ln_f, pass, w.lm_head);
        be.clear(&mut d.dx, Span { start: 0, len: n * self.n_embd });
        be.norm_bwd(&mut d.dx, grads, &d.dc, Normed { x: a.x(w.h.len()), stats: &a.head.stats_f }, pass, w.ln_f);
        done(grads.g, 0);
        for (l, (w, acts)) in w.h.iter().zip(&a.blocks).enumerate().rev() {
            // out = x_mid + dropout(c_proj(act(c_fc(ln_2(x_mid)))))
            let dbranch = self.branch_bwd(be, &mut d.dc, &d.dx, pass.rows, self.drop(key, Site::MlpBranch(l)));
            if self.activation == Activation::Swiglu {
                be.linear_bwd(&mut d.dact, grads, dbranch, &acts.act, pass, w.mlp_proj);
                be.swiglu_bwd(&mut d.dfc, &d.dact, &acts.fc, self.n_inner, n);
            } else {
                let of = Activated { y: &acts.act, pre: &acts.fc, act: self.activation };
                be.linear_bwd_act(&mut d.dfc, grads, dbranch, of, pass, w.mlp_proj);
            }
            be.linear_bwd(&mut d.dc, grads, &d.dfc, &acts.ln_2, pass, w.c_fc);
            be.norm_bwd(&mut d.dx, grads, &d.dc, Normed { x: &acts.x_mid, stats: &acts.stats_2 }, pass, w.ln_2);
            // x_mid = x + dropout(c_proj(attention(ln_1(x))))
            let dbranch = self.branch_bwd(be, &mut d.dc, &d.dx, pass.rows, self.drop(key, Site::AttentionBranch(l)));
            be.linear_bwd(&mut d.datt, grads, dbranch, &acts.att, pass, w.attn_proj);
            let of = Attended { qkv: &acts.qkv, out: &acts.att, lse: &acts.lse };
            be.attention_bwd(&mut d.dqkv, &d.datt, of, self.heads, pass.rows, self.drop(key, Site::Attention(l)));
            if let Some(qk) = w.qk {
                let of = QkInput { pre: &acts.pre_qk, table: &a.rotations };
                be.qk_bwd(&mut d.dqkv, grads, of, pass, qk, self.heads);
            }
            if let Some(conv) = w.conv {
                be.conv_bwd(&mut d.dqkv, grads, &acts.pre_conv, pass, conv);
            }
            be.linear_bwd(&mut d.dc, grads, &d.dqkv, &acts.ln_1, pass, w.c_attn);
            let x = if w.res_conv.is_some() { &acts.x_conv } else { a.x(l) };
            be.norm_bwd(&mut d.dx, grads, &d.dc, Normed { x, stats: &acts.stats_1 }, pass, w.ln_1);
            // x = conv(x)
            if let Some(conv) = w.res_conv {
                be.conv_bwd(&mut d.dx, grads, a.x(l), pass, conv);
            }
            done(grads.g, self.layout.h.len() - l);
        }
        // x = dropout(wte[id] + wpe[t])
        be.embed_bwd(grads, &mut d.dx, pass, w.embedding, ids, self.drop(key, Site::Embedding));
        done(grads.g, self.layout.stages() - 1);
    }

    /// The gradient of a branch that was added to the residual stream: the gradient `dx` of the sum, through dropout if
    /// there is any.
    fn branch_bwd<'a, B: Backward>(
        &self,
        be: &B,
        dc: &'a mut B::Buf,
        dx: &'a B::Buf,
        rows: Rows,
        drop: Option<Dropout>,
    ) -> &'a B::Buf {
        let Some(drop) = drop else { return dx };
        be.dropout_bwd(dc, dx, self.n_embd, rows, drop);
        dc
    }

    /// Whether a cache can continue past `block_size` positions; learned positions end there.
    pub fn slides(&self) -> bool {
        self.rope_theta.is_some()
    }

    /// Forward of new positions only, of any number of sequences at once: appends the ids of each part to its sequence.
    /// `logits (parts, v)` receives those after the last id of each. What a sequence gets does not depend on the others in
    /// the pass, nor on how its ids are divided among passes, to the bit.
    ///
    /// # Panics
    /// If the ids of a part are none or more than `block_size`, or if its sequence would exceed `block_size` positions
    /// although the model's positions end there (see [`Gpt::slides`]).
    pub fn advance<B: Forward>(
        &self,
        be: &B,
        p: &B::Buf,
        d: &mut Decoder<B>,
        parts: &mut [Part<B>],
        logits: &mut [f32],
    ) {
        if parts.is_empty() {
            return;
        }
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        for Part { kv, ids: new } in &*parts {
            let first = if self.slides() { 0 } else { kv.len };
            assert!(!new.is_empty() && first + new.len() <= self.block_size);
            ids.extend_from_slice(new);
            positions.extend(kv.len..kv.len + new.len());
        }
        d.fit(self, be, (ids.len(), parts.len()));
        // The rows of a table of rotations are those of the pass: nothing else asks where they are.
        let mut learned = Vec::new();
        match self.rope_theta {
            Some(theta) => be.rotations(&mut d.rotations, self.heads.hs(), theta, &positions),
            None => learned.extend(positions.iter().map(|&pos| pos as u32)),
        }
        let (w, ([x, out], last)) = (&self.layout, (&mut d.x, &mut d.last));
        let rows = Rows { positions: &learned, ..Rows::new(1, ids.len()) };
        let cx = Context { be, pass: Pass { p, rows, dropout: None }, rotations: &d.rotations };
        be.embed(x, cx.pass, w.embedding, &ids, None);
        for l in 0..w.h.len() {
            let mut cached: Vec<_> = parts.iter_mut().map(|part| part.of_layer(l)).collect();
            self.attend(&cx, l, x, &mut d.block, Some(&mut cached));
            if l + 1 < w.h.len() {
                self.branches(&cx, l, x, out, &mut d.block);
                std::mem::swap(x, out);
            }
        }
        // The output of the last block is needed for the newest position of each sequence only.
        let mut end = 0;
        for (i, Part { kv, ids }) in parts.iter_mut().enumerate() {
            kv.len += ids.len();
            end += ids.len();
            let newest = |c: usize| Span { start: (end - 1) * c, len: c };
            be.copy(&mut last.x, i * self.n_embd, x, newest(self.n_embd));
            be.copy(&mut last.block.x_conv, i * self.x_conv(), &d.block.x_conv, newest(self.x_conv()));
            be.copy(&mut last.block.att, i * self.heads.c, &d.block.att, newest(self.heads.c));
        }
        let newest = Context { pass: Pass { rows: Rows::new(1, parts.len()), ..cx.pass }, ..cx };
        self.branches(&newest, w.h.len() - 1, &last.x, &mut last.out, &mut last.block);
        self.unembed(&newest, &last.out, &mut d.head);
        be.download(&d.head.logits, 0, &mut logits[..parts.len() * self.vocab_size]);
    }

    /// The log-probabilities in nats of tokens `ids (parts)`, one after each sequence of the last [`Gpt::advance`] with this
    /// decoder; 0 where the id is [`crate::backend::IGNORE`]. The decoder's own logits may be overwritten.
    pub fn logprobs<B: Forward>(&self, be: &B, d: &mut Decoder<B>, ids: &[u32]) -> Vec<f64> {
        let (Head { losses, logits, .. }, mut host) = (&mut d.head, vec![0.0; ids.len()]);
        be.cross_entropy(losses, logits, ids, self.vocab_size);
        be.download(losses, 0, &mut host);
        host.into_iter().map(|loss| -f64::from(loss)).collect()
    }

    /// [`Gpt::advance`] of one sequence.
    ///
    /// # Panics
    /// As that does.
    pub fn extend<B: Forward>(&self, be: &B, p: &B::Buf, cache: &mut Cache<B>, ids: &[u32], logits: &mut [f32]) {
        self.advance(be, p, &mut cache.decoder, &mut [Part { kv: &mut cache.kv, ids }], logits);
    }

    /// [`Gpt::logprobs`] of one sequence: of token `id` at the position after the last one of `cache`.
    pub fn logprob<B: Forward>(&self, be: &B, cache: &mut Cache<B>, id: u32) -> f64 {
        self.logprobs(be, &mut cache.decoder, &[id])[0]
    }

    /// Room for the activations of `b` sequences of up to `block_size` positions, for training or only to compute
    /// logits.
    pub fn acts<B: Forward>(&self, be: &B, b: usize, training: bool) -> Acts<B> {
        let n = b * self.block_size;
        let blocks = if training { self.layout.h.len() } else { 1 };
        Acts {
            x: (0..=blocks).map(|_| be.zeros(n * self.n_embd)).collect(),
            blocks: (0..blocks).map(|_| self.block_acts(be, n)).collect(),
            head: self.head(be, n),
            rotations: self.rotations(be),
        }
    }

    /// Room for the gradients of those activations.
    pub fn act_grads<B: Forward>(&self, be: &B, b: usize) -> ActGrads<B> {
        let n = b * self.block_size;
        let nc = n * self.n_embd;
        ActGrads {
            dx: be.zeros(nc),
            dc: be.zeros(nc),
            datt: be.zeros(n * self.heads.c),
            dqkv: be.zeros(n * self.heads.width()),
            dfc: be.zeros(n * self.layout.h[0].c_fc.o),
            dact: be.zeros(if self.activation == Activation::Swiglu { n * self.n_inner } else { 0 }),
        }
    }

    /// An empty sequence.
    pub fn kv<B: Forward>(&self, be: &B) -> Kv<B> {
        let (block, kv) = (self.block_size, self.heads.kv());
        let kept = |conv: Option<Conv>| conv.map_or(0, |conv| conv.kept().end);
        let layer = |w: &Block| KvCache {
            k: be.zeros(kv * key_stride(block)),
            v: be.zeros(block * kv),
            block,
            tail: be.zeros(kept(w.res_conv).max(kept(w.conv))),
        };
        Kv { layers: self.layout.h.iter().map(layer).collect(), len: 0 }
    }

    /// Room for passes over new positions.
    pub fn decoder<B: Forward>(&self, be: &B) -> Decoder<B> {
        self.decoder_for(be, (1, 1))
    }

    /// Room for so many rows of so many sequences.
    fn decoder_for<B: Forward>(&self, be: &B, (rows, parts): (usize, usize)) -> Decoder<B> {
        let stream = |n: usize| be.zeros(n * self.n_embd);
        Decoder {
            x: [stream(rows), stream(rows)],
            rotations: be.zeros(if self.slides() { rows * self.heads.hs() } else { 0 }),
            block: self.block_acts(be, rows),
            head: self.head(be, parts),
            last: Last { x: stream(parts), out: stream(parts), block: self.block_acts(be, parts) },
            room: (rows, parts),
            others: Vec::new(),
        }
    }

    /// An empty sequence, with room of its own.
    pub fn cache<B: Forward>(&self, be: &B) -> Cache<B> {
        Cache { kv: self.kv(be), decoder: self.decoder(be) }
    }

    /// Floating-point operations per token of a training step, as usually counted: 6 for each weight of a matrix
    /// product, 4 if it is frozen, and attention's products in full, as if they were not causal.
    pub fn flops_per_token(&self) -> f64 {
        let passes = self.layout.linears().into_iter().map(|w| w.multiply_adds());
        let products: usize = passes.map(|(forward, backward)| forward + backward).sum();
        (2 * products + 12 * self.layout.h.len() * self.block_size * self.heads.c) as f64
    }

    /// Number of floats in the activations ([`Gpt::acts`]) for `b` sequences, and in their gradients
    /// ([`Gpt::act_grads`], plus the adapters' scratch memory).
    pub fn activation_floats(&self, b: usize) -> (usize, usize) {
        let (c, q, nh, layers) = (self.n_embd, self.heads.c, self.heads.nh, self.layout.h.len());
        let (n, qkv) = (b * self.block_size, self.heads.width());
        let (fc, act) = (self.layout.h[0].c_fc.o, self.n_inner);
        let block = self.x_conv() + 3 * c + q + qkv + self.pre_conv() + self.pre_qk() + self.fc_kept() + act + nh + 4;
        let rotations = if self.slides() { self.block_size * self.heads.hs() } else { 0 };
        let dact = if self.activation == Activation::Swiglu { act } else { 0 };
        // An adapter's activations between its two matrices, and their gradient.
        let adapter = self.layout.linears().iter().filter_map(|w| w.lora).map(|lora| 2 * lora.r).max().unwrap_or(0);
        let forward = n * (c * (layers + 1) + block * layers + c + 2 + self.vocab_size + 1) + rotations;
        (forward, n * (2 * c + q + qkv + fc + dact + adapter))
    }

    /// Channels of the residual stream that are saved after their convolution.
    fn x_conv(&self) -> usize {
        self.layout.h[0].res_conv.map_or(0, |conv| conv.c)
    }

    /// Channels of queries, keys and values that are saved before their convolution.
    fn pre_conv(&self) -> usize {
        self.layout.h[0].conv.map_or(0, |conv| conv.c)
    }

    /// Channels of queries and keys that are saved before their norm.
    fn pre_qk(&self) -> usize {
        let normed = self.layout.h[0].qk.is_some_and(|qk| qk.norm.is_some());
        if normed { self.heads.c + self.heads.kv() } else { 0 }
    }

    /// The rotations of the positions `0..block_size`, or empty if positions are learned.
    fn rotations<B: Forward>(&self, be: &B) -> B::Buf {
        let Some(theta) = self.rope_theta else { return be.zeros(0) };
        let hs = self.heads.hs();
        let mut table = be.zeros(self.block_size * hs);
        let positions: Vec<usize> = (0..self.block_size).collect();
        be.rotations(&mut table, hs, theta, &positions);
        table
    }

    fn block_acts<B: Forward>(&self, be: &B, n: usize) -> BlockActs<B> {
        let nc = n * self.n_embd;
        BlockActs {
            x_conv: be.zeros(n * self.x_conv()),
            ln_1: be.zeros(nc),
            stats_1: be.zeros(2 * n),
            qkv: be.zeros(n * self.heads.width()),
            pre_conv: be.zeros(n * self.pre_conv()),
            pre_qk: be.zeros(n * self.pre_qk()),
            lse: be.zeros(n * self.heads.nh),
            att: be.zeros(n * self.heads.c),
            x_mid: be.zeros(nc),
            ln_2: be.zeros(nc),
            stats_2: be.zeros(2 * n),
            fc: be.zeros(n * self.fc_kept()),
            act: be.zeros(n * self.n_inner),
        }
    }

    /// Channels that are saved between the first layer of an MLP and its activation.
    fn fc_kept(&self) -> usize {
        if self.activation.keeps_input() { self.layout.h[0].c_fc.o } else { 0 }
    }

    fn head<B: Forward>(&self, be: &B, n: usize) -> Head<B> {
        Head {
            ln_f: be.zeros(n * self.n_embd),
            stats_f: be.zeros(2 * n),
            logits: be.zeros(n * self.vocab_size),
            losses: be.zeros(n),
        }
    }

    fn drop(&self, key: Option<DropoutKey>, site: Site) -> Option<Dropout> {
        let (rate, site) = match site {
            Site::Embedding => (self.embd_dropout, 0),
            Site::Attention(l) => (self.dropout, 3 * l as u64 + 1),
            Site::AttentionBranch(l) => (self.dropout, 3 * l as u64 + 2),
            Site::MlpBranch(l) => (self.dropout, 3 * l as u64 + 3),
        };
        key.filter(|_| rate > 0.0).map(|key| Dropout { rate, site, key })
    }
}

impl<B: Forward> Acts<B> {
    /// The logits (n, v) of the last forward pass; after [`Gpt::losses_grad`], their gradient.
    pub fn logits(&self) -> &B::Buf {
        &self.head.logits
    }

    /// The losses (n) of the last forward pass, once [`Gpt::losses`] or [`Gpt::losses_grad`] has computed them.
    pub fn losses(&self) -> &B::Buf {
        &self.head.losses
    }
}

impl<B: Forward> Kv<B> {
    /// Positions so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position has been computed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all positions.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl<B: Forward> Part<'_, B> {
    fn of_layer(&mut self, l: usize) -> Cached<'_, B::Buf> {
        Cached { cache: &mut self.kv.layers[l], pos: self.kv.len, t: self.ids.len() }
    }
}

impl<B: Forward> Decoder<B> {
    /// Makes room for so many rows of so many sequences.
    fn fit(&mut self, model: &Gpt, be: &B, wanted: (usize, usize)) {
        let room = (self.room.0.max(wanted.0), self.room.1.max(wanted.1));
        if room != self.room {
            let others = std::mem::take(&mut self.others);
            *self = Decoder { others, ..model.decoder_for(be, room) };
        }
    }

    /// One for each of so many threads.
    pub(crate) fn apart(&mut self, be: &B, model: &Gpt, threads: usize) -> &mut [Decoder<B>] {
        let missing = threads.saturating_sub(self.others.len());
        self.others.extend((0..missing).map(|_| model.decoder(be)));
        &mut self.others[..threads]
    }
}

impl<B: Forward> Cache<B> {
    /// Positions so far.
    pub fn len(&self) -> usize {
        self.kv.len
    }

    /// Whether no position has been computed.
    pub fn is_empty(&self) -> bool {
        self.kv.is_empty()
    }

    /// Forgets all positions.
    pub fn clear(&mut self) {
        self.kv.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Reference;

    const BE: Reference = Reference;

    /// A small model with these settings, and its initial weights.
    pub(super) fn model(settings: &[&str]) -> (Gpt, Vec<f64>) {
        let mut config = Config::default();
        let small = ["vocab_size=7", "block_size=6", "n_layer=3", "n_head=2", "n_embd=8"];
        small.iter().chain(settings).for_each(|setting| config.set(setting).unwrap());
        let model = Gpt::new(&config).unwrap();
        let mut p: Vec<f64> = model.layout.init(2).into_iter().map(f64::from).collect();
        // Convolutions begin as the identity.
        for conv in model.layout.convs() {
            p[conv.w.range()].iter_mut().enumerate().for_each(|(i, w)| *w += 0.5 * (i as f64).sin());
        }
        (model, p)
    }

    /// A pass over one sequence of six positions.
    fn whole(p: &Vec<f64>) -> Pass<'_, Vec<f64>> {
        Pass { p, rows: Rows::new(1, 6), dropout: None }
    }

    pub(super) const VARIANTS: [&[&str]; 15] = [
        &[],
        &["activation=gelu", "bias=true"],
        &["activation=relu_squared", "n_inner=5", "z_loss=0.1"],
        &["activation=swiglu", "norm=rmsnorm", "bias=true"],
        &["activation=swiglu", "n_inner=9", "logit_softcap=0.3"],
        &["activation=gelu_tanh", "norm=rmsnorm", "n_inner=40"],
        &["n_kv_head=1"],
        &["qk_norm=true"],
        &["position=rotary", "n_kv_head=1", "qk_norm=true", "activation=gelu"],
        &["head_size=3", "norm_eps=0.01", "qk_norm=true"],
        &["qkv_conv=3"],
        &["res_conv=2"],
        &["res_conv=4", "qkv_conv=3", "position=rotary", "activation=swiglu"],
        &["qkv_conv=4", "position=rotary", "n_kv_head=1", "qk_norm=true"],
        &["position=rotary", "n_head=3", "head_size=6", "n_kv_head=1", "activation=swiglu", "norm=rmsnorm"],
    ];

    #[test]
    fn memory_is_counted_as_it_is_taken() {
        for (settings, training) in VARIANTS.into_iter().flat_map(|settings| [(settings, true), (settings, false)]) {
            let (mut model, _) = model(settings);
            let acts = model.acts(&BE, 2, training);
            let of_block = |a: &BlockActs<Reference>| {
                let BlockActs { x_conv, ln_1, stats_1, qkv, pre_conv, pre_qk, lse, att, x_mid, ln_2, stats_2, fc, act } =
                    a;
                let parts = [x_conv, ln_1, stats_1, qkv, pre_conv, pre_qk, lse, att, x_mid, ln_2, stats_2, fc, act];
                parts.map(Vec::len).iter().sum::<usize>()
            };
            let Head { ln_f, stats_f, logits, losses } = &acts.head;
            let streams: usize = acts.x.iter().map(Vec::len).sum();
            let head: usize = [ln_f, stats_f, logits, losses, &acts.rotations].map(Vec::len).iter().sum();
            let forward = streams + head + acts.blocks.iter().map(of_block).sum::<usize>();
            let ActGrads { dx, dc, datt, dqkv, dfc, dact } = model.act_grads(&BE, 2);
            let backward: usize = [dx, dc, datt, dqkv, dfc, dact].map(|d| d.len()).iter().sum();
            if !training {
                model.layout.h.truncate(1);
            }
            assert_eq!(model.activation_floats(2), (forward, backward), "{settings:?}");
        }
    }

    #[test]
    fn a_cache_continues_what_the_forward_pass_computes() {
        let ids = [3, 1, 4, 1, 5, 6];
        for settings in VARIANTS {
            let (model, p) = model(settings);
            let (mut acts, mut cache) = (model.acts(&BE, 1, false), model.cache(&BE));
            model.forward(&BE, whole(&p), &mut acts, &ids);
            for (at, piece) in [(0, 1), (1, 3), (4, 2)] {
                let mut logits = [0.0; 7];
                model.extend(&BE, &p, &mut cache, &ids[at..at + piece], &mut logits);
                let want = &acts.logits()[(at + piece - 1) * 7..][..7];
                assert!(logits.iter().zip(want).all(|(got, want)| (f64::from(*got) - want).abs() < 1e-6));
                assert!(model.logit_softcap == 0.0 || want.iter().all(|z| z.abs() < model.logit_softcap));
            }
        }
    }

    #[test]
    fn with_projections_of_zeros_each_block_begins_as_the_identity() {
        for settings in VARIANTS {
            let begins_so = |zero: &str| {
                let (model, _) = model(&[settings, &[zero, "bias=[\"qkv\",\"proj\",\"mlp\"]"]].concat());
                let p: Vec<f64> = model.layout.init(2).into_iter().map(f64::from).collect();
                let mut acts = model.acts(&BE, 1, true);
                model.forward(&BE, whole(&p), &mut acts, &[1, 2, 3, 4, 5, 6]);
                acts.x.iter().all(|x| *x == acts.x[0])
            };
            assert!(begins_so("zero_init_proj=true") && !begins_so("zero_init_proj=false"));
        }
    }
}

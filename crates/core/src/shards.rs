//! Data parallelism: each shard computes its share of the batch on one thread (only products large enough to be split
//! themselves use more), with its own activations and gradient buffer. The shards synchronise once per step, for the
//! sum of the gradients, in shard order.
//!
//! The number of shards is fixed for a run, threads and ranks merely pick up shards, and every random number is keyed by the
//! sequence's index in the batch. So the bits of the result depend neither on the number of threads nor on that of ranks.

use crate::{
    backend::{Backward, Forward, Gradients, Pass, Rows},
    batch::{Batch, IGNORE, Padded},
    config::Config,
    error::Result,
    model::{ActGrads, Acts, Gpt},
    params::{Layout, Span},
    ranks::{self, Chunks, Command, Part, Team, Wire},
    rng::DropoutKey,
    threads::{cores, for_each},
};
use rayon::prelude::*;
use std::{
    ops::{ControlFlow, Range},
    sync::{Arc, mpsc::channel},
};

/// The workers that compute with a model: all of them or, where there are several ranks, those of this one.
pub struct Shards<B: Forward> {
    shards: Vec<Shard<B>>,
    /// How many there are on all ranks.
    count: usize,
    batch_size: usize,
    team: Team,
    wire: Wire,
    /// How the gradient is passed on to other ranks.
    chunks: Chunks,
}

/// Which of `count` shards a rank computes.
pub fn of_rank(count: usize, rank: usize, size: usize) -> Range<usize> {
    rank * count / size..(rank + 1) * count / size
}

/// Rows that a shard evaluates at once: fewer would read the weights too often, more would not fit in the L2 cache.
pub const EVAL_ROWS: usize = 256;

struct Shard<B: Forward> {
    /// Which sequences of each batch are its own.
    share: Range<usize>,
    /// Activations for evaluation, of `eval_b` sequences at once.
    eval: Acts<B>,
    eval_b: usize,
    training: Option<Training<B>>,
    rows: Padded,
    losses: Vec<f32>,
    /// Sum of the losses of this shard's sequences in the current step.
    loss: f64,
}

/// The result of evaluating a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Sum of the losses of the targets that count.
    pub loss: f64,
    /// Number of targets that count.
    pub targets: usize,
}

impl Measured {
    const BYTES: usize = 16;

    fn to_bytes(self) -> [u8; Measured::BYTES] {
        let mut bytes = [0; Measured::BYTES];
        bytes[..8].copy_from_slice(&self.loss.to_le_bytes());
        bytes[8..].copy_from_slice(&(self.targets as u64).to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Measured {
        let (loss, targets) = bytes.split_at(8);
        let of = |bytes: &[u8]| -> [u8; 8] { bytes.try_into().expect("eight bytes") };
        Measured { loss: f64::from_le_bytes(of(loss)), targets: u64::from_le_bytes(of(targets)) as usize }
    }
}

/// What only training needs, for a shard's whole share.
struct Training<B: Forward> {
    acts: Acts<B>,
    scratch: ActGrads<B>,
    grads: B::Buf,
    /// The losses of all batches of a step, which are read once everything else is queued.
    losses: B::Buf,
    /// Number of losses that fit.
    room: usize,
    teacher: Option<Taught<B>>,
}

/// A model whose probabilities another model learns.
pub struct Teacher<B: Forward> {
    model: Gpt,
    p: B::Buf,
    /// The share of the objective that is the cross-entropy with its probabilities.
    weight: f64,
}

impl<B: Forward> Teacher<B> {
    /// A model with these weights, which has `weight` of the objective, between 0 and 1.
    pub fn new(be: &B, model: Gpt, weights: &[f32], weight: f64) -> Teacher<B> {
        let mut p = be.zeros(weights.len());
        be.upload(&mut p, 0, weights);
        be.pack_weights(&mut p, &model.layout.linears(), false);
        Teacher { model, p, weight }
    }
}

/// A shard's access to a teacher.
struct Taught<B: Forward> {
    by: Arc<Teacher<B>>,
    acts: Acts<B>,
}

/// Number of trainable parameters above which one shard is the default: a gradient for each core would take more memory
/// than it is worth, and the products are large enough to be split themselves.
pub const LARGE: usize = 1 << 25;

/// Number of shards in a run of `config` with `trainable` trainable parameters: what the configuration says or, by
/// default, one for each core (a single one above [`LARGE`]), but not more than sequences in a batch.
pub fn count(config: &Config, trainable: usize) -> usize {
    let default = if trainable > LARGE { 1 } else { cores() };
    if config.shards == 0 { default } else { config.shards }.min(config.batch_size)
}

/// Number of shards in a run of `config` that so many ranks begin, each with so many threads: what the configuration says or, by
/// default, one for each thread (one for each rank above [`LARGE`]), but not more than sequences in a batch. While the vocabulary
/// is not known, it does not count.
///
/// # Errors
/// If `config` does not describe a valid model.
pub fn count_on(config: &Config, ranks: usize, threads: usize) -> Result<usize> {
    let mut known = config.clone();
    known.vocab_size = known.vocab_size.max(1);
    let large = Layout::new(&known)?.trainable_len() > LARGE;
    let default = if large { ranks } else { ranks * threads };
    Ok(if config.shards == 0 { default } else { config.shards }.min(config.batch_size))
}

/// Packs the parameters for evaluation and sampling during training. For a large model a second copy of the weights
/// would take more memory than it is worth. So they are packed as for training: not at all in f32, and in bf16 into the
/// memory that training uses.
pub fn pack_to_read<B: Forward>(be: &B, model: &Gpt, p: &mut B::Buf) {
    be.pack_weights(p, &model.layout.linears(), model.layout.len() > LARGE);
}

impl<B: Forward> Shards<B> {
    /// Workers for batches of `batch_size` sequences, split into `shards` parts (at most one for each sequence).
    pub fn new(be: &B, model: &Gpt, batch_size: usize, shards: usize, training: bool) -> Shards<B> {
        Shards::of(be, model, (batch_size, shards), training, Team::default())
    }

    /// The same where a team shares the shards: those of this rank.
    ///
    /// # Panics
    /// If there are more ranks than shards.
    pub fn of(be: &B, model: &Gpt, (batch_size, shards): (usize, usize), training: bool, team: Team) -> Shards<B> {
        let count = shards.clamp(1, batch_size);
        assert!(team.size() <= count, "{count} shards for {} ranks", team.size());
        let shards = of_rank(count, team.rank(), team.size()).map(|s| {
            let share = s * batch_size / count..(s + 1) * batch_size / count;
            let eval_b = (EVAL_ROWS / model.block_size).clamp(1, share.len());
            let n = share.len() * model.block_size;
            Shard {
                eval: model.acts(be, eval_b, false),
                eval_b,
                training: training.then(|| Training {
                    acts: model.acts(be, share.len(), true),
                    scratch: model.act_grads(be, share.len()),
                    grads: be.zeros(model.layout.len()),
                    losses: be.zeros(n),
                    room: n,
                    teacher: None,
                }),
                rows: Padded::default(),
                losses: vec![0.0; n],
                loss: 0.0,
                share,
            }
        });
        let passes_on = training && !team.is_alone();
        let chunks = if passes_on { Chunks::of(&model.layout) } else { Chunks::default() };
        Shards { shards: shards.collect(), count, batch_size, team, wire: Wire::F32, chunks }
    }

    /// From now on, gradients also lead towards this teacher, which has the same tokens, and a context that is at least as long. The
    /// losses that are told stay those of the targets.
    ///
    /// # Panics
    /// If there are several ranks, whose teachers would have to be the same, or the workers were not made for training.
    pub fn teach(&mut self, be: &B, teacher: Teacher<B>) {
        assert!(self.team.is_alone(), "ranks have no teacher");
        let teacher = Arc::new(teacher);
        for shard in &mut self.shards {
            let acts = teacher.model.acts(be, shard.share.len(), false);
            shard.training().teacher = Some(Taught { by: teacher.clone(), acts });
        }
    }

    /// Sets how gradients travel between ranks.
    pub fn with_wire(self, wire: Wire) -> Shards<B> {
        Shards { wire, ..self }
    }

    /// Number of parts that a batch is split into.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The gradient that [`Shards::gradient`] computed last.
    ///
    /// # Panics
    /// If the workers were not made for training.
    pub fn last_gradient(&self) -> &B::Buf {
        &self.shards[0].training.as_ref().expect("made for training").grads
    }

    /// Evaluates `count` sequences without dropout: `load(i, batch)` appends sequence number `i`. `progress` is called
    /// with the number of sequences done and their total; if it breaks, there is no result.
    ///
    /// # Errors
    /// The error that `load` returns.
    pub fn losses(
        &mut self,
        be: &B,
        model: &Gpt,
        p: &B::Buf,
        count: usize,
        mut load: impl FnMut(usize, &mut Batch) -> Result<()>,
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<Measured>>> {
        let mut sums = vec![Measured::default(); count];
        let mut batch = Batch::default();
        // The threads synchronise only to read more sequences and to report progress.
        let piece = 16 * self.batch_size;
        for (k, sums) in sums.chunks_mut(piece).enumerate() {
            batch.clear();
            (k * piece..k * piece + sums.len()).try_for_each(|i| load(i, &mut batch))?;
            let asked = self.measure(be, model, p, &batch, sums).is_break();
            if progress(k * piece + sums.len(), count).is_break() || asked {
                return Ok(None);
            }
        }
        Ok(Some(sums))
    }

    /// Evaluates the sequences of a batch, on all ranks. Breaks if one of the others was asked to stop.
    fn measure(&mut self, be: &B, model: &Gpt, p: &B::Buf, batch: &Batch, sums: &mut [Measured]) -> ControlFlow<()> {
        if self.team.is_alone() {
            self.measure_own(be, model, p, batch, sums);
            return ControlFlow::Continue(());
        }
        self.team.tell(&Command::Measure(batch.clone()));
        let own = self.sequences_of(0, batch);
        self.measure_own(be, model, p, batch, &mut sums[own.clone()]);
        let reports = self.team.report(Vec::new(), |from| Measured::BYTES * self.sequences_of(from, batch).len());
        let others = reports.iter().flat_map(|report| report.chunks_exact(Measured::BYTES));
        sums[own.end..].iter_mut().zip(others).for_each(|(sum, bytes)| *sum = Measured::from_bytes(bytes));
        if self.team.is_asked_to_stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Evaluates this rank's part of the sequences of a batch, and tells rank 0.
    pub(crate) fn measure_as_told(&mut self, be: &B, model: &Gpt, p: &B::Buf, batch: &Batch) {
        let mut sums = vec![Measured::default(); self.sequences_of(self.team.rank(), batch).len()];
        self.measure_own(be, model, p, batch, &mut sums);
        self.team.report(sums.iter().copied().flat_map(Measured::to_bytes).collect(), |_| 0);
    }

    /// The sequences of a batch that a rank evaluates.
    fn sequences_of(&self, rank: usize, batch: &Batch) -> Range<usize> {
        let shards = of_rank(self.count, rank, self.team.size());
        shards.start * batch.len() / self.count..shards.end * batch.len() / self.count
    }

    /// Evaluates this rank's part of the sequences of a batch.
    fn measure_own(&mut self, be: &B, model: &Gpt, p: &B::Buf, batch: &Batch, mut sums: &mut [Measured]) {
        let (count, first) = (self.count, of_rank(self.count, self.team.rank(), self.team.size()).start);
        let mut work = Vec::with_capacity(self.shards.len());
        for (s, shard) in (first..).zip(&mut self.shards) {
            let (start, end) = (s * batch.len() / count, (s + 1) * batch.len() / count);
            let (mine, others) = sums.split_at_mut(end - start);
            sums = others;
            work.push((shard, start, mine));
        }
        for_each(work.into_par_iter(), |(shard, first, sums)| shard.losses(be, model, p, first, sums, batch));
    }
}

impl<B: Backward> Shards<B> {
    /// The mean loss over the targets that count in one or more batches, and its gradient's norm; the gradient is then
    /// in [`Shards::last_gradient`]. Both are read once, after all computations have been queued.
    ///
    /// # Panics
    /// If the workers were not made for training, or the sequences are not a whole number of batches.
    pub fn gradient(&mut self, be: &B, model: &Gpt, p: &B::Buf, batch: &Batch, seed: u64, step: u64) -> (f64, f64) {
        if !self.team.is_alone() {
            self.team.tell(&Command::Gradient { seed, step, batch: batch.clone() });
        }
        self.gradient_as_told(be, model, p, batch, (seed, step))
    }

    /// The same on a rank that was told to. Only rank 0 knows the loss.
    pub(crate) fn gradient_as_told(
        &mut self,
        be: &B,
        model: &Gpt,
        p: &B::Buf,
        batch: &Batch,
        (seed, step): (u64, u64),
    ) -> (f64, f64) {
        let batch_size = self.batch_size;
        assert!(!batch.is_empty() && batch.len().is_multiple_of(batch_size));
        // The gradient is that of the mean over all positions of all batches.
        let scale = 1.0 / batch.counted().max(1) as f64;
        let key = DropoutKey { seed, step, first_sequence: 0 };
        let Shards { shards, team, wire, chunks, .. } = self;
        let (team, wire, chunks) = (&*team, *wire, &*chunks);
        let count = shards.len();
        // No shard waits for the chain: what it computes next can travel as soon as what is under way has left.
        let (parts, arriving) = channel();
        let totals = std::thread::scope(|scope| {
            let chain =
                (!team.is_alone()).then(|| scope.spawn(move || ranks::sum(team, wire, chunks, count, &arriving)));
            let parts = chain.is_some().then_some(parts);
            let each = shards.par_iter_mut().enumerate().map(|(s, shard)| (s, shard, parts.clone()));
            for_each(each, |(s, shard, parts)| {
                shard.gradient((be, model, p), batch, (batch_size, scale), key, |g, stage| {
                    let Some(parts) = &parts else { return };
                    for (chunk, span) in chunks.of_stage(stage) {
                        let mut numbers = vec![0.0; span.len];
                        be.download(g, span.start, &mut numbers);
                        // If the chain has ended, it says why.
                        let _ = parts.send(Part { shard: s, chunk, numbers });
                    }
                });
            });
            drop(parts);
            chain.map(|chain| chain.join().expect("what fails ends all ranks").expect("all shards are done"))
        });
        let norm = self.take_totals(be, model, totals);
        let own = self.shards.iter().map(|shard| shard.loss);
        if self.team.is_alone() {
            return (own.sum(), norm);
        }
        // Rank 0 adds up the losses of all shards in order.
        let (count, size) = (self.count, self.team.size());
        let reports = self
            .team
            .report(own.clone().flat_map(f64::to_le_bytes).collect(), |from| 8 * of_rank(count, from, size).len());
        let others = reports.iter().flat_map(|report| report.chunks_exact(8));
        let others = others.map(|bytes| f64::from_le_bytes(bytes.try_into().expect("eight bytes")));
        (own.chain(others).sum(), norm)
    }

    /// The norm of the gradient: of the totals over all ranks, which become it or, of a rank alone, of the sum over its shards.
    fn take_totals(&mut self, be: &B, model: &Gpt, totals: Option<Vec<Vec<f32>>>) -> f64 {
        let mut grads: Vec<_> = self.shards.iter_mut().map(|shard| &mut shard.training().grads).collect();
        if let Some(totals) = totals {
            grads.truncate(1);
            let each = self.chunks.spans().iter().zip(&totals);
            each.for_each(|(span, total)| be.upload(grads[0], span.start, total));
        }
        be.reduce(&mut grads, &model.layout.trainable).sqrt()
    }

    /// Adds up the gradients that the shards of all ranks have, and returns the norm. [`Shards::gradient`] does so while it
    /// computes them; this is for measuring what it costs by itself.
    ///
    /// # Panics
    /// If the workers were not made for training.
    pub fn sum_gradients(&mut self, be: &B, model: &Gpt) -> f64 {
        let Shards { shards, team, wire, chunks, .. } = &*self;
        let sum = || {
            let (parts, arriving) = channel();
            for (s, shard) in shards.iter().enumerate() {
                let training = shard.training.as_ref().expect("made for training");
                for (chunk, &span) in chunks.spans().iter().enumerate() {
                    let mut numbers = vec![0.0; span.len];
                    be.download(&training.grads, span.start, &mut numbers);
                    parts.send(Part { shard: s, chunk, numbers }).expect("it is received below");
                }
            }
            ranks::sum(team, *wire, chunks, shards.len(), &arriving).expect("all parts are there")
        };
        let totals = (!team.is_alone()).then(sum);
        self.take_totals(be, model, totals)
    }
}

impl<B: Backward> Shard<B> {
    /// Computes the gradient of this shard's part of a batch or several, each loss times `scale`, and its loss. Calls `done` when
    /// a stage of the gradient is complete.
    fn gradient(
        &mut self,
        (be, model, p): (&B, &Gpt, &B::Buf),
        batch: &Batch,
        (batch_size, scale): (usize, f64),
        key: DropoutKey,
        done: impl Fn(&B::Buf, usize),
    ) {
        let batches = batch.len() / batch_size;
        let mut ends = Vec::with_capacity(batches);
        let mut at = 0;
        for k in 0..batches {
            let first = k * batch_size + self.share.start;
            let (b, t) = self.load(batch, first..first + self.share.len());
            let Shard { training, rows: Padded { ids, targets, positions, .. }, .. } = self;
            let rows = Rows { positions, ..Rows::new(b, t) };
            let training = training.as_mut().expect("made for training");
            training.make_room(be, at + rows.n());
            let Training { acts, scratch, grads, losses, teacher, .. } = training;
            let pass = Pass { p, rows, dropout: Some(DropoutKey { first_sequence: first as u64, ..key }) };
            model.forward(be, pass, acts, ids);
            model.losses_grad(be, acts, targets, scale);
            if let Some(Taught { by, acts: of_teacher }) = teacher {
                by.model.forward(be, Pass { p: &by.p, rows, dropout: None }, of_teacher, ids);
                model.teach(be, acts, of_teacher, targets, by.weight * scale);
            }
            be.copy(losses, at, acts.losses(), Span { start: 0, len: rows.n() });
            at += rows.n();
            ends.push(at);
            let grads = &mut Gradients { g: grads, add: k > 0 };
            model.backward(be, pass, grads, (acts, scratch), ids, |g, stage| {
                if k + 1 == batches {
                    done(g, stage);
                }
            });
        }
        self.losses.resize(self.losses.len().max(at), 0.0);
        let losses = &mut self.losses[..at];
        be.download(&self.training.as_ref().expect("made for training").losses, 0, losses);
        let mut first = 0;
        self.loss = 0.0;
        for end in ends {
            self.loss += scale * losses[first..end].iter().map(|&loss| f64::from(loss)).sum::<f64>();
            first = end;
        }
    }
}

impl<B: Forward> Training<B> {
    /// Makes room for the losses of this many rows, keeping those that are there.
    fn make_room(&mut self, be: &B, rows: usize) {
        if rows > self.room {
            let mut larger = be.zeros(rows.max(2 * self.room));
            be.copy(&mut larger, 0, &self.losses, Span { start: 0, len: self.room });
            (self.losses, self.room) = (larger, rows.max(2 * self.room));
        }
    }
}

impl<B: Forward> Shard<B> {
    fn training(&mut self) -> &mut Training<B> {
        self.training.as_mut().expect("made for training")
    }

    /// Evaluates the sequences of a batch from `first` on, as many at once as fit.
    fn losses(&mut self, be: &B, model: &Gpt, p: &B::Buf, first: usize, sums: &mut [Measured], batch: &Batch) {
        let mut at = first;
        for sums in sums.chunks_mut(self.eval_b) {
            let (b, t) = self.load(batch, at..at + sums.len());
            let Padded { ids, targets, positions, .. } = &self.rows;
            let rows = Rows { positions, ..Rows::new(b, t) };
            at += sums.len();
            model.forward(be, Pass { p, rows, dropout: None }, &mut self.eval, ids);
            model.losses(be, &mut self.eval, targets);
            let losses = &mut self.losses[..rows.n()];
            be.download(self.eval.losses(), 0, losses);
            let rows = losses.chunks_exact(t).zip(targets.chunks_exact(t));
            for (sum, (losses, targets)) in sums.iter_mut().zip(rows) {
                sum.loss = losses.iter().map(|&loss| f64::from(loss)).sum();
                sum.targets = targets.iter().filter(|&&target| target != IGNORE).count();
            }
        }
    }

    /// Loads some sequences of a batch as inputs and targets; returns their number and length.
    fn load(&mut self, batch: &Batch, sequences: Range<usize>) -> (usize, usize) {
        let b = sequences.len();
        self.rows.load(batch, sequences);
        (b, self.rows.t)
    }
}

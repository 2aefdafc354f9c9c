//! Dividing the batch: each shard computes its share of the sequences on one thread (only products large enough to be
//! divided themselves take more), with activations and a gradient buffer of its own; the only meeting point of a step is the sum of the gradients, in shard order.
//!
//! The number of shards is fixed for a run, threads only take shards to work on, and every random number is keyed by
//! the sequence's index in the batch: so the bits of the result do not depend on the number of threads.

use crate::{
    backend::{Backend, Rows},
    config::Config,
    model::{ActGrads, Acts, Gpt},
    rng::Noise,
};
use rayon::prelude::*;
use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// A model's workers.
pub struct Shards<B: Backend> {
    shards: Vec<Shard<B>>,
    batch_size: usize,
}

/// Rows that a shard measures at once: fewer would read the weights too often, more would leave the L2 cache.
pub(crate) const EVAL_ROWS: usize = 256;

struct Shard<B: Backend> {
    /// Which sequences of each batch are its own.
    share: std::ops::Range<usize>,
    /// For measuring, `eval_b` sequences at once.
    eval: Acts<B>,
    eval_b: usize,
    training: Option<Training<B>>,
    ids: Vec<u32>,
    targets: Vec<u32>,
    losses: Vec<f32>,
    /// Sum of the losses of this shard's sequences in the current step.
    loss: f64,
}

/// What only training needs, for a shard's whole share.
struct Training<B: Backend> {
    acts: Acts<B>,
    scratch: ActGrads<B>,
    grads: B::Buf,
}

/// Parameters that train from which one shard is the default: a gradient for each core would take more memory than it
/// is worth, and the products are large enough to be divided themselves.
pub(crate) const LARGE: usize = 1 << 25;

/// How many shards a run of `config` has, of whose parameters `trainable` train: what it says, or one for each core,
/// but not more than sequences.
pub fn count(config: &Config, trainable: usize) -> usize {
    let default = if trainable > LARGE { 1 } else { cores() };
    if config.shards == 0 { default } else { config.shards }.min(config.batch_size)
}

/// Lays the parameters out for measuring losses and sampling while training goes on. For a large model a second copy of
/// the weights would take more memory than it is worth, so there it is done as for training: not at all in f32, and in
/// bf16 in the memory that training uses.
pub fn prepare_to_read<B: Backend>(be: &B, model: &Gpt, p: &mut B::Buf) {
    be.prepare(p, &model.layout.linears(), model.layout.len() > LARGE);
}

/// Cores of this machine: how many threads there are unless told otherwise.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Threads that look for work all the time. A guess: nothing with more cores was measured.
const AWAKE: usize = 8;

/// How long they look without finding any before they do so only now and then: no computation makes them wait as long,
/// but a disk, or a reader of what is written.
const PATIENCE: Duration = Duration::from_millis(2);

/// Runs `work` on `threads` threads (0: one for each core): what divides itself below it, divides itself over them.
///
/// All of a run is inside, not step by step, and its threads (eight of them, if there are more) look for work all the
/// time instead of sleeping, because waking one takes as long as a small product.
pub fn with_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    /// Ends the search for work, also if the work panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("kinglet-{i}")).build();
    let (awake, done) = (&AtomicUsize::new(1), &AtomicBool::new(false));
    pool.expect("the system starts threads").scope(|scope| {
        let _done = Done(done);
        let wanted = rayon::current_num_threads().min(AWAKE).min(cores());
        for _ in 1..wanted {
            scope.spawn(move |_| {
                awake.fetch_add(1, Ordering::Release);
                // Each on a thread of its own: one that looked for work now would take up the next of these.
                while awake.load(Ordering::Acquire) < wanted {
                    std::thread::yield_now();
                }
                let mut last = Instant::now();
                while !done.load(Ordering::Acquire) {
                    if rayon::yield_now() == Some(rayon::Yield::Executed) {
                        last = Instant::now();
                    } else if last.elapsed() < PATIENCE {
                        std::thread::yield_now();
                    } else {
                        std::thread::sleep(PATIENCE / 10);
                    }
                }
            });
        }
        // Not before each of them has its thread: this one would take it up while it waits for something else.
        while awake.load(Ordering::Acquire) < wanted {
            std::thread::yield_now();
        }
        work()
    })
}

impl<B: Backend> Shards<B> {
    /// Workers for batches of `batch_size` sequences in `shards` parts (at most one for each sequence).
    pub fn new(be: &B, model: &Gpt, batch_size: usize, shards: usize, training: bool) -> Shards<B> {
        let count = shards.clamp(1, batch_size);
        let shards = (0..count).map(|s| {
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
                }),
                ids: Vec::with_capacity(n),
                targets: Vec::with_capacity(n),
                losses: vec![0.0; n],
                loss: 0.0,
                share,
            }
        });
        Shards { shards: shards.collect(), batch_size }
    }

    /// The mean loss over `batches` batches and its gradient's norm; the gradient is then in
    /// [`Shards::last_gradient`]. Sequence `i` of batch `k` is `sequence(k * batch_size + i)`: `t + 1` tokens, each but the first being the target of the one
    /// before.
    ///
    /// # Panics
    /// If the workers were not made for training.
    pub fn gradient<'a>(
        &mut self,
        be: &B,
        model: &Gpt,
        p: &B::Buf,
        batches: usize,
        seed: u64,
        step: u64,
        sequence: impl Fn(usize) -> &'a [u32] + Sync,
    ) -> (f64, f64) {
        let sequences = batches * self.batch_size;
        let batch_size = self.batch_size;
        self.shards.par_iter_mut().for_each(|shard| {
            shard.loss = 0.0;
            model.layout.trainable.iter().for_each(|&span| be.clear(&mut shard.training().grads, span));
            for batch in 0..batches {
                let first = batch * batch_size + shard.share.start;
                let rows = shard.load((first..first + shard.share.len()).map(&sequence));
                let noise = Some(Noise { seed, step, first_sequence: first as u64 });
                // The gradient is that of the mean over all positions of all batches.
                let scale = 1.0 / (sequences * rows.t) as f64;
                let Shard { training, ids, targets, losses, .. } = shard;
                let Training { acts, scratch, grads } = training.as_mut().expect("made for training");
                let losses = &mut losses[..rows.n()];
                model.forward(be, p, acts, ids, rows, noise);
                model.losses(be, acts, targets, Some(scale), losses);
                model.backward(be, p, grads, acts, scratch, ids, rows, noise);
                shard.loss += scale * losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            }
        });
        let mut grads: Vec<_> = self.shards.iter_mut().map(|shard| &mut shard.training().grads).collect();
        let norm = be.reduce(&mut grads, &model.layout.trainable).sqrt();
        (self.shards.iter().map(|shard| shard.loss).sum(), norm)
    }

    /// How many parts a batch has.
    pub fn count(&self) -> usize {
        self.shards.len()
    }

    /// What [`Shards::gradient`] computed last.
    ///
    /// # Panics
    /// If the workers were not made for training.
    pub fn last_gradient(&self) -> &B::Buf {
        &self.shards[0].training.as_ref().expect("made for training").grads
    }

    /// The sum of the losses over the positions of each of `count` sequences, dropout off; `progress` hears how many
    /// of how many are done, and if it breaks there is no result.
    pub fn losses<'a>(
        &mut self,
        be: &B,
        model: &Gpt,
        p: &B::Buf,
        count: usize,
        sequence: impl Fn(usize) -> &'a [u32] + Sync,
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Option<Vec<f64>> {
        let mut sums = vec![0.0; count];
        // The threads meet only to report progress.
        let piece = 16 * self.batch_size;
        for (k, sums) in sums.chunks_mut(piece).enumerate() {
            let (pieces, shards) = (sums.len(), self.shards.len());
            let mut rest = &mut *sums;
            let mut work = Vec::with_capacity(shards);
            for (s, shard) in self.shards.iter_mut().enumerate() {
                let (start, end) = (s * pieces / shards, (s + 1) * pieces / shards);
                let (mine, others) = rest.split_at_mut(end - start);
                rest = others;
                work.push((shard, k * piece + start, mine));
            }
            work.into_par_iter().for_each(|(shard, first, sums)| shard.losses(be, model, p, first, sums, &sequence));
            if progress(k * piece + pieces, count).is_break() {
                return None;
            }
        }
        Some(sums)
    }
}

impl<B: Backend> Shard<B> {
    fn training(&mut self) -> &mut Training<B> {
        self.training.as_mut().expect("made for training")
    }

    /// The sums of the losses of the sequences from `first` on, as many at once as fit and are of one length.
    fn losses<'a>(
        &mut self,
        be: &B,
        model: &Gpt,
        p: &B::Buf,
        first: usize,
        sums: &mut [f64],
        sequence: impl Fn(usize) -> &'a [u32],
    ) {
        let mut done = 0;
        while done < sums.len() {
            let at = first + done;
            let len = sequence(at).len();
            let most = self.eval_b.min(sums.len() - done);
            let b = (1..most).find(|&i| sequence(at + i).len() != len).unwrap_or(most);
            let rows = self.load((at..at + b).map(&sequence));
            model.forward(be, p, &mut self.eval, &self.ids, rows, None);
            let losses = &mut self.losses[..rows.n()];
            model.losses(be, &mut self.eval, &self.targets, None, losses);
            for (sum, losses) in sums[done..].iter_mut().zip(losses.chunks_exact(rows.t)) {
                *sum = losses.iter().map(|&loss| f64::from(loss)).sum();
            }
            done += b;
        }
    }

    /// Takes sequences of equal length as inputs and targets.
    fn load<'a>(&mut self, sequences: impl Iterator<Item = &'a [u32]>) -> Rows {
        self.ids.clear();
        self.targets.clear();
        let mut rows = Rows { b: 0, t: 0, pos: 0 };
        for sequence in sequences {
            rows = Rows { b: rows.b + 1, t: sequence.len() - 1, pos: 0 };
            self.ids.extend_from_slice(&sequence[..rows.t]);
            self.targets.extend_from_slice(&sequence[1..]);
        }
        rows
    }
}

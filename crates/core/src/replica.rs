//! A model in training, on one process or on several that stay the same, bit by bit.
//!
//! Rank 0 runs the loop; the others [`serve`] it. They need neither the data nor a disk: the batch comes with the command. Each
//! updates all of its weights itself, so weights travel only at the start and when they are rolled back. Or each updates a part of
//! them and sends it to the others: then it needs the optimizer's moments of that part alone.

use crate::{
    backend::Backward,
    batch::Batch,
    config::Config,
    error::{Error, Result},
    masters::Masters,
    model::Gpt,
    optim::Optimizer,
    params::Span,
    ranks::{Command, Team, Wire},
    shards::{self, Shards},
};
use std::time::Duration;

/// A model in training.
pub struct Replica<B: Backward> {
    /// The backend.
    pub be: B,
    /// The architecture.
    pub model: Gpt,
    /// The workers that compute in parallel.
    pub shards: Shards<B>,
    /// The optimizer.
    pub optimizer: Optimizer<B>,
    /// The parameters.
    pub p: Masters<B>,
    team: Team,
    /// Where each rank updates a part of the weights: the parts of all ranks.
    parts: Vec<Vec<Span>>,
    _run: Run,
}

/// What rank 0 asks the others for, where each has a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moments {
    /// [`Optimizer::m`].
    First,
    /// [`Optimizer::v`].
    Second,
}

/// A run that rank 0 has begun; it is over for all when this is dropped.
struct Run(Team);

impl<B: Backward> Replica<B> {
    /// A model with all parameters zero. Rank 0 tells the others to make theirs; once it has put weights and moments into its
    /// own, [`Replica::share`] gives them to all. With `parts`, each rank updates a part of the weights; the results are the same.
    ///
    /// # Errors
    /// If `config` does not describe a valid model, or there are more ranks than shards.
    pub fn new(be: B, config: &Config, team: Team, parts: bool) -> Result<Replica<B>> {
        let be = be.with_precision(config.precision);
        let model = Gpt::new(config)?;
        let count = shards::count(config, model.layout.trainable_len());
        if count < team.size() {
            // There are no more shards than sequences in a batch.
            let key = if config.batch_size < team.size() { "batch_size" } else { "shards" };
            return Err(Error::Config {
                key: key.into(),
                value: config.value(key).to_string(),
                allowed: format!(
                    "at least {}, so that each rank has something to do; or start fewer ranks",
                    team.size()
                ),
            });
        }
        let parts = parts && !team.is_alone();
        let of = if parts { (team.rank(), team.size()) } else { (0, 1) };
        let sizes = (config.batch_size, count);
        let ((optimizer, of_all), shards, p) = be.together(|| {
            let optimizer = Optimizer::of_part(&be, &model.layout, config, of)?;
            let shards = Shards::of(&be, &model, sizes, true, team.clone()).with_wire(Wire::of(config));
            Ok((optimizer, shards, Masters::new(&be, &model.layout, config)))
        })?;
        if team.rank() == 0 && !team.is_alone() {
            team.tell(&Command::Begin { config: config.to_toml(), parts });
        }
        let parts = if parts { of_all } else { Vec::new() };
        Ok(Replica { be, model, shards, optimizer, p, parts, _run: Run(team.clone()), team })
    }

    /// How many ranks there are.
    pub fn ranks(&self) -> usize {
        self.team.size()
    }

    /// Whether any rank was asked to stop.
    pub fn is_asked_to_stop(&self) -> bool {
        self.team.is_asked_to_stop()
    }

    /// Gives weights and moments of rank 0 to all.
    pub fn share(&mut self) {
        if self.team.is_alone() {
            return;
        }
        let (updates, fresh) = (self.optimizer.updates, self.optimizer.updates == 0);
        self.team.tell(&Command::State { updates, fresh });
        self.share_as_told(updates, fresh);
    }

    fn share_as_told(&mut self, updates: u64, fresh: bool) {
        let Replica { be, model, optimizer, team, p, parts, .. } = self;
        let all = Span { start: 0, len: model.layout.len() };
        optimizer.updates = updates;
        exchange(be, team, p.masters_mut(), all, &[all]);
        let whole = [all];
        let own = parts.get(team.rank()).map_or(&whole[..], |own| own);
        for moments in [&mut optimizer.m, &mut optimizer.v] {
            match fresh {
                true if team.rank() > 0 => *moments = be.zeros(all.len),
                true => {}
                false => exchange(be, team, moments, all, own),
            }
            if team.rank() == 0 && !parts.is_empty() {
                // Those of the other ranks' parts need no memory here any more.
                let mut mine = be.zeros(all.len);
                own.iter().for_each(|&span| be.copy(&mut mine, span.start, moments, span));
                *moments = mine;
            }
        }
    }

    /// Reads moments of all ranks: those of `span`.
    pub fn read_moments(&self, which: Moments, span: Span, out: &mut [f32]) {
        let Replica { be, optimizer, team, parts, .. } = self;
        let buffer = if which == Moments::First { &optimizer.m } else { &optimizer.v };
        be.download(buffer, span.start, out);
        if parts.is_empty() {
            return;
        }
        team.tell(&Command::Fetch { second: which == Moments::Second, span });
        for (rank, part) in parts.iter().enumerate().skip(1) {
            for piece in part.iter().filter_map(|part| part.within(span)) {
                let bytes = team.receive(rank, 4 * piece.len);
                Wire::F32.read(&bytes, &mut out[piece.start - span.start..][..piece.len]);
            }
        }
    }

    /// Sends rank 0 this rank's part of what it reads.
    fn send_moments(&self, second: bool, span: Span) {
        let Replica { be, optimizer, team, parts, .. } = self;
        let buffer = if second { &optimizer.v } else { &optimizer.m };
        let mut numbers = Vec::new();
        for piece in parts[team.rank()].iter().filter_map(|part| part.within(span)) {
            numbers.resize(piece.len, 0.0);
            be.download(buffer, piece.start, &mut numbers);
            team.send(0, Wire::F32.write(&numbers));
        }
    }

    /// The mean loss of one or more batches at `step` and its gradient's norm, as [`Shards::gradient`].
    pub fn gradient(&mut self, batch: &Batch, seed: u64, step: u64) -> (f64, f64) {
        let Replica { be, model, shards, p, .. } = self;
        be.pack_weights(p.weights_mut(be), &model.layout.linears(), true);
        shards.gradient(be, model, p.weights(), batch, seed, step)
    }

    /// One update with the last gradient, as [`Optimizer::step`].
    pub fn update(&mut self, grad_norm: f64, lr_scale: f64, step: u64) {
        self.team.tell(&Command::Update { grad_norm, lr_scale, step });
        self.update_as_told(grad_norm, lr_scale, step);
    }

    fn update_as_told(&mut self, grad_norm: f64, lr_scale: f64, step: u64) {
        let Replica { be, shards, optimizer, p, .. } = self;
        optimizer.step(be, p.masters_mut(), shards.last_gradient(), grad_norm, lr_scale, step);
        if !self.parts.is_empty() {
            self.pass_parts_round();
        }
    }

    /// Gives all ranks the parts of the weights that the others have updated: in a ring, each passes on what it was given last.
    fn pass_parts_round(&mut self) {
        let Replica { be, p, team, parts, .. } = self;
        let (rank, size, p) = (team.rank(), team.size(), p.masters_mut());
        let (next, before) = ((rank + 1) % size, (rank + size - 1) % size);
        let len = |part: &[Span]| 4 * part.iter().map(|span| span.len).sum::<usize>();
        let mut numbers: Vec<f32> = Vec::new();
        let mut bytes = Vec::new();
        for span in &parts[rank] {
            numbers.resize(span.len, 0.0);
            be.download(p, span.start, &mut numbers);
            bytes.extend(Wire::F32.write(&numbers));
        }
        for hop in 1..size {
            team.send(next, bytes);
            let part = &parts[(rank + size - hop) % size];
            bytes = team.receive(before, len(part));
            let mut rest = &bytes[..];
            for span in part {
                let (of_span, others) = rest.split_at(4 * span.len);
                rest = others;
                numbers.resize(span.len, 0.0);
                Wire::F32.read(of_span, &mut numbers);
                be.upload(p, span.start, &numbers);
            }
        }
    }

    /// Packs the parameters for measuring losses and for sampling: see [`shards::pack_to_read`].
    pub fn pack_to_read(&mut self) {
        let Replica { be, model, p, .. } = self;
        shards::pack_to_read(be, model, p.weights_mut(be));
    }

    /// Does what rank 0 tells, until its run is over.
    fn serve(mut self) {
        // Whether the weights are packed for reading.
        let mut packed = false;
        loop {
            let command = self.team.hear();
            if !matches!(command, Command::Measure(_)) {
                packed = false;
            }
            match command {
                Command::State { updates, fresh } => self.share_as_told(updates, fresh),
                Command::Fetch { second, span } => self.send_moments(second, span),
                Command::Gradient { seed, step, batch } => {
                    let Replica { be, model, shards, p, .. } = &mut self;
                    be.pack_weights(p.weights_mut(be), &model.layout.linears(), true);
                    shards.gradient_as_told(be, model, p.weights(), &batch, (seed, step));
                }
                Command::Update { grad_norm, lr_scale, step } => self.update_as_told(grad_norm, lr_scale, step),
                Command::Measure(batch) => {
                    if !std::mem::replace(&mut packed, true) {
                        self.pack_to_read();
                    }
                    let Replica { be, model, shards, p, .. } = &mut self;
                    shards.measure_as_told(be, model, p.weights(), &batch);
                }
                Command::End => return,
                Command::Begin { .. } | Command::Quit => self.team.abort("rank 0 went on before its run was over"),
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // If this rank panics, the others notice that it is lost.
        if self.0.rank() == 0 && !std::thread::panicking() {
            self.0.tell(&Command::End);
        }
    }
}

/// How long rank 0 may prepare a run.
const PREPARATION: Duration = Duration::from_secs(24 * 3600);

/// Serves the runs of rank 0, one after another, until it [quits](quit).
///
/// # Errors
/// If the configuration of a run is not one that this program knows.
pub fn serve<B: Backward + Clone>(be: &B, team: &Team) -> Result<()> {
    // Before a run, rank 0 may read a large text and train a tokenizer on it, all by itself.
    let idle = team.clone().with_patience(PREPARATION);
    loop {
        match idle.hear() {
            Command::Begin { config, parts } => {
                Replica::new(be.clone(), &Config::from_toml(&config)?, team.clone(), parts)?.serve();
            }
            Command::Quit => return Ok(()),
            other => team.abort(&format!("rank 0 has begun no run, but asks for {other:?}")),
        }
    }
}

/// Rank 0 tells those that [`serve`] that there will be no more runs.
pub fn quit(team: &Team) {
    if team.rank() == 0 {
        team.tell(&Command::Quit);
    }
    team.settle();
}

/// Sends the numbers of `all` of a buffer of rank 0 to all ranks; the others keep those of `wanted`.
fn exchange<B: Backward>(be: &B, team: &Team, buffer: &mut B::Buf, all: Span, wanted: &[Span]) {
    /// Numbers of a message.
    const MOST: usize = 1 << 20;
    let mut numbers = Vec::new();
    for start in all.range().step_by(MOST) {
        let span = Span { start, len: MOST.min(all.range().end - start) };
        numbers.resize(span.len, 0.0);
        let mut bytes = Vec::new();
        if team.rank() == 0 {
            be.download(buffer, start, &mut numbers);
            bytes = Wire::F32.write(&numbers);
        }
        let bytes = team.broadcast(bytes, 4 * span.len);
        if team.rank() > 0 {
            Wire::F32.read(&bytes, &mut numbers);
            for piece in wanted.iter().filter_map(|wanted| wanted.within(span)) {
                be.upload(buffer, piece.start, &numbers[piece.start - start..][..piece.len]);
            }
        }
    }
}

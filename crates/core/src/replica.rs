//! A model in training, on one process or on several that stay the same, bit by bit.
//!
//! Rank 0 runs the loop; the others [`serve`] it. They need neither the data nor a disk: the batch comes with the command. Each
//! updates all of its weights itself, so weights travel only at the start and when they are rolled back.

use crate::{
    backend::Backward,
    batch::Batch,
    config::Config,
    error::{Error, Result},
    masters::Masters,
    model::Gpt,
    optim::Optimizer,
    params::Span,
    ranks::{Command, Team},
    shards::{self, Shards},
};

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
    _run: Run,
}

/// A run that rank 0 has begun; it is over for all when this is dropped.
struct Run(Team);

impl<B: Backward> Replica<B> {
    /// A model with all parameters zero. Rank 0 tells the others to make theirs; once it has put weights and moments into its
    /// own, [`Replica::share`] gives them to all.
    ///
    /// # Errors
    /// If `config` does not describe a valid model, or there are more ranks than shards.
    pub fn new(be: B, config: &Config, team: Team) -> Result<Replica<B>> {
        let be = be.with_precision(config.precision);
        let model = Gpt::new(config)?;
        let count = shards::count(config, model.layout.trainable_len());
        if count < team.size() {
            return Err(Error::Config {
                key: "shards".into(),
                value: count.to_string(),
                allowed: format!("at least {}, so that each rank has one; or start fewer ranks", team.size()),
            });
        }
        let optimizer = Optimizer::new(&be, &model.layout, config)?;
        if team.rank() == 0 && !team.is_alone() {
            team.tell(&Command::Begin(config.to_toml()));
        }
        let shards = Shards::of(&be, &model, (config.batch_size, count), true, team.clone());
        let p = Masters::new(&be, &model.layout, config);
        Ok(Replica { be, model, shards, optimizer, p, _run: Run(team.clone()), team })
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
        let Replica { be, model, optimizer, team, p, .. } = self;
        let fresh = optimizer.updates == 0;
        team.tell(&Command::State { updates: optimizer.updates, fresh });
        exchange(be, team, model.layout.len(), p.masters_mut());
        if !fresh {
            exchange(be, team, model.layout.len(), &mut optimizer.m);
            exchange(be, team, model.layout.len(), &mut optimizer.v);
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
                Command::State { updates, fresh } => {
                    let Replica { be, model, optimizer, team, p, .. } = &mut self;
                    optimizer.updates = updates;
                    exchange(be, team, model.layout.len(), p.masters_mut());
                    for moments in [&mut optimizer.m, &mut optimizer.v] {
                        match fresh {
                            true => be.clear(moments, Span { start: 0, len: model.layout.len() }),
                            false => exchange(be, team, model.layout.len(), moments),
                        }
                    }
                }
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
                Command::Begin(_) | Command::Quit => self.team.abort("rank 0 went on before its run was over"),
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

/// Serves the runs of rank 0, one after another, until it [quits](quit).
///
/// # Errors
/// If the configuration of a run is not one that this program knows.
pub fn serve<B: Backward + Clone>(be: &B, team: &Team) -> Result<()> {
    loop {
        match team.hear() {
            Command::Begin(config) => Replica::new(be.clone(), &Config::from_toml(&config)?, team.clone())?.serve(),
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

/// Sends the first `len` numbers of a buffer of rank 0 to all.
fn exchange<B: Backward>(be: &B, team: &Team, len: usize, buffer: &mut B::Buf) {
    /// Numbers of a message.
    const MOST: usize = 1 << 20;
    let mut numbers = Vec::new();
    for start in (0..len).step_by(MOST) {
        let n = MOST.min(len - start);
        numbers.resize(n, 0.0);
        let mut bytes = Vec::new();
        if team.rank() == 0 {
            be.download(buffer, start, &mut numbers);
            bytes = numbers.iter().flat_map(|x: &f32| x.to_le_bytes()).collect();
        }
        let bytes = team.broadcast(bytes, 4 * n);
        if team.rank() > 0 {
            let each = numbers.iter_mut().zip(bytes.chunks_exact(4));
            each.for_each(|(x, b)| *x = f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            be.upload(buffer, start, &numbers);
        }
    }
}

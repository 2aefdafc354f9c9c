//! What happens in a run, told as it happens.

use super::plan::Plan;
use crate::report::baselines::Baseline;
use kinglet_core::{
    config::{OnDivergence, Precision},
    error::Divergence,
};
use serde::Serialize;

/// What happens in a run, in order. Losses are means in nats per token.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The run begins or goes on.
    Start {
        /// Updates done before.
        step: u64,
        /// Updates in all.
        max_iters: u64,
        /// What the products of linear layers and Muon are in on this machine.
        precision: Precision,
        /// Parameters.
        params: usize,
        /// Those of them that train.
        trainable_params: usize,
        /// TokenizerChoice in the vocabulary.
        vocab_size: usize,
        /// Tokens of the training split.
        train_tokens: usize,
        /// Tokens of the validation split.
        val_tokens: usize,
        /// What no model can stay below on the validation split, where known.
        entropy_floor: Option<f64>,
        /// What is ahead, but for the time.
        plan: Plan,
        /// The run's folder.
        out: String,
    },
    /// An update was made.
    Step {
        /// Updates done.
        step: u64,
        /// Loss of the batch, before the update.
        loss: f64,
        /// Learning rate of the update.
        lr: f64,
        /// The gradient's norm, before it is clipped.
        grad_norm: f64,
        /// Tokens trained on per second, over the steps since the run began or went on.
        tokens_per_s: f64,
    },
    /// The loss was estimated and a checkpoint written.
    Estimate {
        /// Updates done.
        step: u64,
        /// Mean over `eval_iters` random batches of the training split.
        train_loss: f64,
        /// The same for the validation split.
        val_loss: f64,
        /// The same for the validation split of the data that a fine-tuning may forget.
        #[serde(skip_serializing_if = "Option::is_none")]
        old_val_loss: Option<f64>,
        /// `val_loss` in bits per byte of UTF-8, which compares where tokens differ.
        bits_per_byte: f64,
        /// Seconds spent on training steps so far, all sessions together.
        train_s: f64,
    },
    /// The run knows how long it will take.
    Planned {
        /// Updates done.
        step: u64,
        /// What is ahead.
        plan: Plan,
    },
    /// Something went wrong that training can go on without.
    Warning {
        /// Updates done.
        step: u64,
        /// What, where, and what is done about it.
        warning: String,
    },
    /// An update was refused by the guard against divergence.
    Diverged {
        /// Updates done, after what was done about it.
        step: u64,
        /// What was done.
        action: OnDivergence,
        /// Returns to a checkpoint so far.
        rollbacks: u64,
        /// What happened.
        #[serde(flatten)]
        divergence: Divergence,
    },
    /// The validation loss has not fallen for `patience` estimates.
    EarlyStop {
        /// Updates done.
        step: u64,
        /// The lowest estimate.
        best_val_loss: f64,
        /// And its step.
        best_step: u64,
    },
    /// The loss is being measured, which can take a while.
    Measuring {
        /// Updates done.
        step: u64,
        /// Sequences done.
        done: usize,
        /// Sequences in all.
        of: usize,
    },
    /// The run was asked to stop; a checkpoint was written.
    Interrupted {
        /// Updates done.
        step: u64,
        /// The run's folder.
        out: String,
    },
    /// The run is complete.
    Done {
        /// Updates done.
        step: u64,
        /// Parameters.
        params: usize,
        /// The last estimates.
        train_loss: f64,
        /// The last estimates.
        val_loss: f64,
        /// Over every position of the validation split.
        val_loss_exact: f64,
        /// Standard error of that.
        val_loss_stderr: f64,
        /// `val_loss_exact` in bits per character.
        bits_per_char: f64,
        /// `val_loss_exact` in bits per byte of UTF-8.
        bits_per_byte: f64,
        /// The lowest estimate of the validation loss.
        best_val_loss: f64,
        /// And its step.
        best_step: u64,
        /// Of a fine-tuning: what it changed.
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        change: Option<Change>,
        /// What no model can stay below, where known.
        entropy_floor: Option<f64>,
        /// The best n-gram model of the training text, on the validation split: what is to be beaten.
        baseline: Option<Baseline>,
        /// Mean over the whole run, evaluations apart.
        ms_per_step: f64,
        /// Tokens trained on per second.
        tokens_per_s: f64,
        /// Seconds from the start, evaluations and checkpoints included.
        wall_s: f64,
        /// The most memory that training took at once, where the system tells.
        peak_memory_mib: Option<f64>,
        /// The run's folder.
        out: String,
    },
}

/// What a fine-tuning changed, by its estimates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Validation loss before the first update.
    pub val_loss_before: f64,
    /// Validation loss of the old data then.
    pub old_val_loss_before: Option<f64>,
    /// And at the end.
    pub old_val_loss: Option<f64>,
}

//! Events reported during a run.

use super::plan::Plan;
use crate::report::baselines::Baseline;
use kinglet_core::{
    config::{OnDivergence, Precision, Quantization},
    error::Divergence,
};
use serde::Serialize;

/// Events of a run, in order. Losses are means in nats per token.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The run starts or resumes.
    Start {
        /// Updates done in earlier sessions.
        step: u64,
        /// Total updates.
        max_iters: u64,
        /// The precision of linear layers' and Muon's matrix products on this machine.
        precision: Precision,
        /// What weights are rounded to in each pass.
        #[serde(skip_serializing_if = "Quantization::is_none")]
        quantization: Quantization,
        /// Ranks that compute the run.
        ranks: usize,
        /// Parameters.
        params: usize,
        /// Parameters that are trained.
        trainable_params: usize,
        /// Tokens in the vocabulary.
        vocab_size: usize,
        /// Tokens of the training split.
        train_tokens: usize,
        /// Tokens of the validation split.
        val_tokens: usize,
        /// Conversations of the training split; of text, none.
        #[serde(skip_serializing_if = "Option::is_none")]
        train_conversations: Option<usize>,
        /// The rows that they share.
        #[serde(skip_serializing_if = "Option::is_none")]
        train_rows: Option<usize>,
        /// The entropy floor of the validation split, if known.
        entropy_floor: Option<f64>,
        /// What the run will take, except for the time.
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
        /// The gradient's norm before clipping.
        grad_norm: f64,
        /// Training tokens per second, over the steps of this session; padding does not count.
        tokens_per_s: f64,
        /// Seconds to the end of the run, once known. It is not in `metrics.jsonl`: it says nothing of the run itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        left_s: Option<f64>,
    },
    /// The loss was estimated and a checkpoint was written.
    Estimate {
        /// Updates done.
        step: u64,
        /// Mean over `eval_iters` random batches of the training split.
        train_loss: f64,
        /// The same for the validation split.
        val_loss: f64,
        /// The same for the validation split of the old data that fine-tuning may forget.
        #[serde(skip_serializing_if = "Option::is_none")]
        old_val_loss: Option<f64>,
        /// `val_loss` in bits per byte of UTF-8, which is comparable across tokenizers.
        bits_per_byte: f64,
        /// Tokens trained on so far.
        tokens: f64,
        /// Seconds spent on training steps so far, over all sessions.
        train_s: f64,
    },
    /// The model wrote a text, as it is at this estimate.
    Sample {
        /// Updates done.
        step: u64,
        /// At most `sample_tokens` tokens, drawn with the run's seed. For conversations, the first one of the validation split with
        /// the model's answer.
        text: String,
    },
    /// The run has measured how long it will take.
    Planned {
        /// Updates done.
        step: u64,
        /// The plan, with times.
        plan: Plan,
    },
    /// What the user should know about the data: what was read of it, left out or guessed.
    Note {
        /// The note.
        note: String,
    },
    /// Something went wrong, but training can continue.
    Warning {
        /// Updates done.
        step: u64,
        /// What went wrong, where, and what is done about it.
        warning: String,
    },
    /// The divergence guard rejected an update.
    Diverged {
        /// Updates done, after the action was taken.
        step: u64,
        /// The action taken.
        action: OnDivergence,
        /// Rollbacks to a checkpoint so far.
        rollbacks: u64,
        /// What the guard detected.
        #[serde(flatten)]
        divergence: Divergence,
    },
    /// The validation loss has not fallen for `patience` estimates.
    EarlyStop {
        /// Updates done.
        step: u64,
        /// The lowest estimate.
        best_val_loss: f64,
        /// Its step.
        best_step: u64,
    },
    /// Progress of measuring the loss, which can take a while.
    Measuring {
        /// Updates done.
        step: u64,
        /// Sequences done, of all splits.
        done: usize,
        /// Total sequences.
        of: usize,
        /// Seconds to the end of the run, once known.
        #[serde(skip_serializing_if = "Option::is_none")]
        left_s: Option<f64>,
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
        /// The last estimate.
        train_loss: f64,
        /// The last estimate.
        val_loss: f64,
        /// Exact loss over every position of the validation split.
        val_loss_exact: f64,
        /// Standard error of that; `None` if the validation split is a single sequence.
        val_loss_stderr: Option<f64>,
        /// `val_loss_exact` in bits per character.
        bits_per_char: f64,
        /// `val_loss_exact` in bits per byte of UTF-8.
        bits_per_byte: f64,
        /// The lowest estimate of the validation loss.
        best_val_loss: f64,
        /// Its step.
        best_step: u64,
        /// Fine-tuning only: what it changed.
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        change: Option<Change>,
        /// The entropy floor, if known.
        entropy_floor: Option<f64>,
        /// The loss of the best n-gram model of the training text on the validation split: the loss to beat.
        baseline: Option<Baseline>,
        /// Mean over the whole run, excluding evaluations.
        ms_per_step: f64,
        /// Training tokens per second.
        tokens_per_s: f64,
        /// Seconds spent on training steps.
        train_s: f64,
        /// Total seconds, including evaluations and checkpoints.
        wall_s: f64,
        /// Peak memory of training, if the OS reports it.
        peak_memory_mib: Option<f64>,
        /// The run's folder.
        out: String,
    },
}

/// What fine-tuning changed, by its estimates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Validation loss before the first update.
    pub val_loss_before: f64,
    /// Validation loss on the old data before the first update.
    pub old_val_loss_before: Option<f64>,
    /// Validation loss on the old data at the end.
    pub old_val_loss: Option<f64>,
}

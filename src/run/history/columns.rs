//! Columns of what was recorded.

use serde::Deserialize;
use std::borrow::Cow;

/// The updates that a run has recorded, as columns. What is not known is NaN.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Steps {
    /// Updates done.
    pub step: Vec<u64>,
    /// Loss of the batch, in nats per token.
    pub loss: Vec<f64>,
    /// Learning rate.
    pub lr: Vec<f32>,
    /// The gradient's norm before clipping.
    pub grad_norm: Vec<f32>,
    /// Training tokens per second.
    pub tokens_per_s: Vec<f32>,
}

/// The estimates of the loss that a run has recorded, as columns. What is not known is NaN.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Estimates {
    /// Updates done.
    pub step: Vec<u64>,
    /// Loss on the training split, in nats per token.
    pub train_loss: Vec<f64>,
    /// Loss on the validation split.
    pub val_loss: Vec<f64>,
    /// Loss on the old data of a fine-tuning run.
    pub old_val_loss: Vec<f64>,
    /// Tokens trained on.
    pub tokens: Vec<f64>,
    /// Seconds of training steps.
    pub train_s: Vec<f64>,
}

/// Fields of the events that are read here. Borrowed where that is possible: a long run has millions of lines.
#[derive(Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow)]
    pub(super) event: Cow<'a, str>,
    pub(super) step: Option<u64>,
    loss: Option<f64>,
    lr: Option<f64>,
    grad_norm: Option<f64>,
    tokens_per_s: Option<f64>,
    train_loss: Option<f64>,
    val_loss: Option<f64>,
    old_val_loss: Option<f64>,
    tokens: Option<f64>,
    train_s: Option<f64>,
}

impl Steps {
    pub(super) fn push(&mut self, step: u64, line: &Line) {
        let number = |x: Option<f64>| x.unwrap_or(f64::NAN);
        self.step.push(step);
        self.loss.push(number(line.loss));
        self.lr.push(number(line.lr) as f32);
        self.grad_norm.push(number(line.grad_norm) as f32);
        self.tokens_per_s.push(number(line.tokens_per_s) as f32);
    }

    pub(super) fn truncate(&mut self, n: usize) {
        self.step.truncate(n);
        self.loss.truncate(n);
        for column in [&mut self.lr, &mut self.grad_norm, &mut self.tokens_per_s] {
            column.truncate(n);
        }
    }
}

impl Estimates {
    pub(super) fn push(&mut self, step: u64, line: &Line) {
        let number = |x: Option<f64>| x.unwrap_or(f64::NAN);
        self.step.push(step);
        self.train_loss.push(number(line.train_loss));
        self.val_loss.push(number(line.val_loss));
        self.old_val_loss.push(number(line.old_val_loss));
        self.tokens.push(number(line.tokens));
        self.train_s.push(number(line.train_s));
    }

    pub(super) fn truncate(&mut self, n: usize) {
        self.step.truncate(n);
        let Estimates { train_loss, val_loss, old_val_loss, tokens, train_s, .. } = self;
        for column in [train_loss, val_loss, old_val_loss, tokens, train_s] {
            column.truncate(n);
        }
    }
}

//! The published results.

/// Published results of a preset, to compare with ours.
pub(super) struct Published {
    pub(super) preset: &'static str,
    pub(super) params: usize,
    pub(super) train_loss: f64,
    pub(super) val_loss: f64,
    /// In "MB", which are really MiB and include PyTorch's causal masks.
    pub(super) size: f64,
}

pub(super) const PUBLISHED: [Published; 2] = [
    Published { preset: "big-0.2m", params: 209_729, train_loss: 1.6658, val_loss: 1.8275, size: 0.86 },
    Published { preset: "big-2.7m", params: 2_697_281, train_loss: 1.5228, val_loss: 1.7088, size: 10.43 },
];

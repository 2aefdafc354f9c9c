//! How large a model is.

use crate::inference::Model;
use kinglet_core::{config::Config, params::Layout, quant::Weights};
use serde::Serialize;

/// Sizes of a model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Size {
    /// Bytes of the file; `None` if it is not written yet, or is not one of weights alone.
    pub file_bytes: Option<u64>,
    /// MiB of the weights.
    pub weights_mib: f64,
    /// MiB as the sizes of the published models are counted: with PyTorch's causal masks in f32, one for each head.
    pub published_mib: f64,
    /// MiB that they take in this process: those of a model in full precision are there twice, as they are and as they are laid
    /// out for products.
    pub memory_mib: f64,
}

impl Size {
    /// The size of a model with these weights.
    pub(super) fn of(model: &Model, weights: &Weights) -> Size {
        let bytes = bytes(&model.parts().1.layout, weights);
        Size {
            file_bytes: None,
            weights_mib: mib(bytes),
            published_mib: mib(bytes + 4 * masks(model.config())),
            memory_mib: mib(model.parts().2.bytes()),
        }
    }

    /// The size of a model in full precision.
    pub(super) fn of_numbers(model: &Model) -> Size {
        Size::of(model, &Weights::default())
    }
}

/// Bytes of the weights.
fn bytes(layout: &Layout, weights: &Weights) -> usize {
    let rounded = weights.rounded.iter().map(|(_, matrix)| matrix);
    let (numbers, bytes) = rounded.fold((0, 0), |(numbers, bytes), matrix| {
        let (rows, cols) = matrix.shape();
        (numbers + rows * cols, bytes + matrix.bytes())
    });
    4 * (layout.len() - numbers) + bytes
}

/// Elements of PyTorch's causal masks.
fn masks(config: &Config) -> usize {
    config.n_layer * config.n_head * config.block_size.pow(2)
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

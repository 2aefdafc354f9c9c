//! Curves and dots over a pair of axes: as an SVG that can be read on light and on dark pages, and as letters on a terminal.

mod chart;
mod curves;
#[cfg_attr(not(feature = "plot"), path = "plot/no_svg.rs")]
mod svg;

pub use chart::{Chart, Series, Shape, mark, number};
pub use curves::{Curves, loss_svg};

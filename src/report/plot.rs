//! Line and scatter charts: as an SVG that is readable on light and dark pages, and as characters on a terminal.

mod chart;
mod curves;
#[cfg_attr(not(feature = "plot"), path = "plot/no_svg.rs")]
mod svg;

pub use chart::{Chart, Series, Shape, mark, number};
pub use curves::{Curves, Trail, loss_charts, loss_svg};

//! Stub for SVG drawing when the feature `plot` is off.

use super::chart::Chart;

impl Chart {
    /// The chart as an SVG.
    pub fn svg(&self) -> String {
        svg(std::slice::from_ref(self))
    }

    /// Several charts in one SVG, one below the other.
    pub fn panels(charts: &[Chart]) -> String {
        svg(charts)
    }
}

/// An SVG that says why there is no drawing.
fn svg(_: &[Chart]) -> String {
    let what = "this kinglet was built without the feature `plot`";
    let size = "width=\"480\" height=\"40\"";
    format!("<svg xmlns=\"http://www.w3.org/2000/svg\" {size}><text x=\"10\" y=\"25\">{what}</text></svg>\n")
}

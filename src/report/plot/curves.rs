//! The loss curves of one run.

use super::chart::{Chart, Series};

/// Training and validation estimates by step.
#[derive(Clone, Debug, Default)]
pub struct Curves {
    /// (step, training loss, validation loss) of each estimate.
    pub points: Vec<(u64, f64, f64)>,
    /// (step, loss) on the validation split of the old data that fine-tuning may forget.
    pub old: Vec<(u64, f64)>,
    /// The entropy floor in nats per character, if known.
    pub floor: Option<f64>,
}

/// Draws the curves of one run.
pub fn loss_svg(title: &str, curves: &Curves) -> String {
    let steps = curves.points.last().map_or(1, |point| point.0.max(1)) as f64;
    let line = |i: usize, label: &str, points: Vec<(f64, f64)>| {
        let last = points.iter().rfind(|point| point.1.is_finite());
        Series::new(i, last.map_or(label.to_owned(), |(_, loss)| format!("{label} {loss:.4}")), points)
    };
    let mut series = vec![
        line(0, "train", curves.points.iter().map(|&(step, train, _)| (step as f64, train)).collect()),
        line(1, "validation", curves.points.iter().map(|&(step, _, val)| (step as f64, val)).collect()),
    ];
    if !curves.old.is_empty() {
        let points = curves.old.iter().map(|&(step, loss)| (step as f64, loss)).collect();
        series.push(line(2, "old validation", points));
    }
    series.extend(curves.floor.map(|floor| Series::limit(format!("entropy floor {floor:.4}"), floor, 0.0..steps)));
    let (x_desc, y_desc) = ("step".into(), "loss (nats per token)".into());
    Chart { title: title.into(), x_desc, y_desc, series, ..Chart::default() }.svg()
}

//! The loss curves of one run.

use super::chart::{Chart, Series};
use crate::run::{Record, RunDir};
use kinglet_core::error::Result;

/// What is drawn of a run.
#[derive(Clone, Debug, Default)]
pub struct Curves {
    /// (step, training loss, validation loss) of each estimate.
    pub points: Vec<(u64, f64, f64)>,
    /// (step, loss) on the validation split of the old data that fine-tuning may forget.
    pub old: Vec<(u64, f64)>,
    /// Losses, learning rates and gradient norms of updates.
    pub steps: Trail,
    /// The entropy floor in nats per character, if known.
    pub floor: Option<f64>,
}

impl Curves {
    /// What a run has recorded.
    ///
    /// # Errors
    /// If its metrics cannot be read.
    pub fn of(run: &RunDir) -> Result<Curves> {
        let mut curves = Curves::default();
        run.records(|record| curves.add(&record))?;
        Ok(curves)
    }

    /// Adds what is drawn of a record.
    pub fn add(&mut self, record: &Record) {
        match record {
            Record::Estimate(at) => {
                self.points.push((at.step, at.train_loss, at.val_loss));
                self.old.extend(at.old_val_loss.map(|loss| (at.step, loss)));
            }
            Record::Step(at) => self.steps.push(at.step, at.loss, at.lr, at.grad_norm),
            Record::Done(at) => self.floor = at.entropy_floor,
            _ => {}
        }
    }

    /// Forgets what came after `step`.
    pub fn truncate(&mut self, step: u64) {
        self.points.retain(|point| point.0 <= step);
        self.old.retain(|point| point.0 <= step);
        self.steps.groups.retain(|group| group.last <= step);
    }
}

/// Updates in groups of neighbours: of a long run, more updates share a group, so that the memory and the drawing stay
/// small.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    groups: Vec<Group>,
    /// Twice as many records, this many times over, share a group.
    doubled: u32,
}

/// Most groups of a trail.
const GROUPS: usize = 1000;

/// Some neighbouring updates.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The last one's step.
    last: u64,
    n: u64,
    sum_of_steps: f64,
    sum_of_losses: f64,
    /// The last learning rate.
    pub lr: f64,
    /// The largest gradient norm, so that peaks stay.
    pub grad_norm: f64,
}

impl Group {
    /// The mean loss.
    pub fn loss(&self) -> f64 {
        self.sum_of_losses / self.n as f64
    }

    fn joined(self, next: Group) -> Group {
        Group {
            last: next.last,
            n: self.n + next.n,
            sum_of_steps: self.sum_of_steps + next.sum_of_steps,
            sum_of_losses: self.sum_of_losses + next.sum_of_losses,
            lr: next.lr,
            grad_norm: self.grad_norm.max(next.grad_norm),
        }
    }
}

impl Trail {
    /// Adds an update. One whose loss is no number is left out, as a drawing cannot show it.
    pub fn push(&mut self, step: u64, loss: f64, lr: f64, grad_norm: f64) {
        if !loss.is_finite() {
            return;
        }
        let one = Group { last: step, n: 1, sum_of_steps: step as f64, sum_of_losses: loss, lr, grad_norm };
        match self.groups.last_mut() {
            Some(group) if group.n < 1 << self.doubled => *group = group.joined(one),
            _ => self.groups.push(one),
        }
        if self.groups.len() > GROUPS {
            self.doubled += 1;
            let pairs = self.groups.chunks(2).map(|pair| pair[1..].iter().fold(pair[0], |a, &b| a.joined(b)));
            self.groups = pairs.collect();
        }
    }

    /// (mean step, value) of each group.
    pub fn points(&self, value: impl Fn(&Group) -> f64) -> Vec<(f64, f64)> {
        self.groups.iter().map(|group| (group.sum_of_steps / group.n as f64, value(group))).collect()
    }
}

/// Draws the curves of one run.
pub fn loss_svg(title: &str, curves: &Curves) -> String {
    Chart::panels(&loss_charts(title, curves))
}

/// The charts of one run: losses, then the learning rate and the gradient norm.
pub fn loss_charts(title: &str, curves: &Curves) -> Vec<Chart> {
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
    let of_steps = curves.steps.points(Group::loss);
    if !of_steps.is_empty() {
        let label = match curves.steps.doubled {
            0 => "training steps".to_owned(),
            doubled => format!("training steps, averaged over {}", 1u64 << doubled),
        };
        series.push(Series::new(0, label, of_steps).behind());
    }
    series.extend(curves.floor.map(|floor| Series::limit(format!("entropy floor {floor:.4}"), floor, 0.0..steps)));
    let loss = Chart {
        title: title.into(),
        x_desc: "step".into(),
        y_desc: "loss (nats per token)".into(),
        series,
        // One axis for all panels.
        x_range: Some(0.0..steps),
        skip_start: true,
        ..Chart::default()
    };
    let panel = |i: usize, what: &str, value: fn(&Group) -> f64| {
        let points = curves.steps.points(value);
        Chart {
            x_desc: "step".into(),
            y_desc: what.into(),
            series: vec![Series::new(i, "", points)],
            x_range: Some(0.0..steps),
            skip_start: true,
            low: true,
            ..Chart::default()
        }
    };
    if curves.steps.groups.is_empty() {
        return vec![loss];
    }
    // A schedule is shown from its beginning.
    let (mut lr, grad_norm) = (panel(3, "learning rate", |at| at.lr), panel(6, "gradient norm", |at| at.grad_norm));
    lr.skip_start = false;
    lr.y_limits = (Some(0.0), None);
    vec![loss, lr, grad_norm]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_trail_stays_short_and_keeps_means_and_peaks() {
        let mut trail = Trail::default();
        for step in 1..=100_000u64 {
            trail.push(step, (step % 2) as f64, 1e-3 * step as f64, if step == 77_777 { 9.0 } else { 1.0 });
        }
        trail.push(100_001, f64::NAN, 0.0, f64::INFINITY);
        assert!((GROUPS / 2..=GROUPS).contains(&trail.groups.len()), "{}", trail.groups.len());
        let steps = trail.points(Group::loss);
        assert!(steps.is_sorted_by(|a, b| a.0 < b.0) && steps.iter().all(|point| (point.1 - 0.5).abs() < 0.1));
        assert_eq!(trail.groups.iter().filter(|group| group.grad_norm == 9.0).count(), 1);
        assert_eq!(trail.groups.iter().map(|group| group.n).sum::<u64>(), 100_000);
    }
}

//! The plot of a search: the range test, and the loss against each swept key.

use super::{
    outcome::Outcome,
    range::RangeTest,
    space::{Sweep, Values},
};
use crate::report::plot::{Chart, Series};
use toml::Value;

/// Colour numbers of the last rungs; the last rung has the strongest colour.
const RUNGS: [usize; 3] = [0, 2, 1];

/// Draws the panels one below the other.
pub(super) fn svg(sweeps: &[Sweep], outcomes: &[Vec<Outcome>], range: Option<&RangeTest>, best: &Outcome) -> String {
    let panels = sweeps.iter().map(|sweep| sweep_chart(sweep, outcomes, best));
    Chart::panels(&range.map(range_chart).into_iter().chain(panels).collect::<Vec<_>>())
}

fn range_chart(range: &RangeTest) -> Chart {
    let (low, high) = range.bracket;
    Chart {
        title: "learning-rate range test".into(),
        x_desc: "learning_rate, rising with every step".into(),
        y_desc: "training loss, smoothed".into(),
        log_x: true,
        series: vec![
            Series::new(0, "training loss", range.points.clone()),
            Series::verticals(1, format!("swept: {low:.1e} to {high:.1e}"), &[low, high]),
        ],
        ..Chart::default()
    }
}

fn sweep_chart(sweep: &Sweep, outcomes: &[Vec<Outcome>], best: &Outcome) -> Chart {
    let list: &[Value] = if let Values::OneOf(list) = &sweep.values { list } else { &[] };
    let place = |outcome: &Outcome| {
        let value = &outcome.settings[sweep.key];
        let x = match list {
            [] => value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64)).unwrap_or(f64::NAN),
            // The configured value need not be in the list; if not, it is placed before it.
            list => list.iter().position(|listed| listed == value).map_or(-1.0, |at| at as f64),
        };
        (x, outcome.loss)
    };
    let log_x = matches!(sweep.values, Values::Between { log: true, .. });
    let shown = |point: &(f64, f64)| point.1.is_finite() && if log_x { point.0 > 0.0 } else { point.0.is_finite() };
    let points = |rung: &[Outcome]| rung.iter().map(place).filter(shown).collect::<Vec<_>>();
    // Outliers must not squash the other points into a line.
    let mut losses: Vec<f64> = outcomes.iter().flat_map(|rung| points(rung)).map(|point| point.1).collect();
    losses.sort_by(f64::total_cmp);
    let low = losses.first().copied().unwrap_or(0.0);
    let most = losses.get(losses.len() / 2).map_or(f64::INFINITY, |median| low + 4.0 * (median - low).max(0.05));
    let mut series = Vec::new();
    let mut left_out = 0;
    for (i, rung) in outcomes.iter().enumerate() {
        let Some(first) = rung.first() else { continue };
        let color = RUNGS[(i + RUNGS.len()).saturating_sub(outcomes.len()).min(RUNGS.len() - 1)];
        let mut points = points(rung);
        points.retain(|point| point.1 <= most);
        left_out += rung.len() - points.len();
        series.push(Series::dots(color, format!("rung {}: {} steps", i + 1, first.steps), points));
    }
    series.push(Series::rings("the best", vec![place(best)]));
    let before = outcomes.iter().flatten().any(|outcome| !list.is_empty() && place(outcome).0 < 0.0);
    let names = before.then(|| (-1.0, "as configured".to_owned())).into_iter();
    let left_out = if left_out > 0 { format!(" ({left_out} diverged or outside the frame)") } else { String::new() };
    Chart {
        title: format!("validation loss against {}{left_out}", sweep.key),
        x_desc: sweep.key.into(),
        y_desc: "loss (nats per token)".into(),
        log_x,
        x_names: names.chain(list.iter().enumerate().map(|(i, value)| (i as f64, value.to_string()))).collect(),
        series,
        ..Chart::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_panel_and_what_has_no_loss_is_counted() {
        let sweeps: Vec<Sweep> =
            ["learning_rate=1e-4..1e-1", "activation=[relu, gelu]"].map(|text| text.parse().unwrap()).into();
        let outcome = |trial, rung, rate: f64, activation: &str, loss| Outcome {
            trial,
            rung,
            steps: 100 * rung as u64,
            seed: 1,
            settings: [("learning_rate".to_owned(), rate.into()), ("activation".to_owned(), activation.into())].into(),
            loss,
            loss_stderr: Some(0.01),
            wall_s: 1.0,
            run: String::new(),
        };
        let first = vec![
            outcome(0, 1, 1e-3, "gelu_tanh", 3.0),
            outcome(1, 1, 1e-2, "relu", 2.5),
            outcome(2, 1, 9e-2, "gelu", f64::INFINITY),
        ];
        let second = vec![outcome(1, 2, 1e-2, "relu", 2.2)];
        let best = second[0].clone();
        let range = RangeTest {
            points: vec![(1e-5, 4.0), (1e-3, 3.0), (1e-2, 2.5), (1e-1, 3.5)],
            steepest: 1e-3,
            lowest: 1e-2,
            bracket: (1e-4, 1e-2),
        };
        let svg = svg(&sweeps, &[first, second], Some(&range), &best);
        for part in [
            "range test",
            "1.0e-4 to 1.0e-2",
            "validation loss against learning_rate",
            "validation loss against activation",
            "rung 2: 200 steps",
            "the best",
            "1 diverged",
            "relu",
            "as configured",
            "prefers-color-scheme",
        ] {
            assert!(svg.contains(part), "{part}");
        }
        super::svg(&sweeps, &[], None, &best);
    }
}

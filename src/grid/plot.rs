//! The plot of a sweep: the loss of every run against each key that varies.

use super::{outcome::Outcome, space::written};
use crate::report::plot::{Chart, Series};
use toml::Value;

/// Draws the panels one below the other; `None` if no key varies.
pub(super) fn svg(outcomes: &[Outcome]) -> Option<String> {
    let keys = outcomes.first()?.settings.keys();
    let panels: Vec<Chart> = keys.filter_map(|key| panel(key, outcomes)).collect();
    (!panels.is_empty()).then(|| Chart::panels(&panels))
}

fn number(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))
}

/// The panel of a key; `None` if all runs have the same value.
fn panel(key: &str, outcomes: &[Outcome]) -> Option<Chart> {
    let mut values: Vec<&Value> = Vec::new();
    for outcome in outcomes {
        let value = &outcome.settings[key];
        if !values.contains(&value) {
            values.push(value);
        }
    }
    if values.len() < 2 {
        return None;
    }
    let numbers: Option<Vec<f64>> = values.iter().map(|value| number(value)).collect();
    let place = |value: &Value| match &numbers {
        Some(_) => number(value).unwrap_or(f64::NAN),
        None => values.iter().position(|other| *other == value).map_or(f64::NAN, |at| at as f64),
    };
    let least = |numbers: &[f64]| numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let most = |numbers: &[f64]| numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_x = numbers.as_ref().is_some_and(|all| least(all) > 0.0 && most(all) >= 9.0 * least(all));
    let finite = || outcomes.iter().filter(|outcome| outcome.loss.is_finite());
    let points: Vec<(f64, f64)> = finite().map(|outcome| (place(&outcome.settings[key]), outcome.loss)).collect();
    let best = finite().min_by(|a, b| a.loss.total_cmp(&b.loss))?;
    let left_out = outcomes.len() - points.len();
    let left_out = if left_out > 0 { format!(" ({left_out} diverged)") } else { String::new() };
    let names = if numbers.is_some() {
        Vec::new()
    } else {
        values.iter().map(|value| (place(value), written(value))).collect()
    };
    Some(Chart {
        title: format!("validation loss against {key}{left_out}"),
        x_desc: key.to_owned(),
        y_desc: "loss (nats per token)".into(),
        log_x,
        x_names: names,
        series: vec![
            Series::dots(0, "each run", points),
            Series::rings("the best", vec![(place(&best.settings[key]), best.loss)]),
        ],
        ..Chart::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_varies_has_a_panel() {
        let outcome = |rate: f64, activation: &str, loss: f64| Outcome {
            run: "s/a".into(),
            settings: [
                ("learning_rate".to_owned(), rate.into()),
                ("activation".to_owned(), activation.into()),
                ("n_layer".to_owned(), Value::Integer(2)),
            ]
            .into(),
            seed: 1,
            steps: 1,
            loss,
            loss_stderr: None,
            bits_per_byte: None,
            wall_s: 1.0,
        };
        let svg = svg(&[outcome(1e-3, "relu", 2.0), outcome(1e-2, "gelu", 3.0), outcome(1.0, "gelu", f64::INFINITY)])
            .unwrap();
        for part in ["validation loss against learning_rate (1 diverged)", "validation loss against activation", "gelu"]
        {
            assert!(svg.contains(part), "{part}");
        }
        assert!(!svg.contains("n_layer"));
        assert_eq!(super::svg(&[outcome(1e-3, "relu", 2.0)]), None);
        assert_eq!(super::svg(&[]), None);
    }
}

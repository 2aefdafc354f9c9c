//! The loss curves of several runs in one chart, by step, by tokens or by seconds.

use crate::{
    report::plot::{Chart, Series, mark},
    run::{DoneRecord, EstimateRecord, Record, RunDir},
};
use kinglet_core::{
    config::{Config, FIELDS},
    error::{Error, Result},
    params::Layout,
};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
};

/// The quantity on the horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Updates done.
    Step,
    /// Tokens trained on.
    Tokens,
    /// Seconds spent on training steps, excluding estimates and checkpoints.
    Seconds,
}

/// The unit in which losses are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nats per token, if all runs use the same tokenizer.
    NatsPerToken,
    /// Bits per byte of UTF-8, if they do not.
    BitsPerByte,
}

/// Several runs side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overlay {
    /// The unit of all losses here.
    pub unit: Unit,
    /// Whether the losses of these runs compare.
    pub comparable: bool,
    /// The loss for which the time to reach it is reported: by default the last loss of the first-named run. There is none
    /// where losses do not compare.
    pub target: Option<f64>,
    /// The entropy floor, if known and the same for all runs.
    pub entropy_floor: Option<f64>,
    /// The configuration keys in which the runs differ, with each run's value.
    #[serde(serialize_with = "as_map")]
    pub config: Vec<(String, Vec<Value>)>,
    /// Notes for interpreting the curves.
    pub notes: Vec<String>,
    /// The runs that have no estimate yet, and so are left out.
    #[serde(serialize_with = "as_texts")]
    pub left_out: Vec<PathBuf>,
    /// The runs, in the order in which they were named.
    pub runs: Vec<Trace>,
    /// The places of the runs in [`Overlay::runs`], the one with the lowest last validation loss first.
    pub ranking: Vec<usize>,
}

/// Pairs of keys and values as a map.
fn as_map<S: Serializer>(pairs: &[(String, Vec<Value>)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(pairs.iter().map(|(key, values)| (key, values)))
}

/// A path that is no UTF-8 text is shown as well as it can be.
fn as_text<S: serde::Serializer>(path: &Path, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_str(&path.display())
}

fn as_texts<S: serde::Serializer>(paths: &[PathBuf], to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_seq(paths.iter().map(|path| path.display().to_string()))
}

/// What one run has recorded. Losses are in the overlay's unit; values not recorded are `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Trace {
    /// The shortest suffix of its path that is unique among the runs.
    pub name: String,
    /// Its folder.
    #[serde(serialize_with = "as_text")]
    pub run: PathBuf,
    /// Parameters.
    pub params: usize,
    /// Total updates configured.
    pub max_iters: u64,
    /// Its estimates.
    pub estimates: Vec<Estimate>,
    /// The lowest estimate of the validation loss.
    pub best_val_loss: Option<f64>,
    /// The step of that estimate.
    pub best_step: Option<u64>,
    /// Exact loss over the whole validation split.
    pub val_loss_exact: Option<f64>,
    /// Standard error of that.
    pub val_loss_stderr: Option<f64>,
    /// The entropy floor.
    pub entropy_floor: Option<f64>,
    /// Conversion factor from nats per token to bits per byte.
    pub bits_per_byte_per_nat: Option<f64>,
    /// The first estimate at or below the target.
    pub at_target: Option<Estimate>,
    /// Mean time per training step.
    pub ms_per_step: Option<f64>,
    /// Total seconds.
    pub wall_s: Option<f64>,
    /// Peak memory of training.
    pub peak_memory_mib: Option<f64>,
}

/// An estimate of the losses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Updates done.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: f64,
    /// Seconds spent on training steps.
    pub train_s: Option<f64>,
    /// Loss on the training split.
    pub train_loss: f64,
    /// Loss on the validation split.
    pub val_loss: f64,
}

impl Overlay {
    /// Combines runs; a run that is named twice is included once. `target` is in the unit of comparison.
    ///
    /// # Errors
    /// If metrics cannot be read, or no run has an estimate yet.
    pub fn new(runs: &[RunDir], target: Option<f64>) -> Result<Overlay> {
        let told = runs.iter().map(|run| {
            let whole = run.path().canonicalize().map_err(Error::io("read", run.path()))?;
            let (mut estimates, mut done) = (Vec::new(), None);
            run.records(|record| match record {
                Record::Estimate(at) => estimates.push(at),
                Record::Done(at) => done = Some(at),
                _ => {}
            })?;
            Ok(RunRecords { path: run.path().to_owned(), whole, config: &run.config, estimates, done })
        });
        overlay(told.collect::<Result<_>>()?, target)
    }

    /// The runs with their marks, the best first.
    pub fn ranked(&self) -> impl Iterator<Item = (char, &Trace)> {
        self.ranking.iter().enumerate().map(|(rank, &i)| (mark(rank), &self.runs[i]))
    }

    /// Charts the validation curves and, with `train`, those of the training split as thin lines.
    pub fn chart(&self, by: By, train: bool, log_x: bool) -> Chart {
        let x = |at: &Estimate| match by {
            By::Step => at.step as f64,
            By::Tokens => at.tokens,
            By::Seconds => at.train_s.unwrap_or(f64::NAN),
        };
        let curve = |run: &Trace, of: fn(&Estimate) -> f64| -> Vec<(f64, f64)> {
            run.estimates.iter().map(|at| (x(at), of(at))).collect()
        };
        let drawn = |points: &[(f64, f64)]| points.iter().any(|(x, y)| x.is_finite() && y.is_finite());
        let (mut series, mut behind) = (Vec::new(), Vec::new());
        for (i, (_, run)) in self.ranked().enumerate() {
            let points = curve(run, |at| at.val_loss);
            if !drawn(&points) {
                continue;
            }
            let last = points.last().map_or(f64::NAN, |point| point.1);
            series.push(Series::new(i, format!("{} {last:.4}", run.name), points));
            if train {
                behind.push(Series::new(i, "", curve(run, |at| at.train_loss)).behind());
            }
        }
        series.extend(behind);
        if let Some(floor) = self.entropy_floor {
            let all = || series.iter().flat_map(|series| &series.points).map(|point| point.0);
            let all = || all().filter(|x| x.is_finite() && (!log_x || *x > 0.0));
            let range = all().fold(f64::INFINITY, f64::min)..all().fold(f64::NEG_INFINITY, f64::max);
            series.push(Series::limit(format!("entropy floor {floor:.4}"), floor, range));
        }
        let unit = match self.unit {
            Unit::NatsPerToken => "nats per token",
            Unit::BitsPerByte => "bits per byte",
        };
        Chart {
            title: "Validation loss".into(),
            x_desc: match by {
                By::Step => "step",
                By::Tokens => "tokens trained on",
                By::Seconds => "seconds of training, without evaluation",
            }
            .into(),
            y_desc: format!("loss ({unit})"),
            thin: "training".into(),
            log_x,
            series,
            skip_start: true,
            ..Chart::default()
        }
    }
}

impl Trace {
    /// The last estimate.
    pub fn last(&self) -> Option<&Estimate> {
        self.estimates.last()
    }

    /// Converts all losses from nats per token to a unit of which one nat is `factor`.
    fn scale(&mut self, factor: f64) {
        for at in &mut self.estimates {
            (at.train_loss, at.val_loss) = (factor * at.train_loss, factor * at.val_loss);
        }
        let losses =
            [&mut self.best_val_loss, &mut self.val_loss_exact, &mut self.val_loss_stderr, &mut self.entropy_floor];
        losses.into_iter().flatten().for_each(|loss| *loss *= factor);
    }
}

/// The records read from a run.
struct RunRecords<'a> {
    /// The path as given by the user.
    path: PathBuf,
    /// The canonical path.
    whole: PathBuf,
    config: &'a Config,
    estimates: Vec<EstimateRecord>,
    done: Option<DoneRecord>,
}

fn overlay(mut told: Vec<RunRecords>, target: Option<f64>) -> Result<Overlay> {
    let mut notes = Vec::new();
    let mut wholes: Vec<PathBuf> = Vec::new();
    told.retain(|run| {
        let again = wholes.contains(&run.whole);
        if again {
            notes.push(format!("{} was named twice; it is shown once.", run.path.display()));
        } else {
            wholes.push(run.whole.clone());
        }
        !again
    });
    let paths = |told: &[RunRecords]| told.iter().map(|run| run.path.clone()).collect::<Vec<_>>();
    let (told, empty): (Vec<_>, Vec<_>) = told.into_iter().partition(|run| !run.estimates.is_empty());
    let left_out = paths(&empty);
    if told.is_empty() {
        let paths: Vec<_> = left_out.iter().map(|path| path.display().to_string()).collect();
        return Err(Error::Data(format!("{}: no estimate of the loss yet", paths.join(", "))));
    }
    wholes = told.iter().map(|run| run.whole.clone()).collect();
    let mut runs: Vec<(Trace, &Config)> = Vec::new();
    for (run, name) in told.iter().zip(names(&wholes)) {
        runs.push((trace(run, name, &mut notes)?, run.config));
    }
    let differ = |of: fn(&Config) -> Value| runs.iter().any(|(_, config)| of(config) != of(runs[0].1));
    let texts = differ(|config| config.data_sha256.clone().into()) || differ(|config| config.train_split.into());
    let tokens = differ(|config| config.tokenizer_sha256.clone().into());
    if texts {
        notes.push("These runs were not all evaluated on the same text, so their losses cannot be compared.".into());
    }
    let (mut unit, mut comparable) = (Unit::NatsPerToken, !texts);
    if tokens {
        let unknown = |run: &Trace| run.bits_per_byte_per_nat.is_none();
        let unknown: Vec<_> = runs.iter().filter(|(run, _)| unknown(run)).map(|(run, _)| run.name.as_str()).collect();
        if unknown.is_empty() {
            unit = Unit::BitsPerByte;
            notes.push(
                "These runs use different tokenizers, so losses are in bits per byte. Training losses are \
                 converted with the \
                 validation split's bytes per token."
                    .into(),
            );
        } else {
            comparable = false;
            notes.push(format!(
                "These runs use different tokenizers: nats per token CANNOT BE COMPARED, and bits per byte are \
                 not known for {}.",
                unknown.join(", ")
            ));
        }
    }
    if unit == Unit::BitsPerByte {
        runs.iter_mut().for_each(|(run, _)| run.scale(run.bits_per_byte_per_nat.unwrap_or(f64::NAN)));
    }
    let last = |run: &Trace| run.last().map_or(f64::NAN, |at| at.val_loss);
    let target = target.or_else(|| Some(last(&runs[0].0)).filter(|loss| loss.is_finite())).filter(|_| comparable);
    // With the same text and the same tokens the floor is the same, even for a run that has not recorded it yet.
    let floor = runs.iter().find_map(|(run, _)| run.entropy_floor).filter(|_| !texts && !tokens);
    for (run, _) in &mut runs {
        let reached = |at: &&Estimate| target.is_some_and(|target| at.val_loss <= target);
        run.at_target = run.estimates.iter().find(reached).copied();
    }
    let mut ranking: Vec<usize> = (0..runs.len()).collect();
    // NaN sorts after any number.
    ranking.sort_by(|&a, &b| {
        let (a, b) = (last(&runs[a].0), last(&runs[b].0));
        a.is_nan().cmp(&b.is_nan()).then(a.partial_cmp(&b).unwrap_or(Ordering::Equal))
    });
    let values = |key| -> Vec<Value> {
        let value = |config: &Config| serde_json::to_value(config.value(key)).expect("plain values");
        runs.iter().map(|(_, config)| value(config)).collect()
    };
    let config = FIELDS.iter().filter(|field| !field.key.ends_with("sha256"));
    let config = config
        .map(|field| (field.key.to_owned(), values(field.key)))
        .filter(|(_, values)| values.iter().any(|value| *value != values[0]))
        .collect();
    let runs = runs.into_iter().map(|(run, _)| run).collect();
    Ok(Overlay { unit, comparable, target, entropy_floor: floor, config, notes, left_out, runs, ranking })
}

/// Builds the trace of a run from its records.
fn trace(told: &RunRecords, name: String, notes: &mut Vec<String>) -> Result<Trace> {
    let RunRecords { path, config, .. } = told;
    let done = told.done.unwrap_or_default();
    let ms_per_step = done.ms_per_step;
    let without_seconds = told.estimates.iter().any(|at| at.train_s.is_none());
    let estimate = |at: &EstimateRecord| Estimate {
        step: at.step,
        tokens: at.tokens.unwrap_or(at.step as f64 * config.tokens_per_step()),
        train_s: at.train_s.or_else(|| Some(at.step as f64 * ms_per_step? / 1e3)),
        train_loss: at.train_loss,
        val_loss: at.val_loss,
    };
    let estimates: Vec<Estimate> = told.estimates.iter().map(estimate).collect();
    if without_seconds {
        notes.push(match ms_per_step {
            Some(_) => format!(
                "{name} was trained by an old kinglet that recorded no seconds: its times are estimated from \
                 the mean time per step."
            ),
            None => format!(
                "{name} was trained by an old kinglet that recorded no seconds, so it has no curve \
                 by seconds."
            ),
        });
    }
    match estimates.iter().filter(|at| !at.val_loss.is_finite()).count() {
        0 => {}
        1 => notes.push(format!("1 estimate of {name} is not finite, so it is not drawn.")),
        n => notes.push(format!("{n} estimates of {name} are not finite, so they are not drawn.")),
    }
    let ratio = |bits: Option<f64>, nats: Option<f64>| Some(bits? / nats?).filter(|ratio| ratio.is_normal());
    let per_nat = told.estimates.iter().find_map(|at| ratio(at.bits_per_byte, Some(at.val_loss)));
    let finite = estimates.iter().filter(|at| at.val_loss.is_finite());
    let best = finite.min_by(|a, b| a.val_loss.total_cmp(&b.val_loss)).copied();
    let so_far = |at: &Estimate| at.train_s.filter(|_| at.step > 0).map(|s| 1e3 * s / at.step as f64);
    Ok(Trace {
        name,
        run: path.clone(),
        params: Layout::new(config)?.len(),
        max_iters: config.max_iters,
        best_val_loss: best.map(|at| at.val_loss),
        best_step: best.map(|at| at.step),
        val_loss_exact: done.val_loss_exact,
        val_loss_stderr: done.val_loss_stderr,
        entropy_floor: done.entropy_floor,
        bits_per_byte_per_nat: per_nat.or_else(|| ratio(done.bits_per_byte, done.val_loss_exact)),
        at_target: None,
        ms_per_step: ms_per_step.or_else(|| so_far(estimates.last()?)),
        wall_s: done.wall_s,
        peak_memory_mib: done.peak_memory_mib,
        estimates,
    })
}

/// The shortest unique suffix of each path.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let end = |path: &Path, n: usize| -> PathBuf {
        let parts: Vec<_> = path.components().collect();
        parts[parts.len().saturating_sub(n)..].iter().collect()
    };
    let shortest = |path: &PathBuf| {
        let alone = |n: &usize| paths.iter().filter(|other| end(other, *n) == end(path, *n)).count() == 1;
        let n = (1..path.components().count()).find(alone).unwrap_or(usize::MAX);
        end(path, n).display().to_string()
    };
    paths.iter().map(shortest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: &[&str]) -> Config {
        let mut config = Config::default().with(&["vocab_size=65", "tokenizer_sha256=same"]).unwrap();
        settings.iter().for_each(|setting| config.set(setting).unwrap());
        config
    }

    fn told<'a>(path: &str, config: &'a Config, val_losses: &[f64]) -> RunRecords<'a> {
        let estimate = |(i, &loss): (usize, &f64)| EstimateRecord {
            step: 10 * i as u64,
            train_loss: loss - 0.1,
            val_loss: loss,
            old_val_loss: None,
            bits_per_byte: Some(loss * 0.5),
            tokens: None,
            train_s: Some(i as f64),
        };
        let estimates = val_losses.iter().enumerate().map(estimate).collect();
        RunRecords { path: path.into(), whole: Path::new("/").join(path), config, estimates, done: None }
    }

    fn order(overlay: &Overlay) -> Vec<&str> {
        overlay.ranked().map(|(_, run)| run.name.as_str()).collect()
    }

    #[test]
    fn the_best_run_is_ranked_first_and_what_is_no_number_last() {
        let (slow, fast) = (config(&[]), config(&["learning_rate=0.01", "batch_size=8"]));
        let runs = vec![
            told("a/slow", &slow, &[4.0, 3.5, 3.0]),
            told("b/fast", &fast, &[4.0, 2.5, 2.75]),
            told("a/none", &slow, &[]),
            told("a/nan", &slow, &[4.0, f64::NAN]),
            told("a/slow", &slow, &[4.0, 3.5, 3.0]),
        ];
        let overlay = overlay(runs, None).unwrap();
        assert_eq!(order(&overlay), ["fast", "slow", "nan"]);
        let named: Vec<_> = overlay.runs.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(named, ["slow", "fast", "nan"], "in the order of the command line");
        assert_eq!(overlay.left_out, [Path::new("a/none")]);
        assert_eq!((overlay.unit, overlay.target), (Unit::NatsPerToken, Some(3.0)));
        let [slow, fast, nan] = &overlay.runs[..] else { panic!() };
        assert_eq!((fast.best_val_loss, fast.best_step), (Some(2.5), Some(10)));
        let reached = fast.at_target.unwrap();
        assert_eq!((reached.step, reached.tokens, reached.train_s), (10, 10.0 * 8.0 * 32.0, Some(1.0)));
        assert_eq!(slow.at_target.unwrap().step, 20);
        assert!(nan.at_target.is_none() && nan.best_val_loss == Some(4.0));
        let keys: Vec<_> = overlay.config.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["batch_size", "learning_rate"]);
        assert_eq!(overlay.config[1].1, [0.001, 0.01, 0.001]);
        let json = serde_json::to_value(&overlay).unwrap();
        assert_eq!(json["config"]["learning_rate"], serde_json::json!([0.001, 0.01, 0.001]));
        let notes = overlay.notes.join("\n");
        for part in ["a/slow was named twice", "1 estimate of nan is not finite"] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
        // A run that cannot be drawn has no curve; a training curve stands behind.
        let chart = overlay.chart(By::Tokens, true, false);
        let marks: Vec<_> = chart.series.iter().map(|series| series.mark).collect();
        assert_eq!(marks, ['A', 'B', 'C', 'a', 'b', 'c']);
        assert_eq!(chart.series[0].points[1], (2560.0, 2.5));
        assert_eq!(chart.series[0].label, "fast 2.7500");
    }

    #[test]
    fn other_tokens_are_compared_in_bits_per_byte_if_those_are_known() {
        let (char, byte) = (config(&[]), config(&["tokenizer_sha256=other"]));
        let mut runs = vec![told("a", &char, &[4.0]), told("b", &byte, &[3.0])];
        let both = overlay(vec![told("a", &char, &[4.0]), told("b", &byte, &[3.0])], Some(1.75)).unwrap();
        assert_eq!((both.unit, order(&both)), (Unit::BitsPerByte, vec!["b", "a"]));
        let [a, b] = &both.runs[..] else { panic!() };
        assert_eq!((b.estimates[0].val_loss, b.best_val_loss, b.at_target.is_some()), (1.5, Some(1.5), true));
        assert!((b.estimates[0].train_loss - 1.45).abs() < 1e-9);
        assert!(a.at_target.is_none() && both.comparable);
        assert!(both.chart(By::Step, false, false).y_desc.contains("bits per byte"));
        runs[1].estimates[0].bits_per_byte = None;
        let unknown = overlay(runs, None).unwrap();
        assert_eq!(unknown.unit, Unit::NatsPerToken);
        assert!(unknown.notes[0].contains("CANNOT BE COMPARED, and bits per byte are not known for b"), "{unknown:?}");
        assert!(!unknown.comparable && unknown.target.is_none(), "there is nothing to reach");
        let text = config(&["data_sha256=text"]);
        let texts = overlay(vec![told("a", &char, &[4.0]), told("b", &text, &[3.0])], None).unwrap();
        assert!(texts.notes[0].contains("not all evaluated on the same text"));
        assert_eq!((texts.comparable, texts.target), (false, None));
    }

    #[test]
    fn runs_of_before_have_seconds_by_their_mean_or_none() {
        let config = config(&[]);
        let old = |done: bool| {
            let mut run = told("old", &config, &[4.0, 3.0]);
            run.estimates.iter_mut().for_each(|at| at.train_s = None);
            let record = DoneRecord {
                ms_per_step: Some(500.0),
                entropy_floor: Some(0.5),
                val_loss_exact: Some(3.0),
                ..DoneRecord::default()
            };
            run.done = done.then_some(record);
            overlay(vec![run], None).unwrap()
        };
        let done = old(true);
        assert_eq!(done.runs[0].estimates[1].train_s, Some(5.0));
        assert!(done.notes[0].contains("estimated from the mean time per step"));
        let chart = done.chart(By::Seconds, false, false);
        assert_eq!(chart.series[1].points, [(0.0, 0.5), (5.0, 0.5)], "the floor");
        let running = old(false);
        assert!(running.notes[0].contains("no curve by seconds"));
        assert_eq!(running.chart(By::Seconds, false, false).series, []);
        assert_eq!(running.chart(By::Step, false, false).series.len(), 1);
        let error = overlay(vec![told("new", &config, &[])], None).unwrap_err().to_string();
        assert_eq!(error, "new: no estimate of the loss yet");
    }

    #[test]
    fn names_are_the_shortest_ends_that_differ() {
        let paths = ["/a/x/run", "/a/y/run", "/a/other", "/run"].map(PathBuf::from);
        assert_eq!(names(&paths), ["x/run", "y/run", "other", "/run"]);
    }
}

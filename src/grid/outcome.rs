//! What the runs of a sweep came to: one by one, and by settings.

use super::space::{Settings, written};
use crate::{hands, report::with_error};
use kinglet_core::error::Result;
use serde::Serialize;
use std::{fmt::Write as _, path::Path};

/// How one run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// Its folder.
    pub run: String,
    /// The values of the keys that vary.
    pub settings: Settings,
    /// Its seed.
    pub seed: u64,
    /// Updates made.
    pub steps: u64,
    /// The exact validation loss in nats per token; infinite (`null` in JSON) if the run diverged.
    pub loss: f64,
    /// Its standard error; `None` where it is not known.
    pub loss_stderr: Option<f64>,
    /// The loss in bits per byte of UTF-8; `None` if the run diverged.
    pub bits_per_byte: Option<f64>,
    /// Seconds it took.
    pub wall_s: f64,
}

impl Outcome {
    /// Of the run in a folder; `None` if it has not ended.
    pub(super) fn of(run: &Path, settings: &Settings, seed: u64) -> Result<Option<Outcome>> {
        Ok(hands::end_of(run)?.map(|end| Outcome {
            run: run.display().to_string(),
            settings: settings.clone(),
            seed,
            steps: end.step,
            loss: end.val_loss_exact.unwrap_or(f64::INFINITY),
            loss_stderr: end.val_loss_stderr,
            bits_per_byte: end.bits_per_byte,
            wall_s: end.wall_s.unwrap_or(0.0),
        }))
    }

    /// Its loss, or that it has none.
    pub fn loss(&self) -> String {
        if self.loss.is_finite() { with_error(self.loss, self.loss_stderr) } else { DIVERGED.to_owned() }
    }
}

const DIVERGED: &str = "diverged";

/// What the runs of the same settings came to. Means are over those that did not diverge.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// The values of the keys that vary.
    pub settings: Settings,
    /// Runs, each with another seed.
    pub seeds: usize,
    /// Of these, how many diverged.
    pub diverged: usize,
    /// The mean exact validation loss in nats per token; infinite (`null` in JSON) if all diverged.
    pub loss: f64,
    /// Its standard deviation over the seeds; of one seed, none.
    pub loss_sd: Option<f64>,
    /// The mean loss in bits per byte.
    pub bits_per_byte: Option<f64>,
    /// The mean number of updates.
    pub steps: f64,
    /// The mean number of seconds.
    pub wall_s: f64,
}

/// Mean and standard deviation of at least one number.
fn spread(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()))
}

impl Row {
    fn of(outcomes: &[&Outcome]) -> Row {
        let ended: Vec<&&Outcome> = outcomes.iter().filter(|outcome| outcome.loss.is_finite()).collect();
        let all = |value: &dyn Fn(&Outcome) -> f64| ended.iter().map(|outcome| value(outcome)).collect::<Vec<f64>>();
        let mean = |value: &dyn Fn(&Outcome) -> f64| spread(&all(value)).0;
        let (loss, loss_sd) = spread(&all(&|outcome| outcome.loss));
        let bytes = all(&|outcome| outcome.bits_per_byte.unwrap_or(f64::NAN));
        let none = ended.is_empty();
        Row {
            settings: outcomes[0].settings.clone(),
            seeds: outcomes.len(),
            diverged: outcomes.len() - ended.len(),
            loss: if none { f64::INFINITY } else { loss },
            loss_sd,
            bits_per_byte: Some(spread(&bytes).0).filter(|bits| bits.is_finite()),
            steps: if none { 0.0 } else { mean(&|outcome| outcome.steps as f64) },
            wall_s: if none { 0.0 } else { mean(&|outcome| outcome.wall_s) },
        }
    }

    /// Its loss, and how many runs have none.
    pub fn loss(&self) -> String {
        let &Row { seeds, diverged, loss, loss_sd, .. } = self;
        match diverged {
            0 => with_error(loss, loss_sd),
            _ if diverged == seeds && seeds == 1 => DIVERGED.to_owned(),
            _ if diverged == seeds => format!("all {seeds} {DIVERGED}"),
            _ => format!("{} ({diverged} of {seeds} {DIVERGED})", with_error(loss, loss_sd)),
        }
    }
}

/// Whether the losses in nats per token are of other tokens.
fn by_byte(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.settings.get("tokenizer") != rows[0].settings.get("tokenizer"))
}

/// The rows of all settings, best first: those with the fewest runs that diverged, and of these the lowest loss, in bits per byte
/// if tokenizers differ.
pub(super) fn rows(outcomes: &[Outcome]) -> Vec<Row> {
    let mut groups: Vec<Vec<&Outcome>> = Vec::new();
    for outcome in outcomes {
        match groups.iter_mut().find(|group| group[0].settings == outcome.settings) {
            Some(group) => group.push(outcome),
            None => groups.push(vec![outcome]),
        }
    }
    let mut rows: Vec<Row> = groups.iter().map(|group| Row::of(group)).collect();
    let bytes = by_byte(&rows);
    let loss = |row: &Row| if bytes { row.bits_per_byte.unwrap_or(f64::INFINITY) } else { row.loss };
    // Sorting keeps the order of equals.
    rows.sort_by(|a, b| a.diverged.cmp(&b.diverged).then(loss(a).total_cmp(&loss(b))));
    rows
}

/// The table of all settings: a heading and rows of cells.
pub fn table(rows: &[Row]) -> Vec<Vec<String>> {
    let Some(first) = rows.first() else { return Vec::new() };
    let (several, bytes) = (first.seeds > 1, by_byte(rows));
    let mut heading: Vec<String> = first.settings.keys().cloned().collect();
    if heading.is_empty() {
        heading.push("settings".into());
    }
    heading.push(if several {
        format!("validation loss ± sd of {} seeds", first.seeds)
    } else {
        "validation loss".into()
    });
    heading.extend(bytes.then(|| "bits per byte".to_owned()));
    heading.extend(["steps", "seconds"].map(str::to_owned));
    let cells = |row: &Row| {
        let mut cells: Vec<String> = row.settings.values().map(written).collect();
        if cells.is_empty() {
            cells.push("as configured".into());
        }
        cells.push(row.loss());
        cells.extend(bytes.then(|| row.bits_per_byte.map_or_else(String::new, |bits| format!("{bits:.4}"))));
        cells.extend(match row.diverged == row.seeds {
            true => [String::new(), String::new()],
            false => [format!("{:.0}", row.steps), format!("{:.1}", row.wall_s)],
        });
        cells
    };
    [heading].into_iter().chain(rows.iter().map(cells)).collect()
}

/// The page of a sweep.
pub(super) fn page(rows: &[Row], outcomes: &[Outcome]) -> String {
    let mut text = String::from("# What the runs came to\n\n");
    if rows.len() > 1 {
        text += "Best first. The best loss of several is optimistic: it was chosen on the validation split.\n\n";
    }
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | ").replace('\n', " "));
    let table = table(rows);
    for (i, cells) in table.iter().enumerate() {
        text += &line(&cells.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>());
        if i == 0 {
            text += &format!("|{}\n", "---|".repeat(cells.len()));
        }
    }
    text += "\n## Runs\n\n| run | seed | validation loss | seconds |\n|---|---|---|---|\n";
    for outcome in outcomes {
        let name = Path::new(&outcome.run).file_name().unwrap_or_default().display();
        let seconds = if outcome.loss.is_finite() { format!("{:.1}", outcome.wall_s) } else { String::new() };
        let _ = writeln!(text, "| {name} | {} | {} | {seconds} |", outcome.seed, outcome.loss());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(layers: i64, tokenizer: &str, seed: u64, loss: f64, bits: f64) -> Outcome {
        let settings = [("n_layer".to_owned(), layers.into()), ("tokenizer".to_owned(), tokenizer.into())].into();
        let (run, bits) = (format!("s/n_layer={layers},seed={seed}"), bits.is_finite().then_some(bits));
        Outcome {
            run,
            settings,
            seed,
            steps: 10 * seed,
            loss,
            loss_stderr: Some(0.25),
            bits_per_byte: bits,
            wall_s: 2.0,
        }
    }

    #[test]
    fn settings_are_in_order_of_their_losses_and_what_diverged_is_last() {
        let all = [
            outcome(1, "char", 1, 2.0, 4.0),
            outcome(1, "char", 2, 3.0, 5.0),
            outcome(2, "char", 1, f64::INFINITY, f64::NAN),
            outcome(2, "char", 2, f64::INFINITY, f64::NAN),
            outcome(3, "char", 1, 1.0, 2.0),
            outcome(3, "char", 2, f64::INFINITY, f64::NAN),
            outcome(4, "char", 1, 2.0, 4.0),
            outcome(4, "char", 2, 2.0, 4.0),
        ];
        let rows = rows(&all);
        let order: Vec<_> = rows.iter().map(|row| row.settings["n_layer"].as_integer().unwrap()).collect();
        assert_eq!(order, [4, 1, 3, 2]);
        let losses: Vec<_> = rows.iter().map(Row::loss).collect();
        assert_eq!(losses, ["2.0000 ± 0.0000", "2.5000 ± 0.7071", "1.0000 (1 of 2 diverged)", "all 2 diverged"]);
        let table = table(&rows);
        assert_eq!(table[0], ["n_layer", "tokenizer", "validation loss ± sd of 2 seeds", "steps", "seconds"]);
        assert_eq!(table[2], ["1", "char", "2.5000 ± 0.7071", "15", "2.0"]);
        assert_eq!(table[4], ["2", "char", "all 2 diverged", "", ""]);
        let page = page(&rows, &all);
        assert!(page.contains("| 4 | char | 2.0000 ± 0.0000 | 15 | 2.0 |\n"), "{page}");
        assert!(page.contains("| n_layer=2,seed=1 | 1 | diverged |  |\n"), "{page}");
    }

    #[test]
    fn other_tokens_are_compared_by_the_byte() {
        let all = [outcome(1, "char", 1, 1.0, 2.0), outcome(1, "bpe:300", 1, 3.0, 1.5)];
        let rows = rows(&all);
        assert_eq!(rows[0].settings["tokenizer"].as_str(), Some("bpe:300"));
        let table = table(&rows);
        assert_eq!(table[0][2..4], ["validation loss", "bits per byte"]);
        assert_eq!(table[1][2..4], ["3.0000", "1.5000"]);
    }

    #[test]
    fn nothing_needs_to_vary_but_the_seed() {
        let plain = |seed, loss| Outcome { settings: Settings::new(), ..outcome(1, "", seed, loss, 1.0) };
        let rows = rows(&[plain(1, 2.0), plain(2, 4.0)]);
        assert_eq!(
            (rows.len(), rows[0].loss(), table(&rows)[1][0].as_str()),
            (1, "3.0000 ± 1.4142".into(), "as configured")
        );
        assert!(table(&[]).is_empty());
    }
}

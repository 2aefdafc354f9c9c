//! All recorded numbers of runs as one table in long form, for spreadsheets and data frames.

use crate::run::{Record, RunDir};
use kinglet_core::error::{Error, Result};
use std::{io::Write, path::Path};

/// The columns of the table.
pub const COLUMNS: [&str; 13] = [
    "run",
    "event",
    "step",
    "tokens",
    "train_s",
    "train_loss",
    "val_loss",
    "bits_per_byte",
    "old_val_loss",
    "loss",
    "lr",
    "grad_norm",
    "tokens_per_s",
];

/// What of the metrics of runs is in no table or curve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Events that are neither estimates nor updates, such as warnings.
    pub events: u64,
    /// Lines that are damaged.
    pub damaged: u64,
}

/// Writes a line of CSV for each estimate and each recorded update of the runs, losses in nats per token; what is not
/// recorded, or no number, is empty. `path` is named where writing fails. Returns what was left out.
///
/// # Errors
/// If metrics cannot be read, or `out` cannot be written.
pub fn csv(runs: &[RunDir], out: &mut impl Write, path: &Path) -> Result<LeftOut> {
    let mut line = |cells: &[String]| writeln!(out, "{}", cells.join(",")).map_err(Error::io("write", path));
    line(&COLUMNS.map(str::to_owned))?;
    let mut left_out = LeftOut::default();
    for run in runs {
        let name = cell(&run.path().display().to_string());
        let mut failed = Ok(());
        left_out.damaged += run.records(|record| {
            let cells = match record {
                Record::Estimate(at) => {
                    let losses = [Some(at.train_loss), Some(at.val_loss), at.bits_per_byte, at.old_val_loss];
                    row(&name, "estimate", at.step, [at.tokens, at.train_s], losses, [None; 4])
                }
                Record::Step(at) => {
                    let update = [Some(at.loss), Some(at.lr), Some(at.grad_norm), at.tokens_per_s];
                    row(&name, "step", at.step, [None; 2], [None; 4], update)
                }
                _ => {
                    left_out.events += 1;
                    return;
                }
            };
            if failed.is_ok() {
                failed = line(&cells);
            }
        })?;
        failed?;
    }
    Ok(left_out)
}

fn row(
    name: &str,
    event: &str,
    step: u64,
    spent: [Option<f64>; 2],
    losses: [Option<f64>; 4],
    update: [Option<f64>; 4],
) -> Vec<String> {
    let number = |value: Option<f64>| value.filter(|x| x.is_finite()).map_or(String::new(), |x| x.to_string());
    let about = [name.to_owned(), event.to_owned(), step.to_string()];
    about.into_iter().chain(spent.into_iter().chain(losses).chain(update).map(number)).collect()
}

/// A text as a cell of CSV.
fn cell(text: &str) -> String {
    let special = text.contains([',', '"', '\n', '\r']);
    if special { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_empty_and_names_are_quoted() {
        assert_eq!(cell("runs/a"), "runs/a");
        assert_eq!(cell("a, \"b\""), "\"a, \"\"b\"\"\"");
        let cells = row("r", "step", 3, [None; 2], [None; 4], [Some(f64::NAN), Some(1e-3), Some(0.5), None]);
        assert_eq!(cells.join(","), "r,step,3,,,,,,,,0.001,0.5,");
        assert_eq!(cells.len(), COLUMNS.len());
    }
}

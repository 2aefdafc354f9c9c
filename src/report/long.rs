//! All recorded numbers of runs as one table in long form, for spreadsheets and data frames.

use crate::run::{Record, RunDir};
use kinglet_core::error::{Error, Result};
use std::{io::Write, path::Path};

/// The columns of the table.
pub const COLUMNS: [&str; 11] =
    ["run", "event", "step", "tokens", "train_s", "train_loss", "val_loss", "loss", "lr", "grad_norm", "tokens_per_s"];

/// Writes a line of CSV for each estimate and each recorded update of the runs, losses in nats per token; what is not
/// recorded, or no number, is empty. `path` is named where writing fails.
///
/// # Errors
/// If metrics cannot be read, or `out` cannot be written.
pub fn csv(runs: &[RunDir], out: &mut impl Write, path: &Path) -> Result<()> {
    let mut line = |cells: &[String]| writeln!(out, "{}", cells.join(",")).map_err(Error::io("write", path));
    line(&COLUMNS.map(str::to_owned))?;
    for run in runs {
        let name = cell(&run.path().display().to_string());
        let mut failed = Ok(());
        run.records(|record| {
            let cells = match record {
                Record::Estimate(at) => {
                    let losses = [at.tokens, at.train_s, Some(at.train_loss), Some(at.val_loss)];
                    row(&name, "estimate", at.step, losses, [None; 4])
                }
                Record::Step(at) => {
                    let update = [Some(at.loss), Some(at.lr), Some(at.grad_norm), at.tokens_per_s];
                    row(&name, "step", at.step, [None; 4], update)
                }
                _ => return,
            };
            if failed.is_ok() {
                failed = line(&cells);
            }
        })?;
        failed?;
    }
    Ok(())
}

fn row(name: &str, event: &str, step: u64, estimate: [Option<f64>; 4], update: [Option<f64>; 4]) -> Vec<String> {
    let number = |value: Option<f64>| value.filter(|x| x.is_finite()).map_or(String::new(), |x| x.to_string());
    let about = [name.to_owned(), event.to_owned(), step.to_string()];
    about.into_iter().chain(estimate.into_iter().chain(update).map(number)).collect()
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
        let cells = row("r", "step", 3, [None; 4], [Some(f64::NAN), Some(1e-3), Some(0.5), None]);
        assert_eq!(cells.join(","), "r,step,3,,,,,,0.001,0.5,");
        assert_eq!(cells.len(), COLUMNS.len());
    }
}

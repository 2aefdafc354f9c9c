//! `kinglet reproduce --recipes`: the tables of docs/RECIPES.md.

use super::{Args, Ended, spread, today_and_machine};
use anyhow::{Context, anyhow};
use kinglet::{config::Config, error::Error, run::RunDir};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{fmt::Write as _, fs, path::Path, sync::atomic::AtomicBool};

/// The experiments.
const EXPERIMENTS: &str = include_str!("../../../scripts/recipes.toml");

/// Updates of the published models; each of them, and of every recipe, learns from 512 tokens.
const PUBLISHED_STEPS: f64 = 5000.0;

/// What the larger model published ended with: what all are measured by.
const MARK: f64 = 1.7088;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Experiments {
    table: Vec<Table>,
}

/// Runs that stand in one table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    /// The validation loss that counts as reached.
    published: f64,
    row: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    preset: String,
    #[serde(default)]
    set: Vec<String>,
}

/// All runs of a row: the `done` event of each, and its estimates.
struct Measured {
    done: Vec<Value>,
    estimates: Vec<Vec<Value>>,
}

fn experiments() -> Experiments {
    toml::from_str(EXPERIMENTS).expect("the file that comes with the program")
}

impl Args {
    pub(super) fn recipes(&self, only: &str, json: bool, stop: &AtomicBool) -> anyhow::Result<Ended> {
        let report = self.report("docs/RECIPES.md");
        let tables = experiments().table;
        if !only.is_empty() && tables.iter().all(|table| table.name != only) {
            let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
            let what = format!("there is no table {only:?} of recipes; there are {}", names.join(", "));
            return Err(Error::BadConfig(what).into());
        }
        if !self.quick {
            // Before hours of training: is there a place for what comes out?
            let text = read(report)?;
            let mut wanted = tables.iter().filter(|table| only.is_empty() || table.name == only);
            wanted.try_for_each(|table| around(&text, report, &table.name).map(|_| ()))?;
        }
        for table in tables.iter().filter(|table| only.is_empty() || table.name == only) {
            let mut lines = String::from(
                "| recipe | parameters | train loss | val loss | val, exact | tokens to the published loss | ms a step | s trained | s to 1.7088 |\n\
                 |---|---|---|---|---|---|---|---|---|\n",
            );
            for row in &table.row {
                let Some(measured) = self.measure(row, json, stop)? else { return Ok(Ended::Interrupted) };
                if json {
                    super::super::print_json(&measured.summary(&table.name, &row.name))?;
                }
                writeln!(lines, "| {} | {} |", row.name, measured.line(table.published))?;
            }
            if !json {
                super::super::print(&format!("\n{}\n\n{lines}", table.name))?;
            }
            if !self.quick {
                let seeds = match self.seeds {
                    1 => "Seed 1".to_owned(),
                    seeds => format!("Seeds 1 to {seeds}, means ± standard deviations"),
                };
                let text = format!("{lines}\n{seeds}; {}.\n", today_and_machine()?);
                write_table(report, &table.name, &text)?;
            }
        }
        Ok(Ended::Done)
    }

    /// The runs of a row; none if one was interrupted.
    fn measure(&self, row: &Row, json: bool, stop: &AtomicBool) -> anyhow::Result<Option<Measured>> {
        let mut measured = Measured { done: Vec::new(), estimates: Vec::new() };
        for seed in 1..=self.seeds {
            let mut config = Config::preset(&row.preset)?;
            config.seed = seed;
            row.set.iter().try_for_each(|setting| config.set(setting))?;
            let folder = self.folder(&folder_name(row), seed);
            if !json {
                super::super::print(&format!("--- {} with seed {seed}\n", row.name))?;
            }
            let Some(done) = self.one(config, &folder, json, stop)? else { return Ok(None) };
            measured.done.push(done);
            let mut events = RunDir::open(&folder)?.metrics()?;
            events.retain(|event| event["event"] == "estimate");
            measured.estimates.push(events);
        }
        Ok(Some(measured))
    }
}

/// A folder for a row, whatever letters its settings have.
fn folder_name(row: &Row) -> String {
    let words = [std::slice::from_ref(&row.preset), &row.set].concat().join("-");
    words.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

impl Measured {
    fn spread(&self, key: &str) -> (f64, f64) {
        spread(self.done.iter().filter_map(|done| done[key].as_f64()))
    }

    /// The mean over the seeds of what `key` is at the first estimate that reaches `loss`; none if one never does.
    fn reached(&self, loss: f64, key: &str) -> Option<f64> {
        let first = |events: &Vec<Value>| {
            let event = events.iter().find(|event| event["val_loss"].as_f64().is_some_and(|val| val <= loss))?;
            event[key].as_f64()
        };
        let all: Option<Vec<f64>> = self.estimates.iter().map(first).collect();
        all.map(|all| spread(all.into_iter()).0)
    }

    /// Seconds of training, without estimates.
    fn trained_s(&self) -> f64 {
        self.spread("ms_per_step").0 * self.spread("step").0 / 1e3
    }

    fn summary(&self, table: &str, name: &str) -> Value {
        json!({
            "event": "recipe",
            "table": table,
            "name": name,
            "seeds": self.done.len(),
            "params": self.done[0]["params"],
            "train_loss": self.spread("train_loss").0,
            "val_loss": self.spread("val_loss").0,
            "val_loss_sd": self.spread("val_loss").1,
            "val_loss_exact": self.spread("val_loss_exact").0,
            "train_s": self.trained_s(),
            "step_of_1.7088": self.reached(MARK, "step"),
            "train_s_to_1.7088": self.reached(MARK, "train_s"),
        })
    }

    /// The cells of a row but its name.
    fn line(&self, published: f64) -> String {
        let loss = |key: &str| {
            let (mean, sd) = self.spread(key);
            if self.done.len() > 1 { format!("{mean:.4} ± {sd:.4}") } else { format!("{mean:.4}") }
        };
        let tokens = self.reached(published, "step").map(|step| format!("{:.0} %", 100.0 * step / PUBLISHED_STEPS));
        let seconds = self.reached(MARK, "train_s").map(|seconds| format!("{seconds:.1}"));
        format!(
            "{} | {} | {} | {} | {} | {:.2} | {:.0} | {}",
            self.done[0]["params"],
            loss("train_loss"),
            loss("val_loss"),
            loss("val_loss_exact"),
            tokens.as_deref().unwrap_or("not reached"),
            self.spread("ms_per_step").0,
            self.trained_s(),
            seconds.as_deref().unwrap_or("-"),
        )
    }
}

fn read(report: &Path) -> anyhow::Result<String> {
    fs::read_to_string(report).with_context(|| format!("cannot read {}", report.display()))
}

/// What stands before and behind the table of that name.
fn around<'a>(text: &'a str, report: &Path, name: &str) -> anyhow::Result<(&'a str, &'a str)> {
    let begin = format!("<!-- table: {name} -->\n");
    let from = text.find(&begin).map(|at| at + begin.len());
    let to = from.and_then(|from| Some(from + text[from..].find("<!-- end of table -->")?));
    let (from, to) = from.zip(to).ok_or_else(|| anyhow!("{} has no place for the table {name}", report.display()))?;
    Ok((&text[..from], &text[to..]))
}

/// Replaces the table of that name in the report, which has it between two marks.
fn write_table(report: &Path, name: &str, lines: &str) -> anyhow::Result<()> {
    let text = read(report)?;
    let (before, after) = around(&text, report, name)?;
    let text = format!("{before}{lines}{after}");
    fs::write(report, text).with_context(|| format!("cannot write {}", report.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_row_is_a_configuration_of_its_own_and_every_table_has_its_place() {
        let report = include_str!("../../../docs/RECIPES.md");
        for table in experiments().table {
            let place = format!("<!-- table: {} -->\n", table.name);
            assert!(report.contains(&place), "{place}");
            let mut folders = HashSet::new();
            for row in table.row {
                let mut config = Config::preset(&row.preset).unwrap();
                row.set.iter().for_each(|setting| config.set(setting).unwrap());
                config.check().unwrap();
                assert!(folders.insert(folder_name(&row)), "{}: there is another row like it", row.name);
            }
        }
    }

    #[test]
    fn a_table_is_replaced_and_all_else_stays() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let text = |table: &str| format!("before\n<!-- table: a -->\n{table}<!-- end of table -->\nafter\n");
        fs::write(temp.path(), text("old\n")).unwrap();
        write_table(temp.path(), "a", "new\n").unwrap();
        assert_eq!(fs::read_to_string(temp.path()).unwrap(), text("new\n"));
        assert!(write_table(temp.path(), "b", "").unwrap_err().to_string().contains("no place for the table b"));
    }

    #[test]
    fn the_first_estimate_that_reaches_a_loss_counts() {
        let estimate = |step: u64, val: f64| json!({"step": step, "val_loss": val, "train_s": step as f64 / 10.0});
        let run = |losses: &[f64]| losses.iter().zip(0..).map(|(&val, step)| estimate(step, val)).collect();
        let measured =
            Measured { done: Vec::new(), estimates: vec![run(&[3.0, 2.0, 2.1]), run(&[3.0, 2.5, 2.0, 1.0])] };
        assert_eq!(measured.reached(2.0, "step"), Some(1.5));
        assert_eq!(measured.reached(2.0, "train_s"), Some(0.15000000000000002));
        assert_eq!(measured.reached(1.5, "step"), None);
    }
}

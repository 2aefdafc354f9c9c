//! What the runs of a track came to: one JSON object, from which the table, the rows of records and their file are made.

use super::{
    rules::RULES,
    sessions::Machine,
    track::{Goal, Track},
};
use crate::{
    cli::{seeded::Seeded, table::row},
    error::Error,
    run::RunDir,
    system::disk::{read_text, write_whole},
};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// The records of a folder, as a page, and all results, as lines of JSON.
const PAGE: &str = "RECORDS.md";
pub(super) const RESULTS: &str = "results.jsonl";

/// The largest `results.jsonl` that is read: a result has about one thousand bytes.
const MOST_BYTES: u64 = 1 << 26;

/// Seeds that a record needs.
pub(super) const SEEDS: usize = 3;

/// What a track was run with.
pub(super) struct Entry<'a> {
    pub(super) track: &'static Track,
    /// A preset or a file, and what is set beside it.
    pub(super) recipe: &'a str,
    pub(super) set: &'a [String],
    /// What is new about it.
    pub(super) note: Option<&'a str>,
    pub(super) quick: bool,
    pub(super) out: &'a Path,
}

impl Entry<'_> {
    /// The result of its runs, which are complete.
    ///
    /// # Errors
    /// If the folder of a run cannot be read.
    pub(super) fn result(
        &self,
        runs: &[Seeded],
        (machines, date): (Vec<Machine>, Option<String>),
    ) -> anyhow::Result<Value> {
        let Entry { track, recipe, set, note, quick, out } = *self;
        let done: Vec<_> = runs.iter().filter_map(|run| run.done.as_ref()).collect();
        let score = track.goal.score(&done);
        let (target_loss, budget_s) = match track.goal {
            Goal::Loss(loss) => (Some(loss), None),
            Goal::Seconds(seconds) => (None, Some(seconds)),
        };
        Ok(json!({
            "event": "speedrun",
            "track": track.name,
            "target_loss": target_loss,
            "budget_s": budget_s,
            "recipe": recipe,
            "set": set,
            // A quick run is no attempt.
            "holds": !quick && score.missed_by.is_none(),
            "missed_by": score.missed_by,
            "score": if budget_s.is_some() { score.loss } else { score.train_s },
            "seeds": done.len(),
            "val_loss_exact": score.loss,
            "val_loss_exact_sd": score.loss_sd,
            "train_s": score.train_s,
            "longest_train_s": score.longest_s,
            "wall_s": score.wall_s,
            "params": done[0]["params"],
            "block_size": runs[0].config.block_size,
            "steps": done[0]["step"],
            "tokens": tokens(&runs[0])?,
            "machines": machines,
            "date": date,
            "note": note,
            "quick": quick,
            "out": out.display().to_string(),
        }))
    }
}

/// The tokens that a run was trained on.
fn tokens(run: &Seeded) -> anyhow::Result<f64> {
    let mut tokens = 0.0;
    for event in RunDir::open(&run.folder)?.events::<Value>()? {
        let event = event?;
        if event["event"] == "estimate" {
            tokens = event["tokens"].as_f64().unwrap_or(tokens);
        }
    }
    Ok(tokens)
}

/// A text of a result, as a cell of a table.
fn text(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/")
}

fn number(result: &Value, key: &str) -> f64 {
    result[key].as_f64().unwrap_or(f64::NAN)
}

/// The recipe and what is set beside it.
fn recipe(result: &Value) -> String {
    let set = result["set"].as_array().into_iter().flatten();
    [text(&result["recipe"])].into_iter().chain(set.map(text)).collect::<Vec<_>>().join(", ")
}

fn loss(result: &Value) -> String {
    let (loss, sd) = (number(result, "val_loss_exact"), number(result, "val_loss_exact_sd"));
    if result["seeds"] == 1 { format!("{loss:.4}") } else { format!("{loss:.4} ± {sd:.4}") }
}

fn trained(result: &Value) -> String {
    let (mean, longest) = (number(result, "train_s"), number(result, "longest_train_s"));
    if result["seeds"] == 1 { format!("{mean:.2}") } else { format!("{mean:.2} (longest {longest:.2})") }
}

/// Tokens in thousands or millions.
fn in_millions(tokens: f64) -> String {
    if tokens < 1e5 { format!("{:.1} k", tokens / 1e3) } else { format!("{:.2} M", tokens / 1e6) }
}

/// By how much a goal was missed, or that it was not.
fn verdict(result: &Value) -> String {
    let unit = if result["budget_s"].is_null() { "nats" } else { "s" };
    match result["missed_by"].as_f64() {
        _ if result["quick"] == true => "not judged".to_owned(),
        Some(by) if unit == "s" => format!("missed by {by:.2} s"),
        Some(by) => format!("missed by {by:.4} {unit}"),
        // A loss that is no number has no distance.
        None if result["holds"] == false => "missed".to_owned(),
        None => "holds".to_owned(),
    }
}

/// Results in columns.
pub(super) fn table(results: &[Value]) -> Vec<Vec<String>> {
    let head = row!["track", "loss", "s trained", "s in all", "parameters", "context", "tokens", "result"];
    let of = |result: &Value| {
        row![
            text(&result["track"]),
            loss(result),
            trained(result),
            format!("{:.1}", number(result, "wall_s")),
            result["params"],
            result["block_size"],
            in_millions(number(result, "tokens")),
            verdict(result),
        ]
    };
    [head].into_iter().chain(results.iter().map(of)).collect()
}

/// What a miss means, in a sentence; `None` if the goal was reached.
pub(super) fn miss(result: &Value) -> Option<String> {
    if result["holds"] == true || result["quick"] == true {
        return None;
    }
    let (track, verdict) = (text(&result["track"]), verdict(result));
    Some(match result["budget_s"].as_f64() {
        Some(budget) => format!(
            "{track}: {verdict}: a run trained for {:.2} s, and the budget is {budget} s. The number of steps of a recipe is \
             fixed, so that its losses are the same on every machine; a slower one needs a recipe of its own (--set \
             max_iters=N)",
            number(result, "longest_train_s"),
        ),
        None => format!(
            "{track}: {verdict}: the mean loss is {:.4}, and the target is {}",
            number(result, "val_loss_exact"),
            result["target_loss"]
        ),
    })
}

/// Why a result is no record; `None` if it is one.
pub(super) fn no_record(result: &Value) -> Option<String> {
    let seeds = result["seeds"].as_u64().unwrap_or(0);
    if result["holds"] != true {
        return Some(verdict(result));
    }
    if seeds < SEEDS as u64 {
        return Some(format!("a record needs {SEEDS} seeds, and this has {seeds}"));
    }
    let known = result["machines"].as_array().is_some_and(|machines| !machines.is_empty());
    (!known).then(|| "it is not known which machine trained the runs".to_owned())
}

/// What differs between the machines that trained the runs, each once.
fn of_machines(result: &Value, cell: impl Fn(&Value) -> String) -> String {
    let mut cells: Vec<String> = Vec::new();
    for machine in result["machines"].as_array().into_iter().flatten() {
        let cell = cell(machine);
        if !cells.contains(&cell) {
            cells.push(cell);
        }
    }
    cells.join("; ")
}

fn machine(machine: &Value) -> String {
    let bf16 = machine["bf16"].as_str().map(|way| format!(", bf16 by {way}")).unwrap_or_default();
    let (processor, cores) = (text(&machine["processor"]), &machine["cores"]);
    format!("{cores} cores of: {processor} ({}{bf16})", text(&machine["isa"]))
}

fn threads(machine: &Value) -> String {
    let several = machine["runs_at_a_time"].as_u64().filter(|&n| n > 1);
    let several = several.map(|n| format!(", {n} runs at a time")).unwrap_or_default();
    format!("{}{several}", machine["threads"])
}

fn version(machine: &Value) -> String {
    let commit = machine["commit"].as_str().map(|commit| format!(" ({commit})")).unwrap_or_default();
    format!("{}{commit}", text(&machine["kinglet"]))
}

const HEAD: &str = "\
| date | track | score | recipe | loss | s trained | s in all | parameters | context | tokens | machine | threads | kinglet | what was new |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// The line of a table of records.
fn line(result: &Value) -> String {
    let is_budget = result["target_loss"].is_null();
    let score = number(result, "score");
    let or_dash = |value: &Value| if value.is_null() { "-".to_owned() } else { text(value) };
    let cells = row![
        or_dash(&result["date"]),
        text(&result["track"]),
        if is_budget { format!("{score:.4}") } else { format!("{score:.2} s") },
        format!("`{}`", recipe(result)),
        loss(result),
        trained(result),
        format!("{:.1}", number(result, "wall_s")),
        result["params"],
        result["block_size"],
        in_millions(number(result, "tokens")),
        of_machines(result, machine),
        of_machines(result, threads),
        of_machines(result, version),
        or_dash(&result["note"]),
    ];
    format!("| {} |\n", cells.join(" | "))
}

/// Adds results to those of a folder, in the place of earlier ones of the same track and recipe, and writes its page anew. Returns
/// the page.
///
/// # Errors
/// If the files cannot be read or written.
pub(super) fn keep(out: &Path, new: &[Value]) -> anyhow::Result<PathBuf> {
    let (path, page) = (out.join(RESULTS), out.join(PAGE));
    let mut all = Vec::new();
    if path.exists() {
        for (i, line) in read_text(&path, MOST_BYTES)?.lines().enumerate() {
            let result: Value = serde_json::from_str(line).map_err(|error| {
                let what = format!("line {} is no JSON ({error}): remove the file; the runs are not in it", i + 1);
                Error::damaged(&path, what)
            })?;
            all.push(result);
        }
    }
    let key = |result: &Value| ["track", "recipe", "set", "seeds"].map(|key| result[key].clone());
    let runs = |result: &Value| ["val_loss_exact", "train_s", "wall_s"].map(|key| result[key].clone());
    for result in new {
        let mut result = result.clone();
        if let Some(i) = all.iter().position(|old| key(old) == key(&result)) {
            let old = all.remove(i);
            // Of the same runs, what was new about them is still known.
            if result["note"].is_null() && runs(&old) == runs(&result) {
                result["note"] = old["note"].clone();
            }
        }
        all.push(result);
    }
    let lines: String = all.iter().map(|result| format!("{result}\n")).collect();
    write_whole(&path, lines.as_bytes()).map_err(Error::io("write", &path))?;
    write_whole(&page, self::page(&all).as_bytes()).map_err(Error::io("write", &page))?;
    Ok(page)
}

/// All results of a folder as a page.
fn page(all: &[Value]) -> String {
    let mut text = format!("# Records of `kinglet speedrun`\n\n{RULES}\n\n{HEAD}");
    let records = all.iter().filter(|result| no_record(result).is_none());
    records.for_each(|result| text += &line(result));
    let others: Vec<_> = all.iter().filter_map(|result| Some((result, no_record(result)?))).collect();
    if !others.is_empty() {
        text += "\n## Not records\n";
        for (result, why) in others {
            let _ = writeln!(
                text,
                "- {}, `{}`: loss {}, {} s trained: {why}",
                self::text(&result["track"]),
                recipe(result),
                loss(result),
                trained(result)
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(track: &str, holds: bool) -> Value {
        json!({
            "event": "speedrun", "track": track, "target_loss": null, "budget_s": 10.0, "recipe": "speedrun-10s", "set": [],
            "holds": holds, "missed_by": if holds { None } else { Some(0.5) }, "score": 1.71234, "seeds": 3,
            "val_loss_exact": 1.71234, "val_loss_exact_sd": 0.00123, "train_s": 9.5, "longest_train_s": 9.75, "wall_s": 12.34,
            "params": 205_953, "block_size": 64, "steps": 1500, "tokens": 1_536_000.0, "date": "2026-11-29",
            "machines": [{"processor": "A | B", "cores": 2, "isa": "avx512", "bf16": "amx", "threads": 2, "runs_at_a_time": 1,
                "kinglet": "0.1.0", "commit": "abc1234"}],
            "note": "a shorter\nschedule", "quick": false, "out": "runs/speedrun",
        })
    }

    #[test]
    fn a_row_has_as_many_cells_as_the_head() {
        let line = line(&result("10s", true));
        assert_eq!(
            line,
            "| 2026-11-29 | 10s | 1.7123 | `speedrun-10s` | 1.7123 ± 0.0012 | 9.50 (longest 9.75) | 12.3 | 205953 | 64 | 1.54 M | \
             2 cores of: A / B (avx512, bf16 by amx) | 2 | 0.1.0 (abc1234) | a shorter schedule |\n"
        );
        assert!(HEAD.lines().all(|head| head.matches('|').count() == line.matches('|').count()));
        let mut target = result("1.7088", true);
        (target["target_loss"], target["budget_s"], target["score"]) = (json!(1.7088), Value::Null, json!(9.5));
        (target["note"], target["set"]) = (Value::Null, json!(["max_iters=9"]));
        target["machines"][0]["runs_at_a_time"] = json!(3);
        let line = self::line(&target);
        for part in ["| 9.50 s | `speedrun-10s, max_iters=9` |", "| 2, 3 runs at a time |", "| - |\n"] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }

    #[test]
    fn a_folder_keeps_the_last_result_of_each_recipe_and_says_what_is_no_record() {
        let temp = tempfile::tempdir().unwrap();
        let out = temp.path();
        let mut other = result("10s", true);
        (other["set"], other["seeds"]) = (json!(["max_iters=9"]), json!(1));
        keep(out, &[result("10s", false), other]).unwrap();
        let page = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        let text = page(out.join(PAGE));
        assert!(text.contains(
            "- 10s, `speedrun-10s`: loss 1.7123 ± 0.0012, 9.50 (longest 9.75) s trained: missed by 0.50 s\n"
        ));
        assert!(text.contains(
            "`speedrun-10s, max_iters=9`: loss 1.7123, 9.50 s trained: a record needs 3 seeds, and this has 1\n"
        ));
        assert!(!text.contains("| 2026"), "{text}");
        let mut unknown = result("60s", true);
        unknown["machines"] = json!([]);
        let text = page(keep(out, &[result("10s", true), unknown]).unwrap());
        assert!(text.contains("| 2026-11-29 | 10s | 1.7123 |") && !text.contains("missed"), "{text}");
        assert!(text.contains("- 60s, `speedrun-10s`: ") && text.contains("it is not known which machine"), "{text}");
        let mut again = result("10s", true);
        again["note"] = Value::Null;
        assert!(page(keep(out, &[again.clone()]).unwrap()).contains("| a shorter schedule |\n"), "of the same runs");
        again["train_s"] = json!(9.0);
        assert!(page(keep(out, &[again]).unwrap()).contains("| - |\n"), "of other runs");
        std::fs::write(out.join(RESULTS), "{\n").unwrap();
        let error = keep(out, &[]).unwrap_err().to_string();
        assert!(error.contains("line 1 is no JSON"), "{error}");
    }

    #[test]
    fn a_miss_says_by_how_much_and_why() {
        let text = miss(&result("10s", false)).unwrap();
        assert!(text.starts_with("10s: missed by 0.50 s: a run trained for 9.75 s, and the budget is 10 s"), "{text}");
        assert_eq!(miss(&result("10s", true)), None);
        let mut target = result("1.7088", false);
        (target["target_loss"], target["budget_s"], target["missed_by"]) = (json!(1.7088), Value::Null, json!(0.00354));
        let text = miss(&target).unwrap();
        assert_eq!(text, "1.7088: missed by 0.0035 nats: the mean loss is 1.7123, and the target is 1.7088");
        target["quick"] = json!(true);
        assert_eq!((miss(&target), &*verdict(&target)), (None, "not judged"));
    }
}

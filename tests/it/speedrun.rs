//! `kinglet speedrun`: its rules, its records, and what it says of a miss.

use crate::common::{cli::Cli, needs};
use serde_json::Value;
use std::{fs, path::PathBuf, process::Output};

/// A recipe of a moment.
const TINY: &str = "\
n_layer = 1
n_head = 2
n_embd = 16
block_size = 16
max_iters = 6
eval_interval = 6
eval_iters = 1
position = \"rotary\"
";

struct Speedrun {
    cli: Cli,
    data: PathBuf,
}

impl Speedrun {
    /// A folder with a recipe, if there is Tiny Shakespeare.
    fn new() -> Option<Speedrun> {
        let data = needs::data_folder()?;
        let cli = Cli::new();
        fs::write(cli.path("tiny.toml"), TINY).unwrap();
        Some(Speedrun { cli, data })
    }

    fn run(&self, words: &str) -> Output {
        let args: Vec<&str> = ["speedrun"].into_iter().chain(words.split_whitespace()).collect();
        self.cli.command(&args).env("KINGLET_DATA_DIR", &self.data).output().unwrap()
    }

    /// What it prints to standard output, with this status.
    #[track_caller]
    fn ends(&self, words: &str, status: i32) -> String {
        let output = self.run(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{words}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.cli.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.cli.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn a_quick_run_judges_nothing_and_leaves_no_record() {
    let Some(speedrun) = Speedrun::new() else { return };
    let text = speedrun.ends("--quick --track 1.7088 --recipe tiny.toml --seeds 2", 0);
    assert!(
        text.contains("a mean loss of at most 1.7088") && text.contains("tiny.toml, seeds 1 to 2, 2 threads"),
        "{text}"
    );
    assert!(text.contains("not judged") && !text.contains("written to"), "{text}");
    assert_eq!(speedrun.names("runs/speedrun"), ["1.7088-tiny-seed1-quick", "1.7088-tiny-seed2-quick"]);
    // A preset of the program, too.
    let events = lines(&speedrun.ends("--quick --seeds 1 --out q --json", 0));
    let result = events.last().unwrap();
    assert_eq!(
        (&result["event"], &result["track"], &result["recipe"]),
        (&"speedrun".into(), &"10s".into(), &"speedrun-10s".into())
    );
    assert!(result["quick"] == true && result["holds"] == false && result["date"].is_null(), "{result}");
    assert!(events.iter().all(|event| event["event"] != "forecast"));
}

#[test]
fn a_budget_that_holds_is_a_record_with_its_machine() {
    let Some(speedrun) = Speedrun::new() else { return };
    let words = "--track 10s --recipe tiny.toml --set max_iters=4 --note a|b --commit ABCDEF0 -t 1 --json";
    let events = lines(&speedrun.ends(words, 0));
    let forecast = &events[0];
    assert!(forecast["event"] == "forecast" && forecast["tracks"][0]["runs"] == 3, "{forecast}");
    let done: Vec<_> = events.iter().filter(|event| event["event"] == "done").collect();
    let result = events.last().unwrap();
    let number = |value: &Value, key: &str| value[key].as_f64().unwrap_or_else(|| panic!("{key}: {value}"));
    let mean = |key: &str| done.iter().map(|done| number(done, key)).sum::<f64>() / 3.0;
    for key in ["val_loss_exact", "train_s", "wall_s"] {
        assert!((number(result, key) - mean(key)).abs() < 1e-9, "{key}: {result}");
    }
    assert_eq!(done.len(), 3);
    assert!(
        result["holds"] == true && result["missed_by"].is_null() && result["score"] == result["val_loss_exact"],
        "{result}"
    );
    // Four steps of sixteen sequences, each of sixteen characters.
    assert!(result["tokens"] == 1024.0 && result["steps"] == 4 && result["block_size"] == 16, "{result}");
    let machine = &result["machines"][0];
    assert!(machine["threads"] == 1 && machine["commit"] == "abcdef0" && machine["bf16"].is_null(), "{machine}");
    assert_eq!(result["machines"].as_array().unwrap().len(), 1);
    let page = speedrun.read("runs/speedrun/RECORDS.md");
    let row = page.lines().find(|line| line.starts_with("| 20")).unwrap();
    for part in [" | 10s | ", "`tiny.toml, max_iters=4`", " | 1 | ", "(abcdef0)", " | a/b |"] {
        assert!(row.contains(part), "{part}: {row}");
    }
    assert!(!page.contains("Not records"), "{page}");
    // Its rows fit into the table of the documents.
    let recipes = include_str!("../../docs/RECIPES.md");
    let head = page.lines().find(|line| line.starts_with("| date")).unwrap();
    assert!(recipes.contains(&format!("<!-- table: records -->\n{head}\n")), "{head}");
    // The recipe decides the bits, not the cores of the machine.
    let folder = "runs/speedrun/10s-tiny-max_iters=4-seed1";
    assert!(speedrun.read(&format!("{folder}/config.toml")).contains("\nshards = 2\n"));
    // The last weights, over the whole split, in windows of the model's context.
    let mut eval = speedrun.cli.command(&["eval", folder, "--json"]);
    let eval: Value =
        serde_json::from_slice(&eval.env("KINGLET_DATA_DIR", &speedrun.data).output().unwrap().stdout).unwrap();
    assert_eq!(number(&eval, "loss"), number(done[0], "val_loss_exact"), "{eval}");
    // Complete runs are kept, with the machine and the date that they had.
    let again = lines(&speedrun.ends(&words.replace("ABCDEF0", "1234567"), 0));
    assert!(again.iter().all(|event| event["event"] != "start"));
    assert_eq!(again.last().unwrap()["machines"], result["machines"]);
    assert_eq!(speedrun.read("runs/speedrun/RECORDS.md"), page);
    assert_eq!(speedrun.read("runs/speedrun/sessions.jsonl").lines().count(), 3);
    assert_eq!(lines(&speedrun.read("runs/speedrun/results.jsonl")), [again.last().unwrap().clone()]);
}

#[test]
fn a_miss_says_by_how_much_and_has_status_1() {
    let Some(speedrun) = Speedrun::new() else { return };
    let text = speedrun.ends("--track 1.7088 --recipe tiny.toml --seeds 2", 1);
    let missed = text.lines().find(|line| line.starts_with("1.7088: missed by ")).unwrap_or_else(|| panic!("{text}"));
    assert!(missed.contains(" nats: the mean loss is ") && missed.ends_with("and the target is 1.7088"), "{missed}");
    let page = speedrun.read("runs/speedrun/RECORDS.md");
    assert!(page.contains("## Not records\n- 1.7088, `tiny.toml`: loss ") && !page.contains("\n| 20"), "{page}");
    let other = speedrun.run("--track 1.7088 --recipe tiny.toml --seeds 2 --set max_iters=7 --out runs/other");
    assert_eq!(other.status.code(), Some(1), "another recipe has a folder of its own");
    // The same name for another recipe.
    fs::write(speedrun.cli.path("tiny.toml"), TINY.replace("max_iters = 6", "max_iters = 8")).unwrap();
    let refused = speedrun.run("--track 1.7088 --recipe tiny.toml --seeds 2");
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && stderr.contains("a run with a different configuration"), "{stderr}");
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_result() {
    let Some(speedrun) = Speedrun::new() else { return };
    let words = "--track 10s --recipe tiny.toml --seeds 1 --json";
    let whole = lines(&speedrun.ends(words, 0)).pop().unwrap();
    // As if the program had been killed while it measured the loss.
    let path = speedrun.cli.path("runs/speedrun/10s-tiny-seed1/metrics.jsonl");
    let metrics = fs::read_to_string(&path).unwrap();
    let cut = metrics.trim_end().rfind('\n').unwrap() + 1;
    assert!(metrics[cut..].contains("\"done\""));
    fs::write(&path, &metrics[..cut]).unwrap();
    let events = lines(&speedrun.ends(&format!("{words} -t 1"), 0));
    let start = events.iter().find(|event| event["event"] == "start").unwrap();
    let result = events.last().unwrap();
    assert_eq!((&start["step"], &result["val_loss_exact"]), (&6.into(), &whole["val_loss_exact"]));
    let threads: Vec<_> = result["machines"].as_array().unwrap().iter().map(|machine| &machine["threads"]).collect();
    assert_eq!(threads, [2, 1], "both sessions count");
    let page = speedrun.read("runs/speedrun/RECORDS.md");
    assert!(page.contains("a record needs 3 seeds, and this has 1"), "{page}");
}

#[test]
fn a_file_of_the_texts_name_is_not_taken_for_it() {
    let Some(speedrun) = Speedrun::new() else { return };
    fs::write(speedrun.cli.path("tinyshakespeare"), "To be, or not to be. ".repeat(1000)).unwrap();
    let output = speedrun.run("--track 10s --recipe tiny.toml --seeds 1");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("tinyshakespeare is a file here"), "{stderr}");
    assert!(!speedrun.cli.path("runs").exists());
}

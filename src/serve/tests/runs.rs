//! The list of runs, their curves, samples and settings, and tunings, as clients see them.

use super::{super::options::Root, *};
use crate::{
    run::{Lock, RunDir},
    system::disk::Appender,
    text::tokenizer::CharTokenizer,
};
use kinglet_core::config::Config;
use std::path::{Path, PathBuf};

/// The age at which a look is repeated.
const LOOK: Duration = Duration::from_millis(2100);

/// A run without a checkpoint.
fn create(path: &Path, settings: &[&str]) -> RunDir {
    let config = ["vocab_size=3", "block_size=8", "n_layer=1", "n_head=1", "n_embd=8", "max_iters=100"];
    let config = Config::default().with(&config).unwrap().with(settings).unwrap();
    let (run, lock) = RunDir::create(path, config, CharTokenizer::train("abc").into(), None).unwrap();
    drop(lock);
    fs::write(path.join("metrics.jsonl"), "").unwrap();
    run
}

/// Adds events to its metrics.
fn append(path: &Path, events: &[Value]) {
    let mut file = Appender::new(&path.join("metrics.jsonl")).unwrap();
    for event in events {
        let json = event.to_string();
        let check = &crate::system::disk::sha256(json.as_bytes())[..8];
        file.append(&format!("{},\"check\":\"{check}\"}}", &json[..json.len() - 1])).unwrap();
    }
}

fn step(step: u64) -> Value {
    json!({"event": "step", "step": step, "loss": 1.0 / step as f64, "lr": 0.001, "grad_norm": 0.1, "tokens_per_s": 1e4})
}

fn estimate(step: u64) -> Value {
    let loss = 3.0 - step as f64 / 100.0;
    json!({"event": "estimate", "step": step, "train_loss": loss, "val_loss": loss, "tokens": 10.0 * step as f64, "train_s": 1.0})
}

fn get(server: &Running, path: &str) -> Value {
    let answer = server.client().get(path);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

fn ids(list: &Value) -> Vec<&str> {
    let mut ids: Vec<_> = list["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap()).collect();
    ids.sort();
    ids
}

fn root(path: PathBuf) -> Vec<Root> {
    vec![path.into()]
}

#[test]
fn runs_are_listed_and_only_what_changes_is_told_again() {
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path().join("runs");
    create(&home.join("one"), &["learning_rate=0.01"]);
    let hostile = home.join("group/<img src=x onerror=alert(1)>\u{202e}");
    create(&hostile, &[]);
    append(&home.join("one"), &[estimate(0), step(10), step(20), estimate(20)]);
    append(
        &hostile,
        &[json!({"event": "done", "step": 5, "val_loss_exact": 1.5, "best_val_loss": 1.25, "best_step": 4})],
    );
    let server = Running::of(root(home.clone()), |_| ());
    let all = get(&server, "/api/runs");
    assert_eq!(ids(&all), ["group/<img src=x onerror=alert(1)>\u{202e}", "one"]);
    assert_eq!((&all["keys"], &all["whole"]), (&json!(["learning_rate"]), &json!(true)));
    let of =
        |list: &Value, id: &str| list["runs"].as_array().unwrap().iter().find(|run| run["id"] == id).unwrap().clone();
    let one = of(&all, "one");
    assert_eq!((&one["state"], &one["step"], &one["val_loss"]), (&json!("stopped"), &json!(20), &json!(2.8)));
    assert_eq!((&one["has_checkpoint"], &one["differs"]), (&json!(false), &json!({"learning_rate": 0.01})));
    let other = of(&all, "group/<img src=x onerror=alert(1)>\u{202e}");
    assert_eq!(
        (&other["state"], &other["val_loss_exact"], &other["best_step"]),
        (&json!("done"), &json!(1.5), &json!(4))
    );
    // Nothing happens.
    let cursor = all["cursor"].as_str().unwrap().to_owned();
    thread::sleep(LOOK);
    let idle = server.client().get(&format!("/api/runs?since={cursor}"));
    assert!(idle.body.len() < 200, "{}", idle.body);
    assert_eq!((idle.json()["cursor"].as_str(), ids(&idle.json()).len()), (Some(&*cursor), 0));
    // One goes on, under its lock, which nobody takes from it.
    let lock = Lock::take(&home.join("one")).unwrap();
    append(&home.join("one"), &[step(30)]);
    thread::sleep(LOOK);
    let tick = server.client().get(&format!("/api/runs?since={cursor}"));
    assert!(tick.body.len() < 1000, "{}", tick.body.len());
    let tick = tick.json();
    assert_eq!((ids(&tick), &tick["whole"]), (vec!["one"], &json!(false)));
    let one = of(&tick, "one");
    assert_eq!((&one["state"], &one["step"]), (&json!("running"), &json!(30)));
    assert!(one["left_s"].as_f64().unwrap() > 0.0);
    // It ends without a word, the other goes, a third comes.
    drop(lock);
    fs::remove_dir_all(home.join("group")).unwrap();
    create(&home.join("third"), &["learning_rate=0.01", "n_layer=2"]);
    thread::sleep(LOOK);
    let cursor = tick["cursor"].as_str().unwrap();
    let tick = get(&server, &format!("/api/runs?since={cursor}"));
    assert_eq!((ids(&tick), &tick["keys"]), (vec!["one", "third"], &json!(["n_layer"])));
    assert_eq!(tick["gone"], json!(["group/<img src=x onerror=alert(1)>\u{202e}"]));
    assert_eq!(of(&tick, "one")["state"], "stopped");
    for foreign in ["", "x", "0.0", "1.5", "zz.1"] {
        assert_eq!(get(&server, &format!("/api/runs?since={foreign}"))["whole"], true, "{foreign}");
    }
}

#[test]
fn curves_samples_and_settings_of_a_run() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("a/b");
    create(&run, &["seed=7"]);
    let mut events = vec![estimate(0), json!({"event": "sample", "step": 0, "text": "<script>alert(1)</script>\u{0}"})];
    events.extend((1..=1000).map(step));
    events.push(
        json!({"event": "diverged", "step": 1000, "action": "skip", "rollbacks": 0, "at_step": 1001, "cause": "spike",
        "loss": 9.0, "grad_norm": null, "tensor": "x"}),
    );
    append(&run, &events);
    let server = Running::of(root(temp.path().to_owned()), |_| ());
    let whole = get(&server, "/api/runs/a/b/events?points=10");
    let column = |of: &Value, key: &str| of["steps"][key].as_array().unwrap().clone();
    assert_eq!((&whole["whole"], &whole["steps_of"], &whole["estimates_of"]), (&json!(true), &json!(1000), &json!(1)));
    assert_eq!(column(&whole, "step"), (1..=10).map(|at| json!(100 * at)).collect::<Vec<_>>());
    assert_eq!((&column(&whole, "loss_max")[0], &column(&whole, "loss_min")[9]), (&json!(1.0), &json!(0.001)));
    assert_eq!((&column(&whole, "lr")[0], &whole["marks"][0]["kind"]), (&json!(0.001), &json!("diverged")));
    assert!(whole["estimates"]["old_val_loss"].is_null() && whole["floor"].is_null());
    let zoom = get(&server, "/api/runs/a%2Fb/events?points=10&from=5&to=8");
    assert_eq!(column(&zoom, "step"), [5, 6, 7, 8].map(|at| json!(at)));
    // More comes.
    append(&run, &[step(1001), json!({"event": "step", "step": 1002, "loss": null, "lr": 0.5, "grad_norm": null})]);
    let cursor = whole["cursor"].as_str().unwrap();
    let more = get(&server, &format!("/api/runs/a/b/events?since={cursor}"));
    assert_eq!((&more["whole"], column(&more, "step")), (&json!(false), vec![json!(1001), json!(1002)]));
    assert!(column(&more, "loss")[1].is_null() && column(&more, "grad_norm")[1].is_null());
    // A resume goes back.
    fs::remove_file(run.join("metrics.jsonl")).unwrap();
    fs::write(run.join("metrics.jsonl"), "").unwrap();
    append(&run, &[estimate(0), step(1)]);
    let cursor = more["cursor"].as_str().unwrap();
    let back = get(&server, &format!("/api/runs/a/b/events?since={cursor}"));
    assert_eq!((&back["whole"], column(&back, "step")), (&json!(true), vec![json!(1)]));
    let none = get(&server, "/api/runs/a/b/samples");
    assert_eq!((&none["samples"], &none["left_out"], &none["whole"]), (&json!([]), &json!(0), &json!(true)));
    append(&run, &[json!({"event": "sample", "step": 1, "text": "<script>\u{0}"})]);
    let samples = get(&server, "/api/runs/a/b/samples?since=0");
    assert_eq!(samples["samples"], json!([{"step": 1, "text": "<script>\u{0}"}]));
    assert_eq!(samples["whole"], false);
    let cursor = none["cursor"].as_str().unwrap();
    assert_eq!(get(&server, &format!("/api/runs/a/b/samples?since={cursor}"))["samples"], samples["samples"]);
    // Long ones: about a megabyte of them.
    let long = "x".repeat(100_000);
    append(&run, &(2..40).map(|at| json!({"event": "sample", "step": at, "text": long})).collect::<Vec<_>>());
    let many = get(&server, &format!("/api/runs/a/b/samples?since={cursor}"));
    assert_eq!((many["samples"].as_array().unwrap().len(), &many["left_out"]), (10, &json!(29)));
    let config = get(&server, "/api/runs/a/b/config");
    assert_eq!(config["warnings"], json!([]));
    assert_eq!((&config["config"]["seed"], &config["config"]["n_layer"]), (&json!(7), &json!(1)));
    for (path, status, code) in [
        ("/api/runs/none/events", 404, "run_not_found"),
        ("/api/runs/none/samples", 404, "run_not_found"),
        ("/api/runs/none/config", 404, "run_not_found"),
        ("/api/tune/none", 404, "tuning_not_found"),
        ("/api/runs/a/b/events?points=0", 400, "invalid_value"),
        ("/api/runs/a/b/events?points=5001", 400, "invalid_value"),
        ("/api/runs/a/b/events?from=-1", 400, "invalid_value"),
        ("/api/runs/a/b/samples?since=x", 400, "invalid_value"),
    ] {
        let answer = server.client().get(path);
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (status, Some(code)), "{path}");
    }
}

#[test]
fn trials_of_a_tuning_are_told() {
    let temp = tempfile::tempdir().unwrap();
    let tuning = temp.path().join("search");
    let trial = |name: &str, rate: &str, loss: f64| {
        let path = tuning.join("trials").join(name);
        create(&path, &[rate]);
        append(&path, &[step(1), json!({"event": "done", "step": 9, "val_loss_exact": loss})]);
    };
    trial("000-rung1", "learning_rate=0.001", 3.0);
    trial("001-rung1", "learning_rate=0.01", 2.0);
    trial("001-rung2", "learning_rate=0.01", 1.5);
    trial("001-seed1338", "learning_rate=0.01", 0.5);
    let stored = json!({"format_version": 1, "config": "", "sweeps": ["learning_rate=0.001..0.1:log"], "trials": 2, "budget_s": 9.0,
        "spent_s": 1.0, "range": null, "rungs": [{"trials": 2, "steps": 3}, {"trials": 1, "steps": 9}]});
    let stored = stored.to_string();
    let sum = crate::system::disk::sha256(stored.as_bytes());
    fs::write(tuning.join("tune.json"), format!("{{\"sha256\":\"{sum}\",\"tune\":{stored}}}\n")).unwrap();
    let server = Running::of(root(temp.path().to_owned()), |_| ());
    let list = get(&server, "/api/runs");
    let best = json!({"trial": 1, "val_loss": 1.5, "settings": {"learning_rate": 0.01}});
    let one = &list["tunings"][0];
    assert_eq!((&one["id"], &one["state"], &one["best"]), (&json!("search"), &json!("stopped"), &best));
    assert_eq!((&one["trials"], &one["finished"]), (&json!(2), &json!(2)));
    let details = get(&server, "/api/tune/search");
    assert_eq!((&details["keys"], &details["best"]), (&json!(["learning_rate"]), &json!(1)));
    let states: Vec<_> = details["trials"].as_array().unwrap().iter().map(|trial| trial["state"].clone()).collect();
    assert_eq!(states, [json!("stopped early"), json!("finished")]);
    assert_eq!(details["trials"][1]["run"], "search/trials/001-rung2");
    // On the next rung one is interrupted, and has not ended: the best so far stays the best.
    create(&tuning.join("trials/001-rung3"), &["learning_rate=0.01"]);
    append(&tuning.join("trials/001-rung3"), &[step(1)]);
    thread::sleep(LOOK);
    let one = &get(&server, "/api/runs")["tunings"][0];
    assert_eq!((&one["best"], &one["finished"]), (&best, &json!(1)));
    assert_eq!(get(&server, "/api/tune/search")["best"], 1);
}

/// A run whose metrics are a pipe that nobody writes to keeps nobody waiting; a config that is damaged is not told as it stands.
#[cfg(unix)]
#[test]
fn what_does_not_answer_keeps_nobody_waiting() {
    let temp = tempfile::tempdir().unwrap();
    create(&temp.path().join("good"), &[]);
    let bad = temp.path().join("bad");
    create(&bad, &["seed=7"]);
    fs::remove_file(bad.join("metrics.jsonl")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(bad.join("metrics.jsonl")).status().unwrap().success());
    let text = fs::read_to_string(bad.join("config.toml")).unwrap();
    fs::write(bad.join("config.toml"), text.replace("seed = 7", "seed = 8")).unwrap();
    let server = Running::of(root(temp.path().to_owned()), |_| ());
    assert_eq!(ids(&get(&server, "/api/runs")), ["bad", "good"]);
    assert_eq!(server.client().get("/api/runs/bad/events").status, 503);
    assert_eq!(server.client().get("/api/runs/bad/samples").status, 503);
    assert_eq!(server.client().get("/v1/models").status, 200);
    let config = server.client().get("/api/runs/bad/config");
    let warned = config.status == 503 || !config.json()["warnings"].as_array().unwrap().is_empty();
    assert!(warned, "{config:?}");
}

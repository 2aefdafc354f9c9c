//! Runs that come, change, break and go while they are served.

use super::{super::options::Root, *};
use crate::{
    run::{RunDir, State, Which},
    text::tokenizer::CharTokenizer,
};
use kinglet_core::{config::Config, params::Layout};
use std::path::Path;

/// The age at which what was seen of a folder is looked at again is 2 s; this is a little more.
const LOOK: Duration = Duration::from_millis(2050);

/// Writes a run with one checkpoint.
fn create(path: &Path, step: u64) -> RunDir {
    write(path, step, "abc")
}

/// The same, with these characters.
fn write(path: &Path, step: u64, chars: &str) -> RunDir {
    let config =
        Config::default().with(&["vocab_size=3", "block_size=8", "n_layer=1", "n_head=1", "n_embd=8"]).unwrap();
    let (run, lock) = RunDir::create(path, config, CharTokenizer::train(chars).into(), None).unwrap();
    drop(lock);
    save(&run, step);
    run
}

/// Writes a checkpoint of other weights, which is the best one so far.
fn save(run: &RunDir, step: u64) {
    let layout = Layout::new(&run.config).unwrap();
    let weights = layout.init(step);
    let mut state = State::default();
    (state.step, state.best) = (step, Some((1.0 / (step + 1) as f64, step)));
    run.save_weights(&layout, &state, |span, out| out.copy_from_slice(&weights[span.range()])).unwrap();
}

#[test]
fn a_checkpoint_is_in_memory_once_however_it_is_named() {
    let temp = tempfile::tempdir().unwrap();
    save(&create(&temp.path().join("mine"), 5), 6);
    let server = Running::of(vec![temp.path().to_owned().into()], |_| ());
    for (id, step_of, loaded) in [
        ("mine", 6, 1.0),
        ("mine@best", 6, 1.0),
        ("mine@last", 6, 1.0),
        ("mine@6", 6, 1.0),
        ("mine@5", 5, 2.0),
        ("mine@005", 5, 2.0),
    ] {
        assert_eq!(step(&server, id), (200, json!(step_of)), "{id}");
        assert_eq!(server.metric("kinglet_models_loaded"), loaded, "{id}");
    }
    assert_eq!(step(&server, "mine@step-000005"), (200, json!(5)));
    assert_eq!(server.metric("kinglet_models_loaded"), 2.0);
    assert_eq!(step(&server, "mine@%2B5").0, 404);
}

#[test]
fn a_run_with_other_characters_is_another_model() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("mine");
    create(&path, 5);
    let server = Running::of(vec![temp.path().to_owned().into()], |_| ());
    let fingerprint = || server.client().get("/model/mine").json()["fingerprint"].clone();
    let before = fingerprint();
    fs::remove_dir_all(&path).unwrap();
    write(&path, 5, "xyz");
    thread::sleep(LOOK);
    assert_ne!(fingerprint(), before, "the weights are the same");
}

/// The names of all models.
fn ids(server: &Running) -> Vec<String> {
    let models = server.client().get("/v1/models").json();
    models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_run_keeps_its_name_as_long_as_it_is_there() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    fs::create_dir(path("a")).unwrap();
    create(&path("b/mine"), 1);
    let server = Running::of(vec![path("a").into(), path("b").into()], |_| ());
    assert_eq!((ids(&server), step(&server, "mine")), (vec!["mine".to_owned()], (200, json!(1))));
    // One of the same name comes into the first folder, and one that is called as a checkpoint is.
    create(&path("a/mine"), 2);
    create(&path("b/mine@1"), 3);
    thread::sleep(LOOK);
    assert_eq!(ids(&server), ["a/mine", "b/mine@1", "mine"]);
    for (id, step_of) in [("mine", 1), ("mine@1", 1), ("a/mine", 2), ("b/mine@1", 3)] {
        assert_eq!(step(&server, id), (200, json!(step_of)), "{id}");
    }
    fs::remove_dir_all(path("b/mine")).unwrap();
    thread::sleep(LOOK);
    assert_eq!(ids(&server), ["a/mine", "b/mine@1"]);
    assert_eq!(step(&server, "mine").0, 404, "a name is not taken over");
}

#[test]
fn a_run_in_two_folders_that_are_served_is_one() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    save(&create(&path("group/mine"), 1), 2);
    let only = |step| Root { path: path("group/mine"), which: Some(Which::Step(step)) };
    let server = Running::of(vec![path("group").into(), temp.path().to_owned().into()], |_| ());
    assert_eq!(ids(&server), ["mine"]);
    drop(server);
    let server = Running::of(vec![only(1), only(2)], |_| ());
    assert_eq!(ids(&server), ["mine"]);
    assert_eq!((step(&server, "mine@1"), step(&server, "mine@2")), ((200, json!(1)), (200, json!(2))));
}

#[cfg(unix)]
#[test]
fn what_links_lead_to_is_served_once() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    let link = |to: &str, from: &str| std::os::unix::fs::symlink(path(to), path(from)).unwrap();
    create(&path("runs/group/mine"), 1);
    create(&path("elsewhere/other"), 2);
    link("runs", "runs/all");
    link("runs/group", "runs/group/again");
    link("runs/group/mine", "runs/alias");
    link("elsewhere/other", "runs/linked");
    link("runs", "entry");
    let server = Running::of(vec![path("entry").into(), path("runs").into()], |_| ());
    assert_eq!(ids(&server), ["group/mine", "linked"]);
    assert_eq!((step(&server, "group/mine"), step(&server, "linked")), ((200, json!(1)), (200, json!(2))));
}

/// While a file of the newer checkpoint does not come, as on a slow disk, the older model is there for everybody else.
#[cfg(unix)]
#[test]
fn nobody_else_waits_while_a_model_is_renewed() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("mine");
    let run = create(&path, 1);
    let server = Running::of(vec![temp.path().to_owned().into()], |_| ());
    assert_eq!(step(&server, "mine"), (200, json!(1)));
    save(&run, 2);
    let tokenizer = path.join("tokenizer.json");
    let text = fs::read_to_string(&tokenizer).unwrap();
    fs::remove_file(&tokenizer).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&tokenizer).status().unwrap().success());
    thread::sleep(LOOK);
    let address = server.address;
    let renews = thread::spawn(move || Client::new(address).get("/model/mine").json()["step"].clone());
    thread::sleep(Duration::from_millis(100));
    for _ in 0..20 {
        let since = Instant::now();
        assert_eq!(step(&server, "mine"), (200, json!(1)));
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    }
    assert!(!renews.is_finished());
    // Now the file comes.
    fs::write(&tokenizer, text).unwrap();
    assert_eq!(renews.join().unwrap(), 2);
    assert_eq!(step(&server, "mine"), (200, json!(2)));
}

#[test]
fn who_asks_is_told_that_a_checkpoint_is_damaged() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("mine");
    save(&create(&path, 1), 2);
    let server = Running::of(vec![temp.path().to_owned().into()], |_| ());
    let model = |id: &str| server.client().get(&format!("/v1/models/{id}")).json()["kinglet"].clone();
    assert_eq!((&model("mine")["step"], &model("mine")["notes"]), (&json!(2), &Value::Null));
    assert_eq!(step(&server, "mine"), (200, json!(2)));
    assert_eq!(model("mine")["notes"], json!([]), "it is loaded, and nothing is to be said");
    fs::write(path.join("checkpoints/step-000002/model.safetensors"), "damaged").unwrap();
    thread::sleep(LOOK);
    let ask = |route: &str, body: Value| server.client().post(route, "", &body.to_string()).answer().json();
    let body = json!({"model": "mine", "prompt": "a", "text": "abc", "max_tokens": 1});
    let told = |notes: &Value| {
        let notes = notes.as_array().unwrap();
        notes.len() == 1 && notes[0].as_str().unwrap().contains("the best checkpoint (step 2) cannot be used")
    };
    let written = ask("/v1/completions", body.clone());
    assert!(told(&written["kinglet"]["notes"]), "{written}");
    let tokens = ask("/tokenize", body.clone());
    assert!(told(&tokens["kinglet"]["notes"]), "{tokens}");
    let scored = ask("/api/score", body);
    assert!(told(&scored["notes"]), "{scored}");
    assert_eq!((&model("mine")["step"], told(&model("mine")["notes"])), (&json!(1), true));
    assert_eq!((&model("mine@1")["step"], &model("mine@1")["notes"]), (&json!(1), &json!([])), "that is intact");
    assert_eq!(server.metric("kinglet_models_loaded"), 1.0, "both are the same");
}

/// The names and sizes of all files below a folder.
fn files(folder: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.unwrap();
        found.push((entry.path().display().to_string(), entry.metadata().unwrap().len()));
    }
    found
}

fn step(server: &Running, id: &str) -> (u16, Value) {
    let answer = server.client().get(&format!("/model/{id}"));
    (answer.status, answer.json()["step"].clone())
}

#[test]
fn runs_are_found_loaded_renewed_and_missed() {
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path().join("runs");
    let mine = create(&home.join("mine"), 10);
    create(&home.join("group/other"), 1);
    let before = files(&home);
    let server = Running::of(vec![home.clone().into()], |options| options.models_max = 2);
    assert_eq!(server.server.as_ref().unwrap().models(), ["group/other", "mine"]);
    assert_eq!(server.metric("kinglet_models_loaded"), 0.0);
    assert_eq!(step(&server, "mine"), (200, json!(10)));
    assert_eq!(step(&server, "group/other"), (200, json!(1)));
    assert_eq!(step(&server, "mine@10"), (200, json!(10)));
    assert_eq!(server.metric("kinglet_models_loaded"), 2.0, "the least recently used is forgotten");
    let of = |id: &str| server.client().get(&format!("/model/{id}")).json()["fingerprint"].clone();
    assert!(of("mine") == of("mine@last") && of("mine") != of("group/other"));
    for id in ["none", "mine@11", "mine@x", "group", "../mine", "mine@"] {
        let answer = server.client().get(&format!("/model/{id}"));
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, error["code"].as_str(), error["param"].as_str()),
            (404, Some("model_not_found"), Some("model"))
        );
    }
    let none = server.client().get("/model/none").json()["error"]["message"].to_string();
    assert!(none.contains("there are: group/other, mine"), "{none}");
    assert_eq!(files(&home), before, "nothing is written into a run");
    // Training goes on, another run begins, and one is removed.
    save(&mine, 20);
    create(&home.join("new"), 5);
    fs::remove_dir_all(home.join("group")).unwrap();
    thread::sleep(LOOK);
    assert_eq!(step(&server, "mine"), (200, json!(20)));
    assert_eq!(step(&server, "mine@10"), (200, json!(10)));
    assert_eq!(step(&server, "new"), (200, json!(5)));
    assert_eq!(step(&server, "group/other").0, 404);
    // The newest checkpoint is damaged: the one before it is used. Then all are.
    let weights = |step: u64| home.join(format!("mine/checkpoints/step-{step:06}/model.safetensors"));
    fs::write(weights(20), "damaged").unwrap();
    thread::sleep(LOOK);
    assert_eq!(step(&server, "mine"), (200, json!(10)));
    fs::write(weights(10), "damaged").unwrap();
    thread::sleep(LOOK);
    let answer = server.client().get("/model/mine");
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("model_unusable")));
    assert_eq!(step(&server, "new"), (200, json!(5)));
}

#[test]
fn names_differ_and_one_checkpoint_can_be_all_that_is_served() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    for name in ["a/mine", "b/mine", "c/mine"] {
        save(&create(&path(name), 1), 2);
    }
    let one = Root { path: path("c/mine"), which: Some(Which::Step(1)) };
    let roots = vec![path("a").into(), path("b/mine").into(), one];
    let server = Running::of(roots, |_| ());
    assert_eq!(server.server.as_ref().unwrap().models(), ["b/mine", "c/mine", "mine"]);
    assert_eq!(step(&server, "c/mine"), (200, json!(1)));
    assert_eq!(step(&server, "c/mine@1"), (200, json!(1)));
    assert_eq!(step(&server, "c/mine@2").0, 404);
    assert_eq!(step(&server, "b/mine@1"), (200, json!(1)));
    assert_eq!(step(&server, "mine"), (200, json!(2)));
}

#[test]
fn many_ask_for_a_model_while_it_changes() {
    let temp = tempfile::tempdir().unwrap();
    let run = create(&temp.path().join("mine"), 0);
    let server = Running::of(vec![temp.path().to_owned().into()], |options| options.models_max = 1);
    let address = server.address;
    let asking: Vec<_> = (0..6)
        .map(|n| {
            thread::spawn(move || {
                let mut client = Client::new(address);
                let path = format!("/model/mine{}", ["", "@last", "@best"][n % 3]);
                let statuses = (0..40).map(|_| client.get(&path).status);
                statuses.filter(|status| *status != 200).collect::<Vec<_>>()
            })
        })
        .collect();
    for step in 1..20 {
        save(&run, step);
        fs::remove_dir_all(temp.path().join(format!("mine/checkpoints/step-{:06}", step - 1))).unwrap();
    }
    asking.into_iter().for_each(|asked| assert_eq!(asked.join().unwrap(), [0; 0], "all good requests are answered"));
}

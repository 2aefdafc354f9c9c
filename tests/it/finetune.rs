//! Fine-tuning: what it begins with, what it leaves alone, and that it keeps all that training promises.

use crate::common::{
    cli::{Cli, SMALL},
    runs::{newest, same_bits, train},
};
use kinglet::{
    Model,
    backend::Cpu,
    inference::Part,
    params::Layout,
    run::{RunDir, Which},
    train::{
        Job,
        finetune::{self, merged},
    },
};
use serde_json::Value;
use std::{fs, path::PathBuf};

/// A small run on the play, and a folder for more.
struct Base {
    cli: Cli,
    run: PathBuf,
}

impl Base {
    fn new() -> Base {
        let cli = Cli::trained();
        Base { run: cli.path("run"), cli }
    }

    fn start(&self, name: &str, data: &str, settings: &[&str]) -> Job {
        let short = ["max_iters=6", "eval_interval=3", "eval_iters=1", "shards=2"];
        let settings: Vec<String> = short.iter().chain(settings).map(|setting| (*setting).to_owned()).collect();
        let prepared = finetune::prepare(&self.run, Which::Best, &[data.to_owned()], &settings).unwrap();
        prepared.start(&self.cli.path(name)).unwrap()
    }
}

#[test]
fn one_trajectory_with_new_words_replay_and_adapters() {
    let base = Base::new();
    for (kind, settings) in [
        ("full", &["replay=0.3", "dropout=0.1"][..]),
        ("lora", &["replay=0.3", "lora_rank=2", "lora_dropout=0.1"]),
        ("frozen", &["freeze=[\"*.h.*\"]", "replacement=false"]),
    ] {
        let name = |part: &str| format!("{kind}-{part}");
        let whole = train(base.start(&name("whole"), "logbook", settings), 1, None);
        assert_eq!(whole.state.step, 6);
        for threads in [2, 3] {
            let job = base.start(&name(&format!("threads{threads}")), "logbook", settings);
            same_bits(&train(job, threads, None), &whole);
        }
        // Interrupted before there is any checkpoint, and again on the way; the old run is gone by then.
        drop(base.start(&name("stopped"), "logbook", settings));
        let out = base.cli.path(&name("stopped"));
        let moved = base.cli.path("moved");
        fs::rename(&base.run, &moved).unwrap();
        train(Job::resume(&out, &[]).unwrap(), 2, Some(4));
        same_bits(&train(Job::resume(&out, &[]).unwrap(), 1, None), &whole);
        fs::rename(&moved, &base.run).unwrap();
    }
}

#[test]
fn new_words_are_added_and_the_rest_keeps_its_bits() {
    let base = Base::new();
    let before = newest(&base.run);
    let old = RunDir::open(&base.run).unwrap();
    let old_layout = Layout::new(&old.config).unwrap();
    let job = base.start("lora", "logbook", &["lora_rank=2"]);
    let run = job.run.clone();
    let layout = Layout::new(&run.config).unwrap();
    assert_eq!((old.config.vocab_size, run.config.vocab_size, run.config.new_tokens), (65, 80, 15));
    assert_eq!(run.tokenizer.chars().unwrap().chars().count(), 80);
    let text = "The tide turned.";
    assert_eq!(run.tokenizer.encode(text).unwrap(), old.tokenizer.encode(text).unwrap());
    let after = train(job, 2, None);
    for from in &old_layout.tensors {
        let to = layout.tensors.iter().find(|tensor| tensor.name == from.name).unwrap();
        let (a, b) = (&before.weights[from.span.range()], &after.weights[to.span.range()]);
        assert!(a == &b[..a.len()], "{}: adapters leave the old weights alone", from.name);
        assert_eq!(b.len() > a.len(), from.name.contains("wte") || from.name.starts_with("lm_head"));
    }
    let head = layout.tensors.iter().find(|tensor| tensor.name == "lm_head.weight").unwrap();
    let start = run.base().unwrap().unwrap().weights;
    let new_rows = head.trains.range();
    assert_eq!(new_rows.len(), 15 * 16);
    assert!(start[new_rows.clone()] != after.weights[new_rows], "new rows are learned");
}

#[test]
fn groups_keep_their_settings_but_not_their_course() {
    let cli = Cli::new();
    let groups =
        "param_groups=[{params=[\"lm_head.*\"],learning_rate=2e-3,lr_schedule=\"cosine\",warmup_iters=9,min_lr=1e-3}]";
    cli.ok(&[&["train", "--out", "run", "--set", groups], SMALL].concat());
    let settings = ["max_iters=10", "warmup_iters=1"].map(str::to_owned);
    let config = finetune::prepare(&cli.path("run"), Which::Last, &["logbook".to_owned()], &settings).unwrap().config;
    assert_eq!(config.param_groups[0].settings.keys().collect::<Vec<_>>(), ["learning_rate"]);
    let [head, rest] = config.groups().unwrap().try_into().unwrap();
    // Both rise over one update and fall in a line to 0, from a tenth of what they were.
    assert_eq!([head.lr(1), head.lr(10)], [2e-4, 0.0]);
    assert_eq!([rest.lr(1), rest.lr(10)], [config.learning_rate, 0.0]);
}

#[test]
fn learning_rates_are_a_tenth_of_the_old_ones_unless_they_are_set() {
    let cli = Cli::new();
    let old = [
        "--set",
        "optimizer=muon",
        "--set",
        "learning_rate=3e-3",
        "--set",
        "muon_lr=0.03",
        "--set",
        "param_groups=[{params=[\"lm_head.*\"],learning_rate=1}]",
    ];
    cli.ok(&[&["train", "--out", "run"], SMALL, &old].concat());
    let prepared = |settings: &[&str]| {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        finetune::prepare(&cli.path("run"), Which::Last, &["logbook".to_owned()], &settings).unwrap()
    };
    let rates = |settings: &[&str]| {
        let finetune::Finetune { config, data, .. } = prepared(settings);
        let [head, rest] = config.groups().unwrap().try_into().unwrap();
        let notes = data.notes.into_iter().filter(|note| note.contains("tenth") || note.contains("param_groups"));
        ([rest.learning_rate, rest.muon_lr, head.learning_rate], notes.collect::<Vec<_>>())
    };
    let adamw = "learning rate 3e-4, a tenth of the old run's 3e-3";
    let muon = "Muon's learning rate 3e-3, a tenth of the old run's 3e-2";
    let groups = "learning rates in param_groups, a tenth of the old run's";
    assert_eq!(rates(&[]), ([3e-4, 3e-3, 0.1], vec![[adamw, muon, groups].join("; ")]));
    assert_eq!(rates(&["learning_rate=2e-3"]), ([2e-3, 3e-3, 0.1], vec![[muon, groups].join("; ")]));
    let own = "param_groups=[{params=[\"lm_head.*\"],learning_rate=0.5}]";
    assert_eq!(rates(&["muon_lr=0.01", own]), ([3e-4, 0.01, 0.5], vec![adamw.to_owned()]));
    assert_eq!(rates(&["muon_lr=0.01", "learning_rate=1e-3", own]), ([1e-3, 0.01, 0.5], Vec::<String>::new()));
    // Without Muon nobody asks for its rate.
    assert_eq!(rates(&["optimizer=adamw", own]), ([3e-4, 3e-3, 0.5], vec![adamw.to_owned()]));
    // It is said at the start, and not again.
    let told = |args: &[&str]| {
        let output = cli.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap().matches(adamw).count()
    };
    let short = ["--set", "max_iters=2", "--set", "eval_interval=1", "--set", "eval_iters=1"];
    assert_eq!(told(&[&["finetune", "run", "logbook", "--out", "tuned"], &short[..]].concat()), 1);
    assert_eq!(told(&["train", "--resume", "--out", "tuned", "--set", "max_iters=4"]), 0);
}

#[test]
fn adapters_are_small_and_can_be_merged_left_out_and_swapped() {
    let base = Base::new();
    // Nothing new in it, so that the models differ by their adapters alone.
    fs::write(base.cli.path("text.txt"), "And all the sea was grey. ".repeat(300)).unwrap();
    let text = base.cli.path("text.txt").display().to_string();
    let settings = ["lora_rank=2", "max_iters=60", "eval_interval=60", "learning_rate=1e-2"];
    train(base.start("one", &text, &settings), 2, None);
    train(base.start("two", &text, &[&settings[..], &["seed=7"]].concat()), 2, None);
    let size = |path: &str| fs::metadata(base.cli.path(path)).unwrap().len();
    let adapter = size("one/checkpoints/step-000060/adapter.safetensors");
    assert!(adapter * 3 < size("one/base/model.safetensors"), "{adapter}");

    let (one, two) = (base.cli.path("one"), base.cli.path("two"));
    let loss = |model: &Model| {
        let data = model.dataset(None, Part::Val).unwrap();
        model.eval(data, Part::Val, 1, |_, _| ()).unwrap().exact.loss
    };
    let be = || Cpu::new().unwrap();
    let load = |run| Model::load(be(), run, Which::Last).unwrap();
    let apart = loss(&load(&one));
    merged(&one, Which::Last, &base.cli.path("merged")).unwrap();
    let mut plain = RunDir::open(&base.cli.path("merged")).unwrap();
    assert_eq!((plain.config.lora_rank, plain.state().unwrap().step), (0, 60));
    let together = loss(&Model::open(base.cli.path("merged")).unwrap());
    assert!((apart - together).abs() < 1e-5, "{apart} {together}");

    let without = loss(&Model::load_without_adapters(be(), &one, Which::Last).unwrap());
    assert!(apart < without - 0.5, "{apart} {without}");
    // The other run's adapters on this one's weights are the other run, which stands on the same ones.
    let swapped = Model::load_with_adapters_of(be(), (&one, Which::Last), (&two, Which::Last)).unwrap();
    assert!(swapped.warnings().is_empty() && loss(&swapped) == loss(&load(&two)));
    // On weights that were trained on, it is said that they fit less well.
    let on_merged =
        Model::load_with_adapters_of(be(), (&base.cli.path("merged"), Which::Last), (&two, Which::Last)).unwrap();
    assert!(on_merged.warnings()[0].contains("trained with different base weights"), "{:?}", on_merged.warnings());
    let error =
        Model::load_with_adapters_of(be(), (&one, Which::Last), (&base.run, Which::Last)).err().unwrap().to_string();
    assert!(error.contains("has no adapters"), "{error}");
}

#[test]
fn damage_to_what_it_began_with_is_noticed_and_lived_with_where_that_can_be() {
    let base = Base::new();
    for (name, settings) in [("full", &[][..]), ("lora", &["lora_rank=2"])] {
        let job = base.start(name, "logbook", settings);
        train(job, 2, Some(4));
        let file = base.cli.path(name).join("base/model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
        let resumed = Job::resume(base.cli.path(name), &[]);
        if name == "full" {
            let job = resumed.unwrap();
            assert!(
                job.run.warnings[0].contains("the loss on the old data could not be measured"),
                "{:?}",
                job.run.warnings
            );
            assert_eq!(train(job, 1, None).state.step, 6);
        } else {
            let error = resumed.err().unwrap().to_string();
            assert!(error.contains("base/model.safetensors: damaged"), "{error}");
        }
    }
}

#[test]
fn a_model_learns_to_answer() {
    let cli = Cli::new();
    let settings = |pairs: &[&'static str]| pairs.iter().flat_map(|pair| ["--set", *pair]).collect::<Vec<_>>();
    cli.ok(&[&["train", "--out", "run"], &settings(&["max_iters=100", "eval_iters=2"])[..]].concat());
    let exact = |run: &str| -> Value {
        serde_json::from_str(&cli.ok(&["eval", run, "dates", "--split", "val", "--json"])).unwrap()
    };
    let short = settings(&["max_iters=1", "eval_iters=1"]);
    cli.ok(&[&["finetune", "run", "dates", "--out", "short"], &short[..]].concat());
    assert_eq!(exact("short")["answers"]["exact"], 0, "before");
    let long = settings(&["max_iters=1500", "eval_interval=500", "eval_iters=2", "learning_rate=4e-3"]);
    let done = cli.ok(&[&["finetune", "run", "dates", "--out", "long", "--json"], &long[..]].concat());
    let done: Value = serde_json::from_str(done.lines().last().unwrap()).unwrap();
    assert!(done["old_val_loss"].as_f64() > done["old_val_loss_before"].as_f64(), "it forgets: {done}");
    let after = exact("long");
    let (right, of) = (after["answers"]["exact"].as_u64().unwrap(), after["answers"]["of"].as_u64().unwrap());
    assert!(of == 2000 && right > 1900, "{after}");

    // It says so too.
    let ask = |args: &[&str], lines: &str| {
        use std::io::Write;
        let mut child = cli
            .command(&[&["chat", "long", "--temperature", "0"], args].concat())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let lines = "March 7, 1984\n7.3.1984\n";
    let (answers, _) = ask(&["--single"], lines);
    assert_eq!(answers, "1984-03-07\n1984-03-07\n");
    let (answers, notes) = ask(&["--json"], lines);
    assert!(answers.lines().all(|line| line.contains("\"response\":\"1984-03-07\"")), "{answers}");
    assert!(notes.contains("the model sees only 32 tokens; 2 earlier messages are forgotten"), "{notes}");
    // A line it cannot read, or that is too long, is forgotten and the next one answered.
    let lines = format!("M\u{e4}rz\n{}\n7.3.1984\n", "7".repeat(99));
    let (answers, errors) = ask(&[], &lines);
    assert_eq!(answers, "1984-03-07\n");
    assert!(errors.contains("U+00E4") && errors.contains("the message has"), "{errors}");
    let (answers, _) = ask(&["--json"], &lines);
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(answers[0]["error"].is_string() && answers[1]["error"].is_string(), "{answers:?}");
    assert_eq!(answers[2]["response"], "1984-03-07");
    let sample = fs::read_to_string(cli.path("long/sample.txt")).unwrap();
    assert_eq!(sample.lines().count(), 10, "prompts and answers: {sample}");
}

#[test]
fn finetune_is_train_with_a_beginning() {
    let cli = Cli::trained();
    let text = cli.ok(&[&["finetune", "run", "logbook", "--lora", "2", "--replay", "0.5"], SMALL].concat());
    for part in [
        ", of which ",
        " are trained",
        "old val loss",
        "before fine-tuning: ",
        "on the old data",
        "kinglet sample run-logbook",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let plan: Value =
        serde_json::from_str(&cli.ok(&["finetune", "run", "logbook", "--plan", "--json", "--set", "max_iters=20"]))
            .unwrap();
    assert!(plan["wall_s"].as_f64().unwrap() > 0.0 && plan["steps"] == 20, "{plan}");
    cli.ok(&["merge", "run-logbook", "--out", "merged"]);
    assert_ne!(cli.ok(&["sample", "merged"]), cli.ok(&["sample", "run"]));
    let own = cli.ok(&["sample", "run-logbook", "--adapter", "none", "--prompt", "The "]);
    assert!(own.starts_with("The "));
    let events = cli.ok(&["compare", "--bits", "run-logbook", "run-logbook", "--json"]);
    assert!(events.contains("\"checkpoints\":["), "{events}");
}

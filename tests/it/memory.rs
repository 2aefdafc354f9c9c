//! Training on what a program has in memory: it is training on the same in a file.

use crate::common::runs::{newest, same_bits};
use kinglet::{
    backend::Cpu,
    config::Config,
    data::Origin,
    run::{RunDir, Which},
    train::{
        self, Changes, Job, Options,
        finetune::{Texts, prepare_with},
    },
};
use std::{fs, path::Path};

fn config(settings: &[&str]) -> Config {
    let short =
        ["max_iters=6", "eval_interval=3", "eval_iters=1", "n_layer=1", "n_embd=16", "block_size=16", "shards=2"];
    Config::preset("big-0.2m").unwrap().with(&short).unwrap().with(settings).unwrap()
}

fn run(job: Job) {
    train::run(job, Cpu::new().unwrap(), &Options::default().threads(2), |_| ()).unwrap();
}

/// JSON lines, as text in memory and as a file.
fn lines(folder: &Path, line: impl Fn(usize) -> String) -> (Origin, Vec<String>) {
    let text: String = (0..200).map(line).collect();
    let path = folder.join("lines.jsonl");
    fs::write(&path, &text).unwrap();
    (Origin::Lines(text.into_bytes().into()), vec![path.display().to_string()])
}

#[test]
fn documents_in_memory_are_those_of_a_file() {
    let temp = tempfile::tempdir().unwrap();
    let out = |name: &str| temp.path().join(name);
    let (origin, names) = lines(temp.path(), |i| format!("{{\"text\": \"bird {} weighs \\u00e4\\n\"}}\n", i * i % 97));
    let mut of_file = config(&[]);
    of_file.data = names.clone();
    run(Job::start(of_file, out("file")).unwrap());
    run(Job::start_on(&origin, config(&[]), out("memory")).unwrap());
    same_bits(&newest(&out("file")), &newest(&out("memory")));
    assert_eq!(RunDir::open(&out("memory")).unwrap().config.data, ["(memory)"]);

    // It goes on with the same documents, and only with them.
    let longer = Changes { settings: vec!["max_iters=9".into()], ..Changes::default() };
    let error = Job::resume_with(out("memory"), &longer).unwrap_err().to_string();
    assert!(error.contains("has to be given again"), "{error}");
    let error = Job::resume_on(&Origin::Text("other".into()), out("memory"), &longer).unwrap_err().to_string();
    assert!(error.contains("is not the text that this run was started with") && !error.contains("--resume"), "{error}");
    run(Job::resume_on(&origin, out("memory"), &longer).unwrap());
    run(Job::resume_with(out("file"), &longer).unwrap());
    same_bits(&newest(&out("file")), &newest(&out("memory")));
    assert_eq!(newest(&out("memory")).state.step, 9);

    // So does a fine-tuning, of either.
    let few = |config: &mut Config| ["max_iters=3", "eval_iters=1"].iter().try_for_each(|set| config.set(set));
    let texts = Texts { memory: Some(&origin), ..Texts::default() };
    run(prepare_with(&out("file"), Which::Best, texts, few).unwrap().start(&out("tuned-memory")).unwrap());
    let texts = Texts { data: &names, ..Texts::default() };
    run(prepare_with(&out("file"), Which::Best, texts, few).unwrap().start(&out("tuned-file")).unwrap());
    same_bits(&newest(&out("tuned-file")), &newest(&out("tuned-memory")));
}

#[test]
fn ids_train_a_model_of_numbers() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let origin = Origin::Ids((0..2000).map(|i| i * i % 101).collect());
    run(Job::start_on(&origin, config(&[]), &out).unwrap());
    let run_dir = RunDir::open(&out).unwrap();
    assert_eq!((run_dir.config.vocab_size, run_dir.tokenizer.vocab_size()), (101, 101));
    let sample = fs::read_to_string(out.join("sample.txt")).unwrap();
    assert!(sample.split_whitespace().all(|word| word.parse::<u32>().unwrap() < 101), "{sample}");
    let longer = Changes { settings: vec!["max_iters=9".into()], ..Changes::default() };
    run(Job::resume_on(&origin, &out, &longer).unwrap());
    // The tokens that a model has are those of a fine-tuning.
    let other = Origin::Ids((0..500).map(|i| i % 7).collect());
    let texts = Texts { memory: Some(&other), ..Texts::default() };
    let tuned = prepare_with(&out, Which::Best, texts, |config| config.set("max_iters=3")).unwrap();
    assert_eq!(tuned.config.vocab_size, 101);
    run(tuned.start(&temp.path().join("tuned")).unwrap());
}

#[test]
fn a_job_that_is_not_begun_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("folder/run");
    let text = Origin::Text("the kinglet is the smallest bird\n".repeat(50).into());
    Job::start_on(&text, config(&[]), &out).unwrap().discard();
    assert!(!temp.path().join("folder").exists());
    run(Job::start_on(&text, config(&[]), &out).unwrap());
    let longer = Changes { settings: vec!["max_iters=9".into()], ..Changes::default() };
    Job::resume_on(&text, &out, &longer).unwrap().discard();
    assert_eq!(newest(&out).state.step, 6, "what was there stays");
}

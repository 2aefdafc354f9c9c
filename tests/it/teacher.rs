//! A run that learns another run's probabilities.

use crate::{
    common::runs::{newest, same_bits, train},
    training::{config, one_trajectory},
};
use kinglet::{
    backend::Cpu,
    config::Config,
    ranks::{Team, threads},
    run::RunDir,
    train::{self, Event, Job, Options},
};
use std::path::{Path, PathBuf};

/// A teacher of a shape of its own, which has learned a little.
fn teacher(folder: &Path, settings: &[&str]) -> PathBuf {
    let out = folder.join("teacher");
    let larger = ["n_embd=32", "n_layer=3", "block_size=48", "position=rotary", "max_iters=20"];
    train(Job::start(config(&[&larger, settings].concat()), &out).unwrap(), 2, None);
    out
}

fn taught(teacher: &Path, settings: &[&str]) -> Config {
    let named = format!("teacher={}", teacher.display());
    config(&[&[&*named, "teacher_weight=0.9"], settings].concat())
}

/// The losses of the first updates that a run tells, and of its end.
fn losses(config: Config, out: &Path) -> (Vec<f64>, f64) {
    let mut steps = Vec::new();
    let job = Job::start(config, out).unwrap();
    let done = train::run(job, Cpu::new().unwrap(), &Options::default(), |event| {
        if let Event::Step { loss, .. } = event {
            steps.push(*loss);
        }
    });
    let Event::Done { val_loss, .. } = done.unwrap() else { panic!("it ends") };
    (steps, val_loss)
}

#[test]
fn a_teacher_changes_what_is_learned_and_not_what_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let teacher = teacher(temp.path(), &[]);
    let own = losses(config(&[]), &temp.path().join("own"));
    let with = losses(taught(&teacher, &[]), &temp.path().join("with"));
    // The first update is made by both from the same weights: its loss is that of the text.
    assert_eq!(own.0[0], with.0[0]);
    assert!(own.0[1] != with.0[1] && own.1 != with.1);
    let sum = RunDir::open(&temp.path().join("with")).unwrap().config.teacher_sha256;
    assert_eq!(sum.len(), 64);
}

/// It is trained in whole and in parts, by any number of threads.
#[test]
fn the_bits_are_the_same_however_it_is_trained() {
    let temp = tempfile::tempdir().unwrap();
    let teacher = teacher(temp.path(), &["quantization=w8"]);
    one_trajectory(taught(&teacher, &["dropout=0.1", "gradient_accumulation_steps=2"]));
}

/// A teacher with all the weight, of the student's own shape, is what the student becomes.
#[test]
fn a_student_learns_what_its_teacher_says() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("teacher");
    // It does not know the text at all: its weights are the first ones.
    train(Job::start(config(&["max_iters=1", "learning_rate=1e-9"]), &out).unwrap(), 2, None);
    let long = ["max_iters=60", "teacher_weight=1", "seed=3"];
    let (steps, _) = losses(taught(&out, &long), &temp.path().join("student"));
    let (own, _) = losses(config(&["max_iters=60", "seed=3"]), &temp.path().join("own"));
    // Without it, the text is learned; with it, no more of it than the teacher knows.
    assert!(own[59] < own[0] - 0.5 && steps[59] > own[59] + 0.3, "{} {}", own[59], steps[59]);
}

#[test]
fn a_teacher_that_does_not_fit_is_refused_and_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let teacher = teacher(temp.path(), &[]);
    let refused = |config: Config, why: &str| {
        let out = temp.path().join("refused");
        let job = Job::start(config, &out).unwrap();
        let error = train::run(job, Cpu::new().unwrap(), &Options::default(), |_| ()).unwrap_err().to_string();
        assert!(error.starts_with("teacher = ") && error.contains(why), "{error}");
        assert!(!out.exists());
    };
    refused(taught(&temp.path().join("nobody"), &[]), "must be a run: ");
    refused(taught(&teacher, &["block_size=49"]), "a block_size of at least 49; it has 48");
    refused(taught(&teacher, &["tokenizer=byte"]), "it has other tokens");
    let capped = Config::default().with(&["teacher=x", "logit_softcap=3"]).unwrap_err().to_string();
    assert_eq!(capped, "logit_softcap = 3: must be 0 with a teacher");
    // Its logits are not sent to other ranks.
    let out = temp.path().join("ranks");
    let job = Job::start(taught(&teacher, &[]), &out).unwrap();
    let mut both = threads(2);
    let _other = both.pop();
    let team = Team::new(both.remove(0));
    let error = train::run(job, Cpu::new().unwrap(), &Options::default().team(&team), |_| ()).unwrap_err();
    assert!(error.to_string().contains("only one process can have a teacher"), "{error}");
}

#[test]
fn a_run_goes_on_with_the_teacher_that_it_began_with() {
    let temp = tempfile::tempdir().unwrap();
    let first = teacher(temp.path(), &[]);
    let out = temp.path().join("student");
    train(Job::start(taught(&first, &[]), &out).unwrap(), 2, Some(6));
    // Elsewhere it is the same teacher; another is refused.
    let moved = temp.path().join("moved");
    std::fs::rename(&first, &moved).unwrap();
    let resume = |teacher: &Path| {
        let job = Job::resume(&out, &[format!("teacher={}", teacher.display())])?;
        train::run(job, Cpu::new().unwrap(), &Options::default(), |_| ())
    };
    let second = teacher(temp.path(), &["seed=8"]);
    let named = || RunDir::open(&out).unwrap().config.teacher;
    let error = resume(&second).unwrap_err().to_string();
    assert!(error.contains("the run that this one began with"), "{error}");
    assert_eq!(named(), first.display().to_string());
    resume(&moved).unwrap();
    assert_eq!(named(), moved.display().to_string());
    let whole = temp.path().join("whole");
    let whole = train(Job::start(taught(&moved, &[]), &whole).unwrap(), 1, None);
    same_bits(&newest(&out), &whole);
}

//! Runs that an earlier build wrote: nobody loses one to an update. See tests/fixtures/runs/README.md.

use crate::common::{
    cli::Cli,
    runs::{copy, newest, same_bits},
};
use kinglet::{Model, report::compare::compare, run::RunDir};
use std::path::Path;

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/runs").join(name)
}

#[test]
fn a_run_of_an_earlier_build_is_resumed_to_the_same_bits() {
    let cli = Cli::new();
    let out = cli.path("begun");
    copy(&fixture("begun"), &out);
    // Its bits are those of the portable kernels, which are the same everywhere.
    let mut train = cli.command(&["train", "--resume", "--out", "begun", "--set", "max_iters=20"]);
    let done = train.env("KINGLET_ISA", "scalar").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    same_bits(&newest(&out), &newest(&fixture("resumed")));
    let (mut ours, mut theirs) = (RunDir::open(&out).unwrap(), RunDir::open(&fixture("resumed")).unwrap());
    let found = compare(&mut ours, &mut theirs).unwrap();
    assert!(found.is_same() && found.checkpoints.contains(&20), "{found:?}");
}

#[test]
fn a_run_of_an_earlier_build_writes() {
    let model = Model::open(fixture("resumed")).unwrap();
    assert_eq!((model.params(), model.state().step), (2817, 20));
    assert!(!model.generate("The ").max_tokens(5).text().unwrap().is_empty());
}

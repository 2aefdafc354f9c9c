//! Training with weights in few bits: the run is the model that it says, and keeps all that training promises.

use crate::{
    common::{
        cli::{Cli, SMALL},
        runs::{newest, train},
    },
    training::{config, one_trajectory},
};
use kinglet::{
    Model,
    backend::Cpu,
    config::Quantization,
    inference::Part,
    params::Layout,
    quant::Weights,
    quantize::{Options, Source},
    run::{RunDir, Which},
    train::{
        self, Event, Job, Memory,
        finetune::{self, Finetune},
    },
};
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

#[test]
fn one_trajectory_with_weights_in_four_bits() {
    one_trajectory(config(&[
        "quantization=w4",
        "dropout=0.1",
        "gradient_accumulation_steps=2",
        "freeze=[\"*.h.0.*\"]",
    ]));
}

#[test]
fn one_trajectory_with_all_weights_in_eight_bits_and_muon() {
    let settings =
        ["quantization=w8", "quantize_head=true", "quantize_embeddings=true", "tie_weights=true", "optimizer=muon"];
    one_trajectory(config(&settings));
}

/// A finished run with these settings; its last event.
fn run(out: &Path, settings: &[&str]) -> Event {
    let job = Job::start(config(settings), out).unwrap();
    train::run(job, Cpu::new().unwrap(), &train::Options::default().threads(2), |_| ()).unwrap()
}

fn exact_loss(run: &Path) -> f64 {
    let model = Model::load(Cpu::new().unwrap(), run, Which::Last).unwrap();
    model.eval(model.dataset(None, Part::Val).unwrap(), Part::Val, 2, |_, _| ()).unwrap().exact.loss
}

/// The loss that a run tells is that of the model that it leaves, which integers compute. What `quantize` makes of it is the
/// same model, bit for bit.
#[test]
fn the_run_the_model_and_the_file_of_integers_are_one() {
    let temp = tempfile::tempdir().unwrap();
    for (name, settings, scheme) in [
        ("w4", &["quantization=w4", "quantize_head=true", "max_iters=60"][..], Quantization::W4),
        ("w8", &["quantization=w8", "max_iters=60"], Quantization::W8),
    ] {
        let out = temp.path().join(name);
        let Event::Done { val_loss_exact, .. } = run(&out, settings) else { panic!() };
        let loss = exact_loss(&out);
        assert!((loss - val_loss_exact).abs() < 2e-4, "{name}: {loss} and {val_loss_exact}");

        let source = Source::open(&out, Which::Last).unwrap();
        assert!(source.notes.iter().any(|note| note.contains("without calibration")), "{:?}", source.notes);
        let options = Options { scheme, ..Options::default() };
        let data = source.data(None).unwrap();
        let rounded = source.round(&options, Some(&data), |_, _| ControlFlow::Continue(())).unwrap().unwrap();
        let layout = Layout::new(&source.config).unwrap();
        let model = RunDir::open(&out).unwrap().load_model(&layout, None, Which::Last).unwrap().1;
        assert!(!model.rounded.is_empty() && rounded == model);
        let smaller = temp.path().join(format!("{name}-smaller"));
        source.save(&source.rounded_config(&options).unwrap(), &rounded, &smaller).unwrap();
        assert_eq!(exact_loss(&smaller).to_bits(), loss.to_bits());

        // It would be another model.
        let other = if scheme == Quantization::W4 { Quantization::W8 } else { Quantization::W4 };
        let refused = |options: Options| source.rounded_config(&options).unwrap_err().to_string();
        assert!(refused(Options { scheme: other, ..options }).contains(&format!("use --scheme {name}")));
        assert!(refused(Options { embeddings: true, ..options }).contains("its embeddings in full precision"));
        assert!(refused(Options { feedback: true, ..options }).contains("--calibrate"));
        let error = Source::open(&smaller, Which::Last).unwrap_err().to_string();
        assert!(error.contains("its weights are in few bits already"), "{error}");
        let error = finetune::merged(&out, Which::Last, &temp.path().join("merged")).unwrap_err().to_string();
        assert!(error.contains("no adapters to merge"), "{error}");
    }
}

/// Training with rounded weights is worth it: the same updates without, rounded afterwards, are worse.
#[test]
fn weights_learn_to_be_rounded() {
    let temp = tempfile::tempdir().unwrap();
    let (plain, aware) = (temp.path().join("plain"), temp.path().join("aware"));
    let settings =
        ["max_iters=300", "n_layer=1", "n_embd=32", "learning_rate=3e-3", "lr_schedule=cosine", "eval_interval=100"];
    run(&plain, &settings);
    run(&aware, &[&settings[..], &["quantization=w4", "quantize_head=true", "quantize_embeddings=true"]].concat());
    let source = Source::open(&plain, Which::Last).unwrap();
    let options = Options { scheme: Quantization::W4, head: true, embeddings: true, ..Options::default() };
    // By the rule of training: only what the weights have learned differs.
    let config = source.rounded_config(&options).unwrap();
    let layout = Layout::new(&config).unwrap();
    let rounded = Weights::rounded(&config, &layout, source.weights.clone()).unwrap();
    source.save(&config, &rounded, &temp.path().join("rounded")).unwrap();
    let (plain, aware, after) = (exact_loss(&plain), exact_loss(&aware), exact_loss(&temp.path().join("rounded")));
    assert!(aware < after, "f32 {plain}, trained for it {aware}, rounded afterwards {after}");
}

struct Base {
    cli: Cli,
    run: PathBuf,
}

impl Base {
    fn new() -> Base {
        let cli = Cli::trained();
        Base { run: cli.path("run"), cli }
    }

    fn prepare(&self, from: &str, settings: &[&str]) -> Finetune {
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        finetune::prepare(&self.cli.path(from), Which::Last, &[], &settings).unwrap()
    }
}

#[test]
fn fine_tuning_rounds_what_it_is_told_to() {
    let base = Base::new();
    let weights = |name: &str| newest(&base.cli.path(name)).weights;
    let old = RunDir::open(&base.run).unwrap().config;

    // On the text of the run, with learning rates and a length of their own.
    let prepared = base.prepare("run", &["quantization=w4"]);
    let Finetune { config, data, .. } = &prepared;
    assert_eq!((config.max_iters, config.learning_rate), (finetune::QAT_MAX_ITERS, old.learning_rate / 4.0));
    assert_eq!((&config.data, &config.data_sha256), (&old.data, &old.data_sha256));
    assert!(data.notes.iter().any(|note| note.contains("a quarter of the old run's")), "{:?}", data.notes);
    let short = ["max_iters=10", "eval_interval=5", "eval_iters=1", "shards=2"];
    let w4 = [&["quantization=w4", "quantize_head=true"], &short[..]].concat();
    train(base.prepare("run", &w4).start(&base.cli.path("aware")).unwrap(), 2, None);

    // It goes on from what was rounded, and rounds the same.
    let again = base.prepare("aware", &["quantization=w4"]);
    assert!(again.config.quantize_head && again.base.weights == weights("aware"));
    assert!(again.base.config.quantization.is_none(), "the base has plain weights");

    // Otherwise it begins with the numbers of the model, and says so. Adapters belong to these.
    let layout = Layout::new(&again.config).unwrap();
    let numbers = RunDir::open(&base.cli.path("aware")).unwrap().load_numbers(&layout, None, Which::Last).unwrap().1;
    assert!(numbers != weights("aware"));
    for settings in [&[][..], &["lora_rank=2"]] {
        let plain = base.prepare("aware", settings);
        assert!(plain.config.quantization.is_none() && !plain.config.quantize_head && plain.base.weights == numbers);
        assert!(plain.data.notes.iter().any(|note| note.contains("--qat w4")), "{:?}", plain.data.notes);
        assert_eq!(plain.config.max_iters, finetune::MAX_ITERS);
    }
    assert!(base.prepare("aware", &["quantization=w8"]).base.weights == numbers);

    // So it does from integers.
    let source = Source::open(&base.cli.path("aware"), Which::Last).unwrap();
    let options = Options { scheme: Quantization::W4, ..Options::default() };
    let rounded = source.round(&options, None, |_, _| ControlFlow::Continue(())).unwrap().unwrap();
    source.save(&source.rounded_config(&options).unwrap(), &rounded, &base.cli.path("integers")).unwrap();
    assert!(base.prepare("integers", &[]).base.weights == numbers);

    // What is loaded of both are these numbers, which nobody rounds again.
    for name in ["aware", "integers"] {
        let (run, _, config, loaded) = finetune::load(&base.cli.path(name), Which::Last).unwrap();
        assert!(loaded == numbers && config.quantization.is_none() && !config.quantize_head, "{name}");
        let model = Model::from_weights(Cpu::new().unwrap(), config, run.tokenizer.clone(), &loaded).unwrap();
        assert!((model.config().quantization, run.config.quantization) == (Quantization::None, Quantization::W4));
    }
    assert!(base.prepare("integers", &["quantization=w4"]).base.weights == numbers);
}

#[test]
fn the_command_line_trains_with_rounded_weights_and_says_so() {
    let cli = Cli::trained();
    let short = ["--set", "max_iters=4", "--set", "eval_interval=2", "--set", "eval_iters=1"];
    let out = cli.ok(&[&["finetune", "run@last", "--qat", "w4"], &short[..]].concat());
    assert!(out.contains("rounded to 4 bits in each pass") && out.contains("run-w4"), "{out}");
    let config = RunDir::open(&cli.path("run-w4")).unwrap().config;
    assert_eq!(config.quantization, Quantization::W4);
    let start = &RunDir::open(&cli.path("run-w4")).unwrap().metrics().unwrap();
    assert!(start.iter().any(|event| event["event"] == "estimate"));
    cli.ok(&[&["train", "--out", "new", "--set", "quantization=w8"], SMALL].concat());
    let plan = cli.ok(&["plan", "--preset", "big-0.2m", "--set", "quantization=w8", "--seconds", "0.1", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let parts = &plan["memory_parts_mib"];
    assert_eq!(parts["rounded_mib"], parts["weights_mib"]);
    let info = cli.ok(&["info", "new"]);
    assert!(info.contains("rounded weights") && !cli.ok(&["info", "run"]).contains("rounded weights"), "{info}");
    let memory = |settings: &[&str]| Memory::of(&config.clone().with(settings).unwrap()).unwrap();
    let (with, without) = (memory(&[]), memory(&["quantization=none"]));
    assert_eq!((with.rounded, with.total() - without.total()), (with.weights, with.weights));
}

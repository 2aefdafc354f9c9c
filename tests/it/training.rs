//! Training as a whole: it learns, it stops and resumes to the same bits, its bits do not depend on the threads, and
//! generation with a cache is the same function as the forward pass.

use crate::common::{
    needs,
    runs::{newest, same_bits, train},
};
use kinglet::{
    Model,
    backend::{Backward, Buf, Cpu, Forward, Op, Pass, Reference, Rows, Timed},
    batch::Batch,
    config::{Config, OnDivergence, Precision},
    data::{Dataset, Survey},
    error::{Cause, Divergence, Error},
    inference::Part,
    model::Gpt,
    optim::Optimizer,
    report::{baselines, compare::compare},
    run::{RunDir, Which},
    sample::{Sampling, Stream},
    shards::Shards,
    text::{source::Corpus, tokenizer::CharTokenizer},
    threads::with_threads,
    train::{
        self, Event, Job, Options,
        eval::{Evaluator, Exact},
    },
};
use kinglet_kernels::Isa;
use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
};

pub(crate) fn config(settings: &[&str]) -> Config {
    let preset = Config::preset("big-0.2m").unwrap().with(&["data=[\"builtin\"]"]).unwrap();
    let short = ["max_iters=12", "eval_interval=5", "eval_iters=2", "n_layer=2", "shards=3"];
    preset.with(&short).unwrap().with(settings).unwrap()
}

/// Trains `config` on 1, 2, 3 and 8 threads and with two interruptions: all must end with the same bits.
pub(crate) fn one_trajectory(config: Config) {
    let temp = tempfile::tempdir().unwrap();
    let start = |name: &str| Job::start(config.clone(), temp.path().join(name)).unwrap();
    let whole = train(start("whole"), 1, None);
    assert_eq!(whole.state.step, config.max_iters);
    for threads in [2, 3, 8] {
        same_bits(&train(start(&format!("threads{threads}")), threads, None), &whole);
    }
    // Stopped twice, once on the step of an estimate, once between two.
    let job = start("stopped");
    let (out, estimate) = (job.run.path().to_owned(), config.eval_interval);
    train(job, 2, Some(estimate));
    train(Job::resume(&out, &[]).unwrap(), 1, Some(estimate + 1));
    same_bits(&train(Job::resume(&out, &[]).unwrap(), 2, None), &whole);
    let events = |name: &str| {
        let events = RunDir::open(&temp.path().join(name)).unwrap().metrics().unwrap();
        let line =
            |event: &serde_json::Value| (event["event"].clone(), event["step"].clone(), event["val_loss"].clone());
        events.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(events("stopped"), events("whole"));
    let error = Job::resume(&out, &[]).unwrap_err().to_string();
    assert!(error.contains("this run is complete"), "{error}");
    let run = |name: &str| RunDir::open(&temp.path().join(name)).unwrap();
    let comparison = compare(&mut run("stopped"), &mut run("threads8")).unwrap();
    assert!(comparison.is_same() && comparison.checkpoints.contains(&config.max_iters), "{comparison:?}");
}

#[test]
fn one_trajectory_of_the_small_published_model_with_dropout() {
    let mut config = Config::preset("big-0.2m").unwrap();
    let settings = ["dropout=0.1", "max_iters=12", "eval_interval=5", "eval_iters=2", "shards=3", "data=[\"builtin\"]"];
    settings.iter().for_each(|setting| config.set(setting).unwrap());
    one_trajectory(config);
}

#[test]
fn one_trajectory_of_the_large_published_model_with_dropout() {
    let mut config = Config::preset("big-2.7m").unwrap();
    assert!(config.dropout > 0.0);
    let settings = ["max_iters=4", "eval_interval=2", "eval_iters=1", "train_split=0.99", "data=[\"builtin\"]"];
    settings.iter().for_each(|setting| config.set(setting).unwrap());
    one_trajectory(config);
}

#[test]
fn one_trajectory_with_gradient_accumulation() {
    let settings = ["gradient_accumulation_steps=2", "grad_clip=1", "lr_schedule=cosine", "dropout=0.1"];
    one_trajectory(config(&settings));
}

#[test]
fn one_trajectory_of_muon_with_groups_of_parameters() {
    let groups = "param_groups=[{params=[\"lm_head.*\"],lr_schedule=\"cosine\",beta2=0.9},{params=[\"*.0.mlp.*\"],optimizer=\"adamw\"}]";
    let mut config = config(&["optimizer=muon", "lr_schedule=wsd", "cooldown=0.5", "weight_decay=0.1", "grad_clip=1"]);
    config.set(groups).unwrap();
    one_trajectory(config);
}

#[test]
fn one_trajectory_with_rotary_positions_shared_keys_and_their_norm() {
    one_trajectory(config(&["position=rotary", "n_kv_head=2", "qk_norm=true", "dropout=0.1"]));
    one_trajectory(config(&["position=rotary", "n_kv_head=2", "qkv_conv=3", "res_conv=2"]));
    one_trajectory(config(&["head_size=12", "norm_eps=1e-6", "optimizer=muon", "dropout=0.1"]));
}

/// Whether this processor multiplies bf16, which the tests of it then do; elsewhere it would be f32 by another name.
fn has_bf16() -> bool {
    let be = Cpu::new().unwrap().with_precision(Precision::Bf16);
    eprintln!("tested in {:?}: {} is what this processor has", be.precision(), be.isa().name());
    be.precision() == Precision::Bf16
}

#[test]
fn one_trajectory_in_bf16() {
    if !has_bf16() {
        return eprintln!("skipped: this processor has no bf16");
    }
    one_trajectory(config(&["precision=bf16", "dropout=0.1"]));
    one_trajectory(config(&["precision=bf16", "optimizer=muon", "activation=swiglu", "norm=rmsnorm"]));
}

#[test]
fn a_hundred_steps_in_bf16_are_those_in_f32_to_its_precision() {
    if !has_bf16() {
        return eprintln!("skipped: this processor has no bf16");
    }
    let temp = tempfile::tempdir().unwrap();
    let losses = |precision: &str| {
        let config = config(&["max_iters=100", "eval_interval=25", &format!("precision={precision}")]);
        let job = Job::start(config, temp.path().join(precision)).unwrap();
        let mut losses = Vec::new();
        train::run(job, Cpu::new().unwrap(), &Options::default(), |event| match event {
            Event::Start { precision: asked, .. } => assert_eq!(format!("{asked:?}").to_lowercase(), precision),
            Event::Step { step, loss, .. } => losses.push(("step", *step, *loss)),
            Event::Estimate { step, val_loss, .. } => losses.push(("estimate", *step, *val_loss)),
            Event::Done { step, val_loss_exact, .. } => losses.push(("exact", *step, *val_loss_exact)),
            _ => {}
        })
        .unwrap();
        losses
    };
    let (rounded, whole) = (losses("bf16"), losses("f32"));
    assert_eq!((rounded.len(), whole.len()), (100 + 5 + 1, 100 + 5 + 1));
    let apart = rounded.iter().zip(&whole).map(|(a, b)| {
        assert_eq!((a.0, a.1), (b.0, b.1));
        (a.2 - b.2).abs()
    });
    let most = apart.fold(0.0, f64::max);
    eprintln!("losses differ by {most:.5} at most");
    assert!(most < 0.02 && rounded != whole, "{most}");
}

/// The whole way on the reference: trained, stopped, gone on with, measured and sampled from, as on the processor.
#[test]
fn the_reference_trains_as_the_processor_does() {
    /// What was told, and how it ended.
    fn told<B: Backward>(job: Job, be: B, stop_at: Option<u64>) -> (Vec<(&'static str, u64, f64)>, Event) {
        let (stop, mut told) = (AtomicBool::new(false), Vec::new());
        let last = train::run(job, be, &Options::default().threads(2).stop(&stop), |event| match event {
            Event::Step { step, loss, grad_norm, .. } => {
                told.extend([("step", *step, *loss), ("gradient", *step, *grad_norm)]);
                stop.store(Some(*step) == stop_at, Ordering::Relaxed);
            }
            Event::Estimate { step, train_loss, val_loss, .. } => {
                told.extend([("train", *step, *train_loss), ("val", *step, *val_loss)]);
            }
            Event::Done { step, val_loss_exact, .. } => told.push(("exact", *step, *val_loss_exact)),
            _ => {}
        });
        (told, last.unwrap())
    }
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text.txt");
    std::fs::write(&text, "in winter the kinglet weighs no more than a coin. ".repeat(40)).unwrap();
    let tiny = ["n_layer=1", "n_embd=16", "n_head=2", "block_size=8", "batch_size=4", "shards=2", "dropout=0.1"];
    let short = ["max_iters=14", "eval_interval=5", "eval_iters=2", "learning_rate=1e-2", "grad_clip=1"];
    let mut config = Config::default().with(&tiny).unwrap().with(&short).unwrap();
    config.data = vec![text.display().to_string()];
    let out = temp.path().join("reference");
    let (mut slow, stopped) = told(Job::start(config.clone(), &out).unwrap(), Reference, Some(7));
    assert!(matches!(stopped, Event::Interrupted { step: 7, .. }), "{stopped:?}");
    let (rest, done) = told(Job::resume(&out, &[]).unwrap(), Reference, None);
    slow.extend(rest);
    let Event::Done { val_loss_exact, .. } = done else { panic!("{done:?}") };
    let (fast, _) = told(Job::start(config, temp.path().join("processor")).unwrap(), Cpu::new().unwrap(), None);
    assert_eq!(slow.len(), 2 * 14 + 2 * 4 + 1, "{slow:?}");
    assert_eq!(slow.len(), fast.len());
    for (slow, fast) in slow.iter().zip(&fast) {
        assert_eq!((slow.0, slow.1), (fast.0, fast.1));
        assert!((slow.2 - fast.2).abs() < 1e-4, "{slow:?} {fast:?}");
    }
    let [first, .., last] = &slow[..] else { panic!() };
    assert!(last.2 < first.2 - 0.5, "it learns: {first:?} {last:?}");

    let model = Model::<Reference>::load(Reference, &out, Which::Last).unwrap();
    assert_eq!(model.state().step, 14);
    let exact = model.eval(model.dataset(None, Part::Val).unwrap(), Part::Val, 2, |_, _| ()).unwrap().exact;
    // The weights were rounded when they were saved.
    assert!((exact.loss - val_loss_exact).abs() < 1e-6, "{} {val_loss_exact}", exact.loss);
    let processor = Model::load(Cpu::new().unwrap(), &out, Which::Last).unwrap();
    let mut texts = [model.generate("the ").max_tokens(30).temperature(0.0).text().unwrap(), String::new()];
    texts[1] = processor.generate("the ").max_tokens(30).temperature(0.0).text().unwrap();
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[0].len(), 30);
}

/// What the guard did, after which update.
type Act = (u64, OnDivergence, Divergence);

/// Runs a job to its end or its error, or until `stop_at` updates are done; what the guard did on the way.
fn guarded(job: Job, stop_at: Option<u64>) -> (Result<Event, Error>, Vec<Act>) {
    let (stop, path, mut acts) = (AtomicBool::new(false), job.run.path().to_owned(), Vec::new());
    let options = Options::default().threads(2).stop(&stop);
    let ended = train::run(job, Cpu::new().unwrap(), &options, |event| match event {
        Event::Step { step, .. } => stop.store(Some(*step) == stop_at, Ordering::Relaxed),
        Event::Diverged { step, action, divergence, .. } => acts.push((*step, *action, divergence.clone())),
        _ => {}
    });
    // What was told is in the metrics too.
    let events = RunDir::open(&path).unwrap().metrics().unwrap();
    let written = events.iter().filter(|event| event["event"] == "diverged");
    assert!(written.clone().count() >= acts.len(), "{events:?}");
    for event in written {
        assert!(event["tensor"].is_string() && event["lr"].is_number() && event["at_step"].is_number(), "{event}");
    }
    (ended, acts)
}

#[test]
fn a_learning_rate_that_no_model_survives_is_stopped_or_returned_from() {
    let temp = tempfile::tempdir().unwrap();
    let start = |name: &str, settings: &[&str]| {
        // Weights that grow a hundredfold each step, until they overflow.
        let mut config = config(&["max_iters=30", "eval_interval=10", "learning_rate=10", "weight_decay=10"]);
        settings.iter().for_each(|setting| config.set(setting).unwrap());
        Job::start(config, temp.path().join(name)).unwrap()
    };
    let (ended, acts) = guarded(start("stop", &[]), None);
    let [(step, OnDivergence::Stop, divergence)] = &acts[..] else { panic!("{acts:?}") };
    assert!(matches!(divergence.cause, Cause::Loss | Cause::Gradient) && divergence.at_step == step + 1, "{acts:?}");
    let message = ended.unwrap_err().to_string();
    for part in ["training diverged: at step", "gradient norm", "transformer.", "learning rate 1.00e1", "grad_clip = 1"]
    {
        assert!(message.contains(part), "{message}");
    }
    let mut run = RunDir::open(&temp.path().join("stop")).unwrap();
    assert!(run.state().unwrap().step <= *step, "the last checkpoint stays");

    // Weights that are no numbers do not become any: it gives up.
    let (ended, acts) = guarded(start("skip", &["on_divergence=skip"]), None);
    assert!(matches!(ended, Err(Error::Diverged(_))) && acts.len() == 11, "{acts:?}");
    assert!(acts[..10].iter().all(|act| act.1 == OnDivergence::Skip) && acts[10].1 == OnDivergence::Stop);

    // A hundredth of the learning rate is one to live with; a tenth is not.
    let (ended, acts) = guarded(start("rollback", &["on_divergence=rollback", "rollback_lr=0.1"]), None);
    let Ok(Event::Done { step: 30, train_loss, .. }) = ended else { panic!("{ended:?}") };
    assert!(train_loss < 5.0, "{train_loss}, {acts:?}");
    let [(0, OnDivergence::Rollback, first), (0, OnDivergence::Rollback, second), ..] = &acts[..] else {
        panic!("{acts:?}")
    };
    assert_eq!((first.lr, second.lr), (10.0, 1.0));
}

#[test]
fn a_bad_stretch_of_text_is_skipped_and_the_trajectory_stays_one() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text.txt");
    let good = "in winter the kinglet weighs no more than a coin. ".repeat(400);
    let bad: String = (0..600u32).map(|i| char::from(b'a' + (i * i % 89 * i % 26) as u8)).collect();
    std::fs::write(&text, [good.as_str(), &bad, &good].concat()).unwrap();
    let mut config = config(&["max_iters=400", "eval_interval=100", "batch_size=2", "shards=2", "learning_rate=4e-3"]);
    config.data = vec![text.display().to_string()];
    config.set("on_divergence=skip").unwrap();
    config.set("spike_zscore=8").unwrap();
    let start = |name: &str| Job::start(config.clone(), temp.path().join(name)).unwrap();
    let (ended, acts) = guarded(start("whole"), None);
    ended.unwrap();
    assert!(!acts.is_empty() && acts.iter().all(|act| act.1 == OnDivergence::Skip), "{acts:?}");
    assert!(acts.iter().all(|act| act.2.cause == Cause::Spike && act.2.loss > 3.0), "{acts:?}");
    // Interrupted right after the first one.
    let (_, before) = guarded(start("stopped"), Some(acts[0].0 + 1));
    let (ended, after) = guarded(Job::resume(temp.path().join("stopped"), &[]).unwrap(), None);
    ended.unwrap();
    assert_eq!([before, after].concat(), acts);
    let (stopped, whole) = (newest(&temp.path().join("stopped")), newest(&temp.path().join("whole")));
    same_bits(&stopped, &whole);
    // A skipped update is none.
    let made = 400 - acts.len() as u64;
    assert_eq!((stopped.state.updates, whole.state.updates), (Some(made), Some(made)));
}

#[test]
fn a_return_to_a_checkpoint_does_not_depend_on_interruptions() {
    returns_to_a_checkpoint("quantization=none");
}

#[test]
fn nor_does_one_with_rounded_weights() {
    returns_to_a_checkpoint("quantization=w4");
}

fn returns_to_a_checkpoint(quantization: &str) {
    let temp = tempfile::tempdir().unwrap();
    let run = |name: &str, stop_at: Option<u64>| {
        let out = temp.path().join(name);
        let calm = config(&["max_iters=60", "eval_interval=20", "n_layer=1", quantization]);
        train(Job::start(calm, &out).unwrap(), 2, None);
        // Then somebody tries more.
        let more =
            ["max_iters=100", "learning_rate=10", "on_divergence=rollback", "rollback_lr=0.01", "spike_zscore=6"];
        let mut job = Job::resume(&out, &more.map(str::to_owned)).unwrap();
        let mut acts = Vec::new();
        if stop_at.is_some() {
            acts = guarded(job, stop_at).1;
            job = Job::resume(&out, &[]).unwrap();
        }
        let (ended, rest) = guarded(job, None);
        ended.unwrap();
        acts.extend(rest);
        (newest(&out), acts)
    };
    let (whole, acts) = run("whole", None);
    assert!(!acts.is_empty() && acts.iter().all(|act| act.1 == OnDivergence::Rollback && act.0 == 60), "{acts:?}");
    // Between the mistake and its discovery, and after the return.
    for stop_at in [61, 75] {
        let (stopped, again) = run(&format!("stopped-{stop_at}"), Some(stop_at));
        assert_eq!(again, acts);
        same_bits(&stopped, &whole);
    }
}

#[test]
fn a_run_ends_when_the_validation_loss_rises() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text.txt");
    // Two halves of one alphabet that have nothing else in common: what is learned from one is wrong in the other.
    std::fs::write(&text, ["abcd".repeat(100), "dcba".repeat(100)].concat()).unwrap();
    let mut config = config(&["max_iters=400", "eval_interval=5", "block_size=8", "patience=3", "train_split=0.5"]);
    config.data = vec![text.display().to_string()];
    let out = temp.path().join("run");
    let job = Job::start(config, &out).unwrap();
    let mut early = None;
    let done = train::run(job, Cpu::new().unwrap(), &Options::default().threads(1), |event| {
        if let Event::EarlyStop { .. } = event {
            early = Some(event.clone());
        }
    });
    let (Event::Done { step, .. }, Some(Event::EarlyStop { best_step, .. })) = (done.unwrap(), early) else { panic!() };
    assert_eq!(step, best_step + 3 * 5);
    let mut run = RunDir::open(&out).unwrap();
    let layout = Gpt::new(&run.config).unwrap().layout;
    // The untrained model of step 0 is no best one to use.
    let used = if best_step == 0 { step } else { best_step };
    assert_eq!(run.load_weights(&layout, None, Which::Best).unwrap().0.step, used);
    let error = Job::resume(&out, &[]).unwrap_err().to_string();
    assert!(error.contains("this run stopped early, after 3 estimates without a lower loss"), "{error}");
    let job = Job::resume(&out, &["patience=5".to_owned()]).unwrap();
    assert!(train(job, 1, None).state.step >= best_step + 5 * 5);
}

#[test]
fn an_estimate_is_left_when_the_run_is_asked_to_stop() {
    let temp = tempfile::tempdir().unwrap();
    let job = Job::start(config(&["eval_iters=1000000"]), temp.path().join("run")).unwrap();
    let stop = AtomicBool::new(false);
    let last = train::run(job, Cpu::new().unwrap(), &Options::default().threads(1).stop(&stop), |event| {
        stop.store(matches!(event, Event::Measuring { .. }), Ordering::Relaxed);
    });
    assert!(matches!(last.unwrap(), Event::Interrupted { step: 0, .. }));
}

#[test]
fn a_run_killed_before_its_first_checkpoint_starts_over() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let whole = train(Job::start(config(&[]), temp.path().join("whole")).unwrap(), 2, None);
    drop(Job::start(config(&[]), &out).unwrap());
    let error = Model::open(&out).unwrap_err().to_string();
    assert!(error.contains("no checkpoint yet"), "{error}");
    same_bits(&train(Job::resume(&out, &[]).unwrap(), 2, None), &whole);
}

#[test]
fn resuming_refuses_what_would_be_another_run() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text.txt");
    std::fs::write(&text, "the quick brown fox. ".repeat(100)).unwrap();
    let mut config = config(&["max_iters=2", "block_size=8"]);
    config.data = vec![text.display().to_string()];
    let out = temp.path().join("run");
    train(Job::start(config, &out).unwrap(), 1, None);
    let refuse = |settings: &[&str], message: &str| {
        let settings: Vec<_> = settings.iter().map(|&s| s.to_owned()).collect();
        let error = Job::resume(&out, &settings).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    refuse(&["n_embd=128"], "n_embd = 128: must be 64, as at the start of the run");
    refuse(&["seed=2"], "seed = 2: must be 1337");
    refuse(&["optimizer=muon"], "optimizer = \"muon\": must be \"adamw\"");
    refuse(&["max_iters=2"], "this run is complete: 2 of 2 steps");
    std::fs::write(&text, "the quick brown cat. ".repeat(100)).unwrap();
    refuse(&["max_iters=4"], "is not the text that this run was started with");
    std::fs::write(&text, "the quick brown fox. ".repeat(100)).unwrap();
    let job = Job::resume(&out, &["max_iters=4".to_owned()]).unwrap();
    assert_eq!(train(job, 1, None).state.step, 4);
}

#[test]
fn one_batch_can_be_learned_by_heart() {
    let text = "In winter the kinglet weighs no more than a coin. ".repeat(40);
    let tokenizer = CharTokenizer::train(&text);
    let mut config = Config::preset("big-0.2m").unwrap();
    config.vocab_size = tokenizer.vocab_size();
    let ids = tokenizer.encode(&text).unwrap();
    let mut batch = Batch::default();
    (0..4).for_each(|i| _ = batch.add(&ids[i * 32..=(i + 1) * 32]));
    let be = Cpu::new().unwrap();
    let model = Gpt::new(&config).unwrap();
    let mut shards = Shards::new(&be, &model, 4, 2, true);
    let mut p = model.layout.init(1).into();
    let mut optimizer = Optimizer::new(&be, &model.layout, &config).unwrap();
    let mut losses = Vec::new();
    for step in 0..150 {
        let (loss, norm) = shards.gradient(&be, &model, &p, &batch, 1, step);
        optimizer.step(&be, &mut p, shards.last_gradient(), norm, 1.0, step);
        losses.push(loss);
    }
    assert!(losses[0] > 2.0 && losses[149] < 0.05, "{} to {}", losses[0], losses[149]);
}

#[test]
fn accumulated_small_batches_are_one_large_batch() {
    let be = Cpu::new().unwrap();
    let mut config = config(&[]);
    config.vocab_size = 11;
    let model = Gpt::new(&config).unwrap();
    let p = model.layout.init(2).into();
    let ids: Vec<u32> = (0..2000u32).map(|i| (i * i + i / 7) % 11).collect();
    let mut batch = Batch::default();
    (0..12).for_each(|i| _ = batch.add(&ids[i * 50..][..33]));
    let gradient = |batch_size, shards| {
        let mut shards = Shards::new(&be, &model, batch_size, shards, true);
        let (loss, _) = shards.gradient(&be, &model, &p, &batch, 1, 0);
        (loss, Buf::from(shards.last_gradient().to_vec()))
    };
    let (loss, grads) = gradient(12, 1);
    for (batch_size, shards) in [(12, 5), (4, 1), (6, 6), (1, 1)] {
        let (other_loss, other) = gradient(batch_size, shards);
        assert!((loss - other_loss).abs() < 1e-6);
        let distance = grads.iter().zip(other.iter()).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
        let norm = grads.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        assert!(distance < 1e-5 * norm, "batches of {batch_size} in {shards}: {distance} of {norm}");
    }
}

#[test]
fn generation_with_a_cache_computes_what_the_forward_pass_does() {
    let be = Cpu::new().unwrap();
    let mut config = config(&["bias=true", "activation=gelu"]);
    config.vocab_size = 13;
    let model = Gpt::new(&config).unwrap();
    let p = model.layout.init(3).into();
    let ids: Vec<u32> = (0..32u32).map(|i| (i * i * 5 + i) % 13).collect();
    let mut acts = model.acts(&be, 1, false);
    model.forward(&be, pass(&p, 32), &mut acts, &ids);
    let want = acts.logits().to_vec();
    // Token by token, and in uneven pieces.
    for pieces in [vec![1; 32], vec![5, 1, 20, 6], vec![32]] {
        let (mut cache, mut at) = (model.cache(&be), 0);
        for piece in pieces {
            let mut logits = vec![0.0; 13];
            model.extend(&be, &p, &mut cache, &ids[at..at + piece], &mut logits);
            at += piece;
            for (got, want) in logits.iter().zip(&want[(at - 1) * 13..]) {
                assert!((got - want).abs() < 1e-5, "after {at} tokens: {got}, want {want}");
            }
        }
    }
}

/// A pass over one sequence.
fn pass<Buf>(p: &Buf, t: usize) -> Pass<'_, Buf> {
    Pass { p, rows: Rows::new(1, t), dropout: None }
}

/// A model with rotary positions, shared keys and their norm, and its weights.
fn rotary(layers: usize, block: usize) -> (Gpt, Vec<f32>) {
    let mut config = config(&["position=rotary", "n_kv_head=2", "qk_norm=true", "bias=true"]);
    (config.vocab_size, config.n_layer, config.block_size) = (13, layers, block);
    let model = Gpt::new(&config).unwrap();
    let p = model.layout.init(3);
    (model, p)
}

fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * i * 5 + i + i / 7) % 13).collect()
}

/// The logits after `ids`, each of which a cache was extended by.
fn after<B: Forward>(be: &B, model: &Gpt, p: &[f32], ids: &[u32]) -> Vec<f32> {
    let (mut weights, mut cache, mut logits) = (be.zeros(p.len()), model.cache(be), vec![0.0; 13]);
    be.upload(&mut weights, 0, p);
    ids.iter().for_each(|&id| model.extend(be, &weights, &mut cache, &[id], &mut logits));
    assert_eq!(cache.len(), ids.len());
    logits
}

#[track_caller]
fn close(got: &[f32], want: &[f32]) {
    assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 2e-5), "{got:?}, want {want:?}");
}

#[test]
fn with_rotary_positions_a_cache_computes_what_the_forward_pass_does_and_slides() {
    let be = Cpu::new().unwrap();
    let forward = |model: &Gpt, p: &[f32], ids: &[u32]| {
        let mut acts = model.acts(&be, 1, false);
        model.forward(&be, pass(&p.to_vec().into(), ids.len()), &mut acts, ids);
        acts.logits()[(ids.len() - 1) * 13..][..13].to_vec()
    };
    let ids = tokens(3000);
    let (model, p) = rotary(3, 24);
    for n in [1, 2, 13, 24] {
        close(&after(&be, &model, &p, &ids[..n]), &forward(&model, &p, &ids[..n]));
    }
    // In pieces, which may go over the edge.
    let want = after(&be, &model, &p, &ids[..60]);
    let (weights, mut cache, mut logits) = (p.clone().into(), model.cache(&be), vec![0.0; 13]);
    let mut at = 0;
    for piece in [5, 15, 20, 1, 3, 16] {
        model.extend(&be, &weights, &mut cache, &ids[at..at + piece], &mut logits);
        at += piece;
    }
    close(&logits, &want);
    // With one layer only distances matter: the same as the window computed anew, however far it has slid.
    let (model, p) = rotary(1, 24);
    for n in [25, 40, 48, 49, 200, 3000] {
        close(&after(&be, &model, &p, &ids[..n]), &forward(&model, &p, &ids[n - 24..n]));
    }
    // With more, what has left the window is seen through the layers below.
    let (model, p) = rotary(2, 24);
    let slid = after(&Reference, &model, &p, &ids[..100]);
    for isa in Isa::available() {
        close(&after(&Cpu::with_isa(isa), &model, &p, &ids[..100]), &slid);
    }
    let apart = slid.iter().zip(forward(&model, &p, &ids[76..100])).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart > 1e-3, "{apart}");
}

#[test]
fn past_the_block_each_token_costs_one_position_where_positions_are_rotary() {
    let mut greedy = Sampling::default();
    greedy.temperature = 0.0;
    let be = Timed::new(Cpu::new().unwrap());
    let (model, p) = rotary(2, 24);
    let (p, ids) = (Buf::from(p), tokens(100));
    let stream = |ids: &[u32]| Stream::new(&be, &model, ids, greedy.clone(), 0).unwrap();
    // Of a longer prompt the last block counts.
    let (mut long, mut cropped) = (stream(&ids), stream(&ids[76..]));
    let attn = model.layout.h[0].c_attn;
    for positions in [24, 1, 1, 1] {
        be.take();
        let token = long.draw(&be, &model, &p).unwrap();
        let cost = be.take()[&Op { name: "linear", shape: Some((attn.i, attn.o)) }];
        assert_eq!(cost.flops, (positions * 2 * model.layout.h.len() * attn.w.len) as f64);
        assert_eq!(token, cropped.draw(&be, &model, &p).unwrap());
    }
    // Learned positions shift: the window is computed anew.
    let mut config = config(&["block_size=16"]);
    config.vocab_size = 13;
    let model = Gpt::new(&config).unwrap();
    let (be, p) = (Cpu::new().unwrap(), Buf::from(model.layout.init(3)));
    let mut ids = ids[..10].to_vec();
    let mut stream = Stream::new(&be, &model, &ids, greedy.clone(), 0).unwrap();
    for _ in 0..20 {
        let (mut cache, mut logits) = (model.cache(&be), vec![0.0; 13]);
        model.extend(&be, &p, &mut cache, &ids[ids.len().saturating_sub(16)..], &mut logits);
        let best = (0..13).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        ids.push(best as u32);
        assert_eq!(stream.draw(&be, &model, &p).unwrap().id, best as u32);
    }
}

/// Trains on the built-in corpus for real, and knows how far a correct program must get.
#[test]
fn training_approaches_the_entropy_floor_and_stays_above_it() {
    let temp = tempfile::tempdir().unwrap();
    let mut config = Config::preset("big-0.2m").unwrap();
    config.data = vec!["builtin".into()];
    let settings = ["max_iters=1200", "eval_interval=600", "eval_iters=20", "learning_rate=4e-3"];
    settings.iter().for_each(|setting| config.set(setting).unwrap());
    let job = Job::start(config, temp.path().join("run")).unwrap();
    let floor = job.data.floor.unwrap();
    let mut losses = Vec::new();
    train::run(job, Cpu::new().unwrap(), &Options::default(), |event| match event {
        Event::Estimate { val_loss, .. } => losses.push(*val_loss),
        Event::Done { val_loss_exact, .. } => losses.push(*val_loss_exact),
        _ => {}
    })
    .unwrap();
    let [start, middle, end, exact] = losses[..] else { panic!("{losses:?}") };
    assert!(start > 4.0 && middle < 1.6 && end < middle, "{losses:?}");
    assert!((floor..floor + 0.6).contains(&exact), "{exact}, floor {floor}");
    assert!((end - exact).abs() < 0.05, "the estimate {end} is of the same loss as the exact {exact}");

    let model = Model::open(temp.path().join("run")).unwrap();
    let data = model.dataset(None, Part::Val).unwrap();
    let baseline = baselines::best(&data, model.tokenizer().vocab_size()).unwrap().unwrap();
    let evaluated = model.eval(data, Part::Val, 1, |_, _| ()).unwrap();
    assert_eq!((evaluated.exact.loss, evaluated.floor), (exact, Some(floor)));
    assert!(baseline.name == "5-gram" && (floor..1.0).contains(&baseline.nats_per_token), "{baseline:?}");
    check_model(&model);
}

fn check_model(model: &Model) {
    let write = |prompt: &str, stop: &str, index| {
        model.generate(prompt).max_tokens(100).seed(5).temperature(0.8).stop(stop).index(index).text()
    };
    let text = write("The ", "", 0).unwrap();
    assert_eq!(text.chars().count(), 100);
    assert_eq!(write("The ", "", 0).unwrap(), text, "the same seed writes the same text");
    assert_ne!(write("The ", "", 1).unwrap(), text);
    let stop: String = text.chars().skip(50).take(3).collect();
    let stopped = write("The ", &stop, 0).unwrap();
    assert!(text.starts_with(&stopped) && !stopped.contains(&stop) && stopped.len() <= 50);
    assert!(write("Ünseen", "", 0).unwrap_err().to_string().contains("'Ü' (U+00DC), try \"U\""));
}

#[test]
fn the_exact_loss_is_the_mean_over_every_position() {
    let be = Cpu::new().unwrap();
    let mut config = config(&["block_size=8", "batch_size=4"]);
    let text: String = (0..1234u32).map(|i| char::from(b'a' + (i * i % 17) as u8)).collect();
    let corpus = Corpus::from_text(&text);
    let survey = Survey::of(&corpus, &config).unwrap();
    let tokenizer = survey.char_tokenizer();
    config.vocab_size = tokenizer.vocab_size();
    let data = Dataset::new(&corpus, &survey, &tokenizer, &config).unwrap();
    let model = Gpt::new(&config).unwrap();
    let p = model.layout.init(4).into();
    let mut total = 0.0;
    let mut acts = model.acts(&be, 1, false);
    let mut batch = Batch::default();
    for i in 0..data.val.windows() {
        data.val.window(i, &mut batch).unwrap();
        let (ids, targets) = batch.sequence(i);
        let t = ids.len();
        let mut losses = vec![0.0; t];
        model.forward(&be, pass(&p, t), &mut acts, ids);
        model.losses(&be, &mut acts, targets);
        be.download(acts.losses(), 0, &mut losses);
        total += losses.iter().map(|&x| f64::from(x)).sum::<f64>();
    }
    let want = total / (data.val.tokens() - 1) as f64;
    for (shards, threads) in [(1, 1), (3, 2)] {
        let mut workers = Shards::new(&be, &model, 4, shards, false);
        let mut calls = 0;
        let progress = |_, _| {
            calls += 1;
            ControlFlow::Continue(())
        };
        let measure = || Evaluator { be: &be, model: &model, shards: &mut workers, p: &p }.exact(&data.val, progress);
        let exact: Exact = with_threads(threads, measure).unwrap().unwrap().unwrap();
        assert!((exact.loss - want).abs() < 1e-9 && calls > 0, "{} {want}", exact.loss);
        assert_eq!(exact.tokens as usize, data.val.tokens() - 1);
    }
}

#[test]
fn published_presets_learn_tiny_shakespeare() {
    if needs::data_folder().is_none() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    for (preset, params, settings) in [
        ("big-0.2m", 209_729, ["max_iters=1000", "eval_interval=500", "eval_iters=40"]),
        ("big-2.7m", 2_697_281, ["max_iters=100", "eval_interval=50", "eval_iters=5"]),
    ] {
        let mut config = Config::preset(preset).unwrap();
        config.data = vec!["tinyshakespeare".into()];
        settings.iter().for_each(|setting| config.set(setting).unwrap());
        let job = Job::start(config, temp.path().join(preset)).unwrap();
        assert_eq!(Gpt::new(&job.run.config).unwrap().layout.len(), params);
        let mut estimates = Vec::new();
        train::run(job, Cpu::new().unwrap(), &Options::default(), |event| {
            if let Event::Estimate { train_loss, .. } = event {
                estimates.push(*train_loss);
            }
        })
        .unwrap();
        assert!((4.1..4.7).contains(&estimates[0]), "{preset}: {estimates:?}");
        let end = estimates[2];
        let expected = if params < 1_000_000 { 2.0..2.2 } else { 2.3..2.75 };
        assert!(expected.contains(&end), "{preset}: {estimates:?}");
    }
}

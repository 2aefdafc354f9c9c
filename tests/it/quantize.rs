//! Weights in few bits: what `kinglet quantize` writes, and that its report card says what other commands measure.

use crate::common::cli::{Cli, SMALL};
use kinglet::{
    Model,
    backend::Cpu,
    config::{Config, Precision, Quantization},
    data::{Dataset, Split},
    inference::Part,
    model::Gpt,
    quant::{Rounded, Weights},
    quantize::{
        Options, Source,
        report::{Measured, Report, Stage},
    },
    rng::{Purpose, Rng},
    run::{RunDir, Which},
    text::tokenizer::Tokenizer,
};
use serde_json::Value;
use std::{fs, ops::ControlFlow, path::Path};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// What is in a folder, hidden files too.
fn inside(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A model of random weights over bytes, in full precision and rounded.
fn pair(settings: &[&str], scheme: Quantization) -> (Model, Model, Weights) {
    let small = ["tokenizer=byte", "vocab_size=257", "block_size=24", "n_layer=2", "n_head=2", "n_embd=32"];
    let config = Config::default().with(&[&small[..], settings].concat()).unwrap();
    let layout = Gpt::new(&config).unwrap().layout;
    let mut rng = Rng::new(7, Purpose::Init, 0, 0);
    let numbers: Vec<f32> = (0..layout.len()).map(|_| 0.2 * rng.normal() as f32).collect();
    let before = Model::from_weights(Cpu::new().unwrap(), config.clone(), Tokenizer::byte(), &numbers).unwrap();
    let mut config = config;
    config.quantization = scheme;
    let weights = Weights::rounded(&config, &layout, numbers).unwrap();
    let after = Model::of(Cpu::new().unwrap(), config, Tokenizer::byte(), weights.clone()).unwrap();
    (before, after, weights)
}

fn split() -> Split {
    let mut rng = Rng::new(8, Purpose::Batch, 0, 0);
    Split::new((0..400).map(|_| rng.below(257) as u32).collect(), 24)
}

fn measure(models: [&Model; 2], weights: &Weights, split: Option<&Split>) -> Report {
    let go_on = |_: Stage, _: usize, _: usize| ControlFlow::Continue(());
    Report::measure(models, weights, split, &Measured { threads: 2, ..Measured::default() }, go_on).unwrap().unwrap()
}

#[test]
fn the_card_says_what_eval_measures_and_what_files_take() {
    let cli = Cli::trained();
    for (scheme, of_codes) in [("w8", 16), ("w4", 8)] {
        let made = json(&cli.ok(&["quantize", "run@last", "--scheme", scheme, "-o", scheme, "--json"]));
        let [before, after] = ["run@last", scheme].map(|run| json(&cli.ok(&["eval", run, "--json"])));
        let (report, text) = (&made["report"], &made["report"]["text"]);
        for (of, eval) in [("before", &before), ("after", &after)] {
            for key in ["loss", "loss_stderr", "bits_per_char", "perplexity"] {
                assert_eq!(text[of][key], eval[key], "{scheme}, {of}: {key}");
            }
        }
        assert_eq!((&text["tokens"], &text["sequences"]), (&before["predicted_tokens"], &text["of_sequences"]));
        let loss = |about: &Value| about["loss"].as_f64().unwrap();
        let difference = &text["difference"];
        assert!((loss(difference) - (loss(&after) - loss(&before))).abs() < 1e-12);
        // It is the same text, so it is known far better than each of them.
        let error = difference["loss_stderr"].as_f64().unwrap();
        assert!(error > 0.0 && error < 0.2 * before["loss_stderr"].as_f64().unwrap(), "{difference}");
        assert!(text["kl_max"].as_f64() > text["kl_mean"].as_f64() && text["kl_mean"].as_f64() > Some(0.0));
        let positions = text["by_position"].as_array().unwrap();
        let sum = |key: &str| -> f64 {
            positions.iter().map(|at| at[key].as_f64().unwrap() * at["tokens"].as_f64().unwrap()).sum()
        };
        assert!((sum("after") / after["predicted_tokens"].as_f64().unwrap() - loss(&after)).abs() < 1e-9);
        let file = |run: &str| {
            let path = cli.path(run).join("checkpoints/step-000020/model.safetensors");
            fs::metadata(path).unwrap().len()
        };
        assert_eq!(report["before"]["file_bytes"], file("run"));
        assert_eq!(report["after"]["file_bytes"], file(scheme));
        // The block's four layers have 12 c^2 weights for c = 16, of which each row has 16 or 64.
        let saved =
            report["before"]["weights_mib"].as_f64().unwrap() - report["after"]["weights_mib"].as_f64().unwrap();
        let scales = if scheme == "w8" { 4 * (48 + 16 + 64 + 16) } else { 2 * (48 + 16 + 64 + 2 * 16) };
        let want = 4 * 12 * 16 * 16 - (12 * 16 * of_codes + scales);
        assert_eq!(saved * f64::from(1 << 20), f64::from(want));
        let verdict = made["verdict"].as_str().unwrap();
        let page = fs::read_to_string(cli.path(scheme).join("quantization.md")).unwrap();
        assert!(page.contains(verdict) && page.contains("| h.0.mlp.c_fc |"), "{page}");
        assert!(fs::read_to_string(cli.path(scheme).join("quantization.svg")).unwrap().contains("<svg"));
        // It is a run as any other, and goes as a whole.
        assert_eq!(json(&cli.ok(&["list", scheme, "--json"]))["step"], 20);
        cli.ok(&["prune", scheme]);
        cli.ok(&["tag", scheme, "small"]);
        cli.ok(&["sample", scheme, "-n", "5"]);
        assert_eq!(inside(&cli.path(scheme)).iter().filter(|name| name.starts_with("quantization.")).count(), 2);
        cli.ok(&["rm", "-y", scheme]);
        assert!(!cli.path(scheme).exists());
    }
    let said = cli.ok(&["quantize", "run", "--scheme", "w8", "-o", "plain", "--no-report"]);
    assert!(said.ends_with("in w8: plain\n"), "{said}");
    assert!(!inside(&cli.path("plain")).iter().any(|name| name.starts_with("quantization.")));
}

#[test]
fn the_published_sizes_are_counted_as_they_were() {
    // A tokenizer of letters; the models know as many as those of Tiny Shakespeare, which are more.
    let cli = Cli::trained();
    let tokenizer = Model::open(cli.path("run")).unwrap().tokenizer().clone();
    for (preset, before, after) in [("big-0.2m", 0.86, 0.31), ("big-2.7m", 10.43, 2.88)] {
        let mut config = Config::preset(preset).unwrap();
        config.vocab_size = 65;
        let layout = Gpt::new(&config).unwrap().layout;
        let numbers: Vec<f32> = (0..layout.len()).map(|i| (i % 97) as f32 / 970.0).collect();
        let whole = Model::from_weights(Cpu::new().unwrap(), config.clone(), tokenizer.clone(), &numbers).unwrap();
        config.quantization = Quantization::W8;
        let weights = Weights::rounded(&config, &layout, numbers).unwrap();
        let small = Model::of(Cpu::new().unwrap(), config, tokenizer.clone(), weights.clone()).unwrap();
        let report = measure([&whole, &small], &weights, None);
        let found = [report.before.published_mib, report.after.published_mib].map(|mib| (100.0 * mib).round() / 100.0);
        assert_eq!(found, [before, after], "{preset}");
        assert!(report.after.memory_mib < report.before.memory_mib / 3.0);
        assert!(report.text.is_none() && report.layers.is_none() && report.picture().is_none());
        assert!(report.verdict().contains("times smaller") && report.page("it").contains("tokens/s"));
    }
}

#[test]
fn a_model_beside_itself_differs_in_nothing() {
    let (before, _, _) = pair(&[], Quantization::W8);
    let report = measure([&before, &before], &Weights::default(), Some(&split()));
    let text = report.text.unwrap();
    assert_eq!((text.kl_mean, text.kl_max, text.same_top), (0.0, 0.0, 1.0));
    assert_eq!((text.difference.loss, text.difference.stderr), (0.0, Some(0.0)));
    let layers = report.layers.unwrap();
    assert!(layers.worst.is_none() && layers.layers.len() == 9);
    let errors = layers.layers.iter().flat_map(|layer| [layer.input_error, layer.output_error, layer.own_error]);
    assert!(errors.into_iter().all(|error| error == Some(0.0)));
}

#[test]
fn the_layer_that_hurts_most_is_the_one_that_was_damaged() {
    for settings in [&[][..], &["tie_weights=true"], &["position=rotary", "activation=swiglu", "norm=rmsnorm"]] {
        let (before, after, mut weights) = pair(settings, Quantization::W8);
        let layout = Gpt::new(after.config()).unwrap().layout;
        let start = layout.h[1].c_fc.w.span.start;
        let (_, matrix) = weights.rounded.iter_mut().find(|(at, _)| *at == start).unwrap();
        let scales = matrix.scales().iter().map(|scale| 1.5 * scale).collect();
        *matrix = Rounded::from_parts(Quantization::W8, matrix.shape().1, matrix.codes().to_vec(), scales).unwrap();
        let config = after.config().clone();
        let after = Model::of(Cpu::new().unwrap(), config, Tokenizer::byte(), weights.clone()).unwrap();
        let report = measure([&before, &after], &weights, Some(&split()));
        let layers = report.layers.unwrap();
        assert_eq!(layers.worst.as_deref(), Some("h.1.mlp.c_fc"), "{settings:?}: {layers:?}");
        let of = |name: &str| layers.layers.iter().find(|layer| layer.name == name).unwrap();
        let damaged = of("h.1.mlp.c_fc");
        assert!((damaged.own_error.unwrap() - 0.5).abs() < 0.05, "{damaged:?}");
        assert!(damaged.input_error.unwrap() < 0.1 && of("h.1.mlp.c_proj").input_error.unwrap() > 0.2);
        assert_eq!(of("h.0.attn.c_attn").input_error, Some(0.0));
        assert!(of("h.0.attn.c_attn").own_error.is_some_and(|error| error > 0.0 && error < 0.05));
        // If it is the only one, all of the cost is its own.
        let alone = Weights {
            numbers: weights.clone().into_numbers(),
            rounded: weights.rounded.iter().filter(|(at, _)| *at == start).cloned().collect(),
        };
        let report = measure([&before, &after], &alone, Some(&split()));
        let rounded = report.layers.unwrap().layers.into_iter().filter(|layer| layer.rounded).count();
        assert_eq!(rounded, 1);
    }
}

#[test]
fn what_cannot_be_done_is_refused_and_leaves_nothing() {
    let cli = Cli::trained();
    let adapters = [&["finetune", "run", "logbook", "--lora", "2", "--out", "adapters"], &SMALL[..6]].concat();
    cli.ok(&adapters);
    cli.ok(&["quantize", "run", "--scheme", "w8", "-o", "small", "--no-report"]);
    fs::create_dir(cli.path("full")).unwrap();
    fs::write(cli.path("full/mine"), "mine").unwrap();
    let there = inside(cli.temp.path());
    let to = |run: &'static str, more: &[&'static str]| {
        [&["quantize", run, "-o", "new", "--scheme", "w4"][..], more].concat()
    };
    cli.fails(
        &to("small", &[]),
        1,
        "small: its weights are in few bits already (w8): name the run that it was made of",
    );
    cli.fails(&to("missing", &[]), 1, "there is no such run");
    cli.fails(&to("run", &["missing.txt"]), 1, "there is no file missing.txt");
    cli.fails(&["quantize", "run", "--scheme", "w8", "-o", "full"], 1, "full: this folder is not empty");
    cli.fails(&["quantize", "run", "--scheme", "w8", "-o", "run"], 1, "this folder already contains a run");
    assert_eq!(inside(cli.temp.path()), there);
    let output = cli.run(&["quantize", "adapters", "--scheme", "w8", "-o", "merged", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && said.contains("note: the run's adapters are merged into its weights first"),
        "{said}"
    );
    assert!(json(&String::from_utf8_lossy(&output.stdout))["report"]["before"]["file_bytes"].is_null());
    // What was trained on is gone.
    fs::write(cli.path("gone.txt"), "Once upon a time there was a kinglet. ".repeat(100)).unwrap();
    cli.ok(&[&["train", "gone.txt", "--out", "alone"], SMALL].concat());
    fs::remove_file(cli.path("gone.txt")).unwrap();
    for (scheme, so) in
        [("w8", "losses and layers are not measured;"), ("w4", "scales are chosen for the weights alone;")]
    {
        let output = cli.run(&["quantize", "alone", "--scheme", scheme, "-o", scheme, "--json"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains(so), "{said}");
        let made = json(&String::from_utf8_lossy(&output.stdout));
        assert!(made["report"]["text"].is_null() && made["report"]["speed"][0]["after"].as_f64() > Some(0.0), "{made}");
        assert!(made["notes"][0].as_str().unwrap().contains(so));
        assert!(!cli.path(scheme).join("quantization.svg").exists());
        assert!(cli.path(scheme).join("quantization.md").exists());
    }
    let calibrated = ["quantize", "alone", "--scheme", "w8", "--calibrate", "-o", "new"];
    cli.fails(&calibrated, 1, "there is no file");
    assert!(!cli.path("new").exists());
}

#[test]
fn a_run_that_learned_in_few_bits_is_stored_in_them_and_stays_the_same() {
    let cli = Cli::new();
    cli.ok(&[&["train", "--out", "run", "--set", "quantization=w4"], SMALL].concat());
    cli.fails(
        &["quantize", "run", "--scheme", "w8", "-o", "new"],
        2,
        "its weights were trained to be rounded to w4: use --scheme w4",
    );
    cli.fails(
        &["quantize", "run", "--scheme", "w4", "--head", "-o", "new"],
        2,
        "it was trained with its head in full precision and its embeddings in full precision",
    );
    cli.fails(&["quantize", "run", "--scheme", "w4", "--calibrate", "-o", "new"], 2, "which --calibrate would change");
    let made = json(&cli.ok(&["quantize", "run@last", "--scheme", "w4", "-o", "small", "--json"]));
    let [learned, stored] = ["run@last", "small"].map(|run| json(&cli.ok(&["eval", run, "--json"]))["loss"].clone());
    assert_eq!((&learned, &made["report"]["text"]["after"]["loss"]), (&stored, &stored));
    assert_ne!(made["report"]["text"]["before"]["loss"], stored);
    let text = [1, 2].map(|_| cli.ok(&["sample", "small", "-n", "40"]));
    assert_eq!(text, [1, 2].map(|_| cli.ok(&["sample", "run@last", "-n", "40"])));
}

#[test]
fn the_text_that_is_measured_is_the_one_that_is_named() {
    let cli = Cli::trained();
    fs::write(cli.path("other.txt"), "Once upon a time there was a kinglet. ".repeat(200)).unwrap();
    let quantize = |scheme: &str| {
        let made = cli.ok(&["quantize", "run", "other.txt", "--scheme", scheme, "-o", scheme, "--json"]);
        json(&made)["report"]["text"]["after"]["loss"].clone()
    };
    let eval =
        |run: &str, split: &str| json(&cli.ok(&["eval", run, "other.txt", "--split", split, "--json"]))["loss"].clone();
    assert_eq!(quantize("w8"), eval("w8", "all"));
    // Scales are chosen on the rest of it.
    assert_eq!(quantize("w4"), eval("w4", "val"));
}

/// A text that is so short, or so much of which is measured, that nothing is left to round by.
#[test]
fn without_text_to_round_by_weights_are_rounded_alone_and_a_note_says_so() {
    let cli = Cli::new();
    cli.ok(&[&["train", "--out", "run", "--set", "train_split=0.05"], SMALL].concat());
    fs::write(cli.path("short.txt"), "What is it that you do not know?").unwrap();
    let args = ["quantize", "run", "short.txt", "--scheme", "w4", "--no-report", "-o"];
    let output = cli.run(&[&args[..], &["new"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let note = "the training part of the text has fewer than 2 tokens: scales are chosen for the weights alone";
    assert!(output.status.success() && said.contains(note), "{said}");
    cli.fails(&[&args[..], &["other", "--calibrate"]].concat(), 1, "--calibrate needs more text: the training part");
    assert!(!cli.path("other").exists());

    let source = Source::open(&cli.path("run"), Which::Best).unwrap();
    let short = source.data(Some(&[cli.path("short.txt").display().to_string()])).unwrap();
    assert!(short.train.windows() == 0 && short.val.windows() > 0);
    let round = |options: &Options, data: Option<&Dataset>| {
        source.round(options, data, |_, _| ControlFlow::Continue(())).map(Option::unwrap)
    };
    let w4 = Options { scheme: Quantization::W4, ..Options::default() };
    let alone = round(&w4, None).unwrap();
    assert!(round(&w4, Some(&short)).unwrap() == alone && source.note_text(&w4, &short).is_some());
    let own = source.data(None).unwrap();
    assert!(round(&w4, Some(&own)).unwrap() != alone && source.note_text(&w4, &own).is_none());
    assert!(source.note_text(&Options::default(), &short).is_none());
    assert!(round(&Options { feedback: true, ..w4 }, Some(&short)).is_err());
}

#[test]
fn a_precision_that_does_not_apply_is_left_out_with_a_note() {
    let cli = Cli::new();
    cli.ok(&[&["train", "--out", "run", "--set", "precision=bf16"], SMALL].concat());
    let output = cli.run(&["quantize", "run", "--scheme", "w8", "--no-report", "-o", "new"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("--set precision=bf16"), "{said}");
    let config = |run: &str| RunDir::open(&cli.path(run)).unwrap().config;
    assert_eq!([config("run").precision, config("new").precision], [Precision::Bf16, Precision::F32]);
}

#[test]
fn measuring_stops_when_it_is_told_to() {
    let (before, after, weights) = pair(&[], Quantization::W4);
    for (last, most) in [(Stage::Text, 1), (Stage::Layers, 1), (Stage::Layers, 3), (Stage::Speed, 0)] {
        let stop = |stage: Stage, done: usize, _: usize| match stage == last && done >= most {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let found = Report::measure([&before, &after], &weights, Some(&split()), &Measured::default(), stop);
        assert!(found.unwrap().is_none(), "{last:?} {most}");
    }
}

#[cfg(unix)]
#[test]
fn an_interruption_leaves_nothing() {
    use std::{
        process::{Command, Stdio},
        thread::sleep,
        time::Duration,
    };
    let cli = Cli::trained();
    fs::write(cli.path("long.txt"), "Once upon a time there was a kinglet. ".repeat(400_000)).unwrap();
    let there = inside(cli.temp.path());
    let args = ["quantize", "run", "long.txt", "--full", "--scheme", "w8", "-o", "new"];
    let mut child = cli.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    sleep(Duration::from_millis(1500));
    assert!(child.try_wait().unwrap().is_none(), "it is at work");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(inside(cli.temp.path()), there);
    // And it can be done after that.
    let model = Model::open(cli.path("run")).unwrap();
    assert!(model.dataset(None, Part::Val).is_ok());
    cli.ok(&["quantize", "run", "--scheme", "w8", "-o", "new", "--no-report"]);
}

#[test]
fn a_model_whose_text_is_not_known_is_measured_on_none() {
    let cli = Cli::trained();
    cli.ok(&["export", "run", "--out", "files"]);
    cli.ok(&["import", "files", "--out", "imported"]);
    let output = cli.run(&["quantize", "imported", "--scheme", "w4", "-o", "small", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let note =
        "the text that this model was trained on is not known: losses and layers are not measured, and scales are";
    assert!(output.status.success() && said.contains(note), "{said}");
    assert!(json(&String::from_utf8_lossy(&output.stdout))["report"]["text"].is_null());
    assert!(!cli.path("small/metrics.jsonl").exists());
    let calibrate = ["quantize", "imported", "--scheme", "w4", "--calibrate", "-o", "new"];
    cli.fails(&calibrate, 1, "the text that this model was trained on is not known: name a text behind the run");
    // A text that is named is measured, and is not taken for its own.
    cli.ok(&["quantize", "imported", "builtin", "--scheme", "w8", "-o", "named"]);
    assert!(!cli.path("named/metrics.jsonl").exists());
    // The run's own text is.
    cli.ok(&["quantize", "run", "--scheme", "w8", "-o", "own"]);
    assert!(std::fs::read_to_string(cli.path("own/metrics.jsonl")).unwrap().contains("\"val_loss_exact\""));
}

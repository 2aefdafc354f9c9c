//! Runs with weights in few bits: they leave with their own integers, say how large they are, and come in again only undamaged.

use crate::common::cli::Cli;
use kinglet::{
    Model,
    config::{Config, Quantization},
    formats::{Dtype, ExportOptions, Exported, ImportOptions, Portable, Source, Target, export as write, gguf, import},
    params::Layout,
    quant::{Rounded, Weights},
    run::{RunDir, Which},
    text::tokenizer::{CharTokenizer, Tokenizer},
};
use safetensors::{
    SafeTensors,
    tensor::{TensorView, serialize},
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fs, path::Path};

const SCHEMES: [Quantization; 2] = [Quantization::W8, Quantization::W4];

/// A new model in few bits, of a shape that llama.cpp has.
fn model(scheme: Quantization, settings: &[&str]) -> Portable {
    let small = ["block_size=8", "n_embd=64", "n_layer=2", "n_head=2", "vocab_size=11", "position=rotary"];
    let llama = ["norm=rmsnorm", "activation=swiglu", "bias=false", "n_inner=96"];
    let rounded = format!("quantization={}", scheme.name());
    let config = Config::default().with(&[&small, &llama[..], &[&rounded], settings].concat()).unwrap();
    let weights = Layout::new(&config).unwrap().init(3);
    let tokenizer = Tokenizer::from(CharTokenizer::train("abcdefghij")).extended([], true);
    Portable::new(config, weights, tokenizer).unwrap()
}

fn exported(model: &Portable, target: Target, out: &Path, options: &ExportOptions) -> Exported {
    let source = Source {
        model: model.clone(),
        adapters: None,
        step: 7,
        val_loss: None,
        name: "small".to_owned(),
        warnings: Vec::new(),
        notes: Vec::new(),
    };
    write(source, target, out, options).unwrap_or_else(|error| panic!("{error}"))
}

/// A tensor of a model with so many hidden units, as it is in one that has 96 of them, the others zero.
fn of_96_hidden_units(name: &str, numbers: &[f32], n_inner: usize) -> Vec<f32> {
    // Gate and up are one matrix, each with a row for each unit; the projection has a column for each.
    let (part, zeros) = match name {
        _ if name.ends_with("mlp.c_fc.weight") => (n_inner * 64, (96 - n_inner) * 64),
        _ if name.ends_with("mlp.c_proj.weight") => (n_inner, 96 - n_inner),
        _ => (numbers.len(), 0),
    };
    numbers.chunks(part).flat_map(|part| part.iter().copied().chain(vec![0.0; zeros])).collect()
}

/// Where nothing is rewritten but that hidden units of zeros are added, four bits are the same numbers there, and eight bits
/// the same but for their scales' f16. Queries and keys have their rows in another order there.
#[test]
fn a_gguf_has_the_integers_of_the_run() {
    let temp = tempfile::tempdir().unwrap();
    for (scheme, n_inner, name) in [
        (Quantization::W4, 96, "small-q4_0.gguf"),
        (Quantization::W4, 90, "small-q4_0.gguf"),
        (Quantization::W8, 96, "small-q8_0.gguf"),
        (Quantization::W8, 90, "small-q8_0.gguf"),
    ] {
        let model = model(scheme, &[&format!("n_inner={n_inner}")]);
        let out = temp.path().join(format!("{}-{n_inner}", scheme.name()));
        let made = exported(&model, Target::Gguf, &out, &ExportOptions::default());
        let notes = &made.written.notes;
        assert!(notes.iter().any(|note| note.starts_with("14 matrices have the model's own integers")), "{notes:?}");
        let padded = made.rewrites.iter().any(|rewrite| rewrite.to_string().starts_with("hidden units"));
        assert_eq!(padded, n_inner == 90);
        let back = import(&out.join(name), &ImportOptions::default()).unwrap().portable;
        // Of another integer, a number would be farther away than of another scale; and zeros are zero.
        let most = if scheme == Quantization::W4 { 0.0 } else { 1.0 / 2047.0 };
        for tensor in model.rounded.keys() {
            let ours = of_96_hidden_units(tensor, model.tensor(tensor).unwrap(), n_inner);
            let theirs = back.tensor(tensor).unwrap();
            assert_eq!(ours.len(), theirs.len(), "{tensor}");
            let other = ours.iter().zip(theirs).position(|(a, b)| (a - b).abs() > most * a.abs());
            assert_eq!(other, None, "{scheme:?} {tensor}");
        }
        // What has to do with tokens is as it was.
        assert_eq!(model.tensor("transformer.wte.weight"), back.tensor("transformer.wte.weight"));
        let stored = made.stored_difference.unwrap();
        assert!(if scheme == Quantization::W4 { stored == 0.0 } else { stored < 1e-2 }, "{scheme:?}: {stored}");
        assert!(made.run_difference.unwrap() < 1e-2, "{:?}", made.run_difference);
    }
}

/// What llama.cpp's own rule would have made of the same numbers is another model.
#[test]
fn a_gguf_of_eight_bits_is_nearer_than_one_that_is_rounded_again() {
    let temp = tempfile::tempdir().unwrap();
    let model = model(Quantization::W8, &[]);
    let own = exported(&model, Target::Gguf, &temp.path().join("own"), &ExportOptions::default());
    let mut plain = model.clone();
    plain.rounded.clear();
    plain.config.quantization = Quantization::None;
    let mut options = ExportOptions::default();
    options.dtype = Some(Dtype::Q8_0);
    let again = exported(&plain, Target::Gguf, &temp.path().join("again"), &options);
    let (own, again) = (own.stored_difference.unwrap(), again.stored_difference.unwrap());
    assert!(own < again, "{own} {again}");
}

/// Formats without such integers get the numbers that they stand for, and it is said.
#[test]
fn other_formats_get_the_same_numbers_multiplied_out() {
    let temp = tempfile::tempdir().unwrap();
    for scheme in SCHEMES {
        let model = model(scheme, &[]);
        for target in [Target::HuggingFace, Target::Safetensors] {
            let out = temp.path().join(format!("{}-{}", scheme.name(), target.name()));
            let made = exported(&model, target, &out, &ExportOptions::default());
            let said = "8 matrices in few bits are multiplied out: the same numbers in f32";
            assert!(made.written.notes.iter().any(|note| note == said), "{:?}", made.written.notes);
            let back = import(&out, &ImportOptions::default()).unwrap().portable;
            assert_eq!(back.weights, model.weights, "{}", target.name());
            assert_eq!(back.config.quantization, Quantization::None);
        }
    }
    // Eight bits go as pairs of integers and scales, too.
    let model = model(Quantization::W8, &[]);
    let mut options = ExportOptions::default();
    options.dtype = Some(Dtype::I8);
    let out = temp.path().join("pairs");
    exported(&model, Target::Safetensors, &out, &options);
    let bytes = fs::read(out.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (name, matrix) in &model.rounded {
        let module = name.strip_suffix(".weight").unwrap();
        let codes = file.tensor(&format!("{module}.int8_weights")).unwrap();
        assert!(codes.data().iter().map(|&code| code as i8).eq(matrix.codes().iter().copied()), "{name}");
        let scales = file.tensor(&format!("{module}.scales")).unwrap();
        assert!(scales.data().as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).eq(matrix.scales().iter().copied()));
    }
    assert_eq!(import(&out, &ImportOptions::default()).unwrap().portable.weights, model.weights);
}

/// Whoever makes a model of a configuration in few bits has one in few bits, and every format writes its integers.
#[test]
fn a_model_whose_configuration_has_few_bits_has_them() {
    let temp = tempfile::tempdir().unwrap();
    for scheme in SCHEMES {
        let made = model(scheme, &[]);
        let want = model(Quantization::None, &[]).round(scheme).unwrap();
        assert_eq!(made.rounded.len(), 8);
        assert_eq!((&made.rounded, &made.weights), (&want.rounded, &want.weights));
        let none = Portable::of_weights(want.config.clone(), want.weights.clone().into(), want.tokenizer.clone());
        assert!(none.unwrap_err().to_string().contains("other weights are in few bits"));
        for target in [Target::C, Target::Onnx] {
            let out = temp.path().join(format!("{}-{}", scheme.name(), target.name()));
            let notes = exported(&made, target, &out, &ExportOptions::default()).written.notes;
            assert!(
                notes.iter().any(|note| note.starts_with("8 matrices") && note.contains("own integers")),
                "{notes:?}"
            );
        }
    }
}

/// Where a rewrite changes numbers, matrices are rounded again; where it multiplies them, scales of f16 are. Both are said with
/// a count, of a head that was the embedding's matrix too.
#[test]
fn integers_that_a_rewrite_changes_are_counted() {
    let temp = tempfile::tempdir().unwrap();
    let again = |n| format!("{n} other numbers after rewriting, so they are rounded again");
    for (name, settings, of_w8, of_w4) in [
        // Biases of the MLP go into both of its matrices.
        (
            "folded",
            &["norm=layernorm", "bias=true"][..],
            Some(again("4 matrices have")),
            Some(again("4 matrices have")),
        ),
        // Queries are multiplied by the root of 32 / 64.
        (
            "scaled",
            &["attention_scale=n_embd"],
            None,
            Some("2 matrices are multiplied by a number, with scales rounded to f16".into()),
        ),
        // The embedding gets a row for a token that ends texts, and the head is a copy of it that says when.
        (
            "ended",
            &[
                "norm=layernorm",
                "position=learned",
                "activation=gelu_tanh",
                "bias=true",
                "tie_weights=true",
                "quantize_head=true",
                "quantize_embeddings=true",
            ],
            Some(again("2 matrices have")),
            Some(again("2 matrices have")),
        ),
    ] {
        for (scheme, want) in [(Quantization::W8, of_w8), (Quantization::W4, of_w4)] {
            let out = temp.path().join(format!("{name}-{}", scheme.name()));
            let made = exported(&model(scheme, settings), Target::Gguf, &out, &ExportOptions::default());
            let notes = &made.written.notes;
            let said = notes.iter().find(|note| note.contains("after rewriting") || note.contains("multiplied by"));
            match want {
                Some(want) => {
                    assert!(said.is_some_and(|said| said.starts_with(&want)), "{name}: {notes:?} {:?}", made.rewrites)
                }
                None => assert_eq!(said, None, "{name}"),
            }
        }
    }
}

#[test]
fn a_model_is_rounded_once() {
    let model = model(Quantization::W8, &[]);
    let error = model.round(Quantization::W4).unwrap_err().to_string();
    assert!(error.contains("in few bits already"), "{error}");
}

/// A run, trained for a moment, and the same in few bits.
fn trained() -> Cli {
    let cli = Cli::trained();
    for scheme in SCHEMES {
        let name = scheme.name();
        cli.ok(&["quantize", "run", "--scheme", name, "--out", name]);
    }
    cli
}

#[test]
fn every_command_takes_a_run_in_few_bits() {
    let cli = trained();
    let plain: Value = serde_json::from_str(&cli.ok(&["info", "run", "--json"])).unwrap();
    assert!(plain.get("published_mib").is_none());
    let mut sizes = vec![plain["weights_mib"].as_f64().unwrap()];
    for scheme in SCHEMES.map(Quantization::name) {
        let info: Value = serde_json::from_str(&cli.ok(&["info", scheme, "--json"])).unwrap();
        assert_eq!((&info["config"]["quantization"], &info["params"]), (&scheme.into(), &plain["params"]));
        let (weights, published) = (info["weights_mib"].as_f64().unwrap(), info["published_mib"].as_f64().unwrap());
        sizes.push(weights);
        assert!(published > weights);
        // The tensors in the file, but for its header.
        let file = newest(&cli.path(scheme)).join("model.safetensors");
        let bytes = fs::read(file).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!((weights * 1048576.0).round() as u64, bytes.len() as u64 - header);
        assert!(cli.ok(&["info", scheme]).contains(&format!("4 matrices in few bits ({scheme})")));
        let listed = cli.ok(&["list", scheme, "--json"]);
        let listed: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
        assert_eq!(listed["quantization"], scheme, "{listed}");
        let differ = cli.run(&["compare", "run", scheme, "--bits"]);
        assert!(String::from_utf8_lossy(&differ.stdout).contains("quantization"), "{differ:?}");
        cli.ok(&["sample", scheme, "--tokens", "5"]);
        cli.ok(&["prune", scheme]);
        cli.fails(&["merge", scheme, "--out", "merged"], 1, "its weights are in few bits");
        cli.fails(&["quantize", scheme, "--scheme", "w8", "--out", "again"], 1, "in few bits already");
        cli.fails(&["export", scheme, "--format", "gguf", "--scheme", "w8"], 2, "in few bits already");
        adapters_on(&cli, scheme);
    }
    assert!(sizes[2] < sizes[1] && sizes[1] < sizes[0], "{sizes:?}");
    assert_eq!(cli.ok(&["list", "run", "--json"]).matches("\"quantization\":\"none\"").count(), 1);
}

/// Adapters are on the numbers of the run, which are not rounded there: all commands see the same base and the same model.
fn adapters_on(cli: &Cli, scheme: &str) {
    let (tuned, merged) = (format!("tuned-{scheme}"), format!("merged-{scheme}"));
    let settings = ["--set", "max_iters=20", "--set", "eval_iters=2", "--set", "learning_rate=0.01"];
    cli.ok(&[&["finetune", scheme, "builtin", "--lora", "2", "--out", &tuned], &settings[..]].concat());
    cli.ok(&["merge", &tuned, "--out", &merged]);
    let weights = |run: &str| {
        let mut run = RunDir::open(&cli.path(run)).unwrap();
        let layout = Layout::new(&run.config).unwrap();
        run.load_numbers(&layout, None, Which::Last).unwrap().1
    };
    let base = RunDir::open(&cli.path(&tuned)).unwrap().adapted_weights().unwrap().expect("it has adapters");
    assert!(base == weights(scheme), "{scheme}: the base of the adapters");
    assert!(base != weights(&merged), "{scheme}: adapters learned nothing");
    let loss = |run: &str| {
        let said: Value = serde_json::from_str(&cli.ok(&["eval", run, "builtin", "--json"])).unwrap();
        said["loss"].as_f64().unwrap_or_else(|| panic!("{said}"))
    };
    // Merged weights are rounded to f32; inputs of matrices in few bits are rounded too.
    let (of_base, of_tuned, of_merged) = (loss(scheme), loss(&tuned), loss(&merged));
    assert!((of_tuned - of_merged).abs() < 1e-5, "{scheme}: {of_tuned} {of_merged}");
    assert!((of_tuned - of_base).abs() > 1e-4, "{scheme}: {of_tuned} {of_base}");
    // Without adapters it says what the base does, multiplied out.
    let (file, plain) = (format!("file-{scheme}"), format!("plain-{scheme}"));
    cli.ok(&["export", scheme, "--format", "safetensors", "--out", &file]);
    cli.ok(&["import", &file, "--out", &plain]);
    let draw = |args: &[&str]| cli.ok(&[&["sample"], args, &["--tokens", "50", "--seed", "1"]].concat());
    assert_eq!(draw(&[&tuned, "--adapter", "none"]), draw(&[&plain]), "{scheme}");
}

/// Rounding on the way out is what the command makes without text, and eight bits are that with text too.
#[test]
fn rounding_on_the_way_out_makes_the_integers_of_the_run() {
    let cli = trained();
    cli.ok(&["export", "w8", "--format", "safetensors", "--dtype", "int8", "-o", "of-run"]);
    cli.ok(&["export", "run", "--format", "safetensors", "--scheme", "w8", "-o", "of-plain"]);
    let [a, b] = ["of-run", "of-plain"].map(|name| fs::read(cli.path(name).join("model.safetensors")).unwrap());
    assert!(a == b);
    cli.ok(&["export", "run", "--format", "c", "--quantize", "int8", "-o", "c"]);
    assert!(fs::read_to_string(cli.path("c/model.h")).unwrap().contains("#define KINGLET_INT8 1"));
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn newest(run: &Path) -> std::path::PathBuf {
    let mut folders: Vec<_> =
        fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders.pop().unwrap()
}

/// An earlier version reads what this one writes of a run whose weights have all their bits.
#[test]
fn a_run_that_is_not_rounded_is_written_without_the_new_keys() {
    let cli = Cli::trained();
    for path in [cli.path("run"), newest(&cli.path("run"))] {
        let text = fs::read_to_string(path.join("config.toml")).unwrap();
        assert!(!text.contains("quanti"), "{}", path.display());
    }
}

#[test]
fn settings_that_cannot_be_together_are_refused() {
    for (settings, message) in [
        (&["quantize_head=true"][..], "false if quantization is \"none\""),
        (&["quantize_embeddings=true"], "false if quantization is \"none\""),
        (&["quantization=w4", "lora_rank=2"], "adapters are not rounded"),
        (&["quantization=w8", "tie_weights=true", "quantize_head=true"], "they are the same weights"),
        (&["quantization=w8", "tie_weights=true", "quantize_embeddings=true"], "they are the same weights"),
        (&["quantization=w5"], "\"none\", \"w8\" or \"w4\""),
    ] {
        let checked = Config::default().with(settings).and_then(|config| config.check());
        let error = checked.unwrap_err().to_string();
        assert!(error.contains(message), "{settings:?}: {error}");
    }
    for settings in [
        &["quantization=w4", "quantize_head=true"][..],
        &["quantization=w8", "tie_weights=true", "quantize_head=true", "quantize_embeddings=true"],
    ] {
        let config = Config::default().with(settings).unwrap();
        config.check().unwrap();
        assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
    }
}

/// Types, shapes and bytes of the tensors of a file.
type Tensors = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(bytes: &[u8]) -> Tensors {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let of = |view: TensorView| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    file.tensors().into_iter().map(|(name, view)| (name, of(view))).collect()
}

fn file(tensors: &Tensors) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize(views, None).unwrap()
}

/// A configuration, its tokenizer, and the file of its weights in few bits.
fn stored(scheme: Quantization) -> (Config, Tokenizer, Vec<u8>) {
    let temp = tempfile::tempdir().unwrap();
    let model = model(scheme, &["n_layer=1", "n_inner=33"]);
    let layout = model.layout();
    let weights = Weights::rounded(&model.config, &layout, model.weights.clone()).unwrap();
    let run = RunDir::create(&temp.path().join("run"), model.config.clone(), model.tokenizer.clone(), None).unwrap().0;
    run.save_model(&layout, &kinglet::run::State { step: 1, ..Default::default() }, &weights).unwrap();
    let bytes = fs::read(newest(run.path()).join("model.safetensors")).unwrap();
    (model.config, model.tokenizer, bytes)
}

/// Each is refused by what is wrong with it, by the model's parts and in a run.
#[test]
fn damaged_and_hostile_files_are_refused() {
    use safetensors::Dtype as D;
    const Q: &str = "transformer.h.0.attn.c_proj.weight.q";
    const SCALE: &str = "transformer.h.0.attn.c_proj.weight.scale";
    let f16 = |x: f32| half::f16::from_f32(x).to_le_bytes();
    for scheme in SCHEMES {
        let (config, tokenizer, good) = stored(scheme);
        Model::from_parts(config.clone(), tokenizer.clone(), &good).unwrap();
        let refused = |what: &str, bytes: &[u8], message: &str| {
            let error = Model::from_parts(config.clone(), tokenizer.clone(), bytes).unwrap_err().to_string();
            assert!(error.contains(message), "{scheme:?}, {what}: {error}");
        };
        let changed = |what: &str, change: &dyn Fn(&mut Tensors), message: &str| {
            let mut tensors = tensors(&good);
            change(&mut tensors);
            refused(what, &file(&tensors), message);
        };
        changed("half a pair", &|t| _ = t.remove(SCALE), "it has no tensor transformer.h.0.attn.c_proj.weight.scale");
        changed("the other half", &|t| _ = t.remove(Q), "it has no tensor transformer.h.0.attn.c_proj.weight");
        changed("a type", &|t| t.get_mut(Q).unwrap().0 = D::F8_E4M3, "is not a matrix of I8 or U8");
        let longer = |t: &mut Tensors| {
            let shape = &mut t.get_mut(Q).unwrap().1;
            *shape = vec![shape[0] * 2, shape[1] / 2];
        };
        changed("a shape", &longer, "but the configuration requires");
        changed("one dimension", &|t| t.get_mut(SCALE).unwrap().1.insert(0, 1), "but the configuration requires");
        changed(
            "no rows",
            &|t| *t.get_mut(Q).unwrap() = (t[Q].0, vec![0, 64], Vec::new()),
            "but the configuration requires",
        );
        let numbers = |t: &mut Tensors| {
            let len = 64 * 64;
            t.remove(Q);
            t.insert("transformer.h.0.attn.c_proj.weight".to_owned(), (D::F32, vec![64, 64], vec![0; 4 * len]));
        };
        let both = |t: &mut Tensors| {
            let len = 64 * 64;
            t.insert("transformer.h.0.attn.c_proj.weight".to_owned(), (D::F32, vec![64, 64], vec![0; 4 * len]));
        };
        changed("both", &both, &format!("it has both transformer.h.0.attn.c_proj.weight and {Q}"));
        changed("one of all bits", &numbers, "other weights are in few bits than the configuration says");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let scale = |t: &mut Tensors| match scheme {
                Quantization::W4 => t.get_mut(SCALE).unwrap().2[..2].copy_from_slice(&f16(bad)),
                _ => t.get_mut(SCALE).unwrap().2[..4].copy_from_slice(&bad.to_le_bytes()),
            };
            changed("a scale", &scale, "is no scale");
        }
        if scheme == Quantization::W8 {
            changed("-128", &|t| t.get_mut(Q).unwrap().2[5] = 0x80, "the integer -128 is not between -127 and 127");
        }
        // What the configuration says is what there must be.
        let other = if scheme == Quantization::W8 { "w4" } else { "w8" };
        for setting in ["quantize_head=true", "quantization=none", &format!("quantization={other}")] {
            let told = config.clone().with(&[setting]).unwrap();
            let error = Model::from_parts(told, tokenizer.clone(), &good).unwrap_err().to_string();
            assert!(error.contains("other weights are in few bits"), "{error}");
        }
        for cut in (0..good.len()).step_by(97) {
            refused("cut off", &good[..cut], "damaged");
        }
    }
}

/// Sizes that a header only claims take no memory, and none overflows.
#[test]
fn what_a_header_claims_is_not_believed() {
    let (config, tokenizer, good) = stored(Quantization::W8);
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(good[8..8 + header].to_vec()).unwrap();
    for (from, to) in [
        ("\"shape\":[64,64]", "\"shape\":[4611686018427387904,4]"),
        ("\"shape\":[64,64]", "\"shape\":[64,18446744073709551615]"),
        ("\"shape\":[64]", "\"shape\":[9223372036854775807]"),
        ("\"data_offsets\":[0,", "\"data_offsets\":[99999999999999,"),
    ] {
        assert!(text.contains(from), "{from}");
        let text = text.replace(from, to);
        let bytes = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &good[8 + header..]].concat();
        Model::from_parts(config.clone(), tokenizer.clone(), &bytes).unwrap_err();
    }
}

/// As wide as the widest model, one row: what it computes is what its numbers say.
#[test]
fn a_row_may_be_as_wide_as_any_model() {
    let cols = 131_072;
    for scheme in SCHEMES {
        let w: Vec<f32> = (0..cols).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 700.0).collect();
        let matrix = Rounded::new(scheme, &w, cols, None);
        let again = Rounded::from_parts(scheme, cols, matrix.codes().to_vec(), matrix.scales().to_vec()).unwrap();
        assert_eq!(again, matrix);
    }
    for (codes, scales) in [(vec![1; 7], vec![1.0]), (vec![], vec![1.0]), (vec![1; 8], vec![])] {
        Rounded::from_parts(Quantization::W8, 8, codes, scales).unwrap_err();
    }
    Rounded::from_parts(Quantization::W4, 8, vec![8; 8], vec![1.0]).unwrap_err();
    Rounded::from_parts(Quantization::W4, 8, vec![7; 8], vec![0.1]).unwrap_err();
    Rounded::from_parts(Quantization::None, 8, vec![7; 8], vec![1.0]).unwrap_err();
}

/// A damaged checkpoint of a run is known by its sums, and said.
#[test]
fn a_damaged_run_in_few_bits_is_refused() {
    let cli = trained();
    let file = newest(&cli.path("w8")).join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    for command in ["sample", "eval", "export"] {
        cli.fails(&[command, "w8"], 1, "damaged");
    }
    // A configuration that was changed by hand is none: the copy in the checkpoint is used.
    let config = cli.path("w4/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let (above, _) = text.rsplit_once("# SHA-256 of all above: ").unwrap();
    let changed = |to: &str| {
        assert!(above.contains("quantization = \"w4\"\n"));
        above.replace("quantization = \"w4\"\n", to)
    };
    fs::write(&config, text.replace("quantization = \"w4\"", "quantization = \"w8\"")).unwrap();
    let mut run = RunDir::open(&cli.path("w4")).unwrap();
    assert_eq!(run.config.quantization, Quantization::W4);
    assert!(run.warnings.iter().any(|warning| warning.contains("using the copy")), "{:?}", run.warnings);
    let layout = Layout::new(&run.config).unwrap();
    assert_eq!(run.load_model(&layout, None, Which::Last).unwrap().1.rounded.len(), 4);
    // One that says of itself that it is whole is believed, and its file has something else then.
    for (to, scheme) in [("quantization = \"w8\"\n", Quantization::W8), ("", Quantization::None)] {
        let text = changed(to);
        fs::write(&config, format!("{text}# SHA-256 of all above: {}\n", sha256(text.as_bytes()))).unwrap();
        let mut run = RunDir::open(&cli.path("w4")).unwrap();
        assert_eq!((run.config.quantization, &run.warnings[..]), (scheme, &[][..]));
        let errors = [
            run.load_model(&layout, None, Which::Last).map(|_| ()),
            run.load_numbers(&layout, None, Which::Last).map(|_| ()),
            run.load_weights(&layout, None, Which::Last).map(|_| ()),
            run.load_masters(&layout, Which::Last).map(|_| ()),
        ];
        for error in errors.map(Result::unwrap_err) {
            assert!(error.to_string().contains("other weights are in few bits"), "{scheme:?}: {error}");
        }
        cli.fails(&["sample", "w4"], 1, "other weights are in few bits than the configuration says");
    }
}

/// Adapters and what training goes on from have all their bits: integers there are none of this program's.
#[test]
fn integers_are_refused_where_there_are_none() {
    let cli = Cli::trained();
    cli.ok(&["finetune", "run", "builtin", "--lora", "2", "--out", "tuned", "--set", "max_iters=2"]);
    for run in ["run", "tuned"] {
        let kept = newest(&cli.path(run));
        for folder in fs::read_dir(kept.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()) {
            if folder != kept && folder.is_dir() {
                fs::remove_dir_all(folder).unwrap();
            }
        }
    }
    for (run, file, prefix, command) in [
        ("tuned", "adapter.safetensors", "", "sample"),
        ("run", "optimizer.safetensors", "exp_avg.", "train"),
        ("run", "model.safetensors", "", "train"),
        ("run", "model.safetensors", "", "sample"),
    ] {
        let folder = newest(&cli.path(run));
        let (path, good) = (folder.join(file), fs::read(folder.join(file)).unwrap());
        let sums = fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
        let mut tensors = tensors(&good);
        let is_matrix =
            |(name, (_, shape, _)): &(&String, &(_, Vec<usize>, _))| name.starts_with(prefix) && shape.len() == 2;
        let (name, shape) =
            tensors.iter().find(is_matrix).map(|(name, tensor)| (name.clone(), tensor.1.clone())).unwrap();
        tensors.remove(&name);
        let [rows, cols] = shape[..] else { panic!("a matrix") };
        tensors.insert(format!("{name}.q"), (safetensors::Dtype::I8, shape, vec![1; rows * cols]));
        tensors.insert(format!("{name}.scale"), (safetensors::Dtype::F32, vec![rows], vec![0; 4 * rows]));
        let bytes = self::file(&tensors);
        fs::write(&path, &bytes).unwrap();
        fs::write(folder.join("SHA256SUMS"), sums.replace(&sha256(&good), &sha256(&bytes))).unwrap();
        let args = if command == "train" {
            vec!["train", "--resume", run, "--set", "max_iters=30"]
        } else {
            vec![command, run]
        };
        cli.fails(&args, 1, "other weights are in few bits than the configuration says");
        fs::write(&path, &good).unwrap();
        fs::write(folder.join("SHA256SUMS"), sums).unwrap();
    }
}

/// The GGUF that is read back has the types that were said.
#[test]
fn a_gguf_says_its_types() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    exported(&model(Quantization::W4, &[]), Target::Gguf, &out, &ExportOptions::default());
    let file = gguf::read(&out.join("small-q4_0.gguf")).unwrap();
    let of = |dtype: Dtype| file.tensors.values().filter(|tensor| tensor.dtype == dtype).count();
    // Of two blocks: query, key, value, output, gate, up and down.
    assert_eq!((of(Dtype::Q4_0), of(Dtype::F32)), (14, file.tensors.len() - 14));
}

//! A model that leaves as another program's files is the same model there: what is written is read again, by the bits where
//! nothing is rewritten. `scripts/doors.py` has the programs themselves read it.

use crate::common::cli::Cli;
use kinglet::{
    config::{AttentionScale, Config, Quantization},
    formats::{
        Dtype, ExportOptions, Exported, ImportOptions, Portable, Source, Target,
        chain::probabilities,
        export as write,
        export::{MAX_DIFFERENCE, MAX_DIFFERENCE_ROUNDED},
        gguf, import, onnx,
    },
    params::Layout,
    rng::{Purpose, Rng},
    text::tokenizer::{CharTokenizer, Tokenizer},
};
use safetensors::SafeTensors;
use serde_json::Value;
use std::{fs, path::Path};
#[cfg(target_os = "linux")]
use std::{process::Stdio, time::Duration};

/// A model of random weights: more than a new one has, so that no bias is zero and no norm is one.
fn random(settings: &[&str]) -> Portable {
    let small = ["block_size=8", "n_embd=32", "n_layer=2", "n_head=4", "vocab_size=11"];
    let config = Config::default().with(&[&small, settings].concat()).unwrap();
    let mut rng = Rng::new(5, Purpose::Sample, 0, 0);
    let weights = Layout::new(&config).unwrap().init(3);
    let weights = weights.iter().map(|w| w + 0.1 * rng.normal() as f32).collect();
    Portable::new(config, weights, Tokenizer::from(CharTokenizer::train("abcdefghijk"))).unwrap()
}

fn source(model: &Portable) -> Source {
    Source {
        model: model.clone(),
        adapters: None,
        step: 7,
        val_loss: Some(1.5),
        name: "mine".to_owned(),
        warnings: Vec::new(),
        notes: Vec::new(),
    }
}

fn options(dtype: Dtype) -> ExportOptions {
    let mut options = ExportOptions::default();
    options.dtype = Some(dtype);
    options
}

/// The names of the files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name != "SHA256SUMS").collect();
    names.sort();
    names
}

/// Writes a model, reads it again, and returns by how much both say something else.
#[track_caller]
fn round(model: &Portable, target: Target, dtype: Dtype) -> (Exported, Portable, f64) {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let exported = write(source(model), target, &out, &options(dtype)).unwrap_or_else(|error| panic!("{error}"));
    let file = |ending: &str| out.join(names(&out).into_iter().find(|name| name.ends_with(ending)).unwrap());
    let path = match target {
        Target::Gguf => file(".gguf"),
        Target::Lecture => file(".pth"),
        Target::NanoGpt => file(".pt"),
        _ => out.clone(),
    };
    let mut told = ImportOptions::default();
    if matches!(target, Target::Lecture | Target::NanoGpt) {
        told.tokenizer = Some(out.join("meta.pkl"));
    }
    if target == Target::Lecture {
        told.attention_scale = Some(AttentionScale::NEmbd);
    }
    let back = import(&path, &told).unwrap_or_else(|error| panic!("{}", error.one_line())).portable;
    let said = |one: &Portable| probabilities(&mut one.clone(), &model.config).unwrap();
    let difference = said(model).difference(&said(&back));
    (exported, back, difference)
}

const ROTARY: &str = "position=rotary";
const RMS: &str = "norm=rmsnorm";
const GATED: &str = "activation=swiglu";

#[test]
fn where_nothing_is_rewritten_the_bits_come_back() {
    let shapes: [(&[&str], Target); 8] = [
        (&["activation=gelu_tanh", "bias=true"], Target::HuggingFace),
        (&["activation=gelu_tanh", "bias=true", "tie_weights=true", "block_size=256"], Target::Gguf),
        (&[ROTARY, RMS, GATED, "n_kv_head=2"], Target::HuggingFace),
        (&[ROTARY, RMS, GATED, "n_kv_head=2"], Target::Gguf),
        (&[ROTARY, RMS, GATED, "qk_norm=true", "tie_weights=true", "norm_eps=0.000001"], Target::HuggingFace),
        (&["attention_scale=n_embd", "bias=[\"proj\",\"mlp\",\"head\",\"norm\"]"], Target::Lecture),
        (&["activation=gelu", "bias=true", "tie_weights=true"], Target::NanoGpt),
        (&["activation=gelu", "tie_weights=true"], Target::NanoGpt),
    ];
    for (settings, target) in shapes {
        let model = random(settings);
        let (exported, back, _) = round(&model, target, Dtype::F32);
        assert!(exported.rewrites.is_empty() && exported.difference.is_none(), "{settings:?}: {:?}", exported.rewrites);
        assert_eq!(back.weights, model.weights, "{settings:?} {target:?}");
    }
}

#[test]
fn what_is_rewritten_says_the_same_when_it_is_read_again() {
    let learned = "bias=[\"proj\",\"mlp\",\"head\",\"norm\"]";
    let shapes: [(&[&str], Target, &str); 9] = [
        (&[learned, "attention_scale=n_embd"], Target::HuggingFace, "gpt2"),
        (&[learned, "attention_scale=n_embd"], Target::Gguf, "gpt2"),
        (&[learned, "n_kv_head=2"], Target::HuggingFace, "gpt2"),
        (&[learned, "n_kv_head=2"], Target::Lecture, "lecture"),
        (&[ROTARY, GATED, learned], Target::HuggingFace, "stablelm"),
        (&[ROTARY, GATED, learned, "n_kv_head=1"], Target::Gguf, "stablelm"),
        (&[ROTARY, "activation=relu_squared", learned], Target::Gguf, "nemotron"),
        (&[ROTARY, RMS], Target::HuggingFace, "llama"),
        (&[learned, "norm_eps=0.001", "attention_scale=n_embd"], Target::Lecture, "lecture"),
    ];
    for (settings, target, architecture) in shapes {
        let model = random(settings);
        let (exported, _, difference) = round(&model, target, Dtype::F32);
        assert_eq!(exported.architecture, Some(architecture), "{settings:?}");
        let measured = exported.difference.unwrap();
        assert!(!exported.rewrites.is_empty() && measured <= MAX_DIFFERENCE, "{settings:?}: {measured}");
        assert!((difference - measured).abs() < 1e-7, "{settings:?} {target:?}: {difference}, but {measured} was said");
    }
}

#[test]
fn fewer_bits_are_measured_as_they_are_stored() {
    let model = random(&[ROTARY, RMS]);
    for (target, dtype) in [
        (Target::HuggingFace, Dtype::F16),
        (Target::HuggingFace, Dtype::Bf16),
        (Target::Gguf, Dtype::F16),
        (Target::Gguf, Dtype::Q8_0),
    ] {
        let (exported, _, difference) = round(&model, target, dtype);
        let stored = exported.stored_difference.unwrap();
        assert!(exported.difference.unwrap() <= MAX_DIFFERENCE_ROUNDED && stored > 1e-4, "{dtype:?}: {stored}");
        assert!((difference - stored).abs() < 1e-7, "{dtype:?}: {difference}, but {stored} was said");
    }
    assert_eq!(round(&model, Target::HuggingFace, Dtype::F32).0.stored_difference, None);
}

#[test]
fn a_number_too_large_for_its_type_is_named() {
    let mut model = random(&[ROTARY, RMS, GATED]);
    let at = model.layout().lm_head.w.start;
    model.weights[at] = 1e6;
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let error = write(source(&model), Target::HuggingFace, &out, &options(Dtype::F16)).unwrap_err().one_line();
    assert!(error.contains("lm_head.weight has 1000000, which is too large for f16"), "{error}");
    assert!(!out.exists() && names(temp.path()).is_empty(), "nothing is left");
    write(source(&model), Target::HuggingFace, &out, &options(Dtype::Bf16)).unwrap();
    model.weights[at] = f32::NAN;
    let error = write(source(&model), Target::Safetensors, &temp.path().join("nan"), &options(Dtype::F32)).unwrap_err();
    assert!(error.to_string().starts_with("lm_head.weight has values that are not finite"), "{error}");
}

/// A JSON file of a folder.
fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_folder_says_what_transformers_would_guess() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("learned");
    let exported = write(source(&random(&["bias=true"])), Target::HuggingFace, &out, &options(Dtype::F32)).unwrap();
    assert!(
        exported.written.limits[0].starts_with("it cannot go past 8 tokens there"),
        "{:?}",
        exported.written.limits
    );
    let want =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names(&out), want);
    let config = json(&out.join("config.json"));
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        assert!(config.as_object().unwrap().contains_key(key) && config[key].is_null(), "{key}");
    }
    assert_eq!((&config["tie_word_embeddings"], &config["dtype"]), (&false.into(), &"float32".into()));
    assert_eq!((&config["torch_dtype"], &config["resid_pdrop"]), (&"float32".into(), &0.0.into()));
    assert_eq!(json(&out.join("generation_config.json"))["max_length"], 8);
    let tokenizer = json(&out.join("tokenizer_config.json"));
    assert_eq!(tokenizer["model_input_names"], serde_json::json!(["input_ids", "attention_mask"]));
    assert_eq!(
        (&tokenizer["clean_up_tokenization_spaces"], &tokenizer["model_max_length"]),
        (&false.into(), &8.into())
    );
    let bytes = fs::read(out.join("model.safetensors")).unwrap();
    let (_, about) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(about.metadata().as_ref().unwrap()["format"], "pt");

    // With tokens that begin and end a text, and conversations.
    let out = temp.path().join("talks");
    let mut model = random(&[ROTARY, RMS, GATED, "vocab_size=257"]);
    model.tokenizer = Tokenizer::byte().with_ends("\u{1}", "").unwrap();
    model.config.bos_token = "\u{1}".to_owned();
    model.config.data_kind = "conversations".to_owned();
    write(source(&model), Target::HuggingFace, &out, &options(Dtype::F32)).unwrap();
    let config = json(&out.join("config.json"));
    let ends = ["bos_token_id", "eos_token_id", "pad_token_id"].map(|key| config[key].as_u64().unwrap());
    assert_eq!((ends, config["rope_theta"].as_f64()), ([1, 256, 256], Some(10000.0)));
    assert_eq!(config["rope_parameters"]["rope_type"], "default");
    assert!(json(&out.join("generation_config.json")).get("max_length").is_none());
    let template = json(&out.join("tokenizer_config.json"))["chat_template"].as_str().unwrap().to_owned();
    assert!(template.starts_with("{%- set end_of_text = eos_token -%}"), "{template}");
    let file = json(&out.join("tokenizer.json"));
    let begins = &file["post_processor"]["single"][0]["SpecialToken"]["id"];
    assert_eq!(begins, "\u{1}", "{}", file["post_processor"]);
}

#[test]
fn a_model_of_another_program_goes_on_to_the_next() {
    let model = random(&["activation=gelu_tanh", "bias=true"]);
    let temp = tempfile::tempdir().unwrap();
    let (first, second) = (temp.path().join("first"), temp.path().join("second"));
    write(source(&model), Target::HuggingFace, &first, &options(Dtype::F32)).unwrap();
    let again = Source::of_import(&first, &ImportOptions::default()).unwrap();
    assert_eq!((again.name.as_str(), again.model.weights == model.weights), ("first", true));
    write(again, Target::Gguf, &second, &options(Dtype::F32)).unwrap();
    assert_eq!(names(&second), ["Modelfile", "first-f32.gguf"]);
}

#[test]
fn adapters_are_what_merging_adds() {
    let cli = Cli::trained();
    let base = cli.path("base");
    let llama =
        ["train", "text.txt", "--set", "position=rotary", "--set", "norm=rmsnorm", "--set", "activation=swiglu"];
    let small = [
        "--set",
        "n_embd=16",
        "--set",
        "n_layer=1",
        "--set",
        "n_head=4",
        "--set",
        "n_kv_head=2",
        "--set",
        "bias=false",
    ];
    let brief = ["--set", "max_iters=2", "--set", "eval_iters=1", "--out", "base"];
    fs::write(cli.path("text.txt"), "in winter the kinglet weighs no more than a coin. ".repeat(50)).unwrap();
    cli.ok(&[&llama[..], &small, &brief].concat());
    assert!(base.exists());
    let lora = ["--set", "lora_rank=2", "--set", "lora_alpha=6", "--set", "max_iters=3", "--set", "learning_rate=0.1"];
    cli.ok(&[&["finetune", "base", "text.txt", "--set", "eval_iters=1", "--out", "tuned"][..], &lora].concat());
    cli.ok(&["export", "tuned", "--format", "peft", "-o", "adapter"]);
    cli.ok(&["export", "tuned", "-o", "merged"]);
    let bytes = ["adapter/base/model.safetensors", "adapter/adapter_model.safetensors", "merged/model.safetensors"]
        .map(|name| fs::read(cli.path(name)).unwrap());
    let [base, adapter, merged] = bytes.each_ref().map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    let floats = |tensors: &SafeTensors, name: &str| -> Vec<f64> {
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4).map(|x| f64::from(f32::from_le_bytes(x.try_into().unwrap()))).collect()
    };
    let told = json(&cli.path("adapter/adapter_config.json"));
    assert_eq!((&told["peft_type"], &told["r"], &told["lora_alpha"]), (&"LORA".into(), &2.into(), &6.0.into()));
    let targets: Vec<_> = told["target_modules"].as_array().unwrap().iter().map(|x| x.as_str().unwrap()).collect();
    let modules: Vec<_> = targets.iter().map(|target| format!("model.layers.0.{target}")).collect();
    assert_eq!((modules.len(), adapter.len()), (7, 14), "{targets:?}");
    let mut changed = 0.0f64;
    for module in modules {
        let weight = format!("{module}.weight");
        let (w, sum) = (floats(&base, &weight), floats(&merged, &weight));
        let [a, b] =
            ["A", "B"].map(|which| floats(&adapter, &format!("base_model.model.{module}.lora_{which}.weight")));
        let cols = a.len() / 2;
        for (i, (w, sum)) in w.iter().zip(&sum).enumerate() {
            let (row, col) = (i / cols, i % cols);
            let added = 3.0 * (b[row * 2] * a[col] + b[row * 2 + 1] * a[cols + col]);
            assert!((w + added - sum).abs() < 1e-6, "{weight} {row} {col}: {w} + {added}, but {sum}");
            changed = changed.max(added.abs());
        }
    }
    assert!(changed > 1e-3, "the adapters learned something: {changed}");
    cli.fails(
        &["export", "base", "--format", "peft"],
        1,
        "base: this run has no adapters: --format hf writes its weights",
    );
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let cli = Cli::trained();
    for (arguments, status, message) in [
        (&["--format", "tar"][..], 2, "tar is no format that is written; these are: hf, gguf, onnx, pth, nanogpt"),
        (&["--dtype", "q8_0"], 2, "--dtype q8_0: hf has f32, f16 or bf16; gguf has q8_0 too"),
        (&["--dtype", "f8"], 2, "must be f32, f16, bf16, q8_0, q5_0, q4_0 or int8"),
        (
            &["--quantize", "int8"],
            2,
            "--scheme w8 belongs to --format gguf, onnx, c and safetensors, not to --format hf",
        ),
        (&["--ids", "int32"], 2, "--ids belongs to --format onnx, not to --format hf"),
        (&["--format", "nanogpt"], 1, "nanoGPT's code has no place for tie_weights = false. The most similar preset"),
        (&["--tokenizer", "x.json"], 2, "is a run, which says itself what --tokenizer, --data and the like tell"),
        (&["--max-difference", "0"], 1, "transformers would say something else: rewritten as gpt2"),
    ] {
        cli.fails(&[&["export", "run", "-o", "out"], arguments].concat(), status, message);
        assert!(!cli.path("out").exists(), "{arguments:?}");
    }
    fs::create_dir(cli.path("full")).unwrap();
    fs::write(cli.path("full/notes.txt"), "mine").unwrap();
    cli.fails(&["export", "run", "-o", "full"], 1, "full: this folder is not empty: choose another with --out");
    let told = cli.ok(&["export", "run", "-o", "out", "--json"]);
    let told: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!((&told["format"], &told["architecture"]), (&"hf".into(), &"gpt2".into()));
    assert!(told["difference"].as_f64().unwrap() < MAX_DIFFERENCE && told["rewrites"].as_array().unwrap().len() >= 2);
    cli.ok(&["export", "run"]);
    assert!(cli.path("exports/run-hf/config.json").exists());
}

/// A model of random weights, larger than those of a new one.
fn of_preset(preset: &str, settings: &[&str], tokenizer: &Tokenizer) -> Portable {
    let mut config = Config::preset(preset).unwrap().with(&["n_layer=2", "n_embd=32", "n_head=4"]).unwrap();
    config = config.with(settings).unwrap();
    config.vocab_size = tokenizer.vocab_size();
    let mut weights = Layout::new(&config).unwrap().init(1);
    weights.iter_mut().enumerate().for_each(|(i, x)| *x = 2.0 * *x + 0.02 * (i as f32 * 0.37).sin());
    Portable::new(config, weights, tokenizer.clone()).unwrap()
}

fn letters() -> Tokenizer {
    Tokenizer::from(CharTokenizer::train("the quick brown fox jumps over a lazy dog\n"))
}

/// ReLU is nearer to GELU only with numbers that f16 and blocks do not have.
#[test]
fn the_default_preset_goes_into_every_type_of_gguf() {
    let temp = tempfile::tempdir().unwrap();
    let model = of_preset("big-0.2m", &[], &letters());
    for dtype in [Dtype::F16, Dtype::Bf16, Dtype::Q8_0, Dtype::Q5_0, Dtype::Q4_0] {
        let exported = write(source(&model), Target::Gguf, &temp.path().join(dtype.name()), &options(dtype)).unwrap();
        let (difference, stored) = (exported.difference.unwrap(), exported.stored_difference.unwrap());
        assert!(difference > 0.0 && difference < MAX_DIFFERENCE_ROUNDED && stored > 0.0, "{difference} {stored}");
        if dtype == Dtype::F16 {
            assert!(difference > MAX_DIFFERENCE, "{difference}: too large for f32");
        }
    }
}

#[test]
fn every_format_says_how_much_storing_changes() {
    let temp = tempfile::tempdir().unwrap();
    let model = of_preset("big-0.2m", &[], &letters());
    let stored = |model: &Portable, target: Target, options: &ExportOptions| {
        let out = temp.path().join(format!("{}-{}", target.name(), options.dtype.unwrap_or(Dtype::F32).name()));
        write(source(model), target, &out, options).unwrap()
    };
    for target in [Target::HuggingFace, Target::Gguf, Target::Lecture, Target::Safetensors] {
        let exact = stored(&model, target, &options(Dtype::F32));
        assert_eq!(exact.stored_difference, None, "{}", target.name());
        let [half, brain] = [Dtype::F16, Dtype::Bf16].map(|dtype| {
            stored(&model, target, &options(dtype)).stored_difference.unwrap_or_else(|| panic!("{}", target.name()))
        });
        assert!(1e-6 < half && half < brain && brain < 1.0, "{} {half} {brain}", target.name());
    }
    let mut int8 = ExportOptions::default();
    int8.scheme = Quantization::W8;
    for (target, name) in [(Target::Onnx, "onnx-8"), (Target::C, "c-8")] {
        if target == Target::Onnx && cfg!(not(feature = "onnx")) {
            continue;
        }
        let exported = write(source(&model), target, &temp.path().join(name), &int8).unwrap();
        let stored = exported.stored_difference.unwrap();
        assert!(1e-5 < stored && stored < 1.0, "{stored}");
        assert!(
            exported.written.notes.iter().any(|note| note.starts_with("8 matrices")),
            "{:?}",
            exported.written.notes
        );
    }
    let small = stored(&model, Target::Gguf, &options(Dtype::Q4_0));
    let said = |note: &String| note.starts_with("8 tensors are q4_0, the 2 of tokens (token_embd, output) q8_0, ");
    assert!(small.written.notes.iter().any(said), "{:?}", small.written.notes);
}

/// llama.cpp takes token 11 for the end of a text where there is none: a model whose norm lets it gets one.
#[test]
fn characters_beyond_ascii_and_rotary_positions_go_into_a_gguf() {
    let temp = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::from(CharTokenizer::train("the café — “quoted” — it’s\n"));
    let model = of_preset("kinglet-0.2m", &[], &tokenizer);
    let out = temp.path().join("a");
    let exported = write(source(&model), Target::Gguf, &out, &options(Dtype::F32)).unwrap();
    assert!(exported.rewrites.iter().any(|rewrite| rewrite.to_string().starts_with("end of text")));
    assert!(exported.difference.unwrap() < 1e-4);
    assert!(exported.written.limits.iter().any(|limit| limit.starts_with("llama.cpp leaves out characters")));
    let foreign = gguf::read(&out.join("mine-f32.gguf")).unwrap();
    assert_eq!(foreign.meta["tokenizer.ggml.eos_token_id"], tokenizer.vocab_size());
    // Where no norm lets it, the way out is said, and works.
    let mut other = of_preset("kinglet-0.2m", &["norm=rmsnorm", "bias=false"], &tokenizer);
    let out = temp.path().join("b");
    let error = write(source(&other), Target::Gguf, &out, &options(Dtype::F32)).unwrap_err().to_string();
    assert!(error.contains("--set eos_token="), "{error}");
    assert!(!out.exists());
    other.config.eos_token = "\n".to_owned();
    write(source(&other), Target::Gguf, &out, &options(Dtype::F32)).unwrap();
}

#[cfg(feature = "chat")]
#[test]
fn a_model_of_conversations_is_used_in_conversations() {
    let temp = tempfile::tempdir().unwrap();
    let model = of_preset("kinglet-0.2m", &["data_kind=conversations"], &Tokenizer::byte());
    let exported = write(source(&model), Target::Gguf, &temp.path().join("a"), &options(Dtype::F32)).unwrap();
    let usage = &exported.written.usage;
    assert!(usage[0].starts_with("llama-cli -m ") && !usage[0].contains("-no-cnv"), "{usage:?}");
    assert!(usage[1].starts_with("ollama create mine -f "), "{usage:?}");
    let modelfile = fs::read_to_string(temp.path().join("a/Modelfile")).unwrap();
    assert!(modelfile.contains("TEMPLATE"), "{modelfile}");
    let foreign = gguf::read(&temp.path().join("a/mine-f32.gguf")).unwrap();
    assert!(foreign.meta["tokenizer.chat_template"].is_string());
    let exported = write(source(&model), Target::HuggingFace, &temp.path().join("b"), &options(Dtype::F32)).unwrap();
    assert!(exported.written.usage[0].contains("\"role\""), "{:?}", exported.written.usage);
}

#[test]
fn what_belongs_to_another_format_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let model = of_preset("big-0.2m", &[], &letters());
    let mut fixed = options(Dtype::F32);
    fixed.fixed = true;
    let mut ids = options(Dtype::F32);
    ids.ids = onnx::Ids::Int32;
    let rounds = |scheme, dtype| {
        let mut options = ExportOptions::default();
        (options.scheme, options.dtype) = (scheme, dtype);
        options
    };
    for (options, what) in [
        (fixed, "--static belongs to --format onnx, not to --format hf"),
        (ids, "--ids belongs to --format onnx, not to --format hf"),
        (
            rounds(Quantization::W8, None),
            "--scheme w8 belongs to --format gguf, onnx, c and safetensors, not to --format hf",
        ),
        (rounds(Quantization::W4, None), "--scheme w4 belongs to --format gguf, onnx and c, not to --format hf"),
        (
            rounds(Quantization::None, Some(Dtype::I8)),
            "--dtype int8 belongs to --format safetensors, not to --format hf",
        ),
        (self::options(Dtype::Q8_0), "--dtype q8_0: hf has f32, f16 or bf16"),
    ] {
        let error =
            write(source(&model), Target::HuggingFace, &temp.path().join("a"), &options).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

/// The most memory that a command had, in bytes.
#[cfg(target_os = "linux")]
fn peak(cli: &Cli, args: &[&str]) -> f64 {
    let mut child = cli.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (status, mut kib) = (format!("/proc/{}/status", child.id()), 0.0);
    // The kernel keeps the most; the last files take longer to be written than the pause between two looks.
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        kib = line.and_then(|number| number.parse().ok()).unwrap_or(kib);
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    1024.0 * kib
}

/// Neither is it twice in memory while it is rewritten, nor beside the engine that compares, nor on its way to the file.
#[test]
#[cfg(target_os = "linux")]
fn a_large_model_is_rewritten_and_written_without_a_second_copy() {
    let large = ["n_layer=7", "n_embd=512", "vocab_size=11"];
    let cases: [(&[&str], &str); 3] = [
        (&["activation=gelu_tanh", "bias=true", "tie_weights=true"], "gguf"),
        (&[ROTARY, GATED, "bias=[\"qkv\",\"proj\",\"mlp\",\"head\"]"], "hf"),
        (&[ROTARY, GATED, RMS, "n_kv_head=2"], "gguf"),
    ];
    for (settings, format) in cases {
        let cli = Cli::new();
        let model = random(&[&large, settings].concat());
        let size = 4.0 * model.weights.len() as f64;
        assert!(model.weights.len() > kinglet::formats::chain::LARGE, "{}", model.weights.len());
        write(source(&model), Target::Safetensors, &cli.path("model"), &options(Dtype::F32)).unwrap();
        drop(model);
        let most = peak(&cli, &["export", "model", "--format", format, "--out", "there", "--max-difference", "1"]);
        eprintln!("{format}: {:.2} times {:.0} MB", most / size, size / 1e6);
        // The program itself, and one tensor more than the model.
        assert!(most < 1.4 * size + 30e6, "{format} of {settings:?}: {:.2} times its size", most / size);
    }
}

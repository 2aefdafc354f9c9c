//! Models as files of other programs: what is said of them.

use kinglet::{
    config::Config,
    formats::{self, Dtype, ExportOptions, Exported, Portable, Source, Target},
    params::Layout,
    text::tokenizer::{CharTokenizer, Tokenizer},
};
use std::path::Path;

/// A model of random weights, larger than those of a new one.
fn random(preset: &str, settings: &[&str], tokenizer: &Tokenizer) -> Portable {
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

fn source(model: &Portable) -> Source {
    Source {
        model: model.clone(),
        adapters: None,
        step: 0,
        val_loss: None,
        name: "model".to_owned(),
        warnings: Vec::new(),
        notes: Vec::new(),
    }
}

fn options(dtype: Dtype) -> ExportOptions {
    let mut options = ExportOptions::default();
    options.dtype = dtype;
    options
}

fn exported(model: &Portable, target: Target, out: &Path, options: &ExportOptions) -> kinglet::error::Result<Exported> {
    formats::export(source(model), target, out, options)
}

/// ReLU is nearer to GELU only with numbers that f16 and blocks do not have.
#[test]
fn the_default_preset_goes_into_every_type_of_gguf() {
    let temp = tempfile::tempdir().unwrap();
    let model = random("big-0.2m", &[], &letters());
    for dtype in [Dtype::F16, Dtype::Bf16, Dtype::Q8_0, Dtype::Q5_0, Dtype::Q4_0] {
        let exported = exported(&model, Target::Gguf, &temp.path().join(dtype.name()), &options(dtype)).unwrap();
        let (difference, stored) = (exported.difference.unwrap(), exported.stored_difference.unwrap());
        assert!(
            difference > 0.0 && difference < formats::export::MAX_DIFFERENCE_ROUNDED && stored > 0.0,
            "{difference} {stored}"
        );
        if dtype == Dtype::F16 {
            assert!(difference > formats::export::MAX_DIFFERENCE, "{difference}: too large for f32");
        }
    }
}

#[test]
fn every_format_says_how_much_storing_changes() {
    let temp = tempfile::tempdir().unwrap();
    let model = random("big-0.2m", &[], &letters());
    let stored = |model: &Portable, target: Target, options: &ExportOptions| {
        let out = temp.path().join(format!("{}-{}", target.name(), options.dtype.name()));
        exported(model, target, &out, options).unwrap()
    };
    for target in [Target::HuggingFace, Target::Gguf, Target::Lecture, Target::Safetensors] {
        let exact = stored(&model, target, &options(Dtype::F32));
        assert_eq!(exact.stored_difference, None, "{}", target.name());
        let [half, brain] = [Dtype::F16, Dtype::Bf16].map(|dtype| {
            stored(&model, target, &options(dtype)).stored_difference.unwrap_or_else(|| panic!("{}", target.name()))
        });
        assert!(1e-6 < half && half < brain && brain < 1.0, "{} {half} {brain}", target.name());
    }
    let mut int8 = options(Dtype::F32);
    int8.int8 = true;
    for (target, name) in [(Target::Onnx, "onnx-8"), (Target::C, "c-8")] {
        if target == Target::Onnx && cfg!(not(feature = "onnx")) {
            continue;
        }
        let exported = exported(&model, target, &temp.path().join(name), &int8).unwrap();
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
    let model = random("kinglet-0.2m", &[], &tokenizer);
    let out = temp.path().join("a");
    let exported = self::exported(&model, Target::Gguf, &out, &options(Dtype::F32)).unwrap();
    assert!(exported.rewrites.iter().any(|rewrite| rewrite.to_string().starts_with("end of text")));
    assert!(exported.difference.unwrap() < 1e-4);
    assert!(exported.written.limits.iter().any(|limit| limit.starts_with("llama.cpp leaves out characters")));
    let foreign = formats::gguf::read(&out.join("model-f32.gguf")).unwrap();
    assert_eq!(foreign.meta["tokenizer.ggml.eos_token_id"], tokenizer.vocab_size());
    // Where no norm lets it, the way out is said, and works.
    let mut other = random("kinglet-0.2m", &["norm=rmsnorm", "bias=false"], &tokenizer);
    let out = temp.path().join("b");
    let error = self::exported(&other, Target::Gguf, &out, &options(Dtype::F32)).unwrap_err().to_string();
    assert!(error.contains("--set eos_token="), "{error}");
    assert!(!out.exists());
    other.config.eos_token = "\n".to_owned();
    self::exported(&other, Target::Gguf, &out, &options(Dtype::F32)).unwrap();
}

#[cfg(feature = "chat")]
#[test]
fn a_model_of_conversations_is_used_in_conversations() {
    let temp = tempfile::tempdir().unwrap();
    let model = random("kinglet-0.2m", &["data_kind=conversations"], &Tokenizer::byte());
    let exported = self::exported(&model, Target::Gguf, &temp.path().join("a"), &options(Dtype::F32)).unwrap();
    let usage = &exported.written.usage;
    assert!(usage[0].starts_with("llama-cli -m ") && !usage[0].contains("-no-cnv"), "{usage:?}");
    assert!(usage[1].starts_with("ollama create model -f "), "{usage:?}");
    let modelfile = std::fs::read_to_string(temp.path().join("a/Modelfile")).unwrap();
    assert!(modelfile.contains("TEMPLATE"), "{modelfile}");
    let foreign = formats::gguf::read(&temp.path().join("a/model-f32.gguf")).unwrap();
    assert!(foreign.meta["tokenizer.chat_template"].is_string());
    let exported = self::exported(&model, Target::HuggingFace, &temp.path().join("b"), &options(Dtype::F32)).unwrap();
    assert!(exported.written.usage[0].contains("\"role\""), "{:?}", exported.written.usage);
}

#[test]
fn what_belongs_to_another_format_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let model = random("big-0.2m", &[], &letters());
    let mut fixed = options(Dtype::F32);
    fixed.fixed = true;
    let mut ids = options(Dtype::F32);
    ids.ids = formats::onnx::Ids::Int32;
    let mut int8 = options(Dtype::F32);
    int8.int8 = true;
    for (options, what) in [
        (fixed, "--static belongs to --format onnx, not to --format hf"),
        (ids, "--ids belongs to --format onnx, not to --format hf"),
        (int8, "--quantize int8 belongs to --format onnx and c, not to --format hf"),
        (self::options(Dtype::Q8_0), "--dtype q8_0: hf has f32, f16 or bf16"),
    ] {
        let error = exported(&model, Target::HuggingFace, &temp.path().join("a"), &options).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

use super::*;
use crate::text::tokenizer::{CharTokenizer, Tokenizer};
use kinglet_core::params::Layout;

impl Probabilities {
    /// The log-probabilities at each position of the first sequence.
    pub(in crate::formats) fn logs_of_first_sequence(&self) -> impl Iterator<Item = &[f64]> {
        self.logs[..self.logs.len() / 2].chunks_exact(self.vocab)
    }
}

fn config(settings: &[&str]) -> Config {
    let small = ["n_layer=2", "n_embd=32", "n_head=4", "block_size=8", "vocab_size=11"];
    Config::default().with(&[&small[..], settings].concat()).unwrap()
}

fn random(config: Config) -> Portable {
    let weights = Layout::new(&config).unwrap().init(3).into_iter().enumerate();
    let weights = weights.map(|(i, x)| x + 0.1 * (i as f32 * 0.37).sin());
    Portable::new(config, weights.collect(), Tokenizer::from(CharTokenizer::train("abcdefghijk"))).unwrap()
}

/// What a model says; the model is kept.
fn said(model: &Portable, config: &Config) -> Probabilities {
    probabilities(&mut model.clone(), config).unwrap()
}

const LEARNED: &str = "bias=[\"proj\",\"mlp\",\"head\",\"norm\"]";

/// Shapes of models, and where each goes.
const SHAPES: &[(&[&str], [&str; 2])] = &[
    (&[LEARNED, "attention_scale=n_embd"], ["gpt2", "gpt2"]),
    (&["activation=gelu_tanh", "bias=true"], ["gpt2", "gpt2"]),
    (&["activation=relu_squared", LEARNED], ["gpt2", ""]),
    (&["n_kv_head=2", LEARNED], ["gpt2", "gpt2"]),
    (&["position=rotary", "n_kv_head=2", "bias=true"], ["starcoder2", "starcoder2"]),
    (&["position=rotary", "activation=relu_squared", LEARNED], ["starcoder2", "nemotron"]),
    (&["position=rotary", "activation=swiglu", LEARNED], ["stablelm", "stablelm"]),
    (&["position=rotary", "activation=swiglu", "n_kv_head=1", LEARNED], ["stablelm", "stablelm"]),
    (&["position=rotary", "norm=rmsnorm", "activation=swiglu", "n_kv_head=2"], ["llama", "llama"]),
    (&["position=rotary", "norm=rmsnorm", "activation=swiglu", "bias=[\"proj\"]"], ["llama", "llama"]),
    (&["position=rotary", "norm=rmsnorm", "activation=swiglu", "bias=[\"qkv\",\"head\"]"], ["", "qwen2"]),
    (&["position=rotary", "norm=rmsnorm", "activation=swiglu", "qk_norm=true"], ["qwen3", "qwen3"]),
    (&["position=rotary", "norm=rmsnorm", "activation=relu_squared"], ["arcee", "arcee"]),
    (&["position=rotary", "norm=rmsnorm"], ["llama", "llama"]),
    (&["activation=swiglu"], ["", ""]),
    (&["position=rotary", "norm=rmsnorm", "activation=gelu"], ["", ""]),
    (&["logit_softcap=30"], ["", ""]),
];

#[test]
fn shapes_go_where_they_can_and_say_the_same_there() {
    for (settings, wants) in SHAPES {
        for (convention, want) in [Convention::HuggingFace, Convention::Gguf].into_iter().zip(wants) {
            let model = random(config(settings));
            let found = ways(&model.config, convention, Dtype::F32);
            let Some(way) = found.as_ref().ok().and_then(|ways| ways.first()) else {
                assert!(want.is_empty(), "{settings:?} {convention:?}: {}", found.unwrap_err());
                continue;
            };
            assert_eq!(way.dialect.name, *want, "{settings:?} {convention:?} {:?}", way.rewrites);
            let before = said(&model, &model.config);
            let (after, _) = apply(model.clone(), &way.rewrites).unwrap();
            let difference = before.difference(&said(&after, &model.config));
            assert!(difference < 1e-4, "{settings:?} {convention:?} {:?}: {difference}", way.rewrites);
            // What is left is what the other side has.
            let foreign = way.dialect.write(&after).unwrap();
            let mut there = after.config.clone();
            there.bias = way.dialect.biases(&foreign);
            assert!(way.dialect.read(&foreign, &there).unwrap().buffers.is_empty());
            assert!(chain(&after.config, way.dialect, Dtype::F32).unwrap().is_empty());
        }
    }
}

#[test]
fn what_the_other_side_has_already_is_left_as_it_is() {
    let gpt2 = Config::preset("gpt2").unwrap().with(&["vocab_size=50257"]).unwrap();
    for convention in [Convention::HuggingFace, Convention::Gguf] {
        let ways = ways(&gpt2, convention, Dtype::F32);
        assert!(ways.unwrap()[0].rewrites.is_empty(), "{convention:?}");
    }
    let nanogpt = Config::preset("shakespeare-char").unwrap().with(&["vocab_size=65"]).unwrap();
    assert!(ways(&nanogpt, Convention::NanoGpt, Dtype::F32).unwrap()[0].rewrites.is_empty());
    let lecture = Config::preset("big-0.2m").unwrap().with(&["vocab_size=65"]).unwrap();
    assert!(ways(&lecture, Convention::Lecture, Dtype::F32).unwrap()[0].rewrites.is_empty());
}

#[test]
fn a_refusal_names_the_setting_and_what_does_go() {
    for (settings, convention, want) in [
        (&["logit_softcap=30"][..], Convention::HuggingFace, "transformers has no place for logit_softcap = 30"),
        (&["activation=swiglu"], Convention::Gguf, "llama.cpp has nothing with"),
        (
            &["tie_weights=false", "activation=gelu"],
            Convention::NanoGpt,
            "nanoGPT's code has no place for tie_weights = false",
        ),
        (&["position=rotary"], Convention::Lecture, "the lecture's code has no place for position = \"rotary\""),
    ] {
        let error = ways(&config(settings), convention, Dtype::F32).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
        assert!(
            error.contains("The most similar preset that goes there is ")
                && error.contains("ONNX and C take every model")
        );
    }
}

#[test]
fn other_formulas_of_gelu_are_approximations() {
    let model = random(config(&["activation=gelu", "bias=true"]));
    let way = &ways(&model.config, Convention::Gguf, Dtype::F32).unwrap()[0];
    assert!(way.rewrites.contains(&Rewrite::GeluAs(Activation::GeluTanh)));
    let before = said(&model, &model.config);
    let (after, _) = apply(model.clone(), &way.rewrites).unwrap();
    let difference = before.difference(&said(&after, &model.config));
    assert!((1e-5..1e-2).contains(&difference), "{difference}");
}

#[test]
fn blocks_of_weights_get_whole_rows() {
    let config = config(&["position=rotary", "norm=rmsnorm", "activation=swiglu", "n_inner=40"]);
    let way = |dtype| ways(&config, Convention::Gguf, dtype).unwrap()[0].rewrites.clone();
    assert_eq!((way(Dtype::F32), way(Dtype::Q8_0)), (vec![], vec![Rewrite::Pad(64)]));
}

#[test]
fn a_difference_that_is_no_number_is_not_small() {
    let says = |logs: Vec<f64>| Probabilities { logs, vocab: 2 };
    assert_eq!(says(vec![0.0, -1.0]).difference(&says(vec![0.5, -1.25])), 0.5);
    assert!(says(vec![0.0, -1.0]).difference(&says(vec![f64::NAN, -1.0])).is_nan());
}

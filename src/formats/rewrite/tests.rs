use super::*;
use crate::{
    formats::chain::{Probabilities, probabilities},
    text::tokenizer::{CharTokenizer, Tokenizer},
};
use kinglet_core::{
    config::{Bias, Position},
    rng::Rng,
};
use proptest::prelude::*;

/// A small model with numbers of its own everywhere; norms are near one, as trained ones are.
fn model(settings: &[&str], bias: Bias, seed: u64) -> Portable {
    let small = ["n_layer=2", "n_embd=24", "n_head=6", "block_size=7", "vocab_size=13", "n_inner=20"];
    let mut config = Config::default().with(&[&small[..], settings].concat()).unwrap();
    config.bias = bias;
    let layout = Layout::new(&config).unwrap();
    let mut weights = layout.init(seed);
    for tensor in layout.tensors.iter().filter(|tensor| tensor.shape.len() == 1) {
        let mut rng = Rng::new(seed, Purpose::Sample, 1, tensor.span.start as u64);
        weights[tensor.span.range()].iter_mut().for_each(|x| *x += 0.3 * rng.normal() as f32);
    }
    Portable::new(config, weights, Tokenizer::from(CharTokenizer::train("abcdefghijklm"))).unwrap()
}

/// What a model says; the model is kept.
fn said(model: &Portable, config: &Config) -> Probabilities {
    probabilities(&mut model.clone(), config).unwrap()
}

/// How much the rewritten model says something else.
fn change(model: &Portable, rewrite: Rewrite) -> (f64, Portable) {
    let before = said(model, &model.config);
    let after = rewrite.apply(model.clone()).unwrap();
    let mut config = model.config.clone();
    rewrite.configure(&mut config);
    assert_eq!(after.config, config, "{rewrite}");
    Portable::new(after.config.clone(), after.weights.clone(), after.tokenizer.clone()).unwrap();
    (before.difference(&said(&after, &model.config)), after)
}

const ALL: Bias = Bias { qkv: true, proj: true, mlp: true, head: true, norm: true };

fn bias() -> impl Strategy<Value = Bias> {
    proptest::array::uniform5(any::<bool>()).prop_map(|[qkv, proj, mlp, head, norm]| Bias {
        qkv,
        proj,
        mlp,
        head,
        norm,
    })
}

const SHAPES: [&[&str]; 6] = [
    &[],
    &["position=rotary", "activation=swiglu"],
    &["position=rotary", "activation=gelu", "n_kv_head=2", "norm_eps=0.01"],
    &["qk_norm=true", "activation=relu_squared", "n_kv_head=3"],
    &["norm=rmsnorm", "position=rotary", "activation=swiglu", "n_kv_head=1"],
    &["attention_scale=n_embd", "activation=gelu_tanh"],
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_model_says_the_same_afterwards(shape in 0..SHAPES.len(), bias in bias(), seed in 0u64..1000) {
        let model = model(SHAPES[shape], bias, seed);
        let (layer_norm, swiglu) = (model.config.norm == NormKind::LayerNorm, model.config.activation == Activation::Swiglu);
        let other = match model.config.attention_scale {
            AttentionScale::NEmbd => AttentionScale::HeadSize,
            AttentionScale::HeadSize => AttentionScale::NEmbd,
        };
        let mut rewrites = vec![Rewrite::Scale(other), Rewrite::RepeatKeys, Rewrite::Epsilon(1e-5), Rewrite::Pad(32)];
        if model.config.qk_norm {
            // The same epsilon is that of the norm of queries and keys.
            rewrites.retain(|rewrite| *rewrite != Rewrite::Epsilon(1e-5));
        }
        if layer_norm {
            rewrites.push(Rewrite::Centre);
            if bias.qkv { rewrites.push(Rewrite::QkvBias); }
            if bias.head { rewrites.push(Rewrite::HeadBias); }
            if bias.mlp && swiglu { rewrites.push(Rewrite::MlpBias); }
            if model.config.position == Position::Learned && !bias.head { rewrites.push(Rewrite::EndOfBlock(16)); }
        }
        for rewrite in rewrites {
            let (change, _) = change(&model, rewrite);
            prop_assert!(change < 2e-5, "{rewrite}: {change}");
        }
    }
}

#[test]
fn what_is_exact_changes_no_bit() {
    let grouped = model(&["n_kv_head=2"], ALL, 1);
    assert_eq!(change(&grouped, Rewrite::RepeatKeys).0, 0.0);
    assert_eq!(change(&grouped, Rewrite::Pad(64)).0, 0.0);
    let tied = model(&["tie_weights=true"], Bias::NONE, 2);
    assert_eq!(change(&tied, Rewrite::Untie).0, 0.0);
    // As many heads as make the factor a half.
    let four = model(&["n_head=4", "n_embd=64", "attention_scale=n_embd"], ALL, 3);
    let (change, rewritten) = change(&four, Rewrite::Scale(AttentionScale::HeadSize));
    assert!(change < 1e-14, "{change}");
    let name = "transformer.h.0.attn.c_attn.weight";
    assert_eq!(rewritten.tensor(name).unwrap()[0], four.tensor(name).unwrap()[0] / 2.0);
}

#[test]
fn relu_is_other_graphs_as_near_as_its_factor() {
    for (activation, bias) in
        [(Activation::GeluTanh, ALL), (Activation::Gelu, Bias::NONE), (Activation::Swiglu, Bias::NONE)]
    {
        let model = model(&[], bias, 4);
        let (near, _) = change(&model, Rewrite::ReluAs(activation, 16384.0));
        let (far, _) = change(&model, Rewrite::ReluAs(activation, 128.0));
        assert!(near < 1e-4 && far < 0.01 && near < far, "{activation:?}: {near} {far}");
    }
}

#[test]
fn a_bias_of_the_projection_is_one_of_the_values() {
    let (change, rewritten) = change(&model(&[], ALL, 5), Rewrite::ProjBias);
    assert!(change < 1e-4, "{change}");
    assert!(!rewritten.config.bias.proj && rewritten.tensor("transformer.h.1.attn.c_proj.bias").is_none());
    let mut singular = model(&[], ALL, 5);
    let w = singular.layout().h[1].attn_proj.w.range();
    singular.weights[w].fill(0.0);
    let error = Rewrite::ProjBias.apply(singular).unwrap_err().to_string();
    assert!(error.contains("transformer.h.1.attn.c_proj has no place"), "{error}");
}

#[test]
fn a_channel_that_the_last_norm_ignores_is_the_constant() {
    let mut model = model(&[], ALL, 6);
    let g = model.layout().ln_f.w.range().start + 3;
    model.weights[g] = 0.0;
    for rewrite in [Rewrite::HeadBias, Rewrite::EndOfBlock(16)] {
        model = if rewrite == Rewrite::HeadBias { model } else { Rewrite::HeadBias.apply(model).unwrap() };
        let (change, _) = change(&model, rewrite);
        assert!(change < 2e-5, "{rewrite}: {change}");
    }
}

#[test]
fn a_vocabulary_larger_than_the_model_has_its_bias_folded_too() {
    let model = model(&["vocab_size=200"], ALL, 7);
    let (change, rewritten) = change(&model, Rewrite::HeadBias);
    assert!(change < 2e-5 && rewritten.tensor("lm_head.bias").is_none(), "{change}");
}

#[test]
fn a_text_ends_behind_the_block_and_not_within_it() {
    let letters = Tokenizer::from(CharTokenizer::train("abcdefghijklm"));
    // One that has an end is left as it is, whatever it is of: `gguf::write` names the model's last token.
    for (tokenizer, vocab, after) in [
        (letters.clone(), 13, letters.extended([], true)),
        (letters.extended([], true), 14, letters.extended([], true)),
        (Tokenizer::byte(), 257, Tokenizer::byte()),
    ] {
        let vocab_size = format!("vocab_size={vocab}");
        let mut model = model(&[&vocab_size], Bias { head: false, ..ALL }, 8);
        model.tokenizer = tokenizer;
        let model = Rewrite::EndOfBlock(256).apply(model).unwrap();
        assert_eq!((model.config.block_size, model.config.vocab_size), (256, vocab + 1));
        assert_eq!(model.tokenizer, after);
        assert_eq!(model.tokenizer.end_of_text().unwrap() as usize, after.vocab_size() - 1);
        // A model that goes on as if nothing was there.
        let mut config = model.config.clone();
        config.vocab_size = vocab;
        let logs = said(&model, &config);
        for (at, row) in logs.logs_of_first_sequence().enumerate() {
            let end = row[vocab];
            if at < 7 { assert!(end < -2000.0, "{at}: {end}") } else { assert!(end > -1e-9, "{at}: {end}") }
        }
    }
}

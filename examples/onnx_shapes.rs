//! Writes small random models of every shape as ONNX graphs, each with what kinglet's f64 reference computes, for
//! `scripts/doors/graphs.py` to compare in onnxruntime.
//!
//! cargo run --example onnx_shapes -- FOLDER

use kinglet::{
    backend::{Forward, Reference},
    config::{Config, Quantization},
    formats::{Portable, onnx},
    model::Gpt,
    rng::{Purpose, Rng},
    text::tokenizer::{CharTokenizer, Tokenizer},
};
use serde_json::json;
use std::{error::Error, fs, path::Path};

/// Settings of each shape, beside those that all have.
const SHAPES: [(&str, &[&str]); 14] = [
    ("published", &["bias=[\"proj\",\"mlp\",\"head\",\"norm\"]", "attention_scale=n_embd"]),
    ("gpt2", &["bias=true", "activation=gelu_tanh", "tie_weights=true"]),
    ("gelu", &["activation=gelu", "bias=[\"qkv\"]"]),
    ("squared", &["activation=relu_squared", "norm=rmsnorm", "bias=true"]),
    ("llama", &["position=rotary", "norm=rmsnorm", "activation=swiglu"]),
    (
        "qwen",
        &["position=rotary", "norm=rmsnorm", "activation=swiglu", "n_kv_head=2", "qk_norm=true", "bias=[\"qkv\"]"],
    ),
    ("biased", &["position=rotary", "activation=swiglu", "bias=[\"qkv\",\"proj\",\"mlp\",\"head\",\"norm\"]"]),
    ("shared", &["n_kv_head=1", "qk_norm=true", "logit_softcap=5"]),
    ("capped", &["position=rotary", "logit_softcap=3", "tie_weights=true", "bias=[\"head\"]", "rope_theta=100"]),
    ("heads", &["position=rotary", "head_size=10", "n_kv_head=2", "n_inner=40", "norm_eps=0.01"]),
    ("narrow", &["head_size=6", "n_head=3", "qk_norm=true", "norm_eps=0.001", "norm=rmsnorm"]),
    ("single", &["position=rotary", "n_layer=1", "n_head=1"]),
    ("tall", &["n_layer=5", "activation=swiglu", "n_inner=17", "bias=true"]),
    ("short", &["block_size=1", "n_layer=1"]),
];

/// Small random weights around those that a model begins with, so that no bias is zero and no norm is one.
fn weights(config: &Config) -> Result<Vec<f32>, Box<dyn Error>> {
    let gpt = Gpt::new(config)?;
    let mut rng = Rng::new(5, Purpose::Init, 0, 1 << 20);
    Ok(gpt.layout.init(3).iter().map(|w| w + 0.1 * rng.normal() as f32).collect())
}

/// The logits after each of `ids`, computed one by one with a cache.
fn logits(config: &Config, weights: &[f32], ids: &[u32]) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let (be, gpt) = (Reference, Gpt::new(config)?);
    let mut p = be.zeros(gpt.layout.len());
    be.upload(&mut p, 0, weights);
    let (mut cache, mut row) = (gpt.cache(&be), vec![0.0; gpt.vocab_size]);
    let mut next = |id: &u32| {
        gpt.extend(&be, &p, &mut cache, &[*id], &mut row);
        row.clone()
    };
    Ok(ids.iter().map(&mut next).collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let out = std::env::args().nth(1).ok_or("name a folder for the graphs")?;
    let tokenizer = Tokenizer::from(CharTokenizer::train("abcdefghijklm nopqrst;\n"));
    for (name, settings) in SHAPES {
        let mut config = Config::default().with(&["block_size=12", "n_embd=24", "n_layer=2", "n_head=4"])?;
        settings.iter().try_for_each(|setting| config.set(setting))?;
        config.vocab_size = 29;
        let weights = weights(&config)?;
        let block = config.block_size;
        let slides = Gpt::new(&config)?.slides();
        let mut rng = Rng::new(7, Purpose::Init, 0, 0);
        let count = if slides { 3 * block } else { block };
        let ids: Vec<u32> = (0..count).map(|_| rng.below(29) as u32).collect();
        let rows = logits(&config, &weights, &ids)?;
        let model = Portable::new(config, weights, tokenizer.clone())?;
        let folder = Path::new(&out).join(name);
        let plain = onnx::Options::default();
        let narrow = onnx::Options { ids: onnx::Ids::Int32, ..plain.clone() };
        for (kind, options) in [
            ("cached", plain.clone()),
            ("cached32", narrow.clone()),
            ("plain", onnx::Options { plain: true, ..plain.clone() }),
            ("static", onnx::Options { fixed: true, ..narrow }),
        ] {
            onnx::write(&folder.join(kind), &model, &options)?;
        }
        onnx::write(&folder.join("int8"), &model.round(Quantization::W8)?, &plain)?;
        let reference = json!({"block_size": block, "ids": ids, "logits": rows});
        fs::write(folder.join("reference.json"), reference.to_string())?;
        println!("{name}");
    }
    Ok(())
}

//! Models with weights in few bits: near the reference with the numbers that these weights stand for, and the same bits on every
//! instruction set.

use kinglet_core::{
    backend::{Cpu, Forward, Isa, Pass, Reference, Rows},
    config::{Config, Quantization},
    model::Gpt,
    params::Span,
    quant::{self, Rounded, Weights},
    rng::{Purpose, Rng},
    threads::Pool,
};

const SHAPES: [&[&str]; 8] = [
    &["n_embd=32", "n_head=4", "activation=relu", "bias=true"],
    &["n_embd=48", "n_head=3", "position=rotary", "activation=swiglu", "norm=rmsnorm"],
    &[
        "n_embd=64",
        "n_head=4",
        "position=rotary",
        "n_kv_head=2",
        "qk_norm=true",
        "activation=gelu",
        "qkv_conv=3",
        "res_conv=2",
    ],
    // No whole groups, panels or pairs anywhere.
    &["n_embd=33", "n_head=3", "n_inner=71", "activation=gelu_tanh", "bias=true", "logit_softcap=30.0"],
    &["n_embd=10", "n_head=2", "head_size=7", "n_inner=1", "activation=relu_squared"],
    &["n_embd=128", "n_head=4", "vocab_size=300", "block_size=70"],
    &["n_embd=1", "n_head=1", "n_inner=1"],
    // More inputs than are summed in 32 bits.
    &["n_embd=32", "n_head=4", "n_inner=1100", "bias=true", "n_layer=1"],
];

const KINDS: [&[&str]; 5] = [
    &["quantization=w8"],
    &["quantization=w4"],
    &["quantization=w8", "quantize_head=true"],
    &["quantization=w4", "quantize_head=true", "quantize_embeddings=true"],
    &["quantization=w8", "quantize_head=true", "quantize_embeddings=true", "tie_weights=true"],
];

fn model(shape: &[&str], kind: &[&str]) -> (Config, Gpt, Weights) {
    let small = ["vocab_size=61", "block_size=24", "n_layer=2"];
    let config = Config::default().with(&[&small, shape, kind].concat()).unwrap();
    let model = Gpt::new(&config).unwrap();
    // Larger than at initialisation, where a row of attention is nearly even.
    let numbers = model.layout.init(5).iter().map(|x| 2.0 * x).collect();
    let weights = Weights::rounded(&config, &model.layout, numbers).unwrap();
    assert_eq!(weights.rounded.len(), quant::matrices(&config, &model.layout).len());
    (config, model, weights)
}

/// The logits of two sequences, and those of a prompt that goes through the cache in pieces.
fn logits<B: Forward>(be: B, config: &Config, model: &Gpt, weights: &Weights) -> Vec<f32> {
    let be = be.with_precision(config.precision).with_quantization(config.quantization);
    let mut p = be.parameters(weights);
    be.pack_weights(&mut p, &model.layout.linears(), false);
    let mut rng = Rng::new(3, Purpose::Sample, 0, 0);
    let n = 2 * model.block_size;
    let ids: Vec<u32> = (0..n).map(|_| rng.below(model.vocab_size as u64) as u32).collect();
    let mut acts = model.acts(&be, 2, false);
    model.forward(&be, Pass { p: &p, rows: Rows::new(2, model.block_size), dropout: None }, &mut acts, &ids);
    let mut all = vec![0.0; n * model.vocab_size];
    be.download(acts.logits(), 0, &mut all);
    let (mut cache, mut newest) = (model.cache(&be), vec![0.0; model.vocab_size]);
    for piece in ids[..model.block_size].chunks(7) {
        model.extend(&be, &p, &mut cache, piece, &mut newest);
        all.extend_from_slice(&newest);
    }
    all
}

#[test]
fn logits_are_those_of_the_numbers_and_have_the_same_bits_everywhere() {
    for (shape, kind) in SHAPES.into_iter().flat_map(|shape| KINDS.map(|kind| (shape, kind))) {
        let (config, model, weights) = model(shape, kind);
        let exact = logits(Reference, &config, &model, &weights);
        let found = logits(Cpu::with_isa(Isa::detect()), &config, &model, &weights);
        let largest = exact.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let off = exact.iter().zip(&found).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(off <= 1e-3 * largest, "{shape:?} {kind:?}: off by {off} of {largest}");
        let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let found = bits(found);
        for isa in Isa::available() {
            let of = || bits(logits(Cpu::with_isa(isa), &config, &model, &weights));
            assert!(of() == found, "{} {shape:?} {kind:?}", isa.name());
            assert!(Pool::new(3).unwrap().run(of) == found, "{} {shape:?} {kind:?} on three threads", isa.name());
        }
    }
}

#[test]
fn large_products_are_divided_among_threads_without_a_change() {
    let shape = ["n_embd=256", "n_head=4", "n_inner=2100", "n_layer=1", "block_size=64"];
    for kind in ["quantization=w8", "quantization=w4"] {
        let (config, model, weights) = model(&shape, &[kind]);
        let of = |threads| {
            let be = Cpu::with_isa(Isa::detect());
            Pool::new(threads).unwrap().run(|| logits(be, &config, &model, &weights))
        };
        assert!(of(1) == of(2) && of(1) == of(3), "{kind}");
    }
}

#[test]
fn what_is_written_over_is_numbers_again() {
    let be = Cpu::with_isa(Isa::detect());
    let w: Vec<f32> = (0..6 * 40).map(|i| (i % 17) as f32 - 8.0).collect();
    for scheme in [Quantization::W8, Quantization::W4] {
        let matrix = Rounded::new(scheme, &w, 40, None);
        let mut numbers = vec![0.0; w.len()];
        matrix.numbers(&mut numbers);
        let held = |p: &<Cpu as Forward>::Buf| {
            let mut held = vec![0.0; 300];
            be.download(p, 0, &mut held);
            held
        };
        let mut p = be.zeros(300);
        be.upload(&mut p, 0, &[1.5; 300]);
        be.place(&mut p, 30, &matrix);
        let want = |of: &[f32]| [&[1.5; 30][..], of, &[1.5; 30]].concat();
        assert_eq!(held(&p), want(&numbers), "{scheme:?}");
        // A part of them, across rows.
        let mut part = [0.0; 60];
        be.download(&p, 60, &mut part);
        assert_eq!(part, numbers[30..90]);
        be.upload(&mut p, 30, &w);
        assert_eq!(held(&p), want(&w));
        be.place(&mut p, 30, &matrix);
        be.clear(&mut p, Span { start: 0, len: 300 });
        assert_eq!(held(&p), [0.0; 300]);
    }
}

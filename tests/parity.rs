//! The whole model against PyTorch: logits, loss, every gradient tensor, and the losses of ten AdamW steps, from
//! fixtures that `scripts/parity.py` writes. Weights and tokens come from a formula both sides share.

mod common;

use common::close::{assert_close, close, widen};
use kinglet::{
    backend::{Backward, Cpu, Forward, Gradients, Muon, Pass, Reference, Rows},
    config::{Config, Precision},
    model::Gpt,
    optim::Optimizer,
    params::{Matrix, Span, Tensor},
};
use kinglet_kernels::{Isa, rng};
use safetensors::SafeTensors;

const BATCH: usize = 4;
const STEPS: u64 = 10;

fn config(name: &str) -> Config {
    let preset = |name: &str, settings: &[&str]| {
        let mut config = Config::preset(name).unwrap();
        settings.iter().for_each(|setting| config.set(setting).unwrap());
        config
    };
    let tiny = |settings: &[&str]| {
        let mut config = Config::default();
        let shape = ["vocab_size=40", "block_size=16", "n_layer=2", "n_head=2", "n_embd=32"];
        shape.iter().chain(settings).for_each(|setting| config.set(setting).unwrap());
        config
    };
    match name {
        "gpt2-tiny" => preset(
            "gpt2",
            &[
                "vocab_size=97",
                "block_size=24",
                "n_layer=2",
                "n_head=4",
                "n_embd=48",
                "grad_clip=0.5",
                "warmup_iters=0",
            ],
        ),
        "char-tiny" => preset(
            "shakespeare-char",
            &["vocab_size=40", "block_size=16", "n_layer=2", "n_head=2", "n_embd=32", "warmup_iters=0"],
        ),
        "muon-tiny" => preset(
            "big-0.2m",
            &[
                "vocab_size=40",
                "block_size=16",
                "n_layer=2",
                "n_head=2",
                "n_embd=32",
                "optimizer=muon",
                "beta2=0.95",
                "weight_decay=0.1",
            ],
        ),
        "rms-swiglu-tiny" => tiny(&["norm=rmsnorm", "activation=swiglu", "bias=[\"proj\", \"mlp\"]"]),
        "squared-capped-tiny" => tiny(&[
            "activation=relu_squared",
            "n_inner=72",
            "bias=[\"head\", \"norm\"]",
            "logit_softcap=1.5",
            "z_loss=0.01",
        ]),
        "rotary-gqa" => preset(
            "shakespeare-char",
            &[
                "vocab_size=51",
                "block_size=20",
                "n_layer=2",
                "n_head=4",
                "n_kv_head=2",
                "n_embd=48",
                "bias=[\"qkv\",\"proj\"]",
                "position=rotary",
                "qk_norm=true",
                "warmup_iters=0",
            ],
        ),
        "conv-gqa" => tiny(&[
            "n_head=4",
            "n_kv_head=2",
            "bias=[\"qkv\", \"proj\"]",
            "position=rotary",
            "qkv_conv=3",
            "res_conv=2",
            "beta2=0.95",
            "weight_decay=0.1",
            "decay=matrices",
            "grad_clip=1",
        ]),
        "rotary-tiny" => preset(
            "big-0.2m",
            &[
                "vocab_size=30",
                "block_size=17",
                "n_layer=3",
                "n_head=2",
                "n_embd=28",
                "bias=[\"mlp\",\"head\",\"norm\"]",
                "position=rotary",
                "rope_theta=500",
            ],
        ),
        "wide-heads" => Config::default()
            .with(&[
                "vocab_size=37",
                "block_size=18",
                "n_layer=2",
                "n_head=4",
                "n_kv_head=2",
                "head_size=14",
                "n_embd=24",
                "activation=swiglu",
                "position=rotary",
                "qk_norm=true",
                "norm=rmsnorm",
                "norm_eps=0.02",
                "beta2=0.95",
                "weight_decay=0.1",
                "decay=matrices",
                "grad_clip=1",
            ])
            .unwrap(),
        "narrow-heads" => Config::default()
            .with(&[
                "vocab_size=33",
                "block_size=16",
                "n_layer=2",
                "n_head=3",
                "head_size=6",
                "n_embd=32",
                "activation=gelu",
                "bias=[\"qkv\",\"proj\",\"norm\"]",
                "tie_weights=true",
                "norm_eps=0.05",
                "optimizer=muon",
                "beta2=0.95",
                "weight_decay=0.1",
            ])
            .unwrap(),
        published => preset(published, &["vocab_size=65"]),
    }
}

/// The first `n` numbers in [0, 1) of a stream.
fn uniform(key: u64, n: usize) -> impl Iterator<Item = f64> {
    (0..n as u64).map(move |i| (rng::word(key, i) >> 11) as f64 / (1u64 << 53) as f64)
}

fn key_of(name: &str) -> u64 {
    name.bytes().fold(0, |key: u64, byte| key.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

fn weights(name: &str, shape: &[usize]) -> impl Iterator<Item = f32> {
    let (bias, embedding) = (name.ends_with(".bias"), name.contains(".wte.") || name.contains(".wpe."));
    let shape = shape.to_vec();
    uniform(key_of(name), shape.iter().product()).map(move |u| {
        let u = 2.0 * u - 1.0;
        let weight = match shape[..] {
            _ if bias => 0.1 * u,
            [_, _] if embedding => 0.5 * u,
            [_, inputs, ..] => u / (inputs as f64).sqrt(),
            _ => 1.0 + 0.2 * u,
        };
        weight as f32
    })
}

fn initial_weights(model: &Gpt) -> Vec<f32> {
    model.layout.tensors.iter().flat_map(|tensor: &Tensor| weights(&tensor.name, &tensor.shape)).collect()
}

struct Fixture(Vec<u8>);

impl Fixture {
    fn load(name: &str) -> Fixture {
        let path = format!("{}/tests/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        Fixture(std::fs::read(path).unwrap())
    }

    fn get(&self, name: &str) -> Vec<f64> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap_or_else(|_| panic!("no {name} in the fixture"));
        view.data().as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect()
    }
}

/// As `scripts/parity.py` samples.
fn sample(values: &[f64]) -> Vec<f64> {
    values.iter().step_by((values.len() / 64).max(1)).copied().collect()
}

/// Runs the ten steps on a backend. Tolerances: of logits and losses, and of gradients.
fn check<B: Backward>(be: &B, name: &str, tolerance: f64, grad_tolerance: f64, host: impl Fn(&B::Buf) -> Vec<f64>) {
    let mut config = config(name);
    config.learning_rate = 1e-3;
    config.set("lr_schedule=constant").unwrap();
    let fixture = Fixture::load(&format!("parity-{name}"));
    let model = Gpt::new(&config).unwrap();
    let len = model.layout.len();
    let (mut p, mut g) = (be.zeros(len), be.zeros(len));
    be.upload(&mut p, 0, &initial_weights(&model));
    let mut optimizer = Optimizer::new(be, &model.layout, &config).unwrap();
    let (mut acts, mut scratch) = (model.acts(be, BATCH, true), model.act_grads(be, BATCH));
    let rows = Rows::new(BATCH, config.block_size);
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let tokens: Vec<u32> =
            uniform(1_000_000 + step, BATCH * (rows.t + 1)).map(|u| (u * config.vocab_size as f64) as u32).collect();
        let sequences = || tokens.chunks_exact(rows.t + 1);
        let ids: Vec<u32> = sequences().flat_map(|s| s[..rows.t].to_vec()).collect();
        let targets: Vec<u32> = sequences().flat_map(|s| s[1..].to_vec()).collect();
        let pass = Pass { p: &p, rows, dropout: None };
        model.forward(be, pass, &mut acts, &ids);
        if step == 0 {
            let logits = host(acts.logits());
            assert_close("logits", &sample(&logits[..rows.n() * config.vocab_size]), &fixture.get("logits"), tolerance);
        }
        let mut row_losses = vec![0.0; rows.n()];
        model.losses_grad(be, &mut acts, &targets, 1.0 / rows.n() as f64);
        be.download(acts.losses(), 0, &mut row_losses);
        losses.push(row_losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / rows.n() as f64);
        model.backward(be, pass, &mut Gradients { g: &mut g, add: false }, (&acts, &mut scratch), &ids, |_, _| ());
        if step == 0 {
            check_gradients(&model, &host(&g), &fixture, grad_tolerance);
        }
        let norm = host(&g).iter().map(|g| g * g).sum::<f64>().sqrt();
        optimizer.step(be, &mut p, &g, norm, 1.0, step);
    }
    let want = fixture.get("losses");
    assert_close("first loss", &losses[..1], &want[..1], tolerance);
    assert_close("ten losses", &losses, &want, 10.0 * tolerance);
}

fn check_gradients(model: &Gpt, g: &[f64], fixture: &Fixture, tolerance: f64) {
    for tensor in &model.layout.tensors {
        let values = &g[tensor.span.range()];
        let want = fixture.get(&format!("grad.{}", tensor.name));
        let norm = values.iter().map(|x| x * x).sum::<f64>().sqrt();
        let random = uniform(key_of(&tensor.name) + 1, values.len()).map(|u| 2.0 * u - 1.0);
        let projection: f64 = values.iter().zip(random).map(|(g, r)| g * r).sum();
        // The projection sees every element; its size is that of the norm.
        assert_close(&format!("{}: norm", tensor.name), &[norm], &want[..1], tolerance);
        let close = (projection - want[1]).abs() <= tolerance * want[0];
        assert!(close, "{}: projection {projection}, want {} (norm {})", tensor.name, want[1], want[0]);
        assert_close(&tensor.name, &sample(values), &want[2..], tolerance);
    }
}

const NAMES: [&str; 12] = [
    "conv-gqa",
    "big-0.2m",
    "big-2.7m",
    "gpt2-tiny",
    "char-tiny",
    "muon-tiny",
    "rms-swiglu-tiny",
    "squared-capped-tiny",
    "rotary-gqa",
    "rotary-tiny",
    "wide-heads",
    "narrow-heads",
];

#[test]
fn the_cpu_agrees_with_pytorch_on_every_instruction_set() {
    for isa in Isa::available() {
        for name in NAMES {
            eprintln!("{name} on {}", isa.name());
            check(&Cpu::with_isa(isa), name, 1e-5, 1e-4, |buf| widen(buf));
        }
    }
}

#[test]
fn the_reference_agrees_with_pytorch_to_the_precision_of_f64() {
    // Losses come back as f32, so only the gradients can show it.
    for name in NAMES.into_iter().filter(|&name| name != "big-2.7m") {
        check(&Reference, name, 1e-6, 1e-9, Vec::clone);
    }
}

/// Three steps of Muon on single matrices, on a backend, against both fixtures. PyTorch's bfloat16 has eight bits.
fn check_muon<B: Backward>(be: &B, tolerance: f64, host: impl Fn(&B::Buf) -> Vec<f64>) {
    let fixture = Fixture::load("muon");
    for (rows, cols) in [(24, 24), (16, 48), (48, 16), (1, 5), (33, 7)] {
        let (name, n) = (format!("{rows}x{cols}"), rows * cols);
        // Not at the beginning of the buffer.
        let matrix = Matrix { span: Span { start: 3, len: n }, rows, cols };
        let (mut p, mut g, mut m) = (be.zeros(n + 3), be.zeros(n + 3), be.zeros(n + 3));
        let uploaded = |buf: &mut B::Buf, name: &str| {
            be.upload(buf, 3, &weights(name, &[rows, cols]).collect::<Vec<_>>());
        };
        uploaded(&mut p, &name);
        let mut got = Vec::new();
        for step in 0..3 {
            uploaded(&mut g, &format!("{name}.{step}"));
            let h = Muon { lr: 0.02, momentum: 0.9, ns_steps: 5, weight_decay: 0.1, grad_scale: 1.0 };
            be.muon(&mut p, &g, &mut m, &[matrix], &h);
            got.extend_from_slice(&host(&p)[3..]);
        }
        assert_close(&format!("{name} in f64"), &got, &fixture.get(&format!("{name}.float64")), tolerance);
        // What is compared are updates of 0.02 on weights of that size and more.
        assert_close(&format!("{name} in bf16"), &got, &fixture.get(&format!("{name}.bfloat16")), 5e-3);
    }
}

#[test]
fn muon_agrees_with_pytorch_and_with_what_that_rounds_to_bfloat16() {
    check_muon(&Reference, 1e-6, Vec::clone);
    for isa in Isa::available() {
        check_muon(&Cpu::with_isa(isa), 1e-5, |buf| widen(buf));
        let rounded = Cpu::with_isa(isa).with_precision(Precision::Bf16);
        eprintln!("tested on {}: F32, and asked for bf16 {:?}", isa.name(), rounded.precision());
        check_muon(&rounded, 5e-3, |buf| widen(buf));
    }
}

#[test]
fn the_comparison_notices_what_it_must() {
    let want: Vec<f64> = (0..12).map(|i| f64::from(i - 6) * 0.5 + 0.1).collect();
    assert!(close(&want, &want, 0.0).is_ok());
    let slightly: Vec<f64> = want.iter().map(|x| x * (1.0 + 1e-6)).collect();
    assert!(close(&slightly, &want, 1e-5).is_ok());
    assert!(close(&[0.0; 12], &want, 1e-4).is_err(), "zeros");
    let mut flipped = want.clone();
    flipped[7] = -flipped[7];
    assert!(close(&flipped, &want, 1e-4).is_err(), "a flipped sign");
    let mut swapped = want.clone();
    swapped.rotate_left(4);
    assert!(close(&swapped, &want, 1e-4).is_err(), "swapped rows");
    assert!(close(&want[1..], &want, 1.0).is_err(), "a missing element");
    assert!(close(&[f64::NAN; 12], &want, 1.0).is_err(), "NaN");
}

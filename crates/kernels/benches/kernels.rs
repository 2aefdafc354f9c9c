//! Each kernel on one thread, at the shapes of the published models and some larger, beside its share of this core's
//! FMA peak (products) or its GB/s (the rest).
//!
//! ```text
//! cargo bench -p kinglet-kernels
//! KINGLET_ISA=scalar cargo bench -p kinglet-kernels -- gemm
//! ```

#![allow(missing_docs)]

use criterion::{
    BatchSize, BenchmarkId, Criterion, Throughput, criterion_main,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use kinglet_kernels::{
    Init, Isa, Mat, MatMut, Precision, Rhs,
    activation::{self, Activation},
    attention::{self, Heads, Saved},
    dropout::{self, Mask},
    gemm_with, loss,
    norm::{self, Grads, Norm},
    optimizer::{self, AdamW, Muon},
    peak,
};
use std::time::{Duration, Instant};

/// Time on the wall, with floating-point operations told in GFLOP/s and as a share of the peak.
struct OfPeak {
    gflops: f64,
}

impl Measurement for OfPeak {
    type Intermediate = Instant;
    type Value = Duration;

    fn start(&self) -> Instant {
        Instant::now()
    }

    fn end(&self, start: Instant) -> Duration {
        start.elapsed()
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for OfPeak {
    fn format_throughput(&self, throughput: &Throughput, ns: f64) -> String {
        match throughput {
            Throughput::Elements(flops) => {
                let gflops = *flops as f64 / ns;
                format!("{gflops:.1} GFLOP/s, {:.0} %", 100.0 * gflops / self.gflops)
            }
            Throughput::Bytes(bytes) => format!("{:.1} GB/s", *bytes as f64 / ns),
            _ => String::new(),
        }
    }

    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_values(typical, values)
    }

    fn scale_throughputs(&self, _: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        let (Throughput::Elements(n) | Throughput::Bytes(n)) = throughput else { return "" };
        values.iter_mut().for_each(|ns| *ns = *n as f64 / *ns);
        if matches!(throughput, Throughput::Elements(_)) { "GFLOP/s" } else { "GB/s" }
    }

    fn scale_for_machines(&self, _: &mut [f64]) -> &'static str {
        "ns"
    }
}

/// The instruction set `KINGLET_ISA` names, or the fastest.
fn isa() -> Isa {
    let name = std::env::var("KINGLET_ISA").ok();
    let chosen = Isa::available().into_iter().find(|isa| name.as_ref().is_none_or(|name| isa.name() == name));
    chosen.expect("KINGLET_ISA names an instruction set of this processor")
}

/// Numbers between -1 and 1.
fn numbers(n: usize) -> Vec<f32> {
    (0..n as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn gemms(c: &mut Criterion<OfPeak>, isa: Isa) {
    for precision in Precision::available(isa) {
        products(c, isa, precision);
    }
}

fn products(c: &mut Criterion<OfPeak>, isa: Isa, precision: Precision) {
    let mut group = c.benchmark_group(format!("gemm, {}", precision.name()));
    // (m, n, k) and which factors are transposed: forward, backward to the input, backward to the weights; attention.
    let shapes = [
        ("forward", 256, 192, 64, false, true),
        ("forward", 256, 256, 64, false, true),
        ("forward", 256, 64, 256, false, true),
        ("forward", 256, 768, 192, false, true),
        ("forward", 256, 192, 768, false, true),
        ("to input", 256, 64, 256, false, false),
        ("to input", 256, 256, 64, false, false),
        ("to input", 256, 192, 768, false, false),
        ("to weights", 256, 64, 256, true, false),
        ("to weights", 64, 256, 256, true, false),
        ("to weights", 768, 192, 256, true, false),
        ("scores", 32, 32, 16, false, true),
        ("weighted", 32, 16, 32, true, false),
        ("one row", 1, 768, 192, false, true),
        ("square", 1024, 1024, 1024, false, false),
    ];
    for (name, m, n, k, a_transposed, b_transposed) in shapes {
        let (a, b, mut out) = (numbers(m * k), numbers(k * n), vec![0.0; m * n]);
        let view = |data, rows, cols, transposed| match transposed {
            true => Mat::new(data, cols, rows).t(),
            false => Mat::new(data, rows, cols),
        };
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        group.bench_function(BenchmarkId::new(name, format!("{m}x{n}x{k}")), |bencher| {
            let (a, b) = (view(&a, m, k, a_transposed), view(&b, k, n, b_transposed));
            bencher.iter(|| {
                gemm_with(isa, precision, MatMut::new(&mut out, m, n), Init::Zero, a, Rhs::Mat(b), None);
            });
        });
    }
}

fn attentions(c: &mut Criterion<OfPeak>, isa: Isa) {
    let mut group = c.benchmark_group("attention");
    for (t, channels, nh) in [(32, 64, 4), (32, 192, 6), (256, 384, 6), (1024, 768, 12)] {
        let heads = Heads { c: channels, nh, nkv: nh, scale: 0.2 };
        let (qkv, dout) = (numbers(3 * t * channels), numbers(t * channels));
        let (mut out, mut lse, mut dqkv) = (vec![0.0; t * channels], vec![0.0; t * nh], vec![0.0; 3 * t * channels]);
        // Without the causal half taken off, as is usual.
        let flops = 4 * (t * t * channels) as u64;
        let shape = format!("{t}x{channels}, {nh} heads");
        group.throughput(Throughput::Elements(flops));
        group.bench_function(BenchmarkId::new("forward", &shape), |bencher| {
            bencher.iter(|| attention::forward(isa, &mut out, &mut lse, &qkv, heads, None));
        });
        group.throughput(Throughput::Elements(2 * flops));
        group.bench_function(BenchmarkId::new("backward", &shape), |bencher| {
            bencher.iter(|| {
                attention::backward(isa, &mut dqkv, &dout, Saved { qkv: &qkv, out: &out, lse: &lse }, heads, None)
            });
        });
    }
}

fn rows(c: &mut Criterion<OfPeak>, isa: Isa) {
    let mut group = c.benchmark_group("rows");
    let bytes = |n: usize| Throughput::Bytes(4 * n as u64);
    let (n, channels, v) = (256, 192, 65);
    let len = n * channels;
    let (x, w) = (numbers(len), numbers(channels));
    let (mut y, mut stats) = (vec![0.0; len], vec![0.0; 2 * n]);
    group.throughput(bytes(2 * len));
    for (name, kind) in [("layernorm forward", norm::Kind::Layer), ("rmsnorm forward", norm::Kind::Rms)] {
        let b = (kind == norm::Kind::Layer).then_some(&w[..]);
        group.bench_function(name, |bencher| {
            let norm = Norm { kind, w: &w, b, eps: 1e-5 };
            bencher.iter(|| norm::forward(isa, norm, &mut y, &mut stats, &x));
        });
    }
    let (mut dw, mut db) = (vec![0.0; channels], vec![0.0; channels]);
    group.throughput(bytes(4 * len));
    for (name, kind) in [("layernorm backward", norm::Kind::Layer), ("rmsnorm backward", norm::Kind::Rms)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let db = (kind == norm::Kind::Layer).then_some(&mut db[..]);
                let norm = Norm { kind, w: &w, b: None, eps: 1e-5 };
                norm::backward(isa, norm, Grads { dx: &mut y, dw: Some(&mut dw), db }, &x, &x, &stats);
            });
        });
    }
    group.throughput(bytes(2 * len));
    for act in [Activation::Relu, Activation::ReluSquared, Activation::Gelu, Activation::GeluTanh] {
        group.bench_function(format!("{act:?} forward"), |bencher| {
            bencher.iter(|| activation::forward(isa, act, &mut y, &x));
        });
        group.bench_function(format!("{act:?} backward"), |bencher| {
            // Fresh numbers each time: what is multiplied again and again becomes subnormal.
            bencher.iter_batched_ref(|| x.clone(), |dx| activation::backward(isa, act, dx, &x), BatchSize::LargeInput);
        });
    }
    let (z, mut dz) = (numbers(2 * len), vec![0.0; 2 * len]);
    group.throughput(bytes(3 * len));
    group.bench_function("SwiGLU forward", |bencher| {
        bencher.iter(|| activation::swiglu(isa, &mut y, &z, channels));
    });
    group.throughput(bytes(5 * len));
    group.bench_function("SwiGLU backward", |bencher| {
        bencher.iter(|| activation::swiglu_backward(isa, &mut dz, &x, &z, channels));
    });
    group.throughput(bytes(2 * len));
    group.bench_function("dropout", |bencher| {
        let mask = Mask::new(7, 0.1);
        bencher.iter(|| dropout::dropout(isa, &mut y, &x, &mask, 0));
    });
    let (logits, targets) = (numbers(n * v), vec![3; n]);
    let (mut z, mut losses) = (logits.clone(), vec![0.0; n]);
    group.throughput(bytes(2 * n * v));
    group.bench_function("cross-entropy and gradient", |bencher| {
        bencher.iter(|| {
            z.copy_from_slice(&logits);
            loss::cross_entropy(isa, &mut losses, &mut z, &targets, Some(loss::Objective::of_losses(1e-3)));
        });
    });
    group.bench_function("soft cap", |bencher| {
        bencher.iter(|| loss::softcap(isa, &mut z, 30.0));
    });
    let (mut p, mut m, mut second) = (numbers(len), vec![0.0; len], vec![0.0; len]);
    let h = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: 10, grad_scale: 1.0 };
    group.throughput(bytes(7 * len));
    group.bench_function("AdamW", |bencher| {
        bencher.iter(|| optimizer::adamw(isa, &mut p, &x, &mut m, &mut second, &h));
    });
}

/// Muon on the matrices of the published models; shares of peak are of the products as they are written, of which symmetry
/// and, in f32, leaving long matrices alone save a part.
fn muons(c: &mut Criterion<OfPeak>, isa: Isa, precision: Precision) {
    let mut group = c.benchmark_group(format!("muon, {}", precision.name()));
    let h = Muon { lr: 0.02, momentum: 0.95, ns_steps: 5, weight_decay: 0.01, grad_scale: 1.0 };
    for (rows, cols) in [(64, 64), (256, 64), (64, 256), (192, 192), (768, 192), (192, 768)] {
        let (mut p, mut m, g) = (numbers(rows * cols), vec![0.0; rows * cols], numbers(rows * cols));
        group.throughput(Throughput::Elements(2 * optimizer::muon_multiply_adds(rows, cols, h.ns_steps) as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{rows}x{cols}")), |bencher| {
            bencher.iter(|| optimizer::muon(isa, precision, &mut p, &g, &mut m, (rows, cols), &h));
        });
    }
}

fn kernels() {
    let isa = isa();
    let gflops = peak::fma_gflops(isa, 0.5);
    eprintln!("{}: {gflops:.1} GFLOP/s of FMA at peak", isa.name());
    let criterion = Criterion::default().with_measurement(OfPeak { gflops });
    let mut criterion = criterion
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    gemms(&mut criterion, isa);
    attentions(&mut criterion, isa);
    rows(&mut criterion, isa);
    for precision in Precision::available(isa) {
        muons(&mut criterion, isa, precision);
    }
}

criterion_main!(kernels);

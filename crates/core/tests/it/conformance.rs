//! Every fast operation against the f64 reference: each instruction set this processor has, at odd, tiny and empty
//! sizes. An instruction set that should be here and is not fails the test rather than passing silently.

use crate::{
    add_to,
    close::{assert_close, widen},
    param, pass, plain, rows,
};
use kinglet_core::{
    backend::{
        Activated, AdamW, Attended, Backward, Buf, Cached, Cpu, Forward, Gradients, Heads, IGNORE, Isa, KvCache, Muon,
        Normed, Objective, Pass, QkInput, Reference, Rows, key_stride,
    },
    config::{Activation, NormKind, Precision},
    params::{Conv, Embedding, Linear, Lora, Matrix, Norm, Param, Qk, Span},
    rng::{Dropout, DropoutKey, Purpose, Rng},
    threads::Pool,
};
use std::cell::RefCell;

/// A backend, the same random inputs for every one, and a way to look at its buffers.
struct Tester<B: Backward> {
    be: B,
    host: fn(&B::Buf) -> Vec<f64>,
    rng: RefCell<Rng>,
}

impl<B: Backward> Tester<B> {
    fn new(be: B, host: fn(&B::Buf) -> Vec<f64>) -> Self {
        Tester { be, host, rng: RefCell::new(Rng::new(11, Purpose::Init, 0, 0)) }
    }

    /// A buffer of normal numbers.
    fn random(&self, len: usize) -> B::Buf {
        let mut rng = self.rng.borrow_mut();
        let values: Vec<f32> = (0..len).map(|_| rng.normal() as f32).collect();
        let mut buf = self.be.zeros(len);
        self.be.upload(&mut buf, 0, &values);
        buf
    }

    /// A buffer whose contents must not matter.
    fn garbage(&self, len: usize) -> B::Buf {
        let mut buf = self.be.zeros(len);
        self.be.upload(&mut buf, 0, &vec![7.5; len]);
        buf
    }

    fn ids(&self, n: usize, below: usize) -> Vec<u32> {
        let mut rng = self.rng.borrow_mut();
        (0..n).map(|_| rng.below(below as u64) as u32).collect()
    }
}

type Outputs = Vec<(&'static str, Vec<f64>)>;

/// Runs an operation on every instruction set and on the reference, and compares every output.
macro_rules! conforms {
    ($op:ident($($arg:expr),*), $rtol:expr) => {
        let want = $op(&Tester::new(Reference, |buf| buf.clone()), $($arg),*);
        for isa in Isa::available() {
            let got = $op(&Tester::new(Cpu::with_isa(isa), |buf| widen(buf)), $($arg),*);
            let sizes = format!("{:?}", ($($arg,)*));
            all_close(&format!("{} on {} {sizes}", stringify!($op), isa.name()), &got, &want, $rtol);
        }
    };
}

/// Compares outputs that must be as many, and of the same names.
#[track_caller]
fn all_close(what: &str, got: &Outputs, want: &Outputs, rtol: f64) {
    let names = |outputs: &Outputs| outputs.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    assert_eq!(names(got), names(want), "{what}");
    for ((name, got), (_, want)) in got.iter().zip(want) {
        assert_close(&format!("{what}: {name}"), got, want, rtol);
    }
}

#[test]
#[should_panic(expected = "left: [\"y\"]")]
fn a_missing_output_is_noticed() {
    all_close("it", &vec![("y", vec![1.0])], &vec![("y", vec![1.0]), ("g", vec![2.0])], 1.0);
}

fn drop_of(rate: f32) -> Option<Dropout> {
    (rate > 0.0).then_some(Dropout { rate, site: 3, key: DropoutKey { seed: 5, step: 7, first_sequence: 2 } })
}

fn span(start: usize, len: usize) -> Span {
    Span { start, len }
}

fn frozen(param: Param) -> Param {
    Param { trainable: false, ..param }
}

#[test]
fn the_instruction_sets_of_this_processor_are_tested() {
    let names: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
    assert_eq!(names.last(), Some(&"scalar"));
    #[cfg(target_arch = "x86_64")]
    {
        assert_eq!(names.contains(&"avx2"), is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"));
        assert_eq!(
            names.contains(&"avx512"),
            is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq")
        );
    }
    #[cfg(target_arch = "aarch64")]
    assert!(names.contains(&"neon"));
    eprintln!("tested: {}", names.join(", "));
}

/// This processor's backend in each precision that it has, and says so: asked for another, it takes f32.
fn precisions() -> Vec<Cpu> {
    let mut backends =
        [Precision::F32, Precision::Bf16].map(|asked| Cpu::new().unwrap().with_precision(asked)).to_vec();
    backends.dedup_by_key(|be| be.precision());
    eprintln!("tested in: {:?}", backends.iter().map(Forward::precision).collect::<Vec<_>>());
    backends
}

/// Rows whose sequences hold documents of `length` tokens, the last one shorter; 0 is one document each.
fn positions(b: usize, len: usize, length: usize) -> Vec<u32> {
    if length == 0 { Vec::new() } else { (0..b * len).map(|row| (row % len % length) as u32).collect() }
}

fn embed<B: Backward>(t: &Tester<B>, b: usize, len: usize, c: usize, (length, rate): (usize, f32)) -> Outputs {
    let positions = positions(b, len, length);
    let (v, rows) = (5, Rows { positions: &positions, ..Rows::new(b, len) });
    let (wte, wpe) = (param(3, v * c), param(3 + v * c, (len + 2) * c));
    let (w, p) = (Embedding { wte, wpe: Some(wpe), c }, t.random(wpe.range().end));
    let ids = t.ids(rows.n(), v);
    let mut x = t.garbage(rows.n() * c);
    t.be.embed(&mut x, pass(&p, rows), w, &ids, drop_of(rate));
    let (mut g, mut dx) = (t.random(wpe.range().end), t.random(rows.n() * c));
    t.be.embed_bwd(&mut add_to(&mut g), &mut dx, pass(&p, rows), w, &ids, drop_of(rate));
    let mut outputs = vec![("x", (t.host)(&x)), ("g", (t.host)(&g))];
    for w in [Embedding { wte: frozen(wte), ..w }, Embedding { wpe: Some(frozen(wpe)), ..w }] {
        let (mut g, mut dx) = (t.random(wpe.range().end), t.random(rows.n() * c));
        t.be.embed_bwd(&mut add_to(&mut g), &mut dx, pass(&p, rows), w, &ids, drop_of(rate));
        outputs.push(("g of one", (t.host)(&g)));
    }
    outputs
}

#[test]
fn embed_conforms() {
    for (b, t, c) in [(0, 4, 8), (1, 1, 1), (2, 3, 5), (3, 7, 16), (2, 5, 67)] {
        for documents in [(0, 0.0), (0, 0.3), (2, 0.3)] {
            conforms!(embed(b, t, c, documents), 1e-6);
        }
    }
}

fn norm<B: Backward>(t: &Tester<B>, (kind, eps): (NormKind, f64), n: usize, c: usize, bias: bool) -> Outputs {
    let w = Norm { w: param(2, c), b: bias.then(|| param(2 + c, c)), kind, eps };
    let (p, x) = (t.random(2 + 2 * c), t.random(n * c));
    let (mut y, mut stats) = (t.garbage(n * c), t.garbage(2 * n));
    t.be.norm(&mut y, &mut stats, &x, pass(&p, rows(n)), w);
    let (mut dx, mut g, dy) = (t.random(n * c), t.random(2 + 2 * c), t.random(n * c));
    t.be.norm_bwd(&mut dx, &mut add_to(&mut g), &dy, Normed { x: &x, stats: &stats }, pass(&p, rows(n)), w);
    let mut outputs =
        vec![("y", (t.host)(&y)), ("stats", (t.host)(&stats)), ("dx", (t.host)(&dx)), ("g", (t.host)(&g))];
    for w in [Norm { w: frozen(w.w), ..w }, Norm { b: w.b.map(frozen), ..w }] {
        let (mut dx, mut g) = (t.random(n * c), t.random(2 + 2 * c));
        t.be.norm_bwd(&mut dx, &mut add_to(&mut g), &dy, Normed { x: &x, stats: &stats }, pass(&p, rows(n)), w);
        outputs.extend([("dx of one", (t.host)(&dx)), ("g of one", (t.host)(&g))]);
    }
    outputs
}

#[test]
fn norm_conforms() {
    for kind in [NormKind::LayerNorm, NormKind::RmsNorm] {
        for (n, c) in [(0, 4), (1, 2), (2, 3), (5, 16), (3, 33), (4, 192)] {
            for bias in [false, true] {
                for eps in [1e-5, 0.3] {
                    conforms!(norm((kind, eps), n, c, bias), 1e-5);
                }
            }
        }
    }
}

fn linear<B: Backward>(t: &Tester<B>, n: usize, i: usize, o: usize, bias: bool, add: bool) -> Outputs {
    // The bias stands before the weight once, after it once.
    let b = bias.then(|| param(if n.is_multiple_of(2) { 0 } else { o + o * i }, o));
    let w = plain(param(o, o * i), b, i, o);
    let (p, x) = (t.random(2 * o + o * i), t.random(n * i));
    let mut y = t.garbage(n * o);
    t.be.linear(&mut y, &x, pass(&p, rows(n)), w);
    let (mut dx, mut g, dy) = (t.garbage(n * i), t.random(2 * o + o * i), t.random(n * o));
    t.be.linear_bwd(&mut dx, &mut Gradients { g: &mut g, add }, &dy, &x, pass(&p, rows(n)), w);
    vec![("y", (t.host)(&y)), ("dx", (t.host)(&dx)), ("g", (t.host)(&g))]
}

#[test]
fn linear_conforms() {
    for (n, i, o) in
        [(0, 3, 4), (1, 1, 1), (1, 7, 3), (2, 3, 17), (5, 16, 16), (13, 65, 33), (64, 64, 65), (7, 300, 19)]
    {
        for (bias, add) in [(false, false), (false, true), (true, false), (true, true)] {
            conforms!(linear(n, i, o, bias, add), 1e-5);
        }
    }
}

/// `n` rows from `i` to `o` channels and an activation, then a layer back to `i`.
fn linear_act<B: Backward>(t: &Tester<B>, act: Activation, n: usize, i: usize, o: usize) -> Outputs {
    let up = plain(param(0, o * i), Some(param(2 * o * i, o)), i, o);
    let down = plain(param(o * i, o * i), None, o, i);
    let (p, x) = (t.random(2 * o * i + o), t.random(n * i));
    let (mut y, mut pre) = (t.garbage(n * o), t.garbage(if act.keeps_input() { n * o } else { 0 }));
    t.be.linear_act(&mut y, &mut pre, &x, pass(&p, rows(n)), up, act);
    let (mut dpre, mut g, dy) = (t.garbage(n * o), t.random(2 * o * i + o), t.random(n * i));
    t.be.linear_bwd_act(
        &mut dpre,
        &mut Gradients { g: &mut g, add: false },
        &dy,
        Activated { y: &y, pre: &pre, act },
        pass(&p, rows(n)),
        down,
    );
    vec![("y", (t.host)(&y)), ("pre", (t.host)(&pre)), ("dpre", (t.host)(&dpre)), ("g", (t.host)(&g))]
}

#[test]
fn linear_act_conforms() {
    for act in [Activation::Relu, Activation::ReluSquared, Activation::Gelu, Activation::GeluTanh] {
        for (n, i, o) in [(0, 3, 4), (1, 1, 1), (5, 7, 3), (50, 16, 33), (3, 20, 300), (49, 300, 20)] {
            conforms!(linear_act(act, n, i, o), 1e-5);
        }
    }
}

fn swiglu<B: Backward>(t: &Tester<B>, h: usize, n: usize) -> Outputs {
    let (z, dy) = (t.random(2 * n * h + 1), t.random(n * h + 1));
    let (mut y, mut dz) = (t.garbage(n * h), t.garbage(2 * n * h));
    t.be.swiglu(&mut y, &z, h, n);
    t.be.swiglu_bwd(&mut dz, &dy, &z, h, n);
    vec![("y", (t.host)(&y)), ("dz", (t.host)(&dz))]
}

#[test]
fn swiglu_conforms() {
    // On both sides of what one thread takes.
    for (h, n) in [(4, 0), (1, 1), (3, 2), (16, 5), (33, 3), (168, 4), (400, 2623)] {
        conforms!(swiglu(h, n), 2e-6);
    }
}

#[test]
fn swiglu_survives_large_numbers_and_passes_nan_on() {
    for isa in Isa::available() {
        let be = Cpu::with_isa(isa);
        let z = vec![200.0, -200.0, f32::NAN, 2.0, 2.0, 2.0].into();
        let mut y = be.zeros(3);
        be.swiglu(&mut y, &z, 3, 1);
        assert!(y[0] == 400.0 && y[1].abs() < 1e-30 && y[2].is_nan(), "{y:?}");
    }
}

fn linear_residual<B: Backward>(t: &Tester<B>, b: usize, len: usize, i: usize, o: usize, rate: f32) -> Outputs {
    let rows = Rows::new(b, len);
    let w = plain(param(0, o * i), Some(param(o * i, o)), i, o);
    let (p, x, residual) = (t.random(o * i + o), t.random(rows.n() * i), t.random(rows.n() * o));
    let mut out = t.garbage(rows.n() * o);
    t.be.linear_residual(&mut out, &residual, &x, pass(&p, rows), w, drop_of(rate));
    let mut dx = t.garbage(rows.n() * o);
    if let Some(drop) = drop_of(rate) {
        t.be.dropout_bwd(&mut dx, &residual, o, rows, drop);
    }
    vec![("out", (t.host)(&out)), ("dx", (t.host)(&dx))]
}

#[test]
fn linear_residual_conforms() {
    for (b, t, i, o) in [(0, 2, 3, 4), (1, 1, 1, 1), (2, 3, 5, 7), (3, 8, 4, 40), (2, 11, 13, 66), (5, 12, 9, 300)] {
        for rate in [0.0, 0.1, 0.9] {
            conforms!(linear_residual(b, t, i, o, rate), 1e-5);
        }
    }
}

/// Everything a layer with an adapter does, forward and backward, whatever of it trains.
fn adapter<B: Backward>(
    t: &Tester<B>,
    rows: Rows,
    (i, o, r): (usize, usize, usize),
    rate: f32,
    act: Activation,
    trains: [bool; 4],
) -> Outputs {
    let n = rows.n();
    let dropout = Some(DropoutKey { seed: 5, step: 7, first_sequence: 2 });
    let trained = |start, len, which: usize| Param { span: span(start, len), trainable: trains[which] };
    let (b, a, low) = (o * i, o * i + o, o * i + o + r * i);
    let lora = Lora { a: trained(a, r * i, 2), b: trained(low, o * r, 3), r, scale: 0.7, rate, site: 9 };
    let w = Linear { w: trained(0, o * i, 0), b: Some(trained(b, o, 1)), i, o, lora: Some(lora) };
    let len = low + o * r;
    let (p, x, dy, residual) = (t.random(len), t.random(n * i), t.random(n * o), t.random(n * o));
    let (mut y, mut activated, mut pre, mut out) =
        (t.garbage(n * o), t.garbage(n * o), t.garbage(n * o), t.garbage(n * o));
    t.be.linear(&mut y, &x, Pass { p: &p, rows, dropout }, w);
    t.be.linear_act(&mut activated, &mut pre, &x, Pass { p: &p, rows, dropout }, w, act);
    t.be.linear_residual(&mut out, &residual, &x, Pass { p: &p, rows, dropout }, w, drop_of(rate));
    let (mut dx, mut dpre, mut g) = (t.garbage(n * i), t.garbage(n * i), t.random(len));
    t.be.linear_bwd(&mut dx, &mut add_to(&mut g), &dy, &x, Pass { p: &p, rows, dropout }, w);
    t.be.linear_bwd_act(
        &mut dpre,
        &mut add_to(&mut g),
        &dy,
        Activated { y: &x, pre: &x, act },
        Pass { p: &p, rows, dropout },
        w,
    );
    let mut unadapted = t.garbage(n * o);
    t.be.linear(&mut unadapted, &x, Pass { p: &p, rows, dropout }, Linear { lora: None, ..w });
    assert!(n == 0 || (t.host)(&unadapted) != (t.host)(&y));
    [("y", &y), ("act", &activated), ("pre", &pre), ("out", &out), ("dx", &dx), ("dpre", &dpre), ("g", &g)]
        .map(|(name, buf)| (name, (t.host)(buf)))
        .into()
}

#[test]
fn adapters_conform() {
    // Rows on both sides of what dropout is applied to at once, channels of what is packed.
    let sizes = [(0, 3, 4, 2, 1), (1, 1, 1, 1, 1), (2, 3, 5, 7, 2), (3, 50, 20, 33, 3), (2, 64, 65, 66, 8)];
    let wide = [(1, 9, 300, 19, 5), (2, 7, 18, 300, 40)];
    for (b, t, i, o, r) in sizes.into_iter().chain(wide) {
        for rate in [0.0, 0.3] {
            for (act, trains) in [
                (Activation::Relu, [false, false, true, true]),
                (Activation::Gelu, [true, false, true, false]),
                (Activation::Relu, [false, true, false, true]),
                (Activation::GeluTanh, [true; 4]),
                (Activation::Relu, [false; 4]),
            ] {
                conforms!(adapter(Rows::new(b, t), (i, o, r), rate, act, trains), 2e-5);
            }
        }
    }
}

/// Numbers of bf16 are multiplied exactly and summed in f32, so that only the order of sums differs from the
/// reference; and weights packed beforehand change no bit, in either precision.
#[test]
fn bf16_and_prepared_weights_conform() {
    for (n, i, o) in [(1, 1, 1), (3, 5, 7), (40, 33, 70), (64, 192, 65), (50, 300, 17)] {
        let w = plain(param(3, o * i), Some(param(3 + o * i, o)), i, o);
        let reference = Tester::new(Reference, |buf| buf.clone());
        let want = linear_of_bf16(&reference, w, n, None);
        for be in precisions() {
            let (precision, t) = (be.precision(), Tester::new(be, |buf| widen(buf)));
            let plain = linear_of_bf16(&t, w, n, None);
            for backward in [true, false] {
                assert!(linear_of_bf16(&t, w, n, Some(backward)) == plain, "{precision:?} {n} {i} {o}");
            }
            all_close(&format!("{precision:?} {n} {i} {o}"), &plain, &want, 2e-5);
        }
    }
}

/// A linear layer and its backward pass on numbers of bf16.
fn linear_of_bf16<B: Backward>(t: &Tester<B>, w: Linear, n: usize, prepare: Option<bool>) -> Outputs {
    let rng = RefCell::new(Rng::new(12, Purpose::Init, 0, 0));
    let numbers = |len: usize| {
        let values: Vec<f32> = (0..len).map(|_| (rng.borrow_mut().below(511) as f32 - 255.0) / 128.0).collect();
        let mut buf = t.be.zeros(len);
        t.be.upload(&mut buf, 0, &values);
        buf
    };
    let (mut p, x, dy) = (numbers(3 + w.o * w.i + w.o), numbers(n * w.i), numbers(n * w.o));
    if let Some(backward) = prepare {
        t.be.pack_weights(&mut p, &[w], backward);
    }
    let (mut y, mut dx, mut g) = (t.garbage(n * w.o), t.garbage(n * w.i), t.be.zeros(3 + w.o * w.i + w.o));
    t.be.linear(&mut y, &x, pass(&p, rows(n)), w);
    t.be.linear_bwd(&mut dx, &mut add_to(&mut g), &dy, &x, pass(&p, rows(n)), w);
    vec![("y", (t.host)(&y)), ("dx", (t.host)(&dx)), ("g", (t.host)(&g))]
}

/// A change of the parameters makes what was prepared from them void.
#[test]
fn prepared_weights_follow_the_parameters() {
    for be in precisions() {
        let w = plain(param(0, 6), None, 3, 2);
        let mut p = vec![1.0; 6].into();
        let x = vec![1.0, 2.0, 4.0].into();
        let mut y = be.zeros(2);
        be.pack_weights(&mut p, &[w], false);
        be.linear(&mut y, &x, pass(&p, rows(1)), w);
        assert_eq!(y[..], [7.0, 7.0]);
        be.upload(&mut p, 0, &[2.0, 2.0, 2.0, 1.0, 1.0, 0.0]);
        be.linear(&mut y, &x, pass(&p, rows(1)), w);
        assert_eq!(y[..], [14.0, 3.0]);
        be.pack_weights(&mut p, &[w], true);
        be.linear(&mut y, &x, pass(&p, rows(1)), w);
        assert_eq!(y[..], [14.0, 3.0]);
    }
}

/// Products above a certain size spread over threads, which must not change a bit.
#[test]
fn large_products_are_the_same_on_any_number_of_threads() {
    for be in precisions() {
        large_product(be, 1040);
    }
    large_product(Cpu::new().unwrap(), 1900);
}

fn large_product(be: Cpu, o: usize) {
    let (n, i) = (130, 1000);
    let t = Tester::new(be, |buf| widen(buf));
    let (r, a) = (200, o * i + o);
    let lora = Lora { a: param(a, r * i), b: param(a + r * i, r * o), r, scale: 0.5, rate: 0.1, site: 4 };
    let w = Linear { w: param(0, o * i), b: Some(param(o * i, o)), i, o, lora: Some(lora) };
    let dropout = Some(DropoutKey { seed: 5, step: 7, first_sequence: 2 });
    let rows = Rows::new(10, 13);
    let (p, x, dy) = (t.random(a + r * (i + o)), t.random(n * i), t.random(n * o));
    let all = |threads| {
        Pool::new(threads).unwrap().run(|| {
            let (mut y, mut out, mut dx, mut g) =
                (be.zeros(n * o), be.zeros(n * o), be.zeros(n * i), be.zeros(p.len()));
            be.linear(&mut y, &x, Pass { p: &p, rows, dropout }, w);
            let drop = drop_of(0.2);
            be.linear_residual(&mut out, &dy, &x, Pass { p: &p, rows, dropout }, w, drop);
            for add in [false, true] {
                be.linear_bwd_act(
                    &mut dx,
                    &mut Gradients { g: &mut g, add },
                    &dy,
                    Activated { y: &x, pre: &x, act: Activation::Gelu },
                    Pass { p: &p, rows, dropout },
                    w,
                );
            }
            [y, out, dx, g].map(|buf| buf.to_vec()).concat()
        })
    };
    let one = all(1);
    assert!(one.iter().any(|&x| x != 0.0));
    for threads in [2, 3, 8] {
        assert!(all(threads) == one, "{:?}, {o}, {threads} threads", be.precision());
    }
}

/// Products of few rows are divided by columns, which must not change a bit: with a bias or after an adapter, and with
/// something done to strips.
#[test]
fn products_of_few_rows_are_the_same_on_any_number_of_threads_and_prepared() {
    let (i, o) = (300, 450);
    for be in precisions() {
        let t = Tester::new(be, |buf| widen(buf));
        let (r, a) = (4, o * i + o);
        let lora = Lora { a: param(a, r * i), b: param(a + r * i, r * o), r, scale: 0.5, rate: 0.0, site: 4 };
        let with_bias = Linear { w: param(0, o * i), b: Some(param(o * i, o)), i, o, lora: None };
        let with_adapter = Linear { lora: Some(lora), ..with_bias };
        for n in [1, 3, 8, 9] {
            let (mut p, x, before) = (t.random(a + r * (i + o)), t.random(n * i), t.random(n * o));
            let rows = rows(n);
            let all = |p: &Buf, threads| {
                Pool::new(threads).unwrap().run(|| {
                    let outputs = [with_bias, with_adapter].map(|w| {
                        let (mut y, mut out) = (be.zeros(n * o), be.zeros(n * o));
                        be.linear(&mut y, &x, pass(p, rows), w);
                        be.linear_residual(&mut out, &before, &x, pass(p, rows), w, None);
                        [y.to_vec(), out.to_vec()].concat()
                    });
                    outputs.concat()
                })
            };
            let one = all(&p, 1);
            be.pack_weights(&mut p, &[with_bias], false);
            for threads in [1, 2, 3, 8] {
                assert!(all(&p, threads) == one, "{n} rows, {threads} threads");
            }
        }
    }
}

/// `nh` heads in groups of `group`.
fn attention<B: Backward>(
    t: &Tester<B>,
    b: usize,
    len: usize,
    nh: usize,
    group: usize,
    hs: usize,
    (length, rate): (usize, f32),
) -> Outputs {
    let positions = positions(b, len, length);
    let (c, rows) = (nh * hs, Rows { positions: &positions, ..Rows::new(b, len) });
    let heads = Heads { c, nh, nkv: nh / group, scale: 0.4 };
    let qkv = t.random(rows.n() * heads.width());
    let (mut out, mut lse) = (t.garbage(rows.n() * c), t.garbage(b * nh * len));
    t.be.attention(&mut out, &mut lse, &qkv, heads, rows, drop_of(rate));
    let (mut dqkv, dout) = (t.garbage(rows.n() * heads.width()), t.random(rows.n() * c));
    t.be.attention_bwd(&mut dqkv, &dout, Attended { qkv: &qkv, out: &out, lse: &lse }, heads, rows, drop_of(rate));
    vec![("out", (t.host)(&out)), ("lse", (t.host)(&lse)), ("dqkv", (t.host)(&dqkv))]
}

#[test]
fn attention_conforms() {
    // 32 queries are one block of the fast kernel: sizes on both sides of that.
    for (b, t, nh, hs) in
        [(0, 3, 1, 4), (1, 1, 1, 1), (2, 2, 3, 5), (1, 31, 2, 8), (2, 32, 4, 16), (1, 33, 1, 7), (1, 70, 2, 12)]
    {
        for documents in [(0, 0.0), (0, 0.2), (1, 0.0), (2, 0.2), (33, 0.2)] {
            conforms!(attention(b, t, nh, 1, hs, documents), 2e-5);
        }
    }
}

#[test]
fn attention_of_groups_of_heads_conforms() {
    for (b, t, nh, group, hs) in
        [(0, 3, 2, 2, 4), (1, 1, 2, 2, 1), (2, 3, 6, 3, 5), (2, 33, 4, 2, 8), (1, 70, 4, 4, 12)]
    {
        for documents in [(0, 0.0), (0, 0.2), (2, 0.2), (34, 0.2)] {
            conforms!(attention(b, t, nh, group, hs, documents), 2e-5);
        }
    }
}

/// Sequences of one pass: of each, its block, the first new position, and how many there are.
fn attention_cached<B: Backward>(
    t: &Tester<B>,
    parts: &[(usize, usize, usize)],
    nh: usize,
    group: usize,
    hs: usize,
) -> Outputs {
    let c = nh * hs;
    let heads = Heads { c, nh, nkv: nh / group, scale: 0.4 };
    let cache = |block: usize| {
        let (k, v) = (t.random((key_stride(block) + 1) * heads.kv()), t.random((block + 1) * heads.kv()));
        KvCache { k, v, block, tail: t.random(0) }
    };
    let mut caches: Vec<_> = parts.iter().map(|part| cache(part.0)).collect();
    let rows: usize = parts.iter().map(|part| part.2).sum();
    let qkv = t.random(rows * heads.width());
    let mut out = t.garbage(rows * c);
    let with_caches = caches.iter_mut().zip(parts);
    let mut cached: Vec<_> = with_caches.map(|(cache, &(_, pos, t))| Cached { cache, pos, t }).collect();
    t.be.attention_cached(&mut out, &mut cached, &qkv, heads);
    let mut outputs = vec![("out", (t.host)(&out))];
    outputs.extend(caches.iter().flat_map(|cache| [("k", (t.host)(&cache.k)), ("v", (t.host)(&cache.v))]));
    outputs
}

#[test]
fn attention_cached_conforms() {
    for (pos, t, nh, hs) in [(0, 1, 1, 1), (0, 5, 2, 4), (9, 1, 3, 8), (4, 3, 2, 5), (30, 40, 1, 16)] {
        conforms!(attention_cached(&[(pos + t + 1, pos, t)], nh, 1, hs), 2e-5);
    }
}

#[test]
fn attention_cached_conforms_where_the_cache_turns_and_heads_share() {
    for (block, pos, t, nh, group, hs) in [
        (1, 0, 1, 1, 1, 1),
        (1, 5, 2, 2, 2, 3),
        (7, 7, 1, 2, 1, 4),
        (7, 20, 1, 6, 3, 5),
        (40, 39, 5, 4, 2, 8),
        (9, 8, 1, 4, 4, 16),
    ] {
        conforms!(attention_cached(&[(block, pos, t)], nh, group, hs), 2e-5);
    }
}

#[test]
fn attention_cached_conforms_for_several_sequences() {
    let parts: [(usize, usize, usize); 6] =
        [(40, 0, 33), (40, 39, 5), (40, 0, 1), (40, 12, 1), (40, 100, 1), (40, 3, 34)];
    for (nh, group, hs) in [(1, 1, 4), (4, 2, 8), (6, 6, 16)] {
        conforms!(attention_cached(&parts, nh, group, hs), 2e-5);
        conforms!(attention_cached(&parts[..0], nh, group, hs), 2e-5);
    }
}

fn teach<B: Backward>(t: &Tester<B>, n: usize, v: usize, scale: f64) -> Outputs {
    let (mut g, z) = (t.random(n * v + 1), t.random(n * v + 1));
    let mut targets = t.ids(n, v);
    targets.iter_mut().step_by(3).for_each(|target| *target = IGNORE);
    t.be.teach(&mut g, &z, &targets, v, scale);
    vec![("g", (t.host)(&g))]
}

#[test]
fn teach_conforms() {
    for (n, v) in [(0, 3), (1, 1), (5, 7), (33, 65), (3, 1000)] {
        for scale in [1.0, 0.01] {
            conforms!(teach(n, v, scale), 1e-5);
        }
    }
}

fn conv<B: Backward>(t: &Tester<B>, (b, len, length): (usize, usize, usize), c: usize, taps: usize) -> Outputs {
    let positions = positions(b, len, length);
    let rows = Rows { positions: &positions, ..Rows::new(b, len) };
    let n = rows.n() * c;
    let w = Conv { w: param(3, c * taps), c, taps, tail: 0 };
    let (p, x, mut y) = (t.random(4 + c * taps), t.random(n + 1), t.garbage(n + 1));
    t.be.conv(&mut y, &x, pass(&p, rows), w);
    let mut outputs = vec![("y", (t.host)(&y))];
    for w in [w, Conv { w: frozen(w.w), ..w }] {
        let (mut d, mut g) = (t.random(n + 1), t.random(4 + c * taps));
        t.be.conv_bwd(&mut d, &mut add_to(&mut g), &x, pass(&p, rows), w);
        outputs.extend([("d", (t.host)(&d)), ("g", (t.host)(&g))]);
    }
    outputs
}

#[test]
fn conv_conforms() {
    for (b, t, c, taps) in [(0, 3, 1, 2), (1, 1, 5, 3), (1, 2, 16, 4), (3, 5, 6, 2), (2, 9, 34, 3), (4, 12, 7, 8)] {
        for length in [0, 1, 2, 5] {
            conforms!(conv((b, t, length), c, taps), 1e-5);
        }
    }
}

/// Sequences of one pass: of each the first new position, and how many there are.
fn conv_cached<B: Backward>(t: &Tester<B>, parts: &[(usize, usize)], c: usize, taps: usize) -> Outputs {
    let cache = |_: &_| KvCache { k: t.random(0), v: t.random(0), block: 1, tail: t.random((taps - 1) * c + 3) };
    let mut caches: Vec<_> = parts.iter().map(cache).collect();
    let n = c * parts.iter().map(|part| part.1).sum::<usize>();
    let (p, x, mut y) = (t.random(4 + c * taps), t.random(n + 1), t.garbage(n + 1));
    let with_caches = caches.iter_mut().zip(parts);
    let mut cached: Vec<_> = with_caches.map(|(cache, &(pos, t))| Cached { cache, pos, t }).collect();
    t.be.conv_cached(&mut y, &mut cached, &x, &p, Conv { w: param(3, c * taps), c, taps, tail: 2 });
    let mut outputs = vec![("y", (t.host)(&y))];
    outputs.extend(caches.iter().map(|cache| ("tail", (t.host)(&cache.tail))));
    outputs
}

#[test]
fn conv_cached_conforms() {
    let parts = [(0, 1), (0, 5), (1, 1), (2, 1), (7, 1), (100, 2), (3, 9)];
    for (c, taps) in [(1, 2), (5, 3), (16, 4), (34, 8)] {
        conforms!(conv_cached(&parts, c, taps), 1e-5);
        conforms!(conv_cached(&parts[..0], c, taps), 1e-5);
        parts.iter().for_each(|&part| {
            conforms!(conv_cached(&[part], c, taps), 1e-5);
        });
    }
}

fn rotations<B: Backward>(t: &Tester<B>, hs: usize, theta: f64, positions: &[usize]) -> Outputs {
    let mut table = t.garbage(positions.len() * hs + 1);
    t.be.rotations(&mut table, hs, theta, positions);
    vec![("table", (t.host)(&table))]
}

#[test]
fn rotations_conform_however_far_the_position() {
    for (hs, theta, t) in [(2, 1.0, 1), (4, 10_000.0, 5), (64, 1e6, 3), (128, 10_000.0, 0)] {
        for pos in [0, 1, 31, 1_000_003, 1 << 40] {
            let positions: Vec<_> = (0..t).map(|i| pos + i * i).collect();
            conforms!(rotations(hs, theta, &positions), 1e-7);
        }
    }
}

/// `nh` heads in groups of `group`.
fn qk<B: Backward>(
    t: &Tester<B>,
    (b, len, length): (usize, usize, usize),
    nh: usize,
    group: usize,
    hs: usize,
    w: Qk,
) -> Outputs {
    let positions = positions(b, len, length);
    let rows = Rows { positions: &positions, ..Rows::new(b, len) };
    let heads = Heads { c: nh * hs, nh, nkv: nh / group, scale: 1.0 };
    let (of_qkv, of_qk) = (rows.n() * heads.width(), rows.n() * (heads.c + heads.kv()));
    let (p, mut qkv, mut table) = (t.random(3 + 2 * hs), t.random(of_qkv), t.garbage(len * hs));
    if w.rotary {
        t.be.rotations(&mut table, hs, 1000.0, &(3..3 + len).collect::<Vec<_>>());
    }
    let mut pre = t.garbage(if w.norm.is_some() { of_qk } else { 0 });
    t.be.qk(&mut qkv, &mut pre, &table, pass(&p, rows), w, heads);
    let mut outputs = vec![("qkv", (t.host)(&qkv)), ("pre", (t.host)(&pre))];
    let of_one = [w.norm.map(|(q, k)| (frozen(q), k)), w.norm.map(|(q, k)| (q, frozen(k)))];
    for w in [w.norm, of_one[0], of_one[1]].map(|norm| Qk { norm, ..w }) {
        let (mut dqkv, mut g) = (t.random(of_qkv), t.random(3 + 2 * hs));
        t.be.qk_bwd(&mut dqkv, &mut add_to(&mut g), QkInput { pre: &pre, table: &table }, pass(&p, rows), w, heads);
        outputs.extend([("dqkv", (t.host)(&dqkv)), ("g", (t.host)(&g))]);
    }
    outputs
}

#[test]
fn qk_conforms() {
    for (b, t, nh, group, hs) in
        [(0, 3, 1, 1, 2), (1, 1, 1, 1, 2), (2, 3, 2, 2, 6), (3, 5, 6, 3, 16), (1, 9, 4, 1, 34), (2, 2, 2, 1, 128)]
    {
        let norm = Some((param(3, hs), param(3 + hs, hs)));
        let kinds = [(norm, 1e-5, true), (norm, 0.3, false), (None, 1e-5, true)];
        for w in kinds.map(|(norm, eps, rotary)| Qk { norm, eps, rotary }) {
            conforms!(qk((b, t, 0), nh, group, hs, w), 1e-5);
            conforms!(qk((b, t, 2), nh, group, hs, w), 1e-5);
        }
    }
}

fn cross_entropy<B: Backward>(t: &Tester<B>, n: usize, v: usize, grad: Option<Objective>) -> Outputs {
    let (mut logits, mut losses) = (t.random(n * v), t.garbage(n));
    let mut targets = t.ids(n, v);
    targets.iter_mut().skip(1).step_by(3).for_each(|target| *target = IGNORE);
    match grad {
        None => t.be.cross_entropy(&mut losses, &mut logits, &targets, v),
        Some(objective) => t.be.cross_entropy_grad(&mut losses, &mut logits, &targets, v, objective),
    }
    vec![("losses", (t.host)(&losses)), ("logits", (t.host)(&logits))]
}

#[test]
fn cross_entropy_conforms() {
    for (n, v) in [(0, 5), (1, 1), (3, 2), (4, 17), (2, 65), (3, 1000)] {
        let plain = Objective::of_losses(0.25);
        let held = Objective { z_loss: 0.3, ..plain };
        let capped = Objective { softcap: 5.0, ..plain };
        let both = Objective { softcap: 5.0, ..held };
        for grad in [None, Some(plain), Some(held), Some(capped), Some(both)] {
            conforms!(cross_entropy(n, v, grad), 5e-6);
        }
    }
}

#[test]
fn cross_entropy_survives_large_logits_and_passes_nan_on() {
    for isa in Isa::available() {
        let be = Cpu::with_isa(isa);
        let mut losses = be.zeros(3);
        let mut logits = vec![1000.0, -1000.0, 0.0, 0.0, f32::NAN, 0.0].into();
        be.cross_entropy(&mut losses, &mut logits, &[0, 0, 1], 2);
        assert_eq!(losses[0], 0.0);
        assert!((losses[1] - std::f32::consts::LN_2).abs() < 1e-6 && losses[2].is_nan(), "{losses:?}");
    }
}

fn softcap<B: Backward>(t: &Tester<B>, len: usize, cap: f64) -> Outputs {
    let mut z = t.random(len + 2);
    t.be.softcap(&mut z, cap, len);
    vec![("z", (t.host)(&z))]
}

#[test]
fn softcap_conforms() {
    for len in [0, 1, 7, 16, 100, 1_100_000] {
        for cap in [0.01, 1.0, 30.0, 1e6] {
            conforms!(softcap(len, cap), 1e-6);
        }
    }
}

fn optimizer<B: Backward>(t: &Tester<B>, len: usize, steps: u64) -> Outputs {
    let mut p = t.random(len + 2);
    let (mut m, mut v) = (t.be.zeros(len + 2), t.be.zeros(len + 2));
    for step in 1..=steps {
        let g = t.random(len + 2);
        let h = AdamW { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, step, grad_scale: 0.5 };
        t.be.adamw(&mut p, &g, &mut m, &mut v, span(1, len), &h);
    }
    vec![("p", (t.host)(&p)), ("m", (t.host)(&m)), ("v", (t.host)(&v))]
}

fn reduce<B: Backward>(t: &Tester<B>, len: usize, parts: usize) -> Outputs {
    let mut parts: Vec<_> = (0..parts).map(|_| t.random(len)).collect();
    // With a gap that stays as it is.
    let gap = (len / 5)..(len / 3);
    let spans = [span(0, gap.start), span(gap.end, len - gap.end)];
    let squares = t.be.reduce(&mut parts.iter_mut().collect::<Vec<_>>(), &spans);
    let total = parts.first().map(|total| (t.host)(total)).unwrap_or_default();
    vec![("total", total), ("sum of squares", vec![squares])]
}

#[test]
fn the_optimizer_conforms() {
    for len in [0, 1, 5, 16, 100, 40_000] {
        conforms!(optimizer(len, 3), 2e-5);
        for parts in [0, 1, 2, 5] {
            conforms!(reduce(len, parts), 1e-6);
        }
    }
}

/// Three steps on two matrices with a gap between them; `flat` gradients have only two singular values that are not noise.
fn muon<B: Backward>(t: &Tester<B>, rows: usize, cols: usize, ns_steps: usize, flat: bool) -> Outputs {
    let n = rows * cols;
    let matrices = [2, n + 5].map(|start| Matrix { span: span(start, n), rows, cols });
    let (mut p, mut m, mut g) = (t.random(2 * n + 7), t.random(2 * n + 7), t.random(2 * n + 7));
    if flat {
        m = t.be.zeros(2 * n + 7);
        let wave = |i: usize| ((i / cols) as f32).sin() + 1e-3 * ((i % cols * 7 + i) as f32).cos();
        t.be.upload(&mut g, 0, &(0..2 * n + 7).map(wave).collect::<Vec<_>>());
    }
    for step in 0..3 {
        let h = Muon { lr: 0.3, momentum: 0.9, ns_steps, weight_decay: 0.1, grad_scale: 0.5 + f64::from(step) };
        t.be.muon(&mut p, &g, &mut m, &matrices, &h);
    }
    vec![("p", (t.host)(&p)), ("m", (t.host)(&m))]
}

#[test]
fn muon_conforms() {
    for (rows, cols) in [(1, 1), (1, 9), (9, 1), (5, 5), (17, 33), (40, 16), (64, 64), (70, 70)] {
        for ns_steps in [1, 3, 5] {
            conforms!(muon(rows, cols, ns_steps, false), 1e-4);
        }
        conforms!(muon(rows, cols, 5, true), 1e-4);
        // More than six steps go another way with long matrices; a single value at the map's far end is less well known.
        for flat in [false, true] {
            conforms!(muon(rows, cols, 8, flat), 1e-2);
        }
    }
}

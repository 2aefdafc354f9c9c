//! Every backward pass of the reference against central differences in f64: operation by operation, then the whole
//! model in every variant the configuration offers, dropout included (its masks are a function of a key).

use crate::{add_to, param, pass, plain, rows};
use kinglet_core::{
    backend::{
        Activated, Attended, Backward, Forward, Gradients, Heads, IGNORE, Normed, Objective, Pass, QkInput, Reference,
        Rows,
    },
    config::{Activation, Config, NormKind},
    model::{Acts, Gpt},
    params::{Embedding, Linear, Lora, Norm, Qk},
    rng::{Dropout, DropoutKey, Purpose, Rng},
};

const BE: Reference = Reference;
const KEY: DropoutKey = DropoutKey { seed: 1, step: 2, first_sequence: 3 };

fn random(stream: u64, len: usize) -> Vec<f64> {
    let mut rng = Rng::new(21, Purpose::Init, 0, stream);
    (0..len).map(|_| rng.normal()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Asserts that `grad[i]` is the derivative of `f` by `x[i]` for each `i` of `which`.
#[track_caller]
fn check(
    what: &str,
    x: &[f64],
    grad: &[f64],
    which: impl IntoIterator<Item = usize>,
    mut f: impl FnMut(&[f64]) -> f64,
) {
    let scale = (dot(grad, grad) / grad.len() as f64).sqrt();
    let mut x = x.to_vec();
    for i in which {
        let (old, h) = (x[i], 1e-5);
        x[i] = old + h;
        let above = f(&x);
        x[i] = old - h;
        let below = f(&x);
        x[i] = old;
        let numeric = (above - below) / (2.0 * h);
        let close = (grad[i] - numeric).abs() <= 1e-6 * (numeric.abs() + scale);
        assert!(close, "{what}: element {i}: backward {}, differences {numeric}", grad[i]);
    }
}

fn drop_of(rate: f32) -> Option<Dropout> {
    (rate > 0.0).then_some(Dropout { rate, site: 4, key: KEY })
}

#[test]
fn embed() {
    let (rows, c, ids) = (Rows::new(2, 3), 4, [1, 0, 1, 2, 2, 1]);
    let w = Embedding { wte: param(0, 12), wpe: Some(param(12, 16)), c };
    let (p, weight) = (random(0, 28), random(1, 24));
    for rate in [0.0, 0.4] {
        let mut g = vec![0.0; 28];
        BE.embed_bwd(&mut add_to(&mut g), &mut weight.clone(), pass(&p, rows), w, &ids, drop_of(rate));
        check("embed", &p, &g, 0..28, |p| {
            let mut x = vec![0.0; 24];
            BE.embed(&mut x, pass(&p.to_vec(), rows), w, &ids, drop_of(rate));
            dot(&x, &weight)
        });
    }
}

#[test]
fn norm() {
    let (n, c) = (3, 5);
    let kinds = [NormKind::LayerNorm, NormKind::RmsNorm];
    for (kind, bias) in kinds.into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
        let w = Norm { w: param(0, c), b: bias.then(|| param(c, c)), kind, eps: 0.2 };
        let (x, p, weight) = (random(0, n * c), random(1, 2 * c), random(2, n * c));
        let run = |x: &[f64], p: &[f64]| {
            let (mut y, mut stats) = (vec![0.0; n * c], vec![0.0; 2 * n]);
            BE.norm(&mut y, &mut stats, &x.to_vec(), pass(&p.to_vec(), rows(n)), w);
            (dot(&y, &weight), stats)
        };
        let (mut dx, mut g) = (vec![0.0; n * c], vec![0.0; 2 * c]);
        BE.norm_bwd(
            &mut dx,
            &mut add_to(&mut g),
            &weight,
            Normed { x: &x, stats: &run(&x, &p).1 },
            pass(&p, rows(n)),
            w,
        );
        check(&format!("{kind:?} dx"), &x, &dx, 0..n * c, |x| run(x, &p).0);
        check(&format!("{kind:?} dw db"), &p, &g, 0..2 * c, |p| run(&x, p).0);
    }
}

#[test]
fn linear() {
    let (n, i, o) = (3, 4, 5);
    for bias in [true, false] {
        let w = plain(param(0, i * o), bias.then(|| param(i * o, o)), i, o);
        let (x, p, weight) = (random(0, n * i), random(1, i * o + o), random(2, n * o));
        let run = |x: &[f64], p: &[f64]| {
            let mut y = vec![0.0; n * o];
            BE.linear(&mut y, &x.to_vec(), pass(&p.to_vec(), rows(n)), w);
            dot(&y, &weight)
        };
        let (mut dx, mut g) = (vec![9.0; n * i], vec![0.0; i * o + o]);
        BE.linear_bwd(&mut dx, &mut add_to(&mut g), &weight, &x, pass(&p, rows(n)), w);
        check("linear dx", &x, &dx, 0..n * i, |x| run(x, &p));
        check("linear dw db", &p, &g, 0..i * o + o, |p| run(&x, p));
    }
}

#[test]
fn adapter() {
    let (rows, i, o, r) = (Rows::new(2, 3), 5, 4, 2);
    for rate in [0.0, 0.4] {
        let lora = Lora { a: param(24, r * i), b: param(24 + r * i, r * o), r, scale: 1.5, rate, site: 4 };
        let w = Linear { lora: Some(lora), ..plain(param(0, i * o), Some(param(i * o, o)), i, o) };
        let len = 24 + r * (i + o);
        let (x, p, weight) = (random(0, 6 * i), random(1, len), random(2, 6 * o));
        let run = |x: &[f64], p: &[f64]| {
            let mut y = vec![0.0; 6 * o];
            BE.linear(&mut y, &x.to_vec(), Pass { p: &p.to_vec(), rows, dropout: Some(KEY) }, w);
            dot(&y, &weight)
        };
        let (mut dx, mut g) = (vec![9.0; 6 * i], vec![0.0; len]);
        BE.linear_bwd(&mut dx, &mut add_to(&mut g), &weight, &x, Pass { p: &p, rows, dropout: Some(KEY) }, w);
        check("adapter dx", &x, &dx, 0..x.len(), |x| run(x, &p));
        check("adapter dw db dA dB", &p, &g, 0..len, |p| run(&x, p));
    }
}

/// Two layers with an activation between them, by everything that goes in.
#[test]
fn linear_act() {
    let (n, i, o) = (3, 4, 5);
    let up = plain(param(0, i * o), Some(param(2 * i * o, o)), i, o);
    let down = plain(param(i * o, i * o), None, o, i);
    for act in [Activation::Relu, Activation::ReluSquared, Activation::Gelu, Activation::GeluTanh] {
        let (x, p, weight) = (random(0, n * i), random(1, 2 * i * o + o), random(2, n * i));
        let run = |x: &[f64], p: &[f64]| {
            let (mut y, mut pre, mut z) = (vec![0.0; n * o], vec![0.0; n * o], vec![0.0; n * i]);
            BE.linear_act(&mut y, &mut pre, &x.to_vec(), pass(&p.to_vec(), rows(n)), up, act);
            BE.linear(&mut z, &y, pass(&p.to_vec(), rows(n)), down);
            (dot(&z, &weight), y, pre)
        };
        let (_, y, pre) = run(&x, &p);
        let (mut dpre, mut dx, mut g) = (vec![9.0; n * o], vec![9.0; n * i], vec![0.0; p.len()]);
        BE.linear_bwd_act(
            &mut dpre,
            &mut add_to(&mut g),
            &weight,
            Activated { y: &y, pre: &pre, act },
            pass(&p, rows(n)),
            down,
        );
        BE.linear_bwd(&mut dx, &mut add_to(&mut g), &dpre, &x, pass(&p, rows(n)), up);
        check(&format!("{act:?} dx"), &x, &dx, 0..x.len(), |x| run(x, &p).0);
        check(&format!("{act:?} dw db"), &p, &g, 0..p.len(), |p| run(&x, p).0);
    }
}

#[test]
fn swiglu() {
    let (h, n) = (5, 3);
    let (z, weight) = (random(0, 2 * n * h), random(1, n * h));
    let mut dz = vec![9.0; 2 * n * h];
    BE.swiglu_bwd(&mut dz, &weight, &z, h, n);
    check("swiglu", &z, &dz, 0..z.len(), |z| {
        let mut y = vec![0.0; n * h];
        BE.swiglu(&mut y, &z.to_vec(), h, n);
        dot(&y, &weight)
    });
}

#[test]
fn attention() {
    let (heads, rows) = (Heads { c: 6, nh: 2, nkv: 2, scale: 0.7 }, Rows::new(2, 4));
    let (qkv, weight) = (random(0, 8 * 18), random(1, 8 * 6));
    for rate in [0.0, 0.3] {
        let run = |qkv: &[f64]| {
            let (mut out, mut lse) = (vec![0.0; 48], vec![0.0; 16]);
            BE.attention(&mut out, &mut lse, &qkv.to_vec(), heads, rows, drop_of(rate));
            (out, lse)
        };
        let (out, lse) = run(&qkv);
        let mut dqkv = vec![9.0; 144];
        BE.attention_bwd(&mut dqkv, &weight, Attended { qkv: &qkv, out: &out, lse: &lse }, heads, rows, drop_of(rate));
        check("attention", &qkv, &dqkv, 0..144, |qkv| dot(&run(qkv).0, &weight));
    }
}

#[test]
fn attention_of_groups_of_heads() {
    for (nh, nkv) in [(4, 2), (3, 1)] {
        let heads = Heads { c: 3 * nh, nh, nkv, scale: 0.7 };
        let (rows, c, width) = (Rows::new(2, 4), heads.c, heads.width());
        let (qkv, weight) = (random(0, 8 * width), random(1, 8 * c));
        let run = |qkv: &[f64]| {
            let (mut out, mut lse) = (vec![0.0; 8 * c], vec![0.0; 8 * nh]);
            BE.attention(&mut out, &mut lse, &qkv.to_vec(), heads, rows, drop_of(0.3));
            (out, lse)
        };
        let (out, lse) = run(&qkv);
        let mut dqkv = vec![9.0; 8 * width];
        BE.attention_bwd(&mut dqkv, &weight, Attended { qkv: &qkv, out: &out, lse: &lse }, heads, rows, drop_of(0.3));
        check("attention of groups", &qkv, &dqkv, 0..8 * width, |qkv| dot(&run(qkv).0, &weight));
    }
}

#[test]
fn queries_and_keys() {
    let (heads, rows, hs) = (Heads { c: 8, nh: 2, nkv: 1, scale: 1.0 }, Rows::new(2, 3), 4);
    let (len, norm) = (rows.n() * heads.width(), Some((param(0, hs), param(hs, hs))));
    let (qkv, p, weight) = (random(0, len), random(1, 2 * hs), random(2, len));
    let mut table = vec![0.0; rows.t * hs];
    BE.rotations(&mut table, hs, 100.0, &[0, 1, 2]);
    let kinds = [(norm, 0.2, false), (None, 1e-5, true), (norm, 1e-5, true)];
    for w in kinds.map(|(norm, eps, rotary)| Qk { norm, eps, rotary }) {
        let run = |qkv: &[f64], p: &[f64]| {
            let (mut y, mut pre) = (qkv.to_vec(), vec![0.0; rows.n() * 12]);
            BE.qk(&mut y, &mut pre, &table, pass(&p.to_vec(), rows), w, heads);
            (dot(&y, &weight), pre)
        };
        let (mut dqkv, mut g) = (weight.clone(), vec![0.0; 2 * hs]);
        BE.qk_bwd(
            &mut dqkv,
            &mut add_to(&mut g),
            QkInput { pre: &run(&qkv, &p).1, table: &table },
            pass(&p, rows),
            w,
            heads,
        );
        check("qk dqkv", &qkv, &dqkv, 0..len, |qkv| run(qkv, &p).0);
        if w.norm.is_some() {
            check("qk g", &p, &g, 0..2 * hs, |p| run(&qkv, p).0);
        }
    }
}

#[test]
fn linear_residual() {
    let (rows, w) = (Rows::new(2, 3), plain(param(0, 12), Some(param(12, 4)), 3, 4));
    let (x, p, residual, weight) = (random(0, 18), random(1, 16), random(2, 24), random(3, 24));
    let run = |x: &[f64]| {
        let mut out = vec![0.0; 24];
        BE.linear_residual(&mut out, &residual, &x.to_vec(), pass(&p, rows), w, drop_of(0.4));
        dot(&out, &weight)
    };
    let (mut dbranch, mut dx) = (vec![9.0; 24], vec![9.0; 18]);
    BE.dropout_bwd(&mut dbranch, &weight, 4, rows, drop_of(0.4).unwrap());
    BE.linear_bwd(&mut dx, &mut add_to(&mut vec![0.0; 16]), &dbranch, &x, pass(&p, rows), w);
    check("linear_residual", &x, &dx, 0..18, run);
}

#[test]
fn cross_entropy() {
    let (logits, targets) = (random(0, 20), [4, 0, IGNORE, 2]);
    let mut grad = logits.clone();
    BE.cross_entropy_grad(&mut vec![0.0; 4], &mut grad, &targets, 5, Objective::of_losses(0.5));
    assert!(grad[10..15].iter().all(|&d| d == 0.0));
    check("cross-entropy", &logits, &grad, 0..20, |logits| {
        let mut losses = vec![0.0; 4];
        BE.cross_entropy(&mut losses, &mut logits.to_vec(), &targets, 5);
        0.5 * losses.iter().sum::<f64>()
    });
}

/// The objective by what the soft cap made the logits from.
#[test]
fn cross_entropy_with_soft_cap_and_z_loss() {
    let (logits, targets) = (random(0, 20), [4, 0, IGNORE, 2]);
    for (softcap, z_loss) in [(1.5, 0.0), (0.0, 0.3), (1.5, 0.3)] {
        let capped = |logits: &[f64]| {
            let mut z = logits.to_vec();
            if softcap > 0.0 {
                BE.softcap(&mut z, softcap, 20);
            }
            z
        };
        let mut grad = capped(&logits);
        BE.cross_entropy_grad(&mut vec![0.0; 4], &mut grad, &targets, 5, Objective { scale: 0.5, z_loss, softcap });
        check(&format!("cap {softcap} z-loss {z_loss}"), &logits, &grad, 0..20, |logits| {
            0.5 * objective(&capped(logits), &targets, 5, z_loss).iter().sum::<f64>()
        });
    }
}

/// What each row of logits adds to the objective.
fn objective(logits: &[f64], targets: &[u32], v: usize, z_loss: f64) -> Vec<f64> {
    let mut losses = vec![0.0; targets.len()];
    BE.cross_entropy(&mut losses, &mut logits.to_vec(), targets, v);
    let counted = losses.iter_mut().zip(targets).enumerate().filter(|(_, (_, target))| **target != IGNORE);
    for (r, (loss, &target)) in counted {
        let lse = *loss + logits[r * v + target as usize];
        *loss += z_loss * lse * lse;
    }
    losses
}

/// The gradient of the whole model by a few elements of every parameter.
fn whole_model(settings: &[&str]) {
    whole_model_of(settings, Rows::new(2, 5));
}

/// The same for these two sequences of five positions.
fn whole_model_of(settings: &[&str], rows: Rows) {
    let mut config = Config::default();
    let small = ["vocab_size=7", "block_size=5", "n_layer=2", "n_head=2", "n_embd=6"];
    small.iter().chain(settings).for_each(|setting| config.set(setting).unwrap());
    let model = Gpt::new(&config).unwrap();
    let p: Vec<f64> = random(3, model.layout.len()).iter().map(|x| 0.4 * x).collect();
    let mut rng = Rng::new(5, Purpose::Batch, 0, 0);
    let mut tokens = || (0..10).map(|_| rng.below(7) as u32).collect::<Vec<_>>();
    let (ids, targets) = (tokens(), tokens());
    let mut acts = model.acts(&BE, 2, true);
    let loss = |p: &[f64], acts: &mut Acts<Reference>| {
        model.forward(&BE, Pass { p: &p.to_vec(), rows, dropout: Some(KEY) }, acts, &ids);
        let losses = objective(acts.logits(), &targets, 7, config.z_loss);
        losses.iter().sum::<f64>() / 10.0
    };
    loss(&p, &mut acts);
    model.losses_grad(&BE, &mut acts, &targets, 0.1);
    let (mut g, mut scratch) = (vec![0.0; p.len()], model.act_grads(&BE, 2));
    let trained = model.layout.tensors.iter().filter(|tensor| tensor.trainable);
    trained.for_each(|tensor| g[tensor.span.range()].fill(f64::NAN)); // overwritten
    let mut backward = |g: &mut _, add| {
        let pass = Pass { p: &p, rows, dropout: Some(KEY) };
        model.backward(&BE, pass, &mut Gradients { g, add }, (&acts, &mut scratch), &ids, |_, _| ());
    };
    backward(&mut g, false);
    let mut twice = g.clone();
    backward(&mut twice, true);
    let close = |(twice, g): (&f64, &f64)| (twice - 2.0 * g).abs() < 1e-12 * g.abs().max(1.0);
    assert!(twice.iter().zip(&g).all(close), "{settings:?}");
    for tensor in &model.layout.tensors {
        let range = tensor.span.range();
        if !tensor.trainable {
            assert!(g[range].iter().all(|&g| g == 0.0), "{}", tensor.name);
            continue;
        }
        let some: Vec<usize> = range.clone().step_by((tensor.span.len / 7).max(1)).collect();
        check(&format!("{settings:?} {}", tensor.name), &p, &g, some, |p| loss(p, &mut acts));
    }
}

/// The gradient of a model that a teacher leads is that of both cross-entropies, by their shares.
#[test]
fn what_a_teacher_leads_to() {
    const SHARE: f64 = 0.3;
    let small = ["vocab_size=7", "block_size=5", "n_layer=2", "n_head=2", "n_embd=6", "z_loss=0.1"];
    let model = Gpt::new(&Config::default().with(&small).unwrap()).unwrap();
    let numbers = |stream| random(stream, model.layout.len()).iter().map(|x| 0.4 * x).collect::<Vec<f64>>();
    let (p, of_teacher) = (numbers(3), numbers(4));
    let mut rng = Rng::new(5, Purpose::Batch, 0, 0);
    let mut tokens = || (0..10).map(|_| rng.below(7) as u32).collect::<Vec<_>>();
    let (ids, mut targets) = (tokens(), tokens());
    targets[4] = IGNORE;
    let rows = Rows::new(2, 5);
    let (mut acts, mut teacher) = (model.acts(&BE, 2, true), model.acts(&BE, 2, false));
    model.forward(&BE, Pass { p: &of_teacher, rows, dropout: None }, &mut teacher, &ids);
    let probabilities: Vec<f64> = teacher
        .logits()
        .chunks_exact(7)
        .flat_map(|z| {
            let sum: f64 = z.iter().map(|z| z.exp()).sum();
            z.iter().map(move |z| z.exp() / sum)
        })
        .collect();
    let loss = |p: &[f64], acts: &mut Acts<Reference>| {
        model.forward(&BE, Pass { p: &p.to_vec(), rows, dropout: None }, acts, &ids);
        let own: f64 = objective(acts.logits(), &targets, 7, 0.1).iter().sum();
        let mut moved = 0.0;
        for ((z, q), &target) in acts.logits().chunks_exact(7).zip(probabilities.chunks_exact(7)).zip(&targets) {
            if target != IGNORE {
                // The cross-entropy with the teacher less that with the target: the log-sum-exp cancels.
                moved += z[target as usize] - z.iter().zip(q).map(|(z, q)| z * q).sum::<f64>();
            }
        }
        (own + SHARE * moved) / 9.0
    };
    loss(&p, &mut acts);
    model.losses_grad(&BE, &mut acts, &targets, 1.0 / 9.0);
    model.teach(&BE, &mut acts, &teacher, &targets, SHARE / 9.0);
    let (mut g, mut scratch) = (vec![0.0; p.len()], model.act_grads(&BE, 2));
    let pass = Pass { p: &p, rows, dropout: None };
    model.backward(&BE, pass, &mut Gradients { g: &mut g, add: false }, (&acts, &mut scratch), &ids, |_, _| ());
    for tensor in &model.layout.tensors {
        let some: Vec<usize> = tensor.span.range().step_by((tensor.span.len / 7).max(1)).collect();
        check(&tensor.name, &p, &g, some, |p| loss(p, &mut acts));
    }
}

#[test]
fn the_whole_model_in_every_variant() {
    let dropout = "dropout=0.2";
    whole_model(&[]);
    whole_model(&[dropout, "embd_dropout=0.3", "bias=[\"proj\",\"mlp\",\"head\",\"norm\"]", "attention_scale=n_embd"]);
    whole_model(&[dropout, "activation=gelu", "bias=true", "tie_weights=true"]);
    whole_model(&["activation=gelu_tanh", "bias=[\"qkv\",\"head\"]", "tie_weights=true", "n_layer=1"]);
    whole_model(&[dropout, "bias=[\"norm\"]", "n_head=1", "n_layer=3"]);
}

#[test]
fn the_whole_model_with_other_norms_mlps_and_objectives() {
    let (dropout, swiglu) = ("dropout=0.2", "activation=swiglu");
    whole_model(&[dropout, "norm=rmsnorm", "bias=true", "activation=relu_squared"]);
    whole_model(&["norm=rmsnorm", swiglu, "tie_weights=true"]);
    whole_model(&[dropout, swiglu, "n_inner=5", "bias=[\"mlp\",\"head\"]", "logit_softcap=0.8"]);
    whole_model(&["n_inner=3", "z_loss=0.1", "zero_init_proj=true"]);
    whole_model(&[dropout, "z_loss=0.2", "logit_softcap=0.5", "activation=relu_squared", "n_inner=40"]);
    whole_model(&["lora_rank=2", swiglu, "lora_dropout=0.3", "norm=rmsnorm", "bias=[\"mlp\"]", "z_loss=0.2"]);
    whole_model(&["freeze=[\"*.c_fc.*\",\"*.ln_1.*\"]", swiglu, "norm=rmsnorm", "logit_softcap=2"]);
}

#[test]
fn the_whole_model_with_every_kind_of_attention() {
    let (rotary, wider) = ("position=rotary", "n_embd=16");
    whole_model(&[rotary, "n_embd=8"]);
    whole_model(&["qk_norm=true", "bias=[\"qkv\"]"]);
    whole_model(&[wider, "n_head=4", "n_kv_head=2", "dropout=0.2"]);
    whole_model(&[wider, "n_head=4", "n_kv_head=1", rotary, "rope_theta=50", "qk_norm=true", "tie_weights=true"]);
    whole_model(&[wider, "n_head=4", "n_kv_head=2", rotary, "qk_norm=true", "dropout=0.2", "embd_dropout=0.3"]);
    whole_model(&[wider, "n_head=4", "n_kv_head=2", rotary, "qk_norm=true", "lora_rank=3", "lora_dropout=0.3"]);
    whole_model(&["qk_norm=true", "freeze=[\"*.q_norm.*\",\"*.c_attn.*\"]"]);
    whole_model(&["qkv_conv=3"]);
    whole_model(&["res_conv=3"]);
    whole_model(&["res_conv=2", "qkv_conv=4", rotary, "n_embd=8", "dropout=0.2", "tie_weights=true"]);
    whole_model(&["res_conv=2", "lora_rank=3", "freeze=[\"transformer.h.*.conv.*\"]"]);
    whole_model(&[
        wider,
        "n_head=4",
        "n_kv_head=2",
        rotary,
        "qkv_conv=5",
        "qk_norm=true",
        "bias=[\"qkv\"]",
        "dropout=0.2",
    ]);
    whole_model(&["qkv_conv=2", "lora_rank=3", "freeze=[\"*.attn.conv.*\"]"]);
    // Heads narrower and wider than n_embd / n_head, and such as do not divide n_embd.
    whole_model(&["head_size=2", "norm_eps=0.1", "bias=[\"qkv\",\"proj\",\"norm\"]", "dropout=0.2"]);
    whole_model(&["head_size=8", rotary, "qk_norm=true", "norm_eps=0.5", "norm=rmsnorm", "n_kv_head=1"]);
    whole_model(&[
        "head_size=4",
        "n_head=4",
        "n_kv_head=2",
        rotary,
        "lora_rank=2",
        "lora_dropout=0.3",
        "activation=gelu",
    ]);
}

#[test]
fn the_whole_model_with_several_documents_in_a_sequence() {
    let rows = Rows { positions: &[0, 1, 0, 1, 2, 0, 0, 1, 2, 3], ..Rows::new(2, 5) };
    whole_model_of(&["dropout=0.2", "embd_dropout=0.3", "qkv_conv=3", "res_conv=2"], rows);
    whole_model_of(&["position=rotary", "n_embd=16", "n_head=4", "n_kv_head=2", "qk_norm=true", "dropout=0.2"], rows);
}

#[test]
fn the_whole_model_with_adapters_and_frozen_tensors() {
    let (rank, all) = ("lora_rank=3", "lora_targets=[\"qkv\",\"proj\",\"mlp\",\"head\"]");
    whole_model(&[rank]);
    whole_model(&[rank, all, "lora_dropout=0.3", "dropout=0.2", "bias=true", "activation=gelu"]);
    whole_model(&[rank, all, "lora_dropout=0.3", "tie_weights=true", "lora_alpha=2", "modules_to_save=[\"*wte*\"]"]);
    whole_model(&["lora_rank=9", "lora_targets=[\"head\"]", "tie_weights=true", "activation=gelu_tanh"]);
    whole_model(&[rank, "freeze=[\"*.lora_A.weight\"]", "modules_to_save=[\"*.ln_f.*\",\"lm_head.*\"]"]);
    whole_model(&["freeze=[\"*.weight\"]", "bias=[\"qkv\",\"proj\",\"mlp\",\"head\",\"norm\"]"]);
    whole_model(&["freeze=[\"*.wte.*\",\"*.0.*c_proj*\"]", "tie_weights=true"]);
}

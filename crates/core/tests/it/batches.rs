//! Many sequences in one pass: each gets what it would get alone, to the bit.

use kinglet_core::{
    backend::{Cpu, Forward},
    config::Config,
    model::{Gpt, Part},
    quant::Weights,
    rng::{Purpose, Rng},
    sample::{Drawn, Sampling, Sequence, Stream, draw},
    threads::Pool,
};
use kinglet_kernels::Isa;

/// Shapes that take different ways through the kernels: learned positions, which begin anew past the block, and rotary ones,
/// which slide.
const SHAPES: [&[&str]; 7] = [
    &["n_embd=32", "n_head=4", "n_layer=2", "block_size=12"],
    &["n_embd=48", "n_head=3", "n_layer=2", "block_size=40", "position=rotary", "activation=swiglu", "norm=rmsnorm"],
    &["n_embd=64", "n_head=4", "n_layer=3", "block_size=16", "position=rotary", "n_kv_head=2", "qk_norm=true"],
    &["n_embd=64", "n_head=4", "block_size=16", "position=rotary", "qkv_conv=3", "res_conv=2"],
    &["n_embd=40", "n_head=5", "n_layer=1", "block_size=1", "activation=gelu", "bias=true"],
    &["n_embd=24", "n_head=2", "n_layer=2", "block_size=70", "logit_softcap=3.0", "head_size=20"],
    &["n_embd=128", "n_head=4", "n_layer=2", "block_size=33", "vocab_size=300", "activation=relu_squared"],
];

struct Setting {
    be: Cpu,
    model: Gpt,
    weights: <Cpu as Forward>::Buf,
}

/// What weights are.
const KINDS: [&[&str]; 5] = [
    &[],
    &["precision=bf16"],
    &["quantization=w8"],
    &["quantization=w4"],
    &["quantization=w4", "quantize_head=true", "quantize_embeddings=true"],
];

fn setting(isa: Isa, kind: &[&str], shape: &[&str], packed: bool) -> Setting {
    let config = Config::default().with(&[&["vocab_size=61"], shape, kind].concat()).unwrap();
    let model = Gpt::new(&config).unwrap();
    let be = Cpu::with_isa(isa).with_precision(config.precision).with_quantization(config.quantization);
    // Larger than at initialisation, so that no token is certain and none impossible; and convolutions are not the identity.
    let numbers = model.layout.init(5).iter().map(|&x| if x == 0.0 { 0.5 } else { 3.0 * x }).collect();
    let mut weights = be.parameters(&Weights::rounded(&config, &model.layout, numbers).unwrap());
    if packed {
        be.pack_weights(&mut weights, &model.layout.linears(), false);
    }
    Setting { be, model, weights }
}

/// A prompt, how it is continued, its index, and how many tokens are drawn.
type Task = (Vec<u32>, Sampling, u64, usize);

fn task(rng: &mut Rng, model: &Gpt) -> Task {
    let below = |rng: &mut Rng, n: usize| rng.below(n as u64) as usize;
    let prompt = (0..=below(rng, 2 * model.block_size + 3)).map(|_| below(rng, model.vocab_size) as u32).collect();
    let mut sampling = Sampling::default();
    sampling.seed = rng.below(5);
    sampling.temperature = [0.0, 0.7, 1.0][below(rng, 3)];
    sampling.top_k = [0, 5][below(rng, 2)];
    sampling.top_p = [1.0, 0.9][below(rng, 2)];
    sampling.frequency_penalty = [0.0, 0.5][below(rng, 2)];
    // With token 0 a new document begins.
    sampling.logit_bias = vec![(0, [0.0, 2.0][below(rng, 2)])];
    (prompt, sampling, rng.below(3), 1 + below(rng, 40))
}

fn alone(on: &Setting, (prompt, sampling, index, tokens): &Task) -> Vec<Drawn> {
    let mut stream = Stream::new(&on.be, &on.model, prompt, sampling.clone(), *index).unwrap().parting_at(Some(0));
    (0..*tokens).map(|_| stream.draw(&on.be, &on.model, &on.weights).unwrap()).collect()
}

/// Sequences that come and go at random, in passes with some of those that are there.
fn together(on: &Setting, tasks: &[Task], rng: &mut Rng) -> Vec<Vec<Drawn>> {
    let mut decoder = on.model.decoder(&on.be);
    let mut running: Vec<(usize, Sequence<Cpu>)> = Vec::new();
    let mut drawn: Vec<Vec<Drawn>> = vec![Vec::new(); tasks.len()];
    let mut next = 0;
    while next < tasks.len() || !running.is_empty() {
        for _ in 0..rng.below(4) {
            if let Some((prompt, sampling, index, _)) = tasks.get(next) {
                let sequence = Sequence::new(&on.be, &on.model, prompt, sampling.clone(), *index).unwrap();
                running.push((next, sequence.parting_at(Some(0))));
                next += 1;
            }
        }
        let mut now: Vec<_> = running.iter_mut().filter(|_| rng.below(5) > 0).collect();
        let mut sequences: Vec<_> = now.iter_mut().map(|(_, sequence)| sequence).collect();
        let tokens = draw(&on.be, &on.model, &on.weights, &mut decoder, &mut sequences);
        for ((task, _), token) in now.iter().zip(tokens) {
            drawn[*task].push(token.unwrap());
        }
        running.retain(|(task, _)| drawn[*task].len() < tasks[*task].3);
    }
    drawn
}

#[test]
fn what_a_sequence_gets_does_not_depend_on_the_others() {
    let (mut rng, mut documents) = (Rng::new(11, Purpose::Sample, 0, 0), 0);
    for isa in Isa::available() {
        for (kind, packed) in KINDS.map(|kind| (kind, true)).into_iter().chain([(KINDS[0], false)]) {
            for shape in SHAPES {
                let on = setting(isa, kind, shape, packed);
                let tasks: Vec<_> = (0..20).map(|_| task(&mut rng, &on.model)).collect();
                let want: Vec<_> = tasks.iter().map(|task| alone(&on, task)).collect();
                documents += want.iter().flatten().filter(|drawn| drawn.id == 0).count();
                assert!(together(&on, &tasks, &mut rng) == want, "{isa:?} {kind:?} {shape:?}");
                let pool = Pool::new(3).unwrap();
                let in_pool = pool.run(|| together(&on, &tasks, &mut rng));
                assert!(in_pool == want, "{isa:?} {kind:?} {shape:?} in a pool");
            }
        }
    }
    assert!(documents > 100, "{documents} documents begin");
}

#[test]
fn how_a_prompt_is_divided_among_passes_does_not_matter() {
    let mut rng = Rng::new(12, Purpose::Sample, 0, 0);
    for isa in Isa::available() {
        for kind in KINDS {
            for shape in SHAPES {
                let on = setting(isa, kind, shape, true);
                let Setting { be, model, weights } = &on;
                let ids: Vec<u32> = (0..model.block_size).map(|_| rng.below(model.vocab_size as u64) as u32).collect();
                let logits = |pieces: &mut dyn FnMut(usize) -> usize| {
                    let (mut kv, mut decoder) = (model.kv(be), model.decoder(be));
                    let (mut at, mut logits) = (0, vec![0.0; model.vocab_size]);
                    while at < ids.len() {
                        let piece = pieces(ids.len() - at).clamp(1, ids.len() - at);
                        let part = Part { kv: &mut kv, ids: &ids[at..at + piece] };
                        model.advance(be, weights, &mut decoder, &mut [part], &mut logits);
                        at += piece;
                    }
                    logits
                };
                let whole = logits(&mut |left| left);
                assert_eq!(logits(&mut |_| 1), whole, "{isa:?} {kind:?} {shape:?}");
                for _ in 0..5 {
                    let divided = logits(&mut |left| 1 + rng.below(left as u64) as usize);
                    assert_eq!(divided, whole, "{isa:?} {kind:?} {shape:?}");
                }
            }
        }
    }
}

#[test]
fn the_most_probable_tokens_come_with_what_the_model_gives_them() {
    let on = setting(Isa::detect(), KINDS[0], SHAPES[1], true);
    let Setting { be, model, weights } = &on;
    let mut sampling = Sampling::default();
    sampling.logit_bias = vec![(3, 2.0)];
    let sequence = |barred: &[u32]| {
        Sequence::new(be, model, &[1, 2, 3], sampling.clone(), 0).unwrap().barring(barred).top(model.vocab_size)
    };
    let (mut open, mut barred) = (sequence(&[]), sequence(&[5, 6]));
    let drawn = draw(be, model, weights, &mut model.decoder(be), &mut [&mut open, &mut barred]);
    let [open, barred] = &*drawn.into_iter().map(Result::unwrap).collect::<Vec<_>>() else { panic!("one each") };
    let sum: f64 = open.top.iter().map(|(_, logprob)| logprob.exp()).sum();
    assert!((sum - 1.0).abs() < 1e-5 && open.top.len() == model.vocab_size, "{sum}");
    assert!(open.top.is_sorted_by(|a, b| a.1 >= b.1));
    let of = |drawn: &Drawn, id: u32| drawn.top.iter().find(|(other, _)| *other == id).map(|(_, logprob)| *logprob);
    assert_eq!(of(open, open.id), Some(open.logprob));
    assert_eq!((of(barred, 5), of(barred, 6), barred.top.len()), (None, None, model.vocab_size - 2));
    assert!((of(barred, 7).unwrap() - of(open, 7).unwrap()).abs() < 1e-5, "what is barred keeps its share");
}

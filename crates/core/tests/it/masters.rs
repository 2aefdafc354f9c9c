//! Training with weights in few bits: what the model computes with, where its gradient is taken, and what the optimizer changes.

use kinglet_core::{
    backend::{Backward, Buf, Cpu, Forward, Reference},
    batch::Batch,
    config::Config,
    masters::Masters,
    model::Gpt,
    optim::Optimizer,
    quant::Weights,
    shards::Shards,
};

fn config(settings: &[&str]) -> Config {
    let small = ["vocab_size=11", "block_size=16", "n_layer=2", "n_head=2", "n_embd=48", "batch_size=2", "shards=2"];
    Config::default().with(&small).unwrap().with(settings).unwrap()
}

fn batch() -> Batch {
    let mut batch = Batch::default();
    let ids: Vec<u32> = (0..200u32).map(|i| (i * i + i / 7) % 11).collect();
    (0..2).for_each(|i| _ = batch.add(&ids[i * 50..][..17]));
    batch
}

fn masters<B: Backward>(be: &B, model: &Gpt, config: &Config, w: &[f32]) -> Masters<B> {
    let mut masters = Masters::new(be, &model.layout, config);
    be.upload(masters.masters_mut(), 0, w);
    masters
}

fn download<B: Forward>(be: &B, buf: &B::Buf, len: usize) -> Vec<f32> {
    let mut numbers = vec![0.0; len];
    be.download(buf, 0, &mut numbers);
    numbers
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// They are the numbers of the model that a checkpoint of these masters is, in every backend, and follow the masters.
#[test]
fn the_model_computes_with_what_a_checkpoint_is() {
    for settings in [
        &["quantization=w8"][..],
        &["quantization=w4"],
        &["quantization=w4", "quantize_head=true"],
        &["quantization=w4", "quantize_embeddings=true", "quantize_head=true", "tie_weights=true"],
        &["quantization=w8", "position=rotary", "activation=swiglu", "bias=false", "quantize_embeddings=true"],
        &["quantization=none"],
    ] {
        let config = config(settings);
        let model = Gpt::new(&config).unwrap();
        let len = model.layout.len();
        let cpu = Cpu::new().unwrap();
        let (mut fast, mut slow) =
            (Masters::new(&cpu, &model.layout, &config), Masters::new(&Reference, &model.layout, &config));
        for seed in 0..2 {
            let w = model.layout.init(seed);
            let want = Weights::rounded(&config, &model.layout, w.clone()).unwrap().into_numbers();
            assert_eq!(want != w, settings != ["quantization=none"]);
            cpu.upload(fast.masters_mut(), 0, &w);
            Reference.upload(slow.masters_mut(), 0, &w);
            let fast_weights = download(&cpu, fast.weights_mut(&cpu), len);
            assert!(bits(&fast_weights) == bits(&want), "{settings:?}");
            assert_eq!(download(&Reference, slow.weights_mut(&Reference), len), want, "{settings:?}");
            assert!(bits(&download(&cpu, fast.masters(), len)) == bits(&w), "{settings:?}: the masters stay");
        }
    }
}

#[test]
#[should_panic(expected = "the masters have changed")]
fn weights_of_other_masters_are_not_used() {
    let config = config(&["quantization=w4"]);
    let (be, model) = (Cpu::new().unwrap(), Gpt::new(&config).unwrap());
    let mut masters = masters(&be, &model, &config, &model.layout.init(1));
    masters.weights_mut(&be);
    masters.masters_mut();
    masters.weights();
}

/// The gradient is that of the loss by the rounded weights, as the reference computes it. The optimizer adds what it makes of it to
/// the masters.
#[test]
fn the_gradient_goes_straight_through() {
    for scheme in ["quantization=w8", "quantization=w4"] {
        let config = config(&[scheme, "learning_rate=1e-3"]);
        let model = Gpt::new(&config).unwrap();
        let (batch, w) = (batch(), model.layout.init(3));
        let be = Cpu::new().unwrap();
        let mut trained = masters(&be, &model, &config, &w);
        let mut shards = Shards::new(&be, &model, 2, 2, true);
        let (loss, norm) = shards.gradient(&be, &model, trained.weights_mut(&be), &batch, 1, 0);
        let gradient = shards.last_gradient().to_vec();

        let rounded = Weights::rounded(&config, &model.layout, w.clone()).unwrap().into_numbers();
        let mut reference = Shards::new(&Reference, &model, 2, 1, true);
        let mut apart = |numbers: &[f32]| {
            let numbers = numbers.iter().map(|&x| f64::from(x)).collect();
            let (other_loss, _) = reference.gradient(&Reference, &model, &numbers, &batch, 1, 0);
            let off = reference.last_gradient().iter().zip(&gradient).map(|(a, &b)| (a - f64::from(b)).powi(2));
            ((other_loss - loss).abs(), off.sum::<f64>().sqrt() / norm)
        };
        let (of_loss, of_gradient) = apart(&rounded);
        assert!(of_loss < 1e-6 && of_gradient < 1e-5, "{scheme}: {of_loss}, {of_gradient}");
        let (of_loss, of_gradient) = apart(&w);
        assert!(of_loss > 1e-5 && of_gradient > 1e-3, "{scheme}: the masters have others: {of_loss}, {of_gradient}");

        let mut optimizer = Optimizer::new(&be, &model.layout, &config).unwrap();
        let mut want = Buf::from(w.clone());
        optimizer.step(&be, &mut want, shards.last_gradient(), norm, 1.0, 0);
        let mut optimizer = Optimizer::new(&be, &model.layout, &config).unwrap();
        optimizer.step(&be, trained.masters_mut(), shards.last_gradient(), norm, 1.0, 0);
        assert!(bits(trained.masters()) == bits(&want));
        let moved = rounded.iter().zip(&**trained.weights_mut(&be)).filter(|(before, now)| before != now).count();
        assert!(moved > 0, "the rounded weights follow");
    }
}

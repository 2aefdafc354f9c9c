//! A training loop of your own, made of the same parts as kinglet's: cargo run --release --example own_loop
//!
//! It needs no folder, no file and no thread pool: only a model, its gradients and an optimizer.

use kinglet::{
    backend::{Cpu, Forward},
    batch::Batch,
    config::Config,
    error::Result,
    model::Gpt,
    optim::Optimizer,
    rng::{Purpose, Rng},
    sample::{Sampling, Stream},
    shards::Shards,
    text::tokenizer::{CharTokenizer, Tokenizer},
};

fn main() -> Result<()> {
    let text = "to be, or not to be, that is the question: ".repeat(20);
    let tokenizer = Tokenizer::from(CharTokenizer::train(&text));
    let ids = tokenizer.encode(&text)?;
    let mut config = Config::default().with(&["block_size=16", "n_layer=2", "n_embd=32", "batch_size=8"])?;
    config.vocab_size = tokenizer.vocab_size();

    let (be, model) = (Cpu::new()?, Gpt::new(&config)?);
    let mut weights = be.zeros(model.layout.len());
    be.upload(&mut weights, 0, &model.layout.init(config.seed));
    let mut shards = Shards::new(&be, &model, config.batch_size, 1, true);
    let mut optimizer = Optimizer::new(&be, &model.layout, &config)?;
    let mut batch = Batch::default();
    for step in 0..300 {
        let mut rng = Rng::new(config.seed, Purpose::Batch, step, 0);
        batch.clear();
        for _ in 0..config.batch_size {
            let at = rng.below((ids.len() - config.block_size) as u64) as usize;
            batch.add(&ids[at..=at + config.block_size]);
        }
        let (loss, grad_norm) = shards.gradient(&be, &model, &weights, &batch, config.seed, step);
        optimizer.step(&be, &mut weights, shards.last_gradient(), grad_norm, 1.0, step);
        if step % 50 == 0 {
            println!("step {step}: loss {loss:.4}, gradient norm {grad_norm:.3}");
        }
    }

    let mut stream = Stream::new(&be, &model, &tokenizer.encode("to be")?, Sampling::default(), 0)?;
    for _ in 0..60 {
        stream.draw(&be, &model, &weights)?;
    }
    println!("{}", tokenizer.decode(stream.tokens()));
    Ok(())
}

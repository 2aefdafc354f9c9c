//! A model inside another program, whose files may come from anywhere: cargo run --release --example embed [RUN]
//!
//! The program brings its own threads. Each thread writes its own text, and all threads share one model.

use kinglet::{
    Model,
    config::Config,
    error::{Error, Result},
    inference::Finish,
    text::tokenizer::Tokenizer,
};
use std::path::Path;

fn main() -> Result<()> {
    let run = std::env::args().nth(1).unwrap_or("runs/memory-example".into());
    // These could come from `include_bytes!`, a database or a network.
    let folder = Path::new(&run).join("checkpoints").join(read(Path::new(&run), "last")?.trim());
    let config = Config::from_toml(&read(&folder, "config.toml")?)?;
    let tokenizer = Tokenizer::from_json(&read(&folder, "tokenizer.json")?)?;
    let path = folder.join("model.safetensors");
    let model = Model::from_parts(config, tokenizer, &std::fs::read(&path).map_err(Error::io("read", &path))?)?;
    println!("{model:?}");

    let texts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let model = model.clone();
                scope.spawn(move || write(&model, seed))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panicked")).collect()
    });
    for text in texts {
        let (text, logprob, finish) = text?;
        println!("{text:?}: {logprob:.1} nats, {finish:?}");
    }
    Ok(())
}

/// Writes a line of text; returns it with its log-probability and the reason why it ended.
fn write(model: &Model, seed: u64) -> Result<(String, f64, Option<Finish>)> {
    let mut generation = model.generate("The ").max_tokens(80).temperature(0.8).seed(seed).stop("\n").stop(".");
    let (mut text, mut logprob) = (String::new(), 0.0);
    for piece in &mut generation {
        let piece = piece?;
        text += &piece.text;
        logprob += piece.logprob();
    }
    Ok((text, logprob, generation.finish()))
}

fn read(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join(name);
    std::fs::read_to_string(&path).map_err(Error::io("read", &path))
}

//! How fast a run draws one text on one thread, from an empty context on.
//!
//! ```text
//! cargo run --release --example drawing_speed -- RUN TOKENS
//! ```
//!
//! For each line of standard input it writes texts for about a second, and prints the median of their tokens per second: so
//! another program can measure something else in turn.

use kinglet::{Model, threads::with_threads};
use std::{error::Error, io, time::Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [run, tokens] = &arguments[..] else { return Err("usage: drawing_speed RUN TOKENS".into()) };
    let (model, tokens) = (Model::open(run)?, tokens.parse()?);
    let text = || {
        let start = Instant::now();
        // A text may end before.
        let drawn = model.generate_after(&[0]).max_tokens(tokens).temperature(0.0).count();
        drawn as f64 / start.elapsed().as_secs_f64()
    };
    for line in io::stdin().lines() {
        line?;
        let (mut all, start) = (Vec::new(), Instant::now());
        while all.is_empty() || start.elapsed().as_secs_f64() < 1.0 {
            all.push(with_threads(1, text)?);
        }
        all.sort_by(f64::total_cmp);
        println!("{}", all[all.len() / 2]);
    }
    Ok(())
}

//! What a model makes of token ids, for other programs to compare with:
//! `echo '[[0, 5, 9]]' | cargo run --release --example logits RUN > logits.f32`
//!
//! Standard input is a list of lists of ids, none longer than the model's context. Standard output is the logits after
//! each id, one row of `vocab_size` little-endian f32 numbers each, one list after the other. With `--reference` they are
//! computed in f64 and rounded once; with `--cached` id by id, as text is generated.

use kinglet::{
    backend::{Cpu, Forward, Pass, Reference, Rows},
    error::{Error, Result},
    model::Gpt,
    params::Layout,
    quant::Weights,
    run::{RunDir, Which},
};
use std::{io::Write, path::Path};

fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let run = args.iter().find(|arg| !arg.starts_with("--")).map_or("runs/memory-example", String::as_str);
    let mut run = RunDir::open(Path::new(run))?;
    let base = run.adapted_weights()?;
    let (_, weights) = run.load_model(&Layout::new(&run.config)?, base.as_deref(), Which::Best)?;
    let gpt = Gpt::new(&run.config)?;
    let lists = lists(&gpt)?;
    let cached = args.iter().any(|arg| arg == "--cached");
    let logits = if args.iter().any(|arg| arg == "--reference") {
        compute(&Reference, &gpt, &weights, &lists, cached)
    } else {
        compute(&Cpu::new()?.with_quantization(run.config.quantization), &gpt, &weights, &lists, cached)
    };
    let bytes: Vec<u8> = logits.into_iter().flat_map(f32::to_le_bytes).collect();
    std::io::stdout().write_all(&bytes).map_err(Error::io("write", Path::new("standard output")))
}

/// The lists of standard input, if the model takes them.
fn lists(gpt: &Gpt) -> Result<Vec<Vec<u32>>> {
    let text = std::io::read_to_string(std::io::stdin()).map_err(Error::io("read", Path::new("standard input")))?;
    let lists: Vec<Vec<u32>> = serde_json::from_str(&text).map_err(|error| Error::Data(error.to_string()))?;
    let fits = |list: &Vec<u32>| (1..=gpt.block_size).contains(&list.len());
    if lists.iter().all(|list| fits(list) && list.iter().all(|&id| (id as usize) < gpt.vocab_size)) {
        return Ok(lists);
    }
    let (block, v) = (gpt.block_size, gpt.vocab_size);
    Err(Error::Data(format!("each list must have 1 to {block} ids, each below {v}")))
}

fn compute<B: Forward>(be: &B, gpt: &Gpt, weights: &Weights, lists: &[Vec<u32>], cached: bool) -> Vec<f32> {
    let p = be.parameters(weights);
    let (mut acts, mut cache) = (gpt.acts(be, 1, false), gpt.cache(be));
    let mut all = Vec::new();
    for ids in lists {
        let mut logits = vec![0.0; ids.len() * gpt.vocab_size];
        if cached {
            cache.clear();
            for (id, logits) in ids.iter().zip(logits.chunks_exact_mut(gpt.vocab_size)) {
                gpt.extend(be, &p, &mut cache, &[*id], logits);
            }
        } else {
            gpt.forward(be, Pass { p: &p, rows: Rows::new(1, ids.len()), dropout: None }, &mut acts, ids);
            be.download(acts.logits(), 0, &mut logits);
        }
        all.extend(logits);
    }
    all
}

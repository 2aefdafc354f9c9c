//! Drawing the next tokens of many sequences at once.

use super::{Drawn, Sequence};
use crate::{
    backend::{Forward, IGNORE},
    error::Result,
    model::{Decoder, Gpt},
    threads::{self, for_each},
};
use rayon::prelude::*;

/// Rows of a pass over several sequences, at most; a single sequence may have more. Small enough that a long prompt does not
/// make the others wait long.
const ROWS: usize = 1024;

/// Fewest rows of a pass for each thread where each takes sequences of its own through the model. The kernels reach their speed
/// with as many.
const ROWS_APART: usize = 4;

/// Most parameters of a model that each thread reads by itself: they are in a cache that the threads share.
const PARAMS_APART: usize = 1 << 22;

/// Logits to choose from that are worth a task of their own.
const CHOICES: usize = 16 * 1024;

/// Draws the next token of each sequence; every call must pass the same model. They go through the model together, which
/// costs far less than one after the other, and each gets what it would get alone, to the bit.
///
/// Within the first `block_size` tokens, each costs one position. After that, it still does with rotary positions, where the
/// window slides. Learned positions shift with the window, so the last `block_size` tokens are computed again for each token.
///
/// # Errors
/// Those of each sequence: if a logit is not finite, as after training that diverged. Nothing is drawn for it then.
pub fn draw<B: Forward>(
    be: &B,
    model: &Gpt,
    weights: &B::Buf,
    decoder: &mut Decoder<B>,
    sequences: &mut [&mut Sequence<B>],
) -> Vec<Result<Drawn>> {
    let (mut all, mut rest) = (Vec::with_capacity(sequences.len()), sequences);
    while !rest.is_empty() {
        let mut rows = 0;
        let mut fits = |sequence: &&mut Sequence<B>| {
            rows += sequence.cost(model);
            rows <= ROWS
        };
        let together = rest.iter().take_while(|sequence| fits(sequence)).count().max(1);
        let (now, later) = rest.split_at_mut(together);
        all.extend(draw_together(be, model, weights, decoder, now));
        rest = later;
    }
    all
}

/// [`draw`] of what fits into one pass. Where every thread gets rows enough, each takes sequences of its own through the model;
/// otherwise the threads divide each operation of one pass. The bits are the same.
fn draw_together<B: Forward>(
    be: &B,
    model: &Gpt,
    weights: &B::Buf,
    decoder: &mut Decoder<B>,
    sequences: &mut [&mut Sequence<B>],
) -> Vec<Result<Drawn>> {
    let costs: Vec<_> = sequences.iter().map(|sequence| sequence.cost(model)).collect();
    let shares = shares(&costs, model.layout.len(), threads::current());
    if shares.is_empty() {
        return draw_pass(be, model, weights, decoder, sequences);
    }
    let (mut rest, mut work) = (sequences, Vec::with_capacity(shares.len()));
    for (decoder, share) in decoder.apart(be, model, shares.len()).iter_mut().zip(shares) {
        let (mine, others) = rest.split_at_mut(share);
        rest = others;
        work.push((decoder, mine, Vec::new()));
    }
    threads::apart(work.par_iter_mut(), |(decoder, sequences, drawn)| {
        *drawn = draw_pass(be, model, weights, decoder, sequences);
    });
    work.into_iter().flat_map(|(.., drawn)| drawn).collect()
}

/// How many of the next sequences, which have so many rows each, each thread takes. None if that is not worth it: each thread
/// reads all weights, and waits for the one that has most rows.
fn shares(costs: &[usize], params: usize, threads: usize) -> Vec<usize> {
    let all: usize = costs.iter().sum();
    if threads < 2 || all < threads * ROWS_APART || params > PARAMS_APART {
        return Vec::new();
    }
    let (mut shares, mut rows, mut most) = (vec![0; threads], vec![0; threads], 0);
    let mut before = 0;
    for cost in costs {
        // By its middle.
        let at = (before + cost / 2) * threads / all;
        shares[at] += 1;
        rows[at] += cost;
        most = most.max(rows[at]);
        before += cost;
    }
    // At most a quarter more than if all had the same.
    if most * threads * 4 > all * 5 {
        return Vec::new();
    }
    shares.retain(|&share| share > 0);
    shares
}

/// [`draw`] in one pass.
fn draw_pass<B: Forward>(
    be: &B,
    model: &Gpt,
    weights: &B::Buf,
    decoder: &mut Decoder<B>,
    sequences: &mut [&mut Sequence<B>],
) -> Vec<Result<Drawn>> {
    let v = model.vocab_size;
    let mut logits = vec![0.0; sequences.len() * v];
    let mut parts: Vec<_> = sequences.iter_mut().map(|sequence| sequence.part(model)).collect();
    model.advance(be, weights, decoder, &mut parts, &mut logits);
    let mut chosen: Vec<_> = sequences.iter().map(|_| Ok(Drawn::default())).collect();
    let work = sequences.par_iter_mut().zip(logits.par_chunks_exact_mut(v)).zip(&mut chosen);
    for_each(work.with_min_len(CHOICES.div_ceil(v)), |((sequence, logits), chosen)| {
        *chosen = sequence.choose(model, logits);
    });
    let ids: Vec<u32> = chosen.iter().map(|drawn| drawn.as_ref().map_or(IGNORE, |drawn| drawn.id)).collect();
    let logprobs = model.logprobs(be, decoder, &ids);
    let added = sequences.iter_mut().zip(chosen).zip(logprobs);
    added.map(|((sequence, drawn), logprob)| drawn.map(|drawn| sequence.add(drawn, logprob))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_take_sequences_where_all_have_enough_to_do() {
        let few = PARAMS_APART;
        assert_eq!(shares(&[1; 32], few, 2), [16, 16]);
        assert_eq!(shares(&[1; 9], few, 2), [5, 4]);
        assert_eq!(shares(&[6, 1, 1, 1, 1, 1, 1], few, 2), [1, 6]);
        assert_eq!(shares(&[32; 6], few, 3), [2, 2, 2]);
        // Too few rows, too many parameters, a single thread, a prompt that the others would wait for.
        for (costs, params, threads) in
            [(&[1; 7][..], few, 2), (&[1; 32], few + 1, 2), (&[1; 32], few, 1), (&[300, 1, 1, 1, 1, 1, 1, 1], few, 2)]
        {
            assert_eq!(shares(costs, params, threads), [], "{costs:?} {params} {threads}");
        }
        for threads in 2..20 {
            for n in 1..200 {
                let shares = shares(&vec![1; n], few, threads);
                assert!(
                    shares.is_empty() || shares.iter().sum::<usize>() == n && shares.iter().all(|&share| share > 0)
                );
            }
        }
    }
}

//! Where the error comes from: what each linear layer is given and puts out, and what it costs alone.

use super::paired::{self, Parts, Sequence, rows_at_once, spread};
use crate::{data::Split, inference::Model};
use kinglet_core::{
    backend::{Cpu, Forward},
    batch::Batch,
    error::Result,
    model::Gpt,
    params::{Layout, Linear, Span},
    quant::{Rounded, Weights},
};
use serde::Serialize;
use std::ops::ControlFlow;

/// Tokens that layers are measured on, at most.
const TOKENS: usize = 2048;

/// Multiply-adds that measuring each layer alone may take together.
const WORK: usize = 1 << 40;

/// The fewest tokens, where a model is so large that there is no time for more.
const FEWEST: usize = 128;

/// A linear layer, or an embedding in few bits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// Its name, such as `h.0.attn.c_attn`.
    pub name: String,
    /// Its block; none for embeddings and the head.
    pub block: Option<usize>,
    /// Whether its weights are in few bits.
    pub rounded: bool,
    /// How far its input is from that of the model before, relative to that: the error of all layers below. `None` for an
    /// embedding.
    pub input_error: Option<f64>,
    /// The same of its output: with its own error.
    pub output_error: Option<f64>,
    /// How far its output is off if its input is that of the model before: its own error alone.
    pub own_error: Option<f64>,
    /// How much the loss grows in nats per token if only this layer's weights are in few bits; `None` if they are not.
    pub loss_increase: Option<f64>,
    /// The standard error of this difference, treating sequences as independent.
    pub loss_increase_stderr: Option<f64>,
    /// The mean Kullback-Leibler divergence from the model before in nats, if only this layer's weights are in few bits. It
    /// tells layers apart where the differences of their losses are chance.
    pub kl_alone: Option<f64>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layers {
    /// Tokens of the text that they were measured on.
    pub tokens: u64,
    /// Each layer in the order in which it computes, embeddings first.
    pub layers: Vec<Layer>,
    /// The name of the one that changes predictions most if it alone is in few bits; none if none does.
    pub worst: Option<String>,
}

/// Squares of differences, and of what they are relative to.
#[derive(Clone, Copy, Default)]
struct Squares {
    off: f64,
    of: f64,
}

impl Squares {
    fn add(&mut self, before: &[f32], after: &[f32]) {
        for (&a, &b) in before.iter().zip(after) {
            self.off += (f64::from(b) - f64::from(a)).powi(2);
            self.of += f64::from(a).powi(2);
        }
    }

    fn relative(self) -> f64 {
        if self.off == 0.0 { 0.0 } else { (self.off / self.of).sqrt() }
    }
}

/// Of a layer: input, output, and output for the input before.
type Errors = [Squares; 3];

/// Measures each layer. `weights` are those of the model after. `progress` receives what is done and of how much; if it
/// breaks, the result is `None`.
///
/// # Errors
/// If the text cannot be read.
pub(super) fn measure(
    models: [&Model; 2],
    weights: &Weights,
    split: &Split,
    mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Layers>> {
    let gpt = models[0].parts().1;
    let matrices = weights.rounded.len();
    let batch = some(split, gpt, 2 * matrices + 3)?;
    let mut errors = vec![Errors::default(); 4 * gpt.layout.h.len() + 1];
    for i in 0..batch.len() {
        compare(models, &batch, i, &mut errors);
    }
    let mut alone = Vec::with_capacity(matrices);
    if progress(1, matrices + 1).is_break() {
        return Ok(None);
    }
    let mut one = One::new(models);
    for (done, (start, matrix)) in weights.rounded.iter().enumerate() {
        let found = one.with(*start, matrix, |one| {
            paired::each(batch.len(), |i| paired::sequence([models[0].parts(), one], &batch, i))
        });
        alone.push((*start, Alone::of(&found)));
        if progress(done + 2, matrices + 1).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(listed(&gpt.layout, &errors, &alone, batch.counted() as u64)))
}

/// What a matrix costs that alone is in few bits.
struct Alone {
    loss: f64,
    stderr: Option<f64>,
    kl: f64,
}

impl Alone {
    fn of(found: &[Sequence]) -> Alone {
        let differences: Vec<_> = found.iter().map(Sequence::losses).map(|([a, b], n)| (b - a, n)).collect();
        let tokens: u64 = differences.iter().map(|one| one.1).sum();
        let (loss, stderr) = paired::mean(&differences);
        Alone { loss, stderr, kl: found.iter().map(|one| one.kl_sum).sum::<f64>() / tokens as f64 }
    }
}

/// A part of the text that is always the same, with as many tokens as there is time for `passes` passes.
fn some(split: &Split, gpt: &Gpt, passes: usize) -> Result<Batch> {
    let tokens = (WORK / gpt.layout.len() / passes).clamp(FEWEST, TOKENS);
    let (mut batch, mut one) = (Batch::default(), Batch::default());
    let mut chosen = spread(split.windows(), tokens.div_ceil(gpt.block_size)).into_iter();
    while let Some(window) = chosen.next().filter(|_| batch.tokens() < tokens) {
        one.clear();
        split.window(window, &mut one)?;
        let room = tokens - batch.tokens();
        if one.tokens() <= room || !one.positions(0).is_empty() {
            split.window(window, &mut batch)?;
        } else {
            // The beginning of a sequence does not depend on its rest.
            let (ids, targets) = one.sequence(0);
            batch.add(&ids[..=room]).copy_from_slice(&targets[..room]);
        }
    }
    Ok(batch)
}

/// The model before, in which one matrix at a time is as it is after.
struct One<'a> {
    be: Cpu,
    before: Parts<'a>,
    /// A copy of the parameters before, which is not packed: each of its matrices is written over in turn.
    p: <Cpu as Forward>::Buf,
}

impl One<'_> {
    fn new([before, after]: [&Model; 2]) -> One<'_> {
        let (be, (_, gpt, p)) = (*after.parts().0, before.parts());
        let mut copy = be.zeros(gpt.layout.len());
        be.copy(&mut copy, 0, p, Span { start: 0, len: gpt.layout.len() });
        One { be, before: before.parts(), p: copy }
    }

    /// What `measure` finds with this matrix.
    fn with<R>(&mut self, start: usize, matrix: &Rounded, measure: impl FnOnce(Parts) -> R) -> R {
        let One { be, before: (_, gpt, p), p: one } = self;
        be.place(one, start, matrix);
        let found = measure((be, gpt, one));
        let (rows, cols) = matrix.shape();
        be.copy(one, start, p, Span { start, len: rows * cols });
        found
    }
}

/// Adds the errors of a sequence.
fn compare(models: [&Model; 2], batch: &Batch, i: usize, errors: &mut [Errors]) {
    let ((ids, _), positions) = (batch.sequence(i), batch.positions(i));
    let enter = |model: &Model| {
        let (be, gpt, p) = model.parts();
        gpt.enter(be, p, ids, positions)
    };
    let mut passes = models.map(enter);
    let gpt = models[0].parts().1;
    for (l, block) in gpt.layout.h.iter().enumerate() {
        let [before, after] = std::array::from_fn(|which| {
            let ((be, gpt, p), inside) = (models[which].parts(), &mut passes[which]);
            gpt.pass_block(be, p, inside);
            gpt.inputs(be, inside)
        });
        let layers = [block.c_attn, block.attn_proj, block.c_fc, block.mlp_proj];
        for (k, layer) in layers.into_iter().enumerate() {
            add(models, layer, &before[k], &after[k], &mut errors[4 * l + k]);
        }
    }
    let [before, after] = std::array::from_fn(|which| {
        let (be, gpt, p) = models[which].parts();
        gpt.head_input(be, p, &passes[which])
    });
    add(models, gpt.layout.lm_head, &before, &after, &mut errors[4 * gpt.layout.h.len()]);
}

/// Adds the errors of a layer with these inputs.
fn add(models: [&Model; 2], layer: Linear, before: &[f32], after: &[f32], errors: &mut Errors) {
    let put_out = |model: &Model, x: &[f32]| {
        let (be, gpt, p) = model.parts();
        gpt.product(be, p, layer, x)
    };
    let rows = rows_at_once(layer.o.max(layer.i)) * layer.i;
    for (before, after) in before.chunks(rows).zip(after.chunks(rows)) {
        let y = put_out(models[0], before);
        errors[0].add(before, after);
        errors[1].add(&y, &put_out(models[1], after));
        errors[2].add(&y, &put_out(models[1], before));
    }
}

/// All layers with what was found of them.
fn listed(layout: &Layout, errors: &[Errors], alone: &[(usize, Alone)], tokens: u64) -> Layers {
    let layer = |start: usize, block: Option<usize>, errors: Option<Errors>| {
        let found = alone.iter().find(|(at, _)| *at == start).map(|(_, found)| found);
        let [input_error, output_error, own_error] =
            [0, 1, 2].map(|which| errors.map(|errors| errors[which].relative()));
        Layer {
            name: name(layout, start),
            block,
            rounded: found.is_some(),
            input_error,
            output_error,
            own_error,
            loss_increase: found.map(|found| found.loss),
            loss_increase_stderr: found.and_then(|found| found.stderr),
            kl_alone: found.map(|found| found.kl),
        }
    };
    let of_blocks = layout.h.iter().enumerate().flat_map(|(l, h)| {
        [h.c_attn, h.attn_proj, h.c_fc, h.mlp_proj].into_iter().enumerate().map(move |(k, w)| (l, 4 * l + k, w))
    });
    let head = layout.lm_head.w.span.start;
    let embeddings = [Some(layout.embedding.wte), layout.embedding.wpe].into_iter().flatten().map(|w| w.span.start);
    let embeddings = embeddings.filter(|&start| start != head && alone.iter().any(|(at, _)| *at == start));
    let mut layers: Vec<_> = embeddings.map(|start| layer(start, None, None)).collect();
    layers.extend(of_blocks.map(|(l, at, w)| layer(w.w.span.start, Some(l), Some(errors[at]))));
    layers.push(layer(head, None, errors.last().copied()));
    // After one layer that leaves no numbers there is nothing worse.
    let harm = |layer: &Layer| layer.kl_alone.map(|kl| if kl.is_nan() { f64::INFINITY } else { kl });
    let worst = layers.iter().filter(|layer| harm(layer) > Some(0.0));
    let worst = worst.max_by(|a, b| harm(a).partial_cmp(&harm(b)).expect("they are numbers"));
    Layers { tokens, worst: worst.map(|layer| layer.name.clone()), layers }
}

/// The name of the tensor that begins at a place, without what all have.
fn name(layout: &Layout, start: usize) -> String {
    let tensor = layout.tensors.iter().find(|tensor| tensor.span.start == start).expect("every matrix is a tensor");
    tensor.name.trim_start_matches("transformer.").trim_end_matches(".weight").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::Tokenizer;
    use kinglet_core::{
        config::{Config, Quantization},
        rng::{Purpose, Rng},
    };

    /// A model of random weights in full precision and in eight bits.
    fn pair() -> (Model, Config, Weights) {
        let small = ["tokenizer=byte", "vocab_size=257", "block_size=16", "n_layer=2", "n_head=2", "n_embd=32"];
        let config = Config::default().with(&small).unwrap();
        let layout = Layout::new(&config).unwrap();
        let mut rng = Rng::new(3, Purpose::Init, 0, 0);
        let numbers: Vec<f32> = (0..layout.len()).map(|_| 0.2 * rng.normal() as f32).collect();
        let before = Model::from_weights(Cpu::new().unwrap(), config.clone(), Tokenizer::byte(), &numbers).unwrap();
        let config = config.with(&["quantization=w8"]).unwrap();
        let weights = Weights::rounded(&config, &layout, numbers).unwrap();
        (before, config, weights)
    }

    fn measured(before: &Model, config: &Config, weights: &Weights) -> Layers {
        let after = Model::of(Cpu::new().unwrap(), config.clone(), Tokenizer::byte(), weights.clone()).unwrap();
        let split = Split::new((0..100).map(|i| i * 37 % 257).collect(), 16);
        measure([before, &after], weights, &split, |_, _| ControlFlow::Continue(())).unwrap().unwrap()
    }

    #[test]
    fn the_layer_that_breaks_everything_is_the_worst() {
        let (before, config, mut weights) = pair();
        let start = before.parts().1.layout.h[1].c_fc.w.span.start;
        let (_, matrix) = weights.rounded.iter_mut().find(|(at, _)| *at == start).unwrap();
        let scales = vec![3e38; matrix.scales().len()];
        *matrix = Rounded::from_parts(Quantization::W8, matrix.shape().1, matrix.codes().to_vec(), scales).unwrap();
        let layers = measured(&before, &config, &weights);
        assert_eq!(layers.worst.as_deref(), Some("h.1.mlp.c_fc"), "{layers:?}");
        for layer in &layers.layers {
            let is_broken = layer.name == "h.1.mlp.c_fc";
            assert_eq!(layer.kl_alone.is_some_and(f64::is_nan), is_broken, "{layer:?}");
        }
        assert!(Squares { off: f64::NAN, of: 1.0 }.relative().is_nan());
        assert!(Squares { off: 1.0, of: f64::NAN }.relative().is_nan() && Squares::default().relative() == 0.0);
    }

    #[test]
    fn a_layer_costs_the_same_whatever_was_measured_before_it() {
        let (before, config, weights) = pair();
        let all = measured(&before, &config, &weights).layers;
        let layout = &before.parts().1.layout;
        for (start, matrix) in &weights.rounded {
            let mut one = weights.clone();
            let mut numbers = vec![0.0; layout.len()];
            before.parts().0.download(before.parts().2, 0, &mut numbers);
            one.numbers = numbers;
            one.rounded = vec![(*start, matrix.clone())];
            let name = name(layout, *start);
            let of = |layers: &[Layer]| layers.iter().find(|layer| layer.name == name).unwrap().clone();
            let (alone, among) = (of(&measured(&before, &config, &one).layers), of(&all));
            assert!(alone.kl_alone > Some(0.0) && alone.kl_alone == among.kl_alone, "{alone:?} {among:?}");
            assert_eq!(alone.loss_increase, among.loss_increase);
        }
    }
}

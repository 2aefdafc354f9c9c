//! Rounding that minimizes the error of what layers put out on a text, rather than that of their weights.
//!
//! The text goes through the model in full precision, block by block, and what goes into each linear layer is measured: the mean
//! square of each channel or, for error feedback, the products of all channels with each other.

use crate::data::Split;
use kinglet_core::{
    backend::{Cpu, Forward},
    batch::Batch,
    config::{Config, Quantization},
    error::Result,
    model::Gpt,
    params::{Block, Layout, Linear, Matrix},
    quant::{Rounded, Weights, feedback},
};
use kinglet_kernels::{Init, Isa, Mat, MatMut, gemm};
use std::{
    collections::BTreeMap,
    ops::{ControlFlow, Range},
};

/// A model to round.
pub(super) struct Wanted<'a> {
    /// Its configuration.
    pub(super) config: &'a Config,
    /// Its weights.
    pub(super) weights: &'a [f32],
    /// The configuration of what is made of it, and its layout.
    pub(super) rounded: (&'a Config, &'a Layout),
    /// Whether error is fed back.
    pub(super) feedback: bool,
    /// Bytes that may hold what is measured.
    pub(super) memory: usize,
}

impl Wanted<'_> {
    /// The rounded weights, by about so many tokens of a text, of which there must be some. `progress` receives the layers done
    /// and their number; if it breaks, the result is `None`.
    pub(super) fn by_text(
        &self,
        text: &Split,
        tokens: usize,
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<Weights>> {
        let (config, layout) = self.rounded;
        let (scheme, blocks, mut made) = (config.quantization, layout.h.len(), BTreeMap::new());
        let (text, at_once) = (Text::new(self, text, tokens)?, self.at_once());
        for first in (0..blocks).step_by(at_once) {
            let some = first..blocks.min(first + at_once);
            let progress = |done: usize, of: usize| progress(first + some.len() * done / of, blocks);
            let Some(inputs) = text.inputs(&text.layers(some.clone()), some.clone(), progress) else { return Ok(None) };
            for (layer, inputs) in inputs {
                made.insert(layer.w.start, inputs.round(scheme, &self.weights[layer.w.range()]));
            }
        }
        if progress(blocks, blocks).is_break() {
            return Ok(None);
        }
        let make =
            |matrix: &Matrix, w: &[f32]| made.remove(&matrix.span.start).unwrap_or_else(|| alone(scheme, w, matrix));
        Weights::rounded_by(config, layout, self.weights.to_vec(), make).map(Some)
    }

    /// Blocks whose inputs are measured at once: those for which there is memory, at least one. For the next ones the text goes
    /// through the model again.
    fn at_once(&self) -> usize {
        let h = &self.rounded.1.h;
        let bytes = |layer: Linear| 4 * layer.i * if self.feedback { layer.i } else { 1 };
        let of_block = h.first().map_or(0, |h| of_block(h).map(bytes).iter().sum());
        (self.memory / of_block.max(1)).clamp(1, h.len().max(1))
    }

    /// The rounded weights without a text.
    pub(super) fn alone(&self) -> Result<Weights> {
        let (config, layout) = self.rounded;
        let make = |matrix: &Matrix, w: &[f32]| alone(config.quantization, w, matrix);
        Weights::rounded_by(config, layout, self.weights.to_vec(), make)
    }
}

/// A matrix all of whose columns are alike, as far as is known.
fn alone(scheme: Quantization, w: &[f32], matrix: &Matrix) -> Rounded {
    Rounded::new(scheme, w, matrix.cols, Some(&vec![1.0; matrix.cols]))
}

/// The linear layers of a block, in the order of [`Gpt::inputs`].
fn of_block(h: &Block) -> [Linear; 4] {
    [h.c_attn, h.attn_proj, h.c_fc, h.mlp_proj]
}

/// What every channel gets of the mean over all: what a text never uses may be used elsewhere, so it counts a little.
const DAMPING: f64 = 0.01;

/// What was measured of the inputs of a layer with so many channels.
struct Inputs {
    channels: usize,
    sums: Sums,
}

enum Sums {
    /// The sum of the squares of each channel.
    Squares(Vec<f32>),
    /// The sums of the products of all channels with each other.
    Gram(Vec<f32>),
}

impl Inputs {
    fn new(channels: usize, feedback: bool) -> Inputs {
        let sums = match feedback {
            true => Sums::Gram(vec![0.0; channels * channels]),
            false => Sums::Squares(vec![0.0; channels]),
        };
        Inputs { channels, sums }
    }

    /// Adds rows of inputs.
    fn add(&mut self, isa: Isa, x: &[f32]) {
        let channels = self.channels;
        match &mut self.sums {
            Sums::Squares(squares) => {
                let of_row = |x: &[f32]| squares.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * x);
                x.chunks_exact(channels).for_each(of_row);
            }
            Sums::Gram(gram) => {
                let x = Mat::new(x, x.len() / channels, channels);
                gemm(isa, MatMut::new(gram, channels, channels), Init::C, x.t(), x);
            }
        }
    }

    fn round(self, scheme: Quantization, w: &[f32]) -> Rounded {
        let channels = self.channels;
        match self.sums {
            Sums::Squares(mut squares) => {
                let share = share(squares.iter());
                squares.iter_mut().for_each(|sum| *sum += share);
                Rounded::new(scheme, w, channels, Some(&squares))
            }
            Sums::Gram(mut gram) => {
                // The others get their share where H is inverted.
                let share = share(gram.iter().step_by(channels + 1));
                gram.iter_mut().step_by(channels + 1).filter(|sum| **sum == 0.0).for_each(|sum| *sum = share);
                feedback::round(scheme, w, channels, &gram)
            }
        }
    }
}

/// A share of the mean of the sums of squares; 1 if all are 0.
fn share<'a>(squares: impl ExactSizeIterator<Item = &'a f32>) -> f32 {
    let n = squares.len().max(1) as f64;
    let mean = squares.map(|&sum| f64::from(sum)).sum::<f64>() / n;
    if mean > 0.0 { (DAMPING * mean) as f32 } else { 1.0 }
}

/// Sequences of a text, and the model in full precision.
struct Text<'a> {
    wanted: &'a Wanted<'a>,
    be: Cpu,
    gpt: Gpt,
    p: <Cpu as Forward>::Buf,
    batch: Batch,
}

impl Text<'_> {
    /// Sequences at equal distances.
    fn new<'a>(wanted: &'a Wanted, split: &Split, tokens: usize) -> Result<Text<'a>> {
        let config = wanted.config;
        // Its results have the same bits on every processor.
        let be = Cpu::new()?.with_quantization(wanted.rounded.0.quantization);
        let gpt = Gpt::new(config)?;
        let p = be.parameters(&wanted.weights.to_vec().into());
        let (mut batch, windows) = (Batch::default(), split.windows());
        let n = tokens.div_ceil(config.block_size).min(windows);
        (0..n).try_for_each(|i| split.window(i * windows / n, &mut batch))?;
        Ok(Text { wanted, be, gpt, p, batch })
    }

    /// The layers of these blocks and, if the last one is among them and it is to be rounded, the head.
    fn layers(&self, blocks: Range<usize>) -> Vec<Linear> {
        let (config, layout) = self.wanted.rounded;
        let is_last = blocks.end == layout.h.len();
        let head = (is_last && config.quantize_head && !config.tie_weights).then_some(layout.lm_head);
        layout.h[blocks].iter().flat_map(of_block).chain(head).collect()
    }

    /// What goes into the layers of these blocks. One sequence after another passes them, so that the memory that this takes does
    /// not grow with the text. `progress` receives the sequences done and their number; if it breaks, the result is `None`.
    fn inputs(
        &self,
        layers: &[Linear],
        blocks: Range<usize>,
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Option<Vec<(Linear, Inputs)>> {
        let Text { wanted, be, gpt, p, batch } = self;
        let mut found: Vec<_> = layers.iter().map(|&layer| (layer, Inputs::new(layer.i, wanted.feedback))).collect();
        for i in 0..batch.len() {
            if progress(i, batch.len()).is_break() {
                return None;
            }
            let mut inside = gpt.enter(be, p, batch.sequence(i).0, batch.positions(i));
            (0..blocks.start).for_each(|_| gpt.pass_block(be, p, &mut inside));
            let (of_blocks, head) = found.split_at_mut(4 * blocks.len());
            for of_block in of_blocks.chunks_exact_mut(4) {
                gpt.pass_block(be, p, &mut inside);
                let inputs = of_block.iter_mut().zip(gpt.inputs(be, &inside));
                inputs.for_each(|((_, found), x)| found.add(be.isa(), &x));
            }
            head.iter_mut().for_each(|(_, found)| found.add(be.isa(), &gpt.head_input(be, p, &inside)));
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinglet_core::rng::{Purpose, Rng};

    fn numbers(len: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed, Purpose::Init, 0, 0);
        (0..len).map(|_| 0.2 * rng.normal() as f32).collect()
    }

    #[test]
    fn channels_that_a_text_never_uses_are_rounded_like_any_others() {
        let (channels, w) = (96, numbers(3 * 96, 1));
        let dead = |channel: usize| (32..64).contains(&channel);
        let x: Vec<f32> = numbers(200 * channels, 2)
            .into_iter()
            .enumerate()
            .map(|(at, x)| if dead(at % 96) { 0.0 } else { x })
            .collect();
        let alike = Rounded::new(Quantization::W4, &w, channels, Some(&[1.0; 96]));
        for feedback in [false, true] {
            let mut inputs = Inputs::new(channels, feedback);
            inputs.add(Isa::detect().fused(), &x);
            let made = inputs.round(Quantization::W4, &w);
            let nothing = Inputs::new(channels, feedback).round(Quantization::W4, &w);
            assert_eq!(nothing, alike, "{feedback}");
            assert_ne!(made, alike, "{feedback}");
            for row in 0..3 {
                let of_row = |made: &Rounded| made.codes()[row * channels..][32..64].to_vec();
                assert_eq!(made.scales()[3 * row + 1], alike.scales()[3 * row + 1], "{feedback}");
                assert_eq!(of_row(&made), of_row(&alike), "{feedback}");
            }
        }
    }

    #[test]
    fn memory_changes_no_bit_and_does_not_grow_with_the_text() {
        let settings = ["vocab_size=40", "block_size=16", "n_layer=3", "n_head=2", "n_embd=32", "quantize_head=true"];
        let config = Config::default().with(&settings[..5]).unwrap();
        let rounded = config.clone().with(&["quantization=w4", settings[5]]).unwrap();
        let layout = Layout::new(&rounded).unwrap();
        let weights = numbers(layout.len(), 3);
        let mut rng = Rng::new(4, Purpose::Batch, 0, 0);
        let split = Split::new((0..300).map(|_| rng.below(40) as u32).collect(), 16);
        for feedback in [false, true] {
            let with = |memory: usize| {
                let wanted =
                    Wanted { config: &config, weights: &weights, rounded: (&rounded, &layout), feedback, memory };
                let mut last = 0;
                let progress = |done: usize, of: usize| {
                    assert!(last <= done && done <= of && of == 3);
                    last = done;
                    ControlFlow::Continue(())
                };
                let made = wanted.by_text(&split, 200, progress).unwrap().unwrap();
                (wanted.at_once(), made)
            };
            let (all, one) = (with(super::super::MEMORY), with(0));
            assert!((all.0, one.0) == (3, 1) && all.1 == one.1 && all.1.rounded.len() == 13, "{feedback}");
        }
        // GPT-2's shape.
        let gpt2 = Config::default().with(&["vocab_size=50257", "n_layer=12", "n_head=12", "n_embd=768"]).unwrap();
        let layout = Layout::new(&gpt2).unwrap();
        let of = |feedback: bool| {
            let memory = super::super::MEMORY;
            Wanted { config: &gpt2, weights: &[], rounded: (&gpt2, &layout), feedback, memory }.at_once()
        };
        assert_eq!((of(false), of(true)), (12, 5));
    }
}

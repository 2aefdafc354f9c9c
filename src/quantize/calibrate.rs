//! Rounding that minimizes the error of what layers put out on a text, rather than that of their weights.
//!
//! The text goes through the model in full precision, block by block, and what goes into each linear layer is measured: the mean
//! square of each channel or, for error feedback, the products of all channels with each other.

use crate::data::Dataset;
use kinglet_core::{
    backend::{Cpu, Forward},
    batch::Batch,
    config::{Config, Quantization},
    error::Result,
    model::{Gpt, inside::Inside},
    params::{Layout, Matrix},
    quant::{Rounded, Weights, feedback},
};
use kinglet_kernels::{Init, Isa, Mat, MatMut, gemm};
use std::{collections::BTreeMap, ops::ControlFlow};

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
}

impl Wanted<'_> {
    /// The rounded weights, by about so many tokens of the training split. `progress` receives the layers done and their number;
    /// if it breaks, the result is `None`.
    pub(super) fn by_text(
        &self,
        data: &Dataset,
        tokens: usize,
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<Weights>> {
        let (config, layout) = self.rounded;
        let (scheme, blocks, mut made) = (config.quantization, layout.h.len(), BTreeMap::new());
        let mut text = Text::enter(self, data, tokens)?;
        for (l, h) in layout.h.iter().enumerate() {
            if progress(l, blocks).is_break() {
                return Ok(None);
            }
            let inputs = text.block();
            for (layer, inputs) in [h.c_attn, h.attn_proj, h.c_fc, h.mlp_proj].into_iter().zip(inputs) {
                made.insert(layer.w.start, inputs.round(scheme, &self.weights[layer.w.range()], layer.i));
            }
        }
        if config.quantize_head && !config.tie_weights {
            let head = layout.lm_head;
            made.insert(head.w.start, text.head().round(scheme, &self.weights[head.w.range()], head.i));
        }
        if progress(blocks, blocks).is_break() {
            return Ok(None);
        }
        let make =
            |matrix: &Matrix, w: &[f32]| made.remove(&matrix.span.start).unwrap_or_else(|| alone(scheme, w, matrix));
        Weights::rounded_by(config, layout, self.weights.to_vec(), make).map(Some)
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

/// What was measured of the inputs of a layer.
enum Inputs {
    /// The sum of the squares of each channel.
    Squares(Vec<f32>),
    /// The sums of the products of all channels with each other.
    Gram(Vec<f32>),
}

impl Inputs {
    fn new(channels: usize, feedback: bool) -> Inputs {
        match feedback {
            true => Inputs::Gram(vec![0.0; channels * channels]),
            false => Inputs::Squares(vec![0.0; channels]),
        }
    }

    /// Adds rows of inputs.
    fn add(&mut self, x: &[f32], channels: usize) {
        match self {
            Inputs::Squares(squares) => {
                let of_row = |x: &[f32]| squares.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * x);
                x.chunks_exact(channels).for_each(of_row);
            }
            Inputs::Gram(gram) => {
                let x = Mat::new(x, x.len() / channels, channels);
                let isa = Isa::detect().fused();
                gemm(isa, MatMut::new(gram, channels, channels), Init::C, x.t(), x);
            }
        }
    }

    fn round(&self, scheme: Quantization, w: &[f32], channels: usize) -> Rounded {
        match self {
            Inputs::Squares(squares) => Rounded::new(scheme, w, channels, Some(squares)),
            Inputs::Gram(gram) => feedback::round(scheme, w, channels, gram),
        }
    }
}

/// Sequences of a text on their way through a model.
struct Text {
    be: Cpu,
    gpt: Gpt,
    p: <Cpu as Forward>::Buf,
    sequences: Vec<Inside<Cpu>>,
    feedback: bool,
}

impl Text {
    /// Sequences of the training split, at equal distances.
    fn enter(wanted: &Wanted, data: &Dataset, tokens: usize) -> Result<Text> {
        let config = wanted.config;
        // Its results have the same bits on every processor.
        let be = Cpu::new()?.with_quantization(wanted.rounded.0.quantization);
        let gpt = Gpt::new(config)?;
        let p = be.parameters(&wanted.weights.to_vec().into());
        let mut batch = Batch::default();
        let windows = data.train.windows();
        let n = tokens.div_ceil(config.block_size).min(windows);
        (0..n).try_for_each(|i| data.train.window(i * windows / n, &mut batch))?;
        let enter = |i: usize| gpt.enter(&be, &p, batch.sequence(i).0, batch.positions(i));
        let sequences = (0..batch.len()).map(enter).collect();
        Ok(Text { be, gpt, p, sequences, feedback: wanted.feedback })
    }

    /// Passes a block, and measures what goes into its layers.
    fn block(&mut self) -> [Inputs; 4] {
        let Text { be, gpt, p, sequences, feedback } = self;
        let h = gpt.layout.h[0];
        let channels = [h.c_attn, h.attn_proj, h.c_fc, h.mlp_proj].map(|layer| layer.i);
        let mut found = channels.map(|channels| Inputs::new(channels, *feedback));
        for inside in sequences {
            gpt.pass_block(be, p, inside);
            let inputs = gpt.inputs(be, inside);
            found.iter_mut().zip(inputs).zip(channels).for_each(|((found, x), channels)| found.add(&x, channels));
        }
        found
    }

    /// Measures what goes into the head.
    fn head(&self) -> Inputs {
        let Text { be, gpt, p, sequences, feedback } = self;
        let mut found = Inputs::new(gpt.n_embd, *feedback);
        sequences.iter().for_each(|inside| found.add(&gpt.head_input(be, p, inside), gpt.n_embd));
        found
    }
}

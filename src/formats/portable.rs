//! A kinglet model in memory: what an import ends in, and what an export begins with.

use crate::text::tokenizer::Tokenizer;
use kinglet_core::{
    config::{Config, Quantization},
    error::{Error, Result},
    params::Layout,
    quant::{Rounded, Weights, matrices},
};
use std::collections::BTreeMap;

/// A kinglet model in memory, without adapters.
#[derive(Clone, Debug)]
pub struct Portable {
    /// Its configuration, `vocab_size` included.
    pub config: Config,
    /// Its weights, in the layout of the configuration. Those of matrices in few bits are multiplied out.
    pub weights: Vec<f32>,
    /// Its matrices in few bits, by the names of their tensors.
    pub rounded: BTreeMap<String, Rounded>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl Portable {
    /// A model of these parts. Where its configuration says that matrices are in few bits, they are rounded.
    ///
    /// # Errors
    /// If they do not belong together, or a weight cannot be rounded.
    pub fn new(config: Config, weights: Vec<f32>, tokenizer: Tokenizer) -> Result<Portable> {
        let layout = Layout::new(&config)?;
        fits(&layout, weights.len())?;
        let weights = Weights::rounded(&config, &layout, weights)?;
        Portable::of_weights(config, weights, tokenizer)
    }

    /// A model of these parts, some of its matrices in few bits.
    ///
    /// # Errors
    /// If they do not belong together.
    pub fn of_weights(config: Config, weights: Weights, tokenizer: Tokenizer) -> Result<Portable> {
        let layout = Layout::new(&config)?;
        fits(&layout, weights.numbers.len())?;
        if config.lora_rank > 0 {
            return Err(Error::Data("adapters have to be merged first".to_owned()));
        }
        let (known, tokens) = (config.vocab_size, tokenizer.vocab_size());
        if tokens > known {
            return Err(Error::Data(format!("the tokenizer has {tokens} tokens, but the model has {known}")));
        }
        let has = weights.rounded.iter().map(|(start, matrix)| (*start, matrix.scheme()));
        if !has.eq(matrices(&config, &layout).iter().map(|matrix| (matrix.span.start, config.quantization))) {
            return Err(Error::Data("other weights are in few bits than the configuration says".to_owned()));
        }
        let name = |start: usize| {
            let tensor = layout.tensors.iter().find(|tensor| tensor.span.start == start);
            tensor.expect("a matrix begins where its tensor does").name.clone()
        };
        let rounded = weights.rounded.iter().map(|(start, matrix)| (name(*start), matrix.clone())).collect();
        Ok(Portable { config, weights: weights.into_numbers(), rounded, tokenizer })
    }

    /// The same model with the matrices of its blocks in few bits.
    ///
    /// # Errors
    /// If some are already, or a weight cannot be rounded.
    pub fn round(self, scheme: Quantization) -> Result<Portable> {
        let Portable { mut config, weights, tokenizer, .. } = self;
        if config.quantization != Quantization::None {
            let what = "its weights are in few bits already: rounding them again would make them worse";
            return Err(Error::BadConfig(what.to_owned()));
        }
        config.quantization = scheme;
        Portable::new(config, weights, tokenizer)
    }

    /// Where its weights stand.
    ///
    /// # Panics
    /// If the configuration was made invalid.
    pub fn layout(&self) -> Layout {
        Layout::new(&self.config).expect("the configuration was checked")
    }

    /// Checks that all weights are numbers.
    ///
    /// # Errors
    /// If one is NaN or infinite; the error names its tensor.
    pub fn finite(&self) -> Result<()> {
        let broken = |range: std::ops::Range<usize>| self.weights[range].iter().any(|x| !x.is_finite());
        match self.layout().tensors.iter().find(|tensor| broken(tensor.span.range())) {
            None => Ok(()),
            Some(tensor) => {
                let name = &tensor.name;
                Err(Error::Data(format!(
                    "{name} has values that are not finite: training diverged, or the file is damaged"
                )))
            }
        }
    }

    /// A tensor by kinglet's name, if the model has it.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        let layout = self.layout();
        let tensor = layout.tensors.iter().find(|tensor| tensor.name == name)?;
        Some(&self.weights[tensor.span.range()])
    }
}

/// Refuses another number of weights than there are.
fn fits(layout: &Layout, has: usize) -> Result<()> {
    let wants = layout.len();
    if has != wants {
        return Err(Error::Data(format!("there are {has} weights, but the configuration describes {wants}")));
    }
    Ok(())
}

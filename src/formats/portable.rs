//! A kinglet model in memory: what an import ends in, and what an export begins with.

use crate::text::tokenizer::Tokenizer;
use kinglet_core::{
    config::Config,
    error::{Error, Result},
    params::Layout,
};

/// A kinglet model in memory, without adapters.
#[derive(Clone, Debug)]
pub struct Portable {
    /// Its configuration, `vocab_size` included.
    pub config: Config,
    /// Its weights, in the layout of the configuration.
    pub weights: Vec<f32>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl Portable {
    /// A model of these parts.
    ///
    /// # Errors
    /// If they do not belong together.
    pub fn new(config: Config, weights: Vec<f32>, tokenizer: Tokenizer) -> Result<Portable> {
        let (has, wants) = (weights.len(), Layout::new(&config)?.len());
        if has != wants {
            return Err(Error::Data(format!("there are {has} weights, but the configuration describes {wants}")));
        }
        if config.lora_rank > 0 {
            return Err(Error::Data("adapters have to be merged first".to_owned()));
        }
        let (known, tokens) = (config.vocab_size, tokenizer.vocab_size());
        if tokens > known {
            return Err(Error::Data(format!("the tokenizer has {tokens} tokens, but the model has {known}")));
        }
        Ok(Portable { config, weights, tokenizer })
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

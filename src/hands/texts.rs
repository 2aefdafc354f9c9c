//! Texts that several runs share.

use crate::{
    data::{self, Dataset, TokenizerChoice},
    text::tokenizer::Tokenizer,
};
use kinglet_core::{
    config::{Config, FIELDS},
    error::Result,
};
use std::sync::Arc;

/// The text that was read last, and what it was read for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts(Option<(String, Tokenizer, Arc<Dataset>)>);

impl Texts {
    /// What was read for a configuration.
    pub(crate) fn known(config: &Config, tokenizer: Tokenizer, data: Arc<Dataset>) -> Texts {
        Texts(Some((reading(config), tokenizer, data)))
    }

    /// The data of a configuration, and the tokenizer that it asks for.
    ///
    /// # Errors
    /// If they cannot be read, or are not those that the configuration was resolved for, if it was.
    pub(crate) fn of(&mut self, config: &Config) -> Result<(Tokenizer, Arc<Dataset>)> {
        self.read(config, TokenizerChoice::FromConfig)
    }

    /// The data of a run.
    ///
    /// # Errors
    /// If they cannot be read, or are not those that the run was started with.
    pub(crate) fn of_run(&mut self, config: &Config, tokenizer: &Tokenizer) -> Result<Arc<Dataset>> {
        Ok(self.read(config, TokenizerChoice::Fixed(tokenizer))?.1)
    }

    fn read(&mut self, config: &Config, choice: TokenizerChoice) -> Result<(Tokenizer, Arc<Dataset>)> {
        let reading = reading(config);
        if let Some((of, tokenizer, data)) = &self.0
            && *of == reading
        {
            return Ok((tokenizer.clone(), data.clone()));
        }
        // The old one is not needed beside the new one.
        self.0 = None;
        let (tokenizer, data) = data::read(config, choice)?;
        data::same_text(config, &data.sha256)?;
        let data = Arc::new(data);
        self.0 = Some((reading, tokenizer.clone(), data.clone()));
        Ok((tokenizer, data))
    }

    /// The notes on what was read.
    pub(crate) fn notes(&self) -> &[String] {
        self.0.as_ref().map_or(&[], |(_, _, data)| &data.notes)
    }
}

/// What data and tokenizer depend on.
fn reading(config: &Config) -> String {
    let keys = FIELDS.iter().filter(|field| field.section == "data").map(|field| field.key).chain(["block_size"]);
    keys.map(|key| format!("{key}={}\n", config.value(key))).collect()
}

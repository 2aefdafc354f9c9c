//! Reads the data that a configuration names, and the tokenizer for its ids.

use super::{dataset::Dataset, prepared, survey::Survey};
use crate::text::{source::Corpus, tokenizer::Tokenizer};
use kinglet_core::{
    config::{Config, TokenizerKind},
    error::{Error, Result},
};
use std::path::Path;

/// Which tokenizer to encode data with.
#[derive(Clone, Copy, Debug)]
pub enum TokenizerChoice<'a> {
    /// The tokenizer that the configuration asks for.
    FromConfig,
    /// An existing tokenizer; the text must be the one the configuration was resolved for, if it was.
    Fixed(&'a Tokenizer),
    /// An existing tokenizer, extended with characters that only the data has.
    Extend(&'a Tokenizer),
}

/// Reads the data that a configuration names, and the tokenizer for its ids.
///
/// # Errors
/// If the data cannot be read or does not match the configuration or the tokenizer.
pub fn read(config: &Config, choice: TokenizerChoice) -> Result<(Tokenizer, Dataset)> {
    let known = match choice {
        TokenizerChoice::FromConfig => None,
        TokenizerChoice::Fixed(known) | TokenizerChoice::Extend(known) => Some(known),
    };
    if let Some(files) = prepared::open(config, known)? {
        if let (Some(made), None) = (&files.made, known) {
            let other = |key: &str, value: String, made: String| {
                let allowed = format!("{made}, the value that these token ids were prepared with");
                Err(Error::Config { key: key.into(), value, allowed })
            };
            // A default value counts as not asked for.
            let default = Config::default();
            if config.tokenizer != default.tokenizer && config.tokenizer != made.tokenizer {
                return other("tokenizer", config.tokenizer.clone().into(), made.tokenizer.clone().into());
            }
            if config.train_split != default.train_split && config.train_split != made.train_split {
                return other("train_split", config.train_split.to_string(), made.train_split.to_string());
            }
            for (key, asked, made) in
                [("bos_token", &config.bos_token, &made.bos_token), ("eos_token", &config.eos_token, &made.eos_token)]
            {
                if !asked.is_empty() && asked != made {
                    return other(key, format!("{asked:?}"), format!("{made:?}"));
                }
            }
        }
        if let TokenizerChoice::Fixed(_) = choice {
            let divided = files.made.as_ref().is_none_or(|made| made.train_split == config.train_split);
            same_text(config, if divided { &files.sha256 } else { "from another train_split" })?;
        }
        return Ok((known.unwrap_or(&files.tokenizer).clone(), Dataset::from(files)));
    }
    read_corpus(&Corpus::open(config)?, config, choice)
}

/// The same for an open corpus, ignoring the data that the configuration names.
///
/// # Errors
/// As [`read`].
pub fn read_corpus(corpus: &Corpus, config: &Config, choice: TokenizerChoice) -> Result<(Tokenizer, Dataset)> {
    Dataset::check_size(corpus, corpus.known_bytes())?;
    let survey = Survey::of(corpus, config)?;
    Dataset::check_size(corpus, survey.bytes)?;
    if let TokenizerChoice::Fixed(_) = choice {
        // Check before encoding: an unknown-character error would only be a symptom of a changed text.
        same_text(config, &survey.sha256)?;
    }
    let (tokenizer, notes) = match choice {
        TokenizerChoice::FromConfig => tokenizer(config, corpus, &survey)?,
        TokenizerChoice::Fixed(known) => (known.clone(), Vec::new()),
        TokenizerChoice::Extend(known) => {
            let extended = known.extended(survey.alphabet(), survey.needs_end_of_text());
            let unlearned = known.chars().and_then(|_| survey.only_in_validation(config, Some(known)));
            (with_ends(extended, config)?, unlearned.into_iter().collect())
        }
    };
    let mut data = Dataset::new(corpus, &survey, &tokenizer, config)?;
    data.notes.extend(notes);
    Ok((tokenizer, data))
}

/// The tokenizer with the ends of a configuration.
fn with_ends(tokenizer: Tokenizer, config: &Config) -> Result<Tokenizer> {
    tokenizer.with_ends(&config.bos_token, &config.eos_token)
}

/// Returns an error if the text is not the one the configuration was resolved for, if it was.
pub(crate) fn same_text(config: &Config, sha256: &str) -> Result<()> {
    if config.data_sha256.is_empty() || config.data_sha256 == sha256 {
        return Ok(());
    }
    Err(Error::Data(format!(
        "{} is not the text that this run was started with (SHA-256 {sha256}, was {}): restore that text, or \
         start a new run",
        config.data.join(", "),
        config.data_sha256
    )))
}

/// The tokenizer that a configuration asks for, trained on this corpus where it is trained at all, and notes on it for
/// the user.
///
/// # Errors
/// If it cannot be read or trained, or has no token that is to begin or end documents.
pub fn tokenizer(config: &Config, corpus: &Corpus, survey: &Survey) -> Result<(Tokenizer, Vec<String>)> {
    let (found, notes) = match &config.tokenizer {
        TokenizerKind::Char => (survey.char_tokenizer(), survey.only_in_validation(config, None).into_iter().collect()),
        TokenizerKind::Byte => (Tokenizer::byte(), Vec::new()),
        TokenizerKind::File(path) => (Tokenizer::from_file(Path::new(path))?, Vec::new()),
        TokenizerKind::Bpe(size) => survey.learn_bpe(corpus, *size, config)?,
    };
    Ok((with_ends(found, config)?, notes))
}

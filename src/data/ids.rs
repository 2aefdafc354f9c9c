//! Token ids in memory as data.

use super::{
    dataset::{Dataset, Made},
    open::{TokenizerChoice, same_text},
    prepared::text_size,
    split::{Size, Split},
};
use crate::{
    system::disk::{hex, sha256},
    text::tokenizer::Tokenizer,
};
use kinglet_core::{
    config::{Config, TokenizerKind},
    error::{Error, Result},
};
use sha2::{Digest, Sha256};
use std::path::Path;

/// The tokenizer of a configuration for ids that stay numbers: there is no such file, for a vocabulary of numbers is made, not
/// read.
const NUMBERS: &str = "(memory).json";

/// Divides ids like a file of ids: the training split is the first `int(train_split * n)` of them.
pub(super) fn read(ids: &[u32], config: &Config, choice: TokenizerChoice) -> Result<(Tokenizer, Dataset)> {
    let (tokenizer, kind) = match choice {
        TokenizerChoice::Fixed(known) | TokenizerChoice::Extend(known) => (known.clone(), config.tokenizer.clone()),
        TokenizerChoice::FromConfig => asked(ids, config)?,
    };
    let known = tokenizer.vocab_size();
    if let Some(at) = ids.iter().position(|&id| id as usize >= known) {
        let id = ids[at];
        let what = format!("id {id} at position {at} is not in the vocabulary of {known}: ids are 0 to {}", known - 1);
        return Err(Error::Data(what));
    }
    let (train, val) = ids.split_at((config.train_split * ids.len() as f64) as usize);
    let sums = [train, val].map(|part| sum(part, known > 1 << 16));
    let sha256 = hex(&Sha256::new_with_prefix(sums[0].as_str()).chain_update(&sums[1]).finalize());
    if let TokenizerChoice::Fixed(_) = choice {
        same_text(config, &sha256)?;
    }
    let are_numbers = kind == TokenizerKind::File(NUMBERS.to_owned());
    let part = |ids: &[u32]| -> Result<Split> {
        let split = Split::of_ids(ids.to_vec(), &tokenizer, config)?;
        let Size { bytes, chars, .. } = if are_numbers { split.size() } else { text_size(&split, &tokenizer)? };
        Ok(Split { bytes, chars, ..split })
    };
    let what = if are_numbers { "those of tokens" } else { "estimates" };
    let notes = vec![format!("token ids from a vocabulary of {known}; losses per byte and per character are {what}")];
    let made = Made {
        tokenizer: kind,
        train_split: config.train_split,
        bos_token: config.bos_token.clone(),
        eos_token: config.eos_token.clone(),
    };
    let (train, val) = (part(train)?, part(val)?);
    Ok((tokenizer, Dataset { train, val, floor: None, sha256, notes, made: Some(made), chats: None }))
}

/// The tokenizer of ids that a configuration asks for, and what it is called there.
fn asked(ids: &[u32], config: &Config) -> Result<(Tokenizer, TokenizerKind)> {
    let numbers = || {
        let most = ids.iter().max().map_or(1, |&id| id as usize + 1);
        Tokenizer::numbers(if config.vocab_size > 0 { config.vocab_size } else { most })
    };
    let (tokenizer, kind) = match &config.tokenizer {
        TokenizerKind::Char => (numbers()?, TokenizerKind::File(NUMBERS.to_owned())),
        TokenizerKind::File(path) if path == NUMBERS => (numbers()?, config.tokenizer.clone()),
        TokenizerKind::Byte => (Tokenizer::byte(), TokenizerKind::Byte),
        TokenizerKind::File(path) => (Tokenizer::from_file(Path::new(path))?, config.tokenizer.clone()),
        TokenizerKind::Bpe(_) => {
            return Err(Error::Config {
                key: "tokenizer".into(),
                value: format!("{:?}", String::from(config.tokenizer.clone())),
                allowed:
                    "byte or a tokenizer.json, the one that these token ids are from; without it, they stay numbers"
                        .into(),
            });
        }
    };
    Ok((tokenizer.with_ends(&config.bos_token, &config.eos_token)?, kind))
}

/// The checksum that a file of these ids without a header has.
fn sum(ids: &[u32], wide: bool) -> String {
    let bytes: Vec<u8> = match wide {
        true => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        false => ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect(),
    };
    sha256(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Origin, read};
    use kinglet_core::batch::Batch;

    fn batch(split: &Split) -> Vec<Vec<u32>> {
        let mut batch = Batch::default();
        (0..split.windows()).for_each(|i| split.window(i, &mut batch).unwrap());
        (0..batch.len()).map(|i| batch.sequence(i).1.to_vec()).collect()
    }

    #[test]
    fn ids_in_memory_are_those_of_a_file() {
        let temp = tempfile::tempdir().unwrap();
        let ids: Vec<u32> = (0..900).map(|i| i * i % 256).collect();
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect();
        let path = temp.path().join("ids.bin");
        std::fs::write(&path, bytes).unwrap();
        let mut config = Config::default().with(&["tokenizer=byte", "block_size=8", "train_split=0.7"]).unwrap();
        config.data = vec![path.display().to_string()];
        let (of_file, file) = read(&config, TokenizerChoice::FromConfig).unwrap();
        let (tokenizer, memory) = Origin::Ids(ids.into()).read(&config, TokenizerChoice::FromConfig).unwrap();
        assert_eq!(tokenizer, of_file);
        assert_eq!(memory.sha256, file.sha256);
        assert_eq!(memory.notes, file.notes);
        for (memory, file) in [(&memory.train, &file.train), (&memory.val, &file.val)] {
            assert_eq!(batch(memory), batch(file));
            assert_eq!(memory.tokens_per_byte_and_char(), file.tokens_per_byte_and_char());
        }
    }

    #[test]
    fn ids_without_a_tokenizer_stay_numbers() {
        let ids: Vec<u32> = (0..300).map(|i| i % 70_000 % 97).collect();
        let config = Config::default();
        let read = |config: &Config| Origin::Ids(ids.clone().into()).read(config, TokenizerChoice::FromConfig);
        let (tokenizer, data) = read(&config).unwrap();
        assert_eq!((tokenizer.vocab_size(), data.train.tokens(), data.val.tokens()), (97, 270, 30));
        assert_eq!(data.val.tokens_per_byte_and_char(), (1.0, 1.0));
        assert_eq!(tokenizer.decode(&[3, 96, 10]), "3 96 10");
        assert_eq!(tokenizer.encode("3 96\n10").unwrap(), [3, 96, 10]);
        assert!(tokenizer.encode("3 97").is_err());
        // The same again, however the tokenizer came to be known.
        let again = Tokenizer::from_json(tokenizer.to_json()).unwrap();
        let mut config = config;
        config.tokenizer = data.made.unwrap().tokenizer;
        assert_eq!((&again, read(&config).unwrap().0), (&tokenizer, tokenizer.clone()));
        let larger = config.clone().with(&["vocab_size=128"]).unwrap();
        assert_eq!(read(&larger).unwrap().0.vocab_size(), 128);
        let smaller = config.with(&["vocab_size=96"]).unwrap();
        let error = read(&smaller).unwrap_err().to_string();
        assert_eq!(error, "id 96 at position 96 is not in the vocabulary of 96: ids are 0 to 95");
        let bpe = Config::default().with(&["tokenizer=bpe:300"]).unwrap();
        assert!(read(&bpe).unwrap_err().to_string().contains("without it, they stay numbers"));
    }
}

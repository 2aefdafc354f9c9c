//! A corpus as token ids, divided into a training split and a validation split, from which batches are drawn.

use super::{
    encode::{Encoded, encode},
    split::{Content, Ids, Split, within},
    survey::Survey,
};
use crate::{
    system::machine,
    text::{source::Corpus, tokenizer::Tokenizer},
};
use kinglet_core::{
    config::{Config, TokenizerKind},
    error::{Error, Result},
};

/// A corpus as token ids, in two splits.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The training split.
    pub train: Split,
    /// The validation split.
    pub val: Split,
    /// The entropy floor of the validation split in nats per character, if known.
    pub floor: Option<f64>,
    /// A hash that identifies the corpus, in hexadecimal.
    pub sha256: String,
    /// Notes for the user on how it was read.
    pub notes: Vec<String>,
    /// For token ids prepared by kinglet: the tokenizer and train_split they were made with.
    pub made: Option<(TokenizerKind, f64)>,
}

/// Peak memory per token while a corpus is encoded: its id, in a vector that grows by doubling.
const BYTES_PER_TOKEN: u64 = 12;

impl Dataset {
    /// Encodes and divides a corpus; the training split is the first `int(train_split * n)` characters or
    /// conversations.
    ///
    /// # Errors
    /// If the corpus cannot be read, or contains characters unknown to the tokenizer.
    pub fn new(corpus: &Corpus, survey: &Survey, tokenizer: &Tokenizer, config: &Config) -> Result<Dataset> {
        let cut = survey.cut(config);
        let [train, val] = encode_in_memory(corpus, survey, tokenizer, config, cut)?;
        let characters = tokenizer.chars().is_some();
        let floor = corpus.own().filter(|_| characters).map(|own| own.floor(cut as usize..survey.chars as usize));
        let mut notes = [&corpus.notes[..], &survey.notes].concat();
        notes.extend(left_out(&[&train, &val], survey, config));
        let conversations = survey.conversations > 0;
        Ok(Dataset {
            train: train.split(conversations, tokenizer, config),
            val: val.split(conversations, tokenizer, config),
            floor,
            sha256: survey.sha256.clone(),
            notes,
            made: None,
        })
    }

    /// Checks that both splits are usable.
    ///
    /// # Errors
    /// If a split is too short for one sequence.
    pub fn check(&self, config: &Config) -> Result<()> {
        for (name, part) in [("training", &self.train), ("validation", &self.val)] {
            let n = part.tokens();
            match part.content {
                Content::Text(_) if n <= config.block_size => {
                    return Err(Error::Data(format!(
                        "the {name} part of the text has {n} tokens, fewer than one sequence of block_size + 1 = {}: \
                         use a longer text or a smaller block_size",
                        config.block_size + 1
                    )));
                }
                Content::Conversations { .. } if part.windows() == 0 => {
                    return Err(Error::Data(format!(
                        "the {name} part has no conversation of at most block_size + 1 = {} tokens: use more or shorter \
                         ones, or a model with a larger block_size",
                        config.block_size + 1
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The whole corpus as one split, for evaluation. Text in memory must have been read with `train_split` = 0,
    /// because only its validation split is returned.
    pub fn whole(self) -> Split {
        match (self.train.content, self.val) {
            (
                Content::Text(Ids::Files(mut files)),
                Split { content: Content::Text(Ids::Files(more)), measured, bytes, chars, .. },
            ) => {
                files.extend(more);
                Split {
                    content: Content::Text(Ids::Files(files)),
                    measured: measured + self.train.measured,
                    bytes: bytes + self.train.bytes,
                    chars: chars + self.train.chars,
                    ..self.train
                }
            }
            (_, val) => val,
        }
    }

    /// Rejects a corpus that is too large for this machine, before reading any of it.
    ///
    /// # Errors
    /// If the ids would not fit into memory.
    pub fn check_size(corpus: &Corpus, bytes: u64) -> Result<()> {
        machine::check_memory(bytes.saturating_mul(BYTES_PER_TOKEN), |need, have| {
            Error::Data(format!(
                "{} has {:.1} GiB; training on it takes up to {need:.0} GiB of memory and this machine has {have:.1} GiB: \
                 kinglet data prepare writes its tokens to files, which are trained on without loading them",
                corpus.names(),
                bytes as f64 / f64::from(1 << 30)
            ))
        })
    }
}

/// Notes about conversations that were left out.
fn left_out(parts: &[&Collected], survey: &Survey, config: &Config) -> Vec<String> {
    let too_long: usize = parts.iter().map(|part| part.too_long.0).sum();
    let longest = parts.iter().map(|part| part.too_long.1).max();
    let empty: usize = parts.iter().map(|part| part.empty).sum();
    let (of, most) = (survey.conversations, config.block_size + 1);
    let long = (too_long > 0).then(|| {
        format!(
            "{too_long} of {of} conversations are longer than block_size + 1 = {most} tokens (the longest has {}) and left \
             out; a model with a larger block_size could learn them",
            longest.unwrap_or(0)
        )
    });
    let empty = (empty > 0).then(|| format!("{empty} of {of} conversations have no answer and are left out"));
    long.into_iter().chain(empty).collect()
}

/// A split while it is being collected.
#[derive(Default)]
struct Collected {
    ids: Vec<u32>,
    /// For conversations: which tokens are trained on, and where each row ends.
    learned: Vec<bool>,
    ends: Vec<usize>,
    bytes: u64,
    chars: u64,
    /// Conversations too long for the model, and the length of the longest.
    too_long: (usize, usize),
    /// Conversations without any token to train on.
    empty: usize,
}

impl Collected {
    /// Adds a conversation as a new row or, with `packing`, appends it to the last row if it fits there.
    fn add_row(&mut self, encoded: &Encoded, config: &Config) {
        let most = config.block_size + 1;
        if encoded.ids.len() > most {
            self.too_long = (self.too_long.0 + 1, self.too_long.1.max(encoded.ids.len()));
            return;
        }
        if !encoded.learned.iter().skip(1).any(|&learned| learned) {
            self.empty += 1;
            return;
        }
        let last_row = self.ends.len().checked_sub(2).map_or(0, |before| self.ends[before]);
        if config.packing && self.ids.len() - last_row + encoded.ids.len() <= most {
            self.ends.pop();
        }
        self.ids.extend(&encoded.ids);
        self.learned.extend(&encoded.learned);
        self.ends.push(self.ids.len());
        self.bytes += encoded.bytes;
        self.chars += encoded.chars;
    }

    fn split(self, conversations: bool, tokenizer: &Tokenizer, config: &Config) -> Split {
        let Collected { ids, learned, ends, bytes, chars, .. } = self;
        let (measured, rows) = if conversations {
            (learned.iter().filter(|&&learned| learned).count(), Content::Conversations { ids, learned, ends })
        } else {
            (ids.len(), Content::Text(Ids::Memory(ids)))
        };
        Split {
            content: rows,
            block_size: config.block_size,
            measured,
            bytes,
            chars,
            within: within(tokenizer, config),
        }
    }
}

fn encode_in_memory(
    corpus: &Corpus,
    survey: &Survey,
    tokenizer: &Tokenizer,
    config: &Config,
    cut: u64,
) -> Result<[Collected; 2]> {
    let mut parts = [Collected::default(), Collected::default()];
    if tokenizer.chars().is_some() && survey.conversations == 0 {
        // The number of tokens is known beforehand, up to the ends of documents, so reserve exactly.
        parts[0].ids.reserve((cut + survey.documents) as usize);
        parts[1].ids.reserve((survey.chars - cut + survey.documents) as usize);
    }
    encode(corpus, survey, tokenizer, config, cut, |behind, encoded| {
        let part = &mut parts[usize::from(behind)];
        if survey.conversations > 0 {
            part.add_row(&encoded, config);
        } else {
            part.ids.extend(encoded.ids);
            part.bytes += encoded.bytes;
            part.chars += encoded.chars;
        }
        Ok(())
    })?;
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinglet_core::{
        batch::{Batch, IGNORE},
        rng::Purpose,
    };

    fn dataset(text: &str, settings: &[&str]) -> Result<(Dataset, Tokenizer)> {
        let mut config = Config::default();
        settings.iter().for_each(|setting| config.set(setting).unwrap());
        let corpus = Corpus::from_text(text);
        let survey = Survey::of(&corpus, &config)?;
        let tokenizer = survey.char_tokenizer();
        let data = Dataset::new(&corpus, &survey, &tokenizer, &config)?;
        data.check(&config)?;
        Ok((data, tokenizer))
    }

    fn windows(split: &Split) -> Batch {
        let mut batch = Batch::default();
        (0..split.windows()).for_each(|i| split.window(i, &mut batch).unwrap());
        batch
    }

    #[test]
    fn windows_predict_every_token_once_and_samples_reach_both_ends() {
        let text: String = (0..103).map(|i| char::from(b'a' + i % 26)).collect();
        for block_size in [1, 4, 10] {
            let (data, _) = dataset(&text, &[&format!("block_size={block_size}")]).unwrap();
            let ids = data.val.last_ids(99).unwrap();
            assert_eq!(ids.len(), 11);
            let batch = windows(&data.val);
            let targets: Vec<u32> = (0..batch.len()).flat_map(|i| batch.sequence(i).1.to_vec()).collect();
            assert_eq!(targets, ids[1..]);
            let mut batch = Batch::default();
            (0..2000).for_each(|i| data.val.sample(1, Purpose::Batch, 0, i, &mut batch).unwrap());
            let samples: Vec<_> = (0..2000).map(|i| batch.sequence(i)).collect();
            assert!(samples.iter().all(|(ids, targets)| ids.len() == block_size && targets.len() == block_size));
            assert!(samples.contains(&(&ids[..block_size], &ids[1..=block_size])), "the first sequence");
            let last = ids.len() - block_size - 1;
            assert!(samples.contains(&(&ids[last..last + block_size], &ids[last + 1..])), "the last sequence");
        }
    }

    #[test]
    fn the_split_is_the_published_one() {
        let (data, _) = dataset(&"ab".repeat(550), &["block_size=10"]).unwrap();
        assert_eq!((data.train.tokens(), data.val.tokens()), (990, 110));
        let message = dataset("abcdefghijklmnopqrstuvwxyz", &["block_size=3"]).unwrap_err().to_string();
        assert!(message.contains("validation part of the text has 3 tokens"), "{message}");
    }

    #[test]
    fn an_epoch_has_every_token_once_cut_in_a_way_and_an_order_of_its_own() {
        for (block, length) in [(7, 1200), (1, 60), (2, 60), (40, 410)] {
            let (data, _) = dataset(&"abcdefghij".repeat(length / 10), &[&format!("block_size={block}")]).unwrap();
            let text = &data.train;
            // Twice through every way of cutting, in steps of four sequences.
            let mut cut: Vec<usize> = (0..block).map(|shift| text.windows_after(shift)).collect();
            let together: usize = cut.iter().sum();
            let mut batch = Batch::default();
            for i in 0..2 * together {
                text.in_epochs(5, i as u64 / 4, 4, i % 4, &mut batch).unwrap();
            }
            let mut all: Vec<_> = (0..2 * together).map(|i| batch.sequence(i)).collect();
            assert!(all[..together] != all[together..], "another order");
            // An epoch is over when every token but the first was a target.
            let (mut at, mut lengths) = (0, Vec::new());
            while at < together {
                let (mut tokens, from) = (0, at);
                while tokens < text.tokens() - 1 {
                    tokens += all[at].1.len();
                    at += 1;
                }
                assert_eq!(tokens, text.tokens() - 1);
                lengths.push(at - from);
            }
            lengths.sort_unstable();
            cut.sort_unstable();
            assert_eq!(lengths, cut);
            let mut every = Batch::default();
            for shift in 0..block {
                for i in 0..text.windows_after(shift) {
                    (0..2).for_each(|_| text.window_after(shift, i, &mut every).unwrap());
                }
            }
            let mut every: Vec<_> = (0..2 * together).map(|i| every.sequence(i)).collect();
            all.sort_unstable();
            every.sort_unstable();
            assert!(all == every);
        }
    }

    #[test]
    fn documents_are_kept_apart() {
        let temp = tempfile::tempdir().unwrap();
        let lines: String = (0..40).map(|i| format!("{{\"text\": \"document {i}\"}}\n")).collect();
        std::fs::write(temp.path().join("d.jsonl"), lines).unwrap();
        let mut config = Config::default().with(&["block_size=30"]).unwrap();
        config.data = vec![temp.path().join("d.jsonl").display().to_string()];
        let corpus = Corpus::open(&config).unwrap();
        let survey = Survey::of(&corpus, &config).unwrap();
        assert_eq!((survey.documents, survey.needs_end_of_text()), (40, true));
        let tokenizer = survey.char_tokenizer();
        let end = tokenizer.end_of_text().unwrap();
        let across = Dataset::new(&corpus, &survey, &tokenizer, &config).unwrap().train;
        let batch = windows(&across);
        assert!((0..batch.len()).flat_map(|i| batch.sequence(i).1).filter(|&&id| id == end).count() > 30);
        config.within_documents = true;
        let within = Dataset::new(&corpus, &survey, &tokenizer, &config).unwrap().train;
        let batch = windows(&within);
        for i in 0..batch.len() {
            let (_, targets) = batch.sequence(i);
            if let Some(at) = targets.iter().position(|&id| id == end) {
                assert!(targets[at + 1..].iter().all(|&id| id == IGNORE));
            }
        }
        assert!(batch.counted() < windows(&across).counted());
    }

    #[test]
    fn conversations_are_rows_that_are_padded_or_packed() {
        let temp = tempfile::tempdir().unwrap();
        let lines: String =
            (10..50).map(|i| format!("{{\"prompt\": \"{i}+1\", \"response\": \"{}\"}}\n", i + 1)).collect();
        let long = format!("{{\"prompt\": \"{}\", \"response\": \"x\"}}\n", "y".repeat(99));
        std::fs::write(temp.path().join("c.jsonl"), lines + &long).unwrap();
        let mut config = Config::default().with(&["block_size=17"]).unwrap();
        config.data = vec![temp.path().join("c.jsonl").display().to_string()];
        let corpus = Corpus::open(&config).unwrap();
        let survey = Survey::of(&corpus, &config).unwrap();
        let tokenizer = survey.char_tokenizer();
        let padded = Dataset::new(&corpus, &survey, &tokenizer, &config).unwrap();
        assert!(
            padded.notes[0]
                .starts_with("1 of 41 conversations are longer than block_size + 1 = 18 tokens (the longest has 102)")
        );
        assert_eq!((padded.train.windows(), padded.val.windows()), (36, 4));
        let batch = windows(&padded.train);
        let (ids, targets) = batch.sequence(0);
        assert_eq!(
            tokenizer.decode(ids),
            "10+1
11"
        );
        let learned: Vec<u32> = targets.iter().copied().filter(|&id| id != IGNORE).collect();
        assert_eq!(tokenizer.decode(&learned), "11<|endoftext|>");
        assert_eq!(targets[..4], [IGNORE; 4]);
        // Two of eight tokens fit into eighteen.
        config.packing = true;
        let packed = windows(&Dataset::new(&corpus, &survey, &tokenizer, &config).unwrap().train);
        assert_eq!((packed.len(), packed.counted()), (18, batch.counted()));
        assert_eq!(tokenizer.decode(packed.sequence(0).0), "10+1\n11<|endoftext|>11+1\n12".replace("\\n", "\n"));
    }
}

//! A corpus as token ids, divided into a training split and a validation split, from which batches are drawn.

use super::{
    chats::Chats,
    encode::{Encoded, encode},
    split::{Content, Conversations, Ids, Size, Split},
    survey::Survey,
};
use crate::{
    system::{machine, progress::Progress},
    text::{chat::Doubts, many, source::Corpus, tokenizer::Tokenizer},
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
    /// For token ids prepared by kinglet: what they were made with.
    pub made: Option<Made>,
    /// What the conversations are like, those included that are too long; of text, nothing.
    pub chats: Option<Chats>,
}

/// The settings that token ids were prepared with.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Made {
    /// The tokenizer.
    pub tokenizer: TokenizerKind,
    /// How the text was divided.
    pub train_split: f64,
    /// The token before each document.
    pub bos_token: String,
    /// The token behind each document.
    pub eos_token: String,
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
        let ([mut train, mut val], lost) = encode_in_memory(corpus, survey, tokenizer, config, cut)?;
        let characters = tokenizer.chars().is_some();
        let floor = corpus.own().filter(|_| characters).map(|own| own.floor(cut as usize..survey.chars as usize));
        let mut notes = [&corpus.notes[..], &survey.notes, &lost].concat();
        let lengths = [std::mem::take(&mut train.lengths), std::mem::take(&mut val.lengths)].concat();
        let conversations = survey.conversations > 0;
        let chats = conversations.then(|| survey.chats.clone().with_lengths(lengths));
        notes.extend(left_out(&[&train, &val], chats.as_ref(), survey, config));
        Ok(Dataset {
            train: train.split(conversations, tokenizer, config)?,
            val: val.split(conversations, tokenizer, config)?,
            floor,
            sha256: survey.sha256.clone(),
            notes,
            made: None,
            chats,
        })
    }

    /// What it is made of, as a configuration's `data_kind` says it: text, conversations, or conversations of one exchange
    /// each.
    pub fn kind(&self) -> &'static str {
        match &self.chats {
            Some(chats) if chats.several_answers == 0 => "exchanges",
            Some(_) => "conversations",
            None => "text",
        }
    }

    /// A larger context that would hold 99 % of the conversations, if the configured one holds fewer.
    pub fn larger_block_size(&self, config: &Config) -> Option<usize> {
        self.chats.as_ref()?.block_size().filter(|&block_size| block_size > config.block_size)
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
                        "the {name} part of the text has only {}, but a sequence needs block_size + 1 = {}: use \
                         a longer text or a smaller block_size",
                        many(n as u64, "token", "tokens"),
                        config.block_size + 1
                    )));
                }
                Content::Conversations(_) if part.windows() == 0 => {
                    return Err(Error::Data(format!(
                        "no conversation with an answer in the {name} part fits into block_size + 1 = {} \
                         tokens: use more or shorter conversations, or a model with a larger block_size{}",
                        config.block_size + 1,
                        self.notes.iter().map(|note| format!("; {note}")).collect::<String>()
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The whole corpus as one split, for evaluation. Text in memory must have been read with `train_split` = 0,
    /// because only its validation split is returned.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn whole(self, tokenizer: &Tokenizer, config: &Config) -> Result<Split> {
        let (train, val) = (self.train.size(), self.val.size());
        let size =
            Size { bytes: train.bytes + val.bytes, chars: train.chars + val.chars, given: train.given + val.given };
        match (self.train.content, self.val) {
            (Content::Text(Ids::Files(mut files)), Split { content: Content::Text(Ids::Files(more)), .. }) => {
                files.extend(more);
                Split::of_files(files, size, tokenizer, config)
            }
            (_, val) => Ok(val),
        }
    }

    /// Rejects a corpus that is too large for this machine, before reading any of it.
    ///
    /// # Errors
    /// If the ids would not fit into memory.
    pub fn check_size(corpus: &Corpus, bytes: u64) -> Result<()> {
        machine::check_memory(bytes.saturating_mul(BYTES_PER_TOKEN), |need, have| {
            Error::Data(format!(
                "{} has {:.1} GiB; training on it needs up to {need:.0} GiB of memory, but this machine has \
                 {have:.1} GiB. First run kinglet data prepare, which writes the tokens to files that need not \
                 be loaded",
                corpus.names(),
                bytes as f64 / f64::from(1 << 30)
            ))
        })
    }
}

/// Notes about conversations that were left out.
fn left_out(parts: &[&Collected], chats: Option<&Chats>, survey: &Survey, config: &Config) -> Vec<String> {
    let too_long: usize = parts.iter().map(|part| part.too_long.0).sum();
    let longest = parts.iter().map(|part| part.too_long.1).max();
    let empty: usize = parts.iter().map(|part| part.empty).sum();
    let (of, most) = (survey.conversations, config.block_size + 1);
    let long = (too_long > 0).then(|| {
        let what = of_all(too_long as u64, "is", "are", of);
        let (are, longest) = (if too_long == 1 { "is" } else { "are" }, longest.unwrap_or(0));
        let more = if parts.iter().any(|part| part.at_least) { " or more" } else { "" };
        format!(
            "{what} longer than block_size + 1 = {most} tokens (the longest has {longest}{more}) and {are} skipped{}",
            larger(chats, config)
        )
    });
    let empty = (empty > 0).then(|| {
        let what = of_all(empty as u64, "has", "have", of);
        let are = if empty == 1 { "is" } else { "are" };
        format!("{what} no answer to learn and {are} skipped")
    });
    let mut doubts = Doubts::default();
    parts.iter().for_each(|part| doubts.add(part.doubts.clone()));
    long.into_iter().chain(empty).chain(doubts.notes()).collect()
}

/// `n` of the conversations are or do something.
fn of_all(n: u64, one: &str, several: &str, of: u64) -> String {
    let conversations = if of == 1 { "conversation" } else { "conversations" };
    format!("{n} of {of} {conversations} {}", if n == 1 { one } else { several })
}

/// Which context would hold more conversations, where that can be chosen.
fn larger(chats: Option<&Chats>, config: &Config) -> String {
    match chats.and_then(Chats::block_size) {
        Some(size) if size <= config.block_size => String::new(),
        Some(size) if config.base.is_empty() => {
            let chat = Config::preset("chat").is_ok_and(|chat| config.block_size < chat.block_size);
            let preset = if chat { "--preset chat is made for conversations; " } else { "" };
            format!("; {preset}--set block_size={size} holds 99 % of them")
        }
        Some(size) => format!("; a block_size of {size} would hold 99 % of them"),
        None => "; no allowed block_size holds 99 % of them".to_owned(),
    }
}

/// A split while it is being collected.
#[derive(Default)]
struct Collected {
    /// Of text.
    ids: Vec<u32>,
    conversations: Conversations,
    /// Ids that are never predicted.
    given: u64,
    bytes: u64,
    chars: u64,
    /// Tokens of each conversation.
    lengths: Vec<usize>,
    /// Conversations too long for the model, and the length of the longest.
    too_long: (usize, usize),
    /// Whether that length is only known to be as much.
    at_least: bool,
    /// Conversations without any token to train on.
    empty: usize,
    /// What is doubtful about the answers of the others.
    doubts: Doubts,
}

impl Collected {
    /// Adds a conversation as a new row or, if they are packed, to the last row if it fits there.
    fn add_conversation(&mut self, encoded: &Encoded, block_size: usize, packed: bool) {
        let tokens = encoded.ids.len().max(encoded.at_least);
        self.lengths.push(tokens);
        if tokens > block_size + 1 {
            self.too_long = (self.too_long.0 + 1, self.too_long.1.max(tokens));
            self.at_least |= encoded.at_least > 0;
            return;
        }
        if !encoded.learned.iter().skip(1).any(|&learned| learned) {
            self.empty += 1;
            return;
        }
        let all = &mut self.conversations;
        let last = all.rows.len().checked_sub(1);
        if packed && last.is_some_and(|last| all.inputs(last) + encoded.ids.len() - 1 <= block_size) {
            all.rows.pop();
        }
        all.ids.extend(&encoded.ids);
        all.learned.extend(&encoded.learned);
        all.ends.push(all.ids.len());
        all.rows.push(all.ends.len());
        self.bytes += encoded.bytes;
        self.chars += encoded.chars;
        self.doubts.add(encoded.doubts.clone());
    }

    fn split(self, conversations: bool, tokenizer: &Tokenizer, config: &Config) -> Result<Split> {
        let Collected { ids, conversations: all, given, bytes, chars, .. } = self;
        let (measured, content) = if conversations {
            (all.targets(), Content::Conversations(all))
        } else {
            (ids.len() - given as usize, Content::Text(Ids::Memory(ids)))
        };
        let given = tokenizer.given();
        Split { content, block_size: config.block_size, measured, bytes, chars, given, apart: None }
            .kept_apart(tokenizer, config)
    }
}

fn encode_in_memory(
    corpus: &Corpus,
    survey: &Survey,
    tokenizer: &Tokenizer,
    config: &Config,
    cut: u64,
) -> Result<([Collected; 2], Vec<String>)> {
    let mut parts = [Collected::default(), Collected::default()];
    if tokenizer.chars().is_some() && survey.conversations == 0 {
        // The number of tokens is known beforehand, up to the ends of documents, so reserve exactly.
        parts[0].ids.reserve((cut + survey.documents) as usize);
        parts[1].ids.reserve((survey.chars - cut + survey.documents) as usize);
    }
    let (mut progress, mut done) = (Progress::new(), 0);
    let notes = encode(corpus, survey, tokenizer, config, cut, |behind, encoded| {
        done += encoded.bytes;
        progress.show(|| format!("encoding: {} MB of text", done / 1_000_000));
        let part = &mut parts[usize::from(behind)];
        if survey.conversations > 0 {
            // Packing is for speed in training. The validation part is measured one by one.
            part.add_conversation(&encoded, config.block_size, config.packing && !behind);
        } else {
            part.ids.extend(encoded.ids);
            part.given += encoded.given;
            part.bytes += encoded.bytes;
            part.chars += encoded.chars;
        }
        Ok(())
    })?;
    Ok((parts, notes))
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
        assert!(message.contains("validation part of the text has only 3 tokens"), "{message}");
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
                text.in_epochs(5, i as u64, &mut batch).unwrap();
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
        let whole = windows(&across);
        assert!(whole.positions(0).is_empty());
        config.within_documents = true;
        for block_size in [5, 11, 13, 30] {
            config.block_size = block_size;
            let within = Dataset::new(&corpus, &survey, &tokenizer, &config).unwrap().train;
            let batch = windows(&within);
            // Every token but the first is predicted once, and nothing is left out.
            let targets =
                |batch: &Batch| (0..batch.len()).flat_map(|i| batch.sequence(i).1.to_vec()).collect::<Vec<_>>();
            assert_eq!(targets(&batch), targets(&whole));
            let (mut begun, mut random) = (0, Batch::default());
            for i in 0..batch.len() {
                let (ids, positions) = (batch.sequence(i).0, batch.positions(i));
                assert!(ids.len() <= block_size && positions[0] == 0);
                begun += usize::from(i == 0 || ids[0] == end);
                for (at, (id, position)) in ids.iter().zip(positions).enumerate() {
                    assert_eq!(
                        *position == 0,
                        at == 0 || *id == end,
                        "a document begins with the end of the one before"
                    );
                }
            }
            // A document of this text and the end before it are 12 tokens: only smaller windows begin inside of one.
            assert!(begun == batch.len() || block_size < 12, "{block_size}: {begun} of {}", batch.len());
            // Training takes any window, and all of it.
            (0..50).for_each(|i| within.sample(1, Purpose::Batch, 0, i, &mut random).unwrap());
            assert_eq!((random.counted(), random.tokens()), (50 * block_size, 50 * block_size));
            assert!((0..50).any(|i| random.sequence(i).0[0] != end));
        }
    }

    /// Three documents in bytes, with these ends, and settings.
    fn of_three(ends: [&str; 2], settings: &[&str]) -> (Dataset, Tokenizer) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("d.jsonl");
        std::fs::write(&path, "{\"text\": \"abc\"}\n{\"text\": \"de\"}\n{\"text\": \"fgh\"}\n").unwrap();
        let mut config = Config::default().with(settings).unwrap();
        config.data = vec![path.display().to_string()];
        let corpus = Corpus::open(&config).unwrap();
        let survey = Survey::of(&corpus, &config).unwrap();
        let tokenizer = Tokenizer::byte().with_ends(ends[0], ends[1]).unwrap();
        (Dataset::new(&corpus, &survey, &tokenizer, &config).unwrap(), tokenizer)
    }

    /// What a batch's sequences read, and what they predict, where `_` is nothing.
    fn read_and_predicted(batch: &Batch, tokenizer: &Tokenizer) -> Vec<(String, String)> {
        let shown = |ids: &[u32]| -> String {
            ids.iter().map(|&id| if id == IGNORE { "_".into() } else { tokenizer.decode(&[id]) }).collect()
        };
        (0..batch.len()).map(|i| batch.sequence(i)).map(|(ids, targets)| (shown(ids), shown(targets))).collect()
    }

    #[test]
    fn a_token_before_each_document_is_read_and_never_predicted() {
        let settings = ["block_size=20", "train_split=0.99999"];
        // All but the last character, which is the validation part's.
        let (data, tokenizer) = of_three(["^", "$"], &settings);
        let all = data.train.content_ids();
        assert_eq!(tokenizer.decode(&all), "^abc$^de$^fg");
        let batch = windows(&data.train);
        assert_eq!(read_and_predicted(&batch, &tokenizer), [("^abc$^de$^f".into(), "abc$_de$_fg".into())]);
        // Nine of the twelve are of the text or end a part of it; the text has seven bytes.
        assert_eq!(data.train.tokens_per_byte_and_char(), (9.0 / 7.0, 9.0 / 7.0));
        assert_eq!(tokenizer.decode(&data.train.first_ids(99).unwrap()), "abc$de$fg");
        // The validation part begins inside of a document.
        assert_eq!(tokenizer.decode(&data.val.content_ids()), "h$");
        for within in ["within_documents=true", "replacement=false"] {
            let (data, _) = of_three(["^", "$"], &[&settings[..], &[within]].concat());
            let mut batch = Batch::default();
            data.train.window(0, &mut batch).unwrap();
            assert_eq!(read_and_predicted(&batch, &tokenizer)[0].1, "abc$_de$_fg");
            let apart = if within == "within_documents=true" { &[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1][..] } else { &[] };
            assert_eq!(batch.positions(0), apart);
        }
    }

    #[test]
    fn a_token_that_ends_and_begins_documents_stands_between_them_once() {
        let settings = ["block_size=20", "train_split=0.99999"];
        let (data, tokenizer) = of_three(["$", "$"], &settings);
        assert_eq!(tokenizer.decode(&data.train.content_ids()), "$abc$de$fg");
        let batch = windows(&data.train);
        assert_eq!(read_and_predicted(&batch, &tokenizer), [("$abc$de$f".into(), "abc$de$fg".into())]);
        let (data, _) = of_three(["", "$"], &settings);
        assert_eq!(tokenizer.decode(&data.train.content_ids()), "abc$de$fg");
        let (data, _) = of_three(["", ""], &settings);
        assert_eq!(tokenizer.decode(&data.train.content_ids()), "abc<|endoftext|>de<|endoftext|>fg");
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
                .starts_with("1 of 41 conversations is longer than block_size + 1 = 18 tokens (the longest has 102)")
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
        // A begin-of-text token stands before a conversation, unless the template writes it itself.
        let bytes = Tokenizer::byte().with_ends("^", "").unwrap();
        let template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
        for (template, read) in [("", "^10+1\n1"), (template, "^10+1<|endoftext|>1")] {
            let mut config = config.clone();
            (config.chat_template, config.block_size) = (template.to_owned(), 20);
            let (ids, targets) = (windows(&Dataset::new(&corpus, &survey, &bytes, &config).unwrap().train), "11");
            let (ids, learned) = ids.sequence(0);
            assert!(bytes.decode(ids).starts_with(read), "{}", bytes.decode(ids));
            let learned: Vec<u32> = learned.iter().copied().filter(|&id| id != IGNORE).collect();
            assert_eq!(bytes.decode(&learned), format!("{targets}<|endoftext|>"));
        }
        // Two of eight tokens, of which seven are read, fit into seventeen.
        config.packing = true;
        let data = Dataset::new(&corpus, &survey, &tokenizer, &config).unwrap();
        let packed = windows(&data.train);
        assert_eq!((packed.len(), packed.counted()), (18, batch.counted()));
        assert_eq!(tokenizer.decode(packed.sequence(0).0), "10+1\n1111+1\n12");
        assert_eq!(packed.positions(0), [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6]);
        // What is measured is never packed, and what counts is rows: 18 of them are one epoch.
        assert_eq!((data.val.windows(), windows(&data.val).positions(0)), (4, &[][..]));
        assert_eq!((data.train.epochs(36.0), data.train.tokens_per_sequence()), (2.0, 14.0));
        assert_eq!(data.train.conversations(), Some((36, 18)));
    }

    #[test]
    fn every_window_of_an_epoch_is_taken_once_whatever_is_replayed() {
        let settings = ["block_size=8", "replacement=false", "batch_size=4", "gradient_accumulation_steps=3"];
        let (data, _) = dataset(&"abcdefghij".repeat(80), &settings).unwrap();
        let (old, _) = dataset(&"k".repeat(800), &settings).unwrap();
        let mut config = Config::default().with(&settings).unwrap();
        let drawn = |config: &Config, steps: u64| {
            let (mut batch, mut new, mut old_ones) = (Batch::default(), Vec::new(), 0);
            for step in 0..steps {
                data.train.load_step(config, step, Some(&old.train), &mut batch).unwrap();
                for i in 0..batch.len() {
                    // Both alphabets have the id 0; eight tokens in a row have others only in the new text.
                    let (ids, targets) = batch.sequence(i);
                    if ids.iter().chain(targets).all(|&id| id == 0) && ids.len() == 8 {
                        old_ones += 1;
                    } else {
                        new.push((ids.to_vec(), targets.to_vec()));
                    }
                }
            }
            (new, old_ones)
        };
        let (all, none) = drawn(&config, 30);
        config.replay = 0.3;
        let (some, replayed) = drawn(&config, 30);
        assert_eq!((none, replayed, some.len()), (0, 108, 252));
        assert!(some == all[..252], "the same windows in the same order");
    }
}

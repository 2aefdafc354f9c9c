//! What batches are made of: a corpus as token ids, in a part to learn from and a part to be tested on.

use crate::{
    config::{Config, TokenizerKind},
    disk::hex,
    error::{Error, Result},
    instruct::{self, DEFAULT_TEMPLATE, Template},
    machine,
    prepared::{self, TokenFile},
    rng::{self, Purpose, Rng},
    source::{Corpus, Cuts, Piece},
    tokenizer::{Alphabet, CharTokenizer, END_OF_TEXT, Tokenizer},
};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::ops::Range;

pub use kinglet_kernels::loss::IGNORE;

/// What a first reading of a corpus tells.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Bytes of text.
    pub bytes: u64,
    /// Characters.
    pub chars: u64,
    /// Documents, conversations among them.
    pub documents: u64,
    /// Conversations.
    pub conversations: u64,
    /// SHA-256 in hexadecimal; of a single text, that of its UTF-8.
    pub sha256: String,
    alphabet: Alphabet,
}

impl Survey {
    /// Reads a corpus from beginning to end.
    ///
    /// # Errors
    /// If it cannot be read, is not text, or mixes text and conversations.
    pub fn of(corpus: &Corpus, config: &Config) -> Result<Survey> {
        let template = Template::new(template(config), END_OF_TEXT.to_owned())?;
        let mut hasher = Sha256::new();
        let (mut bytes, mut chars, mut documents, mut conversations) = (0, 0, 0, 0);
        let mut alphabet = Alphabet::default();
        let mut see = |text: &str| {
            bytes += text.len() as u64;
            chars += text.chars().count() as u64;
            alphabet.add(text);
        };
        let mut inside = false;
        corpus.pieces(Cuts::Anywhere, |piece| {
            if documents > 0 && !inside {
                // A byte that no text has, so that the same words in other documents are another corpus.
                hasher.update([0xff]);
            }
            match piece {
                Piece::Text { text, end } => {
                    hasher.update(&text);
                    see(&text);
                    documents += u64::from(!inside);
                    inside = !end;
                }
                Piece::Messages(messages) => {
                    hasher.update(serde_json::to_vec(&messages).expect("plain values"));
                    for part in template.parts(&messages)? {
                        part.text.split(END_OF_TEXT).for_each(&mut see);
                    }
                    documents += 1;
                    conversations += 1;
                }
            }
            if conversations > 0 && conversations < documents {
                let names = corpus.names();
                return Err(Error::Data(format!("{names}: text and conversations; train on one kind at a time")));
            }
            Ok(())
        })?;
        Ok(Survey { bytes, chars, documents, conversations, sha256: hex(&hasher.finalize()), alphabet })
    }

    /// The distinct characters, in code point order.
    pub fn alphabet(&self) -> impl Iterator<Item = char> {
        self.alphabet.chars()
    }

    /// What a corpus is divided by: its characters or, of conversations, these.
    fn units(&self) -> u64 {
        if self.conversations > 0 { self.conversations } else { self.chars }
    }

    /// The unit with which validation begins: `int(train_split * n)`.
    pub(crate) fn cut(&self, config: &Config) -> u64 {
        (config.train_split * self.units() as f64) as u64
    }

    /// Whether there is anything that an end of a text separates or ends.
    pub fn needs_end_of_text(&self) -> bool {
        self.documents > 1 || self.conversations > 0
    }

    /// Learns a byte pair encoding from the corpus.
    ///
    /// # Errors
    /// If it cannot be read a second time, or the library refuses.
    pub fn learn_bpe(&self, corpus: &Corpus, vocab_size: usize) -> Result<Tokenizer> {
        let (sender, pieces) = std::sync::mpsc::sync_channel(2);
        std::thread::scope(|scope| {
            // Read while it is counted, so that no more than a few pieces are in memory.
            let reader = scope.spawn(move || {
                corpus.pieces(Cuts::Anywhere, |piece| {
                    let text = match piece {
                        Piece::Text { text, .. } => text,
                        Piece::Messages(messages) => messages.into_iter().map(|m| m.content + "\n").collect(),
                    };
                    sender.send(text).map_err(|_| Error::Data("the vocabulary was not learned".into()))
                })
            });
            let learned = Tokenizer::train_bpe(pieces.into_iter(), vocab_size);
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let learned = learned?;
            read.map(|()| learned)
        })
    }

    /// The character tokenizer of the corpus; of a single text, the published one.
    pub fn char_tokenizer(&self) -> Tokenizer {
        let chars = Tokenizer::from(CharTokenizer::from(self.alphabet.clone()));
        chars.extended([], self.needs_end_of_text())
    }
}

/// The template of conversations.
fn template(config: &Config) -> &str {
    if config.chat_template.is_empty() { DEFAULT_TEMPLATE } else { &config.chat_template }
}

/// The conversation template of a model.
///
/// # Errors
/// If the configuration's is none, or the tokenizer has no token to end a conversation.
pub fn template_of(config: &Config, tokenizer: &Tokenizer) -> Result<Template> {
    let end = tokenizer.end_of_text_name().ok_or_else(|| {
        Error::Data(format!("conversations need a token that ends them, and this tokenizer has no {END_OF_TEXT}"))
    })?;
    Template::new(template(config), end)
}

/// A corpus as token ids, in two parts.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// What the model learns from.
    pub train: Split,
    /// What it is tested on.
    pub val: Split,
    /// Nats per character that no model can stay below on the validation part, where that is known.
    pub floor: Option<f64>,
    /// What identifies the corpus, in hexadecimal.
    pub sha256: String,
    /// What a user should know about how it was read.
    pub notes: Vec<String>,
    /// Of token ids that kinglet prepared: with which tokenizer and train_split.
    pub made: Option<(TokenizerKind, f64)>,
}

/// Memory that a token takes while a corpus is encoded: its id, in a vector that grows by doubling.
const BYTES_PER_TOKEN: u64 = 12;

impl Dataset {
    /// Encodes a corpus and divides it; the training part is the first `int(train_split * n)` characters, or conversations.
    ///
    /// # Errors
    /// If the corpus cannot be read, or has characters the tokenizer does not know.
    pub fn new(corpus: &Corpus, survey: &Survey, tokenizer: &Tokenizer, config: &Config) -> Result<Dataset> {
        let cut = survey.cut(config);
        let [train, val] = encode_in_memory(corpus, survey, tokenizer, config, cut)?;
        let characters = tokenizer.chars().is_some();
        let floor = corpus.own().filter(|_| characters).map(|own| own.floor(cut as usize..survey.chars as usize));
        let mut notes = corpus.notes.clone();
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

    /// A dataset of token ids in files.
    pub(crate) fn of_files(files: prepared::Files) -> Dataset {
        let prepared::Files { train, val, sha256, notes, made, .. } = files;
        Dataset { train, val, floor: None, sha256, notes, made }
    }

    /// Checks that there is something to train on and something to test on.
    ///
    /// # Errors
    /// If a part is too short for one sequence.
    pub fn check(&self, config: &Config) -> Result<()> {
        for (name, part) in [("training", &self.train), ("validation", &self.val)] {
            let n = part.tokens();
            match part.rows {
                Rows::Text(_) if n <= config.block_size => {
                    return Err(Error::Data(format!(
                        "the {name} part of the text has {n} tokens, fewer than one sequence of block_size + 1 = {}: \
                         use a longer text or a smaller block_size",
                        config.block_size + 1
                    )));
                }
                Rows::Conversations { .. } if part.windows() == 0 => {
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

    /// All of it as one part, to be measured on; of a text in memory, what was not cut off by a `train_split` of 0.
    pub fn whole(self) -> Split {
        match (self.train.rows, self.val) {
            (
                Rows::Text(Ids::Files(mut files)),
                Split { rows: Rows::Text(Ids::Files(more)), measured, bytes, chars, .. },
            ) => {
                files.extend(more);
                Split {
                    rows: Rows::Text(Ids::Files(files)),
                    measured: measured + self.train.measured,
                    bytes: bytes + self.train.bytes,
                    chars: chars + self.train.chars,
                    ..self.train
                }
            }
            (_, val) => val,
        }
    }

    /// Refuses what is too large for this machine before any of it is read.
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

/// What is to be said about conversations that are not there.
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

/// What a piece became.
pub(crate) struct Encoded {
    /// The ids, an end of a text after a document's last piece.
    pub(crate) ids: Vec<u32>,
    /// For conversations: which of them are learned.
    learned: Vec<bool>,
    /// Bytes of the text, or of what is learned of it.
    pub(crate) bytes: u64,
    /// Characters of that.
    pub(crate) chars: u64,
}

/// Bytes of text that are encoded at once for each thread: two pieces.
const AT_ONCE: usize = 1 << 19;

/// Encodes a corpus, in order, on all threads: `sink` hears of each piece and whether it lies behind `cut`, in the
/// survey's units. The text that the cut falls into is divided.
pub(crate) fn encode(
    corpus: &Corpus,
    survey: &Survey,
    tokenizer: &Tokenizer,
    config: &Config,
    cut: u64,
    mut sink: impl FnMut(bool, Encoded) -> Result<()>,
) -> Result<()> {
    let template = (survey.conversations > 0).then(|| template_of(config, tokenizer)).transpose()?;
    let end_of_text = tokenizer.end_of_text();
    let one = |piece: &Piece| -> Result<Encoded> {
        let (ids, learned, text) = match piece {
            Piece::Text { text, end } => {
                let mut ids = tokenizer.encode(text)?;
                ids.extend(end_of_text.filter(|_| *end));
                (ids, Vec::new(), std::borrow::Cow::from(text))
            }
            Piece::Messages(messages) => {
                let changed = || Error::Data(format!("{} changed while it was read", corpus.names()));
                let parts = template.as_ref().ok_or_else(changed)?.parts(messages)?;
                let (ids, learned) = instruct::encode(&parts, tokenizer)?;
                // What the loss is of.
                let said = parts.iter().filter(|part| part.learned);
                let text: String = said.map(|part| part.text.replace(END_OF_TEXT, "")).collect();
                (ids, learned, text.into())
            }
        };
        Ok(Encoded { ids, learned, bytes: text.len() as u64, chars: text.chars().count() as u64 })
    };
    let mut flush = |waiting: &mut Vec<(bool, Piece)>| -> Result<()> {
        let encode = |(behind, piece): (bool, Piece)| Ok((behind, one(&piece)?));
        let encoded: Vec<Result<_>> = waiting.par_drain(..).map(encode).collect();
        // In order, so that the first error is the same however many threads there are.
        encoded.into_iter().try_for_each(|piece| piece.and_then(|(behind, encoded)| sink(behind, encoded)))
    };
    let (mut waiting, mut size, mut at) = (Vec::new(), 0, 0u64);
    corpus.pieces(tokenizer.cuts(), |piece| {
        let behind = at >= cut;
        match piece {
            Piece::Text { text, end } => {
                let chars = text.chars().count() as u64;
                at += chars;
                size += text.len();
                let inside = if behind { None } else { text.char_indices().nth((cut + chars - at) as usize) };
                if let Some((byte, _)) = inside {
                    waiting.push((false, Piece::Text { text: text[..byte].to_owned(), end: false }));
                    waiting.push((true, Piece::Text { text: text[byte..].to_owned(), end }));
                } else {
                    waiting.push((behind, Piece::Text { text, end }));
                }
            }
            Piece::Messages(messages) => {
                at += 1;
                size += messages.iter().map(|message| message.content.len()).sum::<usize>();
                waiting.push((behind, Piece::Messages(messages)));
            }
        }
        if size >= AT_ONCE * rayon::current_num_threads() {
            size = 0;
            flush(&mut waiting)?;
        }
        Ok(())
    })?;
    flush(&mut waiting)
}

/// A part while it is collected.
#[derive(Default)]
struct Collected {
    ids: Vec<u32>,
    /// Of conversations: what is learned, and where each row ends.
    learned: Vec<bool>,
    ends: Vec<usize>,
    bytes: u64,
    chars: u64,
    /// Conversations too long for the model, and the length of the longest.
    too_long: (usize, usize),
    /// Conversations without a token to be learned.
    empty: usize,
}

impl Collected {
    /// Adds a conversation as a row; with `packing` behind the last one, if it fits there.
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
            (learned.iter().filter(|&&learned| learned).count(), Rows::Conversations { ids, learned, ends })
        } else {
            (ids.len(), Rows::Text(Ids::Memory(ids)))
        };
        Split { rows, block_size: config.block_size, measured, bytes, chars, within: within(tokenizer, config) }
    }
}

/// The token at which a sequence ends, if it must not run on into the next document.
fn within(tokenizer: &Tokenizer, config: &Config) -> Option<u32> {
    tokenizer.end_of_text().filter(|_| config.within_documents)
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
        // Known beforehand, but for the ends of documents: no room for growing is needed.
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

/// Token ids, in memory or in files.
#[derive(Clone, Debug)]
enum Ids {
    Memory(Vec<u32>),
    Files(Vec<TokenFile>),
}

impl Ids {
    fn len(&self) -> usize {
        match self {
            Ids::Memory(ids) => ids.len(),
            Ids::Files(files) => files.iter().map(TokenFile::len).sum(),
        }
    }

    /// Appends those in `range` to `out`.
    fn read(&self, range: Range<usize>, out: &mut Vec<u32>) -> Result<()> {
        match self {
            Ids::Memory(ids) => out.extend_from_slice(&ids[range]),
            Ids::Files(files) => {
                let mut first = 0;
                for file in files {
                    let (start, end) = (range.start.max(first), range.end.min(first + file.len()));
                    if start < end {
                        file.read(start - first..end - first, out)?;
                    }
                    first += file.len();
                }
            }
        }
        Ok(())
    }
}

/// A part of a corpus.
#[derive(Clone, Debug)]
pub struct Split {
    rows: Rows,
    block_size: usize,
    /// Tokens that losses are of, and the text that they are.
    measured: usize,
    bytes: u64,
    chars: u64,
    within: Option<u32>,
}

#[derive(Clone, Debug)]
enum Rows {
    /// One long text; documents may follow one another in it.
    Text(Ids),
    /// Conversations, some of whose tokens are learned; row `i` ends before `ends[i]`.
    Conversations { ids: Vec<u32>, learned: Vec<bool>, ends: Vec<usize> },
}

impl Split {
    /// A text of token ids from memory.
    pub fn new(ids: Vec<u32>, block_size: usize) -> Split {
        let (measured, bytes) = (ids.len(), ids.len() as u64);
        Split { rows: Rows::Text(Ids::Memory(ids)), block_size, measured, bytes, chars: bytes, within: None }
    }

    /// A text in files of token ids.
    pub(crate) fn of_files(
        files: Vec<TokenFile>,
        bytes: u64,
        chars: u64,
        tokenizer: &Tokenizer,
        config: &Config,
    ) -> Split {
        let (within, measured) = (within(tokenizer, config), files.iter().map(TokenFile::len).sum());
        Split { rows: Rows::Text(Ids::Files(files)), block_size: config.block_size, measured, bytes, chars, within }
    }

    /// Tokens in it.
    pub fn tokens(&self) -> usize {
        match &self.rows {
            Rows::Text(ids) => ids.len(),
            Rows::Conversations { ids, .. } => ids.len(),
        }
    }

    /// Tokens of it that are in memory, not in files.
    pub fn tokens_in_memory(&self) -> usize {
        if matches!(self.rows, Rows::Text(Ids::Files(_))) { 0 } else { self.tokens() }
    }

    /// Whether it is conversations.
    pub fn is_conversations(&self) -> bool {
        matches!(self.rows, Rows::Conversations { .. })
    }

    /// Tokens for each byte and for each character of text (of conversations, of their answers): what a loss per token is
    /// multiplied with to be one per byte or character.
    pub fn tokens_per_byte_and_char(&self) -> (f64, f64) {
        let tokens = self.measured as f64;
        (tokens / self.bytes.max(1) as f64, tokens / self.chars.max(1) as f64)
    }

    /// Ids in a range, in memory.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn ids(&self, range: Range<usize>) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        match &self.rows {
            Rows::Text(ids) => ids.read(range, &mut out)?,
            Rows::Conversations { ids, .. } => out.extend(&ids[range]),
        }
        Ok(out)
    }

    /// Up to `most` of the first ids, in memory.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn first_ids(&self, most: usize) -> Result<Vec<u32>> {
        self.ids(0..self.tokens().min(most))
    }

    /// Up to `most` of the last ids, in memory.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn last_ids(&self, most: usize) -> Result<Vec<u32>> {
        let n = self.tokens();
        self.ids(n - most.min(n)..n)
    }

    /// How many sequences [`Split::window`] cuts the part into: together they predict every token once, the first of the
    /// text excepted; conversations are a sequence each.
    pub fn windows(&self) -> usize {
        self.windows_after(0)
    }

    /// The same where text is cut `shift` tokens earlier, so that its first sequence is shorter.
    fn windows_after(&self, shift: usize) -> usize {
        match &self.rows {
            Rows::Text(ids) if ids.len() > 1 => (shift + ids.len() - 1).div_ceil(self.block_size),
            Rows::Text(_) => 0,
            Rows::Conversations { ends, .. } => ends.len(),
        }
    }

    /// Appends sequence number `index` of those to a batch.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn window(&self, index: usize, batch: &mut Batch) -> Result<()> {
        self.window_after(0, index, batch)
    }

    fn window_after(&self, shift: usize, index: usize, batch: &mut Batch) -> Result<()> {
        match &self.rows {
            Rows::Text(ids) => {
                let end = (index + 1) * self.block_size - shift;
                self.push_text(ids, end.saturating_sub(self.block_size)..ids.len().min(end + 1), batch)
            }
            Rows::Conversations { ids, learned, ends } => {
                let row = index.checked_sub(1).map_or(0, |before| ends[before])..ends[index];
                let target = |(&id, &learned): (&u32, &bool)| if learned { id } else { IGNORE };
                batch.ids.extend(&ids[row.start..row.end - 1]);
                batch.targets.extend(ids[row.clone()].iter().zip(&learned[row]).skip(1).map(target));
                batch.ends.push(batch.ids.len());
                Ok(())
            }
        }
    }

    /// Makes `batch` the sequences of one update, of which `old` gives `config.replay`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn load_step(&self, config: &Config, step: u64, old: Option<&Split>, batch: &mut Batch) -> Result<()> {
        batch.clear();
        for i in 0..config.sequences_per_step() {
            let mut rng = Rng::new(config.seed, Purpose::Replay, step, i as u64);
            match old {
                Some(old) if rng.uniform() < config.replay => {
                    old.sample(config.seed, Purpose::Batch, step, i, batch)?
                }
                _ => self.draw(config, step, i, batch)?,
            }
        }
        Ok(())
    }

    /// Appends sequence number `index` of one update to a batch.
    fn draw(&self, config: &Config, step: u64, index: usize, batch: &mut Batch) -> Result<()> {
        if config.replacement {
            self.sample(config.seed, Purpose::Batch, step, index, batch)
        } else {
            self.in_epochs(config.seed, step, config.sequences_per_step(), index, batch)
        }
    }

    /// Appends random sequence number `index` of one step and purpose to a batch: every offset equally likely.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn sample(&self, seed: u64, purpose: Purpose, step: u64, index: usize, batch: &mut Batch) -> Result<()> {
        let mut rng = Rng::new(seed, purpose, step, index as u64);
        match &self.rows {
            Rows::Text(ids) => {
                let offset = rng.below((ids.len() - self.block_size) as u64) as usize;
                self.push_text(ids, offset..offset + self.block_size + 1, batch)
            }
            Rows::Conversations { ends, .. } => self.window(rng.below(ends.len() as u64) as usize, batch),
        }
    }

    /// Appends sequence number `index` of a step to a batch, of which each epoch has every token of text and every
    /// conversation once, in an order of its own; a step has `of` sequences. Each epoch cuts text at other places, so that
    /// `block_size` epochs have every sequence that there is.
    ///
    /// # Errors
    /// If a file cannot be read.
    fn in_epochs(&self, seed: u64, step: u64, of: usize, index: usize, batch: &mut Batch) -> Result<()> {
        // How many ways there are to cut, and how many sequences come of all together.
        let (ways, together) = match &self.rows {
            Rows::Text(ids) => (self.block_size, ids.len() + self.block_size - 2),
            Rows::Conversations { ends, .. } => (1, ends.len()),
        };
        let at = step * of as u64 + index as u64;
        let (ways, together) = (ways as u64, together as u64);
        let (mut epoch, mut left) = (at / together * ways, at % together);
        loop {
            let shift = rng::permute(seed, u64::MAX, epoch % ways, ways) as usize;
            let windows = self.windows_after(shift) as u64;
            if left < windows {
                return self.window_after(shift, rng::permute(seed, epoch, left, windows) as usize, batch);
            }
            (epoch, left) = (epoch + 1, left - windows);
        }
    }

    fn push_text(&self, ids: &Ids, range: Range<usize>, batch: &mut Batch) -> Result<()> {
        let first = batch.ids.len();
        ids.read(range, &mut batch.ids)?;
        batch.targets.extend(&batch.ids[first + 1..]);
        batch.ids.pop();
        batch.ends.push(batch.ids.len());
        if let Some(end) = self.within {
            let targets = &mut batch.targets[first..];
            let after = targets.iter().position(|&target| target == end).map_or(targets.len(), |at| at + 1);
            targets[after..].fill(IGNORE);
        }
        Ok(())
    }
}

/// Sequences to learn from or to be measured on: tokens, and what should follow each.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    ids: Vec<u32>,
    /// As many, of which [`IGNORE`] does not count.
    targets: Vec<u32>,
    /// Where each sequence ends.
    ends: Vec<usize>,
}

impl Batch {
    /// Empties the batch.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.targets.clear();
        self.ends.clear();
    }

    /// Adds a sequence: each of `tokens` but the first is the target of the one before.
    pub fn add(&mut self, tokens: &[u32]) {
        let (Some((_, inputs)), Some((_, targets))) = (tokens.split_last(), tokens.split_first()) else { return };
        self.ids.extend(inputs);
        self.targets.extend(targets);
        self.ends.push(self.ids.len());
    }

    /// Sequences in it.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Ids and targets of a sequence.
    pub fn sequence(&self, index: usize) -> (&[u32], &[u32]) {
        let row = index.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[index];
        (&self.ids[row.clone()], &self.targets[row])
    }

    /// Targets that count.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORE).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(windows(&data.val).targets, ids[1..]);
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
    fn an_order_has_every_index_once() {
        for n in [1, 2, 64, 1000] {
            let order = |epoch| (0..n).map(|i| rng::permute(5, epoch, i, n)).collect::<Vec<_>>();
            let mut seen = order(0);
            assert!(n < 3 || seen != order(1));
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..n));
        }
    }

    #[test]
    fn documents_are_kept_apart() {
        let temp = tempfile::tempdir().unwrap();
        let lines: String = (0..40).map(|i| format!("{{\"text\": \"document {i}\"}}\n")).collect();
        std::fs::write(temp.path().join("d.jsonl"), lines).unwrap();
        let mut config = Config { block_size: 30, ..Config::default() };
        config.data = vec![temp.path().join("d.jsonl").display().to_string()];
        let corpus = Corpus::open(&config).unwrap();
        let survey = Survey::of(&corpus, &config).unwrap();
        assert_eq!((survey.documents, survey.needs_end_of_text()), (40, true));
        let tokenizer = survey.char_tokenizer();
        let end = tokenizer.end_of_text().unwrap();
        let across = Dataset::new(&corpus, &survey, &tokenizer, &config).unwrap().train;
        assert!(windows(&across).targets.iter().filter(|&&id| id == end).count() > 30);
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
        let mut config = Config { block_size: 17, ..Config::default() };
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

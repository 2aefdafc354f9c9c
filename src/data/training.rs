//! The text that a run was trained on, read once more: its training part alone, as the model was given it.

use super::{
    open::same_text,
    prepared,
    split::Split,
    survey::{Survey, first_chars, said, template_of},
};
use crate::text::{
    chat::{self, Template},
    many,
    source::{BUILTIN, Corpus, MEMORY, Piece},
    tokenizer::{Cuts, StreamDecoder, Tokenizer},
};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
};
use std::{ops::ControlFlow, path::Path};

/// Ids that are decoded at once.
const IDS: usize = 1 << 16;

/// The training part of the text that a run was trained on.
pub struct TrainingText {
    config: Config,
    tokenizer: Tokenizer,
    content: Content,
    /// What the data is called.
    pub name: String,
    /// Notes for the user on what of the training is not in it, or is not what was in a file.
    pub notes: Vec<String>,
}

enum Content {
    /// Documents of text, so many characters of them.
    Text(Corpus, u64),
    /// So many conversations.
    Conversations(Corpus, Box<Template>, u64),
    /// Token ids in files.
    Ids(Split),
}

impl TrainingText {
    /// Finds the text that a run of this configuration was trained on, and makes sure that it is that text, which takes reading
    /// all of it. Nothing is downloaded. While it reads, it asks `go_on` whether to; `None` if not.
    ///
    /// # Errors
    /// If it is not known, cannot be had again, or has changed.
    pub fn open(config: &Config, tokenizer: &Tokenizer, go_on: &dyn Fn() -> bool) -> Result<Option<TrainingText>> {
        again(config)?;
        let mut notes = Vec::new();
        if !config.base.is_empty() {
            let replayed = if config.replay > 0.0 { ", of which some was replayed" } else { "" };
            notes.push(format!("the model was fine-tuned: what it was trained on before{replayed} is not searched"));
        }
        let content = match prepared::open(config, Some(tokenizer))? {
            Some(files) => {
                let divided = files.made.as_ref().is_none_or(|made| made.train_split == config.train_split);
                same_text(config, if divided { &files.sha256 } else { "from another train_split" })?;
                notes.push("the training text is what its token ids spell".to_owned());
                Content::Ids(files.train)
            }
            None => {
                let corpus = Corpus::open(config)?;
                let Some(survey) = Survey::while_wanted(&corpus, config, go_on)? else { return Ok(None) };
                same_text(config, &survey.sha256)?;
                let cut = survey.cut(config);
                if survey.conversations > 0 {
                    notes.push("conversations are searched as the run's template writes them".to_owned());
                    Content::Conversations(corpus, Box::new(template_of(config, tokenizer)?), cut)
                } else {
                    Content::Text(corpus, cut)
                }
            }
        };
        let name = if config.data.is_empty() { BUILTIN.to_owned() } else { config.data.join(", ") };
        let (config, tokenizer) = (config.clone(), tokenizer.clone());
        Ok(Some(TrainingText { config, tokenizer, content, name, notes }))
    }

    /// Calls `each` with the text piece by piece, in order, and whether a document ends behind a piece, until it has enough.
    /// Returns notes for the user.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self, each: &mut dyn FnMut(&str, bool) -> ControlFlow<()>) -> Result<Vec<String>> {
        match &self.content {
            Content::Text(corpus, chars) => {
                let mut left = *chars;
                let piece = |piece, go: &mut dyn FnMut(&str, bool) -> ControlFlow<()>| {
                    let Piece::Text { text, end } = piece else { return Err(changed(corpus)) };
                    let text = first_chars(text, &mut left);
                    Ok(if go(&text, end).is_break() || left == 0 {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    })
                };
                until_broken_off(corpus, each, piece)?;
                Ok(Vec::new())
            }
            Content::Conversations(corpus, template, conversations) => {
                let (mut left, mut too_long) = (*conversations, 0);
                let piece = |piece, go: &mut dyn FnMut(&str, bool) -> ControlFlow<()>| {
                    if left == 0 {
                        return Ok(ControlFlow::Break(()));
                    }
                    left -= 1;
                    let Piece::Messages(messages) = piece else { return Err(changed(corpus)) };
                    let most = self.config.block_size + 1;
                    let parts = if said(&messages) > most { Vec::new() } else { template.parts(&messages)? };
                    if parts.is_empty() || chat::encode(&parts, &self.tokenizer)?.0.len() > most {
                        too_long += 1;
                        return Ok(ControlFlow::Continue(()));
                    }
                    Ok(go(&parts.into_iter().map(|part| part.text).collect::<String>(), true))
                };
                until_broken_off(corpus, each, piece)?;
                let were = |n| {
                    format!(
                        "{} too long for the model, so they were not learned and are not searched",
                        many(n, "conversation is", "conversations are")
                    )
                };
                Ok((too_long > 0).then(|| were(too_long)).into_iter().collect())
            }
            Content::Ids(split) => {
                self.read_ids(split, each)?;
                Ok(Vec::new())
            }
        }
    }

    fn read_ids(&self, split: &Split, each: &mut dyn FnMut(&str, bool) -> ControlFlow<()>) -> Result<()> {
        let (tokens, tokenizer) = (split.tokens(), &self.tokenizer);
        let ends = [tokenizer.end_of_text(), tokenizer.begin_of_text()];
        let (mut decoder, mut text) = (StreamDecoder::default(), String::new());
        for first in (0..tokens).step_by(IDS) {
            for id in split.ids(first..tokens.min(first + IDS))? {
                if !ends.contains(&Some(id)) {
                    text += &decoder.push(tokenizer, id);
                    continue;
                }
                text += &decoder.finish(tokenizer);
                decoder = StreamDecoder::default();
                if each(&std::mem::take(&mut text), true).is_break() {
                    return Ok(());
                }
            }
            if each(&std::mem::take(&mut text), false).is_break() {
                return Ok(());
            }
        }
        _ = each(&decoder.finish(tokenizer), true);
        Ok(())
    }
}

/// Returns an error if the text of a run can be read only once, or is not known.
fn again(config: &Config) -> Result<()> {
    if config.data_sha256.is_empty() {
        let what = "it is not known what this model was trained on: it was imported, or made without training";
        return Err(Error::Data(what.to_owned()));
    }
    for name in &config.data {
        let path = Path::new(name);
        let why = if name == "-" {
            "standard input"
        } else if name == MEMORY {
            "a text in a program's memory"
        } else if path.exists() && !path.is_file() && !path.is_dir() {
            "a stream"
        } else if Corpus::is_to_be_downloaded(name) {
            return Err(Error::Data(format!("{name} would have to be downloaded: put it into $KINGLET_DATA_DIR")));
        } else {
            continue;
        };
        return Err(Error::Data(format!("this model was trained on {why}, which cannot be read again")));
    }
    Ok(())
}

fn changed(corpus: &Corpus) -> Error {
    Error::Data(format!("{} changed while it was read", corpus.names()))
}

/// Reads a corpus until `piece` breaks it off.
fn until_broken_off(
    corpus: &Corpus,
    each: &mut dyn FnMut(&str, bool) -> ControlFlow<()>,
    mut piece: impl FnMut(Piece, &mut dyn FnMut(&str, bool) -> ControlFlow<()>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut is_over = false;
    let read = corpus.pieces(Cuts::Anywhere, |found| {
        is_over = piece(found, each)?.is_break();
        // Reading ends with an error only.
        if is_over { Err(Error::Data(String::new())) } else { Ok(()) }
    });
    if is_over { Ok(()) } else { read.map(|_| ()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn config(temp: &Path, data: &str, settings: &[&str]) -> (Config, Tokenizer) {
        let mut config = Config::default().with(settings).unwrap();
        config.data = vec![temp.join(data).display().to_string()];
        let (tokenizer, found) = super::super::read(&config, super::super::TokenizerChoice::FromConfig).unwrap();
        config.data_sha256 = found.sha256;
        (config, tokenizer)
    }

    fn pieces(config: &Config, tokenizer: &Tokenizer) -> Vec<(String, bool)> {
        let text = TrainingText::open(config, tokenizer, &|| true).unwrap().unwrap();
        let mut found: Vec<(String, bool)> = Vec::new();
        let notes = text.read(&mut |text, end| {
            match found.last_mut().filter(|(_, ended)| !*ended) {
                Some(last) => *last = (last.0.clone() + text, end),
                None => found.push((text.to_owned(), end)),
            }
            ControlFlow::Continue(())
        });
        assert_eq!(notes.unwrap().len(), usize::from(config.block_size == 9));
        found
    }

    #[test]
    fn the_training_part_alone_is_read_document_by_document() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("one.txt"), "äbcdefghij").unwrap();
        let (one, chars) = config(temp.path(), "one.txt", &["train_split=0.5"]);
        assert_eq!(pieces(&one, &chars), [("äbcde".to_owned(), true)]);
        fs::write(temp.path().join("two.jsonl"), "{\"text\": \"abc\"}\n{\"text\": \"defg\"}\n{\"text\": \"hij\"}\n")
            .unwrap();
        let (two, ended) = config(temp.path(), "two.jsonl", &["train_split=0.5"]);
        assert_eq!(pieces(&two, &ended), [("abc".to_owned(), true), ("de".to_owned(), true)]);

        // Conversations as the template writes them, without those that are too long.
        let said = |n: usize| format!("{{\"prompt\": \"{}\", \"response\": \"b\"}}\n", "a".repeat(n));
        fs::write(temp.path().join("chat.jsonl"), [said(1), said(20), said(2), said(3)].concat()).unwrap();
        let (chats, chars) = config(temp.path(), "chat.jsonl", &["train_split=0.75", "block_size=9"]);
        let end = chars.end_of_text_name().unwrap();
        assert_eq!(pieces(&chats, &chars), [(format!("a\nb{end}"), true), (format!("aa\nb{end}"), true)]);

        // As token ids in files.
        let folder = temp.path().join("ids");
        let corpus = Corpus::open(&two).unwrap();
        let survey = Survey::of(&corpus, &two).unwrap();
        prepared::prepare(&corpus, &survey, &ended, &two, &folder, |_| ControlFlow::Continue(())).unwrap();
        let mut ids = two;
        ids.data = vec![folder.display().to_string()];
        assert_eq!(pieces(&ids, &ended), [("abc".to_owned(), true), ("de".to_owned(), true)]);
    }

    #[test]
    fn what_is_not_the_text_or_cannot_be_had_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("a.txt"), "some text").unwrap();
        let (config, tokenizer) = config(temp.path(), "a.txt", &[]);
        let refused = |config: &Config| {
            TrainingText::open(config, &tokenizer, &|| true).err().expect("it is refused").to_string()
        };
        let with = |data: &str| {
            let mut config = config.clone();
            config.data = vec![data.to_owned()];
            config
        };
        let mut unknown = config.clone();
        unknown.data_sha256.clear();
        for (config, says) in [
            (unknown, "not known what"),
            (with("-"), "standard input"),
            (with(MEMORY), "memory"),
            (with("/dev/null"), "a stream"),
            (with("/nowhere/at/all.txt"), "there is no file"),
            (with("builtin"), "not the text that this run was started with"),
        ] {
            let error = refused(&config);
            assert!(error.contains(says), "{error}");
        }
        assert!(TrainingText::open(&config, &tokenizer, &|| false).unwrap().is_none(), "nobody wants it");
        fs::write(temp.path().join("a.txt"), "some other").unwrap();
        assert!(refused(&config).contains("not the text that this run was started with"));
    }
}

//! `kinglet data`

use super::terminal;
use super::{
    chats,
    choice::{Choice, Threads},
    preparing::{Written, prepare},
    report::stop_saying,
    run_arg,
    table::{columns, pairs, row},
    terminal::{Ended, count, quoted},
    watch::Watch,
};
use crate::{
    config::Config,
    data::{self, Chats, Origin, TokenizerChoice},
    report::{
        baselines::Baselines,
        stats::{Count, LINE_CHARS, Longest, PartStats, Stats, TextAndIds, WINDOW_CHARS},
    },
    text::tokenizer::Tokenizer,
};
use anyhow::Context;
use serde_json::{Value, json};
use std::{
    io::{self, BufRead},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Instant,
};

/// Look at a text, prepare its token ids, or show tokens
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Stats(StatsArgs),
    Prepare(Prepare),
    Encode(Encode),
    Decode(Decode),
}

/// Show statistics of a text, the overlap between its validation and training parts, and n-gram baselines; for
/// conversations, also how many fit into each block_size
#[derive(clap::Args)]
struct StatsArgs {
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    threads: Threads,
}

/// Write the token ids of a text to files, so that training can use text larger than memory
#[derive(clap::Args)]
struct Prepare {
    #[command(flatten)]
    choice: Choice,
    /// New folder for the token ids; use it as DATA to train on
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    threads: Threads,
}

/// Show the token ids of texts, each with its text
#[derive(clap::Args)]
struct Encode {
    /// A run, a folder that data prepare wrote, a tokenizer.json, or "byte"
    tokenizer: PathBuf,
    /// Texts; without any, JSON lines are read from standard input: {"text": "..."} to encode, {"ids": [...]} to decode
    texts: Vec<String>,
}

/// Show the text of token ids
#[derive(clap::Args)]
struct Decode {
    /// A run, a folder that data prepare wrote, a tokenizer.json, or "byte"
    tokenizer: PathBuf,
    /// Token ids, separated by spaces or commas; without any, each line of standard input is decoded
    #[arg(value_delimiter = ',')]
    ids: Vec<u32>,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<Ended> {
        match &self.command {
            Command::Stats(stats) => stats.threads.run(|| stats.run(json))?,
            Command::Prepare(prepare) => return prepare.threads.run(|| prepare.run(json)),
            Command::Encode(encode) => encode.run(json)?,
            Command::Decode(decode) => decode.run(json)?,
        }
        Ok(Ended::Done)
    }
}

impl StatsArgs {
    fn run(&self, json: bool) -> anyhow::Result<()> {
        let (config, _) = self.choice.config()?;
        // Nothing is trained, so a split need not hold a whole sequence.
        let with_block = |size: &str| config.clone().with(&[size]);
        let (tokenizer, data) = data::read(&with_block("block_size=65536")?, TokenizerChoice::FromConfig)?;
        data.check(&with_block("block_size=1")?)?;
        terminal::note(&data.notes);
        let (train_ids, val_ids) = (data.train.last_ids(usize::MAX)?, data.val.last_ids(usize::MAX)?);
        // The end-of-text token is not part of the text's characters.
        let text = |ids: &[u32]| {
            let documents = ids.split(|&id| Some(id) == tokenizer.end_of_text()).map(|ids| tokenizer.decode(ids));
            documents.collect::<Vec<_>>().join("\n")
        };
        let (train, val) = (text(&train_ids), text(&val_ids));
        let source = |text, ids| TextAndIds { text, ids };
        let stats = Stats::measure(source(&train, &train_ids), source(&val, &val_ids));
        let baselines = Baselines::measure(&train_ids, &val_ids, tokenizer.vocab_size())?;
        let report = Report {
            stats: &stats,
            baselines: &baselines,
            floor: data.floor,
            bits_per_nat_and_token: data.val.tokens_per_byte_and_char().1 / std::f64::consts::LN_2,
            token: &|id| tokenizer.decode(&[id]),
            chats: data.chats.as_ref(),
        };
        if json { terminal::print_json(&report.json(&config)?) } else { Ok(terminal::print(&report.text())?) }
    }
}

/// The results to show.
struct Report<'a> {
    stats: &'a Stats,
    baselines: &'a Baselines,
    /// Nats per token.
    floor: Option<f64>,
    /// Conversion factor from nats per token to bits per character.
    bits_per_nat_and_token: f64,
    token: &'a dyn Fn(u32) -> String,
    chats: Option<&'a Chats>,
}

impl Report<'_> {
    fn json(&self, config: &Config) -> anyhow::Result<Value> {
        let mut report = serde_json::to_value(self.stats)?;
        for key in ["frequent_tokens", "rare_tokens"] {
            for token in report[key].as_array_mut().into_iter().flatten() {
                let id = token["what"].as_u64().and_then(|id| u32::try_from(id).ok()).unwrap_or(u32::MAX);
                token["text"] = json!((self.token)(id));
            }
        }
        let best = self.baselines.best().name;
        let models = self.baselines.models.iter().map(|model| {
            json!({
                "name": model.name,
                "nats_per_token": model.nats_per_token,
                "bits_per_char": model.nats_per_token * self.bits_per_nat_and_token,
                "best": model.name == best,
            })
        });
        report["data"] = json!(config.data);
        report["train_split"] = json!(config.train_split);
        report["baselines"] = json!({
            "train_tokens": self.baselines.train_tokens,
            "val_tokens": self.baselines.val_tokens,
            "models": models.collect::<Vec<_>>(),
        });
        report["entropy_floor"] = json!(self.floor);
        if let Some(chats) = self.chats {
            report["conversations"] = chats::json(chats)?;
        }
        Ok(report)
    }

    fn text(&self) -> String {
        let Stats { train, val, overlap, .. } = self.stats;
        let part = |name: &str, of: fn(&PartStats) -> usize| row![name, of(train), of(val)];
        let sizes = columns(&[
            row!["", "train", "val"],
            part("bytes", |part| part.bytes),
            part("characters", |part| part.chars),
            part("lines", |part| part.lines),
            part("words", |part| part.words),
            part("tokens", |part| part.tokens),
            part("distinct characters", |part| part.distinct_chars),
            part("distinct tokens", |part| part.distinct_tokens),
            part("longest line", |part| part.longest_line.chars),
            part("longest word", |part| part.longest_word.chars),
        ]);
        let longest =
            |a: &Longest, b: &Longest| format!("{:?}", if a.chars >= b.chars { &a.beginning } else { &b.beginning });
        let chars = |counts: &[Count<char>]| list(counts.iter().map(|c| (c.what.to_string(), c.count)));
        let tokens = |counts: &[Count<u32>]| list(counts.iter().map(|c| ((self.token)(c.what), c.count)));
        let Stats { distinct_chars, distinct_chars_only_in_val, distinct_tokens, .. } = self.stats;
        let mut lines = vec![
            ("longest line", longest(&train.longest_line, &val.longest_line)),
            ("longest word", longest(&train.longest_word, &val.longest_word)),
            (
                "vocabulary",
                format!(
                    "{}, {distinct_chars_only_in_val} of them only in the validation part; {}",
                    count(*distinct_chars as u64, "character"),
                    count(*distinct_tokens as u64, "token")
                ),
            ),
            ("frequent characters", chars(&self.stats.frequent_chars)),
            ("rare characters", chars(&self.stats.rare_chars)),
        ];
        // If tokens are characters, they are listed already.
        if train.tokens != train.chars {
            lines.push(("frequent tokens", tokens(&self.stats.frequent_tokens)));
            lines.push(("rare tokens", tokens(&self.stats.rare_tokens)));
        }
        let share = |fraction: Option<f64>, of: usize| {
            let fraction = fraction.map_or("none".into(), |f| format!("{:.2} %", 100.0 * f));
            format!("{fraction} of {of}")
        };
        let shared = pairs(&[
            (
                &format!("  validation lines of {LINE_CHARS} characters or more"),
                share(overlap.val_lines_in_train_fraction, overlap.val_lines),
            ),
            (
                &format!("  validation windows of {WINDOW_CHARS} characters"),
                share(overlap.val_windows_in_train_fraction, overlap.val_windows),
            ),
        ]);
        let mut losses = vec![row!["loss on val", "nats per token", "bits per char"]];
        let best = self.baselines.best().name;
        let models = self.baselines.models.iter().map(|model| (model.name, model.nats_per_token));
        for (name, nats) in models.chain(self.floor.map(|nats| ("entropy floor", nats))) {
            let [nats, bits] = [nats, nats * self.bits_per_nat_and_token].map(|loss| format!("{loss:.4}"));
            losses.push(row![name, nats, bits, if name == best { "best" } else { "" }]);
        }
        let about = self.chats.map(|chats| chats::text(chats) + "\n").unwrap_or_default();
        let mut text = format!(
            "{about}{sizes}\n{}found verbatim in the training part:\n{shared}\n{}",
            pairs(&lines),
            columns(&losses)
        );
        for (what, used, of) in [
            ("n-grams were trained on the last", self.baselines.train_tokens, train.tokens),
            ("n-grams were evaluated on the first", self.baselines.val_tokens, val.tokens),
        ] {
            if used < of {
                text += &format!("{what} {used} of {of} tokens\n");
            }
        }
        text
    }
}

fn list(counts: impl Iterator<Item = (String, usize)>) -> String {
    counts.map(|(what, count)| format!("{what:?} {count}")).collect::<Vec<_>>().join(", ")
}

impl Prepare {
    fn run(&self, json: bool) -> anyhow::Result<Ended> {
        let (config, _) = self.choice.config()?;
        let (clock, mut watch) = (Instant::now(), Watch::new(true));
        let stop = stop_saying("Stopping. Nothing is written.")?;
        let progress = |bytes, of| {
            watch.even("encoding", bytes, of, clock);
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let note = |notes: &[String]| terminal::note(notes);
        let written = prepare(&Origin::Named, &config, &self.out, note, progress)?;
        watch.end();
        let Some(written) = written else { return Ok(Ended::Interrupted) };
        terminal::note(&written.about.notes);
        if json {
            terminal::print_json(&written.json(&self.out))?;
            return Ok(Ended::Done);
        }
        let Written { about, bytes, read_s, encode_s } = &written;
        let mb_per_s = written.mb_per_s();
        terminal::print(&format!(
            "{}, vocabulary of {}\n{} for training and {} for validation, of {} ({mb_per_s:.1} MB/s): {read_s:.1} s reading, \
             {encode_s:.1} s encoding\nwritten to {}\n",
            count(about.documents, "document"),
            count(about.vocab_size as u64, "token"),
            count(about.train.tokens, "token"),
            count(about.val.tokens, "token"),
            count(*bytes, "byte"),
            self.out.display()
        ))?;
        terminal::hints(&[("to train on it", format!("kinglet train {}", quoted(&self.out)))])?;
        Ok(Ended::Done)
    }
}

fn open(tokenizer: &Path) -> anyhow::Result<Tokenizer> {
    Ok(match tokenizer {
        kind if kind.as_os_str() == "byte" => Tokenizer::byte(),
        folder if folder.join("tokenizer.json").is_file() => Tokenizer::from_file(&folder.join("tokenizer.json"))?,
        name => match name.to_str().and_then(run_arg::is_run) {
            Some(run) => Tokenizer::from_file(&run.join("tokenizer.json"))?,
            None if name.is_dir() => Tokenizer::from_file(&name.join("tokenizer.json"))?,
            None => Tokenizer::from_file(name)?,
        },
    })
}

/// A request on a line of standard input.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Line {
    Text { text: String },
    Ids { ids: Vec<u32> },
}

impl Encode {
    fn run(&self, json: bool) -> anyhow::Result<()> {
        let tokenizer = open(&self.tokenizer)?;
        let show = |ids: &[u32]| {
            if json {
                return terminal::print_json(&json!({"ids": ids, "text": tokenizer.decode(ids)}));
            }
            let tokens: Vec<_> = ids.iter().map(|&id| format!("{id} {:?}", tokenizer.decode(&[id]))).collect();
            Ok(terminal::print(&(tokens.join(", ") + "\n"))?)
        };
        for text in &self.texts {
            show(&tokenizer.encode(text)?)?;
        }
        if !self.texts.is_empty() {
            return Ok(());
        }
        for (i, line) in io::stdin().lock().lines().enumerate() {
            let at = || format!("standard input, line {}", i + 1);
            let line = serde_json::from_str(&line.with_context(at)?)
                .with_context(|| format!("{}: must be {{\"text\": ...}} or {{\"ids\": [...]}}", at()))?;
            match line {
                Line::Text { text } => show(&tokenizer.encode(&text).with_context(at)?)?,
                Line::Ids { ids } => show(&ids)?,
            }
        }
        Ok(())
    }
}

impl Decode {
    fn run(&self, json: bool) -> anyhow::Result<()> {
        let tokenizer = open(&self.tokenizer)?;
        let show = |ids: &[u32]| -> anyhow::Result<()> {
            if let Some(id) = ids.iter().find(|&&id| !tokenizer.is_token(id)) {
                let (name, last) = (self.tokenizer.display(), tokenizer.vocab_size() - 1);
                anyhow::bail!("{name} has no token {id}: ids are 0 to {last}");
            }
            let text = tokenizer.decode(ids);
            if json {
                return terminal::print_json(&json!({"ids": ids, "text": text}));
            }
            Ok(terminal::print(&(text + "\n"))?)
        };
        if !self.ids.is_empty() {
            return show(&self.ids);
        }
        for (i, line) in io::stdin().lock().lines().enumerate() {
            let at = || format!("standard input, line {}", i + 1);
            let ids = ids_of(&line.with_context(at)?).with_context(at)?;
            show(&ids).with_context(at)?;
        }
        Ok(())
    }
}

/// Ids separated by blanks or commas, or as JSON: a list, or an object with a list of `ids`.
fn ids_of(line: &str) -> anyhow::Result<Vec<u32>> {
    #[derive(serde::Deserialize)]
    struct Object {
        ids: Vec<u32>,
    }
    match line.trim() {
        object if object.starts_with('{') => Ok(serde_json::from_str::<Object>(object)?.ids),
        list if list.starts_with('[') => Ok(serde_json::from_str(list)?),
        plain => plain
            .split(|c: char| c.is_whitespace() || c == ',')
            .filter(|word| !word.is_empty())
            .map(|word| word.parse().with_context(|| format!("{word:?} is not a token id")))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        for line in ["1, 2 3", "1,2,3", "[1, 2, 3]", " {\"ids\": [1, 2, 3], \"text\": \"abc\"}"] {
            assert_eq!(ids_of(line).unwrap(), [1, 2, 3], "{line}");
        }
        assert!(ids_of("1 two").unwrap_err().to_string().contains("\"two\" is not a token id"));
        assert!(ids_of("").unwrap().is_empty());
    }
}

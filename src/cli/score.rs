//! `kinglet score`

use super::{
    choice::Threads,
    heat::Heat,
    report::each,
    run_arg::{self, CheckpointArg, RunArg, command},
    table::{columns, pairs, row},
    terminal,
    watch::Watch,
};
use crate::{
    backend::Cpu,
    error::Error,
    inference::{Model, Readout, Scoring, Tally, TokenScore, Windows, spelling},
    text::source,
};
use anyhow::Context;
use serde_json::{Map, Value, json};
use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    time::Instant,
};

/// Places that are listed where the model was most surprised.
const WORST: usize = 5;

/// Show how probable a model finds each token of a text
#[derive(clap::Args)]
pub(super) struct Args {
    /// Run: its folder, or its name in runs/ [default: the newest run]; RUN@STEP selects a checkpoint
    run: Option<RunArg>,
    /// File with the text; "-" is standard input
    #[arg(conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Score this text instead of a file
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// Number of alternatives to list for each token, most probable first
    #[arg(short = 'n', long, value_name = "N", default_value_t = 3)]
    top: usize,
    /// How a text that is longer than the model's context is cut: half = windows that overlap by half, so that each token is
    /// predicted from at least half a context; eval = as `kinglet eval` cuts it, so that the mean is the loss it shows
    #[arg(long, value_enum, value_name = "HOW", default_value = "half")]
    windows: WindowsArg,
    #[command(flatten)]
    checkpoint: CheckpointArg,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum WindowsArg {
    Half,
    Eval,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        self.threads.run(|| self.score(json))
    }

    /// The text that is named.
    fn text(&self) -> anyhow::Result<String> {
        let (text, notes) = match (&self.text, &self.file) {
            (Some(text), _) => (text.clone(), Vec::new()),
            (None, Some(path)) if path.as_os_str() == "-" => {
                let mut bytes = Vec::new();
                io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
                source::text_of_bytes(Path::new("standard input"), bytes)?
            }
            (None, Some(path)) => source::text_of_file(path)?,
            (None, None) => {
                let what = "there is no text to score: name a file after the run, - for standard input, or --text TEXT";
                return Err(Error::BadConfig(what.to_owned()).into());
            }
        };
        terminal::note(&notes);
        Ok(text)
    }

    fn score(&self, json: bool) -> anyhow::Result<()> {
        let chosen = run_arg::chosen_or_newest(self.run.as_ref(), &self.checkpoint)?;
        let text = self.text()?;
        let model = Model::load(Cpu::new()?, &chosen.run, chosen.which)?;
        terminal::warn(model.warnings());
        terminal::note_precision(model.config().precision, model.precision());
        run_arg::tell_used(&chosen.run, &model);
        if model.learned_to_answer() == Some(true) {
            let eval = command("eval", &chosen.run);
            let what = "this model was trained on conversations, but the text is scored as plain text";
            terminal::note([&format!("{what}; to measure answers: {eval} DATA")]);
        }
        let (ids, note) = model.ids_of(&text)?;
        terminal::note(&note);
        let windows = match self.windows {
            WindowsArg::Half => Windows::Half,
            WindowsArg::Eval => Windows::Eval,
        };
        let scoring = model.score(ids).top(self.top).windows(windows);
        let readout = Readout::new(&model, &scoring, Some(&text));
        let scored = Scored { run: &chosen.run, model: &model, text: &text, readout };
        if json { scored.lines(scoring) } else { scored.map(scoring) }
    }
}

/// A text that is being scored.
struct Scored<'a> {
    run: &'a Path,
    model: &'a Model,
    text: &'a str,
    readout: Readout,
}

impl Scored<'_> {
    /// A line of JSON for each token, and one for all of them.
    fn lines(mut self, scoring: Scoring) -> anyhow::Result<()> {
        let line = |event: &str, about: Value| {
            let Value::Object(about) = about else { unreachable!("an object") };
            let line: Map<_, _> = [("event".to_owned(), json!(event))].into_iter().chain(about).collect();
            Value::Object(line).to_string() + "\n"
        };
        for scores in scoring {
            let lines: String = self.readout.tokens(&scores?).into_iter().map(|token| line("token", token)).collect();
            terminal::print_exact(&lines)?;
        }
        let mut about = json!({"run": self.run.display().to_string(), "step": self.model.state().step});
        let Value::Object(figures) = serde_json::to_value(self.readout.tally())? else { unreachable!("an object") };
        figures.into_iter().for_each(|(name, figure)| about[name] = figure);
        Ok(terminal::print_exact(&line("summary", about))?)
    }

    /// The text as a heat map, the figures, and where the model was most surprised.
    fn map(mut self, scoring: Scoring) -> anyhow::Result<()> {
        let mut heat = Heat::new(terminal::columns_out().unwrap_or(80), terminal::has_color());
        // On a terminal, the map itself shows how far it is.
        let (mut watch, began) = (Watch::new(terminal::columns_out().is_none()), Instant::now());
        let (mut index, of, mut worst) = (0, scoring.ids().len(), Vec::new());
        for scores in scoring {
            let scores = scores?;
            self.readout.add(&scores);
            for score in scores {
                // A token that was put before the text is not shown.
                let place = (self.readout.offset(index), self.readout.offset(index + 1));
                if place.0.is_none() || place.0 < place.1 {
                    heat.push(&spelling(self.model.tokenizer(), score.id), score.logprob);
                }
                keep_worst(&mut worst, index, score);
                index += 1;
            }
            terminal::print_exact(&heat.take())?;
            watch.even("scoring", index as u64, of as u64, began);
        }
        watch.end();
        terminal::print_exact(&(heat.finish() + "\n" + &heat.legend() + "\n\n"))?;
        Ok(terminal::print(&(self.figures() + &self.surprises(&worst)))?)
    }

    fn figures(&self) -> String {
        let Tally { loss, bits_per_char, bits_per_byte, perplexity, predicted_tokens, first_choices, .. } =
            self.readout.tally();
        let (Some(loss), Some(perplexity)) = (loss, perplexity) else {
            return "there is nothing to predict: the text is one token\n".to_owned();
        };
        let (chars, bytes) = (bits_per_char.unwrap_or(f64::NAN), bits_per_byte.unwrap_or(f64::NAN));
        let unit = self.model.tokenizer().unit();
        let each = each(unit.strip_suffix('s').unwrap_or(unit), loss, chars, bytes);
        let share = 100.0 * first_choices as f64 / predicted_tokens as f64;
        let predicted = terminal::count(predicted_tokens, each);
        pairs(&[
            ("loss", format!("{loss:.4} nats per {each}, the mean of {predicted}")),
            ("bits per char", format!("{chars:.4}")),
            ("bits per byte", format!("{bytes:.4}")),
            ("perplexity", format!("{perplexity:.3}")),
            ("first choice", format!("{share:.1} % of the {each}s were what the model found most probable")),
        ])
    }

    /// Where the model was most surprised, and what it expected.
    fn surprises(&self, worst: &[(usize, TokenScore)]) -> String {
        if worst.is_empty() {
            return String::new();
        }
        let shown = |id: u32| format!("{:?}", String::from_utf8_lossy(&spelling(self.model.tokenizer(), id)));
        let mut rows = vec![row!["place", "least expected", "probability", "rank", "expected instead"]];
        for (index, score) in worst {
            let place = match self.readout.offset(*index) {
                Some(offset) => place(self.text, offset),
                None => format!("token {index}"),
            };
            let instead = score.top.iter().filter(|(id, _)| *id != score.id);
            let instead: Vec<_> =
                instead.map(|(id, logprob)| format!("{} {}", shown(*id), percent(*logprob))).collect();
            let (logprob, rank) = (score.logprob.unwrap_or(f64::NAN), score.rank.unwrap_or(0));
            rows.push(row![place, shown(score.id), percent(logprob), rank, instead.join("  ")]);
        }
        "\n".to_owned() + &columns(&rows)
    }
}

/// Keeps the least probable tokens, the least probable first.
fn keep_worst(worst: &mut Vec<(usize, TokenScore)>, index: usize, score: TokenScore) {
    let Some(logprob) = score.logprob else { return };
    let at = worst.partition_point(|(_, other)| other.logprob.is_some_and(|other| other <= logprob));
    if at < WORST {
        worst.insert(at, (index, score));
        worst.truncate(WORST);
    }
}

/// Line and column of a byte, from 1.
fn place(text: &str, offset: usize) -> String {
    // Inside of a character, the place is the character's.
    let begin = (0..=offset).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let before = &text[..begin];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{line}:{column}")
}

/// A probability, given its logarithm.
fn percent(logprob: f64) -> String {
    let percent = 100.0 * logprob.exp();
    if percent >= 0.1 { format!("{percent:.1} %") } else { format!("{percent:.1e} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_and_columns_of_characters() {
        let text = "aé\nb🐦c\n";
        let all: Vec<_> = [0, 1, 2, 3, 4, 5, 9, 10].into_iter().map(|offset| place(text, offset)).collect();
        assert_eq!(all, ["1:1", "1:2", "1:2", "1:3", "2:1", "2:2", "2:3", "2:4"]);
        assert_eq!([0.5f64, 0.001, 1e-7].map(|p| percent(p.ln())), ["50.0 %", "0.1 %", "1.0e-5 %"]);
    }

    #[test]
    fn the_least_probable_are_kept_and_the_first_of_equals() {
        let mut worst = Vec::new();
        for (index, logprob) in [-1.0, -3.0, -2.0, -3.0, -9.0, -0.5, -4.0].into_iter().enumerate() {
            let score = TokenScore { logprob: Some(logprob), ..TokenScore::default() };
            keep_worst(&mut worst, index, score);
        }
        keep_worst(&mut worst, 7, TokenScore::default());
        assert_eq!(worst.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [4, 6, 1, 3, 2]);
    }
}

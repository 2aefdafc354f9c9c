//! `kinglet data`

use super::{Ended, train::Choice};
use kinglet::{data::Survey, prepared, source::Corpus, train};
use serde_json::json;
use std::{path::PathBuf, time::Instant};

/// Look at text, or make token ids of it once for many runs
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Prepare(Prepare),
}

/// Write the token ids of a text to files, which training reads where it needs them: for text larger than memory
#[derive(clap::Args)]
struct Prepare {
    #[command(flatten)]
    choice: Choice,
    /// The folder to write, which is then the DATA of train
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<Ended> {
        match &self.command {
            Command::Prepare(prepare) => prepare.run(json)?,
        }
        Ok(Ended::Done)
    }
}

impl Prepare {
    fn run(&self, json: bool) -> anyhow::Result<()> {
        let (config, _) = self.choice.config()?;
        let clock = Instant::now();
        let corpus = Corpus::open(&config)?;
        super::warn(&corpus.notes);
        let survey = Survey::of(&corpus, &config)?;
        let tokenizer = train::tokenizer(&config, &corpus, &survey)?;
        let (read_s, clock) = (clock.elapsed().as_secs_f64(), Instant::now());
        let bar =
            super::progress_bar(survey.bytes, "{wide_bar:.cyan/dim} {bytes}/{total_bytes} {bytes_per_sec} {eta} left");
        let about =
            prepared::prepare(&corpus, &survey, &tokenizer, &config, &self.out, |bytes| bar.set_position(bytes))?;
        bar.finish_and_clear();
        let encode_s = clock.elapsed().as_secs_f64();
        let mb_per_s = survey.bytes as f64 / 1e6 / encode_s;
        if json {
            return super::print_json(&json!({
                "out": self.out.display().to_string(),
                "documents": about.documents,
                "vocab_size": about.vocab_size,
                "train": about.train,
                "val": about.val,
                "read_s": read_s,
                "encode_s": encode_s,
                "mb_per_s": mb_per_s,
                "peak_memory_mib": kinglet::machine::peak_memory_mib(),
            }));
        }
        let out = self.out.display();
        Ok(super::print(&format!(
            "{} documents, {} words\n{} + {} tokens from {} bytes in {read_s:.1} + {encode_s:.1} s ({mb_per_s:.1} MB/s)\n\
             train on them with: kinglet train {out}\n",
            about.documents, about.vocab_size, about.train.tokens, about.val.tokens, survey.bytes
        ))?)
    }
}

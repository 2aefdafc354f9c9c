//! `kinglet quantize`

use super::{
    choice::{Scheme, Threads},
    run_arg::{CheckpointArg, RunArg},
    table::{columns, pairs},
    terminal,
    watch::Watch,
};
use crate::quantize::{
    Options,
    made::{self, Made, Order, Told},
    report::{Measured, PAGE, Report},
};
use std::{ops::ControlFlow, path::PathBuf, time::Instant};

/// Make a run's weights up to four times smaller (w8) or seven times (w4), in a new folder, and say what that costs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  kinglet quantize mine --scheme w8 --out runs/mine-w8
  kinglet quantize mine --scheme w4 --calibrate --out runs/mine-w4

A report card compares both runs: sizes, losses on the same tokens with the error of their difference, how far apart predictions \
are, which layer hurts most, speed and memory. It is printed, and written into the new run as quantization.md with a picture.")]
pub(super) struct Args {
    /// Run: its folder, or its name in runs/; RUN@STEP selects a checkpoint
    run: RunArg,
    /// Text to calibrate and measure on, if not the run's own: files, folders, "-", or a known name
    data: Vec<String>,
    /// What to round weights to
    #[arg(long, value_enum)]
    scheme: Scheme,
    /// New folder for the smaller run
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Round the weights of the head too
    #[arg(long)]
    head: bool,
    /// Round the embeddings too; where they share their weights with the head, both are rounded
    #[arg(long)]
    embeddings: bool,
    /// Make up for the error of each column of a matrix in those after it (GPTQ); this needs text
    #[arg(long)]
    calibrate: bool,
    /// Do not measure what it costs: no report card
    #[arg(long, conflicts_with = "full")]
    no_report: bool,
    /// Measure on all of the text, however large the model is [default: on evenly spread parts of it, if all would take
    /// minutes]
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    checkpoint: CheckpointArg,
    #[command(flatten)]
    threads: Threads,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        // The new run is there whole or not at all.
        terminal::leave_nothing_on_signal()?;
        self.threads.run(|| self.quantize(json))
    }

    fn quantize(&self, json: bool) -> anyhow::Result<()> {
        let measured = (!self.no_report).then(|| Measured { full: self.full, threads: self.threads.count() });
        let order = Order {
            of: self.run.chosen(self.checkpoint.checkpoint)?,
            out: self.out.clone(),
            data: self.data.clone(),
            options: self.options(),
            card: measured,
        };
        let (mut watch, mut now, mut began) = (Watch::new(true), "", Instant::now());
        let mut tell = |told: Told| {
            match told {
                Told::Warning(warning) => watch.tell(&format!("warning: {warning}")),
                Told::Note(note) => watch.tell(&format!("note: {note}")),
                Told::Progress(what, done, of) => {
                    if now != what {
                        (now, began) = (what, Instant::now());
                    }
                    watch.even(what, done as u64, of as u64, began);
                }
            }
            ControlFlow::Continue(())
        };
        let made = made::make(&order, &mut tell)?.expect("nothing breaks it off");
        watch.end();
        if json {
            return terminal::print_json(&made.json());
        }
        let Made { from, out, step, scheme, report, .. } = &made;
        let (from, out, scheme) = (from.display(), out.display(), scheme.name());
        let card = report.as_ref().map_or_else(String::new, card);
        let page = order.out.join(PAGE);
        let page =
            if self.no_report { out.to_string() } else { format!("{out}; the report card is in {}", page.display()) };
        Ok(terminal::print(&format!("{card}{from} (step {step}) in {scheme}: {page}\n"))?)
    }

    fn options(&self) -> Options {
        let scheme = self.scheme.into();
        let (head, embeddings) = (self.head, self.embeddings);
        Options { scheme, head, embeddings, feedback: self.calibrate, ..Options::default() }
    }
}

/// The report card on a terminal.
fn card(report: &Report) -> String {
    let head = ["", "before", "after", ""].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(head).chain(report.rows().into_iter().map(Vec::from)).collect();
    let findings = report.findings();
    let findings = if findings.is_empty() { String::new() } else { pairs(&findings) + "\n" };
    format!("{}\n{findings}{}\n\n", columns(&rows), report.verdict())
}

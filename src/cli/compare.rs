//! `kinglet compare`

use super::run_arg::RunArg;
use super::terminal;
use super::terminal::Ended;
use anyhow::Context;
use kinglet::{
    error::Error,
    report::{
        compare::{Comparison, compare},
        overlay::{By, Overlay},
        plot::{mark, number},
    },
    run::RunDir,
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, IsTerminal},
    path::PathBuf,
};

/// Lay the loss curves of runs over each other, and list what they reached and what differs in their configuration
#[derive(clap::Args)]
pub(super) struct Args {
    /// The runs: their folders, or their names in runs/
    #[arg(required = true)]
    run: Vec<RunArg>,
    /// What the horizontal axis is
    #[arg(long, value_enum, value_name = "AXIS", default_value = "step")]
    by: Axis,
    /// A logarithmic horizontal axis, which leaves out step 0
    #[arg(long)]
    log: bool,
    /// Draw the estimates of the training split too
    #[arg(long)]
    train: bool,
    /// The loss whose reaching is timed [default: the last one of the first run]
    #[arg(long, value_name = "LOSS", value_parser = loss)]
    target: Option<f64>,
    /// Write the curves to this file, as an SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Say where two runs first differ to the bit instead: configuration, text, event, tensor; exits with 1 if they do
    #[arg(long, conflicts_with_all = ["by", "log", "train", "target", "svg"])]
    bits: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Axis {
    Step,
    Tokens,
    Seconds,
}

/// A loss from a command line.
fn loss(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|loss: &f64| loss.is_finite()).ok_or_else(|| format!("{text} is not a loss"))
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<Ended> {
        if self.bits {
            return self.bits(json);
        }
        let runs = self.run.iter().map(|run| RunDir::open(&run.folder()?)).collect::<Result<Vec<_>, _>>()?;
        runs.iter().for_each(|run| terminal::warn(&run.warnings));
        let overlay = Overlay::new(&runs, self.target)?;
        let by = match self.by {
            Axis::Step => By::Step,
            Axis::Tokens => By::Tokens,
            Axis::Seconds => By::Seconds,
        };
        let chart = overlay.chart(by, self.train, self.log);
        if let Some(path) = &self.svg {
            fs::write(path, chart.svg()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        if json {
            terminal::print_json(&overlay)?;
            return Ok(Ended::Done);
        }
        let terminal = terminal_size::terminal_size_of(io::stdout());
        let width = terminal.map_or(80, |(width, _)| usize::from(width.0));
        let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let mut text = format!("{}\n{}", chart.text(width, color), table(&overlay, width));
        text += &differences(&overlay);
        for note in &overlay.notes {
            text += &format!("note: {note}\n");
        }
        if let Some(path) = &self.svg {
            text += &format!("written to {}\n", path.display());
        }
        terminal::print(&text)?;
        Ok(Ended::Done)
    }

    /// Checks whether two runs are bit-identical.
    fn bits(&self, json: bool) -> anyhow::Result<Ended> {
        let [a, b] = &self.run[..] else {
            return Err(Error::BadConfig(format!("--bits takes two runs, not {}", self.run.len())).into());
        };
        let found = compare(&mut RunDir::open(&a.folder()?)?, &mut RunDir::open(&b.folder()?)?)?;
        terminal::warn(&found.warnings);
        if json {
            let mut report = serde_json::to_value(&found)?;
            let Value::Object(report) = &mut report else { unreachable!("an object") };
            report.insert("same".into(), json!(found.is_same()));
            terminal::print_json(&report)?;
        } else {
            terminal::print(&bits_text(&found))?;
        }
        Ok(if found.is_same() { Ended::Done } else { Ended::Different })
    }
}

/// The results of the runs, best first. Columns that do not fit on a line go below, with the names repeated.
fn table(overlay: &Overlay, width: usize) -> String {
    let runs = &overlay.runs;
    let goal = overlay.target.map_or(String::new(), |target| format!(" to {target:.4}"));
    let mut columns: Vec<Vec<String>> = Vec::new();
    let mut column = |title: &str, cell: &dyn Fn(usize) -> Option<String>| {
        let cells = (0..runs.len()).map(|i| cell(i).unwrap_or_else(|| "-".into()));
        columns.push([title.to_owned()].into_iter().chain(cells).collect());
    };
    let loss = |i: usize, nats: f64| format!("{:.4}", overlay.loss(&runs[i], nats));
    column("params", &|i| Some(number(runs[i].params as f64)));
    column("steps", &|i| {
        let (done, of) = (runs[i].last()?.step, runs[i].max_iters);
        Some(if done < of { format!("{done} of {of}") } else { done.to_string() })
    });
    column("tokens", &|i| Some(number(runs[i].last()?.tokens)));
    column("train", &|i| Some(loss(i, runs[i].last()?.train_loss)));
    column("val", &|i| Some(loss(i, runs[i].last()?.val_loss)));
    column("best val", &|i| Some(format!("{} at {}", loss(i, runs[i].best_val_loss?), runs[i].best_step?)));
    column("exact val", &|i| {
        let error = runs[i].val_loss_stderr.map_or_else(String::new, |stderr| format!(" ± {}", loss(i, stderr)));
        Some(loss(i, runs[i].val_loss_exact?) + &error)
    });
    column(&format!("tokens{goal}"), &|i| Some(number(runs[i].at_target?.tokens)));
    column(&format!("s{goal}"), &|i| Some(format!("{:.2}", runs[i].at_target?.train_s?)));
    column("ms/step", &|i| Some(format!("{:.2}", runs[i].ms_per_step?)));
    column("wall s", &|i| Some(format!("{:.1}", runs[i].wall_s?)));
    column("peak MiB", &|i| Some(format!("{:.0}", runs[i].peak_memory_mib?)));
    let names: Vec<String> = runs.iter().enumerate().map(|(i, run)| format!("{}  {}", mark(i), run.name)).collect();
    let size = |cells: &[String]| cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
    let first = size(&names).max(size(&["run".into()]));
    let mut text = String::new();
    let mut rest = &columns[..];
    while !rest.is_empty() {
        let mut used = first;
        let fitting = rest.iter().take_while(|cells| {
            used += 2 + size(cells);
            used <= width
        });
        // At least one column, however narrow the terminal.
        let (now, later) = rest.split_at(fitting.count().max(1));
        for row in 0..=runs.len() {
            let name = if row == 0 { "   run" } else { &names[row - 1] };
            text += &format!("{name:<first$}");
            for cells in now {
                text += &format!("  {:>1$}", cells[row], size(cells));
            }
            text.push('\n');
        }
        text.push('\n');
        rest = later;
    }
    text
}

/// The configuration keys in which the runs differ: each value with the marks of the runs that have it.
fn differences(overlay: &Overlay) -> String {
    let mut text = String::new();
    for (key, values) in &overlay.config {
        let mut groups: Vec<(&Value, String)> = Vec::new();
        for (i, value) in values.iter().enumerate() {
            match groups.iter_mut().find(|group| group.0 == value) {
                Some((_, letters)) => letters.push(mark(i)),
                None => groups.push((value, mark(i).into())),
            }
        }
        let groups: Vec<_> = groups.iter().map(|(value, letters)| format!("{letters} {value}")).collect();
        text += &format!("{key:<27}  {}\n", groups.join(", "));
    }
    if text.is_empty() { text } else { text + "\n" }
}

fn bits_text(found: &Comparison) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| text.push_str(&format!("{what:<15}{value}\n"));
    for (key, a, b) in &found.config {
        line("configuration", format!("{key} = {a} and {b}"));
    }
    if found.data {
        line("text", "not the same".into());
    }
    if found.tokenizer {
        line("tokenizer", "not the same".into());
    }
    if let Some(event) = &found.event {
        line(
            "first event",
            format!("{} of step {}: {} = {} and {}", event.event, event.step, event.key, event.a, event.b),
        );
    }
    if let Some(tensor) = &found.tensor {
        let ((elements, of), (tensors, all)) = (tensor.elements, tensor.tensors);
        line(
            "first tensor",
            format!(
                "step {}, {} of {}: {elements} of {of} elements differ, by {:.3e} at most; {tensors} of {all} tensors do",
                tensor.step, tensor.of, tensor.tensor, tensor.max_abs_difference
            ),
        );
    }
    if let Some((a, b)) = found.last_step {
        line("last step", format!("{a} and {b}"));
    }
    let steps: Vec<_> = found.checkpoints.iter().map(u64::to_string).collect();
    if !steps.is_empty() && found.tensor.is_none() {
        line("the same bits", format!("weights and moments of step {}", steps.join(", ")));
    } else if steps.is_empty() {
        line("checkpoints", "none of one step and shape in both".into());
    }
    text
}

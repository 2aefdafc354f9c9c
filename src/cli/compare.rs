//! `kinglet compare`

use super::{
    run_arg::RunArg,
    table::columns_in,
    terminal::{self, Ended},
};
use crate::{
    error::Error,
    report::{
        compare::{Comparison, compare},
        long::{self, LeftOut},
        overlay::{By, Overlay, Trace},
        plot::{Chart, Curves, loss_charts, number},
        tensorboard, with_error,
    },
    run::{HOME, RunDir},
};
use anyhow::Context;
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Component, Path, PathBuf},
};

/// Plot the losses of several runs, and list results and differences
#[derive(clap::Args)]
pub(super) struct Args {
    /// Runs: folders, or names in runs/; anything that is not a run is skipped, so runs/* works [default: all in runs/]
    run: Vec<RunArg>,
    /// Quantity on the horizontal axis
    #[arg(long, value_enum, value_name = "AXIS", default_value = "step")]
    by: Axis,
    /// Use a logarithmic horizontal axis, without step 0
    #[arg(long)]
    log: bool,
    /// Start of the vertical axis [default: fits the curves from their second estimates on]
    #[arg(long, value_name = "LOSS", value_parser = loss, allow_negative_numbers = true)]
    ymin: Option<f64>,
    /// End of the vertical axis
    #[arg(long, value_name = "LOSS", value_parser = loss)]
    ymax: Option<f64>,
    /// Also draw the estimates on the training split
    #[arg(long)]
    train: bool,
    /// Target loss: shows when each run first reached it [default: the last loss of the first run]
    #[arg(long, value_name = "LOSS", value_parser = loss)]
    target: Option<f64>,
    /// Write the curves to this SVG file; for a single run, it includes the learning rate and gradient norm
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write the numbers of all estimates and updates to this file, one per line, for spreadsheets and pandas; "-" is standard
    /// output
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the curves of each run as a TensorBoard event file, in a folder of its own below this one
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
    /// Instead, check whether two runs are bit-identical and show where they first differ: configuration, text, event,
    /// tensor; exits with 1 if they differ
    #[arg(long, conflicts_with_all = ["by", "log", "ymin", "ymax", "train", "target", "svg", "csv", "tensorboard"])]
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

/// A folder that is not compared, and why.
struct Skipped {
    path: PathBuf,
    why: String,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<Ended> {
        if self.bits {
            return self.bits(json);
        }
        if let (Some(low), Some(high)) = (self.ymin, self.ymax)
            && low >= high
        {
            return Err(Error::BadConfig(format!("--ymin {low} must be below --ymax {high}")).into());
        }
        let (runs, mut left_out) = self.open()?;
        runs.iter().for_each(|run| terminal::warn(&run.warnings));
        let overlay = Overlay::new(&runs, self.target)?;
        let without = |path: &PathBuf| Skipped { path: path.clone(), why: "no estimate of the loss yet".into() };
        left_out.extend(overlay.left_out.iter().map(without));
        let by = match self.by {
            Axis::Step => By::Step,
            Axis::Tokens => By::Tokens,
            Axis::Seconds => By::Seconds,
        };
        let mut chart = overlay.chart(by, self.train, self.log);
        chart.y_limits = (self.ymin, self.ymax);
        let mut written = Vec::new();
        if let Some(path) = &self.svg {
            let svg = match &overlay.runs[..] {
                // Of a single run there is more to draw.
                [run] if matches!(self.by, Axis::Step) && !self.log => {
                    let shown = runs.iter().find(|opened| opened.path() == run.run).expect("it was opened");
                    let mut charts = loss_charts(&format!("{}: loss", run.name), &Curves::of(shown)?);
                    charts[0].y_limits = (self.ymin, self.ymax);
                    Chart::panels(&charts)
                }
                _ => chart.svg(),
            };
            terminal::refuse_other(path, "<svg")?;
            fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
            written.push(path.display().to_string());
        }
        if let Some(folder) = &self.tensorboard {
            written.extend(events(&overlay, &runs, folder)?);
        }
        if let Some(path) = &self.csv {
            let shown = |run: &RunDir| !overlay.left_out.iter().any(|path| path == run.path());
            let shown: Vec<RunDir> = runs.into_iter().filter(shown).collect();
            if path == Path::new("-") {
                let mut out = BufWriter::new(io::stdout().lock());
                let rest = long::csv(&shown, &mut out, path)?;
                out.flush()?;
                note_rest("--csv", rest);
                // The table is what was asked for.
                note_left_out(&left_out);
                return Ok(Ended::Done);
            }
            terminal::refuse_other(path, "run,event,")?;
            terminal::refuse_other(path, &long::COLUMNS[..3].join(","))?;
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            let mut out = BufWriter::new(file);
            note_rest("--csv", long::csv(&shown, &mut out, path)?);
            out.flush().with_context(|| format!("cannot write {}", path.display()))?;
            written.push(path.display().to_string());
        }
        if json {
            terminal::print_json(&with_left_out(&overlay, &left_out)?)?;
            return Ok(Ended::Done);
        }
        let width = terminal::columns_out().unwrap_or(80);
        let mut text = format!("{}\n{}", chart.text(width, terminal::has_color()), table(&overlay, width));
        text += &differences(&overlay);
        if !written.is_empty() {
            text += &format!("written to {}\n", written.join(" and "));
        }
        terminal::print(&text)?;
        terminal::note(&overlay.notes);
        note_left_out(&left_out);
        Ok(Ended::Done)
    }

    /// The runs that are named, or all that are in the folder of runs, and what is no run among them.
    fn open(&self) -> anyhow::Result<(Vec<RunDir>, Vec<Skipped>)> {
        let named = match &self.run[..] {
            [] => all()?,
            runs => runs.iter().map(|run| run.file().map_or_else(|| run.folder(), Ok)).collect::<Result<_, _>>()?,
        };
        let (mut runs, mut left_out, mut first) = (Vec::new(), Vec::new(), None);
        for path in named {
            match RunDir::open(&path) {
                Ok(run) => runs.push(run),
                // A name that is not there is a mistake, whatever else is named.
                Err(error) if !path.exists() => return Err(error.into()),
                Err(error) => {
                    let why = match () {
                        () if path.join("tune.json").exists() => "a tuning".to_owned(),
                        () if !path.join("config.toml").exists() => "not a run".to_owned(),
                        () => error.one_line(),
                    };
                    left_out.push(Skipped { path, why });
                    first = first.or(Some(error));
                }
            }
        }
        match (runs.is_empty(), first) {
            (true, Some(error)) if left_out.len() == 1 => Err(error.into()),
            (true, _) => Err(Error::Data(format!("there are no runs to compare: {}", listed(&left_out))).into()),
            (false, _) => Ok((runs, left_out)),
        }
    }

    /// Checks whether two runs are bit-identical.
    fn bits(&self, json: bool) -> anyhow::Result<Ended> {
        let [a, b] = &self.run[..] else {
            return Err(Error::BadConfig(format!("--bits needs two runs, not {}", self.run.len())).into());
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

/// Writes the curves of the runs that are shown for TensorBoard; returns the files.
fn events(overlay: &Overlay, runs: &[RunDir], folder: &Path) -> anyhow::Result<Vec<String>> {
    let (mut written, mut rest) = (Vec::new(), LeftOut::default());
    for Trace { name, run, .. } in &overlay.runs {
        let opened = runs.iter().find(|opened| opened.path() == run).expect("it was opened");
        // Of a path, the names in it.
        let names = Path::new(name).components().filter(|part| matches!(part, Component::Normal(_)));
        let one = tensorboard::write(opened, &names.fold(folder.to_owned(), |to, part| to.join(part)))?;
        rest.events += one.left_out.events;
        rest.damaged += one.left_out.damaged;
        if one.timeless {
            let what = "its seconds are not recorded, so all of its points have the time at which it began";
            terminal::note([&format!("{}: {what}", run.display())]);
        }
        written.push(one.path);
    }
    note_rest("--tensorboard", rest);
    let others = tensorboard::others(folder, &written);
    if others > 0 {
        let (files, folder) = (terminal::count(others, "event file"), folder.display());
        let what = "TensorBoard shows their curves as well";
        terminal::note([&format!("{folder} has {files} of earlier calls or other programs: {what}")]);
    }
    Ok(written.iter().map(|path| path.display().to_string()).collect())
}

/// Says what of the metrics was not written.
fn note_rest(option: &str, LeftOut { events, damaged }: LeftOut) {
    let mut parts = Vec::new();
    if events > 0 {
        parts.push(format!("{} other than estimates and updates", terminal::count(events, "event")));
    }
    if damaged > 0 {
        parts.push(terminal::count(damaged, "damaged line"));
    }
    if !parts.is_empty() {
        terminal::note([&format!("{option} leaves out {}", parts.join(" and "))]);
    }
}

/// Everything in the folder of runs, by name.
fn all() -> anyhow::Result<Vec<PathBuf>> {
    let none = || Error::Data(format!("there is no folder {HOME} here: name the runs to compare"));
    let entries = fs::read_dir(HOME).map_err(|_| none())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.is_dir());
    paths.sort();
    if paths.is_empty() { Err(Error::Data(format!("there is no run in {HOME} yet")).into()) } else { Ok(paths) }
}

/// The folders that are left out, each with the reason.
fn listed(left_out: &[Skipped]) -> String {
    let each = left_out.iter().map(|Skipped { path, why }| format!("{} ({why})", path.display()));
    each.collect::<Vec<_>>().join(", ")
}

fn note_left_out(left_out: &[Skipped]) {
    if !left_out.is_empty() {
        let n = terminal::count(left_out.len() as u64, "folder");
        terminal::note(&[format!("skipped {n}: {}", listed(left_out))]);
    }
}

/// The overlay as JSON, with all that is left out.
fn with_left_out(overlay: &Overlay, left_out: &[Skipped]) -> anyhow::Result<Value> {
    let mut report = serde_json::to_value(overlay)?;
    let each = left_out.iter().map(|Skipped { path, why }| json!({"run": path.display().to_string(), "why": why}));
    report["left_out"] = each.collect();
    Ok(report)
}

/// The results of the runs, best first.
fn table(overlay: &Overlay, width: usize) -> String {
    let loss = |loss: f64| format!("{loss:.4}");
    type Cell<'a> = Box<dyn Fn(&Trace) -> Option<String> + 'a>;
    let steps = |run: &Trace| {
        let (done, of) = (run.last()?.step, run.max_iters);
        Some(if done < of { format!("{done} of {of}") } else { done.to_string() })
    };
    let mut columns: Vec<(String, Cell)> = vec![
        ("params".into(), Box::new(|run| Some(number(run.params as f64)))),
        ("steps".into(), Box::new(steps)),
        ("tokens".into(), Box::new(|run| Some(number(run.last()?.tokens)))),
        ("train".into(), Box::new(|run| Some(loss(run.last()?.train_loss)))),
        ("val".into(), Box::new(|run| Some(loss(run.last()?.val_loss)))),
        ("best val".into(), Box::new(|run| Some(format!("{} at {}", loss(run.best_val_loss?), run.best_step?)))),
        ("exact val".into(), Box::new(|run| Some(with_error(run.val_loss_exact?, run.val_loss_stderr)))),
    ];
    if let Some(target) = overlay.target {
        columns.push((format!("tokens to {target:.4}"), Box::new(|run| Some(number(run.at_target?.tokens)))));
        columns.push((format!("s to {target:.4}"), Box::new(|run| Some(format!("{:.2}", run.at_target?.train_s?)))));
    }
    columns.push(("ms/step".into(), Box::new(|run| Some(format!("{:.2}", run.ms_per_step?)))));
    columns.push(("wall s".into(), Box::new(|run| Some(format!("{:.1}", run.wall_s?)))));
    columns.push(("peak MiB".into(), Box::new(|run| Some(format!("{:.0}", run.peak_memory_mib?)))));
    let head = ["   run".to_owned()].into_iter().chain(columns.iter().map(|column| column.0.clone())).collect();
    let row = |(mark, run): (char, &Trace)| {
        let cells = columns.iter().map(|(_, cell)| cell(run).unwrap_or_else(|| "-".into()));
        [format!("{mark}  {}", run.name)].into_iter().chain(cells).collect()
    };
    let rows: Vec<Vec<String>> = [head].into_iter().chain(overlay.ranked().map(row)).collect();
    columns_in(&rows, 2, width) + "\n"
}

/// The configuration keys in which the runs differ: each value with the marks of the runs that have it.
fn differences(overlay: &Overlay) -> String {
    let mut text = String::new();
    for (key, values) in &overlay.config {
        let mut groups: Vec<(&Value, String)> = Vec::new();
        for ((mark, _), &i) in overlay.ranked().zip(&overlay.ranking) {
            match groups.iter_mut().find(|group| *group.0 == values[i]) {
                Some((_, letters)) => letters.push(mark),
                None => groups.push((&values[i], mark.into())),
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
                "step {}, {} of {}: {elements} of {of} elements differ, by at most {:.3e}; {tensors} of {all} \
                 tensors differ",
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
        line("checkpoints", "no step with the same shapes in both".into());
    }
    text
}

//! `kinglet list`

use super::{
    confirm::{ago, bytes, date},
    run_arg,
    table::{to_left, to_right, visible},
    terminal,
};
use crate::{
    error::Result,
    report::plot::number,
    run::{Condition, Group, HOME, Kind, Summary, contents, last_trained},
};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};
use unicode_width::UnicodeWidthStr;

/// Width of what is not a terminal: all columns fit.
const UNLIMITED: usize = 10_000;
/// Spaces between columns.
const GAP: usize = 2;
/// Spaces before what stands below a name.
const INDENT: usize = 4;

/// List runs: state, step, losses, size, age and tags
#[derive(clap::Args)]
pub(super) struct Args {
    /// Folders of runs, or runs [default: runs/]
    dir: Vec<PathBuf>,
    /// Sort order
    #[arg(long, value_enum, default_value = "time")]
    sort: Sort,
    /// Show only runs with this tag; may be repeated
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Sort {
    /// Newest first
    Time,
    /// By name
    Name,
    /// Lowest validation loss first: the exact loss if known, otherwise the last estimate
    Loss,
    /// Largest first
    Size,
}

/// A line of the list.
struct Line {
    path: PathBuf,
    /// How it is called in the list: as a command in this folder takes it, if that is possible.
    name: String,
    what: Listed,
}

enum Listed {
    Run(Box<Summary>),
    /// A folder with runs in it.
    Group {
        tuning: bool,
        runs: usize,
        size_bytes: u64,
        changed: SystemTime,
    },
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let lines = self.lines()?;
        if json {
            return lines.iter().try_for_each(|line| terminal::print_json(&line.json()));
        }
        if lines.is_empty() {
            return Ok(terminal::print(&self.nothing())?);
        }
        let width = terminal::columns_out().unwrap_or(UNLIMITED);
        terminal::print(&table(&lines, SystemTime::now(), width))?;
        for line in &lines {
            if let Listed::Run(summary) = &line.what {
                let warnings: Vec<_> =
                    summary.warnings.iter().map(|warning| format!("{}: {warning}", line.name)).collect();
                terminal::warn(&warnings);
            }
        }
        Ok(())
    }

    fn nothing(&self) -> String {
        let dirs: Vec<_> = self.dir.iter().map(|dir| dir.display().to_string()).collect();
        let place = if dirs.is_empty() { format!("{HOME}/") } else { dirs.join(", ") };
        match &self.tag[..] {
            [] => format!("no runs in {place} yet: kinglet train creates one\n"),
            tags => format!("no runs in {place} with the tag {}\n", tags.join(" and ")),
        }
    }

    fn lines(&self) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        if self.dir.is_empty() && Path::new(HOME).is_dir() {
            look(Path::new(HOME), &mut lines)?;
        }
        for dir in &self.dir {
            look(&run_arg::folder(dir)?, &mut lines)?;
        }
        if !self.tag.is_empty() {
            let has = |line: &Line| line.run().is_some_and(|run| self.tag.iter().all(|tag| run.tags.contains(tag)));
            lines.retain(has);
        }
        let loss =
            |line: &Line| line.run().and_then(|run| run.val_loss_exact.or(run.val_loss)).unwrap_or(f64::INFINITY);
        match self.sort {
            Sort::Time => lines.sort_by_key(|line| std::cmp::Reverse(line.changed())),
            Sort::Name => lines.sort_by(|a, b| a.name.cmp(&b.name)),
            Sort::Loss => lines.sort_by(|a, b| loss(a).total_cmp(&loss(b))),
            Sort::Size => lines.sort_by_key(|line| std::cmp::Reverse(line.size_bytes())),
        }
        Ok(lines)
    }
}

/// Adds a folder: the runs and groups in it, or itself if it is a run.
fn look(dir: &Path, lines: &mut Vec<Line>) -> Result<()> {
    let one = |path: PathBuf| {
        let home = path.strip_prefix(HOME).ok().filter(|inside| !inside.exists());
        let name = home.unwrap_or(&path).display().to_string();
        (path, name)
    };
    if Kind::of(dir) == Some(Kind::Run) {
        let (path, name) = one(dir.to_owned());
        lines.push(Line { what: Listed::Run(Box::new(Summary::of(&path))), path, name });
        return Ok(());
    }
    // What is in a tuning are its trials.
    let trials = dir.join("trials");
    let dir = if Kind::of(dir) == Some(Kind::Tuning) && trials.is_dir() { &trials } else { dir };
    let (runs, groups) = contents(dir)?;
    for run in runs {
        let (path, name) = one(run);
        lines.push(Line { what: Listed::Run(Box::new(Summary::of(&path))), path, name });
    }
    for Group { path, tuning, runs } in groups {
        let (path, name) = one(path);
        let changed = runs.iter().map(|run| last_trained(run)).max();
        let changed = changed.or_else(|| path.metadata().and_then(|about| about.modified()).ok());
        let what = Listed::Group {
            tuning,
            runs: runs.len(),
            size_bytes: crate::run::size(&path),
            changed: changed.unwrap_or(SystemTime::UNIX_EPOCH),
        };
        lines.push(Line { path, name, what });
    }
    Ok(())
}

impl Line {
    fn run(&self) -> Option<&Summary> {
        if let Listed::Run(summary) = &self.what { Some(summary) } else { None }
    }

    fn changed(&self) -> SystemTime {
        match &self.what {
            Listed::Run(summary) => summary.changed,
            Listed::Group { changed, .. } => *changed,
        }
    }

    fn size_bytes(&self) -> u64 {
        match &self.what {
            Listed::Run(summary) => summary.size_bytes,
            Listed::Group { size_bytes, .. } => *size_bytes,
        }
    }

    fn json(&self) -> Value {
        let (path, changed) = (self.path.display().to_string(), date(self.changed()));
        match &self.what {
            Listed::Run(summary) => {
                let mut about = json!({"run": path});
                let Ok(Value::Object(rest)) = serde_json::to_value(summary) else { unreachable!("an object") };
                let object = about.as_object_mut().expect("an object");
                object.extend(rest);
                object.insert("changed".into(), json!(changed));
                about
            }
            Listed::Group { tuning, runs, size_bytes, .. } => json!({
                "folder": path,
                "tuning": tuning,
                "runs": runs,
                "size_bytes": size_bytes,
                "changed": changed,
            }),
        }
    }

    /// The columns behind the name.
    fn cells(&self, now: SystemTime) -> [String; COLUMNS.len()] {
        let size = bytes(self.size_bytes());
        let when = ago(self.changed(), now);
        let Some(run) = self.run() else {
            let Listed::Group { tuning, runs, .. } = self.what else { unreachable!("the other kind") };
            let state = format!("{}{}", if tuning { "tuning, " } else { "" }, terminal::count(runs as u64, "run"));
            return [
                state,
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                size,
                when,
                String::new(),
            ];
        };
        let loss = |loss: Option<f64>| loss.map_or_else(String::new, |loss| format!("{loss:.4}"));
        let step = match (run.step, run.max_iters) {
            (Some(step), Some(of)) if step < of && run.state != Condition::Done => format!("{step} of {of}"),
            (Some(step), _) => step.to_string(),
            _ => String::new(),
        };
        let params = run.params.map_or_else(String::new, |params| number(params as f64));
        let params = match run.quantization {
            Some(scheme) if scheme != "none" => format!("{params} {scheme}"),
            _ => params,
        };
        [
            run.state.to_string(),
            step,
            loss(run.train_loss),
            loss(run.val_loss),
            loss(run.val_loss_exact),
            params,
            size,
            when,
            run.tags.join(" "),
        ]
    }
}

/// The columns: heading, whether numbers stand in it, and what goes first where there is no room: the highest.
const COLUMNS: [(&str, bool, u8); 9] = [
    ("state", false, 0),
    ("step", true, 1),
    ("train", true, 8),
    ("val", true, 2),
    ("exact", true, 4),
    ("params", true, 7),
    ("size", true, 6),
    ("when", true, 3),
    ("tags", false, 5),
];

/// Fewer columns than these are not worth a table.
const LEAST: u8 = 2;

/// The list as a table of the columns that fit, or below each name what does not.
fn table(lines: &[Line], now: SystemTime, width: usize) -> String {
    let cells: Vec<_> = lines.iter().map(|line| line.cells(now)).collect();
    let names: Vec<_> = lines.iter().map(|line| visible(&line.name)).collect();
    let first = names.iter().map(|name| name.width()).max().unwrap_or(0).max("run".width());
    // A column without anything in it is none.
    let mut shown: Vec<usize> = (0..COLUMNS.len()).filter(|&i| cells.iter().any(|row| !row[i].is_empty())).collect();
    let of = |i: usize| cells.iter().map(|row| row[i].width()).max().unwrap_or(0).max(COLUMNS[i].0.width());
    let needs = |shown: &[usize]| first + shown.iter().map(|&i| GAP + of(i)).sum::<usize>();
    while needs(&shown) > width {
        let last = shown.iter().copied().max_by_key(|&i| COLUMNS[i].2).expect("the state is shown");
        if COLUMNS[last].2 <= LEAST {
            return below(&names, &cells, width);
        }
        shown.retain(|&i| i != last);
    }
    let row = |name: &str, cell: &dyn Fn(usize) -> String| {
        let mut text = to_left(name, first);
        for &i in &shown {
            let (cell, wide) = (cell(i), of(i));
            text += &" ".repeat(GAP);
            text += &if COLUMNS[i].1 { to_right(&cell, wide) } else { to_left(&cell, wide) };
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = row("run", &|i| COLUMNS[i].0.to_owned());
    for (name, cells) in names.iter().zip(&cells) {
        text += &row(name, &|i| cells[i].clone());
    }
    text
}

/// Each name on a line of its own, and below it what there is to say, folded at the width.
fn below(names: &[String], cells: &[[String; COLUMNS.len()]], width: usize) -> String {
    let mut text = String::new();
    for (name, cells) in names.iter().zip(cells) {
        text += &format!("{name}\n");
        let mut now = String::new();
        let named = |i: usize| match COLUMNS[i].0 {
            "state" | "size" | "when" => cells[i].clone(),
            name => format!("{name} {}", cells[i]),
        };
        let parts: Vec<String> = (0..COLUMNS.len()).filter(|&i| !cells[i].is_empty()).map(named).collect();
        for (i, part) in parts.iter().enumerate() {
            let part = if i + 1 < parts.len() { format!("{part},") } else { part.clone() };
            if !now.is_empty() && INDENT + now.width() + 1 + part.width() > width {
                text += &format!("{:INDENT$}{now}\n", "");
                now.clear();
            }
            now += if now.is_empty() { "" } else { " " };
            now += &part;
        }
        text += &format!("{:INDENT$}{now}\n", "");
    }
    text
}

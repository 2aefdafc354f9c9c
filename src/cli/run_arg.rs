//! A RUN on the command line, and the place of a new one.

use super::terminal;
pub(super) use crate::run::{Chosen, RunName as RunArg, folder_named as folder, run_named as is_run};
use crate::{
    error::{Error, Result},
    grid,
    inference::Model,
    run::{
        Condition, HOME, Kind, RunDir, Summary, Which, check_name, check_tag, contents, first_free, last_trained,
        names_in, nearest, val_loss_at,
    },
};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Which checkpoint of a run to use.
#[derive(Default, clap::Args)]
pub(super) struct CheckpointArg {
    /// Checkpoint: best, last, or a step; the same as RUN@best, RUN@last and RUN@STEP [default: best]
    #[arg(long, value_name = "best|last|STEP")]
    pub(super) checkpoint: Option<Which>,
}

/// The run that is named, or else the newest one in the home of runs that has a checkpoint.
pub(super) fn chosen_or_newest(run: Option<&RunArg>, checkpoint: &CheckpointArg) -> Result<Chosen> {
    if let Some(run) = run {
        return run.chosen(checkpoint.checkpoint);
    }
    let is_usable = |run: &PathBuf| RunDir::open(run).and_then(|run| run.steps()).is_ok_and(|steps| !steps.is_empty());
    let Some(run) = newest_first().into_iter().find(is_usable) else {
        let what = format!("there are no runs in {HOME}/ yet: kinglet train creates one, or name the folder of a run");
        return Err(Error::Data(what));
    };
    terminal::note([&format!("{} is the newest run", run.display())]);
    Ok(Chosen { run, which: checkpoint.checkpoint.unwrap_or(Which::Best) })
}

/// The runs in the home of runs, newest first.
fn newest_first() -> Vec<PathBuf> {
    let mut runs = contents(Path::new(HOME)).map(|(runs, _)| runs).unwrap_or_default();
    runs.sort_by_cached_key(|run| std::cmp::Reverse(last_trained(run)));
    runs
}

/// Says what is used of a run: the step, and its loss if that is known.
pub(super) fn tell_used(run: &Path, model: &Model) {
    let state = model.state();
    let best = state.best.filter(|(_, step)| *step == state.step).map(|(loss, _)| loss);
    let loss = best.or_else(|| val_loss_at(run, state.step));
    let loss = loss.map_or_else(String::new, |loss| format!(", validation loss {loss:.4}"));
    terminal::note(model.notes());
    terminal::note([&format!("{}: step {}{loss}", run.display(), state.step)]);
}

/// Where a new run goes.
#[derive(clap::Args)]
pub(super) struct PlaceArg {
    /// New folder for the run [default: a descriptive name in runs/]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The same as --out runs/NAME; if it exists, -2 or a higher number is appended
    #[arg(long, value_name = "NAME", value_parser = run_name, conflicts_with = "out")]
    name: Option<String>,
}

/// Checks the name of a run.
fn run_name(name: &str) -> std::result::Result<String, String> {
    check_name(name).map(|()| name.to_owned())
}

impl PlaceArg {
    /// The folder that was given, if one was.
    pub(super) fn given(&self) -> Option<PathBuf> {
        self.out.clone().or_else(|| self.name.as_ref().map(|name| Path::new(HOME).join(name)))
    }

    /// Starts in the folder that was given, or in the first one that is free of those named so or by `default`.
    pub(super) fn start<T>(
        &self,
        default: impl FnOnce() -> PathBuf,
        start: impl FnOnce(Place) -> Result<T>,
        path: impl FnOnce(&T) -> &Path,
    ) -> Result<T> {
        if let Some(out) = &self.out {
            return start(Place::Given(out.clone()));
        }
        let wanted = self.given().unwrap_or_else(default);
        let started = start(Place::Free(wanted.clone()))?;
        let made = path(&started);
        if self.name.is_some() && made != wanted {
            terminal::note([&format!("{} already exists: the new run is {}", wanted.display(), made.display())]);
        }
        Ok(started)
    }
}

/// A folder to start in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This one, or none.
    Given(PathBuf),
    /// The first that is free of this one and those with numbers behind it.
    Free(PathBuf),
}

impl Place {
    /// Starts in it.
    ///
    /// # Errors
    /// Those of `start`.
    pub fn start<T>(&self, mut start: impl FnMut(&Path) -> Result<T>) -> Result<T> {
        match self {
            Place::Given(path) => start(path),
            Place::Free(path) => first_free(path, start),
        }
    }
}

/// The run to go on with, and what else stands where data does: the run that the place names, or the first data, or the newest
/// that is not complete.
pub(super) fn to_resume<'a>(place: &PlaceArg, data: &'a [String]) -> Result<(PathBuf, &'a [String])> {
    if let Some(run) = place.given() {
        return Ok((run, data));
    }
    if let Some((first, rest)) = data.split_first() {
        let found = is_run(first).is_some() || first.contains('@') && !Path::new(first).exists();
        if found || is_misspelt(first) {
            return Ok((RunArg::from(OsString::from(first)).folder()?, rest));
        }
    }
    let all = newest_first();
    let can_go_on = |run: &&PathBuf| {
        matches!(Summary::of(run).state, Condition::Stopped | Condition::Diverged | Condition::NotBegun)
    };
    let Some(run) = all.iter().find(can_go_on) else {
        let adds = "to add steps to a run: kinglet train --resume RUN --set max_iters=N";
        return Err(Error::Data(match all.len() {
            0 => format!(
                "there are no runs in {HOME}/ to resume; to resume a run elsewhere: kinglet train \
                 --resume RUN"
            ),
            1 => format!("there is nothing to resume: the run in {HOME}/ is complete or being trained; {adds}"),
            n => format!("there is nothing to resume: all {n} runs in {HOME}/ are complete or being trained; {adds}"),
        }));
    };
    terminal::note([&format!("{} is the newest run that is not complete", run.display())]);
    Ok((run.clone(), data))
}

/// Whether a name is that of no file, but nearly that of a run.
fn is_misspelt(name: &str) -> bool {
    let is_text = Path::new(name).exists() || name == "-" || name.contains(['*', '?', '[']) || name.contains('.');
    !is_text && nearest(name, &names_in(Path::new(HOME))).is_some()
}

/// The tuning to go on with, and what else stands where data does, as [`to_resume`].
pub(super) fn tuning_to_resume<'a>(place: &PlaceArg, data: &'a [String]) -> Result<(PathBuf, &'a [String])> {
    if let Some(tuning) = place.given() {
        return Ok((tuning, data));
    }
    let is_tuning = |path: &Path| Kind::of(path) == Some(Kind::Tuning);
    if let Some((first, rest)) = data.split_first() {
        let inside = Path::new(HOME).join(first);
        if let Some(found) = [PathBuf::from(first), inside].into_iter().find(|path| is_tuning(path)) {
            return Ok((found, rest));
        }
    }
    let (_, groups) = contents(Path::new(HOME)).unwrap_or_default();
    let tunings = groups.into_iter().filter(|group| group.tuning).map(|group| group.path);
    let Some(newest) =
        tunings.max_by_key(|path| path.join("tune.json").metadata().and_then(|about| about.modified()).ok())
    else {
        return Err(Error::Data(format!(
            "there are no tunings in {HOME}/; to resume one elsewhere: kinglet tune --resume --out DIR"
        )));
    };
    terminal::note([&format!("{} is the newest tuning", newest.display())]);
    Ok((newest, data))
}

/// The sweep to go on with, and what else stands where data does, as [`to_resume`].
pub(super) fn sweep_to_resume<'a>(place: &PlaceArg, data: &'a [String]) -> Result<(PathBuf, &'a [String])> {
    if let Some(sweep) = place.given() {
        return Ok((sweep, data));
    }
    if let Some((first, rest)) = data.split_first() {
        let inside = Path::new(HOME).join(first);
        if let Some(found) = [PathBuf::from(first), inside].into_iter().find(|path| grid::is_sweep(path)) {
            return Ok((found, rest));
        }
        // A folder that is no sweep is a mistake, not a text.
        if Path::new(first).is_dir() && rest.is_empty() {
            return Ok((first.into(), rest));
        }
    }
    let folders = Path::new(HOME).read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let Some(newest) = folders.filter(|path| grid::is_sweep(path)).max_by_key(|path| grid::begun(path)) else {
        return Err(Error::Data(format!(
            "there are no sweeps in {HOME}/; to resume one elsewhere: kinglet sweep --resume DIR"
        )));
    };
    terminal::note([&format!("{} is the newest sweep", newest.display())]);
    Ok((newest, data))
}

/// A command with a path, as it can be pasted.
pub(super) fn command(name: &str, path: &Path) -> String {
    format!("kinglet {name} {}", terminal::quoted(path))
}

/// Checks a tag on the command line.
pub(super) fn tag(text: &str) -> std::result::Result<String, String> {
    check_tag(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_where_a_shell_would_take_them_apart() {
        for (path, want) in
            [("runs/a-1.b", "runs/a-1.b"), ("has space", "'has space'"), ("it's", "'it'\\''s'"), ("", "''")]
        {
            assert_eq!(terminal::quoted(Path::new(path)), want);
        }
    }
}

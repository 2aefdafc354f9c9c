//! A RUN on the command line, and the place of a new one.

use super::terminal;
use crate::{
    config::PRESETS,
    error::{Error, Result},
    grid,
    inference::Model,
    run::{
        Condition, HOME, Kind, RunDir, Summary, Which, all_runs, check_tag, contents, first_free, last_trained,
        names_in, val_loss_at,
    },
};
use std::{
    ffi::{OsStr, OsString},
    path::{Component, Path, PathBuf},
};

/// How like a name must be to one that there is, so that it is asked whether that was meant.
const LIKENESS: f64 = 0.6;

/// A run on the command line: a folder, or a name in `runs/`, with `@best`, `@last` or `@STEP` behind it if need be; or the
/// folder of a checkpoint.
#[derive(Clone, Debug)]
pub(super) struct RunArg(OsString);

impl From<OsString> for RunArg {
    fn from(name: OsString) -> RunArg {
        RunArg(name)
    }
}

/// A run that was found, and which checkpoint of it to use.
#[derive(Debug, PartialEq)]
pub(super) struct Chosen {
    pub(super) run: PathBuf,
    pub(super) which: Which,
}

/// Which checkpoint of a run to use.
#[derive(Default, clap::Args)]
pub(super) struct CheckpointArg {
    /// Checkpoint: best, last, or a step; the same as RUN@best, RUN@last and RUN@STEP [default: best]
    #[arg(long, value_name = "best|last|STEP", value_parser = which)]
    pub(super) checkpoint: Option<Which>,
}

/// Reads which checkpoint is meant.
fn which(text: &str) -> std::result::Result<Which, String> {
    let step = || text.strip_prefix("step-").unwrap_or(text).parse().ok().map(Which::Step);
    match text {
        "best" => Ok(Which::Best),
        "last" => Ok(Which::Last),
        _ => step().ok_or_else(|| "must be best, last or the step of a checkpoint".to_owned()),
    }
}

impl RunArg {
    /// Whether it is this word.
    pub(super) fn is(&self, word: &str) -> bool {
        self.0 == word
    }

    /// The run and the checkpoint; `checkpoint` is what the option of that name says.
    pub(super) fn chosen(&self, checkpoint: &CheckpointArg) -> Result<Chosen> {
        let (run, at) = self.found()?;
        if at.is_some() && checkpoint.checkpoint.is_some() {
            let what = format!("{} and --checkpoint both select a checkpoint: use only one of them", self.0.display());
            return Err(Error::BadConfig(what));
        }
        Ok(Chosen { run, which: at.or(checkpoint.checkpoint).unwrap_or(Which::Best) })
    }

    /// The path, if it is a file: patterns name files too.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let path = Path::new(&self.0);
        path.is_file().then(|| path.to_owned())
    }

    /// The run's folder, where all of a run is meant. A folder that is no run is left to whoever opens it.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        let path = Path::new(&self.0);
        if path.is_dir() && !matches!(Kind::of(path), Some(Kind::Run | Kind::Checkpoint { .. })) && !is_in_home(path) {
            return Ok(path.to_owned());
        }
        match self.found()? {
            (run, None) => Ok(run),
            (run, Some(_)) => {
                let (name, run) = (self.0.display(), run.display());
                Err(Error::BadConfig(format!("{name} is a checkpoint, but this command needs a run: name {run}")))
            }
        }
    }

    /// The folder of a run or a tuning, by its path or its name in the home of runs.
    pub(super) fn whole_folder(&self) -> Result<PathBuf> {
        let (path, inside) = (Path::new(&self.0), Path::new(HOME).join(&self.0));
        if !path.exists() && is_name(path) && Kind::of(&inside) == Some(Kind::Tuning) {
            return Ok(inside);
        }
        self.folder()
    }

    /// As it was written.
    #[cfg(feature = "serve")]
    pub(super) fn path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The run, and the checkpoint if the name says which.
    pub(super) fn found(&self) -> Result<(PathBuf, Option<Which>)> {
        if let Some(found) = find(&self.0) {
            return Ok(found);
        }
        if let Some((name, at)) = self.0.to_str().and_then(|text| text.rsplit_once('@'))
            && let Some((run, None)) = find(OsStr::new(name))
        {
            let which = which(at).map_err(|_| {
                Error::BadConfig(format!(
                    "{}: @ must be followed by best, last or the step of a checkpoint",
                    self.0.display()
                ))
            })?;
            return Ok((run, Some(which)));
        }
        Err(self.unknown())
    }

    /// Why there is no such run, and which may be meant.
    fn unknown(&self) -> Error {
        let path = Path::new(&self.0);
        if path.is_dir() {
            return match (Kind::of(path), all_runs(path).first()) {
                (Some(Kind::Tuning), _) => {
                    Error::run(path, format!("this is a tuning, not a run: {} lists its runs", command("list", path)))
                }
                (_, Some(run)) => {
                    let n = all_runs(path).len();
                    Error::run(
                        path,
                        format!(
                            "this is not a run but a folder of {}: name one, such as {}",
                            terminal::count(n as u64, "run"),
                            run.display()
                        ),
                    )
                }
                (_, None) if ["kinglet.toml", "config.json"].iter().any(|name| path.join(name).exists()) => {
                    let advice = command("import", path);
                    Error::run(
                        path,
                        format!("a model as files for other programs, not a run: {advice} makes a run of it"),
                    )
                }
                (_, None) => Error::run(path, "not the folder of a run: it has no config.toml"),
            };
        }
        if path.exists() {
            return Error::run(path, "this is a file, not the folder of a run");
        }
        let whole = self.0.to_string_lossy();
        let (name, at) = whole.rsplit_once('@').unwrap_or((&whole, ""));
        if PRESETS.iter().any(|preset| preset.name == name) {
            let what = format!("this is a preset, not a run: kinglet train --preset {name} trains it");
            return Error::not_found(path, what);
        }
        let inside = Path::new(HOME).join(path);
        if is_name(path) && inside.exists() {
            return RunArg(inside.into()).unknown();
        }
        let names = names_in(Path::new(HOME));
        let advice = match nearest(name, &names) {
            Some(other) => {
                format!("did you mean {other}{}?", if at.is_empty() { String::new() } else { format!("@{at}") })
            }
            None if names.is_empty() => format!("there are no runs in {HOME}/ yet: kinglet train creates one"),
            None => "kinglet list shows the runs".to_owned(),
        };
        Error::not_found(path, format!("there is no such run, neither as a folder nor in {HOME}/; {advice}"))
    }
}

/// What is found by this name as it is.
fn find(name: &OsStr) -> Option<(PathBuf, Option<Which>)> {
    let path = Path::new(name);
    match Kind::of(path) {
        Some(Kind::Run) => return Some((path.to_owned(), None)),
        Some(Kind::Checkpoint { run, step }) => return Some((run, Some(Which::Step(step)))),
        _ => {}
    }
    let inside = Path::new(HOME).join(path);
    match Kind::of(&inside).filter(|_| is_name(path))? {
        Kind::Run => Some((inside, None)),
        Kind::Checkpoint { run, step } => Some((run, Some(Which::Step(step)))),
        Kind::Tuning => None,
    }
}

/// Whether a path can be a name in the home of runs.
fn is_name(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_))) && !path.as_os_str().is_empty()
}

/// Whether there is a run of this name in the home of runs.
fn is_in_home(path: &Path) -> bool {
    is_name(path) && Kind::of(&Path::new(HOME).join(path)) == Some(Kind::Run)
}

/// A folder on the command line: a path, or a name in the home of runs.
pub(super) fn folder(path: &Path) -> Result<PathBuf> {
    let inside = Path::new(HOME).join(path);
    match path.is_dir() {
        true => Ok(path.to_owned()),
        false if is_name(path) && inside.is_dir() => Ok(inside),
        false => Err(RunArg(path.into()).unknown()),
    }
}

/// The run of this name, if it is that and not anything else; for where something else may stand too.
pub(super) fn is_run(name: &str) -> Option<PathBuf> {
    if Path::new(name).is_file() {
        return None;
    }
    find(OsStr::new(name)).map(|(run, _)| run)
}

/// The name that is most like this one, if any is.
fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a String>) -> Option<&'a String> {
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_lowercase();
    let (whole, asked) = (name.to_lowercase(), last(name));
    let likeness = |other: &String| {
        let apart = strsim::normalized_damerau_levenshtein(&asked, &last(other));
        apart.max(strsim::normalized_damerau_levenshtein(&whole, &other.to_lowercase()))
    };
    let all = names.into_iter().map(|other| (likeness(other), other));
    all.filter(|(likeness, _)| *likeness >= LIKENESS).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
}

/// The run that is named, or else the newest one in the home of runs that has a checkpoint.
pub(super) fn chosen_or_newest(run: Option<&RunArg>, checkpoint: &CheckpointArg) -> Result<Chosen> {
    if let Some(run) = run {
        return run.chosen(checkpoint);
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
    let path = Path::new(name);
    if is_name(path)
        && path.components().count() == 1
        && !name.contains(['/', '@', '\\'])
        && !name.starts_with('.')
        && !name.ends_with(".tmp")
        && !name.contains(char::is_control)
    {
        return Ok(name.to_owned());
    }
    Err("a name cannot contain / or @, begin with a dot or end in .tmp; to give a path, use --out".to_owned())
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
pub(super) enum Place {
    /// This one, or none.
    Given(PathBuf),
    /// The first that is free of this one and those with numbers behind it.
    Free(PathBuf),
}

impl Place {
    /// Starts in it.
    pub(super) fn start<T>(&self, mut start: impl FnMut(&Path) -> Result<T>) -> Result<T> {
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
            return Ok((RunArg(first.into()).folder()?, rest));
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
    fn a_name_that_is_like_one_there_is_may_be_that() {
        let names = ["mine", "big-0.2m", "reproduce/big-2.7m-1"].map(str::to_owned);
        for (asked, want) in [
            ("mien", Some("mine")),
            ("Mine", Some("mine")),
            ("run/mine", Some("mine")),
            ("runs/big-0.2", Some("big-0.2m")),
            ("big-2.7m-1", Some("reproduce/big-2.7m-1")),
            ("other", None),
        ] {
            assert_eq!(nearest(asked, &names).map(String::as_str), want, "{asked}");
        }
    }

    #[test]
    fn paths_are_quoted_where_a_shell_would_take_them_apart() {
        for (path, want) in
            [("runs/a-1.b", "runs/a-1.b"), ("has space", "'has space'"), ("it's", "'it'\\''s'"), ("", "''")]
        {
            assert_eq!(terminal::quoted(Path::new(path)), want);
        }
    }

    #[test]
    fn names_are_no_paths() {
        assert!(["mine", "big-0.2m", "ümlaut", "has space"].iter().all(|name| run_name(name).is_ok()));
        assert!(
            ["", ".", "..", "a/b", "/a", "a@1", ".hidden", "a/", "a.tmp"].iter().all(|name| run_name(name).is_err())
        );
    }

    #[test]
    fn a_checkpoint_is_a_word_or_a_step() {
        for (text, want) in
            [("best", Which::Best), ("last", Which::Last), ("300", Which::Step(300)), ("step-000300", Which::Step(300))]
        {
            assert_eq!(which(text), Ok(want));
        }
        assert!(["", "first", "-1", "3.5", "step-"].iter().all(|text| which(text).is_err()));
    }
}

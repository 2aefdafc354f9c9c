//! What a run is called: its folder, or its name in the home of runs, and which of its checkpoints is meant.

use super::dir::Which;
use super::home::{HOME, Kind, all_runs, names_in};
use crate::{system::shell, text::many};
use kinglet_core::{
    config::PRESETS,
    error::{Error, Result},
};
use std::{
    ffi::{OsStr, OsString},
    path::{Component, Path, PathBuf},
    str::FromStr,
};

/// How like a name must be to one that there is, so that it is asked whether that was meant.
const LIKENESS: f64 = 0.6;

/// What a user calls a run: a folder, or a name in `runs/`, with `@best`, `@last` or `@STEP` behind it if need be; or the folder
/// of a checkpoint.
#[derive(Clone, Debug)]
pub struct RunName(OsString);

impl From<OsString> for RunName {
    fn from(name: OsString) -> RunName {
        RunName(name)
    }
}

/// A run that was found, and which checkpoint of it to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The run's folder.
    pub run: PathBuf,
    /// The checkpoint.
    pub which: Which,
}

impl FromStr for Which {
    type Err = String;

    /// Reads `best`, `last` or a step.
    fn from_str(text: &str) -> std::result::Result<Which, String> {
        let step = || text.strip_prefix("step-").unwrap_or(text).parse().ok().map(Which::Step);
        match text {
            "best" => Ok(Which::Best),
            "last" => Ok(Which::Last),
            _ => step().ok_or_else(|| "must be best, last or the step of a checkpoint".to_owned()),
        }
    }
}

impl RunName {
    /// Whether it is this word.
    pub fn is(&self, word: &str) -> bool {
        self.0 == word
    }

    /// As it was written.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The run and the checkpoint: the one that the name says, or else this one, or else the best.
    ///
    /// # Errors
    /// If there is no such run, or both say which.
    pub fn chosen(&self, checkpoint: Option<Which>) -> Result<Chosen> {
        let (run, at) = self.found()?;
        if at.is_some() && checkpoint.is_some() {
            let what = format!("{} and --checkpoint both select a checkpoint: use only one of them", self.0.display());
            return Err(Error::BadConfig(what));
        }
        Ok(Chosen { run, which: at.or(checkpoint).unwrap_or(Which::Best) })
    }

    /// The path, if it is a file: patterns name files too.
    pub fn file(&self) -> Option<PathBuf> {
        let path = self.as_path();
        path.is_file().then(|| path.to_owned())
    }

    /// The run's folder, where all of a run is meant. A folder that is no run is left to whoever opens it.
    ///
    /// # Errors
    /// If there is no such folder, or a checkpoint is named.
    pub fn folder(&self) -> Result<PathBuf> {
        let path = self.as_path();
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
    ///
    /// # Errors
    /// As [`RunName::folder`].
    pub fn whole_folder(&self) -> Result<PathBuf> {
        let (path, inside) = (self.as_path(), Path::new(HOME).join(&self.0));
        if !path.exists() && is_name(path) && Kind::of(&inside) == Some(Kind::Tuning) {
            return Ok(inside);
        }
        self.folder()
    }

    /// The run, and the checkpoint if the name says which.
    ///
    /// # Errors
    /// If there is no such run; the message says which may be meant.
    pub fn found(&self) -> Result<(PathBuf, Option<Which>)> {
        if let Some(found) = find(&self.0) {
            return Ok(found);
        }
        if let Some((name, at)) = self.0.to_str().and_then(|text| text.rsplit_once('@'))
            && let Some((run, None)) = find(OsStr::new(name))
        {
            let which = at.parse().map_err(|_| {
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
    pub fn unknown(&self) -> Error {
        let path = self.as_path();
        if path.is_dir() {
            return not_one(path);
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
            return RunName(inside.into()).unknown();
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

/// Why a folder is not one run.
fn not_one(path: &Path) -> Error {
    let command = |name: &str| format!("kinglet {name} {}", shell::quoted(&path.display().to_string()));
    match (Kind::of(path), all_runs(path).first()) {
        (Some(Kind::Tuning), _) => {
            Error::run(path, format!("this is a tuning, not a run: {} lists its runs", command("list")))
        }
        (_, Some(run)) => {
            let runs = many(all_runs(path).len() as u64, "run", "runs");
            let what = format!("this is not a run but a folder of {runs}: name one, such as {}", run.display());
            Error::run(path, what)
        }
        (_, None) if ["kinglet.toml", "config.json"].iter().any(|name| path.join(name).exists()) => {
            let advice = command("import");
            Error::run(path, format!("a model as files for other programs, not a run: {advice} makes a run of it"))
        }
        (_, None) => Error::run(path, "not the folder of a run: it has no config.toml"),
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

/// Checks a name for a new run in the home of runs; the error says what is allowed.
///
/// # Errors
/// If it is not allowed.
pub fn check_name(name: &str) -> std::result::Result<(), String> {
    let path = Path::new(name);
    if is_name(path)
        && path.components().count() == 1
        && !name.contains(['/', '@', '\\'])
        && !name.starts_with('.')
        && !name.ends_with(".tmp")
        && !name.contains(char::is_control)
    {
        return Ok(());
    }
    Err("a name cannot contain / or @, begin with a dot or end in .tmp; to give a path, use --out".to_owned())
}

/// Whether there is a run of this name in the home of runs.
fn is_in_home(path: &Path) -> bool {
    is_name(path) && Kind::of(&Path::new(HOME).join(path)) == Some(Kind::Run)
}

/// A folder by its path, or by its name in the home of runs.
///
/// # Errors
/// If there is none.
pub fn folder_named(path: &Path) -> Result<PathBuf> {
    let inside = Path::new(HOME).join(path);
    match path.is_dir() {
        true => Ok(path.to_owned()),
        false if is_name(path) && inside.is_dir() => Ok(inside),
        false => Err(RunName(path.into()).unknown()),
    }
}

/// The run of this name, if it is that and not anything else; for where something else may stand too.
pub fn run_named(name: &str) -> Option<PathBuf> {
    if Path::new(name).is_file() {
        return None;
    }
    find(OsStr::new(name)).map(|(run, _)| run)
}

/// The name that is most like this one, if any is.
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a String>) -> Option<&'a String> {
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_lowercase();
    let (whole, asked) = (name.to_lowercase(), last(name));
    let likeness = |other: &String| {
        let apart = strsim::normalized_damerau_levenshtein(&asked, &last(other));
        apart.max(strsim::normalized_damerau_levenshtein(&whole, &other.to_lowercase()))
    };
    let all = names.into_iter().map(|other| (likeness(other), other));
    all.filter(|(likeness, _)| *likeness >= LIKENESS).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
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
    fn a_checkpoint_is_a_word_or_a_step() {
        for (text, want) in
            [("best", Which::Best), ("last", Which::Last), ("300", Which::Step(300)), ("step-000300", Which::Step(300))]
        {
            assert_eq!(text.parse(), Ok(want));
        }
        assert!(["", "first", "-1", "3.5", "step-"].iter().all(|text| text.parse::<Which>().is_err()));
    }

    #[test]
    fn names_are_no_paths() {
        assert!(["mine", "big-0.2m", "ümlaut", "has space"].iter().all(|name| check_name(name).is_ok()));
        let refused = ["", ".", "..", "a/b", "/a", "a@1", ".hidden", "a/", "a.tmp"];
        assert!(refused.iter().all(|name| check_name(name).is_err()));
    }
}

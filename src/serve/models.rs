//! The models that are served: found in folders, loaded when they are first asked for, renewed while they are being trained.
//! Nothing is written into a run, and no lock is taken.

use super::{
    answer::Failure,
    options::{Options, Root},
};
use crate::{
    inference::Model,
    run::{Kind, Which, all_runs_and_tunings, last_trained, steps},
};
use kinglet_core::{
    backend::Cpu,
    error::{Error, Result},
    threads::with_threads,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How long what was seen of a folder is believed.
const BELIEVED: Duration = Duration::from_secs(2);

/// How often a run is tried again whose files change while they are read.
const TRIES: usize = 3;

/// So many models are named when there is no such model.
const NAMED: usize = 5;

/// A run that can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// What clients call it.
    pub(super) id: String,
    /// Its folder.
    pub(super) run: PathBuf,
    /// The only checkpoint that is served, if that was said.
    pub(super) which: Option<Which>,
    /// The step of its newest checkpoint, or of the only one that is served.
    pub(super) step: u64,
    /// When it was last trained, in seconds since 1970.
    pub(super) created: u64,
}

/// What is in the folders that are served: what clients call it, and its folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// All runs, those without a checkpoint too.
    pub(super) runs: BTreeMap<String, PathBuf>,
    /// The tunings.
    pub(super) tunings: BTreeMap<String, PathBuf>,
}

/// A model in memory.
#[derive(Debug)]
pub(super) struct Served {
    /// What clients call it.
    pub(super) id: String,
    /// The model. A checkpoint with several names is there once.
    pub(super) model: Arc<Model>,
    /// When it was last trained, in seconds since 1970.
    pub(super) created: u64,
    /// The run's folder.
    pub(super) run: PathBuf,
    /// The same for what writes the same texts.
    pub(super) fingerprint: String,
    /// What was found damaged, and what is used instead of what was asked for.
    pub(super) notes: Vec<String>,
}

impl Served {
    /// Whether both are the same checkpoint of the same run.
    fn is_twin(&self, other: &Served) -> bool {
        let of = |served: &Served| (served.run.clone(), served.model.state().step);
        self.fingerprint == other.fingerprint && of(self) == of(other)
    }
}

/// What tells that a file has changed.
pub(super) type About = Option<(SystemTime, u64)>;

/// What tells that a run has changed: its configuration and tokenizer, its checkpoints, and when and how large their files were.
type Stamp = ([About; 2], Vec<(u64, [About; 3])>);

/// A place for a model in memory.
#[derive(Default)]
struct Held {
    /// Never locked for long.
    served: Mutex<Option<Arc<Served>>>,
    /// Locked by whoever loads it.
    look: Mutex<Look>,
}

impl Held {
    fn served(&self) -> Option<Arc<Served>> {
        locked(&self.served).clone()
    }
}

/// The last look at a run.
#[derive(Default)]
struct Look {
    stamp: Stamp,
    seen: Option<Instant>,
}

#[derive(Default)]
struct State {
    seen: Option<Instant>,
    listed: Arc<Vec<Listed>>,
    places: Arc<Places>,
    /// By name, as [`name_of`] has it; each with the moment of its last use, counted.
    held: HashMap<String, (u64, Arc<Held>)>,
    uses: u64,
}

impl State {
    /// How many models are in memory.
    fn loaded(&self) -> usize {
        let (mut models, mut loading) = (HashSet::new(), 0);
        for (_, held) in self.held.values() {
            match held.served() {
                Some(served) => _ = models.insert(Arc::as_ptr(&served.model)),
                // One that is being loaded is in use, and counts.
                None => loading += usize::from(held.look.try_lock().is_err()),
            }
        }
        models.len() + loading
    }
}

/// The names that runs have got, by the runs' own paths. A run keeps its name as long as it is there.
type Given = HashMap<PathBuf, String>;

/// All models.
pub(super) struct Models {
    roots: Vec<Root>,
    most: usize,
    threads: usize,
    believed: Duration,
    say: Arc<dyn Fn(&str) + Send + Sync>,
    /// Locked by whoever looks for runs. Folders may be large or slow, so nobody else waits for that.
    search: Mutex<Given>,
    /// Never locked for long.
    state: Mutex<State>,
}

impl Models {
    /// Those in these folders.
    pub(super) fn new(roots: Vec<Root>, options: &Options) -> Models {
        Models {
            roots,
            most: options.models_max.max(1),
            threads: options.engine.threads,
            believed: BELIEVED,
            say: options.say.clone(),
            search: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// The models that there are, by name.
    pub(super) fn list(&self) -> Arc<Vec<Listed>> {
        let (listed, age) = self.known();
        if age.is_some_and(|age| age < self.believed) {
            return listed;
        }
        let mut given = match self.search.try_lock() {
            Ok(given) => given,
            Err(TryLockError::Poisoned(given)) => given.into_inner(),
            // While one looks, the others go on with what was there.
            Err(TryLockError::WouldBlock) if age.is_some() => return listed,
            Err(TryLockError::WouldBlock) => locked(&self.search),
        };
        let (listed, age) = self.known();
        if age.is_some_and(|age| age < self.believed) {
            // Somebody else has just looked.
            return listed;
        }
        let (listed, places) = found(&self.roots, &mut given);
        let listed = Arc::new(listed);
        let mut state = locked(&self.state);
        (state.listed, state.places, state.seen) = (listed.clone(), Arc::new(places), Some(Instant::now()));
        // What is gone needs no memory. Whoever uses it keeps it.
        state.held.retain(|id, _| resolve(&listed, id).is_some());
        listed
    }

    /// All runs and tunings that there are, by name.
    pub(super) fn places(&self) -> Arc<Places> {
        self.list();
        locked(&self.state).places.clone()
    }

    /// What was seen, and how long ago.
    fn known(&self) -> (Arc<Vec<Listed>>, Option<Duration>) {
        let state = locked(&self.state);
        (state.listed.clone(), state.seen.map(|seen| seen.elapsed()))
    }

    /// How many are in memory.
    pub(super) fn loaded(&self) -> usize {
        locked(&self.state).loaded()
    }

    /// The model that answers to the name of a run, if it is in memory.
    pub(super) fn in_memory(&self, of: &Listed) -> Option<Arc<Served>> {
        let held = locked(&self.state).held.get(&of.id).map(|(_, held)| held.clone());
        held?.served()
    }

    /// The model of this name, `@best`, `@last` or `@STEP` behind it if need be; loaded, and renewed if its run has changed.
    ///
    /// # Errors
    /// If there is no such model, or its run cannot be read.
    pub(super) fn get(&self, id: &str) -> Result<Arc<Served>, Failure> {
        let listed = self.list();
        let (of, which) = resolve(&listed, id).ok_or_else(|| unknown(id, &listed))?;
        let name = &name_of(of, which);
        let held = self.place(name);
        let mut look = match held.look.try_lock() {
            Ok(look) => look,
            Err(TryLockError::Poisoned(look)) => look.into_inner(),
            Err(TryLockError::WouldBlock) => match held.served() {
                // While one renews it, the others go on with what is there.
                Some(served) => return Ok(served),
                None => locked(&held.look),
            },
        };
        let result = self.renewed(&held, &mut look, name, of, which);
        drop(look);
        self.forget(name, result.is_err());
        result.map_err(|error| unusable(id, &error))
    }

    /// The place of a model, which is in use now.
    fn place(&self, name: &str) -> Arc<Held> {
        let mut state = locked(&self.state);
        state.uses += 1;
        let uses = state.uses;
        let (used, held) = state.held.entry(name.to_owned()).or_default();
        *used = uses;
        held.clone()
    }

    /// The model in its place, as new as its run.
    fn renewed(&self, held: &Held, look: &mut Look, name: &str, of: &Listed, which: Which) -> Result<Arc<Served>> {
        let there = held.served();
        if let Some(served) = there.clone().filter(|_| look.seen.is_some_and(|seen| seen.elapsed() < self.believed)) {
            return Ok(served);
        }
        for tries in 1.. {
            let now = stamp(&of.run);
            if let Some(served) = there.clone().filter(|_| look.stamp == now) {
                look.seen = Some(Instant::now());
                return Ok(served);
            }
            match self.load(name, of, which) {
                Ok(new) => {
                    let served = self.taken(held, new);
                    *look = Look { stamp: now, seen: Some(Instant::now()) };
                    return Ok(served);
                }
                // A checkpoint may be removed by the training while it is read.
                Err(_) if tries < TRIES && stamp(&of.run) != now => {}
                Err(error) => {
                    *locked(&held.served) = None;
                    return Err(error);
                }
            }
        }
        unreachable!("the last try returns")
    }

    /// Takes a model that was loaded, unless it is the one that is there.
    fn taken(&self, held: &Held, mut new: Served) -> Arc<Served> {
        let old = held.served();
        if let Some(old) = old.clone().filter(|old| old.is_twin(&new) && old.notes == new.notes) {
            return old;
        }
        let what = if old.is_some() { "renewed" } else { "loaded" };
        (self.say)(&format!("{} is {what}: step {}", new.id, new.model.state().step));
        new.notes.iter().for_each(|note| (self.say)(&format!("{}: {note}", new.id)));
        let state = locked(&self.state);
        let others = state.held.values().filter_map(|(_, other)| other.served());
        // However a checkpoint is named, it is in memory once.
        if let Some(twin) = others.chain(old).find(|other| other.is_twin(&new)) {
            new.model = twin.model.clone();
        }
        let new = Arc::new(new);
        *locked(&held.served) = Some(new.clone());
        new
    }

    fn load(&self, id: &str, of: &Listed, which: Which) -> Result<Served> {
        let model = Arc::new(with_threads(self.threads, || Model::load(Cpu::new()?, &of.run, which))??);
        let (id, run, created) = (id.to_owned(), of.run.clone(), of.created);
        let fingerprint = format!("fp_{}", &model.fingerprint()[..16]);
        let notes = [model.warnings(), model.notes()].concat();
        Ok(Served { id, model, created, run, fingerprint, notes })
    }

    /// Forgets what was used least recently, if more are in memory than may be; and this one, if it could not be loaded.
    fn forget(&self, id: &str, failed: bool) {
        let mut state = locked(&self.state);
        if failed {
            state.held.remove(id);
        }
        while state.loaded() > self.most {
            let oldest = state.held.iter().filter(|(other, _)| *other != id).min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else { return };
            state.held.remove(&oldest);
        }
    }
}

/// The state, whoever panicked while holding it: each change of it is whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A run or a tuning that was found in a folder.
struct There<'a> {
    /// Its own path, whatever links led to it.
    own: PathBuf,
    path: PathBuf,
    is_run: bool,
    root: &'a Root,
    which: Option<Which>,
}

/// The runs and tunings in these folders, each once.
fn there(roots: &[Root]) -> Vec<There<'_>> {
    let (mut all, mut places) = (Vec::<There>::new(), HashMap::new());
    for root in roots {
        let (runs, tunings) = match Kind::of(&root.path) {
            Some(Kind::Run) => (vec![root.path.clone()], Vec::new()),
            _ => all_runs_and_tunings(&root.path),
        };
        let runs = runs.into_iter().map(|run| (run, true));
        for (path, is_run) in runs.chain(tunings.into_iter().map(|tuning| (tuning, false))) {
            // What is gone by now was not found.
            let Ok(own) = path.canonicalize() else { continue };
            let place = *places.entry(own.clone()).or_insert(all.len());
            match all.get_mut(place) {
                // If it is served by several checkpoints, all of them can be named.
                Some(there) if there.which != root.which => there.which = None,
                Some(_) => {}
                None => all.push(There { own, path, is_run, root, which: root.which }),
            }
        }
    }
    all
}

/// The runs with checkpoints in these folders, and all that is there, by name. What has a name keeps it; what is new gets one that
/// is free, a run before its first checkpoint.
fn found(roots: &[Root], given: &mut Given) -> (Vec<Listed>, Places) {
    let there = there(roots);
    let paths: HashSet<_> = there.iter().map(|there| &there.own).collect();
    given.retain(|own, _| paths.contains(own));
    let mut taken: HashSet<String> = given.values().cloned().collect();
    let (mut all, mut places) = (Vec::new(), Places::default());
    for there in &there {
        let id = given.entry(there.own.clone()).or_insert_with(|| new_name(there, &taken)).clone();
        taken.insert(id.clone());
        if there.is_run {
            all.extend(listed(there, &id));
        }
        let places = if there.is_run { &mut places.runs } else { &mut places.tunings };
        places.insert(id, there.path.clone());
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    (all, places)
}

/// What is known of a run that has a checkpoint.
fn listed(there: &There, id: &str) -> Option<Listed> {
    let steps = steps(&there.path).ok()?;
    let step = match there.which {
        Some(Which::Step(step)) => step,
        _ => *steps.last()?,
    };
    let created = last_trained(&there.path).duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Some(Listed { id: id.to_owned(), which: there.which, step, created, run: there.path.clone() })
}

/// A name that no other run has, and no checkpoint of another run.
fn new_name(there: &There, taken: &HashSet<String>) -> String {
    let is_free = |name: &String| !taken.contains(name) && parted(name).is_none_or(|(run, _)| !taken.contains(run));
    let names = names(there.root, &there.path);
    // Paths that are no text may look the same.
    let numbered = (2..).map(|n| format!("{}-{n}", names[2]));
    names.iter().cloned().chain(numbered).find(is_free).expect("there are more numbers than runs")
}

/// What a run may be called: by its path under its root; where another run has that name, with the root's name before it;
/// where that is taken too, by all of its path.
fn names(root: &Root, run: &Path) -> [String; 3] {
    let own = |path: &Path| -> String {
        // As `cd` leads to it, it may be called ".".
        let whole = if path.file_name().is_some() { path.to_owned() } else { path.canonicalize().unwrap_or_default() };
        whole.file_name().unwrap_or_default().to_string_lossy().into_owned()
    };
    let inside = run.strip_prefix(&root.path).ok().filter(|path| !path.as_os_str().is_empty());
    let parts = |path: &Path| -> Vec<String> { path.iter().map(|part| part.to_string_lossy().into_owned()).collect() };
    let whole = parts(run).join("/").trim_start_matches('/').to_owned();
    match inside {
        Some(inside) => {
            let inside = parts(inside).join("/");
            let longer = format!("{}/{inside}", own(&root.path));
            [inside, longer, whole]
        }
        None => {
            let parent = own(run.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(".")));
            [own(run), format!("{parent}/{}", own(run)), whole]
        }
    }
}

/// The run and the checkpoint of this name.
fn resolve<'a>(listed: &'a [Listed], id: &str) -> Option<(&'a Listed, Which)> {
    let find = |id: &str| listed.iter().find(|listed| listed.id == id);
    if let Some(found) = find(id) {
        return Some((found, found.which.unwrap_or(Which::Best)));
    }
    let (name, which) = parted(id)?;
    // Where one checkpoint is served, the others are not.
    find(name).filter(|found| found.which.is_none_or(|only| only == which)).map(|found| (found, which))
}

/// The parts of a name with a checkpoint behind it.
fn parted(id: &str) -> Option<(&str, Which)> {
    let (name, at) = id.rsplit_once('@')?;
    let which = match at {
        "best" => Which::Best,
        "last" => Which::Last,
        at => {
            // As the checkpoint's folder is called, or its number.
            let digits = at.strip_prefix("step-").unwrap_or(at);
            Which::Step(digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?)
        }
    };
    Some((name, which))
}

/// The one name of a checkpoint of a run, of all by which it may be asked for.
fn name_of(of: &Listed, which: Which) -> String {
    match which {
        _ if which == of.which.unwrap_or(Which::Best) => of.id.clone(),
        Which::Best => format!("{}@best", of.id),
        Which::Last => format!("{}@last", of.id),
        Which::Step(step) => format!("{}@{step}", of.id),
    }
}

/// When a file was written, and how large it is.
pub(super) fn about(path: &Path) -> About {
    fs::metadata(path).ok().and_then(|about| Some((about.modified().ok()?, about.len())))
}

fn stamp(run: &Path) -> Stamp {
    let of = |step: u64, folder: &Path| {
        let weights = ["model.safetensors", "adapter.safetensors"].iter().find_map(|name| about(&folder.join(name)));
        (step, [about(folder), weights, about(&folder.join("SHA256SUMS"))])
    };
    let steps = steps(run).unwrap_or_default();
    let steps = steps.into_iter().map(|step| of(step, &run.join(format!("checkpoints/step-{step:06}"))));
    (["config.toml", "tokenizer.json"].map(|name| about(&run.join(name))), steps.collect())
}

/// There is no such model.
fn unknown(id: &str, listed: &[Listed]) -> Failure {
    let names: Vec<_> = listed.iter().take(NAMED).map(|listed| listed.id.as_str()).collect();
    let others = match listed.len().saturating_sub(NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let there_are = match names[..] {
        [] => "no run with a checkpoint is there to be served".to_owned(),
        _ => format!("there are: {}{others}", names.join(", ")),
    };
    let mut failure = Failure::of(404, "model_not_found", format!("the model {id:?} does not exist; {there_are}"));
    failure.param = Some("model".to_owned());
    failure
}

/// There is one, but it cannot be used.
fn unusable(id: &str, error: &Error) -> Failure {
    let what = format!("the model {id:?} cannot be used: {}", error.one_line());
    let mut failure = match error {
        Error::NotFound { .. } => Failure::of(404, "model_not_found", what),
        _ => Failure::of(503, "model_unusable", what),
    };
    failure.param = Some("model".to_owned());
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_waits_while_folders_are_looked_through() {
        let temp = tempfile::tempdir().unwrap();
        let mut models = Models::new(vec![temp.path().to_owned().into()], &Options::default());
        models.believed = Duration::ZERO;
        models.list();
        let looked = |models: &Models| locked(&models.state).seen;
        let before = looked(&models);
        std::thread::scope(|scope| {
            // One that is slow.
            let slow = locked(&models.search);
            let others = scope.spawn(|| (models.list().len(), models.loaded()));
            let deadline = Instant::now() + Duration::from_secs(5);
            while !others.is_finished() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            assert!(others.is_finished(), "they wait");
            assert_eq!(looked(&models), before, "they have looked themselves");
            drop(slow);
        });
        models.list();
        assert!(looked(&models) > before);
    }
}

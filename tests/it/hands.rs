//! Whole runs handed to ranks: the result is that of one process, also if a rank is lost or the work is stopped. Here each rank is a
//! thread.

use kinglet::{
    backend::Cpu,
    config::Config,
    error::{Error, Result},
    grid::{Axis, Event, Grid, Plan, Request, Row, points},
    hands::{Crew, Hands, serve},
    ranks::{Ranks, Team, threads},
    report::compare::compare,
    run::RunDir,
    train,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// A sweep of eight runs of a moment.
fn grid(out: &Path, data: &str) -> Grid {
    let data = format!("data=[{data:?}]");
    let tiny = ["n_embd=16", "n_head=2", "block_size=16", "batch_size=8", "shards=2", "train_split=0.98"];
    let short = ["max_iters=30", "eval_interval=10", "eval_iters=1", "dropout=0.1"];
    let config = Config::default().with(&[&data]).unwrap().with(&[&tiny[..], &short].concat()).unwrap();
    let axes: Vec<Axis> = ["n_layer=1,2", "learning_rate=1e-3,3e-3"].iter().map(|text| text.parse().unwrap()).collect();
    let request = Request { config, points: points(&axes, &[]).unwrap(), seeds: 2 };
    Plan::new(request, 1).unwrap().start(out).unwrap()
}

/// What a rank does that is not as it should be.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// It ends when it has been given so many runs.
    Ends(usize),
    /// It says nothing any more when it has been given so many.
    Silent(usize),
}

/// A rank with a fault.
struct Faulty {
    ranks: Arc<dyn Ranks>,
    fault: Fault,
    given: AtomicUsize,
}

impl Faulty {
    fn is(&self, fault: fn(usize) -> Fault) -> bool {
        (1..=self.given.load(Ordering::Relaxed)).any(|n| fault(n) == self.fault)
    }
}

impl Ranks for Faulty {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn send(&self, to: usize, bytes: Vec<u8>) -> Result<()> {
        if self.is(Fault::Silent) { Ok(()) } else { self.ranks.send(to, bytes) }
    }

    fn expect(&self, from: usize, len: usize) -> Result<()> {
        self.ranks.expect(from, len)
    }

    fn poll(&self, from: usize) -> Result<Option<Vec<u8>>> {
        if self.is(Fault::Ends) {
            return Err(Error::Ranks("the end".into()));
        }
        let came = self.ranks.poll(from)?;
        // The header of the message that a run begins with.
        let begins = |bytes: &Vec<u8>| bytes.len() == 24 && bytes[0] == 3;
        self.given.fetch_add(usize::from(came.as_ref().is_some_and(begins)), Ordering::Relaxed);
        Ok(came)
    }

    fn unsent(&self) -> Result<usize> {
        self.ranks.unsent()
    }

    fn abort(&self, why: &str) -> ! {
        self.ranks.abort(why)
    }
}

/// What a sweep on several ranks ended with.
struct Swept {
    last: std::result::Result<Event, String>,
    lost: Vec<usize>,
    /// How many runs were begun, and how many of them before the first ended.
    begun: usize,
    at_first: usize,
}

impl Swept {
    fn rows(&self) -> Vec<(String, String)> {
        match &self.last {
            Ok(Event::Done { rows, .. }) => {
                rows.iter().map(|row: &Row| (format!("{:?}", row.settings), row.loss())).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Sweeps on as many ranks as there are faults and one more. `stop_at` says when rank number `asked` is asked to stop.
fn sweep_on(grid: Grid, faults: &[Fault], asked: usize, stop_at: impl Fn(&Event) -> bool + Send + Sync) -> Swept {
    let ranks = threads(faults.len() + 1).into_iter().zip([&[Fault::None], faults].concat());
    let mut teams: Vec<Team> = ranks
        .map(|(ranks, fault)| {
            let ranks: Arc<dyn Ranks> = match fault {
                Fault::None => ranks,
                _ => Arc::new(Faulty { ranks, fault, given: AtomicUsize::new(0) }),
            };
            Team::new(ranks).with_patience(Duration::from_secs(8))
        })
        .collect();
    let be = Cpu::new().unwrap();
    let first = teams.remove(0);
    let stop = if asked == 0 { first.clone() } else { teams[asked - 1].clone() };
    std::thread::scope(|scope| {
        let others: Vec<_> = teams.into_iter().map(|team| scope.spawn(move || serve(be, &team, 1))).collect();
        let mut crew = Crew::new(&first).unwrap();
        let (mut begun, mut at_first) = (0, 0);
        let last = grid.run(&mut Hands::with(be, 1, &mut crew), first.stop(), |event| {
            begun += usize::from(matches!(event, Event::Run { .. }));
            if at_first == 0 && matches!(event, Event::Outcome(_)) {
                at_first = begun;
            }
            if stop_at(event) {
                stop.stop().store(true, Ordering::Relaxed);
            }
        });
        let lost = crew.end();
        for (rank, fault) in others.into_iter().zip(faults) {
            // One that says nothing still hears that it is over.
            assert_eq!(rank.join().unwrap().is_ok(), !matches!(fault, Fault::Ends(_)));
        }
        Swept { last: last.map_err(|error| error.to_string()), lost, begun, at_first }
    })
}

fn alone(grid: Grid) -> Vec<(String, String)> {
    let last = grid.run(&mut Hands::alone(Cpu::new().unwrap(), 1), &AtomicBool::new(false), |_| ()).unwrap();
    Swept { last: Ok(last), lost: Vec::new(), begun: 0, at_first: 0 }.rows()
}

/// All files in a folder, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Two sweeps are the same but for times.
fn assert_same(a: &Path, b: &Path) {
    let names = |folder: &Path| {
        files(folder).into_iter().map(|path| path.strip_prefix(folder).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(a), names(b));
    for name in names(a) {
        let read = |folder: &Path| fs::read(folder.join(&name)).unwrap();
        let is_of_the_clock =
            ["metrics.jsonl", "state.json", "SHA256SUMS", "sweep.md", "lock"].iter().any(|of| name.ends_with(of));
        assert!(is_of_the_clock || read(a) == read(b), "{}", name.display());
    }
    for run in names(a).iter().filter(|name| name.ends_with("config.toml") && name.components().count() == 2) {
        let open = |folder: &Path| RunDir::open(folder.join(run).parent().unwrap()).unwrap();
        let (mut of_a, mut of_b) = (open(a), open(b));
        assert!(of_a.warnings.is_empty() && of_b.warnings.is_empty());
        let found = compare(&mut of_a, &mut of_b).unwrap();
        assert!(found.is_same() && !found.checkpoints.is_empty(), "{}: {found:?}", run.display());
        // What the run says of its place is where it is.
        let end = of_b.metrics().unwrap().pop().unwrap();
        assert_eq!(end["out"], b.join(run).parent().unwrap().display().to_string());
    }
}

#[test]
fn on_any_number_of_ranks_it_is_the_sweep_of_one_process() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    let whole = alone(grid(&path("alone"), "builtin"));
    assert_eq!(whole.len(), 4);
    // Others than rank 0 have the next run too, while there are enough for all.
    for (ranks, at_first) in [(1, 1), (2, 3), (3, 5), (4, 5)] {
        let out = path(&format!("on-{ranks}"));
        let swept = sweep_on(grid(&out, "builtin"), &vec![Fault::None; ranks - 1], 0, |_| false);
        assert_eq!((swept.rows(), swept.begun, swept.lost.len()), (whole.clone(), 8, 0));
        assert_eq!(swept.at_first, at_first, "{ranks} ranks");
        assert_same(&path("alone"), &out);
    }
}

#[test]
fn the_run_of_a_lost_rank_goes_to_another() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    let whole = alone(grid(&path("alone"), "builtin"));
    let faults = [
        (vec![Fault::Ends(1), Fault::None], vec![1]),
        (vec![Fault::None, Fault::Silent(2)], vec![2]),
        (vec![Fault::Ends(2), Fault::Silent(1)], vec![1, 2]),
    ];
    for (i, (faults, lost)) in faults.into_iter().enumerate() {
        let out = path(&i.to_string());
        let warned = AtomicUsize::new(0);
        let swept = sweep_on(grid(&out, "builtin"), &faults, 0, |event| {
            warned.fetch_add(usize::from(matches!(event, Event::Lost { run: Some(_), .. })), Ordering::Relaxed);
            false
        });
        assert_eq!((swept.rows(), swept.lost), (whole.clone(), lost.clone()));
        assert_eq!(warned.into_inner(), lost.len());
        // It may have had the next one too.
        assert!((8 + lost.len()..=8 + 2 * lost.len()).contains(&swept.begun), "{}", swept.begun);
        assert_same(&path("alone"), &out);
    }
}

#[test]
fn stopped_it_goes_on_with_another_number_of_ranks() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    let whole = alone(grid(&path("alone"), "builtin"));
    let out = path("stopped");
    let step = |event: &Event| matches!(event, Event::Training { training: train::Event::Step { step, .. }, .. } if *step > 12);
    let swept = sweep_on(grid(&out, "builtin"), &[Fault::None; 2], 1, step);
    let Ok(Event::Interrupted { left, .. }) = swept.last else { panic!("{:?}", swept.last) };
    assert!(left >= 3 && swept.lost.is_empty(), "{left}");
    let state =
        |run: &str| RunDir::open(&out.join(run)).ok().and_then(|mut run| run.state().ok()).map(|state| state.step);
    let begun = ["learning_rate=0.001,n_layer=1,seed=1337", "learning_rate=0.001,n_layer=1,seed=1338"].map(state);
    // The other rank may not have come that far.
    assert!(begun.iter().any(|step| step.is_some_and(|step| step > 0)), "what there was is saved: {begun:?}");
    let resume = || Grid::resume(&out, &[], 1).unwrap();
    let outcome = |event: &Event| matches!(event, Event::Outcome(_));
    assert!(matches!(sweep_on(resume(), &[Fault::None], 0, outcome).last, Ok(Event::Interrupted { .. })));
    let swept = sweep_on(resume(), &[Fault::None; 3], 0, |_| false);
    assert_eq!(swept.rows(), whole);
    assert_same(&path("alone"), &out);
}

#[test]
fn a_rank_without_the_text_says_so_and_nothing_is_lost() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    let text = path("my.txt").display().to_string();
    fs::write(&text, "in winter the kinglet weighs no more than a coin. ".repeat(200)).unwrap();
    let whole = alone(grid(&path("alone"), &text));
    let out = path("moved");
    let begun = grid(&out, &text);
    // Rank 0 has read it; the other one finds none.
    fs::rename(&text, path("away.txt")).unwrap();
    let swept = sweep_on(begun, &[Fault::None], 0, |_| false);
    let error = swept.last.unwrap_err();
    assert!(error.starts_with("rank 1: there is no file") && error.contains("my.txt"), "{error}");
    fs::rename(path("away.txt"), &text).unwrap();
    let swept = sweep_on(Grid::resume(&out, &[], 1).unwrap(), &[Fault::None], 0, |_| false);
    assert_eq!(swept.rows(), whole);
    assert_same(&path("alone"), &out);
}

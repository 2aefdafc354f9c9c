//! What is written and read in every order, with every write failing.

use super::*;
use crate::system::disk::{Fault, with_fault};
use crate::text::tokenizer::CharTokenizer;
use kinglet_core::guard::Guard;

fn run() -> (tempfile::TempDir, RunDir, Layout, Checkpoint) {
    let temp = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    (config.vocab_size, config.n_layer, config.n_embd, config.eval_interval) = (3, 1, 8, 1);
    let layout = Layout::new(&config).unwrap();
    let (run, _) =
        RunDir::create(&temp.path().join("a/run"), config, CharTokenizer::train("abc").into(), None).unwrap();
    let checkpoint = checkpoint(&layout, 7);
    (temp, run, layout, checkpoint)
}

fn checkpoint(layout: &Layout, step: u64) -> Checkpoint {
    let guard = Guard { mean: 0.1, variance: 1.0 / 3.0, seen: 5, ..Guard::default() };
    let best = Some((1.5, 7));
    let state = State { step, best, guard, wall_s: 0.1, train_s: 0.1, ..State::default() };
    let weights = layout.init(step);
    let m = weights.iter().map(|x| x * 0.3).collect();
    let v = weights.iter().map(|x| x * x).collect();
    Checkpoint { state, weights, m, v }
}

fn saved(run: &RunDir, layout: &Layout, checkpoint: &Checkpoint) -> Result<()> {
    run.save(layout, &checkpoint.state, |buffer, span, out| checkpoint.read(buffer, span, out))
}

fn save(run: &RunDir, layout: &Layout, step: u64) {
    let checkpoint = checkpoint(layout, step);
    saved(run, layout, &checkpoint).unwrap();
    run.prune(&checkpoint.state).unwrap();
}

fn folder(run: &RunDir, step: u64) -> PathBuf {
    run.path().join(CHECKPOINTS).join(folder_name(step))
}

#[test]
fn checkpoints_read_back_and_the_last_ones_and_the_best_stay() {
    let (_temp, mut run, layout, _) = run();
    let error = run.load(&layout, None, |_| true).unwrap_err().to_string();
    assert!(error.contains("no checkpoint yet"), "{error}");
    // What somebody else put there is not ours to remove.
    fs::write(run.path().join("checkpoints/notes.txt"), "mine").unwrap();
    run.config.keep_last = 2;
    for step in 7..=12 {
        save(&run, &layout, step);
        assert_eq!(run.load(&layout, None, |_| true).unwrap(), checkpoint(&layout, step));
    }
    assert_eq!(run.steps().unwrap(), [7, 11, 12]);
    let (state, weights) = run.load_weights(&layout, None, Which::Best).unwrap();
    assert_eq!((state.step, weights), (7, layout.init(7)));
    assert_eq!(run.load(&layout, None, |step| step < 12).unwrap().state.step, 11);
    // One between two estimates is kept only while it is the newest.
    run.config.eval_interval = 12;
    save(&run, &layout, 13);
    assert_eq!(run.steps().unwrap(), [7, 12, 13]);
    save(&run, &layout, 14);
    assert_eq!(run.steps().unwrap(), [7, 12, 14]);
    assert!(run.path().join("checkpoints/notes.txt").exists());
    assert_eq!(fs::read_to_string(run.path().join("best")).unwrap(), "step-000007\n");
    assert!(run.warnings.is_empty(), "{:?}", run.warnings);
}

#[test]
fn an_estimate_is_known_by_its_state_whatever_the_interval_is_now() {
    let (_temp, mut run, layout, _) = run();
    (run.config.keep_last, run.config.eval_interval) = (2, 10);
    let save = |run: &RunDir, step: u64, last_estimate: u64| {
        let mut checkpoint = checkpoint(&layout, step);
        checkpoint.state.last_estimate = Some(last_estimate);
        saved(run, &layout, &checkpoint).unwrap();
        run.prune(&checkpoint.state).unwrap();
    };
    // Step 7 has the best loss. Interruptions at 8, and at 20 before its estimate.
    for (step, last_estimate) in [(7, 7), (8, 7), (10, 10), (13, 13), (20, 13)] {
        save(&run, step, last_estimate);
    }
    assert_eq!(run.steps().unwrap(), [7, 10, 13, 20]);
    assert_eq!(run.newest_estimated(&layout).unwrap().0.step, 13);
    // The estimate of that step, and one of a shorter interval.
    save(&run, 20, 20);
    assert_eq!(run.newest_estimated(&layout).unwrap().0.step, 20);
    run.config.eval_interval = 1;
    save(&run, 21, 21);
    assert_eq!(run.steps().unwrap(), [7, 20, 21]);
    // One that is damaged is passed over.
    fs::write(folder(&run, 21).join("state.json"), "{}").unwrap();
    assert_eq!(run.newest_estimated(&layout).unwrap().0.step, 20);
    assert!(run.warnings[0].contains("step 21"), "{:?}", run.warnings);
}

#[test]
fn a_start_that_fails_leaves_nothing_of_its_own_and_all_of_others() {
    let config = Config::default().with(&["vocab_size=3", "n_layer=1", "n_embd=8"]).unwrap();
    let base = Base { weights: Layout::new(&config).unwrap().init(1), config: config.clone() };
    let create = |path: &Path| RunDir::create(path, config.clone(), CharTokenizer::train("abc").into(), Some(&base));
    let mut n = 0;
    loop {
        let temp = tempfile::tempdir().unwrap();
        let empty = temp.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let mut reached = false;
        for path in [temp.path().join("a/b/run"), empty.clone()] {
            let (created, hit) = with_fault(Fault::At(n), || create(&path).is_ok());
            reached |= hit;
            assert!(created || hit);
            assert_eq!(path.exists(), created || path == empty, "fault {n}");
            assert_eq!(temp.path().join("a").exists(), created || path == empty && temp.path().join("a").exists());
            if !created && path.exists() {
                assert_eq!(path.read_dir().unwrap().count(), 0, "fault {n}");
            }
        }
        if !reached {
            break;
        }
        n += 1;
    }
    assert!(n > 15, "{n} faults");
    // What came into the folder meanwhile is not ours; a run with a checkpoint stays.
    let (_temp, run, layout, _) = self::run();
    save(&run, &layout, 7);
    run.new_run().unwrap().remove();
    assert_eq!(run.steps().unwrap(), [7]);
    let (_temp, run, ..) = self::run();
    fs::create_dir(run.path().join("metrics.jsonl")).unwrap();
    fs::write(run.path().join("checkpoints/notes.txt"), "mine").unwrap();
    run.new_run().unwrap().remove();
    let left = |path: &Path| {
        let mut names: Vec<_> = path.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(left(run.path()), ["checkpoints", "metrics.jsonl"]);
    assert_eq!(left(&run.path().join("checkpoints")), ["notes.txt"]);
}

#[test]
fn at_every_failing_write_and_every_crash_there_is_a_checkpoint_to_load() {
    for keep_last in [1, 2] {
        let mut n = 0;
        let mut tried = 0;
        loop {
            let mut reached = false;
            for fault in [Fault::At(n), Fault::From(n)] {
                let (_temp, mut run, layout, _) = run();
                run.config.keep_last = keep_last;
                (7..=9).for_each(|step| save(&run, &layout, step));
                let next = checkpoint(&layout, 10);
                let (saved, hit) = with_fault(fault, || {
                    let saved = saved(&run, &layout, &next).is_ok();
                    (saved, saved && run.prune(&next.state).is_ok())
                });
                reached |= hit;
                assert!(saved.1 || hit);
                // A process that starts now.
                let mut run = RunDir::open(run.path()).unwrap();
                let loaded = run.load(&layout, None, |_| true).unwrap();
                assert!(loaded == next || !saved.0 && loaded == checkpoint(&layout, 9), "fault {n}");
                assert_eq!(run.load_weights(&layout, None, Which::Best).unwrap().1, layout.init(7));
                assert!(run.warnings.is_empty(), "{:?}", run.warnings);
                // And goes on.
                save(&run, &layout, 11);
                assert_eq!(run.load(&layout, None, |_| true).unwrap(), checkpoint(&layout, 11));
                let left = run.path().join(CHECKPOINTS).read_dir().unwrap();
                assert!(left.count() <= 3, "nothing unfinished stays");
                tried += 1;
            }
            if !reached {
                break;
            }
            n += 1;
        }
        eprintln!("keep_last = {keep_last}: {tried} faults");
        assert!(tried > 30);
    }
}

#[test]
fn a_damaged_file_of_any_kind_is_passed_over_by_name() {
    let (_temp, run, layout, _) = run();
    (7..=9).for_each(|step| save(&run, &layout, step));
    let newest = folder(&run, 9);
    for file in newest.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
        let good = fs::read(&file).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 4;
        for bytes in [&flipped[..], &good[..good.len() / 2], b"", &[255; 64], &[&good[..], b"x"].concat()] {
            fs::write(&file, bytes).unwrap();
            let mut run = RunDir::open(run.path()).unwrap();
            let loaded = run.load(&layout, None, |_| true);
            let name = file.file_name().unwrap().to_str().unwrap();
            if matches!(name, CONFIG | TOKENIZER) {
                // Copies, which are read only when the originals are damaged.
                assert_eq!(loaded.unwrap().state.step, 9);
                continue;
            }
            let loaded = loaded.unwrap();
            if name == disk::SUMS {
                // The damage may be in the line of a file that is not read.
                assert_eq!(loaded, checkpoint(&layout, loaded.state.step));
                continue;
            }
            assert_eq!(loaded.state.step, 8, "{name}");
            assert!(run.warnings[0].contains(name), "{:?}", run.warnings);
        }
        fs::write(&file, good).unwrap();
    }
    let mut run = RunDir::open(run.path()).unwrap();
    assert_eq!(run.load(&layout, None, |_| true).unwrap().state.step, 9);
    // The best one gone: the newest takes its place.
    fs::remove_file(folder(&run, 7).join("model.safetensors")).unwrap();
    assert_eq!(run.load_weights(&layout, None, Which::Best).unwrap().0.step, 9);
    assert!(run.warnings[0].contains("the best checkpoint (step 7) cannot be used"), "{:?}", run.warnings);
}

#[test]
fn nothing_intact_is_an_error_with_its_reason() {
    let (_temp, mut run, layout, _) = run();
    save(&run, &layout, 7);
    let other = Layout::new(&run.config.clone().with(&["n_embd=12"]).unwrap()).unwrap();
    let error = run.load(&other, None, |_| true).unwrap_err().to_string();
    assert!(error.contains("the configuration requires F32 [3, 12]"), "{error}");
    fs::write(folder(&run, 7).join("model.safetensors"), [255; 64]).unwrap();
    let error = run.load(&layout, None, |_| true).unwrap_err().to_string();
    assert!(error.contains("model.safetensors: damaged: its SHA-256"), "{error}");
}

#[test]
fn a_damaged_configuration_or_tokenizer_is_taken_from_a_checkpoint() {
    let (_temp, run, layout, _) = run();
    let damage = |name: &str, bytes: &[u8]| fs::write(run.path().join(name), bytes).unwrap();
    let config = fs::read(run.path().join(CONFIG)).unwrap();
    damage(CONFIG, &config[..config.len() / 2]);
    let error = RunDir::open(run.path()).unwrap_err().to_string();
    assert!(error.contains("config.toml: its checksum does not match"), "{error}");
    damage(CONFIG, &config);
    save(&run, &layout, 7);
    let mut edited = config.clone();
    *edited.iter_mut().find(|byte| **byte == b'5').unwrap() = b'6';
    for (name, bytes) in
        [(CONFIG, &edited[..]), (CONFIG, &config[..99]), (CONFIG, &[255; 9]), (TOKENIZER, b"{}"), (TOKENIZER, b"")]
    {
        damage(name, bytes);
        let found = RunDir::open(run.path()).unwrap();
        assert_eq!((&found.config, &found.tokenizer), (&run.config, &run.tokenizer));
        assert!(found.warnings[0].contains(name) && found.warnings[0].contains("using the copy"));
        found.write_config().unwrap();
        assert!(RunDir::open(run.path()).unwrap().warnings.is_empty(), "repaired");
    }
    fs::remove_file(run.path().join(CONFIG)).unwrap();
    assert_eq!(RunDir::open(run.path()).unwrap().config, run.config);
    // Whole, but from the future: that is not damage.
    let text = "format_version = 99\n";
    damage(CONFIG, format!("{text}{SEAL}{}\n", sha256(text.as_bytes())).as_bytes());
    let error = RunDir::open(run.path()).unwrap_err().to_string();
    assert!(error.contains("newer kinglet"), "{error}");
}

#[test]
fn folders_in_use_are_refused() {
    let (temp, run, _, _) = run();
    let config = Config::default().with(&["vocab_size=1"]).unwrap();
    let create = |path: &Path| RunDir::create(path, config.clone(), CharTokenizer::train("a").into(), None);
    assert!(create(run.path()).unwrap_err().to_string().contains("--resume"));
    let full = temp.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("x"), "x").unwrap();
    assert!(create(&full).unwrap_err().to_string().contains("not empty"));
    fs::write(temp.path().join("file"), "x").unwrap();
    assert!(create(&temp.path().join("file")).unwrap_err().to_string().contains("cannot create"));
    assert!(RunDir::open(&full).unwrap_err().to_string().contains("no config.toml"));
    // Killed before the configuration was written: nothing is lost, nothing is in the way.
    let cut = temp.path().join("cut");
    fs::create_dir_all(cut.join(CHECKPOINTS)).unwrap();
    for name in ["lock", "tokenizer.json", "config.toml.tmp"] {
        fs::write(cut.join(name), "1").unwrap();
    }
    let (_, lock) = create(&cut).unwrap();
    assert!(RunDir::open(&cut).unwrap().lock().unwrap_err().to_string().contains("is training this run"));
    drop(lock);
    RunDir::open(&cut).unwrap().lock().unwrap();
}

#[test]
fn metrics_continue_before_what_will_be_repeated_and_leave_out_what_is_damaged() {
    let (_temp, mut run, _, mut checkpoint) = run();
    checkpoint.state.best = None;
    let mut file = run.continue_metrics(&checkpoint.state, |_| ()).unwrap();
    for (event, step, rollbacks) in [("step", 1, 0), ("diverged", 1, 1), ("step", 2, 0), ("done", 1, 0)] {
        file.append(&serde_json::json!({"event": event, "loss": 0.1, "step": step, "rollbacks": rollbacks})).unwrap();
    }
    let path = run.path().join(METRICS);
    let good = fs::read_to_string(&path).unwrap();
    let mut damaged = good.replacen("0.1", "0.7", 1).into_bytes();
    damaged.extend(b"\xff\n{\"ev");
    fs::write(&path, damaged).unwrap();
    assert_eq!(run.metrics().unwrap().len(), 3);
    fs::write(&path, good).unwrap();
    assert!(run.warnings.is_empty());
    let mut steps = |rollbacks, step| {
        (checkpoint.state.guard.rollbacks, checkpoint.state.step) = (rollbacks, step);
        run.continue_metrics(&checkpoint.state, |_| ()).unwrap();
        run.metrics().unwrap().iter().map(|e| e["step"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(steps(1, 2), [1, 1, 2]);
    assert_eq!(steps(1, 1), [1, 1]);
    assert_eq!(steps(0, 1), [1]);
}

#[test]
fn metrics_without_the_best_estimate_are_warned_of() {
    let (_temp, mut run, _, mut checkpoint) = run();
    checkpoint.state.step = 7;
    let mut file = run.continue_metrics(&checkpoint.state, |_| ()).unwrap();
    let [warning] = &run.warnings[..] else { panic!("{:?}", run.warnings) };
    assert!(warning.contains("metrics.jsonl: lines are missing, including the estimate of step 7"), "{warning}");
    run.warnings.clear();
    file.append(&serde_json::json!({"event": "estimate", "step": 7, "train_loss": 1.4, "val_loss": 1.5})).unwrap();
    run.continue_metrics(&checkpoint.state, |_| ()).unwrap();
    assert!(run.warnings.is_empty(), "{:?}", run.warnings);
}

#[test]
fn a_run_that_is_created_whole_is_there_whole_or_not_at_all() {
    let (_temp, like, layout, checkpoint) = run();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("b/run");
    // What an interrupted start left there is not in the way.
    fs::create_dir_all(path.join(CHECKPOINTS)).unwrap();
    fs::write(path.join(Lock::FILE), "1").unwrap();
    let mut failed = 0;
    for n in 0.. {
        let create = || {
            RunDir::create_whole(&path, like.config.clone(), like.tokenizer.clone(), None, |run| {
                saved(run, &layout, &checkpoint)?;
                run.prune(&checkpoint.state)
            })
        };
        let (created, hit) = with_fault(Fault::From(n), create);
        assert_eq!(path.join(CONFIG).exists(), path.join(CHECKPOINTS).join(folder_name(7)).exists());
        if hit {
            failed += usize::from(created.is_err() && !path.join(CONFIG).exists());
            if path.join(CONFIG).exists() {
                // What failed comes after the folder has its name.
                fs::remove_dir_all(&path).unwrap();
            }
            continue;
        }
        let mut created = created.unwrap();
        assert_eq!(created.path(), path);
        assert_eq!(created.load(&layout, None, |_| true).unwrap(), checkpoint);
        assert!(!path.join(disk::SUMS).exists());
        break;
    }
    assert!(failed > 10, "{failed}");
}

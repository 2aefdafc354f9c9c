//! What readers see, with models that were never trained.

use super::*;
use crate::{
    Model,
    inference::{Finish, Piece},
    text::tokenizer::CharTokenizer,
};
use kinglet_core::{
    backend::Cpu,
    config::Config,
    params::Layout,
    rng::{Purpose, Rng},
    sample::Sampling,
};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Wake},
};

const ALPHABET: &str = "abcdefghij .";
const LONG: Duration = Duration::from_secs(60);

/// A model of some letters, with its weights changed.
fn damaged(settings: &[&str], damage: impl FnOnce(&Layout, &mut [f32])) -> Model {
    let small = ["vocab_size=12", "block_size=16", "n_layer=2", "n_head=2", "n_embd=16"];
    let config = Config::default().with(&[&small[..], settings].concat()).unwrap();
    let layout = Layout::new(&config).unwrap();
    let mut rng = Rng::new(5, Purpose::Init, 0, 0);
    let mut weights: Vec<f32> = (0..layout.len()).map(|_| 0.3 * rng.normal() as f32).collect();
    damage(&layout, &mut weights);
    Model::from_weights(Cpu::new().unwrap(), config, CharTokenizer::train(ALPHABET).into(), &weights).unwrap()
}

fn model(settings: &[&str]) -> Model {
    damaged(settings, |_, _| ())
}

/// A model of which a token takes long.
fn slow() -> Model {
    model(&["n_embd=256", "n_layer=4", "block_size=64", "position=rotary"])
}

fn engine(options: Options) -> Engine {
    Engine::start(Options { threads: 2, ..options }).unwrap()
}

fn one_at_a_time() -> Engine {
    engine(Options { parallel: 1, ..Options::default() })
}

/// All pieces of a text, read as they come, and its end.
fn read(text: &mut Text) -> (Vec<Piece>, End) {
    let mut pieces = Vec::new();
    loop {
        assert!(text.wait(LONG), "nothing comes");
        pieces.extend(text.take());
        if let Some(end) = text.end() {
            return (pieces, end);
        }
    }
}

/// The same of a text that is iterated over.
fn alone(mut generation: Generation) -> (Vec<Piece>, End) {
    let mut pieces = Vec::new();
    for piece in &mut generation {
        match piece {
            Ok(piece) => pieces.push(piece),
            Err(error) => return (pieces, End::Failed(error.to_string())),
        }
    }
    (pieces, End::Finished(generation.finish().unwrap()))
}

/// Waits until it is so.
fn until(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A text that has at least begun.
fn begun(engine: &Engine, generation: Generation) -> Text {
    let mut text = engine.write(generation).unwrap();
    assert!(text.wait(LONG));
    text
}

/// Picks at random.
struct Dice(Rng);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(Rng::new(seed, Purpose::Sample, 1, 0))
    }

    fn below(&mut self, n: usize) -> usize {
        self.0.below(n as u64) as usize
    }

    fn text(&mut self, len: usize) -> String {
        (0..len).map(|_| char::from(ALPHABET.as_bytes()[self.below(ALPHABET.len())])).collect()
    }
}

/// A way to begin the same text any number of times.
fn wish(model: &Model, dice: &mut Dice) -> impl Fn() -> Generation + use<> {
    let prompt = {
        let len = dice.below(40);
        dice.text(len)
    };
    let mut sampling = Sampling::default();
    sampling.seed = dice.below(5) as u64;
    match dice.below(6) {
        0 => sampling.temperature = 0.0,
        1 => (sampling.temperature, sampling.top_k) = (1.5, 5),
        2 => (sampling.top_p, sampling.repetition_penalty) = (0.9, 1.3),
        3 => sampling.min_p = 0.05,
        _ => {}
    }
    let (tokens, index, top) = (dice.below(60), dice.below(1000) as u64, dice.below(4));
    let stops: Vec<String> = (0..dice.below(3))
        .map(|_| {
            let len = 1 + dice.below(3);
            dice.text(len)
        })
        .collect();
    let model = model.clone();
    move || {
        let text = model.generate(&prompt).max_tokens(tokens).sampling(sampling.clone()).index(index).top(top);
        stops.iter().fold(text, |text, stop| text.stop(stop.clone()))
    }
}

/// Hundreds of texts that arrive at random, are read at random, and some of them not to their end.
fn check_arrivals(models: &[Model], options: Options, seed: u64) {
    const TEXTS: usize = 300;
    let (engine, mut dice) = (engine(options), Dice::new(seed));
    let wishes: Vec<_> = (0..TEXTS)
        .map(|_| {
            let which = dice.below(models.len());
            wish(&models[which], &mut dice)
        })
        .collect();
    let want: Vec<_> = wishes.iter().map(|wish| alone(wish())).collect();
    let mut open: Vec<(usize, Text, Vec<Piece>)> = Vec::new();
    let (mut next, mut whole, mut dropped, mut full) = (0, 0, 0, 0);
    while next < TEXTS || !open.is_empty() {
        if next < TEXTS && (open.is_empty() || dice.below(3) > 0) {
            match engine.write(wishes[next]()) {
                Ok(text) => {
                    // Some readers go away before anything is written, however quick the engine is.
                    if next % 40 == 7 {
                        drop(text);
                        dropped += 1;
                    } else {
                        open.push((next, text, Vec::new()));
                    }
                    next += 1;
                }
                Err(busy) => {
                    assert_eq!(busy, Busy::Full);
                    full += 1;
                    std::thread::yield_now();
                }
            }
        }
        if open.is_empty() {
            continue;
        }
        let at = dice.below(open.len());
        let (which, text, pieces) = &mut open[at];
        if dice.below(2) == 0 {
            assert!(text.wait(LONG), "nothing comes");
        }
        pieces.extend(text.take());
        if let Some(end) = text.end() {
            assert_eq!((pieces.as_slice(), &end), (want[*which].0.as_slice(), &want[*which].1), "text {which}");
            open.swap_remove(at);
            whole += 1;
        } else if dice.below(40) == 0 {
            assert!(want[*which].0.starts_with(pieces));
            open.swap_remove(at);
            dropped += 1;
        }
    }
    assert!(whole > TEXTS / 2 && dropped > 5, "{whole} whole, {dropped} dropped");
    until("all are gone", || engine.figures().open() == 0);
    let Figures { ended, refused, passes, rows, generated_tokens, .. } = engine.figures();
    assert_eq!((ended.by_name().iter().map(|(_, n)| n).sum::<u64>(), refused), (TEXTS as u64, full));
    assert!(ended.length > 0 && ended.stop > 0 && ended.cancelled <= dropped && ended.failed == 0, "{ended:?}");
    assert!(passes > 0 && rows > passes, "no pass served several texts: {passes} passes, {rows} rows");
    assert_eq!(rows, generated_tokens);
}

#[test]
fn a_text_is_the_same_whatever_else_is_computed() {
    for precision in ["f32", "bf16"] {
        let precision = format!("precision={precision}");
        let models = [model(&[&precision]), model(&[&precision, "position=rotary", "n_kv_head=1", "n_embd=32"])];
        check_arrivals(&models, Options { parallel: 8, queue: 12, ..Options::default() }, 1);
        // Readers are waited for again and again.
        check_arrivals(&models, Options { parallel: 3, queue: 500, unread: 4, ..Options::default() }, 2);
    }
}

#[test]
fn it_can_be_shared_and_its_texts_be_sent() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<Engine>();
    sent::<Text>();
    sent::<Measuring>();
}

#[test]
fn a_text_goes_on_where_it_was() {
    let (model, engine) = (model(&[]), one_at_a_time());
    let begin = || model.generate("a cab").max_tokens(30).seed(3);
    let want = alone(begin());
    for taken in [0, 1, 17, 30] {
        let mut text = begin();
        let first: Vec<Piece> = text.by_ref().take(taken).map(Result::unwrap).collect();
        let (rest, end) = read(&mut engine.write(text).unwrap());
        assert_eq!(([first, rest].concat(), end), want, "after {taken}");
    }
    let mut none = engine.write(begin().max_tokens(0)).unwrap();
    assert_eq!(none.prompt_tokens(), 5);
    assert_eq!(read(&mut none), (vec![], End::Finished(Finish::Length)));
    let mut failed = model.generate("!");
    let error = failed.next().unwrap().unwrap_err().to_string();
    assert_eq!(read(&mut engine.write(model.generate("!")).unwrap()), (vec![], End::Failed(error)));
    let (pieces, end) = read(&mut engine.write(failed).unwrap());
    assert!(pieces.is_empty() && matches!(&end, End::Failed(why) if why.contains("already failed")), "{end:?}");
}

#[test]
fn more_than_fit_are_refused_until_there_is_room() {
    let (model, engine) = (slow(), engine(Options { parallel: 1, queue: 2, ..Options::default() }));
    let endless = || model.generate("a").max_tokens(1_000_000);
    let first = begun(&engine, endless());
    let second = engine.write(endless()).unwrap();
    let third = engine.measure(model.score(vec![1, 2])).unwrap();
    assert_eq!(engine.write(endless()).err(), Some(Busy::Full));
    let busy = engine.figures();
    assert_eq!((busy.running, busy.waiting, busy.refused), (1, 1, 1));
    // One that only waits makes room as well, and at once.
    drop(second);
    until("it is gone", || engine.figures().ended.cancelled == 1);
    let mut last = engine.write(model.generate("a").max_tokens(3)).unwrap();
    drop((first, third));
    assert_eq!(read(&mut last).1, End::Finished(Finish::Length));
    assert_eq!(engine.figures().ended.length, 1);
}

#[test]
fn what_nobody_wants_is_not_computed() {
    let (model, engine) = (slow(), one_at_a_time());
    let text = begun(&engine, model.generate("a").max_tokens(1_000_000));
    let began = Instant::now();
    drop(text);
    until("it is gone", || engine.figures().open() == 0);
    let took = began.elapsed();
    let Figures { ended, passes, .. } = engine.figures();
    assert_eq!(ended.cancelled, 1);
    assert!(took < Duration::from_secs(2), "{took:?}");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(engine.figures().passes, passes, "nothing goes on");
}

#[test]
fn a_reader_who_does_not_read_is_not_computed_for() {
    const UNREAD: usize = 10;
    // Longer than a busy machine may take for the text that is read in between.
    let stall = Duration::from_secs(3);
    let (model, engine) = (slow(), engine(Options { parallel: 1, unread: UNREAD, stall, ..Options::default() }));
    let mut stalled = engine.write(model.generate("a").max_tokens(100)).unwrap();
    let mut slow = engine.write(model.generate("b").max_tokens(100)).unwrap();
    // There is one place: others get it because the first readers lose it.
    until("both wait for their readers", || engine.figures().held == 2);
    assert_eq!(engine.figures().generated_tokens, 2 * (UNREAD as u64 + 1));
    assert_eq!(slow.take().len(), UNREAD + 1);
    let (pieces, end) = read(&mut engine.write(model.generate("c").max_tokens(100)).unwrap());
    assert_eq!((pieces, end), alone(model.generate("c").max_tokens(100)));
    let (pieces, end) = read(&mut slow);
    assert_eq!(
        (pieces.as_slice(), end),
        (&alone(model.generate("b").max_tokens(100)).0[UNREAD + 1..], End::Finished(Finish::Length))
    );
    // It wakes up by itself for the one that is left.
    until("it is ended", || engine.figures().ended.stalled == 1);
    assert_eq!(stalled.end(), None, "what has come can still be read");
    assert_eq!(stalled.take(), alone(model.generate("a").max_tokens(100)).0[..=UNREAD]);
    assert_eq!(stalled.end(), Some(End::Stalled));
    assert_eq!(engine.figures().open(), 0);
}

#[test]
fn closing_ends_what_does_not_end_in_time() {
    let model = slow();
    let quick = one_at_a_time();
    let mut text = begun(&quick, model.generate("a").max_tokens(20));
    let mut next = quick.write(model.generate("b").max_tokens(20)).unwrap();
    quick.close(LONG);
    // What was there came to its end.
    assert_eq!(read(&mut text), alone(model.generate("a").max_tokens(20)));
    assert_eq!(read(&mut next), alone(model.generate("b").max_tokens(20)));
    assert_eq!(quick.write(model.generate("a")).err(), Some(Busy::Closing));
    assert_eq!(quick.measure(model.score(vec![1])).err(), Some(Busy::Closing));

    let engine = one_at_a_time();
    let endless = || model.generate("a").max_tokens(1_000_000);
    let mut texts = [begun(&engine, endless()), engine.write(endless()).unwrap()];
    let mut scoring = engine.measure(std::iter::repeat_with(|| Ok(Vec::new()))).unwrap();
    // The second, shorter time counts: as with a second signal.
    let other = engine.clone();
    let patient = std::thread::spawn(move || other.close(Duration::MAX));
    until("it closes", || engine.write(endless()).is_err());
    assert!(!patient.is_finished());
    engine.close(Duration::from_millis(50));
    patient.join().unwrap();
    for text in &mut texts {
        assert_eq!(read(text).1, End::Closed);
    }
    assert!(scoring.wait(LONG));
    assert_eq!((scoring.take(), scoring.end()), (Vec::new(), Some(End::Closed)));
    let figures = engine.figures();
    assert_eq!((figures.ended.closed, figures.open()), (3, 0));
}

/// The engines' threads and their pools' in this process, by name.
#[cfg(target_os = "linux")]
fn tasks(prefix: &str) -> Vec<std::path::PathBuf> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    // The main thread is called like the program.
    let main = std::process::id().to_string();
    let named = |task: &std::path::PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with(prefix))
    };
    tasks.filter(|task| !task.ends_with(&main) && named(task) && !ends(task)).collect()
}

/// Whether a thread ends. The system lists one for a moment longer after it was joined.
#[cfg(target_os = "linux")]
fn ends(task: &std::path::Path) -> bool {
    /// What its flags have then (`PF_EXITING`).
    const EXITING: u32 = 4;
    // The flags are seven fields behind the name, which ends with the last parenthesis (proc_pid_stat(5)).
    let flags = |text: String| -> u32 { text.rsplit(')').next().unwrap().split(' ').nth(7).unwrap().parse().unwrap() };
    std::fs::read_to_string(task.join("stat")).map_or(true, |text| flags(text) & EXITING != 0)
}

/// Runs a test again in a process of its own, where no other test has threads. Returns whether this is that process.
#[cfg(target_os = "linux")]
fn is_by_itself(name: &str) -> bool {
    const ALONE: &str = "KINGLET_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let name = format!("engine::tests::{name}");
    let output = command.args(["--exact", &name, "--test-threads=1", "--nocapture"]).env(ALONE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
    false
}

#[test]
#[cfg(target_os = "linux")]
fn with_nothing_to_do_no_time_is_used_and_dropped_no_thread_is_left() {
    if !is_by_itself("with_nothing_to_do_no_time_is_used_and_dropped_no_thread_is_left") {
        return;
    }
    /// Nanoseconds that threads have computed.
    fn used() -> u64 {
        let of = |task: &std::path::PathBuf| {
            let text = std::fs::read_to_string(task.join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap()
        };
        tasks("kinglet").iter().map(of).sum()
    }
    let (model, engine) = (slow(), engine(Options { unread: 5, ..Options::default() }));
    let mut text = engine.write(model.generate("a").max_tokens(5)).unwrap();
    read(&mut text);
    // One whose reader does not read is nothing to do, either.
    let held = engine.write(model.generate("a").max_tokens(50)).unwrap();
    until("it is held", || engine.figures().held == 1);
    std::thread::sleep(Duration::from_millis(50));
    let (before, busy) = (used(), engine.figures().busy);
    assert_eq!(tasks("kinglet").len(), 3, "its own, and two of its pool");
    assert!(before > 0 && busy > Duration::ZERO);
    std::thread::sleep(Duration::from_millis(500));
    let idle = used() - before;
    assert!(idle < 2_000_000, "{idle} ns in half a second");
    assert_eq!(engine.figures().busy, busy);
    let other = engine.clone();
    drop(engine);
    assert_eq!(other.figures().held, 1, "a clone is left");
    drop(other);
    assert_eq!((held.end(), tasks("kinglet-engine").len()), (None, 0), "the pieces are still there to be taken");
    until("no thread is left", || tasks("kinglet").is_empty());
}

#[test]
fn a_text_that_fails_is_the_only_one() {
    // Position 20 is damaged: only texts that come to it meet it.
    let damage = |layout: &Layout, weights: &mut [f32]| {
        let wpe = layout.tensors.iter().find(|tensor| tensor.name.ends_with("wpe.weight")).unwrap();
        weights[wpe.span.range()][20 * 16..][..16].fill(f32::NAN);
    };
    let (model, other) = (damaged(&["block_size=32"], damage), model(&[]));
    let engine = engine(Options::default());
    let wishes: Vec<Box<dyn Fn() -> Generation>> = vec![
        Box::new(|| model.generate("abc").max_tokens(40)),
        Box::new(|| model.generate("abc").max_tokens(15)),
        Box::new(|| other.generate("abc").max_tokens(40)),
    ];
    let mut texts: Vec<_> = wishes.iter().map(|wish| engine.write(wish()).unwrap()).collect();
    let got: Vec<_> = texts.iter_mut().map(read).collect();
    assert_eq!(got, wishes.iter().map(|wish| alone(wish())).collect::<Vec<_>>());
    assert!(matches!(&got[0].1, End::Failed(why) if why.contains("not finite")), "{:?}", got[0].1);
    assert_eq!((got[0].0.len(), got[1].0.len(), got[2].0.len()), (18, 15, 40));
    let ended = engine.figures().ended;
    assert_eq!((ended.failed, ended.length), (1, 2));
}

/// Scores of one token, again and again; it panics at the end.
fn panics_after(pieces: u32) -> impl Iterator<Item = Result<Vec<TokenScore>>> {
    (0..=pieces).map(move |i| {
        assert!(i < pieces, "no more than {pieces}");
        Ok(vec![TokenScore { id: i, ..TokenScore::default() }])
    })
}

#[test]
fn a_panic_is_an_end_and_the_engine_goes_on() {
    let (model, engine) = (model(&[]), engine(Options::default()));
    let mut text = engine.write(model.generate("abc").max_tokens(200)).unwrap();
    let mut scoring = engine.measure(panics_after(3)).unwrap();
    until("it has ended", || engine.figures().ended.failed == 1);
    assert_eq!(scoring.take().iter().map(|score| score.id).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(scoring.end(), Some(End::Failed("computing it panicked: no more than 3".to_owned())));
    assert_eq!(read(&mut text), alone(model.generate("abc").max_tokens(200)));
    assert_eq!(read(&mut engine.write(model.generate("b")).unwrap()), alone(model.generate("b")));
}

#[test]
fn a_panic_in_a_pass_ends_its_texts_and_no_others() {
    let (model, other) = (model(&[]), model(&["position=rotary"]));
    let (figures, bell) = (Arc::default(), Arc::default());
    let (_jobs, receiver) = channel();
    let mut works = Works::new(Options::default(), receiver, Arc::clone(&bell), Arc::clone(&figures), Arc::default());
    let mut add = |generation: Generation, ended: bool| {
        lock(&figures).enter(Stage::Running);
        let (out, inbox) = mailbox(Stage::Running, Arc::clone(&figures), Arc::clone(&bell));
        let mut writer = generation.into_writer().unwrap();
        // One that has ended has nothing left to compute with.
        assert_eq!(writer.wants(), !ended);
        works.texts.push(open::Open::new(writer, out));
        inbox
    };
    let texts = [add(model.generate("a"), false), add(model.generate("a").max_tokens(0), true)];
    let mut spared = add(other.generate("a").max_tokens(5), false);
    while lock(&figures).open() > 0 {
        works.step();
    }
    for text in texts {
        let Some(End::Failed(why)) = text.end() else { panic!("{:?}", text.end()) };
        assert_eq!(why, "computing it panicked: the text wants a token");
    }
    assert_eq!((spared.take(), spared.end().unwrap()), alone(other.generate("a").max_tokens(5)));
}

#[test]
fn scorings_take_turns_with_texts() {
    let (model, engine) = (slow(), engine(Options { unread: 100, ..Options::default() }));
    let text: Vec<u32> = (0..400).map(|i| i * 7 % 12).collect();
    let want: Vec<TokenScore> = model.score(text.clone()).top(2).flat_map(Result::unwrap).collect();
    let mut endless = begun(&engine, model.generate("abc").max_tokens(1_000_000));
    let mut scorings: Vec<_> = (0..9).map(|_| engine.measure(model.score(text.clone()).top(2)).unwrap()).collect();
    let mut got = vec![Vec::new(); scorings.len()];
    let before = engine.figures().passes;
    while !scorings.iter().all(|scoring| scoring.end().is_some()) {
        endless.take();
        for (scoring, got) in scorings.iter_mut().zip(&mut got) {
            scoring.wait(Duration::from_millis(1));
            got.extend(scoring.take());
        }
    }
    assert!(got.iter().all(|got| *got == want));
    assert!(scorings.iter().all(|scoring| scoring.end() == Some(End::Finished(Finish::EndOfText))));
    let Figures { passes, ended, scored_tokens, .. } = engine.figures();
    assert_eq!((ended.scored, scored_tokens), (9, 9 * 400));
    assert!(passes - before > 9, "the text goes on meanwhile");
}

#[test]
fn whoever_polls_is_woken() {
    #[derive(Default)]
    struct Woken(AtomicUsize, Mutex<Option<std::thread::Thread>>);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
            if let Some(thread) = lock(&self.1).as_ref() {
                thread.unpark();
            }
        }
    }
    let (model, engine) = (slow(), one_at_a_time());
    let woken = Arc::new(Woken(AtomicUsize::new(0), Mutex::new(Some(std::thread::current()))));
    let waker = Arc::clone(&woken).into();
    let mut cx = Context::from_waker(&waker);
    let mut text = engine.write(model.generate("a cab").max_tokens(40)).unwrap();
    let (mut pieces, mut pending) = (Vec::new(), 0);
    let end = loop {
        if text.poll(&mut cx) == Poll::Pending {
            pending += 1;
            std::thread::park_timeout(LONG);
            continue;
        }
        pieces.extend(text.take());
        if let Some(end) = text.end() {
            break end;
        }
    };
    assert_eq!((pieces, end), alone(model.generate("a cab").max_tokens(40)));
    assert!(pending > 0 && woken.0.load(Ordering::SeqCst) > 0);
    assert_eq!(text.poll(&mut cx), Poll::Ready(()), "it stays at its end");
}

#[test]
fn other_work_takes_turns_with_texts_and_ends_when_nobody_waits_for_it() {
    let engine = engine(Options::default());
    let mut left = 5;
    let mut seeing = engine
        .compute(move || {
            left -= 1;
            Ok((left == 0).then_some("all of it"))
        })
        .unwrap();
    assert!(seeing.wait(LONG));
    assert_eq!((seeing.end(), seeing.take()), (Some(End::Finished(Finish::EndOfText)), Some("all of it")));
    let endless = engine
        .compute::<(), _>(|| {
            std::thread::sleep(Duration::from_millis(1));
            Ok(None)
        })
        .unwrap();
    let (_, end) = read(&mut engine.write(model(&[]).generate("a").max_tokens(20)).unwrap());
    assert_eq!((end, endless.end()), (End::Finished(Finish::Length), None));
    drop(endless);
    until("it ends", || engine.figures().scoring == 0);
    assert_eq!((engine.figures().ended.scored, engine.figures().ended.cancelled), (1, 1));
    let wrong = || Err(kinglet_core::error::Error::Text("wrong".to_owned()));
    let mut failed =
        [engine.compute::<(), _>(wrong).unwrap(), engine.compute::<(), _>(|| panic!("on purpose")).unwrap()];
    for (seeing, says) in failed.iter_mut().zip(["wrong", "on purpose"]) {
        assert!(seeing.wait(LONG) && seeing.take().is_none());
        let Some(End::Failed(what)) = seeing.end() else { panic!("{:?}", seeing.end()) };
        assert!(what.contains(says), "{what}");
    }
}

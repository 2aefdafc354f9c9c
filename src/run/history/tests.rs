use super::*;
use crate::run::metrics::{Metrics, parse_metrics};
use crate::system::disk::Appender;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;

/// The lines of these events, as a run writes them.
fn lines(events: &[Value]) -> Vec<u8> {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("lines");
    fs::write(&path, "").unwrap();
    let mut metrics = Metrics { file: Appender::new(&path).unwrap(), path: path.clone() };
    events.iter().for_each(|event| metrics.append(event).unwrap());
    drop(metrics);
    let bytes = fs::read(path).unwrap();
    assert_eq!(parse_metrics(&bytes).1, 0);
    bytes
}

fn step(step: u64, loss: f64) -> Value {
    json!({"event": "step", "step": step, "loss": loss, "lr": 0.001, "grad_norm": loss / 2.0, "tokens_per_s": 1e4})
}

fn estimate(step: u64, loss: f64) -> Value {
    json!({"event": "estimate", "step": step, "train_loss": loss, "val_loss": loss + 0.1, "tokens": 10.0, "train_s": 1.0})
}

fn sample(step: u64, text: &str) -> Value {
    json!({"event": "sample", "step": step, "text": text})
}

/// What was read, without what differs from one reading to another.
fn columns(tail: &Tail) -> String {
    let Tail { steps, estimates, finish, marks, samples, damaged, unmarked, .. } = tail;
    format!("{steps:?} {estimates:?} {finish:?} {marks:?} {samples:?} {damaged} {unmarked}")
}

fn read(run: &Path) -> Tail {
    let mut tail = Tail::default();
    tail.update(run).unwrap();
    tail
}

/// One of the things that stand in metrics, damage and steps that are made again included.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let number = (1u64..40, 0.1f64..9.0);
    prop_oneof![
        5 => number.clone().prop_map(|(at, loss)| lines(&[step(at, loss)])),
        2 => number.clone().prop_map(|(at, loss)| lines(&[estimate(at, loss)])),
        1 => number.clone().prop_map(|(at, _)| lines(&[sample(at, "猫 <b>")])),
        1 => number.clone().prop_map(|(at, _)| lines(&[json!({"event": "step", "step": at, "loss": null, "lr": 1.0, "grad_norm": null})])),
        1 => number.clone().prop_map(|(at, loss)| lines(&[json!({"event": "diverged", "step": at, "action": "skip", "rollbacks": 0,
            "at_step": at, "cause": "loss", "loss": loss, "grad_norm": null, "tensor": "x"})])),
        1 => number.prop_map(|(at, loss)| lines(&[json!({"event": "done", "step": at, "val_loss_exact": loss})])),
        1 => Just(b"damaged\n".to_vec()),
        1 => Just(b"\n".to_vec()),
        1 => Just(b"\xff\xfe{\"event\":\"step\"}\n".to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However a file grows, what was read of it is what stands in it; what a client adds up is that too.
    #[test]
    fn any_cut_gives_the_same_columns(pieces in prop::collection::vec(piece(), 0..40), cuts in prop::collection::vec(0.0f64..1.0, 0..12)) {
        let bytes = pieces.concat();
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(METRICS);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| (cut * bytes.len() as f64) as usize).chain([bytes.len()]).collect();
        cuts.sort_unstable();
        let (mut tail, mut latest) = (Tail::default(), Latest::new());
        let (mut cursor, mut steps, mut estimates) = (None, Vec::new(), Vec::new());
        let mut written = 0;
        fs::write(&path, "").unwrap();
        for cut in cuts {
            use std::io::Write;
            fs::File::options().append(true).open(&path).unwrap().write_all(&bytes[written..cut]).unwrap();
            written = cut;
            tail.update(temp.path()).unwrap();
            latest.update(temp.path()).unwrap();
            let added = tail.since(cursor);
            if added.whole {
                steps.clear();
                estimates.clear();
            }
            steps.extend(&tail.steps.step[added.steps]);
            estimates.extend(&tail.estimates.step[added.estimates]);
            cursor = Some(tail.cursor());
        }
        let whole = read(temp.path());
        prop_assert_eq!(columns(&tail), columns(&whole));
        prop_assert_eq!((&steps, &estimates), (&whole.steps.step, &whole.estimates.step));
        prop_assert!(steps.is_sorted_by(|a, b| a < b) && estimates.is_sorted_by(|a, b| a < b));
        let at_once = Latest::of(temp.path());
        let told = |latest: &Latest| format!("{:?} {:?} {:?} {:?} {}", latest.step, latest.estimate, latest.done, latest.diverged, latest.nothing);
        prop_assert_eq!(told(&latest), told(&at_once));
    }

    /// Spans have every update once, and between them the same extremes and mean.
    #[test]
    fn spans_lose_nothing(gaps in prop::collection::vec((1u64..20, 0.0f64..9.0), 1..300), most in 1usize..50) {
        let mut steps = Steps::default();
        let mut at = 0;
        for &(gap, loss) in &gaps {
            at += gap;
            let line = serde_json::to_string(&step(at, loss)).unwrap();
            steps.push(at, &serde_json::from_str(&line).unwrap());
        }
        let spans = steps.spans(0..gaps.len(), most);
        prop_assert!(spans.len() <= most);
        prop_assert!(spans.iter().map(|span| span.step).is_sorted_by(|a, b| a < b));
        prop_assert_eq!(spans.last().unwrap().step, at);
        let least = gaps.iter().map(|gap| gap.1).fold(f64::INFINITY, f64::min);
        let greatest = gaps.iter().map(|gap| gap.1).fold(0.0, f64::max);
        prop_assert_eq!(spans.iter().map(|span| span.loss_min).fold(f64::INFINITY, f64::min), least);
        prop_assert_eq!(spans.iter().map(|span| span.loss_max).fold(0.0, f64::max), greatest);
        prop_assert!(spans.iter().all(|span| span.loss_min <= span.loss + 1e-9 && span.loss <= span.loss_max + 1e-9));
        if most == 1 {
            let mean = gaps.iter().map(|gap| gap.1).sum::<f64>() / gaps.len() as f64;
            prop_assert!((spans[0].loss - mean).abs() < 1e-9);
        }
    }
}

#[test]
fn a_file_that_is_written_anew_is_read_anew() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join(METRICS);
    let mut tail = read(temp.path());
    assert!(tail.since(None).whole && tail.steps.step.is_empty(), "no file is an empty one");
    let write = |steps: &[(u64, f64)]| {
        fs::write(&path, lines(&steps.iter().map(|&(at, loss)| step(at, loss)).collect::<Vec<_>>())).unwrap()
    };
    let replace = |steps: &[(u64, f64)]| {
        fs::remove_file(&path).unwrap();
        write(steps);
    };
    write(&[(1, 3.0), (2, 2.5), (3, 2.0)]);
    tail.update(temp.path()).unwrap();
    let first = tail.cursor();
    assert_eq!(first.to_string().parse(), Ok(first));
    assert!(!tail.since(Some(first)).whole);
    // A resume cuts it, and goes on.
    replace(&[(1, 3.0), (2, 2.25)]);
    tail.update(temp.path()).unwrap();
    assert_eq!((tail.since(Some(first)).whole, &tail.steps.loss[..]), (true, &[3.0, 2.25][..]));
    // In place, and as long as before or longer.
    let second = tail.cursor();
    write(&[(1, 3.5), (2, 2.75), (3, 1.75)]);
    tail.update(temp.path()).unwrap();
    assert_eq!((tail.since(Some(second)).whole, &tail.steps.loss[..]), (true, &[3.5, 2.75, 1.75][..]));
    // Gone.
    let third = tail.cursor();
    fs::remove_file(&path).unwrap();
    tail.update(temp.path()).unwrap();
    assert!(tail.since(Some(third)).whole && tail.steps.step.is_empty());
    for text in ["", "x", "1:2", "1:2.3.4", "g:1.2.3.4.5", "1:1.2.3.4.-5", "1:1.2.3.4.5.6", "1:1.2.3.4"] {
        assert!(text.parse::<Cursor>().is_err(), "{text}");
    }
}

#[test]
fn steps_that_are_made_again_replace_those_of_before() {
    let temp = tempfile::tempdir().unwrap();
    let done = json!({"event": "done", "step": 4, "val_loss_exact": 1.0, "baseline": {"name": "5-gram", "nats_per_token": 2.0}});
    let events = [step(2, 3.0), estimate(2, 2.9), sample(2, "a"), step(4, 2.0), estimate(4, 1.9), sample(4, "b"), done];
    fs::write(temp.path().join(METRICS), lines(&events)).unwrap();
    let mut tail = read(temp.path());
    assert_eq!(tail.finish.as_ref().unwrap().baseline, Some(("5-gram".to_owned(), 2.0)));
    let before = tail.cursor();
    let more =
        [events.concat_lines(), lines(&[step(3, 2.5), step(4, 2.25), estimate(4, 2.0), sample(4, "c")])].concat();
    fs::write(temp.path().join(METRICS), more).unwrap();
    tail.update(temp.path()).unwrap();
    assert_eq!((&tail.steps.step[..], &tail.steps.loss[..]), (&[2, 3, 4][..], &[3.0, 2.5, 2.25][..]));
    assert_eq!(tail.estimates.train_loss, [2.9, 2.0]);
    assert!(tail.finish.is_none() && tail.since(Some(before)).whole && tail.since(None).marks.is_empty());
    let samples = |since, most, bytes| {
        let of = tail.samples(temp.path(), since, Most::new(most, bytes)).unwrap();
        (
            of.all.into_iter().map(|(step, text)| format!("{step}{text}")).collect::<Vec<_>>().join(" "),
            of.left_out,
            of.whole,
        )
    };
    let told = |text: &str, left_out, whole| (text.to_owned(), left_out, whole);
    assert_eq!(samples(Since::Cursor(None), 10, 100), told("2a 4c", 0, true));
    assert_eq!(samples(Since::Cursor(Some(before)), 10, 100), told("2a 4c", 0, true), "one was drawn again");
    assert_eq!(samples(Since::Cursor(Some(tail.cursor())), 10, 100), told("", 0, false));
    assert_eq!(samples(Since::Step(2), 10, 100), told("4c", 0, false));
    assert_eq!(samples(Since::Cursor(None), 1, 100), told("4c", 1, true));
    assert_eq!(samples(Since::Cursor(None), 10, 1), told("4c", 1, true));
    assert_eq!(samples(Since::Cursor(None), 10, 0), told("4c", 1, true), "one at least");
}

trait Lines {
    fn concat_lines(&self) -> Vec<u8>;
}

impl Lines for [Value] {
    fn concat_lines(&self) -> Vec<u8> {
        lines(self)
    }
}

#[test]
fn damage_is_counted_and_told() {
    let temp = tempfile::tempdir().unwrap();
    let mut bytes = lines(&[step(1, 3.0)]);
    let damaged = String::from_utf8(lines(&[step(2, 2.0)])).unwrap().replace("2.0", "1.0");
    bytes.extend(damaged.as_bytes());
    bytes.extend(vec![b'x'; (1 << 20) + 5]);
    bytes.push(b'\n');
    bytes.extend(lines(&[step(3, 1.5)]));
    fs::write(temp.path().join(METRICS), bytes).unwrap();
    let tail = read(temp.path());
    assert_eq!(tail.steps.step, [1, 3]);
    let told = tail.since(None).marks;
    assert_eq!((told.len(), told[0].kind, told[0].step), (1, MarkKind::Warning, 3));
    assert_eq!(told[0].text, "2 lines of the metrics are damaged and were skipped");
    assert!(tail.since(Some(tail.cursor())).marks.is_empty(), "it is told once");
}

/// The last estimate is found however many updates follow it.
#[test]
fn the_end_is_read_until_there_is_an_estimate() {
    let temp = tempfile::tempdir().unwrap();
    let steps: Vec<_> = (1..3000).map(|at| step(at, 2.0)).collect();
    let mut events = vec![estimate(0, 4.0)];
    events.extend(steps);
    let bytes = lines(&events);
    assert!(bytes.len() > 1 << 18);
    fs::write(temp.path().join(METRICS), bytes).unwrap();
    let latest = Latest::of(temp.path());
    assert_eq!((latest.step.unwrap().step, latest.estimate.unwrap().train_loss), (2999, 4.0));
}

/// A generation is given once.
#[test]
fn generations_are_never_given_twice() {
    let mut all: Vec<_> = (0..1000).map(|_| next_generation()).collect();
    assert!(all.is_sorted_by(|a, b| a < b));
    all.dedup();
    assert_eq!(all.len(), 1000);
}

/// What could not be read is read at the next look, though the file is as it was.
#[test]
fn a_look_that_failed_is_repeated() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join(METRICS);
    fs::write(&path, lines(&[step(1, 3.0)])).unwrap();
    let mut follow = Follow::default();
    assert!(matches!(follow.look(&path).unwrap(), Look::Anew(_)));
    assert!(matches!(follow.look(&path).unwrap(), Look::More(_)), "nothing was read");
    follow.finished();
    assert!(matches!(follow.look(&path).unwrap(), Look::Same));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(follow.look(&path).is_err() && Tail::default().update(temp.path()).is_err());
}

#[test]
fn the_greatest_step_is_one_as_any_other() {
    let temp = tempfile::tempdir().unwrap();
    let greatest = [
        step(0, 3.0),
        step(1, 2.0),
        step(u64::MAX, 1.0),
        step(u64::MAX, 0.5),
        estimate(u64::MAX, 1.0),
        estimate(u64::MAX, 2.0),
    ];
    fs::write(temp.path().join(METRICS), lines(&greatest)).unwrap();
    let tail = read(temp.path());
    assert_eq!((&tail.steps.loss[..], &tail.estimates.train_loss[..]), (&[3.0, 2.0, 0.5][..], &[2.0][..]));
    assert_eq!(tail.steps.spans(0..3, 2).iter().map(|span| span.step).collect::<Vec<_>>(), [1, u64::MAX]);
}

//! A model that other programs hold: shared by threads, the same text however it is computed, and how a text ends.

use crate::common::runs::of_logits;
use kinglet::{
    Model,
    backend::{Cpu, Forward, Pass, Reference, Rows},
    config::Config,
    inference::{Finish, Generation, Piece},
    params::Layout,
    rng::{Purpose, Rng},
    run::{RunDir, Which},
    text::tokenizer::{CharTokenizer, Tokenizer},
    threads::Pool,
    train::{self, Job, Options},
};
use std::sync::Barrier;

const ALPHABET: &str = "abcdefghij .";

/// Weights that make some tokens much more probable than others.
fn weights(layout: &Layout) -> Vec<f32> {
    let mut rng = Rng::new(5, Purpose::Init, 0, 0);
    (0..layout.len()).map(|_| 0.3 * rng.normal() as f32).collect()
}

/// A model of some letters that was never trained.
fn untrained(settings: &[&str]) -> Model {
    let small = ["vocab_size=12", "block_size=16", "n_layer=2", "n_head=2", "n_embd=16"];
    let config = Config::default().with(&[&small[..], settings].concat()).unwrap();
    let weights = weights(&Layout::new(&config).unwrap());
    Model::from_weights(Cpu::new().unwrap(), config, CharTokenizer::train(ALPHABET).into(), &weights).unwrap()
}

fn pieces<B: Forward>(text: Generation<B>) -> Vec<Piece> {
    text.map(Result::unwrap).collect()
}

#[test]
fn it_can_be_cloned_sent_and_shared() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<Model>();
    shared::<Model<Reference>>();
    sent::<Generation>();
    sent::<Generation<Reference>>();
}

/// Threads of this process.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// In a process of its own, where no other test starts threads.
#[test]
#[cfg(target_os = "linux")]
fn a_thousand_texts_at_once_start_no_thread_and_are_what_each_is_alone() {
    const ALONE: &str = "KINGLET_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "model::a_thousand_texts_at_once_start_no_thread_and_are_what_each_is_alone";
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output =
            command.args(["--exact", name, "--test-threads=1", "--nocapture"]).env(ALONE, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("1 passed"), "{text}");
        return;
    }
    const TEXTS: usize = 1000;
    let before = threads();
    let model = untrained(&["position=rotary"]);
    let text = |model: &Model, i: usize| {
        let mut text = model.generate("a cab").max_tokens(24).seed(7).index(i as u64);
        (text.text().unwrap(), text.finish())
    };
    let alone: Vec<_> = (0..TEXTS).map(|i| text(&model, i)).collect();
    assert_eq!(threads(), before, "one alone computes on the thread that asks");
    assert!((1..TEXTS).all(|i| alone[i].0 != alone[0].0), "texts of one seed differ");
    // All of them are there before the first begins, and until the last is done.
    let (begin, end) = (&*Box::leak(Box::new(Barrier::new(TEXTS + 1))), &*Box::leak(Box::new(Barrier::new(TEXTS + 1))));
    let (sender, receiver) = std::sync::mpsc::channel();
    let started: Vec<_> = (0..TEXTS)
        .map(|i| {
            let (model, sender) = (model.clone(), sender.clone());
            std::thread::spawn(move || {
                begin.wait();
                let text = text(&model, i);
                sender.send(()).unwrap();
                end.wait();
                text
            })
        })
        .collect();
    begin.wait();
    let mut most = threads();
    for done in 0..TEXTS {
        receiver.recv().unwrap();
        if done % 50 == 0 {
            most = most.max(threads());
        }
    }
    most = most.max(threads());
    assert_eq!(most, before + TEXTS);
    end.wait();
    for (started, alone) in started.into_iter().zip(alone) {
        assert_eq!(started.join().unwrap(), alone);
    }
    // The system takes a moment to forget a thread that ended.
    let gone = |_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        threads() == before
    };
    assert!((0..500).any(gone), "{} threads, {before} before", threads());
}

#[test]
fn a_pool_changes_no_bit() {
    // Products large enough to be divided.
    let model = untrained(&["n_embd=512", "n_layer=1", "block_size=64"]);
    let begin = || model.generate("a bad cab. ").max_tokens(70).seed(2);
    let alone = pieces(begin());
    assert_eq!(alone.len(), 70);
    for threads in [1, 2, 3] {
        assert_eq!(pieces(begin().on(&Pool::new(threads).unwrap())), alone, "{threads} threads");
    }
}

#[test]
fn a_model_from_parts_is_the_one_from_its_folder() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let small = ["data=[\"builtin\"]", "train_split=0.99", "n_layer=1", "n_embd=16", "max_iters=2", "eval_iters=1"];
    let job = Job::start(Config::default().with(&small).unwrap(), &out).unwrap();
    train::run(job, Cpu::new().unwrap(), &Options::default().threads(1), |_| ()).unwrap();
    let opened = Model::open(&out).unwrap();
    let RunDir { config, tokenizer, .. } = RunDir::open(&out).unwrap();
    let checkpoint = out.join(format!("checkpoints/step-{:06}", opened.state().step));
    let bytes = std::fs::read(checkpoint.join("model.safetensors")).unwrap();
    let made = Model::from_parts(config.clone(), tokenizer.clone(), &bytes).unwrap();
    assert_eq!(
        (made.config(), made.tokenizer(), made.params()),
        (opened.config(), opened.tokenizer(), opened.params())
    );
    let write = |model: &Model| pieces(model.generate("The king").max_tokens(60).seed(3));
    assert_eq!(write(&made), write(&opened));
    // And for another backend, from the same folder.
    let reference = Model::load(Reference, &out, Which::Best).unwrap();
    let greedy =
        |ids: Vec<Piece>| ids.into_iter().flat_map(|piece| piece.ids().collect::<Vec<_>>()).collect::<Vec<_>>();
    let reference = greedy(pieces(reference.generate("The king").max_tokens(20).temperature(0.0)));
    assert_eq!(reference, greedy(pieces(made.generate("The king").max_tokens(20).temperature(0.0))));

    let error = |config: &Config, tokenizer: &Tokenizer, bytes: &[u8]| {
        Model::from_parts(config.clone(), tokenizer.clone(), bytes).unwrap_err().to_string()
    };
    assert!(error(&config, &tokenizer, &bytes[..bytes.len() - 1]).contains("damaged"));
    assert!(error(&config, &tokenizer, b"").contains("damaged"));
    let wider = config.clone().with(&["n_embd=32"]).unwrap();
    assert!(error(&wider, &tokenizer, &bytes).contains("the configuration requires F32"));
    assert!(error(&config, &Tokenizer::byte(), &bytes).contains("the tokenizer has 257 tokens"));
    assert!(error(&config.with(&["lora_rank=2"]).unwrap(), &tokenizer, &bytes).contains("kinglet merge"));
}

#[test]
fn an_empty_prompt_is_the_start_of_a_text() {
    for model in [untrained(&[]), of_logits(&[(97, 0.0), (98, 0.0)], &["vocab_size=257", "block_size=8"])] {
        let start = model.tokenizer().start_of_text();
        let empty = pieces(model.generate("").max_tokens(20));
        assert_eq!(empty, pieces(model.generate_after(&[start]).max_tokens(20)));
        assert_eq!(empty.iter().map(|piece| piece.tokens.len()).sum::<usize>(), 20);
    }
    let mut nothing = untrained(&[]).generate_after(&[]);
    assert!(nothing.next().unwrap().unwrap_err().to_string().contains("a prompt needs at least one token"));
    assert!(nothing.next().is_none() && nothing.finish().is_none(), "an error ends it");
}

#[test]
fn a_prompt_begins_with_the_token_that_texts_begin_with() {
    let begun = untrained(&["bos_token=a"]);
    let plain = untrained(&[]);
    let ids = |text: &str| plain.tokenizer().encode(text).unwrap();
    let after = |ids: &[u32]| pieces(plain.generate_after(ids).max_tokens(9));
    for (prompt, read) in [("cab", "acab"), ("", "a"), ("abc", "abc")] {
        assert_eq!(pieces(begun.generate(prompt).max_tokens(9)), after(&ids(read)), "{prompt}");
    }
    // Ids are taken as they are.
    assert_eq!(pieces(begun.generate_after(&ids("cab")).max_tokens(9)), after(&ids("cab")));
    assert_ne!(after(&ids("cab")), after(&ids("acab")));
    let error = Config::default().with(&["vocab_size=12", "block_size=16", "bos_token=<s>"]).and_then(|config| {
        let weights = weights(&Layout::new(&config)?);
        Model::from_weights(Cpu::new()?, config, CharTokenizer::train(ALPHABET).into(), &weights)
    });
    let error = error.map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("bos_token = \"<s>\": must be \"\" or a token of the tokenizer"), "{error}");
    // What follows the end of a text such a model never learned.
    let likes = |settings: &[&str]| of_logits(&[(97, 0.0), (256, -1.0)], &[&["block_size=8"], settings].concat());
    let begun = likes(&["bos_token=^"]);
    let ends = (0..20).map(|i| {
        let mut text = begun.generate("x").max_tokens(30).index(i);
        (text.text().unwrap(), text.finish())
    });
    assert!(ends.filter(|(text, finish)| !text.contains('<') && *finish == Some(Finish::EndOfText)).count() > 15);
    assert!(likes(&[]).generate("x").max_tokens(30).text().unwrap().contains("<|endoftext|>"));
}

/// Ids and log-probabilities, each token's window computed anew by the reference.
fn check_logprobs(settings: &[&str], tokens: usize) {
    let model = untrained(settings);
    let gpt = kinglet::model::Gpt::new(model.config()).unwrap();
    let weights = weights(&gpt.layout).into_iter().map(f64::from).collect();
    let mut acts = gpt.acts(&Reference, 1, false);
    let mut ids = model.tokenizer().encode("a cab ").unwrap();
    // None of the knobs changes what is told.
    let sampled = model.generate("a cab ").max_tokens(tokens).temperature(0.7).seed(4).top(gpt.vocab_size);
    let mut told = 0;
    for piece in pieces(sampled) {
        for token in &piece.tokens {
            let its = token.top.iter().find(|(id, _)| *id == token.id).unwrap().1;
            let sum: f64 = token.top.iter().map(|(_, logprob)| logprob.exp()).sum();
            assert!((its - token.logprob).abs() < 1e-5 && (sum - 1.0).abs() < 1e-5, "{token:?}");
            assert!(token.top.is_sorted_by(|a, b| a.1 >= b.1), "{token:?}");
        }
        let mut want = 0.0;
        for id in piece.ids() {
            let window = &ids[ids.len().saturating_sub(gpt.block_size)..];
            let pass = Pass { p: &weights, rows: Rows::new(1, window.len()), dropout: None };
            gpt.forward(&Reference, pass, &mut acts, window);
            let logits = &acts.logits()[(window.len() - 1) * gpt.vocab_size..][..gpt.vocab_size];
            let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|z| (z - top).exp()).sum();
            want += logits[id as usize] - top - sum.ln();
            ids.push(id);
            told += 1;
        }
        assert!((piece.logprob() - want).abs() < 1e-5, "{settings:?}, token {told}: {}, want {want}", piece.logprob());
    }
    assert_eq!(told, tokens);
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    // Within the block and, where the window is computed anew, beyond it.
    check_logprobs(&[], 50);
    check_logprobs(&["activation=swiglu", "norm=rmsnorm", "logit_softcap=3"], 30);
    check_logprobs(&["position=rotary", "n_kv_head=1", "qk_norm=true"], 10);
    check_logprobs(&["position=rotary", "qkv_conv=3"], 10);
    check_logprobs(&["qkv_conv=4"], 50);
    check_logprobs(&["position=rotary", "res_conv=3", "qkv_conv=2"], 10);
    check_logprobs(&["position=rotary", "head_size=12", "norm=rmsnorm", "norm_eps=0.1", "qk_norm=true"], 10);
    check_logprobs(&["head_size=6", "n_kv_head=1"], 50);
    // One layer slides exactly.
    check_logprobs(&["position=rotary", "n_layer=1"], 50);
}

#[test]
fn a_text_ends_at_the_first_of_several_stop_strings() {
    let model = of_logits(&[(97, 0.0), (98, 0.0), (99, -1.0)], &["vocab_size=257", "block_size=8"]);
    let begin = |i| model.generate("x").max_tokens(60).index(i);
    let mut ends = [0; 3];
    for i in 0..40 {
        let mut whole = begin(i);
        let text = whole.text().unwrap();
        assert_eq!((text.len(), whole.finish()), (60, Some(Finish::Length)));
        let stops = ["abba", "caa", "bbbb"];
        // The one that is complete first, and of those that end together the one that begins first.
        let first = stops.iter().filter_map(|stop| text.find(stop).map(|at| (at + stop.len(), at))).min();
        let mut stopped = stops.iter().fold(begin(i), |text, &stop| text.stop(stop)).stop("");
        let pieces: Vec<Piece> = stopped.by_ref().map(Result::unwrap).collect();
        let got: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        let drawn: usize = pieces.iter().map(|piece| piece.tokens.len()).sum();
        match first {
            Some((end, at)) => {
                assert_eq!((got.as_str(), stopped.finish()), (&text[..at], Some(Finish::Stop)));
                assert_eq!(drawn, end, "nothing is drawn after the stop string");
                ends[stops.iter().position(|stop| text[at..end] == **stop).unwrap()] += 1;
            }
            None => assert_eq!((got.as_str(), stopped.finish()), (text.as_str(), Some(Finish::Length))),
        }
        assert!(stopped.next().is_none(), "it stays at its end");
    }
    assert!(ends.iter().all(|&n| n > 0), "{ends:?}");
}

#[test]
fn a_text_ends_where_the_model_says_so_if_that_is_wanted() {
    let model = of_logits(&[(97, 0.0), (98, 0.0), (256, -2.0)], &["vocab_size=257", "block_size=8"]);
    let (mut ended, mut long) = (0, 0);
    for i in 0..40 {
        let mut text = model.generate("x").max_tokens(12).index(i).until_end_of_text();
        assert_eq!(text.finish(), None, "it has not begun");
        let pieces: Vec<Piece> = text.by_ref().map(Result::unwrap).collect();
        let ids: Vec<u32> = pieces.iter().flat_map(Piece::ids).collect();
        let written: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        let letters = ids.iter().take_while(|&&id| id != 256).count();
        assert_eq!(written.len(), letters);
        match text.finish() {
            Some(Finish::EndOfText) => {
                assert_eq!(ids.len(), letters + 1, "the end is drawn, and no text");
                ended += 1;
            }
            Some(Finish::Length) => {
                assert_eq!((ids.len(), letters), (12, 12));
                long += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(ended > 5 && long > 5, "{ended} {long}");
    // Not asked for, it is a token like others.
    let mut on = model.generate("x").max_tokens(200);
    assert_eq!(pieces_of(&mut on).len(), 200);
    assert_eq!(on.finish(), Some(Finish::Length));
    let mut none = model.generate("x").max_tokens(0);
    assert_eq!((none.text().unwrap().as_str(), none.finish()), ("", Some(Finish::Length)));
}

fn pieces_of(text: &mut Generation) -> Vec<u32> {
    text.flat_map(|piece| piece.unwrap().ids().collect::<Vec<_>>()).collect()
}

#[test]
fn weights_that_are_not_numbers_write_nothing() {
    let model = of_logits(&[(97, f32::NAN)], &["vocab_size=257", "block_size=8"]);
    let mut text = model.generate("x");
    assert!(text.next().unwrap().unwrap_err().to_string().contains("the model's logits are not finite"));
    assert!(text.next().is_none() && text.finish().is_none());
}

#[test]
fn logits_are_what_scores_and_texts_come_from() {
    for settings in [
        &[][..],
        &["tie_weights=false", "logit_softcap=5.0", "position=\"rotary\""],
        &["norm=\"rmsnorm\"", "activation=\"swiglu\""],
    ] {
        let model = untrained(settings);
        let ids: Vec<u32> = vec![3, 1, 4, 1, 5, 9, 2, 6];
        let logits = model.logits(&ids).unwrap();
        assert_eq!(logits.len(), ids.len() * 12);
        let scores: Vec<_> = model.score(ids.clone()).flat_map(Result::unwrap).collect();
        for ((row, next), score) in logits.chunks_exact(12).zip(&ids[1..]).zip(&scores[1..]) {
            let sum: f64 = row.iter().map(|&z| f64::from(z).exp()).sum();
            let logprob = f64::from(row[*next as usize]) - sum.ln();
            assert!((logprob - score.logprob.unwrap()).abs() < 1e-5, "{settings:?}");
        }
        let last = &logits[logits.len() - 12..];
        let best = (0..12).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap() as u32;
        let greedy = pieces(model.generate_after(&ids).max_tokens(1).temperature(0.0));
        assert_eq!(greedy[0].ids().collect::<Vec<_>>(), [best]);
    }
    let model = untrained(&[]);
    for (ids, what) in [(vec![], "no token"), (vec![12], "no token with id 12"), (vec![0; 17], "at most 16 at once")] {
        assert!(model.logits(&ids).unwrap_err().to_string().contains(what), "{ids:?}");
    }
}

#[test]
fn weights_are_the_memory_that_is_computed_with() {
    let model = untrained(&[]);
    let found = model.weights().unwrap();
    assert_eq!(found, weights(model.layout()));
    assert!(std::ptr::eq(found, model.clone().weights().unwrap()));
    assert_eq!(model.numbers(), found);
    // In few bits they are not there, but what they stand for is.
    let few = untrained(&["quantization=\"w8\"", "n_embd=32"]);
    assert!(few.weights().is_none());
    let (all, head) = (few.numbers(), few.layout().lm_head.w.range());
    let full = weights(few.layout());
    assert_eq!(all[head.clone()], full[head]);
    let apart = all.iter().zip(&full).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart > 0.0 && apart < 0.02, "{apart}");
}

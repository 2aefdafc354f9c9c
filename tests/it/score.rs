//! Scores of a text's tokens: against a sum that knows nothing of windows, against what evaluation and generation say, and
//! as other programs meet them.

use crate::{
    common::cli::Cli,
    measure::{END, Fixture, bytes},
};
use kinglet::{
    Model,
    backend::{Cpu, Forward, Reference},
    data::{self, TokenizerChoice},
    inference::{Readout, Scoring, Tally, TokenScore, Windows},
    text::{source::Corpus, tokenizer::Tokenizer},
    threads::Pool,
};
use serde_json::Value;
use std::fs;

const TEXT: &str = "in winter the kinglet weighs no more than a coin; it sings above what most people hear. ";

fn model<B: Forward>(be: B, fixture: &Fixture) -> Model<B> {
    Model::from_weights(be, fixture.config.clone(), Tokenizer::byte(), &fixture.weights).unwrap()
}

fn cpu(fixture: &Fixture) -> Model {
    model(Cpu::new().unwrap(), fixture)
}

fn all<B: Forward>(scoring: Scoring<B>) -> Vec<TokenScore> {
    scoring.flat_map(Result::unwrap).collect()
}

fn tally(model: &Model, scores: &[TokenScore]) -> Tally {
    let ids = scores.iter().map(|score| score.id).collect();
    let mut readout = Readout::new(model, &model.score(ids), None);
    readout.add(scores);
    readout.tally()
}

#[test]
fn it_can_be_sent() {
    fn sent<T: Send + 'static>() {}
    sent::<Scoring>();
    sent::<Scoring<Reference>>();
}

/// The loss to the last bit of each token: the sums differ by the order at most.
#[test]
fn the_mean_is_the_loss_that_evaluation_measures() {
    let documents = ["a short one", &TEXT.repeat(3), "b", "", "c", &TEXT[..40]];
    let lines: String = documents.iter().map(|text| format!("{{\"text\": \"{text}\"}}\n")).collect();
    for settings in [
        &[][..],
        &["position=rotary"],
        &["within_documents=true"],
        &["within_documents=true", "position=rotary"],
        &["within_documents=true", "bos_token=A"],
        &["bos_token=A", "logit_softcap=5"],
        &["block_size=1"],
    ] {
        let mut fixture = Fixture::new(settings);
        fixture.config.train_split = 0.0;
        let corpus = Corpus::from_bytes("d.jsonl", lines.as_bytes());
        let (tokenizer, data) = data::read_corpus(&corpus, &fixture.config, TokenizerChoice::FromConfig).unwrap();
        let exact = fixture.exact(&data.val);
        let given = tokenizer.given();
        let ids: Vec<u32> = documents
            .iter()
            .filter(|text| !text.is_empty())
            .flat_map(|text| given.into_iter().chain(bytes(text)).chain([END]))
            .collect();
        fixture.config.train_split = 0.9;
        let model = cpu(&fixture);
        let scores = all(model.score(ids.clone()).windows(Windows::Eval));
        assert!(scores.iter().map(|score| score.id).eq(ids.iter().copied()), "{settings:?}");
        let all = tally(&model, &scores);
        assert_eq!((all.tokens, all.predicted_tokens), (ids.len() as u64, exact.tokens), "{settings:?}");
        let loss = all.loss.unwrap();
        assert!((loss - exact.loss).abs() < 1e-13, "{settings:?}: {loss} {}", exact.loss);
        let unpredicted = scores.iter().skip(1).filter(|score| score.logprob.is_none()).map(|score| score.id);
        assert!(unpredicted.eq(ids.iter().copied().skip(1).filter(|id| Some(*id) == given)), "{settings:?}");
    }
}

/// The same whatever else a pass has, and however many threads there are.
#[test]
fn each_token_is_scored_where_most_is_before_it() {
    for settings in [&[][..], &["position=rotary"], &["within_documents=true"], &["block_size=7"]] {
        let fixture = Fixture::new(settings);
        let block_size = fixture.config.block_size;
        let documents = ["short", "b", &TEXT.repeat(4), "c"];
        let ids: Vec<u32> = documents.iter().flat_map(|text| bytes(text).chain([END])).collect();
        let scores = all(cpu(&fixture).score(ids.clone()).top(3));
        let slow = all(model(Reference, &fixture).score(ids.clone()).top(3));
        assert_eq!(scores.len(), ids.len());
        assert_eq!(scores[0], slow[0]);
        assert!(scores[0].logprob.is_none() && scores[0].rank.is_none() && scores[0].top.is_empty());
        let apart = fixture.config.within_documents;
        for at in 1..ids.len() {
            let document = if apart { ids[..at].iter().rposition(|&id| id == END).unwrap_or(0) } else { 0 };
            // The first window of the document that has the token as a target.
            let stride = block_size.div_ceil(2);
            let windows = (at - document).saturating_sub(block_size).div_ceil(stride);
            let z = fixture.logits(&ids[document + windows * stride..at]);
            let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = top + z.iter().map(|z| (z - top).exp()).sum::<f64>().ln();
            let (target, logprobs) = (ids[at] as usize, z.iter().map(|z| z - lse));
            let entropy: f64 = logprobs.clone().map(|logprob| -logprob * logprob.exp()).sum();
            let logprob = z[target] - lse;
            for (score, near) in [(&scores[at], 2e-5), (&slow[at], 1e-6)] {
                assert!((score.logprob.unwrap() - logprob).abs() < near, "{settings:?} {at}: {score:?} {logprob}");
                assert!((score.entropy.unwrap() - entropy).abs() < near, "{settings:?} {at}: {score:?} {entropy}");
                let within = |slack: f64| z.iter().filter(|other| **other > z[target] + slack).count() + 1;
                assert!((within(1e-5)..=within(-1e-5)).contains(&score.rank.unwrap()), "{at}: {score:?}");
                assert!(score.top.is_sorted_by(|a, b| a.1 >= b.1 - 1e-5) && score.top.len() == 3);
                for &(id, logprob) in &score.top {
                    assert!((logprob - (z[id as usize] - lse)).abs() < near, "{at}: {score:?}");
                    assert_eq!(Some(logprob) == score.logprob, id == ids[at], "a token has one figure: {score:?}");
                }
            }
        }
        // What comes after a token changes nothing, nor do threads.
        for n in [1, 2, 25, 60, 61, ids.len() - 1] {
            assert_eq!(all(cpu(&fixture).score(ids[..n].to_vec()).top(3)), scores[..n], "{settings:?} {n}");
        }
        let threads = Pool::new(3).unwrap().run(|| all(cpu(&fixture).score(ids.clone()).top(3)));
        assert_eq!(threads, scores);
    }
}

#[test]
fn a_text_is_scored_as_it_was_written() {
    for settings in [&[][..], &["position=rotary"], &["n_kv_head=1", "position=rotary", "norm=rmsnorm"]] {
        let fixture = Fixture::new(settings);
        let model = cpu(&fixture);
        let prompt: Vec<u32> = bytes("kinglet").collect();
        let mut text = model.generate_after(&prompt).max_tokens(fixture.config.block_size - prompt.len()).seed(3);
        let (mut ids, mut nats, mut ends) = (prompt.clone(), Vec::new(), Vec::new());
        for piece in &mut text {
            let piece = piece.unwrap();
            ids.extend(piece.ids());
            nats.push(piece.logprob());
            ends.push(ids.len());
        }
        let scores = all(model.score(ids.clone()));
        let mut from = prompt.len();
        for (written, end) in nats.into_iter().zip(ends) {
            let scored: f64 = scores[from..end].iter().map(|score| score.logprob.unwrap()).sum();
            assert!((written - scored).abs() < 1e-5, "{settings:?}: {written} {scored}");
            from = end;
        }
        assert!(from > prompt.len() + 8);
    }
}

#[test]
fn a_piece_is_bounded_and_has_several_windows() {
    let fixture = Fixture::new(&[]);
    let ids: Vec<u32> = bytes(&TEXT.repeat(20)).collect();
    let pieces: Vec<_> = cpu(&fixture).score(ids.clone()).map(|piece| piece.unwrap().len()).collect();
    assert_eq!(pieces.iter().sum::<usize>(), ids.len());
    assert!(pieces.iter().all(|&n| n <= 257) && pieces[1] > 2 * fixture.config.block_size, "{pieces:?}");
}

#[test]
fn what_cannot_be_scored_says_why() {
    let model = cpu(&Fixture::new(&[]));
    let said = |ids: &[u32]| {
        let mut scoring = model.score(ids.to_vec());
        let said = scoring.next().unwrap().unwrap_err().to_string();
        assert!(scoring.next().is_none(), "it is over");
        said
    };
    assert_eq!(said(&[]), "there is nothing to score: the text has no token");
    assert_eq!(said(&[1, 257]), "the model has no token with id 257; its vocabulary has 257 tokens");
    assert_eq!(model.ids_of("").unwrap().0, [0; 0]);
    let one = all(model.score(vec![5]).windows(Windows::Eval));
    assert_eq!((one.len(), one[0].id, tally(&model, &one).loss), (1, 5, None));
    let mut fixture = Fixture::new(&[]);
    fixture.weights.fill(f32::NAN);
    let failed = cpu(&fixture).score(vec![1, 2]).next().unwrap().unwrap_err().to_string();
    assert!(failed.contains("not finite"), "{failed}");
}

#[test]
fn the_command_says_what_evaluation_says() {
    let cli = Cli::trained();
    // Of one text there is no end of text, which a folder of several has.
    let text = "Dear Anna,\nthe kinglet is back.\n".repeat(30);
    fs::write(cli.path("text.txt"), &text).unwrap();
    let lines = |args: &[&str]| -> Vec<Value> {
        let printed = cli.ok(&[args, &["--json"]].concat());
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let eval = lines(&["eval", "run", "text.txt"]).remove(0);
    let mut scores = lines(&["score", "run", "text.txt", "--windows", "eval", "--top", "2"]);
    let all = scores.pop().unwrap();
    for key in ["loss", "bits_per_char", "bits_per_byte", "perplexity"] {
        let (a, b) = (eval[key].as_f64().unwrap(), all[key].as_f64().unwrap());
        assert!((a - b).abs() < 1e-12, "{key}: {a} {b}");
    }
    assert_eq!((&all["predicted_tokens"], &all["step"]), (&eval["predicted_tokens"], &eval["step"]));
    let spelt: String = scores.iter().map(|token| token["text"].as_str().unwrap()).collect();
    assert_eq!(spelt, text);
    for (i, token) in scores.iter().enumerate() {
        assert_eq!((token["index"].as_u64(), token["offset"].as_u64()), (Some(i as u64), Some(i as u64)), "{token}");
        assert_eq!(token["top"].as_array().unwrap().len(), if i == 0 { 0 } else { 2 }, "{token}");
    }
    // More is known before each token.
    let half = lines(&["score", "run", "text.txt"]).pop().unwrap();
    assert_eq!(half["predicted_tokens"], all["predicted_tokens"]);
    assert_ne!(half["loss"], all["loss"]);
    assert_eq!(lines(&["score", "run", "text.txt", "--threads", "1"]), lines(&["score", "run", "text.txt"]));
    let shown = cli.ok(&["score", "run", "text.txt"]);
    assert!(!shown.contains('\x1b') && shown.contains("is back.↵\n"), "{shown}");
    for part in ["\nprobability: 1 = below 50 %, ", "\nbits per char", "\nperplexity", "expected instead\n"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let one = cli.ok(&["score", "run", "--text", "T", "-q"]);
    assert!(one.contains("there is nothing to predict"), "{one}");
    cli.fails(&["score", "run"], 2, "there is no text to score");
    cli.fails(&["score", "run", "--text", ""], 1, "there is nothing to score");
    cli.fails(&["score", "run", "text.txt", "--text", "a"], 2, "cannot be used with");
}

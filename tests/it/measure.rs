//! What is measured does not depend on how sequences were packed, windowed or cut: each loss against a sum over tokens
//! that knows nothing of batches.

use crate::common::cli::{Cli, SMALL};
use kinglet::{
    backend::{Cpu, Forward, IGNORE, Pass, Reference, Rows},
    config::Config,
    data::{self, Split, TokenizerChoice},
    model::Gpt,
    rng::{Purpose, Rng},
    run::RunDir,
    shards::Shards,
    text::source::Corpus,
    train::eval::{Evaluator, Exact},
};
use std::{fs, ops::ControlFlow};

pub(crate) const END: u32 = 256;

/// A small model with random weights over bytes.
pub(crate) struct Fixture {
    pub(crate) config: Config,
    model: Gpt,
    pub(crate) weights: Vec<f32>,
}

impl Fixture {
    pub(crate) fn new(settings: &[&str]) -> Fixture {
        let small = ["tokenizer=byte", "vocab_size=257", "block_size=24", "n_layer=2", "n_head=2", "n_embd=16"];
        let config = Config::default().with(&[&small[..], settings].concat()).unwrap();
        let model = Gpt::new(&config).unwrap();
        let mut rng = Rng::new(5, Purpose::Init, 0, 0);
        let weights = (0..model.layout.len()).map(|_| 0.3 * rng.normal() as f32).collect();
        Fixture { config, model, weights }
    }

    /// What `kinglet eval` measures of a split.
    pub(crate) fn exact(&self, split: &Split) -> Exact {
        let be = Cpu::new().unwrap();
        let mut p = be.zeros(self.weights.len());
        be.upload(&mut p, 0, &self.weights);
        let mut shards = Shards::new(&be, &self.model, 3, 2, false);
        let mut evaluator = Evaluator { be: &be, model: &self.model, shards: &mut shards, p: &p };
        evaluator.exact(split, |_, _| ControlFlow::Continue(())).unwrap().unwrap()
    }

    /// The logits after each token of a text that the model sees from its beginning, in f64.
    fn rows(&self, ids: &[u32]) -> Vec<f64> {
        let p = self.weights.iter().map(|&x| f64::from(x)).collect();
        let mut acts = self.model.acts(&Reference, 1, false);
        let pass = Pass { p: &p, rows: Rows::new(1, ids.len()), dropout: None };
        self.model.forward(&Reference, pass, &mut acts, ids);
        acts.logits()[..ids.len() * self.model.vocab_size].to_vec()
    }

    /// The logits after a text, in f64.
    pub(crate) fn logits(&self, ids: &[u32]) -> Vec<f64> {
        self.rows(ids).split_off((ids.len() - 1) * self.model.vocab_size)
    }

    /// The sum of the losses of tokens that the model sees alone from their beginning, in f64, and their number.
    fn sum(&self, tokens: &[u32], learned: impl Fn(usize) -> bool) -> (f64, u64) {
        let logits = self.rows(&tokens[..tokens.len() - 1]);
        let rows = logits.chunks_exact(self.model.vocab_size).zip(&tokens[1..]).enumerate();
        let counted = rows.filter(|(i, _)| learned(i + 1)).map(|(_, (z, &target))| {
            let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            top + z.iter().map(|z| (z - top).exp()).sum::<f64>().ln() - z[target as usize]
        });
        counted.fold((0.0, 0), |(sum, n), loss| (sum + loss, n + 1))
    }

    fn check(&self, split: &Split, parts: impl Iterator<Item = (f64, u64)>) {
        let (sum, n) = parts.fold((0.0, 0), |(sum, n), part| (sum + part.0, n + part.1));
        let exact = self.exact(split);
        assert_eq!(exact.tokens, n);
        let want = sum / n as f64;
        assert!((exact.loss - want).abs() < 1e-6 * want, "{}, want {want}", exact.loss);
    }
}

pub(crate) fn bytes(text: &str) -> impl Iterator<Item = u32> {
    text.bytes().map(u32::from)
}

#[test]
fn packed_conversations_are_measured_as_if_each_were_alone() {
    let pairs: Vec<_> = (0..60).map(|i| (format!("{i}+{}", i % 7), format!("{}", i + i % 7))).collect();
    let line = |(a, b): &(String, String)| format!("{{\"prompt\": \"{a}\", \"response\": \"{b}\"}}\n");
    let lines: String = pairs.iter().map(line).collect();
    for settings in [&["packing=true"][..], &["packing=true", "position=rotary", "qk_norm=true"], &["packing=false"]] {
        let fixture = Fixture::new(settings);
        let corpus = Corpus::from_bytes("qa.jsonl", lines.as_bytes());
        let (_, data) = data::read_corpus(&corpus, &fixture.config, TokenizerChoice::FromConfig).unwrap();
        let (conversations, rows) = data.train.conversations().unwrap();
        assert_eq!((conversations, rows < 27), (54, fixture.config.packing));
        let alone = |(a, b): &(String, String)| {
            let tokens: Vec<u32> = bytes(a).chain(bytes("\n")).chain(bytes(b)).chain([END]).collect();
            fixture.sum(&tokens, |i| i > a.len())
        };
        fixture.check(&data.train, pairs[..54].iter().map(alone));
        fixture.check(&data.val, pairs[54..].iter().map(alone));
    }
}

#[test]
fn windows_within_documents_begin_at_documents_and_take_every_token_once() {
    // Documents shorter and longer than a window.
    let documents: Vec<String> = (0..40).map(|i| format!("{i} {}", "lorem ipsum ".repeat(i % 6))).collect();
    let lines: String = documents.iter().map(|text| format!("{{\"text\": \"{text}\"}}\n")).collect();
    let stream: Vec<u32> = documents.iter().flat_map(|text| bytes(text).chain([END])).collect();
    for settings in [&["within_documents=true"][..], &["within_documents=true", "position=rotary"]] {
        let mut fixture = Fixture::new(settings);
        fixture.config.train_split = 0.0;
        let corpus = Corpus::from_bytes("d.jsonl", lines.as_bytes());
        let (_, data) = data::read_corpus(&corpus, &fixture.config, TokenizerChoice::FromConfig).unwrap();
        // Each document with the end of the one before, in parts of block_size where it is longer.
        let mut starts: Vec<usize> = (0..stream.len() - 1).filter(|&at| at == 0 || stream[at] == END).collect();
        starts.push(stream.len() - 1);
        let parts = starts.windows(2).flat_map(|ends| {
            let parts = (ends[0]..ends[1]).step_by(24).map(|from| from..(from + 24).min(ends[1]) + 1);
            parts.collect::<Vec<_>>()
        });
        fixture.check(&data.val, parts.map(|range| fixture.sum(&stream[range], |_| true)));
        assert!(data.val.windows() < stream.len() / 24 * 2, "short documents share windows");
    }
}

#[test]
fn plain_windows_take_every_token_but_the_first_once() {
    let mut fixture = Fixture::new(&[]);
    fixture.config.train_split = 0.0;
    let text = "in winter the kinglet weighs no more than a coin. ".repeat(7);
    let corpus = Corpus::from_text(&text);
    let (_, data) = data::read_corpus(&corpus, &fixture.config, TokenizerChoice::FromConfig).unwrap();
    let stream: Vec<u32> = bytes(&text).collect();
    let windows = (0..stream.len() - 1).step_by(24).map(|at| &stream[at..(at + 25).min(stream.len())]);
    fixture.check(&data.val, windows.map(|window| fixture.sum(window, |_| true)));
    assert_eq!(data.val.tokens(), stream.len(), "no end of text where nothing taught it");
}

#[test]
fn a_single_window_has_no_standard_error() {
    let fixture = Fixture::new(&[]);
    let split = Split::new(bytes("one window").collect(), 24);
    let exact = fixture.exact(&split);
    assert_eq!((exact.tokens, exact.stderr), (9, None));
    assert!(fixture.exact(&Split::new(bytes(&"two windows ".repeat(3)).collect(), 24)).stderr.is_some());
}

/// Training on packed conversations has the gradient of the conversations alone: their losses, and nothing between.
#[test]
fn packing_changes_no_loss_of_training() {
    let lines: String = (0..40).map(|i| format!("{{\"prompt\": \"{i}?\", \"response\": \"{}\"}}\n", 2 * i)).collect();
    let [alone, packed] = ["packing=false", "packing=true"].map(|packing| {
        let fixture = Fixture::new(&[packing, "replacement=false"]);
        let corpus = Corpus::from_bytes("qa.jsonl", lines.as_bytes());
        let (_, data) = data::read_corpus(&corpus, &fixture.config, TokenizerChoice::FromConfig).unwrap();
        let mut batch = kinglet::batch::Batch::default();
        (0..data.train.windows()).for_each(|i| data.train.window(i, &mut batch).unwrap());
        let be = Cpu::new().unwrap();
        let mut p = be.zeros(fixture.weights.len());
        be.upload(&mut p, 0, &fixture.weights);
        let mut shards = Shards::new(&be, &fixture.model, batch.len(), 2, true);
        let (loss, _) = shards.gradient(&be, &fixture.model, &p, &batch, 1, 0);
        let mut gradient = vec![0.0; fixture.weights.len()];
        be.download(shards.last_gradient(), 0, &mut gradient);
        assert!((0..batch.len()).all(|i| batch.sequence(i).1.contains(&IGNORE)));
        (batch.len(), batch.counted(), loss, gradient)
    });
    assert!(packed.0 < alone.0 && packed.1 == alone.1);
    assert!((packed.2 - alone.2).abs() < 1e-6 * alone.2, "{} {}", packed.2, alone.2);
    let norm = alone.3.iter().map(|g| g * g).sum::<f32>().sqrt();
    let apart = packed.3.iter().zip(&alone.3).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    assert!(apart < 1e-5 * norm, "{apart} of {norm}");
}

#[test]
fn a_text_that_changed_says_so_and_one_that_moved_is_the_same() {
    let cli = Cli::new();
    let lines: Vec<String> = (0..200).map(|i| format!("line {i} of the text, {}\n", i * i % 97)).collect();
    fs::write(cli.path("text.txt"), lines.concat()).unwrap();
    cli.ok(&[&["train", "text.txt", "--out", "run"], SMALL].concat());
    let eval = |args: &[&str]| {
        let output = cli.command(&[&["eval", "run"], args].concat()).output().unwrap();
        assert!(output.status.success());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    };
    let (own, said) = eval(&[]);
    assert!(own.contains("val split") && said.is_empty(), "{said}");
    // Moved: it is known by its hash.
    fs::rename(cli.path("text.txt"), cli.path("moved.txt")).unwrap();
    let (moved, said) = eval(&["moved.txt"]);
    assert!(moved == own && said.contains("this is the text that the run was trained on"), "{said}");
    let (all, said) = eval(&["moved.txt", "--split", "all"]);
    assert!(all.contains("all split") && said.is_empty(), "{said}");
    // Its last tenth in front: what is validation now was trained on.
    fs::write(cli.path("text.txt"), lines[180..].concat() + &lines[..180].concat()).unwrap();
    let (_, said) = eval(&[]);
    assert!(said.contains("is not the text that this run was trained on") && said.matches("SHA-256").count() == 1);
    let (other, said) = eval(&["text.txt"]);
    assert!(other.contains("all split") && said.is_empty(), "{said}");
}

#[test]
fn the_present_of_a_template_is_when_the_run_began() {
    let cli = Cli::new();
    let line = |i: usize| format!("{{\"prompt\": \"{i}\", \"response\": \"{}\"}}\n", i + 1);
    fs::write(cli.path("chat.jsonl"), (0..60).map(line).collect::<String>()).unwrap();
    let template = "{% for m in messages %}{{ strftime_now('%s') if m.role == 'user' else '' }} {{ m.content }}\
        {% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";
    let template = template.replace("%s", "%H:%M:%S");
    let set = format!("chat_template={template}");
    cli.ok(&[&["train", "chat.jsonl", "--out", "run", "--set", &set, "--set", "block_size=64"], SMALL].concat());
    let config = RunDir::open(&cli.path("run")).unwrap().config;
    assert!(config.template_time > 0 && config.data_kind == "exchanges");
    let exact = |()| cli.ok(&["eval", "run", "--json"]);
    let first = exact(());
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(exact(()), first, "the same text a second later");
    cli.ok(&["train", "--resume", "--out", "run", "--set", "max_iters=25"]);
}

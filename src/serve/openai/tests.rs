//! The handlers without HTTP.

mod chats;
mod completions;
mod described;
mod details;
mod shown;
mod tokenizers;

use super::{chat, completion, writing::Order};
use crate::{
    engine::{Engine, Options},
    inference::Model,
    serve::{
        answer::{Answer, Failure, Work},
        fields::Fields,
        models::Served,
    },
    text::tokenizer::Tokenizer,
};
use kinglet_core::{
    backend::Cpu,
    config::Config,
    params::Layout,
    rng::{Purpose, Rng},
};
use serde_json::{Map, Value, json};
use std::{
    future::poll_fn,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    task::{Context, Wake, Waker},
    thread::{Thread, current, park},
};

/// A model that is served.
struct Bench {
    served: Arc<Served>,
    engine: Engine,
}

/// Characters of a model whose text is easy to look at.
const ALPHABET: &str = "\n .abcdefghij";

/// Weights that are far from those of a model that knows nothing.
fn model(tokenizer: Tokenizer, settings: &[&str]) -> Model {
    let vocab = format!("vocab_size={}", tokenizer.vocab_size());
    let small = [&*vocab, "block_size=32", "n_layer=1", "n_head=2", "n_embd=8"];
    let config = Config::default().with(&[&small[..], settings].concat()).unwrap();
    let mut rng = Rng::new(5, Purpose::Init, 0, 0);
    let weights: Vec<f32> = (0..Layout::new(&config).unwrap().len()).map(|_| rng.normal() as f32 * 0.5).collect();
    Model::from_weights(Cpu::new().unwrap(), config, tokenizer, &weights).unwrap()
}

/// A model that draws each byte by this logit alone, and all others never.
fn of_logits(logits: &[(u32, f32)], settings: &[&str]) -> Model {
    let small = ["vocab_size=257", "block_size=32", "n_layer=1", "n_head=2", "n_embd=8", "bias=[\"head\"]"];
    let config = Config::default().with(&[&small[..], settings].concat()).unwrap();
    let layout = Layout::new(&config).unwrap();
    let mut weights = vec![0.0; layout.len()];
    let bias = layout.lm_head.b.unwrap().range();
    weights[bias.clone()].fill(-1e4);
    logits.iter().for_each(|&(id, logit)| weights[bias.start + id as usize] = logit);
    Model::from_weights(Cpu::new().unwrap(), config, Tokenizer::byte(), &weights).unwrap()
}

fn letters() -> Bench {
    let chars = crate::text::tokenizer::CharTokenizer::train(ALPHABET);
    Bench::of(model(chars.into(), &["data_kind=\"text\""]))
}

fn chats() -> Bench {
    Bench::of(model(Tokenizer::byte(), &["data_kind=\"conversations\"", "block_size=64"]))
}

impl Bench {
    fn of(model: Model) -> Bench {
        let (id, run, fingerprint) = ("mine".to_owned(), PathBuf::new(), "fp_0123456789abcdef".to_owned());
        let served = Arc::new(Served { id, model, created: 1, run, fingerprint });
        Bench { served, engine: Engine::start(Options::default()).unwrap() }
    }

    fn model(&self) -> &Model {
        &self.served.model
    }

    fn order(&self, request: Value) -> Result<Order, Failure> {
        let map = map(request);
        let order = if map.contains_key("messages") { chat::order } else { completion::order };
        order(self.served.clone(), &Fields::of(&map))
    }

    /// The answer to a request that is not streamed.
    fn ask(&self, request: Value) -> Result<Value, Failure> {
        whole(self.order(request)?.start(&self.engine)?)
    }

    fn asked(&self, request: Value) -> Value {
        self.ask(request).unwrap()
    }

    /// The events of a request, streamed.
    fn events(&self, mut request: Value) -> Vec<Value> {
        request["stream"] = json!(true);
        let (events, failure) = events(self.order(request).unwrap().start(&self.engine).unwrap());
        assert_eq!(failure, None);
        events
    }

    /// The refusal of a request: its status, its code and the parameter.
    fn refusal(&self, request: Value) -> (u16, &'static str, String) {
        let failure = self.ask(request.clone()).expect_err(&request.to_string());
        assert!(!failure.message.is_empty());
        (failure.status, failure.code.unwrap(), failure.param.unwrap_or_default())
    }
}

fn map(request: Value) -> Map<String, Value> {
    let Value::Object(map) = request else { unreachable!("a request is an object") };
    map
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for work as a server does: woken, never looking by itself.
fn wait(work: &mut dyn Work) {
    let waker = Waker::from(Arc::new(Unpark(current())));
    let mut ready = pin!(poll_fn(|cx| work.poll(cx)));
    while ready.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        park();
    }
}

fn whole(answer: Answer) -> Result<Value, Failure> {
    let Answer::Pending(mut work) = answer else { panic!("this is not to be sent whole") };
    wait(&mut *work);
    assert!(work.is_done(), "what is sent whole is not ready before");
    work.whole()
}

/// All events, and the failure at their end.
fn events(answer: Answer) -> (Vec<Value>, Option<Failure>) {
    let Answer::Stream(mut work) = answer else { panic!("this is not to be sent as it comes") };
    let mut all = Vec::new();
    loop {
        wait(&mut *work);
        let done = work.is_done();
        match work.events() {
            Ok(events) => all.extend(events),
            Err(failure) => return (all, Some(failure)),
        }
        if done {
            return (all, None);
        }
    }
}

/// What the events of the text with this index say together: its text, its tokens, and why it ended.
fn joined(events: &[Value], index: usize) -> (String, Vec<Value>, Option<String>) {
    let (mut text, mut tokens, mut reason) = (String::new(), Vec::new(), None);
    for choice in events.iter().flat_map(|event| event["choices"].as_array().unwrap()) {
        if choice["index"] != index {
            continue;
        }
        assert_eq!(reason, None, "nothing comes behind the reason");
        let said = [&choice["text"], &choice["delta"]["content"]];
        said.into_iter().filter_map(Value::as_str).for_each(|part| text += part);
        let shown = [&choice["logprobs"]["tokens"], &choice["logprobs"]["content"]];
        tokens.extend(shown.into_iter().filter_map(Value::as_array).flatten().cloned());
        reason = choice["finish_reason"].as_str().map(str::to_owned);
    }
    (text, tokens, reason)
}

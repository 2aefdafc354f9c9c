//! What both kinds of text take: how tokens are drawn, where a text ends, and how it is sent.

use super::{random, unsupported};
use crate::serve::{answer::Failure, fields::Fields};
use kinglet_core::sample::Sampling;
use serde_json::Value;
use std::{ops::RangeInclusive, time::Duration};

/// The most texts of one prompt.
pub(super) const MOST_TEXTS: i64 = 16;
/// The most tokens of a text.
pub(super) const MOST_TOKENS: i64 = 65_536;
/// The most alternatives of a token.
pub(super) const MOST_LOGPROBS: i64 = 20;
/// The most stop strings.
const MOST_STOPS: usize = 4;
/// The most bytes of a stop string: what may be its beginning is looked at again with each token.
const LONGEST_STOP: usize = 1 << 10;
/// The longest time between two events of a stream that may be asked for, in milliseconds.
const LONGEST_INTERVAL: i64 = 60_000;

/// What both kinds of text take.
#[derive(Debug)]
pub(super) struct Knobs {
    pub(super) sampling: Sampling,
    /// How many texts of each prompt.
    pub(super) n: usize,
    pub(super) stops: Vec<String>,
    /// How many alternatives of each token are in the details; none if there are no details.
    pub(super) details: Option<usize>,
    /// If it is to be sent as it comes.
    pub(super) streaming: Option<Streaming>,
}

/// How a text is sent as it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Streaming {
    /// Whether the last event has the usage.
    pub(super) usage: bool,
    /// The time in which what comes is one event, if it was said; zero is an event for each piece.
    pub(super) interval: Option<Duration>,
}

impl Knobs {
    /// Reads them, for a model with a vocabulary of this size. Parameters that are not there are refused.
    ///
    /// # Errors
    /// If one is not what it must be; the failure names it.
    pub(super) fn of(fields: &Fields, vocab_size: usize) -> Result<Knobs, Failure> {
        unsupported::refuse(fields)?;
        let n = fields.count("n", 1..=MOST_TEXTS)?.unwrap_or(1) as usize;
        if let Some(best) = fields.count("best_of", 1..=MOST_TEXTS)? {
            match best as usize {
                best if best > n => return Err(unsupported::unsupported(&fields.name("best_of"))),
                best if best < n => return Err(fields.wrong("best_of", "must not be smaller than n")),
                _ => {}
            }
        }
        let sampling = sampling(fields, vocab_size)?;
        let details = fields.count("details", 0..=MOST_LOGPROBS)?.map(|n| n as usize);
        Ok(Knobs { sampling, n, stops: stops(fields)?, details, streaming: streaming(fields)? })
    }
}

fn sampling(fields: &Fields, vocab_size: usize) -> Result<Sampling, Failure> {
    let mut sampling = Sampling::default();
    let set = |knob: &mut f64, key: &str, range: RangeInclusive<f64>| -> Result<(), Failure> {
        *knob = fields.number(key, range)?.unwrap_or(*knob);
        Ok(())
    };
    set(&mut sampling.temperature, "temperature", 0.0..=1000.0)?;
    set(&mut sampling.top_p, "top_p", 0.0..=1.0)?;
    set(&mut sampling.min_p, "min_p", 0.0..=1.0)?;
    set(&mut sampling.repetition_penalty, "repetition_penalty", 0.001..=1000.0)?;
    set(&mut sampling.presence_penalty, "presence_penalty", -2.0..=2.0)?;
    set(&mut sampling.frequency_penalty, "frequency_penalty", -2.0..=2.0)?;
    // As in other servers, -1 is all.
    sampling.top_k = fields.count("top_k", -1..=i64::MAX)?.map_or(0, |k| k.max(0) as usize);
    sampling.logit_bias = logit_bias(fields, vocab_size)?;
    sampling.seed = seed(fields)?.unwrap_or_else(random::seed);
    Ok(sampling)
}

/// The seed. A negative one stands for the number with the same bits.
fn seed(fields: &Fields) -> Result<Option<u64>, Failure> {
    match fields.get("seed").and_then(Value::as_u64) {
        Some(seed) => Ok(Some(seed)),
        None => Ok(fields.count("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64)),
    }
}

/// What is added to the logits of some tokens, by their ids.
fn logit_bias(fields: &Fields, vocab_size: usize) -> Result<Vec<(u32, f32)>, Failure> {
    let Some(biases) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for (key, value) in biases.iter() {
        let id = key.parse().ok().filter(|&id: &u32| (id as usize) < vocab_size);
        let id = id.ok_or_else(|| {
            let what = format!("has the key {key:?}: keys are ids of tokens, 0 to {}", vocab_size - 1);
            fields.wrong("logit_bias", &what)
        })?;
        if value.is_null() {
            return Err(biases.wrong_type(key, "a number", value));
        }
        found.extend(biases.number(key, -100.0..=100.0)?.map(|bias| (id, bias as f32)));
    }
    // "1" and "01" are one token.
    found.sort_by_key(|(id, _)| *id);
    match found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(fields.wrong("logit_bias", &format!("has token {} twice", pair[0].0))),
        None => Ok(found),
    }
}

/// The texts before which a text ends; an empty one has no effect.
fn stops(fields: &Fields) -> Result<Vec<String>, Failure> {
    let Some(value) = fields.get("stop") else { return Ok(Vec::new()) };
    let wrong = |value: &Value| fields.wrong_type("stop", "a string or a list of strings", value);
    let list = match value {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    if list.len() > MOST_STOPS {
        return Err(fields.wrong("stop", &format!("has {} strings: at most {MOST_STOPS} are allowed", list.len())));
    }
    let text = |stop: &Value| {
        let text = stop.as_str().ok_or_else(|| wrong(stop))?;
        if text.len() > LONGEST_STOP {
            let what = format!("has a string of {} bytes: at most {LONGEST_STOP} are allowed", text.len());
            return Err(fields.wrong("stop", &what));
        }
        Ok(text.to_owned())
    };
    list.iter().map(text).collect()
}

fn streaming(fields: &Fields) -> Result<Option<Streaming>, Failure> {
    let interval = fields.count("stream_interval_ms", 0..=LONGEST_INTERVAL)?;
    let interval = interval.map(|ms| Duration::from_millis(ms as u64));
    let options = fields.object("stream_options")?;
    let streams = fields.flag("stream")?.unwrap_or(false);
    if !streams && options.is_some() {
        return Err(fields.wrong("stream_options", "is only allowed with \"stream\": true"));
    }
    let usage = options.map(|options| options.flag("include_usage")).transpose()?.flatten().unwrap_or(false);
    Ok(streams.then_some(Streaming { usage, interval }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn knobs(value: Value) -> Result<Knobs, Failure> {
        let Value::Object(map) = value else { unreachable!() };
        Knobs::of(&Fields::of(&map), 100)
    }

    #[test]
    fn each_knob_arrives() {
        let knobs_of = |value| knobs(value).unwrap();
        let all = knobs_of(json!({
            "temperature": 0.5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.5, "presence_penalty": -2, "top_k": 7,
            "frequency_penalty": 2, "logit_bias": {"5": -100, "3": 1.5}, "seed": 12, "n": 16, "best_of": 16,
            "stop": ["a", "b", "c", "d"], "stream": true, "stream_options": {"include_usage": true}, "stream_interval_ms": 0,
            "details": 20,
        }));
        let Sampling { temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, .. } =
            all.sampling;
        assert_eq!([temperature, top_p, min_p, repetition_penalty], [0.5, 0.9, 0.1, 1.5]);
        assert_eq!([presence_penalty, frequency_penalty], [-2.0, 2.0]);
        let Sampling { top_k, seed, logit_bias, .. } = all.sampling;
        assert_eq!((top_k, seed, logit_bias), (7, 12, vec![(3, 1.5), (5, -100.0)]));
        assert_eq!((all.n, all.stops.join(""), all.details), (16, "abcd".to_owned(), Some(20)));
        assert_eq!(all.streaming, Some(Streaming { usage: true, interval: Some(Duration::ZERO) }));

        let none =
            knobs_of(json!({"temperature": null, "stop": null, "n": null, "stream": null, "stream_options": null}));
        let mut plain = Sampling::default();
        plain.seed = none.sampling.seed;
        assert_eq!(none.sampling, plain);
        assert_eq!((none.n, none.stops.len(), none.details, none.streaming), (1, 0, None, None));
        let seeds: Vec<u64> = (0..20).map(|_| knobs_of(json!({})).sampling.seed).collect();
        assert!(seeds.windows(2).all(|pair| pair[0] != pair[1]), "a request without a seed has one of its own");

        let seed = |seed: Value| knobs_of(json!({"seed": seed})).sampling.seed;
        assert_eq!([seed(json!(u64::MAX)), seed(json!(-1)), seed(json!(7.0))], [u64::MAX, u64::MAX, 7]);
        assert_eq!(knobs_of(json!({"top_k": -1})).sampling.top_k, 0);
        assert_eq!(knobs_of(json!({"stop": "x"})).stops, ["x"]);
        let plain = knobs_of(json!({"stream": true})).streaming;
        assert_eq!(plain, Some(Streaming { usage: false, interval: None }));
    }

    #[test]
    fn a_knob_out_of_place_is_refused_by_name() {
        for (key, values, code) in [
            ("temperature", vec![json!(-0.1), json!(1001)], "invalid_value"),
            ("temperature", vec![json!("1"), json!(true), json!([1])], "invalid_type"),
            ("top_p", vec![json!(1.1), json!(-1)], "invalid_value"),
            ("min_p", vec![json!(2)], "invalid_value"),
            ("repetition_penalty", vec![json!(0), json!(-1)], "invalid_value"),
            ("presence_penalty", vec![json!(2.5)], "invalid_value"),
            ("frequency_penalty", vec![json!(-2.5)], "invalid_value"),
            ("top_k", vec![json!(-2)], "invalid_value"),
            ("top_k", vec![json!(0.5)], "invalid_type"),
            ("seed", vec![json!(1e30)], "invalid_value"),
            ("seed", vec![json!("1"), json!(0.5)], "invalid_type"),
            ("n", vec![json!(0), json!(17), json!(-1)], "invalid_value"),
            ("n", vec![json!("2")], "invalid_type"),
            ("best_of", vec![json!(2)], "unsupported_parameter"),
            ("best_of", vec![json!(0)], "invalid_value"),
            ("stop", vec![json!(["a", "b", "c", "d", "e"]), json!("a".repeat(1025))], "invalid_value"),
            ("stop", vec![json!(1), json!([1]), json!([null]), json!({})], "invalid_type"),
            (
                "logit_bias",
                vec![json!({"100": 1}), json!({"a": 1}), json!({"-1": 1}), json!({"1": 1, "01": 1})],
                "invalid_value",
            ),
            ("logit_bias", vec![json!([1])], "invalid_type"),
            ("logit_bias.1", vec![json!({"1": 101})], "invalid_value"),
            ("logit_bias.1", vec![json!({"1": "a"}), json!({"1": null})], "invalid_type"),
            ("stream", vec![json!(1), json!("true")], "invalid_type"),
            ("stream_options", vec![json!({})], "invalid_value"),
            ("stream_options", vec![json!(true)], "invalid_type"),
            ("stream_interval_ms", vec![json!(-1), json!(60_001)], "invalid_value"),
            ("details", vec![json!(-1), json!(21)], "invalid_value"),
            ("details", vec![json!(true), json!("1")], "invalid_type"),
            ("tools", vec![json!([{}])], "unsupported_parameter"),
        ] {
            for value in values {
                let request = json!({key.split('.').next().unwrap(): value});
                let failure = knobs(request.clone()).unwrap_err();
                let found = (failure.status, failure.param.as_deref(), failure.code);
                assert_eq!(found, (400, Some(key), Some(code)), "{request}: {}", failure.message);
            }
        }
        let options = knobs(json!({"stream": true, "stream_options": {"include_usage": 1}})).unwrap_err();
        assert_eq!(options.param.as_deref(), Some("stream_options.include_usage"));
        let fewer = knobs(json!({"n": 3, "best_of": 2})).unwrap_err();
        assert_eq!((fewer.param.as_deref(), fewer.code), (Some("best_of"), Some("invalid_value")));
    }
}

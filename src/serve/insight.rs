//! `POST /api/attention` and `POST /api/lens`: where a model looks, and what is on the way to its predictions.

use super::{
    answer::{Answer, Asked, Failure, WHOLE, Work},
    fields::{Fields, parse},
    given::{Given, given},
    models::Served,
    openai::served,
    room::Place,
    service::Service,
};
use crate::{
    engine::Seeing,
    inference::{Attention, Expectation, Lens, Spelt, spelt, written},
    text::tokenizer::{StreamDecoder, Tokenizer},
};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    task::{Context, Poll},
};

/// The most tokens that are looked at.
const TOKENS: usize = 512;
/// The most bytes that looks hold at once until they are written; one that needs more is computed alone.
const LOOKS: usize = 64 << 20;
/// Bytes that a weight of attention takes: four of the number, and its part of the text.
const WEIGHT: usize = 8;
/// About the bytes that a place or an alternative of a lens takes, which is an object of JSON.
const FIGURE: usize = 512;
/// The most alternatives in a place.
const TOP: i64 = 20;

/// Answers with the weights that attention in a layer gives to the tokens of a text.
///
/// # Errors
/// If there is no such model or layer, a field is wrong, the text cannot be encoded, or the engine takes nothing now.
pub(super) fn attention(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let body = parse(&asked.body)?;
    let fields = Fields::of(&body);
    let served = served(service, fields.text("model")?)?;
    let layers = served.model.config().n_layer;
    let layer = fields.count("layer", 0..=layers as i64 - 1)?.unwrap_or(0) as usize;
    let given = seen(&served, given(&fields, &served, "look at")?);
    let n = given.ids.len();
    let place = room(service, n * (n + 1) / 2 * served.model.config().n_head * WEIGHT)?;
    let mut work = served.model.attending(given.ids.clone(), layer).map_err(|error| given.refused(&error))?;
    let seeing = service.engine.compute(move || work.step())?;
    let about = json!({"model": served.id, "notes": given.notes, "n_layer": layers, "layer": layer});
    let told = move |attention: &Attention, about: &mut Value, tokenizer: &Tokenizer| {
        about["tokens"] = tokens(attention.ids(), tokenizer);
        about["n_head"] = json!(attention.heads().len());
        about["heads"] = attention.heads().iter().map(|head| json!(coded(head))).collect();
    };
    Ok(Answer::Pending(Box::new(Look { served, seeing, about, told, done: false, _place: place })))
}

/// Answers with what the model would say after each of its blocks.
///
/// # Errors
/// If there is no such model, a field is wrong, the text cannot be encoded, or the engine takes nothing now.
pub(super) fn lens(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let body = parse(&asked.body)?;
    let fields = Fields::of(&body);
    let served = served(service, fields.text("model")?)?;
    let top = fields.count("top", 1..=TOP)?.unwrap_or(1) as usize;
    let given = seen(&served, given(&fields, &served, "look at")?);
    let (n, looks) = (given.ids.len(), served.model.config().n_layer + 1);
    if n * looks * (1 + top) > WHOLE {
        let most = WHOLE / (looks * (1 + top));
        let what = format!(
            "{n} tokens with {top} alternatives after each of {looks} layers are too much for one answer, which may have {most}: \
             ask for fewer alternatives, or for a shorter text"
        );
        return Err(Failure::bad(Some(given.field), Some("too_long"), what));
    }
    let place = room(service, n * looks * (1 + top) * FIGURE)?;
    let mut work = served.model.lensing(given.ids.clone(), top).map_err(|error| given.refused(&error))?;
    let seeing = service.engine.compute(move || work.step())?;
    let about = json!({"model": served.id, "notes": given.notes});
    let told = move |lens: &Lens, about: &mut Value, tokenizer: &Tokenizer| {
        about["tokens"] = tokens(lens.ids(), tokenizer);
        about["layers"] =
            lens.layers().iter().enumerate().map(|layer| of_layer(layer, lens.ids(), tokenizer)).collect();
    };
    Ok(Answer::Pending(Box::new(Look { served, seeing, about, told, done: false, _place: place })))
}

/// A place among the looks that are on their way.
fn room(service: &Service, bytes: usize) -> Result<Place, Failure> {
    Place::of(&service.looks, bytes, LOOKS, "as many looks into models as may are on their way")
}

/// What is looked at: as many tokens as the model sees at once, at most so many as a picture shows, from the end.
fn seen<'a>(served: &Served, mut given: Given<'a>) -> Given<'a> {
    let most = served.model.config().block_size.min(TOKENS);
    let over = given.ids.len().saturating_sub(most);
    if over > 0 {
        let of = given.ids.len();
        given.notes.push(format!("the first {over} of {of} tokens are left out: {most} are looked at at once"));
        given.ids.drain(..over);
    }
    given
}

fn tokens(ids: &[u32], tokenizer: &Tokenizer) -> Value {
    spelt(tokenizer, ids).map(|token| Value::Object(token.json())).collect()
}

fn of_layer((blocks, expected): (usize, &Vec<Expectation>), ids: &[u32], tokenizer: &Tokenizer) -> Value {
    let name = if blocks == 0 { "embedding".to_owned() } else { format!("block {blocks}") };
    let mut decoder = StreamDecoder::default();
    let position = |(expected, &id): (&Expectation, &u32)| {
        // Alternatives are to what follows this token.
        decoder.push(tokenizer, id);
        let alternative = |&(id, logprob): &(u32, f64)| {
            let mut token = Spelt::after(&decoder, tokenizer, id).json();
            token.insert("logprob".to_owned(), json!(written(logprob)));
            Value::Object(token)
        };
        let top: Vec<Value> = expected.top.iter().map(alternative).collect();
        json!({
            "top": top,
            "logprob": expected.logprob.map(written),
            "rank": expected.rank,
            "entropy": expected.entropy,
        })
    };
    json!({"name": name, "positions": expected.iter().zip(ids).map(position).collect::<Vec<_>>()})
}

/// Probabilities as 16 bits each, little-endian, in base64.
fn coded(weights: &[f32]) -> String {
    let bytes: Vec<u8> = weights.iter().flat_map(|weight| ((weight * 65535.0).round() as u16).to_le_bytes()).collect();
    base64(&bytes)
}

/// Bytes in base64 (RFC 4648), with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let is_there = digit <= three.len();
            let at = (bits >> (18 - 6 * digit)) as usize % 64;
            text.push(if is_there { char::from(DIGITS[at]) } else { '=' });
        }
    }
    text
}

/// A look that is being computed.
struct Look<T, F> {
    served: Arc<Served>,
    seeing: Seeing<T>,
    /// What the answer has besides.
    about: Value,
    /// Adds what was seen.
    told: F,
    done: bool,
    _place: Place,
}

impl<T: Send, F: FnMut(&T, &mut Value, &Tokenizer) + Send> Work for Look<T, F> {
    fn poll(&mut self, cx: &mut Context) -> Poll<()> {
        let polled = self.seeing.poll(cx);
        self.done = polled.is_ready();
        polled
    }

    fn poll_urgent(&mut self, cx: &mut Context) -> Poll<()> {
        self.poll(cx)
    }

    fn events(&mut self) -> Result<Vec<Value>, Failure> {
        Ok(if self.done { vec![self.whole()?] } else { Vec::new() })
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn whole(&mut self) -> Result<Value, Failure> {
        if let Some(failure) = self.seeing.end().as_ref().and_then(Failure::of_end) {
            return Err(failure);
        }
        if let Some(seen) = self.seeing.take() {
            (self.told)(&seen, &mut self.about, self.served.model.tokenizer());
        }
        Ok(self.about.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(coded(&[0.0, 1.0, 0.5]), base64(&[0, 0, 255, 255, 0, 128]));
    }
}

//! Decoders of Hugging Face's library, token by token: the text of a token comes as soon as it is certain.
//!
//! The library decodes only all tokens at once. Here each of its decoders is a step that takes tokens and passes tokens
//! on, in parts where it can: a step that fuses all tokens into one passes on its beginning at once. What a step must
//! know before it can tell what a token becomes decides what is held back:
//!
//! | decoder | holds back |
//! |---|---|
//! | none (tokens joined by blanks), `WordPiece`, `Metaspace`, `Fuse`, `CTC` | nothing |
//! | `ByteLevel` | the bytes of an unfinished character |
//! | `BPEDecoder` | the end-of-word suffix, which is a blank unless the text ends |
//! | `ByteFallback` | a run of byte tokens, which is text only if all of it is |
//! | `Strip` | the characters that may be stripped from the end of a token |
//! | `Replace` | what may be the start of a literal; for a regular expression the token, or all of the text behind `Fuse` |

use crate::text::tokenizer::{json::byte_char, lossy::Lossy};
use serde_json::Value;
use std::{collections::HashMap, mem::take, sync::LazyLock};
use tokenizers::{
    Decoder, DecoderWrapper,
    decoders::{strip::Strip, wordpiece::cleanup},
    pre_tokenizers::metaspace::PrependScheme,
};

/// Receives a part of a token, and whether the token ends with it.
type Next<'a> = &'a mut dyn FnMut(&str, bool);

/// A decoder, and what it holds back.
#[derive(Clone, Debug)]
pub(super) struct Step {
    kind: Kind,
    /// The beginning of a token, for a decoder that needs all of it.
    token: String,
}

#[derive(Clone, Debug)]
enum Kind {
    /// No decoder: blanks between tokens.
    Join {
        first: bool,
    },
    ByteLevel(Lossy),
    /// `CTC` or `WordPiece`.
    WordPiece {
        prefix: String,
        cleanup: bool,
        first: bool,
    },
    Metaspace {
        replacement: char,
        drops: bool,
        first: bool,
    },
    Ctc {
        pad: String,
        delimiter: String,
        cleanup: bool,
        last: Option<String>,
    },
    Suffix {
        suffix: String,
        held: Option<String>,
    },
    Bytes(Vec<u8>),
    Fuse,
    Strip {
        strip: Strip,
        started: usize,
        held: usize,
        inside: bool,
    },
    Literal {
        pattern: String,
        content: String,
        held: String,
    },
    Regex(Box<DecoderWrapper>),
}

/// The steps of a tokenizer's decoder.
pub(super) fn steps(decoder: Option<&DecoderWrapper>) -> Vec<Step> {
    let mut kinds = Vec::new();
    match decoder {
        None => kinds.push(Kind::Join { first: true }),
        Some(decoder) => add(decoder, &mut kinds),
    }
    kinds.into_iter().map(|kind| Step { kind, token: String::new() }).collect()
}

fn add(decoder: &DecoderWrapper, kinds: &mut Vec<Kind>) {
    kinds.push(match decoder {
        DecoderWrapper::Sequence(sequence) => {
            return sequence.get_decoders().iter().for_each(|decoder| add(decoder, kinds));
        }
        DecoderWrapper::BPE(bpe) => Kind::Suffix { suffix: bpe.suffix.clone(), held: None },
        DecoderWrapper::ByteLevel(_) => Kind::ByteLevel(Lossy::default()),
        DecoderWrapper::WordPiece(words) => {
            Kind::WordPiece { prefix: words.prefix.clone(), cleanup: words.cleanup, first: true }
        }
        DecoderWrapper::Metaspace(space) => Kind::Metaspace {
            replacement: space.get_replacement(),
            drops: space.get_prepend_scheme() != PrependScheme::Never,
            first: true,
        },
        DecoderWrapper::CTC(ctc) => Kind::Ctc {
            pad: ctc.pad_token.clone(),
            delimiter: ctc.word_delimiter_token.clone(),
            cleanup: ctc.cleanup,
            last: None,
        },
        DecoderWrapper::Fuse(_) => Kind::Fuse,
        DecoderWrapper::ByteFallback(_) => Kind::Bytes(Vec::new()),
        DecoderWrapper::Strip(strip) => Kind::Strip { strip: strip.clone(), started: 0, held: 0, inside: false },
        DecoderWrapper::Replace(replace) => match literal(decoder) {
            Some(pattern) => Kind::Literal { pattern, content: replace.content.clone(), held: String::new() },
            None => Kind::Regex(Box::new(decoder.clone())),
        },
    });
}

/// The text that a `Replace` looks for, if it is not a regular expression.
fn literal(replace: &DecoderWrapper) -> Option<String> {
    // The library does not show the pattern otherwise.
    let value = serde_json::to_value(replace).ok()?;
    let pattern = value.pointer("/pattern/String").and_then(Value::as_str)?;
    // The library looks for it with a regex engine.
    let found = replace.decode_chain(vec![pattern.to_owned()]).ok()?;
    let expected = value.pointer("/content").and_then(Value::as_str)?;
    (!pattern.is_empty() && found.concat() == expected).then(|| pattern.to_owned())
}

/// Appends what a token adds to the text.
pub(super) fn push(steps: &mut [Step], token: &str, ends: bool, text: &mut String) {
    match steps.split_first_mut() {
        None => text.push_str(token),
        Some((step, rest)) => step.push(token, ends, &mut |token, ends| push(rest, token, ends, text)),
    }
}

/// Appends what was held back, when no more tokens follow.
pub(super) fn finish(steps: &mut [Step], text: &mut String) {
    if let Some((step, rest)) = steps.split_first_mut() {
        step.finish(&mut |token, ends| push(rest, token, ends, text));
        finish(rest, text);
    }
}

impl Step {
    fn push(&mut self, part: &str, ends: bool, next: Next) {
        match &mut self.kind {
            Kind::Fuse => next(part, false),
            Kind::Metaspace { replacement, drops, first } => {
                let keep = |c: char| match c == *replacement {
                    false => Some(c),
                    true => (!*first || !*drops).then_some(' '),
                };
                next(&part.chars().filter_map(keep).collect::<String>(), ends);
                *first &= !ends;
            }
            Kind::Strip { strip, started, held, inside } => {
                next(&stripped(strip, part, (started, held, inside)), ends);
                if ends {
                    (*started, *held, *inside) = (0, 0, false);
                }
            }
            Kind::Literal { pattern, content, held } => {
                held.push_str(part);
                let (text, mut new) = (take(held), String::new());
                let mut rest = text.as_str();
                while let Some(at) = rest.find(&*pattern) {
                    new += &rest[..at];
                    new += content;
                    rest = &rest[at + pattern.len()..];
                }
                let waits = if ends { 0 } else { begun(rest, pattern) };
                new += &rest[..rest.len() - waits];
                *held = rest[rest.len() - waits..].to_owned();
                next(&new, ends);
            }
            _ => {
                self.token.push_str(part);
                if ends {
                    let token = take(&mut self.token);
                    self.whole(&token, next);
                }
            }
        }
    }

    /// The same for decoders that need all of a token.
    fn whole(&mut self, token: &str, next: Next) {
        match &mut self.kind {
            Kind::Join { first } => {
                if !take(first) {
                    next(" ", false);
                }
                next(token, true);
            }
            Kind::ByteLevel(lossy) => {
                let mut text = String::new();
                lossy.push(&bytes(token), &mut text);
                next(&text, false);
            }
            Kind::WordPiece { prefix, cleanup: cleans, first } => {
                let text = match token.strip_prefix(&*prefix) {
                    _ if take(first) => token.to_owned(),
                    Some(rest) => rest.to_owned(),
                    None => format!(" {token}"),
                };
                next(&if *cleans { cleanup(&text) } else { text }, true);
            }
            Kind::Ctc { pad, delimiter, cleanup: cleans, last } => {
                if last.as_deref() == Some(token) {
                    return;
                }
                *last = Some(token.to_owned());
                let mut text = token.replace(&*pad, "");
                if *cleans {
                    text = cleanup(&text).replace(&*delimiter, " ");
                }
                if !text.is_empty() {
                    next(&text, true);
                }
            }
            Kind::Suffix { suffix, held } => {
                if let Some(held) = held.take() {
                    next(&held.replace(&*suffix, " "), true);
                }
                match token.find(&*suffix) {
                    None => next(token, true),
                    Some(at) => {
                        next(&token[..at], false);
                        *held = Some(token[at..].to_owned());
                    }
                }
            }
            Kind::Bytes(run) => match byte(token) {
                Some(byte) => run.push(byte),
                None => {
                    end_run(run, next);
                    next(token, true);
                }
            },
            Kind::Regex(replace) => {
                // The library's engine does not fail; if it did, the token would be text all the same.
                let replaced = replace.decode_chain(vec![token.to_owned()]);
                next(&replaced.map_or_else(|_| token.to_owned(), |tokens| tokens.concat()), true);
            }
            Kind::Fuse | Kind::Metaspace { .. } | Kind::Strip { .. } | Kind::Literal { .. } => next(token, true),
        }
    }

    fn finish(&mut self, next: Next) {
        match &mut self.kind {
            Kind::ByteLevel(lossy) => {
                let mut text = String::new();
                lossy.finish(&mut text);
                next(&text, true);
            }
            Kind::Fuse => next("", true),
            Kind::Suffix { suffix, held } => {
                if let Some(held) = held.take() {
                    next(&held.replace(&*suffix, ""), true);
                }
            }
            Kind::Bytes(run) => end_run(run, next),
            _ => {}
        }
    }
}

/// The bytes that a token of `ByteLevel` stands for; its own if it is none.
fn bytes(token: &str) -> Vec<u8> {
    static BYTES: LazyLock<HashMap<char, u8>> =
        LazyLock::new(|| (0..=255).map(|byte| (byte_char(byte), byte)).collect());
    let known: Option<Vec<u8>> = token.chars().map(|c| BYTES.get(&c).copied()).collect();
    known.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The bytes that a token adds, if that is all that these steps ask for.
pub(super) fn bytes_of(steps: &[Step], token: &str) -> Option<Vec<u8>> {
    matches!(steps, [Step { kind: Kind::ByteLevel(_), .. }]).then(|| bytes(token))
}

/// The byte that a token stands for, if one of these steps takes it for one.
pub(super) fn byte_of(steps: &[Step], token: &str) -> Option<u8> {
    steps.iter().any(|step| matches!(step.kind, Kind::Bytes(_))).then(|| byte(token)).flatten()
}

/// The byte that a token like `<0x0A>` stands for.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

/// Passes on a run of bytes: as text if it is text, else a U+FFFD for each.
fn end_run(run: &mut Vec<u8>, next: Next) {
    match String::from_utf8(take(run)) {
        Ok(text) if text.is_empty() => {}
        Ok(text) => next(&text, true),
        Err(error) => error.as_bytes().iter().for_each(|_| next("\u{fffd}", true)),
    }
}

/// How many bytes at the end of `text` may be the start of `pattern`.
fn begun(text: &str, pattern: &str) -> usize {
    let starts = pattern.char_indices().map(|(at, _)| at).rev();
    starts.take_while(|&n| n > 0).find(|&n| text.ends_with(&pattern[..n])).unwrap_or(0)
}

/// A part of a token without what is stripped: how many characters were stripped from the token's start, how many may
/// be from its end, and whether its start is past.
fn stripped(strip: &Strip, part: &str, (started, held, inside): (&mut usize, &mut usize, &mut bool)) -> String {
    let mut text = String::with_capacity(part.len());
    for c in part.chars() {
        if !*inside && *started < strip.start && c == strip.content {
            *started += 1;
            continue;
        }
        *inside = true;
        if c != strip.content {
            text.extend(std::iter::repeat_n(strip.content, take(held)));
            text.push(c);
        } else if *held < strip.stop {
            *held += 1;
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::text::tokenizer::{StreamDecoder, Tokenizer};
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    /// Tokens that mean something to one decoder or another.
    const TOKENS: [&str; 38] = [
        "a",
        "b",
        "##b",
        "##",
        "▁",
        "▁the",
        "▁▁",
        "</w>",
        "x</w>y</w>",
        "end</w>",
        "<0xF0>",
        "<0x9F>",
        "<0x90>",
        "<0xA6>",
        "<0x41>",
        "<0xC3>",
        "<0xzz>",
        "<0x+1>",
        "Ġw",
        "Ã",
        "©",
        "ðŁ",
        "Ĳ",
        "¦",
        " ",
        ".",
        "'s",
        " do not",
        "''",
        "'",
        "H",
        "HH",
        "aH",
        "<pad>",
        "|",
        "é",
        "語 ",
        "<|endoftext|>",
    ];

    fn decoders() -> Vec<Value> {
        let replace =
            |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let one = || replace(json!({"String": "▁"}), " ");
        let fuse = || json!({"type": "Fuse"});
        let strip =
            |content: &str, start: usize| json!({"type": "Strip", "content": content, "start": start, "stop": 0});
        let space =
            |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
        let level = || json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let fallback = || json!({"type": "ByteFallback"});
        let words = |cleanup: bool| json!({"type": "WordPiece", "prefix": "##", "cleanup": cleanup});
        let suffix = || json!({"type": "BPEDecoder", "suffix": "</w>"});
        let ctc = |cleanup: bool| json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": cleanup});
        let all = |decoders: &[Value]| json!({"type": "Sequence", "decoders": decoders});
        vec![
            Value::Null,
            level(),
            words(true),
            words(false),
            space("always"),
            space("first"),
            space("never"),
            suffix(),
            fallback(),
            fuse(),
            ctc(true),
            ctc(false),
            strip("H", 1),
            one(),
            replace(json!({"String": "''"}), "\""),
            replace(json!({"Regex": "'+|H$"}), "-"),
            all(&[one(), fallback(), fuse(), strip(" ", 1)]),
            all(&[fallback(), space("always")]),
            all(&[fuse(), replace(json!({"String": "''"}), "\"")]),
            all(&[fuse(), replace(json!({"String": "ab"}), "")]),
            all(&[fuse(), replace(json!({"Regex": "(a|b)+"}), "<$0>")]),
            all(&[fuse(), space("first"), strip("a", 2)]),
            all(&[suffix(), fuse(), one()]),
            all(&[suffix(), words(true)]),
            all(&[all(&[level()]), one(), strip("a", 1)]),
            all(&[ctc(true), level()]),
            all(&[fuse(), words(true)]),
        ]
    }

    fn file(decoder: &Value) -> String {
        let vocab: Map<_, _> = TOKENS.iter().zip(0..).map(|(token, id)| ((*token).to_owned(), json!(id))).collect();
        let end = TOKENS.len() - 1;
        json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": decoder,
            "added_tokens": [{
                "id": end, "content": TOKENS[end], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            }],
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"},
        })
        .to_string()
    }

    fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut stream = StreamDecoder::default();
        let mut pieces: Vec<_> = ids.iter().map(|&id| stream.push(tokenizer, id)).collect();
        pieces.push(stream.finish(tokenizer));
        pieces
    }

    /// What the library decodes, with U+FFFD for unknown ids.
    fn theirs(file: &str, ids: &[u32]) -> String {
        let library = tokenizers::Tokenizer::from_bytes(file).unwrap();
        let known = |id: &u32| (*id as usize) < TOKENS.len();
        let runs = ids.chunk_by(|a, b| known(a) == known(b));
        runs.map(|ids| match known(&ids[0]) {
            true => library.decode(ids, false).unwrap(),
            false => "\u{fffd}".repeat(ids.len()),
        })
        .collect()
    }

    proptest! {
        #[test]
        fn a_stream_of_any_decoder_is_what_the_library_decodes(
            ids in proptest::collection::vec(prop_oneof![
                20 => 0..TOKENS.len() as u32,
                10 => 10..16u32,
                1 => Just(99),
                1 => Just(u32::MAX),
            ], 0..40),
        ) {
            for decoder in decoders() {
                let file = file(&decoder);
                let tokenizer = Tokenizer::from_json(&file).unwrap();
                let theirs = theirs(&file, &ids);
                prop_assert_eq!(&pieces(&tokenizer, &ids).concat(), &theirs, "{}", decoder);
                prop_assert_eq!(tokenizer.decode(&ids), theirs, "{}", decoder);
            }
        }
    }

    /// The ids of these tokens.
    fn ids(tokens: &[&str]) -> Vec<u32> {
        tokens.iter().map(|token| TOKENS.iter().position(|other| other == token).unwrap() as u32).collect()
    }

    #[test]
    fn only_what_is_uncertain_is_held_back() {
        let llama = decoders().into_iter().find(|decoder| decoder.pointer("/decoders/3/type") == Some(&json!("Strip")));
        let words = ["▁the", "<0xF0>", "<0x9F>", "<0x90>", "<0xA6>", "a", "▁", "b", "<0x41>"];
        for (decoder, tokens, expected) in [
            (llama.unwrap(), &words[..], &["the", "", "", "", "", "🐦a", " ", "b", "", "A"][..]),
            (json!({"type": "BPEDecoder", "suffix": "</w>"}), &["end</w>", "a", "end</w>"], &["end", " a", "end", ""]),
            (json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), &["a", "##b", "."], &["a", "b", ".", ""]),
            (Value::Null, &["a", "b"], &["a", " b", ""]),
            (decoders().swap_remove(1), &["ðŁ", "Ĳ", "¦", "ðŁ"], &["", "", "🐦", "", "\u{fffd}"]),
        ] {
            let tokenizer = Tokenizer::from_json(&file(&decoder)).unwrap();
            assert_eq!(pieces(&tokenizer, &ids(tokens)), expected, "{decoder}");
        }
    }

    #[test]
    fn what_is_stripped_from_the_end_waits_for_it() {
        let strip = json!({"type": "Strip", "content": "H", "start": 1, "stop": 2});
        let fused = json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, strip]});
        let tokenizer = Tokenizer::from_json(&file(&fused)).unwrap();
        assert_eq!(pieces(&tokenizer, &ids(&["aH", "H", "b", "HH", "HH"])), ["a", "", "HHb", "", "HH", ""]);
        // The library would panic.
        let tokenizer = Tokenizer::from_json(&file(&strip)).unwrap();
        for tokens in [&["H"][..], &["HH", "a"], &[]] {
            assert_eq!(tokenizer.decode(&ids(tokens)), ["", "a"][usize::from(tokens.len() > 1)]);
        }
    }

    #[test]
    fn a_long_stream_takes_time_in_proportion() {
        // Each token used to be decoded together with all that were held back.
        let runs = json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]});
        let tokenizer = Tokenizer::from_json(&file(&runs)).unwrap();
        let ids = ids(&["<0x41>"]).repeat(300_000);
        let pieces = pieces(&tokenizer, &ids);
        assert!(pieces[..ids.len()].iter().all(String::is_empty) && pieces[ids.len()] == "A".repeat(ids.len()));
    }
}

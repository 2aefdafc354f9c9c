//! One conversation and its template: which of the text the assistant says, and what the template puts behind it.

use super::{
    jinja::Jinja,
    message::{ASSISTANT, Message},
    segment::{Segment, Special},
};
use kinglet_core::error::{Error, Result};

/// Characters that no text should have: Unicode keeps the first ones for a program's own use.
fn unusual() -> impl Iterator<Item = char> {
    ('\u{fdd0}'..='\u{fdef}').chain('\u{100000}'..='\u{10fffd}')
}

/// Marks for a template's `generation` blocks, none of which it has itself.
pub(super) fn marks(source: &str) -> [char; 2] {
    let mut free = unusual().filter(|c| !source.contains(*c));
    [(); 2].map(|()| free.next().unwrap_or_default())
}

/// A conversation that is being rendered.
pub(super) struct Conversation<'a> {
    jinja: &'a Jinja,
    messages: Vec<Message>,
    /// The character before what looks like a special token in a message, if anything does.
    mark: Option<char>,
    /// Characters that take the place of messages, to see where these would be.
    probes: [char; 2],
}

/// A part of the text before its marks are removed.
type Part<'a> = (&'a str, bool, Option<usize>);

impl<'a> Conversation<'a> {
    /// Prepares a conversation. `other` is where a template with other marks is kept, if messages have those.
    pub(super) fn new(
        jinja: &'a Jinja,
        other: &'a mut Option<Jinja>,
        special: &Special,
        messages: &[Message],
    ) -> Result<Conversation<'a>> {
        let texts = || messages.iter().flat_map(|message| [&message.role, &message.content]);
        let is_used = |c: char| texts().any(|text| text.contains(c));
        let mut free =
            unusual().filter(|&c| !is_used(c) && !jinja.has(c) && !jinja.marks.is_some_and(|m| m.contains(&c)));
        let mut next = || {
            free.next().ok_or_else(|| {
                Error::Text(
                    "a conversation with characters that leave no \
             separator free"
                        .to_owned(),
                )
            })
        };
        let (mark, probes) = (next()?, [next()?, next()?]);
        let jinja = match jinja.marks {
            Some(marks) if marks.iter().any(|&c| is_used(c)) => other.insert(jinja.with_marks([next()?, next()?])?),
            _ => jinja,
        };
        let is_marked = texts().any(|text| special.is_in(text));
        let mut messages = messages.to_vec();
        if is_marked {
            for message in &mut messages {
                message.role = special.marked(&message.role, mark);
                message.content = special.marked(&message.content, mark);
            }
        }
        Ok(Conversation { jinja, messages, mark: is_marked.then_some(mark), probes })
    }

    /// The text in parts. If the conversation goes on, the prompt for the next answer is the last of them; else it ends
    /// with the last answer.
    pub(super) fn parts(&self, goes_on: bool) -> Result<Vec<Segment>> {
        if self.jinja.marks.is_some() { self.by_blocks(goes_on) } else { self.by_beginnings(goes_on) }
    }

    /// The places of the answers.
    fn answers(&self) -> Vec<usize> {
        let said = self.messages.iter().enumerate().filter(|(_, message)| message.role == ASSISTANT);
        said.map(|(i, _)| i).collect()
    }

    /// Divides the text by comparing what the template makes of the first messages with what it makes of one more.
    fn by_beginnings(&self, goes_on: bool) -> Result<Vec<Segment>> {
        let answers = self.answers();
        let (mut parts, mut at) = (Vec::new(), 0);
        let first = answers.first().copied().unwrap_or(self.messages.len());
        let mut before = if answers.is_empty() && !goes_on { String::new() } else { self.render(first, true)? };
        for (n, &i) in answers.iter().enumerate() {
            let (upto, prompt) = match answers.get(n + 1) {
                Some(&next) => (next, true),
                None if goes_on => (self.messages.len(), true),
                None => (i + 1, false),
            };
            let text = self.render(upto, prompt)?;
            if !text.starts_with(&before) {
                return Err(not_a_beginning());
            }
            let (end, tail) = self.end(i, upto, prompt, &text, before.len())?;
            self.push(&mut parts, (&text[at..before.len()], false, None));
            self.push(&mut parts, (&text[before.len()..end], self.messages[i].learned, tail));
            (at, before) = (end, text);
        }
        if goes_on {
            self.push(&mut parts, (&before[at..], false, None));
        }
        Ok(parts)
    }

    fn push(&self, parts: &mut Vec<Segment>, (text, learned, tail): Part) {
        let segment = Segment::of_marked(text, self.mark, learned, tail);
        parts.extend((!segment.text.is_empty()).then_some(segment));
    }

    /// Where answer `i`, which begins at byte `start`, ends in the text of the first `upto` messages, and the length of
    /// its tail.
    fn end(&self, i: usize, upto: usize, prompt: bool, text: &str, start: usize) -> Result<(usize, Option<usize>)> {
        if let Some(Tail { behind, tail }) = self.tail(i, upto, prompt)?
            && text.ends_with(&behind)
            && text.len() >= start + behind.len()
        {
            return Ok((text.len() - behind.len() + tail.len(), Some(tail.len())));
        }
        // The template does otherwise where a message is this one.
        if upto == i + 1 && !prompt {
            return Ok((text.len(), None));
        }
        let with = self.render(i + 1, false)?;
        let begins = text.starts_with(&with) && with.len() >= start;
        if begins { Ok((with.len(), None)) } else { Err(not_a_beginning()) }
    }

    /// What follows answer `i` in the text of the first `upto` messages; `None` if the answer is not in it.
    pub(super) fn tail(&self, i: usize, upto: usize, prompt: bool) -> Result<Option<Tail>> {
        let [probe, other] = self.probes;
        let mut asked = self.messages[..upto].to_vec();
        probe_of(&mut asked[i], probe);
        let Some(behind) = behind(&self.rendered(&asked, prompt)?, probe) else { return Ok(None) };
        if upto == i + 1 && !prompt {
            return Ok(Some(Tail { tail: behind.clone(), behind }));
        }
        let last = behind_or_nothing(&self.rendered(&asked[..=i], false)?, probe);
        if !last.is_empty() && behind.starts_with(&last) {
            return Ok(Some(Tail { tail: last, behind }));
        }
        // What the template puts behind an answer depends on whether more follows. It is what stands between the answer
        // and the next message, without how the template begins a message.
        let tail = if upto > i + 1 {
            probe_of(&mut asked[i + 1], other);
            let text = self.rendered(&asked[..i + 2], false)?;
            let between = behind_or_nothing(&text, probe);
            let between = between.split(other).next().unwrap_or_default();
            let alone = self.rendered(&asked[i + 1..i + 2], false).unwrap_or_default();
            let header = alone.split(other).next().filter(|_| alone.contains(other)).unwrap_or_default();
            let shared = between.chars().rev().zip(header.chars().rev()).take_while(|(a, b)| a == b);
            let shared: usize = shared.map(|(c, _)| c.len_utf8()).sum();
            between[..between.len() - shared].to_owned()
        } else {
            behind.chars().zip(last.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c).collect()
        };
        // Where the next message stands elsewhere, this is not known.
        Ok(behind.starts_with(&tail).then_some(Tail { tail, behind }))
    }

    /// What stands between the prompt for answer `i` and the answer.
    pub(super) fn head(&self, i: usize) -> Result<String> {
        let mut asked = self.messages[..=i].to_vec();
        probe_of(&mut asked[i], self.probes[0]);
        let (prompt, text) = (self.render(i, true)?, self.rendered(&asked, false)?);
        let said = text.strip_prefix(&prompt).and_then(|said| said.split_once(self.probes[0]));
        Ok(said.map(|(head, _)| head.to_owned()).unwrap_or_default())
    }

    /// Divides the text at its `generation` blocks.
    fn by_blocks(&self, goes_on: bool) -> Result<Vec<Segment>> {
        let answers = self.answers();
        let upto = if goes_on { self.messages.len() } else { answers.last().map_or(0, |last| last + 1) };
        if upto == 0 && !goes_on {
            return Ok(Vec::new());
        }
        let text = self.jinja.render(&self.messages[..upto], goes_on)?;
        let (parts, blocks) = self.blocks(&text)?;
        // The same with a probe in the place of each answer, to see what the blocks have behind these.
        let mut asked = self.messages[..upto].to_vec();
        answers.iter().for_each(|&i| probe_of(&mut asked[i], self.probes[0]));
        let probed = self.jinja.render(&asked, goes_on).and_then(|text| {
            let (parts, _) = self.blocks(&text)?;
            let said = parts.iter().filter(|(_, said)| *said);
            Ok(said.map(|(text, _)| behind(text, self.probes[0]).map(|behind| behind.len())).collect::<Vec<_>>())
        });
        let mut tails = probed.ok().filter(|tails| tails.len() == blocks).unwrap_or(vec![None; blocks]).into_iter();
        let all_learned = answers.iter().all(|&i| self.messages[i].learned);
        if !all_learned && blocks != answers.len() {
            return Err(Error::BadConfig(format!(
                "chat_template: {blocks} generation blocks for {} answers, not all of which are to be learned: \
                 blocks cannot be matched to answers",
                answers.len()
            )));
        }
        let (mut out, mut n) = (Vec::new(), 0);
        for (text, said) in parts {
            let learned = said && (all_learned || self.messages[answers[n]].learned);
            let tail = if said { tails.next().flatten() } else { None };
            n += usize::from(said);
            self.push(&mut out, (text, learned, tail));
        }
        Ok(out)
    }

    /// A text cut at the marks of `generation` blocks, each part with whether it is inside of one; and their number.
    fn blocks<'t>(&self, text: &'t str) -> Result<(Vec<(&'t str, bool)>, usize)> {
        let marks = self.jinja.marks.unwrap_or_default();
        let (mut parts, mut blocks, mut rest) = (Vec::new(), 0, text);
        while let Some((before, inside)) = rest.split_once(marks[0]) {
            let (inside, behind) = inside.split_once(marks[1]).ok_or_else(blocks_do_not_pair)?;
            parts.extend([(before, false), (inside, true)]);
            (blocks, rest) = (blocks + 1, behind);
        }
        parts.push((rest, false));
        if parts.iter().any(|(text, _)| text.contains(marks)) { Err(blocks_do_not_pair()) } else { Ok((parts, blocks)) }
    }

    fn render(&self, upto: usize, prompt: bool) -> Result<String> {
        self.rendered(&self.messages[..upto], prompt)
    }

    /// The text of messages, without marks of blocks.
    fn rendered(&self, messages: &[Message], prompt: bool) -> Result<String> {
        let text = self.jinja.render(messages, prompt)?;
        Ok(self.jinja.marks.map_or_else(|| text.clone(), |marks| text.replace(marks, "")))
    }
}

/// What follows an answer.
pub(super) struct Tail {
    /// All of it.
    behind: String,
    /// What of it belongs to the answer.
    pub(super) tail: String,
}

fn probe_of(message: &mut Message, probe: char) {
    message.content = probe.to_string();
}

/// What stands behind the last of these characters.
fn behind(text: &str, probe: char) -> Option<String> {
    Some(text.rsplit_once(probe)?.1.to_owned())
}

fn behind_or_nothing(text: &str, probe: char) -> String {
    behind(text, probe).unwrap_or_default()
}

fn not_a_beginning() -> Error {
    let what = "chat_template: the text of a conversation must begin with the text of its earlier messages; \
         otherwise the assistant's part cannot be found";
    Error::BadConfig(what.to_owned())
}

fn blocks_do_not_pair() -> Error {
    Error::BadConfig("chat_template: generation blocks are nested or incomplete".to_owned())
}

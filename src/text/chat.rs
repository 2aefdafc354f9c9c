//! Conversations as training text: a template renders the messages as text, and only what the assistant says counts in
//! the loss.

mod conversation;
mod ending;
#[cfg_attr(not(feature = "chat"), path = "chat/no_jinja.rs")]
mod jinja;
mod message;
mod segment;

pub use ending::{End, Ending, Head, Reader};
pub use message::{ASSISTANT, Message};
pub use segment::{Segment, encode};

use crate::text::tokenizer::{END_OF_TEXT, Tokenizer};
use conversation::{Conversation, marks};
use jinja::{Jinja, Told};
use kinglet_core::error::{Error, Result};
use segment::{Special, Written};

/// Puts each message on its own line; an assistant message ends with the end-of-text token.
pub const DEFAULT_TEMPLATE: &str = "{% for message in messages %}{{ message.content }}\
     {% if message.role == 'assistant' %}{{ end_of_text }}{% else %}{{ '\\n' }}{% endif %}{% endfor %}";

/// Usual names of the token that begins a text.
const BEGIN_OF_TEXT: [&str; 6] = ["<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<|bos|>", "[BOS]"];

/// A Jinja template in the style of Hugging Face's `chat_template`, with the same conventions: a block on a line of its
/// own leaves no blank line, strings have Python's methods, loops have `break` and `continue`, and there are
/// `raise_exception`, `strftime_now` (in UTC), `namespace` and Python's `tojson`. The variables are `messages`,
/// `add_generation_prompt`, `end_of_text` and its alias `eos_token`, and `bos_token`; `tools` and `documents` are none.
///
/// What the template writes around an answer's text until the next message is learned with it. If the template has
/// `{% generation %}` blocks, exactly what is inside of them is learned.
///
/// Special tokens are those that the template writes. What looks like one in a message is text.
pub struct Template {
    jinja: Jinja,
    special: Special,
}

impl Template {
    /// Compiles a template, for a tokenizer whose only special token is the end-of-text token, written as
    /// `end_of_text`.
    ///
    /// # Errors
    /// If it is not a valid template.
    pub fn new(source: &str, end_of_text: String) -> Result<Template> {
        let special = Special::new(vec![(end_of_text.clone(), 0)]);
        let told = Told { end_of_text: Some(end_of_text), ..Told::default() };
        Ok(Template { jinja: Jinja::new(source, &told, marks(source))?, special })
    }

    /// Compiles a template for a tokenizer.
    ///
    /// # Errors
    /// If it is not a valid template, or it is the default one and the tokenizer has no end-of-text token.
    pub fn of_tokenizer(source: &str, tokenizer: &Tokenizer) -> Result<Template> {
        let end_of_text = tokenizer.end_of_text_name();
        if end_of_text.is_none() && source == DEFAULT_TEMPLATE {
            let what = "conversations need an end-of-text token, but this tokenizer has no";
            return Err(Error::Data(format!("{what} {END_OF_TEXT}")));
        }
        let names = tokenizer.special_tokens();
        let begin = BEGIN_OF_TEXT.iter().find(|begin| names.iter().any(|(name, _)| name == **begin));
        let begin_of_text = tokenizer.begin_of_text_name().or(begin.copied()).map(str::to_owned);
        let told = Told { end_of_text, begin_of_text, time: 0 };
        Ok(Template { jinja: Jinja::new(source, &told, marks(source))?, special: Special::new(names) })
    }

    /// The same template, told that it is this time, in seconds since 1970; 0 is now.
    ///
    /// # Errors
    /// None that the template did not have before.
    pub fn at(self, time: u64) -> Result<Template> {
        Ok(Template { jinja: self.jinja.at(time)?, ..self })
    }

    /// The prompt for the model to answer these messages, in parts as returned by [`Template::parts`].
    ///
    /// # Errors
    /// As [`Template::parts`].
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<Segment>> {
        Conversation::new(&self.jinja, &mut None, &self.special, messages)?.parts(true)
    }

    /// The text of a conversation, divided where the assistant starts and stops speaking.
    ///
    /// # Errors
    /// If the template fails, or the rendering of some messages does not start with the rendering of the messages
    /// before and it has no `generation` blocks.
    pub fn parts(&self, messages: &[Message]) -> Result<Vec<Segment>> {
        Conversation::new(&self.jinja, &mut None, &self.special, messages)?.parts(false)
    }

    /// The text of a part between its special tokens.
    pub(crate) fn texts<'a>(&self, part: &'a Segment) -> impl Iterator<Item = &'a str> {
        self.special.divide(part).into_iter().filter_map(|written| match written {
            Written::Text(text) => Some(text),
            Written::Token(_) => None,
        })
    }

    /// What ends the answer to these messages: the end-of-text token, and what the template puts behind an answer. And
    /// what it puts before one.
    ///
    /// # Errors
    /// If the template fails.
    pub fn ending(&self, messages: &[Message], tokenizer: &Tokenizer) -> Result<Ending> {
        let mut ending = Ending::of_text(tokenizer);
        let i = messages.len();
        let mut messages = messages.to_vec();
        messages.push(Message::new(ASSISTANT, ""));
        let mut tail = |messages: &[Message], more: bool| -> Result<()> {
            let mut other = None;
            let conversation = Conversation::new(&self.jinja, &mut other, &self.special, messages)?;
            if !more {
                ending.head = conversation.head(i)?;
            }
            if let Some(tail) = conversation.tail(i, messages.len(), more)? {
                ending.add(&tail.tail, &self.special);
            }
            Ok(())
        };
        tail(&messages, false)?;
        messages.push(Message::new("user", ""));
        // Some templates allow no further message.
        let _ = tail(&messages, true);
        if !tokenizer.keeps_everything() {
            ending.as_decoded(tokenizer);
        }
        Ok(ending)
    }

    /// The same for answers to whatever messages.
    pub fn usual_ending(&self, tokenizer: &Tokenizer) -> Ending {
        let begins = [&["user"][..], &["system", "user"]];
        let conversations = begins.map(|roles| roles.iter().map(|role| Message::new(role, "a")).collect::<Vec<_>>());
        let ending = conversations.iter().find_map(|messages| self.ending(messages, tokenizer).ok());
        ending.unwrap_or_else(|| Ending::of_text(tokenizer))
    }

    /// Counts the answers in a conversation's parts that do not teach the model where an answer ends.
    pub(crate) fn doubts(&self, parts: &[Segment]) -> Doubts {
        let mut doubts = Doubts::default();
        for part in parts.iter().filter(|part| part.learned) {
            doubts.answers += 1;
            let Some(tail) = part.tail else { continue };
            let (said, tail) = part.text.split_at(part.text.len() - tail);
            doubts.endless += u64::from(tail.is_empty());
            let is_text = !tail.is_empty() && !self.special.is_in(tail);
            if is_text && part.text.find(tail).is_some_and(|at| at < said.len()) {
                doubts.early += 1;
                doubts.tail.get_or_insert_with(|| tail.to_owned());
            }
        }
        doubts
    }
}

/// Answers that do not teach a model where an answer ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doubts {
    /// All answers that are learned.
    answers: u64,
    /// Those behind which the template puts nothing that is learned.
    endless: u64,
    /// Those that contain the text which the template puts behind an answer.
    early: u64,
    /// That text.
    tail: Option<String>,
}

impl Doubts {
    /// Adds those of another conversation.
    pub(crate) fn add(&mut self, other: Doubts) {
        self.answers += other.answers;
        self.endless += other.endless;
        self.early += other.early;
        self.tail = self.tail.take().or(other.tail);
    }

    /// What the user should know.
    pub(crate) fn notes(&self) -> Vec<String> {
        let Doubts { answers, endless, early, tail } = self;
        let endless = (*endless > 0).then(|| {
            format!(
                "chat_template adds nothing learnable after {endless} of {answers} answers, so the model does \
                 not learn to end them; add {{{{ end_of_text }}}} after each answer"
            )
        });
        let early = (*early > 0).then(|| {
            format!(
                "{early} of {answers} answers contain {:?}, which chat_template adds after an answer: kinglet \
                 chat ends an answer there",
                tail.as_deref().unwrap_or_default()
            )
        });
        endless.into_iter().chain(early).collect()
    }
}

#[cfg(test)]
mod tests;

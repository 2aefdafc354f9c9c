//! Conversations as training text: a template renders the messages as text, and only what the assistant says counts in
//! the loss.

#[cfg_attr(not(feature = "chat"), path = "chat/no_jinja.rs")]
mod jinja;
mod message;

pub use message::{ASSISTANT, Message};

use crate::text::tokenizer::Tokenizer;
use jinja::Jinja;
use kinglet_core::error::{Error, Result};

/// Puts each message on its own line; an assistant message ends with the end-of-text token.
pub const DEFAULT_TEMPLATE: &str = "{% for message in messages %}{{ message.content }}\
     {% if message.role == 'assistant' %}{{ end_of_text }}{% else %}{{ '\\n' }}{% endif %}{% endfor %}";

/// A part of a conversation's text, and whether the assistant says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The text.
    pub text: String,
    /// Whether its tokens count in the loss.
    pub learned: bool,
}

/// A Jinja template in the style of Hugging Face's `chat_template`, with the same conventions: a block on a line of its
/// own leaves no blank line, strings have Python's methods, and `raise_exception` fails with an error. The variables
/// are `messages`, `add_generation_prompt`, `end_of_text` and its alias `eos_token`.
pub struct Template {
    jinja: Jinja,
    end_of_text: String,
}

impl Template {
    /// Compiles a template, for a tokenizer whose end-of-text token is written as `end_of_text`.
    ///
    /// # Errors
    /// If it is not a valid template.
    pub fn new(source: &str, end_of_text: String) -> Result<Template> {
        Ok(Template { jinja: Jinja::new(source)?, end_of_text })
    }

    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.jinja.render(messages, add_generation_prompt, &self.end_of_text)
    }

    /// The prompt for the model to answer these messages, in parts as returned by [`Template::parts`].
    ///
    /// # Errors
    /// As [`Template::parts`].
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<Segment>> {
        let mut parts = self.parts(messages)?;
        let text = self.render(messages, true)?;
        let before: usize = parts.iter().map(|part| part.text.len()).sum();
        parts.push(Segment { text: text.get(before..).unwrap_or_default().to_owned(), learned: false });
        Ok(parts)
    }

    /// The text of a conversation, divided where the assistant starts and stops speaking.
    ///
    /// # Errors
    /// If the template fails, or the rendering of some messages does not start with the rendering of the messages
    /// before.
    pub fn parts(&self, messages: &[Message]) -> Result<Vec<Segment>> {
        let (mut parts, mut done) = (Vec::new(), 0);
        let mut push = |text: &str, learned| {
            done += text.len();
            if !text.is_empty() {
                parts.push(Segment { text: text.to_owned(), learned });
            }
            done
        };
        let mut at = 0;
        for (i, _) in messages.iter().enumerate().filter(|(_, message)| message.role == ASSISTANT) {
            let before = self.render(&messages[..i], true)?;
            let with = self.render(&messages[..=i], false)?;
            let split = before.get(at..).zip(with.strip_prefix(&before)).ok_or_else(|| {
                Error::BadConfig(
                    "chat_template: the text of some messages must begin with the text of those before, so that it is \
                     known which of it the assistant says"
                        .into(),
                )
            })?;
            push(split.0, false);
            at = push(split.1, true);
        }
        Ok(parts)
    }
}

/// The tokens of a conversation, and for each whether it counts in the loss. Parts are encoded separately, because at
/// inference the prompt is encoded before the answer exists.
///
/// # Errors
/// If a character is unknown to the tokenizer.
pub fn encode(parts: &[Segment], tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<bool>)> {
    let (mut ids, mut learned) = (Vec::new(), Vec::new());
    for part in parts {
        ids.extend(tokenizer.encode(&part.text)?);
        learned.resize(ids.len(), part.learned);
    }
    Ok((ids, learned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::END_OF_TEXT;

    fn chat() -> Vec<Message> {
        ["system", "user", "assistant", "user", "assistant"]
            .iter()
            .zip(["Be brief.", "2+2?", "4", "3+3?", "6"])
            .map(|(role, content)| Message::new(role, content))
            .collect()
    }

    fn parts(template: &str, messages: &[Message]) -> Result<Vec<(String, bool)>> {
        let parts = Template::new(template, END_OF_TEXT.to_owned())?.parts(messages)?;
        Ok(parts.into_iter().map(|part| (part.text, part.learned)).collect())
    }

    #[test]
    fn what_the_assistant_says_is_learned_and_nothing_else() {
        let owned = |parts: &[(&str, bool)]| parts.iter().map(|(t, l)| ((*t).to_owned(), *l)).collect::<Vec<_>>();
        let want =
            [("Be brief.\n2+2?\n", false), ("4<|endoftext|>", true), ("3+3?\n", false), ("6<|endoftext|>", true)];
        assert_eq!(parts(DEFAULT_TEMPLATE, &chat()).unwrap(), owned(&want));
        let chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
             {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
        let want = [("<|im_start|>user\n<b>\n<|im_end|>\n<|im_start|>assistant\n", false), ("ok<|im_end|>\n", true)];
        let messages = [Message::new("user", "<b>\n"), Message::new("assistant", "ok")];
        assert_eq!(parts(chatml, &messages).unwrap(), owned(&want));
        let template = Template::new(chatml, END_OF_TEXT.to_owned()).unwrap();
        let prompt = template.prompt(&messages[..1]).unwrap();
        assert!(prompt.last().unwrap().text.ends_with("<|im_start|>assistant\n"));
    }

    #[test]
    fn templates_are_read_as_hugging_face_reads_them() {
        // What jinja2 gives with trim_blocks and lstrip_blocks.
        let lines = "{% for message in messages %}\n    {% if message['role'] == 'user' %}\nU: {{ message['content'].strip() }}\n    \
             {% else %}\nA: {{ message['content'] }}\n    {% endif %}\n{% endfor %}\n\
             {% if add_generation_prompt %}\nA:{{ ' ' }}\n{%- endif %}\n";
        let template = Template::new(lines, END_OF_TEXT.to_owned()).unwrap();
        let messages = [Message::new("user", " 1+1 "), Message::new("assistant", "2")];
        assert_eq!(template.prompt(&messages[..1]).unwrap()[0].text, "U: 1+1\nA: ");
        let parts: Vec<_> = template.parts(&messages).unwrap().into_iter().map(|part| part.text).collect();
        assert_eq!(parts, ["U: 1+1\nA: ", "2\n"]);
        let template = Template::new("{{ raise_exception('no ' + messages[0].role) }}", String::new()).unwrap();
        let error = template.prompt(&messages).unwrap_err().to_string();
        assert!(error.contains("no user"), "{error}");
    }

    #[test]
    fn each_token_knows_whether_it_is_learned() {
        let template = Template::new(DEFAULT_TEMPLATE, END_OF_TEXT.to_owned()).unwrap();
        let messages = [Message::new("user", "hi"), Message::new("assistant", "é")];
        let (ids, learned) = encode(&template.parts(&messages).unwrap(), &Tokenizer::byte()).unwrap();
        assert_eq!(ids, [b'h', b'i', b'\n', 0xc3, 0xa9].map(u32::from).into_iter().chain([256]).collect::<Vec<_>>());
        assert_eq!(learned, [false, false, false, true, true, true]);
    }

    #[test]
    fn templates_that_cannot_be_used_say_why() {
        for (template, message) in [
            ("{% for", "chat_template: syntax error"),
            ("{{ messages[9].content }}", "chat_template: undefined value"),
            ("{% for m in messages|reverse %}{{ m.content }}{% endfor %}", "must begin with the text of those before"),
            ("{% for i in range(9999) %}{% for i in range(9999) %}{{ i }}{% endfor %}{% endfor %}", "fuel"),
        ] {
            let error = parts(template, &chat()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}

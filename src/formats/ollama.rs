//! Ollama's Modelfile: which file the model is in, how far it can look back, and how messages become text.
//!
//! Ollama has templates of its own, in Go's language, and reads a model's Jinja only where it knows it by heart. So ours
//! is rendered with marks for messages, and what stands between the marks is the template, if that is all that it does.

use super::{folder::chat_template, portable::Portable};
use crate::{
    data::template_of,
    text::{
        chat::{ASSISTANT, Message, Template},
        tokenizer::Tokenizer,
    },
};
use kinglet_core::error::Result;
use std::fmt::Write as _;

/// Contents of messages, none of which is in another, or in any template.
const MARKS: [&str; 5] = ["\u{1}one\u{1}", "\u{1}two\u{1}", "\u{1}three\u{1}", "\u{1}four\u{1}", "\u{1}five\u{1}"];

/// What a template writes around messages, where a conversation is perhaps a system's message, and then the user's and the
/// assistant's in turn.
#[derive(Debug, PartialEq)]
struct Around {
    /// Before the first message: one of the user's, and one of the system's if the template allows that.
    begin: String,
    begin_system: Option<String>,
    /// Behind a message, the beginning of the next one included.
    system: String,
    user: String,
    assistant: String,
}

/// The Modelfile for a GGUF of this name in the same folder, and what the user should know.
pub(super) fn modelfile(file: &str, model: &Portable) -> (String, Vec<String>) {
    let mut text = format!("FROM ./{file}\nPARAMETER num_ctx {}\n", model.config.block_size);
    if chat_template(&model.config).is_none() {
        text += "TEMPLATE \"\"\"{{ .Prompt }}\"\"\"\n";
        return (text, Vec::new());
    }
    let config = &model.config;
    let talk = || -> Result<String> {
        let tokenizer = model.tokenizer.clone().with_ends(&config.bos_token, &config.eos_token)?;
        let template = template_of(config, &tokenizer)?;
        let around = Around::of(&template, &tokenizer)?;
        Ok(around.map(|around| around.to_go()).unwrap_or_default() + &stops(&template, &tokenizer))
    };
    let mut notes = Vec::new();
    let why = match talk() {
        Ok(lines) => {
            text += &lines;
            (!lines.contains("TEMPLATE")).then(|| "it does more than to write something around messages".to_owned())
        }
        Err(error) => Some(error.one_line()),
    };
    if let Some(why) = why {
        notes.push(format!("the Modelfile has no TEMPLATE, which ollama needs for chats; chat_template: {why}"));
    }
    (text, notes)
}

/// What ends an answer.
fn stops(template: &Template, tokenizer: &Tokenizer) -> String {
    let ending = template.usual_ending(tokenizer);
    let tokens = ending.tokens.iter().filter_map(|id| tokenizer.name_of(*id));
    let texts = ending.texts.into_iter().filter(|text| !text.trim().is_empty());
    tokens.chain(texts).fold(String::new(), |mut lines, stop| {
        let _ = writeln!(lines, "PARAMETER stop {}", quoted(&stop));
        lines
    })
}

/// A text as Go, JSON and Modelfiles quote it.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON")
}

/// The text of a prompt, or of a whole conversation, with a mark for each message.
fn rendered(template: &Template, roles: &[&str], prompt: bool) -> Result<String> {
    let messages: Vec<_> = roles.iter().zip(MARKS).map(|(role, mark)| Message::new(role, mark)).collect();
    let parts = if prompt { template.prompt(&messages)? } else { template.parts(&messages)? };
    Ok(parts.into_iter().map(|part| part.text).collect())
}

/// What stands before, between and behind the marks, each of which must be there once.
fn between(text: &str, marks: usize) -> Option<Vec<String>> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    for mark in &MARKS[..marks] {
        let (before, behind) = rest.split_once(mark)?;
        pieces.push(before.to_owned());
        rest = behind;
    }
    pieces.push(rest.to_owned());
    (!pieces.iter().any(|piece| piece.contains('\u{1}'))).then_some(pieces)
}

impl Around {
    /// None if the template is not as simple as that.
    fn of(template: &Template, tokenizer: &Tokenizer) -> Result<Option<Around>> {
        let user = ["user", ASSISTANT, "user"];
        let Some(talk) = between(&rendered(template, &user, true)?, 3) else { return Ok(None) };
        let [begin, after_user, assistant, last] = &talk[..] else { return Ok(None) };
        let system = rendered(template, &["system", "user", ASSISTANT, "user"], true);
        let system = system.ok().and_then(|text| between(&text, 4));
        // The template of a chat without a system's message goes on in the same way with one.
        let same = |pieces: &Vec<String>| pieces[2..] == [after_user.clone(), assistant.clone(), last.clone()];
        if last != after_user || system.as_ref().is_some_and(|pieces| !same(pieces)) {
            return Ok(None);
        }
        // llama.cpp puts the begin of a text before it.
        let begun = |text: &String| match tokenizer.begin_of_text_name() {
            Some(name) => text.strip_prefix(name).unwrap_or(text).to_owned(),
            None => text.clone(),
        };
        Ok(Some(Around {
            begin: begun(begin),
            begin_system: system.as_ref().map(|pieces| begun(&pieces[0])),
            system: system.map_or_else(|| begin.clone(), |pieces| pieces[1].clone()),
            user: after_user.clone(),
            assistant: assistant.clone(),
        }))
    }

    /// The same in the language of Go's templates.
    fn to_go(&self) -> String {
        let literal = |text: &str| if text.is_empty() { String::new() } else { format!("{{{{ {} }}}}", quoted(text)) };
        let Around { begin, begin_system, system, user, assistant } = self;
        let first = match begin_system {
            Some(other) if other != begin => format!(
                "{{{{ if eq (index .Messages 0).Role \"system\" }}}}{}{{{{ else }}}}{}{{{{ end }}}}",
                literal(other),
                literal(begin)
            ),
            _ => literal(begin),
        };
        format!(
            "TEMPLATE \"\"\"{first}{{{{ range .Messages }}}}{{{{ .Content }}}}{{{{ if eq .Role \"system\" }}}}{}\
             {{{{ else if eq .Role \"user\" }}}}{}{{{{ else }}}}{}{{{{ end }}}}{{{{ end }}}}\"\"\"\n",
            literal(system),
            literal(user),
            literal(assistant)
        )
    }
}

#[cfg(all(test, feature = "chat"))]
mod tests {
    use super::*;
    use kinglet_core::{config::Config, params::Layout};

    fn model(settings: &[(&str, &str)]) -> Portable {
        let tokenizer = Tokenizer::byte();
        let mut config = Config::default().with(&["n_layer=1", "n_embd=8", "n_head=1", "vocab_size=257"]).unwrap();
        for (key, value) in settings {
            config.set(&format!("{key}={value}")).unwrap();
        }
        let weights = Layout::new(&config).unwrap().init(1);
        Portable::new(config, weights, tokenizer).unwrap()
    }

    #[test]
    fn a_model_of_text_gets_the_prompt_as_it_is() {
        let (text, notes) = modelfile("m.gguf", &model(&[("block_size", "64")]));
        assert_eq!(text, "FROM ./m.gguf\nPARAMETER num_ctx 64\nTEMPLATE \"\"\"{{ .Prompt }}\"\"\"\n");
        assert!(notes.is_empty());
    }

    #[test]
    fn a_chat_template_becomes_one_of_go() {
        let (text, notes) = modelfile("m.gguf", &model(&[("data_kind", "conversations")]));
        assert!(notes.is_empty(), "{notes:?}");
        let expected = "TEMPLATE \"\"\"{{ range .Messages }}{{ .Content }}{{ if eq .Role \"system\" }}{{ \"\\n\" }}\
                        {{ else if eq .Role \"user\" }}{{ \"\\n\" }}{{ else }}{{ \"<|endoftext|>\" }}{{ end }}{{ end }}\"\"\"";
        assert!(text.contains(expected), "{text}");
        assert!(text.ends_with("PARAMETER stop \"<|endoftext|>\"\n"), "{text}");
        let chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
        let (text, notes) = modelfile("m.gguf", &model(&[("chat_template", chatml)]));
        assert!(notes.is_empty(), "{notes:?}");
        let begin = "{{ if eq (index .Messages 0).Role \"system\" }}{{ \"<|im_start|>system\\n\" }}{{ else }}\
                     {{ \"<|im_start|>user\\n\" }}{{ end }}";
        assert!(text.contains(begin), "{text}");
        assert!(
            text.contains("{{ else if eq .Role \"user\" }}{{ \"<|im_end|>\\n<|im_start|>assistant\\n\" }}"),
            "{text}"
        );
        assert!(text.contains("PARAMETER stop \"<|im_end|>"), "{text}");
    }

    #[test]
    fn a_template_that_does_more_is_told_of() {
        let counted = "{% for m in messages %}{{ loop.index }} {{ m.content }}\n{% endfor %}";
        let (text, notes) = modelfile("m.gguf", &model(&[("chat_template", counted)]));
        assert!(!text.contains("TEMPLATE"), "{text}");
        assert!(notes[0].contains("does more than to write something around messages"), "{notes:?}");
    }
}

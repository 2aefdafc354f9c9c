//! Jinja templates, using minijinja plus Hugging Face's extensions to the language.

mod clock;

use super::message::Message;
use kinglet_core::error::{Error, Result};
use minijinja::{
    Environment, ErrorKind, Value, context,
    value::{Kwargs, ValueKind},
};
use serde::Serialize;
use std::{
    borrow::Cow,
    time::{SystemTime, UNIX_EPOCH},
};

const NAME: &str = "chat_template";

/// What templates are told besides the messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// How the token is written that ends a text, if there is one.
    pub(super) end_of_text: Option<String>,
    /// How the token is written that begins one, if there is one.
    pub(super) begin_of_text: Option<String>,
    /// What time it is, in seconds since 1970; 0 is now.
    pub(super) time: u64,
}

/// A compiled template.
pub(super) struct Jinja {
    environment: Environment<'static>,
    source: String,
    told: Told,
    /// Characters that stand around what is inside of a `generation` block, if the template has such blocks.
    pub(super) marks: Option<[char; 2]>,
}

impl Jinja {
    /// Compiles a template; `marks` are characters that it does not have.
    pub(super) fn new(source: &str, told: &Told, marks: [char; 2]) -> Result<Jinja> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<(), minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let time = if told.time == 0 { now() } else { told.time };
        environment.add_function("strftime_now", move |format: Cow<str>| {
            let unknown = |code| format!("strftime_now: unknown format code {code}");
            clock::strftime(time, &format)
                .map_err(|code| minijinja::Error::new(ErrorKind::InvalidOperation, unknown(code)))
        });
        // Prompts are not HTML, so do not escape.
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        // A template is a program: limit its steps, so that one that does not terminate is stopped.
        environment.set_fuel(Some(1_000_000));
        let blocks = generation_as_filter(source);
        environment.add_filter(GENERATION, move |said: String| format!("{}{said}{}", marks[0], marks[1]));
        let marks = blocks.is_some().then_some(marks);
        let compiled = blocks.unwrap_or_else(|| source.to_owned());
        environment.add_template_owned(NAME, compiled).map_err(|error| bad(&error))?;
        Ok(Jinja { environment, source: source.to_owned(), told: told.clone(), marks })
    }

    /// The same template with other marks.
    pub(super) fn with_marks(&self, marks: [char; 2]) -> Result<Jinja> {
        Jinja::new(&self.source, &self.told, marks)
    }

    /// The same template at another time.
    pub(super) fn at(self, time: u64) -> Result<Jinja> {
        let told = Told { time, ..self.told };
        Jinja::new(&self.source, &told, self.marks.unwrap_or_default())
    }

    /// Whether a character is in the template itself.
    pub(super) fn has(&self, c: char) -> bool {
        self.source.contains(c)
    }

    /// Renders messages as text.
    pub(super) fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.environment.get_template(NAME).map_err(|error| bad(&error))?;
        // The fields that Hugging Face's messages have, and no others.
        let messages: Vec<Value> =
            messages.iter().map(|message| context! { role => message.role, content => message.content }).collect();
        let token = |name: &Option<String>| name.clone().map_or(Value::UNDEFINED, Value::from);
        let end_of_text = token(&self.told.end_of_text);
        let variables = context! {
            messages, add_generation_prompt,
            eos_token => end_of_text, end_of_text,
            bos_token => token(&self.told.begin_of_text),
            tools => Value::from(()), documents => Value::from(()),
        };
        template.render(variables).map_err(|error| bad(&error))
    }
}

fn bad(error: &minijinja::Error) -> Error {
    Error::BadConfig(format!("chat_template: {error}"))
}

/// The filter that a `generation` block becomes.
const GENERATION: &str = "generation";

/// The template with `generation` blocks as blocks of a filter, which have the same rules for white space; `None` if it
/// has no such blocks.
fn generation_as_filter(source: &str) -> Option<String> {
    let (mut out, mut rest, mut found, mut raw) = (String::with_capacity(source.len()), source, false, false);
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out += before;
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, behind) = tag.split_at(end);
        let word = tag.trim_start_matches(['{', '%', '-', '+']).trim_end_matches(['-', '+']).trim();
        raw = word == "raw" || raw && word != "endraw";
        let new = match word {
            "generation" if !raw => "filter generation",
            "endgeneration" if !raw => "endfilter",
            _ => word,
        };
        found |= new != word;
        out += &if new == word { tag.to_owned() } else { tag.replacen(word, new, 1) };
        rest = behind;
    }
    found.then(|| out + rest)
}

/// JSON as Python's `json.dumps(ensure_ascii=False)` writes it: not escaped for HTML, with a blank behind `,` and `:`.
fn to_json(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let failed = |what: String| minijinja::Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}"));
    let indent: Option<Value> = options.get("indent")?;
    let separators: Option<(String, String)> = match options.get::<Option<Vec<String>>>("separators")? {
        None => None,
        Some(list) => Some(<[String; 2]>::try_from(list).map_err(|_| failed("separators are two".into()))?.into()),
    };
    let sorted: bool = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ascii: bool = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    options.assert_all_used()?;
    if value.is_undefined() {
        return Err(failed("the value is undefined".into()));
    }
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) if indent.kind() == ValueKind::String => Some(indent.to_string()),
        Some(indent) => Some(" ".repeat(usize::try_from(indent)?)),
    };
    let comma = if indent.is_some() { "," } else { ", " };
    let separators = separators.unwrap_or_else(|| (comma.to_owned(), ": ".to_owned()));
    let mut json = serde_json::to_value(value).map_err(|error| failed(error.to_string()))?;
    if sorted {
        json.sort_all_objects();
    }
    let (mut out, layout) = (Vec::new(), Layout { indent, separators, depth: 0, filled: false });
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, layout);
    json.serialize(&mut serializer).map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8(out).map_err(|error| failed(error.to_string()))?;
    Ok(if ascii { escaped(&text) } else { text })
}

/// With everything beyond ASCII escaped, which in JSON stands inside of strings only.
fn escaped(text: &str) -> String {
    let mut units = [0; 2];
    text.chars()
        .map(|c| match c {
            _ if c.is_ascii() => c.to_string(),
            _ => c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
        })
        .collect()
}

/// How JSON is laid out.
struct Layout {
    indent: Option<String>,
    /// Between elements, and between a key and its value.
    separators: (String, String),
    depth: usize,
    /// Whether the innermost list or object has an element.
    filled: bool,
}

impl Layout {
    fn begin<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, sign: &str) -> std::io::Result<()> {
        (self.depth, self.filled) = (self.depth + 1, false);
        writer.write_all(sign.as_bytes())
    }

    fn end<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, sign: &str) -> std::io::Result<()> {
        self.depth -= 1;
        if self.filled {
            self.line(writer)?;
        }
        self.filled = true;
        writer.write_all(sign.as_bytes())
    }

    fn line<W: std::io::Write + ?Sized>(&self, writer: &mut W) -> std::io::Result<()> {
        let Some(indent) = &self.indent else { return Ok(()) };
        writer.write_all(format!("\n{}", indent.repeat(self.depth)).as_bytes())
    }

    fn element<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if !first {
            writer.write_all(self.separators.0.as_bytes())?;
        }
        self.filled = true;
        self.line(writer)
    }
}

impl serde_json::ser::Formatter for Layout {
    fn begin_array<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.begin(writer, "[")
    }

    fn end_array<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.end(writer, "]")
    }

    fn begin_array_value<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        self.element(writer, first)
    }

    fn begin_object<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.begin(writer, "{")
    }

    fn end_object<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.end(writer, "}")
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        self.element(writer, first)
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(self.separators.1.as_bytes())
    }
}

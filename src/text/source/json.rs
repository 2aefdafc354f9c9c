//! JSON as training text needs it: numbers stay as they are written, `NaN` and `Infinity` (which Python writes) are
//! values like others, every error has its place, and the elements of an array come one at a time.

use std::borrow::Cow;

/// Most arrays and objects within each other.
const DEEPEST: usize = 128;

/// The fields of an object, in order.
pub(super) type Fields<'a> = Vec<(Cow<'a, str>, Json<'a>)>;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    /// A number or a boolean, as it is written.
    Plain(&'a str),
    /// `NaN`, `Infinity` or `-Infinity`.
    NotFinite(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Fields<'a>),
}

impl Json<'_> {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &str {
        match self {
            Json::Null => "null",
            Json::Plain("true" | "false") => "true or false",
            Json::Plain(_) => "a number",
            Json::NotFinite(name) => name,
            Json::Text(_) => "a string",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }
}

/// What is wrong, and at which byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) at: usize,
    pub(super) what: &'static str,
}

/// Reads values from a text.
pub(super) struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// Whether half a surrogate pair in an escape is read as U+FFFD, and how often it was.
    replace: bool,
    pub(super) replaced: u64,
}

type Parsed<T> = Result<T, Wrong>;

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str, replace: bool) -> Parser<'a> {
        Parser { text, at: 0, depth: 0, replace, replaced: 0 }
    }

    /// The only value of the text.
    pub(super) fn only(&mut self) -> Parsed<Json<'a>> {
        let value = self.value()?;
        self.end()?;
        Ok(value)
    }

    /// Where the next token starts.
    pub(super) fn place(&mut self) -> usize {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.at += self.rest().iter().take_while(|byte| blank(byte)).count();
        self.at
    }

    /// Reads over `token` if it is next.
    pub(super) fn takes(&mut self, token: u8) -> bool {
        self.place();
        let there = self.rest().first() == Some(&token);
        self.at += usize::from(there);
        there
    }

    /// Whether an array or object goes on behind an element: with a comma, or else it ends with `close`.
    pub(super) fn goes_on(&mut self, close: u8) -> Parsed<bool> {
        if self.takes(b',') {
            return Ok(true);
        }
        if self.takes(close) {
            Ok(false)
        } else {
            self.wrong(if close == b']' { "a , or ] is missing" } else { "a , or } is missing" })
        }
    }

    /// Nothing must follow.
    pub(super) fn end(&mut self) -> Parsed<()> {
        self.place();
        if self.rest().is_empty() { Ok(()) } else { self.wrong("more data follows the end") }
    }

    pub(super) fn value(&mut self) -> Parsed<Json<'a>> {
        self.place();
        match self.rest().first() {
            Some(b'"') => Ok(Json::Text(self.string()?)),
            Some(b'{') => self.nested(|parser| Ok(Json::Object(parser.object()?))),
            Some(b'[') => self.nested(|parser| Ok(Json::List(parser.list()?))),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => self.word(),
            None => self.wrong("it ends too early"),
        }
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn wrong<T>(&self, what: &'static str) -> Parsed<T> {
        // What is missing at the end is not wrong where it ends.
        let what = if self.rest().is_empty() { "it ends too early" } else { what };
        Err(Wrong { at: self.at, what })
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Parsed<Json<'a>>) -> Parsed<Json<'a>> {
        if self.depth == DEEPEST {
            return self.wrong("brackets are nested too deeply");
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn list(&mut self) -> Parsed<Vec<Json<'a>>> {
        let mut values = Vec::new();
        if self.takes(b']') {
            return Ok(values);
        }
        loop {
            values.push(self.value()?);
            if !self.goes_on(b']')? {
                return Ok(values);
            }
        }
    }

    fn object(&mut self) -> Parsed<Fields<'a>> {
        let mut fields = Vec::new();
        if self.takes(b'}') {
            return Ok(fields);
        }
        loop {
            self.place();
            if self.rest().first() != Some(&b'"') {
                return self.wrong("a name in double quotes is missing");
            }
            let name = self.string()?;
            if !self.takes(b':') {
                return self.wrong("a name is not followed by :");
            }
            fields.push((name, self.value()?));
            if !self.goes_on(b'}')? {
                return Ok(fields);
            }
        }
    }

    fn word(&mut self) -> Parsed<Json<'a>> {
        for (word, value) in [
            ("null", Json::Null),
            ("true", Json::Plain("true")),
            ("false", Json::Plain("false")),
            ("NaN", Json::NotFinite("NaN")),
            ("Infinity", Json::NotFinite("Infinity")),
        ] {
            if self.rest().starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.wrong("a value is missing")
    }

    fn number(&mut self) -> Parsed<Json<'a>> {
        let from = self.at;
        let minus = self.rest().starts_with(b"-");
        self.at += usize::from(minus);
        if minus && self.rest().starts_with(b"Infinity") {
            self.at += "Infinity".len();
            return Ok(Json::NotFinite("-Infinity"));
        }
        match self.rest().first() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.rest().first() == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.rest().first() {
            self.at += 1;
            self.at += usize::from(matches!(self.rest().first(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(Json::Plain(&self.text[from..self.at]))
    }

    fn digits(&mut self) -> Parsed<()> {
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        if digits > 0 { Ok(()) } else { self.wrong("a number has no digit where one is needed") }
    }

    fn string(&mut self) -> Parsed<Cow<'a, str>> {
        self.at += 1;
        let mut text = Cow::Borrowed("");
        loop {
            let plain = self.rest().iter().take_while(|&&byte| byte != b'"' && byte != b'\\' && byte >= b' ').count();
            let piece = &self.text[self.at..self.at + plain];
            if text.is_empty() {
                text = Cow::Borrowed(piece)
            } else {
                text.to_mut().push_str(piece)
            }
            self.at += plain;
            match self.rest().first() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    let c = self.escape()?;
                    text.to_mut().push(c);
                }
                _ => return self.wrong("a string contains an unescaped control character"),
            }
        }
    }

    fn escape(&mut self) -> Parsed<char> {
        self.at += 1;
        let c = match self.rest().first() {
            Some(c @ (b'"' | b'\\' | b'/')) => (*c).into(),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return self.wrong("unknown escape sequence"),
        };
        self.at += 1;
        Ok(c)
    }

    /// A character of UTF-16, from the `u` on; two escapes if it takes a pair.
    fn unicode(&mut self) -> Parsed<char> {
        let from = self.at;
        let first = self.unit()?;
        if let Some(c) = char::from_u32(first.into()) {
            return Ok(c);
        }
        let behind = self.at;
        if self.rest().starts_with(b"\\u") {
            self.at += 1;
            let pair = [first, self.unit()?];
            if let Some(Ok(c)) = char::decode_utf16(pair).next() {
                return Ok(c);
            }
        }
        if self.replace {
            (self.at, self.replaced) = (behind, self.replaced + 1);
            return Ok(char::REPLACEMENT_CHARACTER);
        }
        Err(Wrong {
            at: from,
            what: "an unpaired surrogate is not a character; invalid_utf8 = \"replace\" reads it as U+FFFD",
        })
    }

    fn unit(&mut self) -> Parsed<u16> {
        let digits = self.rest().get(1..5).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let Some(digits) = digits else { return self.wrong("\\u needs four hexadecimal digits") };
        self.at += 5;
        let value = |digit: u8| char::from(digit).to_digit(16).expect("it is one") as u16;
        Ok(digits.iter().fold(0, |unit, &digit| unit << 4 | value(digit)))
    }
}

/// The value of a field; null is as good as absent.
///
/// # Errors
/// If the field is there twice.
pub(super) fn get<'f, 'a>(fields: &'f Fields<'a>, name: &str) -> Result<Option<&'f Json<'a>>, String> {
    let mut found = fields.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(format!("{} occurs twice", crate::text::names::quoted(name))),
        (value, None) => Ok(value.filter(|value| **value != Json::Null)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// The same value in the library's type; `None` if JSON has none.
    fn value(json: &Json) -> Option<Value> {
        Some(match json {
            Json::Null => Value::Null,
            Json::Plain(text) => serde_json::from_str(text).ok()?,
            Json::NotFinite(_) => return None,
            Json::Text(text) => Value::String(text.to_string()),
            Json::List(list) => list.iter().map(value).collect::<Option<Vec<_>>>()?.into(),
            Json::Object(fields) => {
                Value::Object(fields.iter().map(|(k, v)| Some((k.to_string(), value(v)?))).collect::<Option<_>>()?)
            }
        })
    }

    fn compare(text: &str) {
        let mut parser = Parser::new(text, false);
        let (ours, theirs) = (parser.only(), serde_json::from_str::<Value>(text));
        match (&ours, &theirs) {
            (Ok(json), Ok(theirs)) => assert_eq!(value(json).as_ref(), Some(theirs), "{text:?}"),
            // What Python writes beyond JSON, and numbers that no f64 is.
            (Ok(json), Err(_)) => assert_eq!(value(json), None, "{text:?}"),
            (Err(wrong), Ok(_)) => panic!("{text:?}: {wrong:?}"),
            (Err(wrong), Err(_)) => assert!(wrong.at <= text.len() && text.is_char_boundary(wrong.at)),
        }
    }

    #[test]
    fn values_are_those_of_the_library() {
        for text in [
            " {\"a\": [1, -2.50e+3, true, null, \"\\u00e9\\ud83d\\udc26\\n\\/\"], \"b\": {}, \"é日\": []} ",
            "{\"a\": NaN, \"b\": -Infinity, \"c\": [Infinity]}",
            "01",
            "1.",
            "-",
            "1e",
            "+1",
            ".5",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"a\nb\"",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "[1 2]",
            "{\"a\" 1}",
            "nul",
            "1 2",
            "",
            " ",
            "\"",
            "[",
            "1e999",
            "\"\\ud83d\\ud83d\\udc26\"",
        ] {
            compare(text);
        }
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        compare(&deep(126));
        assert_eq!(Parser::new(&deep(9999), false).only().unwrap_err().at, DEEPEST);
        assert_eq!(
            Parser::new("[1.50, 1E3]", false).only().unwrap(),
            Json::List(vec![Json::Plain("1.50"), Json::Plain("1E3")])
        );
        let mut replacing = Parser::new("\"\\ud83dx\\udc26\\ud83d\\u0041\"", true);
        assert_eq!(replacing.only().unwrap(), Json::Text("\u{fffd}x\u{fffd}\u{fffd}A".into()));
        assert_eq!(replacing.replaced, 3);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::hash_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_and_any_damage(json in any_json(), cut in any::<prop::sample::Index>(), c in any::<char>(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&json) } else { serde_json::to_string(&json) }.unwrap();
            compare(&text);
            let chars: Vec<char> = text.chars().collect();
            let at = cut.index(chars.len());
            compare(&chars[..at].iter().collect::<String>());
            for c in [c, '"', '\\', ',', '0', '}'] {
                compare(&chars[..at].iter().chain([&c]).chain(&chars[at + 1..]).collect::<String>());
                compare(&chars[..at].iter().chain([&c]).chain(&chars[at..]).collect::<String>());
            }
        }
    }
}

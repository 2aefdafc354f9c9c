//! The fields of a request's JSON, asked for by type and range.

use super::answer::Failure;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::{fmt, ops::RangeInclusive};

/// A JSON object, and where it stands in the request. A field that is `null` counts as absent.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// What stands before the names of its fields, as `stream_options.`.
    path: String,
}

/// Reads the body of a request. No key may be there twice: one of the two values would be lost without a word.
///
/// # Errors
/// If it is not JSON, or nested deeper than serde's 128, or no object.
pub(super) fn parse(body: &[u8]) -> Result<Map<String, Value>, Failure> {
    let bad = |what: String| Failure::bad(None, Some("invalid_json"), what);
    match serde_json::from_slice(body) {
        Ok(Strict(Value::Object(map))) => Ok(map),
        Ok(Strict(other)) => Err(bad(format!("the body must be a JSON object, but it is {}", kind(&other)))),
        Err(error) => Err(bad(format!("the body is not JSON: {error}"))),
    }
}

impl<'a> Fields<'a> {
    /// The fields of a whole request.
    pub(super) fn of(map: &'a Map<String, Value>) -> Fields<'a> {
        Fields { map, path: String::new() }
    }

    /// The fields of an object inside of a request, which stands at `path`.
    pub(super) fn at(map: &'a Map<String, Value>, path: &str) -> Fields<'a> {
        Fields { map, path: format!("{path}.") }
    }

    /// The name of a field, from the request's beginning.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// A field, unless it is absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A field that must be there.
    pub(super) fn need(&self, key: &str) -> Result<&'a Value, Failure> {
        self.get(key).ok_or_else(|| {
            let name = self.name(key);
            Failure::bad(Some(&name), Some("missing_required_parameter"), format!("{name} is missing"))
        })
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, Failure> {
        let text = |value: &'a Value| value.as_str().ok_or_else(|| self.wrong_type(key, "a string", value));
        self.get(key).map(text).transpose()
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Failure> {
        let flag = |value: &Value| value.as_bool().ok_or_else(|| self.wrong_type(key, "true or false", value));
        self.get(key).map(flag).transpose()
    }

    /// A number.
    pub(super) fn number(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, Failure> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| self.wrong_type(key, "a number", value))?;
        if range.contains(&number) { Ok(Some(number)) } else { Err(self.out_of_range(key, value, &range)) }
    }

    /// A whole number.
    pub(super) fn count(&self, key: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Failure> {
        let Some(value) = self.get(key) else { return Ok(None) };
        if !is_whole(value) {
            return Err(self.wrong_type(key, "a whole number", value));
        }
        match whole(value).filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.out_of_range(key, value, &range)),
        }
    }

    /// An object.
    pub(super) fn object(&self, key: &str) -> Result<Option<Fields<'a>>, Failure> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields::at(map, &self.name(key)))),
            Some(other) => Err(self.wrong_type(key, "an object", other)),
        }
    }

    /// All fields, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }

    /// A field is not what it must be.
    pub(super) fn wrong_type(&self, key: &str, wanted: &str, value: &Value) -> Failure {
        let name = self.name(key);
        Failure::bad(Some(&name), Some("invalid_type"), format!("{name} must be {wanted}, but it is {}", kind(value)))
    }

    /// A field has the right type, and a value that is not allowed.
    pub(super) fn wrong(&self, key: &str, what: &str) -> Failure {
        let name = self.name(key);
        Failure::bad(Some(&name), Some("invalid_value"), format!("{name} {what}"))
    }

    fn out_of_range<T: fmt::Display>(&self, key: &str, value: &Value, range: &RangeInclusive<T>) -> Failure {
        self.wrong(key, &format!("is {value}: must be {} to {}", range.start(), range.end()))
    }
}

/// Whether a number is whole, however it is written and however large it is.
fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|x| x.fract() == 0.0)
}

/// A whole number, however it is written: 5, 5.0 or 5e0.
pub(super) fn whole(value: &Value) -> Option<i64> {
    // Every whole number below 2^53 is a float exactly.
    let exact = |x: &f64| x.fract() == 0.0 && x.abs() < 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| value.as_f64().filter(exact).map(|x| x as i64))
}

/// What a value is, with its article.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a whole number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A JSON value without keys that are there twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(Reader).map(Strict)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key:?} is there twice")));
            }
            let Strict(value) = object.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies_are_objects_with_each_key_once() {
        let said = |body: &[u8]| parse(body).map_err(|failure| (failure.status, failure.code, failure.message));
        let whole = br#"{"a":[1,-2,0.5,"\u00e9",null,true,{"b":{}}]}"#;
        assert_eq!(Value::Object(said(whole).unwrap()), json!({"a": [1, -2, 0.5, "é", null, true, {"b": {}}]}));
        let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(said(deep(100).as_bytes()).is_ok());
        for (body, why) in [
            (&b""[..], "the body is not JSON: EOF"),
            (b"{\"a\":1,\"a\":1}", "the key \"a\" is there twice"),
            (b"{\"b\":[{\"a\":1,\"a\":2}]}", "the key \"a\" is there twice"),
            (b"[]", "must be a JSON object, but it is a list"),
            (b"null", "it is null"),
            (b"{\"a\":1} x", "trailing characters"),
            (b"{\"a\":\"\xff\"}", "not JSON: invalid unicode"),
            (b"{\"a\":\"\\ud800\"}", "not JSON"),
            (b"{\"a\":1e999}", "number out of range"),
            (b"{\"a\":NaN}", "not JSON"),
            (deep(10_000).as_bytes(), "recursion limit"),
        ] {
            let (status, code, message) = said(body).unwrap_err();
            assert!(message.contains(why), "{message}, want {why}");
            assert_eq!((status, code), (400, Some("invalid_json")));
        }
    }

    #[test]
    fn a_field_has_its_type_and_range() {
        let map = json!({"n": 3, "f": 4.0, "half": 0.5, "s": "x", "no": null, "big": 1e300, "o": {"x": []}});
        let Value::Object(map) = map else { unreachable!() };
        let fields = Fields::of(&map);
        assert_eq!(fields.count("n", 0..=3), Ok(Some(3)));
        assert_eq!(fields.count("f", 0..=4), Ok(Some(4)), "4.0 is a whole number");
        assert_eq!(fields.count("no", 0..=4), Ok(None));
        assert_eq!(fields.number("n", 0.0..=3.0), Ok(Some(3.0)));
        assert_eq!(fields.text("s"), Ok(Some("x")));
        let object = fields.object("o").unwrap().unwrap();
        let fault = |failure: Failure| (failure.message, failure.param.unwrap(), failure.code.unwrap());
        for (failure, message, param, code) in [
            (fields.count("n", 0..=2).unwrap_err(), "n is 3: must be 0 to 2", "n", "invalid_value"),
            (fields.count("big", 0..=2).unwrap_err(), "big is 1e+300: must be 0 to 2", "big", "invalid_value"),
            (
                fields.count("half", 0..=2).unwrap_err(),
                "half must be a whole number, but it is a number with a fraction",
                "half",
                "invalid_type",
            ),
            (fields.number("s", 0.0..=1.0).unwrap_err(), "s must be a number, but it is a string", "s", "invalid_type"),
            (fields.flag("n").unwrap_err(), "n must be true or false, but it is a whole number", "n", "invalid_type"),
            (fields.object("n").unwrap_err(), "n must be an object, but it is a whole number", "n", "invalid_type"),
            (object.text("x").unwrap_err(), "o.x must be a string, but it is a list", "o.x", "invalid_type"),
            (fields.need("no").unwrap_err(), "no is missing", "no", "missing_required_parameter"),
        ] {
            assert_eq!(fault(failure), (message.to_owned(), param.to_owned(), code));
        }
    }
}

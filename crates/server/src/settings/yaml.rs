//! YAML with lines, by way of serde: `serde-saphyr` knows where each value came from.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

use super::document::{Entry, Node, Value};

/// Reads a document: aliases and merge keys resolved, depth and size bounded.
///
/// # Errors
///
/// The line, and the reason in words that quote no value.
pub(super) fn read(text: &str) -> Result<Node, (usize, String)> {
    match serde_saphyr::from_str::<Spanned<Value>>(text) {
        Ok(document) => Ok(node(document)),
        Err(error) => {
            let line = error
                .location()
                .map_or(1, |location| location.line().max(1));
            Err((usize::try_from(line).unwrap_or(1), reason(&error)))
        }
    }
}

/// The error without the lines around it, which may hold secrets, and without its location.
fn reason(error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().to_string();
    let first = message.lines().next().unwrap_or_default();
    let end = first.find(" at line ").unwrap_or(first.len());
    first.get(..end).unwrap_or(first).to_owned()
}

fn node(spanned: Spanned<Value>) -> Node {
    Node {
        line: line(&spanned),
        value: spanned.value,
    }
}

fn line<T>(spanned: &Spanned<T>) -> usize {
    usize::try_from(spanned.referenced.line())
        .unwrap_or(1)
        .max(1)
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::text(text))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        let whole = number.try_into().ok();
        Ok(Value::Number { whole })
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        let whole = Some(number);
        Ok(Value::Number { whole })
    }

    fn visit_i128<E>(self, _: i128) -> Result<Value, E> {
        Ok(Value::Number { whole: None })
    }

    fn visit_u128<E>(self, _: u128) -> Result<Value, E> {
        Ok(Value::Number { whole: None })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Number { whole: None })
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(value) = list.next_element::<Spanned<Value>>()? {
            nodes.push(node(value));
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut table = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Spanned<Value>>()? {
            let line = line(&key);
            // A nested table starts below its key; what is missing in it is missing there.
            let mut node = node(value);
            if matches!(node.value, Value::Table(_) | Value::List(_)) {
                node.line = line;
            }
            table.push(Entry {
                key: key.value,
                line,
                node,
            });
        }
        Ok(Value::Table(table))
    }
}

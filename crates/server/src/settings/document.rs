//! A configuration as it is written, whether TOML or YAML: values with their lines. No `Debug`,
//! since some of the texts are secrets.

use secrecy::zeroize::Zeroizing;

pub(super) struct Node {
    /// From 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

pub(super) enum Value {
    Text(Zeroizing<String>),
    Boolean(bool),
    /// A number, and what it is where it is whole, from zero on.
    Number {
        whole: Option<u64>,
    },
    Date,
    Bytes,
    Null,
    List(Vec<Node>),
    Table(Table),
}

pub(super) type Table = Vec<Entry>;

pub(super) struct Entry {
    pub(super) key: String,
    /// Of the key, from 1.
    pub(super) line: usize,
    pub(super) node: Node,
}

impl Value {
    pub(super) fn text(text: String) -> Self {
        Self::Text(Zeroizing::new(text))
    }

    /// For "… is expected, not a list".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Boolean(_) => "true or false",
            Self::Number { .. } => "a number",
            Self::Date => "a date",
            Self::Bytes => "binary data",
            Self::Null => "nothing",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

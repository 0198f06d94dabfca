//! Typed values out of a document, with every mistake noted on the way.

use std::{collections::BTreeSet, time::Duration};

use super::{
    document::{Entry, Node, Table, Value},
    duration::parse_duration,
    error::{Mistake, Place, SettingsError, SettingsErrors},
    size::parse_size,
};

/// The mistakes so far.
#[derive(Default)]
pub(super) struct Report {
    mistakes: Vec<SettingsError>,
    /// Lines that could not be read. Whatever else seems wrong with these follows from that.
    torn: BTreeSet<usize>,
    variables: Variables,
}

/// What a `$` in a value means.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Variables {
    /// A variable that nobody replaces.
    #[default]
    Refused,
    /// A variable that would have been replaced if it were set.
    Replaced,
}

impl Report {
    pub(super) fn new(variables: Variables) -> Self {
        Self {
            variables,
            ..Self::default()
        }
    }

    pub(super) fn syntax(&mut self, line: usize, language: &'static str, reason: String) {
        self.torn.insert(line);
        let mistake = Mistake::Syntax { language, reason };
        self.mistakes.push(SettingsError {
            line: Some(line),
            key: String::new(),
            mistake,
        });
    }

    pub(super) fn add(&mut self, place: &Place, mistake: Mistake) {
        if !self.torn.contains(&place.line) {
            let (line, key) = (Some(place.line), place.key.clone());
            self.mistakes.push(SettingsError { line, key, mistake });
        }
    }

    /// Something is not there. In a text that could only be read in part, it may well be.
    pub(super) fn missing(&mut self, section: &Section<'_>, key: &str, hint: &'static str) {
        if self.torn.is_empty() {
            let key = section.path_of(key);
            self.add(
                &Place {
                    key,
                    line: section.place.line,
                },
                Mistake::Missing(hint),
            );
        }
    }

    /// What was read, if there was no mistake.
    pub(super) fn finish<T>(self, value: T) -> Result<T, SettingsErrors> {
        match SettingsErrors::new(self.mistakes) {
            Some(errors) => Err(errors),
            None => Ok(value),
        }
    }
}

/// A table and where it is.
pub(super) struct Section<'n> {
    pub(super) place: Place,
    table: &'n Table,
}

/// A value and where it is.
pub(super) struct Field<'n> {
    pub(super) place: Place,
    node: &'n Node,
}

impl<'n> Section<'n> {
    pub(super) fn root(table: &'n Table) -> Self {
        Self {
            place: Place {
                key: String::new(),
                line: 1,
            },
            table,
        }
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        match self.place.key.as_str() {
            "" => key.to_owned(),
            parent => format!("{parent}.{key}"),
        }
    }

    /// The value of a key, where it has one.
    pub(super) fn get(&self, key: &str) -> Option<Field<'n>> {
        let entry = self.table.iter().find(|entry| entry.key == key)?;
        Some(self.field(entry)).filter(|field| !matches!(field.node.value, Value::Null))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// All keys, whatever they are.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'n str, Field<'n>)> {
        self.table
            .iter()
            .map(|entry| (entry.key.as_str(), self.field(entry)))
    }

    fn field(&self, entry: &'n Entry) -> Field<'n> {
        let place = Place {
            key: self.path_of(&entry.key),
            line: entry.line,
        };
        Field {
            place,
            node: &entry.node,
        }
    }

    /// A text that has to be there.
    pub(super) fn required(
        &self,
        report: &mut Report,
        key: &str,
        hint: &'static str,
    ) -> Option<Text<'n>> {
        let Some(field) = self.get(key) else {
            report.missing(self, key, hint);
            return None;
        };
        let text = field.text(report)?;
        if text.value.trim().is_empty() {
            report.add(&text.place, Mistake::Empty(hint));
            return None;
        }
        Some(text)
    }

    /// A duration, the default where none is given.
    pub(super) fn duration(
        &self,
        report: &mut Report,
        key: &str,
        limits: &Limits,
    ) -> Option<Duration> {
        let field = self.get(key)?;
        let value = field.duration(report)?;
        if (limits.min..=limits.max).contains(&value) {
            return Some(value);
        }
        if value.is_zero() && limits.zero != Zero::Invalid {
            return Some(Duration::ZERO);
        }
        let zero = match limits.zero {
            Zero::ForEver => ", and 0 means for ever",
            Zero::Never => ", and 0 means never",
            Zero::Invalid => "",
        };
        let (min, max) = (limits.min, limits.max);
        report.add(
            &field.place,
            Mistake::OutOfBounds {
                value,
                min,
                max,
                zero,
            },
        );
        None
    }
}

impl Section<'_> {
    /// A size in bytes, from `min` on.
    pub(super) fn size(&self, report: &mut Report, key: &str, min: u64) -> Option<u64> {
        let field = self.get(key)?;
        if !matches!(field.node.value, Value::Text(_)) {
            field.wrong_type(report, "a size in quotes, such as \"512MiB\",");
            return None;
        }
        let text = field.text(report)?;
        if text.value.is_empty() {
            return None;
        }
        let size = parse_size(text.value);
        if size.is_none_or(|size| size < min) {
            let text = text.value.chars().take(40).collect();
            report.add(&field.place, Mistake::BadSize { text, min });
        }
        size.filter(|size| *size >= min)
    }
}

/// A text and where it is.
pub(super) struct Text<'n> {
    pub(super) place: Place,
    pub(super) value: &'n str,
}

/// The bounds of a duration.
pub(super) struct Limits {
    pub(super) min: Duration,
    pub(super) max: Duration,
    pub(super) zero: Zero,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    ForEver,
    Never,
    Invalid,
}

impl<'n> Field<'n> {
    /// Whether it is empty, or a no.
    pub(super) fn says_nothing(&self) -> bool {
        match &self.node.value {
            Value::Text(text) => text.is_empty(),
            Value::Boolean(value) => !value,
            _ => false,
        }
    }

    pub(super) fn text(&self, report: &mut Report) -> Option<Text<'n>> {
        let Value::Text(value) = &self.node.value else {
            self.wrong_type(report, "text in quotes");
            return None;
        };
        let text = Text {
            place: self.place.clone(),
            value,
        };
        if let Some(mistake) = self.bad_text(text.value, report.variables) {
            report.add(&self.place, mistake);
            return None;
        }
        Some(text)
    }

    fn bad_text(&self, text: &str, variables: Variables) -> Option<Mistake> {
        if let Some(variable) = find_variable(text) {
            let shown = !is_secret(&self.place.key);
            let variable = shown.then(|| variable.chars().take(40).collect());
            return Some(match variables {
                Variables::Refused => Mistake::Variable(variable),
                Variables::Replaced => Mistake::Unset(variable),
            });
        }
        if text.starts_with('<') && text.ends_with('>') {
            return Some(Mistake::Placeholder);
        }
        text.chars()
            .any(char::is_control)
            .then_some(Mistake::ControlCharacter)
    }

    pub(super) fn boolean(&self, report: &mut Report) -> Option<bool> {
        match self.node.value {
            Value::Boolean(value) => Some(value),
            _ => {
                self.wrong_type(report, "true or false");
                None
            }
        }
    }

    /// A whole number, where it is one.
    pub(super) fn whole(&self) -> Option<u64> {
        match self.node.value {
            Value::Number { whole } => whole,
            _ => None,
        }
    }

    /// A duration; `None` also for an empty text, which stands for the default.
    fn duration(&self, report: &mut Report) -> Option<Duration> {
        if let Value::Number { whole: Some(0) } = self.node.value {
            return Some(Duration::ZERO);
        }
        if !matches!(self.node.value, Value::Text(_)) {
            self.wrong_type(report, "a duration in quotes, such as \"10s\",");
            return None;
        }
        let text = self.text(report)?;
        if text.value.is_empty() {
            return None;
        }
        match parse_duration(text.value) {
            Ok(duration) => Some(duration),
            Err(reason) => {
                let text = text.value.chars().take(40).collect();
                report.add(&self.place, Mistake::BadDuration { text, reason });
                None
            }
        }
    }

    pub(super) fn table(&self, report: &mut Report, expected: &'static str) -> Option<Section<'n>> {
        match &self.node.value {
            Value::Table(table) => Some(Section {
                place: self.place.clone(),
                table,
            }),
            _ => {
                self.wrong_type(report, expected);
                None
            }
        }
    }

    /// The tables of a list. What is no table in it is reported and left out; a list without
    /// anything is reported too.
    pub(super) fn tables(
        &self,
        report: &mut Report,
        expected: &'static str,
        if_empty: &'static str,
    ) -> Vec<Section<'n>> {
        let Value::List(nodes) = &self.node.value else {
            self.wrong_type(report, expected);
            return Vec::new();
        };
        if nodes.is_empty() {
            report.add(&self.place, Mistake::Empty(if_empty));
        }
        let elements = nodes.iter().enumerate().filter_map(|(index, node)| {
            let key = format!("{}[{index}]", self.place.key);
            Field {
                place: Place {
                    key,
                    line: node.line,
                },
                node,
            }
            .table(report, expected)
        });
        elements.collect()
    }

    /// Whether this is a text without a character.
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.node.value, Value::Text(text) if text.is_empty())
    }

    /// Whether this is `[]`, which stands for the default.
    pub(super) fn is_empty_list(&self) -> bool {
        matches!(&self.node.value, Value::List(nodes) if nodes.is_empty())
    }

    fn wrong_type(&self, report: &mut Report, expected: &'static str) {
        let found = self.node.value.kind();
        report.add(&self.place, Mistake::WrongType { expected, found });
    }
}

/// The first `$NAME` or `${…}` in a text.
fn find_variable(text: &str) -> Option<&str> {
    text.match_indices('$').find_map(|(start, _)| {
        let rest = text.get(start + 1..)?;
        let length = match rest.strip_prefix('{') {
            Some(inside) => inside.find('}').filter(|&length| length > 0)? + 2,
            None => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
                if end == 0 {
                    return None;
                }
                end
            }
        };
        text.get(start..start + 1 + length)
    })
}

/// Whether the value of this key must not be shown.
fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    let public = ["name", "type", "path", "file_path", "region", "s3_region"];
    !public.contains(&name) && !name.ends_with("interval") && name != "retention"
}

/// The known name that was probably meant.
pub(super) fn similar(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', ' ', '.'], "_");
    let name = plain(name);
    let distance = |known: &str| strsim::damerau_levenshtein(&name, &plain(known));
    // One slip in a short name, more in a long one.
    let near = |known: &str| distance(known) <= 1 + known.len() / 5;
    let best = known
        .iter()
        .copied()
        .filter(|known| near(known))
        .min_by_key(|known| distance(known));
    // Or a prefix left out, as in `bucket` for `s3_bucket`.
    let tail = format!("_{name}");
    best.or_else(|| {
        known
            .iter()
            .copied()
            .find(|known| plain(known).ends_with(&tail))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_wherever_a_shell_would_see_one() {
        let cases = [
            ("$HOME/backup", Some("$HOME")),
            ("/a/${DIR}/b", Some("${DIR}")),
            ("a$1", Some("$1")),
            ("$", None),
            ("a$", None),
            ("$ {a}", None),
            ("${}", None),
            ("$/${A}", Some("${A}")),
            ("ends ${open", None),
            ("$é", None),
        ];
        for (text, expected) in cases {
            assert_eq!(find_variable(text), expected, "{text}");
        }
    }

    #[test]
    fn a_slip_of_the_finger_finds_the_key_that_was_meant() {
        const KEYS: [&str; 4] = ["name", "sync_interval", "retention", "s3_bucket"];
        let cases = [
            ("sync-interval", Some("sync_interval")),
            ("SyncInterval", Some("sync_interval")),
            ("sync_intervall", Some("sync_interval")),
            ("retnetion", Some("retention")),
            ("nmae", Some("name")),
            ("bucket", Some("s3_bucket")),
            ("colour", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(similar(name, &KEYS), expected, "{name}");
        }
    }
}

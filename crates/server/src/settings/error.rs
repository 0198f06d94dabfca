//! Everything that is wrong with a configuration, at once.

use std::{fmt, time::Duration};

use super::duration::{DurationError, format_duration};

/// All the mistakes of a configuration, by line. `Display` gives each a line of its own:
///
/// ```text
/// line 7: replicas[0].retention: `7 days` is not a duration: ` days` is not a unit; …
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsErrors(Vec<SettingsError>);

/// One mistake, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettingsError {
    /// The line, from 1; `None` where the mistake is something that is nowhere.
    pub line: Option<usize>,
    /// The key, as in `replicas[0].retention`; empty for the whole document.
    pub key: String,
    /// What is wrong.
    pub mistake: Mistake,
}

impl SettingsErrors {
    /// At least one mistake.
    pub(super) fn new(mut mistakes: Vec<SettingsError>) -> Option<Self> {
        // Mistakes without a line are about the whole document, so they come first.
        mistakes.sort_by(|a, b| (a.line, &a.key).cmp(&(b.line, &b.key)));
        // A value that is read for two reasons is wrong only once.
        mistakes.dedup();
        (!mistakes.is_empty()).then_some(Self(mistakes))
    }

    pub(super) fn whole(mistake: Mistake) -> Self {
        Self(vec![SettingsError {
            line: None,
            key: String::new(),
            mistake,
        }])
    }

    /// The mistakes, by line: at least one.
    pub fn mistakes(&self) -> &[SettingsError] {
        &self.0
    }
}

impl std::error::Error for SettingsErrors {}

impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if index > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        self.mistake.fmt(f)
    }
}

/// What is wrong. None of these ever holds the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mistake {
    /// The text as such cannot be read.
    #[error("not valid {language}: {reason}")]
    Syntax {
        /// `TOML` or `YAML`.
        language: &'static str,
        /// In the parser's words, which quote no value.
        reason: String,
    },
    /// Not a text.
    #[error("the configuration is not UTF-8 text")]
    NotText,
    /// Not a configuration.
    #[error("the configuration is larger than {max} bytes, the most that is read")]
    TooLarge {
        /// The limit in bytes.
        max: usize,
    },
    /// Stored in a format that is neither TOML nor YAML.
    #[error("format `{0}` cannot be read: store the configuration as `toml` or `yaml`")]
    UnknownFormat(String),
    /// A key that nobody knows.
    #[error("unknown key{}", suggestion(.similar, .expected))]
    UnknownKey {
        /// A known key much like it.
        similar: Option<&'static str>,
        /// The keys that could be there.
        expected: Vec<&'static str>,
    },
    /// A key in a place where it has no meaning.
    #[error("does not belong here: {0}")]
    Misplaced(&'static str),
    /// A setting of Litestream that Evertide has not.
    #[error("is a setting of Litestream that Evertide does not have: {0}")]
    OfLitestreamOnly(&'static str),
    /// A setting of the Go module's that has no meaning here.
    #[error("is a setting of the Go module that Evertide does not have: {0}")]
    OfGoModuleOnly(&'static str),
    /// A key of this product, but not of this version.
    #[error("is not supported yet: {0}")]
    NotYet(&'static str),
    /// A key of another type of replica.
    #[error("is a key of replicas of type \"{of}\", and this one is of type \"{is}\": remove it")]
    OfOtherType {
        /// The type the key belongs to.
        of: &'static str,
        /// The type of this replica.
        is: String,
    },
    /// A value of the wrong type.
    #[error("{expected} is expected here, not {found}")]
    WrongType {
        /// What the key takes, with an example.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A required key that is not there.
    #[error("is missing: {0}")]
    Missing(&'static str),
    /// An empty text where one is needed.
    #[error("is empty: {0}")]
    Empty(&'static str),
    /// A value of the blueprint that was not replaced.
    #[error("is still the placeholder of the blueprint: replace it, angle brackets included")]
    Placeholder,
    /// A variable of the environment.
    #[error(
        "the value holds {}, and variables are not replaced: write the value itself, \
         so that the configuration says all there is to know",
        variable(.0)
    )]
    Variable(Option<String>),
    /// A variable of the environment that is not set.
    #[error("the value holds {}, which is not set in the environment: set it, or write the value",
        variable(.0))]
    Unset(Option<String>),
    /// A pattern that cannot be read.
    #[error("is no pattern: write one such as \"*.db\" or \"tenant-[0-9].db\"")]
    BadPattern,
    /// A directory that cannot be looked through.
    #[error("cannot look for databases in {dir}: {reason}")]
    BadDirectory {
        /// The directory.
        dir: String,
        /// What the system said.
        reason: String,
    },
    /// A directory without a database.
    #[error("no database in {dir} matches {pattern}: check both, or list databases by `path`")]
    NothingFound {
        /// The directory.
        dir: String,
        /// The pattern.
        pattern: String,
    },
    /// A home directory.
    #[error("`~` is not replaced: write the whole path")]
    Tilde,
    /// A character that no name or path has.
    #[error("holds a control character: remove it")]
    ControlCharacter,
    /// A text that is no duration.
    #[error(
        "`{text}` is not a duration: {reason}; write numbers with units \
         (ns, us, ms, s, m, h, d, w), such as \"1h30m\", \"300ms\" or \"7d\""
    )]
    BadDuration {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: DurationError,
    },
    /// A duration out of all reason.
    #[error("{} is out of bounds: from {} to {} is possible{zero}",
        format_duration(*.value), format_duration(*.min), format_duration(*.max))]
    OutOfBounds {
        /// The duration.
        value: Duration,
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
        /// What zero would mean, if anything.
        zero: &'static str,
    },
    /// A tier of retention that does not fit to the others.
    #[error("{0}")]
    BadTier(&'static str),
    /// A level that does not fit to the others.
    #[error("{0}")]
    BadLevel(&'static str),
    /// A text that is no size, or none that makes sense.
    #[error(
        "`{text}` is no size of {min} bytes or more: write a number with a unit \
         (kB, MB, GB, TB, or KiB, MiB, GiB, TiB), such as \"512MiB\""
    )]
    BadSize {
        /// The text.
        text: String,
        /// The least that is possible.
        min: u64,
    },
    /// Two replicas of a database with one name.
    #[error(
        "`{name}` is also the name of {}: give each replica a name of its own",
        other
    )]
    DuplicateName {
        /// The name.
        name: String,
        /// The other one.
        other: Place,
    },
    /// Two databases that are one.
    #[error("is the same file as {}: list each database once", other)]
    DuplicateDatabase {
        /// The other one.
        other: Place,
    },
    /// Two replicas that are one.
    #[error(
        "is the same destination as {}: two writers at one place destroy each other's backup, \
         so give each its own",
        other
    )]
    DuplicateDestination {
        /// The other one.
        other: Place,
    },
    /// A replica in place of its database.
    #[error("is the database itself: choose a directory for the replica")]
    ReplicaIsDatabase,
    /// Two keys that exclude each other.
    #[error("cannot be given together with `{0}`: keep one of them")]
    Together(&'static str),
    /// A type of replica that nobody knows.
    #[error("\"{found}\" is no type of replica{}", suggestion(.similar, .expected))]
    UnknownType {
        /// What is there.
        found: String,
        /// A known type much like it.
        similar: Option<&'static str>,
        /// The types there are.
        expected: Vec<&'static str>,
    },
    /// A type of replica that this build has no client for.
    #[error(
        "replicas of type \"{found}\" are not supported by this build of Evertide: it has {}",
        quoted(.supported)
    )]
    UnsupportedType {
        /// The type.
        found: &'static str,
        /// The types that it has.
        supported: Vec<&'static str>,
    },
    /// A destination that cannot be used.
    #[error("{0}")]
    BadDestination(String),
    /// A stored configuration of databases, none of which is this one.
    #[error("no entry of `dbs` is for {database}: it lists {}", listed.join(", "))]
    NotThisDatabase {
        /// The application's database.
        database: String,
        /// The databases there are entries for.
        listed: Vec<String>,
    },
}

/// Where something else is, for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The key.
    pub key: String,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in line {}", self.key, self.line)
    }
}

fn quoted(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    quoted.join(", ")
}

fn suggestion(similar: &Option<&'static str>, expected: &[&'static str]) -> String {
    match similar {
        Some(similar) => format!("; did you mean `{similar}`?"),
        None => format!("; known here: {}", expected.join(", ")),
    }
}

fn variable(name: &Option<String>) -> String {
    match name {
        Some(name) => format!("the variable `{name}`"),
        None => "a variable (`$…`)".to_owned(),
    }
}

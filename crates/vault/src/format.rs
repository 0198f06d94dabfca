//! What kind of text a stored configuration is.

use std::{convert::Infallible, fmt, path::Path, str::FromStr};

/// What kind of text a stored configuration is: the column `format`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ConfigFormat {
    /// TOML, the default of the table.
    #[default]
    Toml,
    /// YAML; `yml`, which the Go framework takes from a file's name, is read as this.
    Yaml,
    /// Whatever else an application stores beside ours.
    Other(String),
}

impl ConfigFormat {
    /// The format that a file's extension stands for, `None` without one.
    pub fn of_file(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(Self::from_name(&extension))
    }

    /// The word in the table.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Toml => "toml",
            Self::Yaml => "yaml",
            Self::Other(name) => name,
        }
    }

    pub(crate) fn from_name(name: &str) -> Self {
        match name {
            "toml" => Self::Toml,
            "yaml" | "yml" => Self::Yaml,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for ConfigFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ConfigFormat {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(Self::from_name(name))
    }
}

//! Replication settings: from text to [`ReplicationOptions`], with every mistake at once.
//!
//! | where from | what | read by |
//! |---|---|---|
//! | the encrypted store | TOML, the keys of the Go module | [`parse_toml`] |
//! | the encrypted store | whatever format its row has | [`parse_stored`] |
//! | `--config FILE` | TOML with `[[databases]]` | [`parse_databases_toml`] |
//! | `--config litestream.yml` | Litestream's own | [`parse_litestream_yaml`] |
//!
//! A configuration says all there is to know: no key is ignored, and nothing is taken from the
//! environment but the variables in a `litestream.yml` that is given as a file. [`blueprint`](crate::blueprint) writes one to start from.

mod directory;
mod document;
mod drill;
mod duration;
mod error;
mod levels;
mod litestream_keys;
mod litestream_yaml;
mod parts;
mod replica;
mod s3;
mod section;
mod size;
mod store;
mod tiers;
mod toml;
mod variables;
mod yaml;

use std::path::{Path, PathBuf};

use evertide::ReplicationOptions;
use evertide_vault::ConfigFormat;

pub use self::{
    directory::{DirectoryContent, WatchedDirectory},
    duration::{DurationError, format_duration, parse_duration},
    error::{Mistake, Place, SettingsError, SettingsErrors},
    litestream_yaml::parse_litestream_yaml,
    toml::{parse_databases_toml, parse_toml},
};

#[cfg(test)]
pub(crate) use self::toml::keys;

/// The most bytes a configuration may have: 1 MiB.
pub const MAX_SETTINGS: usize = 1024 * 1024;

/// A database, and how it is replicated.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DatabaseSettings {
    /// The file.
    pub path: PathBuf,
    /// How it is replicated.
    pub replication: ReplicationOptions,
}

impl DatabaseSettings {
    /// The database at this path, replicated like this.
    pub fn new(path: impl Into<PathBuf>, replication: ReplicationOptions) -> Self {
        Self {
            path: path.into(),
            replication,
        }
    }
}

/// What a file given to `--config` says.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct FleetSettings {
    /// Databases that are listed, or were found in directories that are not watched.
    pub databases: Vec<DatabaseSettings>,
    /// Directories whose databases are replicated as they come.
    pub watched: Vec<WatchedDirectory>,
}

impl From<Vec<DatabaseSettings>> for FleetSettings {
    fn from(databases: Vec<DatabaseSettings>) -> Self {
        Self {
            databases,
            watched: Vec::new(),
        }
    }
}

/// Reads what the encrypted store holds for `database`.
///
/// TOML holds no path. A `litestream.yml`, which the newer Go module stores, holds several: the
/// entry for this database counts.
///
/// # Errors
///
/// All mistakes at once, each with its key and line.
pub fn parse_stored(
    content: &[u8],
    format: &ConfigFormat,
    database: &Path,
) -> Result<ReplicationOptions, SettingsErrors> {
    match format {
        ConfigFormat::Toml => toml::parse_toml_of(text(content)?, database),
        ConfigFormat::Yaml => {
            let mut seen = replica::Seen::looking_for(Some(database));
            let databases = litestream_yaml::parse_stored(text(content)?, &mut seen)?;
            let path = replica::comparable(database);
            let listed = databases
                .iter()
                .map(|entry| entry.path.display().to_string())
                .collect();
            let entry = databases
                .into_iter()
                .find(|e| replica::comparable(&e.path) == path);
            entry.map(|entry| entry.replication).ok_or_else(|| {
                let database = database.display().to_string();
                SettingsErrors::whole(Mistake::NotThisDatabase { database, listed })
            })
        }
        other => Err(SettingsErrors::whole(Mistake::UnknownFormat(
            other.to_string(),
        ))),
    }
}

/// Reads a file given to `--config`. In a `litestream.yml`, variables of the environment are replaced.
///
/// # Errors
///
/// All mistakes at once, each with its key and line.
pub fn parse_config_file(
    content: &[u8],
    format: &ConfigFormat,
) -> Result<Vec<DatabaseSettings>, SettingsErrors> {
    parse_config_file_for(content, format, None)
}

/// As [`parse_config_file`], to find one database, which may be lost: it belongs to a directory of
/// the settings also where there is no such file any more.
///
/// # Errors
///
/// As [`parse_config_file`].
pub fn parse_config_file_for(
    content: &[u8],
    format: &ConfigFormat,
    database: Option<&Path>,
) -> Result<Vec<DatabaseSettings>, SettingsErrors> {
    parse_file(content, format, &mut replica::Seen::looking_for(database))
}

/// As [`parse_config_file`], with the directories that are to be watched apart from the databases.
///
/// # Errors
///
/// As [`parse_config_file`].
pub fn parse_fleet_file(
    content: &[u8],
    format: &ConfigFormat,
) -> Result<FleetSettings, SettingsErrors> {
    let mut seen = replica::Seen::watching();
    let databases = parse_file(content, format, &mut seen)?;
    Ok(FleetSettings {
        databases,
        watched: seen.into_watched(),
    })
}

fn parse_file(
    content: &[u8],
    format: &ConfigFormat,
    seen: &mut replica::Seen,
) -> Result<Vec<DatabaseSettings>, SettingsErrors> {
    match format {
        ConfigFormat::Toml => toml::parse_databases(text(content)?, seen),
        ConfigFormat::Yaml => litestream_yaml::parse_file(text(content)?, seen),
        other => Err(SettingsErrors::whole(Mistake::UnknownFormat(
            other.to_string(),
        ))),
    }
}

fn text(content: &[u8]) -> Result<&str, SettingsErrors> {
    std::str::from_utf8(content).map_err(|_| SettingsErrors::whole(Mistake::NotText))
}

fn check_size(bytes: usize) -> Result<(), SettingsErrors> {
    if bytes > MAX_SETTINGS {
        return Err(SettingsErrors::whole(Mistake::TooLarge {
            max: MAX_SETTINGS,
        }));
    }
    Ok(())
}

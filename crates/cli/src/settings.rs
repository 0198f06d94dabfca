//! Reads settings, from the encrypted store or from a file.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use evertide::ReplicationOptions;
use evertide_server::settings::{
    DatabaseSettings, MAX_SETTINGS, SettingsErrors, parse_config_file_for, parse_stored,
};
use evertide_storage::{Disk, OsDisk};
use evertide_vault::{AgeKeyFile, ConfigFormat, SecureConfigStore};
use zeroize::Zeroizing;

use crate::args::SettingsFrom;

/// A database of the settings.
#[derive(Debug)]
pub(crate) struct Database {
    /// Settings as they are stored in a database name none: it is the one they are in.
    pub(crate) path: Option<PathBuf>,
    pub(crate) replication: ReplicationOptions,
}

impl From<DatabaseSettings> for Database {
    fn from(settings: DatabaseSettings) -> Self {
        Self {
            path: Some(settings.path),
            replication: settings.replication,
        }
    }
}

/// Reads settings: at least one database.
pub(crate) fn load(from: SettingsFrom<'_>) -> anyhow::Result<Vec<Database>> {
    load_for(from, None)
}

/// As [`load`], to find one database: it may be lost, and belong to a directory of the settings.
pub(crate) fn load_for(
    from: SettingsFrom<'_>,
    wanted: Option<&Path>,
) -> anyhow::Result<Vec<Database>> {
    match from {
        SettingsFrom::Store {
            key,
            database,
            scope,
        } => {
            let store = SecureConfigStore::open(database, AgeKeyFile::new(key))?;
            let config = store.latest(scope)?;
            let parsed = parse_stored(config.content.as_bytes(), &config.info.format, database);
            let replication = parsed.map_err(|errors| {
                let place = format!("scope {scope} of {}", database.display());
                mistakes(&place, &errors)
            })?;
            Ok(vec![Database {
                path: Some(database.to_owned()),
                replication,
            }])
        }
        SettingsFrom::File { path, key } => {
            let content = read_file(path)?;
            match (key, is_encrypted(&content)) {
                (None, false) => parse_file(path, &content, wanted),
                (Some(key), true) => {
                    let what = path.display().to_string();
                    let content = AgeKeyFile::new(key).decrypt(&content, &what)?;
                    parse_file(path, content.as_bytes(), wanted)
                }
                (None, true) => bail!(
                    "{} is encrypted: give the key file that opens it with --age-key",
                    path.display()
                ),
                (Some(_), false) => bail!(
                    "{} is not encrypted, so --age-key does not apply: leave it out, or give the \
                     file that `config export` wrote",
                    path.display()
                ),
            }
        }
    }
}

fn parse_file(path: &Path, content: &[u8], wanted: Option<&Path>) -> anyhow::Result<Vec<Database>> {
    let format = format_of(path, content)?;
    let parsed = if format == ConfigFormat::Toml && is_of_one_database(content) {
        // There is no database to find in it, so its path does not matter.
        parse_stored(content, &format, Path::new("")).map(|replication| {
            vec![Database {
                path: None,
                replication,
            }]
        })
    } else {
        let databases = parse_config_file_for(content, &format, wanted);
        databases.map(|databases| databases.into_iter().map(Database::from).collect())
    };
    let databases = parsed.map_err(|errors| mistakes(&path.display().to_string(), &errors))?;
    if databases.is_empty() {
        bail!(
            "{} has no database: expected at least one, with a replica",
            path.display()
        );
    }
    Ok(databases)
}

/// Settings with mistakes, as an error that lists them all.
pub(crate) fn mistakes(place: &str, errors: &SettingsErrors) -> anyhow::Error {
    match errors.mistakes() {
        [one] => anyhow!("the settings in {place} have a mistake; mend it and try again: {one}"),
        all => anyhow!(
            "the settings in {place} have {} mistakes; mend them and try again:\n{errors}",
            all.len()
        ),
    }
}

/// Reads a small file, which may hold secrets.
pub(crate) fn read_file(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    // Some room for what encryption adds; the parser is strict.
    const MOST: u64 = MAX_SETTINGS as u64 + 64 * 1024;
    let context = || format!("cannot read {}", path.display());
    let file = OsDisk.open_read(path).with_context(context)?;
    let len = file.len().with_context(context)?;
    if len > MOST {
        bail!(
            "{} has {len} bytes, which is too long for settings: check the path",
            path.display()
        );
    }
    let mut content = Zeroizing::new(vec![0; usize::try_from(len)?]);
    file.read_exact_at(&mut content, 0).with_context(context)?;
    Ok(content)
}

fn is_encrypted(content: &[u8]) -> bool {
    content.starts_with(b"age-encryption.org/")
}

/// The format of a file: from its name, without the `.age` of an encrypted one, or else from its
/// content.
fn format_of(path: &Path, content: &[u8]) -> anyhow::Result<ConfigFormat> {
    let encrypted = path.extension().is_some_and(|extension| extension == "age");
    let stem = if encrypted {
        path.with_extension("")
    } else {
        path.to_owned()
    };
    match ConfigFormat::of_file(&stem) {
        Some(known @ (ConfigFormat::Toml | ConfigFormat::Yaml)) => Ok(known),
        _ => {
            let text = std::str::from_utf8(content)
                .with_context(|| format!("{} is not a text file", path.display()))?;
            let is_toml = text.parse::<toml::Table>().is_ok();
            Ok(if is_toml {
                ConfigFormat::Toml
            } else {
                ConfigFormat::Yaml
            })
        }
    }
}

/// Whether TOML has the form that is stored in a database: replicas, and no `[[databases]]`.
fn is_of_one_database(content: &[u8]) -> bool {
    let table = std::str::from_utf8(content)
        .ok()
        .and_then(|text| text.parse::<toml::Table>().ok());
    table.is_some_and(|table| table.contains_key("replicas") && !table.contains_key("databases"))
}

//! Reads settings, from the encrypted store or from a file.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use evertide::ReplicationOptions;
use evertide_server::settings::{
    DatabaseSettings, FleetSettings, MAX_SETTINGS, SettingsErrors, parse_config_file_for,
    parse_fleet_file, parse_stored,
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

/// The settings of everything that is to be replicated.
#[derive(Debug)]
pub(crate) enum Fleet {
    /// Databases, and directories of them: at least one.
    Named(FleetSettings),
    /// Those of one database, which they do not name.
    Unnamed(ReplicationOptions),
}

/// What settings are, before anything is looked for in them.
struct Content {
    text: Zeroizing<Vec<u8>>,
    format: ConfigFormat,
    place: String,
}

/// Reads settings of everything that is to be replicated.
pub(crate) fn load_fleet(from: SettingsFrom<'_>) -> anyhow::Result<Fleet> {
    let content = match from {
        SettingsFrom::Store {
            key,
            database,
            scope,
        } => {
            let replication = load_stored(key, database, scope)?;
            let databases = vec![DatabaseSettings::new(database, replication)];
            return Ok(Fleet::Named(databases.into()));
        }
        SettingsFrom::File { path, key } => open(path, key)?,
    };
    let parsed = match content.of_one_database() {
        Some(replication) => replication.map(Fleet::Unnamed),
        None => parse_fleet_file(&content.text, &content.format).map(Fleet::Named),
    };
    let fleet = parsed.map_err(|errors| mistakes(&content.place, &errors))?;
    if let Fleet::Named(settings) = &fleet
        && settings.databases.is_empty()
        && settings.watched.is_empty()
    {
        bail!(no_database(&content.place));
    }
    Ok(fleet)
}

/// Reads settings, at least of one database, to find one: it may be lost, and belong to a directory
/// of the settings.
pub(crate) fn load_for(
    from: SettingsFrom<'_>,
    wanted: Option<&Path>,
) -> anyhow::Result<Vec<Database>> {
    let content = match from {
        SettingsFrom::Store {
            key,
            database,
            scope,
        } => {
            let replication = load_stored(key, database, scope)?;
            return Ok(vec![Database {
                path: Some(database.to_owned()),
                replication,
            }]);
        }
        SettingsFrom::File { path, key } => open(path, key)?,
    };
    let parsed = match content.of_one_database() {
        Some(replication) => replication.map(|replication| {
            vec![Database {
                path: None,
                replication,
            }]
        }),
        None => parse_config_file_for(&content.text, &content.format, wanted)
            .map(|databases| databases.into_iter().map(Database::from).collect()),
    };
    let databases = parsed.map_err(|errors| mistakes(&content.place, &errors))?;
    if databases.is_empty() {
        bail!(no_database(&content.place));
    }
    Ok(databases)
}

fn no_database(place: &str) -> String {
    format!("{place} has no database: expected at least one, with a replica")
}

fn load_stored(key: &Path, database: &Path, scope: &str) -> anyhow::Result<ReplicationOptions> {
    let store = SecureConfigStore::open(database, AgeKeyFile::new(key))?;
    let config = store.latest(scope)?;
    let parsed = parse_stored(config.content.as_bytes(), &config.info.format, database);
    parsed.map_err(|errors| {
        let place = format!("scope {scope} of {}", database.display());
        mistakes(&place, &errors)
    })
}

/// Reads a file of settings, decrypted where a key is given.
fn open(path: &Path, key: Option<&Path>) -> anyhow::Result<Content> {
    let content = read_file(path)?;
    let place = path.display().to_string();
    let text = match (key, is_encrypted(&content)) {
        (None, false) => content,
        (Some(key), true) => {
            let content = AgeKeyFile::new(key).decrypt(&content, &place)?;
            Zeroizing::new(content.as_bytes().to_vec())
        }
        (None, true) => {
            bail!("{place} is encrypted: give the key file that opens it with --age-key")
        }
        (Some(_), false) => bail!(
            "{place} is not encrypted, so --age-key does not apply: leave it out, or give the \
             file that `config export` wrote"
        ),
    };
    Ok(Content {
        format: format_of(path, &text)?,
        text,
        place,
    })
}

impl Content {
    /// Reads it as settings of one database, if that is what it is.
    fn of_one_database(&self) -> Option<Result<ReplicationOptions, SettingsErrors>> {
        let unnamed = self.format == ConfigFormat::Toml && is_of_one_database(&self.text);
        // There is no database to find in it, so its path does not matter.
        unnamed.then(|| parse_stored(&self.text, &self.format, Path::new("")))
    }
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

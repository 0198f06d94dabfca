//! Where a command finds its replica: a URL, the encrypted store, or a file.

use std::path::{Path, PathBuf};

use clap::Args;
use evertide::CONFIG_SCOPE;

use crate::failure::usage;

/// Says where settings are.
#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// age key file that opens the settings
    #[arg(long, value_name = "KEY")]
    age_key: Option<PathBuf>,
    /// Database that holds the settings, encrypted, and is the one they are for
    #[arg(
        long,
        value_name = "DB",
        requires = "age_key",
        conflicts_with = "config"
    )]
    db: Option<PathBuf>,
    /// Scope the settings are stored under
    #[arg(long, value_name = "SCOPE", default_value = CONFIG_SCOPE, requires = "db")]
    scope: String,
    /// Settings file: TOML, litestream.yml, or what `config export` wrote (with --age-key)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Where settings come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SettingsFrom<'a> {
    /// From the encrypted store in a database.
    Store {
        key: &'a Path,
        database: &'a Path,
        scope: &'a str,
    },
    /// From a file, encrypted when there is a key.
    File {
        path: &'a Path,
        key: Option<&'a Path>,
    },
}

impl SettingsArgs {
    /// The one place that was meant, `None` where no settings are.
    pub(super) fn resolve(&self) -> anyhow::Result<Option<SettingsFrom<'_>>> {
        let key = self.age_key.as_deref();
        match (&self.config, &self.db, key) {
            (Some(path), _, key) => Ok(Some(SettingsFrom::File { path, key })),
            (None, Some(database), Some(key)) => Ok(Some(SettingsFrom::Store {
                key,
                database,
                scope: &self.scope,
            })),
            (None, Some(_), None) => Err(usage("--db needs --age-key, which opens its settings")),
            (None, None, Some(_)) => Err(usage(
                "--age-key opens settings: say where they are, with --db or --config",
            )),
            (None, None, None) => Ok(None),
        }
    }
}

/// Says where a replica is.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// URL or path of the replica; with --config, the database whose replica is meant
    #[arg(value_name = "REPLICA_URL")]
    target: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Name of the replica, where the settings have several
    #[arg(long, value_name = "NAME")]
    replica: Option<String>,
}

/// Where a replica is looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SourceFrom<'a> {
    Url(&'a str),
    Settings {
        settings: SettingsFrom<'a>,
        database: Option<&'a str>,
        replica: Option<&'a str>,
    },
}

impl SourceArgs {
    /// The one place that was meant.
    pub(crate) fn resolve(&self) -> anyhow::Result<SourceFrom<'_>> {
        let (database, replica) = (self.target.as_deref(), self.replica.as_deref());
        match (self.settings.resolve()?, database) {
            (
                Some(SettingsFrom::Store {
                    database: store, ..
                }),
                Some(target),
            ) => {
                let store = store.display();
                Err(usage(format!(
                    "both `{target}` and --db are given: a replica URL says where to look, and so \
                     do the settings in {store}; leave one of them out"
                )))
            }
            (Some(settings), database) => Ok(SourceFrom::Settings {
                settings,
                database,
                replica,
            }),
            (None, _) if replica.is_some() => Err(usage(
                "--replica chooses among the replicas of settings: give --db or --config too",
            )),
            (None, Some(url)) => Ok(SourceFrom::Url(url)),
            (None, None) => Err(usage(
                "no replica is given: expected a replica URL such as file:///backup/app, or \
                 --age-key with --db, or --config",
            )),
        }
    }
}

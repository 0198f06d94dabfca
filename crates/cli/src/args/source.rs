//! Where a command finds its replica: a URL, the encrypted store, or a file.

use std::path::{Path, PathBuf};

use clap::Args;
use evertide::CONFIG_SCOPE;

use crate::failure::usage;

/// Says where a replica is.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// URL or path of the replica; with --config, the database whose replica is meant
    #[arg(value_name = "REPLICA_URL")]
    pub(crate) target: Option<String>,
    /// age key file that opens the settings
    #[arg(long, value_name = "KEY")]
    pub(crate) age_key: Option<PathBuf>,
    /// Database that holds the settings, encrypted, and is the one they are for
    #[arg(
        long,
        value_name = "DB",
        requires = "age_key",
        conflicts_with = "config"
    )]
    pub(crate) db: Option<PathBuf>,
    /// Scope the settings are stored under
    #[arg(long, value_name = "SCOPE", default_value = CONFIG_SCOPE, requires = "db")]
    pub(crate) scope: String,
    /// Settings file: TOML, litestream.yml, or what `config export` wrote (with --age-key)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Name of the replica, where the settings have several
    #[arg(long, value_name = "NAME")]
    pub(crate) replica: Option<String>,
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
        let target = self.target.as_deref();
        let replica = self.replica.as_deref();
        let key = self.age_key.as_deref();
        let settings = match (&self.config, &self.db, key) {
            (Some(path), _, key) => SettingsFrom::File { path, key },
            (None, Some(database), Some(key)) => {
                if let Some(target) = target {
                    return Err(usage(format!(
                        "both `{target}` and --db are given: a replica URL says where to look, \
                         and so do the \
                         settings in {}; leave one of them out",
                        database.display()
                    )));
                }
                SettingsFrom::Store {
                    key,
                    database,
                    scope: &self.scope,
                }
            }
            (None, Some(_), None) => unreachable!("clap requires the key"),
            (None, None, _) => return self.url(),
        };
        Ok(SourceFrom::Settings {
            settings,
            database: target,
            replica,
        })
    }

    fn url(&self) -> anyhow::Result<SourceFrom<'_>> {
        if self.age_key.is_some() {
            return Err(usage(
                "--age-key opens settings: say where they are, with --db or --config",
            ));
        }
        if self.replica.is_some() {
            return Err(usage(
                "--replica chooses among the replicas of settings: give --db or --config too",
            ));
        }
        match &self.target {
            Some(url) => Ok(SourceFrom::Url(url)),
            None => Err(usage(
                "no replica is given: expected a replica URL such as file:///backup/app, or \
                 --age-key with --db, or \
                 --config",
            )),
        }
    }
}

//! The backup of a database as a daemon of the server.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use evertide::{Replication, ReplicationOptions};
use evertide_vault::{AgeKeyFile, SecureConfigStore};

use crate::daemon::{Daemon, DaemonError, Reloaded};
use crate::settings::{self, SettingsErrors};

/// Replicates a database while the server runs: captures from before the first request, and stops when the
/// commits of the last one are on the replicas.
///
/// ```no_run
/// use evertide_server::{BackupDaemon, Server};
/// use evertide_vault::AgeKeyFile;
///
/// # async fn run(router: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
/// let key = AgeKeyFile::new("age.key");
/// let backup = BackupDaemon::from_store("app.db", key, evertide::CONFIG_SCOPE).await?;
/// let replication = backup.replication(); // for handlers: `wait_durable`, `status`
/// Server::new(router).add_daemon(backup).run().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BackupDaemon {
    name: String,
    replication: Replication,
    source: Option<Source>,
}

/// Why the backup has no settings to run with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// They cannot be read from the store.
    #[error("cannot load the backup settings of {}", database.display())]
    Store {
        /// The database they are stored in.
        database: PathBuf,
        /// What the store said.
        source: Box<evertide_vault::Error>,
    },
    /// They were read, and are wrong.
    #[error(
        "the backup settings in {} (scope {scope:?}, stored {stored_at}) have mistakes; mend them and \
         store them again",
        database.display()
    )]
    Settings {
        /// The database they are stored in.
        database: PathBuf,
        /// Their scope in the store.
        scope: String,
        /// When they were stored.
        stored_at: String,
        /// Every mistake.
        source: SettingsErrors,
    },
    /// They are well-formed, and replication cannot run with them.
    #[error(transparent)]
    Replication(#[from] evertide::Error),
}

impl BackupDaemon {
    /// The daemon of a replication that was built by the application. A reload changes nothing: call
    /// [`Replication::update`].
    pub fn new(replication: Replication) -> Self {
        let name = format!("backup of {}", replication.path().display());
        Self {
            name,
            replication,
            source: None,
        }
    }

    /// Takes the settings from the encrypted store in the database itself, now and at each reload.
    ///
    /// Settings that are wrong are refused with every mistake; on a reload the running ones stay. Nothing
    /// is replicated before the server starts the daemon.
    ///
    /// # Errors
    ///
    /// [`BackupError`], when there are no settings or no valid ones.
    pub async fn from_store(
        database: impl Into<PathBuf>,
        key: AgeKeyFile,
        scope: impl Into<String>,
    ) -> Result<Self, BackupError> {
        let source = Source {
            database: database.into(),
            key,
            scope: scope.into(),
        };
        let options = source.load().await?;
        let replication = Replication::builder(&source.database)
            .options(options)
            .build()?;
        Ok(Self {
            source: Some(source),
            ..Self::new(replication)
        })
    }

    /// A handle for the application: whether a commit is on the replicas, and how they are.
    pub fn replication(&self) -> Replication {
        self.replication.clone()
    }
}

#[async_trait]
impl Daemon for BackupDaemon {
    fn name(&self) -> &str {
        &self.name
    }

    async fn start(&self) -> Result<(), DaemonError> {
        Ok(self.replication.start().await?)
    }

    async fn stop(&self, deadline: Duration) -> Result<(), DaemonError> {
        match self.replication.stop(deadline).await {
            // A start that was cut short, or the application stopped it itself.
            Ok(()) | Err(evertide::Error::NotRunning(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn reload(&self) -> Result<Reloaded, DaemonError> {
        let Some(source) = &self.source else {
            return Ok(Reloaded::Unsupported);
        };
        let new = source.load().await?;
        let running = self.replication.options();
        if new == running {
            return Ok(Reloaded::Unchanged);
        }
        let summary = Changes::between(&running, &new).to_string();
        self.replication.update(new).await?;
        Ok(Reloaded::Changed(summary))
    }
}

/// Where the settings of a database are kept.
#[derive(Debug, Clone)]
struct Source {
    database: PathBuf,
    key: AgeKeyFile,
    scope: String,
}

impl Source {
    async fn load(&self) -> Result<ReplicationOptions, BackupError> {
        let source = self.clone();
        // SQLite and the key file block.
        match tokio::task::spawn_blocking(move || source.load_blocking()).await {
            Ok(loaded) => loaded,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn load_blocking(&self) -> Result<ReplicationOptions, BackupError> {
        let failed = |source: evertide_vault::Error| BackupError::Store {
            database: self.database.clone(),
            source: Box::new(source),
        };
        let store = SecureConfigStore::open(&self.database, self.key.clone()).map_err(failed)?;
        let stored = store.latest(&self.scope).map_err(failed)?;
        let (content, format) = (stored.content.as_bytes(), &stored.info.format);
        settings::parse_stored(content, format, &self.database).map_err(|source| {
            BackupError::Settings {
                database: self.database.clone(),
                scope: self.scope.clone(),
                stored_at: stored.info.created_at,
                source,
            }
        })
    }
}

/// What a reload changes, for one line of the log. Names only: the settings themselves hold secrets.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes<'a> {
    added: Vec<&'a str>,
    removed: Vec<&'a str>,
    changed: Vec<&'a str>,
    intervals: bool,
    stage_limit: bool,
}

impl<'a> Changes<'a> {
    fn between(old: &'a ReplicationOptions, new: &'a ReplicationOptions) -> Self {
        let mut changes = Self {
            intervals: old.monitor_interval != new.monitor_interval
                || old.checkpoint_interval != new.checkpoint_interval,
            stage_limit: old.stage_limit != new.stage_limit,
            ..Self::default()
        };
        for replica in &new.replicas {
            match old.replicas.iter().find(|known| known.name == replica.name) {
                None => changes.added.push(&replica.name),
                Some(known) if known != replica => changes.changed.push(&replica.name),
                Some(_) => {}
            }
        }
        let kept = |name: &str| new.replicas.iter().any(|replica| replica.name == name);
        let names = old.replicas.iter().map(|replica| replica.name.as_str());
        changes.removed = names.filter(|name| !kept(name)).collect();
        changes
    }
}

impl fmt::Display for Changes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            ("added", &self.added),
            ("removed", &self.removed),
            ("changed", &self.changed),
        ];
        let mut said = Vec::new();
        for (what, names) in lists.into_iter().filter(|(_, names)| !names.is_empty()) {
            said.push(format!("replica {what}: {}", names.join(", ")));
        }
        if self.intervals {
            said.push("intervals changed".to_owned());
        }
        if self.stage_limit {
            said.push("limit of staged files changed".to_owned());
        }
        if said.is_empty() {
            // Equal replicas in another order.
            said.push("order of the replicas changed".to_owned());
        }
        f.write_str(&said.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evertide::ReplicaOptions;
    use evertide_storage::Destination;

    fn options(replicas: &[(&str, &str)]) -> ReplicationOptions {
        let mut options = ReplicationOptions::default();
        for (name, url) in replicas {
            let destination = Destination::parse(url).unwrap();
            options
                .replicas
                .push(ReplicaOptions::new(*name, destination));
        }
        options
    }

    #[test]
    fn a_reload_says_in_one_line_what_it_changed() {
        let old = options(&[("one", "file:///one"), ("two", "file:///two")]);
        let mut slower = old.clone();
        slower.monitor_interval *= 2;
        for (new, expected) in [
            (options(&[("one", "file:///one")]), "replica removed: two"),
            (
                options(&[("one", "file:///else"), ("two", "file:///two")]),
                "replica changed: one",
            ),
            (
                options(&[
                    ("two", "file:///two"),
                    ("four", "file:///4"),
                    ("five", "file:///5"),
                ]),
                "replica added: four, five; replica removed: one",
            ),
            (
                options(&[("two", "file:///two"), ("one", "file:///one")]),
                "order of the replicas changed",
            ),
            (slower, "intervals changed"),
        ] {
            assert_eq!(Changes::between(&old, &new).to_string(), expected);
        }
    }
}

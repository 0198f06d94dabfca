//! All databases of one `replicate`, as one daemon.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use evertide::{Replication, ReplicationOptions};
use evertide_server::{Daemon, DaemonError, Reloaded, async_trait};
use tokio::{sync::Mutex, task::JoinSet};

use super::Origin;

/// Replicates databases, and takes over changed settings.
#[derive(Debug)]
pub(super) struct Fleet {
    origin: Origin,
    members: Mutex<BTreeMap<PathBuf, Replication>>,
    /// A replica failed, and nobody wants to wait for it.
    given_up: AtomicBool,
}

/// How long a database that is no longer in the settings may take to finish its uploads.
const REMOVAL: Duration = Duration::from_secs(10);

impl Fleet {
    /// Nothing is started yet.
    pub(super) fn new(
        origin: Origin,
        databases: Vec<(PathBuf, ReplicationOptions)>,
    ) -> Result<Self, evertide::Error> {
        let mut members = BTreeMap::new();
        for (path, options) in databases {
            members.insert(path.clone(), build(&path, options)?);
        }
        Ok(Self {
            origin,
            members: Mutex::new(members),
            given_up: AtomicBool::new(false),
        })
    }

    /// Stopping does not wait for replicas from now on.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Handles of all databases.
    pub(super) async fn members(&self) -> Vec<Replication> {
        self.members.lock().await.values().cloned().collect()
    }

    async fn apply(
        &self,
        databases: Vec<(PathBuf, ReplicationOptions)>,
    ) -> Result<Reloaded, DaemonError> {
        let mut members = self.members.lock().await;
        let mut new = Vec::new();
        let mut changed = Vec::new();
        // Everything is checked before anything is changed.
        for (path, options) in &databases {
            match members.get(path) {
                Some(member) if member.options() == *options => {}
                Some(member) => {
                    build(path, options.clone())?;
                    changed.push((member.clone(), options.clone()));
                }
                None => new.push(build(path, options.clone())?),
            }
        }
        let wanted = |path: &Path| databases.iter().any(|(wanted, _)| wanted == path);
        let gone: Vec<_> = members
            .keys()
            .filter(|path| !wanted(path))
            .cloned()
            .collect();

        let mut said = Vec::new();
        let mut failed = Vec::new();
        for (member, options) in changed {
            let path = member.path().display();
            match member.update(options).await {
                Ok(()) => said.push(format!("changed {path}")),
                Err(error) => failed.push(error.to_string()),
            }
        }
        for path in gone {
            if let Some(member) = members.remove(&path) {
                said.push(format!("removed {}", path.display()));
                failed.extend(stop(&member, REMOVAL).await.err());
            }
        }
        for member in new {
            match member.start().await {
                Ok(()) => {
                    said.push(format!("added {}", member.path().display()));
                    members.insert(member.path().to_owned(), member);
                }
                Err(error) => failed.push(error.to_string()),
            }
        }
        match (failed.is_empty(), said.is_empty()) {
            (true, true) => Ok(Reloaded::Unchanged),
            (true, false) => Ok(Reloaded::Changed(said.join("; "))),
            (false, _) => Err(failed.join("; ").into()),
        }
    }
}

fn build(path: &Path, options: ReplicationOptions) -> Result<Replication, evertide::Error> {
    Replication::builder(path).options(options).build()
}

async fn stop(member: &Replication, deadline: Duration) -> Result<(), String> {
    match member.stop(deadline).await {
        Ok(()) | Err(evertide::Error::NotRunning(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[async_trait]
impl Daemon for Fleet {
    fn name(&self) -> &str {
        "replication"
    }

    async fn start(&self) -> Result<(), DaemonError> {
        let members = self.members().await;
        let mut starting = JoinSet::new();
        for member in &members {
            let member = member.clone();
            starting.spawn(async move { member.start().await });
        }
        let mut failed = Vec::new();
        while let Some(started) = starting.join_next().await {
            failed.extend(started?.err());
        }
        let Some(first) = failed.into_iter().next() else {
            for member in &members {
                let replicas = member.options().replicas;
                let to: Vec<_> = replicas
                    .iter()
                    .map(|replica| replica.destination.to_string())
                    .collect();
                let (database, to) = (member.path().display(), to.join(", "));
                tracing::info!(%database, to, "replicating");
            }
            return Ok(());
        };
        for member in members {
            let _ = stop(&member, Duration::ZERO).await;
        }
        Err(first.into())
    }

    async fn stop(&self, deadline: Duration) -> Result<(), DaemonError> {
        // Some of the time is ours, so that each database is named rather than all cut off.
        let given_up = self.given_up.load(Ordering::Relaxed);
        let deadline = if given_up {
            Duration::ZERO
        } else {
            deadline.mul_f32(0.95)
        };
        let mut stopping = JoinSet::new();
        for member in self.members().await {
            stopping.spawn(async move { stop(&member, deadline).await });
        }
        let mut failed = Vec::new();
        while let Some(stopped) = stopping.join_next().await {
            failed.extend(stopped?.err());
        }
        if failed.is_empty() {
            Ok(())
        } else {
            Err(failed.join("; ").into())
        }
    }

    async fn reload(&self) -> Result<Reloaded, DaemonError> {
        let Origin::Settings { .. } = &self.origin else {
            return Ok(Reloaded::Unsupported);
        };
        let origin = self.origin.clone();
        let loaded = tokio::task::spawn_blocking(move || origin.databases()).await?;
        self.apply(loaded?).await
    }
}

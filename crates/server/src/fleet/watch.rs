//! Following what comes to directories and vanishes: one task for all of them, woken by notices of the
//! file system, and from time to time where there are none.

use std::{
    collections::{BTreeMap, HashSet},
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use evertide::DirectoryWatch;

use super::Shared;
use crate::settings::{DatabaseSettings, FleetSettings, WatchedDirectory};

/// Notices that follow each other within this time are one.
const SETTLE: Duration = Duration::from_millis(20);
/// A file that is no database yet is looked at again after this, then twice, four times … as long.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// Follows the watched directories of these settings, for ever, and starts what was refused: without
/// directories, until nothing is.
pub(super) fn run(
    shared: Arc<Shared>,
    settings: &FleetSettings,
) -> Result<impl Future<Output = ()> + Send + use<>, evertide::Error> {
    let mut watch = DirectoryWatch::new()?;
    let listed = settings.databases.iter();
    let listed = listed.map(|database| database.replication.monitor_interval);
    let watched = settings.watched.iter();
    let intervals = watched
        .map(WatchedDirectory::monitor_interval)
        .chain(listed);
    let slow = intervals.min().unwrap_or(Duration::from_secs(30));
    let directories = Arc::new(settings.watched.clone());
    Ok(async move {
        let mut unread = BTreeMap::new();
        let mut pause = FIRST_LOOK;
        loop {
            let found = look(Arc::clone(&directories)).await;
            for (path, error) in &found.unread {
                // It is tried again with every look, and said once.
                if unread.get(path) != Some(error) {
                    tracing::warn!(
                        path = %path.display(), error,
                        "cannot look for databases there; trying again"
                    );
                }
            }
            unread.clone_from(&found.unread);
            if watch.set(found.directories.iter().map(|path| &**path)) {
                continue; // something may have come to it before it was watched
            }
            let all = shared.follow(&found).await && !found.unfinished;
            if all && directories.is_empty() {
                return;
            }
            if all {
                pause = FIRST_LOOK;
            }
            let next = if all { slow } else { pause.min(slow) };
            tokio::select! {
                () = watch.changed() => {
                    pause = FIRST_LOOK;
                    tokio::time::sleep(SETTLE).await;
                }
                () = tokio::time::sleep(next) => pause = pause.saturating_mul(2),
            }
        }
    })
}

/// What is in all the directories.
#[derive(Default)]
pub(super) struct Found {
    pub(super) databases: Vec<DatabaseSettings>,
    /// What could not be read, and why.
    pub(super) unread: BTreeMap<PathBuf, String>,
    directories: Vec<PathBuf>,
    unfinished: bool,
}

impl Found {
    /// Whether it is not known what is at this path.
    pub(super) fn is_unknown(&self, path: &Path) -> bool {
        self.unread.keys().any(|unread| path.starts_with(unread))
    }
}

pub(super) async fn look(directories: Arc<Vec<WatchedDirectory>>) -> Found {
    match tokio::task::spawn_blocking(move || look_now(&directories)).await {
        Ok(found) => found,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

pub(super) fn look_now(directories: &[WatchedDirectory]) -> Found {
    let mut found = Found::default();
    for directory in directories {
        match directory.look() {
            Ok(content) => {
                found.databases.extend(content.databases);
                found.directories.extend(content.directories);
                found.unfinished |= content.unfinished;
                found.unread.extend(content.unread);
            }
            Err(error) => {
                let path = directory.path().to_owned();
                found.unread.insert(path, error.to_string());
            }
        }
    }
    // Two entries may mean one file: it is the first one's.
    let mut paths = HashSet::new();
    found
        .databases
        .retain(|database| paths.insert(database.path.clone()));
    found
}

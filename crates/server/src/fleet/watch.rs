//! Following what comes to directories and vanishes: one task for all of them, woken by notices of the
//! file system, and from time to time where there are none.

use std::{collections::HashSet, future::Future, io, sync::Arc, time::Duration};

use evertide::DirectoryWatch;

use super::Shared;
use crate::settings::{DatabaseSettings, WatchedDirectory};

/// Notices that follow each other within this time are one.
const SETTLE: Duration = Duration::from_millis(20);
/// A file that is no database yet is looked at again after this, then twice, four times … as long.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// Follows these directories, for ever.
pub(super) fn run(
    shared: Arc<Shared>,
    directories: Vec<WatchedDirectory>,
) -> Result<impl Future<Output = ()> + Send, evertide::Error> {
    let mut watch = DirectoryWatch::new()?;
    let intervals = directories.iter().map(WatchedDirectory::monitor_interval);
    let slow = intervals.min().unwrap_or(Duration::from_secs(30));
    let directories = Arc::new(directories);
    Ok(async move {
        let mut failed = false;
        let mut pause = FIRST_LOOK;
        loop {
            let found = match look(Arc::clone(&directories)).await {
                Ok(found) => found,
                Err(error) => {
                    if !failed {
                        tracing::warn!(%error, "cannot look for databases; trying again");
                    }
                    failed = true;
                    Found::default()
                }
            };
            if !found.complete {
                tokio::time::sleep(slow).await;
                continue;
            }
            failed = false;
            if watch.set(found.directories.iter().map(|path| &**path)) {
                continue; // something may have come to it before it was watched
            }
            let all = shared.follow(found.databases).await && !found.unfinished;
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
    directories: Vec<std::path::PathBuf>,
    unfinished: bool,
    /// All of them could be read.
    complete: bool,
}

pub(super) async fn look(directories: Arc<Vec<WatchedDirectory>>) -> io::Result<Found> {
    let look = move || {
        let mut found = Found {
            complete: true,
            ..Found::default()
        };
        for directory in &*directories {
            let content = directory.look()?;
            found.databases.extend(content.databases);
            found.directories.extend(content.directories);
            found.unfinished |= content.unfinished;
        }
        // Two entries may mean one file: it is the first one's.
        let mut paths = HashSet::new();
        found
            .databases
            .retain(|database| paths.insert(database.path.clone()));
        Ok(found)
    };
    match tokio::task::spawn_blocking(look).await {
        Ok(found) => found,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

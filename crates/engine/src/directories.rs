//! Noticing that databases come to directories and go, for whoever replicates all that are there.

use std::{
    collections::HashMap,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Error,
    runtime::Engine,
    wal::descriptors::{self, Access},
    watch::{Notices, Watch},
};

/// Whether the file begins as a database of SQLite does. It is opened at most once in the life of the
/// process and never closed, so that no lock that somebody holds on it in this process is dropped.
pub fn is_database(path: &Path) -> bool {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let Ok((file, _)) = descriptors::open(path, Access::Read) else {
        return false;
    };
    let mut start = [0; MAGIC.len()];
    file.read_exact_at(&mut start, 0).is_ok() && start == *MAGIC
}

/// Notices about what comes to some directories and goes: by the one inotify instance that serves
/// all databases of the process, without a thread or a timer.
///
/// A notice is a hint. Directories cannot always be watched, and a file that comes may become a
/// database only later: look from time to time, too.
#[derive(Debug)]
pub struct DirectoryWatch {
    engine: Arc<Engine>,
    notices: Arc<Notices>,
    watches: HashMap<PathBuf, Option<Watch>>,
}

impl DirectoryWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`], when the engine's thread cannot be started.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            engine: Engine::get().map_err(Error::Engine)?,
            notices: Arc::default(),
            watches: HashMap::new(),
        })
    }

    /// Watches these directories and no others. Returns whether one of them was not watched before:
    /// what came to it until now has to be looked for.
    pub fn set<'a>(&mut self, directories: impl IntoIterator<Item = &'a Path>) -> bool {
        let mut before = std::mem::take(&mut self.watches);
        let mut added = false;
        for directory in directories {
            if self.watches.contains_key(directory) {
                continue; // it is named twice
            }
            // One that could not be watched may be there now.
            let known = before.remove(directory).flatten();
            let watch = known.or_else(|| {
                let watch = self.engine.watcher.watch_entries(directory, &self.notices);
                added |= watch.is_some();
                watch
            });
            self.watches.insert(directory.to_owned(), watch);
        }
        added
    }

    /// Waits until something came or went since the last call.
    pub async fn changed(&self) {
        self.notices.wait().await;
        self.notices.take();
    }
}

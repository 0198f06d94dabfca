//! The names of a copy and of what lies beside it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use evertide_storage::{Disk, DiskFile};

use super::{
    FollowError, LOCK_PAUSE, LOCK_TRIES,
    position::{MAX_LEN, Position},
};
use crate::{
    RestoreOptions,
    runtime::{Claim, Engine, blocking},
};

/// The names of a copy and of what lies beside it, and the right to follow it in this process: whoever
/// may still touch any of that has a clone.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    /// The file itself, no link to it: beside that is where SQLite looks for a journal.
    pub(super) database: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) claim: Arc<Claim>,
}

/// One path for one copy, whatever links lead there. What does not exist yet keeps its name.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) => Ok(resolve(directory)?.join(name)),
        _ => Ok(path),
    }
}

impl Paths {
    /// Waits a moment where the copy is claimed: a follower that was dropped may be at its last change.
    pub(super) async fn claim(
        engine: &Arc<Engine>,
        restore: &RestoreOptions,
    ) -> Result<Self, FollowError> {
        let output = restore.output.clone();
        let resolved = blocking(move || resolve(&output)).await;
        let resolved = resolved.map_err(FollowError::io("find", &restore.output))?;
        for _ in 0..=LOCK_TRIES {
            if let Some(claim) = engine.claim(resolved.clone()) {
                return Ok(Self {
                    database: resolved,
                    disk: Arc::clone(&restore.disk),
                    claim: Arc::new(claim),
                });
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        Err(FollowError::AlreadyFollowed(restore.output.clone()))
    }

    fn directory(&self) -> &Path {
        let parent = self.database.parent();
        let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
        parent.unwrap_or(Path::new("."))
    }

    /// `.<name>-evertide-<purpose>` beside the copy.
    pub(super) fn hidden(&self, purpose: &str) -> PathBuf {
        let mut name = std::ffi::OsString::from(".");
        name.push(self.database.file_name().unwrap_or_default());
        name.push(format!("-evertide-{purpose}"));
        self.directory().join(name)
    }

    pub(super) fn position(&self) -> PathBuf {
        self.hidden("follow")
    }

    /// Where SQLite looks for a journal.
    pub(super) fn journal(&self) -> PathBuf {
        let mut name = self.database.as_os_str().to_owned();
        name.push("-journal");
        name.into()
    }

    /// Creates a file of our own, in place of what a killed follower left there.
    pub(super) fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, FollowError> {
        self.remove(path)?;
        let created = self.disk.create_new(path, 0o600);
        created.map_err(FollowError::io("create", path))
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), FollowError> {
        match self.disk.remove_file(path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(FollowError::io("remove", path)(error)),
        }
    }

    pub(super) fn sync(&self) -> Result<(), FollowError> {
        let directory = self.directory();
        let synced = self.disk.sync_dir(directory);
        synced.map_err(FollowError::io("sync", directory))
    }

    /// Writes the position, durably, in one step.
    pub(super) fn write_position(&self, position: Position) -> Result<(), FollowError> {
        let (path, new) = (self.position(), self.hidden("follow-new"));
        let file = self.create(&new)?;
        file.write_at(position.to_text().as_bytes(), 0)
            .and_then(|()| file.sync_all())
            .map_err(FollowError::io("write", &new))?;
        let renamed = self.disk.rename(&new, &path);
        renamed.map_err(FollowError::io("replace", &path))?;
        self.sync()
    }

    pub(super) fn read_position(&self) -> Result<Option<Position>, FollowError> {
        let path = self.position();
        let read = self.disk.open_read(&path).and_then(|file| {
            let len = file.len()?.min(MAX_LEN) as usize;
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        });
        match read {
            Ok(bytes) => Ok(Position::parse(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FollowError::io("read", &path)(error)),
        }
    }
}

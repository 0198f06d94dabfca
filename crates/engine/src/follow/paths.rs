//! The names of a copy and of what lies beside it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use evertide_storage::{Disk, DiskFile};

use super::{
    FollowError,
    position::{MAX_LEN, Position},
};

/// The names of a copy and of what lies beside it.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) database: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
}

impl Paths {
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

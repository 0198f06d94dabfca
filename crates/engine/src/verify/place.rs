//! A directory of its own for a database that is restored only to be looked at.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use evertide_storage::{Disk, DiskFile, Metadata};

use crate::wal::try_lock_file;

const PREFIX: &str = "evertide-verify-";
/// Whoever holds the lock on this file uses the directory.
const LOCK: &str = "lock";
/// Nobody else can look into the directory, whatever the permissions of what is in it.
const MODE: u32 = 0o700;
/// Tries to make a directory that nobody takes for a leftover, or to remove one in which a thread that
/// has not yet heard that nobody waits for it makes a file.
const TRIES: u32 = 20;

/// A directory that goes with everything in it when this is dropped. What a killed process left goes
/// when the next one is made in the same place.
#[derive(Debug)]
pub(crate) struct Place {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    /// Tells others that the directory is in use.
    _lock: Box<dyn DiskFile>,
}

impl Place {
    /// Makes one below `parent`. Blocks.
    pub(crate) fn create(disk: Arc<dyn Disk>, parent: &Path) -> io::Result<Self> {
        let mut last = io::ErrorKind::NotFound.into();
        for _ in 0..TRIES {
            let directory = parent.join(format!("{PREFIX}{:016x}", fastrand::u64(..)));
            disk.create_dir(&directory, MODE)?;
            match lock_new(&*disk, &directory) {
                Ok(Some(lock)) => {
                    let place = Self {
                        disk,
                        directory,
                        _lock: lock,
                    };
                    place.sweep(parent);
                    return Ok(place);
                }
                // Another process came before the lock and took it for a leftover.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => last = error,
                Err(error) => {
                    remove(&*disk, &directory);
                    return Err(error);
                }
            }
        }
        Err(last)
    }

    /// Where the database is to be restored to.
    pub(crate) fn database(&self) -> PathBuf {
        self.directory.join("restored.db")
    }

    /// Removes what killed processes left. It has to be ours: in a directory that everybody can write
    /// to, somebody else may have put something of that name.
    fn sweep(&self, parent: &Path) {
        let Ok(own) = self.disk.metadata(&self.directory) else {
            return;
        };
        for entry in self.disk.read_dir(parent).unwrap_or_default() {
            let directory = parent.join(&entry.name);
            let named = entry.is_dir && entry.name.as_bytes().starts_with(PREFIX.as_bytes());
            if !named || directory == self.directory {
                continue;
            }
            let found = self.disk.metadata(&directory);
            if found.is_ok_and(|found| is_alike(&found, &own)) && is_left(&*self.disk, &directory) {
                let removed = remove(&*self.disk, &directory);
                let path = directory.display();
                tracing::info!(%path, removed, "found what a killed verification left");
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !remove(&*self.disk, &self.directory) {
            let path = self.directory.display();
            tracing::warn!(%path, "a temporary directory stays behind until the next verification");
        }
    }
}

fn is_alike(found: &Metadata, own: &Metadata) -> bool {
    found.uid == own.uid && found.mode == own.mode
}

/// Locks a directory that was just made; `None` where it is gone again, or taken for a leftover.
fn lock_new(disk: &dyn Disk, directory: &Path) -> io::Result<Option<Box<dyn DiskFile>>> {
    let path = directory.join(LOCK);
    let lock = disk.create_new(&path, 0o600)?;
    // Where locks do not work, nobody will take it for a leftover either.
    if let Ok(false) = try_lock_file(lock.as_fd()) {
        return Ok(None);
    }
    let there = disk.metadata(&path)?;
    Ok((there.ino == lock.metadata()?.ino).then_some(lock))
}

/// Whether nobody uses the directory any more.
fn is_left(disk: &dyn Disk, directory: &Path) -> bool {
    match disk.open_rw(&directory.join(LOCK)) {
        // The lock is let go again: whoever just made the directory notices that it is gone.
        Ok(lock) => matches!(try_lock_file(lock.as_fd()), Ok(true)),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Removes the directory with what is in it, the lock last; whether it is gone.
fn remove(disk: &dyn Disk, directory: &Path) -> bool {
    for _ in 0..TRIES {
        let mut entries = disk.read_dir(directory).unwrap_or_default();
        entries.sort_by_key(|entry| entry.name == OsStr::new(LOCK));
        for entry in entries {
            let _ = disk.remove_file(&directory.join(entry.name));
        }
        match disk.remove_dir(directory) {
            Ok(()) => return true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
            Err(_) => std::thread::yield_now(),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use evertide_storage::OsDisk;

    use super::*;

    fn names(parent: &Path) -> Vec<String> {
        let entries = OsDisk.read_dir(parent).unwrap();
        let mut names: Vec<_> = entries
            .into_iter()
            .map(|entry| entry.name.into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn place(parent: &Path) -> Place {
        Place::create(Arc::new(OsDisk), parent).unwrap()
    }

    #[test]
    fn nobody_else_can_look_into_the_place_and_it_goes_with_all_that_is_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let place = place(parent.path());
        let mode = OsDisk.metadata(&place.directory).unwrap().mode;
        assert_eq!(mode, 0o700);
        OsDisk.create_new(&place.database(), 0o600).unwrap();
        drop(place);
        assert_eq!(names(parent.path()), [] as [&str; 0]);
    }

    #[test]
    fn what_a_killed_process_left_goes_and_what_another_one_uses_stays() {
        let parent = tempfile::tempdir().unwrap();
        let used = place(parent.path());
        OsDisk.create_new(&used.database(), 0o600).unwrap();
        // Of a process that was killed in the middle, one before its lock, and two of somebody else.
        for (name, mode, lock) in [
            ("evertide-verify-1", 0o700, true),
            ("evertide-verify-2", 0o700, false),
            ("evertide-verify-3", 0o755, true),
            ("evertide-4", 0o700, true),
        ] {
            let left = parent.path().join(name);
            OsDisk.create_dir(&left, mode).unwrap();
            if lock {
                OsDisk.create_new(&left.join(LOCK), 0o600).unwrap();
                OsDisk.create_new(&left.join("restored.db"), 0o600).unwrap();
            }
        }
        let own = used.directory.file_name().unwrap().to_str().unwrap();
        drop(place(parent.path()));
        let left = names(parent.path());
        let mut expected = vec!["evertide-4", "evertide-verify-3", own];
        expected.sort_unstable();
        assert_eq!(left, expected);
        assert!(OsDisk.metadata(&used.database()).is_ok());
    }
}

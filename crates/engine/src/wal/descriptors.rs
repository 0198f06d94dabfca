//! Descriptors of database and `-shm` files: opened once per process, never closed.
//!
//! POSIX locks belong to the process: closing *any* descriptor of a file drops every lock that
//! SQLite holds on it in this process, and the database can then be corrupted. So descriptors of
//! these two files are kept by device and inode and used again. As they stay open, an inode number
//! in the table cannot be given to another file.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

/// What names a file, whatever its path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FileId {
    /// The device it is on.
    pub(crate) device: u64,
    /// Its number there.
    pub(crate) inode: u64,
}

impl FileId {
    /// Names the file at `path` now; `None` where there is none.
    pub(crate) fn of(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self::from(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl From<&std::fs::Metadata> for FileId {
    fn from(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// What the descriptor is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Access {
    /// Reading a database file.
    Read,
    /// Reading a wal-index, locking its bytes and setting a read mark.
    ReadWrite,
}

type Table = HashMap<(FileId, Access), Vec<Arc<File>>>;

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

/// The process's descriptor of the file at `path`, and the name of that file.
pub(crate) fn open(path: &Path, access: Access) -> io::Result<(Arc<File>, FileId)> {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(id) = FileId::of(path)?
        && let Some(file) = table.get(&(id, access)).and_then(|files| files.first())
    {
        return Ok((Arc::clone(file), id));
    }
    let write = access == Access::ReadWrite;
    let file = Arc::new(OpenOptions::new().read(true).write(write).open(path)?);
    let id = FileId::from(&file.metadata()?);
    let files = table.entry((id, access)).or_default();
    // The path may have changed hands since it was looked at: even then nothing is closed.
    files.push(Arc::clone(&file));
    Ok((Arc::clone(files.first().unwrap_or(&file)), id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_opened_once_whatever_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        #[expect(clippy::disallowed_methods, reason = "not a live database")]
        std::fs::write(&a, "x").unwrap();
        std::fs::hard_link(&a, &b).unwrap();
        let (first, id) = open(&a, Access::Read).unwrap();
        let (second, same) = open(&b, Access::Read).unwrap();
        assert_eq!(id, same);
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn a_replaced_file_gets_a_descriptor_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for path in [&a, &b] {
            #[expect(clippy::disallowed_methods, reason = "not a live database")]
            std::fs::write(path, "x").unwrap();
        }
        let (_, before) = open(&a, Access::Read).unwrap();
        #[expect(clippy::disallowed_methods, reason = "not a live database")]
        std::fs::rename(&b, &a).unwrap();
        let (_, after) = open(&a, Access::Read).unwrap();
        assert_ne!(before, after);
    }
}

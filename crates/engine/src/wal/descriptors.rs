//! Descriptors of database and `-shm` files: opened once per process, and closed only when nobody can miss them.
//!
//! POSIX locks belong to the process: closing *any* descriptor of a file drops every lock that
//! SQLite holds on it in this process, and the database can then be corrupted. So descriptors of
//! these two files are kept by device and inode and used again. As they stay open, an inode number
//! in the table cannot be given to another file.
//!
//! A file that was deleted keeps its room on the disk as long as it is open. It is closed when we are the only ones in
//! this process that have it open: then there is no lock to be dropped, and without a name nobody can open it any more.

use std::{
    collections::{HashMap, VecDeque},
    fs::{File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
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

/// How many of the files that were let go are looked at each time, so that it takes as long with thousands.
const LOOKED_AT: usize = 16;

#[derive(Default)]
struct Table {
    open: HashMap<(FileId, Access), Vec<Arc<File>>>,
    /// Those of which it could not be told which files they are, by the path they were opened with. They are not closed,
    /// either, and asked again before any other is opened there.
    unnamed: HashMap<(PathBuf, Access), File>,
    /// Files that somebody here was done with, and that may be deleted, now or later.
    let_go: VecDeque<FileId>,
}

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

/// The process's descriptor of the file at `path`, and the name of that file.
pub(crate) fn open(path: &Path, access: Access) -> io::Result<(Arc<File>, FileId)> {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = table.unnamed.remove(&(path.to_owned(), access)) {
        table.keep(path, access, file)?;
    }
    if let Some(id) = FileId::of(path)?
        && let Some(file) = table
            .open
            .get(&(id, access))
            .and_then(|files| files.first())
    {
        return Ok((Arc::clone(file), id));
    }
    table.close_deleted();
    let write = access == Access::ReadWrite;
    let file = OpenOptions::new().read(true).write(write).open(path)?;
    table.keep(path, access, file)
}

/// Somebody here is done with a file. It is closed when it has been deleted and nobody else in this process has it open.
pub(crate) fn let_go(files: [FileId; 2]) {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    for file in files {
        if !table.let_go.contains(&file) {
            table.let_go.push_back(file);
        }
    }
    table.close_deleted();
}

impl Table {
    /// Keeps a file that was just opened.
    fn keep(&mut self, path: &Path, access: Access, file: File) -> io::Result<(Arc<File>, FileId)> {
        let id = match file.metadata() {
            Ok(metadata) => FileId::from(&metadata),
            Err(error) => {
                self.unnamed.insert((path.to_owned(), access), file);
                return Err(error);
            }
        };
        let file = Arc::new(file);
        let files = self.open.entry((id, access)).or_default();
        // The path may have changed hands since it was looked at: even then nothing is closed.
        files.push(Arc::clone(&file));
        Ok((Arc::clone(files.first().unwrap_or(&file)), id))
    }

    fn close_deleted(&mut self) {
        for _ in 0..LOOKED_AT.min(self.let_go.len()) {
            let Some(id) = self.let_go.pop_front() else {
                return;
            };
            if self.is_of_no_use(id) {
                self.open.retain(|(open, _), _| *open != id);
            } else {
                self.let_go.push_back(id);
            }
        }
    }

    /// Whether a file has no name any more, and nobody has it open but this table.
    fn is_of_no_use(&self, id: FileId) -> bool {
        let both = [Access::Read, Access::ReadWrite];
        let ours = both
            .iter()
            .filter_map(|access| self.open.get(&(id, *access)));
        let ours: Vec<&Arc<File>> = ours.flatten().collect();
        let is_deleted = |file: &&Arc<File>| {
            Arc::strong_count(file) == 1 && file.metadata().is_ok_and(|found| found.nlink() == 0)
        };
        ours.iter().all(is_deleted) && open_in_process(id) == Some(ours.len())
    }
}

/// How many descriptors of a file this process has, where the system tells.
fn open_in_process(id: FileId) -> Option<usize> {
    let mut count = 0;
    for descriptor in std::fs::read_dir("/proc/self/fd").ok()? {
        // What is closed meanwhile is none of this file's: it would have been opened for no lock at all.
        let found = FileId::of(&descriptor.ok()?.path()).ok()?;
        count += usize::from(found == Some(id));
    }
    Some(count)
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

    /// Whoever has it open may have locks on it, and others who opened it in time may heed them.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "not a live database")]
    fn a_deleted_file_is_closed_when_nobody_else_in_the_process_has_it_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "x").unwrap();
        let application = File::open(&path).unwrap();
        let (ours, id) = open(&path, Access::Read).unwrap();
        let (locks, _) = open(&path, Access::ReadWrite).unwrap();
        let look = || {
            let_go([id; 2]);
            open_in_process(id)
        };
        assert_eq!(look(), Some(3), "it has a name");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look(), Some(3));
        drop(locks);
        assert_eq!(look(), Some(3), "somebody reads it here");
        drop(ours);
        assert_eq!(look(), Some(3), "the application has it open");
        drop(application);
        assert_eq!(look(), Some(0));
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

//! The copy: an ordinary database with a rollback journal, which is changed behind SQLite's locks.
//!
//! A change is made in the order in which SQLite makes one: an exclusive lock, the journal in its
//! place and durable, the pages, the file durable, the journal gone, the lock. SQLite's own
//! connection takes the lock, so readers wait for it, or we for them, by SQLite's rules.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::FileExt},
    sync::Arc,
    time::Duration,
};

use evertide_ltx::{Checksum, PageSize, Pgno};
use evertide_storage::{DiskFile, LtxObject};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{
    FollowError, LOCK_PAUSE, LOCK_TRIES,
    paths::Paths,
    position::{Position, State},
    stage::{Current, Places, Problem, ReadPage, Staged, follow_on, stage},
};
use crate::{
    RestoreError,
    runtime::Claim,
    wal::{
        descriptors::{self, Access, FileId},
        try_lock_file, unlock_file,
    },
};

/// How long SQLite waits for readers at a time. New ones wait as long.
const WAIT: Duration = Duration::from_millis(500);
/// Where the change counter is in the first page.
const COUNTER_OFFSET: u64 = 24;
/// Bytes read at once for the checksum.
const CHUNK: usize = 1 << 20;

/// Makes a restored database a copy that can be followed, before it gets its name.
pub(super) fn prepare(
    paths: &Paths,
    file: &dyn DiskFile,
    txid: evertide_ltx::Txid,
    page_size: PageSize,
    pages: u32,
) -> Result<(), FollowError> {
    let path = &paths.database;
    let mut page = vec![0; page_size.len()];
    file.read_exact_at(&mut page, 0)
        .map_err(FollowError::io("read", path))?;
    follow_on(&mut page, pages);
    file.write_at(&page, 0)
        .map_err(FollowError::io("write", path))?;
    let read = |buffer: &mut [u8], at| file.read_exact_at(buffer, at);
    let checksum = checksum(read, page_size, pages).map_err(FollowError::io("read", path))?;
    let after = State {
        txid,
        pages,
        checksum,
    };
    paths.write_position(Position {
        page_size,
        before: None,
        after,
    })
}

/// The checksum of all pages but the lock page.
fn checksum(
    read: impl Fn(&mut [u8], u64) -> io::Result<()>,
    page_size: PageSize,
    pages: u32,
) -> io::Result<Checksum> {
    let (len, lock_page) = (page_size.len(), page_size.lock_page());
    let mut buffer = vec![0; len * (CHUNK / len).max(1)];
    let mut checksum = Checksum::EMPTY;
    let mut number = 1_u32;
    while number <= pages {
        let count = (buffer.len() / len).min((pages - number + 1) as usize);
        let Some(chunk) = buffer.get_mut(..count * len) else {
            break;
        };
        let at = u64::from(number - 1) * len as u64;
        read(chunk, at)?;
        for page in chunk.chunks_exact(len) {
            if let Some(pgno) = Pgno::new(number).filter(|pgno| *pgno != lock_page) {
                checksum = checksum.toggle(Checksum::page(pgno, page));
            }
            number += 1;
        }
    }
    Ok(checksum)
}

/// What became of a change.
#[derive(Debug)]
pub(super) enum Committed {
    /// It is made.
    Done,
    /// Readers have kept their locks; it can be tried again.
    Busy(Staged),
}

/// A copy that is being followed. The descriptor of the database is never closed, as that would
/// drop the locks of every connection of this process.
#[derive(Debug)]
pub(super) struct Copy {
    paths: Paths,
    location: String,
    connection: Connection,
    file: Arc<File>,
    id: FileId,
    _lock: FileLock,
    page_size: PageSize,
    state: State,
    /// The change counter of that state.
    counter: [u8; 4],
}

impl Drop for Copy {
    fn drop(&mut self) {
        let prepared = self.paths.hidden("follow-journal");
        if self.paths.remove(&prepared).is_err() {
            let path = prepared.display();
            tracing::warn!(%path, "a temporary file stays behind");
        }
    }
}

/// What is at the path of the copy.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Copy(Box<Copy>),
}

/// The lock of a copy, until dropped. It is that of the process, which has one descriptor of the file: followers in one
/// process are told apart by the claim, which therefore goes after it.
#[derive(Debug)]
struct FileLock {
    file: Arc<File>,
    _claim: Arc<Claim>,
}

impl FileLock {
    /// Takes it; `None` where another process has it for longer than a moment. Whoever has just restored the copy
    /// may have it for that moment.
    fn take(file: &Arc<File>, claim: &Arc<Claim>) -> io::Result<Option<Self>> {
        for _ in 0..=LOCK_TRIES {
            if try_lock_file(file.as_fd())? {
                return Ok(Some(Self {
                    file: Arc::clone(file),
                    _claim: Arc::clone(claim),
                }));
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        Ok(None)
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        let _ = unlock_file(self.file.as_fd());
    }
}

impl Copy {
    /// Opens the copy, has SQLite undo what was cut short, and makes sure that it is what the
    /// position says, page for page.
    pub(super) fn open(paths: &Paths, location: String) -> Result<Found, FollowError> {
        let path = &paths.database;
        match paths.disk.metadata(path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(FollowError::io("look at", path)(error)),
        }
        let Some(position) = paths.read_position()? else {
            return Err(FollowError::NotACopy(path.clone()));
        };
        let (file, id) =
            descriptors::open(path, Access::ReadWrite).map_err(FollowError::io("open", path))?;
        let lock = FileLock::take(&file, &paths.claim).map_err(FollowError::io("lock", path))?;
        let lock = lock.ok_or_else(|| FollowError::AlreadyFollowed(path.clone()))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags);
        let connection = connection.map_err(FollowError::sqlite("open", path))?;
        let mut copy = Self {
            paths: paths.clone(),
            location,
            connection,
            file,
            id,
            _lock: lock,
            page_size: position.page_size,
            state: position.after,
            counter: [0; 4],
        };
        (copy.state, copy.counter) = copy.verify(&position)?;
        Ok(Found::Copy(Box::new(copy)))
    }

    /// Finds out which state the copy is in.
    fn verify(&self, position: &Position) -> Result<(State, [u8; 4]), FollowError> {
        let path = &self.paths.database;
        let sqlite = |error| match error {
            // It is another file altogether.
            error if is(&error, ErrorCode::NotADatabase) => FollowError::Changed(path.clone()),
            error => FollowError::sqlite("read", path)(error),
        };
        self.connection
            .busy_timeout(Duration::from_secs(10))
            .map_err(sqlite)?;
        // The first read undoes a change that was cut short. Nobody can write while it goes on.
        self.connection
            .execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")
            .map_err(sqlite)?;
        let found = self.find(position);
        self.connection.execute_batch("COMMIT").map_err(sqlite)?;
        self.connection.busy_timeout(WAIT).map_err(sqlite)?;
        found
            .map_err(FollowError::io("read", path))?
            .ok_or_else(|| FollowError::Changed(path.clone()))
    }

    fn find(&self, position: &Position) -> io::Result<Option<(State, [u8; 4])>> {
        let size = u64::from(position.page_size.get());
        let len = self.file.metadata()?.len();
        let pages = u32::try_from(len / size)
            .ok()
            .filter(|_| len.is_multiple_of(size));
        let Some(pages) = pages else {
            return Ok(None);
        };
        let read = |buffer: &mut [u8], at| self.file.read_exact_at(buffer, at);
        let checksum = checksum(read, position.page_size, pages)?;
        let counter = self.read_counter()?;
        Ok(position.find(pages, checksum).map(|state| (state, counter)))
    }

    /// The state that the copy is in.
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Reads and verifies a file, and prepares everything that can be before the lock.
    pub(super) fn stage(
        &self,
        content: impl io::Read,
        object: &LtxObject,
    ) -> Result<Option<Staged>, FollowError> {
        self.check_in_place()?;
        let pages = self.paths.create(&self.paths.hidden("follow-pages"))?;
        self.paths.remove(&self.paths.hidden("follow-pages"))?;
        let journal = self.paths.create(&self.paths.hidden("follow-journal"))?;
        let current = Current {
            file: self,
            state: self.state,
            page_size: self.page_size,
        };
        let staged = stage(content, object, &current, Places { pages, journal });
        staged.map_err(|problem| self.describe(problem, object))
    }

    fn describe(&self, problem: Problem, object: &LtxObject) -> FollowError {
        let (location, name) = (self.location.clone(), object.name);
        match problem {
            Problem::Ltx(source) => RestoreError::Damaged {
                location,
                name,
                source,
            }
            .into(),
            Problem::Misplaced(reason) => RestoreError::Misplaced {
                location,
                name,
                reason,
            }
            .into(),
            Problem::Incomplete(page) => RestoreError::Incomplete {
                location,
                page,
                txid: name.max,
            }
            .into(),
            Problem::PageSize(found) => FollowError::PageSize {
                location,
                file: name,
                expected: self.page_size,
                found,
            },
            Problem::Io(source) => {
                FollowError::io("prepare a change of", &self.paths.database)(source)
            }
        }
    }

    /// The copy is at this transaction without a change.
    pub(super) fn advance(&mut self, object: &LtxObject) -> Result<(), FollowError> {
        self.check_untouched()?;
        let after = State {
            txid: object.name.max,
            ..self.state
        };
        self.paths.write_position(Position {
            page_size: self.page_size,
            before: None,
            after,
        })?;
        self.state = after;
        self.paths.remove(&self.paths.hidden("follow-journal"))
    }

    /// Makes a change, unless readers are in the way for longer than SQLite waits.
    pub(super) fn commit(&mut self, staged: Staged) -> Result<Committed, FollowError> {
        let path = self.paths.database.clone();
        self.check_in_place()?;
        self.paths.write_position(Position {
            page_size: self.page_size,
            before: Some(self.state),
            after: staged.after,
        })?;
        match self.connection.execute_batch("BEGIN EXCLUSIVE") {
            Ok(()) => {}
            Err(error) if is(&error, ErrorCode::DatabaseBusy) => {
                return Ok(Committed::Busy(staged));
            }
            Err(error) => return Err(FollowError::sqlite("lock", &path)(error)),
        }
        let written = self.write(&staged);
        // Nothing was changed through this connection: this only lets go of the lock.
        let ended = self.connection.execute_batch("ROLLBACK");
        written?;
        ended.map_err(FollowError::sqlite("unlock", &path))?;
        (self.state, self.counter) = (staged.after, staged.counter);
        Ok(Committed::Done)
    }

    /// Changes the pages, under the exclusive lock. Where it fails the journal stays, and whoever
    /// reads the copy next undoes the change.
    fn write(&self, staged: &Staged) -> Result<(), FollowError> {
        let path = &self.paths.database;
        self.check_untouched()?;
        let (prepared, journal) = (self.paths.hidden("follow-journal"), self.paths.journal());
        let renamed = self.paths.disk.rename(&prepared, &journal);
        renamed.map_err(FollowError::io("write", &journal))?;
        self.paths.sync()?;
        let size = self.page_size;
        let len = u64::from(staged.after.pages) * u64::from(size.get());
        staged
            .pages(size, |pgno, page| {
                self.file.write_all_at(page, pgno.offset(size))
            })
            .and_then(|()| self.file.set_len(len))
            .and_then(|()| self.file.sync_all())
            .map_err(FollowError::io("write", path))?;
        self.paths.remove(&journal)?;
        self.paths.sync()
    }

    /// Makes sure that nobody else has written, as SQLite counts every change in the first page, or put another file there.
    fn check_untouched(&self) -> Result<(), FollowError> {
        let path = &self.paths.database;
        let metadata = self.file.metadata();
        let len = metadata.map_err(FollowError::io("read", path))?.len();
        let expected = u64::from(self.state.pages) * u64::from(self.page_size.get());
        let counter = self.read_counter();
        let counter = counter.map_err(FollowError::io("read", path))?;
        if len == expected && counter == self.counter {
            self.check_in_place()
        } else {
            Err(FollowError::Changed(path.clone()))
        }
    }

    /// Makes sure that the path names the copy, and not through a link: what lies beside it would be taken for that of
    /// whatever else is there.
    fn check_in_place(&self) -> Result<(), FollowError> {
        let path = &self.paths.database;
        match std::fs::symlink_metadata(path) {
            Ok(found) if FileId::from(&found) == self.id => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(FollowError::io("look at", path)(error))
            }
            _ => Err(FollowError::Changed(path.clone())),
        }
    }

    fn read_counter(&self) -> io::Result<[u8; 4]> {
        let mut counter = [0; 4];
        self.file.read_exact_at(&mut counter, COUNTER_OFFSET)?;
        Ok(counter)
    }
}

impl ReadPage for Copy {
    fn read(&self, pgno: Pgno, page: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(page, pgno.offset(self.page_size))
    }
}

fn is(error: &rusqlite::Error, code: ErrorCode) -> bool {
    error.sqlite_error_code() == Some(code)
}

#[cfg(test)]
mod tests {
    use evertide_ltx::Txid;
    use evertide_storage::{Disk, OsDisk};

    use super::*;
    use crate::runtime::Engine;

    #[test]
    fn a_copy_that_sqlite_cannot_open_is_locked_no_longer_than_the_try() {
        let dir = tempfile::tempdir().unwrap();
        // Further down than SQLite goes.
        let folder = dir.path().join(format!("{:a>200}/", "").repeat(5));
        OsDisk.create_dir_all(&folder, 0o700).unwrap();
        let database = folder.join("copy.db");
        let claim = Engine::get().unwrap().claim(database.clone());
        let paths = Paths {
            database: database.clone(),
            disk: Arc::new(OsDisk),
            claim: Arc::new(claim.unwrap()),
        };
        let file = OsDisk.create_new(&database, 0o600).unwrap();
        file.set_len(4096).unwrap();
        let size = PageSize::new(4096).unwrap();
        prepare(&paths, &*file, Txid::new(1), size, 1).unwrap();
        let opened = Copy::open(&paths, String::new());
        assert!(
            matches!(opened, Err(FollowError::Sqlite { action: "open", .. })),
            "{opened:?}"
        );
        assert!(try_lock_file(file.as_fd()).unwrap());
    }
}

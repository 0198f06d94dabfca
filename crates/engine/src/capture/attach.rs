//! Opening a database, taking hold of its WAL, and deciding how to continue.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use evertide_ltx::PageSize;
use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::{Capture, CaptureError};
use crate::{
    Error,
    error::describe,
    state::Position,
    wal::{
        Brake, Cursor, Guard, IndexError, IndexHeader, Pin, Salts, WalFile, WalIndex,
        descriptors::{self, Access, FileId},
        protocol::{Action, Held},
    },
};

/// How long to wait for a lock that others hold for moments only.
const LOCK_ATTEMPTS: u32 = 2_000;
const LOCK_PAUSE: Duration = Duration::from_millis(2);
/// How long a checkpointer may take to notice that it cannot start.
const CHECKPOINTER_ATTEMPTS: u32 = 20;

/// An open database whose WAL is held.
#[derive(Debug)]
pub(super) struct Attached {
    path: PathBuf,
    /// Its shared lock keeps the last connection of the application from deleting the WAL.
    connection: Connection,
    pub(super) database: Arc<File>,
    pub(super) id: FileId,
    shm_id: FileId,
    pub(super) index: WalIndex,
    pub(super) wal: WalFile,
    pub(super) pin: Option<Pin>,
    pub(super) guard: Option<Guard>,
    pub(super) brake: Option<Brake>,
    /// A reset was seen since the guard was taken, and no moment without a checkpointer since.
    pub(super) reset_seen: bool,
    /// The pin was held when the index was last read: since then there was no reset.
    pub(super) pinned_at_read: bool,
}

/// How capture continues after attaching.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum AttachOutcome {
    /// There is no database at the path, or an empty file.
    Missing,
    /// From where it stopped.
    Resumed,
    /// It could not be proven that nothing was missed, so all pages were compared. So many differed.
    Rebased { reason: String, pages: u64 },
    /// There is nothing to compare with: a full snapshot is needed. Without a reason it is the first.
    NeedsSnapshot { reason: Option<String> },
}

/// What decides how capture continues.
#[derive(Debug)]
struct StartFacts<'a> {
    position: Option<&'a Position>,
    /// The page table is there and adds up to the position's database checksum.
    table: bool,
    page_size: PageSize,
    index: &'a IndexHeader,
    inode: u64,
    /// The last captured frame is still where it was.
    continues: bool,
    /// The WAL was reset once, and everything before that is captured.
    reset_once: bool,
}

/// How to continue.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Start {
    Resume,
    ResumeAfterReset,
    Rebase(String),
    Snapshot(Option<String>),
}

fn plan_start(facts: &StartFacts<'_>) -> Start {
    let Some(position) = facts.position else {
        return Start::Snapshot(None);
    };
    if position.page_size != facts.page_size {
        let (was, is) = (position.page_size, facts.page_size);
        let reason = format!("the page size changed from {was} to {is} bytes");
        return Start::Snapshot(Some(reason));
    }
    let reason = if position.inode != facts.inode {
        "the database file was replaced"
    } else if facts.reset_once {
        return Start::ResumeAfterReset;
    } else if position.salts != facts.index.salts {
        "the WAL was restarted or removed while nobody watched"
    } else if position.salts == Salts::default() {
        // Every WAL without a frame looks like this: it may have been written, checkpointed and
        // deleted since.
        "the WAL was empty, which does not prove that nothing was missed"
    } else if position.frames > facts.index.committed || !facts.continues {
        "the WAL does not contain the last captured frame any more"
    } else {
        return Start::Resume;
    };
    if facts.table {
        Start::Rebase(reason.into())
    } else {
        let reason = format!("{reason}, and the table of page checksums is not usable");
        Start::Snapshot(Some(reason))
    }
}

impl Capture {
    /// Opens the database, takes hold of its WAL and continues from the recorded position. After an
    /// error it is not attached: nothing is captured from where continuity was not proven.
    pub(crate) fn attach(&mut self) -> Result<AttachOutcome, CaptureError> {
        self.detach();
        let outcome = self.open_and_continue();
        if outcome.is_err() {
            self.detach();
        }
        outcome
    }

    fn open_and_continue(&mut self) -> Result<AttachOutcome, CaptureError> {
        let Some(attached) = Attached::open(&self.path, self.disk.as_ref())? else {
            return Ok(AttachOutcome::Missing);
        };
        let index = attached.read_index()?;
        let position = self.state.position.as_ref();
        let (continues, reset_once) = match position {
            Some(position) => {
                let cursor = Cursor {
                    frames: position.frames,
                    checksum: position.checksum,
                };
                let (wal, salts, failed) = (&attached.wal, position.salts, attached.wal_failed());
                let same = salts == index.salts;
                (
                    same && wal
                        .continues(cursor, salts, index.page_size)
                        .map_err(&failed)?,
                    !same
                        && wal
                            .reset_once_since(cursor, salts, &index)
                            .map_err(&failed)?,
                )
            }
            None => (false, false),
        };
        let start = plan_start(&StartFacts {
            position,
            table: self.state.table.is_some(),
            page_size: index.page_size,
            index: &index,
            inode: attached.id.inode,
            continues,
            reset_once,
        });
        self.attached = Some(attached);
        match start {
            Start::Resume => Ok(AttachOutcome::Resumed),
            Start::ResumeAfterReset => {
                if let Some(position) = self.state.position {
                    self.state.save(Position {
                        salts: index.salts,
                        frames: 0,
                        ..position
                    })?;
                }
                Ok(AttachOutcome::Resumed)
            }
            Start::Rebase(reason) => {
                let pages = self.rebase()?;
                if pages > 0 {
                    self.stats.rebases += 1;
                    self.stats.last_rebase = Some(reason.clone());
                }
                Ok(AttachOutcome::Rebased { reason, pages })
            }
            Start::Snapshot(reason) => {
                self.forget_position()?;
                Ok(AttachOutcome::NeedsSnapshot { reason })
            }
        }
    }

    /// Lets go of the database. The WAL stays as it is.
    pub(crate) fn detach(&mut self) {
        self.images.clear();
        self.attached = None;
    }

    /// Whether the files that were attached to are still the ones at their paths.
    pub(crate) fn files_in_place(&self) -> Result<bool, Error> {
        let Some(attached) = &self.attached else {
            return Ok(true);
        };
        let failed = |source| Error::Io {
            path: self.path.clone(),
            action: "look at",
            source,
        };
        Ok(FileId::of(&self.path).map_err(failed)? == Some(attached.id)
            && FileId::of(&beside(&self.path, "-shm")).map_err(failed)? == Some(attached.shm_id))
    }

    /// The history ends here: the next snapshot starts another part of it, above the last TXID.
    fn forget_position(&mut self) -> Result<(), Error> {
        if let Some(position) = self.state.position.take() {
            self.raise_floor(position.txid);
        }
        self.state.table = None;
        let disk = Arc::clone(&self.disk);
        self.state
            .stage
            .clear(disk.as_ref())
            .map_err(self.state.failed("clean"))
    }
}

impl Attached {
    fn open(path: &Path, disk: &dyn evertide_storage::Disk) -> Result<Option<Self>, CaptureError> {
        match disk.metadata(path) {
            Ok(found) if found.len == 0 => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let path = path.to_owned();
                return Err(Error::Io {
                    path,
                    action: "look at",
                    source,
                }
                .into());
            }
        }
        let connection = connect(path)?;
        enter_wal_mode(&connection, path)?;
        // SQLite must never wait inside: what it waits for may be waiting for our locks.
        connection
            .busy_timeout(Duration::ZERO)
            .map_err(|source| Error::Sqlite {
                path: path.to_owned(),
                action: "set a timeout",
                source,
            })?;
        let open = |path: &Path, access| {
            descriptors::open(path, access).map_err(|source| Error::Io {
                path: path.to_owned(),
                action: "open",
                source,
            })
        };
        let (database, id) = open(path, Access::Read)?;
        let shm = beside(path, "-shm");
        let (shm, shm_id) = open(&shm, Access::ReadWrite)?;
        let wal_path = beside(path, "-wal");
        let wal = WalFile::open(disk, &wal_path).map_err(|source| Error::Io {
            path: wal_path,
            action: "open",
            source,
        })?;
        let mut attached = Self {
            path: path.to_owned(),
            connection,
            index: WalIndex::new(shm, Arc::clone(&database)),
            database,
            id,
            shm_id,
            wal,
            pin: None,
            guard: None,
            brake: None,
            reset_seen: false,
            pinned_at_read: false,
        };
        attached.read_index()?; // refuses what cannot be read before any lock is taken
        attached.wait_for(Action::TakePin)?;
        // A reset just before we came may have left a checkpointer behind: as after any reset.
        attached.wait_for(Action::TakeGuard)?;
        attached.reset_seen = true;
        Ok(Some(attached))
    }

    /// The locks held. The pin is taken before anything else, so there is always one.
    pub(super) fn held(&self) -> Held {
        match (&self.pin, &self.guard) {
            (Some(_), Some(_)) => Held::Both,
            (None, Some(_)) => Held::Guard,
            (_, None) => Held::Pin,
        }
    }

    /// Reads the wal-index; when a writer died half-way through its header, SQLite mends it first.
    pub(super) fn read_index(&self) -> Result<IndexHeader, CaptureError> {
        match self.index.read() {
            Ok(header) => Ok(header),
            Err(IndexError::Torn | IndexError::Empty) => {
                touch(&self.connection, &self.path)?;
                self.index
                    .read()
                    .map_err(|error| self.index_failed(error).into())
            }
            Err(error) => Err(self.index_failed(error).into()),
        }
    }

    /// Does what the protocol asks for with one lock; `false` where somebody else is in the way.
    pub(super) fn change_lock(&mut self, action: Action) -> Result<bool, Error> {
        let done = match action {
            // A lock is one byte that is locked or not: to take it again and drop what was held before would let
            // go of it, unnoticed.
            Action::TakePin if self.pin.is_some() => true,
            Action::TakeGuard if self.guard.is_some() => true,
            Action::TakeBrake if self.brake.is_some() => true,
            Action::TakePin => {
                self.pin = self.index.pin().map_err(self.shm_failed())?;
                self.pin.is_some()
            }
            Action::TakeGuard => {
                self.guard = self.index.guard().map_err(self.shm_failed())?;
                self.reset_seen = false;
                self.guard.is_some()
            }
            Action::ReleasePin => {
                self.pin = None;
                self.pinned_at_read = false; // from here on a reset is possible
                true
            }
            Action::ReleaseGuard => {
                self.guard = None;
                true
            }
            Action::AwaitCheckpointer => {
                self.reset_seen = !self.await_checkpointer()?;
                !self.reset_seen
            }
            Action::TakeBrake => {
                self.brake = self
                    .index
                    .brake(self.pin.as_ref())
                    .map_err(self.shm_failed())?;
                self.brake.is_some()
            }
            Action::ReleaseBrake => {
                self.brake = None;
                true
            }
            Action::Capture | Action::Checkpoint | Action::Insist | Action::Rest => true,
        };
        Ok(done)
    }

    /// Takes a lock that others hold for moments only.
    pub(super) fn wait_for(&mut self, lock: Action) -> Result<(), Error> {
        for _ in 0..LOCK_ATTEMPTS {
            if self.change_lock(lock)? {
                return Ok(());
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        Err(Error::Unsupported {
            path: self.path.clone(),
            reason: "its read locks are all taken; end some of its long read transactions or \
                     checkpoints, it is tried again"
                .into(),
        })
    }

    /// Waits briefly until no checkpointer can have read the header before the last reset; `false`
    /// where one still may have: both locks stay, and it is looked at again.
    fn await_checkpointer(&self) -> Result<bool, Error> {
        let failed = self.shm_failed();
        for _ in 0..CHECKPOINTER_ATTEMPTS {
            if self.index.checkpointer().map_err(&failed)?.is_none() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // One that holds the write lock too waits for our guard, and is no stale one.
        self.index.checkpoint_holds_writers().map_err(&failed)
    }

    /// Whether a checkpoint makes writers wait, and may itself wait for us.
    pub(super) fn checkpoint_holds_writers(&self) -> Result<bool, Error> {
        self.index
            .checkpoint_holds_writers()
            .map_err(self.shm_failed())
    }

    /// Whether a write transaction and whether a checkpoint is under way: what the notice was about
    /// may not be in the wal-index yet.
    pub(super) fn is_busy(&self) -> Result<(bool, bool), Error> {
        let failed = self.shm_failed();
        let writer = self.index.writer().map_err(&failed)?;
        let checkpointer = self.index.checkpointer().map_err(&failed)?;
        Ok((writer.is_some(), checkpointer.is_some()))
    }

    /// Backfills what can be backfilled without waiting for anybody.
    pub(super) fn checkpoint(&self) -> Result<IndexHeader, CaptureError> {
        let done = self
            .connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = &done {
            tracing::warn!(database = %self.path.display(), %error, "cannot checkpoint");
        }
        self.read_index()
    }

    /// Makes what is in the database file durable, so that a checkpoint has little left to wait for.
    pub(super) fn sync_database(&self) {
        self.synced(self.database.sync_data());
    }

    /// The same for the WAL.
    pub(super) fn sync_wal(&self) {
        self.synced(self.wal.sync());
    }

    /// The checkpoint does it again, and fails where this did.
    fn synced(&self, done: io::Result<()>) {
        if let Err(error) = done {
            tracing::warn!(database = %self.path.display(), %error, "cannot sync");
        }
    }

    pub(super) fn shm_failed(&self) -> impl Fn(io::Error) -> Error + use<> {
        let path = beside(&self.path, "-shm");
        move |source| Error::Io {
            path: path.clone(),
            action: "lock",
            source,
        }
    }

    pub(super) fn database_failed(&self) -> impl Fn(io::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::Io {
            path: path.clone(),
            action: "read",
            source,
        }
    }

    pub(super) fn wal_failed(&self) -> impl Fn(io::Error) -> Error + use<> {
        let path = beside(&self.path, "-wal");
        move |source| Error::Io {
            path: path.clone(),
            action: "read",
            source,
        }
    }

    fn index_failed(&self, error: IndexError) -> Error {
        match error {
            IndexError::Io(source) => self.shm_failed()(source),
            other => Error::Unsupported {
                path: self.path.clone(),
                reason: format!(
                    "{}; another version of SQLite's WAL format?",
                    describe(&other)
                ),
            },
        }
    }
}

/// A file beside the database, as SQLite names it.
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens an ordinary connection that never checkpoints by itself.
pub(super) fn connect(path: &Path) -> Result<Connection, Error> {
    let failed = |action| {
        let path = path.to_owned();
        move |source| Error::Sqlite {
            path,
            action,
            source,
        }
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed("open it"))?;
    connection
        .busy_timeout(Duration::from_secs(5))
        .map_err(failed("set a timeout"))?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(failed("configure the connection"))?;
    connection
        .execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = 8;")
        .map_err(failed("configure the connection"))?;
    Ok(connection)
}

/// Switches to WAL mode where needed, and makes sure that the wal-index exists.
fn enter_wal_mode(connection: &Connection, path: &Path) -> Result<(), Error> {
    let failed = |action| {
        let path = path.to_owned();
        move |source| Error::Sqlite {
            path,
            action,
            source,
        }
    };
    let mode = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0));
    let before = mode("PRAGMA journal_mode").map_err(failed("read its journal mode"))?;
    if before != "wal" {
        let after = mode("PRAGMA journal_mode = WAL").map_err(failed("switch it to WAL mode"))?;
        if after != "wal" {
            return Err(Error::Unsupported {
                path: path.to_owned(),
                reason: format!(
                    "its journal mode stays `{after}`; only WAL mode can be replicated"
                ),
            });
        }
        tracing::warn!(database = %path.display(), before, "switched the database to WAL mode");
    }
    touch(connection, path)?;
    Ok(())
}

/// Reads something, so that SQLite opens or mends the wal-index and keeps its shared lock.
fn touch(connection: &Connection, path: &Path) -> Result<(), Error> {
    connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        })
        .map(drop)
        .map_err(|source| Error::Sqlite {
            path: path.to_owned(),
            action: "read it",
            source,
        })
}

#[cfg(test)]
mod tests {
    use evertide_ltx::Txid;

    use super::*;
    use crate::{
        state::{TableSums, Tips},
        wal::{Salts, WalChecksum},
    };

    fn position() -> Position {
        Position {
            txid: Txid::new(5),
            timestamp_ms: 8,
            staged_min: Txid::new(5),
            salts: Salts([1; 8]),
            frames: 10,
            checksum: WalChecksum(1, 2),
            page_size: PageSize::new(4_096).unwrap(),
            pages: 3,
            inode: 7,
            table: Some(TableSums::default()),
            tips: Tips::default(),
        }
    }

    fn index() -> IndexHeader {
        IndexHeader {
            page_size: PageSize::new(4_096).unwrap(),
            committed: 12,
            pages: 3,
            checksum: WalChecksum(3, 4),
            salts: Salts([1; 8]),
            backfilled: 0,
        }
    }

    /// The three rows of the resume matrix, and what leads to each.
    #[test]
    fn a_restart_uploads_no_more_than_can_be_proven_to_be_needed() {
        type Change = fn(&mut Option<Position>, &mut IndexHeader, &mut (bool, u64, bool));
        let cases: [(Change, &str); 11] = [
            (|_, _, _| {}, "resume"),
            (|_, i, _| i.committed = 10, "resume"),
            (|_, _, f| f.0 = false, "resume"), // the table is rebuilt beside
            (|_, i, _| i.salts = Salts([2; 8]), "rebase"),
            (|_, i, _| i.committed = 9, "rebase"),
            (|_, _, f| f.2 = false, "rebase"),
            (|_, _, f| f.1 = 8, "rebase"),
            (
                |_, i, f| (i.salts, f.0) = (Salts([2; 8]), false),
                "snapshot",
            ),
            (|p, _, _| *p = None, "snapshot"),
            (|_, i, f| (i.salts, f.2) = (Salts([2; 8]), false), "resume"), // reset once
            (
                |p, i, _| {
                    // An empty WAL, then and now: the application may have come and gone in between.
                    let p = p.as_mut().unwrap();
                    (p.salts, p.frames, i.salts, i.committed) =
                        (Salts::default(), 0, Salts::default(), 0);
                },
                "rebase",
            ),
        ];
        for (number, (change, expected)) in cases.into_iter().enumerate() {
            let (mut p, mut i, mut flags) = (Some(position()), index(), (true, 7, true));
            change(&mut p, &mut i, &mut flags);
            let (table, inode, continues) = flags;
            let start = plan_start(&StartFacts {
                position: p.as_ref(),
                table,
                page_size: i.page_size,
                index: &i,
                inode,
                continues,
                reset_once: number == 9,
            });
            let found = match start {
                Start::Resume | Start::ResumeAfterReset => "resume",
                Start::Rebase(_) => "rebase",
                Start::Snapshot(_) => "snapshot",
            };
            assert_eq!(found, expected, "case {number}");
        }
    }

    #[test]
    fn a_lock_that_is_taken_again_is_still_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a)")
            .unwrap();
        conn.busy_timeout(Duration::ZERO).unwrap();
        let checkpoint = |mode: &str| -> (i64, i64, i64) {
            let sql = format!("PRAGMA wal_checkpoint({mode})");
            let row = conn.query_row(&sql, [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)));
            row.unwrap()
        };
        let disk = evertide_storage::OsDisk;
        let mut attached = Attached::open(&path, &disk).unwrap().unwrap();
        for lock in [Action::TakePin, Action::TakeGuard] {
            attached.wait_for(lock).unwrap();
        }
        let (_, frames, backfilled) = checkpoint("PASSIVE");
        assert!(frames > 0);
        assert_eq!(
            backfilled, 0,
            "the guard keeps frames from being backfilled"
        );
        attached.change_lock(Action::ReleaseGuard).unwrap();
        assert_eq!(checkpoint("PASSIVE").2, frames);
        assert_eq!(checkpoint("TRUNCATE").0, 1, "the pin keeps the WAL");
        attached.change_lock(Action::TakeGuard).unwrap();
        attached.change_lock(Action::ReleasePin).unwrap();
        assert_eq!(checkpoint("TRUNCATE").0, 0, "nothing is in the way");
    }

    #[test]
    fn pages_of_another_size_are_never_compared() {
        let mut i = index();
        i.page_size = PageSize::new(8_192).unwrap();
        let p = position();
        let start = plan_start(&StartFacts {
            position: Some(&p),
            table: true,
            page_size: i.page_size,
            index: &i,
            inode: 7,
            continues: true,
            reset_once: false,
        });
        assert!(matches!(start, Start::Snapshot(_)));
    }
}

//! An open database, and the locks on its WAL.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::Connection;

use super::{
    CaptureError,
    connect::{connect, enter_wal_mode, failed, touch},
};
use crate::{
    Error,
    error::describe,
    wal::{
        Brake, Guard, IndexError, IndexHeader, Pin, WalFile, WalIndex, beside,
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
    pub(super) shm_id: FileId,
    pub(super) index: WalIndex,
    pub(super) wal: WalFile,
    pub(super) wal_inode: u64,
    pub(super) pin: Option<Pin>,
    pub(super) guard: Option<Guard>,
    pub(super) brake: Option<Brake>,
    /// A reset was seen since the guard was taken, and no moment without a checkpointer since.
    pub(super) reset_seen: bool,
    /// The pin was held when the index was last read: since then there was no reset.
    pub(super) pinned_at_read: bool,
}
impl Attached {
    /// Opens the database and takes hold of its WAL; `None` where there is none, or an empty file.
    pub(super) fn open(
        path: &Path,
        disk: &dyn evertide_storage::Disk,
    ) -> Result<Option<Self>, CaptureError> {
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
            .map_err(failed(path, "set a timeout"))?;
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
        let failed = |source| Error::Io {
            path: wal_path.clone(),
            action: "open",
            source,
        };
        let wal = WalFile::open(disk, &wal_path).map_err(failed)?;
        let wal_id = FileId::of(&wal_path).map_err(failed)?;
        let mut attached = Self {
            path: path.to_owned(),
            connection,
            index: WalIndex::new(shm, Arc::clone(&database)),
            database,
            id,
            shm_id,
            wal,
            wal_inode: wal_id.map_or(0, |id| id.inode),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Due, scene::Scene};

    /// Its process may be stopped; or it is SQLite, which keeps a lock that it could not let go of.
    #[test]
    fn a_checkpointer_that_does_not_end_after_a_reset_keeps_no_commit_from_being_captured() {
        let mut scene = Scene::new(); // attached just now, as after a reset
        let (conn, capture) = (&scene.conn, &mut scene.capture);
        let shm = beside(&scene.path, "-shm");
        let checkpointer = WalIndex::as_checkpointer(&shm).unwrap().unwrap();
        for _ in 0..2 {
            conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
            assert!(!capture.step(Due::Later).unwrap().complete, "not asked for");
            assert!(capture.step(Due::Now).unwrap().complete);
            let attached = capture.attached_mut().unwrap();
            assert_eq!(attached.held(), Held::Both);
        }
        drop(checkpointer);
        capture.step(Due::Now).unwrap();
        assert_eq!(capture.attached_mut().unwrap().held(), Held::Pin);
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
}

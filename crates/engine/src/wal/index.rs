//! The wal-index (`-shm`): what is committed, what is backfilled, and its lock bytes.
//!
//! ```text
//!   0 version 3007000        16 mxFrame: committed frames     32 salt-1, salt-2
//!   4 unused                 20 nPage: database size, pages   40 checksum of bytes 0..40
//!   8 change counter         24 checksum of frame mxFrame
//!  12 initialised?
//!  13 big-endian checksums?  48 the same 48 bytes again       96 nBackfill: backfilled frames
//!  14 page size             100 five read marks              120 eight lock bytes
//! ```
//!
//! Integers are in the machine's byte order, the salts as in the WAL. Source:
//! <https://www.sqlite.org/walformat.html#the_wal_index_file_format>.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::Arc,
    time::{Duration, Instant},
};

use evertide_ltx::PageSize;

use super::{
    format::{ByteOrder, Salts, WalChecksum},
    locks::{self, Lock},
    protocol,
};

const VERSION: u32 = 3_007_000;
const BACKFILLED: u64 = 96;
const READ_MARKS: u64 = 100;
const READ_MARK_NOT_USED: u32 = 0xffff_ffff;
const WRITE: u64 = 120;
const CKPT: u64 = 121;
const READ_0: u64 = 123;
/// READ(1) to READ(4).
const SLOTS: u64 = 4;
/// A header that a writer is replacing settles within microseconds; this many reads is a crash.
const READS_OF_A_CHANGING_HEADER: u32 = 1_000;
/// After so many the clock and the holder are asked for again.
const LOCK_ATTEMPTS_AT_ONCE: u32 = 64;

/// What the wal-index says at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IndexHeader {
    /// Size of a page.
    pub(crate) page_size: PageSize,
    /// Committed frames in the WAL (`mxFrame`).
    pub(crate) committed: u32,
    /// Size of the database in pages (`nPage`).
    pub(crate) pages: u32,
    /// Checksum of the last committed frame.
    pub(crate) checksum: WalChecksum,
    /// The generation of the WAL.
    pub(crate) salts: Salts,
    /// Frames already copied into the database file (`nBackfill`).
    pub(crate) backfilled: u32,
}

impl IndexHeader {
    /// How many committed frames are not copied into the database file yet.
    pub(crate) fn unbackfilled(&self) -> u32 {
        self.committed.saturating_sub(self.backfilled)
    }
}

/// Why a wal-index could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The two copies of the header differ: a writer died while it replaced them.
    #[error("the header in the wal-index is half written; SQLite repairs it at the next access")]
    Torn,
    /// Not initialised.
    #[error("the wal-index is not initialised")]
    Empty,
    /// Another version of SQLite's format.
    #[error("the wal-index has version {0}, expected {VERSION}")]
    Version(u32),
    /// No page size.
    #[error(transparent)]
    PageSize(#[from] evertide_ltx::Error),
}

/// An open wal-index. The descriptor stays open for the life of the process (see `descriptors`).
#[derive(Clone, Debug)]
pub(crate) struct WalIndex {
    file: Arc<File>,
    database: Arc<File>,
}

impl WalIndex {
    /// The wal-index and the database file behind registered descriptors.
    pub(crate) fn new(file: Arc<File>, database: Arc<File>) -> Self {
        Self { file, database }
    }

    /// Reads the header, again while a writer is replacing it.
    pub(crate) fn read(&self) -> Result<IndexHeader, IndexError> {
        for attempt in 0..READS_OF_A_CHANGING_HEADER {
            let mut bytes = [0; 136];
            let len = self.file.read_at(&mut bytes, 0)?;
            if len < bytes.len() {
                return Err(IndexError::Empty);
            }
            let (first, rest) = bytes.split_at(48);
            let (second, rest) = rest.split_at(48);
            if first == second && is_intact(first) {
                return self.parse(first, rest);
            }
            if first == [0; 48] {
                return Err(IndexError::Empty);
            }
            if attempt > 10 {
                std::thread::yield_now();
            }
        }
        Err(IndexError::Torn)
    }

    /// Takes the pin: no reset from now on. `None` while no slot can be had.
    pub(crate) fn pin(&self) -> io::Result<Option<Pin>> {
        Ok(self.hold_slot(READ_MARK_NOT_USED, None)?.map(Pin))
    }

    /// Takes the brake: while it is held, checkpoints end at once, with nothing done. `None` while no
    /// slot can be had.
    pub(crate) fn brake(&self, pin: Option<&Pin>) -> io::Result<Option<Brake>> {
        let backfilled = self.read_u32(BACKFILLED)?;
        Ok(self.hold_slot(backfilled, pin)?.map(Brake))
    }

    /// Holds a slot with this mark, rather one that nobody has used. Not the one of the pin: our own
    /// lock would not be in the way, and gone with this one.
    fn hold_slot(&self, mark: u32, pin: Option<&Pin>) -> io::Result<Option<HeldByte>> {
        let pinned = pin.map(|Pin(held)| held.byte);
        let mut used = Vec::new();
        for slot in 1..=SLOTS {
            if self.read_mark(slot)? != READ_MARK_NOT_USED {
                used.push(slot);
            }
        }
        for slot in protocol::slots(|slot| used.contains(&slot)) {
            if Some(READ_0 + slot) != pinned && self.try_slot(slot, mark)? {
                return Ok(Some(self.hold(READ_0 + slot)));
            }
        }
        Ok(None)
    }

    fn try_slot(&self, slot: u64, mark: u32) -> io::Result<bool> {
        if !locks::try_lock(&self.file, READ_0 + slot, Lock::Exclusive)? {
            return Ok(false);
        }
        let shared = self.mark_and_share(slot, mark);
        if !matches!(shared, Ok(true)) {
            locks::unlock(&self.file, READ_0 + slot)?;
        }
        shared
    }

    /// With the slot locked exclusively, sets its mark and shares it.
    fn mark_and_share(&self, slot: u64, mark: u32) -> io::Result<bool> {
        let before = self.read_mark(slot)?;
        // A checkpoint that waits for a slot goes by the mark it read there: taking that slot, even
        // with another mark, would make it wait for us, with the write lock in hand.
        if before != READ_MARK_NOT_USED && self.checkpoint_holds_writers()? {
            return Ok(false);
        }
        if before != mark {
            // SQLite sets marks under the same lock. One that stayed would hold back checkpoints.
            let bytes = mark.to_ne_bytes();
            self.file.write_all_at(&bytes, READ_MARKS + 4 * slot)?;
        }
        locks::try_lock(&self.file, READ_0 + slot, Lock::Shared)
    }

    fn read_mark(&self, slot: u64) -> io::Result<u32> {
        self.read_u32(READ_MARKS + 4 * slot)
    }

    fn read_u32(&self, at: u64) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// Takes the guard: no backfill from now on. `None` while a checkpoint is writing.
    pub(crate) fn guard(&self) -> io::Result<Option<Guard>> {
        let locked = locks::try_lock(&self.file, READ_0, Lock::Shared)?;
        Ok(locked.then(|| Guard(self.hold(READ_0))))
    }

    /// Keeps writers out until dropped, without a transaction; `None` where the lock was never free
    /// for `patience`. Asks without a pause: a writer that never rests leaves it free for microseconds.
    pub(crate) fn hold_writers(&self, patience: Duration) -> io::Result<Option<WriteHold>> {
        let since = Instant::now();
        while since.elapsed() < patience {
            for _ in 0..LOCK_ATTEMPTS_AT_ONCE {
                if locks::try_lock(&self.file, WRITE, Lock::Exclusive)? {
                    return Ok(Some(WriteHold {
                        since: Instant::now(),
                        _lock: self.hold(WRITE),
                    }));
                }
            }
            // Whoever holds both waits for a lock of ours.
            if self.checkpoint_holds_writers()? {
                break;
            }
        }
        Ok(None)
    }

    /// The process that is checkpointing at this moment. Only asks: a checkpoint that found the
    /// lock taken by us would fail at once.
    pub(crate) fn checkpointer(&self) -> io::Result<Option<i32>> {
        locks::exclusive_holder(&self.file, CKPT)
    }

    /// Whether one process holds the checkpoint lock and the write lock: a FULL, RESTART or TRUNCATE
    /// checkpoint, which makes writers wait for as long as it waits itself.
    pub(crate) fn checkpoint_holds_writers(&self) -> io::Result<bool> {
        Ok(protocol::holds_writers(
            self.checkpointer()?,
            self.writer()?,
        ))
    }

    /// The process that is in a write transaction at this moment.
    pub(crate) fn writer(&self) -> io::Result<Option<i32>> {
        locks::exclusive_holder(&self.file, WRITE)
    }

    fn parse(&self, header: &[u8], rest: &[u8]) -> Result<IndexHeader, IndexError> {
        if native_u32(header, 0) != VERSION {
            return Err(IndexError::Version(native_u32(header, 0)));
        }
        if header.get(12) == Some(&0) {
            return Err(IndexError::Empty);
        }
        let committed = native_u32(header, 16);
        let (page_size, pages) = if committed == 0 {
            // SQLite leaves both fields zero when it starts with an empty WAL.
            self.database_size()?
        } else {
            let size = header.get(14..).and_then(|b| b.first_chunk());
            let size = size.map_or(0, |bytes| u32::from(u16::from_ne_bytes(*bytes)));
            (page_size(size)?, native_u32(header, 20))
        };
        Ok(IndexHeader {
            page_size,
            committed,
            pages,
            checksum: WalChecksum(native_u32(header, 24), native_u32(header, 28)),
            salts: Salts(
                header
                    .get(32..)
                    .and_then(|b| b.first_chunk())
                    .copied()
                    .unwrap_or_default(),
            ),
            backfilled: native_u32(rest, 0),
        })
    }

    /// Page size and size in pages of the database file.
    fn database_size(&self) -> Result<(PageSize, u32), IndexError> {
        let mut bytes = [0; 2];
        self.database.read_exact_at(&mut bytes, 16)?;
        let size = page_size(u32::from(u16::from_be_bytes(bytes)))?;
        let pages = self.database.metadata()?.len() / u64::from(size.get());
        Ok((size, u32::try_from(pages).unwrap_or(u32::MAX)))
    }

    /// Stands for a checkpointer in another process, until the answer is dropped.
    #[cfg(test)]
    pub(crate) fn as_checkpointer(shm: &std::path::Path) -> io::Result<Option<impl Drop + use<>>> {
        let file = Arc::new(File::options().read(true).write(true).open(shm)?);
        // SQLite's locks of this process would go with a descriptor that is closed.
        std::mem::forget(Arc::clone(&file));
        let other = Self::new(Arc::clone(&file), file);
        let locked = locks::try_lock(&other.file, CKPT, Lock::Exclusive)?;
        Ok(locked.then(|| other.hold(CKPT)))
    }

    fn hold(&self, byte: u64) -> HeldByte {
        HeldByte {
            file: Arc::clone(&self.file),
            byte,
        }
    }
}

/// One lock byte, unlocked when dropped.
#[derive(Debug)]
struct HeldByte {
    file: Arc<File>,
    byte: u64,
}

impl Drop for HeldByte {
    fn drop(&mut self) {
        if let Err(error) = locks::unlock(&self.file, self.byte) {
            tracing::error!(%error, byte = self.byte, "cannot unlock a byte of the wal-index");
        }
    }
}

/// The pin, held until dropped: no reset.
#[derive(Debug)]
pub(crate) struct Pin(HeldByte);

/// The brake, held until dropped: checkpoints end at once, with nothing done.
#[derive(Debug)]
pub(crate) struct Brake(#[expect(dead_code, reason = "held for its Drop")] HeldByte);

/// The guard, held until dropped: no backfill.
#[derive(Debug)]
pub(crate) struct Guard(#[expect(dead_code, reason = "held for its Drop")] HeldByte);

/// The write lock, held until dropped: no commit.
#[derive(Debug)]
pub(crate) struct WriteHold {
    /// When it was had.
    pub(crate) since: Instant,
    _lock: HeldByte,
}

fn is_intact(header: &[u8]) -> bool {
    let native = if cfg!(target_endian = "big") {
        ByteOrder::Big
    } else {
        ByteOrder::Little
    };
    let Some((content, stored)) = header.split_at_checked(40) else {
        return false;
    };
    let stored = WalChecksum(native_u32(stored, 0), native_u32(stored, 4));
    WalChecksum::default().update(native, content) == stored
}

/// 65,536 does not fit into the 16 bits of either header; SQLite stores it as 1.
fn page_size(stored: u32) -> Result<PageSize, evertide_ltx::Error> {
    PageSize::new(if stored == 1 { 65_536 } else { stored })
}

fn native_u32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|b| b.first_chunk())
        .map_or(0, |b| u32::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rusqlite::Connection;

    use super::*;
    use crate::wal::descriptors::{self, Access};

    /// A database in WAL mode with one committed transaction.
    fn database(dir: &Path) -> (Connection, WalIndex) {
        let path = dir.join("app.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; PRAGMA busy_timeout = 0;
             CREATE TABLE t(a)",
        )
        .unwrap();
        let shm = descriptors::open(&dir.join("app.db-shm"), Access::ReadWrite).unwrap();
        let (database, _) = descriptors::open(&path, Access::Read).unwrap();
        (conn, WalIndex::new(shm.0, database))
    }

    /// What a checkpoint says: whether somebody was in the way, and the frames backfilled.
    fn checkpoint(conn: &Connection, mode: &str) -> (bool, u32) {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        conn.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(2)?)))
            .unwrap()
    }

    #[test]
    fn the_pin_forbids_resets_and_no_backfill() {
        let dir = tempfile::tempdir().unwrap();
        let (conn, index) = database(dir.path());
        let pin = index.pin().unwrap().unwrap();
        let committed = index.read().unwrap().committed;
        assert_eq!(checkpoint(&conn, "FULL"), (false, committed));
        assert!(checkpoint(&conn, "TRUNCATE").0);
        drop(pin);
        assert_eq!(checkpoint(&conn, "TRUNCATE"), (false, 0));
    }

    #[test]
    fn under_the_brake_checkpoints_end_with_nothing_done_and_the_pin_outlives_it() {
        let dir = tempfile::tempdir().unwrap();
        let (conn, index) = database(dir.path());
        let pin = index.pin().unwrap().unwrap();
        let brake = index.brake(Some(&pin)).unwrap().unwrap();
        assert_eq!(checkpoint(&conn, "PASSIVE"), (false, 0));
        assert!(checkpoint(&conn, "FULL").0);
        conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        drop(brake);
        let committed = index.read().unwrap().committed;
        assert_eq!(checkpoint(&conn, "FULL"), (false, committed));
        assert!(checkpoint(&conn, "TRUNCATE").0, "the pin is still held");
        drop(pin);
        assert_eq!(checkpoint(&conn, "TRUNCATE"), (false, 0));
    }

    #[test]
    fn writers_are_kept_out_while_they_are_held_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let (conn, index) = database(dir.path());
        let patience = Duration::from_millis(1);
        let hold = index.hold_writers(patience).unwrap().unwrap();
        assert!(conn.execute_batch("INSERT INTO t VALUES (1)").is_err());
        assert_eq!(checkpoint(&conn, "PASSIVE"), (false, 2));
        drop(hold);
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(index.hold_writers(patience).unwrap().is_none());
        conn.execute_batch("COMMIT").unwrap();
    }
}

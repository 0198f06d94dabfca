//! The shared things: the WAL file, its index, the locks, and the parties' own variables.

use super::protocol::{Action, Tried};

/// READ(0) to READ(4).
pub(crate) const SLOTS: usize = 5;
/// `READMARK_NOT_USED`.
pub(crate) const UNUSED: u8 = u8::MAX;
/// Frames the WAL file can hold; one commit is one frame.
pub(crate) const FRAMES: usize = 5;
/// SQLite connections: see `World::roles`.
pub(crate) const CONNECTIONS: usize = 4;
/// Our process, as the holder of a lock.
pub(crate) const CAPTURE: usize = 7;
/// The connection of ours that runs checkpoints.
pub(crate) const OWN: usize = 3;

/// A set of commits: bit `n` is commit `n`.
pub(crate) type Commits = u16;

/// One lock byte: who holds it, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Lock {
    shared: u8,
    exclusive: u8,
}

impl Lock {
    /// Locks, or converts the holder's own lock.
    pub(crate) fn try_shared(&mut self, who: usize) -> bool {
        let others = self.exclusive & !(1 << who);
        if others == 0 {
            self.exclusive = 0;
            self.shared |= 1 << who;
        }
        others == 0
    }

    pub(crate) fn try_exclusive(&mut self, who: usize) -> bool {
        let free = self.is_free_for(who);
        if free {
            self.shared = 0;
            self.exclusive = 1 << who;
        }
        free
    }

    pub(crate) fn is_free_for(self, who: usize) -> bool {
        (self.shared | self.exclusive) & !(1 << who) == 0
    }

    pub(crate) fn is_exclusive(self) -> bool {
        self.exclusive != 0
    }

    pub(crate) fn exclusive_holder(self) -> Option<u32> {
        self.is_exclusive().then(|| self.exclusive.trailing_zeros())
    }

    pub(crate) fn is_exclusive_of(self, who: usize) -> bool {
        self.exclusive & (1 << who) != 0
    }

    pub(crate) fn is_shared_of(self, who: usize) -> bool {
        self.shared & (1 << who) != 0
    }

    pub(crate) fn is_free(self) -> bool {
        self.shared | self.exclusive == 0
    }

    pub(crate) fn release(&mut self, who: usize) {
        self.shared &= !(1 << who);
        self.exclusive &= !(1 << who);
    }
}

/// The lock bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Locks {
    pub(crate) write: Lock,
    pub(crate) ckpt: Lock,
    /// Exclusive in a recovery, beside WRITE and CKPT; shared for a moment by a reader that could
    /// not recover, to see whether somebody else does.
    pub(crate) recover: Lock,
    pub(crate) read: [Lock; SLOTS],
    /// On the database file: shared by every open connection, exclusive for the closing of the
    /// last. Only where connections open and close ([`super::closing`]).
    pub(crate) database: Lock,
}

impl Locks {
    /// All of READ(1..), or nothing.
    pub(crate) fn try_readers(&mut self, who: usize) -> bool {
        let free = self.read[1..].iter().all(|lock| lock.is_free_for(who));
        free && self.read[1..]
            .iter_mut()
            .all(|lock| lock.try_exclusive(who))
    }

    pub(crate) fn release_readers(&mut self, who: usize) {
        self.read[1..].iter_mut().for_each(|lock| lock.release(who));
    }

    /// CKPT and RECOVER, which are next to each other, in one call; or nothing.
    pub(crate) fn try_recovery(&mut self, who: usize) -> bool {
        let free = self.ckpt.is_free_for(who) && self.recover.is_free_for(who);
        free && self.ckpt.try_exclusive(who) && self.recover.try_exclusive(who)
    }

    /// All but the one on the database file.
    pub(crate) fn release_all(&mut self, who: usize) {
        self.write.release(who);
        self.ckpt.release(who);
        self.recover.release(who);
        self.read.iter_mut().for_each(|lock| lock.release(who));
    }
}

/// The salts of a generation of the WAL. All zero is what recovery of an empty WAL writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Salts {
    /// One more after each reset, or drawn.
    pub(crate) first: u8,
    /// Drawn: never twice the same.
    pub(crate) second: u8,
}

/// The header of the wal-index, as far as anybody decides by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Header {
    pub(crate) salt: Salts,
    /// `mxFrame`.
    pub(crate) frames: u8,
    /// `aFrameCksum`: stands for the content of the WAL up to the last frame.
    pub(crate) last: u8,
}

/// The header of an empty WAL, recovered.
pub(crate) const NO_HEADER: Header = Header {
    salt: Salts {
        first: 0,
        second: 0,
    },
    frames: 0,
    last: 0,
};

/// The wal-index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Index {
    pub(crate) header: Header,
    /// The two copies of the header differ: its writer died.
    pub(crate) torn: bool,
    /// `nBackfill`.
    pub(crate) backfilled: u8,
    pub(crate) marks: [u8; SLOTS],
}

/// A frame in the WAL file; commit 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Frame {
    pub(crate) salt: Salts,
    /// What its checksum continues: the commit before it, or for the first the writing of the WAL
    /// header.
    pub(crate) after: u8,
    pub(crate) commit: u8,
}

/// The WAL file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Wal {
    pub(crate) salt: Salts,
    /// Numbers every writing of the WAL header; 0 is an empty file.
    pub(crate) chain: u8,
    pub(crate) frames: [Frame; FRAMES],
}

impl Wal {
    /// What recovery reads from the file.
    pub(crate) fn recovered(&self) -> Header {
        if self.chain == 0 {
            return Header::default();
        }
        let mut before = self.chain;
        let valid = self.frames.iter().take_while(|frame| {
            let valid = frame.commit != 0 && frame.after == before && frame.salt == self.salt;
            before = frame.commit;
            valid
        });
        let frames = valid.count();
        let last = frames.checked_sub(1).map_or(0, |at| self.frames[at].commit);
        Header {
            salt: self.salt,
            frames: frames as u8,
            last,
        }
    }

    /// The commits in frames `from + 1 ..= to`.
    pub(crate) fn commits(&self, from: u8, to: u8) -> Commits {
        let range = self.frames.iter().take(to.into()).skip(from.into());
        range.fold(0, |set, frame| set | commit(frame.commit))
    }
}

/// The set of one commit, or of none.
pub(crate) fn commit(id: u8) -> Commits {
    if id == 0 { 0 } else { 1 << id }
}

/// How a checkpoint was asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) enum Mode {
    #[default]
    Passive,
    Full,
    Restart,
    Truncate,
}

/// The next step of a connection. Names follow `wal.c`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum At {
    #[default]
    Idle,
    // walTryBeginRead
    ReadHeader,
    LockRead,
    LockMark,
    /// A read transaction that stays open.
    Hold,
    // sqlite3WalBeginWriteTransaction, walRestartLog, walFrames
    LockWrite,
    Restart,
    RestartHeader,
    RestartInfo,
    LockReadAgain,
    LockMarkAgain,
    WriteFrame,
    Publish,
    EndWrite,
    // sqlite3WalCheckpoint, walCheckpoint
    CkptWrite,
    CkptHeader,
    CkptWork,
    CkptMark,
    CkptAwaitMark,
    CkptLockRead0,
    Backfill,
    SetBackfill,
    CkptReaders,
    TruncateHeader,
    TruncateInfo,
    TruncateFile,
    EndCkpt,
    // sqlite3WalClose of the last connection, after its checkpoint
    CloseIndex,
    CloseFile,
    // walIndexReadHdr of a torn header, walIndexRecover
    Recover,
    RecoverLocks,
    RecoverHeader,
    RecoverInfo,
    // walTryBeginRead, where that was BUSY
    Probe,
    ProbeEnd,
}

/// A connection of SQLite's and the variables it keeps between steps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Connection {
    pub(crate) at: At,
    /// Its copy of the header (`pWal->hdr`).
    pub(crate) header: Header,
    /// The read lock it holds, or the slot it is looking at.
    pub(crate) slot: u8,
    /// A mark it remembers.
    pub(crate) mark: u8,
    /// `mxSafeFrame`.
    pub(crate) safe: u8,
    pub(crate) mode: Mode,
    /// Whether its busy handler still waits.
    pub(crate) patient: bool,
    /// `nCkpt > 0`: it keeps the salts of the index when it writes frame 1.
    pub(crate) restarted: bool,
}

impl Connection {
    /// Everything but what outlives a transaction is forgotten, so that equal states are equal.
    pub(crate) fn idle(self) -> Self {
        Self {
            restarted: self.restarted,
            ..Self::default()
        }
    }
}

/// How far capture got: after this frame of this WAL, with this checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Position {
    pub(crate) salt: Salts,
    pub(crate) frames: u8,
    pub(crate) last: u8,
}

impl Position {
    /// Before the first frame of a generation.
    pub(crate) fn start_of(salt: Salts) -> Self {
        Self {
            salt,
            ..Self::default()
        }
    }
}

/// The next step of our process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum CaptureAt {
    /// Not running.
    #[default]
    Off,
    /// Attaching: the guard, after the pin.
    AttachGuard,
    /// Attaching: compare the WAL with the recorded position.
    Resume,
    /// Waiting for a notice.
    Idle,
    /// Read the header.
    Header,
    /// Read `nBackfill` and decide.
    Decide,
    /// Do what was decided.
    Do(Action),
    /// The pin's slot is locked exclusively: write the mark.
    PinMark,
    /// The mark is written: convert to shared.
    PinShare,
    /// With the slot of the brake locked, its mark is to be set.
    BrakeMark,
    /// The lock on the slot of the brake is to be shared.
    BrakeShare,
    /// Our own checkpoint runs.
    OwnCheckpoint,
}

/// What our process holds both locks for, beside letting go of one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum Image {
    #[default]
    None,
    /// An image of the database is about to be read: `begin_image`.
    Wanted,
    /// It is being read.
    Read,
    /// One transaction is captured last of all, before an orderly stop: `capture_one_transaction`.
    OneTransaction,
}

/// Our process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Capture {
    pub(crate) at: CaptureAt,
    /// The slot of the pin; 0 without.
    pub(crate) pin: u8,
    pub(crate) guard: bool,
    /// The slot of the brake; 0 without.
    pub(crate) brake: u8,
    /// Commits come so fast that checkpoints of the application are not wanted.
    pub(crate) busy: bool,
    pub(crate) attached: bool,
    pub(crate) stale: bool,
    /// A header was read under this pin, so the salts cannot change any more.
    pub(crate) read_under_pin: bool,
    pub(crate) tried: Option<Tried>,
    /// Frames were captured since the last rest.
    pub(crate) caught_up: bool,
    /// The header last read.
    pub(crate) seen: Header,
    /// `nBackfill`, where it was read before the header.
    pub(crate) backfilled: Option<u8>,
    pub(crate) image: Image,
    /// The machine lost power since the record was written; it outlives a crash.
    pub(crate) rebooted: bool,
    /// Resets that discarded frames since the pin was let go.
    pub(crate) discards: u8,
    /// The record on disk; it outlives a crash.
    pub(crate) position: Position,
    /// What the replica holds; it outlives a crash.
    pub(crate) captured: Commits,
}

/// What must never happen, remembered when it does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Faults {
    /// The WAL was reset under a pin.
    pub(crate) reset_under_pin: bool,
    /// A frame of another generation went into the database file while attached.
    pub(crate) foreign_write: bool,
    /// The same while not attached: SQLite's own fault, not followed further.
    pub(crate) foreign_write_detached: bool,
    /// Capture found its position gone while attached.
    pub(crate) gap: bool,
    /// The database file or its WAL changed under an image.
    pub(crate) image_changed: bool,
}

/// What is left of the bounds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Budget {
    pub(crate) commits: u8,
    pub(crate) checkpoints: u8,
    pub(crate) reads: u8,
    pub(crate) crashes: u8,
    pub(crate) capture_crashes: u8,
    pub(crate) power_losses: u8,
    pub(crate) closes: u8,
}

impl Budget {
    pub(crate) fn closes(self, closes: u8) -> Self {
        Self { closes, ..self }
    }

    pub(crate) fn reads(self, reads: u8) -> Self {
        Self { reads, ..self }
    }

    pub(crate) fn crashes(self, crashes: u8) -> Self {
        Self { crashes, ..self }
    }

    pub(crate) fn capture_crashes(self, capture_crashes: u8) -> Self {
        Self {
            capture_crashes,
            ..self
        }
    }

    pub(crate) fn power_losses(self, power_losses: u8) -> Self {
        Self {
            power_losses,
            ..self
        }
    }
}

/// Everything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) wal: Wal,
    /// Commits whose frames are in the database file.
    pub(crate) database: Commits,
    pub(crate) committed: Commits,
    pub(crate) locks: Locks,
    pub(crate) connections: [Connection; CONNECTIONS],
    pub(crate) capture: Capture,
    pub(crate) faults: Faults,
    pub(crate) budget: Budget,
    /// The last number given to a commit, and to salts or a chain of checksums.
    pub(crate) last_commit: u8,
    pub(crate) last_salt: u8,
}

impl State {
    /// A database in WAL mode, opened, nothing written yet.
    pub(crate) fn new(budget: Budget) -> Self {
        Self {
            index: Index {
                header: Header::default(),
                torn: false,
                backfilled: 0,
                marks: [UNUSED; SLOTS],
            },
            wal: Wal::default(),
            database: 0,
            committed: 0,
            locks: Locks::default(),
            connections: [Connection::default(); CONNECTIONS],
            capture: Capture::default(),
            faults: Faults::default(),
            budget,
            last_commit: 0,
            last_salt: 0,
        }
    }

    /// A number that was never drawn before.
    pub(crate) fn draw(&mut self) -> u8 {
        self.last_salt += 1;
        self.last_salt
    }

    /// Salts of which both are drawn: apart from all others by more than there are resets.
    pub(crate) fn draw_salts(&mut self) -> Salts {
        let second = self.draw();
        Salts {
            first: second.wrapping_mul(8),
            second,
        }
    }

    /// The WAL starts over at frame 1, or is deleted.
    pub(crate) fn note_reset(&mut self) {
        let frames = self.header().frames;
        let capture = &mut self.capture;
        self.faults.reset_under_pin |= capture.pin != 0;
        self.faults.image_changed |= capture.image == Image::Read;
        let discards = frames > 0 && capture.attached && capture.pin == 0;
        capture.discards = (capture.discards + u8::from(discards)).min(2);
    }

    /// The header, or what recovery will make of a torn one.
    pub(crate) fn header(&self) -> Header {
        if self.index.torn {
            self.wal.recovered()
        } else {
            self.index.header
        }
    }
}

//! Connections that open and close. The last one to close checkpoints and deletes the WAL
//! (`sqlite3WalClose`), and the first one to open empties the wal-index (`unixLockSharedMemory`).

use super::{
    sqlite::Sqlite,
    state::{At, CAPTURE, CaptureAt, Connection, Index, Mode, OWN, SLOTS, State, UNUSED},
};

impl Sqlite<'_> {
    /// Shares the database file; the first to do so finds a wal-index that nobody uses.
    pub(crate) fn open(&mut self) -> bool {
        open(self.s, self.who)
    }

    /// Closes. The last one, which has the database file for itself, checkpoints first.
    pub(crate) fn close(&mut self) -> bool {
        let (who, idle) = (self.who, self.me().at == At::Idle);
        if !idle || !self.s.locks.database.is_shared_of(who) {
            return false;
        }
        if !self.s.locks.database.try_exclusive(who) {
            return self.gone();
        }
        // Nobody else is there, so nobody has it.
        self.s.locks.ckpt.try_exclusive(who);
        self.me().mode = Mode::Passive;
        self.go(At::CkptHeader)
    }

    /// Whether it has the database file for itself.
    pub(super) fn is_closing(&self) -> bool {
        self.s.locks.database.is_exclusive_of(self.who)
    }

    /// Whether it is ours, and mends the wal-index for us before any lock of ours is taken.
    pub(super) fn opens_for_us(&self) -> bool {
        self.who == OWN && self.s.capture.at == CaptureAt::Off
    }

    pub(super) fn end_ckpt(&mut self) -> bool {
        if !self.is_closing() {
            return self.end();
        }
        self.s.locks.release_all(self.who);
        self.go(At::CloseIndex)
    }

    pub(super) fn close_index(&mut self) -> bool {
        self.s.index = UNINITIALISED;
        self.go(At::CloseFile)
    }

    /// Deletes the WAL, whatever is in it, and lets go of the database file.
    pub(super) fn close_file(&mut self) -> bool {
        self.s.note_reset();
        self.s.wal = Default::default();
        self.gone()
    }

    /// The connection is no more, whether it was closed or died.
    pub(crate) fn gone(&mut self) -> bool {
        self.s.locks.release_all(self.who);
        self.s.locks.database.release(self.who);
        *self.me() = Connection::default();
        true
    }
}

pub(super) const UNINITIALISED: Index = Index {
    header: super::state::NO_HEADER,
    torn: true,
    backfilled: 0,
    marks: [UNUSED; SLOTS],
};

fn open(s: &mut State, who: usize) -> bool {
    let first = s.locks.database.is_free();
    let opened = !s.locks.database.is_shared_of(who) && s.locks.database.try_shared(who);
    if opened && first {
        s.index = UNINITIALISED;
    }
    opened
}

/// Opens our own connection, and lets it mend a wal-index that is not initialised; `false` while
/// somebody is in the way.
pub(crate) fn open_ours(s: &mut State) -> bool {
    if !s.locks.database.is_shared_of(CAPTURE) {
        return open(s, CAPTURE);
    }
    let begins = s.index.torn && s.connections[OWN].at == At::Idle;
    if begins {
        s.connections[OWN].at = At::Recover;
    }
    begins
}

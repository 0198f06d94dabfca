//! SQLite's side, step by step as in `wal.c`. One step takes at most one lock, or makes one change
//! others can see; reads whose result is checked again under that lock belong to it.

use super::state::{
    At, Connection, Frame, Header, Image, Mode, SLOTS, Salts, State, UNUSED, commit,
};

/// Which `wal.c`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Version {
    /// 3.7.0 to 3.51.2: a checkpoint does not look whether the WAL was reset since it read the
    /// header.
    Before3513,
    /// From 3.51.3: it compares the salts once it holds READ(0).
    Fixed,
}

/// What a connection does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Role {
    Nobody,
    Writer,
    Reader,
    Checkpointer,
}

/// One connection about to make a step.
pub(crate) struct Sqlite<'a> {
    pub(crate) s: &'a mut State,
    pub(crate) who: usize,
    pub(crate) role: Role,
    pub(crate) version: Version,
}

impl Sqlite<'_> {
    pub(super) fn me(&mut self) -> &mut Connection {
        &mut self.s.connections[self.who]
    }

    pub(super) fn go(&mut self, at: At) -> bool {
        self.me().at = at;
        true
    }

    pub(super) fn end(&mut self) -> bool {
        self.s.locks.release_all(self.who);
        let me = self.me();
        *me = me.idle();
        true
    }

    /// The next step; `false` when it has to wait.
    pub(crate) fn step(&mut self) -> bool {
        match self.me().at {
            At::Idle => false,
            At::ReadHeader => self.read_header(),
            At::LockRead => self.lock_read(),
            At::LockMark | At::LockMarkAgain => self.lock_mark(),
            At::LockReadAgain => self.choose_mark(),
            At::Hold => self.end(),
            At::LockWrite => self.lock_write(),
            At::Restart => self.restart(),
            At::RestartHeader => self.reset_header(At::RestartInfo),
            At::RestartInfo => self.restart_info(),
            At::WriteFrame => self.write_frame(),
            At::Publish => self.publish(),
            At::EndWrite => self.end(),
            At::EndCkpt => self.end_ckpt(),
            At::CloseIndex => self.close_index(),
            At::CloseFile => self.close_file(),
            At::CkptWrite => self.ckpt_write(),
            At::CkptHeader => self.ckpt_header(),
            At::CkptWork => self.ckpt_work(),
            At::CkptMark => self.ckpt_mark(),
            At::CkptAwaitMark => self.ckpt_await_mark(),
            At::CkptLockRead0 => self.ckpt_lock_read0(),
            At::Backfill => self.backfill(true),
            At::SetBackfill => self.set_backfill(),
            At::CkptReaders => self.ckpt_readers(),
            At::TruncateHeader => self.reset_header(At::TruncateInfo),
            At::TruncateInfo => self.reset_info(At::TruncateFile),
            At::TruncateFile => self.truncate_file(),
            At::Recover => self.recover(),
            At::RecoverLocks => self.recover_locks(),
            At::RecoverHeader => self.recover_header(),
            At::RecoverInfo => self.recover_info(),
            At::Probe => self.probe(),
            At::ProbeEnd => self.probe_end(),
        }
    }

    // ---- walTryBeginRead

    fn read_header(&mut self) -> bool {
        if self.s.index.torn {
            return self.go(At::Recover);
        }
        self.me().header = self.s.index.header;
        self.go(At::LockRead)
    }

    fn lock_read(&mut self) -> bool {
        let index = self.s.index;
        let mine = self.me().header;
        if index.backfilled == mine.frames && self.s.locks.read[0].try_shared(self.who) {
            if index.header != mine || index.torn {
                self.s.locks.read[0].release(self.who);
                return self.go(At::ReadHeader);
            }
            return self.have_read_lock(0);
        }
        self.choose_mark()
    }

    /// Finds the largest usable mark, and sets one if it can.
    fn choose_mark(&mut self) -> bool {
        let frames = self.me().header.frames;
        let again = self.me().at == At::LockReadAgain;
        let mut best = None;
        for slot in 1..SLOTS {
            let mark = self.s.index.marks[slot];
            if mark <= frames && best.is_none_or(|(_, other)| mark >= other) {
                best = Some((slot, mark));
            }
        }
        if best.is_none_or(|(_, mark)| mark < frames) {
            let free = (1..SLOTS).find(|&slot| self.s.locks.read[slot].is_free_for(self.who));
            if let Some(slot) = free {
                self.s.index.marks[slot] = frames;
                best = Some((slot, frames));
            }
        }
        let Some((slot, mark)) = best else {
            return !again && self.go(At::ReadHeader);
        };
        let me = self.me();
        (me.slot, me.mark) = (slot as u8, mark);
        self.go(if again {
            At::LockMarkAgain
        } else {
            At::LockMark
        })
    }

    fn lock_mark(&mut self) -> bool {
        let me = *self.me();
        let slot = usize::from(me.slot);
        let again = me.at == At::LockMarkAgain;
        let index = self.s.index;
        if self.s.locks.read[slot].try_shared(self.who) {
            // The second time the header is the writer's own, which holds WRITE.
            if index.marks[slot] == me.mark && index.header == me.header && !index.torn {
                return if again {
                    self.go(At::WriteFrame)
                } else {
                    self.have_read_lock(slot)
                };
            }
            self.s.locks.read[slot].release(self.who);
        }
        self.go(if again {
            At::LockReadAgain
        } else {
            At::ReadHeader
        })
    }

    fn have_read_lock(&mut self, slot: usize) -> bool {
        let me = self.me();
        me.slot = slot as u8;
        me.mark = 0;
        self.go(if self.role == Role::Writer {
            At::LockWrite
        } else {
            At::Hold
        })
    }

    // ---- sqlite3WalBeginWriteTransaction, walRestartLog, walFrames

    fn lock_write(&mut self) -> bool {
        let mine = self.me().header;
        let locked = self.s.locks.write.try_exclusive(self.who);
        if !locked || self.s.index.torn || self.s.index.header != mine {
            return self.end(); // BUSY, or BUSY_SNAPSHOT
        }
        let ignores_wal = self.me().slot == 0;
        self.go(if ignores_wal {
            At::Restart
        } else {
            At::WriteFrame
        })
    }

    fn restart(&mut self) -> bool {
        if self.s.index.backfilled > 0 && self.s.locks.try_readers(self.who) {
            return self.go(At::RestartHeader);
        }
        self.restart_done()
    }

    fn restart_done(&mut self) -> bool {
        self.s.locks.read[0].release(self.who);
        self.go(At::LockReadAgain)
    }

    /// The first half of `walRestartHdr`.
    fn reset_header(&mut self, next: At) -> bool {
        let salt = Salts {
            first: self.me().header.salt.first.wrapping_add(1),
            second: self.s.draw(),
        };
        self.s.note_reset();
        let header = Header {
            salt,
            frames: 0,
            last: 0,
        };
        self.me().header = header;
        self.me().restarted = true;
        self.s.index.header = header;
        self.go(next)
    }

    /// The second half.
    fn reset_info(&mut self, next: At) -> bool {
        let index = &mut self.s.index;
        index.backfilled = 0;
        index.marks = [UNUSED; SLOTS];
        index.marks[1] = 0;
        self.go(next)
    }

    fn restart_info(&mut self) -> bool {
        self.reset_info(At::RestartInfo);
        self.s.locks.release_readers(self.who);
        self.restart_done()
    }

    fn write_frame(&mut self) -> bool {
        let mine = self.me().header;
        if mine.frames == 0 {
            self.write_wal_header();
        }
        let mine = self.me().header;
        self.s.last_commit += 1;
        let commit = self.s.last_commit;
        let after = match mine.frames {
            0 => self.s.wal.chain,
            _ => mine.last,
        };
        self.s.wal.frames[usize::from(mine.frames)] = Frame {
            salt: mine.salt,
            after,
            commit,
        };
        self.me().mark = commit;
        self.go(At::Publish)
    }

    fn write_wal_header(&mut self) {
        if !self.me().restarted {
            self.me().header.salt = self.s.draw_salts();
        }
        self.s.wal.chain = self.s.draw();
        self.s.wal.salt = self.me().header.salt;
    }

    fn publish(&mut self) -> bool {
        let me = *self.me();
        let header = Header {
            salt: me.header.salt,
            frames: me.header.frames + 1,
            last: me.mark,
        };
        self.s.index.header = header;
        self.s.committed |= commit(me.mark);
        self.go(At::EndWrite)
    }

    // ---- sqlite3WalCheckpoint, walCheckpoint

    fn ckpt_write(&mut self) -> bool {
        self.s.locks.write.try_exclusive(self.who) && self.go(At::CkptHeader)
    }

    fn ckpt_header(&mut self) -> bool {
        if self.s.index.torn {
            return self.go(At::Recover);
        }
        self.me().header = self.s.index.header;
        self.go(At::CkptWork)
    }

    fn ckpt_work(&mut self) -> bool {
        let frames = self.me().header.frames;
        if self.s.index.backfilled >= frames {
            return self.backfill_done();
        }
        self.me().safe = frames;
        self.me().slot = 1;
        self.go(At::CkptMark)
    }

    fn ckpt_mark(&mut self) -> bool {
        let me = *self.me();
        let slot = usize::from(me.slot);
        if slot == SLOTS {
            self.me().slot = 0;
            if self.s.index.backfilled >= me.safe {
                return self.backfill_done();
            }
            return self.go(At::CkptLockRead0);
        }
        let mark = self.s.index.marks[slot];
        if me.safe > mark && !self.free_mark(slot) {
            if me.patient {
                self.me().mark = mark;
                return self.go(At::CkptAwaitMark);
            }
            self.me().safe = mark;
        }
        self.next_mark()
    }

    /// Resets a mark nobody uses.
    fn free_mark(&mut self, slot: usize) -> bool {
        let safe = self.me().safe;
        let free = self.s.locks.read[slot].is_free_for(self.who);
        if free {
            self.s.index.marks[slot] = if slot == 1 { safe } else { UNUSED };
        }
        free
    }

    fn next_mark(&mut self) -> bool {
        self.me().slot += 1;
        self.me().mark = 0;
        self.go(At::CkptMark)
    }

    /// The busy handler waits for the slot, whatever its mark has become.
    fn ckpt_await_mark(&mut self) -> bool {
        let slot = self.me().slot.into();
        self.free_mark(slot) && self.next_mark()
    }

    fn ckpt_lock_read0(&mut self) -> bool {
        if !self.s.locks.read[0].try_exclusive(self.who) {
            return !self.me().patient && self.backfill_done();
        }
        if self.version == Version::Fixed && self.is_stale() {
            self.s.locks.read[0].release(self.who);
            return self.backfill_done();
        }
        self.go(At::Backfill)
    }

    fn is_stale(&mut self) -> bool {
        let known = self.me().header.salt;
        self.s.index.header.salt != known
    }

    /// Copies frames into the database file; all of them, or, in a crash, the first only.
    pub(crate) fn backfill(&mut self, whole: bool) -> bool {
        let me = *self.me();
        let from = self.s.index.backfilled;
        let to = if whole { me.safe } else { from + 1 };
        let frames = &self.s.wal.frames[from.into()..to.into()];
        let foreign = self.s.index.header.salt != me.header.salt
            || frames.iter().any(|frame| frame.salt != me.header.salt);
        if foreign && self.s.capture.attached {
            self.s.faults.foreign_write = true;
        } else if foreign {
            self.s.faults.foreign_write_detached = true;
        }
        self.s.faults.image_changed |= self.s.capture.image == Image::Read;
        self.s.database |= self.s.wal.commits(from, to);
        self.go(At::SetBackfill)
    }

    fn set_backfill(&mut self) -> bool {
        self.s.index.backfilled = self.me().safe;
        self.s.locks.read[0].release(self.who);
        self.backfill_done()
    }

    fn backfill_done(&mut self) -> bool {
        let me = *self.me();
        let all = self.s.index.backfilled >= me.header.frames;
        self.go(if me.mode >= Mode::Restart && all {
            At::CkptReaders
        } else {
            At::EndCkpt
        })
    }

    fn ckpt_readers(&mut self) -> bool {
        if !self.s.locks.try_readers(self.who) {
            return false;
        }
        if self.me().mode == Mode::Truncate {
            return self.go(At::TruncateHeader);
        }
        self.s.locks.release_readers(self.who);
        self.go(At::EndCkpt)
    }

    fn truncate_file(&mut self) -> bool {
        self.s.wal = Default::default();
        self.s.locks.release_readers(self.who);
        self.go(At::EndCkpt)
    }

    /// The busy handler of a checkpoint returns 0.
    pub(crate) fn give_up(&mut self) -> bool {
        let me = *self.me();
        if self.role != Role::Checkpointer || !me.patient {
            return false;
        }
        self.me().patient = false;
        match me.at {
            At::CkptWrite if !self.s.locks.write.is_free_for(self.who) => {
                self.me().mode = Mode::Passive;
                self.go(At::CkptHeader)
            }
            At::CkptAwaitMark if !self.s.locks.read[usize::from(me.slot)].is_free_for(self.who) => {
                self.me().safe = me.mark;
                self.next_mark()
            }
            At::CkptLockRead0 if !self.s.locks.read[0].is_free_for(self.who) => {
                self.backfill_done()
            }
            At::CkptReaders if !self.s.locks.try_readers(self.who) => self.go(At::EndCkpt),
            _ => false,
        }
    }

    // ---- walIndexReadHdr of a torn header, walIndexRecover

    fn recover(&mut self) -> bool {
        if !self.s.locks.write.try_exclusive(self.who) {
            return self.recovery_is_busy();
        }
        if !self.s.index.torn {
            return self.recovered();
        }
        self.go(At::RecoverLocks)
    }

    fn recover_locks(&mut self) -> bool {
        if !self.s.locks.try_recovery(self.who) {
            return self.recovery_is_busy();
        }
        self.go(At::RecoverHeader)
    }

    /// A checkpoint ends with BUSY; a reader looks whether somebody recovers.
    fn recovery_is_busy(&mut self) -> bool {
        if self.checkpoints() {
            return self.end();
        }
        self.s.locks.write.release(self.who);
        self.go(At::Probe)
    }

    /// BUSY_RECOVERY, or once more from the beginning.
    fn probe(&mut self) -> bool {
        if !self.s.locks.recover.try_shared(self.who) {
            return self.end();
        }
        self.go(At::ProbeEnd)
    }

    fn probe_end(&mut self) -> bool {
        if self.opens_for_us() {
            return self.end(); // it is begun anew
        }
        self.s.locks.recover.release(self.who);
        self.go(At::ReadHeader)
    }

    /// Whether it reads the header for a checkpoint, not to read.
    fn checkpoints(&self) -> bool {
        let checkpointer = self.role == Role::Checkpointer && !self.opens_for_us();
        checkpointer || self.is_closing()
    }

    fn recover_header(&mut self) -> bool {
        let header = self.s.wal.recovered();
        self.s.index.header = header;
        self.s.index.torn = false;
        self.s.committed |= self.s.wal.commits(0, header.frames);
        self.go(At::RecoverInfo)
    }

    fn recover_info(&mut self) -> bool {
        let frames = self.s.index.header.frames;
        self.s.index.backfilled = 0;
        for slot in 1..SLOTS {
            if self.s.locks.read[slot].is_free_for(self.who) {
                let first = slot == 1 && frames > 0;
                self.s.index.marks[slot] = if first { frames } else { UNUSED };
            }
        }
        self.recovered()
    }

    fn recovered(&mut self) -> bool {
        if self.opens_for_us() {
            return self.end();
        }
        self.s.locks.recover.release(self.who);
        if self.checkpoints() {
            if self.me().mode == Mode::Passive {
                self.s.locks.write.release(self.who);
            }
            return self.go(At::CkptHeader);
        }
        self.s.locks.write.release(self.who);
        self.s.locks.ckpt.release(self.who);
        self.go(At::ReadHeader)
    }

    // ---- beginning and dying

    pub(crate) fn begin(&mut self) -> bool {
        self.me().at == At::Idle && self.go(At::ReadHeader)
    }

    pub(crate) fn begin_checkpoint(&mut self, mode: Mode) -> bool {
        if self.me().at != At::Idle || !self.s.locks.ckpt.try_exclusive(self.who) {
            return false;
        }
        self.me().mode = mode;
        self.me().patient = mode != Mode::Passive;
        self.go(if mode == Mode::Passive {
            At::CkptHeader
        } else {
            At::CkptWrite
        })
    }

    /// Dies here. With `halfway` the step it was at is half done.
    pub(crate) fn crash(&mut self, halfway: bool) -> bool {
        let at = self.me().at;
        // SQLite does not survive a crash between the two halves of `walRestartHdr`: `nBackfill`
        // stays larger than `mxFrame` in a valid header (docs/protocol.md, residual risks). When all
        // die the index is made anew, and it does.
        if matches!(at, At::Idle | At::RestartInfo | At::TruncateInfo) {
            return false;
        }
        match (halfway, at) {
            (false, _) => {}
            (true, At::RestartHeader | At::TruncateHeader | At::Publish | At::RecoverHeader) => {
                self.s.index.torn = true
            }
            (true, At::WriteFrame) if self.me().header.frames == 0 => self.write_wal_header(),
            (true, At::Backfill) => drop(self.backfill(false)),
            (true, _) => return false,
        }
        self.s.locks.release_all(self.who);
        *self.me() = Connection::default();
        true
    }
}

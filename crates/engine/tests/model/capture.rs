//! Our process: the engine's own decisions, carried out lock by lock.

use super::{
    closing,
    protocol::{self, Action, Facts, Held, Resume, Tried},
    resume::{self, continues},
    state::{
        At, CAPTURE, Capture, CaptureAt, Header, Image, Locks, Mode, OWN, Position, SLOTS, Salts,
        State, UNUSED,
    },
};

/// A fault built into our side, which the checker has to find.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Mutation {
    None,
    /// The pin is let go before the guard is taken.
    PinGoneBeforeGuard,
    /// With the guard taken, the pin is let go without another look at the WAL.
    NoSecondCapture,
    /// The guard is let go before the pin is taken.
    GuardGoneBeforePin,
    /// The pin's slot keeps the mark it had.
    MarkKept,
    /// The pin is let go although frames that are backfilled are not captured.
    PinGoneUncaptured,
    /// The pin is put on whatever slot is free, also one that a checkpoint waits for.
    PinOnAnySlot,
    /// The guard is let go although a checkpointer from before the reset may still run.
    NoCheckpointerCheck,
    /// Attaching does not ask whether such a checkpointer runs.
    NoCheckpointerCheckOnAttach,
    /// Not a fault but the residual risk: waiting for the checkpointer is given up.
    ImpatientWithCheckpointer,
    /// After the pin is let go it is still believed to have held until the next look.
    PinBelieved,
    /// The brake is put on whatever slot is free for us, and so may be the one of the pin.
    BrakeOnPin,
    /// The brake is kept although a checkpoint waits for it and makes writers wait.
    BrakeKept,
    /// Equal salts are taken for the same WAL, without a look at the checksums.
    NoChecksum,
    /// Zero salts are taken for the same WAL.
    ZeroSaltsKnown,
    /// A reset is followed although the machine lost power since the record.
    RebootUnnoticed,
    /// What follows the last captured frame is not looked at before a reset is followed.
    ResetFollowed,
    /// Our connection does not share the database file while we are attached.
    DatabaseNotShared,
    /// The database file is read under the pin alone.
    ImageWithoutGuard,
    /// After the last transaction the guard is let go without a look for a checkpointer.
    GuardGoneAfterLast,
}

/// Our process about to make a step.
pub(crate) struct Engine<'a> {
    pub(crate) s: &'a mut State,
    pub(crate) mutation: Mutation,
    pub(crate) rotate_at: u32,
    pub(crate) insist_at: u32,
    /// `nBackfill` is read before the header, instead of after it.
    pub(crate) backfilled_first: bool,
    /// Connections open and close, ours too.
    pub(crate) closing: bool,
}

impl Engine<'_> {
    pub(super) fn me(&mut self) -> &mut Capture {
        &mut self.s.capture
    }

    pub(super) fn go(&mut self, at: CaptureAt) -> bool {
        self.me().at = at;
        true
    }

    /// The next step; `false` when there is none now.
    pub(crate) fn step(&mut self) -> bool {
        match self.me().at {
            CaptureAt::Off => self.attach(),
            CaptureAt::AttachGuard => self.attach_guard(),
            CaptureAt::Resume => self.resume(),
            CaptureAt::Idle => self.go(CaptureAt::Header),
            CaptureAt::Header => self.header(),
            CaptureAt::Decide => self.decide(),
            CaptureAt::Do(action) => self.perform(action),
            CaptureAt::PinMark => self.pin_mark(),
            CaptureAt::PinShare => self.pin_share(),
            CaptureAt::BrakeMark => self.brake_mark(),
            CaptureAt::BrakeShare => self.brake_share(),
            CaptureAt::OwnCheckpoint => self.own_checkpoint_done(),
        }
    }

    // ---- attaching

    /// No lock before the header can be read: SQLite up to 3.31 cannot repair it under our locks.
    fn attach(&mut self) -> bool {
        let shared = self.s.locks.database.is_shared_of(CAPTURE);
        if self.s.connections[OWN].at != At::Idle {
            return false; // nothing is done before it is open
        }
        if self.closing && (!shared || self.s.index.torn) {
            return closing::open_ours(self.s);
        }
        if self.mutation == Mutation::DatabaseNotShared {
            self.s.locks.database.release(CAPTURE);
        }
        !self.s.index.torn && self.go(CaptureAt::Do(Action::TakePin))
    }

    fn attach_guard(&mut self) -> bool {
        self.s.locks.read[0].try_shared(CAPTURE) && {
            self.me().guard = true;
            self.go(CaptureAt::Resume)
        }
    }

    /// Compares the WAL with the record: goes on there, or takes the whole database as it is.
    fn resume(&mut self) -> bool {
        if self.s.index.torn {
            return self.detach();
        }
        let Header { salt, frames, last } = self.s.index.header;
        let captured = self.s.database | self.s.wal.commits(0, frames);
        match resume::resumes(self.s, self.mutation) {
            Resume::Here => {}
            Resume::AfterReset => self.me().position = Position::start_of(salt),
            Resume::Refused(_) => {
                self.me().captured = captured;
                self.me().position = Position { salt, frames, last };
            }
        }
        let stale = self.mutation != Mutation::NoCheckpointerCheckOnAttach;
        let me = self.me();
        (me.attached, me.stale, me.rebooted) = (true, stale, false);
        self.go(CaptureAt::Header)
    }

    fn checksums(&self) -> bool {
        self.mutation != Mutation::NoChecksum
    }

    // ---- looking

    fn header(&mut self) -> bool {
        if self.s.index.torn {
            return self.detach();
        }
        if self.backfilled_first && self.me().backfilled.is_none() {
            self.me().backfilled = Some(self.s.index.backfilled);
            return true;
        }
        let header = self.s.index.header;
        let position = self.me().position;
        let other_wal = header.salt != position.salt
            || header.frames < position.frames
            || self.checksums() && header.frames == position.frames && header.last != position.last;
        if other_wal {
            self.start_over(header.salt);
        }
        let me = self.me();
        me.seen = header;
        me.read_under_pin = me.pin != 0;
        self.go(CaptureAt::Decide)
    }

    /// The WAL was reset: the next frame is the first.
    fn start_over(&mut self, salt: Salts) {
        let mutation = self.mutation;
        let me = self.me();
        // The first writer of an empty WAL may draw new salts, and needs no reset for it.
        if me.read_under_pin && me.position.frames > 0 {
            self.s.faults.gap = true; // the pin does not allow it
            return;
        }
        me.position = Position::start_of(salt);
        me.stale = me.guard && mutation != Mutation::NoCheckpointerCheck;
    }

    fn decide(&mut self) -> bool {
        let me = *self.me();
        if me.image != Image::None {
            return self.hold_still();
        }
        let backfilled = me.backfilled.unwrap_or(self.s.index.backfilled);
        self.me().backfilled = None;
        let held = match (me.pin != 0, me.guard) {
            (true, true) => Held::Both,
            (true, false) => Held::Pin,
            (false, _) => Held::Guard,
        };
        let mut facts = Facts {
            held,
            captured: me.position.frames.into(),
            committed: me.seen.frames.into(),
            backfilled: backfilled.into(),
            stale_checkpointer: me.stale,
            due: true, // not due is the same as not looking yet
            caught_up: me.caught_up,
            braked: me.brake != 0,
            brake: me.busy
                && (self.mutation == Mutation::BrakeKept || !self.checkpoint_holds_writers()),
            rotate_at: self.rotate_at,
            insist_at: self.insist_at,
            tried: me.tried.unwrap_or(Tried::Nothing),
        };
        if self.mutation == Mutation::PinGoneUncaptured && held == Held::Both {
            facts.captured = facts.committed;
        }
        let action = match (self.mutation, protocol::next(&facts)) {
            (Mutation::PinGoneBeforeGuard, Action::TakeGuard) => Action::ReleasePin,
            (Mutation::GuardGoneBeforePin, Action::TakePin) => Action::ReleaseGuard,
            (_, action) => action,
        };
        if action == Action::Rest {
            return self.rest();
        }
        self.go(CaptureAt::Do(action))
    }

    // ---- doing

    fn perform(&mut self, action: Action) -> bool {
        match action {
            Action::Capture => self.capture(),
            Action::TakePin => self.take_pin(),
            Action::TakeGuard => self.take_guard(),
            Action::AwaitCheckpointer => self.await_checkpointer(),
            Action::ReleasePin => self.release_pin(),
            Action::ReleaseGuard => self.release_guard(),
            Action::Checkpoint => self.start_checkpoint(Tried::Checkpoint),
            Action::TakeBrake => self.take_brake(),
            Action::ReleaseBrake => self.release_brake(),
            Action::Insist => self.insist(),
            Action::Rest => self.rest(),
        }
    }

    /// Reads the frames up to the header's last and makes them durable with the position.
    fn capture(&mut self) -> bool {
        let (me, wal) = (*self.me(), self.s.wal);
        let from = me.position;
        let frames = &wal.frames[from.frames.into()..me.seen.frames.into()];
        if frames.iter().any(|frame| frame.salt != me.seen.salt) {
            self.s.faults.gap = true;
        }
        if self.checksums() && !continues(&from, &wal) {
            self.start_over(me.seen.salt);
            return self.go(CaptureAt::Header);
        }
        let me = self.me();
        me.captured |= wal.commits(from.frames, me.seen.frames);
        let Header { salt, frames, last } = me.seen;
        me.position = Position { salt, frames, last };
        me.caught_up = true;
        self.go(CaptureAt::Header)
    }

    /// In the order of the product.
    fn slots(&self) -> [usize; SLOTS - 1] {
        let is_used = |slot: u64| self.s.index.marks[slot as usize] != UNUSED;
        protocol::slots(is_used).map(|slot| slot as usize)
    }

    fn take_pin(&mut self) -> bool {
        let mut slots = self.slots();
        if matches!(self.mutation, Mutation::PinOnAnySlot | Mutation::MarkKept) {
            slots.reverse();
        }
        let free = |slot: &usize| self.s.locks.read[*slot].is_free_for(CAPTURE);
        let Some(slot) = slots.into_iter().find(free) else {
            return self.me().attached && self.rest();
        };
        self.s.locks.read[slot].try_exclusive(CAPTURE);
        self.me().pin = slot as u8;
        self.me().read_under_pin = false;
        self.me().discards = 0;
        self.go(CaptureAt::PinMark)
    }

    /// A checkpoint that waits for this slot goes by the mark it read there, whatever the mark is
    /// now, and would wait for the pin. Only an unused mark shows that it does not wait.
    fn pin_mark(&mut self) -> bool {
        let slot = usize::from(self.me().pin);
        let in_use = self.s.index.marks[slot] != UNUSED;
        let careful = self.mutation != Mutation::PinOnAnySlot;
        if in_use && careful && self.checkpoint_holds_writers() {
            self.s.locks.read[slot].release(CAPTURE);
            self.me().pin = 0;
            return if self.me().attached {
                self.rest()
            } else {
                self.go(CaptureAt::Off)
            };
        }
        if self.mutation != Mutation::MarkKept {
            self.s.index.marks[slot] = UNUSED;
        }
        self.go(CaptureAt::PinShare)
    }

    fn pin_share(&mut self) -> bool {
        let slot = usize::from(self.me().pin);
        self.s.locks.read[slot].try_shared(CAPTURE);
        let attached = self.me().attached;
        self.go(if attached {
            CaptureAt::Header
        } else {
            CaptureAt::AttachGuard
        })
    }

    fn take_brake(&mut self) -> bool {
        let pin = match self.mutation {
            Mutation::BrakeOnPin => 0,
            _ => usize::from(self.me().pin),
        };
        let free = |slot: &usize| *slot != pin && self.s.locks.read[*slot].is_free_for(CAPTURE);
        let Some(slot) = self.slots().into_iter().find(free) else {
            return self.rest();
        };
        self.s.locks.read[slot].try_exclusive(CAPTURE);
        self.me().brake = slot as u8;
        self.go(CaptureAt::BrakeMark)
    }

    fn brake_mark(&mut self) -> bool {
        let slot = usize::from(self.me().brake);
        if self.s.index.marks[slot] != UNUSED && self.checkpoint_holds_writers() {
            self.s.locks.read[slot].release(CAPTURE);
            self.me().brake = 0;
            return self.rest();
        }
        self.s.index.marks[slot] = self.s.index.backfilled;
        self.go(CaptureAt::BrakeShare)
    }

    fn brake_share(&mut self) -> bool {
        let slot = usize::from(self.me().brake);
        self.s.locks.read[slot].try_shared(CAPTURE);
        self.go(CaptureAt::Header)
    }

    fn release_brake(&mut self) -> bool {
        let slot = usize::from(self.me().brake);
        self.s.locks.read[slot].release(CAPTURE);
        self.me().brake = 0;
        self.go(CaptureAt::Header)
    }

    fn take_guard(&mut self) -> bool {
        if !self.s.locks.read[0].try_shared(CAPTURE) {
            return self.rest();
        }
        (self.me().guard, self.me().stale) = (true, false);
        if self.mutation == Mutation::NoSecondCapture {
            return self.go(CaptureAt::Do(Action::ReleasePin));
        }
        self.go(CaptureAt::Header)
    }

    fn await_checkpointer(&mut self) -> bool {
        if self.s.locks.ckpt.is_exclusive() {
            return false;
        }
        self.me().stale = false;
        self.go(CaptureAt::Header)
    }

    fn release_pin(&mut self) -> bool {
        let slot = usize::from(self.me().pin);
        self.s.locks.read[slot].release(CAPTURE);
        let believed = self.mutation == Mutation::PinBelieved;
        let me = self.me();
        (me.pin, me.read_under_pin) = (0, me.read_under_pin && believed);
        let without_guard = self.mutation == Mutation::PinGoneBeforeGuard;
        let next = if without_guard {
            CaptureAt::Do(Action::TakeGuard)
        } else {
            CaptureAt::Header
        };
        self.go(next)
    }

    fn release_guard(&mut self) -> bool {
        self.s.locks.read[0].release(CAPTURE);
        self.me().guard = false;
        let without_pin = self.mutation == Mutation::GuardGoneBeforePin && self.me().pin == 0;
        let next = if without_pin {
            CaptureAt::Do(Action::TakePin)
        } else {
            CaptureAt::Header
        };
        self.go(next)
    }

    fn insist(&mut self) -> bool {
        self.me().tried = Some(Tried::Insisting);
        if !self.s.locks.write.try_exclusive(CAPTURE) {
            return self.go(CaptureAt::Header);
        }
        self.start_checkpoint(Tried::Insisting)
    }

    fn start_checkpoint(&mut self, tried: Tried) -> bool {
        self.me().tried = Some(tried);
        if self.s.locks.ckpt.try_exclusive(OWN) {
            self.s.connections[OWN].mode = Mode::Passive;
            self.s.connections[OWN].at = At::CkptHeader;
        }
        self.go(CaptureAt::OwnCheckpoint)
    }

    fn own_checkpoint_done(&mut self) -> bool {
        self.s.connections[OWN].at == At::Idle && self.go(CaptureAt::Header)
    }

    /// The header is torn: lets go of everything, so that any SQLite can repair it.
    fn detach(&mut self) -> bool {
        let Capture {
            position,
            captured,
            rebooted,
            ..
        } = *self.me();
        self.s.locks.release_all(CAPTURE);
        self.s.locks.database.release(CAPTURE);
        *self.me() = Capture {
            position,
            captured,
            rebooted,
            ..Capture::default()
        };
        true
    }

    /// Waits for the next notice.
    pub(super) fn rest(&mut self) -> bool {
        self.s.locks.write.release(CAPTURE);
        let me = self.me();
        if me.image != Image::Read {
            me.image = Image::None; // a lock could not be had
        }
        (me.tried, me.seen, me.backfilled) = (None, Header::default(), None);
        me.caught_up = false;
        self.go(CaptureAt::Idle)
    }

    /// Between two looks commits begin to come fast, or end to.
    pub(crate) fn change_pace(&mut self) -> bool {
        let me = self.me();
        me.busy = !me.busy;
        me.at == CaptureAt::Idle
    }

    /// Stops waiting for a checkpointer; or breaks a round off after a checkpoint of ours.
    pub(crate) fn give_up(&mut self) -> bool {
        let checkpointed = self.me().at == CaptureAt::OwnCheckpoint;
        if checkpointed && self.me().tried == Some(Tried::Checkpoint) {
            return self.s.connections[OWN].at == At::Idle && self.rest();
        }
        let awaiting = self.me().at == CaptureAt::Do(Action::AwaitCheckpointer);
        if !awaiting || !self.s.locks.ckpt.is_exclusive() {
            return false;
        }
        if self.mutation == Mutation::ImpatientWithCheckpointer {
            self.me().stale = false;
            return self.go(CaptureAt::Header);
        }
        // A checkpoint that waits for the guard holds WRITE as well, and is not stale.
        if self.checkpoint_holds_writers() {
            self.me().stale = false;
            return self.go(CaptureAt::Header);
        }
        // Under both locks frames can be captured all the same.
        let me = *self.me();
        if me.position.frames < me.seen.frames {
            self.capture();
        }
        self.rest()
    }

    fn checkpoint_holds_writers(&self) -> bool {
        let Locks { ckpt, write, .. } = self.s.locks;
        protocol::holds_writers(ckpt.exclusive_holder(), write.exclusive_holder())
    }

    /// Dies: the locks go, the record and the replica stay.
    pub(crate) fn crash(&mut self) -> bool {
        if self.me().at == CaptureAt::Off && !self.s.locks.database.is_shared_of(CAPTURE) {
            return false;
        }
        self.s.locks.release_all(OWN);
        self.s.connections[OWN] = Default::default();
        self.detach()
    }
}

//! The model: who takes part, within which bounds, and what must always hold.

use stateright::{Model, Property};

use super::{
    capture::{Engine, Mutation},
    closing::UNINITIALISED,
    progress,
    protocol::Resume,
    resume::resumes,
    sqlite::{Role, Sqlite, Version},
    state::{At, Budget, CONNECTIONS, FRAMES, Image, Mode, OWN, State},
};

/// Something that can happen next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Event {
    /// A connection's next step.
    Step(usize),
    /// A busy handler gives up.
    GiveUp(usize),
    /// A transaction begins.
    Begin(usize),
    /// A checkpoint begins.
    Checkpoint(usize, Mode),
    /// A process of the application dies; halfway through its step, or before it.
    Crash(usize, bool),
    /// A connection opens, or opens again.
    Open(usize),
    /// It closes; the last one checkpoints and deletes the WAL.
    Close(usize),
    /// Our next step.
    Capture,
    /// We begin an image, or capture the last transaction.
    Image(Image),
    /// The image is read, or given up.
    ImageEnds,
    /// Commits come faster than before, or slower.
    CapturePace,
    /// We stop waiting for a checkpointer, or break a round off.
    CaptureGivesUp,
    /// We die; halfway through a step of our connection, or before it.
    CaptureCrash(bool),
    /// Every process dies and the wal-index is gone.
    AllCrash,
    /// The machine loses power; frames after so many were never synced, and are lost.
    PowerLoss(u8),
    /// The same, but only the one after so many is lost, and those behind it are not.
    PowerLossOfOne(u8),
}

/// Who takes part, within which bounds.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) version: Version,
    pub(crate) roles: [Role; CONNECTIONS],
    pub(crate) modes: Vec<Mode>,
    pub(crate) budget: Budget,
    pub(crate) capture: bool,
    pub(crate) mutation: Mutation,
    pub(crate) rotate_at: u32,
    pub(crate) insist_at: u32,
    pub(crate) backfilled_first: bool,
    /// We take the brake when commits come fast.
    pub(crate) brakes: bool,
    /// Connections open and close; otherwise all are open from the beginning.
    pub(crate) closing: bool,
    /// We read images.
    pub(crate) images: bool,
    pub(crate) check: Check,
    /// Of the turns that are drawn.
    pub(crate) seed: u64,
}

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Check {
    /// Every property of safety.
    Safety,
    /// One of them, for a counterexample to that one.
    Only(&'static str),
    /// That everything still comes to its end from every state.
    Progress,
    /// That the situations the protocol is about do occur.
    Reached(&'static [Situation]),
}

/// A situation that the model has to reach, or it proves nothing.
pub(crate) type Situation = (&'static str, fn(&World, &State) -> bool);

impl World {
    /// A writer and a checkpointer, with us attached.
    pub(crate) fn new(version: Version, budget: Budget) -> Self {
        Self {
            version,
            roles: [
                Role::Writer,
                Role::Checkpointer,
                Role::Nobody,
                Role::Checkpointer,
            ],
            modes: vec![Mode::Passive, Mode::Full, Mode::Restart, Mode::Truncate],
            budget,
            capture: true,
            mutation: Mutation::None,
            rotate_at: u32::MAX,
            insist_at: u32::MAX,
            backfilled_first: false,
            brakes: false,
            closing: budget.closes > 0,
            images: false,
            check: Check::Safety,
            seed: 0,
        }
    }

    /// The same without us.
    pub(crate) fn without_us(mut self) -> Self {
        self.capture = false;
        self
    }

    pub(crate) fn rotating(mut self) -> Self {
        (self.rotate_at, self.insist_at) = (1, 1);
        self
    }

    /// Rotates at two frames, and brakes below.
    pub(crate) fn braking(mut self) -> Self {
        (self.rotate_at, self.insist_at, self.brakes) = (2, 2, true);
        self
    }

    pub(crate) fn reading_images(mut self) -> Self {
        self.images = true;
        self
    }

    /// One connection of the application only.
    pub(crate) fn with_a_writer_only(mut self) -> Self {
        self.roles[1] = Role::Nobody;
        self
    }

    pub(crate) fn backfilled_first(mut self) -> Self {
        self.backfilled_first = true;
        self
    }

    pub(crate) fn check(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    pub(crate) fn with(mut self, role: Role) -> Self {
        self.roles[2] = role;
        self
    }

    pub(crate) fn mutated(mut self, mutation: Mutation) -> Self {
        self.mutation = mutation;
        self
    }

    pub(crate) fn modes(mut self, modes: &[Mode]) -> Self {
        self.modes = modes.to_vec();
        self
    }

    pub(crate) fn engine<'a>(&self, s: &'a mut State) -> Engine<'a> {
        let Self {
            mutation,
            rotate_at,
            insist_at,
            backfilled_first,
            closing,
            ..
        } = *self;
        Engine {
            s,
            mutation,
            rotate_at,
            insist_at,
            backfilled_first,
            closing,
        }
    }

    pub(crate) fn sqlite<'a>(&self, s: &'a mut State, who: usize) -> Sqlite<'a> {
        Sqlite {
            s,
            who,
            role: self.roles[who],
            version: self.version,
        }
    }

    fn begin(&self, s: &mut State, who: usize) -> bool {
        let left = match self.roles[who] {
            Role::Writer => &mut s.budget.commits,
            Role::Reader => &mut s.budget.reads,
            Role::Nobody | Role::Checkpointer => return false,
        };
        let Some(less) = left.checked_sub(1) else {
            return false;
        };
        *left = less;
        self.sqlite(s, who).begin()
    }

    fn checkpoint(&self, s: &mut State, who: usize, mode: Mode) -> bool {
        let Some(less) = s.budget.checkpoints.checked_sub(1) else {
            return false;
        };
        s.budget.checkpoints = less;
        self.sqlite(s, who).begin_checkpoint(mode)
    }

    fn crash(&self, s: &mut State, who: usize, halfway: bool) -> bool {
        let Some(less) = s.budget.crashes.checked_sub(1) else {
            return false;
        };
        s.budget.crashes = less;
        let mut sqlite = self.sqlite(s, who);
        if !self.closing {
            return sqlite.crash(halfway);
        }
        let idle = sqlite.me().at == At::Idle;
        (idle && !halfway || sqlite.crash(halfway)) && sqlite.gone()
    }

    fn close(&self, s: &mut State, who: usize) -> bool {
        let Some(less) = s.budget.closes.checked_sub(1) else {
            return false;
        };
        s.budget.closes = less;
        self.sqlite(s, who).close()
    }

    fn capture_crash(&self, s: &mut State, halfway: bool) -> bool {
        let Some(less) = s.budget.capture_crashes.checked_sub(1) else {
            return false;
        };
        s.budget.capture_crashes = less;
        (!halfway || self.sqlite(s, OWN).crash(true)) && self.engine(s).crash()
    }

    fn all_crash(&self, s: &mut State) -> bool {
        let Some(less) = s.budget.power_losses.checked_sub(1) else {
            return false;
        };
        s.budget.power_losses = less;
        self.engine(s).crash();
        for who in 0..CONNECTIONS {
            self.sqlite(s, who).gone();
        }
        s.index = UNINITIALISED;
        true
    }

    /// Frames that no checkpoint has synced may be gone: so many, after those that are kept.
    fn power_loss(&self, s: &mut State, kept: u8, lost: u8) -> bool {
        let frames = s.wal.recovered().frames;
        let written = &s.wal.frames[..frames.into()];
        let synced = written
            .iter()
            .rposition(|f| s.database & (1 << f.commit) != 0);
        let least = synced.map_or(0, |at| at as u8 + 1);
        if kept < least || kept >= frames || !self.all_crash(s) {
            return false;
        }
        s.capture.rebooted = true;
        let end = kept.saturating_add(lost).min(FRAMES as u8);
        s.wal.frames[kept.into()..end.into()].fill(Default::default());
        s.committed = s.database | s.wal.commits(0, kept);
        true
    }
}

impl Model for World {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        let mut s = State::new(self.budget);
        for who in (0..OWN).filter(|&who| self.closing && self.roles[who] != Role::Nobody) {
            s.locks.database.try_shared(who);
        }
        vec![s]
    }

    fn actions(&self, s: &State, events: &mut Vec<Event>) {
        for (who, role) in self
            .roles
            .iter()
            .enumerate()
            .filter(|(_, r)| **r != Role::Nobody)
        {
            let at = s.connections[who].at;
            if self.closing && who != OWN && at == At::Idle {
                if !s.locks.database.is_shared_of(who) {
                    events.push(Event::Open(who));
                    continue;
                }
                events.push(Event::Close(who));
                events.push(Event::Crash(who, false));
            }
            if at != At::Idle {
                events.push(Event::Step(who));
                if s.connections[who].patient {
                    events.push(Event::GiveUp(who));
                }
                if s.budget.crashes > 0 && who != OWN {
                    events.extend([Event::Crash(who, false), Event::Crash(who, true)]);
                }
            } else if *role != Role::Checkpointer {
                events.push(Event::Begin(who));
            } else if s.budget.checkpoints > 0 && who != OWN {
                events.extend(self.modes.iter().map(|&mode| Event::Checkpoint(who, mode)));
            }
        }
        if self.capture {
            events.extend([Event::Capture, Event::CaptureGivesUp]);
            if self.brakes {
                events.push(Event::CapturePace);
            }
            if self.images {
                let images = [Image::Wanted, Image::OneTransaction].map(Event::Image);
                events.extend(images.into_iter().chain([Event::ImageEnds]));
            }
            if s.budget.capture_crashes > 0 {
                events.extend([false, true].map(Event::CaptureCrash));
            }
        }
        if s.budget.power_losses > 0 {
            events.push(Event::AllCrash);
            let frames = s.wal.recovered().frames;
            events.extend((0..frames).map(Event::PowerLoss));
            events.extend((1..frames).map(|after| Event::PowerLossOfOne(after - 1)));
        }
    }

    fn next_state(&self, before: &State, event: Event) -> Option<State> {
        let mut after = *before;
        let s = &mut after;
        let happened = match event {
            Event::Step(who) => self.sqlite(s, who).step(),
            Event::GiveUp(who) => self.sqlite(s, who).give_up(),
            Event::Begin(who) => self.begin(s, who),
            Event::Checkpoint(who, mode) => self.checkpoint(s, who, mode),
            Event::Crash(who, halfway) => self.crash(s, who, halfway),
            Event::Open(who) => self.sqlite(s, who).open(),
            Event::Close(who) => self.close(s, who),
            Event::Capture => self.engine(s).step(),
            Event::Image(image) => self.engine(s).begin_image(image),
            Event::ImageEnds => self.engine(s).end_image(),
            Event::CapturePace => self.engine(s).change_pace(),
            Event::CaptureGivesUp => self.engine(s).give_up(),
            Event::CaptureCrash(halfway) => self.capture_crash(s, halfway),
            Event::AllCrash => self.all_crash(s),
            Event::PowerLoss(kept) => self.power_loss(s, kept, u8::MAX),
            Event::PowerLossOfOne(kept) => self.power_loss(s, kept, 1),
        };
        happened.then_some(after)
    }

    fn within_boundary(&self, s: &State) -> bool {
        // While we are away, SQLite's own fault is not ours to follow.
        !(self.capture && s.faults.foreign_write_detached)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let safety = [
            Property::always(NOTHING_LOST, nothing_lost),
            Property::always(NOTHING_INVENTED, nothing_invented),
            Property::always(NO_RESET_UNDER_PIN, |_, s: &State| !s.faults.reset_under_pin),
            Property::always(NO_FOREIGN_WRITE, no_foreign_write),
            Property::always(NO_GAP, |_, s: &State| !s.faults.gap),
            Property::always(SQLITE_KEEPS, sqlite_keeps),
            Property::always(A_LOCK_IS_HELD, a_lock_is_held),
            Property::always(ONE_RESET, |_, s: &State| s.capture.discards < 2),
            Property::always(IMAGE_STANDS, |_, s: &State| !s.faults.image_changed),
        ];
        match self.check {
            Check::Safety => safety.into(),
            Check::Only(name) => safety.into_iter().filter(|p| p.name == name).collect(),
            Check::Progress => vec![Property::always(PROGRESS, comes_to_an_end)],
            Check::Reached(situations) => situations
                .iter()
                .map(|&(name, holds)| Property::sometimes(name, holds))
                .collect(),
        }
    }
}

pub(crate) const NOTHING_LOST: &str = "every committed frame is captured or can be";
pub(crate) const NOTHING_INVENTED: &str = "nothing is captured that was not committed";
pub(crate) const NO_RESET_UNDER_PIN: &str = "no reset under the pin";
pub(crate) const NO_FOREIGN_WRITE: &str = "no frame of another generation in the database file";
pub(crate) const NO_GAP: &str = "no re-base while attached";
pub(crate) const SQLITE_KEEPS: &str = "SQLite keeps what it committed";
pub(crate) const A_LOCK_IS_HELD: &str = "pin or guard is held while attached";
pub(crate) const ONE_RESET: &str = "one reset at most discards frames before the pin is back";
pub(crate) const IMAGE_STANDS: &str = "nothing changes under an image";
pub(crate) const PROGRESS: &str = "everybody finishes and the WAL starts over";

/// While attached, and after a resume check that passes: what is committed is captured, or still
/// in the WAL after our position.
fn nothing_lost(world: &World, s: &State) -> bool {
    if !world.capture {
        return true;
    }
    let (capture, header) = (&s.capture, s.header());
    let from = match resumes(s, world.mutation) {
        Resume::Here => capture.position.frames,
        _ if capture.attached && header.salt == capture.position.salt => capture.position.frames,
        Resume::Refused(_) if !capture.attached => return true, // the whole database will be taken
        Resume::AfterReset | Resume::Refused(_) => 0,
    };
    s.committed & !(capture.captured | s.wal.commits(from, header.frames)) == 0
}

fn nothing_invented(world: &World, s: &State) -> bool {
    let refused = matches!(resumes(s, world.mutation), Resume::Refused(_));
    let counts = s.capture.attached || !refused;
    !counts || s.capture.captured & !s.committed == 0
}

fn no_foreign_write(_: &World, s: &State) -> bool {
    !s.faults.foreign_write && !s.faults.foreign_write_detached
}

fn sqlite_keeps(_: &World, s: &State) -> bool {
    s.committed & !(s.database | s.wal.commits(0, s.header().frames)) == 0
}

fn a_lock_is_held(_: &World, s: &State) -> bool {
    !s.capture.attached || s.capture.pin != 0 || s.capture.guard
}

fn comes_to_an_end(world: &World, s: &State) -> bool {
    progress::settles(world, s)
}

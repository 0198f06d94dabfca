//! What to do next with the two locks that keep a WAL readable. Pure, so that the engine and the
//! model checker (`tests/model`) run the same decisions; `docs/protocol.md` has the argument.
//!
//! A frame is lost to capture only when it is first *backfilled* (copied into the database file)
//! and then *reset over* before it was captured. The **pin** (a shared lock on one of READ(1..4),
//! with an unused mark) forbids resets; the **guard** (a shared lock on READ(0)) forbids backfill.
//! While attached at least one is held, and the pin is let go only under the guard, when every
//! backfilled frame is captured. How a start goes on after a time without any is decided here, too.

/// The locks held on the wal-index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Held {
    /// No reset can happen; checkpoints may backfill.
    Pin,
    /// No backfill can happen; a WAL that is backfilled to its end may be reset.
    Guard,
    /// Neither can happen: the moment between the two.
    Both,
}

/// What is known, read from the wal-index under the locks in `held`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Facts {
    /// The locks held.
    pub held: Held,
    /// Frames of this WAL generation captured so far.
    pub captured: u32,
    /// Committed frames in the WAL.
    pub committed: u32,
    /// Frames copied into the database file.
    pub backfilled: u32,
    /// A reset was seen since the guard was taken, and no moment without a checkpointer since.
    /// SQLite before 3.51.3 lets a checkpointer that read the header before a reset go on after
    /// it, on the wrong frames; the guard stops it, so the guard stays until none is running.
    pub stale_checkpointer: bool,
    /// Whether capture may run now, or waits for the sync interval to pass. A WAL that is large
    /// or backfilled to its end is captured at once, so that a checkpointer is never kept waiting.
    pub due: bool,
    /// Whether frames were captured already, in this round. Under a writer that never pauses there
    /// are always new ones; they wait for the next round unless they are in the way of a reset.
    pub caught_up: bool,
    /// The brake is held, beside the pin.
    pub braked: bool,
    /// Checkpoints of the application are not wanted before the WAL is large: each of its commits
    /// would run one. Never while one waits, in which it holds writers.
    pub brake: bool,
    /// Frames from which the WAL is wanted to start over.
    pub rotate_at: u32,
    /// Frames from which writers may be held for a moment to make that happen.
    pub insist_at: u32,
    /// What was already tried without emptying the WAL, in this round.
    pub tried: Tried,
}

/// How far a round went to get the WAL backfilled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Tried {
    /// Nothing yet.
    Nothing,
    /// A passive checkpoint.
    Checkpoint,
    /// A passive checkpoint while holding the write lock.
    Insisting,
}

/// The next step; after each, the facts are read anew, until the answer is [`Action::Rest`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Action {
    /// Copy the frames after `captured` up to `committed`.
    Capture,
    /// Take the pin, keeping the guard. No free slot: rest, and try at the next notice.
    TakePin,
    /// Take the guard, keeping the pin. A checkpointer is writing: rest, it will be noticed.
    TakeGuard,
    /// Wait, bounded to milliseconds, until the checkpoint lock was seen free once.
    AwaitCheckpointer,
    /// Let go of the pin; the guard stays.
    ReleasePin,
    /// Let go of the guard; the pin stays.
    ReleaseGuard,
    /// Take the brake. No free slot: rest without it.
    TakeBrake,
    /// Let go of the brake.
    ReleaseBrake,
    /// Run a passive checkpoint on a connection of our own. Blocks nobody.
    Checkpoint,
    /// The same with the write lock held, for the few frames a steady writer always leaves.
    Insist,
    /// Nothing to do until the next notice.
    Rest,
}

/// The next step for these facts.
///
/// Only letting go of the pin needs a capture first; the pin alone keeps every frame readable.
pub(crate) fn next(facts: &Facts) -> Action {
    let captured = facts.captured >= facts.committed;
    // More than committed is no finished backfill, but two numbers of different moments.
    let backfilled = facts.backfilled == facts.committed;
    let large = facts.committed >= facts.rotate_at;
    // A large WAL is captured before the application may checkpoint it, which takes its time.
    let brake = facts.brake && !(large && (captured || facts.caught_up)) && facts.held == Held::Pin;
    if facts.braked && !brake {
        return Action::ReleaseBrake;
    }
    match facts.held {
        Held::Guard if backfilled && captured => Action::Rest,
        Held::Guard => Action::TakePin,
        Held::Both if backfilled && captured => Action::ReleasePin,
        Held::Both if backfilled => Action::Capture,
        Held::Both if facts.stale_checkpointer => Action::AwaitCheckpointer,
        Held::Both => Action::ReleaseGuard,
        Held::Pin if !captured && backfilled => Action::Capture,
        Held::Pin if !captured && !facts.caught_up && (facts.due || large) => Action::Capture,
        Held::Pin if backfilled => Action::TakeGuard,
        Held::Pin if large && facts.tried < Tried::Checkpoint => Action::Checkpoint,
        Held::Pin if facts.committed >= facts.insist_at && facts.tried < Tried::Insisting => {
            Action::Insist
        }
        Held::Pin if brake && !facts.braked => Action::TakeBrake,
        Held::Pin => Action::Rest,
    }
}

/// The slots of READ(1..4), in the order in which they are tried for a lock of ours. Unused ones first:
/// nobody waits for those. Slot 1 is where SQLite keeps a mark for readers that cannot write the file.
pub(crate) fn slots(is_used: impl Fn(u64) -> bool) -> [u64; 4] {
    let mut slots = [4, 3, 2, 1];
    slots.sort_by_key(|slot| is_used(*slot));
    slots
}

/// Whether one process holds both the checkpoint lock and the write lock: a FULL, RESTART or TRUNCATE
/// checkpoint, which makes writers wait for as long as it waits itself.
pub(crate) fn holds_writers<P: PartialEq>(checkpointer: Option<P>, writer: Option<P>) -> bool {
    checkpointer.is_some() && checkpointer == writer
}

/// What tells whether capture may go on after its record, read with both locks held.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ResumeFacts {
    /// The generation the WAL is in now, seen from the recorded one.
    pub generation: Generation,
    /// Frames captured of the recorded generation.
    pub captured: u32,
    /// Committed frames in the WAL now.
    pub committed: u32,
    /// The last captured frame is where it was; also where none was captured.
    pub continues: bool,
    /// What is behind the last captured frame is of the recorded generation, or cannot be known.
    pub followed: bool,
    /// The machine started anew since the record, or that is not known: a power cut may have taken
    /// a frame that was not synced and left those behind it, and others were committed in its place.
    pub rebooted: bool,
}

/// A generation of the WAL, told from another one by the salts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Generation {
    /// The same salts.
    Same,
    /// The same, but all zero: every recovery of an empty WAL writes those.
    Nameless,
    /// The first salt is one more, as after one reset.
    Next,
    /// Anything else.
    Other,
}

impl Generation {
    /// What the salts of the WAL now say of the recorded ones.
    pub(crate) fn of(recorded: (u32, u32), now: (u32, u32)) -> Self {
        match now == recorded {
            true if recorded == (0, 0) => Self::Nameless,
            true => Self::Same,
            false if now.0 == recorded.0.wrapping_add(1) => Self::Next,
            false => Self::Other,
        }
    }
}

/// How capture goes on after its record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Resume {
    /// With the frame after the last captured one.
    Here,
    /// With the first frame: the WAL was reset once, and all before that is captured.
    AfterReset,
    /// Not: something may have been missed.
    Refused(Refusal),
}

/// Why it cannot be proven that nothing was missed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Refusal {
    /// The WAL is of another generation.
    Restarted,
    /// An empty WAL may have been written, backfilled and deleted since.
    Empty,
    /// The last captured frame is not in the WAL any more.
    FrameGone,
}

/// Whether everything that was committed after the record is still in the WAL.
pub(crate) fn resume(facts: &ResumeFacts) -> Resume {
    let behind = facts.captured <= facts.committed;
    let complete = !facts.followed && !facts.rebooted;
    match facts.generation {
        Generation::Next if !behind && facts.continues && complete => Resume::AfterReset,
        Generation::Next | Generation::Other => Resume::Refused(Refusal::Restarted),
        Generation::Nameless => Resume::Refused(Refusal::Empty),
        Generation::Same if behind && facts.continues => Resume::Here,
        Generation::Same => Resume::Refused(Refusal::FrameGone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(held: Held, captured: u32, committed: u32, backfilled: u32) -> Facts {
        Facts {
            held,
            captured,
            committed,
            backfilled,
            stale_checkpointer: false,
            due: true,
            caught_up: false,
            braked: false,
            brake: false,
            rotate_at: 1_000,
            insist_at: 4_000,
            tried: Tried::Nothing,
        }
    }

    #[test]
    fn the_pin_is_kept_until_everything_is_captured() {
        for held in [Held::Pin, Held::Both] {
            assert_eq!(next(&facts(held, 4, 5, 5)), Action::Capture);
        }
        assert_eq!(next(&facts(Held::Pin, 4, 5, 3)), Action::Capture);
        assert_eq!(next(&facts(Held::Both, 4, 5, 3)), Action::ReleaseGuard);
    }

    #[test]
    fn capture_waits_for_the_sync_interval_unless_somebody_waits_for_capture() {
        let early = |committed, backfilled| Facts {
            due: false,
            ..facts(Held::Pin, 4, committed, backfilled)
        };
        assert_eq!(next(&early(5, 3)), Action::Rest);
        assert_eq!(next(&early(5, 5)), Action::Capture);
        assert_eq!(next(&early(1_000, 3)), Action::Capture);
    }

    #[test]
    fn a_writer_that_never_pauses_does_not_keep_capture_from_anything_else() {
        let caught_up = |committed, backfilled| Facts {
            caught_up: true,
            ..facts(Held::Pin, 4, committed, backfilled)
        };
        assert_eq!(next(&caught_up(5, 3)), Action::Rest);
        assert_eq!(next(&caught_up(1_000, 3)), Action::Checkpoint);
        assert_eq!(next(&caught_up(5, 5)), Action::Capture);
    }

    #[test]
    fn the_pin_is_let_go_only_under_the_guard() {
        assert_eq!(next(&facts(Held::Pin, 5, 5, 5)), Action::TakeGuard);
        assert_eq!(next(&facts(Held::Both, 5, 5, 5)), Action::ReleasePin);
        assert_eq!(next(&facts(Held::Guard, 5, 5, 5)), Action::Rest);
    }

    #[test]
    fn the_guard_makes_way_for_checkpoints_only_once_pinned() {
        assert_eq!(next(&facts(Held::Guard, 5, 5, 4)), Action::TakePin);
        assert_eq!(next(&facts(Held::Both, 5, 5, 4)), Action::ReleaseGuard);
        let waiting = Facts {
            stale_checkpointer: true,
            ..facts(Held::Both, 5, 5, 4)
        };
        assert_eq!(next(&waiting), Action::AwaitCheckpointer);
    }

    #[test]
    fn writers_are_held_only_when_a_passive_checkpoint_was_not_enough() {
        assert_eq!(next(&facts(Held::Pin, 999, 999, 0)), Action::Rest);
        assert_eq!(next(&facts(Held::Pin, 9_000, 9_000, 0)), Action::Checkpoint);
        let tried = |tried| Facts {
            tried,
            ..facts(Held::Pin, 9_000, 9_000, 8_000)
        };
        assert_eq!(next(&tried(Tried::Checkpoint)), Action::Insist);
        assert_eq!(next(&tried(Tried::Insisting)), Action::Rest);
    }

    #[test]
    fn the_brake_is_held_beside_the_pin_until_a_large_wal_is_captured() {
        let braking = |held, braked, caught_up, captured, committed| Facts {
            brake: true,
            braked,
            caught_up,
            ..facts(held, captured, committed, 3)
        };
        for (facts, expected) in [
            (braking(Held::Pin, false, false, 5, 5), Action::TakeBrake),
            (braking(Held::Pin, true, false, 5, 5), Action::Rest),
            (braking(Held::Pin, true, false, 4, 1_000), Action::Capture),
            (
                braking(Held::Pin, true, false, 1_000, 1_000),
                Action::ReleaseBrake,
            ),
            (
                braking(Held::Pin, true, true, 990, 1_000),
                Action::ReleaseBrake,
            ),
            (
                braking(Held::Pin, false, false, 1_000, 1_000),
                Action::Checkpoint,
            ),
            (
                braking(Held::Guard, true, false, 5, 5),
                Action::ReleaseBrake,
            ),
            (braking(Held::Both, true, false, 5, 5), Action::ReleaseBrake),
            (
                Facts {
                    brake: false,
                    ..braking(Held::Pin, true, false, 5, 5)
                },
                Action::ReleaseBrake,
            ),
        ] {
            assert_eq!(next(&facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn a_slot_that_a_checkpoint_may_wait_for_is_tried_last_and_slot_1_after_its_equals() {
        assert_eq!(slots(|_| false), [4, 3, 2, 1]);
        assert_eq!(slots(|_| true), [4, 3, 2, 1]);
        assert_eq!(slots(|slot| slot != 1), [1, 4, 3, 2]);
        assert_eq!(slots(|slot| slot == 4 || slot == 1), [3, 2, 4, 1]);
    }

    #[test]
    fn a_checkpoint_holds_writers_only_where_one_process_has_both_locks() {
        assert!(holds_writers(Some(7), Some(7)));
        for (checkpointer, writer) in [
            (Some(7), Some(8)),
            (Some(7), None),
            (None, Some(7)),
            (None, None),
        ] {
            assert!(!holds_writers(checkpointer, writer));
        }
    }

    #[test]
    fn a_generation_is_known_by_its_salts_unless_they_are_zero() {
        for (recorded, now, expected) in [
            ((5, 6), (5, 6), Generation::Same),
            ((0, 6), (0, 6), Generation::Same),
            ((5, 0), (5, 0), Generation::Same),
            ((0, 0), (0, 0), Generation::Nameless),
            ((5, 6), (6, 9), Generation::Next),
            ((5, 6), (6, 6), Generation::Next),
            ((0, 0), (1, 9), Generation::Next),
            ((u32::MAX, 6), (0, 9), Generation::Next),
            ((5, 6), (5, 9), Generation::Other),
            ((5, 6), (4, 6), Generation::Other),
            ((5, 6), (0, 0), Generation::Other),
        ] {
            let generation = Generation::of(recorded, now);
            assert_eq!(generation, expected, "{recorded:?}, {now:?}");
        }
    }

    #[test]
    fn a_reset_is_followed_only_where_all_before_it_is_known_to_be_captured() {
        let once = ResumeFacts {
            generation: Generation::Next,
            captured: 5,
            committed: 3,
            continues: true,
            followed: false,
            rebooted: false,
        };
        assert_eq!(resume(&once), Resume::AfterReset);
        for unknown in [
            ResumeFacts {
                committed: 5,
                ..once
            }, // the last captured frame is written over
            ResumeFacts {
                continues: false,
                ..once
            },
            ResumeFacts {
                followed: true,
                ..once
            },
            ResumeFacts {
                rebooted: true,
                ..once
            },
            ResumeFacts {
                generation: Generation::Other,
                ..once
            },
        ] {
            assert_eq!(
                resume(&unknown),
                Resume::Refused(Refusal::Restarted),
                "{unknown:?}"
            );
        }
    }

    #[test]
    fn a_generation_is_continued_only_behind_the_frame_captured_last() {
        let same = ResumeFacts {
            generation: Generation::Same,
            captured: 5,
            committed: 5,
            continues: true,
            followed: false,
            rebooted: true,
        };
        assert_eq!(resume(&same), Resume::Here);
        let with = |generation, committed, continues| ResumeFacts {
            generation,
            committed,
            continues,
            ..same
        };
        for (facts, refusal) in [
            (with(Generation::Same, 4, true), Refusal::FrameGone),
            (with(Generation::Same, 6, false), Refusal::FrameGone),
            // Every WAL without a frame looks like this, whatever was in it before.
            (with(Generation::Nameless, 6, true), Refusal::Empty),
            (with(Generation::Other, 6, true), Refusal::Restarted),
        ] {
            assert_eq!(resume(&facts), Resume::Refused(refusal), "{facts:?}");
        }
    }
}

//! What is caught: the model can fail, and it comes to what the protocol is about.

use super::{
    SOME_MODES, budget,
    capture::Mutation,
    explore, holds, is_caught, large,
    protocol::{self, Refusal, Resume},
    resume::resumes,
    sqlite::{Role, Version},
    state::{At, CaptureAt, Image, Mode, State},
    world::{
        A_LOCK_IS_HELD, Check, IMAGE_STANDS, NO_FOREIGN_WRITE, NO_GAP, NO_RESET_UNDER_PIN,
        NOTHING_INVENTED, NOTHING_LOST, ONE_RESET, PROGRESS, SQLITE_KEEPS, Situation, World,
    },
};

// ---- the checker finds what is put there to be found

#[test]
fn the_wal_reset_fault_of_old_sqlite_is_in_the_model() {
    let world = World::new(Version::Before3513, budget(5, 2)).without_us();
    is_caught("SQLite alone", NO_FOREIGN_WRITE, world.clone());
    is_caught("SQLite alone", SQLITE_KEEPS, world);
}

fn mutated(version: Version, mutation: Mutation) -> World {
    World::new(version, budget(2, 2))
        .modes(&SOME_MODES)
        .mutated(mutation)
}

#[test]
fn letting_go_of_the_pin_before_the_guard_is_caught() {
    let world = mutated(Version::Fixed, Mutation::PinGoneBeforeGuard);
    is_caught("pin gone before guard", NOTHING_LOST, world);
}

#[test]
fn skipping_the_second_capture_is_caught() {
    let world = mutated(Version::Fixed, Mutation::NoSecondCapture);
    is_caught("no second capture", NOTHING_LOST, world);
}

#[test]
fn letting_go_of_the_guard_before_the_pin_is_caught() {
    let world = mutated(Version::Fixed, Mutation::GuardGoneBeforePin);
    is_caught("guard gone before pin", NOTHING_LOST, world);
}

#[test]
fn two_resets_before_the_pin_is_back_are_caught() {
    let world = mutated(Version::Fixed, Mutation::GuardGoneBeforePin);
    is_caught("guard gone before pin", ONE_RESET, world);
    let world = mutated(Version::Fixed, Mutation::PinGoneBeforeGuard);
    is_caught("pin gone before guard", ONE_RESET, world);
}

#[test]
fn a_moment_without_either_lock_is_caught() {
    let world = mutated(Version::Fixed, Mutation::PinGoneBeforeGuard);
    is_caught("pin gone before guard", A_LOCK_IS_HELD, world);
    let world = mutated(Version::Fixed, Mutation::GuardGoneBeforePin);
    is_caught("guard gone before pin", A_LOCK_IS_HELD, world);
}

#[test]
fn letting_the_last_connection_delete_the_wal_under_us_is_caught() {
    let world = World::new(Version::Fixed, budget(2, 0).closes(1)).with_a_writer_only();
    let world = world.mutated(Mutation::DatabaseNotShared);
    is_caught("database not shared", NOTHING_LOST, world);
}

#[test]
fn taking_an_empty_wal_for_the_one_it_was_is_caught() {
    let bounds = budget(2, 0).closes(2).capture_crashes(1);
    let world = World::new(Version::Fixed, bounds).with_a_writer_only();
    let world = world.mutated(Mutation::ZeroSaltsKnown);
    is_caught("zero salts", NOTHING_LOST, world);
}

#[test]
fn following_a_reset_without_a_look_at_what_was_before_it_is_caught() {
    let world = World::new(Version::Fixed, budget(3, 1).capture_crashes(1)).modes(&SOME_MODES);
    let world = world.mutated(Mutation::ResetFollowed);
    is_caught("reset followed", NOTHING_LOST, world);
}

#[test]
fn following_a_reset_after_a_power_loss_is_caught() {
    let world = World::new(Version::Fixed, budget(4, 1).power_losses(1)).modes(&[Mode::Passive]);
    let world = world.mutated(Mutation::RebootUnnoticed);
    is_caught("reboot unnoticed", NOTHING_INVENTED, world);
}

#[test]
fn reading_an_image_under_the_pin_alone_is_caught() {
    let world = mutated(Version::Fixed, Mutation::ImageWithoutGuard).reading_images();
    is_caught("image without guard", IMAGE_STANDS, world);
}

#[test]
fn letting_go_of_the_guard_after_the_last_transaction_is_caught_with_old_sqlite() {
    let world = mutated(Version::Before3513, Mutation::GuardGoneAfterLast).reading_images();
    is_caught("guard gone after the last", NO_FOREIGN_WRITE, world);
}

#[test]
fn letting_go_of_the_pin_with_uncaptured_backfilled_frames_is_caught() {
    let world = mutated(Version::Fixed, Mutation::PinGoneUncaptured);
    is_caught("pin gone, nBackfill > captured", NOTHING_LOST, world);
}

#[test]
fn keeping_the_mark_of_the_pinned_slot_is_caught() {
    let world = World::new(Version::Fixed, budget(2, 1).reads(1)).mutated(Mutation::MarkKept);
    is_caught(
        "mark kept",
        PROGRESS,
        world.modes(&[Mode::Passive]).with(Role::Reader),
    );
}

#[test]
fn pinning_the_slot_a_checkpoint_waits_for_is_caught() {
    let world = World::new(Version::Fixed, budget(1, 1).reads(1)).mutated(Mutation::PinOnAnySlot);
    is_caught(
        "pin on any slot",
        PROGRESS,
        world.modes(&[Mode::Full]).with(Role::Reader),
    );
}

#[test]
fn putting_the_brake_on_the_slot_of_the_pin_is_caught() {
    let world = mutated(Version::Fixed, Mutation::BrakeOnPin).braking();
    is_caught("brake on the pin", NOTHING_LOST, world.clone());
    is_caught("brake on the pin", NO_RESET_UNDER_PIN, world);
}

#[test]
fn keeping_the_brake_while_a_checkpoint_makes_writers_wait_is_caught() {
    let world = mutated(Version::Fixed, Mutation::BrakeKept).braking();
    is_caught("brake kept", PROGRESS, world.modes(&[Mode::Full]));
}

#[test]
fn skipping_the_check_for_a_checkpointer_is_caught_with_old_sqlite() {
    for mutation in [
        Mutation::NoCheckpointerCheck,
        Mutation::NoCheckpointerCheckOnAttach,
        Mutation::ImpatientWithCheckpointer,
    ] {
        let name = "no check for a checkpointer";
        is_caught(
            name,
            NO_FOREIGN_WRITE,
            mutated(Version::Before3513, mutation),
        );
        if large() {
            holds(name, mutated(Version::Fixed, mutation));
        }
    }
}

#[test]
fn taking_a_reset_just_after_the_pin_for_a_gap_is_caught() {
    let world = mutated(Version::Fixed, Mutation::PinBelieved);
    is_caught("pin believed", NO_GAP, world);
}

#[test]
fn resuming_by_the_salts_alone_is_caught() {
    let world = mutated(Version::Fixed, Mutation::NoChecksum);
    let world = World {
        budget: budget(3, 0).power_losses(1),
        ..world
    };
    is_caught("no checksum", NOTHING_LOST, world.clone());
    is_caught("no checksum", NOTHING_INVENTED, world);
}

// ---- and reaches what the protocol is about

const SITUATIONS: &[Situation] = &[
    ("a reset under the guard", |_, s| {
        s.capture.attached && s.capture.pin == 0 && s.capture.position.salt != s.header().salt
    }),
    ("recovery under the pin", |_, s| {
        s.connections.iter().any(|c| c.at == At::RecoverHeader) && s.capture.pin != 0
    }),
    (
        "the guard stops a checkpointer from before the reset",
        |_, s| {
            let late = s.connections[1];
            late.at == At::CkptLockRead0 && late.header.salt != s.header().salt && s.capture.guard
        },
    ),
    ("a checkpoint waits for the guard", |_, s| {
        let c = s.connections[1];
        c.at == At::CkptLockRead0 && c.patient && s.capture.guard && s.capture.at == CaptureAt::Idle
    }),
    ("a checkpoint waits for the pin", |_, s| {
        s.connections[1].at == At::CkptReaders && s.capture.pin != 0
    }),
    ("the resume check passes with frames to come", |_, s| {
        let known = s.capture.position.frames;
        (1..s.header().frames).contains(&known) && is_resuming(s) == Some(Resume::Here)
    }),
    ("the resume check passes after a reset", |_, s| {
        is_resuming(s) == Some(Resume::AfterReset)
    }),
    ("the resume check refuses another generation", |_, s| {
        let known = s.capture.position.frames > 0;
        known && is_resuming(s) == Some(Resume::Refused(Refusal::Restarted))
    }),
];

fn is_resuming(s: &State) -> Option<Resume> {
    let resuming = s.capture.at == CaptureAt::Resume;
    resuming.then(|| resumes(s, Mutation::None))
}

const CLOSED: &[Situation] = &[
    (
        "the last connection deletes a WAL we had not captured",
        |_, s| {
            let gone = s.connections[0].at == At::CloseFile;
            gone && s.committed & !s.capture.captured != 0
        },
    ),
    (
        "ours keeps the last of the application from it",
        |world, s| s.capture.attached && s.budget.closes < world.budget.closes,
    ),
    ("the resume check refuses a WAL made anew", |_, s| {
        let known = s.capture.position.frames > 0;
        known && is_resuming(s) == Some(Resume::Refused(Refusal::Restarted))
    }),
    ("the resume check refuses one that was empty", |_, s| {
        is_resuming(s) == Some(Resume::Refused(Refusal::Empty)) && s.committed != 0
    }),
];

const IMAGES: &[Situation] = &[
    ("frames are captured while an image is read", |_, s| {
        let doing = CaptureAt::Do(protocol::Action::Capture);
        s.capture.image == Image::Read && s.capture.at == doing
    }),
    ("a checkpoint waits for an image", |_, s| {
        let waits = s.connections[1].at == At::CkptLockRead0;
        waits && s.capture.image == Image::Read && s.capture.at == CaptureAt::Idle
    }),
];

/// Takes two deaths: one between the reset and the new WAL header, one that tears the header.
const UNDONE: &[Situation] = &[("recovery undoes a reset we followed", |_, s| {
    let (now, known) = (s.header().salt, s.capture.position.salt);
    s.capture.attached && !s.index.torn && now.second < known.second
})];

const BRAKED: &[Situation] = &[("a checkpoint waits for the brake", |_, s| {
    let checkpointer = s.connections[1];
    checkpointer.at == At::CkptAwaitMark && s.capture.brake != 0 && s.capture.at == CaptureAt::Idle
})];

const PROBED: &[Situation] = &[(
    "a reader that looks for a recovery is in the way of one",
    |_, s| {
        let at = |wanted| s.connections.iter().any(|c| c.at == wanted);
        at(At::ProbeEnd) && at(At::RecoverLocks)
    },
)];

#[test]
fn the_model_reaches_the_situations_the_protocol_is_about() {
    let world = |bounds| World::new(Version::Before3513, bounds).modes(&SOME_MODES);
    reaches(
        world(budget(2, 2).crashes(1).capture_crashes(1)),
        SITUATIONS,
    );
    reaches(world(budget(2, 2).crashes(2)), UNDONE);
    reaches(world(budget(2, 1).crashes(1)).with(Role::Writer), PROBED);
    reaches(world(budget(2, 2)).braking().modes(&[Mode::Full]), BRAKED);
    let bounds = budget(2, 0).closes(2).capture_crashes(1);
    reaches(world(bounds).with_a_writer_only(), CLOSED);
    reaches(world(budget(2, 1)).reading_images(), IMAGES);
}

fn reaches(world: World, situations: &'static [Situation]) {
    let found = explore("situations", world.check(Check::Reached(situations)));
    let missing = situations.iter().filter(|(name, _)| !found.contains(name));
    let missing: Vec<_> = missing.map(|(name, _)| name).collect();
    assert!(missing.is_empty(), "never reached: {missing:?}");
}

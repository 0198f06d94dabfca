//! The protocol of the two guards (`docs/protocol.md`) against SQLite's own steps, exhaustively
//! within bounds. `EVERTIDE_MODEL_BOUNDS=large` widens them: minutes instead of seconds.

#[path = "../../src/wal/protocol.rs"]
mod protocol;

mod capture;
mod closing;
mod image;
mod progress;
mod resume;
mod sqlite;
mod state;
mod world;

use std::sync::{Mutex, PoisonError};

use stateright::{Checker, HasDiscoveries, Model};

use self::{
    capture::Mutation,
    protocol::{Refusal, Resume},
    resume::resumes,
    sqlite::{Role, Version},
    state::{At, Budget, CaptureAt, Image, Mode, State},
    world::{
        Check, IMAGE_STANDS, NO_FOREIGN_WRITE, NO_GAP, NOTHING_INVENTED, NOTHING_LOST, ONE_RESET,
        PROGRESS, SQLITE_KEEPS, Situation, World,
    },
};

const SOME_MODES: [Mode; 2] = [Mode::Passive, Mode::Truncate];

/// One check at a time, each on two threads.
static TURN: Mutex<()> = Mutex::new(());

fn large() -> bool {
    std::env::var("EVERTIDE_MODEL_BOUNDS").is_ok_and(|bounds| bounds == "large")
}

/// The second within large bounds, the first otherwise.
fn bounds(small: Budget, large_one: Budget) -> Budget {
    if large() { large_one } else { small }
}

fn both() -> [Version; 2] {
    [Version::Before3513, Version::Fixed]
}

/// Both within large bounds, else the one: the other gives no other result, only costs time.
fn mostly(version: Version) -> Vec<Version> {
    if large() {
        both().into()
    } else {
        vec![version]
    }
}

fn budget(commits: u8, checkpoints: u8) -> Budget {
    Budget {
        commits,
        checkpoints,
        ..Budget::default()
    }
}

/// Explores every reachable state, or up to the first counterexample: what was found.
fn explore(name: &str, mut world: World) -> Vec<&'static str> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if world.check == Check::Progress {
        world.seed = evertide_testkit::seed();
    }
    let finish = match world.check {
        Check::Reached(_) => HasDiscoveries::All,
        _ => HasDiscoveries::AnyFailures,
    };
    let version = world.version;
    let checker = world
        .checker()
        .threads(2)
        .finish_when(finish)
        .spawn_bfs()
        .join();
    let discoveries = checker.discoveries();
    eprintln!(
        "{name}, {version:?}: {} states, {} transitions, depth {}, found {:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        discoveries.keys(),
    );
    discoveries
        .into_iter()
        .map(|(property, path)| {
            eprintln!("  {property}: {:?}", path.into_actions());
            property
        })
        .collect()
}

fn holds(name: &str, world: World) {
    let found = explore(name, world);
    assert!(found.is_empty(), "{name}: counterexample to {found:?}");
}

fn is_caught(name: &str, property: &'static str, world: World) {
    let check = if property == PROGRESS {
        Check::Progress
    } else {
        Check::Only(property)
    };
    let found = explore(name, world.check(check));
    assert_eq!(
        found,
        [property],
        "{name}: the checker did not find the fault"
    );
}

// ---- the model of SQLite itself

#[test]
fn sqlite_alone_loses_nothing_it_committed() {
    let alone = |bounds| World::new(Version::Fixed, bounds).without_us();
    holds("two writers alone", alone(budget(3, 2)).with(Role::Writer));
    holds("a writer alone that dies", alone(budget(3, 2).crashes(1)));
}

#[test]
fn the_wal_reset_fault_of_old_sqlite_is_in_the_model() {
    let world = World::new(Version::Before3513, budget(5, 2)).without_us();
    is_caught("SQLite alone", NO_FOREIGN_WRITE, world.clone());
    is_caught("SQLite alone", SQLITE_KEEPS, world);
}

// ---- safety

#[test]
fn no_frame_is_lost_to_any_checkpoint() {
    for version in both() {
        let bounds = bounds(budget(3, 2), budget(5, 3));
        holds("all modes", World::new(version, bounds));
    }
    for version in mostly(Version::Fixed) {
        let bounds = bounds(budget(3, 2), budget(4, 3));
        let world = World::new(version, bounds).modes(&SOME_MODES);
        holds("nBackfill read first", world.backfilled_first());
    }
}

#[test]
fn no_frame_is_lost_with_a_second_writer_or_a_reader() {
    for version in both() {
        let bounds = bounds(budget(2, 2), budget(3, 2));
        let world = World::new(version, bounds).modes(&SOME_MODES);
        holds("two writers", world.with(Role::Writer));
    }
    for version in mostly(Version::Fixed) {
        let bounds = bounds(budget(2, 1), budget(3, 2)).reads(1);
        let world = World::new(version, bounds).with(Role::Reader);
        holds(
            "a reader",
            if large() {
                world
            } else {
                world.modes(&SOME_MODES)
            },
        );
    }
}

#[test]
fn no_frame_is_lost_while_we_rotate() {
    for version in both() {
        let bounds = bounds(budget(3, 1), budget(5, 2));
        holds("rotating", World::new(version, bounds).rotating());
    }
}

#[test]
fn no_frame_is_lost_unnoticed_while_we_rotate_beside_others() {
    let world = |version, bounds| World::new(version, bounds).modes(&SOME_MODES).rotating();
    for version in mostly(Version::Before3513) {
        let writers = world(version, bounds(budget(2, 1), budget(3, 2)));
        holds(
            "rotating beside a second writer",
            writers.with(Role::Writer),
        );
        let closes = bounds(budget(2, 1).closes(1), budget(3, 1).closes(3));
        holds("rotating while connections close", world(version, closes));
    }
    for version in mostly(Version::Fixed) {
        let power = bounds(budget(2, 1), budget(3, 2)).power_losses(1);
        holds("rotating, and power loss", world(version, power));
    }
}

#[test]
fn no_frame_is_lost_while_we_brake() {
    for version in both() {
        let bounds = bounds(budget(3, 1), budget(4, 2));
        holds("braking", World::new(version, bounds).braking());
    }
    for version in mostly(Version::Before3513) {
        let bounds = bounds(budget(2, 1), budget(3, 1))
            .crashes(1)
            .capture_crashes(1);
        let world = World::new(version, bounds).modes(&SOME_MODES).braking();
        holds("all die, braking", world);
        let world = World::new(version, budget(2, 1).reads(1)).with(Role::Reader);
        holds("a reader, braking", world.modes(&SOME_MODES).braking());
    }
}

#[test]
fn no_frame_is_lost_when_the_application_dies() {
    for version in mostly(Version::Before3513) {
        let bounds = bounds(budget(2, 2).crashes(1), budget(3, 2).crashes(2));
        holds(
            "application dies",
            World::new(version, bounds).modes(&SOME_MODES),
        );
    }
}

#[test]
fn no_frame_is_lost_unnoticed_when_we_die() {
    for version in mostly(Version::Before3513) {
        let bounds = bounds(
            budget(2, 2).capture_crashes(1),
            budget(4, 3).capture_crashes(2),
        );
        holds("we die", World::new(version, bounds).modes(&SOME_MODES));
    }
}

#[test]
fn no_frame_is_lost_unnoticed_when_the_machine_dies() {
    for version in mostly(Version::Fixed) {
        let bounds = bounds(budget(3, 1), budget(4, 2)).power_losses(1);
        holds("power loss", World::new(version, bounds).modes(&SOME_MODES));
    }
}

#[test]
fn no_frame_is_lost_unnoticed_when_everything_dies_while_we_rotate() {
    for version in mostly(Version::Before3513) {
        let bounds = bounds(budget(2, 0), budget(3, 1))
            .crashes(1)
            .capture_crashes(1);
        let world = World::new(version, bounds).modes(&SOME_MODES).rotating();
        holds("all die, rotating", world);
    }
}

#[test]
fn no_frame_is_lost_unnoticed_when_anybody_dies_beside_others() {
    let dying = |bounds: Budget| bounds.crashes(1).capture_crashes(1);
    for version in mostly(Version::Before3513) {
        let world = |bounds| World::new(version, dying(bounds));
        let all_modes = world(bounds(budget(2, 1), budget(3, 2)));
        holds("all die, all modes", all_modes);
        let reader = world(bounds(budget(1, 1), budget(2, 1)).reads(1));
        let reader = reader.with(Role::Reader).modes(&SOME_MODES);
        holds("all die beside a reader", reader);
        let writers = world(bounds(budget(2, 0), budget(2, 2)));
        let writers = writers.with(Role::Writer).modes(&SOME_MODES);
        holds("all die beside a second writer", writers);
        let images = world(bounds(budget(1, 1), budget(3, 1)));
        let images = images.reading_images().modes(&SOME_MODES);
        holds("all die beside images", images);
    }
}

#[test]
fn no_frame_is_lost_unnoticed_when_connections_close_and_the_last_deletes_the_wal() {
    for version in mostly(Version::Before3513) {
        let bounds = bounds(
            budget(3, 0).closes(2).capture_crashes(1),
            budget(4, 0).closes(3).crashes(1).capture_crashes(2),
        );
        let world = World::new(version, bounds).with_a_writer_only();
        holds("one connection opens and closes", world);
    }
    for version in mostly(Version::Fixed) {
        let bounds = bounds(
            budget(2, 1).closes(2),
            budget(3, 1).closes(3).capture_crashes(1),
        );
        let world = World::new(version, bounds).modes(&SOME_MODES);
        holds("two connections open and close", world);
    }
}

#[test]
fn no_frame_is_lost_while_an_image_is_read_and_nothing_changes_under_it() {
    for version in mostly(Version::Before3513) {
        let bounds = bounds(budget(2, 1), budget(4, 2));
        let world = World::new(version, bounds).modes(&SOME_MODES);
        holds("images", world.reading_images());
        let bounds = budget(2, 1);
        let world = World::new(version, bounds).check(Check::Progress);
        holds("progress after images", world.reading_images());
    }
}

// ---- liveness

#[test]
fn every_checkpoint_and_transaction_ends_and_the_wal_starts_over() {
    let world = |version, bounds| World::new(version, bounds).check(Check::Progress);
    for version in both() {
        holds(
            "progress",
            world(version, bounds(budget(2, 1), budget(3, 2))),
        );
        holds(
            "progress, rotating",
            world(version, budget(2, 0)).rotating(),
        );
        holds(
            "progress, braking",
            world(version, bounds(budget(2, 1), budget(3, 2))).braking(),
        );
    }
    for version in mostly(Version::Fixed) {
        let dying = world(version, budget(2, 1).crashes(1)).modes(&SOME_MODES);
        holds("progress after a death", dying);
        let we_die = world(version, budget(2, 1).capture_crashes(1));
        holds("progress after our death", we_die.modes(&SOME_MODES));
        let all_die = world(version, budget(2, 1).power_losses(1));
        holds("progress after a power loss", all_die.modes(&SOME_MODES));
        let closing = world(version, budget(2, 1).closes(2)).modes(&SOME_MODES);
        holds("progress after closing", closing);
        let bounds = bounds(budget(1, 1), budget(2, 1)).reads(1);
        let reader = world(version, bounds).with(Role::Reader);
        holds("progress with a reader", reader.modes(&[Mode::Full]));
    }
}

#[test]
fn a_steady_writer_cannot_keep_the_wal_from_starting_over() {
    let world = World::new(Version::Fixed, budget(5, 0)).rotating();
    assert!(progress::rotates_under_a_steady_writer(&world));
    let patient = World {
        insist_at: u32::MAX,
        ..world
    };
    assert!(
        !progress::rotates_under_a_steady_writer(&patient),
        "the writer was not steady"
    );
}

// ---- the checker finds what is put there to be found

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
    is_caught("brake on the pin", NOTHING_LOST, world);
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

#[test]
fn the_model_reaches_the_situations_the_protocol_is_about() {
    let world = |bounds| World::new(Version::Before3513, bounds).modes(&SOME_MODES);
    reaches(
        world(budget(2, 2).crashes(1).capture_crashes(1)),
        SITUATIONS,
    );
    reaches(world(budget(2, 2).crashes(2)), UNDONE);
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

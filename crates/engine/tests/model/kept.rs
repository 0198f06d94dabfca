//! What holds: nothing is lost, and everybody comes to an end.

use super::{
    SOME_MODES, both, bounds, budget, holds, large, mostly, progress,
    sqlite::{Role, Version},
    state::{Budget, Mode},
    world::{Check, World},
};

// ---- safety

#[test]
fn sqlite_alone_loses_nothing_it_committed() {
    let alone = |bounds| World::new(Version::Fixed, bounds).without_us();
    holds("two writers alone", alone(budget(3, 2)).with(Role::Writer));
    holds("a writer alone that dies", alone(budget(3, 2).crashes(1)));
}

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
        let writers = world(version, budget(2, 1)).with(Role::Writer);
        holds("progress with a second writer", writers.modes(&SOME_MODES));
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

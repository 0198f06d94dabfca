//! Liveness: from a given state, with everybody playing on fairly and nobody giving up, does each
//! transaction and checkpoint end, and can the WAL start over?

use super::{
    sqlite::Role,
    state::{At, CONNECTIONS, CaptureAt, FRAMES, Mode, OWN, State},
    world::World,
};

/// Rounds after which nobody is going to move any more.
const ROUNDS: usize = 200;
const WRITER: usize = 0;
const CHECKPOINTER: usize = 1;

/// Everybody ends, and then an application gets its TRUNCATE, and a writer its reset.
pub(crate) fn settles(world: &World, s: &State) -> bool {
    let mut s = *s;
    let ended = run(world, &mut s);
    if s.faults.foreign_write_detached {
        return true; // SQLite's own fault, before we came
    }
    ended
        && truncates(world, s)
        && (s.index.header.frames == 0
            || s.index.header.frames == FRAMES as u8
            || rotates(world, s))
}

/// Runs all in turn until nothing changes; `false` when somebody waits for ever.
fn run(world: &World, s: &mut State) -> bool {
    for _ in 0..ROUNDS {
        let before = *s;
        for who in 0..CONNECTIONS {
            if world.roles[who] != Role::Nobody {
                world.sqlite(s, who).step();
            }
        }
        look(world, s);
        if *s == before {
            return s.connections.iter().all(|c| c.at == At::Idle);
        }
    }
    false
}

/// One notice: our process works until it rests, or waits for somebody.
fn look(world: &World, s: &mut State) {
    world.engine(s).end_image(); // nobody reads one for ever
    for _ in 0..ROUNDS {
        if !world.engine(s).step() {
            world.engine(s).give_up();
            return;
        }
        if matches!(s.capture.at, CaptureAt::Idle | CaptureAt::Off) {
            return;
        }
    }
}

/// An application's TRUNCATE ends, and leaves an empty WAL.
fn truncates(world: &World, mut s: State) -> bool {
    world
        .sqlite(&mut s, CHECKPOINTER)
        .begin_checkpoint(Mode::Truncate)
        && run(world, &mut s)
        && s.index.header.frames == 0
}

/// After passive checkpoints, or ours, the next transaction starts the WAL over. The first may come
/// while we still hold the guard after a reset, and does nothing then.
fn rotates(world: &World, mut s: State) -> bool {
    let before = s.index.header.salt;
    s.capture.busy = false;
    for _ in 0..2 {
        let ours = u32::from(s.index.header.frames) >= world.rotate_at;
        let begun = ours
            || world
                .sqlite(&mut s, CHECKPOINTER)
                .begin_checkpoint(Mode::Passive);
        if !begun || !run(world, &mut s) {
            return false;
        }
    }
    world.sqlite(&mut s, WRITER).begin() && run(world, &mut s) && s.index.header.salt != before
}

/// Whether the WAL starts over although a writer commits whenever our checkpoint has just ended,
/// so that there is always a frame more than was backfilled.
pub(crate) fn rotates_under_a_steady_writer(world: &World) -> bool {
    let mut s = State::new(world.budget);
    commits(world, &mut s);
    for _ in 0..ROUNDS {
        let checkpointed = s.capture.at == CaptureAt::OwnCheckpoint;
        if checkpointed && s.connections[OWN].at == At::Idle {
            if usize::from(s.index.header.frames) == FRAMES {
                return false; // and larger still, if the model's WAL could be
            }
            commits(world, &mut s);
        }
        world.engine(&mut s).step();
        world.sqlite(&mut s, OWN).step();
        if s.capture.at == CaptureAt::Idle && s.capture.guard && s.capture.pin == 0 {
            let before = s.index.header.salt;
            commits(world, &mut s);
            return s.index.header.salt != before;
        }
    }
    false
}

/// A transaction, if the write lock can be had.
fn commits(world: &World, s: &mut State) {
    world.sqlite(s, WRITER).begin();
    while world.sqlite(s, WRITER).step() {}
}

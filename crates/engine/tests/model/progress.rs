//! Liveness: from a given state, with everybody playing on fairly and nobody giving up, does each
//! transaction and checkpoint end, and can the WAL start over? In several orders of turns.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{
    sqlite::Role,
    state::{At, CONNECTIONS, CaptureAt, FRAMES, Mode, OWN, State},
    world::World,
};

/// Rounds after which nobody is going to move any more.
const ROUNDS: usize = 200;
/// The same where our process needs several turns for what it else does in one.
const DRAWN_ROUNDS: usize = 10 * ROUNDS;
const WRITER: usize = 0;
const CHECKPOINTER: usize = 1;
/// Our process, among those whose turn it is.
const US: usize = CONNECTIONS;

/// Whose turn it is, round by round.
enum Turns {
    /// In this order. Whoever has a turn makes one step, and our process works until it rests.
    InOrder([usize; CONNECTIONS + 1]),
    /// In another one each time, and whoever has a turn makes one or several steps.
    Drawn(fastrand::Rng),
}

/// Everybody ends, and then an application gets its TRUNCATE, and a writer its reset; in whatever order
/// they take their turns.
pub(crate) fn settles(world: &World, s: &State) -> bool {
    let mut seed = DefaultHasher::new();
    (s, world.seed).hash(&mut seed);
    let drawn = fastrand::Rng::with_seed(seed.finish());
    [
        Turns::InOrder([0, 1, 2, 3, US]),
        Turns::InOrder([US, 3, 2, 1, 0]),
        Turns::Drawn(drawn),
    ]
    .into_iter()
    .all(|turns| settles_by(world, *s, turns))
}

fn settles_by(world: &World, mut s: State, mut turns: Turns) -> bool {
    let ended = run(world, &mut s, &mut turns);
    if s.faults.foreign_write_detached {
        return true; // SQLite's own fault, before we came
    }
    ended
        && truncates(world, s, &mut turns)
        && (s.index.header.frames == 0
            || s.index.header.frames == FRAMES as u8
            || rotates(world, s, &mut turns))
}

/// Runs all until nothing changes any more; `false` when somebody waits for ever.
fn run(world: &World, s: &mut State, turns: &mut Turns) -> bool {
    match turns {
        Turns::InOrder(order) => run_in_order(world, s, *order),
        Turns::Drawn(random) => run_drawn(world, s, random),
    }
}

fn run_in_order(world: &World, s: &mut State, order: [usize; CONNECTIONS + 1]) -> bool {
    for _ in 0..ROUNDS {
        let before = *s;
        for who in order {
            match who {
                US => look(world, s),
                _ => step(world, s, who),
            }
        }
        if *s == before {
            return s.connections.iter().all(|c| c.at == At::Idle);
        }
    }
    false
}

/// Our process is not waited for, so that it has rested in many a state before it does in the last one.
fn run_drawn(world: &World, s: &mut State, random: &mut fastrand::Rng) -> bool {
    let (mut order, mut rested) = ([0, 1, 2, 3, US], None);
    for _ in 0..DRAWN_ROUNDS {
        random.shuffle(&mut order);
        for who in order {
            for _ in 0..random.u8(1..=3) {
                match who {
                    US => our_step(world, s),
                    _ => step(world, s, who),
                }
            }
        }
        let all_rest = rests(s) && s.connections.iter().all(|c| c.at == At::Idle);
        if all_rest && rested.replace(*s) == Some(*s) {
            return true;
        }
    }
    false
}

fn step(world: &World, s: &mut State, who: usize) {
    if world.roles[who] != Role::Nobody {
        world.sqlite(s, who).step();
    }
}

/// Our next step, or what ends our waiting.
fn our_step(world: &World, s: &mut State) {
    world.engine(s).end_image(); // nobody reads one for ever
    if !world.engine(s).step() {
        world.engine(s).give_up();
    }
}

fn rests(s: &State) -> bool {
    matches!(s.capture.at, CaptureAt::Idle | CaptureAt::Off)
}

/// One notice: our process works until it rests, or waits for somebody.
fn look(world: &World, s: &mut State) {
    world.engine(s).end_image(); // nobody reads one for ever
    for _ in 0..ROUNDS {
        if !world.engine(s).step() {
            world.engine(s).give_up();
            return;
        }
        if rests(s) {
            return;
        }
    }
}

/// An application's TRUNCATE ends, and leaves an empty WAL.
fn truncates(world: &World, mut s: State, turns: &mut Turns) -> bool {
    open(world, &mut s, CHECKPOINTER);
    world
        .sqlite(&mut s, CHECKPOINTER)
        .begin_checkpoint(Mode::Truncate)
        && run(world, &mut s, turns)
        && s.index.header.frames == 0
}

/// A connection that was closed opens again.
fn open(world: &World, s: &mut State, who: usize) {
    if world.closing {
        world.sqlite(s, who).open();
    }
}

/// After passive checkpoints, or ours, the next transaction starts the WAL over. The first may come
/// while we still hold the guard after a reset, and does nothing then.
fn rotates(world: &World, mut s: State, turns: &mut Turns) -> bool {
    let before = s.index.header.salt;
    open(world, &mut s, CHECKPOINTER);
    open(world, &mut s, WRITER);
    s.capture.busy = false;
    for _ in 0..2 {
        let ours = u32::from(s.index.header.frames) >= world.rotate_at;
        let begun = ours
            || world
                .sqlite(&mut s, CHECKPOINTER)
                .begin_checkpoint(Mode::Passive);
        if !begun || !run(world, &mut s, turns) {
            return false;
        }
    }
    world.sqlite(&mut s, WRITER).begin()
        && run(world, &mut s, turns)
        && s.index.header.salt != before
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

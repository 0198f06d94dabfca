//! The protocol of the two guards (`docs/protocol.md`) against SQLite's own steps, exhaustively
//! within bounds. `EVERTIDE_MODEL_BOUNDS=large` widens them: minutes instead of seconds.

#[path = "../../src/wal/protocol.rs"]
mod protocol;

mod capture;
mod caught;
mod closing;
mod image;
mod kept;
mod progress;
mod resume;
mod sqlite;
mod state;
mod world;

use std::sync::{Mutex, PoisonError};

use stateright::{Checker, HasDiscoveries, Model};

use self::{
    sqlite::Version,
    state::{Budget, Mode},
    world::{Check, PROGRESS, World},
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

//! The N-th request to the store fails, for every N until a run is clean: once, or it and all after it, and unreached, or
//! done and unanswered. What a restore asks for is left out: threads make these requests, which do not live by this clock.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use evertide_ltx::Level;
use evertide_storage::{Destination, MemoryClient};
use fastrand::Rng;
use tokio::time::{Instant, sleep};

use super::{
    MINUTE, SECOND,
    application::Common,
    cloud::{Conditions, Lasts, Nth, Trouble, Weather},
    judge::{Judge, Promise},
    node::{Node, Shared},
    simulated,
};
use crate::{ReplicaOptions, replica::Succession};

/// What a run came to, before the store was back.
#[derive(Debug)]
struct Lived {
    /// Whether a request failed.
    failed: bool,
    leases: u64,
    proofs: u64,
    deleted: u64,
    compacted: u64,
    snapshots: u64,
}

/// Everything that a replica needs once in a while comes within minutes.
fn options() -> ReplicaOptions {
    let mut options = ReplicaOptions::new("shared", Destination::file("/not/looked/at").unwrap());
    options.lease_duration = 30 * SECOND;
    options.levels = vec![10 * SECOND, MINUTE];
    options.level_0_retention = 20 * SECOND;
    options.snapshot_interval = 2 * MINUTE;
    options.retention = Some(2 * MINUTE);
    options.retention_check_interval = MINUTE;
    options.drill_interval = Some(2 * MINUTE);
    options
}

impl Lived {
    fn of(node: &Node, judge: &Judge) -> Self {
        let stored = |wanted: fn(Level) -> bool| -> u64 {
            let levels = judge.levels.iter();
            levels
                .filter(|(level, _)| wanted(**level))
                .map(|(_, times)| times)
                .sum()
        };
        Self {
            failed: node.line.troubles() > 0,
            leases: judge.leases,
            proofs: judge.proofs,
            deleted: judge.deleted,
            compacted: stored(|level| level != Level::L0 && level != Level::SNAPSHOT),
            snapshots: stored(|level| level == Level::SNAPSHOT),
        }
    }
}

/// Six commits with all that follows from them, and a stop; then the line is mended, and one more commit is soon on the
/// replica, proven, and what it can be restored to.
async fn live(seed: u64, conditions: Conditions, nth: Nth) -> Lived {
    let mut random = Rng::with_seed(seed);
    let judge = Arc::new(Mutex::new(Judge::new(Promise::of_one(30 * SECOND))));
    let shared = Shared {
        cloud: Arc::new(MemoryClient::service("shared")),
        conditions,
        judge: Arc::clone(&judge),
        common: Common::default(),
        one_machine: false,
        options: options(),
    };
    let mut node = Node::new(0, Path::new("/first/app.db"), &shared, &mut random);
    node.line.set_weather(Weather::Nth(nth));
    node.start(Succession::Proven).await;
    for _ in 0..6 {
        sleep(40 * SECOND).await;
        node.commit();
        judge.lock().unwrap().assert_sound();
    }
    sleep(3 * MINUTE).await;
    node.stop().await;
    let lived = Lived::of(&node, &judge.lock().unwrap());

    node.line.set_weather(Weather::Fair);
    node.start(Succession::Proven).await;
    node.commit();
    let end = Instant::now() + 30 * MINUTE;
    let well =
        |node: &Node| node.maintenance_error().is_none() && node.proven() == Some(node.txid());
    let mut forced = false;
    while !(node.is_durable() && well(&node)) {
        let errors = (node.error(), node.maintenance_error());
        assert!(Instant::now() < end, "not complete: {errors:?}");
        // After a renewal that came late, and an outage, nobody knows there that no other one wrote meanwhile.
        let refused = node
            .error()
            .is_some_and(|error| error.contains("--take-over"));
        if refused && conditions != Conditions::All && !forced {
            forced = true;
            node.stop().await;
            node.start(Succession::Forced).await;
        }
        sleep(SECOND).await;
    }
    // And so it stays, but where the store compares nothing: there a lease may have to be looked at again.
    sleep(5 * MINUTE).await;
    assert!(well(&node) || conditions != Conditions::All);
    node.stop().await;
    let judge = judge.lock().unwrap();
    judge.assert_sound();
    assert_eq!(judge.newest(), Some(&node.pages()));
    lived
}

/// Each trouble once and for ever, in each kind of store.
fn cases() -> impl Iterator<Item = (Conditions, Trouble, Lasts)> {
    let conditions = [Conditions::All, Conditions::Create, Conditions::None].into_iter();
    let troubles = [Trouble::Unreached, Trouble::Unanswered];
    let with_troubles = conditions.flat_map(move |c| troubles.map(|trouble| (c, trouble)));
    with_troubles.flat_map(|(c, t)| [Lasts::Once, Lasts::ForEver].map(|lasts| (c, t, lasts)))
}

#[test]
fn whichever_request_fails_once_or_for_ever_the_backup_is_whole_once_the_store_is_back() {
    let seed = evertide_testkit::seed();
    for (conditions, trouble, lasts) in cases() {
        let mut n = 1;
        let clean = loop {
            let nth = Nth { n, trouble, lasts };
            eprintln!("{conditions:?} {nth:?}"); // the last one is the one that failed
            let lived = simulated(seed, live(seed, conditions, nth));
            if !lived.failed {
                break lived;
            }
            n += 1;
        };
        eprintln!("each of {} requests failed; without that: {clean:?}", n - 1);
        // All of it was among the requests that failed.
        assert!(n > 30 && clean.leases > 1 && clean.proofs > 0);
        assert!(clean.compacted > 1 && clean.snapshots > 1 && clean.deleted > 1);
    }
}

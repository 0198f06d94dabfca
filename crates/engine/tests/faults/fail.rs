//! The N-th operation fails, for every N until a run completes without a fault.

use std::{sync::Arc, time::Duration};

use evertide::{DatabaseState, Durability, Replication};
use evertide_storage::{Disk, Fault, FaultDisk, OsDisk};
use futures_util::{StreamExt, stream};
use rusqlite::Connection;

use crate::{
    DEADLINE, Restorer, Scene, insert,
    lies::{Lie, LyingDisk},
};

const TRUNCATE: &str = "PRAGMA wal_checkpoint(TRUNCATE)";
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// Every operation up to here fails once; of those after it some do.
const ALL_UP_TO: u64 = 60;
/// How many of those; `EVERTIDE_FAULTS` says how many else, or `all`.
const SAMPLES: usize = 12;
/// Samples are of operations up to here: a run on a busy machine waits longer and has more, which another one never comes to.
const SAMPLED_UP_TO: u64 = 400;
/// Runs at a time: they wait more than they work.
const PARALLEL: usize = 24;
const OFFICIAL_EVERY: u64 = 12;
/// How long a run waits on a disk that stays dead.
const PATIENCE: Duration = Duration::from_millis(150);

/// Whether there was a backup before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum History {
    /// The run makes the first snapshot.
    None,
    /// The WAL was restarted while nobody watched: the run has to compare all pages.
    Outdated,
    /// The run makes the first snapshot, and then compacts, makes others and deletes.
    Maintained,
}

impl History {
    fn replication(self, scene: &Scene, disk: Arc<dyn Disk>) -> Replication {
        match self {
            Self::None | Self::Outdated => scene.replication(disk),
            Self::Maintained => scene.maintained(disk),
        }
    }

    /// All operations up to here fail in turn, of a run that has so many.
    fn all_up_to(self, total: u64) -> u64 {
        match self {
            Self::None | Self::Outdated => ALL_UP_TO.min(total),
            // The beginning is that of the others.
            Self::Maintained => 0,
        }
    }
}

/// A run whose disk fails at one operation.
#[derive(Clone, Copy, Debug)]
struct Plan {
    history: History,
    n: u64,
    fault: Fault,
    errno: i32,
}

/// How a run on a failing disk ended.
#[derive(Debug)]
struct Run {
    tripped: bool,
    operations: u64,
    /// The stop said that everything is replicated.
    complete: bool,
}

/// Whether it started: with a fault that ends, at the second try at the latest.
pub(crate) async fn start(backup: &Replication, fault: Fault) -> Result<bool, String> {
    let mut started = backup.start().await;
    if started.is_err() && fault == Fault::Once {
        started = backup.start().await;
    }
    match (started, fault) {
        (Ok(()), _) => Ok(true),
        (Err(_), Fault::Forever) => Ok(false),
        (Err(error), Fault::Once) => Err(format!("the second start fails, too: {error}")),
    }
}

/// From start to stop: the first snapshot, commits, rotations, and of a maintained replica all that keeps it small.
/// Errors that end are retried; one that stays is waited for no longer than necessary, once the disk is `dead`.
async fn scenario(
    backup: &Replication,
    conn: &Connection,
    plan: &Plan,
    dead: impl Fn() -> bool,
) -> Result<bool, String> {
    let fault = plan.fault;
    if !start(backup, fault).await? {
        return Ok(false);
    }
    let patience = match fault {
        Fault::Once => DEADLINE,
        Fault::Forever => PATIENCE,
    };
    let mut alive = true;
    for _ in 0..4 {
        if alive {
            alive = durable(backup, patience).await;
        }
        insert(conn, 6);
    }
    if !alive && fault == Fault::Once {
        return Err(format!("never durable again: {:#?}", backup.status()));
    }
    if plan.history == History::Maintained {
        let kept = kept_small(backup, conn, dead).await;
        if fault == Fault::Once && !(kept && maintained_again(backup, conn).await) {
            return Err(format!("never maintained again: {:#?}", backup.status()));
        }
    }
    let stopped = backup.stop(patience).await;
    match stopped {
        Err(error) if fault == Fault::Once => Err(format!("stop: {error}")),
        stopped => Ok(stopped.is_ok()),
    }
}

/// Commits until the replica was compacted, has had another snapshot, and something was deleted; not on a dead disk.
pub(crate) async fn kept_small(
    backup: &Replication,
    conn: &Connection,
    dead: impl Fn() -> bool,
) -> bool {
    let done = async {
        loop {
            let done = backup.status().replicas[0].maintained;
            if done.compactions > 0 && done.snapshots > 0 && done.deleted > 0 {
                return true;
            }
            if dead() {
                return false;
            }
            insert(conn, 1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // On a busy machine it takes a while to come round.
    tokio::time::timeout(3 * DEADLINE, done)
        .await
        .unwrap_or(false)
}

/// Whether more is compacted, stored as snapshots and deleted than until now, and nothing is wrong with it.
pub(crate) async fn maintained_again(backup: &Replication, conn: &Connection) -> bool {
    let before = backup.status().replicas[0].maintained;
    let again = async {
        loop {
            let replica = backup.status().replicas.remove(0);
            let now = replica.maintained;
            if now.compactions > before.compactions
                && now.snapshots > before.snapshots
                && now.deleted > before.deleted
                && replica.maintenance_error.is_none()
            {
                return;
            }
            insert(conn, 1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // On a busy machine it takes a while to come round.
    tokio::time::timeout(3 * DEADLINE, again).await.is_ok()
}

pub(crate) async fn durable(backup: &Replication, patience: Duration) -> bool {
    let retry = async {
        while backup.wait_durable(Durability::All).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience, retry).await.is_ok()
}

async fn run(plan: Plan) -> Result<Run, String> {
    let (scene, conn) = Scene::with_rows(5);
    if plan.history == History::Outdated {
        scene.replicate_one_more_commit(&conn).await?;
        conn.execute_batch("UPDATE t SET b = 'unseen' || a WHERE a = 2")
            .and_then(|()| conn.query_row(TRUNCATE, [], |_| Ok(())))
            .and_then(|()| conn.execute_batch("UPDATE t SET b = 'seen' || a WHERE a = 4"))
            .map_err(|error| error.to_string())?;
    }
    let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
    disk.fail_at(plan.n, plan.fault, plan.errno);
    let failed = |what: String| {
        let log = disk.log();
        let operation = log.get(plan.n as usize - 1).copied().unwrap_or("nothing");
        format!("{plan:?} ({operation}): {what}")
    };
    let history = plan.history;
    let backup = history.replication(&scene, Arc::clone(&disk) as Arc<dyn Disk>);
    let dead = || plan.fault == Fault::Forever && disk.tripped();
    let complete = scenario(&backup, &conn, &plan, dead)
        .await
        .map_err(&failed)?;
    if complete {
        // What is said to be replicated is, without a next start.
        let checked = scene.check_restore(Restorer::Own).await;
        checked.map_err(|error| failed(format!("the stop succeeded, but: {error}")))?;
    }
    drop(backup);
    if history == History::Maintained {
        scene.clean_up(&conn).await.map_err(&failed)?;
    }
    let restorer = Restorer::official_every(OFFICIAL_EVERY, plan.n);
    scene.recover(&conn, restorer).await.map_err(&failed)?;
    Ok(Run {
        tripped: disk.tripped(),
        operations: disk.operations(),
        complete,
    })
}

/// The operations to fail: all of the first, some of the others, and one after the last.
async fn operations_to_fail(history: History) -> Vec<u64> {
    let clean = Plan {
        history,
        n: u64::MAX,
        fault: Fault::Once,
        errno: EIO,
    };
    let total = run(clean).await.unwrap().operations;
    let mut all = some_of(history.all_up_to(total), total);
    all.push(total * 10);
    all
}

/// Operations of a run that has so many: all of the `first`, and some of the others, or all where the environment
/// says so.
pub(crate) fn some_of(first: u64, total: u64) -> Vec<u64> {
    let given = std::env::var("EVERTIDE_FAULTS").ok();
    let samples = match given.as_deref() {
        Some("all") => usize::MAX,
        given => given.map_or(SAMPLES, |samples| samples.parse().unwrap()),
    };
    let mut rng = fastrand::Rng::with_seed(evertide_testkit::seed());
    let last = match samples {
        usize::MAX => total,
        _ => total.min(SAMPLED_UP_TO),
    };
    let mut later: Vec<u64> = (first + 1..=last).collect();
    rng.shuffle(&mut later);
    later.truncate(samples);
    let mut all: Vec<u64> = (1..=first).chain(later).collect();
    all.sort_unstable();
    println!("{} of {total} operations fail", all.len());
    all
}

async fn every_operation_fails(history: History, fault: Fault) {
    let operations = operations_to_fail(history).await;
    let plans = operations.iter().flat_map(|n| {
        [EIO, ENOSPC].map(|errno| Plan {
            history,
            n: *n,
            fault,
            errno,
        })
    });
    let runs: Vec<_> = stream::iter(plans)
        .map(run)
        .buffered(PARALLEL)
        .collect()
        .await;
    let failures: Vec<&String> = runs.iter().filter_map(|run| run.as_ref().err()).collect();
    assert!(
        failures.is_empty(),
        "{} of {} runs:\n{}",
        failures.len(),
        runs.len(),
        failures
            .iter()
            .map(|f| f.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    );
    let (last, before) = runs.split_last().unwrap();
    let tripped = before.iter().flatten().filter(|run| run.tripped).count();
    println!("{} runs, {tripped} with a fault", runs.len());
    // How many operations there are depends on how quick everything is.
    assert!(tripped * 4 >= before.len(), "{tripped} faults");
    let last = last.as_ref().unwrap();
    assert!(
        !last.tripped && last.complete,
        "a run completes clean: {last:?}"
    );
}

#[tokio::test]
async fn an_operation_that_fails_once_delays_the_first_backup_and_does_no_harm() {
    every_operation_fails(History::None, Fault::Once).await;
}

#[tokio::test]
async fn a_disk_that_stays_dead_in_the_first_backup_is_reported_and_does_no_harm() {
    every_operation_fails(History::None, Fault::Forever).await;
}

#[tokio::test]
async fn an_operation_that_fails_once_while_pages_are_compared_does_no_harm() {
    every_operation_fails(History::Outdated, Fault::Once).await;
}

#[tokio::test]
async fn a_disk_that_stays_dead_while_pages_are_compared_is_reported_and_does_no_harm() {
    every_operation_fails(History::Outdated, Fault::Forever).await;
}

#[tokio::test]
async fn an_operation_that_fails_once_while_the_replica_is_maintained_does_no_harm() {
    every_operation_fails(History::Maintained, Fault::Once).await;
}

#[tokio::test]
async fn a_disk_that_stays_dead_while_the_replica_is_maintained_does_no_harm() {
    every_operation_fails(History::Maintained, Fault::Forever).await;
}

/// The disk is dead for a while, in which the WAL starts over without us; then the n-th operation of
/// the return fails. Whether that happened.
async fn return_fails(n: u64) -> Result<bool, String> {
    let (scene, conn) = Scene::with_rows(5);
    let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
    let backup = scene.replication(Arc::clone(&disk) as Arc<dyn Disk>);
    backup.start().await.unwrap();
    assert!(durable(&backup, DEADLINE).await);
    disk.fail_at(1, Fault::Forever, EIO);
    conn.execute_batch("UPDATE t SET b = 'unseen' || a WHERE a = 2")
        .unwrap();
    let failing = backup.wait_for(|status| status.state == DatabaseState::Failing);
    let failing = tokio::time::timeout(DEADLINE, failing).await;
    assert!(failing.is_ok_and(|status| status.error.is_some()));
    conn.query_row(TRUNCATE, [], |_| Ok(())).unwrap();
    conn.execute_batch("UPDATE t SET b = 'seen' || a WHERE a = 4")
        .unwrap();
    disk.fail_at(n, Fault::Once, EIO);
    if !durable(&backup, DEADLINE).await {
        return Err(format!("{n}: {:#?}", backup.status()));
    }
    let restored = scene.check_restore(Restorer::Own).await;
    restored.map_err(|error| format!("{n}: {error}"))?;
    backup.stop(DEADLINE).await.unwrap();
    Ok(disk.tripped())
}

#[tokio::test]
async fn a_comparison_of_pages_that_fails_is_not_taken_for_done() {
    let runs = stream::iter((1..60).chain([1_000])).map(return_fails);
    let runs: Vec<_> = runs.buffered(PARALLEL).collect().await;
    let tripped: Vec<bool> = runs.into_iter().map(Result::unwrap).collect();
    assert!(tripped[..20].iter().all(|tripped| *tripped), "{tripped:?}");
    assert_eq!(tripped.last(), Some(&false));
}

/// The canary: an object that is said to be stored, and is not.
#[tokio::test]
async fn an_object_that_was_never_stored_fails_these_tests() {
    let clean = Plan {
        history: History::None,
        n: u64::MAX,
        fault: Fault::Once,
        errno: EIO,
    };
    for number in [1, 2] {
        let (scene, conn) = Scene::with_rows(5);
        let disk = LyingDisk::new(Arc::new(OsDisk), Lie::Publish(number));
        let backup = scene.replication(Arc::new(disk));
        let complete = scenario(&backup, &conn, &clean, || false).await;
        assert_eq!(complete, Ok(true));
        assert!(scene.check_restore(Restorer::Own).await.is_err());
        assert!(scene.check_restore(Restorer::Official).await.is_err());
    }
}

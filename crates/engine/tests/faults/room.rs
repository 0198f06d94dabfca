//! A disk that is full from some point on, and then has room again, while the process goes on.

use std::{sync::Arc, time::Duration};

use evertide::Durability;
use evertide_storage::{Disk, Fault, FaultDisk, OsDisk};
use futures_util::{StreamExt, stream};

use crate::{
    DEADLINE, Restorer, Scene,
    fail::{durable, kept_small, maintained_again, some_of},
    insert,
};

const ENOSPC: i32 = 28;
/// Every operation up to here is the first that fails, and after it some are.
const ALL_UP_TO: u64 = 70;
const PARALLEL: usize = 24;
const PATIENCE: Duration = Duration::from_millis(100);

/// Whether the replica is compacted, has other snapshots made and files deleted, all within moments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Upkeep {
    None,
    Quick,
}

/// What became of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    /// Whether the disk was full at some point.
    tripped: bool,
    operations: u64,
}

/// Fills up at the n-th operation; has room again after some commits.
async fn fills_up_at(upkeep: Upkeep, n: u64) -> Result<Run, String> {
    let (scene, conn) = Scene::with_rows(5);
    let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
    disk.fail_at(n, Fault::Forever, ENOSPC);
    let dyn_disk = Arc::clone(&disk) as Arc<dyn Disk>;
    let backup = match upkeep {
        Upkeep::None => scene.replication(dyn_disk),
        Upkeep::Quick => scene.maintained(dyn_disk),
    };
    let started = backup.start().await;
    for _ in 0..4 {
        insert(&conn, 6);
        if started.is_ok() && !disk.tripped() {
            durable(&backup, PATIENCE).await;
        }
    }
    if upkeep == Upkeep::Quick && started.is_ok() {
        kept_small(&backup, &conn, || disk.tripped()).await;
    }
    let (tripped, operations) = (disk.tripped(), disk.operations());
    if tripped && started.is_ok() {
        // What was not replicated is not said to be.
        let _ = tokio::time::timeout(PATIENCE, backup.wait_durable(Durability::All)).await;
    }
    let log = disk.log();
    disk.heal();
    let failed = |what: String| format!("full at {n} ({:?}): {what}", log.get(n as usize - 1));
    if let Err(first) = started {
        let again = backup.start().await;
        again.map_err(|error| failed(format!("{first}, then {error}")))?;
    }
    insert(&conn, 1);
    if !durable(&backup, DEADLINE).await {
        return Err(failed(format!("wedged: {:#?}", backup.status())));
    }
    if upkeep == Upkeep::Quick && !maintained_again(&backup, &conn).await {
        return Err(failed(format!("never maintained: {:#?}", backup.status())));
    }
    let restorer = Restorer::official_every(10, n);
    let stopped = backup.stop(DEADLINE).await;
    stopped.map_err(|error| failed(error.to_string()))?;
    scene.check_restore(restorer).await.map_err(&failed)?;
    scene.check_ranges().map_err(&failed)?;
    Ok(Run {
        tripped,
        operations,
    })
}

/// The disk is full from each of these operations on, and of the last one on only after the end.
async fn fills_up_at_any_point(upkeep: Upkeep, all_up_to: u64) {
    let clean = fills_up_at(upkeep, u64::MAX).await.unwrap();
    let points = some_of(all_up_to.min(clean.operations), clean.operations);
    let runs = stream::iter(points.into_iter().chain([clean.operations * 10]));
    let runs: Vec<_> = runs
        .map(|n| fills_up_at(upkeep, n))
        .buffered(PARALLEL)
        .collect()
        .await;
    let failures: Vec<_> = runs.iter().filter_map(|run| run.as_ref().err()).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    let (last, before) = runs.split_last().unwrap();
    let tripped = before.iter().flatten().filter(|run| run.tripped).count();
    println!("{} runs, {tripped} with a full disk", runs.len());
    assert!(tripped > before.len() / 2, "only {tripped} disks were full");
    let last = last.as_ref().unwrap();
    assert!(!last.tripped, "a run completes clean: {last:?}");
}

#[tokio::test]
async fn a_disk_that_fills_up_at_any_point_and_has_room_again_wedges_nothing() {
    fills_up_at_any_point(Upkeep::None, ALL_UP_TO).await;
}

#[tokio::test]
async fn a_disk_that_fills_up_while_the_replica_is_maintained_and_has_room_again_wedges_nothing() {
    // The beginning is that of the others.
    fills_up_at_any_point(Upkeep::Quick, 0).await;
}

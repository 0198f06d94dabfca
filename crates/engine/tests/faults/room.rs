//! A disk that is full from some point on, and then has room again, while the process goes on.

use std::{sync::Arc, time::Duration};

use evertide_storage::{Disk, Fault, FaultDisk, OsDisk};
use futures_util::{StreamExt, stream};

use crate::{DEADLINE, Restorer, Scene, fail::durable, insert};

const ENOSPC: i32 = 28;
/// Every operation up to here is the first that fails.
const UP_TO: u64 = 70;
const PARALLEL: usize = 24;
const PATIENCE: Duration = Duration::from_millis(100);

/// Fills up at the n-th operation; has room again after some commits. Whether it came to that.
async fn fills_up_at(n: u64) -> Result<bool, String> {
    let (scene, conn) = Scene::with_rows(5);
    let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
    disk.fail_at(n, Fault::Forever, ENOSPC);
    let backup = scene.replication(Arc::clone(&disk) as Arc<dyn Disk>);
    let started = backup.start().await;
    for _ in 0..4 {
        insert(&conn, 6);
        if started.is_ok() && !disk.tripped() {
            durable(&backup, PATIENCE).await;
        }
    }
    let tripped = disk.tripped();
    if tripped && started.is_ok() {
        // What was not replicated is not said to be.
        let _ = tokio::time::timeout(PATIENCE, backup.wait_durable(Default::default())).await;
    }
    disk.heal();
    let failed =
        |what: String| format!("full at {n} ({:?}): {what}", disk.log().get(n as usize - 1));
    if let Err(first) = started {
        let again = backup.start().await;
        again.map_err(|error| failed(format!("{first}, then {error}")))?;
    }
    insert(&conn, 1);
    if !durable(&backup, DEADLINE).await {
        return Err(failed(format!("wedged: {:#?}", backup.status())));
    }
    let restorer = Restorer::official_every(10, n);
    scene.check_restore(restorer).await.map_err(&failed)?;
    let stopped = backup.stop(DEADLINE).await;
    stopped.map_err(|error| failed(error.to_string()))?;
    scene.check_ranges().map_err(&failed)?;
    Ok(tripped)
}

#[tokio::test]
async fn a_disk_that_fills_up_at_any_point_and_has_room_again_wedges_nothing() {
    let runs = stream::iter((1..UP_TO).chain([1_000_000])).map(fills_up_at);
    let runs: Vec<_> = runs.buffered(PARALLEL).collect().await;
    let failures: Vec<_> = runs.iter().filter_map(|run| run.as_ref().err()).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    let tripped = runs.iter().filter(|run| **run == Ok(true)).count();
    assert!(
        tripped > UP_TO as usize / 2,
        "only {tripped} disks were full"
    );
    assert_eq!(runs.last(), Some(&Ok(false)), "a run completes clean");
}

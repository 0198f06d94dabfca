//! The N-th read of a file fails, for every N until a restore is clean: it is refused, breaks off or ends early, once or
//! for as long as the store is like that. And so does the N-th request of any kind, which is refused.

use std::{fs, sync::Arc};

use evertide::{RestoreError, restore};
use evertide_storage::{Fault, FaultClient, ReadFault, failing_runs};
use futures_util::future::join_all;

use crate::scene::Scene;

/// Runs at a time: those that fail for good wait more than they work.
const AT_ONCE: usize = 8;

/// Whether a restore came to the N-th read. If that is in its way, then only until the store is mended.
async fn restored(scene: &Scene, n: u64, how: ReadFault, lasts: Fault) -> bool {
    let client = Arc::new(FaultClient::new(Arc::clone(&scene.replica)));
    client.fail_read_at(n, how, lasts);
    let mut options = scene.options();
    options.replica = client.clone();
    // A large file is read in several parts then.
    options.parallelism = 64;
    let done = restore(options.clone()).await;
    let tripped = client.tripped();
    match done {
        Ok(_) => assert!(lasts == Fault::Once || !tripped, "{n} {how:?}"),
        Err(error) => {
            assert_eq!(lasts, Fault::Forever, "{n} {how:?}: {error}");
            let text = error.to_string();
            assert!(client.is_named_in(&text), "{n} {how:?}: {text}");
            let interrupted = matches!(error, RestoreError::Interrupted { .. });
            assert!(interrupted, "{n} {how:?}: {text}");
            scene.assert_nothing_left();
            client.heal();
            restore(options).await.unwrap();
        }
    }
    scene.assert_restored();
    fs::remove_file(scene.output()).unwrap();
    tripped
}

/// How many reads a restore of the usual scene, or of one with large files, makes.
async fn each_read_fails(scene: impl AsyncFn() -> Scene, how: ReadFault, lasts: Fault) -> u64 {
    let run = async |n| restored(&scene().await, n, how, lasts).await;
    failing_runs(AT_ONCE, run).await
}

#[tokio::test]
async fn whichever_read_fails_a_restore_is_whole_or_names_the_file_and_works_once_the_store_does() {
    let runs = ReadFault::each().map(|(how, lasts)| each_read_fails(Scene::usual, how, lasts));
    assert_eq!(join_all(runs).await, [6; 6], "one for each file");
}

#[tokio::test]
async fn whichever_part_of_a_large_file_fails_a_restore_is_whole_or_names_the_file() {
    let lasts = [Fault::Once, Fault::Forever].into_iter();
    let runs = lasts.zip([ReadFault::Breaks, ReadFault::Refused]);
    let runs = runs.map(|(lasts, how)| each_read_fails(Scene::large, how, lasts));
    for reads in join_all(runs).await {
        assert!(reads > 6, "only {reads} parts");
    }
}

/// Whether a restore came to the N-th request.
async fn refused(scene: &Scene, n: u64, lasts: Fault) -> bool {
    let client = Arc::new(FaultClient::new(Arc::clone(&scene.replica)));
    client.refuse_request_at(n, lasts);
    let mut options = scene.options();
    options.replica = client.clone();
    let done = restore(options.clone()).await;
    let tripped = client.tripped();
    if let Err(error) = done {
        assert!(tripped, "{n}: {error}");
        let text = error.to_string();
        assert!(client.is_named_in(&text), "{n}: {text}");
        let accuses = !matches!(
            error,
            RestoreError::Interrupted { .. } | RestoreError::Replica(_)
        );
        assert!(!accuses, "{n}: {text}");
        scene.assert_nothing_left();
        client.heal();
        restore(options).await.unwrap();
    } else {
        assert!(lasts == Fault::Once || !tripped, "{n}");
    }
    scene.assert_restored();
    tripped
}

#[tokio::test]
async fn whichever_request_is_refused_a_restore_accuses_nothing_leaves_nothing_and_works_once_the_store_does()
 {
    for lasts in [Fault::Once, Fault::Forever] {
        let run = async |n| refused(&Scene::usual().await, n, lasts).await;
        let requests = failing_runs(AT_ONCE, run).await;
        assert!(
            requests > 6 + 2,
            "only {requests}, of which 6 are for files"
        );
    }
}

//! When drills are made.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide_storage::{Clock, ManualClock};

use crate::scene::{Scene, drill, durable, stop, until};

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_brings_no_drill_forward_and_skips_none_that_is_due() {
    let scene = Scene::new();
    let mut options = scene.options();
    options.drill_interval = Some(HOUR);
    let noon = SystemTime::UNIX_EPOCH + 500_000 * HOUR;
    let clock = Arc::new(ManualClock::new(noon));
    let start = async || {
        let clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let backup = scene.builder(options.clone()).clock(clock).build().unwrap();
        backup.start().await.unwrap();
        backup
    };
    let backup = start().await;
    durable(&backup).await;
    let first = until(&backup, |drill| drill.proofs == 1)
        .await
        .proven
        .unwrap();
    stop(&backup).await;
    for _ in 0..3 {
        clock.advance(HOUR / 4);
        let backup = start().await;
        // Also where much has changed meanwhile.
        scene.commit(&backup).await;
        let known = until(&backup, |drill| drill.proven.is_some()).await;
        assert_eq!(known.proven.unwrap(), first);
        stop(&backup).await;
        assert_eq!(drill(&backup.status()).proofs, 0);
    }
    clock.advance(HOUR / 4);
    let backup = start().await;
    let next = until(&backup, |drill| drill.proofs == 1)
        .await
        .proven
        .unwrap();
    assert_eq!(next.at, first.at + HOUR);
    assert_eq!(next.txid, backup.status().txid);
    stop(&backup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_interval_nothing_is_restored() {
    let scene = Scene::new();
    let mut options = scene.options();
    (options.drill_interval, options.drill_directory) = (None, None);
    let backup = scene.start(options).await;
    scene.commit(&backup).await;
    stop(&backup).await;
    assert_eq!(drill(&backup.status()), Default::default());
    assert!(!scene.replica.join("evertide/drill").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_started_over_is_not_known_by_the_proof_of_the_one_before() {
    let scene = Scene::new();
    let mut options = scene.options();
    options.drill_interval = Some(HOUR);
    let mut without = options.clone();
    (without.drill_interval, without.drill_directory) = (None, None);
    let backup = scene.start(without).await;
    for _ in 0..3 {
        scene.commit(&backup).await;
    }
    stop(&backup).await;
    let backup = scene.start(options.clone()).await;
    until(&backup, |drill| drill.proofs == 1).await;
    stop(&backup).await;
    let mut other = Scene::new();
    other.replica = scene.replica.clone();
    std::fs::remove_dir_all(scene.replica.join("ltx")).unwrap();
    options.drill_directory = Some(other.drills.clone());
    let begun = SystemTime::now();
    let backup = other.start(options).await;
    let proven = until(&backup, |drill| drill.proven.is_some()).await;
    assert!(proven.proven.unwrap().at >= begun);
    stop(&backup).await;
}

#[test]
fn settings_of_drills_that_make_no_sense_are_refused_all_at_once() {
    let scene = Scene::new();
    let mut zero = scene.options();
    zero.drill_interval = Some(Duration::ZERO);
    let mut alone = scene.options();
    alone.name = "second".into();
    alone.destination = evertide::Destination::file(scene.drills.join("second")).unwrap();
    alone.drill_interval = None;
    let mut no_time = scene.options();
    no_time.name = "third".into();
    no_time.destination = evertide::Destination::file(scene.drills.join("third")).unwrap();
    no_time.drill_timeout = Duration::ZERO;
    let replicas = scene.builder(zero).replica(alone).replica(no_time);
    let error = replicas.build().unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("replica `local`: `drill_interval` is zero"),
        "{said}"
    );
    assert!(
        said.contains("replica `second`: `drill_directory` does nothing without"),
        "{said}"
    );
    assert!(
        said.contains("replica `third`: `drill_timeout` is zero"),
        "{said}"
    );
}

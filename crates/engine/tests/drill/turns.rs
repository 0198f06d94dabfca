//! What drills are in the way of: nothing, and each other.

use std::fs;

use std::time::Duration;

use evertide::DrillFailureKind;

use crate::scene::{DEADLINE, STUCK, Scene, drill, durable, logged, stop, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_takes_for_ever_delays_no_upload_and_no_stop_and_leaves_nothing_behind() {
    let scene = Scene::new();
    // What a killed process left goes at the beginning of the next drill.
    let stale = scene.drills.join("evertide-verify-0");
    fs::create_dir(&stale).unwrap();
    fs::write(stale.join("lock"), "").unwrap();
    fs::write(stale.join("restored.db"), "half a database").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&stale, mode).unwrap();

    let mut options = scene.options();
    options.drill_bandwidth = Some(STUCK);
    let backup = scene.start(options).await;
    durable(&backup).await;
    until(&backup, |drill| drill.running).await;
    let one = || fs::read_dir(&scene.drills).unwrap().count() == 1 && !stale.exists();
    evertide_testkit::wait_until(DEADLINE, "a drill is under way", one);
    for _ in 0..20 {
        scene.commit(&backup).await;
    }
    assert!(drill(&backup.status()).running);
    backup.stop(DEADLINE).await.unwrap();
    let status = backup.status();
    assert_eq!(status.replicas[0].txid, status.txid);
    let drill = drill(&status);
    assert_eq!(
        (drill.running, drill.proven, drill.failure),
        (false, None, None)
    );
    scene.nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_drill_runs_at_a_time_and_the_others_have_their_turn() {
    let (first, second) = (Scene::new(), Scene::new());
    let mut slow = first.options();
    slow.drill_bandwidth = Some(STUCK);
    let stuck = first.start(slow).await;
    until(&stuck, |drill| drill.running).await;
    let other = second.start(second.options()).await;
    for _ in 0..10 {
        second.commit(&other).await;
        assert!(!drill(&other.status()).running);
    }
    assert_eq!(fs::read_dir(&second.drills).unwrap().count(), 0);
    stop(&stuck).await;
    until(&other, |drill| drill.proofs > 2).await;
    stop(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_holds_up_no_drill_of_others_for_ever_and_is_named() {
    let (first, second) = (Scene::new(), Scene::new());
    let mut slow = first.options();
    slow.drill_bandwidth = Some(STUCK);
    slow.drill_timeout = Duration::from_millis(200);
    let stuck = first.start(slow).await;
    until(&stuck, |drill| drill.running).await;
    let other = second.start(second.options()).await;
    let proven = until(&other, |drill| drill.proofs > 2).await;
    assert_eq!(proven.failure, None);
    let failed = until(&stuck, |drill| drill.failures > 1).await;
    let failure = failed.failure.unwrap();
    assert_eq!(failure.kind, DrillFailureKind::Overdue);
    let store = first.replica.display().to_string();
    for said in [&store, "200ms", "`drill_timeout`"] {
        assert!(failure.problem.contains(said), "{failure:?}");
    }
    let log = logged();
    let loud = |line: &&str| line.contains(" ERROR ") && line.contains(&store);
    assert!(log.lines().find(loud).is_some(), "{log}");
    stop(&stuck).await;
    stop(&other).await;
    first.nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_end_a_drill_and_the_next_one_follows_them() {
    let scene = Scene::new();
    let mut options = scene.options();
    options.drill_bandwidth = Some(STUCK);
    let backup = scene.start(options.clone()).await;
    until(&backup, |drill| drill.running).await;
    options.drill_bandwidth = None;
    let mut settings = backup.options();
    settings.replicas = vec![options];
    backup.update(settings).await.unwrap();
    until(&backup, |drill| drill.proven.is_some()).await;
    stop(&backup).await;
    scene.nothing_is_left();
}

//! From start to stop.

use std::time::Duration;

use evertide::{
    DatabaseState, DatabaseStatus, Durability, Error, ReplicaOptions, Replication,
    ReplicationOptions, RetentionTier, Txid,
};
use futures_util::FutureExt;
use tokio::task::JoinSet;

use crate::{DEADLINE, Scene, durable, insert, replica_options, until};

#[tokio::test]
async fn a_commit_that_was_waited_for_is_on_the_replica() {
    let (scene, conn) = Scene::with_rows(3);
    let backup = scene.start().await;
    let first = backup.wait_durable(Durability::All).await.unwrap();
    insert(&conn, 1);
    let second = backup.wait_durable(Durability::All).await.unwrap();
    assert!(second > first, "{second} after {first}");
    scene.assert_restores();
    backup.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_wal_that_starts_over_again_and_again_loses_nothing() {
    let (scene, conn) = Scene::with_rows(3);
    let backup = scene.start().await;
    for _ in 0..20 {
        insert(&conn, 60);
        durable(&backup).await;
    }
    let status = backup.status();
    assert!(status.rotations >= 5, "{status:#?}");
    assert_eq!(status.rebases, 0, "{status:#?}");
    assert_eq!(status.replicas[0].snapshots, 1, "{status:#?}");
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn commits_are_noticed_without_being_asked_for() {
    let (scene, conn) = Scene::with_rows(3);
    let backup = scene.start().await;
    durable(&backup).await;
    // With `synchronous = FULL` the last notice comes before the commit is visible.
    conn.execute_batch("PRAGMA synchronous = FULL").unwrap();
    for _ in 0..5 {
        let before = backup.status().txid;
        insert(&conn, 1);
        until(&backup, |status| status.replicas[0].txid > before).await;
    }
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn the_requests_to_a_replica_are_counted_in_its_status() {
    let (scene, conn) = Scene::with_rows(3);
    let backup = scene.start().await;
    durable(&backup).await;
    let before = backup.status().replicas[0].requests;
    assert!(before.list > 0 && before.get > 0, "{before:?}");
    for _ in 0..3 {
        insert(&conn, 1);
        durable(&backup).await;
    }
    let status = backup.status();
    let after = status.replicas[0].requests;
    assert!(after.put >= before.put + 3, "{before:?} {after:?}");
    assert!(after.put >= status.replicas[0].uploads, "{status:#?}");
    backup.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn stop_replicates_the_last_commit() {
    let (scene, conn) = Scene::with_rows(3);
    let backup = scene.start().await;
    durable(&backup).await;
    insert(&conn, 5);
    backup.stop(DEADLINE).await.unwrap();
    assert_eq!(backup.status().state, DatabaseState::Stopped);
    scene.assert_restores();
}

#[tokio::test]
async fn a_stop_may_have_all_the_time_there_is() {
    let (scene, conn) = Scene::with_rows(3);
    let backup = scene.start().await;
    insert(&conn, 5);
    backup.stop(Duration::MAX).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn stop_right_after_start_leaves_a_complete_first_snapshot() {
    let (scene, _conn) = Scene::with_rows(300);
    let backup = scene.start().await;
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn a_replica_that_cannot_be_written_is_named_when_stopping() {
    let (scene, _conn) = Scene::with_rows(3);
    std::fs::write(
        &scene.replica,
        "a file where the replica's directory should be",
    )
    .unwrap();
    let backup = scene.start().await;
    until(&backup, |status| status.replicas[0].error.is_some()).await;
    let error = backup.stop(Duration::from_millis(300)).await.unwrap_err();
    let Error::StoppedBehind { behind, .. } = &error else {
        panic!("{error:?}")
    };
    for said in ["replica `local` has", "failing since", "replica `local`: "] {
        assert!(behind[0].contains(said), "{said}: {error}");
    }
}

#[tokio::test]
async fn a_database_that_does_not_exist_yet_is_replicated_when_it_appears() {
    let scene = Scene::new();
    let backup = scene.start().await;
    assert_eq!(backup.status().state, DatabaseState::Waiting);
    assert!(matches!(backup.sync().await, Err(Error::NoDatabase(_))));
    let conn = scene.open();
    conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
        .unwrap();
    insert(&conn, 10);
    until(&backup, |status| status.replicas[0].txid.get() > 0).await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn the_same_database_is_not_replicated_twice() {
    let (scene, _conn) = Scene::with_rows(3);
    let backup = scene.start().await;
    let link = scene.dir.path().join("link.db");
    std::os::unix::fs::symlink(&scene.db, &link).unwrap();
    for path in [&scene.db, &link] {
        let other = evertide::Replication::builder(path)
            .replica(replica_options("other", &scene.dir.path().join("other")))
            .build()
            .unwrap();
        assert!(matches!(
            other.start().await,
            Err(Error::AlreadyReplicated(_))
        ));
    }
    backup.stop(DEADLINE).await.unwrap();
    let again = scene.start().await;
    again.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn replicas_are_added_and_removed_while_running() {
    let (scene, conn) = Scene::with_rows(30);
    let backup = scene.start().await;
    durable(&backup).await;
    let second = scene.dir.path().join("second");
    let mut options = backup.options();
    options.replicas.push(replica_options("second", &second));
    backup.update(options.clone()).await.unwrap();
    // By itself: nobody writes, and nobody waits for what is durable.
    let complete = |status: &DatabaseStatus| {
        let second = status.replicas.iter().find(|one| one.name == "second");
        second.is_some_and(|one| one.txid == status.txid)
    };
    let started = backup.wait_for(complete);
    tokio::time::timeout(DEADLINE, started).await.unwrap();
    let output = scene.dir.path().join("at-once.db");
    evertide_testkit::restore_with_litestream(&second, &output);
    evertide_testkit::assert_same_database(&scene.db, &output);
    insert(&conn, 10);
    durable(&backup).await;
    let output = scene.dir.path().join("from-second.db");
    evertide_testkit::restore_with_litestream(&second, &output);
    evertide_testkit::assert_same_database(&scene.db, &output);

    options.replicas.remove(0);
    backup.update(options).await.unwrap();
    let before = scene.objects();
    insert(&conn, 10);
    durable(&backup).await;
    assert_eq!(scene.objects(), before, "a removed replica is left alone");
    assert_eq!(backup.status().replicas.len(), 1);
    backup.stop(DEADLINE).await.unwrap();
}

/// The names of the replicas that there are tasks for.
fn running(backup: &evertide::Replication) -> Vec<String> {
    let replicas = backup.status().replicas;
    replicas.into_iter().map(|replica| replica.name).collect()
}

fn in_force(backup: &evertide::Replication) -> Vec<String> {
    let replicas = backup.options().replicas;
    replicas.into_iter().map(|replica| replica.name).collect()
}

/// Or a reload back to the settings before would find that there is nothing to do.
#[tokio::test]
async fn settings_that_nobody_waited_for_are_not_in_force_unless_it_is_said() {
    let (scene, _conn) = Scene::with_rows(3);
    let backup = scene.start().await;
    let first = backup.options();
    let mut both = first.clone();
    let second = scene.dir.path().join("second");
    both.replicas.push(replica_options("second", &second));
    for options in [&both, &first, &both] {
        // It is asked for, and given up before there is an answer.
        let asked = backup.update(options.clone()).now_or_never();
        // Who has an answer to this is behind the other in the line.
        backup.sync().await.unwrap();
        assert_eq!(running(&backup), in_force(&backup), "{asked:?}");
    }
    // With an answer they are in force whatever there was before.
    backup.update(both).await.unwrap();
    assert_eq!(running(&backup), ["local", "second"]);
    assert_eq!(in_force(&backup), ["local", "second"]);
    backup.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn settings_that_change_while_replication_starts_are_in_force_once_it_runs() {
    let (scene, _conn) = Scene::with_rows(3);
    let backup = scene.builder().build().unwrap();
    let mut options = backup.options();
    let second = scene.dir.path().join("second");
    options.replicas.push(replica_options("second", &second));
    let (started, updated) = tokio::join!(backup.start(), backup.update(options));
    started.unwrap();
    updated.unwrap();
    assert_eq!(in_force(&backup), ["local", "second"]);
    assert_eq!(running(&backup), ["local", "second"]);
    // A start that is given up has nothing to say any more.
    backup.stop(DEADLINE).await.unwrap();
    assert!(backup.start().now_or_never().is_none());
    let mut options = backup.options();
    options.replicas.remove(0);
    backup.update(options).await.unwrap();
    until_started(&backup).await;
    assert_eq!(running(&backup), ["second"]);
    assert_eq!(in_force(&backup), ["second"]);
    backup.stop(DEADLINE).await.unwrap();
}

/// Starts it, when a start before that was given up has let go of the database.
async fn until_started(backup: &evertide::Replication) {
    while let Err(error) = backup.start().await {
        assert!(
            matches!(
                error,
                Error::AlreadyReplicated(_) | Error::DestinationInUse { .. }
            ),
            "{error}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_ask_all_the_time_keep_no_replica_from_its_snapshot_and_no_wal_from_starting_over()
 {
    let (scene, conn) = Scene::with_rows(30);
    let backup = scene.start().await;
    durable(&backup).await;
    let mut asking = JoinSet::new();
    for _ in 0..256 {
        let backup = backup.clone();
        asking.spawn(async move {
            loop {
                backup.sync().await.unwrap();
            }
        });
    }
    let mut options = backup.options();
    let second = scene.dir.path().join("second");
    options.replicas.push(replica_options("second", &second));
    backup.update(options).await.unwrap();
    until(&backup, |status| {
        let mut replicas = status.replicas.iter();
        replicas.all(|replica| replica.txid > Txid::ZERO)
    })
    .await;
    let before = backup.status().rotations;
    let rotated = async {
        while backup.status().rotations < before + 3 {
            tokio::task::block_in_place(|| insert(&conn, 10));
        }
    };
    tokio::time::timeout(DEADLINE, rotated).await.unwrap();
    asking.shutdown().await;
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn a_replica_that_is_down_does_not_delay_another() {
    let (scene, conn) = Scene::with_rows(30);
    let broken = scene.dir.path().join("broken");
    std::fs::write(&broken, "in the way").unwrap();
    let backup = scene
        .builder()
        .replica(replica_options("broken", &broken))
        .build()
        .unwrap();
    backup.start().await.unwrap();
    insert(&conn, 10);
    let any = backup.wait_durable(Durability::Any);
    tokio::time::timeout(DEADLINE, any).await.unwrap().unwrap();
    scene.assert_restores();
    // It catches up by itself when it is back.
    std::fs::remove_file(&broken).unwrap();
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    let output = scene.dir.path().join("from-broken.db");
    evertide_testkit::restore_with_litestream(&broken, &output);
    evertide_testkit::assert_same_database(&scene.db, &output);
}

#[tokio::test]
async fn every_mistake_in_the_settings_is_reported_at_once() {
    let scene = Scene::new();
    let mut again = replica_options("local", &scene.replica);
    again.levels = vec![Duration::from_secs(60), Duration::from_secs(30)];
    let builder = scene.builder().replica(again);
    let Err(Error::Options { mistakes, .. }) = builder.build() else {
        panic!("accepted")
    };
    assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    assert!(mistakes[2].starts_with("replica `local`: `levels[1]`: each level is made of the one"));
    let none = evertide::Replication::builder(&scene.db).build();
    assert!(matches!(none, Err(Error::Options { .. })));
}

#[tokio::test]
async fn dropping_the_last_handle_lets_go_of_the_replica_and_of_the_database() {
    let (scene, _conn) = Scene::with_rows(3);
    let backup = scene.start().await;
    durable(&backup).await;
    drop(backup);
    for _ in 0..200 {
        let again = scene.replication();
        if again.start().await.is_ok() {
            let lease = std::fs::read_to_string(scene.replica.join("evertide/lease")).unwrap();
            assert!(lease.contains("state released\n"), "{lease}");
            return again.stop(DEADLINE).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still held");
}

/// Two commits with each setting, and with all of them.
#[tokio::test]
async fn no_time_is_too_long_for_a_setting() {
    const EVER: Duration = Duration::MAX;
    type Set = fn(&mut ReplicaOptions);
    let of_replicas: [(&str, Set); 10] = [
        ("sync_interval", |replica| replica.sync_interval = EVER),
        ("levels", |replica| replica.levels = vec![EVER]),
        ("level_0_retention", |replica| {
            replica.level_0_retention = EVER;
        }),
        ("snapshot_interval", |replica| {
            replica.snapshot_interval = EVER;
        }),
        ("retention", |replica| replica.retention = Some(EVER)),
        ("retention_tiers", |replica| {
            replica.retention = Some(DEADLINE);
            replica.retention_tiers = vec![RetentionTier::new(EVER, EVER)];
        }),
        ("retention_check_interval", |replica| {
            replica.retention_check_interval = EVER;
        }),
        ("drill_interval", |replica| {
            replica.drill_interval = Some(EVER);
        }),
        ("drill_timeout", |replica| {
            replica.drill_interval = Some(EVER);
            replica.drill_timeout = EVER;
        }),
        ("lease_duration", |replica| replica.lease_duration = EVER),
    ];
    let each = of_replicas.iter().map(std::slice::from_ref);
    for settings in each.chain([&of_replicas[..]]) {
        let names: Vec<&str> = settings.iter().map(|(name, _)| *name).collect();
        let (scene, conn) = Scene::with_rows(3);
        let mut options = ReplicationOptions::default();
        options.monitor_interval = EVER;
        options.checkpoint_interval = EVER;
        let mut replica = replica_options("local", &scene.replica);
        settings.iter().for_each(|(_, set)| set(&mut replica));
        options.replicas.push(replica);
        let builder = Replication::builder(&scene.db).options(options.clone());
        let backup = builder.build().unwrap();
        backup.start().await.unwrap();
        for _ in 0..2 {
            insert(&conn, 1);
            durable(&backup).await;
        }
        let status = backup.status();
        let replica = &status.replicas[0];
        let errors = [&status.error, &replica.error, &replica.maintenance_error];
        assert_eq!(errors, [&None; 3], "{names:?}");
        assert_eq!(backup.options(), options);
        backup.stop(EVER).await.unwrap();
        scene.assert_restores();
    }
}

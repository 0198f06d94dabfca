//! Ways in which a backup could claim more than it holds, or stop for ever.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use evertide::{DatabaseState, Durability, Error, Replication};
use evertide_storage::{Clock, FaultDisk, ManualClock, OsDisk};
use rusqlite::Connection;

use crate::{DEADLINE, Scene, durable, insert, replica_options, until};

/// Between two operations at which a panic is tried.
const STRIDE: u64 = 5;

/// A replica that cannot be reached: something is in the way of its folder.
fn take_away(scene: &Scene) {
    let _ = std::fs::rename(&scene.replica, scene.dir.path().join("away"));
    std::fs::write(&scene.replica, "in the way").unwrap();
}

fn give_back(scene: &Scene) {
    std::fs::remove_file(&scene.replica).unwrap();
    let _ = std::fs::rename(scene.dir.path().join("away"), &scene.replica);
}

async fn synced(backup: &Replication, conn: &Connection, transactions: u32) {
    for _ in 0..transactions {
        insert(conn, 1);
        backup.sync().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_captured_is_not_appended_to_a_shorter_history_of_another_database() {
    let (scene, conn) = Scene::with_rows(100);
    let backup = scene.start().await;
    durable(&backup).await;
    insert(&conn, 1);
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    // The other database is one transaction further, and still has that one staged.
    let (other, other_conn) = Scene::with_rows(20);
    let backup = other.start().await;
    durable(&backup).await;
    for _ in 0..2 {
        insert(&other_conn, 1);
        durable(&backup).await;
    }
    backup.stop(DEADLINE).await.unwrap();
    let backup = Replication::builder(&other.db)
        .replica(replica_options("taken", &scene.replica))
        .take_over()
        .build()
        .unwrap();
    backup.start().await.unwrap();
    durable(&backup).await;
    let output = scene.dir.path().join("restored.db");
    evertide_testkit::restore_with_litestream(&scene.replica, &output);
    evertide_testkit::assert_same_database(&other.db, &output);
    backup.stop(DEADLINE).await.unwrap();
}

/// After a power cut the position may be older than what the replica has, and the replica may be
/// away until as many transactions were captured again, cut in other places.
#[tokio::test]
async fn a_replica_that_is_ahead_is_not_continued_once_capture_has_overtaken_it() {
    for transactions in 1..4 {
        let (scene, conn) = Scene::with_rows(100);
        // No rotation, so that the old position still is one in this WAL.
        let builder = || scene.builder().rotate_at_frames(100_000).build().unwrap();
        let started = async || {
            let backup = builder();
            backup.start().await.unwrap();
            backup
        };
        let position = scene.dir.path().join(".app.db-evertide/position");
        let old = scene.dir.path().join("old-position");
        let write = |row: u32| {
            conn.execute("UPDATE t SET b = ?1 WHERE a = ?1", [row])
                .unwrap();
        };
        let backup = started().await;
        durable(&backup).await;
        backup.stop(DEADLINE).await.unwrap();
        std::fs::copy(&position, &old).unwrap();
        let backup = started().await;
        for row in [40, 60] {
            write(row);
            durable(&backup).await;
        }
        backup.stop(DEADLINE).await.unwrap();
        std::fs::copy(&old, &position).unwrap();
        take_away(&scene);
        // Captured together with what the replica has, under a transaction that it has, too.
        write(90);
        let backup = started().await;
        backup.sync().await.unwrap();
        for round in 1..transactions {
            write(70 + round);
            backup.sync().await.unwrap();
        }
        give_back(&scene);
        durable(&backup).await;
        scene.assert_restores();
        backup.stop(DEADLINE).await.unwrap();
    }
}

/// One thread reads a database, and one for each replica writes: they wait for each other.
#[tokio::test]
async fn snapshots_of_many_databases_to_many_replicas_do_not_wait_for_each_other_for_ever() {
    let mut running = Vec::new();
    for _ in 0..10 {
        let (scene, conn) = Scene::with_rows(1);
        conn.execute("INSERT INTO t (b) VALUES (randomblob(6000000))", [])
            .unwrap();
        let backup = scene.replication();
        running.push((scene, backup, conn));
    }
    let (scene, conn) = Scene::with_rows(1);
    conn.execute("INSERT INTO t (b) VALUES (randomblob(6000000))", [])
        .unwrap();
    let mut builder = scene.builder();
    for number in 0..10 {
        let replica = scene.dir.path().join(format!("replica-{number}"));
        builder = builder.replica(replica_options(&format!("number {number}"), &replica));
    }
    let backup = builder.build().unwrap();
    running.push((scene, backup, conn));
    for (_, backup, _) in &running {
        backup.start().await.unwrap();
    }
    for (_, backup, _) in &running {
        durable(backup).await;
        backup.stop(DEADLINE).await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_or_missing_staged_file_costs_a_snapshot_and_not_the_replica() {
    for damage in ["cut", "changed", "missing"] {
        let (scene, conn) = Scene::with_rows(10);
        let backup = scene.start().await;
        durable(&backup).await;
        take_away(&scene);
        synced(&backup, &conn, 3).await;
        let mut staged: Vec<_> = std::fs::read_dir(scene.dir.path().join(".app.db-evertide/ltx/0"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        staged.sort();
        let path = &staged[staged.len() - 2];
        let mut bytes = std::fs::read(path).unwrap();
        match damage {
            "cut" => bytes.truncate(bytes.len() / 2),
            _ => bytes[150] ^= 1,
        }
        std::fs::remove_file(path).unwrap();
        if damage != "missing" {
            std::fs::write(path, bytes).unwrap();
        }
        give_back(&scene);
        durable(&backup).await;
        synced(&backup, &conn, 1).await;
        durable(&backup).await;
        scene.assert_restores();
        backup.stop(DEADLINE).await.unwrap();
    }
}

/// All at once would take as many file descriptors of the application.
#[tokio::test]
async fn a_long_backlog_is_uploaded_in_parts() {
    let (scene, conn) = Scene::with_rows(10);
    let backup = scene.start().await;
    durable(&backup).await;
    insert(&conn, 1);
    durable(&backup).await;
    take_away(&scene);
    synced(&backup, &conn, 300).await;
    give_back(&scene);
    durable(&backup).await;
    let parts = scene.objects().iter().filter(|o| o.0 == "0").count();
    assert!((2..20).contains(&parts), "{:?}", scene.objects());
    scene.assert_restores();
    backup.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn waiting_for_durability_ends_when_replication_is_stopped() {
    let (scene, conn) = Scene::with_rows(10);
    let backup = scene.start().await;
    durable(&backup).await;
    take_away(&scene);
    insert(&conn, 1);
    let waiting = backup.wait_durable(Durability::All);
    let stopping = async {
        until(&backup, |status| status.replicas[0].error.is_some()).await;
        backup.stop(Duration::from_millis(100)).await
    };
    let both = async { tokio::join!(waiting, stopping) };
    let (waited, stopped) = tokio::time::timeout(DEADLINE, both).await.unwrap();
    assert!(matches!(waited, Err(Error::NotRunning(_))), "{waited:?}");
    assert!(stopped.is_err());
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_any_more_leaves_nothing_running() {
    let (scene, _conn) = Scene::with_rows(10);
    let backup = scene.replication();
    let mut start = Box::pin(backup.start());
    let polled = std::future::poll_fn(|context| {
        std::task::Poll::Ready(start.as_mut().poll(context).is_ready())
    });
    assert!(!polled.await);
    until(&backup, |status| {
        status.replicas.first().is_some_and(|r| r.snapshots > 0)
    })
    .await;
    drop(start); // it has succeeded, and nobody has taken the result
    for _ in 0..200 {
        match scene.replication().start().await {
            Ok(()) => return,
            Err(Error::AlreadyReplicated(_)) => {}
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still running");
}

#[tokio::test]
async fn a_replica_that_stays_away_does_not_fill_the_disk() {
    let (scene, conn) = Scene::with_rows(10);
    let limit = 100_000;
    let backup = scene.builder().stage_limit(limit).build().unwrap();
    backup.start().await.unwrap();
    durable(&backup).await;
    take_away(&scene);
    for _ in 0..50 {
        conn.execute("INSERT INTO t (b) VALUES (randomblob(10000))", [])
            .unwrap();
        backup.sync().await.unwrap();
    }
    let staged = std::fs::read_dir(scene.dir.path().join(".app.db-evertide/ltx/0")).unwrap();
    let bytes: u64 = staged
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!((1..=limit).contains(&bytes), "{bytes} bytes");
    give_back(&scene);
    durable(&backup).await;
    scene.assert_restores();
    backup.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_lost_a_file_is_made_whole() {
    for lost in ["9", "0"] {
        let (scene, conn) = Scene::with_rows(10);
        let backup = scene.start().await;
        durable(&backup).await;
        for _ in 0..3 {
            insert(&conn, 1);
            durable(&backup).await;
        }
        backup.stop(DEADLINE).await.unwrap();
        let objects = scene.objects();
        let (level, name, _) = objects.iter().find(|object| object.0 == lost).unwrap();
        std::fs::remove_file(scene.replica.join("ltx").join(level).join(name)).unwrap();
        let backup = scene.start().await;
        durable(&backup).await;
        scene.assert_restores();
        backup.stop(DEADLINE).await.unwrap();
    }
}

#[tokio::test]
async fn a_replica_that_was_deleted_while_running_gets_a_base_again() {
    let (scene, conn) = Scene::with_rows(10);
    let backup = scene.start().await;
    durable(&backup).await;
    // In one step: checksums may be on their way into it.
    std::fs::rename(&scene.replica, scene.dir.path().join("deleted")).unwrap();
    insert(&conn, 1);
    durable(&backup).await;
    scene.assert_restores();
    backup.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_moved_is_waited_for_at_its_new_place() {
    let (scene, conn) = Scene::with_rows(10);
    let backup = scene.start().await;
    durable(&backup).await;
    for number in 0..10 {
        let place = scene.dir.path().join(format!("place-{number}"));
        let mut options = backup.options();
        options.replicas = vec![replica_options("local", &place)];
        insert(&conn, 1);
        let _ = backup.sync().await.unwrap();
        backup.update(options).await.unwrap();
        durable(&backup).await;
        let output = scene.dir.path().join(format!("from-{number}.db"));
        evertide_testkit::restore_with_litestream(&place, &output);
        evertide_testkit::assert_same_database(&scene.db, &output);
    }
    backup.stop(DEADLINE).await.unwrap();
}

/// A restore to a point in time goes by the times of the files.
#[tokio::test]
async fn a_clock_that_stepped_back_between_two_starts_does_not_mix_up_the_times_of_files() {
    let (scene, conn) = Scene::with_rows(10);
    let hours =
        |hours: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + hours * 3_600);
    for hour in [5, 3, 4, 6] {
        let clock = Arc::new(ManualClock::new(hours(hour)));
        let backup = scene.builder().clock(clock).build().unwrap();
        backup.start().await.unwrap();
        insert(&conn, 1);
        durable(&backup).await;
        backup.stop(DEADLINE).await.unwrap();
    }
    let mut times: Vec<_> = scene
        .objects()
        .iter()
        .map(|(level, name, _)| {
            let file = scene.replica.join("ltx").join(level).join(name);
            let newest = name.split('-').next_back().unwrap().to_owned();
            (newest, file.metadata().unwrap().modified().unwrap())
        })
        .collect();
    times.sort();
    assert!(times.is_sorted_by_key(|(_, time)| *time), "{times:?}");
    assert_eq!(times.last().unwrap().1, hours(6));
}

#[tokio::test]
async fn local_state_that_was_deleted_while_running_costs_time_only() {
    let (scene, conn) = Scene::with_rows(10);
    let backup = scene.start().await;
    durable(&backup).await;
    std::fs::remove_dir_all(scene.dir.path().join(".app.db-evertide")).unwrap();
    insert(&conn, 1);
    let waited = async {
        while backup.wait_durable(Durability::All).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited)
        .await
        .unwrap();
    scene.assert_restores();
    backup.stop(DEADLINE).await.unwrap();
    insert(&conn, 1);
    let backup = scene.start().await;
    durable(&backup).await;
    scene.assert_restores();
    backup.stop(DEADLINE).await.unwrap();
}

/// A clock that panics once it is broken, as a fault of ours would in the middle of a capture.
#[derive(Debug, Default)]
struct BreakableClock(AtomicBool);

impl Clock for BreakableClock {
    fn now(&self) -> SystemTime {
        assert!(!self.0.load(Ordering::SeqCst), "broken on purpose");
        SystemTime::now()
    }
}

fn is_panic(error: &Error) -> bool {
    matches!(error, Error::Panicked { panic, .. } if panic.contains("on purpose"))
}

#[tokio::test]
async fn a_panic_ends_the_replication_of_one_database_and_is_visible() {
    let (scene, conn) = Scene::with_rows(10);
    let clock = Arc::new(BreakableClock::default());
    let backup = scene
        .builder()
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .build()
        .unwrap();
    backup.start().await.unwrap();
    durable(&backup).await;
    clock.0.store(true, Ordering::SeqCst);
    insert(&conn, 1);
    let status = until(&backup, |status| status.error.is_some()).await;
    assert_eq!(status.state, DatabaseState::Stopped);
    assert!(status.error.unwrap().contains("broken on purpose"));
    status.failing_since.expect("it fails");
    let waited = tokio::time::timeout(DEADLINE, backup.wait_durable(Durability::All));
    assert!(is_panic(&waited.await.unwrap().unwrap_err()));
    assert!(is_panic(&backup.stop(DEADLINE).await.unwrap_err()));
    // It was stopped all the same.
    let again = backup.stop(DEADLINE).await.unwrap_err();
    assert!(matches!(again, Error::NotRunning(_)), "{again}");
    // Nothing of it is left in the way.
    let again = scene.start().await;
    durable(&again).await;
    scene.assert_restores();
    again.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_stop_after_a_panic_is_no_success_unless_everything_is_on_the_replica() {
    let (mut n, mut ended) = (1 + evertide_testkit::seed() % STRIDE, 0);
    loop {
        let (scene, conn) = Scene::with_rows(3);
        let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
        let panicked = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&panicked);
        disk.call_at(n, move |operation| {
            noted.store(true, Ordering::SeqCst);
            panic!("before {operation}, on purpose");
        });
        let backup = scene.builder().disk(disk).build().unwrap();
        let lived = async {
            backup.start().await?;
            insert(&conn, 1);
            backup.stop(DEADLINE).await
        };
        match lived.await {
            // It was a replica's, which is started again.
            Ok(()) => scene.assert_restores(),
            Err(error) => {
                assert!(is_panic(&error), "at {n}: {error}");
                assert!(backup.status().error.unwrap().contains("on purpose"));
                ended += 1;
            }
        }
        if !panicked.load(Ordering::SeqCst) {
            break;
        }
        n += STRIDE;
    }
    assert!(ended > 0, "no panic ended anything");
}

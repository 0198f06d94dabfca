//! Who may write to a replica: one at a time, and only who goes on with what it has.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use evertide::{
    Error, Maintenance, Replication, ReplicationBuilder, RestoreOptions, RestoreTarget, Txid,
    restore,
};
use evertide_storage::{Clock, Destination, ManualClock, OsDisk, SystemClock};
use rusqlite::Connection;

use crate::{
    DEADLINE, Scene, durable,
    gate::{Gate, GatedDisk},
    insert, replica_options, until,
};

const SHORT: Duration = Duration::from_millis(300);

/// Replication of this database to the replica of a scene, by a writer whose lease does not last long.
fn to_replica_of(scene: &Scene, database: &Path) -> ReplicationBuilder {
    to(&scene.replica, database)
}

fn to(replica: &Path, database: &Path) -> ReplicationBuilder {
    let mut options = replica_options("shared", replica);
    options.lease_duration = SHORT;
    Replication::builder(database).replica(options)
}

async fn started(builder: ReplicationBuilder) -> Replication {
    let backup = builder.build().unwrap();
    backup.start().await.unwrap();
    backup
}

async fn replicated_once(builder: ReplicationBuilder) {
    let backup = started(builder).await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
}

/// Why it is refused.
async fn refusal(backup: &Replication) -> String {
    let status = until(backup, |status| status.replicas[0].error.is_some()).await;
    status.replicas[0].error.clone().unwrap()
}

async fn restored(replica: &Path, to: &Path, target: RestoreTarget) {
    let client = Destination::file(replica).unwrap();
    let mut options = RestoreOptions::new(client.connect(Arc::new(OsDisk)).unwrap(), to);
    options.target = target;
    restore(options).await.unwrap();
}

/// Copies files and folders, by another process: closing a database here would drop its locks.
fn copy(from: &[&Path], to: &Path) {
    let copied = Command::new("cp").arg("-a").args(from).arg(to).status();
    assert!(copied.unwrap().success());
}

fn newest(scene: &Scene) -> Txid {
    let objects = scene.objects();
    let ends = objects.iter().map(|(_, name, _)| {
        let end = name
            .strip_suffix(".ltx")
            .unwrap()
            .split_once('-')
            .unwrap()
            .1;
        u64::from_str_radix(end, 16).unwrap()
    });
    Txid::new(ends.max().unwrap())
}

fn lease(scene: &Scene) -> String {
    std::fs::read_to_string(scene.replica.join("evertide/lease")).unwrap()
}

#[tokio::test]
async fn another_database_is_refused_until_told_to_take_over_and_then_buries_nothing() {
    let (scene, conn) = Scene::with_rows(50);
    replicated_once(to_replica_of(&scene, &scene.db)).await;
    let (before, objects) = (newest(&scene), scene.objects());
    let (other, other_conn) = Scene::with_rows(7);
    let backup = started(to_replica_of(&scene, &other.db)).await;
    let said = refusal(&backup).await;
    for word in [
        "shared",
        "another database",
        "process",
        "--take-over",
        "another path",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    // It would be waited for for a day.
    let stop = backup.stop(24 * 60 * DEADLINE);
    let stopped = tokio::time::timeout(DEADLINE, stop).await;
    let error = stopped.expect("a replica that is refused is not waited for");
    let error = error.unwrap_err();
    assert!(matches!(error, Error::StoppedBehind { .. }), "{error:?}");
    assert!(error.to_string().contains("--take-over"), "{error}");
    assert_eq!(scene.objects(), objects, "nothing was written");

    replicated_once(to_replica_of(&scene, &other.db).take_over()).await;
    insert(&other_conn, 3);
    replicated_once(to_replica_of(&scene, &other.db)).await;
    let output = scene.dir.path().join("latest.db");
    evertide_testkit::restore_with_litestream(&scene.replica, &output);
    evertide_testkit::assert_same_database(&other.db, &output);
    let output = scene.dir.path().join("earlier.db");
    restored(&scene.replica, &output, RestoreTarget::Txid(before)).await;
    evertide_testkit::assert_same_database(&scene.db, &output);

    insert(&conn, 1);
    let backup = started(to_replica_of(&scene, &scene.db)).await;
    let said = refusal(&backup).await;
    assert!(
        said.contains("--take-over"),
        "the first one is refused now: {said}"
    );
    drop(backup);
}

/// Or two that were both told to take over would take the replica from each other for ever.
#[tokio::test]
async fn who_took_over_once_does_not_take_over_from_whoever_took_over_since() {
    let (scene, conn) = Scene::with_rows(50);
    let (other, _other_conn) = Scene::with_rows(7);
    let first = started(to_replica_of(&scene, &scene.db).take_over()).await;
    durable(&first).await;
    // By another name, as another process would have it.
    let link = scene.dir.path().join("link");
    std::os::unix::fs::symlink(&scene.replica, &link).unwrap();
    replicated_once(to(&link, &other.db).take_over()).await;
    let objects = scene.objects();
    let uploads = first.status().replicas[0].uploads;
    insert(&conn, 1);
    let refused = |error: &String| error.contains("--take-over");
    let status = until(&first, |status| {
        let replica = &status.replicas[0];
        replica.uploads > uploads || replica.error.as_ref().is_some_and(refused)
    });
    assert_eq!(status.await.replicas[0].uploads, uploads);
    first.stop(DEADLINE).await.unwrap_err();
    assert_eq!(scene.objects(), objects);
    let output = scene.dir.path().join("restored.db");
    evertide_testkit::restore_with_litestream(&scene.replica, &output);
    evertide_testkit::assert_same_database(&other.db, &output);
}

#[tokio::test]
async fn a_copy_that_went_on_elsewhere_is_refused() {
    let (scene, conn) = Scene::with_rows(50);
    replicated_once(to_replica_of(&scene, &scene.db)).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let state = scene.dir.path().join(".app.db-evertide");
    let wal = scene.dir.path().join("app.db-wal");
    copy(&[&scene.db, &wal, &state], elsewhere.path());
    insert(&conn, 5);
    replicated_once(to_replica_of(&scene, &scene.db)).await;
    let copied = elsewhere.path().join("app.db");
    let copied_conn = Connection::open(&copied).unwrap();
    insert(&copied_conn, 2);
    let backup = started(to_replica_of(&scene, &copied)).await;
    let said = refusal(&backup).await;
    assert!(said.contains("went on elsewhere"), "{said}");
    drop(backup);
    scene.assert_restores();
}

#[tokio::test]
async fn a_database_that_moves_with_its_state_goes_on_with_what_changed() {
    let (scene, conn) = Scene::with_rows(300);
    replicated_once(to_replica_of(&scene, &scene.db)).await;
    let objects = scene.objects().len();
    drop(conn);
    let elsewhere = tempfile::tempdir().unwrap();
    let state = scene.dir.path().join(".app.db-evertide");
    copy(&[&scene.db, &state], elsewhere.path());
    let moved = elsewhere.path().join("app.db");
    let conn = Connection::open(&moved).unwrap();
    insert(&conn, 1);
    replicated_once(to_replica_of(&scene, &moved)).await;
    let new: Vec<_> = scene.objects().into_iter().filter(|o| o.0 == "9").collect();
    assert_eq!(new.len(), 1, "no snapshot but the first: {new:?}");
    assert!(scene.objects().len() > objects);
    let output = scene.dir.path().join("restored.db");
    evertide_testkit::restore_with_litestream(&scene.replica, &output);
    evertide_testkit::assert_same_database(&moved, &output);
}

#[tokio::test]
async fn a_restored_database_goes_on_with_its_replica_and_the_one_before_is_refused_by_name() {
    let (scene, conn) = Scene::with_rows(50);
    let before = started(to_replica_of(&scene, &scene.db)).await;
    durable(&before).await;
    // It still runs, and is idle: its lease ends.
    let elsewhere = tempfile::tempdir().unwrap();
    let copied = elsewhere.path().join("app.db");
    restored(&scene.replica, &copied, RestoreTarget::Latest).await;
    // By another name, as another process would have it.
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(&scene.replica, &link).unwrap();
    let after = started(to(&link, &copied)).await;
    // What it is at the start counts, and not what is written while it waits for the lease.
    let copied_conn = Connection::open(&copied).unwrap();
    insert(&copied_conn, 3);
    durable(&after).await;
    assert!(
        lease(&scene).contains("generation 2\n"),
        "{}",
        lease(&scene)
    );
    insert(&conn, 5);
    let said = refusal(&before).await;
    let id = std::process::id().to_string();
    assert!(
        said.contains(&id) && said.contains("Stop that process"),
        "{said}"
    );
    insert(&copied_conn, 1);
    durable(&after).await;
    after.stop(DEADLINE).await.unwrap();
    // Nor when it is gone: what it has is not in that history.
    until(&before, |status| {
        let error = status.replicas[0].error.as_deref();
        error.is_some_and(|error| error.contains("went on elsewhere"))
    })
    .await;
    drop(before);
    let output = scene.dir.path().join("restored.db");
    evertide_testkit::restore_with_litestream(&scene.replica, &output);
    evertide_testkit::assert_same_database(&copied, &output);
}

/// The machine is lost, and what proves the newest state was not recorded any more.
#[tokio::test]
async fn after_a_crash_a_restored_database_waits_for_the_lease_and_goes_on_far_above_it() {
    let (scene, conn) = Scene::with_rows(50);
    let backup = started(to_replica_of(&scene, &scene.db)).await;
    durable(&backup).await;
    insert(&conn, 5);
    durable(&backup).await;
    let survived = tempfile::tempdir().unwrap();
    copy(&[&scene.replica], survived.path());
    let survived = Scene {
        replica: survived.path().join("replica"),
        db: survived.path().join("app.db"),
        dir: survived,
    };
    assert!(lease(&survived).contains("state held\n"));
    // What the dead one was still sending when it died.
    insert(&conn, 1);
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    let before = newest(&survived);
    let late = Txid::new(before.get() + 1);
    assert_eq!(newest(&scene), late);

    restored(&survived.replica, &survived.db, RestoreTarget::Latest).await;
    let backup = started(to_replica_of(&survived, &survived.db)).await;
    let said = refusal(&backup).await;
    assert!(said.contains("takes over when its lease ends"), "{said}");
    durable(&backup).await;
    assert!(
        newest(&survived).get() >= 1 << 32,
        "{} after {before}",
        newest(&survived)
    );
    let heir_conn = Connection::open(&survived.db).unwrap();
    insert(&heir_conn, 2);
    durable(&backup).await;
    // It arrives, and is the end of its own history, also where files are merged.
    let name = format!("ltx/0/{late}-{late}.ltx");
    copy(&[&scene.replica.join(&name)], &survived.replica.join(&name));
    insert(&heir_conn, 1);
    backup.stop(DEADLINE).await.unwrap();
    let client = Destination::file(&survived.replica).unwrap();
    let client = client.connect(Arc::new(OsDisk)).unwrap();
    let options = replica_options("shared", &survived.replica);
    let next_year = SystemClock.now() + Duration::from_secs(365 * 24 * 3_600);
    let clock = Arc::new(ManualClock::new(next_year));
    let mut maintenance = Maintenance::new(client, &options, clock);
    for merged in [false, true] {
        if merged {
            maintenance.run().await.unwrap();
            assert!(maintenance.done().compactions > 0);
        }
        survived.assert_restores();
        let output = survived.dir.path().join(format!("dead-{merged}.db"));
        restored(&survived.replica, &output, RestoreTarget::Txid(late)).await;
        evertide_testkit::assert_same_database(&scene.db, &output);
    }
}

/// Where it matters who wrote last all of the database is read at the start.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_no_upload_of_other_databases() {
    let (scene, _conn) = Scene::with_rows(5);
    let backup = started(to_replica_of(&scene, &scene.db)).await;
    durable(&backup).await;
    let heir = tempfile::tempdir().unwrap();
    copy(&[&scene.replica], heir.path());
    let heir = Scene {
        replica: heir.path().join("replica"),
        db: heir.path().join("app.db"),
        dir: heir,
    };
    restored(&heir.replica, &heir.db, RestoreTarget::Latest).await;

    // All long uploads that a process may have under way get nowhere.
    let (slow, slow_conn) = Scene::with_rows(0);
    let gate = Arc::new(Gate::default());
    let places = (0..16).map(|number| slow.replica.join(number.to_string()));
    let places: Vec<PathBuf> = places.collect();
    let disk = GatedDisk {
        folders: places.iter().map(|place| place.join("ltx")).collect(),
        gate: Arc::clone(&gate),
    };
    let mut builder = Replication::builder(&slow.db).disk(Arc::new(disk));
    for place in &places {
        let name = format!("in {}", place.display());
        builder = builder.replica(replica_options(&name, place));
    }
    let uploading = started(builder).await;
    durable(&uploading).await;
    gate.close();
    let large = "INSERT INTO t (b) VALUES (randomblob(12000000))";
    slow_conn.execute_batch(large).unwrap();
    tokio::task::block_in_place(|| gate.until_so_many_wait(16));

    let starting = started(to_replica_of(&heir, &heir.db));
    let started = tokio::time::timeout(DEADLINE / 3, starting).await;
    gate.open();
    let after = started.expect("it waits for uploads of another database");
    durable(&after).await;
    after.stop(DEADLINE).await.unwrap();
    uploading.stop(DEADLINE).await.unwrap();
    backup.stop(DEADLINE).await.unwrap();
    heir.assert_restores();
}

#[tokio::test]
async fn two_databases_of_a_process_are_not_replicated_to_one_place() {
    let (scene, _conn) = Scene::with_rows(3);
    let (other, _other_conn) = Scene::with_rows(4);
    let backup = scene.start().await;
    durable(&backup).await;
    let second = Replication::builder(&other.db).replica(replica_options("shared", &scene.replica));
    let second = second.build().unwrap();
    let error = second.start().await.unwrap_err();
    assert!(matches!(error, Error::DestinationInUse { .. }), "{error:?}");
    let said = error.to_string();
    for path in [&scene.db, &other.db, &scene.replica] {
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    }
    let elsewhere =
        started(Replication::builder(&other.db).replica(replica_options("own", &other.replica)))
            .await;
    let mut options = elsewhere.options();
    options
        .replicas
        .push(replica_options("shared", &scene.replica));
    let error = elsewhere.update(options).await.unwrap_err();
    assert!(matches!(error, Error::DestinationInUse { .. }), "{error:?}");
    // Its own place it may have with other settings.
    let mut options = elsewhere.options();
    options.replicas[0].sync_interval += Duration::from_millis(1);
    elsewhere.update(options).await.unwrap();
    durable(&elsewhere).await;
    for backup in [backup, elsewhere] {
        backup.stop(DEADLINE).await.unwrap();
    }
    // What is not replicated there any more is free.
    second.start().await.unwrap();
    drop(second);
}

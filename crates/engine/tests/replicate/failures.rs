//! Whatever fails in its process, the application keeps its locks: one case for each way to fail.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use evertide::{
    DatabaseState, Destination, FollowOptions, Replication, RestoreOptions, VerifyDepth,
    VerifyOptions, follow, is_database, verify,
};
use evertide_storage::{FaultDisk, OsDisk};
use evertide_testkit::another_process_can_write;
use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    DEADLINE, Scene, durable,
    locks::{assert_held, client},
    replica_options, until,
};

type Failure = for<'a> fn(&'a Scene) -> BoxFuture<'a, ()>;

/// Each way to fail, of a database that was replicated before, in a write transaction of its application.
const FAILURES: [(&str, Failure); 14] = [
    ("no failure", |scene| no_failure(scene).boxed()),
    ("a refused reload", |scene| refused_reload(scene).boxed()),
    ("a refused lease", |scene| refused_lease(scene).boxed()),
    ("another history", |scene| other_history(scene).boxed()),
    ("a replica in the way", |scene| unreachable(scene).boxed()),
    ("a stop that takes too long", |scene| {
        late_stop(scene).boxed()
    }),
    ("being dropped", |scene| dropped(scene).boxed()),
    ("a panic", |scene| panics(scene).boxed()),
    ("another wal-index", |scene| other_wal_index(scene).boxed()),
    ("a damaged state", |scene| damaged_state(scene).boxed()),
    ("damage", |scene| damaged_replica(scene).boxed()),
    ("a failed drill", |scene| failed_drill(scene).boxed()),
    ("a copy that is none", |scene| refused_copy(scene).boxed()),
    ("a look at its name", |scene| looked_at(scene).boxed()),
];

#[tokio::test]
async fn no_way_to_fail_drops_a_lock() {
    for (name, failure) in FAILURES {
        let (scene, conn) = Scene::with_rows(20);
        let backup = scene.start().await;
        durable(&backup).await;
        backup.stop(DEADLINE).await.unwrap();
        conn.execute_batch("BEGIN IMMEDIATE; INSERT INTO t (b) VALUES ('open')")
            .unwrap();
        failure(&scene).await;
        assert_held(&scene, format_args!("after {name}"));
        conn.execute_batch("COMMIT").unwrap();
        assert!(another_process_can_write(&scene.db), "after {name}");
        let backup = scene.builder().take_over().build().unwrap();
        backup.start().await.unwrap();
        durable(&backup).await;
        backup.stop(DEADLINE).await.unwrap();
    }
}

/// A database that was never in WAL mode is locked otherwise.
#[tokio::test]
async fn a_start_that_finds_another_journal_mode_drops_no_lock() {
    let scene = Scene::new();
    let conn = rusqlite::Connection::open(&scene.db).unwrap();
    conn.execute_batch("CREATE TABLE t (a); BEGIN EXCLUSIVE; INSERT INTO t VALUES (1)")
        .unwrap();
    assert!(!another_process_can_write(&scene.db));
    let backup = scene.replication();
    assert!(backup.start().await.is_err(), "it cannot be read");
    assert!(!another_process_can_write(&scene.db), "after the failure");
    conn.execute_batch("COMMIT").unwrap();
    drop(conn);
    backup.start().await.unwrap();
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
}

async fn no_failure(scene: &Scene) {
    let backup = scene.start().await;
    durable(&backup).await;
    assert_held(scene, "while it runs");
    backup.stop(DEADLINE).await.unwrap();
}

async fn refused_reload(scene: &Scene) {
    let backup = scene.start().await;
    let mut options = backup.options();
    options.replicas.push(options.replicas[0].clone());
    assert!(backup.update(options).await.is_err());
    assert_held(scene, "after a refused reload, while it runs");
    backup.stop(DEADLINE).await.unwrap();
}

/// Starts, and waits until the replica refuses it for this reason.
async fn is_refused(scene: &Scene, backup: &Replication, reason: &str) {
    let started = backup.start().await;
    let refused = |error: &str| error.contains(reason);
    if let Err(error) = started {
        assert!(refused(&error.to_string()), "{error}");
        return;
    }
    until(backup, |status| {
        status.replicas[0].error.as_deref().is_some_and(refused)
    })
    .await;
    assert_held(scene, format_args!("while refused: {reason}"));
    let _ = backup.stop(Duration::from_millis(50)).await;
}

async fn refused_lease(scene: &Scene) {
    let (other, _conn) = Scene::with_rows(1);
    let first = other.start().await;
    durable(&first).await;
    // Within one process it would be refused before the lease is looked at.
    let folder = scene.dir.path().join("taken");
    // A file of which the copy is made may get its name in this moment.
    let copied = (0..20).any(|_| {
        let _ = std::fs::remove_dir_all(&folder);
        let mut copy = Command::new("cp");
        let copied = copy.arg("-r").args([&other.replica, &folder]).status();
        copied.unwrap().success()
    });
    assert!(copied, "cannot copy {}", other.replica.display());
    is_refused(scene, &evertide_of(scene, &folder), "Stop that process").await;
    first.stop(DEADLINE).await.unwrap();
}

async fn other_history(scene: &Scene) {
    let (other, _conn) = Scene::with_rows(1);
    let folder = scene.dir.path().join("foreign");
    let first = evertide_of(&other, &folder);
    first.start().await.unwrap();
    durable(&first).await;
    first.stop(DEADLINE).await.unwrap();
    is_refused(scene, &evertide_of(scene, &folder), "--take-over").await;
}

/// The database of a scene, replicated to this folder.
fn evertide_of(scene: &Scene, folder: &Path) -> Replication {
    Replication::builder(&scene.db)
        .replica(replica_options("local", folder))
        .build()
        .unwrap()
}

async fn unreachable(scene: &Scene) {
    let folder = scene.dir.path().join("in-the-way");
    std::fs::write(&folder, "").unwrap();
    let backup = evertide_of(scene, &folder);
    backup.start().await.unwrap();
    until(&backup, |status| status.replicas[0].error.is_some()).await;
    assert_held(scene, "while a replica cannot be reached");
    assert!(backup.stop(Duration::from_millis(20)).await.is_err());
}

async fn late_stop(scene: &Scene) {
    let backup = evertide_of(scene, &scene.dir.path().join("new"));
    backup.start().await.unwrap();
    let _ = backup.stop(Duration::ZERO).await;
}

async fn dropped(scene: &Scene) {
    let backup = scene.start().await;
    drop(backup);
    // Its task ends by itself.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_held(scene, "after being dropped");
    }
}

async fn panics(scene: &Scene) {
    for n in [1, 5, 10, 20] {
        let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
        disk.call_at(n, |operation| panic!("planted before {operation}"));
        let backup = scene.builder().disk(disk).build().unwrap();
        let started = tokio::spawn({
            let backup = backup.clone();
            async move { backup.start().await.is_ok() }
        });
        let _ = started.await;
        assert_held(scene, format_args!("after a panic at {n}"));
        let _ = backup.stop(Duration::from_millis(20)).await;
    }
}

/// Writes another version into the wal-index, from outside, and puts it back.
async fn other_wal_index(scene: &Scene) {
    let shm = scene.dir.path().join("app.db-shm");
    let poke = |version: u32| {
        const SCRIPT: &str = "import struct, sys
with open(sys.argv[1], 'r+b') as file:
    for at in (0, 48):
        file.seek(at)
        file.write(struct.pack('=I', int(sys.argv[2])))";
        let mut python = Command::new("python3");
        python
            .args(["-c", SCRIPT])
            .arg(&shm)
            .arg(version.to_string());
        assert!(python.status().unwrap().success());
    };
    poke(9_999_999);
    let backup = scene.replication();
    let started = backup.start().await;
    assert!(started.is_err() || backup.status().state != DatabaseState::Running);
    let _ = backup.stop(Duration::from_millis(20)).await;
    poke(3_007_000);
}

async fn damaged_state(scene: &Scene) {
    let state = scene.dir.path().join(".app.db-evertide");
    for name in ["position", "identity", "pages"] {
        std::fs::write(state.join(name), "damaged").unwrap();
    }
    let backup = scene.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
}

/// Damages every file of level 0 and 9 of the replica.
fn damage(scene: &Scene) {
    for (level, name, _) in scene.objects() {
        let path = scene.replica.join("ltx").join(level).join(name);
        let mut content = std::fs::read(&path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(path, content).unwrap();
    }
}

async fn damaged_replica(scene: &Scene) {
    damage(scene);
    for depth in [VerifyDepth::Files, VerifyDepth::Restore] {
        let mut options = VerifyOptions::new(client(scene));
        options.depth = depth;
        let found = verify(options).await;
        assert!(found.is_err() || found.is_ok_and(|report| !report.is_sound()));
    }
    let output = scene.dir.path().join("restored.db");
    let restored = evertide::restore(RestoreOptions::new(client(scene), output)).await;
    assert!(restored.is_err());
}

async fn failed_drill(scene: &Scene) {
    damage(scene);
    let mut options = replica_options("local", &scene.replica);
    options.drill_interval = Some(Duration::from_millis(20));
    let backup = Replication::builder(&scene.db)
        .replica(options)
        .build()
        .unwrap();
    backup.start().await.unwrap();
    until(&backup, |status| status.replicas[0].drill.failure.is_some()).await;
    assert_held(scene, "while drills fail");
    backup.stop(DEADLINE).await.unwrap();
}

/// To follow into the database itself, or a file that is no copy.
async fn refused_copy(scene: &Scene) {
    let foreign = scene.dir.path().join("foreign.db");
    std::fs::write(&foreign, "no database").unwrap();
    for output in [&scene.db, &foreign] {
        let options = FollowOptions::new(RestoreOptions::new(client(scene), output));
        assert!(follow(options, std::future::pending()).await.is_err());
    }
}

async fn looked_at(scene: &Scene) {
    assert!(is_database(&scene.db));
    assert!(!is_database(&scene.dir.path().join("app.db-shm")));
    assert!(!is_database(&scene.dir.path().join("missing")));
    // A name by which nobody knows it.
    let link = scene.dir.path().join("link.db");
    std::os::unix::fs::symlink(&scene.db, &link).unwrap();
    assert!(is_database(&link));
    let inside = Destination::file(&scene.db);
    if let Ok(destination) = inside {
        let mut options = replica_options("local", &scene.replica);
        options.destination = destination;
        let backup = Replication::builder(&scene.db).replica(options).build();
        if let Ok(backup) = backup {
            let _ = backup.start().await;
            let _ = backup.stop(Duration::from_millis(20)).await;
        }
    }
}

//! What the application or an administrator may do to the database: each has a defined outcome.

use std::{path::PathBuf, time::Duration};

use evertide::{DatabaseState, DatabaseStatus, Replication, ReplicationOptions};
use rusqlite::Connection;

use crate::{DEADLINE, Scene, durable, insert, replica_options, until};

fn wal(scene: &Scene) -> PathBuf {
    scene.dir.path().join("app.db-wal")
}

#[tokio::test]
async fn vacuum_shrinking_and_huge_transactions_are_captured() {
    let (scene, conn) = Scene::with_rows(300);
    let backup = scene.start().await;
    durable(&backup).await;
    conn.execute_batch("DELETE FROM t WHERE a % 3 > 0; VACUUM")
        .unwrap();
    durable(&backup).await;
    scene.assert_restores();
    conn.execute_batch("BEGIN").unwrap();
    insert(&conn, 3_000);
    conn.execute_batch("COMMIT").unwrap();
    durable(&backup).await;
    scene.assert_restores();
    conn.execute_batch("DELETE FROM t; VACUUM").unwrap();
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
    assert_eq!(backup.status().rebases, 0);
}

#[tokio::test]
async fn checkpoints_of_the_application_are_neither_delayed_nor_missed() {
    let (scene, conn) = Scene::with_rows(50);
    let backup = scene.start().await;
    durable(&backup).await;
    for round in 0..8 {
        for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
            insert(&conn, 5);
            let sql = format!("PRAGMA wal_checkpoint({mode})");
            let busy: i64 = conn.query_row(&sql, [], |row| row.get(0)).unwrap();
            assert_eq!(busy, 0, "{mode} in round {round} met a lock of ours");
        }
    }
    durable(&backup).await;
    assert_eq!(backup.status().rebases, 0);
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn automatic_checkpoints_after_every_commit_are_no_problem() {
    let (scene, conn) = Scene::with_rows(50);
    conn.execute_batch("PRAGMA wal_autocheckpoint = 1").unwrap();
    let backup = scene.start().await;
    durable(&backup).await;
    insert(&conn, 300);
    backup.stop(DEADLINE).await.unwrap();
    let status = backup.status();
    assert_eq!((status.rebases, status.replicas[0].snapshots), (0, 1));
    scene.assert_restores();
}

#[tokio::test]
async fn an_application_that_would_checkpoint_in_each_commit_is_braked_and_still_gets_its_own() {
    let (scene, conn) = Scene::with_rows(50);
    // As fast as can be: only fast writers are braked.
    conn.execute_batch("PRAGMA wal_autocheckpoint = 50; PRAGMA synchronous = OFF")
        .unwrap();
    let backup = scene.builder().build().unwrap();
    backup.start().await.unwrap();
    durable(&backup).await;
    let writes = async {
        while backup.status().brakes < 3 {
            insert(&conn, 500);
            // It fails at once where one of ours runs, as with any other connection, and never waits
            // for the brake in vain.
            let checkpoint = "PRAGMA wal_checkpoint(FULL)";
            while conn.query_row(checkpoint, [], |row| row.get(0)).unwrap() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, writes).await.unwrap();
    assert_eq!(backup.status().rebases, 0);
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

/// Another database, with nothing in its WAL.
fn another() -> Scene {
    let (other, conn) = Scene::with_rows(80);
    conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    other
}

/// Puts `new.db` in place of the database, which nobody in the application has open.
fn replace_by_the_new_one(scene: &Scene) {
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(scene.dir.path().join(format!("app.db{suffix}")));
    }
    std::fs::rename(scene.dir.path().join("new.db"), &scene.db).unwrap();
}

/// All of it and what comes next is on the replica.
async fn goes_on_re_based(scene: &Scene, backup: &Replication) {
    until(backup, |status| status.rebases >= 1).await;
    let conn = scene.open();
    insert(&conn, 1);
    durable(backup).await;
    scene.assert_restores();
    backup.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_replaced_database_is_re_based() {
    let (scene, conn) = Scene::with_rows(50);
    let backup = scene.start().await;
    durable(&backup).await;
    drop(conn);
    let other = another();
    std::fs::copy(&other.db, scene.dir.path().join("new.db")).unwrap();
    replace_by_the_new_one(&scene);
    goes_on_re_based(&scene, &backup).await;
}

#[tokio::test]
async fn a_database_replaced_by_its_copy_of_another_page_size_gets_a_new_snapshot() {
    let (scene, conn) = Scene::with_rows(50);
    let backup = scene.start().await;
    durable(&backup).await;
    let copy = scene.dir.path().join("new.db");
    // Of a database with a WAL the pages get another size in a copy only.
    conn.execute_batch(&format!(
        "PRAGMA page_size = 512; VACUUM INTO '{}'",
        copy.display()
    ))
    .unwrap();
    drop(conn);
    replace_by_the_new_one(&scene);
    until(&backup, |status| {
        status.page_size == 512 && status.replicas[0].snapshots == 2
    })
    .await;
    insert(&scene.open(), 1);
    durable(&backup).await;
    scene.assert_restores();
    backup.stop(DEADLINE).await.unwrap();
}

/// An application may make its database anew each night.
#[tokio::test]
async fn databases_that_were_replaced_take_no_room_and_no_descriptors() {
    const ROUNDS: u64 = 5;
    let (scene, conn) = Scene::with_rows(50);
    let backup = scene.start().await;
    durable(&backup).await;
    drop(conn);
    for round in 1..=ROUNDS {
        let other = another();
        std::fs::copy(&other.db, scene.dir.path().join("new.db")).unwrap();
        replace_by_the_new_one(&scene);
        until(&backup, |status| {
            status.rebases >= round && status.error.is_none()
        })
        .await;
    }
    let here = scene.dir.path().to_str().unwrap();
    let deleted = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
        let links = links.map(|link| link.to_string_lossy().into_owned());
        links
            .filter(|link| link.starts_with(here) && link.ends_with(" (deleted)"))
            .collect::<Vec<_>>()
    };
    let kept = deleted();
    assert!(kept.len() <= 2, "{kept:#?}");
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

/// What was committed is on the replica, and not only said to be.
async fn durable_is_true(scene: &Scene, backup: &Replication) -> Connection {
    let conn = scene.open();
    insert(&conn, 1);
    durable(backup).await;
    scene.assert_restores();
    conn
}

/// The notice may come later than the question.
#[tokio::test]
async fn what_is_committed_in_a_file_put_in_place_just_now_is_not_said_to_be_safe_before_it_is() {
    let (scene, mut conn) = Scene::with_rows(50);
    let backup = scene.start().await;
    durable(&backup).await;
    for _ in 0..10 {
        insert(&conn, 1);
        drop(conn);
        let other = another();
        std::fs::copy(&other.db, scene.dir.path().join("new.db")).unwrap();
        std::fs::rename(scene.dir.path().join("new.db"), &scene.db).unwrap();
        // Nothing is opened as long as the WAL of the former one is there.
        for suffix in ["-shm", "-wal"] {
            let _ = std::fs::remove_file(scene.dir.path().join(format!("app.db{suffix}")));
        }
        conn = durable_is_true(&scene, &backup).await;
    }
    backup.stop(DEADLINE).await.unwrap();
}

/// Only the directory itself is watched, and so there is no notice.
#[tokio::test]
async fn what_is_committed_below_a_directory_put_in_place_just_now_is_not_said_to_be_safe_before_it_is()
 {
    let mut scene = Scene::new();
    let place = |name: &str| scene.dir.path().join(name);
    let [above, new] = [place("above"), place("new")];
    let put = |number: u32| {
        let copy = new.join("data/app.db");
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(another().db, copy).unwrap();
        let _ = std::fs::rename(&above, place(&format!("former-{number}")));
        std::fs::rename(&new, &above).unwrap();
    };
    put(0);
    scene.db = above.join("data/app.db");
    let backup = scene.start().await;
    let mut conn = durable_is_true(&scene, &backup).await;
    for number in 1..4 {
        drop(conn);
        put(number);
        conn = durable_is_true(&scene, &backup).await;
    }
    drop(conn);
    // Also of what nobody waits for before the end.
    put(4);
    let conn = scene.open();
    insert(&conn, 1);
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn a_directory_that_was_replaced_is_watched_like_the_former_one() {
    let mut scene = Scene::new();
    let (data, new) = (scene.dir.path().join("data"), scene.dir.path().join("new"));
    scene.db = data.join("app.db");
    std::fs::create_dir(&data).unwrap();
    let mut options = ReplicationOptions::default();
    // Nothing is found by looking.
    options.monitor_interval = Duration::from_secs(3_600);
    let replica = replica_options("local", &scene.replica);
    let builder = Replication::builder(&scene.db).options(options);
    let conn = scene.open();
    conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
        .unwrap();
    insert(&conn, 5);
    let backup = builder.replica(replica).build().unwrap();
    backup.start().await.unwrap();
    durable(&backup).await;
    let mut conn = Some(conn);
    for round in 0..2 {
        std::fs::create_dir(&new).unwrap();
        let copy = new.join("app.db");
        let former = conn.take().unwrap();
        former
            .execute("VACUUM INTO ?", [copy.to_str().unwrap()])
            .unwrap();
        drop(former);
        let old = scene.dir.path().join(format!("old{round}"));
        std::fs::rename(&data, old).unwrap();
        std::fs::rename(&new, &data).unwrap();
        let conn = conn.insert(scene.open());
        for _ in 0..3 {
            let before = backup.status();
            insert(conn, 1);
            let captured = |status: &DatabaseStatus| {
                status.replicas[0].txid > before.txid && status.error.is_none()
            };
            until(&backup, captured).await;
        }
    }
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

/// As anybody would who knows that the application has ended, and that SQLite leaves no WAL behind then.
#[tokio::test]
async fn nothing_of_a_former_database_is_played_into_what_was_put_in_its_place() {
    for (restarted, reset) in [(false, false), (false, true), (true, false), (true, true)] {
        let (scene, conn) = Scene::with_rows(50);
        let builder = || {
            let mut options = ReplicationOptions::default();
            options.checkpoint_interval = Duration::from_millis(50);
            let replica = replica_options("local", &scene.replica);
            Replication::builder(&scene.db)
                .options(options)
                .replica(replica)
        };
        let mut backup = builder().build().unwrap();
        backup.start().await.unwrap();
        durable(&backup).await;
        insert(&conn, 20);
        durable(&backup).await;
        if reset {
            let checkpoint = "PRAGMA wal_checkpoint(RESTART)";
            while conn.query_row(checkpoint, [], |row| row.get(0)).unwrap() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            insert(&conn, 1);
            durable(&backup).await;
        }
        drop(conn);
        if restarted {
            backup.stop(DEADLINE).await.unwrap();
        }
        let other = another();
        let put = std::fs::read(&other.db).unwrap();
        let new = scene.dir.path().join("new.db");
        std::fs::write(&new, &put).unwrap();
        std::fs::rename(new, &scene.db).unwrap();
        let error = if restarted {
            backup = builder().build().unwrap();
            backup.start().await.unwrap_err().to_string()
        } else {
            let failing = |status: &DatabaseStatus| status.error.is_some();
            until(&backup, failing).await.error.unwrap()
        };
        assert!(
            error.contains("another file was put in its place") && error.contains("app.db-wal"),
            "{error}"
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(
            std::fs::read(&scene.db).unwrap() == put,
            "it was written to"
        );
        for suffix in ["-shm", "-wal"] {
            let _ = std::fs::remove_file(scene.dir.path().join(format!("app.db{suffix}")));
        }
        if restarted {
            backup.start().await.unwrap();
        }
        goes_on_re_based(&scene, &backup).await;
    }
}

#[tokio::test]
async fn a_deleted_database_is_waited_for_and_continued() {
    let (scene, conn) = Scene::with_rows(50);
    let backup = scene.start().await;
    durable(&backup).await;
    drop(conn);
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(scene.dir.path().join(format!("app.db{suffix}"))).unwrap();
    }
    until(&backup, |status| status.state == DatabaseState::Waiting).await;
    let conn = scene.open();
    conn.execute_batch("CREATE TABLE u (a)").unwrap();
    until(&backup, |status| status.state == DatabaseState::Running).await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

/// SQLite itself goes on with the deleted file; so do we, and nothing is missing on the replica.
#[tokio::test]
async fn a_deleted_wal_is_read_to_its_end() {
    let (scene, conn) = Scene::with_rows(50);
    let backup = scene.start().await;
    durable(&backup).await;
    std::fs::remove_file(wal(&scene)).unwrap();
    insert(&conn, 5);
    durable(&backup).await;
    let rows: i64 = conn
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    let output = scene.dir.path().join("restored.db");
    evertide_testkit::restore_with_litestream(&scene.replica, &output);
    let restored = Connection::open(&output).unwrap();
    let found: i64 = restored
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(found, rows);
    backup.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn leaving_wal_mode_is_refused_by_sqlite_while_replicated() {
    let (scene, conn) = Scene::with_rows(5);
    conn.execute_batch("PRAGMA busy_timeout = 50").unwrap();
    let backup = scene.start().await;
    durable(&backup).await;
    let mode = conn.query_row("PRAGMA journal_mode = DELETE", [], |row| {
        row.get::<_, String>(0)
    });
    assert!(mode.is_err() || mode.is_ok_and(|mode| mode == "wal"));
    insert(&conn, 1);
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn a_database_in_another_mode_is_switched_to_wal() {
    let scene = Scene::new();
    let conn = Connection::open(&scene.db).unwrap();
    conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        .unwrap();
    let backup = scene.start().await;
    insert(&conn, 5);
    let mode: String = conn
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn another_page_size_starts_a_new_snapshot() {
    let (scene, conn) = Scene::with_rows(50);
    let backup = scene.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    conn.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA page_size = 512; VACUUM")
        .unwrap();
    let backup = scene.start().await;
    durable(&backup).await;
    assert_eq!(backup.status().page_size, 512);
    insert(&conn, 5);
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn every_page_size_is_replicated() {
    for page_size in [512, 1_024, 8_192, 65_536] {
        let scene = Scene::new();
        let conn = Connection::open(&scene.db).unwrap();
        conn.execute_batch(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = WAL;
             CREATE TABLE t (a INTEGER PRIMARY KEY, b)"
        ))
        .unwrap();
        let backup = scene.start().await;
        durable(&backup).await;
        insert(&conn, 200);
        backup.stop(DEADLINE).await.unwrap();
        assert_eq!(backup.status().page_size, page_size);
        scene.assert_restores();
    }
}

#[tokio::test]
async fn an_exclusively_locked_database_is_a_clear_error() {
    let scene = Scene::new();
    let conn = Connection::open(&scene.db).unwrap();
    conn.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; CREATE TABLE t (a)",
    )
    .unwrap();
    let error = scene.replication().start().await.unwrap_err().to_string();
    assert!(
        error.contains("app.db") && error.contains("lock"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_that_is_no_database_is_a_clear_error() {
    let scene = Scene::new();
    std::fs::write(
        &scene.db,
        "not a database, but a text of some length".repeat(100),
    )
    .unwrap();
    let error = scene.replication().start().await.unwrap_err().to_string();
    assert!(
        error.contains("app.db") && error.contains("not a database"),
        "{error}"
    );
}

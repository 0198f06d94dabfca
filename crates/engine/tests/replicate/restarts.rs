//! What a restart uploads: at most what changed meanwhile.

use std::os::unix::fs::FileExt;

use evertide::Replication;

use crate::{DEADLINE, Scene, durable, insert, replica_options, until};

/// Pages of 4 KiB that do not compress, so that bytes uploaded count pages.
async fn replicated(rows: u32) -> (Scene, rusqlite::Connection) {
    let (scene, conn) = Scene::with_rows(rows);
    let backup = scene.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    (scene, conn)
}

fn uploaded(before: &[(String, String, u64)], after: &[(String, String, u64)]) -> u64 {
    after
        .iter()
        .filter(|object| !before.contains(object))
        .map(|object| object.2)
        .sum()
}

#[tokio::test]
async fn a_restart_without_changes_uploads_nothing() {
    let (scene, _conn) = replicated(500).await;
    let before = scene.objects();
    for _ in 0..3 {
        let backup = scene.start().await;
        durable(&backup).await;
        backup.stop(DEADLINE).await.unwrap();
    }
    assert_eq!(scene.objects(), before);
}

/// The replica may have all of its snapshot before the engine hears that the database was read.
#[tokio::test]
async fn a_stop_just_when_the_first_snapshot_arrives_costs_no_second_one() {
    for _ in 0..40 {
        let (scene, _conn) = replicated(300).await;
        let before = scene.objects();
        let backup = scene.start().await;
        durable(&backup).await;
        backup.stop(DEADLINE).await.unwrap();
        assert_eq!(scene.objects(), before);
    }
}

#[tokio::test]
async fn a_restart_uploads_the_commits_made_meanwhile_and_no_more() {
    let (scene, conn) = replicated(500).await;
    let before = scene.objects();
    insert(&conn, 3);
    let backup = scene.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    let bytes = uploaded(&before, &scene.objects());
    assert!((1..6 * 4_096).contains(&bytes), "{bytes} bytes");
    assert_eq!(backup.status().rebases, 0);
    scene.assert_restores();
}

/// The application closes: SQLite checkpoints and deletes the WAL behind our back.
#[tokio::test]
async fn a_wal_that_was_deleted_meanwhile_costs_the_pages_that_differ() {
    let (scene, conn) = replicated(500).await;
    let before = scene.objects();
    insert(&conn, 3);
    drop(conn);
    assert!(!scene.dir.path().join("app.db-wal").exists());
    let conn = scene.open();
    let backup = scene.start().await;
    durable(&backup).await;
    assert_eq!(backup.status().rebases, 1, "a re-base is reported");
    let bytes = uploaded(&before, &scene.objects());
    assert!((1..8 * 4_096).contains(&bytes), "{bytes} bytes");
    insert(&conn, 3);
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn a_shrunk_database_is_re_based_without_a_full_upload() {
    let (scene, conn) = replicated(500).await;
    let before = scene.objects();
    conn.execute_batch("DELETE FROM t WHERE a > 490; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let whole = std::fs::metadata(&scene.db).unwrap().len();
    insert(&conn, 1);
    let backup = scene.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    let bytes = uploaded(&before, &scene.objects());
    assert!(bytes < whole * 2, "{bytes} bytes of {whole}");
    scene.assert_restores();
}

#[tokio::test]
async fn losing_the_local_state_costs_one_snapshot_above_what_the_replica_has() {
    let (scene, conn) = replicated(100).await;
    let newest = scene.objects().last().unwrap().1.clone();
    std::fs::remove_dir_all(scene.dir.path().join(".app.db-evertide")).unwrap();
    insert(&conn, 3);
    let backup = scene.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    assert!(
        scene.objects().iter().any(|o| o.0 == "9" && o.1 > newest),
        "{:?}",
        scene.objects()
    );
    scene.assert_restores();
}

/// Every byte class of the local state, damaged: never a wrong backup.
#[tokio::test]
async fn damaged_local_state_is_never_believed() {
    for (file, at) in [
        ("position", 16),
        ("position", 4_096 + 16),
        ("pages", 0),
        ("pages", 80),
    ] {
        let (scene, conn) = replicated(100).await;
        let path = scene.dir.path().join(".app.db-evertide").join(file);
        let state = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let mut byte = [0];
        state.read_exact_at(&mut byte, at).unwrap();
        state.write_all_at(&[!byte[0]], at).unwrap();
        insert(&conn, 3);
        conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
            .unwrap();
        insert(&conn, 3);
        let backup = scene.start().await;
        durable(&backup).await;
        backup.stop(DEADLINE).await.unwrap();
        scene.assert_restores();
    }
}

/// An older copy of the database is put back, with or without its local state.
#[tokio::test]
async fn an_older_copy_of_the_database_continues_above_the_replica() {
    for keep_state in [true, false] {
        let (scene, conn) = Scene::with_rows(50);
        conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
            .unwrap();
        let old = scene.dir.path().join("old.db");
        std::fs::copy(&scene.db, &old).unwrap();
        let backup = scene.start().await;
        durable(&backup).await;
        insert(&conn, 50);
        backup.stop(DEADLINE).await.unwrap();
        drop(conn);
        std::fs::copy(&old, &scene.db).unwrap();
        if !keep_state {
            std::fs::remove_dir_all(scene.dir.path().join(".app.db-evertide")).unwrap();
        }
        let conn = scene.open();
        conn.execute("INSERT INTO t (b) VALUES ('on the old copy')", [])
            .unwrap();
        let backup = scene.start().await;
        durable(&backup).await;
        backup.stop(DEADLINE).await.unwrap();
        scene.assert_restores();
    }
}

#[tokio::test]
async fn a_replica_with_another_history_gets_a_snapshot_above_it() {
    let (scene, _conn) = replicated(50).await;
    let (other, other_conn) = Scene::with_rows(20);
    insert(&other_conn, 20);
    // The other database was replicated elsewhere before, and is now pointed at our replica.
    let backup = other.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    let backup = Replication::builder(&other.db)
        .replica(replica_options("taken", &scene.replica))
        .take_over()
        .build()
        .unwrap();
    backup.start().await.unwrap();
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    let output = scene.dir.path().join("restored.db");
    evertide_testkit::restore_with_litestream(&scene.replica, &output);
    evertide_testkit::assert_same_database(&other.db, &output);
}

#[tokio::test]
async fn a_replica_that_was_emptied_gets_a_snapshot() {
    let (scene, conn) = replicated(50).await;
    std::fs::remove_dir_all(&scene.replica).unwrap();
    insert(&conn, 1);
    let backup = scene.start().await;
    durable(&backup).await;
    until(&backup, |status| status.replicas[0].snapshots == 1).await;
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

//! The application's locks survive whatever replication does in its process. Seen from another
//! process, as only that one shows POSIX locks.

use std::process::Command;

use crate::{DEADLINE, Scene, durable, insert};

/// Whether another process can write to the database.
fn another_process_can_write(scene: &Scene) -> bool {
    const SCRIPT: &str = "import sqlite3, sys
try:
    sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')
except sqlite3.OperationalError as error:
    sys.exit(1 if 'locked' in str(error) else 2)";
    let status = Command::new("python3")
        .args(["-c", SCRIPT])
        .arg(&scene.db)
        .status()
        .unwrap();
    match status.code() {
        Some(0) => true,
        Some(1) => false,
        other => panic!("the other process ended with {other:?}"),
    }
}

#[tokio::test]
async fn a_write_transaction_stays_exclusive_across_start_and_stop() {
    let (scene, conn) = Scene::with_rows(100);
    assert!(another_process_can_write(&scene), "the probe works");
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..2 {
        assert!(!another_process_can_write(&scene));
        let backup = scene.start().await;
        assert!(!another_process_can_write(&scene), "after the start");
        durable(&backup).await;
        assert!(!another_process_can_write(&scene), "after a snapshot");
        backup.stop(DEADLINE).await.unwrap();
        assert!(!another_process_can_write(&scene), "after the stop");
    }
    conn.execute_batch("COMMIT").unwrap();
    assert!(another_process_can_write(&scene));
}

#[tokio::test]
async fn a_failed_start_drops_no_lock() {
    let (scene, conn) = Scene::with_rows(100);
    let backup = scene.start().await;
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(scene.replication().start().await.is_err());
    assert!(!another_process_can_write(&scene));
    conn.execute_batch("COMMIT").unwrap();
    backup.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_read_transaction_keeps_its_snapshot_through_rotations() {
    let (scene, conn) = Scene::with_rows(20);
    let backup = scene.start().await;
    durable(&backup).await;
    let reader = scene.open();
    reader.execute_batch("BEGIN").unwrap();
    let rows = |conn: &rusqlite::Connection| -> i64 {
        conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap()
    };
    let before = rows(&reader);
    for _ in 0..5 {
        insert(&conn, 60);
        durable(&backup).await;
        assert_eq!(rows(&reader), before);
    }
    reader.execute_batch("COMMIT").unwrap();
    assert!(rows(&reader) > before);
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

//! Replication of real databases into file replicas.
#![allow(clippy::disallowed_methods, reason = "tests look at files as they are")]

use std::{path::Path, time::Duration};

use evertide::{DatabaseState, Durability, ReplicaOptions, Replication};
use evertide_storage::Destination;
use rusqlite::Connection;

fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 5000;")
        .unwrap();
    conn
}

fn replication(database: &Path, replica: &Path) -> Replication {
    let _ = tracing_subscriber::fmt()
        .with_test_writer()
        .with_max_level(tracing::Level::DEBUG)
        .try_init();
    let mut options = ReplicaOptions::new("local", Destination::file(replica).unwrap());
    options.sync_interval = Duration::from_millis(20);
    Replication::builder(database)
        .replica(options)
        .rotate_at_frames(50)
        .build()
        .unwrap()
}

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_commit_reaches_the_replica() {
    let dir = tempfile::tempdir().unwrap();
    let (db, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
    let conn = open(&db);
    conn.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
        .unwrap();
    let backup = replication(&db, &replica);
    backup.start().await.unwrap();
    let first = backup.wait_durable(Durability::All).await.unwrap();
    conn.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    let second = backup.wait_durable(Durability::All).await.unwrap();
    assert!(second > first, "{second} after {first}");
    for i in 0..500 {
        conn.execute("INSERT INTO t VALUES (zeroblob(?))", [i * 10])
            .unwrap();
    }
    backup.wait_durable(Durability::All).await.unwrap();
    let status = backup.status();
    assert_eq!(status.state, DatabaseState::Running);
    assert!(status.rotations > 1, "{status:?}");
    backup.stop(DEADLINE).await.unwrap();
    let restored = dir.path().join("restored.db");
    evertide_testkit::restore_with_litestream(&replica, &restored);
    drop(conn);
    evertide_testkit::assert_same_database(&db, &restored);
}

//! The database belongs to the application: nothing of ours is ever in it.

use crate::{DEADLINE, Scene, durable, insert};

fn count(conn: &rusqlite::Connection, sql: &str) -> i64 {
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn replication_adds_no_table_no_page_and_no_frame() {
    let (scene, conn) = Scene::with_rows(100);
    conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let facts = |conn: &rusqlite::Connection| {
        [
            count(conn, "SELECT count(*) FROM sqlite_schema"),
            count(conn, "PRAGMA page_count"),
            count(conn, "PRAGMA schema_version"),
            count(conn, "PRAGMA user_version"),
            count(conn, "PRAGMA data_version"),
        ]
    };
    let bytes = std::fs::read(&scene.db).unwrap();
    let before = facts(&conn);
    let wal = || {
        std::fs::metadata(scene.dir.path().join("app.db-wal"))
            .unwrap()
            .len()
    };
    assert_eq!(wal(), 0);
    for _ in 0..3 {
        let backup = scene.start().await;
        durable(&backup).await;
        backup.stop(DEADLINE).await.unwrap();
    }
    assert_eq!(wal(), 0, "a frame was written to the WAL");
    assert_eq!(facts(&conn), before);
    assert!(
        std::fs::read(&scene.db).unwrap() == bytes,
        "the database file changed"
    );
}

#[tokio::test]
async fn rotation_writes_no_frame_either() {
    let (scene, conn) = Scene::with_rows(10);
    let version = count(&conn, "PRAGMA data_version");
    let backup = scene.start().await;
    durable(&backup).await;
    for _ in 0..10 {
        insert(&conn, 60);
        durable(&backup).await;
    }
    assert!(backup.status().rotations > 0);
    backup.stop(DEADLINE).await.unwrap();
    // Changes with every commit of another connection, whatever it wrote.
    assert_eq!(count(&conn, "PRAGMA data_version"), version);
}

#[tokio::test]
async fn local_state_and_replica_take_no_more_permissions_than_the_database() {
    use std::os::unix::fs::PermissionsExt;
    let (scene, _conn) = Scene::with_rows(10);
    let backup = scene.start().await;
    durable(&backup).await;
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let state = scene.dir.path().join(".app.db-evertide");
    assert_eq!(mode(&state), 0o700);
    for file in ["position", "pages", "lock"] {
        assert_eq!(mode(&state.join(file)), 0o600, "{file}");
    }
    assert_eq!(
        mode(&scene.replica) & !mode(scene.dir.path()),
        0,
        "as the database's directory"
    );
    backup.stop(DEADLINE).await.unwrap();
}

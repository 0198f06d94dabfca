//! Ways in which a backup could claim more than it holds, or stop for ever.

use std::{future::Future, time::Duration};

use evertide::{Durability, Error, Replication};
use rusqlite::Connection;

use crate::{DEADLINE, Scene, durable, insert, replica_options, until};

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

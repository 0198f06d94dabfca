//! The application's locks survive whatever replication does in its process. Seen from another
//! process, as only that one shows POSIX locks.

use std::{fmt::Display, fs::File, sync::Arc};

use evertide::{
    ExistingOutput, RestoreOptions, RestoreTarget, Txid, VerifyDepth, VerifyOptions, restore,
    verify,
};
use evertide_storage::{Destination, OsDisk, ReplicaClient};
use evertide_testkit::{
    another_process_can_truncate, another_process_can_write as can_write,
    another_process_finds_a_lock_of, another_process_finds_it_open, another_process_finds_locked,
};

use crate::{DEADLINE, Scene, durable, insert, replica_options};

fn another_process_can_write(scene: &Scene) -> bool {
    can_write(&scene.db)
}

/// The application is in a write transaction: its locks are there, on the wal-index and on the database file.
#[track_caller]
pub(crate) fn assert_held(scene: &Scene, after: impl Display) {
    assert!(
        !another_process_can_write(scene),
        "another process can write {after}"
    );
    assert!(
        another_process_finds_it_open(&scene.db),
        "the database file is not locked {after}: whoever closes it last deletes the WAL"
    );
}

pub(crate) fn client(scene: &Scene) -> Arc<dyn ReplicaClient> {
    let destination = Destination::file(&scene.replica).unwrap();
    destination.connect(Arc::new(OsDisk)).unwrap()
}

/// The canary: a descriptor that is closed by hand drops the locks of its file, and each is noticed.
#[test]
fn a_file_opened_and_closed_by_hand_fails_these_tests() {
    let (scene, conn) = Scene::with_rows(1);
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_held(&scene, "at first");
    drop(File::open(scene.dir.path().join("app.db-shm")).unwrap());
    assert!(another_process_can_write(&scene));
    assert!(another_process_finds_it_open(&scene.db), "another file");
    drop(File::open(&scene.db).unwrap());
    assert!(!another_process_finds_it_open(&scene.db));
}

#[tokio::test]
async fn a_write_transaction_stays_exclusive_across_start_and_stop() {
    let (scene, conn) = Scene::with_rows(100);
    assert!(another_process_can_write(&scene), "the probe works");
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..2 {
        assert_held(&scene, "before");
        let backup = scene.start().await;
        assert_held(&scene, "after the start");
        durable(&backup).await;
        assert_held(&scene, "after a snapshot");
        backup.stop(DEADLINE).await.unwrap();
        assert_held(&scene, "after the stop");
    }
    conn.execute_batch("COMMIT").unwrap();
    assert!(another_process_can_write(&scene));
}

/// READ(0) of the wal-index: while it is locked no frame is backfilled.
const GUARD: u32 = 123;

#[tokio::test]
async fn after_a_start_that_compared_all_pages_the_empty_wal_is_guarded() {
    let (scene, conn) = Scene::with_rows(20);
    let backup = scene.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    conn.execute_batch("INSERT INTO t (b) VALUES ('unseen')")
        .unwrap();
    drop(conn); // with the last connection goes the WAL
    let conn = scene.open();
    let backup = scene.start().await;
    assert_eq!(backup.status().rebases, 1);
    durable(&backup).await;
    let shm = scene.dir.path().join("app.db-shm");
    assert!(another_process_finds_locked(&shm, GUARD));
    backup.stop(DEADLINE).await.unwrap();
    assert!(
        !another_process_finds_locked(&shm, GUARD),
        "the probe works"
    );
    drop(conn);
    scene.assert_restores();
}

#[tokio::test]
async fn a_failed_start_drops_no_lock() {
    let (scene, conn) = Scene::with_rows(100);
    let backup = scene.start().await;
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(scene.replication().start().await.is_err());
    assert_held(&scene, "after the failure");
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

#[tokio::test]
async fn a_write_transaction_stays_exclusive_through_reload_restore_and_verify() {
    let (scene, conn) = Scene::with_rows(100);
    let backup = scene.start().await;
    durable(&backup).await;
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    let held = |after: &str| assert_held(&scene, format_args!("after {after}"));

    let mut options = backup.options();
    let second = scene.dir.path().join("second");
    options.replicas.push(replica_options("second", &second));
    backup.update(options.clone()).await.unwrap();
    held("a reload that adds a replica");
    options.replicas.truncate(1);
    backup.update(options).await.unwrap();
    held("a reload that removes one");

    let output = scene.dir.path().join("restored.db");
    restore(RestoreOptions::new(client(&scene), &output))
        .await
        .unwrap();
    held("a restore");
    // Onto the database itself, and of a state that there is not.
    let onto_itself = RestoreOptions::new(client(&scene), &scene.db);
    assert!(restore(onto_itself).await.is_err());
    held("a restore that was refused");
    let mut impossible = RestoreOptions::new(client(&scene), &output);
    impossible.existing = ExistingOutput::Replace;
    impossible.target = RestoreTarget::Txid(Txid::new(999));
    assert!(restore(impossible).await.is_err());
    held("a restore that failed");

    for depth in [VerifyDepth::Files, VerifyDepth::Restore] {
        let mut options = VerifyOptions::new(client(&scene));
        options.depth = depth;
        verify(options).await.unwrap();
        held("a verification");
    }
    backup.stop(DEADLINE).await.unwrap();
    held("the stop");
    conn.execute_batch("COMMIT").unwrap();
    assert!(another_process_can_write(&scene));
}

#[tokio::test]
async fn a_reader_keeps_others_from_truncating_the_wal_whatever_came_and_went() {
    let (scene, conn) = Scene::with_rows(20);
    let reader = scene.open();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM t")
        .unwrap();
    insert(&conn, 5);
    for _ in 0..2 {
        let backup = scene.start().await;
        durable(&backup).await;
        backup.stop(DEADLINE).await.unwrap();
        // Only the reader is in the way now.
        assert!(!another_process_can_truncate(&scene.db));
    }
    reader.execute_batch("COMMIT").unwrap();
    assert!(
        another_process_can_truncate(&scene.db),
        "nothing stays locked"
    );
}

/// A reader of the application, and where on the wal-index its lock is: one of READ(1) to READ(4).
struct Reader {
    conn: rusqlite::Connection,
    slot: u32,
    rows: i64,
}

impl Reader {
    /// It reads frames of the WAL that stay the newest ones for nobody but it.
    fn begin(scene: &Scene, writer: &rusqlite::Connection) -> Self {
        let conn = scene.open();
        insert(writer, 1);
        conn.execute_batch("BEGIN").unwrap();
        let rows = rows(&conn);
        let slots: Vec<_> = (GUARD + 1..GUARD + 5)
            .filter(|slot| Self::owner(scene, *slot) == Some(std::process::id().cast_signed()))
            .collect();
        let [slot] = slots[..] else {
            panic!("{slots:?} are locked by connections of this process")
        };
        insert(writer, 1);
        Self { conn, slot, rows }
    }

    fn owner(scene: &Scene, slot: u32) -> Option<i32> {
        another_process_finds_a_lock_of(&scene.dir.path().join("app.db-shm"), slot)
    }

    /// Its lock is there and nobody else's in its place, and it reads what it read before.
    #[track_caller]
    fn assert_held(&self, scene: &Scene, after: impl Display) {
        assert_eq!(
            Self::owner(scene, self.slot),
            Some(std::process::id().cast_signed()),
            "the lock of the reader after {after}"
        );
        assert!(another_process_finds_it_open(&scene.db), "after {after}");
        assert!(!another_process_can_truncate(&scene.db), "after {after}");
        assert_eq!(rows(&self.conn), self.rows, "after {after}");
    }

    fn end(self, scene: &Scene) {
        self.conn.execute_batch("COMMIT").unwrap();
        assert_eq!(Self::owner(scene, self.slot), None, "the probe works");
    }
}

fn rows(conn: &rusqlite::Connection) -> i64 {
    conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap()
}

/// The canary: a descriptor that is closed by hand drops the lock of a reader, too.
#[test]
fn a_wal_index_opened_and_closed_by_hand_lets_others_truncate_under_a_reader() {
    let (scene, conn) = Scene::with_rows(20);
    let reader = Reader::begin(&scene, &conn);
    reader.assert_held(&scene, "its begin");
    drop(File::open(scene.dir.path().join("app.db-shm")).unwrap());
    assert_eq!(Reader::owner(&scene, reader.slot), None);
    assert!(another_process_can_truncate(&scene.db));
}

#[tokio::test]
async fn a_reader_keeps_its_lock_through_reload_restore_verify_and_stop() {
    let (scene, conn) = Scene::with_rows(100);
    let reader = Reader::begin(&scene, &conn);
    let backup = scene.start().await;
    durable(&backup).await;
    reader.assert_held(&scene, "the start");

    let mut options = backup.options();
    let second = scene.dir.path().join("second");
    options.replicas.push(replica_options("second", &second));
    backup.update(options.clone()).await.unwrap();
    durable(&backup).await;
    reader.assert_held(&scene, "a reload that adds a replica");
    options.replicas.truncate(1);
    backup.update(options).await.unwrap();
    reader.assert_held(&scene, "a reload that removes one");

    let output = scene.dir.path().join("restored.db");
    restore(RestoreOptions::new(client(&scene), &output))
        .await
        .unwrap();
    reader.assert_held(&scene, "a restore");
    let onto_itself = RestoreOptions::new(client(&scene), &scene.db);
    assert!(restore(onto_itself).await.is_err());
    reader.assert_held(&scene, "a restore that was refused");
    for depth in [VerifyDepth::Files, VerifyDepth::Restore] {
        let mut options = VerifyOptions::new(client(&scene));
        options.depth = depth;
        verify(options).await.unwrap();
        reader.assert_held(&scene, format_args!("a verification of {depth:?}"));
    }
    assert!(scene.replication().start().await.is_err());
    reader.assert_held(&scene, "a start that was refused");
    // More than makes the WAL start over, which it cannot.
    insert(&conn, 120);
    durable(&backup).await;
    reader.assert_held(&scene, "what would be a rotation");
    backup.stop(DEADLINE).await.unwrap();
    reader.assert_held(&scene, "the stop");
    reader.end(&scene);
    assert!(another_process_can_truncate(&scene.db));
}

//! The application's locks survive whatever replication does in its process. Seen from another
//! process, as only that one shows POSIX locks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use evertide::{
    ExistingOutput, RestoreOptions, RestoreTarget, Txid, VerifyDepth, VerifyOptions, restore,
    verify,
};
use evertide_storage::{Destination, Fault, FaultDisk, OsDisk, ReplicaClient};
use evertide_testkit::{
    another_process_can_truncate, another_process_can_write as can_write,
    another_process_finds_locked,
};
use rusqlite::{Connection, ErrorCode};

use crate::{DEADLINE, Scene, durable, insert, replica_options};

fn another_process_can_write(scene: &Scene) -> bool {
    can_write(&scene.db)
}

fn client(scene: &Scene) -> Arc<dyn ReplicaClient> {
    let destination = Destination::file(&scene.replica).unwrap();
    destination.connect(Arc::new(OsDisk)).unwrap()
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

#[tokio::test]
async fn a_write_transaction_stays_exclusive_through_reload_restore_and_verify() {
    let (scene, conn) = Scene::with_rows(100);
    let backup = scene.start().await;
    durable(&backup).await;
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    let held = |after: &str| assert!(!another_process_can_write(&scene), "after {after}");

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
async fn no_error_of_the_disk_drops_a_lock() {
    let (scene, conn) = Scene::with_rows(20);
    let mut tripped = 0;
    for n in (1..40).step_by(5).chain([100_000]) {
        let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
        disk.fail_at(n, Fault::Forever, 5);
        let backup = scene.builder().disk(disk.clone()).build().unwrap();
        conn.execute_batch("BEGIN IMMEDIATE; INSERT INTO t (b) VALUES (1)")
            .unwrap();
        let started = backup.start().await;
        assert!(!another_process_can_write(&scene), "{n}: after {started:?}");
        if started.is_ok() {
            let wait = backup.wait_durable(evertide::Durability::All);
            let _ = tokio::time::timeout(Duration::from_millis(50), wait).await;
            assert!(
                !another_process_can_write(&scene),
                "{n}: while the disk fails"
            );
            let _ = backup.stop(Duration::from_millis(50)).await;
            assert!(!another_process_can_write(&scene), "{n}: after the stop");
        }
        tripped += u32::from(disk.tripped());
        conn.execute_batch("COMMIT").unwrap();
        assert!(
            another_process_can_write(&scene),
            "{n}: nothing stays locked"
        );
    }
    assert!(tripped > 5, "{tripped} disks failed");
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

/// A thread that does something to the database, again and again; how often it was told "busy".
struct Repeated {
    stop: Arc<AtomicBool>,
    busy: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Repeated {
    fn start(
        conn: Connection,
        work: impl Fn(&Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (busy, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (stopped, busy_count, done_count) = (stop.clone(), busy.clone(), done.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match work(&conn) {
                    Ok(()) => _ = done_count.fetch_add(1, Ordering::Relaxed),
                    Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                        busy_count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
        Self {
            stop,
            busy,
            done,
            thread: Some(thread),
        }
    }

    /// Ends it: how often it worked, and how often it was told "busy".
    fn end(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        (
            self.done.load(Ordering::Relaxed),
            self.busy.load(Ordering::Relaxed),
        )
    }
}

const WRITERS: u32 = 2;
const ROTATE_AT: u32 = 50;
/// What is in the database before: many times what the writers below write between two rotations.
const LARGE: &str = "INSERT INTO t (b) VALUES (zeroblob(160000000))";

#[tokio::test]
async fn no_application_is_told_busy_that_waits_as_recommended_and_no_reader_ever() {
    let (scene, conn) = Scene::with_rows(20);
    conn.execute_batch(LARGE).unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            Repeated::start(scene.open(), |conn| {
                std::thread::sleep(Duration::from_millis(2));
                conn.execute_batch("INSERT INTO t (b) VALUES (randomblob(500))")
            })
        })
        .collect();
    let reader = scene.open();
    reader.busy_timeout(Duration::ZERO).unwrap();
    let reader = Repeated::start(reader, |conn| {
        conn.query_row("SELECT count(*) FROM t", [], |_| Ok(()))
    });
    let (mut rotations, mut most_frames) = (0, 0);
    for _ in 0..4 {
        let backup = scene.builder().rotate_at_frames(ROTATE_AT).build().unwrap();
        backup.start().await.unwrap();
        let wanted = rotations + 3;
        let status = crate::until(&backup, |status| status.rotations >= 3).await;
        rotations += status.rotations;
        assert!(rotations >= wanted);
        backup.stop(DEADLINE).await.unwrap();
        most_frames = most_frames.max(backup.status().most_frames_in_write_hold);
    }
    for writer in writers {
        let (commits, busy) = writer.end();
        assert!(commits > 0 && busy == 0, "{busy} of {commits} commits");
    }
    let (reads, busy) = reader.end();
    assert!(reads > 0 && busy == 0, "{busy} of {reads} reads");
    // Writers wait for some of what was written meanwhile, never for the size of the database.
    let pages: u32 = conn
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap();
    assert!(
        most_frames < pages / 2,
        "{most_frames} of {pages} pages while writers were held"
    );
    let backup = scene.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    eprintln!("{rotations} rotations, at most {most_frames} frames while writers were held");
    scene.assert_restores();
}

//! What applications are told, and what they wait for, while their WAL is made to start over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use evertide::ReplicationBuilder;
use rusqlite::{Connection, ErrorCode, ffi};

use crate::{DEADLINE, Scene, durable, steps::Steps, until};

/// A thread that does something to the database, again and again; how often it was told "busy".
pub(crate) struct Repeated {
    stop: Arc<AtomicBool>,
    busy: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Repeated {
    pub(crate) fn start(
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

    /// How often it has worked.
    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends it: how often it worked, and how often it was told "busy".
    pub(crate) fn end(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        (self.done(), self.busy.load(Ordering::Relaxed))
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
    let mut rotations = 0;
    for _ in 0..4 {
        let backup = scene.builder().rotate_at_frames(ROTATE_AT).build().unwrap();
        backup.start().await.unwrap();
        let wanted = rotations + 3;
        let status = until(&backup, |status| status.rotations >= 3).await;
        rotations += status.rotations;
        assert!(rotations >= wanted);
        backup.stop(DEADLINE).await.unwrap();
    }
    for writer in writers {
        let (commits, busy) = writer.end();
        assert!(commits > 0 && busy == 0, "{busy} of {commits} commits");
    }
    let (reads, busy) = reader.end();
    assert!(reads > 0 && busy == 0, "{busy} of {reads} reads");
    let backup = scene.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    eprintln!("{rotations} rotations");
    scene.assert_restores();
}

/// Frames in the WAL before anybody looks at it.
const BACKLOG: u32 = 5_000;

#[tokio::test]
async fn writers_are_held_for_the_last_frames_of_a_wal_and_never_for_all_of_it() {
    held_for_the_last_frames(|builder| builder.rotate_at_frames(100), 400).await;
}

/// The faster frames come, the larger the WAL gets before it starts over: what writers wait for does not grow with it.
#[tokio::test]
async fn writers_are_held_for_the_last_frames_of_a_wal_whose_size_follows_their_speed() {
    held_for_the_last_frames(|builder| builder, 1_024).await;
}

async fn held_for_the_last_frames(
    policy: impl FnOnce(ReplicationBuilder) -> ReplicationBuilder,
    at_most: u32,
) {
    let (scene, conn) = Scene::with_rows(20);
    let backlog = BACKLOG * 4_096;
    conn.execute_batch(&format!(
        "PRAGMA wal_autocheckpoint = 0; INSERT INTO t (b) VALUES (zeroblob({backlog}))"
    ))
    .unwrap();
    // Each commit waits for the disk, as checkpoints do: however slow it is, few come during one.
    let writers = [(); 2].map(|()| {
        let conn = scene.open();
        conn.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = FULL")
            .unwrap();
        Repeated::start(conn, |conn| {
            conn.execute_batch("INSERT INTO t (b) VALUES (randomblob(500))")
        })
    });
    let backup = policy(scene.builder()).build().unwrap();
    backup.start().await.unwrap();
    let status = until(&backup, |status| {
        status.rotations >= 5 && status.most_frames_in_write_hold > 0
    })
    .await;
    // One of them may get in before the other again and again.
    let each_commits = async {
        while writers.iter().any(|writer| writer.done() == 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, each_commits).await.unwrap();
    for writer in writers {
        assert!(writer.end().0 > 0);
    }
    let most = status.most_frames_in_write_hold;
    eprintln!("at most {most} frames while writers were held");
    assert!(most <= at_most, "{most} frames");
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn writers_are_held_beside_a_long_reader_only_as_often_as_the_wal_grows_by_half() {
    const ROTATE_AT: u32 = 100;
    let (scene, _conn) = Scene::with_rows(20);
    let backup = scene.builder().rotate_at_frames(ROTATE_AT).build().unwrap();
    backup.start().await.unwrap();
    let reader = scene.open();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM t")
        .unwrap();
    let writer = Repeated::start(scene.open(), |conn| {
        conn.execute_batch("INSERT INTO t (b) VALUES (randomblob(500))")
    });
    let status = until(&backup, |status| status.wal_frames >= 100 * ROTATE_AT).await;
    let holds = status.write_holds;
    eprintln!("{holds} holds in {} frames", status.wal_frames);
    // The WAL may have started over just before the reader began.
    let grown = f64::from(status.wal_frames) / f64::from(ROTATE_AT);
    assert!(holds as f64 <= 2.0 + grown.log(1.5), "{holds} holds");
    reader.execute_batch("COMMIT").unwrap();
    until(&backup, |now| now.rotations > status.rotations).await;
    assert!(writer.end().0 > 0);
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn who_does_not_wait_is_told_busy_once_for_each_time_writers_are_held() {
    let (scene, _conn) = Scene::with_rows(20);
    let writer = scene.open();
    writer.busy_timeout(Duration::ZERO).unwrap();
    // What it is told counts once: then it waits until it can write.
    let writer = Repeated::start(writer, |conn| {
        let write = || conn.execute_batch("INSERT INTO t (b) VALUES (randomblob(500))");
        let told = write();
        if told.is_err() {
            conn.busy_timeout(DEADLINE)?;
            write()?;
            conn.busy_timeout(Duration::ZERO)?;
        }
        told
    });
    let mut holds = 0;
    for _ in 0..3 {
        let backup = scene.start().await;
        until(&backup, |status| {
            status.rotations >= 5 && status.write_holds > 0
        })
        .await;
        backup.stop(DEADLINE).await.unwrap();
        holds += backup.status().write_holds;
    }
    let (commits, busy) = writer.end();
    eprintln!("busy {busy} times in {holds} holds and {commits} commits");
    assert!(
        commits > 0 && busy <= holds,
        "busy {busy} times in {holds} holds"
    );
    let backup = scene.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

/// Starts of the backup beside an application that writes and checkpoints in these modes, by itself and without waiting:
/// without a backup it would never be told "busy". How often it was, and how often one of these steps was taken.
async fn told_busy(modes: &'static [&'static str], steps: &[&str]) -> (u64, u64) {
    let (scene, conn) = Scene::with_rows(20);
    let turns = AtomicU64::new(0);
    let application = Repeated::start(conn, move |conn| {
        conn.busy_timeout(DEADLINE)?;
        conn.execute_batch("INSERT INTO t (b) VALUES (randomblob(500))")?;
        let turn = turns.fetch_add(1, Ordering::Relaxed) as usize;
        let sql = format!("PRAGMA wal_checkpoint({})", modes[turn % modes.len()]);
        let is_busy = || conn.query_row(&sql, [], |row| row.get::<_, bool>(0));
        conn.busy_timeout(Duration::ZERO)?;
        if !is_busy()? {
            return Ok(());
        }
        // What it is told counts once: then it asks until it is done.
        let asked = Instant::now();
        while is_busy()? {
            assert!(asked.elapsed() < DEADLINE, "{sql} is never done");
            std::thread::sleep(Duration::from_micros(50));
        }
        let busy = ffi::Error::new(ffi::SQLITE_BUSY);
        Err(rusqlite::Error::SqliteFailure(busy, None))
    });
    for _ in 0..STARTS {
        let backup = scene.start().await;
        until(&backup, |status| status.rotations >= 10).await;
        backup.stop(DEADLINE).await.unwrap();
    }
    let (done, busy) = application.end();
    let ours = Steps::count(&scene.db, steps);
    eprintln!("{modes:?}: busy {busy} times in {ours} steps, {done} times not");
    let backup = scene.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
    (busy, ours)
}

const STARTS: u64 = 2;
/// Attaching takes both locks, too, and keeps them for the first snapshot.
const OTHERS: u64 = 2 * STARTS;

#[tokio::test]
async fn a_checkpoint_that_does_not_wait_is_told_busy_once_for_each_step_of_ours_that_is_in_its_way()
 {
    // Checkpoints of our own; and READ(0), with which no frame is backfilled.
    let mut steps = vec!["Checkpoint", "Insist", "TakeGuard", "TakeBrake"];
    let (busy, ours) = told_busy(&["PASSIVE", "FULL"], &steps).await;
    assert!(ours > 2 * STARTS, "{ours}: are these their names?");
    assert!(busy <= ours + OTHERS, "{busy} times in {ours} steps");
    // And the pin, with which the WAL does not start over.
    steps.push("TakePin");
    let (busy, ours) = told_busy(&["RESTART", "TRUNCATE"], &steps).await;
    assert!(busy <= ours + OTHERS, "{busy} times in {ours} steps");
}

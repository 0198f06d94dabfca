//! An application that opens the database, reads, writes and closes it again, and never waits. Without a backup nobody
//! would be in its way, and where it closes last it deletes the WAL; with one it is told "busy" while writers are held,
//! and at no other time.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use evertide::{DatabaseStatus, Replication};
use evertide_storage::{Disk, FaultDisk, OsDisk};
use evertide_testkit::{another_process_finds_a_lock_of, wait_until};
use rusqlite::{Connection, ErrorCode, ffi};

use crate::{DEADLINE, Scene, durable, replica_options, until};

/// The lock of writers in the wal-index.
const WRITE: u32 = 120;
/// A lock of an open file, as those of a backup are.
const OF_A_BACKUP: Option<i32> = Some(-1);

const STARTS: u64 = 30;

/// What became of all visits.
#[derive(Default, Debug)]
struct Visits {
    visits: u64,
    writes: u64,
    /// Those that closed last: there is no WAL any more.
    closed_last: u64,
    /// Times in a row that a write was refused because the backup held writers, and the most of them.
    held: u64,
    most_held: u64,
    /// How often writers were held when it came.
    holds: u64,
    /// Visits that met somebody who recovered the wal-index.
    recoveries: u64,
    /// What should not have been refused.
    refused: Vec<String>,
}

impl Visits {
    fn expect<T>(&mut self, what: &str, at: &str, outcome: rusqlite::Result<T>) -> Option<T> {
        let failed = |error| self.refused.push(format!("{what} at {at}: {error:?}"));
        outcome.map_err(failed).ok()
    }

    /// So many writes on a connection of its own.
    fn visit(&mut self, db: &Path, writes: u32, at: &str) -> Option<()> {
        self.visits += 1;
        let conn = self.expect("opening", at, Connection::open(db))?;
        self.expect("asking", at, conn.busy_timeout(Duration::ZERO))?;
        let count = || conn.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
        // What it is told counts once: then it waits until the index is there.
        let mut counted = count();
        if counted.as_ref().is_err_and(is_recovering) {
            self.recoveries += 1;
            self.expect("asking", at, conn.busy_timeout(DEADLINE))?;
            counted = count();
            self.expect("asking", at, conn.busy_timeout(Duration::ZERO))?;
        }
        self.expect("reading", at, counted)?;
        for _ in 0..writes {
            self.write(&conn, at)?;
        }
        self.expect("reading again", at, count())?;
        let closed = conn.close().map_err(|(_, error)| error);
        self.expect("closing", at, closed)?;
        let wal = PathBuf::from(format!("{}-wal", db.display()));
        self.closed_last += u64::from(!wal.exists());
        Some(())
    }

    fn write(&mut self, conn: &Connection, at: &str) -> Option<()> {
        let write = || conn.execute_batch("INSERT INTO t (b) VALUES (randomblob(500))");
        let shm = PathBuf::from(format!("{}-shm", conn.path().unwrap()));
        // Who held writers may have let go of them before that is seen.
        for _ in 0..3 {
            match write() {
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                    self.holds += u64::from(self.held == 0);
                    self.held += 1;
                    self.most_held = self.most_held.max(self.held);
                    if another_process_finds_a_lock_of(&shm, WRITE) == OF_A_BACKUP {
                        return Some(());
                    }
                }
                written => {
                    self.held = 0;
                    self.writes += 1;
                    return self.expect("writing", at, written);
                }
            }
        }
        self.expect("writing", at, write())
    }

    /// Whether it was refused nothing but writes, and those no more often than writers were held; and a first look where
    /// a start had to make the wal-index.
    #[track_caller]
    fn assert_refused_only_while_writers_are_held(&self, holds: u64, starts: u64) {
        eprintln!("{self:?} beside {holds} holds");
        assert!(self.recoveries <= starts, "{self:?} in {starts} starts");
        assert!(self.refused.is_empty(), "{:#?}", self.refused);
        assert!(self.holds <= holds, "{self:?} in {holds} holds");
        assert!(self.holds > 0, "no visit while writers were held: {self:?}");
        assert!(self.visits > 100 && self.writes > 100, "{self:?}");
    }
}

fn is_recovering(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    code == Some(ffi::SQLITE_BUSY_RECOVERY)
}

/// Starts, rotates, holds writers, takes and gives up a replica, and stops.
async fn one_life(scene: &Scene, disk: Arc<dyn Disk>) -> DatabaseStatus {
    let backup: Replication = scene
        .builder()
        .rotate_at_frames(50)
        .disk(disk)
        .build()
        .unwrap();
    backup.start().await.unwrap();
    durable(&backup).await;
    until(&backup, |status| {
        status.rotations >= 3 && status.write_holds > 0
    })
    .await;
    let mut options = backup.options();
    let second = scene.dir.path().join("second");
    options.replicas.push(replica_options("second", &second));
    backup.update(options.clone()).await.unwrap();
    durable(&backup).await;
    options.replicas.truncate(1);
    backup.update(options).await.unwrap();
    backup.stop(DEADLINE).await.unwrap();
    backup.status()
}

/// What was written after the last stop, too.
async fn replicate_the_rest(scene: &Scene) {
    let backup = scene.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

#[tokio::test]
async fn at_no_operation_of_a_backup_is_one_refused_who_comes_writes_and_closes_but_while_writers_are_held()
 {
    let (scene, conn) = Scene::with_rows(20);
    drop(conn);
    let visits: Arc<Mutex<Visits>> = Arc::default();
    let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
    let (comes, db) = (Arc::clone(&visits), scene.db.clone());
    disk.call_at_each(move |operation| {
        comes.lock().unwrap().visit(&db, 1, operation);
    });
    let mut holds = 0;
    for _ in 0..2 {
        let status = one_life(&scene, disk.clone()).await;
        assert!(status.most_frames_in_write_hold <= 4 * 50, "{status:?}");
        holds += status.write_holds;
    }
    disk.call_at_each(|_| {});
    let visits = std::mem::take(&mut *visits.lock().unwrap());
    visits.assert_refused_only_while_writers_are_held(holds, 2);
    assert!(visits.closed_last > 20, "it does not close last");
    // Operations, that is: what is done while writers wait.
    assert!(visits.most_held < 100, "held for {}", visits.most_held);
    replicate_the_rest(&scene).await;
}

#[tokio::test]
async fn at_no_time_is_one_refused_who_comes_writes_and_closes_but_while_writers_are_held() {
    let (scene, conn) = Scene::with_rows(20);
    drop(conn);
    let (stop, visits) = (
        Arc::new(AtomicBool::new(false)),
        Arc::<Mutex<Visits>>::default(),
    );
    let (stopped, visiting, db) = (Arc::clone(&stop), Arc::clone(&visits), scene.db.clone());
    let visitor = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            visiting.lock().unwrap().visit(&db, 5, "any time");
            thread::sleep(Duration::from_micros(100));
        }
    });
    let closed_last = || visits.lock().unwrap().closed_last;
    let mut holds = 0;
    for life in 0..STARTS {
        let before = closed_last();
        wait_until(DEADLINE, "it closes last", || closed_last() > before + 1);
        if life % 10 == 0 {
            holds += one_life(&scene, Arc::new(OsDisk)).await.write_holds;
        } else {
            let backup = scene.start().await;
            backup.stop(DEADLINE).await.unwrap();
            holds += backup.status().write_holds;
        }
    }
    stop.store(true, Ordering::Relaxed);
    visitor.join().unwrap();
    let visits = std::mem::take(&mut *visits.lock().unwrap());
    visits.assert_refused_only_while_writers_are_held(holds, STARTS);
    replicate_the_rest(&scene).await;
}

/// A database as a crash leaves it: with a WAL, and no index of it.
fn crashed(scene: &Scene) -> Scene {
    let copy = Scene::new();
    let files = ["app.db", "app.db-wal"].map(|name| scene.dir.path().join(name));
    // By another process: closing the database here would drop its locks.
    let copied = Command::new("cp").args(files).arg(copy.dir.path()).status();
    assert!(copied.unwrap().success());
    copy
}

/// Comes as soon as somebody has begun to make the index of a WAL, and reads; whether it was told "busy", which may only
/// be for that. Who waits is told nothing.
fn comes_during_recovery(db: &Path) -> bool {
    let shm = PathBuf::from(format!("{}-shm", db.display()));
    let begin = Instant::now();
    while !shm.exists() {
        assert!(begin.elapsed() < DEADLINE, "nobody opens the database");
    }
    let conn = Connection::open(db).unwrap();
    let read = || conn.query_row("SELECT count(*) FROM t", [], |_| Ok(()));
    conn.busy_timeout(Duration::ZERO).unwrap();
    let told = read();
    if let Err(error) = &told {
        assert!(is_recovering(error), "{error:?}");
    }
    conn.busy_timeout(DEADLINE).unwrap();
    read().unwrap();
    told.is_err()
}

#[tokio::test]
async fn who_comes_while_a_backup_recovers_a_wal_is_told_so_as_by_any_connection_that_came_first() {
    let (scene, conn) = Scene::with_rows(1);
    let large = "PRAGMA wal_autocheckpoint = 0; INSERT INTO t (b) VALUES (zeroblob(40000000))";
    conn.execute_batch(large).unwrap();
    for first in ["a backup", "a connection"] {
        let mut told = 0;
        // Who comes may be first itself.
        for _ in 0..10 {
            let copy = crashed(&scene);
            let db = copy.db.clone();
            let comes = thread::spawn(move || comes_during_recovery(&db));
            if first == "a backup" {
                copy.start().await.stop(DEADLINE).await.unwrap();
            } else {
                let conn = Connection::open(&copy.db).unwrap();
                conn.busy_timeout(DEADLINE).unwrap();
                conn.query_row("SELECT count(*) FROM t", [], |_| Ok(()))
                    .unwrap();
            }
            told += u32::from(comes.join().unwrap());
            if told > 0 {
                break;
            }
        }
        assert!(told > 0, "nobody is told anything by {first}");
    }
}

/// Another journal mode, and exclusive locks: what only the one connection there is can have.
#[tokio::test]
async fn who_wants_the_database_for_itself_is_refused_beside_a_backup_as_beside_any_connection() {
    const WISHES: [&str; 2] = [
        "PRAGMA journal_mode = DELETE; PRAGMA journal_mode = WAL",
        "PRAGMA locking_mode = EXCLUSIVE; SELECT * FROM t",
    ];
    let (scene, conn) = Scene::with_rows(1);
    let refused = || {
        WISHES.map(|sql| {
            let conn = Connection::open(&scene.db).unwrap();
            conn.busy_timeout(Duration::ZERO).unwrap();
            let told = conn.execute_batch(sql).err();
            told.and_then(|error| error.sqlite_error_code())
        })
    };
    let busy = [Some(ErrorCode::DatabaseBusy); 2];
    assert_eq!(refused(), busy, "beside another connection");
    let backup = scene.start().await;
    durable(&backup).await;
    drop(conn);
    assert_eq!(refused(), busy, "beside a backup");
    backup.stop(DEADLINE).await.unwrap();
    assert_eq!(refused(), [None; 2], "beside nobody");
}

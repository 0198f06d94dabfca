//! Processes that are killed while they write and replicate.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use evertide::Durability;
use evertide_storage::{Disk, OsDisk};
use rusqlite::Connection;

use crate::{
    Restored, Restorer, SHORT_LEASE, Scene, check_rows, count, insert,
    lies::{Lie, LyingDisk},
};

/// The folder that the process to kill works in.
const DIR: &str = "EVERTIDE_FAULTS_DIR";
/// Set where its disk lies.
const LIE: &str = "EVERTIDE_FAULTS_LIE";
const ROUNDS: u64 = 20;
const OFFICIAL_EVERY: u64 = 5;
/// Rows are spread over so many slots of another table, each of which has the newest.
const SLOTS: u32 = 40;

/// Writes, replicates, and says what is durable, until it is killed.
#[tokio::test]
#[ignore = "the process that the tests below start and kill"]
async fn the_process_to_kill() {
    let dir = std::env::var(DIR).expect("started by a test beside this one");
    let scene = Scene {
        lease: SHORT_LEASE,
        ..Scene::at(dir.as_ref())
    };
    let conn = scene.open();
    let disk: Arc<dyn Disk> = match std::env::var(LIE) {
        Ok(_) => Arc::new(LyingDisk::new(Arc::new(OsDisk), Lie::Publish(2))),
        Err(_) => Arc::new(OsDisk),
    };
    let backup = scene.replication(disk);
    backup.start().await.unwrap();
    // Another one in each life.
    let mut rng = fastrand::Rng::with_seed(evertide_testkit::seed() ^ count(&conn).unsigned_abs());
    loop {
        for _ in 0..rng.u32(1..4) {
            write(&conn);
        }
        if rng.u8(..10) == 0 {
            let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][rng.usize(..4)];
            let checkpoint = format!("PRAGMA wal_checkpoint({mode})");
            conn.query_row(&checkpoint, [], |_| Ok(())).unwrap();
        }
        if rng.bool() {
            let rows = count(&conn);
            backup.wait_durable(Durability::All).await.unwrap();
            writeln!(std::io::stdout(), "\ndurable {rows}").unwrap();
        }
    }
}

fn write(conn: &Connection) {
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    insert(conn, 1);
    conn.execute_batch(&format!(
        "INSERT OR REPLACE INTO slots SELECT max(a) % {SLOTS}, max(a), randomblob(900) FROM t;
         COMMIT"
    ))
    .unwrap();
}

/// The scene that a process works in.
fn scene() -> Scene {
    let scene = Scene::new();
    let conn = scene.open();
    conn.execute_batch(
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT);
         CREATE TABLE slots (s INTEGER PRIMARY KEY, a INTEGER, b BLOB)",
    )
    .unwrap();
    scene
}

/// Runs a process for a while and kills it. The rows that it was told are durable.
fn run_and_kill(scene: &Scene, lifetime: Duration, lie: Option<&str>) -> i64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "kills::the_process_to_kill"])
        .args(["--ignored", "--nocapture", "--quiet"])
        .env(DIR, &scene.dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(lie) = lie {
        command.env(LIE, lie);
    }
    let mut child = command.spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let lines = std::thread::spawn(move || {
        let lines = output.split(b'\n').map_while(Result::ok);
        lines
            .filter_map(|line| {
                let line = String::from_utf8(line).ok()?;
                line.strip_prefix("durable ")?.parse().ok()
            })
            .last()
    });
    std::thread::sleep(lifetime);
    assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
    child.kill().unwrap();
    child.wait().unwrap();
    lines.join().unwrap().unwrap_or_default()
}

/// Whether a restored database has at least these rows, and is what it was after some commit.
fn check_prefix(restored: &Restored, durable: i64) -> Result<(), String> {
    check_rows(restored, durable)?;
    let conn = Connection::open(&restored.0).unwrap();
    let sql = "SELECT count(*) FROM slots
               WHERE a <> (SELECT max(a) FROM t WHERE t.a % ?1 = slots.s)";
    let torn: i64 = conn.query_row(sql, [SLOTS], |row| row.get(0)).unwrap();
    match torn {
        0 => Ok(()),
        torn => Err(format!("{torn} slots are of another commit")),
    }
}

#[tokio::test]
async fn a_killed_process_takes_nothing_with_it_that_it_was_told_is_durable() {
    let rounds = std::env::var("EVERTIDE_KILLS");
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let mut rng = fastrand::Rng::with_seed(evertide_testkit::seed());
    let scene = scene();
    let (mut durable, mut states) = (0, 1);
    for round in 0..rounds {
        let lifetime = Duration::from_millis(rng.u64(10..400));
        durable = durable.max(run_and_kill(&scene, lifetime, None));
        if durable > 0 {
            let restorer = Restorer::official_every(OFFICIAL_EVERY, round);
            let restored = scene.restore(restorer).await;
            let checked = restored.and_then(|restored| check_prefix(&restored, durable));
            assert_eq!(checked, Ok(()), "round {round} after {lifetime:?}");
        }
        scene.check_ranges().unwrap();
        // One that was killed at once may have made none.
        if rng.u8(..6) == 0 && scene.state().exists() {
            // The next one starts with a snapshot.
            std::fs::remove_dir_all(scene.state()).unwrap();
            states += 1;
        }
    }
    let snapshots = scene.ranges(9).len();
    println!("{snapshots} snapshots from {states} states");
    assert!(snapshots <= states, "a restart after a kill resumes");
    let conn = scene.open();
    println!("{rounds} kills, {durable} of {} rows durable", count(&conn));
    assert!(durable > 0);
    scene.recover(&conn, Restorer::Official).await.unwrap();
}

/// The canary: the second object is never stored.
#[tokio::test]
async fn a_lost_object_fails_the_test_above() {
    let scene = scene();
    let mut durable = 0;
    while durable < 10 {
        std::fs::remove_dir_all(&scene.replica).unwrap_or_default();
        durable = run_and_kill(&scene, Duration::from_millis(600), Some("publish"));
    }
    let restored = scene.restore(Restorer::Own).await;
    let checked = restored.and_then(|restored| check_prefix(&restored, durable));
    assert!(checked.is_err());
}

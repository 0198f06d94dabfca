//! Processes that kill themselves before an operation on files: each step of capture, rotation, upload, lease,
//! compaction, snapshots, retention, stop, restart and restore has one before it.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use evertide::{Durability, ReplicaOptions, Replication, RestoreOptions};
use evertide_storage::{Destination, Disk, FaultDisk, OsDisk};
use futures_util::{StreamExt, stream};
use nix::sys::signal::{Signal, raise};
use rusqlite::Connection;

use crate::{DEADLINE, ROTATE_AT, Restorer, SHORT_LEASE, Scene, check_rows, count, insert};

/// The folder that the process works in.
const DIR: &str = "EVERTIDE_POINTS_DIR";
/// The operation that it dies before.
const POINT: &str = "EVERTIDE_POINT";
/// In each test run; `EVERTIDE_POINTS` says how many more.
const POINTS: usize = 12;
/// Processes at a time: they wait more than they work.
const PARALLEL: usize = 4;

fn replication(scene: &Scene, disk: Arc<dyn Disk>) -> Replication {
    let ms = Duration::from_millis;
    let destination = Destination::file(&scene.replica).unwrap();
    let mut options = ReplicaOptions::new("local", destination);
    options.sync_interval = ms(1);
    options.lease_duration = SHORT_LEASE;
    options.levels = vec![ms(40), ms(120)];
    options.level_0_retention = ms(30);
    options.snapshot_interval = ms(200);
    options.retention = Some(ms(100));
    options.retention_check_interval = ms(20);
    Replication::builder(&scene.db)
        .replica(options)
        .rotate_at_frames(ROTATE_AT)
        .disk(disk)
        .build()
        .unwrap()
}

fn say(what: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout();
    writeln!(out, "\n{what}")
        .and_then(|()| out.flush())
        .unwrap();
}

#[tokio::test]
#[ignore = "the process that the test below starts, and that kills itself"]
async fn the_process_that_dies() {
    let dir = std::env::var(DIR).expect("started by the test below");
    let point: u64 = std::env::var(POINT).unwrap().parse().unwrap();
    let scene = Scene::at(dir.as_ref());
    let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
    disk.call_at(point, |operation| {
        say(format_args!("dies before {operation}"));
        raise(Signal::SIGKILL).unwrap();
    });
    let conn = scene.open();
    for _ in 0..2 {
        let backup = replication(&scene, Arc::clone(&disk) as Arc<dyn Disk>);
        backup.start().await.unwrap();
        for _ in 0..6 {
            insert(&conn, 5);
            backup.wait_durable(Durability::All).await.unwrap();
            say(format_args!("durable {}", count(&conn)));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        backup.stop(DEADLINE).await.unwrap();
    }
    let destination = Destination::file(&scene.replica).unwrap();
    let client = destination
        .connect(Arc::clone(&disk) as Arc<dyn Disk>)
        .unwrap();
    let mut restore = RestoreOptions::new(client, scene.dir.join("copy.db"));
    restore.disk = Arc::clone(&disk) as Arc<dyn Disk>;
    evertide::restore(restore).await.unwrap();
    say(format_args!("operations {}", disk.operations()));
}

/// How a process ended.
#[derive(Clone, Default, Debug)]
struct Life {
    /// Before which operation it died.
    died: Option<String>,
    /// Rows that it was told are durable.
    durable: i64,
    operations: u64,
}

fn live(dir: &Path, point: u64) -> Life {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "points::the_process_that_dies"])
        .args(["--ignored", "--nocapture", "--quiet"])
        .env(DIR, dir)
        .env(POINT, point.to_string())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = |name: &str| said.lines().rev().find_map(|line| line.strip_prefix(name));
    let number = |name: &str| last(name).map_or(0, |number| number.parse().unwrap());
    let life = Life {
        died: last("dies before ").map(str::to_owned),
        durable: number("durable "),
        operations: number("operations ") as u64,
    };
    assert_eq!(output.status.success(), life.died.is_none(), "{said}");
    life
}

/// Whatever was durable is there, and the next start makes the backup whole again.
async fn die_at(point: u64) -> Result<Life, String> {
    let scene = Scene {
        lease: SHORT_LEASE,
        ..Scene::new()
    };
    let conn = scene.open();
    conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        .unwrap();
    let dir = scene.dir.clone();
    let lived = tokio::task::spawn_blocking(move || live(&dir, point));
    let life = lived.await.unwrap();
    let failed = |what: String| format!("point {point}, {life:?}: {what}");
    if life.durable > 0 {
        let restored = scene.restore(Restorer::official_every(8, point)).await;
        let checked = restored.and_then(|restored| check_rows(&restored, life.durable));
        checked.map_err(failed)?;
    }
    let copy = scene.dir.join("copy.db");
    if copy.exists() {
        // A restore that was killed leaves nothing or all of it.
        let restored = Connection::open(&copy).unwrap();
        assert_eq!(count(&restored), count(&conn), "{life:?}");
    }
    clean_up(&scene, &conn).await.map_err(failed)?;
    scene.recover(&conn, Restorer::Own).await.map_err(failed)?;
    Ok(life)
}

/// Goes on until an object was stored in every folder, which cleans it.
async fn clean_up(scene: &Scene, conn: &Connection) -> Result<(), String> {
    let backup = replication(scene, Arc::new(OsDisk));
    backup.start().await.map_err(|error| error.to_string())?;
    let cleaning = async {
        while !scene.strays().is_empty() {
            insert(conn, 1);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    if tokio::time::timeout(DEADLINE, cleaning).await.is_err() {
        return Err(format!("left behind: {:?}", scene.strays()));
    }
    let stopped = backup.stop(DEADLINE).await;
    stopped.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_process_killed_before_any_operation_on_files_loses_nothing_that_was_durable() {
    let whole = die_at(u64::MAX).await.unwrap();
    assert_eq!(whole.died, None);
    let given = std::env::var("EVERTIDE_POINTS").ok();
    let points = given.map_or(POINTS, |points| points.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let mut all: Vec<u64> = (1..=whole.operations).collect();
    random.shuffle(&mut all);
    all.truncate(points);
    let lives: Vec<_> = stream::iter(all)
        .map(die_at)
        .buffered(PARALLEL)
        .collect()
        .await;
    let failures: Vec<&String> = lives
        .iter()
        .filter_map(|life| life.as_ref().err())
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
    let died: Vec<_> = lives
        .iter()
        .flatten()
        .filter_map(|life| life.died.clone())
        .collect();
    println!(
        "{} of {} operations, dead before {died:?}",
        lives.len(),
        whole.operations
    );
    // How many operations there are depends on how quick everything is.
    assert!(died.len() * 2 > lives.len());
}

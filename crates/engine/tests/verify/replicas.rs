//! Replicas written by the real programs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use evertide::{Durability, ReplicaOptions, Replication};
use evertide_storage::Destination;
use evertide_testkit::{
    AutoVacuum, DatabaseOptions, TempDir, Writer, WriterOptions, create_database,
    litestream_command, temp_dir,
};
use rusqlite::Connection;

/// A folder with a database and its replica.
pub(crate) struct Scene {
    pub(crate) dir: TempDir,
    pub(crate) db: PathBuf,
    pub(crate) replica: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let dir = temp_dir();
        let (db, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
        Self { dir, db, replica }
    }
}

fn writer(db: &Path, page_size: u32, seed: u64) -> Writer {
    let options = DatabaseOptions {
        page_size,
        auto_vacuum: AutoVacuum::Full,
    };
    create_database(db, options).unwrap();
    Writer::open(db, WriterOptions::seeded(seed)).unwrap()
}

/// What our engine makes of a few transactions, with a second snapshot on top of everything.
pub(crate) async fn of_evertide() -> Scene {
    let scene = Scene::new();
    let conn = Connection::open(&scene.db).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
        .unwrap();
    let backup = replication(&scene.db, &scene.replica);
    backup.start().await.unwrap();
    for _ in 0..5 {
        conn.execute("INSERT INTO t (b) VALUES (randomblob(9000))", [])
            .unwrap();
        backup.wait_durable(Durability::All).await.unwrap();
    }
    conn.execute_batch("DELETE FROM t WHERE a < 4; VACUUM")
        .unwrap();
    backup.wait_durable(Durability::All).await.unwrap();
    backup.stop(Duration::from_secs(60)).await.unwrap();
    scene
}

pub(crate) fn replication(db: &Path, replica: &Path) -> Replication {
    let mut options = ReplicaOptions::new("local", Destination::file(replica).unwrap());
    options.sync_interval = Duration::from_millis(1);
    Replication::builder(db).replica(options).build().unwrap()
}

/// What Litestream makes of a database that is written to all the time: levels and snapshots.
pub(crate) fn of_litestream(page_size: u32, seed: u64, rounds: u32) -> Scene {
    let scene = Scene::new();
    let mut writer = writer(&scene.db, page_size, seed);
    let config = scene.dir.path().join("litestream.yml");
    let settings = format!(
        "levels:\n  - interval: 1s\n  - interval: 3s\nsnapshot:\n  interval: 2s\ndbs:\n  \
         - path: {}\n    monitor-interval: 50ms\n    replica:\n      path: {}\n      \
         sync-interval: 50ms\n",
        scene.db.display(),
        scene.replica.display(),
    );
    fs::write(&config, settings).unwrap();
    let log = fs::File::create(scene.dir.path().join("litestream.log")).unwrap();
    let mut litestream = litestream_command()
        .args(["replicate", "-config"])
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    for _ in 0..rounds {
        writer.run_steps(8).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(writer);
    std::thread::sleep(Duration::from_millis(500));
    // Litestream writes what is left when it is interrupted.
    let id = litestream.id().to_string();
    let killed = Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(killed.success());
    litestream.wait().unwrap();
    scene
}

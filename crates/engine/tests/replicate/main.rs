//! Replication of real databases into file replicas, restored by the official Litestream.
#![allow(clippy::disallowed_methods, reason = "tests look at files as they are")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod busy;
mod changes;
mod clocks;
mod failures;
mod footprint;
mod gate;
mod lifecycle;
mod load;
mod locks;
mod outages;
mod restarts;
mod review;
mod snapshots;
mod steps;
mod visits;
mod writers;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use evertide::{DatabaseStatus, Durability, ReplicaOptions, Replication, ReplicationBuilder};
use evertide_storage::Destination;
use rusqlite::Connection;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use steps::Steps;

/// Long enough for anything here; reaching it is a failure.
const DEADLINE: Duration = Duration::from_secs(60);

/// A folder with a database, its application's connection, and a replica.
struct Scene {
    dir: tempfile::TempDir,
    db: PathBuf,
    replica: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let shown = std::env::var("EVERTIDE_LOG").unwrap_or_else(|_| "warn".into());
        let shown = tracing_subscriber::fmt::layer()
            .with_test_writer()
            .with_filter(EnvFilter::new(shown));
        let _ = tracing_subscriber::registry()
            .with(shown)
            .with(Steps::layer())
            .try_init();
        let dir = tempfile::tempdir().unwrap();
        let (db, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
        Self { dir, db, replica }
    }

    /// A scene with a table `t` of a few rows.
    fn with_rows(rows: u32) -> (Self, Connection) {
        let scene = Self::new();
        let conn = scene.open();
        conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
            .unwrap();
        insert(&conn, rows);
        (scene, conn)
    }

    fn open(&self) -> Connection {
        let conn = Connection::open(&self.db).unwrap();
        conn.execute_batch(
            "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL",
        )
        .unwrap();
        conn
    }

    fn builder(&self) -> ReplicationBuilder {
        Replication::builder(&self.db).replica(replica_options("local", &self.replica))
    }

    fn replication(&self) -> Replication {
        self.builder().rotate_at_frames(50).build().unwrap()
    }

    async fn start(&self) -> Replication {
        let backup = self.replication();
        backup.start().await.unwrap();
        backup
    }

    /// Restores with the official program and compares with the database.
    fn assert_restores(&self) {
        let output = self
            .dir
            .path()
            .join(format!("restored-{}.db", fastrand::u64(..)));
        evertide_testkit::restore_with_litestream(&self.replica, &output);
        evertide_testkit::assert_same_database(&self.db, &output);
    }

    /// The LTX files of the replica: level, name, size in bytes.
    fn objects(&self) -> Vec<(String, String, u64)> {
        let mut objects = Vec::new();
        let root = self.replica.join("ltx");
        for level in std::fs::read_dir(root)
            .into_iter()
            .flatten()
            .map(Result::unwrap)
        {
            for file in std::fs::read_dir(level.path()).unwrap().map(Result::unwrap) {
                let level = level.file_name().into_string().unwrap();
                let name = file.file_name().into_string().unwrap();
                objects.push((level, name, file.metadata().unwrap().len()));
            }
        }
        objects.sort();
        objects
    }
}

fn replica_options(name: &str, path: &Path) -> ReplicaOptions {
    let mut options = ReplicaOptions::new(name, Destination::file(path).unwrap());
    options.sync_interval = Duration::from_millis(20);
    options
}

fn insert(conn: &Connection, rows: u32) {
    for size in 0..rows {
        conn.execute(
            "INSERT INTO t (b) VALUES (randomblob(?))",
            [size * 37 % 2_000],
        )
        .unwrap();
    }
}

async fn durable(backup: &Replication) {
    tokio::time::timeout(DEADLINE, backup.wait_durable(Durability::All))
        .await
        .unwrap()
        .unwrap();
}

async fn until(
    backup: &Replication,
    wanted: impl FnMut(&DatabaseStatus) -> bool,
) -> DatabaseStatus {
    match tokio::time::timeout(DEADLINE, backup.wait_for(wanted)).await {
        Ok(status) => status,
        Err(_) => panic!("never came: {:#?}", backup.status()),
    }
}

//! A database, its replica, and a directory for drills.

use std::{
    fs, io,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use evertide::{
    DatabaseStatus, DrillStatus, Durability, ReplicaOptions, Replication, ReplicationBuilder,
};
use evertide_storage::Destination;
use rusqlite::Connection;
use tracing_subscriber::fmt::MakeWriter;

/// Long enough for anything here; reaching it is a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// So slow that what is read with it never ends.
pub(crate) const STUCK: NonZeroU64 = NonZeroU64::MIN;

pub(crate) struct Scene {
    _dir: tempfile::TempDir,
    pub(crate) db: PathBuf,
    pub(crate) replica: PathBuf,
    pub(crate) drills: PathBuf,
    pub(crate) conn: Connection,
}

impl Scene {
    pub(crate) fn new() -> Self {
        logs();
        let dir = evertide_testkit::temp_dir();
        let path = |name| dir.path().join(name);
        let (db, replica, drills) = (path("app.db"), path("replica"), path("drills"));
        fs::create_dir(&drills).unwrap();
        let conn = Connection::open(&db).unwrap();
        conn.execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB);
             INSERT INTO t (b) VALUES (randomblob(50000))",
        )
        .unwrap();
        Self {
            _dir: dir,
            db,
            replica,
            drills,
            conn,
        }
    }

    /// One replica with drills that follow each other closely. Nothing is compacted: it could stand in for what a
    /// test damages.
    pub(crate) fn options(&self) -> ReplicaOptions {
        let mut options = ReplicaOptions::new("local", Destination::file(&self.replica).unwrap());
        options.levels = Vec::new();
        options.sync_interval = Duration::from_millis(1);
        options.drill_interval = Some(Duration::from_millis(20));
        options.drill_directory = Some(self.drills.clone());
        options
    }

    pub(crate) fn builder(&self, options: ReplicaOptions) -> ReplicationBuilder {
        Replication::builder(&self.db).replica(options)
    }

    pub(crate) async fn start(&self, options: ReplicaOptions) -> Replication {
        let backup = self.builder(options).build().unwrap();
        backup.start().await.unwrap();
        backup
    }

    pub(crate) async fn commit(&self, backup: &Replication) {
        self.conn
            .execute("INSERT INTO t (b) VALUES (randomblob(3000))", [])
            .unwrap();
        durable(backup).await;
    }

    /// Waits until nothing of a drill is left.
    pub(crate) fn nothing_is_left(&self) {
        let left = || fs::read_dir(&self.drills).unwrap().count();
        evertide_testkit::wait_until(DEADLINE, "nothing is left", || left() == 0);
    }
}

pub(crate) async fn durable(backup: &Replication) {
    let durable = backup.wait_durable(Durability::All);
    let waited = tokio::time::timeout(DEADLINE, durable).await;
    waited.unwrap().unwrap();
}

pub(crate) async fn stop(backup: &Replication) {
    backup.stop(DEADLINE).await.unwrap();
}

pub(crate) fn drill(status: &DatabaseStatus) -> DrillStatus {
    status.replicas[0].drill.clone()
}

/// Waits until drills have found out what is wanted.
pub(crate) async fn until(
    backup: &Replication,
    mut wanted: impl FnMut(&DrillStatus) -> bool,
) -> DrillStatus {
    drill(&until_status(backup, |status| wanted(&status.replicas[0].drill)).await)
}

/// Waits until the status of the database is as wanted.
pub(crate) async fn until_status(
    backup: &Replication,
    wanted: impl FnMut(&DatabaseStatus) -> bool,
) -> DatabaseStatus {
    match tokio::time::timeout(DEADLINE, backup.wait_for(wanted)).await {
        Ok(status) => status,
        Err(_) => panic!("never came: {:#?}", backup.status()),
    }
}

/// The snapshots of a replica.
pub(crate) fn snapshots(replica: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(replica.join("ltx/9")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// What was logged by all tests of this process so far.
pub(crate) fn logged() -> String {
    let log = logs().0.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8(log.clone()).unwrap()
}

#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

fn logs() -> &'static Logs {
    static LOGS: OnceLock<Logs> = OnceLock::new();
    LOGS.get_or_init(|| {
        let logs = Logs::default();
        let subscriber = tracing_subscriber::fmt().with_ansi(false);
        let subscriber = subscriber.with_env_filter("info").with_writer(logs.clone());
        subscriber.init();
        logs
    })
}

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

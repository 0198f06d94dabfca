//! Replication on disks that fail, lose power and lie, and in processes that are killed: what was
//! reported durable can be restored, what is not replicated is reported, and the next start on a
//! healthy disk makes the backup whole again.
//!
//! The database itself is SQLite's. What fails here is everything else: position, page table,
//! staged files, and a file replica.
#![allow(clippy::disallowed_methods, reason = "tests look at files as they are")]
#![allow(
    clippy::print_stdout,
    reason = "seeds and counts belong to the output of a test"
)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod crashes;
mod descriptors;
mod fail;
mod full;
mod kills;
mod lies;
mod local_state;
mod locks;
mod points;
mod rights;
mod room;
mod system_calls;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use evertide::{Durability, ReplicaOptions, Replication, RestoreOptions};
use evertide_storage::{Destination, Disk, OsDisk};
use evertide_testkit::WebdavServer;
use rusqlite::Connection;

/// Long enough for anything here; reaching it is a failure.
const DEADLINE: Duration = Duration::from_secs(20);
/// For those who lose what says that a lease is their own, and have to wait until it ends.
const SHORT_LEASE: Duration = Duration::from_millis(200);
/// Small, so that WALs start over within a few commits.
const ROTATE_AT: u32 = 12;

/// Who restores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Restorer {
    /// The official Litestream.
    Official,
    /// Ourselves, which is quicker.
    Own,
}

impl Restorer {
    /// The official program for every `n`-th of many runs.
    fn official_every(n: u64, run: u64) -> Self {
        if run.is_multiple_of(n) {
            Self::Official
        } else {
            Self::Own
        }
    }
}

/// A folder with a database, the local state beside it, and a replica.
struct Scene {
    dir: PathBuf,
    db: PathBuf,
    replica: PathBuf,
    /// How long the lease of the replica lasts.
    lease: Duration,
    /// The server whose share has the replica; without one it is a folder of this machine.
    share: Option<Arc<WebdavServer>>,
    /// Deletes the folder in the end.
    _temporary: Option<tempfile::TempDir>,
}

impl Scene {
    fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    fn within(temporary: tempfile::TempDir) -> Self {
        let filter = std::env::var("EVERTIDE_LOG").unwrap_or_else(|_| "off".into());
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter(filter)
            .try_init();
        let scene = Self::at(temporary.path());
        Self {
            _temporary: Some(temporary),
            ..scene
        }
    }

    /// The scene in a folder of somebody else.
    fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            db: dir.join("app.db"),
            replica: dir.join("replica"),
            lease: Duration::from_secs(120),
            share: None,
            _temporary: None,
        }
    }

    /// A scene whose replica is on this share, in a folder of its own.
    fn on(share: Arc<WebdavServer>) -> Self {
        let scene = Self::new();
        let name = format!("replica-{}", fastrand::u64(..));
        Self {
            replica: share.folder().join(name),
            share: Some(share),
            ..scene
        }
    }

    /// A scene with a table `t` of a few rows.
    fn with_rows(rows: u32) -> (Self, Connection) {
        let scene = Self::new();
        let conn = scene.fill(rows);
        (scene, conn)
    }

    fn fill(&self, rows: u32) -> Connection {
        let conn = self.open();
        conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
            .unwrap();
        insert(&conn, rows);
        conn
    }

    /// The same database with another replica.
    fn second(&self) -> Self {
        Self {
            replica: self.dir.join("second"),
            lease: self.lease,
            ..Self::at(&self.dir)
        }
    }

    fn open(&self) -> Connection {
        let conn = Connection::open(&self.db).unwrap();
        conn.execute_batch(
            "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF",
        )
        .unwrap();
        conn
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("app.db{suffix}"))
    }

    fn state(&self) -> PathBuf {
        self.dir.join(".app.db-evertide")
    }

    /// Copies the database and its WAL, by another process: closing them here would drop locks.
    fn copy_database(&self, to: &Path) {
        let files = [self.beside(""), self.beside("-wal")];
        let copied = Command::new("cp").args(files).arg(to).status();
        assert!(copied.unwrap().success());
    }

    /// Puts copies back, in place: the database stays the same file. Nobody has it open.
    fn put_database_back(&self, from: &Path) {
        let _ = std::fs::remove_file(self.beside("-shm"));
        for suffix in ["", "-wal"] {
            let content = std::fs::read(from.join(format!("app.db{suffix}"))).unwrap();
            let mut file = std::fs::File::create(self.beside(suffix)).unwrap();
            file.write_all(&content).unwrap();
        }
    }

    /// A replica in this folder, with the default intervals of maintenance.
    fn replica_options(&self, folder: &Path) -> ReplicaOptions {
        let name = file_name(folder);
        let destination = match &self.share {
            Some(server) => Destination::parse(&format!("webdav://{}/{name}", server.address())),
            None => Destination::file(folder),
        };
        let mut options = ReplicaOptions::new(name, destination.unwrap());
        options.sync_interval = Duration::from_millis(1);
        options.lease_duration = self.lease;
        options
    }

    /// With intervals so short that compaction, snapshots and retention all come within a moment.
    fn maintained_options(&self, folder: &Path) -> ReplicaOptions {
        let ms = Duration::from_millis;
        let mut options = self.replica_options(folder);
        options.levels = vec![ms(40), ms(120)];
        options.level_0_retention = ms(30);
        options.snapshot_interval = ms(200);
        options.retention = Some(ms(100));
        options.retention_check_interval = ms(20);
        options
    }

    fn replication(&self, disk: Arc<dyn Disk>) -> Replication {
        self.replicating(self.replica_options(&self.replica), disk)
    }

    fn maintained(&self, disk: Arc<dyn Disk>) -> Replication {
        self.replicating(self.maintained_options(&self.replica), disk)
    }

    fn replicating(&self, options: ReplicaOptions, disk: Arc<dyn Disk>) -> Replication {
        Replication::builder(&self.db)
            .replica(options)
            .rotate_at_frames(ROTATE_AT)
            .disk(disk)
            .build()
            .unwrap()
    }

    /// Restores the replica to a new file.
    async fn restore(&self, restorer: Restorer) -> Result<Restored, String> {
        let name = format!("restored-{}.db", fastrand::u64(..));
        let path = self.dir.join(name);
        match restorer {
            Restorer::Official => {
                evertide_testkit::try_restore_with_litestream(&self.replica, &path)
                    .map_err(|error| error.to_string())?;
            }
            Restorer::Own => {
                let destination = Destination::file(&self.replica).unwrap();
                let client = destination.connect(Arc::new(OsDisk)).unwrap();
                evertide::restore(RestoreOptions::new(client, &path))
                    .await
                    .map_err(|error| error.to_string())?;
            }
        }
        Ok(Restored(path))
    }

    /// Whether a restore gives the database as it is now.
    async fn check_restore(&self, restorer: Restorer) -> Result<(), String> {
        let restored = self.restore(restorer).await?;
        evertide_testkit::compare_databases(&self.db, &restored.0)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// What must be true after any fault, once a healthy process has replicated again: one more
    /// commit is durable, a restore gives the database, and nothing is left lying about.
    async fn recover(&self, conn: &Connection, restorer: Restorer) -> Result<(), String> {
        self.replicate_one_more_commit(conn).await?;
        self.check_restore(restorer).await?;
        self.check_ranges()?;
        // Before the local state is wiped below.
        let local = [self.strays_of_the_state(), self.strays_of_restores()].concat();
        if !local.is_empty() {
            return Err(format!("left behind on this machine: {local:?}"));
        }
        if self.strays_of_the_replica().is_empty() {
            return Ok(());
        }
        // A folder of the replica is cleaned before the next object is stored there, so have one
        // stored in each.
        std::fs::remove_dir_all(self.state()).unwrap();
        self.replicate_one_more_commit(conn).await?;
        self.replicate_one_more_commit(conn).await?;
        let strays = self.strays();
        // Compaction stores an object in a folder of its own when a window of it ends.
        let of_compaction = |stray: &PathBuf| {
            let levels = ["1", "2"].map(|level| self.replica.join("ltx").join(level));
            levels.iter().any(|level| stray.starts_with(level))
        };
        if !strays.iter().all(of_compaction) {
            return Err(format!(
                "left behind for ever: {strays:?}; level 0 has {:?}, snapshots {:?}",
                self.ranges(0),
                self.ranges(9)
            ));
        }
        match strays.is_empty() {
            true => Ok(()),
            false => self.clean_up(conn).await,
        }
    }

    /// Goes on, with a maintained replica, until an object was stored in every folder that was left with
    /// something superfluous, which cleans it.
    async fn clean_up(&self, conn: &Connection) -> Result<(), String> {
        let backup = self.maintained(Arc::new(OsDisk));
        backup.start().await.map_err(|error| error.to_string())?;
        let cleaning = async {
            // A lease of before may have to end first.
            let _ = backup.wait_durable(Durability::All).await;
            while !self.strays().is_empty() {
                insert(conn, 1);
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        };
        if tokio::time::timeout(DEADLINE, cleaning).await.is_err() {
            return Err(format!("left behind: {:?}", self.strays()));
        }
        let stopped = backup.stop(DEADLINE).await;
        stopped.map_err(|error| error.to_string())
    }

    async fn replicate_one_more_commit(&self, conn: &Connection) -> Result<(), String> {
        let backup = self.replication(Arc::new(OsDisk));
        backup.start().await.map_err(|error| error.to_string())?;
        insert(conn, 1);
        match tokio::time::timeout(DEADLINE, backup.wait_durable(Durability::All)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(format!("on a healthy disk: {error}")),
            Err(_) => return Err(format!("wedged on a healthy disk: {:#?}", backup.status())),
        }
        self.wait_for_the_stage().await?;
        backup
            .stop(DEADLINE)
            .await
            .map_err(|error| error.to_string())
    }

    /// The LTX files of a level of the replica, as numbers, sorted.
    fn ranges(&self, level: u32) -> Vec<(u64, u64)> {
        let number = |hex: &str| u64::from_str_radix(hex, 16).unwrap();
        let mut ranges: Vec<_> = names(&self.replica.join("ltx").join(level.to_string()))
            .iter()
            .filter_map(|name| name.strip_suffix(".ltx")?.split_once('-'))
            .map(|(min, max)| (number(min), number(max)))
            .collect();
        ranges.sort_unstable();
        ranges
    }

    /// No transaction is in two files of a level. Snapshots all begin at 1.
    fn check_ranges(&self) -> Result<(), String> {
        for level in 0..9 {
            let ranges = self.ranges(level);
            for pair in ranges.windows(2) {
                if pair[1].0 <= pair[0].1 {
                    return Err(format!("level {level} overlaps: {ranges:?}"));
                }
            }
        }
        Ok(())
    }

    /// Of what was captured only the newest file stays here, once all of it is on the replica.
    async fn wait_for_the_stage(&self) -> Result<(), String> {
        if self.share.is_some() {
            // Kept, for compaction not to read what this machine has.
            return Ok(());
        }
        let staged = || {
            let mut files = files_below(&self.state());
            files.retain(|path| is_ltx(file_name(path)));
            files
        };
        let released = async {
            while staged().len() > 1 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let released = tokio::time::timeout(DEADLINE, released).await;
        released.map_err(|_| format!("what was uploaded is left: {:?}", staged()))
    }

    /// Files that belong neither to a state nor to a replica.
    fn strays(&self) -> Vec<PathBuf> {
        [
            self.strays_of_the_state(),
            self.strays_of_the_replica(),
            self.strays_of_restores(),
        ]
        .concat()
    }

    fn strays_of_the_state(&self) -> Vec<PathBuf> {
        let own =
            ["lock", "identity", "leases", "position", "pages"].map(|name| self.state().join(name));
        let stage = self.state().join("ltx").join("0");
        let mut strays = files_below(&self.state());
        strays.retain(|path| {
            let staged = path.parent() == Some(&stage) && is_ltx(file_name(path));
            !own.contains(path) && !staged
        });
        strays
    }

    fn strays_of_the_replica(&self) -> Vec<PathBuf> {
        // What a replica has for good: its records, its lease, and the empty file that their writers lock.
        let own = ["evertide/checksums", "evertide/lease", "evertide/.lock"]
            .map(|name| self.replica.join(name));
        let mut strays = files_below(&self.replica);
        strays.retain(|path| !own.contains(path) && !is_ltx(file_name(path)));
        strays
    }

    /// What restores have beside their output while they run.
    fn strays_of_restores(&self) -> Vec<PathBuf> {
        let mut left = names(&self.dir);
        left.retain(|name| name.contains(".restoring-") || name.contains(".replaced-"));
        left.into_iter().map(|name| self.dir.join(name)).collect()
    }
}

/// A restored database, deleted when dropped.
struct Restored(PathBuf);

impl Drop for Restored {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.0.display()));
        }
    }
}

fn is_ltx(name: &str) -> bool {
    name.len() == 37 && name.ends_with(".ltx")
}

fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for name in names(dir) {
        let path = dir.join(name);
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// The content of row `a`, from a few bytes to a page and a half.
const CONTENT: &str = "printf('%.*c', (a * 997) % 6000, 'x') || a";

fn insert(conn: &Connection, rows: u32) {
    for _ in 0..rows {
        conn.execute_batch(&format!(
            "INSERT INTO t SELECT a, {CONTENT} FROM (SELECT coalesce(max(a), 0) + 1 AS a FROM t)"
        ))
        .unwrap();
    }
}

/// Has the WAL start over while nobody watches, and commits once more: who comes next has to compare all pages.
fn start_wal_over_unwatched(conn: &Connection) {
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    insert(conn, 1);
}

fn count(conn: &Connection) -> i64 {
    conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap()
}

/// Whether the first `rows` rows are in a restored database, and are what was written.
fn check_rows(restored: &Restored, rows: i64) -> Result<(), String> {
    let failed = |error: rusqlite::Error| error.to_string();
    let conn = Connection::open(&restored.0).map_err(failed)?;
    let intact: String = conn
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .map_err(failed)?;
    let sql = format!("SELECT count(*) FROM t WHERE a <= ?1 AND b = {CONTENT}");
    let found: i64 = conn
        .query_row(&sql, [rows], |row| row.get(0))
        .map_err(failed)?;
    if intact == "ok" && found == rows {
        return Ok(());
    }
    Err(format!(
        "{found} of {rows} durable rows were restored; integrity check: {intact}"
    ))
}

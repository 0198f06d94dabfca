//! A database with its backup, and the plain model beside it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide::{
    Durability, Error, ReplicaOptions, Replication, RestoreOptions, RestoreTarget, Txid, restore,
};
use evertide_storage::{Destination, ManualClock, OsDisk};
use evertide_testkit::{assert_same_database, compare_databases, restore_with_litestream};
use rusqlite::Connection;

use crate::operation::Operation;

/// Long enough for anything here; reaching it is a failure.
const DEADLINE: Duration = Duration::from_secs(30);
const HALF_DAY: Duration = Duration::from_secs(12 * 3_600);
/// Earlier states that are remembered.
const MOST_STATES: usize = 20;

/// What the table holds.
type Rows = BTreeMap<i64, Vec<u8>>;

/// What a run made happen.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Reached {
    pub(crate) rebases: u64,
    pub(crate) rotations: u64,
}

impl Reached {
    pub(crate) fn outcome(self) -> String {
        let how_often = |count: u64| match count {
            0 => "no",
            1..3 => "few",
            _ => "many",
        };
        let (rebases, rotations) = (how_often(self.rebases), how_often(self.rotations));
        format!("{rebases} rebases {rotations} rotations")
    }
}

/// How things are, and how they should be.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
    db: PathBuf,
    replica: PathBuf,
    clock: Arc<ManualClock>,
    conn: Option<Connection>,
    reader: Option<Connection>,
    backup: Option<Replication>,
    /// What is committed.
    rows: Rows,
    next: i64,
    /// Durable states that can be restored by their transaction.
    states: Vec<(Txid, Rows)>,
    /// What the copy holds.
    copy: Option<Rows>,
    /// Content is the same for the same operations.
    random: fastrand::Rng,
    restores: u32,
    rebases: u64,
    rotations: u64,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut scene = Self {
            db: dir.path().join("app.db"),
            replica: dir.path().join("replica"),
            dir,
            clock: Arc::new(ManualClock::new(now)),
            conn: None,
            reader: None,
            backup: None,
            rows: Rows::new(),
            next: 1,
            states: Vec::new(),
            copy: None,
            random: fastrand::Rng::with_seed(3),
            restores: 0,
            rebases: 0,
            rotations: 0,
        };
        scene.conn = Some(scene.open());
        let table = "CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB); CREATE INDEX i ON t (b)";
        scene.conn().execute_batch(table).unwrap();
        scene
    }

    fn open(&self) -> Connection {
        let conn = Connection::open(&self.db).unwrap();
        conn.execute_batch(
            "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
             PRAGMA cache_size = 50; PRAGMA wal_autocheckpoint = 0;",
        )
        .unwrap();
        conn
    }

    fn conn(&self) -> &Connection {
        self.conn.as_ref().unwrap()
    }

    /// Starts the backup, unless it runs. One that was abandoned lets go after a moment.
    async fn start(&mut self) {
        if self.backup.is_some() {
            return;
        }
        let mut options = ReplicaOptions::new("local", Destination::file(&self.replica).unwrap());
        options.sync_interval = Duration::from_millis(1);
        let backup = Replication::builder(&self.db)
            .replica(options)
            .rotate_at_frames(40)
            .clock(self.clock.clone())
            .build()
            .unwrap();
        let started = async {
            loop {
                match backup.start().await {
                    Err(Error::AlreadyReplicated(_) | Error::ReplicatedElsewhere { .. }) => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    started => break started.unwrap(),
                }
            }
        };
        tokio::time::timeout(DEADLINE, started).await.unwrap();
        self.backup = Some(backup);
    }

    async fn stop(&mut self) {
        if let Some(backup) = self.backup.take() {
            self.note(&backup);
            backup.stop(DEADLINE).await.unwrap();
        }
    }

    fn note(&mut self, backup: &Replication) {
        let status = backup.status();
        self.rebases += status.rebases;
        self.rotations += status.rotations;
    }

    pub(crate) async fn perform(&mut self, operation: Operation) {
        match operation {
            Operation::Sync => self.sync().await,
            Operation::Durable => self.durable().await,
            Operation::StopOrStart if self.backup.is_some() => self.stop().await,
            Operation::StopOrStart => self.start().await,
            Operation::Abandon => {
                if let Some(backup) = self.backup.take() {
                    self.note(&backup);
                }
                self.start().await;
            }
            Operation::ForgetState => {
                self.stop().await;
                let _ = std::fs::remove_dir_all(self.dir.path().join(".app.db-evertide"));
            }
            Operation::EmptyReplica => {
                self.stop().await;
                let _ = std::fs::remove_dir_all(&self.replica);
                self.states.clear();
            }
            Operation::Copy => {
                let copy = self.dir.path().join("copy.db");
                let _ = std::fs::remove_file(&copy);
                let sql = format!("VACUUM INTO '{}'", copy.display());
                self.conn().execute_batch(&sql).unwrap();
                self.copy = Some(self.rows.clone());
            }
            Operation::PutBack => self.put_back().await,
            Operation::Clock(half_days) => {
                let by = HALF_DAY * u32::from(half_days.unsigned_abs());
                let now = evertide_storage::Clock::now(&*self.clock);
                let then = if half_days < 0 { now - by } else { now + by };
                self.clock.set(then);
                // Compaction now takes earlier transactions together.
                self.states.clear();
            }
            Operation::Restore => {
                self.durable().await;
                let rows = self.rows.clone();
                self.check(RestoreTarget::Latest, &rows).await;
            }
            Operation::RestoreEarlier(which) if !self.states.is_empty() => {
                let which = usize::from(which) % self.states.len();
                let (txid, rows) = self.states[which].clone();
                self.check(RestoreTarget::Txid(txid), &rows).await;
            }
            Operation::RestoreEarlier(_) => {}
            write => self.write(write),
        }
    }

    async fn sync(&mut self) {
        self.start().await;
        self.backup.as_ref().unwrap().sync().await.unwrap();
    }

    async fn durable(&mut self) {
        self.start().await;
        let backup = self.backup.as_ref().unwrap();
        let durable = tokio::time::timeout(DEADLINE, backup.wait_durable(Durability::All)).await;
        let Ok(txid) = durable else {
            panic!("never durable: {:#?}", backup.status());
        };
        let txid = txid.unwrap();
        if let Some((last, _)) = self.states.last() {
            assert!(*last <= txid, "{txid} after {last}");
        }
        self.states.retain(|(earlier, _)| *earlier < txid);
        self.states.push((txid, self.rows.clone()));
        if self.states.len() > MOST_STATES {
            self.states.remove(0);
        }
    }

    /// Puts the copy in place of the database. Nobody has it open.
    async fn put_back(&mut self) {
        let Some(rows) = self.copy.take() else { return };
        self.stop().await;
        (self.conn, self.reader) = (None, None);
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(self.dir.path().join(format!("app.db{suffix}")));
        }
        std::fs::rename(self.dir.path().join("copy.db"), &self.db).unwrap();
        self.rows = rows;
        self.conn = Some(self.open());
    }

    fn write(&mut self, operation: Operation) {
        match operation {
            Operation::Insert(rows) => {
                let new = (0..u32::from(rows)).map(|row| row * 131 % 3_000).collect();
                self.insert(new);
            }
            Operation::Huge(rows) => self.insert(vec![250_000; usize::from(rows) + 1]),
            Operation::Update(every) => {
                let chosen = self.every(every);
                self.put(chosen.into_iter().map(|key| (key, Some(700))).collect());
            }
            Operation::Delete(every) => {
                let chosen = self.every(every);
                self.put(chosen.into_iter().map(|key| (key, None)).collect());
            }
            Operation::Rollback(rows) => {
                self.conn().execute_batch("BEGIN").unwrap();
                for _ in 0..rows {
                    let sql = "INSERT INTO t (b) VALUES (randomblob(3000))";
                    self.conn().execute_batch(sql).unwrap();
                }
                self.conn().execute_batch("ROLLBACK").unwrap();
            }
            Operation::Vacuum => {
                self.reader = None;
                self.conn().execute_batch("VACUUM").unwrap();
            }
            Operation::Recreate => {
                let sql = "BEGIN; DROP TABLE t; CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB);
                           COMMIT";
                self.conn().execute_batch(sql).unwrap();
                self.rows.clear();
            }
            Operation::Checkpoint(mode) => {
                self.reader = None;
                let sql = format!("PRAGMA wal_checkpoint({mode})");
                self.conn().query_row(&sql, [], |_| Ok(())).unwrap();
            }
            Operation::AutoCheckpoint(which) => {
                let pages = [0, 1, 100][usize::from(which)];
                let sql = format!("PRAGMA wal_autocheckpoint = {pages}");
                self.conn().query_row(&sql, [], |_| Ok(())).unwrap();
            }
            Operation::Reconnect => {
                self.conn = None;
                self.conn = Some(self.open());
            }
            Operation::Reader if self.reader.is_some() => self.reader = None,
            Operation::Reader => {
                let reader = self.open();
                reader.execute_batch("BEGIN").unwrap();
                let count = "SELECT count(*) FROM t";
                let rows: i64 = reader.query_row(count, [], |row| row.get(0)).unwrap();
                assert_eq!(rows, self.rows.len() as i64);
                self.reader = Some(reader);
            }
            other => unreachable!("{other:?} does not write"),
        }
    }

    fn every(&self, every: u8) -> Vec<i64> {
        self.rows
            .keys()
            .copied()
            .step_by(usize::from(every))
            .collect()
    }

    fn insert(&mut self, sizes: Vec<u32>) {
        let keys = self.next..;
        self.next += sizes.len() as i64;
        self.put(keys.zip(sizes.into_iter().map(Some)).collect());
    }

    /// Gives rows content of these sizes, or deletes them, in one transaction.
    fn put(&mut self, changes: Vec<(i64, Option<u32>)>) {
        self.conn().execute_batch("BEGIN IMMEDIATE").unwrap();
        for (key, size) in changes {
            if let Some(size) = size {
                let mut content = vec![0; size as usize];
                self.random.fill(&mut content);
                let sql = "INSERT OR REPLACE INTO t VALUES (?1, ?2)";
                self.conn().execute(sql, (key, &content)).unwrap();
                self.rows.insert(key, content);
            } else {
                self.conn()
                    .execute("DELETE FROM t WHERE a = ?1", [key])
                    .unwrap();
                self.rows.remove(&key);
            }
        }
        self.conn().execute_batch("COMMIT").unwrap();
    }

    /// Restores, and compares with the model; the newest state also with the database itself.
    async fn check(&mut self, target: RestoreTarget, rows: &Rows) {
        self.restores += 1;
        let path = self
            .dir
            .path()
            .join(format!("restored-{}.db", self.restores));
        let client = Destination::file(&self.replica).unwrap();
        let mut options = RestoreOptions::new(client.connect(Arc::new(OsDisk)).unwrap(), &path);
        options.target = target;
        restore(options).await.unwrap();
        assert!(read(&path) == *rows, "{target:?} is not what the model has");
        if target == RestoreTarget::Latest {
            compare_databases(&self.db, &path).unwrap();
        }
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
    }

    /// Everything at the end, by the official program as well; what the run was like.
    pub(crate) async fn finish(mut self) -> Reached {
        self.reader = None;
        self.durable().await;
        let rows = self.rows.clone();
        self.check(RestoreTarget::Latest, &rows).await;
        for (txid, rows) in std::mem::take(&mut self.states) {
            self.check(RestoreTarget::Txid(txid), &rows).await;
        }
        self.stop().await;
        let official = self.dir.path().join("official.db");
        restore_with_litestream(&self.replica, &official);
        assert_same_database(&self.db, &official);
        self.assert_no_overlaps();
        Reached {
            rebases: self.rebases,
            rotations: self.rotations,
        }
    }

    /// No transaction is in two files of level 0.
    fn assert_no_overlaps(&self) {
        let number = |hex: &str| u64::from_str_radix(hex, 16).unwrap();
        let files = std::fs::read_dir(self.replica.join("ltx/0"))
            .into_iter()
            .flatten();
        let mut ranges: Vec<(u64, u64)> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| {
                let (min, max) = name.strip_suffix(".ltx")?.split_once('-')?;
                Some((number(min), number(max)))
            })
            .collect();
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            assert!(pair[0].1 < pair[1].0, "level 0 overlaps: {ranges:?}");
        }
    }
}

fn read(path: &Path) -> Rows {
    let conn = Connection::open(path).unwrap();
    let mut statement = conn.prepare("SELECT a, b FROM t").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

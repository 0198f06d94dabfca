//! One connection that writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, params};

use super::create::{DatabaseOptions, create_database};
use super::operation::Operation;
use super::thread::Stop;

/// How a writer writes.
#[derive(Debug, Clone, PartialEq)]
pub struct WriterOptions {
    /// Everything it does follows from this number.
    pub seed: u64,
    /// Tells writers of one database apart: each has a scratch table of its own.
    pub id: u32,
    /// The database it creates when there is none.
    pub database: DatabaseOptions,
    /// Above this size of the database, in bytes, it deletes and vacuums before it goes on.
    pub max_bytes: u64,
    /// How long a statement waits for a lock before it reports `SQLITE_BUSY`.
    pub busy_timeout: Duration,
    /// The longest pause between two operations; zero for none.
    pub pause: Duration,
}

impl WriterOptions {
    /// Defaults: 4 KiB pages, at most about 64 MiB, busy after 200 ms, no pause.
    pub fn seeded(seed: u64) -> Self {
        Self {
            seed,
            id: 0,
            database: DatabaseOptions::default(),
            max_bytes: 64 << 20,
            busy_timeout: Duration::from_millis(200),
            pause: Duration::ZERO,
        }
    }
}

/// What a writer did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriterReport {
    /// Operations that committed something.
    pub transactions: u64,
    /// Operations given up because of a lock held by somebody else.
    pub busy: u64,
    /// Operations that succeeded, by name.
    pub operations: BTreeMap<String, u64>,
}

impl WriterReport {
    /// Adds what another writer did.
    pub fn add(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.busy += other.busy;
        for (name, count) in &other.operations {
            *self.operations.entry(name.clone()).or_default() += count;
        }
    }
}

/// Why a writer stopped: anything but a lock held by somebody else is a fault.
#[derive(Debug, thiserror::Error)]
#[error("writer {id} of {path} (seed {seed}), step {step}, {operation}: {source}")]
#[non_exhaustive]
pub struct WriterError {
    /// The writer.
    pub id: u32,
    /// Its seed.
    pub seed: u64,
    /// The database.
    pub path: PathBuf,
    /// The number of the operation.
    pub step: u64,
    /// The operation.
    pub operation: String,
    /// What SQLite reported.
    pub source: Box<rusqlite::Error>,
}

/// A writer: one connection, one stream of random operations.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    options: WriterOptions,
    connection: Option<Connection>,
    rng: fastrand::Rng,
    step: u64,
    report: WriterReport,
}

impl Writer {
    /// Opens the database, after creating it when there is none.
    ///
    /// # Errors
    ///
    /// Whatever SQLite reports.
    pub fn open(path: impl AsRef<Path>, options: WriterOptions) -> Result<Self, WriterError> {
        let mut writer = Self {
            path: path.as_ref().to_path_buf(),
            rng: fastrand::Rng::with_seed(options.seed),
            options,
            connection: None,
            step: 0,
            report: WriterReport::default(),
        };
        create_database(&writer.path, writer.options.database)
            .and_then(|()| writer.connect())
            .map_err(|source| writer.error("open".to_owned(), source))?;
        Ok(writer)
    }

    /// What it has done so far.
    pub fn report(&self) -> &WriterReport {
        &self.report
    }

    /// Performs a number of operations; those that meet a lock are counted and given up.
    ///
    /// # Errors
    ///
    /// Anything SQLite reports but a lock held by somebody else.
    pub fn run_steps(&mut self, steps: u64) -> Result<&WriterReport, WriterError> {
        for _ in 0..steps {
            self.step()?;
        }
        Ok(&self.report)
    }

    /// Performs operations until it is told to stop.
    ///
    /// # Errors
    ///
    /// As [`Writer::run_steps`].
    pub fn run_until(&mut self, stop: &Stop) -> Result<&WriterReport, WriterError> {
        while !stop.is_requested() {
            self.step()?;
            let pause = self.options.pause;
            if !pause.is_zero() {
                std::thread::sleep(pause.mul_f64(self.rng.f64()));
            }
        }
        Ok(&self.report)
    }

    /// Performs one operation drawn from the seed.
    ///
    /// # Errors
    ///
    /// As [`Writer::run_steps`].
    pub fn step(&mut self) -> Result<(), WriterError> {
        let operation = Operation::draw(&mut self.rng);
        self.perform(operation)?;
        if self.step.is_multiple_of(64) && self.size() > self.options.max_bytes {
            self.perform(Operation::DeleteMost)?;
            self.perform(Operation::Vacuum)?;
        }
        Ok(())
    }

    /// Performs one operation.
    ///
    /// # Errors
    ///
    /// As [`Writer::run_steps`].
    pub fn perform(&mut self, operation: Operation) -> Result<(), WriterError> {
        self.step += 1;
        match self.try_perform(operation) {
            Ok(()) => {
                *self
                    .report
                    .operations
                    .entry(operation.to_string())
                    .or_default() += 1;
                Ok(())
            }
            Err(error) if is_busy(&error) => {
                self.report.busy += 1;
                self.roll_back()
                    .map_err(|source| self.error("ROLLBACK".to_owned(), source))
            }
            Err(source) => Err(self.error(operation.to_string(), source)),
        }
    }

    fn try_perform(&mut self, operation: Operation) -> rusqlite::Result<()> {
        let before = self.db().total_changes();
        match operation {
            Operation::Insert => self.insert(10..3000)?,
            Operation::InsertGrowing => {
                let most = usize::try_from(self.step * 200)
                    .unwrap_or(usize::MAX)
                    .min(1 << 20);
                self.insert(most / 2..most + 1)?;
            }
            Operation::Replace => self.replace()?,
            Operation::Update => self.update()?,
            Operation::Delete => self.delete()?,
            Operation::DeleteMost => {
                self.batch("DELETE FROM entries WHERE id % 10 <> 3; DELETE FROM pairs;")?;
            }
            Operation::HugeTransaction => self.fill("COMMIT")?,
            Operation::Rollback => self.fill("ROLLBACK")?,
            Operation::Savepoint => self.savepoint()?,
            Operation::Vacuum => self.batch("VACUUM")?,
            Operation::IncrementalVacuum => {
                let pages = self.rng.u32(0..200);
                self.pragma(&format!("incremental_vacuum({pages})"))?;
            }
            Operation::DropCreate => self.drop_create()?,
            Operation::Reindex => self.reindex()?,
            Operation::LongRead => self.long_read()?,
            Operation::Reconnect => self.connect()?,
            Operation::Checkpoint(kind) => {
                self.pragma(&format!("wal_checkpoint({})", kind.name()))?;
            }
            Operation::Autocheckpoint => self.set_autocheckpoint()?,
        }
        let wrote = match operation {
            Operation::Rollback | Operation::Reconnect => false,
            Operation::Vacuum => true,
            _ => self.db().total_changes() != before,
        };
        self.report.transactions += u64::from(wrote);
        Ok(())
    }

    fn insert(&mut self, size: std::ops::Range<usize>) -> rusqlite::Result<()> {
        let body = self.blob(size);
        let tag = self.tag();
        let step = i64::try_from(self.step).unwrap_or(i64::MAX);
        self.db()
            .prepare_cached("INSERT INTO entries(writer, step, tag, body) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![self.options.id, step, tag, body])?;
        Ok(())
    }

    fn replace(&mut self) -> rusqlite::Result<()> {
        let transaction = self.rng.bool();
        if transaction {
            self.batch("BEGIN IMMEDIATE")?;
        }
        for _ in 0..self.rng.u32(1..20) {
            let key = format!("key {:04}", self.rng.u32(0..5000));
            let value = self.blob(0..600);
            let weight = self.rng.f64() - 0.5;
            self.db()
                .prepare_cached("REPLACE INTO pairs(key, value, weight) VALUES (?1, ?2, ?3)")?
                .execute(params![key, value, weight])?;
        }
        if transaction {
            self.batch("COMMIT")
        } else {
            Ok(())
        }
    }

    fn update(&mut self) -> rusqlite::Result<()> {
        let from = self.some_id()?;
        let body = self.blob(0..5000);
        let tag = self.tag();
        let rows = self.rng.i64(1..40);
        self.db()
            .prepare_cached(
                "UPDATE entries SET body = ?1, tag = ?2 WHERE id >= ?3 AND id < ?3 + ?4",
            )?
            .execute(params![body, tag, from, rows])?;
        Ok(())
    }

    fn delete(&mut self) -> rusqlite::Result<()> {
        let from = self.some_id()?;
        let rows = self.rng.i64(1..120);
        self.db()
            .prepare_cached("DELETE FROM entries WHERE id >= ?1 AND id < ?1 + ?2")?
            .execute([from, rows])?;
        Ok(())
    }

    /// More pages than the cache of 50 holds, so that frames spill into the WAL before the end.
    fn fill(&mut self, end: &str) -> rusqlite::Result<()> {
        self.batch("BEGIN IMMEDIATE")?;
        for _ in 0..self.rng.u32(500..3000) {
            self.insert(10..3000)?;
        }
        self.batch(end)
    }

    fn savepoint(&mut self) -> rusqlite::Result<()> {
        self.batch("BEGIN IMMEDIATE")?;
        self.insert(10..3000)?;
        self.batch("SAVEPOINT inner")?;
        for _ in 0..self.rng.u32(1..80) {
            self.insert(10..3000)?;
        }
        self.batch("ROLLBACK TO inner; RELEASE inner")?;
        self.insert(10..3000)?;
        self.batch("COMMIT")
    }

    fn drop_create(&mut self) -> rusqlite::Result<()> {
        let (id, rows, size) = (self.options.id, self.rng.u32(1..300), self.rng.u32(1..2000));
        self.batch(&format!(
            "BEGIN IMMEDIATE;
             DROP TABLE IF EXISTS scratch_{id};
             CREATE TABLE scratch_{id}(number INTEGER UNIQUE, filling TEXT);
             INSERT INTO scratch_{id}
                 SELECT value, hex(zeroblob({size})) FROM json_each('[{}]');
             COMMIT;",
            (0..rows)
                .map(|n| n.to_string())
                .collect::<Vec<_>>()
                .join(",")
        ))
    }

    fn reindex(&mut self) -> rusqlite::Result<()> {
        if self.rng.bool() {
            self.batch("DROP INDEX IF EXISTS entries_by_size")
        } else {
            self.batch("CREATE INDEX IF NOT EXISTS entries_by_size ON entries(length(body), tag)")
        }
    }

    fn long_read(&mut self) -> rusqlite::Result<()> {
        self.batch("BEGIN")?;
        self.db()
            .query_row("SELECT count(*) FROM entries", [], |_| Ok(()))?;
        std::thread::sleep(Duration::from_millis(self.rng.u64(1..150)));
        self.db()
            .query_row("SELECT count(*) FROM pairs", [], |_| Ok(()))?;
        self.batch("COMMIT")
    }

    fn connect(&mut self) -> rusqlite::Result<()> {
        // The old connection goes first: the last one to close may checkpoint and delete the WAL.
        self.connection = None;
        let connection = Connection::open(&self.path)?;
        connection.busy_timeout(self.options.busy_timeout)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "cache_size", 50)?;
        self.connection = Some(connection);
        self.set_autocheckpoint()
    }

    fn set_autocheckpoint(&mut self) -> rusqlite::Result<()> {
        let pages = [0, 1, 100, 1000][self.rng.usize(0..4)];
        self.pragma(&format!("wal_autocheckpoint = {pages}"))
    }

    fn roll_back(&mut self) -> rusqlite::Result<()> {
        match &self.connection {
            Some(connection) if connection.is_autocommit() => Ok(()),
            Some(connection) => connection.execute_batch("ROLLBACK"),
            // A reconnect met a lock; the next operation needs a connection all the same.
            None => loop {
                match self.connect() {
                    Err(error) if is_busy(&error) => {}
                    other => return other,
                }
            },
        }
    }

    fn some_id(&mut self) -> rusqlite::Result<i64> {
        let (least, most): (i64, i64) = self
            .db()
            .prepare_cached("SELECT ifnull(min(id), 0), ifnull(max(id), 0) FROM entries")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(self.rng.i64(least..=most))
    }

    fn blob(&mut self, size: std::ops::Range<usize>) -> Vec<u8> {
        let mut blob = vec![0; self.rng.usize(size)];
        self.rng.fill(&mut blob);
        // Half of it compresses, as real rows do.
        let half = blob.len() / 2;
        blob[..half].fill(b'e');
        blob
    }

    fn tag(&mut self) -> String {
        format!("tag {}", self.rng.u32(0..1000))
    }

    fn size(&self) -> u64 {
        // An lstat, no open: closing a descriptor would drop SQLite's locks in this process.
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    fn batch(&self, sql: &str) -> rusqlite::Result<()> {
        self.db().execute_batch(sql)
    }

    fn pragma(&self, pragma: &str) -> rusqlite::Result<()> {
        let mut statement = self.db().prepare(&format!("PRAGMA {pragma}"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    }

    fn db(&self) -> &Connection {
        self.connection
            .as_ref()
            .expect("connected, except within connect()")
    }

    fn error(&self, operation: String, source: rusqlite::Error) -> WriterError {
        WriterError {
            id: self.options.id,
            seed: self.options.seed,
            path: self.path.clone(),
            step: self.step,
            operation,
            source: Box::new(source),
        }
    }
}

/// The lock protocol fails, rather than being busy, when a reader lost the race for a read mark a
/// hundred times.
fn is_busy(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(
        code,
        Some(ErrorCode::DatabaseBusy | ErrorCode::FileLockingProtocolFailed)
    )
}

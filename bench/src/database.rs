//! The databases that are backed up, and their writer.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rusqlite::{Connection, params};

const SEED: u64 = 20_261_122;

/// Opens a database as an application does, and creates its tables when there are none.
pub(crate) fn open(path: &Path, autocheckpoint: u32) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.query_row(
        &format!("PRAGMA wal_autocheckpoint = {autocheckpoint}"),
        [],
        |_| Ok(()),
    )?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS accounts(
             id INTEGER PRIMARY KEY, name TEXT, balance INTEGER, changed INTEGER);
         CREATE TABLE IF NOT EXISTS events(
             id INTEGER PRIMARY KEY, account INTEGER, at INTEGER, body BLOB);
         CREATE INDEX IF NOT EXISTS events_by_account ON events(account, at);",
    )?;
    Ok(connection)
}

/// A database of this size: half of it compresses to nothing, the other half not at all.
pub(crate) fn fill(path: &Path, bytes: u64) -> Result<()> {
    let mut connection = open(path, 1000)?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    let mut rng = fastrand::Rng::with_seed(SEED);
    let mut body = [b'e'; 4000];
    let mut id = 0;
    while std::fs::metadata(path)?.len() < bytes {
        let transaction = connection.transaction()?;
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO events VALUES (?, ?, ?, ?)")?;
            for _ in 0..1000 {
                id += 1;
                rng.fill(&mut body[2000..]);
                insert.execute(params![id, rng.u32(0..100_000), id, body])?;
            }
        }
        transaction.commit()?;
    }
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    std::fs::File::open(path)?.sync_all()?;
    Ok(())
}

/// A small database with accounts to write to.
pub(crate) fn small(path: &Path) -> Result<()> {
    let mut connection = open(path, 1000)?;
    let transaction = connection.transaction()?;
    for id in 0..10_000 {
        transaction.execute(
            "INSERT INTO accounts VALUES (?, 'account ' || ?, 0, 0)",
            params![id, id],
        )?;
    }
    transaction.commit()?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}

/// One transaction of the kind most applications make: change a row, add a row.
pub(crate) struct Transactions {
    connection: Connection,
    rng: fastrand::Rng,
    number: i64,
}

impl Transactions {
    pub(crate) fn new(path: &Path, autocheckpoint: u32) -> Result<Self> {
        let connection = open(path, autocheckpoint)?;
        Ok(Self {
            connection,
            rng: fastrand::Rng::with_seed(SEED),
            number: 0,
        })
    }

    pub(crate) fn commit_one(&mut self) -> Result<()> {
        self.number += 1;
        let account = self.rng.u32(0..10_000);
        let mut body = [0; 200];
        self.rng.fill(&mut body[100..]);
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        transaction
            .prepare_cached("UPDATE accounts SET balance = balance + 1, changed = ? WHERE id = ?")?
            .execute(params![self.number, account])?;
        transaction
            .prepare_cached("INSERT INTO events(account, at, body) VALUES (?, ?, ?)")?
            .execute(params![account, self.number, body])?;
        transaction.commit()?;
        Ok(())
    }
}

/// The writer in a process of its own, so that its time is not ours.
#[derive(Debug, Args)]
pub(crate) struct WriterArguments {
    database: PathBuf,
    /// Frames after which the writer itself checkpoints; 0 for never.
    #[arg(long)]
    autocheckpoint: u32,
    /// Write as fast as possible for this long, after a quarter of it to warm up.
    #[arg(long)]
    milliseconds: Option<u64>,
    /// Or write this many transactions, evenly spread over the time they take at 1,000 a second.
    #[arg(long)]
    transactions: Option<u64>,
}

impl WriterArguments {
    /// The program; prints transactions per second.
    pub(crate) fn run(&self) -> Result<()> {
        let mut transactions = Transactions::new(&self.database, self.autocheckpoint)?;
        let per_second = match (self.milliseconds, self.transactions) {
            (Some(milliseconds), None) => {
                let time = Duration::from_millis(milliseconds);
                for_a_while(&mut transactions, time / 4)?;
                for_a_while(&mut transactions, time)?
            }
            (None, Some(count)) => evenly(&mut transactions, count)?,
            _ => bail!("either --milliseconds or --transactions"),
        };
        writeln!(std::io::stdout(), "{per_second}")?;
        Ok(())
    }
}

fn for_a_while(transactions: &mut Transactions, time: Duration) -> Result<f64> {
    let (started, mut count) = (Instant::now(), 0.0);
    while started.elapsed() < time {
        transactions.commit_one()?;
        count += 1.0;
    }
    Ok(count / started.elapsed().as_secs_f64())
}

fn evenly(transactions: &mut Transactions, count: u64) -> Result<f64> {
    let started = Instant::now();
    for number in 0..count {
        let due = started + Duration::from_millis(number);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        transactions.commit_one()?;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// A writer that runs.
pub(crate) struct Writer(Child);

impl Writer {
    /// Writes as fast as it can for `time`.
    pub(crate) fn fast(database: &Path, autocheckpoint: u32, time: Duration) -> Result<Self> {
        Self::start(
            database,
            autocheckpoint,
            "--milliseconds",
            time.as_millis().to_string(),
        )
    }

    /// Writes `count` transactions at 1,000 a second.
    pub(crate) fn even(database: &Path, autocheckpoint: u32, count: u64) -> Result<Self> {
        Self::start(
            database,
            autocheckpoint,
            "--transactions",
            count.to_string(),
        )
    }

    fn start(database: &Path, autocheckpoint: u32, kind: &str, amount: String) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .arg("writer")
            .arg(database)
            .args([
                "--autocheckpoint",
                &autocheckpoint.to_string(),
                kind,
                &amount,
            ])
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    /// Transactions per second.
    pub(crate) fn finish(self) -> Result<f64> {
        let output = self.0.wait_with_output()?;
        if !output.status.success() {
            bail!("the writer ended with {}", output.status);
        }
        let text = String::from_utf8(output.stdout)?;
        text.trim()
            .parse()
            .with_context(|| format!("the writer printed {text:?}"))
    }
}

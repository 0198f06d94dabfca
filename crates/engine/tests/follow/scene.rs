//! A database whose content can be judged by whoever reads it, its replica, and a copy of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use evertide::{
    Destination, Durability, FollowError, FollowEvent, FollowOptions, FollowReport, ReplicaOptions,
    Replication, RestoreOptions, follow,
};
use evertide_storage::{OsDisk, ReplicaClient};
use rusqlite::{Connection, types::Value};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// The sum of all balances, at all times.
const SUM: i64 = 10_000;
const ACCOUNTS: i64 = 100;

pub(crate) struct Scene {
    pub(crate) dir: TempDir,
    pub(crate) source: Connection,
    pub(crate) backup: Replication,
    random: fastrand::Rng,
}

impl Scene {
    /// A database that is being replicated.
    pub(crate) async fn new(page_size: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let source = Connection::open(&path).unwrap();
        source.busy_timeout(Duration::from_secs(20)).unwrap();
        source
            .execute_batch(&format!(
                "PRAGMA page_size = {page_size}; PRAGMA journal_mode = WAL;
                 CREATE TABLE version (n INTEGER);
                 INSERT INTO version VALUES (0);
                 CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER, filler BLOB);
                 CREATE TABLE log (n INTEGER PRIMARY KEY, filler BLOB);
                 CREATE INDEX log_by_filler ON log (filler);"
            ))
            .unwrap();
        for id in 0..ACCOUNTS {
            let row = (id, SUM / ACCOUNTS);
            source
                .execute("INSERT INTO accounts VALUES (?1, ?2, randomblob(200))", row)
                .unwrap();
        }
        let destination = Destination::file(dir.path().join("replica")).unwrap();
        let mut replica = ReplicaOptions::new("local", destination);
        // What is compacted while a test damages a file would stand in for it; tests compact by themselves.
        replica.levels = Vec::new();
        let backup = Replication::builder(&path)
            .replica(replica)
            .build()
            .unwrap();
        backup.start().await.unwrap();
        backup.wait_durable(Durability::All).await.unwrap();
        Self {
            dir,
            source,
            backup,
            random: fastrand::Rng::with_seed(evertide_testkit::seed()),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn replica(&self) -> Arc<dyn ReplicaClient> {
        connect(&self.path("replica"))
    }

    /// A transaction that touches many pages; some make the database grow or shrink a lot.
    pub(crate) fn write(&mut self) {
        // Before the transaction, so that its version says that the copy has this too.
        if self.random.u8(..15) == 0 {
            self.source.execute_batch("VACUUM").unwrap();
        }
        let transaction = self.source.transaction().unwrap();
        transaction
            .execute("UPDATE version SET n = n + 1", [])
            .unwrap();
        for _ in 0..20 {
            let (from, to) = (self.random.i64(0..ACCOUNTS), self.random.i64(0..ACCOUNTS));
            let amount = self.random.i64(1..10);
            let sql = "UPDATE accounts SET balance = balance + ?2, filler = randomblob(200) \
                       WHERE id = ?1";
            transaction.execute(sql, (from, -amount)).unwrap();
            transaction.execute(sql, (to, amount)).unwrap();
        }
        let filler = self.random.u32(10..3000);
        transaction
            .execute(
                "INSERT INTO log SELECT n, randomblob(?1) FROM version",
                [filler],
            )
            .unwrap();
        match self.random.u8(..12) {
            0 => {
                transaction
                    .execute(
                        "UPDATE log SET filler = randomblob(1500) WHERE n % 3 = 0",
                        [],
                    )
                    .unwrap();
            }
            1 => {
                transaction
                    .execute("UPDATE log SET filler = randomblob(5)", [])
                    .unwrap();
            }
            _ => {}
        }
        transaction.commit().unwrap();
    }

    pub(crate) async fn write_durably(&mut self, times: u32) {
        for _ in 0..times {
            self.write();
            self.backup.wait_durable(Durability::All).await.unwrap();
        }
    }

    pub(crate) fn options(&self) -> FollowOptions {
        options(&self.path("replica"), &self.path("copy.db"))
    }

    /// Follows until the copy has everything, and stops then.
    pub(crate) async fn follow_to_the_end(&self) -> Result<Followed, FollowError> {
        let wanted = content(&self.path("app.db"));
        follow_until(self.options(), move |copy| content(copy) == wanted).await
    }

    /// Compares the copy with what a restore gives, byte for byte but the fields that a copy has of
    /// its own.
    pub(crate) async fn assert_current(&self) {
        let restored = self.path("restored.db");
        let _ = fs::remove_file(&restored);
        evertide::restore(RestoreOptions::new(self.replica(), &restored))
            .await
            .unwrap();
        let (mut expected, mut found) = (
            fs::read(&restored).unwrap(),
            read_copy(&self.path("copy.db")),
        );
        for bytes in [&mut expected, &mut found] {
            for field in [18..20, 24..28, 92..96] {
                bytes[field].fill(0);
            }
        }
        assert!(expected == found, "the copy is another database");
        check(&self.path("copy.db"), 0);
    }

    /// The files beside the copy, sorted.
    pub(crate) fn beside_copy(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.contains("copy.db")).collect();
        names.sort();
        names
    }
}

/// Reads a copy in another process: a descriptor of ours must not be closed.
pub(crate) fn read_copy(path: &Path) -> Vec<u8> {
    Command::new("cat").arg(path).output().unwrap().stdout
}

pub(crate) fn connect(replica: &Path) -> Arc<dyn ReplicaClient> {
    let destination = Destination::file(replica).unwrap();
    destination.connect(Arc::new(OsDisk)).unwrap()
}

pub(crate) fn options(replica: &Path, copy: &Path) -> FollowOptions {
    let mut options = FollowOptions::new(RestoreOptions::new(connect(replica), copy));
    options.interval = Duration::from_millis(20);
    options
}

/// What was told, and what came of it.
pub(crate) struct Followed {
    pub(crate) events: Vec<String>,
    pub(crate) report: FollowReport,
}

/// Follows until `done`, which is asked again and again.
pub(crate) async fn follow_until(
    options: FollowOptions,
    done: impl Fn(&Path) -> bool,
) -> Result<Followed, FollowError> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&events);
    let path = options.restore.output.clone();
    let begun = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&begun);
    let options = options.on_event(move |event| {
        if let FollowEvent::Restored(_) | FollowEvent::Resumed { .. } = event {
            told.store(true, Ordering::SeqCst);
        }
        log.lock().unwrap().push(format!("{event:?}"));
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let following = tokio::spawn(follow(options, async {
        let _ = stopped.await;
    }));
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !(following.is_finished() || begun.load(Ordering::SeqCst) && done(&path)) {
        assert!(std::time::Instant::now() < deadline, "{:#?}", events.lock());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _ = stop.send(());
    let report = following.await.unwrap()?;
    let events = std::mem::take(&mut *events.lock().unwrap());
    Ok(Followed { events, report })
}

fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(30)).unwrap();
    connection
}

pub(crate) fn version(path: &Path) -> i64 {
    let read = open(path).query_row("SELECT n FROM version", [], |row| row.get(0));
    read.unwrap()
}

/// What a database holds, and not how: all rows of all tables.
fn content(path: &Path) -> Vec<(String, Vec<Value>)> {
    let connection = open(path);
    let transaction = connection.unchecked_transaction().unwrap();
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
    let mut tables = transaction.prepare(tables).unwrap();
    let names = tables.query_map([], |row| row.get(0)).unwrap();
    let names: Vec<String> = names.map(Result::unwrap).collect();
    let values = |name: &String| {
        let mut rows = transaction
            .prepare(&format!("SELECT * FROM \"{name}\""))
            .unwrap();
        let columns = rows.column_count();
        let mut rows = rows.query([]).unwrap();
        let mut values = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            values.extend((0..columns).map(|at| row.get_unwrap(at)));
        }
        values
    };
    names
        .iter()
        .map(|name| (name.clone(), values(name)))
        .collect()
}

/// Judges one state of the database, and returns its version.
fn judge(connection: &Connection, at_least: i64) -> i64 {
    let number = |sql: &str| -> i64 { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
    connection.execute_batch("BEGIN").unwrap();
    let version = number("SELECT n FROM version");
    assert!(
        version >= at_least,
        "{version} after {at_least}: back in time"
    );
    assert_eq!(number("SELECT sum(balance) FROM accounts"), SUM);
    assert_eq!(number("SELECT count(*) FROM log"), version);
    assert_eq!(number("SELECT coalesce(max(n), 0) FROM log"), version);
    let problems: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(problems, "ok");
    assert_eq!(number("SELECT n FROM version"), version);
    connection.execute_batch("COMMIT").unwrap();
    version
}

/// Judges a copy with a connection of its own.
pub(crate) fn check(path: &Path, at_least: i64) -> i64 {
    judge(&open(path), at_least)
}

/// Judges a copy until the file `stop` is there; returns how many versions were seen.
pub(crate) fn judge_until(path: &Path, stop: &Path) -> usize {
    let (mut last, mut seen, mut round) = (0, 0, 0);
    let kept = open(path);
    while !stop.exists() {
        round += 1;
        // By turns with a connection that has a cache, and with a new one.
        let version = if round % 2 == 0 {
            judge(&kept, last)
        } else {
            check(path, last)
        };
        seen += usize::from(version > last);
        last = version;
    }
    seen
}

/// A process of this test program.
pub(crate) struct Process(Child);

impl Process {
    /// Runs one of the ignored tests, with these paths.
    pub(crate) fn start(test: &str, paths: &[&Path]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", test, "--nocapture"]);
        for (path, name) in paths.iter().zip(["FOLLOW_A", "FOLLOW_B"]) {
            command.env(name, path);
        }
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        Self(child)
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    pub(crate) fn assert_good(mut self) {
        assert!(self.0.wait().unwrap().success());
    }
}

impl Process {
    pub(crate) fn assert_bad(mut self) {
        assert!(!self.0.wait().unwrap().success());
    }
}

/// The paths given to a process.
pub(crate) fn paths() -> [PathBuf; 2] {
    ["FOLLOW_A", "FOLLOW_B"].map(|name| std::env::var_os(name).unwrap().into())
}

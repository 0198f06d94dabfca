//! Running the binary.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use evertide_testkit::{ChildProcess, TempDir, planted_secret, temp_dir, wait_until};
use rusqlite::Connection;
use serde_json::Value;

/// Longer than anything takes on a busy machine; nothing waits for it that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A directory to run the binary in.
pub(crate) struct Workplace {
    dir: TempDir,
}

/// Whatever a test is about, no log in its directory has a planted secret.
impl Drop for Workplace {
    fn drop(&mut self) {
        let logs = self
            .names()
            .into_iter()
            .filter(|name| name.ends_with("log"));
        for log in logs.filter(|_| !std::thread::panicking()) {
            let text = fs::read(self.path(&log)).unwrap();
            let secret = planted_secret(&String::from_utf8_lossy(&text));
            assert_eq!(secret, None, "a secret is in {log}");
        }
    }
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Workplace {
    pub(crate) fn new() -> Self {
        Self { dir: temp_dir() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Everything in the directory, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().to_str().unwrap().to_owned();
        let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evertide"));
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    /// Runs to the end, which must be success. Gives what it printed.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, arguments: &[S]) -> String {
        let run = self.run(arguments);
        assert_eq!(run.code, Some(0), "{run:?}");
        run.out
    }

    /// Runs to the end, and reads the one JSON document it must have printed.
    pub(crate) fn json<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Value {
        let out = self.ok(arguments);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// Starts it, with its output in the file `log`.
    pub(crate) fn start(&self, arguments: &[&str]) -> ChildProcess {
        let log = self.path("log");
        ChildProcess::spawn_logged(&mut self.command(arguments), &log).unwrap()
    }

    /// Makes a database in WAL mode with some rows in table `t`.
    pub(crate) fn database(&self, name: &str, rows: u32) -> Connection {
        let database = Connection::open(self.path(name)).unwrap();
        database.pragma_update(None, "journal_mode", "WAL").unwrap();
        database.busy_timeout(PATIENCE).unwrap();
        database
            .execute_batch("CREATE TABLE t (x INTEGER)")
            .unwrap();
        insert(&database, rows);
        database
    }

    /// The rows of table `t`.
    pub(crate) fn rows(&self, name: &str) -> i64 {
        self.try_rows(name).unwrap()
    }

    fn try_rows(&self, name: &str) -> rusqlite::Result<i64> {
        let database = Connection::open(self.path(name))?;
        let sound: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        assert_eq!(sound, "ok");
        database.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
    }

    /// The rows of table `t` of what the replica holds now.
    pub(crate) fn replicated_rows(&self, replica: &str) -> i64 {
        let restored = temp_dir();
        let output = restored.path().join("restored.db");
        let output = output.to_str().unwrap();
        let run = self.run(&["restore", replica, "-o", output]);
        // A replica may be empty yet, or have a state before there was a table.
        if run.code == Some(0) {
            self.try_rows(output).unwrap_or(-1)
        } else {
            -1
        }
    }

    /// Waits until the replica holds so many rows.
    pub(crate) fn wait_for_rows(&self, replica: &str, rows: i64) {
        let what = format!("{rows} rows on {replica}");
        wait_until(PATIENCE, &what, || self.replicated_rows(replica) == rows);
    }

    /// Waits until the log has this text.
    pub(crate) fn wait_for_log(&self, process: &ChildProcess, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !process.log().contains(text) {
            let log = process.log();
            assert!(Instant::now() < end, "`{text}` is not in the log:\n{log}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// A key, and a database with these settings.
    pub(crate) fn store(&self, settings: &str) {
        self.ok(&["keygen"]);
        self.write("settings.toml", settings);
        self.insert();
    }

    /// Stores `settings.toml` in `app.db`.
    pub(crate) fn insert(&self) -> String {
        let arguments = [
            "insert-config",
            "--age-key",
            "age.key",
            "--db",
            "app.db",
            "--file",
            "settings.toml",
        ];
        self.ok(&arguments)
    }

    /// Settings with one replica for each name, in a directory of that name.
    pub(crate) fn settings(&self, replicas: &[&str]) -> String {
        replicas
            .iter()
            .map(|name| self.replica_toml("replicas", name))
            .collect()
    }

    pub(crate) fn replica_toml(&self, table: &str, name: &str) -> String {
        let path = self.path(name);
        format!(
            "[[{table}]]\nname = \"{name}\"\ntype = \"file\"\nfile_path = \"{}\"\n\
             sync_interval = \"10ms\"\n\n",
            path.display()
        )
    }
}

impl Run {
    /// Runs the binary to the end. Whatever a test is about, nothing that is printed has a planted secret.
    #[track_caller]
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let run = Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        };
        assert_eq!(planted_secret(&run.out), None, "a secret was printed");
        assert_eq!(planted_secret(&run.err), None, "a secret was printed");
        run
    }

    /// It failed, printed nothing on standard output, and said each of these on standard error.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        for text in said {
            assert!(self.err.contains(text), "`{text}` is not said: {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
    }
}

/// Adds rows, each in a transaction of its own.
pub(crate) fn insert(database: &Connection, rows: u32) {
    for row in 0..rows {
        database
            .execute("INSERT INTO t VALUES (?1)", [row])
            .unwrap();
    }
}

/// The bytes of a file.
pub(crate) fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

/// The most memory that a process has had resident, in KiB.
pub(crate) fn most_memory(process: &ChildProcess) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id()));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.map_or(0, |number| number.parse().unwrap())
}

/// Bytes that a process has read and written so far, whatever from and to.
pub(crate) fn input_and_output(process: &ChildProcess) -> (u64, u64) {
    let io = fs::read_to_string(format!("/proc/{}/io", process.id())).unwrap();
    let of = |name: &str| {
        let line = io.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    (of("rchar:"), of("wchar:"))
}

/// Snapshots of the replica in the directory `replica`.
pub(crate) fn snapshots(place: &Workplace) -> usize {
    let entries = fs::read_dir(place.path("replica/ltx/9")).into_iter();
    let names = entries.flatten().flatten().map(|entry| entry.file_name());
    names
        .filter(|name| name.to_string_lossy().ends_with(".ltx"))
        .count()
}

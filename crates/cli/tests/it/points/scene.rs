//! A database, its replicas, and lives of the binary with them.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    time::{Duration, Instant},
};

use evertide_testkit::{ChildProcess, compare_databases, try_restore_with_litestream};
use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::Value;

use super::Point;
use crate::support::{PATIENCE, Workplace, bytes};

const REPLICATE: [&str; 3] = ["replicate", "--config", "settings.toml"];
const REPLICAS: [&str; 2] = ["replica", "second"];
/// Enough frames for the WAL to start over within a few commits.
const COMMIT: &str = "INSERT INTO t VALUES (randomblob(400000))";
const TRUNCATE: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// What a process does that is killed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Act {
    /// Replicates from the first start to a stop, with all of maintenance, and a second replica that comes and goes.
    Replicate,
    /// Starts after the WAL has started over while nobody watched.
    Rebase,
    /// Restores to a path where nothing is.
    Restore,
    /// Restores to that of another database, whose WAL is there.
    Replace,
}

impl Act {
    pub(super) const ALL: [Self; 4] = [Self::Replicate, Self::Rebase, Self::Restore, Self::Replace];
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) killed: bool,
    /// All it told the log.
    pub(super) told: Vec<String>,
}

/// A database and its replica, with intervals so short that all of maintenance comes within a second.
pub(super) struct Scene {
    place: Workplace,
    database: Connection,
    /// Rows that each replica was found to have while the process lived, or that an orderly end promises.
    durable: [i64; 2],
}

impl Scene {
    /// As the process finds it that is killed.
    pub(super) fn new(act: Act) -> Self {
        let place = Workplace::new();
        let database = place.database("app.db", 5);
        let mut scene = Self {
            place,
            database,
            durable: [-1; 2],
        };
        scene.settings(1);
        if act == Act::Replicate {
            return scene;
        }
        scene.place.ok(&[&REPLICATE[..], &["--once"]].concat());
        scene.durable[0] = scene.rows();
        if act == Act::Rebase {
            scene.start_over_unwatched();
            return scene;
        }
        scene.commit();
        scene.place.ok(&[&REPLICATE[..], &["--once"]].concat());
        if act == Act::Replace {
            let other = scene.place.database("other.db", 3);
            for (from, to) in [("", "copy.db"), ("-wal", "copy.db-wal"), ("", "former.db")] {
                let from = scene.place.path(&format!("other.db{from}"));
                fs::copy(from, scene.place.path(to)).unwrap();
            }
            drop(other);
            fs::remove_file(scene.place.path("other.db")).unwrap();
        }
        scene
    }

    /// With so many replicas.
    fn settings(&self, replicas: usize) {
        let path = |name| self.place.path(name).display().to_string();
        let mut settings = format!(
            "[[databases]]\npath = \"{}\"\nlevels = [{{ interval = \"100ms\" }}, {{ interval = \"200ms\" }}]\n\
             level_0_retention = \"50ms\"\ncheckpoint_interval = \"50ms\"\n",
            path("app.db")
        );
        for name in &REPLICAS[..replicas] {
            settings += &format!(
                "[[databases.replicas]]\nname = \"{name}\"\ntype = \"file\"\nfile_path = \"{}\"\n\
                 sync_interval = \"10ms\"\nsnapshot_interval = \"200ms\"\nretention = \"1s\"\n\
                 retention_check_interval = \"100ms\"\nlease_duration = \"2s\"\n",
                path(name)
            );
        }
        self.place.write("settings.toml", &settings);
    }

    fn rows(&self) -> i64 {
        let counted = self
            .database
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0));
        counted.unwrap()
    }

    fn commit(&self) {
        self.database.execute(COMMIT, []).unwrap();
    }

    /// Who comes next has to compare all pages.
    fn start_over_unwatched(&self) {
        self.database.query_row(TRUNCATE, [], |_| Ok(())).unwrap();
        self.commit();
    }

    /// A process that dies at this point; without one, that only says what it tells the log.
    fn start(&self, arguments: &[&str], point: Option<&Point>) -> ChildProcess {
        let mut command = self.place.command(arguments);
        command.env(
            "EVERTIDE_DIES_AT",
            point.map_or(0, |point| point.n).to_string(),
        );
        if let Some(point) = point {
            command.env("EVERTIDE_DIES_AFTER", point.after);
            command.env("EVERTIDE_DIES_AMONG", point.among);
        }
        ChildProcess::spawn_logged(&mut command, &self.place.path("log")).unwrap()
    }

    /// The life of a process that is killed at this point, or ends by itself.
    pub(super) fn live(&mut self, act: Act, point: Option<&Point>) -> Ended {
        let mut process = match act {
            Act::Replicate => self.replicate(point),
            Act::Rebase => {
                let mut process = self.start(&REPLICATE, point);
                self.commits(&mut process, 5);
                self.confirm(&mut process, 0);
                process
            }
            Act::Restore => self.start(&["restore", "replica", "-o", "copy.db"], point),
            Act::Replace => self.start(&["restore", "replica", "-o", "copy.db", "--force"], point),
        };
        let status = match act {
            Act::Replicate | Act::Rebase => process.terminate(PATIENCE),
            Act::Restore | Act::Replace => process.wait(PATIENCE),
        };
        let (status, log) = (status.unwrap(), process.log());
        let killed = status.signal() == Some(Signal::SIGKILL as i32);
        assert!(status.success() || killed, "{status}: {log}");
        if log.contains("daemon stopped") {
            // It said that everything is on the replica.
            self.durable[0] = self.rows();
        }
        let told = log.lines().filter(|line| line.starts_with("told:"));
        Ended {
            killed,
            told: told.map(str::to_owned).collect(),
        }
    }

    fn replicate(&mut self, point: Option<&Point>) -> ChildProcess {
        let mut process = self.start(&REPLICATE, point);
        self.commits(&mut process, 10);
        self.confirm(&mut process, 0);
        self.commit_until_renewed(&mut process);
        self.settings(2);
        self.reload(&mut process, 1);
        self.commits(&mut process, 3);
        self.confirm(&mut process, 1);
        self.settings(1);
        self.reload(&mut process, 2);
        self.commits(&mut process, 10);
        self.confirm(&mut process, 0);
        self.commits(&mut process, 1);
        process
    }

    fn commits(&self, process: &mut ChildProcess, commits: u32) {
        for _ in 0..commits {
            if process.is_running().unwrap() {
                self.commit();
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Half of the lease has to pass for that.
    fn commit_until_renewed(&self, process: &mut ChildProcess) {
        let place = self.place.path("replica/evertide/lease");
        let renewed = format!("operation=\"rename\" path={}", place.display());
        wait_until(process, "a renewal of the lease", |log| {
            // Each commit is followed by so much that is told.
            std::thread::sleep(Duration::from_millis(100));
            self.commit();
            log.contains(&renewed)
        });
    }

    /// Has the settings read again, for the n-th time.
    fn reload(&self, process: &mut ChildProcess, n: usize) {
        // It may be gone by now.
        let _ = process.signal(Signal::SIGHUP);
        wait_until(process, "a reload", |log| {
            log.matches("message=new settings").count() == n
        });
    }

    /// Waits until a restore of a replica gives all rows, which nothing may take away from then on.
    fn confirm(&mut self, process: &mut ChildProcess, replica: usize) {
        let rows = self.rows();
        let mut found = -1;
        wait_until(process, "a replica with all rows", |_| {
            found = self.restored(replica).map_or(-1, |restored| restored.rows);
            found == rows
        });
        self.durable[replica] = self.durable[replica].max(found);
    }

    /// What a restore of a replica gives.
    fn restored(&self, replica: usize) -> Option<Restored> {
        let (name, path) = (REPLICAS[replica], self.place.path("restored.db"));
        let arguments = ["restore", name, "-o", "restored.db", "--force", "--json"];
        let run = self.place.run(&arguments);
        if run.code != Some(0) {
            return None;
        }
        let report: Value = serde_json::from_str(&run.out).unwrap();
        let rows =
            Connection::open(&path)
                .unwrap()
                .query_row("SELECT count(*) FROM t", [], |row| row.get(0));
        Some(Restored {
            // The first state may have no table yet.
            rows: rows.unwrap_or(-1),
            txid: u64::from_str_radix(report["txid"].as_str().unwrap(), 16).unwrap(),
        })
    }

    /// What was durable is there; after the next start and one more commit a restore is the database; no transaction
    /// is in two files of a level, and nothing is left lying about.
    pub(super) fn check(&mut self, act: Act) -> Result<(), String> {
        for replica in 0..REPLICAS.len() {
            self.check_durable(replica)?;
        }
        match act {
            Act::Replicate | Act::Rebase => self.check_next_start(act),
            Act::Restore | Act::Replace => self.check_next_restore(act),
        }
    }

    /// A replica has all that it was found to have before, and its restore goes as far as its files do.
    fn check_durable(&self, replica: usize) -> Result<(), String> {
        let (name, durable, rows) = (REPLICAS[replica], self.durable[replica], self.rows());
        let newest = (0..=9)
            .flat_map(|level| self.ranges(name, level))
            .map(|range| range.1);
        let restored = self.restored(replica);
        let found = restored.as_ref().map(|restored| restored.txid);
        if found != newest.max() {
            return Err(format!(
                "{name}: {found:?} is restored: {:?}",
                self.files(name)
            ));
        }
        let restored = restored.map_or(-1, |restored| restored.rows);
        if !(durable..=rows).contains(&restored) {
            return Err(format!(
                "{name}: {restored} of {durable} durable rows, of {rows} in all"
            ));
        }
        self.check_ranges(name)
    }

    fn check_next_start(&self, act: Act) -> Result<(), String> {
        // The locks went with the process: the WAL may start over before the next one comes.
        if self.rows() % 2 == 0 {
            self.start_over_unwatched();
        }
        let both = act == Act::Replicate && self.place.exists("second");
        let replicas = if both { &REPLICAS[..] } else { &REPLICAS[..1] };
        self.settings(replicas.len());
        let log = self.place.path("next.log");
        let mut process =
            ChildProcess::spawn_logged(&mut self.place.command(&REPLICATE), &log).unwrap();
        wait_until(&mut process, "start", |log| log.contains("daemon started"));
        self.commit();
        // What is superfluous in a folder goes before the next object is stored there.
        let end = Instant::now() + PATIENCE;
        let ready = |name: &&str| !self.ranges(name, 9).is_empty();
        while !(self.strays().is_empty() && replicas.iter().all(ready)) {
            if Instant::now() > end {
                return Err(format!("left behind for ever: {:?}", self.strays()));
            }
            self.commit();
            std::thread::sleep(Duration::from_millis(30));
        }
        // Of what was captured only the newest file stays, once all of it is on the replicas.
        while self.staged().len() > 1 {
            if Instant::now() > end {
                return Err(format!("what was uploaded is left: {:?}", self.staged()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = process
            .terminate(PATIENCE)
            .map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("the next one: {status}: {}", process.log()));
        }
        for name in replicas {
            let restored = self.place.path("restored.db");
            remove(&restored);
            try_restore_with_litestream(self.place.path(name), &restored)
                .map_err(|error| error.to_string())?;
            self.compare(&restored)?;
            self.check_ranges(name)?;
        }
        // What it was just storing when it was stopped is superfluous until the next start.
        Ok(())
    }

    /// The captured files that are still here.
    fn staged(&self) -> Vec<String> {
        let mut files = files_below(&self.place.path(".app.db-evertide"), "");
        files.retain(|name| is_ltx(name.rsplit('/').next().unwrap_or_default()));
        files
    }

    fn check_next_restore(&self, act: Act) -> Result<(), String> {
        let copy = self.place.path("copy.db");
        let arguments = ["restore", "replica", "-o", "copy.db", "--force"];
        match act {
            Act::Restore if copy.exists() => self.compare(&copy)?,
            Act::Restore => drop(self.place.ok(&arguments[..4])),
            // It is the former one, byte for byte, or all of the new one.
            _ if bytes(&copy) != bytes(&self.place.path("former.db")) => self.compare(&copy)?,
            _ => {}
        }
        if act == Act::Replace {
            self.place.ok(&arguments);
        }
        self.compare(&copy)?;
        self.check_strays()
    }

    fn compare(&self, restored: &Path) -> Result<(), String> {
        let compared = compare_databases(self.place.path("app.db"), restored);
        compared.map(drop).map_err(|error| error.to_string())
    }

    /// The transactions of the files of a level, sorted.
    fn ranges(&self, replica: &str, level: u32) -> Vec<(u64, u64)> {
        let number = |hex: &str| u64::from_str_radix(hex, 16).unwrap();
        let folder = self.place.path(&format!("{replica}/ltx/{level}"));
        let mut ranges: Vec<_> = names(&folder)
            .iter()
            .filter(|name| is_ltx(name))
            .filter_map(|name| name.strip_suffix(".ltx")?.split_once('-'))
            .map(|(min, max)| (number(min), number(max)))
            .collect();
        ranges.sort_unstable();
        ranges
    }

    /// The files of each level.
    fn files(&self, replica: &str) -> Vec<Vec<(u64, u64)>> {
        (0..=9).map(|level| self.ranges(replica, level)).collect()
    }

    /// No transaction is in two files of a level. Snapshots all begin at 1.
    fn check_ranges(&self, replica: &str) -> Result<(), String> {
        let levels = &self.files(replica)[..9];
        let overlaps =
            |level: &Vec<(u64, u64)>| level.windows(2).any(|pair| pair[1].0 <= pair[0].1);
        match levels.iter().position(overlaps) {
            Some(level) => Err(format!(
                "{replica}: level {level} overlaps: {:?}",
                levels[level]
            )),
            None => Ok(()),
        }
    }

    /// Files that belong neither to a database, nor to its state, nor to a replica.
    fn strays(&self) -> Vec<String> {
        let mut strays = files_below(&self.place.path(""), "");
        let known = |name: &str| {
            let databases = ["app.db", "copy.db", "former.db", "restored.db"];
            let database = name.strip_suffix("-wal").or(name.strip_suffix("-shm"));
            let state = name.strip_prefix(".app.db-evertide/").unwrap_or_default();
            let replica = REPLICAS
                .iter()
                .find_map(|replica| name.strip_prefix(replica));
            ["log", "next.log", "settings.toml"].contains(&name)
                || databases.contains(&database.unwrap_or(name))
                || ["lock", "identity", "position", "pages"].contains(&state)
                // Its records, its lease, and the empty file that their writers lock.
                || ["/evertide/checksums", "/evertide/lease", "/evertide/.lock"]
                    .contains(&replica.unwrap_or_default())
                || is_ltx(name.rsplit('/').next().unwrap_or_default())
        };
        strays.retain(|name| !known(name));
        strays
    }

    fn check_strays(&self) -> Result<(), String> {
        match self.strays() {
            strays if strays.is_empty() => Ok(()),
            strays => Err(format!("left behind: {strays:?}")),
        }
    }
}

/// What a restore gave.
struct Restored {
    rows: i64,
    txid: u64,
}

/// Waits for this, of what the process printed, or for its end.
fn wait_until(process: &mut ChildProcess, what: &str, mut is: impl FnMut(&str) -> bool) {
    let end = Instant::now() + PATIENCE;
    while process.is_running().unwrap() && !is(&process.log()) {
        assert!(Instant::now() < end, "no {what}: {}", process.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn remove(database: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", database.display()));
    }
}

fn is_ltx(name: &str) -> bool {
    name.len() == 37 && name.ends_with(".ltx") && !name.starts_with('.')
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

/// Every file, named from the folder on.
fn files_below(folder: &Path, prefix: &str) -> Vec<String> {
    let mut files = Vec::new();
    for name in names(folder) {
        let (path, name) = (folder.join(&name), format!("{prefix}{name}"));
        if path.is_dir() {
            files.extend(files_below(&path, &format!("{name}/")));
        } else {
            files.push(name);
        }
    }
    files
}

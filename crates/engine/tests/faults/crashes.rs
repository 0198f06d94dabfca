//! The power goes, at any operation, and what was not synced is there, missing or torn.
//!
//! Local state and replica are put back to what the cut left of them. The database is SQLite's: it
//! is put back, in place so that it stays the same file, to what it was when the writer last paused
//! before the cut, as if its commits had been lost, or when it first paused after it.

use std::{ops::Range, path::PathBuf, sync::Arc, time::Duration};

use evertide::{Durability, Replication};
use evertide_storage::{CrashPoint, Disk, RecordingDisk, Unsynced};
use rusqlite::Connection;

use crate::{
    DEADLINE, Restorer, SHORT_LEASE, Scene, check_rows, count, insert,
    lies::{Lie, LyingDisk},
    start_wal_over_unwatched,
};

/// How many power cuts of each recording; `EVERTIDE_CRASHES` says how many else, or `all`.
const TRIALS: usize = 100;
const MAINTAINED_TRIALS: usize = 40;
const OFFICIAL_EVERY: u64 = 10;

/// What the disk and the database were when the writer paused.
struct Pause {
    operations: usize,
    /// Copies of the database and its WAL.
    copies: PathBuf,
}

/// What happens to the replica beside uploads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Upkeep {
    /// Nothing in so short a time.
    None,
    /// Compaction, snapshots and retention.
    Quick,
}

/// What the disk was asked to do in maintenance.
#[derive(Clone, Copy, Debug)]
struct Maintained {
    compacted: usize,
    snapshots: usize,
    deleted: usize,
}

impl Maintained {
    fn of(operations: &[String]) -> Self {
        let count = |is: fn(&str) -> bool| operations.iter().filter(|op| is(op)).count();
        Self {
            compacted: count(is_compaction),
            snapshots: count(is_snapshot),
            deleted: count(is_deletion),
        }
    }

    fn is_complete(&self) -> bool {
        self.compacted > 0 && self.snapshots > 1 && self.deleted > 0
    }
}

fn is_compaction(operation: &str) -> bool {
    operation.starts_with("rename ") && operation.contains(" to replica/ltx/1/")
}

fn is_snapshot(operation: &str) -> bool {
    operation.starts_with("rename ") && operation.contains(" to replica/ltx/9/")
}

fn is_deletion(operation: &str) -> bool {
    operation.starts_with("remove replica/ltx/") && operation.ends_with(".ltx")
}

/// A run with everything that is needed to cut it short anywhere.
struct Recording {
    scene: Scene,
    upkeep: Upkeep,
    disk: Arc<RecordingDisk>,
    /// The operations of the start that compared all pages.
    comparison: Range<usize>,
    pauses: Vec<Pause>,
    /// Rows that were reported durable, and how many operations had happened by then.
    durable: Vec<(usize, i64)>,
}

impl Recording {
    /// From the first snapshot through commits, rotations, a restart and a comparison of all pages. `lie` is
    /// told to the recording disk.
    async fn new(upkeep: Upkeep, lie: Option<Lie>) -> Self {
        // What is put back after a power cut are copies, so that each start is by another owner.
        let scene = Scene {
            lease: SHORT_LEASE,
            ..Scene::new()
        };
        let recording = Arc::new(RecordingDisk::new(&scene.dir).unwrap());
        let disk: Arc<dyn Disk> = match lie {
            Some(lie) => Arc::new(LyingDisk::new(Arc::clone(&recording) as Arc<dyn Disk>, lie)),
            None => Arc::clone(&recording) as Arc<dyn Disk>,
        };
        let conn = scene.open();
        conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
            .unwrap();
        insert(&conn, 5);
        let mut this = Self {
            scene,
            upkeep,
            disk: recording,
            comparison: 0..0,
            pauses: Vec::new(),
            durable: Vec::new(),
        };
        this.pause();
        for life in 0..2 {
            let backup = match upkeep {
                Upkeep::None => this.scene.replication(Arc::clone(&disk)),
                Upkeep::Quick => this.scene.maintained(Arc::clone(&disk)),
            };
            let begun = this.disk.operations();
            backup.start().await.unwrap();
            this.comparison = begun..this.disk.operations();
            assert_eq!(backup.status().rebases, life, "{:#?}", backup.status());
            for rows in [1, 3, 2, 7, 1, 1] {
                this.wait_durable(&backup, count(&conn)).await;
                insert(&conn, rows);
                this.pause();
                backup.sync().await.unwrap();
                this.pause();
            }
            if upkeep == Upkeep::Quick && life == 1 {
                this.live_through_maintenance(&backup, &conn).await;
            }
            backup.stop(DEADLINE).await.unwrap();
            insert(&conn, 2);
            this.pause();
            start_wal_over_unwatched(&conn);
            this.pause();
        }
        this
    }

    /// Goes on until level 1, a second snapshot and deletions are on record.
    async fn live_through_maintenance(&mut self, backup: &Replication, conn: &Connection) {
        let until = std::time::Instant::now() + DEADLINE;
        while !self.maintained().is_complete() {
            assert!(std::time::Instant::now() < until, "{:?}", self.maintained());
            self.wait_durable(backup, count(conn)).await;
            tokio::time::sleep(Duration::from_millis(30)).await;
            insert(conn, 1);
            self.pause();
        }
    }

    fn maintained(&self) -> Maintained {
        Maintained::of(&self.disk.describe())
    }

    /// So many points of all there are; half of them where maintenance is at work, or all pages are compared.
    fn draw(&self, trials: usize, rng: &mut fastrand::Rng) -> Vec<CrashPoint> {
        let mut points: Vec<CrashPoint> = self.disk.crash_points(2).collect();
        rng.shuffle(&mut points);
        let operations = self.disk.describe();
        let is_rare = |point: &CrashPoint| {
            let around = &operations[point.operations.saturating_sub(1)..];
            let maintains = |op: &String| is_compaction(op) || is_snapshot(op) || is_deletion(op);
            self.comparison.contains(&point.operations) || around.iter().take(2).any(maintains)
        };
        let (mut drawn, others): (Vec<_>, Vec<_>) = points.into_iter().partition(is_rare);
        let rest = drawn.split_off(drawn.len().min(trials / 2));
        drawn.extend(others.into_iter().chain(rest));
        drawn.truncate(trials);
        drawn
    }

    fn pause(&mut self) {
        let copies = self.scene.dir.join(format!("pause-{}", self.pauses.len()));
        std::fs::create_dir(&copies).unwrap();
        self.scene.copy_database(&copies);
        self.pauses.push(Pause {
            operations: self.disk.operations(),
            copies,
        });
    }

    async fn wait_durable(&mut self, backup: &Replication, rows: i64) {
        let wait = backup.wait_durable(Durability::All);
        tokio::time::timeout(DEADLINE, wait).await.unwrap().unwrap();
        self.durable.push((self.disk.operations(), rows));
    }

    /// The rows that had been reported durable before the cut.
    fn durable_at(&self, operations: usize) -> i64 {
        let before = self.durable.iter().filter(|(at, _)| *at <= operations);
        before.map(|(_, rows)| *rows).max().unwrap_or_default()
    }

    /// The pause of the writer before or after the cut.
    fn pause_at(&self, operations: usize, commits: Commits) -> &Pause {
        let after = self
            .pauses
            .iter()
            .position(|pause| pause.operations >= operations)
            .unwrap_or(self.pauses.len() - 1);
        match commits {
            Commits::Lost => &self.pauses[after.saturating_sub(1)],
            Commits::Kept => &self.pauses[after],
        }
    }

    /// Puts everything to where the power was cut.
    fn cut(&self, point: CrashPoint, commits: Commits) {
        let scene = &self.scene;
        let left = scene.dir.join("left");
        for dir in [&scene.state(), &scene.replica, &left] {
            let _ = std::fs::remove_dir_all(dir);
        }
        std::fs::create_dir(&left).unwrap();
        self.disk.replay(point, &left).unwrap();
        for dir in [scene.state(), scene.replica.clone()] {
            let _ = std::fs::rename(left.join(dir.file_name().unwrap()), dir);
        }
        scene.put_database_back(&self.pause_at(point.operations, commits).copies);
    }

    /// Cuts the power, starts again, and looks what became of the backup.
    async fn trial(
        &self,
        point: CrashPoint,
        commits: Commits,
        restorer: Restorer,
    ) -> Result<(), String> {
        self.cut(point, commits);
        let durable = self.durable_at(point.operations);
        if durable > 0 {
            check_rows(&self.scene.restore(restorer).await?, durable)?;
        }
        let conn = self.scene.open();
        if self.upkeep == Upkeep::Quick {
            self.scene.clean_up(&conn).await?;
        }
        self.scene.recover(&conn, restorer).await
    }

    /// The last operations before the cut, for a message.
    fn around(&self, point: CrashPoint) -> String {
        let operations = self.disk.describe();
        let last = &operations[..point.operations];
        last[last.len().saturating_sub(5)..].join(", ")
    }
}

/// What became of commits that SQLite did not sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Commits {
    Lost,
    Kept,
}

/// Cuts the power at some of all the moments of a run.
async fn cut_at_any_moment(recording: Recording, trials: usize) {
    let mut rng = fastrand::Rng::with_seed(evertide_testkit::seed());
    let given = std::env::var("EVERTIDE_CRASHES").ok();
    let trials = match given.as_deref() {
        Some("all") => usize::MAX,
        given => given.map_or(trials, |trials| trials.parse().unwrap()),
    };
    let points = recording.draw(trials, &mut rng);
    let trials = points.len();
    let mut failures = Vec::new();
    for (number, point) in (0..).zip(points) {
        let commits = [Commits::Lost, Commits::Kept][rng.usize(..2)];
        // Mixtures of other trials are others.
        let point = match point.unsynced {
            Unsynced::Mixed { .. } => CrashPoint {
                unsynced: Unsynced::Mixed { seed: rng.u64(..) },
                ..point
            },
            _ => point,
        };
        let restorer = Restorer::official_every(OFFICIAL_EVERY, number);
        if let Err(error) = recording.trial(point, commits, restorer).await {
            let around = recording.around(point);
            failures.push(format!(
                "{point:?}, commits {commits:?}, after {around}: {error}"
            ));
        }
    }
    println!(
        "{trials} power cuts of {}, {} operations, {:?}",
        recording.disk.crash_points(2).count(),
        recording.disk.operations(),
        recording.maintained()
    );
    assert!(
        failures.is_empty(),
        "{} of {trials}:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[tokio::test]
async fn a_power_cut_at_any_moment_takes_nothing_that_was_reported_durable() {
    cut_at_any_moment(Recording::new(Upkeep::None, None).await, TRIALS).await;
}

#[tokio::test]
async fn a_power_cut_while_files_are_compacted_and_deleted_takes_nothing_that_was_reported_durable()
{
    let recording = Recording::new(Upkeep::Quick, None).await;
    assert!(recording.maintained().is_complete());
    cut_at_any_moment(recording, MAINTAINED_TRIALS).await;
}

/// The canary: a disk that does not sync loses what was reported durable.
#[tokio::test]
async fn a_disk_that_only_says_it_synced_fails_the_test_above() {
    let recording = Recording::new(Upkeep::None, Some(Lie::Sync)).await;
    let (operations, rows) = *recording.durable.last().unwrap();
    assert!(rows > 0);
    let point = |unsynced| CrashPoint {
        operations,
        unsynced,
    };
    let trial = |unsynced| recording.trial(point(unsynced), Commits::Kept, Restorer::Own);
    assert_eq!(trial(Unsynced::Kept).await, Ok(()));
    assert!(trial(Unsynced::Dropped).await.is_err());
}

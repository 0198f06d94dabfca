//! The application's locks within all that the backup does in its process, at each operation on files, and whichever of
//! them fails. Seen from another process, as only that one shows POSIX locks.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use evertide::{
    ExistingOutput, Replication, RestoreOptions, RestoreTarget, Txid, VerifyDepth, VerifyOptions,
    restore, verify,
};
use evertide_storage::{Destination, Disk, Fault, FaultDisk, OsDisk, ReplicaClient};
use evertide_testkit::{
    another_process_can_write, another_process_finds_a_lock_of, another_process_finds_locks_of,
    memory_dir,
};
use futures_util::{StreamExt, stream};
use rusqlite::Connection;

use crate::{
    DEADLINE, Scene, count,
    fail::{durable, some_of, start},
    insert, start_wal_over_unwatched,
};

const EIO: i32 = 5;
/// Runs at a time: they wait more than they work.
const PARALLEL: usize = 24;
/// How long a run waits on a disk that stays dead.
const PATIENCE: Duration = Duration::from_millis(50);

/// Operations after a failed one at which the locks are looked at, and then at the end of all that is asked for: a lock
/// that was lost does not come back, and up to there nothing fails.
const AFTERWARDS: u64 = 12;

/// Operations of a start up to which all pages were compared; what follows is that of others.
const PAGES_COMPARED: u64 = 56;

/// Bytes of the wal-index: the write lock, and those of readers of the WAL.
const WRITE: u32 = 120;
const READERS: std::ops::Range<u32> = 124..128;
/// `SHARED_FIRST` of SQLite, in the database file: who has it open. Without it another process deletes the WAL.
const SHARED: u32 = 0x4000_0002;

/// The process with the backup and the application.
fn us() -> Option<i32> {
    Some(std::process::id().cast_signed())
}

/// The locks of the application, and what was seen of them.
struct Watched {
    /// What it is, the file, and the byte.
    locks: [(&'static str, PathBuf, u32); 3],
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// What the backup is asked to do.
    during: &'static str,
    /// Where the locks were looked at last.
    last: String,
    looks: u64,
    /// During what they were looked at, and at which operations.
    places: BTreeSet<(&'static str, String)>,
    /// The writer commits, and begins again.
    commits: bool,
    /// The first time that one was not there.
    lost: Option<String>,
    /// A look after which a file is closed by hand, to see that this is noticed.
    closes: Option<(u64, PathBuf)>,
}

impl Seen {
    fn passed(&mut self, at: &str) {
        self.last = format!("{at} of {}", self.during);
    }
}

impl Watched {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    fn look(&self, at: &str) {
        let asked = [0, 1, 2].map(|n| (self.locks[n].1.as_path(), self.locks[n].2));
        let mut seen = self.seen();
        let owners = another_process_finds_locks_of(&asked);
        for ((name, _, byte), owner) in self.locks.iter().zip(owners) {
            let excused = seen.commits && *byte == WRITE;
            if owner != us() && !excused && seen.lost.is_none() {
                let Seen { during, last, .. } = &*seen;
                let lost = format!("{name} is lost during {during}, between {last} and {at}");
                seen.lost = Some(lost);
            }
        }
        seen.looks += 1;
        let looks = seen.looks;
        seen.passed(at);
        let place = (seen.during, at.to_owned());
        seen.places.insert(place);
        if let Some((_, file)) = seen.closes.take_if(|(look, _)| *look == looks) {
            drop(File::open(file).unwrap());
        }
    }
}

/// In the middle of a write transaction, and with another connection in the middle of a read transaction.
struct Application {
    writer: Connection,
    reader: Connection,
    rows: i64,
    watched: Arc<Watched>,
}

impl Application {
    fn begin(scene: &Scene, writer: Connection) -> Self {
        let (db, shm) = (scene.db.clone(), scene.beside("-shm"));
        let reader = scene.open();
        insert(&writer, 1);
        reader.execute_batch("BEGIN").unwrap();
        let rows = count(&reader);
        let is_ours = |slot: &u32| another_process_finds_a_lock_of(&shm, *slot) == us();
        let slots: Vec<u32> = READERS.filter(is_ours).collect();
        let [slot] = slots[..] else {
            panic!("{slots:?} are locked by connections of this process")
        };
        // Its state stays the newest one for nobody else, who would share its lock.
        insert(&writer, 1);
        writer
            .execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (-1, 'uncommitted')")
            .unwrap();
        let locks = [
            ("the lock of the writer", shm.clone(), WRITE),
            ("the lock of the reader", shm, slot),
            ("the lock on the database file", db, SHARED),
        ];
        let seen = Mutex::default();
        Self {
            writer,
            reader,
            rows,
            watched: Arc::new(Watched { locks, seen }),
        }
    }

    /// The writer commits what it wrote, and is at once in the next transaction. Whoever waits for a look meanwhile may
    /// be holding writers: it does not wait for this.
    fn commit(&self) {
        self.watched.seen().commits = true;
        let next = "COMMIT; BEGIN IMMEDIATE; INSERT INTO t SELECT max(a) + 1, 'uncommitted' FROM t";
        self.writer.execute_batch(next).unwrap();
        self.watched.seen().commits = false;
    }

    /// Both go on as if nothing had been.
    fn end(self) -> Result<Connection, String> {
        if count(&self.reader) != self.rows {
            return Err("the reader sees another state".into());
        }
        for conn in [&self.reader, &self.writer] {
            let committed = conn.execute_batch("COMMIT");
            committed.map_err(|error| error.to_string())?;
        }
        for (name, file, byte) in &self.watched.locks[..2] {
            if another_process_finds_a_lock_of(file, *byte) == us() {
                return Err(format!("{name} is still there"));
            }
        }
        Ok(self.writer)
    }
}

/// Whether there was a backup before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum History {
    None,
    /// The WAL was restarted while nobody watched: all pages have to be compared.
    Outdated,
}

/// How much is asked of the backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Course {
    /// A start and a stop.
    Short,
    /// With compaction, snapshots, retention and drills within moments, reloads, verifications and restores in
    /// between, and a second start.
    Whole,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    history: History,
    course: Course,
    /// The n-th operation fails.
    n: u64,
    fault: Fault,
}

impl Plan {
    fn clean(history: History, course: Course) -> Self {
        Self {
            history,
            course,
            n: u64::MAX,
            fault: Fault::Once,
        }
    }
}

/// Somebody who asks things of the backup, and has the locks looked at after each.
struct Asking<'a> {
    scene: &'a Scene,
    disk: Arc<FaultDisk>,
    application: &'a Application,
    patience: Duration,
    /// What did not come about.
    errors: Vec<String>,
}

impl Asking<'_> {
    fn begins(&self, what: &'static str) {
        self.application.watched.seen().during = what;
    }

    fn ended<T, E: Debug>(&mut self, outcome: Result<T, E>) {
        let watched = &self.application.watched;
        watched.look("its end");
        if let Err(error) = outcome {
            let during = watched.seen().during;
            self.errors.push(format!("{during}: {error:?}"));
        }
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk) as Arc<dyn Disk>
    }

    fn client(&self) -> Arc<dyn ReplicaClient> {
        let destination = Destination::file(&self.scene.replica).unwrap();
        destination.connect(self.disk()).unwrap()
    }

    async fn start(&mut self, backup: &Replication, fault: Fault) -> bool {
        self.begins("the start");
        let started = start(backup, fault).await;
        let runs = matches!(started, Ok(true));
        self.ended(started);
        runs
    }

    async fn durable(&mut self, backup: &Replication) {
        let done = durable(backup, self.patience).await;
        self.ended(done.then_some(()).ok_or("it is not"));
    }

    /// With a commit that is not captured yet, or is just being captured.
    async fn stop(&mut self, backup: &Replication) {
        self.begins("the stop");
        self.application.commit();
        let stopped = backup.stop(self.patience).await;
        self.ended(stopped);
    }

    /// Commits until the replica was compacted, has another snapshot, has lost something, and was restored by a drill.
    async fn maintenance(&mut self, backup: &Replication) {
        self.begins("maintenance");
        let all = async {
            loop {
                let replica = backup.status().replicas.remove(0);
                let done = replica.maintained;
                let kept_small = done.compactions > 0 && done.snapshots > 0 && done.deleted > 0;
                if kept_small && replica.drill.proven.is_some() {
                    return;
                }
                self.application.commit();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let done = tokio::time::timeout(self.patience, all).await;
        self.ended(done);
    }

    async fn reload(&mut self, backup: &Replication) {
        let mut options = backup.options();
        let second = self.scene.replica_options(&self.scene.second().replica);
        options.replicas.push(second);
        self.begins("a reload that adds a replica");
        let updated = backup.update(options.clone()).await;
        self.ended(updated);
        self.durable(backup).await;
        options.replicas.truncate(1);
        self.begins("a reload that removes a replica");
        let updated = backup.update(options).await;
        self.ended(updated);
    }

    async fn verify(&mut self) {
        for (what, depth) in [
            ("a verification of the files", VerifyDepth::Files),
            ("a verification by restoring", VerifyDepth::Restore),
        ] {
            self.begins(what);
            let mut options = VerifyOptions::new(self.client());
            (options.depth, options.disk) = (depth, self.disk());
            let verified = verify(options).await;
            self.ended(verified);
        }
    }

    async fn restore(&mut self) {
        let options = |output: &Path| {
            let mut options = RestoreOptions::new(self.client(), output);
            options.disk = self.disk();
            options
        };
        let output = self.scene.dir.join("restored.db");
        let good = options(&output);
        let onto_the_database = options(&self.scene.db);
        let [impossible, impossible_onto_it] = [&output, &self.scene.db].map(|output| {
            let mut options = options(output);
            options.existing = ExistingOutput::Replace;
            options.target = RestoreTarget::Txid(Txid::new(999));
            options
        });
        self.begins("a restore");
        let restored = restore(good).await;
        self.ended(restored);
        for (what, options) in [
            ("a restore that is refused", onto_the_database),
            ("a restore that fails", impossible),
            ("one onto the database that fails", impossible_onto_it),
        ] {
            self.begins(what);
            let failed = restore(options).await.err().ok_or("it did not fail");
            self.ended(failed);
        }
    }
}

fn replication(scene: &Scene, course: Course, disk: Arc<dyn Disk>) -> Replication {
    match course {
        Course::Short => scene.replication(disk),
        Course::Whole => {
            let mut options = scene.maintained_options(&scene.replica);
            options.drill_interval = Some(Duration::from_millis(50));
            options.drill_directory = Some(scene.dir.clone());
            scene.replicating(options, disk)
        }
    }
}

async fn ask(asking: &mut Asking<'_>, plan: Plan) {
    let backup = replication(asking.scene, plan.course, asking.disk());
    let runs = asking.start(&backup, plan.fault).await;
    if runs {
        asking.begins("a snapshot");
        asking.durable(&backup).await;
    }
    if plan.course == Course::Whole {
        if runs {
            asking.begins("a commit");
            asking.application.commit();
            asking.durable(&backup).await;
            asking.maintenance(&backup).await;
            asking.reload(&backup).await;
        }
        asking.verify().await;
        asking.restore().await;
    }
    if runs {
        asking.stop(&backup).await;
    }
    if plan.course == Course::Whole && asking.start(&backup, plan.fault).await {
        asking.stop(&backup).await;
    }
}

/// What was seen in a run.
struct Run {
    seen: Seen,
    tripped: bool,
    operations: u64,
    errors: Vec<String>,
}

async fn run(plan: Plan, closes: Option<(u64, &str)>) -> Result<Run, String> {
    let scene = Scene::within(memory_dir());
    let conn = scene.fill(5);
    if plan.history == History::Outdated {
        scene.replicate_one_more_commit(&conn).await?;
        start_wal_over_unwatched(&conn);
    }
    let application = Application::begin(&scene, conn);
    let watched = Arc::clone(&application.watched);
    watched.seen().closes = closes.map(|(look, suffix)| (look, scene.beside(suffix)));
    let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
    disk.fail_at(plan.n, plan.fault, EIO);
    let (at_each, done) = (Arc::clone(&watched), AtomicU64::new(0));
    disk.call_at_each(move |operation| {
        let done = done.fetch_add(1, Ordering::Relaxed);
        if plan.n == u64::MAX || (plan.n..plan.n + AFTERWARDS).contains(&done) {
            at_each.look(operation);
        } else {
            at_each.seen().passed(operation);
        }
    });
    let mut asking = Asking {
        scene: &scene,
        disk: Arc::clone(&disk),
        application: &application,
        patience: match plan.fault {
            Fault::Once => DEADLINE,
            Fault::Forever => PATIENCE,
        },
        errors: Vec::new(),
    };
    ask(&mut asking, plan).await;
    let errors = asking.errors;
    disk.call_at_each(|_| {});
    let (tripped, operations) = (disk.tripped(), disk.operations());
    let seen = std::mem::take(&mut *watched.seen());
    let failed = |what: String| {
        let operation = disk.log().get((plan.n - 1) as usize).copied();
        format!("{plan:?} ({operation:?}): {what}")
    };
    if closes.is_none() {
        if let Some(lost) = seen.lost {
            return Err(failed(lost));
        }
        let conn = application.end().map_err(failed)?;
        if !tripped && !another_process_can_write(&scene.db) {
            return Err(failed("something stays locked".into()));
        }
        drop(conn);
    }
    Ok(Run {
        seen,
        tripped,
        operations,
        errors,
    })
}

#[tokio::test]
async fn at_no_operation_of_a_backup_that_starts_compacts_drills_reloads_restores_and_stops_a_lock_is_missing()
 {
    for history in [History::None, History::Outdated] {
        let plan = Plan::clean(history, Course::Whole);
        let Run { seen, errors, .. } = run(plan, None).await.unwrap();
        assert_eq!(errors, [""; 0]);
        let at = |during: &str| -> Vec<&str> {
            let places = seen.places.iter().filter(|place| place.0 == during);
            places.map(|place| place.1.as_str()).collect()
        };
        println!("{history:?}: {} looks", seen.looks);
        assert!(seen.looks > 200, "{} looks", seen.looks);
        for (during, operation) in [
            ("the start", "create_new"),
            ("a commit", "rename"),
            ("maintenance", "remove_file"),
            ("a reload that adds a replica", "rename_noreplace"),
            ("a reload that removes a replica", "its end"),
            ("a verification of the files", "read_at"),
            ("a verification by restoring", "read_at"),
            ("a restore", "rename_noreplace"),
            ("a restore that is refused", "metadata"),
            ("a restore that fails", "read_dir"),
            ("one onto the database that fails", "read_dir"),
            ("the stop", "rename"),
        ] {
            let seen = at(during);
            assert!(seen.contains(&operation), "{during} has {seen:?}");
        }
    }
}

/// The canary: each look is the first one after which a file is closed by hand.
#[tokio::test]
async fn a_file_that_is_closed_by_hand_at_any_operation_is_named_with_that_operation() {
    let plan = Plan::clean(History::None, Course::Short);
    let clean = run(plan, None).await.unwrap();
    let looks = clean.seen.looks;
    for (suffix, locks) in [("-shm", ["writer", "reader"]), ("", ["file", "file"])] {
        for look in [1, looks / 3, looks / 2, looks * 3 / 4] {
            let Run { seen, .. } = run(plan, Some((look, suffix))).await.unwrap();
            let lost = seen.lost.unwrap_or_default();
            println!("{look}: {lost}");
            let named = locks.iter().any(|lock| lost.contains(lock));
            assert!(named && lost.contains("between"), "{look}: {lost:?}");
        }
    }
}

/// No lock is missing at any operation, whichever of these fails.
async fn whichever_operation_fails(course: Course, fault: Fault, all_up_to: [u64; 2]) {
    let mut plans = Vec::new();
    for (history, all_up_to) in [History::None, History::Outdated]
        .into_iter()
        .zip(all_up_to)
    {
        let clean = Plan::clean(history, course);
        let total = run(clean, None).await.unwrap().operations;
        let mut operations = some_of(all_up_to.min(total), total);
        operations.push(total * 10);
        plans.extend(operations.into_iter().map(|n| Plan { n, fault, ..clean }));
    }
    let runs = stream::iter(plans).map(|plan| run(plan, None));
    let runs: Vec<_> = runs.buffered(PARALLEL).collect().await;
    let failures: Vec<&String> = runs.iter().filter_map(|run| run.as_ref().err()).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    let runs: Vec<&Run> = runs.iter().flatten().collect();
    let count = |is: fn(&Run) -> bool| runs.iter().filter(|run| is(run)).count();
    let (tripped, failed) = (
        count(|run| run.tripped),
        count(|run| !run.errors.is_empty()),
    );
    let looks: u64 = runs.iter().map(|run| run.seen.looks).sum();
    println!(
        "{} runs, {tripped} with a fault, {failed} with errors, {looks} looks",
        runs.len()
    );
    // How many operations there are depends on how quick everything is.
    assert!(tripped * 4 >= runs.len() * 3, "{tripped} faults");
    // What fails once is done again.
    assert!(
        fault == Fault::Once || failed * 2 >= tripped,
        "{failed} errors"
    );
    assert!(
        runs.last().is_some_and(|run| !run.tripped),
        "a run is clean"
    );
}

#[tokio::test]
async fn whichever_operation_of_a_start_or_a_stop_fails_no_lock_is_missing_at_any() {
    for fault in [Fault::Once, Fault::Forever] {
        whichever_operation_fails(Course::Short, fault, [u64::MAX, PAGES_COMPARED]).await;
    }
}

#[tokio::test]
async fn whichever_operation_fails_of_maintenance_reloads_and_restores_no_lock_is_missing_at_any() {
    whichever_operation_fails(Course::Whole, Fault::Once, [0, 0]).await;
}

#[tokio::test]
async fn where_all_fails_from_an_operation_of_maintenance_reloads_and_restores_on_no_lock_is_missing_at_any()
 {
    whichever_operation_fails(Course::Whole, Fault::Forever, [0, 0]).await;
}

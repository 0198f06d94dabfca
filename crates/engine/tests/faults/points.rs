//! Processes that kill themselves before an operation on files, or before a step of capture with its locks: each step
//! of capture, rotation, upload, lease, compaction, snapshots, retention, reload, stop, restart, comparison of pages and
//! restore has one before it. Each run has one in each of these.

use std::{
    collections::BTreeMap,
    fmt,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use evertide::{Durability, Replication, RestoreOptions};
use evertide_storage::{Destination, Disk, FaultDisk, OsDisk};
use futures_util::{StreamExt, stream};
use nix::sys::signal::{Signal, raise};
use rusqlite::Connection;
use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    DEADLINE, Restorer, SHORT_LEASE, Scene, check_rows, count, insert, start_wal_over_unwatched,
};

/// The folder that the process works in.
const DIR: &str = "EVERTIDE_POINTS_DIR";
/// What it dies before.
const POINT: &str = "EVERTIDE_POINT";
/// In each test run beside one in each phase; `EVERTIDE_POINTS` says how many more, or `all`.
const POINTS: usize = 4;
/// Processes at a time: they wait more than they work.
const PARALLEL: usize = 4;
/// What a process does in turn, all of which each run has.
const PHASES: [&str; 8] = [
    "first start",
    "commits",
    "reload",
    "stop",
    "start that compares all pages",
    "commits beside a writer",
    "second stop",
    "restore",
];
/// What it does beside that, all of which each run has: operations that change a file of the replica for one of the first
/// three, and steps of capture in which a lock changes hands or the WAL is backfilled.
const STEPS: [&str; 10] = [
    "compaction",
    "snapshot",
    "retention",
    "Capture",
    "TakePin",
    "ReleasePin",
    "TakeGuard",
    "ReleaseGuard",
    "Checkpoint",
    "Insist",
];

/// What a process dies before.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Point {
    Nothing,
    /// The n-th operation on files, from 1.
    Operation(u64),
    /// The n-th operation on files since this phase began, from 1.
    Phase(String, u64),
    /// The n-th step of this name, from 1.
    Step(String, u64),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "nothing 0"),
            Self::Operation(n) => write!(f, "operation {n}"),
            Self::Phase(name, n) => write!(f, "phase {name} {n}"),
            Self::Step(name, n) => write!(f, "step {name} {n}"),
        }
    }
}

impl Point {
    fn parse(text: &str) -> Self {
        let (what, n) = text.rsplit_once(' ').unwrap();
        let n = n.parse().unwrap();
        match what.split_once(' ') {
            Some(("phase", name)) => Self::Phase(name.to_owned(), n),
            Some((_, name)) => Self::Step(name.to_owned(), n),
            None if what == "operation" => Self::Operation(n),
            None => Self::Nothing,
        }
    }
}

fn say(what: fmt::Arguments<'_>) {
    let mut out = std::io::stdout();
    writeln!(out, "\n{what}")
        .and_then(|()| out.flush())
        .unwrap();
}

fn die(before: fmt::Arguments<'_>) {
    say(format_args!("dies before {before}"));
    raise(Signal::SIGKILL).unwrap();
}

/// Hears of steps before they are made, counts them, and ends the process before one.
#[derive(Clone, Debug)]
struct Steps {
    point: Point,
    seen: Arc<Mutex<BTreeMap<String, u64>>>,
}

/// What an event says of a step of capture, or of an operation that changes a file.
#[derive(Default)]
struct Said {
    step: String,
    operation: String,
    path: String,
}

impl Said {
    /// The step that it is before, if it is one that is counted.
    fn step(self, seen: &BTreeMap<String, u64>) -> Option<String> {
        if !self.step.is_empty() {
            return Some(self.step);
        }
        let below = |folder: &str| self.path.contains(&format!("/replica/ltx/{folder}"));
        let step = if self.operation.contains("remove_file") && below("") {
            "retention"
        } else if below("1/") {
            "compaction"
        } else if below("9/") && seen.contains_key("compaction") {
            // The first one is part of the first start.
            "snapshot"
        } else {
            return None;
        };
        Some(step.to_owned())
    }
}

impl<S: Subscriber> Layer<S> for Steps {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut |field: &Field, value: &dyn fmt::Debug| {
            let of = match field.name() {
                "step" => &mut said.step,
                "operation" => &mut said.operation,
                "path" => &mut said.path,
                _ => return,
            };
            *of = format!("{value:?}");
        });
        let mut seen = self.seen.lock().unwrap();
        let Some(name) = said.step(&seen) else {
            return;
        };
        let n = seen.entry(name.clone()).or_default();
        *n += 1;
        if self.point == Point::Step(name.clone(), *n) {
            die(format_args!("{name}"));
        }
    }
}

/// The disk of the process, and what to die before on it.
#[derive(Clone)]
struct Doomed {
    disk: Arc<FaultDisk>,
    point: Point,
}

impl Doomed {
    fn new(point: Point) -> Self {
        let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
        if let Point::Operation(n) = point {
            disk.call_at(n, |operation| die(format_args!("{operation}")));
        }
        Self { disk, point }
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk) as Arc<dyn Disk>
    }

    /// The next phase begins.
    fn phase(&self, name: &str) {
        assert!(PHASES.contains(&name), "{name}");
        say(format_args!("phase {} {name}", self.disk.operations()));
        if let Point::Phase(doomed, n) = &self.point
            && doomed == name
        {
            self.disk
                .call_at(*n, |operation| die(format_args!("{operation}")));
        }
    }
}

/// Commits beside everything else without a pause, until it is dropped.
struct Beside {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Beside {
    fn start(scene: &Scene) -> Self {
        let (conn, stop) = (scene.open(), Arc::new(AtomicBool::new(false)));
        conn.execute_batch("CREATE TABLE IF NOT EXISTS beside (b BLOB)")
            .unwrap();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                conn.execute_batch("INSERT INTO beside VALUES (randomblob(100))")
                    .unwrap();
            }
        });
        let thread = Some(thread);
        Self { stop, thread }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[tokio::test]
#[ignore = "the process that the test below starts, and that kills itself"]
async fn the_process_that_dies() {
    let dir = std::env::var(DIR).expect("started by the test below");
    let point = Point::parse(&std::env::var(POINT).unwrap());
    let (scene, doomed) = (Scene::at(dir.as_ref()), Doomed::new(point.clone()));
    let steps = Steps {
        point,
        seen: Arc::default(),
    };
    tracing_subscriber::registry().with(steps.clone()).init();
    let conn = scene.open();
    doomed.phase("first start");
    let backup = scene.maintained(doomed.disk());
    backup.start().await.unwrap();
    commit(&backup, &conn, 1).await;
    doomed.phase("commits");
    commit(&backup, &conn, 2).await;
    doomed.phase("reload");
    let mut options = backup.options();
    let second = scene.maintained_options(&scene.second().replica);
    options.replicas.push(second);
    backup.update(options.clone()).await.unwrap();
    commit(&backup, &conn, 2).await;
    options.replicas.truncate(1);
    backup.update(options).await.unwrap();
    commit(&backup, &conn, 3).await;
    doomed.phase("stop");
    stop(&backup).await;
    start_wal_over_unwatched(&conn);

    doomed.phase("start that compares all pages");
    let backup = scene.maintained(doomed.disk());
    backup.start().await.unwrap();
    say(format_args!("rebases {}", backup.status().rebases));
    doomed.phase("commits beside a writer");
    let beside = Beside::start(&scene);
    let held = backup.wait_for(|status| status.write_holds > 1);
    tokio::time::timeout(DEADLINE, held).await.unwrap();
    drop(beside);
    commit(&backup, &conn, 3).await;
    doomed.phase("second stop");
    stop(&backup).await;

    doomed.phase("restore");
    restore_copy(&scene, doomed.disk()).await.unwrap();
    say(format_args!("operations {}", doomed.disk.operations()));
    for (name, times) in steps.seen.lock().unwrap().iter() {
        say(format_args!("step {name} {times}"));
    }
}

/// Restores where nothing else is restored to.
async fn restore_copy(scene: &Scene, disk: Arc<dyn Disk>) -> Result<(), String> {
    let destination = Destination::file(&scene.replica).unwrap();
    let client = destination.connect(Arc::clone(&disk)).unwrap();
    let mut restore = RestoreOptions::new(client, scene.dir.join("copy.db"));
    restore.disk = disk;
    let restored = evertide::restore(restore).await;
    restored.map(drop).map_err(|error| error.to_string())
}

async fn commit(backup: &Replication, conn: &Connection, times: u32) {
    for _ in 0..times {
        insert(conn, 5);
        backup.wait_durable(Durability::All).await.unwrap();
        say(format_args!("durable {}", count(conn)));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn stop(backup: &Replication) {
    backup.stop(DEADLINE).await.unwrap();
    let done = backup.status().replicas[0].maintained;
    let (compactions, snapshots) = (done.compactions, done.snapshots);
    let deleted = done.deleted;
    say(format_args!(
        "maintained {compactions} {snapshots} {deleted}"
    ));
}

/// How a process ended.
#[derive(Clone, Default, Debug)]
struct Life {
    /// Before what it died, and in which phase.
    died: Option<String>,
    /// Operations before each phase.
    phases: Vec<(String, u64)>,
    /// Rows that it was told are durable.
    durable: i64,
    rebases: u64,
    /// Compactions, snapshots and deleted files.
    maintained: [u64; 3],
    operations: u64,
    /// How often each step was made.
    steps: BTreeMap<String, u64>,
}

impl Life {
    /// The last one that began.
    fn phase(&self) -> &str {
        self.phases.last().map_or("", |(name, _)| name)
    }

    /// How many operations on files a phase had.
    fn operations_in(&self, phase: &str) -> u64 {
        let at = self.phases.iter().position(|(name, _)| name == phase);
        let at = at.unwrap();
        let end = self.phases.get(at + 1);
        end.map_or(self.operations, |(_, operations)| *operations) - self.phases[at].1
    }

    /// Whether it died where it was to.
    fn died_in(&self, point: &Point) -> bool {
        match point {
            Point::Phase(name, _) => self.died.is_some() && self.phase() == name,
            _ => self.died.is_some(),
        }
    }

    fn hear(&mut self, said: &str) {
        for line in said.lines() {
            let (what, rest) = line.split_once(' ').unwrap_or_default();
            let number = || rest.parse::<u64>().unwrap();
            match what {
                "phase" => {
                    let (operations, phase) = rest.split_once(' ').unwrap();
                    self.phases
                        .push((phase.to_owned(), operations.parse().unwrap()));
                }
                "dies" => self.died = Some(format!("{}: {rest}", self.phase())),
                "durable" => self.durable = number() as i64,
                "rebases" => self.rebases = number(),
                "operations" => self.operations = number(),
                "maintained" => {
                    let numbers = rest.split(' ').map(|number| number.parse::<u64>().unwrap());
                    for (sum, number) in self.maintained.iter_mut().zip(numbers) {
                        *sum += number;
                    }
                }
                "step" => {
                    let (name, times) = rest.split_once(' ').unwrap();
                    self.steps.insert(name.to_owned(), times.parse().unwrap());
                }
                _ => {}
            }
        }
    }
}

fn live(dir: &Path, point: &Point) -> Life {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "points::the_process_that_dies"])
        .args(["--ignored", "--nocapture", "--quiet"])
        .env(DIR, dir)
        .env(POINT, point.to_string())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let mut life = Life::default();
    life.hear(&said);
    assert_eq!(output.status.success(), life.died.is_none(), "{said}");
    life
}

/// Whatever was durable is there, and the next start makes the backup whole again.
async fn die_at(point: Point) -> Result<Life, String> {
    let scene = Scene {
        lease: SHORT_LEASE,
        ..Scene::new()
    };
    let conn = scene.open();
    conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        .unwrap();
    let (dir, at) = (scene.dir.clone(), point.clone());
    let lived = tokio::task::spawn_blocking(move || live(&dir, &at));
    let life = lived.await.unwrap();
    let failed = |what: String| format!("{point}, {life:?}: {what}");
    if life.durable > 0 {
        let restored = scene.restore(Restorer::official_every(8, life.durable as u64));
        let checked = restored.await;
        let checked = checked.and_then(|restored| check_rows(&restored, life.durable));
        checked.map_err(failed)?;
    }
    if life.phase() == "restore" {
        // A restore that was killed leaves nothing of that name or all of it, and nothing else once there was another.
        let copy = scene.dir.join("copy.db");
        if !copy.exists() {
            let restored = restore_copy(&scene, Arc::new(OsDisk)).await;
            restored.map_err(failed)?;
        }
        let restored = count(&Connection::open(&copy).unwrap());
        let strays = scene.strays_of_restores();
        if restored != count(&conn) || !strays.is_empty() {
            return Err(failed(format!("{restored} rows, left: {strays:?}")));
        }
    }
    if matches!(point, Point::Step(..)) {
        // Whichever locks there were, they went with the process.
        start_wal_over_unwatched(&conn);
    }
    scene.clean_up(&conn).await.map_err(failed)?;
    scene.recover(&conn, Restorer::Own).await.map_err(failed)?;
    let second = scene.second();
    if second.replica.exists() {
        // A reload brought it, or would have.
        second.clean_up(&conn).await.map_err(failed)?;
        second.recover(&conn, Restorer::Own).await.map_err(failed)?;
    }
    Ok(life)
}

/// A point in each phase and before each step, within the first half of those that there were: how many there are
/// depends on how quick everything is.
fn in_each(whole: &Life, random: &mut fastrand::Rng) -> Vec<Point> {
    let mut up_to = |times: u64| random.u64(1..=times.div_ceil(2));
    let mut points = Vec::new();
    for name in PHASES {
        points.push(Point::Phase(
            name.to_owned(),
            up_to(whole.operations_in(name)),
        ));
    }
    for name in STEPS {
        points.push(Point::Step(name.to_owned(), up_to(whole.steps[name])));
    }
    points
}

/// Some operations on files, or all.
fn draw(whole: &Life, random: &mut fastrand::Rng) -> Vec<Point> {
    let mut all: Vec<u64> = (1..=whole.operations).collect();
    random.shuffle(&mut all);
    match std::env::var("EVERTIDE_POINTS").ok().as_deref() {
        Some("all") => {}
        given => all.truncate(given.map_or(POINTS, |points| points.parse().unwrap())),
    }
    all.into_iter().map(Point::Operation).collect()
}

/// Again where it did not die where it was to: what comes when is not the same in each life.
async fn die_in(point: Point) -> Result<Life, String> {
    for _ in 0..5 {
        let life = die_at(point.clone()).await?;
        if life.died_in(&point) {
            return Ok(life);
        }
    }
    Err(format!("nobody died at {point}"))
}

/// Prints what each died before; how many did.
fn assert_held(lives: &[Result<Life, String>]) -> usize {
    let failures: Vec<&String> = lives
        .iter()
        .filter_map(|life| life.as_ref().err())
        .collect();
    let all = lives.len();
    assert!(
        failures.is_empty(),
        "{} of {all}: {failures:#?}",
        failures.len()
    );
    let died: Vec<_> = lives
        .iter()
        .flatten()
        .filter_map(|life| life.died.clone())
        .collect();
    println!("{died:#?}");
    died.len()
}

#[tokio::test]
async fn a_process_killed_before_any_operation_on_files_loses_nothing_that_was_durable() {
    let whole = die_at(Point::Nothing).await.unwrap();
    println!("{whole:?}");
    assert_eq!((whole.died.as_ref(), whole.rebases), (None, 1));
    // Compacted, a snapshot made beside the first one, and deleted something.
    assert!(whole.maintained.iter().all(|times| *times > 0), "{whole:?}");
    let made = |name: &&str| whole.steps.contains_key(*name);
    assert!(STEPS.iter().all(made), "{:?}", whole.steps);
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());

    let lives = stream::iter(in_each(&whole, &mut random)).map(die_in);
    let lives: Vec<_> = lives.buffered(PARALLEL).collect().await;
    let died = assert_held(&lives);
    assert_eq!(died, PHASES.len() + STEPS.len());

    let lives = stream::iter(draw(&whole, &mut random)).map(die_at);
    let lives: Vec<_> = lives.buffered(PARALLEL).collect().await;
    let died = assert_held(&lives);
    println!(
        "{died} deaths at {} of {} operations",
        lives.len(),
        whole.operations
    );
    // How many there are depends on how quick everything is.
    assert!(died * 2 > lives.len() || lives.len() <= POINTS);
}

//! Processes that kill themselves before an operation on files, or before a step of capture with its locks: each step
//! of capture, rotation, upload, lease, compaction, snapshots, retention, reload, stop, restart, comparison of pages and
//! restore has one before it.

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
/// In each test run; `EVERTIDE_POINTS` says how many more.
const POINTS: usize = 12;
/// Processes at a time: they wait more than they work.
const PARALLEL: usize = 4;
/// Steps of capture in which a lock changes hands or the WAL is backfilled, all of which each run has.
const STEPS: [&str; 7] = [
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
    /// The n-th step of this name, from 1.
    Step(String, u64),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "nothing 0"),
            Self::Operation(n) => write!(f, "operation {n}"),
            Self::Step(name, n) => write!(f, "{name} {n}"),
        }
    }
}

impl Point {
    fn parse(text: &str) -> Self {
        let (what, n) = text.split_once(' ').unwrap();
        let n = n.parse().unwrap();
        match what {
            "nothing" => Self::Nothing,
            "operation" => Self::Operation(n),
            name => Self::Step(name.to_owned(), n),
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

/// Hears of the steps of capture before they are made, counts them, and ends the process before one.
#[derive(Clone, Debug)]
struct Steps {
    point: Point,
    seen: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl<S: Subscriber> Layer<S> for Steps {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut |field: &Field, value: &dyn fmt::Debug| {
            if field.name() != "step" {
                return;
            }
            let (name, mut seen) = (format!("{value:?}"), self.seen.lock().unwrap());
            let n = seen.entry(name.clone()).or_default();
            *n += 1;
            if self.point == Point::Step(name.clone(), *n) {
                die(format_args!("{name}"));
            }
        });
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
    let (scene, disk) = (Scene::at(dir.as_ref()), FaultDisk::new(Arc::new(OsDisk)));
    if let Point::Operation(n) = point {
        disk.call_at(n, |operation| die(format_args!("{operation}")));
    }
    let steps = Steps {
        point,
        seen: Arc::default(),
    };
    tracing_subscriber::registry().with(steps.clone()).init();
    let disk = Arc::new(disk);
    let conn = scene.open();
    say(format_args!("phase first life"));
    let backup = scene.maintained(Arc::clone(&disk) as Arc<dyn Disk>);
    backup.start().await.unwrap();
    commit(&backup, &conn, 3).await;
    say(format_args!("phase reload"));
    let mut options = backup.options();
    let second = scene.maintained_options(&scene.second().replica);
    options.replicas.push(second);
    backup.update(options.clone()).await.unwrap();
    commit(&backup, &conn, 2).await;
    options.replicas.truncate(1);
    backup.update(options).await.unwrap();
    commit(&backup, &conn, 3).await;
    stop(&backup).await;
    start_wal_over_unwatched(&conn);

    say(format_args!("phase second life"));
    let backup = scene.maintained(Arc::clone(&disk) as Arc<dyn Disk>);
    backup.start().await.unwrap();
    say(format_args!("rebases {}", backup.status().rebases));
    let beside = Beside::start(&scene);
    let held = backup.wait_for(|status| status.write_holds > 1);
    tokio::time::timeout(DEADLINE, held).await.unwrap();
    drop(beside);
    commit(&backup, &conn, 3).await;
    stop(&backup).await;

    say(format_args!("phase restore"));
    let destination = Destination::file(&scene.replica).unwrap();
    let client = destination
        .connect(Arc::clone(&disk) as Arc<dyn Disk>)
        .unwrap();
    let mut restore = RestoreOptions::new(client, scene.dir.join("copy.db"));
    restore.disk = Arc::clone(&disk) as Arc<dyn Disk>;
    evertide::restore(restore).await.unwrap();
    say(format_args!("operations {}", disk.operations()));
    for (name, times) in steps.seen.lock().unwrap().iter() {
        say(format_args!("step {name} {times}"));
    }
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
    say(format_args!("phase stop"));
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
    fn hear(&mut self, said: &str) {
        let mut phase = "";
        for line in said.lines() {
            let (what, rest) = line.split_once(' ').unwrap_or_default();
            let number = || rest.parse::<u64>().unwrap();
            match what {
                "phase" => phase = rest,
                "dies" => self.died = Some(format!("{phase}: {rest}")),
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
    let copy = scene.dir.join("copy.db");
    if copy.exists() {
        // A restore that was killed leaves nothing or all of it.
        let restored = Connection::open(&copy).unwrap();
        assert_eq!(count(&restored), count(&conn), "{life:?}");
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

/// What to die before: some operations on files, and each step once.
fn draw(whole: &Life, random: &mut fastrand::Rng) -> Vec<Point> {
    let given = std::env::var("EVERTIDE_POINTS").ok();
    let points = given.map_or(POINTS, |points| points.parse().unwrap());
    let mut all: Vec<u64> = (1..=whole.operations).collect();
    random.shuffle(&mut all);
    all.truncate(points);
    let mut points: Vec<Point> = all.into_iter().map(Point::Operation).collect();
    // How often each is made depends on how quick everything is: not one of the last.
    points.extend(STEPS.map(|name| {
        let times = whole.steps[name].div_ceil(2);
        Point::Step(name.to_owned(), random.u64(1..=times))
    }));
    points
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
    let points = draw(&whole, &mut random);
    let lives: Vec<_> = stream::iter(points)
        .map(die_at)
        .buffered(PARALLEL)
        .collect()
        .await;
    let failures: Vec<&String> = lives
        .iter()
        .filter_map(|life| life.as_ref().err())
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
    let died: Vec<_> = lives
        .iter()
        .flatten()
        .filter_map(|life| life.died.clone())
        .collect();
    println!(
        "{} of {} operations and {} steps: {died:#?}",
        lives.len() - STEPS.len(),
        whole.operations,
        STEPS.len()
    );
    // How many there are depends on how quick everything is.
    assert!(died.len() * 2 > lives.len());
}

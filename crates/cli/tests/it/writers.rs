//! Two processes and one replica: one writes at a time, and only who goes on with what is there.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use evertide_testkit::{ChildProcess, restore_with_litestream, wait_until};
use nix::sys::signal::Signal;
use rusqlite::Connection;

use super::support::{PATIENCE, Workplace, insert};

/// Rounds of the race, unless `EVERTIDE_RACES` says otherwise.
const ROUNDS: u32 = 20;
/// How long a lease lasts in the race.
const LEASE: &str = "150ms";
/// Several leases long.
const SETTLED: Duration = Duration::from_secs(1);
/// A process that is stopped while it changes a small object keeps others from doing so.
const STOPPED_AT_MOST: Duration = Duration::from_secs(3);

/// What the lease of a replica says of its owner: the process, and whether it has it still.
fn holder(place: &Workplace, replica: &str) -> Option<(u32, bool)> {
    let lease = fs::read_to_string(place.path(replica).join("evertide/lease")).ok()?;
    let line = |name: &str| lease.lines().find_map(|line| line.strip_prefix(name));
    let process = line("process ")?.split(' ').next()?.parse().ok()?;
    Some((process, line("state ")? == "held"))
}

fn holds(place: &Workplace, process: &ChildProcess) -> bool {
    holder(place, "replica") == Some((process.id(), true))
}

#[test]
fn a_second_writer_is_refused_with_the_name_of_the_first_and_what_to_do() {
    let place = Workplace::new();
    drop(place.database("app.db", 1));
    drop(place.database("other.db", 2));
    let mut first = place.start(&["replicate", "app.db", "replica"]);
    place.wait_for_rows("replica", 1);
    let second = |more: &[&str]| {
        let arguments = ["replicate", "--once", "other.db", "replica"];
        place.run(&[&arguments[..], more].concat())
    };
    let process = format!("process {} (evertide) on ", first.id());
    let said = [&process, "since 20", "Stop that process", "another path"];
    second(&[]).failed(1, &said);
    second(&["--take-over"]).failed(1, &said);
    assert!(first.terminate(PATIENCE).unwrap().success());
    let said = [
        "other.db",
        &process,
        "another database",
        "--take-over",
        "another path",
    ];
    second(&[]).failed(1, &said);
    assert_eq!(place.replicated_rows("replica"), 1);
    assert_eq!(second(&["--take-over"]).code, Some(0));
    assert_eq!(second(&[]).code, Some(0), "it is its own now");
    assert_eq!(place.replicated_rows("replica"), 2);
    restore_with_litestream(place.path("replica"), &place.path("theirs.db"));
    assert_eq!(place.rows("theirs.db"), 2);
}

#[test]
fn a_killed_process_is_followed_at_once_by_its_restart_and_later_by_a_restored_copy() {
    let place = Workplace::new();
    let database = place.database("app.db", 3);
    let settings = |database: &str| {
        let path = place.path(database);
        let replica = place.replica_toml("databases.replicas", "replica");
        format!(
            "[[databases]]\npath = \"{}\"\n{replica}lease_duration = \"1s\"\n",
            path.display()
        )
    };
    let mut first = place.start(&["replicate", "app.db", "replica"]);
    place.wait_for_rows("replica", 3);
    first.kill().unwrap();
    assert_eq!(holder(&place, "replica"), Some((first.id(), true)));
    insert(&database, 1);
    // That lease lasts two minutes; whoever waited for it would be told so.
    place.ok(&["replicate", "--once", "app.db", "replica"]);
    assert_eq!(place.replicated_rows("replica"), 4);

    place.write("app.toml", &settings("app.db"));
    let mut second = place.start(&["replicate", "--config", "app.toml"]);
    insert(&database, 1);
    place.wait_for_rows("replica", 5);
    second.kill().unwrap();
    place.ok(&["restore", "replica", "-o", "restored.db"]);
    place.write("restored.toml", &settings("restored.db"));
    let third = place.start(&["replicate", "--config", "restored.toml"]);
    let id = third.id().to_string();
    wait_until(PATIENCE, "the restored copy to go on", || {
        holds(&place, &third)
    });
    insert(&Connection::open(place.path("restored.db")).unwrap(), 2);
    place.wait_for_rows("replica", 7);
    place
        .run(&["replicate", "--once", "app.db", "replica"])
        .failed(1, &["app.db", &id]);
    drop(third);
}

/// A database that somebody writes to all the time, and its backup.
struct Racer {
    name: &'static str,
    log: PathBuf,
    process: Option<ChildProcess>,
    committed: Arc<AtomicI64>,
    done: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

impl Racer {
    fn new(place: &Workplace, name: &'static str) -> Self {
        let path = place.path(&format!("{name}.db"));
        let database = Connection::open(&path).unwrap();
        database.busy_timeout(PATIENCE).unwrap();
        database
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
                 CREATE TABLE t (n INTEGER PRIMARY KEY, writer TEXT, filler BLOB)",
            )
            .unwrap();
        let replica = place.replica_toml("databases.replicas", "replica");
        let settings = format!(
            "[[databases]]\npath = \"{}\"\n{replica}lease_duration = \"{LEASE}\"\n",
            path.display()
        );
        place.write(&format!("{name}.toml"), &settings);
        let (committed, done) = (
            Arc::new(AtomicI64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (counter, end) = (Arc::clone(&committed), Arc::clone(&done));
        let writer = thread::spawn(move || {
            let insert = "INSERT INTO t (writer, filler) VALUES (?1, randomblob(500))";
            while !end.load(Ordering::SeqCst) {
                // Counted first, so that the count is never behind what is on a replica.
                counter.fetch_add(1, Ordering::SeqCst);
                database.execute(insert, [name]).unwrap();
                thread::sleep(Duration::from_millis(15));
            }
        });
        Self {
            name,
            log: place.path(&format!("{name}.log")),
            process: None,
            committed,
            done,
            writer: Some(writer),
        }
    }

    fn start(&mut self, place: &Workplace) {
        let settings = format!("{}.toml", self.name);
        let arguments = ["replicate", "--take-over", "--config", &settings];
        let _ = fs::remove_file(&self.log);
        let process = ChildProcess::spawn_logged(&mut place.command(&arguments), &self.log);
        self.process = Some(process.unwrap());
    }

    fn process(&mut self) -> &mut ChildProcess {
        self.process.as_mut().unwrap()
    }

    fn finish(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        self.writer.take().unwrap().join().unwrap();
    }
}

/// Restores, and says whose history it is and up to which row: all that one of them had committed then,
/// and nothing of the other.
fn whose(place: &Workplace, racers: &[Racer; 2], target: &[&str]) -> Option<(String, i64)> {
    let output = place.path("restored.db");
    let _ = fs::remove_file(&output);
    let arguments = [
        "restore",
        "replica",
        "-o",
        "restored.db",
        "--integrity-check",
        "full",
    ];
    place.ok(&[&arguments[..], target].concat());
    let database = Connection::open(&output).unwrap();
    let tables = "SELECT count(*) FROM sqlite_schema";
    if database
        .query_row(tables, [], |row| row.get::<_, i64>(0))
        .unwrap()
        == 0
    {
        return None; // before there was a table
    }
    let sql =
        "SELECT count(*), coalesce(max(n), 0), count(DISTINCT writer), coalesce(min(writer), '')
               FROM t";
    let (rows, last, writers, writer): (i64, i64, i64, String) = database
        .query_row(sql, [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .unwrap();
    assert_eq!(rows, last, "rows are missing {target:?}");
    if rows == 0 {
        return None;
    }
    assert_eq!(writers, 1, "two histories are interleaved {target:?}");
    let racer = racers.iter().find(|racer| racer.name == writer).unwrap();
    let committed = racer.committed.load(Ordering::SeqCst);
    assert!(rows <= committed, "{rows} rows of {committed} {target:?}");
    Some((writer, rows))
}

/// The transactions of the files of level 0.
fn level_0(place: &Workplace) -> Vec<(u64, u64)> {
    let number = |hex: &str| u64::from_str_radix(hex, 16).unwrap();
    let files = fs::read_dir(place.path("replica/ltx/0")).unwrap();
    let mut ranges: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| {
            let (min, max) = name.strip_suffix(".ltx")?.split_once('-')?;
            Some((number(min), number(max)))
        })
        .collect();
    ranges.sort_unstable();
    ranges
}

/// In each round the process that writes is stopped at any moment until its lease has ended and the other
/// one has taken over; then it goes on, and must not write any more.
#[test]
fn two_processes_that_race_for_one_replica_never_interleave_their_histories() {
    let rounds = std::env::var("EVERTIDE_RACES");
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let place = Workplace::new();
    let mut racers = [Racer::new(&place, "a"), Racer::new(&place, "b")];
    racers[0].start(&place);
    let first = racers[0].process();
    wait_until(PATIENCE, "the first lease", || holds(&place, first));
    let (mut at, mut taken) = (0, 0);
    for round in 0..rounds {
        let (holder, heir) = (at, 1 - at);
        racers[heir].start(&place);
        let name = format!("process {} (evertide) on ", racers[holder].process().id());
        place.wait_for_log(racers[heir].process(), &name);
        thread::sleep(Duration::from_micros(random.u64(..40_000)));
        racers[holder].process().signal(Signal::SIGSTOP).unwrap();
        let end = Instant::now() + STOPPED_AT_MOST;
        let mut over = false;
        while !over && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
            over = holds(&place, racers[heir].process());
        }
        thread::sleep(Duration::from_micros(random.u64(..60_000)));
        racers[holder].process().signal(Signal::SIGCONT).unwrap();
        if !over {
            // It was stopped while nobody else could change the lease, and may find that it has ended.
            thread::sleep(SETTLED);
            over = holds(&place, racers[heir].process());
        }
        let (winner, loser) = if over { (heir, holder) } else { (holder, heir) };
        let name = format!("process {} (evertide) on ", racers[winner].process().id());
        place.wait_for_log(racers[loser].process(), &name);
        if let Some((writer, rows)) = whose(&place, &racers, &[]) {
            eprintln!(
                "round {round}: {rows} rows of {writer}, {}",
                racers[winner].name
            );
        }
        racers[loser].process().kill().unwrap();
        taken += u32::from(over);
        at = winner;
    }
    assert!(taken * 2 > rounds, "taken over {taken} times in {rounds}");
    racers.iter_mut().for_each(Racer::finish);
    let stopped = racers[at].process().terminate(PATIENCE).unwrap();
    assert!(stopped.success(), "{}", racers[at].process().log());
    let rows = racers[at].committed.load(Ordering::SeqCst);
    let last = Some((racers[at].name.to_owned(), rows));
    assert_eq!(whose(&place, &racers, &[]), last);
    let ranges = level_0(&place);
    for pair in ranges.windows(2) {
        assert!(pair[0].1 < pair[1].0, "level 0 overlaps: {ranges:x?}");
    }
    let mut whose_then = Vec::new();
    for _ in 0..10 {
        let txid = format!("{:016x}", ranges[random.usize(..ranges.len())].1);
        whose_then.extend(whose(&place, &racers, &["--txid", &txid]));
    }
    eprintln!("{taken} of {rounds} taken over; {whose_then:?}");
    restore_with_litestream(place.path("replica"), &place.path("official.db"));
    let official = Connection::open(place.path("official.db")).unwrap();
    let count = "SELECT count(*) FROM t WHERE writer = ?1";
    let name = racers[at].name;
    assert_eq!(
        official
            .query_row(count, [name], |row| row.get::<_, i64>(0))
            .unwrap(),
        rows
    );
}

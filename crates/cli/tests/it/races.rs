//! Two processes that race for one replica, in one store after the other: histories that are never mixed.

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

use evertide_ltx::Level;
use evertide_storage::{Destination, OsDisk, ReplicaClient, Secret, SmallKey};
use evertide_testkit::{ChildProcess, S3Kind, S3Server, wait_until};
use nix::sys::signal::Signal;
use rusqlite::Connection;
use tokio::runtime::Runtime;

use super::{interop::Store, support::PATIENCE, writers::holder_of};

/// Where it is raced.
struct Arena {
    store: Store,
    client: Arc<dyn ReplicaClient>,
    runtime: Runtime,
    /// The replica, as the settings of each process have it.
    toml: String,
    rounds: u32,
}

/// How long things take there.
struct Pace {
    /// How long a lease lasts.
    lease: &'static str,
    /// Rounds of the race, unless `EVERTIDE_RACES` says otherwise.
    rounds: u32,
    /// Several leases long.
    settled: Duration,
    /// As long as another one needs to take over, and to spare.
    stopped_at_most: Duration,
}

const ON_DISK: Pace = Pace {
    lease: "150ms",
    rounds: 20,
    settled: Duration::from_secs(1),
    // A process that is stopped while it changes a small object keeps others from doing so.
    stopped_at_most: Duration::from_secs(3),
};
const IN_A_BUCKET: Pace = Pace {
    lease: "600ms",
    rounds: 4,
    settled: Duration::from_secs(4),
    stopped_at_most: Duration::from_secs(8),
};

/// Whoever takes the lease looks a second later whether it has it.
const WITHOUT_CONDITIONS: Pace = Pace {
    lease: "3s",
    rounds: 3,
    settled: Duration::from_secs(9),
    stopped_at_most: Duration::from_secs(15),
};

impl Arena {
    /// A replica with these settings, which is where the client looks.
    fn new(store: Store, client: &Destination, toml: &str, pace: &Pace) -> Self {
        let rounds = std::env::var("EVERTIDE_RACES");
        let lease = pace.lease;
        Self {
            store,
            client: client.connect(Arc::new(OsDisk)).unwrap(),
            runtime: Runtime::new().unwrap(),
            toml: format!("{toml}lease_duration = \"{lease}\"\n"),
            rounds: rounds.map_or(pace.rounds, |rounds| rounds.parse().unwrap()),
        }
    }

    fn holds(&self, process: &ChildProcess) -> bool {
        let key = SmallKey::lease();
        let lease = self.client.get_small(&key);
        // Not while nobody can tell.
        let Ok(Some(lease)) = self.runtime.block_on(lease) else {
            return false;
        };
        holder_of(&String::from_utf8_lossy(&lease.content)) == Some((process.id(), true))
    }

    /// The transactions of the files of level 0.
    fn level_0(&self) -> Vec<(u64, u64)> {
        let files = self.runtime.block_on(self.client.list(Level::L0, None));
        let files = files.unwrap().into_iter().map(|file| file.name);
        let mut ranges: Vec<_> = files.map(|name| (name.min.get(), name.max.get())).collect();
        ranges.sort_unstable();
        ranges
    }
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
    fn new(arena: &Arena, name: &'static str) -> Self {
        let place = &arena.store.place;
        let path = place.path(&format!("{name}.db"));
        let database = Connection::open(&path).unwrap();
        database.busy_timeout(PATIENCE).unwrap();
        database
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
                 CREATE TABLE t (n INTEGER PRIMARY KEY, writer TEXT, filler BLOB)",
            )
            .unwrap();
        let settings = format!(
            "[[databases]]\npath = \"{}\"\n{}",
            path.display(),
            arena.toml
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

    fn start(&mut self, arena: &Arena) {
        let settings = format!("{}.toml", self.name);
        let arguments = ["replicate", "--take-over", "--config", &settings];
        let _ = fs::remove_file(&self.log);
        let process = ChildProcess::spawn_logged(&mut arena.store.command(&arguments), &self.log);
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
fn whose(arena: &Arena, racers: &[Racer; 2], target: &[&str]) -> Option<(String, i64)> {
    let output = arena.store.place.path("restored.db");
    let _ = fs::remove_file(&output);
    let arguments = [
        "restore",
        &arena.store.url,
        "-o",
        "restored.db",
        "--integrity-check",
        "full",
    ];
    arena.store.ok(&[&arguments[..], target].concat());
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

/// Whether this one has written last, and the other one has been told.
fn has_won(arena: &Arena, racers: &mut [Racer; 2], racer: usize) -> bool {
    let name = format!("process {} (evertide) on ", racers[racer].process().id());
    racers[1 - racer].process().log().contains(&name)
        && whose(arena, racers, &[]).is_some_and(|(writer, _)| writer == racers[racer].name)
}

/// In each round the process that writes is stopped at any moment until its lease has ended and the other
/// one has taken over; then it goes on, and must not write any more.
fn race(arena: &Arena, pace: &Pace) {
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let (place, rounds) = (&arena.store.place, arena.rounds);
    let mut racers = [Racer::new(arena, "a"), Racer::new(arena, "b")];
    racers[0].start(arena);
    let first = racers[0].process();
    wait_until(PATIENCE, "the first lease", || arena.holds(first));
    wait_until(PATIENCE, "the first upload", || !arena.level_0().is_empty());
    let (mut at, mut taken) = (0, 0);
    for round in 0..rounds {
        let (holder, heir) = (at, 1 - at);
        racers[heir].start(arena);
        let name = format!("process {} (evertide) on ", racers[holder].process().id());
        place.wait_for_log(racers[heir].process(), &name);
        thread::sleep(Duration::from_micros(random.u64(..40_000)));
        racers[holder].process().signal(Signal::SIGSTOP).unwrap();
        let end = Instant::now() + pace.stopped_at_most;
        let mut over = false;
        while !over && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
            over = arena.holds(racers[heir].process());
        }
        thread::sleep(Duration::from_micros(random.u64(..60_000)));
        racers[holder].process().signal(Signal::SIGCONT).unwrap();
        if !over {
            // It was stopped while nobody else could change the lease, and may find that it has ended.
            thread::sleep(pace.settled);
        }
        // Of two whom the store cannot keep apart either may have it in the end.
        let certain = over && arena.client.capabilities().compare_and_set;
        let candidates = if certain {
            vec![heir]
        } else {
            vec![heir, holder]
        };
        let mut winner = None;
        wait_until(
            PATIENCE,
            "one that writes, and is known to the other",
            || {
                winner = candidates.iter().copied().find(|racer| {
                    (certain || arena.holds(racers[*racer].process()))
                        && has_won(arena, &mut racers, *racer)
                });
                winner.is_some()
            },
        );
        at = winner.unwrap();
        eprintln!(
            "round {round}: {} after {}",
            racers[at].name, racers[holder].name
        );
        racers[1 - at].process().kill().unwrap();
        taken += u32::from(at == heir);
    }
    assert!(taken * 2 > rounds, "taken over {taken} times in {rounds}");
    racers.iter_mut().for_each(Racer::finish);
    let stopped = racers[at].process().terminate(PATIENCE).unwrap();
    assert!(stopped.success(), "{}", racers[at].process().log());
    let rows = racers[at].committed.load(Ordering::SeqCst);
    let last = Some((racers[at].name.to_owned(), rows));
    assert_eq!(whose(arena, &racers, &[]), last);
    let ranges = arena.level_0();
    for pair in ranges.windows(2) {
        assert!(pair[0].1 < pair[1].0, "level 0 overlaps: {ranges:x?}");
    }
    let mut whose_then = Vec::new();
    for _ in 0..10 {
        let txid = format!("{:016x}", ranges[random.usize(..ranges.len())].1);
        whose_then.extend(whose(arena, &racers, &["--txid", &txid]));
    }
    eprintln!("{taken} of {rounds} taken over; {whose_then:?}");
    arena.store.restore_with_litestream(&["-o", "official.db"]);
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

#[test]
fn two_processes_that_race_for_one_replica_never_interleave_their_histories() {
    let mut store = Store::new("replica".to_owned(), Vec::new());
    let replica = store.place.path("replica");
    store.official_url = format!("file://{}", replica.display());
    let toml = store.place.replica_toml("databases.replicas", "replica");
    let destination = Destination::file(&replica).unwrap();
    race(&Arena::new(store, &destination, &toml, &ON_DISK), &ON_DISK);
}

/// A bucket of this server, for programs that know its access key.
fn bucket(server: &S3Server, more: &str, pace: &Pace) -> Arena {
    let url = server.replica_url("race");
    let environment = S3Server::environment().map(|(name, value)| (name, value.to_owned()));
    let Destination::S3(mut options) = Destination::parse(&url).unwrap() else {
        unreachable!()
    };
    let [(_, id), (_, secret)] = S3Server::environment();
    options.access_key_id = Some(Secret::new(id));
    options.secret_access_key = Some(Secret::new(secret));
    let toml = format!(
        "[[databases.replicas]]\nname = \"replica\"\ntype = \"s3\"\ns3_bucket = \"{}\"\n\
         s3_path = \"race\"\ns3_endpoint = \"{}\"\nsync_interval = \"50ms\"\n{more}",
        S3Server::BUCKET,
        server.endpoint()
    );
    let store = Store::new(url, environment.to_vec());
    Arena::new(store, &Destination::S3(options), &toml, pace)
}

#[test]
fn two_processes_that_race_for_a_bucket_never_interleave_their_histories() {
    let server = S3Server::start(S3Kind::Ministack);
    race(&bucket(&server, "", &IN_A_BUCKET), &IN_A_BUCKET);
}

/// The lease is best effort there. It is no worse for whoever is merely stopped: who takes over begins above
/// what the one before may still store.
#[test]
fn two_processes_that_race_in_a_store_without_conditions_do_not_mix_what_is_restored() {
    let server = S3Server::start(S3Kind::Rclone);
    let pace = &WITHOUT_CONDITIONS;
    let arena = bucket(&server, "s3_conditional_writes = false\n", pace);
    race(&arena, pace);
}

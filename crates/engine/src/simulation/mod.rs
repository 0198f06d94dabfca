//! Two machines that replicate to one place, simulated: the real engine with real databases, from the commits of an
//! application to leases, uploads, compaction, retention and drills, on a clock that stands still while anything works,
//! over lines that are slow or fail. One seed gives one run, exactly.
//!
//! Applications commit by connections that come and go, and not each commit is noticed. Machines are started, stopped in order, killed, and frozen for longer than a lease lasts; they lose their local
//! state, are restored from the replica, go on with another history, or are told to take over; what they sent
//! arrives late. What is captured must be a state that was committed. After each change of the replica the [`Judge`] looks whether its newest state is one that a database had,
//! and whether everything that was said to be safe can be restored; what drills find out must be true.

mod application;
mod cloud;
mod judge;
mod node;
mod nth;
mod pages;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use evertide_storage::{Destination, MemoryClient};
use fastrand::Rng;
use tokio::time::{Instant, sleep, sleep_until};

use self::{
    application::Common,
    cloud::{Conditions, Weather},
    judge::{Judge, Promise},
    node::{Node, Shared},
};
use crate::{ReplicaOptions, replica::Succession, runtime::DOES_BLOCKING_WORK};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const LENGTH: Duration = Duration::from_secs(3_600);
/// How long everything rests at the end.
const QUIET: Duration = Duration::from_secs(20 * 60);
/// How far the clock of a node may be off, in milliseconds: less than leases allow for, and by days.
const SKEW: i64 = 100_000;
const DAYS: i64 = 5 * 86_400_000;

/// What happened in one run, or in all.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Tally {
    stored: u64,
    deleted: u64,
    successions: u64,
    proofs: u64,
    refusals: u64,
    troubles: u64,
    freezes: u64,
    kills: u64,
    forced: u64,
    trace: u64,
}

/// The nodes and what happens to them.
struct World {
    random: Rng,
    judge: Arc<Mutex<Judge>>,
    nodes: Vec<Node>,
    /// When frozen nodes go on.
    thaw: Vec<Instant>,
    /// How far clocks may be off.
    skew: i64,
    tally: Tally,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let exact = random.bool();
        let one_machine = random.u8(..4) == 0;
        let options = options(&mut random, exact);
        let conditions = [
            Conditions::All,
            Conditions::All,
            Conditions::Create,
            Conditions::None,
        ];
        let conditions = conditions[random.usize(..conditions.len())];
        let skew = [SKEW, SKEW, SKEW, DAYS][random.usize(..4)];
        let promise = Promise {
            exact,
            // Of two whom neither the store nor their clocks keep apart both may write for a while.
            exclusive: conditions == Conditions::All && skew == SKEW,
            lease: options.lease_duration,
            created: conditions != Conditions::None,
        };
        let judge = Arc::new(Mutex::new(Judge::new(promise)));
        judge
            .lock()
            .unwrap()
            .note(format_args!("{conditions:?}, clocks within {skew} ms"));
        let shared = Shared {
            cloud: Arc::new(MemoryClient::service("shared")),
            conditions,
            judge: Arc::clone(&judge),
            common: Common::default(),
            one_machine,
            options,
        };
        let second = match shared.one_machine {
            true => "/first/app.db",
            false => "/second/app.db",
        };
        let paths = ["/first/app.db", second].map(Path::new);
        let nodes = paths.iter().enumerate();
        let nodes = nodes.map(|(id, path)| Node::new(id, path, &shared, &mut random));
        let nodes: Vec<Node> = nodes.collect();
        Self {
            thaw: vec![Instant::now(); nodes.len()],
            judge,
            nodes,
            random,
            skew,
            tally: Tally::default(),
        }
    }

    async fn live(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let pause = match self.random.u8(..10) {
                0..6 => Duration::from_millis(1)..SECOND,
                6..9 => SECOND..20 * SECOND,
                _ => 20 * SECOND..4 * MINUTE,
            };
            let pause = self.between(pause);
            sleep(pause).await;
            self.let_thaw();
            let node = self.random.usize(..self.nodes.len());
            self.happen(node).await;
            self.judge.lock().unwrap().assert_sound();
        }
    }

    /// Something happens to a node.
    async fn happen(&mut self, at: usize) {
        match self.random.u8(..100) {
            _ if !self.nodes[at].runs() => match self.random.u8(..6) {
                0 => self.start(at).await,
                1..4 => {}
                // The application may write while its backup does not run.
                _ => self.nodes[at].commit(),
            },
            _ if self.nodes[at].is_frozen() => {}
            0..5 => {
                self.note(format_args!("{at} is killed"));
                self.nodes[at].kill().await;
                self.tally.kills += 1;
            }
            5..9 => {
                self.note(format_args!("{at} is stopped"));
                self.nodes[at].stop().await;
            }
            9..15 => {
                let time = match self.random.bool() {
                    true => SECOND..30 * SECOND,
                    false => 30 * SECOND..10 * MINUTE,
                };
                let time = self.between(time);
                self.note(format_args!("{at} is frozen for {time:?}"));
                self.thaw[at] = Instant::now() + time;
                self.nodes[at].freeze(true);
                self.tally.freezes += 1;
            }
            15..22 => {
                let weather = match self.random.u8(..6) {
                    0 => Weather::Out,
                    1 | 2 => Weather::Rough,
                    _ => Weather::Fair,
                };
                self.note(format_args!("{at} has {weather:?}"));
                self.nodes[at].line.set_weather(weather);
            }
            22..24 => {
                let ahead = self.random.i64(-self.skew..self.skew);
                self.nodes[at].set_clock(ahead);
            }
            24..27 => self.tally.refusals += u64::from(refused(&self.nodes[at])),
            _ => self.nodes[at].commit(),
        }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.judge.lock().unwrap().note(what);
    }

    /// Starts a node as it is, without its state, restored, or with the order to take over.
    async fn start(&mut self, at: usize) {
        let newest = self.judge.lock().unwrap().newest().cloned();
        let succession = match (self.random.u8(..10), newest) {
            (0..4, Some(newest)) => {
                self.note(format_args!("{at} is restored"));
                self.nodes[at].restore(&newest);
                Succession::Proven
            }
            (4, _) => {
                self.note(format_args!("{at} loses its state"));
                self.nodes[at].lose_state();
                Succession::Proven
            }
            (5, _) => Succession::Forced,
            _ => Succession::Proven,
        };
        self.tally.forced += u64::from(succession == Succession::Forced);
        self.note(format_args!("{at} is started, {succession:?}"));
        self.nodes[at].start(succession).await;
    }

    fn let_thaw(&self) {
        for (node, thaw) in self.nodes.iter().zip(&self.thaw) {
            if node.is_frozen() && *thaw <= Instant::now() {
                node.freeze(false);
            }
        }
    }

    /// The weather clears up, one node is left, and all it has is soon on the replica.
    async fn come_to_an_end(&mut self) {
        for node in &mut self.nodes {
            node.line.set_weather(Weather::Fair);
            node.set_clock(0);
        }
        let left = self.random.usize(..self.nodes.len());
        for (at, node) in self.nodes.iter_mut().enumerate() {
            match at == left {
                true => node.freeze(false),
                false => node.stop().await,
            }
        }
        if refused(&self.nodes[left]) {
            self.nodes[left].kill().await;
        }
        if !self.nodes[left].runs() {
            self.nodes[left].start(Succession::Forced).await;
        }
        self.nodes[left].commit();
        let end = Instant::now() + 30 * MINUTE;
        while !self.nodes[left].is_durable() {
            let now = Instant::now();
            assert!(now < end, "not complete: {:?}", self.nodes[left].error());
            sleep_until(now + SECOND).await;
            self.judge.lock().unwrap().assert_sound();
            if refused(&self.nodes[left]) {
                self.nodes[left].kill().await;
                self.nodes[left].start(Succession::Forced).await;
            }
        }
        // What is still under way arrives, and changes nothing, or is buried.
        let complete = self.nodes[left].txid();
        sleep(QUIET).await;
        let drills = self.nodes[left].drill_interval();
        let drills_meanwhile = drills.is_some_and(|interval| interval < QUIET);
        let judge = self.judge.lock().unwrap();
        judge.assert_sound();
        assert_eq!(judge.newest(), Some(&self.nodes[left].pages()));
        judge.assert_nothing_lost();
        if drills_meanwhile && self.nodes[left].txid() == complete {
            assert_eq!(self.nodes[left].proven(), Some(self.nodes[left].txid()));
        }
    }

    fn between(&mut self, range: std::ops::Range<Duration>) -> Duration {
        let range = range.start.as_micros() as u64..range.end.as_micros() as u64;
        Duration::from_micros(self.random.u64(range))
    }

    fn tally(&self) -> Tally {
        let judge = self.judge.lock().unwrap();
        Tally {
            stored: judge.stored,
            deleted: judge.deleted,
            successions: judge.successions,
            proofs: judge.proofs,
            troubles: self.nodes.iter().map(|node| node.line.troubles()).sum(),
            trace: judge.trace(),
            ..self.tally
        }
    }
}

fn refused(node: &Node) -> bool {
    node.error()
        .is_some_and(|error| error.contains("--take-over"))
}

/// Where every state is to be kept exactly, level 0 stays.
fn options(random: &mut Rng, exact: bool) -> ReplicaOptions {
    let mut options = ReplicaOptions::new("shared", Destination::file("/not/looked/at").unwrap());
    options.lease_duration = [30 * SECOND, 120 * SECOND][random.usize(..2)];
    options.snapshot_interval = [10 * MINUTE, 60 * MINUTE][random.usize(..2)];
    options.levels = vec![30 * SECOND, 5 * MINUTE];
    options.retention_check_interval = 5 * MINUTE;
    options.drill_interval = [None, Some(10 * MINUTE), Some(40 * MINUTE)][random.usize(..3)];
    (options.level_0_retention, options.retention) = match exact {
        true => (1_000 * LENGTH, None),
        false => (2 * MINUTE, Some(20 * MINUTE)),
    };
    options
}

/// Lives on a clock that stands still while anything works.
fn simulated<T>(seed: u64, life: impl Future<Output = T>) -> T {
    if let Ok(filter) = std::env::var("EVERTIDE_LOG") {
        let log = tracing_subscriber::fmt().with_test_writer();
        let _ = log.with_env_filter(filter).try_init();
    }
    fastrand::seed(seed);
    DOES_BLOCKING_WORK.set(true);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(life)
}

/// Lives one run.
fn run(seed: u64) -> Tally {
    simulated(seed, async {
        let mut world = World::new(seed);
        world.start(0).await;
        world.live(LENGTH).await;
        world.come_to_an_end().await;
        world.tally()
    })
}

/// How many runs, from the environment variable `EVERTIDE_SIMULATIONS`.
fn runs() -> u64 {
    let given = std::env::var("EVERTIDE_SIMULATIONS").ok();
    given.map_or(300, |runs| runs.parse().expect("a number of runs"))
}

#[test]
fn whatever_happens_to_two_machines_no_two_histories_are_mixed_and_nothing_safe_is_lost() {
    let first = evertide_testkit::seed();
    let mut sum = Tally::default();
    for number in 0..runs() {
        let seed = first.wrapping_add(number);
        eprintln!("run {number}: EVERTIDE_SEED={seed} EVERTIDE_SIMULATIONS=1");
        let tally = run(seed);
        sum = Tally {
            stored: sum.stored + tally.stored,
            deleted: sum.deleted + tally.deleted,
            successions: sum.successions + tally.successions,
            proofs: sum.proofs + tally.proofs,
            refusals: sum.refusals + tally.refusals,
            troubles: sum.troubles + tally.troubles,
            freezes: sum.freezes + tally.freezes,
            kills: sum.kills + tally.kills,
            forced: sum.forced + tally.forced,
            trace: 0,
        };
    }
    eprintln!("{} runs: {sum:?}", runs());
    let enough = [
        (sum.stored, 20),
        (sum.deleted, 10),
        (sum.successions, 1),
        (sum.proofs, 2),
        (sum.troubles, 20),
        (sum.freezes, 2),
        (sum.kills, 2),
    ];
    let few = runs() < 20; // one seed is repeated
    assert!(few || enough.iter().all(|(found, least)| *found >= least * runs()));
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let first = evertide_testkit::seed();
    for seed in (0..5).map(|number| first.wrapping_add(number)) {
        assert_eq!(run(seed), run(seed));
    }
}

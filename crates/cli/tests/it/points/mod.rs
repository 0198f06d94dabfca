//! The real binary, ended with SIGKILL at any of the things that it tells its log: each step of capture with its locks,
//! each operation that changes a file, of local state, replica, lease or what is restored, and each end of a start, reload
//! or stop is told there.

mod scene;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
};

use self::scene::{Act, Scene};

/// Kills in each test run beside one in each phase; `EVERTIDE_POINTS` says how many more, or `all`.
const POINTS: usize = 4;
/// Lives at a time: they wait more than they work.
const PARALLEL: usize = 4;

/// What the binary dies at: the n-th thing, from 1, that it tells the log, among those that say a text, from the first on
/// that says another one.
#[derive(Clone, Debug)]
struct Point {
    act: Act,
    after: &'static str,
    among: &'static str,
    n: u64,
}

/// What the binary does, and how that is found in what it tells.
struct Phase {
    name: &'static str,
    act: Act,
    after: &'static str,
    among: &'static str,
    /// So many of the things it tells belong to it at least.
    things: usize,
}

const fn phase(
    name: &'static str,
    act: Act,
    [after, among]: [&'static str; 2],
    things: usize,
) -> Phase {
    Phase {
        name,
        act,
        after,
        among,
        things,
    }
}

/// All of them, each of which has a kill in every run.
const PHASES: [Phase; 18] = [
    phase("start", Act::Replicate, ["", ""], 20),
    phase("lease", Act::Replicate, ["", "/replica/evertide/*lease"], 4),
    // It was taken before the first upload, and is let go of after all that.
    phase(
        "lease renewed",
        Act::Replicate,
        ["/replica/ltx/0/", "/replica/evertide/*lease"],
        4,
    ),
    phase("capture", Act::Replicate, ["step=Capture", ""], 20),
    phase("upload", Act::Replicate, ["", "/replica/ltx/0/"], 20),
    phase("pin", Act::Replicate, ["", "step=TakePin"], 1),
    phase("rotation", Act::Replicate, ["step=ReleasePin", ""], 10),
    phase("compaction", Act::Replicate, ["", "/replica/ltx/1/"], 8),
    // The first one is stored before anything is compacted.
    phase(
        "snapshot",
        Act::Replicate,
        ["/replica/ltx/1/", "/replica/ltx/9/"],
        4,
    ),
    phase(
        "retention",
        Act::Replicate,
        ["", "remove_file*/replica/ltx/"],
        2,
    ),
    phase("reload", Act::Replicate, ["SIGHUP", ""], 20),
    phase("second replica", Act::Replicate, ["", "/second/"], 20),
    // The lease is let go of when it is taken away.
    phase(
        "replica removed",
        Act::Replicate,
        ["uploaded a snapshot*second", "/second/evertide/*lease"],
        4,
    ),
    phase("shutdown", Act::Replicate, ["SIGTERM", ""], 4),
    // It comes within the start, and is told when it is staged.
    phase("start that re-bases", Act::Rebase, ["", ""], 20),
    phase("re-base", Act::Rebase, ["message=re-based txid", ""], 6),
    phase("restore", Act::Restore, ["", ""], 8),
    phase("restore over another", Act::Replace, [".replaced-", ""], 4),
];

impl Phase {
    /// How many of these things a process told.
    fn found(&self, told: &[String]) -> usize {
        let says = |line: &&String, text: &str| text.split('*').all(|part| line.contains(part));
        let begun = told.iter().skip_while(|line| !says(line, self.after));
        begun.filter(|line| says(line, self.among)).count()
    }

    /// One of those that there are at least.
    fn point(&self, random: &mut fastrand::Rng) -> Point {
        Point {
            act: self.act,
            after: self.after,
            among: self.among,
            n: random.u64(1..=self.things as u64),
        }
    }
}

/// Dies there, and gives what it told last, unless it ended before.
fn die_at(point: &Point) -> Result<Option<String>, String> {
    let died = catch_unwind(AssertUnwindSafe(|| {
        let mut scene = Scene::new(point.act);
        let ended = scene.live(point.act, Some(point));
        let last = ended.told.last().cloned().unwrap_or_default();
        let failed = |what| format!("{point:?}, after {last}: {what}");
        scene.check(point.act).map_err(failed)?;
        Ok(ended.killed.then_some(last))
    }));
    died.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>();
        Err(format!(
            "{point:?}: {}",
            message.map_or("panicked", |text| text)
        ))
    })
}

/// In the phase, as often as it takes: which thing is the n-th depends on how quick everything is, and so does whether
/// there are as many.
fn die_in(phase: &Phase, random: &mut fastrand::Rng) -> Result<String, String> {
    for _ in 0..5 {
        let point = phase.point(random);
        if let Some(last) = die_at(&point)? {
            return Ok(format!("{} {}: {last}", phase.name, point.n));
        }
    }
    Err(format!("nobody was killed in {}", phase.name))
}

/// Some at a time.
fn each<T: Send, R: Send>(all: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let (left, done) = (Mutex::new(all), Mutex::new(Vec::new()));
    let next = || left.lock().unwrap().pop();
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some(one) = next() {
                    let result = work(one);
                    done.lock().unwrap().push(result);
                }
            });
        }
    });
    done.into_inner().unwrap()
}

/// How many things a process tells in each act that nobody kills, which does all that it should.
fn whole_lives() -> BTreeMap<Act, usize> {
    let whole = Act::ALL.map(|act| {
        let mut scene = Scene::new(act);
        let ended = scene.live(act, None);
        assert!(!ended.killed, "nobody killed it");
        scene.check(act).unwrap();
        let found = PHASES.iter().filter(|phase| phase.act == act);
        let found: Vec<_> = found
            .map(|phase| (phase.name, phase.found(&ended.told), phase.things))
            .collect();
        let all = ended.told.join("\n");
        let enough = found.iter().all(|(_, found, things)| found >= things);
        assert!(enough, "{all}\n{found:?}");
        eprintln!("{act:?}: {} points; {found:?}", ended.told.len());
        (act, ended.told.len())
    });
    whole.into()
}

/// Some points of each act, or all.
fn draw(whole: &BTreeMap<Act, usize>, random: &mut fastrand::Rng) -> Vec<Point> {
    let (after, among) = ("", "");
    let of = |act: &Act, things: &usize| {
        let act = *act;
        (1..=*things as u64).map(move |n| Point {
            act,
            after,
            among,
            n,
        })
    };
    let mut points: Vec<Point> = whole
        .iter()
        .flat_map(|(act, things)| of(act, things))
        .collect();
    random.shuffle(&mut points);
    match std::env::var("EVERTIDE_POINTS").ok().as_deref() {
        Some("all") => {}
        given => points.truncate(given.map_or(POINTS, |points| points.parse().unwrap())),
    }
    points
}

fn assert_none_failed<'a>(lives: usize, failures: impl Iterator<Item = &'a String>) {
    let failures: Vec<_> = failures.collect();
    assert!(
        failures.is_empty(),
        "{} of {lives} failed: {failures:#?}",
        failures.len()
    );
}

#[test]
fn the_binary_killed_at_anything_it_tells_its_log_leaves_a_replica_that_the_next_start_completes() {
    let whole = whole_lives();
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let phases = PHASES.iter().map(|phase| (phase, random.fork())).collect();
    let died = each(phases, |(phase, mut random)| die_in(phase, &mut random));
    eprintln!("{died:#?}");
    assert_none_failed(
        died.len(),
        died.iter().filter_map(|died| died.as_ref().err()),
    );

    let points = draw(&whole, &mut random);
    let lives = each(points, |point| (point.act, die_at(&point)));
    for (act, things) in whole {
        let of_act = || lives.iter().filter(|(of, _)| *of == act);
        let killed = of_act().filter(|(_, died)| matches!(died, Ok(Some(_))));
        let (killed, drawn) = (killed.count(), of_act().count());
        eprintln!("{act:?}: {killed} kills at {drawn} of {things} points");
    }
    let failures = lives.iter().filter_map(|(_, died)| died.as_ref().err());
    assert_none_failed(lives.len(), failures);
}

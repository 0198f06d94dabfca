//! The N-th system call on the files of SQLite fails: on the database, its WAL and its wal-index, which capture reads
//! and locks beside SQLite, and on which the connection of the backup makes its own calls.

use std::{
    ffi::OsStr,
    io::Write,
    process::ChildStdin,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use evertide::Replication;
use evertide_storage::{Fault, OsDisk};
use evertide_testkit::{Action, Call, Traced, has_posix_lock, wait_to_be_traced};
use nix::errno::Errno;
use rusqlite::Connection;

use crate::{
    DEADLINE, Restorer, Scene, count,
    fail::{durable, start},
    insert, start_wal_over_unwatched,
};

/// The folder that the process works in.
const DIR: &str = "EVERTIDE_FAULTS_DIR";
/// Set where what fails stays like that.
const FOREVER: &str = "EVERTIDE_FAULTS_FOREVER";
/// Set where a part of the application is in that process, too.
const BESIDE: &str = "EVERTIDE_FAULTS_BESIDE";
/// Processes at a time: they wait more than they work.
const PARALLEL: usize = 8;
const OFFICIAL_EVERY: u64 = 12;
/// Calls of each kind that fail; `EVERTIDE_FAULTS` says how many else, or `all`.
const SAMPLES: usize = 2;
/// How long a process waits for what fails for ever.
const PATIENCE: Duration = Duration::from_millis(150);

/// `SHARED_FIRST` of SQLite, in the database file: who has it open.
const SHARED: u64 = 0x4000_0002;
/// Of the wal-index: who uses it. Without it the next one to come makes it anew.
const IN_USE: u64 = 128;

/// The kinds of calls that fail. SQLite itself keeps a lock for good that it could not let go of, and nothing beside it
/// can help: its own [`Action::Unlock`] is not among them.
const KINDS: [Action; 8] = [
    Action::Open,
    Action::Look,
    Action::Read,
    Action::Map,
    Action::Write,
    Action::Sync,
    Action::Lock,
    Action::UnlockOpenFile,
];

/// Whether there was a backup before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum History {
    None,
    /// The WAL was restarted while nobody watched: all pages have to be compared.
    Outdated,
}

/// A process with a call that fails.
#[derive(Clone, Copy, Debug)]
struct Plan {
    history: History,
    /// Whether a part of the application is in the same process, and has the database open all the time.
    beside: bool,
    /// The n-th call of this kind, from 1.
    kind: Action,
    n: usize,
    fault: Fault,
    /// With the error that is usual for such a call, or always EIO.
    usual: bool,
}

impl Plan {
    fn clean(history: History, beside: bool) -> Self {
        Self {
            history,
            beside,
            kind: Action::Open,
            n: usize::MAX,
            fault: Fault::Once,
            usual: true,
        }
    }

    /// What the last of these calls fails with, if it does.
    fn error(self, calls: &[Call]) -> Option<Errno> {
        let call = calls.last()?;
        let of_kind = calls.iter().filter(|call| call.action == self.kind).count();
        let fails = match self.fault {
            Fault::Once => call.action == self.kind && of_kind == self.n,
            // There is no other way to let go of a lock.
            Fault::Forever => of_kind >= self.n && call.action != Action::UnlockOpenFile,
        };
        let usual = match call.action {
            Action::Open => Errno::EMFILE,
            Action::Map => Errno::ENOMEM,
            Action::Lock | Action::Unlock | Action::UnlockOpenFile => Errno::ENOLCK,
            Action::Look => Errno::EACCES,
            Action::Write => Errno::ENOSPC,
            Action::Read | Action::Sync | Action::Name | Action::Delete => Errno::EIO,
        };
        fails.then_some(if self.usual { usual } else { Errno::EIO })
    }

    /// The call that failed.
    fn failed(self, calls: &[Call]) -> Option<&Call> {
        let mut of_kind = calls.iter().filter(|call| call.action == self.kind);
        of_kind.nth(self.n - 1)
    }
}

/// What the application, which is another process, is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Commits,
    /// That it looks at the database and finds nothing in its way.
    Look,
}

/// Asks the application and waits until it has done that.
async fn ask(wanted: Wanted) {
    match wanted {
        Wanted::Commits => eprintln!("commits, please"),
        Wanted::Look => eprintln!("a look, please"),
    }
    let answer = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    answer.await.unwrap().unwrap();
}

/// Whether everything is durable, or the status says why not.
async fn durable_or_said(backup: &Replication) -> bool {
    let said = backup.wait_for(|status| status.error.is_some());
    tokio::select! {
        durable = durable(backup, DEADLINE) => durable,
        said = tokio::time::timeout(DEADLINE, said) => said.is_ok(),
    }
}

async fn scenario(backup: &Replication, fault: Fault) -> Result<bool, String> {
    if !start(backup, fault).await? {
        return Ok(false);
    }
    for _ in 0..4 {
        let done = match fault {
            Fault::Once => durable(backup, DEADLINE).await,
            Fault::Forever => durable_or_said(backup).await,
        };
        if !done {
            return Err(format!("not durable: {:?}", backup.status()));
        }
        ask(Wanted::Commits).await;
    }
    let patience = match fault {
        Fault::Once => DEADLINE,
        Fault::Forever => PATIENCE,
    };
    match backup.stop(patience).await {
        Err(error) if fault == Fault::Once => Err(format!("stop: {error}")),
        stopped => Ok(stopped.is_ok()),
    }
}

#[tokio::test]
#[ignore = "the process that the tests below start"]
async fn the_process_whose_calls_fail() {
    let Some(dir) = std::env::var_os(DIR) else {
        return; // by itself, not a test
    };
    let fault = match std::env::var_os(FOREVER) {
        Some(_) => Fault::Forever,
        None => Fault::Once,
    };
    let scene = Scene::at(dir.as_ref());
    let beside = std::env::var_os(BESIDE).map(|_| scene.open());
    assert!(beside.iter().all(|beside| count(beside) > 0));
    wait_to_be_traced();
    let backup = scene.replication(Arc::new(OsDisk));
    let done = scenario(&backup, fault).await;
    // The process goes on without the backup, and so does the application.
    ask(Wanted::Look).await;
    match done {
        Ok(true) => eprintln!("complete"),
        Ok(false) => eprintln!("incomplete"),
        Err(what) => panic!("{what}"),
    }
    drop(beside);
}

/// The application: does what it is asked for, and answers. Nothing may ever fail here.
fn application(conn: &Connection, asked: &Receiver<Wanted>, mut answers: ChildStdin) {
    let path = conn.path().unwrap();
    let mut reader: Option<Connection> = None;
    for wanted in asked {
        match wanted {
            Wanted::Commits => {
                // Every other time it reads until it is asked again: what is committed meanwhile cannot be backfilled,
                // and the backup holds writers for that in vain.
                let reads = match reader.take() {
                    Some(_) => None,
                    None => Some(Connection::open(path).unwrap()),
                };
                if let Some(reads) = &reads {
                    reads.execute_batch("BEGIN; SELECT * FROM t").unwrap();
                }
                reader = reads;
                insert(conn, 6);
            }
            Wanted::Look => {
                reader = None;
                check_application(conn).unwrap();
            }
        }
        // Whoever asked may have been killed since.
        answers.write_all(b"done\n").unwrap_or_default();
    }
}

/// Whether the application in this process still has the locks of a connection that is open: whatever of the backup
/// closes one of these files takes them.
fn check_locks(scene: &Scene, process: u32) -> Result<(), String> {
    for (file, byte) in [(scene.db.clone(), SHARED), (scene.beside("-shm"), IN_USE)] {
        if !has_posix_lock(process, &file, byte) {
            return Err(format!("the lock on {} is lost", file.display()));
        }
    }
    Ok(())
}

/// How the process ended.
struct Run {
    /// Calls on the files of SQLite.
    calls: Vec<Call>,
    complete: bool,
}

/// Starts the process, and is the application for it until it ends.
fn replicate(scene: &Scene, conn: Connection, plan: Plan) -> Result<(Run, Connection), String> {
    let mut environment = vec![(DIR, scene.dir.as_os_str())];
    if plan.fault == Fault::Forever {
        environment.push((FOREVER, OsStr::new("1")));
    }
    if plan.beside {
        environment.push((BESIDE, OsStr::new("1")));
    }
    let name = "system_calls::the_process_whose_calls_fail";
    let mut traced = Traced::start(name, &environment);
    let answers = traced.take_stdin().unwrap();
    let (ask, asked) = channel();
    let application = thread::spawn(move || {
        application(&conn, &asked, answers);
        conn
    });
    let files = scene.db.to_str().unwrap();
    let (mut calls, mut complete, mut said) = (Vec::new(), None, Vec::new());
    let mut lost = Ok(());
    loop {
        let (_, report) = traced.until_a_report(|call| {
            let ours = call.path.to_string_lossy().starts_with(files);
            if !ours || !KINDS.contains(&call.action) {
                return None;
            }
            calls.push(call.clone());
            plan.error(&calls)
        });
        if plan.beside && report.is_some() {
            lost = lost.and(check_locks(scene, traced.id()));
        }
        match report.as_deref() {
            Some("commits, please") => ask.send(Wanted::Commits).unwrap_or_default(),
            Some("a look, please") => ask.send(Wanted::Look).unwrap_or_default(),
            Some("complete") => complete = Some(true),
            Some("incomplete") => complete = Some(false),
            Some(other) => said.push(other.to_owned()),
            None => break,
        }
    }
    drop(ask);
    let failed = format!("{:?}", plan.failed(&calls));
    let conn = application.join().map_err(|_| {
        format!(
            "{failed}: the application got an error; {}",
            said.join("\n")
        )
    })?;
    lost.map_err(|what: String| format!("{failed}: {what}"))?;
    match (complete, said.is_empty()) {
        (Some(complete), true) => Ok((Run { calls, complete }, conn)),
        _ => Err(format!("{failed}: {}", said.join("\n"))),
    }
}

/// Whether the application finds the database whole, and nothing of the backup in its way.
fn check_application(conn: &Connection) -> Result<(), String> {
    let ask = |sql: &str| {
        let answer = conn.query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0));
        answer.map_err(|error| format!("{sql}: {error}"))
    };
    let busy = ask("PRAGMA wal_checkpoint(TRUNCATE)")?;
    let check = ask("PRAGMA integrity_check")?;
    if busy == 0.into() && check == "ok".to_owned().into() {
        return Ok(());
    }
    Err(format!("busy: {busy:?}, check: {check:?}"))
}

fn run(plan: Plan) -> Result<Run, String> {
    let failed = |what: String| format!("{plan:?}: {what}");
    let (scene, conn) = Scene::with_rows(5);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    if plan.history == History::Outdated {
        runtime.block_on(scene.replicate_one_more_commit(&conn))?;
        start_wal_over_unwatched(&conn);
    }
    let (run, conn) = replicate(&scene, conn, plan).map_err(failed)?;
    let failed = |what: String| format!("{plan:?} ({:?}): {what}", plan.failed(&run.calls));
    if run.complete {
        // What is said to be replicated is, without a next start.
        let checked = runtime.block_on(scene.check_restore(Restorer::Own));
        checked.map_err(|error| failed(format!("the stop succeeded, but: {error}")))?;
    }
    check_application(&conn).map_err(failed)?;
    let restorer = Restorer::official_every(OFFICIAL_EVERY, plan.n as u64);
    let recovered = runtime.block_on(scene.recover(&conn, restorer));
    recovered.map_err(failed)?;
    Ok(run)
}

/// Which look is the one at the database that SQLite has just opened. It closes one of which it cannot tell which file
/// that is, and with it goes every lock on the file, as with any connection that comes second.
fn look_of_sqlite(calls: &[Call]) -> usize {
    let opened = calls.iter().position(|call| call.action == Action::Open);
    let before = calls.iter().take(opened.unwrap());
    before.filter(|call| call.action == Action::Look).count() + 1
}

/// Some of the calls of each kind that a `clean` run of this plan makes, and all where we let go of locks: those are few.
fn plans_of(like: Plan, clean: &[Call], fault: Fault) -> Vec<Plan> {
    let given = std::env::var("EVERTIDE_FAULTS").ok();
    let samples = match given.as_deref() {
        Some("all") => usize::MAX,
        given => given.map_or(SAMPLES, |samples| samples.parse().unwrap()),
    };
    let mut rng = fastrand::Rng::with_seed(evertide_testkit::seed());
    let mut plans = Vec::new();
    for kind in KINDS {
        let total = clean.iter().filter(|call| call.action == kind).count();
        // Who comes later is given what is mapped already.
        let is_mapped = kind == Action::Map && like.beside;
        assert!((total > 0) != is_mapped, "{kind:?}: {total}");
        let some = match (kind, fault) {
            (Action::UnlockOpenFile, Fault::Once) => total,
            (Action::UnlockOpenFile, Fault::Forever) => 0,
            _ => samples.min(total),
        };
        let mut calls: Vec<usize> = (1..=total).collect();
        rng.shuffle(&mut calls);
        if kind == Action::Look && like.beside {
            calls.retain(|n| *n != look_of_sqlite(clean));
        }
        for n in calls.into_iter().take(some) {
            let usual = rng.bool();
            let both = [usual, !usual].into_iter();
            let errors = both.take(if samples == usize::MAX { 2 } else { 1 });
            plans.extend(errors.map(|usual| Plan {
                kind,
                n,
                fault,
                usual,
                ..like
            }));
        }
    }
    plans
}

/// Has some of the calls fail, in processes side by side.
fn whichever_fails(fault: Fault) {
    let (mut plans, mut total) = (Vec::new(), 0);
    for (history, beside) in [
        (History::None, false),
        (History::None, true),
        (History::Outdated, false),
        (History::Outdated, true),
    ] {
        let like = Plan::clean(history, beside);
        let clean = run(like).unwrap();
        assert!(clean.complete);
        plans.extend(plans_of(like, &clean.calls, fault));
        total += clean.calls.len();
    }
    let (queue, runs) = (Mutex::new(plans.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some(plan) = next else { return };
                    let tripped = run(*plan).map(|run| plan.failed(&run.calls).is_some());
                    runs.lock().unwrap().push(tripped);
                }
            });
        }
    });
    let runs = runs.into_inner().unwrap();
    let failures: Vec<String> = runs.iter().filter_map(|run| run.clone().err()).collect();
    let (failed, of) = (failures.len(), runs.len());
    assert!(
        failed == 0,
        "{failed} of {of} runs:\n{}",
        failures.join("\n")
    );
    let tripped = runs.iter().filter(|run| **run == Ok(true)).count();
    println!("{of} runs, {tripped} with a fault, of {} calls", total);
    // How many calls there are depends on how quick everything is.
    assert!(tripped * 4 >= of, "{tripped} faults");
}

#[test]
fn whichever_call_on_the_files_of_sqlite_fails_once_the_backup_is_whole_and_the_application_never_disturbed()
 {
    whichever_fails(Fault::Once);
}

#[test]
fn whichever_call_on_the_files_of_sqlite_fails_from_then_on_it_is_said_and_the_application_never_disturbed()
 {
    whichever_fails(Fault::Forever);
}

//! A process that has no file descriptor left, and then has some again.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use evertide::{
    FindingKind, FollowError, FollowEvent, FollowOptions, FollowReport, Replication,
    RestoreOptions, VerifyDepth, VerifyOptions, follow, restore, verify,
};
use evertide_storage::{Destination, OsDisk};
use evertide_testkit::{another_process_can_write, another_process_finds_it_open};
use rusqlite::Connection;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{DEADLINE, Restorer, Scene, count, fail::durable, insert, names};

/// The folder that the process works in.
const DIR: &str = "EVERTIDE_FAULTS_DIR";
const PATIENCE: Duration = Duration::from_millis(200);
/// What it is said to be; the second is what SQLite says.
const REASONS: [&str; 2] = ["Too many open files", "unable to open database file"];
/// More than anything here needs.
const ENOUGH: usize = 60;

/// All descriptors there are, but some.
fn hoard(but: usize) -> Vec<File> {
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(hoard.len() < 10_000, "there is a limit");
    hoard.truncate(hoard.len().saturating_sub(but));
    hoard
}

/// Restores and verifies what the replica has into this folder; whether both could be done. What could not says why, and
/// blames no file of the replica.
async fn read(scene: &Scene, folder: &Path) -> bool {
    let destination = Destination::file(&scene.replica).unwrap();
    let client = destination.connect(Arc::new(OsDisk)).unwrap();
    let output = folder.join("copy.db");
    let restored = restore(RestoreOptions::new(client.clone(), &output)).await;
    let mut options = VerifyOptions::new(client);
    options.depth = VerifyDepth::Restore;
    options.temporary = folder.to_owned();
    let verified = verify(options).await;
    if let Ok(report) = &verified {
        let mut findings = report.findings.clone();
        // A record may just be written.
        findings.retain(|finding| finding.kind != FindingKind::Temporary);
        assert_eq!(findings, []);
    }
    let both = restored.is_ok() && verified.is_ok();
    let errors = [
        restored.err().map(|error| error.to_string()),
        verified.err().map(|error| error.to_string()),
    ];
    for error in errors.into_iter().flatten() {
        assert_reason(&error);
    }
    both
}

fn assert_reason(error: &str) {
    let said = REASONS.iter().any(|reason| error.contains(reason));
    assert!(said, "{error}");
}

/// Adds a replica while only so many descriptors are free, and takes it away when there are more; whether it was added
/// and got everything before that. What is refused changes nothing, and works later.
async fn reload(scene: &Scene, conn: &Connection, backup: &Replication, free: usize) -> bool {
    let before = backup.options();
    let mut options = before.clone();
    let second = scene.second();
    options
        .replicas
        .push(scene.replica_options(&second.replica));
    let hoarded = hoard(free);
    let updated = backup.update(options.clone()).await;
    let done = updated.is_ok() && durable(backup, PATIENCE).await;
    drop(hoarded);
    let replicas = backup.options().replicas.len();
    if let Err(error) = &updated {
        assert_reason(&error.to_string());
        assert_eq!(replicas, 1, "refused, and in force");
        backup.update(options).await.unwrap();
    } else {
        assert_eq!(replicas, 2);
    }
    insert(conn, 1);
    let status = || format!("{free}: {:#?}", backup.status());
    assert!(durable(backup, DEADLINE).await, "{}", status());
    second.check_restore(Restorer::Own).await.unwrap();
    backup.update(before).await.unwrap();
    done
}

/// Somebody who follows the replica, and what went wrong.
struct Follower {
    copy: PathBuf,
    following: JoinHandle<Result<FollowReport, FollowError>>,
    stop: oneshot::Sender<()>,
    begun: Arc<AtomicBool>,
    failed: Arc<Mutex<Vec<String>>>,
}

impl Follower {
    fn new(scene: &Scene, copy: PathBuf) -> Self {
        let destination = Destination::file(&scene.replica).unwrap();
        let client = destination.connect(Arc::new(OsDisk)).unwrap();
        let mut options = FollowOptions::new(RestoreOptions::new(client, &copy));
        options.interval = Duration::from_millis(5);
        let begun = Arc::new(AtomicBool::new(false));
        let failed = Arc::new(Mutex::new(Vec::new()));
        let (told, errors) = (Arc::clone(&begun), Arc::clone(&failed));
        let options = options.on_event(move |event| match event {
            FollowEvent::Restored(_) | FollowEvent::Resumed { .. } => {
                told.store(true, Ordering::SeqCst);
            }
            FollowEvent::Failed { error, .. } => errors.lock().unwrap().push(error.to_string()),
            _ => {}
        });
        let (stop, stopped) = oneshot::channel();
        let following = tokio::spawn(follow(options, async {
            let _ = stopped.await;
        }));
        Self {
            copy,
            following,
            stop,
            begun,
            failed,
        }
    }

    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Waits until the copy has all rows.
    async fn has(&self, rows: i64, free: usize) {
        let current = async {
            while !self.has_begun() || count(&Connection::open(&self.copy).unwrap()) < rows {
                assert!(!self.following.is_finished(), "{free} left: it has ended");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let current = tokio::time::timeout(DEADLINE, current).await;
        current.unwrap_or_else(|_| panic!("{free} left: {:?}", self.failed));
    }

    /// What went wrong until now.
    async fn end(self) -> Vec<String> {
        let _ = self.stop.send(());
        self.following.await.unwrap().unwrap();
        assert_whole(&self.copy);
        std::mem::take(&mut *self.failed.lock().unwrap())
    }
}

/// Begins to follow the replica, and has a copy follow it on, while only so many descriptors are free; whether neither
/// had to be tried again. What begins without enough of them may end, and says why.
async fn follow_on(scene: &Scene, conn: &Connection, backup: &Replication, free: usize) -> bool {
    let folder = scene.dir.join(format!("followed-{free}"));
    std::fs::create_dir(&folder).unwrap();
    let hoarded = hoard(free);
    let mut follower = Follower::new(scene, folder.join("copy.db"));
    let begins = async {
        while !follower.following.is_finished() && !follower.has_begun() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, begins).await;
    drop(hoarded);
    let mut undisturbed = true;
    if follower.following.is_finished() {
        undisturbed = false;
        let error = follower.following.await.unwrap().unwrap_err();
        assert_reason(&error.to_string());
        follower = Follower::new(scene, folder.join("copy.db"));
    }
    follower.has(count(conn), free).await;
    let hoarded = hoard(free);
    insert(conn, 3);
    let _ = durable(backup, PATIENCE).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(hoarded);
    assert!(durable(backup, DEADLINE).await, "{:#?}", backup.status());
    follower.has(count(conn), free).await;
    let failed = follower.end().await;
    failed.iter().for_each(|error| assert_reason(error));
    let mut left = names(&folder);
    left.retain(|name| name.contains(".restoring-"));
    assert_eq!(left, Vec::<String>::new(), "{free} left");
    undisturbed && failed.is_empty()
}

/// Stops, with a commit that is not captured yet, while only so many descriptors are free; whether that could be done.
/// What could not is said, and done by the next start.
async fn stop(scene: &Scene, conn: &Connection, backup: &Replication, free: usize) -> bool {
    insert(conn, 1);
    let hoarded = hoard(free);
    let stopped = backup.stop(PATIENCE).await;
    drop(hoarded);
    match &stopped {
        Ok(()) => scene.check_restore(Restorer::Own).await.unwrap(),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    stopped.is_ok()
}

fn assert_whole(database: &Path) {
    let conn = Connection::open(database).unwrap();
    let check: String = conn
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    let rows: i64 = conn
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    assert!(rows >= 20, "{rows} rows");
}

/// Starts, runs, reloads and is followed with ever more descriptors until that works, and each time is whole again when
/// it has enough. The application's locks outlive all of it.
#[tokio::test]
#[ignore = "the process that the test below starts"]
async fn the_process_without_descriptors() {
    let dir = std::env::var(DIR).expect("started by the test beside this one");
    let scene = Scene::at(Path::new(&dir));
    let conn = scene.open();
    conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        .unwrap();
    insert(&conn, 20);
    let folder = scene.dir.join("read");
    std::fs::create_dir(&folder).unwrap();
    let (mut failures, mut free, mut disturbed) = (0, 0, [0, 0]);
    loop {
        let backup = scene.replication(Arc::new(OsDisk));
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        let hoarded = hoard(free);
        let started = backup.start().await;
        drop(hoarded);
        assert!(
            !another_process_can_write(&scene.db),
            "after {started:?}, {free} left"
        );
        assert!(another_process_finds_it_open(&scene.db));
        conn.execute_batch("COMMIT").unwrap();
        if let Err(error) = &started {
            failures += 1;
            assert!(!error.to_string().is_empty());
            backup.start().await.unwrap();
        }
        assert!(
            durable(&backup, DEADLINE).await,
            "{free}: {:#?}",
            backup.status()
        );
        // And once more while it runs, with enough commits for the WAL to start over.
        let hoarded = hoard(free);
        insert(&conn, 30);
        let done = durable(&backup, PATIENCE).await;
        let read = read(&scene, &folder).await;
        drop(hoarded);
        assert!(another_process_finds_it_open(&scene.db), "{free} left");
        let copy = folder.join("copy.db");
        // Also where its folder could not be opened to make it durable.
        if copy.exists() {
            assert_whole(&copy);
            std::fs::remove_file(copy).unwrap();
        }
        // A folder that could not be looked through goes with the next verification.
        let mut left = names(&folder);
        left.retain(|name| !name.starts_with("evertide-verify-"));
        assert_eq!(left, Vec::<String>::new(), "{free} left");
        insert(&conn, 1);
        assert!(
            durable(&backup, DEADLINE).await,
            "{free}: {:#?}",
            backup.status()
        );
        scene.check_restore(Restorer::Own).await.unwrap();
        let reloaded = reload(&scene, &conn, &backup, free).await;
        assert!(another_process_finds_it_open(&scene.db), "{free} left");
        let followed = follow_on(&scene, &conn, &backup, free).await;
        assert!(another_process_finds_it_open(&scene.db), "{free} left");
        let stopped = stop(&scene, &conn, &backup, free).await;
        assert!(another_process_finds_it_open(&scene.db), "{free} left");
        disturbed[0] += usize::from(!reloaded);
        disturbed[1] += usize::from(!followed);
        if started.is_ok() && done && read && reloaded && followed && stopped {
            break;
        }
        free += 1;
        assert!(free < ENOUGH, "it needs more than {ENOUGH} descriptors");
    }
    assert_eq!(names(&folder), Vec::<String>::new(), "it has enough");
    scene.check_ranges().unwrap();
    assert!(failures > 0, "no start failed: the limit is not one");
    let reloads_and_copies = disturbed.iter().all(|times| *times > 0);
    assert!(
        reloads_and_copies,
        "nothing was in their way: {disturbed:?}"
    );
    println!("works with {free} free descriptors, after {failures} starts that failed");
}

#[test]
fn a_process_without_descriptors_says_so_and_goes_on_when_it_has_some() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new("sh");
    child
        .args(["-c", "ulimit -n 100 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "descriptors::the_process_without_descriptors"])
        .args(["--ignored", "--nocapture"])
        .env(DIR, dir.path());
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(
        output.status.success() && said.contains("free descriptors"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

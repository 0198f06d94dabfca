//! A process that has no file descriptor left, and then has some again.

use std::{fs::File, path::Path, process::Command, sync::Arc, time::Duration};

use evertide::{FindingKind, RestoreOptions, VerifyDepth, VerifyOptions, restore, verify};
use evertide_storage::{Destination, OsDisk};
use evertide_testkit::{another_process_can_write, another_process_finds_it_open};
use rusqlite::Connection;

use crate::{DEADLINE, Restorer, Scene, fail::durable, insert, names};

/// The folder that the process works in.
const DIR: &str = "EVERTIDE_FAULTS_DIR";
const PATIENCE: Duration = Duration::from_millis(200);
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
        // The second is what SQLite says.
        let reasons = ["Too many open files", "unable to open database file"];
        let said = reasons.iter().any(|reason| error.contains(reason));
        assert!(said, "{error}");
    }
    both
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

/// Starts and runs with ever more descriptors until that works, and each time is whole again when it has
/// enough. The application's locks outlive all of it.
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
    let (mut failures, mut free) = (0, 0);
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
        backup.stop(DEADLINE).await.unwrap();
        if started.is_ok() && done && read {
            break;
        }
        free += 1;
        assert!(free < ENOUGH, "it needs more than {ENOUGH} descriptors");
    }
    assert_eq!(names(&folder), Vec::<String>::new(), "it has enough");
    scene.check_ranges().unwrap();
    assert!(failures > 0, "no start failed: the limit is not one");
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

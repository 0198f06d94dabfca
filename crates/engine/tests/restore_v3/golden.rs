//! A replica that Litestream 0.3.13 wrote once, kept in the repository with what it restored.
//!
//! File times are part of a replica, and git keeps none, so `times` has them. `make` writes the
//! folder anew: `cargo test -p evertide --test restore_v3 make_the_golden_replica -- --ignored`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use evertide::{RestoreOptions, RestoreTarget};
use evertide_storage::{FaultDisk, OsDisk};
use evertide_testkit::another_process_finds_it_open;
use rusqlite::Connection;

use crate::scene::{
    Replicating, connect, copy, files, modified, restore, restore_with_theirs, set_modified,
};

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/restore_v3/golden")
}

/// Names of files with the microseconds at which they were written, and the generation restored.
fn times() -> Vec<(String, u64)> {
    let text = fs::read_to_string(folder().join("times")).unwrap();
    let entry = |line: &str| {
        let (name, time) = line.split_once(' ').unwrap();
        (name.to_owned(), time.parse().unwrap())
    };
    text.lines().map(entry).collect()
}

pub(crate) fn set_times(replica: &Path) {
    for (name, micros) in times() {
        let path = replica.join(name);
        if path.exists() {
            set_modified(
                &path,
                SystemTime::UNIX_EPOCH + Duration::from_micros(micros),
            );
        }
    }
}

pub(crate) fn last_generation() -> String {
    let newest = times().into_iter().max_by_key(|(_, time)| *time).unwrap().0;
    newest.split('/').nth(1).unwrap().to_owned()
}

fn append(db: &Path, rows: u32) {
    let connection = Connection::open(db).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
        .execute_batch(
            "PRAGMA page_size = 512; PRAGMA journal_mode = WAL;
             CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, content)",
        )
        .unwrap();
    for row in 0..rows {
        connection
            .execute(
                "INSERT INTO t (content) VALUES (printf('%0500d', ?1))",
                [row],
            )
            .unwrap();
        std::thread::sleep(Duration::from_millis(60));
    }
    connection
        .execute("DELETE FROM t WHERE n % 3 = 0", [])
        .unwrap();
}

#[test]
#[ignore = "makes the golden files, which are in the repository"]
fn make_the_golden_replica() {
    let dir = evertide_testkit::temp_dir();
    let (db, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
    for _ in 0..2 {
        let litestream = Replicating::start(&db, &replica);
        append(&db, 30);
        litestream.stop();
        append(&db, 3); // unwatched, so that the next generation begins
    }
    let theirs = dir.path().join("theirs.db");
    assert!(restore_with_theirs(&replica, &theirs, None));
    let _ = fs::remove_dir_all(folder());
    fs::create_dir_all(folder()).unwrap();
    copy(&replica, &folder().join("replica"));
    fs::copy(&theirs, folder().join("restored.db")).unwrap();
    let line = |file: PathBuf| {
        let since = modified(&file)
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        let name = file.strip_prefix(&replica).unwrap().display().to_string();
        format!("{name} {}\n", since.as_micros())
    };
    let lines: String = files(&replica).into_iter().map(line).collect();
    fs::write(folder().join("times"), lines).unwrap();
}

#[tokio::test]
async fn a_replica_of_litestream_0_3_is_restored_as_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let replica = dir.path().join("replica");
    copy(&folder().join("replica"), &replica);
    set_times(&replica);
    let output = dir.path().join("out.db");
    let report = restore(&replica, &output, RestoreTarget::Latest)
        .await
        .unwrap();
    let expected = fs::read(folder().join("restored.db")).unwrap();
    assert!(fs::read(&output).unwrap() == expected, "another content");
    assert_eq!(report.database_bytes, expected.len() as u64);
}

#[tokio::test]
async fn who_opens_a_database_of_old_files_as_soon_as_it_has_its_name_keeps_its_locks() {
    let dir = tempfile::tempdir().unwrap();
    let replica = dir.path().join("replica");
    copy(&folder().join("replica"), &replica);
    set_times(&replica);
    let output = dir.path().join("out.db");
    let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
    let mut options = RestoreOptions::new(connect(&replica), &output);
    options.disk = disk.clone();
    evertide::restore(options.clone()).await.unwrap();
    assert_eq!(disk.log().last(), Some(&"sync_dir"));
    fs::remove_file(&output).unwrap();

    let application: Arc<Mutex<Option<Connection>>> = Arc::default();
    let (path, opened) = (output.clone(), Arc::clone(&application));
    disk.call_at(disk.operations(), move |_| {
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("SELECT * FROM sqlite_schema").unwrap();
        *opened.lock().unwrap() = Some(conn);
    });
    evertide::restore(options).await.unwrap();
    assert!(another_process_finds_it_open(&output));
    drop(application.lock().unwrap().take().unwrap());
    assert!(!another_process_finds_it_open(&output), "the probe works");
}

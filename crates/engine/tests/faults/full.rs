//! A file system that is full for everybody: the application, SQLite's files beside the database, the local state and the
//! replica are all on it.

use std::{fs, path::Path, sync::Arc, time::Duration};

use evertide::RestoreOptions;
use evertide_storage::{Destination, OsDisk};
use evertide_testkit::{Filler, with_small_disk};
use rusqlite::{Connection, ErrorCode};

use crate::{DEADLINE, Restorer, Scene, count, fail::durable, insert, rights::run};

/// The folder that the process works in.
const DIR: &str = "EVERTIDE_FAULTS_DIR";
const PATIENCE: Duration = Duration::from_millis(100);

/// Commits once; whether there was room for it.
fn commit(conn: &Connection) -> bool {
    match conn.execute("INSERT INTO t (b) VALUES (hex(randomblob(1500)))", []) {
        Ok(_) => true,
        Err(error) => {
            let code = error.sqlite_error_code();
            let full = [ErrorCode::DiskFull, ErrorCode::SystemIoFailure];
            assert!(code.is_some_and(|code| full.contains(&code)), "{error}");
            false
        }
    }
}

/// With ever more room that runs out, at a start and while it runs.
#[tokio::test]
#[ignore = "the process that the test below starts"]
async fn the_process_on_a_full_disk() {
    let dir = std::env::var(DIR).expect("started by the test below");
    let scene = Scene::at(&Path::new(&dir).join("small"));
    let conn = scene.open();
    conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        .unwrap();
    insert(&conn, 5);
    let (mut refused, mut failed) = (0, 0);
    for room in (0..40).step_by(3) {
        let filler = Filler::new(&scene.dir, room);
        let backup = scene.replication(Arc::new(OsDisk));
        let started = backup.start().await.is_ok();
        drop(filler);
        if !started {
            failed += 1;
            backup.start().await.unwrap();
        }
        assert!(durable(&backup, DEADLINE).await, "{:#?}", backup.status());

        let filler = Filler::new(&scene.dir, room);
        // Frames of before leave room in the WAL for a while.
        refused += u32::from((0..500).any(|_| !commit(&conn)));
        let done = durable(&backup, PATIENCE).await;
        let output = scene.dir.join("copy.db");
        let destination = Destination::file(&scene.replica).unwrap();
        let client = destination.connect(Arc::new(OsDisk)).unwrap();
        let restored = evertide::restore(RestoreOptions::new(client, &output)).await;
        match restored {
            Ok(_) => {
                let rows = count(&Connection::open(&output).unwrap());
                assert!(rows == count(&conn) || !done, "{rows} rows");
                fs::remove_file(&output).unwrap();
            }
            Err(_) => assert!(!output.exists(), "half of a restore"),
        }
        drop(filler);
        failed += u32::from(!done);
        assert!(commit(&conn), "there is room again");
        assert!(durable(&backup, DEADLINE).await, "{:#?}", backup.status());
        scene.check_restore(Restorer::Own).await.unwrap();
        backup.stop(DEADLINE).await.unwrap();
    }
    scene.recover(&conn, Restorer::Own).await.unwrap();
    assert!(
        refused > 0 && failed > 0,
        "{refused} commits, {failed} times"
    );
    println!("{refused} commits were refused, and the backup failed {failed} times");
}

#[test]
fn a_file_system_that_is_full_for_everybody_costs_commits_that_are_refused_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("small")).unwrap();
    let mut command = with_small_disk("64m", &std::env::current_exe().unwrap());
    let name = "full::the_process_on_a_full_disk";
    run(&mut command, name, dir.path(), "commits were refused");
}

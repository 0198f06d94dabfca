//! Inside the application's process: its locks survive whatever the store does.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use evertide_testkit::another_process_finds_it_open;
use evertide_vault::Error;
use rusqlite::{Connection, ErrorCode};

use crate::{Place, read, save};

const DATABASE: &str = "EVERTIDE_TEST_DATABASE";

/// Whether another process can write now, without waiting.
fn another_process_can_write(database: &Path) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "locks::child_that_writes_without_waiting",
        ])
        .env(DATABASE, database)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    match status.code() {
        Some(0) => true,
        Some(17) => false,
        other => panic!("the other process could not even try: {other:?}"),
    }
}

#[test]
#[ignore = "run by another test, as another process"]
fn child_that_writes_without_waiting() {
    let Some(database) = std::env::var_os(DATABASE) else {
        return; // by itself, not a test
    };
    let connection = Connection::open(database).unwrap();
    connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    match connection.execute("INSERT INTO notes VALUES ('from outside')", []) {
        Ok(_) => {}
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
            std::process::exit(17)
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_applications_write_lock_survives_every_call() {
    let place = Place::new();
    let store = place.store();
    save(&store, "one");
    save(&store, "two");
    let database = place.database();
    assert!(another_process_can_write(&database));

    let application = place.connect();
    application
        .execute_batch("BEGIN IMMEDIATE; INSERT INTO notes VALUES ('open');")
        .unwrap();
    let assert_held = || {
        assert!(!another_process_can_write(&database));
        assert!(another_process_finds_it_open(&database));
    };
    assert_held();
    assert_eq!(read(&place.store(), 0), "two");
    assert_held();
    assert_eq!(store.scopes().unwrap(), ["litestream"]);
    assert_eq!(store.history("litestream").unwrap().len(), 2);
    assert_held();
    let error = store
        .save("litestream", b"three", &Default::default(), None)
        .unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert_held();

    // That this test can fail: descriptors closed by hand do drop the locks.
    drop(std::fs::File::open(place.path("app.db-shm")).unwrap());
    assert!(another_process_can_write(&database));
    drop(std::fs::File::open(&database).unwrap());
    assert!(!another_process_finds_it_open(&database));
}

#[test]
fn a_save_waits_for_the_applications_transaction() {
    let place = Place::new();
    let application = place.connect();
    application
        .execute_batch("BEGIN IMMEDIATE; INSERT INTO notes VALUES ('open');")
        .unwrap();
    let store = place.store();
    let saver = std::thread::spawn(move || save(&store, "text"));
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(!saver.is_finished());
    application.execute_batch("COMMIT").unwrap();
    assert_eq!(saver.join().unwrap().versions, 1);
}

//! What is reported as saved is on the disk: the system calls of a process that saves, in their order.

use std::path::{Path, PathBuf};

use evertide_testkit::{Action, Call, Traced, wait_to_be_traced};
use evertide_vault::{AgeKeyFile, SecureConfigStore};
use rusqlite::Connection;

use crate::{FOLDER, Place, save, text};

#[test]
#[ignore = "the process that the test below starts"]
fn child_that_saves_and_makes_a_key() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return; // by itself, not a test
    };
    wait_to_be_traced();
    let key = AgeKeyFile::new(folder.join("age.key"));
    let store = SecureConfigStore::open(folder.join("app.db"), key).unwrap();
    save(&store, &text(1));
    eprintln!("saved");
    AgeKeyFile::new(folder.join("new.key")).generate().unwrap();
    eprintln!("made");
    let careless = Connection::open(folder.join("app.db")).unwrap();
    careless
        .execute_batch("PRAGMA synchronous = NORMAL; INSERT INTO notes VALUES ('unsynced')")
        .unwrap();
    eprintln!("inserted");
}

/// Whether the file was written to, and is on the disk since.
fn is_synced(calls: &[Call], file: &Path) -> bool {
    let last = calls.iter().rposition(does(Action::Write, file));
    let last = last.unwrap_or_else(|| panic!("{file:?} was not written to: {calls:?}"));
    calls[last..].iter().any(does(Action::Sync, file))
}

fn does(action: Action, file: &Path) -> impl Fn(&Call) -> bool {
    move |call| call.action == action && call.path == file
}

#[test]
fn what_is_saved_is_synced_before_it_is_reported_and_so_are_new_keys_with_their_names() {
    let place = Place::new();
    // An application that has it open, so that nothing is checkpointed when the store closes it.
    let application = place.connect();
    application
        .execute_batch("INSERT INTO notes VALUES ('open')")
        .unwrap();
    let folder = place.dir.path().canonicalize().unwrap();
    let test = "synced::child_that_saves_and_makes_a_key";
    let mut traced = Traced::start(test, &[(FOLDER, folder.as_os_str())]);
    let mut calls = || traced.until_a_report(|_| None).0;
    let wal = folder.join("app.db-wal");
    let saved = calls();
    assert!(is_synced(&saved, &wal), "{saved:?}");

    let key = folder.join("new.key");
    let made = calls();
    assert!(is_synced(&made, &key), "{made:?}");
    let named = made.iter().rposition(does(Action::Sync, &folder));
    let written = made.iter().position(does(Action::Write, &key));
    assert!(named > written, "its name: {made:?}");

    let inserted = calls();
    assert!(!is_synced(&inserted, &wal), "the probe works: {inserted:?}");
    traced.finish();
}

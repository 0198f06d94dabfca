//! Databases that come to watched directories and vanish, while `replicate` runs.

use std::fs;

use evertide_testkit::ChildProcess;
use nix::sys::signal::Signal;

use super::support::{PATIENCE, Workplace, insert};

/// `replicate` of a directory `data` to `backup`, running.
fn watching(place: &Workplace, recursive: bool) -> ChildProcess {
    fs::create_dir_all(place.path("data")).unwrap();
    watching_entries(place, &[entry(place, "data", "*.db", recursive, "backup")])
}

/// A watched entry of settings: databases of `dir` that match `pattern`, each to its place below `backup`.
fn entry(place: &Workplace, dir: &str, pattern: &str, recursive: bool, backup: &str) -> String {
    format!(
        "- dir: {}\n  pattern: '{pattern}'\n  recursive: {recursive}\n  watch: true\n  \
         monitor-interval: 1s\n  replica:\n    path: {}\n    sync-interval: 50ms\n",
        place.path(dir).display(),
        place.path(backup).display()
    )
}

/// `replicate` of these entries, running.
fn watching_entries(place: &Workplace, entries: &[String]) -> ChildProcess {
    place.write("litestream.yml", &format!("dbs:\n{}", entries.concat()));
    place.start(&["replicate", "--config", "litestream.yml"])
}

fn end(process: &mut ChildProcess) {
    let ended = process.terminate(PATIENCE).unwrap();
    assert!(ended.success(), "{}", process.log());
}

#[test]
fn databases_that_come_one_after_the_other_and_in_new_directories_are_replicated() {
    let place = Workplace::new();
    let mut process = watching(&place, true);
    let first = place.database("data/first.db", 1);
    place.wait_for_rows("backup/first.db", 1);
    let mut open = vec![first];
    for number in 0..40 {
        let folder = format!("data/{}/deep", number % 4);
        fs::create_dir_all(place.path(&folder)).unwrap();
        open.push(place.database(&format!("{folder}/{number}.db"), number));
    }
    for number in [0, 7, 13, 39] {
        let name = format!("{}/deep/{number}.db", number % 4);
        place.wait_for_rows(&format!("backup/{name}"), number);
        insert(&open[number as usize + 1], 1);
        place.wait_for_rows(&format!("backup/{name}"), number + 1);
    }
    end(&mut process);
    for number in 0..40 {
        let rows = place.replicated_rows(&format!("backup/{}/deep/{number}.db", number % 4));
        assert!(rows == number || rows == number + 1, "{number}: {rows}");
    }
}

#[test]
fn a_database_that_vanishes_is_let_go_with_its_last_commit_on_the_replica() {
    let place = Workplace::new();
    fs::create_dir(place.path("data")).unwrap();
    let (a, b) = (
        place.database("data/a.db", 1),
        place.database("data/b.db", 1),
    );
    let mut process = watching(&place, false);
    place.wait_for_rows("backup/a.db", 1);
    place.wait_for_rows("backup/b.db", 1);
    insert(&a, 4);
    place.wait_for_rows("backup/a.db", 5);
    drop(a);
    fs::remove_file(place.path("data/a.db")).unwrap();
    place.wait_for_log(&process, "the database is gone");
    // The other goes on, and the name is free for a new database, which gets a history above.
    insert(&b, 1);
    place.wait_for_rows("backup/b.db", 2);
    assert_eq!(place.replicated_rows("backup/a.db"), 5);
    for companion in ["data/a.db-wal", "data/a.db-shm"] {
        let _ = fs::remove_file(place.path(companion));
    }
    let _again = place.database("data/a.db", 2);
    place.wait_for_rows("backup/a.db", 2);
    end(&mut process);
}

#[test]
fn a_database_that_is_renamed_is_replicated_under_its_new_name() {
    let place = Workplace::new();
    fs::create_dir(place.path("data")).unwrap();
    drop(place.database("data/a.db", 3));
    let mut process = watching(&place, false);
    place.wait_for_rows("backup/a.db", 3);
    fs::rename(place.path("data/a.db"), place.path("data/b.db")).unwrap();
    place.wait_for_log(&process, "the database is gone");
    place.wait_for_rows("backup/b.db", 3);
    assert_eq!(place.replicated_rows("backup/a.db"), 3, "what it was stays");
    end(&mut process);
}

#[test]
fn files_that_are_no_databases_are_left_alone_until_they_are() {
    let place = Workplace::new();
    fs::create_dir_all(place.path("data/folder.db")).unwrap();
    place.write("data/notes.db", "no database");
    place.write("data/pages.db", &"no database either, but long".repeat(512));
    place.write("data/empty.db", "");
    place.write("data/a.txt", "SQLite format 3\0");
    std::os::unix::fs::symlink("nowhere", place.path("data/dangling.db")).unwrap();
    let mut process = watching(&place, false);
    let _good = place.database("data/good.db", 2);
    place.wait_for_rows("backup/good.db", 2);
    let states = || {
        let names = fs::read_dir(place.path("data")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut states: Vec<_> = names.filter(|name| name.ends_with("-evertide")).collect();
        states.sort();
        states
    };
    assert_eq!(states(), [".good.db-evertide"]);
    let _late = place.database("data/empty.db", 1);
    place.wait_for_rows("backup/empty.db", 1);
    // One that is moved into place is whole at once.
    let moved = place.database("elsewhere.db", 4);
    moved.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    drop(moved);
    fs::rename(place.path("elsewhere.db"), place.path("data/notes.db")).unwrap();
    place.wait_for_rows("backup/notes.db", 4);
    assert_eq!(
        states(),
        [
            ".empty.db-evertide",
            ".good.db-evertide",
            ".notes.db-evertide"
        ]
    );
    end(&mut process);
}

#[test]
fn a_directory_that_several_entries_watch_is_followed_and_each_database_has_one_of_them() {
    let place = Workplace::new();
    fs::create_dir_all(place.path("data/vip")).unwrap();
    let mut process = watching_entries(
        &place,
        &[
            entry(&place, "data", "*.db", true, "first"),
            entry(&place, "data", "*.sqlite", false, "second"),
            entry(&place, "data/vip", "*.db", false, "third"),
        ],
    );
    let _a = place.database("data/a.db", 1);
    place.wait_for_rows("first/a.db", 1);
    let b = place.database("data/b.sqlite", 2);
    place.wait_for_rows("second/b.sqlite", 2);
    let _c = place.database("data/vip/c.db", 3);
    place.wait_for_rows("first/vip/c.db", 3);
    drop(b);
    fs::remove_file(place.path("data/b.sqlite")).unwrap();
    place.wait_for_log(&process, "the database is gone");
    assert!(!place.exists("third"), "the first entry has it");
    let log = process.log();
    assert!(!log.contains("already being replicated"), "{log}");
    end(&mut process);
}

#[test]
fn a_file_that_cannot_be_replicated_keeps_no_other_from_it_at_the_start() {
    let place = Workplace::new();
    fs::create_dir(place.path("data")).unwrap();
    let good = place.database("data/good.db", 1);
    let garbage = format!("SQLite format 3\0{}", "garbage!".repeat(510));
    place.write("data/bad.db", &garbage);
    let mut process = watching(&place, false);
    place.wait_for_rows("backup/good.db", 1);
    insert(&good, 1);
    place.wait_for_rows("backup/good.db", 2);
    place.wait_for_log(&process, "cannot replicate the database");
    let log = process.log();
    let said = log.lines().find(|line| line.contains("ERROR")).unwrap();
    assert!(said.contains("data/bad.db"), "{log}");
    // It is tried again, and nothing else.
    fs::remove_file(place.path("data/bad.db")).unwrap();
    drop(place.database("data/bad.db", 3));
    place.wait_for_rows("backup/bad.db", 3);
    end(&mut process);

    // Who wants all of them now is told that it is not so.
    place.write("data/bad.db", &garbage);
    place
        .run(&["replicate", "--once", "--config", "litestream.yml"])
        .failed(1, &["data/bad.db", "is not running"]);
}

#[test]
fn what_cannot_be_read_is_named_and_all_else_is_followed() {
    let place = Workplace::new();
    for directory in ["a", "b"] {
        fs::create_dir(place.path(directory)).unwrap();
    }
    drop(place.database("b/old.db", 1));
    let entries = [
        entry(&place, "a", "*.db", true, "backup/a"),
        entry(&place, "b", "*.db", true, "backup/b"),
    ];
    let mut process = watching_entries(&place, &entries);
    place.wait_for_rows("backup/b/old.db", 1);
    fs::rename(place.path("b"), place.path("elsewhere")).unwrap();
    drop(place.database("a/first.db", 1));
    place.wait_for_rows("backup/a/first.db", 1);
    place.wait_for_log(&process, "cannot look for databases there");
    std::os::unix::fs::symlink("loop.db", place.path("a/loop.db")).unwrap();
    drop(place.database("a/second.db", 2));
    place.wait_for_rows("backup/a/second.db", 2);
    place.wait_for_log(&process, "a/loop.db");
    assert!(
        !process.log().contains("the database is gone"),
        "{}",
        process.log()
    );
    fs::create_dir(place.path("b")).unwrap();
    drop(place.database("b/new.db", 3));
    place.wait_for_rows("backup/b/new.db", 3);
    place.wait_for_log(&process, "the database is gone");
    process.signal(Signal::SIGHUP).unwrap();
    place.wait_for_log(&process, "settings unchanged");
    end(&mut process);
}

#[test]
fn a_link_to_a_database_does_not_take_its_replica_from_it() {
    let place = Workplace::new();
    fs::create_dir(place.path("data")).unwrap();
    let tenant = place.database("data/tenant7.db", 1);
    let mut process = watching(&place, false);
    place.wait_for_rows("backup/tenant7.db", 1);
    std::os::unix::fs::symlink("tenant7.db", place.path("data/current.db")).unwrap();
    process.signal(Signal::SIGHUP).unwrap();
    place.wait_for_log(&process, "settings unchanged");
    insert(&tenant, 1);
    place.wait_for_rows("backup/tenant7.db", 2);
    end(&mut process);
    assert!(!place.exists("backup/current.db"));
}

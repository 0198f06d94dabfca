//! `evertide replicate`

use std::fs;

use evertide_testkit::restore_with_litestream;

use super::restore::damage;
use super::support::{PATIENCE, Workplace, insert};

#[test]
fn once_brings_every_replica_up_to_date_and_ends() {
    let place = Workplace::new();
    let database = place.database("app.db", 10);
    place.ok(&[
        "replicate",
        "--once",
        "app.db",
        "one",
        &format!("file://{}", place.path("two").display()),
    ]);
    for replica in ["one", "two"] {
        assert_eq!(place.replicated_rows(replica), 10);
    }
    insert(&database, 1);
    place.ok(&["replicate", "--once", "app.db", "one", "two"]);
    assert_eq!(place.replicated_rows("one"), 11);
    // Nothing is added where nothing was committed.
    let uploads = || place.json(&["ltx", "one", "--level", "0", "--json"]);
    let before = uploads();
    place.ok(&["replicate", "--once", "app.db", "one", "two"]);
    assert_eq!(uploads(), before);
    // The official program reads it too.
    restore_with_litestream(place.path("two"), &place.path("theirs.db"));
    assert_eq!(place.rows("theirs.db"), 11);
}

#[test]
fn what_was_committed_and_checkpointed_between_two_runs_is_replicated() {
    let place = Workplace::new();
    for rows in 1..=4 {
        // The last connection checkpoints, and deletes the WAL.
        let database = if rows == 1 {
            place.database("app.db", 0)
        } else {
            rusqlite::Connection::open(place.path("app.db")).unwrap()
        };
        insert(&database, 1);
        drop(database);
        assert!(!place.exists("app.db-wal"));
        place.ok(&["replicate", "--once", "app.db", "replica"]);
        assert_eq!(place.replicated_rows("replica"), rows);
    }
}

#[test]
fn settings_from_the_store_and_from_files_replicate_as_the_command_line_does() {
    let place = Workplace::new();
    let database = place.database("app.db", 3);
    place.store(&place.settings(&["stored"]));
    place.ok(&[
        "replicate",
        "--once",
        "--age-key",
        "age.key",
        "--db",
        "app.db",
    ]);
    assert_eq!(place.replicated_rows("stored"), 3);

    let path = place.path("app.db");
    let toml = format!(
        "[[databases]]\npath = \"{}\"\n{}",
        path.display(),
        place.replica_toml("databases.replicas", "from-toml")
    );
    place.write("evertide.toml", &toml);
    insert(&database, 1);
    place.ok(&["replicate", "--once", "--config", "evertide.toml"]);
    assert_eq!(place.replicated_rows("from-toml"), 4);

    let yaml = format!(
        "dbs:\n  - path: {}\n    replicas:\n      - type: file\n        path: {}\n\
         \x20     - url: file://{}\n",
        path.display(),
        place.path("from-yml").display(),
        place.path("from-url").display()
    );
    place.write("litestream.yml", &yaml);
    insert(&database, 1);
    place.ok(&["replicate", "--once", "--config", "litestream.yml"]);
    assert_eq!(place.replicated_rows("from-yml"), 5);
    assert_eq!(place.replicated_rows("from-url"), 5);
}

#[test]
fn several_databases_of_one_file_go_to_their_own_replicas() {
    let place = Workplace::new();
    let mut settings = String::new();
    for (name, rows) in [("a", 2), ("b", 7)] {
        drop(place.database(&format!("{name}.db"), rows));
        settings += &format!(
            "[[databases]]\npath = \"{}\"\n",
            place.path(&format!("{name}.db")).display()
        );
        settings += &place.replica_toml("databases.replicas", name);
    }
    place.write("evertide.toml", &settings);
    place.ok(&["replicate", "--once", "--config", "evertide.toml"]);
    assert_eq!(
        (place.replicated_rows("a"), place.replicated_rows("b")),
        (2, 7)
    );
}

#[test]
fn what_is_wrong_is_said_before_anything_is_done() {
    let place = Workplace::new();
    let once = |more: &[&str]| place.run(&[&["replicate", "--once"], more].concat());
    once(&["missing.db", "r"]).failed(1, &["missing.db", "no database"]);
    once(&["--config", "missing.toml"]).failed(1, &["missing.toml", "No such file"]);
    once(&["--age-key", "age.key", "--db", "missing.db"]).failed(1, &["missing.db"]);
    place.write("bad.toml", "[[databases]]\npath = \"x\"\nmistake = 1\n");
    once(&["--config", "bad.toml"]).failed(1, &["bad.toml", "line 3", "mistake"]);
    place.write("bad.yml", "dbs: 5\n");
    once(&["--config", "bad.yml"]).failed(1, &["bad.yml", "dbs"]);
    place.write("text.db", &"this is not a database ".repeat(100));
    once(&["text.db", "r"]).failed(1, &["text.db"]);
    let mut names = place.names();
    names.retain(|name| !name.starts_with(".text.db"));
    assert_eq!(names, ["bad.toml", "bad.yml", "text.db"]);
    drop(place.database("app.db", 1));
    once(&["app.db", "r", "r"]).failed(1, &["two replicas", "/r"]);
}

#[test]
fn a_replica_that_cannot_be_written_fails_once_instead_of_waiting_for_ever() {
    let place = Workplace::new();
    drop(place.database("app.db", 1));
    place.write("file", "not a directory");
    let run = place.run(&[
        "replicate",
        "--once",
        "--log-level",
        "error",
        "app.db",
        "file",
    ]);
    run.failed(1, &["app.db", "file", "Not a directory"]);
}

#[test]
fn a_database_that_appears_later_is_replicated_from_then_on() {
    let place = Workplace::new();
    let mut process = place.start(&["replicate", "app.db", "replica"]);
    place.wait_for_log(&process, "waiting for the database");
    let database = place.database("app.db", 4);
    place.wait_for_rows("replica", 4);
    insert(&database, 1);
    place.wait_for_rows("replica", 5);
    assert!(
        process.terminate(PATIENCE).unwrap().success(),
        "{}",
        process.log()
    );
}

#[test]
fn a_database_is_not_replicated_by_two_processes() {
    let place = Workplace::new();
    drop(place.database("app.db", 1));
    let mut first = place.start(&["replicate", "app.db", "replica"]);
    place.wait_for_rows("replica", 1);
    let id = first.id().to_string();
    place
        .run(&["replicate", "app.db", "other"])
        .failed(1, &["app.db", "already", &id]);
    assert!(!place.exists("other"));
    assert!(first.terminate(PATIENCE).unwrap().success());
}

#[test]
fn the_log_has_the_form_and_level_asked_for_and_nothing_is_on_standard_output() {
    let place = Workplace::new();
    drop(place.database("app.db", 1));
    let once = |more: &[&str]| {
        let run = place.run(&[&["replicate", "--once", "app.db", "replica"], more].concat());
        assert_eq!((run.code, run.out.as_str()), (Some(0), ""));
        run.err
    };
    let text = once(&[]);
    assert!(text.contains("INFO replicating database=app.db"), "{text}");
    assert!(!text.contains('\u{1b}'), "colours in a file");
    assert_eq!(once(&["--log-level", "error"]), "");
    let json = once(&["--log-format", "json"]);
    let mut messages = Vec::new();
    for line in json.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            event["timestamp"].is_string() && event["level"].is_string(),
            "{event}"
        );
        messages.push(event["message"].as_str().unwrap().to_owned());
    }
    assert!(
        messages.iter().any(|message| message == "replicating"),
        "{messages:?}"
    );
}

#[test]
fn a_missing_database_is_restored_first_when_asked_for() {
    let place = Workplace::new();
    drop(place.database("app.db", 6));
    place.ok(&["replicate", "--once", "app.db", "replica"]);
    let lose = || {
        for name in place.names().iter().filter(|name| name.contains("app.db")) {
            let path = place.path(name);
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap()
            } else {
                fs::remove_file(path).unwrap()
            }
        }
    };
    lose();
    let arguments = [
        "replicate",
        "--once",
        "--restore-if-db-not-exists",
        "app.db",
    ];
    // The first replica has nothing; the second one has.
    place.ok(&[&arguments[..], &["new", "replica"]].concat());
    assert_eq!(place.rows("app.db"), 6);
    assert_eq!(place.replicated_rows("new"), 6);
    // One that is there is left alone.
    insert(
        &rusqlite::Connection::open(place.path("app.db")).unwrap(),
        1,
    );
    place.ok(&[&arguments[..], &["new", "replica"]].concat());
    assert_eq!(
        (place.rows("app.db"), place.replicated_rows("replica")),
        (7, 7)
    );
    // To begin anew beside a damaged backup would bury it.
    lose();
    damage(&place, "replica/ltx/9");
    let run = place.run(&[&arguments[..], &["replica"]].concat());
    run.failed(1, &["app.db", "damaged"]);
    assert!(!place.exists("app.db"));
    // No replica at all: with --once there is nothing to wait for.
    place
        .run(&[&arguments[..], &["nowhere"]].concat())
        .failed(1, &["app.db", "no database"]);
}

/// Two replicas of a database that is lost, one of which reaches further.
fn lost_with_a_stale_replica() -> Workplace {
    let place = Workplace::new();
    let database = place.database("app.db", 2);
    place.ok(&["replicate", "--once", "app.db", "stale", "newer"]);
    insert(&database, 3);
    drop(database);
    place.ok(&["replicate", "--once", "app.db", "newer"]);
    for name in place.names().iter().filter(|name| name.contains("app.db")) {
        let path = place.path(name);
        let gone = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        gone.unwrap();
    }
    place
}

const RESTORING: [&str; 4] = [
    "replicate",
    "--once",
    "--restore-if-db-not-exists",
    "app.db",
];

/// Or the newer state would be below what is stored next.
#[test]
fn a_missing_database_is_restored_from_the_replica_that_reaches_furthest_whichever_is_first() {
    for replicas in [["stale", "newer"], ["newer", "stale"]] {
        let place = lost_with_a_stale_replica();
        place.ok(&[&RESTORING[..], &replicas].concat());
        assert_eq!(place.rows("app.db"), 5);
        for replica in replicas {
            assert_eq!(place.replicated_rows(replica), 5, "{replica}");
        }
    }
}

#[test]
fn nothing_is_restored_before_replicating_while_a_replica_that_may_be_newer_cannot_be_read() {
    let place = lost_with_a_stale_replica();
    damage(&place, "newer/ltx/9");
    // Where nobody answers.
    for first in ["newer", "webdav://127.0.0.1:1/app"] {
        for replicas in [[first, "stale"], ["stale", first]] {
            let run = place.run(&[&RESTORING[..], &replicas].concat());
            run.failed(1, &["app.db", first, "newest state", "evertide restore"]);
            assert!(!place.exists("app.db"), "{replicas:?}");
        }
    }
    // As it says: by hand, for those who know better.
    place.ok(&["restore", "stale", "-o", "app.db"]);
    assert_eq!(place.rows("app.db"), 2);
}

#[test]
fn a_command_runs_while_its_commits_are_replicated_and_its_failure_is_ours() {
    let place = Workplace::new();
    drop(place.database("app.db", 2));
    let exec = |command: &str| {
        place.run(&[
            "replicate",
            "--log-level",
            "warn",
            "--exec",
            command,
            "app.db",
            "replica",
        ])
    };
    place.write(
        "write.py",
        "import sqlite3\ndb = sqlite3.connect('app.db')\n\
         db.execute('INSERT INTO t VALUES (99)')\ndb.commit()\nprint('wrote it')\n",
    );
    let run = exec("python3 \"write.py\"");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.out, "wrote it\n", "the command's output is its own");
    assert_eq!(place.replicated_rows("replica"), 3);
    exec("sh -c 'exit 7'").failed(1, &["--exec", "exit status: 7"]);
    exec("sh -c 'kill -9 $$'").failed(1, &["--exec", "signal: 9"]);
    exec("no-such-program --flag").failed(1, &["no-such-program", "No such file"]);
    exec("'unbalanced").failed(2, &["'unbalanced", "quoted"]);
    exec(" ").failed(2, &["quoted"]);
}

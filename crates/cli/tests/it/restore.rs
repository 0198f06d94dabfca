//! `evertide restore`

use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
};

use evertide_testkit::{
    ChildProcess, Fault, FaultProxy, Weather, WebdavKind, WebdavServer, wait_until,
};
use serde_json::Value;

use super::support::{PATIENCE, Workplace, bytes, insert};

/// A replica with 3, 4 and 5 rows; transaction 2 changes nothing, the first stop leaves it for Litestream.
fn replica(place: &Workplace, name: &str) {
    let database = place.database("app.db", 3);
    for _ in 0..2 {
        place.ok(&["replicate", "--once", "app.db", name]);
        insert(&database, 1);
    }
    place.ok(&["replicate", "--once", "app.db", name]);
}

/// Changes a byte in the middle of each file of a level.
pub(crate) fn damage(place: &Workplace, level: &str) {
    for file in fs::read_dir(place.path(level)).unwrap() {
        let file = file.unwrap().path();
        let mut content = bytes(&file);
        let middle = content.len() / 2;
        content[middle] ^= 0xff;
        fs::write(file, content).unwrap();
    }
}

#[test]
fn the_newest_state_comes_back_and_is_described() {
    let place = Workplace::new();
    replica(&place, "replica");
    let run = place.run(&["restore", "replica", "-o", "out.db"]);
    assert_eq!(
        (run.code, run.err.as_str()),
        (Some(0), ""),
        "no progress where there is no terminal"
    );
    for text in [
        "out.db",
        "replica",
        "transaction 0000000000000004",
        "4 files",
    ] {
        assert!(run.out.contains(text), "`{text}` is not said: {run:?}");
    }
    assert_eq!(place.rows("out.db"), 5);
    let report = place.json(&[
        "restore",
        "replica",
        "-o",
        "json.db",
        "--json",
        "--integrity-check",
        "full",
        "--parallelism",
        "2",
        "--no-progress",
    ]);
    assert_eq!(report["db_path"], "json.db");
    assert_eq!(report["restored"], true);
    assert_eq!(report["txid"], "0000000000000004");
    assert_eq!(report["files"], 4);
    assert_eq!(report["integrity_check"], "full");
    assert_eq!(
        report["database_bytes"],
        fs::metadata(place.path("json.db")).unwrap().len()
    );
    assert!(report["duration_ms"].is_u64());
    assert_eq!(place.rows("json.db"), 5);
}

#[test]
fn an_earlier_state_comes_back_by_transaction_and_by_time() {
    let place = Workplace::new();
    replica(&place, "replica");
    let files = place.json(&["ltx", "replica", "--json"]);
    let third = files
        .as_array()
        .unwrap()
        .iter()
        .find(|file| file["max_txid"] == "0000000000000003");
    let time = third.unwrap()["timestamp"].as_str().unwrap();
    place.ok(&["restore", "replica", "-o", "txid.db", "--txid", "3"]);
    assert_eq!(place.rows("txid.db"), 4);
    place.ok(&[
        "restore",
        "replica",
        "-o",
        "full.db",
        "--txid",
        "0000000000000001",
    ]);
    assert_eq!(place.rows("full.db"), 3);
    place.ok(&["restore", "replica", "-o", "time.db", "--timestamp", time]);
    assert_eq!(place.rows("time.db"), 4);
    let early = [
        "restore",
        "replica",
        "-o",
        "early.db",
        "--timestamp",
        "2001-01-01T00:00:00+01:00",
    ];
    place.run(&early).failed(1, &["replica", "no snapshot"]);
    let late = ["restore", "replica", "-o", "late.db", "--txid", "9"];
    place
        .run(&late)
        .failed(1, &["replica", "0000000000000009", "0000000000000004"]);
    assert!(!place.exists("early.db") && !place.exists("late.db"));
}

#[test]
fn a_time_after_the_newest_state_gives_that_one_and_says_so() {
    let place = Workplace::new();
    replica(&place, "replica");
    let at = |time: &str, more: &[&str]| {
        let restore = ["restore", "replica", "-o", "out.db", "--force"];
        place.run(&[&restore[..], &["--timestamp", time], more].concat())
    };
    let json = |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap() };
    for more in [
        &[][..],
        &["--dry-run"],
        &["--json"],
        &["--dry-run", "--json"],
    ] {
        let run = at("2999-12-31T00:00:00Z", more);
        assert_eq!(run.code, Some(0), "{run:?}");
        for text in ["/replica is of 20", " d ", "earlier than asked"] {
            assert!(run.err.contains(text), "`{text}` is not said: {run:?}");
        }
        if more.contains(&"--json") {
            let document = json(&run.out);
            assert_eq!(document["newest"], true);
            assert!(run.err.contains(document["timestamp"].as_str().unwrap()));
        }
    }
    assert_eq!(place.rows("out.db"), 5);
    // Of a time that the replica reaches beyond there is nothing to say, nor of the very newest.
    let files = place.json(&["ltx", "replica", "--json"]);
    let time = |txid: &str| {
        let mut files = files.as_array().unwrap().iter();
        let file = files.find(|file| file["max_txid"] == txid).unwrap();
        file["timestamp"].as_str().unwrap().to_owned()
    };
    for (txid, newest) in [("0000000000000003", false), ("0000000000000004", true)] {
        let run = at(&time(txid), &["--json"]);
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
        assert_eq!(json(&run.out)["newest"], newest);
    }
}

#[test]
fn an_existing_database_is_replaced_only_by_force() {
    let place = Workplace::new();
    replica(&place, "replica");
    place.write("out.db", "precious");
    let arguments = ["restore", "replica", "-o", "out.db"];
    place
        .run(&arguments)
        .failed(1, &["out.db", "exists", "--force"]);
    let skipped = [&arguments[..], &["--if-db-not-exists"]].concat();
    assert!(place.ok(&skipped).contains("out.db exists"));
    let skipped = place.json(&[&skipped[..], &["--json"]].concat());
    assert_eq!(skipped["restored"], false);
    assert_eq!(place.read("out.db"), "precious");
    place.ok(&[&arguments[..], &["--force"]].concat());
    assert_eq!(place.rows("out.db"), 5);
    fs::create_dir(place.path("dir")).unwrap();
    place
        .run(&["restore", "replica", "-o", "dir", "--force"])
        .failed(1, &["dir", "not a file"]);
    place.ok(&["restore", "replica", "-o", "new/dir/out.db"]);
    assert_eq!(place.rows("new/dir/out.db"), 5);
}

#[test]
fn where_nobody_knows_whether_a_database_exists_nothing_is_taken_for_granted() {
    let place = Workplace::new();
    replica(&place, "replica");
    std::os::unix::fs::symlink("loop.db", place.path("loop.db")).unwrap();
    for arguments in [
        ["restore", "replica", "--if-db-not-exists", "-o", "loop.db"],
        [
            "replicate",
            "--once",
            "--restore-if-db-not-exists",
            "loop.db",
            "replica",
        ],
    ] {
        let run = place.run(&arguments);
        run.failed(1, &["cannot tell whether", "loop.db", "exists"]);
    }
}

#[test]
fn a_replica_without_a_backup_is_an_error_unless_that_was_expected() {
    let place = Workplace::new();
    let arguments = ["restore", "nowhere", "-o", "out.db"];
    place.run(&arguments).failed(1, &["nowhere", "no backup"]);
    let expected = [&arguments[..], &["--if-replica-exists"]].concat();
    assert!(place.ok(&expected).contains("no backup"));
    let document = place.json(&[&expected[..], &["--json"]].concat());
    assert_eq!(document["restored"], false);
    assert_eq!(place.names(), [] as [&str; 0]);
    // Damage is not absence.
    replica(&place, "replica");
    damage(&place, "replica/ltx/9");
    let damaged = ["restore", "replica", "-o", "out.db", "--if-replica-exists"];
    place.run(&damaged).failed(1, &["replica", "damaged"]);
}

#[test]
fn a_failed_restore_leaves_nothing_behind() {
    let place = Workplace::new();
    replica(&place, "replica");
    let before = place.names();
    damage(&place, "replica/ltx/0");
    let run = place.run(&["restore", "replica", "-o", "out.db", "--json"]);
    run.failed(1, &["replica", "damaged", ".ltx"]);
    assert_eq!(place.names(), before);
    fs::remove_dir_all(place.path("replica/ltx/9")).unwrap();
    place
        .run(&["restore", "replica", "-o", "out.db"])
        .failed(1, &["replica", "snapshot"]);
    assert_eq!(place.names(), before);
}

#[test]
fn a_dry_run_says_what_would_be_read_and_does_nothing() {
    let place = Workplace::new();
    replica(&place, "replica");
    let before = place.names();
    let arguments = ["restore", "replica", "-o", "out.db", "--dry-run"];
    let said = place.ok(&arguments);
    assert!(said.contains("would restore out.db"), "{said}");
    assert!(
        said.contains("0000000000000002-0000000000000002.ltx"),
        "{said}"
    );
    let plan = place.json(&[&arguments[..], &["--json", "--txid", "2"]].concat());
    assert_eq!(plan["max_txid"], "0000000000000002");
    assert_eq!(plan["files"].as_array().unwrap().len(), 2);
    assert_eq!(plan["files"][0]["level"], 9);
    assert_eq!(place.names(), before);
}

/// Whatever a program asked for: it looks in one place.
#[test]
fn every_form_of_a_restore_says_in_json_what_became_of_which_database_from_which_replica() {
    let place = Workplace::new();
    replica(&place, "replica");
    place.write(
        "evertide.toml",
        &format!(
            "[[databases]]\npath = \"app.db\"\n{}",
            place.replica_toml("databases.replicas", "replica")
        ),
    );
    for (named, from) in [
        (Value::Null, &["replica"][..]),
        ("replica".into(), &["--config", "evertide.toml", "app.db"]),
    ] {
        let restore = [&["restore", "--json", "-o", "out.db"][..], from].concat();
        let plan = place.json(&[&restore[..], &["--dry-run"]].concat());
        // As before.
        assert_eq!(
            (&plan["replica"], &plan["target_path"]),
            (&named, &"out.db".into())
        );
        let location = &plan["source"];
        let done = place.json(&restore);
        assert_eq!(&done["replica"], location);
        fs::remove_file(place.path("out.db")).unwrap();
        let mut follow = place.command(&[&restore[..], &["--follow"]].concat());
        follow.stdout(fs::File::create(place.path("followed")).unwrap());
        let mut follow = ChildProcess::spawn(&mut follow).unwrap();
        wait_until(PATIENCE, "the copy", || place.exists("out.db"));
        // Once it goes on with a change it is ready.
        let rows = place.rows("app.db") + 1;
        let database = rusqlite::Connection::open(place.path("app.db")).unwrap();
        insert(&database, 1);
        drop(database);
        place.ok(&["replicate", "--once", "app.db", "replica"]);
        wait_until(PATIENCE, "the change", || place.rows("out.db") == rows);
        follow.terminate(PATIENCE).unwrap();
        let followed: Value = serde_json::from_str(&place.read("followed")).unwrap();
        assert_eq!(&followed["replica"], location);
        let skipped = place.json(&[&restore[..], &["--if-db-not-exists"]].concat());
        for (document, restored) in [
            (&plan, false),
            (&done, true),
            (&followed, true),
            (&skipped, false),
        ] {
            assert_eq!(document["db_path"], "out.db", "{document}");
            assert_eq!(document["restored"], restored, "{document}");
        }
        for document in [&plan, &done, &followed] {
            assert_eq!(&document["location"], location, "{document}");
            assert_eq!(document["replica_name"], named, "{document}");
        }
        for name in place.names().iter().filter(|name| name.contains("out.db")) {
            let path = place.path(name);
            fs::remove_file(&path)
                .or_else(|_| fs::remove_dir_all(&path))
                .unwrap();
        }
    }
}

#[test]
fn each_integrity_check_looks_as_far_as_it_says() {
    let place = Workplace::new();
    let database = place.database("app.db", 3);
    // An index that disagrees with its table, which only a full check compares.
    database
        .execute_batch(
            "ALTER TABLE t ADD COLUMN y; CREATE INDEX i ON t (x); PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t (y)' WHERE type = 'index'",
        )
        .unwrap();
    drop(database);
    place.ok(&["replicate", "--once", "app.db", "replica"]);
    let restore = ["restore", "replica", "-o", "out.db", "--force"];
    let before = place.names();
    for (check, said) in [
        (&[][..], ""),
        (&["--integrity-check", "none"], ""),
        (
            &["--integrity-check", "quick"],
            "quick integrity check passed",
        ),
    ] {
        let out = place.ok(&[&restore[..], check].concat());
        assert_eq!(out.contains("check passed"), !said.is_empty(), "{out}");
        assert!(out.contains(said), "{out}");
        fs::remove_file(place.path("out.db")).unwrap();
    }
    let full = place.run(&[&restore[..], &["--integrity-check", "full"]].concat());
    full.failed(1, &["corrupt", "missing from index i"]);
    assert_eq!(place.names(), before);
}

#[test]
fn settings_say_where_to_look_and_the_replica_that_reaches_furthest_is_taken() {
    let place = Workplace::new();
    place.store(&place.settings(&["old", "new"]));
    let database = place.database("app.db", 3);
    place.ok(&["replicate", "--once", "app.db", "old", "new"]);
    insert(&database, 1);
    place.ok(&["replicate", "--once", "app.db", "new"]);
    let stored = ["restore", "--age-key", "age.key", "--db", "app.db"];
    let report = place.json(&[&stored[..], &["-o", "out.db", "--json"]].concat());
    assert_eq!(
        report["replica"],
        format!("file://{}", place.path("new").display())
    );
    assert_eq!(place.rows("out.db"), 4);
    place.ok(&[&stored[..], &["-o", "old.db", "--replica", "old"]].concat());
    assert_eq!(place.rows("old.db"), 3);
    let unknown = [&stored[..], &["-o", "x.db", "--replica", "other"]].concat();
    place.run(&unknown).failed(2, &["other", "old, new"]);
    // One that cannot be read is passed over, and that is said.
    fs::remove_dir_all(place.path("new/ltx")).unwrap();
    place.write("new/ltx", "a file");
    let run = place.run(&[&stored[..], &["-o", "second.db"]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.err.contains("new") && run.err.contains("Not a directory"),
        "{run:?}"
    );
    assert_eq!(place.rows("second.db"), 3);
}

#[test]
fn a_file_with_several_databases_needs_to_know_which_one() {
    let place = Workplace::new();
    let mut settings = String::new();
    for (name, rows) in [("a", 2), ("b", 7)] {
        drop(place.database(&format!("{name}.db"), rows));
        place.ok(&["replicate", "--once", &format!("{name}.db"), name]);
        let path = place.path(&format!("{name}.db"));
        settings += &format!("[[databases]]\npath = \"{}\"\n", path.display());
        settings += &place.replica_toml("databases.replicas", name);
    }
    place.write("evertide.toml", &settings);
    let arguments = ["restore", "--config", "evertide.toml", "-o", "out.db"];
    place
        .run(&arguments)
        .failed(2, &["several databases", "a.db", "b.db"]);
    place
        .run(&[&arguments[..], &["c.db"]].concat())
        .failed(2, &["c.db", "a.db", "b.db"]);
    // The database need not exist any more.
    fs::remove_file(place.path("b.db")).unwrap();
    place.ok(&[&arguments[..], &["b.db"]].concat());
    assert_eq!(place.rows("out.db"), 7);
}

#[test]
fn what_the_official_litestream_wrote_is_restored() {
    let place = Workplace::new();
    let database = place.database("app.db", 20);
    let url = format!("file://{}", place.path("theirs").display());
    let once = || {
        let mut command = evertide_testkit::litestream_command();
        let arguments = ["replicate", "-once", "app.db", &url];
        let output = command
            .args(arguments)
            .current_dir(place.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    once();
    insert(&database, 2);
    once();
    place.ok(&[
        "restore",
        &url,
        "-o",
        "out.db",
        "--integrity-check",
        "quick",
    ]);
    assert_eq!(place.rows("out.db"), 22);
}

/// What a restore writes to a terminal on standard error.
pub(crate) fn on_a_terminal(place: &Workplace, arguments: &[&str]) -> String {
    shown_on_a_terminal(place.command(arguments))
}

fn shown_on_a_terminal(mut command: Command) -> String {
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut terminal = fs::File::from(pty.master);
    command
        .env("TERM", "xterm")
        .stderr(pty.slave)
        .stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    // The terminal ends when its last user does, and this is one.
    drop(command);
    let mut shown = Vec::new();
    // Linux reports the end of a terminal as EIO.
    let _ = terminal.read_to_end(&mut shown);
    assert!(child.wait().unwrap().success());
    String::from_utf8_lossy(&shown).into_owned()
}

#[test]
fn progress_is_shown_on_a_terminal_and_can_be_switched_off() {
    let place = Workplace::new();
    replica(&place, "replica");
    let shown = on_a_terminal(&place, &["restore", "replica", "-o", "a.db"]);
    assert!(shown.contains("restoring"), "{shown:?}");
    let shown = on_a_terminal(
        &place,
        &["restore", "replica", "-o", "b.db", "--no-progress"],
    );
    assert_eq!(shown, "");
}

#[test]
fn a_slow_restore_shows_rate_and_time_left_on_a_terminal() {
    let place = Workplace::new();
    let server = WebdavServer::start(WebdavKind::Rclone);
    let proxy = FaultProxy::start(server.address().parse().unwrap(), 1).unwrap();
    replica(&place, server.folder().join("app").to_str().unwrap());
    proxy.set_weather(Weather::Only(Fault::Slow));
    let url = format!("webdav://{}@{}/app", WebdavServer::USER, proxy.address());
    let mut command = place.command(&["restore", &url, "-o", "out.db"]);
    command.env("WEBDAV_PASSWORD", WebdavServer::PASSWORD);
    let shown = shown_on_a_terminal(command);
    for text in ["restoring", "B of ", "B/s, ", " s left"] {
        assert!(shown.contains(text), "{text:?} is not shown: {shown:?}");
    }
    assert_eq!(place.rows("out.db"), 5);
}

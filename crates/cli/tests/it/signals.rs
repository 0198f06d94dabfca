//! Signals: an orderly end, an immediate one, and changed settings.

use std::{fs, ops::RangeInclusive, os::unix::process::ExitStatusExt};

use evertide_testkit::{ChildProcess, another_process_finds_locked, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::support::{PATIENCE, Workplace, insert};

#[test]
fn what_is_committed_before_the_signal_is_on_the_replica_when_the_process_ends() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let place = Workplace::new();
        let database = place.database("app.db", 1);
        let mut process = place.start(&["replicate", "app.db", "replica"]);
        place.wait_for_rows("replica", 1);
        // Many at once: most of them cannot have gone out by the time of the signal.
        insert(&database, 500);
        process.signal(signal).unwrap();
        let status = process.wait(PATIENCE).unwrap();
        assert_eq!(status.code(), Some(0), "{}", process.log());
        assert_eq!(place.replicated_rows("replica"), 501);
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let place = Workplace::new();
    drop(place.database("app.db", 1));
    // The command ignores SIGTERM, so an orderly end would take long.
    place.write(
        "stubborn.sh",
        "trap '' TERM INT\necho ready\nwhile :; do sleep 0.05; done\n",
    );
    let mut process = place.start(&["replicate", "--exec", "sh stubborn.sh", "app.db", "replica"]);
    place.wait_for_log(&process, "ready");
    process.signal(Signal::SIGTERM).unwrap();
    place.wait_for_log(&process, "SIGTERM: shutting down");
    assert!(process.is_running().unwrap(), "{}", process.log());
    process.signal(Signal::SIGTERM).unwrap();
    let status = process.wait(PATIENCE).unwrap();
    assert_eq!(
        status.signal(),
        Some(Signal::SIGTERM as i32),
        "{}",
        process.log()
    );
    end_child(&process);
}

/// Ends the command that an ended process left, by the ID that it logged.
fn end_child(process: &ChildProcess) {
    let log = process.log();
    let pid = log
        .split("pid=")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
}

#[test]
fn the_signal_reaches_the_command_first_and_its_last_commits_are_replicated() {
    let place = Workplace::new();
    drop(place.database("app.db", 1));
    place.write(
        "app.py",
        "import signal, sqlite3, sys, time\n\
         db = sqlite3.connect('app.db')\n\
         def end(*_):\n    db.execute('INSERT INTO t VALUES (99)')\n    db.commit()\n\
         \x20   sys.exit(3)\n\
         signal.signal(signal.SIGTERM, end)\nprint('ready', flush=True)\n\
         while True: time.sleep(0.05)\n",
    );
    let mut process = place.start(&["replicate", "--exec", "python3 app.py", "app.db", "replica"]);
    place.wait_for_log(&process, "ready");
    // It was asked to end, so how it ends is not a failure.
    assert_eq!(
        process.terminate(PATIENCE).unwrap().code(),
        Some(0),
        "{}",
        process.log()
    );
    assert_eq!(place.replicated_rows("replica"), 2);
}

#[test]
fn sighup_takes_over_changed_settings_and_refuses_wrong_ones() {
    let place = Workplace::new();
    let database = place.database("app.db", 1);
    place.store(&place.settings(&["one"]));
    let mut process = place.start(&["replicate", "--age-key", "age.key", "--db", "app.db"]);
    place.wait_for_rows("one", 1);
    place.write("settings.toml", &place.settings(&["one", "two"]));
    place.insert();
    process.signal(Signal::SIGHUP).unwrap();
    place.wait_for_rows("two", 1);
    insert(&database, 1);
    place.wait_for_rows("one", 2);
    place.wait_for_rows("two", 2);
    assert!(
        process.terminate(PATIENCE).unwrap().success(),
        "{}",
        process.log()
    );
}

/// Settings of these databases, each with a replica named after it.
fn several(place: &Workplace, names: &[&str]) -> String {
    let one = |name: &&str| {
        let path = place.path(&format!("{name}.db"));
        let replica = place.replica_toml("databases.replicas", name);
        format!("[[databases]]\npath = \"{}\"\n{replica}", path.display())
    };
    names.iter().map(one).collect()
}

#[test]
fn sighup_adds_and_removes_databases_of_a_file() {
    let place = Workplace::new();
    let (a, b) = (place.database("a.db", 1), place.database("b.db", 1));
    place.write("evertide.toml", &several(&place, &["a"]));
    let mut process = place.start(&["replicate", "--config", "evertide.toml"]);
    place.wait_for_rows("a", 1);

    // Wrong settings: said, and the running ones stay.
    place.write(
        "evertide.toml",
        &(several(&place, &["a", "b"]) + "mistake = 1\n"),
    );
    process.signal(Signal::SIGHUP).unwrap();
    place.wait_for_log(&process, "mistake");
    insert(&a, 1);
    place.wait_for_rows("a", 2);
    assert!(!place.exists("b"));

    place.write("evertide.toml", &several(&place, &["a", "b"]));
    process.signal(Signal::SIGHUP).unwrap();
    place.wait_for_rows("b", 1);

    place.write("evertide.toml", &several(&place, &["b"]));
    process.signal(Signal::SIGHUP).unwrap();
    place.wait_for_log(&process, "removed");
    insert(&b, 1);
    place.wait_for_rows("b", 2);
    // Nobody holds the database that was removed: another process may have it.
    place.ok(&["replicate", "--once", "a.db", "other"]);
    assert!(
        process.terminate(PATIENCE).unwrap().success(),
        "{}",
        process.log()
    );
}

#[test]
fn a_database_that_cannot_be_added_is_tried_again_and_the_rest_of_the_settings_is_in_force() {
    let place = Workplace::new();
    let (_a, b) = (place.database("a.db", 1), place.database("b.db", 1));
    let mut holder = place.start(&["replicate", "b.db", "other"]);
    place.wait_for_rows("other", 1);
    place.write("evertide.toml", &several(&place, &["a"]));
    let mut process = place.start(&["replicate", "--config", "evertide.toml"]);
    place.wait_for_rows("a", 1);
    place.write("evertide.toml", &several(&place, &["b"]));
    process.signal(Signal::SIGHUP).unwrap();
    place.wait_for_log(&process, "removed");
    let log = process.log();
    let said = log.lines().find(|line| line.contains("removed")).unwrap();
    for part in ["not all of them", "b.db", "already being replicated"] {
        assert!(said.contains(part), "{log}");
    }
    assert!(!log.contains("refused"), "{log}");
    // The process that it moves away from ends only now.
    assert!(holder.terminate(PATIENCE).unwrap().success());
    place.wait_for_rows("b", 1);
    insert(&b, 1);
    place.wait_for_rows("b", 2);
    assert!(
        process.terminate(PATIENCE).unwrap().success(),
        "{}",
        process.log()
    );
}

#[test]
fn a_log_that_nobody_reads_does_not_end_replication() {
    let place = Workplace::new();
    let database = place.database("app.db", 1);
    let mut command = place.command(&["replicate", "--log-level", "trace", "app.db", "replica"]);
    let mut child = command
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    place.wait_for_rows("replica", 1);
    insert(&database, 5);
    place.wait_for_rows("replica", 6);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    let mut status = None;
    wait_until(PATIENCE, "the end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
}

/// One whose restore takes so long that a signal comes in the middle.
fn with_a_large_replica() -> Workplace {
    let place = Workplace::new();
    let database = place.database("app.db", 0);
    let fill = "INSERT INTO t SELECT randomblob(1000) FROM \
                (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000) \
                 SELECT i FROM n)";
    database.execute(fill, []).unwrap();
    place.ok(&["replicate", "--once", "app.db", "replica"]);
    place.write("log", "");
    place
}

#[test]
fn an_interrupted_restore_leaves_nothing_behind() {
    let place = with_a_large_replica();
    let before = place.names();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let arguments = [
            "restore",
            "replica",
            "-o",
            "out.db",
            "--integrity-check",
            "full",
        ];
        let mut process = place.start(&arguments);
        wait_until(PATIENCE, "the temporary file", || place.names() != before);
        process.signal(signal).unwrap();
        let status = process.wait(PATIENCE).unwrap();
        assert_eq!(status.code(), Some(1), "{}", process.log());
        assert!(
            process.log().contains(&format!("ended by {signal}")),
            "{}",
            process.log()
        );
        assert_eq!(place.names(), before);
    }
}

#[test]
fn a_signal_in_the_restore_before_replication_leaves_nothing_behind() {
    let place = with_a_large_replica();
    let before = place.names();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let came_in_time = (0..50).any(|_| {
            let arguments = [
                "replicate",
                "--restore-if-db-not-exists",
                "out.db",
                "replica",
            ];
            place.write("log", "");
            let mut process = place.start(&arguments);
            wait_until(PATIENCE, "the temporary file", || place.names() != before);
            // This one asks for nothing that cannot wait.
            process.signal(Signal::SIGHUP).unwrap();
            place.wait_for_log(&process, "SIGHUP: reloading");
            process.signal(signal).unwrap();
            let status = process.wait(PATIENCE).unwrap();
            let log = process.log();
            if status.success() {
                // The restore was faster, on a busy machine.
                assert_eq!(place.rows("out.db"), 40_000);
                std::fs::remove_file(place.path("out.db")).unwrap();
                let _ = std::fs::remove_dir_all(place.path(".out.db-evertide"));
                return false;
            }
            assert_eq!(status.code(), Some(1), "{status:?} {log}");
            assert!(log.contains("ended by a signal before"), "{log}");
            assert_eq!(place.names(), before);
            true
        });
        assert!(came_in_time);
    }
}

/// As with Ctrl-C, which the terminal sends to the command too.
#[test]
fn a_command_that_ends_by_the_signal_that_we_got_has_not_failed() {
    let place = Workplace::new();
    drop(place.database("app.db", 1));
    place.write("app.sh", "kill -INT $PPID\nexit 3\n");
    let arguments = ["replicate", "--exec", "sh app.sh", "app.db", "replica"];
    for _ in 0..5 {
        let run = place.run(&arguments);
        assert_eq!(run.code, Some(0), "{run:?}");
    }
    assert_eq!(place.replicated_rows("replica"), 1);
}

/// The locks of a wal-index: WRITE, CKPT, RECOVER, READ(0) to READ(4), and that of whoever has it open.
const LOCKS: RangeInclusive<u32> = 120..=128;

/// A process that nobody here is the parent of; it ends with this.
struct Orphan(Pid);

impl Drop for Orphan {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGKILL).unwrap();
    }
}

/// Locks of open files are kept by whoever inherits one.
#[test]
fn a_command_that_outlives_a_killed_backup_keeps_none_of_its_locks() {
    let place = Workplace::new();
    drop(place.database("app.db", 1));
    let command = "echo $$ > pid.new\nmv pid.new pid\nexec sleep 600\n";
    place.write("app.sh", command);
    let mut process = place.start(&["replicate", "--exec", "sh app.sh", "app.db", "replica"]);
    wait_until(PATIENCE, "the command runs", || place.exists("pid"));
    let command = Orphan(Pid::from_raw(place.read("pid").trim().parse().unwrap()));
    place.wait_for_rows("replica", 1);
    let shm = place.path("app.db-shm");
    let held = || LOCKS.filter(|byte| another_process_finds_locked(&shm, *byte));
    assert!(held().any(|byte| byte >= 123), "the probe works");
    process.kill().unwrap();
    assert_eq!(held().collect::<Vec<_>>(), [0; 0]);
    let name = fs::read_to_string(format!("/proc/{}/comm", command.0)).unwrap();
    assert_eq!(name.trim(), "sleep", "it goes on");
}

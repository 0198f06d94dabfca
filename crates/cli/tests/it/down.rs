//! One of several replicas is down: it is told in one line each time, and keeps no command from the others.

use std::{fs, thread};

use super::support::{Run, Workplace};

/// What the client of a store says of each try; one line of ours has to do.
const NOISE: [&str; 3] = ["will retry", "Backtrace", "Context:"];

/// A database with a replica in a directory and one where nobody answers.
fn place() -> Workplace {
    let place = Workplace::new();
    place.database("app.db", 3);
    place.ok(&["replicate", "--once", "app.db", "up"]);
    let replicas = [
        place.replica_toml("databases.replicas", "up"),
        "[[databases.replicas]]\nname = \"down\"\ntype = \"s3\"\ns3_bucket = \"bucket\"\n\
         s3_endpoint = \"http://127.0.0.1:1\"\ns3_access_key_id = \"a\"\n\
         s3_secret_access_key = \"b\"\n"
            .to_owned(),
    ];
    let database = format!(
        "[[databases]]\npath = \"{}\"\n\n",
        place.path("app.db").display()
    );
    place.write(
        "evertide.toml",
        &[&database[..], &replicas.concat()].concat(),
    );
    place
}

fn run(place: &Workplace, command: &[&str]) -> Run {
    let run = place.run(&[command, &["--config", "evertide.toml", "app.db"]].concat());
    assert!(
        NOISE.iter().all(|noise| !run.err.contains(noise)),
        "{run:?}"
    );
    run
}

fn assert_told_once(run: &Run, code: i32, lines: usize) {
    assert_eq!(run.code, Some(code), "{run:?}");
    assert_eq!(run.err.lines().count(), lines, "{run:?}");
    let said = [&run.out[..], &run.err].concat();
    assert_eq!(said.matches("Connection refused").count(), 1, "{run:?}");
    assert!(said.contains("down (s3://"), "{run:?}");
}

#[test]
fn what_the_others_have_is_listed_verified_and_restored() {
    let place = place();
    thread::scope(|scope| {
        scope.spawn(|| {
            let listed = run(&place, &["ltx"]);
            assert_told_once(&listed, 1, 2);
            let rows = listed.out.lines().filter(|line| line.starts_with("up "));
            assert_eq!(rows.count(), 2, "{listed:?}");
            assert!(listed.err.contains("1 of 2 replicas"), "{listed:?}");
        });
        scope.spawn(|| {
            let verified = run(&place, &["verify"]);
            assert_told_once(&verified, 1, 1);
            assert!(verified.out.contains("is sound"), "{verified:?}");
        });
        scope.spawn(|| {
            let restored = run(&place, &["restore", "-o", "restored.db"]);
            assert_told_once(&restored, 0, 1);
            assert_eq!(place.rows("restored.db"), 3);
        });
    });
    assert!(fs::metadata(place.path("restored.db")).is_ok());
}

#[test]
fn the_log_of_a_replication_has_one_line_for_each_failure_and_goes_on() {
    let place = place();
    let mut replication = place.start(&["replicate", "--config", "evertide.toml"]);
    place.wait_for_log(&replication, "cannot upload; trying again");
    let log = replication.log();
    assert!(NOISE.iter().all(|noise| !log.contains(noise)), "{log}");
    for line in log.lines() {
        assert!(line.starts_with("20"), "not a line of the log: {line}");
    }
    assert_eq!(place.replicated_rows("up"), 3);
    replication.kill().unwrap();
}

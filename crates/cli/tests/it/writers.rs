//! Two processes and one replica: one writes at a time, and only who goes on with what is there.

use std::fs;

use evertide_testkit::{ChildProcess, restore_with_litestream, wait_until};
use rusqlite::Connection;

use super::support::{PATIENCE, Workplace, insert};

/// What the lease of a replica says of its owner.
fn holder(place: &Workplace, replica: &str) -> Option<(u32, bool)> {
    holder_of(&fs::read_to_string(place.path(replica).join("evertide/lease")).ok()?)
}

/// What the text of a lease says of its owner: the process, and whether it has it still.
pub(crate) fn holder_of(lease: &str) -> Option<(u32, bool)> {
    let line = |name: &str| lease.lines().find_map(|line| line.strip_prefix(name));
    let process = line("process ")?.split(' ').next()?.parse().ok()?;
    Some((process, line("state ")? == "held"))
}

fn holds(place: &Workplace, process: &ChildProcess) -> bool {
    holder(place, "replica") == Some((process.id(), true))
}

#[test]
fn a_second_writer_is_refused_with_the_name_of_the_first_and_what_to_do() {
    let place = Workplace::new();
    drop(place.database("app.db", 1));
    drop(place.database("other.db", 2));
    let mut first = place.start(&["replicate", "app.db", "replica"]);
    place.wait_for_rows("replica", 1);
    let second = |more: &[&str]| {
        let arguments = ["replicate", "--once", "other.db", "replica"];
        place.run(&[&arguments[..], more].concat())
    };
    let process = format!("process {} (evertide) on ", first.id());
    let said = [&process, "since 20", "Stop that process", "another path"];
    second(&[]).failed(1, &said);
    second(&["--take-over"]).failed(1, &said);
    assert!(first.terminate(PATIENCE).unwrap().success());
    let said = [
        "other.db",
        &process,
        "another database",
        "--take-over",
        "another path",
    ];
    second(&[]).failed(1, &said);
    assert_eq!(place.replicated_rows("replica"), 1);
    assert_eq!(second(&["--take-over"]).code, Some(0));
    assert_eq!(second(&[]).code, Some(0), "it is its own now");
    assert_eq!(place.replicated_rows("replica"), 2);
    restore_with_litestream(place.path("replica"), &place.path("theirs.db"));
    assert_eq!(place.rows("theirs.db"), 2);
}

#[test]
fn a_killed_process_is_followed_at_once_by_its_restart_and_later_by_a_restored_copy() {
    let place = Workplace::new();
    let database = place.database("app.db", 3);
    let settings = |database: &str| {
        let path = place.path(database);
        let replica = place.replica_toml("databases.replicas", "replica");
        format!(
            "[[databases]]\npath = \"{}\"\n{replica}lease_duration = \"1s\"\n",
            path.display()
        )
    };
    let mut first = place.start(&["replicate", "app.db", "replica"]);
    place.wait_for_rows("replica", 3);
    first.kill().unwrap();
    assert_eq!(holder(&place, "replica"), Some((first.id(), true)));
    insert(&database, 1);
    // That lease lasts two minutes; whoever waited for it would be told so.
    place.ok(&["replicate", "--once", "app.db", "replica"]);
    assert_eq!(place.replicated_rows("replica"), 4);

    place.write("app.toml", &settings("app.db"));
    let mut second = place.start(&["replicate", "--config", "app.toml"]);
    insert(&database, 1);
    place.wait_for_rows("replica", 5);
    second.kill().unwrap();
    place.ok(&["restore", "replica", "-o", "restored.db"]);
    place.write("restored.toml", &settings("restored.db"));
    let third = place.start(&["replicate", "--config", "restored.toml"]);
    let id = third.id().to_string();
    wait_until(PATIENCE, "the restored copy to go on", || {
        holds(&place, &third)
    });
    insert(&Connection::open(place.path("restored.db")).unwrap(), 2);
    place.wait_for_rows("replica", 7);
    place
        .run(&["replicate", "--once", "app.db", "replica"])
        .failed(1, &["app.db", &id]);
    drop(third);
}

//! `evertide restore --follow`

use evertide_testkit::wait_until;
use nix::sys::signal::Signal;

use super::support::{PATIENCE, Workplace, insert};

#[test]
fn a_copy_is_kept_current_until_a_signal_and_goes_on_at_the_next_start() {
    let place = Workplace::new();
    let database = place.database("app.db", 3);
    let mut replicating = place.start(&["replicate", "app.db", "replica"]);
    place.wait_for_rows("replica", 3);
    let follow = [
        "restore",
        "replica",
        "-o",
        "copy.db",
        "--follow",
        "--follow-interval",
        "50ms",
    ];
    for (signal, start, rows) in [
        (Signal::SIGINT, "restored copy.db", 13),
        (Signal::SIGTERM, "following copy.db from", 23),
    ] {
        let mut following = place.start(&follow);
        place.wait_for_log(&following, start);
        insert(&database, 10);
        wait_until(PATIENCE, "the rows in the copy", || {
            place.rows("copy.db") == rows
        });
        following.signal(signal).unwrap();
        let status = following.wait(PATIENCE).unwrap();
        assert_eq!(status.code(), Some(0), "{}", following.log());
        assert!(following.log().contains("stopped"), "{}", following.log());
    }
    replicating.signal(Signal::SIGTERM).unwrap();
    replicating.wait(PATIENCE).unwrap();
}

#[test]
fn a_follow_with_a_fixed_state_or_without_a_copy_is_refused() {
    let place = Workplace::new();
    drop(place.database("app.db", 3));
    place.ok(&["replicate", "--once", "app.db", "replica"]);
    let follow = ["restore", "replica", "-o", "out.db", "--follow"];
    for more in [
        ["--txid", "1"],
        ["--timestamp", "2026-01-01T00:00:00Z"],
        ["--follow-interval", "0s"],
    ] {
        let arguments: Vec<_> = follow.into_iter().chain(more).collect();
        place.run(&arguments).failed(2, &[more[0]]);
    }
    place.write("out.db", "precious");
    place.run(&follow).failed(1, &["out.db", "--force"]);
    assert_eq!(place.read("out.db"), "precious");
}

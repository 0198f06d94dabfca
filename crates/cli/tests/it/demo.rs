//! `evertide demo`

use std::fs;

use evertide_testkit::{ChildProcess, wait_until};
use nix::sys::signal::Signal;

use super::support::{PATIENCE, Workplace};

#[test]
fn the_demo_tells_its_story_to_the_end_and_cleans_up() {
    let place = Workplace::new();
    fs::create_dir(place.path("tmp")).unwrap();
    let output = place
        .command(&["demo"])
        .env("TMPDIR", place.path("tmp"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}{err}");
    assert_eq!(err, "", "{said}");
    for step in 1..=8 {
        assert!(
            said.contains(&format!("\n{step}. ")),
            "step {step} is missing: {said}"
        );
    }
    for text in [
        "SIGKILL",
        "integrity_check: ok",
        "word for word",
        "nothing that was confirmed",
    ] {
        assert!(said.contains(text), "`{text}` is not said: {said}");
    }
    assert_eq!(
        fs::read_dir(place.path("tmp")).unwrap().count(),
        0,
        "something is left behind"
    );
    assert_eq!(place.names(), ["tmp"]);
}

#[test]
fn with_a_directory_of_its_own_it_keeps_what_it_made() {
    let place = Workplace::new();
    let said = place.ok(&["demo", "--dir", "kept"]);
    assert!(
        said.contains(&format!("in {}", place.path("kept").display())),
        "{said}"
    );
    let restored = place.path("kept/new-machine/app.db");
    let database = rusqlite::Connection::open(restored).unwrap();
    let orders: i64 = database
        .query_row("SELECT count(*) FROM orders", [], |row| row.get(0))
        .unwrap();
    assert!(orders > 200, "{orders}");
    assert!(!place.exists("kept/machine"));
    // It does not touch a directory that somebody uses.
    place
        .run(&["demo", "--dir", "kept"])
        .failed(1, &["kept", "not empty"]);
    place.write("file", "");
    place.run(&["demo", "--dir", "file"]).failed(1, &["file"]);
}

#[test]
fn an_interrupted_demo_ends_its_application_and_cleans_up() {
    let place = Workplace::new();
    fs::create_dir(place.path("tmp")).unwrap();
    let mut command = place.command(&["demo"]);
    command.env("TMPDIR", place.path("tmp"));
    let mut process = ChildProcess::spawn_logged(&mut command, &place.path("log")).unwrap();
    place.wait_for_log(&process, " serves http://");
    let log = process.log();
    let application = log.split("process ").find_map(|text| {
        let (pid, rest) = text.split_once(' ')?;
        rest.starts_with("serves")
            .then(|| pid.parse::<i32>().unwrap())
    });
    let application = nix::unistd::Pid::from_raw(application.unwrap());
    process.signal(Signal::SIGINT).unwrap();
    let status = process.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(1), "{}", process.log());
    assert!(
        process.log().contains("ended by SIGINT"),
        "{}",
        process.log()
    );
    wait_until(PATIENCE, "the end of the application", || {
        nix::sys::signal::kill(application, None).is_err()
    });
    assert_eq!(
        fs::read_dir(place.path("tmp")).unwrap().count(),
        0,
        "something is left behind"
    );
}

//! The official programs run, and what they restore is what was written.

#![allow(clippy::unwrap_used)] // A failed step of a test is a failed test.

use evertide_testkit::{
    ChildProcess, Writer, WriterOptions, age, age_keygen, assert_same_database, free_port,
    litestream_command, litestream_v3_command, replica_url, restore_with_litestream, temp_dir,
    try_restore_with_litestream, wait_until,
};
use std::time::Duration;

#[test]
fn both_versions_of_litestream_say_who_they_are() {
    for (mut command, version) in [
        (litestream_command(), "0.5.17"),
        (litestream_v3_command(), "v0.3.13"),
    ] {
        let output = command.arg("version").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), version);
    }
}

#[test]
fn what_litestream_backs_up_it_restores_and_the_comparison_agrees() {
    let dir = temp_dir();
    let (source, restored) = (dir.path().join("app.db"), dir.path().join("restored.db"));
    let replica = dir.path().join("replica");
    let mut writer = Writer::open(&source, WriterOptions::seeded(5)).unwrap();
    writer.run_steps(50).unwrap();
    let mut command = litestream_command();
    command
        .arg("replicate")
        .arg(&source)
        .arg(replica_url(&replica));
    let log = dir.path().join("litestream.log");
    let mut process = ChildProcess::spawn_logged(&mut command, &log).unwrap();
    let first = replica.join("ltx/0");
    wait_until(Duration::from_secs(20), "the first upload", || {
        first.is_dir()
    });
    writer.run_steps(50).unwrap();
    drop(writer);
    let status = process.terminate(Duration::from_secs(20)).unwrap();
    assert!(status.success(), "{status}: {}", process.log());
    restore_with_litestream(&replica, &restored);
    assert_same_database(&source, &restored);
}

#[test]
fn a_restore_that_fails_says_what_litestream_said() {
    let dir = temp_dir();
    let replica = dir.path().join("no-replica");
    let error = try_restore_with_litestream(&replica, &dir.path().join("out.db")).unwrap_err();
    assert!(error.replica.starts_with("file:///"), "{error}");
    assert!(!error.output.is_empty(), "{error}");
}

#[test]
fn age_and_its_key_generator_run() {
    for mut command in [age(), age_keygen()] {
        assert!(command.arg("--version").output().unwrap().status.success());
    }
}

#[test]
fn a_child_process_does_not_outlive_its_handle() {
    let mut command = std::process::Command::new("sleep");
    let child = ChildProcess::spawn(command.arg("1000")).unwrap();
    let process = format!("/proc/{}", child.id());
    assert!(std::path::Path::new(&process).exists());
    drop(child);
    assert!(!std::path::Path::new(&process).exists());
}

#[test]
fn a_free_port_can_be_bound() {
    let port = free_port();
    // No outgoing connection takes it in between, however many there are.
    assert!((20_000..32_000).contains(&port), "port {port}");
    std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
}

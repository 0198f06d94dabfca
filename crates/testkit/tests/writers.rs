//! Writers do everything they claim to do, and only what their seed says.

#![allow(clippy::unwrap_used)] // A failed step of a test is a failed test.

use std::time::Duration;

use evertide_testkit::{
    Operation, Writer, WriterOptions, WriterProcess, WriterReport, WriterThread,
    assert_same_database, compare_databases, temp_dir, wait_until,
};
use rusqlite::Connection;

#[test]
fn the_same_seed_writes_the_same_database_and_another_seed_another() {
    let dir = temp_dir();
    let paths = [("a.db", 3), ("b.db", 3), ("c.db", 4)].map(|(name, seed)| {
        let path = dir.path().join(name);
        let mut writer = Writer::open(&path, WriterOptions::seeded(seed)).unwrap();
        writer.run_steps(400).unwrap();
        path
    });
    let [a, b, c] = &paths;
    assert_same_database(a, b);
    compare_databases(a, c).unwrap_err();
}

#[test]
fn every_operation_can_be_performed() {
    let dir = temp_dir();
    let path = dir.path().join("app.db");
    let mut writer = Writer::open(&path, WriterOptions::seeded(9)).unwrap();
    for operation in Operation::all() {
        writer.perform(operation).unwrap();
    }
    let report = writer.report();
    assert_eq!(report.busy, 0);
    assert_eq!(
        report.operations.len(),
        Operation::all().count(),
        "{report:?}"
    );
}

#[test]
fn a_rolled_back_transaction_has_spilled_into_the_wal() {
    let dir = temp_dir();
    let path = dir.path().join("app.db");
    let mut writer = Writer::open(&path, WriterOptions::seeded(9)).unwrap();
    let wal = dir.path().join("app.db-wal");
    let before = std::fs::metadata(&wal).unwrap().len();
    writer.perform(Operation::Rollback).unwrap();
    let after = std::fs::metadata(&wal).unwrap().len();
    assert!(
        after > before + 100_000,
        "the WAL went from {before} to {after} bytes"
    );
    let entries: i64 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM entries", [], |row| row.get(0))
        .unwrap();
    assert_eq!(entries, 0);
}

#[test]
fn a_database_stays_near_its_greatest_size() {
    let dir = temp_dir();
    let path = dir.path().join("app.db");
    let options = WriterOptions {
        max_bytes: 2 << 20,
        ..WriterOptions::seeded(2)
    };
    let mut writer = Writer::open(&path, options).unwrap();
    writer.run_steps(3000).unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < 30 << 20, "{size} bytes");
}

#[test]
fn threads_and_processes_write_one_database_at_once_without_damage() {
    let dir = temp_dir();
    let path = dir.path().join("app.db");
    let options = |id| WriterOptions {
        id,
        ..WriterOptions::seeded(u64::from(id) + 20)
    };
    let thread = WriterThread::start(&path, options(1)).unwrap();
    let process = WriterProcess::start(&path, &options(2)).unwrap();
    let killed = WriterProcess::start(&path, &options(3)).unwrap();
    let written = |id: u32| {
        let connection = Connection::open(&path).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        let sql = "SELECT count(*) FROM entries WHERE writer = ?1";
        connection
            .query_row(sql, [id], |row| row.get::<_, i64>(0))
            .unwrap_or(0)
    };
    for id in 1..=3 {
        wait_until(Duration::from_secs(60), "rows of every writer", || {
            written(id) > 0
        });
    }
    killed.kill().unwrap();
    let mut total = WriterReport::default();
    total.add(&thread.stop().unwrap());
    total.add(&process.stop(Duration::from_secs(60)).unwrap());
    assert!(total.transactions > 1, "{total:?}");
    assert_same_database(&path, &path);
}

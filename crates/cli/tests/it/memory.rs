//! The most memory that the program takes: within what is promised, and the same for a database five times as large.

use std::{path::Path, thread::sleep, time::Duration};

use evertide_testkit::{ChildProcess, wait_until};
use rusqlite::Connection;

use super::support::{PATIENCE, Workplace, input_and_output, most_memory, snapshots};

/// What is promised of restores, in KiB. The tests hold a build without optimisation to it, which takes more.
const PROMISED: u64 = 96 << 10;

/// A database that fills every buffer there is, and one five times as large, in MiB.
const SIZES: [u32; 2] = [96, 480];

/// What may be written for a snapshot beside the snapshot itself, in bytes: what is captured and compacted meanwhile,
/// and nothing of what is merged.
const STAGED: u64 = 1 << 20;

/// How much more a run may take for the large one: what the allocator makes of it, and 12 bytes for each page.
const GROWTH: f64 = 1.2;

/// Makes a database three quarters of which do not compress, in WAL mode.
fn database(path: &Path, mib: u32) {
    let database = Connection::open(path).unwrap();
    database.pragma_update(None, "journal_mode", "OFF").unwrap();
    database.pragma_update(None, "synchronous", "OFF").unwrap();
    database.execute_batch("CREATE TABLE t (x)").unwrap();
    let fill = "WITH RECURSIVE row (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM row WHERE number < ?1)
                INSERT INTO t SELECT randomblob(3000) || zeroblob(900) FROM row";
    database.execute(fill, [mib * 256]).unwrap();
    database.pragma_update(None, "journal_mode", "WAL").unwrap();
}

/// The most memory of a command that has to succeed, in KiB: that of the last look, moments before its end.
fn peak(place: &Workplace, arguments: &[&str]) -> u64 {
    let (mut process, mut peak) = (place.start(arguments), 0);
    while process.is_running().unwrap() {
        peak = peak.max(most_memory(&process));
        sleep(Duration::from_millis(1));
    }
    let status = process.wait(PATIENCE).unwrap();
    assert!(
        status.success(),
        "{arguments:?}: {status}\n{}",
        process.log()
    );
    peak
}

fn assert_bounded(what: &str, [small, large]: [u64; 2]) {
    eprintln!("{what}: {small} and {large} KiB");
    assert!(small > 8 << 10, "{what}: nothing was measured");
    assert!(large <= PROMISED, "{what}: {large} KiB");
    let most = small as f64 * GROWTH;
    assert!(
        large as f64 <= most,
        "{what}: {small} KiB, then {large} KiB"
    );
}

/// Backs up a new database, and has a second snapshot merged of what the replica has: nothing of it is put anywhere
/// else on the way.
fn take_snapshots(place: &Workplace, mib: u32) -> ChildProcess {
    place.write(
        "litestream.yml",
        "levels: [{interval: 1s}]\nsnapshot: {interval: 1s}\n\
         dbs: [{path: app.db, replica: {path: replica, sync-interval: 100ms}}]\n",
    );
    database(&place.path("app.db"), mib);
    let process = place.start(&["replicate", "--config", "litestream.yml"]);
    wait_until(PATIENCE, "the first backup", || snapshots(place) == 1);
    let app = Connection::open(place.path("app.db")).unwrap();
    let (_, before) = input_and_output(&process);
    app.execute("INSERT INTO t VALUES (1)", []).unwrap();
    wait_until(PATIENCE, "the next snapshot", || snapshots(place) == 2);
    let (_, written) = input_and_output(&process);
    let newest = std::fs::read_dir(place.path("replica/ltx/9")).unwrap();
    let newest = newest.map(|entry| entry.unwrap().metadata().unwrap().len());
    let most = newest.max().unwrap() + STAGED;
    assert!(
        written - before <= most,
        "{} bytes were written for a snapshot, where {most} are enough",
        written - before
    );
    process
}

#[test]
fn snapshots_verification_and_restores_take_no_more_memory_for_a_larger_database() {
    let [mut snapshots, mut checks, mut restores] = [[0; 2]; 3];
    for (index, mib) in SIZES.into_iter().enumerate() {
        let place = Workplace::new();
        let mut process = take_snapshots(&place, mib);
        snapshots[index] = most_memory(&process);
        assert!(
            process.terminate(PATIENCE).unwrap().success(),
            "{}",
            process.log()
        );
        checks[index] = peak(&place, &["verify", "replica"]);
        restores[index] = peak(&place, &["restore", "replica", "-o", "restored.db"]);
        let restored = std::fs::metadata(place.path("restored.db")).unwrap();
        assert!(restored.len() >= u64::from(mib) << 20, "{restored:?}");
    }
    assert_bounded("snapshots", snapshots);
    assert_bounded("verification", checks);
    assert_bounded("restores", restores);
}

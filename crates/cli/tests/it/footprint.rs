//! What a first backup reads and writes.

use std::fs;

use evertide_testkit::wait_until;
use rusqlite::Connection;

use super::support::{PATIENCE, Workplace, input_and_output, snapshots};

/// Rows of the database, one for each page: 32 MB.
const ROWS: u32 = 8_000;

#[test]
fn a_first_backup_reads_the_database_once_and_writes_what_it_compresses_to() {
    let place = Workplace::new();
    let database = Connection::open(place.path("app.db")).unwrap();
    // Half of each page does not compress.
    let fill = format!(
        "PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL; CREATE TABLE t (x);
         WITH RECURSIVE row (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM row WHERE number < {ROWS})
         INSERT INTO t SELECT randomblob(1950) || zeroblob(1950) FROM row;
         PRAGMA wal_checkpoint(TRUNCATE)"
    );
    database.execute_batch(&fill).unwrap();
    let size = fs::metadata(place.path("app.db")).unwrap().len() as f64;
    assert!(size > 30e6, "{size} bytes");
    let mut process = place.start(&["replicate", "app.db", "replica"]);
    wait_until(PATIENCE, "the first backup", || snapshots(&place) == 1);
    let (read, written) = input_and_output(&process);
    let (read, written) = (read as f64 / size, written as f64 / size);
    eprintln!("read {read:.2} times the database, written {written:.2} times");
    assert!((0.9..=1.3).contains(&read), "read {read} times");
    assert!((0.3..=0.7).contains(&written), "written {written} times");
    assert!(process.terminate(PATIENCE).unwrap().success());
}

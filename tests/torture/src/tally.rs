//! What happened, in numbers.

use std::fmt;

use evertide_testkit::WriterReport;

use crate::other_sqlite::OtherSqliteTally;

/// What happened in one run.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Tally {
    /// What the processes that were stopped in order wrote; those killed took their counts along.
    pub writers: WriterReport,
    /// Rows committed to the main table by all writers, those in applications and those killed too.
    pub rows: u64,
    /// Starts of the backup beside the application.
    pub starts_beside: u32,
    /// Starts of the application with the backup inside.
    pub starts_inside: u32,
    /// Backups ended with SIGKILL.
    pub kills: u32,
    /// Backups asked to stop.
    pub orderly_stops: u32,
    /// Writers ended with SIGKILL.
    pub writer_kills: u32,
    /// What was written with another SQLite.
    pub other_sqlite: OtherSqliteTally,
    /// How often the WAL was seen to start over.
    pub wal_generations: u64,
    /// How often the backup said that it continued where it had been.
    pub resumes: u64,
    /// How often it said that it re-based.
    pub rebases: u64,
    /// How often it said that it needs a full snapshot.
    pub snapshots: u64,
    /// LTX files on the replica.
    pub ltx_files: u64,
    /// Their size in bytes.
    pub ltx_bytes: u64,
}

impl Tally {
    pub(crate) fn started(&mut self, inside: bool) {
        match inside {
            true => self.starts_inside += 1,
            false => self.starts_beside += 1,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { writers, .. } = self;
        writeln!(
            f,
            "writers: {} rows; {} transactions and {} times busy of those not killed, {} killed",
            self.rows, writers.transactions, writers.busy, self.writer_kills
        )?;
        writeln!(f, "{}", self.other_sqlite)?;
        writeln!(
            f,
            "backup: {} starts beside and {} inside the application, {} killed, {} stopped in order",
            self.starts_beside, self.starts_inside, self.kills, self.orderly_stops
        )?;
        writeln!(
            f,
            "after a start it continued {} times, re-based {} times, needed a snapshot {} times",
            self.resumes, self.rebases, self.snapshots
        )?;
        write!(
            f,
            "WAL: {} rotations seen; replica: {} LTX files, {} KiB",
            self.wal_generations,
            self.ltx_files,
            self.ltx_bytes / 1024
        )
    }
}

//! What can go wrong with a restore.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use evertide_ltx::{LtxName, Pgno, Txid};

use super::{plan::Obstacle, v3};

/// What can go wrong with a restore. Whatever it is: nothing is left behind, and a database that
/// was there before is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The replica has no backup.
    #[error("{location} has no backup: there is not one LTX file; check the address")]
    NoBackup {
        /// The replica.
        location: String,
    },
    /// No snapshot is old enough, or there is none at all.
    #[error("{location} has no snapshot to start from{}", first_snapshot(first))]
    NoSnapshot {
        /// The replica.
        location: String,
        /// The oldest snapshot that it has: its last transaction, and when it was captured.
        first: Option<(Txid, SystemTime)>,
    },
    /// Files are missing in the middle of the history.
    #[error("{location} has a gap: {}", gap(have, next, times))]
    Gap {
        /// The replica.
        location: String,
        /// The last transaction before the gap.
        have: Txid,
        /// The first file behind it.
        next: LtxName,
        /// When both were captured; known where the state of a time was asked for.
        times: Option<(SystemTime, SystemTime)>,
    },
    /// The wanted transaction cannot be restored.
    #[error(
        "{location} cannot restore transaction {wanted}: {}",
        nearest(have, next)
    )]
    TxidNotAvailable {
        /// The replica.
        location: String,
        /// The transaction.
        wanted: Txid,
        /// The last transaction before it that can be restored.
        have: Txid,
        /// The file that steps over it, if there is one.
        next: Option<LtxName>,
    },
    /// Something is at the output path.
    #[error("{} exists already and was not touched; use `--force` to replace it", .0.display())]
    OutputExists(PathBuf),
    /// What is at the output path is no file.
    #[error("{} is not a file; give the path of the database to write", .0.display())]
    OutputNotAFile(PathBuf),
    /// The journal of a former database would be played into the restored one.
    #[error(
        "{} is the journal of a former database, and SQLite would play it into the restored one; \
         remove it, or use `--force`", .0.display()
    )]
    LeftoverJournal(PathBuf),
    /// A replica does not do what was asked.
    #[error("cannot read the replica: {0}")]
    Replica(#[from] evertide_storage::Error),
    /// Reading a file of the replica breaks off, again and again.
    #[error("cannot read {file} of {location} beyond byte {offset}: {source}")]
    Interrupted {
        /// The replica.
        location: String,
        /// The file.
        file: String,
        /// How far it was read, in bytes.
        offset: u64,
        /// The last failure.
        source: io::Error,
    },
    /// A file of the replica is damaged.
    #[error("{name} of {location} is damaged: {source}")]
    Damaged {
        /// The replica.
        location: String,
        /// The file.
        name: LtxName,
        /// What is wrong with it.
        source: evertide_ltx::Error,
    },
    /// A file of the replica contradicts its name, or those before it.
    #[error("{name} of {location} does not belong here: {reason}")]
    Misplaced {
        /// The replica.
        location: String,
        /// The file.
        name: LtxName,
        /// What is wrong with it.
        reason: String,
    },
    /// The files together do not make a whole database.
    #[error(
        "the files of {location} do not make a whole database: page {page} is missing after \
         transaction {txid}"
    )]
    Incomplete {
        /// The replica.
        location: String,
        /// The first page that is missing.
        page: Pgno,
        /// The transaction that was restored.
        txid: Txid,
    },
    /// The files of the plan were deleted time and again while they were read.
    #[error(
        "{location} keeps deleting files while they are restored, last {file}; check the retention"
    )]
    Vanished {
        /// The replica.
        location: String,
        /// The file.
        file: String,
    },
    /// A replica that Litestream 0.3 wrote has no snapshot that is old enough, or none at all.
    #[error(
        "{location}: generation {generation} has no snapshot to start from{}",
        first_v3_snapshot(first)
    )]
    V3NoSnapshot {
        /// The replica.
        location: String,
        /// The generation, in hex digits.
        generation: String,
        /// When its oldest snapshot was taken.
        first: Option<SystemTime>,
    },
    /// A segment is missing in a replica that Litestream 0.3 wrote.
    #[error(
        "{location} has a gap: {missing} is missing, and later files need it. Restore with \
         `--timestamp` to have a state before the gap{}",
        before_gap(before)
    )]
    V3Gap {
        /// The replica.
        location: String,
        /// The file.
        missing: String,
        /// When the file before it was stored.
        before: Option<SystemTime>,
    },
    /// A file that Litestream 0.3 wrote is damaged, or does not fit to those before it.
    #[error(
        "{file} of {location} cannot be used: {reason}. Restore with `--timestamp` to have a state \
         before it"
    )]
    V3Damaged {
        /// The replica.
        location: String,
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A transaction was asked for, and all there is was written by Litestream 0.3.
    #[error(
        "{location} was written by Litestream 0.3, which has no transaction IDs; choose a state \
         with `--timestamp`"
    )]
    V3HasNoTxids {
        /// The replica.
        location: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite finds the restored database corrupt.
    #[error("the restored database is corrupt, SQLite says: {}", problems.join("; "))]
    Corrupt {
        /// What SQLite said, the first lines.
        problems: Vec<String>,
    },
    /// SQLite could not check the restored database.
    #[error("SQLite cannot check the restored database: {0}")]
    Check(#[source] rusqlite::Error),
    /// The machinery itself could not be started.
    #[error("cannot start the restore: {0}")]
    Start(#[source] io::Error),
    /// The restore was cancelled.
    #[error("the restore was cancelled")]
    Cancelled,
}

impl RestoreError {
    /// Whether the replica has nothing to restore, as opposed to something damaged.
    pub fn is_no_backup(&self) -> bool {
        matches!(self, Self::NoBackup { .. })
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            path,
            action,
            source,
        }
    }

    pub(super) fn v3_obstacle(location: String, obstacle: v3::Obstacle) -> Self {
        match obstacle {
            v3::Obstacle::NoSnapshot { generation, first } => Self::V3NoSnapshot {
                location,
                generation: format!("{generation:016x}"),
                first,
            },
            v3::Obstacle::Gap { missing, after } => Self::V3Gap {
                location,
                missing,
                before: Some(after.created),
            },
            v3::Obstacle::Twice { file, other } => Self::V3Damaged {
                location,
                reason: format!("{other} has the same place in the history"),
                file,
            },
        }
    }

    pub(crate) fn obstacle(location: String, obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::Empty => Self::NoBackup { location },
            Obstacle::NoSnapshot { first } => {
                let first = first.map(|file| (file.name.max, file.created));
                Self::NoSnapshot { location, first }
            }
            Obstacle::Gap { have, next, times } => Self::Gap {
                location,
                have,
                next,
                times,
            },
            Obstacle::NotReached { wanted, have, next } => Self::TxidNotAvailable {
                location,
                wanted,
                have,
                next,
            },
        }
    }
}

fn first_snapshot(first: &Option<(Txid, SystemTime)>) -> String {
    match first {
        Some((txid, created)) => format!(
            " that is as old as what is wanted; the oldest one is of transaction {txid} of {}, \
             choose that or a later state",
            time(*created)
        ),
        None => {
            ": no file starts at the first transaction, so the beginning of the history is lost"
                .into()
        }
    }
}

fn gap(have: &Txid, next: &LtxName, times: &Option<(SystemTime, SystemTime)>) -> String {
    match times {
        None => format!(
            "the history reaches transaction {have}, the next file is {next}. Restore with \
             `--txid {have}` to have the state before the gap"
        ),
        Some((before, behind)) => format!(
            "the history reaches transaction {have} of {}, the next file is {next} of {}. Restore \
             with `--timestamp {0}` or `--txid {have}` to have the state before the gap",
            time(*before),
            time(*behind)
        ),
    }
}

fn nearest(have: &Txid, next: &Option<LtxName>) -> String {
    match next {
        Some(next) => format!(
            "only {have} before it and {} after it, where files end",
            next.max
        ),
        None => format!("the newest one is {have}"),
    }
}

fn first_v3_snapshot(first: &Option<SystemTime>) -> String {
    match first {
        Some(first) => format!(
            " at the time that is wanted; its oldest one is of {}, choose that time or a later one",
            time(*first)
        ),
        None => ": the beginning of its history is lost".into(),
    }
}

fn before_gap(before: &Option<SystemTime>) -> String {
    before.map_or(String::new(), |before| {
        format!(", such as {}", time(before))
    })
}

fn time(time: SystemTime) -> impl std::fmt::Display {
    humantime::format_rfc3339_millis(time)
}

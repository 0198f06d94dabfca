//! What can go wrong with a restore.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use evertide_ltx::{LtxName, Pgno, Txid};

use super::plan::Obstacle;

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
    #[error(
        "{location} has a gap: the history reaches transaction {have}, the next file is {next}. \
         Restore with `--txid {have}` to have the state before the gap"
    )]
    Gap {
        /// The replica.
        location: String,
        /// The last transaction before the gap.
        have: Txid,
        /// The first file behind it.
        next: LtxName,
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
    #[error("cannot read {name} of {location} beyond byte {offset}: {source}")]
    Interrupted {
        /// The replica.
        location: String,
        /// The file.
        name: LtxName,
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
        "{location} keeps deleting files while they are restored, last {name}; check the retention"
    )]
    Vanished {
        /// The replica.
        location: String,
        /// The file.
        name: LtxName,
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

    pub(super) fn obstacle(location: String, obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::Empty => Self::NoBackup { location },
            Obstacle::NoSnapshot { first } => {
                let first = first.map(|file| (file.name.max, file.created));
                Self::NoSnapshot { location, first }
            }
            Obstacle::Gap { have, next } => Self::Gap {
                location,
                have,
                next,
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
        Some((txid, _)) => format!(
            " at the time that is wanted; the oldest one is of transaction {txid}, \
             choose that or a later state"
        ),
        None => {
            ": no file starts at the first transaction, so the beginning of the history is lost"
                .into()
        }
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

//! What can go wrong with replication.

use std::{io, path::PathBuf, time::Duration};

use evertide_ltx::Txid;

use crate::VerifyError;

/// What can go wrong with the replication of a database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings do not fit together; every mistake at once.
    #[error("the replication of {} cannot be set up: {}", path.display(), mistakes.join("; "))]
    Options {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        mistakes: Vec<String>,
    },
    /// This process replicates the database already.
    #[error("{} is already being replicated by this process; use the handle that started it, or stop that first", .0.display())]
    AlreadyReplicated(PathBuf),
    /// Another process replicates the database.
    #[error("{} is already being replicated by {holder}; stop that process first", path.display())]
    ReplicatedElsewhere {
        /// The database.
        path: PathBuf,
        /// Who holds the local state, as far as it is known.
        holder: String,
    },
    /// A fault in evertide ended the replication. What was captured stays beside the database; another start goes
    /// on from there.
    #[error(
        "the replication of {} was ended by a panic, a fault in evertide ({panic}); what was committed last may \
         not be replicated: start it again, and report the fault", path.display()
    )]
    Panicked {
        /// The database.
        path: PathBuf,
        /// What the panic said.
        panic: String,
    },
    /// The call needs a running replication.
    #[error("the replication of {} is not running; call `start` first", .0.display())]
    NotRunning(PathBuf),
    /// There is no database, so nothing can be captured.
    #[error("there is no database at {}; it is replicated as soon as it appears", .0.display())]
    NoDatabase(PathBuf),
    /// SQLite refused.
    #[error("SQLite cannot use {} to {action}: {source}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What for.
        action: &'static str,
        /// What it said.
        source: rusqlite::Error,
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
    /// The database cannot be captured as it is.
    #[error("{} cannot be captured: {reason}", path.display())]
    Unsupported {
        /// The database.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// What was captured or staged is not what it should be.
    #[error("{}: {source}", path.display())]
    Ltx {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: evertide_ltx::Error,
    },
    /// A replica did not do what was asked.
    #[error("replica `{name}`: {source}")]
    Replica {
        /// The replica.
        name: String,
        /// What it said.
        source: evertide_storage::Error,
    },
    /// The replica has a history that this database does not go on from, and would bury it.
    #[error(
        "replica `{name}`: what is at {location} was written last by {holder}, and this database is not \
         known to go on from there: {}. To have the newest state of the replica here, restore it. To \
         go on with this database there, start once with `--take-over` (in a program: \
         `ReplicationBuilder::take_over`); what the replica has can still be restored by its time. \
         To leave the replica alone, replicate to another path", of_kind(*fork)
    )]
    OtherHistory {
        /// The replica.
        name: String,
        /// Where it is.
        location: String,
        /// Who wrote there last: process, machine, and since when.
        holder: String,
        /// Whether it is the history of this database, which went on elsewhere; else it is that of another
        /// database, as far as anybody knows.
        fork: bool,
    },
    /// The replica has a transaction so large that there are not enough after it.
    #[error(
        "replica `{name}`: {file} at {location} is said to hold a transaction after which there are too \
         few for others. Nobody counts that far: find out how it came there, and move it away"
    )]
    NoTransactionsLeft {
        /// The replica.
        name: String,
        /// Where it is.
        location: String,
        /// The file, and its level.
        file: String,
    },
    /// Whether the database goes on from what the replica has could not be found out.
    #[error(
        "replica `{name}` was written elsewhere, and cannot be compared with this database: {source}"
    )]
    Unproven {
        /// The replica.
        name: String,
        /// Why it cannot be read.
        source: Box<VerifyError>,
    },
    /// Another database of this process is replicated to the same place.
    #[error(
        "{} cannot be replicated to {destination}, where this process replicates {} to; give each \
         database a replica of its own", path.display(), other.display()
    )]
    DestinationInUse {
        /// The database.
        path: PathBuf,
        /// The replica.
        destination: String,
        /// The database that is replicated there.
        other: PathBuf,
    },
    /// Capture stopped working; see the status for the first cause.
    #[error("{} is not being captured: {reason}", path.display())]
    Failing {
        /// The database.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// Some replica did not have everything when the deadline came, or was refused: for such a one a stop
    /// does not wait.
    #[error(
        "stopped with {} not replicated up to {txid}: {}; the next start continues there",
        path.display(), behind.join(", ")
    )]
    StoppedBehind {
        /// The database.
        path: PathBuf,
        /// How long a replica was waited for at most.
        deadline: Duration,
        /// The newest captured transaction.
        txid: Txid,
        /// Each replica that has less, what it has, and why.
        behind: Vec<String>,
    },
    /// The engine's thread could not be started.
    #[error("cannot start the replication engine: {0}")]
    Engine(io::Error),
}

impl Error {
    /// Whether somebody else writes to a replica, or may.
    pub(crate) fn is_not_our_turn(&self) -> bool {
        use evertide_storage::Error::{BadLease, LeaseHeld, LeaseLost};
        match self {
            Self::OtherHistory { .. } | Self::NoTransactionsLeft { .. } | Self::Unproven { .. } => {
                true
            }
            Self::Replica { source, .. } => matches!(
                source,
                LeaseHeld { .. } | LeaseLost { .. } | BadLease { .. }
            ),
            _ => false,
        }
    }

    /// Whether it was decided that the database may not be written to a replica, until an operator or
    /// the other writer does something.
    pub(crate) fn is_refusal(&self) -> bool {
        use evertide_storage::Error::{BadLease, LeaseHeld};
        match self {
            Self::OtherHistory { .. } | Self::NoTransactionsLeft { .. } => true,
            Self::Replica { source, .. } => matches!(source, LeaseHeld { .. } | BadLease { .. }),
            _ => false,
        }
    }
}

fn of_kind(fork: bool) -> &'static str {
    match fork {
        true => "it went on elsewhere, from a copy of this database or without it",
        false => {
            "it is the history of another database, or its local state was lost on the way here"
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it said nothing").to_owned()
}

/// The error with its causes, on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

//! What a writer may do next, and how likely it is.

use std::fmt;

/// The four kinds of checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checkpoint {
    /// Backfills what it can without waiting for anybody.
    Passive,
    /// Waits for writers.
    Full,
    /// Waits for readers too, and lets the WAL start again.
    Restart,
    /// As restart, and truncates the WAL.
    Truncate,
}

impl Checkpoint {
    /// The argument of `PRAGMA wal_checkpoint`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passive => "PASSIVE",
            Self::Full => "FULL",
            Self::Restart => "RESTART",
            Self::Truncate => "TRUNCATE",
        }
    }
}

/// One thing a writer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// A row of a few bytes to a few pages.
    Insert,
    /// A row whose size grows with the writer's age, up to a megabyte.
    InsertGrowing,
    /// Rows of the table without rowid, inserted or replaced.
    Replace,
    /// Some rows made shorter or longer.
    Update,
    /// A few rows deleted.
    Delete,
    /// Nine rows in ten deleted: the freelist grows.
    DeleteMost,
    /// Thousands of rows in one transaction, more than the page cache holds.
    HugeTransaction,
    /// The same, rolled back after its frames have spilled into the WAL.
    Rollback,
    /// A savepoint rolled back within a transaction that commits.
    Savepoint,
    /// VACUUM: every page written anew, the file as small as it can be.
    Vacuum,
    /// `PRAGMA incremental_vacuum`.
    IncrementalVacuum,
    /// A table dropped, created and filled.
    DropCreate,
    /// An index dropped or created.
    Reindex,
    /// A read transaction held open for a while.
    LongRead,
    /// The connection closed and opened again.
    Reconnect,
    /// A checkpoint.
    Checkpoint(Checkpoint),
    /// Auto-checkpoint set to 0, 1, 100 or 1000 pages.
    Autocheckpoint,
}

const WEIGHTS: [(Operation, u32); 20] = [
    (Operation::Insert, 1000),
    (Operation::InsertGrowing, 120),
    (Operation::Replace, 200),
    (Operation::Update, 200),
    (Operation::Delete, 80),
    (Operation::DeleteMost, 2),
    (Operation::HugeTransaction, 4),
    (Operation::Rollback, 6),
    (Operation::Savepoint, 20),
    (Operation::Vacuum, 2),
    (Operation::IncrementalVacuum, 8),
    (Operation::DropCreate, 10),
    (Operation::Reindex, 4),
    (Operation::LongRead, 10),
    (Operation::Reconnect, 12),
    (Operation::Checkpoint(Checkpoint::Passive), 12),
    (Operation::Checkpoint(Checkpoint::Full), 6),
    (Operation::Checkpoint(Checkpoint::Restart), 6),
    (Operation::Checkpoint(Checkpoint::Truncate), 6),
    (Operation::Autocheckpoint, 8),
];

impl Operation {
    /// Every operation there is.
    pub fn all() -> impl Iterator<Item = Self> {
        WEIGHTS.into_iter().map(|(operation, _)| operation)
    }

    /// Draws one.
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Self {
        let total = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut ticket = rng.u32(0..total);
        for (operation, weight) in WEIGHTS {
            match ticket.checked_sub(weight) {
                Some(rest) => ticket = rest,
                None => return operation,
            }
        }
        unreachable!("a ticket below the sum of all weights")
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(kind) => write!(f, "Checkpoint{}", kind.name()),
            other => write!(f, "{other:?}"),
        }
    }
}

//! What can end the following of a replica.

use std::{
    io,
    path::{Path, PathBuf},
};

use evertide_ltx::{LtxName, PageSize, Txid};

use crate::RestoreError;

/// What can end the following of a replica. The copy is whole, whatever it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// Reading the replica failed, or the first restore.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The replica was written last by Litestream 0.3.
    #[error(
        "{location} was written by Litestream 0.3, whose format cannot be followed; restore it \
         without `--follow`"
    )]
    WrittenByV3 {
        /// The replica.
        location: String,
    },
    /// What is at the output path is not a copy that was followed before.
    #[error(
        "{} exists and was not made by following a replica; give another path, or use `--force` \
         to replace it", .0.display()
    )]
    NotACopy(PathBuf),
    /// Somebody wrote to the copy.
    #[error(
        "{} was changed by something else than this program since it was followed last. Nothing \
         was overwritten; give another path, or use `--force` to replace it", .0.display()
    )]
    Changed(PathBuf),
    /// Two follow the same copy.
    #[error("{} is being followed already; stop that first", .0.display())]
    AlreadyFollowed(PathBuf),
    /// The replica ends before what the copy has.
    #[error(
        "{location} ends at transaction {newest}, and the copy has {have}: it is another history. \
         Use `--force` to replace the copy"
    )]
    OtherHistory {
        /// The replica.
        location: String,
        /// The transaction that the copy has.
        have: Txid,
        /// The newest one of the replica.
        newest: Txid,
    },
    /// The size of a page has changed.
    #[error(
        "{file} of {location} has pages of {found} bytes, and the copy {expected}. Use `--force` \
         to replace the copy"
    )]
    PageSize {
        /// The replica.
        location: String,
        /// The file.
        file: LtxName,
        /// The size of the copy's pages.
        expected: PageSize,
        /// The size of the file's pages.
        found: PageSize,
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
    /// SQLite cannot lock or read the copy.
    #[error("SQLite cannot {action} {}: {source}", path.display())]
    Sqlite {
        /// The copy.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl FollowError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            path,
            action,
            source,
        }
    }

    pub(super) fn sqlite(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(rusqlite::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Sqlite {
            path,
            action,
            source,
        }
    }

    /// How often in a row this may happen before it is given up.
    pub(super) fn patience(&self) -> Patience {
        match self {
            // The store, or the way to it, is down.
            Self::Restore(
                RestoreError::Replica(_)
                | RestoreError::Interrupted { .. }
                | RestoreError::NoBackup { .. },
            ) => Patience::Endless,
            // Compaction and retention are under way, or a disk is full for a while.
            Self::Restore(
                RestoreError::Vanished { .. }
                | RestoreError::Gap { .. }
                | RestoreError::Damaged { .. }
                | RestoreError::Misplaced { .. }
                | RestoreError::Incomplete { .. },
            )
            | Self::Io { .. }
            | Self::Sqlite { .. } => Patience::Some,
            _ => Patience::None,
        }
    }
}

/// How often something is tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Patience {
    Endless,
    Some,
    None,
}

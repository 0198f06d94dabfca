//! Why a replica cannot be verified, as opposed to what is wrong with it.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::table;

/// Why a replica cannot be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The replica cannot be read.
    #[error("cannot read the replica: {0}")]
    Replica(#[source] evertide_storage::Error),
    /// One file after the other cannot be read.
    #[error("{location} cannot be read, one file after the other: {reason}; try again later")]
    Unreadable {
        /// The replica.
        location: String,
        /// What the last one failed with.
        reason: String,
    },
    /// The temporary file cannot be used.
    #[error(
        "cannot {action} {}: {source}; verification keeps {} bytes for each page of the database \
         there: choose a directory with room for that, with TMPDIR", path.display(), table::ENTRY
    )]
    Temporary {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The temporary database cannot be written.
    #[error(
        "cannot {action} a temporary database in {}: {source}; the restore needs {needed} bytes \
         there: choose a directory with room for that, with TMPDIR", path.display()
    )]
    Room {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
        /// The size of the database, in bytes.
        needed: u64,
    },
    /// The machinery itself could not be started.
    #[error("cannot start the verification: {0}")]
    Start(#[source] io::Error),
    /// The verification was cancelled.
    #[error("the verification was cancelled")]
    Cancelled,
}

impl VerifyError {
    pub(super) fn temporary(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Temporary {
            path,
            action,
            source,
        }
    }
}

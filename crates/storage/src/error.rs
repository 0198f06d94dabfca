//! What can go wrong with a replica.

use std::{io, path::PathBuf, time::Duration};

/// What can go wrong with a replica. Messages name the replica without its credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The replica has no such object.
    #[error("{location} has no object {object}")]
    NotFound {
        /// The replica.
        location: String,
        /// The object's key below the replica's root.
        object: String,
    },
    /// The object is there already, and objects are never replaced.
    #[error(
        "{location} already has an object {object}: it was not replaced. Another process may be \
         replicating to the same place"
    )]
    AlreadyExists {
        /// The replica.
        location: String,
        /// The object's key below the replica's root.
        object: String,
    },
    /// A small object is not the one that was to be replaced: somebody else replaced or deleted it.
    #[error("{location}: {object} was changed or deleted by somebody else meanwhile")]
    Changed {
        /// The replica.
        location: String,
        /// The object's key below the replica's root.
        object: String,
    },
    /// Somebody else writes to the replica.
    #[error(
        "{location} is being written to by {holder}; two writers would mix two histories, so this one \
         waits. Stop that process, or replicate to another path. If it has died, this one takes over \
         when its lease ends, in {}", rounded(*wait)
    )]
    LeaseHeld {
        /// The replica.
        location: String,
        /// Who: process, machine, and since when.
        holder: String,
        /// After this time the lease has ended, unless it is renewed until then.
        wait: Duration,
    },
    /// The right to write to the replica was lost; what was being written is not there.
    #[error("{location} cannot be written to without its lease: {reason}")]
    LeaseLost {
        /// The replica.
        location: String,
        /// How, and who has it, if it is known.
        reason: String,
    },
    /// What says who writes to the replica cannot be read.
    #[error(
        "{location}: evertide/lease, which says who writes there, is damaged or of a later version. \
         Use that version, or delete this object if nobody writes to the replica"
    )]
    BadLease {
        /// The replica.
        location: String,
    },
    /// A range that the object does not have.
    #[error("{location}: {object} has {size} bytes, {start}..{end} were asked for")]
    OutOfRange {
        /// The replica.
        location: String,
        /// The object's key below the replica's root.
        object: String,
        /// Size of the object in bytes.
        size: u64,
        /// First byte asked for.
        start: u64,
        /// One after the last byte asked for.
        end: u64,
    },
    /// An object where Evertide has small ones is too long to be one of them.
    #[error(
        "{location}: {object} is longer than anything that Evertide keeps there, so somebody else wrote it. \
         Look at what it is, and delete it"
    )]
    TooLong {
        /// The replica.
        location: String,
        /// The object's key below the replica's root.
        object: String,
    },
    /// Reading what was to be stored failed; the replica is not to blame.
    #[error("{location}: cannot read what was to be stored as {object}: {source}")]
    Body {
        /// The replica.
        location: String,
        /// The object's key below the replica's root.
        object: String,
        /// Why.
        source: io::Error,
    },
    /// A file operation failed.
    #[error("{location}: cannot {action} {}: {source}", .path.display())]
    Io {
        /// The replica.
        location: String,
        /// What was being done, such as `create`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A store of objects refused, or could not be reached.
    #[error("{location}: cannot {action} {object}: {source}{hint}")]
    Store {
        /// The replica.
        location: String,
        /// What was being done, such as `list`.
        action: &'static str,
        /// The object's key below the replica's root.
        object: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// What to do about it, with a separator before it; empty where nothing is known.
        hint: &'static str,
    },
    /// The store said that it deleted an object, and it is still there.
    #[error(
        "{location}: {object} is still there after it was deleted; check the store's permissions"
    )]
    NotDeleted {
        /// The replica.
        location: String,
        /// The object's key below the replica's root.
        object: String,
    },
    /// The runtime shut down in the middle of an operation.
    #[error("{location}: the operation was interrupted because the program is shutting down")]
    Interrupted {
        /// The replica.
        location: String,
    },
    /// A replica URL with a scheme that Litestream has and this build has not.
    #[error(
        "this build of Evertide has no support for {scheme} replicas (`{url}`); supported are: \
         {supported}. Use a supported destination or a build with the feature `{scheme}`"
    )]
    Unsupported {
        /// The scheme.
        scheme: &'static str,
        /// The URL without credentials.
        url: String,
        /// The schemes that work.
        supported: &'static str,
    },
    /// Not a replica URL.
    #[error("`{url}` is not a replica URL: {reason}")]
    BadUrl {
        /// The URL without credentials.
        url: String,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
}

/// In seconds, as people read it.
fn rounded(wait: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(wait.as_secs() + 1))
}

impl Error {
    /// Whether the replica has no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether somebody else was faster: the object was there already, or is not the one that was to be
    /// replaced.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. } | Self::Changed { .. })
    }

    /// Whether the object was there already.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. })
    }
}

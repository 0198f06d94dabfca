//! What can go wrong with a replica.

use std::{io, path::PathBuf};

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

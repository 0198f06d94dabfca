//! Why something on a server with SSH did not work.

use std::{io, time::Duration};

use russh_sftp::{client::error::Error as SftpError, protocol::StatusCode};

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no key of the server is known")]
    UnknownHost,
    #[error(
        "the server has the key {0}, which is not the one that is known: somebody may have put \
             another server in its place"
    )]
    AnotherHost(String),
    #[error("the known key of the server cannot be read: {0}")]
    BadHostKey(String),
    #[error("it is not said who to be there")]
    NoUser,
    #[error("there is neither a password nor a private key")]
    NoCredentials,
    #[error("the private key cannot be read: {0}")]
    BadKey(String),
    #[error("the server does not let the user in")]
    NotLetIn,
    #[error("the server was silent for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the connection ended")]
    Ended,
    #[error("{0}")]
    Connection(#[from] russh::Error),
    #[error("{0}")]
    Sftp(#[from] SftpError),
    #[error("the server makes no hard links")]
    NoLinks,
    #[error("another process has been replacing it for a while, or was stopped while it did")]
    Locked,
    #[error("it is too long for a small object")]
    TooLong,
    /// Somebody else has it, or has changed it.
    #[error("somebody else was faster")]
    Conflict,
    /// The body failed, and the server is not to blame.
    #[error("{0}")]
    Body(io::Error),
}

impl Failure {
    fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Sftp(SftpError::Status(status)) => Some(status.status_code),
            _ => None,
        }
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NoSuchFile)
    }

    /// Whether the server does not say why.
    pub(super) fn is_vague(&self) -> bool {
        self.status() == Some(StatusCode::Failure)
    }

    /// Whether the server does not know the request.
    pub(super) fn is_unknown_request(&self) -> bool {
        self.status() == Some(StatusCode::OpUnsupported)
    }

    pub(super) fn is_end(&self) -> bool {
        self.status() == Some(StatusCode::Eof)
    }

    /// Whether the connection is of no use any more.
    pub(super) fn is_broken(&self) -> bool {
        match self {
            Self::Sftp(SftpError::Status(_) | SftpError::Limited(_)) => false,
            Self::Sftp(_) | Self::Connection(_) | Self::Silent(_) | Self::Ended => true,
            _ => false,
        }
    }

    /// What the user can do about it.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::UnknownHost => {
                "; ask the server's owner for its key (Ed25519 or ECDSA) and set it as the host key, or \
                 add it to known_hosts, for example with `ssh-keyscan` after a look at the fingerprint"
            }
            Self::AnotherHost(_) => {
                "; do not go on before its owner has told you why; then set the new key as the host key, \
                 or replace it in known_hosts"
            }
            Self::BadHostKey(_) => "; expected `ssh-ed25519 AAAA…`, as in known_hosts",
            Self::NoUser => "; name the user, as in `sftp://user@host/path`",
            Self::NoCredentials | Self::NotLetIn => {
                "; check user, password and private key (Ed25519 or ECDSA)"
            }
            Self::BadKey(_) => {
                "; expected a private key in OpenSSH's format, Ed25519 or ECDSA, and its passphrase if it \
                 has one"
            }
            Self::NoLinks => {
                "; set `conditional_writes` to false (`?conditionalWrites=false`), and keep a second \
                 writer away yourself"
            }
            _ if self.status() == Some(StatusCode::PermissionDenied) => {
                "; check what the user may do there: list, read, write, delete"
            }
            _ => "",
        }
    }
}

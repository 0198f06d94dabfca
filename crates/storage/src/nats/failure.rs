//! Why something in a bucket of NATS did not work.

use std::{error::Error, io, time::Duration};

use async_nats::{
    ConnectErrorKind,
    jetstream::{
        ErrorCode,
        context::{GetStreamErrorKind, PublishErrorKind},
    },
};

use crate::tls;

type Source = Box<dyn Error + Send + Sync>;

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Connect(#[from] async_nats::ConnectError),
    #[error("the credentials cannot be read")]
    BadCredentials,
    #[error("the server has no such bucket")]
    NoBucket,
    #[error("the server has no JetStream, or not for this user")]
    NoJetStream,
    #[error("{0}")]
    Request(Source),
    #[error("nothing came from the server for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("what is said of an object cannot be read: {0}")]
    Nonsense(#[from] serde_json::Error),
    #[error("a part of an object is missing")]
    Missing,
    #[error("an object is not what is said of it")]
    Damaged,
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
    /// Of a request that is not understood better than this.
    pub(super) fn request(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Request(Box::new(error))
    }

    /// Of a message that was to be stored.
    pub(super) fn publish(error: async_nats::jetstream::context::PublishError) -> Self {
        match error.kind() {
            PublishErrorKind::WrongLastSequence => Self::Conflict,
            _ => Self::request(error),
        }
    }

    /// Of the first look at a bucket.
    pub(super) fn open(error: async_nats::jetstream::context::GetStreamError) -> Self {
        const NONE: [ErrorCode; 2] = [
            ErrorCode::JETSTREAM_NOT_ENABLED,
            ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
        ];
        match error.kind() {
            GetStreamErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Self::NoBucket
            }
            GetStreamErrorKind::JetStream(error) if NONE.contains(&error.error_code()) => {
                Self::NoJetStream
            }
            _ => Self::request(error),
        }
    }

    /// Whether the connection may be of no use any more.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Request(_) | Self::Silent(_))
    }

    /// What the user can do about it.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Connect(error) if let Some(hint) = tls::hint(error) => hint,
            Self::Connect(error) => match error.kind() {
                ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                    "; check user and password, token, or credentials"
                }
                _ => "; check the server's name and port, and whether it wants TLS",
            },
            Self::BadCredentials => "; expected the content of a `.creds` file, or the path of one",
            Self::NoBucket => "; create it first, for example with `nats object add BUCKET`",
            Self::NoJetStream => {
                "; start the server with `-js`, and allow it to the user's account"
            }
            Self::Silent(_) => "; check whether the user may use `$JS.API.>` and `$O.>`",
            _ => "",
        }
    }
}

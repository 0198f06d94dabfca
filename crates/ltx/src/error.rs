//! What can be wrong with an LTX file.

/// What can be wrong with an LTX file, its name, or what an encoder is given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a transaction ID.
    #[error("`{0}` is not a transaction ID: 16 hex digits expected")]
    BadTxid(String),
    /// Not a page size.
    #[error("{0} is not a page size: a power of two from 512 to 65536 expected")]
    BadPageSize(u32),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

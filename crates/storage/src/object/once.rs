//! Storing what is small in a way of the store's own.

use async_trait::async_trait;
use opendal::{Buffer, Error};

use crate::Precondition;

/// Stores objects in one request each, where OpenDAL needs more.
#[async_trait]
pub(super) trait PutOnce: Send + Sync {
    /// Stores an object below the root, with a piece of user metadata, and gives its version.
    async fn put(
        &self,
        key: &str,
        content: Buffer,
        metadata: Option<(&str, &str)>,
        precondition: &Precondition,
    ) -> Result<String, Error>;
}

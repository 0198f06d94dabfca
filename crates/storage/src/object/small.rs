//! Small objects, and replacing them on condition.

use std::io;

use bytes::Bytes;
use opendal::{ErrorKind, Metadata};

use super::{ObjectClient, VersionBy};
use crate::{Error, Precondition, SmallObject, Version, collect};

impl ObjectClient {
    /// Content and ETag, in one request.
    pub(super) async fn read_small(&self, key: &str) -> Result<Option<SmallObject>, Error> {
        match self.try_read_small(key).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if is_too_long(&error) => Err(Error::TooLong {
                location: self.location.clone(),
                object: key.to_owned(),
            }),
            Err(error)
                if error.kind() == ErrorKind::NotFound && !self.is_missing_bucket(&error) =>
            {
                Ok(None)
            }
            Err(error) => Err(self.failed("read", key)(error)),
        }
    }

    async fn try_read_small(&self, key: &str) -> Result<SmallObject, opendal::Error> {
        let reader = self.operator.reader(key).await?;
        let mut body = reader.into_bytes_stream(..).await?;
        let metadata = body.metadata().await?;
        let cut_short = |error: io::Error| {
            opendal::Error::new(ErrorKind::Unexpected, "the object broke off").set_source(error)
        };
        let content = collect(Box::pin(body), SmallObject::LONGEST).await;
        let content = content.map_err(cut_short)?;
        // Less than all of it, with the version of all of it, would be replaced with confidence.
        if content.len() as u64 != metadata.content_length() {
            let error = io::ErrorKind::UnexpectedEof.into();
            return Err(cut_short(error));
        }
        let version = self.version(&metadata, &content);
        Ok(SmallObject { content, version })
    }

    /// Stores a small object on this condition, as far as the store can tell.
    pub(super) async fn write_small(
        &self,
        key: &str,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        let changed = || Error::Changed {
            location: self.location.clone(),
            object: key.to_owned(),
        };
        if let Some(once) = &self.once {
            let stored = once
                .put(key, content.clone().into(), None, &precondition)
                .await;
            return match stored {
                Ok(version) => Ok(Version::new(version)),
                Err(error)
                    if error.kind() == ErrorKind::ConditionNotMatch
                        && precondition != Precondition::Absent =>
                {
                    Err(changed())
                }
                Err(error) => Err(self.failed("store", key)(error)),
            };
        }
        let mut write = self.operator.write_with(key, content.clone());
        let unchanged = match &precondition {
            Precondition::Absent if self.dialect.conditional_create => {
                write = write.if_not_exists(true);
                false
            }
            Precondition::Unchanged(expected) if self.dialect.compare_and_set => {
                let etag = std::str::from_utf8(expected.as_bytes()).map_err(|_| changed())?;
                write = write.if_match(etag);
                true
            }
            // The best there is without conditions.
            Precondition::Unchanged(expected) => {
                let found = self.read_small(key).await?;
                if found.is_none_or(|found| found.version != *expected) {
                    return Err(changed());
                }
                false
            }
            _ => false,
        };
        match write.await {
            Ok(metadata) => Ok(self.version(&metadata, &content)),
            // The second also where another conditional request is under way.
            Err(error)
                if unchanged
                    && matches!(
                        error.kind(),
                        ErrorKind::ConditionNotMatch | ErrorKind::Conflict
                    )
                    && !self.is_missing_bucket(&error) =>
            {
                Err(changed())
            }
            Err(error) => Err(self.failed("store", key)(error)),
        }
    }

    /// What the store tells contents apart by. The content itself stands in where a store, which then takes
    /// no conditions, gives none.
    fn version(&self, metadata: &Metadata, content: &Bytes) -> Version {
        let named = match self.dialect.version {
            VersionBy::ETag => metadata.etag(),
            VersionBy::Generation => metadata.version(),
        };
        match named {
            Some(name) => Version::new(name.to_owned()),
            None => Version::new(content.clone()),
        }
    }
}

/// Whether reading ended because there was too much.
fn is_too_long(error: &opendal::Error) -> bool {
    let source = std::error::Error::source(error).and_then(<dyn std::error::Error>::downcast_ref);
    source.is_some_and(|source: &io::Error| source.kind() == io::ErrorKind::FileTooLarge)
}

//! Storing an object in pieces.

use std::time::SystemTime;

use futures_util::StreamExt;
use opendal::Writer;

use super::ObjectClient;
use crate::{ByteStream, Error};

/// Bytes in a part of an upload; what is smaller goes in one request. With the largest number of
/// parts that S3 allows, 10,000, an object has 68 GiB.
const PART: usize = 7 << 20;

/// An upload, given up where it is dropped before its end.
struct Upload(Option<Writer>);

impl Drop for Upload {
    fn drop(&mut self) {
        // Parts of an upload that was not finished are seen by nobody, and paid for.
        if let (Some(mut writer), Ok(runtime)) =
            (self.0.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move { writer.abort().await });
        }
    }
}

impl ObjectClient {
    /// Stores an object of unknown size, which must not exist where the store can tell; its size.
    pub(super) async fn put_stream(
        &self,
        key: &str,
        created: SystemTime,
        mut body: ByteStream,
    ) -> Result<u64, Error> {
        let failed = self.failed("store", key);
        let timestamp = jiff::Timestamp::try_from(created).unwrap_or_default();
        let metadata = [(self.dialect.timestamp.to_owned(), timestamp.to_string())];
        let mut writer = self.operator.writer_with(key).chunk(PART);
        if self.dialect.conditional_create {
            writer = writer.if_not_exists(true);
        }
        let writer = writer.user_metadata(metadata).await.map_err(failed)?;
        let mut upload = Upload(Some(writer));
        let mut size = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|source| Error::Body {
                location: self.location.clone(),
                object: key.to_owned(),
                source,
            })?;
            size += chunk.len() as u64;
            if let Some(writer) = &mut upload.0 {
                writer.write(chunk).await.map_err(failed)?;
            }
        }
        if let Some(writer) = &mut upload.0 {
            writer.close().await.map_err(failed)?;
        }
        upload.0 = None;
        Ok(size)
    }
}

//! Storing an object in pieces.

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use opendal::Writer;

use super::{ObjectClient, once::PutOnce};
use crate::{ByteStream, Error, Precondition};

/// What is smaller goes in one request, where the store has a way of its own for that.
const SMALL: usize = 7 << 20;

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
        let timestamp = jiff::Timestamp::try_from(created).unwrap_or_default();
        let metadata = [(self.dialect.timestamp.to_owned(), timestamp.to_string())];
        if let Some(once) = &self.once {
            let [(name, time)] = &metadata;
            match self
                .put_small_stream(&**once, key, (name, time), body)
                .await?
            {
                Stored::All(size) => return Ok(size),
                Stored::Nothing(whole) => body = whole,
            }
        }
        let failed = self.failed("store", key);
        let [(_, time)] = &metadata;
        let operator = self.in_parts.as_ref().map(|operator| operator(time));
        let operator = operator.as_ref().unwrap_or(&self.operator);
        let mut writer = operator.writer_with(key);
        if let Some(part) = self.dialect.part {
            writer = writer.chunk(part).concurrent(self.dialect.parts_at_a_time);
        }
        if self.dialect.conditional_create {
            writer = writer.if_not_exists(true);
        }
        let writer = writer.user_metadata(metadata).await.map_err(failed)?;
        let mut upload = Upload(Some(writer));
        let mut size = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|source| self.body_failed(key, source))?;
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

    /// Stores what turns out to be small, in one request.
    async fn put_small_stream(
        &self,
        once: &dyn PutOnce,
        key: &str,
        metadata: (&str, &str),
        mut body: ByteStream,
    ) -> Result<Stored, Error> {
        let mut read: Vec<Bytes> = Vec::new();
        let mut size = 0;
        while size <= SMALL {
            match body.next().await {
                Some(chunk) => {
                    let chunk = chunk.map_err(|source| self.body_failed(key, source))?;
                    size += chunk.len();
                    read.push(chunk);
                }
                None => {
                    let condition = match self.dialect.conditional_create {
                        true => Precondition::Absent,
                        false => Precondition::None,
                    };
                    let stored = once.put(key, read.into(), Some(metadata), &condition).await;
                    stored.map_err(self.failed("store", key))?;
                    return Ok(Stored::All(size as u64));
                }
            }
        }
        let read = stream::iter(read.into_iter().map(Ok));
        Ok(Stored::Nothing(Box::pin(read.chain(body))))
    }

    fn body_failed(&self, key: &str, source: std::io::Error) -> Error {
        Error::Body {
            location: self.location.clone(),
            object: key.to_owned(),
            source,
        }
    }
}

/// What became of a body.
enum Stored {
    /// So many bytes, which were all.
    All(u64),
    /// It is too long, and as it was.
    Nothing(ByteStream),
}

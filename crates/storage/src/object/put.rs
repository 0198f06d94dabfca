//! Storing an object in pieces.

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use opendal::{ErrorKind, Writer};
use tokio::sync::mpsc;

use super::{ObjectClient, once::PutOnce};
use crate::{ByteStream, Error, Precondition};

/// What is smaller goes in one request, where the store has a way of its own for that.
const SMALL: usize = 7 << 20;

/// What is sent to an upload.
enum Piece {
    Content(Bytes),
    End,
}

/// Stores pieces as they come, until their end. Where none comes any more before that, or storing one fails, the upload
/// is given up: what is there of it is seen by nobody, and paid for.
///
/// A task of its own, since OpenDAL has nothing to give up when it is dropped in the middle of a piece.
async fn upload(
    mut writer: Writer,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<(), opendal::Error> {
    let stored = store(&mut writer, &mut pieces).await;
    if !matches!(stored, Ok(true)) {
        // The store's own rules, if it has any, are left for what cannot be deleted.
        let _ = writer.abort().await;
    }
    stored.map(drop)
}

/// Whether all of the pieces came, and were stored.
async fn store(
    writer: &mut Writer,
    pieces: &mut mpsc::Receiver<Piece>,
) -> Result<bool, opendal::Error> {
    while let Some(piece) = pieces.recv().await {
        if pieces.is_closed() {
            break; // nobody waits for what is left
        }
        match piece {
            Piece::Content(content) => writer.write(content).await?,
            Piece::End => {
                return tokio::select! {
                    closed = writer.close() => closed.map(|_| true),
                    // Who has gone may have no right any more to what would be there now.
                    _ = pieces.recv() => Ok(false),
                };
            }
        }
    }
    Ok(false)
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
        let (pieces, sent) = mpsc::channel(1);
        let upload = tokio::spawn(upload(writer, sent));
        let mut size = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|source| self.body_failed(key, source))?;
            size += chunk.len() as u64;
            if pieces.send(Piece::Content(chunk)).await.is_err() {
                break; // it has failed
            }
        }
        let _ = pieces.send(Piece::End).await;
        match upload.await {
            Ok(Ok(())) => Ok(size),
            // The answer to the try before was lost, and the store knows no upload that is finished.
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
                match self.is_stored(key, size, created).await {
                    true => Ok(size),
                    false => Err(self.store_failed("store", key, error)),
                }
            }
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(Error::Interrupted {
                location: self.location.clone(),
            }),
        }
    }

    /// Whether there is an object of this size and time.
    async fn is_stored(&self, key: &str, size: u64, created: SystemTime) -> bool {
        let found = self.operator.stat(key).await;
        found.is_ok_and(|found| {
            found.content_length() == size && self.timestamp(&found) == Some(created)
        })
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

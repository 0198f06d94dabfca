//! The content of an object on its way from a bucket.

use std::{io, ops::Range, time::Duration};

use async_nats::jetstream::{consumer::push::Ordered, object_store::ObjectInfo};
use base64::{Engine, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ring::digest;
use tokio::time::timeout;

use super::failure::Failure;
use crate::ByteStream;

/// A server that gives nothing for so long has nothing to give: somebody deleted what was being read.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// The digest of content, as every client of NATS writes it.
pub(super) fn written(digest: digest::Digest) -> String {
    format!("SHA-256={}", URL_SAFE.encode(digest))
}

/// Whether this is the whole of an object.
pub(super) fn is_whole(info: &ObjectInfo, size: u64, sum: digest::Digest) -> bool {
    // Other clients may leave the digest out.
    let known = info.digest.as_deref().filter(|known| !known.is_empty());
    size == info.size as u64 && known.is_none_or(|known| known == written(sum))
}

/// A range of an object's content, from its chunks in order. Where the range reaches to the end, the last chunk
/// is given only if all of them have the object's digest.
pub(super) fn content(info: ObjectInfo, range: Range<u64>, chunks: Ordered) -> ByteStream {
    let reading = Reading {
        info,
        range,
        chunks,
        at: 0,
        sum: digest::Context::new(&digest::SHA256),
    };
    Box::pin(stream::try_unfold(reading, Reading::next))
}

struct Reading {
    info: ObjectInfo,
    range: Range<u64>,
    chunks: Ordered,
    /// Bytes that have come.
    at: u64,
    sum: digest::Context,
}

impl Reading {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        while self.at < self.range.end {
            let Ok(chunk) = timeout(STALL, self.chunks.next()).await else {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    Failure::Silent(STALL),
                ));
            };
            let chunk = chunk.ok_or(io::ErrorKind::UnexpectedEof)?;
            let chunk = chunk.map_err(io::Error::other)?.message.payload;
            let start = self.at;
            self.at += chunk.len() as u64;
            self.sum.update(&chunk);
            let size = self.info.size as u64;
            if self.at >= size && !is_whole(&self.info, self.at, self.sum.clone().finish()) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, Failure::Damaged));
            }
            let wanted = part(&chunk, start, &self.range);
            if !wanted.is_empty() {
                return Ok(Some((wanted, self)));
            }
        }
        Ok(None)
    }
}

/// What of a chunk that begins at `start` is in the range.
pub(super) fn part(chunk: &Bytes, start: u64, range: &Range<u64>) -> Bytes {
    let end = start + chunk.len() as u64;
    let [from, to] = [range.start, range.end].map(|at| at.clamp(start, end) - start);
    // Both are within the chunk.
    chunk.slice(from as usize..to as usize)
}

//! Content on its way to or from a replica.

use std::{collections::VecDeque, io, ops::Range, pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};

use crate::DiskFile;

/// Content in pieces. An error ends it; a stream that ends without one is complete.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Bytes read from a file at once.
pub(crate) const CHUNK: u64 = 512 << 10;

/// Content that is in memory already.
pub fn bytes_stream(bytes: Bytes) -> ByteStream {
    Box::pin(stream::iter((!bytes.is_empty()).then_some(Ok(bytes))))
}

/// A range of a file, read piece by piece on a blocking thread. Ends with
/// [`io::ErrorKind::UnexpectedEof`] where the file is shorter.
pub fn file_stream(file: Arc<dyn DiskFile>, range: Range<u64>) -> ByteStream {
    Box::pin(stream::try_unfold(
        (file, range),
        |(file, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let end = range.end.min(range.start.saturating_add(CHUNK));
            // Allocated here, on one of few threads. Where each of many blocking threads allocates what
            // others free, the allocator keeps memory for each of them: twice as much in the end.
            let buffer = buffer(&(range.start..end))?;
            let read = tokio::task::spawn_blocking({
                let file = file.clone();
                move || fill(&*file, range.start, buffer)
            });
            let chunk = read.await.map_err(io::Error::other)??;
            Ok(Some((chunk, (file, end..range.end))))
        },
    ))
}

/// Reads a range that fits in memory.
pub(crate) fn read_chunk(file: &dyn DiskFile, range: Range<u64>) -> io::Result<Bytes> {
    fill(file, range.start, buffer(&range)?)
}

fn buffer(range: &Range<u64>) -> io::Result<Vec<u8>> {
    let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    Ok(vec![0; len])
}

fn fill(file: &dyn DiskFile, start: u64, mut buffer: Vec<u8>) -> io::Result<Bytes> {
    file.read_exact_at(&mut buffer, start)?;
    Ok(buffer.into())
}

/// All content in one piece.
///
/// # Errors
///
/// Those of the stream, and [`io::ErrorKind::FileTooLarge`] above `limit` bytes.
pub async fn collect(mut body: ByteStream, limit: usize) -> io::Result<Bytes> {
    let Some(first) = body.next().await.transpose()? else {
        return Ok(Bytes::new());
    };
    let mut all = None;
    while let Some(next) = body.next().await.transpose()? {
        all.get_or_insert_with(|| BytesMut::from(&*first))
            .extend_from_slice(&next);
        if all.as_ref().is_some_and(|all| all.len() > limit) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
    match all {
        Some(all) => Ok(all.freeze()),
        None if first.len() > limit => Err(io::ErrorKind::FileTooLarge.into()),
        None => Ok(first),
    }
}

/// The beginning of a body, or all of it.
pub(crate) type Head = VecDeque<Bytes>;

/// Reads a body up to the piece with which it reaches so many bytes. With the rest of it, where there is
/// more.
pub(crate) async fn head(
    mut body: ByteStream,
    limit: usize,
) -> io::Result<(Head, Option<ByteStream>)> {
    let mut head = Head::new();
    let mut size = 0;
    while size < limit {
        let Some(chunk) = body.next().await.transpose()? else {
            return Ok((head, None));
        };
        size += chunk.len();
        head.push_back(chunk);
    }
    Ok((head, Some(body)))
}

/// Ends with an error where less or more comes than this.
#[cfg(any(feature = "_object", feature = "sftp", feature = "webdav"))]
pub(crate) fn exactly(size: u64, body: ByteStream) -> ByteStream {
    Box::pin(stream::try_unfold(
        (body, size),
        |(mut body, left)| async move {
            let wrong = |kind| Err(io::Error::from(kind));
            match body.next().await.transpose()? {
                Some(chunk) => match left.checked_sub(chunk.len() as u64) {
                    Some(left) => Ok(Some((chunk, (body, left)))),
                    None => wrong(io::ErrorKind::InvalidData),
                },
                None if left == 0 => Ok(None),
                None => wrong(io::ErrorKind::UnexpectedEof),
            }
        },
    ))
}

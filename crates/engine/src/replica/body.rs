//! What is sent to a replica, and what is read back from it to compare.

use std::{
    io,
    io::Read,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use evertide_ltx::{Checksum, Decoder, Level, LtxName, Merge};
use evertide_storage::{
    ByteStream, Disk, Error as StoreError, LtxObject, ReplicaClient, bytes_stream, collect,
};
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{
    Error, capture,
    capture::{DiskReader, Tail},
    runtime::{blocking, transfer},
    wal::WAL_HEADER_LEN,
};

/// Objects up to this size are built in memory before they are sent.
const IN_MEMORY: u64 = 4 << 20;
/// How much of an object is read to compare it with the local history.
const COMPARED: u64 = 1 << 20;
/// Chunks on their way to a store.
const CHUNKS: usize = 4;
const CHUNK_BYTES: usize = 512 << 10;

/// An object to be put.
pub(super) struct Body {
    pub(super) name: LtxName,
    pub(super) created: SystemTime,
    pub(super) stream: ByteStream,
}

/// The staged files, oldest first, as one object. It says that it ends where the frames of a WAL begin, and
/// not in which: Litestream, where it goes on from here, refuses places before that, and at another
/// place it would look for the frame it ended with.
/// Each is verified to its end on the way: an error
/// ends the stream, and nothing is put.
pub(super) async fn merged(disk: Arc<dyn Disk>, paths: Vec<PathBuf>) -> Result<Body, Error> {
    let (mut files, total) = blocking(move || open(disk.as_ref(), &paths)).await?;
    files.merge.set_wal_offset(WAL_HEADER_LEN as u32);
    let (path, header) = (files.path, files.merge.header().clone());
    let failed = move |source| Error::Ltx {
        path: path.clone(),
        source,
    };
    let (name, created) = (header.name(), capture::created(&header));
    if total <= IN_MEMORY {
        let output = Vec::with_capacity(total as usize);
        let (bytes, _) = blocking(move || files.merge.write_to(output))
            .await
            .map_err(failed)?;
        return Ok(Body {
            name,
            created,
            stream: bytes_stream(Bytes::from(bytes)),
        });
    }
    let (sender, stream) = chunks();
    let permit = transfer().await;
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let writer = ChunkWriter::new(vec![sender.clone()]);
        match files.merge.write_to(writer) {
            Ok((mut writer, _)) => writer.finish(),
            Err(error) => drop(sender.blocking_send(Piece::Failed(io::Error::other(error)))),
        }
    });
    Ok(Body {
        name,
        created,
        stream,
    })
}

struct Files {
    merge: Merge<DiskReader>,
    path: PathBuf,
}

fn open(disk: &dyn Disk, paths: &[PathBuf]) -> Result<(Files, u64), Error> {
    let mut readers = Vec::with_capacity(paths.len());
    let mut total = 0;
    for path in paths {
        let failed = |source| Error::Io {
            path: path.clone(),
            action: "open",
            source,
        };
        let file = disk.open_read(path).map_err(failed)?;
        total += file.len().map_err(failed)?;
        readers.push(DiskReader::new(file));
    }
    let path = paths.last().cloned().unwrap_or_default();
    let merge = Merge::new(readers).map_err(|source| Error::Ltx {
        path: path.clone(),
        source,
    })?;
    Ok((Files { merge, path }, total))
}

/// Stores a file, and makes sure that the replica has as much of it as was sent. What is shorter goes again at once,
/// so that no restore comes across it.
pub(super) async fn store(
    client: &dyn ReplicaClient,
    level: Level,
    name: LtxName,
    created: SystemTime,
    stream: ByteStream,
) -> Result<LtxObject, StoreError> {
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let counted = stream.inspect_ok(move |chunk| {
        count.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    });
    let object = client.put(level, name, created, counted.boxed()).await?;
    let sent = sent.load(Ordering::Relaxed);
    if object.size == sent {
        return Ok(object);
    }
    let (location, kept) = (client.location(), object.size);
    if let Err(error) = client.delete(level, &[name]).await {
        tracing::warn!(location, %level, file = %name, %error, "cannot delete what was not kept whole");
    }
    Err(StoreError::Store {
        location,
        action: "store",
        object: format!("{name} of level {level}"),
        source: format!("{sent} bytes were sent, and it says that it has {kept}").into(),
        hint: "",
    })
}

/// A piece of a stream. Only `End` says that nothing is missing: a channel that closes without it was
/// left by a thread that panicked, and what came through it must not be stored.
#[derive(Debug)]
pub(crate) enum Piece {
    Chunk(Bytes),
    End,
    Failed(io::Error),
}

/// A stream of chunks and the way to fill it.
pub(crate) fn chunks() -> (mpsc::Sender<Piece>, ByteStream) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let stream = futures_util::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        let failed = |error| Some((Err(error), None));
        match receiver.recv().await {
            Some(Piece::Chunk(chunk)) => Some((Ok(chunk), Some(receiver))),
            Some(Piece::End) => None,
            Some(Piece::Failed(error)) => failed(error),
            None => failed(io::Error::other("what was to be stored ended unexpectedly")),
        }
    });
    (sender, stream.boxed())
}

/// Collects what is written into chunks and sends each to all receivers; those that have gone away
/// are left out.
pub(crate) struct ChunkWriter {
    receivers: Vec<mpsc::Sender<Piece>>,
    chunk: Vec<u8>,
}

impl ChunkWriter {
    pub(crate) fn new(receivers: Vec<mpsc::Sender<Piece>>) -> Self {
        Self {
            receivers,
            chunk: Vec::with_capacity(CHUNK_BYTES),
        }
    }

    /// Whether anybody still receives.
    pub(crate) fn has_receivers(&self) -> bool {
        !self.receivers.is_empty()
    }

    /// Sends the rest and ends the streams.
    pub(crate) fn finish(&mut self) {
        self.send();
        for receiver in self.receivers.drain(..) {
            let _ = send(&receiver, Piece::End);
        }
    }

    /// Ends the streams with an error, so that nothing is put.
    pub(crate) fn fail(&mut self, why: &str) {
        for receiver in self.receivers.drain(..) {
            let _ = send(&receiver, Piece::Failed(io::Error::other(why.to_owned())));
        }
    }

    fn send(&mut self) {
        if self.chunk.is_empty() {
            return;
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        let chunk = Bytes::from(chunk);
        self.receivers
            .retain(|receiver| send(receiver, Piece::Chunk(chunk.clone())));
    }
}

/// Waits only where there is no room; whether anybody still receives.
fn send(receiver: &mpsc::Sender<Piece>, piece: Piece) -> bool {
    match receiver.try_send(piece) {
        Err(TrySendError::Full(piece)) => receiver.blocking_send(piece).is_ok(),
        sent => sent.is_ok(),
    }
}

impl io::Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK_BYTES {
            self.send();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What identifies the history that an object is of, as far as it is cheap to read. `None` where it
/// cannot be decoded.
pub(super) async fn read_tail(
    client: &dyn ReplicaClient,
    object: &LtxObject,
) -> Result<Option<Tail>, StoreError> {
    let range = 0..object.size.min(COMPARED);
    let body = client.get(object.level, object.name, Some(range)).await?;
    let bytes = match collect(body, COMPARED as usize).await {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::debug!(%error, "cannot read the newest object of a replica");
            return Ok(None);
        }
    };
    Ok(decode_tail(&bytes[..]))
}

fn decode_tail(bytes: impl Read) -> Option<Tail> {
    let mut decoder = Decoder::new(bytes).ok()?;
    let header = decoder.header();
    let (txid, timestamp_ms) = (header.max_txid, header.timestamp_ms);
    let mut pages = Vec::new();
    let mut page = vec![0; decoder.header().page_size.len()];
    while let Ok(Some(pgno)) = decoder.decode_page(&mut page) {
        pages.push((pgno, Checksum::page(pgno, &page).get()));
    }
    Some(Tail {
        txid,
        timestamp_ms,
        pages,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn received(fill: impl FnOnce(ChunkWriter) + Send + 'static) -> Vec<io::Result<Bytes>> {
        let (sender, stream) = chunks();
        let filling = std::thread::spawn(move || fill(ChunkWriter::new(vec![sender])));
        let received = stream.collect().await;
        filling.join().unwrap();
        received
    }

    #[tokio::test]
    async fn a_stream_whose_writer_panicked_is_not_taken_for_a_complete_one() {
        let complete = received(|mut writer| {
            writer.write_all(&[1; 2 * CHUNK_BYTES]).unwrap();
            writer.finish();
        });
        assert!(complete.await.iter().all(Result::is_ok));
        let cut_off = received(|mut writer| writer.write_all(&[1; 2 * CHUNK_BYTES]).unwrap());
        assert!(cut_off.await.last().unwrap().is_err());
        let failed = received(|mut writer| writer.fail("why"));
        assert!(failed.await.last().unwrap().is_err());
    }
}

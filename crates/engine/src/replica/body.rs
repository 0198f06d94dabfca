//! What is sent to a replica, and what is read back from it to compare.

use std::{io, io::Read, path::PathBuf, sync::Arc, time::SystemTime};

use bytes::Bytes;
use evertide_ltx::{Checksum, Decoder, LtxName, Merge};
use evertide_storage::{ByteStream, Disk, LtxObject, ReplicaClient, bytes_stream, collect};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::{
    Error, capture,
    capture::{DiskReader, Tail},
    runtime::{blocking, transfer},
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

/// The staged files, oldest first, as one object. Each is verified to its end on the way: an error
/// ends the stream, and nothing is put.
pub(super) async fn merged(disk: Arc<dyn Disk>, paths: Vec<PathBuf>) -> Result<Body, Error> {
    let (files, total) = blocking(move || open(disk.as_ref(), &paths)).await?;
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
            Err(error) => drop(sender.blocking_send(Err(io::Error::other(error)))),
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

/// A stream of chunks and the way to fill it.
pub(crate) fn chunks() -> (mpsc::Sender<io::Result<Bytes>>, ByteStream) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    (sender, stream.boxed())
}

/// Collects what is written into chunks and sends each to all receivers; those that have gone away
/// are left out.
pub(crate) struct ChunkWriter {
    receivers: Vec<mpsc::Sender<io::Result<Bytes>>>,
    chunk: Vec<u8>,
}

impl ChunkWriter {
    pub(crate) fn new(receivers: Vec<mpsc::Sender<io::Result<Bytes>>>) -> Self {
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
        self.receivers.clear();
    }

    /// Ends the streams with an error, so that nothing is put.
    pub(crate) fn fail(&mut self, why: &str) {
        for receiver in self.receivers.drain(..) {
            let _ = receiver.blocking_send(Err(io::Error::other(why.to_owned())));
        }
    }

    fn send(&mut self) {
        if self.chunk.is_empty() {
            return;
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        let chunk = Bytes::from(chunk);
        self.receivers
            .retain(|receiver| receiver.blocking_send(Ok(chunk.clone())).is_ok());
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
) -> Result<Option<Tail>, evertide_storage::Error> {
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

//! Merging files of a replica into one, in bounded memory: from the copies on local disk where they
//! are still there, else by ranges from the replica.

use std::{
    io::{self, Read, Write},
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, Bytes};
use evertide_ltx::{Header, Level, LtxName, Merge, PageIndex};
use evertide_storage::{Disk, Error as StoreError, LtxObject, ReplicaClient, bytes_stream};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{mpsc, oneshot};

use super::{ChunkWriter, body::store, chunks};
use crate::{
    Error, capture,
    capture::DiskReader,
    restore::{Part, Stopped, Trouble, fetch},
    runtime::{blocking, transfer},
};

/// What is merged in memory, in bytes of sources together.
const IN_MEMORY: u64 = 4 << 20;
/// What is read ahead of all sources together, in bytes, if there are not too many for that.
const READ_AHEAD: u64 = 16 << 20;
/// The sizes that one range may have, in bytes.
const PART: (u64, u64) = (64 << 10, 2 << 20);
/// What is looked at of the end of a file, in bytes.
const TAIL: u64 = 64 << 10;
/// Requests at a time, for sources that fit in memory.
const AT_ONCE: usize = 8;

/// A file to be merged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Source {
    pub(super) object: LtxObject,
    /// Local files that hold the same transactions, oldest first; none where there are none.
    pub(super) copies: Vec<PathBuf>,
}

impl From<LtxObject> for Source {
    fn from(object: LtxObject) -> Self {
        let copies = Vec::new();
        Self { object, copies }
    }
}

/// What merges read from and write to.
#[derive(Clone, Debug)]
pub(super) struct Merger {
    pub(super) client: Arc<dyn ReplicaClient>,
    pub(super) disk: Arc<dyn Disk>,
    /// The name of the replica in the settings.
    pub(super) replica: String,
    /// Bytes read from it.
    pub(super) read: Arc<AtomicU64>,
}

impl Merger {
    /// Stores the merge of these files, oldest first, on this level. All of them are verified to
    /// their ends, and the result for holding every page it must, before the object becomes
    /// visible.
    pub(super) async fn merge(
        &self,
        sources: Vec<Source>,
        level: Level,
    ) -> Result<LtxObject, Error> {
        let name = merged_name(&sources);
        let total: u64 = sources.iter().map(|source| source.object.size).sum();
        let result = if total <= IN_MEMORY {
            self.in_memory(sources, level).await
        } else {
            self.streamed(sources, level).await
        };
        result.map_err(|failure| match failure {
            Failure::Store(source) => Error::Replica {
                name: self.replica.clone(),
                source,
            },
            Failure::Ltx(source) => Error::Ltx {
                path: PathBuf::from(format!(
                    "{}: files to be merged into {name} on level {level}",
                    self.client.location()
                )),
                source,
            },
        })
    }

    /// Reads a file to its end, and verifies all of it.
    pub(super) async fn verify(&self, object: &LtxObject) -> Result<(), evertide_ltx::Error> {
        let found = if object.size <= IN_MEMORY {
            let bytes = self.fetch(object.clone(), 0..object.size).await?;
            blocking(move || name_of(bytes.reader())).await?
        } else {
            let (input, asked) = ranges(object.clone());
            let permit = transfer().await;
            let reading = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                name_of(input)
            });
            self.serve(asked).await;
            reading.await.map_err(io::Error::other)??
        };
        match found == object.name {
            true => Ok(()),
            false => Err(evertide_ltx::Error::BadHeader("it is another file")),
        }
    }

    /// Looks at both ends of a file: whether it is the one that its name says, and ends as it was written to.
    pub(super) async fn glance(&self, object: &LtxObject) -> Result<(), evertide_ltx::Error> {
        let size = object.size;
        let head = self
            .fetch(object.clone(), 0..size.min(Header::LEN as u64))
            .await?;
        let tail = self
            .fetch(object.clone(), size.saturating_sub(TAIL)..size)
            .await?;
        let cut = evertide_ltx::Error::Truncated {
            length: size,
            part: "header",
        };
        let header = Header::from_bytes(head.first_chunk().ok_or(cut)?)?;
        // An index that is larger says where it begins, which has to be within the file.
        PageIndex::from_tail(&tail, size)?;
        match header.name() == object.name {
            true => Ok(()),
            false => Err(evertide_ltx::Error::BadHeader("it is another file")),
        }
    }

    /// What is wrong with a file of the replica.
    pub(super) fn flawed(&self, object: &LtxObject, source: evertide_ltx::Error) -> Error {
        let location = self.client.location();
        let file = format!("{location}: {} of level {}", object.name, object.level);
        Error::Ltx {
            path: PathBuf::from(file),
            source,
        }
    }

    async fn in_memory(&self, sources: Vec<Source>, level: Level) -> Result<LtxObject, Failure> {
        let name = merged_name(&sources);
        let inputs = stream::iter(sources)
            .map(|source| self.fetch_whole(source))
            .buffered(AT_ONCE)
            .try_collect::<Vec<Vec<Input>>>()
            .await?;
        let merged = blocking(move || {
            let merge = Merge::new(inputs.into_iter().flatten())?;
            let (bytes, summary) = merge.write_to(Vec::new())?;
            Ok::<_, evertide_ltx::Error>((Bytes::from(bytes), summary.header))
        });
        let (bytes, header) = merged.await?;
        check_name(&header, name)?;
        let created = capture::created(&header);
        Ok(store(&*self.client, level, name, created, bytes_stream(bytes)).await?)
    }

    async fn fetch_whole(&self, source: Source) -> Result<Vec<Input>, Failure> {
        if let Some(local) = self.open_copies(source.copies).await {
            return Ok(local);
        }
        let size = source.object.size;
        let bytes = self.fetch(source.object, 0..size).await;
        let bytes = bytes.map_err(evertide_ltx::Error::from)?;
        Ok(vec![Input::Memory(bytes.reader())])
    }

    /// The copies, all of them or none: they may have been removed meanwhile.
    async fn open_copies(&self, copies: Vec<PathBuf>) -> Option<Vec<Input>> {
        if copies.is_empty() {
            return None;
        }
        let disk = Arc::clone(&self.disk);
        blocking(move || {
            let open = |path: &PathBuf| disk.open_read(path).ok().map(DiskReader::new);
            copies
                .iter()
                .map(|path| open(path).map(Input::Disk))
                .collect()
        })
        .await
    }

    async fn streamed(&self, sources: Vec<Source>, level: Level) -> Result<LtxObject, Failure> {
        let name = merged_name(&sources);
        let (requests, asked) = mpsc::channel(1);
        let part = (READ_AHEAD / sources.len().max(1) as u64).clamp(PART.0, PART.1);
        let mut inputs = Vec::with_capacity(sources.len());
        for source in sources {
            match self.open_copies(source.copies).await {
                Some(local) => inputs.extend(local),
                None => inputs.push(Input::Remote(Ranges {
                    object: source.object,
                    requests: requests.clone(),
                    part,
                    offset: 0,
                    current: Bytes::new(),
                })),
            }
        }
        drop(requests);
        let (sender, body) = chunks();
        let (opened, header) = oneshot::channel();
        let (done, finished) = oneshot::channel();
        let permit = transfer().await;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let merge = Merge::new(inputs).and_then(|merge| {
                // Nobody to tell: nobody waits for the result either.
                let _ = opened.send(merge.header().clone());
                let (mut output, _) = merge.write_to(Output(ChunkWriter::new(vec![sender])))?;
                output.0.finish();
                Ok(())
            });
            let _ = done.send(merge);
        });
        let put = async {
            let Ok(header) = header.await else {
                return Ok(None); // the thread's own result says why
            };
            check_name(&header, name)?;
            let created = capture::created(&header);
            let stored = store(&*self.client, level, name, created, body).await;
            stored.map(Some).map_err(Failure::from)
        };
        // Whatever ends one side makes the other end, too.
        let (put, ()) = tokio::join!(put, self.serve(asked));
        match (finished.await, put) {
            // What could not be read is also why it could not be put.
            (Ok(Err(error)), Ok(_) | Err(Failure::Store(StoreError::Body { .. }))) => {
                Err(error.into())
            }
            (_, Err(failure)) => Err(failure),
            (Ok(Ok(())), Ok(Some(object))) => Ok(object),
            _ => Err(unexpected("the merge ended unexpectedly".to_owned()).into()),
        }
    }

    /// Answers the merging thread until it ends.
    async fn serve(&self, mut asked: mpsc::Receiver<Request>) {
        while let Some(request) = asked.recv().await {
            // Nobody waits for the answer when the thread has ended.
            let _ = request
                .reply
                .send(self.fetch(request.file, request.range).await);
        }
    }

    /// Reads a range whole, and goes on where it breaks off.
    async fn fetch(&self, file: LtxObject, range: Range<u64>) -> io::Result<Bytes> {
        let length = range.end - range.start;
        let chunks = match fetch(Arc::clone(&self.client), Part { file, range }).await {
            Ok(chunks) => chunks,
            Err(Trouble::Gone(file)) => {
                return Err(io::Error::other(StoreError::NotFound {
                    location: self.client.location(),
                    object: format!("{} of level {}", file.name, file.level),
                }));
            }
            Err(Trouble::Stopped(Stopped::Failed(error))) => return Err(io::Error::other(error)),
            Err(Trouble::Stopped(Stopped::Receiver)) => return Err(given_up()),
        };
        let bytes = in_one_piece(chunks);
        if bytes.len() as u64 != length {
            return Err(io::Error::other(
                "the replica gave more than it was asked for",
            ));
        }
        self.read.fetch_add(length, Ordering::Relaxed);
        Ok(bytes)
    }
}

fn in_one_piece(chunks: Vec<Bytes>) -> Bytes {
    match <[Bytes; 1]>::try_from(chunks) {
        Ok([only]) => only,
        Err(several) => several.concat().into(),
    }
}

fn given_up() -> io::Error {
    io::Error::other("the merge was given up")
}

/// Reads a file to its end, and gives the name that its content says it has.
fn name_of(file: impl Read) -> Result<LtxName, evertide_ltx::Error> {
    let (_, summary) = Merge::new([file])?.write_to(io::sink())?;
    Ok(summary.header.name())
}

/// A file alone, and what is asked for while it is read.
fn ranges(object: LtxObject) -> (Ranges, mpsc::Receiver<Request>) {
    let (requests, asked) = mpsc::channel(1);
    let input = Ranges {
        object,
        requests,
        part: PART.1,
        offset: 0,
        current: Bytes::new(),
    };
    (input, asked)
}

/// The name of what these files become.
fn merged_name(sources: &[Source]) -> LtxName {
    let (first, last) = (sources.first(), sources.last());
    let min = first.map(|source| source.object.name.min);
    let max = last.map(|source| source.object.name.max);
    LtxName::new(min.unwrap_or_default(), max.unwrap_or_default())
}

enum Failure {
    Store(StoreError),
    Ltx(evertide_ltx::Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<evertide_ltx::Error> for Failure {
    fn from(error: evertide_ltx::Error) -> Self {
        Self::Ltx(error)
    }
}

fn unexpected(text: String) -> evertide_ltx::Error {
    io::Error::other(text).into()
}

/// The content of a file decides, not the name it is stored under.
fn check_name(header: &Header, name: LtxName) -> Result<(), evertide_ltx::Error> {
    if header.name() == name {
        return Ok(());
    }
    Err(unexpected(format!(
        "their headers say that they make up {}",
        header.name()
    )))
}

/// Where one of the files comes from.
#[derive(Debug)]
enum Input {
    Memory(bytes::buf::Reader<Bytes>),
    Disk(DiskReader),
    Remote(Ranges),
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory(bytes) => bytes.read(buffer),
            Self::Disk(file) => file.read(buffer),
            Self::Remote(ranges) => ranges.read(buffer),
        }
    }
}

/// A part of a file that the merging thread waits for.
#[derive(Debug)]
struct Request {
    file: LtxObject,
    range: Range<u64>,
    reply: oneshot::Sender<io::Result<Bytes>>,
}

/// A file that is read range by range, each when it is needed: no connection stays open, and what
/// breaks off goes on where it was.
#[derive(Debug)]
struct Ranges {
    object: LtxObject,
    requests: mpsc::Sender<Request>,
    part: u64,
    offset: u64,
    current: Bytes,
}

impl Read for Ranges {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() && self.offset < self.object.size {
            let end = self.object.size.min(self.offset + self.part);
            let (reply, answer) = oneshot::channel();
            let request = Request {
                file: self.object.clone(),
                range: self.offset..end,
                reply,
            };
            let sent = self.requests.blocking_send(request);
            sent.map_err(|_| given_up())?;
            let answer = answer.blocking_recv().map_err(|_| given_up())?;
            self.current = answer?;
            self.offset = end;
        }
        let taken = self.current.len().min(buffer.len());
        self.current
            .split_to(taken)
            .copy_to_slice(buffer.get_mut(..taken).unwrap_or_default());
        Ok(taken)
    }
}

/// Ends the merge when nobody takes its result any more.
struct Output(ChunkWriter);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.0.has_receivers() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

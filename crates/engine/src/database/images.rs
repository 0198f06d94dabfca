//! Whole databases, or what changed in them, on their way to replicas. Each replica has a reader of
//! its own, so that one that takes long delays no other.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use evertide_ltx::{Checksum, Encoder, Txid};
use evertide_storage::Disk;
use tokio::{
    sync::{SemaphorePermit, oneshot},
    time::Instant,
};

use super::{Content, Database, ImageRequest, Snapshot};
use crate::{
    Error, capture,
    capture::{CaptureError, Due, Image},
    error::describe,
    replica::{ChunkWriter, chunks},
    state::{PageEntry, PageTable},
};

/// How long a first request waits for the other replicas: what is read begins above what each of
/// them has.
const GATHER: Duration = Duration::from_millis(100);
/// Entries written to the table at once.
const TABLE_BATCH: usize = 4_096;

/// What replicas have asked for.
#[derive(Debug, Default)]
pub(super) struct PendingImages {
    requests: VecDeque<ImageRequest>,
    since: Option<Instant>,
}

impl PendingImages {
    /// Reads the database even if no replica waits: its page table is needed.
    pub(super) fn want_table(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// The same without waiting for replicas: it is wanted of the database as it is now.
    pub(super) fn want_table_at_once(&mut self) {
        self.since = Instant::now().checked_sub(GATHER).or(self.since);
    }

    pub(super) fn add(&mut self, request: ImageRequest) {
        self.requests.push_back(request);
        self.since.get_or_insert_with(Instant::now);
    }

    /// When to start: at once when every replica waits.
    pub(super) fn due(&self, replicas: usize) -> Option<Instant> {
        let since = self.since?;
        Some(if self.requests.len() >= replicas {
            since
        } else {
            since + GATHER
        })
    }

    /// The oldest request that somebody still waits for. The others follow at once.
    fn take(&mut self) -> Option<ImageRequest> {
        self.requests.retain(|request| !request.reply.is_closed());
        let oldest = self.requests.pop_front();
        self.since = self.since.filter(|_| !self.requests.is_empty());
        oldest
    }

    /// The newest transaction of all the replicas that wait.
    fn above(&self) -> Txid {
        let above = self.requests.iter().map(|request| request.above);
        above.max().unwrap_or_default()
    }
}

/// An image being read on a blocking thread.
#[derive(Debug)]
pub(super) struct ImageJob {
    /// What came of it; an error if the thread panicked.
    result: oneshot::Receiver<ImageResult>,
    makes_table: bool,
    /// Cleared when the locks that keep the image consistent are gone.
    valid: Arc<AtomicBool>,
}

pub(super) type ImageResult = (Image, Result<Option<PageTable>, Error>);

/// A job that has ended.
#[derive(Debug)]
pub(super) struct FinishedImage {
    result: Option<ImageResult>,
    valid: bool,
}

impl ImageJob {
    /// Whether the checksums of all pages come of it.
    pub(super) fn will_make_table(&self) -> bool {
        self.makes_table && self.valid.load(Ordering::Acquire)
    }

    /// Waits for the end of one of the jobs, for ever without any.
    pub(super) async fn finished(jobs: &mut Vec<Self>) -> FinishedImage {
        std::future::poll_fn(|context| {
            for (at, job) in jobs.iter_mut().enumerate() {
                if let Poll::Ready(result) = Pin::new(&mut job.result).poll(context) {
                    let job = jobs.swap_remove(at);
                    let valid = job.valid.load(Ordering::Acquire);
                    return Poll::Ready(FinishedImage {
                        result: result.ok(),
                        valid,
                    });
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for ImageJob {
    fn drop(&mut self) {
        self.valid.store(false, Ordering::Release);
    }
}

impl Database {
    /// Starts to read the database for a replica that waits, or for its page table.
    pub(super) async fn start_image(&mut self, permit: SemaphorePermit<'static>) {
        let above = self.pending.above();
        let request = self.pending.take();
        let known = self.capture.as_ref().is_some_and(|c| c.has_table());
        let being_made = self.images.iter().any(ImageJob::will_make_table);
        let makes_table = !known && !being_made;
        if request.is_none() && !makes_table {
            return;
        }
        let since = match &request {
            Some(request) if request.content == Content::Changes => Some(request.above),
            _ => None,
        };
        // A table is made of all pages.
        let since = since.filter(|_| !makes_table);
        let image = self
            .with_capture(move |capture| {
                capture.raise_floor(above);
                let table = makes_table.then(|| capture.state.table_path());
                capture.begin_image(since).map(|image| (image, table))
            })
            .await;
        self.publish();
        let (image, table) = match image {
            Ok(started) => started,
            Err(CaptureError::Discontinuity(reason)) => return self.reattach(&reason).await,
            // The reply is dropped, and the replica asks again.
            Err(CaptureError::Failed(Error::NoDatabase(_))) => return,
            Err(CaptureError::Failed(error)) => {
                self.failed(&error).await;
                return;
            }
        };
        let receivers = request.map(|request| send_image(request, &image));
        let valid = Arc::new(AtomicBool::new(true));
        let job = Reader {
            output: ChunkWriter::new(receivers.into_iter().flatten().collect()),
            disk: Arc::clone(&self.config.disk),
            table,
            valid: Arc::clone(&valid),
        };
        let (done, result) = oneshot::channel();
        self.engine.spawn_blocking(move || {
            let _permit = permit;
            // Nobody waits any more when the database's task has ended.
            let _ = done.send(job.run(image));
        });
        self.images.push(ImageJob {
            result,
            makes_table,
            valid,
        });
    }

    /// Uses the page table that the job made, and goes on with normal locks.
    pub(super) async fn finish_image(&mut self, finished: FinishedImage) {
        let FinishedImage { result, valid } = finished;
        let Some((image, table)) = result else {
            return self
                .reattach("reading the database ended unexpectedly")
                .await;
        };
        let table = table.unwrap_or_else(|error| {
            let path = self.config.path.display();
            tracing::warn!(database = %path, error = describe(&error), "cannot read the database");
            None
        });
        let ended = self.with_capture(move |capture| match valid {
            true => capture.end_image(&image, table),
            false => Ok(()),
        });
        if let Err(error) = ended.await {
            self.failed(&error).await;
            return;
        }
        self.look(Due::Now).await;
    }

    /// The locks are gone: what is being read is not consistent any more.
    pub(super) fn give_up_images(&mut self) {
        for job in &self.images {
            job.valid.store(false, Ordering::Release);
        }
    }
}

/// Tells the replica what comes, and where to write it to, if it still waits.
fn send_image(
    request: ImageRequest,
    image: &Image,
) -> Option<tokio::sync::mpsc::Sender<crate::replica::Piece>> {
    let (sender, stream) = chunks();
    let snapshot = Snapshot {
        name: image.header.name(),
        created: capture::created(&image.header),
        stream,
    };
    request.reply.send(snapshot).is_ok().then_some(sender)
}

/// Reads an image once, for the page table and a receiver.
struct Reader {
    output: ChunkWriter,
    disk: Arc<dyn Disk>,
    /// Where to build the page table, if it is needed.
    table: Option<PathBuf>,
    valid: Arc<AtomicBool>,
}

impl Reader {
    fn run(mut self, image: Image) -> ImageResult {
        let result = self.read(&image);
        if let Err(error) = &result {
            self.output.fail(&describe(error));
        }
        (image, result)
    }

    fn read(&mut self, image: &Image) -> Result<Option<PageTable>, Error> {
        let mut table = match &self.table {
            Some(path) => Some(TableBuilder::new(self.disk.as_ref(), path.clone())?),
            None => None,
        };
        let ltx = |source| Error::Ltx {
            path: PathBuf::from("snapshot"),
            source,
        };
        let mut encoder = Encoder::new(&mut self.output, image.header.clone()).map_err(ltx)?;
        let valid = &self.valid;
        image.for_each_page(|pgno, page| {
            if !valid.load(Ordering::Acquire) {
                return Err(ReadError::Invalid);
            }
            if table.is_none() && !encoder.get_ref().has_receivers() {
                return Err(ReadError::Unwanted);
            }
            if let Some(table) = &mut table {
                let entry = PageEntry {
                    checksum: Checksum::page(pgno, page).get(),
                    changed: image.txid(),
                };
                table.push(pgno.get(), entry)?;
            }
            encoder
                .encode_page(pgno, page)
                .map_err(|source| ReadError::Failed(ltx(source)))
        })?;
        // The end is written last: without it no replica accepts the object.
        let table = table
            .map(|table| table.finish(image.header.commit))
            .transpose()?;
        if !valid.load(Ordering::Acquire) {
            return Err(ReadError::Invalid.into());
        }
        encoder.finish().map_err(ltx)?;
        self.output.finish();
        Ok(table)
    }
}

enum ReadError {
    Io(io::Error),
    Failed(Error),
    Invalid,
    Unwanted,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        let path = PathBuf::from("snapshot");
        let unsupported = |reason: &str| Self::Unsupported {
            path: PathBuf::from("snapshot"),
            reason: reason.into(),
        };
        match error {
            ReadError::Io(source) => Self::Io {
                path,
                action: "read the database for a",
                source,
            },
            ReadError::Failed(error) => error,
            ReadError::Invalid => unsupported("the database was closed or replaced meanwhile"),
            ReadError::Unwanted => unsupported("no replica waits for it any more"),
        }
    }
}

/// Builds a page table in ascending order.
struct TableBuilder {
    table: PageTable,
    path: PathBuf,
    first: u32,
    batch: Vec<PageEntry>,
}

impl TableBuilder {
    fn new(disk: &dyn Disk, path: PathBuf) -> Result<Self, Error> {
        match PageTable::create(disk, &path) {
            Ok(table) => Ok(Self {
                table,
                path,
                first: 1,
                batch: Vec::with_capacity(TABLE_BATCH),
            }),
            Err(source) => Err(Error::Io {
                path,
                action: "create",
                source,
            }),
        }
    }

    fn push(&mut self, pgno: u32, entry: PageEntry) -> Result<(), Error> {
        // The lock page is passed over, and counts zero.
        while self.first + (self.batch.len() as u32) < pgno {
            self.batch.push(PageEntry::default());
        }
        self.batch.push(entry);
        if self.batch.len() >= TABLE_BATCH {
            self.write()
        } else {
            Ok(())
        }
    }

    fn write(&mut self) -> Result<(), Error> {
        let written = self.table.write_entries(self.first, &self.batch);
        written.map_err(|source| Error::Io {
            path: self.path.clone(),
            action: "write",
            source,
        })?;
        self.first += self.batch.len() as u32;
        self.batch.clear();
        Ok(())
    }

    fn finish(mut self, pages: u32) -> Result<PageTable, Error> {
        while self.first + (self.batch.len() as u32) <= pages {
            self.batch.push(PageEntry::default());
        }
        self.write()?;
        Ok(self.table)
    }
}

#[cfg(test)]
mod tests {
    use evertide_storage::OsDisk;

    use super::*;

    #[test]
    fn pages_that_are_passed_over_count_zero() {
        let dir = tempfile::tempdir().unwrap();
        let entry = |page: u64| PageEntry {
            checksum: page,
            changed: Txid::new(page),
        };
        let mut table = TableBuilder::new(&OsDisk, dir.path().join("pages")).unwrap();
        for page in [1, 2, 4] {
            table.push(page, entry(page.into())).unwrap();
        }
        let table = table.finish(5).unwrap();
        let mut found = Vec::new();
        let all = table.read_entries(1, 5, |_, entry| found.push(entry));
        assert!(all.unwrap());
        let none = PageEntry::default();
        assert_eq!(found, [entry(1), entry(2), none, entry(4), none]);
    }
}

//! Whole databases on their way to replicas: one read serves every replica that waits.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use evertide_ltx::{Checksum, Encoder, Txid};
use evertide_storage::Disk;
use tokio::{
    sync::{SemaphorePermit, oneshot},
    time::Instant,
};

use super::{Database, Snapshot};
use crate::{
    Error, capture,
    capture::{CaptureError, Due, Image},
    error::describe,
    replica::{ChunkWriter, chunks},
    state::PageTable,
};

/// How long a first request waits for the other replicas, so that one read serves all.
const GATHER: Duration = Duration::from_millis(100);
/// Page checksums written to the table at once.
const TABLE_BATCH: usize = 8_192;

/// Replicas that wait for a snapshot.
#[derive(Debug, Default)]
pub(super) struct PendingSnapshots {
    requests: Vec<(Txid, oneshot::Sender<Snapshot>)>,
    since: Option<Instant>,
}

impl PendingSnapshots {
    /// Reads the database even if no replica waits: its page checksums are needed.
    pub(super) fn want_table(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    pub(super) fn add(&mut self, above: Txid, reply: oneshot::Sender<Snapshot>) {
        self.requests.push((above, reply));
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

    fn take(&mut self) -> Vec<(Txid, oneshot::Sender<Snapshot>)> {
        self.since = None;
        std::mem::take(&mut self.requests)
    }
}

/// An image being read on a blocking thread.
#[derive(Debug)]
pub(super) struct ImageJob {
    /// What came of it; an error if the thread panicked.
    result: oneshot::Receiver<ImageResult>,
    /// Cleared when the locks that keep the image consistent are gone.
    valid: Arc<AtomicBool>,
}

pub(super) type ImageResult = (Image, Result<Option<PageTable>, Error>);

impl ImageJob {
    /// Waits for the end of the job, for ever without one.
    pub(super) async fn finished(job: &mut Option<Self>) -> Option<ImageResult> {
        match job {
            Some(job) => (&mut job.result).await.ok(),
            None => std::future::pending().await,
        }
    }
}

impl Drop for ImageJob {
    fn drop(&mut self) {
        self.valid.store(false, Ordering::Release);
    }
}

impl Database {
    /// Starts to read the database for the replicas that wait.
    pub(super) async fn start_image(&mut self, permit: SemaphorePermit<'static>) {
        let requests = self.snapshots.take();
        let table_wanted = self
            .capture
            .as_ref()
            .is_some_and(|capture| !capture.has_table());
        if requests.is_empty() && !table_wanted {
            return;
        }
        let above = requests
            .iter()
            .map(|(above, _)| *above)
            .max()
            .unwrap_or_default();
        let image = self
            .with_capture(move |capture| {
                capture.raise_floor(above);
                let table = (!capture.has_table()).then(|| capture.state.table_path());
                capture.begin_image().map(|image| (image, table))
            })
            .await;
        self.publish();
        let (image, table) = match image {
            Ok(started) => started,
            Err(CaptureError::Discontinuity(reason)) => return self.reattach(&reason).await,
            // The replies are dropped, and the replicas ask again.
            Err(CaptureError::Failed(Error::NoDatabase(_))) => return,
            Err(CaptureError::Failed(error)) => {
                self.failed(&error).await;
                return;
            }
        };
        let (name, created) = (image.header.name(), capture::created(&image.header));
        let mut receivers = Vec::new();
        for (_, reply) in requests {
            let (sender, stream) = chunks();
            if reply
                .send(Snapshot {
                    name,
                    created,
                    stream,
                })
                .is_ok()
            {
                receivers.push(sender);
            }
        }
        let valid = Arc::new(AtomicBool::new(true));
        let job = Reader {
            output: ChunkWriter::new(receivers),
            disk: Arc::clone(&self.config.disk),
            table,
            valid: Arc::clone(&valid),
        };
        let (done, result) = oneshot::channel();
        self.engine.handle().spawn_blocking(move || {
            let _permit = permit;
            // Nobody waits any more when the database's task has ended.
            let _ = done.send(job.run(image));
        });
        self.image = Some(ImageJob { result, valid });
    }

    /// Uses the page table that the job made, and goes on with normal locks.
    pub(super) async fn finish_image(&mut self, result: Option<ImageResult>) {
        let Some(job) = self.image.take() else { return };
        let valid = job.valid.load(Ordering::Acquire);
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
        if let Some(job) = &self.image {
            job.valid.store(false, Ordering::Release);
        }
    }
}

/// Reads an image once, for the page table and every receiver.
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
                table.push(pgno.get(), Checksum::page(pgno, page).get())?;
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
    batch: Vec<u64>,
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

    fn push(&mut self, pgno: u32, checksum: u64) -> Result<(), Error> {
        // The lock page is passed over, and counts zero.
        while self.first + (self.batch.len() as u32) < pgno {
            self.batch.push(0);
        }
        self.batch.push(checksum);
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
            self.batch.push(0);
        }
        self.write()?;
        Ok(self.table)
    }
}

//! Turning LTX files into a database: one thread takes them in order, others decode.

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
    thread,
};

use bytes::{Buf, Bytes};
use evertide_ltx::{BatchReader, Header, PageSize, Txid};
use evertide_storage::{DiskFile, LtxObject};
use tokio::sync::mpsc;

use super::{
    Finish, IntegrityCheck, RestoreError, RestoreStage,
    check::check,
    coverage::Missing,
    fetch::Message,
    output::Output,
    progress::Meter,
    workers::{self, Done, Problem, Workers},
};

/// Files below this many bytes are not worth the threads.
const SMALL: u64 = 2 << 20;
/// The bytes that a page takes in a file at least: its number, flags and size, and some content.
const LEAST_FRAME: u64 = 10;
/// More threads only wait for the file system.
const THREADS: usize = 4;

/// What the thread needs to know.
pub(super) struct Apply {
    pub(super) output: Arc<Output>,
    pub(super) location: String,
    pub(super) integrity_check: IntegrityCheck,
    pub(super) finish: Option<Finish>,
    pub(super) files: mpsc::Receiver<Message>,
    pub(super) meter: Meter,
}

/// What has been restored.
pub(super) struct Applied {
    pub(super) txid: Txid,
    /// When that was captured, as the header of the last file says, in milliseconds since the epoch.
    pub(super) timestamp_ms: Option<i64>,
    pub(super) page_size: PageSize,
    /// The size of the database, in pages.
    pub(super) pages: u32,
    pub(super) meter: Meter,
}

impl Applied {
    /// What was restored of a replica that Litestream 0.3 wrote, which knows no transaction IDs.
    pub(super) fn of_v3(page_size: PageSize, pages: u32, meter: Meter) -> Self {
        Self {
            txid: Txid::ZERO,
            timestamp_ms: None,
            page_size,
            pages,
            meter,
        }
    }
}

impl Apply {
    /// Applies all files, makes the result durable, has it checked and gives it its name.
    pub(super) fn run(self) -> Result<Applied, RestoreError> {
        let output = Arc::clone(&self.output);
        let result = self.write_and_publish();
        if result.is_err() {
            output.cancel();
        }
        result
    }

    fn write_and_publish(self) -> Result<Applied, RestoreError> {
        let (output, how) = (Arc::clone(&self.output), self.integrity_check);
        let finish = self.finish;
        let file = output.create()?;
        let path = output.temporary()?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let applied = thread::scope(|scope| {
            let workers = Workers::start(scope, cores.clamp(1, THREADS), &*file);
            let database = Database {
                file: &*file,
                path: &path,
                location: self.location,
                workers: workers.map_err(RestoreError::Start)?,
                meter: self.meter,
                scratch: Vec::new(),
                page_size: None,
                missing: Missing::default(),
                txid: Txid::ZERO,
                timestamp_ms: None,
            };
            database.apply_all(self.files)
        })?;
        if let Some(finish) = finish {
            finish(&*file, (applied.txid, applied.page_size, applied.pages))?;
        }
        complete(&output, file, how, applied)
    }
}

/// Makes a written database durable, has it checked and gives it its name.
pub(super) fn complete(
    output: &Output,
    file: Box<dyn DiskFile>,
    how: IntegrityCheck,
    mut applied: Applied,
) -> Result<Applied, RestoreError> {
    applied.meter.stage(RestoreStage::Syncing);
    let path = output.temporary()?;
    file.sync_all().map_err(RestoreError::io("sync", &path))?;
    if how != IntegrityCheck::None {
        applied.meter.stage(RestoreStage::Checking);
        check(output, how)?;
    }
    output.publish(file)?;
    Ok(applied)
}

/// The database that is being put together.
struct Database<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    location: String,
    workers: Workers,
    meter: Meter,
    scratch: Vec<u8>,
    page_size: Option<PageSize>,
    missing: Missing,
    txid: Txid,
    timestamp_ms: Option<i64>,
}

impl Database<'_> {
    fn apply_all(mut self, mut files: mpsc::Receiver<Message>) -> Result<Applied, RestoreError> {
        loop {
            match files.blocking_recv() {
                Some(Message::Begin(object)) => self.apply(&object, &mut files)?,
                Some(Message::Finish) => break,
                Some(Message::Data(_) | Message::End | Message::Abandon) => {}
                None => return Err(RestoreError::Cancelled),
            }
        }
        self.finish()
    }

    fn apply(
        &mut self,
        object: &LtxObject,
        files: &mut mpsc::Receiver<Message>,
    ) -> Result<(), RestoreError> {
        let mut feed = Feed::new(files);
        let result = self.write(object, &mut feed);
        // Nothing of this file may be written any more when the next one is.
        self.workers.wait(&mut Done::default());
        match (result, feed.end) {
            (Ok(()), _) => {
                self.txid = object.name.max;
                self.meter.file_done(object.size);
                Ok(())
            }
            (Err(_), End::Abandoned) => Ok(()),
            (Err(_), End::SenderGone) => Err(RestoreError::Cancelled),
            (Err(problem), _) => Err(self.describe(object, problem)),
        }
    }

    /// Writes the pages of one file, and verifies it.
    fn write(&mut self, object: &LtxObject, feed: &mut Feed<'_, LtxObject>) -> Result<(), Problem> {
        let mut reader = BatchReader::new(feed)?;
        let header = reader.header().clone();
        self.prepare(&header, object)?;
        self.timestamp_ms = Some(header.timestamp_ms);
        let mut done = Done::default();
        loop {
            let mut batch = self.workers.batch(&mut done);
            let more = match reader.next(&mut batch) {
                Ok(more) => more,
                Err(error) => {
                    // Another file may follow, which needs it.
                    self.workers.give_back(batch);
                    return Err(error.into());
                }
            };
            if !header.is_snapshot() {
                batch.pages().for_each(|pgno| self.missing.fill(pgno));
            }
            let size = header.page_size;
            if !more {
                self.workers.give_back(batch);
                self.workers.wait(&mut done);
            } else if object.size < SMALL {
                done.add(workers::write(&batch, size, &mut self.scratch, self.file));
                self.workers.give_back(batch);
            } else {
                self.workers.submit(batch, size);
            }
            done.failure()?;
            self.meter.advance(reader.offset(), done.new_pages());
            if !more {
                reader.finish(done.into_decoded())?;
                return Ok(());
            }
        }
    }

    /// Makes sure that the file is what the plan takes it for, and gives the database its size.
    fn prepare(&mut self, header: &Header, object: &LtxObject) -> Result<(), Problem> {
        if header.name() != object.name {
            let reason = format!("its header says that it is {}", header.name());
            return Err(Problem::Misplaced(reason));
        }
        let page_size = *self.page_size.get_or_insert(header.page_size);
        if page_size != header.page_size {
            let found = header.page_size;
            let reason = format!("its pages have {found} bytes, those before it {page_size}");
            return Err(Problem::Misplaced(reason));
        }
        if header.is_snapshot() && u64::from(header.commit) * LEAST_FRAME > object.size {
            // Space for a size that is damaged would be all the disk has.
            let what = "it claims more pages than the file has room for";
            return Err(Problem::Ltx(evertide_ltx::Error::BadHeader(what)));
        }
        let (before, length) = (self.missing.size(), length(header.commit, page_size));
        if header.is_snapshot() && before == 0 {
            // Also says early that the disk is too small.
            self.file.allocate(length).map_err(Problem::Write)?;
        } else if header.commit < before {
            self.file.set_len(length).map_err(Problem::Write)?;
        }
        if header.is_snapshot() {
            self.missing.replace(header.commit);
        } else {
            self.missing.resize(header.commit, page_size);
        }
        Ok(())
    }

    fn describe(&self, object: &LtxObject, problem: Problem) -> RestoreError {
        let (location, name) = (self.location.clone(), object.name);
        match problem {
            Problem::Ltx(source) => RestoreError::Damaged {
                location,
                name,
                source,
            },
            Problem::Misplaced(reason) => RestoreError::Misplaced {
                location,
                name,
                reason,
            },
            Problem::Write(source) => RestoreError::io("write", self.path)(source),
        }
    }

    /// Makes the file exactly as long as the database, and sure that nothing is missing in it.
    fn finish(self) -> Result<Applied, RestoreError> {
        let Some(page_size) = self.page_size else {
            return Err(RestoreError::Cancelled);
        };
        if let Some(page) = self.missing.first() {
            let (location, txid) = (self.location, self.txid);
            return Err(RestoreError::Incomplete {
                location,
                page,
                txid,
            });
        }
        let length = length(self.missing.size(), page_size);
        self.file
            .set_len(length)
            .map_err(RestoreError::io("set the length of", self.path))?;
        let found = self
            .file
            .len()
            .map_err(RestoreError::io("look at", self.path))?;
        if found != length {
            let source = io::Error::other(format!("{found} bytes where {length} were written"));
            return Err(RestoreError::io("write", self.path)(source));
        }
        Ok(Applied {
            txid: self.txid,
            timestamp_ms: self.timestamp_ms,
            page_size,
            pages: self.missing.size(),
            meter: self.meter,
        })
    }
}

/// The length of a database in bytes.
pub(super) fn length(pages: u32, page_size: PageSize) -> u64 {
    u64::from(pages) * u64::from(page_size.get())
}

/// The bytes of one file, as they arrive.
pub(crate) struct Feed<'a, F> {
    files: &'a mut mpsc::Receiver<Message<F>>,
    chunk: Bytes,
    end: End,
}

/// How the bytes of a file ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    NotYet,
    Complete,
    Abandoned,
    SenderGone,
}

impl<'a, F> Feed<'a, F> {
    pub(crate) fn new(files: &'a mut mpsc::Receiver<Message<F>>) -> Self {
        Self {
            files,
            chunk: Bytes::new(),
            end: End::NotYet,
        }
    }

    /// How the file that was read has ended.
    pub(super) fn end(&self) -> End {
        self.end
    }
}

impl<F> Read for Feed<'_, F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && self.end == End::NotYet {
            match self.files.blocking_recv() {
                Some(Message::Data(chunk)) => self.chunk = chunk,
                Some(Message::End | Message::Begin(_) | Message::Finish) => {
                    self.end = End::Complete;
                }
                Some(Message::Abandon) => self.end = End::Abandoned,
                None => self.end = End::SenderGone,
            }
        }
        if self.chunk.is_empty() && self.end != End::Complete {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let len = self.chunk.len().min(out.len());
        let (out, _) = out.split_at_mut(len);
        self.chunk.copy_to_slice(out);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::channel,
        time::{Duration, SystemTime},
    };

    use evertide_ltx::{Encoder, Level, LtxName, Pgno};
    use evertide_storage::{Disk, OsDisk};

    use super::*;
    use crate::restore::{ExistingOutput, RestoreTarget, plan::plan};

    const PAGES: u32 = 20;

    fn page(number: u32) -> Vec<u8> {
        let mut page = vec![0; PageSize::MAX.len()];
        fastrand::Rng::with_seed(number.into()).fill(&mut page);
        page
    }

    fn snapshot() -> (LtxObject, Bytes) {
        let header = Header::new(PageSize::MAX, PAGES, Txid::FIRST, Txid::FIRST);
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        for number in 1..=PAGES {
            let pgno = Pgno::new(number).unwrap();
            encoder.encode_page(pgno, &page(number)).unwrap();
        }
        let (content, _) = encoder.finish().unwrap();
        let object = LtxObject {
            level: Level::SNAPSHOT,
            name: LtxName::new(Txid::FIRST, Txid::FIRST),
            size: content.len() as u64,
            created: SystemTime::UNIX_EPOCH,
        };
        (object, content.into())
    }

    fn apply(path: &Path, object: &LtxObject, files: mpsc::Receiver<Message>) -> Apply {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let output = Output::new(disk, path.into(), ExistingOutput::Refuse, 0o600);
        let plan = plan(std::slice::from_ref(object), RestoreTarget::Latest).unwrap();
        Apply {
            output: Arc::new(output),
            location: "there".to_owned(),
            integrity_check: IntegrityCheck::None,
            finish: None,
            files,
            meter: Meter::new(&plan, None),
        }
    }

    #[test]
    fn a_restore_does_not_hang_however_many_files_vanish_half_read() {
        let (object, content) = snapshot();
        let (sender, files) = mpsc::channel(100);
        let send = |message| sender.try_send(message).unwrap();
        // More often than there are batches to fill.
        for _ in 0..2 * THREADS + 2 {
            send(Message::Begin(object.clone()));
            send(Message::Data(content.slice(..content.len() / 2)));
            send(Message::Abandon);
        }
        send(Message::Begin(object.clone()));
        send(Message::Data(content));
        send(Message::End);
        send(Message::Finish);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("restored.db");
        let restore = apply(&path, &object, files);
        let (report, ended) = channel();
        thread::spawn(move || report.send(restore.run().map(|applied| applied.txid)));
        let txid = ended
            .recv_timeout(Duration::from_secs(60))
            .expect("the restore ends");
        assert_eq!(txid.unwrap(), Txid::FIRST);
        let expected: Vec<u8> = (1..=PAGES).flat_map(page).collect();
        let mut found = vec![0; expected.len()];
        let file = OsDisk.open_read(&path).unwrap();
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == expected, "another content");
    }
}

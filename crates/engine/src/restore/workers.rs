//! Threads that decode batches of pages and write them.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use evertide_ltx::{Batch, Decoded, Error as LtxError, PageSize};
use evertide_storage::DiskFile;

/// The threads of one restore.
pub(super) struct Workers {
    jobs: SyncSender<Job>,
    results: Receiver<(Batch, Outcome)>,
    under_way: usize,
    /// Batches that can be filled again.
    spare: Vec<Batch>,
}

struct Job {
    batch: Batch,
    page_size: PageSize,
}

/// What can be wrong with a file on its way into the database.
#[derive(Debug)]
pub(super) enum Problem {
    /// It is damaged.
    Ltx(LtxError),
    /// It is not the file that was planned.
    Misplaced(String),
    /// The disk refused.
    Write(io::Error),
}

impl From<LtxError> for Problem {
    fn from(error: LtxError) -> Self {
        Self::Ltx(error)
    }
}

/// What became of a batch.
type Outcome = Result<Decoded, Problem>;

impl Workers {
    /// Starts so many threads, which end when this is dropped.
    pub(super) fn start<'scope>(
        scope: &'scope thread::Scope<'scope, '_>,
        threads: usize,
        file: &'scope dyn DiskFile,
    ) -> io::Result<Self> {
        // Each thread has one batch at hand and one to go on with.
        let (jobs, receiver) = sync_channel::<Job>(threads);
        let receiver = Arc::new(Mutex::new(receiver));
        let (sender, results) = channel();
        for _ in 0..threads {
            let (receiver, sender) = (Arc::clone(&receiver), sender.clone());
            thread::Builder::new()
                .name("evertide-decode".into())
                .spawn_scoped(scope, move || work(&receiver, &sender, file))?;
        }
        let spare = (0..2 * threads + 1).map(|_| Batch::default()).collect();
        Ok(Self {
            jobs,
            results,
            under_way: 0,
            spare,
        })
    }

    /// A batch to fill; waits for one where all are under way.
    pub(super) fn batch(&mut self, done: &mut Done) -> Batch {
        loop {
            while let Ok(result) = self.results.try_recv() {
                self.take(result, done);
            }
            if let Some(batch) = self.spare.pop() {
                return batch;
            }
            match self.results.recv() {
                Ok(result) => self.take(result, done),
                // All threads have panicked; so will whoever joins them.
                Err(_) => return Batch::default(),
            }
        }
    }

    /// Gives back a batch that was not needed.
    pub(super) fn give_back(&mut self, batch: Batch) {
        self.spare.push(batch);
    }

    /// Has a batch decoded and written.
    pub(super) fn submit(&mut self, batch: Batch, page_size: PageSize) {
        if self.jobs.send(Job { batch, page_size }).is_ok() {
            self.under_way += 1;
        }
    }

    /// Waits for all batches that are under way.
    pub(super) fn wait(&mut self, done: &mut Done) {
        while self.under_way > 0 {
            match self.results.recv() {
                Ok(result) => self.take(result, done),
                Err(_) => break,
            }
        }
    }

    fn take(&mut self, (batch, result): (Batch, Outcome), done: &mut Done) {
        self.under_way -= 1;
        self.spare.push(batch);
        done.add(result);
    }
}

/// What has become of the batches of one file.
#[derive(Debug, Default)]
pub(super) struct Done {
    decoded: Vec<Decoded>,
    new_pages: u64,
    failure: Option<Problem>,
}

impl Done {
    /// The first failure, if there was one.
    pub(super) fn failure(&mut self) -> Result<(), Problem> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// How many pages have been written since this was asked last.
    pub(super) fn new_pages(&mut self) -> u64 {
        std::mem::take(&mut self.new_pages)
    }

    pub(super) fn add(&mut self, outcome: Outcome) {
        match outcome {
            Ok(decoded) => {
                self.new_pages += u64::from(decoded.pages());
                self.decoded.push(decoded);
            }
            Err(failure) => drop(self.failure.get_or_insert(failure)),
        }
    }

    pub(super) fn into_decoded(self) -> Vec<Decoded> {
        self.decoded
    }
}

fn work(jobs: &Mutex<Receiver<Job>>, results: &Sender<(Batch, Outcome)>, file: &dyn DiskFile) {
    let mut scratch = Vec::new();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { batch, page_size }) = job else {
            return;
        };
        let result = write(&batch, page_size, &mut scratch, file);
        if results.send((batch, result)).is_err() {
            return;
        }
    }
}

/// Decodes a batch, and writes its pages to where they belong.
pub(super) fn write(
    batch: &Batch,
    page_size: PageSize,
    scratch: &mut Vec<u8>,
    file: &dyn DiskFile,
) -> Outcome {
    batch.decode(scratch, |first, pages| {
        file.write_at(pages, first.offset(page_size))
            .map_err(Problem::Write)
    })
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::BorrowedFd,
        sync::{Condvar, Mutex},
        time::{Duration, SystemTime},
    };

    use evertide_ltx::{BatchReader, Encoder, Header, Pgno, Txid};
    use evertide_storage::{Disk, Metadata, OsDisk};

    use super::*;

    const THREADS: usize = 3;

    /// A file into which nothing is written before so many threads want to.
    #[derive(Debug)]
    struct Meeting {
        file: Box<dyn DiskFile>,
        waiting: Mutex<usize>,
        all_there: Condvar,
    }

    impl DiskFile for Meeting {
        fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            let mut waiting = self.waiting.lock().unwrap();
            *waiting += 1;
            self.all_there.notify_all();
            let patience = Duration::from_secs(60);
            let missing = |waiting: &mut usize| *waiting < THREADS;
            let waited = self
                .all_there
                .wait_timeout_while(waiting, patience, missing);
            let (waiting, waited) = waited.unwrap();
            if waited.timed_out() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            drop(waiting);
            self.file.write_at(bytes, offset)
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            self.file.read_at(buffer, offset)
        }

        fn metadata(&self) -> io::Result<Metadata> {
            self.file.metadata()
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }

        fn allocate(&self, len: u64) -> io::Result<()> {
            self.file.allocate(len)
        }

        fn sync_all(&self) -> io::Result<()> {
            self.file.sync_all()
        }

        fn sync_data(&self) -> io::Result<()> {
            self.file.sync_data()
        }

        fn set_modified(&self, time: SystemTime) -> io::Result<()> {
            self.file.set_modified(time)
        }

        fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
            self.file.set_owner(uid, gid)
        }

        fn as_fd(&self) -> BorrowedFd<'_> {
            self.file.as_fd()
        }
    }

    #[test]
    fn several_batches_are_decoded_and_written_at_the_same_time() {
        let page_size = PageSize::MAX;
        let pages = 40 * THREADS as u32;
        let header = Header::new(page_size, pages, Txid::FIRST, Txid::FIRST);
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        let page = |number: u32| vec![number as u8; page_size.len()];
        for number in 1..=pages {
            let pgno = Pgno::new(number).unwrap();
            encoder.encode_page(pgno, &page(number)).unwrap();
        }
        let (encoded, _) = encoder.finish().unwrap();

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("restored.db");
        let file = Meeting {
            file: OsDisk.create_new(&path, 0o600).unwrap(),
            waiting: Mutex::new(0),
            all_there: Condvar::new(),
        };
        thread::scope(|scope| {
            let mut done = Done::default();
            let mut workers = Workers::start(scope, THREADS, &file).unwrap();
            let mut reader = BatchReader::new(&encoded[..]).unwrap();
            let mut batches = 0;
            loop {
                let mut batch = workers.batch(&mut done);
                if !reader.next(&mut batch).unwrap() {
                    break;
                }
                workers.submit(batch, page_size);
                batches += 1;
            }
            assert!(batches >= THREADS, "{batches} batches");
            workers.wait(&mut done);
            done.failure().unwrap();
            reader.finish(done.into_decoded()).unwrap();
        });
        for number in 1..=pages {
            let mut found = page(0);
            let offset = Pgno::new(number).unwrap().offset(page_size);
            file.read_exact_at(&mut found, offset).unwrap();
            assert!(found == page(number), "page {number}");
        }
    }
}

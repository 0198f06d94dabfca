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

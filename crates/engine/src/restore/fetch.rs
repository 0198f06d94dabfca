//! Reading the files of a plan: several parts at a time, handed on in order.
//!
//! A file larger than a part is read in ranges, so that one large snapshot uses the connections
//! that many small files would. A part that breaks off goes on where it stopped. What waits in
//! memory is bounded by [`Ahead`], however many requests are made at a time.

use std::{collections::VecDeque, io, iter::Peekable, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use evertide_ltx::{Level, Txid};
use evertide_storage::{ByteStream, Error as StoreError, LtxObject, ReplicaClient, V3Object};
use futures_util::{StreamExt, future::try_join_all};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    RestoreError, RestorePlan, RestoreTarget,
    plan::{extend, plan},
};
use crate::backoff;

/// A file of a replica that is read in parts.
pub(crate) trait Remote: Clone + Send + Sync + 'static {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Its name, for errors.
    fn title(&self) -> String;

    /// Its content, or a range of it.
    fn open(
        &self,
        client: &dyn ReplicaClient,
        range: Option<Range<u64>>,
    ) -> impl Future<Output = Result<ByteStream, StoreError>> + Send;
}

impl Remote for LtxObject {
    fn size(&self) -> u64 {
        self.size
    }

    fn title(&self) -> String {
        self.name.to_string()
    }

    async fn open(
        &self,
        client: &dyn ReplicaClient,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, StoreError> {
        client.get(self.level, self.name, range).await
    }
}

impl Remote for V3Object {
    fn size(&self) -> u64 {
        self.size
    }

    fn title(&self) -> String {
        self.key.to_string()
    }

    async fn open(
        &self,
        client: &dyn ReplicaClient,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, StoreError> {
        client.get_v3(&self.key, range).await
    }
}

/// The most that parts under way hold together, in bytes.
const IN_FLIGHT: u64 = 48 << 20;
/// The sizes a part may have, in bytes. With the smallest one, the 256 requests at a time that a user may ask
/// for are well within what may be held.
const PART: (u64, u64) = (128 << 10, 4 << 20);
/// Failures in a row after which a part is given up.
const FAILURES: u32 = 5;
/// After the first failure, and twice as long after each other one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often the files of a plan may vanish, without progress in between.
const PLANS: u32 = 3;

/// What the thread that applies the files receives.
#[derive(Debug)]
pub(crate) enum Message<F = LtxObject> {
    /// A file begins.
    Begin(F),
    /// Some bytes of it.
    Data(Bytes),
    /// That was all of it.
    End,
    /// The file is gone in the middle of it; another one follows in its place.
    Abandon,
    /// That were all files.
    Finish,
}

/// Why the files cannot be handed on.
pub(crate) enum Stopped {
    /// Reading them failed.
    Failed(RestoreError),
    /// The receiver has gone, and knows why.
    Receiver,
}

impl From<RestoreError> for Stopped {
    fn from(error: RestoreError) -> Self {
        Self::Failed(error)
    }
}

/// All LTX files of a replica, level by level; their times are exact where the target needs that.
pub(crate) async fn listing(
    client: &dyn ReplicaClient,
    target: RestoreTarget,
) -> Result<Vec<LtxObject>, RestoreError> {
    let levels = Level::all().map(|level| match target {
        RestoreTarget::Timestamp(_) => client.list_dated(level, None),
        RestoreTarget::Latest | RestoreTarget::Txid(_) => client.list(level, None),
    });
    let levels = try_join_all(levels).await?;
    Ok(levels.into_iter().flatten().collect())
}

/// Reads the files of a plan and sends them. Makes a new plan where files vanish meanwhile, since
/// compaction and retention go on while a restore runs.
pub(super) struct Fetcher {
    pub(super) client: Arc<dyn ReplicaClient>,
    pub(super) target: RestoreTarget,
    pub(super) parallelism: usize,
    pub(super) sender: mpsc::Sender<Message>,
}

impl Fetcher {
    /// Returns the transaction that the files sent lead to.
    pub(super) async fn run(self, plan: &RestorePlan) -> Result<Txid, Stopped> {
        let mut files = plan.files().to_vec();
        let (mut position, mut plans) = (Txid::ZERO, 0);
        loop {
            let (before, mut sent) = (position, 0);
            let done = send_all(
                &self.client,
                self.parallelism,
                &self.sender,
                &files,
                &mut sent,
            );
            let done = done.await;
            if let Some(last) = sent.checked_sub(1).and_then(|last| files.get(last)) {
                position = last.name.max;
            }
            let gone = match done {
                Ok(()) => break,
                Err(Trouble::Gone(gone)) => gone,
                Err(Trouble::Stopped(stopped)) => return Err(stopped),
            };
            plans = if position > before { 1 } else { plans + 1 };
            if plans > PLANS {
                let (location, file) = (self.client.location(), gone.title());
                return Err(RestoreError::Vanished { location, file }.into());
            }
            let wanted = files.last().map_or(Txid::ZERO, |file| file.name.max);
            files = self.replan(position, wanted, &gone).await?;
            tracing::info!(file = %gone.name, "a file was deleted while it was restored; going on");
        }
        send(&self.sender, Message::Finish).await?;
        Ok(position)
    }

    /// The files that lead on from `position`, as the replica is now.
    ///
    /// Pages of the lost file may have been applied already. Whatever leads beyond its last
    /// transaction brings them again.
    async fn replan(
        &self,
        position: Txid,
        wanted: Txid,
        gone: &LtxObject,
    ) -> Result<Vec<LtxObject>, RestoreError> {
        let listing = listing(&*self.client, self.target).await?;
        let obstacle = |obstacle| RestoreError::obstacle(self.client.location(), obstacle);
        let files = if position == Txid::ZERO {
            plan(&listing, self.target)
                .map_err(obstacle)?
                .files()
                .to_vec()
        } else {
            // A new snapshot leads on as well as anything; the plan knows no difference.
            extend(&listing, self.target, position).map_err(obstacle)?
        };
        if files.last().is_none_or(|file| file.name.max < wanted) {
            let (location, file) = (self.client.location(), gone.title());
            return Err(RestoreError::Vanished { location, file });
        }
        Ok(files)
    }
}

/// Sends files in order, and counts in `sent` those that were sent whole.
pub(crate) async fn send_all<F: Remote>(
    client: &Arc<dyn ReplicaClient>,
    parallelism: usize,
    sender: &mpsc::Sender<Message<F>>,
    files: &[F],
    sent: &mut usize,
) -> Result<(), Trouble<F>> {
    let parts = Ahead::new(Arc::clone(client), files, parallelism, IN_FLIGHT);
    pass_on(parts, sender, sent).await
}

async fn pass_on<F: Remote>(
    mut ahead: Ahead<'_, F>,
    sender: &mpsc::Sender<Message<F>>,
    sent: &mut usize,
) -> Result<(), Trouble<F>> {
    while let Some((part, fetched)) = ahead.next().await {
        if matches!(fetched, Err(Trouble::Gone(_))) && part.range.start > 0 {
            send(sender, Message::Abandon).await?;
        }
        let chunks = fetched?;
        if part.range.start == 0 {
            send(sender, Message::Begin(part.file.clone())).await?;
        }
        for chunk in chunks {
            send(sender, Message::Data(chunk)).await?;
        }
        if part.range.end >= part.file.size() {
            send(sender, Message::End).await?;
            *sent += 1;
        }
    }
    Ok(())
}

/// Reads the parts of files ahead of whoever takes them in order.
pub(crate) struct Ahead<'a, F> {
    client: Arc<dyn ReplicaClient>,
    parts: Peekable<Box<dyn Iterator<Item = Part<F>> + Send + 'a>>,
    under_way: VecDeque<(Part<F>, AbortOnDropHandle<Fetched<F>>)>,
    /// Requests at a time.
    parallelism: usize,
    /// Bytes that are held at most: those of the parts under way, and of the one handed out last.
    most: u64,
    held: u64,
    handed_out: u64,
}

impl<'a, F: Remote> Ahead<'a, F> {
    /// So many requests at a time, and never more than `most` bytes: the more requests, the smaller each of them,
    /// and where that does not suffice, the fewer.
    pub(crate) fn new(
        client: Arc<dyn ReplicaClient>,
        files: &'a [F],
        parallelism: usize,
        most: u64,
    ) -> Self {
        let parallelism = parallelism.max(1);
        let size = (most / parallelism as u64).clamp(PART.0, PART.1);
        let parts = files.iter().flat_map(move |file| parts(file, size));
        let parts: Box<dyn Iterator<Item = Part<F>> + Send + 'a> = Box::new(parts);
        Self {
            client,
            parts: parts.peekable(),
            under_way: VecDeque::new(),
            parallelism,
            most,
            held: 0,
            handed_out: 0,
        }
    }

    /// The next part, with its content or why there is none. The one before is done with.
    pub(crate) async fn next(&mut self) -> Option<(Part<F>, Fetched<F>)> {
        self.held -= std::mem::take(&mut self.handed_out);
        while self.under_way.len() < self.parallelism
            && let Some(part) = self
                .parts
                .next_if(|part| self.under_way.is_empty() || self.held + part.len() <= self.most)
        {
            self.held += part.len();
            let fetch = fetch(Arc::clone(&self.client), part.clone());
            let task = AbortOnDropHandle::new(tokio::spawn(fetch));
            self.under_way.push_back((part, task));
        }
        let (part, task) = self.under_way.pop_front()?;
        self.handed_out = part.len();
        let fetched = match task.await {
            Ok(fetched) => fetched,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Stopped::Failed(RestoreError::Cancelled).into()),
        };
        Some((part, fetched))
    }
}

pub(super) async fn send<F>(
    sender: &mpsc::Sender<Message<F>>,
    message: Message<F>,
) -> Result<(), Stopped> {
    sender.send(message).await.map_err(|_| Stopped::Receiver)
}

/// Why a part cannot be had.
pub(crate) enum Trouble<F = LtxObject> {
    /// Its file has been deleted.
    Gone(Box<F>),
    Stopped(Stopped),
}

impl<F> From<Stopped> for Trouble<F> {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

/// The content of a part, or why it cannot be had.
pub(crate) type Fetched<F> = Result<Vec<Bytes>, Trouble<F>>;

/// Some bytes of a file.
#[derive(Clone, Debug)]
pub(crate) struct Part<F = LtxObject> {
    pub(crate) file: F,
    pub(crate) range: Range<u64>,
}

impl<F> Part<F> {
    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The parts of a file, one at least.
fn parts<F: Remote>(file: &F, size: u64) -> impl Iterator<Item = Part<F>> {
    let count = file.size().div_ceil(size).max(1);
    (0..count).map(move |n| {
        let range = n * size..file.size().min((n + 1) * size);
        Part {
            file: file.clone(),
            range,
        }
    })
}

/// Reads a part into memory, and goes on where it broke off.
pub(crate) async fn fetch<F: Remote>(client: Arc<dyn ReplicaClient>, part: Part<F>) -> Fetched<F> {
    let (mut chunks, mut offset, mut failures) = (Vec::new(), part.range.start, 0);
    loop {
        let before = offset;
        let source = match attempt(&*client, &part, &mut chunks, &mut offset).await {
            Ok(()) => return Ok(chunks),
            Err(Failure::Store(error)) if error.is_not_found() => {
                return Err(Trouble::Gone(Box::new(part.file)));
            }
            Err(Failure::Store(error)) if !is_passing(&error) => {
                return Err(Stopped::Failed(error.into()).into());
            }
            Err(Failure::Store(error)) => io::Error::other(error),
            Err(Failure::Stream(error)) => error,
        };
        failures = if offset > before { 1 } else { failures + 1 };
        if failures >= FAILURES {
            let (location, file) = (client.location(), part.file.title());
            let error = RestoreError::Interrupted {
                location,
                file,
                offset,
                source,
            };
            return Err(Stopped::Failed(error).into());
        }
        tokio::time::sleep(backoff::pause(FIRST_PAUSE, LONGEST_PAUSE, failures)).await;
    }
}

enum Failure {
    Store(StoreError),
    Stream(io::Error),
}

/// Reads what is left of a part.
async fn attempt<F: Remote>(
    client: &dyn ReplicaClient,
    part: &Part<F>,
    chunks: &mut Vec<Bytes>,
    offset: &mut u64,
) -> Result<(), Failure> {
    let whole = *offset == 0 && part.range.end >= part.file.size();
    let range = (!whole).then_some(*offset..part.range.end);
    let opened = part.file.open(client, range).await;
    let mut stream = opened.map_err(Failure::Store)?;
    // More than was promised is passed on for the decoder to refuse, but not without end.
    while *offset <= part.range.end
        && let Some(chunk) = stream.next().await.transpose().map_err(Failure::Stream)?
    {
        *offset += chunk.len() as u64;
        chunks.push(chunk);
    }
    if *offset < part.range.end {
        return Err(Failure::Stream(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}

/// Whether trying again can help.
fn is_passing(error: &StoreError) -> bool {
    match error {
        StoreError::Io { source, .. } => !matches!(
            source.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory
        ),
        StoreError::OutOfRange { .. } | StoreError::Unsupported { .. } => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use evertide_storage::{MemoryClient, bytes_stream};

    use super::*;

    /// Bytes asked for, in how many requests, at any time and at most.
    #[derive(Default)]
    struct Held {
        requests: usize,
        bytes: u64,
        most_requests: usize,
        most_bytes: u64,
    }

    /// A file of which the first part comes only when everything else that is asked for beside it has come.
    #[derive(Clone)]
    struct Slow {
        size: u64,
        held: Arc<Mutex<Held>>,
    }

    impl Remote for Slow {
        fn size(&self) -> u64 {
            self.size
        }

        fn title(&self) -> String {
            "slow".to_owned()
        }

        async fn open(
            &self,
            _: &dyn ReplicaClient,
            range: Option<Range<u64>>,
        ) -> Result<ByteStream, StoreError> {
            let len = range.map_or(self.size, |range| range.end - range.start);
            {
                let mut held = self.held.lock().unwrap();
                held.requests += 1;
                held.bytes += len;
                held.most_requests = held.most_requests.max(held.requests);
                held.most_bytes = held.most_bytes.max(held.bytes);
            }
            // Whoever would ask for more has all the time to do so.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            let zeros: &'static [u8] = &[0; 4 << 20];
            let len = usize::try_from(len).unwrap();
            Ok(bytes_stream(Bytes::from_static(zeros.get(..len).unwrap())))
        }
    }

    /// Reads files of these sizes, taking a part only when no more are asked for: the most requests and bytes.
    async fn read(sizes: &[u64], parallelism: usize, most: u64) -> (usize, u64) {
        let held = Arc::new(Mutex::new(Held::default()));
        let file = |size: &u64| Slow {
            size: *size,
            held: Arc::clone(&held),
        };
        let files: Vec<Slow> = sizes.iter().map(file).collect();
        let client = Arc::new(MemoryClient::new("unused"));
        let mut ahead = Ahead::new(client, &files, parallelism, most);
        let mut read = 0;
        while let Some((part, fetched)) = ahead.next().await {
            let chunks = fetched.unwrap_or_default();
            let came: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
            assert_eq!(came, part.len());
            read += came;
            let mut held = held.lock().unwrap();
            held.requests -= 1;
            held.bytes -= came;
        }
        assert_eq!(read, sizes.iter().sum::<u64>());
        let held = held.lock().unwrap();
        (held.most_requests, held.most_bytes)
    }

    #[tokio::test]
    async fn any_number_of_requests_at_a_time_holds_no_more_bytes_than_one_may() {
        let (large, small) = ([300 << 20, 5, 70 << 20], [1_000; 2_000]);
        for parallelism in [1, 2, 8, 32, 256, 100_000] {
            let (requests, bytes) = read(&large, parallelism, IN_FLIGHT).await;
            assert!(bytes <= IN_FLIGHT, "{parallelism}: {bytes} bytes");
            assert!(requests <= parallelism);
            // Beyond what may be asked for, each request would be too small to be worth it.
            if parallelism <= 256 {
                assert_eq!(requests, parallelism, "{bytes} bytes");
            }
            let (requests, _) = read(&small, parallelism, IN_FLIGHT).await;
            assert_eq!(requests, parallelism.min(small.len()));
        }
    }

    #[tokio::test]
    async fn a_part_larger_than_all_that_may_be_held_is_read_alone() {
        let (requests, bytes) = read(&[1 << 20, 3, 1 << 20], 8, 1_000).await;
        assert_eq!((requests, bytes), (1, PART.0));
    }
}

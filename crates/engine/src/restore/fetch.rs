//! Reading the files of a plan: several parts at a time, handed on in order.
//!
//! A file larger than a part is read in ranges, so that one large snapshot uses the connections
//! that many small files would. A part that breaks off goes on where it stopped. What waits in
//! memory is bounded by the parts under way.

use std::{collections::VecDeque, io, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use evertide_ltx::{Level, Txid};
use evertide_storage::{Error as StoreError, LtxObject, ReplicaClient};
use futures_util::{StreamExt, future::try_join_all};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    RestoreError, RestorePlan, RestoreTarget,
    plan::{extend, plan},
};

/// The most that parts under way hold together, in bytes.
const IN_FLIGHT: u64 = 48 << 20;
/// The sizes a part may have, in bytes.
const PART: (u64, u64) = (256 << 10, 4 << 20);
/// Failures in a row after which a part is given up.
const FAILURES: u32 = 5;
/// How often the files of a plan may vanish, without progress in between.
const PLANS: u32 = 3;

/// What the thread that applies the files receives.
#[derive(Debug)]
pub(super) enum Message {
    /// A file begins.
    Begin(LtxObject),
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
pub(super) enum Stopped {
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

/// All LTX files of a replica, level by level.
pub(super) async fn listing(client: &dyn ReplicaClient) -> Result<Vec<LtxObject>, RestoreError> {
    let levels = try_join_all(Level::all().map(|level| client.list(level, None))).await?;
    Ok(levels.into_iter().flatten().collect())
}

/// Plans the restore of a replica as it is now.
pub(super) async fn plan_now(
    client: &dyn ReplicaClient,
    target: RestoreTarget,
) -> Result<RestorePlan, RestoreError> {
    let files = listing(client).await?;
    plan(&files, target).map_err(|obstacle| RestoreError::obstacle(client.location(), obstacle))
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
            let before = position;
            let gone = match self.send_all(&files, &mut position).await {
                Ok(()) => break,
                Err(Trouble::Gone(gone)) => gone,
                Err(Trouble::Stopped(stopped)) => return Err(stopped),
            };
            plans = if position > before { 1 } else { plans + 1 };
            if plans > PLANS {
                let (location, name) = (self.client.location(), gone.name);
                return Err(RestoreError::Vanished { location, name }.into());
            }
            let wanted = files.last().map_or(Txid::ZERO, |file| file.name.max);
            files = self.replan(position, wanted, &gone).await?;
            tracing::info!(file = %gone.name, "a file was deleted while it was restored; going on");
        }
        self.send(Message::Finish).await?;
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
        let listing = listing(&*self.client).await?;
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
            let (location, name) = (self.client.location(), gone.name);
            return Err(RestoreError::Vanished { location, name });
        }
        Ok(files)
    }

    async fn send(&self, message: Message) -> Result<(), Stopped> {
        self.sender
            .send(message)
            .await
            .map_err(|_| Stopped::Receiver)
    }

    /// Sends files in order, and keeps `position` at the last one sent whole.
    async fn send_all(&self, files: &[LtxObject], position: &mut Txid) -> Result<(), Trouble> {
        let size = (IN_FLIGHT / self.parallelism.max(1) as u64).clamp(PART.0, PART.1);
        let mut parts = files.iter().flat_map(|file| parts(file, size));
        let mut under_way = VecDeque::new();
        loop {
            while under_way.len() < self.parallelism.max(1)
                && let Some(part) = parts.next()
            {
                let fetch = fetch(Arc::clone(&self.client), part.clone());
                under_way.push_back((part, AbortOnDropHandle::new(tokio::spawn(fetch))));
            }
            let Some((part, fetched)) = under_way.pop_front() else {
                return Ok(());
            };
            let fetched = match fetched.await {
                Ok(fetched) => fetched,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => return Err(Stopped::Failed(RestoreError::Cancelled).into()),
            };
            if matches!(fetched, Err(Trouble::Gone(_))) && part.range.start > 0 {
                self.send(Message::Abandon).await?;
            }
            let chunks = fetched?;
            if part.range.start == 0 {
                self.send(Message::Begin(part.file.clone())).await?;
            }
            for chunk in chunks {
                self.send(Message::Data(chunk)).await?;
            }
            if part.range.end >= part.file.size {
                self.send(Message::End).await?;
                *position = part.file.name.max;
            }
        }
    }
}

/// Why a part cannot be had.
enum Trouble {
    /// Its file has been deleted.
    Gone(Box<LtxObject>),
    Stopped(Stopped),
}

impl From<Stopped> for Trouble {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

/// Some bytes of a file.
#[derive(Clone, Debug)]
struct Part {
    file: LtxObject,
    range: Range<u64>,
}

/// The parts of a file, one at least.
fn parts(file: &LtxObject, size: u64) -> impl Iterator<Item = Part> {
    let count = file.size.div_ceil(size).max(1);
    (0..count).map(move |n| {
        let range = n * size..file.size.min((n + 1) * size);
        Part {
            file: file.clone(),
            range,
        }
    })
}

/// Reads a part into memory, and goes on where it broke off.
async fn fetch(client: Arc<dyn ReplicaClient>, part: Part) -> Result<Vec<Bytes>, Trouble> {
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
            let (location, name) = (client.location(), part.file.name);
            let error = RestoreError::Interrupted {
                location,
                name,
                offset,
                source,
            };
            return Err(Stopped::Failed(error).into());
        }
        tokio::time::sleep(Duration::from_millis(50) * 2_u32.pow(failures)).await;
    }
}

enum Failure {
    Store(StoreError),
    Stream(io::Error),
}

/// Reads what is left of a part.
async fn attempt(
    client: &dyn ReplicaClient,
    part: &Part,
    chunks: &mut Vec<Bytes>,
    offset: &mut u64,
) -> Result<(), Failure> {
    let whole = *offset == 0 && part.range.end >= part.file.size;
    let range = (!whole).then_some(*offset..part.range.end);
    let opened = client.get(part.file.level, part.file.name, range).await;
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

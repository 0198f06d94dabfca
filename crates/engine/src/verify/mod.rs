//! Proving that a replica can be restored, by reading all of it.
//!
//! [`read`] fetches the files, [`check`] decodes them and follows the pages through history with the
//! [`table`], [`plan`] knows what the listing tells and what the loss of a file means.

mod beside;
mod check;
mod deep;
mod error;
mod finding;
#[cfg(test)]
mod fuzz;
mod old;
mod place;
mod plan;
mod progress;
mod read;
mod recorder;
mod records;
mod report;
mod table;

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use evertide_ltx::{PageSize, Txid};
use evertide_storage::{Disk, LtxObject, OsDisk, ReplicaClient};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use self::{
    check::{Broken, Checked, Checker},
    plan::{gaps, reading_order},
    progress::{Meter, Observer},
    read::{End, Feed, Message, Reader},
    table::Table,
};
pub use self::{
    deep::ProvenRestore,
    error::VerifyError,
    finding::{Finding, FindingKind, Severity},
    old::VerifiedV3,
    progress::{VerifyProgress, VerifyStage},
};
use crate::{RestoreError, RestoreTarget, restore::listing, runtime::Engine};

#[cfg(test)]
pub(crate) use self::records::{encode as encode_records, seal_again};
pub(crate) use self::{
    deep::{Newest, Unrestored},
    recorder::{Heard, Recorded, Recorder, recorded, recorded_content},
    records::{Content, Record, sealed, unsealed},
};

/// Chunks between those who read and the one who checks.
const CHUNKS: usize = 4;
/// How often files may vanish while they are read before that is a finding.
const ROUNDS: u32 = 3;

/// How far a verification goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum VerifyDepth {
    /// It reads every file, and restores nothing.
    #[default]
    Files,
    /// It also restores the newest state to a temporary place, has SQLite check the whole database,
    /// and compares its checksum.
    Restore,
}

/// What to verify.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use evertide::{VerifyOptions, verify};
/// use evertide_storage::{Destination, OsDisk};
///
/// let replica = Destination::parse("file:///backup/app")?.connect(Arc::new(OsDisk))?;
/// let report = verify(VerifyOptions::new(replica)).await?;
/// for finding in &report.findings {
///     println!("{finding}");
/// }
/// assert!(report.is_sound());
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// The replica.
    pub replica: Arc<dyn ReplicaClient>,
    /// How far to go.
    pub depth: VerifyDepth,
    /// How many requests to the replica at a time.
    pub parallelism: usize,
    /// Where temporary files are made: 12 bytes for each page of the database, and the database
    /// itself where it is restored.
    pub temporary: PathBuf,
    /// The file system of the temporary files.
    pub disk: Arc<dyn Disk>,
    observer: Option<Observer>,
}

impl VerifyOptions {
    /// Everything on this replica, with temporary files where the system keeps them.
    pub fn new(replica: Arc<dyn ReplicaClient>) -> Self {
        Self {
            replica,
            depth: VerifyDepth::default(),
            parallelism: 8,
            temporary: std::env::temp_dir(),
            disk: Arc::new(OsDisk),
            observer: None,
        }
    }

    /// Has this called with every step forward, on a thread of the verification. It should return at
    /// once.
    #[must_use]
    pub fn on_progress(
        mut self,
        observer: impl Fn(&VerifyProgress) + Send + Sync + 'static,
    ) -> Self {
        self.observer = Some(Observer(Arc::new(observer)));
        self
    }
}

impl fmt::Debug for VerifyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyOptions")
            .field("replica", &self.replica.location())
            .field("depth", &self.depth)
            .field("parallelism", &self.parallelism)
            .field("temporary", &self.temporary)
            .finish_non_exhaustive()
    }
}

/// What a verification has found out.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The replica.
    pub location: String,
    /// Files on it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The newest transaction that it can be restored to; zero where there is none.
    pub txid: Txid,
    /// When that was captured.
    pub created: Option<SystemTime>,
    /// How many states can be restored.
    pub states: u64,
    /// How many of them are the database that was captured, by its checksum as recorded then.
    pub proven: u64,
    /// The size of a page, where there is any.
    pub page_size: Option<PageSize>,
    /// The size of the database after `txid`, in pages.
    pub pages: u32,
    /// The checksum of the database after `txid`, where every page of it is known: the XOR of the
    /// checksums of its pages, as LTX files have it.
    pub database_checksum: Option<u64>,
    /// What there is in the format of Litestream 0.3, all of which was read, too.
    pub v3: Option<VerifiedV3>,
    /// What a restore proved, where one was asked for and came to its end.
    pub restored: Option<ProvenRestore>,
    /// What was found, problems first.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub duration: Duration,
}

impl VerifyReport {
    /// Whether everything that the replica should hold can be restored.
    pub fn is_sound(&self) -> bool {
        self.problems().next().is_none()
    }

    /// Findings that make the replica unsound.
    pub fn problems(&self) -> impl Iterator<Item = &Finding> {
        let problem = |finding: &&Finding| finding.kind.severity() == Severity::Problem;
        self.findings.iter().filter(problem)
    }
}

/// Reads a whole replica and checks everything there is to check without restoring it.
///
/// Works in any async runtime, in bounded memory. What is wrong with the replica is in the report.
///
/// # Errors
///
/// Where the replica cannot be listed or read at all, or there is no room for the temporary file.
pub async fn verify(options: VerifyOptions) -> Result<VerifyReport, VerifyError> {
    let engine = Engine::get().map_err(VerifyError::Start)?;
    match AbortOnDropHandle::new(engine.handle().spawn(verify_here(options))).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(VerifyError::Cancelled),
    }
}

/// The same for a task of the engine.
pub(crate) async fn verify_here(options: VerifyOptions) -> Result<VerifyReport, VerifyError> {
    let started = Instant::now();
    let mut files = list(&*options.replica).await?;
    if !gaps(&files).0.is_empty() {
        // Files may have moved to another level between the listings of the two.
        files = list(&*options.replica).await?;
    }
    let mut files = date(&*options.replica, files).await?;
    let strays = options.replica.list_strays().await;
    let strays = strays.map_err(VerifyError::Replica)?;
    let v3 = options.replica.list_v3().await;
    let v3 = v3.map_err(VerifyError::Replica)?;
    let found = recorded(&*options.replica).await;
    let (records, damaged) = match found.map_err(VerifyError::Replica)? {
        Recorded::Records(records) => (records, false),
        Recorded::Damaged => (Vec::new(), true),
    };
    let beside = beside::damaged(&*options.replica).await;
    let beside = beside.map_err(VerifyError::Replica)?;
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let bytes = files.iter().map(|file| file.size).sum();
    let table = Table::create(&*options.disk, &options.temporary)
        .map_err(VerifyError::temporary("write to", &options.temporary))?;
    let work = Work {
        checker: Checker::new(table, records),
        receiver,
        meter: Meter::new(bytes, options.observer.clone()),
        temporary: options.temporary.clone(),
    };
    let (report, checked) = oneshot::channel();
    tokio::task::spawn_blocking(move || drop(report.send(work.run())));
    let reader = Reader {
        client: Arc::clone(&options.replica),
        parallelism: options.parallelism,
        sender,
    };
    let fed = feed(reader, &mut files).await;
    // The sender is gone now, so the thread ends in any case.
    let checked = checked
        .await
        .expect("the thread of the verification panicked");
    let checked = match (fed, checked) {
        // The thread knows why it stopped receiving.
        (Err(VerifyError::Cancelled), Err(error)) => return Err(error),
        (Err(error), _) | (Ok(()), Err(error)) => return Err(error),
        (Ok(()), Ok(checked)) => checked,
    };
    let location = options.replica.location();
    let mut report = report::assemble(location, &files, &strays, !v3.is_empty(), checked);
    if damaged {
        report.findings.push(report::damaged_records());
    }
    report.findings.extend(beside);
    old::check(&options, v3, &mut report).await?;
    if options.depth == VerifyDepth::Restore {
        deep::prove(&options, &mut report).await?;
    }
    report.duration = started.elapsed();
    Ok(report)
}

/// All files, in reading order.
async fn list(client: &dyn ReplicaClient) -> Result<Vec<LtxObject>, VerifyError> {
    let mut files = match listing(client, RestoreTarget::Latest).await {
        Ok(files) => files,
        Err(RestoreError::Replica(error)) => return Err(VerifyError::Replica(error)),
        Err(_) => return Err(VerifyError::Cancelled),
    };
    reading_order(&mut files);
    Ok(files)
}

/// The same files with the times that a restore to a point in time goes by, which many a listing does not
/// tell.
async fn date(
    client: &dyn ReplicaClient,
    files: Vec<LtxObject>,
) -> Result<Vec<LtxObject>, VerifyError> {
    client.date(files).await.map_err(VerifyError::Replica)
}

/// Hands all files to the thread that checks them. Where some are deleted meanwhile, since compaction
/// and retention go on, what has taken their place follows.
async fn feed(reader: Reader, files: &mut Vec<LtxObject>) -> Result<(), VerifyError> {
    let mut gone = reader.send_all(files).await?;
    for _ in 1..ROUNDS {
        let Some(first) = gone else { break };
        *files = date(&*reader.client, list(&*reader.client).await?).await?;
        let behind = |file: &&LtxObject| file.name.max >= first.name.max;
        let again: Vec<_> = files.iter().filter(behind).cloned().collect();
        gone = reader.send_all(&again).await?;
    }
    reader.send(Message::Finish).await
}

/// The thread that checks the files.
struct Work {
    checker: Checker,
    receiver: mpsc::Receiver<Message>,
    meter: Meter,
    temporary: PathBuf,
}

impl Work {
    fn run(mut self) -> Result<Checked, VerifyError> {
        loop {
            match self.receiver.blocking_recv() {
                Some(Message::Begin(file)) => self.check(&file)?,
                Some(Message::Finish) => return Ok(self.checker.finish()),
                Some(Message::Data(_) | Message::End(_)) => {}
                None => return Err(VerifyError::Cancelled),
            }
        }
    }

    fn check(&mut self, file: &LtxObject) -> Result<(), VerifyError> {
        let mut feed = Feed::new(&mut self.receiver, &mut self.meter);
        let broken = self
            .checker
            .file(file, &mut feed)
            .map_err(VerifyError::temporary("keep checksums in", &self.temporary))?;
        match (feed.end(), broken) {
            (End::Cancelled, _) => Err(VerifyError::Cancelled),
            (End::Complete, Some(broken)) => {
                self.checker.broken(broken);
                Ok(())
            }
            (End::Unreadable(problem), _) => {
                self.checker.broken(Broken {
                    file: file.clone(),
                    kind: FindingKind::Unreadable,
                    problem,
                });
                Ok(())
            }
            (End::Complete, None) | (End::Gone, _) => Ok(()),
        }
    }
}

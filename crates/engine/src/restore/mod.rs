//! From the files of a replica to a database.
//!
//! [`plan`] decides which files it takes, [`fetch`] reads them, [`apply`] decodes them with
//! [`workers`] into a temporary file, [`check`] lets SQLite look at it, and [`output`] gives it its
//! name. [`v3`] does the same for what Litestream 0.3 wrote, where [`choose`] finds that.

mod apply;
mod check;
mod choose;
mod coverage;
mod error;
mod fetch;
mod output;
mod plan;
mod progress;
mod v3;
mod workers;

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use evertide_ltx::{PageSize, Txid};
use evertide_storage::{Disk, DiskFile, OsDisk, ReplicaClient};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

#[cfg(test)]
pub(crate) use self::plan::Obstacle;
/// For those who read a replica without restoring it.
pub(crate) use self::{
    apply::Feed,
    coverage::Missing,
    fetch::{Ahead, Message, Part, Stopped, Trouble, fetch, listing, send_all},
    plan::{extend, plan},
    v3::{Flaw, FlawKind, check as check_v3},
};
use self::{
    apply::{Applied, Apply},
    choose::plan_now,
    fetch::Fetcher,
    output::Output,
    progress::{Meter, Observer},
};
pub use self::{
    error::RestoreError,
    plan::{RestorePlan, RestoreTarget},
    progress::{RestoreProgress, RestoreStage},
};
use crate::runtime::{Engine, blocking};

/// Chunks between those who read and those who decode.
const CHUNKS: usize = 8;

/// What to do about a file at the output path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ExistingOutput {
    /// Fail, and leave it alone.
    #[default]
    Refuse,
    /// Put the restored database in its place, with its permissions, and remove its `-wal`, `-shm`
    /// and `-journal`. Nothing may have it open.
    Replace,
}

/// What SQLite checks before the database gets its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IntegrityCheck {
    /// Nothing. The checksums of all files are verified in any case.
    #[default]
    None,
    /// `PRAGMA quick_check`: the structure.
    Quick,
    /// `PRAGMA integrity_check`: also that indexes agree with their tables.
    Full,
}

/// What to restore, and how.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use evertide::{RestoreOptions, restore};
/// use evertide_storage::{Destination, OsDisk};
///
/// let replica = Destination::parse("file:///backup/app")?.connect(Arc::new(OsDisk))?;
/// let report = restore(RestoreOptions::new(replica, "app.db")).await?;
/// println!("{} pages of transaction {}", report.pages, report.txid);
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// Where the backup is.
    pub replica: Arc<dyn ReplicaClient>,
    /// The database to write.
    pub output: PathBuf,
    /// Which state of it.
    pub target: RestoreTarget,
    /// What to do about a file that is there already.
    pub existing: ExistingOutput,
    /// What SQLite checks.
    pub integrity_check: IntegrityCheck,
    /// How many requests to the replica at a time. What they hold in memory together is bounded whatever the
    /// number; above 384 there are fewer.
    pub parallelism: usize,
    /// Permission bits of the database, less the umask; a database that is replaced keeps its own.
    pub mode: u32,
    /// The file system of the output.
    pub disk: Arc<dyn Disk>,
    /// What is done with the complete file before it gets its name.
    pub(crate) finish: Option<Finish>,
    observer: Option<Observer>,
}

/// Is given a restored file, its transaction, the size of its pages, and how many it has.
pub(crate) type Finish =
    Arc<dyn Fn(&dyn DiskFile, (Txid, PageSize, u32)) -> Result<(), RestoreError> + Send + Sync>;

impl RestoreOptions {
    /// The newest state, into a file that must not exist, readable by its owner only.
    pub fn new(replica: Arc<dyn ReplicaClient>, output: impl Into<PathBuf>) -> Self {
        Self {
            replica,
            output: output.into(),
            target: RestoreTarget::Latest,
            existing: ExistingOutput::Refuse,
            integrity_check: IntegrityCheck::None,
            parallelism: 8,
            mode: 0o600,
            disk: Arc::new(OsDisk),
            finish: None,
            observer: None,
        }
    }

    /// Has this called with every step forward, on a thread of the restore. It should return at
    /// once.
    #[must_use]
    pub fn on_progress(
        mut self,
        observer: impl Fn(&RestoreProgress) + Send + Sync + 'static,
    ) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }
}

impl fmt::Debug for RestoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("RestoreOptions");
        out.field("replica", &self.replica.location())
            .field("output", &self.output)
            .field("target", &self.target)
            .field("existing", &self.existing)
            .field("integrity_check", &self.integrity_check)
            .field("parallelism", &self.parallelism)
            .finish_non_exhaustive()
    }
}

/// What has been restored.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The transaction whose state it is; zero where Litestream 0.3 wrote the replica, which has no
    /// transaction IDs.
    pub txid: Txid,
    /// When that state was captured.
    pub created: Option<SystemTime>,
    /// The same as the file itself has it, where it does: listings may tell a little more.
    pub(crate) timestamp_ms: Option<i64>,
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The size of a page.
    pub page_size: PageSize,
    /// The size of the database, in pages.
    pub pages: u32,
    /// The size of the database, in bytes.
    pub database_bytes: u64,
    /// How long it took.
    pub duration: Duration,
}

/// What a restore would do: the files it would apply.
///
/// # Errors
///
/// Where the replica cannot be listed, has no backup, or has a gap.
pub async fn restore_plan(
    replica: Arc<dyn ReplicaClient>,
    target: RestoreTarget,
) -> Result<RestorePlan, RestoreError> {
    let engine = Engine::get().map_err(RestoreError::Start)?;
    on_engine(&engine, async move { plan_now(&*replica, target).await }).await
}

/// Restores a database from a replica.
///
/// Works in any async runtime. All checksums are verified, the database is complete and durable
/// before it gets its name, and when the future fails or is dropped nothing of it stays behind.
///
/// # Errors
///
/// [`RestoreError`]; what was at the output path before is there as it was.
pub async fn restore(options: RestoreOptions) -> Result<RestoreReport, RestoreError> {
    let engine = Engine::get().map_err(RestoreError::Start)?;
    let output = Arc::new(Output::new(
        Arc::clone(&options.disk),
        options.output.clone(),
        options.existing,
        options.mode,
    ));
    let _cancel = CancelOnDrop(Arc::clone(&output));
    on_engine(&engine, run(options, output)).await
}

/// Removes the temporary file at once, even where a thread still writes to it.
struct CancelOnDrop(Arc<Output>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Runs a task of the engine. It ends when the caller no longer waits for it.
async fn on_engine<T: Send + 'static>(
    engine: &Engine,
    task: impl Future<Output = Result<T, RestoreError>> + Send + 'static,
) -> Result<T, RestoreError> {
    #[cfg(test)]
    if crate::runtime::DOES_BLOCKING_WORK.get() {
        let work = || engine.handle().block_on(task);
        return std::thread::scope(|scope| scope.spawn(work).join().unwrap());
    }
    match AbortOnDropHandle::new(engine.handle().spawn(task)).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(RestoreError::Cancelled),
    }
}

async fn run(options: RestoreOptions, output: Arc<Output>) -> Result<RestoreReport, RestoreError> {
    let started = Instant::now();
    let checked = Arc::clone(&output);
    blocking(move || checked.check()).await?;
    let plan = plan_now(&*options.replica, options.target).await?;
    tracing::debug!(
        replica = options.replica.location(),
        files = plan.file_count(),
        bytes = plan.bytes(),
        txid = %plan.txid(),
        "planned a restore"
    );
    let meter = Meter::new(&plan, options.observer.clone());
    let applied = if plan.v3_files().is_empty() {
        restore_ltx(&options, output, &plan, meter).await
    } else {
        let restore = v3::Restore {
            client: Arc::clone(&options.replica),
            output,
            integrity_check: options.integrity_check,
            parallelism: options.parallelism,
            meter,
        };
        restore.run(&plan).await
    };
    Ok(report_of(&applied?, &plan, started))
}

async fn restore_ltx(
    options: &RestoreOptions,
    output: Arc<Output>,
    plan: &RestorePlan,
    meter: Meter,
) -> Result<Applied, RestoreError> {
    let (sender, files) = mpsc::channel(CHUNKS);
    let apply = Apply {
        output,
        location: options.replica.location(),
        integrity_check: options.integrity_check,
        finish: options.finish.clone(),
        files,
        meter,
    };
    let (report, applied) = oneshot::channel();
    std::thread::Builder::new()
        .name("evertide-restore".into())
        .spawn(move || drop(report.send(apply.run())))
        .map_err(RestoreError::Start)?;
    feed(
        plan,
        Arc::clone(&options.replica),
        options.target,
        options.parallelism,
        sender,
        applied,
    )
    .await
}

/// Hands the files to the thread that applies them, and waits for it.
async fn feed(
    plan: &RestorePlan,
    client: Arc<dyn ReplicaClient>,
    target: RestoreTarget,
    parallelism: usize,
    sender: mpsc::Sender<Message>,
    applied: oneshot::Receiver<Result<Applied, RestoreError>>,
) -> Result<Applied, RestoreError> {
    let fetched = Fetcher {
        client,
        target,
        parallelism,
        sender,
    }
    .run(plan)
    .await;
    // The sender is gone now, so the thread ends in any case.
    let applied = applied.await.expect("the thread of the restore panicked");
    match fetched {
        Err(Stopped::Failed(error)) => Err(error),
        Ok(_) | Err(Stopped::Receiver) => applied,
    }
}

fn report_of(applied: &Applied, plan: &RestorePlan, started: Instant) -> RestoreReport {
    let progress = applied.meter.now();
    RestoreReport {
        txid: applied.txid,
        created: plan.created(),
        timestamp_ms: applied.timestamp_ms,
        files: progress.files,
        bytes: progress.bytes,
        page_size: applied.page_size,
        pages: applied.pages,
        database_bytes: u64::from(applied.pages) * u64::from(applied.page_size.get()),
        duration: started.elapsed(),
    }
}

//! One replicated database: the task that notices, captures, and serves its replicas.

mod images;
mod messages;
mod replicas;
mod schedule;
mod stop;

use std::{
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use evertide_ltx::Txid;
use evertide_storage::{Clock, Disk, SystemClock};
use futures_util::FutureExt;
use humantime::format_rfc3339_seconds;
use tokio::{
    sync::{SemaphorePermit, mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::{
    images::{FinishedImage, ImageJob, PendingImages},
    schedule::Schedule,
};
pub(crate) use self::{
    messages::{
        Captured, Command, Content, ImageRequest, Snapshot, request_snapshot, tail_matches,
    },
    stop::StopTime,
};
use crate::{
    DatabaseState, DatabaseStatus, Error, ReplicationOptions,
    capture::{AttachOutcome, Capture, CaptureError, Due, RotationPolicy},
    error::describe,
    failing::{self, Work},
    replica::Succession,
    runtime::{Claim, DestinationClaim, Engine, blocking, transfer},
    state::{LocalIdentity, Tip},
    watch::{FILES, Notices, Watch},
};

/// The least time between two looks at a database whose changes wait for the sync interval.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How long a start waits to hear who writes to its replicas, where that may matter.
const FIRST_LOOKS: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Without notices from the file system the database is looked at this often.
const BLIND_LOOK: Duration = Duration::from_secs(1);

/// What the task of a database is made from.
#[derive(Debug)]
pub(crate) struct DatabaseConfig {
    pub(crate) path: PathBuf,
    pub(crate) options: ReplicationOptions,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) policy: RotationPolicy,
    pub(crate) succession: Succession,
}

/// A running task, seen from outside.
#[derive(Clone, Debug)]
pub(crate) struct DatabaseHandle {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) captured: watch::Receiver<Captured>,
    pub(crate) status: watch::Receiver<DatabaseStatus>,
    pub(crate) flush: watch::Sender<Txid>,
}

impl DatabaseHandle {
    /// Ends the task without waiting for anything.
    pub(crate) fn abandon(&self) {
        let (reply, _) = oneshot::channel();
        let _ = self.commands.send(Command::Stop {
            time: StopTime::ABANDONED,
            reply,
        });
    }
}

/// Starts the task. It holds the claim until it ends.
pub(crate) async fn start(
    engine: Arc<Engine>,
    claim: Claim,
    config: DatabaseConfig,
    status: watch::Sender<DatabaseStatus>,
) -> Result<DatabaseHandle, Error> {
    let capture = {
        let (path, disk, clock) = (
            config.path.clone(),
            Arc::clone(&config.disk),
            Arc::clone(&config.clock),
        );
        blocking(move || Capture::new(path, disk, clock, config.policy)).await?
    };
    let (commands, inbox) = mpsc::unbounded_channel();
    let (captured, captured_receiver) = watch::channel(Captured::of(&capture));
    let (flush, _) = watch::channel(Txid::ZERO);
    let handle = DatabaseHandle {
        commands: commands.clone(),
        captured: captured_receiver,
        status: status.subscribe(),
        flush: flush.clone(),
    };
    let notices = Arc::new(Notices::default());
    let watch = engine.watcher.watch(&config.path, &notices);
    let mut database = Database {
        ticks: engine.ticks(slow_look(&config.options, watch.as_ref())),
        _watch: watch,
        engine,
        _claim: claim,
        options: ReplicationOptions {
            replicas: Vec::new(),
            ..config.options.clone()
        },
        config,
        identity: Arc::clone(&capture.state.identity),
        capture: Some(Box::new(capture)),
        notices,
        inbox,
        commands,
        captured,
        flush,
        status,
        replicas: Vec::new(),
        tasks: TaskTracker::new(),
        stopping: CancellationToken::new(),
        time_is_up: CancellationToken::new(),
        schedule: Schedule::new(),
        pending: PendingImages::default(),
        images: Vec::new(),
        shrunk_for: None,
        syncs: Vec::new(),
    };
    // Of the run before.
    database.status.send_modify(|status| {
        status.error = None;
        status.failing_since = None;
    });
    database.publish_failing();
    let wanted = database.config.options.clone();
    database.set_replicas(wanted)?;
    // Replicas that are added later are not meant.
    database.config.succession = Succession::Proven;
    if let Err(error) = database.attach().await {
        database.end_replicas(Instant::now()).await;
        return Err(error);
    }
    database.hear_first_looks().await;
    let runtime = database.engine.handle().clone();
    let status = database.status.clone();
    runtime.spawn(async move {
        // With the task go its claim, its locks and its replicas.
        if AssertUnwindSafe(database.run())
            .catch_unwind()
            .await
            .is_err()
        {
            // Not by the clock of the task: it may be what panicked.
            let now = SystemClock.now();
            status.send_modify(|status| {
                status.state = DatabaseState::Stopped;
                status.error = Some("ended by a panic, a fault in evertide; start it again".into());
                status.failing_since.get_or_insert(now);
            });
        }
    });
    Ok(handle)
}

struct RunningReplica {
    options: crate::ReplicaOptions,
    _claim: DestinationClaim,
    /// Whether Litestream could go on where it ends.
    continuable: Arc<AtomicBool>,
    /// Ends its task when dropped.
    _task: DropGuard,
}

struct Database {
    _claim: Claim,
    _watch: Option<Watch>,
    engine: Arc<Engine>,
    config: DatabaseConfig,
    options: ReplicationOptions,
    /// Who writes to its replicas.
    identity: Arc<LocalIdentity>,
    /// Away while a blocking thread works with it.
    capture: Option<Box<Capture>>,
    notices: Arc<Notices>,
    ticks: watch::Receiver<u64>,
    inbox: mpsc::UnboundedReceiver<Command>,
    commands: mpsc::UnboundedSender<Command>,
    captured: watch::Sender<Captured>,
    flush: watch::Sender<Txid>,
    status: watch::Sender<DatabaseStatus>,
    replicas: Vec<RunningReplica>,
    tasks: TaskTracker,
    /// Ends what need not be done before the end.
    stopping: CancellationToken,
    /// Ends what is not done at the end.
    time_is_up: CancellationToken,
    schedule: Schedule,
    pending: PendingImages,
    images: Vec<ImageJob>,
    /// The replicas for which staged files were last removed that they do not have.
    shrunk_for: Option<String>,
    /// Who waits for a capture of what was committed before.
    syncs: Vec<oneshot::Sender<Result<Txid, Error>>>,
}

/// What a look came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Looked {
    /// Everything that was committed before is captured, or there is no database.
    Complete,
    /// Somebody was in the way; it is tried again soon.
    Behind,
    /// It failed; the status says why, and it is tried again later.
    Failed,
}

enum Wake {
    Notice,
    Time,
    Tick,
    Command(Option<Command>),
    ImageDone(Box<FinishedImage>),
    Pending(SemaphorePermit<'static>),
}

impl Database {
    async fn run(mut self) {
        loop {
            let wake = self.wait().await;
            match wake {
                Wake::Notice => self.noticed().await,
                Wake::Time => {
                    self.look(self.due()).await;
                }
                Wake::Tick => self.tick().await,
                Wake::ImageDone(result) => self.finish_image(*result).await,
                Wake::Pending(permit) => self.start_image(permit).await,
                Wake::Command(Some(Command::Stop { time, reply })) => {
                    let stopped = self.stop(time).await;
                    let Self {
                        capture, _claim, ..
                    } = self;
                    // Locks and state are let go before the caller hears of it.
                    blocking(move || drop(capture)).await;
                    drop(_claim);
                    let _ = reply.send(stopped);
                    return;
                }
                Wake::Command(Some(command)) => self.command(command).await,
                Wake::Command(None) => return,
            }
        }
    }

    /// Before the application writes: a replica that somebody else wrote last may have to know what the
    /// database was at the start. Only where no local state can tell.
    async fn hear_first_looks(&mut self) {
        if !self.is_attached() || self.status.borrow().txid > Txid::ZERO {
            return;
        }
        let end = Instant::now() + FIRST_LOOKS;
        let (mut waiting, mut wanted) = (self.replicas.len(), false);
        while waiting > 0
            && let Ok(Some(command)) = timeout_at(end, self.inbox.recv()).await
        {
            waiting -= usize::from(matches!(command, Command::Looked));
            wanted |= matches!(command, Command::WantChecksum);
            self.command(command).await;
        }
        if wanted {
            self.start_image(transfer().await).await;
        }
    }

    async fn wait(&mut self) -> Wake {
        let next_look = self.schedule.next_look;
        let readable = self.is_attached();
        let pending_at = self.pending.due(self.replicas.len()).filter(|_| readable);
        // Notices within the pause are not lost: they wait in their flags.
        let quiet_until = match next_look {
            Some(_) if self.schedule.failures > 0 => self.schedule.last_look + FIRST_RETRY,
            Some(_) if self.schedule.looks == 0 => self.schedule.last_look + LOOK_PAUSE,
            _ => self.schedule.last_look,
        };
        let notices = Arc::clone(&self.notices);
        tokio::select! {
            biased;
            command = self.inbox.recv() => Wake::Command(command),
            () = async {
                tokio::time::sleep_until(quiet_until).await;
                notices.wait().await;
            } => Wake::Notice,
            () = sleep_until(next_look) => Wake::Time,
            result = ImageJob::finished(&mut self.images) => Wake::ImageDone(Box::new(result)),
            permit = async {
                sleep_until(pending_at).await;
                transfer().await
            } => Wake::Pending(permit),
            ticked = self.ticks.changed() => match ticked {
                Ok(()) => Wake::Tick,
                Err(_) => std::future::pending().await,
            },
        }
    }

    async fn noticed(&mut self) {
        self.schedule.looks = 0;
        if self.notices.take() & FILES != 0 {
            self.check_files().await;
        }
        self.look(self.due()).await;
    }

    /// The slow look, for what no notice told.
    async fn tick(&mut self) {
        let since_look = self.schedule.last_look.elapsed();
        // The last look may have been just after the last tick.
        let interval = slow_look(&self.options, self._watch.as_ref()) / 2;
        let checkpoint = self
            .schedule
            .unfinished_since
            .is_some_and(|since| since.elapsed() >= self.options.checkpoint_interval);
        if since_look >= interval || checkpoint {
            self.check_files().await;
            self.look(if checkpoint {
                Due::NowAndCheckpoint
            } else {
                self.due()
            })
            .await;
        }
    }

    fn is_attached(&self) -> bool {
        self.capture
            .as_ref()
            .is_some_and(|capture| capture.is_attached())
    }

    /// Whether the sync interval allows a capture now.
    fn due(&self) -> Due {
        let interval = self.sync_interval();
        match self.schedule.last_capture {
            Some(last) if last.elapsed() < interval && self.syncs.is_empty() => Due::Later,
            _ => Due::Now,
        }
    }

    fn sync_interval(&self) -> Duration {
        let intervals = self
            .replicas
            .iter()
            .map(|replica| replica.options.sync_interval);
        intervals.min().unwrap_or(Duration::from_secs(1))
    }

    /// Looks, and answers those who wait for what was committed before.
    async fn look(&mut self, due: Due) -> Looked {
        let looked = self.take_step(due).await;
        if looked != Looked::Behind {
            for reply in std::mem::take(&mut self.syncs) {
                let _ = reply.send(self.sync_result());
            }
        }
        looked
    }

    /// Takes a step, and decides when to look again.
    async fn take_step(&mut self, due: Due) -> Looked {
        self.schedule.last_look = Instant::now();
        self.schedule.next_look = None;
        if !self.is_attached() {
            if let Err(error) = self.attach().await {
                return self.failed(&error).await;
            }
            if !self.is_attached() {
                self.schedule.failures = 0;
                return Looked::Complete; // there is no database
            }
        }
        let mut outcome = self.with_capture(move |capture| capture.step(due)).await;
        if let Err(CaptureError::Discontinuity(reason)) = &outcome {
            self.reattach(reason).await;
            if !self.is_attached() {
                return Looked::Failed;
            }
            outcome = self.with_capture(move |capture| capture.step(due)).await;
        }
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(CaptureError::Failed(error)) => return self.failed(&error).await,
            Err(CaptureError::Discontinuity(reason)) => {
                let path = self.config.path.clone();
                return self.failed(&Error::Failing { path, reason }).await;
            }
        };
        self.schedule.failures = 0;
        self.works(DatabaseState::Running);
        self.publish();
        self.limit_stage().await;
        self.schedule.plan(&outcome, due, self.sync_interval());
        match outcome.complete {
            true => Looked::Complete,
            false => Looked::Behind,
        }
    }

    /// Looks whether the database is still the file that was attached to.
    async fn check_files(&mut self) {
        let in_place = self.with_capture(|capture| capture.files_in_place()).await;
        match in_place {
            Ok(true) => {}
            Ok(false) => self.reattach("the database was removed or replaced").await,
            Err(error) => {
                self.failed(&error).await;
            }
        }
    }

    async fn reattach(&mut self, reason: &str) {
        tracing::warn!(
            database = %self.config.path.display(), reason,
            "continuity of the capture is not certain; comparing all pages"
        );
        self.give_up_images();
        if let Err(error) = self.attach().await {
            self.failed(&error).await;
        }
    }

    /// Opens the database and continues.
    async fn attach(&mut self) -> Result<(), Error> {
        let outcome = self.with_capture(|capture| capture.attach()).await;
        let path = self.config.path.display();
        let state = match outcome {
            Ok(AttachOutcome::Missing) => {
                tracing::info!(database = %path, "waiting for the database to appear");
                DatabaseState::Waiting
            }
            Ok(AttachOutcome::Resumed) => {
                tracing::info!(database = %path, "continuing where the last capture ended");
                DatabaseState::Running
            }
            Ok(AttachOutcome::Rebased { reason, pages: 0 }) => {
                tracing::info!(database = %path, reason, "compared all pages: nothing was missed");
                DatabaseState::Running
            }
            Ok(AttachOutcome::Rebased { reason, pages }) => {
                metrics::counter!("evertide_rebases_total").increment(1);
                tracing::warn!(
                    database = %path, reason, pages,
                    "re-based: compared all pages, and captured those that differ"
                );
                DatabaseState::Running
            }
            Ok(AttachOutcome::NeedsSnapshot { reason: None }) => {
                tracing::info!(database = %path, "starting with a full snapshot");
                DatabaseState::Running
            }
            Ok(AttachOutcome::NeedsSnapshot {
                reason: Some(reason),
            }) => {
                tracing::warn!(database = %path, reason, "a full snapshot is needed");
                DatabaseState::Running
            }
            Err(CaptureError::Discontinuity(reason)) => {
                let path = self.config.path.clone();
                return Err(Error::Failing { path, reason });
            }
            Err(CaptureError::Failed(error)) => return Err(error),
        };
        // What has failed may fail again in the step that follows.
        if state == DatabaseState::Waiting || self.status.borrow().failing_since.is_none() {
            self.works(state);
        }
        self.publish();
        if state == DatabaseState::Running {
            let known = self.capture.as_ref().is_some_and(|c| c.has_table());
            if !known && self.status.borrow().txid > Txid::ZERO {
                self.pending.want_table();
            }
            self.schedule.next_look = Some(Instant::now());
        }
        Ok(())
    }

    /// Notes that nothing is wrong.
    fn works(&self, state: DatabaseState) {
        let mut since = None;
        self.status.send_if_modified(|status| {
            since = status.failing_since.take();
            let mended = status.error.take().is_some();
            std::mem::replace(&mut status.state, state) != state || mended
        });
        if let Some(since) = since {
            let failed_for = failing::duration(since, self.config.clock.now());
            tracing::info!(database = %self.config.path.display(), %failed_for, "capture works again");
            self.publish_failing();
        }
    }

    /// Notes a failure, lets go of the database, and tries again later.
    async fn failed(&mut self, error: &Error) -> Looked {
        let pause = FIRST_RETRY.saturating_mul(1 << self.schedule.failures.min(10));
        self.schedule.failures += 1;
        self.schedule.next_look = Some(Instant::now() + pause.min(LONGEST_RETRY));
        let (text, now) = (describe(error), self.config.clock.now());
        let since = self.status.borrow().failing_since.unwrap_or(now);
        tracing::error!(
            database = %self.config.path.display(),
            error = text, since = %format_rfc3339_seconds(since),
            "capture fails"
        );
        metrics::counter!("evertide_capture_failures_total").increment(1);
        self.status.send_modify(|status| {
            status.state = DatabaseState::Failing;
            status.error = Some(text);
            status.failing_since = Some(since);
        });
        self.publish_failing();
        self.give_up_images();
        self.with_capture(|capture| capture.detach()).await;
        Looked::Failed
    }

    /// Has the metrics say since when capture fails.
    fn publish_failing(&self) {
        let status = self.status.borrow();
        failing::publish(Work::Capture, &status.path, "", status.failing_since);
    }

    /// Tells replicas and status what is captured.
    fn publish(&mut self) {
        let Some(capture) = &self.capture else { return };
        let now = Captured::of(capture);
        let stats = capture.stats.clone();
        let position = capture.position().copied();
        let unfinished = stats.backfilled < stats.wal_frames;
        if !unfinished {
            self.schedule.unfinished_since = None;
        } else {
            self.schedule
                .unfinished_since
                .get_or_insert_with(Instant::now);
        }
        let advanced = self.captured.send_if_modified(|before| {
            let changed = *before != now;
            *before = now.clone();
            changed
        });
        if advanced {
            self.schedule.last_capture = Some(Instant::now());
        }
        self.status.send_if_modified(|status| {
            let before = status.clone();
            status.txid = now.txid;
            status.captured = stats.captured;
            status.pages = position.map_or(0, |position| position.pages);
            status.page_size = position.map_or(0, |position| position.page_size.get());
            status.wal_frames = stats.wal_frames;
            status.rotations = stats.rotations;
            status.rebases = stats.rebases;
            status.last_rebase = stats.last_rebase;
            status.write_holds = stats.write_holds;
            status.longest_write_hold = stats.longest_write_hold;
            status.most_frames_in_write_hold = stats.most_frames_in_write_hold;
            status.brakes = stats.brakes;
            *status != before
        });
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Sync { reply } => {
                self.syncs.push(reply);
                self.look(Due::Now).await;
            }
            Command::Image(request) => self.pending.add(request),
            Command::CompareTail {
                location,
                tail,
                reply,
            } => {
                let tip = Tip::new(&location, tail.txid, tail.timestamp_ms);
                let matches = self.with_capture(move |capture| {
                    let ours = capture.is_ours(&tail);
                    if ours {
                        capture.note_tip(tip);
                    }
                    ours
                });
                let _ = reply.send(matches.await);
            }
            Command::WantChecksum => self.pending.want_table_at_once(),
            Command::Looked => {} // waited for at the start only
            Command::Arrived(tip) => self.release_staged(Some(tip)).await,
            Command::Compacted => self.release_staged(None).await,
            Command::Update { options, reply } => {
                let result = self.set_replicas(options);
                let _ = reply.send(result);
            }
            Command::Stop { .. } => {} // handled where the task can end
        }
    }

    fn sync_result(&self) -> Result<Txid, Error> {
        let status = self.status.borrow();
        let path = || self.config.path.clone();
        match status.state {
            DatabaseState::Waiting => Err(Error::NoDatabase(path())),
            DatabaseState::Failing => Err(Error::Failing {
                path: path(),
                reason: status.error.clone().unwrap_or_default(),
            }),
            DatabaseState::Running | DatabaseState::Stopped => Ok(status.txid),
        }
    }

    /// Works with the capture on a blocking thread.
    async fn with_capture<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Capture) -> T + Send + 'static,
    ) -> T {
        let Some(mut capture) = self.capture.take() else {
            // Only if a panic took it: the task ends with that panic.
            return std::future::pending().await;
        };
        let (capture, result) = blocking(move || {
            let result = work(&mut capture);
            (capture, result)
        })
        .await;
        self.capture = Some(capture);
        result
    }
}

/// How often to look where nothing was noticed.
fn slow_look(options: &ReplicationOptions, watch: Option<&Watch>) -> Duration {
    match watch {
        Some(_) => options.monitor_interval,
        None => options.monitor_interval.min(BLIND_LOOK),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Asks for a capture now; the newest transaction after it, zero before the first snapshot.
pub(crate) async fn sync(handle: &DatabaseHandle, path: &std::path::Path) -> Result<Txid, Error> {
    let (reply, answer) = oneshot::channel();
    let gone = || Error::NotRunning(path.to_owned());
    handle
        .commands
        .send(Command::Sync { reply })
        .map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

//! One replicated database: the task that notices, captures, and serves its replicas.

mod images;
mod look;
mod messages;
mod replicas;
mod schedule;
mod stop;

use std::{
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use evertide_ltx::Txid;
use evertide_storage::{Clock, Disk, SystemClock};
use futures_util::FutureExt;
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
    capture::{Capture, Due, RotationPolicy},
    error::panic_text,
    failing::{self, Work},
    replica::Succession,
    runtime::{Claim, DestinationClaim, Engine, blocking, transfer},
    state::{LocalIdentity, Tip},
    watch::{Notices, Watch},
};

/// The least time between two looks at a database whose changes wait for the sync interval.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How long a start waits to hear who writes to its replicas, where that may matter.
const FIRST_LOOKS: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Without notices from the file system the database is looked at this often.
const BLIND_LOOK: Duration = Duration::from_secs(1);

/// What the task of a database is made from.
#[derive(Debug)]
pub(crate) struct DatabaseConfig {
    pub(crate) path: PathBuf,
    pub(crate) options: ReplicationOptions,
    /// What the handles of the application say.
    pub(crate) in_force: watch::Sender<ReplicationOptions>,
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
    /// Gone when the task has ended; what the panic said that ended it, if one did.
    panicked: watch::Receiver<Option<String>>,
}

impl DatabaseHandle {
    /// Asks the task for something, and waits for the answer.
    pub(crate) async fn ask<T>(
        &self,
        path: &Path,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        // One that has ended drops it.
        let _ = self.commands.send(command(reply));
        match answer.await {
            Ok(answered) => answered,
            Err(_) => Err(self.gone(path).await),
        }
    }

    /// Why a task that answers no more has ended.
    pub(crate) async fn gone(&self, path: &Path) -> Error {
        let mut panicked = self.panicked.clone();
        let path = path.to_owned();
        match panicked.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(panic)) => Error::Panicked {
                path,
                panic: panic.clone(),
            },
            _ => Error::NotRunning(path),
        }
    }

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
    let (ended, panicked) = watch::channel(None);
    let handle = DatabaseHandle {
        commands: commands.clone(),
        captured: captured_receiver,
        status: status.subscribe(),
        flush: flush.clone(),
        panicked,
    };
    let notices = Arc::new(Notices::default());
    let watch = engine.watcher.watch(&config.path, &notices);
    let mut database = Database {
        ticks: engine.ticks(slow_look(&config.options, watch.as_ref())),
        watch,
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
        asked: false,
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
    let engine = Arc::clone(&database.engine);
    let status = database.status.clone();
    engine.handle().spawn(engine.task(async move {
        // With the task go its claim, its locks and its replicas.
        if let Err(panic) = AssertUnwindSafe(database.run()).catch_unwind().await {
            let panic = panic_text(&*panic);
            note_panic(&status, &panic);
            ended.send_replace(Some(panic));
        }
    }));
    Ok(handle)
}

/// Reports that a panic has ended the replication of a database.
pub(crate) fn note_panic(status: &watch::Sender<DatabaseStatus>, panic: &str) {
    // Not by the clock of the task: it may be what panicked.
    let mut since = SystemClock.now();
    status.send_modify(|status| {
        status.state = DatabaseState::Stopped;
        status.error = Some(format!(
            "ended by a panic, a fault in evertide ({panic}); start it again"
        ));
        since = *status.failing_since.get_or_insert(since);
        let replicas = status.replicas.iter_mut();
        replicas.for_each(|replica| replica.drill.running = false);
    });
    let path = status.borrow().path.clone();
    tracing::error!(
        database = %path.display(), panic,
        "a fault in evertide ended the replication of the database: nothing of it is captured any more"
    );
    metrics::counter!("evertide_capture_failures_total").increment(1);
    failing::publish(Work::Capture, &path, "", Some(since));
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
    watch: Option<Watch>,
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
    /// One of them came after the last look.
    asked: bool,
}

enum Wake {
    Asked,
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
                Wake::Asked => {
                    self.look(Due::Now).await;
                }
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
            // Where others have all there are it is started later.
            if let Ok(permit) = timeout_at(end, transfer()).await {
                self.start_image(permit).await;
            }
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
            // What is rare comes first, so that those who ask all the time keep it from nothing.
            result = ImageJob::finished(&mut self.images) => Wake::ImageDone(Box::new(result)),
            permit = async {
                sleep_until(pending_at).await;
                transfer().await
            } => Wake::Pending(permit),
            ticked = self.ticks.changed() => match ticked {
                Ok(()) => Wake::Tick,
                Err(_) => std::future::pending().await,
            },
            command = self.inbox.recv() => Wake::Command(command),
            // One look is for all who have asked by then.
            () = std::future::ready(()), if self.asked => Wake::Asked,
            () = async {
                tokio::time::sleep_until(quiet_until).await;
                notices.wait().await;
            } => Wake::Notice,
            () = sleep_until(next_look) => Wake::Time,
        }
    }

    fn is_attached(&self) -> bool {
        self.capture
            .as_ref()
            .is_some_and(|capture| capture.is_attached())
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Sync { reply } => {
                self.syncs.push(reply);
                self.asked = true;
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
                let result = self.update(options, &reply);
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
pub(crate) async fn sync(handle: &DatabaseHandle, path: &Path) -> Result<Txid, Error> {
    handle.ask(path, |reply| Command::Sync { reply }).await
}

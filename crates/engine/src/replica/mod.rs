//! Keeping one replica complete: one task for one destination of one database.
//!
//! It follows what is captured at its own pace and retries by itself; nothing else waits for it.
//! Beside it, [`upkeep`] compacts, makes snapshots and deletes, and delays no upload.

mod agenda;
mod body;
mod compact;
#[cfg(test)]
mod cost_tests;
mod doubt;
#[cfg(test)]
mod faulty;
mod files;
mod knowing;
mod maintain;
mod merge;
#[cfg(test)]
mod outage_tests;
mod plan;
mod points;
mod restart;
mod retain;
#[cfg(test)]
mod scene;
mod snapshot;
mod succession;
#[cfg(test)]
mod tier_tests;
mod upkeep;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{Clock, Disk, Error as StoreError, Lease, LtxObject, ReplicaClient};
use humantime::format_rfc3339_seconds;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::body::{ChunkWriter, Piece, chunks};
pub(crate) use self::maintain::merged_at_start;
pub use self::maintain::{Maintained, Maintenance};
pub(crate) use self::restart::run;
pub(crate) use self::succession::Succession;
use self::{
    doubt::Doubt,
    knowing::Knowing,
    plan::{Remote, UploadPlan, is_continuable, plan_upload, restorable},
    upkeep::{News, Upkeep},
};
use crate::{
    DatabaseStatus, Error, ReplicaOptions, ReplicaStatus, backoff,
    database::{Captured, Command, Content, request_snapshot, tail_matches},
    drill::Drill,
    error::describe,
    failing::{self, Work},
    state::{LocalIdentity, Tip},
    verify::Recorder,
};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long to wait before a replica with another history is looked at again.
const HISTORY_PAUSE: Duration = Duration::from_secs(300);
/// How long letting go of the lease may take at the end.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);
/// Staged files that go into one object at most: all are open at a time, in the application's process.
const FILES_AT_ONCE: usize = 128;

/// What a replica's task works with.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaContext {
    pub(crate) options: ReplicaOptions,
    /// Writes only while it has the lease.
    pub(crate) client: Arc<dyn ReplicaClient>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) identity: Arc<LocalIdentity>,
    pub(crate) succession: Succession,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    /// What is captured.
    pub(crate) captured: watch::Receiver<Captured>,
    /// Everything up to here is to be uploaded without waiting for the sync interval.
    pub(crate) flush: watch::Receiver<Txid>,
    /// Where to report.
    pub(crate) status: watch::Sender<DatabaseStatus>,
    /// Where to ask for a snapshot.
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    /// Cancelled when the database stops: what is not needed to bring the replica up to date ends.
    pub(crate) stopping: CancellationToken,
    /// Cancelled when the task has to end, whatever it has not done.
    pub(crate) time_is_up: CancellationToken,
    /// Whether Litestream could go on where the replica ends.
    pub(crate) continuable: Arc<AtomicBool>,
}

/// At the start and at the end: what is not tried does not fail.
fn publish_nothing_fails(context: &ReplicaContext) {
    let database = context.status.borrow().path.clone();
    for work in [Work::Uploads, Work::Maintenance] {
        failing::publish(work, &database, &context.options.name, None);
    }
}

/// The work on one replica, until cancelled.
async fn run_once(context: ReplicaContext, cancel: CancellationToken) {
    let (news, receiver) = mpsc::unbounded_channel();
    let upkeep = Upkeep::new(&context, receiver);
    let recorder = Recorder::default();
    let drill = Drill::new(&context, recorder.heard(), upkeep.doubt());
    let mut knowing = Knowing::new(&context);
    let doubt = Doubt::new(&context, upkeep.doubt());
    let time_is_up = context.time_is_up.clone();
    let uploads = own_status(&context).map_or(0, |status| status.uploads);
    let mut replica = Replica {
        context,
        news,
        listing: None,
        turns: upkeep.turns(),
        doubt,
        remote: None,
        failures: 0,
        last_upload: None,
        wrote: uploads > 0,
        recorder,
    };
    // Dropping the future in the middle of a put leaves nothing visible on the replica.
    // Once cancelled it reports no more: another task may have its name by then.
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = replica.follow() => {}
        () = upkeep.run() => {}
        () = drill.run() => {}
        () = knowing.run() => {}
    }
    publish_nothing_fails(&replica.context);
    replica.end().await;
    time_is_up.run_until_cancelled(knowing.note()).await;
}

struct Replica {
    context: ReplicaContext,
    /// Where upkeep hears what there is on the replica.
    news: mpsc::UnboundedSender<News>,
    /// What was found there, until it is known to be the history captured here.
    listing: Option<Listing>,
    /// How often maintenance has begun and ended.
    turns: Arc<AtomicU64>,
    /// Whether somebody else may have stored something.
    doubt: Doubt,
    /// The newest transaction on the replica; `None` until it was asked, and after an error that
    /// leaves it open.
    remote: Option<Remote>,
    /// Since the last success.
    failures: u32,
    last_upload: Option<Instant>,
    /// Whether anything arrived there since the start.
    wrote: bool,
    recorder: Recorder,
}

/// The files of a replica, when maintenance had begun and ended so often.
struct Listing {
    objects: Vec<LtxObject>,
    turns: u64,
}

/// An object that arrived.
struct Uploaded {
    object: LtxObject,
    snapshot: bool,
    /// It holds what changed in an absence.
    catch_up: bool,
}

impl Replica {
    async fn follow(&mut self) {
        loop {
            match self.catch_up().await {
                Ok(()) => {
                    self.succeeded(|_| ());
                    if self.wait_for_work().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    self.remote = None;
                    self.failed(&error);
                    tokio::time::sleep(self.pause_after(&error)).await;
                }
            }
        }
    }

    /// Uploads until there is nothing left.
    async fn catch_up(&mut self) -> Result<(), Error> {
        loop {
            if self.doubt.arises() {
                self.remote = None;
            }
            let remote = match self.remote {
                Some(remote) => remote,
                None => self.look().await?,
            };
            self.remote = Some(remote);
            let captured = self.context.captured.borrow_and_update().clone();
            let plan = plan_upload(remote, captured.txid, &captured.staged);
            // A transaction of another history is none that anybody waits for.
            let ours = !matches!(plan, UploadPlan::Snapshot { .. });
            let replicated = if ours {
                remote.replicated()
            } else {
                Txid::ZERO
            };
            self.report(|status| status.txid = replicated);
            self.recorder.captured(captured.record);
            self.recorder.publish_if_due(&*self.context.client).await;
            if ours && let Some(listing) = self.listing.take() {
                self.tell(News::Listed(listing.objects, listing.turns));
            }
            let uploaded = match plan {
                UploadPlan::Nothing => return Ok(()),
                UploadPlan::Files(first) => {
                    if captured.staged.len() - first <= FILES_AT_ONCE {
                        self.wait_for_interval().await;
                    }
                    // More may have been captured meanwhile; it goes into the same object.
                    let captured = self.context.captured.borrow_and_update().clone();
                    let files = captured.staged.iter().map(|staged| staged.name);
                    match files
                        .skip_while(|name| name.min <= remote.txid())
                        .take(FILES_AT_ONCE)
                        .collect::<Vec<_>>()
                    {
                        names if names.first().is_some_and(|n| n.min == remote.txid().next()) => {
                            self.upload_files(&captured, &names).await?
                        }
                        _ => {
                            tracing::debug!(first, "staged files changed; planning again");
                            continue;
                        }
                    }
                }
                UploadPlan::Changes { since } => self.upload_image(since, Content::Changes).await?,
                UploadPlan::Snapshot { above } => {
                    self.upload_image(above, Content::Everything).await?
                }
            };
            self.remote = Some(Remote::Ours(uploaded.object.name.max));
            self.arrived(&uploaded, &captured);
        }
    }

    /// Asks the replica who writes there, for its newest transaction, and whether that is part of our
    /// history.
    async fn look(&mut self) -> Result<Remote, Error> {
        let turns = self.turns.load(Ordering::Relaxed);
        let taken = self.context.lease.look().await;
        self.looked(&taken);
        let taken = taken.map_err(|source| self.replica_error(source))?;
        let mut objects: Vec<LtxObject> = Vec::new();
        for level in Level::all() {
            let listed = self.context.client.list(level, None).await;
            objects.extend(listed.map_err(|source| self.replica_error(source))?);
        }
        succession::check_room(&objects, &*self.context.client, &self.context.options.name)?;
        self.set_continuable(&objects);
        // Of those that reach furthest the first one: it is of the lowest level, as it was captured.
        let newest = objects.iter().rev().max_by_key(|object| object.name.max);
        let newest = newest.cloned();
        let names = objects.iter().map(|object| object.name).collect();
        let remote = match &newest {
            Some(newest) => self.compare(newest, names).await?,
            None => Remote::Other(Txid::ZERO),
        };
        let remote = self.inherit(taken, remote, newest.as_ref()).await?;
        self.doubt.resolved();
        self.listing = Some(Listing { objects, turns });
        Ok(remote)
    }

    /// Whether the newest object of the replica, of those with these names, is part of our history.
    async fn compare(&self, newest: &LtxObject, names: Vec<LtxName>) -> Result<Remote, Error> {
        let txid = newest.name.max;
        let reached = restorable(names);
        if reached < txid {
            tracing::warn!(
                database = %self.context.status.borrow().path.display(),
                replica = self.context.options.name,
                %txid, restorable = %reached,
                "files are missing on the replica; making it complete with a snapshot"
            );
            return Ok(Remote::Other(txid));
        }
        let (captured, follows) = {
            let captured = self.context.captured.borrow();
            let plan = plan_upload(Remote::Ours(txid), captured.txid, &captured.staged);
            (captured.txid, !matches!(plan, UploadPlan::Snapshot { .. }))
        };
        if follows {
            // Transactions of another history are counted as ours are.
            let tail = body::read_tail(self.context.client.as_ref(), newest)
                .await
                .map_err(|source| self.replica_error(source))?;
            let ours = match tail {
                Some(tail) => {
                    let location = self.context.client.location();
                    tail_matches(&self.context.commands, location, tail).await
                }
                None => false,
            };
            if ours {
                return Ok(Remote::Ours(txid));
            }
            tracing::warn!(
                database = %self.context.status.borrow().path.display(),
                replica = self.context.options.name,
                %txid,
                "the replica holds another history; starting over with a snapshot above it"
            );
        } else if txid > captured && captured > Txid::ZERO {
            tracing::warn!(
                database = %self.context.status.borrow().path.display(),
                replica = self.context.options.name,
                replica_txid = %txid, %captured,
                "the replica is ahead of the database, which was restored or replaced; \
                 continuing above it with a snapshot"
            );
        }
        Ok(Remote::Other(txid))
    }

    async fn upload_files(
        &mut self,
        captured: &Captured,
        names: &[LtxName],
    ) -> Result<Uploaded, Error> {
        let paths = names
            .iter()
            .map(|name| captured.dir.join(name.to_string()))
            .collect();
        let body = body::merged(Arc::clone(&self.context.disk), paths).await?;
        self.last_upload = Some(Instant::now());
        let client = Arc::clone(&self.context.client);
        let (name, created) = (body.name, body.created);
        let stored = body::store(&*client, Level::L0, name, created, body.stream).await;
        let object = stored.map_err(|source| self.replica_error(source))?;
        self.recorder.uploaded(name.max);
        self.recorder.captured(captured.record);
        Ok(Uploaded {
            object,
            snapshot: false,
            catch_up: false,
        })
    }

    /// Uploads what is read from the database now: all of it, or what changed.
    async fn upload_image(&mut self, above: Txid, content: Content) -> Result<Uploaded, Error> {
        let asked = request_snapshot(&self.context.commands, above, content).await;
        let Some(image) = asked else {
            // The database's task has ended, and this one is about to be cancelled.
            return std::future::pending().await;
        };
        self.last_upload = Some(Instant::now());
        let (name, client) = (image.name, Arc::clone(&self.context.client));
        let snapshot = name.is_snapshot();
        let level = match snapshot {
            true => Level::SNAPSHOT,
            false => Level::L0,
        };
        let stored = body::store(&*client, level, name, image.created, image.stream).await;
        let object = stored.map_err(|source| self.replica_error(source))?;
        self.recorder.uploaded(name.max);
        let (database, replica) = (self.database(), &self.context.options.name);
        let (database, bytes) = (database.display(), object.size);
        match (content, snapshot) {
            (Content::Everything, _) => tracing::info!(
                %database, replica, txid = %name.max, bytes, "uploaded a snapshot"
            ),
            (Content::Changes, false) => tracing::info!(
                %database, replica, since = %above, txid = %name.max, bytes,
                "the replica was away for long; uploaded the pages that changed meanwhile"
            ),
            (Content::Changes, true) => tracing::warn!(
                %database, replica, since = %above, txid = %name.max, bytes,
                "the replica was away for long; uploaded a snapshot, as nearly every page changed \
                 meanwhile or it is not known any more which did"
            ),
        }
        Ok(Uploaded {
            object,
            snapshot,
            catch_up: !snapshot,
        })
    }

    /// Waits until the sync interval has passed since the last upload, or somebody is waiting.
    async fn wait_for_interval(&mut self) {
        let Some(last) = self.last_upload else { return };
        let next = last + self.context.options.sync_interval;
        let remote = self.remote.map_or(Txid::ZERO, Remote::txid);
        let wanted = self.context.flush.wait_for(|flush| *flush > remote);
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(next) => {}
            _ = wanted => {}
        }
    }

    /// Waits until more was captured, checksums are to be published, or the replica has to be looked at
    /// again. An error means that the database's task has ended.
    async fn wait_for_work(&mut self) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            biased;
            changed = self.context.captured.changed() => changed,
            () = self.recorder.due() => Ok(()),
            () = self.doubt.wait() => Ok(()),
        }
    }

    /// What is left to do, while there is time.
    async fn end(&mut self) {
        let time_is_up = self.context.time_is_up.clone();
        let held = self.context.lease.check().is_ok();
        let farewell = async {
            self.record_the_end().await;
            self.release().await
        };
        let error = match time_is_up.run_until_cancelled(farewell).await {
            Some(Ok(())) => return,
            Some(Err(error)) => error,
            None => "there was no time left".to_owned(),
        };
        if held {
            tracing::warn!(
                database = %self.database().display(),
                replica = self.context.options.name,
                error,
                "cannot let go of the lease; others wait until it ends"
            );
        }
    }

    /// Publishes the checksum of what the replica was left with.
    async fn record_the_end(&mut self) {
        let captured = self.context.captured.borrow().record;
        self.recorder.captured(captured);
        self.recorder.finish(&*self.context.client).await;
    }

    /// Lets others write at once: nothing of ours will arrive any more.
    async fn release(&self) -> Result<(), String> {
        match tokio::time::timeout(RELEASE_PATIENCE, self.context.lease.release()).await {
            Ok(released) => released.map_err(|error| describe(&error)),
            Err(_) => Err("it takes too long".to_owned()),
        }
    }

    fn set_continuable(&self, objects: &[LtxObject]) {
        let continuable = is_continuable(objects);
        self.context
            .continuable
            .store(continuable, Ordering::Release);
    }

    fn arrived(&mut self, uploaded: &Uploaded, captured: &Captured) {
        self.set_continuable(std::slice::from_ref(&uploaded.object));
        match &mut self.listing {
            Some(listing) => listing.objects.push(uploaded.object.clone()),
            None => self.tell(News::Arrived(uploaded.object.clone())),
        }
        let now = self.context.clock.now();
        self.succeeded(|status| {
            status.txid = uploaded.object.name.max;
            status.synced = Some(now);
            status.lag = captured
                .created
                .filter(|_| !uploaded.snapshot)
                .and_then(|created| now.duration_since(created).ok());
            status.uploads += 1;
            status.uploaded_bytes += uploaded.object.size;
            status.snapshots += u64::from(uploaded.snapshot);
            status.catch_ups += u64::from(uploaded.catch_up);
        });
        // It was asked for once: somebody who takes over from us is not to be taken over again.
        self.context.succession = Succession::Proven;
        self.wrote = true;
        // Staged files that every replica has can go now.
        let tip = Tip::new(
            &self.context.client.location(),
            uploaded.object.name.max,
            milliseconds(uploaded.object.created),
        );
        let _ = self.context.commands.send(Command::Arrived(tip));
    }

    /// How long to wait before it is tried again.
    fn pause_after(&self, error: &Error) -> Duration {
        match error {
            Error::Replica {
                source: StoreError::LeaseHeld { wait, .. },
                ..
            } => (*wait).clamp(FIRST_PAUSE, LONGEST_PAUSE),
            Error::OtherHistory { .. } | Error::NoTransactionsLeft { .. } => HISTORY_PAUSE,
            _ => pause(self.failures),
        }
    }

    fn failed(&mut self, error: &Error) {
        if error.is_not_our_turn() {
            self.tell(News::Unknown);
        }
        self.failures = self.failures.saturating_add(1);
        let text = describe(error);
        let mut since = self.context.clock.now();
        self.report(|status| {
            since = *status.failing_since.get_or_insert(since);
            status.error = Some(text.clone());
            status.refused = error.is_refusal();
        });
        tracing::warn!(
            database = %self.database().display(),
            replica = self.context.options.name,
            error = text, failures = self.failures, since = %format_rfc3339_seconds(since),
            "cannot upload; trying again"
        );
        self.publish_failing(Work::Uploads, Some(since));
    }

    /// Reports a success, and what changed with it.
    fn succeeded(&mut self, change: impl FnOnce(&mut ReplicaStatus)) {
        let failures = std::mem::take(&mut self.failures);
        let mut since = None;
        self.report(|status| {
            change(status);
            status.error = None;
            status.refused = false;
            since = status.failing_since.take();
        });
        let Some(since) = since else { return };
        tracing::info!(
            database = %self.database().display(),
            replica = self.context.options.name,
            failures, failed_for = %failing::duration(since, self.context.clock.now()),
            "the replica works again"
        );
        self.publish_failing(Work::Uploads, None);
    }

    fn publish_failing(&self, work: Work, since: Option<SystemTime>) {
        let replica = &self.context.options.name;
        failing::publish(work, &self.database(), replica, since);
    }

    fn database(&self) -> PathBuf {
        self.context.status.borrow().path.clone()
    }

    fn tell(&self, news: News) {
        // Upkeep ends only together with this task.
        let _ = self.news.send(news);
    }

    fn report(&self, change: impl FnOnce(&mut ReplicaStatus)) {
        report(&self.context.status, &self.context.options.name, change);
    }

    fn replica_error(&self, source: evertide_storage::Error) -> Error {
        Error::Replica {
            name: self.context.options.name.clone(),
            source,
        }
    }
}

fn own_status(context: &ReplicaContext) -> Option<ReplicaStatus> {
    let status = context.status.borrow();
    let mut replicas = status.replicas.iter();
    replicas
        .find(|replica| replica.name == context.options.name)
        .cloned()
}

/// Milliseconds since the epoch.
pub(crate) fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as i64
}

/// Changes the status of a replica, if there still is one of that name.
pub(crate) fn report(
    status: &watch::Sender<DatabaseStatus>,
    name: &str,
    change: impl FnOnce(&mut ReplicaStatus),
) {
    status.send_if_modified(|status| {
        let Some(replica) = status.replicas.iter_mut().find(|r| r.name == *name) else {
            return false;
        };
        let before = replica.clone();
        change(replica);
        *replica != before
    });
}

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    backoff::pause(FIRST_PAUSE, LONGEST_PAUSE, failures)
}

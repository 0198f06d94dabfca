//! The handle an application holds.

use std::{
    collections::HashSet,
    fmt,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use evertide_ltx::Txid;
use evertide_storage::{Clock, Disk, OsDisk, SystemClock};
use futures_util::FutureExt;
use tokio::sync::{oneshot, watch};

use crate::{
    DatabaseStatus, Durability, Error, ReplicaOptions, ReplicationOptions, RetentionTier,
    capture::RotationPolicy,
    database::{self, Command, DatabaseConfig, DatabaseHandle, StopTime},
    error::panic_text,
    failing::{self, Work},
    replica::Succession,
    runtime::Engine,
};

/// Continuous backup of one database. Clones are handles of the same.
///
/// When the last handle is dropped replication ends without waiting for uploads; what is captured
/// stays beside the database and goes out after the next start. [`stop`](Self::stop) waits.
///
/// It needs no async runtime of the caller: its futures can be awaited on any executor.
#[derive(Clone)]
pub struct Replication {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    /// Those in force: while the database is replicated, its task alone changes them.
    options: watch::Sender<ReplicationOptions>,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    policy: RotationPolicy,
    succession: Succession,
    status: watch::Sender<DatabaseStatus>,
    running: Mutex<Option<Running>>,
    /// Held by a start, and by who changes the settings: those that a start began with are the ones it ends with.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Running {
    database: DatabaseHandle,
    /// Keeps the engine's thread while the database is replicated.
    _engine: Arc<Engine>,
}

/// A started task that ends again unless the caller of `start` takes it: who stops waiting may do
/// so before or after the answer was sent.
struct Unclaimed(Option<DatabaseHandle>);

impl Unclaimed {
    fn claim(mut self) -> Option<DatabaseHandle> {
        self.0.take()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(database) = &self.0 {
            database.abandon();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let running = self
            .running
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(running) = running {
            running.database.abandon();
        }
    }
}

impl fmt::Debug for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replication")
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}

/// Collects what a [`Replication`] needs; only [`build`](Self::build) fails.
#[derive(Debug)]
#[must_use]
pub struct ReplicationBuilder {
    path: PathBuf,
    options: ReplicationOptions,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    policy: RotationPolicy,
    succession: Succession,
}

impl ReplicationBuilder {
    /// Settings in place of the defaults, with their replicas.
    pub fn options(mut self, options: ReplicationOptions) -> Self {
        self.options = options;
        self
    }

    /// One more replica.
    pub fn replica(mut self, replica: ReplicaOptions) -> Self {
        self.options.replicas.push(replica);
        self
    }

    /// From how many frames on the WAL is made to start over: without disturbing anybody where that
    /// is possible, else by holding writers for the moment it takes to backfill the last frames.
    /// By default 1,000, as SQLite's own automatic checkpoints, and under a fast writer what it
    /// writes in 0.3 s, up to 256 MiB.
    pub fn rotate_at_frames(mut self, frames: u32) -> Self {
        self.policy = RotationPolicy::fixed(frames);
        self
    }

    /// How much disk captured files may take while a replica is away; see
    /// [`ReplicationOptions::stage_limit`].
    pub fn stage_limit(mut self, bytes: u64) -> Self {
        self.options.stage_limit = bytes;
        self
    }

    /// Goes on with this database on replicas that another database has written, or a copy of this one
    /// that went on elsewhere, for those in the settings at each start. What they have can still be
    /// restored by its time. Somebody who still writes there is waited for all the same: stop that
    /// process. See [`Error::OtherHistory`].
    pub fn take_over(mut self) -> Self {
        self.succession = Succession::Forced;
        self
    }

    /// Another disk for everything but SQLite's own files, for tests.
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// Another clock for timestamps, for tests.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] with every mistake.
    pub fn build(self) -> Result<Replication, Error> {
        check(&self.path, &self.options)?;
        let (status, _) = watch::channel(DatabaseStatus::new(self.path.clone()));
        let inner = Inner {
            path: self.path,
            options: watch::Sender::new(self.options),
            disk: self.disk,
            clock: self.clock,
            policy: self.policy,
            succession: self.succession,
            status,
            running: Mutex::new(None),
            changing: tokio::sync::Mutex::new(()),
        };
        Ok(Replication {
            inner: Arc::new(inner),
        })
    }
}

fn check(path: &Path, options: &ReplicationOptions) -> Result<(), Error> {
    let mut mistakes = Vec::new();
    if path.file_name().is_none() {
        mistakes.push("the path names no file".to_owned());
    }
    if options.replicas.is_empty() {
        mistakes.push("there is no replica; add at least one".to_owned());
    }
    if options.monitor_interval.is_zero() {
        mistakes.push("`monitor_interval` is zero".to_owned());
    }
    let (mut names, mut places) = (HashSet::new(), HashSet::new());
    for replica in &options.replicas {
        if !names.insert(&replica.name) {
            mistakes.push(format!("two replicas have the name `{}`", replica.name));
        }
        if !places.insert(replica.destination.to_string()) {
            mistakes.push(format!(
                "two replicas have the destination {}",
                replica.destination
            ));
        }
        mistakes.extend(drill_mistake(replica));
        let levels = ReplicaOptions::mistakes_in_levels(&replica.levels);
        mistakes.extend(levels.into_iter().map(|(at, reason)| {
            let name = &replica.name;
            format!("replica `{name}`: `levels[{at}]`: {reason}")
        }));
        let tiers = RetentionTier::mistakes(replica.retention, &replica.retention_tiers);
        mistakes.extend(tiers.into_iter().map(|(at, field, reason)| {
            let name = &replica.name;
            format!("replica `{name}`: `retention_tiers[{at}].{field}`: {reason}")
        }));
    }
    if mistakes.is_empty() {
        return Ok(());
    }
    Err(Error::Options {
        path: path.to_owned(),
        mistakes,
    })
}

fn drill_mistake(replica: &ReplicaOptions) -> Option<String> {
    let without = |key| {
        format!("`{key}` does nothing without `drill_interval`; set that too, or leave it out")
    };
    let mistake = match replica.drill_interval {
        Some(Duration::ZERO) => "`drill_interval` is zero; leave it out for no drills".to_owned(),
        Some(_) if replica.drill_timeout.is_zero() => {
            "`drill_timeout` is zero: no drill could end in that time".to_owned()
        }
        Some(_) => return None,
        None if replica.drill_bandwidth.is_some() => without("drill_bandwidth"),
        None if replica.drill_directory.is_some() => without("drill_directory"),
        None => return None,
    };
    Some(format!("replica `{}`: {mistake}", replica.name))
}

impl Replication {
    /// Replication of the database at `path`, which need not exist yet.
    pub fn builder(path: impl Into<PathBuf>) -> ReplicationBuilder {
        ReplicationBuilder {
            path: path.into(),
            options: ReplicationOptions::default(),
            disk: Arc::new(OsDisk),
            clock: Arc::new(SystemClock),
            policy: RotationPolicy::default(),
            succession: Succession::Proven,
        }
    }

    /// The database.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Starts. Returns when every commit from now on is captured, or with why that cannot be. A
    /// database that does not exist yet is waited for; a replica that cannot be reached is tried
    /// again: neither is an error.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyReplicated`], [`Error::ReplicatedElsewhere`], [`Error::Panicked`], and whatever keeps the
    /// database from being captured.
    pub async fn start(&self) -> Result<(), Error> {
        let engine = Engine::get().map_err(Error::Engine)?;
        let path = self.absolute_path()?;
        let claim = engine
            .claim(path.clone())
            .ok_or_else(|| Error::AlreadyReplicated(self.inner.path.clone()))?;
        let _one_at_a_time = self.inner.changing.lock().await;
        let config = DatabaseConfig {
            path,
            options: self.options(),
            in_force: self.inner.options.clone(),
            disk: Arc::clone(&self.inner.disk),
            clock: Arc::clone(&self.inner.clock),
            policy: self.inner.policy,
            succession: self.inner.succession,
        };
        let status = self.inner.status.clone();
        let (reply, started) = oneshot::channel::<Result<Unclaimed, Error>>();
        let (starting, given) = (Arc::clone(&engine), self.inner.path.clone());
        engine.handle().spawn(async move {
            let starting = database::start(starting, claim, config, status.clone());
            let result = AssertUnwindSafe(starting).catch_unwind().await;
            let result = result.unwrap_or_else(|panic| {
                let panic = panic_text(&*panic);
                database::note_panic(&status, &panic);
                Err(Error::Panicked { path: given, panic })
            });
            let _ = reply.send(result.map(|database| Unclaimed(Some(database))));
        });
        let database = started
            .await
            .map_err(|_| Error::NotRunning(self.inner.path.clone()))??;
        *self.running() = database.claim().map(|database| Running {
            database,
            _engine: engine,
        });
        Ok(())
    }

    /// Captures and uploads what is committed, then lets go of the replicas and of the database. The next
    /// start continues there.
    ///
    /// All of it takes no longer than `deadline`: of that a fifth, and 2 s at most, is kept for letting go of
    /// the replicas' leases, which end by themselves where that does not do. Only what is read from and written
    /// to the disk of the database is not broken off.
    ///
    /// # Errors
    ///
    /// [`Error::StoppedBehind`] when a replica could not be brought up to date before the deadline, or
    /// may not be written to, which is not waited for: it is stopped all the same, and the rest stays
    /// beside the database for the next start. [`Error::Panicked`] when a fault had ended it before, and
    /// [`Error::NotRunning`] when it was not started.
    pub async fn stop(&self, deadline: Duration) -> Result<(), Error> {
        let Some(running) = self.running().take() else {
            return Err(Error::NotRunning(self.inner.path.clone()));
        };
        let time = StopTime::within(deadline);
        let path = &self.inner.path;
        let database = running.database;
        let stopped = database.ask(path, |reply| Command::Stop { time, reply });
        let stopped = stopped.await;
        if let Err(Error::Panicked { .. }) = stopped {
            // What is stopped does not fail.
            failing::publish(Work::Capture, &self.inner.status.borrow().path, "", None);
        }
        stopped
    }

    /// Captures what is committed now, without waiting for uploads. The newest transaction, zero
    /// before the first snapshot.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::Panicked`], [`Error::NoDatabase`], [`Error::Failing`].
    pub async fn sync(&self) -> Result<Txid, Error> {
        database::sync(&self.database()?, &self.inner.path).await
    }

    /// Returns when everything committed before the call is on as many replicas as asked for. It
    /// waits for as long as that takes; bound it with a timeout of your runtime.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::Panicked`], [`Error::NoDatabase`], [`Error::Failing`].
    pub async fn wait_durable(&self, durability: Durability) -> Result<Txid, Error> {
        let database = self.database()?;
        let mut captured = database.captured.clone();
        let txid = loop {
            captured.borrow_and_update();
            match database::sync(&database, &self.inner.path).await? {
                // The first snapshot is still to be made, and may not contain the latest commit.
                Txid::ZERO => {
                    if captured.changed().await.is_err() {
                        return Err(database.gone(&self.inner.path).await);
                    }
                }
                txid => break txid,
            }
        };
        database
            .flush
            .send_modify(|flush| *flush = txid.max(*flush));
        let mut status = database.status.clone();
        let enough = |status: &DatabaseStatus| {
            let have = status
                .replicas
                .iter()
                .filter(|replica| replica.txid >= txid)
                .count();
            have >= durability.needed(status.replicas.len())
        };
        let everywhere = tokio::select! {
            biased;
            found = status.wait_for(enough) => found.is_ok(),
            () = database.commands.closed() => false,
        };
        match everywhere {
            true => Ok(txid),
            false => Err(database.gone(&self.inner.path).await),
        }
    }

    /// Other settings from now on: replicas are added, removed and changed without a restart. Who stops waiting
    /// gets them at once or never; [`options`](Self::options) says which.
    ///
    /// # Errors
    ///
    /// [`Error::Options`], [`Error::DestinationInUse`] and [`Error::Replica`]; the settings before stay in
    /// force then.
    pub async fn update(&self, options: ReplicationOptions) -> Result<(), Error> {
        check(&self.inner.path, &options)?;
        let _one_at_a_time = self.inner.changing.lock().await;
        let Ok(database) = self.database() else {
            self.inner.options.send_replace(options);
            return Ok(());
        };
        let update = |reply| Command::Update { options, reply };
        database.ask(&self.inner.path, update).await
    }

    /// The settings in force.
    pub fn options(&self) -> ReplicationOptions {
        self.inner.options.borrow().clone()
    }

    /// What replication is doing now.
    pub fn status(&self) -> DatabaseStatus {
        self.inner.status.borrow().clone()
    }

    /// Waits until the status is as wanted, and returns it.
    pub async fn wait_for(&self, wanted: impl FnMut(&DatabaseStatus) -> bool) -> DatabaseStatus {
        let mut status = self.inner.status.subscribe();
        match status.wait_for(wanted).await {
            Ok(status) => status.clone(),
            // Not possible: this handle keeps the sender.
            Err(_) => self.status(),
        }
    }

    fn database(&self) -> Result<DatabaseHandle, Error> {
        let running = self
            .running()
            .as_ref()
            .map(|running| running.database.clone());
        running.ok_or_else(|| Error::NotRunning(self.inner.path.clone()))
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.inner
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// One path for one database: the folder is resolved, so that two ways to it are one claim.
    fn absolute_path(&self) -> Result<PathBuf, Error> {
        let failed = |source| Error::Io {
            path: self.inner.path.clone(),
            action: "find the directory of",
            source,
        };
        let path = match std::fs::canonicalize(&self.inner.path) {
            Ok(path) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::path::absolute(&self.inner.path).map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        let directory = std::fs::canonicalize(directory).map_err(failed)?;
        Ok(directory.join(path.file_name().unwrap_or_default()))
    }
}

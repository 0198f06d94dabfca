//! The engine: one thread and a few helpers for every replicated database of a process.
//!
//! It runs its own small runtime, so that an application needs none, whatever its own is. Blocking
//! work goes to a bounded pool whose threads end when they are idle.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use evertide_storage::{Disk, Error as StoreError, ReplicaClient};
use tokio::{
    runtime::{Builder, Handle},
    sync::{Semaphore, SemaphorePermit, oneshot, watch},
};

use crate::{ReplicaOptions, watch::Watcher};

/// Blocking threads at most. A transfer takes one that reads and, for each replica that it goes to,
/// one that writes; they wait for each other, so none of them may wait for a thread.
const BLOCKING_THREADS: usize = 512;

/// What all databases of a process may do at a time.
struct Limits {
    /// Pieces of work on blocking threads; none of them waits for another.
    work: Semaphore,
    /// Reads of whole databases and long backlogs: each takes some megabytes of memory.
    transfers: Semaphore,
    /// Drills: they are in nobody's way.
    drills: Semaphore,
}

impl Limits {
    const fn new() -> Self {
        Self {
            work: Semaphore::const_new(8),
            transfers: Semaphore::const_new(16),
            drills: Semaphore::const_new(1),
        }
    }
}

#[cfg(not(test))]
static LIMITS: Limits = Limits::new();

#[cfg(not(test))]
fn limits() -> &'static Limits {
    &LIMITS
}

/// Of this thread: simulated time would go on while a test waits for what another one is doing.
#[cfg(test)]
fn limits() -> &'static Limits {
    thread_local! {
        static LIMITS: &'static Limits = Box::leak(Box::new(Limits::new()));
    }
    LIMITS.with(|limits| *limits)
}

static CURRENT: Mutex<Weak<Engine>> = Mutex::new(Weak::new());

/// The engine of this process while anything is replicated.
#[derive(Debug)]
pub(crate) struct Engine {
    handle: Handle,
    /// Notices of changed files.
    pub(crate) watcher: Watcher,
    /// Databases that are replicated now.
    databases: Mutex<HashSet<PathBuf>>,
    /// Where they are replicated to: the database, and how often it claimed that place.
    destinations: Mutex<HashMap<String, (PathBuf, usize)>>,
    ticks: watch::Sender<u64>,
    /// Time between two ticks; no ticks before somebody asked.
    interval: watch::Sender<Option<Duration>>,
    /// Ends the thread when dropped.
    _stop: oneshot::Sender<()>,
    #[cfg(test)]
    machine: Option<Arc<dyn SimulatedMachine>>,
}

/// What a simulated machine has of its own, where real ones share a world.
#[cfg(test)]
pub(crate) trait SimulatedMachine: std::fmt::Debug + Send + Sync {
    /// The store that it reaches, whatever the destination.
    fn store(&self) -> Arc<dyn ReplicaClient>;
    /// Where others take the database to be.
    fn home(&self) -> PathBuf;
    /// A task of its, which ends with it.
    fn task(&self, work: TaskOfMachine) -> TaskOfMachine;
}

#[cfg(test)]
pub(crate) type TaskOfMachine = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl Engine {
    /// The engine, started if nothing was replicated until now.
    pub(crate) fn get() -> io::Result<Arc<Self>> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = current.upgrade() {
            return Ok(engine);
        }
        let engine = Arc::new(Self::start()?);
        *current = Arc::downgrade(&engine);
        Ok(engine)
    }

    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("evertide-io")
            .thread_keep_alive(Duration::from_secs(5))
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("evertide".into())
            .spawn(move || {
                // Ends when the sender is dropped; nothing is ever sent.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })?;
        let watcher = Watcher::start(&handle);
        let (ticks, _) = watch::channel(0);
        let (interval, changes) = watch::channel(None);
        handle.spawn(tick(ticks.clone(), changes));
        Ok(Self {
            handle,
            watcher,
            databases: Mutex::default(),
            destinations: Mutex::default(),
            ticks,
            interval,
            _stop: stop,
            #[cfg(test)]
            machine: None,
        })
    }

    /// The engine of a simulated machine, in the runtime of the caller and on its clock.
    #[cfg(test)]
    pub(crate) fn simulated(machine: Arc<dyn SimulatedMachine>) -> Arc<Self> {
        let (ticks, _) = watch::channel(0);
        let (interval, changes) = watch::channel(None);
        let handle = Handle::current();
        handle.spawn(tick(ticks.clone(), changes));
        Arc::new(Self {
            handle,
            watcher: Watcher::told(),
            databases: Mutex::default(),
            destinations: Mutex::default(),
            ticks,
            interval,
            _stop: oneshot::channel().0,
            machine: Some(machine),
        })
    }

    /// Where tasks of the engine are spawned.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The store of a replica.
    pub(crate) fn connect(
        &self,
        replica: &ReplicaOptions,
        database: &Path,
        disk: Arc<dyn Disk>,
    ) -> Result<Arc<dyn ReplicaClient>, StoreError> {
        #[cfg(test)]
        if let Some(machine) = &self.machine {
            return Ok(machine.store());
        }
        replica.destination.connect_for(database, disk)
    }

    /// Where a database is, for those who tell machines apart by that.
    pub(crate) fn home(&self, database: &Path) -> PathBuf {
        #[cfg(test)]
        if let Some(machine) = &self.machine {
            return machine.home();
        }
        database.to_owned()
    }

    /// Has a thread of its own do work that may wait for others.
    pub(crate) fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        #[cfg(test)]
        if DOES_BLOCKING_WORK.get() {
            return work();
        }
        self.handle.spawn_blocking(work);
    }

    /// A task as it is to be spawned here.
    pub(crate) fn task(
        &self,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        #[cfg(test)]
        let work = {
            let work: TaskOfMachine = Box::pin(work);
            match &self.machine {
                Some(machine) => machine.task(work),
                None => work,
            }
        };
        work
    }

    /// Marks a database as replicated by this process; `None` where it is already.
    pub(crate) fn claim(self: &Arc<Self>, path: PathBuf) -> Option<Claim> {
        let mut databases = self
            .databases
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        databases.insert(path.clone()).then(|| Claim {
            engine: Arc::clone(self),
            path,
        })
    }

    /// Marks a place as the replica of this database; the other database where it is one of another.
    pub(crate) fn claim_destination(
        self: &Arc<Self>,
        destination: String,
        database: &Path,
    ) -> Result<DestinationClaim, PathBuf> {
        let mut destinations = self.destinations();
        let entry = destinations.entry(destination.clone());
        let (owner, claims) = entry.or_insert_with(|| (database.to_owned(), 0));
        if owner != database {
            return Err(owner.clone());
        }
        *claims += 1;
        Ok(DestinationClaim {
            engine: Arc::clone(self),
            destination,
        })
    }

    fn destinations(&self) -> MutexGuard<'_, HashMap<String, (PathBuf, usize)>> {
        self.destinations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A receiver that changes every `interval` at the latest: the safety net below the file
    /// system's notices. One timer serves all databases, at the shortest interval of them.
    pub(crate) fn ticks(&self, interval: Duration) -> watch::Receiver<u64> {
        self.interval.send_if_modified(|shortest| {
            let shorter = shortest.is_none_or(|shortest| interval < shortest);
            if shorter {
                *shortest = Some(interval);
            }
            shorter
        });
        let mut ticks = self.ticks.subscribe();
        ticks.mark_unchanged();
        ticks
    }
}

async fn tick(ticks: watch::Sender<u64>, mut interval: watch::Receiver<Option<Duration>>) {
    loop {
        let sleep = *interval.borrow_and_update();
        let elapsed = async {
            match sleep {
                Some(sleep) => tokio::time::sleep(sleep).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = elapsed => ticks.send_modify(|count| *count = count.wrapping_add(1)),
            changed = interval.changed() => if changed.is_err() { return },
        }
    }
}

/// The right to start a transfer: held by the thread that reads, until it ends.
pub(crate) async fn transfer() -> SemaphorePermit<'static> {
    permit(&limits().transfers).await
}

/// The right to restore a replica for the sake of it. Whoever has waited longest gets it.
pub(crate) async fn drill() -> SemaphorePermit<'static> {
    #[cfg(test)]
    if DOES_BLOCKING_WORK.get() {
        // Its machines are no neighbours.
        return permit(Box::leak(Box::new(Semaphore::new(1)))).await;
    }
    permit(&limits().drills).await
}

async fn permit(of: &'static Semaphore) -> SemaphorePermit<'static> {
    match of.acquire().await {
        Ok(permit) => permit,
        Err(_) => std::future::pending().await, // it is never closed
    }
}

#[cfg(test)]
thread_local! {
    /// Whether tasks of this thread do blocking work themselves: then nothing depends on how long it takes.
    pub(crate) static DOES_BLOCKING_WORK: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs blocking work on the engine's pool. A panic in it goes on in the caller.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(test)]
    if DOES_BLOCKING_WORK.get() {
        return work();
    }
    let permit = permit(&limits().work).await;
    let work = move || {
        let _permit = permit;
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

/// The right to replicate a database in this process, until dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    engine: Arc<Engine>,
    path: PathBuf,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut databases = self
            .engine
            .databases
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        databases.remove(&self.path);
    }
}

/// The right to replicate a database to a place in this process, until dropped.
#[derive(Debug)]
pub(crate) struct DestinationClaim {
    engine: Arc<Engine>,
    destination: String,
}

impl Drop for DestinationClaim {
    fn drop(&mut self) {
        let mut destinations = self.engine.destinations();
        if let Some((_, claims)) = destinations.get_mut(&self.destination) {
            *claims -= 1;
            if *claims == 0 {
                destinations.remove(&self.destination);
            }
        }
    }
}

//! A read-only copy that is kept current.
//!
//! [`stage`] verifies a file and prepares the change, [`copy`] makes it behind SQLite's locks with the
//! [`journal`] that undoes it, and [`position`] says what the copy holds. `docs/follow.md` has the
//! whole argument.

mod copy;
mod error;
#[cfg(test)]
mod fuzz;
mod journal;
mod paths;
mod poll;
mod position;
mod stage;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide_ltx::Txid;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub use self::error::FollowError;
use self::{
    copy::{Copy, Found, prepare},
    error::Patience,
    paths::Paths,
    poll::Poll,
};
use crate::{
    ExistingOutput, RestoreError, RestoreOptions, RestoreReport, RestoreTarget, backoff, restore,
    restore_plan,
    runtime::{Engine, blocking},
};

/// How often in a row something that may pass is tried.
const TRIES: u32 = 6;
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often a copy is tried for that somebody else has, beside the first time, and the pause after each.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What to follow, and how.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use evertide::{FollowOptions, RestoreOptions, follow};
/// use evertide_storage::{Destination, OsDisk};
///
/// let replica = Destination::parse("file:///backup/app")?.connect(Arc::new(OsDisk))?;
/// let options = FollowOptions::new(RestoreOptions::new(replica, "copy.db"));
/// let stop = std::future::pending(); // a signal, for example
/// follow(options, stop).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct FollowOptions {
    /// The replica, the path of the copy, and how the first restore is made. The target has to be
    /// the newest state. With [`ExistingOutput::Replace`] what is at the path is replaced, unless
    /// it is a copy that can be followed on. Where the path is a link, the copy is what it leads to.
    pub restore: RestoreOptions,
    /// How often the replica is asked for new files.
    pub interval: Duration,
    observer: Option<Observer>,
}

type Observer = Arc<dyn Fn(&FollowEvent) + Send + Sync>;

impl FollowOptions {
    /// Asks every second, as Litestream does.
    pub fn new(restore: RestoreOptions) -> Self {
        Self {
            restore,
            interval: Duration::from_secs(1),
            observer: None,
        }
    }

    /// Has this called with everything that happens, on a thread of the engine. It should return
    /// at once.
    #[must_use]
    pub fn on_event(mut self, observer: impl Fn(&FollowEvent) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    fn tell(&self, event: &FollowEvent) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }
}

impl fmt::Debug for FollowOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("FollowOptions");
        out.field("restore", &self.restore)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

/// What happens while a replica is followed.
#[derive(Debug)]
#[non_exhaustive]
pub enum FollowEvent {
    /// The copy has been restored, and is followed from here.
    Restored(RestoreReport),
    /// The copy was there, and is followed on from this transaction.
    Resumed {
        /// The transaction.
        txid: Txid,
    },
    /// The copy has a new state.
    Applied {
        /// The transaction whose state it is.
        txid: Txid,
        /// When that was captured.
        created: SystemTime,
        /// How many pages have changed.
        pages: u32,
    },
    /// Readers keep their transactions open, and the copy cannot be changed before they end.
    WaitingForReaders {
        /// For how long by now.
        waited: Duration,
    },
    /// Something failed, and is tried again: until then the copy gets older.
    Failed {
        /// What.
        error: FollowError,
        /// How often in a row.
        times: u32,
    },
}

/// What the copy has when the following ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FollowReport {
    /// The transaction whose state it is; `None` where the end came before the first restore was
    /// complete, or the copy was checked.
    pub txid: Option<Txid>,
    /// Files applied since the start.
    pub files: u64,
}

/// Keeps a copy of a database current, until `stop` is ready.
///
/// Restores the database where there is no copy yet. Connections of SQLite can read the copy all the
/// time, and see one committed state of the database after the other. Works in any async runtime.
/// When the future is dropped, or the process killed, the copy stays whole, and the next call goes on. It waits up to
/// two seconds for a change that had begun then.
///
/// # Errors
///
/// [`FollowError`]. What passes, such as a store that is down, is tried again without end.
pub async fn follow(
    options: FollowOptions,
    stop: impl Future<Output = ()>,
) -> Result<FollowReport, FollowError> {
    let engine = Engine::get().map_err(RestoreError::Start)?;
    let (stopper, stopped) = watch::channel(false);
    let run = run(Arc::clone(&engine), options, stopped);
    let mut task = AbortOnDropHandle::new(engine.handle().spawn(run));
    let ended = tokio::select! {
        ended = &mut task => ended,
        () = stop => {
            stopper.send_replace(true);
            task.await
        }
    };
    match ended {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(RestoreError::Cancelled.into()),
    }
}

async fn run(
    engine: Arc<Engine>,
    options: FollowOptions,
    mut stopped: watch::Receiver<bool>,
) -> Result<FollowReport, FollowError> {
    let begun = tokio::select! {
        begun = begin(&engine, &options) => begun?,
        _ = stopped.wait_for(|stopped| *stopped) => {
            let (txid, files) = (None, 0);
            return Ok(FollowReport { txid, files });
        }
    };
    let (paths, copy) = begun;
    let mut poll = Poll::new(options, paths, copy, stopped.clone());
    let mut failures = 0;
    loop {
        let pause = match poll.catch_up().await {
            Ok(()) => {
                failures = 0;
                poll.options.interval
            }
            Err(error) => {
                failures += 1;
                let patience = match error.patience() {
                    Patience::Endless => u32::MAX,
                    Patience::Some => TRIES,
                    Patience::None => 0,
                };
                if failures > patience {
                    return Err(error);
                }
                tracing::warn!(%error, failures, "cannot update the copy; trying again");
                let times = failures;
                poll.options.tell(&FollowEvent::Failed { error, times });
                pause_after(failures, poll.options.interval)
            }
        };
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(poll.report()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn pause_after(failures: u32, interval: Duration) -> Duration {
    backoff::pause(
        interval.saturating_mul(2),
        LONGEST_PAUSE.max(interval),
        failures,
    )
}

/// Opens the copy, or restores it.
async fn begin(
    engine: &Arc<Engine>,
    options: &FollowOptions,
) -> Result<(Paths, Copy), FollowError> {
    let paths = Paths::claim(engine, &options.restore).await?;
    match open(&paths, options).await {
        Ok(Found::Copy(copy)) => {
            let txid = copy.state().txid;
            tracing::info!(%txid, "going on with a copy");
            options.tell(&FollowEvent::Resumed { txid });
            return Ok((paths, *copy));
        }
        Ok(Found::Nothing) => {}
        Err(FollowError::NotACopy(_) | FollowError::Changed(_))
            if options.restore.existing == ExistingOutput::Replace => {}
        Err(error) => return Err(error),
    }
    let replica = Arc::clone(&options.restore.replica);
    let location = replica.location();
    let plan = restore_plan(replica, RestoreTarget::Latest).await?;
    if !plan.v3_files().is_empty() {
        return Err(FollowError::WrittenByV3 { location });
    }
    let mut first = options.restore.clone();
    first.output.clone_from(&paths.database);
    first.target = RestoreTarget::Latest;
    let prepared = paths.clone();
    first.finish = Some(Arc::new(move |file, applied| {
        let (txid, size, pages) = applied;
        prepare(&prepared, file, txid, size, pages).map_err(|error| match error {
            FollowError::Io {
                path,
                action,
                source,
            } => RestoreError::Io {
                path,
                action,
                source,
            },
            _ => RestoreError::Cancelled,
        })
    }));
    let report = restore(first).await?;
    let Found::Copy(copy) = open(&paths, options).await? else {
        return Err(FollowError::Changed(paths.database));
    };
    // Nothing is waited for after this: who is told so and stops gets a report of this copy.
    options.tell(&FollowEvent::Restored(report));
    Ok((paths, *copy))
}

async fn open(paths: &Paths, options: &FollowOptions) -> Result<Found, FollowError> {
    let (paths, location) = (paths.clone(), options.restore.replica.location());
    blocking(move || Copy::open(&paths, location)).await
}

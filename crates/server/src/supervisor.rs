//! Starts daemons in order, stops them in reverse, reloads them, and turns panics and overruns into errors.

use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::budget;
use crate::daemon::{Daemon, DaemonError, Reloaded};
use crate::error::{Cut, DaemonFailure, ServerError, chain};
use crate::handle::{Control, Phase};

/// A start that is cut short has this long to let go, so that `stop` does not run beside it.
const LET_GO: Duration = Duration::from_millis(500);

pub(crate) struct Supervisor {
    daemons: Vec<Arc<dyn Daemon>>,
    /// How many of them, from the front, have to be stopped.
    running: usize,
}

/// How the start of all daemons ended when none failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Startup {
    Running,
    /// A shutdown was asked for meanwhile.
    CutShort,
}

/// A daemon that did not start, and how.
#[derive(Debug)]
pub(crate) struct StartFailed {
    pub(crate) daemon: String,
    pub(crate) failure: DaemonFailure,
}

impl Supervisor {
    pub(crate) fn new(daemons: Vec<Arc<dyn Daemon>>) -> Result<Self, ServerError> {
        let mut names = HashSet::new();
        if let Some(twice) = daemons.iter().find(|daemon| !names.insert(daemon.name())) {
            return Err(ServerError::DuplicateDaemon {
                name: twice.name().to_owned(),
            });
        }
        Ok(Self {
            daemons,
            running: 0,
        })
    }

    pub(crate) fn daemons(&self) -> &[Arc<dyn Daemon>] {
        &self.daemons
    }

    /// Starts every daemon in order until one fails or a shutdown is asked for.
    pub(crate) async fn start(&mut self, control: &Control) -> Result<Startup, StartFailed> {
        for daemon in &self.daemons {
            let name = daemon.name().to_owned();
            control.enter(Phase::Starting {
                daemon: name.clone(),
            });
            let began = Instant::now();
            let mut start = call({
                let daemon = Arc::clone(daemon);
                async move { daemon.start().await }
            });
            let started = tokio::select! {
                biased;
                () = control.shutdown.cancelled() => {
                    start.abort();
                    let _ = timeout(LET_GO, start).await;
                    self.running += 1;
                    return Ok(Startup::CutShort);
                }
                started = &mut start => outcome(started),
            };
            if let Err(failure) = started {
                tracing::error!(daemon = name, "daemon did not start: {}", chain(&failure));
                return Err(StartFailed {
                    daemon: name,
                    failure,
                });
            }
            tracing::info!(daemon = name, took = ?began.elapsed(), "daemon started");
            self.running += 1;
        }
        Ok(Startup::Running)
    }

    /// Stops in reverse order what was started, by `end` at the latest. One that fails does not keep the
    /// others from being stopped.
    pub(crate) async fn stop(&mut self, control: &Control, end: Instant) -> Vec<Cut> {
        let mut cut = Vec::new();
        while self.running > 0 {
            let left = end.saturating_duration_since(Instant::now());
            let share = budget::for_stop(left, self.running);
            self.running -= 1;
            let daemon = Arc::clone(&self.daemons[self.running]);
            let name = daemon.name().to_owned();
            control.enter(Phase::Stopping {
                daemon: name.clone(),
            });
            let (began, told) = (Instant::now(), budget::told(share));
            let stop = call(async move { daemon.stop(told).await });
            let stopped = match timeout(share, stop).await {
                Ok(stopped) => outcome(stopped),
                Err(_) => Err(DaemonFailure::TimedOut(share)),
            };
            match stopped {
                Ok(()) => tracing::info!(daemon = name, took = ?began.elapsed(), "daemon stopped"),
                Err(failure) => {
                    tracing::error!(daemon = name, "daemon did not stop: {}", chain(&failure));
                    cut.push(Cut::Daemon { name, failure });
                }
            }
        }
        cut
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.daemons.iter().map(|daemon| daemon.name()).collect();
        f.debug_struct("Supervisor")
            .field("daemons", &names)
            .field("running", &self.running)
            .finish()
    }
}

/// Reloads every daemon in order. One that fails does not keep the others from reloading.
pub(crate) async fn reload(daemons: &[Arc<dyn Daemon>]) -> ReloadReport {
    let mut outcomes = Vec::with_capacity(daemons.len());
    for daemon in daemons {
        let name = daemon.name().to_owned();
        let daemon = Arc::clone(daemon);
        let result = outcome(call(async move { daemon.reload().await }).await);
        match &result {
            Ok(Reloaded::Unsupported) => {}
            Ok(partly @ Reloaded::Partly { .. }) => tracing::error!(daemon = name, "{partly}"),
            Ok(reloaded) => tracing::info!(daemon = name, "{reloaded}"),
            Err(failure) => tracing::error!(
                daemon = name,
                "reload refused, the running settings stay: {}",
                chain(failure)
            ),
        }
        outcomes.push(ReloadOutcome {
            daemon: name,
            result,
        });
    }
    ReloadReport { outcomes }
}

/// What a reload did, daemon by daemon in the order of their start.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReloadReport {
    /// One entry for each daemon.
    pub outcomes: Vec<ReloadOutcome>,
}

impl ReloadReport {
    /// Whether no daemon refused anything.
    pub fn is_ok(&self) -> bool {
        let whole = |result: &Result<_, _>| matches!(result, Ok(reloaded) if !matches!(reloaded, Reloaded::Partly { .. }));
        self.outcomes.iter().all(|outcome| whole(&outcome.result))
    }
}

/// What a reload did to one daemon.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReloadOutcome {
    /// Its name.
    pub daemon: String,
    /// A daemon that failed to reload goes on with the settings it had.
    pub result: Result<Reloaded, DaemonFailure>,
}

type Call<T> = AbortOnDropHandle<Result<T, DaemonError>>;

/// Runs one call of a daemon in a task of its own, so that a panic stays in it. The task ends with the
/// handle.
fn call<T: Send + 'static>(
    run: impl Future<Output = Result<T, DaemonError>> + Send + 'static,
) -> Call<T> {
    AbortOnDropHandle::new(tokio::spawn(run))
}

fn outcome<T>(joined: Result<Result<T, DaemonError>, JoinError>) -> Result<T, DaemonFailure> {
    match joined {
        Ok(returned) => returned.map_err(DaemonFailure::Failed),
        Err(error) if error.is_panic() => Err(DaemonFailure::Panicked(panic_message(error))),
        Err(_) => Err(DaemonFailure::RuntimeGone),
    }
}

/// The text of the panic a task ended with.
pub(crate) fn panic_message(error: JoinError) -> String {
    fn text(payload: &(dyn Any + Send)) -> Option<&str> {
        let literal = payload.downcast_ref::<&'static str>().copied();
        literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
    }
    match error.try_into_panic() {
        Ok(payload) => text(payload.as_ref()).unwrap_or("(no message)").to_owned(),
        Err(error) => error.to_string(),
    }
}

//! What the server asks of everything that runs beside its HTTP side.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

/// Whatever went wrong inside a daemon. The server adds the daemon's name.
pub type DaemonError = Box<dyn Error + Send + Sync + 'static>;

/// A background component with an ordered start and an orderly stop.
///
/// The [`Server`](crate::Server) calls `start` once for each daemon, in the order they were added, and
/// `stop` in the reverse order. Every call runs in a task of its own: a panic becomes an error, a call that
/// outlives its deadline is dropped and reported.
///
/// Methods take `&self` because a reload may be asked for by a signal while the application holds the same
/// daemon; what changes belongs behind the daemon's own locks.
///
/// ```
/// use std::time::Duration;
/// use evertide_server::{Daemon, DaemonError, async_trait};
///
/// struct Mailer;
///
/// #[async_trait]
/// impl Daemon for Mailer {
///     fn name(&self) -> &str {
///         "mailer"
///     }
///     async fn start(&self) -> Result<(), DaemonError> {
///         Ok(()) // connect, spawn the worker, return once it runs
///     }
///     async fn stop(&self, _deadline: Duration) -> Result<(), DaemonError> {
///         Ok(()) // send what is queued, or say what was left
///     }
/// }
/// ```
#[async_trait]
pub trait Daemon: Send + Sync + 'static {
    /// How logs and errors call it. Unique within a server.
    fn name(&self) -> &str;

    /// Starts the daemon and returns only when that has succeeded or failed. After an error the daemon
    /// holds nothing: it is not stopped.
    ///
    /// The future may be dropped at any await when a shutdown is asked for meanwhile; then
    /// [`stop`](Self::stop) follows.
    async fn start(&self) -> Result<(), DaemonError>;

    /// Finishes what is under way within `deadline`, or returns an error that names what is not finished.
    ///
    /// When this is called no request is being served any more, and the daemons that were added later have
    /// stopped.
    async fn stop(&self, deadline: Duration) -> Result<(), DaemonError>;

    /// Takes over changed settings. On an error the daemon goes on with the settings it had: where some of them
    /// are in force, that is [`Reloaded::Partly`].
    async fn reload(&self) -> Result<Reloaded, DaemonError> {
        Ok(Reloaded::Unsupported)
    }
}

/// A daemon the application keeps a handle to.
#[async_trait]
impl<D: Daemon + ?Sized> Daemon for Arc<D> {
    fn name(&self) -> &str {
        (**self).name()
    }
    async fn start(&self) -> Result<(), DaemonError> {
        (**self).start().await
    }
    async fn stop(&self, deadline: Duration) -> Result<(), DaemonError> {
        (**self).stop(deadline).await
    }
    async fn reload(&self) -> Result<Reloaded, DaemonError> {
        (**self).reload().await
    }
}

/// What a reload did to one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reloaded {
    /// The daemon has nothing to reload.
    Unsupported,
    /// The settings are the ones it already runs with.
    Unchanged,
    /// It runs with new settings; the text says which, in a line for the log.
    Changed(String),
    /// It runs with new settings but for what failed, and goes on trying where that may help.
    Partly {
        /// Which ones are new, in a line for the log; empty where nothing is.
        changed: String,
        /// What failed, and why.
        failed: String,
    },
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => f.write_str("nothing to reload"),
            Self::Unchanged => f.write_str("settings unchanged"),
            Self::Changed(summary) => write!(f, "new settings: {summary}"),
            Self::Partly { changed, failed } => {
                let done = if changed.is_empty() {
                    "nothing"
                } else {
                    changed
                };
                write!(
                    f,
                    "new settings, but not all of them: failed: {failed}; done: {done}"
                )
            }
        }
    }
}

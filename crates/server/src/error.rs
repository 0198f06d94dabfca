//! What can go wrong between `run` and its return.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::DaemonError;

/// Why [`Server::run`](crate::Server::run) did not end cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be listened on. No daemon runs any more.
    #[error("cannot listen on {address}; free it or choose another address with `Server::listen`")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
        /// Daemons that had started and then could not be stopped cleanly.
        left: Vec<Cut>,
    },
    /// The handlers for SIGINT, SIGTERM and SIGHUP could not be installed.
    #[error("cannot install the signal handlers")]
    Signals(#[source] io::Error),
    /// Two daemons have one name, so that no log line or error could tell them apart.
    #[error("two daemons are named {name:?}; give each daemon of a server a name of its own")]
    DuplicateDaemon {
        /// The name both have.
        name: String,
    },
    /// A daemon did not start. Those started before it have been stopped, in reverse order.
    #[error("daemon {daemon:?} did not start{}", unwound(.left))]
    Start {
        /// The daemon that failed.
        daemon: String,
        /// How it failed.
        #[source]
        failure: DaemonFailure,
        /// Daemons that had started and then could not be stopped cleanly.
        left: Vec<Cut>,
    },
    /// The shutdown ended with something unfinished.
    #[error("the shutdown is incomplete: {}", listed(.cut))]
    Incomplete {
        /// Everything that was cut off or failed to stop, in the order it happened.
        cut: Vec<Cut>,
    },
}

/// How one call of a daemon failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonFailure {
    /// The daemon returned an error.
    #[error(transparent)]
    Failed(DaemonError),
    /// The call panicked, with this message.
    #[error("it panicked: {0}")]
    Panicked(String),
    /// The call was still running when its time was over, and was dropped.
    #[error("still not done after {} and cut off", seconds(.0))]
    TimedOut(Duration),
    /// The runtime ended underneath the call.
    #[error("the asynchronous runtime was shut down underneath it")]
    RuntimeGone,
}

/// One thing a shutdown could not finish.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cut {
    /// A request that was still being answered when the time for draining was over.
    Request {
        /// The request method.
        method: String,
        /// The path, without the query, which may carry secrets.
        path: String,
        /// The client.
        peer: SocketAddr,
        /// How long it had been running.
        running: Duration,
    },
    /// A reload that was under way when the shutdown began and did not end in time.
    Reload,
    /// A daemon that failed to stop.
    Daemon {
        /// Its name.
        name: String,
        /// How its stop failed.
        failure: DaemonFailure,
    },
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request {
                method,
                path,
                peer,
                running,
            } => write!(
                f,
                "request {method} {path} from {peer} was cut off after {}",
                seconds(running)
            ),
            Self::Reload => f.write_str("a reload of the settings was cut off"),
            Self::Daemon { name, failure } => {
                write!(f, "daemon {name:?} did not stop: {}", chain(failure))
            }
        }
    }
}

fn listed(cut: &[Cut]) -> String {
    cut.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

fn unwound(left: &[Cut]) -> String {
    if left.is_empty() {
        String::new()
    } else {
        format!(" (and then: {})", listed(left))
    }
}

fn seconds(duration: &Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// An error with its causes, for a log line. A cause that the text before it quotes is not repeated.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

//! What is shared between a running server, its handles and the signal thread.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::Cut;
use crate::http::InFlight;
use crate::supervisor::ReloadReport;

/// Where a server is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Made, not running yet.
    Created,
    /// A daemon is starting. Nothing is served.
    Starting {
        /// Its name.
        daemon: String,
    },
    /// Every daemon runs and requests are served.
    Serving,
    /// New connections are refused, the requests in flight finish.
    Draining,
    /// A daemon is stopping.
    Stopping {
        /// Its name.
        daemon: String,
    },
    /// [`Server::run`](crate::Server::run) has returned, or the server was dropped.
    Ended,
}

/// The server is not running, so there is nothing to wait for or to reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server has ended or is shutting down")]
pub struct NotRunning;

/// Steers a running server from the program it is embedded in. Cheap to clone.
///
/// Every request carries one, so a handler asks for it with `Extension<ServerHandle>`.
#[derive(Debug, Clone)]
pub struct ServerHandle(pub(crate) Arc<Control>);

impl ServerHandle {
    /// Begins the orderly shutdown, as SIGTERM does. Asking again changes nothing.
    pub fn shut_down(&self) {
        self.0.shutdown.cancel();
    }

    /// Has every daemon reload its settings, as SIGHUP does, and returns what came of it. Requests that
    /// arrive during a reload share the next one.
    pub async fn reload(&self) -> Result<Arc<ReloadReport>, NotRunning> {
        let (reply, report) = oneshot::channel();
        self.0.reloads.send(Some(reply)).map_err(|_| NotRunning)?;
        report.await.map_err(|_| NotRunning)
    }

    /// Returns once requests are served: the address with its real port, or `None` for a server without
    /// HTTP.
    pub async fn serving(&self) -> Result<Option<SocketAddr>, NotRunning> {
        let mut phase = self.0.phase.subscribe();
        let reached = phase
            .wait_for(|phase| !matches!(phase, Phase::Created | Phase::Starting { .. }))
            .await
            .map_err(|_| NotRunning)?;
        match *reached {
            Phase::Serving => Ok(self.local_addr()),
            _ => Err(NotRunning),
        }
    }

    /// The address the server is bound to; `None` before [`Server::run`](crate::Server::run) has bound it.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.0.address.get().copied()
    }

    /// Returns when a shutdown has begun. For handlers that would otherwise never end, such as event
    /// streams and websockets: end them on this, or the drain waits for them until its time is over.
    pub async fn shutting_down(&self) {
        self.0.shutdown.cancelled().await;
    }

    /// Where the server is in its life.
    pub fn phase(&self) -> Phase {
        self.0.phase.borrow().clone()
    }
}

pub(crate) type ReloadRequest = Option<oneshot::Sender<Arc<ReloadReport>>>;

#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) shutdown: CancellationToken,
    pub(crate) in_flight: InFlight,
    pub(crate) address: OnceLock<SocketAddr>,
    phase: watch::Sender<Phase>,
    reloads: mpsc::UnboundedSender<ReloadRequest>,
}

impl Control {
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<ReloadRequest>) {
        let (reloads, requests) = mpsc::unbounded_channel();
        let control = Self {
            shutdown: CancellationToken::new(),
            in_flight: InFlight::default(),
            address: OnceLock::new(),
            phase: watch::Sender::new(Phase::Created),
            reloads,
        };
        (Arc::new(control), requests)
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// As [`ServerHandle::reload`], for a caller that does not wait for the report.
    pub(crate) fn request_reload(&self) {
        // Fails only when the server is past reloading.
        let _ = self.reloads.send(None);
    }

    /// What an abrupt end at this moment leaves unfinished, in words.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let mut unfinished: Vec<_> = self.in_flight.as_cut().iter().map(Cut::to_string).collect();
        match &*self.phase.borrow() {
            Phase::Starting { daemon } => {
                unfinished.push(format!("daemon {daemon:?} was starting"))
            }
            Phase::Draining => unfinished.push("no daemon was stopped yet".to_owned()),
            Phase::Stopping { daemon } => unfinished.push(format!(
                "daemon {daemon:?} and those started before it were not stopped"
            )),
            Phase::Created | Phase::Serving | Phase::Ended => {}
        }
        unfinished
    }
}

/// Enters [`Phase::Ended`] when dropped, so that nobody waits for a server that was dropped unrun.
#[derive(Debug)]
pub(crate) struct EndedOnDrop(pub(crate) Arc<Control>);

impl Drop for EndedOnDrop {
    fn drop(&mut self) {
        self.0.enter(Phase::Ended);
        // Whoever waits for this server to go down need not wait longer.
        self.0.shutdown.cancel();
    }
}

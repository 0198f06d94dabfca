//! The server: what it is made of, and the one function that walks it from start to end.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::budget;
use crate::daemon::Daemon;
use crate::error::{Cut, ServerError};
use crate::handle::{Control, EndedOnDrop, Phase, ReloadRequest, ServerHandle};
use crate::http::{Bound, Http};
use crate::signals::Subscription;
use crate::supervisor::{self, StartFailed, Startup, Supervisor};

/// Below the 30 s that Kubernetes and the 90 s that systemd wait between SIGTERM and SIGKILL.
const DEFAULT_SHUTDOWN_DEADLINE: Duration = Duration::from_secs(25);

/// Nothing beyond this machine unless [`Server::listen`] says so.
const DEFAULT_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// An axum [`Router`] and the daemons that run beside it. See the [crate documentation](crate).
#[must_use = "a server does nothing until `run` is awaited"]
pub struct Server {
    router: Option<Router>,
    address: SocketAddr,
    daemons: Vec<Arc<dyn Daemon>>,
    shutdown_deadline: Duration,
    signals: Signals,
    control: Arc<Control>,
    reloads: UnboundedReceiver<ReloadRequest>,
    ended: EndedOnDrop,
}

#[derive(Debug)]
enum Signals {
    /// From `run` on.
    Handled,
    /// From now on.
    Heard(Subscription),
    LeftAlone,
}

impl Server {
    /// A server for `router` that listens on `127.0.0.1:8080`, has no daemons yet and handles the signals
    /// of the process.
    pub fn new(router: Router) -> Self {
        Self {
            router: Some(router),
            ..Self::without_http()
        }
    }

    /// A server that runs daemons and listens on nothing.
    pub fn without_http() -> Self {
        let (control, reloads) = Control::new();
        Self {
            router: None,
            address: DEFAULT_ADDRESS,
            daemons: Vec::new(),
            shutdown_deadline: DEFAULT_SHUTDOWN_DEADLINE,
            signals: Signals::Handled,
            ended: EndedOnDrop(Arc::clone(&control)),
            control,
            reloads,
        }
    }

    /// Listens on this address. With port 0 the system chooses one: see [`ServerHandle::serving`].
    pub fn listen(mut self, address: impl Into<SocketAddr>) -> Self {
        self.address = address.into();
        self
    }

    /// Adds a daemon. Daemons start in the order they are added and stop in the reverse order, so the one
    /// that others need is added first.
    pub fn add_daemon(mut self, daemon: impl Daemon) -> Self {
        self.daemons.push(Arc::new(daemon));
        self
    }

    /// The most a shutdown may take, from the signal to the return of [`run`](Self::run); 25 s unless set.
    ///
    /// The requests in flight get at most half of it when there are daemons; these share what is left when
    /// their turn comes. Set it some seconds below the time after which whoever sends SIGTERM sends SIGKILL
    /// (`docker stop`: 10 s).
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.shutdown_deadline = deadline;
        self
    }

    /// Handles the signals of the process from now on, for a program that has something to do before
    /// [`run`](Self::run). One that asks for the end is told by [`ServerHandle::shutting_down`], and `run` starts
    /// nothing after it; a reload is made once the daemons run.
    ///
    /// # Errors
    ///
    /// [`ServerError::Signals`]
    pub fn hear_signals(mut self) -> Result<Self, ServerError> {
        let heard = Subscription::new(Arc::clone(&self.control)).map_err(ServerError::Signals)?;
        self.signals = Signals::Heard(heard);
        Ok(self)
    }

    /// Leaves the signals of the process alone; the [`ServerHandle`] shuts down and reloads.
    pub fn without_signals(mut self) -> Self {
        self.signals = Signals::LeftAlone;
        self
    }

    /// A handle to steer the server with, before and while it runs.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle(Arc::clone(&self.control))
    }

    /// Starts the daemons, serves until a shutdown is asked for, and stops everything again.
    ///
    /// Returns `Ok` after a shutdown that finished everything. To end a server early use
    /// [`ServerHandle::shut_down`]; when this future is dropped instead, connections and calls under way
    /// are dropped with it and the daemons are not stopped.
    pub async fn run(self) -> Result<(), ServerError> {
        let Self {
            router,
            address,
            daemons,
            shutdown_deadline,
            signals,
            control,
            reloads,
            ended,
        } = self;
        let _ended = ended;
        let mut supervisor = Supervisor::new(daemons)?;
        let _signals = match signals {
            Signals::Handled => {
                Some(Subscription::new(Arc::clone(&control)).map_err(ServerError::Signals)?)
            }
            Signals::Heard(heard) => Some(heard),
            Signals::LeftAlone => None,
        };
        // Bound before the daemons start, so that a taken address starts nothing.
        let site = router
            .map(|router| Site::bind(router, address, &control))
            .transpose()?;

        let mut shutdown = Shutdown {
            within: shutdown_deadline,
            end: None,
        };
        let served = serve(&mut supervisor, site, reloads, &control, &mut shutdown).await;
        let left = supervisor.stop(&control, shutdown.end()).await;
        match served {
            Ok(cut) => {
                let cut: Vec<_> = cut.into_iter().chain(left).collect();
                if cut.is_empty() {
                    tracing::info!("stopped; nothing was cut off");
                    Ok(())
                } else {
                    Err(ServerError::Incomplete { cut })
                }
            }
            Err(NotServed::Start(StartFailed { daemon, failure })) => Err(ServerError::Start {
                daemon,
                failure,
                left,
            }),
            Err(NotServed::Listen(source)) => Err(ServerError::Listen {
                address,
                source,
                left,
            }),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let daemons: Vec<_> = self.daemons.iter().map(|daemon| daemon.name()).collect();
        f.debug_struct("Server")
            .field("address", &self.router.as_ref().map(|_| self.address))
            .field("daemons", &daemons)
            .field("shutdown_deadline", &self.shutdown_deadline)
            .field("signals", &self.signals)
            .finish_non_exhaustive()
    }
}

/// A router and the address reserved for it.
struct Site {
    router: Router,
    bound: Bound,
}

impl Site {
    fn bind(router: Router, address: SocketAddr, control: &Control) -> Result<Self, ServerError> {
        let bound = Bound::new(address).map_err(|source| ServerError::Listen {
            address,
            source,
            left: Vec::new(),
        })?;
        // Set once: `run` consumes the server.
        let _ = control.address.set(bound.address());
        Ok(Self { router, bound })
    }
}

/// The time limit of the shutdown, counted from the moment it begins.
struct Shutdown {
    within: Duration,
    end: Option<Instant>,
}

impl Shutdown {
    fn end(&mut self) -> Instant {
        // A limit beyond what the clock can express is none; a year is none either.
        const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);
        let within = self.within.min(NO_LIMIT);
        *self.end.get_or_insert_with(|| Instant::now() + within)
    }
}

enum NotServed {
    Start(StartFailed),
    Listen(std::io::Error),
}

/// From the start of the daemons to the end of the drain; stopping the daemons is left to the caller,
/// whatever the outcome. Returns what the drain cut off.
async fn serve(
    supervisor: &mut Supervisor,
    site: Option<Site>,
    requests: UnboundedReceiver<ReloadRequest>,
    control: &Arc<Control>,
    shutdown: &mut Shutdown,
) -> Result<Vec<Cut>, NotServed> {
    if supervisor.start(control).await.map_err(NotServed::Start)? == Startup::CutShort {
        return Ok(Vec::new());
    }
    let daemons: Arc<[_]> = supervisor.daemons().into();
    let http = match site {
        Some(Site { router, bound }) => {
            let address = bound.address();
            let http = bound.listen(router, ServerHandle(Arc::clone(control)));
            let http = http.map_err(NotServed::Listen)?;
            tracing::info!(%address, daemons = daemons.len(), "serving");
            Some(http)
        }
        None => {
            tracing::info!(daemons = daemons.len(), "running");
            None
        }
    };
    control.enter(Phase::Serving);
    let reloads = tokio::spawn(reload_on_request(
        Arc::clone(&daemons),
        requests,
        Arc::clone(control),
    ));
    let reloads = AbortOnDropHandle::new(reloads);

    let http = serve_until_shutdown(http, control).await;

    control.enter(Phase::Draining);
    let drain = budget::for_drain(
        shutdown.end().saturating_duration_since(Instant::now()),
        daemons.len(),
    );
    let drained_by = Instant::now() + drain;
    let mut cut = match http {
        Some(http) => http.drain(drain).await,
        None => Vec::new(),
    };
    // A daemon is not stopped in the middle of its reload.
    if timeout_at(drained_by, reloads).await.is_err() {
        cut.push(Cut::Reload);
    }
    for what in &cut {
        tracing::error!("{what}");
    }
    Ok(cut)
}

async fn serve_until_shutdown(mut http: Option<Http>, control: &Control) -> Option<Http> {
    let asked = control.shutdown.cancelled();
    match &mut http {
        Some(http) => tokio::select! {
            () = asked => {}
            never = http.serve() => match never {},
        },
        None => asked.await,
    }
    http
}

/// One reload at a time. Requests that come in during one are answered together by the next.
async fn reload_on_request(
    daemons: Arc<[Arc<dyn Daemon>]>,
    mut requests: UnboundedReceiver<ReloadRequest>,
    control: Arc<Control>,
) {
    loop {
        let first = tokio::select! {
            biased;
            () = control.shutdown.cancelled() => return,
            request = requests.recv() => match request {
                Some(request) => request,
                None => return,
            },
        };
        let mut waiting = vec![first];
        while let Ok(request) = requests.try_recv() {
            waiting.push(request);
        }
        let report = Arc::new(supervisor::reload(&daemons).await);
        for reply in waiting.into_iter().flatten() {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(Arc::clone(&report));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_beyond_this_machine_is_served_unless_asked_for() {
        let server = Server::new(Router::new());
        assert_eq!(server.address.to_string(), "127.0.0.1:8080");
        assert!(server.address.ip().is_loopback());
    }
}

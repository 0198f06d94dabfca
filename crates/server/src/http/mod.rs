//! The HTTP side: bind, accept, serve, drain.
//!
//! `axum::serve` can wait for its connections but neither cut them off nor tell which requests they were
//! serving, and it waits without limit for a client that sends half a request. So the accept loop is our
//! own, over the same hyper connection.

mod in_flight;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) use in_flight::InFlight;
use in_flight::TicketedBody;

use crate::Cut;
use crate::handle::ServerHandle;

/// Connections waiting to be accepted; the kernel lowers it to its own limit.
const BACKLOG: u32 = 1024;

/// A connection may stay without a complete request this long: idle between two, or slow to send the
/// headers of one. Longer than the 60 s after which the usual proxies drop an idle connection, because the
/// side that closes second never loses a request to the race.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(75);

/// After the last request in flight ended, connections have this long to deliver the response and close.
/// One that is still open then has sent half a request at most.
const LINGER: Duration = Duration::from_secs(1);

/// After a failed accept for want of descriptors or memory, pause instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// An address that is reserved and not listened on yet: clients are refused, not kept waiting, until every
/// daemon runs.
#[derive(Debug)]
pub(crate) struct Bound {
    socket: TcpSocket,
    address: SocketAddr,
}

impl Bound {
    pub(crate) fn new(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // Without it a restart fails for a minute while old connections are in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self {
            address: socket.local_addr()?,
            socket,
        })
    }

    /// The address with its real port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn listen(self, router: Router, server: ServerHandle) -> io::Result<Http> {
        Ok(Http {
            listener: self.socket.listen(BACKLOG)?,
            connections: Connections {
                router,
                server,
                draining: CancellationToken::new(),
                tasks: JoinSet::new(),
            },
        })
    }
}

/// A listener and the connections it accepted. Dropping it drops them all.
#[derive(Debug)]
pub(crate) struct Http {
    listener: TcpListener,
    connections: Connections,
}

#[derive(Debug)]
struct Connections {
    router: Router,
    server: ServerHandle,
    draining: CancellationToken,
    tasks: JoinSet<()>,
}

impl Http {
    /// Accepts and serves until the future is dropped.
    pub(crate) async fn serve(&mut self) -> Infallible {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => self.connections.spawn(stream, peer),
                    Err(error) if is_of_one_connection(&error) => {
                        tracing::debug!(%error, "a connection was gone before it was accepted");
                    }
                    Err(error) => {
                        tracing::error!(%error, "cannot accept connections; trying again");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = self.connections.tasks.join_next() => note(ended),
            }
        }
    }

    /// Refuses new connections, closes idle ones and lets the requests in flight finish. What is not
    /// finished `within` the time is cut off and returned.
    pub(crate) async fn drain(self, within: Duration) -> Vec<Cut> {
        drop(self.listener);
        let mut connections = self.connections;
        connections.draining.cancel();
        let closed = tokio::time::timeout(within, connections.closed()).await;
        let cut = match closed {
            Ok(()) => Vec::new(),
            Err(_) => connections.server.0.in_flight.as_cut(),
        };
        connections.tasks.abort_all();
        cut
    }
}

impl Connections {
    fn spawn(&mut self, stream: TcpStream, peer: SocketAddr) {
        let service = {
            let (router, server) = (self.router.clone(), self.server.clone());
            service_fn(move |request| respond(router.clone(), server.clone(), peer, request))
        };
        let draining = self.draining.clone();
        self.tasks.spawn(async move {
            // Only a lost optimisation when it fails.
            let _ = stream.set_nodelay(true);
            let mut connection = std::pin::pin!(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_READ_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
            );
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = draining.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%peer, %error, "connection ended early");
            }
        });
    }

    /// Returns when every connection has closed, or when those still open serve no request and had their
    /// time to close.
    async fn closed(&mut self) {
        let (tasks, in_flight) = (&mut self.tasks, &self.server.0.in_flight);
        let all_closed = async {
            while let Some(ended) = tasks.join_next().await {
                note(ended);
            }
        };
        let lingered = async {
            loop {
                in_flight.emptied().await;
                tokio::time::sleep(LINGER).await;
                if in_flight.is_empty() {
                    break;
                }
            }
        };
        tokio::select! {
            () = all_closed => {}
            () = lingered => {}
        }
    }
}

async fn respond(
    router: Router,
    server: ServerHandle,
    peer: SocketAddr,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    let ticket = server
        .0
        .in_flight
        .begin(request.method().clone(), request.uri().clone(), peer);
    let mut request: Request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    request.extensions_mut().insert(server);
    let response = router.oneshot(request).await?;
    Ok(response.map(|body| {
        Body::new(TicketedBody {
            body,
            _ticket: ticket,
        })
    }))
}

/// A connection task only ends badly when a handler panicked; the client sees its connection close.
fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(
            panic = crate::supervisor::panic_message(error),
            "a request handler panicked"
        );
    }
}

/// Errors of `accept` that are about the connection being accepted, not about the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

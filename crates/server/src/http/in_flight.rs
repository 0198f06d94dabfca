//! The requests being answered right now, so that a drain can wait for them and name what it cuts off.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{Method, Uri};
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Cut;

/// A request is in flight from its last header byte until the last byte of its response body was handed to
/// the connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlight(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    requests: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    method: Method,
    uri: Uri,
    peer: SocketAddr,
    since: Instant,
}

impl InFlight {
    pub(crate) fn begin(&self, method: Method, uri: Uri, peer: SocketAddr) -> Ticket {
        let mut table = self.0.table();
        let id = table.next;
        table.next += 1;
        table.requests.insert(
            id,
            Entry {
                method,
                uri,
                peer,
                since: Instant::now(),
            },
        );
        Ticket {
            id,
            of: Arc::clone(&self.0),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.table().requests.is_empty()
    }

    /// Returns when no request is in flight.
    pub(crate) async fn emptied(&self) {
        loop {
            // Registered before the look at the table, so that a request ending in between is not missed.
            let mut emptied = std::pin::pin!(self.0.emptied.notified());
            emptied.as_mut().enable();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// What would be cut off now, oldest first.
    pub(crate) fn as_cut(&self) -> Vec<Cut> {
        let table = self.0.table();
        let cut = |entry: &Entry| Cut::Request {
            method: entry.method.to_string(),
            path: entry.uri.path().to_owned(),
            peer: entry.peer,
            running: entry.since.elapsed(),
        };
        table.requests.values().map(cut).collect()
    }
}

impl Shared {
    /// The table is consistent after every statement, so a panic elsewhere does not spoil it.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps its request in the table until dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    id: u64,
    of: Arc<Shared>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut table = self.of.table();
        table.requests.remove(&self.id);
        if table.requests.is_empty() {
            self.of.emptied.notify_waiters();
        }
    }
}

/// A response body that keeps its request in flight until it has been read to the end or dropped.
pub(crate) struct TicketedBody {
    pub(crate) body: Body,
    pub(crate) _ticket: Ticket,
}

impl hyper::body::Body for TicketedBody {
    type Data = <Body as hyper::body::Body>::Data;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

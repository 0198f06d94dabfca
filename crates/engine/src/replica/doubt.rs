//! Whether somebody else may have stored something on a replica that is ours, so that it has to be looked at again.

use std::{sync::Arc, time::Duration};

use evertide_storage::Lease;
use futures_util::FutureExt;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use super::ReplicaContext;

pub(super) struct Doubt {
    /// Notified when maintenance or a drill found something above what was captured here.
    found: Arc<Notify>,
    lease: Arc<Lease>,
    /// How long that lasts.
    lasts: Duration,
    /// Whether the store may give it to two who take it at the same time.
    blind: bool,
    /// Changes with each renewal, in such a store.
    known: watch::Receiver<Option<u64>>,
    /// How often it was taken.
    takings: u64,
    /// When nobody else can be writing any more, who got it at the same time.
    settles: Option<Instant>,
    /// When there was a doubt last.
    since: Option<Instant>,
    unresolved: bool,
}

impl Doubt {
    pub(super) fn new(context: &ReplicaContext, found: Arc<Notify>) -> Self {
        Self {
            found,
            lease: Arc::clone(&context.lease),
            lasts: context.options.lease_duration,
            blind: !context.client.capabilities().compare_and_set,
            known: context.lease.known(),
            takings: 0,
            settles: None,
            since: None,
            unresolved: false,
        }
    }

    /// Whether the store may give the lease to two who take it at the same time.
    pub(super) fn is_blind(&self) -> bool {
        self.blind
    }

    /// Whether the replica has to be looked at again, or is just now, for a doubt.
    pub(super) fn is_unresolved(&self) -> bool {
        self.unresolved
    }

    pub(super) fn resolved(&mut self) {
        self.unresolved = false;
    }

    /// Whether there is reason to look again.
    pub(super) fn arises(&mut self) -> bool {
        let now = Instant::now();
        let takings = self.lease.takings();
        if takings > std::mem::replace(&mut self.takings, takings) && self.blind {
            // Whoever else got the lease learns that it has lost it, and what it sent has arrived, by then.
            self.settles = Some(now + self.lasts * 5 / 4);
        }
        let settled = self.settles.take_if(|at| *at <= now).is_some();
        let found = self.found.notified().now_or_never().is_some();
        // Somebody who goes on all the same must not cost a snapshot each time that this is noticed.
        let is_new = self.since.is_none_or(|at| now - at >= self.lasts);
        if settled || (found && is_new) {
            (self.unresolved, self.since) = (true, Some(now));
            return true;
        }
        false
    }

    /// Waits until it has to be asked again.
    pub(super) async fn wait(&mut self) {
        let settles = async {
            match self.settles {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = settles => {}
            Ok(()) = self.known.changed() => {}
            () = self.found.notified() => self.found.notify_one(), // for when it is asked
        }
    }
}

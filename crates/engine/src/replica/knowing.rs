//! Keeps beside the database which lease a replica is known to have, for the process after this one.

use std::sync::Arc;

use evertide_storage::{Disk, Lease};
use tokio::sync::watch;

use super::ReplicaContext;
use crate::{runtime::blocking, state::LocalIdentity};

/// What a lease says that is known of it ([`Lease::known`]), and where it is kept.
pub(super) struct Knowing {
    known: watch::Receiver<Option<u64>>,
    identity: Arc<LocalIdentity>,
    disk: Arc<dyn Disk>,
    location: String,
    replica: String,
    /// For as long as it may say more.
    _lease: Arc<Lease>,
}

impl Knowing {
    pub(super) fn new(context: &ReplicaContext) -> Self {
        Self {
            known: context.lease.known(),
            identity: Arc::clone(&context.identity),
            disk: Arc::clone(&context.disk),
            location: context.client.location(),
            replica: context.options.name.clone(),
            _lease: Arc::clone(&context.lease),
        }
    }

    /// Notes it whenever it changes.
    pub(super) async fn run(&mut self) {
        while self.known.changed().await.is_ok() {
            self.note().await;
        }
    }

    /// Notes what is known.
    pub(super) async fn note(&mut self) {
        let Some(known) = *self.known.borrow_and_update() else {
            return;
        };
        let identity = Arc::clone(&self.identity);
        let (disk, location) = (Arc::clone(&self.disk), self.location.clone());
        let noted = blocking(move || identity.leases.note(&*disk, &location, known)).await;
        if let Err(error) = noted {
            tracing::warn!(
                replica = self.replica, %error,
                "cannot note which lease the replica has; the next start waits until it ends"
            );
        }
    }
}

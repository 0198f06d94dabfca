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
            biased;
            () = settles => {}
            Ok(()) = self.known.changed() => {}
            () = self.found.notified() => self.found.notify_one(), // for when it is asked
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::SystemTime};

    use evertide_ltx::{Level, LtxName, Txid};
    use evertide_storage::{Identity, ManualClock, MemoryClient, ReplicaClient, bytes_stream};

    use super::{
        super::{
            faulty::{Fault, Faulty},
            scene::Scene,
            upkeep::tests::snapshot,
        },
        *,
    };
    use crate::state::owner;

    const FAR_ABOVE: Txid = Txid::new(0x7_0000_0000);

    /// What somebody else has stored.
    async fn bury(store: &dyn ReplicaClient, created: SystemTime, newest: Txid) -> LtxName {
        let (name, content) = snapshot(newest.get());
        let body = bytes_stream(content);
        store
            .put(Level::SNAPSHOT, name, created, body)
            .await
            .unwrap();
        name
    }

    async fn newest(store: &dyn ReplicaClient) -> Txid {
        let snapshots = store.list(Level::SNAPSHOT, None).await.unwrap();
        snapshots
            .iter()
            .map(|object| object.name.max)
            .max()
            .unwrap()
    }

    fn doubt(lasts: Duration) -> Doubt {
        let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
        let us = owner(Identity::random(), Path::new("/app.db")).unwrap();
        let store = Arc::new(MemoryClient::service("bucket"));
        let lease = Arc::new(Lease::new(store, clock, us, lasts));
        Doubt {
            found: Arc::default(),
            known: lease.known(),
            lease,
            lasts,
            blind: false,
            takings: 0,
            settles: None,
            since: None,
            unresolved: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_who_goes_on_all_the_same_is_looked_for_once_in_the_time_of_a_lease() {
        let mut doubt = doubt(Duration::from_secs(10));
        assert!(!doubt.arises() && !doubt.is_unresolved());
        let mut looks = Vec::new();
        for second in 0..35 {
            doubt.found.notify_one();
            if doubt.arises() {
                looks.push(second);
                assert!(doubt.is_unresolved());
                doubt.resolved();
            }
            assert!(!doubt.is_unresolved());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(looks, [0, 10, 20, 30]);
    }

    /// A store that compares lets nobody in whom the lease does not name.
    #[tokio::test(start_paused = true)]
    async fn who_may_be_one_of_two_begins_with_transactions_of_its_own() {
        let second = Duration::from_secs(1);
        for (fault, right_above) in [(Fault::Nothing, true), (Fault::ComparesNothing, false)] {
            let memory = Arc::new(MemoryClient::service("bucket"));
            bury(&*memory, SystemTime::UNIX_EPOCH, Txid::new(5)).await;
            let store = Faulty::new(memory.clone(), fault);
            let mut scene = Scene::start(Arc::new(store), second);
            scene.database.live(10 * second, None).await;
            assert!(newest(&*memory).await > Txid::new(5));
            assert_eq!(newest(&*memory).await == Txid::new(6), right_above);
            scene.cancel.cancel();
        }
    }

    /// Two got the lease at the same moment. The other one knows by now; nothing is written after it.
    #[tokio::test(start_paused = true)]
    async fn who_is_buried_by_another_that_got_the_lease_as_well_begins_above() {
        let second = Duration::from_secs(1);
        let memory = Arc::new(MemoryClient::service("bucket"));
        let store = Faulty::new(memory.clone(), Fault::ComparesNothing);
        let mut scene = Scene::start(Arc::new(store), second);
        scene.database.live(40 * second, Some(3 * second)).await;
        bury(&*memory, scene.database.time(), FAR_ABOVE).await;
        scene.database.live(60 * second, Some(20 * second)).await;
        assert_eq!(newest(&*memory).await, FAR_ABOVE);
        scene.database.live(120 * second, None).await;
        assert!(newest(&*memory).await > FAR_ABOVE);
        let status = scene.database.replica();
        assert_eq!((status.txid, status.error), (scene.database.txid(), None));
        scene.cancel.cancel();
    }

    /// However that came.
    #[tokio::test(start_paused = true)]
    async fn who_is_buried_by_what_maintenance_finds_begins_above() {
        let minute = Duration::from_secs(60);
        let memory = Arc::new(MemoryClient::service("bucket"));
        let mut scene = Scene::start_with(memory.clone(), |options| {
            options.retention = Some(120 * minute);
        });
        scene.database.live(10 * minute, Some(minute)).await;
        bury(&*memory, scene.database.time(), FAR_ABOVE).await;
        scene.database.live(180 * minute, Some(10 * minute)).await;
        assert!(newest(&*memory).await > FAR_ABOVE);
        let status = scene.database.replica();
        assert_eq!((status.txid, status.error), (scene.database.txid(), None));
        scene.cancel.cancel();
    }

    /// No transaction can follow, or too few for all who take over.
    #[tokio::test(start_paused = true)]
    async fn a_file_with_the_last_transaction_of_all_is_named_and_nothing_goes_on_before_it_is_away()
     {
        let minute = Duration::from_secs(60);
        let nearly = u64::MAX - 0x1_0000_0000;
        for (last, pause) in [
            (u64::MAX, Some(10 * minute)),
            (u64::MAX - 1, Some(10 * minute)),
            (nearly, Some(10 * minute)),
            (nearly, None),
        ] {
            let memory = Arc::new(MemoryClient::service("bucket"));
            let mut scene = Scene::start_with(memory.clone(), |options| {
                options.retention = Some(120 * minute);
            });
            scene.database.live(10 * minute, Some(minute)).await;
            let name = bury(&*memory, scene.database.time(), Txid::new(last)).await;
            scene.database.live(180 * minute, pause).await;
            let status = scene.database.replica();
            let (error, maintenance_error) = (status.error.unwrap(), status.maintenance_error);
            for error in [error, maintenance_error.unwrap()] {
                assert!(
                    error.contains(&format!("{name} of level 9 at memory:bucket")),
                    "{error}"
                );
            }
            assert!(status.refused);
            memory.delete(Level::SNAPSHOT, &[name]).await.unwrap();
            scene.database.live(180 * minute, pause).await;
            let status = scene.database.replica();
            assert_eq!((status.txid, status.error), (scene.database.txid(), None));
            assert_eq!(status.maintenance_error, None);
            scene.cancel.cancel();
        }
    }

    /// What this database would store above it would be refused.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_stored_above_a_file_that_leaves_too_few_transactions() {
        let minute = Duration::from_secs(60);
        let memory = Arc::new(MemoryClient::service("bucket"));
        let nearly = Txid::new(u64::MAX - (256 << 32) - 5);
        let mut scene = Scene::start_with(memory.clone(), |options| {
            options.retention = Some(120 * minute);
        });
        scene.database.live(10 * minute, Some(minute)).await;
        let name = bury(&*memory, scene.database.time(), nearly).await;
        scene.database.live(180 * minute, Some(10 * minute)).await;
        let error = scene.database.replica().error.unwrap();
        assert!(error.contains(&name.to_string()), "{error}");
        assert_eq!(newest(&*memory).await, nearly);
        scene.cancel.cancel();
    }
}

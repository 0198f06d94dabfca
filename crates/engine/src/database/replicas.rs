//! The replicas of a database: their tasks, and the staged files that wait for them.

use std::sync::{Arc, atomic::AtomicBool};

use evertide_ltx::Txid;
use evertide_storage::{CountingClient, Lease, LeasedClient, Owner, ReplicaClient, RequestKind};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{Captured, Database, RunningReplica, slow_look};
use crate::{
    DatabaseStatus, Error, ReplicaOptions, ReplicaStatus, ReplicationOptions,
    capture::Capture,
    error::describe,
    replica::{self, ReplicaContext},
    runtime::DestinationClaim,
    state::{Tip, owner},
};

impl Database {
    /// Notes what a replica has, and removes staged files that every replica has and compacted, or the
    /// oldest where they take too much disk.
    pub(super) async fn release_staged(&mut self, arrived: Option<Tip>) {
        let needs = {
            let status = self.status.borrow();
            let had = status.replicas.iter().map(|replica| replica.txid).min();
            let merged = status.replicas.iter().map(|replica| replica.merged).min();
            had.zip(merged)
        };
        let Some((had, merged)) = needs else { return };
        let limit = self.options.stage_limit;
        let result = self
            .with_capture(move |capture| {
                if let Some(tip) = arrived {
                    capture.note_tip(tip);
                }
                capture.release_staged(had, merged)?;
                capture.shrink_stage(limit)
            })
            .await;
        match result {
            Ok(None) => {}
            Ok(Some(txid)) => self.shrunk(txid),
            Err(error) => tracing::warn!(error = describe(&error), "cannot remove staged files"),
        }
        self.publish_staged();
    }

    /// Reports once for each absence that a replica will not get every transaction by itself.
    fn shrunk(&mut self, txid: Txid) {
        let status = self.status.borrow();
        let behind = status.replicas.iter().filter(|replica| replica.txid < txid);
        let behind: Vec<&str> = behind.map(|replica| replica.name.as_str()).collect();
        if !behind.is_empty() && self.shrunk_for.as_deref() != Some(&behind.join(", ")) {
            let behind = behind.join(", ");
            tracing::warn!(
                database = %self.config.path.display(), %txid, replicas = behind,
                "what waits for replicas that are behind is as large as allowed, and the oldest of \
                 it is removed; when they are back they get all pages that changed meanwhile"
            );
            drop(status);
            self.shrunk_for = Some(behind);
        }
    }

    /// Replicas that are away release nothing.
    pub(super) async fn limit_stage(&mut self) {
        let files = |capture: &Capture| capture.state.stage.files().iter().map(|f| f.bytes).sum();
        let bytes: u64 = self.capture.as_deref().map_or(0, files);
        if bytes > self.options.stage_limit {
            self.release_staged(None).await;
        }
    }

    pub(super) fn publish_staged(&self) {
        if let Some(capture) = &self.capture {
            let now = Captured::of(capture);
            // Fewer staged files are no news for anybody who has them. A transaction is, if a step
            // captured it and failed after that.
            self.captured.send_if_modified(|before| {
                let news = before.txid != now.txid;
                *before = now;
                news
            });
        }
    }

    /// Goes on with other settings. Nobody sees those before once these are in force, and what nobody waits for any
    /// more does not come into force: who stopped waiting may say next that all is to stay as it is.
    pub(super) fn update(
        &mut self,
        options: ReplicationOptions,
        asked: &oneshot::Sender<Result<(), Error>>,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        let in_force = self.config.in_force.clone();
        in_force.send_if_modified(|in_force| {
            if asked.is_closed() {
                return false;
            }
            result = self.set_replicas(options.clone());
            if result.is_ok() {
                *in_force = options;
            }
            result.is_ok()
        });
        result
    }

    /// Starts, ends and changes replicas' tasks so that they are the ones of `options`.
    pub(super) fn set_replicas(&mut self, mut options: ReplicationOptions) -> Result<(), Error> {
        let bounded = options.replicas.into_iter().map(ReplicaOptions::bounded);
        options.replicas = bounded.collect();
        let home = self.engine.home(&self.config.path);
        let owner = owner(self.identity.owner, &home).map_err(|source| Error::Io {
            path: self.config.path.clone(),
            action: "tell which machine has",
            source,
        })?;
        let mut clients = Vec::new();
        for replica in &options.replicas {
            let unchanged = self
                .replicas
                .iter()
                .any(|running| running.options == *replica);
            if !unchanged {
                let claim = self.claim(replica)?;
                let disk = Arc::clone(&self.config.disk);
                let client = self.engine.connect(replica, &self.config.path, disk);
                let client = client.map_err(|source| Error::Replica {
                    name: replica.name.clone(),
                    source,
                })?;
                clients.push((replica.clone(), claim, client));
            }
        }
        self.replicas
            .retain(|running| options.replicas.contains(&running.options));
        self.ticks = self.engine.ticks(slow_look(&options, self.watch.as_ref()));
        self.status.send_modify(|status| {
            status
                .replicas
                .retain(|r| self.replicas.iter().any(|k| k.options.name == r.name));
            for (replica, _, client) in &clients {
                let (name, location) = (replica.name.clone(), client.location());
                let merged = replica::merged_at_start(&**client, replica);
                let new = ReplicaStatus::new(name, location, merged);
                status.replicas.push(new);
            }
            let order = |name: &str| options.replicas.iter().position(|r| r.name == name);
            status.replicas.sort_by_key(|replica| order(&replica.name));
        });
        for (replica, claim, client) in clients {
            self.start_replica(replica, claim, client, owner.clone());
        }
        self.options = options;
        Ok(())
    }

    /// The place of a replica, which no other database of this process may have.
    fn claim(&self, replica: &ReplicaOptions) -> Result<DestinationClaim, Error> {
        let (path, destination) = (&self.config.path, replica.destination.to_string());
        let claim = self.engine.claim_destination(destination.clone(), path);
        claim.map_err(|other| Error::DestinationInUse {
            path: path.clone(),
            destination,
            other,
        })
    }

    fn start_replica(
        &mut self,
        options: ReplicaOptions,
        _claim: DestinationClaim,
        client: Arc<dyn ReplicaClient>,
        owner: Owner,
    ) {
        let cancel = CancellationToken::new();
        let database = self.config.path.display().to_string();
        let client = counted(client, database, options.name.clone(), self.status.clone());
        let clock = Arc::clone(&self.config.clock);
        let known = self.identity.leases.of(&client.location());
        let lease = Lease::new(Arc::clone(&client), clock, owner, options.lease_duration);
        let lease = Arc::new(lease.knowing(known));
        let continuable = Arc::new(AtomicBool::new(true));
        let context = ReplicaContext {
            options: options.clone(),
            client: Arc::new(LeasedClient::new(client, Arc::clone(&lease))),
            lease,
            identity: Arc::clone(&self.identity),
            succession: self.config.succession,
            disk: Arc::clone(&self.config.disk),
            clock: Arc::clone(&self.config.clock),
            captured: self.captured.subscribe(),
            flush: self.flush.subscribe(),
            status: self.status.clone(),
            commands: self.commands.clone(),
            stopping: self.stopping.clone(),
            time_is_up: self.time_is_up.clone(),
            continuable: Arc::clone(&continuable),
        };
        let task = self.engine.task(replica::run(context, cancel.clone()));
        self.tasks.spawn_on(task, self.engine.handle());
        let _task = cancel.drop_guard();
        self.replicas.push(RunningReplica {
            options,
            _claim,
            continuable,
            _task,
        });
    }

    /// Ends the replicas' tasks, all at a time. What they have not done at `end` they do no more.
    pub(super) async fn end_replicas(&mut self, end: Instant) {
        self.replicas.clear();
        self.tasks.close();
        if timeout_at(end, self.tasks.wait()).await.is_err() {
            self.time_is_up.cancel();
            self.tasks.wait().await;
        }
    }
}

/// A client whose requests are counted, in metrics and in the status of the replica of this name.
fn counted(
    client: Arc<dyn ReplicaClient>,
    database: String,
    name: String,
    status: watch::Sender<DatabaseStatus>,
) -> Arc<dyn ReplicaClient> {
    let observer = move |kind: RequestKind, requests| {
        let labels = [
            ("database", database.clone()),
            ("replica", name.clone()),
            ("kind", kind.as_str().to_owned()),
        ];
        metrics::counter!("evertide_requests_total", &labels).increment(requests);
        status.send_if_modified(|status| {
            let mut replicas = status.replicas.iter_mut();
            if let Some(replica) = replicas.find(|replica| replica.name == name) {
                replica.requests.add(kind, requests);
            }
            false
        });
    };
    Arc::new(CountingClient::observed(client, observer))
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::UNIX_EPOCH};

    use evertide_ltx::{Level, LtxName};
    use evertide_storage::{MemoryClient, bytes_stream};
    use evertide_testkit::Metrics;

    use super::*;

    #[tokio::test]
    async fn metrics_count_the_requests_that_the_status_has_also_where_a_call_takes_several() {
        let metrics = Metrics::default();
        let _local = metrics::set_default_local_recorder(&metrics);
        let mut status = DatabaseStatus::new(Path::new("/app.db").into());
        let replica = ReplicaStatus::new("it".into(), "bucket".into(), Txid::ZERO);
        status.replicas.push(replica);
        let status = watch::Sender::new(status);
        let store = Arc::new(MemoryClient::service("bucket"));
        let client = counted(store, "/app.db".into(), "it".into(), status.clone());
        let name = |txid| LtxName::new(Txid::new(txid), Txid::new(txid));
        let names: Vec<LtxName> = (1..=40).map(name).collect();
        for name in &names {
            let body = bytes_stream("content".into());
            let put = client.put(Level::L0, *name, UNIX_EPOCH, body);
            put.await.unwrap();
        }
        client.list(Level::L0, None).await.unwrap();
        client.find(Level::L0, &names).await.unwrap();
        client.delete(Level::L0, &names).await.unwrap();
        let requests = status.borrow().replicas[0].requests;
        assert!(requests.get > 40, "for two calls: {requests:?}");
        for (kind, expected) in [
            ("put", requests.put),
            ("get", requests.get),
            ("list", requests.list),
            ("delete", requests.delete),
        ] {
            let labels = [("database", "/app.db"), ("replica", "it"), ("kind", kind)];
            let counted = metrics.counter("evertide_requests_total", &labels);
            assert_eq!(counted, Some(expected), "{kind}");
        }
    }
}

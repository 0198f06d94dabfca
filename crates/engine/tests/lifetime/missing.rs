//! Each file of a replica is lost once, whatever its level.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use evertide::{
    RestoreError, RestoreOptions, RestoreReport, RestoreTarget, Txid, restore, restore_plan,
};
use evertide_storage::{LtxObject, MemoryClient, ReplicaClient, bytes_stream};
use fastrand::Rng;

use crate::{
    life::Life,
    model::Model,
    promise::{Listing, reached_at},
    schedule::{HOUR, MINUTE, SECOND},
    year::default_options,
};

/// A replica some hours old, with all levels and several snapshots.
struct Replica {
    client: Arc<MemoryClient>,
    model: Model,
    files: Listing,
    dir: tempfile::TempDir,
}

impl Replica {
    async fn new(seed: u64) -> Self {
        let mut options = default_options();
        options.levels = vec![30 * SECOND, 10 * MINUTE];
        options.level_0_retention = 4 * HOUR;
        options.snapshot_interval = 5 * HOUR;
        let mut life = Life::new(seed, options);
        life.live(18 * HOUR).await;
        Self {
            client: Arc::clone(&life.store.inner),
            files: life.store.objects(),
            model: life.model,
            dir: evertide_testkit::memory_dir(),
        }
    }

    async fn restored(&self, target: RestoreTarget) -> Result<(RestoreReport, bool), RestoreError> {
        let output = self.dir.path().join("restored.db");
        let mut options = RestoreOptions::new(self.client.clone(), &output);
        options.target = target;
        let report = restore(options).await?;
        let restored = std::fs::read(&output).unwrap();
        std::fs::remove_file(&output).unwrap();
        let right = restored == self.model.content(report.txid);
        Ok((report, right))
    }

    /// The states that a restore takes each file for: the transaction, and when it was captured.
    async fn uses(&self) -> BTreeMap<String, Vec<(Txid, SystemTime)>> {
        let mut uses = BTreeMap::<_, Vec<_>>::new();
        let states = self
            .files
            .values()
            .map(|file| (file.name.max, file.created));
        for (txid, created) in states.collect::<BTreeMap<_, _>>() {
            let target = RestoreTarget::Txid(txid);
            let plan = restore_plan(self.client.clone(), target).await.unwrap();
            for file in plan.files() {
                uses.entry(key(file)).or_default().push((txid, created));
            }
        }
        uses
    }

    /// The state after a transaction, with that of a time before it for which something else is taken.
    async fn assert_restored_or_refused(
        &self,
        left: &Listing,
        txid: Txid,
        created: SystemTime,
    ) -> bool {
        let admitted = |file: &&LtxObject| file.name.max <= txid;
        let admitted = left.values().filter(admitted).cloned();
        let admitted = admitted
            .map(|file| ((file.level, file.name), file))
            .collect();
        let (reached, _) = reached_at(&admitted, [created])[0];
        let covered = reached == txid;
        match self.restored(RestoreTarget::Txid(txid)).await {
            Ok((report, right)) => {
                assert!(covered && right && report.txid == txid, "{report:?}");
            }
            Err(error) => {
                assert!(!covered, "{txid}: {error}");
                assert_names_what_is_missing(&error, reached, txid, left);
            }
        }
        // At that time it may be an older state, which the report tells, and never a wrong one.
        let (reached, gap) = reached_at(left, [created])[0];
        match self.restored(RestoreTarget::Timestamp(created)).await {
            Ok((report, right)) => assert!(right && report.txid == reached, "{report:?}"),
            Err(error) => {
                assert!(gap || reached == Txid::ZERO, "{txid}: {error}");
                assert_names_what_is_missing(&error, reached, txid, left);
            }
        }
        covered
    }
}

fn key(file: &LtxObject) -> String {
    format!("{} of level {}", file.name, file.level)
}

/// The error says between which transactions the files are that are missing.
fn assert_names_what_is_missing(error: &RestoreError, reached: Txid, wanted: Txid, left: &Listing) {
    let text = error.to_string();
    let named = match error {
        RestoreError::Gap { have, next, .. } => {
            let follows = left.values().all(|file| !file.name.extends(*have));
            assert!(
                *have == reached && next.min > have.next() && follows,
                "{text}"
            );
            vec![have.to_string(), next.to_string()]
        }
        RestoreError::TxidNotAvailable {
            wanted: said,
            have,
            next,
            ..
        } => {
            assert!(*said == wanted && *have == reached, "{text}");
            let next = next.map(|next| next.max.to_string());
            [Some(wanted.to_string()), Some(have.to_string()), next]
                .into_iter()
                .flatten()
                .collect()
        }
        RestoreError::NoSnapshot { first, .. } => {
            assert_eq!(reached, Txid::ZERO, "{text}");
            let first = first.as_ref().map(|(first, _)| first.to_string());
            first.into_iter().collect()
        }
        other => panic!("{other}"),
    };
    assert!(
        text.contains("memory:") && named.iter().all(|named| text.contains(named)),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn whichever_file_is_lost_what_others_hold_is_restored_and_else_it_is_said_what_is_missing() {
    let mut random = Rng::with_seed(evertide_testkit::seed());
    let (mut covered, mut refused) = (0, 0);
    for _ in 0..8 {
        let replica = Replica::new(random.u64(..)).await;
        let uses = replica.uses().await;
        for (place, file) in &replica.files {
            let content = bytes_stream(
                evertide_storage::collect(
                    replica
                        .client
                        .get(file.level, file.name, None)
                        .await
                        .unwrap(),
                    usize::MAX,
                )
                .await
                .unwrap(),
            );
            replica
                .client
                .delete(file.level, &[file.name])
                .await
                .unwrap();
            let mut left = replica.files.clone();
            left.remove(place);
            for (txid, created) in uses.get(&key(file)).into_iter().flatten() {
                match replica
                    .assert_restored_or_refused(&left, *txid, *created)
                    .await
                {
                    true => covered += 1,
                    false => refused += 1,
                }
            }
            let put = replica
                .client
                .put(file.level, file.name, file.created, content);
            put.await.unwrap();
        }
    }
    eprintln!("{covered} states restored without a file of theirs, {refused} refused");
    assert!(covered > 50 && refused > 50, "{covered} and {refused}");
}

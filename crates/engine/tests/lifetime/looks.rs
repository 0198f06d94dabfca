//! How often a replica is looked at for what retention may delete.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide::{Maintenance, ReplicaOptions};
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    CountingClient, Destination, ManualClock, MemoryClient, ReplicaClient, bytes_stream,
};
use fastrand::Rng;

use crate::{
    model::Model,
    schedule::{HOUR, MINUTE, SECOND},
};

/// How long it is written to.
const TIME: Duration = Duration::from_secs(6 * 3_600);
const LEVELS: u64 = 10;

/// A file grows old every half minute, and each could be a reason to look.
#[tokio::test]
async fn all_levels_are_listed_once_in_each_interval_of_checks_at_most_while_files_grow_old() {
    for interval in [20 * MINUTE, HOUR] {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut model = Model::new(Rng::with_seed(evertide_testkit::seed()), start);
        let memory = MemoryClient::service("bucket");
        let store = Arc::new(CountingClient::new(Arc::new(memory)));
        let mut options = ReplicaOptions::new("bucket", Destination::file("/nowhere").unwrap());
        options.levels.truncate(1);
        options.snapshot_interval = 10 * MINUTE;
        options.retention = Some(HOUR);
        options.retention_check_interval = interval;
        let clock = Arc::new(ManualClock::new(start));
        let mut maintenance = Maintenance::new(store.clone(), &options, clock.clone());
        let (mut now, mut looks) = (start, Vec::new());
        while now < start + TIME {
            let txid = model.newest();
            let level = match txid {
                Txid::FIRST => Level::SNAPSHOT,
                _ => Level::L0,
            };
            let name = LtxName::new(txid, txid);
            let body = bytes_stream(model.file(name));
            let put = store.put(level, name, model.created(txid), body);
            maintenance.arrived(put.await.unwrap());
            let before = store.requests().list;
            maintenance.run().await.unwrap();
            if store.requests().list > before {
                assert_eq!(store.requests().list, before + LEVELS, "at {now:?}");
                looks.push(now);
            }
            now += 30 * SECOND;
            clock.set(now);
            model.commit(now);
        }
        // The first one is that of the start.
        for pair in looks.windows(2) {
            let pause = pair[1].duration_since(pair[0]).unwrap();
            assert!(pause >= interval, "{pause:?} between two looks");
        }
        let most = TIME.as_secs() / interval.as_secs() + 1;
        assert!((3..=most).contains(&(looks.len() as u64)), "{looks:?}");
        // Nothing is left for longer than that.
        let snapshots = store.list(Level::SNAPSHOT, None).await.unwrap();
        let oldest = snapshots.iter().map(|file| file.created).min().unwrap();
        let age = now.duration_since(oldest).unwrap();
        let deleted = maintenance.done().deleted;
        let kept = HOUR + interval + options.snapshot_interval;
        assert!(deleted > 500 && age <= kept, "{deleted} deleted, {age:?}");
    }
}

//! How many requests at a time a restore of an old replica makes.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide::{RestoreOptions, restore};
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    ByteStream, Capabilities, Error, LtxObject, Precondition, ReplicaClient, SmallKey, SmallObject,
    V3Key, V3Object, Version,
};

use crate::{
    golden::{folder, set_times},
    scene::{connect, copy},
};

/// Counts the requests for files that are under way.
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn ReplicaClient>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl ReplicaClient for Counting {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        self.inner.list(level, after).await
    }

    async fn list_v3(&self) -> Result<Vec<V3Object>, Error> {
        self.inner.list_v3().await
    }

    async fn get_v3(&self, key: &V3Key, range: Option<Range<u64>>) -> Result<ByteStream, Error> {
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(under_way, Ordering::SeqCst);
        // Whoever would ask for more has the time to do so.
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        self.inner.get_v3(key, range).await
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        self.inner.get(level, name, range).await
    }

    async fn put(
        &self,
        _: Level,
        _: LtxName,
        _: SystemTime,
        _: ByteStream,
    ) -> Result<LtxObject, Error> {
        unreachable!("a restore writes nothing to a replica")
    }

    async fn delete(&self, _: Level, _: &[LtxName]) -> Result<(), Error> {
        unreachable!("a restore deletes nothing from a replica")
    }

    async fn get_small(&self, _: &SmallKey) -> Result<Option<SmallObject>, Error> {
        Ok(None)
    }

    async fn put_small(&self, _: &SmallKey, _: Bytes, _: Precondition) -> Result<Version, Error> {
        unreachable!("a restore writes nothing to a replica")
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        Ok(Vec::new())
    }

    async fn delete_small(&self, _: &SmallKey) -> Result<(), Error> {
        unreachable!("a restore deletes nothing from a replica")
    }
}

#[tokio::test]
async fn an_old_replica_is_read_with_as_many_requests_at_a_time_as_allowed_and_no_more() {
    let dir = evertide_testkit::temp_dir();
    let replica = dir.path().join("replica");
    copy(&folder().join("replica"), &replica);
    set_times(&replica);
    for parallelism in [1, 3] {
        let client = Arc::new(Counting {
            inner: connect(&replica),
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let output = dir.path().join(format!("{parallelism}.db"));
        let mut options = RestoreOptions::new(client.clone(), &output);
        options.parallelism = parallelism;
        let report = restore(options).await.unwrap();
        assert!(report.files > 3, "{report:?}");
        assert_eq!(client.most.load(Ordering::SeqCst), parallelism);
        let expected = std::fs::read(folder().join("restored.db")).unwrap();
        assert!(std::fs::read(&output).unwrap() == expected);
    }
}

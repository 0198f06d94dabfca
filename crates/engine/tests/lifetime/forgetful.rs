//! A store that says it has deleted, and has not: retention must not take its word for it.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide::{Error, Maintenance, ReplicaOptions};
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    ByteStream, Capabilities, Destination, Error as StoreError, LtxObject, ManualClock,
    MemoryClient, Precondition, ReplicaClient, SmallKey, SmallObject, Version, bytes_stream,
};

/// Answers that all is well, and deletes nothing.
#[derive(Debug)]
struct Forgetful(MemoryClient);

#[async_trait]
impl ReplicaClient for Forgetful {
    fn location(&self) -> String {
        self.0.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, StoreError> {
        self.0.list(level, after).await
    }

    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, StoreError> {
        self.0.date(objects).await
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, StoreError> {
        self.0.get(level, name, range).await
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, StoreError> {
        self.0.put(level, name, created, body).await
    }

    async fn delete(&self, _: Level, _: &[LtxName]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, StoreError> {
        self.0.get_small(key).await
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, StoreError> {
        self.0.put_small(key, content, precondition).await
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, StoreError> {
        self.0.list_small().await
    }

    async fn delete_small(&self, _: &SmallKey) -> Result<(), StoreError> {
        Ok(())
    }
}

fn second(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

#[tokio::test]
async fn a_store_that_says_it_deleted_and_did_not_is_found_out() {
    for forgetful in [false, true] {
        let memory = MemoryClient::new("replica");
        for (max, created) in [(1, 10), (5, 20)] {
            let name = LtxName::new(Txid::FIRST, Txid::new(max));
            let put = memory.put(
                Level::SNAPSHOT,
                name,
                second(created),
                bytes_stream("x".into()),
            );
            put.await.unwrap();
        }
        let client: Arc<dyn ReplicaClient> = match forgetful {
            true => Arc::new(Forgetful(memory)),
            false => Arc::new(memory),
        };
        let destination = Destination::file("/not/looked/at").unwrap();
        let mut options = ReplicaOptions::new("local", destination);
        options.retention = Some(Duration::from_secs(100));
        let clock = Arc::new(ManualClock::new(second(1_000)));
        let mut maintenance = Maintenance::new(client, &options, clock);
        let done = maintenance.run().await;
        let deleted = maintenance.done().deleted;
        if forgetful {
            let Err(Error::Replica { source, .. }) = done else {
                panic!("{done:?}");
            };
            assert!(matches!(source, StoreError::NotDeleted { .. }), "{source}");
            assert_eq!(deleted, 0, "what is still there is not counted");
        } else {
            done.unwrap();
            assert_eq!(deleted, 1);
        }
    }
}

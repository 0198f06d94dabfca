//! A store that does not delete, or that says it has stored, and keeps half of what it was given: nothing must take
//! its word for it.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide::{Error, Maintenance, ReplicaOptions, RestoreOptions, restore};
use evertide_ltx::{Level, LtxName, Txid, merge};
use evertide_storage::{
    ByteStream, Capabilities, Destination, Error as StoreError, LtxObject, ManualClock,
    MemoryClient, Precondition, ReplicaClient, SmallKey, SmallObject, Version, bytes_stream,
    collect,
};
use fastrand::Rng;

use crate::model::Model;

/// Deletes nothing.
#[derive(Debug)]
struct Forgetful(MemoryClient);

/// Keeps half of the first file of level 1, and answers that all is well: its disk lost the rest.
#[derive(Debug)]
struct Halving {
    inner: Arc<MemoryClient>,
    halved: AtomicBool,
}

#[async_trait]
impl ReplicaClient for Halving {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, StoreError> {
        self.inner.list(level, after).await
    }

    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, StoreError> {
        self.inner.date(objects).await
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, StoreError> {
        self.inner.get(level, name, range).await
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, StoreError> {
        let content = collect(body, usize::MAX).await.unwrap();
        let size = content.len() as u64;
        let lies = level.get() == 1 && !self.halved.swap(true, Ordering::Relaxed);
        let kept = match lies {
            true => content.slice(..content.len() / 2),
            false => content,
        };
        let stored = self.inner.put(level, name, created, bytes_stream(kept));
        Ok(LtxObject {
            size,
            ..stored.await?
        })
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), StoreError> {
        self.inner.delete(level, names).await
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, StoreError> {
        self.inner.get_small(key).await
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, StoreError> {
        self.inner.put_small(key, content, precondition).await
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, StoreError> {
        self.inner.list_small().await
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), StoreError> {
        self.inner.delete_small(key).await
    }
}

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

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), StoreError> {
        Err(StoreError::NotDeleted {
            location: self.location(),
            object: format!("{} of level {level}", names[0]),
        })
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
async fn what_is_still_there_is_an_error_and_not_counted_as_deleted() {
    for forgetful in [false, true] {
        let memory = MemoryClient::new("replica");
        let mut model = Model::new(Rng::with_seed(1), second(10));
        for _ in 1..5 {
            model.commit(second(20));
        }
        for max in [1, 5] {
            let name = LtxName::new(Txid::FIRST, Txid::new(max));
            let (created, content) = (model.created(name.max), model.file(name));
            let put = memory.put(Level::SNAPSHOT, name, created, bytes_stream(content));
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

/// What level 0 has would be lost with it.
#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_for_a_file_of_which_the_store_kept_half() {
    for (halves, restarts) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut model = Model::new(Rng::with_seed(evertide_testkit::seed()), second(10));
        let inner = Arc::new(MemoryClient::new("replica"));
        for created in 11..20 {
            model.commit(second(created));
        }
        for txid in 1..=model.newest().get() {
            let level = if txid == 1 {
                Level::SNAPSHOT
            } else {
                Level::L0
            };
            let name = LtxName::new(Txid::new(txid), Txid::new(txid));
            let (created, content) = (model.created(name.max), model.file(name));
            let put = inner.put(level, name, created, bytes_stream(content));
            put.await.unwrap();
        }
        let client = Arc::new(Halving {
            inner: Arc::clone(&inner),
            halved: AtomicBool::new(!halves),
        });
        let mut options = ReplicaOptions::new("local", Destination::file("/nowhere").unwrap());
        options.levels.truncate(1);
        let clock = Arc::new(ManualClock::new(second(40)));
        let new = || Maintenance::new(client.clone(), &options, clock.clone());
        let mut maintenance = new();
        maintenance.run().await.unwrap();
        if restarts {
            maintenance = new();
        }
        clock.set(second(1_000));
        let done = maintenance.run().await;
        let left = client.list(Level::L0, None).await.unwrap().len();
        done.unwrap();
        assert_eq!(left, 1);
        // The half was made whole before.
        let level_1 = client.list(Level::new(1).unwrap(), None).await.unwrap();
        for object in level_1 {
            let content = client.get(object.level, object.name, None).await.unwrap();
            let content = collect(content, usize::MAX).await.unwrap();
            merge([&content[..]], std::io::sink()).unwrap();
        }
        assert_eq!(maintenance.damaged().count(), 0);
        let dir = evertide_testkit::memory_dir();
        let output = dir.path().join("restored.db");
        let restored = restore(RestoreOptions::new(client.clone(), &output)).await;
        assert_eq!(restored.unwrap().txid, model.newest());
        assert!(std::fs::read(&output).unwrap() == model.content(model.newest()));
    }
}

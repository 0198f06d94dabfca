//! A store that does not do what it says, for tests.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    ByteStream, Capabilities, Error as StoreError, LtxObject, Precondition, ReplicaClient,
    SmallKey, SmallObject, Version, bytes_stream, collect,
};

/// What it does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Nothing,
    /// It writes over whatever came since it was looked at.
    ComparesNothing,
    /// It has what it was to delete.
    DeletesNothing,
    /// It keeps half of what is stored on this level, and says how much that is.
    Halves(Level),
}

/// A store with a fault, until it is mended.
#[derive(Debug)]
pub(super) struct Faulty {
    inner: Arc<dyn ReplicaClient>,
    fault: Mutex<Fault>,
}

impl Faulty {
    pub(super) fn new(inner: Arc<dyn ReplicaClient>, fault: Fault) -> Self {
        let fault = Mutex::new(fault);
        Self { inner, fault }
    }

    pub(super) fn mend(&self) {
        *self.fault.lock().unwrap() = Fault::Nothing;
    }

    fn has(&self, fault: Fault) -> bool {
        *self.fault.lock().unwrap() == fault
    }
}

#[async_trait]
impl ReplicaClient for Faulty {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        let mut promised = self.inner.capabilities();
        promised.compare_and_set &= !self.has(Fault::ComparesNothing);
        promised
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, StoreError> {
        self.inner.list(level, after).await
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
        let mut content = collect(body, usize::MAX).await.unwrap();
        if self.has(Fault::Halves(level)) {
            content.truncate(content.len() / 2);
        }
        let body = bytes_stream(content);
        self.inner.put(level, name, created, body).await
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), StoreError> {
        if self.has(Fault::DeletesNothing) {
            return Err(StoreError::NotDeleted {
                location: self.location(),
                object: names[0].to_string(),
            });
        }
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

mod tests {
    use std::time::Duration;

    use evertide_ltx::{Encoder, Header, PageSize, Pgno, merge};
    use evertide_storage::MemoryClient;

    use super::{super::scene::Scene, *};

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_the_store_did_not_keep_whole_is_an_error_and_is_made_again() {
        let second = Duration::from_secs(1);
        for level in [Level::SNAPSHOT, Level::L0] {
            let memory = Arc::new(MemoryClient::service("bucket"));
            let store = Arc::new(Faulty::new(memory.clone(), Fault::Halves(level)));
            let mut scene = Scene::start(store.clone(), second);
            let database = &mut scene.database;
            database.live(10 * second, Some(3 * second)).await;
            let error = database.replica().error.unwrap();
            assert!(error.contains("bytes were sent"), "{error}");
            assert_eq!(memory.list(level, None).await.unwrap(), [], "{level}");
            store.mend();
            database.live(120 * second, Some(50 * second)).await;
            assert_eq!(database.replica().error, None);
            let stored = memory.list(level, None).await.unwrap();
            assert!(!stored.is_empty());
            for file in stored {
                let content = memory.get(level, file.name, None).await.unwrap();
                let content = collect(content, usize::MAX).await.unwrap();
                merge([&content[..]], std::io::sink()).unwrap();
            }
            scene.cancel.cancel();
        }
    }
    /// What somebody else has stored, far above.
    async fn bury(store: &dyn ReplicaClient, created: SystemTime) -> Txid {
        let newest = Txid::new(0x7_0000_0000);
        let header = Header::new(PageSize::new(512).unwrap(), 1, Txid::FIRST, newest);
        let name = header.name();
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        let first = Pgno::new(1).unwrap();
        encoder.encode_page(first, &[9; 512]).unwrap();
        let body = bytes_stream(encoder.finish().unwrap().0.into());
        store
            .put(Level::SNAPSHOT, name, created, body)
            .await
            .unwrap();
        newest
    }

    async fn newest(store: &dyn ReplicaClient) -> Txid {
        let snapshots = store.list(Level::SNAPSHOT, None).await.unwrap();
        snapshots
            .iter()
            .map(|object| object.name.max)
            .max()
            .unwrap()
    }

    /// Two got the lease at the same moment. The other one knows by now; nothing is written after it.
    #[tokio::test(start_paused = true)]
    async fn who_is_buried_by_another_that_got_the_lease_as_well_begins_above() {
        let second = Duration::from_secs(1);
        let memory = Arc::new(MemoryClient::service("bucket"));
        let store = Faulty::new(memory.clone(), Fault::ComparesNothing);
        let mut scene = Scene::start(Arc::new(store), second);
        scene.database.live(40 * second, Some(3 * second)).await;
        let buried_at = bury(&*memory, scene.database.time()).await;
        scene.database.live(60 * second, Some(20 * second)).await;
        assert_eq!(newest(&*memory).await, buried_at);
        scene.database.live(120 * second, None).await;
        assert!(newest(&*memory).await > buried_at);
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
        let buried_at = bury(&*memory, scene.database.time()).await;
        scene.database.live(180 * minute, Some(10 * minute)).await;
        assert!(newest(&*memory).await > buried_at);
        let status = scene.database.replica();
        assert_eq!((status.txid, status.error), (scene.database.txid(), None));
        scene.cancel.cancel();
    }
}

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
    /// It takes nothing on this level.
    Refuses(Level),
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
        if self.has(Fault::Refuses(level)) {
            return Err(StoreError::Interrupted {
                location: self.location(),
            });
        }
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

    use evertide_ltx::merge;
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
}

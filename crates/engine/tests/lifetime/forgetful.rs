//! A store that does not delete, that keeps half of what it was given, or that loses files: nothing must take its word
//! for it.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide::{
    Error, Maintenance, ReplicaOptions, RestoreError, RestoreOptions, RestoreTarget, restore,
};
use evertide_ltx::{Level, LtxName, Txid, merge};
use evertide_storage::{
    ByteStream, Capabilities, Destination, Error as StoreError, LtxObject, ManualClock,
    MemoryClient, Precondition, ReplicaClient, SmallKey, SmallObject, Version, bytes_stream,
    collect,
};
use fastrand::Rng;

use crate::model::Model;

/// What a store does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Nothing,
    /// It deletes nothing.
    DeletesNothing,
    /// It keeps half of the first file of level 1, and answers that all is well: its disk lost the rest.
    HalvesUnnoticed,
    /// It keeps half of the first file of level 1, and says how much that is.
    HalvesAndSaysSo,
    /// It lists files and says of each that it is not there.
    FindsNothing,
}

/// A store in memory with a fault.
#[derive(Debug)]
struct Faulty {
    inner: MemoryClient,
    fault: Mutex<Fault>,
    finds: AtomicU64,
}

impl Faulty {
    fn new(inner: MemoryClient, fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            inner,
            fault: Mutex::new(fault),
            finds: AtomicU64::new(0),
        })
    }

    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    fn mend(&self) {
        *self.fault.lock().unwrap() = Fault::Nothing;
    }

    async fn at(&self, level: u8) -> Vec<LtxObject> {
        let level = Level::new(level).unwrap();
        self.inner.list(level, None).await.unwrap()
    }
}

#[async_trait]
impl ReplicaClient for Faulty {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, StoreError> {
        self.inner.list(level, after).await
    }

    async fn find(&self, level: Level, names: &[LtxName]) -> Result<Vec<LtxObject>, StoreError> {
        let finds = self.finds.fetch_add(1, Ordering::Relaxed);
        assert!(finds < 100, "it is asked the same again and again");
        match self.fault() {
            Fault::FindsNothing => Ok(Vec::new()),
            _ => self.inner.find(level, names).await,
        }
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
        let (whole, half) = (content.len(), content.slice(..content.len() / 2));
        let (kept, said) = match self.fault() {
            Fault::HalvesUnnoticed if level.get() == 1 => (half, whole),
            Fault::HalvesAndSaysSo if level.get() == 1 => (half, whole / 2),
            _ => (content, whole),
        };
        if kept.len() < whole {
            self.mend();
        }
        let stored = self.inner.put(level, name, created, bytes_stream(kept));
        Ok(LtxObject {
            size: said as u64,
            ..stored.await?
        })
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), StoreError> {
        match self.fault() {
            Fault::DeletesNothing => Err(StoreError::NotDeleted {
                location: self.location(),
                object: format!("{} of level {level}", names[0]),
            }),
            _ => self.inner.delete(level, names).await,
        }
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

fn second(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

/// A replica with a fault, to which syncs were uploaded in these seconds, and one level above them.
struct Scene {
    model: Model,
    store: Arc<Faulty>,
    clock: Arc<ManualClock>,
    maintenance: Maintenance,
}

impl Scene {
    async fn new(fault: Fault, syncs: impl Iterator<Item = u64>) -> Self {
        let mut model = Model::new(Rng::with_seed(evertide_testkit::seed()), second(10));
        let inner = MemoryClient::new("replica");
        syncs.for_each(|created| _ = model.commit(second(created)));
        for txid in 1..=model.newest().get() {
            let level = match txid {
                1 => Level::SNAPSHOT,
                _ => Level::L0,
            };
            let name = LtxName::new(Txid::new(txid), Txid::new(txid));
            let (created, content) = (model.created(name.max), model.file(name));
            let put = inner.put(level, name, created, bytes_stream(content));
            put.await.unwrap();
        }
        let store = Faulty::new(inner, fault);
        let clock = Arc::new(ManualClock::new(second(40)));
        Self {
            model,
            maintenance: maintenance(&store, &clock),
            store,
            clock,
        }
    }

    /// Another process takes over.
    fn restart(&mut self) {
        self.maintenance = maintenance(&self.store, &self.clock);
    }

    async fn run(&mut self, at: u64) -> Result<(), Error> {
        self.clock.set(second(at));
        self.maintenance.run().await.map(|_| ())
    }

    /// Everything that was deleted from level 0 is in level 1, and each file there is whole.
    async fn assert_nothing_is_lost(&self) {
        for object in self.store.at(1).await {
            let content = self.store.get(object.level, object.name, None).await;
            let content = collect(content.unwrap(), usize::MAX).await.unwrap();
            merge([&content[..]], std::io::sink()).unwrap();
        }
        assert_eq!(self.maintenance.damaged().count(), 0);
        self.restored(self.model.newest()).await.unwrap();
    }

    async fn restored(&self, txid: Txid) -> Result<(), RestoreError> {
        let dir = evertide_testkit::memory_dir();
        let output = dir.path().join("restored.db");
        let mut options = RestoreOptions::new(self.store.clone(), &output);
        options.target = RestoreTarget::Txid(txid);
        restore(options).await?;
        assert!(std::fs::read(&output).unwrap() == self.model.content(txid));
        Ok(())
    }
}

fn maintenance(store: &Arc<Faulty>, clock: &Arc<ManualClock>) -> Maintenance {
    let mut options = ReplicaOptions::new("local", Destination::file("/nowhere").unwrap());
    options.levels.truncate(1);
    Maintenance::new(store.clone(), &options, clock.clone())
}

#[tokio::test]
async fn what_is_still_there_is_an_error_and_not_counted_as_deleted() {
    for fault in [Fault::Nothing, Fault::DeletesNothing] {
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
        let client = Faulty::new(memory, fault);
        let destination = Destination::file("/not/looked/at").unwrap();
        let mut options = ReplicaOptions::new("local", destination);
        options.retention = Some(Duration::from_secs(100));
        let clock = Arc::new(ManualClock::new(second(1_000)));
        let mut maintenance = Maintenance::new(client, &options, clock);
        let done = maintenance.run().await;
        let deleted = maintenance.done().deleted;
        if fault == Fault::DeletesNothing {
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
    for fault in [Fault::Nothing, Fault::HalvesUnnoticed] {
        for restarts in [false, true] {
            let mut scene = Scene::new(fault, 11..20).await;
            scene.run(40).await.unwrap();
            if restarts {
                scene.restart();
            }
            let done = scene.run(1_000).await;
            let left = scene.store.at(0).await.len();
            done.unwrap();
            assert_eq!(left, 1);
            // The half was made whole before.
            scene.assert_nothing_is_lost().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_of_which_the_store_says_that_it_kept_half_is_an_error_and_in_no_restores_way() {
    for restarts in [false, true] {
        let mut scene = Scene::new(Fault::HalvesAndSaysSo, 11..20).await;
        let before = scene.store.at(0).await;
        let error = scene.run(40).await.unwrap_err().to_string();
        assert!(error.contains("bytes were sent"), "{error}");
        assert_eq!(scene.store.at(0).await, before);
        scene.restored(scene.model.newest()).await.unwrap();
        if restarts {
            scene.restart();
        }
        scene.run(1_000).await.unwrap();
        assert_eq!(scene.store.at(0).await.len(), 1);
        scene.assert_nothing_is_lost().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_of_level_0_goes_for_a_file_that_somebody_has_deleted() {
    for lost in 0..3 {
        let mut scene = Scene::new(Fault::Nothing, (11..100).step_by(10)).await;
        scene.run(95).await.unwrap();
        let level_1 = scene.store.at(1).await;
        assert_eq!(level_1.len(), 3, "{level_1:?}");
        let name = level_1[lost].name;
        let level = Level::new(1).unwrap();
        scene.store.inner.delete(level, &[name]).await.unwrap();
        scene.run(1_000).await.unwrap();
        // It was made again before anything went.
        assert!(scene.store.at(1).await.starts_with(&level_1));
        assert_eq!(scene.store.at(0).await.len(), 1);
        scene.restored(name.max).await.unwrap();
        scene.assert_nothing_is_lost().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lists_what_it_does_not_find_is_an_error_and_level_0_stays() {
    let mut scene = Scene::new(Fault::FindsNothing, 11..20).await;
    scene.run(40).await.unwrap();
    let before = scene.store.at(0).await;
    let lost = scene.store.at(1).await.remove(0).name.to_string();
    let error = scene.run(1_000).await.unwrap_err().to_string();
    assert!(error.contains(&lost), "{error}");
    assert_eq!(scene.store.at(0).await, before);
    scene.store.mend();
    scene.run(1_000).await.unwrap();
    assert_eq!(scene.store.at(0).await.len(), 1);
    scene.assert_nothing_is_lost().await;
}

//! Counts the requests made to a replica: they cost money, and an idle database must cause none.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};

use crate::{
    ByteStream, Capabilities, Error, LtxObject, Precondition, ReplicaClient, SmallKey, SmallObject,
    Stray, V3Key, V3Object, Version,
};

/// Requests made so far, by kind, whether they succeeded or not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Requests {
    /// Listings of a level or of small objects.
    pub list: u64,
    /// Objects read, wholly or a range.
    pub get: u64,
    /// Objects stored.
    pub put: u64,
    /// Deletions, each of any number of objects.
    pub delete: u64,
    /// Bytes of LTX files stored, of those that succeeded.
    pub bytes_put: u64,
}

impl Requests {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.list + self.get + self.put + self.delete
    }
}

/// A client that counts what it passes on to another one.
#[derive(Debug)]
pub struct CountingClient {
    inner: Arc<dyn ReplicaClient>,
    list: AtomicU64,
    get: AtomicU64,
    put: AtomicU64,
    delete: AtomicU64,
    bytes_put: AtomicU64,
}

impl CountingClient {
    /// Counts from zero.
    pub fn new(inner: Arc<dyn ReplicaClient>) -> Self {
        let [list, get, put, delete, bytes_put] = [const { AtomicU64::new(0) }; 5];
        Self {
            inner,
            list,
            get,
            put,
            delete,
            bytes_put,
        }
    }

    /// Requests made so far.
    pub fn requests(&self) -> Requests {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            list: read(&self.list),
            get: read(&self.get),
            put: read(&self.put),
            delete: read(&self.delete),
            bytes_put: read(&self.bytes_put),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[async_trait]
impl ReplicaClient for CountingClient {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        count(&self.list);
        self.inner.list(level, after).await
    }

    async fn list_dated(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        count(&self.list);
        self.inner.list_dated(level, after).await
    }

    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, Error> {
        if !self.inner.capabilities().local {
            self.get.fetch_add(objects.len() as u64, Ordering::Relaxed);
        }
        self.inner.date(objects).await
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        count(&self.get);
        self.inner.get(level, name, range).await
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error> {
        count(&self.put);
        let object = self.inner.put(level, name, created, body).await?;
        self.bytes_put.fetch_add(object.size, Ordering::Relaxed);
        Ok(object)
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
        count(&self.delete);
        self.inner.delete(level, names).await
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        count(&self.get);
        self.inner.get_small(key).await
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        count(&self.put);
        self.inner.put_small(key, content, precondition).await
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        count(&self.list);
        self.inner.list_small().await
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        count(&self.delete);
        self.inner.delete_small(key).await
    }

    async fn list_strays(&self) -> Result<Vec<Stray>, Error> {
        count(&self.list);
        self.inner.list_strays().await
    }

    async fn list_v3(&self) -> Result<Vec<V3Object>, Error> {
        count(&self.list);
        self.inner.list_v3().await
    }

    async fn get_v3(&self, key: &V3Key, range: Option<Range<u64>>) -> Result<ByteStream, Error> {
        count(&self.get);
        self.inner.get_v3(key, range).await
    }
}

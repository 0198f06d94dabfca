//! Counts the requests made to a replica: they cost money, and an idle database must cause none.

use std::{
    fmt,
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
    client::{ASKED_ONE_BY_ONE, LOOKED_FOR},
};

/// Objects in one answer to a listing, and in one request for deletion, of the services that have such.
const BATCH: usize = 1_000;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum RequestKind {
    /// Which objects there are: of a service one for each thousand of them.
    List,
    /// An object, a range of it, or what is known about it. A deletion ends with one for each of a few of
    /// them, as proof.
    Get,
    /// To store an object. A large one takes a service more than one request.
    Put,
    /// To delete objects.
    Delete,
}

impl RequestKind {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::List, Self::Get, Self::Put, Self::Delete];

    /// In one word, as metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
        }
    }
}

/// Requests made so far, by kind, whether they succeeded or not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Requests {
    /// As [`RequestKind::List`].
    pub list: u64,
    /// As [`RequestKind::Get`].
    pub get: u64,
    /// As [`RequestKind::Put`].
    pub put: u64,
    /// As [`RequestKind::Delete`].
    pub delete: u64,
    /// Bytes of LTX files stored, of those that succeeded.
    pub bytes_put: u64,
}

impl Requests {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.list + self.get + self.put + self.delete
    }

    /// Counts more of a kind.
    pub fn add(&mut self, kind: RequestKind, requests: u64) {
        match kind {
            RequestKind::List => self.list += requests,
            RequestKind::Get => self.get += requests,
            RequestKind::Put => self.put += requests,
            RequestKind::Delete => self.delete += requests,
        }
    }
}

type Observer = dyn Fn(RequestKind, u64) + Send + Sync;

/// A client that counts what it passes on to another one.
pub struct CountingClient {
    inner: Arc<dyn ReplicaClient>,
    /// In the order of [`RequestKind::ALL`].
    counters: [AtomicU64; 4],
    bytes_put: AtomicU64,
    observer: Box<Observer>,
}

impl fmt::Debug for CountingClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountingClient")
            .field("inner", &self.inner)
            .field("requests", &self.requests())
            .finish_non_exhaustive()
    }
}

impl CountingClient {
    /// Counts from zero.
    pub fn new(inner: Arc<dyn ReplicaClient>) -> Self {
        Self::observed(inner, |_, _| {})
    }

    /// Counts from zero, and tells how many requests of a kind are made, when they are.
    pub fn observed(
        inner: Arc<dyn ReplicaClient>,
        observer: impl Fn(RequestKind, u64) + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            counters: Default::default(),
            bytes_put: AtomicU64::new(0),
            observer: Box::new(observer),
        }
    }

    /// Requests made so far.
    pub fn requests(&self) -> Requests {
        let mut requests = Requests {
            bytes_put: self.bytes_put.load(Ordering::Relaxed),
            ..Requests::default()
        };
        for (kind, counter) in RequestKind::ALL.into_iter().zip(&self.counters) {
            requests.add(kind, counter.load(Ordering::Relaxed));
        }
        requests
    }

    fn count(&self, kind: RequestKind, requests: u64) {
        for (counted, counter) in RequestKind::ALL.into_iter().zip(&self.counters) {
            if counted == kind {
                counter.fetch_add(requests, Ordering::Relaxed);
            }
        }
        (self.observer)(kind, requests);
    }

    fn is_service(&self) -> bool {
        !self.inner.capabilities().local
    }

    /// Counts what it takes to find out which of so many files are there.
    fn count_asked(&self, files: usize) {
        match files {
            0 => {}
            1..=ASKED_ONE_BY_ONE if self.is_service() => {
                self.count(RequestKind::Get, files as u64);
            }
            _ => self.count(RequestKind::List, 1),
        }
    }

    /// Counts a listing, and whatever it takes beyond the first request.
    async fn listed<T>(
        &self,
        listing: impl Future<Output = Result<Vec<T>, Error>>,
    ) -> Result<Vec<T>, Error> {
        self.count(RequestKind::List, 1);
        let found = listing.await?;
        let more = found.len().div_ceil(BATCH).saturating_sub(1);
        if more > 0 && self.is_service() {
            self.count(RequestKind::List, more as u64);
        }
        Ok(found)
    }
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
        self.listed(self.inner.list(level, after)).await
    }

    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, Error> {
        if self.is_service() {
            self.count(RequestKind::Get, objects.len() as u64);
        }
        self.inner.date(objects).await
    }

    async fn find(&self, level: Level, names: &[LtxName]) -> Result<Vec<LtxObject>, Error> {
        self.count_asked(names.len());
        self.inner.find(level, names).await
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        self.count(RequestKind::Get, 1);
        self.inner.get(level, name, range).await
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error> {
        self.count(RequestKind::Put, 1);
        let object = self.inner.put(level, name, created, body).await?;
        self.bytes_put.fetch_add(object.size, Ordering::Relaxed);
        Ok(object)
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
        self.count(RequestKind::Delete, names.len().div_ceil(BATCH) as u64);
        if self.is_service() {
            self.count_asked(names.len().min(LOOKED_FOR));
        }
        self.inner.delete(level, names).await
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        self.count(RequestKind::Get, 1);
        self.inner.get_small(key).await
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        self.count(RequestKind::Put, 1);
        self.inner.put_small(key, content, precondition).await
    }

    async fn small_stored(&self, key: &SmallKey) -> Result<Option<SystemTime>, Error> {
        self.count(RequestKind::Get, 1);
        self.inner.small_stored(key).await
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        self.listed(self.inner.list_small()).await
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        self.count(RequestKind::Delete, 1);
        self.inner.delete_small(key).await
    }

    async fn list_strays(&self) -> Result<Vec<Stray>, Error> {
        self.listed(self.inner.list_strays()).await
    }

    async fn list_v3(&self) -> Result<Vec<V3Object>, Error> {
        self.listed(self.inner.list_v3()).await
    }

    async fn get_v3(&self, key: &V3Key, range: Option<Range<u64>>) -> Result<ByteStream, Error> {
        self.count(RequestKind::Get, 1);
        self.inner.get_v3(key, range).await
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::UNIX_EPOCH};

    use super::*;
    use crate::{MemoryClient, bytes_stream};

    #[tokio::test]
    async fn a_service_is_asked_once_for_each_thousand_objects_and_for_proof_of_a_deletion() {
        let told = Arc::new(Mutex::new(Requests::default()));
        let observer = {
            let told = Arc::clone(&told);
            move |kind, requests| told.lock().unwrap().add(kind, requests)
        };
        let store = Arc::new(MemoryClient::service("bucket"));
        let client = CountingClient::observed(store, observer);
        let name = |txid| LtxName::new(Txid::new(txid), Txid::new(txid));
        let names: Vec<LtxName> = (1..=2_001).map(name).collect();
        for name in &names {
            let body = bytes_stream("content".into());
            let put = client.put(Level::L0, *name, UNIX_EPOCH, body);
            put.await.unwrap();
        }
        assert_eq!(client.list(Level::L0, None).await.unwrap().len(), 2_001);
        client.list_small().await.unwrap();
        client.list_dated(Level::L0, None).await.unwrap();
        let (few, many) = names.split_at(ASKED_ONE_BY_ONE);
        client.delete(Level::L0, few).await.unwrap();
        client.delete(Level::L0, many).await.unwrap();
        client.delete(Level::L0, &[]).await.unwrap();
        assert_eq!(client.find(Level::L0, few).await.unwrap(), []);
        assert_eq!(client.find(Level::L0, many).await.unwrap(), []);
        let expected = Requests {
            list: 3 + 1 + 3 + 1,
            get: 2_001 + 16 + 16 + 500,
            put: 2_001,
            delete: 1 + 2,
            bytes_put: 2_001 * 7,
        };
        assert_eq!(client.requests(), expected);
        let told = *told.lock().unwrap();
        assert_eq!(
            told,
            Requests {
                bytes_put: 0,
                ..expected
            }
        );
    }
}

//! A client that writes only while it has the lease.

use std::{io, ops::Range, pin::pin, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use futures_util::{
    StreamExt,
    future::{Either, select},
    stream,
};

use super::Lease;
use crate::{
    ByteStream, Capabilities, Error, LtxObject, Precondition, ReplicaClient, SmallKey, SmallObject,
    Stray, V3Key, V3Object, Version,
};

/// Passes everything on to another client. Before anything is stored or deleted the lease is taken or
/// renewed, and while an object is being stored it is kept: one whose lease is lost meanwhile never
/// becomes visible.
#[derive(Debug)]
pub struct LeasedClient {
    inner: Arc<dyn ReplicaClient>,
    lease: Arc<Lease>,
}

impl LeasedClient {
    /// The same replica, for its writer. The lease must be of this replica.
    pub fn new(inner: Arc<dyn ReplicaClient>, lease: Arc<Lease>) -> Self {
        Self { inner, lease }
    }

    /// The same content, whose end comes only while the lease is held.
    fn guarded(&self, body: ByteStream) -> ByteStream {
        let lease = Arc::clone(&self.lease);
        let last_look = stream::once(async move { lease.check() });
        let refused = last_look.filter_map(async |checked| {
            let error = checked.err()?;
            Some(Err(io::Error::other(error)))
        });
        body.chain(refused).boxed()
    }
}

#[async_trait]
impl ReplicaClient for LeasedClient {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        self.inner.list(level, after).await
    }

    async fn list_dated(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        self.inner.list_dated(level, after).await
    }

    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, Error> {
        self.inner.date(objects).await
    }

    async fn find(&self, level: Level, names: &[LtxName]) -> Result<Vec<LtxObject>, Error> {
        self.inner.find(level, names).await
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
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error> {
        self.lease.ensure_for(name.max).await?;
        let under_way = self.lease.under_way();
        let put = self.inner.put(level, name, created, self.guarded(body));
        let stored = match select(put, pin!(self.lease.keep())).await {
            Either::Left((stored, _)) => stored,
            Either::Right((lost, _)) => return Err(lost),
        };
        if stored.as_ref().err().is_none_or(Error::is_conflict) {
            under_way.settled();
        }
        self.lease.settle().await;
        match stored {
            // It may be the end of the lease that broke it off.
            Err(Error::Body { .. }) if let Err(lost) = self.lease.check() => Err(lost),
            stored => stored,
        }
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
        self.lease.ensure().await?;
        self.inner.delete(level, names).await
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        self.inner.get_small(key).await
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        self.lease.ensure().await?;
        self.inner.put_small(key, content, precondition).await
    }

    async fn small_stored(&self, key: &SmallKey) -> Result<Option<SystemTime>, Error> {
        self.inner.small_stored(key).await
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        self.inner.list_small().await
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        self.lease.ensure().await?;
        self.inner.delete_small(key).await
    }

    async fn list_strays(&self) -> Result<Vec<Stray>, Error> {
        self.inner.list_strays().await
    }

    async fn list_v3(&self) -> Result<Vec<V3Object>, Error> {
        self.inner.list_v3().await
    }

    async fn get_v3(&self, key: &V3Key, range: Option<Range<u64>>) -> Result<ByteStream, Error> {
        self.inner.get_v3(key, range).await
    }
}

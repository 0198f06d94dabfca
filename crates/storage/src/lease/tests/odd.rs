//! A store whose answers to some puts get lost, or that cannot replace on condition.

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
    ByteStream, Capabilities, CountingClient, Error, LtxObject, MemoryClient, Precondition,
    ReplicaClient, SmallKey, SmallObject, Version,
};

#[derive(Debug)]
pub(super) struct Odd {
    inner: MemoryClient,
    answers_lost: AtomicU64,
    compare_and_set: bool,
}

impl Odd {
    pub(super) fn new(compare_and_set: bool) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryClient::new("odd"),
            answers_lost: AtomicU64::new(0),
            compare_and_set,
        })
    }

    /// The answers to the next puts of small objects, although they are stored.
    pub(super) fn lose_answers(&self, number: u64) {
        self.answers_lost.store(number, Ordering::SeqCst);
    }

    pub(super) fn answers_to_lose(&self) -> u64 {
        self.answers_lost.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl ReplicaClient for Odd {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_create: self.compare_and_set,
            compare_and_set: self.compare_and_set,
            ..self.inner.capabilities()
        }
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        self.inner.list(level, after).await
    }

    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, Error> {
        self.inner.date(objects).await
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
        self.inner.put(level, name, created, body).await
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
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
        let mut precondition = precondition;
        if !self.compare_and_set {
            // It looks, and what comes in between is lost.
            let found = self.inner.get_small(key).await?;
            let found = found.map(|found| found.version);
            let as_expected = match &precondition {
                Precondition::Unchanged(version) => found.as_ref() == Some(version),
                _ => true,
            };
            if as_expected {
                precondition = Precondition::None;
                tokio::task::yield_now().await;
            }
        }
        let stored = self.inner.put_small(key, content, precondition).await;
        if !self.compare_and_set {
            tokio::task::yield_now().await;
        }
        let lost = self
            .answers_lost
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        match lost {
            Ok(_) => Err(Error::Interrupted {
                location: self.location(),
            }),
            Err(_) => stored,
        }
    }

    /// It knows that, and has no clock.
    async fn small_stored(&self, key: &SmallKey) -> Result<Option<SystemTime>, Error> {
        let found = self.inner.get_small(key).await?;
        Ok(found.map(|_| SystemTime::UNIX_EPOCH))
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        self.inner.list_small().await
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        self.inner.delete_small(key).await
    }
}

pub(super) fn odd(answers_lost: u64, compare_and_set: bool) -> Arc<CountingClient> {
    let odd = Odd::new(compare_and_set);
    odd.lose_answers(answers_lost);
    Arc::new(CountingClient::new(odd))
}

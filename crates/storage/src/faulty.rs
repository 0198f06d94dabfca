//! A replica whose N-th read of a file fails, or N-th request of any kind that reads, for tests.

use std::{
    collections::BTreeSet,
    io,
    ops::Range,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use futures_util::{StreamExt, stream};

use crate::{
    ByteStream, Capabilities, Error, Fault, LtxObject, Precondition, ReplicaClient, SmallKey,
    SmallObject, Stray, V3Key, V3Object, Version, bytes_stream, collect,
};

/// How a read fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadFault {
    /// The request is refused.
    Refused,
    /// Half of what was asked for comes, and then the line breaks.
    Breaks,
    /// Half of what was asked for comes, as if that were all.
    Ends,
}

impl ReadFault {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Refused, Self::Breaks, Self::Ends];

    /// Each of them, once and for ever.
    pub fn each() -> impl Iterator<Item = (Self, Fault)> {
        let lasts = |how| [Fault::Once, Fault::Forever].map(|lasts| (how, lasts));
        Self::ALL.into_iter().flat_map(lasts)
    }
}

/// Runs with 1, 2, 3 and so on, so many at a time, until one says that it did not come to the fault that this was the
/// number of; how many did.
pub async fn failing_runs<F: Future<Output = bool>>(
    at_once: usize,
    run: impl FnMut(u64) -> F,
) -> u64 {
    let mut runs = pin!(stream::iter(1..).map(run).buffered(at_once));
    let mut failing = 0;
    while runs.next().await == Some(true) {
        failing += 1;
    }
    failing
}

/// A client that passes everything on to another one, counts the reads of LTX files, and of those of
/// Litestream 0.3, and fails the N-th; or counts listings and reads of small objects, too, and refuses the N-th.
///
/// [`failing_runs`] has each read be the one that fails: until a run completes without [`FaultClient::tripped`].
#[derive(Debug)]
pub struct FaultClient {
    inner: Arc<dyn ReplicaClient>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reads: u64,
    plan: Option<(u64, ReadFault, Fault)>,
    /// Whether requests for anything but files count.
    all: bool,
    failed: BTreeSet<String>,
}

impl FaultClient {
    /// A client without faults so far.
    pub fn new(inner: Arc<dyn ReplicaClient>) -> Self {
        Self {
            inner,
            state: Mutex::default(),
        }
    }

    /// Fails the `n`-th read from now, the next one being 1. Forgets what was planned and counted before.
    pub fn fail_read_at(&self, n: u64, how: ReadFault, lasts: Fault) {
        *self.state() = State {
            plan: Some((n, how, lasts)),
            ..State::default()
        };
    }

    /// Refuses the `n`-th request from now that reads anything, files, small objects or listings, the next one being 1.
    pub fn refuse_request_at(&self, n: u64, lasts: Fault) {
        self.fail_read_at(n, ReadFault::Refused, lasts);
        self.state().all = true;
    }

    /// No more faults. Whether one happened stays visible.
    pub fn heal(&self) {
        self.state().plan = None;
    }

    /// Whether a planned fault has happened.
    pub fn tripped(&self) -> bool {
        !self.state().failed.is_empty()
    }

    /// Whether a message has the name of a file of which a read failed.
    pub fn is_named_in(&self, message: &str) -> bool {
        let state = self.state();
        state.failed.iter().any(|file| message.contains(file))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a read of this file; how it fails, where the plan says so.
    fn step(&self, name: &str) -> Option<ReadFault> {
        let mut state = self.state();
        state.reads += 1;
        let (n, how, lasts) = state.plan?;
        let fails = match lasts {
            Fault::Once => state.reads == n,
            Fault::Forever => state.reads >= n,
        };
        if fails {
            state.failed.insert(name.to_owned());
        }
        fails.then_some(how)
    }

    /// Counts a request for anything but a file, where these count; refuses it where the plan says so.
    fn request(&self, object: String) -> Result<(), Error> {
        let counts = self.state().all;
        match counts && self.step(&object).is_some() {
            true => Err(self.refused(object)),
            false => Ok(()),
        }
    }

    /// The same for one whose answer names the place only.
    fn list_request(&self) -> Result<(), Error> {
        self.request(self.inner.location())
    }

    fn refused(&self, object: String) -> Error {
        Error::Store {
            location: self.inner.location(),
            action: "read",
            object,
            source: "the store refuses, as planned".into(),
            hint: "",
        }
    }

    async fn read(
        &self,
        object: String,
        body: impl Future<Output = Result<ByteStream, Error>> + Send,
    ) -> Result<ByteStream, Error> {
        let how = match self.step(&object) {
            None => return body.await,
            Some(ReadFault::Refused) => return Err(self.refused(object)),
            Some(how) => how,
        };
        let mut content = match collect(body.await?, usize::MAX).await {
            Ok(content) => content,
            Err(error) => return Ok(stream::once(async { Err(error) }).boxed()),
        };
        content.truncate(content.len() / 2);
        let half = bytes_stream(content);
        Ok(match how {
            ReadFault::Breaks => {
                let end = async { Err(io::Error::from(io::ErrorKind::ConnectionReset)) };
                half.chain(stream::once(end)).boxed()
            }
            _ => half,
        })
    }
}

#[async_trait]
impl ReplicaClient for FaultClient {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        self.list_request()?;
        self.inner.list(level, after).await
    }

    async fn list_dated(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        self.list_request()?;
        self.inner.list_dated(level, after).await
    }

    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, Error> {
        self.list_request()?;
        self.inner.date(objects).await
    }

    async fn find(&self, level: Level, names: &[LtxName]) -> Result<Vec<LtxObject>, Error> {
        self.list_request()?;
        self.inner.find(level, names).await
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        self.read(name.to_string(), self.inner.get(level, name, range))
            .await
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
        self.request(key.to_string())?;
        self.inner.get_small(key).await
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        self.inner.put_small(key, content, precondition).await
    }

    async fn small_stored(&self, key: &SmallKey) -> Result<Option<SystemTime>, Error> {
        self.request(key.to_string())?;
        self.inner.small_stored(key).await
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        self.list_request()?;
        self.inner.list_small().await
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        self.inner.delete_small(key).await
    }

    async fn list_strays(&self) -> Result<Vec<Stray>, Error> {
        self.list_request()?;
        self.inner.list_strays().await
    }

    async fn list_v3(&self) -> Result<Vec<V3Object>, Error> {
        self.list_request()?;
        self.inner.list_v3().await
    }

    async fn get_v3(&self, key: &V3Key, range: Option<Range<u64>>) -> Result<ByteStream, Error> {
        self.read(key.to_string(), self.inner.get_v3(key, range))
            .await
    }
}

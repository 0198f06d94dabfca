//! A store with bad days: requests that do not reach it, answers that do not come back, deletions that
//! are only said to have been done, and a process that dies in the middle of a request.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    ByteStream, Capabilities, Error, LtxObject, MemoryClient, Precondition, ReplicaClient,
    SmallKey, SmallObject, Version, bytes_stream, collect,
};
use fastrand::Rng;
use futures_util::StreamExt;
use tokio::sync::Notify;

/// How requests fare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Weather {
    /// All of them well.
    Fair,
    /// Many of them badly, one way or the other.
    Rough,
    /// None reaches the store.
    Out,
    /// All of them well, but whatever is read breaks off after so many bytes.
    Choppy(usize),
}

/// What becomes of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Well,
    /// It fails before it arrives.
    Unreached,
    /// It is done, or half of it, and then it fails.
    Unanswered,
    /// It is not done, and said to be.
    Denied,
    /// Whoever asked dies before it arrives.
    Dead,
    /// Whoever asked dies when it is done.
    DeadAfter,
}

/// What went wrong so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Troubles {
    pub(crate) failures: u64,
    /// Deletions that were not done and said to be.
    pub(crate) lies: u64,
    pub(crate) deaths: u64,
}

/// A store in memory behind a bad line.
#[derive(Debug)]
pub(crate) struct Shaky {
    pub(crate) inner: Arc<MemoryClient>,
    state: Mutex<State>,
    /// How much later a listing says that files above level 0 were captured.
    late: Duration,
    /// Whoever made the request under way is dead.
    pub(crate) died: Notify,
}

#[derive(Debug)]
struct State {
    random: Rng,
    weather: Weather,
    requests: u64,
    troubles: Troubles,
    /// Requests until the one in which the process dies.
    dies_in: Option<u32>,
    /// An upload that arrives while others make requests: how many of them come before it.
    arrival: Option<(u32, Upload)>,
    arrived: Option<LtxObject>,
    /// What the store has.
    objects: BTreeMap<(Level, LtxName), LtxObject>,
    changes: u64,
    /// Bytes of files that came through, and how often they broke off.
    delivered: u64,
    breaks: u64,
}

/// A file of level 0 on its way.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) name: LtxName,
    pub(crate) created: SystemTime,
    pub(crate) content: Bytes,
}

impl Shaky {
    pub(crate) fn new(random: Rng) -> Self {
        let state = State {
            random,
            weather: Weather::Fair,
            requests: 0,
            troubles: Troubles::default(),
            dies_in: None,
            arrival: None,
            arrived: None,
            objects: BTreeMap::new(),
            changes: 0,
            delivered: 0,
            breaks: 0,
        };
        Self {
            inner: Arc::new(MemoryClient::new("year")),
            state: Mutex::new(state),
            late: Duration::ZERO,
            died: Notify::new(),
        }
    }

    /// With listings that tell when files were stored, as those of services do: above level 0 that is
    /// after the end of their windows.
    pub(crate) fn with_late_listings(mut self, late: Duration) -> Self {
        self.late = late;
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Has whoever makes requests die in the one after so many.
    pub(crate) fn die_in(&self, requests: Option<u32>) {
        self.state().dies_in = requests;
    }

    /// Has this file arrive after so many requests of others.
    pub(crate) fn arrive_in(&self, requests: u32, upload: Upload) {
        self.state().arrival = Some((requests, upload));
    }

    /// The file that arrived meanwhile. One that did not is forgotten.
    pub(crate) fn take_arrived(&self) -> Option<LtxObject> {
        let mut state = self.state();
        state.arrival = None;
        state.arrived.take()
    }

    pub(crate) fn requests(&self) -> u64 {
        self.state().requests
    }

    pub(crate) fn troubles(&self) -> Troubles {
        self.state().troubles
    }

    /// How often anything was stored or deleted.
    pub(crate) fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Bytes of files that came through so far, and how often choppy weather broke them off.
    pub(crate) fn delivered(&self) -> (u64, u64) {
        let state = self.state();
        (state.delivered, state.breaks)
    }

    /// What the store has, by level and name.
    pub(crate) fn objects(&self) -> BTreeMap<(Level, LtxName), LtxObject> {
        self.state().objects.clone()
    }

    pub(crate) async fn content(&self, object: &LtxObject) -> Bytes {
        let content = self.inner.get(object.level, object.name, None).await;
        collect(content.unwrap(), usize::MAX).await.unwrap()
    }

    fn fate(&self, may_be_denied: bool) -> Fate {
        let mut state = self.state();
        state.requests += 1;
        let dies = state.dies_in;
        state.dies_in = dies.and_then(|requests| requests.checked_sub(1));
        let luck = state.random.u8(..100);
        let fate = match (dies, state.weather, luck) {
            (Some(0), _, 0..50) => Fate::Dead,
            (Some(0), _, _) => Fate::DeadAfter,
            (_, Weather::Out, _) | (_, Weather::Rough, 0..12) => Fate::Unreached,
            (_, Weather::Rough, 12..24) => Fate::Unanswered,
            (_, Weather::Rough, 24..60) if may_be_denied => Fate::Denied,
            _ => Fate::Well,
        };
        match fate {
            Fate::Well => {}
            Fate::Unreached | Fate::Unanswered => state.troubles.failures += 1,
            Fate::Denied => state.troubles.lies += 1,
            Fate::Dead | Fate::DeadAfter => state.troubles.deaths += 1,
        }
        fate
    }

    /// A request: `work` does it.
    async fn request<T>(
        &self,
        action: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.let_arrive().await;
        let fate = self.fate(false);
        self.suffer(fate, action, work).await
    }

    async fn suffer<T>(
        &self,
        fate: Fate,
        action: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match fate {
            Fate::Well | Fate::Denied => work.await,
            Fate::Unreached => Err(self.failed(action)),
            Fate::Unanswered => work.await.and_then(|_| Err(self.failed(action))),
            Fate::Dead | Fate::DeadAfter => {
                if fate == Fate::DeadAfter {
                    // Nobody will hear how it went.
                    let _ = work.await;
                }
                self.died.notify_one();
                std::future::pending().await
            }
        }
    }

    fn failed(&self, action: &'static str) -> Error {
        Error::Store {
            location: self.location(),
            action,
            object: "something".into(),
            source: "the line is bad".into(),
            hint: "",
        }
    }

    /// Another task of the same process uploads while this one works.
    async fn let_arrive(&self) {
        let upload = {
            let mut state = self.state();
            match state.arrival.take() {
                Some((0, upload)) => upload,
                Some((requests, upload)) => {
                    state.arrival = Some((requests - 1, upload));
                    return;
                }
                None => return,
            }
        };
        let body = bytes_stream(upload.content);
        let object = self.store(Level::L0, upload.name, upload.created, body);
        let object = object.await.unwrap();
        self.state().arrived = Some(object);
    }

    async fn store(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error> {
        let object = self.inner.put(level, name, created, body).await?;
        let mut state = self.state();
        state.objects.insert((level, name), object.clone());
        state.changes += 1;
        Ok(object)
    }

    async fn remove(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
        self.inner.delete(level, names).await?;
        let mut state = self.state();
        for name in names {
            state.objects.remove(&(level, *name));
        }
        state.changes += 1;
        Ok(())
    }
}

/// These bytes, and then the line breaks.
fn broken(content: Bytes) -> ByteStream {
    let end = async { Err(io::Error::from(io::ErrorKind::ConnectionReset)) };
    bytes_stream(content)
        .chain(futures_util::stream::once(end))
        .boxed()
}

#[async_trait]
impl ReplicaClient for Shaky {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        let mut objects = self.request("list", self.inner.list(level, after)).await?;
        let stored_late = |object: &&mut LtxObject| object.level > Level::L0;
        for object in objects.iter_mut().filter(stored_late) {
            object.created += self.late;
        }
        Ok(objects)
    }

    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, Error> {
        let dated = async {
            let known = &self.state().objects;
            let dated = objects.iter();
            let dated = dated.filter_map(|object| known.get(&(object.level, object.name)).cloned());
            Ok(dated.collect())
        };
        self.request("look", dated).await
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        self.let_arrive().await;
        let body = self.inner.get(level, name, range);
        let (fate, weather) = (self.fate(false), self.state().weather);
        match (fate, weather) {
            (Fate::Unanswered, _) => {
                // What was sent before the line broke comes through.
                let content = collect(body.await?, usize::MAX).await.unwrap();
                Ok(broken(content.slice(..content.len() / 2)))
            }
            (Fate::Well, Weather::Choppy(most)) => {
                let content = collect(body.await?, usize::MAX).await.unwrap();
                let through = content.len().min(most);
                let mut state = self.state();
                state.delivered += through as u64;
                if through == content.len() {
                    return Ok(bytes_stream(content));
                }
                state.breaks += 1;
                Ok(broken(content.slice(..through)))
            }
            (fate, _) => self.suffer(fate, "get", body).await,
        }
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error> {
        self.request("put", self.store(level, name, created, body))
            .await
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
        self.let_arrive().await;
        match self.fate(true) {
            Fate::Denied => Err(Error::NotDeleted {
                location: self.location(),
                object: format!("{} of level {level}", names[0]),
            }),
            Fate::Unanswered => {
                self.remove(level, &names[..names.len() / 2]).await?;
                Err(self.failed("delete"))
            }
            fate => self.suffer(fate, "delete", self.remove(level, names)).await,
        }
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        self.request("get", self.inner.get_small(key)).await
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        self.request("put", self.inner.put_small(key, content, precondition))
            .await
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        self.request("list", self.inner.list_small()).await
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        self.request("delete", self.inner.delete_small(key)).await
    }
}

//! A store that all nodes reach over lines of their own, which may be slow, lose requests and answers, and
//! deliver a request long after whoever made it has given up or died.

use std::{
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
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
use tokio::{
    sync::oneshot,
    task,
    time::{Instant, sleep},
};

use super::{
    judge::{Judge, NodeId},
    pages::Pages,
};
use crate::runtime::DOES_BLOCKING_WORK;

/// How long a request is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the store does on condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Conditions {
    /// Objects are created, and small ones replaced.
    All,
    /// Objects are created. Small ones are compared before they are written, and what comes in between is lost.
    Create,
    /// Nothing: what is there is written over.
    None,
}

/// What is drawn for a request follows from what it asks for and when: which of two that are made at one moment comes
/// first may depend on threads.
struct Draws {
    seed: u64,
    start: Instant,
    /// How often each has drawn at this moment.
    now: Instant,
    drawn: HashMap<String, u32>,
}

impl Draws {
    fn random(&mut self, request: &str) -> Rng {
        let now = Instant::now();
        if now != self.now {
            self.now = now;
            self.drawn.clear();
        }
        let times = self.drawn.entry(request.to_owned()).or_default();
        *times += 1;
        let mut seed = DefaultHasher::new();
        (self.seed, now - self.start, request, *times).hash(&mut seed);
        Rng::with_seed(seed.finish())
    }
}

/// How the requests of a node fare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Weather {
    /// All of them well.
    Fair,
    /// Some of them badly, one way or the other.
    Rough,
    /// None reaches the store.
    Out,
    /// One of them badly, counted from when the weather changed, and perhaps all after it.
    Nth(Nth),
}

/// Which request fares badly, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Nth {
    /// From 1. What the threads of a restore ask for is not counted.
    pub(super) n: u64,
    pub(super) trouble: Trouble,
    pub(super) lasts: Lasts,
}

/// What is wrong with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    /// It does not reach the store.
    Unreached,
    /// It is done, and nobody hears of it.
    Unanswered,
}

/// How long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lasts {
    Once,
    ForEver,
}

impl Nth {
    fn fate(self, request: u64) -> Fate {
        let hit = match self.lasts {
            Lasts::Once => request == self.n,
            Lasts::ForEver => request >= self.n,
        };
        match self.trouble {
            _ if !hit => Fate::Well,
            Trouble::Unreached => Fate::Lost,
            Trouble::Unanswered => Fate::Unanswered,
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Well,
    Lost,
    /// It is done, and nobody hears of it.
    Unanswered,
    /// It is done so much later, when nobody waits any more.
    Late(Duration),
}

/// Whether a node may go on with a replica whose newest state this is.
type Legitimate = dyn Fn(&[Pages]) -> bool + Send + Sync;

/// The line of one node.
#[derive(Clone, Debug)]
pub(super) struct Line(Arc<End>);

struct End {
    node: NodeId,
    inner: Arc<MemoryClient>,
    conditions: Conditions,
    judge: Arc<Mutex<Judge>>,
    legitimate: Box<Legitimate>,
    state: Mutex<State>,
}

struct State {
    /// The tasks of the process.
    tasks: Vec<task::Id>,
    draws: Draws,
    weather: Weather,
    /// Since the weather changed.
    requests: u64,
    troubles: u64,
    /// When something was asked for that is not there any more.
    vanished: Option<Instant>,
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl End {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap()
    }
}

impl Line {
    pub(super) fn new(
        node: NodeId,
        (inner, conditions): (Arc<MemoryClient>, Conditions),
        judge: Arc<Mutex<Judge>>,
        legitimate: impl Fn(&[Pages]) -> bool + Send + Sync + 'static,
        seed: u64,
    ) -> Self {
        let now = Instant::now();
        let draws = Draws {
            seed,
            start: now,
            now,
            drawn: HashMap::new(),
        };
        let state = State {
            tasks: Vec::new(),
            draws,
            weather: Weather::Fair,
            requests: 0,
            troubles: 0,
            vanished: None,
        };
        Self(Arc::new(End {
            node,
            inner,
            conditions,
            judge,
            legitimate: Box::new(legitimate),
            state: Mutex::new(state),
        }))
    }

    /// The requests of this task take time. Others are of threads that it waits for.
    pub(super) fn add_task(&self) {
        self.0.state().tasks.push(task::id());
    }

    /// Another process begins.
    pub(super) fn forget_tasks(&self) {
        self.0.state().tasks.clear();
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        let mut state = self.0.state();
        (state.weather, state.requests) = (weather, 0);
    }

    /// Requests that did not fare well so far.
    pub(super) fn troubles(&self) -> u64 {
        self.0.state().troubles
    }

    fn fate(&self, request: &str) -> Fate {
        let mut state = self.0.state();
        let mut random = state.draws.random(request);
        let luck = random.u8(..100);
        let late = Duration::from_millis(random.u64(20_000..900_000));
        state.requests += 1;
        let fate = match (state.weather, luck) {
            (Weather::Out, _) | (Weather::Rough, 0..15) => Fate::Lost,
            (Weather::Rough, 15..30) => Fate::Unanswered,
            (Weather::Rough, 30..45) => Fate::Late(late),
            (Weather::Nth(nth), _) => nth.fate(state.requests),
            _ => Fate::Well,
        };
        state.troubles += u64::from(!matches!(fate, Fate::Well));
        fate
    }

    /// The way of a request, or of an answer.
    async fn travel(&self, request: &str) {
        let mut random = self.0.state().draws.random(request);
        sleep(Duration::from_micros(random.u64(500..150_000))).await;
    }

    /// A request that changes something. Once it is on its way it arrives whatever becomes of whoever made
    /// it.
    async fn change<T: Send + 'static>(
        &self,
        request: String,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        // A process can be stopped between its last look at the clock and this.
        self.travel(&request).await;
        let fate = self.fate(&request);
        let (answer, answered) = oneshot::channel();
        let (line, sent) = (self.clone(), request.clone());
        tokio::spawn(async move {
            match fate {
                Fate::Lost => return,
                Fate::Late(time) => sleep(time).await,
                Fate::Well | Fate::Unanswered => line.travel(&sent).await,
            }
            let done = work.await;
            line.travel(&sent).await;
            if matches!(fate, Fate::Well) {
                // Whoever asked may be gone.
                let _ = answer.send(done);
            } else {
                sleep(2 * PATIENCE).await;
                drop(answer);
            }
        });
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) | Err(_) => Err(self.failed(&request)),
        }
    }

    /// A request that reads. Those of a restore take no time and do not fail: it has threads that do not live
    /// by this clock.
    async fn read(&self, request: &str) -> Result<(), Error> {
        if !DOES_BLOCKING_WORK.get() {
            return Ok(());
        }
        self.travel(request).await;
        match self.fate(request) {
            Fate::Well => Ok(()),
            Fate::Lost | Fate::Unanswered | Fate::Late(_) => {
                sleep(PATIENCE).await;
                Err(self.failed(request))
            }
        }
    }

    /// The same for what there is. Who looks again since something has vanished has a thread wait for it, and
    /// then it takes no time.
    async fn look(&self, request: &str) -> Result<(), Error> {
        let again = self.0.state().vanished == Some(Instant::now());
        match again {
            true => Ok(()),
            false => self.read(request).await,
        }
    }

    fn failed(&self, request: &str) -> Error {
        Error::Store {
            location: self.0.inner.location(),
            action: "do",
            object: request.to_owned(),
            source: "the line is bad".into(),
            hint: "",
        }
    }
}

#[async_trait]
impl ReplicaClient for Line {
    fn location(&self) -> String {
        self.0.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        let mut promised = self.0.inner.capabilities();
        promised.compare_and_set = self.0.conditions == Conditions::All;
        promised.conditional_create = self.0.conditions != Conditions::None;
        promised
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        self.look(&format!("list {level}")).await?;
        self.0.inner.list(level, after).await
    }

    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, Error> {
        self.look("look").await?;
        self.0.inner.date(objects).await
    }

    /// What a thread waits for takes no time and does not fail: while it waits the clock stands still.
    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        let own = task::try_id().is_some_and(|id| self.0.state().tasks.contains(&id));
        let waits = !own;
        if !waits {
            self.read(&format!("get {level} {name}")).await?;
        }
        let found = self.0.inner.get(level, name, range).await;
        if found.is_err() && waits {
            self.0.state().vanished = Some(Instant::now());
        }
        found
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error> {
        let content = collect(body, usize::MAX).await;
        let content: Bytes = content.map_err(|source| Error::Body {
            location: self.0.inner.location(),
            object: name.to_string(),
            source,
        })?;
        self.0.judge().sent(self.0.node, &self.0.legitimate);
        let line = self.clone();
        self.change(format!("put {level} {name}"), async move {
            if line.0.conditions == Conditions::None {
                line.0.inner.delete(level, &[name]).await?;
            }
            let body = bytes_stream(content.clone());
            let object = line.0.inner.put(level, name, created, body).await?;
            line.0.judge().stored(line.0.node, object.clone(), &content);
            Ok(object)
        })
        .await
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
        let (line, names) = (self.clone(), names.to_vec());
        self.change(format!("delete {level}"), async move {
            line.0.inner.delete(level, &names).await?;
            line.0.judge().deleted(line.0.node, level, &names);
            Ok(())
        })
        .await
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        self.read(&format!("get {key}")).await?;
        self.0.inner.get_small(key).await
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        let condition = match (self.0.conditions, precondition) {
            (Conditions::Create | Conditions::None, Precondition::Unchanged(expected)) => {
                let found = self.get_small(key).await?;
                if found.is_none_or(|found| found.version != expected) {
                    return Err(Error::Changed {
                        location: self.location(),
                        object: key.to_string(),
                    });
                }
                Precondition::None
            }
            (Conditions::None, Precondition::Absent) => Precondition::None,
            (_, precondition) => precondition,
        };
        let (line, key) = (self.clone(), key.clone());
        let request = format!("put {key}");
        // What is compared before it is written may be overtaken.
        let detour = {
            let mut random = self.0.state().draws.random(&request);
            let seconds = random.u64(1..10);
            (random.u8(..10) == 0).then(|| Duration::from_secs(seconds))
        };
        self.change(request, async move {
            if let Some(detour) = detour {
                sleep(detour).await;
            }
            let version = line.0.inner.put_small(&key, content, condition).await?;
            if key == SmallKey::lease() {
                line.0.judge().leased(line.0.node, &line.0.legitimate);
            }
            Ok(version)
        })
        .await
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        self.read("list small").await?;
        self.0.inner.list_small().await
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        let (line, key) = (self.clone(), key.clone());
        let request = format!("delete {key}");
        let work = async move { line.0.inner.delete_small(&key).await };
        self.change(request, work).await
    }
}

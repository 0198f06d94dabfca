//! A machine with a database and the real task of its replica, which can be stopped, killed and frozen.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use evertide_ltx::{LtxName, Txid};
use evertide_storage::{
    Clock, Disk, Lease, LeasedClient, MemoryClient, OsDisk, ReplicaClient, bytes_stream,
};
use fastrand::Rng;
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    cloud::{Conditions, Line},
    history::{History, Pages, State, content, whole_milliseconds},
    judge::{Judge, NodeId},
};
use crate::{
    DatabaseStatus, DrillStatus, ReplicaOptions, ReplicaStatus,
    database::{Captured, Command, Content, ImageRequest, Snapshot},
    replica::{self, ReplicaContext, Succession},
    state::{LocalIdentity, Staged, owner},
};

/// Pages that a database has at most.
const MOST_PAGES: usize = 12;

/// A clock that may show another time than others, and counts as they do.
#[derive(Debug)]
struct NodeClock {
    start: Instant,
    /// Milliseconds that it is ahead.
    ahead: AtomicI64,
}

impl Clock for NodeClock {
    fn now(&self) -> SystemTime {
        let right = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let ahead = self.ahead.load(Ordering::Relaxed);
        let by = Duration::from_millis(ahead.unsigned_abs());
        let right = right + self.start.elapsed();
        if ahead < 0 { right - by } else { right + by }
    }

    fn uptime(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The database, and what the real one's task knows about it.
struct Database {
    random: Rng,
    /// Shared with all nodes: no version is used twice.
    versions: Arc<AtomicU64>,
    pages: Pages,
    /// All states since it was created or restored.
    lived: HashSet<Pages>,
    history: History,
    /// The newest captured transaction.
    txid: Txid,
    /// The first transaction of what is captured without a gap.
    first: Txid,
    staged: Vec<Staged>,
    /// What it held when its process began.
    begun: Option<Pages>,
}

/// The replica's task and that of its database.
struct Process {
    cancel: CancellationToken,
    stopping: CancellationToken,
    flush: watch::Sender<Txid>,
    captured: watch::Sender<Captured>,
    status: watch::Receiver<DatabaseStatus>,
    replica: JoinHandle<()>,
    database: JoinHandle<()>,
}

/// What all nodes have in common.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) cloud: Arc<MemoryClient>,
    pub(super) conditions: Conditions,
    pub(super) judge: Arc<Mutex<Judge>>,
    pub(super) versions: Arc<AtomicU64>,
    /// Whether they are taken for one another, by where their databases are.
    pub(super) one_machine: bool,
    pub(super) options: ReplicaOptions,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) line: Line,
    /// The path of its database: nodes with the same are taken for one machine.
    path: PathBuf,
    dir: TempDir,
    clock: Arc<NodeClock>,
    options: ReplicaOptions,
    judge: Arc<Mutex<Judge>>,
    database: Arc<Mutex<Database>>,
    /// It is started to take over whatever there is.
    forced: Arc<AtomicBool>,
    frozen: watch::Sender<bool>,
    process: Option<Process>,
}

impl Node {
    pub(super) fn new(id: NodeId, path: &Path, shared: &Shared, random: &mut Rng) -> Self {
        let Shared {
            cloud,
            conditions,
            judge,
            one_machine,
            options,
            ..
        } = shared.clone();
        let database = Database {
            random: random.fork(),
            versions: Arc::clone(&shared.versions),
            pages: Pages::new(),
            lived: HashSet::new(),
            history: History::default(),
            txid: Txid::ZERO,
            first: Txid::ZERO,
            staged: Vec::new(),
            begun: None,
        };
        let database = Arc::new(Mutex::new(database));
        let forced = Arc::new(AtomicBool::new(false));
        let legitimate = {
            let (database, forced) = (Arc::clone(&database), Arc::clone(&forced));
            move |newest: &[Pages]| {
                let lived = &database.lock().unwrap().lived;
                one_machine
                    || forced.load(Ordering::Relaxed)
                    || newest.iter().any(|pages| lived.contains(pages))
            }
        };
        let line = Line::new(
            id,
            (cloud, conditions),
            judge.clone(),
            legitimate,
            random.fork(),
        );
        let node = Self {
            id,
            line,
            path: path.to_owned(),
            dir: evertide_testkit::memory_dir(),
            clock: Arc::new(NodeClock {
                start: Instant::now(),
                ahead: AtomicI64::new(0),
            }),
            options,
            judge,
            database,
            forced,
            frozen: watch::channel(false).0,
            process: None,
        };
        node.database().commit();
        node
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap()
    }

    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn is_frozen(&self) -> bool {
        *self.frozen.borrow()
    }

    /// Its clock is so many milliseconds ahead.
    pub(super) fn set_clock(&self, ahead: i64) {
        self.clock.ahead.store(ahead, Ordering::Relaxed);
    }

    /// The application commits, and a backup that runs captures that.
    pub(super) fn commit(&self) {
        self.database().commit();
        if self.process.is_some() {
            self.capture();
        }
    }

    fn capture(&self) {
        let (now, mut database) = (self.clock.now(), self.database());
        if database.capture(self.dir.path(), now) {
            let (txid, pages) = (database.txid, database.pages.clone());
            self.judge.lock().unwrap().captured(self.id, txid, &pages);
            if let Some(process) = &self.process {
                let captured = database.captured(self.dir.path());
                process.captured.send_replace(captured);
            }
        }
    }

    /// Starts the backup.
    pub(super) fn start(&mut self, succession: Succession) {
        assert!(self.process.is_none());
        let forced = succession == Succession::Forced;
        self.forced.store(forced, Ordering::Relaxed);
        let identity = LocalIdentity::open(&OsDisk, &self.dir.path().join("identity")).unwrap();
        let client: Arc<dyn ReplicaClient> = Arc::new(self.line.clone());
        let clock: Arc<dyn Clock> = self.clock.clone();
        let lease = Lease::new(
            Arc::clone(&client),
            Arc::clone(&clock),
            owner(identity.owner, &self.path),
            self.options.lease_duration,
        );
        let lease = Arc::new(lease.knowing(identity.leases.of(&client.location())));
        let now = {
            let mut database = self.database();
            database.begun = Some(database.pages.clone());
            database.captured(self.dir.path())
        };
        let (captured, (flush, wanted)) = (watch::channel(now).0, watch::channel(Txid::ZERO));
        let mut status = DatabaseStatus::new(self.path.clone());
        let name = self.options.name.clone();
        let replica = ReplicaStatus::new(name, client.location(), Txid::ZERO);
        status.replicas.push(replica);
        let (status, (commands, asked)) = (watch::channel(status).0, mpsc::unbounded_channel());
        let (cancel, stopping) = (CancellationToken::new(), CancellationToken::new());
        let mut options = self.options.clone();
        options.drill_directory = Some(self.dir.path().to_owned());
        let context = ReplicaContext {
            options,
            client: Arc::new(LeasedClient::new(client, Arc::clone(&lease))),
            lease,
            identity: Arc::new(identity),
            succession,
            disk: Arc::new(OsDisk),
            clock: Arc::clone(&clock),
            captured: captured.subscribe(),
            flush: wanted,
            status: status.clone(),
            commands,
            stopping: stopping.clone(),
            time_is_up: CancellationToken::new(),
            continuable: Arc::default(),
        };
        let task = Task {
            node: self.id,
            dir: self.dir.path().to_owned(),
            clock,
            database: Arc::clone(&self.database),
            judge: Arc::clone(&self.judge),
            captured: captured.clone(),
            status: status.subscribe(),
            drill: DrillStatus::default(),
        };
        let frozen = || self.frozen.subscribe();
        let replica = tokio::spawn(gated(frozen(), replica::run(context, cancel.clone())));
        self.line.set_task(Some(replica.id()));
        self.process = Some(Process {
            replica,
            database: tokio::spawn(gated(frozen(), task.run(asked))),
            cancel,
            stopping,
            flush,
            captured,
            status: status.subscribe(),
        });
        self.capture();
    }

    /// Stops the process for a while, or lets it go on.
    pub(super) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Ends the process at once. What it has sent is under way.
    pub(super) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.replica.abort();
            process.database.abort();
        }
        self.line.set_task(None);
        self.freeze(false);
    }

    /// Ends the backup in order, with what was captured on the replica if that is possible.
    pub(super) async fn stop(&mut self) {
        self.freeze(false);
        let Some(mut process) = self.process.take() else {
            return;
        };
        let newest = self.database().txid;
        process.stopping.cancel();
        process.flush.send_replace(newest);
        let complete = |status: &DatabaseStatus| status.replicas[0].txid >= newest;
        let wait = process.status.wait_for(complete);
        let _ = timeout(Duration::from_secs(30), wait).await;
        process.cancel.cancel();
        process.replica.await.unwrap();
        process.database.abort();
        self.line.set_task(None);
    }

    /// The local state is lost.
    pub(super) fn lose_state(&mut self) {
        assert!(self.process.is_none());
        self.dir = evertide_testkit::memory_dir();
        let mut database = self.database();
        database.txid = Txid::ZERO;
        database.staged.clear();
    }

    /// The database is what was restored.
    pub(super) fn restore(&mut self, pages: &Pages) {
        self.lose_state();
        let mut database = self.database();
        database.pages.clone_from(pages);
        database.lived = HashSet::from([pages.clone()]);
    }

    /// Whether what is captured is said to be on the replica.
    pub(super) fn is_durable(&self) -> bool {
        let newest = self.database().txid;
        let process = self.process.as_ref();
        process.is_some_and(|process| process.status.borrow().replicas[0].txid == newest)
            && newest > Txid::ZERO
    }

    pub(super) fn pages(&self) -> Pages {
        self.database().pages.clone()
    }

    pub(super) fn drill_interval(&self) -> Option<Duration> {
        self.options.drill_interval
    }

    /// The transaction that the last good drill restored.
    pub(super) fn proven(&self) -> Option<Txid> {
        let process = self.process.as_ref()?;
        let proof = process.status.borrow().replicas[0].drill.proven;
        proof.map(|proof| proof.txid)
    }

    /// The newest captured transaction.
    pub(super) fn txid(&self) -> Txid {
        self.database().txid
    }

    /// What is wrong with compaction, snapshots or retention of its replica.
    pub(super) fn maintenance_error(&self) -> Option<String> {
        let process = self.process.as_ref()?;
        process.status.borrow().replicas[0]
            .maintenance_error
            .clone()
    }

    /// What is wrong with its replica.
    pub(super) fn error(&self) -> Option<String> {
        let process = self.process.as_ref()?;
        process.status.borrow().replicas[0].error.clone()
    }
}

/// Nothing of it is done while it is frozen.
async fn gated(mut frozen: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    let mut work = pin!(work);
    loop {
        if frozen.wait_for(|frozen| !frozen).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            _ = frozen.wait_for(|frozen| *frozen) => {}
            () = work.as_mut() => return,
        }
    }
}

impl Database {
    fn commit(&mut self) {
        let before = self.pages.len();
        let size = match self.random.u8(..8) {
            0 => before + self.random.usize(1..4),
            1 => self.random.usize(1..=before.max(1)),
            _ => before.max(3),
        };
        self.pages.resize(size.min(MOST_PAGES), 0);
        let size = self.pages.len();
        let mut touched = vec![0];
        touched.extend(before..size);
        touched.extend((size != before && size > 1).then_some(1));
        touched.extend((0..self.random.usize(..3)).map(|_| self.random.usize(..size)));
        for page in touched {
            self.pages[page] = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
        }
        self.lived.insert(self.pages.clone());
    }

    /// Captures what changed, if anything was captured before; whether anything did.
    fn capture(&mut self, dir: &Path, now: SystemTime) -> bool {
        let Some(last) = self.history.get(self.txid) else {
            return false;
        };
        if last.pages == self.pages {
            return false;
        }
        let created = whole_milliseconds(now).max(last.created);
        let txid = self.txid.next();
        self.add(txid, created);
        let name = LtxName::new(txid, txid);
        let file = self.history.file(name);
        let staged = OsDisk.create_new(&dir.join(name.to_string()), 0o600);
        staged.unwrap().write_at(&file, 0).unwrap();
        self.staged.push(Staged {
            name,
            bytes: file.len() as u64,
        });
        true
    }

    /// The history goes on with this transaction, whatever was before.
    fn add(&mut self, txid: Txid, created: SystemTime) {
        let pages = self.pages.clone();
        self.history.add(txid, State { created, pages });
        self.txid = txid;
    }

    fn captured(&self, dir: &Path) -> Captured {
        Captured {
            txid: self.txid,
            created: self.history.get(self.txid).map(|state| state.created),
            record: self.history.record(self.txid),
            begun: self.begun.as_ref().map(content),
            staged: self.staged.clone().into(),
            dir: dir.to_owned(),
        }
    }

    /// The database, or what changed in it, as a file that ends above a transaction.
    fn image(&mut self, request: &ImageRequest, now: SystemTime) -> LtxName {
        let ImageRequest { above, content, .. } = request;
        let changes = *content == Content::Changes && *above >= self.first && *above < self.txid;
        if changes {
            return LtxName::new(above.next(), self.txid);
        }
        if self.txid <= *above || self.txid == Txid::ZERO {
            let last = self.history.get(self.txid).map(|state| state.created);
            let created = whole_milliseconds(now);
            let txid = (*above).max(self.txid).next();
            self.add(txid, last.map_or(created, |last| last.max(created)));
            self.first = self.txid;
            self.staged.clear();
        }
        LtxName::new(Txid::FIRST, self.txid)
    }
}

/// The task of the database.
struct Task {
    node: NodeId,
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    database: Arc<Mutex<Database>>,
    judge: Arc<Mutex<Judge>>,
    captured: watch::Sender<Captured>,
    status: watch::Receiver<DatabaseStatus>,
    /// What drills had found when this heard of them last.
    drill: DrillStatus,
}

impl Task {
    async fn run(mut self, mut asked: mpsc::UnboundedReceiver<Command>) {
        loop {
            tokio::select! {
                biased;
                command = asked.recv() => match command {
                    Some(command) => self.answer(command),
                    None => return,
                },
                _ = self.status.changed() => self.told(),
            }
        }
    }

    /// What the status says is on the replica must be there.
    fn told(&mut self) {
        let status = self.status.borrow_and_update();
        let replica = &status.replicas[0];
        let database = self.database.lock().unwrap();
        let mut judge = self.judge.lock().unwrap();
        if let Some(state) = database.history.get(replica.txid) {
            judge.told_durable(replica.txid, &state.pages);
        }
        judge.drilled(self.node, &self.drill, &replica.drill);
        self.drill.clone_from(&replica.drill);
    }

    fn answer(&self, command: Command) {
        let mut database = self.database.lock().unwrap();
        match command {
            Command::Image(request) => {
                let before = database.txid;
                let name = database.image(&request, self.clock.now());
                let created = database.history.get(name.max).unwrap().created;
                let stream = bytes_stream(database.history.file(name));
                if database.txid != before {
                    let (txid, pages) = (database.txid, database.pages.clone());
                    self.judge.lock().unwrap().captured(self.node, txid, &pages);
                }
                // The replica's task may have been cancelled.
                let _ = request.reply.send(Snapshot {
                    name,
                    created,
                    stream,
                });
            }
            Command::CompareTail { tail, reply, .. } => {
                let known = tail.txid >= database.first && tail.txid <= database.txid;
                let found = &tail.pages;
                let history = &database.history;
                let _ = reply.send(known && history.has(tail.txid, tail.timestamp_ms, found));
            }
            Command::Arrived(_) | Command::Compacted => {
                let status = self.status.borrow();
                let replica = &status.replicas[0];
                let needed = replica.txid.min(replica.merged);
                database.staged.retain(|file| file.name.max > needed);
            }
            _ => {}
        }
        self.captured.send_if_modified(|before| {
            let captured = database.captured(&self.dir);
            let modified = *before != captured;
            *before = captured;
            modified
        });
    }
}

//! A machine with an application and the real backup of its database, which can be stopped, killed and frozen.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use evertide_ltx::Txid;
use evertide_storage::{Clock, MemoryClient, OsDisk, ReplicaClient};
use fastrand::Rng;
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    application::{Application, Common},
    cloud::{Conditions, Line},
    judge::{Judge, NodeId},
    pages::Pages,
};
use crate::{
    DatabaseStatus, DrillStatus, Error, ReplicaOptions, ReplicationOptions,
    capture::RotationPolicy,
    database::{self, Captured, Command, DatabaseConfig, DatabaseHandle, StopTime},
    replica::Succession,
    runtime::{Engine, SimulatedMachine, TaskOfMachine},
    verify::Record,
};

/// How long an orderly stop may take.
const STOP_TIME: Duration = Duration::from_secs(30);
/// Frames after which a WAL starts over.
const ROTATE_AT: u32 = 40;

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

/// What becomes of the tasks of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Goes,
    Frozen,
    /// It was killed.
    Over,
}

/// What the engine of a process has of its machine.
#[derive(Debug)]
struct Machine {
    line: Line,
    home: PathBuf,
    /// Of each task, so that they go on in the order in which they began: of two who wait for one thing tokio wakes any
    /// first.
    lives: Mutex<Vec<watch::Sender<Life>>>,
    tasks: TaskTracker,
}

impl Machine {
    fn set(&self, life: Life) {
        for task in &*self.lives.lock().unwrap() {
            task.send_replace(life);
        }
    }

    fn is_frozen(&self) -> bool {
        let lives = self.lives.lock().unwrap();
        lives.iter().any(|task| *task.borrow() == Life::Frozen)
    }
}

impl SimulatedMachine for Machine {
    fn store(&self) -> Arc<dyn ReplicaClient> {
        Arc::new(self.line.clone())
    }

    fn home(&self) -> PathBuf {
        self.home.clone()
    }

    fn task(&self, work: TaskOfMachine) -> TaskOfMachine {
        let (task, life) = watch::channel(Life::Goes);
        self.lives.lock().unwrap().push(task);
        let line = self.line.clone();
        Box::pin(self.tasks.track_future(async move {
            line.add_task();
            gated(life, work).await;
        }))
    }
}

/// Nothing of it is done while it is frozen, nor when it is over.
async fn gated(mut life: watch::Receiver<Life>, work: TaskOfMachine) {
    let mut work = work;
    loop {
        match life.wait_for(|life| *life != Life::Frozen).await.as_deref() {
            Ok(Life::Goes) => {}
            _ => return,
        }
        tokio::select! {
            biased;
            _ = life.wait_for(|life| *life != Life::Goes) => {}
            () = work.as_mut() => return,
        }
    }
}

/// A backup that runs.
struct Process {
    engine: Arc<Engine>,
    machine: Arc<Machine>,
    backup: DatabaseHandle,
    /// Hears what it says of itself.
    listener: JoinHandle<()>,
}

/// What is known of what was captured.
#[derive(Default)]
struct Known {
    /// The newest captured transaction.
    txid: Txid,
    /// The database after each, by this machine's history.
    states: BTreeMap<Txid, Pages>,
}

/// What all nodes have in common.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) cloud: Arc<MemoryClient>,
    pub(super) conditions: Conditions,
    pub(super) judge: Arc<Mutex<Judge>>,
    pub(super) common: Common,
    /// Whether they are taken for one another, by where their databases are.
    pub(super) one_machine: bool,
    pub(super) options: ReplicaOptions,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) line: Line,
    /// Where its database is said to be: nodes that say the same are taken for one machine.
    home: PathBuf,
    clock: Arc<NodeClock>,
    options: ReplicaOptions,
    judge: Arc<Mutex<Judge>>,
    application: Arc<Mutex<Application>>,
    known: Arc<Mutex<Known>>,
    /// It is started to take over whatever there is.
    forced: Arc<AtomicBool>,
    process: Option<Process>,
}

impl Node {
    pub(super) fn new(id: NodeId, home: &Path, shared: &Shared, random: &mut Rng) -> Self {
        let Shared {
            cloud,
            conditions,
            judge,
            common,
            one_machine,
            options,
        } = shared.clone();
        let application = Application::new(common, random.fork());
        let application = Arc::new(Mutex::new(application));
        let forced = Arc::new(AtomicBool::new(false));
        let legitimate = {
            let (application, forced) = (Arc::clone(&application), Arc::clone(&forced));
            move |newest: &[Pages]| {
                let application = application.lock().unwrap();
                one_machine
                    || forced.load(Ordering::Relaxed)
                    || newest.iter().any(|pages| application.has_lived(pages))
            }
        };
        let line = Line::new(
            id,
            (cloud, conditions),
            judge.clone(),
            legitimate,
            random.u64(..),
        );
        Self {
            id,
            line,
            home: home.to_owned(),
            clock: Arc::new(NodeClock {
                start: Instant::now(),
                ahead: AtomicI64::new(0),
            }),
            options,
            judge,
            application,
            known: Arc::default(),
            forced,
            process: None,
        }
    }

    fn application(&self) -> MutexGuard<'_, Application> {
        self.application.lock().unwrap()
    }

    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn is_frozen(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| process.machine.is_frozen())
    }

    /// Its clock is so many milliseconds ahead.
    pub(super) fn set_clock(&self, ahead: i64) {
        self.clock.ahead.store(ahead, Ordering::Relaxed);
    }

    /// The application commits, and a backup that runs notices that, or is left to find it.
    pub(super) fn commit(&self) {
        let noticed = self.application().commit();
        if let Some(process) = &self.process
            && noticed
        {
            process.engine.watcher.tell();
        }
    }

    /// Starts the backup. Returns when it captures.
    pub(super) async fn start(&mut self, succession: Succession) {
        assert!(self.process.is_none());
        let forced = succession == Succession::Forced;
        self.forced.store(forced, Ordering::Relaxed);
        let machine = Arc::new(Machine {
            line: self.line.clone(),
            home: self.home.clone(),
            lives: Mutex::default(),
            tasks: TaskTracker::new(),
        });
        let engine = Engine::simulated(Arc::clone(&machine) as Arc<dyn SimulatedMachine>);
        let path = self.application().path();
        let mut replica = self.options.clone();
        // Elsewhere others with the same seed draw the same names.
        replica.drill_directory = path.parent().map(Path::to_owned);
        let options = ReplicationOptions {
            replicas: vec![replica],
            ..ReplicationOptions::default()
        };
        let config = DatabaseConfig {
            path: path.clone(),
            options: options.clone(),
            in_force: watch::Sender::new(options),
            disk: Arc::new(OsDisk),
            clock: self.clock.clone(),
            policy: RotationPolicy::fixed(ROTATE_AT),
            succession,
        };
        let claim = engine.claim(path.clone()).unwrap();
        let status = watch::Sender::new(DatabaseStatus::new(path));
        self.line.forget_tasks();
        let started = database::start(Arc::clone(&engine), claim, config, status);
        let backup = started.await.unwrap();
        let listener = Listener {
            node: self.id,
            application: Arc::clone(&self.application),
            known: Arc::clone(&self.known),
            judge: Arc::clone(&self.judge),
            captured: backup.captured.clone(),
            status: changed(&backup.status),
            drill: DrillStatus::default(),
        };
        self.process = Some(Process {
            engine,
            machine,
            backup,
            listener: tokio::spawn(listener.run()),
        });
    }

    /// Stops the process for a while, or lets it go on.
    pub(super) fn freeze(&self, frozen: bool) {
        let life = if frozen { Life::Frozen } else { Life::Goes };
        if let Some(process) = &self.process {
            process.machine.set(life);
        }
    }

    /// Ends the process at once. What it has sent is under way.
    pub(super) async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.machine.set(Life::Over);
            process.end().await;
        }
    }

    /// Ends the backup in order, with what was captured on the replica if that is possible.
    pub(super) async fn stop(&mut self) {
        self.freeze(false);
        let Some(process) = self.process.take() else {
            return;
        };
        let time = StopTime::within(STOP_TIME);
        let path = self.application().path();
        let stopped = process
            .backup
            .ask(&path, |reply| Command::Stop { time, reply });
        match stopped.await {
            Ok(()) | Err(Error::StoppedBehind { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        process.end().await;
    }

    /// The local state is lost.
    pub(super) fn lose_state(&mut self) {
        assert!(self.process.is_none());
        self.application().lose_state();
        self.known.lock().unwrap().txid = Txid::ZERO;
    }

    /// The database is what was restored.
    pub(super) fn restore(&mut self, pages: &Pages) {
        self.lose_state();
        self.application().restore(pages);
    }

    /// Whether all that was committed is said to be on the replica.
    pub(super) fn is_durable(&self) -> bool {
        let Some(process) = &self.process else {
            return false;
        };
        let captured = process.backup.captured.borrow();
        let record = captured.record.as_ref().map(Record::content);
        let newest = record == Some(super::pages::content(self.application().pages()));
        newest && process.backup.status.borrow().replicas[0].txid == captured.txid
    }

    pub(super) fn pages(&self) -> Pages {
        self.application().pages().clone()
    }

    pub(super) fn drill_interval(&self) -> Option<Duration> {
        self.options.drill_interval
    }

    /// The transaction that the last good drill restored.
    pub(super) fn proven(&self) -> Option<Txid> {
        let proof = self.status()?.replicas[0].drill.proven;
        proof.map(|proof| proof.txid)
    }

    /// The newest captured transaction.
    pub(super) fn txid(&self) -> Txid {
        self.known.lock().unwrap().txid
    }

    /// What is wrong with compaction, snapshots or retention of its replica.
    pub(super) fn maintenance_error(&self) -> Option<String> {
        self.status()?.replicas[0].maintenance_error.clone()
    }

    /// What is wrong with its replica.
    pub(super) fn error(&self) -> Option<String> {
        self.status()?.replicas[0].error.clone()
    }

    fn status(&self) -> Option<DatabaseStatus> {
        let process = self.process.as_ref()?;
        Some(process.backup.status.borrow().clone())
    }
}

impl Process {
    /// All of its tasks have ended.
    async fn end(self) {
        let Self {
            engine,
            machine,
            backup,
            listener,
        } = self;
        machine.tasks.close();
        machine.tasks.wait().await;
        drop((engine, backup));
        listener.await.unwrap();
    }
}

/// What there is already counts.
fn changed(status: &watch::Receiver<DatabaseStatus>) -> watch::Receiver<DatabaseStatus> {
    let mut status = status.clone();
    status.mark_changed();
    status
}

/// Hears what is captured, and what is said of it. It waits for the status only: what is captured is waited for by the
/// replica, and of two who wait for one thing tokio wakes any first.
struct Listener {
    node: NodeId,
    application: Arc<Mutex<Application>>,
    known: Arc<Mutex<Known>>,
    judge: Arc<Mutex<Judge>>,
    captured: watch::Receiver<Captured>,
    status: watch::Receiver<DatabaseStatus>,
    /// What drills had found when this heard of them last.
    drill: DrillStatus,
}

impl Listener {
    async fn run(mut self) {
        loop {
            let goes_on = self.status.changed().await.is_ok();
            self.captured();
            self.told();
            if !goes_on {
                return;
            }
        }
    }

    /// What is captured must be what was committed.
    fn captured(&mut self) {
        let captured = self.captured.borrow();
        let mut known = self.known.lock().unwrap();
        let txid = captured.txid;
        if txid == known.txid || txid == Txid::ZERO {
            return;
        }
        let application = self.application.lock().unwrap();
        let state = match captured.record {
            Some(record) => application.state(record.content()),
            None => Some(application.pages()),
        };
        let mut judge = self.judge.lock().unwrap();
        match state {
            Some(pages) => {
                judge.captured(self.node, txid, pages);
                known.txid = txid;
                known.states.insert(txid, pages.clone());
            }
            None => judge.blame(format!(
                "{txid} is captured as no state that there ever was"
            )),
        }
    }

    /// What the status says is on the replica must be there.
    fn told(&mut self) {
        let status = self.status.borrow_and_update();
        let replica = &status.replicas[0];
        let known = self.known.lock().unwrap();
        let mut judge = self.judge.lock().unwrap();
        if let Some(error) = &status.error {
            judge.blame(format!("capture fails: {error}"));
        }
        if let Some(pages) = known.states.get(&replica.txid) {
            judge.told_durable(replica.txid, pages);
        }
        judge.drilled(self.node, &self.drill, &replica.drill);
        self.drill.clone_from(&replica.drill);
    }
}

//! The real task of a replica, with a database that is a number, on simulated time.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evertide_ltx::{Checksum, Encoder, Header, LtxName, PageSize, Pgno, Txid};
use evertide_storage::{
    Clock, CountingClient, Destination, Identity, Lease, LeasedClient, OsDisk, ReplicaClient,
    TxidRange, bytes_stream,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{ReplicaContext, Succession, milliseconds, run};
use crate::{
    DatabaseStatus, ReplicaOptions, ReplicaStatus,
    database::{Captured, Command, Snapshot},
    state::{LocalIdentity, Staged, owner},
    verify::{Content, Record},
};

#[derive(Debug)]
struct SimulatedClock(Instant);

impl Clock for SimulatedClock {
    fn now(&self) -> SystemTime {
        // At midnight.
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_699_920_000) + self.0.elapsed()
    }

    fn uptime(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A database of one page, which each transaction writes.
pub(super) struct Database {
    dir: tempfile::TempDir,
    clock: Arc<SimulatedClock>,
    txid: Txid,
    staged: Vec<Staged>,
    captured: watch::Sender<Captured>,
    status: watch::Receiver<DatabaseStatus>,
    commands: mpsc::UnboundedReceiver<Command>,
}

impl Database {
    fn page(&self) -> [u8; 512] {
        let mut page = [0; 512];
        page[..8].copy_from_slice(&self.txid.get().to_le_bytes());
        page
    }

    fn file(&self, name: LtxName) -> Bytes {
        let mut header = Header::new(PageSize::new(512).unwrap(), 1, name.min, name.max);
        header.timestamp_ms = milliseconds(self.clock.now());
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        let first = Pgno::new(1).unwrap();
        encoder.encode_page(first, &self.page()).unwrap();
        encoder.finish().unwrap().0.into()
    }

    fn now(&self) -> Captured {
        let checksum = Checksum::page(Pgno::new(1).unwrap(), &self.page());
        let record = Record {
            txid: self.txid,
            timestamp_ms: milliseconds(self.clock.now()),
            pages: 1,
            checksum: Checksum::EMPTY.toggle(checksum),
        };
        Captured {
            txid: self.txid,
            created: Some(self.clock.now()),
            record: Some(record),
            begun: Some(Content::of_sum(1, checksum.get())),
            staged: self.staged.as_slice().into(),
            dir: self.dir.path().to_owned(),
        }
    }

    #[allow(clippy::disallowed_methods)] // it stands for capture, which is not tested here
    fn commit(&mut self) {
        self.txid = self.txid.next();
        let name = LtxName::new(self.txid, self.txid);
        let content = self.file(name);
        let bytes = content.len() as u64;
        std::fs::write(self.dir.path().join(name.to_string()), content).unwrap();
        self.staged.push(Staged { name, bytes });
        self.captured.send_replace(self.now());
    }

    /// Does what the replica's task asks for.
    #[allow(clippy::disallowed_methods)] // as above
    fn answer(&mut self, command: Command) {
        match command {
            Command::Image(request) => {
                if request.above >= self.txid {
                    self.txid = request.above.next();
                    self.captured.send_replace(self.now());
                }
                let name = LtxName::new(Txid::FIRST, self.txid);
                let snapshot = Snapshot {
                    name,
                    created: self.clock.now(),
                    stream: bytes_stream(self.file(name)),
                };
                let _ = request.reply.send(snapshot);
            }
            Command::Arrived(_) | Command::Compacted => {
                let needed = {
                    let status = self.status.borrow();
                    status.replicas[0].txid.min(status.replicas[0].merged)
                };
                let dir = self.dir.path().to_owned();
                self.staged.retain(|file| {
                    let stays = file.name.max > needed;
                    if !stays {
                        std::fs::remove_file(dir.join(file.name.to_string())).unwrap();
                    }
                    stays
                });
            }
            Command::CompareTail { reply, .. } => {
                // Nobody else writes there.
                let _ = reply.send(true);
            }
            Command::Looked | Command::WantChecksum => {}
            other => panic!("{other:?}"),
        }
    }

    /// Cuts what is staged in two.
    #[allow(clippy::disallowed_methods)] // as above
    pub(super) fn damage_staged(&self) -> usize {
        for file in &self.staged {
            let path = self.dir.path().join(file.name.to_string());
            let content = std::fs::read(&path).unwrap();
            std::fs::write(path, &content[..content.len() / 2]).unwrap();
        }
        self.staged.len()
    }

    /// What its replica is doing.
    pub(super) fn replica(&self) -> ReplicaStatus {
        self.status.borrow().replicas[0].clone()
    }

    /// The newest transaction.
    pub(super) fn txid(&self) -> Txid {
        self.txid
    }

    /// The time of day.
    pub(super) fn time(&self) -> SystemTime {
        self.clock.now()
    }

    /// Writes each `pause`, or never.
    pub(super) async fn live(&mut self, time: Duration, pause: Option<Duration>) {
        let end = Instant::now() + time;
        let mut commit = pause.map_or(end, |pause| Instant::now() + pause);
        loop {
            tokio::select! {
                biased;
                () = sleep_until(end) => return,
                command = self.commands.recv() => self.answer(command.unwrap()),
                () = sleep_until(commit) => {
                    self.commit();
                    commit += pause.unwrap();
                }
            }
        }
    }
}

/// A replica in a service, with the default settings but those of a test.
pub(super) struct Scene {
    pub(super) database: Database,
    pub(super) client: Arc<CountingClient>,
    pub(super) cancel: CancellationToken,
    pub(super) time_is_up: CancellationToken,
    /// The task of the replica.
    pub(super) task: JoinHandle<()>,
    /// Nobody waits for a commit.
    _flush: watch::Sender<Txid>,
}

impl Scene {
    pub(super) fn start(client: Arc<dyn ReplicaClient>, sync_interval: Duration) -> Self {
        Self::start_with(client, |options| options.sync_interval = sync_interval)
    }

    pub(super) fn start_with(
        client: Arc<dyn ReplicaClient>,
        set: impl FnOnce(&mut ReplicaOptions),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SimulatedClock(Instant::now()));
        let path = PathBuf::from("/app.db");
        let mut options = ReplicaOptions::new("it", Destination::file("/not/looked/at").unwrap());
        set(&mut options);
        let client = Arc::new(CountingClient::new(client));
        let counted: Arc<dyn ReplicaClient> = client.clone();
        let identity = LocalIdentity::open(&OsDisk, &dir.path().join("identity")).unwrap();
        let lease = Arc::new(Lease::new(
            Arc::clone(&counted),
            Arc::clone(&clock) as _,
            owner(identity.owner, &path).unwrap(),
            options.lease_duration,
        ));
        let mut status = DatabaseStatus::new(path);
        let replica = ReplicaStatus::new("it".into(), counted.location(), Txid::ZERO);
        status.replicas.push(replica);
        let status = watch::Sender::new(status);
        let (commands, asked) = mpsc::unbounded_channel();
        let nothing = Captured {
            txid: Txid::ZERO,
            created: None,
            record: None,
            begun: None,
            staged: Arc::new([]),
            dir: dir.path().to_owned(),
        };
        let database = Database {
            dir,
            clock: Arc::clone(&clock),
            txid: Txid::FIRST,
            staged: Vec::new(),
            captured: watch::Sender::new(nothing),
            status: status.subscribe(),
            commands: asked,
        };
        database.captured.send_replace(database.now());
        let flush = watch::Sender::new(Txid::ZERO);
        let (cancel, time_is_up) = (CancellationToken::new(), CancellationToken::new());
        let context = ReplicaContext {
            options,
            client: Arc::new(LeasedClient::new(counted, Arc::clone(&lease))),
            lease,
            identity: Arc::new(identity),
            succession: Succession::Proven,
            disk: Arc::new(OsDisk),
            clock,
            captured: database.captured.subscribe(),
            flush: flush.subscribe(),
            status,
            commands,
            stopping: CancellationToken::new(),
            time_is_up: time_is_up.clone(),
            continuable: Arc::default(),
        };
        Self {
            task: tokio::spawn(run(context, cancel.clone())),
            database,
            client,
            cancel,
            time_is_up,
            _flush: flush,
        }
    }

    /// Another writer takes the lease, once it has ended, and lets go of it.
    pub(super) async fn another_has_been_there(&self) {
        let clock = Arc::clone(&self.database.clock) as _;
        let another = owner(Identity::random(), &PathBuf::from("/other.db")).unwrap();
        let client = Arc::clone(&self.client) as _;
        let lease = Lease::new(client, clock, another, Duration::from_secs(60));
        let taken = lease.look().await.unwrap();
        let range = TxidRange {
            found: self.database.txid,
            begins: self.database.txid.next(),
        };
        let lineage = taken.record().unwrap().lineage;
        lease.claim(lineage, &taken, range);
        lease.ensure().await.unwrap();
        lease.release().await.unwrap();
    }
}

//! The drill: a replica is restored for the sake of it, at intervals, and what came of it is published.
//!
//! [`schedule`] says when, [`proof`] what it means. The restore, SQLite's check and the checksum are
//! those of [`verify`](crate::verify()). One drill runs at a time in a process, whatever it replicates, and
//! is given up after a time; it delays no upload, and a stop ends it at once.

#[cfg(test)]
mod fuzz;
mod gauges;
mod proof;
#[cfg(test)]
mod reads;
mod schedule;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide_ltx::Txid;
use evertide_storage::{
    Clock, Disk, Error as StoreError, LimitedClient, Precondition, ReplicaClient, SmallKey,
};
use rusqlite::ErrorCode;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::schedule::Failures;
use crate::{
    DatabaseStatus, DrillFailure, DrillFailureKind, DrillProof, DrillStatus, RestoreError,
    RestoreReport,
    database::Captured,
    error::describe,
    replica::{ReplicaContext, report},
    runtime,
    verify::{Heard, Newest, Record, Recorded, Unrestored, recorded},
};

/// Requests to the replica at a time: uploads have the way.
const PARALLELISM: usize = 4;
/// How long the proof may take to be read, and to be stored.
const PATIENCE: Duration = Duration::from_secs(10);
/// The name of the object that holds the last proof.
pub(crate) const NAME: &str = "drill";

/// Whether this is the content of such an object, undamaged.
pub(crate) fn is_proof(content: &[u8]) -> bool {
    proof::decode(content).is_some()
}

/// Drills of one replica.
pub(crate) struct Drill {
    interval: Option<Duration>,
    /// How long one may take.
    timeout: Duration,
    /// Within its bandwidth.
    client: Arc<dyn ReplicaClient>,
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    clock: Arc<dyn Clock>,
    heard: Heard,
    captured: watch::Receiver<Captured>,
    /// Notified when something is there that nobody here has captured.
    doubt: Arc<Notify>,
    stopping: CancellationToken,
    status: watch::Sender<DatabaseStatus>,
    replica: String,
    proven: Option<DrillProof>,
    failures: Option<Failures>,
}

/// Why a drill came to no good end.
struct Failed {
    kind: DrillFailureKind,
    problem: String,
}

impl Drill {
    pub(crate) fn new(context: &ReplicaContext, heard: Heard, doubt: Arc<Notify>) -> Self {
        let client = Arc::clone(&context.client);
        let options = &context.options;
        Self {
            interval: options.drill_interval,
            timeout: options.drill_timeout,
            client: match options.drill_bandwidth {
                Some(rate) => Arc::new(LimitedClient::new(client, rate)),
                None => client,
            },
            disk: Arc::clone(&context.disk),
            directory: match &options.drill_directory {
                Some(directory) => directory.clone(),
                None => std::env::temp_dir(),
            },
            clock: Arc::clone(&context.clock),
            heard,
            captured: context.captured.clone(),
            doubt,
            stopping: context.stopping.clone(),
            status: context.status.clone(),
            replica: options.name.clone(),
            proven: None,
            failures: None,
        }
    }

    /// Drills until the database stops; never returns.
    pub(crate) async fn run(mut self) {
        if let Some(interval) = self.interval {
            let stopping = self.stopping.clone();
            // Whatever is under way ends with the future, and leaves nothing behind.
            stopping.run_until_cancelled(self.repeat(interval)).await;
        }
        std::future::pending().await
    }

    async fn repeat(&mut self, interval: Duration) {
        let newest = self.until_complete().await;
        self.remember(newest).await;
        loop {
            let proven = self.proven.map(|proof| proof.at);
            let wait = schedule::wait(interval, proven, self.failures, self.clock.now());
            tokio::time::sleep(wait).await;
            let turn = runtime::drill().await;
            self.tell(|status| status.running = true);
            // Others wait for their turn: one that hangs must not be the last.
            let done = tokio::time::timeout(self.timeout, self.drill()).await;
            let done = done.unwrap_or_else(|_| Err(self.overdue()));
            drop(turn);
            match done {
                Ok(proof) => self.proved(proof).await,
                Err(failed) => self.failed(failed),
            }
        }
    }

    /// Waits until the replica has the history captured here, from its beginning.
    async fn until_complete(&self) -> Txid {
        let newest = |status: &DatabaseStatus| {
            let replica = status.replicas.iter().find(|r| r.name == self.replica);
            replica.map_or(Txid::ZERO, |replica| replica.txid)
        };
        let mut status = self.status.subscribe();
        let complete = status.wait_for(|status| newest(status) > Txid::ZERO).await;
        match complete.map(|status| newest(&status)) {
            Ok(newest) => newest,
            Err(_) => std::future::pending().await, // this one keeps a sender
        }
    }

    /// Takes up the last proof, so that a restart brings no drill forward.
    async fn remember(&mut self, newest: Txid) {
        let Some(key) = SmallKey::new(NAME) else {
            return;
        };
        let found = tokio::time::timeout(PATIENCE, self.client.get_small(&key)).await;
        let proof = match found {
            Ok(Ok(found)) => found.and_then(|found| proof::decode(&found.content)),
            Ok(Err(error)) => {
                tracing::debug!(replica = self.replica, %error, "cannot read the last proof");
                None
            }
            Err(_) => {
                tracing::debug!(
                    replica = self.replica,
                    "reading the last proof takes too long"
                );
                None
            }
        };
        // A replica that was started over has nothing to do with it.
        self.proven = proof.filter(|proof| proof.txid <= newest);
        let proven = self.proven;
        gauges::publish(&self.database(), &self.replica, proven.as_ref());
        self.tell(|status| status.proven = proven);
    }

    /// Restores the newest state, and compares it with what was captured.
    async fn drill(&self) -> Result<DrillProof, Failed> {
        let listening = self.heard.listen();
        let newest = Newest::new(
            Arc::clone(&self.client),
            PARALLELISM,
            Arc::clone(&self.disk),
            self.directory.clone(),
        );
        let restored = newest.restore().await;
        let (restored, checksum) = restored.map_err(|error| self.unrestored(error))?;
        let captured = self.captured.borrow().txid;
        if captured > Txid::ZERO && restored.txid > captured {
            self.doubt.notify_one();
            return Err(Failed {
                kind: DrillFailureKind::Unfinished,
                problem: format!(
                    "the newest transaction of the replica is {}, and only {captured} was captured here: somebody \
                     else has written there, and it is looked at again",
                    restored.txid
                ),
            });
        }
        let record = match listening.record_of(restored.txid, restored.timestamp_ms) {
            Some(record) => Some(record),
            None => self.published(&restored).await.map_err(unreachable)?,
        };
        let compared = proof::compare(&restored, checksum, record).map_err(|problem| Failed {
            kind: DrillFailureKind::Unsound,
            problem: format!("{problem}; `evertide verify` says which files are to blame"),
        })?;
        Ok(DrillProof {
            txid: restored.txid,
            captured: restored.created.unwrap_or(SystemTime::UNIX_EPOCH),
            at: self.clock.now(),
            database_bytes: restored.database_bytes,
            database_checksum: checksum.get(),
            compared,
        })
    }

    /// The checksum that was recorded beside the replica for this state.
    async fn published(&self, restored: &RestoreReport) -> Result<Option<Record>, StoreError> {
        let Recorded::Records(records) = recorded(&*self.client).await? else {
            return Ok(None);
        };
        // Other histories count transactions, too.
        let same = |record: &Record| {
            record.txid == restored.txid && Some(record.timestamp_ms) == restored.timestamp_ms
        };
        Ok(records.into_iter().find(same))
    }

    async fn proved(&mut self, proof: DrillProof) {
        (self.proven, self.failures) = (Some(proof), None);
        metrics::counter!("evertide_drills_total").increment(1);
        gauges::publish(&self.database(), &self.replica, Some(&proof));
        tracing::info!(
            database = self.database(), replica = self.replica, txid = %proof.txid,
            bytes = proof.database_bytes, compared = proof.compared,
            "a drill restored the replica, and nothing is wrong with it"
        );
        self.store(&proof).await;
        self.tell(|status| {
            status.proven = Some(proof);
            status.failure = None;
            status.running = false;
            status.proofs += 1;
        });
    }

    /// Keeps the proof beside the replica. It is an extra, so that a failure is no error: after a
    /// restart the next drill comes early.
    async fn store(&self, proof: &DrillProof) {
        let Some(key) = SmallKey::new(NAME) else {
            return;
        };
        let content = proof::encode(proof).into();
        let put = self.client.put_small(&key, content, Precondition::None);
        match tokio::time::timeout(PATIENCE, put).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(replica = self.replica, %error, "cannot store the proof");
            }
            Err(_) => tracing::debug!(replica = self.replica, "storing the proof takes too long"),
        }
    }

    fn failed(&mut self, failed: Failed) {
        let Failed { kind, problem } = failed;
        let at = self.clock.now();
        let in_a_row = self
            .failures
            .map_or(1, |before| before.in_a_row.saturating_add(1));
        self.failures = Some(Failures { kind, at, in_a_row });
        metrics::counter!("evertide_drill_failures_total").increment(1);
        let last_proven = self.proven.map(|proof| proof.txid.to_string());
        tracing::error!(
            database = self.database(),
            replica = self.replica,
            ?kind,
            problem,
            in_a_row,
            last_proven,
            "a drill could not prove that the replica can be restored"
        );
        self.tell(|status| {
            let since = status.failure.as_ref().map_or(at, |before| before.since);
            status.failure = Some(DrillFailure {
                kind,
                problem,
                at,
                since,
            });
            status.running = false;
            status.failures += 1;
        });
    }

    fn overdue(&self) -> Failed {
        let (store, timeout) = (self.client.location(), self.timeout);
        Failed {
            kind: DrillFailureKind::Overdue,
            problem: format!(
                "restoring from {store} and checking had not ended after {timeout:?}: see whether the \
                 store answers; if the database is too large or `drill_bandwidth` too small for it to be \
                 done in that time, make `drill_timeout` longer"
            ),
        }
    }

    /// Tells what is wrong with the replica from what is wrong here.
    fn unrestored(&self, error: Unrestored) -> Failed {
        let directory = self.directory.display();
        let room = format!(
            "the restore needs as much room in {directory} as the database has: choose a directory \
             with `drill_directory`"
        );
        let (kind, problem) = match error {
            Unrestored::Temporary(action, error) => (
                DrillFailureKind::Unfinished,
                format!("cannot {action} {directory}: {error}; {room}"),
            ),
            Unrestored::Replica(error) => match verdict(&error) {
                DrillFailureKind::Unsound => (
                    DrillFailureKind::Unsound,
                    format!(
                        "the newest state cannot be restored: {}; {}",
                        describe(&error),
                        advice(&error)
                    ),
                ),
                kind if matches!(error, RestoreError::Io { .. }) => {
                    (kind, format!("{}; {room}", describe(&error)))
                }
                kind => (kind, describe(&error)),
            },
        };
        Failed { kind, problem }
    }

    fn database(&self) -> String {
        self.status.borrow().path.display().to_string()
    }

    fn tell(&self, change: impl FnOnce(&mut DrillStatus)) {
        report(&self.status, &self.replica, |status| {
            change(&mut status.drill)
        });
    }
}

fn unreachable(error: StoreError) -> Failed {
    Failed {
        kind: DrillFailureKind::Unfinished,
        problem: format!("cannot read the recorded checksums: {}", describe(&error)),
    }
}

/// Whether a failed restore says something about the replica.
fn verdict(error: &RestoreError) -> DrillFailureKind {
    match error {
        RestoreError::Replica(_)
        | RestoreError::Interrupted { .. }
        | RestoreError::Vanished { .. }
        | RestoreError::OutputExists(_)
        | RestoreError::OutputNotAFile(_)
        | RestoreError::LeftoverJournal(_)
        | RestoreError::Io { .. }
        | RestoreError::Start(_)
        | RestoreError::Cancelled => DrillFailureKind::Unfinished,
        RestoreError::Check(error) => match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => DrillFailureKind::Unsound,
            _ => DrillFailureKind::Unfinished,
        },
        _ => DrillFailureKind::Unsound,
    }
}

fn advice(error: &RestoreError) -> &'static str {
    match error {
        RestoreError::Corrupt { .. } | RestoreError::Check(_) => {
            "the database may have been so when it was captured: run `PRAGMA integrity_check` on it"
        }
        _ => "`evertide verify` says what is lost, and what can still be restored",
    }
}

#[cfg(test)]
mod tests {
    use evertide_ltx::{Checksum, Encoder, Header, Level, PageSize, Pgno};
    use evertide_storage::{Lease, ManualClock, MemoryClient, OsDisk, bytes_stream};
    use rusqlite::Connection;

    use super::*;
    use crate::{
        ReplicaOptions,
        database::Captured,
        replica::Succession,
        state::{LocalIdentity, owner},
        verify::encode_records,
    };

    const CAPTURED: i64 = 1_700_000_000_000;

    /// A replica with a snapshot of a real database, its checksum, and its size in pages.
    pub(super) async fn snapshot() -> (Arc<MemoryClient>, Checksum, u32) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(9000))")
            .unwrap();
        drop(conn);
        let disk = OsDisk.open_read(&path).unwrap();
        let mut content = vec![0; usize::try_from(disk.len().unwrap()).unwrap()];
        disk.read_exact_at(&mut content, 0).unwrap();
        let size = PageSize::new(4_096).unwrap();
        let pages = u32::try_from(content.len() / size.len()).unwrap();
        let mut header = Header::new(size, pages, Txid::FIRST, Txid::new(7));
        header.timestamp_ms = CAPTURED;
        let (name, mut sum) = (header.name(), Checksum::EMPTY);
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        for (page, number) in content.chunks(size.len()).zip(1..) {
            let pgno = Pgno::new(number).unwrap();
            encoder.encode_page(pgno, page).unwrap();
            sum = sum.toggle(Checksum::page(pgno, page));
        }
        let client = Arc::new(MemoryClient::new("drill"));
        let body = bytes_stream(encoder.finish().unwrap().0.into());
        // Of many services a listing tells only when an object was stored.
        let stored = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_009);
        let put = client.put(Level::SNAPSHOT, name, stored, body);
        put.await.unwrap();
        (client, sum, pages)
    }

    pub(super) fn drill(
        client: &Arc<impl ReplicaClient + 'static>,
        directory: &std::path::Path,
    ) -> Drill {
        let destination = evertide_storage::Destination::file("/nowhere").unwrap();
        let mut options = ReplicaOptions::new("memory", destination);
        options.drill_interval = Some(Duration::from_secs(1));
        options.drill_directory = Some(directory.to_owned());
        let (commands, _) = tokio::sync::mpsc::unbounded_channel();
        let captured = Captured {
            txid: Txid::new(7),
            created: None,
            record: None,
            begun: None,
            staged: Arc::new([]),
            dir: "/nowhere".into(),
        };
        let state = tempfile::tempdir().unwrap();
        let identity = LocalIdentity::open(&OsDisk, &state.path().join("identity")).unwrap();
        let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
        let client = Arc::clone(client) as Arc<dyn ReplicaClient>;
        let owner = owner(identity.owner, directory).unwrap();
        let lease = Lease::new(client.clone(), clock.clone(), owner, options.lease_duration);
        let context = ReplicaContext {
            options,
            client,
            lease: Arc::new(lease),
            identity: Arc::new(identity),
            succession: Succession::Proven,
            disk: Arc::new(OsDisk),
            clock,
            captured: watch::channel(captured).1,
            flush: watch::channel(Txid::ZERO).1,
            status: watch::channel(DatabaseStatus::new("app.db".into())).0,
            commands,
            stopping: CancellationToken::new(),
            time_is_up: CancellationToken::new(),
            continuable: Arc::default(),
        };
        Drill::new(&context, Heard::default(), Arc::default())
    }

    #[tokio::test]
    async fn what_an_earlier_process_recorded_beside_the_replica_is_compared_if_it_is_of_this_state()
     {
        let (client, checksum, pages) = snapshot().await;
        let directory = tempfile::tempdir().unwrap();
        let drill = drill(&client, directory.path());
        let record = Record {
            txid: Txid::new(7),
            timestamp_ms: CAPTURED,
            pages,
            checksum,
        };
        let other = Checksum::new(checksum.get() ^ 1);
        let cases = [
            (record, Ok(true)),
            (
                Record {
                    checksum: other,
                    ..record
                },
                Err(DrillFailureKind::Unsound),
            ),
            // Of another history, and of another state.
            (
                Record {
                    timestamp_ms: 5,
                    checksum: other,
                    ..record
                },
                Ok(false),
            ),
            (
                Record {
                    txid: Txid::new(6),
                    checksum: other,
                    ..record
                },
                Ok(false),
            ),
        ];
        for (recorded, expected) in cases {
            let key = SmallKey::new("checksums").unwrap();
            let content = encode_records(&[recorded]).into();
            let put = client.put_small(&key, content, Precondition::None);
            put.await.unwrap();
            let done = drill.drill().await;
            let found = done
                .map(|proof| proof.compared)
                .map_err(|failed| failed.kind);
            assert_eq!(found, expected, "{recorded:?}");
        }
        assert_eq!(OsDisk.read_dir(directory.path()).unwrap(), []);
    }

    #[tokio::test]
    async fn what_nobody_here_has_captured_proves_nothing_and_is_looked_at_again() {
        let (client, ..) = snapshot().await;
        let directory = tempfile::tempdir().unwrap();
        let mut drill = drill(&client, directory.path());
        let mut captured = drill.captured.borrow().clone();
        captured.txid = Txid::new(6);
        drill.captured = watch::channel(captured).1;
        let failed = drill
            .drill()
            .await
            .map_err(|failed| (failed.kind, failed.problem));
        let (kind, problem) = failed.unwrap_err();
        assert_eq!(kind, DrillFailureKind::Unfinished);
        let said = "0000000000000007, and only 0000000000000006 was captured here";
        assert!(problem.contains(said), "{problem}");
        drill.doubt.notified().await;
    }
}

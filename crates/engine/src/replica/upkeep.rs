//! When the maintenance of a replica runs that is being replicated to: one timer, which is set only
//! while there is something left to do.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use evertide_ltx::Txid;
use evertide_storage::{Clock, LtxObject};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{Maintenance, ReplicaContext, pause, report};
use crate::{
    DatabaseStatus, Error,
    database::{Captured, Command},
    error::describe,
    failing::{self, Work},
};

/// How long what was captured in a window is waited for when the window is over.
const SETTLE: Duration = Duration::from_secs(10);
/// Times that the pause after a failure is longer than that of uploads.
const PATIENCE: u32 = 10;

/// What upkeep hears of the replica.
#[derive(Debug)]
pub(super) enum News {
    /// These are all the files it had when maintenance had taken so many turns ([`Upkeep::turns`]), and
    /// its history is the one captured here.
    Listed(Vec<LtxObject>, u64),
    /// A file was uploaded.
    Arrived(LtxObject),
    /// It has to be looked at again, and until then it may be anybody's.
    Unknown,
}

/// Maintains a replica beside its uploads.
pub(super) struct Upkeep {
    maintenance: Maintenance,
    news: mpsc::UnboundedReceiver<News>,
    reporter: Reporter,
    /// How often maintenance has begun and ended: while it is the same, nothing was stored.
    turns: Arc<AtomicU64>,
    /// Nothing is done to a replica before its history is known to be ours.
    known: bool,
    due: Option<Instant>,
    failures: u32,
}

impl Upkeep {
    pub(super) fn new(context: &ReplicaContext, news: mpsc::UnboundedReceiver<News>) -> Self {
        let maintenance = Maintenance::new(
            Arc::clone(&context.client),
            &context.options,
            Arc::clone(&context.clock),
        );
        let captured = context.captured.clone();
        Self {
            maintenance: maintenance.with_local(
                Arc::clone(&context.disk),
                captured.clone(),
                context.commands.clone(),
            ),
            news,
            reporter: Reporter {
                captured,
                commands: context.commands.clone(),
                clock: Arc::clone(&context.clock),
                status: context.status.clone(),
                replica: context.options.name.clone(),
                doubt: Arc::default(),
            },
            turns: Arc::default(),
            known: false,
            due: None,
            failures: 0,
        }
    }

    /// Notified when something is there that nobody here has captured: then somebody else writes, or did.
    pub(super) fn doubt(&self) -> Arc<Notify> {
        Arc::clone(&self.reporter.doubt)
    }

    /// How often maintenance has begun and ended so far.
    pub(super) fn turns(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.turns)
    }

    pub(super) async fn run(mut self) {
        loop {
            let due = async {
                match self.due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                news = self.news.recv() => match news {
                    Some(news) => self.hear(news),
                    None => return,
                },
                () = due => self.maintain().await,
            }
        }
    }

    fn hear(&mut self, news: News) {
        let arrived = match &news {
            News::Arrived(object) => Some(self.maintenance.due_with(object)),
            News::Listed(..) | News::Unknown => None,
        };
        self.note(news);
        if !self.known || self.failures > 0 {
            return;
        }
        match arrived {
            Some(due) => {
                let due = self.instant(due);
                self.due = Some(self.due.map_or(due, |sooner| sooner.min(due)));
            }
            None => self.set_timer(),
        }
    }

    fn note(&mut self, news: News) {
        match news {
            News::Listed(objects, turns) => {
                self.known = true;
                // One that was made while maintenance stored something may lack it.
                let current = turns == self.turns.load(Ordering::Relaxed);
                self.maintenance.listed(current.then_some(objects));
            }
            News::Arrived(object) => self.maintenance.arrived(object),
            News::Unknown => {
                self.known = false;
                self.due = None;
                self.failures = 0;
            }
        }
    }

    fn set_timer(&mut self) {
        self.due = match self.maintenance.is_failing() {
            true => Some(Instant::now()), // whether it still does
            false => self.maintenance.next_due().map(|due| self.instant(due)),
        };
    }

    fn instant(&self, time: SystemTime) -> Instant {
        let now = self.reporter.clock.now();
        Instant::now() + time.duration_since(now).unwrap_or_default()
    }

    async fn maintain(&mut self) {
        // What was captured in a window that is over belongs to its file. Where uploads do not get
        // through it comes later, in one of its own.
        let goal = self.reporter.captured.borrow().txid;
        let _ = timeout(SETTLE, self.hear_until(goal)).await;
        if !self.known {
            return;
        }
        self.turns.fetch_add(1, Ordering::Relaxed);
        let (reporter, failures) = (&self.reporter, &mut self.failures);
        let progress = |maintenance: &Maintenance| {
            if !maintenance.is_failing() {
                *failures = 0;
            }
            reporter.report(maintenance, |before| match maintenance.is_settled() {
                true => maintenance.complaint(),
                false => before,
            });
        };
        let result = self.maintenance.run_telling(progress).await;
        self.turns.fetch_add(1, Ordering::Relaxed);
        let error = match &result {
            Ok(_) => {
                self.failures = 0;
                self.set_timer();
                self.maintenance.complaint()
            }
            Err(error) => Some(self.failed(error)),
        };
        self.reporter.report(&self.maintenance, |_| error);
    }

    async fn hear_until(&mut self, goal: Txid) {
        while self.maintenance.newest() < goal
            && let Some(news) = self.news.recv().await
        {
            self.note(news);
        }
    }

    fn failed(&mut self, error: &Error) -> String {
        self.failures = self.failures.saturating_add(1);
        self.due = Some(Instant::now() + pause(self.failures) * PATIENCE);
        if error.is_not_our_turn() {
            self.reporter.doubt.notify_one();
        }
        let text = describe(error);
        tracing::error!(
            database = %self.reporter.database().display(),
            replica = self.reporter.replica,
            error = text,
            failures = self.failures,
            "cannot maintain the replica; uploads go on, and it is tried again"
        );
        text
    }
}

/// Tells everybody what maintenance has done, and what it found.
struct Reporter {
    captured: watch::Receiver<Captured>,
    commands: mpsc::UnboundedSender<Command>,
    clock: Arc<dyn Clock>,
    status: watch::Sender<DatabaseStatus>,
    replica: String,
    /// Notified when something is there that nobody here has captured.
    doubt: Arc<Notify>,
}

impl Reporter {
    /// Reports what is done so far, and what is wrong now, given what was wrong before.
    fn report(
        &self,
        maintenance: &Maintenance,
        wrong: impl FnOnce(Option<String>) -> Option<String>,
    ) {
        if maintenance.newest() > self.captured.borrow().txid {
            self.doubt.notify_one();
        }
        let (done, merged) = (maintenance.done(), maintenance.merged());
        let now = self.clock.now();
        let (mut before, mut since, mut more_is_merged) = (None, None, false);
        report(&self.status, &self.replica, |status| {
            let error = wrong(status.maintenance_error.take());
            before = status.maintenance_failing_since;
            since = error.as_ref().map(|_| before.unwrap_or(now));
            status.maintained = done;
            status.maintenance_error = error;
            status.maintenance_failing_since = since;
            more_is_merged = status.merged < merged;
            status.merged = status.merged.max(merged);
        });
        if before != since {
            self.told(before, since, now);
        }
        if more_is_merged {
            // Staged files that it was made of can go now.
            let _ = self.commands.send(Command::Compacted);
        }
    }

    /// It fails since then, or does not any more.
    fn told(&self, before: Option<SystemTime>, since: Option<SystemTime>, now: SystemTime) {
        let (database, replica) = (self.database(), &self.replica);
        failing::publish(Work::Maintenance, &database, replica, since);
        if let (Some(before), None) = (before, since) {
            let (database, failed_for) = (database.display(), failing::duration(before, now));
            tracing::info!(%database, replica, %failed_for, "the replica is maintained again");
        }
    }

    fn database(&self) -> PathBuf {
        self.status.borrow().path.clone()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use evertide_ltx::{Encoder, Header, Level, LtxName, PageSize, Pgno};
    use evertide_storage::{Destination, ManualClock, MemoryClient, ReplicaClient, bytes_stream};

    use super::{
        super::{
            faulty::{Fault, Faulty},
            files::tests::{file, time},
        },
        *,
    };
    use crate::{ReplicaOptions, ReplicaStatus};

    fn upkeep(client: Arc<dyn ReplicaClient>) -> Upkeep {
        let location = client.location();
        let mut options = ReplicaOptions::new("bucket", Destination::file("/nowhere").unwrap());
        options.retention = Some(Duration::from_secs(100));
        let clock = Arc::new(ManualClock::new(time(1_000)));
        let mut status = DatabaseStatus::new(Path::new("/nowhere").into());
        let replica = ReplicaStatus::new(options.name.clone(), location, Txid::ZERO);
        status.replicas.push(replica);
        let (_, captured) = watch::channel(Captured {
            txid: Txid::ZERO,
            created: None,
            record: None,
            begun: None,
            staged: Arc::new([]),
            dir: "/nowhere".into(),
        });
        Upkeep {
            maintenance: Maintenance::new(client, &options, Arc::clone(&clock) as _),
            news: mpsc::unbounded_channel().1,
            reporter: Reporter {
                captured,
                commands: mpsc::unbounded_channel().0,
                clock,
                status: watch::Sender::new(status),
                replica: options.name,
                doubt: Arc::default(),
            },
            turns: Arc::default(),
            known: false,
            due: None,
            failures: 0,
        }
    }

    /// Or what maintenance stored after the listing would be stored again, with another end.
    #[test]
    fn a_listing_from_before_something_was_stored_is_not_taken_for_what_there_is() {
        let mut upkeep = upkeep(Arc::new(MemoryClient::service("bucket")));
        upkeep.hear(News::Listed(vec![file(0, 1, 7, 10)], 0));
        assert_eq!(upkeep.maintenance.newest(), Txid::new(7));
        upkeep.turns().fetch_add(1, Ordering::Relaxed);
        upkeep.hear(News::Listed(vec![file(0, 1, 7, 10)], 0));
        assert_eq!(upkeep.maintenance.newest(), Txid::ZERO, "not known");
        assert_eq!(upkeep.maintenance.next_due(), Some(time(1_000)));
        upkeep.hear(News::Listed(vec![file(0, 1, 8, 10)], 1));
        assert_eq!(upkeep.maintenance.newest(), Txid::new(8));
    }

    pub(in super::super) fn snapshot(max: u64) -> (LtxName, Bytes) {
        let header = Header::new(PageSize::new(512).unwrap(), 1, Txid::FIRST, Txid::new(max));
        let name = header.name();
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        encoder
            .encode_page(Pgno::new(1).unwrap(), &[max as u8; 512])
            .unwrap();
        (name, encoder.finish().unwrap().0.into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_only_says_it_deleted_is_reported_until_it_does() {
        let memory = Arc::new(MemoryClient::service("bucket"));
        let store = Arc::new(Faulty::new(memory, Fault::DeletesNothing));
        let mut objects = Vec::new();
        for (max, second) in [(1, 10), (5, 20)] {
            let (name, content) = snapshot(max);
            let body = bytes_stream(content);
            let put = store.put(Level::SNAPSHOT, name, time(second), body);
            objects.push(put.await.unwrap());
        }
        let (old, newest) = (objects[0].name.to_string(), objects[1].clone());
        let mut upkeep = upkeep(store.clone());
        let (news, receiver) = mpsc::unbounded_channel();
        upkeep.news = receiver;
        let mut status = upkeep.reporter.status.subscribe();
        let running = tokio::spawn(upkeep.run());
        news.send(News::Listed(objects, 0)).unwrap();
        let of = |status: &DatabaseStatus| status.replicas[0].clone();
        let patience = Duration::from_secs(3_600); // of simulated time
        let reported = status.wait_for(|status| of(status).maintenance_error.is_some());
        let reported = of(&timeout(patience, reported).await.unwrap().unwrap());
        let error = reported.maintenance_error.unwrap();
        assert!(
            error.contains(&old) && error.contains("memory:bucket"),
            "{error}"
        );
        assert_eq!(reported.maintained.deleted, 0);
        assert_eq!(reported.error, None, "uploads do not mind");

        store.mend();
        let mended = status.wait_for(|status| of(status).maintenance_error.is_none());
        let mended = of(&timeout(patience, mended).await.unwrap().unwrap());
        assert_eq!(mended.maintained.deleted, 1);
        let left = store.list(Level::SNAPSHOT, None).await.unwrap();
        assert_eq!(left, [newest]);
        drop(news);
        running.await.unwrap();
    }
}

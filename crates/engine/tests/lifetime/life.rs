//! The life of a replica on a clock that is turned: syncs in bursts and after long silence, compactions,
//! snapshots, retention, restarts, a store with bad days, a clock that is set wrong.
//!
//! After every change of the replica each new file is decoded and compared with the [`model`](crate::model),
//! and every retained state must still be reached ([`promise`](crate::promise)); a part of them is restored
//! in earnest, and all of them once a week planned in earnest. Whenever maintenance says that it has done
//! all that is due, nothing superfluous may be left.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide::{
    Maintenance, ReplicaOptions, RestoreOptions, RestoreTarget, Txid, restore, restore_plan,
};
use evertide_ltx::{Level, LtxName};
use evertide_storage::{ManualClock, ReplicaClient, bytes_stream};
use fastrand::Rng;

use crate::{
    model::Model,
    promise::{Listing, Promise, reached_at},
    schedule::{DAY, Event, SECOND, Schedule, between},
    shaky::{Shaky, Upload, Weather},
};

/// How much has happened; a year in which too little did proves nothing.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) uploads: u64,
    pub(crate) snapshots: u64,
    pub(crate) runs: u64,
    pub(crate) failed_runs: u64,
    pub(crate) restarts: u64,
    pub(crate) deaths: u64,
    pub(crate) lies: u64,
    pub(crate) jumps: u64,
    pub(crate) rebases: u64,
    pub(crate) idle_looks: u64,
    pub(crate) checks: u64,
    pub(crate) plans: u64,
    pub(crate) restores: u64,
    pub(crate) most_objects: usize,
    pub(crate) compactions: u64,
    pub(crate) deleted: u64,
}

pub(crate) struct Life {
    random: Rng,
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    pub(crate) store: Arc<Shaky>,
    options: ReplicaOptions,
    pub(crate) model: Model,
    promise: Promise,
    maintenance: Maintenance,
    schedule: Schedule,
    /// The newest transaction that is known to be on the replica.
    uploaded: Txid,
    /// The last upload failed, and may have arrived.
    uncertain: bool,
    /// What is uploaded next is a snapshot: the local history was lost.
    rebase: bool,
    /// The next run of maintenance is the end of its process.
    dies: bool,
    /// The requests made until maintenance had nothing left to do; `None` where it has.
    rest: Option<u64>,
    known: Listing,
    changes: u64,
    pub(crate) tally: Tally,
}

impl Life {
    pub(crate) fn new(seed: u64, options: ReplicaOptions) -> Self {
        Self::kept_by(seed, options.clone(), options)
    }

    /// With settings that are promised, and those by which it is kept.
    pub(crate) fn kept_by(seed: u64, promised: ReplicaOptions, options: ReplicaOptions) -> Self {
        let mut random = Rng::with_seed(seed);
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let clock = Arc::new(ManualClock::new(start));
        let store = Arc::new(Shaky::new(random.fork()));
        let maintenance = Maintenance::new(store.clone(), &options, clock.clone());
        Self {
            dir: evertide_testkit::memory_dir(),
            model: Model::new(random.fork(), start),
            promise: Promise::new(promised, start),
            schedule: Schedule::new(random.fork(), start),
            random,
            clock,
            store,
            options,
            maintenance,
            uploaded: Txid::ZERO,
            uncertain: false,
            rebase: true,
            dies: false,
            rest: None,
            known: Listing::new(),
            changes: 0,
            tally: Tally::default(),
        }
    }

    pub(crate) async fn live(&mut self, time: Duration) {
        let end = self.schedule.elapsed() + time;
        loop {
            let (event, now) = self.schedule.next();
            if self.schedule.elapsed() >= end {
                return;
            }
            self.clock.set(now);
            self.promise.set_clock(now);
            match event {
                Event::Commit => {
                    self.model.commit(now);
                }
                Event::Upload => self.upload().await,
                Event::Upkeep => self.upkeep().await,
                Event::Weather => self.store.set_weather(self.schedule.weather()),
                Event::Mishap => self.mishap(),
                Event::Look => self.look().await,
            }
            self.check().await;
        }
    }

    /// Uploads what was committed since the last time, as one file.
    async fn upload(&mut self) {
        if self.uncertain && !self.find_out().await {
            return self.schedule.upload_later();
        }
        let newest = self.model.newest();
        if self.uploaded == newest {
            return;
        }
        let (level, min) = match self.rebase {
            true => (Level::SNAPSHOT, Txid::FIRST),
            false => (Level::L0, self.uploaded.next()),
        };
        let name = LtxName::new(min, newest);
        let (created, content) = (self.model.created(newest), self.model.file(name));
        if level == Level::L0 && self.random.u8(..6) == 0 {
            // While maintenance is at work.
            let upload = Upload {
                name,
                created,
                content,
            };
            self.store.arrive_in(self.random.u32(..8), upload);
            self.upkeep().await;
            if self.uploaded < newest {
                self.schedule.upload_soon();
            }
            return;
        }
        self.rest = None;
        let put = self.store.put(level, name, created, bytes_stream(content));
        match put.await {
            Ok(object) => self.arrived(object),
            Err(_) => {
                // Maintenance may find it before this does.
                if let Some(object) = self.store.objects().get(&(level, name)) {
                    self.promise.uploaded(object);
                }
                self.uncertain = true;
                self.schedule.upload_later();
            }
        }
    }

    /// Looks whether an upload arrived that failed. It may fail, too.
    async fn find_out(&mut self) -> bool {
        self.rest = None;
        for level in [Level::L0, Level::SNAPSHOT] {
            let Ok(listed) = self.store.list(level, None).await else {
                return false;
            };
            let newer = listed.into_iter().find(|file| {
                let ours = level == Level::L0 || self.rebase;
                ours && file.name.max > self.uploaded
            });
            if let Some(object) = newer {
                self.arrived(object);
            }
        }
        self.uncertain = false;
        true
    }

    fn arrived(&mut self, object: evertide_storage::LtxObject) {
        self.uploaded = object.name.max;
        // What was captured before a re-base may be found out to have arrived after it.
        self.rebase &= object.level == Level::L0;
        self.rest = None;
        self.tally.uploads += 1;
        self.promise.uploaded(&object);
        self.maintenance.arrived(object);
        self.schedule.upkeep_now();
    }

    pub(crate) fn restart(&mut self) {
        let done = self.maintenance.done();
        self.tally.compactions += done.compactions;
        self.tally.snapshots += done.snapshots;
        self.tally.deleted += done.deleted;
        self.maintenance = Maintenance::new(self.store.clone(), &self.options, self.clock.clone());
        self.rest = None;
        self.schedule.upkeep_now();
    }

    async fn upkeep(&mut self) {
        self.schedule.upkeep_at(None);
        let before = self.store.troubles();
        let dies = self.dies.then(|| self.random.u32(..12));
        self.store.die_in(dies);
        let done = tokio::select! {
            biased;
            () = self.store.died.notified() => None,
            done = self.maintenance.run() => Some(done),
        };
        self.store.die_in(None);
        let troubles = self.store.troubles();
        let failures = troubles.failures - before.failures;
        let lies = troubles.lies - before.lies;
        self.tally.runs += 1;
        self.tally.lies += lies;
        let arrived = self.store.take_arrived();
        match done {
            None => {
                self.tally.deaths += 1;
                self.dies = false;
                self.restart();
            }
            Some(Ok(due)) => {
                assert_eq!(lies, 0, "a store was believed that had deleted nothing");
                assert!(due.is_none_or(|due| due > self.schedule.now()));
                self.schedule.upkeep_at(due);
                self.rest = Some(self.store.requests());
            }
            Some(Err(error)) => {
                assert!(failures + lies > 0, "without a cause: {error}");
                self.tally.failed_runs += 1;
                self.rest = None;
                self.schedule.upkeep_later();
            }
        }
        if let Some(object) = arrived {
            self.arrived(object);
        }
        self.check().await;
        self.assert_nothing_left();
    }

    fn mishap(&mut self) {
        match self.random.u8(..40) {
            0..15 => {
                self.tally.restarts += 1;
                self.restart();
            }
            15..25 => {
                self.dies = true;
                self.restart();
            }
            25..38 => {
                self.tally.jumps += 1;
                let before = self.schedule.now();
                self.schedule.set_clock_wrong();
                if self.schedule.now() < before {
                    // What was too old to be compacted may be so no longer.
                    self.rest = None;
                    self.schedule.upkeep_now();
                }
            }
            _ => {
                self.tally.rebases += 1;
                self.rebase = true;
                let now = self.schedule.now();
                match self.random.bool() {
                    true => self.model.commit(now),
                    false => self.model.commit_with_another_page_size(now),
                };
                self.schedule.upload_soon();
            }
        }
    }

    /// Nothing is due: nothing is asked of the store, and nothing is left to do there.
    async fn look(&mut self) {
        let (Some(requests), due) = (self.rest, self.schedule.upkeep()) else {
            return;
        };
        if due.is_none_or(|due| self.schedule.now() < due) {
            self.tally.idle_looks += 1;
            assert_eq!(self.maintenance.run().await.unwrap(), due);
            assert_eq!(self.store.requests(), requests, "a request without a cause");
            self.assert_nothing_left();
        }
        if self.tally.idle_looks.is_multiple_of(10) {
            self.plan_every_state().await;
        }
    }

    /// Maintenance has done all that is due, with the files that it can know of.
    fn assert_nothing_left(&self) {
        if self.rest.is_some() && !self.uncertain {
            self.promise.assert_nothing_left(&self.known);
        }
    }

    /// What changed on the replica is right, and every retained state is still there.
    async fn check(&mut self) {
        if self.store.changes() == self.changes {
            return;
        }
        self.changes = self.store.changes();
        let listing = self.store.objects();
        for (key, object) in &listing {
            if !self.known.contains_key(key) {
                assert_eq!(object.created, self.model.created(object.name.max));
                let content = self.store.content(object).await;
                self.model.assert_leads(object.name, &content);
                self.promise.made(object);
            }
        }
        self.promise.assert_kept(&listing);
        self.known = listing;
        self.tally.checks += 1;
        self.tally.most_objects = self.tally.most_objects.max(self.known.len());
        if self.random.u8(..10) == 0 {
            self.restore_one().await;
        }
    }

    /// Restores a retained state, or that of any time since the first of them.
    async fn restore_one(&mut self) {
        let points = self.promise.points();
        let Some((first, last)) = points.first().zip(points.last()) else {
            return;
        };
        let (target, expected) = match self.random.bool() {
            true => {
                let point = points[self.random.usize(..points.len())];
                (RestoreTarget::Txid(point.name.max), point.name.max)
            }
            false => {
                let start = first.created.max(self.promise.horizon());
                let span = last.created.duration_since(start).unwrap_or_default();
                let time = start + between(&mut self.random, Duration::ZERO..span + SECOND);
                let (txid, _) = reached_at(&self.known, [time])[0];
                (RestoreTarget::Timestamp(time), txid)
            }
        };
        let output = self.dir.path().join("restored.db");
        let mut options = RestoreOptions::new(self.store.inner.clone(), &output);
        options.target = target;
        let report = restore(options).await.unwrap();
        assert_eq!(report.txid, expected, "{target:?}");
        let restored = std::fs::read(&output).unwrap();
        assert!(restored == self.model.content(expected), "{target:?}");
        std::fs::remove_file(&output).unwrap();
        self.tally.restores += 1;
    }

    /// The real plan of each retained state leads to it.
    async fn plan_every_state(&mut self) {
        for point in self.promise.points() {
            let txid = point.name.max;
            let plan = restore_plan(self.store.inner.clone(), RestoreTarget::Txid(txid)).await;
            assert_eq!(plan.unwrap().txid(), txid);
            let target = RestoreTarget::Timestamp(point.created);
            let plan = restore_plan(self.store.inner.clone(), target)
                .await
                .unwrap();
            assert_eq!(plan.created(), Some(point.created));
            self.tally.plans += 2;
        }
    }

    /// Nobody writes any more: after what is still due there is rest, for ever.
    pub(crate) async fn fall_asleep(&mut self) {
        self.store.set_weather(Weather::Fair);
        self.schedule.stop_writing();
        self.dies = false;
        self.live(10 * DAY).await;
        let before = self.tally.runs;
        self.live(365 * DAY).await;
        let runs = self.tally.runs - before;
        let interval = self.options.retention_check_interval.as_secs();
        let retention = self.options.retention.unwrap_or_default().as_secs();
        assert!(runs <= retention / interval + 2, "{runs} runs while idle");
        assert_eq!(self.schedule.upkeep(), None);
        assert_eq!(self.rest, Some(self.store.requests()));
        self.restore_one().await;
    }
}

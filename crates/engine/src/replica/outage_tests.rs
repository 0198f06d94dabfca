//! A replica that does not work for a while, or does not answer: the real task of a replica on a clock that stands
//! still while anything works.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    ByteStream, Capabilities, Error, LtxObject, MemoryClient, Precondition, ReplicaClient,
    SmallKey, SmallObject, Version,
};
use evertide_testkit::Metrics;
use tokio::time::timeout;

use super::{milliseconds, scene::Scene};
use crate::ReplicaStatus;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Between two commits.
const PAUSE: Option<Duration> = Some(Duration::from_secs(10));

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Well,
    /// Every request fails.
    Refuses,
    /// Files of this level and those above are not taken.
    RefusesLevel(u8),
    /// Every request panics, as a fault of ours would.
    Panics,
    /// Nothing is answered.
    Silent,
    /// It is not answered when files of this level and those above are to be stored.
    SilentLevel(u8),
}

/// A service in memory, in the mood that a test wants.
#[derive(Debug)]
struct Moody {
    inner: MemoryClient,
    mood: Mutex<Mood>,
    refused: AtomicU32,
}

impl Moody {
    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Requests that have failed so far.
    fn refused(&self) -> u32 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether a request is answered, and how; to store a file of this level, if it is for that.
    async fn ask(&self, stores: Option<Level>) -> Result<(), Error> {
        let mood = *self.mood.lock().unwrap();
        let stores_from = |from| stores.is_some_and(|level| level.get() >= from);
        match mood {
            Mood::Refuses => {}
            Mood::RefusesLevel(from) if stores_from(from) => {}
            Mood::Panics => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                panic!("not today, on purpose");
            }
            Mood::Silent => std::future::pending().await,
            Mood::SilentLevel(from) if stores_from(from) => std::future::pending().await,
            Mood::Well | Mood::RefusesLevel(_) | Mood::SilentLevel(_) => return Ok(()),
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(Error::Store {
            location: self.location(),
            action: "use",
            object: "something".into(),
            source: "not today".into(),
            hint: "",
        })
    }
}

#[async_trait]
impl ReplicaClient for Moody {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        self.ask(None).await?;
        self.inner.list(level, after).await
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        self.ask(None).await?;
        self.inner.get(level, name, range).await
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error> {
        self.ask(Some(level)).await?;
        self.inner.put(level, name, created, body).await
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
        self.ask(None).await?;
        self.inner.delete(level, names).await
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        self.ask(None).await?;
        self.inner.get_small(key).await
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        self.ask(None).await?;
        self.inner.put_small(key, content, precondition).await
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        self.ask(None).await?;
        self.inner.list_small().await
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        self.ask(None).await?;
        self.inner.delete_small(key).await
    }
}

/// A replica that has worked for a minute.
async fn scene() -> (Arc<Moody>, Scene) {
    let moody = Arc::new(Moody {
        inner: MemoryClient::service("bucket"),
        mood: Mutex::new(Mood::Well),
        refused: AtomicU32::new(0),
    });
    let mut scene = Scene::start(Arc::clone(&moody) as _, SECOND);
    scene.database.live(MINUTE, PAUSE).await;
    works(&scene.database.replica());
    (moody, scene)
}

fn works(status: &ReplicaStatus) {
    assert_eq!(status.error, None);
    assert_eq!(status.maintenance_error, None);
    assert_eq!(
        [status.failing_since, status.maintenance_failing_since],
        [None, None]
    );
}

#[tokio::test(start_paused = true)]
async fn a_status_says_since_when_uploads_or_maintenance_fail_until_they_work_again() {
    let metrics = Metrics::default();
    let _local = metrics::set_default_local_recorder(&metrics);
    let (moody, mut scene) = scene().await;
    let since = |scene: &Scene, mood| {
        let status = scene.database.replica();
        match mood {
            Mood::RefusesLevel(_) => status
                .maintenance_error
                .zip(status.maintenance_failing_since),
            _ => status.error.zip(status.failing_since),
        }
    };
    for (mood, work) in [
        (Mood::Refuses, "uploads"),
        (Mood::RefusesLevel(1), "maintenance"),
        (Mood::Panics, "uploads"),
    ] {
        let gauge = || {
            let labels = [("database", "/app.db"), ("replica", "it"), ("work", work)];
            metrics.gauge("evertide_failing_since_timestamp_seconds", &labels)
        };
        assert_eq!(gauge(), Some(0.0));
        let begun = scene.database.time();
        moody.set(mood);
        scene.database.live(MINUTE, PAUSE).await;
        let (_, first) = since(&scene, mood).expect("it fails");
        // That of a panic is not by the clock of the task.
        let by_its_clock = begun..=begun + MINUTE;
        assert!(mood == Mood::Panics || by_its_clock.contains(&first));
        let refused = moody.refused();
        scene.database.live(10 * MINUTE, PAUSE).await;
        assert!(moody.refused() > refused + 3, "it was tried again");
        let (error, again) = since(&scene, mood).expect("it fails");
        assert!(error.contains("not today"), "{error}");
        assert_eq!(again, first, "{mood:?}");
        let seconds = milliseconds(first) as f64 / 1e3;
        assert_eq!(gauge(), Some(seconds));
        moody.set(Mood::Well);
        scene.database.live(10 * MINUTE, PAUSE).await;
        works(&scene.database.replica());
        assert_eq!(gauge(), Some(0.0));
    }
    scene.cancel.cancel();
}

/// Though all that is to be done is never done.
#[tokio::test(start_paused = true)]
async fn what_maintenance_did_is_told_at_once_and_its_failure_until_what_failed_works() {
    let (moody, mut scene) = scene().await;
    let failing = |status: &ReplicaStatus| {
        let error = status.maintenance_error.as_ref();
        error.expect("it fails");
        status.maintenance_failing_since.expect("it fails")
    };
    moody.set(Mood::RefusesLevel(2));
    scene.database.live(10 * MINUTE, PAUSE).await;
    let before = scene.database.replica();
    scene.database.live(10 * MINUTE, PAUSE).await;
    let level_1_works = scene.database.replica();
    assert!(level_1_works.maintained.compactions > before.maintained.compactions);
    assert_eq!(failing(&level_1_works), failing(&before));
    // Something else fails for a while.
    moody.set(Mood::Refuses);
    scene.database.live(10 * MINUTE, PAUSE).await;
    moody.set(Mood::RefusesLevel(2));
    scene.database.live(10 * MINUTE, PAUSE).await;
    assert_eq!(failing(&scene.database.replica()), failing(&before));
    moody.set(Mood::Well);
    scene.database.live(10 * MINUTE, PAUSE).await;
    works(&scene.database.replica());

    moody.set(Mood::RefusesLevel(1));
    scene.database.live(10 * MINUTE, PAUSE).await;
    let before = scene.database.replica();
    failing(&before);
    moody.set(Mood::SilentLevel(2));
    scene.database.live(10 * MINUTE, PAUSE).await;
    let in_between = scene.database.replica();
    assert!(in_between.maintained.compactions > before.maintained.compactions);
    assert!(in_between.merged > before.merged);
    works(&in_between);
    scene.cancel.cancel();
}

/// Nobody writes, so that nothing but maintenance can notice.
#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_else_had_for_a_moment_is_taken_again_for_maintenance() {
    let (_, mut scene) = scene().await;
    scene.database.live(20 * MINUTE, None).await;
    let before = scene.database.replica().maintained.compactions;
    scene.another_has_been_there().await;
    scene.database.live(100 * MINUTE, None).await;
    let status = scene.database.replica();
    works(&status);
    assert!(status.maintained.compactions > before);
    scene.cancel.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_captured_file_that_is_damaged_after_its_upload_is_read_from_the_replica() {
    let (_, mut scene) = scene().await;
    let before = scene.database.replica();
    while scene.database.damage_staged() < 2 {
        scene.database.live(SECOND, PAUSE.map(|_| SECOND)).await;
    }
    scene.database.live(MINUTE, None).await;
    let status = scene.database.replica();
    works(&status);
    assert!(status.maintained.compactions > before.maintained.compactions);
    assert_eq!(status.merged, scene.database.txid());
    scene.cancel.cancel();
}

/// Its failures are counted from the last success.
#[tokio::test(start_paused = true)]
async fn a_replica_that_was_away_for_long_is_tried_again_soon_when_it_fails_once_more() {
    let (moody, mut scene) = scene().await;
    moody.set(Mood::Refuses);
    scene.database.live(10 * MINUTE, PAUSE).await;
    assert!(moody.refused() > 10);
    moody.set(Mood::Well);
    scene.database.live(10 * MINUTE, PAUSE).await;
    works(&scene.database.replica());
    moody.set(Mood::Refuses);
    while scene.database.replica().error.is_none() {
        let pause = Some(SECOND / 20);
        scene.database.live(SECOND / 10, pause).await;
    }
    moody.set(Mood::Well);
    // A second of it is the sync interval.
    scene.database.live(3 * SECOND, None).await;
    let status = scene.database.replica();
    assert_eq!((status.error, status.txid), (None, scene.database.txid()));
    scene.cancel.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_time_is_up_ends_though_the_replica_does_not_answer() {
    let (moody, mut scene) = scene().await;
    moody.set(Mood::Silent);
    scene.database.live(MINUTE, PAUSE).await;
    scene.cancel.cancel();
    let ended = timeout(SECOND, &mut scene.task).await;
    assert!(ended.is_err(), "it waits for the replica");
    scene.time_is_up.cancel();
    // No time passes while there is anything to do.
    let ended = timeout(Duration::from_millis(1), &mut scene.task).await;
    ended.expect("it has ended").unwrap();
}

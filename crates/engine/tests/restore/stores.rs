//! Replicas that break off, lose files meanwhile, or lie.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide::{RestoreError, RestoreOptions, RestoreTarget, restore, restore_plan};
use evertide_ltx::{Level, LtxName, Txid, merge};
use evertide_storage::{
    ByteStream, Capabilities, Error, LtxObject, Precondition, RecordingDisk, ReplicaClient,
    SmallKey, SmallObject, Version,
};
use futures_util::{StreamExt, stream};
use tokio::sync::Barrier;

use crate::scene::{Scene, USUAL, created, ltx, name, page};

/// After this time what waits for something else waits for ever.
const HANGS: Duration = Duration::from_secs(60);

/// What happens to each `get`: it is given its number, counted from 0.
type Trouble = Box<dyn Fn(u64, &LtxName) -> Outcome + Send + Sync>;

#[derive(Clone, Copy)]
enum Outcome {
    Fine,
    /// The stream fails after so many bytes.
    Breaks(usize),
    /// The stream ends after so many bytes, as if that were all.
    Ends(usize),
    /// The request fails.
    Fails,
    /// The file is not there.
    Gone,
}

/// A file of a replica.
type File = (Level, LtxName);
/// What of it is asked for; nothing for all of it.
type Part = Option<Range<u64>>;

/// A replica whose reads have trouble.
struct Troubled {
    inner: Arc<dyn ReplicaClient>,
    trouble: Trouble,
    /// A file that is stored only after the first listing.
    late: Mutex<Option<LtxName>>,
    /// Each request waits for so many of them.
    meeting: Barrier,
    gets: AtomicU64,
    asked: Mutex<Vec<(File, Part)>>,
    under_way: AtomicU64,
    most_under_way: AtomicU64,
}

impl std::fmt::Debug for Troubled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Troubled")
    }
}

impl Troubled {
    fn new(
        inner: &Arc<dyn ReplicaClient>,
        trouble: impl Fn(u64, &LtxName) -> Outcome + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self::of(inner, Box::new(trouble), 1))
    }

    /// Without trouble, but that each request is answered only when so many are under way.
    fn meeting(inner: &Arc<dyn ReplicaClient>, requests: usize) -> Arc<Self> {
        Arc::new(Self::of(inner, Box::new(|_, _| Outcome::Fine), requests))
    }

    fn of(inner: &Arc<dyn ReplicaClient>, trouble: Trouble, meeting: usize) -> Self {
        Self {
            inner: Arc::clone(inner),
            trouble,
            late: Mutex::default(),
            meeting: Barrier::new(meeting),
            gets: AtomicU64::new(0),
            asked: Mutex::default(),
            under_way: AtomicU64::new(0),
            most_under_way: AtomicU64::new(0),
        }
    }

    /// What each file was asked for, from its beginning on.
    fn asked(&self) -> BTreeMap<File, Vec<Part>> {
        let mut asked = BTreeMap::<File, Vec<Part>>::new();
        for (file, part) in self.asked.lock().unwrap().iter() {
            asked.entry(*file).or_default().push(part.clone());
        }
        let start = |part: &Part| part.as_ref().map_or(0, |range| range.start);
        asked
            .values_mut()
            .for_each(|parts| parts.sort_by_key(start));
        asked
    }
}

fn io_error(location: String) -> Error {
    let source = io::ErrorKind::ConnectionReset.into();
    Error::Io {
        location,
        action: "read",
        path: "there".into(),
        source,
    }
}

#[async_trait]
impl ReplicaClient for Troubled {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        let mut objects = self.inner.list(level, after).await?;
        let mut late = self.late.lock().unwrap();
        if let Some(at) = objects.iter().position(|object| Some(object.name) == *late) {
            objects.remove(at);
            *late = None;
        }
        Ok(objects)
    }

    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, Error> {
        self.inner.date(objects).await
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        let part = ((level, name), range.clone());
        self.asked.lock().unwrap().push(part);
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        self.meeting.wait().await;
        // Whoever would ask for more has the time to do so.
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        let outcome = (self.trouble)(self.gets.fetch_add(1, Ordering::SeqCst), &name);
        let not_found = || Error::NotFound {
            location: self.location(),
            object: name.to_string(),
        };
        match outcome {
            Outcome::Gone => return Err(not_found()),
            Outcome::Fails => return Err(io_error(self.location())),
            _ => {}
        }
        let mut body = self.inner.get(level, name, range).await?;
        let limit = match outcome {
            Outcome::Breaks(limit) | Outcome::Ends(limit) => limit,
            _ => return Ok(body),
        };
        let mut content = Vec::new();
        while let Some(chunk) = body.next().await {
            content.extend_from_slice(&chunk.unwrap());
        }
        if content.len() <= limit {
            return Ok(evertide_storage::bytes_stream(content.into()));
        }
        content.truncate(limit);
        let end = match outcome {
            Outcome::Breaks(_) => Some(Err(io::ErrorKind::ConnectionReset.into())),
            _ => None,
        };
        Ok(Box::pin(stream::iter(
            [Ok(Bytes::from(content))].into_iter().chain(end),
        )))
    }

    async fn put(
        &self,
        _: Level,
        _: LtxName,
        _: SystemTime,
        _: ByteStream,
    ) -> Result<LtxObject, Error> {
        unreachable!("a restore writes nothing to a replica")
    }

    async fn delete(&self, _: Level, _: &[LtxName]) -> Result<(), Error> {
        unreachable!("a restore deletes nothing from a replica")
    }

    async fn get_small(&self, _: &SmallKey) -> Result<Option<SmallObject>, Error> {
        Ok(None)
    }

    async fn put_small(&self, _: &SmallKey, _: Bytes, _: Precondition) -> Result<Version, Error> {
        unreachable!("a restore writes nothing to a replica")
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        Ok(Vec::new())
    }

    async fn delete_small(&self, _: &SmallKey) -> Result<(), Error> {
        unreachable!("a restore deletes nothing from a replica")
    }
}

fn options(scene: &Scene, client: &Arc<Troubled>) -> RestoreOptions {
    RestoreOptions::new(Arc::clone(client) as Arc<dyn ReplicaClient>, scene.output())
}

#[tokio::test]
async fn a_stream_that_breaks_off_goes_on_where_it_stopped() {
    let scene = Scene::large().await;
    // Every request gets through 400 kB of its part, so each part takes several.
    let client = Troubled::new(&scene.replica, |at, _| {
        if at % 2 == 0 {
            Outcome::Breaks(400_000)
        } else {
            Outcome::Ends(400_000)
        }
    });
    let report = restore(options(&scene, &client)).await.unwrap();
    scene.assert_restored();
    let asked = client.asked.lock().unwrap().clone();
    assert!(asked.len() > 15);
    let ranges = asked.into_iter().filter_map(|(_, part)| part);
    let asked: u64 = ranges.map(|range| range.end - range.start).sum();
    // Nothing is read twice: what is asked for again is what has not come.
    let most = report.bytes * 8;
    assert!(asked < most, "{asked} bytes asked for");
}

#[tokio::test]
async fn a_request_that_fails_now_and_then_fails_no_restore() {
    let scene = Scene::usual().await;
    let client = Troubled::new(&scene.replica, |at, _| {
        if at % 3 == 0 {
            Outcome::Fails
        } else {
            Outcome::Fine
        }
    });
    restore(options(&scene, &client)).await.unwrap();
    scene.assert_restored();
}

/// Levels are listed at the same time, and not at the same moment.
#[tokio::test]
async fn what_is_stored_between_two_listings_is_not_taken_for_a_gap() {
    let scene = Scene::usual().await;
    let client = Troubled::new(&scene.replica, |_, _| Outcome::Fine);
    *client.late.lock().unwrap() = Some(name(3, 3));
    restore(options(&scene, &client)).await.unwrap();
    scene.assert_restored();
    assert_eq!(*client.late.lock().unwrap(), None);
}

#[tokio::test]
async fn a_replica_that_never_gives_the_rest_is_an_error() {
    for outcome in [
        Outcome::Breaks(300),
        Outcome::Ends(300),
        Outcome::Breaks(0),
        Outcome::Fails,
    ] {
        let scene = Scene::usual().await;
        let dead = AtomicU64::new(0);
        let client = Troubled::new(&scene.replica, move |_, name| {
            let second = name.min == Txid::new(2);
            // The first time something comes, later nothing.
            match dead.fetch_add(u64::from(second), Ordering::SeqCst) {
                _ if !second => Outcome::Fine,
                0 => outcome,
                _ => Outcome::Fails,
            }
        });
        let error = restore(options(&scene, &client)).await.unwrap_err();
        assert!(matches!(error, RestoreError::Interrupted { .. }), "{error}");
        scene.assert_nothing_left();
    }
}

#[tokio::test]
async fn files_that_retention_deletes_meanwhile_are_made_up_for() {
    let scene = Arc::new(Scene::usual().await);
    for gone in 2..=5 {
        let (replica, once) = (Arc::clone(&scene), AtomicU64::new(0));
        let client = Troubled::new(&scene.replica, move |_, file| {
            if *file == name(gone, gone) && once.fetch_add(1, Ordering::SeqCst) == 0 {
                // What compaction does: one file for transactions 2 to 5, and the parts are gone.
                replica.compact(1, (2, 5));
                return Outcome::Gone;
            }
            Outcome::Fine
        });
        let report = restore(options(&scene, &client)).await.unwrap();
        assert_eq!(report.txid, Txid::new(6));
        scene.assert_restored();
        fs::remove_file(scene.output()).unwrap();
        fs::remove_file(scene.object(1, name(2, 5))).unwrap();
    }
}

#[tokio::test]
async fn a_large_file_that_vanishes_half_read_is_made_up_for() {
    let scene = Scene::large().await;
    let both = [
        fs::read(scene.object(9, name(1, 1))),
        fs::read(scene.object(0, name(2, 2))),
    ];
    let both = both.map(Result::unwrap);
    let (whole, _) = merge(both.iter().map(Vec::as_slice), Vec::new()).unwrap();
    let newer = scene.object(9, name(1, 2));
    let client = Troubled::new(&scene.replica, move |_, name| {
        if *name == crate::scene::name(1, 2) {
            return Outcome::Fine;
        }
        Outcome::Breaks(1 << 20)
    });
    // The second half of the old snapshot is gone, and a newer one is there.
    let replaced = Troubled::new(&(client as Arc<dyn ReplicaClient>), move |at, name| {
        if at >= 3 && *name == crate::scene::name(1, 1) {
            if !newer.exists() {
                fs::write(&newer, &whole).unwrap();
            }
            return Outcome::Gone;
        }
        Outcome::Fine
    });
    let mut options = options(&scene, &replaced);
    options.parallelism = 1;
    restore(options).await.unwrap();
    scene.assert_restored();
}

#[tokio::test]
async fn an_earlier_state_stays_the_one_that_was_asked_for_whatever_vanishes_meanwhile() {
    let scene = Arc::new(Scene::usual().await);
    let expected = Scene::with(&USUAL[..4]).await.expected;
    let targets = [
        RestoreTarget::Txid(Txid::new(4)),
        RestoreTarget::Timestamp(created(4)),
    ];
    for (target, gone) in targets
        .into_iter()
        .flat_map(|t| (1..=4).map(move |n| (t, n)))
    {
        // What compaction made of all that was wanted, or a snapshot in place of the one before.
        let (level, first) = if gone == 1 { (9, 1) } else { (1, 2) };
        let (replica, once) = (Arc::clone(&scene), AtomicU64::new(0));
        let client = Troubled::new(&scene.replica, move |_, file| {
            if *file != name(gone, gone) || once.fetch_add(1, Ordering::SeqCst) > 0 {
                return Outcome::Fine;
            }
            replica.compact(level, (first, 4));
            Outcome::Gone
        });
        let mut options = options(&scene, &client);
        options.target = target;
        let report = restore(options).await.unwrap();
        assert_eq!(report.txid, Txid::new(4), "{target:?}, without {gone}");
        assert!(fs::read(scene.output()).unwrap() == expected, "{target:?}");
        fs::remove_file(scene.output()).unwrap();
        fs::remove_file(scene.object(level, name(first, 4))).unwrap();
    }
}

#[tokio::test]
async fn an_earlier_state_that_retention_takes_meanwhile_is_an_error_and_no_other_state() {
    let targets = [
        RestoreTarget::Txid(Txid::new(4)),
        RestoreTarget::Timestamp(created(4)),
    ];
    for (target, gone) in targets
        .into_iter()
        .flat_map(|t| (1..=4).map(move |n| (t, n)))
    {
        let scene = Arc::new(Scene::usual().await);
        let replica = Arc::clone(&scene);
        let client = Troubled::new(&scene.replica, move |_, file| {
            if *file != name(gone, gone) {
                return Outcome::Fine;
            }
            // The newest state is there, and nothing before.
            replica.compact(9, (1, 6));
            (1..=6).for_each(|txid| {
                let level = if txid == 1 { 9 } else { 0 };
                let _ = fs::remove_file(replica.object(level, name(txid, txid)));
            });
            Outcome::Gone
        });
        let mut options = options(&scene, &client);
        options.target = target;
        // One file at a time, or the last of them are read before the first one is missed.
        options.parallelism = 1;
        let error = restore(options).await.unwrap_err();
        assert!(
            matches!(
                error,
                RestoreError::Vanished { .. }
                    | RestoreError::NoSnapshot { .. }
                    | RestoreError::TxidNotAvailable { .. }
            ),
            "{target:?}, without {gone}: {error}"
        );
        scene.assert_nothing_left();
    }
}

#[tokio::test]
async fn files_that_vanish_again_and_again_end_in_an_error() {
    let scene = Scene::usual().await;
    let client = Troubled::new(&scene.replica, |_, name| {
        if name.min == Txid::new(3) {
            Outcome::Gone
        } else {
            Outcome::Fine
        }
    });
    let error = restore(options(&scene, &client)).await.unwrap_err();
    assert!(matches!(error, RestoreError::Vanished { .. }), "{error}");
    scene.assert_nothing_left();
}

#[tokio::test]
async fn a_file_deleted_for_good_during_the_restore_is_no_older_database() {
    let scene = Scene::usual().await;
    let last = scene.object(0, name(6, 6));
    let client = Troubled::new(&scene.replica, move |_, name| {
        if name.min != Txid::new(6) {
            return Outcome::Fine;
        }
        let _ = fs::remove_file(&last);
        Outcome::Gone
    });
    let error = restore(options(&scene, &client)).await.unwrap_err();
    assert!(matches!(error, RestoreError::Vanished { .. }), "{error}");
    scene.assert_nothing_left();
}

#[tokio::test]
async fn requests_run_side_by_side_as_many_as_allowed_and_no_more() {
    let changes: Vec<(u32, &[u32])> = (0..60).map(|_| (2, [1, 2].as_slice())).collect();
    let scene = Scene::with(&changes).await;
    for parallelism in [1, 4] {
        let client = Troubled::meeting(&scene.replica, parallelism);
        let mut options = options(&scene, &client);
        options.parallelism = parallelism;
        let restored = tokio::time::timeout(HANGS, restore(options)).await;
        restored.expect("fewer requests than allowed").unwrap();
        assert_eq!(
            client.most_under_way.load(Ordering::SeqCst),
            parallelism as u64
        );
        scene.assert_restored();
        fs::remove_file(scene.output()).unwrap();
    }
}

/// What makes a restore fast, counted: no byte comes twice, none that is not needed, and each page is written once for
/// each file that has it.
#[tokio::test]
async fn a_restore_reads_each_byte_of_its_plan_once_and_no_other_and_writes_each_page_of_it_once() {
    let mut scene = Scene::large().await;
    for txid in 3..=5 {
        let number = txid as u32 * 10;
        let file = ltx(4096, (txid, txid), 3000, &[number]);
        scene.put(0, name(txid, txid), file).await;
        let at = (number as usize - 1) * 4096;
        scene.expected[at..at + 4096].copy_from_slice(&page(4096, number, txid));
    }
    // What was merged into these is in the replica, too, and of no use.
    scene.compact(9, (1, 2));
    scene.compact(1, (2, 4));
    let plan = restore_plan(Arc::clone(&scene.replica), RestoreTarget::Latest).await;
    let plan = plan.unwrap();
    let names: Vec<LtxName> = plan.files().iter().map(|file| file.name).collect();
    assert_eq!(names, [name(1, 2), name(2, 4), name(5, 5)]);

    let client = Troubled::new(&scene.replica, |_, _| Outcome::Fine);
    let disk = Arc::new(RecordingDisk::new(scene.dir.path()).unwrap());
    let mut options = options(&scene, &client);
    options.disk = disk.clone();
    options.parallelism = 64;
    let report = restore(options).await.unwrap();
    scene.assert_restored();

    assert_eq!((report.files, report.bytes), (3, plan.bytes()));
    let mut asked = client.asked();
    for file in plan.files() {
        let ranges = asked.remove(&(file.level, file.name)).unwrap();
        let read = ranges.into_iter().fold(0, |read, range| {
            let range = range.unwrap_or(0..file.size);
            assert_eq!(range.start, read, "{}", file.name);
            range.end
        });
        assert_eq!(read, file.size, "{}", file.name);
    }
    assert!(asked.is_empty(), "not needed: {asked:?}");

    let done = disk.describe();
    let written = done.iter().filter_map(|op| op.strip_prefix("write "));
    let written: u64 = written
        .map(|op| op.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    // Those of the snapshot, those of transactions 2 to 4, and that of 5.
    assert_eq!(written, (3000 + 1502 + 1) * 4096, "{done:?}");
    let syncs = done.iter().filter(|op| op.starts_with("fsync"));
    assert_eq!(syncs.count(), 2, "file and directory, once each: {done:?}");
}

//! The N-th read of a file fails while a replica is maintained, for every N until a run is clean: it is refused, breaks
//! off or ends early, once or for as long as the store is like that.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evertide::{Maintenance, ReplicaOptions, RestoreOptions, Txid, restore};
use evertide_ltx::{Decoder, Encoder, Header, Level, LtxName, PageSize, Pgno};
use evertide_storage::{
    Destination, Fault, FaultClient, LtxObject, ManualClock, MemoryClient, ReadFault,
    ReplicaClient, bytes_stream, collect, failing_runs,
};
use evertide_testkit::error_with_causes;
use fastrand::Rng;

use crate::model::Model;

/// When what the settings of [`options`] want falls due: level 1, level 2, a snapshot, and deletion.
const TIMES: [u64; 4] = [100, 300, 400, 2_000];

fn second(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn options() -> ReplicaOptions {
    let mut options = ReplicaOptions::new("local", Destination::file("/nowhere").unwrap());
    options.levels = vec![Duration::from_secs(30), Duration::from_secs(300)];
    options.level_0_retention = Duration::from_secs(60);
    options.snapshot_interval = Duration::from_secs(400);
    options.retention = Some(Duration::from_secs(1_000));
    options
}

/// A replica whose reads fail, its files, and what maintains it.
struct Scene {
    model: Model,
    memory: Arc<MemoryClient>,
    client: Arc<FaultClient>,
    clock: Arc<ManualClock>,
    maintenance: Maintenance,
}

impl Scene {
    /// A snapshot, and a commit in each ten seconds of a minute and a half.
    async fn new() -> Self {
        let mut model = Model::new(Rng::with_seed(evertide_testkit::seed()), second(1));
        let memory = Arc::new(MemoryClient::new("replica"));
        let mut files = vec![(Level::SNAPSHOT, Txid::FIRST)];
        files.extend(
            (10..90)
                .step_by(10)
                .map(|at| (Level::L0, model.commit(second(at)))),
        );
        for (level, txid) in files {
            let name = LtxName::new(txid, txid);
            let body = bytes_stream(model.file(name));
            let put = memory.put(level, name, model.created(txid), body);
            put.await.unwrap();
        }
        let client = Arc::new(FaultClient::new(memory.clone()));
        let clock = Arc::new(ManualClock::new(second(90)));
        Self {
            model,
            maintenance: Maintenance::new(client.clone(), &options(), clock.clone()),
            memory,
            client,
            clock,
        }
    }

    async fn objects(&self) -> Vec<LtxObject> {
        let mut objects = Vec::new();
        for level in Level::all() {
            objects.extend(self.memory.list(level, None).await.unwrap());
        }
        objects
    }

    /// Each file leads from the state before it to that after it, and the newest state is restored.
    async fn assert_sound(&self) {
        for object in self.objects().await {
            let content = self.memory.get(object.level, object.name, None).await;
            let content = collect(content.unwrap(), usize::MAX).await.unwrap();
            self.model.assert_leads(object.name, &content);
        }
        assert_eq!(self.maintenance.damaged().count(), 0, "nothing is damaged");
        let dir = evertide_testkit::memory_dir();
        let output = dir.path().join("restored.db");
        restore(RestoreOptions::new(self.memory.clone(), &output))
            .await
            .unwrap();
        let newest = self.model.content(self.model.newest());
        assert!(std::fs::read(&output).unwrap() == newest);
    }

    /// Lives until all was done that falls due; what a run came to.
    async fn live(mut self, n: u64, how: ReadFault, lasts: Fault) -> Lived {
        self.client.fail_read_at(n, how, lasts);
        let mut failures = 0;
        for at in TIMES {
            self.clock.set(second(at));
            let Err(error) = self.maintenance.run().await else {
                continue;
            };
            failures += 1;
            let text = error_with_causes(&error);
            assert!(self.client.is_named_in(&text), "{n} {how:?}: {text}");
            self.assert_sound().await;
        }
        let tripped = self.client.tripped();
        assert_eq!(
            failures > 0,
            tripped && lasts == Fault::Forever,
            "{n} {how:?}"
        );
        self.client.heal();
        self.maintenance.run().await.unwrap();
        self.assert_sound().await;
        let objects = self.objects().await;
        let places = objects.iter().map(|object| (object.level, object.name));
        Lived {
            tripped,
            places: places.collect(),
        }
    }
}

struct Lived {
    tripped: bool,
    /// What the replica had in the end.
    places: Vec<(Level, LtxName)>,
}

#[tokio::test(start_paused = true)]
async fn whichever_read_fails_maintenance_names_the_file_and_goes_on_once_the_store_works() {
    let clean = Scene::new().await;
    let clean = clean.live(u64::MAX, ReadFault::Refused, Fault::Once).await;
    for (how, lasts) in ReadFault::each() {
        let places = &clean.places;
        let run = async |n| {
            eprintln!("read {n}, {how:?}, {lasts:?}"); // the last one is the one that failed
            let lived = Scene::new().await.live(n, how, lasts).await;
            assert_eq!(&lived.places, places, "{n}");
            lived.tripped
        };
        let reads = failing_runs(1, run).await;
        assert!(reads >= 12, "only {reads} reads");
    }
}

/// A file of level 0 of some megabytes that do not compress, on its way into what is merged as it is read.
fn large(txid: u64) -> (LtxName, Bytes) {
    const PAGES: u32 = 540;
    let header = Header::new(
        PageSize::new(4_096).unwrap(),
        PAGES,
        Txid::new(txid),
        Txid::new(txid),
    );
    let name = header.name();
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    let (mut page, mut random) = (vec![0; 4_096], Rng::with_seed(txid));
    for number in 1..=PAGES {
        random.fill(&mut page);
        let pgno = Pgno::new(number).unwrap();
        encoder.encode_page(pgno, &page).unwrap();
    }
    (name, encoder.finish().unwrap().0.into())
}

/// The pages of a file that has all of a database.
fn pages(content: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::new(content).unwrap();
    let (mut pages, mut page) = (Vec::new(), vec![0; 4_096]);
    while decoder.decode_page(&mut page).unwrap().is_some() {
        pages.extend_from_slice(&page);
    }
    decoder.finish().unwrap();
    pages
}

/// Whether a merge of files too large for memory came to the N-th read.
async fn large_read_fails(
    files: &[(LtxName, Bytes)],
    expected: &[u8],
    n: u64,
    how: ReadFault,
    lasts: Fault,
) -> bool {
    let memory = Arc::new(MemoryClient::new("replica"));
    for (name, content) in files {
        let put = memory.put(Level::L0, *name, second(10), bytes_stream(content.clone()));
        put.await.unwrap();
    }
    let client = Arc::new(FaultClient::new(memory.clone()));
    client.fail_read_at(n, how, lasts);
    let mut options = options();
    options.levels.truncate(1);
    options.snapshot_interval = Duration::from_secs(1_000_000);
    let clock = Arc::new(ManualClock::new(second(40)));
    let mut maintenance = Maintenance::new(client.clone(), &options, clock);
    let done = maintenance.run().await;
    let tripped = client.tripped();
    let level_1 = async || memory.list(Level::new(1).unwrap(), None).await.unwrap();
    match done {
        Ok(_) => assert!(lasts == Fault::Once || !tripped, "{n} {how:?}"),
        Err(error) => {
            let text = error_with_causes(&error);
            assert_eq!(lasts, Fault::Forever, "{n} {how:?}: {text}");
            assert!(client.is_named_in(&text), "{n} {how:?}: {text}");
            assert_eq!(level_1().await, [], "{n} {how:?}: half of a file");
            client.heal();
            maintenance.run().await.unwrap();
        }
    }
    let [merged] = &level_1().await[..] else {
        panic!("{n} {how:?}: not merged");
    };
    let content = memory.get(merged.level, merged.name, None).await.unwrap();
    let content = collect(content, usize::MAX).await.unwrap();
    assert!(pages(&content) == expected, "{n} {how:?}");
    assert_eq!(maintenance.damaged().count(), 0);
    tripped
}

#[tokio::test]
async fn whichever_part_of_a_large_file_fails_half_a_merge_is_never_stored() {
    let files = [large(2), large(3)];
    let expected = pages(&files[1].1);
    let first = evertide_testkit::seed() % 3;
    for lasts in [Fault::Once, Fault::Forever] {
        let how = |n| ReadFault::ALL[((first + n) % 3) as usize];
        let run = |n| large_read_fails(&files, &expected, n, how(n), lasts);
        let reads = failing_runs(2, run).await;
        assert!(reads > 3, "only {reads} parts");
    }
}

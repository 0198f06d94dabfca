//! Merges of more than fits in memory, over a line that breaks.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide::{Maintenance, ReplicaOptions, RestoreOptions, restore};
use evertide_ltx::{Encoder, Header, Level, LtxName, PageSize, Pgno, Txid};
use evertide_storage::{Destination, LtxObject, ManualClock, ReplicaClient, bytes_stream};
use fastrand::Rng;

use crate::shaky::{Shaky, Weather};

const PAGE: usize = 4096;
/// Pages of the database: they do not compress, so each file that has half of them is over 2 MiB, and two
/// of those are over 4.
const PAGES: u32 = 1_100;

fn second(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn page(number: u32, txid: u64) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    Rng::with_seed(txid << 32 | u64::from(number)).fill(&mut page);
    page
}

/// Whether a transaction writes a page: the first one all, the second and third one half of them each.
fn writes(txid: u64, number: u32) -> bool {
    txid == 1 || u64::from(number % 2) == txid % 2
}

fn content(txid: u64) -> Vec<u8> {
    let newest = |number| (1..=txid).rev().find(|txid| writes(*txid, number)).unwrap();
    (1..=PAGES)
        .flat_map(|number| page(number, newest(number)))
        .collect()
}

/// A replica with three transactions, and all that maintenance needs to make of them a file of level 1 and a
/// snapshot.
async fn replica() -> (Arc<Shaky>, Maintenance) {
    let store = Arc::new(Shaky::new(Rng::with_seed(1)));
    for txid in 1..=3 {
        let name = LtxName::new(Txid::new(txid), Txid::new(txid));
        let page_size = PageSize::new(PAGE as u32).unwrap();
        let mut header = Header::new(page_size, PAGES, name.min, name.max);
        let created = second(10 + txid);
        header.timestamp_ms = 1_000 * (10 + txid as i64);
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        for number in (1..=PAGES).filter(|number| writes(txid, *number)) {
            let pgno = Pgno::new(number).unwrap();
            encoder.encode_page(pgno, &page(number, txid)).unwrap();
        }
        let level = [Level::SNAPSHOT, Level::L0][usize::from(txid > 1)];
        let body = bytes_stream(encoder.finish().unwrap().0.into());
        store.put(level, name, created, body).await.unwrap();
    }
    let mut options = ReplicaOptions::new("it", Destination::file("/not/looked/at").unwrap());
    options.levels.truncate(1);
    options.snapshot_interval = Duration::from_secs(60);
    let clock = Arc::new(ManualClock::new(second(100)));
    let maintenance = Maintenance::new(store.clone(), &options, clock);
    (store, maintenance)
}

fn merged(store: &Shaky) -> Vec<LtxObject> {
    let merged = |object: &LtxObject| object.level > Level::L0 && object.name.max > Txid::FIRST;
    store.objects().into_values().filter(merged).collect()
}

#[tokio::test]
async fn a_merge_whose_sources_break_off_again_and_again_goes_on_where_they_stopped() {
    let (fair, mut maintenance) = replica().await;
    maintenance.run().await.unwrap();
    let expected = merged(&fair);
    assert_eq!(expected.len(), 2, "{expected:?}");

    let (store, mut maintenance) = replica().await;
    store.set_weather(Weather::Choppy(400_000));
    maintenance.run().await.unwrap();
    assert_eq!(merged(&store), expected);
    for object in &expected {
        assert!(store.content(object).await == fair.content(object).await);
    }
    // The two files of level 0, and for the snapshot the first one and what was made of them.
    let sources: u64 = store
        .objects()
        .values()
        .filter(|object| object.name != LtxName::new(Txid::FIRST, Txid::new(3)))
        .map(|object| object.size)
        .sum();
    let level_0 = store.objects().into_values();
    let level_0: u64 = level_0
        .filter(|object| object.level == Level::L0)
        .map(|object| object.size)
        .sum();
    assert!(level_0 > 4 << 20, "{level_0} bytes fit in memory");
    let (delivered, breaks) = store.delivered();
    assert_eq!(delivered, sources, "something was read twice");
    assert!(breaks >= 20, "{breaks}");

    store.set_weather(Weather::Fair);
    let dir = evertide_testkit::memory_dir();
    let output = dir.path().join("restored.db");
    let restored = restore(RestoreOptions::new(store, &output)).await.unwrap();
    assert_eq!(restored.txid, Txid::new(3));
    assert!(std::fs::read(&output).unwrap() == content(3));
}

#[tokio::test]
async fn a_merge_whose_sources_stay_away_leaves_nothing_and_is_made_when_they_are_back() {
    let (store, mut maintenance) = replica().await;
    store.set_weather(Weather::Choppy(0));
    let error = maintenance.run().await.unwrap_err().to_string();
    assert!(error.contains("to be merged"), "{error}");
    assert_eq!(merged(&store), []);
    store.set_weather(Weather::Fair);
    maintenance.run().await.unwrap();
    assert_eq!(merged(&store).len(), 2);
}

use evertide_ltx::{Encoder, Header, PageSize, Pgno};
use evertide_storage::{Destination, ManualClock, MemoryClient, bytes_stream};

use super::{
    super::{
        faulty::{Fault, Faulty},
        files::tests::{file, time},
        points::Keep,
    },
    *,
};
use crate::state::Staged;

const PAGES: u32 = 100;
const PAGE: usize = 65_536;

/// A file of which nothing can be compressed, so that a snapshot is larger than what is read without
/// thinking about it.
fn ltx(min: u64, max: u64, pages: u32, second: u64) -> (LtxName, Vec<u8>) {
    let size = PageSize::new(PAGE as u32).unwrap();
    let mut header = Header::new(size, PAGES, Txid::new(min), Txid::new(max));
    header.timestamp_ms = second as i64 * 1_000;
    let name = header.name();
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    let mut page = vec![0; PAGE];
    for pgno in 1..=pages {
        fastrand::Rng::with_seed(max << 32 | u64::from(pgno)).fill(&mut page);
        encoder
            .encode_page(Pgno::new(pgno).unwrap(), &page)
            .unwrap();
    }
    (name, encoder.finish().unwrap().0)
}

/// Maintenance of a service with a large snapshot and a small file after it, some days later.
async fn maintenance(commands: mpsc::UnboundedSender<Command>) -> (Maintenance, Arc<MemoryClient>) {
    let client = Arc::new(MemoryClient::service("bucket"));
    for (level, min, max, pages, second) in [(9, 1, 1, PAGES, 10), (0, 2, 2, 1, 20)] {
        let (level, (name, bytes)) = (Level::new(level).unwrap(), ltx(min, max, pages, second));
        let body = bytes_stream(bytes.into());
        client.put(level, name, time(second), body).await.unwrap();
    }
    let options = ReplicaOptions::new("bucket", Destination::file("/nowhere").unwrap());
    let clock = Arc::new(ManualClock::new(time(1_000_000)));
    let (_, captured) = watch::channel(Captured {
        txid: Txid::new(3),
        created: None,
        record: None,
        begun: None,
        staged: Arc::new([]),
        dir: "/nowhere".into(),
    });
    let store = Arc::clone(&client) as Arc<dyn ReplicaClient>;
    let maintenance = Maintenance::new(store, &options, clock);
    let maintenance = maintenance.with_local(Arc::new(OsDisk), captured, commands);
    (maintenance, client)
}

#[test]
fn nothing_is_taken_for_captured_here_that_the_newest_file_does_not_prove() {
    let from = |files: &[(u8, u64, u64)]| {
        let files = files
            .iter()
            .map(|(level, min, max)| file(*level, *min, *max, 0));
        proven_from(&files.collect::<Vec<_>>()).get()
    };
    assert_eq!(from(&[]), 1);
    assert_eq!(from(&[(9, 1, 1), (0, 2, 2), (0, 3, 5)]), 2);
    // Of a database that took over, and had transactions 7 and 8 itself.
    let before = [(9, 1, 6), (0, 7, 7), (0, 8, 8)];
    let started_over = [before.as_slice(), &[(9, 1, 9)]].concat();
    assert_eq!(from(&started_over), 10);
    assert_eq!(
        from(&[started_over.as_slice(), &[(0, 10, 11)]].concat()),
        10
    );
    // What a process that was killed sent arrived after its successor.
    assert_eq!(from(&[(9, 1, 1), (0, 2, 3), (0, 3, 4), (0, 5, 5)]), 3);
}

#[tokio::test]
async fn no_captured_file_is_merged_in_place_of_one_of_another_history() {
    let (commands, _asked) = mpsc::unbounded_channel();
    let (mut maintenance, _) = maintenance(commands).await;
    let dir = tempfile::tempdir().unwrap();
    let (two, four) = (file(0, 2, 2, 20), file(0, 4, 4, 40));
    let staged = [two.name, four.name].map(|name| Staged { name, bytes: 1 });
    let (_, captured) = watch::channel(Captured {
        txid: four.name.max,
        created: None,
        record: None,
        begun: None,
        staged: staged.into(),
        dir: dir.path().to_owned(),
    });
    maintenance.local.as_mut().unwrap().captured = captured;
    maintenance.listed(None);
    maintenance.arrived(file(9, 1, 3, 30));
    maintenance.arrived(four.clone());
    assert_eq!(
        maintenance.copies_of(&two),
        Vec::<std::path::PathBuf>::new()
    );
    let copy = dir.path().join(four.name.to_string());
    assert_eq!(maintenance.copies_of(&four), [copy]);
}

#[tokio::test]
async fn a_large_snapshot_of_a_service_is_not_made_by_downloading_the_one_before() {
    let (commands, mut asked) = mpsc::unbounded_channel();
    let (mut maintenance, client) = maintenance(commands).await;
    let (name, image) = ltx(1, 3, PAGES, 30);
    let content = image.clone();
    let database = tokio::spawn(async move {
        let Some(Command::Image(crate::database::ImageRequest { above, reply, .. })) =
            asked.recv().await
        else {
            panic!("something else was asked for");
        };
        assert_eq!(above, Txid::ZERO, "no transaction of its own is needed");
        let (created, stream) = (time(30), bytes_stream(image.into()));
        let snapshot = Snapshot {
            name,
            created,
            stream,
        };
        reply.send(snapshot).unwrap();
    });
    maintenance.run().await.unwrap();
    database.await.unwrap();
    let done = maintenance.done();
    assert_eq!(done.snapshots, 1, "{done:?}");
    assert!(done.read < SMALL_ENOUGH, "{done:?}");
    let stored = client.get(Level::SNAPSHOT, name, None).await.unwrap();
    let stored = evertide_storage::collect(stored, 1 << 30).await.unwrap();
    assert!(stored == content);
}

#[tokio::test]
async fn without_a_database_the_snapshot_is_made_of_what_the_replica_has() {
    let (commands, asked) = mpsc::unbounded_channel();
    drop(asked);
    let (mut maintenance, client) = maintenance(commands).await;
    maintenance.run().await.unwrap();
    let done = maintenance.done();
    assert_eq!(done.snapshots, 1, "{done:?}");
    assert!(done.read > SMALL_ENOUGH, "{done:?}");
    let snapshots = client.list(Level::SNAPSHOT, None).await.unwrap();
    assert_eq!(snapshots.last().unwrap().name.max, Txid::new(2));
}

/// Gives whoever asks an image of the database; how often somebody did.
async fn give_images(
    mut asked: mpsc::UnboundedReceiver<Command>,
    name: LtxName,
    image: Vec<u8>,
) -> u32 {
    let mut images = 0;
    while let Some(Command::Image(request)) = asked.recv().await {
        let (created, stream) = (time(30), bytes_stream(image.clone().into()));
        let snapshot = Snapshot {
            name,
            created,
            stream,
        };
        request.reply.send(snapshot).unwrap();
        images += 1;
    }
    images
}

#[tokio::test]
async fn an_image_that_the_store_did_not_keep_whole_is_an_error_and_no_snapshot() {
    let (commands, asked) = mpsc::unbounded_channel();
    let (mut maintenance, client) = maintenance(commands).await;
    let store = Arc::new(Faulty::new(client.clone(), Fault::Halves(Level::SNAPSHOT)));
    maintenance.merger.client = store.clone();
    let before = client.list(Level::SNAPSHOT, None).await.unwrap();
    let (name, image) = ltx(1, 3, PAGES, 30);
    let size = image.len() as u64;
    tokio::spawn(give_images(asked, name, image));
    let error = maintenance.run().await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("{size} bytes were sent")),
        "{error}"
    );
    assert_eq!(client.list(Level::SNAPSHOT, None).await.unwrap(), before);
    store.mend();
    maintenance.run().await.unwrap();
    let snapshots = client.list(Level::SNAPSHOT, None).await.unwrap();
    assert_eq!(snapshots.last().unwrap().size, size);
}

/// Flips a bit of a stored file.
async fn damage(client: &MemoryClient, object: &LtxObject) {
    let (level, name) = (object.level, object.name);
    let stored = client.get(level, name, None).await.unwrap();
    let stored = evertide_storage::collect(stored, 1 << 30).await.unwrap();
    let mut damaged = stored.to_vec();
    damaged[200] ^= 1;
    client.delete(level, &[name]).await.unwrap();
    let body = bytes_stream(damaged.into());
    client.put(level, name, object.created, body).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_of_the_database_takes_the_place_of_what_is_damaged_for_good() {
    let (commands, asked) = mpsc::unbounded_channel();
    let (mut maintenance, client) = maintenance(commands).await;
    let level_0 = client.list(Level::L0, None).await.unwrap();
    let lost = level_0[0].clone();
    damage(&client, &lost).await;
    let (name, image) = ltx(1, 3, PAGES, 30);
    let images = tokio::spawn(give_images(asked, name, image));
    for _ in 0..2 {
        maintenance.run().await.unwrap();
    }
    let snapshots = client.list(Level::SNAPSHOT, None).await.unwrap();
    assert_eq!(snapshots.last().unwrap().name, name);
    let left: Vec<LtxObject> = maintenance.damaged().cloned().collect();
    assert_eq!(left, [lost]);
    let complaint = maintenance.complaint().unwrap();
    assert!(complaint.contains("of level 0 is damaged"), "{complaint}");
    drop(maintenance);
    assert_eq!(images.await.unwrap(), 1, "one is enough");
}

/// Nobody has written since: the snapshot that is to take its place has the same name.
#[tokio::test]
async fn a_damaged_snapshot_of_the_newest_state_is_made_again_of_the_database() {
    let (commands, asked) = mpsc::unbounded_channel();
    let (mut maintenance, client) = maintenance(commands).await;
    let (name, image) = ltx(1, 3, PAGES, 30);
    let body = bytes_stream(image.clone().into());
    let stored = client.put(Level::SNAPSHOT, name, time(30), body);
    let stored = stored.await.unwrap();
    damage(&client, &stored).await;
    let images = tokio::spawn(give_images(asked, name, image.clone()));
    maintenance.listed(None);
    let read = maintenance.is_whole(&stored).await.unwrap();
    assert!(!read);
    maintenance.run().await.unwrap();
    assert_eq!(maintenance.damaged().count(), 0);
    let stored = client.get(Level::SNAPSHOT, name, None).await.unwrap();
    let stored = evertide_storage::collect(stored, 1 << 30).await.unwrap();
    assert!(stored == image);
    drop(maintenance);
    assert_eq!(images.await.unwrap(), 1, "one is enough");
}

/// What was deleted to make room for it is not forgotten: the replica is worse than before.
#[tokio::test]
async fn what_is_deleted_to_be_made_again_is_owed_until_it_is_there() {
    let (commands, asked) = mpsc::unbounded_channel();
    let (mut maintenance, client) = maintenance(commands).await;
    let (name, image) = ltx(1, 3, PAGES, 30);
    let body = bytes_stream(image.clone().into());
    let stored = client.put(Level::SNAPSHOT, name, time(30), body);
    let stored = stored.await.unwrap();
    damage(&client, &stored).await;
    tokio::spawn(give_images(asked, name, image.clone()));
    maintenance.listed(None);
    assert!(!maintenance.is_whole(&stored).await.unwrap());
    for (fault, is_there) in [
        (Fault::DeletesNothing, true),
        (Fault::Refuses(Level::SNAPSHOT), false),
        (Fault::Refuses(Level::SNAPSHOT), false),
    ] {
        maintenance.merger.client = Arc::new(Faulty::new(client.clone(), fault));
        assert!(maintenance.run().await.is_err(), "{fault:?}");
        let listed = client.list(Level::SNAPSHOT, None).await.unwrap();
        assert_eq!(listed.iter().any(|file| file.name == name), is_there);
        assert_eq!(maintenance.damaged().count(), 1, "{fault:?}");
        assert!(maintenance.complaint().is_some(), "{fault:?}");
    }
    maintenance.merger.client = client.clone();
    maintenance.run().await.unwrap();
    assert_eq!(maintenance.damaged().count(), 0);
    let stored = client.get(Level::SNAPSHOT, name, None).await.unwrap();
    let stored = evertide_storage::collect(stored, 1 << 30).await.unwrap();
    assert!(stored == image);
}

#[tokio::test]
async fn what_is_damaged_is_no_reason_for_a_snapshot_where_there_is_one_of_the_same_state() {
    let (commands, asked) = mpsc::unbounded_channel();
    let (mut maintenance, client) = maintenance(commands).await;
    let newest = client.list(Level::L0, None).await.unwrap().remove(0);
    let (name, snapshot) = ltx(1, 2, PAGES, 20);
    let body = bytes_stream(snapshot.into());
    let put = client.put(Level::SNAPSHOT, name, time(20), body);
    put.await.unwrap();
    damage(&client, &newest).await;
    let (name, image) = ltx(1, 3, PAGES, 30);
    let images = tokio::spawn(give_images(asked, name, image));
    maintenance.listed(None);
    assert!(!maintenance.is_whole(&newest).await.unwrap());
    maintenance.files = Some(maintenance.list_all().await.unwrap());
    assert!(!maintenance.mend().await.unwrap());
    assert_eq!(maintenance.damaged().count(), 1);
    drop(maintenance);
    assert_eq!(images.await.unwrap(), 0);
}

/// However old it is: somebody may have a copy, and has to be told.
#[tokio::test]
async fn a_damaged_file_that_alone_leads_to_the_newest_state_is_not_deleted_for_its_age() {
    let (commands, asked) = mpsc::unbounded_channel();
    drop(asked);
    let (mut maintenance, client) = maintenance(commands).await;
    maintenance.rules.retention = Some(Keep::new(Duration::from_secs(3_600), &[]));
    let newest = client.list(Level::L0, None).await.unwrap().remove(0);
    damage(&client, &newest).await;
    for _ in 0..3 {
        maintenance.run().await.unwrap();
        maintenance.enforce_retention().await.unwrap();
    }
    assert_eq!(client.list(Level::L0, None).await.unwrap(), [newest]);
    assert!(maintenance.complaint().is_some());
}

/// Compaction goes on above it, and never comes back.
#[tokio::test]
async fn a_file_that_is_made_again_of_others_leaves_no_hole_where_that_fails_at_first() {
    let (commands, asked) = mpsc::unbounded_channel();
    drop(asked);
    let (mut maintenance, client) = maintenance(commands).await;
    let level_1 = Level::new(1).unwrap();
    let (next, bytes) = ltx(3, 3, 1, 25);
    for level in [Level::L0, level_1] {
        let body = bytes_stream(bytes.clone().into());
        client.put(level, next, time(25), body).await.unwrap();
    }
    let first = client.list(Level::L0, None).await.unwrap().remove(0).name;
    let content = client.get(Level::L0, first, None).await.unwrap();
    let put = client.put(level_1, first, time(20), content);
    let damaged = put.await.unwrap();
    damage(&client, &damaged).await;
    assert!(!maintenance.is_whole(&damaged).await.unwrap());
    let fault = Fault::Refuses(level_1);
    maintenance.merger.client = Arc::new(Faulty::new(client.clone(), fault));
    assert!(maintenance.run().await.is_err());
    maintenance.merger.client = client.clone();
    maintenance.run().await.unwrap();
    let listed = client.list(level_1, None).await.unwrap();
    let names: Vec<LtxName> = listed.iter().map(|file| file.name).collect();
    assert_eq!(names, [first, next]);
    assert_eq!(maintenance.damaged().count(), 0);
}

/// An operator has put it back since.
#[tokio::test]
async fn what_is_whole_is_not_deleted_for_having_been_damaged_a_moment_ago() {
    let (commands, _asked) = mpsc::unbounded_channel();
    let (mut maintenance, client) = maintenance(commands).await;
    maintenance.rules.retention = Some(Keep::new(Duration::from_secs(3_600), &[]));
    let (name, image) = ltx(1, 3, PAGES, 30);
    let put = client.put(Level::SNAPSHOT, name, time(30), bytes_stream(image.into()));
    put.await.unwrap();
    let file = client.list(Level::L0, None).await.unwrap().remove(0);
    let now = maintenance.clock.now();
    maintenance
        .damaged
        .note(file.clone(), &evertide_ltx::Error::BadIndex, now);
    let done = maintenance.enforce_retention().await.unwrap();
    assert!(!done, "it is planned again, with that file");
    assert_eq!(client.list(Level::L0, None).await.unwrap(), [file]);
    assert_eq!(maintenance.damaged().count(), 0);
}

/// A snapshot of what was captured here does not lead past it.
#[tokio::test]
async fn what_somebody_else_stored_above_and_is_damaged_is_a_reason_to_begin_above_and_for_no_snapshot()
 {
    let (commands, asked) = mpsc::unbounded_channel();
    let (mut maintenance, client) = maintenance(commands).await;
    let (name, bytes) = ltx(3, 9, 1, 40);
    let put = client.put(Level::L0, name, time(40), bytes_stream(bytes.into()));
    let above = put.await.unwrap();
    damage(&client, &above).await;
    let before = client.list(Level::SNAPSHOT, None).await.unwrap();
    let (name, image) = ltx(1, 3, PAGES, 30);
    let images = tokio::spawn(give_images(asked, name, image));
    assert!(!maintenance.is_whole(&above).await.unwrap());
    maintenance.rules.snapshots = super::super::compact::Windows::new(Duration::from_secs(1 << 40));
    maintenance.run().await.unwrap();
    assert_eq!(client.list(Level::SNAPSHOT, None).await.unwrap(), before);
    assert_eq!(maintenance.newest(), above.name.max);
    drop(maintenance);
    assert!(images.await.unwrap() <= 1);
}

/// It would ask an operator to delete what is just being made again.
#[tokio::test]
async fn of_what_is_just_being_mended_nobody_is_told() {
    let (commands, asked) = mpsc::unbounded_channel();
    drop(asked);
    let (mut maintenance, client) = maintenance(commands).await;
    let level_0 = client.list(Level::L0, None).await.unwrap();
    let level_1 = Level::new(1).unwrap();
    let content = client.get(Level::L0, level_0[0].name, None).await.unwrap();
    let put = client.put(level_1, level_0[0].name, time(20), content);
    let copy = put.await.unwrap();
    damage(&client, &copy).await;
    let (mut told, mut settled) = (0, Vec::new());
    let tell = |maintenance: &Maintenance| {
        told += 1;
        if maintenance.is_settled() {
            settled.push(maintenance.complaint());
        }
    };
    maintenance.run_telling(tell).await.unwrap();
    assert!(told > settled.len(), "it was found");
    assert!(
        !settled.is_empty() && settled.iter().all(Option::is_none),
        "{settled:?}"
    );
    assert_eq!(maintenance.damaged().count(), 0);
}

/// Less than a snapshot, and enough for what was captured after it.
const SMALL_ENOUGH: u64 = 10 * PAGE as u64;

/// A clock by which half an hour passes from one look to the next.
#[derive(Debug)]
struct Rushing(ManualClock);

impl Clock for Rushing {
    fn now(&self) -> SystemTime {
        self.0.advance(Duration::from_secs(1_800));
        self.0.now()
    }

    fn uptime(&self) -> Duration {
        self.0.uptime()
    }
}

/// Files get old as fast as they are deleted: who waits has to hear of it all the same.
#[tokio::test]
async fn retention_is_enforced_once_in_a_run_although_it_is_due_again_when_it_ends() {
    let client = Arc::new(MemoryClient::service("bucket"));
    let mut snapshots = Vec::new();
    for hour in 1..=10 {
        let (name, bytes) = ltx(1, hour, PAGES, hour * 3_600);
        let put = client.put(
            Level::SNAPSHOT,
            name,
            time(hour * 3_600),
            bytes_stream(bytes.into()),
        );
        snapshots.push(put.await.unwrap().name);
    }
    let mut options = ReplicaOptions::new("bucket", Destination::file("/nowhere").unwrap());
    options.retention = Some(Duration::from_secs(3_600));
    options.retention_check_interval = Duration::ZERO;
    let clock = Arc::new(Rushing(ManualClock::new(time(4 * 3_600))));
    let mut maintenance = Maintenance::new(client.clone() as _, &options, clock.clone());
    let mut told = Vec::new();
    loop {
        let next = maintenance.run().await.unwrap();
        told.push(maintenance.done().deleted);
        if next.is_none_or(|next| next > clock.0.now()) {
            break;
        }
    }
    assert!(told.len() > 2 && told.is_sorted(), "{told:?}");
    let left = client.list(Level::SNAPSHOT, None).await.unwrap();
    let left: Vec<LtxName> = left.iter().map(|object| object.name).collect();
    assert_eq!(
        Some(&left[..]),
        snapshots.last_chunk::<1>().map(|last| &last[..])
    );
}

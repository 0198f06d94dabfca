//! Replicas that are compacted and pruned while nobody follows, or while somebody does.

use std::{
    fs,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide::FollowError;
use evertide_ltx::{Header, Level, LtxName, Merge, Txid};
use evertide_storage::{
    ByteStream, Capabilities, Error, LtxObject, Precondition, ReplicaClient, SmallKey, SmallObject,
    Version, bytes_stream, collect,
};

use crate::scene::{Scene, follow_until, version};

async fn names(client: &dyn ReplicaClient, level: Level) -> Vec<LtxName> {
    let objects = client.list(level, None).await.unwrap();
    objects.into_iter().map(|object| object.name).collect()
}

/// Merges these files of level 0 into one of another level, and deletes them.
async fn compact(client: &dyn ReplicaClient, names: &[LtxName], level: u8) {
    let mut files = Vec::new();
    for name in names {
        let stream = client.get(Level::L0, *name, None).await.unwrap();
        files.push(collect(stream, 1 << 30).await.unwrap());
    }
    let merge = Merge::new(files.iter().map(|file| file.as_ref())).unwrap();
    let (merged, summary) = merge.write_to(Vec::new()).unwrap();
    let header: &Header = &summary.header;
    let created = std::time::UNIX_EPOCH
        + std::time::Duration::from_millis(header.timestamp_ms.try_into().unwrap());
    let level = Level::new(level).unwrap();
    client
        .put(level, header.name(), created, bytes_stream(merged.into()))
        .await
        .unwrap();
    client.delete(Level::L0, names).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_after_restarts_compaction_and_pruned_history() {
    let mut scene = Scene::new(4096).await;
    let client = scene.replica();
    scene.write_durably(2).await;
    let first = scene.follow_to_the_end().await.unwrap();
    assert!(
        first.events[0].starts_with("Restored"),
        "{:?}",
        first.events
    );
    scene.assert_current().await;

    // A restart goes on, and has nothing to do.
    let again = scene.follow_to_the_end().await.unwrap();
    assert!(again.events[0].starts_with("Resumed"), "{:?}", again.events);
    assert_eq!(
        (again.report.txid, again.report.files),
        (first.report.txid, 0)
    );

    // What comes next is there only compacted, together with what the copy has already.
    scene.write_durably(6).await;
    let all = names(&*client, Level::L0).await;
    let (start, last) = all.split_at(all.len() - 1);
    compact(&*client, &start[1..], 1).await;
    let followed = scene.follow_to_the_end().await.unwrap();
    assert_eq!(followed.report.files, 2);
    assert_eq!(followed.report.txid, Some(last[0].max));
    scene.assert_current().await;

    // What comes next is only in a snapshot: everything else is gone.
    scene.write_durably(5).await;
    let before = followed.report.txid.unwrap();
    let mut whole = Vec::new();
    let levels = [Level::L0, Level::new(1).unwrap(), Level::SNAPSHOT];
    for level in levels {
        for name in names(&*client, level).await {
            let stream = client.get(level, name, None).await.unwrap();
            whole.push((name, collect(stream, 1 << 30).await.unwrap()));
        }
    }
    whole.sort_by_key(|(name, _)| *name);
    let merge = Merge::new(whole.iter().map(|(_, file)| file.as_ref())).unwrap();
    let (snapshot, summary) = merge.write_to(Vec::new()).unwrap();
    let name = summary.header.name();
    assert!(name.is_snapshot() && name.max > before, "{name}");
    for level in levels {
        let names = names(&*client, level).await;
        client.delete(level, &names).await.unwrap();
    }
    client
        .put(
            Level::SNAPSHOT,
            name,
            std::time::UNIX_EPOCH,
            bytes_stream(snapshot.into()),
        )
        .await
        .unwrap();
    let followed = scene.follow_to_the_end().await.unwrap();
    assert!(
        followed.events[0].starts_with("Resumed"),
        "{:?}",
        followed.events
    );
    assert_eq!(followed.report.files, 1);
    scene.assert_current().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_updated_while_its_replica_is_compacted() {
    let mut scene = Scene::new(1024).await;
    let client = scene.replica();
    scene.write_durably(2).await;
    let following = tokio::spawn(follow_until(scene.options(), |path| version(path) == 26));
    for _ in 0..6 {
        scene.write_durably(4).await;
        let all = names(&*client, Level::L0).await;
        if all.len() > 2 {
            compact(&*client, &all[1..], 1).await;
        }
    }
    let followed = following.await.unwrap().unwrap();
    let failed = followed
        .events
        .iter()
        .filter(|event| event.contains("OtherHistory"));
    assert_eq!(failed.count(), 0);
    scene.assert_current().await;
}

/// A replica of which level 0 is not seen beyond a transaction: whoever follows is always too late for it.
#[derive(Debug)]
struct Veiled {
    inner: Arc<dyn ReplicaClient>,
    seen: Txid,
    /// How often other levels were listed.
    looks: AtomicU64,
}

#[async_trait]
impl ReplicaClient for Veiled {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        let mut objects = self.inner.list(level, after).await?;
        match level {
            Level::L0 => objects.retain(|object| object.name.max <= self.seen),
            Level::SNAPSHOT => _ = self.looks.fetch_add(1, Ordering::SeqCst),
            _ => {}
        }
        Ok(objects)
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        self.inner.get(level, name, range).await
    }

    async fn put(
        &self,
        _: Level,
        _: LtxName,
        _: SystemTime,
        _: ByteStream,
    ) -> Result<LtxObject, Error> {
        unreachable!("a follower writes nothing to a replica")
    }

    async fn delete(&self, _: Level, _: &[LtxName]) -> Result<(), Error> {
        unreachable!("a follower deletes nothing from a replica")
    }

    async fn get_small(&self, _: &SmallKey) -> Result<Option<SmallObject>, Error> {
        Ok(None)
    }

    async fn put_small(&self, _: &SmallKey, _: Bytes, _: Precondition) -> Result<Version, Error> {
        unreachable!("a follower writes nothing to a replica")
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        Ok(Vec::new())
    }

    async fn delete_small(&self, _: &SmallKey) -> Result<(), Error> {
        unreachable!("a follower deletes nothing from a replica")
    }
}

/// It waits for the next look at all levels, which is ten seconds after the one before.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_with_what_it_only_finds_compacted_while_it_runs() {
    let mut scene = Scene::new(4096).await;
    let client = scene.replica();
    scene.write_durably(2).await;
    let seen = names(&*client, Level::L0).await.pop().unwrap().max;
    let veiled = Arc::new(Veiled {
        inner: scene.replica(),
        seen,
        looks: AtomicU64::new(0),
    });
    let mut options = scene.options();
    options.restore.replica = veiled.clone();
    let following = tokio::spawn(follow_until(options, |path| version(path) == 6));
    // Once for the restore, and once to see what has come meanwhile.
    evertide_testkit::wait_until(Duration::from_secs(30), "two looks", || {
        veiled.looks.load(Ordering::SeqCst) >= 2
    });
    scene.write_durably(4).await;
    let all = names(&*client, Level::L0).await;
    let new: Vec<LtxName> = all.into_iter().filter(|name| name.min > seen).collect();
    compact(&*client, &new, 1).await;
    let followed = following.await.unwrap().unwrap();
    assert_eq!(followed.report.txid, new.last().map(|name| name.max));
    scene.assert_current().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_or_a_damaged_file_never_reaches_the_copy() {
    let mut scene = Scene::new(4096).await;
    let client = scene.replica();
    scene.write_durably(2).await;
    scene.follow_to_the_end().await.unwrap();
    let before = version(&scene.path("copy.db"));
    scene.write_durably(2).await;
    let new = names(&*client, Level::L0).await;
    let (file, after) = (new[new.len() - 2], new[new.len() - 1]);
    let path = scene.path(&format!("replica/ltx/0/{file}"));
    let good = fs::read(&path).unwrap();
    for place in [103, good.len() / 2, good.len() - 3] {
        let mut bad = good.clone();
        bad[place] ^= 0x10;
        fs::write(&path, bad).unwrap();
        let error = scene.follow_to_the_end().await.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(&file.to_string()), "{error}");
        assert_eq!(version(&scene.path("copy.db")), before);
    }
    fs::remove_file(&path).unwrap();
    let error = scene.follow_to_the_end().await.map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("gap") && text.contains(&after.to_string()),
        "{text}"
    );
    assert_eq!(version(&scene.path("copy.db")), before);
    fs::write(&path, good).unwrap();
    scene.follow_to_the_end().await.unwrap();
    scene.assert_current().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_ends_before_the_copy_is_another_history() {
    let mut scene = Scene::new(4096).await;
    let client = scene.replica();
    scene.write_durably(3).await;
    let have = scene
        .follow_to_the_end()
        .await
        .unwrap()
        .report
        .txid
        .unwrap();
    let last = names(&*client, Level::L0).await.pop().unwrap();
    client.delete(Level::L0, &[last]).await.unwrap();
    let error = follow_until(scene.options(), |_| false)
        .await
        .map(|_| ())
        .unwrap_err();
    match error {
        FollowError::OtherHistory {
            have: found,
            newest,
            ..
        } => {
            assert_eq!((found, newest), (have, Txid::new(last.min.get() - 1)));
        }
        other => panic!("{other}"),
    }
}

//! Power cuts at every operation of the file replica.
#![allow(clippy::unwrap_used)] // a test

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    CrashPoint, Disk, Fault, FaultDisk, FileClient, FileOptions, OsDisk, RecordingDisk,
    ReplicaClient, collect,
    conformance::{Gauge, Pieces},
};

const MIXTURES: u64 = 12;
const EIO: i32 = 5;

/// An object of the test.
#[derive(Clone, Copy, Debug)]
struct Object {
    level: Level,
    name: LtxName,
    created: SystemTime,
    pieces: Pieces,
}

fn objects() -> Vec<Object> {
    let object = |n, level, count, size| Object {
        level,
        name: LtxName::new(Txid::FIRST, Txid::new(n)),
        created: SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000 + n),
        pieces: Pieces { count, size },
    };
    let snapshot = Level::SNAPSHOT;
    vec![
        object(1, Level::L0, 2, 700),
        object(2, Level::L0, 1, 3_000),
        // Larger than what is written in one go.
        object(3, snapshot, 5, 300_000),
    ]
}

/// What a power cut at this point leaves.
async fn after(
    disk: &RecordingDisk,
    point: CrashPoint,
    object: Object,
) -> Option<(u64, SystemTime, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    disk.replay(point, folder.path()).unwrap();
    let client = client(folder.path(), Arc::new(OsDisk));
    let listed = client.list(object.level, None).await.unwrap();
    let found = listed.into_iter().find(|found| found.name == object.name)?;
    let body = client.get(object.level, object.name, None).await.unwrap();
    Some((
        found.size,
        found.created,
        collect(body, usize::MAX).await.unwrap().to_vec(),
    ))
}

fn client(root: &Path, disk: Arc<dyn Disk>) -> FileClient {
    FileClient::new(
        FileOptions {
            path: root.join("replica"),
        },
        disk,
    )
}

/// Whether the object is there whole, or `Err` if in part.
async fn is_there(disk: &RecordingDisk, point: CrashPoint, object: Object) -> Result<bool, String> {
    match after(disk, point, object).await {
        None => Ok(false),
        Some((size, created, content)) => {
            let whole = content == object.pieces.content() && size == content.len() as u64;
            if whole && created == object.created {
                Ok(true)
            } else {
                Err(format!("{object:?} is torn, {size} bytes, of {created:?}"))
            }
        }
    }
}

#[tokio::test]
async fn after_a_power_cut_an_object_is_whole_or_absent_and_what_was_confirmed_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RecordingDisk::new(folder.path()).unwrap());
    let client = client(folder.path(), disk.clone());
    let mut confirmed = Vec::new();
    for object in objects() {
        let body = object.pieces.body(&Gauge::default());
        client
            .put(object.level, object.name, object.created, body)
            .await
            .unwrap();
        confirmed.push((object, disk.operations()));
    }
    let (mut early, mut points) = (0, 0);
    for point in disk.crash_points(MIXTURES) {
        points += 1;
        for (object, operations) in &confirmed {
            let there = is_there(&disk, point, *object)
                .await
                .unwrap_or_else(|torn| panic!("{point:?}: {torn}\n{:#?}", disk.describe()));
            let promised = *operations <= point.operations;
            assert!(
                there || !promised,
                "{point:?} lost {object:?}\n{:#?}",
                disk.describe()
            );
            early += usize::from(there && !promised);
        }
    }
    // Between the renaming and the confirmation an object may be there or not: both were seen.
    assert!(0 < early && early < points, "{early} of {points}");
}

#[tokio::test]
async fn a_deleted_object_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RecordingDisk::new(folder.path()).unwrap());
    let client = client(folder.path(), disk.clone());
    let object = objects().remove(0);
    let body = object.pieces.body(&Gauge::default());
    client
        .put(object.level, object.name, object.created, body)
        .await
        .unwrap();
    client.delete(object.level, &[object.name]).await.unwrap();
    let deleted = disk.operations();
    for point in disk
        .crash_points(MIXTURES)
        .filter(|point| point.operations == deleted)
    {
        assert!(after(&disk, point, object).await.is_none(), "{point:?}");
    }
}

/// Whatever failed before it was said to be deleted.
#[tokio::test]
async fn an_object_that_is_deleted_at_the_second_try_does_not_come_back() {
    let mut failed = 0;
    for n in 1..10 {
        let folder = tempfile::tempdir().unwrap();
        let recorded = Arc::new(RecordingDisk::new(folder.path()).unwrap());
        let disk = Arc::new(FaultDisk::new(recorded.clone()));
        let client = client(folder.path(), disk.clone());
        let object = objects().remove(0);
        let body = object.pieces.body(&Gauge::default());
        let put = client.put(object.level, object.name, object.created, body);
        put.await.unwrap();
        disk.fail_at(n, Fault::Once, EIO);
        let first = client.delete(object.level, &[object.name]).await;
        failed += u32::from(first.is_err());
        if first.is_err() {
            client.delete(object.level, &[object.name]).await.unwrap();
        }
        let deleted = recorded.operations();
        let points = recorded.crash_points(MIXTURES);
        for point in points.filter(|point| point.operations == deleted) {
            let found = after(&recorded, point, object).await;
            assert!(found.is_none(), "operation {n}, {point:?}");
        }
    }
    assert!(failed >= 2, "{failed}: the removal and the sync");
}

/// What a killed process renamed and did not sync must not be listed as stored and then vanish.
#[tokio::test]
async fn what_the_next_process_lists_survives_a_power_cut() {
    let object = objects().remove(0);
    // As a put does it, killed just before the last fsync: of the directory, after the renaming.
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RecordingDisk::new(folder.path()).unwrap());
    let level = folder.path().join("replica/ltx/0");
    disk.create_dir_all(&level, 0o700).unwrap();
    let (temporary, path) = (level.join("temporary"), level.join(object.name.to_string()));
    let file = disk.create_new(&temporary, 0o600).unwrap();
    file.write_at(&object.pieces.content(), 0).unwrap();
    file.set_modified(object.created).unwrap();
    file.sync_all().unwrap();
    disk.rename_noreplace(&temporary, &path).unwrap();
    let now = |point: &CrashPoint| point.operations == disk.operations();
    let mut vanished = 0;
    for point in disk.crash_points(MIXTURES).filter(now) {
        vanished += usize::from(after(&disk, point, object).await.is_none());
    }
    assert!(
        vanished > 0,
        "the canary: without the fsync the object can vanish"
    );

    let next = client(folder.path(), disk.clone());
    assert_eq!(next.list(Level::L0, None).await.unwrap().len(), 1);
    for point in disk
        .crash_points(MIXTURES)
        .filter(|point| point.operations == disk.operations())
    {
        assert_eq!(is_there(&disk, point, object).await, Ok(true), "{point:?}");
    }
}

/// The canary: careless ways of storing a file are caught by the same check.
#[tokio::test]
async fn the_power_cuts_of_these_tests_do_harm() {
    let object = objects().remove(1);
    let careless = |sync_file: bool, rename: bool| async move {
        let folder = tempfile::tempdir().unwrap();
        let disk = RecordingDisk::new(folder.path()).unwrap();
        let level = folder.path().join("replica/ltx/0");
        disk.create_dir_all(&level, 0o700).unwrap();
        let path = level.join(object.name.to_string());
        let first = if rename {
            level.join("temporary")
        } else {
            path.clone()
        };
        let file = disk.create_new(&first, 0o600).unwrap();
        file.write_at(&object.pieces.content(), 0).unwrap();
        file.set_modified(object.created).unwrap();
        if sync_file {
            file.sync_all().unwrap();
        }
        if rename {
            disk.rename(&first, &path).unwrap();
        }
        disk.sync_dir(&level).unwrap();
        let mut torn = 0;
        for point in disk.crash_points(MIXTURES) {
            torn += usize::from(is_there(&disk, point, object).await.is_err());
        }
        torn
    };
    assert!(careless(false, true).await > 0, "renamed without fsync");
    assert!(careless(true, false).await > 0, "written in place");
    assert_eq!(careless(true, true).await, 0);
}

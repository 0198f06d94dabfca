//! Disks that fail, machines that stop, callers that give up.

use std::{
    fs,
    future::Future,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use evertide::{ExistingOutput, RestoreError, restore};
use evertide_storage::{Fault, FaultDisk, OsDisk, RecordingDisk};

use crate::scene::Scene;

const ENOSPC: i32 = 28;

/// Restores with the N-th operation of the output's disk failing, for every N; `check` sees each
/// outcome. Where a database is replaced the next restore leaves nothing else.
async fn fail_each(
    fault: Fault,
    existing: ExistingOutput,
    prepare: impl Fn(&Scene),
    mut check: impl FnMut(&Scene, Result<(), RestoreError>, bool),
) {
    for at in 1.. {
        let scene = Scene::usual().await;
        prepare(&scene);
        let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
        disk.fail_at(at, fault, ENOSPC);
        let mut options = scene.options();
        options.disk = disk.clone();
        options.existing = existing;
        let result = restore(options).await.map(|_| ());
        check(&scene, result, disk.tripped());
        if existing == ExistingOutput::Replace {
            let mut again = scene.options();
            again.existing = existing;
            restore(again).await.unwrap();
            scene.assert_restored();
        }
        if !disk.tripped() {
            assert!(at > 8, "only {at} operations were tried");
            return;
        }
    }
}

#[tokio::test]
async fn a_disk_that_fails_at_any_operation_leaves_nothing_or_a_whole_database() {
    let check = |scene: &Scene, result: Result<(), RestoreError>, tripped: bool| match result {
        Ok(()) => scene.assert_restored(),
        // The last operation makes the name durable: the database is there, and said not to be
        // safe.
        Err(_) if scene.left() == ["app.db"] => scene.assert_restored(),
        Err(error) => {
            assert!(tripped, "{error}");
            scene.assert_nothing_left();
        }
    };
    fail_each(Fault::Once, ExistingOutput::Refuse, |_| {}, check).await;
}

#[tokio::test]
async fn a_disk_that_stays_full_is_never_a_success() {
    let check = |scene: &Scene, result: Result<(), RestoreError>, tripped: bool| {
        if result.is_ok() {
            // Who the file belongs to is the one thing that may fail.
            scene.assert_restored();
        } else {
            assert!(tripped);
            assert!(
                !scene.output().exists() || fs::read(scene.output()).unwrap() == scene.expected
            );
        }
    };
    fail_each(Fault::Forever, ExistingOutput::Refuse, |_| {}, check).await;
}

/// A database with its WAL and its wal-index, to be replaced.
fn put_an_old_database(scene: &Scene) {
    for suffix in ["", "-wal", "-shm"] {
        let path = scene.out().join(format!("app.db{suffix}"));
        fs::write(path, format!("old{suffix}")).unwrap();
    }
}

#[tokio::test]
async fn a_disk_that_fails_while_a_database_is_replaced_leaves_the_old_or_the_new_one() {
    let check = |scene: &Scene, result: Result<(), RestoreError>, _: bool| {
        let content = fs::read(scene.output()).unwrap();
        let wal = fs::read(scene.out().join("app.db-wal")).ok();
        if content == scene.expected {
            assert_eq!(
                wal, None,
                "the journal of the old database lies beside the new one"
            );
        } else {
            assert!(result.is_err());
            assert_eq!(content, b"old");
            assert_eq!(wal.as_deref(), Some(b"old-wal".as_slice()));
            assert_eq!(scene.left(), ["app.db", "app.db-shm", "app.db-wal"]);
        }
    };
    let prepare = put_an_old_database;
    fail_each(Fault::Once, ExistingOutput::Replace, prepare, check).await;
}

/// What the old database had beside it cannot be put back any more, where it was set aside; it is all there.
#[tokio::test]
async fn a_disk_that_dies_while_a_database_is_replaced_leaves_all_of_the_old_or_the_new_one() {
    let (mut old, mut aside, mut new) = (0, 0, 0);
    let check = |scene: &Scene, result: Result<(), RestoreError>, tripped: bool| {
        let mut left = scene.left();
        // Cannot be deleted any more, either.
        left.retain(|name| !name.contains(".restoring-"));
        let content = |name: &String| fs::read(scene.out().join(name)).unwrap();
        let hidden = |name: &&String| name.contains(".replaced-");
        let set_aside: Vec<Vec<u8>> = left.iter().filter(hidden).map(content).collect();
        left.retain(|name| !hidden(&name));
        if fs::read(scene.output()).unwrap() == scene.expected {
            new += 1;
            assert_eq!(left, ["app.db"], "a journal beside the new database");
            if !tripped {
                scene.assert_restored();
            }
            return;
        }
        assert!(result.is_err() && tripped);
        let mut whole: Vec<Vec<u8>> = left.iter().map(content).chain(set_aside.clone()).collect();
        whole.sort();
        assert_eq!(whole, [&b"old"[..], b"old-shm", b"old-wal"], "{left:?}");
        *if set_aside.is_empty() {
            &mut old
        } else {
            &mut aside
        } += 1;
    };
    let prepare = put_an_old_database;
    fail_each(Fault::Forever, ExistingOutput::Replace, prepare, check).await;
    assert!(old > 0 && aside > 0 && new > 0, "{old}, {aside}, {new}");
}

#[tokio::test]
async fn room_for_the_database_is_taken_before_anything_is_written_and_too_little_is_said_then() {
    let scene = Scene::usual().await;
    let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
    let mut options = scene.options();
    options.disk = disk.clone();
    restore(options.clone()).await.unwrap();
    scene.assert_restored();
    fs::remove_file(scene.output()).unwrap();
    let log = disk.log();
    let at = |name| log.iter().position(|op| *op == name);
    let (allocated, written) = (at("allocate").unwrap(), at("write_at").unwrap());
    assert!(allocated < written, "{log:?}");

    disk.fail_at(allocated as u64 + 1, Fault::Once, ENOSPC);
    let error = restore(options).await.unwrap_err().to_string();
    assert!(disk.tripped() && error.contains("No space left"), "{error}");
    assert!(!disk.log().contains(&"write_at"), "{:?}", disk.log());
    scene.assert_nothing_left();
}

/// What a machine finds in the folder after a power cut: the output, and the journal beside it.
fn found(folder: &Path) -> (Option<Vec<u8>>, bool) {
    (
        fs::read(folder.join("app.db")).ok(),
        folder.join("app.db-wal").exists(),
    )
}

#[tokio::test]
async fn after_a_power_cut_there_is_a_whole_database_or_none() {
    for existing in [ExistingOutput::Refuse, ExistingOutput::Replace] {
        let scene = Scene::usual().await;
        if existing == ExistingOutput::Replace {
            fs::write(scene.output(), "old").unwrap();
            fs::write(scene.out().join("app.db-wal"), "old").unwrap();
        }
        let disk = Arc::new(RecordingDisk::new(&scene.out()).unwrap());
        let mut options = scene.options();
        options.disk = disk.clone();
        options.existing = existing;
        restore(options).await.unwrap();
        let mut seen = [0, 0];
        for point in disk.crash_points(20) {
            let after = tempfile::tempdir().unwrap();
            disk.replay(point, after.path()).unwrap();
            match found(after.path()) {
                (Some(content), journal) if content == scene.expected => {
                    assert!(
                        !journal,
                        "{point:?}: an old journal, {:#?}",
                        disk.describe()
                    );
                    seen[0] += 1;
                }
                (Some(content), _) => {
                    assert_eq!(content, b"old", "{point:?}: {:#?}", disk.describe());
                    seen[1] += 1;
                }
                (None, _) => {
                    assert_eq!(
                        existing,
                        ExistingOutput::Refuse,
                        "{point:?}: the old one is gone"
                    );
                    seen[1] += 1;
                }
            }
        }
        assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
        // Once it is reported, it stays, whatever becomes of what was not synced.
        let done = disk.operations();
        for end in disk.crash_points(20).filter(|p| p.operations == done) {
            let after = tempfile::tempdir().unwrap();
            disk.replay(end, after.path()).unwrap();
            let content = found(after.path()).0;
            assert!(
                content.is_some_and(|content| content == scene.expected),
                "{end:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_restore_that_nobody_waits_for_leaves_nothing() {
    // Given up after the N-th step forward, until one is complete before.
    let mut complete = false;
    for give_up in 0..200 {
        let scene = Scene::large().await;
        let steps = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&steps);
        let options = scene.options().on_progress(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let mut restore = Box::pin(restore(options));
        let done = loop {
            match restore
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
            {
                Poll::Ready(result) => break Some(result),
                Poll::Pending if steps.load(Ordering::SeqCst) >= give_up => break None,
                Poll::Pending => tokio::time::sleep(Duration::from_micros(200)).await,
            }
        };
        drop(restore);
        if let Some(result) = done {
            result.unwrap();
            scene.assert_restored();
            complete = true;
            break;
        }
        // At once, or complete where it was just about to be: never anything else, now or later.
        for wait in [0, 50] {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            if !scene.left().is_empty() {
                scene.assert_restored();
            }
        }
    }
    assert!(complete);
}

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
/// outcome.
async fn fail_each(
    fault: Fault,
    existing: ExistingOutput,
    prepare: impl Fn(&Scene),
    check: impl Fn(&Scene, Result<(), RestoreError>, bool),
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

#[tokio::test]
async fn a_disk_that_fails_while_a_database_is_replaced_leaves_the_old_or_the_new_one() {
    let prepare = |scene: &Scene| {
        for suffix in ["", "-wal", "-shm"] {
            fs::write(
                scene.out().join(format!("app.db{suffix}")),
                format!("old{suffix}"),
            )
            .unwrap();
        }
    };
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
    fail_each(Fault::Once, ExistingOutput::Replace, prepare, check).await;
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

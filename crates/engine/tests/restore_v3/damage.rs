//! Whatever is wrong with the files of Litestream 0.3 is an error that names the file, and never an
//! older database in silence.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use evertide::{RestoreError, RestoreOptions, RestoreTarget};
use evertide_storage::{Fault, FaultClient, FaultDisk, OsDisk, ReadFault, failing_runs};
use tempfile::TempDir;

use crate::{
    golden::folder,
    scene::{connect, copy, files, restore},
};

/// A copy of the golden replica, and its files: those of the last generation, snapshot first.
pub(crate) fn copied() -> (TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let replica = dir.path().join("replica");
    copy(&folder().join("replica"), &replica);
    crate::golden::set_times(&replica);
    let generation = crate::golden::last_generation();
    let mut files = files(&replica.join("generations").join(generation));
    // With its first snapshot alone, every file is needed.
    files.retain(|file| {
        let later = name(file).ends_with(".snapshot.lz4") && !name(file).starts_with("00000000");
        if later {
            fs::remove_file(file).unwrap();
        }
        !later
    });
    (dir, files)
}

async fn refused(dir: &Path, what: &str) -> RestoreError {
    let output = dir.join("out.db");
    let done = restore(&dir.join("replica"), &output, RestoreTarget::Latest).await;
    assert!(!output.exists(), "{what}: there is a database");
    let error = done.map(|_| ()).expect_err(what);
    let others = fs::read_dir(dir).unwrap().count();
    assert_eq!(others, 1, "{what}: something stays behind");
    error
}

/// The snapshot, the first segment, the last one, and some between.
fn some<'f>(files: &'f [PathBuf], random: &mut fastrand::Rng) -> Vec<&'f PathBuf> {
    let mut some = vec![&files[0], &files[1], &files[files.len() - 1]];
    some.extend((0..4).map(|_| &files[random.usize(2..files.len() - 1)]));
    some
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[tokio::test]
async fn a_flipped_bit_in_any_file_is_never_restored_and_the_file_is_named() {
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let (dir, files) = copied();
    let expected = fs::read(folder().join("restored.db")).unwrap();
    for file in some(&files, &mut random) {
        let good = fs::read(file).unwrap();
        // Magic number, flags, sizes; the end mark and the checksum; content.
        let fixed = [0, 4, 5, 6, 7, 11];
        let from_end = [1, 4, 5, 8].map(|n| good.len() - n);
        let anywhere = [(); 3].map(|()| random.usize(..good.len()));
        for place in fixed.into_iter().chain(from_end).chain(anywhere) {
            let bit = 1 << random.u8(..8);
            let mut bad = good.clone();
            bad[place] ^= bit;
            fs::write(file, bad).unwrap();
            crate::golden::set_times(&dir.path().join("replica"));
            let what = format!("bit {bit:#x} of byte {place} of {}", name(file));
            let output = dir.path().join("out.db");
            let replica = dir.path().join("replica");
            match restore(&replica, &output, RestoreTarget::Latest).await {
                // LZ4 has bits that mean nothing.
                Ok(_) => {
                    assert!(fs::read(&output).unwrap() == expected, "{what}");
                    fs::remove_file(&output).unwrap();
                }
                Err(error) => {
                    assert!(!output.exists(), "{what}");
                    assert!(error.to_string().contains(&name(file)), "{what}: {error}");
                }
            }
        }
        fs::write(file, good).unwrap();
    }
}

#[tokio::test]
async fn a_missing_segment_is_a_gap_that_is_named() {
    let (dir, files) = copied();
    crate::golden::set_times(&dir.path().join("replica"));
    let mut named = 0;
    for (number, file) in files.iter().enumerate().step_by(2) {
        let good = fs::read(file).unwrap();
        fs::remove_file(file).unwrap();
        let is_last = number + 1 == files.len();
        // The last segment of a WAL file that another one follows, when it ended with a commit.
        let index = |path: &Path| name(path)[..8].to_owned();
        let ends_index = files
            .get(number + 1)
            .is_some_and(|next| index(next) != index(file));
        if !is_last && !ends_index {
            let error = refused(dir.path(), &name(file)).await;
            let text = error.to_string();
            assert!(
                text.contains(&name(file)) || text.contains("snapshot"),
                "{text}"
            );
            named += 1;
        }
        fs::write(file, good).unwrap();
        crate::golden::set_times(&dir.path().join("replica"));
    }
    assert!(named > 3, "{named}");
}

#[tokio::test]
async fn a_file_cut_anywhere_is_refused() {
    let (dir, files) = copied();
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    for file in some(&files, &mut random) {
        let good = fs::read(file).unwrap();
        for len in [0, 7, good.len() / 2, good.len() - 8, good.len() - 1] {
            fs::write(file, &good[..len]).unwrap();
            crate::golden::set_times(&dir.path().join("replica"));
            let error = refused(dir.path(), &format!("{len} bytes of {}", name(file))).await;
            assert!(error.to_string().contains(&name(file)), "{error}");
        }
        fs::write(file, good).unwrap();
    }
}

#[tokio::test]
async fn a_wal_file_of_another_generation_does_not_fit() {
    let (dir, files_of_last) = copied();
    let replica = dir.path().join("replica");
    let all = files(&replica);
    let foreign = all
        .iter()
        .find(|file| !files_of_last.contains(file) && name(file).starts_with("00000001_00000000"))
        .expect("the golden replica has two generations with two WAL files");
    let own = files_of_last
        .iter()
        .find(|file| name(file).starts_with("00000001_00000000"))
        .expect("a second WAL file");
    fs::copy(foreign, own).unwrap();
    crate::golden::set_times(&replica);
    let error = refused(dir.path(), "another generation").await;
    assert!(error.to_string().contains("salt"), "{error}");
    assert!(error.to_string().contains("00000001_00000000"), "{error}");
}

/// The same with the first few of its files, and what is restored from them: quick to restore again and again.
async fn copied_few() -> (TempDir, Vec<u8>) {
    let (dir, files) = copied();
    for file in &files[8..] {
        fs::remove_file(file).unwrap();
    }
    let output = dir.path().join("out.db");
    let replica = dir.path().join("replica");
    restore(&replica, &output, RestoreTarget::Latest)
        .await
        .unwrap();
    let restored = fs::read(&output).unwrap();
    fs::remove_file(output).unwrap();
    (dir, restored)
}

/// Whatever is beside the replica.
fn remove_others(dir: &Path) {
    let entries = fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    for path in paths.filter(|path| !path.is_dir()) {
        fs::remove_file(path).unwrap();
    }
}

/// Restores on a disk of which the N-th operation fails, for every N, and then on the mended one.
async fn each_operation_fails(dir: &Path, expected: &[u8], lasts: Fault) {
    const ENOSPC: i32 = 28;
    let output = dir.join("out.db");
    for at in 1.. {
        let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
        disk.fail_at(at, lasts, ENOSPC);
        let mut options = RestoreOptions::new(connect(&dir.join("replica")), &output);
        options.disk = disk.clone();
        let done = evertide::restore(options.clone()).await;
        // The last operation makes the name durable: then the database is there, and not reported.
        assert!(done.is_ok() || disk.tripped(), "{done:?}");
        if output.exists() {
            assert!(fs::read(&output).unwrap() == expected, "operation {at}");
            fs::remove_file(&output).unwrap();
        } else {
            let error = done.unwrap_err().to_string();
            let named = error.contains(&dir.display().to_string());
            assert!(named, "operation {at}: {error}");
        }
        // What was begun cannot be removed from a disk that stays dead.
        let left = fs::read_dir(dir).unwrap().count();
        let most = if lasts == Fault::Once { 1 } else { 2 };
        assert!(left <= most, "operation {at} leaves something");
        if !disk.tripped() {
            assert!(at > 20, "only {at} operations were tried");
            return;
        }
        if lasts == Fault::Forever {
            disk.heal();
            evertide::restore(options).await.unwrap();
            assert!(fs::read(&output).unwrap() == expected, "operation {at}");
            remove_others(dir);
        }
    }
}

#[tokio::test]
async fn a_disk_that_fails_while_old_files_are_restored_leaves_nothing_or_a_whole_database() {
    let (dir, _) = copied();
    let expected = fs::read(folder().join("restored.db")).unwrap();
    each_operation_fails(dir.path(), &expected, Fault::Once).await;
}

#[tokio::test]
async fn a_disk_that_stays_dead_while_old_files_are_restored_is_named_and_the_mended_one_works() {
    let (dir, expected) = copied_few().await;
    each_operation_fails(dir.path(), &expected, Fault::Forever).await;
}

/// Whether a restore came to the N-th read of a file.
async fn read_fails(
    replica: &Path,
    expected: &[u8],
    (n, how, lasts): (u64, ReadFault, Fault),
) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.db");
    let client = Arc::new(FaultClient::new(connect(replica)));
    client.fail_read_at(n, how, lasts);
    let options = RestoreOptions::new(client.clone(), &output);
    let done = evertide::restore(options.clone()).await;
    if let Err(error) = &done {
        assert_eq!(lasts, Fault::Forever, "read {n} {how:?}: {error}");
        let text = error.to_string();
        assert!(client.is_named_in(&text), "read {n} {how:?}: {text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "read {n}");
        client.heal();
        evertide::restore(options).await.unwrap();
    }
    assert!(fs::read(&output).unwrap() == expected, "read {n} {how:?}");
    assert!(done.is_err() || lasts == Fault::Once || !client.tripped());
    client.tripped()
}

#[tokio::test]
async fn whichever_read_of_an_old_file_fails_a_restore_is_whole_or_names_the_file() {
    let (dir, expected) = copied_few().await;
    let replica = dir.path().join("replica");
    let first = evertide_testkit::seed() % 3;
    for lasts in [Fault::Once, Fault::Forever] {
        let how = |n| ReadFault::ALL[((first + n) % 3) as usize];
        let run = |n| read_fails(&replica, &expected, (n, how(n), lasts));
        let reads = failing_runs(4, run).await;
        assert!(reads >= 8, "only {reads} reads");
    }
}

#[tokio::test]
async fn a_restore_of_old_files_that_nobody_waits_for_leaves_nothing() {
    let (dir, _) = copied();
    let output = dir.path().join("out.db");
    for micros in [0, 100, 500, 2_000, 8_000, 20_000, 50_000] {
        let options = RestoreOptions::new(connect(&dir.path().join("replica")), &output);
        let restore = evertide::restore(options);
        let _ = tokio::time::timeout(Duration::from_micros(micros), restore).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        if output.exists() {
            let expected = fs::read(folder().join("restored.db")).unwrap();
            assert!(fs::read(&output).unwrap() == expected);
            fs::remove_file(&output).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{micros} µs");
    }
}

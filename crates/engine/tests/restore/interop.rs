//! Replicas of the official Litestream.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use evertide::{IntegrityCheck, RestoreOptions, restore};
use evertide_testkit::{
    AutoVacuum, DatabaseOptions, Writer, WriterOptions, assert_same_database, create_database,
    litestream_command, restore_with_litestream,
};

use crate::scene::connect;

async fn restored(replica: &Path, output: PathBuf) {
    let mut options = RestoreOptions::new(connect(replica), output);
    options.integrity_check = IntegrityCheck::Full;
    restore(options).await.unwrap();
}

/// Has Litestream replicate a database while it is written to, compact, and take snapshots.
fn replicate(dir: &Path, page_size: u32, seed: u64) -> (PathBuf, PathBuf) {
    let (db, replica) = (dir.join("app.db"), dir.join("replica"));
    let options = DatabaseOptions {
        page_size,
        auto_vacuum: AutoVacuum::Full,
    };
    create_database(&db, options).unwrap();
    let config = dir.join("litestream.yml");
    let settings = format!(
        "levels:\n  - interval: 1s\n  - interval: 3s\nsnapshot:\n  interval: 2s\ndbs:\n  \
         - path: {}\n    monitor-interval: 50ms\n    replica:\n      path: {}\n      \
         sync-interval: 50ms\n",
        db.display(),
        replica.display(),
    );
    fs::write(&config, settings).unwrap();
    let log = fs::File::create(dir.join("litestream.log")).unwrap();
    let mut litestream = litestream_command()
        .args(["replicate", "-config"])
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut writer = Writer::open(&db, WriterOptions::seeded(seed)).unwrap();
    for _ in 0..25 {
        writer.run_steps(8).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(writer);
    std::thread::sleep(Duration::from_millis(500));
    // Litestream writes what is left when it is interrupted.
    let id = litestream.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    litestream.wait().unwrap();
    (db, replica)
}

#[tokio::test]
async fn what_litestream_replicated_is_restored_as_litestream_does() {
    let seed = evertide_testkit::seed();
    let sizes = [512, 4096, 65536].map(|page_size| {
        tokio::task::spawn_blocking(move || {
            let dir = evertide_testkit::temp_dir();
            let (db, replica) = replicate(dir.path(), page_size, seed);
            (dir, db, replica)
        })
    });
    for size in sizes {
        let (dir, db, replica) = size.await.unwrap();
        let levels = fs::read_dir(replica.join("ltx")).unwrap().count();
        assert!(levels > 2, "Litestream has compacted");
        let (ours, theirs) = (dir.path().join("ours.db"), dir.path().join("theirs.db"));
        restored(&replica, ours.clone()).await;
        restore_with_litestream(&replica, &theirs);
        assert!(
            fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(),
            "another content"
        );
        assert_same_database(&db, &ours);
    }
}

#[tokio::test]
async fn replicas_of_several_versions_of_litestream_are_restored_as_they_do() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ltx/tests/golden");
    for folder in ["512", "4096", "65536", "frames512", "frames65536"] {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("app.db");
        restored(&golden.join(folder), output.clone()).await;
        let expected = fs::read(golden.join(folder).join("restored.db")).unwrap();
        assert!(fs::read(&output).unwrap() == expected, "{folder}");
    }
}

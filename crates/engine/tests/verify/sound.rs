//! Nothing is wrong with what the real programs write, and verification says so.

use std::{fs, path::Path, time::Duration};

use evertide::{Durability, RestoreOptions, restore};
use evertide_ltx::{Checksum, Pgno};
use evertide_testkit::{Writer, WriterOptions, create_database};

use crate::{
    connect, objects,
    replicas::{of_evertide, of_litestream, replication},
    verified,
};

/// The replica is sound, without a word, and the database that it says is the one it restores.
async fn assert_sound(replica: &Path) {
    let report = verified(replica).await;
    assert_eq!(report.findings, [], "{}", replica.display());
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("restored.db");
    let restored = restore(RestoreOptions::new(connect(replica), &output)).await;
    let restored = restored.unwrap();
    assert_eq!(report.txid, restored.txid);
    assert_eq!(report.created, restored.created);
    assert_eq!(
        (report.page_size, report.pages),
        (Some(restored.page_size), restored.pages)
    );
    let content = fs::read(&output).unwrap();
    let pages = content.chunks(restored.page_size.len()).zip(1..);
    let checksum = pages
        .filter(|(_, number)| *number != restored.page_size.lock_page().get())
        .fold(Checksum::EMPTY, |sum, (page, number)| {
            sum.toggle(Checksum::page(Pgno::new(number).unwrap(), page))
        });
    assert_eq!(report.database_checksum, Some(checksum.get()));
    let files = objects(replica);
    assert_eq!(report.files, files.len() as u64);
    let bytes = files
        .iter()
        .map(|file| fs::metadata(&file.2).unwrap().len());
    assert_eq!(report.bytes, bytes.sum::<u64>());
}

#[tokio::test]
async fn a_replica_of_the_engine_is_sound() {
    assert_sound(&of_evertide().await.replica).await;
}

#[tokio::test]
async fn a_replica_of_the_engine_is_sound_whatever_the_application_does() {
    let seed = evertide_testkit::seed();
    let dir = tempfile::tempdir().unwrap();
    let (db, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
    create_database(&db, evertide_testkit::DatabaseOptions::default()).unwrap();
    for restart in 0..3 {
        let backup = replication(&db, &replica);
        backup.start().await.unwrap();
        let mut writer = Writer::open(&db, WriterOptions::seeded(seed + restart)).unwrap();
        for _ in 0..15 {
            writer.run_steps(6).unwrap();
            backup.wait_durable(Durability::All).await.unwrap();
        }
        backup.stop(Duration::from_secs(60)).await.unwrap();
        // Nobody watches these: the next start has to find what they changed.
        writer.run_steps(10).unwrap();
    }
    assert_sound(&replica).await;
}

#[tokio::test]
async fn a_replica_of_litestream_with_levels_and_snapshots_is_sound() {
    let seed = evertide_testkit::seed();
    let sizes = [512, 4096, 65536]
        .map(|page_size| tokio::task::spawn_blocking(move || of_litestream(page_size, seed, 25)));
    for scene in sizes {
        let scene = scene.await.unwrap();
        let levels = fs::read_dir(scene.replica.join("ltx")).unwrap().count();
        assert!(levels > 2, "Litestream has compacted");
        assert_sound(&scene.replica).await;
    }
}

#[tokio::test]
async fn replicas_of_several_versions_of_litestream_are_sound() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ltx/tests/golden");
    for folder in ["512", "4096", "65536", "frames512", "frames65536"] {
        let report = verified(&golden.join(folder)).await;
        // The version that wrote these took its first snapshot of a later state than the name says.
        let known: &[&str] = match folder {
            "frames512" | "frames65536" => &["0000000000000001-0000000000000001.ltx on level 9"],
            _ => &[],
        };
        let objects: Vec<_> = report.problems().map(|found| &found.object).collect();
        assert_eq!(objects, known, "{folder}: {:?}", report.findings);
    }
}

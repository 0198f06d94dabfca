//! What drills find out about a replica.

use std::{fs, path::Path, time::SystemTime};

use evertide::{
    DatabaseStatus, DrillFailureKind, ReplicaStatus, VerifyDepth, VerifyOptions, verify,
};
use evertide_ltx::{Decoder, Encoder};
use evertide_storage::{Destination, OsDisk};
use evertide_testkit::{Writer, WriterOptions, assert_same_database, restore_with_litestream};

use crate::scene::{Scene, drill, durable, logged, snapshots, stop, until, until_status};

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_can_be_restored_is_proven_with_its_transaction_and_time() {
    let scene = Scene::new();
    let begun = SystemTime::now();
    let backup = scene.start(scene.options()).await;
    scene.commit(&backup).await;
    let newest = backup.status().txid;
    let of_newest = until(&backup, |drill| {
        let proven = drill.proven.filter(|proof| proof.compared);
        proven.is_some_and(|proof| proof.txid == newest)
    });
    let proof = of_newest.await.proven.unwrap();
    assert!(begun <= proof.at && proof.at <= SystemTime::now());
    assert_eq!(Some(proof.captured), backup.status().captured);
    stop(&backup).await;
    scene.nothing_is_left();
    assert_eq!(backup.status().replicas[0].drill.failure, None);

    let replica = Destination::file(&scene.replica).unwrap();
    let mut options = VerifyOptions::new(replica.connect(std::sync::Arc::new(OsDisk)).unwrap());
    options.depth = VerifyDepth::Restore;
    let report = verify(options).await.unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(report.database_checksum, Some(proof.database_checksum));
    assert_eq!(
        report.restored.unwrap().database_bytes,
        proof.database_bytes
    );
    // The official program does not mind the proof beside the files.
    assert!(scene.replica.join("evertide/drill").exists());
    let output = scene.drills.join("restored.db");
    restore_with_litestream(&scene.replica, &output);
    assert_same_database(&scene.db, &output);
}

/// Flips the last bit of a file; gives what it was before.
fn damage(path: &Path) -> Vec<u8> {
    let good = fs::read(path).unwrap();
    let mut damaged = good.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    fs::write(path, damaged).unwrap();
    good
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_replica_is_reported_loudly_and_the_next_good_drill_clears_it() {
    let scene = Scene::new();
    let backup = scene.start(scene.options()).await;
    durable(&backup).await;
    let proven = until(&backup, |drill| drill.proven.is_some()).await;
    let snapshot = snapshots(&scene.replica).remove(0);
    let good = damage(&snapshot);
    let first = until(&backup, |drill| drill.failure.is_some()).await;
    let failure = first.failure.unwrap();
    assert_eq!(failure.kind, DrillFailureKind::Unsound);
    assert!(failure.problem.contains("is damaged"), "{failure:?}");
    assert!(failure.problem.contains("evertide verify"), "{failure:?}");
    let still = until(&backup, |drill| drill.failures >= first.failures + 2).await;
    let again = still.failure.unwrap();
    assert_eq!(again.since, failure.since);
    assert!(again.at >= failure.at);
    assert_eq!(still.proven.unwrap().txid, proven.proven.unwrap().txid);
    let shown = scene.db.display().to_string();
    let loud = |line: &str| line.contains(" ERROR ") && line.contains(&shown);
    assert!(
        logged()
            .lines()
            .any(|line| loud(line) && line.contains("a drill"))
    );
    // Uploads do not mind.
    assert_eq!(backup.status().replicas[0].error, None);
    scene.commit(&backup).await;

    fs::write(&snapshot, good).unwrap();
    let cleared = until(&backup, |drill| drill.failure.is_none()).await;
    assert!(cleared.proven.unwrap().at > again.at);
    stop(&backup).await;
    scene.nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_replica_of_a_database_is_drilled_and_only_the_damaged_one_fails() {
    let scene = Scene::new();
    let other = scene.drills.with_file_name("other");
    let mut options = scene.options();
    options.name = "other".into();
    options.destination = Destination::file(&other).unwrap();
    let builder = scene.builder(scene.options()).replica(options);
    let backup = builder.build().unwrap();
    backup.start().await.unwrap();
    scene.commit(&backup).await;
    let newest = backup.status().txid;
    let all = |status: &DatabaseStatus| {
        let proven = |replica: &ReplicaStatus| {
            let proof = replica.drill.proven;
            proof.is_some_and(|proof| proof.txid == newest && proof.compared)
        };
        status.replicas.len() == 2 && status.replicas.iter().all(proven)
    };
    until_status(&backup, all).await;

    let good = damage(&snapshots(&other)[0]);
    let failed = until_status(&backup, |status| status.replicas[1].drill.failures > 1).await;
    let failure = failed.replicas[1].drill.failure.clone().unwrap();
    assert_eq!(failure.kind, DrillFailureKind::Unsound);
    // The other one is none the worse.
    let proofs = failed.replicas[0].drill.proofs;
    let still = until_status(&backup, |status| {
        status.replicas[0].drill.proofs > proofs + 1
    })
    .await;
    assert_eq!(still.replicas[0].drill.failure, None);
    assert_eq!(still.replicas[0].drill.failures, 0);

    fs::write(&snapshots(&other)[0], good).unwrap();
    until_status(&backup, |status| status.replicas[1].drill.failure.is_none()).await;
    stop(&backup).await;
    scene.nothing_is_left();
}

/// Changes a page of a file, and makes all its checksums right again.
fn forge(path: &Path) {
    let content = fs::read(path).unwrap();
    let mut decoder = Decoder::new(&content[..]).unwrap();
    let mut encoder = Encoder::new(Vec::new(), decoder.header().clone()).unwrap();
    let mut page = vec![0; decoder.header().page_size.len()];
    while let Some(pgno) = decoder.decode_page(&mut page).unwrap() {
        // The content of a blob: SQLite finds nothing wrong with it.
        if pgno.get() == 5 {
            page[2_000] ^= 1;
        }
        encoder.encode_page(pgno, &page).unwrap();
    }
    fs::write(path, encoder.finish().unwrap().0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_what_was_captured_is_found_though_every_file_is_intact() {
    for restarted in [false, true] {
        let scene = Scene::new();
        let mut options = scene.options();
        if restarted {
            options.drill_interval = None;
            options.drill_directory = None;
        }
        let backup = scene.start(options).await;
        durable(&backup).await;
        // Of the newest file replication would notice by itself that it is not its own.
        scene.commit(&backup).await;
        let backup = if restarted {
            stop(&backup).await;
            forge(&snapshots(&scene.replica)[0]);
            scene.start(scene.options()).await
        } else {
            until(&backup, |drill| {
                drill.proven.is_some_and(|proof| proof.compared)
            })
            .await;
            forge(&snapshots(&scene.replica)[0]);
            backup
        };
        let failure = until(&backup, |drill| drill.failure.is_some())
            .await
            .failure;
        let failure = failure.unwrap();
        assert_eq!(failure.kind, DrillFailureKind::Unsound);
        assert!(failure.problem.contains("was captured with"), "{failure:?}");
        stop(&backup).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_drill_from_being_made_is_not_taken_for_damage() {
    let scene = Scene::new();
    let mut options = scene.options();
    options.drill_directory = Some(scene.drills.join("missing"));
    let backup = scene.start(options).await;
    durable(&backup).await;
    let failure = until(&backup, |drill| drill.failure.is_some())
        .await
        .failure;
    let failure = failure.unwrap();
    assert_eq!(failure.kind, DrillFailureKind::Unfinished);
    assert!(failure.problem.contains("drill_directory"), "{failure:?}");
    stop(&backup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drills_beside_compaction_and_retention_accuse_nobody_and_are_not_accused() {
    let seed = evertide_testkit::seed();
    let scene = Scene::new();
    let ms = std::time::Duration::from_millis;
    let mut options = scene.options();
    options.levels = vec![ms(40), ms(120), ms(300)];
    options.level_0_retention = ms(30);
    options.snapshot_interval = ms(200);
    options.retention = Some(ms(50));
    options.retention_check_interval = ms(20);
    options.drill_interval = Some(ms(1));
    let backup = scene.start(options).await;
    let mut writer = Writer::open(&scene.db, WriterOptions::seeded(seed)).unwrap();
    let deleted = |maintained: u64| maintained > 30;
    loop {
        writer.run_steps(3).unwrap();
        durable(&backup).await;
        let status = backup.status();
        let replica = &status.replicas[0];
        assert_eq!(replica.maintenance_error, None);
        if let Some(failure) = &drill(&status).failure {
            assert_eq!(failure.kind, DrillFailureKind::Unfinished, "{failure:?}");
        }
        if deleted(replica.maintained.deleted) && replica.drill.proofs > 5 {
            break;
        }
    }
    let newest = backup.status().txid;
    until(&backup, |drill| {
        drill.proven.is_some_and(|proof| proof.txid >= newest)
    })
    .await;
    stop(&backup).await;
    scene.nothing_is_left();
}

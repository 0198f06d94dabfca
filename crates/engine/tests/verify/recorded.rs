//! Checksums recorded when the database was captured, beside the files that make it again.

use std::{fs, path::Path, sync::Arc, time::Duration};

use evertide::{Durability, FindingKind};
use evertide_ltx::{Decoder, Encoder};
use evertide_storage::{CountingClient, ReplicaClient, SmallKey};
use evertide_testkit::{
    DatabaseOptions, Writer, WriterOptions, assert_same_database, create_database,
    litestream_command, replica_url, restore_with_litestream,
};
use rusqlite::Connection;

use crate::{
    connect, objects,
    replicas::{of_evertide, replication},
    verified,
};

fn record(replica: &Path) -> std::path::PathBuf {
    replica.join("evertide/checksums")
}

fn lines(replica: &Path) -> Vec<String> {
    let text = fs::read_to_string(record(replica)).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_newest_state_is_proven_after_an_orderly_stop() {
    let scene = of_evertide().await;
    let report = verified(&scene.replica).await;
    assert_eq!(report.findings, []);
    let newest = format!("{} ms ", report.txid);
    let lines = lines(&scene.replica);
    assert!(lines[lines.len() - 2].starts_with(&newest), "{lines:?}");
    assert!(report.proven >= 1, "{report:?}");
}

#[tokio::test]
async fn states_are_proven_whatever_the_application_does() {
    let seed = evertide_testkit::seed();
    let dir = tempfile::tempdir().unwrap();
    let (db, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
    create_database(&db, DatabaseOptions::default()).unwrap();
    for restart in 0..4 {
        let backup = replication(&db, &replica);
        backup.start().await.unwrap();
        let mut writer = Writer::open(&db, WriterOptions::seeded(seed + restart)).unwrap();
        for _ in 0..8 {
            writer.run_steps(6).unwrap();
            backup.wait_durable(Durability::All).await.unwrap();
        }
        backup.stop(Duration::from_secs(60)).await.unwrap();
        let report = verified(&replica).await;
        assert_eq!(report.findings, [], "after start {restart}");
        assert!(report.proven >= 1, "{report:?}");
        // Nobody watches these.
        writer.run_steps(10).unwrap();
    }
}

/// Changes a page of a file, and makes all its checksums right again.
fn forge(path: &Path) {
    let content = fs::read(path).unwrap();
    let mut decoder = Decoder::new(&content[..]).unwrap();
    let mut encoder = Encoder::new(Vec::new(), decoder.header().clone()).unwrap();
    let mut page = vec![0; decoder.header().page_size.len()];
    while let Some(pgno) = decoder.decode_page(&mut page).unwrap() {
        if pgno.get() == 2 {
            page[200] ^= 1;
        }
        encoder.encode_page(pgno, &page).unwrap();
    }
    fs::write(path, encoder.finish().unwrap().0).unwrap();
}

#[tokio::test]
async fn a_state_that_is_not_what_was_captured_is_found_though_every_file_is_intact() {
    let scene = of_evertide().await;
    let files = objects(&scene.replica);
    let newest = files.iter().map(|file| file.1.max).max().unwrap();
    // There may be a compacted file by now, too.
    for (_, _, path) in files.iter().filter(|file| file.1.max == newest) {
        let times = fs::metadata(path).unwrap().modified().unwrap();
        forge(path);
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(times).unwrap();
    }
    let report = verified(&scene.replica).await;
    let kinds: Vec<_> = report.findings.iter().map(|found| found.kind).collect();
    assert_eq!(kinds, [FindingKind::Checksum], "{:?}", report.findings);
    // Records of another history say nothing about this one.
    let text = fs::read_to_string(record(&scene.replica)).unwrap();
    let foreign = text.replace(" ms 1", " ms 2");
    assert_ne!(text, foreign);
    fs::write(record(&scene.replica), foreign).unwrap();
    let report = verified(&scene.replica).await;
    let kinds: Vec<_> = report.findings.iter().map(|found| found.kind).collect();
    assert_eq!(
        kinds,
        [FindingKind::Record],
        "its own checksum does not match"
    );
    assert!(report.is_sound());
    fs::remove_file(record(&scene.replica)).unwrap();
    assert_eq!(verified(&scene.replica).await.findings, []);
}

#[tokio::test]
async fn a_damaged_record_is_noticed_and_written_anew() {
    let scene = of_evertide().await;
    fs::write(record(&scene.replica), "evertide checksums 1\n").unwrap();
    let report = verified(&scene.replica).await;
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].kind, FindingKind::Record);
    let conn = Connection::open(&scene.db).unwrap();
    let backup = replication(&scene.db, &scene.replica);
    backup.start().await.unwrap();
    conn.execute("INSERT INTO t (b) VALUES (1)", []).unwrap();
    backup.wait_durable(Durability::All).await.unwrap();
    backup.stop(Duration::from_secs(60)).await.unwrap();
    let report = verified(&scene.replica).await;
    assert_eq!(report.findings, []);
    assert!(report.proven >= 1);
}

#[tokio::test]
async fn many_syncs_rewrite_one_object_and_a_restart_without_changes_none() {
    let scene = of_evertide().await;
    let conn = Connection::open(&scene.db).unwrap();
    let backup = replication(&scene.db, &scene.replica);
    backup.start().await.unwrap();
    conn.execute("INSERT INTO t (b) VALUES (0)", []).unwrap();
    backup.wait_durable(Durability::All).await.unwrap();
    let at = || {
        fs::metadata(record(&scene.replica))
            .unwrap()
            .modified()
            .unwrap()
    };
    let first = || lines(&scene.replica).len();
    let uploads = backup.status().replicas[0].uploads;
    // The first one goes out soon, and then none for minutes.
    evertide_testkit::wait_until(Duration::from_secs(30), "a first record", || {
        let txid = backup.status().txid.to_string();
        lines(&scene.replica)
            .iter()
            .any(|line| line.starts_with(&txid))
    });
    let (before, count) = (at(), first());
    for row in 0..20 {
        conn.execute("INSERT INTO t (b) VALUES (?)", [row]).unwrap();
        backup.wait_durable(Durability::All).await.unwrap();
    }
    assert_eq!(backup.status().replicas[0].uploads, uploads + 20);
    assert_eq!(
        (at(), first()),
        (before, count),
        "no request goes with a sync"
    );
    backup.stop(Duration::from_secs(60)).await.unwrap();
    let txid = backup.status().txid.to_string();
    assert!(
        lines(&scene.replica)
            .iter()
            .any(|line| line.starts_with(&txid))
    );
    let mut all: Vec<_> = fs::read_dir(scene.replica.join("evertide"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    all.sort();
    // The others are the empty file that whoever writes locks, and who writes.
    assert_eq!(all, [".lock", "checksums", "lease"]);
    let lease = || fs::read(scene.replica.join("evertide/lease")).unwrap();
    let (written, released) = (at(), lease());
    let backup = replication(&scene.db, &scene.replica);
    backup.start().await.unwrap();
    backup.wait_durable(Durability::All).await.unwrap();
    backup.stop(Duration::from_secs(60)).await.unwrap();
    assert_eq!(at(), written, "nothing changed, nothing is written");
    assert_eq!(lease(), released, "and no lease taken");
}

#[tokio::test]
async fn the_official_litestream_ignores_the_records() {
    let scene = of_evertide().await;
    assert!(record(&scene.replica).exists());
    let listed = |what: &Path| {
        let output = litestream_command()
            .args(["ltx", "-level", "all"])
            .arg(replica_url(what))
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let with = listed(&scene.replica);
    let files = objects(&scene.replica).len();
    assert_eq!(with.lines().count(), files + 1, "{with}");
    let output = scene.dir.path().join("with.db");
    restore_with_litestream(&scene.replica, &output);
    assert_same_database(&scene.db, &output);
}

#[tokio::test]
async fn the_records_are_one_small_object_below_evertide() {
    let scene = of_evertide().await;
    let client = CountingClient::new(connect(&scene.replica));
    let client: Arc<dyn ReplicaClient> = Arc::new(client);
    let keys = client.list_small().await.unwrap();
    assert_eq!(
        keys,
        [SmallKey::new("checksums").unwrap(), SmallKey::lease()]
    );
    assert!(fs::metadata(record(&scene.replica)).unwrap().len() < 16_000);
}

//! Several replicas, some of which are away or slow: what that costs the others, the disk, and
//! themselves when they are back.

use std::{
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide::{DatabaseState, Durability, Replication, ReplicationBuilder};
use evertide_storage::{Clock, ManualClock};
use futures_util::FutureExt;
use rusqlite::Connection;

use crate::{
    DEADLINE, Scene, durable,
    gate::{Gate, GatedDisk},
    insert, replica_options, until,
};

const PAGE: u64 = 4_096;
/// Captured files that may wait; a transaction below takes more than 8 KiB.
const LIMIT: u64 = 64 << 10;

/// Something is in the way of the replica's folder.
fn take_away(replica: &Path) {
    std::fs::rename(replica, replica.with_extension("away")).unwrap();
    std::fs::write(replica, "in the way").unwrap();
}

fn give_back(replica: &Path) {
    std::fs::remove_file(replica).unwrap();
    std::fs::rename(replica.with_extension("away"), replica).unwrap();
}

fn limited(scene: &Scene) -> ReplicationBuilder {
    scene.builder().rotate_at_frames(50).stage_limit(LIMIT)
}

/// 300 rows that take about a page each and do not compress.
fn filled() -> (Scene, Connection) {
    let (scene, conn) = Scene::with_rows(0);
    for _ in 0..300 {
        conn.execute("INSERT INTO t (b) VALUES (randomblob(3000))", [])
            .unwrap();
    }
    (scene, conn)
}

/// Changes these rows again and again, each time in a transaction that is captured by itself.
async fn change(backup: &Replication, conn: &Connection, rows: std::ops::Range<u32>, times: u32) {
    for _ in 0..times {
        for row in rows.clone() {
            conn.execute(
                "UPDATE t SET b = randomblob(3000) WHERE a = ?1",
                [row + 100],
            )
            .unwrap();
        }
        backup.sync().await.unwrap();
    }
}

fn restored(scene: &Scene, replica: &Path) -> PathBuf {
    let output = scene
        .dir
        .path()
        .join(format!("restored-{}.db", fastrand::u64(..)));
    evertide_testkit::restore_with_litestream(replica, &output);
    output
}

/// How many pages of the database are not as in this copy of an earlier state.
fn pages_that_differ(scene: &Scene, copy: &Path) -> u64 {
    let now = scene
        .dir
        .path()
        .join(format!("now-{}.db", fastrand::u64(..)));
    std::fs::copy(&scene.db, &now).unwrap();
    std::fs::copy(
        scene.dir.path().join("app.db-wal"),
        now.with_extension("db-wal"),
    )
    .unwrap();
    Connection::open(&now)
        .unwrap()
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let (now, then) = (std::fs::read(now).unwrap(), std::fs::read(copy).unwrap());
    let now = now.chunks(PAGE as usize);
    let mut then = then.chunks(PAGE as usize);
    now.filter(|page| then.next() != Some(page)).count() as u64
}

fn staged_bytes(scene: &Scene) -> u64 {
    let staged = std::fs::read_dir(scene.dir.path().join(".app.db-evertide/ltx/0")).unwrap();
    staged
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

/// All that is kept beside the database.
fn kept_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => kept_bytes(&entry.path()),
            false => entry.metadata().unwrap().len(),
        })
        .sum()
}

/// What can happen to the process while the replica is away.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Meanwhile {
    Nothing,
    Restart,
    /// The process ends without a chance to write anything down.
    Killed,
    TableDamaged,
    TransactionsDamaged,
    TableOld,
}

impl Meanwhile {
    fn loses_the_table(self) -> bool {
        matches!(
            self,
            Self::TableDamaged | Self::TransactionsDamaged | Self::TableOld
        )
    }

    async fn happen(self, scene: &Scene, backup: Replication) -> Replication {
        let pages = scene.dir.path().join(".app.db-evertide/pages");
        match self {
            Self::Nothing => return backup,
            Self::Restart => {
                let stopped = backup.stop(Duration::from_millis(50)).await;
                assert!(stopped.is_err(), "the replica is away");
            }
            Self::Killed | Self::TableDamaged | Self::TransactionsDamaged | Self::TableOld => {
                drop(backup);
            }
        }
        let flip = |at: u64| {
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(&pages)
                .unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        };
        let old = pages.with_extension("old");
        let again = limited(scene).build().unwrap();
        for _ in 0..500 {
            match self {
                Self::TableDamaged => flip(16 * 120 + 3),
                Self::TransactionsDamaged => flip(16 * 120 + 8),
                Self::TableOld => drop(std::fs::copy(&old, &pages).unwrap()),
                _ => {}
            }
            match again.start().await {
                Ok(()) => return again,
                Err(evertide::Error::AlreadyReplicated(_)) => {}
                Err(error) => panic!("{error}"),
            }
            if matches!(self, Self::TableDamaged | Self::TransactionsDamaged) {
                // Not over yet: undo it, or it is undone by the next turn.
                flip(16 * 120 + if self == Self::TableDamaged { 3 } else { 8 });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("still held");
    }
}

/// A replica is away while five rows of three hundred are changed until more is captured than may
/// wait. What was uploaded when it was back, in bytes and snapshots, and the pages that differ.
async fn absence(meanwhile: Meanwhile) -> (u64, u64, u64) {
    let (scene, conn) = filled();
    let backup = limited(&scene).build().unwrap();
    backup.start().await.unwrap();
    durable(&backup).await;
    change(&backup, &conn, 0..1, 1).await;
    durable(&backup).await;
    let pages = scene.dir.path().join(".app.db-evertide/pages");
    std::fs::copy(&pages, pages.with_extension("old")).unwrap();
    let then = restored(&scene, &scene.replica);
    take_away(&scene.replica);
    change(&backup, &conn, 50..52, 1).await;
    change(&backup, &conn, 0..5, 20).await;
    assert!(
        staged_bytes(&scene) <= LIMIT,
        "{} bytes",
        staged_bytes(&scene)
    );
    let backup = meanwhile.happen(&scene, backup).await;
    change(&backup, &conn, 0..5, 20).await;
    // A page table that is of no use is made again from the database: until it is complete, it takes what was
    // captured meanwhile.
    let end = tokio::time::Instant::now() + DEADLINE;
    while meanwhile.loses_the_table() && staged_bytes(&scene) > LIMIT {
        assert!(tokio::time::Instant::now() < end, "the limit is kept again");
        tokio::time::sleep(Duration::from_millis(20)).await;
        backup.sync().await.unwrap();
    }
    assert!(
        staged_bytes(&scene) <= LIMIT,
        "{} bytes",
        staged_bytes(&scene)
    );
    let before = backup.status().replicas.remove(0);
    give_back(&scene.replica);
    durable(&backup).await;
    let after = backup.status().replicas.remove(0);
    let differ = pages_that_differ(&scene, &then);
    scene.assert_restores();
    // And it goes on as ever.
    insert(&conn, 1);
    durable(&backup).await;
    scene.assert_restores();
    backup.stop(DEADLINE).await.unwrap();
    let snapshots = after.snapshots - before.snapshots;
    assert_eq!(after.catch_ups - before.catch_ups, 1 - snapshots);
    (
        after.uploaded_bytes - before.uploaded_bytes,
        snapshots,
        differ,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_away_for_long_gets_only_the_pages_that_changed() {
    for meanwhile in [Meanwhile::Nothing, Meanwhile::Restart, Meanwhile::Killed] {
        let (bytes, snapshots, differ) = absence(meanwhile).await;
        assert_eq!(snapshots, 0, "{meanwhile:?}");
        assert!((5..40).contains(&differ), "{meanwhile:?}: {differ}");
        // A file has a header, an index and a trailer beside its pages.
        let most = differ * (PAGE + 64) + 512;
        assert!(
            bytes <= most,
            "{meanwhile:?}: {bytes} bytes, {differ} pages"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_not_known_what_changed_a_replica_that_was_away_gets_everything() {
    for meanwhile in [
        Meanwhile::TableDamaged,
        Meanwhile::TransactionsDamaged,
        Meanwhile::TableOld,
    ] {
        let (_, snapshots, _) = absence(meanwhile).await;
        assert_eq!(snapshots, 1, "{meanwhile:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_shrank_and_grew_in_an_absence_is_caught_up_with() {
    let (scene, conn) = filled();
    let backup = limited(&scene).build().unwrap();
    backup.start().await.unwrap();
    durable(&backup).await;
    for (sql, snapshots) in [
        ("DELETE FROM t WHERE a > 290; VACUUM", 1), // it rewrites nearly all pages
        ("DELETE FROM t WHERE a > 250; PRAGMA incremental_vacuum", 1),
        (
            "INSERT INTO t (b) SELECT randomblob(3000) FROM t LIMIT 20",
            1,
        ),
    ] {
        take_away(&scene.replica);
        conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")
            .unwrap();
        conn.execute_batch(sql).unwrap();
        backup.sync().await.unwrap();
        change(&backup, &conn, 0..5, 10).await;
        give_back(&scene.replica);
        durable(&backup).await;
        let status = backup.status().replicas.remove(0);
        assert!(status.snapshots <= 1 + snapshots, "{status:#?}");
        scene.assert_restores();
    }
    let status = backup.status().replicas.remove(0);
    assert!(status.catch_ups >= 2, "{status:#?}");
    backup.stop(DEADLINE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_several_replicas_gets_what_changed_in_its_own_absence() {
    let (scene, conn) = filled();
    let others = [1, 2].map(|n| scene.dir.path().join(format!("other-{n}")));
    let mut builder = limited(&scene);
    for (number, other) in others.iter().enumerate() {
        builder = builder.replica(replica_options(&format!("other {number}"), other));
    }
    let backup = builder.build().unwrap();
    backup.start().await.unwrap();
    durable(&backup).await;
    take_away(&others[0]);
    change(&backup, &conn, 0..10, 10).await;
    let waited = backup.wait_durable(Durability::Quorum);
    tokio::time::timeout(DEADLINE, waited)
        .await
        .unwrap()
        .unwrap();
    until(&backup, |status| status.replicas[2].txid == status.txid).await;
    take_away(&others[1]);
    change(&backup, &conn, 10..13, 10).await;
    let before = backup.status().replicas;
    others.iter().for_each(|other| give_back(other));
    durable(&backup).await;
    let after = backup.status().replicas;
    let bytes = [1, 2].map(|n| after[n].uploaded_bytes - before[n].uploaded_bytes);
    assert!(bytes[0] >= 13 * 3_000, "{bytes:?}");
    assert!((3 * 3_000..9 * PAGE).contains(&bytes[1]), "{bytes:?}");
    for n in [1, 2] {
        assert!(after[n].catch_ups > before[n].catch_ups, "{:#?}", after[n]);
        assert_eq!(after[n].snapshots, 1, "{:#?}", after[n]);
    }
    for other in &others {
        evertide_testkit::assert_same_database(&scene.db, restored(&scene, other));
    }
    backup.stop(DEADLINE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_is_waited_for_below_it_and_no_longer() {
    let (scene, conn) = Scene::with_rows(20);
    let others = [1, 2].map(|n| scene.dir.path().join(format!("other-{n}")));
    let builder = others.iter().fold(scene.builder(), |builder, other| {
        let name = other.file_name().unwrap().to_str().unwrap();
        builder.replica(replica_options(name, other))
    });
    let backup = builder.build().unwrap();
    backup.start().await.unwrap();
    durable(&backup).await;
    others.iter().for_each(|other| take_away(other));
    insert(&conn, 1);
    let [any, mut quorum, mut all] = [Durability::Any, Durability::Quorum, Durability::All]
        .map(|durability| Box::pin(backup.wait_durable(durability)));
    let on_one = async {
        until(&backup, |status| status.replicas[1].error.is_some()).await;
        until(&backup, |status| status.replicas[2].error.is_some()).await;
        any.await.unwrap()
    };
    let txid = tokio::select! {
        txid = tokio::time::timeout(DEADLINE, on_one) => txid.unwrap(),
        done = &mut quorum => panic!("{done:?} is on one of three only"),
        done = &mut all => panic!("{done:?} is on one of three only"),
    };
    // What each asked for first is answered before this is, so that both wait for replicas by now.
    backup.sync().await.unwrap();
    assert!((&mut quorum).now_or_never().is_none(), "on one of three");
    assert!((&mut all).now_or_never().is_none(), "on one of three");

    give_back(&others[0]);
    let reached = tokio::time::timeout(DEADLINE, quorum).await;
    assert_eq!(reached.unwrap().unwrap(), txid);
    let has = backup.status().replicas;
    let has: Vec<_> = has.iter().map(|replica| replica.txid >= txid).collect();
    assert_eq!(has, [true, true, false]);
    assert!((&mut all).now_or_never().is_none(), "on two of three");

    give_back(&others[1]);
    let reached = tokio::time::timeout(DEADLINE, all).await;
    assert_eq!(reached.unwrap().unwrap(), txid);
    backup.stop(DEADLINE).await.unwrap();
    for other in &others {
        evertide_testkit::assert_same_database(&scene.db, restored(&scene, other));
    }
}

/// A scene with a fast and a slow replica. The slow one's gate is still open.
fn with_a_slow_replica(scene: &Scene) -> (Replication, Arc<Gate>, PathBuf) {
    let slow = scene.dir.path().join("slow");
    let gate = Arc::new(Gate::default());
    let disk = GatedDisk {
        folders: vec![slow.clone()],
        gate: Arc::clone(&gate),
    };
    let backup = limited(scene)
        .replica(replica_options("slow", &slow))
        .disk(Arc::new(disk))
        .build()
        .unwrap();
    (backup, gate, slow)
}

async fn on_any(backup: &Replication) {
    let waited = backup.wait_durable(Durability::Any);
    tokio::time::timeout(DEADLINE, waited)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_replica_delays_neither_another_nor_the_application() {
    let (scene, conn) = filled();
    let (backup, gate, slow) = with_a_slow_replica(&scene);
    backup.start().await.unwrap();
    durable(&backup).await;
    gate.close();
    insert(&conn, 1);
    on_any(&backup).await;
    let waiting = Arc::clone(&gate);
    tokio::task::spawn_blocking(move || waiting.until_somebody_waits())
        .await
        .unwrap();
    let rotations = backup.status().rotations;
    for _ in 0..20 {
        change(&backup, &conn, 0..20, 1).await;
        on_any(&backup).await;
    }
    assert!(
        backup.status().rotations > rotations,
        "the WAL starts over all the same"
    );
    assert!(staged_bytes(&scene) <= LIMIT);
    scene.assert_restores();
    gate.open();
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    evertide_testkit::assert_same_database(&scene.db, restored(&scene, &slow));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_says_since_when_capture_fails_until_it_works_again() {
    let (scene, conn) = Scene::with_rows(3);
    let gate = Arc::new(Gate::default());
    let disk = GatedDisk {
        folders: vec![scene.dir.path().join(".app.db-evertide/ltx")],
        gate: Arc::clone(&gate),
    };
    let day = Duration::from_secs(24 * 3_600);
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + 20_000 * day));
    let backup = scene
        .builder()
        .disk(Arc::new(disk))
        .clock(Arc::clone(&clock) as _)
        .build()
        .unwrap();
    backup.start().await.unwrap();
    for _ in 0..2 {
        durable(&backup).await;
        let status = backup.status();
        assert_eq!(
            (status.state, &status.error),
            (DatabaseState::Running, &None)
        );
        assert_eq!(status.failing_since, None);
        clock.advance(day);
        let begun = clock.now();
        gate.fill();
        insert(&conn, 1);
        for _ in 0..3 {
            assert!(backup.sync().await.is_err());
            clock.advance(Duration::from_secs(60));
            let status = backup.status();
            let error = status.error.unwrap_or_default();
            assert_eq!(status.state, DatabaseState::Failing);
            assert!(error.contains("no storage space"), "{error}");
            assert_eq!(status.failing_since, Some(begun));
        }
        gate.open();
    }
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

/// As when a network goes silent: what is asked of the replica is neither done nor refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_in_its_time_though_a_replica_does_not_answer_and_says_what_that_lacks() {
    let (scene, conn) = filled();
    let (backup, gate, slow) = with_a_slow_replica(&scene);
    backup.start().await.unwrap();
    durable(&backup).await;
    // Of this one the checksum is to be published at the end.
    insert(&conn, 1);
    durable(&backup).await;
    gate.close();
    insert(&conn, 1);
    let txid = backup.sync().await.unwrap();
    on_any(&backup).await;
    let time = Duration::from_secs(1);
    // Publishing and letting go of the lease would each be waited for as long again, and twice.
    let stopped = tokio::time::timeout(4 * time, backup.stop(time)).await;
    let lease = |replica: &Path| std::fs::read_to_string(replica.join("evertide/lease")).unwrap();
    let leases = [&scene.replica, &slow].map(|replica| lease(replica));
    gate.open();
    let error = stopped.expect("it ends in its time").unwrap_err();
    let evertide::Error::StoppedBehind {
        txid: newest,
        behind,
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(*newest, txid);
    let [slow] = behind.as_slice() else {
        panic!("{behind:?}")
    };
    assert!(slow.starts_with("replica `slow` has"), "{slow}");
    assert!(leases[0].contains("state released\n"), "{}", leases[0]);
    assert!(leases[1].contains("state held\n"), "{}", leases[1]);
    scene.assert_restores();
}

/// More than fits into what is on its way to a store.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_takes_its_snapshot_slowly_delays_that_of_no_other() {
    let (scene, conn) = filled();
    conn.execute("INSERT INTO t (b) VALUES (randomblob(6000000))", [])
        .unwrap();
    let (backup, gate, slow) = with_a_slow_replica(&scene);
    gate.close();
    backup.start().await.unwrap();
    on_any(&backup).await;
    scene.assert_restores();
    // Neither waits on local disk: it is streamed.
    let kept = kept_bytes(&scene.dir.path().join(".app.db-evertide"));
    assert!(kept < 1 << 20, "{kept} bytes of a database of 7 MB");
    // Nor that of one that is added meanwhile.
    let added = scene.dir.path().join("added");
    let mut options = backup.options();
    options.replicas.push(replica_options("added", &added));
    backup.update(options).await.unwrap();
    insert(&conn, 1);
    let txid = backup.sync().await.unwrap();
    until(&backup, |status| {
        let has = |name: &str| {
            let mut replicas = status.replicas.iter();
            replicas.any(|replica| replica.name == name && replica.txid >= txid)
        };
        has("added") && has("local")
    })
    .await;
    scene.assert_restores();
    evertide_testkit::assert_same_database(&scene.db, restored(&scene, &added));
    assert_eq!(backup.status().replicas[1].txid.get(), 0, "it still waits");
    gate.open();
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    evertide_testkit::assert_same_database(&scene.db, restored(&scene, &slow));
}

//! Applications that write all the time: what a backup and its restores are worth beside them.

use std::{path::Path, time::Duration};

use evertide::{IntegrityCheck, RestoreOptions, restore};
use rusqlite::Connection;

use crate::{DEADLINE, Scene, busy::Repeated, durable, locks::client, until};

/// In which an application checkpoints.
const MODES: [&str; 4] = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"];

const ONE: &str = "INSERT INTO t (b) VALUES (randomblob(500))";

/// How an application writes.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// A row every now and then.
    Rare,
    /// A row at a time.
    Steady,
    /// Some 700 pages at a time, many times what makes the WAL start over, and then nothing for a while.
    Bursts,
}

impl Load {
    fn start(self, conn: Connection) -> Repeated {
        let (sql, pause) = match self {
            Self::Rare => (ONE, 100),
            Self::Steady => (ONE, 1),
            Self::Bursts => (
                "BEGIN; INSERT INTO t (b) SELECT randomblob(3000) FROM t LIMIT 400;
                 UPDATE t SET b = randomblob(3000) WHERE a < 300; COMMIT",
                30,
            ),
        };
        Repeated::start(conn, move |conn| {
            std::thread::sleep(Duration::from_millis(pause));
            conn.execute_batch(sql)
        })
    }
}

/// Checkpoints until one was not told that another one runs.
async fn checkpoint(conn: &Connection, mode: &str) {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    let done = async {
        while conn.query_row(&sql, [], |row| row.get(0)).unwrap() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, done).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_checkpoint_of_the_application_costs_a_snapshot_whatever_the_load() {
    for load in [Load::Rare, Load::Steady, Load::Bursts] {
        let (scene, conn) = Scene::with_rows(0);
        for _ in 0..500 {
            conn.execute("INSERT INTO t (b) VALUES (randomblob(3000))", [])
                .unwrap();
        }
        let backup = scene.start().await;
        durable(&backup).await;
        let writer = load.start(scene.open());
        for _ in 0..3 {
            for mode in MODES {
                let before = backup.status().txid;
                until(&backup, |status| status.txid > before).await;
                checkpoint(&conn, mode).await;
                let status = backup.status();
                let costs = (status.rebases, status.replicas[0].snapshots);
                assert_eq!(costs, (0, 1), "{mode} under {load:?}: {status:#?}");
            }
        }
        assert!(writer.end().0 >= 12, "{load:?}");
        durable(&backup).await;
        let status = backup.status();
        assert!(status.rotations >= 6, "{load:?}: {status:#?}");
        backup.stop(DEADLINE).await.unwrap();
        let status = backup.status();
        let costs = (status.rebases, status.replicas[0].snapshots);
        assert_eq!(costs, (0, 1), "{load:?}: {status:#?}");
        // By any other name, it would be as large.
        let objects = scene.objects();
        let (images, others): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|object| object.0 == "9");
        assert_eq!(images.len(), 1, "{images:?}");
        let most = others.iter().map(|object| object.2).max().unwrap();
        let image = images[0].2;
        assert!(
            matches!(load, Load::Bursts) || most < image / 2,
            "{most} bytes, of an image of {image}"
        );
        scene.assert_restores();
    }
}

/// Rows that say what is in them: three indexes, and a column for each.
const TABLE: &str = "CREATE TABLE log (n INTEGER PRIMARY KEY, who TEXT, at REAL, what BLOB);
                     CREATE INDEX log_who ON log (who);
                     CREATE UNIQUE INDEX log_at ON log (at, who);
                     CREATE INDEX log_what ON log (what, n)";
const ROW: &str = "INSERT INTO log (who, at, what)
                   VALUES (hex(randomblob(random() & 15)), random() / 3.0, randomblob(60))";

/// What is in a restored database is a beginning of what is in the database by now, whole and in each index;
/// how many rows.
fn rows_restored(scene: &Scene, output: &Path) -> i64 {
    let now = scene.open();
    now.execute("ATTACH ? AS r", [output.to_str().unwrap()])
        .unwrap();
    let number = |sql: &str| -> i64 { now.query_row(sql, [], |row| row.get(0)).unwrap() };
    let rows = number("SELECT count(*) FROM r.log");
    assert_eq!(number("SELECT max(n) FROM r.log"), rows);
    let others = "SELECT count(*) FROM (SELECT * FROM r.log EXCEPT SELECT * FROM main.log)";
    assert_eq!(number(others), 0, "rows that nobody wrote");
    for index in ["log_who", "log_at", "log_what"] {
        let sql = format!("SELECT count(*) FROM r.log INDEXED BY {index}");
        assert_eq!(number(&sql), rows, "{index}");
    }
    let check: String = now
        .query_row("PRAGMA r.integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_hundred_rows_a_second_every_restore_is_whole_in_all_three_indexes() {
    let (scene, conn) = Scene::with_rows(0);
    conn.execute_batch(TABLE).unwrap();
    let count = || -> i64 {
        conn.query_row("SELECT count(*) FROM log", [], |row| row.get(0))
            .unwrap()
    };
    let writer = Repeated::start(scene.open(), |conn| {
        std::thread::sleep(Duration::from_millis(3));
        conn.execute_batch(ROW)
    });
    let mut rotations = 0;
    for round in 0..4 {
        let backup = scene.start().await;
        let begun = count();
        while count() < begun + 100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // While it goes on, and after it has stopped; the writer does in any case.
        for stopped in [false, true] {
            let committed = count();
            match stopped {
                false => durable(&backup).await,
                true => backup.stop(DEADLINE).await.unwrap(),
            }
            let output = scene.dir.path().join(format!("{round}-{stopped}.db"));
            let mut options = RestoreOptions::new(client(&scene), &output);
            options.integrity_check = IntegrityCheck::Full;
            restore(options).await.unwrap();
            let restored = rows_restored(&scene, &output);
            assert!(restored >= committed, "{restored} of {committed} rows");
        }
        // On a busy machine the WAL may start over more than once before the next start: then pages are compared.
        let status = backup.status();
        assert_eq!(status.replicas[0].snapshots, u64::from(round == 0));
        rotations += status.rotations;
    }
    assert!(rotations >= 4, "{rotations} rotations");
    let (commits, _) = writer.end();
    assert_eq!(count(), commits as i64);
    let backup = scene.start().await;
    durable(&backup).await;
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}

//! One replica, written by Evertide and by the official Litestream in turn: each continues above what the
//! other left, and both restore every state there ever was.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use evertide::{
    Destination, Durability, IntegrityCheck, ReplicaOptions, Replication, RestoreOptions,
    RestoreTarget, Txid, restore,
};
use evertide_ltx::{Level, LtxName};
use evertide_storage::{LtxObject, OsDisk, ReplicaClient};
use evertide_testkit::{litestream_command, replica_url};
use rusqlite::Connection;

const DEADLINE: Duration = Duration::from_secs(60);

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A database whose transactions each add one row, and its replica.
struct Scene {
    dir: evertide_testkit::TempDir,
    db: PathBuf,
    replica: PathBuf,
    conn: Connection,
    rows: i64,
    /// Rows after a transaction, where it is known.
    known: Vec<(Txid, i64)>,
}

impl Scene {
    fn new() -> Self {
        let dir = evertide_testkit::temp_dir();
        let (db, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
        let conn = Connection::open(&db).unwrap();
        conn.execute_batch(
            "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL;
             CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB); CREATE INDEX i ON t (b);",
        )
        .unwrap();
        Self {
            dir,
            db,
            replica,
            conn,
            rows: 0,
            known: Vec::new(),
        }
    }

    fn write(&mut self) {
        self.rows += 1;
        let insert = "INSERT INTO t VALUES (?1, randomblob(?1 * 397 % 5000))";
        self.conn.execute(insert, [self.rows]).unwrap();
    }

    fn client(&self) -> Arc<dyn ReplicaClient> {
        let destination = Destination::file(&self.replica).unwrap();
        destination.connect(Arc::new(OsDisk)).unwrap()
    }

    async fn files(&self) -> Vec<LtxObject> {
        let client = self.client();
        let mut files = Vec::new();
        for level in Level::all() {
            files.extend(client.list(level, None).await.unwrap());
        }
        files
    }

    async fn newest(&self) -> Txid {
        newest(&self.files().await)
    }

    /// Whoever replicates now writes above what was there, and leaves the replica with everything.
    async fn assert_went_on(&mut self, before: &[LtxObject]) {
        let (newest, files) = (newest(before), self.files().await);
        for file in files.iter().filter(|file| file.level == Level::L0) {
            let went_on = before.contains(file) || file.name.min > newest;
            assert!(went_on, "{file:?} is not above {newest}");
        }
        let level_0 = files.iter().filter(|file| file.level == Level::L0);
        let names: Vec<LtxName> = level_0.map(|file| file.name).collect();
        for pair in names.windows(2) {
            assert!(
                pair[0].max < pair[1].min,
                "one transaction twice: {names:?}"
            );
        }
        let end = self::newest(&files);
        assert!(end > newest, "nothing came above {newest}");
        self.known.push((end, self.rows));
    }

    async fn evertide(&mut self, writes: u32) {
        let before = self.files().await;
        let destination = Destination::file(&self.replica).unwrap();
        let mut options = ReplicaOptions::new("local", destination);
        options.sync_interval = ms(10);
        options.levels = vec![ms(300), ms(1_200)];
        options.snapshot_interval = ms(2_500);
        let backup = Replication::builder(&self.db).replica(options);
        let backup = backup.build().unwrap();
        backup.start().await.unwrap();
        for _ in 0..writes {
            self.write();
            let durable = backup.wait_durable(Durability::All);
            let durable = tokio::time::timeout(DEADLINE, durable).await;
            durable.unwrap().unwrap();
            self.known.push((backup.status().txid, self.rows));
            tokio::time::sleep(ms(60)).await;
        }
        backup.stop(DEADLINE).await.unwrap();
        self.assert_went_on(&before).await;
    }

    async fn litestream(&mut self, writes: u32) {
        let before = self.files().await;
        let settings = format!(
            "levels:\n  - interval: 1s\n  - interval: 3s\nsnapshot:\n  interval: 2s\ndbs:\n  \
             - path: {}\n    monitor-interval: 20ms\n    replica:\n      path: {}\n      \
             sync-interval: 20ms\n",
            self.db.display(),
            self.replica.display(),
        );
        let config = self.dir.path().join("litestream.yml");
        fs::write(&config, settings).unwrap();
        let log = fs::File::create(self.log()).unwrap();
        let mut litestream = litestream_command();
        litestream.args(["replicate", "-config"]).arg(&config);
        let litestream = litestream.stdout(Stdio::null()).stderr(log).spawn();
        let mut litestream = litestream.unwrap();
        let newest = newest(&before);
        for _ in 0..writes {
            self.write();
            tokio::time::sleep(ms(120)).await;
        }
        // What was written before it came is on the replica, too.
        let started = Instant::now();
        while self.newest().await <= newest {
            let said = fs::read_to_string(self.log()).unwrap();
            assert!(started.elapsed() < DEADLINE, "{said}");
            tokio::time::sleep(ms(20)).await;
        }
        // It uploads what is left when it is interrupted.
        let id = litestream.id().to_string();
        let killed = Command::new("kill").args(["-INT", &id]).status().unwrap();
        assert!(killed.success());
        litestream.wait().unwrap();
        self.assert_went_on(&before).await;
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("litestream.log")
    }

    /// Both programs restore every state that a file leads to, by transaction and by time, to the same
    /// bytes; the application's rows in it are the first ones, and as many as were there then.
    async fn assert_every_state_is_restored(&self) {
        let files = self.files().await;
        let states: BTreeMap<Txid, SystemTime> = files
            .iter()
            .map(|file| (file.name.max, file.created))
            .collect();
        let (mut least, mut seen, end) = (0, BTreeSet::new(), newest(&files));
        for (txid, created) in states {
            let by_txid = self.restored(RestoreTarget::Txid(txid)).await;
            assert!(
                by_txid >= least,
                "{txid} has fewer rows than the state before"
            );
            least = by_txid;
            seen.extend([(txid, by_txid)]);
            if txid == end {
                continue; // Litestream knows no time after its newest file
            }
            // To Litestream a file of exactly that time is too new; times are whole milliseconds.
            let time = RestoreTarget::Timestamp(created + Duration::from_micros(500));
            assert!(self.restored(time).await >= by_txid, "{txid}");
        }
        for known in &self.known {
            assert!(seen.contains(known), "{known:?} is not among {seen:?}");
        }
        assert_eq!(least, self.rows);
    }

    /// Restores with both programs; how many rows there were then.
    async fn restored(&self, target: RestoreTarget) -> i64 {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        let mut options = RestoreOptions::new(self.client(), &ours);
        options.target = target;
        options.integrity_check = IntegrityCheck::Full;
        restore(options).await.unwrap();
        let mut official = litestream_command();
        official.arg("restore").arg("-o").arg(&theirs);
        match target {
            RestoreTarget::Txid(txid) => official.args(["-txid", &txid.to_string()]),
            RestoreTarget::Timestamp(time) => {
                let time = humantime::format_rfc3339_micros(time).to_string();
                official.args(["-timestamp", &time])
            }
            _ => &mut official,
        };
        let official = official.arg(replica_url(&self.replica)).output().unwrap();
        assert!(official.status.success(), "{target:?}: {official:?}");
        assert!(
            fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(),
            "{target:?} differs"
        );
        let conn = Connection::open(&ours).unwrap();
        let count = "SELECT count(*), ifnull(max(n), 0) FROM t";
        let (count, last): (i64, i64) = conn
            .query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(count, last, "{target:?}: rows are missing");
        count
    }
}

fn newest(files: &[LtxObject]) -> Txid {
    let ends = files.iter().map(|file| file.name.max);
    ends.max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_litestream_began_evertide_goes_on_with_and_back() {
    let mut scene = Scene::new();
    scene.litestream(8).await;
    scene.write();
    scene.evertide(8).await;
    scene.write();
    scene.litestream(8).await;
    scene.write();
    scene.evertide(4).await;
    scene.assert_every_state_is_restored().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_evertide_began_litestream_goes_on_with_and_back() {
    let mut scene = Scene::new();
    scene.write();
    scene.evertide(8).await;
    scene.write();
    scene.litestream(8).await;
    scene.write();
    scene.evertide(8).await;
    // As on another machine, where it has nothing of its own.
    fs::remove_dir_all(scene.dir.path().join(".app.db-litestream")).unwrap();
    scene.write();
    scene.litestream(4).await;
    scene.assert_every_state_is_restored().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_stay_with_the_other_program_costs_nothing_either() {
    let mut scene = Scene::new();
    scene.write();
    scene.evertide(0).await;
    scene.write();
    scene.litestream(0).await;
    scene.write();
    scene.evertide(0).await;
    scene.write();
    scene.litestream(2).await;
    scene.assert_every_state_is_restored().await;
}

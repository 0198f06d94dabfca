//! Running replications with short intervals, restored by the official Litestream.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use evertide::{
    DatabaseStatus, Destination, Durability, ReplicaOptions, Replication, VerifyOptions, verify,
};
use evertide_storage::OsDisk;
use evertide_testkit::{Writer, WriterOptions, assert_same_database, restore_with_litestream};

/// Long enough for anything here; reaching it is a failure.
const DEADLINE: Duration = Duration::from_secs(60);

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

struct Scene {
    dir: tempfile::TempDir,
    db: PathBuf,
    replica: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let filter = std::env::var("EVERTIDE_LOG").unwrap_or_else(|_| "warn".into());
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter(filter)
            .try_init();
        let dir = evertide_testkit::temp_dir();
        let (db, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
        Self { dir, db, replica }
    }

    /// Everything happens within seconds.
    fn options(&self) -> ReplicaOptions {
        let destination = Destination::file(&self.replica).unwrap();
        let mut options = ReplicaOptions::new("local", destination);
        options.sync_interval = ms(20);
        options.levels = vec![ms(150), ms(600), ms(1_800)];
        options.level_0_retention = ms(400);
        options.snapshot_interval = ms(3_600);
        options.retention_check_interval = ms(200);
        options
    }

    async fn start(&self, options: ReplicaOptions) -> Replication {
        let builder = Replication::builder(&self.db).replica(options);
        let backup = builder.rotate_at_frames(50).build().unwrap();
        backup.start().await.unwrap();
        backup
    }

    /// Names and creation times of the files on each level.
    fn levels(&self) -> BTreeMap<String, Vec<String>> {
        let mut levels = BTreeMap::new();
        for level in fs::read_dir(self.replica.join("ltx")).unwrap() {
            let level = level.unwrap();
            let files = fs::read_dir(level.path()).unwrap();
            let mut names: Vec<String> = files
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            levels.insert(level.file_name().into_string().unwrap(), names);
        }
        levels
    }

    /// Restores with the official program, and compares with the database.
    fn assert_restores(&self, replica: &Path) {
        let name = format!("restored-{}.db", fastrand::u64(..));
        let output = self.dir.path().join(name);
        restore_with_litestream(replica, &output);
        assert_same_database(&self.db, &output);
    }

    /// A copy of the replica with its first snapshot, and of the rest only these levels.
    fn only(&self, levels: &[&str]) -> PathBuf {
        let copy = self.dir.path().join(format!("copy-{}", levels.join("-")));
        for (level, names) in self.levels() {
            let (from, to) = (
                self.replica.join("ltx").join(&level),
                copy.join("ltx").join(&level),
            );
            fs::create_dir_all(&to).unwrap();
            let first = if level == "9" { 1 } else { 0 };
            let wanted = if levels.contains(&level.as_str()) {
                names.len()
            } else {
                first
            };
            for name in &names[..wanted] {
                fs::copy(from.join(name), to.join(name)).unwrap();
            }
        }
        copy
    }
}

async fn until(
    backup: &Replication,
    wanted: impl FnMut(&DatabaseStatus) -> bool,
) -> DatabaseStatus {
    match tokio::time::timeout(DEADLINE, backup.wait_for(wanted)).await {
        Ok(status) => status,
        Err(_) => panic!("never came: {:#?}", backup.status()),
    }
}

async fn durable(backup: &Replication) {
    let durable = backup.wait_durable(Durability::All);
    tokio::time::timeout(DEADLINE, durable)
        .await
        .unwrap()
        .unwrap();
}

/// Waits until everything that was captured is in the newest snapshot.
async fn settled(scene: &Scene, backup: &Replication) {
    let newest = format!("{}.ltx", backup.status().txid);
    let newest = &newest;
    until(backup, |_| {
        let levels = scene.levels();
        let reached = |level: &str| {
            levels
                .get(level)
                .is_some_and(|names| names.iter().any(|name| name.ends_with(newest.as_str())))
        };
        levels["0"].len() == 1 && ["1", "2", "3", "9"].into_iter().all(reached)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn litestream_restores_from_every_kind_of_compaction() {
    let seed = evertide_testkit::seed();
    let scene = Scene::new();
    let mut writer = Writer::open(&scene.db, WriterOptions::seeded(seed)).unwrap();
    writer.run_steps(5).unwrap();
    let backup = scene.start(scene.options()).await;
    durable(&backup).await;
    for _ in 0..40 {
        writer.run_steps(3).unwrap();
        tokio::time::sleep(ms(50)).await;
    }
    drop(writer);
    durable(&backup).await;
    scene.assert_restores(&scene.replica);
    settled(&scene, &backup).await;
    // Level 0 went, but its newest file; that those before it in its window did is no gap.
    let destination = Destination::file(&scene.replica).unwrap();
    let replica = destination.connect(Arc::new(OsDisk)).unwrap();
    let report = verify(VerifyOptions::new(replica)).await.unwrap();
    assert_eq!(report.findings, []);
    let status = backup.status().replicas.remove(0);
    assert_eq!(status.maintenance_error, None);
    assert!(status.maintained.compactions > 10, "{status:?}");
    backup.stop(DEADLINE).await.unwrap();
    // Each level has all of the history by itself.
    for levels in [&["1"], &["2"], &["3"], &["9"]] {
        scene.assert_restores(&scene.only(levels));
    }
    scene.assert_restores(&scene.replica);
}

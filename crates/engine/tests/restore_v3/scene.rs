//! Litestream 0.3.13 at work.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide::{IntegrityCheck, RestoreError, RestoreOptions, RestoreReport, RestoreTarget};
use evertide_storage::{Destination, OsDisk, ReplicaClient};
use evertide_testkit::litestream_v3_command;

/// Litestream 0.3.13, replicating a database.
pub(crate) struct Replicating(Child);

impl Replicating {
    pub(crate) fn start(db: &Path, replica: &Path) -> Self {
        let config = replica.with_extension("yml");
        let settings = format!(
            "dbs:\n  - path: {}\n    monitor-interval: 30ms\n    min-checkpoint-page-count: 30\n    \
             replicas:\n      - path: {}\n        sync-interval: 30ms\n        \
             snapshot-interval: 2s\n",
            db.display(),
            replica.display()
        );
        fs::write(&config, settings).unwrap();
        let log = fs::File::create(replica.with_extension("log")).unwrap();
        let child = litestream_v3_command()
            .args(["replicate", "-config"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Lets it write what is left, and end.
    pub(crate) fn stop(mut self) {
        std::thread::sleep(Duration::from_millis(400));
        let id = self.0.id().to_string();
        let told = Command::new("kill").args(["-INT", &id]).status().unwrap();
        assert!(told.success());
        self.0.wait().unwrap();
    }
}

impl Drop for Replicating {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn connect(folder: &Path) -> Arc<dyn ReplicaClient> {
    let destination = Destination::file(folder).unwrap();
    destination.connect(Arc::new(OsDisk)).unwrap()
}

/// Restores with ours, and checks all that SQLite can check.
pub(crate) async fn restore(
    replica: &Path,
    output: &Path,
    target: RestoreTarget,
) -> Result<RestoreReport, RestoreError> {
    let mut options = RestoreOptions::new(connect(replica), output);
    options.target = target;
    options.integrity_check = IntegrityCheck::Full;
    evertide::restore(options).await
}

/// Restores with Litestream 0.3.13; `false` where it refuses.
pub(crate) fn restore_with_theirs(replica: &Path, output: &Path, time: Option<SystemTime>) -> bool {
    let mut command = litestream_v3_command();
    command.args(["restore", "-o"]).arg(output);
    if let Some(time) = time {
        let time = humantime::format_rfc3339_nanos(time).to_string();
        command.args(["-timestamp", &time]);
    }
    let url = evertide_testkit::replica_url(replica);
    let ended = command.arg(url).output().unwrap();
    for rest in ["tmp-shm", "tmp-wal"] {
        let _ = fs::remove_file(output.with_extension(format!("db.{rest}")));
    }
    ended.status.success()
}

/// All files below a folder, sorted.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Copies a folder, times included.
pub(crate) fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

pub(crate) fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

pub(crate) fn set_modified(path: &Path, time: SystemTime) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

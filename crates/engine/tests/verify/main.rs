//! Verification of replicas, ours and the official Litestream's, sound and broken in every way.
#![allow(clippy::disallowed_methods, reason = "tests look at files as they are")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod broken;
mod deep;
mod flips;
mod recorded;
mod replicas;
mod sound;
mod stores;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use evertide::{FindingKind, VerifyOptions, VerifyReport, verify};
use evertide_ltx::{Level, LtxName};
use evertide_storage::{Destination, OsDisk, ReplicaClient};

/// The replica in this folder.
fn connect(folder: &Path) -> Arc<dyn ReplicaClient> {
    let destination = Destination::file(folder).unwrap();
    destination.connect(Arc::new(OsDisk)).unwrap()
}

/// Verifies the replica in this folder, and leaves no temporary file behind.
async fn verified(folder: &Path) -> VerifyReport {
    let temporary = tempfile::tempdir().unwrap();
    let mut options = VerifyOptions::new(connect(folder));
    options.temporary = temporary.path().to_owned();
    let report = verify(options).await.unwrap();
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    report
}

/// The kinds of the problems in a report.
fn kinds(report: &VerifyReport) -> Vec<FindingKind> {
    report.problems().map(|finding| finding.kind).collect()
}

/// The LTX files in this folder: level, name, path.
fn objects(folder: &Path) -> Vec<(Level, LtxName, PathBuf)> {
    let mut objects = Vec::new();
    for level in Level::all() {
        let entries = fs::read_dir(folder.join(format!("ltx/{level}")));
        for entry in entries.into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if let Ok(name) = name.parse() {
                objects.push((level, name, path));
            }
        }
    }
    objects
}

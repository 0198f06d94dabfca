//! A private copy of a database, with its WAL merged into it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use rusqlite::Connection;
use tempfile::TempDir;

use super::CompareError;

/// A copy whose WAL has been checkpointed away.
pub(super) struct Copied {
    pub(super) original: PathBuf,
    pub(super) path: PathBuf,
    _dir: TempDir,
}

impl Copied {
    pub(super) fn of(original: &Path) -> Result<Self, CompareError> {
        let unreadable = |reason: String| CompareError::Unreadable {
            path: original.to_path_buf(),
            reason,
        };
        let dir = crate::temp_dir();
        let path = dir.path().join("copy.db");
        let wal = with_suffix(original, "-wal");
        let before = (stamp(original), stamp(&wal));
        if before.0.is_none() {
            return Err(unreadable("there is no such file".to_owned()));
        }
        copy(original, &path).map_err(unreadable)?;
        if before.1.is_some() {
            copy(&wal, &with_suffix(&path, "-wal")).map_err(unreadable)?;
        }
        if before != (stamp(original), stamp(&wal)) {
            let reason = "it was written to while it was copied; stop its writers first";
            return Err(unreadable(reason.to_owned()));
        }
        merge(&path).map_err(|error| unreadable(error.to_string()))?;
        Ok(Self {
            original: original.to_path_buf(),
            path,
            _dir: dir,
        })
    }

    pub(super) fn unreadable(&self, error: impl ToString) -> CompareError {
        CompareError::Unreadable {
            path: self.original.clone(),
            reason: error.to_string(),
        }
    }
}

/// Copies in a process of its own. A database's locks belong to the process, and closing any
/// descriptor of it drops them: reading it here could corrupt a database this process has open.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let output = Command::new("cp")
        .args(["--sparse=auto", "--"])
        .args([from, to])
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn merge(path: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open(path)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)
}

fn stamp(path: &Path) -> Option<(u64, SystemTime)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

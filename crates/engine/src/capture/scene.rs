//! A database that is captured, for tests.

use std::{path::PathBuf, sync::Arc};

use evertide_storage::{OsDisk, SystemClock};
use rusqlite::Connection;

use super::{Capture, RotationPolicy};

pub(super) struct Scene {
    _dir: tempfile::TempDir,
    pub(super) path: PathBuf,
    /// The application's.
    pub(super) conn: Connection,
    pub(super) capture: Capture,
}

impl Scene {
    /// With an empty table `t`, attached, and its first image is read.
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a)")
            .unwrap();
        let (disk, clock) = (Arc::new(OsDisk), Arc::new(SystemClock));
        let policy = RotationPolicy::default();
        let mut capture = Capture::new(path.clone(), disk, clock, policy).unwrap();
        capture.attach().unwrap();
        let image = capture.begin_image(None).unwrap();
        capture.end_image(&image, None).unwrap();
        Self {
            _dir: dir,
            path,
            conn,
            capture,
        }
    }
}

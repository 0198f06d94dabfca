//! A database that is captured, for tests.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use evertide_ltx::Checksum;
use evertide_storage::{OsDisk, SystemClock};
use rusqlite::Connection;

use super::{Capture, RotationPolicy};
use crate::state::{PageEntry, PageTable};

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
        let mut capture = new_capture(&path);
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

    /// With a page table.
    pub(super) fn with_table() -> Self {
        let mut scene = Self::new();
        let capture = &mut scene.capture;
        let image = capture.begin_image(None).unwrap();
        let table = PageTable::create(&OsDisk, &capture.state.table_path()).unwrap();
        let entries = image.for_each_page(|pgno, page| {
            let entry = PageEntry {
                checksum: Checksum::page(pgno, page).get(),
                changed: image.txid(),
            };
            table.write_entries(pgno.get(), &[entry])
        });
        entries.unwrap();
        capture.end_image(&image, Some(table)).unwrap();
        scene
    }

    /// As after the process has died.
    pub(super) fn start_again(&mut self) {
        let elsewhere = self.path.with_file_name("other.db");
        self.capture = new_capture(&elsewhere); // lets go of the state
        self.capture = new_capture(&self.path);
    }
}

fn new_capture(path: &Path) -> Capture {
    let (disk, clock) = (Arc::new(OsDisk), Arc::new(SystemClock));
    let policy = RotationPolicy::default();
    Capture::new(path.to_owned(), disk, clock, policy).unwrap()
}

//! An application with a real database, which it changes as a seed says.
#![allow(clippy::disallowed_methods)] // files of databases that nobody has open

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use rusqlite::{Connection, params_from_iter};
use tempfile::TempDir;

use super::pages::{Library, Pages, content};
use crate::{state::state_dir, verify::Content, wal::beside};

/// Pages that a database has at most, or little more.
const MOST_PAGES: usize = 12;
const PAGE_SIZE: usize = 512;

/// What all applications have in common.
#[derive(Clone, Default, Debug)]
pub(super) struct Common {
    /// The number of the last commit of any of them.
    commits: Arc<AtomicU64>,
    pub(super) library: Library,
}

/// A connection that writes, and one that only ever has what is committed.
struct Connections {
    writer: Connection,
    reader: Connection,
}

pub(super) struct Application {
    random: Rng,
    common: Common,
    dir: TempDir,
    connections: Option<Connections>,
    pages: Pages,
    /// All states since it was created or restored, the newest last.
    lived: Vec<Pages>,
}

impl Application {
    /// With a first commit.
    pub(super) fn new(common: Common, random: Rng) -> Self {
        let mut application = Self {
            random,
            common,
            dir: evertide_testkit::memory_dir(),
            connections: None,
            pages: Pages::new(),
            lived: Vec::new(),
        };
        let create = format!("PRAGMA page_size = {PAGE_SIZE}; PRAGMA journal_mode = WAL");
        let created = Connection::open(application.path()).unwrap();
        created.execute_batch(&create).unwrap();
        drop(created);
        application.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)");
        application.commit();
        application
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    /// What it has.
    pub(super) fn pages(&self) -> &Pages {
        &self.pages
    }

    pub(super) fn has_lived(&self, pages: &Pages) -> bool {
        self.lived.contains(pages)
    }

    /// The state with this content, if it ever had it.
    pub(super) fn state(&self, of: Content) -> Option<&Pages> {
        let mut lived = self.lived.iter().rev();
        lived.find(|pages| content(pages) == of)
    }

    /// Changes something, by connections that come and go; whether the system tells of it.
    pub(super) fn commit(&mut self) -> bool {
        if self.random.u8(..16) == 0 {
            self.connections = None;
        }
        let number = self.common.commits.fetch_add(1, Ordering::Relaxed) + 1;
        let (mut noise, mut row) = (Rng::with_seed(number), vec![0; self.random.usize(1..700)]);
        noise.fill(&mut row);
        row.extend(number.to_le_bytes());
        let large = self.pages.len() >= MOST_PAGES;
        let change = match self.random.u8(..8) {
            0 if !large => "INSERT INTO t (b) VALUES (?1)",
            1 if !large => "INSERT INTO t (b) VALUES (?1), (zeroblob(900)), (?1)",
            2 => "DELETE FROM t WHERE a > (SELECT min(a) FROM t)",
            _ => "UPDATE t SET b = ?1 WHERE a = (SELECT max(a) FROM t)",
        };
        let transaction = self.connections().writer.transaction().unwrap();
        let given = change.contains('?').then_some(&row);
        transaction
            .execute(change, params_from_iter(given))
            .unwrap();
        // So that it is like no other state.
        let unique = "INSERT OR REPLACE INTO t VALUES (0, ?1)";
        transaction.execute(unique, [&row]).unwrap();
        transaction.commit().unwrap();
        self.note();
        if large && self.random.bool() {
            self.execute("VACUUM");
        }
        self.random.u8(..12) > 0
    }

    fn execute(&mut self, statement: &str) {
        self.connections().writer.execute_batch(statement).unwrap();
        self.note();
    }

    /// What was committed is a state of its.
    fn note(&mut self) {
        let library = self.common.library.clone();
        let database = self.connections().reader.serialize("main").unwrap();
        self.pages = library.note(&database, PAGE_SIZE);
        self.lived.push(self.pages.clone());
    }

    fn connections(&mut self) -> &mut Connections {
        let path = self.path();
        let checkpoints = [0, 7, 1_000][self.random.usize(..3)];
        self.connections.get_or_insert_with(|| {
            let connect = || {
                let connection = Connection::open(&path).unwrap();
                // Nobody would let go of anything while it waits.
                connection.busy_timeout(Duration::ZERO).unwrap();
                let pragmas = format!(
                    "PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = {checkpoints}"
                );
                connection.execute_batch(&pragmas).unwrap();
                connection
            };
            Connections { writer: connect(), reader: connect() }
        })
    }

    /// What the backup knows is lost.
    pub(super) fn lose_state(&mut self) {
        match fs::remove_dir_all(state_dir(&self.path())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }

    /// The database is what was restored.
    pub(super) fn restore(&mut self, pages: &Pages) {
        self.lose_state();
        self.connections = None;
        let path = self.path();
        for file in [beside(&path, "-wal"), beside(&path, "-shm"), path.clone()] {
            // With the last connection those beside it are gone, but where a lock is still there.
            let _ = fs::remove_file(file);
        }
        fs::write(path, self.common.library.database(pages)).unwrap();
        self.pages.clone_from(pages);
        self.lived = vec![pages.clone()];
    }
}

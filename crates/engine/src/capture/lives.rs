//! Lives of a database in steps that a seed draws: whatever SQLite committed is captured, and nothing else, byte for
//! byte, by the real thing on a real database. Nothing happens at the same time as anything else: for that there are
//! the model and the torture.
#![allow(clippy::disallowed_methods, clippy::print_stdout)] // a test, which opens only copies by hand

use std::{path::PathBuf, sync::Arc};

use evertide_ltx::{Decoder, Pgno, Txid};
use evertide_storage::{Disk, OsDisk, SystemClock};
use evertide_testkit::seed;
use rusqlite::Connection;

use super::{AttachOutcome, Capture, DiskReader, Due, Image, RotationPolicy};
use crate::{
    state::{PageEntry, PageTable},
    wal::beside,
};

const STEPS: usize = 150;

/// What happened, to see that everything did.
#[derive(Default, Debug)]
struct Seen {
    files: usize,
    images: usize,
    changes: usize,
    resumed: usize,
    rebased: usize,
    anew: usize,
    skipped: usize,
    rotations: u64,
}

struct Life {
    _dir: tempfile::TempDir,
    path: PathBuf,
    random: fastrand::Rng,
    application: Option<Connection>,
    reader: Option<Connection>,
    writing: bool,
    capture: Option<Capture>,
    /// An image that is being read, of this state.
    image: Option<(Image, usize)>,
    /// All that was ever committed, in order.
    states: Vec<Vec<u8>>,
    /// What the captured files make, up to which transaction, and which state that is.
    replica: Vec<u8>,
    txid: Txid,
    at: usize,
    /// The states after some transactions.
    known: Vec<(Txid, usize)>,
    seen: Seen,
}

impl Life {
    fn new(seed: u64) -> Self {
        // In memory where there is such a place: no power fails here.
        let memory = tempfile::tempdir_in("/dev/shm");
        let dir = memory.or_else(|_| tempfile::tempdir()).unwrap();
        let mut life = Self {
            path: dir.path().join("app.db"),
            _dir: dir,
            random: fastrand::Rng::with_seed(seed),
            application: None,
            reader: None,
            writing: false,
            capture: None,
            image: None,
            states: Vec::new(),
            replica: Vec::new(),
            txid: Txid::ZERO,
            at: 0,
            known: Vec::new(),
            seen: Seen::default(),
        };
        let page_size = 512 << life.random.u8(0..5);
        let conn = Connection::open(&life.path).unwrap();
        conn.execute_batch(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = WAL; CREATE TABLE t (a INTEGER PRIMARY KEY, b)"
        ))
        .unwrap();
        drop(conn);
        life.note_state();
        life
    }

    /// The application's connection, opened if there is none.
    fn connection(&mut self) -> &Connection {
        let automatic = *[0, 0, 7, 1_000].get(self.random.usize(0..4)).unwrap();
        self.application.get_or_insert_with(|| {
            let conn = Connection::open(&self.path).unwrap();
            // What does not fit is written to the WAL before it is committed.
            let pragmas = format!(
                "PRAGMA synchronous = OFF; PRAGMA cache_size = 5; PRAGMA wal_autocheckpoint = {automatic}"
            );
            conn.execute_batch(&pragmas).unwrap();
            // Nobody would let go of anything while it waits.
            conn.busy_timeout(std::time::Duration::ZERO).unwrap();
            conn
        })
    }

    /// What SQLite makes of copies of the files.
    fn committed(&self) -> Vec<u8> {
        let copy = self.path.with_file_name("copy.db");
        std::fs::copy(&self.path, &copy).unwrap();
        let wal = beside(&self.path, "-wal");
        if wal.exists() {
            std::fs::copy(wal, beside(&copy, "-wal")).unwrap();
        }
        let conn = Connection::open(&copy).unwrap();
        let checkpoint = "PRAGMA synchronous = OFF; PRAGMA wal_checkpoint(TRUNCATE)";
        conn.execute_batch(checkpoint).unwrap();
        drop(conn);
        std::fs::read(copy).unwrap()
    }

    fn note_state(&mut self) {
        let now = self.committed();
        if self.states.last() != Some(&now) {
            self.states.push(now);
        }
    }

    fn change(&mut self) {
        let (rows, size) = (self.random.u32(1..12), self.random.u32(1..900));
        let some = self.random.u32(2..20);
        let statement = match self.random.u8(0..10) {
            0..5 => format!(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
                 INSERT INTO t (b) SELECT randomblob({size}) FROM n"
            ),
            5 | 6 => format!("DELETE FROM t WHERE a % {some} = 1"),
            7 | 8 => format!("UPDATE t SET b = randomblob({size}) WHERE a % {some} = 0"),
            _ if self.writing => return,
            _ => "VACUUM".to_owned(),
        };
        self.connection().execute_batch(&statement).unwrap();
    }

    /// Begins a transaction, or ends the one that is under way.
    fn transact(&mut self) {
        if !self.writing {
            self.connection().execute_batch("BEGIN IMMEDIATE").unwrap();
            self.writing = true;
            self.change();
            return;
        }
        let end = *["COMMIT", "COMMIT", "ROLLBACK"]
            .get(self.random.usize(0..3))
            .unwrap();
        self.connection().execute_batch(end).unwrap();
        self.writing = false;
    }

    fn read(&mut self) {
        if self.reader.take().is_none() {
            let reader = Connection::open(&self.path).unwrap();
            reader
                .execute_batch("BEGIN; SELECT count(*) FROM t")
                .unwrap();
            self.reader = Some(reader);
        }
    }

    fn checkpoint(&mut self) {
        let mode = *["PASSIVE", "FULL", "RESTART", "TRUNCATE"]
            .get(self.random.usize(0..4))
            .unwrap();
        if self.writing {
            return;
        }
        let checkpoint = format!("PRAGMA wal_checkpoint({mode})");
        // Whether it could is its own business.
        let ended = self
            .connection()
            .query_row(&checkpoint, [], |row| row.get::<_, i64>(0));
        assert!(ended.is_ok(), "{mode}: {ended:?}");
    }

    /// Opens the database for capture, where that is not done, and whatever that asks for.
    fn capture(&mut self) -> &mut Capture {
        if self.capture.is_none() {
            let policy = RotationPolicy::fixed(self.random.u32(5..200));
            let (disk, clock) = (Arc::new(OsDisk), Arc::new(SystemClock));
            let mut capture = Capture::new(self.path.clone(), disk, clock, policy).unwrap();
            capture.raise_floor(self.txid);
            match capture.attach().unwrap() {
                AttachOutcome::Missing => panic!("it is there"),
                AttachOutcome::Resumed => self.seen.resumed += 1,
                AttachOutcome::Rebased { .. } => self.seen.rebased += 1,
                AttachOutcome::NeedsSnapshot { .. } => {
                    let image = capture.begin_image(None).unwrap();
                    self.replica = whole(&image);
                    (self.txid, self.at) = (image.txid(), self.states.len() - 1);
                    assert!(self.replica == self.states[self.at], "the first image");
                    self.known = vec![(self.txid, self.at)];
                    capture.end_image(&image, None).unwrap();
                    self.seen.anew += 1;
                }
            }
            self.capture = Some(capture);
            self.apply();
        }
        self.capture.as_mut().unwrap()
    }

    /// Applies what was captured: after each file there is a state that was committed, and none goes back.
    fn apply(&mut self) {
        let Some(capture) = &self.capture else {
            return;
        };
        for staged in capture.state.stage.files() {
            if staged.name.max <= self.txid {
                continue;
            }
            assert_eq!(staged.name.min, self.txid.next(), "a hole");
            let file = OsDisk.open_read(&capture.state.stage.path(staged.name));
            let mut decoder = Decoder::new(DiskReader::new(file.unwrap())).unwrap();
            let size = decoder.header().page_size.len();
            let mut page = vec![0; size];
            self.replica
                .resize(decoder.header().commit as usize * size, 0);
            while let Some(pgno) = decoder.decode_page(&mut page).unwrap() {
                put(&mut self.replica, pgno, &page);
            }
            decoder.finish().unwrap();
            let later = self.states[self.at..].iter();
            let found = later.clone().position(|state| *state == self.replica);
            let passed = found.unwrap_or_else(|| panic!("{} makes no state", staged.name));
            self.at += passed;
            self.txid = staged.name.max;
            self.known.push((self.txid, self.at));
            self.seen.files += 1;
        }
    }

    fn look(&mut self) {
        let due = [Due::Now, Due::Later, Due::NowAndCheckpoint];
        let due = *due.get(self.random.usize(0..3)).unwrap();
        let capture = self.capture();
        let before = capture.stats.rotations;
        capture.step(due).unwrap();
        let rotations = capture.stats.rotations - before;
        self.seen.rotations += rotations;
        self.apply();
    }

    /// All that is committed is captured when that is asked for.
    fn compare(&mut self) {
        self.capture();
        let complete = (0..5).any(|_| {
            let stepped = self.capture().step(Due::Now).unwrap();
            stepped.complete && !stepped.pending
        });
        assert!(complete, "it does not end");
        self.apply();
        assert_eq!(self.at, self.states.len() - 1);
        assert!(Some(&self.replica) == self.states.last(), "not all of it");
    }

    /// Begins an image, or ends the one that is being read: it is of the state that it was begun with, whatever came
    /// since.
    fn image(&mut self) {
        self.capture();
        let Some((image, state)) = self.image.take() else {
            let since = self.random.choice(&self.known).copied();
            let since = since.filter(|_| self.random.bool());
            let begun = self.capture().begin_image(since.map(|(txid, _)| txid));
            let image = begun.unwrap();
            self.apply();
            assert_eq!(image.txid(), self.txid);
            self.image = Some((image, self.at));
            return;
        };
        let min = image.header.min_txid;
        let read = match min == Txid::FIRST {
            true => whole(&image),
            false => {
                let base = self.known.iter().rev().find(|(txid, _)| txid.next() == min);
                let mut base = self.states[base.unwrap().1].clone();
                overlay(&mut base, &image);
                self.seen.changes += 1;
                base
            }
        };
        assert!(read == self.states[state], "the image of {}", image.txid());
        let with_table = min == Txid::FIRST && self.random.bool();
        let table = with_table.then(|| self.table_of(&image));
        self.capture().end_image(&image, table).unwrap();
        self.seen.images += 1;
    }

    fn table_of(&mut self, image: &Image) -> PageTable {
        let capture = self.capture();
        let table = PageTable::create(&OsDisk, &capture.state.table_path()).unwrap();
        let entries = image.for_each_page(|pgno, page| {
            let checksum = evertide_ltx::Checksum::page(pgno, page).get();
            let changed = image.txid();
            table.write_entries(pgno.get(), &[PageEntry { checksum, changed }])
        });
        entries.unwrap();
        table
    }

    /// Passes over transactions that somebody else has used.
    fn skip(&mut self) {
        let above = Txid::new(self.txid.get() + self.random.u64(1..5));
        let capture = self.capture();
        capture.raise_floor(above);
        capture.capture_one_transaction().unwrap();
        self.seen.skipped += 1;
        self.apply();
    }

    fn step(&mut self) {
        match self.random.u8(0..100) {
            0..35 => self.change(),
            35..45 => self.transact(),
            45..50 => self.read(),
            50..57 => self.checkpoint(),
            57..75 => self.look(),
            75..83 => self.compare(),
            83..89 => self.image(),
            89 if self.image.is_none() => self.skip(),
            90..92 => {
                let had = self.txid;
                self.capture().release_staged(had, had).unwrap();
            }
            92..96 if !self.writing => {
                (self.application, self.reader) = (None, None);
            }
            // The backup is stopped or dies; it comes back when it is looked at.
            96..100 => (self.capture, self.image) = (None, None),
            _ => {}
        }
        if !self.writing {
            self.note_state();
        }
    }
}

fn put(content: &mut [u8], pgno: Pgno, page: &[u8]) {
    let start = (pgno.get() as usize - 1) * page.len();
    content[start..start + page.len()].copy_from_slice(page);
}

fn overlay(content: &mut Vec<u8>, image: &Image) {
    let size = image.header.page_size.len();
    content.resize(image.header.commit as usize * size, 0);
    let read = image.for_each_page(|pgno, page| {
        put(content, pgno, page);
        Ok::<(), std::io::Error>(())
    });
    read.unwrap();
}

fn whole(image: &Image) -> Vec<u8> {
    let mut content = Vec::new();
    overlay(&mut content, image);
    content
}

#[test]
fn whatever_is_committed_is_captured_byte_for_byte_through_whole_lives() {
    let lives = std::env::var("EVERTIDE_LIVES").map_or(60, |lives| lives.parse().unwrap());
    let mut total = Seen::default();
    let first = seed();
    for n in 0..lives {
        let seed = first.wrapping_add(n);
        println!("life {seed}");
        let mut life = Life::new(seed);
        for _ in 0..STEPS {
            life.step();
        }
        if life.writing {
            life.transact();
            life.note_state();
        }
        life.compare();
        let seen = life.seen;
        total.files += seen.files;
        total.images += seen.images;
        total.changes += seen.changes;
        total.resumed += seen.resumed;
        total.rebased += seen.rebased;
        total.anew += seen.anew;
        total.skipped += seen.skipped;
        total.rotations += seen.rotations;
    }
    println!("{lives} lives: {total:?}");
    let counts = [total.files, total.images, total.resumed, total.anew];
    assert!(
        counts.iter().all(|count| *count > 0) && total.rotations > 0,
        "{total:?}"
    );
}

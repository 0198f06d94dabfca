//! A database kept as plainly as possible: which version each of its pages has. No version is used twice,
//! by whichever database, so that a state tells whose it is.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evertide_ltx::{Checksum, Decoder, Encoder, Header, LtxName, PageSize, Pgno, Txid};

use crate::verify::{Content, Record};

/// Where a page has its version.
const VERSION: usize = 200;

/// The version of each page. The second says how many there are, as the first does, and so changes with that.
pub(super) type Pages = Vec<u64>;

/// The database after one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct State {
    pub(super) created: SystemTime,
    pub(super) pages: Pages,
}

/// What was captured of a database, by transaction.
#[derive(Clone, Default, Debug)]
pub(super) struct History(BTreeMap<Txid, State>);

impl History {
    pub(super) fn get(&self, txid: Txid) -> Option<&State> {
        self.0.get(&txid)
    }

    pub(super) fn add(&mut self, txid: Txid, state: State) {
        self.0.insert(txid, state);
    }

    /// The file with what these transactions changed; every page from the first one on.
    pub(super) fn file(&self, name: LtxName) -> Bytes {
        let empty = State {
            created: SystemTime::UNIX_EPOCH,
            pages: Pages::new(),
        };
        let base = match name.is_snapshot() {
            true => &empty,
            false => &self.0[&name.min.previous()],
        };
        let state = &self.0[&name.max];
        let mut header = Header::new(page_size(), state.pages.len() as u32, name.min, name.max);
        header.timestamp_ms = milliseconds(state.created);
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        for (at, version) in state.pages.iter().enumerate() {
            if base.pages.get(at) != Some(version) {
                let page = page(at, *version, state.pages.len());
                encoder.encode_page(pgno(at), &page).unwrap();
            }
        }
        encoder.finish().unwrap().0.into()
    }

    /// What is recorded of a transaction.
    pub(super) fn record(&self, txid: Txid) -> Option<Record> {
        let state = self.0.get(&txid)?;
        Some(Record {
            txid,
            timestamp_ms: milliseconds(state.created),
            pages: state.pages.len() as u32,
            checksum: sum(&state.pages),
        })
    }

    /// Whether pages with these checksums are of this transaction.
    pub(super) fn has(&self, txid: Txid, timestamp_ms: i64, found: &[(Pgno, u64)]) -> bool {
        let Some(state) = self.0.get(&txid) else {
            return false;
        };
        let same = |(pgno, checksum): &(Pgno, u64)| {
            let (at, size) = (pgno.get() as usize - 1, state.pages.len());
            let version = state.pages.get(at);
            version.is_some_and(|version| checksum_of(at, *version, size).get() == *checksum)
        };
        milliseconds(state.created) == timestamp_ms && found.iter().all(same)
    }
}

/// What a database with these pages holds.
pub(super) fn content(pages: &Pages) -> Content {
    Content::of_sum(pages.len() as u32, sum(pages).get())
}

fn sum(pages: &Pages) -> Checksum {
    let sums = pages.iter().enumerate();
    sums.fold(Checksum::EMPTY, |sum, (at, version)| {
        sum.toggle(checksum_of(at, *version, pages.len()))
    })
}

fn checksum_of(at: usize, version: u64, size: usize) -> Checksum {
    Checksum::page(pgno(at), &page(at, version, size))
}

/// What an LTX file changes: the size that it leaves, and pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Changes {
    pages: usize,
    written: Vec<(usize, u64)>,
}

impl Changes {
    /// Reads a file, which must be sound.
    pub(super) fn of(file: &[u8]) -> Self {
        let mut decoder = Decoder::new(file).unwrap();
        let pages = decoder.header().commit as usize;
        let (mut buffer, mut written) = (vec![0; page_size().len()], Vec::new());
        while let Some(pgno) = decoder.decode_page(&mut buffer).unwrap() {
            let version = u64::from_le_bytes(buffer[VERSION..][..8].try_into().unwrap());
            written.push((pgno.get() as usize - 1, version));
        }
        decoder.finish().unwrap();
        Self { pages, written }
    }

    pub(super) fn apply(&self, database: &mut Pages) {
        database.resize(self.pages, 0);
        for (at, version) in &self.written {
            database[*at] = *version;
        }
    }
}

fn page_size() -> PageSize {
    PageSize::new(512).unwrap()
}

fn pgno(at: usize) -> Pgno {
    Pgno::new(at as u32 + 1).unwrap()
}

/// A page of an empty SQLite database whose other pages are all on the list of free ones: the first is its
/// header and schema, the second that list, and the others may hold anything. Each has room for its version, and
/// for what no sum of other pages gives, since the checksums of LTX are linear.
fn page(at: usize, version: u64, size: usize) -> Vec<u8> {
    let mut page = vec![0; page_size().len()];
    let mut put = |at: usize, bytes: &[u8]| page[at..][..bytes.len()].copy_from_slice(bytes);
    let number = |number: usize| (number as u32).to_be_bytes();
    match at {
        0 => {
            put(0, b"SQLite format 3\0\x02\x00\x01\x01\x00\x40\x20\x20");
            put(28, &number(size));
            put(32, &number(if size > 1 { 2 } else { 0 }));
            put(36, &number(size - 1));
            put(44, &number(4)); // the format of the schema
            put(56, &number(1)); // UTF-8
            put(100, b"\x0d\x00\x00\x00\x00\x02\x00\x00"); // a leaf without cells
        }
        1 => {
            put(4, &number(size - 2));
            (3..=size).for_each(|free| put(8 + 4 * (free - 3), &number(free)));
        }
        _ => {}
    }
    let (mut random, mut noise) = (fastrand::Rng::with_seed(version), [0; 32]);
    random.fill(&mut noise);
    put(VERSION, &version.to_le_bytes());
    put(VERSION + 8, &noise);
    page
}

fn milliseconds(time: SystemTime) -> i64 {
    since_epoch(time).as_millis() as i64
}

/// Cut to what a header can hold.
pub(super) fn whole_milliseconds(time: SystemTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(since_epoch(time).as_millis() as u64)
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

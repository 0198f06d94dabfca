//! Every state of a small database, kept as plainly as possible, and the LTX files that lead from one
//! to another.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evertide_ltx::{Decoder, Encoder, Header, LtxName, PageSize, Pgno, Txid};
use fastrand::Rng;

/// The most pages the database may have.
const MOST_PAGES: usize = 24;

/// The database after one transaction.
#[derive(Clone, Debug)]
struct State {
    created: SystemTime,
    page_size: PageSize,
    /// The version of each page; no version is used twice.
    pages: Vec<u64>,
}

/// All states of a database, by transaction.
#[derive(Debug)]
pub(crate) struct Model {
    random: Rng,
    states: BTreeMap<Txid, State>,
    versions: u64,
}

impl Model {
    /// A database with a few pages.
    pub(crate) fn new(random: Rng, now: SystemTime) -> Self {
        let state = State {
            created: milliseconds(now),
            page_size: PageSize::new(512).unwrap(),
            pages: Vec::new(),
        };
        let mut model = Self {
            random,
            states: BTreeMap::from([(Txid::ZERO, state)]),
            versions: 0,
        };
        model.commit(now);
        model
    }

    pub(crate) fn newest(&self) -> Txid {
        *self.states.keys().next_back().unwrap()
    }

    /// When a transaction was captured.
    pub(crate) fn created(&self, txid: Txid) -> SystemTime {
        self.states[&txid].created
    }

    /// A transaction: some pages are written, always the first one, and the database may grow or
    /// shrink. As in captured files, times never run backwards.
    pub(crate) fn commit(&mut self, now: SystemTime) -> Txid {
        let newest = self.newest();
        let mut state = self.states[&newest].clone();
        let before = state.pages.len();
        let size = match self.random.u8(..10) {
            0 | 1 => before + self.random.usize(1..4),
            2 => self.random.usize(1..=before.max(1)),
            _ => before.max(3),
        };
        let writes = match self.random.u8(..12) {
            0 => MOST_PAGES,
            _ => self.random.usize(..4),
        };
        state.pages.resize(size.min(MOST_PAGES), 0);
        let size = state.pages.len();
        let touched = (0..writes).map(|_| self.random.usize(..size));
        let mut touched: Vec<usize> = touched.chain([0]).chain(before..size).collect();
        touched.sort_unstable();
        touched.dedup();
        for page in touched {
            self.versions += 1;
            state.pages[page] = self.versions;
        }
        state.created = state.created.max(milliseconds(now));
        self.states.insert(newest.next(), state);
        newest.next()
    }

    /// The same with another page size: every page is a new one.
    pub(crate) fn commit_with_another_page_size(&mut self, now: SystemTime) -> Txid {
        let txid = self.commit(now);
        let state = self.states.get_mut(&txid).unwrap();
        let other = if state.page_size.get() == 512 {
            1024
        } else {
            512
        };
        state.page_size = PageSize::new(other).unwrap();
        for version in &mut state.pages {
            self.versions += 1;
            *version = self.versions;
        }
        txid
    }

    /// The file with what these transactions changed; a snapshot from the first one on.
    pub(crate) fn file(&self, name: LtxName) -> Bytes {
        let (base, state) = (&self.states[&name.min.previous()], &self.states[&name.max]);
        let mut header = Header::new(
            state.page_size,
            state.pages.len() as u32,
            name.min,
            name.max,
        );
        header.timestamp_ms = since_epoch(state.created).as_millis() as i64;
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        for (at, version) in state.pages.iter().enumerate() {
            if base.pages.get(at) != Some(version) {
                encoder
                    .encode_page(pgno(at), &page(state.page_size, *version))
                    .unwrap();
            }
        }
        encoder.finish().unwrap().0.into()
    }

    /// The database after a transaction, byte for byte.
    pub(crate) fn content(&self, txid: Txid) -> Vec<u8> {
        let state = &self.states[&txid];
        let pages = state
            .pages
            .iter()
            .map(|version| page(state.page_size, *version));
        pages.flatten().collect()
    }

    /// A file of any level leads from the state before its first transaction to that after its last:
    /// every page it holds is the newest, none that changed is missing, and it tells when that was.
    pub(crate) fn assert_leads(&self, name: LtxName, content: &[u8]) {
        let (base, state) = (&self.states[&name.min.previous()], &self.states[&name.max]);
        let mut decoder = Decoder::new(content).unwrap();
        let header = decoder.header().clone();
        assert_eq!(header.name(), name);
        assert_eq!(header.commit as usize, state.pages.len(), "{name}");
        assert_eq!(header.page_size, state.page_size, "{name}");
        let created = Duration::from_millis(header.timestamp_ms as u64);
        assert_eq!(created, since_epoch(state.created), "{name}");
        let (mut buffer, mut held) = (vec![0; state.page_size.len()], vec![false; MOST_PAGES]);
        while let Some(pgno) = decoder.decode_page(&mut buffer).unwrap() {
            let at = pgno.get() as usize - 1;
            assert!(
                buffer == page(state.page_size, state.pages[at]),
                "{name}: page {pgno} is not the newest"
            );
            held[at] = true;
        }
        decoder.finish().unwrap();
        for (at, version) in state.pages.iter().enumerate() {
            let changed = base.pages.get(at) != Some(version);
            assert!(held[at] || !changed, "{name}: page {} is missing", pgno(at));
        }
    }
}

fn pgno(at: usize) -> Pgno {
    Pgno::new(at as u32 + 1).unwrap()
}

/// The content of a version of a page: half of it does not compress.
fn page(size: PageSize, version: u64) -> Vec<u8> {
    let mut page = vec![0; size.len()];
    let (half, _) = page.split_at_mut(size.len() / 2);
    Rng::with_seed(version).fill(half);
    page
}

/// Cut to what a header can hold.
fn milliseconds(time: SystemTime) -> SystemTime {
    let since = since_epoch(time).as_millis();
    SystemTime::UNIX_EPOCH + Duration::from_millis(since as u64)
}

pub(crate) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

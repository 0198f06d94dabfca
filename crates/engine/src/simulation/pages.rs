//! A database as the checksums of its pages, in order. No two databases ever have the same: whatever is committed has a
//! number that nothing else has, so that a state tells whose it is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use evertide_ltx::{Checksum, Decoder, Pgno};

use crate::verify::Content;

/// The checksum of each page.
pub(super) type Pages = Vec<u64>;

/// Every page that any database ever had, by its checksum: what a state needs to be restored.
#[derive(Clone, Default, Debug)]
pub(super) struct Library(Arc<Mutex<HashMap<u64, Vec<u8>>>>);

impl Library {
    /// Notes what a database holds; its pages.
    pub(super) fn note(&self, database: &[u8], page_size: usize) -> Pages {
        let mut known = self.0.lock().unwrap();
        let pages = database.chunks_exact(page_size).enumerate();
        let note = |(at, page): (usize, &[u8])| {
            let checksum = checksum(at, page);
            let before = known.entry(checksum).or_insert_with(|| page.to_vec());
            assert!(before == page, "two pages have one checksum");
            checksum
        };
        pages.map(note).collect()
    }

    /// The database with these pages.
    pub(super) fn database(&self, pages: &Pages) -> Vec<u8> {
        let known = self.0.lock().unwrap();
        pages.iter().flat_map(|page| known[page].clone()).collect()
    }
}

/// What a database with these pages holds.
pub(super) fn content(pages: &Pages) -> Content {
    let checksums = pages.iter().map(|page| Checksum::new(*page));
    let sum = checksums.fold(Checksum::EMPTY, Checksum::toggle);
    Content::of_sum(pages.len() as u32, sum.get())
}

fn checksum(at: usize, page: &[u8]) -> u64 {
    Checksum::page(Pgno::new(at as u32 + 1).unwrap(), page).get()
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
        let page_size = decoder.header().page_size.len();
        let (mut page, mut written) = (vec![0; page_size], Vec::new());
        while let Some(pgno) = decoder.decode_page(&mut page).unwrap() {
            let at = pgno.get() as usize - 1;
            written.push((at, checksum(at, &page)));
        }
        decoder.finish().unwrap();
        Self { pages, written }
    }

    pub(super) fn apply(&self, database: &mut Pages) {
        database.resize(self.pages, 0);
        for (at, checksum) in &self.written {
            database[*at] = *checksum;
        }
    }
}

//! What the tests of this crate share: a plain model of a database, and files made of it.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeMap, fmt, io::Read};

use evertide_ltx::{
    Checksum, Decoder, Encoder, Error, Header, PageSize, Pgno, Tracking, Trailer, Txid,
};
use proptest::test_runner::{Config, RngSeed};

/// A database as the format sees it: its size in pages, and their content by number.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Model {
    pub commit: u32,
    pub pages: BTreeMap<u32, Vec<u8>>,
}

/// Without the content of pages, which nobody wants to read in a failure.
impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sums = self
            .pages
            .iter()
            .map(|(n, page)| (n, Checksum::page(pgno(*n), page)));
        write!(f, "{} pages: ", self.commit)?;
        f.debug_map().entries(sums).finish()
    }
}

impl Model {
    /// What a file does to a database: cut it to size, put the pages in.
    pub fn apply(&mut self, change: &Self) {
        self.commit = change.commit;
        self.pages.extend(change.pages.clone());
        self.pages.retain(|pgno, _| *pgno <= change.commit);
    }
}

pub fn size(bytes: u32) -> PageSize {
    PageSize::new(bytes).unwrap()
}

pub fn pgno(number: u32) -> Pgno {
    Pgno::new(number).unwrap()
}

/// A page whose content depends on both numbers: half of it random, a quarter repeated, rest zero.
pub fn page(size: PageSize, pgno: u32, version: u64) -> Vec<u8> {
    let mut page = vec![0; size.len()];
    let mut random = fastrand::Rng::with_seed(version << 32 | u64::from(pgno));
    random.fill(&mut page[..size.len() / 2]);
    let quarter = size.len() / 4;
    page.copy_within(..quarter, 2 * quarter);
    page
}

pub fn header(size: PageSize, commit: u32, min: u64, max: u64) -> Header {
    let mut header = Header::new(size, commit, Txid::new(min), Txid::new(max));
    header.timestamp_ms = 1_700_000_000_000 + max as i64;
    header
}

/// Encodes pages into a file.
pub fn encode<'a>(
    header: Header,
    pages: impl IntoIterator<Item = (&'a u32, &'a Vec<u8>)>,
) -> Result<Vec<u8>, Error> {
    let mut encoder = Encoder::new(Vec::new(), header)?;
    for (number, page) in pages {
        encoder.encode_page(pgno(*number), page)?;
    }
    let (file, summary) = encoder.finish()?;
    assert_eq!(summary.size, file.len() as u64);
    Ok(file)
}

/// A snapshot of so many pages.
pub fn snapshot(size: PageSize, commit: u32, tracking: Tracking) -> Vec<u8> {
    let mut header = header(size, commit, 1, 3);
    header.tracking = tracking;
    let lock = size.lock_page().get();
    let numbers = (1..=commit).filter(|number| *number != lock);
    let pages: BTreeMap<u32, Vec<u8>> = numbers.map(|n| (n, page(size, n, 1))).collect();
    encode(header, &pages).unwrap()
}

/// All that a file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Content {
    pub header: Header,
    pub trailer: Trailer,
    pub model: Model,
}

pub fn decode(file: &[u8]) -> Result<Content, Error> {
    decode_from(file)
}

pub fn decode_from(file: impl Read) -> Result<Content, Error> {
    let mut decoder = Decoder::new(file)?;
    let header = decoder.header().clone();
    let mut model = Model {
        commit: header.commit,
        pages: BTreeMap::new(),
    };
    let mut page = vec![0; header.page_size.len()];
    while let Some(pgno) = decoder.decode_page(&mut page)? {
        model.pages.insert(pgno.get(), page.clone());
    }
    assert_eq!(decoder.decode_page(&mut page)?, None, "the end comes again");
    let trailer = decoder.finish()?;
    Ok(Content {
        header,
        trailer,
        model,
    })
}

/// The seed of a random test: `EVERTIDE_SEED`, or a new one. Printed, so that a failure can be had
/// again.
pub fn seed() -> u64 {
    let given = std::env::var("EVERTIDE_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    eprintln!("to repeat: EVERTIDE_SEED={seed}");
    seed
}

/// So many random cases from a seed that is printed.
pub fn cases(cases: u32) -> Config {
    let rng_seed = RngSeed::Fixed(seed());
    Config {
        cases,
        rng_seed,
        failure_persistence: None,
        ..Config::default()
    }
}

/// Makes the file checksum right again after the file was changed, as far as the file makes sense,
/// so that a test reaches what lies behind it.
pub fn fix_checksum(file: &mut [u8]) {
    if let Err(Error::ChecksumMismatch { found, .. }) = decode(file) {
        let at = file.len() - 8;
        file[at..].copy_from_slice(&found.to_be_bytes());
    }
}

//! Encode, decode, merge and name LTX files, the storage format of Litestream.
//!
//! An LTX file holds pages of a SQLite database as they are after some transactions: all of them (a
//! *snapshot*), or those that the transactions changed. Files that follow each other make up the
//! history of a database. The format is that of `superfly/ltx`, version 3, as Litestream 0.5 reads
//! and writes it; this crate is tested against files of the real program, those of older versions
//! with LZ4 frames included.
//!
//! - [`Encoder`] writes a file, [`Decoder`] reads one, both page by page and in bounded memory.
//! - [`BatchReader`] reads one with several threads.
//! - [`PageIndex`] finds single pages of a file without reading the rest.
//! - [`merge()`] makes one file of several, with the effect of applying them in order.
//! - [`Checksum`] is that of pages and databases, [`LtxName`] the name of a file.
//!
//! All work over [`Read`](std::io::Read) and [`Write`](std::io::Write): no files, no clock, no
//! threads of their own. No input makes a reader panic, or allocate more than a page or two.
//! Nothing that was read counts before `finish` has verified the checksum of the file; a reader
//! that is only given good pages checks their order, that none is missing from a snapshot, and that
//! the index describes them.
//!
//! ```
//! use evertide_ltx::{Decoder, Encoder, Error, Header, PageSize, Pgno, Txid, merge};
//!
//! /// A file of one transaction, with these pages of a database of two.
//! fn file(txid: Txid, pages: &[(u32, u8)]) -> Result<Vec<u8>, Error> {
//!     let header = Header::new(PageSize::new(512)?, 2, txid, txid);
//!     let mut encoder = Encoder::new(Vec::new(), header)?;
//!     for (number, content) in pages {
//!         encoder.encode_page(Pgno::new(*number).unwrap(), &[*content; 512])?;
//!     }
//!     let (file, _) = encoder.finish()?;
//!     Ok(file)
//! }
//!
//! let snapshot = file(Txid::FIRST, &[(1, b'a'), (2, b'b')])?;
//! let change = file(Txid::new(2), &[(2, b'c')])?;
//! let (merged, summary) = merge([snapshot.as_slice(), change.as_slice()], Vec::new())?;
//! assert_eq!(summary.header.name().to_string(), "0000000000000001-0000000000000002.ltx");
//!
//! let mut decoder = Decoder::new(merged.as_slice())?;
//! let mut page = [0; 512];
//! let mut content = Vec::new();
//! while decoder.decode_page(&mut page)?.is_some() {
//!     content.push(page[0]);
//! }
//! decoder.finish()?;
//! assert_eq!(content, b"ac");
//! # Ok::<(), Error>(())
//! ```
//!
//! The crate has no features.

mod batch;
mod checksum;
mod decode;
mod encode;
mod error;
mod frames;
mod header;
mod id;
mod index;
mod input;
mod merge;
mod name;
mod page;
mod stream;

pub use self::{
    batch::{Batch, BatchReader, Decoded},
    checksum::Checksum,
    decode::Decoder,
    encode::{Encoder, Summary},
    error::Error,
    header::{Header, Tracking, Trailer},
    id::{Level, PageSize, Pgno, Txid},
    index::{PageIndex, Tail},
    merge::{Merge, merge},
    name::LtxName,
};

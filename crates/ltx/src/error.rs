//! What can be wrong with an LTX file.

use crate::{LtxName, PageSize, Pgno, Txid};

/// What can be wrong with an LTX file, its name, or what an encoder is given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a transaction ID.
    #[error("`{0}` is not a transaction ID: 16 hex digits expected")]
    BadTxid(String),
    /// Not a page size.
    #[error("{0} is not a page size: a power of two from 512 to 65536 expected")]
    BadPageSize(u32),
    /// Not the name of an LTX file.
    #[error("`{0}` is not the name of an LTX file: `<16 hex digits>-<16 hex digits>.ltx` expected")]
    BadName(String),
    /// The file does not start as an LTX file does.
    #[error("not an LTX file: it starts with {0:02x?}, not with `LTX1`")]
    BadMagic([u8; 4]),
    /// A header flag that this version of the format does not have.
    #[error("unknown header flags {0:#010x}: written by a newer version, or damaged")]
    BadHeaderFlags(u32),
    /// A header whose fields contradict each other.
    #[error("impossible LTX header: {0}")]
    BadHeader(&'static str),
    /// The header's transaction IDs are zero or out of order.
    #[error("impossible LTX header: transactions {min} to {max}")]
    BadRange {
        /// The first transaction of the file.
        min: Txid,
        /// The last one.
        max: Txid,
    },
    /// A page flag that this version of the format does not have.
    #[error("unknown flags {flags:#06x} on page {pgno}: written by a newer version, or damaged")]
    BadPageFlags {
        /// The page.
        pgno: Pgno,
        /// Its flags.
        flags: u16,
    },
    /// A page header without a page number.
    #[error("a page without a number after page {after}")]
    ZeroPage {
        /// The page before, 0 at the start.
        after: u32,
    },
    /// Pages are not in ascending order.
    #[error("page {pgno} follows page {after}: pages must ascend")]
    PageOrder {
        /// The page.
        pgno: Pgno,
        /// The page before it.
        after: u32,
    },
    /// A page above the size of the database.
    #[error("page {pgno} lies beyond the database of {commit} pages")]
    PageBeyondCommit {
        /// The page.
        pgno: Pgno,
        /// The size of the database, in pages.
        commit: u32,
    },
    /// The lock page has no content and may not be part of a file.
    #[error("page {0} is the lock page, which is never part of an LTX file")]
    LockPage(Pgno),
    /// A snapshot, or the growth of a database, lacks pages.
    #[error("incomplete: page {missing} is missing from a file that must hold it ({commit} pages)")]
    MissingPage {
        /// The first page that is not there.
        missing: u32,
        /// The size of the database, in pages.
        commit: u32,
    },
    /// A buffer or a decoded page is not one page long.
    #[error("page {pgno} has {found} bytes where the page size is {expected}")]
    PageLength {
        /// The page.
        pgno: Pgno,
        /// The page size.
        expected: PageSize,
        /// The length found, in bytes.
        found: usize,
    },
    /// The compressed size of a page is impossible.
    #[error("page {pgno} claims {size} compressed bytes: 1 to {max} are possible")]
    CompressedSize {
        /// The page.
        pgno: Pgno,
        /// The size the file claims, in bytes.
        size: u32,
        /// The largest possible one.
        max: u32,
    },
    /// The content of a page is not LZ4.
    #[error("page {pgno} cannot be decompressed: {reason}")]
    Decompress {
        /// The page.
        pgno: Pgno,
        /// What the decompressor said.
        reason: String,
    },
    /// The page index does not describe the pages of the file.
    #[error("the page index does not match the pages of the file: it is damaged")]
    BadIndex,
    /// The checksum in the file is not the one of its content.
    #[error("file checksum mismatch: the file says {expected:016x}, its content has {found:016x}")]
    ChecksumMismatch {
        /// The checksum in the trailer.
        expected: u64,
        /// The checksum of what was read.
        found: u64,
    },
    /// The database checksum of a snapshot is not the one of its pages.
    #[error(
        "database checksum mismatch: the file says {expected:016x}, its pages have {found:016x}"
    )]
    DatabaseChecksumMismatch {
        /// The checksum in the trailer.
        expected: u64,
        /// The checksum of the pages read.
        found: u64,
    },
    /// A checksum of the trailer has a form that the format forbids.
    #[error("impossible LTX trailer: {0}")]
    BadTrailer(&'static str),
    /// The file ends too early.
    #[error("the file ends after {length} bytes, inside its {part}: it is truncated")]
    Truncated {
        /// The length found, in bytes.
        length: u64,
        /// The part that is incomplete.
        part: &'static str,
    },
    /// The file goes on after its trailer.
    #[error("the file goes on after its trailer, which ends at byte {0}")]
    TrailingBytes(u64),
    /// Nothing to merge.
    #[error("a merge needs at least one file")]
    NothingToMerge,
    /// Files of different page sizes cannot be merged.
    #[error("{name} has page size {found} where the files before it have {expected}")]
    MergePageSize {
        /// The file that differs.
        name: LtxName,
        /// The page size of the files before it.
        expected: PageSize,
        /// Its page size.
        found: PageSize,
    },
    /// Files that do not follow each other cannot be merged.
    #[error(
        "{next} does not continue {previous}: it must begin at the next transaction or before, and \
         end after it"
    )]
    MergeGap {
        /// The file before.
        previous: LtxName,
        /// The file that does not continue it.
        next: LtxName,
    },
    /// An earlier error makes what follows meaningless.
    #[error("an earlier error ended this file; start again")]
    Ended,
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

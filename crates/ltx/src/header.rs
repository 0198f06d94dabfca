//! Header and trailer, the two ends of an LTX file.
//!
//! All integers are big-endian.
//!
//! ```text
//! header, 100 bytes                           trailer, 16 bytes
//!   0  4  magic `LTX1`                          0  8  post-apply checksum
//!   4  4  flags: 0x2 = no database checksums    8  8  file checksum
//!   8  4  page size, bytes
//!  12  4  commit: database size, pages
//!  16  8  min TXID
//!  24  8  max TXID
//!  32  8  timestamp, ms since 1970, signed
//!  40  8  pre-apply checksum
//!  48  8  WAL offset, bytes, signed
//!  56  8  WAL size, bytes, signed
//!  64  4  WAL salt 1
//!  68  4  WAL salt 2
//!  72  8  node ID
//!  80 20  zero
//! ```
//!
//! The source of the format is `superfly/ltx`, version 3.

use crate::{Checksum, Error, LtxName, PageSize, Txid, page};

const MAGIC: [u8; 4] = *b"LTX1";
const NO_CHECKSUM: u32 = 1 << 1;

/// Whether a file carries checksums of the whole database.
///
/// Litestream writes none and refuses to restore from files that differ in this, so neither does
/// Evertide; LiteFS writes them, and they are verified when they are read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Tracking {
    /// None: pre-apply and post-apply checksum are zero.
    #[default]
    Off,
    /// The checksum of the database before and after the file is applied.
    On,
}

/// The header of an LTX file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Whether the file carries database checksums.
    pub tracking: Tracking,
    /// The size of a page.
    pub page_size: PageSize,
    /// The size of the database after this file, in pages.
    pub commit: u32,
    /// The first transaction in the file; 1 makes it a snapshot.
    pub min_txid: Txid,
    /// The last transaction in the file.
    pub max_txid: Txid,
    /// When the last transaction was captured, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// The checksum of the database before this file.
    pub pre_apply: Checksum,
    /// Where in the WAL the transactions came from, in bytes; zero if not from one.
    pub wal_offset: i64,
    /// How many bytes of the WAL.
    pub wal_size: i64,
    /// The salts of that WAL.
    pub wal_salt1: u32,
    /// The salts of that WAL.
    pub wal_salt2: u32,
    /// Who wrote the file; zero if not told.
    pub node_id: u64,
}

impl Header {
    /// The length of a header, in bytes.
    pub const LEN: usize = 100;

    /// A header without database checksums, the rest zero.
    pub fn new(page_size: PageSize, commit: u32, min_txid: Txid, max_txid: Txid) -> Self {
        Self {
            tracking: Tracking::Off,
            page_size,
            commit,
            min_txid,
            max_txid,
            timestamp_ms: 0,
            pre_apply: Checksum::NONE,
            wal_offset: 0,
            wal_size: 0,
            wal_salt1: 0,
            wal_salt2: 0,
            node_id: 0,
        }
    }

    /// Whether the file holds a whole database.
    pub fn is_snapshot(&self) -> bool {
        self.min_txid == Txid::FIRST
    }

    /// The name under which the file is stored.
    pub fn name(&self) -> LtxName {
        LtxName::new(self.min_txid, self.max_txid)
    }

    /// The largest size in bytes of a file with this page size and so many pages, whatever the
    /// pages contain.
    pub fn max_file_len(page_size: PageSize, pages: u64) -> u64 {
        let frames =
            pages.saturating_mul(page::HEAD_LEN as u64 + page::max_block(page_size) as u64);
        // The index repeats per page its number (up to 5 bytes), its offset (10) and size (3).
        let index = pages.saturating_mul(5 + 10 + 3) + 1 + 8;
        let ends = (Self::LEN + page::END.len() + Trailer::LEN) as u64;
        frames.saturating_add(index).saturating_add(ends)
    }

    /// Refuses what the format forbids.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.min_txid == Txid::ZERO || self.max_txid < self.min_txid {
            return Err(Error::BadRange {
                min: self.min_txid,
                max: self.max_txid,
            });
        }
        let salted = self.wal_salt1 != 0 || self.wal_salt2 != 0;
        let from_wal = salted || self.wal_size != 0;
        let tracked = self.tracking == Tracking::On;
        let rules = [
            (self.wal_offset < 0, "the WAL offset is negative"),
            (self.wal_size < 0, "the WAL size is negative"),
            (
                from_wal && self.wal_offset == 0,
                "WAL salts or size without a WAL offset",
            ),
            (
                self.commit == 0 && !tracked,
                "a database without pages needs database checksums",
            ),
            (
                self.is_snapshot() && self.pre_apply != Checksum::NONE,
                "a snapshot has nothing before it, but a pre-apply checksum",
            ),
            (
                !tracked && self.pre_apply != Checksum::NONE,
                "a pre-apply checksum in a file without database checksums",
            ),
            (
                tracked && !self.is_snapshot() && !self.pre_apply.is_set(),
                "a file with database checksums lacks the pre-apply checksum",
            ),
        ];
        match rules.iter().find(|(broken, _)| *broken) {
            Some((_, what)) => Err(Error::BadHeader(what)),
            None => Ok(()),
        }
    }

    pub(crate) fn to_bytes(&self) -> [u8; Self::LEN] {
        let flags = match self.tracking {
            Tracking::Off => NO_CHECKSUM,
            Tracking::On => 0,
        };
        let mut bytes = [0; Self::LEN];
        let mut rest = bytes.as_mut_slice();
        let mut put = |field: &[u8]| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(field.len());
            head.copy_from_slice(field);
            rest = tail;
        };
        put(&MAGIC);
        put(&flags.to_be_bytes());
        put(&self.page_size.get().to_be_bytes());
        put(&self.commit.to_be_bytes());
        put(&self.min_txid.get().to_be_bytes());
        put(&self.max_txid.get().to_be_bytes());
        put(&self.timestamp_ms.to_be_bytes());
        put(&self.pre_apply.get().to_be_bytes());
        put(&self.wal_offset.to_be_bytes());
        put(&self.wal_size.to_be_bytes());
        put(&self.wal_salt1.to_be_bytes());
        put(&self.wal_salt2.to_be_bytes());
        put(&self.node_id.to_be_bytes());
        bytes
    }

    /// Reads and validates a header. The reserved bytes are left to the file checksum.
    ///
    /// # Errors
    ///
    /// Where the bytes are not the header of an LTX file of version 3.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Result<Self, Error> {
        let mut fields = Fields(bytes);
        let magic = fields.take();
        if magic != MAGIC {
            return Err(Error::BadMagic(magic));
        }
        let tracking = match u32::from_be_bytes(fields.take()) {
            0 => Tracking::On,
            NO_CHECKSUM => Tracking::Off,
            flags => return Err(Error::BadHeaderFlags(flags)),
        };
        let header = Self {
            tracking,
            page_size: PageSize::new(u32::from_be_bytes(fields.take()))?,
            commit: u32::from_be_bytes(fields.take()),
            min_txid: Txid::new(u64::from_be_bytes(fields.take())),
            max_txid: Txid::new(u64::from_be_bytes(fields.take())),
            timestamp_ms: i64::from_be_bytes(fields.take()),
            pre_apply: Checksum::new(u64::from_be_bytes(fields.take())),
            wal_offset: i64::from_be_bytes(fields.take()),
            wal_size: i64::from_be_bytes(fields.take()),
            wal_salt1: u32::from_be_bytes(fields.take()),
            wal_salt2: u32::from_be_bytes(fields.take()),
            node_id: u64::from_be_bytes(fields.take()),
        };
        header.validate()?;
        Ok(header)
    }
}

/// Cuts fields off the front of a slice; what lies behind its end reads as zero.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }
}

/// The trailer of an LTX file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trailer {
    /// The checksum of the database after this file; none where the header says so.
    pub post_apply: Checksum,
    /// The checksum of the file.
    pub file: Checksum,
}

impl Trailer {
    /// The length of a trailer, in bytes.
    pub const LEN: usize = 16;

    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (post_apply, file) = bytes.split_at_mut(8);
        post_apply.copy_from_slice(&self.post_apply.get().to_be_bytes());
        file.copy_from_slice(&self.file.get().to_be_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            post_apply: Checksum::new(u64::from_be_bytes(fields.take())),
            file: Checksum::new(u64::from_be_bytes(fields.take())),
        }
    }

    /// Refuses what the format forbids in the trailer of a file with this header.
    pub(crate) fn validate(self, header: &Header) -> Result<(), Error> {
        match header.tracking {
            Tracking::Off if self.post_apply != Checksum::NONE => Err(Error::BadTrailer(
                "a post-apply checksum in a file without database checksums",
            )),
            Tracking::On if !self.post_apply.is_set() => Err(Error::BadTrailer(
                "a file with database checksums lacks the post-apply one",
            )),
            Tracking::On if header.commit == 0 && self.post_apply != Checksum::EMPTY => Err(
                Error::BadTrailer("a database without pages has a checksum of pages"),
            ),
            _ => Ok(()),
        }
    }
}

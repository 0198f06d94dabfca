//! The checksums of the format: CRC-64/GO-ISO, with the highest bit always set.

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest, checksum_combine};

use crate::Pgno;

const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc64GoIso;

/// The highest bit, set in every checksum so that none is zero.
const FLAG: u64 = 1 << 63;

/// The checksum of a page, a database or a file; zero where none is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// No checksum.
    pub const NONE: Self = Self(0);
    /// The checksum of a database without pages.
    pub const EMPTY: Self = Self(FLAG);

    /// The checksum with this value.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The value as an integer.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The checksum of a page: of its number (32 bits, big-endian) and its content.
    pub fn page(pgno: Pgno, page: &[u8]) -> Self {
        let mut digest = Digest::new(ALGORITHM);
        digest.update(&pgno.get().to_be_bytes());
        digest.update(page);
        Self(digest.finalize() | FLAG)
    }

    /// This database checksum after a page with that checksum was added, or taken away.
    ///
    /// The checksum of a database is the XOR of those of its pages, so that a changed page costs
    /// two steps: the old page out, the new one in.
    #[must_use]
    pub const fn toggle(self, page: Self) -> Self {
        Self((self.0 ^ page.0) | FLAG)
    }

    /// Whether this is a checksum at all, as opposed to [`Checksum::NONE`] or garbage.
    pub const fn is_set(self) -> bool {
        self.0 & FLAG != 0
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({:016x})", self.0)
    }
}

/// The checksum of a file while it is read or written.
#[derive(Clone, Debug)]
pub(crate) struct FileDigest(Digest);

impl FileDigest {
    pub(crate) fn new() -> Self {
        Self(Digest::new(ALGORITHM))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// What was digested, to be appended to the digest of what lies before it.
    pub(crate) fn part(&self) -> DigestPart {
        DigestPart {
            crc: self.0.finalize(),
            len: self.0.get_amount(),
        }
    }

    pub(crate) fn finish(&self) -> Checksum {
        self.part().finish()
    }
}

/// The digest of some bytes of a file, computed apart from those before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DigestPart {
    crc: u64,
    len: u64,
}

impl DigestPart {
    /// The digest of these bytes followed by those of `next`.
    pub(crate) fn append(self, next: Self) -> Self {
        Self {
            crc: checksum_combine(ALGORITHM, self.crc, next.crc, next.len),
            len: self.len + next.len,
        }
    }

    pub(crate) fn finish(self) -> Checksum {
        Checksum(self.crc | FLAG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_go_calls_crc64_iso() {
        assert_eq!(
            crc_fast::checksum(ALGORITHM, b"123456789"),
            0xb909_56c7_75a4_1001
        );
    }

    #[test]
    fn digests_of_parts_combine_to_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..100_000_u32)
            .map(|n| (n.wrapping_mul(n) >> 5) as u8)
            .collect();
        let digest = |bytes: &[u8]| {
            let mut digest = FileDigest::new();
            digest.update(bytes);
            digest.part()
        };
        for cut in [0, 1, 100, 99_999, 100_000] {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(
                digest(head).append(digest(tail)),
                digest(&bytes),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn the_checksum_of_every_page_has_the_flag() {
        for number in 1..100 {
            let page = Checksum::page(Pgno::new(number).unwrap(), &[7; 512]);
            assert_eq!(page.get() & FLAG, FLAG, "page {number}");
        }
    }

    #[test]
    fn a_page_put_in_and_taken_out_leaves_the_database_checksum_unchanged() {
        let page = Checksum::page(Pgno::FIRST, &[7; 512]);
        let other = Checksum::page(Pgno::FIRST, &[8; 512]);
        assert_ne!(page, other);
        let database = Checksum::EMPTY.toggle(page);
        assert_ne!(database, Checksum::EMPTY);
        assert_eq!(database.toggle(other).toggle(other), database);
    }
}

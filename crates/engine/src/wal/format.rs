//! The `-wal` file: its header and its frames.
//!
//! ```text
//! header, 32 bytes, big-endian          frame header, 24 bytes, big-endian, then one page
//!  0 magic 0x377f0682 | 0x377f0683       0 page number
//!  4 version 3007000                     4 database size in pages, 0 unless the frame commits
//!  8 page size                           8 salt-1, salt-2 of the header
//! 12 checkpoint sequence                16 checksum of everything so far
//! 16 salt-1, salt-2
//! 24 checksum of bytes 0..24
//! ```
//!
//! Magic `…82` means that checksums run over little-endian words, `…83` over big-endian ones.
//! Source: <https://www.sqlite.org/walformat.html>.

use evertide_ltx::PageSize;

/// Bytes of the WAL header.
pub(crate) const WAL_HEADER_LEN: usize = 32;
/// Bytes of a frame header.
pub(crate) const FRAME_HEADER_LEN: usize = 24;

const MAGIC_LITTLE_ENDIAN: u32 = 0x377f_0682;
const MAGIC_BIG_ENDIAN: u32 = 0x377f_0683;
const VERSION: u32 = 3_007_000;

/// The two salts that name one generation of a WAL, as the eight bytes SQLite writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Salts(pub(crate) [u8; 8]);

impl Salts {
    /// Salt-1 and salt-2.
    pub(crate) fn numbers(self) -> (u32, u32) {
        let value = u64::from_be_bytes(self.0);
        ((value >> 32) as u32, value as u32)
    }
}

/// How the words of a checksum are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

/// SQLite's running WAL checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct WalChecksum(pub(crate) u32, pub(crate) u32);

impl WalChecksum {
    /// The checksum with `bytes` (a multiple of eight) added.
    pub(crate) fn update(self, order: ByteOrder, bytes: &[u8]) -> Self {
        let (pairs, rest) = bytes.as_chunks::<8>();
        debug_assert!(rest.is_empty());
        let Self(mut a, mut b) = self;
        for pair in pairs {
            // One load for both words: this loop is most of what reading a WAL costs.
            let (x, y) = match order {
                ByteOrder::Little => {
                    let both = u64::from_le_bytes(*pair);
                    (both as u32, (both >> 32) as u32)
                }
                ByteOrder::Big => {
                    let both = u64::from_be_bytes(*pair);
                    ((both >> 32) as u32, both as u32)
                }
            };
            a = a.wrapping_add(x).wrapping_add(b);
            b = b.wrapping_add(y).wrapping_add(a);
        }
        Self(a, b)
    }
}

/// The header of a `-wal` file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WalHeader {
    /// How checksums of this file read words.
    pub(crate) order: ByteOrder,
    /// The size of the page behind each frame header.
    pub(crate) page_size: PageSize,
    /// The generation.
    pub(crate) salts: Salts,
    /// Checksum of the header: where the checksums of the frames start from.
    pub(crate) checksum: WalChecksum,
}

impl WalHeader {
    /// Reads a header; `None` where it is not one, or its checksum does not match.
    pub(crate) fn parse(bytes: &[u8; WAL_HEADER_LEN]) -> Option<Self> {
        let order = match word(bytes, 0)? {
            MAGIC_LITTLE_ENDIAN => ByteOrder::Little,
            MAGIC_BIG_ENDIAN => ByteOrder::Big,
            _ => return None,
        };
        if word(bytes, 4)? != VERSION {
            return None;
        }
        let page_size = PageSize::new(word(bytes, 8)?).ok()?;
        let checksum = WalChecksum::default().update(order, bytes.get(..24)?);
        let stored = WalChecksum(word(bytes, 24)?, word(bytes, 28)?);
        let salts = Salts(*bytes.get(16..)?.first_chunk()?);
        (checksum == stored).then_some(Self {
            order,
            page_size,
            salts,
            checksum,
        })
    }
}

/// The header of one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameHeader {
    /// The page that follows.
    pub(crate) pgno: u32,
    /// Database size in pages after the transaction that this frame ends; 0 inside one.
    pub(crate) commit: u32,
    /// The generation it belongs to.
    pub(crate) salts: Salts,
    /// Checksum of everything up to and including this frame.
    pub(crate) checksum: WalChecksum,
}

impl FrameHeader {
    /// Reads a frame header; `None` where there are too few bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            pgno: word(bytes, 0)?,
            commit: word(bytes, 4)?,
            salts: Salts(*bytes.get(8..)?.first_chunk()?),
            checksum: WalChecksum(word(bytes, 16)?, word(bytes, 20)?),
        })
    }
}

/// Where frame `index`, from 0, starts in the file, in bytes.
pub(crate) fn frame_offset(index: u32, page_size: PageSize) -> u64 {
    WAL_HEADER_LEN as u64
        + u64::from(index) * (FRAME_HEADER_LEN as u64 + u64::from(page_size.get()))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by SQLite 3.40.1 on a little-endian machine: the header of a fresh WAL.
    /// `sqlite3 t.db 'pragma page_size=512; pragma journal_mode=wal; create table t(a); …'`
    fn fresh_wal() -> (tempfile::TempDir, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let conn = rusqlite::Connection::open(dir.path().join("t.db")).unwrap();
        conn.execute_batch(
            "pragma page_size=512; pragma journal_mode=wal; create table t(a);
             insert into t values (zeroblob(3000));",
        )
        .unwrap();
        #[expect(clippy::disallowed_methods, reason = "the -wal file carries no locks")]
        let bytes = std::fs::read(dir.path().join("t.db-wal")).unwrap();
        drop(conn);
        (dir, bytes)
    }

    #[test]
    fn every_checksum_of_a_wal_that_sqlite_wrote_is_reproduced() {
        let (_dir, bytes) = fresh_wal();
        let header = WalHeader::parse(bytes.first_chunk().unwrap()).unwrap();
        assert_eq!(header.page_size.get(), 512);
        let mut checksum = header.checksum;
        let frames: Vec<_> = bytes[WAL_HEADER_LEN..]
            .chunks(FRAME_HEADER_LEN + 512)
            .collect();
        assert!(frames.len() > 5);
        for frame in frames {
            let parsed = FrameHeader::parse(frame).unwrap();
            checksum = checksum.update(header.order, &frame[..8]);
            checksum = checksum.update(header.order, &frame[FRAME_HEADER_LEN..]);
            assert_eq!(parsed.checksum, checksum);
            assert_eq!(parsed.salts, header.salts);
        }
    }

    #[test]
    fn the_byte_order_follows_the_magic_number() {
        let (_dir, bytes) = fresh_wal();
        let mut header: [u8; WAL_HEADER_LEN] = *bytes.first_chunk().unwrap();
        assert!(WalHeader::parse(&header).is_some());
        header[3] ^= 1; // the other magic number: the same bytes no longer add up
        assert!(WalHeader::parse(&header).is_none());
    }
}

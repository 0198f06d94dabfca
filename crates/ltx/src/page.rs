//! The page block: one frame per page, in ascending order.
//!
//! All integers are big-endian.
//!
//! ```text
//! frame                                       old frame, without the size flag
//!   0  4  page number                           0  4  page number
//!   4  2  flags: 0x1 = a size follows           4  2  flags: 0
//!   6  4  size of the block, bytes              6  n  LZ4 frame of one page
//!  10  n  LZ4 block of one page
//!
//! end of the page block: 6 zero bytes
//! ```

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into};

use crate::{Error, Header, PageSize, Pgno, stream};

/// The end of the page block: a frame header of zeros.
pub(crate) const END: [u8; 6] = [0; 6];
/// The length of a frame's header in front of its LZ4 block.
pub(crate) const HEAD_LEN: usize = 10;

const SIZED: u16 = 1;

/// The largest LZ4 block one page can become, in bytes: LZ4's own bound, which all encoders keep.
pub(crate) const fn max_block(size: PageSize) -> usize {
    size.len() + size.len() / 255 + 16
}

/// The largest LZ4 frame of an older file, in bytes: that of an encoder which flushes at will.
pub(crate) const fn max_stream(size: PageSize) -> usize {
    2 * max_block(size)
}

/// How the content of a page is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encoding {
    /// An LZ4 block, behind a frame header of `HEAD_LEN`.
    Block,
    /// An LZ4 frame, behind a frame header of 6 bytes.
    Stream,
}

/// The number and flags with which every frame starts; `None` at the end of the page block.
pub(crate) fn parse_start(bytes: [u8; 6]) -> Option<(u32, u16)> {
    let [a, b, c, d, e, f] = bytes;
    (bytes != END).then_some((u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, f])))
}

/// How the content behind these flags is stored.
pub(crate) fn encoding(pgno: Pgno, flags: u16) -> Result<Encoding, Error> {
    match flags {
        0 => Ok(Encoding::Stream),
        SIZED => Ok(Encoding::Block),
        flags => Err(Error::BadPageFlags { pgno, flags }),
    }
}

/// Refuses a size that no LZ4 block of a page can have.
pub(crate) fn check_block_size(pgno: Pgno, size: u32, page: PageSize) -> Result<usize, Error> {
    let max = max_block(page);
    match usize::try_from(size) {
        Ok(len) if (1..=max).contains(&len) => Ok(len),
        _ => Err(Error::CompressedSize {
            pgno,
            size,
            max: max as u32,
        }),
    }
}

/// The header of a frame with a block of this size.
pub(crate) fn head(pgno: Pgno, block: usize) -> [u8; HEAD_LEN] {
    let [a, b, c, d] = pgno.get().to_be_bytes();
    let [e, f] = SIZED.to_be_bytes();
    let [g, h, i, j] = (block as u32).to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j]
}

/// Compresses a page into the front of `out`, and returns the size of the block.
pub(crate) fn compress(
    pgno: Pgno,
    page: &[u8],
    out: &mut [u8],
    table: &mut CompressTable,
) -> Result<usize, Error> {
    compress_into_with_table(page, out, table).map_err(|error| Error::Decompress {
        pgno,
        reason: error.to_string(),
    })
}

/// Decompresses the content of a frame into exactly that page.
pub(crate) fn decompress(
    pgno: Pgno,
    encoding: Encoding,
    body: &[u8],
    page: &mut [u8],
) -> Result<(), Error> {
    let result = match encoding {
        Encoding::Stream => stream::decompress(body, page),
        Encoding::Block => match decompress_into(body, page) {
            Ok(found) if found == page.len() => Ok(()),
            Ok(found) => Err(format!("{found} bytes where the page has {}", page.len())),
            Err(error) => Err(error.to_string()),
        },
    };
    result.map_err(|reason| Error::Decompress { pgno, reason })
}

/// The rules for the page numbers of one file, kept by encoder and decoder alike.
#[derive(Debug)]
pub(crate) struct PageOrder {
    snapshot: bool,
    commit: u32,
    lock: u32,
    previous: u32,
}

impl PageOrder {
    pub(crate) fn new(header: &Header) -> Self {
        Self {
            snapshot: header.is_snapshot(),
            commit: header.commit,
            lock: header.page_size.lock_page().get(),
            previous: 0,
        }
    }

    /// Accepts the next page of the file, or says which rule it breaks.
    pub(crate) fn accept(&mut self, pgno: u32) -> Result<Pgno, Error> {
        let after = self.previous;
        let page = Pgno::new(pgno).ok_or(Error::ZeroPage { after })?;
        if pgno == self.lock {
            return Err(Error::LockPage(page));
        }
        if pgno > self.commit {
            return Err(Error::PageBeyondCommit {
                pgno: page,
                commit: self.commit,
            });
        }
        if pgno <= after {
            return Err(Error::PageOrder { pgno: page, after });
        }
        if self.snapshot && pgno != self.following() {
            return Err(Error::MissingPage {
                missing: self.following(),
                commit: self.commit,
            });
        }
        self.previous = pgno;
        Ok(page)
    }

    /// Accepts the end of the page block, or says which page a snapshot lacks.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        if self.snapshot && self.following() <= self.commit {
            return Err(Error::MissingPage {
                missing: self.following(),
                commit: self.commit,
            });
        }
        Ok(())
    }

    /// The page after the previous one, without the lock page.
    fn following(&self) -> u32 {
        let next = self.previous.saturating_add(1);
        if next == self.lock {
            next.saturating_add(1)
        } else {
            next
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Txid;

    fn order(min: u64, commit: u32) -> PageOrder {
        let size = PageSize::new(65_536).unwrap();
        PageOrder::new(&Header::new(size, commit, Txid::new(min), Txid::new(9)))
    }

    /// The lock page of a database with 64 KiB pages.
    const LOCK: u32 = 16_385;

    #[test]
    fn a_snapshot_without_one_of_its_pages_is_refused() {
        let missing = |pages: &[u32]| {
            let mut order = order(1, 3);
            let result = pages
                .iter()
                .try_for_each(|pgno| order.accept(*pgno).map(|_| ()));
            match result.and_then(|()| order.finish()) {
                Ok(()) => None,
                Err(Error::MissingPage { missing, .. }) => Some(missing),
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(missing(&[1, 2, 3]), None);
        assert_eq!(missing(&[2, 3]), Some(1));
        assert_eq!(missing(&[1, 3]), Some(2));
        assert_eq!(missing(&[1, 2]), Some(3));
        assert_eq!(missing(&[]), Some(1));
    }

    #[test]
    fn a_snapshot_steps_over_the_lock_page() {
        for commit in [LOCK - 1, LOCK, LOCK + 1] {
            let mut order = order(1, commit);
            for pgno in (1..=commit).filter(|pgno| *pgno != LOCK) {
                order.accept(pgno).unwrap();
            }
            order.finish().unwrap();
        }
    }

    #[test]
    fn the_lock_page_is_refused_everywhere() {
        for min in [1, 2] {
            assert!(matches!(
                order(min, LOCK + 1).accept(LOCK),
                Err(Error::LockPage(_))
            ));
        }
    }

    #[test]
    fn pages_out_of_order_repeated_or_beyond_the_database_are_refused() {
        let mut order = order(2, 10);
        assert!(matches!(order.accept(0), Err(Error::ZeroPage { .. })));
        order.accept(4).unwrap();
        assert!(matches!(order.accept(4), Err(Error::PageOrder { .. })));
        assert!(matches!(order.accept(3), Err(Error::PageOrder { .. })));
        assert!(matches!(
            order.accept(11),
            Err(Error::PageBeyondCommit { .. })
        ));
        order.accept(10).unwrap();
        order.finish().unwrap();
    }
}

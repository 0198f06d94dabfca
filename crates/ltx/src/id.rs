//! The numbers LTX files are made of, each with the bounds the format gives it.

use std::{fmt, num::NonZeroU32, str::FromStr};

use crate::Error;

/// A transaction ID: the position of a database's history. Written as 16 lower-case hex digits.
///
/// `Txid::ZERO` means "nothing yet"; the first transaction is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Txid(u64);

impl Txid {
    /// Before the first transaction.
    pub const ZERO: Self = Self(0);
    /// The first transaction; a file that starts here holds a whole database.
    pub const FIRST: Self = Self(1);
    /// The largest one.
    pub const MAX: Self = Self(u64::MAX);

    /// The transaction ID with this value.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The value as an integer.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one after this.
    ///
    /// # Panics
    ///
    /// At `Txid::MAX`, which no history reaches: one transaction a nanosecond takes 584 years.
    pub fn next(self) -> Self {
        Self(
            self.0
                .checked_add(1)
                .expect("a history shorter than 2^64 transactions"),
        )
    }

    /// The one before this, `Txid::ZERO` at zero.
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Txid({:x})", self.0)
    }
}

impl FromStr for Txid {
    type Err = Error;

    /// Reads exactly 16 lower-case or upper-case hex digits.
    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let value = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        value
            .map(Self)
            .ok_or_else(|| Error::BadTxid(text.chars().take(40).collect()))
    }
}

/// A page number, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pgno(NonZeroU32);

impl Pgno {
    /// The first page, which holds the database header.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The page with this number, `None` for zero.
    pub const fn new(value: u32) -> Option<Self> {
        match NonZeroU32::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The number as an integer.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Where the page starts in the database file, in bytes.
    pub const fn offset(self, size: PageSize) -> u64 {
        (self.get() as u64 - 1) * size.get() as u64
    }
}

impl fmt::Display for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The size of a page in bytes: a power of two from 512 to 65,536.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageSize(u32);

impl PageSize {
    /// The largest page SQLite knows, in bytes.
    pub const MAX: Self = Self(65_536);

    /// The page size of this many bytes.
    ///
    /// # Errors
    ///
    /// [`Error::BadPageSize`] where SQLite has no such page size.
    pub const fn new(bytes: u32) -> Result<Self, Error> {
        if bytes.is_power_of_two() && 512 <= bytes && bytes <= Self::MAX.0 {
            Ok(Self(bytes))
        } else {
            Err(Error::BadPageSize(bytes))
        }
    }

    /// The size in bytes.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The size in bytes, for slices.
    #[expect(clippy::len_without_is_empty, reason = "no page is empty")]
    pub const fn len(self) -> usize {
        self.0 as usize
    }

    /// The page at 1 GiB, where SQLite keeps its locks: no content, never part of an LTX file.
    pub const fn lock_page(self) -> Pgno {
        match Pgno::new(0x4000_0000 / self.0 + 1) {
            Some(pgno) => pgno,
            None => Pgno::FIRST, // unreachable: the sum is at least 16,385
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A compaction level of a replica: 0 holds one file per sync, 1 to 8 compacted ones, 9 snapshots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Level(u8);

impl Level {
    /// One file per sync.
    pub const L0: Self = Self(0);
    /// Whole databases.
    pub const SNAPSHOT: Self = Self(9);

    /// The level with this number, `None` above 9.
    pub const fn new(value: u8) -> Option<Self> {
        if value <= 9 { Some(Self(value)) } else { None }
    }

    /// The number as an integer.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// All levels, 0 to 9.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..=9).map(Self)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_and_pages_lie_one_behind_the_other() {
        assert_eq!(Txid::FIRST.next(), Txid::new(2));
        let size = PageSize::new(512).unwrap();
        let page = |number| Pgno::new(number).unwrap();
        assert_eq!(page(1).offset(size), 0);
        assert_eq!(page(3).offset(size), 1024);
        assert_eq!(
            page(u32::MAX).offset(PageSize::MAX),
            (u64::from(u32::MAX) - 1) << 16
        );
    }

    #[test]
    fn levels_are_0_to_9() {
        assert!(Level::all().map(Level::get).eq(0..=9));
        assert_eq!(Level::new(9), Some(Level::SNAPSHOT));
        assert_eq!(Level::new(10), None);
    }
}

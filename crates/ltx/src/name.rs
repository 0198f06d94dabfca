//! Names of LTX files: `<min TXID>-<max TXID>.ltx`, each 16 lower-case hex digits.

use std::{fmt, str::FromStr};

use crate::{Error, Txid};

/// The name of an LTX file: the transactions it holds, both included.
///
/// Names sort by first transaction, then by last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LtxName {
    /// The first transaction in the file.
    pub min: Txid,
    /// The last one.
    pub max: Txid,
}

impl LtxName {
    /// The name of the file with these transactions.
    pub const fn new(min: Txid, max: Txid) -> Self {
        Self { min, max }
    }

    /// Whether the file holds a whole database: its transactions start at the first one.
    pub fn is_snapshot(self) -> bool {
        self.min == Txid::FIRST
    }

    /// Whether this file extends a history that ends at `position`: nothing is missing between
    /// them, and it goes further. What it repeats does no harm, since it holds the newer pages.
    pub fn extends(self, position: Txid) -> bool {
        self.min.previous() <= position && position < self.max
    }
}

impl fmt::Display for LtxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.ltx", self.min, self.max)
    }
}

impl FromStr for LtxName {
    type Err = Error;

    /// Reads exactly what `Display` writes; transactions start at 1 and ascend.
    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (min, max) = text.strip_suffix(".ltx")?.split_once('-')?;
            let name = Self::new(min.parse().ok()?, max.parse().ok()?);
            let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
            (lower && Txid::ZERO < name.min && name.min <= name.max).then_some(name)
        };
        parse().ok_or_else(|| Error::BadName(text.chars().take(60).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_printing_and_parsing() {
        let name = LtxName::new(Txid::new(0x2a), Txid::MAX);
        assert_eq!(name.to_string(), "000000000000002a-ffffffffffffffff.ltx");
        assert_eq!(name.to_string().parse::<LtxName>().unwrap(), name);
    }

    #[test]
    fn what_litestream_would_not_list_is_not_taken_for_an_ltx_file() {
        for text in [
            "",
            "0000000000000001-0000000000000002",
            "0000000000000001-0000000000000002.ltx.tmp",
            "0000000000000001_0000000000000002.ltx",
            "0000000000000001-000000000000002.ltx",
            "000000000000000A-000000000000000B.ltx",
            "+000000000000001-0000000000000002.ltx",
            "0000000000000000-0000000000000002.ltx",
            "0000000000000003-0000000000000002.ltx",
            "0000000000000001-00000000000000é2.ltx",
        ] {
            assert!(
                matches!(text.parse::<LtxName>(), Err(Error::BadName(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn what_starts_at_the_first_transaction_is_a_snapshot() {
        let snapshot = |min, max| LtxName::new(Txid::new(min), Txid::new(max)).is_snapshot();
        assert!(snapshot(1, 1) && snapshot(1, 9));
        assert!(!snapshot(2, 9));
    }

    #[test]
    fn a_file_extends_a_history_only_without_a_gap_and_only_if_it_goes_further() {
        let name = LtxName::new(Txid::new(5), Txid::new(9));
        let extends: Vec<u64> = (0..12).filter(|n| name.extends(Txid::new(*n))).collect();
        assert_eq!(extends, [4, 5, 6, 7, 8]);
    }
}

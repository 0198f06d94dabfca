//! Checksums of the whole database, as they were when it was captured, beside the files that have to
//! make the same database again. Pure.
//!
//! One small object of the replica holds them, as text:
//!
//! ```text
//! evertide checksums 1
//! 00000000000000a7 ms 1700000000000 pages 512 checksum 9c0d3f0a5b7e1122
//! ...
//! crc 8a6f2b1c00d3e4f5
//! ```
//!
//! The last line has the CRC-64 of those before it. A record counts for the file with this transaction
//! as its last one and this timestamp: other histories count transactions, too.

use std::{collections::BTreeSet, fmt::Write};

use evertide_ltx::{Checksum, Pgno, Txid};

use super::VerifyReport;
use crate::state::Position;

const TITLE: &str = "evertide checksums 1";
/// The widths of windows, in milliseconds, and of how many windows the last record is kept: as long as
/// compaction with the default settings keeps a file that ends there.
const TIERS: [(i64, usize); 4] = [
    (30_000, 12),
    (300_000, 14),
    (3_600_000, 26),
    (86_400_000, 32),
];

/// The checksum of the database after one transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) txid: Txid,
    /// When it was captured, as in the header of the file.
    pub(crate) timestamp_ms: i64,
    /// The size of the database, in pages.
    pub(crate) pages: u32,
    pub(crate) checksum: Checksum,
}

impl Record {
    /// The record of a captured transaction, where the checksum is known.
    pub(crate) fn of(position: &Position) -> Option<Self> {
        let sum = position.table?.checksums;
        Some(Self {
            txid: position.txid,
            timestamp_ms: position.timestamp_ms,
            pages: position.pages,
            checksum: Content::of_sum(position.pages, sum).checksum,
        })
    }

    /// What the database holds then.
    pub(crate) fn content(&self) -> Content {
        Content {
            pages: self.pages,
            checksum: self.checksum,
        }
    }
}

/// What a database holds, as its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    /// The size of the database, in pages.
    pages: u32,
    checksum: Checksum,
}

impl Content {
    /// The newest state that a verification came to, where it knows every page.
    pub(crate) fn of(report: &VerifyReport) -> Option<Self> {
        Some(Self {
            pages: report.pages,
            checksum: Checksum::new(report.database_checksum?),
        })
    }

    /// A database of so many pages, whose checksums XOR to this.
    pub(crate) fn of_sum(pages: u32, sum: u64) -> Self {
        // The XOR of checksums, each of which has the highest bit set, may have lost that.
        let checksum = Checksum::EMPTY.toggle(Checksum::new(sum));
        Self { pages, checksum }
    }
}

/// Adds a record. Those that nobody will look for any more go: what is left is bounded.
pub(super) fn add(records: &mut Vec<Record>, record: Record) {
    records.retain(|other| other.txid < record.txid);
    records.push(record);
    thin(records);
}

/// Puts records that were published before in front of those that are new.
pub(super) fn prepend(records: &mut Vec<Record>, mut published: Vec<Record>) {
    let first = records.first().map(|record| record.txid);
    published.retain(|record| first.is_none_or(|first| record.txid < first));
    published.append(records);
    *records = published;
    thin(records);
}

/// Keeps the last record of each of the newest windows of each width.
fn thin(records: &mut Vec<Record>) {
    let mut kept = BTreeSet::new();
    for (width, windows) in TIERS {
        let mut seen = BTreeSet::new();
        for record in records.iter().rev() {
            if seen.len() == windows {
                break;
            }
            if seen.insert(record.timestamp_ms.div_euclid(width)) {
                kept.insert(record.txid);
            }
        }
    }
    records.retain(|record| kept.contains(&record.txid));
}

/// The object that holds these records.
pub(crate) fn encode(records: &[Record]) -> Vec<u8> {
    let mut text = format!("{TITLE}\n");
    for record in records {
        let (ms, pages) = (record.timestamp_ms, record.pages);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{} ms {ms} pages {pages} checksum {}",
            record.txid, record.checksum
        );
    }
    sealed(text)
}

/// Reads what `encode` wrote; `None` where it is damaged, or of another version.
pub(super) fn decode(content: &[u8]) -> Option<Vec<Record>> {
    let mut lines = unsealed(content)?.lines();
    if lines.next()? != TITLE {
        return None;
    }
    lines.map(decode_line).collect()
}

fn decode_line(line: &str) -> Option<Record> {
    let words: Vec<_> = line.split(' ').collect();
    let [txid, "ms", ms, "pages", pages, "checksum", checksum] = words[..] else {
        return None;
    };
    Some(Record {
        txid: txid.parse().ok()?,
        timestamp_ms: ms.parse().ok()?,
        pages: pages.parse().ok()?,
        checksum: Checksum::new(u64::from_str_radix(checksum, 16).ok()?),
    })
}

/// Text whose last line has the CRC-64 of those before it.
pub(crate) fn sealed(mut text: String) -> Vec<u8> {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "crc {}", crc(text.as_bytes()));
    text.into_bytes()
}

/// The lines before the last one; `None` where that contradicts them.
pub(crate) fn unsealed(content: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(content).ok()?;
    let crc_line = text.strip_suffix('\n')?.rsplit_once('\n')?.1;
    let body = text.get(..text.len() - crc_line.len() - 1)?;
    (crc_line == format!("crc {}", crc(body.as_bytes()))).then_some(body)
}

/// Puts a line with the right checksum at the end of whatever bytes.
#[cfg(test)]
pub(crate) fn seal_again(bytes: &mut Vec<u8>) {
    let end = bytes.windows(5).rposition(|window| window == b"\ncrc ");
    bytes.truncate(end.map_or(bytes.len(), |end| end + 1));
    let crc = crc(bytes);
    bytes.extend(format!("crc {crc}\n").bytes());
}

fn crc(body: &[u8]) -> Checksum {
    Checksum::page(Pgno::FIRST, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(txid: u64, timestamp_ms: i64) -> Record {
        Record {
            txid: Txid::new(txid),
            timestamp_ms,
            pages: txid as u32 * 3,
            checksum: Checksum::new((1 << 63) | (txid * 77)),
        }
    }

    #[test]
    fn records_survive_writing_and_reading_and_no_flipped_bit_does() {
        for records in [
            vec![],
            vec![record(1, 5)],
            vec![record(3, -9), record(0xa7, i64::MAX)],
        ] {
            let content = encode(&records);
            assert_eq!(decode(&content), Some(records));
            for at in 0..content.len() {
                for bit in 0..8 {
                    let mut damaged = content.clone();
                    damaged[at] ^= 1 << bit;
                    assert_eq!(decode(&damaged), None, "bit {bit} of byte {at}");
                }
                assert_eq!(decode(&content[..at]), None, "cut off at {at}");
            }
            assert_eq!(decode(&[&content[..], b"\n"].concat()), None);
        }
    }

    #[test]
    fn the_last_record_of_every_recent_window_is_kept_and_their_number_is_bounded() {
        let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
        let bound: usize = TIERS.iter().map(|(_, windows)| windows).sum();
        for _ in 0..30 {
            let (mut records, mut all) = (Vec::new(), Vec::new());
            let mut time = 1_700_000_000_000;
            let pace = [1_000, 60_000, 4_000_000][random.usize(..3)];
            for txid in 1..1_500 {
                time += random.i64(1..pace);
                let new = record(txid, time);
                all.push(new);
                add(&mut records, new);
                assert!(records.len() <= bound);
                assert_eq!(records.last(), Some(&new));
                assert!(records.is_sorted_by_key(|record| record.txid));
            }
            for (width, windows) in TIERS {
                let window = |record: &Record| record.timestamp_ms.div_euclid(width);
                let mut last: Vec<_> = all.chunk_by(|a, b| window(a) == window(b)).collect();
                last.reverse();
                for chunk in last.iter().take(windows) {
                    assert!(
                        records.contains(chunk.last().unwrap()),
                        "window of {width} ms"
                    );
                }
            }
        }
    }

    #[test]
    fn published_records_come_before_new_ones_and_never_in_their_place() {
        let mut records = vec![record(5, 50), record(6, 90_000)];
        prepend(
            &mut records,
            vec![record(3, 10), record(5, 40_000), record(9, 60)],
        );
        let txids: Vec<_> = records.iter().map(|record| record.txid.get()).collect();
        assert_eq!(txids, [5, 6], "3 is of the window of 5");
        let mut records = vec![record(5, 50_000)];
        prepend(
            &mut records,
            vec![record(3, 10), record(5, 40_000), record(9, 60)],
        );
        let txids: Vec<_> = records.iter().map(|record| record.txid.get()).collect();
        assert_eq!(txids, [3, 5]);
        assert_eq!(records[1].timestamp_ms, 50_000);
    }
}

//! Where capture stands: one small record, written in two slots by turns.
//!
//! ```text
//!   0 `EVTPOS02`             48 running checksum's second  80 min TXID of the newest staged file
//!   8 sequence number        52 database size in pages     88 page size
//!  16 TXID                   56 flags: 1 = table complete  96 sum of the table's transactions
//!  24 salts                  60 start of the machine       104 what replicas had, 8 of 24 bytes
//!  32 database inode         64 timestamp of the TXID, ms  296 inode of the WAL, 0 if not known
//!  40 frame index, from 0    72 database checksum (XOR of  376 CRC-64 of bytes 0..376
//!  44 running checksum          the page checksums)
//! ```
//!
//! Integers are little-endian. A slot that was being written when the process died does not add up,
//! and the other one, of the sync before, is used; so is none when both are damaged. The record is
//! a cache: losing it costs time, never correctness. It is not synced, as a power cut that
//! loses it loses no more than that.
//!
//! What replicas had is part of the record, and not a file of its own, so that both go back together
//! when a power cut takes the newest: a transaction that the record does not reach may have been
//! captured again, cut elsewhere.

use std::{io, path::Path};

use evertide_ltx::{Checksum, PageSize, Pgno, Txid};
use evertide_storage::{Disk, DiskFile};

use super::{TableSums, Tips};
use crate::wal::{Salts, WalChecksum};

const MAGIC: [u8; 8] = *b"EVTPOS02";
const LEN: usize = 384;
const TIPS: usize = 104;
const WAL_INODE: usize = 296;
/// Slots are apart by more than a sector, so that a torn write hits one of them.
const SLOT_OFFSETS: [u64; 2] = [0, 4_096];
const FLAG_TABLE: u32 = 1;

/// Where capture stands in one generation of a WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    /// The newest captured transaction.
    pub(crate) txid: Txid,
    /// When it was captured, in milliseconds since the epoch, as in the header of every file that
    /// ends with it.
    pub(crate) timestamp_ms: i64,
    /// The first transaction of the staged file that ends at `txid`.
    pub(crate) staged_min: Txid,
    /// The generation of the WAL.
    pub(crate) salts: Salts,
    /// Frames of it that are captured.
    pub(crate) frames: u32,
    /// The running checksum at the last of them; meaningless while `frames` is 0.
    pub(crate) checksum: WalChecksum,
    /// Size of a page.
    pub(crate) page_size: PageSize,
    /// Size of the database in pages.
    pub(crate) pages: u32,
    /// The inode of the database file, to tell a replaced one.
    pub(crate) inode: u64,
    /// That of the WAL, to tell one that was left beside another database; 0 where it is not known.
    pub(crate) wal_inode: u64,
    /// Which start of the machine it was captured in, by a checksum; 0 where that is not known.
    pub(crate) boot: u32,
    /// What the page table adds up to, where it is complete.
    pub(crate) table: Option<TableSums>,
    /// What replicas were last known to have.
    pub(crate) tips: Tips,
}

impl Position {
    fn encode(&self, sequence: u64) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let mut put = |at: usize, value: &[u8]| {
            if let Some(target) = bytes.get_mut(at..at + value.len()) {
                target.copy_from_slice(value);
            }
        };
        put(0, &MAGIC);
        put(8, &sequence.to_le_bytes());
        put(16, &self.txid.get().to_le_bytes());
        put(24, &self.salts.0);
        put(32, &self.inode.to_le_bytes());
        put(40, &self.frames.to_le_bytes());
        put(44, &self.checksum.0.to_le_bytes());
        put(48, &self.checksum.1.to_le_bytes());
        put(52, &self.pages.to_le_bytes());
        let flags = if self.table.is_some() { FLAG_TABLE } else { 0 };
        put(56, &flags.to_le_bytes());
        put(60, &self.boot.to_le_bytes());
        put(64, &self.timestamp_ms.to_le_bytes());
        let sums = self.table.unwrap_or_default();
        put(72, &sums.checksums.to_le_bytes());
        put(96, &sums.changes.to_le_bytes());
        put(TIPS, &self.tips.encode());
        put(WAL_INODE, &self.wal_inode.to_le_bytes());
        put(80, &self.staged_min.get().to_le_bytes());
        put(88, &self.page_size.get().to_le_bytes());
        let checksum = record_checksum(&bytes);
        bytes[LEN - 8..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; LEN]) -> Option<(u64, Self)> {
        let u64_at = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        if bytes.first_chunk() != Some(&MAGIC) || u64_at(LEN - 8)? != record_checksum(bytes) {
            return None;
        }
        let sums = TableSums {
            checksums: u64_at(72)?,
            changes: u64_at(96)?,
        };
        let sequence = u64_at(8)?;
        let has_table = u32_at(56)? & FLAG_TABLE != 0;
        let position = Self {
            txid: Txid::new(u64_at(16)?),
            timestamp_ms: u64_at(64)?.cast_signed(),
            staged_min: Txid::new(u64_at(80)?),
            salts: Salts(*bytes.get(24..)?.first_chunk()?),
            frames: u32_at(40)?,
            checksum: WalChecksum(u32_at(44)?, u32_at(48)?),
            page_size: PageSize::new(u32_at(88)?).ok()?,
            pages: u32_at(52)?,
            inode: u64_at(32)?,
            wal_inode: u64_at(WAL_INODE)?,
            boot: u32_at(60)?,
            table: has_table.then_some(sums),
            tips: Tips::decode(bytes.get(TIPS..)?.first_chunk()?),
        };
        Some((sequence, position))
    }
}

/// CRC-64 of a record without its last eight bytes.
fn record_checksum(bytes: &[u8; LEN]) -> u64 {
    let content = bytes.get(..LEN - 8).unwrap_or_default();
    Checksum::page(Pgno::FIRST, content).get()
}

/// Makes the checksum of a record right, for tests that change other bytes of it.
#[cfg(test)]
pub(super) fn crc_at_the_end(bytes: &mut [u8; LEN]) {
    let checksum = record_checksum(bytes);
    bytes[LEN - 8..].copy_from_slice(&checksum.to_le_bytes());
}

/// The file that holds the record.
#[derive(Debug)]
pub(crate) struct PositionFile {
    file: Box<dyn DiskFile>,
    /// Of the newest record.
    sequence: u64,
    /// Where that one is.
    slot: usize,
}

/// Whether a record with this number was saved after one with that. They count on from 0, so that no number, made
/// up or not, ends the counting.
fn is_newer(sequence: u64, than: u64) -> bool {
    sequence.wrapping_sub(than).cast_signed() > 0
}

impl PositionFile {
    /// Opens or creates the file; with the record in it, if an intact one is there.
    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> io::Result<(Self, Option<Position>)> {
        let file = match disk.create_new(path, 0o600) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open_rw(path)?,
            created => created?,
        };
        let mut newest: Option<(usize, u64, Position)> = None;
        for (slot, offset) in SLOT_OFFSETS.into_iter().enumerate() {
            let mut bytes = [0; LEN];
            let read = file.read_at(&mut bytes, offset)?;
            let found = if read == LEN {
                Position::decode(&bytes)
            } else {
                None
            };
            if let Some((sequence, position)) = found
                && newest
                    .as_ref()
                    .is_none_or(|(_, newest, _)| is_newer(sequence, *newest))
            {
                newest = Some((slot, sequence, position));
            }
        }
        let (slot, sequence) = newest
            .as_ref()
            .map_or((0, 0), |(slot, sequence, _)| (*slot, *sequence));
        let position = newest.map(|(_, _, position)| position);
        Ok((
            Self {
                file,
                sequence,
                slot,
            },
            position,
        ))
    }

    /// Replaces the record. The newest one stays until this one is there.
    pub(crate) fn save(&mut self, position: &Position) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.slot = (self.slot + 1) % SLOT_OFFSETS.len();
        let offset = SLOT_OFFSETS.get(self.slot).copied().unwrap_or_default();
        self.file.write_at(&position.encode(self.sequence), offset)
    }
}

#[cfg(test)]
mod tests {
    use evertide_storage::OsDisk;

    use super::{super::Tip, *};

    fn tips(txid: u64) -> Tips {
        let mut tips = Tips::default();
        tips.note(Tip::new("s3://bucket/app", Txid::new(txid), 16));
        tips
    }

    fn position(txid: u64) -> Position {
        Position {
            txid: Txid::new(txid),
            timestamp_ms: 15,
            staged_min: Txid::new(txid - 1),
            salts: Salts([1, 2, 3, 4, 5, 6, 7, 8]),
            frames: 9,
            checksum: WalChecksum(10, 11),
            page_size: PageSize::new(4_096).unwrap(),
            pages: 12,
            inode: 13,
            wal_inode: 78,
            boot: 16,
            table: Some(TableSums {
                checksums: 14,
                changes: 15,
            }),
            tips: tips(txid - 1),
        }
    }

    #[test]
    fn the_newest_record_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("position");
        let (mut file, found) = PositionFile::open(&OsDisk, &path).unwrap();
        assert_eq!(found, None);
        for txid in 2..6 {
            file.save(&position(txid)).unwrap();
            let (_, found) = PositionFile::open(&OsDisk, &path).unwrap();
            assert_eq!(found, Some(position(txid)));
        }
    }

    #[test]
    fn a_damaged_newest_record_falls_back_to_the_one_before_for_every_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("position");
        let (mut file, _) = PositionFile::open(&OsDisk, &path).unwrap();
        file.save(&position(2)).unwrap();
        file.save(&position(3)).unwrap(); // the second save is in the slot at 0
        for at in 0..LEN as u64 {
            let mut byte = [0];
            file.file.read_at(&mut byte, at).unwrap();
            file.file.write_at(&[byte[0] ^ 0x10], at).unwrap();
            let (_, found) = PositionFile::open(&OsDisk, &path).unwrap();
            assert_eq!(found, Some(position(2)), "byte {at}");
            file.file.write_at(&byte, at).unwrap();
        }
    }
}

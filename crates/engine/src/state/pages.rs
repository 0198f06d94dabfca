//! The page table: for each page of the database its checksum, as LTX defines them, and the
//! transaction that changed it last.
//!
//! The checksums answer "which pages differ from what was captured last" without the replica, and
//! their XOR is the checksum of the whole database. The transactions answer "which pages changed
//! since a replica was last heard of", however long ago that is and whatever was staged for it.
//!
//! Sixteen bytes little-endian at `16 * (pgno - 1)`: checksum, transaction; zero for the lock page.
//! Entries are changed in place after the position record that covers them was written, so a process
//! that dies in between leaves entries to be redone from the newest staged file;
//! [`PageTable::sums`] against the record proves the result.

use std::{collections::BTreeMap, io, path::Path};

use evertide_ltx::{Pgno, Txid};
use evertide_storage::{Disk, DiskFile};

const ENTRY: u64 = 16;
/// Entries moved with one read or write.
const BLOCK_ENTRIES: usize = 4_096;

/// The table in its file.
#[derive(Debug)]
pub(crate) struct PageTable {
    file: Box<dyn DiskFile>,
}

/// What is known of one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct PageEntry {
    /// The checksum of its content.
    pub(crate) checksum: u64,
    /// The transaction that changed it last.
    pub(crate) changed: Txid,
}

impl PageEntry {
    fn encode(self) -> [u8; ENTRY as usize] {
        let mut bytes = [0; ENTRY as usize];
        let (checksum, changed) = bytes.split_at_mut(8);
        checksum.copy_from_slice(&self.checksum.to_le_bytes());
        changed.copy_from_slice(&self.changed.get().to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ENTRY as usize]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |at: usize| words.get(at).map_or(0, |word| u64::from_le_bytes(*word));
        Self {
            checksum: word(0),
            changed: Txid::new(word(1)),
        }
    }
}

/// What all entries add up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct TableSums {
    /// XOR of the checksums: the checksum of the database.
    pub(crate) checksums: u64,
    /// XOR of the transactions, each mixed with its page number.
    pub(crate) changes: u64,
}

impl TableSums {
    /// Counts an entry in, or out again.
    fn toggle(&mut self, pgno: u32, entry: PageEntry) {
        self.checksums ^= entry.checksum;
        self.changes ^= mixed(pgno, entry.changed);
    }
}

/// A number in which every bit depends on all of page number and transaction (the finalizer of
/// SplitMix64): many pages change in one transaction, and a sum that is linear in it would not
/// notice when an even number of them is wrong.
fn mixed(pgno: u32, changed: Txid) -> u64 {
    if changed == Txid::ZERO {
        return 0;
    }
    let mut z = u64::from(pgno).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ changed.get();
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// New page checksums, to be applied together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageChanges {
    /// Checksum of each changed page, by page number.
    pub(crate) checksums: BTreeMap<Pgno, u64>,
    /// Size of the database after the change, in pages.
    pub(crate) pages: u32,
    /// The transaction that made it.
    pub(crate) txid: Txid,
}

impl PageChanges {
    fn entries(&self) -> impl Iterator<Item = (u32, PageEntry)> {
        self.checksums.iter().map(|(pgno, checksum)| {
            let entry = PageEntry {
                checksum: *checksum,
                changed: self.txid,
            };
            (pgno.get(), entry)
        })
    }
}

impl PageTable {
    /// Opens the table; `None` where there is none.
    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> io::Result<Option<Self>> {
        match disk.open_rw(path) {
            Ok(file) => Ok(Some(Self { file })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates an empty table, in place of an older one.
    pub(crate) fn create(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        match disk.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self {
            file: disk.create_new(path, 0o600)?,
        })
    }

    /// What the entries of the first `pages` pages add up to; `None` where there are fewer.
    pub(crate) fn sums(&self, pages: u32) -> io::Result<Option<TableSums>> {
        let mut sums = TableSums::default();
        let complete = self.read_entries(1, pages, |pgno, entry| sums.toggle(pgno, entry))?;
        Ok(complete.then_some(sums))
    }

    /// Calls `entry` with each page number from `first` to `last` and what is known of it, in order.
    /// `false` where the table ends before.
    pub(crate) fn read_entries(
        &self,
        first: u32,
        last: u32,
        mut entry: impl FnMut(u32, PageEntry),
    ) -> io::Result<bool> {
        let most = (u64::from(last) + 1).saturating_sub(u64::from(first));
        let mut buffer = vec![0; BLOCK_ENTRIES.min(most as usize) * ENTRY as usize];
        let mut pgno = first;
        while pgno <= last {
            let wanted = (last - pgno + 1).min(BLOCK_ENTRIES as u32);
            let bytes = buffer
                .get_mut(..wanted as usize * ENTRY as usize)
                .unwrap_or_default();
            let read = self.file.read_at(bytes, (u64::from(pgno) - 1) * ENTRY)?;
            let whole = bytes.get(..read).unwrap_or_default().as_chunks().0;
            for (pgno, bytes) in (pgno..).zip(whole) {
                entry(pgno, PageEntry::decode(bytes));
            }
            if whole.len() < wanted as usize {
                return Ok(false);
            }
            let Some(next) = pgno.checked_add(wanted) else {
                break;
            };
            pgno = next;
        }
        Ok(true)
    }

    /// Writes consecutive entries from page `first` on.
    pub(crate) fn write_entries(&self, first: u32, entries: &[PageEntry]) -> io::Result<()> {
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.encode()).collect();
        self.file.write_at(&bytes, (u64::from(first) - 1) * ENTRY)
    }

    /// What the sums become when `changes` are applied to a database of `pages` pages whose sums are
    /// `before`. Changes nothing.
    pub(crate) fn sums_after(
        &self,
        before: TableSums,
        pages: u32,
        changes: &PageChanges,
    ) -> io::Result<TableSums> {
        let mut sums = before;
        for (pgno, entry) in changes.entries() {
            if pgno <= pages {
                sums.toggle(pgno, self.entry(pgno)?);
            }
            sums.toggle(pgno, entry);
        }
        // Pages cut off at the end count no longer, unless they were counted out above.
        if changes.pages < pages {
            self.read_entries(changes.pages + 1, pages, |pgno, entry| {
                let counted_out =
                    Pgno::new(pgno).is_some_and(|pgno| changes.checksums.contains_key(&pgno));
                if !counted_out {
                    sums.toggle(pgno, entry);
                }
            })?;
        }
        Ok(sums)
    }

    /// Applies the changes. Doing so twice is the same as once.
    pub(crate) fn apply(&self, changes: &PageChanges) -> io::Result<()> {
        let mut run: Vec<PageEntry> = Vec::new();
        let mut first = 0;
        for (pgno, entry) in changes.entries() {
            if !run.is_empty() && pgno != first + run.len() as u32 {
                self.write_entries(first, &run)?;
                run.clear();
            }
            if run.is_empty() {
                first = pgno;
            }
            run.push(entry);
        }
        if !run.is_empty() {
            self.write_entries(first, &run)?;
        }
        self.file.set_len(u64::from(changes.pages) * ENTRY)
    }

    /// The pages of the first `pages` that changed after `since`.
    pub(crate) fn changed_after(&self, since: Txid, pages: u32) -> io::Result<Option<PageSet>> {
        let mut set = PageSet::default();
        let complete = self.read_entries(1, pages, |pgno, entry| {
            if entry.changed > since {
                set.insert(pgno);
            }
        })?;
        Ok(complete.then_some(set))
    }

    fn entry(&self, pgno: u32) -> io::Result<PageEntry> {
        let mut bytes = [0; ENTRY as usize];
        self.file
            .read_exact_at(&mut bytes, (u64::from(pgno) - 1) * ENTRY)?;
        Ok(PageEntry::decode(&bytes))
    }
}

/// A set of pages, one bit each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PageSet {
    words: Vec<u64>,
    len: u32,
}

impl PageSet {
    /// Adds a page.
    pub(crate) fn insert(&mut self, pgno: u32) {
        let word = pgno as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if let Some(word) = self.words.get_mut(word) {
            let bit = 1 << (pgno % 64);
            self.len += u32::from(*word & bit == 0);
            *word |= bit;
        }
    }

    /// Whether the page is in it.
    pub(crate) fn contains(&self, pgno: u32) -> bool {
        let word = self.words.get(pgno as usize / 64).copied().unwrap_or(0);
        word & (1 << (pgno % 64)) != 0
    }

    /// How many pages are in it.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use evertide_storage::OsDisk;
    use proptest::prelude::*;

    use super::*;

    fn table(checksums: &[u64]) -> (tempfile::TempDir, PageTable) {
        let dir = tempfile::tempdir().unwrap();
        let table = PageTable::create(&OsDisk, &dir.path().join("pages")).unwrap();
        let entry = |checksum: &u64| PageEntry {
            checksum: *checksum,
            changed: Txid::new(checksum % 3 + 1),
        };
        let entries: Vec<PageEntry> = checksums.iter().map(entry).collect();
        if !entries.is_empty() {
            table.write_entries(1, &entries).unwrap();
        }
        (dir, table)
    }

    fn changes(changed: &[u32], pages: u32, txid: u64) -> PageChanges {
        let checksums = changed.iter().map(|pgno| {
            let pgno = Pgno::new(*pgno).unwrap();
            (pgno, u64::from(pgno.get()) * txid)
        });
        PageChanges {
            checksums: checksums.collect(),
            pages,
            txid: Txid::new(txid),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_running_sums_are_those_of_the_table_after_any_change(
            before in prop::collection::vec(1..u64::MAX, 1..40),
            changed in prop::collection::btree_map(1..60u32, 1..u64::MAX, 0..30),
            pages in 1..60u32,
        ) {
            // A commit writes every page it adds and none beyond its end.
            let mut checksums: BTreeMap<Pgno, u64> = (before.len() as u32 + 1..=pages)
                .map(|pgno| (Pgno::new(pgno).unwrap(), u64::from(pgno) * 7))
                .collect();
            for (pgno, checksum) in changed {
                if pgno <= pages {
                    checksums.insert(Pgno::new(pgno).unwrap(), checksum);
                }
            }
            let changes = PageChanges { checksums, pages, txid: Txid::new(9) };
            let (_dir, table) = table(&before);
            let count = before.len() as u32;
            let sums = table.sums(count).unwrap().unwrap();
            let expected = table.sums_after(sums, count, &changes).unwrap();
            table.apply(&changes).unwrap();
            prop_assert_eq!(table.sums(pages).unwrap(), Some(expected));
            table.apply(&changes).unwrap();
            prop_assert_eq!(table.sums(pages).unwrap(), Some(expected));
        }
    }

    #[test]
    fn a_table_that_is_too_short_has_no_checksum() {
        let (_dir, table) = table(&[1, 2, 3]);
        assert_eq!(table.sums(3).unwrap().unwrap().checksums, 0);
        assert_eq!(table.sums(4).unwrap(), None);
        assert_eq!(table.changed_after(Txid::ZERO, 4).unwrap(), None);
    }

    #[test]
    fn the_pages_changed_since_any_transaction_are_known_whatever_came_after() {
        let (_dir, table) = table(&[]);
        for (changed, pages, txid) in [
            (&[1, 2, 3, 4, 5, 6][..], 6, 2),
            (&[1, 3], 6, 5),
            (&[1, 7, 8], 8, 6),
            (&[2], 4, 9), // shrunk
            (&[5, 6], 6, 10),
        ] {
            table.apply(&changes(changed, pages, txid)).unwrap();
        }
        let since = |txid| {
            let set = table.changed_after(Txid::new(txid), 6).unwrap().unwrap();
            let pages: Vec<u32> = (0..=70).filter(|pgno| set.contains(*pgno)).collect();
            assert_eq!(set.len() as usize, pages.len());
            pages
        };
        assert_eq!(since(1), [1, 2, 3, 4, 5, 6]);
        assert_eq!(since(2), [1, 2, 3, 5, 6]);
        assert_eq!(since(5), [1, 2, 5, 6]);
        assert_eq!(since(9), [5, 6]);
        assert!(since(10).is_empty());
    }

    /// A power cut may take some of what was written in place and leave the rest.
    #[test]
    fn a_table_that_lost_part_of_a_change_does_not_add_up() {
        let before = changes(&[1, 2, 3, 4], 4, 2);
        let after = changes(&[1, 2, 3, 4], 4, 3);
        let (_dir, whole) = table(&[]);
        whole.apply(&before).unwrap();
        let sums = whole.sums(4).unwrap().unwrap();
        let expected = whole.sums_after(sums, 4, &after).unwrap();
        for lost in 1..16_u32 {
            let (_dir, torn) = table(&[]);
            torn.apply(&before).unwrap();
            for (pgno, mut entry) in after.entries() {
                if lost & (1 << (pgno - 1)) != 0 {
                    // The checksums happen to be right: the page went back to what it was.
                    entry.changed = before.txid;
                }
                torn.write_entries(pgno, &[entry]).unwrap();
            }
            assert_ne!(torn.sums(4).unwrap(), Some(expected), "{lost:b}");
        }
    }
}

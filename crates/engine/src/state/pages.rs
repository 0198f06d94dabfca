//! The page checksum table: eight bytes for each page of the database, as LTX defines them.
//!
//! It answers "which pages differ from what was captured last" without the replica, and their XOR
//! is the checksum of the whole database. Eight bytes little-endian at `8 * (pgno - 1)`; zero for
//! the lock page. Entries are changed in place after the position record that covers them was
//! written, so a process that dies in between leaves entries to be redone from the newest staged
//! file; [`PageTable::checksum`] against the record proves the result.

use std::{collections::BTreeMap, io, path::Path};

use evertide_ltx::Pgno;
use evertide_storage::{Disk, DiskFile};

const ENTRY: u64 = 8;
/// Entries moved with one read or write.
const BLOCK_ENTRIES: usize = 8_192;

/// The table in its file.
#[derive(Debug)]
pub(crate) struct PageTable {
    file: Box<dyn DiskFile>,
}

/// New page checksums, to be applied together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageChanges {
    /// Checksum of each changed page, by page number.
    pub(crate) checksums: BTreeMap<Pgno, u64>,
    /// Size of the database after the change, in pages.
    pub(crate) pages: u32,
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

    /// XOR of the entries of the first `pages` pages; `None` where there are fewer.
    pub(crate) fn checksum(&self, pages: u32) -> io::Result<Option<u64>> {
        let mut sum = 0;
        let complete = self.read_entries(1, pages, |_, checksum| sum ^= checksum)?;
        Ok(complete.then_some(sum))
    }

    /// Calls `entry` with each page number from `first` to `last` and its checksum, in order.
    /// `false` where the table ends before.
    pub(crate) fn read_entries(
        &self,
        first: u32,
        last: u32,
        mut entry: impl FnMut(u32, u64),
    ) -> io::Result<bool> {
        let mut buffer = vec![0; BLOCK_ENTRIES * ENTRY as usize];
        let mut pgno = first;
        while pgno <= last {
            let wanted = (last - pgno + 1).min(BLOCK_ENTRIES as u32);
            let bytes = buffer
                .get_mut(..wanted as usize * ENTRY as usize)
                .unwrap_or_default();
            let read = self.file.read_at(bytes, (u64::from(pgno) - 1) * ENTRY)?;
            let whole = bytes.get(..read).unwrap_or_default().as_chunks::<8>().0;
            for (pgno, checksum) in (pgno..).zip(whole) {
                entry(pgno, u64::from_le_bytes(*checksum));
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
    pub(crate) fn write_entries(&self, first: u32, checksums: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = checksums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        self.file.write_at(&bytes, (u64::from(first) - 1) * ENTRY)
    }

    /// What the database checksum becomes when `changes` are applied to a database of `pages`
    /// pages whose checksum is `before`. Changes nothing.
    pub(crate) fn checksum_after(
        &self,
        before: u64,
        pages: u32,
        changes: &PageChanges,
    ) -> io::Result<u64> {
        let mut sum = before;
        for (pgno, checksum) in &changes.checksums {
            if pgno.get() <= pages {
                sum ^= self.entry(pgno.get())?;
            }
            sum ^= checksum;
        }
        // Pages cut off at the end count no longer, unless they were counted out above.
        if changes.pages < pages {
            self.read_entries(changes.pages + 1, pages, |pgno, checksum| {
                let counted_out =
                    Pgno::new(pgno).is_some_and(|pgno| changes.checksums.contains_key(&pgno));
                if !counted_out {
                    sum ^= checksum;
                }
            })?;
        }
        Ok(sum)
    }

    /// Applies the changes. Doing so twice is the same as once.
    pub(crate) fn apply(&self, changes: &PageChanges) -> io::Result<()> {
        let mut run: Vec<u64> = Vec::new();
        let mut first = 0;
        for (pgno, checksum) in &changes.checksums {
            if !run.is_empty() && pgno.get() != first + run.len() as u32 {
                self.write_entries(first, &run)?;
                run.clear();
            }
            if run.is_empty() {
                first = pgno.get();
            }
            run.push(*checksum);
        }
        if !run.is_empty() {
            self.write_entries(first, &run)?;
        }
        self.file.set_len(u64::from(changes.pages) * ENTRY)
    }

    fn entry(&self, pgno: u32) -> io::Result<u64> {
        let mut bytes = [0; ENTRY as usize];
        self.file
            .read_exact_at(&mut bytes, (u64::from(pgno) - 1) * ENTRY)?;
        Ok(u64::from_le_bytes(bytes))
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
        if !checksums.is_empty() {
            table.write_entries(1, checksums).unwrap();
        }
        (dir, table)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_running_checksum_is_the_xor_of_the_table_after_any_change(
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
            let changes = PageChanges { checksums, pages };
            let (_dir, table) = table(&before);
            let count = before.len() as u32;
            let sum = table.checksum(count).unwrap().unwrap();
            let expected = table.checksum_after(sum, count, &changes).unwrap();
            table.apply(&changes).unwrap();
            prop_assert_eq!(table.checksum(pages).unwrap(), Some(expected));
            table.apply(&changes).unwrap();
            prop_assert_eq!(table.checksum(pages).unwrap(), Some(expected));
        }
    }

    #[test]
    fn a_table_that_is_too_short_has_no_checksum() {
        let (_dir, table) = table(&[1, 2, 3]);
        assert_eq!(table.checksum(3).unwrap(), Some(0));
        assert_eq!(table.checksum(4).unwrap(), None);
    }
}

//! The checksum of every page of the database at one point of its history, and which step gave the
//! page its content.
//!
//! It lies in a file that has no name any more, 12 bytes for each page, so that memory does not grow
//! with the database and nothing stays behind whatever happens.

use std::{io, path::Path};

use evertide_ltx::{Checksum, PageSize, Pgno};
use evertide_storage::{Disk, DiskFile};

/// Bytes of a page's entry: its checksum, and the number of the step; zeros where nothing is known.
pub(super) const ENTRY: u64 = 12;
/// Entries in memory at a time.
const BLOCK: u32 = 2_048;
const BLOCK_LEN: usize = BLOCK as usize * ENTRY as usize;

/// What is known of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// The checksum of its content.
    pub(super) checksum: Checksum,
    /// The step that wrote it.
    pub(super) step: u32,
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    file: Box<dyn DiskFile>,
    block: Vec<u8>,
    /// Which block is in memory, and whether it was changed.
    at: u32,
    changed: bool,
    /// Size of the database, in pages.
    size: u32,
    /// The last page that was ever set: a damaged file may claim a size that no database has.
    last: u32,
    /// How many pages of it are known, and the XOR of their checksums.
    known: u32,
    sum: Checksum,
}

impl Table {
    /// An empty table in this directory.
    pub(super) fn create(disk: &dyn Disk, directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!(".evertide-verify-{:016x}", fastrand::u64(..)));
        let file = disk.create_new(&path, 0o600)?;
        disk.remove_file(&path)?;
        Ok(Self {
            file,
            block: vec![0; BLOCK_LEN],
            at: 0,
            changed: false,
            size: 0,
            last: 0,
            known: 0,
            sum: Checksum::EMPTY,
        })
    }

    /// The checksum of the database, once every page of it is known.
    pub(super) fn database(&self, page_size: PageSize) -> Option<Checksum> {
        let lock = u32::from(page_size.lock_page().get() <= self.size);
        (self.size > 0 && self.known == self.size - lock).then_some(self.sum)
    }

    /// What is known of a page.
    pub(super) fn get(&mut self, pgno: u32) -> io::Result<Option<Entry>> {
        let place = self.load(pgno)?;
        let bytes = self.block.get(place..place + ENTRY as usize);
        let (checksum, step) = bytes
            .unwrap_or_default()
            .split_at_checked(8)
            .unwrap_or_default();
        let checksum = u64::from_be_bytes(checksum.try_into().unwrap_or_default());
        let step = u32::from_be_bytes(step.try_into().unwrap_or_default());
        let checksum = Checksum::new(checksum);
        Ok(checksum.is_set().then_some(Entry { checksum, step }))
    }

    /// A page has this content now, or is not known any more.
    pub(super) fn set(&mut self, pgno: Pgno, entry: Option<Entry>) -> io::Result<()> {
        if let Some(old) = self.get(pgno.get())? {
            self.sum = self.sum.toggle(old.checksum);
            self.known -= 1;
        }
        let mut bytes = [0; ENTRY as usize];
        if let Some(new) = entry {
            self.last = self.last.max(pgno.get());
            self.sum = self.sum.toggle(new.checksum);
            self.known += 1;
            let (checksum, step) = bytes.split_at_mut(8);
            checksum.copy_from_slice(&new.checksum.get().to_be_bytes());
            step.copy_from_slice(&new.step.to_be_bytes());
        }
        let place = self.load(pgno.get())?;
        if let Some(target) = self.block.get_mut(place..place + bytes.len()) {
            target.copy_from_slice(&bytes);
        }
        self.changed = true;
        Ok(())
    }

    /// The database has this size now; pages that are cut off are forgotten.
    pub(super) fn resize(&mut self, size: u32) -> io::Result<()> {
        for number in size.saturating_add(1)..=self.last {
            self.forget(number)?;
        }
        self.size = size;
        self.last = self.last.min(size);
        Ok(())
    }

    /// Forgets what a step has written.
    pub(super) fn forget_step(&mut self, step: u32) -> io::Result<()> {
        for number in 1..=self.last {
            if self.get(number)?.is_some_and(|entry| entry.step == step) {
                self.forget(number)?;
            }
        }
        Ok(())
    }

    fn forget(&mut self, number: u32) -> io::Result<()> {
        match Pgno::new(number) {
            Some(pgno) => self.set(pgno, None),
            None => Ok(()),
        }
    }

    /// Has the block of a page in memory, and returns where in it the entry is.
    fn load(&mut self, pgno: u32) -> io::Result<usize> {
        let index = pgno.saturating_sub(1);
        let (wanted, place) = (index / BLOCK, index % BLOCK);
        if wanted != self.at {
            let offset = |block: u32| u64::from(block) * BLOCK_LEN as u64;
            if self.changed {
                self.file.write_at(&self.block, offset(self.at))?;
                self.changed = false;
            }
            let read = self.file.read_at(&mut self.block, offset(wanted))?;
            self.block.iter_mut().skip(read).for_each(|byte| *byte = 0);
            self.at = wanted;
        }
        Ok(place as usize * ENTRY as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use evertide_storage::OsDisk;

    use super::*;

    #[test]
    fn the_table_knows_what_a_map_knows_whatever_happens_to_it() {
        let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
        let folder = tempfile::tempdir().unwrap();
        let mut table = Table::create(&OsDisk, folder.path()).unwrap();
        let left = OsDisk.read_dir(folder.path()).unwrap();
        assert_eq!(left, [], "the file has no name");
        let page_size = PageSize::new(4_096).unwrap();
        let (mut model, mut size) = (BTreeMap::<u32, Entry>::new(), 0);
        for step in 1..3_000 {
            match random.u8(..20) {
                0 => {
                    size = random.u32(..3 * BLOCK);
                    table.resize(size).unwrap();
                    model.retain(|number, _| *number <= size);
                }
                1 => {
                    let step = random.u32(..step);
                    table.forget_step(step).unwrap();
                    model.retain(|_, entry| entry.step != step);
                }
                _ if size > 0 => {
                    let number = random.u32(1..=size);
                    let checksum = Checksum::new(random.u64(..) | 1 << 63);
                    let entry = Entry { checksum, step };
                    table.set(Pgno::new(number).unwrap(), Some(entry)).unwrap();
                    model.insert(number, entry);
                }
                _ => {}
            }
            let number = random.u32(1..=3 * BLOCK);
            let known = model.get(&number).copied();
            assert_eq!(table.get(number).unwrap(), known);
        }
        for number in 1..=size {
            let checksum = Checksum::new(u64::from(number) << 9 | 1 << 63);
            let entry = Entry { checksum, step: 0 };
            assert_eq!(
                table.database(page_size).is_some(),
                model.len() == size as usize
            );
            table.set(Pgno::new(number).unwrap(), Some(entry)).unwrap();
            model.insert(number, entry);
        }
        let sum = model
            .values()
            .fold(Checksum::EMPTY, |sum, entry| sum.toggle(entry.checksum));
        assert_eq!(table.database(page_size), (size > 0).then_some(sum));
    }
}

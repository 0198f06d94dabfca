//! Redoing the page table from staged files.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    path::Path,
};

use evertide_ltx::{Checksum, Decoder, LtxName, Pgno, Txid};
use evertide_storage::{Disk, DiskFile};

use super::Capture;
use crate::{Error, state::PageChanges};

impl Capture {
    /// Makes the table agree with the position record, or gives it up. A process that died after
    /// it wrote the record may not have changed the table, or only in part; doing that again from
    /// the newest staged file is the same as once.
    pub(super) fn redo_table(&mut self) -> Result<(), Error> {
        let Some(position) = self.state.position else {
            self.state.table = None;
            return Ok(());
        };
        let (Some(table), Some(expected)) = (self.state.table.take(), position.database_checksum)
        else {
            return Ok(());
        };
        let failed = self.state.failed("read the page table in");
        let newest = LtxName::new(position.staged_min, position.txid);
        if self
            .state
            .stage
            .files()
            .last()
            .is_some_and(|staged| staged.name == newest)
        {
            // A file that a power cut has damaged shows in the checksum below.
            if let Ok(changes) = changes_of(self.disk.as_ref(), &self.state.stage.path(newest)) {
                table.apply(&changes).map_err(&failed)?;
            }
        }
        if table.checksum(position.pages).map_err(&failed)? == Some(expected) {
            self.state.table = Some(table);
        } else {
            tracing::warn!(
                database = %self.path.display(),
                "the table of page checksums does not add up; building it anew"
            );
        }
        Ok(())
    }
}

impl Capture {
    /// Whether these pages are, as far as is known here, the database's at `txid`. Pages that
    /// changed since say nothing.
    pub(crate) fn contains(&self, txid: Txid, pages: &[(Pgno, u64)]) -> bool {
        let (Some(table), Some(position)) = (&self.state.table, self.state.position) else {
            return true;
        };
        let mut changed = BTreeSet::new();
        for staged in self
            .state
            .stage
            .files()
            .iter()
            .filter(|staged| staged.name.max > txid)
        {
            let path = self.state.stage.path(staged.name);
            match changes_of(self.disk.as_ref(), &path) {
                Ok(changes) => changed.extend(changes.checksums.into_keys()),
                Err(_) => return true, // reported when it is uploaded
            }
        }
        let unchanged = pages
            .iter()
            .filter(|(pgno, _)| pgno.get() <= position.pages && !changed.contains(pgno));
        let mut differing = unchanged.filter(|(pgno, checksum)| {
            let mut known = *checksum;
            let read = table.read_entries(pgno.get(), pgno.get(), |_, entry| known = entry);
            read.is_ok_and(|complete| complete) && known != *checksum
        });
        differing.next().is_none()
    }
}

/// The page checksums of an LTX file. The whole file is verified.
pub(crate) fn changes_of(disk: &dyn Disk, path: &Path) -> Result<PageChanges, Error> {
    let ltx = |source| Error::Ltx {
        path: path.to_owned(),
        source,
    };
    let file = disk.open_read(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        action: "open",
        source,
    })?;
    let mut decoder = Decoder::new(DiskReader::new(file)).map_err(ltx)?;
    let mut page = vec![0; decoder.header().page_size.len()];
    let pages = decoder.header().commit;
    let mut checksums = BTreeMap::new();
    while let Some(pgno) = decoder.decode_page(&mut page).map_err(ltx)? {
        checksums.insert(pgno, Checksum::page(pgno, &page).get());
    }
    decoder.finish().map_err(ltx)?;
    Ok(PageChanges { checksums, pages })
}

/// A file read from its start to its end.
#[derive(Debug)]
pub(crate) struct DiskReader {
    file: Box<dyn DiskFile>,
    offset: u64,
}

impl DiskReader {
    /// A reader at the start of the file.
    pub(crate) fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file, offset: 0 }
    }
}

impl Read for DiskReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

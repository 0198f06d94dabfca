//! Redoing the page table from staged files.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::Path,
};

use evertide_ltx::{Checksum, Decoder, LtxName};
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
    let mut decoder = Decoder::new(DiskReader { file, offset: 0 }).map_err(ltx)?;
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
pub(crate) struct DiskReader {
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) offset: u64,
}

impl Read for DiskReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

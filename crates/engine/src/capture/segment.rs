//! One staged LTX file from the frames committed since the last.

use std::collections::BTreeMap;

use evertide_ltx::{Checksum, Encoder, Header, LtxName, Pgno, Txid};

use super::{Capture, CaptureError};
use crate::{
    Error,
    state::{PageChanges, Position, StageWriter},
    wal::{Cursor, IndexHeader, Scan},
};

impl Capture {
    /// Captures every committed frame that was not captured yet.
    pub(super) fn capture_segment(&mut self, index: &IndexHeader) -> Result<(), CaptureError> {
        let from = self.cursor();
        let scan = self.attached_mut()?.wal.scan(from, index);
        let scan = scan.map_err(|error| self.broken(error))?;
        let Some(before) = self.state.position else {
            return Ok(());
        };
        let (min, max) = self.next_txids();
        let mut header = Header::new(index.page_size, scan.pages, min, max);
        header.timestamp_ms = self.timestamp();

        let missing = missing_growth(&scan, before.pages, index.page_size.lock_page());
        let sources = self.page_sources(&scan, &missing);
        let changes = self.write_segment(header.clone(), &sources)?;
        let position = Position {
            txid: max,
            timestamp_ms: header.timestamp_ms,
            staged_min: min,
            salts: index.salts,
            frames: scan.end.frames,
            checksum: scan.end.checksum,
            pages: scan.pages,
            ..before
        };
        self.advance(position, &before, &changes)?;
        self.stats.captured = Some(super::created(&header));
        Ok(())
    }

    /// Writes a file that changes nothing, to pass over transaction IDs that a replica has used.
    /// Everything that `index` has is captured; the page it repeats is as of then.
    pub(super) fn skip_to_floor(&mut self, index: &IndexHeader) -> Result<(), CaptureError> {
        let Some(before) = self.state.position else {
            return Ok(());
        };
        let (min, max) = self.next_txids();
        let scan = self
            .attached_mut()?
            .wal
            .scan_if_any(Cursor::default(), index);
        let scan = scan.map_err(|error| self.broken(error))?;
        let source = match scan.newest.get(&Pgno::FIRST) {
            Some(frame) => PageSource::Frame(*frame),
            None => PageSource::Database,
        };
        let mut header = Header::new(before.page_size, before.pages, min, max);
        header.timestamp_ms = self.timestamp();
        let timestamp_ms = header.timestamp_ms;
        let changes = self.write_segment(header, &BTreeMap::from([(Pgno::FIRST, source)]))?;
        let position = Position {
            txid: max,
            timestamp_ms,
            staged_min: min,
            ..before
        };
        Ok(self.advance(position, &before, &changes)?)
    }

    /// Where to read each page of the file from.
    fn page_sources(&self, scan: &Scan, missing: &[Pgno]) -> BTreeMap<Pgno, PageSource> {
        if !missing.is_empty() {
            // SQLite may leave a page that it allocated and freed again out of the WAL.
            tracing::debug!(
                database = %self.path.display(),
                pages = missing.len(),
                "pages of a grown database are not in the WAL; reading them from the database"
            );
        }
        let frames = scan
            .newest
            .iter()
            .map(|(pgno, frame)| (*pgno, PageSource::Frame(*frame)));
        frames
            .chain(missing.iter().map(|pgno| (*pgno, PageSource::Database)))
            .collect()
    }

    /// Encodes pages into a staged file.
    fn write_segment(
        &mut self,
        header: Header,
        sources: &BTreeMap<Pgno, PageSource>,
    ) -> Result<PageChanges, CaptureError> {
        let mut page = vec![0; header.page_size.len()];
        let mut changes = PageChanges {
            checksums: BTreeMap::new(),
            pages: header.commit,
            txid: header.max_txid,
        };
        let mut staging = self.start_staging(header)?;
        let attached = self.attached_mut()?;
        for (pgno, source) in sources {
            match source {
                PageSource::Frame(frame) => attached
                    .wal
                    .read_page(*frame, &mut page)
                    .map_err(attached.wal_failed())?,
                PageSource::Database => {
                    super::image::read_database_page(&attached.database, *pgno, &mut page)
                        .map_err(attached.database_failed())?;
                }
            }
            changes
                .checksums
                .insert(*pgno, Checksum::page(*pgno, &page).get());
            staging.page(*pgno, &page)?;
        }
        self.finish_staging(staging)?;
        Ok(changes)
    }

    pub(super) fn start_staging(&self, mut header: Header) -> Result<Staging, Error> {
        header.node_id = self.attached.as_ref().map_or(0, |a| a.id.inode);
        let name = header.name();
        let path = self.state.stage.path(name);
        let writer = self.state.stage.create(self.disk.as_ref());
        let writer = writer.map_err(|source| Error::Io {
            path: path.clone(),
            action: "create",
            source,
        })?;
        let encoder = Encoder::new(writer, header).map_err(|source| Error::Ltx {
            path: path.clone(),
            source,
        })?;
        Ok(Staging {
            encoder,
            name,
            path,
        })
    }

    pub(super) fn finish_staging(&mut self, staging: Staging) -> Result<LtxName, Error> {
        let Staging {
            encoder,
            name,
            path,
        } = staging;
        let (writer, _) = encoder.finish().map_err(|source| Error::Ltx {
            path: path.clone(),
            source,
        })?;
        self.state
            .stage
            .commit(self.disk.as_ref(), writer, name)
            .map_err(|source| Error::Io {
                path,
                action: "write",
                source,
            })?;
        Ok(name)
    }

    /// Records a position whose file is staged, then brings the page table up to it.
    pub(super) fn advance(
        &mut self,
        mut position: Position,
        before: &Position,
        changes: &PageChanges,
    ) -> Result<(), Error> {
        let failed = self.state.failed("update the page table in");
        position.table = match (&self.state.table, before.table) {
            (Some(table), Some(sums)) => Some(
                table
                    .sums_after(sums, before.pages, changes)
                    .map_err(&failed)?,
            ),
            _ => None,
        };
        self.state.save(position)?;
        // A table that was changed in part must not be compared with; it is built anew.
        if let Some(table) = self.state.table.take() {
            table.apply(changes).map_err(&failed)?;
            self.state.table = Some(table);
        }
        Ok(())
    }
}

/// A staged file being written.
pub(super) struct Staging {
    encoder: Encoder<StageWriter>,
    name: LtxName,
    path: std::path::PathBuf,
}

impl Staging {
    pub(super) fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Error> {
        self.encoder
            .encode_page(pgno, page)
            .map_err(|source| Error::Ltx {
                path: self.path.clone(),
                source,
            })
    }

    /// The last transaction of the file.
    pub(super) fn txid(&self) -> Txid {
        self.name.max
    }
}

/// Where the newest content of a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PageSource {
    /// In this frame of the WAL.
    Frame(u32),
    /// In the database file.
    Database,
}

/// Pages that a database grew by without having them in the WAL.
fn missing_growth(scan: &Scan, before: u32, lock_page: Pgno) -> Vec<Pgno> {
    (before.saturating_add(1)..=scan.pages)
        .filter_map(Pgno::new)
        .filter(|pgno| *pgno != lock_page && !scan.newest.contains_key(pgno))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_that_is_not_in_the_wal_is_noticed() {
        let newest =
            [(1, 0), (4, 1), (6, 2)].map(|(pgno, frame)| (Pgno::new(pgno).unwrap(), frame));
        let scan = Scan {
            newest: newest.into(),
            end: Cursor::default(),
            pages: 7,
        };
        let lock_page = Pgno::new(7).unwrap();
        let missing = |before| -> Vec<u32> {
            missing_growth(&scan, before, lock_page)
                .into_iter()
                .map(Pgno::get)
                .collect()
        };
        assert_eq!(missing(3), [5]);
        assert_eq!(missing(2), [3, 5]);
        assert!(missing(7).is_empty());
        assert!(missing(9).is_empty());
    }
}

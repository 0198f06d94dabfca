//! A consistent image of a whole database, read while writers go on.
//!
//! With pin and guard held neither the database file nor the frames captured so far can change:
//! writers only append frames. The image is the database file overlaid with those frames. A
//! checkpoint of the application meets what it meets with any long reader.

use std::{collections::BTreeMap, fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};

use evertide_ltx::{Checksum, Header, PageSize, Pgno, Txid};

use super::{Capture, CaptureError};
use crate::{
    Error,
    state::{PageChanges, PageSet, PageTable, Position, Tip, Tips, boot},
    verify::Content,
    wal::{Cursor, WAL_HEADER_LEN, WalFile, beside, protocol::Action},
};

/// Bytes of the database file read at once.
const READ_BYTES: usize = 1 << 20;

/// A whole database as of one transaction. Readable until [`Capture::end_image`].
#[derive(Debug)]
pub(crate) struct Image {
    database: Arc<File>,
    wal: WalFile,
    newest: BTreeMap<Pgno, u32>,
    /// Header of a snapshot of it, or of a file with the changes since an earlier transaction.
    pub(crate) header: Header,
    /// The pages to read; all of them where there is no choice.
    chosen: Option<PageSet>,
}

impl Image {
    /// The transaction it is the state after.
    pub(crate) fn txid(&self) -> Txid {
        self.header.max_txid
    }

    /// Calls `page` with every chosen page but the lock page, in order.
    pub(crate) fn for_each_page<E: From<io::Error>>(
        &self,
        mut page: impl FnMut(Pgno, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let size = self.header.page_size;
        let batch = (READ_BYTES / size.len()).max(1) as u32;
        let mut buffer = vec![0; batch as usize * size.len()];
        let mut first = 1;
        while let Some(run) = self.next_run(first, batch) {
            let count = run.end - run.start;
            first = run.start;
            let bytes = buffer
                .get_mut(..count as usize * size.len())
                .unwrap_or_default();
            read_zero_filled(
                &self.database,
                u64::from(first - 1) * u64::from(size.get()),
                bytes,
            )?;
            for (pgno, bytes) in (first..first + count).zip(bytes.chunks_exact_mut(size.len())) {
                let Some(pgno) = Pgno::new(pgno).filter(|pgno| *pgno != size.lock_page()) else {
                    continue;
                };
                if let Some(frame) = self.newest.get(&pgno) {
                    self.wal.read_page(*frame, bytes)?;
                }
                page(pgno, bytes)?;
            }
            first += count;
        }
        Ok(())
    }

    /// The next chosen pages from `first` on that lie side by side, `most` of them at most.
    fn next_run(&self, first: u32, most: u32) -> Option<Range<u32>> {
        let chosen = |pgno: &u32| self.chosen.as_ref().is_none_or(|set| set.contains(*pgno));
        let start = (first..=self.header.commit).find(chosen)?;
        let last = self.header.commit.min(start.saturating_add(most - 1));
        let run = (start..=last).take_while(chosen).count();
        Some(start..start + run as u32)
    }
}

impl Capture {
    /// Starts an image as of now; for the first one of a history, starts the history with it. With
    /// `since` only of the pages that changed after that transaction, where that is known and not
    /// nearly all. Pin and guard are held, and captures go on, until [`Capture::end_image`].
    pub(crate) fn begin_image(&mut self, since: Option<Txid>) -> Result<Image, CaptureError> {
        self.hold_still()?;
        let index = self.follow_generation()?;
        if self.captured_frames() < index.committed {
            self.capture_segment(&index)?;
        }
        if self
            .state
            .position
            .is_some_and(|position| position.txid <= self.floor)
        {
            self.skip_to_floor(&index)?;
        }
        let path = beside(&self.path, "-wal");
        let wal = WalFile::open(self.disk.as_ref(), &path).map_err(|source| Error::Io {
            path,
            action: "open",
            source,
        })?;
        let scan = wal
            .scan_if_any(Cursor::default(), &index)
            .map_err(|e| self.broken(e))?;
        let position = match self.state.position {
            Some(position) => position,
            None => {
                let txid = self.floor.next();
                let position = Position {
                    txid,
                    timestamp_ms: self.timestamp(),
                    staged_min: txid,
                    salts: index.salts,
                    frames: scan.end.frames,
                    checksum: scan.end.checksum,
                    page_size: index.page_size,
                    pages: index.pages,
                    inode: self.attached_mut()?.id.inode,
                    wal_inode: self.attached_mut()?.wal_inode,
                    boot: boot(),
                    table: None,
                    tips: Tips::default(),
                };
                self.state.table = None;
                self.state.save(position)?;
                position
            }
        };
        let chosen = match since {
            Some(since) => self.changed_since(since, &position)?,
            None => None,
        };
        let min = match (&chosen, since) {
            (Some(_), Some(since)) => since.next(),
            _ => Txid::FIRST,
        };
        let mut header = Header::new(position.page_size, position.pages, min, position.txid);
        // As every other file that ends with this transaction: that is how they are recognised.
        header.timestamp_ms = position.timestamp_ms;
        // For the same reason as in every other upload.
        header.wal_offset = WAL_HEADER_LEN as i64;
        self.stats.captured = Some(super::created(&header));
        // No staged file tells when it was captured if it arrives, and nobody hears of that before a crash.
        self.note_tip(Tip::of_image(position.txid, position.timestamp_ms));
        self.images.push(position.txid);
        let database = Arc::clone(&self.attached_mut()?.database);
        Ok(Image {
            database,
            wal,
            newest: scan.newest,
            header,
            chosen,
        })
    }

    /// Captures what was committed or, if there is nothing, a file that changes nothing: either way the
    /// newest file is of one transaction.
    pub(crate) fn capture_one_transaction(&mut self) -> Result<(), CaptureError> {
        self.hold_still()?;
        let index = self.follow_generation()?;
        match self.captured_frames() < index.committed {
            true => self.capture_segment(&index),
            false => self.skip_to_floor(&index),
        }?;
        let no_image = self.images.is_empty();
        let attached = self.attached_mut()?;
        // Nobody else can checkpoint while it is held, and it takes time until the file has arrived.
        if no_image && (!attached.reset_seen || attached.change_lock(Action::AwaitCheckpointer)?) {
            attached.change_lock(Action::ReleaseGuard)?;
        }
        Ok(())
    }

    /// Takes both locks: neither the database file nor the frames captured so far can change then.
    fn hold_still(&mut self) -> Result<(), CaptureError> {
        let attached = self.attached_mut()?;
        attached.wait_for(Action::TakePin)?;
        Ok(attached.wait_for(Action::TakeGuard)?)
    }

    /// The pages that changed after `since`, unless a snapshot takes hardly more.
    fn changed_since(&self, since: Txid, position: &Position) -> Result<Option<PageSet>, Error> {
        let Some(table) = self.state.table.as_ref().filter(|_| since < position.txid) else {
            return Ok(None);
        };
        let changed = table.changed_after(since, position.pages);
        let Some(mut changed) = changed.map_err(self.state.failed("read the page table in"))?
        else {
            return Ok(None);
        };
        if changed.len() == 0 {
            changed.insert(1); // a file has a page even if only the size changed
        }
        let few = u64::from(changed.len()) * 4 <= u64::from(position.pages) * 3;
        Ok(few.then_some(changed))
    }

    /// Ends an image. A page table that was made from it is brought up to the present and used.
    pub(crate) fn end_image(
        &mut self,
        image: &Image,
        table: Option<PageTable>,
    ) -> Result<(), Error> {
        let Some(at) = self.images.iter().position(|txid| *txid == image.txid()) else {
            return Ok(()); // detached meanwhile: the image was given up with the locks
        };
        self.images.remove(at);
        let Some(table) = table else { return Ok(()) };
        let Some(mut position) = self.state.position else {
            return Ok(());
        };
        let failed = self.state.failed("complete the page table in");
        let mut pages = image.header.commit;
        let Some(mut sums) = table.sums(pages).map_err(&failed)? else {
            return Ok(());
        };
        self.begun = Some(Content::of_sum(pages, sums.checksums));
        for staged in self.state.stage.files() {
            if staged.name.min > image.txid() {
                let path = self.state.stage.path(staged.name);
                let changes = super::changes_of(self.disk.as_ref(), &path)?;
                sums = table.sums_after(sums, pages, &changes).map_err(&failed)?;
                table.apply(&changes).map_err(&failed)?;
                pages = changes.pages;
            }
        }
        position.table = Some(sums);
        self.state.save(position)?;
        self.state.table = Some(table);
        Ok(())
    }

    /// Compares every page with the table and stages those that differ. How many did.
    pub(super) fn rebase(&mut self) -> Result<u64, CaptureError> {
        let Some(before) = self.state.position else {
            return Ok(0);
        };
        // Both locks are held since the database was opened.
        let attached = self.attached_mut()?;
        let (inode, wal_inode) = (attached.id.inode, attached.wal_inode);
        let index = attached.read_index()?;
        let wal = WalFile::open(self.disk.as_ref(), &beside(&self.path, "-wal"))
            .map_err(self.attached_mut()?.wal_failed())?;
        let scan = wal
            .scan_if_any(Cursor::default(), &index)
            .map_err(|e| self.broken(e))?;
        let (min, max) = self.next_txids();
        let mut header = Header::new(before.page_size, index.pages, min, max);
        header.timestamp_ms = self.timestamp();
        let database = Arc::clone(&self.attached_mut()?.database);
        let image = Image {
            database,
            wal,
            newest: scan.newest,
            header,
            chosen: None,
        };
        let changes = self.stage_differences(&image, &before)?;
        let continued = Position {
            salts: index.salts,
            frames: scan.end.frames,
            checksum: scan.end.checksum,
            pages: index.pages,
            inode,
            wal_inode,
            boot: boot(),
            ..before
        };
        if changes.checksums.is_empty() && index.pages == before.pages {
            self.state.save(continued)?;
            return Ok(0);
        }
        self.stats.captured = Some(super::created(&image.header));
        let position = Position {
            txid: max,
            timestamp_ms: image.header.timestamp_ms,
            staged_min: min,
            ..continued
        };
        self.advance(position, &before, &changes)?;
        Ok(changes.checksums.len() as u64)
    }

    /// Stages the pages of the image that differ from the table, if any do.
    fn stage_differences(
        &mut self,
        image: &Image,
        before: &Position,
    ) -> Result<PageChanges, CaptureError> {
        let Some(table) = self.state.table.take() else {
            return Err(Error::Unsupported {
                path: self.path.clone(),
                reason: "its page table is missing; it is started anew".into(),
            }
            .into());
        };
        let result = self.compare_pages(image, before, &table);
        self.state.table = Some(table);
        result
    }

    fn compare_pages(
        &mut self,
        image: &Image,
        before: &Position,
        table: &PageTable,
    ) -> Result<PageChanges, CaptureError> {
        let mut changes = PageChanges {
            checksums: BTreeMap::new(),
            pages: image.header.commit,
            txid: image.header.max_txid,
        };
        let mut known = KnownChecksums::new(table, before.pages);
        let mut staging = self.start_staging(image.header.clone())?;
        let shrunk = image.header.commit < before.pages;
        image
            .for_each_page(|pgno, page| {
                let checksum = Checksum::page(pgno, page).get();
                // A file needs a page even when the only change is that the database got shorter.
                let needed = shrunk && pgno == Pgno::FIRST;
                if needed || known.get(pgno).map_err(PageError::Read)? != Some(checksum) {
                    changes.checksums.insert(pgno, checksum);
                    staging.page(pgno, page).map_err(PageError::Stage)?;
                }
                Ok::<(), PageError>(())
            })
            .map_err(|error| match error {
                PageError::Read(source) => {
                    let path = self.path.clone();
                    Error::Io {
                        path,
                        action: "read",
                        source,
                    }
                }
                PageError::Stage(error) => error,
            })?;
        if !changes.checksums.is_empty() {
            tracing::debug!(txid = %staging.txid(), pages = changes.checksums.len(), "re-based");
            self.finish_staging(staging)?;
        }
        Ok(changes)
    }
}

enum PageError {
    Read(io::Error),
    Stage(Error),
}

impl From<io::Error> for PageError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// The table's entries in ascending order, read in blocks.
struct KnownChecksums<'a> {
    table: &'a PageTable,
    pages: u32,
    first: u32,
    block: Vec<u64>,
}

impl<'a> KnownChecksums<'a> {
    const BLOCK: u32 = 8_192;

    fn new(table: &'a PageTable, pages: u32) -> Self {
        Self {
            table,
            pages,
            first: 1,
            block: Vec::new(),
        }
    }

    fn get(&mut self, pgno: Pgno) -> io::Result<Option<u64>> {
        let pgno = pgno.get();
        if pgno > self.pages {
            return Ok(None);
        }
        if pgno >= self.first + self.block.len() as u32 {
            self.first = pgno;
            self.block.clear();
            let last = self.pages.min(pgno.saturating_add(Self::BLOCK - 1));
            self.table
                .read_entries(pgno, last, |_, entry| self.block.push(entry.checksum))?;
        }
        Ok(self.block.get((pgno - self.first) as usize).copied())
    }
}

/// Reads one page of the database file.
pub(super) fn read_database_page(file: &File, pgno: Pgno, page: &mut [u8]) -> io::Result<()> {
    let size = PageSize::new(page.len() as u32)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    read_zero_filled(file, pgno.offset(size), page)
}

/// Fills the buffer, with zeros where the file has ended: pages that were never written.
fn read_zero_filled(file: &File, offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    let mut offset = offset;
    while !buffer.is_empty() {
        let read = match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            buffer.fill(0);
            return Ok(());
        }
        buffer = buffer.get_mut(read..).unwrap_or_default();
        offset += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use evertide_ltx::Decoder;
    use evertide_storage::{Disk, OsDisk};

    use super::*;
    use crate::{
        capture::{DiskReader, scene::Scene},
        state::PageTable,
        wal::{WalIndex, protocol::Held},
    };

    #[test]
    #[expect(clippy::disallowed_methods, reason = "not a live database")]
    fn an_image_passes_over_the_page_of_the_lock_bytes_at_every_page_size() {
        let dir = tempfile::tempdir().unwrap();
        let (path, wal) = (dir.path().join("app.db"), dir.path().join("app.db-wal"));
        File::create(&wal).unwrap();
        for power in 9..=16 {
            let size = PageSize::new(1 << power).unwrap();
            let lock = size.lock_page().get();
            let database = File::create(&path).unwrap();
            database
                .set_len(u64::from(lock + 2) * u64::from(size.get()))
                .unwrap();
            let mut chosen = PageSet::default();
            (lock - 2..=lock + 2).for_each(|pgno| chosen.insert(pgno));
            let image = Image {
                database: Arc::new(File::open(&path).unwrap()),
                wal: WalFile::open(&OsDisk, &wal).unwrap(),
                newest: BTreeMap::new(),
                header: Header::new(size, lock + 2, Txid::new(1), Txid::new(1)),
                chosen: Some(chosen),
            };
            let mut pages = Vec::new();
            let read = image.for_each_page(|pgno, _| {
                pages.push(pgno.get());
                Ok::<_, io::Error>(())
            });
            read.unwrap();
            assert_eq!(pages, [lock - 2, lock - 1, lock + 1, lock + 2], "{size:?}");
        }
    }

    /// SQLite before 3.51.3 would have it write frames of the wrong generation.
    #[test]
    fn a_stop_does_not_let_a_checkpointer_from_before_a_reset_go_on() {
        let mut scene = Scene::new(); // attached just now, as after a reset
        let shm = beside(&scene.path, "-shm");
        let held_after_the_last = |capture: &mut Capture| {
            capture.capture_one_transaction().unwrap();
            capture.attached_mut().unwrap().held()
        };
        let checkpointer = WalIndex::as_checkpointer(&shm).unwrap().unwrap();
        assert_eq!(held_after_the_last(&mut scene.capture), Held::Both);
        drop(checkpointer);
        assert_eq!(held_after_the_last(&mut scene.capture), Held::Pin);
    }

    #[test]
    fn a_commit_that_comes_while_ids_are_passed_over_is_not_captured_by_half() {
        let mut scene = Scene::new();
        let (conn, capture) = (&scene.conn, &mut scene.capture);
        let index = capture.follow_generation().unwrap();
        conn.execute_batch("INSERT INTO t VALUES (zeroblob(20000))")
            .unwrap();
        capture.raise_floor(Txid::new(5));
        capture.skip_to_floor(&index).unwrap();
        let staged = capture.state.stage.files().last().unwrap().name;
        let file = OsDisk.open_read(&capture.state.stage.path(staged)).unwrap();
        let mut decoder = Decoder::new(DiskReader::new(file)).unwrap();
        let mut page = vec![0; decoder.header().page_size.len()];
        let commit = decoder.header().commit;
        assert_eq!(decoder.decode_page(&mut page).unwrap(), Some(Pgno::FIRST));
        let size: [u8; 4] = page[28..32].try_into().unwrap();
        assert_eq!(
            u32::from_be_bytes(size),
            commit,
            "the size in the first page"
        );
    }
    fn capture_an_insert(scene: &mut Scene) {
        let insert = "INSERT INTO t VALUES (zeroblob(20000))";
        scene.conn.execute_batch(insert).unwrap();
        let index = scene.capture.follow_generation().unwrap();
        scene.capture.capture_segment(&index).unwrap();
    }

    /// A power cut may take back what was changed in the table, of which the file is synced.
    #[allow(clippy::disallowed_methods)] // no file of a database
    fn assert_made_again_after(capture: impl FnOnce(&mut Scene)) {
        let mut scene = Scene::with_table();
        capture_an_insert(&mut scene);
        let table = scene.capture.state.table_path();
        let before = std::fs::read(&table).unwrap();
        capture(&mut scene);
        let saved = scene.capture.state.position;
        assert_ne!(std::fs::read(&table).unwrap(), before);
        std::fs::write(&table, before).unwrap();
        scene.start_again();
        assert_eq!(scene.capture.state.position, saved);
        let sums = |table: &PageTable| table.sums(saved.unwrap().pages).unwrap();
        let sums = scene.capture.state.table.as_ref().map(sums);
        assert_eq!(sums, Some(saved.unwrap().table));
    }

    #[test]
    fn the_page_table_is_made_again_from_a_file_that_passes_over_ids() {
        assert_made_again_after(|scene| {
            let index = scene.capture.follow_generation().unwrap();
            scene.capture.raise_floor(Txid::new(5));
            scene.capture.skip_to_floor(&index).unwrap();
        });
    }

    #[test]
    fn the_page_table_is_made_again_from_the_newest_captured_file() {
        assert_made_again_after(capture_an_insert);
    }
}

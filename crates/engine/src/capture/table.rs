//! Redoing the page table from staged files.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use evertide_ltx::{Checksum, Decoder, Header, LtxName, Pgno, Txid};
use evertide_storage::{Disk, DiskFile};

use super::Capture;
use crate::{
    Error,
    error::describe,
    state::{PageChanges, Staged, Tip},
};

impl Capture {
    /// Forgets staged files that are not what their names say, or were captured from another
    /// database, and what came before them. A replica that waits for one gets a snapshot.
    pub(super) fn check_staged(&mut self) -> Result<(), Error> {
        let Some(position) = self.state.position else {
            return Ok(());
        };
        let belongs = |staged: &Staged| {
            let path = self.state.stage.path(staged.name);
            let file = self.disk.open_read(&path).map(DiskReader::new);
            let header =
                file.map(|file| Decoder::new(file).map(|decoder| decoder.header().clone()));
            // Staged files carry the inode of their database; the uploaded ones do not.
            matches!(header, Ok(Ok(header)) if header.name() == staged.name
                && header.node_id == position.inode
                && (header.max_txid != position.txid
                    || header.timestamp_ms == position.timestamp_ms))
        };
        let files = self.state.stage.files();
        let Some(wrong) = files.iter().rposition(|staged| !belongs(staged)) else {
            return Ok(());
        };
        tracing::warn!(
            database = %self.path.display(),
            file = %files.get(wrong).map_or_else(String::new, |staged| staged.name.to_string()),
            "a captured file is damaged or of another database; it is not used"
        );
        let disk = Arc::clone(&self.disk);
        self.state
            .stage
            .remove_oldest(disk.as_ref(), wrong + 1)
            .map_err(self.state.failed("clean"))
    }

    /// Makes the table agree with the position record, or gives it up. A process that died after
    /// it wrote the record may not have changed the table, or only in part; doing that again from
    /// the newest staged file is the same as once.
    pub(super) fn redo_table(&mut self) -> Result<(), Error> {
        let Some(position) = self.state.position else {
            self.state.table = None;
            return Ok(());
        };
        let (Some(table), Some(expected)) = (self.state.table.take(), position.table) else {
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
        if table.sums(position.pages).map_err(&failed)? == Some(expected) {
            self.state.table = Some(table);
        } else {
            tracing::warn!(
                database = %self.path.display(),
                "the page table does not add up; building it anew, and a replica that is behind \
                 what is staged gets a snapshot"
            );
        }
        Ok(())
    }
}

impl Capture {
    /// Whether the newest object of a replica, which ends at or before the position, is of the
    /// history captured here. `false` where nothing proves that it is.
    pub(crate) fn is_ours(&self, tail: &Tail) -> bool {
        let Some(position) = self.state.position else {
            return false;
        };
        let mut captured = match position.txid == tail.txid {
            true => Some(position.timestamp_ms),
            false => position.tips.timestamp_of(tail.txid),
        };
        // What a page was at that transaction, and `None` where only a newer one is known.
        let mut pages: BTreeMap<Pgno, Option<u64>> = BTreeMap::new();
        for staged in self.state.stage.files() {
            let path = self.state.stage.path(staged.name);
            let (header, changes) = match read_changes(self.disk.as_ref(), &path) {
                Ok(read) => read,
                Err(error) => {
                    let error = describe(&error);
                    tracing::warn!(
                        error,
                        "a captured file cannot be read, and is not continued"
                    );
                    return false;
                }
            };
            let then = staged.name.max <= tail.txid;
            if staged.name.max == tail.txid {
                captured = Some(header.timestamp_ms);
            }
            for (pgno, checksum) in changes.checksums {
                match then {
                    true => drop(pages.insert(pgno, Some(checksum))),
                    false => drop(pages.entry(pgno).or_insert(None)),
                }
            }
        }
        // Pages alone prove nothing: a database that was made by the same statements may have the same ones, and a
        // transaction of another history may have left most of them alone.
        if captured != Some(tail.timestamp_ms) {
            return false;
        }
        for (pgno, checksum) in &tail.pages {
            let known = match pages.get(pgno) {
                Some(known) => *known,
                None => self.checksum_then(*pgno, tail.txid),
            };
            if known.is_some_and(|known| known != *checksum) {
                return false;
            }
        }
        true
    }

    /// The checksum of a page as it was after this transaction, if it has not changed since.
    fn checksum_then(&self, pgno: Pgno, txid: Txid) -> Option<u64> {
        let table = self.state.table.as_ref()?;
        let pages = self.state.position?.pages;
        let mut found = None;
        if pgno.get() <= pages {
            let read = table.read_entries(pgno.get(), pgno.get(), |_, entry| found = Some(entry));
            read.ok()?;
        }
        let found = found.filter(|entry| entry.changed <= txid)?;
        Some(found.checksum)
    }

    /// Notes what a replica has. That is recorded with the next position, which is soon enough: until
    /// then the replica has what the position, or the file before it, ends with.
    pub(crate) fn note_tip(&mut self, tip: Tip) {
        let position = self.state.position.as_mut();
        if let Some(position) = position.filter(|position| tip.txid <= position.txid) {
            position.tips.note(tip);
        }
    }
}

/// What the newest object of a replica says about the history it is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tail {
    /// Its last transaction.
    pub(crate) txid: Txid,
    /// When that was captured, in milliseconds since the epoch.
    pub(crate) timestamp_ms: i64,
    /// Page checksums, as many as are cheap to read.
    pub(crate) pages: Vec<(Pgno, u64)>,
}

/// The page checksums of an LTX file. The whole file is verified.
pub(crate) fn changes_of(disk: &dyn Disk, path: &Path) -> Result<PageChanges, Error> {
    read_changes(disk, path).map(|(_, changes)| changes)
}

fn read_changes(disk: &dyn Disk, path: &Path) -> Result<(Header, PageChanges), Error> {
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
    let header = decoder.header().clone();
    let pages = header.commit;
    let mut checksums = BTreeMap::new();
    while let Some(pgno) = decoder.decode_page(&mut page).map_err(ltx)? {
        checksums.insert(pgno, Checksum::page(pgno, &page).get());
    }
    decoder.finish().map_err(ltx)?;
    let txid = header.max_txid;
    let changes = PageChanges {
        checksums,
        pages,
        txid,
    };
    Ok((header, changes))
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

#[cfg(test)]
mod tests {
    use evertide_storage::{OsDisk, SystemClock};
    use rusqlite::Connection;

    use super::{
        super::{Due, RotationPolicy},
        *,
    };
    use crate::state::{PageEntry, PageTable};

    /// An application with its database, and the capture of that after the first snapshot.
    struct Scene {
        _dir: tempfile::TempDir,
        application: Connection,
        capture: Capture,
        /// Of the first snapshot.
        tail: Tail,
    }

    impl Scene {
        /// All are made by the same statements.
        fn new(content: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("app.db");
            let application = Connection::open(&path).unwrap();
            let create = "PRAGMA journal_mode = WAL; CREATE TABLE t (b TEXT)";
            application.execute_batch(create).unwrap();
            let insert = "INSERT INTO t VALUES (?1)";
            application.execute(insert, [content]).unwrap();
            let policy = RotationPolicy::fixed(1_000);
            let (disk, clock) = (Arc::new(OsDisk), Arc::new(SystemClock));
            let mut capture = Capture::new(path, disk, clock, policy).unwrap();
            capture.attach().unwrap();
            let image = capture.begin_image(None).unwrap();
            let table = PageTable::create(&OsDisk, &capture.state.table_path()).unwrap();
            let mut pages = Vec::new();
            let read = image.for_each_page(|pgno, page| {
                let (checksum, changed) = (Checksum::page(pgno, page).get(), image.txid());
                pages.push((pgno, checksum));
                table.write_entries(pgno.get(), &[PageEntry { checksum, changed }])
            });
            read.unwrap();
            let tail = Tail {
                txid: image.txid(),
                timestamp_ms: image.header.timestamp_ms,
                pages,
            };
            capture.end_image(&image, Some(table)).unwrap();
            Self {
                _dir: dir,
                application,
                capture,
                tail,
            }
        }

        /// Changes every page but the first, twice.
        fn go_on(&mut self) {
            for content in ["a", "b"] {
                let update = "UPDATE t SET b = ?1";
                self.application.execute(update, [content]).unwrap();
                self.capture.step(Due::Now).unwrap();
            }
        }
    }

    #[test]
    fn a_database_made_in_the_same_way_is_not_taken_for_the_one_that_a_replica_has() {
        let (other, mut ours) = (Scene::new("theirs"), Scene::new("ours"));
        assert_eq!(other.tail.pages[0], ours.tail.pages[0], "the schema");
        assert!(!ours.capture.is_ours(&other.tail));
        ours.go_on();
        assert!(
            !ours.capture.is_ours(&other.tail),
            "only newer pages differ"
        );
    }

    #[test]
    fn a_snapshot_that_arrived_unheard_of_is_ours_however_far_capture_went_on() {
        let mut ours = Scene::new("ours");
        assert!(ours.capture.is_ours(&ours.tail));
        ours.go_on();
        assert!(ours.capture.is_ours(&ours.tail));
        let (path, disk) = (ours.capture.path.clone(), Arc::new(OsDisk));
        let policy = RotationPolicy::fixed(1_000);
        drop(ours.capture);
        let again = Capture::new(path, disk, Arc::new(SystemClock), policy).unwrap();
        assert!(again.is_ours(&ours.tail), "after a restart");
    }
}

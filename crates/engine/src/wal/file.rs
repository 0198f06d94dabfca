//! Reading committed frames from the `-wal` file.

use std::{collections::BTreeMap, io, path::Path};

use evertide_ltx::{PageSize, Pgno};
use evertide_storage::{Disk, DiskFile};

use super::{
    format::{
        FRAME_HEADER_LEN, FrameHeader, Salts, WAL_HEADER_LEN, WalChecksum, WalHeader, frame_offset,
    },
    index::IndexHeader,
    protocol::{Generation, ResumeFacts},
};

/// Bytes read at once while scanning.
const SCAN_BYTES: usize = 1 << 20;

/// An open `-wal` file. It carries no locks, so it may be opened and closed freely; it stays open
/// while attached so that a file deleted by mistake can still be read to its end.
#[derive(Debug)]
pub(crate) struct WalFile {
    file: Box<dyn DiskFile>,
}

/// How far a generation was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cursor {
    /// Frames read.
    pub(crate) frames: u32,
    /// The running checksum at the last of them; meaningless at zero frames.
    pub(crate) checksum: WalChecksum,
}

/// What a run of committed frames contains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Scan {
    /// The newest frame of each page that is part of the database at the end.
    pub(crate) newest: BTreeMap<Pgno, u32>,
    /// Where the scan ended.
    pub(crate) end: Cursor,
    /// Size of the database there, in pages.
    pub(crate) pages: u32,
}

/// Why frames cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file does not contain what the wal-index says was committed.
    #[error("{0}")]
    Broken(String),
}

fn broken<T>(what: String) -> Result<T, ScanError> {
    Err(ScanError::Broken(what))
}

impl WalFile {
    /// Opens the file for reading.
    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: disk.open_read(path)?,
        })
    }

    /// Makes durable what was written, as a checkpoint does before it backfills.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The header, where a whole one with a right checksum is there.
    pub(crate) fn header(&self) -> io::Result<Option<WalHeader>> {
        let mut bytes = [0; WAL_HEADER_LEN];
        let read = self.file.read_at(&mut bytes, 0)?;
        Ok(if read == bytes.len() {
            WalHeader::parse(&bytes)
        } else {
            None
        })
    }

    /// Reads the page behind frame `index`, from 0.
    pub(crate) fn read_page(&self, index: u32, page: &mut [u8]) -> io::Result<()> {
        let size = PageSize::new(page.len() as u32)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.file
            .read_exact_at(page, frame_offset(index, size) + FRAME_HEADER_LEN as u64)
    }

    /// Whether the last frame before `cursor` is still the one it was.
    pub(crate) fn continues(
        &self,
        cursor: Cursor,
        salts: Salts,
        page_size: PageSize,
    ) -> io::Result<bool> {
        let Some(last) = cursor.frames.checked_sub(1) else {
            return Ok(true);
        };
        let mut bytes = [0; FRAME_HEADER_LEN];
        let read = self
            .file
            .read_at(&mut bytes, frame_offset(last, page_size))?;
        let frame = FrameHeader::parse(bytes.get(..read).unwrap_or_default());
        Ok(frame.is_some_and(|f| f.salts == salts && f.checksum == cursor.checksum))
    }

    /// What the WAL, which `index` is of, tells about a record of `cursor` in the generation `salts`.
    /// It does not tell whether the machine started anew since.
    pub(crate) fn resume_facts(
        &self,
        cursor: Cursor,
        salts: Salts,
        index: &IndexHeader,
    ) -> io::Result<ResumeFacts> {
        Ok(ResumeFacts {
            generation: Generation::of(salts.numbers(), index.salts.numbers()),
            captured: cursor.frames,
            committed: index.committed,
            continues: self.continues(cursor, salts, index.page_size)?,
            followed: self.is_followed(cursor, salts, index.page_size)?,
            rebooted: true,
        })
    }

    /// Whether a frame of the same generation follows, or what follows is unknown.
    fn is_followed(&self, cursor: Cursor, salts: Salts, page_size: PageSize) -> io::Result<bool> {
        // SQLite cuts the file off anywhere when it has a size limit: then what followed is unknown.
        let end = frame_offset(cursor.frames, page_size);
        let mut bytes = [0; FRAME_HEADER_LEN];
        Ok(match self.file.read_at(&mut bytes, end)? {
            0 => self.file.len()? != end,
            FRAME_HEADER_LEN => FrameHeader::parse(&bytes).is_some_and(|f| f.salts == salts),
            _ => true,
        })
    }

    /// As [`WalFile::scan`], with an empty WAL as the empty scan: it may not even have a header.
    pub(crate) fn scan_if_any(&self, from: Cursor, index: &IndexHeader) -> Result<Scan, ScanError> {
        if index.committed == 0 {
            let end = Cursor::default();
            return Ok(Scan {
                newest: BTreeMap::new(),
                end,
                pages: index.pages,
            });
        }
        self.scan(from, index)
    }

    /// Reads and checks the frames from `from` up to what `index` says is committed.
    ///
    /// # Errors
    ///
    /// [`ScanError::Broken`] when a frame has other salts, when the running checksum does not match
    /// a frame or the wal-index, or when the run does not end with a commit.
    pub(crate) fn scan(&self, from: Cursor, index: &IndexHeader) -> Result<Scan, ScanError> {
        let Some(header) = self.header()? else {
            return broken("the WAL has no valid header".into());
        };
        if header.salts != index.salts || header.page_size != index.page_size {
            return broken("the WAL's header is of another generation than its index".into());
        }
        let start = if from.frames == 0 {
            header.checksum
        } else {
            from.checksum
        };
        let mut checksum = start;
        let mut newest = BTreeMap::new();
        let mut pages = 0;
        let frame_len = FRAME_HEADER_LEN + index.page_size.len();
        let batch = (SCAN_BYTES / frame_len).max(1);
        let wanted = index.committed.saturating_sub(from.frames) as usize;
        let mut buffer = vec![0; batch.min(wanted) * frame_len];
        let mut frame_index = from.frames;
        while frame_index < index.committed {
            let count = batch.min((index.committed - frame_index) as usize);
            let bytes = buffer.get_mut(..count * frame_len).unwrap_or_default();
            let offset = frame_offset(frame_index, index.page_size);
            if self.file.read_at(bytes, offset)? < bytes.len() {
                return broken(format!("the WAL ends before frame {}", index.committed));
            }
            for frame in bytes.chunks_exact(frame_len) {
                let (head, page) = frame.split_at(FRAME_HEADER_LEN);
                let Some(parsed) = FrameHeader::parse(head) else {
                    return broken(format!("frame {frame_index} is cut off"));
                };
                checksum = checksum
                    .update(header.order, head.get(..8).unwrap_or_default())
                    .update(header.order, page);
                if parsed.salts != index.salts {
                    return broken(format!("frame {frame_index} is of another generation"));
                }
                if parsed.checksum != checksum {
                    return broken(format!(
                        "the checksum of frame {frame_index} does not match"
                    ));
                }
                let Some(pgno) = Pgno::new(parsed.pgno) else {
                    return broken(format!("frame {frame_index} has no page number"));
                };
                newest.insert(pgno, frame_index);
                pages = parsed.commit;
                frame_index += 1;
            }
        }
        if wanted > 0 && (checksum != index.checksum || pages != index.pages) {
            return broken("the last committed frame is not the one in the wal-index".into());
        }
        newest.retain(|pgno, _| pgno.get() <= index.pages);
        let end = Cursor {
            frames: index.committed,
            checksum,
        };
        Ok(Scan {
            newest,
            end,
            pages: index.pages,
        })
    }
}

#[cfg(test)]
mod tests {
    use evertide_storage::OsDisk;

    use super::*;
    use crate::wal::protocol::{Resume, resume};

    /// A WAL of three frames, reset once, with one frame of the next generation.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the -wal file carries no locks")]
    fn a_wal_that_was_cut_off_does_not_prove_that_nothing_was_missed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wal");
        let page_size = PageSize::new(512).unwrap();
        let salts = |generation: u32| {
            let mut salts = [7; 8];
            salts[..4].copy_from_slice(&generation.to_be_bytes());
            Salts(salts)
        };
        let frame = |generation, checksum: u32| {
            let mut frame = vec![0; FRAME_HEADER_LEN + 512];
            frame[8..16].copy_from_slice(&salts(generation).0);
            frame[16..20].copy_from_slice(&checksum.to_be_bytes());
            frame
        };
        let wal = [
            vec![0; WAL_HEADER_LEN],
            frame(2, 0),
            frame(1, 1),
            frame(1, 2),
        ]
        .concat();
        let cursor = |frames| Cursor {
            frames,
            checksum: WalChecksum(frames - 1, 0),
        };
        let index = IndexHeader {
            page_size,
            committed: 1,
            pages: 1,
            checksum: WalChecksum::default(),
            salts: salts(2),
            backfilled: 0,
        };
        let proven = |frames, len| {
            std::fs::write(&path, &wal[..len]).unwrap();
            let file = WalFile::open(&OsDisk, &path).unwrap();
            let facts = file.resume_facts(cursor(frames), salts(1), &index);
            let since_the_start_of_the_machine = ResumeFacts {
                rebooted: false,
                ..facts.unwrap()
            };
            resume(&since_the_start_of_the_machine) == Resume::AfterReset
        };
        let whole = wal.len();
        assert!(proven(3, whole), "all that came before is captured");
        assert!(!proven(2, whole), "the third frame is not captured");
        for cut in [1, 512, FRAME_HEADER_LEN + 512 - 1] {
            assert!(!proven(2, whole - cut), "cut off by {cut} bytes");
        }
        assert!(
            !proven(3, whole - 1),
            "what followed the last frame is unknown"
        );
    }
}

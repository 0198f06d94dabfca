//! The WAL files of a generation, read frame by frame.
//!
//! Every frame must have the salts of its file and continue its checksums; every file must be the one
//! right after the file before, which SQLite shows by counting salt-1 up by one.

use std::io::{self, Read};

use evertide_ltx::{PageSize, Pgno};

use crate::wal::{FRAME_HEADER_LEN, FrameHeader, WAL_HEADER_LEN, WalChecksum, WalHeader};

/// What can be wrong with a segment.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// It cannot be read or decompressed, or what was made of it cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not what it should be.
    #[error("{0}")]
    Damaged(String),
    /// The one before it is missing.
    #[error("the WAL has been read up to byte {have}, and it starts at {starts}")]
    Gap {
        /// Where a segment is missing.
        have: u64,
        /// Where this one starts.
        starts: u64,
    },
}

fn damaged<T>(reason: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Damaged(reason.into()))
}

/// Whoever is given the frames.
pub(super) trait Pages {
    /// A page of the transaction that is under way.
    fn page(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()>;

    /// All of its pages have come, and this is the size of the database now, in pages.
    fn commit(&mut self, size: u32) -> io::Result<()>;
}

/// The WAL file that is being read.
#[derive(Debug)]
pub(super) struct Wal {
    header: WalHeader,
    checksum: WalChecksum,
    /// Bytes read of it.
    position: u64,
    /// Whether a transaction has begun and not ended.
    open: bool,
    frame: Vec<u8>,
}

impl Wal {
    /// Starts with the first segment of a file.
    ///
    /// `before` is the file before, and `page_size` that of the database, where they are known.
    pub(super) fn begin(
        segment: &mut impl Read,
        before: Option<&Self>,
        page_size: Option<PageSize>,
    ) -> Result<Self, Problem> {
        if before.is_some_and(Self::is_open) {
            return damaged(
                "the WAL file before it ends in the middle of a transaction, so segments of that \
                 one are missing",
            );
        }
        let mut bytes = [0; WAL_HEADER_LEN];
        if read_full(segment, &mut bytes)? < bytes.len() {
            return damaged("it ends within the WAL header");
        }
        let Some(header) = WalHeader::parse(&bytes) else {
            return damaged("it does not start with a WAL header whose checksum is right");
        };
        if let Some(known) = page_size
            && known != header.page_size
        {
            let found = header.page_size;
            return damaged(format!(
                "its pages have {found} bytes, those of the database {known}"
            ));
        }
        if let Some(before) = before {
            let (last, this) = (before.header.salts.numbers(), header.salts.numbers());
            if last.0.wrapping_add(1) != this.0 {
                return damaged(format!(
                    "its salt {:08x} is not the one after {:08x}: the WAL started over in \
                     between, and what it held then was never backed up",
                    this.0, last.0
                ));
            }
        }
        Ok(Self {
            checksum: header.checksum,
            position: WAL_HEADER_LEN as u64,
            open: false,
            frame: vec![0; FRAME_HEADER_LEN + header.page_size.len()],
            header,
        })
    }

    /// The size of a page.
    pub(super) fn page_size(&self) -> PageSize {
        self.header.page_size
    }

    /// Whether a transaction has begun and not ended.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Makes sure that a segment starts where the one before has ended.
    pub(super) fn expect(&self, offset: u64) -> Result<(), Problem> {
        if offset == self.position {
            return Ok(());
        }
        let (have, starts) = (self.position, offset);
        if starts < have {
            return damaged(format!(
                "it starts at byte {starts} of the WAL, which the segment before holds already"
            ));
        }
        Err(Problem::Gap { have, starts })
    }

    /// Reads all frames of a segment.
    pub(super) fn read(
        &mut self,
        segment: &mut impl Read,
        pages: &mut impl Pages,
    ) -> Result<(), Problem> {
        loop {
            match read_full(segment, &mut self.frame)? {
                0 => return Ok(()),
                read if read < self.frame.len() => {
                    return damaged("it ends in the middle of a frame");
                }
                _ => {}
            }
            let at = self.position;
            let (commit, pgno) = self.check(at)?;
            let page = self.frame.get(FRAME_HEADER_LEN..).unwrap_or_default();
            pages.page(pgno, page)?;
            self.open = commit == 0;
            if commit > 0 {
                pages.commit(commit)?;
            }
            let Some(next) = at.checked_add(self.frame.len() as u64) else {
                return damaged("it goes beyond what a file can hold");
            };
            self.position = next;
        }
    }

    /// Verifies a frame; returns the size that it commits, and its page.
    fn check(&mut self, at: u64) -> Result<(u32, Pgno), Problem> {
        let Some(frame) = FrameHeader::parse(&self.frame) else {
            return damaged("it ends within a frame header");
        };
        if frame.salts != self.header.salts {
            return damaged(format!("the frame at byte {at} is of another WAL file"));
        }
        let (first, page) = (self.frame.get(..8), self.frame.get(FRAME_HEADER_LEN..));
        let checksum = self
            .checksum
            .update(self.header.order, first.unwrap_or_default())
            .update(self.header.order, page.unwrap_or_default());
        if checksum != frame.checksum {
            return damaged(format!("the checksum of the frame at byte {at} is wrong"));
        }
        self.checksum = checksum;
        let lock_page = self.header.page_size.lock_page();
        match Pgno::new(frame.pgno) {
            Some(pgno) if pgno != lock_page => Ok((frame.commit, pgno)),
            _ => damaged(format!(
                "the frame at byte {at} is for page {}, which cannot be",
                frame.pgno
            )),
        }
    }
}

/// Fills the buffer, less only where the input ends.
pub(super) fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

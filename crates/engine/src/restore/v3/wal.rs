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

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: usize = FRAME_HEADER_LEN + 512;

    /// What is committed, in order: the pages, and then the size.
    #[derive(Default, PartialEq, Eq, Debug)]
    struct Seen {
        open: Vec<u32>,
        commits: Vec<(Vec<u32>, u32)>,
    }

    impl Pages for Seen {
        fn page(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
            assert_eq!(page.len(), 512);
            self.open.push(pgno.get());
            Ok(())
        }

        fn commit(&mut self, size: u32) -> io::Result<()> {
            self.commits.push((std::mem::take(&mut self.open), size));
            Ok(())
        }
    }

    /// Two WAL files as SQLite writes them one after the other.
    fn wals() -> [Vec<u8>; 2] {
        let dir = tempfile::tempdir().unwrap();
        let conn = rusqlite::Connection::open(dir.path().join("t.db")).unwrap();
        conn.execute_batch(
            "pragma page_size=512; pragma journal_mode=wal; pragma wal_autocheckpoint=0;
             create table t(a); insert into t values (zeroblob(3000));
             insert into t values (zeroblob(600));",
        )
        .unwrap();
        let read = || {
            #[expect(clippy::disallowed_methods, reason = "the -wal file carries no locks")]
            std::fs::read(dir.path().join("t.db-wal")).unwrap()
        };
        let first = read();
        conn.execute_batch("pragma wal_checkpoint(truncate); insert into t values (1);")
            .unwrap();
        [first, read()]
    }

    fn read(mut bytes: &[u8], before: Option<&Wal>) -> Result<(Wal, Seen), Problem> {
        let mut seen = Seen::default();
        let mut wal = Wal::begin(&mut bytes, before, None)?;
        wal.read(&mut bytes, &mut seen)?;
        Ok((wal, seen))
    }

    #[test]
    fn segments_cut_at_any_frame_give_the_transactions_of_the_whole_file() {
        let [first, second] = wals();
        let (before, whole) = read(&first, None).unwrap();
        assert!(whole.commits.len() >= 3 && whole.open.is_empty());
        for cut in (WAL_HEADER_LEN..first.len()).step_by(FRAME) {
            let (mut start, mut rest) = first.split_at(cut);
            let mut seen = Seen::default();
            let mut wal = Wal::begin(&mut start, None, None).unwrap();
            wal.read(&mut start, &mut seen).unwrap();
            assert_eq!(wal.is_open(), !seen.open.is_empty());
            wal.expect(cut as u64).unwrap();
            wal.read(&mut rest, &mut seen).unwrap();
            assert_eq!(seen, whole);
        }
        read(&second, Some(&before)).unwrap();
    }

    #[test]
    fn a_flipped_bit_in_any_byte_of_a_wal_is_refused() {
        let [first, _] = wals();
        for place in 0..first.len() {
            let mut bad = first.clone();
            bad[place] ^= 1 << (place % 8);
            assert!(read(&bad, None).is_err(), "byte {place}");
        }
        assert!(read(&first[..first.len() - 1], None).is_err());
        assert!(read(&first[..20], None).is_err());
    }

    #[test]
    fn only_the_wal_file_right_after_the_one_before_is_taken() {
        let [first, second] = wals();
        let (mut before, _) = read(&first, None).unwrap();
        let twice = read(&first, Some(&before)).unwrap_err().to_string();
        assert!(twice.contains("started over"), "{twice}");
        before.header.salts.0[3] ^= 1;
        assert!(read(&second, Some(&before)).is_err());
        let other = PageSize::new(1024).ok();
        let begun = Wal::begin(&mut &second[..], None, other);
        assert!(begun.unwrap_err().to_string().contains("1024"));
    }

    #[test]
    fn a_wal_that_ends_within_a_transaction_is_not_followed_by_another() {
        let [first, second] = wals();
        // The second transaction takes several frames: leave out its last one.
        let mut cut = 0;
        for end in (WAL_HEADER_LEN + FRAME..first.len()).step_by(FRAME) {
            let (wal, _) = read(&first[..end], None).unwrap();
            if wal.is_open() {
                cut += 1;
                let error = read(&second, Some(&wal)).unwrap_err().to_string();
                assert!(error.contains("middle of a transaction"), "{error}");
            }
        }
        assert!(cut > 2);
    }

    #[test]
    fn offsets_over_4_gib_are_counted_without_wrapping() {
        let [first, _] = wals();
        let (mut start, mut rest) = first.split_at(WAL_HEADER_LEN + FRAME);
        let mut seen = Seen::default();
        let mut wal = Wal::begin(&mut start, None, None).unwrap();
        wal.read(&mut start, &mut seen).unwrap();
        // As if eight million frames had come before.
        let far = WAL_HEADER_LEN as u64 + 8_100_000 * FRAME as u64;
        assert!(far > u64::from(u32::MAX));
        wal.position = far;
        wal.expect(far).unwrap();
        assert!(matches!(
            wal.expect(far + FRAME as u64),
            Err(Problem::Gap { have, .. }) if have == far
        ));
        let wrapped = wal.expect(far & u64::from(u32::MAX));
        assert!(matches!(wrapped, Err(Problem::Damaged(_))));
        let frames = (rest.len() / FRAME) as u64;
        wal.read(&mut rest, &mut seen).unwrap();
        wal.expect(far + frames * FRAME as u64).unwrap();
        let name = super::super::plan::segment_name(1, 2, wal.position);
        let key = evertide_storage::V3Key::parse(&name).unwrap();
        let (index, offset) = (2, wal.position);
        assert_eq!(
            key.part(),
            evertide_storage::V3Part::Segment { index, offset }
        );
    }
}

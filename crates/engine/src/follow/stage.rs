//! An LTX file on its way into the copy: verified to its last byte, and compared with what is there,
//! before anything is changed.

use std::io::{self, Read};

use evertide_ltx::{Checksum, Decoder, Error as LtxError, PageSize, Pgno};
use evertide_storage::{DiskFile, LtxObject};

use super::{journal::Journal, position::State};
use crate::restore::Missing;

/// Bytes written at once.
const BUFFER: usize = 1 << 20;
const HEAD: usize = 4;

/// What can be wrong with a file on its way.
#[derive(Debug)]
pub(super) enum Problem {
    Ltx(LtxError),
    Misplaced(String),
    PageSize(PageSize),
    Incomplete(Pgno),
    Io(io::Error),
}

impl From<LtxError> for Problem {
    fn from(error: LtxError) -> Self {
        Self::Ltx(error)
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The pages that a file changes.
#[derive(Debug)]
pub(super) struct Staged {
    /// The state of the copy with them.
    pub(super) after: State,
    /// How many pages there are, the first one of the database included.
    pub(super) pages: u32,
    /// The change counter of that state.
    pub(super) counter: [u8; 4],
    file: Box<dyn DiskFile>,
    len: u64,
}

/// The copy as it is, for comparison.
pub(super) struct Current<'a> {
    pub(super) file: &'a dyn ReadPage,
    pub(super) state: State,
    pub(super) page_size: PageSize,
}

/// Reads a page of the copy.
pub(super) trait ReadPage {
    fn read(&self, pgno: Pgno, page: &mut [u8]) -> io::Result<()>;
}

/// Where what is staged goes.
pub(super) struct Places {
    pub(super) pages: Box<dyn DiskFile>,
    pub(super) journal: Box<dyn DiskFile>,
}

struct Stager<'a> {
    current: &'a Current<'a>,
    file: Box<dyn DiskFile>,
    len: u64,
    buffer: Vec<u8>,
    journal: Journal,
    checksum: Checksum,
    pages: u32,
    old: Vec<u8>,
}

/// Reads a file; `None` where it changes nothing.
pub(super) fn stage(
    content: impl Read,
    object: &LtxObject,
    current: &Current<'_>,
    places: Places,
) -> Result<Option<Staged>, Problem> {
    let page_size = current.page_size;
    let mut decoder = Decoder::new(content)?;
    let header = decoder.header().clone();
    if header.name() != object.name {
        let reason = format!("its header says that it is {}", header.name());
        return Err(Problem::Misplaced(reason));
    }
    if header.page_size != page_size {
        return Err(Problem::PageSize(header.page_size));
    }
    if header.commit == 0 {
        let reason = "it leaves a database without pages".to_owned();
        return Err(Problem::Misplaced(reason));
    }
    let mut stager = Stager {
        current,
        file: places.pages,
        len: 0,
        buffer: Vec::new(),
        journal: Journal::new(places.journal),
        checksum: current.state.checksum,
        pages: 0,
        old: vec![0; page_size.len()],
    };
    let mut missing = Missing::default();
    missing.replace(current.state.pages);
    missing.resize(header.commit, page_size);
    let mut page = vec![0; page_size.len()];
    let mut first = None;
    while let Some(pgno) = decoder.decode_page(&mut page)? {
        missing.fill(pgno);
        if pgno == Pgno::FIRST {
            first = Some(page.clone());
        } else {
            stager.page(pgno, &page)?;
        }
    }
    decoder.finish()?;
    if let Some(page) = missing.first() {
        return Err(Problem::Incomplete(page));
    }
    stager.cut(header.commit)?;
    stager.finish(first, object, header.commit)
}

impl Stager<'_> {
    /// A page that may have changed.
    fn page(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        if pgno.get() <= self.current.state.pages {
            self.current.file.read(pgno, &mut self.old)?;
            if self.old == page {
                return Ok(());
            }
            self.take_out(pgno)?;
        }
        self.put_in(pgno, page)
    }

    /// The page in `old` goes.
    fn take_out(&mut self, pgno: Pgno) -> io::Result<()> {
        self.journal.push(pgno, &self.old)?;
        self.checksum = self.checksum.toggle(Checksum::page(pgno, &self.old));
        Ok(())
    }

    fn put_in(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        self.checksum = self.checksum.toggle(Checksum::page(pgno, page));
        self.buffer.extend_from_slice(&pgno.get().to_be_bytes());
        self.buffer.extend_from_slice(page);
        self.pages += 1;
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.len)?;
        self.len += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The database ends after this page.
    fn cut(&mut self, commit: u32) -> io::Result<()> {
        let lock_page = self.current.page_size.lock_page();
        for number in commit.saturating_add(1)..=self.current.state.pages {
            let Some(pgno) = Pgno::new(number).filter(|pgno| *pgno != lock_page) else {
                continue;
            };
            self.current.file.read(pgno, &mut self.old)?;
            self.take_out(pgno)?;
        }
        Ok(())
    }

    /// Adds the first page, which tells readers that something has changed.
    fn finish(
        mut self,
        first: Option<Vec<u8>>,
        object: &LtxObject,
        commit: u32,
    ) -> Result<Option<Staged>, Problem> {
        let before = self.current.state;
        self.current.file.read(Pgno::FIRST, &mut self.old)?;
        let mut page = first.unwrap_or_else(|| self.old.clone());
        // What is written there anew is no change.
        keep_counters(&mut page, &self.old, commit);
        let after = |checksum| State {
            txid: object.name.max,
            pages: commit,
            checksum,
        };
        if self.pages == 0 && commit == before.pages && page == self.old {
            return Ok(None);
        }
        let counter = follow_on(&mut page, commit);
        self.take_out(Pgno::FIRST)?;
        self.put_in(Pgno::FIRST, &page)?;
        self.flush()?;
        self.journal.finish(before.pages, self.current.page_size)?;
        Ok(Some(Staged {
            after: after(self.checksum),
            pages: self.pages,
            counter,
            file: self.file,
            len: self.len,
        }))
    }
}

impl Staged {
    /// Hands all pages to `write`.
    pub(super) fn pages(
        &self,
        page_size: PageSize,
        mut write: impl FnMut(Pgno, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let entry = HEAD + page_size.len();
        let mut buffer = vec![0; entry * (BUFFER / entry).max(1)];
        let mut at = 0;
        while at < self.len {
            let read = self.file.read_at(&mut buffer, at)?;
            let whole = read - read % entry;
            if whole == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for entry in buffer.get(..whole).unwrap_or_default().chunks_exact(entry) {
                let (head, page) = entry.split_at(HEAD);
                let number = head.first_chunk().map(|head| u32::from_be_bytes(*head));
                let pgno = number.and_then(Pgno::new);
                write(pgno.ok_or(io::ErrorKind::InvalidData)?, page)?;
            }
            at += whole as u64;
        }
        Ok(())
    }
}

/// Makes the first page that of a copy: with a rollback journal, as only that lets a change be made
/// behind SQLite's locks without a WAL of its own.
fn to_rollback_mode(page: &mut [u8]) {
    if let Some(modes) = page.get_mut(18..20) {
        modes.fill(1);
    }
}

/// The fields of the first page by which SQLite knows that a cache is stale.
fn set_counter(page: &mut [u8], counter: [u8; 4], pages: u32) {
    for (at, value) in [(24, counter), (28, pages.to_be_bytes()), (92, counter)] {
        if let Some(field) = page.get_mut(at..at + value.len()) {
            field.copy_from_slice(&value);
        }
    }
}

/// Gives the first page the counter of `old`, so that the two can be compared.
fn keep_counters(page: &mut [u8], old: &[u8], pages: u32) {
    to_rollback_mode(page);
    let counter = old.get(24..28).and_then(|field| field.first_chunk());
    set_counter(page, counter.copied().unwrap_or_default(), pages);
}

/// Gives the first page a counter that no reader has seen: a random one, since a follower that was
/// undone must not give one twice.
pub(super) fn follow_on(page: &mut [u8], pages: u32) -> [u8; 4] {
    to_rollback_mode(page);
    let old: [u8; 4] = page
        .get(24..28)
        .and_then(|field| field.first_chunk())
        .copied()
        .unwrap_or_default();
    let step = fastrand::u32(1..);
    let counter = u32::from_be_bytes(old).wrapping_add(step).to_be_bytes();
    set_counter(page, counter, pages);
    counter
}

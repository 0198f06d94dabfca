//! A snapshot, and the WAL played into it as SQLite's checkpoints would.

use std::{io, io::Read, sync::Arc};

use evertide_ltx::{PageSize, Pgno};
use evertide_storage::{DiskFile, V3Object, V3Part};
use tokio::sync::mpsc;

use super::{
    pending::Pending,
    plan::segment_name,
    unpack::Unpack,
    wal::{Pages, Problem, Wal, read_full},
};
use crate::restore::{
    RestoreError,
    apply::{Applied, End, Feed, length},
    coverage::Missing,
    fetch::Message,
    output::Output,
    progress::Meter,
};

/// Bytes of a snapshot written at once.
const CHUNK: usize = 1 << 20;
/// How every database starts.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// The database that is being put together.
pub(super) struct Database<'a> {
    pub(super) location: String,
    pub(super) meter: Meter,
    pages: Target<'a>,
    wal: Option<Wal>,
    last: Option<V3Object>,
}

/// Where pages go.
struct Target<'a> {
    file: &'a dyn DiskFile,
    pending: Pending,
    missing: Missing,
    page_size: Option<PageSize>,
    written: u64,
}

impl<'a> Database<'a> {
    pub(super) fn new(
        file: &'a dyn DiskFile,
        output: &Arc<Output>,
        location: String,
        meter: Meter,
    ) -> Self {
        let pages = Target {
            file,
            pending: Pending::new(Arc::clone(output)),
            missing: Missing::default(),
            page_size: None,
            written: 0,
        };
        Self {
            location,
            meter,
            pages,
            wal: None,
            last: None,
        }
    }

    pub(super) fn apply_all(
        mut self,
        files: &mut mpsc::Receiver<Message<V3Object>>,
    ) -> Result<Applied, RestoreError> {
        loop {
            match files.blocking_recv() {
                Some(Message::Begin(object)) => self.apply(&object, files)?,
                Some(Message::Finish) => return self.finish(),
                Some(Message::Data(_) | Message::End | Message::Abandon) => {}
                None => return Err(RestoreError::Cancelled),
            }
        }
    }

    fn apply(
        &mut self,
        object: &V3Object,
        files: &mut mpsc::Receiver<Message<V3Object>>,
    ) -> Result<(), RestoreError> {
        let mut feed = Feed::new(files);
        let result = self.read(object, &mut Unpack::new(&mut feed));
        match (result, feed.end()) {
            (Ok(()), _) => {}
            // Whoever fetches the files knows what happened.
            (Err(_), End::Abandoned | End::SenderGone) => return Err(RestoreError::Cancelled),
            (Err(problem), _) => return Err(self.describe(object, problem)),
        }
        self.last = Some(object.clone());
        let pages = std::mem::take(&mut self.pages.written);
        self.meter.advance(object.size, pages);
        self.meter.file_done(object.size);
        Ok(())
    }

    fn read(&mut self, object: &V3Object, content: &mut impl Read) -> Result<(), Problem> {
        match object.key.part() {
            V3Part::Snapshot { .. } => self.pages.snapshot(content),
            V3Part::Segment { offset, .. } => {
                let wal = match self.wal.take() {
                    Some(wal) if offset > 0 => {
                        wal.expect(offset)?;
                        wal
                    }
                    before => Wal::begin(content, before.as_ref(), self.pages.page_size)?,
                };
                let wal = self.wal.insert(wal);
                self.pages.page_size = Some(wal.page_size());
                wal.read(content, &mut self.pages)
            }
        }
    }

    fn describe(&self, object: &V3Object, problem: Problem) -> RestoreError {
        let location = self.location.clone();
        match problem {
            Problem::Gap { have, .. } => RestoreError::V3Gap {
                location,
                missing: segment_name(object.key.generation(), object.key.part().index(), have),
                before: self.last.as_ref().map(|last| last.created),
            },
            Problem::Damaged(reason) => RestoreError::V3Damaged {
                location,
                file: object.key.to_string(),
                reason,
            },
            Problem::Io(source) => RestoreError::V3Damaged {
                location,
                file: object.key.to_string(),
                reason: source.to_string(),
            },
        }
    }

    /// Makes the file exactly as long as the database, and sure that nothing is missing in it.
    fn finish(self) -> Result<Applied, RestoreError> {
        let Some(last) = &self.last else {
            return Err(RestoreError::Cancelled);
        };
        let damaged = |reason: String| RestoreError::V3Damaged {
            location: self.location.clone(),
            file: last.key.to_string(),
            reason,
        };
        let Some(page_size) = self.pages.page_size else {
            return Err(damaged("the database has no page".to_owned()));
        };
        if let Some(page) = self.pages.missing.first() {
            return Err(damaged(format!(
                "page {page} of the database is in no file up to this one"
            )));
        }
        if !self.pages.pending.is_empty() {
            tracing::warn!(
                file = %last.key,
                "the backup ends in the middle of a transaction, which is left out"
            );
        }
        let pages = self.pages.missing.size();
        let io = |source: io::Error| damaged(source.to_string());
        self.pages
            .file
            .set_len(length(pages, page_size))
            .map_err(io)?;
        if let Some(said) = self.pages.size_in_header().map_err(io)?
            && said != pages
        {
            return Err(damaged(format!(
                "the database has {pages} pages after it, and says of itself that it has {said}"
            )));
        }
        Ok(Applied::of_v3(page_size, pages, self.meter))
    }
}

impl Target<'_> {
    fn snapshot(&mut self, content: &mut impl Read) -> Result<(), Problem> {
        let file = self.file;
        let (page_size, pages) = read_snapshot(content, |bytes, at| file.write_at(bytes, at))?;
        self.page_size = page_size.or(self.page_size);
        self.missing.replace(pages);
        self.written += u64::from(pages);
        Ok(())
    }

    /// The size that the first page gives the database, where it is up to date.
    fn size_in_header(&self) -> io::Result<Option<u32>> {
        let mut header = [0; 100];
        self.file.read_exact_at(&mut header, 0)?;
        let word = |at: usize| {
            let bytes = header.get(at..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
        };
        Ok((word(24) == word(92)).then(|| word(28)))
    }
}

impl Pages for Target<'_> {
    fn page(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        self.pending.push(pgno, page)
    }

    fn commit(&mut self, size: u32) -> io::Result<()> {
        let Some(page_size) = self.page_size else {
            return Ok(());
        };
        if size < self.missing.size() {
            self.file.set_len(length(size, page_size))?;
        }
        self.missing.resize(size, page_size);
        let (file, missing, written) = (self.file, &mut self.missing, &mut self.written);
        self.pending.drain(page_size.len(), |pgno, page| {
            if pgno.get() > size {
                return Ok(()); // written in the transaction, and cut off at its end
            }
            missing.fill(pgno);
            *written += 1;
            file.write_at(page, pgno.offset(page_size))
        })
    }
}

/// Reads a snapshot, and hands its bytes on with where they belong. Returns the size of its pages, where it has
/// any, and how many there are.
pub(super) fn read_snapshot(
    content: &mut impl Read,
    mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> Result<(Option<PageSize>, u32), Problem> {
    let mut buffer = vec![0; CHUNK];
    let (mut len, mut found) = (0_u64, None);
    loop {
        let read = read_full(content, &mut buffer)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if len == 0 && read > 0 {
            found = Some(page_size(bytes).ok_or_else(|| {
                Problem::Damaged("it is not the snapshot of a database".to_owned())
            })?);
        }
        write(bytes, len)?;
        len += read as u64;
        if read < CHUNK {
            break;
        }
    }
    let size = found.map_or(1, |size| u64::from(size.get()));
    let pages = u32::try_from(len / size)
        .ok()
        .filter(|_| len.is_multiple_of(size));
    match pages {
        Some(pages) => Ok((found, pages)),
        None => Err(Problem::Damaged(format!(
            "it has {len} bytes, which is not a number of pages of {size} bytes"
        ))),
    }
}

/// The size of a page, of a database that starts with these bytes.
fn page_size(start: &[u8]) -> Option<PageSize> {
    let field = start.get(16..)?.first_chunk()?;
    let size = match u16::from_be_bytes(*field) {
        1 => 65536,
        size => u32::from(size),
    };
    start
        .starts_with(MAGIC)
        .then(|| PageSize::new(size).ok())
        .flatten()
}

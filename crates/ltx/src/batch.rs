//! Reading an LTX file with several threads: one cuts it into batches, others decode them.
//!
//! Cutting costs next to nothing, since each frame tells its length; decompression and checksums
//! are what takes time, and batches are independent of each other. The checksum of the file is put
//! together from those of its parts.

use std::io::Read;

use crate::{
    Checksum, Error, Header, PageSize, Pgno, Trailer,
    checksum::{DigestPart, FileDigest},
    decode::check_database,
    frames::{Frame, FrameReader},
    header::Tracking,
    page::{self, Encoding},
};

/// How many bytes of pages are decoded before they are handed out, so that they stay in the cache.
const RUN: usize = 256 * 1024;

/// Cuts an LTX file into [`Batch`]es of pages that are still compressed.
///
/// ```
/// # use evertide_ltx::{Batch, BatchReader, Encoder, Error, Header, PageSize, Pgno, Txid};
/// # let header = Header::new(PageSize::new(512)?, 1, Txid::FIRST, Txid::FIRST);
/// # let mut encoder = Encoder::new(Vec::new(), header)?;
/// # encoder.encode_page(Pgno::FIRST, &[7; 512])?;
/// # let (file, _) = encoder.finish()?;
/// let mut reader = BatchReader::new(file.as_slice())?;
/// let mut done = Vec::new();
/// let mut batch = Batch::default();
/// while reader.next(&mut batch)? {
///     // From here on in another thread, with a batch and a scratch buffer of its own.
///     let decoded = batch.decode(&mut Vec::new(), |first, pages| {
///         println!("page {first} and those behind it: {} bytes", pages.len());
///         Ok::<(), Error>(())
///     })?;
///     done.push(decoded);
/// }
/// reader.finish(done)?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct BatchReader<R> {
    frames: FrameReader<R>,
    digest: FileDigest,
    batches: u64,
    ended: bool,
}

/// Some pages of an LTX file that follow each other, still compressed.
#[derive(Debug)]
pub struct Batch {
    sequence: u64,
    page_size: PageSize,
    tracked: bool,
    bytes: Vec<u8>,
    pages: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    pgno: Pgno,
    /// The lengths of header and content in `bytes`.
    head: usize,
    body: usize,
    encoding: Encoding,
}

/// What decoding a batch has found out.
#[derive(Clone, Copy, Debug)]
pub struct Decoded {
    sequence: u64,
    digest: DigestPart,
    database: Checksum,
    pages: u32,
}

impl Decoded {
    /// How many pages the batch held.
    pub fn pages(&self) -> u32 {
        self.pages
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            sequence: 0,
            page_size: PageSize::MAX,
            tracked: false,
            bytes: Vec::new(),
            pages: Vec::new(),
        }
    }
}

impl<R: Read> BatchReader<R> {
    /// The most a batch decodes to, in bytes; it takes no more than this itself, and a little.
    pub const DECODED: usize = 2 * 1024 * 1024;

    /// Reads the header.
    ///
    /// # Errors
    ///
    /// Where it is not the header of an LTX file.
    pub fn new(reader: R) -> Result<Self, Error> {
        let (frames, digest) = FrameReader::new(reader)?;
        Ok(Self {
            frames,
            digest,
            batches: 0,
            ended: false,
        })
    }

    /// The header of the file.
    pub fn header(&self) -> &Header {
        self.frames.header()
    }

    /// How many bytes of the file lie behind.
    pub fn offset(&self) -> u64 {
        self.frames.offset()
    }

    /// Fills `batch` with the pages that come next; whether there were any.
    ///
    /// # Errors
    ///
    /// Where the file is damaged or cannot be read. The reader is of no further use then.
    pub fn next(&mut self, batch: &mut Batch) -> Result<bool, Error> {
        let header = self.frames.header();
        batch.sequence = self.batches;
        batch.page_size = header.page_size;
        batch.tracked = is_tracked(header);
        batch.bytes.clear();
        batch.pages.clear();
        let most = Self::DECODED / header.page_size.len();
        while !self.ended && batch.pages.len() < most {
            match self.frames.next()? {
                Some(frame) => self.take(frame, batch),
                None => self.ended = true,
            }
        }
        self.batches += u64::from(!batch.pages.is_empty());
        Ok(!batch.pages.is_empty())
    }

    fn take(&mut self, frame: Frame, batch: &mut Batch) {
        let (head, body) = self.frames.parts(frame);
        batch.bytes.extend_from_slice(head);
        batch.bytes.extend_from_slice(body);
        let Frame { pgno, encoding, .. } = frame;
        batch.pages.push(Entry {
            pgno,
            head: head.len(),
            body: body.len(),
            encoding,
        });
    }

    /// Verifies the file, all batches of which have been decoded.
    ///
    /// # Errors
    ///
    /// Where the file is damaged, incomplete or goes on after its end, and [`Error::Ended`] where
    /// it has not been read to its end or the result of a batch is missing.
    pub fn finish(mut self, decoded: impl IntoIterator<Item = Decoded>) -> Result<Trailer, Error> {
        let mut parts: Vec<Decoded> = decoded.into_iter().collect();
        parts.sort_unstable_by_key(|part| part.sequence);
        let complete = parts.iter().map(|part| part.sequence).eq(0..self.batches);
        if !complete || !self.ended {
            return Err(Error::Ended);
        }
        let whole = parts
            .iter()
            .fold(self.digest.part(), |all, part| all.append(part.digest));
        let database = parts
            .iter()
            .fold(Checksum::EMPTY, |all, part| all.toggle(part.database));
        let database = is_tracked(self.frames.header()).then_some(database);
        let trailer = self.frames.finish(whole)?;
        check_database(database, trailer)?;
        Ok(trailer)
    }
}

/// Whether a file carries a database checksum that its own pages can be checked against.
fn is_tracked(header: &Header) -> bool {
    header.tracking == Tracking::On && header.is_snapshot()
}

impl Batch {
    /// Decodes the batch, and hands each run of consecutive pages to `write`: the number of the
    /// first one, and their content.
    ///
    /// # Errors
    ///
    /// Where a page is damaged, and whatever `write` returns.
    pub fn decode<E: From<Error>>(
        &self,
        scratch: &mut Vec<u8>,
        mut write: impl FnMut(Pgno, &[u8]) -> Result<(), E>,
    ) -> Result<Decoded, E> {
        let size = self.page_size.len();
        let run = RUN.min(self.pages.len() * size).max(size);
        if scratch.len() < run {
            scratch.resize(run, 0);
        }
        let mut digest = FileDigest::new();
        let mut database = Checksum::NONE;
        let mut bytes = self.bytes.as_slice();
        let mut run = Run {
            first: Pgno::FIRST,
            filled: 0,
        };
        for entry in &self.pages {
            let (head, rest) = bytes.split_at_checked(entry.head).unwrap_or_default();
            let (body, rest) = rest.split_at_checked(entry.body).unwrap_or_default();
            bytes = rest;
            if !run.takes(entry.pgno, size, scratch.len()) {
                write(run.first, scratch.get(..run.filled).unwrap_or_default())?;
                run.filled = 0;
            }
            if run.filled == 0 {
                run.first = entry.pgno;
            }
            let page = scratch
                .get_mut(run.filled..run.filled + size)
                .unwrap_or_default();
            page::decompress(entry.pgno, entry.encoding, body, page)?;
            run.filled += size;
            digest.update(head);
            digest.update(page);
            if self.tracked {
                database = database.toggle(Checksum::page(entry.pgno, page));
            }
        }
        if run.filled > 0 {
            write(run.first, scratch.get(..run.filled).unwrap_or_default())?;
        }
        let pages = self.pages.len() as u32;
        Ok(Decoded {
            sequence: self.sequence,
            digest: digest.part(),
            database,
            pages,
        })
    }

    /// The numbers of the pages, ascending.
    pub fn pages(&self) -> impl Iterator<Item = Pgno> {
        self.pages.iter().map(|entry| entry.pgno)
    }
}

/// Consecutive pages that have been decoded and not yet handed out.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: Pgno,
    /// Their length in bytes.
    filled: usize,
}

impl Run {
    /// Whether this page belongs behind the others, and there is room for it.
    fn takes(self, pgno: Pgno, size: usize, room: usize) -> bool {
        let next = self.first.get() as usize + self.filled / size;
        self.filled == 0 || (pgno.get() as usize == next && self.filled + size <= room)
    }
}

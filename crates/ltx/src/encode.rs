//! Writing an LTX file from its first byte to its last.

use std::{fmt, io::Write};

use lz4_flex::block::{CompressTable, get_maximum_output_size};

use crate::{
    Checksum, Error, Header, Pgno, Trailer,
    checksum::FileDigest,
    header::Tracking,
    index::IndexBuilder,
    page::{self, PageOrder},
};

/// How much is collected before it is written, in bytes.
const PIECE: usize = 128 * 1024;

/// What a finished file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Its header.
    pub header: Header,
    /// Its trailer, with the checksum of the file.
    pub trailer: Trailer,
    /// How many pages it holds.
    pub pages: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// Writes an LTX file page by page.
///
/// Memory does not grow with the content, but by about three bytes per page for the index at the
/// end. See [`Decoder`](crate::Decoder) for an example.
pub struct Encoder<W> {
    output: W,
    header: Header,
    order: PageOrder,
    digest: FileDigest,
    index: IndexBuilder,
    table: CompressTable,
    buffer: Vec<u8>,
    filled: usize,
    /// How many bytes lie before the buffer.
    written: u64,
    pages: u64,
    /// The database checksum: computed for a snapshot, given for other files.
    post_apply: Checksum,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    Failed,
}

impl<W: Write> Encoder<W> {
    /// Starts a file. The output needs no buffer of its own: it is written in large pieces.
    ///
    /// # Errors
    ///
    /// [`Error::BadHeader`] and [`Error::BadRange`] where the format forbids such a header.
    pub fn new(output: W, header: Header) -> Result<Self, Error> {
        header.validate()?;
        let frame = page::HEAD_LEN + get_maximum_output_size(header.page_size.len());
        let mut encoder = Self {
            output,
            order: PageOrder::new(&header),
            digest: FileDigest::new(),
            index: IndexBuilder::default(),
            table: CompressTable::default(),
            buffer: vec![0; PIECE + frame],
            filled: 0,
            written: 0,
            pages: 0,
            post_apply: match header.tracking {
                Tracking::On if header.is_snapshot() => Checksum::EMPTY,
                _ => Checksum::NONE,
            },
            state: State::Open,
            header,
        };
        let bytes = encoder.header.to_bytes();
        encoder.put_digested(&bytes)?;
        Ok(encoder)
    }

    /// The header of the file.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The output. What was encoded last may not have been written to it yet.
    pub fn get_ref(&self) -> &W {
        &self.output
    }

    /// Sets the checksum of the database after this file, which a file with database checksums
    /// needs unless it is a snapshot, where the encoder computes it.
    pub fn set_post_apply(&mut self, checksum: Checksum) {
        if self.header.tracking == Tracking::On && !self.header.is_snapshot() {
            self.post_apply = checksum;
        }
    }

    /// Adds a page.
    ///
    /// # Errors
    ///
    /// Where the page is not the size of a page, out of order, beyond the end of the database, the
    /// lock page, or not the next page of a snapshot: the page is not added, and another one may
    /// be. Where writing fails, the encoder is of no further use.
    pub fn encode_page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Error> {
        self.accept(pgno, page)?;
        self.state = State::Failed;
        let start = self.filled + page::HEAD_LEN;
        let out = self.buffer.get_mut(start..).unwrap_or_default();
        let block = page::compress(pgno, page, out, &mut self.table)?;
        self.add(pgno, page, block)
    }

    /// Adds a page whose compressed form is known, and was decompressed to `page` just now.
    pub(crate) fn encode_block(
        &mut self,
        pgno: Pgno,
        page: &[u8],
        block: &[u8],
    ) -> Result<(), Error> {
        self.accept(pgno, page)?;
        self.state = State::Failed;
        let start = self.filled + page::HEAD_LEN;
        if let Some(out) = self.buffer.get_mut(start..start + block.len()) {
            out.copy_from_slice(block);
        }
        self.add(pgno, page, block.len())
    }

    fn accept(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Error> {
        if self.state == State::Failed {
            return Err(Error::Ended);
        }
        let expected = self.header.page_size;
        if page.len() != expected.len() {
            return Err(Error::PageLength {
                pgno,
                expected,
                found: page.len(),
            });
        }
        self.order.accept(pgno.get()).map(|_| ())
    }

    /// Completes the frame whose block has been put into the buffer, behind room for its header.
    fn add(&mut self, pgno: Pgno, page: &[u8], block: usize) -> Result<(), Error> {
        page::check_block_size(pgno, block as u32, self.header.page_size)?;
        let head = page::head(pgno, block);
        let frame = self.buffer.get_mut(self.filled..).unwrap_or_default();
        if let Some((place, _)) = frame.split_first_chunk_mut() {
            *place = head;
        }
        self.filled += head.len() + block;
        self.digest.update(&head);
        self.digest.update(page);
        if self.header.tracking == Tracking::On && self.header.is_snapshot() {
            self.post_apply = self.post_apply.toggle(Checksum::page(pgno, page));
        }
        self.index.push(pgno, (head.len() + block) as u64);
        self.pages += 1;
        if self.filled >= PIECE {
            self.flush_buffer()?;
        }
        self.state = State::Open;
        Ok(())
    }

    fn flush_buffer(&mut self) -> Result<(), Error> {
        self.output
            .write_all(self.buffer.get(..self.filled).unwrap_or_default())?;
        self.written += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.buffer.len() - self.filled < bytes.len() {
            self.flush_buffer()?;
        }
        if let Some(place) = self.buffer.get_mut(self.filled..self.filled + bytes.len()) {
            place.copy_from_slice(bytes);
            self.filled += bytes.len();
        }
        Ok(())
    }

    fn put_digested(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.digest.update(bytes);
        self.put(bytes)
    }

    /// Writes index and trailer, flushes the output, and returns it.
    ///
    /// # Errors
    ///
    /// [`Error::MissingPage`] where a snapshot is incomplete, [`Error::BadTrailer`] where a
    /// database checksum is wanted and was not given, [`Error::Io`] where writing fails.
    pub fn finish(mut self) -> Result<(W, Summary), Error> {
        if self.state == State::Failed {
            return Err(Error::Ended);
        }
        self.order.finish()?;
        self.put_digested(&page::END)?;
        let index = std::mem::take(&mut self.index);
        index.write(|piece| self.put_digested(piece))?;
        self.digest.update(&self.post_apply.get().to_be_bytes());
        let trailer = Trailer {
            post_apply: self.post_apply,
            file: self.digest.finish(),
        };
        trailer.validate(&self.header)?;
        self.put(&trailer.to_bytes())?;
        self.flush_buffer()?;
        self.output.flush()?;
        let summary = Summary {
            header: self.header,
            trailer,
            pages: self.pages,
            size: self.written,
        };
        Ok((self.output, summary))
    }
}

impl<W> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Encoder");
        out.field("header", &self.header)
            .field("pages", &self.pages)
            .finish_non_exhaustive()
    }
}

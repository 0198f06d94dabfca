//! Reading an LTX file from its first byte to its last.

use std::io::Read;

use crate::{
    Checksum, Error, Header, Pgno, Trailer,
    checksum::FileDigest,
    frames::{Frame, FrameReader},
    header::Tracking,
    page::{self, Encoding},
};

/// Reads an LTX file page by page, in bounded memory, and verifies everything there is to verify.
///
/// Pages are handed out before the checksum behind them is known: what was made of them counts only
/// once [`Decoder::finish`] has returned without an error.
///
/// ```
/// use evertide_ltx::{Decoder, Encoder, Header, PageSize, Pgno, Txid};
///
/// let header = Header::new(PageSize::new(512)?, 1, Txid::FIRST, Txid::FIRST);
/// let mut encoder = Encoder::new(Vec::new(), header)?;
/// encoder.encode_page(Pgno::FIRST, &[7; 512])?;
/// let (file, _) = encoder.finish()?;
///
/// let mut decoder = Decoder::new(file.as_slice())?;
/// let mut page = vec![0; decoder.header().page_size.len()];
/// while let Some(pgno) = decoder.decode_page(&mut page)? {
///     assert_eq!((pgno, page[0]), (Pgno::FIRST, 7));
/// }
/// decoder.finish()?;
/// # Ok::<(), evertide_ltx::Error>(())
/// ```
#[derive(Debug)]
pub struct Decoder<R> {
    frames: FrameReader<R>,
    digest: FileDigest,
    /// The database checksum of a snapshot that carries one.
    database: Option<Checksum>,
    /// The frame decoded last, for as long as it lies in the buffer.
    last: Option<Frame>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Pages,
    End,
    Failed,
}

impl<R: Read> Decoder<R> {
    /// Reads the header.
    ///
    /// The reader needs no buffer of its own: it is read in large pieces.
    ///
    /// # Errors
    ///
    /// Where it is not the header of an LTX file.
    pub fn new(reader: R) -> Result<Self, Error> {
        let (frames, digest) = FrameReader::new(reader)?;
        let header = frames.header();
        let tracked = header.tracking == Tracking::On && header.is_snapshot();
        let database = tracked.then_some(Checksum::EMPTY);
        Ok(Self {
            frames,
            digest,
            database,
            last: None,
            state: State::Pages,
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

    /// Decodes the next page into `page`, which must be one page long; `None` after the last one.
    ///
    /// # Errors
    ///
    /// Where the file is damaged or cannot be read. What `page` holds then is undefined, and the
    /// decoder is of no further use.
    pub fn decode_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, Error> {
        match self.state {
            State::Pages => {}
            State::End => return Ok(None),
            State::Failed => return Err(Error::Ended),
        }
        self.state = State::Failed;
        let next = self.step(page)?;
        self.state = if next.is_some() {
            State::Pages
        } else {
            State::End
        };
        Ok(next)
    }

    fn step(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, Error> {
        let Some(frame) = self.frames.next()? else {
            return Ok(None);
        };
        let pgno = frame.pgno;
        let expected = self.frames.header().page_size;
        if page.len() != expected.len() {
            return Err(Error::PageLength {
                pgno,
                expected,
                found: page.len(),
            });
        }
        let (head, body) = self.frames.parts(frame);
        page::decompress(pgno, frame.encoding, body, page)?;
        self.digest.update(head);
        self.digest.update(page);
        if let Some(database) = &mut self.database {
            *database = database.toggle(Checksum::page(pgno, page));
        }
        self.last = Some(frame);
        Ok(Some(pgno))
    }

    /// The LZ4 block of the page decoded last, `None` if it came from an old frame.
    pub(crate) fn block(&self) -> Option<&[u8]> {
        let frame = self
            .last
            .filter(|frame| frame.encoding == Encoding::Block)?;
        Some(self.frames.parts(frame).1)
    }

    /// Reads what is left of the file, pages included, and verifies it.
    ///
    /// # Errors
    ///
    /// Where the file is damaged, incomplete, goes on after its end, or cannot be read.
    pub fn finish(mut self) -> Result<Trailer, Error> {
        if self.state != State::End {
            let mut page = vec![0; self.header().page_size.len()];
            while self.decode_page(&mut page)?.is_some() {}
        }
        let trailer = self.frames.finish(self.digest.part())?;
        check_database(self.database, trailer)?;
        Ok(trailer)
    }
}

/// Compares the database checksum of a snapshot with the one in its trailer.
pub(crate) fn check_database(database: Option<Checksum>, trailer: Trailer) -> Result<(), Error> {
    match database {
        Some(found) if found != trailer.post_apply => Err(Error::DatabaseChecksumMismatch {
            expected: trailer.post_apply.get(),
            found: found.get(),
        }),
        _ => Ok(()),
    }
}

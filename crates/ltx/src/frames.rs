//! The structure of a file being read: which frames come, and what must follow them.

use std::io::Read;

use crate::{
    Error, Header, Pgno, Trailer,
    checksum::{DigestPart, FileDigest},
    index::ExpectedIndex,
    input::Input,
    page::{self, Encoding, PageOrder},
    stream::{self, Extent},
};

/// What `next` reads, for errors.
const PART: &str = "page block";

/// Walks through the frames of a file and checks everything but the content of pages.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    input: Input<R>,
    header: Header,
    order: PageOrder,
    index: ExpectedIndex,
    /// The frame handed out last, which still lies in the buffer.
    pending: usize,
}

/// The start of one frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) pgno: Pgno,
    pub(crate) encoding: Encoding,
    /// The length of its header.
    head: usize,
}

impl<R: Read> FrameReader<R> {
    /// Reads the header, and starts the digest of the file with it.
    pub(crate) fn new(inner: R) -> Result<(Self, FileDigest), Error> {
        let mut input = Input::new(inner);
        let bytes = input.array::<{ Header::LEN }>("header")?;
        let header = Header::from_bytes(&bytes)?;
        input.consume(bytes.len());
        let mut digest = FileDigest::new();
        digest.update(&bytes);
        let order = PageOrder::new(&header);
        let index = ExpectedIndex::new();
        Ok((
            Self {
                input,
                header,
                order,
                index,
                pending: 0,
            },
            digest,
        ))
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// How many bytes of the file lie behind.
    pub(crate) fn offset(&self) -> u64 {
        self.input.offset() + self.pending as u64
    }

    /// Goes to the next frame, which is then complete in the buffer.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Error> {
        self.input.consume(self.pending);
        self.pending = 0;
        let start = self.input.array(PART)?;
        let Some((number, flags)) = page::parse_start(start) else {
            self.order.finish()?;
            self.input.consume(page::END.len());
            return Ok(None);
        };
        let pgno = self.order.accept(number)?;
        let encoding = page::encoding(pgno, flags)?;
        let (head, body) = match encoding {
            Encoding::Block => (page::HEAD_LEN, self.block_len(pgno)?),
            Encoding::Stream => (start.len(), self.stream_len(pgno, start.len())?),
        };
        self.pending = head + body;
        self.index
            .push(pgno, self.input.offset(), self.pending as u64);
        Ok(Some(Frame {
            pgno,
            encoding,
            head,
        }))
    }

    /// Buffers a block with its size, and returns its length.
    fn block_len(&mut self, pgno: Pgno) -> Result<usize, Error> {
        let [.., a, b, c, d] = self.input.array::<{ page::HEAD_LEN }>(PART)?;
        let size = u32::from_be_bytes([a, b, c, d]);
        let len = page::check_block_size(pgno, size, self.header.page_size)?;
        self.input.fill(page::HEAD_LEN + len, PART)?;
        Ok(len)
    }

    /// Buffers an LZ4 frame, and returns its length.
    fn stream_len(&mut self, pgno: Pgno, head: usize) -> Result<usize, Error> {
        let max = page::max_stream(self.header.page_size);
        loop {
            let body = self.input.buffered().get(head..).unwrap_or_default();
            match stream::extent(body, max) {
                Ok(Extent::Complete(len)) => return Ok(len),
                Ok(Extent::Needs(len)) => self.input.fill(head + len, PART)?,
                Err(reason) => {
                    return Err(Error::Decompress {
                        pgno,
                        reason: reason.to_owned(),
                    });
                }
            };
        }
    }

    /// The header and the content of the frame that `next` returned last.
    pub(crate) fn parts(&self, frame: Frame) -> (&[u8], &[u8]) {
        let bytes = self
            .input
            .buffered()
            .get(..self.pending)
            .unwrap_or_default();
        bytes.split_at_checked(frame.head).unwrap_or_default()
    }

    /// Reads what follows the page block, and verifies it against what was read.
    ///
    /// `pages` is the digest of the file up to the end of the page block, that end not included.
    pub(crate) fn finish(&mut self, pages: DigestPart) -> Result<Trailer, Error> {
        let mut digest = FileDigest::new();
        digest.update(&page::END);
        self.check_index(&mut digest)?;
        let bytes = self.input.array::<{ Trailer::LEN }>("trailer")?;
        self.input.consume(bytes.len());
        let trailer = Trailer::from_bytes(&bytes);
        digest.update(bytes.split_at(8).0);
        let found = pages.append(digest.part()).finish();
        if found != trailer.file {
            let expected = trailer.file.get();
            return Err(Error::ChecksumMismatch {
                expected,
                found: found.get(),
            });
        }
        if !self.input.at_end()? {
            return Err(Error::TrailingBytes(self.input.offset()));
        }
        trailer.validate(&self.header)?;
        Ok(trailer)
    }

    fn check_index(&mut self, digest: &mut FileDigest) -> Result<(), Error> {
        const PIECE: u64 = 16 * 1024;
        let (len, expected) = self.index.finish();
        let mut found = FileDigest::new();
        let mut left = len;
        while left > 0 {
            let piece = self.input.fill(left.min(PIECE) as usize, "page index")?;
            digest.update(piece);
            found.update(piece);
            let piece = piece.len();
            self.input.consume(piece);
            left -= piece as u64;
        }
        let stored = self.input.array::<8>("page index")?;
        self.input.consume(stored.len());
        digest.update(&stored);
        if u64::from_be_bytes(stored) != len || found.part() != expected.part() {
            return Err(Error::BadIndex);
        }
        Ok(())
    }
}

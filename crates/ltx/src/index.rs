//! The page index: where in the file each page is.
//!
//! ```text
//! per page, ascending      3 unsigned varints (LEB128): page number, offset of its frame from the
//!                          start of the file, length of the frame with its header
//! end                      a zero varint
//! length                   u64 big-endian: bytes of all the above, the zero included
//! ```
//!
//! The index lies between the page block and the trailer, so that a reader who knows the length of
//! the file finds it from the end.

use std::{
    io::{Read, Seek, SeekFrom},
    ops::Range,
};

use crate::{
    Error, Header, PageSize, Pgno, Trailer,
    checksum::FileDigest,
    page::{self, Encoding},
};

/// What follows the entries: their length, and the trailer.
const FOOT_LEN: usize = 8 + Trailer::LEN;

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if (bits << shift) >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_entry(out: &mut Vec<u8>, pgno: Pgno, offset: u64, len: u64) {
    put_varint(out, pgno.get().into());
    put_varint(out, offset);
    put_varint(out, len);
}

/// What the index of the pages read so far must be: its digest, since the index itself would grow
/// with the file.
#[derive(Debug)]
pub(crate) struct ExpectedIndex {
    digest: FileDigest,
    len: u64,
    pending: Vec<u8>,
}

impl ExpectedIndex {
    const PENDING: usize = 4096;

    pub(crate) fn new() -> Self {
        let pending = Vec::with_capacity(Self::PENDING + 32);
        Self {
            digest: FileDigest::new(),
            len: 0,
            pending,
        }
    }

    pub(crate) fn push(&mut self, pgno: Pgno, offset: u64, len: u64) {
        put_entry(&mut self.pending, pgno, offset, len);
        if self.pending.len() >= Self::PENDING {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.digest.update(&self.pending);
        self.len += self.pending.len() as u64;
        self.pending.clear();
    }

    /// Ends the index, and returns its length in bytes and its digest.
    pub(crate) fn finish(&mut self) -> (u64, FileDigest) {
        self.pending.push(0);
        self.flush();
        (self.len, self.digest.clone())
    }
}

/// The index of a file being written: three bytes or so per page, since offsets follow from
/// lengths.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    /// Per page two varints: by how much its number exceeds the one before, and its frame's length.
    steps: Vec<u8>,
    last: u32,
}

impl IndexBuilder {
    pub(crate) fn push(&mut self, pgno: Pgno, len: u64) {
        put_varint(&mut self.steps, u64::from(pgno.get() - self.last));
        put_varint(&mut self.steps, len);
        self.last = pgno.get();
    }

    /// Hands the encoded index to `write`, piece by piece, and its length last.
    pub(crate) fn write<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut out = Vec::with_capacity(ExpectedIndex::PENDING + 32);
        let (mut number, mut offset, mut len) = (0, Header::LEN as u64, 0);
        let mut steps = self.steps.as_slice();
        while let (Some(step), Some(frame)) = (take_varint(&mut steps), take_varint(&mut steps)) {
            number += step as u32;
            if let Some(pgno) = Pgno::new(number) {
                put_entry(&mut out, pgno, offset, frame);
            }
            offset += frame;
            if out.len() >= ExpectedIndex::PENDING {
                write(&out)?;
                len += out.len() as u64;
                out.clear();
            }
        }
        out.push(0);
        len += out.len() as u64;
        out.extend_from_slice(&len.to_be_bytes());
        write(&out)
    }
}

/// Where each page of one LTX file is, for reading single pages of it.
///
/// ```
/// # use evertide_ltx::{Encoder, Header, PageIndex, PageSize, Pgno, Txid};
/// # let size = PageSize::new(512)?;
/// # let mut encoder = Encoder::new(Vec::new(), Header::new(size, 9, Txid::new(4), Txid::new(4)))?;
/// # let three = Pgno::new(3).unwrap();
/// # encoder.encode_page(three, &[7; 512])?;
/// # let (file, _) = encoder.finish()?;
/// let index = PageIndex::read(&mut std::io::Cursor::new(&file))?;
/// let place = index.get(three).expect("the file holds page 3");
/// let frame = &file[place.start as usize..place.end as usize];
///
/// let mut page = [0; 512];
/// PageIndex::decode_page(three, frame, &mut page)?;
/// assert_eq!(page, [7; 512]);
/// # Ok::<(), evertide_ltx::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageIndex {
    numbers: Vec<u32>,
    /// Where each frame starts, and behind the last one its end.
    offsets: Vec<u64>,
}

/// What the last bytes of a file tell about its page index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tail {
    /// They hold the whole index.
    Complete(PageIndex),
    /// The index starts this many bytes before the end of the file: come back with so many.
    Needs(u64),
}

impl PageIndex {
    /// Reads the index of a file: its last bytes, two or three reads.
    ///
    /// # Errors
    ///
    /// [`Error::BadIndex`] where there is none, [`Error::Io`] where it cannot be read.
    pub fn read<R: Read + Seek>(file: &mut R) -> Result<Self, Error> {
        let file_len = file.seek(SeekFrom::End(0))?;
        let mut want = file_len.min(16 * 1024);
        loop {
            file.seek(SeekFrom::Start(file_len - want))?;
            let mut tail = Vec::new();
            file.by_ref().take(want).read_to_end(&mut tail)?;
            match Self::from_tail(&tail, file_len)? {
                Tail::Complete(index) => return Ok(index),
                // A file that shrinks while it is read must not make this turn for ever.
                Tail::Needs(more) if more > want => want = more,
                Tail::Needs(_) => return Err(Error::BadIndex),
            }
        }
    }

    /// Reads the index from the last bytes of a file, or tells how many it takes.
    ///
    /// # Errors
    ///
    /// [`Error::BadIndex`] where the bytes are not the end of an LTX file of that length.
    pub fn from_tail(tail: &[u8], file_len: u64) -> Result<Tail, Error> {
        let least = (Header::LEN + page::END.len() + 1 + FOOT_LEN) as u64;
        let room = file_len.checked_sub(least - 1).ok_or(Error::BadIndex)?;
        let Some((rest, foot)) = tail.split_last_chunk::<FOOT_LEN>() else {
            return Ok(Tail::Needs(FOOT_LEN as u64));
        };
        let (len, _) = foot.split_first_chunk().ok_or(Error::BadIndex)?;
        let len = u64::from_be_bytes(*len);
        if len == 0 || len > room {
            return Err(Error::BadIndex);
        }
        let entries = usize::try_from(len)
            .ok()
            .and_then(|len| rest.len().checked_sub(len));
        match entries.and_then(|start| rest.get(start..)) {
            Some(entries) => {
                let frames_end = file_len - FOOT_LEN as u64 - len - page::END.len() as u64;
                Self::parse(entries, frames_end).map(Tail::Complete)
            }
            None => Ok(Tail::Needs(len + FOOT_LEN as u64)),
        }
    }

    /// Reads the entries: pages ascend, and their frames fill the page block without holes.
    fn parse(mut bytes: &[u8], frames_end: u64) -> Result<Self, Error> {
        let most = bytes.len() / 3 + 1;
        let (mut numbers, mut offsets) = (Vec::with_capacity(most), Vec::with_capacity(most));
        let (mut last, mut expected) = (0, Header::LEN as u64);
        loop {
            let number = take_varint(&mut bytes).ok_or(Error::BadIndex)?;
            if number == 0 {
                break;
            }
            let number = u32::try_from(number).map_err(|_| Error::BadIndex)?;
            let offset = take_varint(&mut bytes).ok_or(Error::BadIndex)?;
            let len = take_varint(&mut bytes).ok_or(Error::BadIndex)?;
            let end = offset.checked_add(len).ok_or(Error::BadIndex)?;
            if number <= last || offset != expected || len == 0 || end > frames_end {
                return Err(Error::BadIndex);
            }
            numbers.push(number);
            offsets.push(offset);
            (last, expected) = (number, end);
        }
        if !bytes.is_empty() || expected != frames_end {
            return Err(Error::BadIndex);
        }
        offsets.push(expected);
        Ok(Self { numbers, offsets })
    }

    /// How many pages the file holds.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether the file holds no page.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Where the frame of a page is, in bytes from the start of the file; `None` if it is not
    /// there.
    pub fn get(&self, pgno: Pgno) -> Option<Range<u64>> {
        let at = self.numbers.binary_search(&pgno.get()).ok()?;
        Some(*self.offsets.get(at)?..*self.offsets.get(at + 1)?)
    }

    /// All pages, ascending, with the places of their frames.
    pub fn iter(&self) -> impl Iterator<Item = (Pgno, Range<u64>)> {
        let ends = self.offsets.iter().skip(1);
        let frames = self
            .offsets
            .iter()
            .zip(ends)
            .map(|(start, end)| *start..*end);
        self.numbers
            .iter()
            .zip(frames)
            .filter_map(|(n, at)| Some((Pgno::new(*n)?, at)))
    }

    /// Decodes one page from its frame, the bytes at the place [`PageIndex::get`] names.
    ///
    /// The checksum of the file is not verified by this: only reading the whole file can.
    ///
    /// # Errors
    ///
    /// Where the frame is not one of this page, or does not decode to a page of the given length.
    pub fn decode_page(pgno: Pgno, frame: &[u8], page: &mut [u8]) -> Result<(), Error> {
        let length = frame.len() as u64;
        let truncated = || Error::Truncated {
            length,
            part: "page",
        };
        let (start, body) = frame.split_first_chunk().ok_or_else(truncated)?;
        let (number, flags) = page::parse_start(*start).ok_or(Error::BadIndex)?;
        if number != pgno.get() {
            return Err(Error::BadIndex);
        }
        let size = PageSize::new(page.len().try_into().unwrap_or(u32::MAX))?;
        let encoding = page::encoding(pgno, flags)?;
        let content = match encoding {
            Encoding::Stream => body,
            Encoding::Block => {
                let (claimed, block) = body.split_first_chunk().ok_or_else(truncated)?;
                let claimed = page::check_block_size(pgno, u32::from_be_bytes(*claimed), size)?;
                if claimed != block.len() {
                    return Err(Error::BadIndex);
                }
                block
            }
        };
        page::decompress(pgno, encoding, content, page)
    }
}

//! A buffer before a reader that hands out whole records without copying them.

use std::io::{self, Read};

use crate::Error;

/// The least a buffer holds, in bytes: few enough that a merge of hundreds of files stays small.
const CAPACITY: usize = 32 * 1024;

/// A reader with a buffer, which knows how far it has read.
#[derive(Debug)]
pub(crate) struct Input<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How many bytes lie before `start`.
    offset: u64,
}

impl<R: Read> Input<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: vec![0; CAPACITY],
            start: 0,
            end: 0,
            offset: 0,
        }
    }

    /// How many bytes have been consumed.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next `len` bytes, which stay until they are consumed. Callers bound `len`.
    pub(crate) fn fill(&mut self, len: usize, part: &'static str) -> Result<&[u8], Error> {
        if self.end - self.start < len {
            self.read_until(len)?;
        }
        let length = self.offset + (self.end - self.start) as u64;
        let available = self.buffer.get(self.start..self.end).unwrap_or_default();
        available
            .get(..len)
            .ok_or(Error::Truncated { length, part })
    }

    /// As `fill`, for a part of fixed length.
    pub(crate) fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.fill(N, part)?);
        Ok(array)
    }

    /// What is buffered, without reading more.
    pub(crate) fn buffered(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Steps over bytes that `fill` returned.
    pub(crate) fn consume(&mut self, len: usize) {
        let len = len.min(self.end - self.start);
        self.start += len;
        self.offset += len as u64;
    }

    /// Whether nothing follows.
    pub(crate) fn at_end(&mut self) -> Result<bool, Error> {
        self.read_until(1)?;
        Ok(self.start == self.end)
    }

    /// Reads until `len` bytes are buffered, or the end.
    #[cold]
    fn read_until(&mut self, len: usize) -> Result<(), Error> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < len {
            // Twice, so that a record read costs less than its length in bytes moved.
            self.buffer.resize(2 * len, 0);
        }
        while self.end < len {
            match self
                .inner
                .read(self.buffer.get_mut(self.end..).unwrap_or_default())
            {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

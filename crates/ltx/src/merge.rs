//! Merging LTX files that follow each other into one.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{Read, Write},
};

use crate::{Decoder, Encoder, Error, Header, LtxName, Pgno, Summary};

/// Merges LTX files into one that has the effect of applying them in order.
///
/// See [`Merge`] for the rules; this is it in one step.
///
/// # Errors
///
/// As [`Merge::new`] and [`Merge::write_to`].
pub fn merge<R: Read, W: Write>(
    files: impl IntoIterator<Item = R>,
    output: W,
) -> Result<(W, Summary), Error> {
    Merge::new(files)?.write_to(output)
}

/// A merge of LTX files, in the order of their transactions, of which the headers have been read.
///
/// - Each file must continue the history of those before it without a gap; it may repeat some of
///   it.
/// - Of each page the newest version counts. Pages above the size that any later file gives the
///   database are dropped, as a truncated file drops them.
/// - Where the database has shrunk and grown again, the pages it regained must come from the files
///   behind the shrink: an older content has been truncated and must not come back.
/// - The result has the size and the timestamp of the last file, and no database
///   checksums. If the first file is a snapshot, so is the result.
///
/// All files are read side by side, each verified to its end, in memory for one page and a small
/// buffer per file. Blocks are copied, not compressed again.
#[derive(Debug)]
pub struct Merge<R> {
    header: Header,
    inputs: Vec<Source<R>>,
    /// The next page of each file, lowest page first, and of equal pages the newest first.
    heads: BinaryHeap<Reverse<(Pgno, Reverse<usize>)>>,
    growth: Growth,
}

/// One of the files.
#[derive(Debug)]
struct Source<R> {
    decoder: Decoder<R>,
    page: Vec<u8>,
    /// The least size of the database from this file on, in pages.
    live: u32,
}

impl<R: Read> Merge<R> {
    /// Reads the headers of the files, oldest first, and checks that they can be merged.
    ///
    /// # Errors
    ///
    /// [`Error::NothingToMerge`], [`Error::MergeGap`], [`Error::MergePageSize`], or what reading a
    /// header fails with.
    pub fn new(files: impl IntoIterator<Item = R>) -> Result<Self, Error> {
        let decoders = files
            .into_iter()
            .map(Decoder::new)
            .collect::<Result<Vec<_>, _>>()?;
        let headers: Vec<&Header> = decoders.iter().map(Decoder::header).collect();
        let header = merged_header(&headers)?;
        let commits: Vec<u32> = headers.iter().map(|header| header.commit).collect();
        let floor = commits
            .split_last()
            .and_then(|(_, before)| before.iter().min());
        let growth = Growth::new(floor.copied().unwrap_or(header.commit), &header);

        let mut live = u32::MAX;
        let mut inputs = Vec::with_capacity(decoders.len());
        for decoder in decoders.into_iter().rev() {
            live = live.min(decoder.header().commit);
            inputs.push(Source {
                page: vec![0; header.page_size.len()],
                live,
                decoder,
            });
        }
        inputs.reverse();
        Ok(Self {
            inputs,
            heads: BinaryHeap::new(),
            growth,
            header,
        })
    }

    /// The header of the result.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Has the result say where in a WAL its transactions end, in bytes; by itself it says nothing.
    pub fn set_wal_offset(&mut self, bytes: u32) {
        self.header.wal_offset = bytes.into();
    }

    /// Writes the result.
    ///
    /// # Errors
    ///
    /// Where a file is damaged or incomplete, a page is missing, or reading or writing fails. What
    /// has been written then is of no use.
    pub fn write_to<W: Write>(mut self, output: W) -> Result<(W, Summary), Error> {
        let mut encoder = Encoder::new(output, self.header.clone())?;
        for at in 0..self.inputs.len() {
            self.advance(at)?;
        }
        let mut written = None;
        while let Some(Reverse((pgno, Reverse(at)))) = self.heads.pop() {
            if let Some(input) = self.inputs.get(at)
                && written != Some(pgno)
                && pgno.get() <= input.live
            {
                self.growth.accept(pgno)?;
                match input.decoder.block() {
                    Some(block) => encoder.encode_block(pgno, &input.page, block)?,
                    None => encoder.encode_page(pgno, &input.page)?,
                }
                written = Some(pgno);
            }
            self.advance(at)?;
        }
        self.growth.finish()?;
        for input in self.inputs {
            input.decoder.finish()?;
        }
        encoder.finish()
    }

    /// Decodes the next page of one file.
    fn advance(&mut self, at: usize) -> Result<(), Error> {
        if let Some(input) = self.inputs.get_mut(at)
            && let Some(pgno) = input.decoder.decode_page(&mut input.page)?
        {
            self.heads.push(Reverse((pgno, Reverse(at))));
        }
        Ok(())
    }
}

/// The header of the result, if these files follow each other.
fn merged_header(headers: &[&Header]) -> Result<Header, Error> {
    let (Some(first), Some(last)) = (headers.first(), headers.last()) else {
        return Err(Error::NothingToMerge);
    };
    for pair in headers.windows(2) {
        let [previous, next] = pair else { continue };
        check_continues(previous, next)?;
    }
    let mut header = Header::new(first.page_size, last.commit, first.min_txid, last.max_txid);
    header.timestamp_ms = last.timestamp_ms;
    Ok(header)
}

fn check_continues(previous: &Header, next: &Header) -> Result<(), Error> {
    let (before, name): (LtxName, LtxName) = (previous.name(), next.name());
    if !name.extends(before.max) {
        return Err(Error::MergeGap {
            previous: before,
            next: name,
        });
    }
    if previous.page_size != next.page_size {
        let (expected, found) = (previous.page_size, next.page_size);
        return Err(Error::MergePageSize {
            name,
            expected,
            found,
        });
    }
    Ok(())
}

/// Checks that the result holds every page that the database has lost and regained meanwhile.
#[derive(Debug)]
struct Growth {
    /// The next page that must come, once those that were always there are through; one beyond
    /// the largest database at last.
    next: u64,
    commit: u32,
    lock: u32,
}

impl Growth {
    /// For a result with this header, when the database was down to `floor` pages before the last
    /// file.
    fn new(floor: u32, header: &Header) -> Self {
        let lock = header.page_size.lock_page().get();
        let mut growth = Self {
            next: floor.into(),
            commit: header.commit,
            lock,
        };
        growth.step();
        growth
    }

    fn accept(&mut self, pgno: Pgno) -> Result<(), Error> {
        let pgno = u64::from(pgno.get());
        if pgno > self.next {
            return self.finish();
        }
        if pgno == self.next {
            self.step();
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), Error> {
        if self.next > u64::from(self.commit) {
            return Ok(());
        }
        Err(Error::MissingPage {
            missing: u32::try_from(self.next).unwrap_or(u32::MAX),
            commit: self.commit,
        })
    }

    fn step(&mut self) {
        self.next += 1;
        if self.next == u64::from(self.lock) {
            self.next += 1;
        }
    }
}

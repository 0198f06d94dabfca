//! An index that is not one is refused, however it is wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{self, Read, Seek, SeekFrom};

use evertide_ltx::{Error, PageIndex, Tail, Tracking};

use common::{size, snapshot};

/// Header, the six zero bytes behind the pages, and behind the index its length and the trailer.
const HEADER: u64 = 100;
const END: u64 = 6;
const FOOT: u64 = 8 + 16;

/// The last bytes of a file with these entries (number, start, length), and what may stand behind them.
fn tail(entries: &[(u8, u8, u8)], behind: &[u8]) -> Vec<u8> {
    let mut index = Vec::new();
    for (number, start, len) in entries {
        assert!(start | len | number < 0x80, "one byte as a varint");
        index.extend([*number, *start, *len]);
    }
    index.extend_from_slice(behind);
    let len = index.len() as u64;
    index.extend(len.to_be_bytes());
    index.extend([0; 16]);
    index
}

/// As if the pages ended there.
fn read(tail: &[u8], pages_end: u64) -> Result<Tail, Error> {
    PageIndex::from_tail(tail, pages_end + END + tail.len() as u64)
}

#[test]
fn entries_follow_each_other_without_holes_to_the_end_of_the_pages() {
    let Ok(Tail::Complete(index)) = read(&tail(&[(1, 100, 10), (3, 110, 5)], &[0]), 115) else {
        panic!("a good one");
    };
    assert_eq!((index.len(), index.is_empty()), (2, false));
    let wrong = [
        (
            "the same page twice",
            tail(&[(2, 100, 10), (2, 110, 5)], &[0]),
        ),
        (
            "pages that descend",
            tail(&[(2, 100, 10), (1, 110, 5)], &[0]),
        ),
        ("a hole", tail(&[(1, 100, 10), (2, 111, 4)], &[0])),
        ("an overlap", tail(&[(1, 100, 10), (2, 109, 6)], &[0])),
        (
            "a page of no bytes",
            tail(&[(1, 100, 0), (2, 100, 15)], &[0]),
        ),
        (
            "an end before that of the pages",
            tail(&[(1, 100, 14)], &[0]),
        ),
        (
            "an end behind that of the pages",
            tail(&[(1, 100, 16)], &[0]),
        ),
        ("no end", tail(&[(1, 100, 15)], &[])),
        ("something behind the end", tail(&[(1, 100, 15)], &[0, 0])),
    ];
    for (what, tail) in wrong {
        assert!(matches!(read(&tail, 115), Err(Error::BadIndex)), "{what}");
    }
}

#[test]
fn the_smallest_file_has_an_index_and_no_smaller_one_has() {
    let tail = tail(&[], &[0]);
    let smallest = HEADER + END + 1 + FOOT;
    let Ok(Tail::Complete(index)) = PageIndex::from_tail(&tail, smallest) else {
        panic!("the smallest one");
    };
    assert_eq!((index.len(), index.is_empty()), (0, true));
    for len in 0..smallest {
        let read = PageIndex::from_tail(&tail, len);
        assert!(matches!(read, Err(Error::BadIndex)), "{len} bytes");
    }
}

/// A file of which only the last bytes are left, whoever asks for how many.
struct Shrunk(Vec<u8>, u64);

impl Read for Shrunk {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = &self.0[self.0.len() - self.1 as usize..];
        let count = left.len().min(out.len());
        out[..count].copy_from_slice(&left[..count]);
        self.1 -= count as u64;
        Ok(count)
    }
}

impl Seek for Shrunk {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        self.1 = FOOT;
        Ok(self.0.len() as u64)
    }
}

#[test]
fn a_file_that_shrinks_while_its_index_is_read_is_an_error_and_no_endless_loop() {
    // Indexes that one read would get, and that would take two.
    for pages in [3, 5_000] {
        let file = snapshot(size(512), pages, Tracking::Off);
        let mut shrunk = Shrunk(file, FOOT);
        let read = PageIndex::read(&mut shrunk);
        assert!(matches!(read, Err(Error::BadIndex)), "{pages} pages");
    }
}

#[test]
fn an_index_is_no_longer_than_the_file_has_room_for() {
    let room = 1_000 - HEADER - END - FOOT;
    let foot = |len: u64| [&len.to_be_bytes()[..], &[0; 16]].concat();
    let read = |len| PageIndex::from_tail(&foot(len), 1_000);
    assert_eq!(read(room).unwrap(), Tail::Needs(room + FOOT));
    assert!(matches!(read(room + 1), Err(Error::BadIndex)));
}

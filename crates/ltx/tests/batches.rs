//! What a batch holds at most, and what its pages are checked against.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use evertide_ltx::{Batch, BatchReader, Error, Pgno, Tracking};

use common::{decode, size, snapshot};

const BATCH: usize = 2 << 20;
const RUN: usize = 256 << 10;

#[test]
fn batches_and_the_runs_of_pages_in_them_are_as_large_as_promised_and_no_larger() {
    assert_eq!(BatchReader::<&[u8]>::DECODED, BATCH);
    let size = size(65_536);
    let (full, run) = (BATCH / size.len(), RUN / size.len());
    let file = snapshot(size, full as u32 + 1, Tracking::Off);
    let mut reader = BatchReader::new(file.as_slice()).unwrap();
    assert!(reader.offset() < file.len() as u64 / 100, "a header");

    let (mut batch, mut done) = (Batch::default(), Vec::new());
    for (pages, runs) in [(full, vec![RUN; full / run]), (1, vec![size.len()])] {
        assert!(reader.next(&mut batch).unwrap());
        assert_eq!(batch.pages().count(), pages);
        let (mut found, mut next) = (Vec::new(), batch.pages().next().unwrap().get());
        let decoded = batch.decode(&mut Vec::new(), |first: Pgno, pages| {
            assert_eq!(first.get(), next);
            next += (pages.len() / size.len()) as u32;
            found.push(pages.len());
            Ok::<(), Error>(())
        });
        done.push(decoded.unwrap());
        assert_eq!(done.last().unwrap().pages() as usize, pages);
        assert_eq!(found, runs);
    }
    assert!(!reader.next(&mut batch).unwrap());
    let rest = file.len() as u64 - reader.offset();
    assert!(rest < 1_000, "an index and a trailer, not {rest} bytes");
    reader.finish(done).unwrap();
}

#[test]
fn a_batch_without_pages_hands_out_nothing() {
    let decoded = Batch::default().decode(&mut Vec::new(), |_, _| Err(Error::Ended));
    assert_eq!(decoded.unwrap().pages(), 0);
}

/// The file is whole, and yet its pages are not those that were to come out.
#[test]
fn a_database_checksum_that_is_not_that_of_the_pages_is_refused_by_every_reader() {
    let mut file = snapshot(size(512), 3, Tracking::On);
    let recorded = file.len() - 16;
    file[recorded + 7] ^= 1;
    common::fix_checksum(&mut file);
    assert!(decode(&file).is_err(), "page by page");

    let mut reader = BatchReader::new(file.as_slice()).unwrap();
    let mut batch = Batch::default();
    assert!(reader.next(&mut batch).unwrap());
    let decoded = batch.decode(&mut Vec::new(), |_, _| Ok::<(), Error>(()));
    assert!(!reader.next(&mut Batch::default()).unwrap());
    assert!(reader.finish([decoded.unwrap()]).is_err(), "by batches");
}

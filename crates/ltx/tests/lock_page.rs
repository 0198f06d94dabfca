//! Databases that reach the lock page at 1 GiB, without writing a GiB.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{collections::BTreeMap, io};

use evertide_ltx::{Batch, BatchReader, Decoder, Encoder, Error, PageIndex, Tracking, merge};

use common::{decode, encode, header, page, pgno, size};

#[test]
fn pages_on_both_sides_of_the_lock_page_survive_at_every_page_size() {
    for bytes in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let size = size(bytes);
        let lock = size.lock_page().get();
        assert_eq!(u64::from(lock - 1) * u64::from(bytes), 1 << 30);
        // Far beyond 1 GiB, up to the largest page number there is.
        let numbers = [1, lock - 1, lock + 1, u32::MAX - 1];
        let pages = numbers.map(|number| (number, page(size, number, 2)));
        let pages: BTreeMap<u32, Vec<u8>> = pages.into();
        let file = encode(header(size, u32::MAX, 2, 2), &pages).unwrap();
        assert!(
            decode(&file).unwrap().model.pages == pages,
            "page size {bytes}"
        );
        let index = PageIndex::read(&mut io::Cursor::new(&file)).unwrap();
        assert!(index.iter().map(|(number, _)| number.get()).eq(numbers));
    }
}

#[test]
fn the_lock_page_itself_is_refused_by_the_encoder_at_every_page_size() {
    for bytes in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let size = size(bytes);
        let mut encoder = Encoder::new(Vec::new(), header(size, u32::MAX, 2, 2)).unwrap();
        let error = encoder.encode_page(size.lock_page(), &page(size, 1, 1));
        assert!(matches!(error, Err(Error::LockPage(_))), "{error:?}");
    }
}

#[test]
fn a_file_that_holds_the_lock_page_is_refused_when_it_is_read() {
    let size = size(65536);
    let lock = size.lock_page().get();
    let pages: BTreeMap<u32, Vec<u8>> = [(lock - 1, page(size, 1, 1))].into();
    let mut file = encode(header(size, lock, 2, 2), &pages).unwrap();
    file[100..104].copy_from_slice(&lock.to_be_bytes());
    assert!(matches!(decode(&file), Err(Error::LockPage(number)) if number.get() == lock));
}

/// A snapshot of all pages up to `commit`, all of them empty.
fn empty_snapshot(commit: u32) -> Vec<u8> {
    let size = size(65536);
    let mut encoder = Encoder::new(Vec::new(), header(size, commit, 1, 1)).unwrap();
    let page = vec![0; size.len()];
    for number in (1..=commit).filter(|number| *number != size.lock_page().get()) {
        encoder.encode_page(pgno(number), &page).unwrap();
    }
    encoder.finish().unwrap().0
}

#[test]
fn a_snapshot_of_more_than_1_gib_is_complete_without_the_lock_page() {
    let lock = size(65536).lock_page().get();
    // The unit tests of the page order know the other sizes around it; each costs a GiB here.
    let commit = lock + 2;
    let file = empty_snapshot(commit);
    let mut decoder = Decoder::new(file.as_slice()).unwrap();
    let (mut page, mut pages, mut last) = (vec![0; 65536], 0, 0);
    while let Some(number) = decoder.decode_page(&mut page).unwrap() {
        pages += 1;
        last = number.get();
    }
    decoder.finish().unwrap();
    assert_eq!((pages, last), (commit - 1, commit));

    let mut reader = BatchReader::new(file.as_slice()).unwrap();
    let (mut batch, mut done) = (Batch::default(), Vec::new());
    let mut scratch = Vec::new();
    while reader.next(&mut batch).unwrap() {
        let decoded = batch.decode(&mut scratch, |first, run| {
            let run = first.get()..first.get() + (run.len() / 65536) as u32;
            assert!(!run.contains(&lock), "a run of pages covers the lock page");
            Ok::<(), Error>(())
        });
        done.push(decoded.unwrap());
    }
    assert_eq!(done.iter().map(|part| part.pages()).sum::<u32>(), pages);
    reader.finish(done).unwrap();
}

#[test]
fn a_database_that_grows_over_the_lock_page_merges() {
    let size = size(65536);
    let lock = size.lock_page().get();
    let pages = [lock - 1, lock + 1].map(|number| (number, page(size, number, 2)));
    let pages: BTreeMap<u32, Vec<u8>> = pages.into();
    let next = encode(header(size, lock + 1, 2, 2), &pages).unwrap();
    let files = [empty_snapshot(lock - 2), next];
    let (file, summary) = merge(files.iter().map(Vec::as_slice), Vec::new()).unwrap();
    assert_eq!(summary.header.tracking, Tracking::Off);
    assert_eq!(summary.pages, u64::from(lock));
    Decoder::new(file.as_slice()).unwrap().finish().unwrap();
}

//! A damaged file is refused, wherever the damage is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    collections::BTreeMap,
    io::{self, Cursor, Read},
};

use evertide_ltx::{Batch, BatchReader, Decoder, Error, Header, PageIndex, Tracking};

use common::{Content, decode, encode, header, page, size, snapshot};

/// Files of all kinds, small enough to break at every bit.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let pages: BTreeMap<u32, Vec<u8>> = [(2, page(size(512), 2, 7)), (5, vec![0; 512])].into();
    vec![
        ("snapshot", snapshot(size(512), 2, Tracking::Off)),
        (
            "snapshot with database checksums",
            snapshot(size(512), 2, Tracking::On),
        ),
        (
            "some pages",
            encode(header(size(512), 9, 4, 6), &pages).unwrap(),
        ),
        (
            "no page",
            encode(header(size(4096), 9, 4, 6), &BTreeMap::new()).unwrap(),
        ),
    ]
}

fn decode_batches(file: &[u8]) -> Result<(), Error> {
    let mut reader = BatchReader::new(file)?;
    let (mut batch, mut scratch, mut done) = (Batch::default(), Vec::new(), Vec::new());
    while reader.next(&mut batch)? {
        done.push(batch.decode(&mut scratch, |_, _| Ok::<(), Error>(()))?);
    }
    reader.finish(done).map(|_| ())
}

#[test]
fn every_flipped_bit_is_detected_or_changes_nothing() {
    for (kind, file) in files() {
        let Content {
            header,
            trailer,
            model,
        } = decode(&file).unwrap();
        let index = PageIndex::read(&mut Cursor::new(&file)).unwrap();
        // Only inside an LZ4 block can two forms mean the same content.
        let in_block = |at: u64| {
            index
                .iter()
                .any(|(_, place)| place.start + 10 <= at && at < place.end)
        };
        let mut harmless = 0;
        // Every bit of the structure, and every third of the pages' content.
        let bits = (0..file.len() * 8).filter(|bit| !in_block(*bit as u64 / 8) || bit % 3 == 0);
        for bit in bits {
            let mut broken = file.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            let batches = decode_batches(&broken);
            match decode(&broken) {
                Ok(content) => {
                    assert!(in_block(bit as u64 / 8), "{kind}: bit {bit} went unnoticed");
                    assert_eq!(
                        content,
                        Content {
                            header: header.clone(),
                            trailer,
                            model: model.clone()
                        }
                    );
                    assert!(batches.is_ok(), "{kind}: bit {bit}");
                    harmless += 1;
                }
                Err(_) => assert!(
                    batches.is_err(),
                    "{kind}: bit {bit} went unnoticed in batches"
                ),
            }
        }
        assert!(
            harmless < file.len() / 20,
            "{kind}: {harmless} harmless bits"
        );
    }
}

#[test]
fn a_file_cut_anywhere_is_refused_as_truncated() {
    for (kind, file) in files() {
        for len in 0..file.len() {
            let error = decode(&file[..len]).unwrap_err();
            let truncated =
                matches!(error, Error::Truncated { length, .. } if length == len as u64);
            assert!(truncated, "{kind}, cut at {len}: {error}");
            assert!(
                decode_batches(&file[..len]).is_err(),
                "{kind}, cut at {len}"
            );
        }
    }
}

#[test]
fn bytes_behind_the_trailer_are_refused() {
    for (kind, mut file) in files() {
        file.push(0);
        let error = decode(&file).unwrap_err();
        assert!(matches!(error, Error::TrailingBytes(_)), "{kind}: {error}");
        assert!(decode_batches(&file).is_err(), "{kind}");
    }
}

#[test]
fn a_length_that_lies_allocates_nothing_and_is_refused() {
    let file = snapshot(size(512), 3, Tracking::Off);
    // The size of the first block, and the length of the index.
    let mut lying = file.clone();
    lying[106..110].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(
        decode(&lying),
        Err(Error::CompressedSize { size: u32::MAX, .. })
    ));
    let mut lying = file.clone();
    let at = lying.len() - 24;
    lying[at..at + 8].copy_from_slice(&u64::MAX.to_be_bytes());
    assert!(matches!(decode(&lying), Err(Error::BadIndex)));
    assert!(matches!(
        PageIndex::read(&mut Cursor::new(&lying)),
        Err(Error::BadIndex)
    ));
}

#[test]
fn files_that_are_something_else_are_told_apart() {
    assert!(matches!(decode(&[0; 4096]), Err(Error::BadMagic(_))));
    let mut file = snapshot(size(512), 1, Tracking::Off);
    file[7] = 4;
    assert!(matches!(decode(&file), Err(Error::BadHeaderFlags(4))));
    file[7] = 2;
    file[10] = 3;
    assert!(matches!(decode(&file), Err(Error::BadPageSize(_))));
}

#[test]
fn an_index_that_disagrees_with_the_pages_is_refused_although_the_checksum_is_right() {
    let mut file = snapshot(size(512), 3, Tracking::Off);
    let index = PageIndex::read(&mut Cursor::new(&file)).unwrap();
    let frames_end = index.iter().last().unwrap().1.end as usize;
    // The first entry of the index, behind the six zero bytes: page 1.
    file[frames_end + 6] = 2;
    common::fix_checksum(&mut file);
    assert!(matches!(decode(&file), Err(Error::BadIndex)));
    assert!(matches!(
        PageIndex::read(&mut Cursor::new(&file)),
        Err(Error::BadIndex)
    ));
}

/// A connection that breaks after so many bytes, and gives them one by one.
struct Breaking<'a>(&'a [u8]);

impl Read for Breaking<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (byte, rest) = self.0.split_first().ok_or(io::ErrorKind::ConnectionReset)?;
        self.0 = rest;
        out[0] = *byte;
        Ok(1)
    }
}

#[test]
fn a_reader_that_fails_fails_the_decoder_and_it_stays_failed() {
    let file = snapshot(size(512), 3, Tracking::Off);
    for len in 0..file.len() {
        let reader = Breaking(&file[..len]);
        let Ok(mut decoder) = Decoder::new(reader) else {
            assert!(len < Header::LEN);
            continue;
        };
        let mut page = vec![0; 512];
        let failed = loop {
            match decoder.decode_page(&mut page) {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(error) => {
                    assert!(matches!(error, Error::Io(_)), "{error}");
                    break true;
                }
            }
        };
        if failed {
            assert!(matches!(decoder.decode_page(&mut page), Err(Error::Ended)));
        }
        assert!(decoder.finish().is_err(), "cut at {len}");
    }
}

#[test]
fn a_batch_that_was_not_decoded_fails_the_file() {
    let file = snapshot(size(512), 3, Tracking::Off);
    let mut reader = BatchReader::new(file.as_slice()).unwrap();
    let mut batch = Batch::default();
    assert!(reader.next(&mut batch).unwrap());
    assert!(!reader.next(&mut batch).unwrap());
    assert!(matches!(reader.finish([]), Err(Error::Ended)));
}

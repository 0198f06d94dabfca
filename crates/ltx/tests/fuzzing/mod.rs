//! What must hold for any bytes whatever, and how to make bytes that are worth a try.
//!
//! Used by the test `fuzz` and by the fuzz targets of the folder `fuzz`, which include this file.

#![allow(dead_code, unreachable_pub, reason = "each user uses its part")]
#![allow(
    clippy::unwrap_used,
    reason = "a property that does not hold must be seen"
)]

use std::io::Cursor;

use evertide_ltx::{
    Batch, BatchReader, Checksum, Decoder, Encoder, Error, Header, LtxName, PageIndex, Pgno,
    Tracking, Trailer, merge,
};

/// The pages of a file, by number and checksum.
type Pages = Vec<(Pgno, Checksum)>;

/// Larger inputs only cost time.
const MAX_LEN: usize = 64 * 1024;

/// Nothing panics; what decodes, decodes in every way to the same; and encoded again it is the
/// same.
pub fn any_bytes_are_refused_or_understood(bytes: &[u8]) {
    let bytes = bytes.get(..MAX_LEN).unwrap_or(bytes);
    let _ = std::str::from_utf8(bytes).map(str::parse::<LtxName>);
    let _ = PageIndex::from_tail(bytes, bytes.len() as u64);
    let by_page = decode(bytes);
    let by_batch = decode_batches(bytes);
    match (&by_page, &by_batch) {
        (Ok(by_page), Ok(by_batch)) => assert_eq!(by_page, by_batch, "the readers disagree"),
        (Err(_), Err(_)) => {}
        _ => panic!("one reader accepts, one refuses: {by_page:?} {by_batch:?}"),
    }
    let Ok((header, pages, trailer)) = by_page else {
        return;
    };

    let index = PageIndex::read(&mut Cursor::new(bytes)).expect("a file that decodes is indexed");
    let mut page = vec![0; header.page_size.len()];
    assert_eq!(index.len(), pages.len());
    for ((pgno, place), expected) in index.iter().zip(&pages) {
        let frame = &bytes[place.start as usize..place.end as usize];
        PageIndex::decode_page(pgno, frame, &mut page).expect("a page that decodes in the file");
        assert_eq!((pgno, Checksum::page(pgno, &page)), *expected);
    }

    let (again, again_pages, again_trailer) = decode(&reencode(bytes)).expect("what we encoded");
    assert_eq!((&again, &again_pages), (&header, &pages));
    assert_eq!(again_trailer.post_apply, trailer.post_apply);

    let alone = merge([bytes], Vec::new()).map(|(file, _)| decode(&file).expect("what we merged"));
    match alone {
        Ok((_, alone, _)) => assert_eq!(alone, pages),
        // Without database checksums there is no file for a database without pages.
        Err(Error::BadHeader(_)) => assert_eq!(header.commit, 0),
        Err(error) => panic!("a file that decodes does not merge with nothing: {error}"),
    }
}

/// Two files merge to a good file, or not at all.
pub fn any_two_files_are_refused_or_merged(first: &[u8], second: &[u8]) {
    if let Ok((file, summary)) = merge([first, second], Vec::new()) {
        let (header, pages, _) = decode(&file).expect("what we merged");
        assert_eq!(
            (header, pages.len() as u64),
            (summary.header, summary.pages)
        );
    }
}

fn decode(bytes: &[u8]) -> Result<(Header, Pages, Trailer), Error> {
    let mut decoder = Decoder::new(bytes)?;
    let header = decoder.header().clone();
    let (mut page, mut pages) = (vec![0; header.page_size.len()], Vec::new());
    while let Some(pgno) = decoder.decode_page(&mut page)? {
        pages.push((pgno, Checksum::page(pgno, &page)));
    }
    Ok((header, pages, decoder.finish()?))
}

fn decode_batches(bytes: &[u8]) -> Result<(Header, Pages, Trailer), Error> {
    let mut reader = BatchReader::new(bytes)?;
    let header = reader.header().clone();
    let (mut batch, mut scratch) = (Batch::default(), Vec::new());
    let (mut done, mut pages) = (Vec::new(), Vec::new());
    while reader.next(&mut batch)? {
        done.push(batch.decode(&mut scratch, |first, run| {
            for (number, page) in (first.get()..).zip(run.chunks(header.page_size.len())) {
                let pgno = Pgno::new(number).unwrap();
                pages.push((pgno, Checksum::page(pgno, page)));
            }
            Ok::<(), Error>(())
        })?);
    }
    Ok((header, pages, reader.finish(done)?))
}

/// The same file, encoded by us. The bytes must decode.
fn reencode(bytes: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::new(bytes).unwrap();
    let mut encoder = Encoder::new(Vec::new(), decoder.header().clone()).unwrap();
    let mut page = vec![0; decoder.header().page_size.len()];
    while let Some(pgno) = decoder.decode_page(&mut page).unwrap() {
        encoder.encode_page(pgno, &page).unwrap();
    }
    encoder.set_post_apply(decoder.finish().unwrap().post_apply);
    encoder.finish().unwrap().0
}

/// Gives bytes whose pages decode, up to some point, an end that fits: page index, length,
/// checksum. Without it hardly any change would get past the first check.
pub fn repair(bytes: &mut Vec<u8>) {
    let Some((mut index, end, header)) = walk(bytes) else {
        return;
    };
    let post_apply = match header.tracking {
        Tracking::Off => Checksum::NONE,
        Tracking::On => Checksum::EMPTY,
    };
    bytes.truncate(end);
    bytes.extend([0; 6]);
    index.push(0);
    bytes.extend_from_slice(&index);
    bytes.extend((index.len() as u64).to_be_bytes());
    bytes.extend(post_apply.get().to_be_bytes());
    bytes.extend([0; 8]);
    let mut put = |from_end: usize, value: u64| {
        let at = bytes.len() - from_end;
        bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        decode(bytes)
    };
    let mut result = put(8, 0);
    if let Err(Error::ChecksumMismatch { found, .. }) = result {
        result = put(8, found);
    }
    if let Err(Error::DatabaseChecksumMismatch { found, .. }) = result
        && let Err(Error::ChecksumMismatch { found, .. }) = put(16, found)
    {
        let _ = put(8, found);
    }
}

/// The page index of the frames that decode, where they end, and the header.
fn walk(bytes: &[u8]) -> Option<(Vec<u8>, usize, Header)> {
    let mut decoder = Decoder::new(bytes).ok()?;
    let mut page = vec![0; decoder.header().page_size.len()];
    let (mut index, mut end) = (Vec::new(), Header::LEN as u64);
    while let Ok(Some(pgno)) = decoder.decode_page(&mut page) {
        let next = decoder.offset();
        for mut value in [u64::from(pgno.get()), end, next - end] {
            while value >= 0x80 {
                index.push(value as u8 | 0x80);
                value >>= 7;
            }
            index.push(value as u8);
        }
        end = next;
    }
    Some((index, end as usize, decoder.header().clone()))
}

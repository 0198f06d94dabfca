//! What is encoded is what is decoded, whatever it is.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{collections::BTreeMap, io, io::Write};

use evertide_ltx::{
    Checksum, Encoder, Error, Header, LtxName, PageIndex, PageSize, Tail, Tracking, Txid,
};
use proptest::prelude::*;

use common::{cases, decode, encode, header, page, pgno, size, snapshot};

const SIZES: [u32; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];

/// Any content: empty, repeated, random.
fn any_page(size: PageSize) -> impl Strategy<Value = Vec<u8>> {
    (0..4, any::<u64>()).prop_map(move |(kind, seed)| {
        let mut page = vec![seed as u8; size.len()];
        match kind {
            0 => page.fill(0),
            1 => fastrand::Rng::with_seed(seed).fill(&mut page),
            2 => page[..size.len() / 3]
                .copy_from_slice(&common::page(size, 1, seed)[..size.len() / 3]),
            _ => {}
        }
        page
    })
}

fn any_file() -> impl Strategy<Value = (Header, BTreeMap<u32, Vec<u8>>)> {
    let sizes = proptest::sample::select(SIZES.as_slice()).prop_map(size);
    sizes.prop_flat_map(|size| {
        let pages = proptest::collection::btree_map(1..40_u32, any_page(size), 0..12);
        let numbers = (
            2..9_u64,
            0..9_u64,
            any::<i64>(),
            any::<u64>(),
            0..i64::MAX,
            any::<u32>(),
        );
        (pages, 0..9_u32, numbers).prop_map(move |(pages, more, numbers)| {
            let (min, more_txids, timestamp, node, wal, salt) = numbers;
            let commit = pages.keys().max().unwrap_or(&1) + more;
            let mut header = header(size, commit, min, min + more_txids);
            header.timestamp_ms = timestamp;
            header.node_id = node;
            header.wal_offset = wal;
            if wal > 0 {
                (header.wal_size, header.wal_salt1, header.wal_salt2) = (wal / 2, salt, !salt);
            }
            (header, pages)
        })
    })
}

#[test]
fn every_file_decodes_to_what_was_encoded_and_keeps_within_its_bound() {
    proptest!(cases(64), |((header, pages) in any_file())| {
        let file = encode(header.clone(), &pages).unwrap();
        let content = decode(&file).unwrap();
        prop_assert_eq!(&content.header, &header);
        prop_assert!(content.model.pages == pages);
        prop_assert_eq!(content.trailer.post_apply, Checksum::NONE);
        let bound = Header::max_file_len(header.page_size, pages.len() as u64);
        prop_assert!(file.len() as u64 <= bound, "{} > {bound}", file.len());
    });
}

#[test]
fn a_file_of_random_pages_keeps_within_its_bound() {
    for bytes in SIZES {
        let size = size(bytes);
        let mut random = fastrand::Rng::with_seed(common::seed());
        let pages = (1..=20).map(|number| {
            let mut page = vec![0; size.len()];
            random.fill(&mut page);
            (number, page)
        });
        let pages: BTreeMap<u32, Vec<u8>> = pages.collect();
        let file = encode(header(size, 20, 1, 1), &pages).unwrap();
        assert!(file.len() > 20 * size.len(), "random pages do not compress");
        assert!(file.len() as u64 <= Header::max_file_len(size, 20));
        assert!(decode(&file).unwrap().model.pages == pages);
    }
}

#[test]
fn the_bound_of_a_file_is_the_sum_of_the_largest_parts() {
    // LZ4 promises 255 bytes in 256 and 16 more; an entry of the index is three numbers, 7 bits to a byte.
    let (block, entry) = (4096 + 4096 / 255 + 16, 5 + 10 + 3);
    let (header, end, trailer) = (100, 6, 16);
    let pages = 20 * (10 + block + entry);
    let bound = header + pages + end + (1 + 8) + trailer;
    assert_eq!(Header::max_file_len(size(4096), 20), bound);
}

#[test]
fn files_with_database_checksums_are_written_and_read() {
    let file = snapshot(size(1024), 5, Tracking::On);
    let content = decode(&file).unwrap();
    assert_eq!(content.header.tracking, Tracking::On);
    let sum = content
        .model
        .pages
        .iter()
        .fold(Checksum::EMPTY, |sum, (number, page)| {
            sum.toggle(Checksum::page(pgno(*number), page))
        });
    assert_eq!(content.trailer.post_apply, sum);

    let mut next = header(size(1024), 5, 4, 4);
    next.tracking = Tracking::On;
    next.pre_apply = sum;
    let mut encoder = Encoder::new(Vec::new(), next.clone()).unwrap();
    encoder
        .encode_page(pgno(2), &page(size(1024), 2, 9))
        .unwrap();
    encoder.set_post_apply(Checksum::EMPTY);
    let (file, _) = encoder.finish().unwrap();
    assert_eq!(decode(&file).unwrap().trailer.post_apply, Checksum::EMPTY);

    let mut unset = Encoder::new(Vec::new(), next).unwrap();
    unset.set_post_apply(Checksum::NONE);
    assert!(
        matches!(unset.finish(), Err(Error::BadTrailer(_))),
        "the checksum after it is wanted"
    );
}

#[test]
fn a_database_checksum_is_only_set_where_nothing_else_knows_it() {
    for tracking in [Tracking::On, Tracking::Off] {
        let mut header = header(size(512), 1, 1, 1);
        header.tracking = tracking;
        let content = page(size(512), 1, 1);
        let files = [None, Some(Checksum::new(u64::MAX))].map(|checksum| {
            let mut encoder = Encoder::new(Vec::new(), header.clone()).unwrap();
            if let Some(checksum) = checksum {
                encoder.set_post_apply(checksum);
            }
            encoder.encode_page(pgno(1), &content).unwrap();
            encoder.finish().unwrap().0
        });
        assert_eq!(files[0], files[1], "{tracking:?}");
    }
}

#[test]
fn a_snapshot_whose_pages_are_not_those_of_its_database_checksum_is_refused() {
    // The same pages under another number: the file checksum is right, the database's is not.
    let mut file = snapshot(size(512), 2, Tracking::On);
    let at = file.len() - 16;
    file[at] ^= 1;
    common::fix_checksum(&mut file);
    assert!(matches!(
        decode(&file),
        Err(Error::DatabaseChecksumMismatch { .. })
    ));
}

#[test]
fn impossible_trailers_are_refused_although_the_checksum_is_right() {
    let empty = |tracking| {
        let mut header = header(size(512), 9, 4, 6);
        if tracking == Tracking::On {
            (header.tracking, header.commit) = (tracking, 0);
            header.pre_apply = Checksum::EMPTY;
        }
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        encoder.set_post_apply(Checksum::EMPTY);
        encoder.finish().unwrap().0
    };
    for tracking in [Tracking::Off, Tracking::On] {
        let mut file = empty(tracking);
        assert!(decode(&file).is_ok(), "{tracking:?}");
        let at = file.len() - 9;
        file[at] ^= 1;
        common::fix_checksum(&mut file);
        assert!(
            matches!(decode(&file), Err(Error::BadTrailer(_))),
            "{tracking:?}"
        );
    }
}

#[test]
fn impossible_headers_are_refused_before_anything_is_written() {
    let good = header(size(512), 3, 2, 4);
    let broken: [fn(&mut Header); 9] = [
        |h| h.min_txid = Txid::ZERO,
        |h| h.max_txid = Txid::new(1),
        |h| h.commit = 0,
        |h| h.wal_offset = -1,
        |h| (h.wal_offset, h.wal_size) = (32, -1),
        |h| h.wal_salt2 = 1,
        |h| h.pre_apply = Checksum::EMPTY,
        |h| h.tracking = Tracking::On,
        |h| (h.tracking, h.pre_apply) = (Tracking::On, Checksum::new(7)),
    ];
    for (case, change) in broken.into_iter().enumerate() {
        let mut header = good.clone();
        change(&mut header);
        let error = Encoder::new(Vec::new(), header).unwrap_err();
        let bad = matches!(error, Error::BadHeader(_) | Error::BadRange { .. });
        assert!(bad, "case {case}: {error}");
    }
}

#[test]
fn a_page_of_the_wrong_size_is_refused_and_the_file_can_go_on() {
    let mut encoder = Encoder::new(Vec::new(), header(size(512), 3, 2, 2)).unwrap();
    for wrong in [0, 511, 1024] {
        let error = encoder.encode_page(pgno(1), &vec![0; wrong]).unwrap_err();
        assert!(matches!(error, Error::PageLength { .. }), "{error}");
    }
    encoder.encode_page(pgno(2), &[0; 512]).unwrap();
    assert!(matches!(
        encoder.encode_page(pgno(1), &[0; 512]),
        Err(Error::PageOrder { .. })
    ));
    encoder.encode_page(pgno(3), &[0; 512]).unwrap();
    let (file, summary) = encoder.finish().unwrap();
    assert_eq!(summary.pages, 2);
    assert!(decode(&file).unwrap().model.pages.keys().eq(&[2, 3]));
}

#[test]
fn a_snapshot_is_not_finished_without_all_its_pages() {
    let mut encoder = Encoder::new(Vec::new(), header(size(512), 2, 1, 2)).unwrap();
    encoder.encode_page(pgno(1), &[0; 512]).unwrap();
    assert!(matches!(
        encoder.finish(),
        Err(Error::MissingPage {
            missing: 2,
            commit: 2
        })
    ));
}

/// A disk that is full after so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How often it is written to.
struct Counted(usize);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += 1;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_encoder_writes_large_pieces() {
    let size = size(512);
    let mut encoder = Encoder::new(Counted(0), header(size, 9_000, 1, 1)).unwrap();
    for number in 1..=9_000 {
        let page = page(size, number, 1);
        encoder.encode_page(pgno(number), &page).unwrap();
    }
    let (Counted(writes), summary) = encoder.finish().unwrap();
    let pieces = summary.size / (128 * 1024);
    assert!(
        pieces > 15 && writes as u64 <= pieces + 2,
        "{writes} writes, {pieces} pieces"
    );
}

#[test]
fn an_encoder_whose_output_failed_never_finishes() {
    let random = page(size(65536), 1, 1);
    let mut encoder = Encoder::new(Full(100_000), header(size(65536), 90, 2, 2)).unwrap();
    let failed = (1..90).find_map(|n| encoder.encode_page(pgno(n), &random).err());
    assert!(matches!(failed, Some(Error::Io(_))), "{failed:?}");
    assert!(matches!(
        encoder.encode_page(pgno(90), &random),
        Err(Error::Ended)
    ));
    assert!(matches!(encoder.finish(), Err(Error::Ended)));
}

#[test]
fn the_index_is_found_from_any_tail_that_is_long_enough() {
    let file = snapshot(size(512), 100, Tracking::Off);
    let len = file.len() as u64;
    let whole = PageIndex::from_tail(&file, len).unwrap();
    let Tail::Complete(index) = &whole else {
        panic!("{whole:?}")
    };
    assert_eq!(index.len(), 100);
    let mut needed = None;
    for tail in 0..file.len() {
        match PageIndex::from_tail(&file[file.len() - tail..], len).unwrap() {
            Tail::Needs(more) => {
                assert!(more as usize > tail);
                needed = Some(more);
            }
            complete => {
                assert_eq!(complete, whole);
                assert!(needed.unwrap() as usize <= tail);
            }
        }
    }
}

#[test]
fn a_long_index_is_read_back() {
    // More than one piece of every buffer on the way.
    let pages: BTreeMap<u32, Vec<u8>> = (1..=20_000).map(|n| (n, vec![n as u8; 512])).collect();
    let file = encode(header(size(512), 20_000, 1, 1), &pages).unwrap();
    assert!(decode(&file).unwrap().model.pages == pages);
    let index = PageIndex::read(&mut io::Cursor::new(&file)).unwrap();
    assert_eq!(index.len(), 20_000);
}

#[test]
fn names_of_files_come_from_their_headers() {
    let name: LtxName = "0000000000000002-000000000000000a.ltx".parse().unwrap();
    assert_eq!(header(size(512), 1, 2, 10).name(), name);
}

//! A merge has the effect of applying its files in order.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeMap;

use evertide_ltx::{Error, Merge, PageSize, Tracking, Txid, merge};
use proptest::prelude::*;

use common::{Model, cases, decode, encode, header, page, pgno, size, snapshot};

/// One transaction: the size it leaves, and which pages it writes, growth included.
fn transaction(before: u32, commit: u32, touched: &[u32], size: PageSize, txid: u64) -> Model {
    let lock = size.lock_page().get();
    let grown = before + 1..=commit;
    let written = touched
        .iter()
        .copied()
        .filter(|number| *number <= commit)
        .chain(grown);
    let written = written.filter(|number| *number != lock);
    Model {
        commit,
        pages: written
            .map(|number| (number, page(size, number, txid)))
            .collect(),
    }
}

/// A history of transactions, the first of which writes the whole database.
fn any_history() -> impl Strategy<Value = Vec<Model>> {
    let step = (1..20_u32, proptest::collection::vec(1..20_u32, 0..6));
    proptest::collection::vec(step, 1..12).prop_map(|steps| {
        let (mut history, mut before) = (Vec::new(), 0);
        for ((commit, touched), txid) in steps.into_iter().zip(1..) {
            history.push(transaction(before, commit, &touched, size(512), txid));
            before = commit;
        }
        history
    })
}

/// The file with transactions `from..to` of the history, counted from 0.
fn file(history: &[Model], from: usize, to: usize) -> Vec<u8> {
    let parts = (from..to).map(|at| {
        let header = header(size(512), history[at].commit, at as u64 + 1, at as u64 + 1);
        encode(header, &history[at].pages).unwrap()
    });
    let parts: Vec<Vec<u8>> = parts.collect();
    merge(parts.iter().map(Vec::as_slice), Vec::new())
        .unwrap()
        .0
}

fn applied(history: &[Model]) -> Model {
    let mut database = Model::default();
    history.iter().for_each(|change| database.apply(change));
    database
}

#[test]
fn a_merge_has_the_effect_of_applying_the_files_in_order() {
    proptest!(cases(200), |(history in any_history(), cuts in any::<u64>(), skip in 0..5_usize)| {
        // Cut the history anywhere into files, some overlapping, and merge those.
        let mut random = fastrand::Rng::with_seed(cuts);
        let start = skip.min(history.len() - 1);
        let (mut files, mut end) = (Vec::new(), start);
        while end < history.len() {
            let from = random.usize(start..=end);
            let to = random.usize(end + 1..=history.len());
            files.push(file(&history, from, to));
            end = to;
        }
        let (merged, summary) = merge(files.iter().map(Vec::as_slice), Vec::new()).unwrap();
        let merged = decode(&merged).unwrap();
        prop_assert_eq!(&summary.header, &merged.header);
        prop_assert_eq!(merged.header.min_txid, Txid::new(start as u64 + 1));
        prop_assert_eq!(merged.header.max_txid, Txid::new(history.len() as u64));
        let latest = header(size(512), 1, 1, history.len() as u64).timestamp_ms;
        prop_assert_eq!(merged.header.timestamp_ms, latest);
        prop_assert_eq!(merged.header.tracking, Tracking::Off);

        let mut database = applied(&history[..start]);
        database.apply(&merged.model);
        prop_assert_eq!(database, applied(&history));
        prop_assert_eq!(merged.header.is_snapshot(), start == 0);
    });
}

fn single(txid: u64, commit: u32, numbers: &[u32]) -> Vec<u8> {
    let pages = numbers.iter().map(|n| (*n, page(size(512), *n, txid)));
    let pages: BTreeMap<u32, Vec<u8>> = pages.collect();
    encode(header(size(512), commit, txid, txid), &pages).unwrap()
}

fn merged(files: &[Vec<u8>]) -> Result<Model, Error> {
    let (merged, _) = merge(files.iter().map(Vec::as_slice), Vec::new())?;
    Ok(decode(&merged)?.model)
}

#[test]
fn a_merge_has_the_time_of_its_last_transaction_whatever_the_clock_showed_before() {
    let files = [(4, 9_000), (5, 7), (6, 50)].map(|(txid, timestamp_ms)| {
        let mut header = header(size(512), 9, txid, txid);
        header.timestamp_ms = timestamp_ms;
        encode(header, &BTreeMap::from([(1, page(size(512), 1, txid))])).unwrap()
    });
    for (count, expected) in [(1, 9_000), (2, 7), (3, 50)] {
        let files = files.iter().take(count).map(Vec::as_slice);
        let (_, summary) = merge(files, Vec::new()).unwrap();
        assert_eq!(summary.header.timestamp_ms, expected);
    }
}

#[test]
fn a_gap_between_files_is_named_and_refused() {
    let files = [single(4, 9, &[1]), single(6, 9, &[1])];
    let error = merged(&files).unwrap_err();
    let Error::MergeGap { previous, next } = &error else {
        panic!("{error}")
    };
    assert_eq!((previous.max, next.min), (Txid::new(4), Txid::new(6)));
    let text = error.to_string();
    assert!(
        text.contains(&next.to_string()) && text.contains(&previous.to_string()),
        "{text}"
    );
}

#[test]
fn files_in_the_wrong_order_are_refused() {
    let files = [single(5, 9, &[1]), single(4, 9, &[1])];
    assert!(matches!(merged(&files), Err(Error::MergeGap { .. })));
    let twice = [single(5, 9, &[1]), single(5, 9, &[1])];
    assert!(matches!(merged(&twice), Err(Error::MergeGap { .. })));
}

#[test]
fn files_of_two_page_sizes_are_refused() {
    let other = encode(header(size(1024), 9, 5, 5), &BTreeMap::new()).unwrap();
    let files = [single(4, 9, &[1]), other];
    assert!(matches!(merged(&files), Err(Error::MergePageSize { .. })));
}

#[test]
fn nothing_is_no_merge() {
    assert!(matches!(merged(&[]), Err(Error::NothingToMerge)));
}

#[test]
fn a_page_that_was_truncated_does_not_come_back_when_the_database_grows_again() {
    // Page 3 is cut off by transaction 5 and, against the rules, not written by 6.
    for (grown, numbers) in [(4, &[1, 4][..]), (3, &[1])] {
        let files = [
            single(4, 3, &[1, 2, 3]),
            single(5, 2, &[1]),
            single(6, grown, numbers),
        ];
        let error = merged(&files).unwrap_err();
        assert!(
            matches!(error, Error::MissingPage { missing: 3, commit } if commit == grown),
            "{error}"
        );
    }

    let files = [
        single(4, 3, &[1, 2, 3]),
        single(5, 2, &[1]),
        single(6, 4, &[1, 3, 4]),
    ];
    assert_eq!(merged(&files).unwrap().pages[&3], page(size(512), 3, 6));
}

#[test]
fn pages_missing_from_growth_do_no_harm_if_the_database_shrinks_below_them() {
    // A snapshot of Litestream may be newer than its name: here it knows of the shrink already.
    let files = [
        single(4, 2, &[1, 2]),
        single(5, 9, &[1]),
        single(6, 2, &[2]),
    ];
    assert_eq!(merged(&files).unwrap().pages.len(), 2);
}

#[test]
fn a_file_damaged_behind_its_last_needed_page_still_fails_the_merge() {
    let mut files = [single(4, 3, &[1, 2, 3]), single(5, 3, &[1])];
    let at = files[0].len() - 1;
    files[0][at] ^= 1;
    assert!(matches!(
        merged(&files),
        Err(Error::ChecksumMismatch { .. })
    ));
}

#[test]
fn a_merge_knows_its_header_before_it_reads_pages() {
    let files = [single(4, 3, &[1]), single(5, 7, &[4, 5, 6, 7])];
    let mut merge = Merge::new(files.iter().map(Vec::as_slice)).unwrap();
    assert_eq!((merge.header().commit, merge.header().wal_offset), (7, 0));
    merge.set_wal_offset(32);
    assert_eq!(merge.header().wal_offset, 32);
    assert_eq!(
        merge.header().name().to_string(),
        "0000000000000004-0000000000000005.ltx"
    );
    let (file, summary) = merge.write_to(Vec::new()).unwrap();
    assert_eq!(decode(&file).unwrap().header, summary.header);
}

#[test]
fn files_with_and_without_database_checksums_merge() {
    let base = snapshot(size(512), 3, Tracking::On);
    let next = single(4, 3, &[2]);
    let model = merged(&[base, next]).unwrap();
    assert_eq!(model.pages[&2], page(size(512), 2, 4));
}

#[test]
fn a_merge_of_many_files_takes_the_newest_of_each_page() {
    let files: Vec<Vec<u8>> = (1..=300)
        .map(|txid| single(txid, 5, if txid == 1 { &[1, 2, 3, 4, 5] } else { &[1, 3] }))
        .collect();
    let model = merged(&files).unwrap();
    let versions = [(1, 300), (2, 1), (3, 300), (4, 1), (5, 1)];
    for (number, txid) in versions {
        assert_eq!(
            model.pages[&number],
            page(size(512), pgno(number).get(), txid)
        );
    }
}

/// Found by the fuzzer: the page after the last one of the largest database has no number.
#[test]
fn a_file_for_the_largest_database_there_can_be_merges() {
    let largest = single(6, u32::MAX, &[]);
    assert_eq!(merged(&[largest]).unwrap().commit, u32::MAX);
}

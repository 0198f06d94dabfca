//! Whatever the files of the local state hold: it is refused, or it is what was written.

#![allow(clippy::disallowed_methods, reason = "no file of a database")]
#![allow(clippy::ptr_arg, reason = "the form that every repair has")]

use std::{cmp::Ordering, fs, os::unix::fs::MetadataExt, path::Path};

use evertide_ltx::{LtxName, PageSize, Pgno, Txid};
use evertide_storage::OsDisk;
use evertide_testkit::Fuzz;

use super::{
    TableSums, Tips,
    identity::{self, LocalIdentity, Stored},
    leases::{self, KnownLeases},
    pages::{PageChanges, PageEntry, PageTable},
    position::{Position, PositionFile, crc_at_the_end},
    stage::Stage,
};
use crate::{
    verify::seal_again,
    wal::{Salts, WalChecksum},
};

/// Where the second slot of the position file is, and how long a record.
const SLOTS: [usize; 2] = [0, 4_096];
const LEN: usize = 384;

fn position(txid: u64) -> Position {
    Position {
        txid: Txid::new(txid),
        timestamp_ms: 1_700_000_000_000,
        staged_min: Txid::new(txid),
        salts: Salts([7; 8]),
        frames: 3,
        checksum: WalChecksum(1, 2),
        page_size: PageSize::new(512).unwrap(),
        pages: 9,
        inode: 4,
        wal_inode: 5,
        table: Some(TableSums {
            checksums: 5,
            changes: 6,
        }),
        boot: 0,
        tips: Tips::default(),
    }
}

/// The file after so many saves.
fn saved(path: &Path, saves: u64) -> Vec<u8> {
    fs::write(path, "").unwrap();
    let (mut file, _) = PositionFile::open(&OsDisk, path).unwrap();
    (1..=saves).for_each(|txid| file.save(&position(txid)).unwrap());
    fs::read(path).unwrap()
}

/// Sets the checksums of both slots right.
fn repair(bytes: &mut Vec<u8>) {
    for slot in SLOTS {
        let record = bytes
            .get_mut(slot..)
            .and_then(|rest| rest.first_chunk_mut());
        if let Some(record) = record {
            crc_at_the_end(record);
        }
    }
}

#[test]
fn no_bytes_are_taken_for_a_position_that_nobody_saved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("position");
    let mut corpus: Vec<_> = (0..4).map(|saves| saved(&path, saves)).collect();
    for number in [u64::MAX, u64::MAX - 1, (1 << 62) - 2, 1 << 63] {
        let mut bytes = saved(&path, 3);
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        repair(&mut bytes);
        corpus.push(bytes);
    }
    Fuzz::target("position")
        .corpus(corpus)
        .repair(repair)
        .run(|input| {
            fs::write(&path, input.bytes).unwrap();
            let (mut file, found) = PositionFile::open(&OsDisk, &path).unwrap();
            // By the documentation: the intact slot with the greater number, where they begin again at 0.
            let mut newest = None;
            for slot in SLOTS {
                let record: Option<&[u8; LEN]> =
                    input.bytes.get(slot..).and_then(|rest| rest.first_chunk());
                let Some(record) = record else { continue };
                let mut right = *record;
                crc_at_the_end(&mut right);
                let number = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
                let page_size = u32::from_le_bytes(record[88..92].try_into().unwrap());
                let intact = record.starts_with(b"EVTPOS02") && right == *record;
                let sane = PageSize::new(page_size).is_ok();
                let is_newer = |than: u64| {
                    let ahead = i128::from(number(8)) - i128::from(than);
                    (1..1 << 63).contains(&ahead.rem_euclid(1 << 64))
                };
                if intact && sane && newest.is_none_or(|(newest, _)| is_newer(newest)) {
                    newest = Some((number(8), number(16)));
                }
            }
            assert_eq!(
                found.map(|position| position.txid.get()),
                newest.map(|newest| newest.1)
            );
            // Whatever was there, what is saved now is found next.
            for txid in [77, 78] {
                file.save(&position(txid)).unwrap();
                let (_, found) = PositionFile::open(&OsDisk, &path).unwrap();
                assert_eq!(found, Some(position(txid)));
            }
            match newest {
                None => "nothing".into(),
                Some((number, _)) if number < 4 => "as it was saved".into(),
                Some(_) => "with another number".to_owned(),
            }
        })
        .assert_reached(&["nothing", "as it was saved", "with another number"], 3);
}

#[test]
fn no_bytes_are_taken_for_the_identity_of_another_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity");
    fs::write(&path, "").unwrap();
    let found = fs::metadata(&path).unwrap();
    let place = (found.dev(), found.ino());
    let [owner, lineage] = ["1", "2"].map(|digit| digit.repeat(32).parse().unwrap());
    let stored = |place, lineage| {
        identity::encode(&Stored {
            owner,
            place,
            lineage,
        })
    };
    Fuzz::target("identity")
        .corpus([
            stored(place, None),
            stored(place, Some(lineage)),
            stored((1, 2), Some(lineage)),
            b"evertide identity 1\n".to_vec(),
        ])
        .words(&[
            "owner ",
            "place ",
            "lineage ",
            "none",
            "\n",
            "18446744073709551616",
            "crc ",
        ])
        .repair(seal_again)
        .inputs(2_000)
        .run(|input| {
            fs::write(&path, input.bytes).unwrap();
            let stored = identity::decode(input.bytes);
            if let Some(stored) = stored {
                assert_eq!(identity::decode(&identity::encode(&stored)), Some(stored));
            }
            let begun = LocalIdentity::open(&OsDisk, &path).unwrap();
            // The owner is that of this very file, and the history that of whoever had a copy of it.
            let own = stored.filter(|stored| stored.place == place);
            if let Some(stored) = stored {
                assert_eq!(begun.owner == stored.owner, own.is_some());
            }
            assert_eq!(begun.lineage(), stored.and_then(|stored| stored.lineage));
            // Whatever was there, what is found next is what was begun.
            let again = LocalIdentity::open(&OsDisk, &path).unwrap();
            assert_eq!(
                (again.owner, again.lineage()),
                (begun.owner, begun.lineage())
            );
            match (stored, own) {
                (None, _) => "refused".into(),
                (_, None) => "a copy".into(),
                (_, Some(_)) => "its own".to_owned(),
            }
        })
        .assert_reached(&["refused", "a copy", "its own"], 3);
}

#[test]
fn no_bytes_are_taken_for_leases_that_were_not_noted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leases");
    let some = [(1, 2), (u64::MAX, 0)].into();
    Fuzz::target("leases")
        .corpus([
            leases::encode(&leases::Seals::new()),
            leases::encode(&some),
            b"evertide leases 1\n".to_vec(),
        ])
        .words(&["0000000000000007 ", "ffffffffffffffff", " ", "\n", "crc "])
        .repair(seal_again)
        .inputs(2_000)
        .run(|input| {
            fs::write(&path, input.bytes).unwrap();
            let stored = leases::decode(input.bytes);
            if let Some(stored) = &stored {
                let again = leases::decode(&leases::encode(stored));
                assert_eq!(again.as_ref(), Some(stored));
            }
            let mut sealed = input.bytes.to_vec();
            seal_again(&mut sealed);
            assert!(stored.is_none() || sealed == input.bytes);
            // Whatever was there, what is noted now is known next.
            let known = KnownLeases::open(&OsDisk, &path).unwrap();
            known.note(&OsDisk, "here", 7).unwrap();
            let next = KnownLeases::open(&OsDisk, &path).unwrap();
            assert_eq!(next.of("here"), Some(7));
            match stored {
                None => "refused".into(),
                Some(stored) if stored.is_empty() => "none".into(),
                Some(_) => "some".to_owned(),
            }
        })
        .assert_reached(&["refused", "none", "some"], 3);
}

/// The entries of a table, by the documentation.
fn entries(bytes: &[u8]) -> Vec<PageEntry> {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let entry = |bytes: &[u8]| PageEntry {
        checksum: number(&bytes[..8]),
        changed: Txid::new(number(&bytes[8..])),
    };
    bytes.chunks_exact(16).map(entry).collect()
}

/// What is done to a table of `pages` pages: it grows or shrinks, and one page changes.
fn changes(pages: u32, grow: u8, changed: u8) -> PageChanges {
    let by = u32::from(grow >> 1);
    let after = match grow & 1 {
        0 => pages + by,
        _ => pages.saturating_sub(by),
    };
    let new = (pages + 1..=after).filter_map(|pgno| Some((Pgno::new(pgno)?, u64::from(pgno))));
    let changed = Pgno::new(u32::from(changed)).filter(|pgno| pgno.get() <= after);
    PageChanges {
        checksums: new.chain(changed.map(|pgno| (pgno, 99))).collect(),
        pages: after,
        txid: Txid::new(u64::MAX),
    }
}

#[test]
fn no_page_table_is_summed_up_wrongly_whatever_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pages");
    let table = |count: u64| -> Vec<u8> { (1..=2 * count).flat_map(u64::to_le_bytes).collect() };
    let changed = |grow: u8| [vec![grow, 1, 0, 0], table(40)].concat();
    let shrinks_and_grows = [7, 6].map(changed);
    Fuzz::target("pages")
        .corpus([table(0), table(3), table(40)])
        .corpus(shrinks_and_grows)
        .inputs(400)
        .run(|input| {
            // The first bytes say what is done with a table of the others.
            let (ask, content) = input.bytes.split_at(input.bytes.len().min(4));
            fs::write(&path, content).unwrap();
            let table = PageTable::open(&OsDisk, &path).unwrap().unwrap();
            let whole = entries(content);
            let pages = whole.len() as u32;
            let sums = table.sums(pages).unwrap().unwrap();
            let xor = whole.iter().fold(0, |sum, entry| sum ^ entry.checksum);
            assert_eq!(sums.checksums, xor);
            assert_eq!(table.sums(pages + 1).unwrap(), None);
            assert_eq!(table.sums(u32::MAX).unwrap(), None);
            let since = Txid::new(5);
            let later = whole.iter().filter(|entry| entry.changed > since).count();
            let found = table.changed_after(since, pages).unwrap().unwrap();
            assert_eq!(found.len() as usize, later);
            let [grow, changed, ..] = *ask else {
                return "too short to change".into();
            };
            let changes = changes(pages, grow, changed);
            let expected = table.sums_after(sums, pages, &changes).unwrap();
            table.apply(&changes).unwrap();
            assert_eq!(table.sums(changes.pages).unwrap(), Some(expected));
            match changes.pages.cmp(&pages) {
                Ordering::Less => "shrunk".into(),
                Ordering::Equal => "as large".into(),
                Ordering::Greater => "grown".to_owned(),
            }
        })
        .assert_reached(&["too short to change", "shrunk", "grown"], 4);
}

#[test]
fn no_name_in_the_stage_makes_a_gap_or_costs_a_file_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let name = |min, max| LtxName::new(Txid::new(min), Txid::new(max)).to_string();
    let run = [name(1, 1), name(2, 4), name(5, 5)];
    let gap = [name(1, 1), name(3, 5), "next.tmp".into(), "mine.txt".into()];
    Fuzz::target("stage")
        .corpus([run.join("\n"), gap.join("\n"), name(5, 5)])
        .words(&["0000000000000005", ".ltx", "next.tmp", "\n", "-"])
        .inputs(300)
        .run(|input| {
            let stage = dir.path().join("stage");
            fs::create_dir(&stage).unwrap();
            let names = input.bytes.split(|byte| *byte == b'\n').take(8);
            let names: Vec<&str> = names
                .filter_map(|name| std::str::from_utf8(name).ok())
                .filter(|name| !name.contains(['/', '\0']) && name.len() < 200)
                .filter(|name| !["", ".", ".."].contains(name))
                .collect();
            names
                .iter()
                .for_each(|name| fs::write(stage.join(name), "x").unwrap());
            let opened = Stage::open(&OsDisk, stage.clone(), Txid::new(5)).unwrap();
            let files = opened.files();
            for pair in files.windows(2) {
                assert_eq!(pair[0].name.max.next(), pair[1].name.min);
            }
            assert!(
                files
                    .last()
                    .is_none_or(|last| last.name.max == Txid::new(5))
            );
            // What is neither ours nor a leftover of ours stays; the rest is what was opened.
            for name in names {
                let ours = name.parse::<LtxName>().ok();
                let kept = match ours {
                    Some(ours) => files.iter().any(|file| file.name == ours),
                    None => name != "next.tmp",
                };
                assert_eq!(stage.join(name).exists(), kept, "{name}");
            }
            fs::remove_dir_all(&stage).unwrap();
            format!("{} files", files.len())
        })
        .assert_reached(&["0 files", "1 files", "3 files"], 3);
}

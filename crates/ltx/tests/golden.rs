//! Files written by the real Litestream; `golden/README.md` says how they were made.

#![allow(
    clippy::disallowed_methods,
    reason = "test files are no live databases"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Cursor, Read},
    path::{Path, PathBuf},
};

use evertide_ltx::{Batch, BatchReader, Error, LtxName, PageIndex, Pgno, Tracking, merge};

use common::{Content, Model, decode, decode_from, encode, pgno};

/// The folders, with their page sizes.
const FOLDERS: [(&str, u32); 5] = [
    ("512", 512),
    ("4096", 4096),
    ("65536", 65536),
    ("frames512", 512),
    ("frames65536", 65536),
];

fn path(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(folder)
}

/// The files of one level, in the order of their transactions.
fn level(folder: &str, level: u32) -> BTreeMap<LtxName, Vec<u8>> {
    let folder = path(folder).join("ltx").join(level.to_string());
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            (name.parse().unwrap(), fs::read(&path).unwrap())
        })
        .collect()
}

/// The database that `litestream restore` made of the same replica.
fn restored((folder, size): (&str, u32)) -> Model {
    let file = fs::read(path(folder).join("restored.db")).unwrap();
    let pages = file.chunks(size as usize).map(<[u8]>::to_vec);
    let pages: BTreeMap<u32, Vec<u8>> = (1..).zip(pages).collect();
    Model {
        commit: pages.len() as u32,
        pages,
    }
}

fn all() -> Vec<(u32, LtxName, Vec<u8>)> {
    let mut files = Vec::new();
    for (folder, size) in FOLDERS {
        for (name, file) in [0, 1, 2, 9].into_iter().flat_map(|n| level(folder, n)) {
            files.push((size, name, file));
        }
    }
    assert!(files.len() > 60, "the golden files are there");
    files
}

#[test]
fn every_file_of_litestream_decodes_and_is_what_its_name_says() {
    for (size, name, file) in all() {
        let Content { header, model, .. } =
            decode(&file[..]).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(header.name(), name);
        assert_eq!(header.page_size.get(), size);
        assert_eq!(
            header.tracking,
            Tracking::Off,
            "Litestream writes no database checksums"
        );
        assert!(
            header.timestamp_ms > 1_700_000_000_000,
            "{name}: a timestamp in milliseconds"
        );
        assert_eq!(
            header.is_snapshot(),
            model.pages.len() as u32 == header.commit,
            "{name}"
        );
    }
}

/// Gives one byte at a time, and is interrupted before each.
struct Slow<'a> {
    bytes: &'a [u8],
    interrupted: bool,
}

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = buffer.len().min(1);
        self.bytes.read(&mut buffer[..len])
    }
}

#[test]
fn a_file_is_read_to_its_end_and_no_further_however_slowly_it_comes() {
    for (_, name, file) in all() {
        let whole = decode(&file).unwrap();
        let slow = Slow {
            bytes: &file,
            interrupted: false,
        };
        assert_eq!(decode_from(slow).unwrap(), whole, "{name}");
    }
}

#[test]
fn litestream_writes_the_same_file_as_we_do_but_for_the_compression() {
    for (_, name, file) in all() {
        let content = decode(&file).unwrap();
        let ours = decode(&encode(content.header.clone(), &content.model.pages).unwrap()).unwrap();
        assert_eq!(ours.model, content.model, "{name}");
        assert_eq!(ours.header, content.header, "{name}");
    }
}

#[test]
fn the_level_0_files_of_litestream_merge_to_what_it_restores() {
    for (folder, size) in FOLDERS {
        let files = level(folder, 0);
        assert!(files.len() > 4);
        let files = files.values().map(Vec::as_slice);
        let (merged, summary) = merge(files, Vec::new()).unwrap();
        assert!(summary.header.is_snapshot());
        assert_eq!(
            decode(&merged).unwrap().model,
            restored((folder, size)),
            "{folder}"
        );
    }
}

#[test]
fn any_snapshot_of_litestream_merges_with_what_follows_to_what_it_restores() {
    for (folder, size) in FOLDERS {
        let sources = level(folder, 0);
        // A snapshot may hold more than its name says: what follows is repeated then.
        for (name, snapshot) in level(folder, 9) {
            let rest = sources.iter().filter(|(next, _)| name.max < next.min);
            let rest = rest.map(|(_, file)| file.as_slice());
            let files = std::iter::once(snapshot.as_slice()).chain(rest);
            let (merged, _) = merge(files, Vec::new()).unwrap();
            let merged = decode(&merged).unwrap().model;
            assert_eq!(merged, restored((folder, size)), "{folder}: {name}");
        }
    }
}

#[test]
fn our_merge_of_level_0_equals_what_litestream_compacted() {
    for (folder, _) in FOLDERS {
        let sources = level(folder, 0);
        for (name, theirs) in [1, 2].into_iter().flat_map(|n| level(folder, n)) {
            let parts = sources
                .iter()
                .filter(|(part, _)| name.min <= part.min && part.max <= name.max);
            let (ours, _) = merge(parts.map(|(_, file)| file.as_slice()), Vec::new()).unwrap();
            let (ours, theirs) = (decode(&ours).unwrap(), decode(&theirs).unwrap());
            assert_eq!(ours.model, theirs.model, "{name}");
            assert_eq!(ours.header.name(), theirs.header.name());
        }
    }
}

/// Compressing again what Litestream compressed would cost time, and prove nothing.
#[test]
fn a_merge_takes_over_the_pages_as_they_were_compressed() {
    fn frames(file: &[u8]) -> Vec<Vec<u8>> {
        let index = PageIndex::read(&mut Cursor::new(file)).unwrap();
        let places = index.iter().map(|(_, place)| place);
        places
            .map(|place| file[place.start as usize..place.end as usize].to_vec())
            .collect()
    }
    let folders = FOLDERS.iter().map(|(folder, _)| folder);
    for folder in folders.filter(|folder| !folder.starts_with("frames")) {
        for (name, file) in level(folder, 9) {
            let (merged, _) = merge([file.as_slice()], Vec::new()).unwrap();
            assert_eq!(frames(&merged), frames(&file), "{folder}: {name}");
        }
    }
}

#[test]
fn the_golden_files_contain_frames_of_both_kinds() {
    // The flags of the first page, behind the header and its number.
    let flags = |folder| level(folder, 9).into_values().next().unwrap()[104..106].to_vec();
    for (folder, _) in FOLDERS {
        let expected = if folder.starts_with("frames") {
            [0, 0]
        } else {
            [0, 1]
        };
        assert_eq!(flags(folder), expected, "{folder}");
    }
}

#[test]
fn the_golden_files_contain_a_shrink() {
    for (folder, _) in FOLDERS {
        let commits: Vec<u32> = level(folder, 0)
            .values()
            .map(|file| decode(file).unwrap().header.commit)
            .collect();
        assert!(
            commits.windows(2).any(|pair| pair[0] > pair[1] + 1),
            "{folder}: {commits:?}"
        );
    }
}

#[test]
fn a_page_found_by_the_index_is_the_page_found_by_reading_all() {
    for (size, name, file) in all() {
        let index = PageIndex::read(&mut Cursor::new(&file)).unwrap();
        let pages = decode(&file).unwrap().model.pages;
        assert!(
            index
                .iter()
                .map(|(pgno, _)| pgno.get())
                .eq(pages.keys().copied()),
            "{name}"
        );
        for (number, expected) in pages {
            let place = index.get(pgno(number)).unwrap();
            let frame = &file[place.start as usize..place.end as usize];
            let mut page = vec![0; size as usize];
            PageIndex::decode_page(pgno(number), frame, &mut page).unwrap();
            assert!(page == expected, "{name}: page {number}");
        }
    }
}

#[test]
fn batches_hold_what_reading_page_by_page_finds() {
    for (size, name, file) in all() {
        let content = decode(&file).unwrap();
        let mut reader = BatchReader::new(file.as_slice()).unwrap();
        let (mut batch, mut scratch) = (Batch::default(), Vec::new());
        let (mut done, mut pages) = (Vec::new(), BTreeMap::new());
        while reader.next(&mut batch).unwrap() {
            let decoded = batch.decode(&mut scratch, |first: Pgno, run: &[u8]| {
                let run = run.chunks(size as usize).map(<[u8]>::to_vec);
                pages.extend((first.get()..).zip(run));
                Ok::<(), Error>(())
            });
            done.push(decoded.unwrap());
        }
        done.reverse();
        assert_eq!(reader.finish(done).unwrap(), content.trailer, "{name}");
        assert!(pages == content.model.pages, "{name}");
    }
}

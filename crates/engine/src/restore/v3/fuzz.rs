//! Whatever the files of Litestream 0.3 hold and are called: refused, or what SQLite wrote.

use std::{
    io::{self, Read, Write},
    time::{Duration, SystemTime},
};

use evertide_ltx::Pgno;
use evertide_storage::{V3Key, V3Object, V3Part};
use evertide_testkit::{Fuzz, phrase, variant};
use lz4_flex::frame::FrameEncoder;

use super::{
    plan::{Obstacle, plan},
    unpack::Unpack,
    wal::{Pages, Problem, Wal},
};

const GOLDEN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/restore_v3/golden/replica"
);
/// What is unpacked of one input, at most.
const MOST: u64 = 1 << 20;

/// The first segments of a WAL, and of the one after it.
const SEGMENTS: [&str; 6] = [
    "baacf92c78e5a975/wal/00000000_00000000",
    "baacf92c78e5a975/wal/00000000_000010e0",
    "baacf92c78e5a975/wal/00000001_00000000",
    "baacf92c78e5a975/wal/00000002_00000000",
    "e32ef06d723a46f9/wal/00000000_00000000",
    "e32ef06d723a46f9/wal/00000001_00000000",
];

#[expect(clippy::disallowed_methods, reason = "no file of a database")]
fn packed() -> Vec<Vec<u8>> {
    let read = |name| std::fs::read(format!("{GOLDEN}/generations/{name}.wal.lz4")).unwrap();
    SEGMENTS.map(read).into()
}

fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    Unpack::new(bytes).take(MOST).read_to_end(&mut content)?;
    Ok(content)
}

#[test]
fn no_bytes_are_unpacked_to_what_was_never_packed() {
    Fuzz::target("v3-segments")
        .corpus(packed())
        .inputs(80)
        .run(|input| match unpack(input.bytes) {
            Ok(content) => {
                // Packed again and unpacked, it is the same: nothing was made up on the way.
                let mut encoder = FrameEncoder::new(Vec::new());
                encoder.write_all(&content).unwrap();
                assert_eq!(unpack(&encoder.finish().unwrap()).unwrap(), content);
                "unpacked".to_owned()
            }
            Err(error) => phrase(&error),
        })
        .assert_reached(&["unpacked", "it is cut off"], 4);
}

/// Counts what commits.
#[derive(Default)]
struct Seen {
    open: usize,
    commits: usize,
}

impl Pages for Seen {
    fn page(&mut self, _: Pgno, page: &[u8]) -> io::Result<()> {
        assert!(!page.is_empty());
        self.open += 1;
        Ok(())
    }

    fn commit(&mut self, size: u32) -> io::Result<()> {
        assert!(size > 0 && self.open > 0, "a commit without a page");
        self.open = 0;
        self.commits += 1;
        Ok(())
    }
}

fn read_wal(mut bytes: &[u8], before: Option<&Wal>) -> Result<(Wal, usize), Problem> {
    let mut seen = Seen::default();
    let mut wal = Wal::begin(&mut bytes, before, None)?;
    wal.read(&mut bytes, &mut seen)?;
    assert_eq!(wal.is_open(), seen.open > 0);
    Ok((wal, seen.commits))
}

#[test]
fn no_segment_is_read_whose_frames_sqlite_did_not_write() {
    let wals: Vec<Vec<u8>> = packed().iter().map(|file| unpack(file).unwrap()).collect();
    let known = wals.clone();
    Fuzz::target("v3-wal")
        .corpus(wals)
        .corpus_of(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/wal"))
        .run(|input| {
            let (wal, commits) = match read_wal(input.bytes, None) {
                Ok(read) => read,
                Err(Problem::Damaged(reason)) => return phrase(&reason),
                Err(other) => panic!("{other}"),
            };
            // Its own checksums vouch for every byte: it is the start of something known, up to a
            // frame, unless somebody computed them again.
            let start_of_known = known.iter().any(|wal| wal.starts_with(input.bytes));
            wal.expect(input.bytes.len() as u64).unwrap();
            assert!(wal.expect(input.bytes.len() as u64 + 1).is_err());
            // Nothing follows itself.
            assert!(read_wal(input.bytes, Some(&wal)).is_err());
            match (start_of_known, commits) {
                (true, 0) => "a start without a commit".into(),
                (true, _) => "a start".into(),
                (false, _) => "another WAL".to_owned(),
            }
        })
        .assert_reached(&["a start", "it ends in the middle of a frame"], 5);
}

/// A listing: each line a name, stored a second after the one before.
fn listing(bytes: &[u8]) -> Vec<V3Object> {
    let lines = bytes.split(|byte| *byte == b'\n').take(30).zip(1..);
    let object = |(line, second): (&[u8], u64)| {
        let text = std::str::from_utf8(line).ok()?;
        let key = V3Key::parse(text)?;
        assert_eq!(key.to_string(), text);
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        Some(V3Object {
            key,
            size: 1,
            created,
        })
    };
    lines.filter_map(object).collect()
}

#[test]
fn no_listing_makes_a_plan_with_a_hole() {
    let snapshot =
        |index| format!("generations/00000000000000aa/snapshots/{index:08x}.snapshot.lz4");
    let segment = |index, offset: u64| {
        format!("generations/00000000000000aa/wal/{index:08x}_{offset:08x}.wal.lz4")
    };
    let usual = [
        snapshot(0),
        segment(0, 0),
        segment(0, 4_152),
        segment(1, 0),
        snapshot(1),
        segment(1, 0x1_0000_0000),
        segment(2, 0),
    ];
    let other = usual.join("\n").replace("00aa", "00bb");
    let twice = format!(
        "{}\n{}",
        usual.join("\n"),
        segment(2, 0).replace("_00000000", "_0000000000000000")
    );
    Fuzz::target("v3-names")
        .corpus([
            twice,
            usual.join("\n"),
            format!("{other}\n{}", usual[..3].join("\n")),
            other,
        ])
        .words(&[
            "generations/",
            "/wal/",
            "/snapshots/",
            "00000001",
            "_",
            "\n",
            ".wal.lz4",
        ])
        .run(|input| {
            let listing = listing(input.bytes);
            let files = match plan(&listing, None) {
                Ok(Some(files)) => files,
                Ok(None) => return "no file".into(),
                Err(Obstacle::Gap { .. }) => return "a gap".into(),
                Err(obstacle) => return variant(&obstacle),
            };
            let newest = listing.iter().map(|file| file.created).max().unwrap();
            let newest = listing.iter().find(|file| file.created == newest).unwrap();
            assert!(
                files
                    .iter()
                    .all(|file| file.key.generation() == newest.key.generation())
            );
            let snapshots = |file: &V3Object| matches!(file.key.part(), V3Part::Snapshot { .. });
            assert!(snapshots(&files[0]) && !files[1..].iter().any(snapshots));
            let mut at = (files[0].key.part().index(), None);
            for file in &files[1..] {
                let V3Part::Segment { index, offset } = file.key.part() else {
                    unreachable!()
                };
                match at {
                    (before, Some(last)) if before == index => assert!(offset > last),
                    (before, last) => {
                        let next = before + u32::from(last.is_some());
                        assert_eq!((index, offset), (next, 0));
                    }
                }
                at = (index, Some(offset));
            }
            format!("{} files", files.len().min(3))
        })
        .assert_reached(&["no file", "a gap", "NoSnapshot", "Twice", "3 files"], 6);
}

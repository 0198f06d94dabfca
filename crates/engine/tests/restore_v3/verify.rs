//! Verification reads every file of Litestream 0.3: whatever byte of whichever file is not as it was written.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use evertide::{FindingKind, RestoreTarget, VerifyOptions, VerifyReport};
use lz4_flex::frame::{FrameDecoder, FrameEncoder, FrameInfo};
use tempfile::TempDir;

use crate::{
    golden::{folder, last_generation, set_times},
    scene::{connect, copy, files, restore},
};

struct Copy {
    dir: TempDir,
    /// All files of the last generation, snapshots first.
    files: Vec<PathBuf>,
}

impl Copy {
    fn whole() -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(&folder().join("replica"), &dir.path().join("replica"));
        let generations = dir.path().join("replica/generations");
        let files = files(&generations.join(last_generation()));
        Self { dir, files }
    }

    /// The beginning of one generation: the first WAL file, and some of the next.
    fn small() -> Self {
        let mut copy = Self::whole();
        let part = |file: &Path| {
            [
                "00000000_",
                "00000000.",
                "00000001_00000000",
                "00000001_00000238",
            ]
            .iter()
            .any(|start| name(file).starts_with(start))
        };
        for file in files(&copy.replica()) {
            if !copy.files.contains(&file) || !part(&file) {
                fs::remove_file(&file).unwrap();
            }
        }
        copy.files.retain(|file| file.exists());
        copy
    }

    fn replica(&self) -> PathBuf {
        self.dir.path().join("replica")
    }

    async fn verified(&self) -> VerifyReport {
        set_times(&self.replica());
        let mut options = VerifyOptions::new(connect(&self.replica()));
        options.temporary = self.dir.path().to_owned();
        evertide::verify(options).await.unwrap()
    }

    fn segments(&self) -> Vec<&PathBuf> {
        let files = self.files.iter();
        files.filter(|file| !is_snapshot(file)).collect()
    }

    /// The first snapshot, the first piece of a WAL file, one between, and the last one.
    fn some(&self) -> [&PathBuf; 4] {
        let segments = self.segments();
        [
            &self.files[0],
            segments[0],
            segments[segments.len() / 2],
            segments[segments.len() - 1],
        ]
    }
}

fn is_snapshot(file: &Path) -> bool {
    file.to_str().unwrap().ends_with(".snapshot.lz4")
}

fn name(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

fn unpacked(file: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    let packed = fs::read(file).unwrap();
    FrameDecoder::new(&packed[..])
        .read_to_end(&mut content)
        .unwrap();
    content
}

fn packed(content: &[u8]) -> Vec<u8> {
    let info = FrameInfo::new().content_checksum(true);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Exactly this kind of problem with this file, and nothing else.
fn assert_found(report: &VerifyReport, kind: FindingKind, file: &str, what: &str) {
    let problems: Vec<_> = report.problems().collect();
    let [found] = problems[..] else {
        panic!("{what}: {problems:?}")
    };
    assert_eq!(found.kind, kind, "{what}: {found}");
    assert!(found.object.ends_with(file), "{what}: {found}");
    assert!(!report.is_sound());
}

#[tokio::test]
async fn all_generations_are_read_and_sound() {
    let copy = Copy::whole();
    let report = copy.verified().await;
    assert!(
        report.is_sound() && report.findings.is_empty(),
        "{report:?}"
    );
    let old = report.v3.unwrap();
    assert_eq!(old.generations, 2);
    assert_eq!(old.files, files(&copy.replica()).len() as u64);
    assert!(report.created.is_none() && report.files == 0);
}

#[tokio::test]
async fn every_class_of_flipped_bits_in_files_of_litestream_0_3_is_detected() {
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let copy = Copy::small();
    let output = copy.dir.path().join("out.db");
    let restored = async || {
        let done = restore(&copy.replica(), &output, RestoreTarget::Latest).await;
        done.unwrap();
        let content = fs::read(&output).unwrap();
        fs::remove_file(&output).unwrap();
        content
    };
    set_times(&copy.replica());
    let expected = restored().await;
    let (mut detected, mut meaningless) = (0, 0);
    for file in copy.some() {
        let good = fs::read(file).unwrap();
        let end = good.len();
        let classes = [
            ("magic", 0..4),
            ("flags", 4..5),
            ("size of blocks", 5..6),
            ("checksum of the header", 6..7),
            ("size of the first block", 7..11),
            ("content", 11..end - 8),
            ("end mark", end - 8..end - 4),
            ("checksum of the content", end - 4..end),
        ];
        for (class, range) in classes {
            let (at, bit) = (random.usize(range), random.u8(..8));
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            fs::write(file, bad).unwrap();
            let what = format!("{class}: bit {bit} of byte {at} of {}", name(file));
            let report = copy.verified().await;
            if report.is_sound() {
                // LZ4 can say one thing in several ways.
                meaningless += 1;
                assert!(restored().await == expected, "{what}");
                continue;
            }
            detected += 1;
            assert_found(&report, FindingKind::Damaged, &name(file), &what);
        }
        fs::write(file, good).unwrap();
    }
    assert!(detected > 5 * meaningless, "{detected} and {meaningless}");
    assert!(copy.verified().await.is_sound(), "all is well again");
}

#[tokio::test]
async fn every_class_of_flipped_bits_in_the_wal_itself_is_detected() {
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let copy = Copy::small();
    let [_, first, between, last] = copy.some();
    for (file, header) in [(first, 32), (between, 0), (last, 0)] {
        let good = unpacked(file);
        let fields = [
            ("page number", 0..4),
            ("size after the transaction", 4..8),
            ("salts", 8..16),
            ("checksums", 16..24),
            ("page", 24..24 + 512),
        ];
        let of_frame =
            fields.map(|(class, range)| (class, header + range.start..header + range.end));
        // The number of the checkpoint is all that is not needed; the checksum is of it, too.
        let of_header = [
            ("magic", 0..4),
            ("version", 4..8),
            ("page size", 8..12),
            ("checkpoint", 12..16),
            ("salts of the file", 16..24),
            ("checksum of the header", 24..32),
        ];
        let of_header = of_header.into_iter().filter(|_| header > 0);
        for (class, range) in of_frame.into_iter().chain(of_header) {
            let (at, bit) = (random.usize(range), random.u8(..8));
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            // Packed as if it had always been so: the checksum of LZ4 is right.
            fs::write(file, packed(&bad)).unwrap();
            let what = format!("{class}: bit {bit} of byte {at} of {}", name(file));
            assert_found(
                &copy.verified().await,
                FindingKind::Damaged,
                &name(file),
                &what,
            );
        }
        fs::write(file, packed(&good)).unwrap();
        assert!(copy.verified().await.is_sound(), "{}", name(file));
    }
}

#[tokio::test]
async fn missing_files_of_litestream_0_3_are_named() {
    let copy = Copy::small();
    let segments = copy.segments();
    let index = |file: &Path| name(file)[..8].to_owned();
    let mut named = 0;
    for pair in segments.windows(2) {
        let [lost, next] = pair else { continue };
        let good = fs::read(lost).unwrap();
        fs::remove_file(lost).unwrap();
        let report = copy.verified().await;
        // The end of a WAL file that ended with a commit is the one thing that nobody can see.
        if index(lost) == index(next) {
            assert_found(&report, FindingKind::Gap, &name(lost), "lost");
            named += 1;
        }
        fs::write(lost, good).unwrap();
    }
    assert!(named > 3, "{named}");
    let copy = Copy::whole();
    let segments = copy.segments();
    let of_one: Vec<_> = segments
        .iter()
        .filter(|file| name(file).starts_with("00000001_"))
        .collect();
    of_one
        .iter()
        .for_each(|file| fs::remove_file(file).unwrap());
    assert_found(
        &copy.verified().await,
        FindingKind::Gap,
        "00000001_00000000.wal.lz4",
        "a whole WAL file",
    );
    let copy = Copy::small();
    copy.files
        .iter()
        .filter(|file| is_snapshot(file))
        .for_each(|file| fs::remove_file(file).unwrap());
    assert_found(
        &copy.verified().await,
        FindingKind::Gap,
        "/snapshots/",
        "no snapshot",
    );
}

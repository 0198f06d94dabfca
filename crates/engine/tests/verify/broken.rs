//! What is wrong with the files together, each of them intact.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use evertide::{
    Finding, FindingKind, RestoreOptions, Severity, VerifyOptions, VerifyReport, restore, verify,
};
use evertide_ltx::{Encoder, Header, Level, LtxName, PageSize, Pgno, Txid};
use evertide_storage::bytes_stream;
use tempfile::TempDir;

use crate::{connect, kinds, verified};

/// A replica made by hand, file by file.
pub(crate) struct Made {
    pub(crate) dir: TempDir,
}

/// A file: level, first and last transaction.
pub(crate) type Name = (u8, u64, u64);

/// Seconds since the epoch of transaction 0.
const START: u64 = 1_700_000_000;

impl Made {
    /// A replica of these files: the size of the database after each of them, and its pages, whose
    /// content is that of the last transaction.
    pub(crate) async fn of(files: &[(Name, u32, &[u32])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Self { dir };
        for (name, commit, pages) in files {
            let last = name.2;
            made.put(
                *name,
                *commit,
                &pages.iter().map(|page| (*page, last)).collect::<Vec<_>>(),
            )
            .await;
        }
        made
    }

    /// Adds a file of pages, each with the transaction whose content it has.
    async fn put(&self, (level, min, max): Name, commit: u32, pages: &[(u32, u64)]) {
        let (min, max) = (Txid::new(min), Txid::new(max));
        let mut header = Header::new(PageSize::new(512).unwrap(), commit, min, max);
        header.timestamp_ms = ((START + max.get()) * 1_000) as i64;
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        for (number, content) in pages {
            let page = [*content as u8; 512];
            encoder
                .encode_page(Pgno::new(*number).unwrap(), &page)
                .unwrap();
        }
        let file = encoder.finish().unwrap().0;
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(START + max.get());
        let body = bytes_stream(file.into());
        let level = Level::new(level).unwrap();
        let name = LtxName::new(min, max);
        connect(&self.replica())
            .put(level, name, created, body)
            .await
            .unwrap();
    }

    pub(crate) fn replica(&self) -> PathBuf {
        self.dir.path().join("replica")
    }

    pub(crate) fn path(&self, (level, min, max): Name) -> PathBuf {
        self.replica()
            .join(format!("ltx/{level}/{min:016x}-{max:016x}.ltx"))
    }

    async fn verified(&self) -> VerifyReport {
        verified(&self.replica()).await
    }

    /// The only finding there is.
    async fn finding(&self) -> Finding {
        let report = self.verified().await;
        let [finding] = &report.findings[..] else {
            panic!("{:?}", report.findings);
        };
        finding.clone()
    }

    async fn restores(&self) -> bool {
        let output = self.dir.path().join(format!("{}.db", fastrand::u64(..)));
        restore(RestoreOptions::new(connect(&self.replica()), output))
            .await
            .is_ok()
    }
}

/// Four transactions on levels 0 and 1, and a snapshot at each end.
pub(crate) async fn usual() -> Made {
    let made = Made::of(&[
        ((9, 1, 1), 3, &[1, 2, 3]),
        ((0, 2, 2), 4, &[1, 4]),
        ((0, 3, 3), 4, &[2]),
        ((0, 4, 4), 4, &[2, 4]),
    ])
    .await;
    made.put((1, 2, 3), 4, &[(1, 2), (2, 3), (4, 2)]).await;
    made.put((2, 2, 4), 4, &[(1, 2), (2, 4), (4, 4)]).await;
    made.put((9, 1, 4), 4, &[(1, 2), (2, 4), (3, 1), (4, 4)])
        .await;
    made
}

fn says(finding: &Finding, kind: FindingKind, object: &str, texts: &[&str]) {
    assert_eq!(finding.kind, kind, "{finding:?}");
    assert!(finding.object.starts_with(object), "{finding:?}");
    let said = finding.to_string();
    for text in texts {
        assert!(said.contains(text), "`{text}` is not said: {said}");
    }
}

#[tokio::test]
async fn levels_that_agree_are_sound() {
    let report = usual().await.verified().await;
    assert_eq!(report.findings, []);
    assert_eq!((report.txid.get(), report.states, report.files), (4, 4, 7));
}

#[tokio::test]
async fn a_replica_without_files_is_not_sound() {
    let made = Made::of(&[]).await;
    says(
        &made.finding().await,
        FindingKind::NoBackup,
        "file://",
        &["nothing can be restored"],
    );
    let made = Made::of(&[((0, 2, 2), 3, &[1])]).await;
    let beginning = made.finding().await;
    says(
        &beginning,
        FindingKind::NoBackup,
        "file://",
        &["no file starts", "is lost"],
    );
}

#[tokio::test]
async fn a_missing_file_is_a_gap_unless_another_level_covers_it() {
    let made = usual().await;
    fs::remove_file(made.path((0, 3, 3))).unwrap();
    assert_eq!(made.finding_kinds().await, [], "level 1 covers it");
    fs::remove_file(made.path((1, 2, 3))).unwrap();
    let gap = made.finding().await;
    let texts = [
        "transaction 0000000000000003 is missing",
        "0000000000000004-0000000000000004.ltx",
    ];
    assert_eq!(gap.kind, FindingKind::Gap, "{gap:?}");
    assert!(
        gap.to_string().contains(texts[0]) && gap.object.starts_with(texts[1]),
        "{gap:?}"
    );
    // Without any snapshot or level behind it, everything there is lost.
    fs::remove_file(made.path((9, 1, 4))).unwrap();
    fs::remove_file(made.path((2, 2, 4))).unwrap();
    made.put((0, 5, 5), 4, &[(1, 5)]).await;
    let texts = [
        "nothing after transaction 0000000000000002",
        "--txid 0000000000000002",
    ];
    says(
        &made.finding().await,
        FindingKind::Gap,
        "0000000000000004",
        &texts,
    );
    assert_eq!(made.verified().await.txid.get(), 2);
    assert!(!made.restores().await);
}

impl Made {
    async fn finding_kinds(&self) -> Vec<FindingKind> {
        kinds(&self.verified().await)
    }
}

#[tokio::test]
async fn a_damaged_file_is_said_to_be_covered_exactly_when_it_can_be_done_without() {
    let cases: [(Name, &str); 5] = [
        ((2, 2, 4), "other files hold its transactions"),
        ((1, 2, 3), "other files hold its transactions"),
        (
            (9, 1, 4),
            "until then a restore of the newest state fails on it",
        ),
        (
            (0, 2, 2),
            "the state after transaction 0000000000000002 cannot be restored",
        ),
        (
            (9, 1, 1),
            "the 3 states from transaction 0000000000000001 to 0000000000000003 cannot",
        ),
    ];
    for (name, meaning) in cases {
        let made = usual().await;
        let mut content = fs::read(made.path(name)).unwrap();
        let last = content.len() - 1;
        content[last] ^= 1;
        fs::write(made.path(name), &content).unwrap();
        let report = made.verified().await;
        let damaged: Vec<_> = report.problems().collect();
        assert_eq!(damaged.len(), 1, "{name:?}: {damaged:?}");
        let object = format!("{:016x}-{:016x}.ltx on level {}", name.1, name.2, name.0);
        says(damaged[0], FindingKind::Damaged, &object, &[meaning]);
        assert_eq!(report.txid.get(), 4);
        // What is said to do helps.
        let covered = meaning.starts_with("other") || meaning.starts_with("until");
        fs::remove_file(made.path(name)).unwrap();
        assert!(made.restores().await);
        let report = made.verified().await;
        assert_eq!(report.is_sound() && report.states == 4, covered, "{name:?}");
    }
}

#[tokio::test]
async fn levels_that_disagree_are_found_whatever_the_difference() {
    type Case<'a> = (Name, u32, &'a [(u32, u64)], &'a str);
    let cases: [Case<'_>; 5] = [
        (
            (1, 2, 3),
            4,
            &[(1, 2), (2, 9), (4, 2)],
            "page 2 is not the one of",
        ),
        ((1, 2, 3), 4, &[(1, 2), (4, 2)], "page 2 is missing"),
        ((2, 2, 4), 4, &[(1, 2), (2, 4)], "page 4 is missing"),
        (
            (1, 2, 3),
            5,
            &[(1, 2), (2, 3), (4, 2), (5, 3)],
            "it leaves 5 pages",
        ),
        (
            (9, 1, 4),
            4,
            &[(1, 2), (2, 4), (3, 7), (4, 4)],
            "page 3 is not the one of",
        ),
    ];
    for (name, commit, pages, problem) in cases {
        let made = usual().await;
        fs::remove_file(made.path(name)).unwrap();
        made.put(name, commit, pages).await;
        let object = format!("{:016x}-{:016x}.ltx on level {}", name.1, name.2, name.0);
        says(
            &made.finding().await,
            FindingKind::Disagreement,
            &object,
            &[problem],
        );
    }
}

#[tokio::test]
async fn damage_is_not_taken_for_disagreement_of_what_follows() {
    let made = usual().await;
    made.put((0, 5, 5), 4, &[(3, 5)]).await;
    made.put((9, 1, 5), 4, &[(1, 2), (2, 4), (3, 5), (4, 4)])
        .await;
    let path = made.path((0, 3, 3));
    let mut content = fs::read(&path).unwrap();
    content[Header::LEN + 12] ^= 0x40;
    fs::write(&path, content).unwrap();
    assert_eq!(made.finding_kinds().await, [FindingKind::Damaged]);
}

#[tokio::test]
async fn files_of_one_level_that_overlap_are_not_sound() {
    let made = usual().await;
    made.put((0, 3, 4), 4, &[(2, 4), (4, 4)]).await;
    let report = made.verified().await;
    assert!(!report.is_sound());
    for found in &report.findings {
        says(
            found,
            FindingKind::Overlap,
            "000000000000000",
            &["two may have written here"],
        );
    }
}

#[tokio::test]
async fn growth_that_no_file_holds_is_found_with_the_states_it_costs() {
    let made = Made::of(&[
        ((9, 1, 1), 2, &[1, 2]),
        ((0, 2, 2), 4, &[1, 4]),
        ((0, 3, 3), 4, &[2]),
    ])
    .await;
    let texts = [
        "page 3",
        "from transaction 0000000000000002 to 0000000000000003 cannot",
    ];
    says(
        &made.finding().await,
        FindingKind::Incomplete,
        "0000000000000002",
        &texts,
    );
    assert!(!made.restores().await);
    // A later file brings the page: from there on all is well.
    made.put((0, 4, 4), 4, &[(3, 4)]).await;
    let texts = [
        "page 3",
        "from transaction 0000000000000002 to 0000000000000003 cannot",
    ];
    says(
        &made.finding().await,
        FindingKind::Incomplete,
        "0000000000000002",
        &texts,
    );
    assert!(made.restores().await);
}

#[tokio::test]
async fn a_file_under_another_name_or_of_another_page_size_does_not_belong_there() {
    let made = usual().await;
    fs::rename(made.path((0, 2, 2)), made.path((0, 5, 5))).unwrap();
    let report = made.verified().await;
    let misplaced = |found: &&Finding| found.kind == FindingKind::Misplaced;
    let found = report.problems().find(misplaced).unwrap();
    let texts = ["its header says that it is 0000000000000002-0000000000000002.ltx"];
    says(found, FindingKind::Misplaced, "0000000000000005", &texts);
    let made = usual().await;
    fs::create_dir_all(made.replica().join("ltx/9")).unwrap();
    fs::copy(made.path((0, 4, 4)), made.path((9, 4, 4))).unwrap();
    let report = made.verified().await;
    let found = report.problems().next().unwrap();
    says(
        found,
        FindingKind::Misplaced,
        "0000000000000004",
        &["it is not a snapshot"],
    );
}

#[tokio::test]
async fn what_is_not_part_of_the_replica_is_named_and_no_problem() {
    let made = usual().await;
    let place = |name: &str| made.replica().join(name);
    fs::create_dir_all(place("generations/0123456789abcdef")).unwrap();
    fs::create_dir_all(place("ltx/10")).unwrap();
    for file in [
        "notes.txt",
        "ltx/README",
        "ltx/0/0000000000000005-0000000000000005.ltx.tmp",
        "ltx/1/.0000000000000002-0000000000000003.ltx.0123456789abcdef-1.evertide-tmp",
        "ltx/9/0000000000000009.ltx",
    ] {
        fs::write(place(file), "x").unwrap();
    }
    let report = made.verified().await;
    assert!(report.is_sound());
    let found: BTreeMap<_, _> = report
        .findings
        .iter()
        .map(|found| (found.object.as_str(), found.kind))
        .collect();
    let (foreign, temporary) = (FindingKind::Foreign, FindingKind::Temporary);
    let expected = [
        ("generations/", foreign),
        ("ltx/0/0000000000000005-0000000000000005.ltx.tmp", temporary),
        (
            "ltx/1/.0000000000000002-0000000000000003.ltx.0123456789abcdef-1.evertide-tmp",
            temporary,
        ),
        ("ltx/10/", foreign),
        ("ltx/9/0000000000000009.ltx", foreign),
        ("ltx/README", foreign),
        ("notes.txt", foreign),
    ];
    assert_eq!(found, BTreeMap::from(expected));
    assert!(
        report
            .findings
            .iter()
            .all(|found| found.kind.severity() == Severity::Note)
    );
}

#[tokio::test]
async fn files_copied_without_their_times_are_noticed() {
    let made = usual().await;
    let file = fs::File::options()
        .append(true)
        .open(made.path((0, 3, 3)))
        .unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(START + 900))
        .unwrap();
    says(
        &made.finding().await,
        FindingKind::Time,
        "0000000000000003",
        &["--timestamp"],
    );
    assert!(made.verified().await.is_sound());
}

#[tokio::test]
async fn files_before_the_first_snapshot_are_of_no_use_and_no_problem() {
    let made = usual().await;
    fs::remove_file(made.path((9, 1, 1))).unwrap();
    let unused = made.finding().await;
    says(
        &unused,
        FindingKind::Unused,
        "file://",
        &["4 of 6 files", "may be deleted"],
    );
}

#[tokio::test]
async fn a_replica_that_cannot_be_listed_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "no directory").unwrap();
    let error = verify(VerifyOptions::new(connect(&path))).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("file") && error.contains("Not a directory"),
        "{error}"
    );
}

#[tokio::test]
async fn no_room_for_the_temporary_file_is_an_error_that_says_where() {
    let made = usual().await;
    let mut options = VerifyOptions::new(connect(&made.replica()));
    options.temporary = made.dir.path().join("nowhere");
    let error = verify(options).await.unwrap_err().to_string();
    assert!(
        error.contains("nowhere") && error.contains("TMPDIR"),
        "{error}"
    );
}

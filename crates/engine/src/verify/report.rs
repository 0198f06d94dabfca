//! From what was seen to what it means. Pure.

use std::time::Duration;

use evertide_ltx::{Level, Txid};
use evertide_storage::{LtxObject, Stray, StrayKind};

use super::{
    Finding, FindingKind, VerifyReport,
    check::Checked,
    finding::{label, meaning, of_gap, of_overlap},
    plan::{gaps, impacts, overlaps, states},
};
use crate::{RestoreTarget, restore::plan};

/// Strays that are named one by one.
const STRAYS: usize = 50;

/// Puts the report together. The files are in reading order; files of Litestream 0.3 are told about elsewhere.
pub(super) fn assemble(
    location: String,
    files: &[LtxObject],
    strays: &[Stray],
    has_v3: bool,
    checked: Checked,
) -> VerifyReport {
    let broken: Vec<_> = checked
        .broken
        .iter()
        .map(|found| found.file.clone())
        .collect();
    let good = files.iter().filter(|file| !broken.contains(file));
    let states = states(good, Txid::ZERO);
    let newest = states.last().copied().unwrap_or_default();
    let mut findings = of_listing(&location, files, strays, has_v3);
    findings.extend(of_broken(files, &broken, &checked));
    findings.extend(checked.findings);
    if checked.position < newest {
        findings.push(Finding::new(
            FindingKind::Vanished,
            &location,
            format!(
                "files were deleted time and again while they were read, from transaction {} on",
                checked.position.next()
            ),
            "what lies behind it is not proven; verify again, and check the retention",
        ));
    }
    if let Some(first) = &checked.times.first {
        findings.push(Finding::new(
            FindingKind::Time,
            label(first),
            match checked.times.files {
                1 => "it has another time than its header says".to_owned(),
                files => format!(
                    "it and {} more have another time than their headers",
                    files - 1
                ),
            },
            "`restore --timestamp` goes by the time of the object, and will choose another state; \
             were the files copied without their times?",
        ));
    }
    findings.sort_by_key(|finding| finding.kind.severity());
    // Litestream gives files that end with the same transaction different times.
    let planned = plan(files, RestoreTarget::Latest).ok();
    let planned = planned.as_ref().and_then(|plan| plan.files().last());
    let ends = |file: &&LtxObject| file.name.max == newest;
    let newest_file = planned.filter(ends).or_else(|| files.iter().find(ends));
    VerifyReport {
        location,
        files: files.len() as u64,
        bytes: files.iter().map(|file| file.size).sum(),
        txid: newest,
        created: newest_file.map(|file| file.created),
        states: states.len() as u64,
        proven: checked.proven,
        page_size: checked.page_size,
        pages: checked.pages,
        database_checksum: checked.database.map(|checksum| checksum.get()),
        v3: None,
        restored: None,
        findings,
        duration: Duration::ZERO,
    }
}

/// What is wrong with files, and what that means.
fn of_broken(files: &[LtxObject], broken: &[LtxObject], checked: &Checked) -> Vec<Finding> {
    let plan = plan(files, RestoreTarget::Latest);
    let used = |file| plan.as_ref().is_ok_and(|plan| plan.files().contains(file));
    let impacts = impacts(files, broken);
    let found = checked.broken.iter().zip(impacts).map(|(broken, impact)| {
        let meaning = meaning(&impact, used(&broken.file));
        Finding::new(broken.kind, label(&broken.file), &broken.problem, meaning)
    });
    let mut findings = Vec::new();
    for finding in found {
        // A file is read again where others vanished.
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    findings
}

/// The recorded checksums cannot be used.
pub(super) fn damaged_records() -> Finding {
    Finding::new(
        FindingKind::Record,
        "evertide/checksums",
        "it is damaged, or of a newer version",
        "no state is compared with the checksum it was captured with; replication writes it anew",
    )
}

/// What the names alone tell.
fn of_listing(location: &str, files: &[LtxObject], strays: &[Stray], has_v3: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (gaps, useless) = gaps(files);
    if files.is_empty() && !has_v3 {
        findings.push(Finding::new(
            FindingKind::NoBackup,
            location,
            "there is not one LTX file",
            "nothing can be restored; check the address",
        ));
    } else if files.is_empty() {
        // All there is to restore is of Litestream 0.3.
    } else if useless == files.len() {
        findings.push(Finding::new(
            FindingKind::NoBackup,
            location,
            "no file starts at the first transaction",
            "nothing can be restored: the beginning of the history is lost",
        ));
    } else if useless > 0 {
        findings.push(Finding::new(
            FindingKind::Unused,
            location,
            format!(
                "{useless} of {} files lie before its first snapshot",
                files.len()
            ),
            "no restore can use them; they may be deleted",
        ));
    }
    findings.extend(gaps.iter().map(of_gap));
    let overlaps = overlaps(files);
    findings.extend(
        overlaps
            .iter()
            .map(|(before, file)| of_overlap(before, file)),
    );
    let misplaced = |file: &&LtxObject| file.level == Level::SNAPSHOT && !file.name.is_snapshot();
    for file in files.iter().filter(misplaced) {
        findings.push(Finding::new(
            FindingKind::Misplaced,
            label(file),
            "it is not a snapshot, and lies where snapshots do",
            "Litestream would start a restore from it, and fail; move it to level 0",
        ));
    }
    findings.extend(of_strays(location, strays, has_v3));
    findings
}

fn of_strays(location: &str, strays: &[Stray], has_v3: bool) -> Vec<Finding> {
    // What is in there is told about file by file.
    let told = |stray: &&Stray| !(has_v3 && stray.key == "generations/");
    let strays: Vec<_> = strays.iter().filter(told).collect();
    let finding = |stray: &Stray| {
        let (kind, problem, meaning) = match stray.kind {
            StrayKind::Temporary => (
                FindingKind::Temporary,
                "a temporary file",
                "it is being written, or was when a process ended; no restore reads it",
            ),
            _ if stray.key == "generations/" => (
                FindingKind::Foreign,
                "it has no file of Litestream 0.3 in it",
                "no restore reads it",
            ),
            _ => (
                FindingKind::Foreign,
                "it is not part of a replica",
                "no restore reads it",
            ),
        };
        Finding::new(kind, &stray.key, problem, meaning)
    };
    let mut findings: Vec<_> = strays.iter().take(STRAYS).copied().map(finding).collect();
    if strays.len() > STRAYS {
        findings.push(Finding::new(
            FindingKind::Foreign,
            location,
            format!("{} more are not part of it", strays.len() - STRAYS),
            "no restore reads them",
        ));
    }
    findings
}

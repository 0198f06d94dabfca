//! The files of Litestream 0.3 on a replica: all of them are read, whatever they are needed for.

use std::{collections::BTreeSet, time::SystemTime};

use evertide_storage::V3Object;

use super::{Finding, FindingKind, VerifyError, VerifyOptions, VerifyReport, progress::Meter};
use crate::restore::{Flaw, FlawKind, check_v3};

/// What a replica holds in the format of Litestream 0.3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct VerifiedV3 {
    /// Snapshots, and pieces of WAL files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Unbroken histories of the database.
    pub generations: u64,
    /// When the newest file was stored.
    pub newest: SystemTime,
}

impl VerifiedV3 {
    pub(super) fn of(files: &[V3Object]) -> Option<Self> {
        let generations = files.iter().map(|file| file.key.generation());
        Some(Self {
            newest: files.iter().map(|file| file.created).max()?,
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.size).sum(),
            generations: generations.collect::<BTreeSet<_>>().len() as u64,
        })
    }
}

/// Reads these files, and adds to the report what is wrong with them.
pub(super) async fn check(
    options: &VerifyOptions,
    files: Vec<V3Object>,
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let Some(found) = VerifiedV3::of(&files) else {
        return Ok(());
    };
    let mut meter = Meter::new(found.bytes, options.observer.clone());
    let progress = move |bytes| meter.advance(usize::try_from(bytes).unwrap_or(usize::MAX));
    let flaws = check_v3(&options.replica, options.parallelism, files, progress).await;
    let findings = flaws.map_err(VerifyError::Start)?.into_iter().map(finding);
    let problems = report.problems().count();
    report.findings.splice(problems..problems, findings);
    report.v3 = Some(found);
    Ok(())
}

fn finding(flaw: Flaw) -> Finding {
    let (kind, meaning) = match flaw.kind {
        FlawKind::Damaged => (
            FindingKind::Damaged,
            "what was backed up with it and behind it cannot be restored, up to the next snapshot; states before it \
             can, with `--timestamp`",
        ),
        FlawKind::Missing => (
            FindingKind::Gap,
            "what was backed up with it and behind it cannot be restored, up to the next snapshot; states before it \
             can, with `--timestamp`",
        ),
        FlawKind::Vanished => (
            FindingKind::Vanished,
            "Litestream 0.3 still runs, most likely, and deletes what it keeps no longer; verify again",
        ),
        FlawKind::Unreadable => (
            FindingKind::Unreadable,
            "the files of Litestream 0.3 were not read to the end; try again later",
        ),
    };
    Finding::new(kind, flaw.file, flaw.problem, meaning)
}

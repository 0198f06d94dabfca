//! Two restores, compared with the source.

use std::fmt;
use std::path::Path;

use anyhow::Result;
use evertide_testkit::{compare_databases, try_restore_with_litestream};

use crate::backup::{Backup, restore};
use crate::fault::plant;
use crate::replica::{ltx_files, misfits};
use crate::run::Options;
use crate::tally::Tally;

/// The outcome of a run.
#[derive(Debug)]
#[non_exhaustive]
pub struct Verdict {
    /// The seed it followed.
    pub seed: u64,
    /// What happened.
    pub tally: Tally,
    /// What held, one sentence each.
    pub proofs: Vec<String>,
    /// What did not, one paragraph each.
    pub faults: Vec<String>,
}

impl Verdict {
    /// Whether both restores give the source.
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.tally)?;
        for proof in &self.proofs {
            writeln!(f, "ok: {proof}")?;
        }
        for fault in &self.faults {
            writeln!(f, "FAULT: {fault}")?;
        }
        let word = if self.is_good() { "passed" } else { "FAILED" };
        write!(f, "torture {word}, seed {}", self.seed)
    }
}

/// Restores with both programs and compares.
pub(crate) fn verify(
    options: &Options,
    backup: &Backup,
    mut tally: Tally,
    rng: &mut fastrand::Rng,
) -> Result<Verdict> {
    let files = ltx_files(&backup.replica)?;
    tally.ltx_files = files.len() as u64;
    tally.ltx_bytes = files.iter().map(|file| file.bytes).sum();
    count_starts(&backup.log, &mut tally);
    let mut verdict = Verdict {
        seed: options.seed,
        tally,
        proofs: Vec::new(),
        faults: Vec::new(),
    };
    match misfits(&files).as_slice() {
        [] => verdict
            .proofs
            .push("level 0 has neither gaps nor overlaps".to_owned()),
        misfits => verdict
            .faults
            .push(format!("level 0: {}", misfits.join("; "))),
    }
    if let Some(fault) = options.plant {
        println!(
            "planted {fault:?} in {}",
            plant(fault, &backup.replica, rng)?.display()
        );
    }
    let folder = backup.replica.with_file_name("restored");
    std::fs::create_dir_all(&folder)?;
    let official = folder.join("official.db");
    let outcome = try_restore_with_litestream(&backup.replica, &official).map_err(Into::into);
    verdict.judge("the official restore", outcome, &backup.database, &official);
    let ours = folder.join("ours.db");
    let outcome = restore(&backup.replica, &ours);
    verdict.judge("our restore", outcome, &backup.database, &ours);
    Ok(verdict)
}

impl Verdict {
    fn judge(&mut self, whose: &str, restored: Result<()>, source: &Path, output: &Path) {
        if let Err(error) = restored {
            self.faults.push(format!("{whose} failed: {error:#}"));
            return;
        }
        match compare_databases(source, output) {
            Ok(same) => self.proofs.push(format!(
                "{whose} gives the source: {} pages ({} of them free), {} tables, {} rows",
                same.pages, same.exempt_pages, same.tables, same.rows
            )),
            Err(error) => self.faults.push(format!("{whose}: {error}")),
        }
    }
}

/// How a start continued is never silent, so the log has it.
fn count_starts(log: &Path, tally: &mut Tally) {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    for line in text.lines() {
        tally.resumes += u64::from(line.contains("continuing where the last capture ended"));
        tally.rebases += u64::from(line.contains("re-based: "));
        tally.snapshots += u64::from(line.contains("a full snapshot is needed"));
    }
}

//! The first backup of a large database, and restoring it, beside copying it with `cp` and `fsync`.
//!
//! Every replica is in the page cache when it is restored, for both and for `cp`.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::database::fill;
use crate::process::timed;
use crate::report::{Better, Report};
use crate::subject::Subject;

/// Rounds of first backups at most: Litestream needs seconds for each.
const FIRST_BACKUPS: u32 = 3;

pub(crate) fn restore(rounds: u32, dir: &Path, mib: u64, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir_in(dir)?;
    Large::new(dir.path(), mib)?.measure(rounds, report)
}

/// A large database and its replicas.
struct Large<'a> {
    dir: &'a Path,
    mib: u64,
}

impl<'a> Large<'a> {
    fn new(dir: &'a Path, mib: u64) -> Result<Self> {
        eprintln!("restore: filling a database of {mib} MiB");
        fill(&dir.join("large.db"), mib << 20)?;
        Ok(Self { dir, mib })
    }

    fn measure(&self, rounds: u32, report: &mut Report) -> Result<()> {
        for round in 0..rounds.min(FIRST_BACKUPS) {
            eprintln!("first backup of {} MiB: round {}", self.mib, round + 1);
            for subject in Subject::BACKUPS {
                self.back_up(subject, report)?;
            }
        }
        for round in 0..rounds {
            eprintln!(
                "restore of {} MiB: round {} of {rounds}",
                self.mib,
                round + 1
            );
            for subject in Subject::ALL {
                self.restore(subject, report)?;
            }
        }
        eprintln!("restore of {} MiB: comparing what was restored", self.mib);
        check(self.dir)
    }

    fn back_up(&self, subject: Subject, report: &mut Report) -> Result<()> {
        // One each: Litestream adds tables of its own.
        let (source, replica) = (
            self.dir.join(format!("large-{subject}.db")),
            self.dir.join(format!("large-{subject}")),
        );
        super::remove(&source, &replica);
        copy(&self.dir.join("large.db"), &source)?;
        let size = std::fs::metadata(&source)?.len() as f64;
        let (took, usage) = timed(&mut subject.replicate_once(&source, &replica))?;
        eprintln!("  {subject}: {:.2} s", took.as_secs_f64());
        for (metric, unit, value) in [
            ("", "s", took.as_secs_f64()),
            (": processor time", "s", usage.cpu.as_secs_f64()),
            (": bytes read", "of its size", usage.read as f64 / size),
            (
                ": bytes written",
                "of its size",
                usage.written as f64 / size,
            ),
            (": peak memory", "MiB", mebibytes(usage.peak_rss)),
        ] {
            let name = format!("first backup of {} MiB{metric}", self.mib);
            report.add(&name, unit, Better::Lower, subject, value);
        }
        Ok(())
    }

    fn restore(&self, subject: Subject, report: &mut Report) -> Result<()> {
        let output = self.dir.join("restored.db");
        let replica = self.dir.join(format!("large-{subject}"));
        let name = format!("restore of {} MiB", self.mib);
        let took = match subject {
            Subject::Baseline => copy(&self.dir.join("large.db"), &output)?,
            _ => {
                let (took, usage) = timed(&mut subject.restore(&replica, &output))?;
                let (name, peak) = (format!("{name}: peak memory"), mebibytes(usage.peak_rss));
                report.add(&name, "MiB", Better::Lower, subject, peak);
                took
            }
        };
        eprintln!("  {subject}: {:.2} s", took.as_secs_f64());
        report.add(&name, "s", Better::Lower, subject, took.as_secs_f64());
        super::remove(&output, &self.dir.join("restored"));
        Ok(())
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A fast restore of something else would be worth nothing.
fn check(dir: &Path) -> Result<()> {
    let output = dir.join("restored.db");
    for writer in Subject::BACKUPS {
        for restorer in Subject::BACKUPS {
            timed(&mut restorer.restore(&dir.join(format!("large-{writer}")), &output))?;
            let source = dir.join(format!("large-{writer}.db"));
            evertide_testkit::compare_databases(source, &output)?;
            super::remove(&output, &dir.join("restored"));
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<Duration> {
    let started = Instant::now();
    std::fs::copy(from, to)?;
    File::open(to)?.sync_all()?;
    Ok(started.elapsed())
}

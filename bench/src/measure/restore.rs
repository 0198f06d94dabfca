//! Restoring a large database, beside copying it with `cp` and `fsync`.
//!
//! Every replica is in the page cache when it is restored, for both and for `cp`.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Options;
use crate::database::fill;
use crate::process::timed;
use crate::report::{Better, Report};
use crate::subject::Subject;

pub(crate) fn restore(options: &Options, dir: &Path, report: &mut Report) -> Result<()> {
    let mib = options.size_mib;
    eprintln!("restore: filling a database of {mib} MiB");
    let database = dir.join("large.db");
    fill(&database, mib << 20)?;
    for subject in Subject::BACKUPS {
        // One each: Litestream adds tables of its own.
        let source = dir.join(format!("large-{subject}.db"));
        copy(&database, &source)?;
        let started = Instant::now();
        subject.replicate_once(&source, &dir.join(format!("large-{subject}")))?;
        let name = format!("first backup of {mib} MiB");
        report.add(
            &name,
            "s",
            Better::Lower,
            subject,
            started.elapsed().as_secs_f64(),
        );
    }
    for round in 0..options.rounds {
        eprintln!("restore: round {} of {}", round + 1, options.rounds);
        for subject in Subject::ALL {
            let output = dir.join("restored.db");
            let replica = dir.join(format!("large-{subject}"));
            let (took, peak) = match subject {
                Subject::Baseline => (copy(&database, &output)?, None),
                _ => {
                    let (took, peak) = timed(&mut subject.restore(&replica, &output))?;
                    (took, Some(peak))
                }
            };
            let name = format!("restore of {mib} MiB");
            report.add(&name, "s", Better::Lower, subject, took.as_secs_f64());
            if let Some(peak) = peak {
                let mib = peak as f64 / f64::from(1 << 20);
                report.add(
                    "peak memory of that restore",
                    "MiB",
                    Better::Lower,
                    subject,
                    mib,
                );
            }
            super::remove(&output, &dir.join("restored"));
        }
    }
    check(dir)
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

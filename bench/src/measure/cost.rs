//! What a thousand transactions cost the backup, at 1,000 transactions a second.

use std::path::Path;

use anyhow::{Context, Result};

use crate::Options;
use crate::database::{Writer, small};
use crate::process::Usage;
use crate::report::{Better, Report};
use crate::subject::Subject;

pub(crate) fn cost(options: &Options, dir: &Path, report: &mut Report) -> Result<()> {
    for round in 0..options.rounds {
        eprintln!("cost: round {} of {}", round + 1, options.rounds);
        let mut order = Subject::BACKUPS;
        order.rotate_left(round as usize % 2);
        for subject in order {
            let name = format!("cost-{subject}-{round}");
            let (database, replica) = (dir.join(format!("{name}.db")), dir.join(&name));
            small(&database)?;
            let backup = subject.replicate(&database, &replica)?;
            let backup = backup.context("the baseline is not measured here")?;
            let (before, replica_before) = (Usage::of(backup.id())?, size(&replica)?);
            Writer::even(&database, 0, options.transactions)?.finish()?;
            // The last commits are on their way for up to an interval.
            std::thread::sleep(std::time::Duration::from_millis(1500));
            let after = Usage::of(backup.id())?;
            let replica_bytes = size(&replica)? - replica_before;
            backup.stop()?;
            let thousands = options.transactions as f64 / 1e3;
            let kib = |bytes: u64| bytes as f64 / 1024.0 / thousands;
            let cpu = (after.cpu - before.cpu).as_secs_f64() * 1e3 / thousands;
            let written = kib(after.written - before.written);
            let rss = after.peak_rss as f64 / f64::from(1 << 20);
            for (metric, unit, value) in [
                ("processor time per 1,000 transactions", "ms", cpu),
                ("bytes written per 1,000 transactions", "KiB", written),
                (
                    "replica growth per 1,000 transactions",
                    "KiB",
                    kib(replica_bytes),
                ),
                ("peak memory while replicating", "MiB", rss),
            ] {
                report.add(metric, unit, Better::Lower, subject, value);
            }
            super::remove(&database, &replica);
        }
    }
    Ok(())
}

fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // A file may be renamed or deleted while we look.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        bytes += if metadata.is_dir() {
            size(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(bytes)
}

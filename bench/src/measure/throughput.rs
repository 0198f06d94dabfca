//! Transactions per second of a writer that never pauses: without backup, with ours, with theirs.

use std::path::Path;

use anyhow::Result;

use crate::Options;
use crate::database::{Writer, small};
use crate::report::{Better, Report};
use crate::subject::Subject;

pub(crate) fn throughput(options: &Options, dir: &Path, report: &mut Report) -> Result<()> {
    for round in 0..options.rounds {
        eprintln!("throughput: round {} of {}", round + 1, options.rounds);
        for subject in in_turn(round) {
            // Both recommend 0, and both have to cope with the default. At 0 without a backup nobody
            // checkpoints at all: the fastest there is, and no setting anybody would leave alone.
            for autocheckpoint in [1000, 0] {
                let name = format!("throughput-{subject}-{autocheckpoint}-{round}");
                let database = dir.join(format!("{name}.db"));
                small(&database)?;
                let backup = subject.replicate(&database, &dir.join(&name))?;
                let speed = Writer::fast(&database, autocheckpoint, options.round())?.finish()?;
                if let Some(backup) = backup {
                    backup.stop()?;
                }
                let metric = format!("throughput, wal_autocheckpoint = {autocheckpoint}");
                report.add(&metric, "transactions/s", Better::Higher, subject, speed);
                super::remove(&database, &dir.join(&name));
            }
        }
    }
    Ok(())
}

/// Another one goes first in each round.
fn in_turn(round: u32) -> [Subject; 3] {
    let mut order = Subject::ALL;
    order.rotate_left(round as usize % Subject::ALL.len());
    order
}

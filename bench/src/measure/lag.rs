//! From commit to object, on a file replica, for commits with a second and more between them.
//!
//! The clock starts when COMMIT has returned and stops when the kernel reports the object under its
//! final name. The gaps between commits are drawn, so that they do not march in step with anybody's
//! interval.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::Options;
use crate::database::{Transactions, small};
use crate::report::{Better, Report};
use crate::subject::{Backup, Subject};

const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn lag(options: &Options, dir: &Path, report: &mut Report) -> Result<()> {
    eprintln!("lag: {} commits each", options.commits);
    let mut sides = Vec::new();
    for subject in Subject::BACKUPS {
        let database = dir.join(format!("lag-{subject}.db"));
        small(&database)?;
        let backup = subject.replicate(&database, &dir.join(format!("lag-{subject}")))?;
        let backup = backup.context("the baseline is not measured here")?;
        let events = watch(&backup)?;
        sides.push((subject, backup, events, Transactions::new(&database, 1000)?));
    }
    let mut rng = fastrand::Rng::with_seed(1);
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..options.commits {
        for (index, (subject, _, events, transactions)) in sides.iter_mut().enumerate() {
            std::thread::sleep(Duration::from_millis(rng.u64(600..1400)));
            drain(events)?;
            transactions.commit_one()?;
            let committed = Instant::now();
            wait_for_object(events, committed)?;
            let lag = committed.elapsed().as_secs_f64() * 1e3;
            report.add("lag, median", "ms", Better::Lower, *subject, lag);
            all[index].push(lag);
        }
    }
    for ((subject, ..), lags) in sides.iter().zip(&all) {
        let worst = lags.iter().copied().fold(0.0, f64::max);
        report.add("lag, worst", "ms", Better::Lower, *subject, worst);
    }
    for (_, backup, ..) in sides {
        backup.stop()?;
    }
    Ok(())
}

fn watch(backup: &Backup) -> Result<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK)?;
    // Both write under another name first, and rename.
    inotify.add_watch(&backup.level_0, AddWatchFlags::IN_MOVED_TO)?;
    Ok(inotify)
}

/// Whether an object has appeared since the last look.
fn drain(events: &Inotify) -> Result<bool> {
    match events.read_events() {
        Ok(events) => Ok(events.iter().any(|event| {
            event
                .name
                .as_ref()
                .is_some_and(|name| name.to_string_lossy().ends_with(".ltx"))
        })),
        Err(nix::errno::Errno::EAGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn wait_for_object(events: &Inotify, committed: Instant) -> Result<()> {
    while !drain(events)? {
        if committed.elapsed() > DEADLINE {
            bail!("no object appeared within {DEADLINE:?} of a commit");
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

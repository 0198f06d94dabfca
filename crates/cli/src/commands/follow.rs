//! `evertide restore --follow`

use std::{future::poll_fn, time::Duration};

use anyhow::Context;
use evertide::{FollowError, FollowEvent, FollowOptions, FollowReport, RestoreOptions, follow};
use serde::Serialize;

use super::{ended_by_signal, source::Source};
use crate::{args::RestoreArgs, output, progress::RestoreBar};

/// What `--json` prints at the end.
#[derive(Serialize)]
struct Followed {
    db_path: String,
    /// Whether the copy became ready.
    restored: bool,
    replica: String,
    location: String,
    replica_name: Option<String>,
    txid: Option<String>,
    files: u64,
}

/// Follows until SIGINT or SIGTERM, which are the good end. `None` where there is nothing to follow.
pub(super) async fn run(
    args: &RestoreArgs,
    source: &Source,
    restore: RestoreOptions,
    bar: RestoreBar,
) -> anyhow::Result<Option<FollowReport>> {
    let watched = bar.clone();
    let path = args.output.display().to_string();
    let mut options = FollowOptions::new(restore.on_progress(move |now| watched.update(now)));
    options.interval = args.follow_interval.unwrap_or(options.interval);
    let quiet = args.json;
    let options = options.on_event(move |event| tell(event, &path, &bar, quiet));
    let stop = async {
        if ended_by_signal().await.is_err() {
            // Then a signal ends the process as it does by itself.
            poll_fn(|_| std::task::Poll::<()>::Pending).await;
        }
    };
    match follow(options, stop).await {
        Ok(report) => Ok(Some(report)),
        Err(FollowError::Restore(error)) if args.if_replica_exists && error.is_no_backup() => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot follow {}", source.label())),
    }
}

/// Says what happens, on standard error: what ends up on standard output is the end.
fn tell(event: &FollowEvent, path: &str, bar: &RestoreBar, quiet: bool) {
    let said = match event {
        FollowEvent::Restored(report) => {
            bar.end();
            format!("restored {path} to transaction {}; following", report.txid)
        }
        FollowEvent::Resumed { txid } => {
            bar.end();
            format!("following {path} from transaction {txid}")
        }
        FollowEvent::Applied { txid, pages, .. } => {
            let pages = output::count(u64::from(*pages), "page");
            format!("{path} is at transaction {txid}, {pages} changed")
        }
        FollowEvent::WaitingForReaders { waited } => {
            let waited = Duration::from_secs(waited.as_secs());
            return output::complain(&format!(
                "evertide: warning: readers have kept {path} from being updated for {}; they see \
                 older data until they end their transactions",
                output::duration(waited)
            ));
        }
        FollowEvent::Failed { error, times } => {
            return output::complain(&format!(
                "evertide: warning: cannot update {path} ({} in a row), trying again: {error}",
                output::count(u64::from(*times), "time")
            ));
        }
        _ => return,
    };
    if !quiet {
        output::complain(&format!("evertide: {said}"));
    }
}

pub(super) fn print(
    args: &RestoreArgs,
    source: &Source,
    report: &FollowReport,
) -> anyhow::Result<()> {
    let FollowReport { txid, files, .. } = report;
    if args.json {
        return output::json(&Followed {
            db_path: args.output.display().to_string(),
            restored: txid.is_some(),
            replica: source.client.location(),
            location: source.client.location(),
            replica_name: source.name.clone(),
            txid: txid.map(|txid| txid.to_string()),
            files: *files,
        });
    }
    let path = args.output.display();
    output::line(match txid {
        Some(txid) => format!(
            "stopped: {path} is at transaction {txid} of {}, {} applied",
            source.label(),
            output::count(*files, "file")
        ),
        None => format!("stopped before {path} was ready"),
    })
}

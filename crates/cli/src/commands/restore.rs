//! `evertide restore`

use std::path::Path;

use anyhow::{Context, bail};
use evertide::{
    ExistingOutput, RestoreError, RestoreOptions, RestorePlan, RestoreReport, RestoreTarget,
    restore_plan,
};
use evertide_ltx::Txid;
use evertide_storage::{LtxObject, V3Object};
use serde::Serialize;

use super::source::{Source, sources};
use crate::{
    args::{IntegrityCheck, RestoreArgs},
    failure::{described, usage},
    logs, output,
    progress::{RestoreBar, Show},
};

pub(crate) fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    logs::start_quiet();
    // Before settings are read: where there is nothing to do, nothing can be in the way.
    if args.if_db_not_exists && super::exists(&args.output)? {
        return said_nothing_to_do(args, &format!("{} exists already", args.output.display()));
    }
    let sources = sources(&args.source)?;
    check_one_database(&sources)?;
    if args.follow {
        return super::block_on(follow(args, sources));
    }
    super::block_on(async {
        tokio::select! {
            done = run(args, sources) => done,
            signal = super::ended_by_signal() => Err(signal?),
        }
    })
}

async fn run(args: &RestoreArgs, sources: Vec<Source>) -> anyhow::Result<()> {
    let target = args.target();
    let (source, plan) = match newest(sources, target).await {
        Err(error) if args.if_replica_exists && is_no_backup(&error) => {
            return said_nothing_to_do(args, &error.to_string());
        }
        other => other?,
    };
    complain_of_time(args, &source, &plan);
    if args.dry_run {
        return print_plan(args, &source, &plan);
    }
    let bar = args.bar();
    let options = args.options(&source, target);
    let watched = bar.clone();
    let done = evertide::restore(options.on_progress(move |progress| watched.update(progress)));
    let done = done.await;
    bar.end();
    print_report(args, &source, &plan, &done?)
}

/// Says that a time was asked for after which the replica has nothing: it may be meant to have, and does not yet.
fn complain_of_time(args: &RestoreArgs, source: &Source, plan: &RestorePlan) {
    let (Some(time), Some(created)) = (args.timestamp, plan.created()) else {
        return;
    };
    let earlier = time.duration_since(created).unwrap_or_default();
    if plan.is_newest() && !earlier.is_zero() {
        output::complain(&format!(
            "evertide: the newest state of {} is of {}, {} earlier than asked: the database did not \
             change in between, or what changed is not on the replica",
            source.label(),
            output::time(created),
            output::duration(earlier),
        ));
    }
}

async fn follow(args: &RestoreArgs, mut sources: Vec<Source>) -> anyhow::Result<()> {
    // Several are compared; one alone need not be reachable to go on with its copy.
    let source = match (sources.len(), sources.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            sources.extend(last);
            match newest(sources, RestoreTarget::Latest).await {
                Err(error) if args.if_replica_exists && is_no_backup(&error) => {
                    return said_nothing_to_do(args, &error.to_string());
                }
                other => other?.0,
            }
        }
    };
    let options = args.options(&source, RestoreTarget::Latest);
    match super::follow::run(args, &source, options, args.bar()).await? {
        Some(report) => super::follow::print(args, &source, &report),
        None => said_nothing_to_do(args, &format!("{} has no backup", source.label())),
    }
}

/// One restore gives one database.
fn check_one_database(sources: &[Source]) -> anyhow::Result<()> {
    let mut databases: Vec<_> = sources
        .iter()
        .map(|source| source.database.as_deref())
        .collect();
    databases.dedup();
    if databases.len() <= 1 {
        return Ok(());
    }
    let paths = databases
        .iter()
        .flatten()
        .map(|path| path.display().to_string());
    Err(usage(format!(
        "the settings have several databases: say which one as the last argument, one of {}",
        paths.collect::<Vec<_>>().join(", ")
    )))
}

/// The replica that reaches furthest. One that cannot be read is passed over, with a warning, where
/// another one can.
async fn newest(
    sources: Vec<Source>,
    target: RestoreTarget,
) -> anyhow::Result<(Source, RestorePlan)> {
    let several = sources.len() > 1;
    let mut best: Option<(Source, RestorePlan)> = None;
    let mut failed = Vec::new();
    for source in sources {
        match restore_plan(source.client.clone(), target).await {
            Ok(plan)
                if best
                    .as_ref()
                    .is_none_or(|(_, best)| reaches_further(&plan, best)) =>
            {
                best = Some((source, plan));
            }
            Ok(_) => {}
            Err(error) => {
                if several {
                    let why = described(&error);
                    output::complain(&format!("evertide: replica {}: {why}", source.label()));
                }
                failed.push(error);
            }
        }
    }
    match best {
        Some(best) => Ok(best),
        None => {
            // Something damaged matters more than something empty.
            let first = failed
                .iter()
                .position(|error| !error.is_no_backup())
                .unwrap_or(0);
            match failed.into_iter().nth(first) {
                Some(error) => Err(error.into()),
                None => bail!("the settings have no replica to restore from: add one"),
            }
        }
    }
}

/// Files of Litestream 0.3 have no transaction IDs to compare: there, time decides.
fn reaches_further(plan: &RestorePlan, best: &RestorePlan) -> bool {
    if plan.v3_files().is_empty() && best.v3_files().is_empty() {
        plan.txid() > best.txid()
    } else {
        plan.created() > best.created()
    }
}

fn is_no_backup(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<RestoreError>()
        .is_some_and(RestoreError::is_no_backup)
}

/// Restores a database that is to be replicated, from the replica that reaches furthest. `None` where none has it.
///
/// To begin with less than the newest state would bury that under what is stored next: one that cannot be read may
/// have it.
pub(super) async fn restore_missing(
    database: &Path,
    sources: Vec<Source>,
) -> anyhow::Result<Option<RestoreReport>> {
    let path = database.display();
    let mut best: Option<(Source, RestorePlan)> = None;
    for source in sources {
        match restore_plan(source.client.clone(), RestoreTarget::Latest).await {
            Ok(plan) => {
                let best_yet = best.as_ref();
                if best_yet.is_none_or(|(_, best)| reaches_further(&plan, best)) {
                    best = Some((source, plan));
                }
            }
            Err(error) if error.is_no_backup() => {}
            Err(error) => {
                let label = source.label();
                return Err(error).with_context(|| {
                    format!(
                        "cannot restore {path} before replicating it: replica {label} cannot be read, and may have \
                         the newest state; start again when it can be, or restore {path} yourself first, with \
                         `evertide restore`"
                    )
                });
            }
        }
    }
    let Some((source, _)) = best else {
        return Ok(None);
    };
    let restored = evertide::restore(RestoreOptions::new(source.client.clone(), database)).await;
    let restored = restored.with_context(|| {
        let label = source.label();
        format!(
            "cannot restore {path} before replicating it from replica {label}, which has the newest state; see \
             `evertide verify`, or restore {path} yourself first, with `evertide restore`"
        )
    });
    restored.map(Some)
}

impl RestoreArgs {
    fn bar(&self) -> RestoreBar {
        RestoreBar::new(if self.no_progress {
            Show::Never
        } else {
            Show::OnTerminal
        })
    }

    fn options(&self, source: &Source, target: RestoreTarget) -> RestoreOptions {
        let mut options = RestoreOptions::new(source.client.clone(), &self.output);
        options.target = target;
        if self.force {
            options.existing = ExistingOutput::Replace;
        }
        options.integrity_check = self.integrity_check.into();
        if let Some(parallelism) = self.parallelism {
            options.parallelism = usize::from(parallelism);
        }
        options
    }

    fn target(&self) -> RestoreTarget {
        match (self.txid, self.timestamp) {
            (Some(txid), _) => RestoreTarget::Txid(txid),
            (None, Some(time)) => RestoreTarget::Timestamp(time),
            (None, None) => RestoreTarget::Latest,
        }
    }
}

impl From<IntegrityCheck> for evertide::IntegrityCheck {
    fn from(check: IntegrityCheck) -> Self {
        match check {
            IntegrityCheck::None => Self::None,
            IntegrityCheck::Quick => Self::Quick,
            IntegrityCheck::Full => Self::Full,
        }
    }
}

impl IntegrityCheck {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

/// What `--json` prints where there was nothing to do.
#[derive(Serialize)]
struct Skipped<'a> {
    db_path: String,
    restored: bool,
    reason: &'a str,
}

fn said_nothing_to_do(args: &RestoreArgs, reason: &str) -> anyhow::Result<()> {
    if args.json {
        let db_path = args.output.display().to_string();
        return output::json(&Skipped {
            db_path,
            restored: false,
            reason,
        });
    }
    output::line(format!("nothing to restore: {reason}"))
}

/// What `--json` prints after a restore: Litestream's names, and more.
#[derive(Serialize)]
struct Restored<'a> {
    db_path: String,
    restored: bool,
    replica: String,
    /// The same, as each form has it: a dry run has the name in `replica`, as Litestream.
    location: String,
    replica_name: Option<&'a str>,
    /// Litestream 0.3 has none.
    txid: Option<String>,
    /// The last file of Litestream 0.3 that was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    v3_file: Option<&'a str>,
    timestamp: Option<String>,
    /// Whether the replica has no newer state.
    newest: bool,
    files: u64,
    bytes: u64,
    database_bytes: u64,
    duration_ms: u128,
    integrity_check: &'a str,
}

fn print_report(
    args: &RestoreArgs,
    source: &Source,
    plan: &RestorePlan,
    report: &RestoreReport,
) -> anyhow::Result<()> {
    let created = report.created.map(output::time);
    let v3_file = plan.v3_files().last().map(|file| file.key.as_str());
    if args.json {
        return output::json(&Restored {
            db_path: args.output.display().to_string(),
            restored: true,
            replica: source.client.location(),
            location: source.client.location(),
            replica_name: source.name.as_deref(),
            txid: v3_file.is_none().then(|| report.txid.to_string()),
            v3_file,
            timestamp: created,
            newest: plan.is_newest(),
            files: report.files,
            bytes: report.bytes,
            database_bytes: report.database_bytes,
            duration_ms: report.duration.as_millis(),
            integrity_check: args.integrity_check.name(),
        });
    }
    let checked = match args.integrity_check {
        IntegrityCheck::None => String::new(),
        check => format!(", {} integrity check passed", check.name()),
    };
    output::line(format!(
        "restored {} from {}: {} of {}, {} with {} read, a database of {}, in {}{checked}",
        args.output.display(),
        source.label(),
        state(plan, report.txid),
        created.as_deref().unwrap_or("unknown time"),
        output::count(report.files, "file"),
        output::bytes(report.bytes),
        output::bytes(report.database_bytes),
        output::duration(report.duration),
    ))
}

/// How messages call the state that is restored.
fn state(plan: &RestorePlan, txid: Txid) -> String {
    match plan.v3_files().last() {
        Some(last) => format!("the state after {} (Litestream 0.3)", last.key),
        None => format!("transaction {txid}"),
    }
}

/// What `--dry-run --json` prints: Litestream's names.
#[derive(Serialize)]
struct Plan {
    source: String,
    target_path: String,
    replica: Option<String>,
    db_path: String,
    restored: bool,
    location: String,
    replica_name: Option<String>,
    /// Litestream 0.3 has none.
    min_txid: Option<String>,
    max_txid: Option<String>,
    timestamp: Option<String>,
    newest: bool,
    bytes: u64,
    files: Vec<PlanFile>,
}

#[derive(Serialize)]
struct PlanFile {
    level: Option<u8>,
    name: String,
    min_txid: Option<String>,
    max_txid: Option<String>,
    size: u64,
    timestamp: String,
}

impl From<&LtxObject> for PlanFile {
    fn from(object: &LtxObject) -> Self {
        Self {
            level: Some(object.level.get()),
            name: object.name.to_string(),
            min_txid: Some(object.name.min.to_string()),
            max_txid: Some(object.name.max.to_string()),
            size: object.size,
            timestamp: output::time(object.created),
        }
    }
}

impl From<&V3Object> for PlanFile {
    fn from(object: &V3Object) -> Self {
        Self {
            level: None,
            name: object.key.to_string(),
            min_txid: None,
            max_txid: None,
            size: object.size,
            timestamp: output::time(object.created),
        }
    }
}

fn print_plan(args: &RestoreArgs, source: &Source, plan: &RestorePlan) -> anyhow::Result<()> {
    let v3 = plan.v3_files().iter().map(PlanFile::from);
    let files = plan.files().iter().map(PlanFile::from).chain(v3);
    let txid = |txid: Txid| plan.v3_files().is_empty().then(|| txid.to_string());
    if args.json {
        return output::json(&Plan {
            source: source.client.location(),
            target_path: args.output.display().to_string(),
            replica: source.name.clone(),
            db_path: args.output.display().to_string(),
            restored: false,
            location: source.client.location(),
            replica_name: source.name.clone(),
            min_txid: txid(Txid::FIRST),
            max_txid: txid(plan.txid()),
            timestamp: plan.created().map(output::time),
            newest: plan.is_newest(),
            bytes: plan.bytes(),
            files: files.collect(),
        });
    }
    let mut table = output::table(["LEVEL", "FILE", "SIZE", "CREATED"], &[0, 2]);
    for file in files {
        table.add_row([
            file.level.map_or("-".to_owned(), |level| level.to_string()),
            file.name,
            file.size.to_string(),
            file.timestamp,
        ]);
    }
    output::print_table(&table)?;
    output::line(format!(
        "would restore {} from {} to {}: {}, {}",
        args.output.display(),
        source.label(),
        state(plan, plan.txid()),
        output::count(plan.file_count(), "file"),
        output::bytes(plan.bytes()),
    ))
}

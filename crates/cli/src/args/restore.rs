//! Arguments of `restore`.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, ValueEnum};
use evertide_ltx::Txid;
use evertide_server::settings::parse_duration;
use jiff::Timestamp;

use super::SourceArgs;

/// More often would only keep the store busy.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

#[derive(Debug, Args)]
#[command(
    override_usage = "\
evertide restore [OPTIONS] -o OUT REPLICA_URL
       evertide restore [OPTIONS] -o OUT --age-key KEY --db DB [--replica NAME]
       evertide restore [OPTIONS] -o OUT --config FILE [DB]",
    after_long_help = "\
Examples:
  evertide restore file:///backup/app -o app.db
  evertide restore --age-key age.key --db app.db -o /tmp/copy.db
  evertide restore --config litestream.yml /srv/app.db -o /srv/app.db --if-db-not-exists
  evertide restore /backup/app -o old.db --timestamp 2026-11-22T18:30:00Z
  evertide restore /backup/app -o app.db --dry-run --json
  evertide restore /backup/app -o copy.db --follow

The database is built in a temporary file beside OUT, checked, and renamed only then: OUT is never
there in part. Nothing stays behind when a restore fails. A file at OUT is replaced only with
--force. What --follow makes can be read all the time, and a later --follow goes on with it;
docs/follow.md says how.

With --json each form prints db_path and restored, and besides
  a restore     location, replica_name (null for a URL), replica (as location), txid, v3_file (of
                Litestream 0.3 only), timestamp, newest, files, bytes, database_bytes, duration_ms,
                integrity_check
  --dry-run     location, replica_name, source (as location), target_path (as db_path), replica (as
                replica_name), min_txid, max_txid, timestamp, newest, bytes, files (each with level,
                name, min_txid, max_txid, size, timestamp)
  --follow      location, replica_name, replica (as location), txid, files; when it ends
  nothing done  reason, with --if-db-not-exists or --if-replica-exists"
)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// The database to write
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Restore the newest state at this time or before, as in 2026-11-22T18:30:00Z
    #[arg(long, value_name = "RFC3339", value_parser = parse_time, conflicts_with = "txid")]
    pub(crate) timestamp: Option<SystemTime>,
    /// Restore the state after this transaction
    #[arg(long, value_name = "HEX", value_parser = parse_txid)]
    pub(crate) txid: Option<Txid>,
    /// Do nothing, and succeed, if OUT exists
    #[arg(long, conflicts_with = "force")]
    pub(crate) if_db_not_exists: bool,
    /// Do nothing, and succeed, if the replica has no backup
    #[arg(long)]
    pub(crate) if_replica_exists: bool,
    /// Replace OUT if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Have SQLite check the restored database before it gets its name
    #[arg(
        long,
        value_enum,
        value_name = "none|quick|full",
        default_value = "none",
        hide_possible_values = true
    )]
    pub(crate) integrity_check: IntegrityCheck,
    /// Requests to the replica at the same time, 8 if not given; they share what memory there is for them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) parallelism: Option<u16>,
    /// Keep OUT current, until SIGINT or SIGTERM
    #[arg(long, conflicts_with_all = ["timestamp", "txid", "dry_run", "if_db_not_exists"])]
    pub(crate) follow: bool,
    /// How often to look for new files, 1s if not given
    #[arg(long, value_name = "DURATION", requires = "follow", value_parser = parse_interval)]
    pub(crate) follow_interval: Option<Duration>,
    /// Say what would be restored, and restore nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    /// Show no progress
    #[arg(long)]
    pub(crate) no_progress: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum IntegrityCheck {
    None,
    Quick,
    Full,
}

fn parse_time(text: &str) -> Result<SystemTime, String> {
    let time: Result<Timestamp, _> = text.parse();
    let example = "expected a time with its zone, as in 2026-11-22T18:30:00Z";
    time.map(SystemTime::from)
        .map_err(|error| format!("{error}; {example}"))
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(interval) if interval >= SHORTEST_INTERVAL => Ok(interval),
        Ok(_) => Err("expected 10ms at least, as in 500ms or 5s".to_owned()),
        Err(error) => Err(format!("{error}; expected a time such as 500ms or 5s")),
    }
}

fn parse_txid(text: &str) -> Result<Txid, String> {
    // Shorter ones are what people type; `from_str_radix` alone would take a sign.
    let digits = text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
    value
        .filter(|value| *value > 0)
        .map(Txid::new)
        .ok_or_else(|| {
            "expected up to 16 hex digits, above 0, as `evertide ltx` shows them".to_owned()
        })
}

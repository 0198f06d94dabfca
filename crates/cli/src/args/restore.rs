//! Arguments of `restore`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::SourceArgs;

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
  evertide restore /backup/app -o app.db --dry-run --json

The database is built in a temporary file beside OUT, checked, and renamed only then: OUT is never
there in part. Nothing stays behind when a restore fails. A file at OUT is replaced only with
--force. With --json: db_path, replica, txid, files, bytes, database_bytes, duration_ms and \
 integrity_check."
)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// The database to write
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
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
    /// Files to read at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) parallelism: Option<u16>,
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

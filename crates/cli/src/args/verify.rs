//! Arguments of `verify`.

use clap::Args;

use super::SourceArgs;

#[derive(Debug, Args)]
#[command(
    override_usage = "\
evertide verify [OPTIONS] REPLICA_URL
       evertide verify [OPTIONS] --age-key KEY --db DB [--replica NAME]
       evertide verify [OPTIONS] --config FILE [DB]",
    after_long_help = "\
Examples:
  evertide verify file:///backup/app
  evertide verify --age-key age.key --db app.db --json
  evertide verify --config litestream.yml /srv/app.db
  evertide verify --deep file:///backup/app          restore it too, to a temporary place

Reads every file of the replica once and restores nothing: every checksum, the page index of every
file, that the files lead from a snapshot to the newest transaction without a gap and hold every page
of the database, and that files of different levels agree where they hold the same transactions. Where the checksum
of the database was recorded when it was captured, it is compared with that too.
Needs 12 bytes for each page of the database in the directory for temporary files (TMPDIR). With
--deep also restores the newest state there, has SQLite check the whole database, compares its
checksum, and removes it: that needs room for the database.

Exit status 0 if every replica is sound, 1 if one is not. Problems and notes name the object, what is
wrong with it, and which states cannot be restored because of it. With --json: sound, and for each
of replicas its replica, database, sound, error, txid, timestamp, states, proven, files, bytes,
page_size, pages, database_checksum, restored, duration_ms and findings, each with severity, kind, object, problem and
meaning."
)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Also restore the newest state, check it and compare it
    #[arg(long)]
    pub(crate) deep: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

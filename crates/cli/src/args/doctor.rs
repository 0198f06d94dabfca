//! Arguments of `doctor`.

use clap::Args;

use super::SourceArgs;

#[derive(Debug, Args)]
#[command(
    override_usage = "\
evertide doctor [OPTIONS] REPLICA_URL
       evertide doctor [OPTIONS] --age-key KEY --db DB [--replica NAME]
       evertide doctor [OPTIONS] --config FILE [DB]",
    after_long_help = "\
Examples:
  evertide doctor 's3://bucket/app?region=eu-central-1'
  evertide doctor --age-key age.key --db app.db --replica s3 --json
  evertide doctor --config litestream.yml

Tries what replication and restores need: to list, store, read and delete, to create and to replace
on condition; and compares the store's clock with this one. What does not work is shown with what
that means and what to do. Only one small object is stored, in evertide/ below the replica's root,
and it is deleted again: LTX files are not touched, and a replica that is in use may be examined.

Exit status 0 if all of it works, 1 if something does not. With --json: works, and for each of
replicas its replica, database, works, clock_ahead_ms and checks, each with check, outcome (works,
fails, ignored, skewed, not_promised, untried), problem and meaning."
)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

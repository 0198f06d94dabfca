//! Arguments of `replicate`, and of logs.

use clap::{Args, ValueEnum};

use super::{SettingsArgs, SettingsFrom};
use crate::failure::usage;

#[derive(Debug, Args)]
#[command(
    override_usage = "\
evertide replicate [OPTIONS] DB REPLICA_URL...
       evertide replicate [OPTIONS] --age-key KEY --db DB [--scope SCOPE]
       evertide replicate [OPTIONS] --config FILE [--age-key KEY] [DB]",
    after_long_help = "\
Examples:
  evertide replicate app.db file:///backup/app              no settings at all
  evertide replicate app.db /backup/app /mnt/nas/app        to two replicas
  evertide replicate --age-key age.key --db app.db          settings stored in the database
  evertide replicate --config litestream.yml                settings of Litestream
  evertide replicate --exec 'myapp --port 80' app.db /backup/app
  evertide replicate --once app.db /backup/app              bring the replica up to date, then end

Runs until SIGINT or SIGTERM, which replicate what is committed and then end it; a second one ends
it at once. SIGHUP reads the settings again. A database that does not exist yet is waited for. It
gets no table, no page and no row from this; it is switched to WAL mode if it is not in it."
)]
pub(crate) struct ReplicateArgs {
    /// The database, then one or more replicas
    #[arg(value_name = "DB REPLICA_URL", num_args = 0..)]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// Bring the replicas up to date, then end
    #[arg(long, conflicts_with = "exec")]
    pub(crate) once: bool,
    /// Run this command while replicating, and end when it ends, with its last commits replicated
    #[arg(long, value_name = "CMD")]
    pub(crate) exec: Option<String>,
    /// Restore each database that does not exist from its replica with the newest state, before
    /// anything else; one that cannot be read ends it
    #[arg(long)]
    pub(crate) restore_if_db_not_exists: bool,
    /// Go on with these databases on replicas that another database has written, or a copy that went
    /// on elsewhere; what those have can still be restored by its time
    #[arg(long)]
    pub(crate) take_over: bool,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// What is logged, on standard error, and how.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct LogArgs {
    /// Least level to log
    #[arg(long, value_enum, value_name = "L", default_value = "info")]
    pub(crate) log_level: LogLevel,
    /// Form of the log
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// What to replicate.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReplicateFrom<'a> {
    Arguments {
        database: &'a str,
        urls: &'a [String],
    },
    /// With the database of settings that name none.
    Settings {
        from: SettingsFrom<'a>,
        database: Option<&'a str>,
    },
}

impl ReplicateArgs {
    /// The one form that was meant.
    pub(crate) fn resolve(&self) -> anyhow::Result<ReplicateFrom<'_>> {
        let Some(settings) = self.settings.resolve()? else {
            return self.arguments();
        };
        match (self.targets.as_slice(), settings) {
            ([], from) => Ok(ReplicateFrom::Settings {
                from,
                database: None,
            }),
            ([database], from @ SettingsFrom::File { .. }) => Ok(ReplicateFrom::Settings {
                from,
                database: Some(database),
            }),
            ([extra, ..], _) => Err(usage(format!(
                "both `{extra}` and settings are given: the settings say what to replicate, and \
                 so does the \
                 command line; leave one of them out"
            ))),
        }
    }

    fn arguments(&self) -> anyhow::Result<ReplicateFrom<'_>> {
        match self.targets.as_slice() {
            [] => Err(usage(
                "nothing to replicate is given: expected DB REPLICA_URL..., or --age-key with \
                 --db, or --config",
            )),
            [database] => Err(usage(format!(
                "no replica is given for {database}: expected a replica URL after it, such as \
                 file:///backup/app"
            ))),
            [database, urls @ ..] => Ok(ReplicateFrom::Arguments { database, urls }),
        }
    }
}

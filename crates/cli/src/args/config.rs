//! Arguments for settings that are stored in a database.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use evertide::CONFIG_SCOPE;

use super::SettingsFormat;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  evertide insert-config --age-key age.key --db app.db --file litestream.blueprint.toml
  evertide insert-config --age-key age.key --db app.db --file litestream.yml --desc 'second bucket'

The settings are checked first; a mistake stores nothing, and all mistakes are reported at once,
each with its key and line. They are encrypted to the first public key of the key file and stored \
 as the
newest version; older versions stay. An application that runs takes them over on SIGHUP, or when it
starts next.")]
pub(crate) struct InsertConfigArgs {
    #[command(flatten)]
    pub(crate) stored: Stored,
    /// File with the settings
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Scope to store them under
    #[arg(long, value_name = "SCOPE", default_value = CONFIG_SCOPE)]
    pub(crate) scope: String,
    /// Format of the file; from its extension if not given
    #[arg(
        long,
        value_enum,
        value_name = "toml|yaml",
        hide_possible_values = true
    )]
    pub(crate) format: Option<SettingsFormat>,
    /// A note on what changed
    #[arg(long, value_name = "TEXT")]
    pub(crate) desc: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_long_help = "\
Examples:
  evertide config scopes --age-key age.key --db app.db
  evertide config list --age-key age.key --db app.db
  evertide config dump --age-key age.key --db app.db --generation 1
  evertide config diff --age-key age.key --db app.db
  evertide config rollback --age-key age.key --db app.db --generation 1

Generation 0 is the newest version, 1 the one before it, and so on. Nothing is ever changed or
deleted: a rollback stores the older version once more."
)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// List the scopes that have settings
    Scopes {
        #[command(flatten)]
        stored: Stored,
        /// List this scope only
        #[arg(long, value_name = "SCOPE")]
        scope: Option<String>,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// List the versions of a scope, newest first
    List {
        #[command(flatten)]
        scoped: Scoped,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print settings, decrypted, on standard output
    Dump {
        #[command(flatten)]
        scoped: Scoped,
        /// Version: 0 is the newest
        #[arg(long, value_name = "N", default_value_t = 0)]
        generation: u32,
    },
    /// Show what changed between two versions
    Diff {
        #[command(flatten)]
        scoped: Scoped,
        /// The older version
        #[arg(long, value_name = "N", default_value_t = 1)]
        generation: u32,
        /// The newer version
        #[arg(long, value_name = "N", default_value_t = 0)]
        to: u32,
    },
    /// Store an older version again, as the newest
    Rollback {
        #[command(flatten)]
        scoped: Scoped,
        /// Version to go back to, at least 1
        #[arg(long, value_name = "N", default_value_t = 1)]
        generation: u32,
    },
    /// Write settings to an age-encrypted file, for --config on another machine
    Export {
        #[command(flatten)]
        scoped: Scoped,
        /// Version: 0 is the newest
        #[arg(long, value_name = "N", default_value_t = 0)]
        generation: u32,
        /// The file to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Encrypt the newest settings of every scope again, to the first public key of the key file
    Rekey {
        #[command(flatten)]
        stored: Stored,
        /// Those of this scope only
        #[arg(long, value_name = "SCOPE")]
        scope: Option<String>,
    },
}

/// A store of settings.
#[derive(Debug, Args)]
pub(crate) struct Stored {
    /// age key file
    #[arg(long, value_name = "KEY")]
    pub(crate) age_key: PathBuf,
    /// Database that holds the settings
    #[arg(long, value_name = "DB")]
    pub(crate) db: PathBuf,
}

/// One scope of a store.
#[derive(Debug, Args)]
pub(crate) struct Scoped {
    #[command(flatten)]
    pub(crate) stored: Stored,
    /// Scope the settings are stored under
    #[arg(long, value_name = "SCOPE", default_value = CONFIG_SCOPE)]
    pub(crate) scope: String,
}

//! The command line: what may be written, and what its help says.

mod config;
mod doctor;
mod replicate;
mod restore;
mod source;
mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, builder::Styles};
use evertide_ltx::Level;

pub(crate) use self::{
    config::{ConfigArgs, ConfigCommand, InsertConfigArgs, Scoped, Stored},
    doctor::DoctorArgs,
    replicate::{LogArgs, LogFormat, LogLevel, ReplicateArgs, ReplicateFrom},
    restore::{IntegrityCheck, RestoreArgs},
    source::{SettingsArgs, SettingsFrom, SourceArgs, SourceFrom},
    verify::VerifyArgs,
};

/// Continuous backup of SQLite databases.
///
/// Evertide copies every commit of a SQLite database to one or more replicas while the application
/// runs, and gives the database back with one command. Replicas have the format of Litestream 0.5:
/// either program restores what the other one wrote.
#[derive(Debug, Parser)]
#[command(
    name = "evertide",
    version,
    styles = Styles::plain(),
    max_term_width = 100,
    arg_required_else_help = true,
    subcommand_required = true,
    disable_help_subcommand = false,
    after_long_help = "\
Examples:
  evertide demo                                     see the whole story on this machine, in seconds
  evertide replicate app.db file:///backup/app      copy every commit of app.db, until stopped
  evertide restore file:///backup/app -o app.db     get it back

Exit status:
  0  done
  1  failed; standard error says what, and what to do
  2  wrong usage; nothing was done"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See the whole story on this machine: configure, serve, write, kill, restore, verify
    Demo(DemoArgs),
    /// The application of the demo; not for use by hand
    #[command(name = "demo-app", hide = true)]
    DemoApp(DemoAppArgs),
    /// Make an age key, with which settings are encrypted
    Keygen(KeygenArgs),
    /// Write a commented TOML file to fill in
    GenerateBlueprintConfig(BlueprintArgs),
    /// Check settings and store them encrypted in the database
    InsertConfig(InsertConfigArgs),
    /// Look at, compare, roll back or re-encrypt stored settings
    Config(ConfigArgs),
    /// Copy every commit of databases to their replicas
    Replicate(ReplicateArgs),
    /// Get a database back from a replica
    Restore(RestoreArgs),
    /// List the LTX files of a replica
    Ltx(LtxArgs),
    /// Prove that a replica can be restored
    Verify(VerifyArgs),
    /// Try what a destination can do
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  evertide demo
  evertide demo --dir /tmp/evertide-demo    keep what it made, to look around

The demo runs a real web application in a process of its own, kills it without warning in the middle
of writes, deletes its database, and restores it. It opens one port, on the loopback interface, and
leaves nothing behind unless --dir is given.")]
pub(crate) struct DemoArgs {
    /// Work in this directory, which must be empty or not exist, and keep what is made
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoAppArgs {
    #[arg(long)]
    pub(crate) db: PathBuf,
    #[arg(long)]
    pub(crate) age_key: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  evertide keygen                        writes age.key
  evertide keygen -o /etc/app/age.key

The file is readable by its owner alone (mode 0600) and in the format of age-keygen, which can be
used instead. The public key is printed on standard output. A file that exists is never overwritten:
with it would go everything that was encrypted to it.

Keep a copy of the key away from the machine: the settings in a restored database are encrypted to
it.")]
pub(crate) struct KeygenArgs {
    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = "age.key")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  evertide generate-blueprint-config
  evertide generate-blueprint-config -o settings.toml
  evertide generate-blueprint-config -o -                  to standard output

Every key is explained by a comment; those that may be left out are commented out, with their
default. Fill in the placeholders, store the file with `evertide insert-config`, then delete it: it
may hold credentials. A file that exists is not overwritten.")]
pub(crate) struct BlueprintArgs {
    /// The file to write, `-` for standard output
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "litestream.blueprint.toml"
    )]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  evertide ltx file:///backup/app
  evertide ltx --level 9 /backup/app                        snapshots only
  evertide ltx --age-key age.key --db app.db --json
  evertide ltx --config evertide.toml app.db

Level 0 holds one file per sync, 1 to 8 compacted ones, 9 snapshots. With --json: one array, sorted
by replica, level and transaction, each entry with replica, level, min_txid, max_txid, size (bytes)
and timestamp (RFC 3339).")]
pub(crate) struct LtxArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// The level to list
    #[arg(long, value_name = "0..9|all", default_value = "all", value_parser = parse_levels)]
    pub(crate) level: Levels,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  evertide completions bash > /etc/bash_completion.d/evertide
  evertide completions fish > ~/.config/fish/completions/evertide.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Which levels of a replica.
#[derive(Clone, Debug)]
pub(crate) enum Levels {
    All,
    One(Level),
}

impl Levels {
    pub(crate) fn iter(&self) -> Vec<Level> {
        match self {
            Self::All => Level::all().collect(),
            Self::One(level) => vec![*level],
        }
    }
}

fn parse_levels(text: &str) -> Result<Levels, String> {
    if text == "all" {
        return Ok(Levels::All);
    }
    let level = text.parse().ok().and_then(Level::new);
    level
        .map(Levels::One)
        .ok_or_else(|| "expected a level from 0 to 9, or `all`".to_owned())
}

/// A format of settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum SettingsFormat {
    Toml,
    #[value(alias = "yml")]
    Yaml,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_has_no_contradiction() {
        Cli::command().debug_assert();
    }
}

//! Everything a developer of Evertide does, as one command: `cargo xtask help`.

// A task talks to the person who started it, and reads and writes the checkout itself.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

mod cargo;
mod check;
mod documents;
mod run;
mod steps;
mod test;
mod tools;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Everything a developer of Evertide does.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    max_term_width = 100
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Everything CI checks: every task below except `advisories` and `bench`.
    ///
    /// Goes on after a failure, so that one run shows everything there is to mend, and ends with
    /// the number of tests and checks that passed and failed.
    Test(test::Options),
    /// Install what the tests need: Litestream 0.5.17 and 0.3.13 and cargo-deny into `.cache`, and
    /// Debian's `age` (which needs root, once).
    Install,
    /// Format every crate with rustfmt.
    Fmt {
        /// Change nothing, and fail when something would change.
        #[arg(long)]
        check: bool,
    },
    /// Clippy on everything, warnings denied.
    Lint,
    /// Build the documentation, warnings denied; it is then in target/doc.
    Doc {
        /// Show it in a browser.
        #[arg(long)]
        open: bool,
    },
    /// Check the documents: links lead somewhere, commands exist, and every test that
    /// docs/invariants.md names exists.
    Documents,
    /// Check licences, banned crates and sources against deny.toml.
    Deny,
    /// Check the dependencies for published advisories; needs the network, so CI does not.
    Advisories,
    /// Unit, integration, interoperability and doc tests of the workspace.
    Unit {
        /// Arguments for `cargo test`, as in `cargo xtask unit -- -p evertide-ltx merge`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run an application of each other driver with its backup inside: sqlx, diesel, an older
    /// rusqlite.
    Drivers,
    /// Fuzz the parsers of outside bytes, beginning with the golden files.
    Fuzz {
        /// How long.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// Random writers, the backup killed again and again, and at the end two restores compared.
    #[command(disable_help_flag = true)]
    Torture {
        /// See `cargo xtask torture --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The demo of the README, in release mode.
    Demo,
    /// Measure Evertide beside Litestream 0.5.17, in release mode.
    #[command(disable_help_flag = true)]
    Bench {
        /// See `cargo xtask bench --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// The names of all tasks, for the check of the documents.
fn task_names() -> Vec<String> {
    Arguments::command()
        .get_subcommands()
        .map(|task| task.get_name().to_owned())
        .collect()
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Test(options) => test::everything(&options),
        Task::Install => tools::install(),
        Task::Fmt { check } => check::fmt(check),
        Task::Lint => check::lint(),
        Task::Doc { open } => check::doc(open),
        Task::Documents => documents::check(),
        Task::Deny => check::deny(),
        Task::Advisories => check::advisories(),
        Task::Unit { arguments } => run::unit(&arguments),
        Task::Drivers => run::drivers(),
        Task::Fuzz { seconds } => run::fuzz(seconds),
        Task::Torture { arguments } => run::torture(&arguments),
        Task::Demo => run::demo(),
        Task::Bench { arguments } => run::bench(&arguments),
    };
    match outcome {
        Ok(tally) if tally.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! Everything a developer of Evertide does, as one command: `cargo xtask help`.

// A task talks to the person who started it, and reads and writes the checkout itself.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

mod cargo;
mod check;
mod coverage;
mod documents;
mod features;
mod fuzz;
mod heard;
mod mutants;
mod planted;
mod run;
mod soak;
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
    /// Everything CI checks: every task below except `advisories`, `bench` and `demo`, which need a release build or
    /// the network (the tests run the demo, too), and the long forms `features`, `soak`, `model`, `planted` and
    /// `mutants`.
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
    /// Compile the crates with each store alone, and print how many crates that takes. (The numbers are
    /// part of the normal run.)
    Features,
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
    /// Fuzz every parser of outside bytes, beginning with the committed corpora.
    ///
    /// Prints for each target its seed, how many inputs it had, and the measure of coverage: how
    /// many distinct outcomes (errors, or kinds of acceptance) they reached, with the commonest.
    Fuzz {
        /// How long each target runs; two run at a time.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Only this target; may be given again.
        #[arg(long, value_name = "NAME")]
        target: Vec<String>,
        /// The seed of every target; drawn without it.
        #[arg(long)]
        seed: Option<u64>,
        /// Also count which lines of the parsers are reached. Builds into `target/coverage`, and needs
        /// `rustup component add llvm-tools`.
        #[arg(long)]
        coverage: bool,
    },
    /// Random writers, the backup killed again and again, and at the end two restores compared.
    #[command(disable_help_flag = true)]
    Torture {
        /// See `cargo xtask torture --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Put faults into a copy of the tree, one at a time, and see that the tests named for each fail.
    ///
    /// Fails where a fault survives or no longer applies. That each still applies is a test of the
    /// normal run.
    Planted {
        /// Only these.
        #[arg(value_name = "NAME")]
        only: Vec<String>,
        /// Everything random in the tests follows from it; drawn and printed without it.
        #[arg(long)]
        seed: Option<u64>,
    },
    #[command(about = soak::about())]
    Soak {
        /// How long; a fraction is possible.
        #[arg(long, default_value_t = 1.0)]
        hours: f64,
        /// Everything random follows from it; drawn and printed without it.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Check the model of the pin protocol within large bounds; takes ten minutes, in release mode.
    Model {
        /// Progress in a drawn order follows from it; drawn and printed without it.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Mutation testing of the core decisions, with cargo-mutants; takes hours. Results and the
    /// arguments for survivors are in docs/mutants.md.
    Mutants {
        /// Only those of these decisions: ltx, lease, engine, succession, maintenance, segments.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Everything random in the tests follows from it; drawn and printed without it.
        #[arg(long)]
        seed: Option<u64>,
        /// Arguments for cargo-mutants, as in `cargo xtask mutants -- --list`.
        #[arg(last = true)]
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
        Task::Features => features::check(),
        Task::Deny => check::deny(),
        Task::Advisories => check::advisories(),
        Task::Unit { arguments } => run::unit(&arguments, None),
        Task::Drivers => run::drivers(),
        Task::Fuzz {
            seconds,
            target,
            seed,
            coverage,
        } => match coverage {
            true => fuzz::coverage(seconds, &target, seed),
            false => fuzz::fuzz(seconds, &target, seed),
        },
        Task::Torture { arguments } => run::torture(&arguments),
        Task::Planted { only, seed } => planted::planted(&only, seed),
        Task::Soak { hours, seed } => soak::soak(hours, seed),
        Task::Model { seed } => soak::model(seed),
        Task::Mutants {
            names,
            seed,
            arguments,
        } => mutants::mutants(&names, seed, &arguments),
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

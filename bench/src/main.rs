//! Benchmarks of Evertide beside Litestream 0.5.17: `cargo xtask bench`.
//!
//! Both are measured through their real programs, in one run and interleaved, so that whatever else
//! the machine does meets both. Each number is the median of its rounds; `--json` has every sample.

#![allow(clippy::print_stdout, clippy::disallowed_methods)] // A program that measures files.

mod database;
mod measure;
mod process;
mod report;
mod subject;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use report::{Printer, Report};
use subject::Subject;

/// Measure Evertide beside Litestream 0.5.17.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    max_term_width = 100
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The writer of a measurement, in a process of its own.
    #[command(hide = true)]
    Writer(database::WriterArguments),
}

/// What to measure, and how thoroughly.
#[derive(Debug, Args)]
struct Options {
    /// Rounds of each measurement; every round has every subject.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each round that measures throughput. A few measure the page cache: a WAL that never
    /// starts over slows down only when its pages have to be written to the disk.
    #[arg(long, default_value_t = 12)]
    seconds: u64,
    /// Commits whose lag is measured, for each subject.
    #[arg(long, default_value_t = 30)]
    commits: u32,
    /// Transactions of each round that measures cost.
    #[arg(long, default_value_t = 5000)]
    transactions: u64,
    /// Sizes of the databases that are backed up for the first time and restored, in MiB, as in
    /// `100,1024,3072`.
    #[arg(long, value_delimiter = ',', default_value = "1024")]
    size_mib: Vec<u64>,
    /// Measure only these, out of lag, throughput, cost and restore.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the databases and replicas are, in a folder that is deleted afterwards.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// Print one JSON document at the end instead of the table, whose rows come as they are known.
    #[arg(long)]
    json: bool,
}

/// A part of the run whose results are printed when it has ended.
#[derive(Debug, Clone, Copy)]
enum Step {
    Lag,
    Throughput,
    Cost,
    /// First backup and restore of a database of this size.
    Restore {
        mib: u64,
    },
}

impl Step {
    fn measure(self, options: &Options, dir: &Path, report: &mut Report) -> Result<()> {
        match self {
            Self::Lag => measure::lag(options, dir, report),
            Self::Throughput => measure::throughput(options, dir, report),
            Self::Cost => measure::cost(options, dir, report),
            Self::Restore { mib } => measure::restore(options.rounds, dir, mib, report),
        }
    }
}

impl Options {
    fn steps(&self) -> Vec<Step> {
        let once = [
            ("lag", Step::Lag),
            ("throughput", Step::Throughput),
            ("cost", Step::Cost),
        ];
        let sizes = self
            .size_mib
            .iter()
            .map(|mib| ("restore", Step::Restore { mib: *mib }));
        let all = once.into_iter().chain(sizes);
        all.filter(|(name, _)| self.measures(name))
            .map(|(_, step)| step)
            .collect()
    }

    fn measures(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    fn round(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.command {
        Some(Command::Writer(writer)) => writer.run(),
        None => bench(&arguments.options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(options: &Options) -> Result<()> {
    for only in &options.only {
        let known = ["lag", "throughput", "cost", "restore"];
        anyhow::ensure!(
            known.contains(&&**only),
            "--only takes {}",
            known.join(", ")
        );
    }
    Subject::prepare()?;
    std::fs::create_dir_all(&options.dir)?;
    let dir = tempfile::tempdir_in(std::fs::canonicalize(&options.dir)?)?;
    let (mut report, mut printer) = (Report::default(), Printer::default());
    for step in options.steps() {
        step.measure(options, dir.path(), &mut report)?;
        if !options.json {
            printer.print(&report, &mut std::io::stdout())?;
        }
    }
    if options.json {
        println!("{}", report.to_json());
    } else {
        Printer::explain(&mut std::io::stdout())?;
    }
    Ok(())
}

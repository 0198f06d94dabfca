//! Everything CI checks.

use anyhow::Result;
use clap::Args;

use crate::steps::{Steps, Tally};
use crate::{check, documents, fuzz, run, tools};

/// How long the parts take that can take any time.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long the torture writes before it compares.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    torture: u64,
    /// The seed of the torture; drawn and printed without it.
    #[arg(long)]
    seed: Option<u64>,
    /// How long to fuzz each target.
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    fuzz: u64,
}

/// From quick to slow, so that a mistake shows early.
pub(crate) fn everything(options: &Options) -> Result<Tally> {
    let mut torture = vec!["--seconds".to_owned(), options.torture.to_string()];
    if let Some(seed) = options.seed {
        torture.extend(["--seed".to_owned(), seed.to_string()]);
    }
    let mut steps = Steps::new();
    steps.run("Install the programs of others", tools::install);
    steps.run("Format", || check::fmt(true));
    steps.run("Documents: links, commands, invariants", documents::check);
    steps.run("Dependencies: licences, bans, sources", check::deny);
    steps.run("Clippy, warnings denied", check::lint);
    steps.run("Documentation, warnings denied", || check::doc(false));
    steps.run(
        "Tests, interoperability and doc tests of the workspace",
        || run::unit(&[]),
    );
    steps.run("Fuzzing", || fuzz::fuzz(options.fuzz, &[], None));
    steps.run("Applications with other drivers", run::drivers);
    steps.run("Demo, as the README starts it", run::demo);
    steps.run("Torture", || run::torture(&torture));
    Ok(steps.finish())
}

//! Everything CI checks.

use anyhow::Result;
use clap::Args;

use crate::cargo::{command, output_of};
use crate::steps::{Steps, Tally};
use crate::{check, documents, features, fuzz, run, tools};

/// How long the parts take that can take any time.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long the torture writes before it compares.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    torture: u64,
    /// The seed of everything random. Without it, it follows from the code that is checked out, so that a commit that
    /// passes passes again; the long forms look for more.
    #[arg(long)]
    seed: Option<u64>,
    /// How long to fuzz each target.
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    fuzz: u64,
}

/// From quick to slow, so that a mistake shows early.
pub(crate) fn everything(options: &Options) -> Result<Tally> {
    let seed = options.seed.unwrap_or_else(seed_of_checkout);
    println!("to repeat: --seed {seed}");
    let torture = [
        ["--seconds".to_owned(), options.torture.to_string()],
        ["--seed".to_owned(), seed.to_string()],
    ]
    .concat();
    let mut steps = Steps::new();
    steps.run("Install the programs of others", tools::install);
    steps.run("Format", || check::fmt(true));
    steps.run("Documents: links, commands, invariants", documents::check);
    steps.run(
        "Lock files of the applications with other drivers",
        check::locks,
    );
    steps.run("Dependencies: licences, bans, sources", check::deny);
    steps.run("Crates that an application compiles", features::count);
    steps.run("Clippy, warnings denied", check::lint);
    steps.run("Each store alone", features::clients);
    steps.run("Documentation, warnings denied", || check::doc(false));
    steps.run(
        "Tests, interoperability and doc tests of the workspace",
        || run::unit(&[], Some(seed)),
    );
    steps.run("Fuzzing", || fuzz::fuzz(options.fuzz, &[], Some(seed)));
    steps.run("Applications with other drivers", run::drivers);
    steps.run("Torture", || run::built_torture(&torture));
    Ok(steps.finish())
}

/// What tests are made of. Documents are not among it: what passed passes again when only they change.
const CODE: [&str; 6] = [
    "HEAD:Cargo.lock",
    "HEAD:bench",
    "HEAD:crates",
    "HEAD:examples",
    "HEAD:tests",
    "HEAD:xtask",
];

/// From the hashes of the code that is checked out, or any where there is no repository.
fn seed_of_checkout() -> u64 {
    let hashes = output_of(command("git").arg("rev-parse").args(CODE));
    let bits = |hash: &str| u64::from_str_radix(hash.get(..16)?, 16).ok();
    let seeds = hashes
        .ok()
        .and_then(|hashes| hashes.lines().map(bits).collect::<Option<Vec<_>>>());
    seeds.map_or_else(
        || fastrand::u64(..),
        |seeds| seeds.iter().fold(0, |seed, bits| seed ^ bits),
    )
}

//! Mutation testing of the core decisions that `.cargo/mutants.toml` lists.

use anyhow::Result;
use evertide_testkit::checkout_root;

use crate::cargo::{command, run};
use crate::steps::Tally;

/// The packages with such decisions, and the tests that each mutant has to pass: those beside the decisions. All
/// tests of the engine would take minutes for every one of a thousand mutants.
const PACKAGES: [(&str, &[&str]); 3] = [
    ("evertide-ltx", &["--lib", "--tests"]),
    ("evertide-storage", &["--lib"]),
    (
        "evertide",
        &["--lib", "--", "--skip", "simulation::", "--skip", "fuzz::"],
    ),
];

/// Address space of each process: a mutant that reads without a bound would take the whole machine's memory.
const MEMORY: &str = "--as=8589934592";

/// Makes the mutants of every package, or of those named; `arguments` go to cargo-mutants. A package that has survivors fails.
pub(crate) fn mutants(only: &[String], arguments: &[String]) -> Result<Tally> {
    let known = PACKAGES.map(|(package, _)| package);
    if let Some(unknown) = only.iter().find(|name| !known.contains(&name.as_str())) {
        anyhow::bail!(
            "{unknown} has no mutants; those that have are: {}",
            known.join(", ")
        );
    }
    let program = crate::tools::cargo_mutants()?;
    let mut tally = Tally::default();
    for (package, tests) in PACKAGES {
        if !only.is_empty() && !only.iter().any(|name| name == package) {
            continue;
        }
        let output = checkout_root().join("target/mutants").join(package);
        std::fs::create_dir_all(&output)?;
        let mut mutants = command("prlimit");
        mutants.args([MEMORY, "--"]).arg(&program);
        mutants.args(["mutants", "--profile", "mutants", "--package", package]);
        mutants.arg("--output").arg(output);
        mutants.args(arguments).arg("--").args(tests);
        tally.add(run(&mut mutants)?);
    }
    Ok(tally)
}

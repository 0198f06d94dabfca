//! Mutation testing of the core decisions that `.cargo/mutants.toml` lists.

use anyhow::Result;
use evertide_testkit::checkout_root;

use crate::cargo::{command, run};
use crate::steps::Tally;

/// Decisions, and the tests that each of their mutants has to pass. All tests of the engine would take minutes for every
/// one of a thousand mutants.
struct Decisions {
    name: &'static str,
    package: &'static str,
    /// Which of the package's, as arguments of cargo-mutants.
    which: &'static [&'static str],
    /// The targets that are built for each mutant, and whose tests are run.
    targets: &'static [&'static str],
    /// Which of their tests, as arguments of these.
    tests: &'static [&'static str],
}

const DECISIONS: [Decisions; 4] = [
    Decisions {
        name: "ltx",
        package: "evertide-ltx",
        which: &[],
        targets: &["--lib", "--tests"],
        tests: &[],
    },
    Decisions {
        name: "lease",
        package: "evertide-storage",
        which: &[],
        targets: &["--lib"],
        tests: &[],
    },
    Decisions {
        name: "engine",
        package: "evertide",
        which: &["--exclude", CAPTURED],
        targets: &["--lib"],
        tests: SLOW,
    },
    // What is done with frames is seen where there are some.
    Decisions {
        name: "segments",
        package: "evertide",
        which: &["--re", CAPTURED],
        targets: &["--lib", "--test=replicate"],
        tests: SLOW,
    },
];

/// Leaves out those that take seconds each time, and look at none of the decisions alone.
const SLOW: &[&str] = &[
    "--skip=simulation::",
    "--skip=fuzz::",
    "--skip=cost_tests::",
    "--skip=restore::v3::unpack::",
];

const CAPTURED: &str = "crates/engine/src/capture/segment.rs";

/// Address space of each process: a mutant that reads without a bound would take the whole machine's memory.
const MEMORY: &str = "--as=8589934592";

/// Makes the mutants of all decisions, or of those named; `arguments` go to cargo-mutants. Decisions that have survivors
/// fail.
pub(crate) fn mutants(only: &[String], arguments: &[String]) -> Result<Tally> {
    let known = DECISIONS.map(|decisions| decisions.name);
    if let Some(unknown) = only.iter().find(|name| !known.contains(&name.as_str())) {
        anyhow::bail!(
            "{unknown} has no mutants; those that have are: {}",
            known.join(", ")
        );
    }
    let program = crate::tools::cargo_mutants()?;
    let mut tally = Tally::default();
    for decisions in DECISIONS {
        if !only.is_empty() && !only.iter().any(|name| name == decisions.name) {
            continue;
        }
        let output = checkout_root().join("target/mutants").join(decisions.name);
        std::fs::create_dir_all(&output)?;
        let mut mutants = command("prlimit");
        mutants.args([MEMORY, "--"]).arg(&program);
        // From mutant to mutant a line changes.
        mutants.env("CARGO_INCREMENTAL", "1");
        // A random test that fails need not look for the smallest example.
        mutants.env("PROPTEST_MAX_SHRINK_ITERS", "0");
        mutants.args(["mutants", "--profile", "mutants"]);
        mutants
            .args(["--package", decisions.package])
            .args(decisions.which);
        for target in decisions.targets {
            mutants.arg(format!("--cargo-arg={target}"));
        }
        mutants.arg("--output").arg(output).args(arguments);
        mutants.args(["--", "--"]).args(decisions.tests);
        tally.add(run(&mut mutants)?);
    }
    Ok(tally)
}

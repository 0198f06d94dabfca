//! Running the tests, the torture and the bench.

use std::path::PathBuf;

use anyhow::Result;
use evertide_testkit::checkout_root;

use crate::cargo::{command, give_seed, run, run_tests};
use crate::steps::Tally;

/// Folders below tests/drivers.
pub(crate) const DRIVERS: [&str; 3] = ["sqlx", "diesel", "old-rusqlite"];

/// Tests at a time. They wait more than they work: for programs, servers, and intervals.
const THREADS: &str = "RUST_TEST_THREADS";

/// Where tests find the programs of the workspace; without it they build them, with other features than all of the
/// workspace has, and so most dependencies once more.
const PROGRAMS: &str = "EVERTIDE_BIN_DIR";

fn built_by_tests() -> PathBuf {
    built_in("debug")
}

/// Where cargo puts the programs of a profile.
fn built_in(profile: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    checkout_root().join(target).join(profile)
}

/// `cargo test` of the workspace, doc tests included. Random tests draw their own seeds where none is given.
pub(crate) fn unit(arguments: &[String], seed: Option<u64>) -> Result<Tally> {
    let mut test = command("cargo");
    test.args(["test", "--locked", "--no-fail-fast"]);
    if arguments.is_empty() {
        // That builds every program of the workspace, too.
        test.arg("--workspace").env(PROGRAMS, built_by_tests());
    }
    if std::env::var_os(THREADS).is_none() {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        test.env(THREADS, (2 * cores).to_string());
    }
    if let Some(seed) = seed {
        give_seed(&mut test, seed);
    }
    test.args(arguments);
    if arguments.is_empty() {
        // Also what tests print that pass is searched for secrets; it is not shown.
        test.args(["--", "--show-output"]);
    }
    run_tests(&mut test)
}

/// One application for each driver, in a shared target folder: most of what they build is the same.
pub(crate) fn drivers() -> Result<Tally> {
    let mut tally = Tally::default();
    for driver in DRIVERS {
        println!("--- {driver}");
        let mut application = command("cargo");
        application
            .current_dir(checkout_root().join("tests/drivers").join(driver))
            .args(["run", "--quiet", "--locked"])
            .env("CARGO_TARGET_DIR", checkout_root().join("target/drivers"));
        tally.add(run(&mut application)?);
    }
    Ok(tally)
}

/// The torture, in the profile of the tests.
pub(crate) fn torture(arguments: &[String]) -> Result<Tally> {
    let mut torture = command("cargo");
    torture.args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "evertide-torture",
        "--",
    ]);
    run(torture.args(arguments))
}

/// The same, after [`unit()`] has built everything.
pub(crate) fn built_torture(arguments: &[String]) -> Result<Tally> {
    let programs = built_by_tests();
    let mut torture = command(&programs.join("evertide-torture").to_string_lossy());
    run(torture.env(PROGRAMS, programs).args(arguments))
}

/// The first command of the README.
pub(crate) fn demo() -> Result<Tally> {
    let mut demo = command("cargo");
    run(demo.args([
        "run",
        "--release",
        "--locked",
        "--bin",
        "evertide",
        "--",
        "demo",
    ]))
}

/// The bench, in release mode. What it measures is built together with it: alone, the bench would have it built
/// once more, with other features, while it seems to measure.
pub(crate) fn bench(arguments: &[String]) -> Result<Tally> {
    let mut build = command("cargo");
    build.args(["build", "--release", "--locked"]);
    let built = run(build.args(["--package", "evertide-bench", "--package", "evertide-cli"]))?;
    if built.failed > 0 {
        return Ok(built);
    }
    let programs = built_in("release");
    let mut bench = command(&programs.join("evertide-bench").to_string_lossy());
    run(bench.env(PROGRAMS, programs).args(arguments))
}

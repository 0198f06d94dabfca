//! The long forms, one after the other and round after round, each with a seed of its own.

use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cargo::{command, give_seed, run_tests};
use crate::fuzz;
use crate::steps::Tally;

/// How long the parts of a round take that can take any time.
const TORTURE: u64 = 600;
const FUZZ: u64 = 60;
/// With intervals ten times as short as the defaults: an hour.
const STORM: u64 = 360;
const KILLS: u32 = 250;
const POINTS: u32 = 500;
const YEARS: u32 = 20;
const SIMULATIONS: u32 = 5_000;
const RACES: u32 = 200;
const LIVES: u32 = 3_000;

/// A part of a round: its name, and how it runs with a seed.
type Part = (&'static str, fn(u64) -> Result<Tally>);

const PARTS: [Part; 12] = [
    ("torture", torture),
    ("kill loop", kills),
    ("kills of the real binary", kills_of_the_binary),
    ("failing disks", faults),
    ("power cuts", crashes),
    ("encrypted settings", vault),
    ("lives of databases", lives_of_databases),
    ("two writers", races),
    ("lives of replicas", lives),
    ("two machines", two_machines),
    ("storms", storms),
    ("fuzzing", fuzzing),
];

/// The tests of failing disks, in each of these binaries.
const FAULTS: [(&str, &[&str]); 3] = [
    (
        "faults",
        &[
            "fail::",
            "room::",
            "local_state::",
            "locks::",
            "system_calls::",
        ],
    ),
    ("restore", &["faults::"]),
    ("follow", &["faults::"]),
];

/// Those of the encrypted store and its keys: power cuts, kills, failing disks, full ones, no descriptors, and locks.
const VAULT: [&str; 6] = [
    "cuts::",
    "crash::",
    "faults::",
    "full::",
    "descriptors::",
    "locks::",
];

/// What it is, for the help.
pub(crate) fn about() -> String {
    let parts = PARTS.map(|(name, _)| name).join(", ");
    format!("The long forms in turn, for hours, each with a seed of its own: {parts}")
}

/// Runs the parts in turn until the time is over; a part that has begun ends. Everything random follows
/// from the seed.
pub(crate) fn soak(hours: f64, seed: Option<u64>) -> Result<Tally> {
    let time = Duration::try_from_secs_f64(hours * 3_600.0)?;
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    println!("soak of {hours} h, seed {seed}");
    let (start, mut tally, mut summary) = (Instant::now(), Tally::default(), String::new());
    'rounds: for round in 1.. {
        for (name, part) in PARTS {
            if start.elapsed() >= time {
                break 'rounds;
            }
            let (began, seed) = (Instant::now(), random.u64(..));
            println!("\n--- round {round}: {name}, seed {seed}");
            let done = part(seed).unwrap_or_else(|error| {
                println!("error: {error:#}");
                Tally::one(false)
            });
            tally.add(done);
            let took = began.elapsed().as_secs();
            writeln!(
                summary,
                "round {round}, {name}, seed {seed}: {done}, {took} s"
            )?;
        }
    }
    println!("\n=== soak of {hours} h, seed {seed}\n{summary}{tally}");
    Ok(tally)
}

fn torture(seed: u64) -> Result<Tally> {
    let seconds = ["--seconds".to_owned(), TORTURE.to_string()];
    let seed = ["--seed".to_owned(), seed.to_string()];
    crate::run::torture(&[seconds, seed].concat())
}

fn tests(package: &str, arguments: &[&str]) -> Command {
    let mut test = command("cargo");
    test.args(["test", "--locked", "--package", package]);
    test.args(arguments);
    test
}

fn kills(seed: u64) -> Result<Tally> {
    let mut test = tests(
        "evertide",
        &[
            "--test",
            "faults",
            "--",
            "kills::",
            "points::",
            "--nocapture",
        ],
    );
    test.env("EVERTIDE_KILLS", KILLS.to_string());
    test.env("EVERTIDE_POINTS", POINTS.to_string());
    run_tests(give_seed(&mut test, seed))
}

fn kills_of_the_binary(seed: u64) -> Result<Tally> {
    let mut test = tests(
        "evertide-cli",
        &["--test", "it", "points::", "--", "--nocapture"],
    );
    test.env("EVERTIDE_POINTS", POINTS.to_string());
    run_tests(give_seed(&mut test, seed))
}

/// Of what replicates, of restores and of followers.
fn faults(seed: u64) -> Result<Tally> {
    let mut tally = Tally::default();
    for (binary, names) in FAULTS {
        let mut test = tests("evertide", &["--test", binary, "--"]);
        test.args(names).arg("--nocapture");
        test.env("EVERTIDE_FAULTS", "all");
        tally.add(run_tests(give_seed(&mut test, seed))?);
    }
    Ok(tally)
}

fn crashes(seed: u64) -> Result<Tally> {
    let mut test = tests(
        "evertide",
        &["--test", "faults", "crashes::", "--", "--nocapture"],
    );
    test.env("EVERTIDE_CRASHES", "all");
    run_tests(give_seed(&mut test, seed))
}

fn vault(seed: u64) -> Result<Tally> {
    let mut test = tests("evertide-vault", &["--test", "it", "--"]);
    test.args(VAULT).arg("--nocapture");
    run_tests(give_seed(&mut test, seed))
}

fn lives_of_databases(seed: u64) -> Result<Tally> {
    let mut test = tests("evertide", &["--lib", "whole_lives", "--", "--nocapture"]);
    test.env("EVERTIDE_LIVES", LIVES.to_string());
    run_tests(give_seed(&mut test, seed))
}

fn races(seed: u64) -> Result<Tally> {
    let mut test = tests(
        "evertide-cli",
        &["--test", "it", "races::", "--", "--nocapture"],
    );
    test.env("EVERTIDE_RACES", RACES.to_string());
    run_tests(give_seed(&mut test, seed))
}

fn lives(seed: u64) -> Result<Tally> {
    let mut test = tests("evertide", &["--test", "lifetime", "--", "--nocapture"]);
    test.env("EVERTIDE_YEARS", YEARS.to_string());
    run_tests(give_seed(&mut test, seed))
}

fn two_machines(seed: u64) -> Result<Tally> {
    let mut test = tests("evertide", &["--lib", "simulation::", "--", "--nocapture"]);
    test.env("EVERTIDE_SIMULATIONS", SIMULATIONS.to_string());
    run_tests(give_seed(&mut test, seed))
}

fn storms(seed: u64) -> Result<Tally> {
    let mut test = tests(
        "evertide-cli",
        &["--test", "it", "storm", "--", "--nocapture"],
    );
    test.env("EVERTIDE_STORM_SECONDS", STORM.to_string());
    run_tests(give_seed(&mut test, seed))
}

fn fuzzing(seed: u64) -> Result<Tally> {
    fuzz::fuzz(FUZZ, &[], Some(seed))
}

/// The model of the pin protocol within large bounds, optimised.
pub(crate) fn model(seed: Option<u64>) -> Result<Tally> {
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("model within large bounds, seed {seed}");
    let mut test = tests(
        "evertide",
        &["--release", "--test", "model", "--", "--nocapture"],
    );
    run_tests(give_seed(&mut test, seed).env("EVERTIDE_MODEL_BOUNDS", "large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_of_failing_disks_are_there() {
        let root = evertide_testkit::checkout_root();
        for (binary, names) in FAULTS {
            for name in names {
                let module = name.trim_end_matches("::");
                let file = format!("crates/engine/tests/{binary}/{module}.rs");
                assert!(root.join(&file).is_file(), "{file}");
            }
        }
        for name in VAULT {
            let module = name.trim_end_matches("::");
            let file = format!("crates/vault/tests/it/{module}.rs");
            assert!(root.join(&file).is_file(), "{file}");
        }
    }

    #[test]
    fn the_document_about_tests_names_every_part() {
        let document = evertide_testkit::checkout_root().join("docs/testing.md");
        let text = std::fs::read_to_string(document).unwrap();
        let described = text
            .lines()
            .find(|line| line.starts_with("| `cargo xtask soak"));
        let described = described.unwrap();
        for (name, _) in PARTS {
            assert!(described.contains(name), "{name}: {described}");
        }
    }
}

//! Planted faults: each is put into a copy of the tree, and the tests that hold the promise it breaks
//! must fail there. A fault that survives, or that no longer applies, fails the task.

mod faults;
mod tree;

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use evertide_testkit::checkout_root;

use crate::cargo::{command, give_seed, output_of};
use crate::steps::Tally;

/// One fault.
pub(crate) struct Fault {
    name: &'static str,
    /// What it would do to somebody.
    harm: &'static str,
    file: &'static str,
    /// Text of that file, which is there once.
    right: &'static str,
    wrong: &'static str,
    /// Each of these has to fail.
    tests: &'static [Test],
}

/// A test of a package.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    package: &'static str,
    /// What selects its binary.
    binary: &'static [&'static str],
    /// Its name, with the path of its modules.
    name: &'static str,
}

/// Plants every fault, or those named, one after the other. Everything random in the tests follows from the seed.
pub(crate) fn planted(only: &[String], seed: Option<u64>) -> Result<Tally> {
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("planted faults, seed {seed}");
    let chosen: Vec<&Fault> = faults::FAULTS
        .iter()
        .filter(|fault| only.is_empty() || only.iter().any(|only| only == fault.name))
        .collect();
    if let Some(unknown) = only
        .iter()
        .find(|only| !faults::FAULTS.iter().any(|f| f.name == **only))
    {
        let known: Vec<_> = faults::FAULTS.iter().map(|fault| fault.name).collect();
        anyhow::bail!(
            "there is no planted fault {unknown}; there are: {}",
            known.join(", ")
        );
    }
    let tree = tree::Tree::copy(&checkout_root())?;
    // What fails without any fault proves nothing with one. All at once, since each change is built anew.
    let tests: BTreeSet<&Test> = chosen.iter().flat_map(|fault| fault.tests).collect();
    let mut sound = BTreeSet::new();
    for test in tests {
        println!("without a fault: {}", test.name);
        if expect(&tree, test, Verdict::Passes, seed)? {
            sound.insert(test);
        }
    }
    let mut tally = Tally::default();
    for fault in chosen {
        println!("--- {}: {}", fault.name, fault.harm);
        let caught = fault.tests.iter().all(|test| sound.contains(test))
            && tree.with(fault, || {
                let fails = |test| expect(&tree, test, Verdict::Fails, seed);
                let verdicts: Vec<bool> = fault.tests.iter().map(fails).collect::<Result<_>>()?;
                Ok(verdicts.iter().all(|fails| *fails))
            })?;
        println!("{}", if caught { "caught" } else { "SURVIVED" });
        tally.add(Tally::one(caught));
    }
    println!(
        "{} of {} planted faults were caught",
        tally.passed,
        tally.passed + tally.failed
    );
    Ok(tally)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Passes,
    Fails,
}

/// Whether the test, in the copy, has this verdict. A copy that does not build has none.
fn expect(tree: &tree::Tree, test: &Test, expected: Verdict, seed: u64) -> Result<bool> {
    let mut run = command("cargo");
    run.current_dir(tree.root())
        .env("CARGO_TARGET_DIR", tree.target())
        // From fault to fault a line changes.
        .env("CARGO_INCREMENTAL", "1")
        // Some faults need a rare coincidence.
        .env("EVERTIDE_SIMULATIONS", "1500")
        .args(["test", "--quiet", "--locked", "--package", test.package])
        .args(test.binary)
        // What a test that passes has printed tells why, where it should not have.
        .args(["--", "--show-output", "--exact", test.name]);
    let output =
        output_of(give_seed(&mut run, seed)).with_context(|| format!("running {}", test.name))?;
    let verdict = verdict(&output);
    if verdict == Some(expected) {
        return Ok(true);
    }
    let found = verdict.map_or("no verdict".to_owned(), |found| format!("{found:?}"));
    println!(
        "{}: {found}, and {expected:?} is expected:\n{output}",
        test.name
    );
    Ok(false)
}

/// What came of one test.
fn verdict(output: &str) -> Option<Verdict> {
    if output.contains("test result: ok. 1 passed; 0 failed") {
        Some(Verdict::Passes)
    } else if output.contains("test result: FAILED. 0 passed; 1 failed") {
        Some(Verdict::Fails)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_planted_fault_still_applies_and_names_tests_that_exist() {
        let tests = crate::documents::tests_of(&checkout_root()).unwrap();
        let mut names = BTreeSet::new();
        for fault in faults::FAULTS {
            assert!(names.insert(fault.name), "{} is there twice", fault.name);
            let text = fs::read_to_string(checkout_root().join(fault.file)).unwrap();
            let places = text.matches(fault.right).count();
            assert_eq!(
                places, 1,
                "{}: what it replaces in {}",
                fault.name, fault.file
            );
            assert_ne!(fault.right, fault.wrong, "{}", fault.name);
            assert!(!fault.tests.is_empty(), "{}", fault.name);
            for test in fault.tests {
                let name = test.name.rsplit("::").next().unwrap();
                assert!(
                    tests.contains(name),
                    "{}: there is no test {name}",
                    fault.name
                );
            }
        }
    }
}

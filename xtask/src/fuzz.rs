//! The fuzz targets: tests that draw their inputs from a corpus, for as long as they are given.

use anyhow::{Result, bail};

use crate::cargo::{command, give_seed, run_tests_and};
use crate::coverage::Coverage;
use crate::steps::Tally;

/// Tests of one binary.
struct Suite {
    package: &'static str,
    /// What selects the binary.
    binary: &'static [&'static str],
    /// The name of each target, as its test prints it, and the test.
    targets: &'static [(&'static str, &'static str)],
}

const SUITES: &[Suite] = &[
    Suite {
        package: "evertide-ltx",
        binary: &["--test", "fuzz"],
        targets: &[
            ("ltx", "no_bytes_make_a_reader_panic_or_misread"),
            ("merge", "no_two_files_make_a_merge_panic_or_write_nonsense"),
            ("names", "no_text_is_taken_for_the_name_of_another_file"),
        ],
    },
    Suite {
        package: "evertide-storage",
        binary: &["--test", "fuzz"],
        targets: &[
            (
                "urls",
                "no_url_panics_means_two_things_or_shows_its_secrets",
            ),
            ("keys", "no_key_is_taken_for_another"),
        ],
    },
    Suite {
        package: "evertide-storage",
        binary: &["--lib"],
        targets: &[
            (
                "lease",
                "lease::fuzz::no_bytes_are_taken_for_a_lease_that_cannot_be_written_again_or_never_ends",
            ),
            (
                "webdav",
                "webdav::fuzz::no_answer_of_a_server_is_read_as_files_that_another_could_not_have",
            ),
        ],
    },
    Suite {
        package: "evertide",
        binary: &["--lib"],
        targets: &[
            (
                "wal",
                "wal::fuzz::no_wal_is_read_otherwise_than_sqlite_would_recover_it",
            ),
            (
                "wal-index",
                "wal::fuzz::no_wal_index_is_believed_that_sqlite_would_not_believe",
            ),
            (
                "position",
                "state::fuzz::no_bytes_are_taken_for_a_position_that_nobody_saved",
            ),
            (
                "identity",
                "state::fuzz::no_bytes_are_taken_for_the_identity_of_another_state",
            ),
            (
                "leases",
                "state::fuzz::no_bytes_are_taken_for_leases_that_were_not_noted",
            ),
            (
                "pages",
                "state::fuzz::no_page_table_is_summed_up_wrongly_whatever_it_holds",
            ),
            (
                "stage",
                "state::fuzz::no_name_in_the_stage_makes_a_gap_or_costs_a_file_of_others",
            ),
            (
                "v3-segments",
                "restore::v3::fuzz::no_bytes_are_unpacked_to_what_was_never_packed",
            ),
            (
                "v3-wal",
                "restore::v3::fuzz::no_segment_is_read_whose_frames_sqlite_did_not_write",
            ),
            (
                "v3-names",
                "restore::v3::fuzz::no_listing_makes_a_plan_with_a_hole",
            ),
            (
                "records",
                "verify::fuzz::no_bytes_are_taken_for_records_that_cannot_be_written_again",
            ),
            (
                "proofs",
                "drill::fuzz::no_bytes_are_taken_for_a_proof_that_cannot_be_written_again",
            ),
            (
                "follow",
                "follow::fuzz::no_bytes_are_taken_for_the_position_of_a_copy_that_cannot_be_written_again",
            ),
        ],
    },
    Suite {
        package: "evertide",
        binary: &["--test", "operations"],
        targets: &[(
            "operations",
            "no_run_of_operations_makes_a_restore_differ_from_a_plain_model",
        )],
    },
    Suite {
        package: "evertide-server",
        binary: &["--test", "settings"],
        targets: &[
            ("toml", "fuzz::no_toml_makes_settings_that_are_not_sound"),
            ("yaml", "fuzz::no_yaml_makes_settings_that_are_not_sound"),
            ("durations", "fuzz::no_duration_is_printed_as_another"),
        ],
    },
    Suite {
        package: "evertide-vault",
        binary: &["--test", "it"],
        targets: &[
            (
                "key-files",
                "fuzz::no_bytes_in_a_key_file_are_taken_for_a_key_or_shown",
            ),
            (
                "vault",
                "fuzz::no_bytes_are_decrypted_to_what_nobody_encrypted",
            ),
            (
                "rows",
                "fuzz::no_bytes_in_the_table_are_a_configuration_or_harm_the_store",
            ),
        ],
    },
];

/// Runs every target, or those named, for so many seconds each, and says what each has covered.
pub(crate) fn fuzz(seconds: u64, only: &[String], seed: Option<u64>) -> Result<Tally> {
    run(seconds, only, seed, None)
}

/// The same, and which lines of the parsers were reached.
pub(crate) fn coverage(seconds: u64, only: &[String], seed: Option<u64>) -> Result<Tally> {
    let mut coverage = Coverage::begin()?;
    let tally = run(seconds, only, seed, Some(&mut coverage))?;
    coverage.print()?;
    Ok(tally)
}

fn run(
    seconds: u64,
    only: &[String],
    seed: Option<u64>,
    mut coverage: Option<&mut Coverage>,
) -> Result<Tally> {
    let known: Vec<&str> = names().collect();
    if let Some(unknown) = only.iter().find(|name| !known.contains(&name.as_str())) {
        bail!(
            "there is no fuzz target {unknown}; there are: {}",
            known.join(", ")
        );
    }
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
    let (mut tally, mut lines) = (Tally::default(), Vec::new());
    for suite in SUITES {
        let targets = suite.targets.iter().filter(|(name, _)| wanted(name));
        let targets: Vec<_> = targets.collect();
        if targets.is_empty() {
            continue;
        }
        let mut test = command("cargo");
        match &mut coverage {
            Some(coverage) => {
                let arguments =
                    [&["--locked", "--package", suite.package][..], suite.binary].concat();
                coverage.build(&arguments)?;
                coverage.count(test.arg("test").args(arguments));
            }
            // With the features of the whole workspace, so that what the other tests built is used again.
            None => drop(
                test.args(["test", "--locked", "--workspace"])
                    .args(suite.binary),
            ),
        }
        test.args(["--", "--nocapture", "--exact"])
            .args(targets.iter().map(|(_, test)| test))
            .env("EVERTIDE_FUZZ_SECONDS", seconds.to_string());
        if let Some(seed) = seed {
            give_seed(&mut test, seed);
        }
        let before = lines.len();
        tally.add(run_tests_and(&mut test, |line| {
            // The harness may have written the name of a test in front.
            if let Some(at) = line.find("fuzz ")
                && line.contains(" inputs, seed ")
            {
                lines.extend(line.get(at..).map(str::to_owned));
            }
        })?);
        let reported = lines.len() - before;
        if reported < targets.len() && tally.failed == 0 {
            println!(
                "{} targets of {} reported nothing: is their name in xtask right?",
                targets.len() - reported,
                suite.package
            );
            tally.add(Tally::one(false));
        }
    }
    println!(
        "\n{} of {} fuzz targets, {seconds} s each:",
        lines.len(),
        known.len()
    );
    lines.iter().for_each(|line| println!("{line}"));
    Ok(tally)
}

fn names() -> impl Iterator<Item = &'static str> {
    let targets = SUITES.iter().flat_map(|suite| suite.targets);
    targets.map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use evertide_testkit::checkout_root;

    use super::*;

    #[test]
    fn every_fuzz_target_of_the_tree_is_run_by_the_task() {
        let mut files = Vec::new();
        let root = checkout_root().join("crates");
        crate::documents::collect(&root, "rs", &mut files).unwrap();
        let mut found = BTreeSet::new();
        for file in files
            .iter()
            .filter(|file| !file.starts_with(root.join("testkit")))
        {
            let text = fs::read_to_string(file).unwrap();
            let targets = text.split("Fuzz::target(\"").skip(1);
            found.extend(targets.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
        let known: BTreeSet<String> = names().map(str::to_owned).collect();
        assert_eq!(found, known);
        assert_eq!(names().count(), known.len(), "a name is there twice");
    }
}

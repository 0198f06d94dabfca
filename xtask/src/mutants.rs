//! Mutation testing of the core decisions that `.cargo/mutants.toml` lists.

use anyhow::Result;
use evertide_testkit::checkout_root;

use crate::cargo::{command, give_seed, run};
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

const DECISIONS: [Decisions; 6] = [
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
        which: &[
            "--exclude",
            CAPTURED,
            "--exclude",
            "crates/engine/src/replica/maintain/*.rs",
            "--exclude-re",
            TAKEN_OVER,
        ],
        targets: &["--lib"],
        tests: SLOW,
    },
    // What is done about who had a replica before is seen where there is somebody.
    Decisions {
        name: "succession",
        package: "evertide",
        which: &[
            "--re",
            TAKEN_OVER,
            // They have mutants of fields there, too.
            "--exclude",
            "crates/engine/src/capture/*.rs",
        ],
        targets: &["--lib", "--test=replicate"],
        tests: &[
            "replica::succession",
            "replica::doubt",
            "writers::",
            "review::",
            "restarts::",
            "failures::",
        ],
    },
    // What a store does with what is asked of it is seen in the lives of replicas.
    Decisions {
        name: "maintenance",
        package: "evertide",
        which: &[
            "--re",
            "replica/maintain/",
            // It has mutants of fields there, too.
            "--exclude",
            "crates/engine/src/capture/*.rs",
        ],
        targets: &["--lib", "--test=lifetime"],
        tests: &[
            "replica::cost_tests",
            "replica::maintain",
            "replica::tier_tests",
            "damaged::",
            "forgetful::",
            "looks::",
            "missing::",
            "reads::whichever_read",
            "tiers::",
        ],
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

const TAKEN_OVER: &str = "succession.rs.* Replica::";
const CAPTURED: &str = "crates/engine/src/capture/segment.rs";

/// Address space of each process: a mutant that reads without a bound would take the whole machine's memory.
const MEMORY: &str = "--as=8589934592";

/// Makes the mutants of all decisions, or of those named; `arguments` go to cargo-mutants. Decisions that have survivors
/// fail.
pub(crate) fn mutants(only: &[String], seed: Option<u64>, arguments: &[String]) -> Result<Tally> {
    let known = DECISIONS.map(|decisions| decisions.name);
    if let Some(unknown) = only.iter().find(|name| !known.contains(&name.as_str())) {
        anyhow::bail!(
            "{unknown} has no mutants; those that have are: {}",
            known.join(", ")
        );
    }
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("mutants, seed {seed}");
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
        give_seed(&mut mutants, seed);
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The globs of the scope.
    fn globs(root: &Path) -> Vec<String> {
        let text = fs::read_to_string(root.join(".cargo/mutants.toml")).unwrap();
        let scope: toml::Table = text.parse().unwrap();
        let globs = scope["examine_globs"].as_array().unwrap().iter();
        globs
            .map(|glob| glob.as_str().unwrap().to_owned())
            .collect()
    }

    /// The files that these globs are for.
    fn sources(root: &Path, globs: &[String]) -> Vec<String> {
        let mut sources = Vec::new();
        paths(&root.join("crates"), root, &mut sources);
        sources.retain(|path| globs.iter().any(|glob| matches(glob, path)));
        sources
    }

    /// Whether a glob is for a path; the only wildcard is `**/*`.
    fn matches(glob: &str, path: &str) -> bool {
        match glob.split_once("**/*") {
            Some((start, end)) => path.starts_with(start) && path.ends_with(end),
            None => glob == path,
        }
    }

    /// The files in code in the first column of tables, but for those whose tests only are named.
    fn files_of_tables(text: &str) -> Vec<&str> {
        let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
        let columns = rows.filter_map(|row| row.split(" |").next()?.split(", with ").next());
        let code = columns.flat_map(|column| column.split('`').skip(1).step_by(2));
        code.filter(|code| code.ends_with(".rs")).collect()
    }

    fn paths(folder: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                paths(&path, root, found);
            } else {
                found.push(
                    path.strip_prefix(root)
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned(),
                );
            }
        }
    }

    #[test]
    fn every_file_with_results_is_one_of_which_mutants_are_made() {
        let root = checkout_root();
        let globs = globs(&root);
        let sources = sources(&root, &globs);
        let unused = globs
            .iter()
            .filter(|glob| !sources.iter().any(|path| matches(glob, path)));
        assert_eq!(unused.collect::<Vec<_>>(), [""; 0], "match no file");

        let text = fs::read_to_string(root.join("docs/mutants.md")).unwrap();
        let named = files_of_tables(&text);
        assert!(named.len() > 20, "{named:?}");
        let is_made = |name: &&str| {
            sources
                .iter()
                .any(|path| path.ends_with(&format!("/{name}")))
        };
        let missing: Vec<_> = named.into_iter().filter(|name| !is_made(name)).collect();
        assert_eq!(missing, [""; 0], "are not in .cargo/mutants.toml");
    }

    #[test]
    fn every_file_of_which_mutants_are_made_has_results() {
        let root = checkout_root();
        let mut sources = sources(&root, &globs(&root));
        // In these there is nothing to change.
        sources.retain(|path| {
            !["/lib.rs", "/error.rs"]
                .iter()
                .any(|end| path.ends_with(end))
        });
        let text = fs::read_to_string(root.join("docs/mutants.md")).unwrap();
        let code: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
        let is_named = |path: &String| code.iter().any(|code| path.ends_with(&format!("/{code}")));
        sources.retain(|path| !is_named(path));
        assert_eq!(sources, [""; 0], "are not in docs/mutants.md");
    }

    #[test]
    fn files_are_those_in_code_in_the_first_column() {
        let text = "`no.rs`\n| file | made |\n|---|---|\n| `a.rs`, `b/c.rs` and `d`, with tests of `no.rs` | `no.rs` |\n";
        assert_eq!(files_of_tables(text), ["a.rs", "b/c.rs"]);
        assert!(matches("a/**/*.rs", "a/b/c.rs") && matches("a/b.rs", "a/b.rs"));
        assert!(!matches("a/**/*.rs", "b/a/c.rs") && !matches("a/b.rs", "a/b.rs.rs"));
    }
}

//! Running cargo, and reading what its tests say.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use evertide_testkit::checkout_root;

use crate::steps::Tally;

/// A command in the root of the checkout.
pub(crate) fn command(program: &str) -> Command {
    let mut command = match (program, std::env::var_os("CARGO")) {
        ("cargo", Some(cargo)) => Command::new(cargo),
        _ => Command::new(program),
    };
    command.current_dir(checkout_root());
    command
}

/// Runs cargo with these arguments.
pub(crate) fn cargo(arguments: &[&str]) -> Result<Tally> {
    run(command("cargo").args(arguments))
}

/// Runs a command that is one check.
pub(crate) fn run(command: &mut Command) -> Result<Tally> {
    let status = command
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        println!("{} ended with {status}", shown(command));
    }
    Ok(Tally::one(status.success()))
}

/// Runs a command whose output has the closing lines of `cargo test`, and adds those up.
pub(crate) fn run_tests(command: &mut Command) -> Result<Tally> {
    run_tests_and(command, |_| {})
}

/// As [`run_tests`], and shows each line of the output to `look`, too.
pub(crate) fn run_tests_and(command: &mut Command, mut look: impl FnMut(&str)) -> Result<Tally> {
    command.stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let output = child.stdout.take().context("the output of cargo test")?;
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        look(&line);
        tally.add(closing_line(&line).unwrap_or_default());
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        // It did not build, or a test ended its process.
        println!("{} ended with {status}", shown(command));
        tally.failed = 1;
    }
    if tally.passed + tally.failed == 0 {
        bail!("{} ran no test", shown(command));
    }
    Ok(tally)
}

/// Runs a command to its end; both of its outputs, one after the other.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// `test result: ok. 11 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1s`
fn closing_line(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?;
    let (_, counts) = counts.split_once(". ")?;
    let count = |name: &str| {
        let part = counts
            .split("; ")
            .find_map(|part| part.strip_suffix(name))?;
        part.trim().parse().ok()
    };
    let (passed, failed) = (count("passed")?, count("failed")?);
    Some(Tally {
        passed,
        failed,
        skipped: count("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_lines_of_cargo_test_are_added_up_and_others_are_not() {
        let line = "test result: FAILED. 11 passed; 2 failed; 1 ignored; 0 measured; 0 filtered \
                    out; finished in 1.95s";
        assert_eq!(
            closing_line(line),
            Some(Tally {
                passed: 11,
                failed: 2,
                skipped: 1
            })
        );
        assert_eq!(closing_line("test merge ... ok"), None);
        assert_eq!(closing_line("test result: unheard of"), None);
    }
}

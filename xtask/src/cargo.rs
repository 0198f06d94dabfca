//! Running cargo, and reading what its tests say.

use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use evertide_testkit::checkout_root;

use crate::heard::Heard;
use crate::steps::Tally;

/// Has everything random in tests follow from this seed.
pub(crate) fn give_seed(test: &mut Command, seed: u64) -> &mut Command {
    test.env("EVERTIDE_SEED", seed.to_string())
        .env("PROPTEST_RNG_SEED", seed.to_string())
}

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

/// Runs a command whose output has the closing lines of `cargo test`, and adds those up. A planted secret in what it prints
/// is one more failure.
pub(crate) fn run_tests(command: &mut Command) -> Result<Tally> {
    run_tests_and(command, |_| {})
}

/// As [`run_tests`], and shows each line of the output to `look`, too.
pub(crate) fn run_tests_and(command: &mut Command, look: impl FnMut(&str)) -> Result<Tally> {
    if io::stderr().is_terminal() {
        // It does not see that by itself any more.
        command.env("CARGO_TERM_COLOR", "always");
    }
    let show = |line: &str| println!("{line}");
    run_showing(command, look, show, |line| eprintln!("{line}"))
}

fn run_showing(
    command: &mut Command,
    mut look: impl FnMut(&str),
    show: impl Fn(&str),
    show_error: impl Fn(&str) + Send + 'static,
) -> Result<Tally> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let output = child.stdout.take().context("the output of cargo test")?;
    let errors = child.stderr.take().context("the errors of cargo test")?;
    let errors = std::thread::spawn(move || {
        let mut heard = Heard::default();
        for line in lines(errors).map_while(Result::ok) {
            heard.line(&line);
            show_error(&line);
        }
        heard.secrets()
    });
    let mut heard = Heard::default();
    let mut tally = Tally::default();
    for line in lines(output) {
        let line = line?;
        if heard.line(&line) {
            show(&line);
        }
        look(&line);
        tally.add(closing_line(&line).unwrap_or_default());
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        // It did not build, or a test ended its process.
        println!("{} ended with {status}", shown(command));
        tally.failed = 1;
    }
    let in_errors = errors.join().unwrap_or_default();
    for test in heard.secrets().into_iter().chain(in_errors) {
        println!("a planted secret was printed; the last test that was named before is `{test}`");
        tally.failed += 1;
    }
    if tally.passed + tally.failed == 0 {
        bail!("{} ran no test", shown(command));
    }
    Ok(tally)
}

/// What is printed, which need not be text.
fn lines(output: impl Read) -> impl Iterator<Item = io::Result<String>> {
    let lines = BufReader::new(output).split(b'\n');
    lines.map(|line| Ok(String::from_utf8_lossy(&line?).into_owned()))
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

    /// A command that prints this, and the closing line of a test that passed.
    fn printing(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{text}; echo '{SUM_OF_ONE}'")]);
        command
    }

    const SUM_OF_ONE: &str = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";

    #[test]
    fn a_secret_that_any_test_prints_fails_the_run() {
        // In two pieces, and not shown: what this test prints is searched, too.
        const SECRET: &str = "hun''ter2";
        for (text, failed) in [
            (format!("echo the key is {SECRET}"), 1),
            (format!("echo successes:; echo {SECRET}"), 1),
            (format!("echo {SECRET} >&2"), 1),
            (
                "printf '\\377\\n'; echo two hunters; echo a hunter >&2".to_owned(),
                0,
            ),
        ] {
            let tally = run_showing(&mut printing(&text), |_| {}, |_| {}, |_| {}).unwrap();
            assert_eq!((tally.passed, tally.failed), (1, failed), "{text}");
        }
    }
}

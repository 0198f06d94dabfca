//! What tests print, on its way to whoever started them: what those that passed have printed is not shown, and a planted
//! secret in any of it is found.

use evertide_testkit::planted_secret;

/// What follows is of tests that passed, with `--show-output`, up to what fails or the sum.
const PASSED: &str = "successes:";
const FAILED: &str = "failures:";
const SUM: &str = "test result: ";
const HEADING: [&str; 2] = ["---- ", " ----"];

/// Listens to one output, line by line.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    of_passed: bool,
    /// Whose output it is at the moment.
    test: String,
    secrets: Vec<String>,
}

impl Heard {
    /// Takes a line. Whether it is to be shown.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        let begins = line == PASSED;
        if begins || line == FAILED || line.starts_with(SUM) {
            self.of_passed = begins;
        }
        let heading = line.strip_prefix(HEADING[0]);
        if let Some(test) = heading.and_then(|line| line.strip_suffix(HEADING[1])) {
            test.clone_into(&mut self.test);
        }
        if planted_secret(line).is_some() {
            self.secrets.push(self.test.clone());
        }
        !self.of_passed
    }

    /// For each line with a secret, the test that was the last to be named before.
    pub(crate) fn secrets(self) -> Vec<String> {
        self.secrets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tests_print_that_passed_is_searched_and_not_shown() {
        let output = [
            ("running 2 tests", true),
            ("test one ... ok", true),
            ("successes:", false),
            ("---- one stdout ----", false),
            ("a hunter, two hunters", false),
            (concat!("hun", "ter2"), false),
            ("successes:", false),
            ("failures:", true),
            ("what is said of a failure", true),
            ("test result: FAILED. 1 passed; 1 failed", true),
        ];
        let mut heard = Heard::default();
        for (line, shown) in output {
            assert_eq!(heard.line(line), shown, "{line}");
        }
        assert_eq!(heard.secrets(), ["one stdout"]);
    }
}

//! How a command ends when it does not end well.

use std::{error::Error, fmt, process::ExitCode};

/// The command was used wrongly: exit status 2 instead of 1.
#[derive(Debug)]
struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Usage {}

/// An error for a command that was used wrongly.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Usage(message.into()))
}

/// Whoever read our output has had enough. That is their right, and no error.
#[derive(Debug)]
pub(crate) struct OutputGone;

impl fmt::Display for OutputGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of the output went away")
    }
}

impl Error for OutputGone {}

/// Says what went wrong, where there is somebody to hear it, and gives the exit status.
pub(crate) fn report(command: &str, error: &anyhow::Error) -> ExitCode {
    if error.is::<OutputGone>() {
        return ExitCode::SUCCESS;
    }
    crate::output::complain(&format!("evertide: {}", describe(error)));
    if error.is::<Usage>() {
        crate::output::complain(&format!(
            "For more information, try 'evertide {command} --help'."
        ));
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// An error with its causes. A cause that its effect has quoted already is not repeated.
fn describe(error: &anyhow::Error) -> String {
    described(error.as_ref())
}

/// The same of any error.
pub(crate) fn described(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn causes_are_told_once() {
        let error = anyhow!("disk full")
            .context("cannot write a: disk full")
            .context("no backup");
        assert_eq!(describe(&error), "no backup: cannot write a: disk full");
    }

    #[test]
    fn wrong_usage_is_told_from_failure() {
        let code = |error: anyhow::Error| format!("{:?}", report("restore", &error));
        assert_eq!(code(anyhow!("x")), format!("{:?}", ExitCode::from(1)));
        assert_eq!(code(usage("x")), format!("{:?}", ExitCode::from(2)));
        let usage = Err::<(), _>(usage("x")).context("in context").unwrap_err();
        assert_eq!(code(usage), format!("{:?}", ExitCode::from(2)));
    }
}

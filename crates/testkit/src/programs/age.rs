//! The `age` command, from the distribution's packages.

use std::path::PathBuf;
use std::process::Command;

use super::install::InstallError;
use super::packages::{find, install_package};

/// A command that runs `age`.
///
/// # Panics
///
/// When it is not installed; the message has the command to run.
pub fn age() -> Command {
    found("age")
}

/// A command that runs `age-keygen`.
///
/// # Panics
///
/// When it is not installed; the message has the command to run.
pub fn age_keygen() -> Command {
    found("age-keygen")
}

fn found(name: &str) -> Command {
    match find(name) {
        Some(path) => Command::new(path),
        None => panic!(
            "the command {name} is not installed; the tests need it. Run as root:\n    \
             apt-get install age"
        ),
    }
}

/// Installs Debian's `age` when it is missing and we are root.
///
/// # Errors
///
/// When it is missing and cannot be installed; the error has the command to run.
pub fn install_age() -> Result<PathBuf, InstallError> {
    install_package("age", &["age", "age-keygen"])
}

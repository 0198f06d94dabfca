//! Programs whose clock is wrong.

use std::path::PathBuf;
use std::process::Command;

use super::install::InstallError;
use super::packages::install_package;
use crate::checkout::lock;

/// Installs Debian's `faketime` when it is missing and we are root.
///
/// # Errors
///
/// When it is missing and cannot be installed; the error has the command to run.
pub fn install_faketime() -> Result<PathBuf, InstallError> {
    let _lock = lock("install");
    install_package("faketime", &["faketime"])
}

/// The same command, with a clock that is that much ahead (`+1h`) or behind (`-1h`). What measures spans of time
/// is not concerned.
///
/// # Panics
///
/// When `faketime` cannot be installed: nothing that needs it is skipped.
pub fn with_clock(command: &Command, offset: &str) -> Command {
    let program = install_faketime().unwrap_or_else(|error| panic!("{error}"));
    let mut wrapped = Command::new(program);
    wrapped
        .args(["--exclude-monotonic", "-f", offset])
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

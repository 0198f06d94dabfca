//! The `age` command, from the distribution's packages.

use std::path::PathBuf;
use std::process::Command;

use super::install::InstallError;

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
    match on_path(name) {
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
    if let (Some(age), Some(_)) = (on_path("age"), on_path("age-keygen")) {
        return Ok(age);
    }
    let failed = |reason: String| InstallError::Failed {
        program: "age".to_owned(),
        command: "apt-get update && apt-get install --yes age".to_owned(),
        reason,
    };
    if !nix::unistd::Uid::effective().is_root() {
        return Err(failed("It has to be run as root.".to_owned()));
    }
    for arguments in [
        ["update", "--quiet"].as_slice(),
        &["install", "--yes", "--quiet", "age"],
    ] {
        let output = Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
    }
    on_path("age").ok_or_else(|| failed("apt-get succeeded, yet age is not on PATH.".to_owned()))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

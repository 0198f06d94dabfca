//! Programs from the distribution's packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::install::InstallError;
use crate::checkout::lock;

/// Where a program is, on `PATH` or where those of the system are.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// Where a program is that was installed.
///
/// # Panics
///
/// When it is not there.
pub(super) fn program(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| panic!("the command {name} is not installed"))
}

/// Installs a package when one of its programs is missing and we are root. The path of the first program.
///
/// # Errors
///
/// When it is missing and cannot be installed; the error has the command to run.
pub(super) fn install_package(
    package: &'static str,
    programs: &[&'static str],
) -> Result<PathBuf, InstallError> {
    let found = || {
        let all: Option<Vec<PathBuf>> = programs.iter().map(|name| find(name)).collect();
        all?.into_iter().next()
    };
    if let Some(program) = found() {
        return Ok(program);
    }
    let failed = |reason: String| InstallError::Failed {
        program: package.to_owned(),
        command: format!("apt-get update && apt-get install --yes {package}"),
        reason,
    };
    if !nix::unistd::Uid::effective().is_root() {
        return Err(failed("It has to be run as root.".to_owned()));
    }
    for arguments in [
        ["update", "--quiet"].as_slice(),
        &[
            "install",
            "--yes",
            "--quiet",
            "--no-install-recommends",
            package,
        ],
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
    found().ok_or_else(|| {
        failed(format!(
            "apt-get succeeded, yet {programs:?} are not all there."
        ))
    })
}

/// Installs Debian's `openssh-server` when it is missing, we are root, and nothing would start it.
///
/// # Errors
///
/// When it is missing and cannot be installed; the error has the command to run.
pub fn install_openssh() -> Result<PathBuf, InstallError> {
    let _lock = lock("install");
    // Nobody wants a server for all the world from a run of tests.
    if find("sshd").is_none() && Path::new("/run/systemd/system").is_dir() {
        return Err(InstallError::Failed {
            program: "openssh-server".to_owned(),
            command: "apt-get install --yes openssh-server".to_owned(),
            reason: "It would be started here, so it is left to you; the service may be stopped \
                     afterwards."
                .to_owned(),
        });
    }
    install_package("openssh-server", &["sshd", "ssh-keygen"])
}

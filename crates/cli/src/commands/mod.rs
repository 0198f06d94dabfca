//! One module per command, each a thin layer above a library.

mod blueprint;
mod completions;
mod config;
mod demo;
mod doctor;
mod follow;
mod insert;
mod keygen;
mod ltx;
mod replicate;
mod restore;
mod source;
mod verify;

pub(crate) use self::{
    blueprint::blueprint,
    completions::completions,
    config::config,
    demo::{demo, demo_app},
    doctor::doctor,
    insert::insert_config,
    keygen::keygen,
    ltx::ltx,
    replicate::replicate,
    restore::restore,
    verify::verify,
};

use std::{io, path::Path};

use anyhow::Context;

use crate::output;

/// The first version of SQLite in which a checkpoint and a writer cannot corrupt the database when
/// they race.
const SAFE_SQLITE: i32 = 3_051_003;

/// Warns when this program was built with a SQLite that has the bug.
pub(crate) fn warn_of_old_sqlite() {
    if rusqlite::version_number() < SAFE_SQLITE {
        output::complain(&format!(
            "evertide: warning: this build uses SQLite {}; versions before 3.51.3 can corrupt a \
             database when a \
             checkpoint and a writer race. Build it with a newer one",
            rusqlite::version()
        ));
    }
}

/// Runs the asynchronous part of a command.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the threads of the program")?;
    let done = runtime.block_on(work);
    // A read or write that hangs must not keep the program from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done
}

/// Whether there is anything at this path. Where nobody knows, neither may be taken for granted.
fn exists(path: &Path) -> anyhow::Result<bool> {
    path.try_exists()
        .with_context(|| format!("cannot tell whether {} exists", path.display()))
}

/// Writes a file that must not exist, for its owner alone, whole and durably or not at all.
fn write_new(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    match evertide_vault::write_new_private(path, content) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => anyhow::bail!(
            "{} exists and is not overwritten: move it away, or give another name with -o",
            path.display()
        ),
        other => other.with_context(|| format!("cannot write {}", path.display())),
    }
}

/// Waits for SIGINT or SIGTERM, and gives the error that says so.
async fn ended_by_signal() -> anyhow::Result<anyhow::Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let context = "cannot listen for signals";
    let mut terminate = signal(SignalKind::terminate()).context(context)?;
    let name = tokio::select! {
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context(context)?;
            "SIGINT"
        }
        _ = terminate.recv() => "SIGTERM",
    };
    Ok(anyhow::anyhow!("ended by {name}"))
}

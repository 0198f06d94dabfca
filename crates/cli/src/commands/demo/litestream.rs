//! The official Litestream, where a checkout's tests have installed it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use evertide_storage::{Disk, OsDisk};
use tokio::process::Command;

/// The newest Litestream 0.5 in the `.cache` of the checkout this runs in.
pub(super) fn find() -> Option<PathBuf> {
    let here = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    let mut caches = here
        .iter()
        .flatten()
        .flat_map(|path| path.ancestors())
        .map(|path| path.join(".cache"));
    caches.find_map(|cache| {
        let mut versions: Vec<_> = OsDisk
            .read_dir(&cache)
            .ok()?
            .into_iter()
            .filter_map(|entry| Some(entry.name.to_str()?.to_owned()))
            .filter(|name| name.starts_with("litestream-0.5.") && !name.ends_with(".partial"))
            .collect();
        versions.sort_unstable();
        let program = cache.join(versions.pop()?).join("bin/litestream");
        OsDisk.metadata(&program).is_ok().then_some(program)
    })
}

/// Restores with it. How long that took.
pub(super) async fn restore(
    program: &Path,
    replica: &Path,
    output: &Path,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let done = Command::new(program)
        .arg("restore")
        .arg("-o")
        .arg(output)
        .arg(format!("file://{}", replica.display()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(
        done.status.success(),
        "{} ended with {}:\n{}{}",
        program.display(),
        done.status,
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(began.elapsed())
}

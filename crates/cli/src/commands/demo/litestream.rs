//! The official Litestream, where a checkout's tests have installed it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use evertide_storage::{Disk, FileKind, OsDisk};
use nix::unistd::geteuid;
use tokio::process::Command;

/// The newest Litestream 0.5 in the `.cache` of the checkout this runs in.
pub(super) fn find() -> Option<PathBuf> {
    let here = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    let mut caches = here
        .iter()
        .flatten()
        .flat_map(|path| path.ancestors())
        .map(|path| path.join(".cache"));
    caches.find_map(|cache| newest_in(&cache))
}

fn newest_in(cache: &Path) -> Option<PathBuf> {
    let mut versions: Vec<_> = OsDisk
        .read_dir(cache)
        .ok()?
        .into_iter()
        .filter_map(|entry| Some(entry.name.to_str()?.to_owned()))
        .filter(|name| name.starts_with("litestream-0.5.") && !name.ends_with(".partial"))
        .collect();
    versions.sort_unstable();
    let program = cache.join(versions.pop()?).join("bin/litestream");
    let program = std::fs::canonicalize(program).ok()?;
    program.ancestors().all(is_trusted).then_some(program)
}

/// Whether nobody but the caller and root can have put there what is there: somebody may have made a `.cache` in
/// `/tmp`.
fn is_trusted(path: &Path) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    OsDisk.metadata(path).is_ok_and(|found| {
        let owned = [0, geteuid().as_raw()].contains(&found.uid);
        // In a sticky directory nobody touches what others own.
        let kept = found.kind == FileKind::Directory && found.mode & STICKY != 0;
        owned && (found.mode & OTHERS_WRITE == 0 || kept)
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

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt, chown, symlink},
    };

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test")]
    fn no_program_is_run_that_somebody_else_may_have_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let cache = root.join(".cache");
        let bin = cache.join("litestream-0.5.99/bin");
        let program = bin.join("litestream");
        fs::create_dir_all(&bin).unwrap();
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        let places = [&cache, &cache.join("litestream-0.5.99"), &bin, &program];
        for place in places {
            set(place, 0o755).unwrap();
        }
        assert_eq!(newest_in(&cache), Some(program.clone()));
        for place in places {
            for mode in [0o775, 0o757, 0o777] {
                set(place, mode).unwrap();
                assert_eq!(newest_in(&cache), None, "{} {mode:o}", place.display());
            }
            set(place, 0o755).unwrap();
            if geteuid().is_root() {
                chown(place, Some(65_534), None).unwrap();
                assert_eq!(newest_in(&cache), None, "{}", place.display());
                chown(place, Some(0), None).unwrap();
            }
        }
        // As in `/tmp`: the directory is everybody's, what is in it is not.
        set(&root, 0o1777).unwrap();
        assert_eq!(newest_in(&cache), Some(program.clone()));
        // What matters is where a link leads.
        let linked = root.join("linked");
        symlink(&cache, &linked).unwrap();
        assert_eq!(newest_in(&linked), Some(program));
        set(&bin, 0o777).unwrap();
        assert_eq!(newest_in(&linked), None);
    }
}

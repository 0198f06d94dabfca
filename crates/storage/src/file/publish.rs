//! Writing one object so that it is either there whole or not there at all.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;

use crate::{Disk, DiskFile};

/// The permissions and owner of what is created.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permissions {
    pub(super) file_mode: u32,
    pub(super) dir_mode: u32,
    /// User and group for files, where known.
    pub(super) file_owner: Option<(u32, u32)>,
    /// User and group for directories, where known.
    pub(super) dir_owner: Option<(u32, u32)>,
}

/// Those without a database to take them from.
pub(super) const PRIVATE: Permissions = Permissions {
    file_mode: 0o600,
    dir_mode: 0o700,
    file_owner: None,
    dir_owner: None,
};

/// Whether an object may take the place of another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Existing {
    Keep,
    Replace,
}

/// An object on its way.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) temporary: PathBuf,
    pub(super) path: PathBuf,
    pub(super) existing: Existing,
    pub(super) modified: Option<SystemTime>,
}

/// What failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) action: &'static str,
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

pub(super) fn failure<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> Failure + use<'a> {
    move |source| Failure {
        action,
        path: path.to_path_buf(),
        source,
    }
}

/// Where the content comes from.
pub(super) trait Source {
    /// The next piece; `Ok(None)` only when all of it has been delivered.
    fn next(&mut self) -> Result<Option<Bytes>, Gone>;
}

/// The content will not arrive: its stream failed, or nobody waits for the object any more.
#[derive(Debug)]
pub(super) struct Gone;

/// How writing an object ended, other than well.
#[derive(Debug)]
pub(super) enum Aborted {
    Gone,
    Failed(Failure),
}

impl From<Failure> for Aborted {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Decides between the caller, who may stop waiting, and the writer, about to make the object
/// visible: whoever comes first wins.
#[derive(Clone, Default, Debug)]
pub(super) struct Race(Arc<AtomicU8>);

impl Race {
    const COMMITTED: u8 = 1;
    const CANCELLED: u8 = 2;

    fn win(&self, as_what: u8) -> bool {
        self.0
            .compare_exchange(0, as_what, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst) == Self::CANCELLED
    }

    /// The caller's side: dropping it before the object is visible cancels.
    pub(super) fn caller(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }
}

#[derive(Debug)]
pub(super) struct CancelOnDrop(Race);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.win(Race::CANCELLED);
    }
}

/// Writes the object under its temporary name, makes it durable, then gives it its name and makes
/// that durable. Returns its size in bytes.
///
/// The time of modification is set before the object is visible, unlike what Litestream does: a
/// restore to a point in time goes by it, so it has to be right from the first moment and survive a
/// power cut.
pub(super) fn publish(
    disk: &dyn Disk,
    permissions: Permissions,
    target: &Target,
    source: &mut dyn Source,
    race: &Race,
) -> Result<u64, Aborted> {
    if race.cancelled() {
        return Err(Aborted::Gone);
    }
    let file = disk
        .create_new(&target.temporary, permissions.file_mode)
        .map_err(failure("create", &target.temporary))?;
    let written = fill(&*file, permissions, target, source);
    // Closed before it is renamed: network file systems report some errors no earlier.
    drop(file);
    let named = written.and_then(|size| {
        if !race.win(Race::COMMITTED) {
            return Err(Aborted::Gone);
        }
        let renamed = match target.existing {
            Existing::Keep => disk.rename_noreplace(&target.temporary, &target.path),
            Existing::Replace => disk.rename(&target.temporary, &target.path),
        };
        renamed.map_err(failure("create", &target.path))?;
        Ok(size)
    });
    if named.is_err() {
        // What stays behind here is removed by the next process.
        let _ = disk.remove_file(&target.temporary);
        return named;
    }
    let dir = target.path.parent().unwrap_or(Path::new("."));
    if let Err(error) = disk.sync_dir(dir) {
        // A power cut may take the object away, so it must not look stored. Where even this fails
        // it stays, whole, and the directory is synced again before anything else is stored in it.
        if target.existing == Existing::Keep {
            let _ = disk.remove_file(&target.path);
        }
        return Err(failure("sync", dir)(error).into());
    }
    named
}

fn fill(
    file: &dyn DiskFile,
    permissions: Permissions,
    target: &Target,
    source: &mut dyn Source,
) -> Result<u64, Aborted> {
    let path = &target.temporary;
    if let Some((uid, gid)) = permissions.file_owner {
        // Only root can give files away; for others this fails and does not matter.
        let _ = file.set_owner(uid, gid);
    }
    let mut size = 0;
    while let Some(chunk) = source.next().map_err(|Gone| Aborted::Gone)? {
        file.write_at(&chunk, size)
            .map_err(failure("write", path))?;
        size += chunk.len() as u64;
    }
    if let Some(modified) = target.modified {
        file.set_modified(modified)
            .map_err(failure("set the time of", path))?;
    }
    file.sync_all().map_err(failure("sync", path))?;
    Ok(size)
}

/// Creates a directory and its missing parents, each durable in its own parent.
pub(super) fn create_dirs(
    disk: &dyn Disk,
    permissions: Permissions,
    dir: &Path,
) -> Result<(), Failure> {
    let missing = |path: &Path| match disk.metadata(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(failure("look at", path)(error)),
    };
    let mut to_create = Vec::new();
    for path in dir.ancestors().filter(|path| !path.as_os_str().is_empty()) {
        if !missing(path)? {
            break;
        }
        to_create.push(path);
    }
    for path in to_create.into_iter().rev() {
        match disk.create_dir(path, permissions.dir_mode) {
            Ok(()) => {}
            // Another client was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failure("create the directory", path)(error)),
        }
        if let Some((uid, gid)) = permissions.dir_owner {
            let _ = disk.set_owner(path, uid, gid);
        }
        sync_parent(disk, path)?;
    }
    Ok(())
}

/// Makes a directory's own name durable. Passes over parents that we may not open: they are not
/// ours.
pub(super) fn sync_parent(disk: &dyn Disk, dir: &Path) -> Result<(), Failure> {
    let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return Ok(());
    };
    match disk.sync_dir(parent) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
            Err(failure("sync", parent)(error))
        }
        _ => Ok(()),
    }
}

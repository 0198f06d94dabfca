//! One at a time for changes of small objects.
//!
//! Renaming replaces whatever is there, so looking at an object and replacing it have to be made one
//! step. That is what a lock on `<root>/evertide/.lock` is for: whoever stores or deletes a small object
//! holds it from the look to the renaming, a few milliseconds. It is a lock of the kernel's on an open
//! file, and its being there is no sign of anything, so that
//!
//! - a holder that is killed, at whatever point, holds nothing any more. Nobody has to find out whether a
//!   lock is stale and break it, which two could do at a time. The object was renamed or was not;
//! - a holder that is stopped keeps it, so what it looked at stays true until it wakes and renames. Others
//!   are told after a few seconds, and try again;
//! - the file is never removed: who waits for it would lock a file that nobody else sees. Where somebody
//!   removes it all the same, whoever locked it notices before relying on it.
//!
//! Network file systems: NFS asks its server, unless mounted with `nolock` or `local_lock`. Where there
//! are no locks at all the look before the renaming is the best there is.

use std::{io, os::fd::BorrowedFd, path::Path, thread, time::Duration};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

use super::publish::{Failure, Permissions, failure};
use crate::{Disk, DiskFile};

/// A small object takes milliseconds: who holds it so long is stopped, or its disk is.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Held until dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Box<dyn DiskFile>,
}

/// Locks; in a directory that does not exist there is nothing to lock, which is an error of
/// [`io::ErrorKind::NotFound`].
pub(super) fn lock(
    disk: &dyn Disk,
    permissions: Permissions,
    path: &Path,
) -> Result<Lock, Failure> {
    let (mut pause, mut waited) = (Duration::from_millis(1), Duration::ZERO);
    loop {
        let file = open(disk, permissions, path)?;
        match try_lock(file.as_fd()).map_err(failure("lock", path))? {
            Answer::Locked if is_at(disk, &*file, path)? => return Ok(Lock { _file: file }),
            Answer::NoLocks => return Ok(Lock { _file: file }),
            Answer::Locked => {}
            Answer::Busy if waited >= PATIENCE => {
                let why = "another process has held the lock for 5 s; it may have been stopped \
                           (SIGSTOP), or the disk hangs";
                let error = io::Error::new(io::ErrorKind::WouldBlock, why);
                return Err(failure("lock", path)(error));
            }
            Answer::Busy => {}
        }
        drop(file);
        thread::sleep(pause);
        waited += pause;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn open(
    disk: &dyn Disk,
    permissions: Permissions,
    path: &Path,
) -> Result<Box<dyn DiskFile>, Failure> {
    loop {
        match disk.open_rw(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.map_err(failure("open", path)),
        }
        match disk.create_new(path, permissions.file_mode) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failure("create", path)(error)),
            Ok(file) => {
                if let Some((uid, gid)) = permissions.file_owner {
                    let _ = file.set_owner(uid, gid);
                }
                return Ok(file);
            }
        }
    }
}

/// Whether this open file still is the one that others will find.
fn is_at(disk: &dyn Disk, file: &dyn DiskFile, path: &Path) -> Result<bool, Failure> {
    let ours = file.metadata().map_err(failure("look at", path))?;
    match disk.metadata(path) {
        Ok(found) => Ok((found.dev, found.ino) == (ours.dev, ours.ino)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failure("look at", path)(error)),
    }
}

enum Answer {
    Locked,
    Busy,
    /// The file system has none.
    NoLocks,
}

fn try_lock(file: BorrowedFd<'_>) -> io::Result<Answer> {
    let request = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0, // required to be zero for locks of open files
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&request)) {
        Ok(_) => Ok(Answer::Locked),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(Answer::Busy),
        Err(Errno::ENOLCK | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(Answer::NoLocks),
        Err(errno) => Err(errno.into()),
    }
}

//! Open-file-description locks on single bytes. Unlike SQLite's POSIX locks they belong to the
//! descriptor, so the two conflict as they should even inside one process.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

const UNLOCK_ATTEMPTS: u32 = 100;
const UNLOCK_PAUSE: Duration = Duration::from_millis(1);

/// A kind of lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lock {
    /// Many may hold it.
    Shared,
    /// One may hold it.
    Exclusive,
}

/// Locks one byte, or converts our lock on it; `false` when somebody else is in the way.
pub(crate) fn try_lock(file: impl AsFd, byte: u64, lock: Lock) -> io::Result<bool> {
    let kind = match lock {
        Lock::Shared => libc::F_RDLCK,
        Lock::Exclusive => libc::F_WRLCK,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&request(kind, byte))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Unlocks one byte. What fails is tried again for a moment: a lock that stays keeps others out for as long as this
/// process runs, as its descriptor cannot be closed.
pub(crate) fn unlock(file: impl AsFd, byte: u64) -> io::Result<()> {
    let request = request(libc::F_UNLCK, byte);
    for _ in 1..UNLOCK_ATTEMPTS {
        if fcntl(&file, FcntlArg::F_OFD_SETLK(&request)).is_ok() {
            return Ok(());
        }
        thread::sleep(UNLOCK_PAUSE);
    }
    fcntl(file, FcntlArg::F_OFD_SETLK(&request))?;
    Ok(())
}

/// The process that holds an exclusive lock on the byte, if one does; -1 where it has no ID.
pub(crate) fn exclusive_holder(file: impl AsFd, byte: u64) -> io::Result<Option<i32>> {
    // Asking for a shared lock leaves out shared holders, and takes nothing.
    let mut answer = request(libc::F_RDLCK, byte);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut answer))?;
    Ok((i32::from(answer.l_type) != libc::F_UNLCK).then_some(answer.l_pid))
}

/// Takes an exclusive lock on the first byte of a file of our own.
pub(crate) fn try_lock_file(file: BorrowedFd<'_>) -> io::Result<bool> {
    try_lock(file, 0, Lock::Exclusive)
}

/// Lets go of what [`try_lock_file`] took.
pub(crate) fn unlock_file(file: BorrowedFd<'_>) -> io::Result<()> {
    unlock(file, 0)
}

fn request(kind: i32, byte: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as libc::off_t,
        l_len: 1,
        l_pid: 0, // required to be zero for this family of locks
    }
}

//! Every operation on files that the product makes, behind two traits.
//!
//! The traits exist so that tests can fail the N-th operation, record all of them and replay what a
//! power cut would have left. All calls block; async callers move them to a blocking thread.

#[cfg(feature = "testing")]
mod crash;
#[cfg(feature = "testing")]
mod fault;
mod os;
#[cfg(feature = "testing")]
mod record;

use std::{ffi::OsString, fmt::Debug, io, os::fd::BorrowedFd, path::Path, time::SystemTime};

pub use self::os::OsDisk;
#[cfg(feature = "testing")]
pub use self::{
    crash::{CrashPoint, Unsynced},
    fault::{Fault, FaultDisk},
    record::RecordingDisk,
};

/// What a path names. Symbolic links are followed by [`Disk::metadata`], not by [`Disk::read_dir`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, a socket, a device.
    Other,
}

/// What the file system knows about a file or directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes.
    pub len: u64,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// User ID of the owner.
    pub uid: u32,
    /// Group ID of the owner.
    pub gid: u32,
    /// Device; together with `ino` it identifies a file whatever its path.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Last modification of the content, or what [`DiskFile::set_modified`] said.
    pub modified: SystemTime,
}

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirEntry {
    /// The name, without its directory.
    pub name: OsString,
    /// Whether it is a directory itself. A symbolic link never is.
    pub is_dir: bool,
    /// Whether it is a symbolic link.
    pub is_link: bool,
}

/// A file system.
///
/// Errors are those of the operating system, with their `raw_os_error`; callers add the path and
/// what they were doing. [`io::ErrorKind::NotFound`] and [`io::ErrorKind::AlreadyExists`] mean what
/// they say on every implementation.
pub trait Disk: Debug + Send + Sync {
    /// Opens an existing file for reading.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing. Does not create or truncate it.
    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Creates a file that must not exist, for reading and writing, with these permission bits less
    /// the umask.
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>>;

    /// Renames, replacing what `to` names. Durable only after [`Disk::sync_dir`] of the directories
    /// of both.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Renames a file, and fails with [`io::ErrorKind::AlreadyExists`] rather than replace what
    /// `to` names. Atomic: of two callers one wins.
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Creates one directory, with these permission bits less the umask.
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()>;

    /// Gives a file or directory to this user and group.
    fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()>;

    /// Makes creations, renames and removals in this directory survive a power cut.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// The entries of a directory in no particular order, without `.` and `..`.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// What the file system knows about a path, symbolic links followed. Opens nothing, so that no
    /// lock of SQLite's on the file is dropped by a close.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;

    /// Creates a directory and its missing parents, each with these permission bits less the umask,
    /// and makes each new one durable in its parent. Returns whether any was created.
    fn create_dir_all(&self, path: &Path, mode: u32) -> io::Result<bool> {
        match self.metadata(path) {
            Ok(found) if found.kind == FileKind::Directory => return Ok(false),
            Ok(_) => return Err(io::Error::from(io::ErrorKind::NotADirectory)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dir_all(parent, mode)?;
        }
        match self.create_dir(path, mode) {
            Ok(()) => {}
            // Another process may have been faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        self.sync_dir(parent.unwrap_or(Path::new(".")))?;
        Ok(true)
    }
}

/// An open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Fills the buffer from this offset. Returns fewer bytes only where the file ends.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all the bytes at this offset, extending the file where needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// What the file system knows about the file.
    fn metadata(&self) -> io::Result<Metadata>;

    /// Cuts or extends the file, with zeros, to this length in bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space for the first `len` bytes and extends the file to them, so that later writes
    /// cannot fail for lack of space. Does nothing where the file system cannot.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Makes content and metadata survive a power cut. A failure is final: the kernel may have
    /// dropped the unwritten pages, so a second call that succeeds proves nothing.
    fn sync_all(&self) -> io::Result<()>;

    /// As [`DiskFile::sync_all`], without metadata that is not needed to read the content back.
    fn sync_data(&self) -> io::Result<()>;

    /// Sets the time of last modification.
    fn set_modified(&self, time: SystemTime) -> io::Result<()>;

    /// Gives the file to this user and group.
    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()>;

    /// The descriptor, for locks and for watches. Reading or writing through it would escape the
    /// tests' disks.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// Length in bytes.
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len)
    }

    /// Whether the file has no content.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills the whole buffer from this offset, [`io::ErrorKind::UnexpectedEof`] where the file
    /// ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(buffer, offset)? == buffer.len() {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::UnexpectedEof))
        }
    }
}

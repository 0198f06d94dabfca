//! The operating system's file system: the one place of this crate that touches files.
#![allow(clippy::disallowed_methods)] // the rest of the workspace goes through this module

use std::{
    fs::{self, File, FileTimes, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{DirEntry, Disk, DiskFile, FileKind, Metadata};

/// The operating system's file system.
#[derive(Clone, Copy, Default, Debug)]
pub struct OsDisk;

/// Tells the log, at its finest level, of an operation before it is done: whoever looks for what a killed process did
/// last finds it there, and tests kill it there. Only with debug assertions: there are too many.
fn tell(operation: &'static str, path: &Path) {
    if cfg!(debug_assertions) {
        tracing::trace!(operation, path = %path.display(), "disk");
    }
}

impl Disk for OsDisk {
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(OsFile::boxed(File::open(path)?, path))
    }

    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(OsFile::boxed(file, path))
    }

    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(mode);
        tell("create_new", path);
        Ok(OsFile::boxed(options.open(path)?, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        tell("rename", to);
        fs::rename(from, to)
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        tell("rename_noreplace", to);
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            use nix::{
                errno::Errno,
                fcntl::{AT_FDCWD, RenameFlags, renameat2},
            };
            match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => return Ok(()),
                // The file system (NFS, some FUSE) or the kernel cannot; a hard link can do the
                // same.
                Err(Errno::EINVAL | Errno::ENOSYS | Errno::ENOTSUP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        fs::hard_link(from, to)?;
        // Done, as far as `to` is concerned: a second name that stays must not look like a failure.
        let _ = fs::remove_file(from);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        tell("remove_file", path);
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        tell("remove_dir", path);
        fs::remove_dir(path)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        tell("create_dir", path);
        fs::DirBuilder::new().mode(mode).create(path)
    }

    fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        tell("sync_dir", path);
        match File::open(path)?.sync_all() {
            // Some network file systems cannot sync a directory: there is nothing more that could
            // be done.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            other => other,
        }
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                let kind = entry.file_type()?;
                Ok(DirEntry {
                    is_dir: kind.is_dir(),
                    is_link: kind.is_symlink(),
                    name: entry.file_name(),
                })
            })
            .collect()
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        Ok(fs::metadata(path)?.into())
    }
}

#[derive(Debug)]
struct OsFile {
    file: File,
    /// What it was opened as; empty where nobody is told.
    path: PathBuf,
}

impl OsFile {
    fn boxed(file: File, path: &Path) -> Box<dyn DiskFile> {
        let path = if cfg!(debug_assertions) {
            path.to_owned()
        } else {
            PathBuf::new()
        };
        Box::new(Self { file, path })
    }
}

impl DiskFile for OsFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        tell("write_at", &self.path);
        self.file.write_all_at(bytes, offset)
    }

    fn metadata(&self) -> io::Result<Metadata> {
        Ok(self.file.metadata()?.into())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        tell("set_len", &self.path);
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        tell("allocate", &self.path);
        #[cfg(target_os = "linux")]
        {
            use nix::{
                errno::Errno,
                fcntl::{FallocateFlags, fallocate},
            };
            // The kernel's call, not the C library's: that one writes zeros where the file system
            // cannot reserve.
            let size = i64::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
            if size > 0 {
                match fallocate(self.file.as_fd(), FallocateFlags::empty(), 0, size) {
                    Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        if self.file.metadata()?.len() < len {
            self.file.set_len(len)?;
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        tell("sync_all", &self.path);
        self.file.sync_all()
    }

    fn sync_data(&self) -> io::Result<()> {
        tell("sync_data", &self.path);
        self.file.sync_data()
    }

    fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        tell("set_modified", &self.path);
        self.file
            .set_times(FileTimes::new().set_modified(time).set_accessed(time))
    }

    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        std::os::unix::fs::fchown(&self.file, Some(uid), Some(gid))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<fs::Metadata> for Metadata {
    fn from(found: fs::Metadata) -> Self {
        let kind = match found.file_type() {
            kind if kind.is_file() => FileKind::File,
            kind if kind.is_dir() => FileKind::Directory,
            _ => FileKind::Other,
        };
        Self {
            kind,
            len: found.len(),
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            dev: found.dev(),
            ino: found.ino(),
            // Never absent on a Unix.
            modified: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

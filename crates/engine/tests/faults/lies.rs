//! Disks that lie: they prove that the tests beside them can fail.

use std::{
    io,
    os::fd::BorrowedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use evertide_storage::{DirEntry, Disk, DiskFile, Metadata};

/// What a disk says it did, and did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lie {
    /// The n-th renaming of an LTX file of a replica, from 1.
    Publish(u64),
    /// Every sync.
    Sync,
}

/// A disk that tells one lie and passes everything else on.
#[derive(Debug)]
pub(crate) struct LyingDisk {
    inner: Arc<dyn Disk>,
    lie: Lie,
    published: AtomicU64,
}

impl LyingDisk {
    pub(crate) fn new(inner: Arc<dyn Disk>, lie: Lie) -> Self {
        Self {
            inner,
            lie,
            published: AtomicU64::new(0),
        }
    }

    fn file(&self, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(LyingFile {
            inner,
            lie: self.lie,
        })
    }
}

impl Disk for LyingDisk {
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.inner.open_read(path)
    }

    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.inner.open_rw(path)?))
    }

    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.inner.create_new(path, mode)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        if to.extension().is_none_or(|extension| extension != "ltx") {
            return self.inner.rename_noreplace(from, to);
        }
        let number = self.published.fetch_add(1, Ordering::Relaxed) + 1;
        if self.lie == Lie::Publish(number) {
            return self.inner.remove_file(from);
        }
        self.inner.rename_noreplace(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.inner.create_dir(path, mode)
    }

    fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        self.inner.set_owner(path, uid, gid)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.lie == Lie::Sync {
            return Ok(());
        }
        self.inner.sync_dir(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.read_dir(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.inner.metadata(path)
    }
}

#[derive(Debug)]
struct LyingFile {
    inner: Box<dyn DiskFile>,
    lie: Lie,
}

impl DiskFile for LyingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(bytes, offset)
    }

    fn metadata(&self) -> io::Result<Metadata> {
        self.inner.metadata()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }

    fn sync_all(&self) -> io::Result<()> {
        if self.lie == Lie::Sync {
            return Ok(());
        }
        self.inner.sync_all()
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.lie == Lie::Sync {
            return Ok(());
        }
        self.inner.sync_data()
    }

    fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        self.inner.set_modified(time)
    }

    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        self.inner.set_owner(uid, gid)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

//! A disk that records what would have to survive a power cut.

use std::{
    collections::BTreeMap,
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::{
    DirEntry, Disk, DiskFile, FileKind, Metadata, OsDisk,
    crash::{CrashPoint, Entry, Image, Node, Op, Unsynced},
};

/// The operating system's disk below one directory, with a record of every change.
///
/// What it was asked to do can be cut short after any operation and written to another directory in
/// the ways a power cut could have left it, see [`RecordingDisk::replay`]. Only what goes through
/// this disk is recorded: a database that SQLite writes beside it is not. What the directory held
/// at first counts as durable. Directories cannot be renamed.
#[derive(Debug)]
pub struct RecordingDisk {
    root: PathBuf,
    base: Image,
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    ops: Vec<Op>,
    /// Which file each name below the root stands for at the moment.
    names: BTreeMap<PathBuf, Entry>,
    next: u64,
}

impl Log {
    fn new_node(&mut self) -> Node {
        self.next += 1;
        Node(self.next)
    }
}

impl RecordingDisk {
    /// Records what happens below this directory, which must exist.
    pub fn new(root: &Path) -> io::Result<Self> {
        let mut base = Image::default();
        let mut log = Log::default();
        scan(root, Path::new(""), &mut base, &mut log)?;
        log.names = base.names.clone();
        Ok(Self {
            root: root.to_path_buf(),
            base,
            log: Arc::new(Mutex::new(log)),
        })
    }

    /// Number of operations recorded so far. Reads are not recorded.
    pub fn operations(&self) -> usize {
        self.lock().ops.len()
    }

    /// Every place where the power could have been cut so far, each with everything unsynced
    /// dropped, everything kept, and `seeds` random mixtures.
    pub fn crash_points(&self, seeds: u64) -> impl Iterator<Item = CrashPoint> + use<> {
        (0..=self.operations()).flat_map(move |operations| {
            let mixed = (0..seeds).map(|seed| Unsynced::Mixed { seed });
            [Unsynced::Dropped, Unsynced::Kept]
                .into_iter()
                .chain(mixed)
                .map(move |unsynced| CrashPoint {
                    operations,
                    unsynced,
                })
        })
    }

    /// Writes to the directory `into`, which must exist and be empty, what a machine would find
    /// after a power cut at this point.
    pub fn replay(&self, point: CrashPoint, into: &Path) -> io::Result<()> {
        let log = self.lock();
        let ops = log.ops.get(..point.operations).unwrap_or(&log.ops);
        self.base.after_crash(ops, point.unsynced).write_to(into)
    }

    /// Describes the operations recorded so far, for a failing test's message.
    pub fn describe(&self) -> Vec<String> {
        self.lock().ops.iter().map(ToString::to_string).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    fn relative(&self, path: &Path) -> io::Result<PathBuf> {
        path.strip_prefix(&self.root)
            .map(Path::to_path_buf)
            .map_err(|_| {
                let message = format!("{} is outside of {}", path.display(), self.root.display());
                io::Error::new(io::ErrorKind::InvalidInput, message)
            })
    }

    fn file(&self, node: Node, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(RecordedFile {
            node,
            inner,
            log: self.log.clone(),
        })
    }

    fn rename_with(
        &self,
        from: &Path,
        to: &Path,
        rename: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let (old, new) = (self.relative(from)?, self.relative(to)?);
        let mut log = self.lock();
        if log.names.get(&old) == Some(&Entry::Directory) {
            let message = "the recording disk cannot rename directories";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        rename()?;
        if let Some(entry) = log.names.remove(&old) {
            log.names.insert(new.clone(), entry);
            log.ops.push(Op::Rename {
                from: old,
                to: new,
                entry,
            });
        }
        Ok(())
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes what is there at the start for durable.
fn scan(root: &Path, below: &Path, base: &mut Image, log: &mut Log) -> io::Result<()> {
    for found in OsDisk.read_dir(&root.join(below))? {
        let path = below.join(&found.name);
        if found.is_dir {
            base.names.insert(path.clone(), Entry::Directory);
            scan(root, &path, base, log)?;
        } else {
            let file = OsDisk.open_read(&root.join(&path))?;
            let metadata = file.metadata()?;
            let mut content = vec![0; usize::try_from(metadata.len).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut content, 0)?;
            let node = log.new_node();
            base.names.insert(path, Entry::File(node));
            base.files.insert(node, (content, Some(metadata.modified)));
        }
    }
    Ok(())
}

impl Disk for RecordingDisk {
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        OsDisk.open_read(path)
    }

    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let relative = self.relative(path)?;
        let log = self.lock();
        let inner = OsDisk.open_rw(path)?;
        match log.names.get(&relative) {
            Some(Entry::File(node)) => Ok(self.file(*node, inner)),
            _ => Err(io::Error::other(format!(
                "{} was not made here",
                path.display()
            ))),
        }
    }

    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let relative = self.relative(path)?;
        let mut log = self.lock();
        let inner = OsDisk.create_new(path, mode)?;
        let node = log.new_node();
        log.names.insert(relative.clone(), Entry::File(node));
        log.ops.push(Op::Create {
            path: relative,
            node,
        });
        Ok(self.file(node, inner))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_with(from, to, || OsDisk.rename(from, to))
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_with(from, to, || OsDisk.rename_noreplace(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let relative = self.relative(path)?;
        let mut log = self.lock();
        OsDisk.remove_file(path)?;
        log.names.remove(&relative);
        log.ops.push(Op::Remove { path: relative });
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let relative = self.relative(path)?;
        let mut log = self.lock();
        OsDisk.remove_dir(path)?;
        log.names.remove(&relative);
        log.ops.push(Op::Remove { path: relative });
        Ok(())
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        let relative = self.relative(path)?;
        let mut log = self.lock();
        OsDisk.create_dir(path, mode)?;
        log.names.insert(relative.clone(), Entry::Directory);
        log.ops.push(Op::CreateDir { path: relative });
        Ok(())
    }

    fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        OsDisk.set_owner(path, uid, gid)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let relative = self.relative(path)?;
        let mut log = self.lock();
        OsDisk.sync_dir(path)?;
        log.ops.push(Op::SyncDir { path: relative });
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        OsDisk.read_dir(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        OsDisk.metadata(path)
    }

    fn create_dir_all(&self, path: &Path, mode: u32) -> io::Result<bool> {
        if self
            .metadata(path)
            .is_ok_and(|found| found.kind == FileKind::Directory)
        {
            return Ok(false);
        }
        if let Some(parent) = path
            .parent()
            .filter(|parent| parent.starts_with(&self.root))
        {
            self.create_dir_all(parent, mode)?;
            self.create_dir(path, mode)?;
            self.sync_dir(parent)?;
        }
        Ok(true)
    }
}

#[derive(Debug)]
struct RecordedFile {
    node: Node,
    inner: Box<dyn DiskFile>,
    log: Arc<Mutex<Log>>,
}

impl RecordedFile {
    /// Does it and records it, so that the record has the order in which things happened.
    fn record(&self, op: Op, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut log = lock(&self.log);
        act()?;
        log.ops.push(op);
        Ok(())
    }
}

impl DiskFile for RecordedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let op = Op::Write {
            node: self.node,
            offset,
            bytes: bytes.into(),
        };
        self.record(op, || self.inner.write_at(bytes, offset))
    }

    fn metadata(&self) -> io::Result<Metadata> {
        self.inner.metadata()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.record(
            Op::SetLen {
                node: self.node,
                len,
            },
            || self.inner.set_len(len),
        )
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let len_before = self.inner.len()?;
        let op = Op::SetLen {
            node: self.node,
            len: len.max(len_before),
        };
        self.record(op, || self.inner.allocate(len))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.record(Op::Sync { node: self.node }, || self.inner.sync_all())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.record(Op::SyncData { node: self.node }, || self.inner.sync_data())
    }

    fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        let op = Op::SetModified {
            node: self.node,
            time,
        };
        self.record(op, || self.inner.set_modified(time))
    }

    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        self.inner.set_owner(uid, gid)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

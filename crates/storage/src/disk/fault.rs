//! A disk that fails its N-th operation.

use std::{
    fmt, io,
    os::fd::BorrowedFd,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::{DirEntry, Disk, DiskFile, Metadata};

/// How long a fault lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// One operation fails, those after it work: a transient error.
    Once,
    /// That operation and all after it fail, until [`FaultDisk::heal`]: a full or dead disk.
    Forever,
}

/// A disk that passes operations on to another one, counts them, and fails the N-th.
///
/// A failing write leaves its first half in the file, as a full disk does. Loop `n` from 1 until a
/// run completes without [`FaultDisk::tripped`], and every operation has been the one that fails.
#[derive(Debug)]
pub struct FaultDisk {
    inner: Arc<dyn Disk>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    operations: u64,
    plan: Option<Plan>,
    tripped: bool,
    log: Vec<&'static str>,
    call: Option<Call>,
}

/// What is called, and before which operation, or before each.
struct Call {
    at: Option<u64>,
    action: Box<dyn Fn(&'static str) + Send>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    at: u64,
    fault: Fault,
    errno: i32,
}

impl FaultDisk {
    /// A disk without faults so far.
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        Self {
            inner,
            state: Arc::default(),
        }
    }

    /// Fails the `n`-th operation from now, the next one being 1, with this error of the operating
    /// system (28 is ENOSPC, 5 is EIO). Forgets what was planned and counted before.
    pub fn fail_at(&self, n: u64, fault: Fault, errno: i32) {
        *lock(&self.state) = State {
            plan: Some(Plan {
                at: n,
                fault,
                errno,
            }),
            ..State::default()
        };
    }

    /// Calls this with the name of the `n`-th operation from now, before it is done: to kill the process there,
    /// say. Forgets what was planned and counted before.
    pub fn call_at(&self, n: u64, action: impl Fn(&'static str) + Send + 'static) {
        let action = Box::new(action);
        *lock(&self.state) = State {
            call: Some(Call {
                at: Some(n),
                action,
            }),
            ..State::default()
        };
    }

    /// Calls this with the name of each operation from now on, before it is done or fails. What was planned stays; what
    /// is planned later ends it.
    pub fn call_at_each(&self, action: impl Fn(&'static str) + Send + 'static) {
        let action = Box::new(action);
        lock(&self.state).call = Some(Call { at: None, action });
    }

    /// No more faults. Whether one happened stays visible.
    pub fn heal(&self) {
        lock(&self.state).plan = None;
    }

    /// Whether a planned fault has happened.
    pub fn tripped(&self) -> bool {
        lock(&self.state).tripped
    }

    /// Operations since the last [`FaultDisk::fail_at`], failed ones included.
    pub fn operations(&self) -> u64 {
        lock(&self.state).operations
    }

    /// Names of those operations in order, such as `create_new` and `sync_all`.
    pub fn log(&self) -> Vec<&'static str> {
        lock(&self.state).log.clone()
    }

    fn file(&self, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultFile {
            inner,
            state: self.state.clone(),
        })
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts one operation, and fails where the plan says so.
fn step(state: &Mutex<State>, name: &'static str) -> io::Result<()> {
    let mut state = lock(state);
    state.operations += 1;
    state.log.push(name);
    if let Some(call) = state
        .call
        .as_ref()
        .filter(|call| call.at.is_none_or(|at| at == state.operations))
    {
        (call.action)(name);
    }
    let Some(plan) = state.plan else {
        return Ok(());
    };
    let fails = match plan.fault {
        Fault::Once => state.operations == plan.at,
        Fault::Forever => state.operations >= plan.at,
    };
    if fails {
        state.tripped = true;
        return Err(io::Error::from_raw_os_error(plan.errno));
    }
    Ok(())
}

impl Disk for FaultDisk {
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        step(&self.state, "open_read")?;
        Ok(self.file(self.inner.open_read(path)?))
    }

    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        step(&self.state, "open_rw")?;
        Ok(self.file(self.inner.open_rw(path)?))
    }

    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        step(&self.state, "create_new")?;
        Ok(self.file(self.inner.create_new(path, mode)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        step(&self.state, "rename")?;
        self.inner.rename(from, to)
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        step(&self.state, "rename_noreplace")?;
        self.inner.rename_noreplace(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        step(&self.state, "remove_file")?;
        self.inner.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        step(&self.state, "remove_dir")?;
        self.inner.remove_dir(path)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        step(&self.state, "create_dir")?;
        self.inner.create_dir(path, mode)
    }

    fn set_owner(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        step(&self.state, "set_owner")?;
        self.inner.set_owner(path, uid, gid)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        step(&self.state, "sync_dir")?;
        self.inner.sync_dir(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        step(&self.state, "read_dir")?;
        self.inner.read_dir(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        step(&self.state, "metadata")?;
        self.inner.metadata(path)
    }
}

#[derive(Debug)]
struct FaultFile {
    inner: Box<dyn DiskFile>,
    state: Arc<Mutex<State>>,
}

impl DiskFile for FaultFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        step(&self.state, "read_at")?;
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = step(&self.state, "write_at") {
            let (half, _) = bytes.split_at(bytes.len() / 2);
            self.inner.write_at(half, offset)?;
            return Err(error);
        }
        self.inner.write_at(bytes, offset)
    }

    fn metadata(&self) -> io::Result<Metadata> {
        step(&self.state, "file metadata")?;
        self.inner.metadata()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        step(&self.state, "set_len")?;
        self.inner.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        step(&self.state, "allocate")?;
        self.inner.allocate(len)
    }

    fn sync_all(&self) -> io::Result<()> {
        step(&self.state, "sync_all")?;
        self.inner.sync_all()
    }

    fn sync_data(&self) -> io::Result<()> {
        step(&self.state, "sync_data")?;
        self.inner.sync_data()
    }

    fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        step(&self.state, "set_modified")?;
        self.inner.set_modified(time)
    }

    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        step(&self.state, "file set_owner")?;
        self.inner.set_owner(uid, gid)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

//! The file that is being restored: under a name of its own until it is complete.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use evertide_storage::{Disk, DiskFile, FileKind, Metadata};
use rusqlite::InterruptHandle;

use super::{ExistingOutput, RestoreError};
use crate::wal::{beside, try_lock_file};

/// What SQLite keeps beside a database; the first two it would play into whatever lies there.
const JOURNALS: [&str; 2] = ["-wal", "-journal"];
const SHARED_MEMORY: &str = "-shm";
/// What the temporary file is for, as a part of its name.
const TEMPORARY: &str = "restoring";
/// The same of what belonged to a database that is replaced.
const ASIDE: &str = "replaced";

/// The names of the temporary files that this process restores to. It opens none of them a second time: if that one got
/// its name meanwhile, and the application opened it, closing it would drop the application's locks.
static OURS: Mutex<BTreeSet<OsString>> = Mutex::new(BTreeSet::new());

fn ours() -> MutexGuard<'static, BTreeSet<OsString>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary file of ours, until it has another name or is gone.
struct Temporary(PathBuf);

impl Temporary {
    fn new(path: PathBuf) -> Self {
        ours().insert(name_of(&path).to_owned());
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        ours().remove(name_of(&self.0));
    }
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

/// The output of a restore. Shared by the thread that writes it and the future that waits for it:
/// whichever gives up first, the temporary file goes.
#[derive(Debug)]
pub(super) struct Output {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    existing: ExistingOutput,
    mode: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cancelled: bool,
    temporary: Option<Temporary>,
    /// What restores set aside that were killed before.
    left_aside: Vec<PathBuf>,
    /// Stops SQLite in the middle of a check.
    interrupt: Option<InterruptHandle>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("State");
        out.field("cancelled", &self.cancelled)
            .field("temporary", &self.temporary.as_ref().map(|file| &file.0));
        out.finish_non_exhaustive()
    }
}

impl Output {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        existing: ExistingOutput,
        mode: u32,
    ) -> Self {
        Self {
            disk,
            path,
            existing,
            mode,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses an output that must not be touched. What is true now is made sure of again at the
    /// end.
    pub(super) fn check(&self) -> Result<Option<Metadata>, RestoreError> {
        let found = self.look(&self.path)?;
        match (&found, self.existing) {
            (Some(found), _) if found.kind != FileKind::File => {
                return Err(RestoreError::OutputNotAFile(self.path.clone()));
            }
            (Some(_), ExistingOutput::Refuse) => {
                return Err(RestoreError::OutputExists(self.path.clone()));
            }
            _ => {}
        }
        for journal in JOURNALS.map(|suffix| beside(&self.path, suffix)) {
            let content = self.look(&journal)?.is_some_and(|found| found.len > 0);
            if content && self.existing == ExistingOutput::Refuse {
                return Err(RestoreError::LeftoverJournal(journal));
            }
        }
        Ok(found)
    }

    fn look(&self, path: &Path) -> Result<Option<Metadata>, RestoreError> {
        match self.disk.metadata(path) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RestoreError::io("look at", path)(error)),
        }
    }

    /// Creates the temporary file, in the directory of the output and with its future permissions.
    pub(super) fn create(&self) -> Result<Box<dyn DiskFile>, RestoreError> {
        let found = self.check()?;
        self.create_directory()?;
        self.sweep();
        let mode = found.as_ref().map_or(self.mode, |found| found.mode);
        let temporary = Temporary::new(self.sibling(TEMPORARY));
        let mut state = self.state();
        if state.cancelled {
            return Err(RestoreError::Cancelled);
        }
        let created = self.disk.create_new(&temporary.0, mode);
        let file = created.map_err(RestoreError::io("create", &temporary.0))?;
        state.temporary = Some(temporary);
        if self.existing == ExistingOutput::Replace {
            state.left_aside = self.named_for(ASIDE);
        }
        // Tells other restores that it is in use. Where locks do not work, none of them will take
        // it for a leftover either.
        let _ = try_lock_file(file.as_fd());
        if let Some(found) = found {
            // Only the superuser may give files away; everybody else keeps what they make.
            let _ = file.set_owner(found.uid, found.gid);
        }
        Ok(file)
    }

    /// Makes the directory of the output, unless nobody waits any more: then whoever gave up may have
    /// removed it.
    fn create_directory(&self) -> Result<(), RestoreError> {
        let state = self.state();
        if state.cancelled {
            return Err(RestoreError::Cancelled);
        }
        let directory = self.directory();
        let created = self.disk.create_dir_all(directory, 0o755);
        created.map_err(RestoreError::io("create", directory))?;
        Ok(())
    }

    /// A file for what does not fit in memory. It has no name, so nothing of it can stay behind.
    pub(super) fn scratch(&self) -> Result<Box<dyn DiskFile>, RestoreError> {
        let path = self.sibling(TEMPORARY);
        let created = self.disk.create_new(&path, 0o600);
        let file = created.map_err(RestoreError::io("create", &path))?;
        let removed = self.disk.remove_file(&path);
        removed.map_err(RestoreError::io("remove", &path))?;
        Ok(file)
    }

    /// Removes the temporary files of restores to this output that were killed. One that still runs
    /// holds a lock on its file.
    fn sweep(&self) {
        for path in self.named_for(TEMPORARY) {
            let is_ours = ours().contains(name_of(&path));
            if !is_ours
                && let Ok(file) = self.disk.open_rw(&path)
                && let Ok(true) = try_lock_file(file.as_fd())
            {
                self.remove_leftover(&path);
            }
        }
    }

    /// The files beside the output that have a name for this purpose.
    fn named_for(&self, purpose: &str) -> Vec<PathBuf> {
        let prefix = self.hidden(purpose);
        let entries = self.disk.read_dir(self.directory()).unwrap_or_default();
        entries
            .into_iter()
            .filter(|entry| entry.name.as_bytes().starts_with(prefix.as_bytes()))
            .map(|entry| self.directory().join(entry.name))
            .collect()
    }

    fn remove_leftover(&self, path: &Path) {
        let removed = self.disk.remove_file(path).is_ok();
        tracing::info!(path = %path.display(), removed, "found what a killed restore left");
    }

    fn directory(&self) -> &Path {
        let parent = self
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        parent.unwrap_or(Path::new("."))
    }

    /// A name beside the output that nothing else has.
    fn sibling(&self, purpose: &str) -> PathBuf {
        let mut name = self.hidden(purpose);
        name.push(format!("{:016x}", fastrand::u64(..)));
        self.directory().join(name)
    }

    /// What the names of files for this purpose start with.
    fn hidden(&self, purpose: &str) -> OsString {
        let mut name = OsString::from(".");
        name.push(self.path.file_name().unwrap_or(OsStr::new("database")));
        name.push(format!(".{purpose}-"));
        name
    }

    /// Where the temporary file is.
    pub(super) fn temporary(&self) -> Result<PathBuf, RestoreError> {
        let state = self.state();
        let temporary = state.temporary.as_ref();
        temporary
            .map(|file| file.0.clone())
            .ok_or(RestoreError::Cancelled)
    }

    /// Fails once nobody waits any more.
    pub(super) fn check_wanted(&self) -> Result<(), RestoreError> {
        if self.state().cancelled {
            Err(RestoreError::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Lets `cancel` stop a check by SQLite.
    pub(super) fn interruptible(&self, handle: InterruptHandle) -> Result<(), RestoreError> {
        let mut state = self.state();
        if state.cancelled {
            return Err(RestoreError::Cancelled);
        }
        state.interrupt = Some(handle);
        Ok(())
    }

    /// Gives the complete file its name. From here on nothing can be cancelled.
    ///
    /// It is closed right before: a descriptor that is closed later would drop the locks of whoever in this process
    /// opens the database as soon as it has its name. In between another process that restores to the same place
    /// may take it for a leftover; then this restore fails.
    pub(super) fn publish(&self, file: Box<dyn DiskFile>) -> Result<(), RestoreError> {
        let mut state = self.state();
        if state.cancelled {
            return Err(RestoreError::Cancelled);
        }
        self.check()?;
        let Some(Temporary(temporary)) = &state.temporary else {
            return Err(RestoreError::Cancelled);
        };
        match self.existing {
            ExistingOutput::Refuse => {
                drop(file);
                let renamed = self.disk.rename_noreplace(temporary, &self.path);
                renamed.map_err(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => RestoreError::OutputExists(self.path.clone()),
                    _ => RestoreError::io("name", &self.path)(error),
                })?;
            }
            ExistingOutput::Replace => {
                self.replace(temporary, file)?;
                // Until now the former database could be put together again with it.
                for path in &state.left_aside {
                    self.remove_leftover(path);
                }
            }
        }
        state.temporary = None;
        let directory = self.directory();
        self.disk
            .sync_dir(directory)
            .map_err(RestoreError::io("sync", directory))
    }

    /// Puts the file in the place of a former database.
    ///
    /// The journals of that one go aside first, since SQLite would play them into the new one, and
    /// are removed last, so that until the new database is there the former one can be put together
    /// again.
    fn replace(&self, temporary: &Path, file: Box<dyn DiskFile>) -> Result<(), RestoreError> {
        let mut aside = Vec::new();
        let result = self.set_aside(&mut aside).and_then(|()| {
            drop(file);
            let renamed = self.disk.rename(temporary, &self.path);
            renamed.map_err(RestoreError::io("replace", &self.path))
        });
        match result {
            Ok(()) => {
                let directory = self.directory();
                self.disk
                    .sync_dir(directory)
                    .map_err(RestoreError::io("sync", directory))?;
                for (_, moved) in aside {
                    if let Err(error) = self.disk.remove_file(&moved) {
                        let path = moved.display();
                        tracing::warn!(%path, %error, "a file of the replaced database stays");
                    }
                }
                Ok(())
            }
            Err(error) => {
                for (from, moved) in aside {
                    let _ = self.disk.rename(&moved, &from);
                }
                Err(error)
            }
        }
    }

    fn set_aside(&self, aside: &mut Vec<(PathBuf, PathBuf)>) -> Result<(), RestoreError> {
        for suffix in JOURNALS.into_iter().chain([SHARED_MEMORY]) {
            let from = beside(&self.path, suffix);
            if self.look(&from)?.is_some() {
                let moved = self.sibling(ASIDE);
                let renamed = self.disk.rename(&from, &moved);
                renamed.map_err(RestoreError::io("set aside", &from))?;
                aside.push((from, moved));
            }
        }
        if aside.is_empty() {
            return Ok(());
        }
        // After a power cut the new database must not be there with the journals still in place.
        let directory = self.directory();
        let synced = self.disk.sync_dir(directory);
        synced.map_err(RestoreError::io("sync", directory))
    }

    /// Gives up: removes the temporary file, and makes whoever still works on it stop.
    pub(super) fn cancel(&self) {
        let mut state = self.state();
        state.cancelled = true;
        if let Some(interrupt) = state.interrupt.take() {
            interrupt.interrupt();
        }
        if let Some(temporary) = state.temporary.take()
            && let Err(error) = self.disk.remove_file(&temporary.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            let path = temporary.0.display();
            tracing::warn!(%path, %error, "a temporary file of a failed restore stays behind");
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.cancel();
    }
}

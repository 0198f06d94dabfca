//! What the engine keeps beside a database, in `.<name>-evertide/`: a cache. Deleting it costs time
//! (a full snapshot at the next start), never correctness.
//!
//! | file | content |
//! |---|---|
//! | `lock` | locked while a process replicates the database; names that process |
//! | `identity` | who writes with this state, and of which history it is |
//! | `leases` | which leases of ours replicas are known to have, of those in stores without conditions |
//! | `position` | where capture stands |
//! | `pages` | the page table: checksum of each page, and the transaction that changed it last |
//! | `ltx/0/<min>-<max>.ltx` | captured files that not every replica has yet, and the newest one |

#[cfg(test)]
mod fuzz;
mod home;
mod identity;
mod leases;
mod pages;
mod position;
mod stage;
mod tips;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use evertide_ltx::Txid;
use evertide_storage::{Disk, DiskFile};

use crate::Error;

use self::position::PositionFile;
pub(crate) use self::{
    home::{boot, owner},
    identity::LocalIdentity,
    pages::{PageChanges, PageEntry, PageSet, PageTable, TableSums},
    position::Position,
    stage::{Stage, StageWriter, Staged},
    tips::{Tip, Tips},
};

/// The local state of one database, locked by this process.
#[derive(Debug)]
pub(crate) struct LocalState {
    dir: PathBuf,
    /// Who writes to replicas.
    pub(crate) identity: Arc<LocalIdentity>,
    positions: PositionFile,
    /// Where capture stands; `None` before the first snapshot.
    pub(crate) position: Option<Position>,
    /// The page table, complete for `position`.
    pub(crate) table: Option<PageTable>,
    /// Captured files.
    pub(crate) stage: Stage,
    _lock: StateLock,
}

/// The lock of a state, held until dropped.
///
/// A close alone would not let go of it while a process that the application is just starting has
/// inherited the descriptor.
#[derive(Debug)]
struct StateLock(Box<dyn DiskFile>);

impl Drop for StateLock {
    fn drop(&mut self) {
        if let Err(error) = crate::wal::unlock_file(self.0.as_fd()) {
            tracing::error!(%error, "cannot unlock the local state");
        }
    }
}

/// The first bytes of a file that has no more of them.
fn text_of<const MOST: usize>(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; MOST];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// The folder of the local state of a database.
pub(crate) fn state_dir(database: &Path) -> PathBuf {
    let name = database.file_name().unwrap_or_default().to_string_lossy();
    database.with_file_name(format!(".{name}-evertide"))
}

impl LocalState {
    /// Opens the state of the database, or starts an empty one.
    ///
    /// # Errors
    ///
    /// [`Error::ReplicatedElsewhere`] while another process has it; [`Error::Io`].
    pub(crate) fn open(disk: &dyn Disk, database: &Path) -> Result<Self, Error> {
        let dir = state_dir(database);
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io {
                path,
                action,
                source,
            }
        };
        disk.create_dir_all(&dir, 0o700)
            .map_err(failed("create", &dir))?;
        let lock = lock(disk, database, &dir.join("lock"))?;
        let path = dir.join("identity");
        let identity = LocalIdentity::open(disk, &path).map_err(failed("open", &path))?;
        let path = dir.join("position");
        let (positions, position) =
            PositionFile::open(disk, &path).map_err(failed("open", &path))?;
        let path = dir.join("ltx").join("0");
        let txid = position
            .as_ref()
            .map_or(Txid::ZERO, |position| position.txid);
        let stage = Stage::open(disk, path.clone(), txid).map_err(failed("open", &path))?;
        let path = dir.join("pages");
        let table = PageTable::open(disk, &path).map_err(failed("open", &path))?;
        Ok(Self {
            dir,
            identity: Arc::new(identity),
            positions,
            position,
            table,
            stage,
            _lock: lock,
        })
    }

    /// Where the page table is.
    pub(crate) fn table_path(&self) -> PathBuf {
        self.dir.join("pages")
    }

    /// Records where capture stands.
    pub(crate) fn save(&mut self, position: Position) -> Result<(), Error> {
        self.positions.save(&position).map_err(|source| Error::Io {
            path: self.dir.join("position"),
            action: "write",
            source,
        })?;
        self.position = Some(position);
        Ok(())
    }

    /// An error of an operation on a file of this state.
    pub(crate) fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> Error + use<> {
        let path = self.dir.clone();
        move |source| Error::Io {
            path: path.clone(),
            action,
            source,
        }
    }
}

/// Locks the state for this process, or says who has it.
fn lock(disk: &dyn Disk, database: &Path, path: &Path) -> Result<StateLock, Error> {
    let failed = |source| Error::Io {
        path: path.to_owned(),
        action: "lock",
        source,
    };
    let file = match disk.create_new(path, 0o600) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open_rw(path),
        created => created,
    }
    .map_err(failed)?;
    if !crate::wal::try_lock_file(file.as_fd()).map_err(failed)? {
        let mut holder = [0; 64];
        let len = file.read_at(&mut holder, 0).map_err(failed)?;
        let holder = String::from_utf8_lossy(holder.get(..len).unwrap_or_default());
        let holder = if holder.trim().is_empty() {
            "another process"
        } else {
            holder.trim()
        };
        return Err(Error::ReplicatedElsewhere {
            path: database.to_owned(),
            holder: holder.to_owned(),
        });
    }
    let lock = StateLock(file);
    let holder = format!("process {}\n", std::process::id());
    lock.0
        .set_len(0)
        .and_then(|()| lock.0.write_at(holder.as_bytes(), 0))
        .map_err(failed)?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use evertide_storage::OsDisk;

    use super::*;

    #[test]
    fn a_process_that_inherited_the_lock_does_not_keep_it() {
        let dir = tempfile::tempdir().unwrap();
        let (database, path) = (dir.path().join("app.db"), dir.path().join("lock"));
        let held = lock(&OsDisk, &database, &path).unwrap();
        let elsewhere = lock(&OsDisk, &database, &path);
        assert!(matches!(elsewhere, Err(Error::ReplicatedElsewhere { .. })));
        // As between fork and exec.
        let inherited = held.0.as_fd().try_clone_to_owned().unwrap();
        drop(held);
        lock(&OsDisk, &database, &path).unwrap();
        drop(inherited);
    }
}

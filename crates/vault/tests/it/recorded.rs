//! What a process did to its files, each write and each sync, as far as its system calls say: to be cut short anywhere.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs,
    path::Path,
};

use evertide_storage::{CrashPoint, Disk, DiskFile, RecordingDisk};
use evertide_testkit::{Change, TempDir, Traced, memory_dir};

/// What becomes of a sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Syncs {
    Done,
    /// The disk only says so.
    Ignored,
}

/// All that a process did in a folder: done again on a disk that records it.
pub(crate) struct Recording {
    disk: RecordingDisk,
    again: TempDir,
    /// Its files as the process knows them.
    open: HashMap<u64, Box<dyn DiskFile>>,
    reports: Vec<usize>,
}

/// What happens in the folder, which keeps what there was before, when this test is run as another process.
pub(crate) fn trace(test: &str, folder: &Path, environment: &[(&str, &str)]) -> Trace {
    let before = contents(folder);
    let folder = folder.canonicalize().unwrap();
    let mut all = vec![(crate::FOLDER, folder.as_os_str())];
    all.extend(
        environment
            .iter()
            .map(|(name, value)| (*name, value.as_ref())),
    );
    let changes = Traced::start(test, &all).changes(&folder);
    let after = contents(&folder);
    Trace {
        before,
        changes,
        after,
    }
}

/// A process from outside.
pub(crate) struct Trace {
    before: Contents,
    pub(crate) changes: Vec<Change>,
    after: Contents,
}

impl Trace {
    /// Does it all again.
    pub(crate) fn record(&self, syncs: Syncs) -> Recording {
        let again = memory_dir();
        for (name, content) in &self.before {
            fs::write(again.path().join(name), content).unwrap();
        }
        let mut recording = Recording {
            disk: RecordingDisk::new(again.path()).unwrap(),
            again,
            open: HashMap::new(),
            reports: Vec::new(),
        };
        for change in &self.changes {
            let is_sync = matches!(change, Change::Sync { .. } | Change::SyncDir { .. });
            if !is_sync || syncs == Syncs::Done {
                recording.apply(change);
            }
        }
        let found = contents(recording.again.path());
        assert!(
            found == self.after,
            "it was not all seen: {:?}",
            recording.disk.describe()
        );
        recording
    }
}

impl Recording {
    fn apply(&mut self, change: &Change) {
        let at = |path: &Path| self.again.path().join(path);
        match change {
            Change::Create { file, path, mode } => {
                let created = self.disk.create_new(&at(path), *mode).unwrap();
                self.open.insert(*file, created);
            }
            Change::Write {
                file,
                path,
                offset,
                bytes,
            } => self.file(*file, path).write_at(bytes, *offset).unwrap(),
            Change::SetLen { file, path, len } => self.file(*file, path).set_len(*len).unwrap(),
            Change::Sync { file, path } => self.file(*file, path).sync_all().unwrap(),
            Change::SyncDir { path } => self.disk.sync_dir(&at(path)).unwrap(),
            Change::Rename { from, to } => self.disk.rename(&at(from), &at(to)).unwrap(),
            Change::Remove { path } => self.disk.remove_file(&at(path)).unwrap(),
            Change::Report(_) => self.reports.push(self.disk.operations()),
        }
    }

    /// A file that was there before is opened where the process first writes to it.
    fn file(&mut self, file: u64, path: &Path) -> &dyn DiskFile {
        let open = || self.disk.open_rw(&self.again.path().join(path)).unwrap();
        &**self.open.entry(file).or_insert_with(open)
    }

    pub(crate) fn operations(&self) -> usize {
        self.disk.operations()
    }

    /// How many reports there were before this operation.
    pub(crate) fn reports_before(&self, operations: usize) -> usize {
        let before = |&&at: &&usize| at <= operations;
        self.reports.iter().filter(before).count()
    }

    /// What a power cut leaves.
    pub(crate) fn cut(&self, point: CrashPoint) -> TempDir {
        let left = memory_dir();
        self.disk.replay(point, left.path()).unwrap();
        left
    }

    /// The operations before a power cut.
    pub(crate) fn describe(&self, point: CrashPoint) -> String {
        let operations = self.disk.describe();
        format!(
            "{:?} after {:#?}",
            point.unsynced,
            &operations[..point.operations]
        )
    }
}

pub(crate) type Contents = BTreeMap<OsString, Vec<u8>>;

/// The files of a folder in which nobody has a database open, but not the wal-index, which is made anew.
pub(crate) fn contents(folder: &Path) -> Contents {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| !entry.path().to_str().unwrap().ends_with("-shm"))
        .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
        .collect()
}

//! What a process changes in a folder, byte for byte, as its system calls say.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{libc, sys::ptrace, unistd::Pid};

use super::{Traced, arguments, number, result, tolerate_death};

/// A change below a folder, with paths relative to it. Files are known by their inodes: names may change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A file that was not there is made.
    Create {
        /// The new file.
        file: u64,
        /// Its name.
        path: PathBuf,
        /// What was asked for, before the umask.
        mode: u32,
    },
    /// Bytes are written.
    Write {
        /// To this file.
        file: u64,
        /// Which has this name.
        path: PathBuf,
        /// Where the first one goes.
        offset: u64,
        /// All of them.
        bytes: Vec<u8>,
    },
    /// A file is cut or extended.
    SetLen {
        /// This file.
        file: u64,
        /// Which has this name.
        path: PathBuf,
        /// Its new length.
        len: u64,
    },
    /// A file is made durable.
    Sync {
        /// This file.
        file: u64,
        /// Which has this name.
        path: PathBuf,
    },
    /// The names in a directory are made durable.
    SyncDir {
        /// The directory.
        path: PathBuf,
    },
    /// A file gets another name, which is another's no more.
    Rename {
        /// What it was called.
        from: PathBuf,
        /// What it is called now.
        to: PathBuf,
    },
    /// A name is taken away.
    Remove {
        /// The name.
        path: PathBuf,
    },
    /// Nothing: the process says this, a line on its standard error.
    Report(String),
}

/// A call that has begun.
enum Begun {
    /// The change, if it succeeds.
    Change(Change),
    /// It opens, and creates or empties what it opens.
    Open { path: PathBuf, mode: Option<u32> },
}

impl Traced {
    /// All that the process changes in the folder up to its end, which has to be a successful one.
    ///
    /// What SQLite keeps in a wal-index (`-shm`) is left out: it is mapped, and made anew after a power cut.
    ///
    /// # Panics
    ///
    /// When it ends otherwise, or changes files in ways that are not understood here.
    pub fn changes(mut self, folder: &Path) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut begun: HashMap<Pid, Begun> = HashMap::new();
        while let Some(thread) = self.next_stop() {
            let state = self.threads.entry(thread).or_default();
            state.within = !state.within;
            if state.within {
                begun.extend(self.begins(thread, folder).map(|call| (thread, call)));
                while let Some(line) = self.next_line() {
                    changes.push(Change::Report(line));
                }
            } else if let Some(call) = begun.remove(&thread)
                && let Some(returned) = returned(thread)
            {
                changes.extend(ends(thread, folder, call, returned));
            }
        }
        self.finish();
        changes
    }

    fn begins(&mut self, thread: Pid, folder: &Path) -> Option<Begun> {
        let mut registers = tolerate_death(ptrace::getregs(thread))?;
        let number = number(&registers).cast_signed();
        let [first, second, third, fourth, fifth] = arguments(&mut registers).map(|place| *place);
        if number == libc::SYS_write && first as u32 == 2 {
            self.said.extend(self.bytes_at(second, third as usize));
            return None;
        }
        let named = |address| within(folder, &self.path_at(address));
        let renames = |from, to| {
            let (from, to) = (named(from)?, named(to)?);
            Some(Begun::Change(Change::Rename { from, to }))
        };
        match number {
            libc::SYS_openat => self.opens(folder, second, third, fourth),
            libc::SYS_write | libc::SYS_pwrite64 => {
                let (file, path) = Descriptor::of(thread, first).file(folder)?;
                let offset = match number {
                    libc::SYS_write => position(thread, first),
                    _ => fourth,
                };
                let bytes = self.bytes_at(second, third as usize);
                assert_eq!(bytes.len() as u64, third, "not all could be read");
                Some(Begun::Change(Change::Write {
                    file,
                    path,
                    offset,
                    bytes,
                }))
            }
            libc::SYS_ftruncate => {
                let (file, path) = Descriptor::of(thread, first).file(folder)?;
                let len = second;
                Some(Begun::Change(Change::SetLen { file, path, len }))
            }
            libc::SYS_fsync | libc::SYS_fdatasync => {
                let descriptor = Descriptor::of(thread, first);
                Some(Begun::Change(match descriptor.directory(folder) {
                    Some(path) => Change::SyncDir { path },
                    None => {
                        let (file, path) = descriptor.file(folder)?;
                        Change::Sync { file, path }
                    }
                }))
            }
            libc::SYS_unlinkat => named(second).map(|path| Begun::Change(Change::Remove { path })),
            libc::SYS_renameat => renames(second, fourth),
            libc::SYS_renameat2 => {
                assert!(fifth <= 1, "an exchange of names is not understood");
                renames(second, fourth)
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink => named(first).map(|path| Begun::Change(Change::Remove { path })),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename => renames(first, second),
            libc::SYS_mmap
                if third as i32 & libc::PROT_WRITE != 0
                    && fourth as i32 & libc::MAP_SHARED != 0 =>
            {
                not_understood(thread, fifth, folder)
            }
            libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 | libc::SYS_fallocate => {
                not_understood(thread, first, folder)
            }
            _ => None,
        }
    }

    fn opens(&self, folder: &Path, path: u64, flags: u64, mode: u64) -> Option<Begun> {
        let path = within(folder, &self.path_at(path))?;
        let has = |flag: i32| flags as i32 & flag == flag;
        assert!(!has(libc::O_APPEND), "{path:?}: not understood");
        match folder.join(&path).symlink_metadata() {
            Ok(_) if has(libc::O_TRUNC) => Some(Begun::Open { path, mode: None }),
            Err(_) if has(libc::O_CREAT) => Some(Begun::Open {
                path,
                mode: Some(mode as u32),
            }),
            _ => None,
        }
    }
}

/// What the call did that has ended.
fn ends(thread: Pid, folder: &Path, call: Begun, returned: u64) -> Option<Change> {
    Some(match call {
        Begun::Change(Change::Write {
            file,
            path,
            offset,
            mut bytes,
        }) => {
            bytes.truncate(returned as usize);
            Change::Write {
                file,
                path,
                offset,
                bytes,
            }
        }
        Begun::Change(change) => change,
        Begun::Open { path, mode } => {
            let (file, _) = Descriptor::of(thread, returned).file(folder)?;
            match mode {
                Some(mode) => Change::Create { file, path, mode },
                None => Change::SetLen { file, path, len: 0 },
            }
        }
    })
}

/// What a successful call gives.
fn returned(thread: Pid) -> Option<u64> {
    let mut registers = tolerate_death(ptrace::getregs(thread))?;
    let returned = *result(&mut registers);
    (returned.cast_signed() >= 0).then_some(returned)
}

/// What a descriptor of the process is of.
struct Descriptor {
    path: PathBuf,
    metadata: Option<fs::Metadata>,
}

impl Descriptor {
    fn of(thread: Pid, descriptor: u64) -> Self {
        let link = format!("/proc/{thread}/fd/{}", descriptor as u32);
        Self {
            path: fs::read_link(&link).unwrap_or_default(),
            metadata: fs::metadata(link).ok(),
        }
    }

    /// Which file below the folder.
    fn file(&self, folder: &Path) -> Option<(u64, PathBuf)> {
        let metadata = self.metadata.as_ref().filter(|found| found.is_file())?;
        Some((metadata.ino(), within(folder, &self.path)?))
    }

    /// Which directory of the folder.
    fn directory(&self, folder: &Path) -> Option<PathBuf> {
        self.metadata.as_ref().filter(|found| found.is_dir())?;
        within(folder, &self.path)
    }
}

/// The path relative to the folder that it lies in, unless it is the wal-index.
fn within(folder: &Path, path: &Path) -> Option<PathBuf> {
    let name = path.to_string_lossy();
    let is_index = name.trim_end_matches(" (deleted)").ends_with("-shm");
    let path = path.strip_prefix(folder).ok().filter(|_| !is_index)?;
    Some(path.to_owned())
}

/// Where the next byte goes that is written to this descriptor.
fn position(thread: Pid, descriptor: u64) -> u64 {
    let path = format!("/proc/{thread}/fdinfo/{}", descriptor as u32);
    let text = fs::read_to_string(path).expect("the descriptor is open");
    let position = text
        .strip_prefix("pos:")
        .and_then(|rest| rest.lines().next());
    let position = position.and_then(|position| position.trim().parse().ok());
    position.expect("a position")
}

/// Fails where this is about a file in the folder.
fn not_understood(thread: Pid, descriptor: u64, folder: &Path) -> Option<Begun> {
    let file = Descriptor::of(thread, descriptor).file(folder);
    assert!(
        file.is_none(),
        "a change of {file:?} that is not understood"
    );
    None
}

//! Noticing that files of a database changed, without looking.
//!
//! One inotify instance with one watch per directory serves all databases. Notices are hints: the
//! engine also looks by itself from time to time, since watches can overflow or cannot be had.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use inotify::{EventMask, EventOwned, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::{runtime::Handle, sync::Notify};

/// Bytes of notices read at once.
const EVENT_BYTES: usize = 16 << 10;
/// After so many events there is a pause, even if more are there.
const EVENTS_AT_ONCE: u32 = 1_024;
/// What SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];
/// Notices that come sooner after others wait for so long.
const PAUSE: Duration = Duration::from_millis(4);

/// The directory itself is not where it was, or is not watched any more.
const GONE: EventMask = EventMask::DELETE_SELF
    .union(EventMask::MOVE_SELF)
    .union(EventMask::UNMOUNT)
    .union(EventMask::IGNORED);

/// What was noticed about one database since the last look.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    wake: Notify,
    flags: AtomicU8,
}

/// The kinds of notices, or-ed together.
pub(crate) const CHANGED: u8 = 1;
/// A file of the database was created, removed or renamed.
pub(crate) const FILES: u8 = 2;

impl Notices {
    /// Adds a notice.
    pub(crate) fn add(&self, flags: u8) {
        self.flags.fetch_or(flags, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// Waits for a notice.
    pub(crate) async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Takes what was noticed.
    pub(crate) fn take(&self) -> u8 {
        self.flags.swap(0, Ordering::AcqRel)
    }
}

/// Watches directories.
#[derive(Debug)]
pub(crate) struct Watcher {
    shared: Option<Arc<Shared>>,
    /// Where nobody reads what the system notices, as in a simulation.
    #[cfg(test)]
    unread: Option<Inotify>,
}

struct Shared {
    watches: Watches,
    directories: Mutex<HashMap<WatchDescriptor, Directory>>,
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    /// Whom a file name concerns, and what a change of its content means.
    files: HashMap<OsString, Weak<Notices>>,
    /// Whom it concerns that a file or directory comes or goes.
    entries: Vec<Weak<Notices>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("directories", &self.directories)
            .finish_non_exhaustive()
    }
}

impl Watcher {
    /// Starts watching; without inotify there are no notices, and only the slow look remains.
    pub(crate) fn start(handle: &Handle) -> Self {
        match Inotify::init() {
            Ok(inotify) => {
                let watches = inotify.watches();
                let shared = Arc::new(Shared {
                    watches,
                    directories: Mutex::default(),
                });
                handle.spawn(read_events(inotify, Arc::clone(&shared)));
                Self {
                    shared: Some(shared),
                    #[cfg(test)]
                    unread: None,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot watch files; looking at them from time to time");
                Self {
                    shared: None,
                    #[cfg(test)]
                    unread: None,
                }
            }
        }
    }

    /// Notices nothing by itself, but what it is [told](Self::tell).
    #[cfg(test)]
    pub(crate) fn told() -> Self {
        let inotify = Inotify::init().unwrap();
        let shared = Shared {
            watches: inotify.watches(),
            directories: Mutex::default(),
        };
        Self {
            shared: Some(Arc::new(shared)),
            unread: Some(inotify),
        }
    }

    /// A database has changed.
    #[cfg(test)]
    pub(crate) fn tell(&self) {
        assert!(self.unread.is_some());
        let directories = self.shared.as_ref().unwrap().directories.lock().unwrap();
        let files = directories.values().flat_map(|d| d.files.values());
        files
            .filter_map(Weak::upgrade)
            .for_each(|notices| notices.add(CHANGED));
    }

    /// Sends notices about the files of a database until the result is dropped; `None` where its
    /// directory cannot be watched. It is the directory that is there now: when another one is put in its
    /// place there is a last notice, and it has to be watched anew, after the former watch was dropped.
    pub(crate) fn watch(&self, database: &Path, notices: &Arc<Notices>) -> Option<Watch> {
        let directory = database
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        let names = names(database);
        self.add(directory.unwrap_or(Path::new(".")), |directory| {
            for name in &names {
                directory
                    .files
                    .insert(name.clone(), Arc::downgrade(notices));
            }
            Interest::Files(names)
        })
    }

    /// Sends notices about what comes to the directory and goes, until the result is dropped; `None`
    /// where it cannot be watched. Files that SQLite keeps beside a database do not count.
    pub(crate) fn watch_entries(&self, directory: &Path, notices: &Arc<Notices>) -> Option<Watch> {
        self.add(directory, |directory| {
            directory.entries.push(Arc::downgrade(notices));
            Interest::Entries(Arc::downgrade(notices))
        })
    }

    fn add(
        &self,
        directory: &Path,
        interest: impl FnOnce(&mut Directory) -> Interest,
    ) -> Option<Watch> {
        let shared = self.shared.as_ref()?;
        let flags = WatchMask::MODIFY
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let mut directories = shared
            .directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let descriptor = match shared.watches.clone().add(directory, flags) {
            Ok(descriptor) => descriptor,
            // What is in it is waited for all the same.
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(
                    directory = %directory.display(), %error,
                    "cannot watch the directory; looking at it from time to time"
                );
                return None;
            }
        };
        let entry = directories
            .entry(descriptor.clone())
            .or_insert_with(|| Directory {
                path: directory.to_owned(),
                files: HashMap::new(),
                entries: Vec::new(),
            });
        let interest = interest(entry);
        Some(Watch {
            shared: Arc::clone(shared),
            descriptor,
            interest,
        })
    }
}

/// The files of a database that are watched.
fn names(database: &Path) -> [OsString; 3] {
    let name = database.file_name().unwrap_or_default();
    ["", "-wal", "-shm"].map(|suffix| {
        let mut name = name.to_owned();
        name.push(suffix);
        name
    })
}

/// Notices about one database or directory, until dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    descriptor: WatchDescriptor,
    interest: Interest,
}

/// What of a directory is watched.
#[derive(Debug)]
enum Interest {
    /// These files.
    Files([OsString; 3]),
    /// What comes and goes, for this one.
    Entries(Weak<Notices>),
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut directories = self
            .shared
            .directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(directory) = directories.get_mut(&self.descriptor) else {
            return;
        };
        match &self.interest {
            Interest::Files(names) => {
                for name in names {
                    directory.files.remove(name);
                }
            }
            Interest::Entries(own) => {
                let entries = &mut directory.entries;
                if let Some(at) = entries.iter().position(|other| other.ptr_eq(own)) {
                    entries.swap_remove(at);
                }
            }
        }
        if directory.files.is_empty() && directory.entries.is_empty() {
            let path = directory.path.clone();
            directories.remove(&self.descriptor);
            if let Err(error) = self.shared.watches.clone().remove(self.descriptor.clone()) {
                tracing::debug!(directory = %path.display(), %error, "cannot end a watch");
            }
        }
    }
}

async fn read_events(inotify: Inotify, shared: Arc<Shared>) {
    let mut events = match inotify.into_event_stream(vec![0; EVENT_BYTES]) {
        Ok(events) => events,
        Err(error) => {
            tracing::warn!(%error, "cannot wait for notices; looking from time to time");
            return;
        }
    };
    while let Some(mut event) = events.next().await {
        for _ in 0..EVENTS_AT_ONCE {
            if let Err(error) = event.map(|event| shared.notify(&event)) {
                tracing::warn!(%error, "cannot read notices; looking from time to time");
                return;
            }
            match events.next().now_or_never() {
                Some(Some(next)) => event = next,
                Some(None) => return,
                None => break,
            }
        }
        // Meanwhile the kernel merges what one writer does over and over.
        tokio::time::sleep(PAUSE).await;
    }
}

impl Shared {
    fn notify(&self, event: &EventOwned) {
        let directories = self
            .directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            directories.values().for_each(Directory::notify_everybody);
        } else if let Some(directory) = directories.get(&event.wd) {
            directory.notify(event.name.as_deref(), event.mask);
        }
    }
}

impl Directory {
    fn notify(&self, name: Option<&OsStr>, mask: EventMask) {
        if mask.intersects(GONE) {
            return self.notify_everybody();
        }
        let companion = |name: &OsStr| {
            let name = name.as_encoded_bytes();
            COMPANIONS.iter().any(|end| name.ends_with(end.as_bytes()))
        };
        if !mask.contains(EventMask::MODIFY) && !name.is_some_and(companion) {
            for notices in self.entries.iter().filter_map(Weak::upgrade) {
                notices.add(FILES);
            }
        }
        let Some(notices) = name
            .and_then(|name| self.files.get(name))
            .and_then(Weak::upgrade)
        else {
            return;
        };
        let content = mask.contains(EventMask::MODIFY);
        notices.add(if content { CHANGED } else { CHANGED | FILES });
    }

    fn notify_everybody(&self) {
        let interested = self.files.values().chain(&self.entries);
        for notices in interested.filter_map(Weak::upgrade) {
            notices.add(CHANGED | FILES);
        }
    }
}

//! A replica in a directory, in Litestream's layout.

mod layout;
mod lock;
mod publish;
mod source;
mod strays;
mod v3;

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};

use self::publish::{Aborted, Existing, Failure, Permissions, Race, Source, Target, failure};
use crate::{
    ByteStream, Capabilities, Disk, Error, FileKind, FileOptions, LtxObject, Precondition,
    ReplicaClient, SmallKey, SmallObject, Stray, V3Key, V3Object, Version, bytes_stream,
    file_stream,
    layout::{Token, is_leftover, ltx_key, small_key},
    stream::{CHUNK, head, read_chunk},
};

/// Bodies up to this many bytes are written in one go.
const SMALL: usize = 1 << 20;

/// A replica in a directory, in Litestream's layout.
///
/// Objects are written under a temporary name, synced, and renamed, so that none is ever visible in
/// part. What a process leaves behind when it is killed in between is removed before the next one
/// stores its first object.
#[derive(Debug)]
pub struct FileClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: FileOptions,
    database: Option<PathBuf>,
    disk: Arc<dyn Disk>,
    token: Token,
    serial: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default, Debug)]
struct State {
    permissions: Option<Permissions>,
    /// Directories that exist durably and hold no leftovers.
    settled: Vec<PathBuf>,
    /// Directories whose entries are durable.
    synced: Vec<PathBuf>,
}

impl FileClient {
    /// A client for the replica in this directory. Files and directories it creates are the user's
    /// alone.
    pub fn new(options: FileOptions, disk: Arc<dyn Disk>) -> Self {
        Self::with(options, None, disk)
    }

    /// A client for the replica of this database. Files it creates get the mode and owner of the
    /// database, directories those of the directory the database is in, less the umask, as with
    /// Litestream. As long as there is no database, they are the user's alone.
    pub fn for_database(options: FileOptions, database: &Path, disk: Arc<dyn Disk>) -> Self {
        Self::with(options, Some(database.to_path_buf()), disk)
    }

    fn with(options: FileOptions, database: Option<PathBuf>, disk: Arc<dyn Disk>) -> Self {
        let inner = Inner {
            options,
            database,
            disk,
            token: Token::new(),
            serial: AtomicU64::new(0),
            state: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Runs file operations on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = self.inner.clone();
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        self.joined(done)
    }

    fn joined<T>(
        &self,
        done: Result<Result<T, Error>, tokio::task::JoinError>,
    ) -> Result<T, Error> {
        match done {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Interrupted {
                    location: self.location(),
                }),
            },
        }
    }

    async fn publish(&self, job: Job, body: ByteStream) -> Result<u64, Error> {
        let race = Race::default();
        let _cancel = race.caller();
        let key = job.key.clone();
        let body_failed = |source| Error::Body {
            location: self.location(),
            object: key,
            source,
        };
        match head(body, SMALL).await {
            Err(error) => Err(body_failed(error)),
            // One hop to another thread for everything: this is what most commits wait for.
            Ok((mut head, None)) => {
                self.blocking(move |inner| inner.publish(&job, &mut head, &race))
                    .await
            }
            Ok((head, Some(rest))) => {
                let (mut feed, mut source) = source::channel(head);
                let inner = self.inner.clone();
                let writer =
                    tokio::task::spawn_blocking(move || inner.publish(&job, &mut source, &race));
                let fed = feed.forward(rest).await;
                drop(feed);
                let written = self.joined(writer.await);
                match fed {
                    Ok(()) => written,
                    Err(error) => Err(body_failed(error)),
                }
            }
        }
    }
}

/// What to store where.
struct Job {
    key: String,
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    /// Of this time.
    Ltx(SystemTime),
    Small(Precondition),
}

impl Inner {
    fn location(&self) -> String {
        self.options.to_string()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io(&self, failure: Failure) -> Error {
        let Failure {
            action,
            path,
            source,
        } = failure;
        Error::Io {
            location: self.location(),
            action,
            path,
            source,
        }
    }

    fn publish(&self, job: &Job, source: &mut dyn Source, race: &Race) -> Result<u64, Error> {
        let (Some(dir), Some(name)) = (job.path.parent(), job.path.file_name()) else {
            let source = io::ErrorKind::InvalidInput.into();
            return Err(self.io(Failure {
                action: "create",
                path: job.path.clone(),
                source,
            }));
        };
        let permissions = self.permissions();
        self.check_settled(job)
            .and_then(|()| self.settle(dir, permissions))
            .map_err(|failure| self.io(failure))?;
        let (existing, modified, _lock) = match &job.kind {
            Kind::Ltx(created) => (Existing::Keep, Some(*created), None),
            Kind::Small(precondition) => {
                let lock = self.lock_small().map_err(|failure| self.io(failure))?;
                let existing = self.check(job, precondition)?;
                (existing, None, Some(lock))
            }
        };
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let target = Target {
            temporary: dir.join(self.token.temporary(&name.to_string_lossy(), serial)),
            path: job.path.clone(),
            existing,
            modified,
        };
        publish::publish(&*self.disk, permissions, &target, source, race).map_err(|aborted| {
            match aborted {
                Aborted::Gone => Error::Interrupted {
                    location: self.location(),
                },
                Aborted::Failed(failure) if exists(&failure, &job.path) => Error::AlreadyExists {
                    location: self.location(),
                    object: job.key.clone(),
                },
                Aborted::Failed(failure) => {
                    // Whatever it was, for example a directory removed by hand: look again before
                    // the next object.
                    self.state().settled.retain(|settled| settled != dir);
                    self.io(failure)
                }
            }
        })
    }

    /// While it is held, nobody else changes a small object.
    fn lock_small(&self) -> Result<lock::Lock, Failure> {
        let path = layout::lock_path(&self.options.path);
        lock::lock(&*self.disk, self.permissions(), &path)
    }

    /// Whether what a small object is to replace is what it may replace.
    fn check(&self, job: &Job, precondition: &Precondition) -> Result<Existing, Error> {
        match precondition {
            Precondition::None => Ok(Existing::Replace),
            Precondition::Absent => Ok(Existing::Keep),
            Precondition::Unchanged(expected) => match self.read_small(&job.path, &job.key)? {
                Some(found) if found.version == *expected => Ok(Existing::Replace),
                _ => Err(Error::Changed {
                    location: self.location(),
                    object: job.key.clone(),
                }),
            },
        }
    }

    fn permissions(&self) -> Permissions {
        let Some(database) = &self.database else {
            return publish::PRIVATE;
        };
        if let Some(known) = self.state().permissions {
            return known;
        }
        let dir = database.parent().filter(|dir| !dir.as_os_str().is_empty());
        let (Ok(file), Ok(dir)) = (
            self.disk.metadata(database),
            self.disk.metadata(dir.unwrap_or(Path::new("."))),
        ) else {
            return publish::PRIVATE;
        };
        let permissions = Permissions {
            file_mode: file.mode & 0o777,
            dir_mode: dir.mode & 0o777,
            file_owner: Some((file.uid, file.gid)),
            dir_owner: Some((dir.uid, dir.gid)),
        };
        self.state().permissions = Some(permissions);
        permissions
    }

    /// Before the first object in a directory: makes it, removes leftovers, and makes durable what
    /// a process that was killed may have created and not synced.
    fn settle(&self, dir: &Path, permissions: Permissions) -> Result<(), Failure> {
        if self.state().settled.iter().any(|settled| settled == dir) {
            return Ok(());
        }
        let disk = &*self.disk;
        publish::create_dirs(disk, permissions, dir)?;
        for entry in disk.read_dir(dir).map_err(failure("list", dir))? {
            if entry.name.to_str().is_some_and(is_leftover) {
                // Harmless where this fails: no reader takes it for an object.
                let _ = disk.remove_file(&dir.join(&entry.name));
            }
        }
        disk.sync_dir(dir).map_err(failure("sync", dir))?;
        for dir in dir
            .ancestors()
            .take_while(|dir| dir.starts_with(&self.options.path))
        {
            publish::sync_parent(disk, dir)?;
        }
        self.state().settled.push(dir.to_path_buf());
        Ok(())
    }

    /// Before any object: fails where a directory that was there is gone. Somebody deleted the replica,
    /// and must not find a part of it begun anew: the caller has to look what is left. Whoever stores an
    /// LTX file is told once, and begins anew with the next. Whoever stores a small object is not
    /// the one who looks, and must not take the news from the other.
    fn check_settled(&self, job: &Job) -> Result<(), Failure> {
        let mut state = self.state();
        let gone = |dir: &PathBuf| Some((dir.clone(), self.disk.metadata(dir).err()?));
        let Some((dir, error)) = state.settled.iter().find_map(gone) else {
            return Ok(());
        };
        if matches!(job.kind, Kind::Ltx(_)) {
            state.settled.clear();
            state.synced.clear();
        }
        Err(failure("find", &dir)(error))
    }

    /// Before the first look at a directory: what a killed process renamed and had no time to sync
    /// must not be listed as stored and vanish in a power cut. Best effort, since a restore reads
    /// replicas on media that cannot be synced; a writer's [`Inner::settle`] is strict.
    fn sync_before_list(&self, dir: &Path) {
        let mut state = self.state();
        if !state.synced.iter().any(|synced| synced == dir) && self.disk.sync_dir(dir).is_ok() {
            state.synced.push(dir.to_path_buf());
        }
    }

    fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        let dir = layout::level_dir(&self.options.path, level);
        self.sync_before_list(&dir);
        let entries = match self.disk.read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.io(failure("list", &dir)(error))),
        };
        let names = entries
            .iter()
            .filter_map(|entry| entry.name.to_str()?.parse().ok());
        let mut names: Vec<LtxName> = names
            .filter(|name: &LtxName| after.is_none_or(|after| after < name.min))
            .collect();
        names.sort_unstable();
        let mut objects = Vec::with_capacity(names.len());
        for name in names {
            let path = dir.join(name.to_string());
            match self.disk.metadata(&path) {
                Ok(found) if found.kind == FileKind::File => {
                    let (size, created) = (found.len, found.modified);
                    objects.push(LtxObject {
                        level,
                        name,
                        size,
                        created,
                    });
                }
                Ok(_) => {}
                // Deleted since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.io(failure("look at", &path)(error))),
            }
        }
        Ok(objects)
    }

    fn get(
        &self,
        path: &Path,
        object: &dyn Fn() -> String,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        let file = self
            .disk
            .open_read(path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::NotFound {
                    location: self.location(),
                    object: object(),
                },
                _ => self.io(failure("open", path)(error)),
            })?;
        let size = file
            .len()
            .map_err(|error| self.io(failure("look at", path)(error)))?;
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.end > size {
            return Err(Error::OutOfRange {
                location: self.location(),
                object: object(),
                size,
                start: range.start,
                end: range.end,
            });
        }
        if range.end - range.start <= CHUNK {
            let chunk = read_chunk(&*file, range);
            return Ok(bytes_stream(
                chunk.map_err(|error| self.io(failure("read", path)(error)))?,
            ));
        }
        Ok(file_stream(file.into(), range))
    }

    fn delete(&self, dir: &Path, paths: &[PathBuf]) -> Result<(), Error> {
        let removed = paths
            .iter()
            .try_for_each(|path| match self.disk.remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(self.io(failure("delete", path)(error)))
                }
                _ => Ok(()),
            });
        // An old history that a power cut brings back would mix with a new one. What was not there may have been
        // removed by a try whose sync failed.
        match self.disk.sync_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                removed.and(Err(self.io(failure("sync", dir)(error))))
            }
            _ => removed,
        }
    }

    fn read_small(&self, path: &Path, key: &str) -> Result<Option<SmallObject>, Error> {
        let read = self.disk.open_read(path).and_then(|file| {
            let size = file.len()?;
            match size > SmallObject::LONGEST as u64 {
                true => Err(io::ErrorKind::FileTooLarge.into()),
                false => read_chunk(&*file, 0..size),
            }
        });
        match read {
            // The content itself is the version: no two that differ are taken for the same.
            Ok(content) => Ok(Some(SmallObject {
                version: Version::new(content.clone()),
                content,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(Error::TooLong {
                location: self.location(),
                object: key.to_owned(),
            }),
            Err(error) => Err(self.io(failure("read", path)(error))),
        }
    }

    fn delete_small(&self, path: &Path) -> Result<(), Error> {
        let _lock = match self.lock_small() {
            Ok(lock) => lock,
            // No directory, no objects.
            Err(failure) if failure.source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(failure) => return Err(self.io(failure)),
        };
        let dir = path.parent().unwrap_or(path);
        self.delete(dir, &[path.to_path_buf()])
    }

    fn list_small(&self, dir: &Path, prefix: &str, keys: &mut Vec<SmallKey>) -> Result<(), Error> {
        let entries = match self.disk.read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.io(failure("list", dir)(error))),
        };
        for entry in entries {
            let Some(name) = entry.name.to_str() else {
                continue;
            };
            let Some(key) = SmallKey::new(format!("{prefix}{name}")) else {
                continue;
            };
            if entry.is_dir {
                self.list_small(&dir.join(name), &format!("{key}/"), keys)?;
            } else {
                keys.push(key);
            }
        }
        Ok(())
    }
}

/// Whether storing failed because there is an object of that name.
fn exists(failure: &Failure, path: &Path) -> bool {
    failure.source.kind() == io::ErrorKind::AlreadyExists && failure.path == path
}

#[async_trait]
impl ReplicaClient for FileClient {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_create: true,
            compare_and_set: true,
            local: true,
        }
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        self.blocking(move |inner| inner.list(level, after)).await
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        self.blocking(move |inner| {
            let path = layout::level_dir(&inner.options.path, level).join(name.to_string());
            inner.get(&path, &|| ltx_key(level, name), range)
        })
        .await
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error> {
        let job = Job {
            key: ltx_key(level, name),
            path: layout::level_dir(&self.inner.options.path, level).join(name.to_string()),
            kind: Kind::Ltx(created),
        };
        let size = self.publish(job, body).await?;
        Ok(LtxObject {
            level,
            name,
            size,
            created,
        })
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
        let dir = layout::level_dir(&self.inner.options.path, level);
        let paths: Vec<_> = names
            .iter()
            .map(|name| dir.join(name.to_string()))
            .collect();
        self.blocking(move |inner| inner.delete(&dir, &paths)).await
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        let path = layout::small_path(&self.inner.options.path, key);
        let key = small_key(key);
        self.blocking(move |inner| inner.read_small(&path, &key))
            .await
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        let job = Job {
            key: small_key(key),
            path: layout::small_path(&self.inner.options.path, key),
            kind: Kind::Small(precondition),
        };
        let version = Version::new(content.clone());
        self.publish(job, bytes_stream(content)).await?;
        Ok(version)
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        self.blocking(move |inner| {
            let mut keys = Vec::new();
            inner.list_small(&layout::small_dir(&inner.options.path), "", &mut keys)?;
            keys.sort_unstable();
            Ok(keys)
        })
        .await
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        let path = layout::small_path(&self.inner.options.path, key);
        self.blocking(move |inner| inner.delete_small(&path)).await
    }

    async fn list_v3(&self) -> Result<Vec<V3Object>, Error> {
        self.blocking(Inner::list_v3).await
    }

    async fn get_v3(&self, key: &V3Key, range: Option<Range<u64>>) -> Result<ByteStream, Error> {
        let key = key.clone();
        self.blocking(move |inner| {
            let path = inner.options.path.join(key.as_str());
            inner.get(&path, &|| key.to_string(), range)
        })
        .await
    }

    async fn list_strays(&self) -> Result<Vec<Stray>, Error> {
        self.blocking(|inner| {
            let strays = strays::find(&*inner.disk, &inner.options.path);
            strays.map_err(|failure| inner.io(failure))
        })
        .await
    }
}

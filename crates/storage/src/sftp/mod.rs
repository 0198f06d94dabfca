//! Replicas on servers with SSH, in Litestream's layout.
//!
//! One connection, made when it is needed and anew when it broke, carries all requests. A server that cannot
//! prove who it is gets neither a password nor a file.
//!
//! - An LTX file is written under a temporary name, synced where the server can, and then linked to its own
//!   name, which fails where there is one: it is never visible in part, and none is replaced.
//! - A small object is replaced under a lock that is its new content.
//! - The time of a file is set to that of its last transaction, to the second; the exact one is in its header.

mod failure;
mod files;
mod options;
mod session;
mod small;
mod v3;

use std::{
    collections::BTreeSet,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use futures_util::{StreamExt, TryStreamExt, stream};

pub use self::options::SftpOptions;
use self::{failure::Failure, session::Session};
use crate::{
    ByteStream, Capabilities, Error, LtxObject, Precondition, ReplicaClient, SmallKey, SmallObject,
    V3Key, V3Object, Version,
    connected::Connected,
    layout::{Token, is_leftover, ltx_key, small_key},
    leftovers::Leftovers,
    times,
};

/// Requests at a time where many files are deleted.
const CONCURRENT_REQUESTS: usize = 16;

/// A replica on a server with SSH.
pub(crate) struct SftpClient {
    options: SftpOptions,
    session: Connected<Session>,
    token: Token,
    serial: AtomicU64,
    /// Folders that exist and hold no leftovers.
    settled: Mutex<BTreeSet<String>>,
    /// Paths of temporary files.
    left: Leftovers,
}

impl fmt::Debug for SftpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpClient")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A file that is deleted when dropped before it has got another name.
struct Temporary {
    session: Arc<Session>,
    path: String,
    left: Leftovers,
}

impl Temporary {
    fn path(&self) -> &str {
        &self.path
    }

    /// Deletes it, for it has got another name as well.
    async fn remove(mut self) -> Result<(), Failure> {
        self.session.remove(&self.path).await?;
        self.path.clear();
        Ok(())
    }

    /// It has got another name in place of its own.
    fn was_renamed(mut self) {
        self.path.clear();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What stays behind for ever is removed by the next process.
        if !self.path.is_empty() {
            let (session, path) = (self.session.clone(), self.path.clone());
            let removed = async move { session.unless_ended(session.remove(&path)).await.is_ok() };
            self.left.give_up(std::mem::take(&mut self.path), removed);
        }
    }
}

impl SftpClient {
    fn new(options: SftpOptions) -> Self {
        Self {
            options,
            session: Connected::new(),
            token: Token::new(),
            serial: AtomicU64::new(0),
            settled: Mutex::default(),
            left: Leftovers::default(),
        }
    }

    /// The connection, anew where there is none that works.
    async fn session(&self) -> Result<Arc<Session>, Failure> {
        self.session.get(&self.options).await
    }

    /// Does what may be done twice, and does it again where the connection turns out to have broken.
    async fn repeatedly<T, W: Future<Output = Result<T, Failure>>>(
        &self,
        work: impl Fn(Arc<Session>) -> W,
    ) -> Result<T, Failure> {
        let work = |session: Arc<Session>| {
            let work = work(session.clone());
            async move { session.unless_ended(work).await }
        };
        self.session.repeatedly(&self.options, work).await
    }

    fn path(&self, key: &str) -> String {
        format!("{}/{key}", self.options.path)
    }

    fn settled(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A failure, as an error. Drops a connection that is of no use any more.
    fn failed<'a>(
        &'a self,
        action: &'static str,
        object: &'a str,
    ) -> impl Fn(Failure) -> Error + Copy + 'a {
        move |failure| {
            if failure.is_broken() {
                self.session.forget();
            }
            let (location, object) = (self.location(), object.to_owned());
            match failure {
                failure if failure.is_not_found() => Error::NotFound { location, object },
                Failure::TooLong => Error::TooLong { location, object },
                Failure::Body(source) => Error::Body {
                    location,
                    object,
                    source,
                },
                failure => Error::Store {
                    location,
                    action,
                    object,
                    hint: failure.hint(),
                    source: Box::new(failure),
                },
            }
        }
    }

    /// As [`SftpClient::failed`], for what is stored.
    fn not_stored(&self, key: &str, failure: Failure) -> Error {
        match failure {
            Failure::Conflict => Error::AlreadyExists {
                location: self.location(),
                object: key.to_owned(),
            },
            failure if failure.is_not_found() => {
                // Somebody removed the folder: it is made again for the next file.
                self.settled().clear();
                Error::Store {
                    location: self.location(),
                    action: "store",
                    object: key.to_owned(),
                    source: Box::new(failure),
                    hint: "",
                }
            }
            failure => self.failed("store", key)(failure),
        }
    }

    /// Before the first file in a folder: makes it, and removes what killed processes left behind.
    async fn settle(&self, session: &Arc<Session>, folder: &str) -> Result<(), Failure> {
        if self.settled().contains(folder) {
            return Ok(());
        }
        session.make_folder(folder).await?;
        for entry in session.list(folder).await?.unwrap_or_default() {
            if !entry.is_folder && is_leftover(&entry.name) {
                // Harmless where this fails: no reader takes it for an object.
                let _ = session.remove(&format!("{folder}/{}", entry.name)).await;
            }
        }
        self.settled().insert(folder.to_owned());
        Ok(())
    }

    /// Writes a file under a temporary name in the folder of the one it is to be; with its size in bytes.
    async fn write(
        &self,
        session: &Arc<Session>,
        path: &str,
        body: ByteStream,
        modified: Option<SystemTime>,
    ) -> Result<(Temporary, u64), Failure> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.settle(session, folder).await?;
        while let Some(path) = self.left.next()
            && session.remove(&path).await.is_ok()
        {
            self.left.forget(&path);
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let temporary = Temporary {
            session: session.clone(),
            path: format!("{folder}/{}", self.token.temporary(name, serial)),
            left: self.left.clone(),
        };
        let size = session.store(temporary.path(), body, modified).await?;
        Ok((temporary, size))
    }

    /// Stores a file that must not exist; its size in bytes.
    async fn create(
        &self,
        key: &str,
        body: ByteStream,
        modified: Option<SystemTime>,
    ) -> Result<u64, Failure> {
        let session = self.session().await?;
        let created = self.created(&session, key, body, modified);
        session.unless_ended(created).await
    }

    async fn created(
        &self,
        session: &Arc<Session>,
        key: &str,
        body: ByteStream,
        modified: Option<SystemTime>,
    ) -> Result<u64, Failure> {
        let path = self.path(key);
        let (temporary, size) = self.write(session, &path, body, modified).await?;
        if self.options.conditional_writes {
            session.link(temporary.path(), &path).await?;
            // Harmless where this fails: no reader takes it for an object.
            let _ = temporary.remove().await;
        } else if session.look(&path).await?.is_some() {
            return Err(Failure::Conflict);
        } else {
            session.sftp.rename(temporary.path(), path).await?;
            temporary.was_renamed();
        }
        Ok(size)
    }

    async fn list_level(&self, folder: &str, level: Level) -> Result<Vec<LtxObject>, Failure> {
        let folder = &*self.path(folder);
        let listed = self.repeatedly(|session| async move { session.list(folder).await });
        let entries = listed.await?;
        let mut objects = Vec::new();
        for entry in entries.unwrap_or_default() {
            if entry.is_folder {
                continue;
            }
            if let (Ok(name), Some(size)) = (entry.name.parse::<LtxName>(), entry.size) {
                objects.push(LtxObject {
                    level,
                    name,
                    size,
                    created: entry.modified.unwrap_or(SystemTime::UNIX_EPOCH),
                });
            }
        }
        objects.sort_unstable_by_key(|object| object.name);
        Ok(objects)
    }

    /// Opens a file; with its size in bytes.
    async fn open(&self, key: &str) -> Result<(files::Open, u64), Failure> {
        let path = &*self.path(key);
        let opened = self.repeatedly(|session| async move {
            let file = session.open_file(path).await?;
            let size = file.size().await?;
            Ok((file, size))
        });
        opened.await
    }

    /// The content of a file, or of a range of its bytes.
    async fn read(&self, key: &str, range: Option<Range<u64>>) -> Result<ByteStream, Error> {
        let opened = self.open(key).await;
        let (file, size) = opened.map_err(self.failed("read", key))?;
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.end > size {
            return Err(Error::OutOfRange {
                location: self.location(),
                object: key.to_owned(),
                size,
                start: range.start,
                end: range.end,
            });
        }
        Ok(file.read(range))
    }

    async fn list_small_in(
        &self,
        session: Arc<Session>,
        folder: &str,
    ) -> Result<Vec<SmallKey>, Failure> {
        let (mut folders, mut keys) = (vec![folder.to_owned()], Vec::new());
        while let Some(folder) = folders.pop() {
            let entries = session.list(&self.path(&folder)).await?;
            for entry in entries.unwrap_or_default() {
                let path = format!("{folder}/{}", entry.name);
                let key = path.strip_prefix("evertide/").and_then(SmallKey::new);
                match key {
                    Some(_) if entry.is_folder => folders.push(path),
                    key => keys.extend(key),
                }
            }
        }
        keys.sort_unstable();
        Ok(keys)
    }

    async fn remove(&self, key: &str) -> Result<(), Failure> {
        let path = &*self.path(key);
        self.repeatedly(|session| async move { session.remove(path).await })
            .await
    }
}

#[async_trait]
impl ReplicaClient for SftpClient {
    fn location(&self) -> String {
        self.options.place().to_string()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_create: self.options.conditional_writes,
            compare_and_set: self.options.conditional_writes,
            local: false,
        }
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        let folder = format!("ltx/{level}");
        let objects = self.list_level(&folder, level).await;
        let mut objects = objects.map_err(self.failed("list", &folder))?;
        objects.retain(|object| after.is_none_or(|after| after < object.name.min));
        Ok(objects)
    }

    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, Error> {
        times::from_headers(self, objects).await
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        self.read(&ltx_key(level, name), range).await
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error> {
        let key = ltx_key(level, name);
        let stored = self.create(&key, body, Some(created)).await;
        let size = stored.map_err(|failure| self.not_stored(&key, failure))?;
        Ok(LtxObject {
            level,
            name,
            size,
            created,
        })
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
        if names.is_empty() {
            return Ok(());
        }
        stream::iter(names.iter().map(|name| ltx_key(level, *name)))
            .map(Ok)
            .try_for_each_concurrent(CONCURRENT_REQUESTS, async |key| {
                let removed = self.remove(&key).await;
                removed.map_err(self.failed("delete", &key))
            })
            .await?;
        // Stores were seen that say so and do not.
        let left = self.list(level, None).await?;
        match left.iter().find(|left| names.contains(&left.name)) {
            Some(left) => Err(Error::NotDeleted {
                location: self.location(),
                object: ltx_key(level, left.name),
            }),
            None => Ok(()),
        }
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        let key = small_key(key);
        let found = self.read_small(&key).await;
        let found = found.map_err(self.failed("read", &key))?;
        // The content itself is the version: no two that differ are taken for the same.
        Ok(found.map(|content| SmallObject {
            version: Version::new(content.clone()),
            content,
        }))
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        let key = small_key(key);
        let version = Version::new(content.clone());
        let is_replacement = matches!(precondition, Precondition::Unchanged(_));
        match self.write_small(&key, content, precondition).await {
            Ok(()) => Ok(version),
            Err(Failure::Conflict) if is_replacement => Err(Error::Changed {
                location: self.location(),
                object: key,
            }),
            Err(failure) => Err(self.not_stored(&key, failure)),
        }
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        let folder = "evertide";
        let keys = self.repeatedly(|session| self.list_small_in(session, folder));
        keys.await.map_err(self.failed("list", folder))
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        let key = small_key(key);
        let removed = self.delete_locked(&key).await;
        removed.map_err(self.failed("delete", &key))
    }

    async fn list_v3(&self) -> Result<Vec<V3Object>, Error> {
        let objects = self.repeatedly(|session| self.list_generations(session));
        objects.await.map_err(self.failed("list", "generations"))
    }

    async fn get_v3(&self, key: &V3Key, range: Option<Range<u64>>) -> Result<ByteStream, Error> {
        self.read(key.as_str(), range).await
    }
}

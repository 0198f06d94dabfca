//! Replicas on WebDAV shares, in Litestream's layout.
//!
//! A share is a directory behind HTTP, and servers differ. What holds on all of them:
//!
//! - an LTX file is stored under a temporary name and moved to its own (`MOVE` with `Overwrite: F`), so that
//!   none is visible in part, and one that is there is not replaced. Whether of two who move at the same time
//!   exactly one succeeds, the server decides, so it is not promised;
//! - a small object is replaced by one `PUT`, after a look at what is there, and with `If-Match` where the
//!   server gave an ETag that can be relied on. Not all servers heed that, so it is not promised either;
//! - the time of an LTX file is read from its header where it matters: servers date files when they are
//!   uploaded.

#[cfg(test)]
mod fuzz;
mod listing;
mod options;
mod share;

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{StatusCode, header};

pub use self::options::WebdavOptions;
use self::share::{Failure, Share};
use crate::{
    ByteStream, Capabilities, Error, LtxObject, Precondition, ReplicaClient, SmallKey, SmallObject,
    Version, bytes_stream,
    layout::{Token, is_leftover, ltx_key, small_key},
    leftovers::Leftovers,
    stream::{exactly, head},
    times,
};

/// What is shorter is kept until it is whole, and sent with its length.
const SMALL: usize = 7 << 20;
/// Requests at a time where many files are deleted.
const CONCURRENT_REQUESTS: usize = 16;

/// A replica on a WebDAV share.
pub(crate) struct WebdavClient {
    location: String,
    share: Share,
    token: Token,
    serial: AtomicU64,
    /// Folders that exist and hold no leftovers.
    settled: Mutex<BTreeSet<String>>,
    /// Paths of temporary files.
    left: Leftovers,
}

impl fmt::Debug for WebdavClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The share knows the password.
        f.debug_struct("WebdavClient")
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

/// A file that is to be deleted unless it gets a name of its own.
struct Temporary {
    share: Share,
    path: Option<String>,
    left: Leftovers,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What stays behind for ever is removed by the next process.
        if let Some(path) = self.path.take() {
            let (share, given_up) = (self.share.clone(), path.clone());
            let deleted = async move { share.delete(&given_up).await.is_ok() };
            self.left.give_up(path, deleted);
        }
    }
}

impl WebdavClient {
    fn new(location: String, share: Share) -> Self {
        Self {
            location,
            share,
            token: Token::new(),
            serial: AtomicU64::new(0),
            settled: Mutex::default(),
            left: Leftovers::default(),
        }
    }

    fn settled(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A failure, as an error.
    fn failed<'a>(
        &'a self,
        action: &'static str,
        object: &'a str,
    ) -> impl Fn(Failure) -> Error + Copy + 'a {
        move |failure| {
            let (location, object) = (self.location.clone(), object.to_owned());
            match failure {
                Failure::Answer(StatusCode::NOT_FOUND) => Error::NotFound { location, object },
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

    /// Before the first file in a folder: makes it, and removes what killed processes left behind.
    async fn settle(&self, folder: &str) -> Result<(), Failure> {
        if self.settled().contains(folder) {
            return Ok(());
        }
        self.share.make_folder(folder).await?;
        for entry in self.share.list(folder).await?.unwrap_or_default() {
            if !entry.is_folder && is_leftover(&entry.name) {
                // Harmless where this fails: no reader takes it for an object.
                let _ = self.share.delete(&format!("{folder}{}", entry.name)).await;
            }
        }
        self.settled().insert(folder.to_owned());
        Ok(())
    }

    /// Stores a file that must not exist; its size in bytes.
    async fn create(
        &self,
        key: &str,
        body: ByteStream,
        modified: Option<SystemTime>,
    ) -> Result<u64, Error> {
        let failed = self.failed("store", key);
        let (folder, name) = split(key);
        let (head, rest) = head(body, SMALL)
            .await
            .map_err(|error| failed(Failure::Body(error)))?;
        self.settle(folder).await.map_err(failed)?;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let path = format!("{folder}{}", self.token.temporary(name, serial));
        let mut temporary = Temporary {
            share: self.share.clone(),
            path: Some(path.clone()),
            left: self.left.clone(),
        };
        let stored = match rest {
            None => {
                let content = joined(head);
                let size = content.len() as u64;
                let put = self.share.put(&path, content, modified, None).await;
                put.map(|()| size)
            }
            Some(rest) => {
                let body = stream::iter(head.into_iter().map(Ok)).chain(rest);
                self.share.put_stream(&path, Box::pin(body), modified).await
            }
        };
        let size = stored.map_err(|failure| self.not_stored(key, folder, failure))?;
        match self.share.rename(&path, key).await {
            Ok(()) => {}
            // The answer to an earlier try may have been lost.
            Err(failure) if !self.is_renamed(&path, key, size).await => {
                return Err(self.not_stored(key, folder, failure));
            }
            Err(_) => {}
        }
        temporary.path = None;
        while let Some(path) = self.left.next()
            && self.share.delete(&path).await.is_ok()
        {
            self.left.forget(&path);
        }
        Ok(size)
    }

    /// Whether a file got its name, though the server did not say so.
    async fn is_renamed(&self, from: &str, to: &str, size: u64) -> bool {
        let left = self.share.size(from).await;
        matches!(left, Ok(None)) && matches!(self.share.size(to).await, Ok(Some(s)) if s == size)
    }

    fn not_stored(&self, key: &str, folder: &str, failure: Failure) -> Error {
        match failure.status() {
            Some(StatusCode::PRECONDITION_FAILED) => Error::AlreadyExists {
                location: self.location.clone(),
                object: key.to_owned(),
            },
            // Somebody removed the folder: it is made again for the next file. Nothing else is "not found".
            Some(StatusCode::NOT_FOUND | StatusCode::CONFLICT) => {
                self.settled().remove(folder);
                self.failed("store", key)(Failure::Answer(StatusCode::CONFLICT))
            }
            _ => self.failed("store", key)(failure),
        }
    }

    /// The content of a small object, and what the server tells it from others by.
    async fn read_small(&self, key: &str) -> Result<Option<(Bytes, Option<String>)>, Error> {
        let failed = self.failed("read", key);
        let read = self.share.get_whole(key, SmallObject::LONGEST).await;
        let (headers, content) = match read {
            Ok(read) => read,
            Err(Failure::Answer(StatusCode::NOT_FOUND)) => return Ok(None),
            Err(failure) => return Err(failed(failure)),
        };
        let etag = headers.get(header::ETAG);
        let etag = etag.and_then(|etag| etag.to_str().ok());
        // A weak one is not heeded in a condition.
        let etag = etag.filter(|etag| etag.starts_with('"')).map(str::to_owned);
        Ok(Some((content, etag)))
    }

    fn out_of_range(&self, key: &str, size: u64, range: &Range<u64>) -> Error {
        Error::OutOfRange {
            location: self.location.clone(),
            object: key.to_owned(),
            size,
            start: range.start,
            end: range.end,
        }
    }

    /// The size of a file that is there.
    async fn size(&self, key: &str) -> Result<u64, Error> {
        let failed = self.failed("look at", key);
        let size = self.share.size(key).await.map_err(failed)?;
        size.ok_or_else(|| failed(Failure::Answer(StatusCode::NOT_FOUND)))
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<ByteStream, Error> {
        // There is no request for no bytes.
        if range.is_empty() {
            let size = self.size(key).await?;
            return match range.start <= size {
                true => Ok(bytes_stream(Bytes::new())),
                false => Err(self.out_of_range(key, size, &range)),
            };
        }
        let answer = match self.share.get(key, Some(&range)).await {
            Ok(answer) => answer,
            Err(Failure::Answer(StatusCode::RANGE_NOT_SATISFIABLE)) => {
                let size = self.size(key).await?;
                return Err(self.out_of_range(key, size, &range));
            }
            Err(failure) => return Err(self.failed("read", key)(failure)),
        };
        let length = share::number(answer.headers(), header::CONTENT_LENGTH);
        let is_part = answer.status() == StatusCode::PARTIAL_CONTENT;
        let wanted = range.end - range.start;
        // Less comes where the file ends; everything where the server knows no ranges.
        let size = match (is_part, length) {
            (true, Some(length)) if length == wanted => range.end,
            (false, Some(length)) => length,
            _ => self.size(key).await?,
        };
        if range.end > size {
            return Err(self.out_of_range(key, size, &range));
        }
        let body = share::content(answer);
        let body = if is_part { body } else { cut(body, range) };
        Ok(exactly(wanted, body))
    }

    async fn list_small_in(&self, folder: &str, keys: &mut Vec<SmallKey>) -> Result<(), Error> {
        let failed = self.failed("list", folder);
        let mut folders = VecDeque::from([folder.to_owned()]);
        while let Some(folder) = folders.pop_front() {
            for entry in self
                .share
                .list(&folder)
                .await
                .map_err(failed)?
                .unwrap_or_default()
            {
                let path = format!("{folder}{}", entry.name);
                let key = path.strip_prefix("evertide/").and_then(SmallKey::new);
                match key {
                    Some(_) if entry.is_folder => folders.push_back(format!("{path}/")),
                    key => keys.extend(key),
                }
            }
        }
        Ok(())
    }
}

/// The folder and the name of a file.
fn split(key: &str) -> (&str, &str) {
    let start = key.rfind('/').map_or(0, |slash| slash + 1);
    key.split_at(start)
}

/// All pieces in one.
fn joined(pieces: VecDeque<Bytes>) -> Bytes {
    match <[Bytes; 1]>::try_from(Vec::from(pieces)) {
        Ok([only]) => only,
        Err(pieces) => pieces.concat().into(),
    }
}

/// These bytes of all.
fn cut(body: ByteStream, range: Range<u64>) -> ByteStream {
    let mut at = 0;
    let parts = body.map_ok(move |mut chunk| {
        let start = at;
        at += chunk.len() as u64;
        let within = |offset: u64| offset.clamp(start, at) - start;
        let [from, to] = [range.start, range.end].map(|offset| within(offset) as usize);
        chunk.truncate(to);
        chunk.split_off(from.min(to))
    });
    // No piece is empty, and nothing is read that nobody wants.
    let wanted = parts.try_filter(|part| std::future::ready(!part.is_empty()));
    Box::pin(wanted)
}

#[async_trait]
impl ReplicaClient for WebdavClient {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        let folder = format!("ltx/{level}/");
        let listed = self.share.list(&folder).await;
        let entries = listed.map_err(self.failed("list", &folder))?;
        let mut objects = Vec::new();
        for entry in entries.unwrap_or_default() {
            let Ok(name) = entry.name.parse::<LtxName>() else {
                continue;
            };
            if entry.is_folder || after.is_some_and(|after| name.min <= after) {
                continue;
            }
            let no_size = || Failure::Nonsense(format!("{name} has no size"));
            objects.push(LtxObject {
                level,
                name,
                size: entry
                    .size
                    .ok_or_else(no_size)
                    .map_err(self.failed("list", &folder))?,
                created: entry.modified.unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
        objects.sort_unstable_by_key(|object| object.name);
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
        let key = ltx_key(level, name);
        if let Some(range) = range {
            return self.get_range(&key, range).await;
        }
        let answer = self.share.get(&key, None).await;
        let answer = answer.map_err(self.failed("read", &key))?;
        let size = share::number(answer.headers(), header::CONTENT_LENGTH);
        let body = share::content(answer);
        Ok(match size {
            Some(size) => exactly(size, body),
            None => body,
        })
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error> {
        let key = ltx_key(level, name);
        let size = self.create(&key, body, Some(created)).await?;
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
        stream::iter(names.iter().map(Ok))
            .try_for_each_concurrent(CONCURRENT_REQUESTS, async |name| {
                let key = ltx_key(level, *name);
                let deleted = self.share.delete(&key).await;
                deleted.map_err(self.failed("delete", &key))
            })
            .await?;
        // Stores were seen that say so and do not.
        let left = self.list(level, None).await?;
        match left.iter().find(|left| names.contains(&left.name)) {
            Some(left) => Err(Error::NotDeleted {
                location: self.location.clone(),
                object: ltx_key(level, left.name),
            }),
            None => Ok(()),
        }
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        let found = self.read_small(&small_key(key)).await?;
        // The content itself is the version: no two that differ are taken for the same.
        Ok(found.map(|(content, _)| SmallObject {
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
        let changed = || Error::Changed {
            location: self.location.clone(),
            object: key.clone(),
        };
        let etag = match precondition {
            Precondition::Absent => {
                self.create(&key, bytes_stream(content), None).await?;
                return Ok(version);
            }
            Precondition::None => None,
            Precondition::Unchanged(expected) => {
                let found = self.read_small(&key).await?;
                let (found, etag) = found.ok_or_else(changed)?;
                if found != expected.as_bytes() {
                    return Err(changed());
                }
                etag
            }
        };
        let (folder, _) = split(&key);
        self.settle(folder)
            .await
            .map_err(self.failed("store", &key))?;
        let put = self.share.put(&key, content, None, etag.as_deref()).await;
        match put {
            Ok(()) => Ok(version),
            Err(Failure::Answer(StatusCode::PRECONDITION_FAILED)) if etag.is_some() => {
                Err(changed())
            }
            Err(failure) => Err(self.not_stored(&key, folder, failure)),
        }
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        let mut keys = Vec::new();
        self.list_small_in("evertide/", &mut keys).await?;
        keys.sort_unstable();
        Ok(keys)
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        let key = small_key(key);
        let deleted = self.share.delete(&key).await;
        deleted.map_err(self.failed("delete", &key))
    }
}

//! Replicas in object stores of NATS JetStream, in Litestream's layout.
//!
//! - An object is visible when the message that names it is stored, which the server does only if it is the first
//!   of that name, or takes the place of the one that was meant.
//! - What is deleted leaves nothing behind.
//! - A listing lists the whole bucket, so each replica is better off with a bucket of its own.

mod bucket;
mod content;
mod failure;
mod options;

use std::{fmt, ops::Range, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use futures_util::{TryStreamExt, stream};

pub use self::options::NatsOptions;
use self::{
    bucket::{Bucket, Found, Over},
    failure::Failure,
};
use crate::{
    ByteStream, Capabilities, Error, LtxObject, Precondition, ReplicaClient, SmallKey, SmallObject,
    Version, bytes_stream, collect,
    connected::Connected,
    layout::{ltx_key, small_key},
    leftovers::Leftovers,
    secret,
};

/// Requests at a time where many files are deleted.
const CONCURRENT_REQUESTS: usize = 16;
/// Tries to read a small object that somebody replaces all the time.
const TRIES: u32 = 20;

/// A replica in an object store of NATS JetStream.
pub(crate) struct NatsClient {
    options: NatsOptions,
    bucket: Connected<Bucket>,
    /// The chunks of these objects.
    left: Leftovers,
}

impl fmt::Debug for NatsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsClient")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl NatsClient {
    fn new(options: NatsOptions) -> Self {
        Self {
            options,
            bucket: Connected::new(),
            left: Leftovers::default(),
        }
    }

    async fn bucket(&self) -> Result<Arc<Bucket>, Failure> {
        self.bucket.get(&self.options).await
    }

    /// Does what may be done twice, and does it again where the connection turns out to have broken.
    async fn repeatedly<T, W: Future<Output = Result<T, Failure>>>(
        &self,
        work: impl Fn(Arc<Bucket>) -> W,
    ) -> Result<T, Failure> {
        self.bucket.repeatedly(&self.options, work).await
    }

    /// The name of an object in the bucket.
    fn name(&self, key: &str) -> String {
        match self.options.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}/{key}"),
        }
    }

    /// A failure, as an error. Drops a connection that may be of no use any more.
    fn failed<'a>(
        &'a self,
        action: &'static str,
        object: &'a str,
    ) -> impl Fn(Failure) -> Error + Copy + 'a {
        move |failure| {
            if failure.is_broken() {
                self.bucket.forget();
            }
            let (location, object) = (self.location(), object.to_owned());
            match failure {
                Failure::Conflict => Error::AlreadyExists { location, object },
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
                    source: secret::without(failure, self.options.secrets()),
                },
            }
        }
    }

    async fn look(&self, name: &str) -> Result<Option<Found>, Failure> {
        self.repeatedly(|bucket| async move { bucket.look(name).await })
            .await
    }

    async fn is_gone(&self, name: &str) -> bool {
        matches!(self.look(name).await, Ok(None))
    }

    fn not_found(&self, key: String) -> Error {
        Error::NotFound {
            location: self.location(),
            object: key,
        }
    }

    /// The objects below a folder, by what follows it in their names.
    async fn list_below<T>(
        &self,
        folder: &str,
        object: impl Fn(&str, u64, SystemTime) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        let folder = self.name(folder);
        let listed = self.repeatedly(|bucket| async move { bucket.list().await });
        let objects = listed.await?.into_iter().filter_map(|(info, stored)| {
            let name = info.name.strip_prefix(&folder)?;
            let created = bucket::created(&info).unwrap_or(stored);
            object(name, info.size as u64, created)
        });
        Ok(objects.collect())
    }

    /// Deletes an object, and looks whether it is gone.
    async fn delete_one(&self, name: &str) -> Result<bool, Failure> {
        let deleted = self.repeatedly(|bucket| async move {
            bucket.delete(name).await?;
            bucket.look(name).await
        });
        Ok(deleted.await?.is_none())
    }

    async fn delete_verified(&self, key: &str) -> Result<(), Error> {
        let name = self.name(key);
        let deleted = self.delete_one(&name).await;
        match deleted.map_err(self.failed("delete", key))? {
            true => Ok(()),
            false => Err(Error::NotDeleted {
                location: self.location(),
                object: key.to_owned(),
            }),
        }
    }

    /// Stores an object; its size in bytes and the number of its message.
    async fn store(
        &self,
        key: &str,
        body: ByteStream,
        created: Option<SystemTime>,
        over: Over,
    ) -> Result<(u64, u64), Failure> {
        let bucket = self.bucket().await?;
        let name = self.name(key);
        let stored = bucket.put(&name, body, created, over, &self.left).await?;
        while let Some(id) = self.left.next()
            && bucket.purge_chunks(&id).await.is_ok()
        {
            self.left.forget(&id);
        }
        Ok(stored)
    }

    /// The content of a small object, and the number of its message.
    async fn read_small(
        &self,
        bucket: &Bucket,
        key: &str,
    ) -> Result<Option<(Bytes, u64)>, Failure> {
        let name = self.name(key);
        let mut failed = None;
        for _ in 0..TRIES {
            let Some(found) = bucket.look(&name).await? else {
                return Ok(None);
            };
            let sequence = found.sequence;
            if failed.as_ref().is_some_and(|(of, _)| *of == sequence) {
                break;
            }
            let end = found.info.size;
            if end > SmallObject::LONGEST {
                return Err(Failure::TooLong);
            }
            let content = match bucket.read(found.info, 0..end as u64).await {
                Ok(content) => collect(content, end).await.map_err(Failure::request),
                Err(failure) => Err(failure),
            };
            match content {
                Ok(content) => return Ok(Some((content, sequence))),
                // It may have been replaced meanwhile, and its chunks be gone.
                Err(failure) => failed = Some((sequence, failure)),
            }
        }
        Err(failed.map_or(Failure::Missing, |(_, failure)| failure))
    }
}

/// The number of a message, of a version.
fn sequence(version: &Version) -> Option<u64> {
    Some(u64::from_be_bytes(version.as_bytes().try_into().ok()?))
}

fn version(sequence: u64) -> Version {
    Version::new(sequence.to_be_bytes().to_vec())
}

#[async_trait]
impl ReplicaClient for NatsClient {
    fn location(&self) -> String {
        self.options.to_string()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_create: true,
            compare_and_set: true,
            local: false,
        }
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        let folder = format!("ltx/{level}/");
        let listed = self.list_below(&folder, |name, size, created| {
            let name: LtxName = name.parse().ok()?;
            after
                .is_none_or(|after| after < name.min)
                .then_some(LtxObject {
                    level,
                    name,
                    size,
                    created,
                })
        });
        let mut objects = listed.await.map_err(self.failed("list", &folder))?;
        objects.sort_unstable_by_key(|object| object.name);
        Ok(objects)
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        let key = ltx_key(level, name);
        let name = &*self.name(&key);
        let found = self.look(name).await;
        let Some(found) = found.map_err(self.failed("read", &key))? else {
            return Err(self.not_found(key));
        };
        let size = found.info.size as u64;
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.end > size {
            return Err(Error::OutOfRange {
                location: self.location(),
                object: key,
                size,
                start: range.start,
                end: range.end,
            });
        }
        let read = self.repeatedly(|bucket| {
            let (info, range) = (found.info.clone(), range.clone());
            async move { bucket.read(info, range).await }
        });
        match read.await {
            // Somebody deleted it between the two looks.
            Err(Failure::Missing) if self.is_gone(name).await => Err(self.not_found(key)),
            read => read.map_err(self.failed("read", &key)),
        }
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error> {
        let key = ltx_key(level, name);
        let put = self.store(&key, body, Some(created), Over::Nothing);
        let (size, _) = put.await.map_err(self.failed("store", &key))?;
        Ok(LtxObject {
            level,
            name,
            size,
            created,
        })
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
        stream::iter(names.iter().map(|name| Ok(ltx_key(level, *name))))
            .try_for_each_concurrent(CONCURRENT_REQUESTS, async |key| {
                self.delete_verified(&key).await
            })
            .await
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        let key = small_key(key);
        let key = &*key;
        let read = self.repeatedly(|bucket| async move { self.read_small(&bucket, key).await });
        let read = read.await.map_err(self.failed("read", key))?;
        Ok(read.map(|(content, sequence)| SmallObject {
            content,
            version: version(sequence),
        }))
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        let key = small_key(key);
        let changed = |key| Error::Changed {
            location: self.location(),
            object: key,
        };
        let over = match &precondition {
            Precondition::None => Over::Anything,
            Precondition::Absent => Over::Nothing,
            Precondition::Unchanged(version) => match sequence(version) {
                Some(sequence) => Over::Message(sequence),
                None => return Err(changed(key)),
            },
        };
        match self.store(&key, bytes_stream(content), None, over).await {
            Ok((_, sequence)) => Ok(version(sequence)),
            Err(Failure::Conflict) if matches!(over, Over::Message(_)) => Err(changed(key)),
            Err(failure) => Err(self.failed("store", &key)(failure)),
        }
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        let folder = "evertide/";
        let listed = self.list_below(folder, |name, _, _| SmallKey::new(name));
        let mut keys = listed.await.map_err(self.failed("list", folder))?;
        keys.sort_unstable();
        Ok(keys)
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        self.delete_verified(&small_key(key)).await
    }
}

//! Replicas in object stores, through OpenDAL.

#[cfg(feature = "azure")]
mod azure;
mod connection;
#[cfg(feature = "gcs")]
mod gcs;
mod once;
#[cfg(feature = "oss")]
mod oss;
#[cfg(any(feature = "s3", feature = "oss"))]
mod parts;
mod put;
#[cfg(any(feature = "azure", feature = "gcs", feature = "oss", feature = "s3"))]
mod quiet;
#[cfg(feature = "s3")]
mod s3;
mod small;
mod transport;
mod v3;

use std::{fmt, iter, ops::Range, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use futures_util::{StreamExt, TryStreamExt, stream};
use opendal::{ErrorKind, Metadata, Operator};

#[cfg(feature = "azure")]
pub use self::azure::AzureOptions;
#[cfg(feature = "gcs")]
pub use self::gcs::GcsOptions;
#[cfg(feature = "oss")]
pub use self::oss::OssOptions;
#[cfg(feature = "s3")]
pub use self::s3::S3Options;
use self::{once::PutOnce, transport::WRONG_CLOCK};
use crate::{
    ByteStream, Capabilities, Error, LtxObject, Precondition, ReplicaClient, Secret, SmallKey,
    SmallObject, V3Key, V3Object, Version, bytes_stream,
    client::{ASKED_ONE_BY_ONE, LOOKED_FOR, find_in_listing},
    secret,
    stream::exactly,
    tls,
};

/// Requests at a time where many objects are asked about.
const CONCURRENT_REQUESTS: usize = 32;
/// Where the small objects of Evertide's own are, below the replica's root.
const SMALL: &str = "evertide/";

/// How an object store differs from the others.
#[derive(Clone, Copy, Debug)]
struct Dialect {
    /// The key of a level, with a slash at its end.
    level: fn(Level) -> String,
    /// The user metadata that has the time of an object's last transaction.
    timestamp: &'static str,
    /// Objects can be created on condition that there is none.
    conditional_create: bool,
    /// Objects can be replaced on condition that they are a certain one.
    compare_and_set: bool,
    /// What tells one content of an object from another.
    version: VersionBy,
    /// What the store's error says where the bucket is missing.
    missing_bucket: &'static str,
    /// How many objects are deleted.
    deletion: Deletion,
    /// Objects in a page of a listing, where the store would give less than it can.
    page: Option<usize>,
    /// Bytes in a part of a large upload; `None` where the store's client has a say in that.
    part: Option<usize>,
    /// Parts of one upload that are under way at a time.
    parts_at_a_time: usize,
}

/// What tells one content of an object from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code)] // not every store has every one
enum VersionBy {
    ETag,
    Generation,
}

/// How many objects are deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code)] // as above
enum Deletion {
    /// Up to so many with one request.
    InBatches(usize),
    /// Each with a request of its own.
    OneByOne,
}

/// Makes what to store with, given the time of the last transaction.
type InParts = Box<dyn Fn(&str) -> Operator + Send + Sync>;

/// A replica in an object store.
pub(crate) struct ObjectClient {
    operator: Operator,
    location: String,
    dialect: Dialect,
    /// How to store what is small, where the store has a better way than OpenDAL's.
    once: Option<Box<dyn PutOnce>>,
    /// What to store with in parts, where OpenDAL says the time only of what it stores in one request.
    in_parts: Option<InParts>,
    /// What no error may show, and what the store's client might put into one.
    secrets: Vec<Secret>,
}

impl fmt::Debug for ObjectClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The operator knows the credentials.
        f.debug_struct("ObjectClient")
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

impl ObjectClient {
    fn connect(
        location: String,
        dialect: Dialect,
        operator: Result<Operator, opendal::Error>,
    ) -> Result<Self, Error> {
        let operator = operator.map_err(|source| Error::Store {
            location: location.clone(),
            action: "use",
            object: "the settings".into(),
            hint: hint(&source),
            source: Box::new(source),
        })?;
        Ok(Self {
            operator,
            location,
            dialect,
            once: None,
            in_parts: None,
            secrets: Vec::new(),
        })
    }

    fn key(&self, level: Level, name: LtxName) -> String {
        format!("{}{name}", (self.dialect.level)(level))
    }

    /// An error of the store, as ours.
    fn failed<'a>(
        &'a self,
        action: &'static str,
        object: &'a str,
    ) -> impl Fn(opendal::Error) -> Error + Copy + 'a {
        move |source| {
            let (location, object) = (self.location.clone(), object.to_owned());
            match source.kind() {
                ErrorKind::NotFound if !self.is_missing_bucket(&source) => {
                    Error::NotFound { location, object }
                }
                ErrorKind::ConditionNotMatch => Error::AlreadyExists { location, object },
                _ => self.store_failed(action, &object, source),
            }
        }
    }

    /// As [`ObjectClient::failed`], where nothing was asked for that might not be there.
    fn store_failed(&self, action: &'static str, object: &str, source: opendal::Error) -> Error {
        Error::Store {
            location: self.location.clone(),
            action,
            object: object.to_owned(),
            hint: match self.is_missing_bucket(&source) {
                true => MISSING_BUCKET,
                false => hint(&source),
            },
            source: self.without_secrets(source),
        }
    }

    fn without_secrets(&self, source: opendal::Error) -> Box<dyn std::error::Error + Send + Sync> {
        let secrets = self.secrets.iter().map(Secret::expose);
        // As they are, and as they are in a URL.
        secret::without(source, secrets.map(|secret| secret.trim_start_matches('?')))
    }

    /// An error of a listing, as ours: what has no objects is listed all the same.
    fn not_listed<'a>(&'a self, prefix: &'a str) -> impl Fn(opendal::Error) -> Error + Copy + 'a {
        move |source| match source.kind() {
            ErrorKind::NotFound => Error::Store {
                location: self.location.clone(),
                action: "list",
                object: prefix.to_owned(),
                hint: MISSING_BUCKET,
                source: self.without_secrets(source),
            },
            _ => self.failed("list", prefix)(source),
        }
    }

    /// Whether the bucket is missing, which is no empty replica.
    fn is_missing_bucket(&self, error: &opendal::Error) -> bool {
        error.to_string().contains(self.dialect.missing_bucket)
    }

    fn object(&self, level: Level, name: LtxName, metadata: &Metadata) -> LtxObject {
        let modified = metadata.last_modified().map(SystemTime::from);
        LtxObject {
            level,
            name,
            size: metadata.content_length(),
            created: modified.unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }

    /// The time that was put with an object, where there is one.
    fn timestamp(&self, metadata: &Metadata) -> Option<SystemTime> {
        let timestamps = metadata.user_metadata()?;
        let text = timestamps.get(self.dialect.timestamp)?;
        let timestamp: jiff::Timestamp = text.parse().ok()?;
        Some(timestamp.into())
    }

    async fn delete_keys(&self, keys: Vec<String>) -> Result<(), opendal::Error> {
        match self.dialect.deletion {
            Deletion::InBatches(most) => {
                for batch in keys.chunks(most) {
                    self.operator.delete_iter(batch.to_vec()).await?;
                }
                Ok(())
            }
            Deletion::OneByOne => {
                stream::iter(keys.into_iter().map(Ok))
                    .try_for_each_concurrent(CONCURRENT_REQUESTS, async |key| {
                        self.operator.delete(&key).await
                    })
                    .await
            }
        }
    }

    /// The content of an object, or of a range of its bytes.
    async fn read(&self, key: &str, range: Option<Range<u64>>) -> Result<ByteStream, Error> {
        let failed = self.failed("read", key);
        let out_of_range = |size, Range { start, end }: Range<u64>| Error::OutOfRange {
            location: self.location.clone(),
            object: key.to_owned(),
            size,
            start,
            end,
        };
        let wanted = range.clone().unwrap_or(0..u64::MAX);
        // A request for no bytes is a request for all of them in HTTP.
        let beyond = || async {
            let size = self.operator.stat(key).await.map_err(failed)?;
            Ok::<_, Error>(size.content_length())
        };
        if wanted.is_empty() {
            let size = beyond().await?;
            return match wanted.start <= size {
                true => Ok(bytes_stream(Bytes::new())),
                false => Err(out_of_range(size, wanted)),
            };
        }
        let reader = self.operator.reader(key).await.map_err(failed)?;
        let opened = match &range {
            Some(range) => reader.into_bytes_stream(range.clone()).await,
            None => reader.into_bytes_stream(..).await,
        };
        let mut body = opened.map_err(failed)?;
        let size = match body.metadata().await {
            Ok(metadata) => metadata.content_length(),
            // Not every client tells this answer from others that are final.
            Err(error)
                if range.is_some()
                    && !error.is_temporary()
                    && [ErrorKind::RangeNotSatisfied, ErrorKind::Unexpected]
                        .contains(&error.kind()) =>
            {
                let size = beyond().await?;
                return Err(match wanted.end > size {
                    true => out_of_range(size, wanted),
                    false => failed(error),
                });
            }
            Err(error) => return Err(failed(error)),
        };
        match range {
            Some(range) if range.end > size => Err(out_of_range(size, range)),
            Some(range) => Ok(exactly(range.end - range.start, Box::pin(body))),
            None => Ok(exactly(size, Box::pin(body))),
        }
    }

    /// An object with its exact time, if it is there.
    async fn look(&self, level: Level, name: LtxName) -> Result<Option<LtxObject>, Error> {
        let key = self.key(level, name);
        match self.operator.stat(&key).await {
            Ok(metadata) => {
                let mut object = self.object(level, name, &metadata);
                object.created = self.timestamp(&metadata).unwrap_or(object.created);
                Ok(Some(object))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("look at", &key)(error)),
        }
    }

    /// Those of these objects that are there, in the same order.
    async fn look_at(&self, names: Vec<(Level, LtxName)>) -> Result<Vec<LtxObject>, Error> {
        let found = stream::iter(names)
            .map(|(level, name)| self.look(level, name))
            .buffered(CONCURRENT_REQUESTS);
        found
            .try_filter_map(async |object| Ok(object))
            .try_collect()
            .await
    }
}

/// 16 of these files, from the first to the last, or all of fewer.
fn looked_for(deleted: &[LtxName]) -> Vec<LtxName> {
    if deleted.len() <= LOOKED_FOR {
        return deleted.to_vec();
    }
    let last = deleted.len() - 1;
    let places = (0..LOOKED_FOR).map(|n| n * last / (LOOKED_FOR - 1));
    places
        .filter_map(|place| deleted.get(place).copied())
        .collect()
}

#[async_trait]
impl ReplicaClient for ObjectClient {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_create: self.dialect.conditional_create,
            compare_and_set: self.dialect.compare_and_set,
            local: false,
        }
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        let prefix = (self.dialect.level)(level);
        let failed = self.not_listed(&prefix);
        let mut lister = self.operator.lister_with(&prefix);
        if let Some(page) = self.dialect.page {
            lister = lister.limit(page);
        }
        if let Some(after) = after {
            // Above every name that begins at `after`, below the next.
            lister = lister.start_after(&format!("{prefix}{after}-g"));
        }
        let mut lister = lister.await.map_err(failed)?;
        let mut objects = Vec::new();
        while let Some(entry) = lister.try_next().await.map_err(failed)? {
            // Not every store begins where it is told.
            if let Ok(name) = entry.name().parse::<LtxName>()
                && after.is_none_or(|after| after < name.min)
            {
                objects.push(self.object(level, name, entry.metadata()));
            }
        }
        objects.sort_unstable_by_key(|object| object.name);
        Ok(objects)
    }

    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, Error> {
        let names = objects
            .into_iter()
            .map(|object| (object.level, object.name));
        self.look_at(names.collect()).await
    }

    async fn find(&self, level: Level, names: &[LtxName]) -> Result<Vec<LtxObject>, Error> {
        if names.len() > ASKED_ONE_BY_ONE {
            return find_in_listing(self, level, names).await;
        }
        let mut names: Vec<_> = names.iter().map(|name| (level, *name)).collect();
        names.sort_unstable();
        self.look_at(names).await
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        self.read(&self.key(level, name), range).await
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error> {
        let key = self.key(level, name);
        let size = self.put_stream(&key, created, body).await?;
        Ok(LtxObject {
            level,
            name,
            size,
            created,
        })
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
        let keys: Vec<_> = names.iter().map(|name| self.key(level, *name)).collect();
        let prefix = (self.dialect.level)(level);
        self.delete_keys(keys)
            .await
            .map_err(self.failed("delete", &prefix))?;
        // Stores were seen that say so and do not. Errors with single objects are in their answer.
        match self.find(level, &looked_for(names)).await?.first() {
            Some(left) => Err(Error::NotDeleted {
                location: self.location.clone(),
                object: self.key(level, left.name),
            }),
            None => Ok(()),
        }
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        self.read_small(&format!("{SMALL}{key}")).await
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        self.write_small(&format!("{SMALL}{key}"), content, precondition)
            .await
    }

    async fn small_stored(&self, key: &SmallKey) -> Result<Option<SystemTime>, Error> {
        let key = format!("{SMALL}{key}");
        match self.operator.stat(&key).await {
            Ok(metadata) => Ok(metadata.last_modified().map(SystemTime::from)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("look at", &key)(error)),
        }
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        let failed = self.not_listed(SMALL);
        let lister = self.operator.lister_with(SMALL).recursive(true);
        let mut lister = lister.await.map_err(failed)?;
        let mut keys = Vec::new();
        while let Some(entry) = lister.try_next().await.map_err(failed)? {
            let key = entry.path().strip_prefix(SMALL);
            keys.extend(key.and_then(SmallKey::new));
        }
        keys.sort_unstable();
        Ok(keys)
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        let key = format!("{SMALL}{key}");
        let deleted = self.operator.delete(&key).await;
        deleted.map_err(self.failed("delete", &key))
    }

    async fn list_v3(&self) -> Result<Vec<V3Object>, Error> {
        self.list_generations().await
    }

    async fn get_v3(&self, key: &V3Key, range: Option<Range<u64>>) -> Result<ByteStream, Error> {
        self.read(key.as_str(), range).await
    }
}

const MISSING_BUCKET: &str = "; create the bucket, or check its name, region and endpoint";

/// Whether a request was refused where the clock shows another time.
fn is_clock_wrong(error: &opendal::Error) -> bool {
    let first: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut causes = iter::successors(first, |cause| cause.source());
    causes.any(|cause| cause.to_string().contains(WRONG_CLOCK))
}

/// What an error says that came before a request could be signed.
const UNSIGNED: [&str; 2] = ["load signing credential", "signing http request"];

/// What the user can do about an error.
fn hint(error: &opendal::Error) -> &'static str {
    let text = error.to_string();
    match error.kind() {
        _ if is_clock_wrong(error) => "; set the clock of this machine",
        _ if let Some(hint) = tls::hint(error) => hint,
        ErrorKind::PermissionDenied => {
            "; check the access key and what its policy allows: list, get, put, delete"
        }
        ErrorKind::ConfigInvalid => "; check the settings of the replica",
        _ if UNSIGNED.iter().any(|said| text.contains(said)) => {
            "; check the access key, and that whoever gives tokens for it can be reached and accepts it"
        }
        _ if text.contains("NotImplemented") => {
            "; if the server has no conditional writes, set `conditional_writes` to false"
        }
        _ => "",
    }
}

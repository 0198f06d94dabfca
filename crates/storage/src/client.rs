//! What every store of replicas can do.

use std::{collections::BTreeSet, fmt, fmt::Debug, ops::Range, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};

use crate::{ByteStream, Error, V3Key, V3Object};

/// One LTX file on a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LtxObject {
    /// The level it is on.
    pub level: Level,
    /// The transactions it holds.
    pub name: LtxName,
    /// Size in bytes.
    pub size: u64,
    /// When its last transaction was captured; a restore to a point in time goes by this. See
    /// [`ReplicaClient::list_dated`].
    pub created: SystemTime,
}

/// Something on a replica that is neither an LTX file nor a small object of Evertide's own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Stray {
    /// Its key below the replica's root; that of a directory ends with `/`.
    pub key: String,
    /// What it looks like.
    pub kind: StrayKind,
}

/// What a [`Stray`] looks like.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum StrayKind {
    /// An object that is being written, or that a killed process left behind.
    Temporary,
    /// Something that neither Evertide nor Litestream 0.5 puts there.
    Foreign,
}

/// What a store promises beyond the minimum.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether of two writers who create one object at the same time exactly one succeeds.
    pub conditional_create: bool,
    /// Whether of two writers who replace one small object on [`Precondition::Unchanged`] at the same
    /// time exactly one succeeds, and none replaces or revives what was deleted meanwhile. Without it a
    /// client compares before it writes, and what comes in between is lost.
    pub compare_and_set: bool,
    /// Whether what it holds is read from a file system of this machine rather than from a service,
    /// which may want money for it.
    pub local: bool,
}

/// Which content of a small object this is: opaque, of the store that gave it. Equal contents may have
/// equal versions, so what is to be told apart must differ.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version(Bytes);

impl Version {
    /// What a client calls a version by.
    pub fn new(text: impl Into<Bytes>) -> Self {
        Self(text.into())
    }

    /// What the client that made it called it by.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // For a file it is the content.
        write!(f, "Version({} bytes)", self.0.len())
    }
}

/// A small object, as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SmallObject {
    /// What it holds.
    pub content: Bytes,
    /// For [`Precondition::Unchanged`].
    pub version: Version,
}

impl SmallObject {
    /// The most bytes that are read of one. Evertide's own are far shorter.
    pub const LONGEST: usize = 1 << 20;
}

/// Whether [`ReplicaClient::put_small`] may replace what is there.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Precondition {
    /// Create or replace.
    None,
    /// Create, or fail with [`Error::AlreadyExists`].
    Absent,
    /// Replace what has this version, or fail with [`Error::Changed`].
    Unchanged(Version),
}

/// The key of a small object of Evertide's own: one or more parts of lower-case letters, digits,
/// `-`, `_` and `.`, joined by `/`, no part starting with a dot. It lives below `<root>/evertide/`,
/// where Litestream never looks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SmallKey(String);

impl SmallKey {
    /// The key of this text, `None` where the text is not a key.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        let part =
            |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed);
        text.split('/').all(part).then_some(Self(text))
    }

    /// The key of the replica's lease.
    pub fn lease() -> Self {
        Self("lease".to_owned())
    }

    /// The key of what a destination is tried with.
    pub(crate) fn doctor(number: u64) -> Self {
        Self(format!("doctor-{number:016x}"))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SmallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many LTX files a service is asked for one by one. More of them are listed.
pub(crate) const ASKED_ONE_BY_ONE: usize = 500;

/// How many of the files that a service deleted together it is asked for afterwards.
pub(crate) const LOOKED_FOR: usize = 16;

/// Those of these LTX files that a listing has.
pub(crate) async fn find_in_listing<C: ReplicaClient + ?Sized>(
    client: &C,
    level: Level,
    names: &[LtxName],
) -> Result<Vec<LtxObject>, Error> {
    let Some(first) = names.iter().min() else {
        return Ok(Vec::new());
    };
    let after = Some(first.min.previous()).filter(|after| *after > Txid::ZERO);
    let wanted: BTreeSet<&LtxName> = names.iter().collect();
    let mut found = client.list(level, after).await?;
    found.retain(|object| wanted.contains(&object.name));
    Ok(found)
}

/// The store of one replica: one destination of one database.
///
/// Objects are immutable: put once, read, deleted, never replaced. All methods may be called
/// concurrently.
#[async_trait]
pub trait ReplicaClient: Debug + Send + Sync {
    /// Where the replica is, as a URL or path without credentials, for logs and errors.
    fn location(&self) -> String;

    /// What the store promises.
    fn capabilities(&self) -> Capabilities;

    /// The LTX files of a level whose minimum TXID is above `after`, sorted by minimum, then
    /// maximum TXID. Objects with names of another form are none of our business and left out. A
    /// replica that does not exist yet is empty.
    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error>;

    /// As [`ReplicaClient::list`], with exact times. Of some stores a listing alone tells when an object
    /// was stored, which is a little later than its last transaction was captured; there each object is
    /// asked for.
    async fn list_dated(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        let objects = self.list(level, after).await?;
        self.date(objects).await
    }

    /// The same objects of a listing, with exact times. Those that are gone meanwhile may be left out.
    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, Error> {
        Ok(objects)
    }

    /// Those of these LTX files that are there, sorted by name, as the store has them now. A service is asked for
    /// each of up to 500, and lists more.
    ///
    /// Without an implementation a store is listed; one that passes calls on to another store has to pass this
    /// on too.
    async fn find(&self, level: Level, names: &[LtxName]) -> Result<Vec<LtxObject>, Error> {
        find_in_listing(self, level, names).await
    }

    /// The content of an LTX file, or of a range of its bytes.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::OutOfRange`] where the range reaches beyond the object. The
    /// stream ends with an error where less arrives than promised.
    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error>;

    /// Stores an LTX file, durably. `created` must be the timestamp of its header.
    ///
    /// Atomic: after an error, of the body's stream too, or when the future is dropped, nothing is
    /// visible. Only where the drop comes while the last step is being taken, the whole object may
    /// be there. The body is streamed in bounded memory.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] where there is one of that name, whatever its content, and the
    /// store can tell.
    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error>;

    /// Deletes LTX files, and makes sure that they are gone: a service that says so of many is asked for 16 of them
    /// once more, from the first to the last. Those that are not there are no error.
    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error>;

    /// A small object of Evertide's own, `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] above [`SmallObject::LONGEST`] bytes: somebody else wrote it, and no memory is to be
    /// taken for it.
    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error>;

    /// Stores a small object of Evertide's own, durably and atomically, and gives its new version.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] where it must be absent and is not, [`Error::Changed`] where it must be
    /// unchanged and is another one or gone. Where a connection broke and the client tried again, both
    /// can be the work of the first try: read it again to know. Any other error leaves open whether it
    /// was stored.
    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error>;

    /// When a small object was stored, by the store's own clock, to the second; `None` where the store does not
    /// tell, or has no such object.
    ///
    /// One that passes calls on to another store has to pass this on too.
    async fn small_stored(&self, _key: &SmallKey) -> Result<Option<SystemTime>, Error> {
        Ok(None)
    }

    /// The keys of all small objects, sorted.
    async fn list_small(&self) -> Result<Vec<SmallKey>, Error>;

    /// Deletes a small object. One that is not there is no error.
    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error>;

    /// The files that Litestream 0.3 left at this place, sorted by generation, snapshots before
    /// segments, then by index and offset. Files with other names are left out.
    ///
    /// Without an implementation a store has none; one that passes calls on to another store has
    /// to pass this on too.
    async fn list_v3(&self) -> Result<Vec<V3Object>, Error> {
        Ok(Vec::new())
    }

    /// The content of such a file, or of a range of its bytes.
    ///
    /// # Errors
    ///
    /// As [`ReplicaClient::get`].
    async fn get_v3(&self, key: &V3Key, _range: Option<Range<u64>>) -> Result<ByteStream, Error> {
        Err(Error::NotFound {
            location: self.location(),
            object: key.to_string(),
        })
    }

    /// What lies on the replica and is not part of it, sorted. Stores that cannot tell say that there
    /// is nothing.
    async fn list_strays(&self) -> Result<Vec<Stray>, Error> {
        Ok(Vec::new())
    }
}

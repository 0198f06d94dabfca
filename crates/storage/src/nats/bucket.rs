//! Objects in a bucket, as every client of NATS keeps them (ADR-20): the content in chunks under a subject of its
//! own, and then one message that says which chunks are the object of a name. That message is what is
//! created or replaced on condition; until it is there nobody sees the chunks.

use std::{collections::HashMap, ops::Range, time::SystemTime};

use async_nats::{
    Client, HeaderMap,
    header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_ROLLUP},
    jetstream::{
        consumer::{DeliverPolicy, push},
        context::Context,
        object_store::{ObjectInfo, ObjectOptions},
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use ring::digest;
use tokio::time::timeout;

use super::{
    NatsOptions,
    content::{STALL, content, is_whole, part, written},
    failure::Failure,
};
use crate::{ByteStream, bytes_stream, connected::Connection, leftovers::Leftovers};

/// Bytes of content in a message: what Litestream has, and less than every server takes.
const CHUNK: usize = 128 << 10;
/// Messages on their way at a time, for one object.
const IN_FLIGHT: usize = 16;
/// Tries to replace what others replace at the same time.
const TRIES: u32 = 20;
/// The header that has the time of an object's last transaction.
const TIMESTAMP: &str = "Litestream-Timestamp";

/// A bucket.
pub(super) struct Bucket {
    name: String,
    client: Client,
    context: Context,
    stream: Stream,
}

/// What is said of an object.
pub(super) struct Found {
    pub(super) info: ObjectInfo,
    /// The number of the message that says it.
    pub(super) sequence: u64,
}

/// What an object takes the place of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    /// Whatever is there.
    Anything,
    /// Nothing: it must not be there.
    Nothing,
    /// What the message with this number says.
    Message(u64),
}

impl Over {
    /// Whether an object may take the place of this one.
    fn allows(self, found: Option<&Found>) -> bool {
        // Others leave a message that says that an object is deleted.
        let there = found.filter(|found| !found.info.deleted);
        match self {
            Self::Anything => true,
            Self::Nothing => there.is_none(),
            Self::Message(sequence) => there.is_some_and(|found| found.sequence == sequence),
        }
    }
}

/// Chunks that are removed when dropped before they are an object.
struct Upload<'a> {
    bucket: &'a Bucket,
    id: String,
    left: Leftovers,
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if !self.id.is_empty() {
            let subject = self.bucket.chunk_subject(&self.id);
            let stream = self.bucket.stream.clone();
            let purged = async move { stream.purge().filter(subject).await.is_ok() };
            self.left.give_up(std::mem::take(&mut self.id), purged);
        }
    }
}

impl Connection for Bucket {
    type Options = NatsOptions;
    type Failure = Failure;

    async fn open(options: &NatsOptions) -> Result<Self, Failure> {
        options.open().await
    }

    fn is_of_use(&self) -> bool {
        // A connection that breaks is made anew by the tasks that keep it up.
        true
    }

    fn is_broken(failure: &Failure) -> bool {
        failure.is_broken()
    }
}

impl Bucket {
    /// The bucket of this name, if there is one.
    pub(super) async fn find(
        client: Client,
        context: Context,
        name: &str,
    ) -> Result<Self, Failure> {
        let stream = context.get_stream(format!("OBJ_{name}")).await;
        Ok(Self {
            name: name.to_owned(),
            stream: stream.map_err(Failure::open)?,
            client,
            context,
        })
    }

    fn message_subject(&self, key: &str) -> String {
        format!("$O.{}.M.{}", self.name, URL_SAFE.encode(key))
    }

    fn chunk_subject(&self, id: &str) -> String {
        format!("$O.{}.C.{id}", self.name)
    }

    /// The messages that are there on a subject; with their number.
    async fn messages(
        &self,
        filter_subject: String,
        deliver_policy: DeliverPolicy,
    ) -> Result<(push::Ordered, u64), Failure> {
        let config = push::OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            filter_subject,
            deliver_policy,
            ..push::OrderedConfig::default()
        };
        let consumer = self.stream.create_consumer(config).await;
        let consumer = consumer.map_err(Failure::request)?;
        let count = consumer.cached_info().num_pending;
        let messages = consumer.messages().await.map_err(Failure::request)?;
        Ok((messages, count))
    }

    /// What is said of every object, and when its message was stored.
    pub(super) async fn list(&self) -> Result<Vec<(ObjectInfo, SystemTime)>, Failure> {
        let subject = format!("$O.{}.M.>", self.name);
        let listed = self.messages(subject, DeliverPolicy::LastPerSubject).await;
        let (mut messages, mut left) = listed?;
        let mut objects = Vec::new();
        while left > 0 {
            let message = timeout(STALL, messages.next()).await;
            let message = message.map_err(|_| Failure::Silent(STALL))?;
            let message = message.ok_or(Failure::Missing)?.map_err(Failure::request)?;
            let place = message.info().map_err(Failure::Request)?;
            left = place.pending;
            let object: ObjectInfo = serde_json::from_slice(&message.payload)?;
            if !object.deleted {
                objects.push((object, place.published.into()));
            }
        }
        Ok(objects)
    }

    /// The last message on a subject, from the server that leads: others may be behind.
    async fn last(&self, subject: &str) -> Result<Option<(u64, Bytes)>, Failure> {
        match self.stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some((message.sequence, message.payload))),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                Ok(None)
            }
            Err(error) => Err(Failure::request(error)),
        }
    }

    /// What is said of an object, also that it is deleted.
    async fn said(&self, key: &str) -> Result<Option<Found>, Failure> {
        let Some((sequence, message)) = self.last(&self.message_subject(key)).await? else {
            return Ok(None);
        };
        let info = serde_json::from_slice(&message)?;
        Ok(Some(Found { info, sequence }))
    }

    /// What is said of an object that is there.
    pub(super) async fn look(&self, key: &str) -> Result<Option<Found>, Failure> {
        let said = self.said(key).await?;
        Ok(said.filter(|found| !found.info.deleted))
    }

    /// A range that an object has of its content.
    pub(super) async fn read(
        &self,
        info: ObjectInfo,
        range: Range<u64>,
    ) -> Result<ByteStream, Failure> {
        let subject = self.chunk_subject(&info.nuid);
        if info.chunks > 1 {
            let (chunks, count) = self.messages(subject, DeliverPolicy::All).await?;
            return match count == info.chunks as u64 {
                true => Ok(content(info, range, chunks)),
                false => Err(Failure::Missing),
            };
        }
        let chunk = match info.chunks {
            0 => Bytes::new(),
            _ => self.last(&subject).await?.ok_or(Failure::Missing)?.1,
        };
        let sum = digest::digest(&digest::SHA256, &chunk);
        if !is_whole(&info, chunk.len() as u64, sum) {
            return Err(Failure::Damaged);
        }
        Ok(bytes_stream(part(&chunk, 0, &range)))
    }

    /// Stores an object on this condition; its size in bytes and the number of its message.
    pub(super) async fn put(
        &self,
        key: &str,
        body: ByteStream,
        created: Option<SystemTime>,
        over: Over,
        left: &Leftovers,
    ) -> Result<(u64, u64), Failure> {
        let mut upload = Upload {
            bucket: self,
            id: format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)),
            left: left.clone(),
        };
        let (size, chunks, sum) = self.put_chunks(&upload.id, body).await?;
        let mut headers = HeaderMap::new();
        if let Some(created) = created {
            let timestamp = jiff::Timestamp::try_from(created).unwrap_or_default();
            headers.insert(TIMESTAMP, timestamp.to_string());
        }
        let info = ObjectInfo {
            name: key.to_owned(),
            description: None,
            metadata: HashMap::new(),
            headers: Some(headers).filter(|headers| !headers.is_empty()),
            options: Some(ObjectOptions {
                link: None,
                max_chunk_size: Some(CHUNK),
            }),
            bucket: self.name.clone(),
            // From here on somebody may see it: what becomes of a message that is not answered is unknown.
            nuid: std::mem::take(&mut upload.id),
            size: usize::try_from(size).unwrap_or(usize::MAX),
            chunks,
            modified: None, // the message has a time
            digest: Some(written(sum)),
            deleted: false,
        };
        match self.announce(key, &info, over).await {
            Ok(sequence) => Ok((size, sequence)),
            Err(Failure::Conflict) => {
                upload.id = info.nuid;
                Err(Failure::Conflict)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Stores content; its size, the number of chunks and the digest.
    async fn put_chunks(
        &self,
        id: &str,
        mut body: ByteStream,
    ) -> Result<(u64, usize, digest::Digest), Failure> {
        let subject = self.chunk_subject(id);
        let mut sum = digest::Context::new(&digest::SHA256);
        let (mut size, mut chunks) = (0, 0);
        let mut sent = FuturesUnordered::new();
        while let Some(piece) = body.next().await {
            let mut piece = piece.map_err(Failure::Body)?;
            while !piece.is_empty() {
                let chunk = piece.split_to(piece.len().min(CHUNK));
                sum.update(&chunk);
                size += chunk.len() as u64;
                chunks += 1;
                let published = self.context.publish(subject.clone(), chunk).await;
                sent.push(published.map_err(Failure::publish)?.into_future());
                while sent.len() >= IN_FLIGHT {
                    sent.next().await.transpose().map_err(Failure::publish)?;
                }
            }
        }
        while let Some(stored) = sent.next().await {
            stored.map_err(Failure::publish)?;
        }
        Ok((size, chunks, sum.finish()))
    }

    /// Says what an object is, on this condition; the number of the message.
    async fn announce(&self, key: &str, info: &ObjectInfo, over: Over) -> Result<u64, Failure> {
        // Mostly there is nothing where nothing must be.
        let mut found = match over {
            Over::Nothing => None,
            _ => self.said(key).await?,
        };
        for _ in 0..TRIES {
            if !over.allows(found.as_ref()) {
                return Err(Failure::Conflict);
            }
            let last = found.as_ref().map_or(0, |found| found.sequence);
            match self.say(key, info, last).await {
                Err(Failure::Conflict) => found = self.said(key).await?,
                Err(failure) => return Err(failure),
                Ok(sequence) => {
                    if let Some(replaced) = found {
                        // Harmless where this fails: nobody sees it any more.
                        let _ = self.purge_chunks(&replaced.info.nuid).await;
                    }
                    return Ok(sequence);
                }
            }
        }
        Err(Failure::Conflict)
    }

    /// Stores what is said of an object in place of the message with this number, or of none.
    async fn say(&self, key: &str, info: &ObjectInfo, last: u64) -> Result<u64, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_ROLLUP, "sub");
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.to_string());
        let message = serde_json::to_vec(info)?.into();
        let subject = self.message_subject(key);
        let published = self.context.publish_with_headers(subject, headers, message);
        let published = published.await.map_err(Failure::publish)?;
        Ok(published.await.map_err(Failure::publish)?.sequence)
    }

    /// Deletes an object. One that is not there is no error.
    pub(super) async fn delete(&self, key: &str) -> Result<(), Failure> {
        let Some(found) = self.look(key).await? else {
            return Ok(());
        };
        // Nothing stays of it: other clients leave a message that says it was there, for ever.
        let purge = self.stream.purge().filter(self.message_subject(key));
        let purged = purge.sequence(found.sequence + 1).await;
        purged.map_err(Failure::request)?;
        self.purge_chunks(&found.info.nuid).await
    }

    /// Deletes the content of an object.
    pub(super) async fn purge_chunks(&self, id: &str) -> Result<(), Failure> {
        let purged = self.stream.purge().filter(self.chunk_subject(id)).await;
        purged.map(drop).map_err(Failure::request)
    }
}

/// When the last transaction of an object was captured, where it says so.
pub(super) fn created(info: &ObjectInfo) -> Option<SystemTime> {
    let timestamp = info.headers.as_ref()?.get(TIMESTAMP)?.as_str();
    let timestamp: jiff::Timestamp = timestamp.parse().ok()?;
    Some(timestamp.into())
}

//! Publishing checksums of the database beside a replica.
//!
//! Nothing is sent with a sync. What arrived is collected here, and one small object is rewritten when
//! ten minutes have passed since the last time, and at the end: at most six requests an hour, and none
//! while nothing changes. It is an extra, so that a failure delays no upload and is no error.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evertide_ltx::Txid;
use evertide_storage::{Error, Precondition, ReplicaClient, SmallKey};
use tokio::time::Instant;

use super::records::{self, Content, Record};

/// Least time between two publications.
const INTERVAL: Duration = Duration::from_secs(600);
/// How long one may take: uploads wait for it, and so does the end.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many records are kept for a listener: what is captured in some hours.
const HEARD: usize = 1 << 15;
/// The name of the object.
const NAME: &str = "checksums";

/// Collects the checksums of what arrived on one replica.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    records: Vec<Record>,
    /// The last transaction of the newest upload of this start.
    uploaded: Txid,
    /// Whether those that were published before this start are among them.
    loaded: bool,
    unpublished: bool,
    /// When a publication was tried.
    last: Option<Instant>,
    heard: Heard,
}

impl Recorder {
    /// What is recorded from now on, for those who do not wait until it is published.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.clone()
    }

    /// A file whose last transaction is `txid` has been uploaded. Its checksum may come later.
    pub(crate) fn uploaded(&mut self, txid: Txid) {
        self.uploaded = txid;
    }

    /// This is the newest captured state; it counts if it is what was uploaded last. What was uploaded
    /// before this start was recorded then.
    pub(crate) fn captured(&mut self, record: Option<Record>) {
        if let Some(record) = record {
            self.heard.note(record);
        }
        let new = |record: &Record| {
            record.txid == self.uploaded
                && self
                    .records
                    .last()
                    .is_none_or(|last| last.txid < record.txid)
        };
        if let Some(record) = record.filter(new) {
            records::add(&mut self.records, record);
            self.unpublished = true;
        }
    }

    /// Waits until there is something to publish, and it is time for it.
    pub(crate) async fn due(&self) {
        match self.last {
            _ if !self.unpublished => std::future::pending().await,
            Some(last) => tokio::time::sleep_until(last + INTERVAL).await,
            None => {}
        }
    }

    /// Publishes what is there if it is time.
    pub(crate) async fn publish_if_due(&mut self, client: &dyn ReplicaClient) {
        if self.unpublished && self.last.is_none_or(|last| last.elapsed() >= INTERVAL) {
            self.publish(client).await;
        }
    }

    /// Publishes what is left.
    pub(crate) async fn finish(&mut self, client: &dyn ReplicaClient) {
        if self.unpublished {
            self.publish(client).await;
        }
    }

    async fn publish(&mut self, client: &dyn ReplicaClient) {
        self.last = Some(Instant::now());
        let error = match tokio::time::timeout(PATIENCE, self.try_publish(client)).await {
            Ok(Ok(())) => {
                self.unpublished = false;
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it takes too long".to_owned(),
        };
        let replica = client.location();
        tracing::debug!(
            replica,
            error,
            "cannot record database checksums; trying again later"
        );
    }

    async fn try_publish(&mut self, client: &dyn ReplicaClient) -> Result<(), Error> {
        let Some(key) = SmallKey::new(NAME) else {
            return Ok(());
        };
        if !self.loaded {
            // What cannot be read is written anew.
            if let Recorded::Records(published) = recorded(client).await? {
                records::prepend(&mut self.records, published);
            }
            self.loaded = true;
        }
        let content = records::encode(&self.records);
        client
            .put_small(&key, content.into(), Precondition::None)
            .await
            .map(drop)
    }
}

/// Checksums of the newest states, as they become known: the last one, and while somebody listens all of
/// them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<Mutex<Hearing>>);

#[derive(Debug, Default)]
struct Hearing {
    records: Vec<Record>,
    listeners: u32,
}

/// Those heard meanwhile are kept until this is dropped.
pub(crate) struct Listening(Heard);

impl Heard {
    pub(crate) fn listen(&self) -> Listening {
        self.state().listeners += 1;
        Listening(self.clone())
    }

    fn note(&self, record: Record) {
        let mut state = self.state();
        if state.records.last() == Some(&record) {
            return;
        }
        if state.listeners == 0 {
            state.records.clear();
        }
        let excess = (state.records.len() + 1).saturating_sub(HEARD);
        state.records.drain(..excess);
        state.records.push(record);
    }

    fn state(&self) -> MutexGuard<'_, Hearing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listening {
    /// The last record of the transaction of this time. Whoever has taken the replica over counts transactions,
    /// too.
    pub(crate) fn record_of(&self, txid: Txid, timestamp_ms: Option<i64>) -> Option<Record> {
        let same = |r: &&Record| r.txid == txid && Some(r.timestamp_ms) == timestamp_ms;
        self.0.state().records.iter().rfind(same).copied()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.state().listeners -= 1;
    }
}

/// What the database was after the transaction of this time, if that is recorded.
pub(crate) async fn recorded_content(
    client: &dyn ReplicaClient,
    txid: Txid,
    timestamp_ms: i64,
) -> Result<Option<Content>, Error> {
    let Recorded::Records(records) = recorded(client).await? else {
        return Ok(None);
    };
    let mut records = records.into_iter();
    let found = records.find(|r| (r.txid, r.timestamp_ms) == (txid, timestamp_ms));
    Ok(found.as_ref().map(Record::content))
}

/// What is recorded on a replica.
pub(crate) enum Recorded {
    /// These; none where nothing was ever recorded.
    Records(Vec<Record>),
    /// The object is damaged, or of another version.
    Damaged,
}

/// Reads what is recorded on a replica.
pub(crate) async fn recorded(client: &dyn ReplicaClient) -> Result<Recorded, Error> {
    let Some(key) = SmallKey::new(NAME) else {
        return Ok(Recorded::Damaged);
    };
    Ok(match client.get_small(&key).await? {
        None => Recorded::Records(Vec::new()),
        Some(found) => records::decode(&found.content).map_or(Recorded::Damaged, Recorded::Records),
    })
}

#[cfg(test)]
mod tests {
    use evertide_ltx::Checksum;

    use super::*;

    #[test]
    fn a_transaction_of_another_history_with_the_same_number_is_not_taken_for_the_one_heard_of() {
        let heard = Heard::default();
        let listening = heard.listen();
        let record = Record {
            txid: Txid::new(7),
            timestamp_ms: 1_000,
            pages: 3,
            checksum: Checksum::EMPTY,
        };
        heard.note(record);
        assert_eq!(listening.record_of(Txid::new(7), Some(1_000)), Some(record));
        for (txid, time) in [(7, Some(1_001)), (7, None), (8, Some(1_000))] {
            assert_eq!(listening.record_of(Txid::new(txid), time), None);
        }
    }
}

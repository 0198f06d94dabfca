//! A limit on how fast a replica is read, for what must not be in the way of anything else.

use std::{
    num::NonZeroU64,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use futures_util::StreamExt;
use tokio::time::Instant;

use crate::{
    ByteStream, Capabilities, Error, LtxObject, Precondition, ReplicaClient, SmallKey, SmallObject,
    Stray, V3Key, V3Object, Version,
};

/// When what has passed is paid for. Pure.
///
/// Nothing is saved up in quiet times: in no time does more pass than the rate allows, and one piece.
#[derive(Debug)]
struct Bucket {
    /// Bytes in a second.
    rate: NonZeroU64,
    /// Since the beginning; what has passed is paid for then.
    paid: Duration,
}

impl Bucket {
    fn new(rate: NonZeroU64) -> Self {
        let paid = Duration::ZERO;
        Self { rate, paid }
    }

    /// How long a piece that is there `now` has to wait until it may pass.
    fn wait(&mut self, now: Duration, bytes: u64) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.get());
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.paid = self.paid.max(now).saturating_add(cost);
        self.paid - now
    }
}

/// A client that reads the files of another one no faster than a limit, all its reads together.
/// Whatever else it is asked for passes at once.
#[derive(Debug)]
pub struct LimitedClient {
    inner: Arc<dyn ReplicaClient>,
    limit: Arc<Limit>,
}

#[derive(Debug)]
struct Limit {
    beginning: Instant,
    bucket: Mutex<Bucket>,
}

impl Limit {
    async fn pass(&self, bytes: usize) {
        let wait = {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.wait(self.beginning.elapsed(), bytes as u64)
        };
        tokio::time::sleep(wait).await;
    }
}

impl LimitedClient {
    /// Reads from `inner` at most so many bytes in a second.
    pub fn new(inner: Arc<dyn ReplicaClient>, bytes_per_second: NonZeroU64) -> Self {
        let limit = Limit {
            beginning: Instant::now(),
            bucket: Mutex::new(Bucket::new(bytes_per_second)),
        };
        Self {
            inner,
            limit: Arc::new(limit),
        }
    }

    fn limited(&self, body: ByteStream) -> ByteStream {
        let limit = Arc::clone(&self.limit);
        Box::pin(body.then(move |piece| {
            let limit = Arc::clone(&limit);
            async move {
                if let Ok(piece) = &piece {
                    limit.pass(piece.len()).await;
                }
                piece
            }
        }))
    }
}

#[async_trait]
impl ReplicaClient for LimitedClient {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        self.inner.list(level, after).await
    }

    async fn list_dated(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        self.inner.list_dated(level, after).await
    }

    async fn date(&self, objects: Vec<LtxObject>) -> Result<Vec<LtxObject>, Error> {
        self.inner.date(objects).await
    }

    async fn find(&self, level: Level, names: &[LtxName]) -> Result<Vec<LtxObject>, Error> {
        self.inner.find(level, names).await
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        let body = self.inner.get(level, name, range).await?;
        Ok(self.limited(body))
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        body: ByteStream,
    ) -> Result<LtxObject, Error> {
        self.inner.put(level, name, created, body).await
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
        self.inner.delete(level, names).await
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        self.inner.get_small(key).await
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        self.inner.put_small(key, content, precondition).await
    }

    async fn small_stored(&self, key: &SmallKey) -> Result<Option<SystemTime>, Error> {
        self.inner.small_stored(key).await
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        self.inner.list_small().await
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        self.inner.delete_small(key).await
    }

    async fn list_strays(&self) -> Result<Vec<Stray>, Error> {
        self.inner.list_strays().await
    }

    async fn list_v3(&self) -> Result<Vec<V3Object>, Error> {
        self.inner.list_v3().await
    }

    async fn get_v3(&self, key: &V3Key, range: Option<Range<u64>>) -> Result<ByteStream, Error> {
        let body = self.inner.get_v3(key, range).await?;
        Ok(self.limited(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryClient, bytes_stream, collect};

    fn rate(bytes: u64) -> NonZeroU64 {
        NonZeroU64::new(bytes).unwrap()
    }

    #[test]
    fn no_more_passes_in_any_time_than_the_rate_allows_and_one_piece() {
        let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
        for _ in 0..300 {
            let bytes_per_second = random.u64(1..2_000_000);
            let mut bucket = Bucket::new(rate(bytes_per_second));
            let (mut now, mut passed) = (Duration::ZERO, Vec::new());
            for _ in 0..40 {
                if random.u8(..4) == 0 {
                    now += Duration::from_millis(random.u64(..3_000));
                }
                let bytes = random.u64(1..500_000);
                let wait = bucket.wait(now, bytes);
                passed.push((now + wait, bytes));
                // Whoever reads side by side does not wait for the other.
                if random.bool() {
                    now += wait;
                }
            }
            for (first, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (at, bytes) in &passed[first + 1..] {
                    sum += bytes;
                    let allowed = (*at - *from).as_secs_f64() * bytes_per_second as f64;
                    assert!(sum as f64 <= allowed + 1.0, "{sum} in {:?}", *at - *from);
                }
            }
            // Nor does anybody wait for longer than that takes.
            let mut bucket = Bucket::new(rate(bytes_per_second));
            let total: u64 = passed.iter().map(|(_, bytes)| bytes).sum();
            let longest = passed
                .iter()
                .map(|(_, bytes)| bucket.wait(Duration::ZERO, *bytes));
            let longest = longest.max().unwrap().as_secs_f64();
            assert!(longest <= total as f64 / bytes_per_second as f64 + 1e-6);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn files_read_side_by_side_take_as_long_as_all_of_them_may() {
        let store = Arc::new(MemoryClient::new("limited"));
        let content = vec![7; 30_000];
        for txid in 1..=4 {
            let name = LtxName::new(Txid::new(txid), Txid::new(txid));
            let body = bytes_stream(content.clone().into());
            let put = store.put(Level::L0, name, SystemTime::UNIX_EPOCH, body);
            put.await.unwrap();
        }
        let client = LimitedClient::new(store, rate(1_000));
        let begun = Instant::now();
        let read = (1..=4).map(|txid| {
            let (client, content) = (&client, &content);
            async move {
                let name = LtxName::new(Txid::new(txid), Txid::new(txid));
                let body = client.get(Level::L0, name, None).await.unwrap();
                assert!(collect(body, 1 << 20).await.unwrap() == content[..]);
            }
        });
        futures_util::future::join_all(read).await;
        let (took, fair) = (begun.elapsed(), Duration::from_secs(120));
        assert!(
            (fair..fair + Duration::from_secs(1)).contains(&took),
            "{took:?}"
        );
        // What is no file costs nothing.
        let listed = Instant::now();
        assert_eq!(client.list(Level::L0, None).await.unwrap().len(), 4);
        assert_eq!(listed.elapsed(), Duration::ZERO);
    }
}

//! Files that Litestream 0.3 left in the bucket.

use std::time::SystemTime;

use futures_util::TryStreamExt;

use super::ObjectClient;
use crate::{Error, V3Key, V3Object};

/// Where they are, below the replica's root.
const GENERATIONS: &str = "generations/";

impl ObjectClient {
    /// All files of all generations, sorted.
    pub(super) async fn list_generations(&self) -> Result<Vec<V3Object>, Error> {
        let failed = self.not_listed(GENERATIONS);
        let mut lister = self.operator.lister_with(GENERATIONS).recursive(true);
        if let Some(page) = self.dialect.page {
            lister = lister.limit(page);
        }
        let mut lister = lister.await.map_err(failed)?;
        let mut objects = Vec::new();
        while let Some(entry) = lister.try_next().await.map_err(failed)? {
            let Some(key) = V3Key::parse(entry.path()) else {
                continue;
            };
            let metadata = entry.metadata();
            let stored = metadata.last_modified().map(SystemTime::from);
            objects.push(V3Object {
                key,
                size: metadata.content_length(),
                created: stored.unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }
}

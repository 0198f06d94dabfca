//! Times of LTX files, where a store has none that are exact.

use std::time::{Duration, SystemTime};

use evertide_ltx::Header;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{Error, LtxObject, ReplicaClient, collect};

/// Requests at a time.
const CONCURRENT_REQUESTS: usize = 16;

/// These files with the times of their headers; without those that are gone.
pub(crate) async fn from_headers(
    client: &dyn ReplicaClient,
    objects: Vec<LtxObject>,
) -> Result<Vec<LtxObject>, Error> {
    let dated = stream::iter(objects)
        .map(|object| from_header(client, object))
        .buffered(CONCURRENT_REQUESTS);
    dated
        .try_filter_map(async |object| Ok(object))
        .try_collect()
        .await
}

async fn from_header(
    client: &dyn ReplicaClient,
    mut object: LtxObject,
) -> Result<Option<LtxObject>, Error> {
    if object.size < Header::LEN as u64 {
        return Ok(Some(object));
    }
    let range = Some(0..Header::LEN as u64);
    let read = match client.get(object.level, object.name, range).await {
        Ok(body) => collect(body, Header::LEN).await,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let content = read.map_err(|error| Error::Store {
        location: client.location(),
        action: "read",
        object: format!("level {}, {}", object.level, object.name),
        source: Box::new(error),
        hint: "",
    })?;
    // What is no LTX file keeps the time it has.
    if let Some(Ok(header)) = content.first_chunk().map(Header::from_bytes)
        && let Ok(since) = u64::try_from(header.timestamp_ms)
    {
        object.created = SystemTime::UNIX_EPOCH + Duration::from_millis(since);
    }
    Ok(Some(object))
}

//! The small objects beside the files, but for the recorded checksums: who writes, and what was proven.
//!
//! No restore reads them. Each has a checksum of its own, and what a damaged one means is another thing.

use evertide_storage::{Error as StoreError, LeaseRecord, ReplicaClient, SmallKey};

use super::{Finding, FindingKind};
use crate::drill;

/// Reads them, and tells which are damaged.
pub(super) async fn damaged(client: &dyn ReplicaClient) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    if let Some(found) = client.get_small(&SmallKey::lease()).await?
        && LeaseRecord::decode(&found.content).is_none()
    {
        findings.push(of(
            "evertide/lease",
            "no restore reads it, but replication is refused; delete it while nobody writes to the replica",
        ));
    }
    if let Some(key) = SmallKey::new(drill::NAME)
        && let Some(found) = client.get_small(&key).await?
        && !drill::is_proof(&found.content)
    {
        findings.push(of(
            "evertide/drill",
            "no restore reads it; after a restart the next drill comes at once, and writes it anew",
        ));
    }
    Ok(findings)
}

fn of(object: &str, meaning: &str) -> Finding {
    let problem = "it is damaged, or of a newer version";
    Finding::new(FindingKind::Record, object, problem, meaning)
}

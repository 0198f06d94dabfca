//! What to replicate, where to and how often: plain data.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use evertide_storage::Destination;

/// The scope of the encrypted configuration store that replication settings are kept under.
pub const CONFIG_SCOPE: &str = "litestream";

/// Recommended pragmas for the connections of an application, as name and value. None is required.
///
/// - `wal_autocheckpoint = 0`: Evertide checkpoints; without it, once the WAL has passed its
///   threshold, every commit of the application runs a checkpoint until the WAL starts over.
/// - `synchronous = NORMAL`: in WAL mode safe against corruption, and commits need no `fsync`.
/// - `busy_timeout = 5000`: wait up to 5,000 ms for another writer instead of failing at once.
pub const RECOMMENDED_PRAGMAS: [(&str, &str); 3] = [
    ("wal_autocheckpoint", "0"),
    ("synchronous", "NORMAL"),
    ("busy_timeout", "5000"),
];

/// The recommended pragmas as one batch of SQL, for whatever driver runs it.
///
/// ```
/// assert!(evertide::recommended_pragmas().starts_with("PRAGMA wal_autocheckpoint = 0;"));
/// ```
pub fn recommended_pragmas() -> String {
    RECOMMENDED_PRAGMAS
        .iter()
        .map(|(name, value)| format!("PRAGMA {name} = {value};\n"))
        .collect()
}

/// How one database is replicated.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ReplicationOptions {
    /// Time between two looks at a database that reported no change: a safety net below the
    /// file system's notices. All databases of a process share one timer.
    pub monitor_interval: Duration,
    /// A WAL smaller than the threshold is checkpointed after this time.
    pub checkpoint_interval: Duration,
    /// How much disk captured files may take beside the database while a replica is away or slow, in
    /// bytes. Beyond that the oldest are removed: a replica that still waits for one gets, when it is
    /// back, one file with the pages that changed meanwhile. Points in time within its absence cannot
    /// be restored from it then.
    pub stage_limit: u64,
    /// Where to.
    pub replicas: Vec<ReplicaOptions>,
}

impl Default for ReplicationOptions {
    fn default() -> Self {
        Self {
            monitor_interval: Duration::from_secs(30),
            checkpoint_interval: Duration::from_secs(60),
            stage_limit: 1 << 30,
            replicas: Vec::new(),
        }
    }
}

/// One destination of one database.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ReplicaOptions {
    /// Unique among the replicas of a database.
    pub name: String,
    /// Where the replica is.
    pub destination: Destination,
    /// Least time between two uploads; the first commit after a quiet time goes out at once.
    pub sync_interval: Duration,
    /// The windows of time of levels 1, 2 and so on, eight of them at most: what was captured in one
    /// window becomes one file. Each should be a multiple of the one before.
    pub levels: Vec<Duration>,
    /// How long a file of level 0 stays at least, once level 1 has what it holds.
    pub level_0_retention: Duration,
    /// Time between two snapshots of a database that changes.
    pub snapshot_interval: Duration,
    /// How long to keep what a restore to a point in time needs; `None` for ever.
    pub retention: Option<Duration>,
    /// Least time between two looks for what retention may delete.
    pub retention_check_interval: Duration,
    /// Time between two drills, which restore the newest state to a temporary place, check it and
    /// remove it; `None` for none. Each reads from the replica what a restore reads.
    pub drill_interval: Option<Duration>,
    /// How much a drill reads from the replica at most, in bytes per second; `None` for as much as it
    /// can.
    pub drill_bandwidth: Option<NonZeroU64>,
    /// Where a drill restores to; it takes as much room as the database. `None` for the system's
    /// directory for temporary files (`TMPDIR`).
    pub drill_directory: Option<PathBuf>,
    /// How long the right to write to the replica lasts without being renewed. While something is written
    /// it is renewed after half of it. After a crash another machine waits so long before it goes on; a
    /// restart with the same local state does not wait. At least 100 ms.
    pub lease_duration: Duration,
}

impl ReplicaOptions {
    /// A replica with the default intervals, those of Litestream: level 1 every 30 seconds, level 2
    /// every 5 minutes, level 3 and snapshots every hour and day; level 0 stays for 5 minutes.
    /// Everything else is kept for ever. The lease lasts 2 minutes. There are no drills.
    pub fn new(name: impl Into<String>, destination: Destination) -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        const HOUR: Duration = Duration::from_secs(3_600);
        Self {
            name: name.into(),
            destination,
            sync_interval: Duration::from_secs(1),
            levels: vec![MINUTE / 2, 5 * MINUTE, HOUR],
            level_0_retention: 5 * MINUTE,
            snapshot_interval: 24 * HOUR,
            retention: None,
            retention_check_interval: HOUR,
            drill_interval: None,
            drill_bandwidth: None,
            drill_directory: None,
            lease_duration: 2 * MINUTE,
        }
    }
}

/// How many replicas must have a commit before it counts as durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// One of them.
    Any,
    /// More than half of them.
    Quorum,
    /// Every one.
    #[default]
    All,
}

impl Durability {
    /// How many of `replicas` that is.
    pub(crate) fn needed(self, replicas: usize) -> usize {
        match self {
            Self::Any => replicas.min(1),
            Self::Quorum => replicas / 2 + 1,
            Self::All => replicas,
        }
    }
}

//! What to replicate, where to and how often: plain data.

use std::{iter, num::NonZeroU64, path::PathBuf, time::Duration};

use evertide_ltx::Level;
use evertide_storage::{Destination, Lease};

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

/// As good as for ever, and short enough to be added to the time of any clock.
const FOR_EVER: Duration = Duration::from_secs(500 * 365 * 24 * 3_600);

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
    /// be restored from it then. While what is known of the pages is first made from the whole database,
    /// what was captured since that began stays, too.
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
    /// window becomes one file. Each has to be longer than the one before, and should be a multiple of it.
    /// Without any nothing is compacted.
    pub levels: Vec<Duration>,
    /// How long a file of level 0 stays at least, once level 1 has what it holds.
    pub level_0_retention: Duration,
    /// Time between two snapshots of a database that changes.
    pub snapshot_interval: Duration,
    /// How long to keep what a restore to a point in time needs; `None` for ever.
    pub retention: Option<Duration>,
    /// What to keep of states that are older than `retention`, from fine to coarse.
    pub retention_tiers: Vec<RetentionTier>,
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
    /// How long a drill may take, from its turn on; then it is given up, and has failed. The others of
    /// the process wait for it.
    pub drill_timeout: Duration,
    /// How long the right to write to the replica lasts without being renewed. While something is written
    /// it is renewed after half of it. After a crash another machine waits so long before it goes on; a
    /// restart with the same local state does not wait. At least 100 ms, and a day at most.
    pub lease_duration: Duration,
}

impl ReplicaOptions {
    /// A replica with the default intervals, those of Litestream: level 1 every 30 seconds, level 2
    /// every 5 minutes, level 3 and snapshots every hour and day; level 0 stays for 5 minutes.
    /// Everything else is kept for ever. The lease lasts 2 minutes. There are no drills;
    /// where they are asked for, each may take 6 hours.
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
            retention_tiers: Vec::new(),
            retention_check_interval: HOUR,
            drill_interval: None,
            drill_bandwidth: None,
            drill_directory: None,
            drill_timeout: 6 * HOUR,
            lease_duration: 2 * MINUTE,
        }
    }

    /// The same for whoever adds these times to that of a clock, which would panic beyond what it can tell.
    pub(crate) fn bounded(mut self) -> Self {
        let bound = |time: &mut Duration| *time = FOR_EVER.min(*time);
        for time in [
            &mut self.sync_interval,
            &mut self.level_0_retention,
            &mut self.snapshot_interval,
            &mut self.retention_check_interval,
            &mut self.drill_timeout,
        ] {
            bound(time);
        }
        self.levels.iter_mut().for_each(bound);
        self.retention.iter_mut().for_each(bound);
        self.drill_interval.iter_mut().for_each(bound);
        for tier in &mut self.retention_tiers {
            bound(&mut tier.every);
            bound(&mut tier.keep);
        }
        self.lease_duration = Lease::LONGEST.min(self.lease_duration);
        self
    }

    /// What is wrong with the windows of levels: the place of the window, and why.
    pub fn mistakes_in_levels(levels: &[Duration]) -> Vec<(usize, &'static str)> {
        let most = usize::from(Level::SNAPSHOT.get()) - 1;
        let before = iter::once(&Duration::ZERO).chain(levels);
        let windows = levels.iter().zip(before).enumerate();
        let mistake = |(at, (window, before)): (usize, (&Duration, &Duration))| {
            let reason = match () {
                () if at >= most => "there are eight levels at most: leave this one out",
                () if window.is_zero() => "zero is no length of a window",
                () if window <= before => {
                    "each level is made of the one before: make its window longer than that one's"
                }
                () => return None,
            };
            Some((at, reason))
        };
        windows.filter_map(mistake).collect()
    }
}

/// Some of the states of a time: of each window the last one.
///
/// ```
/// use std::time::Duration;
/// use evertide::{Destination, ReplicaOptions, RetentionTier};
///
/// let (hour, day) = (Duration::from_secs(3_600), Duration::from_secs(86_400));
/// let mut replica = ReplicaOptions::new("local", Destination::file("/backup/app")?);
/// replica.retention = Some(day); // everything for a day,
/// replica.retention_tiers = vec![
///     RetentionTier::new(hour, 7 * day), // hourly for a week,
///     RetentionTier::new(day, 30 * day), // daily for a month
/// ];
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RetentionTier {
    /// The length of a window. Windows are counted from the beginning of 1970, so that those of a day
    /// begin at midnight, UTC.
    pub every: Duration,
    /// How long the last state of each is kept.
    pub keep: Duration,
}

impl RetentionTier {
    /// The last state of every window of this length, for so long.
    pub fn new(every: Duration, keep: Duration) -> Self {
        Self { every, keep }
    }

    /// What is wrong with tiers beside a retention: the place of the tier, the field, and why.
    pub fn mistakes(
        retention: Option<Duration>,
        tiers: &[Self],
    ) -> Vec<(usize, &'static str, &'static str)> {
        let Some(mut keep) = retention.filter(|retention| !retention.is_zero()) else {
            let reason = "without `retention` everything is kept for ever; set that to how long \
                          every state is kept, or leave the tiers out";
            return tiers
                .first()
                .map(|_| (0, "keep", reason))
                .into_iter()
                .collect();
        };
        let (mut mistakes, mut every) = (Vec::new(), Duration::ZERO);
        for (at, tier) in tiers.iter().enumerate() {
            if tier.every <= every {
                let reason = match at {
                    0 => "zero is no length of a window",
                    _ => "each tier has to be coarser than the one before: make it longer",
                };
                mistakes.push((at, "every", reason));
            } else if tier.every > tier.keep {
                let reason = "longer than the tier itself: make it shorter, or `keep` longer";
                mistakes.push((at, "every", reason));
            }
            if tier.keep <= keep {
                let reason = match at {
                    0 => "`retention` keeps every state for as long: make it longer",
                    _ => "the tier before keeps more for as long: make it longer",
                };
                mistakes.push((at, "keep", reason));
            }
            (every, keep) = (every.max(tier.every), keep.max(tier.keep));
        }
        mistakes
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_more_than_half_and_never_more_than_there_are() {
        for (replicas, any, quorum) in [
            (1, 1, 1),
            (2, 1, 2),
            (3, 1, 2),
            (4, 1, 3),
            (5, 1, 3),
            (6, 1, 4),
        ] {
            let needed = [Durability::Any, Durability::Quorum, Durability::All]
                .map(|durability| durability.needed(replicas));
            assert_eq!(needed, [any, quorum, replicas], "{replicas} replicas");
        }
    }

    #[test]
    fn windows_of_levels_grow_and_there_are_eight_at_most() {
        let mistakes = |seconds: &[u64]| {
            let windows: Vec<_> = seconds.iter().copied().map(Duration::from_secs).collect();
            let found = ReplicaOptions::mistakes_in_levels(&windows);
            found.into_iter().map(|(at, _)| at).collect::<Vec<_>>()
        };
        for good in [&[][..], &[30, 300, 3_600], &[1, 2, 3, 4, 5, 6, 7, 8]] {
            assert!(mistakes(good).is_empty(), "{good:?}");
        }
        assert_eq!(mistakes(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), [8, 9]);
        assert_eq!(mistakes(&[0]), [0]);
        assert_eq!(mistakes(&[30, 30, 10, 60]), [1, 2]);
    }

    #[test]
    fn tiers_grow_in_age_and_in_coarseness() {
        const HOUR: u64 = 3_600;
        const DAY: u64 = 86_400;
        let mistakes = |retention: u64, tiers: &[(u64, u64)]| {
            let seconds = Duration::from_secs;
            let tier =
                |(every, keep): &(u64, u64)| RetentionTier::new(seconds(*every), seconds(*keep));
            let tiers: Vec<_> = tiers.iter().map(tier).collect();
            let found = RetentionTier::mistakes(Some(seconds(retention)), &tiers);
            let place = |(at, field, _): &(usize, &'static str, _)| (*at, *field);
            found.iter().map(place).collect::<Vec<_>>()
        };
        assert_eq!(mistakes(DAY, &[]), []);
        assert_eq!(mistakes(DAY, &[(HOUR, 7 * DAY), (DAY, 30 * DAY)]), []);
        assert_eq!(mistakes(0, &[]), []);
        assert_eq!(mistakes(0, &[(HOUR, DAY)]), [(0, "keep")]);
        assert_eq!(mistakes(DAY, &[(HOUR, DAY)]), [(0, "keep")]);
        assert_eq!(mistakes(DAY, &[(0, 2 * DAY)]), [(0, "every")]);
        assert_eq!(mistakes(HOUR, &[(DAY, DAY - 1)]), [(0, "every")]);
        let both = [(DAY, 7 * DAY), (HOUR, 7 * DAY), (2 * DAY, 8 * DAY)];
        assert_eq!(mistakes(DAY, &both), [(1, "every"), (1, "keep")]);
    }
}

//! What a process knows of its lease.

use std::time::{Duration, SystemTime};

use super::{Identity, LeaseRecord, TxidRange, decide::Renewed};
use crate::Version;

#[derive(Default)]
pub(super) struct State {
    /// The object as it was last read or written.
    pub(super) seen: Option<Seen>,
    /// As what it may be taken, and was.
    pub(super) claim: Option<Claim>,
    pub(super) renewed: Option<Renewed>,
    /// Whether it was taken since it was claimed.
    pub(super) taken: bool,
    /// How often it was taken, also after it had ended.
    pub(super) takings: u64,
    /// Whether the record does not say any more what is claimed.
    pub(super) outdated: bool,
    /// Whether something that was sent may still arrive: its end is not known.
    pub(super) unsettled: bool,
    /// When the first record was sent, as [`Clock::uptime`](crate::Clock::uptime), of those since the last answer.
    pub(super) sent: Option<Duration>,
    /// Whether our own record may have replaced that of somebody else who writes, in a store that cannot prevent it.
    pub(super) displacing: bool,
}

#[derive(Clone)]
pub(super) struct Seen {
    /// `None` where there is no object.
    pub(super) version: Option<Version>,
    pub(super) record: Option<LeaseRecord>,
    /// When this version was seen first, as [`Clock::uptime`](crate::Clock::uptime).
    pub(super) since: Duration,
}

#[derive(Clone, Copy)]
pub(super) struct Claim {
    pub(super) lineage: Identity,
    pub(super) range: TxidRange,
    pub(super) generation: u64,
    pub(super) since: SystemTime,
}

impl State {
    /// How much of the lease is left, nothing where it is not ours.
    pub(super) fn left(&self, duration: Duration, uptime: Duration, now: SystemTime) -> Duration {
        let left = |renewed: Renewed| renewed.left(duration, uptime, now);
        self.renewed.map_or(Duration::ZERO, left)
    }

    /// Which object was seen last.
    pub(super) fn version(&self) -> Option<Version> {
        self.seen.as_ref().and_then(|seen| seen.version.clone())
    }

    pub(super) fn note(
        &mut self,
        version: Option<Version>,
        record: Option<LeaseRecord>,
        uptime: Duration,
    ) {
        let before = self.seen.as_ref().filter(|seen| seen.version == version);
        let since = before.map_or(uptime, |seen| seen.since);
        self.seen = Some(Seen {
            version,
            record,
            since,
        });
    }

    /// It is not ours any more, and was not claimed anew.
    pub(super) fn forget(&mut self) {
        self.claim = None;
        self.renewed = None;
        self.taken = false;
        self.displacing = false;
    }
}

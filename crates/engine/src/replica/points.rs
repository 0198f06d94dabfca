//! Which points in time retention promises. Pure.
//!
//! ```text
//!  ◄───────── keep 30d, every 1d ─────────►◄─ keep 7d, every 1h ─►◄─ retention 1d ─►
//!  |        |        |        |        |   | | | | | | | | | | | |█████████████████ now
//! ```
//!
//! A tier promises the states at the ends of its windows, which are counted from the epoch and so are
//! the same at every look: what is promised later was promised before. A coarse tier promises its points
//! among those of the finer ones, too, so that they are there when it is its turn.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use evertide_storage::LtxObject;

use super::compact::Windows;
use crate::RetentionTier;

/// What is to be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Keep {
    /// How long every state is.
    pub(super) everything: Duration,
    /// What is kept of older ones, from fine to coarse.
    pub(super) tiers: Vec<RetentionTier>,
}

/// The points that one tier promises: the state of each is that before this time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Points {
    tier: RetentionTier,
    /// At which the state may differ from that of the point before; the others follow from these.
    pub(super) before: BTreeSet<SystemTime>,
}

impl Keep {
    pub(super) fn new(everything: Duration, tiers: &[RetentionTier]) -> Self {
        Self {
            everything,
            tiers: tiers.to_vec(),
        }
    }

    /// From when on every state is kept.
    pub(super) fn beginning(&self, now: SystemTime) -> SystemTime {
        earlier(now, self.everything)
    }

    /// The points that the tiers promise, for these files from before the beginning.
    pub(super) fn points(&self, old: &[&LtxObject], now: SystemTime) -> Vec<Points> {
        let beginning = self.beginning(now);
        let of_tier = |tier: &RetentionTier| {
            let windows = Windows::new(tier.every);
            // The state that was current when the tier begins is that of the window before it.
            let first = windows.start(earlier(now, tier.keep));
            let ends = old.iter().map(|file| windows.end(file.created));
            let ends = ends.filter(|end| *end > first).chain([first]);
            Points {
                tier: *tier,
                before: ends.filter(|end| *end <= beginning).collect(),
            }
        };
        self.tiers.iter().map(of_tier).collect()
    }
}

impl Points {
    /// When the tier lets go of a state, if no file comes until then: of the oldest one that is not the
    /// state of the next point as well. `state` tells that of a point, `last` is the one at the
    /// beginning of what is kept anyway.
    pub(super) fn next<S: PartialEq + Clone>(
        &self,
        state: impl Fn(SystemTime) -> S,
        last: &S,
        beginning: SystemTime,
    ) -> Option<SystemTime> {
        let end = Windows::new(self.tier.every).end(beginning);
        let mut oldest = None;
        let change = self.before.iter().find(|at| {
            let state = state(**at);
            *oldest.get_or_insert_with(|| state.clone()) != state
        });
        let change = match (change, oldest) {
            (Some(at), _) => *at,
            (None, Some(oldest)) if oldest != *last => end,
            _ => return None,
        };
        change.checked_add(self.tier.keep)
    }
}

fn earlier(now: SystemTime, by: Duration) -> SystemTime {
    now.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH)
}

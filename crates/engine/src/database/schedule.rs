//! When a database is looked at without a notice.

use std::time::Duration;

use tokio::time::Instant;

use crate::capture::{Due, StepOutcome};

/// A commit in progress is looked for again after this, then twice, four times … as long.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(64);

/// When to look next.
#[derive(Debug)]
pub(super) struct Schedule {
    /// The last capture that produced something.
    pub(super) last_capture: Option<Instant>,
    /// The last look.
    pub(super) last_look: Instant,
    pub(super) next_look: Option<Instant>,
    /// Looks since the last notice that found a transaction in progress.
    pub(super) looks: u32,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Since when the WAL has frames that are not backfilled.
    pub(super) unfinished_since: Option<Instant>,
}

impl Schedule {
    pub(super) fn new() -> Self {
        Self {
            last_capture: None,
            last_look: Instant::now(),
            next_look: None,
            looks: 0,
            failures: 0,
            unfinished_since: None,
        }
    }
}

impl Schedule {
    /// Decides when to look again without another notice.
    pub(super) fn plan(&mut self, outcome: &StepOutcome, due: Due, sync_interval: Duration) {
        let now = Instant::now();
        let left = outcome.pending || outcome.writing;
        let at_interval = self.last_capture.map(|last| last + sync_interval);
        // What a capture that just was did not see waits for the interval, as what a notice tells.
        let waits = due == Due::Later || at_interval.is_some_and(|at| at > now);
        self.next_look = if outcome.busy || left && !waits {
            let pause = FIRST_LOOK.saturating_mul(1 << self.looks.min(10));
            self.looks += 1;
            Some(now + pause.min(LONGEST_LOOK))
        } else {
            at_interval.filter(|_| left)
        };
        let look_in = outcome.look_in.map(|after| now + after.max(FIRST_LOOK));
        self.next_look = self.next_look.into_iter().chain(look_in).min();
    }
}

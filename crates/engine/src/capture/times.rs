//! When transactions were captured, by a clock that may be wrong. Pure.

use std::time::Duration;

/// A week, in milliseconds: a clock that is set back by more than this was wrong before, and is not waited for.
const FAR_BACK: i64 = 604_800_000;
/// 2020-01-01T00:00:00Z, since the epoch. A clock that shows less has not been set yet.
pub(crate) const YEAR_2020: Duration = Duration::from_secs(1_577_836_800);

/// The timestamp of what is captured after `last`, by a clock that shows `now`, both in milliseconds since the epoch.
///
/// It does not run backwards, since restores to a time go by it. After a clock that was years ahead it does: else one
/// moment of that would hold up compaction, snapshots and retention for years.
pub(super) fn timestamp(last: i64, now: i64) -> i64 {
    let is_set = now >= YEAR_2020.as_millis() as i64;
    let was_far_ahead = last.saturating_sub(now) > FAR_BACK && is_set;
    match was_far_ahead {
        true => now,
        false => last.max(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In milliseconds, as all times here.
    const YEAR_2020: i64 = super::YEAR_2020.as_millis() as i64;

    #[test]
    fn timestamps_go_back_only_behind_a_clock_that_was_far_ahead() {
        let now = YEAR_2020 + 10 * FAR_BACK;
        assert_eq!(timestamp(0, now), now);
        assert_eq!(timestamp(now - 1, now), now);
        assert_eq!(timestamp(now + FAR_BACK, now), now + FAR_BACK);
        assert_eq!(timestamp(now + FAR_BACK + 1, now), now);
        assert_eq!(timestamp(i64::MAX, now), now);
        // A machine that starts without knowing the time.
        assert_eq!(timestamp(now, 5), now);
        assert_eq!(timestamp(now, YEAR_2020 - 1), now);
        assert_eq!(timestamp(i64::MAX, YEAR_2020), YEAR_2020);
        assert_eq!(timestamp(0, 5), 5);
        assert_eq!(timestamp(0, i64::MIN), 0);
    }
}

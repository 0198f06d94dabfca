//! When the next drill is due. Pure.

use std::time::{Duration, SystemTime};

use crate::DrillFailureKind;

/// The first pause after a drill that could not be tried to the end, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3_600));

/// Failures since the last proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failures {
    pub(super) kind: DrillFailureKind,
    /// The last one.
    pub(super) at: SystemTime,
    pub(super) in_a_row: u32,
}

/// How long to wait for the next drill.
///
/// A replica that was never proven is due at once. Whatever a proof says, it is only of its time, so the
/// next drill comes an interval later, also where nothing has changed: bits rot. What could not be tried
/// to the end is tried again sooner; what takes too long is not, since the others wait for it meanwhile.
pub(super) fn wait(
    interval: Duration,
    proven: Option<SystemTime>,
    failures: Option<Failures>,
    now: SystemTime,
) -> Duration {
    let (since, pause) = match (failures, proven) {
        (Some(failures), _) => (failures.at, pause(interval, failures)),
        (None, Some(proven)) => (proven, interval),
        (None, None) => return Duration::ZERO,
    };
    // A clock that was set back puts nothing off for longer than that.
    let waited = now.duration_since(since).unwrap_or_default();
    pause.saturating_sub(waited)
}

fn pause(interval: Duration, failures: Failures) -> Duration {
    match failures.kind {
        DrillFailureKind::Unsound | DrillFailureKind::Overdue => interval,
        DrillFailureKind::Unfinished => {
            let doublings = failures.in_a_row.saturating_sub(1).min(16);
            interval.min(RETRY.1).min(RETRY.0 * 2_u32.pow(doublings))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn time(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_proof_holds_for_an_interval_whenever_the_process_was_started() {
        assert_eq!(wait(DAY, None, None, time(5)), Duration::ZERO);
        let proven = Some(time(1_000));
        assert_eq!(wait(DAY, proven, None, time(1_000)), DAY);
        assert_eq!(wait(DAY, proven, None, time(1_000) + HOUR), DAY - HOUR);
        assert_eq!(wait(DAY, proven, None, time(1_000) + DAY), Duration::ZERO);
        assert_eq!(
            wait(DAY, proven, None, time(1_000) + 9 * DAY),
            Duration::ZERO
        );
        assert_eq!(
            wait(DAY, proven, None, time(1)),
            DAY,
            "the clock was set back"
        );
    }

    #[test]
    fn what_could_not_be_tried_is_tried_again_sooner_and_what_is_damaged_or_slow_at_its_time() {
        let failed = |kind, in_a_row| {
            let at = time(1_000);
            let failures = Some(Failures { kind, at, in_a_row });
            move |interval, now| wait(interval, Some(time(10)), failures, now)
        };
        for kind in [DrillFailureKind::Unsound, DrillFailureKind::Overdue] {
            assert_eq!(failed(kind, 1)(DAY, time(1_000)), DAY);
        }
        for (in_a_row, minutes) in [(1, 1), (2, 2), (3, 4), (7, 60), (u32::MAX, 60)] {
            let unfinished = failed(DrillFailureKind::Unfinished, in_a_row);
            let pause = Duration::from_secs(60 * minutes);
            assert_eq!(unfinished(DAY, time(1_000)), pause);
            assert_eq!(
                unfinished(DAY, time(1_030)),
                pause - Duration::from_secs(30)
            );
            assert_eq!(unfinished(Duration::from_secs(7), time(1_000)).as_secs(), 7);
        }
    }
}

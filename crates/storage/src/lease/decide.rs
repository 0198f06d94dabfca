//! Whether a lease may be taken, and whether one that is held still counts. Pure.

use std::time::{Duration, SystemTime};

use super::{LeaseRecord, LeaseState, Owner};

/// How far apart the clocks of two machines may be: a lease that has ended by its owner's clock is
/// taken at once by another machine only when it ended so long ago. (S3 itself refuses requests whose
/// clock is off by more than fifteen minutes.)
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// Time passes at the same pace everywhere, to one part in so many: clocks that are being corrected
/// run wrong by less than one in a thousand.
const DRIFT: u32 = 20;
/// A lease cannot keep others out for longer than this, whatever it says.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// Whether a lease may be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Yes.
    Free,
    /// Somebody else may be writing. It is free after this time if it is not renewed.
    Held { wait: Duration },
}

/// Decides from the lease as it was read, the time of day, and for how long it has been seen unchanged. A lease that is
/// of `us` has ended, unless somebody else's may have been there in its place (`None`), of which nothing is known.
///
/// The second of the two ways in which it ends needs no clocks that agree: who renews it changes the
/// object, so one that did not change for as long as it lasts has ended, whatever its times say.
pub(super) fn decide(
    last: Option<&LeaseRecord>,
    us: Option<&Owner>,
    now: SystemTime,
    unchanged: Duration,
) -> Verdict {
    let held = |last: &&LeaseRecord| match us {
        Some(us) => {
            let is_ours = (last.owner.id, last.owner.boot) == (us.id, us.boot);
            last.state == LeaseState::Held && !is_ours
        }
        None => true,
    };
    let Some(last) = last.filter(held) else {
        return Verdict::Free;
    };
    let duration = last.duration.min(LONGEST);
    let by_watching = (duration + duration / DRIFT).saturating_sub(unchanged);
    let end = last.renewed.checked_add(duration + CLOCK_SKEW);
    let by_clock = match end
        .filter(|_| us.is_some())
        .map(|end| end.duration_since(now))
    {
        Some(Ok(left)) => left,
        Some(Err(_)) => Duration::ZERO,
        None => Duration::MAX,
    };
    match by_watching.min(by_clock) {
        Duration::ZERO => Verdict::Free,
        wait => Verdict::Held { wait },
    }
}

/// When the last renewal that succeeded was begun: others count from a later moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Renewed {
    pub(super) uptime: Duration,
    pub(super) now: SystemTime,
}

impl Renewed {
    /// How much of a lease of this duration is left. Of the two clocks the one counts that says less:
    /// a machine that was suspended as a whole may learn of that by either.
    pub(super) fn left(self, duration: Duration, uptime: Duration, now: SystemTime) -> Duration {
        let passed = uptime.saturating_sub(self.uptime);
        let by_clock = now.duration_since(self.now).unwrap_or_default();
        duration.saturating_sub(passed.max(by_clock))
    }
}

/// With less than this left a lease is renewed before anything is written.
pub(super) fn renewal(duration: Duration) -> Duration {
    duration / 2
}

/// With less than this left nothing is written any more: what is under way then has as long to arrive.
pub(super) fn margin(duration: Duration) -> Duration {
    duration / 4
}

#[cfg(test)]
mod tests {
    use super::{super::record::tests::record, *};

    const US: u128 = 1;
    const OTHER: u128 = 2;

    fn time(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn us() -> Owner {
        record(US).owner
    }

    /// The lease was renewed in second 2,000 and lasts 120 seconds.
    fn verdict(last: &LeaseRecord, now: u64, unchanged: u64) -> Verdict {
        let unchanged = Duration::from_secs(unchanged);
        decide(Some(last), Some(&us()), time(now), unchanged)
    }

    fn held(seconds: u64) -> Verdict {
        Verdict::Held {
            wait: Duration::from_secs(seconds),
        }
    }

    /// It may be there in place of somebody else's, of which nothing is known.
    #[test]
    fn one_that_came_late_is_watched_whatever_it_says() {
        for state in [
            LeaseState::Held,
            LeaseState::Released,
            LeaseState::Abandoned,
        ] {
            let late = LeaseRecord {
                state,
                ..record(US)
            };
            for now in [0, 2_000, 1_000_000] {
                let verdict = |unchanged| {
                    let unchanged = Duration::from_secs(unchanged);
                    decide(Some(&late), None, time(now), unchanged)
                };
                assert_eq!(verdict(0), held(126), "{state:?} at {now}");
                assert_eq!(verdict(125), held(1), "{state:?} at {now}");
                assert_eq!(verdict(126), Verdict::Free, "{state:?} at {now}");
            }
        }
    }

    #[test]
    fn a_lease_is_taken_when_nobody_can_be_writing_and_not_before() {
        let none = decide(None, Some(&us()), time(2_000), Duration::ZERO);
        assert_eq!(none, Verdict::Free, "nobody ever had it");
        let other = record(OTHER);
        let cases = [
            ("just renewed", 2_000, 0, held(126)),
            ("watched for a while", 2_060, 60, held(66)),
            ("the last moment", 2_125, 125, held(1)),
            ("watched for as long as it lasts", 2_126, 126, Verdict::Free),
            ("ended, and seen for the first time", 2_121, 0, held(126)),
            ("ended long ago, but clocks differ", 2_419, 0, held(1)),
            (
                "ended so long ago that no clocks differ so much",
                2_420,
                0,
                Verdict::Free,
            ),
            ("our clock is behind by an hour", 0, 0, held(126)),
            ("our clock is behind, and we watched", 0, 126, Verdict::Free),
        ];
        for (what, now, unchanged, expected) in cases {
            assert_eq!(verdict(&other, now, unchanged), expected, "{what}");
        }
    }

    #[test]
    fn ones_own_lease_and_one_that_was_let_go_are_taken_at_once() {
        assert_eq!(verdict(&record(US), 2_001, 0), Verdict::Free);
        let displacing = decide(Some(&record(US)), None, time(2_001), Duration::from_secs(1));
        assert_eq!(displacing, held(125), "somebody else may have it");
        let mut before_a_reboot = record(US);
        before_a_reboot.owner.boot += 1;
        assert_eq!(
            verdict(&before_a_reboot, 2_001, 1),
            held(125),
            "a copy of the machine would have the same state"
        );
        for state in [LeaseState::Released, LeaseState::Abandoned] {
            let let_go = LeaseRecord {
                state,
                ..record(OTHER)
            };
            assert_eq!(verdict(&let_go, 2_001, 0), Verdict::Free);
        }
    }

    #[test]
    fn no_times_in_a_lease_keep_others_out_for_ever() {
        let day = 24 * 3_600;
        let mut odd = record(OTHER);
        odd.duration = Duration::MAX;
        assert_eq!(verdict(&odd, 2_000, 0), held(day + 300));
        assert_eq!(verdict(&odd, 2_000, day + day / 20), Verdict::Free);
        odd.renewed = time(1 << 40); // thirty thousand years from now
        assert_eq!(verdict(&odd, 2_000, 0), held(day + day / 20));
        assert_eq!(verdict(&odd, 2_000, day + day / 20), Verdict::Free);
    }

    #[test]
    fn what_is_left_of_a_lease_is_what_the_more_careful_clock_says() {
        let renewed = Renewed {
            uptime: Duration::from_secs(50),
            now: time(2_000),
        };
        let left = |uptime, now| {
            let left = renewed.left(
                Duration::from_secs(120),
                Duration::from_secs(uptime),
                time(now),
            );
            left.as_secs()
        };
        assert_eq!(left(50, 2_000), 120);
        assert_eq!(left(80, 2_030), 90);
        assert_eq!(left(80, 2_100), 20, "the time of day jumped forward");
        assert_eq!(left(150, 2_000), 20, "the time of day stands still");
        assert_eq!(left(150, 1_000), 20, "the time of day was set back");
        assert_eq!(left(5_000, 2_001), 0);
        assert_eq!(left(51, 9_000), 0);
    }

    /// Who holds a lease stops writing before anybody else takes it, however far the clocks of the two
    /// are apart and whatever moment the other one looks at: within `CLOCK_SKEW`, or by watching.
    #[test]
    fn a_holder_stops_before_another_one_begins_whatever_their_clocks_show() {
        let duration = Duration::from_secs(120);
        for skew in (-290_i64..=290).step_by(29) {
            for first_look in 0..300_u64 {
                for later in [0, 1, 60, 119, 125, 126, 200] {
                    let real = first_look + later; // since the renewal
                    let theirs = time(u64::try_from(2_000 + real.cast_signed() + skew).unwrap());
                    let verdict = decide(
                        Some(&record(OTHER)),
                        Some(&us()),
                        theirs,
                        Duration::from_secs(later),
                    );
                    let renewed = Renewed {
                        uptime: Duration::ZERO,
                        now: time(2_000),
                    };
                    let left =
                        renewed.left(duration, Duration::from_secs(real), time(2_000 + real));
                    let writes = left >= margin(duration);
                    assert!(
                        verdict != Verdict::Free || !writes,
                        "skew {skew}, looked after {first_look}, again {later} later"
                    );
                }
            }
        }
    }
}

//! How the time allowed for a shutdown is divided. Pure arithmetic, no clock.

use std::time::Duration;

/// Time for the requests in flight, out of all the time there is.
///
/// Half, when daemons have to stop afterwards: a request that never ends must not eat the time in which
/// the last commits are replicated.
pub(crate) fn for_drain(total: Duration, daemons: usize) -> Duration {
    if daemons == 0 { total } else { total / 2 }
}

/// Time for the next daemon to stop when `daemons` are left, itself included.
///
/// An equal share of what is left at that moment, so that time one daemon does not use goes to those after
/// it, and one that hangs cannot take theirs.
pub(crate) fn for_stop(left: Duration, daemons: usize) -> Duration {
    left / u32::try_from(daemons).unwrap_or(u32::MAX).max(1)
}

/// The part of its share a daemon is told of. The rest is held back so that a daemon which uses all of it
/// can still return its own error, which says more than "cut off" does.
pub(crate) fn told(share: Duration) -> Duration {
    share * 9 / 10
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn requests_that_never_end_leave_half_the_time_to_the_daemons() {
        assert_eq!(for_drain(secs(20), 3), secs(10));
        assert_eq!(for_drain(secs(20), 0), secs(20));
    }

    #[test]
    fn daemons_that_all_hang_use_the_whole_time_and_no_more() {
        let mut left = secs(12);
        for daemons in (1..=4).rev() {
            let share = for_stop(left, daemons);
            assert_eq!(share, secs(3));
            assert!(told(share) < share);
            left -= share;
        }
        assert_eq!(left, secs(0));
    }

    #[test]
    fn time_a_daemon_does_not_use_goes_to_those_after_it() {
        assert_eq!(for_stop(secs(12), 2), secs(6));
        assert_eq!(for_stop(secs(11), 1), secs(11));
    }
}

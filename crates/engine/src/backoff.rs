//! Pauses between tries.

use std::time::Duration;

/// How long to wait after so many failures in a row: `first` after one and twice as long after each other, up to
/// `longest`. Up to a half of it is left out at random, so that many who failed together do not come back at once.
pub(crate) fn pause(first: Duration, longest: Duration, failures: u32) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(longest).mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_one_and_those_who_failed_together_do_not_come_back_together() {
        let [first, longest] = [200, 30_000].map(Duration::from_millis);
        for (failures, whole) in [
            (0, 200),
            (1, 200),
            (2, 400),
            (5, 3_200),
            (8, 25_600),
            (9, 30_000),
            (u32::MAX, 30_000),
        ] {
            let whole = Duration::from_millis(whole);
            let pauses: Vec<Duration> = (0..200).map(|_| pause(first, longest, failures)).collect();
            let [least, most] = [pauses.iter().min(), pauses.iter().max()].map(Option::unwrap);
            assert!(
                *least >= whole / 2 && *most <= whole,
                "{failures}: {least:?} to {most:?}"
            );
            // Of two hundred draws some are in the first quarter, and some in the last one.
            assert!(
                *least < whole * 5 / 8 && *most > whole * 7 / 8,
                "{least:?} to {most:?}"
            );
        }
    }
}

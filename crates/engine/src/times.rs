//! When files were captured, where clocks were wrong meanwhile. Pure.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use evertide_storage::LtxObject;

/// Nobody sets a clock that was right back by more than this, in milliseconds.
const FAR_BACK: i64 = 5 * 60 * 1_000;
/// 2020-01-01T00:00:00Z in milliseconds since the epoch. A clock that shows less has not been set yet.
const YEAR_2020: i64 = 1_577_836_800_000;

/// The timestamp of what is captured after `last`, by a clock that shows `now`, both in milliseconds since
/// the epoch. It does not run backwards, unless the clock was far ahead before: else one moment of that
/// would hold up everything that goes by time until the clock has caught up.
pub(crate) fn timestamp(last: i64, now: i64) -> i64 {
    let was_ahead = last.saturating_sub(now) > FAR_BACK && now >= YEAR_2020;
    match was_ahead {
        true => now,
        false => last.max(now),
    }
}

/// Corrects the times of a replica's files where they cannot be right: what is of a later transaction was
/// captured later.
///
/// - A time after `now` is of a clock that was ahead. What was captured next was captured later, so the
///   earliest time of that is nearer.
/// - A time long before that of an earlier transaction is of a clock that was behind. It was no earlier. (A little
///   before is no clock's fault: Litestream dates a snapshot when it makes it, while what follows is captured.)
pub(crate) fn correct<'a>(files: impl IntoIterator<Item = &'a mut LtxObject>, now: SystemTime) {
    let mut files: Vec<&mut LtxObject> = files.into_iter().collect();
    files.sort_by_key(|file| (file.name.max, Reverse(file.created)));
    let mut next = None::<SystemTime>;
    for file in files.iter_mut().rev() {
        let own = file.created;
        if let Some(next) = next.filter(|_| own > now) {
            file.created = own.min(next);
        }
        next = Some(next.map_or(own, |next| next.min(own)));
    }
    let mut last = SystemTime::UNIX_EPOCH;
    for file in files {
        let behind = last.duration_since(file.created).unwrap_or_default();
        if behind > Duration::from_millis(FAR_BACK.unsigned_abs()) {
            file.created = last;
        }
        if file.created <= now {
            last = last.max(file.created);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use evertide_ltx::{Level, LtxName, Txid};

    use super::*;

    fn time(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    /// The corrected hours of files, given by last transaction and hour, where it is hour 100 now.
    fn corrected(files: &[(u64, u64)]) -> Vec<u64> {
        let files = files.iter().map(|(max, hour)| (*max, hour * 3_600));
        let seconds = corrected_seconds(&files.collect::<Vec<_>>(), 360_000);
        seconds.iter().map(|second| second / 3_600).collect()
    }

    fn corrected_seconds(files: &[(u64, u64)], now: u64) -> Vec<u64> {
        let object = |(max, second): &(u64, u64)| LtxObject {
            level: Level::L0,
            name: LtxName::new(Txid::FIRST, Txid::new(*max)),
            size: 1,
            created: time(*second),
        };
        let mut files: Vec<LtxObject> = files.iter().map(object).collect();
        correct(&mut files, time(now));
        let second = |file: &LtxObject| file.created.duration_since(time(0)).unwrap().as_secs();
        files.iter().map(second).collect()
    }

    #[test]
    fn one_wrong_clock_does_not_hide_what_was_captured_before_or_after_it() {
        // As they should be, in whatever order they are listed.
        assert_eq!(corrected(&[(3, 30), (1, 10), (2, 20)]), [30, 10, 20]);
        // Ahead for a moment; also in a merged file that has the time of it.
        assert_eq!(corrected(&[(1, 10), (2, 900), (3, 30)]), [10, 30, 30]);
        assert_eq!(corrected(&[(2, 900), (3, 900), (3, 30)]), [30, 30, 30]);
        // Ahead, and nothing has come since.
        assert_eq!(corrected(&[(1, 10), (2, 900)]), [10, 900]);
        // Behind for a moment.
        assert_eq!(corrected(&[(1, 10), (2, 0), (3, 30)]), [10, 10, 30]);
        // The one and then the other.
        assert_eq!(
            corrected(&[(1, 10), (2, 900), (3, 0), (4, 40)]),
            [10, 10, 10, 40]
        );
    }

    /// The official restore takes times as they are.
    #[test]
    fn what_was_stored_a_little_out_of_order_keeps_its_time() {
        let files = [
            (30, 3_000),
            (30, 2_990),
            (31, 2_995),
            (32, 2_701),
            (33, 3_001),
        ];
        let times: Vec<u64> = files.iter().map(|(_, second)| *second).collect();
        assert_eq!(corrected_seconds(&files, 10_000), times);
        let far_behind = [(30, 3_000), (31, 2_700), (32, 2_699)];
        assert_eq!(
            corrected_seconds(&far_behind, 10_000),
            [3_000, 2_700, 3_000]
        );
    }

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
        assert_eq!(timestamp(0, 5), 5);
        assert_eq!(timestamp(0, i64::MIN), 0);
    }
}

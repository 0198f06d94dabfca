//! Which files of a level are merged into one of the next, and when. Pure.

use std::time::{Duration, SystemTime};

use evertide_ltx::Txid;
use evertide_storage::LtxObject;

/// Files that go into one at most: all are read side by side.
pub(super) const MOST_SOURCES: usize = 256;

/// What is to be done, or when there may be something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Next<T> {
    /// This, now.
    Now(T),
    /// Nothing before this time.
    At(SystemTime),
    /// Nothing before other files arrive.
    Never,
}

/// Time cut into windows of one length, beginning with the epoch, so that they are the same after a
/// restart and on another machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Windows(Duration);

impl Windows {
    pub(super) fn new(length: Duration) -> Self {
        Self(length.max(Duration::from_millis(1)))
    }

    /// The start of the window that a time is in.
    pub(super) fn start(self, time: SystemTime) -> SystemTime {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let into = since.as_nanos() % self.0.as_nanos();
        let into = Duration::from_nanos(u64::try_from(into).unwrap_or(u64::MAX));
        SystemTime::UNIX_EPOCH + (since - into)
    }

    /// The end of the window that a time is in, which is the start of the next.
    pub(super) fn end(self, time: SystemTime) -> SystemTime {
        self.start(time) + self.0
    }
}

/// When files were captured at the latest. A clock that was wrong, and then set back, is seen through
/// by what was captured later: time never runs backwards here.
pub(super) fn captured(files: &[&LtxObject]) -> Vec<SystemTime> {
    let mut times: Vec<SystemTime> = files.iter().map(|file| file.created).collect();
    let mut earliest = None::<SystemTime>;
    for time in times.iter_mut().rev() {
        let known = earliest.map_or(*time, |earliest| earliest.min(*time));
        (*time, earliest) = (known, Some(known));
    }
    times
}

/// Plans the next file of a level that reaches to `done`, from those of the level below.
///
/// It holds what was captured in one window, once that window is over. Files that do not continue
/// each other, where the history has a gap, are never merged. What is merged stays where it is until
/// retention deletes it, so a crash at any moment changes nothing but `done`.
pub(super) fn plan_compaction(
    below: &[&LtxObject],
    done: Txid,
    windows: Windows,
    now: SystemTime,
) -> Next<Vec<LtxObject>> {
    let open: Vec<&LtxObject> = below
        .iter()
        .filter(|file| file.name.min > done)
        .copied()
        .collect();
    let captured = captured(&open);
    let Some(first) = captured.first().copied() else {
        return Next::Never;
    };
    let end = windows.end(first);
    if now < end {
        return Next::At(end);
    }
    let mut sources: Vec<LtxObject> = Vec::new();
    for (file, time) in open.into_iter().zip(captured) {
        let continues = sources
            .last()
            .is_none_or(|last| file.name.min == last.name.max.next());
        if !continues || time >= end || sources.len() == MOST_SOURCES {
            break;
        }
        sources.push(file.clone());
    }
    Next::Now(sources)
}

#[cfg(test)]
mod tests {
    use evertide_ltx::{Level, LtxName};

    use super::{
        super::files::tests::{file, random, time},
        *,
    };

    const WINDOWS: Windows = Windows(Duration::from_secs(30));

    fn plan(files: &[LtxObject], done: u64, now: u64) -> Next<Vec<(u64, u64)>> {
        let files: Vec<&LtxObject> = files.iter().collect();
        match plan_compaction(&files, Txid::new(done), WINDOWS, time(now)) {
            Next::Now(sources) => Next::Now(
                sources
                    .iter()
                    .map(|file| (file.name.min.get(), file.name.max.get()))
                    .collect(),
            ),
            Next::At(time) => Next::At(time),
            Next::Never => Next::Never,
        }
    }

    #[test]
    fn a_window_is_compacted_when_it_is_over_and_not_before() {
        let files = [file(0, 2, 2, 31), file(0, 3, 5, 59), file(0, 6, 6, 60)];
        assert_eq!(plan(&[], 0, 99), Next::Never);
        assert_eq!(plan(&files, 0, 59), Next::At(time(60)));
        assert_eq!(plan(&files, 0, 60), Next::Now(vec![(2, 2), (3, 5)]));
        assert_eq!(plan(&files, 5, 89), Next::At(time(90)));
        assert_eq!(plan(&files, 5, 900), Next::Now(vec![(6, 6)]));
        assert_eq!(plan(&files, 6, 900), Next::Never);
    }

    #[test]
    fn files_on_both_sides_of_a_gap_are_not_merged() {
        let files = [file(0, 2, 2, 1), file(0, 4, 4, 2), file(0, 5, 5, 3)];
        assert_eq!(plan(&files, 0, 30), Next::Now(vec![(2, 2)]));
        assert_eq!(plan(&files, 2, 30), Next::Now(vec![(4, 4), (5, 5)]));
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_hold_up_compaction_once_it_is_right() {
        let ahead = [file(0, 2, 2, 9_000)];
        assert_eq!(plan(&ahead, 0, 40), Next::At(time(9_030)));
        let right = [file(0, 2, 2, 9_000), file(0, 3, 3, 35)];
        assert_eq!(plan(&right, 0, 59), Next::At(time(60)));
        assert_eq!(plan(&right, 0, 60), Next::Now(vec![(2, 2), (3, 3)]));
    }

    /// The files that brute force says belong together: of one window that is over, without a gap.
    fn belong_together(open: &[LtxObject], now: SystemTime) -> Vec<Vec<LtxName>> {
        let known = |at: usize| open[at..].iter().map(|file| file.created).min().unwrap();
        let window = |at: usize| known(at).duration_since(time(0)).unwrap().as_secs() / 30;
        let mut groups: Vec<(u64, Vec<LtxName>)> = Vec::new();
        for (at, file) in open.iter().enumerate() {
            if time((window(at) + 1) * 30) > now {
                continue;
            }
            match groups.last_mut() {
                Some((of, names))
                    if *of == window(at) && names.last().unwrap().max.next() == file.name.min =>
                {
                    names.push(file.name);
                }
                _ => groups.push((window(at), vec![file.name])),
            }
        }
        groups.into_iter().map(|(_, names)| names).collect()
    }

    #[test]
    fn compaction_makes_one_file_of_each_closed_window_wherever_it_is_interrupted() {
        let mut random = random();
        for _ in 0..3_000 {
            let (mut txid, mut second) = (1, 1_000_000);
            let files: Vec<LtxObject> = (0..random.usize(0..25))
                .map(|_| {
                    let min = txid + 1 + u64::from(random.u8(..12) == 0);
                    txid = min + random.u64(..3);
                    second += random.u64(..25);
                    second -= if random.u8(..10) == 0 { 45 } else { 0 };
                    file(0, min, txid, second)
                })
                .collect();
            let now = time(second - 40 + random.u64(..120));
            let below: Vec<&LtxObject> = files.iter().collect();
            let (mut done, mut made) = (Txid::ZERO, Vec::new());
            let next = loop {
                let plan = plan_compaction(&below, done, WINDOWS, now);
                let Next::Now(sources) = plan else { break plan };
                // Whoever plans again without the result, after a crash, does the same again.
                let again = plan_compaction(&below, done, WINDOWS, now);
                assert_eq!(again, Next::Now(sources.clone()));
                done = sources.last().unwrap().name.max;
                made.push(sources.iter().map(|f| f.name).collect::<Vec<_>>());
            };
            assert_eq!(made, belong_together(&files, now), "{files:?} {now:?}");
            match next {
                Next::At(at) => {
                    assert!(at > now);
                    let then = plan_compaction(&below, done, WINDOWS, at);
                    assert!(matches!(then, Next::Now(_)));
                }
                Next::Never => assert!(files.iter().all(|file| file.name.max <= done)),
                Next::Now(_) => unreachable!(),
            }
        }
    }

    #[test]
    fn more_files_than_can_be_read_side_by_side_become_several() {
        let files: Vec<LtxObject> = (2..600).map(|n| file(0, n, n, 1)).collect();
        let below: Vec<&LtxObject> = files.iter().collect();
        let (mut done, mut counts) = (Txid::ZERO, Vec::new());
        while let Next::Now(sources) = plan_compaction(&below, done, WINDOWS, time(30)) {
            done = sources.last().unwrap().name.max;
            counts.push(sources.len());
        }
        assert_eq!(counts, [256, 256, 86]);
        assert_eq!(files[0].level, Level::L0);
    }
}

//! How full a WAL may get before it is made to start over, from what was seen of its writers.
//!
//! Starting over costs two fsyncs, under a writer that never pauses with the write lock held. So the
//! faster frames come, the more of them are backfilled at a time. An application that checkpoints by
//! itself would meanwhile do so in each of its commits: that is what the brake is for.

use std::time::{Duration, Instant};

use crate::wal::{IndexHeader, Salts};

/// A writer at a steady speed has its WAL started over about once in this time.
const PERIOD: Duration = Duration::from_millis(300);
/// A WAL is made to start over at this size, in bytes, however fast it grows.
const LARGEST_WAL: u64 = 256 << 20;
/// Older speeds count half as much after this time.
const HALF_LIFE: Duration = Duration::from_millis(100);
/// After so many generations it is seen anew whether the application checkpoints by itself.
const GENERATIONS_BELIEVED: u32 = 64;
/// So few frames are backfilled in the time of two syncs.
pub(super) const SMALL_RESIDUE: u32 = 256;

/// What was seen of a WAL.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    looked: Option<Look>,
    frames_per_second: f64,
    /// Looks at this generation that found it backfilled further by the application.
    checkpoints: u32,
    /// The application checkpoints over and over as long as the WAL does not start over.
    application_checkpoints: bool,
    generations_since: u32,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    salts: Salts,
    committed: u32,
    backfilled: u32,
}

impl Pace {
    /// Notes what the wal-index says at one moment.
    pub(super) fn look(&mut self, at: Instant, index: &IndexHeader) {
        let now = Look {
            at,
            salts: index.salts,
            committed: index.committed,
            backfilled: index.backfilled,
        };
        let Some(mut before) = self.looked.replace(now) else {
            return;
        };
        if before.salts != now.salts {
            (before.committed, before.backfilled) = (0, 0);
            self.next_generation();
        }
        let elapsed = at.saturating_duration_since(before.at).as_secs_f64();
        if elapsed > 0.0 {
            let frames = now.committed.saturating_sub(before.committed);
            let old = 0.5_f64.powf(elapsed / HALF_LIFE.as_secs_f64());
            let speed = f64::from(frames) / elapsed;
            self.frames_per_second = self.frames_per_second * old + speed * (1.0 - old);
        }
        if now.backfilled > before.backfilled {
            self.checkpoints += 1;
            // Once may have been a checkpoint that somebody asked for.
            if self.checkpoints > 1 {
                (self.application_checkpoints, self.generations_since) = (true, 0);
            }
        }
    }

    /// Notes what a checkpoint of our own left, so that it is not taken for the application's.
    pub(super) fn checkpointed(&mut self, index: &IndexHeader) {
        if let Some(look) = &mut self.looked
            && look.salts == index.salts
        {
            look.backfilled = index.backfilled;
        }
    }

    fn next_generation(&mut self) {
        self.checkpoints = 0;
        self.generations_since = self.generations_since.saturating_add(1);
        if self.generations_since > GENERATIONS_BELIEVED {
            self.application_checkpoints = false;
        }
    }

    /// From how many frames on the WAL is wanted to start over; never fewer than `least`.
    pub(super) fn rotate_at(&self, least: u32, index: &IndexHeader) -> u32 {
        let largest = LARGEST_WAL / u64::from(index.page_size.get());
        let in_period = self.frames_per_second * PERIOD.as_secs_f64();
        least.max(in_period.min(largest as f64) as u32)
    }

    /// Whether the application would checkpoint a WAL that is wanted to start over at `least` frames
    /// in commit after commit, since they come too fast for it to start over there.
    pub(super) fn brake(&self, least: u32) -> bool {
        let in_period = self.frames_per_second * PERIOD.as_secs_f64();
        self.application_checkpoints && in_period > f64::from(least)
    }

    /// When the WAL will have `frames`, if it goes on to grow as it does, and if that is soon.
    pub(super) fn time_until(&self, frames: u32) -> Option<Duration> {
        let missing = frames.checked_sub(self.looked?.committed)?;
        let seconds = f64::from(missing) / self.frames_per_second;
        (seconds < PERIOD.as_secs_f64()).then(|| Duration::from_secs_f64(seconds))
    }
}

/// Capturing and backfilling a WAL again and again, while its writer goes on, until so little is left that
/// writers can be held for the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Approach {
    /// Frames left by the round before.
    left: u32,
}

/// What to do when a round has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Round {
    /// Capture before anything else.
    pub(super) capture: bool,
    /// Backfill once more.
    pub(super) again: bool,
}

impl Approach {
    /// Of a WAL of which nothing is captured or backfilled yet in this step.
    pub(super) fn new(index: &IndexHeader) -> Self {
        Self {
            left: index.committed.saturating_sub(index.backfilled),
        }
    }

    /// What is next when the wal-index says this, and so many frames are captured. There is another round
    /// as long as each leaves much less than the one before.
    pub(super) fn round(&mut self, index: &IndexHeader, captured: u32) -> Round {
        let uncaptured = index.committed.saturating_sub(captured);
        let left = uncaptured.max(index.committed.saturating_sub(index.backfilled));
        let before = std::mem::replace(&mut self.left, left);
        let again = left > SMALL_RESIDUE && left <= before / 2;
        Round {
            capture: again && uncaptured > SMALL_RESIDUE,
            again,
        }
    }
}

#[cfg(test)]
mod tests {
    use evertide_ltx::PageSize;

    use super::*;
    use crate::wal::WalChecksum;

    const MS: Duration = Duration::from_millis(1);

    fn index(generation: u8, committed: u32, backfilled: u32) -> IndexHeader {
        IndexHeader {
            page_size: PageSize::new(4_096).unwrap(),
            committed,
            pages: 10,
            checksum: WalChecksum::default(),
            salts: Salts([generation; 8]),
            backfilled,
        }
    }

    /// A WAL that grows by `frames` each millisecond, for a second.
    fn writer(frames: u32) -> (Pace, Instant, u32) {
        let (mut pace, mut at, mut committed) = (Pace::default(), Instant::now(), 0);
        for _ in 0..1_000 {
            pace.look(at, &index(1, committed, 0));
            at += MS;
            committed += frames;
        }
        (pace, at, committed)
    }

    #[test]
    fn the_faster_frames_come_the_more_are_backfilled_at_a_time() {
        let now = index(1, 0, 0);
        assert_eq!(Pace::default().rotate_at(1_000, &now), 1_000);
        assert_eq!(writer(1).0.rotate_at(1_000, &now), 1_000);
        let fast = writer(10).0.rotate_at(1_000, &now);
        assert!((2_900..=3_000).contains(&fast), "{fast}");
        assert_eq!(writer(1_000).0.rotate_at(1_000, &now), 65_536); // 256 MiB
    }

    #[test]
    fn a_writer_that_rests_is_no_fast_one_any_more() {
        let (mut pace, at, committed) = writer(50);
        pace.look(at + 2_000 * MS, &index(1, committed, 0));
        pace.look(at + 4_000 * MS, &index(1, committed, 0));
        assert_eq!(pace.rotate_at(1_000, &index(1, committed, 0)), 1_000);
        assert_eq!(pace.time_until(committed + 1), None);
    }

    #[test]
    fn it_is_known_when_a_growing_wal_will_be_full() {
        let (pace, _, committed) = writer(50);
        let soon = pace.time_until(committed + 450).unwrap();
        assert!((9 * MS..=11 * MS).contains(&soon), "{soon:?}");
        assert_eq!(pace.time_until(committed + 1_000_000), None);
        assert_eq!(pace.time_until(committed / 2), None, "it is");
        assert_eq!(Pace::default().time_until(10), None);
    }

    #[test]
    fn an_application_that_checkpoints_in_each_commit_is_braked_while_it_writes_fast() {
        let (mut pace, mut at, _) = writer(50);
        let looks = [(1_000, 1_000), (1_008, 1_000), (1_010, 1_010)];
        for (committed, backfilled) in looks {
            assert!(!pace.brake(1_000), "once is not always");
            at += MS;
            pace.look(at, &index(2, committed, backfilled));
        }
        assert!(pace.brake(1_000));
        pace.look(at + 2_000 * MS, &index(2, 1_010, 1_010));
        assert!(!pace.brake(1_000), "it does not write fast any more");
    }

    #[test]
    fn our_own_checkpoints_are_not_taken_for_the_applications_and_habits_change() {
        let (mut pace, mut at, _) = writer(50);
        pace.application_checkpoints = true;
        for generation in 0..=GENERATIONS_BELIEVED {
            assert!(pace.brake(1_000));
            let generation = (generation % 7) as u8;
            for committed in [500, 1_000, 1_500] {
                at += 10 * MS;
                pace.look(at, &index(generation, committed, committed - 500));
                pace.checkpointed(&index(generation, committed, committed));
            }
        }
        assert!(!pace.brake(1_000));
    }

    #[test]
    fn a_wal_is_approached_until_little_is_left_or_the_writer_is_too_fast() {
        let round = |capture, again| Round { capture, again };
        let mut steady = Approach::new(&index(1, 4_000, 0));
        assert_eq!(
            steady.round(&index(1, 4_010, 4_000), 4_000),
            round(false, false)
        );
        let mut fast = Approach::new(&index(1, 60_000, 0));
        assert_eq!(
            fast.round(&index(1, 90_000, 60_000), 60_000),
            round(true, true)
        );
        assert_eq!(
            fast.round(&index(1, 99_000, 89_000), 98_000),
            round(true, true)
        );
        assert_eq!(
            fast.round(&index(1, 99_900, 99_000), 99_890),
            round(false, true)
        );
        assert_eq!(
            fast.round(&index(1, 99_990, 99_900), 99_990),
            round(false, false)
        );
        let mut too_fast = Approach::new(&index(1, 60_000, 0));
        assert_eq!(
            too_fast.round(&index(1, 90_000, 60_000), 90_000),
            round(false, true)
        );
        assert_eq!(
            too_fast.round(&index(1, 120_000, 100_000), 100_000),
            round(false, false)
        );
        // A reader keeps all of it from being backfilled.
        let blocked = index(1, 60_000, 10);
        assert_eq!(
            Approach::new(&blocked).round(&blocked, 60_000),
            round(false, false)
        );
        // Before the first snapshot nothing is captured.
        let mut first = Approach::new(&index(1, 900, 0));
        assert_eq!(
            first.round(&index(1, 900, 500), u32::MAX),
            round(false, true)
        );
    }
}

//! How full a WAL may get before it is made to start over, from what was seen of its writers.
//!
//! Starting over costs two fsyncs, under a writer that never pauses with the write lock held. So the
//! faster frames come, the more of them are backfilled at a time. An application that checkpoints by
//! itself would meanwhile do so in each of its commits: that is what the brake is for.

use std::time::Duration;

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
    /// Frames that the last round left, where another one follows.
    left: Option<u32>,
    /// The WAL as writers were held for it in vain.
    held_in_vain: Option<IndexHeader>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    /// By the time that the machine is up.
    at: Duration,
    salts: Salts,
    committed: u32,
    backfilled: u32,
}

impl Pace {
    /// Notes what the wal-index says at one moment of the time that the machine is up.
    pub(super) fn look(&mut self, at: Duration, index: &IndexHeader) {
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
        let elapsed = at.saturating_sub(before.at).as_secs_f64();
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

    /// Whether to capture and backfill once more before writers are held: a round that began with the WAL as it was
    /// `before` left it as `after`, with so many frames captured, and so nearer to its end than the round before.
    pub(super) fn nearing(
        &mut self,
        before: &IndexHeader,
        after: &IndexHeader,
        captured: u32,
    ) -> bool {
        let uncaptured = after.committed.saturating_sub(captured);
        let left = uncaptured.max(after.unbackfilled());
        let nearer = self.left.take().is_none_or(|most| left <= most - most / 8);
        // Where nothing was backfilled, somebody reads and keeps it there.
        let nearing = nearer && left > SMALL_RESIDUE && after.backfilled > before.backfilled;
        self.left = nearing.then_some(left);
        nearing
    }

    /// Notes what was left when writers were held for it.
    pub(super) fn held(&mut self, index: &IndexHeader) {
        self.held_in_vain = (index.unbackfilled() > 0).then_some(*index);
    }

    /// From how many frames on writers may be held once more. Those that somebody reads cannot be backfilled,
    /// however often that is tried: the WAL has to grow by half before it is, or the reader to go on.
    pub(super) fn hold_again_at(&self, index: &IndexHeader) -> u32 {
        match self.held_in_vain {
            Some(vain) if (vain.salts, vain.backfilled) == (index.salts, index.backfilled) => {
                vain.committed.saturating_add(vain.committed / 2)
            }
            _ => 0,
        }
    }

    /// When the WAL will have `frames`, if it goes on to grow as it does, and if that is soon.
    pub(super) fn time_until(&self, frames: u32) -> Option<Duration> {
        let missing = frames.checked_sub(self.looked?.committed);
        let missing = missing.filter(|missing| *missing > 0)?;
        let seconds = f64::from(missing) / self.frames_per_second;
        (seconds < PERIOD.as_secs_f64()).then(|| Duration::from_secs_f64(seconds))
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
    fn writer(frames: u32) -> (Pace, Duration, u32) {
        let (mut pace, mut at, mut committed) = (Pace::default(), Duration::ZERO, 0);
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
    fn two_looks_at_one_moment_tell_nothing_of_the_speed() {
        let (mut pace, at, committed) = writer(10);
        for _ in 0..2 {
            pace.look(at, &index(1, committed, 0));
        }
        let fast = pace.rotate_at(1_000, &index(1, committed, 0));
        assert!((2_900..=3_000).contains(&fast), "{fast}");
    }

    #[test]
    fn it_is_known_when_a_growing_wal_will_be_full() {
        let (pace, _, committed) = writer(50);
        let soon = pace.time_until(committed + 450).unwrap();
        assert!((9 * MS..=11 * MS).contains(&soon), "{soon:?}");
        assert_eq!(pace.time_until(committed + 1_000_000), None);
        assert_eq!(pace.time_until(committed / 2), None, "it is");
        let last = pace.looked.unwrap().committed;
        assert_eq!(
            pace.time_until(last),
            None,
            "it just is: looked at again and again it would stay so"
        );
        assert!(pace.time_until(last + 1).is_some());
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
    fn the_brake_is_wanted_where_a_wal_is_full_within_the_time_between_two_rotations() {
        let (mut pace, ..) = writer(10); // 3,000 frames in that time
        pace.application_checkpoints = true;
        assert!(pace.brake(2_900));
        assert!(!pace.brake(3_100));
        let rests = Pace {
            application_checkpoints: true,
            ..Pace::default()
        };
        assert!(!rests.brake(0), "nobody writes");
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
    fn rounds_go_on_as_long_as_each_comes_nearer() {
        // What was committed and backfilled before each round and after it, what was captured, and whether there is another.
        type Rounds<'a> = &'a [([u32; 2], [u32; 2], u32, bool)];
        let writers: [(&str, Rounds<'_>); 7] = [
            (
                "a steady one",
                &[([4_000, 0], [4_010, 4_000], 4_000, false)],
            ),
            (
                "one that leaves as much as is not worth a round",
                &[([4_000, 0], [4_256, 4_000], 4_256, false)],
            ),
            (
                "one that leaves a frame more",
                &[([4_000, 0], [4_257, 4_000], 4_257, true)],
            ),
            (
                "a fast one",
                &[
                    ([60_000, 0], [90_000, 60_000], 60_000, true),
                    ([90_000, 60_000], [99_000, 89_000], 98_000, true),
                    ([99_000, 89_000], [99_200, 99_000], 99_190, false),
                ],
            ),
            (
                "one that is too fast",
                &[
                    ([60_000, 0], [90_000, 60_000], 90_000, true),
                    ([90_000, 60_000], [120_000, 92_000], 120_000, false),
                    ([120_000, 92_000], [150_000, 120_000], 150_000, true),
                ],
            ),
            (
                "beside a reader",
                &[([60_000, 10], [60_000, 10], 60_000, false)],
            ),
            (
                "before the first snapshot",
                &[([900, 0], [900, 500], u32::MAX, true)],
            ),
        ];
        for (writer, rounds) in writers {
            let mut pace = Pace::default();
            for (before, after, captured, another) in rounds {
                let [before, after] = [before, after]
                    .map(|[committed, backfilled]| index(1, *committed, *backfilled));
                assert_eq!(
                    pace.nearing(&before, &after, *captured),
                    *another,
                    "{writer}: {after:?}"
                );
            }
        }
    }

    #[test]
    fn writers_are_not_held_over_and_over_for_what_somebody_reads() {
        let mut pace = Pace::default();
        assert_eq!(pace.hold_again_at(&index(1, 1_000, 0)), 0);
        pace.held(&index(1, 1_000, 400));
        assert_eq!(pace.hold_again_at(&index(1, 1_200, 400)), 1_500);
        assert_eq!(
            pace.hold_again_at(&index(1, 1_200, 401)),
            0,
            "the reader went on"
        );
        assert_eq!(
            pace.hold_again_at(&index(2, 1_200, 400)),
            0,
            "it started over"
        );
        pace.held(&index(1, 1_500, 1_500));
        assert_eq!(pace.hold_again_at(&index(1, 1_500, 1_500)), 0);
    }
}

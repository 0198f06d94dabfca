//! When things happen in a simulated year, and what the clock shows then.

use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

use fastrand::Rng;

use crate::shaky::Weather;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Further than any time of a simulation.
const NEVER: Duration = Duration::from_secs(1 << 40);

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// The application commits.
    Commit,
    /// What was committed is uploaded.
    Upload,
    /// Maintenance runs.
    Upkeep,
    /// The store has better or worse days.
    Weather,
    /// Something goes wrong.
    Mishap,
    /// Somebody looks whether all is well.
    Look,
}

/// The times of the next events, as true time since the start.
#[derive(Debug)]
pub(crate) struct Schedule {
    random: Rng,
    start: SystemTime,
    elapsed: Duration,
    /// How far the clock is ahead of `start` and that; it may be less than `RIGHT`.
    ahead: Duration,
    commit: Duration,
    upload: Duration,
    weather: Duration,
    mishap: Duration,
    look: Duration,
    /// By the clock.
    upkeep: Option<SystemTime>,
    /// Commits until the next quiet time.
    burst: u32,
    fair: bool,
}

/// `ahead` of a clock that is right: one that is behind has less.
const RIGHT: Duration = Duration::from_secs(30 * 86_400);

impl Schedule {
    pub(crate) fn new(random: Rng, start: SystemTime) -> Self {
        Self {
            random,
            start: start - RIGHT,
            elapsed: Duration::ZERO,
            ahead: RIGHT,
            commit: SECOND,
            upload: Duration::ZERO,
            weather: DAY,
            mishap: HOUR,
            look: HOUR,
            upkeep: None,
            burst: 10,
            fair: true,
        }
    }

    /// True time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// What the clock shows.
    pub(crate) fn now(&self) -> SystemTime {
        self.start + self.ahead + self.elapsed
    }

    /// When maintenance is to run next.
    pub(crate) fn upkeep(&self) -> Option<SystemTime> {
        self.upkeep
    }

    pub(crate) fn upkeep_at(&mut self, due: Option<SystemTime>) {
        self.upkeep = due;
    }

    pub(crate) fn upkeep_now(&mut self) {
        self.upkeep = Some(self.now());
    }

    pub(crate) fn upkeep_later(&mut self) {
        self.upkeep = Some(self.now() + between(&mut self.random, 10 * SECOND..10 * MINUTE));
    }

    pub(crate) fn upload_soon(&mut self) {
        self.upload = self.elapsed;
    }

    pub(crate) fn upload_later(&mut self) {
        self.upload = self.elapsed + between(&mut self.random, SECOND..5 * MINUTE);
    }

    pub(crate) fn stop_writing(&mut self) {
        self.commit = NEVER;
        self.mishap = NEVER;
        self.weather = NEVER;
    }

    /// The clock is set, sometimes to the right time.
    pub(crate) fn set_clock_wrong(&mut self) {
        let most = match self.random.u8(..12) {
            0 => 2 * DAY,
            1..6 => 6 * HOUR,
            _ => Duration::from_millis(1),
        };
        self.ahead = RIGHT - most + between(&mut self.random, Duration::ZERO..2 * most);
    }

    /// The next event, and what the clock shows when it happens.
    pub(crate) fn next(&mut self) -> (Event, SystemTime) {
        let upkeep = self.upkeep.map_or(NEVER, |due| {
            let wait = due.duration_since(self.now()).unwrap_or_default();
            self.elapsed + wait
        });
        let events = [
            (upkeep, Event::Upkeep),
            (self.upload, Event::Upload),
            (self.commit, Event::Commit),
            (self.weather, Event::Weather),
            (self.mishap, Event::Mishap),
            (self.look, Event::Look),
        ];
        let (time, event) = events.into_iter().min_by_key(|(time, _)| *time).unwrap();
        self.elapsed = self.elapsed.max(time);
        match event {
            Event::Upkeep => {}
            Event::Upload => self.upload = NEVER,
            Event::Commit => {
                self.commit = self.elapsed + self.pause();
                self.upload = self.upload.min(self.elapsed);
            }
            Event::Weather => self.weather = self.elapsed + self.spell(),
            Event::Mishap => {
                self.mishap = self.elapsed + between(&mut self.random, MINUTE..DAY);
            }
            Event::Look => self.look = self.elapsed + between(&mut self.random, MINUTE..2 * DAY),
        }
        (event, self.now())
    }

    /// Until the next commit: seconds, or now and then hours or days.
    fn pause(&mut self) -> Duration {
        if let Some(left) = self.burst.checked_sub(1) {
            self.burst = left;
            return between(&mut self.random, SECOND..20 * SECOND);
        }
        self.burst = match self.random.u8(..20) {
            0 => self.random.u32(20..60),
            1..5 => self.random.u32(3..10),
            _ => self.random.u32(..3),
        };
        let quiet = match self.random.u8(..60) {
            0 => DAY..6 * DAY,
            1..20 => HOUR..10 * HOUR,
            _ => 2 * MINUTE..3 * HOUR,
        };
        between(&mut self.random, quiet)
    }

    /// How long the weather stays as it becomes now.
    fn spell(&mut self) -> Duration {
        self.fair = !self.fair;
        let spell = match (self.fair, self.random.u8(..8)) {
            (true, _) => DAY..8 * DAY,
            (false, 0) => DAY..3 * DAY,
            (false, _) => 10 * MINUTE..DAY,
        };
        between(&mut self.random, spell)
    }

    /// The weather that has just begun.
    pub(crate) fn weather(&mut self) -> Weather {
        match (self.fair, self.random.u8(..3)) {
            (true, _) => Weather::Fair,
            (false, 0) => Weather::Out,
            (false, _) => Weather::Rough,
        }
    }
}

/// A time span at random, to the millisecond.
pub(crate) fn between(random: &mut Rng, range: Range<Duration>) -> Duration {
    let milliseconds = range.start.as_millis() as u64..range.end.as_millis() as u64;
    Duration::from_millis(random.u64(milliseconds))
}

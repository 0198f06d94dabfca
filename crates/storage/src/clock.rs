//! The time of day, behind a trait so that tests can turn it. Timers are tokio's, which tests can
//! pause.

use std::{
    fmt::Debug,
    time::{Duration, SystemTime},
};

/// The time of day, and the time that passes.
pub trait Clock: Debug + Send + Sync {
    /// Now. May go backwards: people and time servers set clocks.
    fn now(&self) -> SystemTime;

    /// Time since some moment before this process began. Never goes backwards, nobody sets it, and it
    /// goes on while the machine sleeps.
    fn uptime(&self) -> Duration {
        uptime_of_the_machine()
    }
}

/// Unlike [`std::time::Instant`], which on Linux stands still while the machine sleeps.
fn uptime_of_the_machine() -> Duration {
    // It can only fail for a clock that the kernel does not have, and this one is in all of them.
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    time.map(Duration::from).unwrap_or_default()
}

/// The clock of the operating system.
#[derive(Clone, Copy, Default, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that stands still until a test turns it, forwards or backwards.
#[cfg(feature = "testing")]
#[derive(Debug)]
pub struct ManualClock(std::sync::Mutex<(SystemTime, Duration)>);

#[cfg(feature = "testing")]
impl ManualClock {
    /// A clock that shows this time.
    pub fn new(now: SystemTime) -> Self {
        Self(std::sync::Mutex::new((now, Duration::ZERO)))
    }

    /// Sets the time. None passes.
    pub fn set(&self, now: SystemTime) {
        self.times().0 = now;
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let mut times = self.times();
        times.0 += by;
        times.1 += by;
    }

    fn times(&self) -> std::sync::MutexGuard<'_, (SystemTime, Duration)> {
        let times = self.0.lock();
        times.unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(feature = "testing")]
impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.times().0
    }

    fn uptime(&self) -> Duration {
        self.times().1
    }
}

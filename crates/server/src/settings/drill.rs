//! Drills of a replica, in both languages.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use evertide::ReplicaOptions;

use super::{
    error::Mistake,
    replica::{DRILL_INTERVAL, DRILL_TIMEOUT, path_without_tilde},
    section::{Report, Section},
};

/// Less would not even bring a small database back in a reasonable time.
const LEAST_BANDWIDTH: u64 = 64 << 10;

/// The names of the settings, in one of the two languages.
pub(super) struct DrillKeys {
    pub(super) interval: &'static str,
    pub(super) bandwidth: &'static str,
    pub(super) directory: &'static str,
    pub(super) timeout: &'static str,
    /// What is said about the others where there is no interval.
    pub(super) alone: &'static str,
}

/// When, how fast, where and how long a replica is restored for the sake of it.
pub(super) struct Drills {
    interval: Option<Duration>,
    bandwidth: Option<NonZeroU64>,
    directory: Option<PathBuf>,
    timeout: Option<Duration>,
}

impl Drills {
    pub(super) fn read(report: &mut Report, section: &Section<'_>, keys: &DrillKeys) -> Self {
        let given = |key| section.get(key).filter(|field| !field.is_empty());
        let off = given(keys.interval).is_none();
        let interval = section.duration(report, keys.interval, &DRILL_INTERVAL);
        let bandwidth = section.size(report, keys.bandwidth, LEAST_BANDWIDTH);
        let directory = given(keys.directory).and_then(|field| field.text(report));
        let directory = directory.and_then(|text| path_without_tilde(report, &text));
        let timeout = section.duration(report, keys.timeout, &DRILL_TIMEOUT);
        for key in [keys.bandwidth, keys.directory, keys.timeout] {
            if off && let Some(field) = given(key) {
                report.add(&field.place, Mistake::Misplaced(keys.alone));
            }
        }
        // Zero is none, and whoever turns them off so may leave the rest in place.
        let interval = interval.filter(|interval| !interval.is_zero());
        Self {
            interval,
            bandwidth: bandwidth
                .and_then(NonZeroU64::new)
                .filter(|_| interval.is_some()),
            directory: directory.filter(|_| interval.is_some()),
            timeout: timeout.filter(|_| interval.is_some()),
        }
    }

    pub(super) fn set(self, replica: &mut ReplicaOptions) {
        replica.drill_interval = self.interval;
        replica.drill_bandwidth = self.bandwidth;
        replica.drill_directory = self.directory;
        replica.drill_timeout = self.timeout.unwrap_or(replica.drill_timeout);
    }
}

//! What every configuration has in common: types of replicas, bounds, and that no two names,
//! databases or destinations are the same.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    path::{Path, PathBuf},
    time::Duration,
};

use evertide::{ReplicaOptions, ReplicationOptions};
use evertide_storage::Destination;

use super::{
    directory::WatchedDirectory,
    error::{Mistake, Place},
    section::{Limits, Report, Section, Text, Zero, similar},
};

/// The type of a replica: which store it is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplicaType(&'static str);

impl ReplicaType {
    pub(super) const FILE: Self = Self("file");
    pub(super) const S3: Self = Self("s3");
    pub(super) const GCS: Self = Self("gs");
    pub(super) const AZURE: Self = Self("abs");
    pub(super) const WEBDAV: Self = Self("webdav");
    pub(super) const SFTP: Self = Self("sftp");
    pub(super) const NATS: Self = Self("nats");
    pub(super) const OSS: Self = Self("oss");

    /// Every type there is, supported by this build or not.
    const ALL: [&'static str; 8] = ["file", "s3", "gs", "abs", "sftp", "webdav", "nats", "oss"];

    /// The types that this build has a client for.
    const WITH_CLIENT: &'static [Self] = &[
        Self::FILE,
        #[cfg(feature = "s3")]
        Self::S3,
        #[cfg(feature = "gcs")]
        Self::GCS,
        #[cfg(feature = "azure")]
        Self::AZURE,
        #[cfg(feature = "webdav")]
        Self::WEBDAV,
        #[cfg(feature = "sftp")]
        Self::SFTP,
        #[cfg(feature = "nats")]
        Self::NATS,
        #[cfg(feature = "oss")]
        Self::OSS,
    ];

    pub(super) fn name(self) -> &'static str {
        self.0
    }

    /// The type with this name. One without a client is reported, and known all the same: its
    /// keys can still be checked.
    pub(super) fn read(report: &mut Report, text: &Text<'_>) -> Option<Self> {
        let Some(name) = Self::ALL.into_iter().find(|name| *name == text.value) else {
            let mistake = Mistake::UnknownType {
                found: text.value.chars().take(40).collect(),
                similar: similar(text.value, &Self::ALL),
                expected: Self::ALL.to_vec(),
            };
            report.add(&text.place, mistake);
            return None;
        };
        let found = Self(name);
        if let Some(mistake) = found.unsupported(Self::WITH_CLIENT) {
            report.add(&text.place, mistake);
        }
        Some(found)
    }

    /// What is wrong with this type in a build that has clients for these.
    fn unsupported(self, with_client: &[Self]) -> Option<Mistake> {
        let supported = with_client.iter().map(|kind| kind.name());
        (!with_client.contains(&self)).then(|| Mistake::UnsupportedType {
            found: self.name(),
            supported: supported.collect(),
        })
    }
}

const HOUR: Duration = Duration::from_secs(3_600);
const YEAR: Duration = HOUR.saturating_mul(24 * 366);

const fn limits(min_ms: u64, max: Duration) -> Limits {
    Limits {
        min: Duration::from_millis(min_ms),
        max,
        zero: Zero::Invalid,
    }
}

pub(super) const MONITOR_INTERVAL: Limits = limits(10, HOUR);
pub(super) const CHECKPOINT_INTERVAL: Limits = limits(10, YEAR);
pub(super) const SYNC_INTERVAL: Limits = limits(1, HOUR.saturating_mul(24 * 30));
pub(super) const LEVEL_INTERVAL: Limits = limits(100, YEAR);
pub(super) const L0_RETENTION: Limits = limits(1, YEAR);
pub(super) const SNAPSHOT_INTERVAL: Limits = limits(100, YEAR);
pub(super) const RETENTION_CHECK_INTERVAL: Limits = limits(100, YEAR);
pub(super) const DRILL_INTERVAL: Limits = Limits {
    min: Duration::from_secs(60),
    max: YEAR,
    zero: Zero::Never,
};
pub(super) const DRILL_TIMEOUT: Limits = limits(1_000, YEAR);
pub(super) const LEASE_DURATION: Limits = limits(100, HOUR.saturating_mul(24));
pub(super) const RETENTION_TIER_EVERY: Limits = limits(1_000, YEAR);
pub(super) const RETENTION_TIER_KEEP: Limits = limits(1_000, YEAR.saturating_mul(100));
pub(super) const RETENTION: Limits = Limits {
    min: Duration::from_secs(1),
    max: YEAR.saturating_mul(100),
    zero: Zero::ForEver,
};

/// Less could not even hold what one sync of a busy database captures.
const LEAST_STAGE_LIMIT: u64 = 1 << 20;

/// The names of the settings of a database, in one of the two languages.
pub(super) struct DatabaseKeys {
    pub(super) monitor_interval: &'static str,
    pub(super) stage_limit: &'static str,
    pub(super) checkpoint_interval: &'static str,
}

/// The options of a database but for its replicas.
pub(super) fn database_options(
    report: &mut Report,
    section: &Section<'_>,
    keys: &DatabaseKeys,
) -> ReplicationOptions {
    let mut options = ReplicationOptions::default();
    let monitor = section.duration(report, keys.monitor_interval, &MONITOR_INTERVAL);
    let checkpoint = section.duration(report, keys.checkpoint_interval, &CHECKPOINT_INTERVAL);
    let stage_limit = section.size(report, keys.stage_limit, LEAST_STAGE_LIMIT);
    options.monitor_interval = monitor.unwrap_or(options.monitor_interval);
    options.checkpoint_interval = checkpoint.unwrap_or(options.checkpoint_interval);
    options.stage_limit = stage_limit.unwrap_or(options.stage_limit);
    options
}

/// What may be set for each replica.
#[derive(Clone, Copy, Default)]
pub(super) struct Timing {
    pub(super) sync_interval: Option<Duration>,
    pub(super) snapshot_interval: Option<Duration>,
    /// Zero for ever.
    pub(super) retention: Option<Duration>,
    pub(super) retention_check_interval: Option<Duration>,
    pub(super) lease_duration: Option<Duration>,
}

impl Timing {
    /// What is set here, and else there.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            sync_interval: self.sync_interval.or(other.sync_interval),
            snapshot_interval: self.snapshot_interval.or(other.snapshot_interval),
            retention: self.retention.or(other.retention),
            retention_check_interval: self
                .retention_check_interval
                .or(other.retention_check_interval),
            lease_duration: self.lease_duration.or(other.lease_duration),
        }
    }

    pub(super) fn replica(self, name: &str, destination: Destination) -> ReplicaOptions {
        let mut replica = ReplicaOptions::new(name, destination);
        let set = |value: &mut Duration, given: Option<Duration>| {
            *value = given.unwrap_or(*value);
        };
        set(&mut replica.sync_interval, self.sync_interval);
        set(&mut replica.snapshot_interval, self.snapshot_interval);
        set(
            &mut replica.retention_check_interval,
            self.retention_check_interval,
        );
        set(&mut replica.lease_duration, self.lease_duration);
        if let Some(retention) = self.retention {
            replica.retention = Some(retention).filter(|retention| !retention.is_zero());
        }
        replica
    }
}

/// A directory for a replica.
pub(super) fn file_destination(report: &mut Report, path: &Text<'_>) -> Option<Destination> {
    check_no_tilde(report, path)?;
    destination(report, path, Destination::file(path.value))
}

pub(super) fn url_destination(report: &mut Report, url: &Text<'_>) -> Option<Destination> {
    destination(report, url, Destination::parse(url.value))
}

pub(super) fn destination(
    report: &mut Report,
    text: &Text<'_>,
    result: Result<Destination, evertide_storage::Error>,
) -> Option<Destination> {
    result
        .map_err(|e| report.add(&text.place, Mistake::BadDestination(e.to_string())))
        .ok()
}

/// A path on this machine.
pub(super) fn path_without_tilde(report: &mut Report, path: &Text<'_>) -> Option<PathBuf> {
    check_no_tilde(report, path)?;
    Some(PathBuf::from(path.value))
}

fn check_no_tilde(report: &mut Report, path: &Text<'_>) -> Option<()> {
    if path.value == "~" || path.value.starts_with("~/") {
        report.add(&path.place, Mistake::Tilde);
        return None;
    }
    Some(())
}

/// As [`Destination::file`] has it: absolute, without `.` and doubled slashes; links not followed.
pub(super) fn comparable(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.components().collect()
}

/// The databases and destinations met so far.
#[derive(Default)]
pub(super) struct Seen {
    databases: HashMap<PathBuf, Place>,
    /// By location, for the credentials to get there make no difference.
    destinations: HashMap<String, Place>,
    directories: Vec<(PathBuf, Place)>,
    wanted: Option<PathBuf>,
    /// Directories to be watched, where they are kept apart.
    watched: Option<Vec<WatchedDirectory>>,
}

impl Seen {
    /// The database of the application, which no text names.
    pub(super) fn of_application(database: &Path) -> Self {
        let place = Place {
            key: String::new(),
            line: 0,
        };
        Self {
            databases: HashMap::from([(comparable(database), place)]),
            ..Self::default()
        }
    }

    /// For those who look for one database, which may be lost.
    pub(super) fn looking_for(wanted: Option<&Path>) -> Self {
        Self {
            wanted: wanted.map(comparable),
            ..Self::default()
        }
    }

    /// For those who watch directories.
    pub(super) fn watching() -> Self {
        Self {
            watched: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// Keeps a directory apart, where that is wanted.
    pub(super) fn watch(&mut self, directory: WatchedDirectory) -> bool {
        match &mut self.watched {
            Some(watched) => watched.push(directory),
            None => return false,
        }
        true
    }

    pub(super) fn into_watched(self) -> Vec<WatchedDirectory> {
        self.watched.unwrap_or_default()
    }

    /// The database that is looked for.
    pub(super) fn wanted(&self) -> Option<&Path> {
        self.wanted.as_deref()
    }

    pub(super) fn database(&mut self, report: &mut Report, path: &Path, place: &Place) {
        if let Some(other) = remember(&mut self.databases, comparable(path), place) {
            report.add(place, Mistake::DuplicateDatabase { other });
        }
    }

    pub(super) fn destination(
        &mut self,
        report: &mut Report,
        destination: &Destination,
        place: &Place,
    ) {
        if let Some(other) = remember(&mut self.destinations, destination.to_string(), place) {
            report.add(place, Mistake::DuplicateDestination { other });
        }
        if let Destination::File(file) = destination {
            self.directories
                .push((comparable(&file.path), place.clone()));
        }
    }

    /// To be called last: a replica in one table may be the database of another.
    pub(super) fn check_replicas_are_no_databases(&self, report: &mut Report) {
        for (path, place) in &self.directories {
            if self.databases.contains_key(path) {
                report.add(place, Mistake::ReplicaIsDatabase);
            }
        }
    }
}

/// Adds what was not there, or returns where it was.
fn remember<K: Eq + Hash>(seen: &mut HashMap<K, Place>, key: K, place: &Place) -> Option<Place> {
    match seen.entry(key) {
        Entry::Occupied(other) => Some(other.get().clone()),
        Entry::Vacant(vacant) => {
            vacant.insert(place.clone());
            None
        }
    }
}

/// The names of the replicas of one database.
#[derive(Default)]
pub(super) struct Names {
    seen: HashMap<String, Place>,
    invented: usize,
}

impl Names {
    pub(super) fn add(&mut self, report: &mut Report, name: &Text<'_>) {
        if let Some(other) = remember(&mut self.seen, name.value.to_owned(), &name.place) {
            let name_of_both = name.value.to_owned();
            report.add(
                &name.place,
                Mistake::DuplicateName {
                    name: name_of_both,
                    other,
                },
            );
        }
    }

    /// A name for a replica without one: its type, with a number where that is taken.
    pub(super) fn invent(&mut self, kind: ReplicaType, place: &Place) -> String {
        loop {
            self.invented += 1;
            let name = match self.invented {
                1 => kind.name().to_owned(),
                number => format!("{}-{number}", kind.name()),
            };
            if remember(&mut self.seen, name.clone(), place).is_none() {
                return name;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ReplicaType;

    #[test]
    fn a_type_without_a_client_is_named_with_those_that_have_one() {
        let clients = [ReplicaType::FILE, ReplicaType::S3];
        assert!(ReplicaType::S3.unsupported(&clients).is_none());
        let mistake = ReplicaType::OSS.unsupported(&clients).unwrap();
        let expected = "replicas of type \"oss\" are not supported by this build of Evertide: it has \
                        \"file\", \"s3\"";
        assert_eq!(mistake.to_string(), expected);
    }
}

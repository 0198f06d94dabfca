//! Levels of compaction, the same in both languages.

use std::time::Duration;

use evertide::ReplicaOptions;

use super::{
    error::Mistake,
    replica::{L0_RETENTION, LEVEL_INTERVAL},
    section::{Field, Report, Section, similar},
};

const FIELDS: [&str; 1] = ["interval"];

/// The names of the settings, in one of the two languages.
pub(super) struct LevelKeys {
    pub(super) levels: &'static str,
    pub(super) level_0_retention: &'static str,
    /// What `levels` takes.
    pub(super) expected: &'static str,
}

/// How the replicas of a section are compacted, where it says so.
pub(super) struct Levels {
    windows: Option<Vec<Duration>>,
    level_0_retention: Option<Duration>,
}

impl Levels {
    pub(super) fn read(report: &mut Report, section: &Section<'_>, keys: &LevelKeys) -> Self {
        let field = section.get(keys.levels);
        Self {
            windows: field.map(|field| read_windows(report, &field, keys)),
            level_0_retention: section.duration(report, keys.level_0_retention, &L0_RETENTION),
        }
    }

    pub(super) fn set(&self, replica: &mut ReplicaOptions) {
        if let Some(windows) = &self.windows {
            replica.levels.clone_from(windows);
        }
        replica.level_0_retention = self.level_0_retention.unwrap_or(replica.level_0_retention);
    }
}

/// The windows of levels 1, 2 and so on.
fn read_windows(report: &mut Report, field: &Field<'_>, keys: &LevelKeys) -> Vec<Duration> {
    let if_empty = "give the interval of level 1 at least, or remove it";
    let tables = field.tables(report, keys.expected, if_empty);
    let (mut windows, mut places) = (Vec::new(), Vec::new());
    for table in &tables {
        for (key, field) in table.fields().filter(|(key, _)| !FIELDS.contains(key)) {
            let (similar, expected) = (similar(key, &FIELDS), FIELDS.to_vec());
            report.add(&field.place, Mistake::UnknownKey { similar, expected });
        }
        let hint = "say how long the level's window is";
        let given = table.required(report, FIELDS[0], hint);
        let window = given.and_then(|text| {
            let window = table.duration(report, FIELDS[0], &LEVEL_INTERVAL)?;
            Some((window, text.place))
        });
        if let Some((window, place)) = window {
            windows.push(window);
            places.push(place);
        }
    }
    // What is wrong between values of which some cannot be read follows from that.
    if windows.len() == tables.len() {
        for (at, reason) in ReplicaOptions::mistakes_in_levels(&windows) {
            let place = places.get(at).unwrap_or(&field.place);
            report.add(place, Mistake::BadLevel(reason));
        }
    }
    windows
}

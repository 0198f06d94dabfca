//! Since when something fails, for those who watch metrics and logs.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use humantime::{FormattedDuration, format_duration};

use crate::replica::milliseconds;

/// What may fail while all else goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    Capture,
    Uploads,
    Maintenance,
}

impl Work {
    fn as_str(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Uploads => "uploads",
            Self::Maintenance => "maintenance",
        }
    }
}

/// Publishes since when it fails: 0 while it does not. Capture is that of no replica: `""`.
pub(crate) fn publish(work: Work, database: &Path, replica: &str, since: Option<SystemTime>) {
    let labels = [
        ("database", database.display().to_string()),
        ("replica", replica.to_owned()),
        ("work", work.as_str().to_owned()),
    ];
    let since = since.map_or(0.0, |since| milliseconds(since) as f64 / 1e3);
    metrics::gauge!("evertide_failing_since_timestamp_seconds", &labels).set(since);
}

/// For how long it has failed, in whole seconds.
pub(crate) fn duration(since: SystemTime, now: SystemTime) -> FormattedDuration {
    let whole = now.duration_since(since).unwrap_or_default().as_secs();
    format_duration(Duration::from_secs(whole))
}

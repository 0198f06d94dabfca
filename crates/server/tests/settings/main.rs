//! Settings as a user writes them, and every mistake a user can make.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod databases;
mod directories;
mod fuzz;
mod levels;
mod litestream_yaml;
mod random;
mod stored;
mod toml;

use std::{fmt::Debug, path::PathBuf, time::Duration};

use evertide::ReplicaOptions;
use evertide_server::settings::SettingsErrors;
use evertide_storage::Destination;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// The mistakes as a user sees them.
fn mistakes<T: Debug>(result: Result<T, SettingsErrors>) -> Vec<String> {
    let errors = result.unwrap_err();
    let lines: Vec<String> = errors.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), errors.mistakes().len());
    lines
}

/// That there is one mistake, which begins like this.
#[track_caller]
fn assert_mistake<T: Debug>(result: Result<T, SettingsErrors>, start: &str) {
    let mistakes = mistakes(result);
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    assert!(
        mistakes[0].starts_with(start),
        "{:?} does not start with {start:?}",
        mistakes[0]
    );
}

fn directory(replica: &ReplicaOptions) -> PathBuf {
    match &replica.destination {
        Destination::File(file) => file.path.clone(),
        other => panic!("{other:?}"),
    }
}

//! Settings as a user writes them, and every mistake a user can make.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod databases;
mod directories;
mod fuzz;
mod levels;
mod litestream_yaml;
mod random;
mod stored;
mod stores;
mod toml;

use std::{fmt::Debug, path::PathBuf, time::Duration};

use evertide::ReplicaOptions;
use evertide_server::settings::{SettingsErrors, parse_toml};
use evertide_storage::Destination;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// As the Go module's own generator writes it, but for the replica on S3.
const OF_THE_GO_MODULE: &str = r#"# OPTIONAL, how often to check the WAL for changes
monitor_interval = '1s'
# OPTIONAL, how often to request a WAL checkpoint
checkpoint_interval = '1m'

# Slice defining one or more replicas.
[[replicas]]
# REQUIRED, unique name for this replica (e.g., "local", "s3-main")
name = 'local_file_example'
# Replica type: "file" or "s3"
type = 'file'
sync_interval = '1s'
snapshot_interval = '24h'
retention_check_interval = '1h'
file_path = '/path/to/your/local/replicas'
"#;

const ON_S3: &str = r#"
[[replicas]]
name = 's3_backup_example'
type = 's3'
sync_interval = '10s'
snapshot_interval = '1h'
retention = '7d'
retention_check_interval = '1h'
s3_endpoint = 'endpoint'
s3_region = 'your-s3-region'
s3_bucket = 'your-s3-bucket-name'
s3_path = 'backups/myapp'
s3_access_key_id = 'YOUR_ACCESS_KEY_ID'
s3_secret_access_key = 'YOUR_SECRET_ACCESS_KEY'
s3_force_path_style = false
"#;

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

/// One replica, with these lines more. They start in line 5.
fn with(lines: &str) -> String {
    format!("[[replicas]]\nname = 'a'\ntype = 'file'\nfile_path = '/backup'\n{lines}\n")
}

fn only_replica(text: &str) -> ReplicaOptions {
    let mut options = parse_toml(text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(options.replicas.len(), 1);
    options.replicas.remove(0)
}

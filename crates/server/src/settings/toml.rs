//! The TOML configuration, whose keys are those of the Go module.

use std::path::{Path, PathBuf};

use evertide::{ReplicaOptions, ReplicationOptions};
use toml::de::{DeTable, DeValue};

use super::{
    DatabaseSettings, check_size, directory,
    document::{Entry, Node, Table, Value},
    drill::{DrillKeys, Drills},
    error::{Mistake, SettingsErrors},
    levels::{LevelKeys, Levels},
    replica::{
        self, DatabaseKeys, LEASE_DURATION, Names, RETENTION, RETENTION_CHECK_INTERVAL,
        ReplicaType, SNAPSHOT_INTERVAL, SYNC_INTERVAL, Seen, Timing,
    },
    s3,
    section::{Report, Section, similar},
    store::{self, Language, STORES},
    tiers,
};

const DATABASE_KEYS: DatabaseKeys = DatabaseKeys {
    monitor_interval: "monitor_interval",
    stage_limit: "stage_limit",
    checkpoint_interval: "checkpoint_interval",
};

/// Keys of the whole configuration of one database.
const TOP: [&str; 6] = [
    "monitor_interval",
    "checkpoint_interval",
    "stage_limit",
    LEVEL_KEYS.levels,
    LEVEL_KEYS.level_0_retention,
    "replicas",
];

/// Keys of a `[[databases]]` table.
const DATABASE: [&str; 11] = [
    "path",
    "dir",
    "pattern",
    "recursive",
    "watch",
    "monitor_interval",
    "checkpoint_interval",
    "stage_limit",
    LEVEL_KEYS.levels,
    LEVEL_KEYS.level_0_retention,
    "replicas",
];

/// Keys of a replica of any type.
const REPLICA: [&str; 12] = [
    "name",
    "type",
    "sync_interval",
    "snapshot_interval",
    "retention",
    RETENTION_TIERS,
    "retention_check_interval",
    DRILL_KEYS.interval,
    DRILL_KEYS.bandwidth,
    DRILL_KEYS.directory,
    DRILL_KEYS.timeout,
    "lease_duration",
];

const RETENTION_TIERS: &str = "retention_tiers";

const DRILL_KEYS: DrillKeys = DrillKeys {
    interval: "drill_interval",
    bandwidth: "drill_bandwidth",
    directory: "drill_directory",
    timeout: "drill_timeout",
    alone: "it does nothing without `drill_interval`: set that too, or remove it",
};

const LEVEL_KEYS: LevelKeys = LevelKeys {
    levels: "levels",
    level_0_retention: "level_0_retention",
    expected: "a list of levels, each such as `{ interval = \"30s\" }`,",
};

const FILE: [&str; 1] = ["file_path"];

/// The keys of each type of replica.
const OF_TYPE: [(ReplicaType, &[&str]); 8] = [
    (ReplicaType::FILE, &FILE),
    (ReplicaType::S3, &s3::TOML_KEYS),
    (STORES[0].kind, STORES[0].toml_keys),
    (STORES[1].kind, STORES[1].toml_keys),
    (STORES[2].kind, STORES[2].toml_keys),
    (STORES[3].kind, STORES[3].toml_keys),
    (STORES[4].kind, STORES[4].toml_keys),
    (STORES[5].kind, STORES[5].toml_keys),
];

/// Every key that a configuration of this build can have.
#[cfg(test)]
pub(crate) fn keys() -> Vec<&'static str> {
    let of_types = OF_TYPE.map(|(_, keys)| keys);
    [TOP.as_slice(), &REPLICA, &of_types.concat()].concat()
}

const REPLICA_TABLES: &str = "a list of tables, each `[[replicas]]`,";

/// Reads the configuration of one database, whose path the application knows: what is kept in the
/// encrypted store.
///
/// ```
/// let text = "
///     [[replicas]]
///     name = 'local'
///     type = 'file'
///     file_path = '/var/backups/app'
///     retention = '7 days'
///     colour = 'blue'
/// ";
/// let errors = evertide_server::settings::parse_toml(text).unwrap_err();
/// assert_eq!(errors.mistakes().len(), 2);
/// assert!(errors.to_string().starts_with("line 6: replicas[0].retention: `7 days` is not"));
/// ```
///
/// # Errors
///
/// All mistakes at once, each with its key and line.
pub fn parse_toml(text: &str) -> Result<ReplicationOptions, SettingsErrors> {
    parse_for(text, Seen::default())
}

/// As [`parse_toml`], for a database whose path is known: no replica may be in its place.
pub(super) fn parse_toml_of(
    text: &str,
    database: &Path,
) -> Result<ReplicationOptions, SettingsErrors> {
    parse_for(text, Seen::of_application(database))
}

fn parse_for(text: &str, mut seen: Seen) -> Result<ReplicationOptions, SettingsErrors> {
    let mut report = Report::default();
    let table = read(&mut report, text)?;
    let root = Section::root(&table);
    for (key, field) in root.fields() {
        let mistake = match key {
            _ if TOP.contains(&key) => continue,
            "databases" => Mistake::Misplaced(
                "the application passes the path of its database; put `[[replicas]]` at the top, \
                 or give the file to `evertide replicate --config`",
            ),
            "db_path" | "path" => {
                Mistake::Misplaced("the application passes the path of its database: remove it")
            }
            "min_checkpoint_page_count" | "max_checkpoint_page_count" => {
                Mistake::OfGoModuleOnly("use `checkpoint_interval`")
            }
            _ => unknown(key, &TOP),
        };
        report.add(&field.place, mistake);
    }
    let options = database(&mut report, &root, &mut seen);
    seen.check_replicas_are_no_databases(&mut report);
    report.finish(options)
}

/// Reads the file given to `--config`: several databases, each with its path and its replicas.
///
/// # Errors
///
/// All mistakes at once, each with its key and line.
pub fn parse_databases_toml(text: &str) -> Result<Vec<DatabaseSettings>, SettingsErrors> {
    parse_databases(text, &mut Seen::default())
}

pub(super) fn parse_databases(
    text: &str,
    seen: &mut Seen,
) -> Result<Vec<DatabaseSettings>, SettingsErrors> {
    let mut report = Report::default();
    let table = read(&mut report, text)?;
    let root = Section::root(&table);
    let mut misplaced = false;
    for (key, field) in root.fields() {
        if key == "databases" {
            continue;
        }
        misplaced |= DATABASE.contains(&key);
        let mistake = if DATABASE.contains(&key) {
            Mistake::Misplaced(
                "a configuration file lists databases: put it below a `[[databases]]` table, \
                 replicas as `[[databases.replicas]]`",
            )
        } else {
            unknown(key, &["databases"])
        };
        report.add(&field.place, mistake);
    }
    let mut databases = Vec::new();
    match root.get("databases") {
        Some(field) => {
            for section in field.tables(&mut report, DATABASE_TABLES, MISSING_DATABASES) {
                check_database_keys(&mut report, &section);
                if section.has("dir") {
                    let options = database(&mut report, &section, &mut Seen::default());
                    databases.extend(directory::databases(&mut report, &section, &options, seen));
                    continue;
                }
                let path = database_path(&mut report, &section, seen);
                let replication = database(&mut report, &section, seen);
                databases.extend(path.map(|path| DatabaseSettings { path, replication }));
            }
        }
        None if misplaced => {} // and that says it all
        None => report.missing(&root, "databases", MISSING_DATABASES),
    }
    seen.check_replicas_are_no_databases(&mut report);
    report.finish(databases)
}

const DATABASE_TABLES: &str = "a list of tables, each `[[databases]]`,";
const MISSING_DATABASES: &str = "add a `[[databases]]` table with `path` for each database";

fn check_database_keys(report: &mut Report, section: &Section<'_>) {
    for (key, field) in section.fields() {
        let mistake = match key {
            _ if directory::KEYS.contains(&key) && !section.has("dir") => {
                Mistake::Misplaced("it goes with `dir`, and this entry has a `path`")
            }
            _ if DATABASE.contains(&key) => continue,
            _ => unknown(key, &DATABASE),
        };
        report.add(&field.place, mistake);
    }
}

fn database_path(report: &mut Report, section: &Section<'_>, seen: &mut Seen) -> Option<PathBuf> {
    let text = section.required(report, "path", "give the path of the database file")?;
    let path = replica::path_without_tilde(report, &text)?;
    seen.database(report, &path, &text.place);
    Some(path)
}

fn database(report: &mut Report, section: &Section<'_>, seen: &mut Seen) -> ReplicationOptions {
    let mut options = replica::database_options(report, section, &DATABASE_KEYS);
    let levels = Levels::read(report, section, &LEVEL_KEYS);
    let Some(field) = section.get("replicas") else {
        report.missing(section, "replicas", MISSING_REPLICAS);
        return options;
    };
    let mut names = Names::default();
    for table in field.tables(report, REPLICA_TABLES, MISSING_REPLICAS) {
        options
            .replicas
            .extend(read_replica(report, &table, &mut names, seen));
    }
    options
        .replicas
        .iter_mut()
        .for_each(|replica| levels.set(replica));
    options
}

const MISSING_REPLICAS: &str = "add a `[[replicas]]` table for each place to back up to";

fn read_replica(
    report: &mut Report,
    section: &Section<'_>,
    names: &mut Names,
    seen: &mut Seen,
) -> Option<ReplicaOptions> {
    let name = section.required(report, "name", "give the replica a name of its own");
    if let Some(name) = &name {
        names.add(report, name);
    }
    let hint = "say which store it is in, for example \"file\"";
    let kind = section
        .required(report, "type", hint)
        .and_then(|text| ReplicaType::read(report, &text));
    check_keys(report, section, kind);
    let timing = Timing {
        sync_interval: section.duration(report, "sync_interval", &SYNC_INTERVAL),
        snapshot_interval: section.duration(report, "snapshot_interval", &SNAPSHOT_INTERVAL),
        retention: section.duration(report, "retention", &RETENTION),
        retention_check_interval: section.duration(
            report,
            "retention_check_interval",
            &RETENTION_CHECK_INTERVAL,
        ),
        lease_duration: section.duration(report, "lease_duration", &LEASE_DURATION),
    };
    let tiers = tiers::read(report, section, RETENTION_TIERS, None);
    let drills = Drills::read(report, section, &DRILL_KEYS);
    let destination = match kind? {
        ReplicaType::FILE => {
            let hint = "give the directory that the replica is to be in";
            let path = section.required(report, "file_path", hint)?;
            let destination = replica::file_destination(report, &path)?;
            seen.destination(report, &destination, &path.place);
            destination
        }
        ReplicaType::S3 => {
            let (destination, place) = s3::of_toml(report, section)?;
            seen.destination(report, &destination, &place);
            destination
        }
        kind => {
            let (destination, place) = store::of(kind)?.read(report, section, Language::Toml)?;
            seen.destination(report, &destination, &place);
            destination
        }
    };
    let mut replica = timing.replica(name?.value, destination);
    replica.retention_tiers = tiers;
    drills.set(&mut replica);
    Some(replica)
}

fn check_keys(report: &mut Report, section: &Section<'_>, kind: Option<ReplicaType>) {
    for (key, field) in section.fields() {
        let mut owners = OF_TYPE.iter().filter(|(_, keys)| keys.contains(&key));
        let owner = owners.next().map(|(owner, _)| *owner);
        let mistake = match (owner, kind) {
            _ if REPLICA.contains(&key) => continue,
            // The Go module writes those, and passes them over.
            (Some(owner), Some(kind)) if owner != kind && field.says_nothing() => continue,
            (Some(owner), Some(kind)) if owner != kind => Mistake::OfOtherType {
                of: owner.name(),
                is: kind.name().to_owned(),
            },
            (Some(_), _) => continue,
            // The keys of a type without a client are not known either.
            (None, Some(kind))
                if key.starts_with(&format!("{}_", kind.name())) && !has_keys(kind) =>
            {
                continue;
            }
            (None, kind) => {
                let of_types = OF_TYPE
                    .iter()
                    .filter(|(of, _)| kind.is_none_or(|kind| kind == *of));
                let of_types: Vec<_> = of_types.flat_map(|(_, keys)| *keys).copied().collect();
                unknown(key, &[REPLICA.as_slice(), &of_types].concat())
            }
        };
        report.add(&field.place, mistake);
    }
}

fn has_keys(kind: ReplicaType) -> bool {
    OF_TYPE.iter().any(|(of, _)| *of == kind)
}

fn unknown(key: &str, known: &[&'static str]) -> Mistake {
    Mistake::UnknownKey {
        similar: similar(key, known),
        expected: known.to_vec(),
    }
}

/// Reads the text as far as it can be read.
fn read(report: &mut Report, text: &str) -> Result<Table, SettingsErrors> {
    check_size(text.len())?;
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = error.span().map_or(1, |span| lines.of(span.start));
        // Only the message: what Display adds is the line itself, which may hold a secret.
        report.syntax(line, "TOML", error.message().to_owned());
    }
    Ok(convert_table(table.into_inner(), &lines))
}

fn convert_table(table: DeTable<'_>, lines: &Lines) -> Table {
    let entries = table.into_iter().map(|(key, value)| Entry {
        line: lines.of(key.span().start),
        key: key.into_inner().into_owned(),
        node: convert(value, lines),
    });
    entries.collect()
}

fn convert(value: toml::Spanned<DeValue<'_>>, lines: &Lines) -> Node {
    let line = lines.of(value.span().start);
    let value = match value.into_inner() {
        DeValue::String(text) => Value::text(text.into_owned()),
        DeValue::Integer(number) => Value::Number {
            whole: number.as_str().parse().ok(),
        },
        DeValue::Float(_) => Value::Number { whole: None },
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(nodes) => {
            Value::List(nodes.into_iter().map(|node| convert(node, lines)).collect())
        }
        DeValue::Table(table) => Value::Table(convert_table(table, lines)),
    };
    Node { line, value }
}

/// Where each line starts, in bytes.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(end, _)| end + 1).collect())
    }

    fn of(&self, offset: usize) -> usize {
        self.0.partition_point(|&start| start <= offset) + 1
    }
}

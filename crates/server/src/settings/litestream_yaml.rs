//! `litestream.yml`, as far as Evertide has what it asks for. The rest is refused by name, for an
//! option that is accepted and ignored is a promise broken in silence.

use std::path::PathBuf;

use evertide::ReplicationOptions;
use evertide_storage::Destination;

use super::{
    DatabaseSettings, check_size, directory,
    document::{Table, Value},
    drill::{DrillKeys, Drills},
    error::{Mistake, SettingsErrors},
    levels::{LevelKeys, Levels},
    litestream_keys::{LITESTREAM_ONLY, OF_TYPE},
    replica::{
        self, DatabaseKeys, Names, RETENTION, RETENTION_CHECK_INTERVAL, ReplicaType,
        SNAPSHOT_INTERVAL, SYNC_INTERVAL, Seen, Timing,
    },
    s3,
    section::{Field, Report, Section, Variables, similar},
    store::{self, Language},
    tiers, variables, yaml,
};

const DATABASE_KEYS: DatabaseKeys = DatabaseKeys {
    monitor_interval: "monitor-interval",
    stage_limit: "stage-limit",
    checkpoint_interval: "checkpoint-interval",
};

const TOP: [&str; 8] = [
    "access-key-id",
    "secret-access-key",
    "dbs",
    "sync-interval",
    LEVEL_KEYS.levels,
    LEVEL_KEYS.level_0_retention,
    "snapshot",
    "retention",
];
/// `stage-limit` is Evertide's own.
const DATABASE: [&str; 11] = [
    "path",
    "dir",
    "pattern",
    "recursive",
    "watch",
    "replica",
    "replicas",
    "monitor-interval",
    "checkpoint-interval",
    "stage-limit",
    "snapshot",
];
const SNAPSHOT: [&str; 2] = ["interval", "retention"];
const GLOBAL_RETENTION: [&str; 1] = ["enabled"];

/// Of 0.5, the three that 0.3 had for each replica, and Evertide's own.
const REPLICA: [&str; 13] = [
    "type",
    "name",
    "path",
    "url",
    "sync-interval",
    "snapshot-interval",
    "retention",
    RETENTION_TIERS,
    "retention-check-interval",
    DRILL_KEYS.interval,
    DRILL_KEYS.bandwidth,
    DRILL_KEYS.directory,
    DRILL_KEYS.timeout,
];

const RETENTION_TIERS: &str = "retention-tiers";

const DRILL_KEYS: DrillKeys = DrillKeys {
    interval: "drill-interval",
    bandwidth: "drill-bandwidth",
    directory: "drill-directory",
    timeout: "drill-timeout",
    alone: "it does nothing without `drill-interval`: set that too, or remove it",
};

const LEVEL_KEYS: LevelKeys = LevelKeys {
    levels: "levels",
    level_0_retention: "l0-retention",
    expected: "a list of levels, each `- interval: …`,",
};

/// Reads a `litestream.yml`.
///
/// What it does not set has Litestream's defaults: a snapshot every 24 hours, kept for 24 hours.
///
/// # Errors
///
/// All mistakes at once, each with its key and line; of a text that is no YAML, the first.
pub fn parse_litestream_yaml(text: &str) -> Result<Vec<DatabaseSettings>, SettingsErrors> {
    parse(text, Report::default(), &mut Seen::default())
}

/// As [`parse_litestream_yaml`], for those who look for one database.
pub(super) fn parse_stored(
    text: &str,
    seen: &mut Seen,
) -> Result<Vec<DatabaseSettings>, SettingsErrors> {
    parse(text, Report::default(), seen)
}

/// As [`parse_litestream_yaml`], with the variables of the environment replaced.
pub(super) fn parse_file(
    text: &str,
    seen: &mut Seen,
) -> Result<Vec<DatabaseSettings>, SettingsErrors> {
    check_size(text.len())?;
    let text = variables::replaced(text, variables::of_process);
    parse(&text, Report::new(Variables::Replaced), seen)
}

fn parse(
    text: &str,
    mut report: Report,
    seen: &mut Seen,
) -> Result<Vec<DatabaseSettings>, SettingsErrors> {
    check_size(text.len())?;
    let document = match yaml::read(text) {
        Ok(document) => document,
        Err((line, reason)) => {
            report.syntax(line, "YAML", reason);
            return report.finish(Vec::new());
        }
    };
    let empty = Table::new();
    let root = match &document.value {
        Value::Table(table) => Section::root(table),
        Value::Null => Section::root(&empty),
        other => {
            let reason = format!("`dbs:` is expected at the top, not {}", other.kind());
            report.syntax(document.line, "YAML", reason);
            return report.finish(Vec::new());
        }
    };
    for (key, field) in root.fields().filter(|(key, _)| !TOP.contains(key)) {
        let mistake = match types_with(key).first() {
            Some(_) => Mistake::Misplaced("set it in each replica that needs it"),
            None => unknown(key, &TOP),
        };
        report.add(&field.place, mistake);
    }
    let global = global_settings(&mut report, &root);

    let mut databases = Vec::new();
    match root.get("dbs") {
        Some(field) => {
            let dbs = "a list of databases, each `- path: …`,";
            for section in field.tables(&mut report, dbs, MISSING_DATABASES) {
                databases.extend(database(&mut report, &section, &global, seen));
            }
        }
        None => report.missing(&root, "dbs", MISSING_DATABASES),
    }
    seen.check_replicas_are_no_databases(&mut report);
    report.finish(databases)
}

const MISSING_DATABASES: &str = "add an entry with `path` and `replica` for each database";

/// What is said at the top.
struct Global {
    timing: Timing,
    credentials: s3::Credentials,
    levels: Levels,
}

fn global_settings(report: &mut Report, root: &Section<'_>) -> Global {
    Global {
        timing: global_timing(report, root),
        credentials: s3::credentials(report, root, Language::Litestream),
        levels: Levels::read(report, root, &LEVEL_KEYS),
    }
}

/// What holds for every replica that does not say otherwise.
fn global_timing(report: &mut Report, root: &Section<'_>) -> Timing {
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3_600);
    let defaults = Timing {
        snapshot_interval: Some(DAY),
        retention: Some(DAY),
        ..Timing::default()
    };
    let mut given = snapshot_timing(report, root);
    given.sync_interval = root.duration(report, "sync-interval", &SYNC_INTERVAL);
    let retention = root
        .get("retention")
        .and_then(|field| field.table(report, "a table"));
    if let Some(section) = retention {
        only(report, &section, &GLOBAL_RETENTION);
        let enabled = section
            .get("enabled")
            .and_then(|field| field.boolean(report));
        if enabled == Some(false) {
            given.retention = Some(std::time::Duration::ZERO);
        }
    }
    given.or(defaults)
}

/// The table `snapshot`, at the top or of a database.
fn snapshot_timing(report: &mut Report, parent: &Section<'_>) -> Timing {
    let field = parent.get("snapshot");
    let Some(section) = field.and_then(|field| field.table(report, "a table")) else {
        return Timing::default();
    };
    only(report, &section, &SNAPSHOT);
    Timing {
        snapshot_interval: section.duration(report, "interval", &SNAPSHOT_INTERVAL),
        retention: section.duration(report, "retention", &RETENTION),
        ..Timing::default()
    }
}

fn database(
    report: &mut Report,
    section: &Section<'_>,
    global: &Global,
    seen: &mut Seen,
) -> Vec<DatabaseSettings> {
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
    if section.has("dir") {
        let options = database_options(report, section, global, &mut Seen::default());
        return directory::databases(report, section, &options, seen);
    }
    let path = database_path(report, section, seen);
    let replication = database_options(report, section, global, seen);
    let database = path.map(|path| DatabaseSettings { path, replication });
    database.into_iter().collect()
}

fn database_options(
    report: &mut Report,
    section: &Section<'_>,
    global: &Global,
    seen: &mut Seen,
) -> ReplicationOptions {
    let mut replication = replica::database_options(report, section, &DATABASE_KEYS);
    let timing = snapshot_timing(report, section).or(global.timing);
    let replicas: Vec<_> = replicas(report, section)
        .into_iter()
        .map(|replica| (replica_type(report, &replica), replica))
        .collect();
    let names = names(report, &replicas);
    for ((kind, section), name) in replicas.iter().zip(names) {
        let tiers = tiers::read(report, section, RETENTION_TIERS, timing.retention);
        let drills = Drills::read(report, section, &DRILL_KEYS);
        let read = read_replica(report, section, *kind, timing, &global.credentials, seen);
        if let (Some((timing, destination)), Some(name)) = (read, name) {
            let mut replica = timing.replica(&name, destination);
            replica.retention_tiers = tiers;
            drills.set(&mut replica);
            global.levels.set(&mut replica);
            replication.replicas.push(replica);
        }
    }
    replication
}

fn database_path(report: &mut Report, section: &Section<'_>, seen: &mut Seen) -> Option<PathBuf> {
    let mut text = section.required(report, "path", "give the path of the database file")?;
    for prefix in ["sqlite://", "sqlite3://"] {
        text.value = text.value.strip_prefix(prefix).unwrap_or(text.value);
    }
    let path = replica::path_without_tilde(report, &text)?;
    seen.database(report, &path, &text.place);
    Some(path)
}

/// The one `replica`, or the list `replicas`.
fn replicas<'n>(report: &mut Report, section: &Section<'n>) -> Vec<Section<'n>> {
    const REPLICA_TABLE: &str = "a table with `path` or `url`";
    match (section.get("replica"), section.get("replicas")) {
        (Some(one), None) => one.table(report, REPLICA_TABLE).into_iter().collect(),
        (None, Some(list)) => list.tables(report, REPLICA_TABLE, MISSING_REPLICA),
        (Some(one), Some(_)) => {
            report.add(&one.place, Mistake::Together("replicas"));
            Vec::new()
        }
        (None, None) => {
            report.missing(section, "replica", MISSING_REPLICA);
            Vec::new()
        }
    }
}

const MISSING_REPLICA: &str = "say where to back up to, with `path` or `url`";

fn read_replica(
    report: &mut Report,
    section: &Section<'_>,
    kind: Option<ReplicaType>,
    above: Timing,
    credentials: &s3::Credentials,
    seen: &mut Seen,
) -> Option<(Timing, Destination)> {
    for (key, field) in section.fields().filter(|(key, _)| !REPLICA.contains(key)) {
        let owners = types_with(key);
        let mistake = match (owners.first(), kind) {
            (Some(_), Some(kind)) if owners.contains(&kind.name()) && !is_read(kind, key) => {
                Mistake::OfLitestreamOnly("remove it")
            }
            (Some(_), Some(kind)) if owners.contains(&kind.name()) => continue,
            (Some(owner), Some(kind)) => Mistake::OfOtherType {
                of: owner,
                is: kind.name().to_owned(),
            },
            (Some(_), None) => continue,
            (None, _) => unknown(key, &REPLICA),
        };
        report.add(&field.place, mistake);
    }
    let timing = Timing {
        sync_interval: section.duration(report, "sync-interval", &SYNC_INTERVAL),
        snapshot_interval: section.duration(report, "snapshot-interval", &SNAPSHOT_INTERVAL),
        retention: section.duration(report, "retention", &RETENTION),
        retention_check_interval: section.duration(
            report,
            "retention-check-interval",
            &RETENTION_CHECK_INTERVAL,
        ),
        lease_duration: None, // Litestream has none
    };
    let destination = match kind? {
        ReplicaType::FILE => file_destination(report, section, seen)?,
        ReplicaType::S3 => s3::of_litestream(report, section, credentials, seen)?,
        kind => {
            let (destination, place) =
                store::of(kind)?.read(report, section, Language::Litestream)?;
            let destination = store::with_key(destination, credentials);
            seen.destination(report, &destination, &place);
            destination
        }
    };
    Some((timing.or(above), destination))
}

/// Whether this key of Litestream's means something here.
fn is_read(kind: ReplicaType, key: &str) -> bool {
    match kind {
        ReplicaType::S3 => s3::reads(key),
        _ => store::of(kind).is_none_or(|store| store.reads(key)),
    }
}

/// The names of all replicas of a database, `None` where one cannot be read. Those without get
/// one that none of the others has.
fn names(
    report: &mut Report,
    replicas: &[(Option<ReplicaType>, Section<'_>)],
) -> Vec<Option<String>> {
    let mut names = Names::default();
    let mut read = Vec::new();
    for (_, section) in replicas {
        let text = given_name(section).and_then(|field| field.text(report));
        if let Some(text) = &text {
            names.add(report, text);
        }
        read.push(text.map(|text| text.value.to_owned()));
    }
    for (name, (kind, section)) in read.iter_mut().zip(replicas) {
        if given_name(section).is_none() {
            *name = Some(names.invent(kind.unwrap_or(ReplicaType::FILE), &section.place));
        }
    }
    read
}

fn given_name<'n>(section: &Section<'n>) -> Option<Field<'n>> {
    section.get("name").filter(|name| !name.is_empty())
}

/// The type, which is that of the URL, or the one given, or else a directory.
fn replica_type(report: &mut Report, section: &Section<'_>) -> Option<ReplicaType> {
    let url = section
        .get("url")
        .filter(|url| !url.is_empty())
        .and_then(|url| url.text(report));
    if let Some(mut url) = url {
        let scheme = url
            .value
            .split_once("://")
            .map_or("file", |(scheme, _)| scheme);
        url.value = if scheme == "webdavs" {
            "webdav"
        } else {
            scheme
        };
        return ReplicaType::read(report, &url);
    }
    match section.get("type").filter(|kind| !kind.is_empty()) {
        Some(field) => {
            let text = field.text(report)?;
            ReplicaType::read(report, &text)
        }
        None => Some(ReplicaType::FILE),
    }
}

fn file_destination(
    report: &mut Report,
    section: &Section<'_>,
    seen: &mut Seen,
) -> Option<Destination> {
    let given = |key| {
        section
            .get(key)
            .filter(|field: &Field<'_>| !field.is_empty())
    };
    let (text, destination) = match (given("path"), given("url")) {
        (Some(path), Some(_)) => {
            report.add(&path.place, Mistake::Together("url"));
            return None;
        }
        (Some(path), None) => {
            let text = path.text(report)?;
            if text.value.contains("://") {
                report.add(
                    &text.place,
                    Mistake::BadDestination("is a URL: use `url`".to_owned()),
                );
                return None;
            }
            let destination = replica::file_destination(report, &text)?;
            (text, destination)
        }
        (None, Some(url)) => {
            let text = url.text(report)?;
            let destination = replica::url_destination(report, &text)?;
            (text, destination)
        }
        (None, None) => {
            report.missing(section, "path", MISSING_REPLICA);
            return None;
        }
    };
    seen.destination(report, &destination, &text.place);
    Some(destination)
}

/// The types of replica that have this key and others have not.
fn types_with(key: &str) -> Vec<&'static str> {
    let types = OF_TYPE.iter().filter(|(_, keys)| keys.contains(&key));
    types.map(|(kind, _)| *kind).collect()
}

fn only(report: &mut Report, section: &Section<'_>, known: &[&'static str]) {
    for (key, field) in section.fields().filter(|(key, _)| !known.contains(key)) {
        report.add(&field.place, unknown(key, known));
    }
}

fn unknown(key: &str, known: &[&'static str]) -> Mistake {
    match LITESTREAM_ONLY.iter().find(|(name, _)| *name == key) {
        Some((_, advice)) => Mistake::OfLitestreamOnly(advice),
        None => Mistake::UnknownKey {
            similar: similar(key, known),
            expected: known.to_vec(),
        },
    }
}

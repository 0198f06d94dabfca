//! The file given to `--config`.

use std::path::Path;

use evertide_server::settings::parse_databases_toml;

use crate::{HOUR, SECOND, assert_mistake, directory, mistakes};

const TWO: &str = r#"
[[databases]]
path = "/data/app.db"
checkpoint_interval = "5m"

[[databases.replicas]]
name = "local"
type = "file"
file_path = "/backup/app"

[[databases]]
path = "/data/logs.db"

[[databases.replicas]]
name = "local"
type = "file"
file_path = "/backup/logs"

[[databases.replicas]]
name = "second"
type = "file"
file_path = "/backup/logs-2"
snapshot_interval = "1h"
"#;

#[test]
fn every_database_has_its_own_replicas_and_intervals() {
    let databases = parse_databases_toml(TWO).unwrap();
    let [app, logs] = databases.as_slice() else {
        panic!("{databases:?}")
    };
    assert_eq!(app.path, Path::new("/data/app.db"));
    assert_eq!(app.replication.checkpoint_interval, 300 * SECOND);
    assert_eq!(app.replication.replicas.len(), 1);
    assert_eq!(logs.replication.checkpoint_interval, 60 * SECOND);
    let [first, second] = logs.replication.replicas.as_slice() else {
        panic!("{logs:?}")
    };
    assert_eq!(directory(first), Path::new("/backup/logs"));
    assert_eq!(second.snapshot_interval, HOUR);
}

#[test]
fn one_database_listed_twice_is_refused_however_its_path_is_written() {
    let text = TWO.replace("/data/logs.db", "/data/./app.db");
    assert_mistake(
        parse_databases_toml(&text),
        "line 12: databases[1].path: is the same file as databases[0].path in line 3",
    );
    let here = std::env::current_dir().unwrap();
    let text = TWO
        .replace("/data/app.db", "app.db")
        .replace("/data/logs.db", here.join("app.db").to_str().unwrap());
    assert_mistake(
        parse_databases_toml(&text),
        "line 12: databases[1].path: is the same file",
    );
}

#[test]
fn replicas_of_two_databases_in_one_directory_are_refused() {
    let text = TWO.replace("/backup/logs-2", "/backup/app");
    assert_mistake(
        parse_databases_toml(&text),
        "line 22: databases[1].replicas[1].file_path: is the same destination as \
         databases[0].replicas[0].file_path in line 9",
    );
}

#[test]
fn a_replica_in_place_of_a_database_is_refused() {
    let text = TWO.replace("/backup/logs-2", "/data/app.db");
    assert_mistake(
        parse_databases_toml(&text),
        "line 22: databases[1].replicas[1].file_path: is the database itself",
    );
}

#[test]
fn the_other_form_is_recognised() {
    let text = "monitor_interval = '1s'\n[[replicas]]\nname = 'a'\ntype = 'file'\nfile_path = '/a'";
    let mistakes = mistakes(parse_databases_toml(text));
    assert_eq!(mistakes.len(), 2, "{mistakes:#?}");
    assert!(mistakes[0].starts_with("line 1: monitor_interval: does not belong here"));
    assert!(mistakes[1].starts_with("line 2: replicas: does not belong here"));
}

#[test]
fn what_is_missing_is_named() {
    assert_mistake(parse_databases_toml(""), "line 1: databases: is missing");
    assert_mistake(
        parse_databases_toml("databases = []"),
        "line 1: databases: is empty",
    );
    assert_mistake(
        parse_databases_toml("[databases]"),
        "line 1: databases: a list of tables",
    );
    let mistakes = mistakes(parse_databases_toml("[[databases]]\nname = 'x'\n"));
    assert_eq!(mistakes.len(), 3, "{mistakes:#?}");
    assert!(mistakes[0].starts_with("line 1: databases[0].path: is missing"));
    assert!(mistakes[1].starts_with("line 1: databases[0].replicas: is missing"));
    assert!(mistakes[2].starts_with("line 2: databases[0].name: unknown key"));
}

//! Databases that are found in a directory, and variables of the environment.
#![allow(clippy::disallowed_methods, reason = "tests make files as others do")]

use std::{fs, path::Path};

use evertide_server::settings::{
    DatabaseSettings, SettingsErrors, parse_config_file, parse_databases_toml, parse_fleet_file,
    parse_litestream_yaml,
};
use evertide_vault::ConfigFormat;
use tempfile::TempDir;

use super::{assert_mistake, mistakes};

/// A directory with three databases, and other files.
fn tenants() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("eu/old")).unwrap();
    for name in ["a.db", "eu/b.db", "eu/old/c.db", "a.db-wal", "notes.txt"] {
        fs::write(dir.path().join(name), [0; 512]).unwrap();
    }
    dir
}

fn listed(databases: &[DatabaseSettings], dir: &Path) -> Vec<(String, Vec<String>)> {
    let entry = |database: &DatabaseSettings| {
        let path = database.path.strip_prefix(dir).unwrap().display();
        let replicas = &database.replication.replicas;
        let to = replicas
            .iter()
            .map(|replica| replica.destination.to_string());
        (path.to_string(), to.collect())
    };
    databases.iter().map(entry).collect()
}

fn yaml(dir: &Path, more: &str) -> String {
    format!(
        "dbs:\n- dir: {}\n  pattern: '*.db'\n{more}  replica:\n    path: /backup\n",
        dir.display()
    )
}

#[test]
fn every_database_of_a_directory_gets_a_replica_of_its_own_in_both_languages() {
    let tenants = tenants();
    let dir = tenants.path();
    let toml = format!(
        "[[databases]]\ndir = '{}'\npattern = '*.db'\nrecursive = true\n[[databases.replicas]]\n\
         name = 'local'\ntype = 'file'\nfile_path = '/backup'\nsync_interval = '7s'",
        dir.display()
    );
    let mut of_yaml = parse_litestream_yaml(&yaml(dir, "  recursive: true\n")).unwrap();
    let of_toml = parse_databases_toml(&toml).unwrap();
    let expected = ["a.db", "eu/b.db", "eu/old/c.db"]
        .map(|name| (name.to_owned(), vec![format!("file:///backup/{name}")]));
    assert_eq!(listed(&of_yaml, dir), expected);
    assert_eq!(listed(&of_toml, dir), expected);
    for database in &of_toml {
        assert_eq!(database.replication.replicas[0].sync_interval.as_secs(), 7);
    }
    of_yaml = parse_litestream_yaml(&yaml(dir, "")).unwrap();
    assert_eq!(listed(&of_yaml, dir), expected[..1]);
}

#[test]
fn a_watched_directory_may_be_empty_and_is_looked_through_anew() {
    let dir = tempfile::tempdir().unwrap();
    let text = yaml(dir.path(), "  watch: true\n  recursive: true\n");
    assert!(parse_litestream_yaml(&text).unwrap().is_empty());
    let fleet = parse_fleet_file(text.as_bytes(), &ConfigFormat::Yaml).unwrap();
    assert!(fleet.databases.is_empty());
    let [watched] = &fleet.watched[..] else {
        panic!("{fleet:?}")
    };
    let look = || {
        let content = watched.look().unwrap();
        let databases = listed(&content.databases, dir.path()).into_iter();
        let names: Vec<_> = databases.map(|(name, _)| name).collect();
        (names, content.directories.len(), content.unfinished)
    };
    assert_eq!(look(), (vec![], 1, false));
    fs::create_dir(dir.path().join("eu")).unwrap();
    let header = [&b"SQLite format 3\0"[..], &[0; 496]].concat();
    fs::write(dir.path().join("eu/b.db"), header).unwrap();
    fs::write(dir.path().join("empty.db"), "").unwrap();
    assert_eq!(look(), (vec!["eu/b.db".to_owned()], 2, true));
    fs::write(dir.path().join("empty.db"), [1; 512]).unwrap();
    assert_eq!(look(), (vec!["eu/b.db".to_owned()], 2, true));
    fs::remove_file(dir.path().join("empty.db")).unwrap();
    assert_eq!(look(), (vec!["eu/b.db".to_owned()], 2, false));
    let content = watched.look().unwrap();
    let expected = [(
        "eu/b.db".to_owned(),
        vec!["file:///backup/eu/b.db".to_owned()],
    )];
    assert_eq!(listed(&content.databases, dir.path()), expected);
}

#[test]
fn directories_below_a_watched_one_are_left_alone_unless_it_is_recursive() {
    let tenants = tenants();
    let dir = tenants.path();
    let header = [&b"SQLite format 3\0"[..], &[0; 496]].concat();
    for name in ["a.db", "eu/b.db", "eu/old/c.db"] {
        fs::write(dir.join(name), &header).unwrap();
    }
    for (more, expected, directories) in [
        ("", &["a.db"][..], 1),
        ("  recursive: false\n", &["a.db"], 1),
        (
            "  recursive: true\n",
            &["a.db", "eu/b.db", "eu/old/c.db"],
            3,
        ),
    ] {
        let text = yaml(dir, &format!("  watch: true\n{more}"));
        let fleet = parse_fleet_file(text.as_bytes(), &ConfigFormat::Yaml).unwrap();
        let [watched] = &fleet.watched[..] else {
            panic!("{fleet:?}")
        };
        let content = watched.look().unwrap();
        let names = listed(&content.databases, dir).into_iter();
        let names: Vec<String> = names.map(|(name, _)| name).collect();
        assert_eq!(names, expected, "{more:?}");
        assert_eq!(content.directories.len(), directories, "{more:?}");
    }
}

#[test]
fn what_is_wrong_with_a_directory_is_said_with_its_line() {
    let tenants = tenants();
    let dir = tenants.path();
    let of = |text: &str| -> Result<_, SettingsErrors> { parse_litestream_yaml(text) };
    let one = |text: &str, mistake: &str| {
        let found = mistakes(of(text));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with(mistake), "{found:#?}");
    };
    one(
        &yaml(dir, "  watch: often\n"),
        "line 4: dbs[0].watch: true or false is expected here",
    );
    one(
        &yaml(&dir.join("missing"), "  watch: true\n"),
        "line 2: dbs[0].dir: cannot look for databases in",
    );
    one(
        &yaml(dir, "").replace("*.db", "[a"),
        "line 3: dbs[0].pattern: is no pattern",
    );
    one(
        &yaml(dir, "").replace("*.db", "*.sqlite"),
        "line 2: dbs[0].dir: no database in",
    );
    one(
        &yaml(&dir.join("missing"), ""),
        "line 2: dbs[0].dir: cannot look for databases in",
    );
    one(
        &yaml(dir, "  path: /a.db\n"),
        "line 4: dbs[0].path: cannot be given together with `dir`",
    );
    one(
        &yaml(dir, "").replace("dir: ", "path: "),
        "line 3: dbs[0].pattern: does not belong here: it goes with `dir`",
    );
    one(
        &yaml(dir, "").replace("  pattern: '*.db'\n", ""),
        "line 2: dbs[0].pattern: is missing",
    );
    let twice = format!(
        "{}- path: {}\n  replica: {{path: /other}}\n",
        yaml(dir, ""),
        dir.join("a.db").display()
    );
    one(
        &twice,
        "line 6: dbs[1].path: is the same file as dbs[0].dir",
    );
    let same = format!(
        "{}- path: /x.db\n  replica: {{path: /backup/a.db}}\n",
        yaml(dir, "")
    );
    one(
        &same,
        "line 7: dbs[1].replica.path: is the same destination as",
    );
}

#[test]
fn variables_are_replaced_in_a_file_and_nowhere_else() {
    // Always set where tests run.
    let value = std::env::var("PATH").unwrap();
    let text = "dbs: [{path: '/data/${PATH}', replica: {path: '/backup/$PID/x'}}]";
    let parsed = parse_config_file(text.as_bytes(), &ConfigFormat::Yaml).unwrap();
    assert_eq!(parsed[0].path, Path::new(&format!("/data/{value}")));
    let expected = format!("file:///backup/{}/x", std::process::id());
    let replica = &parsed[0].replication.replicas[0];
    assert_eq!(replica.destination.to_string(), expected);

    let kept = mistakes(parse_litestream_yaml(text));
    let start =
        "line 1: dbs[0].path: the value holds the variable `${PATH}`, and variables are not";
    assert!(kept.len() == 2 && kept[0].starts_with(start), "{kept:#?}");
    let unset = "# $EVERTIDE_COMMENT may be anything\ndbs:\n- path: /a$EVERTIDE_NOT_SET\n  \
                 replica: {path: /b}";
    assert_mistake(
        parse_config_file(unset.as_bytes(), &ConfigFormat::Yaml),
        "line 3: dbs[0].path: the value holds the variable `$EVERTIDE_NOT_SET`, which is not set",
    );
}

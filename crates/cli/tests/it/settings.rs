//! `generate-blueprint-config`, `insert-config`, `config`

use std::{fs, os::unix::fs::PermissionsExt};

use rusqlite::Connection;
use serde_json::json;

use super::support::{Workplace, bytes};

const STORE: [&str; 4] = ["--age-key", "age.key", "--db", "app.db"];

fn config<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["config", command], &STORE[..], more].concat()
}

fn insert<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["insert-config"], &STORE[..], more].concat()
}

#[test]
fn the_blueprint_is_accepted_after_only_its_placeholder_is_filled_in() {
    let place = Workplace::new();
    let run = place.run(&["generate-blueprint-config"]);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    assert!(run.out.contains("litestream.blueprint.toml"), "{run:?}");
    let name = "litestream.blueprint.toml";
    let blueprint = place.read(name);
    assert_eq!(
        blueprint,
        place.ok(&["generate-blueprint-config", "-o", "-"])
    );
    let mode = fs::metadata(place.path(name)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600, "it will hold credentials");
    place.ok(&["keygen"]);
    // As it is, it is refused.
    place
        .run(&insert(&["--file", name]))
        .failed(1, &[name, "file_path"]);
    assert!(!place.exists("app.db"));
    let start = blueprint.find("\nfile_path = \"<").unwrap() + 14;
    let end = start + blueprint[start..].find('>').unwrap() + 1;
    let filled = format!("{}/backup/app{}", &blueprint[..start], &blueprint[end..]);
    place.write(name, &filled);
    let said = place.ok(&insert(&["--file", name]));
    assert!(said.contains("replica local: file:///backup/app"), "{said}");
    assert_eq!(place.ok(&config("dump", &[])), filled);
}

#[test]
fn a_blueprint_never_overwrites_a_file() {
    let place = Workplace::new();
    place.write("mine.toml", "precious");
    let run = place.run(&["generate-blueprint-config", "-o", "mine.toml"]);
    run.failed(1, &["mine.toml", "exists", "another name"]);
    assert_eq!(place.read("mine.toml"), "precious");
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_lines_and_nothing_is_stored() {
    let place = Workplace::new();
    place.ok(&["keygen"]);
    place.write(
        "settings.toml",
        "monitor_interval = \"soon\"\n[[replicas]]\nname = \"a\"\ntype = \"file\"\n\
         file_path = \"$HOME/backup\"\ncolour = \"blue\"\n[[replicas]]\nname = \"a\"\n\
         type = \"s3\"\ns3_secret_access_key = \"hunter2\"\n",
    );
    let run = place.run(&insert(&["--file", "settings.toml"]));
    run.failed(
        1,
        &[
            "settings.toml",
            "mistakes",
            "line 1",
            "line 5",
            "line 6",
            "line 7",
            "line 8",
        ],
    );
    assert!(!run.err.contains("hunter2"), "{run:?}");
    assert!(!place.exists("app.db"));
}

#[test]
fn what_cannot_be_inserted_says_why_and_stores_nothing() {
    let place = Workplace::new();
    place.write("settings.toml", &place.settings(&["a"]));
    place
        .run(&insert(&["--file", "settings.toml"]))
        .failed(1, &["age.key", "keygen"]);
    place.ok(&["keygen"]);
    place
        .run(&insert(&["--file", "missing.toml"]))
        .failed(1, &["missing.toml", "No such file"]);
    place.write("empty.toml", " \n");
    place
        .run(&insert(&["--file", "empty.toml"]))
        .failed(1, &["empty.toml", "empty"]);
    place.write("settings.ini", "x");
    place
        .run(&insert(&["--file", "settings.ini"]))
        .failed(2, &["ini", "--format toml"]);
    place.write("broken.toml", "[[replicas");
    place
        .run(&insert(&["--file", "broken.toml"]))
        .failed(1, &["broken.toml", "TOML"]);
    place.write("binary.toml", "x");
    fs::write(place.path("binary.toml"), [0xff, 0xfe, 0]).unwrap();
    place
        .run(&insert(&["--file", "binary.toml"]))
        .failed(1, &["binary.toml"]);
    place
        .run(&insert(&["--file", "settings.toml", "--scope", " "]))
        .failed(2, &["--scope"]);
    fs::set_permissions(place.path("age.key"), fs::Permissions::from_mode(0o644)).unwrap();
    place
        .run(&insert(&["--file", "settings.toml"]))
        .failed(1, &["age.key", "chmod"]);
    assert!(!place.exists("app.db"), "{:?}", place.names());
}

#[test]
fn an_insert_says_what_it_stored_and_the_content_is_encrypted() {
    let place = Workplace::new();
    let settings = place.settings(&["one", "two"]);
    place.ok(&["keygen"]);
    place.write("settings.toml", &settings);
    let said = place.ok(&insert(&["--file", "settings.toml", "--desc", "the first"]));
    for text in [
        "generation 0",
        "scope litestream",
        "app.db",
        "1 version",
        "replica one",
        "replica two",
        "age1",
    ] {
        assert!(said.contains(text), "`{text}` is not said: {said}");
    }
    assert!(place.insert().contains("2 versions"));
    let database = Connection::open(place.path("app.db")).unwrap();
    let mut stored = database
        .prepare("SELECT content, format, description FROM app_config")
        .unwrap();
    let rows = stored
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    let rows: Vec<(Vec<u8>, String, Option<String>)> = rows.map(Result::unwrap).collect();
    assert_eq!(rows.len(), 2);
    for (content, format, _) in &rows {
        assert!(
            content.starts_with(b"age-encryption.org/v1"),
            "not encrypted"
        );
        assert_eq!(format, "toml");
    }
    assert_eq!(rows[0].2.as_deref(), Some("the first"));
}

#[test]
fn a_litestream_yml_is_stored_as_yaml() {
    let place = Workplace::new();
    place.ok(&["keygen"]);
    let database = place.path("app.db");
    let replica = place.path("replica");
    let yaml = format!(
        "dbs:\n  - path: {}\n    replica:\n      type: file\n      path: {}\n",
        database.display(),
        replica.display()
    );
    place.write("litestream.yml", &yaml);
    let said = place.ok(&insert(&["--file", "litestream.yml"]));
    assert!(said.contains("yaml"), "{said}");
    let versions = place.json(&config("list", &["--json"]));
    assert_eq!(versions[0]["format"], "yaml");
    place.write("as-text", &yaml);
    place.ok(&insert(&["--file", "as-text", "--format", "yaml"]));
    place
        .run(&insert(&["--file", "as-text", "--format", "toml"]))
        .failed(1, &["as-text"]);
}

#[test]
fn settings_of_other_programs_are_stored_as_they_are() {
    let place = Workplace::new();
    place.ok(&["keygen"]);
    place.write("app.toml", "anything = \"goes\"\n");
    place.ok(&insert(&["--file", "app.toml", "--scope", "application"]));
    let dump = place.ok(&config("dump", &["--scope", "application"]));
    assert_eq!(dump, "anything = \"goes\"\n");
}

/// Three versions, of one, two and three replicas.
fn three_versions(place: &Workplace) -> [String; 3] {
    place.ok(&["keygen"]);
    let versions = [
        place.settings(&["one"]),
        place.settings(&["one", "two"]),
        place.settings(&["one", "two", "three"]),
    ];
    for version in &versions {
        place.write("settings.toml", version);
        place.insert();
    }
    versions
}

#[test]
fn versions_are_listed_newest_first_and_any_of_them_can_be_printed() {
    let place = Workplace::new();
    let versions = three_versions(&place);
    let listed = place.json(&config("list", &["--json"]));
    let generations: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|version| version["generation"].clone())
        .collect();
    assert_eq!(generations, [json!(0), json!(1), json!(2)]);
    for (generation, version) in versions.iter().rev().enumerate() {
        let dump = place.ok(&config("dump", &["--generation", &generation.to_string()]));
        assert_eq!(&dump, version);
    }
    let table = place.ok(&config("list", &[]));
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.starts_with("GENERATION"), "{table}");
    let scopes = place.json(&config("scopes", &["--json"]));
    assert_eq!(scopes[0]["scope"], "litestream");
    assert_eq!(scopes[0]["versions"], 3);
    assert_eq!(scopes[0]["newest"]["generation"], 0);
    assert_eq!(place.ok(&config("scopes", &[])).lines().count(), 2);
}

#[test]
fn a_difference_is_shown_line_by_line() {
    let place = Workplace::new();
    three_versions(&place);
    let diff = place.ok(&config("diff", &[]));
    assert!(diff.starts_with("--- litestream generation 1\t"), "{diff}");
    assert!(diff.contains("\n+++ litestream generation 0\t"), "{diff}");
    assert!(diff.contains("\n+name = \"three\"\n"), "{diff}");
    assert!(!diff.contains("\n-name"), "{diff}");
    let backwards = place.ok(&config("diff", &["--generation", "0", "--to", "2"]));
    assert!(backwards.contains("\n-name = \"two\"\n"), "{backwards}");
    assert_eq!(
        place.ok(&config("diff", &["--generation", "1", "--to", "1"])),
        ""
    );
}

#[test]
fn a_rollback_stores_the_older_version_as_the_newest() {
    let place = Workplace::new();
    let versions = three_versions(&place);
    let said = place.ok(&config("rollback", &["--generation", "2"]));
    assert!(
        said.contains("generation 2") && said.contains("4 versions"),
        "{said}"
    );
    assert_eq!(place.ok(&config("dump", &[])), versions[0]);
    assert_eq!(
        place.ok(&config("dump", &["--generation", "1"])),
        versions[2]
    );
    place
        .run(&config("rollback", &["--generation", "9"]))
        .failed(1, &["9", "4"]);
    place
        .run(&config("rollback", &["--generation", "0"]))
        .failed(2, &["newest"]);
}

#[test]
fn exported_settings_are_encrypted_and_serve_on_another_machine() {
    let place = Workplace::new();
    place.store(&place.settings(&["replica"]));
    let said = place.ok(&config("export", &["-o", "settings.age"]));
    assert!(said.contains("settings.age"), "{said}");
    assert!(bytes(&place.path("settings.age")).starts_with(b"age-encryption.org/v1"));
    let mode = fs::metadata(place.path("settings.age"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
    place
        .run(&config("export", &["-o", "settings.age"]))
        .failed(1, &["settings.age", "exists"]);
    fs::remove_file(place.path("app.db")).unwrap();

    let _database = place.database("new.db", 5);
    let settings = ["--config", "settings.age", "--age-key", "age.key"];
    let replicate = [&["replicate", "--once"], &settings[..]].concat();
    place
        .run(&replicate)
        .failed(2, &["settings.age", "name no database"]);
    place.ok(&[&replicate[..], &["new.db"]].concat());
    place.ok(&[&["restore", "-o", "out.db"], &settings[..]].concat());
    assert_eq!(place.rows("out.db"), 5);
    let listed = place.json(&[&["ltx", "--json"], &settings[..]].concat());
    assert_eq!(listed.as_array().unwrap().len(), 2);

    place
        .run(&["ltx", "--config", "settings.age"])
        .failed(1, &["encrypted", "--age-key"]);
    let plain = ["ltx", "--config", "settings.toml", "--age-key", "age.key"];
    place
        .run(&plain)
        .failed(1, &["settings.toml", "not encrypted"]);
    place.ok(&["keygen", "-o", "other.key"]);
    let wrong = ["ltx", "--config", "settings.age", "--age-key", "other.key"];
    place.run(&wrong).failed(1, &["settings.age", "other.key"]);
}

#[test]
fn after_a_new_key_the_newest_settings_of_every_scope_open_with_it_alone() {
    let place = Workplace::new();
    let [.., newest] = three_versions(&place);
    place.write("app.toml", "x = 1\n");
    place.ok(&insert(&["--file", "app.toml", "--scope", "application"]));
    place.ok(&["keygen", "-o", "new.key"]);
    let both = place.read("new.key") + &place.read("age.key");
    place.write("both.key", &both);
    fs::set_permissions(place.path("both.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let said = place.ok(&["config", "rekey", "--age-key", "both.key", "--db", "app.db"]);
    assert!(
        said.contains("litestream") && said.contains("application"),
        "{said}"
    );
    let dump = ["config", "dump", "--age-key", "new.key", "--db", "app.db"];
    assert_eq!(place.ok(&dump), newest);
    let older = [&dump[..], &["--generation", "1"]].concat();
    place.run(&older).failed(1, &["new.key"]);
}

#[test]
fn one_scope_alone_is_listed_and_encrypted_again_where_it_is_asked_for() {
    let place = Workplace::new();
    three_versions(&place);
    place.write("app.toml", "x = 1\n");
    place.ok(&insert(&["--file", "app.toml", "--scope", "application"]));
    let names = |scope: &[&str]| {
        let scopes = place.json(&[&config("scopes", scope)[..], &["--json"]].concat());
        let scopes = scopes.as_array().unwrap().clone();
        let names = scopes.iter().map(|scope| scope["scope"].to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["\"application\"", "\"litestream\""]);
    assert_eq!(names(&["--scope", "application"]), ["\"application\""]);
    assert_eq!(names(&["--scope", "other"]), [] as [&str; 0]);
    let said = place.ok(&config("rekey", &["--scope", "application"]));
    assert!(
        said.contains("application") && !said.contains("litestream"),
        "{said}"
    );
    let versions = |scope| {
        let list = config("list", &["--scope", scope, "--json"]);
        place.json(&list).as_array().unwrap().len()
    };
    assert_eq!((versions("application"), versions("litestream")), (2, 3));
    place
        .run(&config("rekey", &["--scope", "other"]))
        .failed(1, &["other", "litestream"]);
}

#[test]
fn what_cannot_be_read_from_the_store_says_why() {
    let place = Workplace::new();
    place.ok(&["keygen"]);
    for command in ["scopes", "list", "dump", "diff", "rollback", "rekey"] {
        place
            .run(&config(command, &[]))
            .failed(1, &["app.db", "no database"]);
    }
    assert!(!place.exists("app.db"));
    drop(place.database("app.db", 1));
    place
        .run(&config("dump", &[]))
        .failed(1, &["app.db", "app_config", "insert-config"]);
    place.write("settings.toml", &place.settings(&["one"]));
    place.insert();
    place
        .run(&config("dump", &["--scope", "other"]))
        .failed(1, &["other", "litestream"]);
    place
        .run(&config("dump", &["--generation", "1"]))
        .failed(1, &["generation 1"]);
    place.run(&config("diff", &[])).failed(1, &["generation 1"]);
    place.ok(&["keygen", "-o", "other.key"]);
    let wrong = ["config", "dump", "--age-key", "other.key", "--db", "app.db"];
    place.run(&wrong).failed(1, &["other.key", "another key"]);
    place.write(
        "text.db",
        "this is not a database, but it is long enough to be looked at",
    );
    let no_database = [
        "config",
        "scopes",
        "--age-key",
        "age.key",
        "--db",
        "text.db",
    ];
    place
        .run(&no_database)
        .failed(1, &["text.db", "not a SQLite database"]);
}
